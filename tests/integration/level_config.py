"""An operator's ``Config``, for ``BROKER_CONFIG``: the roles of users follow from a parameter of their instance."""

from broker_api.config import BindingView, Config, Permissions


class LevelConfig(Config):
    def generate_binding_permissions(self, binding: BindingView, permissions: Permissions) -> Permissions:
        level = binding.instance.parameters.get("level", "readWrite")
        return permissions.add_role(binding.instance.get_dbname() or "", level)


def config() -> Config:
    made = LevelConfig(None, None)
    made.broker["name"] = "databases-by-level"
    return made
