"""The API's process: where it listens, how it stops, killed without a word, and among clients that never finish."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from broker_api.server import READ_SECONDS, THREADS
from tests.dev.broker import Api
from tests.dev.processes import HOST, clean_environment, script
from tests.dev.stack import Stack
from tests.osb_client import Answer, OsbClient
from tests.tenant import CLUSTER, eventually

PROCESSES = 2
HALF_A_REQUEST = b"GET /v2/catalog HTTP/1.1\r\nHost: broker\r\n"


@pytest.fixture
def api(stack: Stack) -> Iterator[Api]:
    """One beside the shared stack's, in a database that no worker looks at."""
    own = {"BROKER_MONGO_DB": f"{stack.database}-serving", "BROKER_API_PROCESSES": str(PROCESSES)}
    with Api({**stack.api_settings, **own}, "api-alone") as running:
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
    assert time.monotonic() - killed < 20, "a child that outlives its parent holds the port for 30 s"


def test_clients_that_stop_in_the_middle_of_a_request_hold_up_nobody_for_long(api: Api) -> None:
    with ExitStack() as held:
        for _ in range(PROCESSES * (THREADS + 5)):
            half = held.enter_context(socket.create_connection((HOST, api.port)))
            half.sendall(HALF_A_REQUEST)
        time.sleep(0.5)
        assert requests.get(f"{api.uri}/live", timeout=2 * READ_SECONDS).status_code == 200
    assert "Traceback" not in api.log_text()


# --- several processes --------------------------------------------------------------------------------------------


def _children(api: Api) -> set[int]:
    assert api.process
    return {int(pid) for pid in Path(f"/proc/{api.process.pid}/task/{api.process.pid}/children").read_text().split()}


def _metrics(api: Api, stack: Stack) -> dict[tuple[str, str], float]:
    """Return the samples of ``/metrics`` by name and route, asked on a new connection."""
    text = requests.get(f"{api.uri}/metrics", auth=(stack.user, stack.password), timeout=10).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, sample.labels.get("route", "")): sample.value for sample in samples}


def _served_by_each(api: Api) -> None:
    """Ask until each process has served a request, which its processor time tells."""
    eventually(lambda: len(_children(api)) == PROCESSES, "all processes have started")
    before = {pid: _processor_time(pid) for pid in _children(api)}

    def all_have_served() -> bool:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: requests.get(f"{api.uri}/v2/none", timeout=10), range(50)))
        return all(_processor_time(pid) > used + 5 for pid, used in before.items())

    eventually(all_have_served, "each process has served requests")


def _processor_time(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def test_the_metrics_are_those_of_all_processes_whichever_is_asked(api: Api, stack: Stack) -> None:
    _served_by_each(api)
    counted = ("broker_http_request_seconds_count", "none")
    (first, *others) = [_metrics(api, stack)[counted] for _ in range(12)]
    assert first % 50 == 0
    assert others == [first] * 11


def test_a_process_that_is_killed_is_replaced_and_what_it_counted_stays(api: Api, stack: Stack) -> None:
    _served_by_each(api)
    counted, waiting = ("broker_http_request_seconds_count", "none"), ("broker_sync_waiters", "")
    before = _metrics(api, stack)[counted]
    old = _children(api)
    with OsbClient(api.uri, stack.user, stack.password) as client, ThreadPoolExecutor(1) as pool:
        request = pool.submit(client.provision, "i", {"cluster": CLUSTER}, accepts_incomplete=None, timeout=30)
        eventually(lambda: _metrics(api, stack)[waiting] == 1, "the request waits")
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        assert isinstance(request.exception(), requests.RequestException)
    eventually(lambda: len(_children(api) - old) == PROCESSES, "other processes have replaced them")
    eventually(lambda: _answers(HOST, api.port), "they serve")
    after = _metrics(api, stack)
    assert (after[counted], after[waiting]) == (before, 0)
    assert "Traceback" not in api.log_text()


def _directory_of_metrics(api: Api) -> Path:
    """Return the directory that the server has locked."""
    assert api.process
    opened = [each.resolve() for each in Path(f"/proc/{api.process.pid}/fd").iterdir()]
    (directory,) = [path for path in opened if path.name.startswith("atlas-broker-metrics-")]
    return directory


def test_a_server_leaves_nothing_behind_and_removes_what_a_killed_one_has_left(api: Api) -> None:
    with Api(api.settings, "api-killed") as killed:
        left = _directory_of_metrics(killed)
        killed.kill()
        assert left.exists()
        os.utime(left, (0, 0))  # as if it had been killed long ago
        killed.start()
        assert not left.exists()
        own = _directory_of_metrics(killed)
        assert own.exists()
        assert killed.stop() == 0
        assert not own.exists()
    assert _directory_of_metrics(api).exists(), "it is in use"


# --- where it listens ---------------------------------------------------------------------------------------------


class ApiOn(Api):
    """An API that is told to listen on another address."""

    def __init__(self, stack: Stack, host: str, answering: str) -> None:
        super().__init__(stack.api_settings, "api-elsewhere")
        self.host, self.answering = host, answering

    @property
    def uri(self) -> str:
        return f"http://{self.answering}:{self.port}"

    def command(self) -> Sequence[str | Path]:
        return [script("atlas-broker"), "api", "--host", self.host, "--port", str(self.port)]


def _answers(host: str, port: int) -> bool:
    try:
        return requests.get(f"http://{host}:{port}/live", timeout=5).ok
    except requests.ConnectionError:
        return False


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(
    ("host", "answering", "silent"),
    [
        ("[::]", ["[::1]", HOST], []),
        ("::1", ["[::1]"], [HOST]),
    ],
)
def test_it_listens_on_the_address_that_it_is_given(
    stack: Stack, host: str, answering: list[str], silent: list[str], *, long_form: bool
) -> None:
    if host != "[::]" and not long_form:
        pytest.skip("with --long: it is opened like the address of all, which is always tried")
    with ApiOn(stack, host, answering[0]) as api:
        assert all(_answers(each, api.port) for each in answering)
        assert not any(_answers(each, api.port) for each in silent)


BY_PYTHON = "import sys; from broker_api.broker import Broker; Broker().run(host=sys.argv[1], port=int(sys.argv[2]))"


@pytest.mark.parametrize(
    ("how", "host", "reason"),
    [("command", "::", "Address already in use"), ("Python", "no-such-name.invalid", "not known")],
)
def test_an_address_that_cannot_be_had_is_one_line_and_the_end(stack: Stack, how: str, host: str, reason: str) -> None:
    port = str(stack.api.port)
    command: list[str | Path] = [script("atlas-broker"), "api", "--host", host, "--port", port]
    if how == "Python":
        command = [sys.executable, "-c", BY_PYTHON, host, port]
    environment = clean_environment(stack.worker_settings)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"atlas-broker: Cannot listen on {host!r} port {port}: ")
    assert reason in line


