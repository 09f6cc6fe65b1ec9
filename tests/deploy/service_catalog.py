"""What Service Catalog's v1beta1 types ask for, as far as our objects use them; no package carries its schemas."""

from typing import Any

Schema = dict[str, Any]

NAME: Schema = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"}


def closed(required: Schema, **optional: Schema) -> Schema:
    """Return the schema of an object without further fields."""
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


def _object(kind: str, metadata: Schema, spec: Schema) -> Schema:
    version = {"const": "servicecatalog.k8s.io/v1beta1"}
    return closed({"apiVersion": version, "kind": {"const": kind}, "metadata": metadata, "spec": spec})


_NAMESPACED = closed({"name": NAME, "namespace": NAME})
_BASIC = closed({"basic": closed({"secretRef": closed({"name": NAME, "namespace": NAME})})})

SCHEMAS = {
    "ClusterServiceBroker": _object(
        "ClusterServiceBroker",
        closed({"name": NAME}, labels={"type": "object", "additionalProperties": {"type": "string"}}),
        closed({"url": {"type": "string", "pattern": "^https?://"}, "authInfo": _BASIC}, caBundle={"type": "string"}),
    ),
    "ServiceInstance": _object(
        "ServiceInstance",
        _NAMESPACED,
        closed(
            {"clusterServiceClassExternalName": NAME, "clusterServicePlanExternalName": NAME},
            parameters={"type": "object"},
        ),
    ),
    "ServiceBinding": _object(
        "ServiceBinding",
        _NAMESPACED,
        closed({"instanceRef": closed({"name": NAME})}, secretName=NAME, parameters={"type": "object"}),
    ),
}
