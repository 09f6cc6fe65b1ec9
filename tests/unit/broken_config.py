"""An operator's module with a mistake in it."""

from broker_api.config import Config


def config() -> Config:
    raise KeyError("wr0ng")
