"""Ownership of databases: users reach and destroy only what their own organization and space have put there."""

import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from tests.atlas.broker import MAIN, Broker, ManyProjects, at_once, new_id, project_secrets
from tests.atlas.databases.test_dropping import DROP, exists, write
from tests.atlas.operator_config import AnyDatabase
from tests.books import document, held, sign
from tests.emulator.client import Emulator
from tests.in_process import in_this_process
from tests.osb_client import Answer, Json
from tests.tenant import eventually

DATABASES = "/processes/[^/]+/databases"
LIST = "/groups/{groupId}/processes/{processId}/databases"


@pytest.fixture
def name() -> str:
    return f"payroll-{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def _any_database(many_projects: Callable[[float], ManyProjects]) -> Iterator[Broker]:
    stack = many_projects(0)
    with in_this_process(stack, AnyDatabase({"atlas": project_secrets()})) as log, stack.client() as client:
        yield Broker(stack, client, [log])


@pytest.fixture
def any_database(_any_database: Broker, broker: Broker) -> Broker:
    """A broker whose Config says that instances may have any database; ``broker`` calms Atlas afterwards."""
    assert broker
    return _any_database


def tenant(organization: str, space: str = "space") -> Json:
    return {"organization_guid": organization, "space_guid": space}


def ask(broker: Broker, cluster: str, owner: Json | None = None, **parameters: object) -> tuple[str, Answer]:
    return broker.provision({"cluster": cluster, "project": MAIN, **parameters}, fields=owner or tenant("a"))


def have(broker: Broker, cluster: str, owner: Json | None = None, **parameters: object) -> str:
    """A new instance that is ready."""
    instance, ended = ask(broker, cluster, owner, **parameters)
    assert ended.state == "succeeded", ended.text
    return instance


def refused(broker: Broker, cluster: str, owner: Json | None = None, **parameters: object) -> str:
    """The sentence that a provision fails with."""
    _, ended = ask(broker, cluster, owner, **parameters)
    assert ended.state == "failed", ended.text
    return ended.description


def delete(broker: Broker, instance: str) -> str:
    """What a deprovision that succeeds says at its end."""
    accepted = broker.client.deprovision(instance)
    ended = broker.client.wait(instance, operation=accepted.operation)
    assert ended.state == "succeeded", ended.text
    return ended.description


def refused_of(broker: Broker, instances: list[str]) -> list[str]:
    """The instances whose deprovision fails, when all are asked for at once."""
    ends = at_once(len(instances), lambda number: broker.client.deprovision(instances[number]))
    pairs = list(zip(instances, ends, strict=True))
    return [one for one, end in pairs if broker.client.wait(one, operation=end.operation).state == "failed"]


def lists(broker: Broker, *names: str) -> str:
    """A new cluster of which Atlas lists these databases; its process has another name than its connection string."""
    alias = f"node-{secrets.token_hex(4)}.example"
    process = {"hostname": f"atlas-{alias}", "userAlias": alias, "port": 27017, "databases": list(names)}
    kind = {"typeName": "REPLICA_PRIMARY", "replicaSetName": "rs"}
    standard = f"mongodb://{alias}:27017/?ssl=true&authSource=admin&replicaSet=rs"
    return broker.cluster(connection_strings={"standard": standard}, processes=[{**process, **kind}])


def test_tenants_of_a_platform_that_names_no_organization_share_nothing(broker: Broker, name: str) -> None:
    """SAP Service Manager sends these ids for all of its tenants."""
    cluster, unknown = broker.cluster(), tenant("-", "-")
    first = have(broker, cluster, unknown, database=name)
    sentence = refused(broker, cluster, unknown, database=name)
    assert sentence == f"The database name {name} is taken on the cluster {cluster}. Choose another name."
    write(broker, name)
    delete(broker, first)
    assert "is taken" in refused(broker, cluster, unknown, database=name, **DROP)
    assert exists(broker, name)


# --- databases that no broker made ------------------------------------------------------------------------------


