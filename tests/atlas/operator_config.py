"""The ``Config`` of these tests' broker, as an operator would write one: several projects, pinned plans, own hooks."""

import os
from typing import Any

from broker_api.config import BindingView, Config, Permissions

PRIVATE_PLAN = "9f3c5a52-54a7-4c1e-9d2e-0d7c3bb0a001"
PINNED_PLAN = "9f3c5a52-54a7-4c1e-9d2e-0d7c3bb0a002"
OTHER_PROJECT = "0" * 23 + "2"
PINNED_CLUSTER = "pinned"


class OperatorConfig(Config):
    """``level`` of an instance decides the roles of its bindings; ``name`` of a binding is its user's name."""

    CUSTOM_ROLES = frozenset({"reporting"})

    def __init__(self, secrets: dict[str, Any]) -> None:
        super().__init__(secrets["atlas"], None)
        self.broker["plan_updateable"] = True
        self.broker["plans"] += [
            {"id": PRIVATE_PLAN, "name": "private", "description": "By peering", "connection": "private"},
            {
                "id": PINNED_PLAN,
                "name": "pinned",
                "description": "No parameter is needed",
                "project": OTHER_PROJECT,
                "cluster": PINNED_CLUSTER,
            },
        ]

    def generate_binding_username(self, binding: BindingView) -> str:
        return str(binding.parameters.get("name") or super().generate_binding_username(binding))

    def generate_binding_permissions(self, binding: BindingView, permissions: Permissions) -> Permissions:
        if binding.instance.parameters.get("level") == "reading":
            return permissions.add_role(binding.instance.get_dbname() or "", "read")
        return super().generate_binding_permissions(binding, permissions)


def config() -> OperatorConfig:
    return OperatorConfig(Config.load_json(os.environ["BROKER_SECRETS"]) or {})
