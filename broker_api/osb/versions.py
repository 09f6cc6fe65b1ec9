"""Fields of answers that the version of the API which a request names does not have yet: they are left out.

A minor version only adds to the one before, but clients of an older one may refuse what they do not know, or fail to
decode it. Which version brought a field is read from the texts of spec.md, v2.13 to v2.17.
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
    """Return the minor version that the request names; the newest where it names none."""
    version: int = g.get("minor", NEWEST)
    return version


def known(body: JsonObject, since: Mapping[str, int], version: int | None = None) -> JsonObject:
    """Leave out the fields that the request's version does not have; ``since`` is one of the tables above."""
    version = minor() if version is None else version
    return {name: value for name, value in body.items() if since.get(name, 0) <= version}


def known_binding(body: JsonObject) -> JsonObject:
    """Leave them out of a binding."""
    metadata = {"metadata": known(body["metadata"], BINDING_METADATA)} if body.get("metadata") else {}
    return known(body | metadata, BINDING)


def known_catalog(document: JsonObject, version: int) -> JsonObject:
    """Leave them out of a catalog."""
    services = [known(service, SERVICE, version) for service in document["services"]]
    plans = [[known(plan, PLAN, version) for plan in service["plans"]] for service in services]
    return {"services": [service | {"plans": of_it} for service, of_it in zip(services, plans, strict=True)]}
