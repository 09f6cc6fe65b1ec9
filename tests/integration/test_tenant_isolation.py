"""What a platform's user may try in order to reach another tenant's data: a table of attempts, each one a test.

Two tenants of different organizations have an instance each on the same cluster. After each attempt the other tenant's
records, database users and data are as before, its credentials work, and the answer names nothing of it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest

from broker_api.state.records import binding_key, instance_key
from tests.books import held, make_user
from tests.dev.emulated import AtlasEmulator
from tests.dev.services import Mongod
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.in_process import in_this_process
from tests.osb_client import Answer, OsbClient
from tests.tenant import CLUSTER, Json, Tenant, log_in, works

ADMINISTRATOR = "administrator"
THEIR_ORGANIZATION = "organization-of-the-victim"
THEIR_DATABASE = "kunden-of-the-victim"
KELVIN = "\u212a" + THEIR_DATABASE[1:]
"""In lower case it equals the name."""
NOBODYS_DATABASE = "of-nobody-here"


@dataclass(frozen=True)
class Attack:
    """The attacker's client and ready instance, and what the attacker knows about the victim, which is everything."""

    client: OsbClient
    own: Tenant
    theirs: Tenant
    their_operation: str
    credentials: Json

    def provision(self, parameters: Json, **fields: object) -> Answer:
        """Provision another instance of the attacker's; return how it ends."""
        tenant = Tenant(self.client)
        given = {"organization_guid": "attackers", "space_guid": "attackers", **fields}
        answer = self.client.provision(tenant.instance_id, {"cluster": CLUSTER, **parameters}, fields=given)
        return tenant.end(answer) if answer.status == 202 else answer

    def provision_and_drop(self, database: str) -> Answer:
        """Provision a database of nearly the victim's name, and drop it; it may also be refused."""
        tenant, fields = Tenant(self.client), {"organization_guid": "attackers", "space_guid": "attackers"}
        parameters = {"cluster": CLUSTER, "database": database, "policy-on-delete": "drop"}
        answer = self.client.provision(tenant.instance_id, parameters, fields=fields)
        if answer.status == 202 and tenant.end(answer).state == "succeeded":
            return tenant.end(self.client.deprovision(tenant.instance_id))
        return answer

    def bind(self, name: str = "", parameters: Json | None = None) -> Answer:
        """Bind the attacker's instance; return how it ends."""
        name = name or str(uuid4())
        answer = self.client.bind(self.own.instance_id, name, parameters)
        return self.own.end(answer, name) if answer.status == 202 else answer

    def bind_and_unbind(self, name: str) -> Answer:
        """Bind with a name that fails, and unbind what was not made."""
        self.bind(name)
        answer = self.client.unbind(self.own.instance_id, name)
        return self.own.end(answer, name) if answer.status == 202 else answer


def roles(**role: str) -> Json:
    return {"roles": [{"roleName": "read", **role}]}


def get(path: str) -> Callable[[Attack], Answer]:
    def attempt(attack: Attack) -> Answer:
        return attack.client.request("GET", path.format(attack.theirs.instance_id, attack.own.instance_id))

    return attempt


PROVISIONS: dict[str, Callable[[Attack], Answer]] = {
    "the database of another instance": lambda a: a.provision({"database": THEIR_DATABASE}),
    "it in capitals": lambda a: a.provision({"database": THEIR_DATABASE.upper()}),
    "it with a character that becomes k in lower case": lambda a: a.provision(
        {"database": "\u212a" + THEIR_DATABASE[1:]}
    ),
    "it with a context that names the other organization": lambda a: a.provision(
        {"database": THEIR_DATABASE},
        context={"organization_guid": THEIR_ORGANIZATION, "space_guid": THEIR_ORGANIZATION},
    ),
    "it in the other organization's other space": lambda a: a.provision(
        {"database": THEIR_DATABASE}, organization_guid=THEIR_ORGANIZATION
    ),
    "the default database of another instance": lambda a: a.provision({"database": a.theirs.database}),
    "a database of nobody here": lambda a: a.provision({"database": NOBODYS_DATABASE}),
    "a project that the broker does not have": lambda a: a.provision({"project": "f" * 24}),
    "a user of others as the name of a binding": lambda a: a.bind(ADMINISTRATOR),
    "another tenant's user as the name of a binding": lambda a: a.bind("app"),
}
"""Attempts that a worker decides: the operation fails."""

