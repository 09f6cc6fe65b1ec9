"""Types of the fields that a write may set, so that mypy refuses a misspelt field or a value of another type.

Each ``TypedDict`` has the fields of a record of ``broker_api.state.records``; a test compares the two. A moment may be
an ``In`` (seconds from now by MongoDB's clock). An absent field is not changed.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import TypedDict, TypeVar

from broker_api.json_types import JsonObject
from broker_api.state.mongo import In
from broker_api.state.records import Phase, State, StepResult

Moment = datetime | In


class OperationFields(TypedDict, total=False):
    """Fields of ``records.Operation`` that change during its life."""

    state: State
    step: str
    undo: bool
    refused: bool
    open: bool
    description: str | None
    error: str | None
    failure: str | None
    due: Moment
    accepted: Moment
    deadline: Moment
    dispatched: Moment
    sends: int
    finished: Moment | None
    lease_until: Moment
    lease_token: str | None
    worker: str | None
    claimed: Moment | None
    attempts: int
    refusals: int
    waits_on: str | None
    changed: Moment | None
    overlapped: bool
    in_flight: bool
    warned: int
    untold: bool


class StepFields(TypedDict, total=False):
    """Fields of ``records.StepLife``."""

    first: Moment
    last: Moment
    runs: int
    result: StepResult | None
    reason: str | None
    worker: str | None


StepsFields = Mapping[str, StepFields]
"""What to write of the life of steps, by their names."""


class ResourceFields(TypedDict, total=False):
    """Fields that instances and bindings have in common."""

    instance_id: str
    service_id: str
    plan_id: str
    context: JsonObject
    parameters: JsonObject
    phase: Phase
    project: str | None
    cluster: str | None
    database: str | None
    unsure_until: Moment | None
    expire_at: Moment | None
    slot: int | None


class InstanceFields(ResourceFields, total=False):
    """Fields of ``records.Instance``."""

    organization_guid: str
    space_guid: str
    maintenance_version: str | None
    connection: dict[str, str]
    plan: JsonObject
    owned: bool
    cluster_operation: str | None
    unseen_until: Moment | None
    sealed_dropper: str | None


class BindingFields(ResourceFields, total=False):
    """Fields of ``records.Binding``."""

    binding_id: str
    app_guid: str | None
    bind_resource: JsonObject | None
    predecessor: str | None
    username: str | None
    auth: str
    roles: list[dict[str, str]]
    sealed_credentials: str | None
    made: bool
    expires: Moment | None
    renew_before: Moment | None
    endpoints: list[dict[str, object]]


AnyFields = TypeVar("AnyFields", InstanceFields, BindingFields)
Fields = InstanceFields | BindingFields
