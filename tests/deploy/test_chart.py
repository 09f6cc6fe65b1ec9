"""The Helm chart: what it renders is valid, fits together, and gives each process what it needs and nothing else."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import helm_python
import pytest
import yaml

from broker_api.server import GRACE_SECONDS
from broker_api.settings.settings import Part, load
from tests.deploy.chart import (
    CHART,
    CREATED,
    EVERYTHING,
    EXISTING,
    MATRIX,
    NAMESPACE,
    RELEASE,
    Rendered,
    chart,
    environment,
    render,
    scenario,
    texts,
    walk,
)
from tests.deploy.files import CHECKOUT, COMPOSE, QUEUES, SECRET_SETTINGS, SETTINGS, WORKING, Object, objects
from tests.deploy.kubernetes_schemas import NEWEST, errors

OLDEST = "1.27"
"""The oldest Kubernetes that the chart is for; the demo's sidecar asks for a newer one."""
WITH_SIDECARS = "1.29"

VALUES = WORKING | {
    "MONGODB_ATLAS_CLIENT_ID": "client",
    "MONGODB_ATLAS_CLIENT_SECRET": "secret",
    "BROKER_WORKER_KEYS": WORKING["BROKER_ENCRYPTION_KEYS"],
    "secret.json": json.dumps({"atlas": [{"group": "000000000000000000000001", "user": "u", "password": "p"}]}),
}
"""A content for each key of a Secret."""

scenarios = pytest.mark.parametrize("name", MATRIX)


@scenarios
def test_kubernetes_and_the_operators_know_every_field(name: str) -> None:
    for version in (WITH_SIDECARS if name == "demo" else OLDEST, NEWEST):
        assert [problem for each in scenario(name).objects for problem in errors(each, version)] == []


@pytest.mark.parametrize("name", ["existing secrets", "everything", "demo"])
def test_the_linter_has_nothing_to_say(name: str) -> None:
    report = helm_python.lint(CHART, MATRIX[name], strict=True, namespace=NAMESPACE)
    hints = [message for message in report["messages"] if message["severity"] > 1]
    assert (hints, report["errors"]) == ([], [])


@pytest.mark.parametrize("name", ["everything", "demo"])
def test_helm_would_install_everything_but_its_test(name: str) -> None:
    """A client's dry run also compares the version of Kubernetes, and takes the hooks out of the manifest."""
    with helm_python.Config(namespace=NAMESPACE, storage_driver="memory") as helm:
        release = helm.install(chart(), RELEASE, MATRIX[name], dry_run="client")
    kinds = Counter(each["kind"] for each in yaml.safe_load_all(release["manifest"]) if each)
    assert kinds + Counter(["Job"]) == Counter(each["kind"] for each in scenario(name).objects)


@scenarios
def test_objects_have_names_of_their_own_with_the_prefix_and_are_in_the_namespace(name: str) -> None:
    prefix = {"one Deployment of workers": "osb", "sentinels, one family, no policies": "atlas-broker"}.get(
        name, RELEASE
    )
    seen = set()
    for each in scenario(name).objects:
        metadata = each["metadata"]
        assert metadata["name"].startswith(prefix)
        assert metadata.get("namespace") == (None if each["kind"] == "ClusterServiceBroker" else NAMESPACE)
        seen.add((each["kind"], metadata["name"]))
    assert len(seen) == len(scenario(name).objects)


def test_the_longest_name_of_a_release_makes_no_name_or_label_too_long() -> None:
    for each in render(EVERYTHING, "r" * 53):
        labels = each["metadata"]["labels"].values()
        assert max(map(len, [each["metadata"]["name"], *labels])) <= 63


def test_two_releases_in_a_namespace_do_not_touch_each_other() -> None:
    first, second = (Rendered(render(EVERYTHING, release)) for release in ("one", "two"))
    names = [{(each["kind"], each["metadata"]["name"]) for each in made.objects} for made in (first, second)]
    assert not names[0] & names[1]
    for labels in selectors(first):
        assert second.selected_by(labels) == []