# --- how it stops -------------------------------------------------------------------------------------------------


@contextmanager
def _request_under_way(api: Api, stack: Stack) -> Iterator[Future[Answer]]:
    """A provision that waits for a job that no worker does, to an API that is told to stop meanwhile."""
    client = OsbClient(api.uri, stack.user, stack.password)
    with client, client.expecting(504), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.provision, "i", {"cluster": CLUSTER}, accepts_incomplete=None)
        eventually(lambda: client.last_operation("i").status == 200, "the request waits")
        yield waiting
        waiting.exception()


def _stopping_api(stack: Stack, seconds: int) -> Api:
    settings = {
        "BROKER_MONGO_DB": f"{stack.database}-serving",
        "BROKER_API_PROCESSES": str(PROCESSES),
        "BROKER_SYNC_WAIT_SECONDS": str(seconds),
    }
    return Api({**stack.api_settings, **settings}, "api-stopping")


@pytest.fixture
def clean(stack: Stack) -> Iterator[None]:
    yield
    with stack.state.client() as client:
        client.drop_database(f"{stack.database}-serving")


@pytest.mark.usefixtures("clean")
def test_an_api_that_stops_closes_its_port_and_answers_what_it_has_begun(stack: Stack) -> None:
    with _stopping_api(stack, 5) as api, _request_under_way(api, stack) as waiting, ExitStack() as open_connections:
        connections = [http.client.HTTPConnection(HOST, api.port, timeout=10) for _ in range(2)]
        for each in connections:
            open_connections.enter_context(closing(each)).request("GET", "/ready")
            assert each.getresponse().read()
        kept, idle = connections
        told = time.monotonic()
        api.ask_to_stop()
        eventually(lambda: not _answers(HOST, api.port), "the port is closed")
        assert time.monotonic() - told < 1
        kept.request("GET", "/ready")
        ready = kept.getresponse()
        assert (ready.status, b"stopping" in ready.read()) == (503, True)
        assert ready.headers["Connection"] == "close"
        assert idle.sock.recv(1) == b""
        assert not waiting.done()
        assert waiting.result(10).status == 504
        assert waiting.result().json["description"]
        assert api.wait_for_end(10) == 0


@pytest.mark.usefixtures("clean")
def test_no_connection_is_reset_when_an_api_stops(stack: Stack) -> None:
    """What was connected when the port closed is answered; what came later was refused, and may go elsewhere."""
    outcomes: list[str] = []

    def ask(port: int) -> None:
        while True:
            try:
                requests.get(f"http://{HOST}:{port}/live", timeout=5)
            except requests.ConnectionError as error:
                outcomes.append(str(error))
                return

    with _stopping_api(stack, 4) as api, ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, api.port) for _ in range(8)]
        time.sleep(0.3)
        api.ask_to_stop()
        for each in asking:
            each.result(20)
    assert len(outcomes) == 8
    assert all("Connection refused" in outcome for outcome in outcomes), outcomes


@pytest.mark.usefixtures("clean")
def test_a_wait_of_more_than_half_a_minute_is_answered_in_full(stack: Stack, *, long_form: bool) -> None:
    if not long_form:
        pytest.skip("with --long: takes 35 s")
    with _stopping_api(stack, 34) as api, _request_under_way(api, stack) as waiting:
        api.ask_to_stop()
        assert waiting.result(60).status == 504
        assert api.wait_for_end(10) == 0