REFUSED: dict[str, Callable[[Attack], Answer]] = {
    "admin": lambda a: a.provision({"database": "admin"}),
    "admin in capitals": lambda a: a.provision({"database": "ADMIN"}),
    "a path in the name of a database": lambda a: a.provision({"database": f"x/{THEIR_DATABASE}"}),
    "a name with NUL": lambda a: a.provision({"database": f"{THEIR_DATABASE}\x00"}),
    "a name with a space": lambda a: a.provision({"database": f"{THEIR_DATABASE} "}),
    "an operator as the name of a database": lambda a: a.provision({"database": {"$ne": ""}}),
    "an operator as the name of a cluster": lambda a: a.provision({"cluster": {"$gt": ""}}),
    "another cluster's path": lambda a: a.provision({"cluster": f"{CLUSTER}/../other"}),
    "to move the own instance to another database": lambda a: a.client.update(
        a.own.instance_id, {"database": THEIR_DATABASE, "policy-on-delete": "drop"}
    ),
    "to move the own instance to another cluster": lambda a: a.client.update(a.own.instance_id, {"cluster": "other"}),
    "a role on another database": lambda a: a.bind(parameters=roles(databaseName=THEIR_DATABASE)),
    "a role on admin": lambda a: a.bind(parameters=roles(databaseName="admin")),
    "an administrator's role": lambda a: a.bind(parameters=roles(roleName="atlasAdmin")),
    "a role on any database": lambda a: a.bind(parameters={"roles": ["readWriteAnyDatabase"]}),
    "a preset that does not exist": lambda a: a.bind(parameters={"role": "atlasAdmin"}),
    "another tenant's binding as the predecessor": lambda a: a.client.rotate(a.own.instance_id, str(uuid4()), "app"),
}
"""Attempts that the API refuses with 400."""

NOT_THERE: dict[str, Callable[[Attack], Answer]] = {
    "another's binding through the own instance": lambda a: a.client.binding(a.own.instance_id, "only-theirs"),
    "its last operation": lambda a: a.client.last_operation(a.own.instance_id, "only-theirs", "bind-1"),
    "its last operation by the operation's id": lambda a: a.client.last_operation(
        a.own.instance_id, "only-theirs", a.their_operation
    ),
    "its removal through the own instance": lambda a: a.client.unbind(a.own.instance_id, "only-theirs"),
    "another's instance in capitals": lambda a: a.client.instance(a.theirs.instance_id.upper()),
    "its removal in capitals": lambda a: a.client.deprovision(a.theirs.instance_id.upper()),
    "another's binding in capitals": lambda a: a.client.binding(a.theirs.instance_id, "ONLY-THEIRS"),
    "a path as the id of an instance": lambda a: a.client.instance(
        f"{a.theirs.instance_id}/service_bindings/only-theirs"
    ),
    "a path up and down": get("/v2/service_instances/{1}/../{0}x"),
    "an operator as the id of a binding": lambda a: a.client.binding(a.own.instance_id, '{"$ne": null}'),
    "a pattern as the id of a binding": lambda a: a.client.unbind(a.own.instance_id, ".*"),
    "a pattern as the id of an instance": lambda a: a.client.deprovision(".*"),
}
"""Attempts at what does not exist: 404 or 410."""

HARMLESS: dict[str, tuple[Callable[[Attack], Answer], set[int]]] = {
    "to unbind what was not made, named as a user of others": (lambda a: a.bind_and_unbind(ADMINISTRATOR), {200, 410}),
    "to unbind what was not made, named as another's user": (lambda a: a.bind_and_unbind("app"), {200, 410}),
    "the own operation by another's operation id": (
        lambda a: a.client.last_operation(a.own.instance_id, None, a.their_operation),
        {200},
    ),
    "to drop a database of a name that looks the same": (
        lambda a: a.provision_and_drop(THEIR_DATABASE.replace("k", "\uff4b", 1)),
        {200, 400, 410},
    ),
    "to drop a database whose name begins the same": (
        lambda a: a.provision_and_drop(THEIR_DATABASE[:-1]),
        {200, 410},
    ),
    "to provision another's instance again": (
        lambda a: a.client.provision(a.theirs.instance_id, {"cluster": CLUSTER}),
        {409},
    ),
}
"""Attempts that end in one of these statuses, and change nothing of others."""


