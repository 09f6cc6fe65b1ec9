"""The running app, with settings that some rules need, and what a test may read but not change."""

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo.collection import Collection

from tests.dev.broker import Api
from tests.dev.stack import Stack
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
    """Make a fixture: a platform of another API process beside the stack's, on the same state, Redis and workers."""

    @pytest.fixture(scope="package")
    def platform(stack: Stack) -> Iterator[OsbClient]:
        with Api({**stack.api_settings, **settings}) as api, OsbClient(api.uri, stack.user, stack.password) as client:
            yield client

    return platform


hasty = _platform_of_another_api(BROKER_SYNC_WAIT_SECONDS="2")
one_process = _platform_of_another_api(BROKER_API_PROCESSES="1")
async_only = _platform_of_another_api(BROKER_SYNC_WAIT_SECONDS="0")
several_plans = _platform_of_another_api(BROKER_CONFIG="tests.osb.offers:config")
