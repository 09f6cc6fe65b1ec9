"""The schemas of what the chart makes: those of Kubernetes from a package, those of others as far as we use them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tests.deploy.files import Object
from tests.deploy.service_catalog import SCHEMAS, closed

FOLDER = Path(kubernetes_validate.__file__).with_name("kubernetes-json-schema")
NEWEST: str = kubernetes_validate.latest_version()

TEXT: Object = {"type": "string", "minLength": 1}
NUMERAL: Object = {"type": "string", "pattern": "^[0-9]+$"}
LABELS: Object = {"type": "object", "additionalProperties": {"type": "string"}}
METADATA = closed({"name": TEXT, "namespace": TEXT, "labels": LABELS})
SELECTOR = closed({"matchLabels": LABELS}, matchExpressions={"type": "array"})
KEY = closed({"name": TEXT, "key": TEXT})


def _custom(group: str, kind: str, spec: Object) -> Object:
    return closed({"apiVersion": {"const": group}, "kind": {"const": kind}, "metadata": METADATA, "spec": spec})


def _list(of: Object) -> Object:
    return {"type": "array", "items": of, "minItems": 1}


def _trigger(kind: str, required: Object, **optional: Object) -> Object:
    return closed(
        {"type": {"const": kind}, "metadata": closed(required)},
        metricType={"enum": ["Utilization", "Value", "AverageValue"]},
        **optional,
    )


_REDIS = {
    "databaseIndex": NUMERAL,
    "enableTLS": {"enum": ["true", "false"]},
    "listName": TEXT,
    "listLength": NUMERAL,
}
_LOGIN = {"authenticationRef": closed({"name": TEXT})}
_RULE = closed({"alert": TEXT, "expr": TEXT, "labels": LABELS, "annotations": LABELS}, **{"for": TEXT})

CUSTOM = {
    "ServiceMonitor": _custom(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        closed(
            {
                "selector": SELECTOR,
                "endpoints": _list(
                    closed(
                        {
                            "port": TEXT,
                            "scheme": {"enum": ["http", "https"]},
                            "path": TEXT,
                            "interval": TEXT,
                            "basicAuth": closed({"username": KEY, "password": KEY}),
                        },
                        tlsConfig={"type": "object"},
                    )
                ),
            }
        ),
    ),
    "PodMonitor": _custom(
        "monitoring.coreos.com/v1",
        "PodMonitor",
        closed({"selector": SELECTOR, "podMetricsEndpoints": _list(closed({"port": TEXT, "interval": TEXT}))}),
    ),
    "PrometheusRule": _custom(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        closed({"groups": _list(closed({"name": TEXT, "rules": _list(_RULE)}))}),
    ),
    "ScaledObject": _custom(
        "keda.sh/v1alpha1",
        "ScaledObject",
        closed(
            {
                "scaleTargetRef": closed({"name": TEXT}),
                "minReplicaCount": {"type": "integer", "minimum": 1},
                "maxReplicaCount": {"type": "integer", "minimum": 1},
                "triggers": _list(
                    {
                        "oneOf": [
                            _trigger("cpu", {"value": NUMERAL}),
                            _trigger("redis", {"address": TEXT, **_REDIS}, **_LOGIN),
                            _trigger("redis-sentinel", {"addresses": TEXT, "sentinelMaster": TEXT, **_REDIS}, **_LOGIN),
                            _trigger("prometheus", {"serverAddress": TEXT, "query": TEXT, "threshold": NUMERAL}),
                        ]
                    }
                ),
            }
        ),
    ),
    "TriggerAuthentication": _custom(
        "keda.sh/v1alpha1",
        "TriggerAuthentication",
        closed(
            {
                "secretTargetRef": _list(
                    closed({"parameter": {"enum": ["username", "password"]}, "name": TEXT, "key": TEXT})
                )
            }
        ),
    ),
    "ClusterServiceBroker": SCHEMAS["ClusterServiceBroker"],
}
"""What the documentation of the Prometheus Operator, KEDA and Service Catalog asks for, of the fields that we use."""


def errors(each: Object, version: str) -> list[str]:
    """Return what a release of Kubernetes, or the owner of its kind, would not accept of an object."""
    validator = _validator(each["kind"], each["apiVersion"], version)
    return [f"{each['kind']}{error.json_path[1:]}: {error.message}" for error in validator.iter_errors(each)]


@cache
def _validator(kind: str, api_version: str, version: str) -> Draft202012Validator:
    if kind in CUSTOM:
        return Draft202012Validator(CUSTOM[kind])
    group, _, revision = api_version.rpartition("/")
    name = "-".join(filter(None, [kind.lower(), group.partition(".")[0], revision]))
    return Draft202012Validator(_read(version, name), registry=_definitions(version))


@cache
def _definitions(version: str) -> Registry[Any]:
    return Resource.from_contents(_read(version, "_definitions")) @ Registry()


def _read(version: str, name: str) -> Object:
    (folder,) = FOLDER.glob(f"v{version}*-local-strict")
    schema: Object = json.loads((folder / f"{name}.json").read_text())
    return schema
