"""The values of the Helm chart: each one has an effect and a description, and a wrong one is refused in a sentence."""

import json
import re
import tarfile
from collections.abc import Iterator
from functools import cache, reduce
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import pytest
import yaml

from broker_api.settings.settings import SECRETS
from tests.deploy.chart import (
    CHART,
    CREATED,
    DEFAULTS,
    EVERYTHING,
    EXISTING,
    MATRIX,
    Rendered,
    chart,
    merged,
    render,
    texts,
)
from tests.deploy.files import CHECKOUT, SETTINGS, Object

SCHEMA: Object = json.loads((CHART / "values.schema.json").read_text())
OF_THE_CHART = {"BROKER_CONFIG", "BROKER_SECRETS", "BROKER_METRICS_PORT", "MONGODB_ATLAS_PROJECT_ID"}
"""Settings that have a value of their own, or that the image sets."""

POOLS = ("instances", "bindings", "maintenance", "all")
SEEN_ELSEWHERE = {("demo", "enabled"), *(("workers", name) for name in POOLS if name != "bindings")}
"""No other value goes with the demo, which is tested whole; all workers have the same values."""
NOT_SCALED = EXISTING | {
    "api": {"autoscaling": {"type": "none"}},
    "workers": {"bindings": {"autoscaling": {"type": "none"}}},
}
BASES: list[Object] = [EVERYTHING, CREATED, NOT_SCALED, *MATRIX.values()]
"""Values with which every other value has an effect, at least with one of them."""

OTHERS: list[Any] = [
    *(True, False, 3, 61, "changed", "changed.example:1", "http://changed.example", "/changed", "45s", "30%", "a:b"),
    *(f"sha256:{'b' * 64}", "00000000000000000000000f", ["IPv6"], ["changed"], [1234]),
    *([{"name": "CHANGED", "value": "x"}], [{"name": "changed"}], {"changed": "yes"}, {"BROKER_USERS": "a:b"}),
    *({"MONGODB_ATLAS_CLIENT_ID": "a"}, {"BROKER_SETTLE_SECONDS": 7}),
]
"""Other values; of an enumeration each one is one, too."""


