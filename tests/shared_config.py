"""The ``Config`` of the brokers that many tests share, for ``BROKER_CONFIG``."""

from broker_api.config import Config


def config() -> Config:
    """Return the default one without its quota, since the tests together bind one instance more than 50 times."""
    made = Config(None, None)
    made.broker["plans"][0]["max_bindings"] = "none"
    return made
