"""Flower, Celery's dashboard: who may see it, what it shows, and that nobody can steer workers with it."""

from collections.abc import Iterator

import pytest
import requests

from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.tenant import Tenant, eventually


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

    def jobs(self, operation: str) -> list[dict[str, str]]:
        """Those that have an operation's id among their arguments."""
        return [job for job in self.get("/api/tasks").json().values() if operation in job["args"]]


@pytest.fixture
def flower(oauth_stack: Stack) -> Iterator[Flower]:
    shown = Flower(oauth_stack)
    with shown.session:
        yield shown


@pytest.mark.parametrize("path", ["/", "/workers", "/tasks", "/broker", "/api/tasks", "/api/workers", "/metrics"])
def test_flower_demands_a_user_of_the_broker(flower: Flower, path: str) -> None:
    assert requests.get(flower.uri + path, timeout=20).status_code == 401
    assert requests.get(flower.uri + path, auth=("dev", "wrong"), timeout=20).status_code == 401
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
    assert "b-1" in [user["username"] for user in atlas.users()]


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
