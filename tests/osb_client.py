"""A platform's side of the Open Service Broker API: sends what Service Catalog sends, and worse when asked to."""

import contextlib
import copy
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Self, TypedDict, Unpack
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter

from tests.request_log import REQUESTS

SERVICE_ID = "2a04f349-4aab-4fcb-af6d-8e1749a77c13"
PLAN_ID = "8db474d1-3cc0-4f4d-b864-24e3bd49b874"
DEDICATED_PLAN_ID = "3f0cdb1c-6f0e-4c58-8d54-0f7f1f5f2a11"
FLEX_PLAN_ID = "b9f0a1d4-5d6f-4b0e-9a43-27d1a5b1c0de"
IN_PROGRESS = "in progress"

Json = dict[str, Any]
Flag = bool | None
"""Of a query: None leaves the parameter out."""


@dataclass(frozen=True)
class Answer:
    """One answer; ``seconds`` is how long it took."""

    status: int
    headers: Mapping[str, str]
    text: str
    seconds: float

    @property
    def json(self) -> Json:
        """Raises ValueError unless the body is a JSON object, which every answer of the broker's must be."""
        with contextlib.suppress(json.JSONDecodeError):
            if isinstance(value := json.loads(self.text), dict):
                return value
        raise ValueError(f"Status {self.status} without a JSON object: {self.text[:500]!r}")

    @property
    def operation(self) -> str:
        return str(self.json["operation"])

    @property
    def state(self) -> str:
        """Of a last_operation; ``gone`` for the 410 that platforms take for the success of a delete."""
        return "gone" if self.status == requests.codes.gone else str(self.json.get("state"))

    @property
    def description(self) -> str:
        return str(self.json.get("description", ""))


class Options(TypedDict, total=False):
    """What any call may change of its request.

    ``headers`` go over the usual ones (None takes one away), ``raw`` is sent instead of the body, ``auth`` instead of
    the client's user (None: without any), ``query`` goes over the usual query (None takes one away). Of
    changes: ``fields`` go over the usual body (None takes one away), ``accepts_incomplete`` goes into the query.
    """

    headers: Mapping[str, str | None]
    raw: bytes
    auth: tuple[str, str] | None
    query: Mapping[str, str | None]
    timeout: float
    fields: Json | None
    accepts_incomplete: Flag


