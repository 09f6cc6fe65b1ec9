"""A lean Atlas for measurements: ``python -m tests.bench.lean_atlas --port N``.

It speaks as much of the API v1.0 as atlasbroker 2.0.0 calls and as much of v2 as this broker calls, with the same
latency for both. It has no clusters and checks no passwords, so that it takes little of the CPU that all share. Like
Atlas it demands HTTP digest; like ``tests.emulator`` it sends a challenge without the latency.
"""

import asyncio
import json
import socket
import time
from dataclasses import asdict, dataclass, field
from typing import cast
from urllib.parse import unquote

import click

from tests.emulator import bodies
from tests.emulator.errors import CODES
from tests.emulator.model import Cluster, Json, Project
from tests.emulator.world import PROJECT_ID

NONCE = "measured"
CHALLENGE = f'Digest realm="MMS Public API", domain="", nonce="{NONCE}", algorithm=MD5, qop="auth", stale=false'
MEDIA_TYPE = "application/vnd.atlas.2023-01-01+json;charset=utf-8"
ROOT = "https://cloud.mongodb.com/api/atlas/v2"
CLUSTER = "bench"
PROJECT = Project(PROJECT_ID, "measured")


@dataclass
class Settings:
    """``latency`` is the seconds that each call takes, ``slow`` the seconds of single kinds of calls instead.

    A change of the users is applied ``apply_seconds`` after it.
    """

    latency: float = 0.0
    apply_seconds: float = 0.0
    slow: dict[str, float] = field(default_factory=dict)


@dataclass
class Log:
    """What was called since the log was cleared. Times are those of ``time.monotonic``.

    ``created`` has the arrival of the call that created a user, by binding id; ``applied`` the times at which a status
    was answered that said APPLIED.
    """

    calls: dict[str, int] = field(default_factory=dict)
    challenges: int = 0
    connections: int = 0
    created: dict[str, float] = field(default_factory=dict)
    applied: list[float] = field(default_factory=list)


class Refusal(Exception):
    """Atlas refuses the call with this error code."""


