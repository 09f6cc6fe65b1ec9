"""The operator's commands on the state alone: what they print, change and refuse. Workers are claims of the test's."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from broker_api.state.database_reservations import ReservationRequest, Reservations
from broker_api.state.fields import BindingFields, InstanceFields, OperationFields, StepsFields
from broker_api.state.housekeeping import RECONCILED, Housekeeping
from broker_api.state.mongo import In
from broker_api.state.new_operation import NewOperation
from broker_api.state.operation_claims import Claims, LeaseLostError
from broker_api.state.records import Binding, Instance, Kind, Phase, State, StepResult, binding_key, instance_key
from broker_api.state.store import Store
from tests.books import insert_many
from tests.console import Console
from tests.dev.processes import free_port, run_to_end, script
from tests.dev.services import Mongod, Redis

SECRET = "sealed-credentials-of-a-binding"
SENTENCE = "Atlas said no."


@pytest.fixture
def console(store: Store, state_mongod: Mongod, redis_server: Redis) -> Console:
    name = store.collection.database.name
    return Console(
        {
            "BROKER_MONGO_URI": state_mongod.uri,
            "BROKER_MONGO_DB": name,
            "BROKER_MONGO_TIMEOUT_MS": "20000",
            "BROKER_REDIS_URL": redis_server.uri,
        }
    )


def provision(store: Store, instance_id: str = "i", phase: Phase | None = Phase.READY) -> str:
    """Begin a provision, and end it in this phase unless it is None; return the id of the operation."""
    fields = InstanceFields(instance_id=instance_id, project="p", cluster="c")
    operation_id = store.create(fields, NewOperation(Kind.PROVISION), None)
    assert operation_id
    key = instance_key(instance_id)
    if phase:
        end(store, key, phase)
    if phase is Phase.READY:
        store.collection.update_one({"_id": key}, {"$set": {"connection": '{"srv": "mongodb+srv://c"}'}})
    return operation_id


def bind(store: Store, binding_id: str = "b", phase: Phase | None = Phase.READY, instance_id: str = "i") -> str:
    fields = BindingFields(
        instance_id=instance_id,
        binding_id=binding_id,
        project="p",
        cluster="c",
        username="user",
        sealed_credentials=SECRET,
    )
    operation_id = store.create(fields, NewOperation(Kind.BIND), None)
    assert operation_id
    if phase:
        end(store, binding_key(instance_id, binding_id), phase)
    return operation_id


def delete(store: Store, key: str, kind: Kind, phase: Phase | None) -> str:
    found = record(store, key)
    operation_id = store.start(key, found.operation, NewOperation(kind), Phase.DELETING)
    assert operation_id
    if phase:
        end(store, key, phase)
    return operation_id


def end(store: Store, key: str, phase: Phase) -> None:
    """End an operation as a worker does; whatever does not end in the wanted phase of its kind has failed."""
    claims, operation = Claims(store), record(store, key).operation
    wanted = Phase.GONE if operation.kind in (Kind.UNBIND, Kind.DEPROVISION) else Phase.READY
    claim = claims.claim(key, operation.id)
    assert claim
    claims.finish(claim, State.SUCCEEDED if phase is wanted else State.FAILED, phase, None, SENTENCE)


def record(store: Store, key: str) -> Instance | Binding:
    found = store.get(key)
    assert found
    return found


# --- looking


def test_operations_are_listed_the_latest_first_and_by_every_filter(store: Store, console: Console) -> None:
    provisioned = provision(store)
    failed, waiting = bind(store, "b1", Phase.FAILED), bind(store, "b2", None)
    key = {"_id": binding_key("i", "b2")}
    store.collection.update_one(key, {"$set": {"operation.waits_on": "p/c"}})

    def ids(*words: str) -> list[str]:
        return [each["operation"] for each in console.json("operations", "list", *words)]

    assert ids() == [waiting, failed, provisioned]
    assert ids("--limit", "1") == [waiting]
    assert ids("--state", "failed") == [failed]
    assert ids("--state", "in-progress") == [waiting]
    assert ids("--type", "provision") == [provisioned]
    assert ids("--instance", "i", "--type", "bind") == [waiting, failed]
    assert ids("--instance", "other") == []
    assert ids("--waiting-on", "c") == ids("--waiting-on", "p/c") == [waiting]
    assert ids("--waiting-on", "cc") == []
    assert ids("--older-than", "5m") == []
    old = store.now() - timedelta(minutes=6)
    store.collection.update_one(key, {"$set": {"operation.accepted": old}})
    assert ids("--older-than", "5m") == [waiting]
    assert ids()[-1] == waiting


def test_a_table_has_whole_ids_and_says_when_there_may_be_more(store: Store, console: Console) -> None:
    provision(store)
    operation_id = bind(store, "a-binding-" + "x" * 150)
    done = console.run("operations", "list", "--limit", "1")
    assert "OPERATION" in done.stdout
    assert operation_id in done.stdout
    assert "x" * 150 in done.stdout
    assert "There may be more than these 1" in done.stderr
    assert "There are none." in console.run("operations", "list", "--state", "failed").stdout


def test_control_characters_of_an_id_do_not_reach_the_terminal(store: Store, console: Console) -> None:
    provision(store, "red\x1b[31m")
    for words in (["instances", "list"], ["instances", "show", "red"]):
        printed = console.run(*words).stdout
        assert "red\N{REPLACEMENT CHARACTER}[31m" in printed
        assert "\x1b" not in printed
    assert console.json("instances", "show", "red")["instance"] == "red\x1b[31m"


def test_an_operation_is_shown_by_the_start_of_its_id(store: Store, console: Console) -> None:
    provision(store)
    operation_id = bind(store, phase=Phase.FAILED)
    shown = console.json("operations", "show", operation_id[:12])
    assert (shown["operation"], shown["state"], shown["description"]) == (operation_id, "failed", SENTENCE)
    assert (shown["instance"], shown["binding"], shown["phase"]) == ("i", "b", "failed")
    assert SENTENCE in console.run("operations", "show", operation_id).stdout


def test_an_id_that_fits_none_or_several_is_refused_in_one_line(store: Store, console: Console) -> None:
    provision(store)
    one, other = bind(store, "b1"), bind(store, "b2")
    assert console.refusal("operations", "show", "x") == "There is no operation x, and none whose id begins so."
    several = console.refusal("operations", "show", "bind-")
    assert several.startswith("Several operations fit bind-: ")
    assert one in several
    assert other in several
    assert "Several bindings fit b: " in console.refusal("bindings", "show", "b")
    assert "no instance" in console.refusal("instances", "show", "I")
    assert "no binding" in console.refusal("bindings", "show", ".*")


def test_an_id_that_is_also_the_start_of_another_is_found(store: Store, console: Console) -> None:
    provision(store, "i")
    provision(store, "i2")
    assert console.json("instances", "show", "i")["instance"] == "i"
    bind(store, "b")
    bind(store, "b2")
    assert console.json("bindings", "show", "b")["binding"] == "b"
    bind(store, "b", instance_id="i2")
    assert "b of the instance i2" in console.refusal("bindings", "show", "b")
    assert console.json("bindings", "show", "b", "--instance", "i2")["instance"] == "i2"


def test_an_operation_that_another_has_followed_is_shown_but_not_changed(store: Store, console: Console) -> None:
    provision(store)
    bound = bind(store)
    unbound = delete(store, binding_key("i", "b"), Kind.UNBIND, None)
    shown = console.json("operations", "show", bound)
    assert (shown["state"], shown["followed_by"]) == ("succeeded", unbound)
    assert console.refusal("operations", "retry", bound) == f"{bound} is over: {unbound} has followed it."


def test_instances_and_bindings_are_listed_and_shown_without_a_secret(store: Store, console: Console) -> None:
    provision(store, "i1")
    provision(store, "i2")
    bind(store, "b1", instance_id="i1")
    bind(store, "b2", instance_id="i2")
    store.collection.update_one({"_id": instance_key("i2")}, {"$set": {"project": "q"}})
    delete(store, binding_key("i2", "b2"), Kind.UNBIND, Phase.GONE)

    def ids(what: str, *words: str) -> list[str]:
        return [each[what] for each in console.json(f"{what}s", "list", *words)]

    assert ids("instance") == ["i1", "i2"]
    assert ids("instance", "--project", "q") == ["i2"]
    assert ids("binding") == ["b1"]
    assert ids("binding", "--gone") == ["b1", "b2"]
    assert ids("binding", "--project", "p") == ids("binding", "--instance", "i1") == ["b1"]
    assert ids("binding", "--instance", "i") == []
    assert console.json("instances", "show", "i1")["bindings"] == ["b1"]
    for words in (["list"], ["show", "b1"], ["list", "--json"], ["show", "b1", "--json"]):
        printed = console.run("bindings", *words).output
        assert "b1" in printed
        assert SECRET not in printed


def test_lists_and_searches_read_few_documents_however_many_there_are(store: Store, console: Console) -> None:
    provision(store)
    bind(store)
    insert_many(
        store.collection,
        [
            {
                "_id": binding_key("other", f"{number:04}"),
                "instance_id": "other",
                "binding_id": f"{number:04}",
                "project": "other",
                "phase": "ready",
                "past": [{"id": f"bind-{number:04}"}],
                "operation": {"id": f"unbind-{number:04}", "kind": "unbind", "state": "succeeded", "open": False},
            }
            for number in range(3000)
        ],
    )
    database = store.collection.database
    for words in (
        ["operations", "list", "--limit", "2"],
        ["operations", "list", "--state", "failed"],
        ["operations", "show", "unbind-0007"],
        ["operations", "show", "bind-0007"],
        ["instances", "list"],
        ["bindings", "list", "--project", "p"],
        ["bindings", "show", "0007"],
    ):
        database.command("profile", 2)
        console.run(*words)
        database.command("profile", 0)
        looks = list(database["system.profile"].find({"ns": {"$regex": r"\.instances$"}}))
        database.drop_collection("system.profile")
        read = sum(look.get("docsExamined", 0) + look.get("keysExamined", 0) for look in looks)
        assert looks
        assert read < 100, (words, read)


def test_a_shown_operation_has_its_steps_its_worker_and_who_asked(store: Store, console: Console) -> None:
    identity = {"platform": "cloudfoundry", "value": {"user_id": "683ea748", "groups": ["as earlier releases stored"]}}
    begun = store.create({"instance_id": "i"}, NewOperation(Kind.PROVISION, identity=identity), None)
    assert begun
    claims, key = Claims(store, "celery@w"), instance_key("i")
    assert console.json("operations", "show", begun)["activity"] == "queued"
    claim = claims.claim(key, begun)
    assert claim
    claim = claims.advance(claim, None, {"step": "look"}, steps={"look": {"first": In(-2), "worker": "celery@w"}})
    shown = console.json("operations", "show", begun)
    assert (shown["worker"], shown["activity"]) == ("celery@w", "running")
    assert shown["asked_by"] == {"platform": "cloudfoundry", "user": "683ea748"}
    assert [(each["step"], each["result"], each["last"]) for each in shown["steps"]] == [("look", "running", None)]
    ended: StepsFields = {"look": {"last": In(0), "runs": 2, "result": StepResult.PUT_OFF, "reason": SENTENCE}}
    claims.reschedule(claim, 60, None, {"description": SENTENCE}, steps=ended)
    shown = console.json("operations", "show", begun)
    assert (shown["activity"], shown["held_by_worker_until"]) == ("waiting", None)
    (step,) = shown["steps"]
    assert (step["result"], step["runs"], step["reason"], step["worker"]) == ("put off", 2, SENTENCE, "celery@w")
    assert shown["accepted"] < shown["next_look"]
    printed = console.run("operations", "show", begun).stdout
    assert f"step: look, result: put off, runs: 2, first: {step['first']}" in printed


# --- retry and cancel


@pytest.mark.parametrize("kind", [Kind.PROVISION, Kind.BIND, Kind.UNBIND, Kind.DEPROVISION])
def test_a_failed_operation_is_in_progress_again_when_retry_returns(kind: Kind, store: Store, console: Console) -> None:
    provision(store, phase=Phase.FAILED if kind is Kind.PROVISION else Phase.READY)
    key = instance_key("i")
    if kind in (Kind.BIND, Kind.UNBIND):
        bind(store, phase=Phase.FAILED if kind is Kind.BIND else Phase.READY)
        key = binding_key("i", "b")
    if kind in (Kind.UNBIND, Kind.DEPROVISION):
        delete(store, key, kind, Phase.DELETING if kind is Kind.UNBIND else Phase.READY)
    before = record(store, key).operation
    assert before.state is State.FAILED
    assert console.json("operations", "retry", before.id)["state"] == "in progress"
    now = record(store, key)
    creates = kind in (Kind.PROVISION, Kind.BIND)
    assert now.phase is (Phase.CREATING if creates else Phase.DELETING)
    assert (now.operation.id, now.operation.open, now.operation.step, now.operation.description) == (
        before.id,
        True,
        "",
        None,
    )
    assert now.operation.deadline > before.deadline
    document = store.collection.find_one({"_id": key})
    assert document
    assert document["expire_at"] is None
    assert (document.get("slot") is not None) == (kind is Kind.BIND)  # the binding counts again for the quota
    assert Claims(store).claim(key, before.id)


def test_an_update_that_has_failed_is_retried_with_its_request_and_as_much_time(store: Store, console: Console) -> None:
    provision(store)
    key = instance_key("i")
    three_hours = NewOperation(Kind.UPDATE, '{"plan_id":"q"}', seconds=10_800)  # for a cluster of its own
    update = store.start(key, record(store, key).operation, three_hours, Phase.READY)
    assert update
    claim = Claims(store).claim(key, update)
    assert claim
    Claims(store).finish(claim, State.FAILED, Phase.READY, None, SENTENCE)
    assert console.json("operations", "retry", update)["state"] == "in progress"
    now = record(store, key)
    assert (now.phase, now.operation.kind, now.operation.request) == (Phase.READY, Kind.UPDATE, '{"plan_id":"q"}')
    assert now.operation.deadline - now.operation.accepted == timedelta(hours=3)


def test_a_delete_that_goes_on_after_its_deadline_gets_a_new_one(store: Store, console: Console) -> None:
    provision(store)
    bind(store)
    key = binding_key("i", "b")
    unbind = delete(store, key, Kind.UNBIND, None)
    claim = Claims(store).claim(key, unbind)
    assert claim
    store.collection.update_one({"_id": key}, {"$set": {"operation.deadline": store.now()}})
    assert len(Claims(store).expire()) == 1
    assert console.json("operations", "show", unbind)["state"] == "failed, still removing"
    assert console.json("operations", "retry", unbind)["state"] == "in progress"
    with pytest.raises(LeaseLostError):
        Claims(store).finish(claim, State.SUCCEEDED, Phase.GONE, None, "")
    assert record(store, key).operation.state is State.IN_PROGRESS


def test_what_cannot_be_retried_is_refused_with_the_reason(store: Store, console: Console) -> None:
    provisioned = provision(store)
    assert "is succeeded; only a failed" in console.refusal("operations", "retry", provisioned)
    running = bind(store, "running", None)
    assert "is in progress; only a failed" in console.refusal("operations", "retry", running)
    console.run("operations", "cancel", running)
    assert "still removing what it made" in console.refusal("operations", "retry", running)
    failed = bind(store, "failed", Phase.FAILED)
    delete(store, instance_key("i"), Kind.DEPROVISION, None)
    assert "the instance i is not ready" in console.refusal("operations", "retry", failed)
    assert record(store, binding_key("i", "failed")).operation.state is State.FAILED


@pytest.mark.parametrize("kind", [Kind.BIND, Kind.UNBIND])
def test_a_cancelled_operation_has_failed_at_once_and_is_undone(kind: Kind, store: Store, console: Console) -> None:
    provision(store)
    key = binding_key("i", "b")
    operation_id = bind(store, phase=None if kind is Kind.BIND else Phase.READY)
    if kind is Kind.UNBIND:
        operation_id = delete(store, key, kind, None)
    claim = Claims(store).claim(key, operation_id)
    assert claim
    error = OperationFields(error=SENTENCE, step="create", in_flight=True)
    Claims(store).advance(claim, None, error)
    shown = console.json("operations", "cancel", operation_id)
    assert shown["state"] == "failed, still removing"
    assert shown["description"] == f"The operator of the broker has cancelled the operation. {SENTENCE}"
    now = record(store, key)
    assert now.phase is (Phase.FAILED if kind is Kind.BIND else Phase.DELETING)
    assert (now.operation.undo, now.operation.step, now.operation.open) == (True, "", True)
    assert now.unsure_until
    assert now.unsure_until > store.now()
    with pytest.raises(LeaseLostError):
        Claims(store).finish(claim, State.SUCCEEDED, Phase.READY, None, "")
    assert Claims(store).claim(key, operation_id) is None  # until the worker has ended its step
    Claims(store).release(claim, unsure_until=None)
    undoing = Claims(store).claim(key, operation_id)
    assert undoing
    assert undoing.record.unsure_until is None
    assert "only one in progress can be cancelled" in console.refusal("operations", "cancel", operation_id)


def test_of_a_cancel_and_a_worker_that_finishes_only_one_wins(store: Store, console: Console) -> None:
    provision(store)
    for number in range(10):
        operation_id = bind(store, f"b{number}", None)
        key = binding_key("i", f"b{number}")
        claim = Claims(store).claim(key, operation_id)
        assert claim
        with ThreadPoolExecutor(1) as pool:
            finished = pool.submit(Claims(store).finish, claim, State.SUCCEEDED, Phase.READY, None, "")
            cancelled = console.run("operations", "cancel", operation_id).exit_code == 0
        assert isinstance(finished.exception(), LeaseLostError) == cancelled
        assert cancelled or finished.exception() is None
        assert (record(store, key).phase is Phase.FAILED) == cancelled


def test_each_change_leaves_an_entry_with_user_and_time(store: Store, console: Console) -> None:
    provision(store)
    operation_id = bind(store, phase=Phase.FAILED)
    before = store.now()
    console.run("operations", "retry", operation_id)
    console.run("operations", "cancel", operation_id)
    entries = record(store, binding_key("i", "b")).operation.actions
    assert [entry.command for entry in entries] == ["operations retry", "operations cancel"]
    assert all(entry.at >= before and "@" in entry.user for entry in entries)
    assert "operations cancel" in console.run("operations", "show", operation_id).stdout
    delete(store, binding_key("i", "b"), Kind.UNBIND, None)
    assert record(store, binding_key("i", "b")).operation.actions == ()
    assert len(console.json("operations", "show", operation_id)["actions"]) == 2


def test_a_retry_needs_no_redis(store: Store, console: Console) -> None:
    provision(store)
    operation_id = bind(store, phase=Phase.FAILED)
    away = Console({**console.settings, "BROKER_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"})
    done = away.run("operations", "retry", operation_id)
    assert done.exit_code == 0
    assert "workers look for such operations themselves" in done.stderr
    store.collection.update_one({"_id": binding_key("i", "b")}, {"$set": {"operation.dispatched": before_long(store)}})
    assert [due.operation_id for due in Claims(store).due(10)] == [operation_id]


def before_long(store: Store) -> object:
    return store.now() - timedelta(minutes=1)


# --- purge


def test_a_purged_binding_is_gone_and_holds_no_secret(store: Store, console: Console) -> None:
    provision(store)
    operation_id = bind(store, phase=None)
    key = binding_key("i", "b")
    claim = Claims(store).claim(key, operation_id)
    assert claim
    assert "Confirm with --yes" in console.refusal("purge", "binding", "b")
    assert record(store, key).phase is Phase.CREATING
    assert console.json("purge", "binding", "b", "--yes") == {"purged": "b", "instance": "i"}
    now = record(store, key)
    assert isinstance(now, Binding)
    assert (now.phase, now.sealed_credentials, now.username, now.made) == (Phase.GONE, None, None, False)
    assert (now.operation.kind, now.operation.state, now.operation.open) == (Kind.UNBIND, State.SUCCEEDED, False)
    assert [entry.command for entry in now.operation.actions] == ["purge"]
    assert now.known_operation(operation_id).state == State.FAILED
    assert 47 < hours_left(store, key) <= 48
    with pytest.raises(LeaseLostError):
        Claims(store).finish(claim, State.SUCCEEDED, Phase.READY, None, "")
    assert console.refusal("purge", "binding", "b", "--yes") == "The binding b is gone already."


def hours_left(store: Store, key: str) -> float:
    document = store.collection.find_one({"_id": key})
    assert document
    seconds: float = (document["expire_at"] - store.now()).total_seconds()
    return seconds / 3600


def test_a_delete_that_hangs_succeeds_when_it_is_purged(store: Store, console: Console) -> None:
    provision(store)
    operation_id = delete(store, instance_key("i"), Kind.DEPROVISION, None)
    console.json("purge", "instance", "i", "--yes")
    now = record(store, instance_key("i"))
    assert (now.phase, now.operation.id, now.operation.state) == (Phase.GONE, operation_id, State.SUCCEEDED)
    assert not now.operation.open


def test_an_instance_with_bindings_is_purged_only_with_them(store: Store, console: Console) -> None:
    provision(store)
    bind(store, "b1")
    bind(store, "b2", None)
    bind(store, "b3", Phase.FAILED)
    refusal = console.refusal("purge", "instance", "i", "--yes")
    assert refusal == "The instance i has 2 bindings; purge them too: --with-bindings."
    assert record(store, instance_key("i")).phase is Phase.READY
    assert console.json("purge", "instance", "i", "--yes", "--with-bindings") == {"purged": "i", "bindings": 2}
    assert [record(store, binding_key("i", each)).phase for each in ("b1", "b2")] == [Phase.GONE, Phase.GONE]


def test_a_purge_that_was_interrupted_is_finished_by_another(store: Store, console: Console) -> None:
    provision(store)
    console.json("purge", "instance", "i", "--yes")
    bind(store)
    assert console.json("purge", "instance", "i", "--yes", "--with-bindings") == {"purged": "i", "bindings": 1}
    assert record(store, binding_key("i", "b")).phase is Phase.GONE


@pytest.mark.parametrize("phase", [Phase.READY, None])
def test_a_purged_instance_ends_its_reservation_of_a_database(
    phase: Phase | None, store: Store, console: Console
) -> None:
    provision(store, phase=phase)
    store.collection.update_one({"_id": instance_key("i")}, {"$set": {"database": "d", "owned": True}})
    found = record(store, instance_key("i"))
    assert isinstance(found, Instance)
    databases = Reservations(Housekeeping(store))
    databases.reserve(ReservationRequest(found, found.owner, owned=True))
    assert databases.begin_drop(found, [])
    console.json("purge", "instance", "i", "--yes")
    reserved = databases.find(found)
    if phase is None:
        assert reserved is None
    else:
        assert reserved
        assert (reserved.instance_ids, reserved.dropping, reserved.owned) == ((), None, True)
    assert console.refusal("purge", "instance", "i", "--yes") == "The instance i is gone already."


# --- trouble


def test_mongodb_that_does_not_answer_is_one_line(console: Console) -> None:
    away = {"BROKER_MONGO_URI": f"mongodb://127.0.0.1:{free_port()}", "BROKER_MONGO_TIMEOUT_MS": "300"}
    for words in (["operations", "list"], ["instances", "show", "i"], ["purge", "binding", "b", "--yes"]):
        refusal = Console({**console.settings, **away}).refusal(*words)
        assert refusal.startswith("MongoDB cannot be used: the connection is refused; look at BROKER_MONGO_URI")


def test_a_missing_setting_is_one_line_without_a_traceback() -> None:
    command = [str(script("atlas-broker")), "operations", "list"]
    done = run_to_end(command)
    assert done.returncode == 1
    assert done.stderr.startswith("atlas-broker: BROKER_MONGO_URI: must be")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["--older-than", "5"], ["--state", "lost"], ["--limit", "0"]])
def test_a_wrong_option_is_exit_status_2(words: list[str], console: Console) -> None:
    assert console.run("operations", "list", *words).exit_code == 2


def test_reconcile_says_so_when_no_worker_answers_or_redis_is_away(store: Store, console: Console) -> None:
    Housekeeping(store).write(RECONCILED, {"run": "of another command", "orphans": 7})
    assert console.refusal("reconcile", "--wait", "1").startswith("No result after 1 s: see whether a worker serves")
    away = Console({**console.settings, "BROKER_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"})
    done = away.run("reconcile")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("Error: Redis does not answer: connection refused")
