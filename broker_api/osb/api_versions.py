"""The fields of answers in each minor version of the API. An answer has only the fields of the request's version.

A minor version only adds to the previous one, but older clients may refuse unknown fields, or fail to decode them. The
tables name the minor version that introduced each field (spec.md, v2.13 to v2.17).
"""

from collections.abc import Mapping
from typing import Final

from flask import g

from broker_api.json_types import JsonObject

NEWEST: Final = 17

SERVICE: Final = {"instances_retrievable": 14, "bindings_retrievable": 14, "allow_context_updates": 15}
PLAN: Final = {"plan_updateable": 15, "maximum_polling_duration": 15, "maintenance_info": 15, "binding_rotatable": 17}
INSTANCE: Final = {"maintenance_info": 17}
UPDATE: Final = {"dashboard_url": 14}
BINDING: Final = {"endpoints": 15, "metadata": 16}
BINDING_METADATA: Final = {"renew_before": 17}
LAST_OPERATION: Final = {"instance_usable": 16, "update_repeatable": 16}
ERROR: Final = {"instance_usable": 16, "update_repeatable": 16}
RETRY_AFTER: Final = 15


def minor() -> int:
    """Return the minor version of the API in the request; the newest one if the request has none."""
    version: int = g.get("minor", NEWEST)
    return version


def known(body: JsonObject, since: Mapping[str, int], version: int | None = None) -> JsonObject:
    """Return the fields of ``body`` that a version of the API has.

    Args:
        body: the whole answer, or an object in it.
        since: the table above for this object.
        version: the minor version; None for that of the request.
    """
    version = g.get("minor", NEWEST) if version is None else version
    return {name: value for name, value in body.items() if since.get(name, 0) <= version}


def known_binding(body: JsonObject) -> JsonObject:
    """Return the fields of a binding that the request's version of the API has."""
    metadata = {"metadata": known(body["metadata"], BINDING_METADATA)} if body.get("metadata") else {}
    return known(body | metadata, BINDING)


def known_catalog(document: JsonObject, version: int) -> JsonObject:
    """Return the services and plans of a catalog with the fields that a version of the API has.

    Args:
        document: the whole catalog.
        version: the minor version.
    """
    services = [known(service, SERVICE, version) for service in document["services"]]
    for service in services:
        service["plans"] = [known(plan, PLAN, version) for plan in service["plans"]]
    return {"services": services}
