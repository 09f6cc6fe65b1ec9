"""Section 5.1 of what is known of Atlas: users that can log in when they are handed out, at the price of few calls."""

import time
from dataclasses import dataclass
from itertools import chain

import pytest
from pymongo.errors import OperationFailure

from broker_api.config import BindingView, Config
from tests.atlas.broker import CROWD, STATUS, Broker, at_once, can_write, foreign_user, log_in
from tests.dev.emulated import AtlasEmulator
from tests.dev.services import Mongod, Redis
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.in_process import in_this_process
from tests.osb_client import Json
from tests.tenant import eventually, works


@pytest.fixture(scope="module")
def _broker(processes: Broker) -> Broker:
    return processes


def test_a_stale_applied_cannot_fool_a_bind_however_binds_overlap(
    broker: Broker, atlas: Emulator, *, long_form: bool
) -> None:
    instance = broker.instance(broker.cluster())
    atlas.apply_after(seconds=0.4, stale_seconds=0.8)

    def bind_and_log_in(number: int) -> None:
        time.sleep(number * 0.15)
        log_in(broker.bind(instance))

    at_once(30 if long_form else 16, bind_and_log_in)


def test_a_stale_applied_cannot_fool_a_bind_after_an_unbind(broker: Broker, atlas: Emulator) -> None:
    instance = broker.instance(broker.cluster())
    atlas.apply_after(seconds=0.3, stale_seconds=0.8)
    for _ in range(2):
        first = broker.start_bind(instance)
        log_in(broker.credentials(instance, first))
        broker.client.unbind(instance, first)
        log_in(broker.bind(instance))


def test_a_stale_applied_cannot_fool_an_update_of_roles(broker: Broker, atlas: Emulator) -> None:
    instance = broker.instance(broker.cluster())
    credentials = broker.bind(instance)
    atlas.apply_after(seconds=0.4, stale_seconds=0.8)
    assert broker.client.update(instance, {"level": "reading"}).status == 202
    assert broker.client.wait(instance).state == "succeeded"
    assert not can_write(credentials)


def test_an_unbind_has_succeeded_when_the_user_can_no_longer_log_in(broker: Broker, atlas: Emulator) -> None:
    instance = broker.instance(broker.cluster())
    binding = broker.start_bind(instance)
    credentials = broker.credentials(instance, binding)
    atlas.apply_after(seconds=0.5, stale_seconds=0.5)
    broker.unbind(instance, binding)
    with pytest.raises(OperationFailure):
        log_in(credentials)


def test_an_unrelated_change_keeps_a_bind_waiting_and_does_not_fail_it(broker: Broker, atlas: Emulator) -> None:
    cluster = broker.cluster()
    instance = broker.instance(cluster)
    atlas.apply_by_hand()
    with foreign_user(atlas, cluster):
        atlas.apply_after(seconds=0.2)
        binding = broker.start_bind(instance)
        time.sleep(2.5)
        assert broker.in_progress(instance, binding)
        atlas.apply_now()
        log_in(broker.credentials(instance, binding))


def test_what_a_platform_reads_meanwhile_names_the_cluster(broker: Broker, atlas: Emulator) -> None:
    cluster = broker.cluster()
    instance = broker.instance(cluster)
    atlas.apply_by_hand()
    binding = broker.start_bind(instance)
    waiting = f"Waiting until Atlas has applied the change on the cluster {cluster}."
    eventually(lambda: broker.client.last_operation(instance, binding).description == waiting)
    atlas.apply_now()
    log_in(broker.credentials(instance, binding))


def test_a_poll_that_fails_is_repeated(broker: Broker, atlas: Emulator) -> None:
    instance = broker.instance(broker.cluster())
    atlas.drop("GET", "/status", times=1)
    log_in(broker.bind(instance))
    atlas.fail("GET", "/status", status=503, html=True, times=1)
    log_in(broker.bind(instance))


# --- a hundred at once


@dataclass
class Crowd:
    """What a hundred binds at once on one cluster have cost; the project is full then."""

    broker: Broker
    instance: str
    credentials: list[Json]
    calls: list[Json]
    challenges: int
    seconds: float


