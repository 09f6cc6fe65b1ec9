"""Sections 2 and 3: one token for all workers, few challenges, and never near the end of a rate bucket."""

import pytest
import redis

from tests.atlas.broker import MAIN, OTHER, TIGHT, TOKEN, Broker, at_once, log_in
from tests.emulator.client import Emulator
from tests.tenant import works


@pytest.fixture(scope="module")
def _broker(processes: Broker) -> Broker:
    return processes


def bind_at_once(broker: Broker, instance: str, count: int, seconds: float = 60) -> list[str]:
    bindings = at_once(count, lambda _: broker.start_bind(instance))
    for binding in bindings:
        broker.credentials(instance, binding, seconds=seconds, every=0.3)
    return list(bindings)


def mints(broker: Broker, since: int = 0) -> int:
    return sum(call["path"] == TOKEN for call in broker.calls(since))


def test_all_workers_share_one_token(broker: Broker) -> None:
    instance = broker.instance(broker.cluster(project=OTHER), project=OTHER)
    mark = broker.mark()
    bind_at_once(broker, instance, 20)
    assert mints(broker, mark) == 0
    assert broker.atlas.live_tokens() >= 1


def test_a_revoked_token_is_replaced_by_one_mint_and_no_operation_notices(broker: Broker) -> None:
    """However often: a worker may still hold a token that was revoked before the last one."""
    instance = broker.instance(broker.cluster(project=OTHER), project=OTHER)
    for binds in (20, 1, 1, 8):
        mark = broker.mark()
        broker.atlas.revoke_tokens()
        bind_at_once(broker, instance, binds)
        assert mints(broker, mark) == 1
        assert broker.atlas.live_tokens() == 1


def test_the_shared_token_is_encrypted_where_it_is_kept(broker: Broker) -> None:
    broker.instance(broker.cluster(project=OTHER), project=OTHER)
    with broker.stack.state.client() as client:
        kept = client[broker.stack.database]["instances_housekeeping"].find_one({"_id": f"token/{Emulator.client_id}"})
    assert kept
    assert kept["sealed"].startswith("v2.")
    assert "eyJ" not in str(kept)
    assert "eyJhbGci" not in broker.logs()
    with redis.Redis.from_url(broker.stack.redis.uri) as store:
        assert not [key for key in store.scan_iter() if b"eyJ" in key or b"token" in key]


def test_a_working_day_costs_less_than_three_challenges_in_ten_calls(broker: Broker) -> None:
    """Provisions, binds, unbinds and polls of a worker's many threads, with nonces that end now and then."""
    mark = broker.mark()
    for _ in range(2):
        instance = broker.instance(broker.cluster())
        for binding in bind_at_once(broker, instance, 15):
            broker.client.unbind(instance, binding)
        broker.atlas.expire_nonces()
    calls = [call for call in broker.atlas.calls()[mark:] if MAIN in call["path"]]
    challenges = sum(call["challenge"] for call in calls)
    assert challenges <= 0.3 * (len(calls) - challenges)


def test_near_the_end_of_a_bucket_the_workers_slow_down_together_and_meet_no_429(
    broker: Broker, *, long_form: bool
) -> None:
    """Of 720 a tenth is 72: from then on thirty calls in ten seconds, which is half of what flows in."""
    if not long_form:
        pytest.skip("with --long: it takes half a minute; tests/integration/test_rate_limiter.py tests each rule alone")
    instance = broker.instance(broker.cluster(project=TIGHT), project=TIGHT)
    broker.atlas.rate("users", capacity=720, refill=360, left=78)
    bind_at_once(broker, instance, 12)  # what is under way when the first answer says so is not slowed down any more
    mark = broker.mark()
    bindings = bind_at_once(broker, instance, 64, seconds=120)
    posts = [call for call in broker.posts(mark) if TIGHT in call["path"]]
    assert [call["status"] for call in posts] == [201] * 64
    assert posts[-1]["start"] - posts[0]["start"] > 4
    assert "rate_limit_near" in broker.logs()
    assert works(broker.client.binding(instance, bindings[-1]).json["credentials"])


def test_another_project_is_not_slowed_down_by_it(broker: Broker) -> None:
    log_in(broker.bind(broker.instance(broker.cluster(), project=MAIN)))
