"""Flower, Celery's dashboard: who may see it, what it shows, and that nobody can steer workers with it."""

import html
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests import browser
from tests.browser import Browser
from tests.dev.stack import OPERATOR, PLATFORM, Stack
from tests.emulator.client import Emulator
from tests.tenant import CLUSTER, Tenant, ends, eventually


class Flower:
    def __init__(self, stack: Stack) -> None:
        assert stack.flower is not None
        self.uri = stack.flower.uri
        self.session = requests.Session()
        self.session.auth = (stack.user, stack.password)

    def get(self, path: str) -> requests.Response:
        return self.session.get(self.uri + path, timeout=20)

    def knows(self, workers: int) -> bool:
        """Flower asks workers about themselves when it is told to, which takes a second."""
        return any(len(self.get(path).json()) == workers for path in ("/api/workers", "/api/workers?refresh=1"))

    def job(self, operation: str) -> dict[str, str]:
        """Return the job of an operation, all its runs; an empty one before Flower has heard of it."""
        shown: dict[str, dict[str, str]] = self.get("/api/tasks").json()
        return shown.get(operation, {})

    def found(self, text: str) -> list[str]:
        """Return the ids of the jobs that the search field of Flower's list finds."""
        listed = self.get(
            f"/tasks/datatable?draw=1&start=0&length=50&search[value]={text}&order[0][column]=0&order[0][dir]=asc"
            "&columns[0][data]=name"
        )
        return [job["uuid"] for job in listed.json()["data"]]

    def jobs(self, operation: str) -> list[dict[str, str]]:
        """Those that have an operation's id among their arguments."""
        return [job for job in self.get("/api/tasks").json().values() if operation in job["args"]]


@pytest.fixture
def flower(oauth_stack: Stack) -> Iterator[Flower]:
    shown = Flower(oauth_stack)
    with shown.session:
        yield shown


@pytest.mark.parametrize("path", ["/", "/workers", "/tasks", "/broker", "/api/tasks", "/api/workers", "/metrics"])
def test_flower_demands_an_operator(flower: Flower, oauth_stack: Stack, path: str) -> None:
    assert requests.get(flower.uri + path, timeout=20).status_code == 401
    for auth in ((oauth_stack.user, f"wrong for {path}"), ("p", PLATFORM), ("o", "wrong")):
        assert requests.get(flower.uri + path, auth=auth, timeout=20).status_code == 401
    assert requests.get(flower.uri + path, auth=("o", OPERATOR), timeout=20).status_code == 200
    assert flower.get(path).status_code == 200


def test_flower_shows_jobs_by_name_with_ids_only(flower: Flower, oauth_stack: Stack, atlas: Emulator) -> None:
    with oauth_stack.client() as client:
        tenant = Tenant(client).provision()
        accepted = client.bind(tenant.instance_id, "b-1")
        tenant.succeed(accepted, "b-1")
    eventually(lambda: flower.jobs(accepted.operation), "the job is shown")
    for job in flower.jobs(accepted.operation):
        assert job["name"] == "atlas.bind"
        assert job["args"] == f"['{tenant.instance_id}', 'b-1', '{accepted.operation}']"
        assert job["kwargs"] == "{}"
        assert job["uuid"] == accepted.operation
    assert "b-1" in [user["username"] for user in atlas.users()]


def test_a_jobs_state_is_that_of_its_operation(flower: Flower, oauth_stack: Stack, atlas: Emulator) -> None:
    with oauth_stack.client() as client:
        tenant = Tenant(client).provision()
        failing = client.provision(f"failed-{tenant.instance_id}", {"cluster": "nowhere"})
        end = ends(client, failing, f"failed-{tenant.instance_id}").description
        atlas.apply_by_hand()
        binding = f"binding-of-{tenant.instance_id}"
        waiting = client.bind(tenant.instance_id, binding)
        eventually(lambda: flower.job(waiting.operation).get("state") == "RETRY", "it waits")
        failed, waits = (flower.job(each.operation) for each in (failing, waiting))
        assert (failed["state"], failed["result"]) == ("FAILURE", end)
        assert "nowhere" in end
        assert waits["result"] == f"Waiting until Atlas has applied the change on the cluster {CLUSTER}."
        atlas.apply_now()
        success = tenant.end(waiting, binding)
    assert success.state == "succeeded"
    eventually(lambda: flower.job(waiting.operation)["state"] == "SUCCESS", "it has ended")
    done = flower.job(waiting.operation)
    assert done["result"].strip("'") == success.description
    assert not done["exception"]
    assert [job["traceback"] or "" for job in (failed, waits, done)] == ["", "", ""]
    for each in (tenant.instance_id, binding, waiting.operation):
        assert waiting.operation in flower.found(each)