def selectors(made: Rendered) -> Iterator[dict[str, str]]:
    for each in made.objects:
        spec = each.get("spec", {})
        for selector in (spec.get("selector"), spec.get("podSelector")):
            if selector:
                yield selector.get("matchLabels", selector)


@scenarios
def test_what_selects_pods_selects_those_of_one_deployment(name: str) -> None:
    made = scenario(name)
    for kind in ("Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"):
        for own, each in made.of_kind(kind).items():
            spec = each["spec"]
            selector = spec["podSelector"] if kind == "NetworkPolicy" else spec["selector"]
            assert made.selected_by(selector.get("matchLabels", selector)) == [own], kind
    for own, pod in made.pods().items():
        for spread in pod["spec"].get("topologySpreadConstraints", []):
            assert made.selected_by(spread["labelSelector"]["matchLabels"]) == [own]


@scenarios
def test_what_is_referred_to_exists_or_is_named_by_the_values(name: str) -> None:
    made = scenario(name)
    given = {value for _, value in walk(MATRIX[name]) if isinstance(value, str)}
    for each in made.objects:
        for kind, referred, keys in references(each):
            found = made.of_kind(kind).get(referred)
            assert found or referred in given or (kind, referred) == ("ServiceAccount", "default"), (kind, referred)
            if found:
                assert keys <= {*found.get("data", {}), *found.get("stringData", {})}
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        for each in made.of_kind(kind).values():
            assert each["spec"]["scaleTargetRef"]["name"] in made.of_kind("Deployment")


def references(each: Object) -> Iterator[tuple[str, str, set[str]]]:
    """Yield kind, name and needed keys of each object that an object refers to."""
    for path, value in walk(each):
        last = path[-1] if path else ""
        if last in ("configMapRef", "configMap"):
            yield "ConfigMap", value["name"], set()
        elif last == "secret" and "secretName" in value:
            yield "Secret", value["secretName"], set()
        elif last == "secret":
            yield "Secret", value["name"], {item["key"] for item in value["items"]}
        elif last in ("secretKeyRef", "secretRef"):
            yield "Secret", value["name"], {value["key"]} if "key" in value else {"username", "password"}
        elif last in ("username", "password") and isinstance(value, dict):
            yield "Secret", value["name"], {value["key"]}
        elif last == "serviceAccountName":
            yield "ServiceAccount", value, set()
        elif last == "service" and isinstance(value, dict) and "port" in value:
            yield "Service", value["name"], set()
        elif last == "authenticationRef":
            yield "TriggerAuthentication", value["name"], set()


