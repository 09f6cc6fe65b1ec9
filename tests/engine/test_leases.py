"""The renewal of leases in the background."""

import time
from contextlib import ExitStack
from typing import Any

from broker_api.state.operation_claims import Claim, Claims
from broker_api.state.records import Kind, instance_key
from broker_api.state.store import NewOperation, Store
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
            leases[name] = held.enter_context(keeper.holding(claim, time.monotonic()))
        rounds = {leases[SOUND].until}

        def is_renewed() -> bool:
            rounds.add(leases[SOUND].until)
            return len(rounds) > 2  # in the first round the sound one may come before the other

        eventually(is_renewed, "it is renewed twice")
    assert not leases[SOUND].lost
