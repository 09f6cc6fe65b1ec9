"""BROKER_LOG_LEVEL, the level of all logs."""

import logging

import pytest

from broker_api import logs
from broker_api.errors import SettingError


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