class Atlas:
    """The users and the status of the clusters, the same for all of them."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.log = Log()
        self._users: dict[str, Json] = {}
        self._applied_at = 0.0

    def control(self, method: str, body: Json) -> Json:
        """Answer a call of the benchmark itself."""
        if method == "PUT":
            self.settings = Settings(**body)
        if method == "DELETE":
            self.log = Log()
            self._users.clear()
        return asdict(self.log)

    def answer(self, kind: str, names: list[str], body: Json) -> tuple[int, Json | None]:
        """Return status and body of a call.

        Args:
            kind: The method and the collection, such as ``GET clusters``.
            names: The rest of the path, decoded.
            body: The JSON body.
        """
        match kind.split(), names:
            case [_, "databaseUsers"], _:
                return self._answer_users(kind, names, body)
            case ["GET", "clusters"], []:
                return 200, _page([_cluster(CLUSTER)])
            case ["GET", "clusters"], [name]:
                return 200, _cluster(name)
            case ["GET", "status"], _:
                return 200, {"changeStatus": self._status()}
            case ["GET", "processes"], _:  # the process of the connection string has no databases yet
                return 200, _page([])
            case ["GET", "limits"], [name]:
                return 200, {"name": name, "value": 1_000_000}
        raise Refusal("RESOURCE_NOT_FOUND")

    def _answer_users(self, kind: str, names: list[str], body: Json) -> tuple[int, Json | None]:
        name = names[-1] if names else str(body.get("username"))
        if kind == "GET databaseUsers" and not names:
            return 200, _page(list(self._users.values()))
        if kind == "POST databaseUsers":
            if name in self._users:
                raise Refusal("USER_ALREADY_EXISTS")
            self._users[name] = {"scopes": [], "labels": [], **body, "password": None}
            self._change()
            return 201, self._users[name]
        if name not in self._users:
            raise Refusal("USERNAME_NOT_FOUND")
        if kind == "GET databaseUsers":
            return 200, self._users[name]
        if kind == "DELETE databaseUsers":
            del self._users[name]
        else:
            self._users[name] |= body
        self._change()
        return (204, None) if kind == "DELETE databaseUsers" else (200, self._users[name])

    def _change(self) -> None:
        self._applied_at = time.monotonic() + self.settings.apply_seconds

    def _status(self) -> str:
        if time.monotonic() < self._applied_at:
            return "PENDING"
        self.log.applied.append(time.monotonic())
        return "APPLIED"


def _model(name: str) -> Cluster:
    hosts = f"{name}-shard-00-00.abcde.mongodb.net:27017"
    strings = {
        "standard": f"mongodb://{hosts}/?ssl=true&authSource=admin",
        "standardSrv": f"mongodb+srv://{name}.abcde.mongodb.net",
    }
    return Cluster(name, "", connection_strings=strings)


def _cluster(name: str) -> Json:
    body = bodies.cluster_body(PROJECT, _model(name), ROOT)
    return body | {"mongoURIWithOptions": body["connectionStrings"]["standard"]}


def _page(results: list[Json]) -> Json:
    return {"results": results, "totalCount": len(results), "links": []}


class Connection(asyncio.Protocol):
    """One kept connection; its calls are answered one after the other, each in one write."""

    def __init__(self, atlas: Atlas) -> None:
        self._atlas = atlas
        self._received = b""
        self._counted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, blank, rest = self._received.partition(b"\r\n\r\n")
        if not blank:
            return
        start, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._received = rest[length:]
        method, target, _ = start.split(" ")
        self._serve(method, target.partition("?")[0], headers, json.loads(rest[:length] or b"{}"))

    def _serve(self, method: str, path: str, headers: dict[str, str], body: Json) -> None:
        if path == "/bench":
            return self._send(200, self._atlas.control(method, body))
        log, settings = self._atlas.log, self._atlas.settings
        log.connections += not self._counted
        self._counted = True
        if f'nonce="{NONCE}"' not in headers.get("authorization", ""):
            log.challenges += 1
            return self._send(401, {"error": 401, "errorCode": "UNEXPECTED_ERROR", "detail": ""}, CHALLENGE)
        _, _, _, version, _, _, collection, *names = path.split("/")
        if names[1:] == ["status"]:
            collection = "status"
        kind = f"{method} {collection}"
        log.calls[kind] = log.calls.get(kind, 0) + 1
        if kind == "POST databaseUsers":
            labels = {label["key"]: label["value"] for label in body.get("labels", ())}
            log.created[str(labels.get("binding_id"))] = time.monotonic()
        pause = settings.slow.get(kind, settings.latency)
        asyncio.get_running_loop().call_later(pause, self._act, kind, [unquote(name) for name in names], body, version)
        return None

    def _act(self, kind: str, names: list[str], body: Json, version: str) -> None:
        try:
            status, answer = self._atlas.answer(kind, names, body)
        except Refusal as refusal:
            code = str(refusal)
            status, sentence = CODES.get(code, (404, ""))
            answer = {"error": status, "errorCode": code, "detail": sentence, "parameters": []}
        if status == 204 and version == "v1.0":
            status, answer = 200, {}  # atlasbroker 2.0.0 reads a body
        self._send(status, answer)

    def _send(self, status: int, body: Json | None, challenge: str = "") -> None:
        content = b"" if body is None else json.dumps(body).encode()
        head = [f"HTTP/1.1 {status} Bench", f"Content-Type: {MEDIA_TYPE}"]
        head += [f"Content-Length: {len(content)}"] if status != 204 else []
        head += [f"WWW-Authenticate: {challenge}"] if challenge else []
        self._transport.write("\r\n".join([*head, "", ""]).encode() + content)


async def serve(port: int) -> None:
    atlas = Atlas()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(atlas), "127.0.0.1", port, backlog=512)
    await server.serve_forever()


@click.command()
@click.option("--port", type=int, required=True)
def main(port: int) -> None:
    """Serve until stopped."""
    asyncio.run(serve(port))


if __name__ == "__main__":
    main()
