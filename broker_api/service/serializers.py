"""Turns records into the JSON of the OSB API, with only the fields that are set."""

from datetime import datetime
from urllib.parse import quote

from broker_api.json_types import JsonObject
from broker_api.service.schemas import LastOperation
from broker_api.state.records import Binding, Instance, Kind, Phase, Resource, State

CLUSTER_POLL_SECONDS = 30
_RUNNING: dict[str, str] = {
    Kind.PROVISION: "Provisioning the instance.",
    Kind.UPDATE: "Updating the instance.",
    Kind.DEPROVISION: "Deprovisioning the instance.",
    Kind.BIND: "Making the binding.",
    Kind.UNBIND: "Removing the binding.",
}
_DONE: dict[str, str] = {Kind.PROVISION: "The instance is ready.", Kind.BIND: "The binding is ready."}


def dashboard(base_url: str, project: str | None, cluster: str | None) -> JsonObject:
    """Return the address of a cluster's page in the Atlas UI.

    Returns:
        ``{"dashboard_url": …}``, or ``{}`` if the project or the cluster is not known.
    """
    if not project or not cluster:
        return {}
    return {"dashboard_url": f"{base_url}/v2/{quote(project)}#/clusters/detail/{quote(cluster)}"}


def instance(found: Instance, about: JsonObject) -> JsonObject:
    """Return the body of a fetched instance (spec.md, "Fetching a Service Instance").

    Args:
        found: the instance.
        about: more fields of the body.
    """
    body: JsonObject = {"service_id": found.service_id, "plan_id": found.plan_id, "parameters": found.parameters}
    if found.maintenance_version:
        body["maintenance_info"] = {"version": found.maintenance_version}
    return body | about


def binding(found: Binding, credentials: JsonObject) -> JsonObject:
    """Return the body of a fetched binding, with its credentials (spec.md, "Fetching a Service Binding")."""
    body: JsonObject = {"credentials": credentials}
    if found.endpoints:
        body["endpoints"] = found.endpoints
    if found.expires and found.renew_before:
        body["metadata"] = {"expires_at": _moment(found.expires), "renew_before": _moment(found.renew_before)}
    return body


def _moment(when: datetime) -> str:
    """Return a time in UTC as ``yyyy-mm-ddThh:mm:ss.sZ``, the only form that the specification allows."""
    return f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 100000}Z"


def _retry_after(found: Resource, state: str, kind: str) -> int | None:
    """Return after how many seconds to poll again: while a dedicated cluster is being made or changed."""
    if state != State.IN_PROGRESS or kind not in (Kind.PROVISION, Kind.UPDATE) or not isinstance(found, Instance):
        return None
    return CLUSTER_POLL_SECONDS if (found.new_cluster or {}).get("kind") == "dedicated" else None


def last_operation(found: Resource, operation_id: str | None) -> LastOperation:
    """Return the state of an operation, or of the latest operation if this id is not known.

    ``instance_usable`` is set only for failed updates and deprovisions.
    """
    operation = found.known_operation(operation_id)
    # A state that only another release knows counts as running until a later poll.
    state = operation.state if operation.state in (*State,) else State.IN_PROGRESS
    sentences = _DONE if state == State.SUCCEEDED else _RUNNING
    description = operation.description or sentences.get(operation.kind)
    usable = None
    if state == State.FAILED and operation.kind in (Kind.UPDATE, Kind.DEPROVISION):
        usable = found.phase is Phase.READY
    return LastOperation(str(state), description, _retry_after(found, state, operation.kind), usable)
