"""The Helm chart, rendered in this process, and the values that it is tested with."""

from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

from tests.deploy.files import DOCKER, QUEUES, Object

CHART = DOCKER / "helm" / "atlas-broker"
RELEASE = "atlas-broker"
NAMESPACE = "databases"
DEFAULTS: Object = yaml.safe_load((CHART / "values.yaml").read_text())

EXISTING: Object = {
    "secrets": {"broker": {"existingSecret": "broker-secrets"}},
    "atlas": {"projectId": "000000000000000000000001", "existingSecret": "atlas-key"},
}
"""The least values: both Secrets exist."""

CREATED: Object = {
    "secrets": {
        "broker": {
            "data": {
                "BROKER_MONGO_URI": "mongodb://mongo.example/?replicaSet=rs0&secret-1",
                "BROKER_REDIS_URL": "redis://:secret-2@redis.example/0",
                "BROKER_USERS": "platform:secret-3",
                "BROKER_ENCRYPTION_KEYS": "secret-4",
            }
        }
    },
    "atlas": {
        "projectId": "000000000000000000000001",
        "credentials": "serviceAccount",
        "workerKeys": True,
        "data": {
            "MONGODB_ATLAS_CLIENT_ID": "secret-5",
            "MONGODB_ATLAS_CLIENT_SECRET": "secret-6",
            "BROKER_WORKER_KEYS": "secret-7",
        },
    },
    "monitoring": {"basicAuth": {"username": "ops", "password": "secret-8"}},
    "serviceCatalog": {"enabled": True, "username": "catalog", "password": "secret-9"},
}
"""The chart makes all Secrets, and each secret has a text that is nowhere else."""

KEDA = {"autoscaling": {"type": "keda", "oldestWaitingSeconds": 30}}

EVERYTHING: Object = EXISTING | {
    "commonLabels": {"team": "databases"},
    "image": {
        "registry": "registry.example/team",
        "tag": "3.0.1",
        "api": {"digest": f"sha256:{'a' * 64}"},
    },
    "imagePullSecrets": [{"name": "registry"}],
    "settings": {"BROKER_SYNC_WAIT_SECONDS": 20, "BROKER_LOG_LEVEL": "DEBUG", "BROKER_VERIFY_LOGIN": True},
    "config": {"object": "my_config:CustomConfig", "files": {"my_config.py": "class CustomConfig: ..."}},
    "api": {"tls": {"enabled": True, "existingSecret": "api-tls"}, "priorityClassName": "high"},
    "workers": dict.fromkeys(sorted(QUEUES), KEDA),
    "keda": {
        "redis": {
            "address": "redis.example:6379",
            "tls": True,
            "passwordSecret": {"name": "redis", "key": "password"},
            "usernameSecret": {"name": "redis", "key": "username"},
        },
        "prometheus": {"serverAddress": "http://prometheus.example:9090"},
    },
    "flower": {"enabled": True},
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
    "extraVolumes": [{"name": "authority", "configMap": {"name": "authority"}}],
    "extraVolumeMounts": [{"name": "authority", "mountPath": "/etc/authority"}],
    "ipFamilies": ["IPv6", "IPv4"],
    "ingress": {"enabled": True, "className": "nginx", "host": "broker.example", "tlsSecret": "ingress-tls"},
    "networkPolicy": {
        "platforms": [{"namespaceSelector": {}}],
        "mongodb": {"to": [{"ipBlock": {"cidr": "fd00::/8"}}], "ports": [27017]},
        "extraEgress": [{"ports": [{"port": 4318}]}],
    },
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "podMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
        "basicAuth": {"existingSecret": "prometheus"},
    },
    "serviceCatalog": {"enabled": True, "existingSecret": "catalog"},
}