@pytest.fixture(scope="module")
def stack(new_stack: Callable[[], Stack]) -> Stack:
    return new_stack()


@pytest.fixture(scope="module")
def furnished(stack: Stack, cluster_mongod: Mongod, emulator: AtlasEmulator) -> Iterator[Attack]:
    emulator.control.clear()
    with in_this_process(stack), stack.client() as client:
        theirs, own = Tenant(client), Tenant(client)
        fields = {"organization_guid": THEIR_ORGANIZATION, "space_guid": THEIR_ORGANIZATION}
        parameters = {"cluster": CLUSTER, "database": THEIR_DATABASE}
        theirs.succeed(client.provision(theirs.instance_id, parameters, fields=fields))
        bound = client.bind(theirs.instance_id, "app")
        theirs.succeed(bound, "app")
        credentials = theirs.credentials("app")
        theirs.bind("only-theirs")
        with log_in(credentials) as application:
            application[THEIR_DATABASE]["things"].insert_one({"_id": "kept"})
        with cluster_mongod.client() as root:
            root[NOBODYS_DATABASE]["things"].insert_one({"_id": "kept"})
        make_user(emulator.control, ADMINISTRATOR, roles=[{"roleName": "atlasAdmin", "databaseName": "admin"}])
        own.provision()
        yield Attack(client, own, theirs, bound.operation, credentials)
        with cluster_mongod.client() as root:
            root.drop_database(NOBODYS_DATABASE)
            root.drop_database(THEIR_DATABASE)


@pytest.fixture
def attack(furnished: Attack, stack: Stack, emulator: AtlasEmulator, cluster_mongod: Mongod) -> Iterator[Attack]:
    """The attack; at its end all of others is as it was."""
    before = of_others(furnished, stack, emulator.control, cluster_mongod)
    yield furnished
    assert of_others(furnished, stack, emulator.control, cluster_mongod) == before
    assert works(furnished.credentials)


def of_others(attack: Attack, stack: Stack, atlas: Emulator, cluster: Mongod) -> list[object]:
    """Return the victim's records, the users of others in Atlas, and the data of others."""
    instance_id = attack.theirs.instance_id
    keys = [instance_key(instance_id), *[binding_key(instance_id, name) for name in ("app", "only-theirs")]]
    with held(stack) as documents:
        records = list(documents.find({"_id": {"$in": keys}}).sort("_id"))
    users = [user for user in atlas.users() if user["username"] in (ADMINISTRATOR, "app", "only-theirs")]
    with cluster.client() as root:
        data = [list(root[name]["things"].find()) for name in (THEIR_DATABASE, NOBODYS_DATABASE)]
    assert (len(records), len(users), data) == (3, 3, [[{"_id": "kept"}], [{"_id": "kept"}]])
    return [records, users]


def tells_nothing(attack: Attack, answer: Answer) -> bool:
    secrets = (attack.theirs.instance_id, THEIR_ORGANIZATION, attack.credentials["password"], attack.their_operation)
    return not any(secret in answer.text for secret in secrets)


@pytest.mark.parametrize("attempt", PROVISIONS)
def test_an_attempt_fails(attack: Attack, attempt: str) -> None:
    ended = PROVISIONS[attempt](attack)
    assert (ended.status, ended.state) == (200, "failed"), ended.text
    assert ADMINISTRATOR not in ended.description or ADMINISTRATOR in attempt or "name of a binding" in attempt
    if attempt != "the default database of another instance":  # whose name has the id, which the attacker has sent
        assert tells_nothing(attack, ended)


@pytest.mark.parametrize("attempt", REFUSED)
def test_an_attempt_is_refused(attack: Attack, attempt: str) -> None:
    answer = REFUSED[attempt](attack)
    assert answer.status == 400, answer.text
    assert tells_nothing(attack, answer)


@pytest.mark.parametrize("attempt", NOT_THERE)
def test_an_attempt_finds_nothing(attack: Attack, attempt: str) -> None:
    assert NOT_THERE[attempt](attack).status in (404, 410)


@pytest.mark.parametrize("attempt", HARMLESS)
def test_an_attempt_is_harmless(attack: Attack, attempt: str) -> None:
    act, statuses = HARMLESS[attempt]
    answer = act(attack)
    assert answer.status in statuses, answer.text
    assert tells_nothing(attack, answer)
