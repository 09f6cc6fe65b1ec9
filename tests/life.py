"""The life of an instance, as its platform and its application see it."""

from collections.abc import Callable

import pytest
from pymongo.errors import OperationFailure

from tests.dev.services import Mongod
from tests.emulator.client import Emulator
from tests.osb_client import OsbClient
from tests.tenant import CLUSTER, UNAUTHORIZED, Json, Tenant, eventually, log_in, together, works


def database_exists(cluster: Mongod, name: str) -> bool:
    with cluster.client() as root:
        return name in root.list_database_names()


def write(credentials: Json) -> None:
    with log_in(credentials) as cluster:
        cluster[credentials["database"]]["things"].insert_one({"a": 1})


def refused(act: Callable[[], object]) -> None:
    with pytest.raises(OperationFailure) as refusal:
        act()
    assert refusal.value.code == UNAUTHORIZED


def live(platform: OsbClient, atlas: Emulator, cluster: Mongod) -> None:
    """Let an instance with two bindings live from provision to deprovision, with its database."""
    atlas.apply_after(seconds=0.3)
    tenant = Tenant(platform).provision(**{"policy-on-delete": "drop"})
    about = platform.instance(tenant.instance_id).json
    assert about["parameters"] == {"cluster": CLUSTER, "policy-on-delete": "drop"}
    first, second = together(lambda: tenant.bind("b-1"), lambda: tenant.bind("b-2", role="readOnly"))
    assert (first["username"], second["username"]) == ("b-1", "b-2")
    assert first["password"] != second["password"]
    assert first["database"] == second["database"] == tenant.database
    write(first)
    with log_in(second) as server:
        assert server[tenant.database]["things"].count_documents({}) == 1
    refused(lambda: write(second))
    tenant.unbind("b-1")
    assert not works(first)
    assert works(second)
    tenant.deprovision()
    assert not works(second)
    assert not database_exists(cluster, tenant.database)
    eventually(lambda: atlas.users() == [], "the user that dropped it is gone, too")
    assert platform.instance(tenant.instance_id).status == 404
    assert platform.deprovision(tenant.instance_id).status == 410