def test_a_database_that_no_broker_made_is_refused_and_stays(broker: Broker, name: str) -> None:
    write(broker, name)
    cluster = broker.cluster()
    sentence = refused(broker, cluster, database=name, **DROP)
    assert sentence == (
        f"The cluster {cluster} has a database {name} that was not made by this broker, so it cannot be used. "
        "Choose another name; the broker's operator can allow such names (DATABASES)."
    )
    assert exists(broker, name)


def test_a_refused_provision_can_be_deleted_and_drops_nothing(broker: Broker, name: str) -> None:
    write(broker, name)
    instance, _ = ask(broker, broker.cluster(), database=name, **DROP)
    assert delete(broker, instance) == "The instance is gone."
    assert exists(broker, name)


def test_the_setting_any_gives_such_a_database_and_never_drops_it(any_database: Broker, name: str) -> None:
    write(any_database, name)
    cluster = any_database.cluster()
    instance = have(any_database, cluster, database=name, **DROP)
    assert f"The database {name} on {cluster} was kept" in delete(any_database, instance)
    assert exists(any_database, name)


@pytest.mark.parametrize("kind", ["free", "flex"])
def test_where_the_tier_does_not_tell_a_new_name_may_be_used_and_is_never_dropped(
    broker: Broker, name: str, kind: str
) -> None:
    cluster, mark = broker.cluster(kind=kind), broker.mark()
    instance = have(broker, cluster, database=name, **DROP)
    write(broker, name)
    assert f"{name} on {cluster} was kept" in delete(broker, instance)
    assert exists(broker, name)
    assert not [call for call in broker.calls(mark) if "processes" in call["path"]]
    assert "is taken" in refused(broker, cluster, tenant("b"), database=name)


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 404, "html": True},
        {"status": 400, "error_code": "VALIDATION_ERROR"},
        {"status": 406, "error_code": "INVALID_VERSION_DATE"},
    ],
    ids=["a page", "a refusal", "an unknown version"],
)
def test_where_the_server_does_not_tell_it_is_the_same(
    broker: Broker, atlas: Emulator, name: str, answer: Json
) -> None:
    atlas.fail("GET", "/processes", times=None, **answer)
    instance = have(broker, broker.cluster(), database=name)
    broker.client.update(instance, DROP)
    assert broker.client.wait(instance).state == "succeeded"
    write(broker, name)
    assert "was kept" in delete(broker, instance)
    assert exists(broker, name)


def test_a_list_that_is_limited_or_missing_holds_no_other_call_back(broker: Broker, atlas: Emulator, name: str) -> None:
    cluster = broker.cluster()
    atlas.fail("GET", "/processes", times=None, status=404, html=True)
    at_once(8, lambda number: have(broker, cluster, database=f"{name}-{number}"))
    atlas.heal()
    atlas.fail("GET", DATABASES, times=None, status=429, headers={"Retry-After": "30"})
    instance = new_id()
    broker.client.provision(instance, {"cluster": cluster, "project": MAIN, "database": name}, fields=tenant("a"))
    eventually(lambda: "429" in broker.client.last_operation(instance).description)
    other = have(broker, cluster)
    broker.bind(other)
    assert broker.in_progress(instance)
    atlas.heal()
    delete(broker, instance)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_trouble_with_the_list_is_tried_again(broker: Broker, atlas: Emulator, name: str, status: int) -> None:
    write(broker, name)
    atlas.fail("GET", DATABASES, times=2, status=status)
    assert "was not made by this broker" in refused(broker, broker.cluster(), database=name)


def test_a_new_name_is_owned_and_dropped(broker: Broker, name: str) -> None:
    instance = have(broker, broker.cluster(), database=name, **DROP)
    write(broker, name)
    assert delete(broker, instance) == "The instance is gone."
    assert not exists(broker, name)


def test_atlas_is_not_asked_about_names_that_the_broker_makes(broker: Broker) -> None:
    cluster, mark = broker.cluster(), broker.mark()
    instance = have(broker, cluster, **DROP)
    assert not [call for call in broker.calls(mark) if "processes" in call["path"]]
    write(broker, f"instance-{instance}")
    assert delete(broker, instance) == "The instance is gone."
    assert not exists(broker, f"instance-{instance}")


