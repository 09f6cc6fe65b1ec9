"""The lines of all logs and their level, BROKER_LOG_LEVEL."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from broker_api import logs
from broker_api.errors import SettingError
from tests.dev.processes import CHECKOUT

LINES = """
import logging, structlog, threading
from broker_api import logs
logs.configure()
log = structlog.get_logger()
for write in (log.info, log.warning, log.error, log.critical, logging.getLogger().error):
    for _ in range(100):
        write("x" * 1000)
log.error("failed", exc_info=ValueError())
print("goes on", flush=True)
"""


@pytest.mark.parametrize(
    ("given", "level"),
    [({}, logging.INFO), ({"BROKER_LOG_LEVEL": " "}, logging.INFO), ({"BROKER_LOG_LEVEL": "debug"}, logging.DEBUG)],
    ids=["not set", "blank", "lower case"],
)
def test_the_level_is_info_unless_another_is_set(given: dict[str, str], level: int) -> None:
    assert logs.level(given) == level


@pytest.mark.parametrize("given", ["loud", "20", "NOTSET"])
def test_another_value_is_refused_in_one_line(given: str) -> None:
    with pytest.raises(SettingError, match=r"^BROKER_LOG_LEVEL: must be DEBUG, INFO, WARNING, ERROR or CRITICAL$"):
        logs.level({"BROKER_LOG_LEVEL": given})


def test_what_cannot_be_written_ends_nothing() -> None:
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-c", LINES], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=full, timeout=60, check=False
        )
    assert ended.stdout == b"goes on\n"
