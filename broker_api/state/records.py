"""What MongoDB holds: instances and bindings, each with its operation, as frozen records.

Two releases can read each other's documents during a rolling update: unknown fields are ignored, new fields have
defaults, and a kind, state or phase of another release is kept as text. Objects whose keys a platform or a hook has
chosen (parameters, contexts) are kept as JSON text: no key can then be an operator of MongoDB, and no number is too
large for BSON.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Self, TypeVar
from urllib.parse import quote

import structlog
from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError

from broker_api.json_types import JsonObject
from broker_api.naming import is_default_database

log = structlog.get_logger(__name__)

canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
"""Return JSON text that is the same for equal values, whatever the order of their keys."""

UNREADABLE = "unreadable"
"""Kind, state and phase in the record of a document that cannot be read."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
    """Where an instance or binding stands in its life."""

    CREATING = "creating"  # → READY or FAILED, or DELETING when a delete comes first
    READY = "ready"  # → DELETING; an update leaves it here
    FAILED = "failed"  # its create failed; → CREATING by a new attempt, → DELETING
    DELETING = "deleting"  # → GONE, or back to READY when a deprovision is refused
    GONE = "gone"  # kept until expire_at; → CREATING when the id is used again


HOLDS_NOTHING = frozenset({Phase.GONE, Phase.FAILED})
"""Phases in which an instance or binding has nothing in Atlas: it counts as not existing."""

DELETES = frozenset({Kind.DEPROVISION, Kind.UNBIND})
CREATES = frozenset({Kind.PROVISION, Kind.BIND})


class Record(BaseModel):
    """Base of all records: frozen, and tolerant of fields of another release."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class PastOperation(Record):
    """An operation that another one has followed, as a late poll of it is answered."""

    id: str
    kind: str
    state: str
    description: str | None = None


class Operation(Record):
    """The operation of an instance or binding: what the platform sees, and what a worker needs to go on.

    Attributes:
        open: There is work left. An operation that has reached its deadline is failed and still open, while what it
            made is being removed.
        undo: The work that is left is to remove what the operation made.
        refused: What was asked can never be done as it is.
        error: The error because of which the step is being tried again.
        failure: The sentence that the operation ends with once what it made is removed.
        untold: A request has waited for the operation and has not seen it end. If it fails, the next such request is
            answered with that failure.
        in_flight: The step sends a request to Atlas that may take effect after its answer was lost.
    """

    id: str
    # A newer release may know kinds and states that this one does not; such an operation is left to it.
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
    fence: int = 0
    attempts: int = 0
    dispatched: datetime = EPOCH
    sends: int = 0
    identity: Json[JsonObject] | None = None
    request_id: str | None = None
    request: str = "{}"
    waits_on: str | None = None
    changed: datetime | None = None
    overlapped: bool = False
    untold: bool = False
    in_flight: bool = False


class Resource(Record):
    """What instances and bindings share.

    Attributes:
        unsure_until: Until then a request to make a database user may be under way to Atlas.
        legacy: atlasbroker 2.0.0 made it.
    """

    key: str = Field(alias="_id")
    instance_id: str
    service_id: str = ""
    plan_id: str = ""
    context: Json[JsonObject] = Field(default_factory=dict)
    parameters: Json[JsonObject] = Field(default_factory=dict)
    phase: Annotated[Phase | str, Field(union_mode="left_to_right")]
    operation: Operation
    past: tuple[PastOperation, ...] = ()
    project: str | None = None
    cluster: str | None = None
    database: str | None = None
    unsure_until: datetime | None = None
    legacy: bool = False

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Return the record of a document; of one that cannot be read, a record with the ids that can be read.

        A broken document stops no request but those for itself. It is not left out either, since its database is in
        use and its user is wanted.
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
        """Whether the document could be read as a whole."""
        return self.phase != UNREADABLE

    @property
    def understood(self) -> bool:
        """Whether this release knows the phase and the state. If not, the document is left to the release that does.

        ``UNDERSTOOD`` is the same rule for queries.
        """
        return isinstance(self.phase, Phase) and isinstance(self.operation.state, State)

    def known_operation(self, operation_id: str | None) -> Operation | PastOperation:
        """Return the operation of this id, or the latest one when the id is None or not known any more."""
        return next((past for past in self.past if past.id == operation_id), self.operation)


UNDERSTOOD: JsonObject = {
    "phase": {"$in": [*Phase]},
    "operation.state": {"$in": [*State]},
    "operation.id": {"$type": "string"},
    "operation.kind": {"$type": "string"},
    "instance_id": {"$type": "string"},
}
"""The query for documents that this release understands and that hold what a job is sent with."""

Owner = tuple[str | None, str | None]
"""An organization and a space; both None where they are not known."""


AnyResource = TypeVar("AnyResource", bound=Resource)


class Instance(Resource):
    """A service instance: a database on a cluster.

    Attributes:
        plan: What the plan says, for the time when the catalog does not have it any more.
        sealed_dropper: Credentials of the temporary user that drops the database, encrypted.
        owned: Whether only instances of the same owner have written to the database; None in documents of releases
            that did not record it.
    """

    organization_guid: str = ""
    space_guid: str = ""
    maintenance_version: str | None = None
    connection: Json[JsonObject] = Field(default_factory=dict)
    plan: Json[JsonObject] = Field(default_factory=dict)
    sealed_dropper: str | None = None
    owned: bool | None = None

    @property
    def owner(self) -> Owner:
        """The organization and space; atlasbroker 2.0.0 did not keep them."""
        return (None, None) if self.legacy else (self.organization_guid, self.space_guid)

    @property
    def was_ready(self) -> bool:
        """Whether it has been ready once, so that applications may have written to its database."""
        return bool(self.connection) or self.legacy

    @property
    def owns_database(self) -> bool:
        """Whether its database may be dropped."""
        if self.owned is not None:
            return self.owned
        return not self.legacy and is_default_database(self.database or "", self.instance_id)


class Binding(Resource):
    """A service binding: a database user.

    Attributes:
        predecessor: The binding that this one replaces (spec: Rotating a Service Binding).
        sealed_credentials: What the platform gets, encrypted.
        made: An operation of this binding has created the user in Atlas.
    """

    binding_id: str
    app_guid: str | None = None
    bind_resource: Json[JsonObject] | None = None
    predecessor: str | None = None
    username: str | None = None
    roles: Json[list[Any]] = Field(default_factory=list)
    sealed_credentials: str | None = None
    made: bool = False
    expires: datetime | None = None
    renew_before: datetime | None = None
    endpoints: Json[list[Any]] = Field(default_factory=list)


def instance_key(instance_id: str) -> str:
    """Return the ``_id`` of an instance's document."""
    return f"instance/{quote(instance_id, safe='')}"


def binding_key(instance_id: str, binding_id: str) -> str:
    """Return the ``_id`` of a binding's document; ids count only within their instance."""
    return f"binding/{quote(instance_id, safe='')}/{quote(binding_id, safe='')}"


def record(document: Mapping[str, Any]) -> Instance | Binding:
    """Read a document of the collection."""
    return Binding.read(document) if "binding_id" in document else Instance.read(document)
