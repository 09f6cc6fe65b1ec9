"""The page ``/operations`` on the state alone: what it shows, how it is made, and at what cost. Workers are claims."""

import base64
import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.fernet import Fernet
from flask import Flask
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from broker_api.jobs.queue import Queue
from broker_api.osb.app import create_app
from broker_api.service.service import Service
from broker_api.settings.settings import load
from broker_api.state.fields import BindingFields, InstanceFields, OperationFields, StepsFields
from broker_api.state.mongo import In, connect
from broker_api.state.new_operation import NewOperation
from broker_api.state.operation_claims import Claims
from broker_api.state.operator_queries import Cursor
from broker_api.state.records import Kind, Phase, State, StepResult, binding_key, instance_key
from broker_api.state.store import Store
from tests import browser
from tests.books import insert_many
from tests.browser import PHONE, Browser
from tests.dev.processes import HOST, free_port
from tests.in_process import QuietHandler

USER = ("operator", "a-password")
HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}"
SECRET = "sealed-credentials"
FLOWER = "https://flower.example/sub"
WAITING = "Waiting until Atlas has applied the change on the cluster orders-eu."
DOWN = "Atlas answers 503 to requests for the cluster orders-eu."
REFUSED = "There is no cluster payments in the projects of this broker. Name another one in the parameter cluster."


@dataclass
class Plant:
    """Operations in each state, as workers leave them. ``ids`` has the id of each by a name."""

    store: Store
    ids: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.claims = Claims(self.store, "celery@worker-7d4b9c")

    def begin(self, name: str, instance_id: str, binding_id: str | None = None, **identity: str) -> str:
        """Begin a provision, or a bind, and return the key of its document."""
        who = {"platform": "cloudfoundry", "value": identity} if identity else None
        start = NewOperation(Kind.BIND if binding_id else Kind.PROVISION, identity=who, request_id="request-1")
        fields: InstanceFields | BindingFields = InstanceFields(instance_id=instance_id)
        if binding_id:
            fields = BindingFields(instance_id=instance_id, binding_id=binding_id, sealed_credentials=SECRET)
        fields |= {"project": "65f0c1d2e3a4b5c6d7e8f901", "cluster": "orders-eu"}
        begun = self.store.create(fields, start, None)
        assert begun
        self.ids[name] = begun
        return binding_key(instance_id, binding_id) if binding_id else instance_key(instance_id)

    def step(self, name: str, key: str, operation: OperationFields, steps: StepsFields, seconds: float = 60) -> None:
        claim = self.claims.claim(key, self.ids[name])
        assert claim
        self.claims.reschedule(claim, seconds, None, operation, steps=steps)

    def end(self, name: str, key: str, end: tuple[State, Phase], sentence: str, steps: StepsFields) -> None:
        claim = self.claims.claim(key, self.ids[name])
        assert claim
        self.claims.finish(claim, *end, None, sentence, steps=steps)

    def older(self, key: str, **seconds: float) -> None:
        now = self.store.now()
        values = {f"operation.{name}": now - timedelta(seconds=ago) for name, ago in seconds.items()}
        self.store.collection.update_one({"_id": key}, {"$set": values})

    def all(self) -> dict[str, str]:
        """Plant one of each."""
        instance = "5b8f3b5e-6f0e-4d53-9a55-1c9f7e0b2a31"
        done, put_off, failed = StepResult.DONE, StepResult.PUT_OFF, StepResult.FAILED
        key = self.begin("ready", instance)
        ended: StepsFields = {
            "find cluster": {"first": In(-0.41), "last": In(-0.12), "runs": 1, "result": done},
            "claim": {"first": In(-0.12), "last": In(0), "runs": 1, "result": done},
        }
        self.end("ready", key, (State.SUCCEEDED, Phase.READY), "The database instance-5b8f is on orders-eu.", ended)
        self.older(key, accepted=86_460, finished=86_459)
        key = self.begin("failed", "c0a80101-77aa-4b0e-8f3c-2f6f2f0d9b10")
        told: StepsFields = {
            "find cluster": {"first": In(-1.2), "last": In(-0.5), "runs": 1, "result": failed, "reason": REFUSED},
            "withdraw": {"first": In(-0.5), "last": In(-0.4), "runs": 1, "result": done},
        }
        self.end("failed", key, (State.FAILED, Phase.FAILED), REFUSED, told)
        self.older(key, accepted=4000, finished=3998)
        key = self.begin("waiting", instance, "3d1c1a52-9f5e-4a60-b2c8-0a8d7f8c1b44", username="mara@example.org")
        steps: StepsFields = {
            "settle": {"first": In(-724), "last": In(-723.9), "runs": 1, "result": done, "worker": self.claims.worker},
            "create": {"first": In(-723.9), "last": In(-690), "runs": 4, "result": done, "reason": DOWN},
            "apply": {"first": In(-690), "last": In(-2), "runs": 9, "result": put_off, "reason": WAITING},
        }
        fields: OperationFields = {"step": "apply", "description": WAITING, "waits_on": "65f0c1d2/orders-eu"}
        self.step("waiting", key, fields, steps)
        self.older(key, accepted=725)
        key = self.begin("retried", instance, "8e0b6f5c-1a2b-4c3d-9e4f-5a6b7c8d9e0f")
        again: OperationFields = {
            "step": "create",
            "error": DOWN,
            "description": f"{DOWN} It is tried again.",
            "attempts": 3,
        }
        self.step(
            "retried",
            key,
            again,
            {"create": {"first": In(-8), "last": In(0), "runs": 3, "result": put_off, "reason": DOWN}},
            12,
        )
        self.older(key, accepted=150)
        key = self.begin("running", instance, "f47ac10b-58cc-4372-a567-0e02b2c3d479")
        claim = self.claims.claim(key, self.ids["running"])
        assert claim
        self.claims.advance(claim, None, {"step": "create"}, steps={"create": {"first": In(-3)}})
        self.begin("queued", instance, "9b2f4c1e-0d3a-4f5b-8c6d-7e8f9a0b1c2d")
        self.begin("hostile", HOSTILE)
        self.store.collection.insert_one(
            {
                "_id": "instance/torn",
                "instance_id": "torn",
                "operation": {"id": 7, "kind": "bind", "state": "failed", "accepted": "never"},
            }
        )
        return self.ids