def test_a_real_browser_shows_a_failed_a_waiting_and_a_finished_job(
    flower: Flower, oauth_stack: Stack, atlas: Emulator, tmp_path: Path, *, long_form: bool
) -> None:
    window = Browser(browser.find(), tmp_path)
    with oauth_stack.client() as client:
        tenant = Tenant(client).provision()
        failing = client.provision(f"failed-{tenant.instance_id}", {"cluster": "nowhere"})
        end = ends(client, failing, f"failed-{tenant.instance_id}").description
        atlas.apply_by_hand()
        waiting = client.bind(tenant.instance_id, "waits")
        eventually(lambda: flower.job(waiting.operation).get("state") == "RETRY", "it waits")
        address = flower.uri.replace("://", f"://{oauth_stack.user}:{oauth_stack.password}@")
        dom = window.dom(f"{address}/tasks")
        if long_form:
            assert window.picture(f"{address}/tasks", "flower-jobs").stat().st_size > 20_000
        atlas.apply_now()
        tenant.succeed(waiting, "waits")
    rows = re.findall(r"<tr[^>]*>(?:(?!</tr>).)*</tr>", dom, re.DOTALL)
    jobs = [row for row in rows if tenant.instance_id in row]
    shown = {state: row for row in jobs for state in ("SUCCESS", "FAILURE", "RETRY") if f">{state}<" in row}
    assert set(shown) == {"SUCCESS", "FAILURE", "RETRY"}, jobs
    assert html.escape(end, quote=False) in shown["FAILURE"]
    assert "Waiting until Atlas has applied the change" in shown["RETRY"]


def test_what_is_tried_again_says_why_and_when(flower: Flower, oauth_stack: Stack, atlas: Emulator) -> None:
    with oauth_stack.client() as client:
        tenant = Tenant(client).provision()
        atlas.fail("POST", "databaseUsers", status=503, times=None)
        accepted = client.bind(tenant.instance_id, "b")
        eventually(lambda: flower.job(accepted.operation).get("state") == "RETRY", "it is tried again")
        job = flower.job(accepted.operation)
        atlas.heal()
        tenant.succeed(accepted, "b")
    told = r"\S.*It is tried again\. Next attempt at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\."
    assert re.fullmatch(told, job["result"])
    eventually(lambda: flower.job(accepted.operation)["state"] == "SUCCESS", "it has succeeded")


def test_the_list_of_jobs_has_ids_and_reasons(flower: Flower) -> None:
    columns = re.findall(r'<th data-column="(\w+)"', flower.get("/tasks").text)
    assert columns == ["name", "state", "args", "result", "received", "runtime", "worker"]


@pytest.mark.parametrize(
    "path",
    [
        "/api/worker/shutdown/{worker}",
        "/api/worker/pool/shrink/{worker}",
        "/api/worker/queue/cancel-consumer/{worker}?queue=bindings",
        "/api/task/async-apply/atlas.bind",
        "/api/task/send-task/atlas.bind",
        "/api/task/apply/maintenance.reconcile",
        "/api/task/revoke/0",
        "/api/task/rate-limit/atlas.bind?workername={worker}",
    ],
)
def test_nobody_can_steer_workers_or_send_jobs_by_flower(flower: Flower, oauth_stack: Stack, path: str) -> None:
    eventually(lambda: flower.knows(len(oauth_stack.workers)), "it knows the workers")
    for worker in oauth_stack.workers:
        answer = flower.session.post(flower.uri + path.format(worker=worker.uri), json={"args": []}, timeout=20)
        assert answer.status_code == 403, answer.text
        assert worker.running