class OsbClient:
    """Percent-encodes ids, and asks for asynchronous operations by default. Threads may share it."""

    def __init__(self, base_url: str, user: str, password: str) -> None:
        self.base_url = base_url.rstrip("/")
        self.auth = (user, password)
        self.plan_id = PLAN_ID
        self.headers = {"X-Broker-API-Version": "2.17", "Content-Type": "application/json"}
        self._expected: Counter[int] = Counter()
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.mount("http://", HTTPAdapter(pool_maxsize=64))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def of_plan(self, plan_id: str) -> Self:
        """Return a client with the same connections, whose instances and bindings are of another plan."""
        other = copy.copy(self)
        other.plan_id = plan_id
        return other

    @contextlib.contextmanager
    def expecting(self, *statuses: int) -> Iterator[None]:
        """Announce 5xx that may come inside; a 5xx that was not announced fails the run."""
        self._expected.update(statuses)
        try:
            yield
        finally:
            self._expected.subtract(statuses)

    # --- the verbs ------------------------------------------------------------------------------------------------

    def catalog(self, **options: Unpack[Options]) -> Answer:
        return self.request("GET", "/v2/catalog", **options)

    def provision(self, instance_id: str, parameters: Json | None = None, **options: Unpack[Options]) -> Answer:
        usual = self._plan() | {"organization_guid": "org", "space_guid": "space", "parameters": parameters}
        return self._change("PUT", _instance(instance_id), usual, options)

    def update(self, instance_id: str, parameters: Json | None = None, **options: Unpack[Options]) -> Answer:
        usual = {"service_id": SERVICE_ID, "parameters": parameters}
        return self._change("PATCH", _instance(instance_id), usual, options)

    def deprovision(self, instance_id: str, **options: Unpack[Options]) -> Answer:
        return self._change("DELETE", _instance(instance_id), None, options)

    def bind(
        self, instance_id: str, binding_id: str, parameters: Json | None = None, **options: Unpack[Options]
    ) -> Answer:
        usual = self._plan() | {"parameters": parameters}
        return self._change("PUT", _binding(instance_id, binding_id), usual, options)

    def rotate(self, instance_id: str, binding_id: str, predecessor_id: str, **options: Unpack[Options]) -> Answer:
        """``binding_id`` takes over from ``predecessor_id``; the body names no plan (spec: Rotating)."""
        usual = {"predecessor_binding_id": predecessor_id}
        return self._change("PUT", _binding(instance_id, binding_id), usual, options)

    def unbind(self, instance_id: str, binding_id: str, **options: Unpack[Options]) -> Answer:
        return self._change("DELETE", _binding(instance_id, binding_id), None, options)

    def instance(self, instance_id: str, **options: Unpack[Options]) -> Answer:
        return self.request("GET", _instance(instance_id), **options)

    def binding(self, instance_id: str, binding_id: str, **options: Unpack[Options]) -> Answer:
        return self.request("GET", _binding(instance_id, binding_id), **options)

    def last_operation(
        self,
        instance_id: str,
        binding_id: str | None = None,
        operation: str | None = None,
        **options: Unpack[Options],
    ) -> Answer:
        path = _instance(instance_id) if binding_id is None else _binding(instance_id, binding_id)
        options["query"] = _over(self._plan() | {"operation": operation}, options.get("query"))
        return self.request("GET", f"{path}/last_operation", **options)

    def ready(self, seconds: float = 60.0) -> Answer:
        """Ask ``/ready``; within ``seconds`` ask again while MongoDB is slow, as platforms forgive single probes.

        MongoDB has two seconds for that question, which it may need on a busy machine.
        """
        deadline = time.monotonic() + seconds
        while True:
            is_last = time.monotonic() > deadline
            answer = self.request("GET", "/ready")
            if is_last or not _mongodb_is_slow(answer):
                return answer
            time.sleep(0.1)

    # --- waiting --------------------------------------------------------------------------------------------------

    def wait(
        self,
        instance_id: str,
        binding_id: str | None = None,
        operation: str | None = None,
        *,
        seconds: float = 100.0,
        every: float | None = None,
        on_poll: Callable[[Answer], None] | None = None,
    ) -> Answer:
        """Poll until the operation has ended, well or badly; TimeoutError when it has not after ``seconds``.

        The pause between two polls is ``every`` seconds; by default it grows with the time that the operation takes.
        """
        deadline = time.monotonic() + seconds
        pauses = growing_pauses() if every is None else repeat(every)
        while True:
            is_last = time.monotonic() > deadline
            answer = self.last_operation(instance_id, binding_id, operation)
            if on_poll:
                on_poll(answer)
            if answer.status not in (requests.codes.ok, requests.codes.gone) or answer.state != IN_PROGRESS:
                return answer
            if is_last:
                raise TimeoutError(f"Still in progress after {seconds:g} s: {answer.description}")
            time.sleep(next(pauses))

    # --- the wire -------------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, body: Json | None = None, **options: Unpack[Options]) -> Answer:
        """``path`` as it is to go over the wire, ids encoded."""
        encoded = None if body is None else json.dumps(body).encode()
        response = self._session.request(
            method,
            self.base_url + path,
            params=_over({}, options.get("query")),
            data=options.get("raw", encoded),
            headers=dict(_over(dict(self.headers), options.get("headers"))),
            auth=options.get("auth", self.auth),
            timeout=options.get("timeout", 70.0),
            allow_redirects=False,
        )
        answer = Answer(response.status_code, response.headers, response.text, response.elapsed.total_seconds())
        expected = self._expected[answer.status] > 0 or (path == "/ready" and _mongodb_is_slow(answer))
        REQUESTS.note(self.base_url, f"{method} {path}", answer.status, expected=expected, text=answer.text)
        return answer

    def _change(self, method: str, path: str, usual: Json | None, options: Options) -> Answer:
        query: Json = self._plan() if method == "DELETE" else {}
        if (incomplete := options.get("accepts_incomplete", True)) is not None:
            query["accepts_incomplete"] = "true" if incomplete else "false"
        options["query"] = _over(query, options.get("query"))
        body = None if usual is None else _over(usual, options.get("fields"))
        return self.request(method, path, body, **options)

    def _plan(self) -> Json:
        return {"service_id": SERVICE_ID, "plan_id": self.plan_id}


def _mongodb_is_slow(ready: Answer) -> bool:
    is_unready = ready.status == requests.codes.unavailable
    return is_unready and ready.json.get("mongodb") == "it did not answer in time"


def growing_pauses() -> Iterator[float]:
    """Yield from 0.02 s on a quarter more each time, up to 0.25 s."""
    pause = 0.02
    while True:
        yield pause
        pause = min(1.25 * pause, 0.25)


def _over(usual: Mapping[str, Any], changes: Mapping[str, Any] | None) -> Json:
    """The usual values under the changes, without what is None: absent fields are left out, never null."""
    return {name: value for name, value in {**usual, **(changes or {})}.items() if value is not None}


def _instance(instance_id: str) -> str:
    return f"/v2/service_instances/{quote(instance_id, safe='')}"


def _binding(instance_id: str, binding_id: str) -> str:
    return f"{_instance(instance_id)}/service_bindings/{quote(binding_id, safe='')}"
