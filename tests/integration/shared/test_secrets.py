"""No secret leaves its place: what one is given or configured with is in no log, no queue, and nowhere in clear."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
import requests

from broker_api.errors import MissingKeyError
from broker_api.settings.settings import load
from broker_api.state.encryption import Vault
from broker_api.state.records import Place
from tests.books import kept_credentials
from tests.console import Console
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.osb_client import OsbClient
from tests.tenant import CLUSTER, Json, Tenant, together, works
from workers.context import worker_vault

TOKEN = "token/"


@pytest.fixture
def platform(oauth_stack: Stack) -> Iterator[OsbClient]:
    with oauth_stack.client() as client:
        yield client


def token(stack: Stack) -> str:
    """The one that the workers share, in clear."""
    with stack.state.client() as client:
        documents = client[stack.database]["instances_housekeeping"].find({"_id": {"$regex": f"^{TOKEN}"}})
        (found,) = documents
    place = Place(found["_id"], "sealed")
    with pytest.raises(MissingKeyError):
        Vault((stack.encryption_key,)).open(found["sealed"], place)  # the API cannot open it
    return str(worker_vault(load(stack.worker_settings, "worker")).open(found["sealed"], place)[0])


def stored(stack: Stack) -> str:
    """All that the broker has in MongoDB."""
    with stack.state.client() as client:
        database = client[stack.database]
        return str([list(database[name].find()) for name in database.list_collection_names()])


def queued(stack: Stack) -> str:
    """Every key of Redis with its content."""
    with stack.redis.client() as redis:
        return str([(key, _content(redis, key)) for key in redis.scan_iter()])


def _content(redis: Any, key: bytes) -> object:  # noqa: ANN401 - its type depends on the key's
    kind = redis.type(key).decode()
    read = {
        "list": lambda: redis.lrange(key, 0, -1),
        "hash": lambda: redis.hgetall(key),
        "set": lambda: redis.smembers(key),
        "zset": lambda: redis.zrange(key, 0, -1),
        "string": lambda: redis.get(key),
    }
    return read[kind]()


def logged(stack: Stack) -> str:
    return "".join(Path(server.log).read_text() for server in (stack.api, *stack.workers, stack.flower) if server)


def shown(stack: Stack) -> str:
    assert stack.flower is not None
    answers = [
        requests.get(stack.flower.uri + path, auth=(stack.user, stack.password), timeout=20)
        for path in ("/api/tasks", "/api/workers", "/tasks", "/workers")
    ]
    assert all(answer.ok for answer in answers)
    return "".join(answer.text for answer in answers)


def pages(platform: OsbClient, tenant: Tenant) -> str:
    operation = platform.deprovision(tenant.instance_id).operation
    platform.wait(tenant.instance_id)
    paths = ("/operations", f"/operations/{operation}", "/ready", "/metrics")
    return "".join(platform.request("GET", path).text for path in paths)


def commands(stack: Stack, tenant: Tenant) -> str:
    """What the commands print that show something stored, with all settings of the broker."""
    console = Console(stack.worker_settings)
    wanted = (
        ("operations", "list", "--instance", tenant.instance_id, "--json"),
        ("instances", "list", "--gone", "--json"),
        ("instances", "show", tenant.instance_id),
        ("bindings", "list", "--gone", "--json"),
        ("keys", "status", "--json"),
        ("keys", "rotate"),
        ("migrate", "--dry-run"),
    )
    return "".join(console.run(*words).output for words in wanted)


def assert_absent(secrets: list[str], where: str, text: str) -> None:
    """Names the kind of place only: the text would be the next leak."""
    assert len(text) > 200, f"{where} is empty"
    for number, secret in enumerate(secrets):
        assert secret not in text, f"secret {number} is in {where}"


def test_no_secret_is_in_a_log_in_redis_on_a_page_or_in_clear_in_mongodb(
    oauth_stack: Stack, platform: OsbClient, atlas: Emulator
) -> None:
    tenant = Tenant(platform)
    asked: Json = {"cluster": CLUSTER, "policy-on-delete": "drop", "token": "planted-in-a-parameter"}
    context = {"platform": "cloudfoundry", "note": "planted-in-a-context"}
    tenant.succeed(platform.provision(tenant.instance_id, asked, fields={"context": context}))
    tenant.update(token="planted-in-an-update")
    atlas.fail("POST", "databaseUsers", status=500)  # a retry is logged, too
    given = together(*[tenant.bind for _ in range(3)])
    assert all(works(credentials) for credentials in given)
    in_queue = _queue_while_workers_sleep(oauth_stack, platform, tenant)
    _wrong_password(platform)
    secrets = [
        *[credentials["password"] for credentials in given],
        *[credentials["uri"] for credentials in given],
        oauth_stack.password,
        quote_plus(oauth_stack.password),
        oauth_stack.encryption_key,
        atlas.client_secret,
        token(oauth_stack),
        "a-wrong-password",
        "planted-in-a",
    ]
    assert_absent(secrets, "Redis", in_queue + queued(oauth_stack))
    assert_absent(secrets, "a log", logged(oauth_stack))
    assert_absent(secrets, "Flower", shown(oauth_stack))
    assert_absent(secrets, "a page", pages(platform, tenant))
    assert_absent(secrets, "what a command prints", commands(oauth_stack, tenant))
    assert_absent(secrets, "MongoDB", stored(oauth_stack))


def _queue_while_workers_sleep(stack: Stack, platform: OsbClient, tenant: Tenant) -> str:
    """What Redis holds while jobs wait in it; each sleeping worker still takes one message of each queue."""
    for worker in stack.workers:
        worker.pause()
    try:
        others = [Tenant(platform) for _ in range(4)]
        provisions = [platform.provision(other.instance_id, {"cluster": CLUSTER}) for other in others]
        binds = {name: platform.bind(tenant.instance_id, name) for name in ("q-1", "q-2", "q-3", "q-4")}
        text = queued(stack)
    finally:
        for worker in stack.workers:
            worker.resume()
    assert "atlas.provision" in text or "atlas.bind" in text
    for other, accepted in zip(others, provisions, strict=True):
        other.succeed(accepted)
    for name, accepted in binds.items():
        tenant.succeed(accepted, name)
    return text


def _wrong_password(platform: OsbClient) -> None:
    assert platform.catalog(auth=("dev", "a-wrong-password")).status == 401


def test_what_is_handed_out_stands_in_mongodb_only_encrypted_and_not_at_all_after_unbind(
    oauth_stack: Stack, platform: OsbClient, atlas: Emulator
) -> None:
    tenant = Tenant(platform).provision()
    credentials = tenant.bind("b")
    assert "v2." in _binding(oauth_stack)["sealed_credentials"]
    assert kept_credentials(oauth_stack, tenant.instance_id, "b") == credentials
    tenant.unbind("b")
    assert _binding(oauth_stack)["sealed_credentials"] is None
    assert atlas.users() == []


def _binding(stack: Stack) -> Json:
    with stack.state.client() as client:
        return client[stack.database]["instances"].find_one({"binding_id": "b"}, sort=[("$natural", -1)]) or {}
