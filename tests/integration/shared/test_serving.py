"""The API's process: where it listens, how it stops, killed without a word, and among clients that never finish."""

import http.client
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from broker_api.server import THREADS
from broker_api.server_connection import HEAD_SECONDS
from tests.console import Console
from tests.dev.broker import Api
from tests.dev.processes import HOST, run_to_end, script
from tests.dev.stack import Stack
from tests.osb_client import Answer, OsbClient
from tests.tenant import CLUSTER, eventually, log_lines

PROCESSES = 2
HALF_A_REQUEST = b"GET /v2/catalog HTTP/1.1\r\nHost: broker\r\n"


class ApiOn(Api):
    """An API that is told to listen on another address."""

    def __init__(self, settings: Mapping[str, str], name: str, host: str, answering: str = HOST) -> None:
        super().__init__(settings, name)
        self.host, self.answering = host, answering

    @property
    def uri(self) -> str:
        return f"http://{self.answering}:{self.port}"

    def command(self) -> Sequence[str | Path]:
        return [script("atlas-broker"), "api", "--host", self.host, "--port", str(self.port)]


@pytest.fixture(scope="module")
def settings(stack: Stack) -> Iterator[dict[str, str]]:
    """Of an API beside the shared stack's, in a database that no worker looks at."""
    database = f"{stack.database}-serving"
    yield {**stack.api_settings, "BROKER_MONGO_DB": database, "BROKER_API_PROCESSES": str(PROCESSES)}
    with stack.state.client() as client:
        client.drop_database(database)


@pytest.fixture(scope="module")
def api(settings: dict[str, str]) -> Iterator[Api]:
    """An API that all tests of this file share, also those that kill its processes."""
    with ApiOn(settings, "api-alone", "[::]") as running:
        yield running


def _directory_of_metrics(api: Api) -> Path:
    """Return the directory that the server has locked."""
    assert api.process
    opened = [each.resolve() for each in Path(f"/proc/{api.process.pid}/fd").iterdir()]
    (directory,) = [path for path in opened if path.name.startswith("atlas-broker-metrics-")]
    return directory


def _make_old(directory: Path) -> None:
    """As if its server had been started long ago."""
    os.utime(directory, (0, 0))


def test_an_api_killed_with_requests_under_way_can_be_started_again_at_once(api: Api, stack: Stack) -> None:
    left = _directory_of_metrics(api)
    with OsbClient(api.uri, stack.user, stack.password) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.provision, "killed", {"cluster": CLUSTER}, accepts_incomplete=None, timeout=30)
        while client.last_operation("killed").status != 200:
            assert not waiting.done(), waiting.result().text
        assert api.process
        os.kill(api.process.pid, signal.SIGKILL)  # the one that was started, as an operator would
        api.process.wait()
        assert isinstance(waiting.exception(), requests.ConnectionError), "a child that outlives its parent is late"
        _make_old(left)
        api.start()
        assert client.last_operation("killed").state == "in progress"
    assert not left.exists(), "the next server removes what a killed one has left"


def test_clients_that_stop_in_the_middle_of_a_request_hold_up_nobody_for_long(api: Api) -> None:
    with ExitStack() as held:
        for _ in range(PROCESSES * (THREADS + 5)):
            half = held.enter_context(socket.create_connection((HOST, api.port)))
            half.sendall(HALF_A_REQUEST)
        time.sleep(0.5)
        assert requests.get(f"{api.uri}/live", timeout=2 * HEAD_SECONDS).status_code == 200
    assert "Traceback" not in api.log_text()


# --- several processes --------------------------------------------------------------------------------------------


def _children(api: Api) -> set[int]:
    assert api.process
    return {int(pid) for pid in Path(f"/proc/{api.process.pid}/task/{api.process.pid}/children").read_text().split()}


