"""What MongoDB holds: instances and bindings, each with its operation, as frozen records.

Unknown fields are ignored, new ones have defaults, and a kind, state or phase of another release is kept as text, so
that two releases can read each other's documents during a rolling update. Anything that a platform or hook chose the
keys of (parameters, contexts) is kept as JSON text: then no key of theirs can be an operator, and no number too large
for BSON.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Self
from urllib.parse import quote

import structlog
from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError

from broker_api.json_types import JsonObject
from broker_api.naming import is_default_database

log = structlog.get_logger(__name__)


canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
"""Return JSON text that is the same for equal values, whatever the order of their keys."""

UNREADABLE = "unreadable"
"""Kind, state and phase of the record that stands for a document which cannot be read."""

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
    GONE = "gone"  # remembered until expire_at; → CREATING when the id is used again


DELETES = frozenset({Kind.DEPROVISION, Kind.UNBIND})
CREATES = frozenset({Kind.PROVISION, Kind.BIND})


class Record(BaseModel):
    """Base of all records: frozen, tolerant of fields of another release."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class PastOperation(Record):
    """An operation that another one has followed; what a late poll is answered with."""

    id: str
    kind: str
    state: str
    description: str | None = None


class Operation(Record):
    """The operation of an instance or binding: what the platform sees, and what a worker needs to go on.

    ``open`` says that there is work left. It outlives ``state`` in one case: an operation that reached its deadline
    is failed, and what it made is still being removed. ``undo`` says that the work left is that removal, ``refused``
    that what was asked can never be done as it is. ``in_flight`` says that the step sends a request to Atlas that may
    take effect after its answer was lost. ``error`` is the trouble that is being retried, ``failure`` the sentence that
    the operation will end with once the removal is done. ``untold`` says that a request has waited for its outcome in
    vain; a failure is then what the same request is answered with when it comes again.
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
    """What instances and bindings share. Until ``unsure_until`` a request to make a user may be under way to Atlas."""

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
        """Return the record of a document; where that cannot be read, one that says so and holds the ids that can be.

        One broken document must stop nothing but what is asked of itself, and must not be overlooked either: its
        database is in use, its user is wanted.
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
        """Whether the document could be read, by this release or only in part."""
        return self.phase != UNREADABLE

    @property
    def understood(self) -> bool:
        """Whether this release knows what phase and state mean; what it does not is left to the release that does."""
        return isinstance(self.phase, Phase) and isinstance(self.operation.state, State)

    def known_operation(self, operation_id: str | None) -> Operation | PastOperation:
        """Return the operation of this id, else (none asked for, or forgotten) the latest."""
        for past in self.past:
            if past.id == operation_id:
                return past
        return self.operation


Owner = tuple[str | None, str | None]
"""An organization and a space; both None where they are not known."""


class Instance(Resource):
    """A service instance: a database on a cluster. ``sealed_dropper`` is the temporary user that drops it.

    ``owned`` says whether the database holds only what instances of the same owner have put there; None in documents
    of releases that did not ask.
    ``plan`` is what its plan says, kept for the time when the catalog does not have that plan any more.
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
        """The organization and space; the old broker did not keep them."""
        return (None, None) if self.legacy else (self.organization_guid, self.space_guid)

    @property
    def was_ready(self) -> bool:
        """Whether its provision has succeeded once, so that applications may have written to its database."""
        return bool(self.connection) or self.legacy

    @property
    def owns_database(self) -> bool:
        """Whether its database may be dropped."""
        if self.owned is not None:
            return self.owned
        return not self.legacy and is_default_database(self.database or "", self.instance_id)


class Binding(Resource):
    """A service binding: a database user."""

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
