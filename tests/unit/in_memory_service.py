"""A broker without MongoDB, Redis or Atlas: instances and bindings in two dictionaries, done as soon as asked."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from broker_api.catalog.catalog import Catalog
from broker_api.config import Config
from broker_api.errors import Conflict, Gone, NotFound
from broker_api.json_types import JsonObject
from broker_api.service.bindings import Bindings
from broker_api.service.health import Figures, Health
from broker_api.service.instances import Instances
from broker_api.service.operation_views import OperationReader
from broker_api.service.plan_checks import check_ids
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
from broker_api.service.service import Service
from broker_api.state.broker_state import BrokerState
from broker_api.state.open_operations import OpenOperations, Reason
from broker_api.state.operator_queries import Cursor

Request = ProvisionRequest | UpdateRequest | BindRequest | RotateRequest
SERVICE_ID = Config.UUID_SERVICES_CLUSTER
PLAN_ID = Config.UUID_PLANS_EXISTING_CLUSTER
CREDENTIALS = {"username": "u", "password": "p", "database": "d", "uri": "mongodb://h/d"}


@dataclass
class InMemoryService:
    """``trouble`` is raised by every verb, to see how the HTTP layer answers it; ``more`` is in every answer."""

    catalog: Catalog = field(default_factory=lambda: Catalog(Config({}, {})))
    trouble: BaseException | None = None
    works: bool = True
    more: JsonObject = field(default_factory=dict)
    last: LastOperation = field(default_factory=lambda: LastOperation("succeeded"))
    instances: dict[str, JsonObject] = field(default_factory=dict)
    bindings: dict[tuple[str, str], JsonObject] = field(default_factory=dict)
    callers: list[Caller] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    during: Callable[[], None] | None = None

    @property
    def service(self) -> Service:
        """What the HTTP layer is given."""
        instances, bindings = InMemoryInstances(self), InMemoryBindings(self)
        return Service(self.catalog, instances, bindings, InMemoryHealth(self), InMemoryOperations(self))

    def note(self, caller: Caller | None = None, request: Request | None = None) -> None:
        if self.trouble is not None:
            raise self.trouble
        if self.during is not None:
            self.during()
        self.callers += [caller] if caller else []
        self.requests += [request] if request else []

    def made(
        self, where: dict[Any, JsonObject], key: object, attributes: JsonObject, caller: Caller, body: JsonObject
    ) -> Accepted | Complete:
        if (there := where.get(key)) is not None and there != attributes:
            raise Conflict("It exists with other attributes.")
        where[key] = attributes
        if there is not None:
            return Complete(body)
        return Accepted("o-create", body) if caller.accepts_incomplete else Complete(body, created=True)

    def removed(self, where: dict[Any, JsonObject], key: object, caller: Caller) -> Accepted | Complete:
        self.note(caller)
        if where.pop(key, None) is None:
            raise Gone
        return Accepted("o-delete") if caller.accepts_incomplete else Complete()

    def require_instance(self, instance_id: str) -> None:
        if instance_id not in self.instances:
            raise NotFound(f"The instance {instance_id} does not exist or is not ready yet.")


class _Part:
    def __init__(self, memory: InMemoryService) -> None:
        self._memory = memory


class InMemoryInstances(_Part, Instances):
    def provision(self, instance_id: str, request: ProvisionRequest, caller: Caller) -> Accepted | Complete:
        memory = self._memory
        memory.note(caller, request)
        check_ids(memory.catalog, request)
        memory.catalog.check_instance(memory.catalog.plans[request.plan_id], request.parameters or {}, creating=True)
        return memory.made(memory.instances, instance_id, _kept(request), caller, {"dashboard_url": "https://atlas"})

    def update(self, instance_id: str, request: UpdateRequest, caller: Caller) -> Accepted | Complete:
        self._memory.note(caller, request)
        self._memory.require_instance(instance_id)
        return Accepted("o-update", self._memory.more) if caller.accepts_incomplete else Complete(self._memory.more)

    def deprovision(self, instance_id: str, caller: Caller) -> Accepted | Complete:
        return self._memory.removed(self._memory.instances, instance_id, caller)

    def fetch(self, instance_id: str) -> JsonObject:
        self._memory.note()
        self._memory.require_instance(instance_id)
        return {"service_id": SERVICE_ID, "plan_id": PLAN_ID, "dashboard_url": None, **self._memory.more}

    def last_operation(self, instance_id: str, operation_id: str | None) -> LastOperation:
        self._memory.note()
        if operation_id == "gone" and instance_id not in self._memory.instances:
            raise Gone
        self._memory.require_instance(instance_id)
        return self._memory.last


class InMemoryBindings(_Part, Bindings):
    def bind(
        self, instance_id: str, binding_id: str, request: BindRequest | RotateRequest, caller: Caller
    ) -> Accepted | Complete:
        memory, key = self._memory, (instance_id, binding_id)
        memory.note(caller, request)
        memory.require_instance(instance_id)
        body = {"credentials": CREDENTIALS, **memory.more}
        made = memory.made(memory.bindings, key, _kept(request), caller, body)
        return Accepted("o-create") if caller.accepts_incomplete else made

    def unbind(self, instance_id: str, binding_id: str, caller: Caller) -> Accepted | Complete:
        return self._memory.removed(self._memory.bindings, (instance_id, binding_id), caller)

    def fetch(self, instance_id: str, binding_id: str) -> JsonObject:
        self._memory.note()
        if (instance_id, binding_id) not in self._memory.bindings:
            raise NotFound(f"The binding {binding_id} does not exist or is not ready yet.")
        return {"credentials": CREDENTIALS, **self._memory.more}

    def last_operation(self, instance_id: str, binding_id: str, operation_id: str | None) -> LastOperation:
        self._memory.note()
        if (instance_id, binding_id) not in self._memory.bindings:
            raise Gone if operation_id == "gone" else NotFound(f"There is no binding {binding_id}.")
        return self._memory.last


class InMemoryHealth(_Part, Health):
    def readiness(self) -> tuple[bool, JsonObject]:
        return self._memory.works, {"mongodb": self._memory.works}

    def figures(self) -> Figures:
        self._memory.note()
        now, long = datetime.now(UTC), Counter({("bind", str(Reason.APPLYING)): 2})
        opened = OpenOperations(Counter({("bind", "in progress"): 3}), long, {"bind": now - timedelta(seconds=1.5)})
        written: dict[str, JsonObject] = {
            "counters": {"ends": {"bind": {"failed": 7}}, "sends": {"accepted": 9}},
            "circuit/a-project": {"open": True, "reason": "Atlas does not answer."},
            "room/a-project": {"limit": 50},
            "reconciled": {"at": now},
            "worker/1": {"seen": now, "queues": '["bindings"]', "troubles": '{"key_refused": ["a-project"]}'},
        }
        ended = Counter({("bind", "failed"): 4})
        return Figures(BrokerState(now, written), opened, ended, {"a-project": 5}, {"bindings": 6})


class InMemoryOperations(_Part, OperationReader):
    def now(self) -> datetime:
        self._memory.note()
        return datetime.now(UTC)

    def listed(self, *_: object) -> tuple[list[JsonObject], Cursor | None]:
        return [], None

    def life(self, start: str, _: datetime) -> JsonObject:
        raise NotFound(f"There is no operation {start}.")


def _kept(request: Request) -> JsonObject:
    return request.model_dump(exclude={"context"})
