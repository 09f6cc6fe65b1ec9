"""Two hundred instances wait for their clusters; only in the long form."""

import time
from itertools import pairwise
from uuid import uuid4

import pytest

from tests.chaos.chaos import breakable_broker
from tests.osb_client import DEDICATED_PLAN_ID, Json
from tests.tenant import Tenant, eventually, works

MANY = 200
SLOTS = 8
"""Of all workers together, with room for what is being written at the moment of the look."""


def test_many_that_wait_hold_no_worker_and_cost_one_look_in_the_interval(*, long_form: bool) -> None:
    if not long_form:
        pytest.skip("with --long: it takes a minute; tests/atlas/test_own_clusters.py does it with twenty")
    with breakable_broker() as chaos, chaos.platform() as client:
        chaos.atlas.put_project(chaos.atlas.project_id, cluster_limit=2 * MANY)
        chaos.atlas.cluster_times("dedicated", creating={"never": True})
        ids = [str(uuid4()) for _ in range(MANY)]
        for instance_id in ids:
            answer = client.provision(instance_id, {}, fields={"plan_id": DEDICATED_PLAN_ID})
            assert answer.status == 202, answer.text
        eventually(lambda: _made(chaos.atlas.clusters()) == MANY, "Atlas has been asked for all", 120)
        before = len(chaos.atlas.calls())
        tenant, asked = Tenant(client).provision(), time.monotonic()
        assert works(tenant.bind())
        assert time.monotonic() - asked < 10, "no worker was free"
        time.sleep(45)
        looks: dict[str, list[float]] = {}
        for call in chaos.atlas.calls()[before:]:
            if call["method"] == "GET" and "/clusters/i-" in call["path"] and not call["challenge"]:
                looks.setdefault(call["path"], []).append(call["start"])
        assert len(looks) == MANY
        assert min(later - earlier for moments in looks.values() for earlier, later in pairwise(moments)) > 14.5
        held = {"operation.lease_token": {"$ne": None}, "phase": "creating"}
        assert chaos.records.count_documents(held) <= SLOTS
        for instance_id in ids:
            client.deprovision(instance_id)
        eventually(lambda: _made(chaos.atlas.clusters()) == 0, "all are gone", 200)


def _made(clusters: list[Json]) -> int:
    return len([cluster for cluster in clusters if "atlas-broker" in cluster["tags"]])