# --- databases of others ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [tenant("b"), tenant("a", "another")], ids=["organization", "space"])
def test_the_name_of_another_owners_database_is_refused_in_a_sentence_that_does_not_say_whose(
    broker: Broker, name: str, other: Json
) -> None:
    cluster = broker.cluster()
    mine = [have(broker, cluster), have(broker, cluster, database=name)]
    for taken in (f"instance-{mine[0]}", name):
        sentence = refused(broker, cluster, other, database=taken, **DROP)
        assert sentence == f"The database name {taken} is taken on the cluster {cluster}. Choose another name."
    broker.bind(mine[1])


def test_what_an_owner_left_behind_is_refused_to_others_for_ever_and_given_back_to_the_owner(
    broker: Broker, name: str
) -> None:
    cluster = broker.cluster()
    instance = have(broker, cluster, database=name)
    write(broker, name)
    delete(broker, instance)
    assert "is taken" in refused(broker, cluster, tenant("b"), database=name, **DROP)
    with held(broker.stack) as documents:
        documents.delete_one({"instance_id": instance})  # as after 48 hours
    assert "is taken" in refused(broker, cluster, tenant("b"), database=name, **DROP)
    again = have(broker, cluster, database=name, **DROP)
    delete(broker, again)
    assert not exists(broker, name)


@pytest.mark.parametrize("stale", [True, False], ids=["Atlas lists it still", "Atlas lists it no more"])
def test_a_name_is_free_again_once_its_database_was_dropped(broker: Broker, name: str, *, stale: bool) -> None:
    cluster = broker.cluster()
    instance = have(broker, cluster, database=name, **DROP)
    write(broker, name)
    delete(broker, instance)
    if stale:
        broker.atlas.put_cluster(cluster, processes=[{**_process(broker), "databases": [name]}])
    second = have(broker, cluster, tenant("b"), database=name, **DROP)
    write(broker, name)
    delete(broker, second)
    assert not exists(broker, name)


def _process(broker: Broker) -> Json:
    with broker.stack.cluster.client() as root:
        host, port = root.address or ("", 0)
    return {"hostname": host, "port": port, "typeName": "REPLICA_PRIMARY", "replicaSetName": "rs"}


def test_monitoring_that_lags_does_not_give_away_what_the_broker_knows(broker: Broker, name: str) -> None:
    cluster = broker.cluster()
    instance = have(broker, cluster, database=name)
    write(broker, name)
    broker.atlas.hide_databases([name])
    try:
        assert "is taken" in refused(broker, cluster, tenant("b"), database=name)
    finally:
        broker.atlas.hide_databases([])
    delete(broker, instance)


def test_instances_of_one_owner_share_and_the_last_one_drops(broker: Broker, name: str) -> None:
    cluster = broker.cluster()
    first, second = (have(broker, cluster, database=name, **DROP) for _ in range(2))
    default = have(broker, cluster)
    have(broker, cluster, database=f"instance-{default}")
    write(broker, name)
    broker.client.update(first, {"policy-on-delete": "retain"})
    broker.client.wait(first)
    assert delete(broker, first) == "The instance is gone."
    assert exists(broker, name)
    assert delete(broker, second) == "The instance is gone."
    assert not exists(broker, name)


def test_a_provision_waits_until_the_database_that_it_names_has_been_dropped(
    broker: Broker, atlas: Emulator, name: str
) -> None:
    cluster = broker.cluster()
    old = have(broker, cluster, database=name, **DROP)
    write(broker, name)
    atlas.apply_by_hand()
    accepted = broker.client.deprovision(old)
    eventually(lambda: broker.posts() and broker.in_progress(old))
    assert "is taken" in refused(broker, cluster, tenant("b"), database=name)
    new, fields = new_id(), tenant("a")
    begun = broker.client.provision(new, {"cluster": cluster, "project": MAIN, "database": name, **DROP}, fields=fields)
    waiting = f"Waiting until the database {name} has been dropped."
    eventually(lambda: broker.client.last_operation(new).description == waiting)
    atlas.apply_at_once()
    atlas.apply_now()
    assert broker.client.wait(old, operation=accepted.operation).state == "succeeded"
    assert broker.client.wait(new, operation=begun.operation).state == "succeeded"
    assert not exists(broker, name)
    write(broker, name)
    assert delete(broker, new) == "The instance is gone."
    assert not exists(broker, name)


