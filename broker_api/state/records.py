"""The records in MongoDB: instances and bindings, each with its operation.

Two releases can read each other's documents during a rolling update: unknown fields are ignored, new fields have
defaults, and a kind, state or phase of another release is read as text. Objects with keys of a platform or a hook
(parameters, contexts) are stored as JSON text, so that no key is an operator of MongoDB and no number is too large for
BSON.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, Self, TypeVar
from urllib.parse import quote

import structlog
from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError

from broker_api.authentication import EXTERNAL, Authentication
from broker_api.json_types import JsonObject
from broker_api.naming import is_default_database

log = structlog.get_logger(__name__)

UNREADABLE = "unreadable"
"""Kind, state and phase in the record of a document that cannot be read."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _milliseconds(value: object) -> int:
    """Return a moment as MongoDB keeps it, for JSON texts."""
    if isinstance(value, datetime):
        return (value - EPOCH) // timedelta(milliseconds=1)
    raise TypeError(f"{type(value).__name__} is no JSON")


canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_milliseconds).encode
"""Return the JSON text of a value; equal values have the same text, whatever the order of their keys."""


class Kind(StrEnum):
    """What an operation does."""

    PROVISION = "provision"
    UPDATE = "update"
    DEPROVISION = "deprovision"
    BIND = "bind"
    UNBIND = "unbind"


class State(StrEnum):
    """What a platform sees of an operation (spec: Polling Last Operation)."""

    IN_PROGRESS = "in progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Phase(StrEnum):
    """The phase of an instance or binding in its lifecycle."""

    CREATING = "creating"  # → READY or FAILED, or DELETING when a delete comes first
    READY = "ready"  # → DELETING; an update leaves it here
    FAILED = "failed"  # its create failed; → CREATING by a new attempt, → DELETING
    DELETING = "deleting"  # → GONE, or back to READY when a deprovision is refused
    GONE = "gone"  # kept until expire_at; → CREATING when the id is used again


HOLDS_NOTHING = frozenset({Phase.GONE, Phase.FAILED})
"""Phases without anything in Atlas: an instance or binding in them counts as not existing."""

USER_FIELDS = ("user_id", "username", "uid")
"""The fields of an originating identity that name the user."""

DELETES = frozenset({Kind.DEPROVISION, Kind.UNBIND})
CREATES = frozenset({Kind.PROVISION, Kind.BIND})


class Place(NamedTuple):
    """Where a secret or a MAC is stored: the ``_id`` of the document, and the field or the group of fields."""

    document: str
    field: str


