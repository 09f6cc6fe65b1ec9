"""Workers that open Atlas with a service account."""

from tests.dev.services import Mongod
from tests.dev.stack import Stack
from tests.emulator.client import Emulator
from tests.life import live
from tests.tenant import Tenant, works


def test_an_instance_with_two_bindings_lives_from_provision_to_deprovision(
    oauth_stack: Stack, atlas: Emulator, cluster_mongod: Mongod
) -> None:
    with oauth_stack.client() as platform:
        live(platform, atlas, cluster_mongod)


def test_workers_use_what_they_were_given_to_open_atlas(stack: Stack, oauth_stack: Stack, atlas: Emulator) -> None:
    for used, caller in ((stack, atlas.public_key), (oauth_stack, atlas.client_id)):
        atlas.forget_calls()
        with used.client() as client:
            Tenant(client).provision()
        callers = {call["caller"] for call in atlas.calls() if call["template"].startswith("/groups")}
        assert callers - {None} == {caller}


def test_an_applied_that_is_older_than_the_change_is_not_believed(oauth_stack: Stack, atlas: Emulator) -> None:
    """That stack settles for a second."""
    with oauth_stack.client() as client:
        tenant = Tenant(client).provision()
        atlas.apply_after(stale_seconds=0.7, seconds=1.5)
        assert works(tenant.bind("b"))
        tenant.unbind("b")
