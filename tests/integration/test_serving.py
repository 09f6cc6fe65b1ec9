"""The API's process: killed without a word, and among clients that never finish what they began."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import requests

from broker_api.server import READ_SECONDS, THREADS
from tests.dev.broker import Api
from tests.dev.processes import HOST
from tests.dev.stack import Stack
from tests.osb_client import OsbClient
from tests.tenant import CLUSTER

HALF_A_REQUEST = b"GET /v2/catalog HTTP/1.1\r\nHost: broker\r\n"


@pytest.fixture
def api(stack: Stack) -> Iterator[Api]:
    """One beside the shared stack's, in a database that no worker looks at."""
    with Api({**stack.api_settings, "BROKER_MONGO_DB": f"{stack.database}-serving"}, "api-alone") as running:
        yield running
    with stack.state.client() as client:
        client.drop_database(f"{stack.database}-serving")


def test_an_api_killed_with_requests_under_way_can_be_started_again_at_once(api: Api, stack: Stack) -> None:
    with OsbClient(api.uri, stack.user, stack.password) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.provision, "i", {"cluster": CLUSTER}, accepts_incomplete=None, timeout=30)
        while client.last_operation("i").status != 200:
            assert not waiting.done(), waiting.result().text
        assert api.process
        os.kill(api.process.pid, signal.SIGKILL)  # the one that was started, as an operator would
        api.process.wait()
        killed = time.monotonic()
        assert isinstance(waiting.exception(), requests.RequestException)
        api.start()
        assert client.last_operation("i").state == "in progress"
    assert time.monotonic() - killed < 5


def test_clients_that_stop_in_the_middle_of_a_request_hold_up_nobody_for_long(api: Api) -> None:
    with ExitStack() as held:
        for _ in range(THREADS + 5):
            half = held.enter_context(socket.create_connection((HOST, api.port)))
            half.sendall(HALF_A_REQUEST)
        time.sleep(0.5)
        assert requests.get(f"{api.uri}/live", timeout=2 * READ_SECONDS).status_code == 200
    assert "Traceback" not in api.log_text()
