from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest

from broker_api.config import Config
from broker_api.errors import SettingError
from broker_api.server import GRACE_SECONDS
from broker_api.settings.settings import Part, load
from tests.deploy.files import ATLAS_SETTINGS, KUBERNETES, QUEUES, SECRET_SETTINGS, SETTINGS, WORKING, Object, objects
from tests.deploy.service_catalog import SCHEMAS

OLDEST = "1.27"
"""The oldest Kubernetes that these objects are checked against; the newest is whatever the schemas' package knows."""


@cache
def kustomization() -> Object:
    (document,) = objects(KUBERNETES / "kustomization.yaml")
    return document


@cache
def applied() -> list[Object]:
    """What `kubectl apply -k` makes."""
    return [each for name in kustomization()["resources"] for each in objects(KUBERNETES / name)]


@cache
def secrets() -> dict[str, Object]:
    template = objects(KUBERNETES / "secrets.example.yaml")
    return {each["metadata"]["name"]: each["stringData"] for each in template if each["kind"] == "Secret"}


@cache
def catalog() -> dict[str, Object]:
    files = sorted((KUBERNETES / "service-catalog").glob("*.yaml"))
    return {each["kind"]: each for file in files for each in objects(file)}


def of_kind(kind: str) -> dict[str, Object]:
    return {each["metadata"]["name"]: each for each in applied() if each["kind"] == kind}


def pod(deployment: str) -> Object:
    spec: Object = of_kind("Deployment")[deployment]["spec"]["template"]["spec"]
    return spec


def container(deployment: str) -> Object:
    (only,) = pod(deployment)["containers"]
    return dict(only)


def environment(deployment: str) -> set[str]:
    """The names of the settings that a pod is given; KeyError for what no template or map has."""
    listed = container(deployment)
    return {name for source in listed.get("envFrom", ()) for name in _all_of(source)} | {
        _one_of(variable) for variable in listed.get("env", ())
    }


def _all_of(source: Object) -> Iterator[str]:
    if "secretRef" in source:
        yield from secrets()[source["secretRef"]["name"]]
    else:
        yield from of_kind("ConfigMap")[source["configMapRef"]["name"]]["data"]


def _one_of(variable: Object) -> str:
    reference = variable["valueFrom"]["secretKeyRef"]
    assert reference["key"] in secrets()[reference["name"]]
    return str(variable["name"])


def queues(deployment: str) -> list[str]:
    args = container(deployment).get("args", [])
    return args[args.index("-Q") + 1].split(",") if "-Q" in args else []


def selected_by(labels: Object) -> list[str]:
    pods = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in of_kind("Deployment").items()}
    return [name for name, worn in pods.items() if labels.items() <= worn.items()]


def identified(each: Object) -> str:
    return f"{each['kind']} {each['metadata']['name']}"


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("each", [*applied(), *objects(KUBERNETES / "secrets.example.yaml")], ids=identified)
def test_kubernetes_knows_every_field(each: Object, version: str) -> None:
    kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_service_catalog_knows_every_field(kind: str) -> None:
    jsonschema.validate(catalog()[kind], SCHEMAS[kind])


def test_every_file_is_applied_or_is_the_template_or_belongs_to_service_catalog() -> None:
    files = {path.name for path in KUBERNETES.glob("*.yaml")}
    mine = {"secrets.yaml"}  # filled in by whoever deploys, and kept out of git
    assert files - mine == {*kustomization()["resources"], "kustomization.yaml", "secrets.example.yaml"}


def test_applying_everything_never_overwrites_a_secret() -> None:
    assert of_kind("Secret") == {}


def test_the_secrets_are_made_where_the_pods_are() -> None:
    made = objects(KUBERNETES / "secrets.example.yaml")
    assert {each["metadata"]["namespace"] for each in made if each["kind"] == "Secret"} == {
        kustomization()["namespace"]
    }
    (namespace,) = (each for each in made if each["kind"] == "Namespace")
    assert of_kind("Namespace") == {kustomization()["namespace"]: namespace}


def test_no_template_holds_a_secret() -> None:
    assert not any(value for template in secrets().values() for value in template.values())


def test_every_image_is_one_of_ours_and_gets_its_release_in_one_place() -> None:
    tagged = {image["name"] for image in kustomization()["images"] if image["newTag"]}
    assert {container(name)["image"] for name in of_kind("Deployment")} == tagged


