"""The logs of all processes: one JSON object a line, with ids on each line of a job."""

from collections.abc import Iterator

import pytest
import requests

from tests.dev.broker import Api, Flower, Worker
from tests.dev.processes import Server, close_all, run_to_end, start_all
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.tenant import Json, Tenant, eventually, log_lines


@pytest.fixture
def processes(oauth_stack: Stack) -> Iterator[list[Server]]:
    """Another worker and Flower, of the stack's servers, to be stopped; test_serving.py looks at an API's lines."""
    settings = oauth_stack.worker_settings
    started: list[Server] = [Worker(settings, "worker-logs"), Flower(settings)]
    start_all(started)
    yield started
    close_all(started)


def test_each_line_from_start_to_end_is_a_json_object(processes: list[Server]) -> None:
    for process in processes:
        process.ask_to_stop()
    for process in processes:
        process.wait_for_end(10)
    worker, flower = (log_lines(process.log_text()) for process in processes)
    assert any(line["event"].endswith(" ready.") for line in worker)
    assert any(line["event"] == "worker_stopping" for line in worker)
    assert any("Visit me at" in line["event"] for line in flower)


BEFORE_CLAIM = ("operation_sent", "operation_not_claimable", "job_finished")
"""Events of the sweeper, and of a job for an operation that it cannot claim, which it may not know."""


def test_each_line_of_a_job_has_its_ids_and_each_delay_its_reason(oauth_stack: Stack, atlas: Emulator) -> None:
    with oauth_stack.client() as client:
        tenant = Tenant(client).provision()
        atlas.fail("POST", "databaseUsers", status=503)
        accepted = client.bind(tenant.instance_id, "b")
        tenant.succeed(accepted, "b")

    def told() -> list[Json]:
        every = [line for worker in oauth_stack.workers for line in log_lines(worker.log_text())]
        return [line for line in every if line.get("operation") == accepted.operation]

    eventually(lambda: any(line["event"] == "operation_finished" for line in told()), "the end is logged")
    ids = (tenant.instance_id, "b")
    assert [line for line in told() if (line.get("instance_id"), line.get("binding_id")) != ids] == []
    later = [line for line in told() if line["event"] == "step_finished" and line["result"] == "Later"]
    assert [line for line in later if not line["reason"] or line["seconds"] < 0] == []
    assert any("It is tried again" in line["reason"] for line in later)
    assert [line for line in told() if not line.get("request_id") and line["event"] not in BEFORE_CLAIM] == []
    assert any(line["event"] == "job_finished" and line.get("request_id") for line in told())


def test_a_job_that_a_job_sends_is_received(oauth_stack: Stack) -> None:
    before = {worker: len(log_lines(worker.log_text())) for worker in oauth_stack.workers}
    with oauth_stack.client() as client:
        tenant = Tenant(client).provision()
        tenant.bind("left")
        tenant.deprovision()
    told = [line["event"] for worker in oauth_stack.workers for line in log_lines(worker.log_text())[before[worker] :]]
    assert "message_dropped" not in told


@pytest.mark.parametrize("kind", [Api, Worker, Flower])
def test_a_wrong_level_ends_each_process_with_one_line(
    oauth_stack: Stack, kind: type[Api | Worker | Flower], *, long_form: bool
) -> None:
    if kind is not Api and not long_form:
        pytest.skip(
            "with --long: test_settings.py does it with a worker, and Flower loads its settings as a worker does"
        )
    process = kind(oauth_stack.worker_settings)
    ended = run_to_end(process.command(), {**oauth_stack.worker_settings, "BROKER_LOG_LEVEL": "loud"})
    sentence = "atlas-broker: BROKER_LOG_LEVEL: must be DEBUG, INFO, WARNING, ERROR or CRITICAL\n"
    assert (ended.returncode, ended.stdout + ended.stderr) == (1, sentence)


class SilentWorker(Worker):
    """A worker whose log does not say that it is ready."""

    def answers(self) -> bool:
        return self.running


def test_the_level_holds_for_a_worker_that_is_started_without_options(oauth_stack: Stack) -> None:
    flower, user = oauth_stack.flower, (oauth_stack.user, oauth_stack.password)
    assert flower is not None
    with SilentWorker({**oauth_stack.worker_settings, "BROKER_LOG_LEVEL": "ERROR"}, "worker-silent") as worker:
        eventually(
            lambda: worker.uri in requests.get(f"{flower.uri}/api/workers?refresh=1", auth=user, timeout=20).json(),
            "it works",
        )
        worker.stop()
        assert [line["event"] for line in log_lines(worker.log_text())] == ["worker_stopping"]
