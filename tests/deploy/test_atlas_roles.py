"""The table of calls and roles in docs/least-rights.md is that of the Atlas client."""

import re

from broker_api.jobs.queue import JOBS, RECONCILE
from tests.deploy.files import CHECKOUT
from workers.atlas import endpoints
from workers.atlas.endpoints import MINT_TOKEN, ApiEndpoint

TABLE = (CHECKOUT / "docs" / "least-rights.md").read_text().partition("\n## Atlas\n")[2]
PROJECT = "/api/atlas/v2/groups/{project}"


def test_each_call_of_the_client_is_in_the_table_and_no_other() -> None:
    known = {(each.method, each.path) for each in vars(endpoints).values() if isinstance(each, ApiEndpoint)}
    named = re.findall(r"`(GET|POST|PATCH|DELETE) ([^`]+)`", TABLE)
    listed = {(method, path if path[0] == "/" else f"{PROJECT}/{path}") for method, path in named}
    assert listed | {("GET", PROJECT), (MINT_TOKEN.method, MINT_TOKEN.path)} == known
    assert "`GET` of the project itself" in TABLE


def test_each_job_is_in_the_table() -> None:
    assert {*JOBS.values(), RECONCILE} <= set(re.findall(r"`((?:atlas|maintenance)\.\w+)`", TABLE))
