"""Options of BROKER_MONGO_URI that would weaken the store: none of them reaches MongoDB."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from pymongo import MongoClient, monitoring

from broker_api.errors import SettingError
from broker_api.settings.url_checks import check_mongo_uri
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import connect
from broker_api.state.new_operation import NewOperation
from broker_api.state.open_operations import OpenOperations
from broker_api.state.operation_counts import OperationCounts
from broker_api.state.records import Kind
from broker_api.state.store import Store
from tests.dev.services import Mongod
from tests.tenant import eventually

Command = dict[str, Any]
OPTIONS = [
    "readPreference=secondaryPreferred",
    "READPREFERENCE=nearest",
    "readPreference=secondary&readPreferenceTags=dc:far&readPreferenceTags=",
    "readPreference=secondary&maxStalenessSeconds=90",
    "readPreference=primary&readPreference=secondary",
    "w=0",
    "W=1",
    "w=majority&w=1",
    "w=a-tag",
    "w=1&journal=false",
    "wtimeoutMS=1",
    "fsync=false",
    "readConcernLevel=available",
    "readConcernLevel=linearizable",
    "retryWrites=false",
    "retryReads=false",
    "localThresholdMS=60000",
    "serverSelectionTimeoutMS=600000",
    "socketTimeoutMS=0",
    "connectTimeoutMS=0",
    "timeoutMS=600000",
    "heartbeatFrequencyMS=600000",
    "serverMonitoringMode=poll",
    "waitQueueTimeoutMS=1",
    "tz_aware=false",
    "datetime_conversion=DATETIME_MS",
    "unicode_decode_error_handler=ignore",
    "uuidRepresentation=csharpLegacy",
    "connect=true",
]


class Recorder(monitoring.CommandListener):
    """The commands of clients that are made while it listens."""

    def __init__(self) -> None:
        self.commands: list[Command] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        changing = ("lsid", "$clusterTime", "maxTimeMS")
        told = {name: value for name, value in event.command.items() if name not in changing}
        self.commands.append(told | {"bounded": "maxTimeMS" in event.command})

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


@contextmanager
def recorded() -> Iterator[Recorder]:
    """PyMongo has a list of listeners for clients to come, and no way to leave it but this."""
    recorder = Recorder()
    monitoring.register(recorder)
    try:
        yield recorder
    finally:
        monitoring._LISTENERS.command_listeners.remove(recorder)  # noqa: SLF001 - there is no other way


def commands(uri: str) -> list[Command]:
    """What the broker sends with this URI when it writes, reads, counts and asks for the time."""
    check_mongo_uri(uri)
    with recorded() as recorder, connect(uri, 20_000) as client:
        store = Store(client, "uri-options", "instances")
        Housekeeping(store).write("operation counts", {"until": datetime(2100, 1, 1, tzinfo=UTC)})
        assert not OperationCounts(store, Housekeeping(store)).read()
        store.bindings("i")
        assert store.now().tzinfo
    sent = [command for command in recorder.commands if "endSessions" not in command]  # the driver's own good-bye
    return [command | {"txnNumber": bool(command.get("txnNumber"))} for command in sent]


def bounds(uri: str) -> list[object]:
    with connect(uri, 20_000) as client:
        options = client.options
        return [
            options.timeout,
            options.server_selection_timeout,
            options.heartbeat_frequency,
            options.local_threshold_ms,
            options.retry_writes,
            options.retry_reads,
            options.server_monitoring_mode,
            options.pool_options.connect_timeout,
            options.pool_options.socket_timeout,
            options.pool_options.wait_queue_timeout,
            options.direct_connection,
        ]


@pytest.mark.parametrize("options", OPTIONS)
def test_an_option_that_weakens_the_store_changes_no_command(state_mongod: Mongod, options: str) -> None:
    plain = state_mongod.uri
    sent = commands(f"{plain}&{options}")
    assert sent == commands(plain)
    assert bounds(f"{plain}&{options}") == bounds(plain)
    writes = [command for command in sent if "update" in command]
    assert [command["writeConcern"] for command in writes] == [{"w": "majority", "j": True}]
    assert not any("$readPreference" in command for command in sent)
    assert all(command["bounded"] for command in sent)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("directConnection=true", "directConnection"),
        ("DIRECTCONNECTION=true", "directConnection"),
        ("directConnection=false&directConnection=true", "directConnection"),
        ("loadBalanced=true", "loadBalanced"),
    ],
)
def test_an_option_that_hides_the_primary_is_refused_by_its_name(options: str, named: str) -> None:
    with pytest.raises(SettingError, match=f"BROKER_MONGO_URI: must be without {named}=true"):
        check_mongo_uri(f"mongodb://127.0.0.1/?{options}")


class Member(Mongod):
    """Of a replica set that a test puts together itself."""

    def answers(self) -> bool:
        with self._direct() as client:
            return bool(client.admin.command("ping")["ok"])


@pytest.fixture(scope="module")
def lagging() -> Iterator[str]:
    """The URI of a replica set of three with a secondary that copies nothing, and that the URI asks to read from."""
    members = [Member(f"member-{number}") for number in range(3)]
    with ExitStack() as running:
        for member in members:
            running.enter_context(member)
        listed = [{"_id": number, "host": member.address} for number, member in enumerate(members)]
        listed[2] |= {"priority": 0, "votes": 1, "tags": {"lags": "yes"}}
        with MongoClient[Command](members[0].address, directConnection=True) as first:
            first.admin.command(
                "replSetInitiate", {"_id": "rs0", "members": listed, "settings": {"electionTimeoutMillis": 1000}}
            )
        hosts = ",".join(member.address for member in members)
        with MongoClient[Command](f"mongodb://{hosts}/?replicaSet=rs0") as client:
            eventually(lambda: len(client.secondaries) == 2, "the replica set has two secondaries")
            client.get_database("before").get_collection("c").insert_one({})
        with MongoClient[Command](members[2].address, directConnection=True) as late:
            eventually(lambda: late.get_database("before").get_collection("c").find_one(), "it has copied so far")
            late.admin.command("fsync", lock=True)
            with MongoClient[Command](f"mongodb://{hosts}/?replicaSet=rs0&w=majority") as client:
                client.get_database("before").get_collection("c").insert_one({})  # the two others are a majority
            yield f"mongodb://{hosts}/?replicaSet=rs0&readPreference=secondary&readPreferenceTags=lags:yes"
            late.admin.command("fsyncUnlock")


def test_a_secondary_that_lags_is_not_read_from(lagging: str) -> None:
    instance_id = str(uuid4())
    with connect(lagging, 20_000) as client:
        store = Store(client, "lagging", "instances")
        begun = store.create({"instance_id": instance_id}, NewOperation(Kind.PROVISION), None)
        assert begun
        found = store.instance(instance_id)
        assert found
        assert found.operation.id == begun
        assert OpenOperations.read(store).by_state == {("provision", "in progress"): 1}
        Housekeeping(store).write("lagging", {"value": 1})
        assert Housekeeping(store).read("lagging")["value"] == 1
        assert store.now()
    with MongoClient[Command](lagging) as asked:  # what the URI says would find nothing
        assert asked.get_database("lagging").get_collection("instances").find_one() is None