def _metrics(api: Api, stack: Stack) -> dict[tuple[str, str], float]:
    """Return the samples of ``/metrics`` by name and route, asked on a new connection."""
    text = requests.get(f"{api.uri}/metrics", auth=(stack.user, stack.password), timeout=30).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, sample.labels.get("route", "")): sample.value for sample in samples}


def _served_by_each(api: Api) -> None:
    """Ask until each process has served a request, which its processor time tells."""
    eventually(lambda: len(_children(api)) == PROCESSES, "all processes have started")
    before = {pid: _processor_time(pid) for pid in _children(api)}

    def all_have_served() -> bool:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: requests.get(f"{api.uri}/v2/none", timeout=30), range(50)))
        return all(_processor_time(pid) > used + 5 for pid, used in before.items())

    eventually(all_have_served, "each process has served requests")


def _processor_time(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def test_the_metrics_are_those_of_all_processes_whichever_is_asked(api: Api, stack: Stack) -> None:
    _served_by_each(api)
    counted = ("atlas_broker_http_request_seconds_count", "none")
    (first, *others) = [_metrics(api, stack)[counted] for _ in range(12)]
    assert first % 50 == 0
    assert others == [first] * 11


def test_a_process_that_is_killed_is_replaced_and_what_it_counted_stays(api: Api, stack: Stack) -> None:
    _served_by_each(api)
    counted, waiting = ("atlas_broker_http_request_seconds_count", "none"), ("atlas_broker_sync_waiters", "")
    before = _metrics(api, stack)[counted]
    old = _children(api)
    with OsbClient(api.uri, stack.user, stack.password) as client, ThreadPoolExecutor(1) as pool:
        request = pool.submit(client.provision, "replaced", {"cluster": CLUSTER}, accepts_incomplete=None, timeout=30)
        eventually(lambda: _metrics(api, stack)[waiting] == 1, "the request waits")
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        assert isinstance(request.exception(), requests.RequestException)
    eventually(lambda: len(_children(api) - old) == PROCESSES, "other processes have replaced them")
    eventually(lambda: _answers(HOST, api.port), "they serve")
    after = _metrics(api, stack)
    assert (after[counted], after[waiting]) == (before, 0)
    assert "Traceback" not in api.log_text()


# --- where it listens ---------------------------------------------------------------------------------------------


def _answers(host: str, port: int) -> bool:
    try:
        return requests.get(f"http://{host}:{port}/live", timeout=30).ok
    except requests.ConnectionError:
        return False


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_it_listens_on_all_addresses_when_it_is_told_to(api: Api) -> None:
    assert _answers("[::1]", api.port)
    assert _answers(HOST, api.port)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_it_listens_on_no_other_address_than_it_is_given(settings: dict[str, str], *, long_form: bool) -> None:
    if not long_form:
        pytest.skip("with --long: it is opened like the address of all, which is always tried")
    with ApiOn(settings, "api-elsewhere", "::1", "[::1]") as api:
        assert not _answers(HOST, api.port)


BY_PYTHON = "import sys; from broker_api.broker import Broker; Broker().run(host=sys.argv[1], port=int(sys.argv[2]))"


@pytest.mark.parametrize(
    ("how", "host", "reason"),
    [("command", "::", "Address already in use"), ("Python", "no-such-name.invalid", "not known")],
)
def test_an_address_that_cannot_be_had_is_one_line_and_the_end(
    stack: Stack, how: str, host: str, reason: str, *, long_form: bool
) -> None:
    if how == "Python" and not long_form:
        pytest.skip(
            "with --long: it listens by the same function as the command, which tests/unit/test_server.py tries"
        )
    port = str(stack.api.port)
    command: list[str | Path] = [script("atlas-broker"), "api", "--host", host, "--port", port]
    if how == "Python":
        command = [sys.executable, "-c", BY_PYTHON, host, port]
    ended = run_to_end(command, stack.worker_settings)
    assert ended.returncode == 1, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"atlas-broker: Cannot listen on {host!r} port {port}: ")
    assert reason in line