class Record(BaseModel):
    """Base of all records: frozen; ignores fields of another release."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class OperatorAction(Record):
    """A command with which an operator has changed an operation.

    Attributes:
        at: When, by MongoDB's clock.
        user: The user of the system and the host, as ``user@host``.
        command: The command, such as ``operations retry``.
    """

    at: datetime
    user: str
    command: str


class StepResult(StrEnum):
    """How a run of a step has ended."""

    DONE = "done"
    PUT_OFF = "put off"  # it runs again
    FAILED = "failed"  # the undo steps follow


class StepLife(Record):
    """What has become of a step of an operation, for operators.

    Attributes:
        first: When it first began.
        last: When it last ended.
        runs: How often it has run to an end.
        result: How it has ended; None while it runs.
        reason: Why it was last put off, or has failed.
        worker: The worker that has run it last.
    """

    first: datetime | None = None
    last: datetime | None = None
    runs: int = 0
    result: str | None = None
    reason: str | None = None
    worker: str | None = None


class PastOperation(Record):
    """An earlier operation, with the fields that the answer to a late poll needs, and its life for operators."""

    id: str
    kind: str
    state: str
    description: str | None = None
    accepted: datetime | None = None
    finished: datetime | None = None
    steps: Mapping[str, StepLife] = Field(default_factory=dict)
    actions: tuple[OperatorAction, ...] = ()


class Operation(Record):
    """The latest operation of an instance or binding, for the platform and for the workers.

    Attributes:
        step: The step to run next; empty for the first one.
        undo: The steps to run are the undo steps.
        refused: The request itself is the cause of the failure, so the same request would fail again.
        open: There are steps left. After the deadline an operation is failed and still open until the undo steps end.
        error: The error after which the step is tried again.
        failure: The description of the failed operation, set while the undo steps run.
        due: When a worker may run the next step.
        refusals: How many attempts in a row have ended with an error that may be a refusal (``StepTrouble.refusal``).
        taken_over: The lease before the latest claim had expired, so its worker has died or lost MongoDB.
        first_claimed: When a worker claimed the operation for the first time.
        fence: The number of the latest claim.
        worker: The worker of the latest claim, which was taken at ``claimed``.
        dispatched: When a job was last sent; ``sends`` counts the jobs since the last claim.
        waits_on: The name of the event on which the operation waits.
        changed: When Atlas accepted the operation's change of a cluster's users.
        overlapped: An earlier change was not yet applied at that time.
        untold: A request has waited for the operation and ended before it. If the operation fails, the next such
            request gets that failure.
        in_flight: The step sends a request to Atlas that may take effect although its answer was lost.
        steps: The life of each step that has run, by its name, in the order of their first runs.
        warned: How many of the limits of an unusually long wait are logged (see ``open_operations``).
        actions: The latest commands with which operators have changed the operation.
        traceparent: The span of the request that started it, in the form of W3C Trace Context.
        sealed_request: The encrypted request; a stored record lacks it in clear (see ``private_values``).
        mac: The MAC of the id, the kind and the request (see ``record_macs``).
    """

    id: str
    # Kinds and states of a newer release are read as text; its own workers run such an operation.
    kind: Annotated[Kind | str, Field(union_mode="left_to_right")]
    state: Annotated[State | str, Field(union_mode="left_to_right")] = State.IN_PROGRESS
    step: str = ""
    undo: bool = False
    refused: bool = False
    open: bool = True
    description: str | None = None
    error: str | None = None
    failure: str | None = None
    due: datetime = EPOCH
    accepted: datetime = EPOCH
    deadline: datetime = EPOCH
    finished: datetime | None = None
    lease_until: datetime = EPOCH
    lease_token: str | None = None
    worker: str | None = None
    taken_over: bool = False
    claimed: datetime | None = None
    first_claimed: datetime | None = None
    fence: int = 0
    attempts: int = 0
    refusals: int = 0
    dispatched: datetime = EPOCH
    sends: int = 0
    identity: Json[JsonObject] | None = None
    request_id: str | None = None
    traceparent: str | None = None
    request: str = "{}"
    waits_on: str | None = None
    changed: datetime | None = None
    overlapped: bool = False
    untold: bool = False
    in_flight: bool = False
    steps: Mapping[str, StepLife] = Field(default_factory=dict)
    warned: int = 0
    actions: tuple[OperatorAction, ...] = ()
    sealed_request: str | None = None
    mac: str | None = None


class Resource(Record):
    """The fields that instances and bindings have in common.

    Attributes:
        parameters: JSON text; an object in documents that atlasbroker 2.0.0 must be able to read.
        unsure_until: Until then a request to Atlas that creates a user or a cluster may still take effect.
        legacy: It was created by atlasbroker 2.0.0.
        sealed_parameters: The encrypted parameters that the broker does not know (see ``private_values``).
        sealed_context: The encrypted context.
        request_mac: The MAC of the fields of the request.
        settled_mac: The MAC of the fields that workers have set (see ``record_macs``).
        slot: A number that only one binding of the instance has at a time, by which bindings are counted; None for
            instances and for bindings that hold nothing.
    """

    key: str = Field(alias="_id")
    instance_id: str
    service_id: str = ""
    plan_id: str = ""
    context: Json[JsonObject] = Field(default_factory=dict)
    parameters: Json[JsonObject] | JsonObject = Field(default_factory=dict, union_mode="left_to_right")
    phase: Annotated[Phase | str, Field(union_mode="left_to_right")]
    operation: Operation
    past: tuple[PastOperation, ...] = ()
    project: str | None = None
    cluster: str | None = None
    database: str | None = None
    unsure_until: datetime | None = None
    legacy: bool = False
    sealed_parameters: str | None = None
    sealed_context: str | None = None
    request_mac: str | None = None
    settled_mac: str | None = None
    slot: int | None = None

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Return the record of a document.

        For a document that cannot be read, this returns a record with the ids that can be read and the phase
        ``UNREADABLE``. Such a document stops only the requests about itself. It must not be left out, since its
        database and its user are still needed.
        """
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            fields = sorted({".".join(map(str, each["loc"])) for each in error.errors(include_input=False)})
            log.warning("document_unreadable", document=str(document.get("_id")), fields=fields)
        ids = ("instance_id", "binding_id", "project", "cluster", "database", "username")
        legible = {name: value for name in ids if isinstance(value := document.get(name), str)}
        operation = {"id": "", "kind": UNREADABLE, "state": UNREADABLE}
        blank = {"_id": str(document.get("_id")), "instance_id": "", "binding_id": "", "operation": operation}
        return cls.model_validate({**blank, **legible, "phase": UNREADABLE})

    @property
    def readable(self) -> bool:
        """Whether the whole document could be read."""
        return self.phase != UNREADABLE

    @property
    def understood(self) -> bool:
        """Whether this release knows the phase and the state; if not, it does not change the document.

        ``UNDERSTOOD`` is the same rule for queries.
        """
        return isinstance(self.phase, Phase) and isinstance(self.operation.state, State)

    @property
    def is_used(self) -> bool:
        """Whether its fields may be used, so that they have to be as the broker wrote them.

        Of an instance or binding that is gone only the operation could use them; the phase has no MAC, so an open
        operation counts more.
        """
        return self.phase != UNREADABLE and (self.phase is not Phase.GONE or self.operation.open)

    def known_operation(self, operation_id: str | None) -> Operation | PastOperation:
        """Return an operation by its id.

        Args:
            operation_id: The id from the platform, if it sent one.

        Returns:
            The operation; the latest one when the id is None or not remembered any more.
        """
        return next((past for past in self.past if past.id == operation_id), self.operation)


