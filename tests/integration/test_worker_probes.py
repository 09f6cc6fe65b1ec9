"""The liveness of real workers: frozen, hung, and without Redis or MongoDB."""

import time

import pytest
import requests

from tests.dev.broker import CELERY, QUEUES, Worker
from tests.dev.processes import Server
from tests.dev.stack import Stack
from tests.tenant import eventually
from workers.probes import CONSUMER_SECONDS


class SoloWorker(Worker):
    """Runs jobs in the thread of its consumer, which a job can therefore hang."""

    def command(self) -> list[str]:
        return [*CELERY, "worker", "-Q", QUEUES, "-n", self.uri, "--pool=solo"]


def lives(worker: Worker) -> bool:
    try:
        return worker.probe("/live", seconds=1).status_code == 200
    except requests.Timeout:
        return False


@pytest.fixture
def own(*, long_form: bool) -> Stack:
    if not long_form:
        pytest.skip("with --long: takes minutes; the short form is in tests/unit/test_probes.py")
    return Stack(workers=1, flower=False, settings={"BROKER_MONGO_TIMEOUT_MS": "5000"})  # the default


def test_a_frozen_worker_does_not_live_and_one_without_redis_and_mongodb_does(own: Stack) -> None:
    with own:
        (worker,) = own.workers
        eventually(lambda: worker.probe("/ready").status_code == 200, "it is ready")
        worker.pause()
        assert not lives(worker)
        worker.resume()
        eventually(lambda: lives(worker), "it goes on")
        lost = own.redis, own.state
        for take_away, bring_back in ((Server.pause, Server.resume), (Server.kill, Server.restart)):
            for server in lost:
                take_away(server)
            eventually(lambda: worker.probe("/ready", 20).status_code == 503, "it cannot work")
            until = time.monotonic() + CONSUMER_SECONDS + 10
            while time.monotonic() < until:
                assert lives(worker)
                time.sleep(1)
            for server in lost:
                bring_back(server)
            eventually(lambda: worker.probe("/ready", 20).status_code == 200, "it can work again")


def test_a_consumer_that_hangs_does_not_live(own: Stack) -> None:
    with own, own.client() as platform:
        own.workers[0].stop()
        settings = own.worker_settings | {"BROKER_CONFIG": "tests.integration.hanging_config:config"}
        with SoloWorker(settings, "worker-solo") as solo:
            eventually(lambda: solo.probe("/ready").status_code == 200, "it is ready")
            assert platform.provision("hangs", {"cluster": "cluster-dev"}).status == 202
            eventually(lambda: not lives(solo), "its consumer hangs", seconds=CONSUMER_SECONDS + 30)
            assert solo.probe("/live").json()["description"].startswith("The consumer has not moved for ")
            solo.kill()
