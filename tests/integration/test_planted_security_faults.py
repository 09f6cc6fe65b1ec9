"""The tests of security can fail: each fault, planted in the code that this process runs, is caught by its test.

Faults in the flow of operations are in ``tests/chaos/planted.py``, which plants them in processes of their own.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import requests

from broker_api.logins import make_hash
from broker_api.state.private_values import opened
from broker_api.state.records import Place
from tests.books import make_user
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.in_process import InThisProcess
from tests.integration import test_forged_documents as forged
from tests.integration import test_private_values as private
from tests.integration import test_tenant_isolation as isolation
from tests.messages import all_wrong
from tests.tenant import CLUSTER, Tenant
from tests.unit import test_atlas_auth, test_logins, test_messages, test_own_hosts

CAUGHT = (AssertionError, KeyError, TimeoutError, pytest.fail.Exception)


@dataclass(frozen=True)
class Parts:
    """What stories need."""

    tenant: Tenant
    broker: InThisProcess
    stack: Stack
    atlas: Emulator


def always(value: object) -> Callable[[Any], Any]:
    """Return a replacement for a function that only returns the value."""
    return lambda _original: lambda *_args, **_options: value


def follows_redirects(send: Callable[..., requests.Response]) -> Callable[..., requests.Response]:
    def broken(adapter: object, request: requests.PreparedRequest, **options: object) -> requests.Response:
        response = send(adapter, request, **options)
        if target := response.raw.headers.get("Location"):
            requests.request(request.method or "", target, headers=request.headers, timeout=0.5)
        return response

    return broken


def anothers_database(parts: Parts) -> None:
    client, theirs = parts.tenant.client, Tenant(parts.tenant.client)
    fields = {"organization_guid": isolation.THEIR_ORGANIZATION, "space_guid": isolation.THEIR_ORGANIZATION}
    parameters = {"cluster": CLUSTER, "database": isolation.THEIR_DATABASE}
    theirs.succeed(client.provision(theirs.instance_id, parameters, fields=fields))
    attack = isolation.Attack(client, parts.tenant, theirs, "none", {"password": "none"})
    isolation.test_an_attempt_fails(attack, "the database of another instance")


def anothers_user(parts: Parts) -> None:
    make_user(parts.atlas, isolation.ADMINISTRATOR, roles=forged.ADMINISTRATOR)
    attack = isolation.Attack(parts.tenant.client, parts.tenant, parts.tenant, "none", {"password": "none"})
    isolation.test_an_attempt_fails(attack, "a user of others as the name of a binding")


def parameters_in_clear(parts: Parts) -> None:
    parts.tenant.succeed(parts.tenant.client.bind(parts.tenant.instance_id, "in-clear", private.OF_BINDING), "in-clear")
    assert private.PLANTED not in private.stored(parts.stack)


@dataclass(frozen=True)
class Fault:
    """``target`` is ``module:name``; ``broken`` makes the replacement of what is there; the story must catch it."""

    target: str
    broken: Callable[[Any], Any]
    story: Callable[[Parts], None]


FAULTS = {
    "secrets that are bound to no place": Fault(
        "broker_api.state.records:Binding.credentials_place",
        lambda _: property(lambda _: Place("any", "any")),
        lambda p: forged.test_a_copied_ciphertext_gives_no_other_binding_its_credentials(p.tenant, p.broker),
    ),
    "MACs that always fit": Fault(
        "broker_api.state.record_macs:RecordMacs.checked",
        lambda _: lambda macs, stored, **_runs: opened(macs.vault, stored),
        lambda p: forged.test_a_forged_bind_makes_no_administrator(
            p.tenant, p.broker, p.atlas, "as-it-was", strip=False
        ),
    ),
    "an unbind that looks at no labels": Fault(
        "workers.operations.database_users:is_ours",
        always(value=True),
        lambda p: forged.test_a_forged_unbind_removes_no_administrator(
            p.tenant, p.broker, p.stack, p.atlas, "with MACs that fit"
        ),
    ),
    "a bind that takes over any user": Fault(
        "workers.operations.database_users:is_ours", always(value=True), anothers_user
    ),
    "connection strings that are always believed": Fault(
        "workers.clusters.connection_strings:ConnectionStringCache._is_authentic",
        always(value=True),
        lambda p: forged.test_forged_connection_strings_are_read_again_from_atlas(p.tenant, p.broker),
    ),
    "connection strings to any host": Fault(
        "workers.clusters.connection_strings:own_domain",
        always(None),
        lambda _: test_own_hosts.test_a_host_outside_the_clusters_own_domain_makes_the_cluster_unusable("evil.example"),
    ),
    "an id of the broker that is always believed": Fault(
        "broker_api.state.housekeeping:checked_broker_id",
        lambda _: lambda document, _macs: document["value"],
        lambda p: forged.test_with_a_forged_id_of_the_broker_the_users_of_another_broker_are_not_removed(
            p.tenant, p.broker, p.atlas, {"value": forged.ANOTHER}
        ),
    ),
    "parameters in clear": Fault(
        "broker_api.state.private_values:sealed", lambda _: lambda _vault, _key, fields: fields, parameters_in_clear
    ),
    "the database of any owner": Fault(
        "workers.operations.database_ownership:_may_have_anothers", always(value=True), anothers_database
    ),
    "messages that are believed": Fault(
        "workers.messages:rebuild",
        lambda _: lambda written: written,
        lambda _: test_messages.test_a_wrong_message_is_refused(next(iter(all_wrong()))),
    ),
    "redirects that are followed": Fault(
        "workers.atlas.wire:_Adapter.send",
        follows_redirects,
        lambda _: test_atlas_auth.test_a_redirect_to_another_host_carries_no_credentials(302),
    ),
    "guesses that are not counted": Fault(
        "broker_api.logins:_Failures.take",
        always(1.0),
        lambda _: test_logins.test_guesses_are_counted_logged_and_told_to_stop_and_the_right_password_is_still_taken(
            make_hash("right, with a comma")
        ),
    ),
}


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """Replace the target in all modules of the broker while the block runs.

    Raises:
        AttributeError: There is no such target any more: name what has taken its place.
    """
    module, _, path = fault.target.partition(":")
    *holders, name = path.split(".")
    holder: Any = importlib.import_module(module)
    for each in holders:
        holder = getattr(holder, each)
    original = getattr(holder, name)
    broken = fault.broken(original)
    modules = [held for key, held in sys.modules.items() if key.startswith(("broker_api", "workers", "tests"))]
    changed: list[tuple[Any, str]] = [(holder, name)]
    changed += [(held, alias) for held in modules for alias, value in vars(held).items() if value is original]
    for held, alias in changed:
        setattr(held, alias, broken)
    try:
        yield
    finally:
        for held, alias in changed:
            setattr(held, alias, original)


@pytest.fixture(scope="module")
def stack(new_stack: Callable[[], Stack]) -> Stack:
    return new_stack()


@pytest.fixture
def parts(broker: InThisProcess, stack: Stack, atlas: Emulator) -> Iterator[Parts]:
    assert broker.context.keys.passes()
    with stack.client() as client:
        yield Parts(Tenant(client).provision(), broker, stack, atlas)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_fault_is_caught(parts: Parts, fault: str) -> None:
    story = partial(FAULTS[fault].story, parts)
    with parts.tenant.client.expecting(*[500] * 3), planted(FAULTS[fault]), pytest.raises(CAUGHT):
        story()
