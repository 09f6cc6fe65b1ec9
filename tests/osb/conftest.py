"""The running app, with settings that some rules need, and what a test may read but not change."""

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo.collection import Collection

from broker_api.settings.settings import load
from broker_api.state.encryption import Vault
from broker_api.state.mongo import connect
from broker_api.state.store import Store
from tests.dev.broker import Api
from tests.dev.stack import Stack
from tests.in_process import api_in_this_process
from tests.osb.steps import bound, provisioned
from tests.osb_client import OsbClient


@pytest.fixture
def state(stack: Stack) -> Iterator[Collection[dict[str, Any]]]:
    """The broker's own collection."""
    with stack.state.client() as mongo:
        yield mongo[stack.database]["instances"]


@pytest.fixture(scope="session")
def instance(stack: Stack) -> str:
    """An instance that all may read and bind to, and none may change."""
    with stack.client() as platform:
        return provisioned(platform)


@pytest.fixture(scope="session")
def binding(stack: Stack, instance: str) -> str:
    """A binding of ``instance`` that all may read."""
    with stack.client() as platform:
        return bound(platform, instance)


def _platform_of_another_api(**settings: str) -> object:
    """Make a fixture: a platform of another API beside the stack's, on the same state, Redis and workers.

    It runs in the process of the tests, since a process of its own takes seconds to start.
    """

    @pytest.fixture(scope="package")
    def platform(stack: Stack) -> Iterator[OsbClient]:
        made = load({**stack.api_settings, **settings}, "api")
        with connect(made.mongo_uri, made.mongo_timeout_ms) as mongo:
            store = Store(mongo, made.mongo_db, made.mongo_collection, Vault(made.encryption_keys))
            with api_in_this_process(made, store) as uri, OsbClient(uri, stack.user, stack.password) as client:
                yield client

    return platform


hasty = _platform_of_another_api(BROKER_SYNC_WAIT_SECONDS="0.5")
async_only = _platform_of_another_api(BROKER_SYNC_WAIT_SECONDS="0")
default_hooks = _platform_of_another_api(BROKER_CONFIG="")
several_plans = _platform_of_another_api(BROKER_CONFIG="tests.osb.offers:config")


@pytest.fixture(scope="package")
def one_process(stack: Stack) -> Iterator[OsbClient]:
    """A platform of another server of the API, which has one process."""
    settings = {**stack.api_settings, "BROKER_API_PROCESSES": "1"}
    with Api(settings) as api, OsbClient(api.uri, stack.user, stack.password) as client:
        yield client
