"""PROMETHEUS_MULTIPROC_DIR, the directory in which processes count together; prometheus_client reads it too."""

import sys
from pathlib import Path

import pytest

from broker_api.errors import SettingError
from broker_api.metrics_directory import check_directory
from tests.dev.processes import run_to_end

COMPLETE = {
    "MONGODB_ATLAS_PUBLIC_API_KEY": "key",
    "MONGODB_ATLAS_PRIVATE_API_KEY": "key",
    "MONGODB_ATLAS_PROJECT_ID": "5" * 24,
    "BROKER_MONGO_URI": "mongodb://127.0.0.1:1",
    "BROKER_USERS": "a:b",
    "BROKER_ENCRYPTION_KEYS": "A" * 43 + "=",
}
API = [sys.executable, "-c", "import broker_api.wsgi"]
WORKER = [sys.executable, "-m", "celery", "-A", "workers", "worker"]
COUNT = """
import sys
from pathlib import Path
from broker_api.settings.redis_settings import RedisSettings
from workers import metrics
from workers.atlas.client import Answer
from workers.guard.guard import Guard
from workers.guard.rate_limiter import RateLimiter

Path(sys.argv[1]).rmdir()
metrics.OperationTimes("bind", 0.0, 1.0).succeeded()
answer = Answer("GET", "/groups", 200, None, limit=720, remaining=1, seconds=0.1, requests=1)
limiter = RateLimiter("project", RedisSettings.parse("redis://127.0.0.1:1/0"))
limiter.observe(answer)
of_processes = Answer("GET", "/processes", 404, None, limit=None, remaining=None, seconds=0.1, requests=1)
Guard(None, limiter).after(of_processes)
print(limiter.slowed)
"""


SENTENCE = "PROMETHEUS_MULTIPROC_DIR: must name a directory in which this process can create files"


@pytest.mark.parametrize("named", ["", "/no/such/directory", __file__, "/proc"])
def test_a_directory_in_which_no_file_can_be_created_is_refused(named: str) -> None:
    with pytest.raises(SettingError, match=f"^{SENTENCE}$"):
        check_directory({"PROMETHEUS_MULTIPROC_DIR": named})


def test_a_directory_that_can_be_used_is_left_empty(tmp_path: Path) -> None:
    check_directory({})
    check_directory({"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)})
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("command", [API, WORKER], ids=["api", "worker"])
def test_a_process_checks_it_at_its_start(command: list[str]) -> None:
    ended = run_to_end(command, {**COMPLETE, "PROMETHEUS_MULTIPROC_DIR": "/no/such/directory"})
    assert ended.returncode != 0
    assert [line for line in ended.stderr.splitlines() if not line.startswith("{")] == [f"atlas-broker: {SENTENCE}"]


def test_a_directory_that_is_lost_loses_counts_only(tmp_path: Path) -> None:
    directory = tmp_path / "metrics"
    directory.mkdir()
    ended = run_to_end([sys.executable, "-c", COUNT, str(directory)], {"PROMETHEUS_MULTIPROC_DIR": str(directory)})
    assert ended.stdout.endswith("True\n"), ended.stderr
    assert "Traceback" not in ended.stderr