# --- how it stops -------------------------------------------------------------------------------------------------


@contextmanager
def _request_under_way(api: Api, stack: Stack, instance_id: str) -> Iterator[Future[Answer]]:
    """A provision that waits for a job that no worker does, to an API that is told to stop meanwhile."""
    client = OsbClient(api.uri, stack.user, stack.password)
    with client, client.expecting(500, 504), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.provision, instance_id, {"cluster": CLUSTER}, accepts_incomplete=None)
        eventually(lambda: client.last_operation(instance_id).status == 200, "the request waits")
        yield waiting
        waiting.exception()


def _until_refused(port: int) -> str:
    """Ask again and again, on a new connection each time; return the first error."""
    while True:
        try:
            requests.get(f"http://{HOST}:{port}/live", timeout=30)
        except requests.ConnectionError as error:
            return str(error)


def test_an_api_that_stops_closes_its_port_and_answers_what_it_has_begun(
    api: Api, stack: Stack, settings: dict[str, str]
) -> None:
    """What was connected when the port closed is answered; what came later was refused, and may go elsewhere."""
    of_another = _directory_of_metrics(api)
    _make_old(of_another)
    with ExitStack() as opened:
        stopping = opened.enter_context(Api(settings, "api-stopping"))
        metrics = _directory_of_metrics(stopping)
        connections = [http.client.HTTPConnection(HOST, stopping.port, timeout=30) for _ in range(2)]
        for each in connections:
            opened.enter_context(closing(each)).request("GET", "/ready")
            assert each.getresponse().read()
        kept, idle = connections
        refused = opened.enter_context(socket.create_connection((HOST, stopping.port), timeout=30))
        refused.sendall(b"PUT /v2/none HTTP/1.1\r\nHost: broker\r\nContent-Length: 100\r\n\r\n")
        assert b" 401 " in refused.recv(4096), "its body is skipped, if it comes"
        pool = opened.enter_context(ThreadPoolExecutor(8))
        waiting = opened.enter_context(_request_under_way(stopping, stack, "stopped"))
        # Begun, so that the server waits for the rest; it does so for a few seconds only.
        kept.sock.sendall(b"GET /ready HTTP/1.1\r\nHost: broker\r\n")
        asking = [pool.submit(_until_refused, stopping.port) for _ in range(8)]
        time.sleep(0.3)
        stopping.ask_to_stop()
        outcomes = [each.result(60) for each in asking]
        assert all("Connection refused" in outcome for outcome in outcomes), outcomes
        kept.sock.sendall(b"\r\n")
        ready = http.client.HTTPResponse(kept.sock)
        ready.begin()
        assert (ready.status, b"stopping" in ready.read()) == (503, True)
        assert ready.headers["Connection"] == "close"
        assert (idle.sock.recv(1), refused.recv(1)) == (b"", b"")
        assert not waiting.done(), "all this does not wait for it"
        console = Console(settings)
        (operation,) = console.json("operations", "list", "--instance", "stopped")
        console.json("operations", "cancel", operation["operation"])
        assert waiting.result(60).status == 500
        assert waiting.result().json["description"]
        assert stopping.wait_for_end(60) == 0
        assert any("Booting worker" in line["event"] for line in log_lines(stopping.log_text()))
    assert not metrics.exists()
    assert of_another.exists(), "it is in use"


def test_a_wait_of_more_than_half_a_minute_is_answered_in_full(
    stack: Stack, settings: dict[str, str], *, long_form: bool
) -> None:
    if not long_form:
        pytest.skip("with --long: takes 35 s")
    with (
        Api({**settings, "BROKER_SYNC_WAIT_SECONDS": "34"}, "api-stopping") as api,
        _request_under_way(api, stack, "half-a-minute") as waiting,
    ):
        api.ask_to_stop()
        assert waiting.result(60).status == 504
        assert api.wait_for_end(60) == 0
