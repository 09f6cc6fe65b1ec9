"""What the libraries do without the work-arounds. A test that fails here says which one is not needed any more."""

import asyncio
import inspect
import json
import subprocess
import sys
from importlib.metadata import version
from types import SimpleNamespace

import celery.apps.worker
import flower.command
import flower.events
import pytest
from celery.worker.consumer.consumer import Consumer as CeleryConsumer
from celery.worker.heartbeat import Heart
from flower.inspector import Inspector
from flower.views.monitor import Metrics
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from redis.exceptions import ReadOnlyError, ResponseError
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application

from broker_api.jobs.redis_transport import KombuChannel
from tests.dev.processes import CHECKOUT, clean_environment
from workers.messages import MalformedError, rebuild
from workers.transport import CeleryDispatcher

SHORT_SLEEP = """
from flower import events
from broker_api.logins import Logins
from workers import library_workarounds
library_workarounds.FLOWER_PAUSE_SECONDS = 0.01
library_workarounds.guard_flower(Logins({"a": "b"}))
events.time.sleep(2048)
print("short" if events.time.monotonic() else "")
"""


def test_the_versions_are_those_that_the_work_arounds_were_written_for() -> None:
    assert {name: version(name).rpartition(".")[0] for name in ("celery", "kombu", "flower")} == {
        "celery": "5.7",
        "kombu": "5.7",
        "flower": "2.2",
    }


def test_an_option_of_celerys_command_line_is_read_from_the_environment() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "celery", "-b", "memory://", "worker"],
        cwd=CHECKOUT / "tests",
        env=clean_environment({"CELERY_WORKER_CONCURRENCY": "not-a-number"}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "not-a-number" in ended.stderr


def test_flower_ends_with_a_traceback_at_a_variable_of_a_wrong_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWER_MAX_TASKS", "not-a-number")
    with pytest.raises(ValueError, match="not-a-number"):
        flower.command.apply_env_options()


class GuardedApplication(Application):
    """What a handler of Flower needs of it."""

    options = SimpleNamespace(basic_auth=["name:password"], auth="")

    def purge_offline_worker_metrics(self) -> None: ...


def test_flower_answers_metrics_without_authentication() -> None:
    async def ask() -> int:
        app = GuardedApplication([("/metrics", Metrics)])
        listener, port = bind_unused_port()
        server = HTTPServer(app)
        server.add_socket(listener)
        answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/metrics", raise_error=False)
        server.stop()
        return answer.code

    assert asyncio.run(ask()) == 200


@pytest.mark.parametrize("error", [ReadOnlyError, ResponseError])
def test_an_error_answer_of_redis_is_no_lost_connection_for_kombu(error: type[Exception]) -> None:
    assert not issubclass(error, kombu_redis.Transport.connection_errors)
    assert issubclass(error, kombu_redis.Transport.channel_errors)


def test_kombu_raises_what_celery_does_not_expect_for_a_malformed_message() -> None:
    malformed = {"body": "", "headers": {}}
    with pytest.raises(KeyError):
        virtual.Message(malformed)
    with pytest.raises(MalformedError):
        rebuild(json.dumps(malformed).encode())


def test_celery_retries_to_send_a_heartbeat() -> None:
    sent: list[dict[str, object]] = []
    eventer = SimpleNamespace(
        on_enabled=set(), on_disabled=set(), enabled=True, send=lambda *_, **options: sent.append(options)
    )
    timer = SimpleNamespace(call_repeatedly=lambda *_: None)
    Heart(timer=timer, eventer=eventer).start()
    assert sent[0]["retry"] is True


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (KombuChannel, ["_get_pool", "_connparams", "_create_client", "_receive_one", "_in_poll", "_brpop_start"]),
        (CeleryDispatcher, ["_publish"]),
        (CeleryConsumer, ["ensure_connected", "on_connection_error_before_connected"]),
        (virtual.Channel, ["do_restore"]),
        (Inspector, ["inspect_methods"]),
        (celery.apps.worker, ["safe_say"]),
    ],
)
def test_what_is_replaced_is_still_there(owner: object, names: list[str]) -> None:
    assert [name for name in names if not hasattr(owner, name)] == []


def test_flower_doubles_its_pause_without_a_limit_and_here_has_one() -> None:
    assert "try_interval *= 2" in inspect.getsource(flower.events.Events.run)
    ended = subprocess.run([sys.executable, "-c", SHORT_SLEEP], capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == "short", ended.stderr
