"""What the HTTP layer asks of the broker below it: one method for each OSB verb, which knows nothing of HTTP."""

from collections.abc import Mapping
from typing import Protocol

from broker_api.catalog.catalog import Catalog
from broker_api.json_types import JsonObject
from broker_api.service.schemas import (
    Accepted,
    BindRequest,
    Caller,
    Complete,
    LastOperation,
    ProvisionRequest,
    RotateRequest,
    UpdateRequest,
)

Outcome = Accepted | Complete


class Service(Protocol):
    """A broker. Its methods raise the exceptions that ``broker_api.osb.errors`` has in its table."""

    catalog: Catalog

    def provision(self, instance_id: str, request: ProvisionRequest, caller: Caller) -> Outcome:
        """Make an instance."""

    def update(self, instance_id: str, request: UpdateRequest, caller: Caller) -> Outcome:
        """Change an instance."""

    def deprovision(self, instance_id: str, service_id: str, plan_id: str, caller: Caller) -> Outcome:
        """Delete an instance; the service and plan are hints."""

    def bind(self, instance_id: str, binding_id: str, request: BindRequest | RotateRequest, caller: Caller) -> Outcome:
        """Make a binding, or one that replaces another."""

    def unbind(self, instance_id: str, binding_id: str, service_id: str, plan_id: str, caller: Caller) -> Outcome:
        """Delete a binding; the service and plan are hints."""

    def instance(self, instance_id: str) -> JsonObject:
        """Describe an instance that is there."""

    def binding(self, instance_id: str, binding_id: str) -> JsonObject:
        """Describe a binding that is there, with its credentials."""

    def instance_operation(self, instance_id: str, operation: str | None) -> LastOperation:
        """Report an instance's operation, or its latest one."""

    def binding_operation(self, instance_id: str, binding_id: str, operation: str | None) -> LastOperation:
        """Report a binding's operation, or its latest one."""

    def readiness(self) -> tuple[bool, JsonObject]:
        """Return whether MongoDB answers, and how everything else is."""

    def operation_counts(self) -> Mapping[tuple[str, str], int]:
        """Count operations by kind and state."""

    def oldest_due_seconds(self) -> float:
        """Return for how long the oldest due operation has waited; 0 when none is due."""
