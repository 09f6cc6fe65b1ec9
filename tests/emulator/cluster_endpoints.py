"""The endpoints about dedicated and flex clusters: made, changed and deleted in the time that `cluster_times` say.

The Java method of the status was never recorded; it is made up.
"""

from dataclasses import replace

from tests.emulator import bodies
from tests.emulator.cluster_rules import (
    CLUSTER_ATTRIBUTES,
    FLEX_ATTRIBUTES,
    change_common,
    change_dedicated,
    check_name,
    settle_flex,
)
from tests.emulator.errors import CODES, ApiError, refuse_if
from tests.emulator.model import Cluster, Json
from tests.emulator.request_bodies import parse, require, text
from tests.emulator.routing import GROUP, Asked, route

_CLUSTERS = GROUP + "/clusters"
_CLUSTER = _CLUSTERS + "/{clusterName}"
_FLEX_CLUSTERS = GROUP + "/flexClusters"
_FLEX = _FLEX_CLUSTERS + "/{clusterName}"
_CREATOR, _MANAGER = "GROUP_CLUSTER_CREATOR", "GROUP_CLUSTER_MANAGER"
_PROTECTED = "CANNOT_TERMINATE_CLUSTER_WHEN_TERMINATION_PROTECTION_ENABLED"


def _reading(method: str) -> dict[str, str]:
    return {
        "2023-02-01": f"ApiAtlasClusterDescriptionV15Resource::{method}",
        "2024-08-05": f"ApiAtlasClusterDescriptionResource20240805::{method}",
    }


def _flex(method: str) -> dict[str, str]:
    return {"2024-11-13": f"ApiAtlasFlexClusterResource::{method}"}


def _writing(method: str) -> dict[str, str]:
    return {**_reading(method), "2024-10-23": f"ApiAtlasClusterDescriptionResource20241023::{method}"}


@route(f"GET {_CLUSTERS}", "clusters", _reading("getAllClusters"))
def list_clusters(asked: Asked) -> Json:
    clusters = [bodies.cluster_body(asked.group, cluster, asked.root) for cluster in _clusters(asked, flex=False)]
    return asked.page(clusters, "&includeDeletedWithRetainedBackups=false")


@route(f"GET {_FLEX_CLUSTERS}", "project", _flex("getAllFlexClusters"))
def list_flex_clusters(asked: Asked) -> Json:
    return asked.page([bodies.flex_body(asked.group, cluster) for cluster in _clusters(asked, flex=True)])


def _clusters(asked: Asked, *, flex: bool) -> list[Cluster]:
    asked.advance()
    return [cluster for cluster in asked.group.clusters.values() if (cluster.kind == "flex") == flex]


@route(f"GET {_CLUSTER}", "clusters", _reading("getCluster"))
def get_cluster(asked: Asked) -> Json:
    asked.advance()
    return bodies.cluster_body(asked.group, _cluster(asked, flex=False), asked.root)


@route(f"GET {_FLEX}", "project", _flex("getFlexCluster"))
def get_flex_cluster(asked: Asked) -> Json:
    asked.advance()
    return bodies.flex_body(asked.group, _cluster(asked, flex=True))


@route(f"POST {_CLUSTERS}", "clusters", _writing("createCluster"), success=201, role=_CREATOR)
def create_cluster(asked: Asked) -> Json:
    body = parse(asked.request, CLUSTER_ATTRIBUTES)
    cluster = _new(asked, body, "dedicated")
    change_dedicated(cluster, body, new=True)
    _add(asked, cluster)
    return _without_tags(bodies.cluster_body(asked.group, cluster, asked.root))


@route(f"POST {_FLEX_CLUSTERS}", "project", _flex("createFlexCluster"), success=201, role=_CREATOR)
def create_flex_cluster(asked: Asked) -> Json:
    body = parse(asked.request, FLEX_ATTRIBUTES)
    cluster = _new(asked, body, "flex")
    settle_flex(cluster, body)
    _add(asked, cluster)
    return _without_tags(bodies.flex_body(asked.group, cluster))


def _new(asked: Asked, body: Json, kind: str) -> Cluster:
    asked.advance()
    require(body, ("name",))
    name = text(body, "name")
    check_name(asked.group, name)
    limit = asked.group.cluster_limit
    refuse_if(len(asked.group.clusters) >= limit, "CLUSTER_LIMIT_EXCEEDED", limit)
    cluster = Cluster(name, asked.atlas.new_clusters_mongod, kind=kind)
    change_common(cluster, body)
    return cluster


def _add(asked: Asked, cluster: Cluster) -> None:
    asked.changes += asked.atlas.add_cluster(asked.group, cluster)
    asked.atlas.begin(cluster, "CREATING", "IDLE")


def _without_tags(body: Json) -> Json:
    """The answer to a POST has none, whatever the cluster has."""
    return {name: value for name, value in body.items() if name != "tags"}


