"""A lease that was given back stays given back: a renewal that comes late must not hold the operation again."""

import pytest

from broker_api.state.new_operation import NewOperation
from broker_api.state.operation_claims import Claim, Claims, LeaseLostError
from broker_api.state.records import Instance, Kind, Phase, State, instance_key
from broker_api.state.store import Store


@pytest.fixture
def claim(store: Store) -> Claim[Instance]:
    begun = store.create({"instance_id": "i"}, NewOperation(Kind.PROVISION), None)
    assert begun is not None
    claim = Claims(store).claim(instance_key("i"), begun)
    assert claim is not None
    return claim


def test_a_lease_can_be_renewed_while_it_is_held(store: Store, claim: Claim[Instance]) -> None:
    Claims(store).renew(claim)
    assert Claims(store).claim(claim.record.key, claim.operation_id) is None


def test_a_renewal_after_a_put_off_does_not_hold_the_operation(store: Store, claim: Claim[Instance]) -> None:
    claims = Claims(store)
    claims.reschedule(claim, 0, {}, {})
    with pytest.raises(LeaseLostError):
        claims.renew(claim)
    assert claims.claim(claim.record.key, claim.operation_id) is not None


def test_a_renewal_after_the_end_does_not_hold_up_the_next_operation(store: Store, claim: Claim[Instance]) -> None:
    claims = Claims(store)
    claims.finish(claim, State.SUCCEEDED, Phase.READY, {}, "done")
    with pytest.raises(LeaseLostError):
        claims.renew(claim)
    found = store.instance("i")
    assert found is not None
    begun = store.start(found.key, found.operation, NewOperation(Kind.DEPROVISION), Phase.DELETING)
    assert begun is not None
    assert claims.claim(found.key, begun) is not None
