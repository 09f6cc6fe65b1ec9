"""Variables of Celery and Flower in the environment: the broker's settings win, and a warning names what is ignored."""

import sys

import requests

from tests.console import Console
from tests.dev.processes import run_to_end
from tests.dev.stack import Stack
from tests.integration.unusual_settings.foreign import FLOWERS, FOREIGN, OPTIONS
from tests.tenant import Tenant, redis_is_well, works


def test_the_settings_of_the_broker_win(unusual: Stack) -> None:
    with unusual.client() as client:
        redis_is_well(client)
        assert works(Tenant(client).provision().bind())
    assert not unusual.ended()


def test_flower_keeps_its_guard(unusual: Stack) -> None:
    assert unusual.flower is not None
    uri = unusual.flower.uri
    assert requests.get(f"{uri}/api/workers", timeout=20).status_code == 401
    assert requests.get(f"{uri}/workers", auth=("somebody", "hidden-secret"), timeout=20).status_code == 401
    user = (unusual.user, unusual.password)
    assert requests.get(f"{uri}/workers", auth=user, timeout=20).status_code == 200
    assert requests.get(f"{uri}/broker", auth=user, timeout=20).status_code == 200
    answer = requests.post(f"{uri}/api/worker/shutdown/{unusual.workers[0].uri}", auth=user, timeout=20)
    assert answer.status_code == 403


def test_a_warning_names_each_variable_and_no_value(unusual: Stack) -> None:
    assert unusual.flower is not None
    for process, names in (
        (unusual.api, FOREIGN),
        (unusual.workers[0], {**FOREIGN, **OPTIONS}),
        (unusual.flower, {**FOREIGN, **FLOWERS}),
    ):
        told = process.log_text()
        assert not [name for name in names if told.count(f"{name}") < 1]
        assert "hidden-secret" not in told
        assert "Traceback" not in told


def test_other_commands_of_celery_talk_to_the_brokers_redis(unusual: Stack) -> None:
    run = run_to_end(
        [sys.executable, "-m", "celery", "-A", "workers", "call", "maintenance.reconcile"],
        {**unusual.shared_settings, **FOREIGN},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "CELERY_BROKER_URL is ignored" in run.stderr
    assert "hidden-secret" not in run.stdout + run.stderr


def test_check_warns_of_them(unusual: Stack) -> None:
    run = Console({**unusual.worker_settings, "CELERY_VERSION": "5"}).run("check")
    warned = [line for line in run.stdout.splitlines() if line.startswith("warn")]
    for name in (*FOREIGN, *OPTIONS, *FLOWERS, "CELERY_VERSION"):
        assert [line for line in warned if f" {name} " in line], run.stdout
    assert "hidden-secret" not in run.stdout + run.stderr
