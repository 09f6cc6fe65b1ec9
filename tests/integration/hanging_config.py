"""An operator's ``Config``, for ``BROKER_CONFIG``: a hook of it never returns."""

import threading

from broker_api.config import Config, InstanceView


class HangingConfig(Config):
    def generate_instance_dbname(self, instance: InstanceView) -> str:
        threading.Event().wait()
        return super().generate_instance_dbname(instance)


def config() -> Config:
    return HangingConfig(None, None)