def test_both_instances_of_a_database_can_be_deleted_at_once(broker: Broker, name: str) -> None:
    cluster = broker.cluster()
    both = [have(broker, cluster, database=name, **DROP) for _ in range(2)]
    write(broker, name)
    left = both
    for _ in range(5):  # a worker that sees only one of two requests refuses: the other instance uses the database
        left = left and refused_of(broker, left)
    assert left == []
    assert not exists(broker, name)


def test_of_owners_that_ask_for_one_name_at_once_one_gets_it(broker: Broker, name: str) -> None:
    cluster = broker.cluster()
    ends = at_once(6, lambda number: ask(broker, cluster, tenant(f"o-{number}"), database=name)[1])
    assert sorted(end.state for end in ends) == ["failed"] * 5 + ["succeeded"]


def test_of_two_spellings_at_once_one_is_made(broker: Broker, name: str) -> None:
    cluster = broker.cluster()
    names = [name, name.upper(), name.title(), name.swapcase().title()]
    ends = at_once(4, lambda number: ask(broker, cluster, database=names[number])[1])
    made = {names[number] for number, end in enumerate(ends) if end.state == "succeeded"}
    assert len(made) == 1


def test_a_name_of_the_brokers_own_form_cannot_be_taken_before_the_instance_comes(broker: Broker) -> None:
    cluster, future = broker.cluster(), new_id()
    for taken in (f"instance-{future}", f"Instance-{future}"):
        sentence = refused(broker, cluster, tenant("b"), database=taken)
        assert sentence == (
            "Names of databases that begin with instance- are the broker's own. Choose another name, or leave database "
            "out."
        )
    accepted = broker.client.provision(future, {"cluster": cluster, "project": MAIN})
    assert broker.client.wait(future, operation=accepted.operation).state == "succeeded"
    own = new_id()
    broker.client.provision(own, {"cluster": cluster, "project": MAIN, "database": f"instance-{own}"})
    assert broker.client.wait(own).state == "succeeded"


def test_an_instance_whose_own_name_another_owner_has_is_refused(any_database: Broker) -> None:
    cluster, future = any_database.cluster(), new_id()
    have(any_database, cluster, tenant("b"), database=f"instance-{future}")
    accepted = any_database.client.provision(future, {"cluster": cluster, "project": MAIN})
    ended = any_database.client.wait(future, operation=accepted.operation)
    assert (ended.state, "is taken" in ended.description) == ("failed", True)


def test_with_the_setting_any_others_share_and_only_the_owner_drops(any_database: Broker, name: str) -> None:
    cluster = any_database.cluster()
    mine = have(any_database, cluster, database=name, **DROP)
    theirs = have(any_database, cluster, tenant("b"), database=name, **DROP)
    write(any_database, name)
    any_database.client.deprovision(mine)
    assert "an instance of another owner uses it too" in any_database.failure(mine)
    assert "was kept" in delete(any_database, theirs)
    assert exists(any_database, name)
    assert delete(any_database, mine) == "The instance is gone."
    assert not exists(any_database, name)


def test_with_the_setting_any_what_an_owner_left_behind_is_not_destroyed_by_others(
    any_database: Broker, name: str
) -> None:
    cluster = any_database.cluster()
    mine = have(any_database, cluster, database=name)
    write(any_database, name)
    delete(any_database, mine)
    theirs = have(any_database, cluster, tenant("b"), database=name, **DROP)
    assert "was kept" in delete(any_database, theirs)
    assert exists(any_database, name)


# --- spellings, hooks, tiers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", [tenant("a"), tenant("b")], ids=["the same owner", "another one"])
def test_a_name_in_another_spelling_is_refused(broker: Broker, name: str, owner: Json) -> None:
    cluster = broker.cluster()
    have(broker, cluster, database=name)
    sentence = refused(broker, cluster, owner, database=name.upper())
    assert sentence.startswith(
        f"The cluster {cluster} has a database whose name differs from {name.upper()} only in upper and lower case"
        if owner == tenant("a")
        else f"The database name {name.upper()} is taken"
    )
    have(broker, broker.cluster(), database=name.upper())  # on another cluster it is another database


