"""Whatever stands in a body, it is refused with a sentence or taken for what it says; nothing of it is ever a query."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pymongo.collection import Collection

from tests.dev.stack import Stack
from tests.osb.steps import ON_CLUSTER, bound, new_id, provisioned
from tests.osb_client import PLAN_ID, SERVICE_ID, Answer, OsbClient

pytestmark = pytest.mark.timeout(3600)  # of the long form

Json = dict[str, Any]

HUGE = st.sampled_from([2**63, -(2**63) - 1, 10**40, 1e308, -0.0])
TEXT = st.text(max_size=30) | st.sampled_from(["", "\x00", "\ud800", "a\x00b", "$where", "../..", "ü" * 300, "null"])
OPERATORS = st.sampled_from(
    [{"$gt": ""}, {"$ne": None}, {"$regex": ".*"}, {"$where": "sleep(9000)"}, {"$expr": {"$eq": [1, 1]}}, ["$ROOT"]]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | HUGE | TEXT | OPERATORS
NAMES = TEXT | st.sampled_from(["$set", "a.b", "_id", "__proto__", "cluster", "role", "roles", "policy-on-delete"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
DEEP = st.builds(
    lambda depth, one: json.loads("[" * depth + one + "]" * depth), st.integers(60, 90), st.sampled_from(["1", "{}"])
)
WRONG_IDS = SCALARS.filter(lambda value: not isinstance(value, str) or not value or len(value) > 255) | OPERATORS
"""What no id can be."""
NO_OBJECTS = VALUES.filter(lambda value: value is not None and not isinstance(value, dict))

NO_JSON = st.binary(max_size=60).filter(lambda data: not _is_object(data)) | st.sampled_from(
    [b"", b"{", b"[]", b'"', b"null", b"\xff\xfe", b'{"a":1}{}', b"{'a': 1}", b'{"a":NaN}', b"[" * 100_000]
)
SHORT, LONG = 12, 500
"""Bodies of each kind for each verb."""


def _is_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False


@pytest.fixture
def state(stack: Stack) -> Iterator[Collection[Json]]:
    with stack.state.client() as mongo:
        yield mongo[stack.database]["instances"]


class Target:
    """A verb on ids of its own: the instance is there but for a provision, the binding is not."""

    def __init__(self, verb: str, client: OsbClient, state: Collection[Json]) -> None:
        self.verb, self.state = verb, state
        self.instance_id = new_id() if verb == "provision" else provisioned(client)
        self.binding_id, self.known = new_id(), "" if verb != "rotate" else bound(client, self.instance_id)
        self._client = client

    @property
    def right(self) -> Json:
        """A body that would be accepted."""
        plan = {"service_id": SERVICE_ID, "plan_id": PLAN_ID}
        match self.verb:
            case "provision":
                return {**plan, "organization_guid": "org", "space_guid": "space", "parameters": ON_CLUSTER}
            case "update":
                return {**plan, "parameters": {"policy-on-delete": "drop"}}
            case "bind":
                return {**plan, "bind_resource": {"app_guid": "app"}, "parameters": {"role": "readOnly"}}
            case _:
                return {"predecessor_binding_id": self.known}

    def send(self, raw: bytes) -> Answer:
        match self.verb:
            case "provision":
                return self._client.provision(self.instance_id, raw=raw)
            case "update":
                return self._client.update(self.instance_id, raw=raw)
            case _:
                return self._client.bind(self.instance_id, self.binding_id, raw=raw)

    def stored(self) -> list[Json]:
        """All documents of the ids; the instance's is the same again, whatever was sent."""
        return list(self.state.find({"instance_id": self.instance_id}).sort("_id", 1))

    def others(self) -> int:
        return self.state.count_documents({"instance_id": {"$ne": self.instance_id}})

    def refuses(self, raw: bytes) -> None:
        answer = self.send(raw)
        assert answer.status in (400, 413), f"{answer.status} {answer.text} for {raw[:500]!r}"
        assert answer.description.strip().endswith("."), answer.text

    def clear(self) -> None:
        """An update that runs is waited for: it excludes the delete."""
        if self.stored():
            self._client.wait(self.instance_id)
            self._client.deprovision(self.instance_id)
            assert self._client.wait(self.instance_id).state == "succeeded"


@pytest.fixture(params=["provision", "update", "bind", "rotate"])
def target(request: pytest.FixtureRequest, client: OsbClient, state: Collection[Json]) -> Iterator[Target]:
    made = Target(request.param, client, state)
    yield made
    made.clear()


def _for_all(strategy: st.SearchStrategy[bytes], check: Callable[[bytes], None], *, long_form: bool) -> None:
    """Without a shrinking that would take as long as the rest: the failure quotes the body."""

    @settings(
        max_examples=LONG if long_form else SHORT,
        derandomize=not long_form,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def every(raw: bytes) -> None:
        check(raw)

    every()


def _encoded(value: object) -> bytes:
    """NaN and lone surrogates go as they are, which no well-behaved platform would send."""
    return json.dumps(value).encode()


def _changed(target: Target, fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[bytes]:
    """The right body, but for one field."""
    wrong = [st.tuples(st.just(name), values) for name, values in fields.items()]
    return st.one_of(wrong).map(lambda pair: _encoded({**target.right, pair[0]: pair[1]}))


def test_what_is_no_json_object_is_refused_and_nothing_is_stored(target: Target, *, long_form: bool) -> None:
    before = target.stored()
    anything = NO_JSON | NO_OBJECTS.map(_encoded) | DEEP.map(_encoded)
    _for_all(anything, target.refuses, long_form=long_form)
    assert target.stored() == before


def test_a_wrong_field_is_refused_and_nothing_is_stored(target: Target, *, long_form: bool) -> None:
    before = target.stored()
    wrong = {"parameters": NO_OBJECTS, "context": NO_OBJECTS | DEEP}
    wrong |= {name: WRONG_IDS for name in target.right if name.endswith(("_id", "_guid"))}
    optional = {"plan_id"} if target.verb == "update" else {"predecessor_binding_id"}
    wrong |= {
        name: values.filter(lambda value: value is not None) for name, values in wrong.items() if name in optional
    }
    _for_all(_changed(target, wrong), target.refuses, long_form=long_form)
    assert target.stored() == before


def test_wrong_parameters_are_refused_and_nothing_is_stored(target: Target, *, long_form: bool) -> None:
    before = target.stored()
    no_text = VALUES.filter(lambda value: not isinstance(value, str))
    names = ("role", "roles") if target.verb in ("bind", "rotate") else ("cluster", "database", "policy-on-delete")
    wrong = st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), OPERATORS | no_text))
    bodies = wrong.map(lambda pair: _encoded({**target.right, "parameters": {**ON_CLUSTER, pair[0]: pair[1]}}))
    _for_all(bodies, target.refuses, long_form=long_form)
    assert target.stored() == before


def test_a_context_is_data_however_it_looks(target: Target, *, long_form: bool) -> None:
    """Operators in it are data: nothing but what was asked for is made, and no document of others is touched."""
    others = target.others()

    def check(raw: bytes) -> None:
        answer = target.send(raw)
        assert answer.status in (200, 202, 400, 422), f"{answer.status} {answer.text} for {raw!r}"
        assert answer.status != 422 or target.verb == "update"

    contexts = st.dictionaries(NAMES, VALUES, max_size=3)
    _for_all(contexts.map(lambda given: _encoded({**target.right, "context": given})), check, long_form=long_form)
    assert {each.get("binding_id") for each in target.stored()} <= {None, target.binding_id, target.known}
    assert target.others() == others
