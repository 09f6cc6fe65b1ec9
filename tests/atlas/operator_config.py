"""The ``Config`` of these tests' broker, as an operator would write one: several projects, pinned plans, own hooks."""

import os
from typing import Any

from broker_api.config import BindingView, Config, InstanceView, Permissions

PRIVATE_PLAN = "9f3c5a52-54a7-4c1e-9d2e-0d7c3bb0a001"
PINNED_PLAN = "9f3c5a52-54a7-4c1e-9d2e-0d7c3bb0a002"
ENDPOINT_PLAN = "9f3c5a52-54a7-4c1e-9d2e-0d7c3bb0a003"
DEDICATED_PLAN = "9f3c5a52-54a7-4c1e-9d2e-0d7c3bb0a005"
FLEX_PLAN = "9f3c5a52-54a7-4c1e-9d2e-0d7c3bb0a006"
FIXED_PLAN = "9f3c5a52-54a7-4c1e-9d2e-0d7c3bb0a007"
ACCESS_PLAN = "9f3c5a52-54a7-4c1e-9d2e-0d7c3bb0a004"
OFFICE, SITE, ALL = "198.51.100.0/24", "203.0.113.7/32", "0.0.0.0/0"
"""The addresses of ``ACCESS_PLAN``; the emulated projects have let in ``ALL`` from the start."""
OTHER_PROJECT = "0" * 23 + "2"
PINNED_CLUSTER = "pinned"


class OperatorConfig(Config):
    """``level`` of an instance decides the roles of its bindings; ``name`` of a binding is its user's name.

    ``team`` of an instance decides its database, whatever ``database`` says.
    """

    CUSTOM_ROLES = frozenset({"reporting"})
    SERVICE_BINDING_KEYS = True
    AUTHENTICATION = ("password", "aws-iam", "x509")

    def __init__(self, secrets: dict[str, Any]) -> None:
        super().__init__(secrets["atlas"], None)
        self.failing: set[str] = set()
        """The bindings at which the hook of permissions fails."""
        self.broker["plan_updateable"] = True
        self.broker["plans"][0]["max_bindings"] = "none"  # here one instance fills a project with users
        self.broker["plans"] += [
            {"id": PRIVATE_PLAN, "name": "private", "description": "By peering", "connection": "private"},
            {
                "id": ENDPOINT_PLAN,
                "name": "endpoint",
                "description": "By one private endpoint",
                "connection": "private-endpoint",
                "endpoint": "vpce-3",
            },
            {
                "id": ACCESS_PLAN,
                "name": "access",
                "description": "Lets in two addresses",
                "access_list": [OFFICE, SITE.removesuffix("/32"), ALL],
            },
            {
                "id": DEDICATED_PLAN,
                "name": "dedicated",
                "description": "A cluster of its own",
                "new_cluster": {"kind": "dedicated"},
                "access_list": [OFFICE],
            },
            {
                "id": FLEX_PLAN,
                "name": "flex",
                "description": "A Flex cluster of its own",
                "new_cluster": {"kind": "flex"},
            },
            {
                "id": FIXED_PLAN,
                "name": "fixed",
                "description": "A cluster in Frankfurt with larger nodes",
                "new_cluster": {"kind": "dedicated", "provider": "AWS", "region": "EU_CENTRAL_1", "tier": "M50"},
            },
            {
                "id": PINNED_PLAN,
                "name": "pinned",
                "description": "No parameter is needed",
                "project": OTHER_PROJECT,
                "cluster": PINNED_CLUSTER,
            },
        ]

    def generate_instance_clustername(self, instance: InstanceView) -> str:
        return str(instance.parameters.get("cluster_name") or super().generate_instance_clustername(instance))

    def generate_instance_dbname(self, instance: InstanceView) -> str:
        team: str | None = instance.parameters.get("team")
        return f"team-{team}"[: instance.database_limit] if team else super().generate_instance_dbname(instance)

    def generate_binding_username(self, binding: BindingView) -> str:
        return str(binding.parameters.get("name") or super().generate_binding_username(binding))

    def generate_binding_permissions(self, binding: BindingView, permissions: Permissions) -> Permissions:
        if binding.binding_id in self.failing:
            raise RuntimeError
        if binding.instance.parameters.get("level") == "reading":
            return permissions.add_role(binding.instance.get_dbname() or "", "read")
        return super().generate_binding_permissions(binding, permissions)


class AnyDatabase(OperatorConfig):
    """Instances may have any database."""

    DATABASES = "any"


def config() -> OperatorConfig:
    return OperatorConfig(Config.load_json(os.environ["BROKER_SECRETS"]) or {})