def test_a_name_that_atlas_lists_in_another_spelling_is_refused(
    broker: Broker, any_database: Broker, name: str
) -> None:
    cluster = lists(broker, name)
    for each in (broker, any_database):
        assert "only in upper and lower case" in refused(each, cluster, database=name.upper())


def test_the_hook_decides_the_name_and_the_rules_hold_for_it(broker: Broker, name: str) -> None:
    cluster = broker.cluster()
    instance = have(broker, cluster, team=name, database="whatever")
    assert document(broker.stack, instance)["database"] == f"team-{name}"
    assert "is taken" in refused(broker, cluster, tenant("b"), team=name)
    assert "is taken" in refused(broker, cluster, tenant("b"), database=f"team-{name}")


@pytest.mark.parametrize("kind", ["free", "flex"])
def test_names_fit_the_tier(broker: Broker, kind: str) -> None:
    cluster, instance = broker.cluster(kind=kind), f"6b02f1b4-63ae-9a36-796e-{secrets.token_hex(6)}"
    accepted = broker.client.provision(instance, {"cluster": cluster, "project": MAIN, **DROP})
    assert broker.client.wait(instance, operation=accepted.operation).state == "succeeded"
    database = broker.bind(instance)["database"]
    assert (database[:22], len(database)) == ("instance-6b02f1b4-63a-", 38)
    write(broker, database)
    assert delete(broker, instance) == "The instance is gone."
    assert not exists(broker, database)
    long = "x" * 39
    assert refused(broker, cluster, database=long) == (
        f"The database name {long} is too long for the {kind} cluster {cluster}: Atlas allows 38 bytes there. "
        "Choose a shorter name."
    )
    hooked = have(broker, cluster, team="y" * 50)
    assert len(document(broker.stack, hooked)["database"]) == 38


# --- which process tells ----------------------------------------------------------------------------------------


def test_a_process_that_atlas_knows_by_another_name_is_found(broker: Broker, name: str) -> None:
    cluster = lists(broker, name)
    assert "was not made by this broker" in refused(broker, cluster, database=name)


def test_of_a_sharded_cluster_a_mongod_of_each_shard_is_asked(broker: Broker, name: str) -> None:
    suffix = f"{secrets.token_hex(3)}.mongodb.net"
    nodes = [f"big-{kind}-0{shard}-00.{suffix}" for kind in ("config", "shard") for shard in (0, 1)]
    hosts = ",".join(f"{node}:27016" for node in nodes)
    mongods = [
        {"hostname": node, "port": 27017, "typeName": "SHARD_PRIMARY", "replicaSetName": node, "databases": databases}
        for node, databases in zip(nodes[2:], (["first"], [name]), strict=True)
    ]
    routers = [{"hostname": node, "port": 27016, "typeName": "SHARD_MONGOS"} for node in nodes]
    cluster = broker.cluster(
        cluster_type="SHARDED",
        connection_strings={"standard": f"mongodb://{hosts}/?ssl=true&authSource=admin"},
        processes=[
            *routers,
            *mongods,
            {**mongods[0], "hostname": nodes[0], "typeName": "SHARD_CONFIG_PRIMARY", "replicaSetName": "config"},
        ],
    )
    broker.atlas.fail("GET", f"/{nodes[0]}:27017/databases", times=None, status=400, error_code="VALIDATION_ERROR")
    for taken in ("first", name):
        assert "was not made by this broker" in refused(broker, cluster, database=taken)
    instance = have(broker, cluster, database=f"{name}-2")
    assert document(broker.stack, instance)["owned"] is True


# --- what dies and what earlier releases left -------------------------------------------------------------------


def _again(broker: Broker, instance: str, **fields: object) -> None:
    """Let the claim of a provision be made once more, as if its worker had died right after it."""
    mine, running = {"instance_id": instance}, {"state": "in progress", "step": "claim", "open": True}
    with held(broker.stack) as documents:
        documents.update_one(mine, {"$set": {"phase": "creating", "connection": "{}"}})
        sign(broker.stack, mine)
        begun = {f"operation.{name}": value for name, value in running.items()}
        documents.update_one(mine, {"$set": {**begun, **fields}})