UNDERSTOOD: JsonObject = {
    "phase": {"$in": [*Phase]},
    "operation.state": {"$in": [*State]},
    "operation.id": {"$type": "string"},
    "operation.kind": {"$type": "string"},
    "instance_id": {"$type": "string"},
}
"""The query for documents that this release understands and that have the arguments of a job."""

Owner = tuple[str | None, str | None]
"""The organization and the space; both are None when they are unknown."""
UNKNOWN_GUID = "-"
"""What SAP Service Manager sends as the organization and the space of all its tenants."""

AnyResource = TypeVar("AnyResource", bound=Resource)


class Instance(Resource):
    """A service instance: a database on a cluster.

    Attributes:
        connection: The connection strings; empty until the first provision has succeeded.
        plan: The properties of the plan, which are needed when the catalog does not have the plan any more.
        sealed_dropper: The encrypted credentials of the temporary user that drops the database.
        owned: Whether only instances of the same owner have written to the database; None in documents of earlier
            releases.
        cluster_operation: The operation that the instance's own cluster is tagged with; None before its name is
            settled, and for instances on clusters that exist.
        unseen_until: Until then Atlas may not show the instance's own cluster yet, whose creation it has accepted.
    """

    organization_guid: str = ""
    space_guid: str = ""
    maintenance_version: str | None = None
    connection: Json[JsonObject] = Field(default_factory=dict)
    plan: Json[JsonObject] = Field(default_factory=dict)
    sealed_dropper: str | None = None
    owned: bool | None = None
    cluster_operation: str | None = None
    unseen_until: datetime | None = None

    @property
    def new_cluster(self) -> JsonObject | None:
        """What the plan says of the instance's own cluster; None when the instance is on a cluster that exists."""
        return self.plan.get("new_cluster")

    @property
    def dropper_place(self) -> Place:
        """Where the credentials of the temporary user are stored."""
        return Place(self.key, "sealed_dropper")

    @property
    def owner(self) -> Owner:
        """The organization and the space, which are unknown for instances of atlasbroker 2.0.0.

        SAP Service Manager sends ``-`` as both for all its tenants, so there each instance is an owner of its own.
        """
        if self.legacy:
            return None, None
        known = self.organization_guid != UNKNOWN_GUID or self.space_guid != UNKNOWN_GUID
        return self.organization_guid, self.space_guid if known else self.instance_id

    @property
    def was_ready(self) -> bool:
        """Whether the instance has ever been ready, so that applications may have written to its database."""
        return bool(self.connection) or self.legacy

    @property
    def owns_database(self) -> bool:
        """Whether the broker may drop the database of the instance."""
        if self.owned is not None:
            return self.owned and not self.legacy
        return not self.legacy and is_default_database(self.database or "", self.instance_id)

    @property
    def asks_to_drop(self) -> bool:
        """Whether the user wants the database dropped with the instance; never for one that was never in use."""
        return self.was_ready and self.parameters.get("policy-on-delete") == "drop"

    @property
    def drops_database(self) -> bool:
        """Whether a deprovision drops the database: only one that the instance owns."""
        return self.asks_to_drop and self.owns_database


