"""Short, exact stories of one rule each. They pass on the product; each planted fault must make one of them fail."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from tests.books import make_user
from tests.chaos.chaos import USERS, Chaos, paused
from tests.osb_client import IN_PROGRESS, Answer
from tests.tenant import Tenant, ends, eventually, succeeds, works

Scenario = Callable[[Chaos], None]


def nothing_is_sent_before_it_is_written(chaos: Chaos) -> None:
    """While MongoDB takes no writes there is no message: a worker would find nothing, and the message were lost."""
    admin = chaos.state.admin
    with chaos.platform() as platform, ThreadPoolExecutor(1) as pool:
        admin.command("fsync", lock=True)
        try:
            before = messages(chaos)
            asked = pool.submit(platform.provision, str(uuid4()), {"cluster": chaos.cluster})
            time.sleep(1.5)
            assert messages(chaos) == before, "a message is in Redis, and nothing is in MongoDB"
        finally:
            admin.command("fsyncUnlock")
        assert asked.result().status == 202


def messages(chaos: Chaos) -> int:
    """How many Redis has ever taken."""
    with chaos.stack.redis.client() as redis:
        return int(redis.info("commandstats").get("cmdstat_lpush", {"calls": 0})["calls"])


def what_redis_lost_is_sent_by_the_sweep(chaos: Chaos) -> None:
    """Operations accepted while Redis did not answer are worked on all the same, also when their API has died."""
    with chaos.platform() as platform, ThreadPoolExecutor(1) as pool:
        first, second = str(uuid4()), str(uuid4())
        with paused(chaos.stack.redis):
            answer = platform.provision(first, {"cluster": chaos.cluster}, timeout=6)
            assert (answer.status, answer.seconds < 2.0) == (202, True), f"{answer.text} after {answer.seconds:.1f} s"
            time.sleep(2.1)  # sending pauses for so long after a failure
            asked = pool.submit(platform.provision, second, {"cluster": chaos.cluster}, timeout=6)
            eventually(lambda: chaos.records.find_one({"instance_id": second}), "it is written")
            chaos.kill(chaos.stack.api)
            assert asked.exception(), "the API has answered before it could be killed"
        chaos.stack.redis.flush()
        chaos.start(chaos.stack.api)
        succeeds(platform, answer, first, seconds=20.0)
        # Nobody asks for the second again: what was written is worked on by itself.
        assert platform.wait(second, seconds=20.0).state == "succeeded"


def credentials_come_when_they_work(chaos: Chaos) -> None:
    """A bind ends only once Atlas says APPLIED, not while it says PENDING."""
    with chaos.tenant() as (tenant, _):
        chaos.atlas.apply_after(seconds=2.5)
        assert works(tenant.bind()), "succeeded, and the log-in is refused"


def an_applied_of_before_is_not_believed(chaos: Chaos) -> None:
    """Atlas goes on saying APPLIED for a moment after the change, before it says PENDING."""
    with chaos.tenant() as (tenant, _):
        chaos.atlas.apply_after(seconds=2.0, stale_seconds=0.7)
        assert works(tenant.bind()), "succeeded, and the log-in is refused"


def a_refused_delete_is_no_success(chaos: Chaos) -> None:
    """401, 403 and 503 never mean that the user is gone."""
    with chaos.tenant() as (tenant, binding_id):
        tenant.bind(binding_id)
        for status in (503, 403, 401):
            chaos.atlas.fail("DELETE", binding_id, status=status, html=status == 503)
        tenant.unbind(binding_id)
        assert binding_id not in chaos.users(), "the unbind succeeded, and the user is still there"


def a_user_made_without_an_answer_gets_the_given_password(chaos: Chaos) -> None:
    """Atlas makes the user and closes the connection; the next attempt meets 409, and the password is the same."""
    with chaos.tenant() as (tenant, binding_id):
        chaos.atlas.drop("POST", USERS, when="after", body=binding_id)
        assert works(tenant.bind(binding_id)), "the password is not the one that Atlas has"


def a_user_left_with_our_labels_gets_the_given_password(chaos: Chaos) -> None:
    """A 409 on a user with this binding's labels: it is ours, whatever password it had."""
    with chaos.tenant() as (tenant, binding_id):
        ids = {"instance_id": tenant.instance_id, "binding_id": binding_id}
        make_user(chaos.atlas, binding_id, labels=[{"key": key, "value": value} for key, value in ids.items()])
        assert works(tenant.bind(binding_id)), "the password is not the one that Atlas has"