@pytest.fixture(scope="module")
def crowd(_broker: Broker) -> Crowd:
    cluster = _broker.cluster(project=CROWD)
    instance = _broker.instance(cluster, project=CROWD)
    _broker.atlas.apply_after(seconds=2, stale_seconds=0.3)
    began, mark = time.monotonic(), _broker.mark()
    bindings = at_once(100, lambda _: _broker.start_bind(instance))
    chunks = at_once(10, lambda n: [_broker.credentials(instance, each, every=0.5) for each in bindings[n::10]])
    seconds = time.monotonic() - began
    everything = [call for call in _broker.atlas.calls()[mark:] if CROWD in call["path"]]
    calls = [call for call in everything if not call["challenge"]]
    _broker.atlas.calm()
    return Crowd(_broker, instance, list(chain(*chunks)), calls, len(everything) - len(calls), seconds)


def test_a_hundred_binds_at_once_give_a_hundred_users_that_work(crowd: Crowd) -> None:
    assert len({each["username"] for each in crowd.credentials}) == 100
    assert all(at_once(10, lambda n: all(works(each) for each in crowd.credentials[n::10])))


def test_a_hundred_binds_cost_a_hundred_posts_and_a_handful_of_polls(crowd: Crowd) -> None:
    kinds = [(call["method"], call["template"]) for call in crowd.calls]
    assert kinds.count(("POST", "/groups/{groupId}/databaseUsers")) == 100
    # One a second, and some at the start: see the next test. Each bind with polls of its own would cost hundreds.
    assert 1 <= kinds.count(("GET", STATUS)) <= crowd.seconds + 6
    assert len(kinds) == 100 + kinds.count(("GET", STATUS))  # no user is looked for, no cluster read


def test_a_cluster_is_polled_after_growing_pauses(crowd: Crowd) -> None:
    """After 0.1, 0.2, 0.4, 0.8 s, then once a second; a worker that stands still may send one of its polls late."""
    polls = sorted(call["start"] for call in crowd.calls if call["template"] == STATUS)
    short, stall = 4, 1
    assert len(polls) - 1 <= polls[-1] - polls[0] + short + stall


def test_a_hundred_binds_are_challenged_less_than_three_times_in_ten_calls(crowd: Crowd) -> None:
    assert crowd.challenges <= 0.3 * len(crowd.calls)


def test_the_workers_warn_at_eighty_users_of_a_hundred(crowd: Crowd) -> None:
    # The sweeper counts every ten seconds.
    eventually(lambda: "project_nearly_full_of_users" in crowd.broker.logs(), "a worker warns")


def test_group_users_limit_exceeded_fails_a_bind_with_what_to_do(crowd: Crowd) -> None:
    sentence = crowd.broker.failed_bind(crowd.instance)
    assert CROWD in sentence
    assert "holds as many database users as Atlas allows" in sentence
    assert "Remove bindings" in sentence


# --- logging in before handing out


@pytest.fixture
def verifying(state_mongod: Mongod, cluster_mongod: Mongod, redis_server: Redis, atlas_of_many: AtlasEmulator) -> Stack:
    """A stack that logs in with each new user; nothing else guards it against a stale APPLIED."""
    settings = {
        "BROKER_SETTLE_SECONDS": "0",
        "BROKER_VERIFY_LOGIN": "true",
        "BROKER_REDIS_URL": redis_server.uri.removesuffix("/0") + "/4",
    }
    return Stack(
        flower=False,
        settings=settings,
        state=state_mongod,
        cluster=cluster_mongod,
        redis=redis_server,
        emulator=atlas_of_many,
    )


def test_verify_login_retries_until_the_fresh_user_can_log_in(verifying: Stack, atlas: Emulator) -> None:
    with in_this_process(verifying), verifying.client() as client:
        broker = Broker(verifying, client)
        instance = broker.instance(broker.cluster())
        atlas.apply_after(seconds=0.5, stale_seconds=1.5)
        for _ in range(2):
            log_in(broker.bind(instance))
        assert "can log in to the cluster" not in broker.client.last_operation(instance).description


class OnlyNameAndPassword(Config):
    """Its applications know the hosts of their cluster themselves."""

    def generate_binding_credentials(self, binding: BindingView) -> Json:
        credentials = super().generate_binding_credentials(binding)
        return {name: credentials[name] for name in ("username", "password")}


def test_verify_login_needs_no_connection_string_in_the_credentials(verifying: Stack) -> None:
    atlas = verifying.emulator
    config = OnlyNameAndPassword(
        {"user": atlas.public_key, "password": atlas.private_key, "group": atlas.project_id}, None
    )
    with in_this_process(verifying, config), verifying.client() as client:
        broker = Broker(verifying, client)
        instance = broker.instance(broker.cluster())
        assert broker.bind(instance).keys() == {"username", "password"}