class Binding(Resource):
    """A service binding: a database user.

    Attributes:
        predecessor: The binding that this one replaces (spec: Rotating a Service Binding).
        sealed_credentials: The encrypted credentials that the platform gets.
        auth: How the user logs in (``Authentication``).
        made: This binding has created the user in Atlas.
        expires: When Atlas deletes the user, or the user's certificate expires.
        renew_before: When the platform should have rotated the binding.
    """

    binding_id: str
    app_guid: str | None = None
    bind_resource: Json[JsonObject] | None = None
    predecessor: str | None = None
    username: str | None = None
    auth: str = Authentication.PASSWORD
    roles: Json[list[Any]] = Field(default_factory=list)
    sealed_credentials: str | None = None
    made: bool = False
    expires: datetime | None = None
    renew_before: datetime | None = None
    endpoints: Json[list[Any]] = Field(default_factory=list)

    @property
    def credentials_place(self) -> Place:
        """Where the credentials are stored."""
        return Place(self.key, "sealed_credentials")

    @property
    def user_database(self) -> str:
        """The database that Atlas keeps the user in."""
        return "admin" if self.auth == Authentication.PASSWORD else EXTERNAL


def user_of(identity: JsonObject) -> JsonObject:
    """Return the platform and the user of an originating identity, as fields of log lines.

    Args:
        identity: An originating identity; earlier releases stored all that the platform sent.
    """
    value = identity.get("value")
    user = next(filter(None, map(value.get, USER_FIELDS)), None) if isinstance(value, dict) else None
    return {"platform": identity.get("platform"), **({"user": user} if user else {})}


def instance_key(instance_id: str) -> str:
    """Return the ``_id`` of an instance's document."""
    return f"instance/{quote(instance_id, safe='')}"


def binding_key(instance_id: str, binding_id: str) -> str:
    """Return the ``_id`` of a binding's document; the ids of bindings are unique within their instance only."""
    return f"binding/{quote(instance_id, safe='')}/{quote(binding_id, safe='')}"


def record(document: Mapping[str, Any]) -> Instance | Binding:
    """Return the record of a document, which is a binding if it has a ``binding_id``."""
    return Binding.read(document) if "binding_id" in document else Instance.read(document)
