"""The ``Config`` of the brokers that many tests share, for ``BROKER_CONFIG``."""

from broker_api.config import BindingView, Config, Permissions


class SharedConfig(Config):
    """An operator's: the parameter ``level`` of an instance is the role of its users."""

    def generate_binding_permissions(self, binding: BindingView, permissions: Permissions) -> Permissions:
        if level := binding.instance.parameters.get("level"):
            return permissions.add_role(binding.instance.get_dbname() or "", level)
        return super().generate_binding_permissions(binding, permissions)


def config() -> Config:
    """Return one without the quota of its plan, since the tests together bind one instance more than 50 times."""
    made = SharedConfig(None, None)
    made.broker["plans"][0]["max_bindings"] = "none"
    return made
