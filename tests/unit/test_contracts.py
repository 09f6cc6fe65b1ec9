"""What must hold of the code itself; style, types and imports are checked by nox."""

import ast
import subprocess

import pytest
from celery import Celery
from prometheus_client.metrics import MetricWrapperBase

import celeryconfig
from broker_api.jobs.queue import JOBS, QUEUES, RECONCILE
from broker_api.state.records import Kind
from tests.dev.broker import QUEUES as DEFAULT_QUEUES
from tests.dev.processes import CHECKOUT
from workers import metrics

DESIGN = {
    "atlas.provision": "instances",
    "atlas.update": "instances",
    "atlas.deprovision": "instances",
    "atlas.bind": "bindings",
    "atlas.unbind": "bindings",
    "maintenance.reconcile": "maintenance",
}
"""Job names and queues as the design fixes them: people read them in Flower, and deploy by them."""


@pytest.fixture(scope="module")
def workers() -> Celery:
    from workers.app import app  # noqa: PLC0415 - other tests see that the API does without

    app.loader.import_default_modules()
    return app


def test_job_names_and_queues_are_those_of_the_design() -> None:
    assert QUEUES == DESIGN
    assert {*JOBS.values(), RECONCILE} == set(DESIGN)
    assert set(JOBS) == set(Kind)


def test_workers_know_the_very_jobs_that_are_sent(workers: Celery) -> None:
    assert {name for name in workers.tasks if not name.startswith("celery.")} == set(QUEUES)


def test_celerys_configuration_routes_each_job_to_the_queue_that_it_is_sent_to(workers: Celery) -> None:
    assert {job: route["queue"] for job, route in celeryconfig.task_routes.items()} == QUEUES
    assert set(workers.amqp.queues) == set(QUEUES.values()) == set(DEFAULT_QUEUES.split(","))


def test_the_documentation_has_each_metric_of_workers_with_its_labels() -> None:
    page = (CHECKOUT / "docs" / "monitoring.md").read_text()
    listed = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `atlas_broker_")}
    made = [metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)]
    names = {
        f"{family.name}{'_total' if family.type == 'counter' else ''}{{{','.join(metric._labelnames)}}}"  # noqa: SLF001 - no public name has the labels
        for metric in made
        for family in metric.describe()
    }
    assert len(names) == len(made) >= 6
    assert names <= listed


def test_there_are_only_these_packages_at_the_top_level() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=CHECKOUT, capture_output=True, text=True, check=False).stdout
    top = {line.partition("/")[0] for line in listed.splitlines()}
    fixed = {"broker_api", "workers", "tests", "docker", "celeryconfig.py", "pyproject.toml", "README.md"}
    assert fixed <= top or not top  # no list outside a checkout
    assert {name for name in top - fixed if not name.startswith(".")} <= {
        "CHANGELOG.md",
        "LICENSE",
        "docs",
        "noxfile.py",
    }


def test_no_power_overflows_when_something_fails_for_days() -> None:
    """A float overflows at 2 to the 1024th, which a counter of failures reaches within an hour."""
    powers = [
        (path, node.right)
        for folder in ("broker_api", "workers")
        for path in (CHECKOUT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)
    ]
    unlimited = [
        f"{path.name}:{exponent.lineno}"
        for path, exponent in powers
        if not isinstance(exponent, ast.Constant) and not ast.unparse(exponent).startswith("min(")
    ]
    assert len(powers) > 1
    assert unlimited == []