@scenarios
def test_ports_agree(name: str) -> None:
    made = scenario(name)
    ports = {
        own: {
            port["name"]: port["containerPort"] for each in pod["spec"]["containers"] for port in each.get("ports", [])
        }
        for own, pod in made.pods().items()
    }
    jobs = made.of_kind("Job")
    for own, service in made.of_kind("Service").items():
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in {*ports[own], *ports[own].values()}
    for ingress in made.of_kind("Ingress").values():
        backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
        assert backend["port"]["name"] in {p["name"] for p in made.of_kind("Service")[backend["name"]]["spec"]["ports"]}
    for own, policy in made.of_kind("NetworkPolicy").items():
        admitted = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert admitted == set(ports[own].values())
    for own, container in made.ours().items():
        probes = [container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness") if own not in jobs]
        assert {probe["httpGet"]["port"] for probe in probes} == {*ports[own]}
    for kind, endpoints in (("ServiceMonitor", "endpoints"), ("PodMonitor", "podMetricsEndpoints")):
        for monitor in made.of_kind(kind).values():
            spec = monitor["spec"]
            scraped = [own for own in made.selected_by(spec["selector"]["matchLabels"]) if expressed(made, spec, own)]
            assert scraped
            if kind == "ServiceMonitor":
                labels = [service["metadata"]["labels"] for service in made.of_kind("Service").values()]
                assert sum(spec["selector"]["matchLabels"].items() <= worn.items() for worn in labels) == 1
            for own in scraped:
                assert spec[endpoints][0]["port"] in ports[own]


def expressed(made: Rendered, spec: Object, own: str) -> bool:
    labels = made.pods()[own]["metadata"]["labels"]
    return all(labels[each["key"]] in each["values"] for each in spec["selector"].get("matchExpressions", []))


@scenarios
def test_each_queue_is_served_by_one_deployment_that_never_ends_wholly(name: str) -> None:
    made = scenario(name)
    assert sorted(queue for queues in made.queues().values() for queue in queues) == sorted(QUEUES)
    for own in made.queues():
        spec = made.of_kind("Deployment")[own]["spec"]
        scalers = [made.of_kind(kind).get(own) for kind in ("HorizontalPodAutoscaler", "ScaledObject")]
        least = [each["spec"].get("minReplicas", each["spec"].get("minReplicaCount")) for each in scalers if each] or [
            spec.get("replicas")
        ]
        assert min(least) >= 1
        assert ("replicas" in spec) != any(scalers)


@scenarios
def test_a_process_is_given_settings_that_it_knows_and_starts_with_them(name: str, tmp_path: Path) -> None:
    for own, container in scenario(name).ours().items():
        environ = environment(scenario(name), own, tmp_path, VALUES)
        part: Part = "api" if own.endswith("-api") else "flower" if own.endswith("-flower") else "worker"
        known = {f"{setting}_FILE" for setting in SETTINGS} | SETTINGS
        extra = {each["name"] for each in MATRIX[name].get("extraEnv", [])}
        assert environ.keys() - extra <= known
        config = environ.pop("BROKER_CONFIG", None)
        assert config == (MATRIX[name].get("config", {}).get("object") if part != "flower" else None)
        assert load(environ, part)
        secret = {variable.removesuffix("_FILE") for variable in environ if variable.endswith("_FILE")}
        assert secret >= {"BROKER_REDIS_URL"}
        assert not any(each["name"] in SECRET_SETTINGS for each in container["env"])
        if part != "worker":
            assert not secret & {each for each in SECRET_SETTINGS if each.startswith("MONGODB_ATLAS_")}
            assert "BROKER_SECRETS" not in environ
        if part == "flower":
            assert secret == {"BROKER_REDIS_URL", "BROKER_USERS"}


def test_secrets_are_in_secrets_only() -> None:
    secrets = {value for _, value in walk(CREATED) if isinstance(value, str) and "secret-" in value}
    for each in render(CREATED):
        if each["kind"] != "Secret":
            assert not any(f"secret-{number}" in json.dumps(each) for number in range(1, 10)), each["metadata"]["name"]
    kept = [each["stringData"].values() for each in render(CREATED) if each["kind"] == "Secret"]
    assert secrets <= {value for values in kept for value in values}


@scenarios
def test_pods_run_confined(name: str) -> None:
    for own, pod in scenario(name).pods().items():
        spec = pod["spec"]
        user = spec["securityContext"]
        assert user["runAsNonRoot"] is True
        assert user["runAsUser"] == user["fsGroup"] == (10001 if own in scenario(name).ours() else 999)
        assert user["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is spec["enableServiceLinks"] is False
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert container["resources"]["limits"].keys() == {"memory"}
            assert {mount["name"] for mount in container["volumeMounts"]} <= {each["name"] for each in spec["volumes"]}


@scenarios
def test_processes_listen_on_addresses_of_every_family_that_the_cluster_has(name: str) -> None:
    made = scenario(name)
    policy = MATRIX[name].get("ipFamilyPolicy", "PreferDualStack")
    assert all(each["spec"]["ipFamilyPolicy"] == policy for each in made.of_kind("Service").values())
    for container in made.ours().values():
        assert not [each for each in container.get("args", []) if "0.0.0.0" in each or "127.0.0.1" in each]
    (api,) = (container for own, container in made.ours().items() if own.endswith("-api"))
    assert "--host=::" in api["args"]


def test_only_those_who_must_may_reach_a_part_and_it_may_reach_only_what_it_needs() -> None:
    policies = scenario("everything").of_kind("NetworkPolicy")
    assert policies.keys() == {*scenario("everything").pods()}
    collector = {4318}
    allowed = {
        "api": {53, 27017, 6379} | collector,
        "flower": {53, 6379},
        "check": {53, 27017, 6379, 443, 27015, 27016} | collector,
    } | {f"workers-{queue}": {53, 27017, 6379, 443, 27015, 27016} | collector for queue in QUEUES}
    for own, policy in policies.items():
        spec, part = policy["spec"], own.removeprefix(f"{RELEASE}-")
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        assert {port["port"] for rule in spec["egress"] for port in rule["ports"]} == allowed[part]
        sources = [peer for rule in spec["ingress"] for peer in rule["from"]]
        if part == "flower":
            assert sources == [{"podSelector": {"matchLabels": {"atlas-broker/may-see-flower": "true"}}}]
        elif part.startswith("workers-"):
            assert sources == chart().values["networkPolicy"]["prometheus"]
        elif part == "api":
            assert EVERYTHING["networkPolicy"]["platforms"][0] in sources
        else:
            assert not sources


def test_a_request_that_waits_for_its_job_outlives_the_order_to_stop() -> None:
    for settings, wait in (({}, load(WORKING, "api").sync_wait), ({"BROKER_SYNC_WAIT_SECONDS": "7.5"}, 7.5)):
        (api,) = (
            pod for own, pod in Rendered(render(EXISTING | {"settings": settings})).pods().items() if "-api" in own
        )
        before = int(api["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1])
        assert before > 0
        assert api["spec"]["terminationGracePeriodSeconds"] >= before + wait + GRACE_SECONDS


def test_a_roll_out_stops_at_the_first_pod_that_does_not_become_ready() -> None:
    for own in (f"{RELEASE}-api", *scenario("existing secrets").queues()):
        spec = scenario("existing secrets").of_kind("Deployment")[own]["spec"]
        assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        container = scenario("existing secrets").ours()[own]
        paths = [container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")]
        assert paths == ["/live", "/live", "/ready"]
        if own != f"{RELEASE}-api":
            assert spec["minReadySeconds"] > container["readinessProbe"]["periodSeconds"]


def test_the_api_serves_https_with_the_mounted_certificate() -> None:
    made = scenario("everything")
    name = f"{RELEASE}-api"
    container, pod = made.ours()[name], made.pods()[name]["spec"]
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == "tls")
    assert f"--tls-cert={mount['mountPath']}/tls.crt" in container["args"]
    assert f"--tls-key={mount['mountPath']}/tls.key" in container["args"]
    assert {"name": "tls", "secret": {"secretName": "api-tls", "defaultMode": 0o440}} in pod["volumes"]
    assert all(
        container[f"{probe}Probe"]["httpGet"]["scheme"] == "HTTPS" for probe in ("startup", "liveness", "readiness")
    )
    assert made.of_kind("Service")[name]["spec"]["ports"][0]["port"] == 443
    assert made.of_kind("ClusterServiceBroker")[RELEASE]["spec"]["url"] == f"https://{name}.{NAMESPACE}.svc"


def test_the_alerts_and_the_dashboard_are_those_of_the_monitoring_folder() -> None:
    made = scenario("everything")
    (rule,) = made.of_kind("PrometheusRule").values()
    assert rule["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    dashboard = made.of_kind("ConfigMap")[f"{RELEASE}-dashboard"]["data"]["atlas-broker.json"]
    assert json.loads(dashboard) == json.loads((CHART / "files" / "dashboard.json").read_text())


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"BROKER_LOG_LEVEL": "DEBUG"}},
        {"config": {"object": "a:b", "files": {"a.py": "b = 1"}}},
        {"secrets": {"broker": {"data": CREATED["secrets"]["broker"]["data"] | {"BROKER_USERS": "other:password"}}}},
    ],
    ids=["settings", "config", "secrets"],
)
def test_a_change_of_what_the_chart_makes_for_pods_rolls_them(change: Object) -> None:
    before, after = (
        Rendered(render(CREATED)).of_kind("Deployment"),
        Rendered(render(CREATED | change)).of_kind("Deployment"),
    )
    for name, each in before.items():
        assert each["spec"]["template"] != after[name]["spec"]["template"]
    assert before == Rendered(render(deepcopy(CREATED))).of_kind("Deployment")


def test_keda_looks_at_the_lists_of_the_queues_and_at_the_metric_of_the_api() -> None:
    scaled = scenario("everything").of_kind("ScaledObject")
    assert scaled.keys() == {f"{RELEASE}-workers-{queue}" for queue in QUEUES}
    for queue in QUEUES:
        triggers = {each["type"]: each for each in scaled[f"{RELEASE}-workers-{queue}"]["spec"]["triggers"]}
        assert triggers["redis"]["metadata"]["listName"] == queue
        if queue != "maintenance":
            assert (
                triggers["prometheus"]["metadata"]["query"]
                == f'max(atlas_broker_oldest_waiting_seconds{{queue="{queue}"}})'
            )


def test_helm_test_runs_the_check_as_a_worker() -> None:
    job = scenario("everything").of_kind("Job")[f"{RELEASE}-check"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "test"
    container = scenario("everything").ours()[f"{RELEASE}-check"]
    worker = scenario("everything").ours()[f"{RELEASE}-workers-bindings"]
    assert container["command"] == ["atlas-broker", "check"]
    assert (container["image"], container["env"]) == (worker["image"], worker["env"])


def test_the_demo_has_the_servers_of_the_compose_file() -> None:
    (compose,) = objects(COMPOSE)
    demo = chart().values["demo"]
    assert demo["mongodb"]["image"] == compose["services"]["mongo"]["image"] == compose["services"]["cluster"]["image"]
    assert demo["redis"]["image"] == compose["services"]["redis"]["image"]


def test_the_demo_has_one_worker_beside_its_emulated_atlas() -> None:
    made = scenario("demo")
    (worker,) = made.queues()
    spec = made.of_kind("Deployment")[worker]["spec"]
    assert spec["replicas"] == 1
    (emulator,) = spec["template"]["spec"]["initContainers"]
    assert emulator["restartPolicy"] == "Always"
    options = dict(each.removeprefix("--").split("=", 1) for each in emulator["args"])
    known = (CHECKOUT / "tests" / "emulator" / "__main__.py").read_text()
    assert all(f'"--{option}"' in known for option in options)
    settings = made.of_kind("ConfigMap")[f"{RELEASE}-settings"]["data"]
    assert settings["MONGODB_ATLAS_BASE_URL"] == f"http://{options['host']}:{options['port']}"
    assert settings["MONGODB_ATLAS_PROJECT_ID"] == options["project"]
    secrets = {name: each["stringData"] for name, each in made.of_kind("Secret").items()}
    assert secrets[f"{RELEASE}-atlas"]["MONGODB_ATLAS_PUBLIC_API_KEY"] == options["public-key"]
    assert load(settings | secrets[f"{RELEASE}-secrets"] | secrets[f"{RELEASE}-atlas"], "worker")
    for url in ("BROKER_MONGO_URI", "BROKER_REDIS_URL"):
        host = secrets[f"{RELEASE}-secrets"][url].partition("://")[2].partition(":")[0]
        assert host in made.of_kind("Service")


@scenarios
def test_the_notes_lead_to_what_was_made(name: str) -> None:
    notes = texts(MATRIX[name])["NOTES.txt"]
    assert f"helm -n {NAMESPACE} test {RELEASE}" in notes
    for kind in ("service", "secret", "job"):
        for found in re.findall(rf"(?:get |port-forward |logs ){kind}[ /]([a-z-]+)", notes):
            assert found in scenario(name).of_kind(kind.capitalize())
    assert ("This is a demo" in notes) == (name == "demo")