def leaves(value: object, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield the path of each value, where the chart's own names end."""
    if isinstance(value, dict) and "properties" in schema_of(path) and path != ("settings",):
        for key, each in value.items():
            yield from leaves(each, *path, key)
    else:
        yield path


def schema_of(path: tuple[str, ...]) -> Object:
    """Return the schema of a value; KeyError if it has none."""
    found = SCHEMA
    for key in path:
        found = found["properties"][key]
        for part in found.get("allOf", []):
            found = found | SCHEMA["definitions"][part["$ref"].rpartition("/")[2]]
    return found


def with_another(path: tuple[str, ...], base: Object) -> Object:
    """Return values in which that of a path is another one, which its schema allows."""
    current = reduce(lambda value, key: value.get(key, {}), path, merged(DEFAULTS, base))
    schema = schema_of(path) | {"definitions": SCHEMA["definitions"]}
    fitting = (each for each in [*schema.get("enum", []), *OTHERS] if jsonschema.Draft7Validator(schema).is_valid(each))
    other = next(each for each in fitting if each != current)
    return merged(base, reduce(lambda value, key: {key: value}, reversed(path), other))


def has_effect(path: tuple[str, ...], base: Object) -> bool:
    """Return whether the objects are others with another value; the demo's secrets always are."""
    try:
        after = texts(with_another(path, base))
    except helm_python.HelmRenderError:
        return False
    return any(after.get(name) != text for name, text in made(BASES.index(base)) if name != "demo/secrets.yaml")


@cache
def made(base: int) -> list[tuple[str, str]]:
    return [*texts(BASES[base]).items()]


def test_each_value_has_an_effect(request: pytest.FixtureRequest) -> None:
    """The short form finds a value by its name in some template; the long form changes it."""
    templates = "".join(each["data"] for each in chart().templates)
    paths = [path for path in leaves(DEFAULTS) if path[:2] not in SEEN_ELSEWHERE]
    if request.config.getoption("--long"):
        unused = [path for path in paths if not any(has_effect(path, base) for base in BASES)]
    else:
        unused = [path for path in paths if not re.search(rf"[.\"]{path[-1]}\b", templates)]
    assert unused == []


def test_the_workers_of_each_queue_have_the_same_values() -> None:
    first, *others = ({path[2:] for path in leaves(DEFAULTS) if path[:2] == ("workers", name)} for name in POOLS)
    assert all(other == first for other in others)


def test_each_value_is_described_and_no_other_is_allowed() -> None:
    for path in leaves(DEFAULTS):
        for end in range(1, len(path) + 1):
            assert schema_of(path[: end - 1])["additionalProperties"] is False, path
            assert schema_of(path[:end])["description"].endswith("."), path


def test_the_settings_and_secrets_are_those_of_the_broker() -> None:
    assert schema_of(("settings",))["properties"].keys() == SETTINGS - {*SECRETS} - OF_THE_CHART
    kept = {*schema_of(("secrets", "broker", "data"))["properties"], *schema_of(("atlas", "data"))["properties"]}
    assert kept == {*SECRETS, "secret.json"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"secrets": {"broker": {"existingSecret": ""}}}, "secrets.broker: name a Secret that exists"),
        (
            {"secrets": {"broker": {"data": {"BROKER_USERS": "a:b"}}}},
            "secrets.broker: give existingSecret or data, not both",
        ),
        ({"atlas": {"existingSecret": ""}}, "atlas: name a Secret that exists"),
        (
            {
                "atlas": {
                    "existingSecret": "",
                    "credentials": "serviceAccount",
                    "data": {"MONGODB_ATLAS_CLIENT_ID": "a"},
                }
            },
            "or give MONGODB_ATLAS_CLIENT_SECRET in data",
        ),
        ({"atlas": {"data": {"MONGODB_ATLAS_CLIENT_ID": "a"}}}, "atlas: give existingSecret or data, not both"),
        ({"atlas": {"projectId": ""}}, "atlas.projectId: must be the id of the Atlas project"),
        ({"demo": {"enabled": True}}, "demo.enabled: the demo makes its own MongoDB, Redis and Atlas"),
        ({"config": {"files": {"a.py": ""}}}, "config.object: must name the Config"),
        (
            {"config": {"object": "a:b", "files": {"a.py": ""}, "existingConfigMap": "a"}},
            "config: give files or existingConfigMap, not both",
        ),
        ({"api": {"tls": {"enabled": True}}}, "api.tls.existingSecret: must name a Secret"),
        ({"ingress": {"enabled": True}}, "ingress.host: must be the name"),
        ({"serviceCatalog": {"enabled": True}}, "serviceCatalog: name a Secret that exists"),
        ({"monitoring": {"serviceMonitor": {"enabled": True}}}, "monitoring.basicAuth: name a Secret that exists"),
        (
            {"api": {"autoscaling": {"minReplicas": 9}}},
            "api.autoscaling: minReplicas must not be more than maxReplicas",
        ),
        (
            {"workers": {"bindings": {"autoscaling": {"minReplicas": 9}}}},
            "workers.bindings.autoscaling: minReplicas must not be more than maxReplicas",
        ),
        ({"workers": {"instances": {"autoscaling": {"type": "keda"}}}}, "keda.redis: give address"),
        (
            {"workers": {"bindings": {"autoscaling": {"type": "keda", "queueLength": 0, "oldestWaitingSeconds": 9}}}},
            "keda.prometheus.serverAddress: must be the URL of Prometheus",
        ),
        (
            {"keda": {"redis": {"passwordSecret": {"name": "redis"}}}},
            "keda.redis: passwordSecret and usernameSecret need",
        ),
        (
            {"keda": {"redis": {"usernameSecret": {"name": "redis", "key": "user"}}}},
            "keda.redis.usernameSecret: goes with a passwordSecret",
        ),
        ({"extraEnv": [{"name": "BROKER_USERS", "value": "a:b"}]}, "extraEnv: BROKER_USERS is a secret"),
        (
            {"workers": {"extraEnv": [{"name": "MONGODB_ATLAS_CLIENT_SECRET", "value": "a"}]}},
            "extraEnv: MONGODB_ATLAS_CLIENT_SECRET is a secret",
        ),
        ({"settings": {"BROKER_SYNC_WAIT": 5}}, "at '/settings': additional properties 'BROKER_SYNC_WAIT' not allowed"),
        ({"settings": {"BROKER_USERS": "a:b"}}, "at '/settings': additional properties 'BROKER_USERS' not allowed"),
        ({"commonLabels": {"app.kubernetes.io/name": "a"}}, "at '/commonLabels'"),
        ({"api": {"replica": 2}}, "at '/api': additional properties 'replica' not allowed"),
        ({"workers": {"layout": "one"}}, "at '/workers/layout': value must be one of 'perQueue', 'all'"),
        ({"workers": {"bindings": {"replicas": 0}}}, "at '/workers/bindings/replicas': minimum: got 0, want 1"),
        ({"atlas": {"projectId": 1}}, "at '/atlas/projectId': got number, want string"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_wrong_values_are_refused_in_a_sentence(change: Object, sentence: str) -> None:
    with pytest.raises(helm_python.HelmError, match=re.escape(sentence)):
        texts(merged(EXISTING, change))


def test_an_empty_list_of_peers_lets_in_no_pod_where_no_password_is_asked() -> None:
    change = {"networkPolicy": {"prometheus": [], "flower": []}, "flower": {"enabled": True}}
    policies = Rendered(render(merged(EXISTING, change))).of_kind("NetworkPolicy")
    assert {name: policy["spec"]["ingress"] for name, policy in policies.items() if not name.endswith("-api")} == {
        name: [] for name in policies if not name.endswith("-api")
    }


def test_the_readme_of_the_chart_has_values_that_can_be_installed() -> None:
    (values,) = re.findall(r"```yaml\n(.*?)```", (CHART / "README.md").read_text(), re.DOTALL)
    assert render(yaml.safe_load(values))


def test_the_packaged_chart_is_whole_and_has_the_release_of_the_broker(tmp_path: Path) -> None:
    archive = helm_python.package(CHART, destination=tmp_path)
    with tarfile.open(archive) as packed:
        names = {name.removeprefix("atlas-broker/") for name in packed.getnames()}
    assert names == {str(path.relative_to(CHART)) for path in CHART.rglob("*") if path.is_file()}
    with helm_python.Chart.load(archive) as unpacked:
        assert unpacked.render(EXISTING) == chart().render(EXISTING)
    version = re.search(r'^version = "(.*)"$', (CHECKOUT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert (chart().version, chart().metadata["appVersion"]) == (version[1], version[1])


def test_openshift_can_choose_the_users() -> None:
    made = render(EXISTING | {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}})
    for each in made:
        if each["kind"] in ("Deployment", "Job"):
            context = each["spec"]["template"]["spec"]["securityContext"]
            assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
