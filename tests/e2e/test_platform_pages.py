"""What the commands and objects on the pages of platforms make a platform ask for, asked of the broker in its way."""

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.deploy.files import KUBERNETES, objects
from tests.docs.blocks import commands
from tests.emulator.client import Emulator
from tests.osb_client import Flag, OsbClient
from tests.tenant import CLUSTER, Tenant

CREATE = {"create-service", "provision"}
BIND = {"bind-service", "create-service-key", "bind"}
UNBIND = {"unbind-service", "delete-service-key", "unbind"}
DELETE = {"delete-service", "deprovision"}
VERSIONS = {"cf": "2.15", "smctl": "2.13", "kubernetes": "2.14"}
"""What each platform sends in ``X-Broker-API-Version``."""


def parameters(words: list[str]) -> dict[str, Any]:
    """Return what ``-c`` gives, on a cluster that there is."""
    given: dict[str, Any] = json.loads(words[words.index("-c") + 1]) if "-c" in words else {}
    return {**given, "cluster": CLUSTER} if "cluster" in given else given


@pytest.mark.parametrize(("program", "platform"), [("cf", "cloudfoundry"), ("smctl", "sapcp")])
def test_the_commands_of_a_page_lead_from_an_instance_to_nothing(
    program: str, platform: str, client: OsbClient, atlas: Emulator
) -> None:
    client.headers |= {"X-Broker-API-Version": VERSIONS[program]}
    instance, bindings, done = str(uuid4()), set[str](), []
    tenant = Tenant(client, instance)
    for _, command, *words in commands(program, page="docs/platforms/"):
        (name,) = [word for word in words[:2] if word != "orders"][:1] or [""]
        if command in CREATE:
            fields = {"context": {"platform": platform}}
            tenant.succeed(client.provision(instance, parameters(words), fields=fields))
        elif command == "update-service":
            tenant.update(**parameters(words))
        elif command in BIND:
            assert tenant.bind(f"{instance}-{name}", **parameters(words))["uri"]
            bindings.add(name)
        elif command in UNBIND:
            tenant.unbind(f"{instance}-{name}")
            bindings.remove(name)
        elif command in DELETE:
            assert not bindings
            tenant.deprovision()
        done.append(command)
    assert all(kind & {*done} for kind in (CREATE, BIND, UNBIND, DELETE))
    assert not atlas.users()


@pytest.mark.parametrize("accepts_incomplete", [None, True], ids=["without the gate", "with the gate"])
def test_the_objects_of_service_catalog_with_and_without_asynchronous_bindings(
    accepts_incomplete: Flag, client: OsbClient, atlas: Emulator
) -> None:
    instance, binding = (
        objects(KUBERNETES / "service-catalog" / f"{name}.yaml")[0]["spec"] for name in ("instance", "binding")
    )
    client.headers |= {"X-Broker-API-Version": VERSIONS["kubernetes"]}
    fields = {"context": {"platform": "kubernetes", "namespace": "default"}}
    tenant = Tenant(client)
    wanted = {**instance["parameters"], "cluster": CLUSTER}
    tenant.succeed(client.provision(tenant.instance_id, wanted, fields=fields))
    given = binding.get("parameters")
    bound = client.bind(tenant.instance_id, "b-1", given, fields=fields, accepts_incomplete=accepts_incomplete)
    if accepts_incomplete:
        tenant.succeed(bound, "b-1")
    else:
        assert bound.status == 201
        assert {"username", "password", "database", "uri"} <= bound.json["credentials"].keys()
    tenant.unbind("b-1")
    tenant.deprovision()
    assert not atlas.users()
