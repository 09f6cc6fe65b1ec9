"""An emulator of its own for these tests, reset before each, and a client that sends exactly what it is told to."""

import secrets
from collections.abc import Callable, Iterator

import pytest
import requests
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from requests.auth import AuthBase, HTTPDigestAuth

from tests.dev.services import Mongod
from tests.emulator.client import Emulator
from tests.emulator.model import Json
from tests.tenant import LOG_IN_REFUSED

FIRST = "2023-01-01"
CLUSTERS = "2024-08-05"
FLEX = "2024-11-13"
PASSWORD = "a-password-of-these-tests"

Login = Callable[..., bool]


class Api:
    """One caller with its own connections; `path` is below the project."""

    def __init__(self, emulator: Emulator, auth: AuthBase | None = None) -> None:
        self.emulator = emulator
        self.session = requests.Session()
        self.session.auth = auth or HTTPDigestAuth(emulator.public_key, emulator.private_key)

    def __call__(
        self,
        method: str,
        path: str = "",
        *,
        version: str | None = FIRST,
        project: str | None = None,
        json: Json | None = None,
        timeout: float = 20,
    ) -> requests.Response:
        headers = {"Accept": f"application/vnd.atlas.{version}+json" if version else "application/json"}
        url = f"{self.emulator.base_url}/api/atlas/v2/groups/{project or self.emulator.project_id}{path}"
        return self.session.request(method, url, headers=headers, json=json, timeout=timeout)

    def post_user(self, name: str, **changes: object) -> requests.Response:
        return self("POST", "/databaseUsers", json=user(self.emulator.project_id, name, **changes))

    def status(self, cluster: str = "cluster-dev") -> str:
        return str(self("GET", f"/clusters/{cluster}/status").json()["changeStatus"])


def user(project: str, name: str, **changes: object) -> Json:
    return {
        "username": name,
        "password": PASSWORD,
        "databaseName": "admin",
        "groupId": project,
        "roles": [{"roleName": "readWrite", "databaseName": "shop"}],
        **changes,
    }


@pytest.fixture(scope="session")
def own_emulator(cluster_mongod: Mongod) -> Iterator[Emulator]:
    authority = cluster_mongod.authority
    files = [f"--ca-certificate={authority.file}", f"--ca-key={authority.key_file}"]
    with Emulator.start(cluster_mongod.uri, files) as emulator:
        yield emulator


@pytest.fixture
def atlas(own_emulator: Emulator) -> Emulator:
    own_emulator.clear()
    return own_emulator


@pytest.fixture
def api(atlas: Emulator) -> Iterator[Api]:
    api = Api(atlas)
    with api.session:
        yield api


@pytest.fixture
def name() -> str:
    return f"user-{secrets.token_hex(6)}"


@pytest.fixture
def login(cluster_mongod: Mongod) -> Login:
    """Whether the credentials are let in now."""

    def attempt(username: str, password: str = PASSWORD, address: str = cluster_mongod.address) -> bool:
        with MongoClient[Json](f"mongodb://{address}", username=username, password=password) as client:
            try:
                client.admin.command("ping")
            except OperationFailure as error:
                if error.code not in LOG_IN_REFUSED:
                    raise
                return False
            return True

    return attempt