MATRIX: dict[str, Object] = {
    "existing secrets": EXISTING,
    "created secrets": CREATED,
    "everything": EVERYTHING,
    "one Deployment of workers": EXISTING
    | {
        "fullnameOverride": "osb",
        "workers": {"layout": "all", "all": {"autoscaling": {"type": "none"}}},
        "api": {"autoscaling": {"type": "none"}, "service": {"type": "LoadBalancer", "port": 8443}},
        "serviceAccount": {"create": False},
    },
    "several projects, least rights": {
        "secrets": {
            "broker": {"existingSecret": "broker-secrets"},
            "connections": {"api": "api-urls", "workers": "worker-urls", "flower": "flower-urls"},
        },
        "atlas": {"credentials": "secretsFile", "existingSecret": "atlas-projects"},
        "config": {"object": "my_config:config", "existingConfigMap": "my-config"},
        "flower": {"enabled": True},
    },
    "sentinels, one family, no policies": EXISTING
    | {
        "nameOverride": "broker",
        "workers": {"layout": "all", "all": KEDA},
        "keda": {
            "redis": {"sentinels": "a.example:26379,b.example:26379", "sentinelMaster": "mymaster"},
            "prometheus": {"serverAddress": "http://prometheus.example:9090"},
        },
        "networkPolicy": {"enabled": False},
        "ipFamilyPolicy": "SingleStack",
    },
    "demo": {"demo": {"enabled": True}, "flower": {"enabled": True}},
}


@cache
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def texts(values: Object, release: str = RELEASE, namespace: str = NAMESPACE) -> dict[str, str]:
    """Return what Helm makes of each template, without empty ones."""
    made = chart().render(values, name=release, namespace=namespace)
    return {name.partition("/templates/")[2]: text for name, text in made.items() if text.strip()}


def render(values: Object, release: str = RELEASE, namespace: str = NAMESPACE) -> list[Object]:
    """Return the objects that Helm would make."""
    made = texts(values, release, namespace)
    documents = (yaml.load_all(text, Loader=yaml.CSafeLoader) for name, text in made.items() if name != "NOTES.txt")
    return [each for parsed in documents for each in parsed if each]


def merged(values: Object, change: Object) -> Object:
    """Return values as Helm merges them."""
    both = {key: merged(values[key], change[key]) for key in change if isinstance(values.get(key), dict)}
    return values | change | {key: each for key, each in both.items() if isinstance(change[key], dict)}


@cache
def scenario(name: str) -> "Rendered":
    return Rendered(render(MATRIX[name]))


class Rendered:
    """The objects of one release."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects

    def of_kind(self, kind: str) -> dict[str, Object]:
        """Return the objects of a kind by name."""
        return {each["metadata"]["name"]: each for each in self.objects if each["kind"] == kind}

    def pods(self) -> dict[str, Object]:
        """Return the templates of pods by the name of what makes them."""
        kinds = self.of_kind("Deployment") | self.of_kind("Job")
        return {name: each["spec"]["template"] for name, each in kinds.items()}

    def ours(self) -> dict[str, Object]:
        """Return the containers of the broker's processes, by the name of what makes them."""
        found = {name: pod["spec"]["containers"][0] for name, pod in self.pods().items()}
        return {name: container for name, container in found.items() if "atlas-broker-" in container["image"]}

    def selected_by(self, labels: dict[str, str]) -> list[str]:
        """Return what makes the pods that have these labels."""
        return [name for name, pod in self.pods().items() if labels.items() <= pod["metadata"]["labels"].items()]

    def queues(self) -> dict[str, list[str]]:
        """Return the queues of each worker."""
        found = {}
        for name, container in self.ours().items():
            for argument in container.get("args", []):
                if argument.startswith("--queues="):
                    found[name] = argument.removeprefix("--queues=").split(",")
        return found


def walk(value: object, *path: str | int) -> list[tuple[tuple[str | int, ...], Any]]:
    """Return each part of a document with its path, the whole document first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(path, value), *(found for key, each in items for found in walk(each, *path, key))]


def environment(made: Rendered, own: str, folder: Path, contents: dict[str, str]) -> dict[str, str]:
    """Return what a process finds in its pod.

    Args:
        made: The objects.
        own: What makes the pod.
        folder: Where the files of the mounted Secrets are written.
        contents: The content of each key of a Secret.
    """
    container, volumes = made.ours()[own], made.pods()[own]["spec"]["volumes"]
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    files = {volume["name"]: volume["projected"] for volume in volumes if "projected" in volume}
    environ: dict[str, str] = {}
    for source in container.get("envFrom", []):
        environ |= made.of_kind("ConfigMap")[source["configMapRef"]["name"]]["data"]
    for variable in container["env"]:
        path = Path(variable["value"])
        if str(path.parent) not in mounted:
            environ[variable["name"]] = variable["value"]
            continue
        projected = files[mounted[str(path.parent)]]
        (key,) = {
            item["key"]
            for source in projected["sources"]
            for item in source["secret"]["items"]
            if item["path"] == path.name
        }
        (folder / path.name).write_text(contents[key])
        environ[variable["name"]] = str(folder / path.name)
    return environ