def a_user_of_somebody_else_is_not_touched(chaos: Chaos) -> None:
    """A 409 on a user without our labels fails with a sentence; the user keeps its password, also after unbind."""
    with chaos.tenant() as (tenant, binding_id):
        make_user(chaos.atlas, binding_id, labels=[{"key": "team", "value": "somebody else's"}])
        ended = tenant.end(tenant.client.bind(tenant.instance_id, binding_id), binding_id)
        assert (ended.state, binding_id in ended.description) == ("failed", True), ended.text
        tenant.unbind(binding_id)
        assert not chaos.calls("PATCH", binding_id)
        assert not chaos.calls("DELETE", binding_id)


def two_workers_never_work_on_the_same_operation(chaos: Chaos) -> None:
    """Copies of its message, while one worker waits for Atlas, cause no second call."""
    with chaos.tenant() as (tenant, binding_id):
        rule = chaos.atlas.hang("POST", USERS, seconds=3, when="after", body=binding_id)
        answer = tenant.client.bind(tenant.instance_id, binding_id)
        chaos.arrives(rule)
        for _ in range(8):
            chaos.send_again("bind", tenant.instance_id, binding_id, answer.operation)
        tenant.succeed(answer, binding_id)
        assert not chaos.calls("PATCH", binding_id), "a second worker asked for the same user meanwhile"


def a_worker_that_lost_its_lease_writes_nothing(chaos: Chaos) -> None:
    """Stopped while Atlas was about to refuse, it wakes when another worker has long succeeded, and undoes nothing."""
    with chaos.tenant() as (tenant, binding_id):
        sleeper, other = chaos.stack.workers
        with paused(other):
            full = {"status": 400, "error_code": "GROUP_USERS_LIMIT_EXCEEDED"}
            rule = chaos.atlas.rule(method="POST", path=USERS, body=binding_id, hang_before=1, **full)
            answer = tenant.client.bind(tenant.instance_id, binding_id)
            chaos.arrives(rule)
            sleeper.pause()
        tenant.succeed(answer, binding_id)
        sleeper.resume()
        eventually(lambda: "lease_lost" in sleeper.log_text(), "the sleeper notices")
        time.sleep(3)
        assert works(tenant.credentials(binding_id)), "the sleeper has removed the user"


def a_failed_bind_leaves_no_user(chaos: Chaos) -> None:
    """The user was made, then Atlas refuses for good to tell the status: the operation fails, and the user goes."""
    chaos.atlas.put_cluster(cluster := f"cluster-{uuid4().hex[:8]}")
    with chaos.tenant(cluster=cluster) as (tenant, binding_id):
        chaos.atlas.fail("GET", f"/clusters/{cluster}/status", status=400, error_code="INVALID_ATTRIBUTE")
        ended = tenant.end(tenant.client.bind(tenant.instance_id, binding_id), binding_id)
        assert ended.state == "failed", ended.text
        assert binding_id not in chaos.users(), "a failed bind has left its user"


def what_atlas_refuses_for_good_fails_at_once(chaos: Chaos) -> None:
    """Provision, bind, unbind and deprovision alike; an unbind that failed can be asked for again."""
    with chaos.tenant() as (tenant, binding_id):
        tenant.bind(binding_id)
        chaos.atlas.fail("DELETE", binding_id, status=400, error_code="INVALID_ATTRIBUTE")
        answer = tenant.client.unbind(tenant.instance_id, binding_id)
        ended = ends(tenant.client, answer, tenant.instance_id, binding_id, seconds=10.0)
        assert ended.state == "failed", ended.text
        assert "INVALID_ATTRIBUTE" in ended.description
        tenant.unbind(binding_id)
        assert binding_id not in chaos.users()