def an_app(store: Store) -> Flask:
    environ = {
        "BROKER_MONGO_URI": "mongodb://127.0.0.1",
        "BROKER_USERS": ":".join(USER),
        "BROKER_ENCRYPTION_KEYS": Fernet.generate_key().decode(),
        "BROKER_FLOWER_URL": f"{FLOWER}/",
    }
    settings = load(environ, "api")
    return create_app(Service.compose(settings, store, Queue(settings.redis)), settings.users)


@pytest.fixture
def app(store: Store) -> Flask:
    return an_app(store)


@dataclass
class Site:
    app: Flask

    def get(self, path: str, status: int = 200) -> "Html":
        found = Html(self.app.test_client().get(path, auth=USER), status)
        assert SECRET not in found.text
        return found


class Html(HTMLParser):
    """A page as a parser sees it; every element must be closed where HTML wants it."""

    VOID = frozenset({"meta", "input", "br", "link"})

    def __init__(self, response: TestResponse, status: int) -> None:
        super().__init__()
        self.response, self.text = response, response.get_data(as_text=True)
        assert response.status_code == status, self.text
        assert response.content_type == "text/html; charset=utf-8"
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.links: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(self.text)
        self.close()
        assert not self._open
        assert not re.search(r"<dd[^>]*></dd>", self.text), "a fact without a value"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)
        if self._open[-1:] == ["a"]:
            self.links.append((str(self.elements[-1][1]["href"]), data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def seen(self) -> str:
        """What is read, with single blanks."""
        return " ".join("".join(self.words).split())

    def operations(self) -> list[str]:
        """The ids of the operations in the list."""
        links = [str(each["href"]) for each in self.all("a") if each.get("class") == "id"]
        return [link.removeprefix("/operations/") for link in links]

    def link(self, text: str) -> str | None:
        """Where the link with a text leads."""
        return next((href for href, words in self.links if words == text), None)


@pytest.fixture
def site(app: Flask) -> Site:
    return Site(app)


@pytest.fixture
def ids(store: Store) -> dict[str, str]:
    return Plant(store).all()


def test_the_list_shows_what_waits_runs_and_failed_and_why_the_newest_first(site: Site, ids: dict[str, str]) -> None:
    page = site.get("/operations")
    newest_first = ["hostile", "queued", "running", "retried", "waiting", "failed", "ready"]
    assert page.operations() == [ids[name] for name in newest_first]
    for words in (
        WAITING,
        REFUSED,
        f"{DOWN} It is tried again.",
        "Waits on 65f0c1d2/orders-eu; next look in",
        "Runs on celery@worker-7d4b9c.",
        "no worker has taken it.",
        "unreadable",
    ):
        assert words in page.seen, words
    assert re.search(r"12m \d+s ago", page.seen)  # 5 s, and those that the page was asked later
    assert [each["class"] for each in page.all("td") if "late" in str(each.get("class"))] == [
        "when late",
        "when very-late",
    ]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("state=failed", ["failed"]),
        ("state=in-progress&type=provision", ["hostile"]),
        ("type=bind&older-than=10m", ["waiting"]),
        ("waiting-on=orders-eu", ["waiting"]),
        (f"instance={quote(HOSTILE)}", ["hostile"]),
        ("state=succeeded&type=&older-than=&instance=&waiting-on=", ["ready"]),
        ("state=succeeded&type=bind", []),
    ],
)
def test_filters_are_those_of_the_command(site: Site, ids: dict[str, str], query: str, found: list[str]) -> None:
    page = site.get(f"/operations?{query}")
    assert page.operations() == [ids[name] for name in found]
    assert found or "There are no such operations" in page.seen


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("state=lost", "There is no state 'lost'; there are in-progress, succeeded, failed."),
        ("type=<b>", "There is no type '<b>'; there are provision"),
        ("older-than=soon", "'soon' is no duration; write 30s, 5m, 2h or 1d."),
        ("older-than=%D9%A3m", "is no duration"),
        ("instance=%00", "The value of instance must have at most"),
        (f"waiting-on={'x' * 5000}", "The value of waiting-on must have at most"),
        ("after=0.5", "The value of after is none of"),
        ("after=now", "The value of after is none of"),
        ("after=99999999999999999.x", "The value of after is none of"),
        ("sate=failed", "There is no filter 'sate'; there are state, type, older-than, instance, waiting-on."),
    ],
)
def test_a_wrong_filter_is_told_in_the_page(site: Site, query: str, sentence: str) -> None:
    page = site.get(f"/operations?{query}", 400)
    assert sentence in page.seen
    assert page.all("form")


