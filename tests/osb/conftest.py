"""The running app, with settings that some rules need, and what a test may read but not change."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pymongo.collection import Collection

from tests.dev.broker import Api
from tests.dev.stack import Stack
from tests.osb.steps import bound, provisioned
from tests.osb_client import OsbClient


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "rule(*numbers): the rules of the checklist that the test is about")


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


@contextmanager
def _api(stack: Stack, **settings: str) -> Iterator[OsbClient]:
    """Another API process beside the stack's, on the same state, Redis and workers."""
    with Api({**stack.api_settings, **settings}) as api, OsbClient(api.uri, stack.user, stack.password) as platform:
        yield platform


@pytest.fixture(scope="session")
def hasty(stack: Stack) -> Iterator[OsbClient]:
    """To an API that lets a synchronous request wait for 2 s."""
    with _api(stack, BROKER_SYNC_WAIT_SECONDS="2") as platform:
        yield platform


@pytest.fixture(scope="session")
def async_only(stack: Stack) -> Iterator[OsbClient]:
    """To an API that lets no request wait."""
    with _api(stack, BROKER_SYNC_WAIT_SECONDS="0") as platform:
        yield platform


@pytest.fixture(scope="session")
def several_plans(stack: Stack) -> Iterator[OsbClient]:
    """To an API with the plans of ``tests.osb.offers``."""
    with _api(stack, BROKER_CONFIG="tests.osb.offers:config") as platform:
        yield platform
