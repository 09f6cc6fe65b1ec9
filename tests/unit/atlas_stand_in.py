"""A server for the lowest level: it says byte for byte what a test wants Atlas to say, or hangs, or hangs up."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from werkzeug.datastructures import Authorization

from tests.emulator import credentials
from tests.emulator.model import Credential
from workers.atlas.client import Answer, ApiKey, AtlasClient, ServiceAccount

if TYPE_CHECKING:
    from collections.abc import Callable

Connection = socket.socket | tuple[bytes, socket.socket]
PROJECT = "6a793f60c0eb9e7a17714c68"
KEY = ApiKey("publickey", "private-key-value")


@dataclass(frozen=True)
class Heard:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass(frozen=True)
class Reply:
    """`pieces` are written one by one, `pause` seconds before each; then the connection is closed, or kept."""

    pieces: tuple[bytes, ...] = ()
    pause: float = 0
    close: bool = False


def say(status: int, body: object = None, **headers: str) -> Reply:
    """JSON in Atlas's way; text and bytes as they are."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = {"Content-Type": "application/json", "Content-Length": str(len(content))}
    lines |= {key.replace("_", "-"): value for key, value in headers.items()}
    head = "".join(f"{key}: {value}\r\n" for key, value in lines.items())
    return Reply((f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode() + content,))


def refuse(status: int, code: str, detail: str = "No.", parameters: object = None, **headers: str) -> Reply:
    body = {"error": status, "errorCode": code, "detail": detail, "reason": "Said", "parameters": parameters}
    return say(status, body, X_Error_Code=code, **headers)


def html(status: int) -> Reply:
    return say(status, b"<html><h1>Trouble</h1></html>", Content_Type="text/html")


HANG_UP = Reply(close=True)


class Recorder:
    """A guard that notes the answers; ``before`` is called ahead of each request."""

    def __init__(self, answers: list[Answer], before: Callable[[], None] | None = None) -> None:
        self._answers = answers
        self._before = before

    def before(self) -> None:
        if self._before:
            self._before()

    def after(self, answer: Answer) -> None:
        self._answers.append(answer)


class StandIn:
    """Answers every request with `script(request)`; `script` may be exchanged at any time."""

    def __init__(self, script: Callable[[Heard], Reply]) -> None:
        self.script = script
        self.heard: list[Heard] = []
        self.observed: list[Answer] = []
        self.connections: list[socket.socket] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers.get("content-length", 0)))
                heard = Heard(self.command, self.path, headers, body, id(self))
                owner.heard.append(heard)
                reply = owner.script(heard)
                self.close_connection = reply.close
                with suppress(OSError):  # the client went away
                    for piece in reply.pieces:
                        time.sleep(reply.pause)
                        self.wfile.write(piece)

            do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815 - names of http.server

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            request_queue_size = 64

            def process_request_thread(self, request: Connection, client_address: object) -> None:
                self.began.set()
                super().process_request_thread(request, client_address)

            def process_request(self, request: Connection, client_address: object) -> None:
                """One thread runs before the next starts, as in `together`."""
                self.began = threading.Event()
                owner.connections += [request] if isinstance(request, socket.socket) else []
                super().process_request(request, client_address)
                self.began.wait(1)

            def handle_error(self, *_: object) -> None:
                """A client went away."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:
            with suppress(OSError):  # it has been closed
                connection.shutdown(socket.SHUT_RDWR)  # else its thread would wait for a request until the end

    def client(
        self,
        auth: ApiKey | ServiceAccount | None = None,
        *,
        before: Callable[[], None] | None = None,
        timeout: tuple[float, float, float] = (5, 10, 60),
    ) -> AtlasClient:
        """By default with a key of its own, which has not been challenged yet."""
        auth = auth or ApiKey("publickey", "private-key-value")
        return AtlasClient(self.url, PROJECT, auth, timeout=timeout, guard=Recorder(self.observed, before))


@dataclass
class Digest:
    """HTTP digest as recorded: a nonce is good for `uses` requests; after that it is challenged, `stale=false`."""

    then: Callable[[Heard], Reply]
    uses: int = 1000
    private: str = "private-key-value"
    challenges: int = 0

    def __post_init__(self) -> None:
        self._digest = credentials.Digest(uses=self.uses)

    def __call__(self, heard: Heard) -> Reply:
        self._digest.keys["publickey"] = Credential("publickey", self.private, frozenset())  # tests exchange it
        given = Authorization.from_header(heard.headers.get("authorization"))
        if given and self._digest.caller(given, heard.method, heard.target):
            return self.then(heard)
        self.challenges += 1
        return say(401, BAD_KEY, Www_Authenticate=self._digest.challenge())


# Recorded: the first leg, a wrong public and a wrong private key look the same.
BAD_KEY = {
    "error": 401,
    "reason": "Unauthorized",
    "detail": "You are not authorized for this resource.",
    "errorCode": "UNEXPECTED_ERROR",
}


def user_body(name: str = "b-1", **more: object) -> dict[str, object]:
    """A database user as recorded."""
    return {
        "awsIAMType": "NONE",
        "databaseName": "admin",
        "groupId": PROJECT,
        "labels": [],
        "ldapAuthType": "NONE",
        "links": [{"href": "http://atlas/self", "rel": "self"}],
        "oidcAuthType": "NONE",
        "roles": [{"databaseName": "shop", "roleName": "readWrite"}],
        "scopes": [],
        "username": name,
        "x509Type": "NONE",
    } | more


def cluster_body(name: str = "c1", **more: object) -> dict[str, object]:
    """A dedicated cluster as recorded, shortened."""
    return {
        "adaptiveCapacity": None,
        "clusterType": "REPLICASET",
        "connectionStrings": {
            "standard": "mongodb://h1:27017,h2:27017,h3:27017/?ssl=true&authSource=admin&replicaSet=atlas-6pz0v4-shard-0",
            "standardSrv": "mongodb+srv://c1.b2icth.mongodb-dev.net",
        },
        "groupId": PROJECT,
        "mongoDBMajorVersion": "8.0",
        "mongoDBVersion": "8.0.29",
        "name": name,
        "paused": False,
        "replicationSpecs": [{"regionConfigs": [{"providerName": "AWS", "regionName": "US_EAST_1"}]}],
        "stateName": "IDLE",
        "terminationProtectionEnabled": False,
    } | more
