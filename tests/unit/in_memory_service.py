"""A broker without MongoDB, Redis or Atlas: instances and bindings in two dictionaries, done as soon as asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from broker_api.catalog.catalog import Catalog
from broker_api.config import Config
from broker_api.errors import Conflict, Gone, NotFound
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

Request = ProvisionRequest | UpdateRequest | BindRequest | RotateRequest
SERVICE_ID = Config.UUID_SERVICES_CLUSTER
PLAN_ID = Config.UUID_PLANS_EXISTING_CLUSTER
CREDENTIALS = {"username": "u", "password": "p", "database": "d", "uri": "mongodb://h/d"}


def a_catalog() -> Catalog:
    return Catalog(Config({}, {}))


@dataclass
class InMemoryService:
    """``trouble`` is raised by every verb, to see how the HTTP layer answers it; ``more`` is in every answer."""

    catalog: Catalog = field(default_factory=a_catalog)
    trouble: BaseException | None = None
    works: bool = True
    more: JsonObject = field(default_factory=dict)
    last: LastOperation = field(default_factory=lambda: LastOperation("succeeded"))
    instances: dict[str, JsonObject] = field(default_factory=dict)
    bindings: dict[tuple[str, str], JsonObject] = field(default_factory=dict)
    callers: list[Caller] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    during: Callable[[], None] | None = None

    def provision(self, instance_id: str, request: ProvisionRequest, caller: Caller) -> Accepted | Complete:
        self._note(caller, request)
        plan = self.catalog.plan(request.service_id, request.plan_id)
        self.catalog.check_create(plan, request.parameters)
        return self._made(self.instances, instance_id, _kept(request), caller, {"dashboard_url": "https://atlas"})

    def update(self, instance_id: str, request: UpdateRequest, caller: Caller) -> Accepted | Complete:
        self._note(caller, request)
        if instance_id not in self.instances:
            raise NotFound(f"There is no instance {instance_id}.")
        return Accepted("o-update", self.more) if caller.accepts_incomplete else Complete(self.more)

    def deprovision(self, instance_id: str, service_id: str, plan_id: str, caller: Caller) -> Accepted | Complete:
        self._note(caller, None, service_id, plan_id)
        return self._removed(self.instances, instance_id, caller)

    def bind(
        self, instance_id: str, binding_id: str, request: BindRequest | RotateRequest, caller: Caller
    ) -> Accepted | Complete:
        self._note(caller, request)
        if instance_id not in self.instances:
            raise NotFound(f"There is no instance {instance_id}.")
        body = {"credentials": CREDENTIALS, **self.more}
        if caller.accepts_incomplete:
            self._made(self.bindings, (instance_id, binding_id), _kept(request), caller, {})
            return Accepted("o-create")
        return self._made(self.bindings, (instance_id, binding_id), _kept(request), caller, body)

    def unbind(
        self, instance_id: str, binding_id: str, service_id: str, plan_id: str, caller: Caller
    ) -> Accepted | Complete:
        self._note(caller, None, service_id, plan_id)
        return self._removed(self.bindings, (instance_id, binding_id), caller)

    def instance(self, instance_id: str) -> JsonObject:
        self._note(None, None)
        if instance_id not in self.instances:
            raise NotFound(f"There is no instance {instance_id}, or not yet.")
        return {"service_id": SERVICE_ID, "plan_id": PLAN_ID, "dashboard_url": None, **self.more}

    def binding(self, instance_id: str, binding_id: str) -> JsonObject:
        self._note(None, None)
        if (instance_id, binding_id) not in self.bindings:
            raise NotFound(f"There is no binding {binding_id}, or not yet.")
        return {"credentials": CREDENTIALS, **self.more}

    def instance_operation(self, instance_id: str, operation: str | None) -> LastOperation:
        self._note(None, None)
        if instance_id not in self.instances:
            raise Gone if operation == "gone" else NotFound(f"There is no instance {instance_id}.")
        return self.last

    def binding_operation(self, instance_id: str, binding_id: str, operation: str | None) -> LastOperation:
        self._note(None, None)
        if (instance_id, binding_id) not in self.bindings:
            raise Gone if operation == "gone" else NotFound(f"There is no binding {binding_id}.")
        return self.last

    def readiness(self) -> tuple[bool, JsonObject]:
        return self.works, {"mongodb": self.works}

    def operation_counts(self) -> Mapping[tuple[str, str], int]:
        self._note(None, None)
        return {("bind", "in progress"): 3}

    def oldest_due_seconds(self) -> float:
        return 1.5

    def _note(self, caller: Caller | None, request: Request | None, *hints: str) -> None:
        if self.trouble is not None:
            raise self.trouble
        if self.during is not None:
            self.during()
        self.callers += [caller] if caller else []
        self.requests += [request] if request else []
        self.hints += hints

    def _made(
        self, where: dict[Any, JsonObject], key: object, attributes: JsonObject, caller: Caller, body: JsonObject
    ) -> Accepted | Complete:
        if (there := where.get(key)) is not None and there != attributes:
            raise Conflict("It exists with other attributes.")
        where[key] = attributes
        if there is not None:
            return Complete(body)
        return Accepted("o-create", body) if caller.accepts_incomplete else Complete(body, created=True)

    def _removed(self, where: dict[Any, JsonObject], key: object, caller: Caller) -> Accepted | Complete:
        if where.pop(key, None) is None:
            raise Gone
        return Accepted("o-delete") if caller.accepts_incomplete else Complete()


def _kept(request: Request) -> JsonObject:
    return request.model_dump(exclude={"context"})
