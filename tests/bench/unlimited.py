"""The default ``Config`` without a quota: the benchmark makes all its bindings on one instance."""

from broker_api.config import Config


def config() -> Config:
    made = Config(None, None)
    made.broker["plans"][0]["max_bindings"] = "none"
    return made