@route(f"PATCH {_CLUSTER}", "clusters", _writing("updateCluster"), role=_MANAGER)
def update_cluster(asked: Asked) -> Json:
    asked.advance()
    body = parse(asked.request, CLUSTER_ATTRIBUTES)
    cluster = _cluster(asked, flex=False)
    refuse_if(cluster.kind == "free", "TENANT_CLUSTER_UPDATE_UNSUPPORTED")
    paused = body.pop("paused", None)
    refuse_if(paused and body, "CANNOT_UPDATE_AND_PAUSE_CLUSTER", cluster.name)
    refuse_if(paused and cluster.paused, "CLUSTER_ALREADY_PAUSED")
    refuse_if(paused and cluster.state != "IDLE", "CANNOT_PAUSE_CLUSTER_WITH_PENDING_CHANGES")
    refuse_if(cluster.paused and paused is not False, "CANNOT_UPDATE_PAUSED_CLUSTER", cluster.name)
    changed = replace(cluster)  # so that a refusal leaves it as it was
    change_common(changed, body)
    change_dedicated(changed, body, new=False)
    changed.paused = cluster.paused if paused is None else bool(paused)
    _put(asked, cluster, changed)
    return bodies.cluster_body(asked.group, cluster, asked.root)


@route(f"PATCH {_FLEX}", "project", _flex("updateFlexCluster"), role=_MANAGER)
def update_flex_cluster(asked: Asked) -> Json:
    asked.advance()
    body = parse(asked.request, {"tags", "terminationProtectionEnabled"})
    cluster = _cluster(asked, flex=True)
    changed = replace(cluster)
    change_common(changed, body)
    _put(asked, cluster, changed)
    return bodies.flex_body(asked.group, cluster)


def _put(asked: Asked, cluster: Cluster, changed: Cluster) -> None:
    """Take over the changes; a cluster that is being created goes on with that."""
    refuse_if(cluster.state == "DELETING", "CLUSTER_ALREADY_REQUESTED_DELETION", cluster.name)
    vars(cluster).update(vars(changed))
    if cluster.state != "CREATING":
        asked.atlas.begin(cluster, "UPDATING", "IDLE")


@route(
    f"DELETE {_CLUSTER}",
    "clusters",
    {"2023-02-01": "ApiAtlasClusterDescriptionV15Resource::deleteCluster"},
    success=202,
)
def delete_cluster(asked: Asked) -> Json:
    asked.advance()
    cluster = _deletable(asked, flex=False)
    asked.atlas.begin(cluster, "DELETING", None)
    return {}


@route(f"DELETE {_FLEX}", "project", _flex("deleteFlexCluster"), success=204)
def delete_flex_cluster(asked: Asked) -> None:
    """The deletion may be lost, as it was seen: the cluster is IDLE again."""
    asked.advance()
    cluster = _deletable(asked, flex=True)
    lost = asked.atlas.lost_deletions > 0
    asked.atlas.lost_deletions -= lost
    asked.atlas.begin(cluster, "DELETING", "IDLE" if lost else None)


def _deletable(asked: Asked, *, flex: bool) -> Cluster:
    """Return the cluster, in whatever state it is; raise ApiError when it is protected, or being deleted."""
    cluster = _cluster(asked, flex=flex)
    if cluster.protected:
        detail = CODES[_PROTECTED][1]
        cause = f"Cannot terminate cluster {cluster.name} in group {asked.group.id} because termination protection is "
        raise ApiError(_PROTECTED, f"{cause}enabled. Disable termination protection and try again.", detail=detail)
    refuse_if(cluster.state == "DELETING", "CLUSTER_ALREADY_REQUESTED_DELETION", cluster.name)
    return cluster


@route(f"GET {_CLUSTER}/status", "clusters", "ApiAtlasClusterDescriptionResource::getStatus", locked=False)
def get_status(asked: Asked) -> Json:
    """Of any kind of cluster: Atlas's Kubernetes operator asks it for flex ones too."""
    with asked.atlas.lock:
        cluster = _any_cluster(asked)
    return {"changeStatus": asked.atlas.status(cluster)}


def _any_cluster(asked: Asked) -> Cluster:
    name = asked.names["clusterName"]
    refuse_if(name not in asked.group.clusters, "CLUSTER_NOT_FOUND", name, asked.group.id)
    return asked.group.clusters[name]


def _cluster(asked: Asked, *, flex: bool) -> Cluster:
    """Return the cluster; raise ApiError when the other API has its kind."""
    cluster = _any_cluster(asked)
    wrong = "CANNOT_USE_NON_FLEX_CLUSTER_IN_FLEX_API" if flex else "CANNOT_USE_FLEX_CLUSTER_IN_CLUSTER_API"
    refuse_if((cluster.kind == "flex") != flex, wrong, cluster.name)
    return cluster
