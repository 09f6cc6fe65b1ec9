"""Leases: their renewal in the background, and writes under one that is lost."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from broker_api.state.fields import BindingFields, InstanceFields, OperationFields, StepFields
from broker_api.state.mongo import In
from broker_api.state.new_operation import NewOperation
from broker_api.state.operation_claims import Claim, Claims, LeaseLostError
from broker_api.state.records import EPOCH, Kind, Phase, State, StepResult, binding_key, instance_key
from broker_api.state.store import Store
from tests.tenant import eventually
from workers.engine.leases import LeaseKeeper

DEFECTIVE, SOUND = "defective", "sound"


class DefectiveClaims(Claims):
    """Claims of which that of one instance cannot be renewed."""

    def renew(self, claim: Claim[Any]) -> None:
        if claim.record.instance_id == DEFECTIVE:
            raise RuntimeError("an error that nothing expects")
        super().renew(claim)


def test_a_defect_in_one_renewal_does_not_end_that_of_other_leases(store: Store) -> None:
    claims, leases = DefectiveClaims(store, "a worker"), {}
    keeper = LeaseKeeper(claims)
    with ExitStack() as held:
        for name in (DEFECTIVE, SOUND):
            operation_id = store.create({"instance_id": name}, NewOperation(Kind.PROVISION), None)
            claim = claims.claim(instance_key(name), operation_id or "")
            assert claim
            leases[name] = held.enter_context(keeper.holding(claim))
        rounds = {leases[SOUND].until}

        def is_renewed() -> bool:
            rounds.add(leases[SOUND].until)
            return len(rounds) > 2  # in the first round the sound one may come before the other

        eventually(is_renewed, "it is renewed twice")
    assert not leases[SOUND].lost


def test_advance_returns_the_record_as_mongodb_has_it(store: Store) -> None:
    operation_id = store.create({"instance_id": "i", "binding_id": "b"}, NewOperation(Kind.BIND), None) or ""
    claims, key = Claims(store, "a worker"), binding_key("i", "b")
    claim = claims.claim(key, operation_id)
    assert claim
    roles = [{"name": "read", "database": "d"}]
    hosts: list[dict[str, object]] = [{"host": "h", "ports": ("27017",)}]  # a tuple becomes a list
    changes = BindingFields(username="u", roles=roles, endpoints=hosts, unsure_until=In(30), expires=EPOCH)
    steps: dict[str, StepFields] = {"settle": {"first": In(-3), "last": In(-1), "runs": 1}, "create": {"first": In(0)}}
    claim = claims.advance(claim, changes, {"step": "create", "in_flight": True}, steps=steps)
    later: dict[str, StepFields] = {"create": {"last": In(0), "result": StepResult.DONE}}
    claim = claims.advance(claim, None, {"step": "apply", "in_flight": False}, steps=later)
    stored = vars(claims.store.get(key))
    assert _without_moments(vars(claim.record)) == _without_moments(stored)
    for here, there in zip(_moments(vars(claim.record)), _moments(stored), strict=True):
        assert abs(here - there) < timedelta(seconds=1)


def _moments(value: object) -> list[datetime]:
    """Return all moments in a record."""
    if isinstance(value, datetime):
        return [value]
    if isinstance(value, BaseModel):
        return _moments(vars(value))
    return [moment for each in value.values() for moment in _moments(each)] if isinstance(value, Mapping) else []


def _without_moments(value: object) -> object:
    if isinstance(value, datetime):
        return "a moment"
    if isinstance(value, BaseModel):
        return _without_moments(vars(value))
    return {name: _without_moments(each) for name, each in value.items()} if isinstance(value, Mapping) else value


CHANGES, STEP = InstanceFields(cluster="another"), OperationFields(step="next")
WRITES: dict[str, Callable[[Claims, Claim[Any]], object]] = {
    "renew": Claims.renew,
    "advance": lambda claims, claim: claims.advance(claim, CHANGES, STEP),
    "reschedule": lambda claims, claim: claims.reschedule(claim, 1.0, CHANGES, STEP),
    "finish": lambda claims, claim: claims.finish(claim, State.SUCCEEDED, Phase.READY, CHANGES, "Done."),
}


@pytest.mark.parametrize("name", WRITES)
def test_under_a_lease_that_another_worker_has_taken_over_nothing_is_written(store: Store, name: str) -> None:
    operation_id = store.create({"instance_id": "lost"}, NewOperation(Kind.PROVISION), None) or ""
    key, late, other = instance_key("lost"), Claims(store, "late"), Claims(store, "other")
    lost = late.claim(key, operation_id)
    store.collection.update_one({"_id": key}, {"$set": {"operation.lease_until": EPOCH}})
    taken_over = other.claim(key, operation_id)
    assert lost
    assert taken_over
    before = store.collection.find_one({"_id": key})
    with pytest.raises(LeaseLostError):
        WRITES[name](late, lost)
    assert store.collection.find_one({"_id": key}) == before
    WRITES[name](other, taken_over)
    assert store.collection.find_one({"_id": key}) != before
