"""The servers that the broker talks to, real ones: MongoDB and Redis."""

import secrets
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from pymongo import MongoClient

from tests.certificates import Authority
from tests.dev import binaries
from tests.dev.processes import HOST, Server, run_directory

Document = dict[str, Any]


class Mongod(Server):
    """A one-node replica set without access control, or, with ``auth``, a standalone server with a root user.

    The latter also speaks TLS, and lets in users with certificates of ``authority``.
    """

    stop_signal = signal.SIGKILL

    def __init__(self, name: str = "mongod", *, auth: bool = False) -> None:
        super().__init__(name)
        self.auth = auth
        self.user = "root" if auth else ""
        self.password = secrets.token_urlsafe(16) if auth else ""
        self._prepared = False
        if auth:
            folder = run_directory() / f"{name}-{self.port}-ca"
            folder.mkdir()
            self.authority = Authority(folder)

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def uri(self) -> str:
        """With the root user's password where there is access control."""
        if self.auth:
            return f"mongodb://{self.user}:{quote(self.password)}@{self.address}/?authSource=admin"
        return f"mongodb://{self.address}/?replicaSet=rs0"

    def client(self) -> MongoClient[Document]:
        """As root; short time-outs, since the server is on this machine or not at all."""
        return MongoClient(self.uri, serverSelectionTimeoutMS=5000, tz_aware=True)

    def command(self) -> Sequence[str | Path]:
        data = self.home / "data"
        data.mkdir(exist_ok=True)
        return [
            binaries.mongod(),
            *("--dbpath", data, "--port", str(self.port), "--bind_ip", HOST, "--nounixsocket"),
            *("--wiredTigerCacheSizeGB", "0.25", "--setParameter", "diagnosticDataCollectionEnabled=false"),
            *(self._tls() if self.auth else ("--replSet", "rs0", "--oplogSize", "64")),
        ]

    def _tls(self) -> Sequence[str | Path]:
        certificate, key = self.authority.certificate("mongod")
        both = certificate.with_suffix(".both")
        both.write_bytes(certificate.read_bytes() + key.read_bytes())
        files = ("--tlsCertificateKeyFile", both, "--tlsCAFile", self.authority.file)
        return ["--auth", "--tlsMode", "allowTLS", "--tlsAllowConnectionsWithoutCertificates", *files]

    def answers(self) -> bool:
        with self._direct() as client:
            hello = client.admin.command("hello")
            if self.auth or hello["isWritablePrimary"]:
                return True
            if not self._prepared:
                members = [{"_id": 0, "host": self.address}]
                client.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
                self._prepared = True
            return False  # only the next look can find a primary

    def prepare(self) -> None:
        if self.auth and not self._prepared:
            # Without any user yet, a server with access control lets a local client make the first one.
            with self._direct() as client:
                client.admin.command("createUser", self.user, pwd=self.password, roles=["root"])
            self._prepared = True

    def _direct(self) -> MongoClient[Document]:
        return MongoClient(self.address, directConnection=True, serverSelectionTimeoutMS=500)


class Redis(Server):
    """Has no persistence, since the broker must survive the loss of all messages."""

    stop_signal = signal.SIGKILL

    def __init__(self, name: str = "redis", options: Sequence[str] = (), url: str = "") -> None:
        """``url`` opens it where ``options`` ask for a password or TLS; ``{port}`` in both is its port."""
        super().__init__(name)
        self._options = [option.format(port=self.port) for option in options]
        self._url = (url or f"redis://{HOST}:{{port}}/0").format(port=self.port)

    @property
    def uri(self) -> str:
        return self._url

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.uri, socket_timeout=1, socket_connect_timeout=1)

    def command(self) -> Sequence[str | Path]:
        files = ("--save", "", "--appendonly", "no", "--dir", self.home)
        return [binaries.redis_server(), "--port", str(self.port), "--bind", HOST, *files, *self._options]

    def answers(self) -> bool:
        with self.client() as client:
            return bool(client.ping())

    def flush(self) -> None:
        """Every message and every lease of Celery's is gone."""
        with self.client() as client:
            client.flushall()


class Sentinel(Server):
    """Watches the master ``m`` for the clients that ask; by default one alone is enough to fail over."""

    stop_signal = signal.SIGKILL

    def __init__(
        self,
        master: Redis,
        name: str = "sentinel",
        options: Sequence[str] = (),
        password: str | None = None,
        quorum: int = 1,
    ) -> None:
        super().__init__(name)
        self._password = password
        self._lines = (
            f"port {self.port}",
            f"bind {HOST}",
            f"dir {self.home}",
            f"sentinel monitor m {HOST} {master.port} {quorum}",
            "sentinel down-after-milliseconds m 1000",
            "sentinel failover-timeout m 3000",
            *options,
        )

    @property
    def uri(self) -> str:
        return f"sentinel://{HOST}:{self.port}"

    def command(self) -> Sequence[str | Path]:
        file = self.home / "sentinel.conf"
        if not file.exists():
            file.write_text("\n".join(self._lines) + "\n")
        return [binaries.redis_server(), file, "--sentinel"]

    def answers(self) -> bool:
        with socket.create_connection((HOST, self.port), timeout=1):
            return True

    def master_port(self) -> int:
        """The port of the server that it names as the master."""
        with self._client() as client:
            return int(client.sentinel_get_master_addr_by_name("m")[1])

    def _client(self) -> redis.Redis:
        return redis.Redis(host=HOST, port=self.port, password=self._password, socket_timeout=1)

    def knows(self, *, replicas: int, sentinels: int) -> bool:
        """Whether it has found that many replicas that answer it, and that many other sentinels."""
        with self._client() as client:
            master = client.sentinel_master("m")
            found = client.sentinel_slaves("m")
        ready = [each for each in found if each["master-link-status"] == "ok"]
        return len(ready) == replicas and master["num-other-sentinels"] == sentinels
