"""A store of its own in the real MongoDB, and an operation that tests declare the steps of."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pytest
from cryptography.fernet import Fernet

from broker_api.state.encryption import Vault
from broker_api.state.encryption_key_check import KeyCheck
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.new_operation import NewOperation
from broker_api.state.operation_claims import Claims
from broker_api.state.records import Instance, Kind, Phase, instance_key
from broker_api.state.store import Store
from workers.engine.definition import Definition
from workers.engine.job import Job
from workers.engine.leases import LeaseKeeper
from workers.engine.results import Done, Outcome, Result, StepTrouble
from workers.engine.runner import Runner


class Step(StrEnum):
    """Steps of the operation under test."""

    FIRST = "first"
    SECOND = "second"
    CLEAN_UP = "clean up"


class ServiceDown(Exception):
    """What a step's call to the outside raises: may be tried again, and may have had an effect."""


class Hopeless(Exception):
    """What a step's call to the outside raises when no retry can help; it may have had an effect all the same."""


class TestedJob(Job[Instance]):
    """Knows two errors."""

    def classify(self, error: Exception) -> StepTrouble | None:
        if isinstance(error, ServiceDown):
            return StepTrouble("The service is down.", late_effect=True)
        return StepTrouble("Impossible.", retry=False, late_effect=True) if isinstance(error, Hopeless) else None


@dataclass
class Clock:
    """Only tests move it, so that no stall of the machine counts."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


Behaviour = Callable[[Job[Instance]], Result[Any]]


def raising(error: Exception) -> Behaviour:
    """Return a step that raises an error."""

    def step(_: Job[Instance]) -> Result[Any]:
        raise error

    return step


@dataclass
class Bench:
    """Runs one provision by steps that a test gives. ``ran`` holds the names of the steps that have run."""

    store: Store
    ran: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    on_lease_lost: Callable[[Any], None] | None = None
    outcome: Outcome = None
    """What the last message has brought."""

    def __post_init__(self) -> None:
        self.key = instance_key("i")
        self.claims = Claims(self.store)
        self.keys = KeyCheck(Housekeeping(self.store), Vault((Fernet.generate_key().decode(),)))
        begun = self.store.create({"instance_id": "i", "plan_id": "p"}, NewOperation(Kind.PROVISION), None)
        assert begun is not None
        self.operation_id = begun

    def work(
        self,
        steps: Mapping[Step, Behaviour],
        undo: Behaviour | None = None,
        *,
        late_effects: frozenset[Step] = frozenset(),
        undo_may_fail: bool = False,
    ) -> Instance:
        """Deliver the operation's message once, and return the record afterwards."""
        clean_up = undo or (lambda _: Done(Phase.FAILED, ""))
        definition = Definition[Instance](
            steps={name: self._noted(name, behaviour) for name, behaviour in steps.items()},
            undo={Step.CLEAN_UP: self._noted(Step.CLEAN_UP, clean_up)},
            on_lease_lost=self.on_lease_lost,
            late_effects=frozenset[StrEnum](late_effects),
            undo_may_fail=undo_may_fail,
        )
        runner = Runner(
            self.claims,
            LeaseKeeper(self.claims),
            self.keys,
            definitions={Kind.PROVISION: definition},
            new_job=TestedJob,
            stopping=self.stopping,
        )
        self.outcome = runner.work(self.key, self.operation_id)
        return self.record

    def _noted(self, name: Step, behaviour: Behaviour) -> Behaviour:
        def step(job: Job[Instance]) -> Result[Any]:
            self.ran.append(name.value)
            return behaviour(job)

        return step

    @property
    def record(self) -> Instance:
        """The record as it is in MongoDB now."""
        found = self.store.get(self.key)
        assert isinstance(found, Instance)
        return found

    def change(self, **fields: object) -> None:
        """Write fields of the operation behind the broker's back."""
        changes = {f"operation.{name}": value for name, value in fields.items()}
        self.store.collection.update_one({"_id": self.key}, {"$set": changes})


@pytest.fixture
def bench(store: Store) -> Bench:
    return Bench(store)
