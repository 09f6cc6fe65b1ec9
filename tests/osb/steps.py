"""What many tests of the checklist begin with, and how they wait for what must come."""

import uuid
from collections.abc import Iterable

from tests.emulator.client import Emulator
from tests.osb_client import Answer, Json, OsbClient
from tests.tenant import CLUSTER, Tenant, eventually, succeeds

ON_CLUSTER = {"cluster": CLUSTER}
UNKNOWN = "3f7c1f0e-0000-4000-8000-000000000000"


def new_id() -> str:
    return str(uuid.uuid4())


def provisioned(client: OsbClient, parameters: Json | None = None, instance_id: str = "") -> str:
    """The id of an instance that is there."""
    return Tenant(client, instance_id).provision(**(parameters or {})).instance_id


def bound(client: OsbClient, instance_id: str, parameters: Json | None = None, binding_id: str | None = None) -> str:
    """The id of a binding that is there."""
    binding_id = binding_id or new_id()
    succeeds(client, client.bind(instance_id, binding_id, parameters), instance_id, binding_id)
    return binding_id


def failed_provision(client: OsbClient) -> str:
    """The id of an instance whose create has failed: its cluster does not exist."""
    instance_id = new_id()
    client.provision(instance_id, {"cluster": "nowhere"})
    assert client.wait(instance_id).state == "failed"
    return instance_id


def failed_bind(client: OsbClient, atlas: Emulator, instance_id: str) -> str:
    """The id of a binding whose create has failed: Atlas takes no more users."""
    binding_id = new_id()
    atlas.user_limit(0)
    client.bind(instance_id, binding_id)
    assert client.wait(instance_id, binding_id).state == "failed"
    atlas.user_limit(100)
    return binding_id


def held_provision(client: OsbClient, atlas: Emulator) -> tuple[str, Answer]:
    """A provision that stays in progress (its cluster is being created), and the answer to it."""
    atlas.put_cluster("being-created", state="CREATING")
    instance_id = new_id()
    return instance_id, client.provision(instance_id, {"cluster": "being-created"})


def held_bind(client: OsbClient, atlas: Emulator, instance_id: str) -> tuple[str, Answer]:
    """A bind that stays in progress until ``release(atlas)``, and the answer to it; its user is in Atlas already."""
    atlas.apply_by_hand()
    binding_id = new_id()
    accepted = client.bind(instance_id, binding_id)
    eventually(lambda: users(atlas, "binding_id", binding_id))
    return binding_id, accepted


def held_update(client: OsbClient, atlas: Emulator, instance_id: str) -> Answer:
    """An update that stays in progress: it waits for a bind, which waits for ``release(atlas)``."""
    held_bind(client, atlas, instance_id)
    return client.update(instance_id, {"policy-on-delete": "drop"})


def held_deprovision(client: OsbClient, atlas: Emulator) -> tuple[str, Answer]:
    """A deprovision that stays in progress until ``release(atlas)``, and the answer to it."""
    instance_id = provisioned(client)
    bound(client, instance_id)
    atlas.apply_by_hand()
    return instance_id, client.deprovision(instance_id)


def release(atlas: Emulator) -> None:
    """Apply what is held, and from now on everything at once."""
    atlas.apply_at_once()
    atlas.apply_now()


def users(atlas: Emulator, label: str, value: str) -> list[Json]:
    """The users in Atlas with this label; ``instance_id`` and ``binding_id`` are the broker's."""
    wanted = {"key": label, "value": value}
    return [user for user in atlas.users() if wanted in user.get("labels", []) and not user["deleted"]]


def statuses(answers: Iterable[Answer]) -> list[int]:
    return sorted(answer.status for answer in answers)
