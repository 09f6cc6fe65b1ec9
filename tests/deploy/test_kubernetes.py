"""The plain objects for Kustomize: those of the Helm chart, with settings and Secrets that fit them."""

from functools import cache

import jsonschema
import pytest

from broker_api.config import Config
from broker_api.errors import SettingError
from broker_api.settings.settings import load
from tests.deploy.chart import Rendered
from tests.deploy.files import KUBERNETES, SECRET_SETTINGS, SETTINGS, WORKING, Object, objects
from tests.deploy.kubernetes_schemas import NEWEST, errors
from tests.deploy.kustomize_base import FILES, generated
from tests.deploy.service_catalog import SCHEMAS


@cache
def kustomization() -> Object:
    (document,) = objects(KUBERNETES / "kustomization.yaml")
    return document


@cache
def applied() -> Rendered:
    """What `kubectl apply -k` makes, without the settings."""
    return Rendered([each for name in kustomization()["resources"] for each in objects(KUBERNETES / name)])


@cache
def template() -> Rendered:
    return Rendered(objects(KUBERNETES / "secrets.example.yaml"))


@cache
def settings() -> dict[str, str]:
    lines = (KUBERNETES / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


@cache
def catalog() -> dict[str, Object]:
    files = sorted((KUBERNETES / "service-catalog").glob("*.yaml"))
    return {each["kind"]: each for file in files for each in objects(file)}


@pytest.mark.parametrize("file", FILES.values())
def test_the_objects_are_those_of_the_chart(file: str) -> None:
    """After a change of the chart: python -m tests.deploy.kustomize_base."""
    assert (KUBERNETES / file).read_text() == generated()[file]


def test_every_file_is_applied_or_is_the_template_or_belongs_to_service_catalog() -> None:
    files = {path.name for path in KUBERNETES.glob("*.yaml")}
    mine = {"secrets.yaml"}  # filled in by whoever deploys, and kept out of git
    assert files - mine == {*kustomization()["resources"], "kustomization.yaml", "secrets.example.yaml"}


def test_applying_everything_never_overwrites_a_secret() -> None:
    assert applied().of_kind("Secret") == {}


def test_the_template_is_valid_holds_no_secret_and_is_for_the_namespace_of_the_pods() -> None:
    assert [problem for each in template().objects for problem in errors(each, NEWEST)] == []
    namespace = kustomization()["namespace"]
    for each in template().of_kind("Secret").values():
        assert each["metadata"]["namespace"] == namespace
        assert not any(each["stringData"].values())
    assert template().of_kind("Namespace") == applied().of_kind("Namespace")
    assert {each["metadata"].get("namespace", namespace) for each in applied().objects} == {namespace}


def test_the_secrets_and_settings_that_pods_name_are_made_here_and_no_others() -> None:
    (generator,) = kustomization()["configMapGenerator"]
    named: dict[str, set[str]] = {}
    for pod in applied().pods().values():
        for volume in pod["spec"]["volumes"]:
            for source in volume.get("projected", {}).get("sources", []):
                named.setdefault(source["secret"]["name"], set()).update(i["key"] for i in source["secret"]["items"])
        for container in pod["spec"]["containers"]:
            assert [each["configMapRef"]["name"] for each in container.get("envFrom", [])] in ([], [generator["name"]])
    made = {name: {*each["stringData"]} for name, each in template().of_kind("Secret").items()}
    catalog_user = catalog()["ClusterServiceBroker"]["spec"]["authInfo"]["basic"]["secretRef"]["name"]
    assert made == named | {catalog_user: {"username", "password"}}


def test_every_image_gets_its_release_in_one_place() -> None:
    tagged = {f"{image['name']}:{image['newTag']}" for image in kustomization()["images"]}
    assert {container["image"] for container in applied().ours().values()} == tagged


def test_the_settings_are_those_of_the_broker_and_none_is_secret() -> None:
    assert settings().keys() <= SETTINGS - (SECRET_SETTINGS - {"MONGODB_ATLAS_PROJECT_ID"})
    config = Config(None, None)
    made = load(settings() | {name: WORKING[name] for name in WORKING if name not in settings()}, "worker", config)
    assert made.processes == int(settings()["BROKER_API_PROCESSES"])


def test_a_template_that_was_not_filled_in_stops_the_process() -> None:
    empty = {
        name: value for each in template().of_kind("Secret").values() for name, value in each["stringData"].items()
    }
    for part in ("api", "worker", "flower"):
        with pytest.raises(SettingError, match=r"^BROKER_[A-Z_]+: "):
            load(empty, part)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_service_catalog_knows_every_field(kind: str) -> None:
    jsonschema.validate(catalog()[kind], SCHEMAS[kind])


def test_the_sample_instance_asks_for_what_the_catalog_offers() -> None:
    broker, spec = Config(None, None).broker, catalog()["ServiceInstance"]["spec"]
    assert spec["clusterServiceClassExternalName"] == broker["name"]
    assert spec["clusterServicePlanExternalName"] in {plan["name"] for plan in broker["plans"]}
    assert Config.PARAMETER_CLUSTER in spec["parameters"]


def test_the_sample_binding_is_one_of_the_sample_instance() -> None:
    instance, binding = catalog()["ServiceInstance"], catalog()["ServiceBinding"]
    assert binding["spec"]["instanceRef"]["name"] == instance["metadata"]["name"]
    assert binding["metadata"]["namespace"] == instance["metadata"]["namespace"]