def a_temporary_user_made_late_is_removed(chaos: Chaos) -> None:
    """The request for it acts after the worker has given it up, made the user by another one, and removed it."""
    with chaos.tenant(**{"policy-on-delete": "drop"}) as (tenant, _):
        chaos.atlas.hang("POST", USERS, seconds=14, body=tenant.instance_id)
        tenant.deprovision()
        chaos.calls_end()
        assert not {user for user in chaos.users() if user.startswith("atlas-broker-")}, "a temporary user is left"


def no_binding_survives_its_instance(chaos: Chaos) -> None:
    """A deprovision ends the bind that is under way, and leaves no user of it."""
    with chaos.tenant() as (tenant, binding_id):
        rule = chaos.atlas.hang("POST", USERS, seconds=2, body=binding_id)
        tenant.client.bind(tenant.instance_id, binding_id)
        chaos.arrives(rule)
        tenant.deprovision()
        chaos.calls_end()
        assert binding_id not in chaos.users(), "a user is left of an instance that is gone"


def an_unbind_waits_for_a_request_that_is_still_under_way(chaos: Chaos) -> None:
    """The request to make the user reaches Atlas after the worker has given it up, and after the unbind."""
    with chaos.tenant() as (tenant, binding_id):
        rule = chaos.atlas.hang("POST", USERS, seconds=13, body=binding_id)
        tenant.client.bind(tenant.instance_id, binding_id)
        chaos.arrives(rule)
        tenant.unbind(binding_id)
        chaos.calls_end()
        assert binding_id not in chaos.users(), "a user came into being after its unbind had succeeded"


def a_waiting_operation_holds_no_worker(chaos: Chaos) -> None:
    """As many binds as the workers have slots wait for Atlas; another instance's provision is done meanwhile."""
    with chaos.tenant() as (tenant, _):
        chaos.atlas.apply_by_hand()
        answers = binds(tenant, 70)
        waiting = {"operation.step": "apply"}
        eventually(lambda: chaos.records.count_documents(waiting) >= len(answers), "all wait", 40.0)
        Tenant(tenant.client).provision()
        assert {tenant.client.last_operation(tenant.instance_id, each).state for each in answers} == {IN_PROGRESS}
        chaos.atlas.apply_now()
        for each, answer in answers.items():
            tenant.succeed(answer, each)
        polls = [call for call in chaos.atlas.calls("GET") if call["path"].endswith("/status")]
        assert len(polls) < len(answers) / 3, "bindings polled for themselves"


def binds(tenant: Tenant, count: int) -> dict[str, Answer]:
    """Ask for so many, and do not wait; the answers by the ids of the bindings."""
    return {each: tenant.client.bind(tenant.instance_id, each) for each in (str(uuid4()) for _ in range(count))}


ALONE: list[Scenario] = [
    nothing_is_sent_before_it_is_written,
    what_redis_lost_is_sent_by_the_sweep,
    credentials_come_when_they_work,
    an_applied_of_before_is_not_believed,
    a_waiting_operation_holds_no_worker,
]
"""These stop a server, or change how Atlas applies changes."""
SIDE_BY_SIDE: list[Scenario] = [
    a_refused_delete_is_no_success,
    a_user_made_without_an_answer_gets_the_given_password,
    a_user_left_with_our_labels_gets_the_given_password,
    a_user_of_somebody_else_is_not_touched,
    two_workers_never_work_on_the_same_operation,
    a_failed_bind_leaves_no_user,
    what_atlas_refuses_for_good_fails_at_once,
    no_binding_survives_its_instance,
]
"""Each has users and clusters of its own."""
