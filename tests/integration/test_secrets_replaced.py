"""Secrets that change while the broker works, in files: no request is lost, and what is new holds within seconds."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest
from cryptography.fernet import Fernet

from broker_api.logins import make_hash
from tests.conftest import need
from tests.dev import binaries
from tests.dev.emulated import AtlasEmulator
from tests.dev.services import Mongod
from tests.dev.stack import Stack
from tests.osb_client import OsbClient
from tests.tenant import Tenant, eventually

CLIENTS = 2
PAUSE_SECONDS = 0.2
"""Between two binds of a client: enough of them are under way, and the machine has time for the rest."""
OLD, NEW = "old-password", "new-password"


@dataclass
class Files:
    """The files of secrets; each is replaced at once, as Kubernetes does it."""

    directory: Path

    def write(self, **contents: str) -> None:
        for name, content in contents.items():
            (self.directory / "new").write_text(f"{content}\n")
            (self.directory / "new").rename(self.directory / name)

    def settings(self) -> dict[str, str]:
        names = {
            "BROKER_USERS": "users",
            "BROKER_ENCRYPTION_KEYS": "keys",
            "MONGODB_ATLAS_PUBLIC_API_KEY": "public",
            "MONGODB_ATLAS_PRIVATE_API_KEY": "private",
        }
        files = {f"{variable}_FILE": str(self.directory / name) for variable, name in names.items()}
        return {**dict.fromkeys(names, ""), **files}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def running(files: Files, state_mongod: Mongod, cluster_mongod: Mongod, emulator: AtlasEmulator) -> Iterator[Stack]:
    need(binaries.redis_server)
    given = {**files.settings(), "BROKER_API_PROCESSES": "2", "BROKER_SETTLE_SECONDS": "0"}
    stack = Stack(
        workers=1, flower=False, settings=given, state=state_mongod, cluster=cluster_mongod, emulator=emulator
    )
    files.write(
        users=f"old:{make_hash(OLD)}",
        keys=stack.encryption_key,
        public=emulator.public_key,
        private=emulator.private_key,
    )
    with stack:
        yield stack
    emulator.control.put_key(emulator.public_key, emulator.private_key, [emulator.project_id])


def client_of(stack: Stack, name: str, password: str) -> OsbClient:
    return OsbClient(stack.api.uri, name, password)


class Load:
    """Platforms that bind and unbind without an end; ``login`` is the one that they take for the next request."""

    def __init__(self, stack: Stack) -> None:
        self.login = "old", OLD
        self.binds = 0
        self.failures: list[str] = []
        self._stack = stack
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        turn = 0
        try:
            while not self._stopping.is_set():
                turn += 1
                with client_of(self._stack, *self.login) as client:
                    tenant = Tenant(client, f"loaded-{number}")
                    if turn == 1:
                        tenant.provision()
                    tenant.bind(f"b-{number}-{turn}")
                    tenant.unbind(f"b-{number}-{turn}")
                    self.binds += 1
                self._stopping.wait(PAUSE_SECONDS)
        except BaseException as error:  # noqa: BLE001 - the test shows it
            self.failures.append(repr(error))

    def goes_on(self) -> None:
        """Wait for binds that began after now."""
        wanted = self.binds + 2 * CLIENTS
        eventually(lambda: self.failures or self.binds >= wanted, "binds go on")
        assert self.failures == []


def status(stack: Stack, name: str, password: str) -> set[int]:
    """Return how several requests are answered; each may reach another process of the API."""
    with client_of(stack, name, password) as client, client.expecting(401, 429):
        return {client.catalog(headers={"Connection": "close"}).status for _ in range(6)}


def test_secrets_change_under_load_without_a_lost_request_and_a_wrong_key_of_encryption_is_not_used(
    running: Stack, files: Files, emulator: AtlasEmulator
) -> None:
    atlas, new_key = emulator.control, Fernet.generate_key().decode()
    with client_of(running, "old", OLD) as platform, Load(running) as load:
        kept = Tenant(platform, "kept").provision()
        credentials = kept.bind("b")
        load.goes_on()

        atlas.put_key("second", "second-private", [emulator.project_id])
        both = f"old:{make_hash(OLD)},new:{make_hash(NEW)}"
        files.write(users=both, keys=f"{running.encryption_key},{new_key}", public="second", private="second-private")
        eventually(lambda: status(running, "new", NEW) == {200}, "the new password is in force")
        (worker,) = running.workers
        eventually(lambda: "secrets_replaced" in worker.log_text(), "the worker has the new key of Atlas")
        atlas.put_key(emulator.public_key, "revoked", [emulator.project_id])
        load.login = "new", NEW
        load.goes_on()

        files.write(users=f"new:{make_hash(NEW)}", keys=f"{new_key},{running.encryption_key}")
        eventually(lambda: status(running, "old", OLD) <= {401, 429}, "the old password is out of force")
        eventually(lambda: worker.log_text().count('"secrets_replaced"') == 2, "the worker writes with the new key")
        load.goes_on()
    assert load.failures == []
    with client_of(running, "new", NEW) as platform:
        kept = Tenant(platform, "kept")
        assert kept.credentials("b") == credentials
        files.write(keys=Fernet.generate_key().decode())
        servers = [running.api, worker]
        eventually(lambda: all("secrets_not_replaced" in each.log_text() for each in servers), "all refuse the key")
        kept.bind("c")
        assert kept.credentials("b") == credentials
        kept.deprovision()