@pytest.mark.parametrize(("path", "status"), [("/operations", 200), ("/operations/none", 404)])
def test_all_links_lead_below_the_path_at_which_the_broker_is_mounted(app: Flask, path: str, status: int) -> None:
    answer = app.test_client().get(path, base_url="http://broker/mounted", auth=USER)
    links = [target for target, _ in Html(answer, status).links]
    assert links
    assert all(target.startswith("/mounted/operations") for target in links)


@pytest.mark.parametrize(
    "query", ["older-than=999999d", "after=99999999999999.binding/x", "after=0.instance/x", "waiting-on=.*%5B("]
)
def test_odd_values_of_the_right_form_are_served(site: Site, query: str) -> None:
    site.get(f"/operations?{query}")


def test_pages_follow_each_other_without_a_gap_also_in_the_same_millisecond(site: Site, store: Store) -> None:
    accepted = store.now()
    documents = [_bind(number, accepted - timedelta(milliseconds=number // 40)) for number in range(130)]
    store.collection.insert_many(documents)
    expected = [
        each["operation"]["id"]
        for each in sorted(documents, key=lambda each: (each["operation"]["accepted"], each["_id"]), reverse=True)
    ]
    seen, path = [], "/operations?type=bind"
    while path:
        page = site.get(path)
        seen += page.operations()
        path = page.link("Older") or ""
        assert len(page.operations()) <= 50
    assert seen == expected
    assert page.link("Newest") == "/operations?type=bind"


def test_the_page_of_one_operation_has_its_life(site: Site, ids: dict[str, str]) -> None:
    page = site.get(f"/operations/{ids['waiting'][:12]}")
    for words in (
        "create done 4",
        f"s {DOWN}",
        "apply put off 9",
        "mara@example.org",
        "celery@worker-7d4b9c",
        "unusually long",
    ):
        assert words in page.seen, (words, page.seen)
    assert f"atlas-broker operations cancel {ids['waiting']}" in page.seen
    assert page.link("Flower") == f"{FLOWER}/task/{ids['waiting']}"
    assert f"operations retry {ids['failed']}" in site.get(f"/operations/{ids['failed']}").seen
    assert "No step has ended yet." in site.get(f"/operations/{ids['queued']}").seen


def test_an_operation_of_before_and_one_that_another_has_followed_are_shown(
    site: Site, store: Store, ids: dict[str, str]
) -> None:
    found = store.instance("5b8f3b5e-6f0e-4d53-9a55-1c9f7e0b2a31")
    assert found
    followed = store.start(found.key, found.operation, NewOperation(Kind.DEPROVISION), Phase.DELETING)
    page = site.get(f"/operations/{ids['ready']}")
    assert f"Followed by {followed}." in page.seen
    assert "find cluster done 1" in page.seen
    assert ids["ready"] in site.get(f"/operations/{followed}").operations()
    store.collection.update_one(
        {"_id": found.key}, {"$unset": dict.fromkeys(["operation.steps", "operation.worker", "operation.claimed"], "")}
    )
    store.collection.update_one(
        {"_id": found.key}, {"$unset": dict.fromkeys(["past.0.steps", "past.0.accepted", "past.0.finished"], "")}
    )
    assert "has no record of its steps" in site.get(f"/operations/{ids['ready']}").seen
    assert "No step has ended yet." in site.get(f"/operations/{followed}").seen


def test_everything_is_escaped(site: Site, ids: dict[str, str]) -> None:
    for path in ("/operations", f"/operations/{ids['hostile']}", f"/operations?instance={quote(HOSTILE)}"):
        page = site.get(path)
        assert page.all("script") == []
        assert HOSTILE in page.seen or HOSTILE in [each.get("value") for each in page.all("input")]
    assert "<b>" not in site.get("/operations/%3Cb%3E", 404).text


def test_a_page_loads_nothing_and_can_be_used_without_a_mouse(site: Site, ids: dict[str, str]) -> None:
    for path, status in (
        ("/operations", 200),
        (f"/operations/{ids['waiting']}", 200),
        ("/operations?state=x", 400),
        ("/operations/none", 404),
    ):
        page = site.get(path, status)
        (html,), (viewport, *_) = (
            page.all("html"),
            [each for each in page.all("meta") if each.get("name") == "viewport"],
        )
        assert (html["lang"], viewport["content"]) == ("en", "width=device-width, initial-scale=1")
        assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) == 1
        assert all(each.get("scope") in ("col", "row") for each in page.all("th"))
        assert len(page.all("caption")) == len(page.all("table"))
        labelled = {each["for"] for each in page.all("label")}
        fields = page.all("input") + page.all("select")
        assert labelled == {each["id"] for each in fields}
        assert [tag for tag, _ in page.elements if tag in ("script", "img", "link", "iframe", "object")] == []
        assert not [attributes for _, attributes in page.elements if {"style", "onclick", "src"} & set(attributes)]
        headers = page.response.headers
        style = page.text.partition("<style>")[2].partition("</style>")[0]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert headers["Content-Security-Policy"] == (
            f"default-src 'none'; style-src 'sha256-{digest}'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        assert "@media (prefers-color-scheme: dark)" in style
        assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "DENY")
        assert (headers["Referrer-Policy"], headers["Cache-Control"]) == ("no-referrer", "no-store")


def test_errors_of_the_page_are_pages_and_others_stay_json(app: Flask, site: Site, ids: dict[str, str]) -> None:
    assert "There is no operation none, and none whose id begins so." in site.get("/operations/none", 404).seen
    assert "Several operations fit bind-" in site.get("/operations/bind-", 404).seen
    client = app.test_client()
    for host in ("broker", "a..b", "x" * 64):
        page = Html(client.get("/operations", headers={"Host": host}), 401)
        assert page.response.headers["WWW-Authenticate"].startswith("Basic")
    assert Html(client.post("/operations", auth=USER), 405).response.headers["Allow"]
    assert client.get("/operation", auth=USER).content_type == "application/json"
    assert ids["ready"]


def test_without_mongodb_the_page_says_so() -> None:
    with connect(f"mongodb://{HOST}:{free_port()}", 200) as client:
        site = Site(an_app(Store(client, "none", "instances")))
        for path in ("/operations", "/operations/bind-1"):
            assert "The broker cannot reach its database" in site.get(path, 503).seen


# --- the cost of a page


def _bind(number: int, accepted: datetime, **operation: object) -> dict[str, Any]:
    """A bind of ``number // 10``'s instance that has ended."""
    known = {"id": f"bind-{number:06}", "kind": "bind", "state": "succeeded", "open": False, "accepted": accepted}
    key = binding_key(f"i{number // 10}", f"b{number:06}")
    ids = {"_id": key, "instance_id": f"i{number // 10}", "binding_id": f"b{number:06}"}
    return {**ids, "phase": "ready", "operation": {**known, **operation}}


@pytest.fixture
def many(store: Store) -> Store:
    """20,000 operations, of which 1 % have failed, 40 wait, and one is an update."""
    now = store.now()
    waits = {"state": "in progress", "open": True, "waits_on": "p/c", "due": now, "lease_until": now}
    documents = [
        _bind(
            number,
            now - timedelta(seconds=number),
            **({"kind": "update"} if number == 9_999 else {}),
            **({"state": "failed"} if number % 100 == 1 else waits if number % 500 == 2 else {}),
        )
        for number in range(20_000)
    ]
    insert_many(store.collection, documents)
    return store


def test_the_description_allows_each_place_at_which_a_page_ends(app: Flask, store: Store) -> None:
    described = app.test_client().get("/openapi.json", auth=USER).get_json()
    pattern = described["components"]["parameters"]["Behind"]["schema"]["pattern"]
    for key in (instance_key("5b8f3b5e-6f0e-4d53"), binding_key("orders 1/ü", "shop.2")):
        cursor = str(Cursor(store.now(), key))
        assert re.search(pattern, cursor)
        assert Cursor.parse(cursor)
    assert not re.search(pattern, "0.user/x")


def test_a_page_reads_few_documents_however_many_there_are(many: Store, site: Site) -> None:
    database = many.collection.database
    place = site.get("/operations?older-than=5000s").link("Older")
    assert place
    after = place.partition("after=")[2]
    filters = [
        "",
        "state=succeeded",
        "state=failed",
        "state=in-progress",
        "type=bind",
        "type=update",
        "type=unbind",
        "state=failed&type=bind",
        "state=failed&type=unbind",
        "older-than=2h",
        "state=failed&older-than=2h",
        "type=update&older-than=2h",
        "state=failed&type=bind&older-than=2h",
        "instance=i700",
        "instance=i700&state=failed",
        "instance=i700&type=bind&older-than=1h",
        "waiting-on=c",
        "waiting-on=c&type=bind&older-than=1h",
        "waiting-on=c&instance=i50",
    ]
    for query in [*filters, *(f"{each}&after={after}" for each in filters)]:
        database.command("profile", 2)
        page = site.get(f"/operations?{query}")
        database.command("profile", 0)
        (look,) = database["system.profile"].find({"ns": {"$regex": r"\.instances$"}})
        database.drop_collection("system.profile")
        rows = len(page.operations())
        explained = database.command("explain", _command(look), verbosity="executionStats")["executionStats"]
        for cost in (
            look,
            {"docsExamined": explained["totalDocsExamined"], "keysExamined": explained["totalKeysExamined"]},
        ):
            assert cost["docsExamined"] <= rows + 45, (query, rows, cost["docsExamined"])
            assert cost["keysExamined"] <= rows + 65, (query, rows, cost["keysExamined"])


def _command(look: dict[str, Any]) -> dict[str, Any]:
    """Return the find of a profile's entry."""
    return {name: look["command"][name] for name in ("find", "filter", "sort", "limit")}


# --- in a real browser


@contextmanager
def served(app: Flask) -> Iterator[str]:
    server = make_server(HOST, 0, app, threaded=True, request_handler=QuietHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{':'.join(USER)}@{HOST}:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_real_browser_shows_the_pages_on_a_desk_and_on_a_phone(
    app: Flask, ids: dict[str, str], tmp_path: Path, *, long_form: bool
) -> None:
    """Each page, size and theme once; in the long form each page in each size."""
    window = Browser(browser.find(), tmp_path)
    with served(app) as address:
        dom = window.dom(f"{address}/operations")
        assert WAITING in dom
        assert "<script" not in dom
        pictures = [
            window.picture(f"{address}/operations", "operations-phone-dark", PHONE, dark=True),
            window.picture(f"{address}/operations/{ids['waiting']}", "operation-desktop-light"),
        ]
        if long_form:
            pictures += [
                window.picture(f"{address}/operations", "operations-desktop-light"),
                window.picture(f"{address}/operations/{ids['waiting']}", "operation-phone-dark", PHONE, dark=True),
            ]
    assert all(picture.stat().st_size > 20_000 for picture in pictures)
