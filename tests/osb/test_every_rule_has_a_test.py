"""The checklist itself: every rule of the specification and every choice of ours, and that each has a test.

The numbers are ours: section 0 holds what this broker chooses where the specification (2.17) leaves it open, 1.x its
chapters in the order of a platform's life.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

RULES = {
    # what we choose
    "0.1": "a version header that is missing, empty, below 2.13 or not 2.x is 412",
    "0.2": "the order of checks",
    "0.3": "a finished delete polls as succeeded while it is remembered, then 410",
    "0.4": "an id that was deleted can be used again",
    "0.5": "after a failed create: the same again is a new attempt, another one 409, nothing is left behind",
    "0.6": "a delete during a create is accepted and stops it",
    "0.7": "bindings of one instance are worked on side by side",
    "0.8": "a deprovision removes bindings that are left or in the making",
    "0.9": "cluster and database cannot be changed",
    "0.10": "what failed can be deleted",
    "0.11": "a wrong maintenance version is 422",
    "0.12": "every 4xx and 5xx is a JSON object with a description",
    "0.13": "platforms poll for 1800 s, operations end within 1500 s",
    "0.14": "unknown parameters are accepted",
    "0.15": "a request that cannot poll waits, within bounds",
    "0.16": "Retry-After is not sent where the news is near",
    "0.17": "too many waiting requests are told to poll",
    "0.18": "everything can be fetched, contexts updated, bindings rotated",
    "0.19": "no instance comes to a plan that decides something else than what it is",
    "0.20": "what exists goes on when its plan is taken out of the catalog",
    "0.21": "fields newer than the version that the request names are left out",
    "1.0": "the order of checks",
    # headers
    "1.1.1": "the version is required",
    "1.1.2": "every 2.x from 2.13 on is served",
    "1.1.3": "the originating identity is optional and kept",
    "1.1.4": "the request identity is echoed",
    "1.1.5": "bodies are JSON whatever they are called",
    "1.1.6": "unknown fields are ignored",
    "1.1.7": "the catalog has an ETag",
    # authentication
    "1.2.1": "every route needs a user",
    "1.2.2": "a refusal names the way to authenticate and nothing else",
    # catalog
    "1.3.1": "200 with services",
    "1.3.2": "services",
    "1.3.3": "plans",
    "1.3.4": "schemas",
    "1.3.5": "lengths and types",
    "1.3.6": "what is bindable and can be fetched is said",
    "1.3.7": "ids and plans stay",
    # errors
    "1.4.1": "the fields of an error",
    "1.4.2": "fixed codes",
    "1.4.3": "fixed sentences",
    "1.4.4": "no other 422 on provision and bind",
    "1.4.5": "a 4xx changes nothing",
    "1.4.6": "every answer is a JSON object",
    "1.4.7": "absent is left out",
    # asynchronous operations
    "1.5.1": "only true means that the platform can poll",
    "1.5.2": "what goes on is 202",
    "1.5.3": "what is there needs no polling",
    # polling
    "1.6.1": "query arguments are optional",
    "1.6.2": "three states",
    "1.6.3": "never 400 for what is not known",
    "1.6.4": "404 for what does not exist",
    "1.6.5": "a completed delete is never 404",
    "1.6.6": "outcomes are remembered",
    "1.6.7": "Retry-After",
    "1.6.8": "instance_usable only for failed updates and deprovisions",
    "1.6.9": "a binding can be fetched when it is succeeded",
    "1.6.10": "the operation is durable before the 202",
    "1.6.11": "operations end before platforms give up",
    # provision
    "1.7.1": "new: 202",
    "1.7.2": "finished synchronously: 201",
    "1.7.3": "identical, still provisioning: 202 with the same operation",
    "1.7.4": "identical, provisioned: 200",
    "1.7.5": "different: 409",
    "1.7.6": "being deprovisioned: 422",
    "1.7.7": "deprovisioned: 202",
    "1.7.8": "failed earlier: a new attempt",
    "1.7.9": "malformed: 400",
    "1.7.10": "cannot poll: 422",
    "1.7.11": "maintenance version: 422",
    "1.7.12": "which attributes count",
    "1.7.13": "parameters are checked against the published schemas",
    "1.7.14": "identical requests at once create one",
    # fetching an instance
    "1.8.1": "200 with what it is",
    "1.8.2": "404 when absent or still provisioning",
    "1.8.3": "422 while an update runs",
    "1.8.4": "at once when succeeded",
    # update
    "1.9.1": "accepted: 202",
    "1.9.2": "identical, running: 202 with the same operation",
    "1.9.3": "nothing to change: 200",
    "1.9.4": "cannot be: 422",
    "1.9.5": "cannot poll: 422",
    "1.9.6": "maintenance version: 422",
    "1.9.7": "another operation runs: 422",
    "1.9.8": "malformed: 400",
    "1.9.9": "does not exist: 404",
    "1.9.10": "absent does not change",
    "1.9.11": "contexts",
    "1.9.12": "previous values are not trusted",
    # bind
    "1.10.1": "new: 202 without credentials",
    "1.10.2": "identical, in progress: 202 with the same operation",
    "1.10.3": "identical, complete: 200 with credentials",
    "1.10.4": "different: 409",
    "1.10.5": "cannot poll: 422",
    "1.10.6": "no application is required",
    "1.10.7": "what can run side by side, and what cannot: 422",
    "1.10.8": "malformed: 400",
    "1.10.9": "unknown instance: 404",
    "1.10.10": "credentials are unique",
    "1.10.11": "endpoints",
    "1.10.12": "metadata of bindings that expire",
    "1.10.13": "nothing that the catalog does not require",
    # fetching a binding
    "1.11.1": "200 with credentials; 404 when absent or in progress",
    "1.11.2": "available when succeeded",
    "1.11.3": "the first fetch must not fail",
    "1.12": "rotation",
    # unbind and deprovision
    "1.13.1": "accepted: 202",
    "1.13.2": "again while deleting: 202 with the same operation",
    "1.13.3": "finished synchronously: 200 {}",
    "1.13.4": "does not exist: 410",
    "1.13.5": "cannot poll: 422",
    "1.13.6": "an update runs: 422",
    "1.13.7": "during a create: stops it",
    "1.13.8": "after a failed create",
    "1.13.9": "bindings still exist",
    "1.13.10": "a failed delete can be repeated",
    "1.13.11": "service and plan are hints",
    "1.13.12": "what comes late changes nothing",
    "1.13.13": "service and plan must be named",
    # orphan mitigation
    "1.14.1": "a delete may come for anything, and repeatedly",
    "1.14.2": "after a time-out the same id comes again",
    "1.14.3": "a delete that is never polled ends",
    "1.14.4": "a failed create cleans up by itself",
    # ids and sizes
    "1.15.1": "ids are opaque",
    "1.15.2": "operations need no encoding",
}


def test_every_rule_has_a_test() -> None:
    tested = {number for numbers in _marked() for number in numbers}
    assert not sorted(set(RULES) - tested), "rules without a test"
    assert not sorted(tested - set(RULES)), "tests of rules that are not in the list"


def _marked() -> Iterator[list[str]]:
    """The arguments of every ``pytest.mark.rule(...)`` beside this file, and in the tests of the HTTP layer alone."""
    beside = Path(__file__).parent
    for file in (*beside.glob("test_*.py"), *(beside.parent / "unit").glob("test_osb_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.rule":
                yield [ast.literal_eval(argument) for argument in node.args]
