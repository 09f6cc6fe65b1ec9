"""An operator's module with a mistake in it."""

from broker_api.config import Config


def config() -> Config:
    raise KeyError("wr0ng")


def leaves() -> Config:
    raise SystemExit(3)


def endless() -> Config:
    made = Config(None, None)
    made.broker["metadata"] = made.broker
    return made