def test_a_claim_that_was_made_before_its_worker_died_is_made_again(broker: Broker, name: str) -> None:
    cluster = broker.cluster()
    instance = have(broker, cluster, database=name, **DROP)
    write(broker, name)  # by then Atlas lists it
    _again(broker, instance)
    assert broker.client.wait(instance).state == "succeeded"
    assert delete(broker, instance) == "The instance is gone."
    assert not exists(broker, name)


def test_a_provision_that_fails_after_its_claim_gives_the_name_back(broker: Broker, name: str) -> None:
    cluster = broker.cluster()
    instance = have(broker, cluster, database=name)
    _again(broker, instance, **{"operation.deadline": datetime(2020, 1, 1, tzinfo=UTC), "operation.due": _late()})
    assert "before its deadline" in broker.failure(instance)
    eventually(lambda: document(broker.stack, instance)["operation"]["open"] is False)
    have(broker, cluster, tenant("b"), database=name)


def test_a_provision_that_is_deleted_after_its_claim_gives_the_name_back(broker: Broker, name: str) -> None:
    cluster = broker.cluster()
    instance = have(broker, cluster, database=name, **DROP)
    _again(broker, instance, **{"operation.due": _late()})
    delete(broker, instance)
    have(broker, cluster, tenant("b"), database=name)


def _late() -> datetime:
    return datetime(2100, 1, 1, tzinfo=UTC)


def _forget_claims(broker: Broker, name: str, *instances: str) -> None:
    """Leave the documents as the releases before this one wrote them."""
    with held(broker.stack, "instances_housekeeping") as housekeeping:
        housekeeping.delete_many({"_id": {"$regex": f"/{name.lower()}$"}})
    with held(broker.stack) as documents:
        documents.update_many({"instance_id": {"$in": instances}}, {"$unset": {"owned": ""}})
    sign(broker.stack, {"instance_id": {"$in": instances}})


def test_instances_of_an_earlier_release_own_the_names_that_were_made_for_them_only(broker: Broker, name: str) -> None:
    cluster = broker.cluster()
    default, named = have(broker, cluster, **DROP), have(broker, cluster, database=name, **DROP)
    for instance, database in ((default, f"instance-{default}"), (named, name)):
        _forget_claims(broker, database, instance)
        assert "is taken" in refused(broker, cluster, tenant("b"), database=database.upper())
        write(broker, database)
    assert delete(broker, default) == "The instance is gone."
    assert not exists(broker, f"instance-{default}")
    assert "was kept" in delete(broker, named)
    assert exists(broker, name)
    with held(broker.stack) as documents:
        documents.delete_many({"instance_id": named})
    assert "is taken" in refused(broker, cluster, tenant("b"), database=name)


def test_what_another_tenant_shared_in_an_earlier_release_stays_its_owners(broker: Broker) -> None:
    cluster = broker.cluster()
    mine = have(broker, cluster, **DROP)
    database = f"instance-{mine}"
    theirs = have(broker, cluster, database=database, **DROP)
    _forget_claims(broker, database, mine, theirs)
    with held(broker.stack) as documents:
        documents.update_one({"instance_id": theirs}, {"$set": {"organization_guid": "b"}})
    sign(broker.stack, {"instance_id": theirs})
    write(broker, database)
    assert "was kept" in delete(broker, theirs)
    assert exists(broker, database)
    assert delete(broker, mine) == "The instance is gone."
    assert not exists(broker, database)


def test_what_the_old_broker_left_is_served_kept_and_given_to_nobody_else(broker: Broker, name: str) -> None:
    cluster, instance = broker.cluster(), new_id()
    old = {"instance_id": instance, "database": name, "cluster": cluster, "parameters": {"cluster": cluster, **DROP}}
    with held(broker.stack) as documents:
        documents.insert_one(old)
    write(broker, name)
    assert "is taken" in refused(broker, cluster, database=name)
    broker.bind(instance)
    assert "was kept" in delete(broker, instance)
    assert exists(broker, name)
    with held(broker.stack) as documents:
        documents.delete_many({"instance_id": instance})
    assert "is taken" in refused(broker, cluster, database=name)
