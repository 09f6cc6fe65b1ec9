"""The thread that announces in MongoDB what a worker consumes."""

from collections.abc import Collection, Iterator

import pytest
from structlog.testing import capture_logs

from broker_api.settings.settings import load
from tests.dev.emulated import AtlasEmulator
from tests.dev.services import Mongod, Redis
from tests.dev.stack import Stack
from tests.tenant import eventually
from workers.announcer import Announcer
from workers.context import Context, compose


@pytest.fixture
def context(
    state_mongod: Mongod, cluster_mongod: Mongod, redis_server: Redis, emulator: AtlasEmulator
) -> Iterator[Context]:
    parts = Stack(flower=False, state=state_mongod, cluster=cluster_mongod, redis=redis_server, emulator=emulator)
    made = compose(load(parts.worker_settings, "worker"))
    yield made
    database = made.store.collection.database
    database.client.drop_database(database.name)
    database.client.close()


def test_an_error_of_one_round_does_not_end_it(context: Context) -> None:
    errors = [RuntimeError("an unknown error")]

    def consumed() -> Collection[str]:
        if errors:
            raise errors.pop()
        return ["bindings"]

    announced = context.housekeeping.collection
    with capture_logs() as lines:
        Announcer(context, "worker@host", consumed).start()
        eventually(lambda: announced.find_one({"queues": '["bindings"]'}), "it is announced")
        context.stopping.set()
        eventually(lambda: announced.find_one({"name": "worker@host"}) is None, "it is withdrawn")
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["announce_failed"]
