"""Variables of Celery and Flower in the environment: the broker's settings win, and a warning names what is ignored."""

import sys
from collections.abc import Iterator

import pytest
import requests

from broker_api.settings.ignored_variables import CELERY_VARIABLES
from tests.dev.emulated import AtlasEmulator
from tests.dev.processes import run_to_end, script
from tests.dev.services import Mongod
from tests.dev.stack import Stack
from tests.tenant import Tenant, works

WRONG = "redis://:hidden-secret@127.0.0.1:1/9"
FOREIGN = {
    **dict.fromkeys(CELERY_VARIABLES, WRONG),
    "LOADER": "hidden-secret",
    "CELERY_LOADER": "hidden-secret",
    "CONFIG_MODULE": "hidden-secret",
    "CELERY_CONFIG": "hidden-secret",
    "CELERY_CONFIG_MODULE": "hidden-secret",
}
OPTIONS = {
    "CELERY_WORKER_POOL": "solo",
    "CELERY_WORKER_QUEUES": "hidden-secret",
    "CELERY_WORKER_CONCURRENCY": "hidden-secret",
    "CELERY_WORKER_EXCLUDE_QUEUES": "bindings",
}
FLOWERS = {
    "FLOWER_BASIC_AUTH": "somebody:hidden-secret",
    "FLOWER_READ_ONLY": "hidden-secret",
    "FLOWER_AUTH": "hidden-secret",
    "FLOWER_UNAUTHENTICATED_API": "true",
    "FLOWER_BROKER_API": "http://hidden-secret",
    "FLOWER_CONF": "/hidden-secret.py",
}


@pytest.fixture(scope="module")
def misled(state_mongod: Mongod, cluster_mongod: Mongod, emulator: AtlasEmulator) -> Iterator[Stack]:
    settings = {**FOREIGN, **OPTIONS, **FLOWERS}
    with Stack(workers=1, settings=settings, state=state_mongod, cluster=cluster_mongod, emulator=emulator) as running:
        yield running


def test_the_settings_of_the_broker_win(misled: Stack) -> None:
    with misled.client() as client:
        assert client.request("GET", "/ready").json["redis"] == "ok"
        assert works(Tenant(client).provision().bind())
    assert not misled.ended()


def test_flower_keeps_its_guard(misled: Stack) -> None:
    assert misled.flower is not None
    uri = misled.flower.uri
    assert requests.get(f"{uri}/api/workers", timeout=20).status_code == 401
    assert requests.get(f"{uri}/workers", auth=("somebody", "hidden-secret"), timeout=20).status_code == 401
    user = (misled.user, misled.password)
    assert requests.get(f"{uri}/workers", auth=user, timeout=20).status_code == 200
    assert requests.get(f"{uri}/broker", auth=user, timeout=20).status_code == 200
    answer = requests.post(f"{uri}/api/worker/shutdown/{misled.workers[0].uri}", auth=user, timeout=20)
    assert answer.status_code == 403


def test_a_warning_names_each_variable_and_no_value(misled: Stack) -> None:
    assert misled.flower is not None
    for process, names in (
        (misled.api, FOREIGN),
        (misled.workers[0], {**FOREIGN, **OPTIONS}),
        (misled.flower, {**FOREIGN, **FLOWERS}),
    ):
        told = process.log_text()
        assert not [name for name in names if told.count(f"{name}") < 1]
        assert "hidden-secret" not in told
        assert "Traceback" not in told


def test_other_commands_of_celery_talk_to_the_brokers_redis(misled: Stack) -> None:
    run = run_to_end(
        [sys.executable, "-m", "celery", "-A", "workers", "call", "maintenance.reconcile"],
        {**misled.shared_settings, **FOREIGN},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "CELERY_BROKER_URL is ignored" in run.stderr
    assert "hidden-secret" not in run.stdout + run.stderr


def test_check_warns_of_them(misled: Stack) -> None:
    run = run_to_end([script("atlas-broker"), "check"], {**misled.worker_settings, "CELERY_VERSION": "5"})
    warned = [line for line in run.stdout.splitlines() if line.startswith("warn")]
    for name in (*FOREIGN, *OPTIONS, *FLOWERS, "CELERY_VERSION"):
        assert [line for line in warned if f" {name} " in line], run.stdout
    assert "hidden-secret" not in run.stdout + run.stderr
