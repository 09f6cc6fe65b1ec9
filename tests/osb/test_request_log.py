"""The log that fails a run with a 5xx nobody asked for; the run's own check is in ``tests/conftest.py``."""

from tests.osb_client import OsbClient
from tests.request_log import REQUESTS, RequestLog


def test_a_5xx_that_was_not_announced_is_kept_with_the_test_that_met_it() -> None:
    log = RequestLog()
    log.note("http://broker", "GET /a", 500, expected=False, text="why")
    log.note("http://broker", "GET /b", 504, expected=True)
    log.note("http://broker", "GET /c", 404, expected=False)
    assert len(log.unasked) == 1
    assert "GET /a" in log.unasked[0]
    assert "test_a_5xx_that_was_not_announced" in log.unasked[0]
    assert log.server_errors("http://broker") == 2


def test_every_answer_of_a_platform_is_in_the_log(client: OsbClient) -> None:
    before = REQUESTS.answers[client.base_url, 200]
    client.catalog()
    assert REQUESTS.answers[client.base_url, 200] == before + 1