@pytest.mark.parametrize("name", of_kind("Deployment"))
def test_a_pod_runs_confined(name: str) -> None:
    assert pod(name)["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(name)["automountServiceAccountToken"] is False
    assert [volume["name"] for volume in pod(name)["volumes"] if "emptyDir" in volume] == ["tmp"]
    assert container(name)["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]


@pytest.mark.parametrize("name", of_kind("Deployment"))
def test_no_service_puts_variables_of_its_own_into_a_pod(name: str) -> None:
    """Kubernetes would set FLOWER_PORT=tcp://…, and Flower would take it for its port."""
    assert pod(name)["enableServiceLinks"] is False


@pytest.mark.parametrize("name", of_kind("Deployment"))
def test_a_pod_says_what_it_needs_and_how_much_memory_it_may_take(name: str) -> None:
    resources = container(name)["resources"]
    assert resources["requests"].keys() == {"cpu", "memory"}
    assert resources["limits"].keys() == {"memory"}


@pytest.mark.parametrize("name", of_kind("Deployment"))
def test_a_pod_is_given_only_settings_of_the_broker(name: str) -> None:
    assert environment(name)
    assert environment(name) <= SETTINGS


@pytest.mark.parametrize("name", ["api", "flower"])
def test_only_workers_are_told_about_atlas(name: str) -> None:
    assert not environment(name) & ATLAS_SETTINGS


def test_flower_gets_no_more_than_it_shows() -> None:
    assert environment("flower") == {"BROKER_REDIS_URL", "BROKER_USERS"}


def test_nothing_that_is_secret_stands_in_the_config_map() -> None:
    (shared,) = of_kind("ConfigMap").values()
    assert not shared["data"].keys() & SECRET_SETTINGS


def test_each_queue_has_its_own_workers() -> None:
    by_deployment = {name: queues(name) for name in of_kind("Deployment") if queues(name)}
    assert by_deployment == {f"workers-{queue}": [queue] for queue in QUEUES}


@pytest.mark.parametrize("name", of_kind("Deployment"))
def test_a_process_starts_with_what_its_pod_is_given(name: str) -> None:
    (shared,) = of_kind("ConfigMap").values()
    values = shared["data"] | WORKING
    part: Part = "worker" if queues(name) else "api" if name == "api" else "flower"
    load({setting: values.get(setting, "") for setting in environment(name)}, part)


@pytest.mark.parametrize("part", ["api", "worker", "flower"])
def test_a_template_that_was_not_filled_in_stops_the_process(part: Part) -> None:
    empty = {name: value for template in secrets().values() for name, value in template.items()}
    with pytest.raises(SettingError, match=r"^BROKER_[A-Z_]+: "):
        load(empty, part)


def test_the_config_map_gives_the_defaults() -> None:
    (shared,) = of_kind("ConfigMap").values()
    config = Config(None, None)
    assert load(shared["data"] | WORKING, "api", config) == load(WORKING, "api", config)


@pytest.mark.parametrize("queue", sorted(QUEUES))
def test_a_worker_may_end_its_steps(queue: str) -> None:
    assert pod(f"workers-{queue}")["terminationGracePeriodSeconds"] == 60


@pytest.mark.parametrize("name", ["api", *(f"workers-{queue}" for queue in sorted(QUEUES))])
def test_api_and_workers_are_asked_whether_they_live_and_whether_they_are_ready(name: str) -> None:
    asked = {key: container(name)[key]["httpGet"] for key in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert [asked[key]["path"] for key in asked] == ["/live", "/live", "/ready"]
    assert {each["port"] for each in asked.values()} == {port["name"] for port in container(name)["ports"]}


@pytest.mark.parametrize("queue", sorted(QUEUES))
def test_a_roll_out_stops_at_the_first_worker_that_does_not_become_ready(queue: str) -> None:
    spec = of_kind("Deployment")[f"workers-{queue}"]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert spec["minReadySeconds"] > container(f"workers-{queue}")["readinessProbe"]["periodSeconds"]


def test_a_request_that_waits_for_its_job_outlives_the_order_to_stop() -> None:
    (shared,) = of_kind("ConfigMap").values()
    assert float(shared["data"]["BROKER_SYNC_WAIT_SECONDS"]) == load(WORKING, "api").sync_wait
    before = int(container("api")["lifecycle"]["preStop"]["exec"]["command"][1])
    assert before > 0
    assert pod("api")["terminationGracePeriodSeconds"] >= before + load(WORKING, "api").sync_wait + GRACE_SECONDS


@pytest.mark.parametrize("name", of_kind("Service"))
def test_a_service_has_addresses_of_every_family_that_the_cluster_has(name: str) -> None:
    assert of_kind("Service")[name]["spec"]["ipFamilyPolicy"] == "PreferDualStack"


@pytest.mark.parametrize("name", of_kind("Deployment"))
def test_no_process_is_told_to_listen_on_addresses_of_one_family(name: str) -> None:
    told = [*container(name).get("command", []), *container(name).get("args", [])]
    assert not [part for part in told if "0.0.0.0" in part or "127.0.0.1" in part]


@pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget", "NetworkPolicy"])
def test_what_selects_pods_selects_those_of_one_deployment(kind: str) -> None:
    for name, each in of_kind(kind).items():
        spec = each["spec"]
        labels = spec["podSelector"]["matchLabels"] if kind == "NetworkPolicy" else spec["selector"]
        assert selected_by(labels.get("matchLabels", labels)) == [name]


def test_the_pods_of_a_deployment_are_its_own() -> None:
    for name, each in of_kind("Deployment").items():
        assert selected_by(each["spec"]["selector"]["matchLabels"]) == [name]


def test_a_service_leads_to_a_port_that_the_container_names() -> None:
    for name, each in of_kind("Service").items():
        ports: list[dict[str, Any]] = each["spec"]["ports"]
        assert [port["targetPort"] for port in ports] == [port["name"] for port in container(name)["ports"]]


def test_the_autoscalers_have_the_api_and_the_two_busy_queues_and_the_only_say_there() -> None:
    targets = {each["spec"]["scaleTargetRef"]["name"] for each in of_kind("HorizontalPodAutoscaler").values()}
    assert targets == {"api", "workers-instances", "workers-bindings"}
    fixed = {name for name, each in of_kind("Deployment").items() if "replicas" in each["spec"]}
    assert fixed == of_kind("Deployment").keys() - targets


def test_every_deployment_that_serves_has_a_disruption_budget_that_lets_a_node_be_drained() -> None:
    budgets = of_kind("PodDisruptionBudget")
    assert budgets.keys() == of_kind("Deployment").keys() - {"flower"}
    for each in budgets.values():
        assert each["spec"]["maxUnavailable"] == 1
        assert each["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_only_pods_that_say_so_reach_flower_and_the_metrics_of_workers() -> None:
    policies = of_kind("NetworkPolicy")
    assert policies.keys() == of_kind("Deployment").keys() - {"api"}
    for name, policy in policies.items():
        (rule,) = policy["spec"]["ingress"]
        label = f"atlas-broker/may-see-{'flower' if name == 'flower' else 'metrics'}"
        assert rule["from"] == [{"podSelector": {"matchLabels": {label: "true"}}}]
        assert not any(selected_by(origin["podSelector"]["matchLabels"]) for origin in rule["from"])
        assert [port["port"] for port in rule["ports"]] == [port["containerPort"] for port in container(name)["ports"]]


def test_service_catalog_calls_the_api_with_a_user_of_its_own_secret() -> None:
    spec = catalog()["ClusterServiceBroker"]["spec"]
    reference = spec["authInfo"]["basic"]["secretRef"]
    assert spec["url"] == f"http://api.{kustomization()['namespace']}.svc.cluster.local"
    assert of_kind("Service")["api"]["spec"]["ports"][0]["port"] == 80
    assert reference["namespace"] == kustomization()["namespace"]
    assert secrets()[reference["name"]].keys() == {"username", "password"}


def test_the_sample_instance_asks_for_what_the_catalog_offers() -> None:
    broker, spec = Config(None, None).broker, catalog()["ServiceInstance"]["spec"]
    assert spec["clusterServiceClassExternalName"] == broker["name"]
    assert spec["clusterServicePlanExternalName"] in {plan["name"] for plan in broker["plans"]}
    assert Config.PARAMETER_CLUSTER in spec["parameters"]


def test_the_sample_binding_is_one_of_the_sample_instance() -> None:
    instance, binding = catalog()["ServiceInstance"], catalog()["ServiceBinding"]
    assert binding["spec"]["instanceRef"]["name"] == instance["metadata"]["name"]
    assert binding["metadata"]["namespace"] == instance["metadata"]["namespace"]
