"""The change of an instance's own cluster by an update, and the way back when the update fails."""

from typing import Any

from broker_api.catalog.cluster_plans import IMMUTABLE, UPWARDS, chosen, shrinks
from broker_api.state.records import Instance
from workers.atlas.client import Cluster
from workers.atlas.models import ClusterChanges
from workers.engine.results import FailedError, Later
from workers.operations.atlas_job import AtlasJob
from workers.operations.own_cluster import (
    NO_ROOM,
    cluster_values,
    is_own_cluster,
    look,
    look_again,
    no_room,
    not_own,
    wait_for_turn,
)


def requested_changes(before: Instance, after: Instance) -> dict[str, Any]:
    """Return the values that an update changes, by the names of their parameters."""
    if not before.new_cluster or not after.new_cluster:
        return {}
    old, new = (chosen(each.new_cluster or {}, each.parameters) for each in (before, after))
    return {name: value for name, value in new.items() if old.get(name) != value and name not in IMMUTABLE}


def idle_cluster(job: AtlasJob[Instance]) -> Cluster | Later[Any]:
    """Return the instance's cluster, or a delay while Atlas works on it.

    Raises:
        FailedError: It does not exist any more, or is not this instance's.
    """
    if wait := wait_for_turn(job):
        return wait
    cluster = look(job)
    if cluster is None:
        raise FailedError(f"The cluster {job.cluster} does not exist any more.")
    if not is_own_cluster(job, cluster):
        raise not_own(job)
    return cluster if cluster.state == "IDLE" else look_again(job, cluster.state)


def request(job: AtlasJob[Instance], cluster: Cluster, changes: dict[str, Any]) -> bool:
    """Request those of the changes that the cluster does not have yet.

    Returns:
        Whether there were any.

    Raises:
        FailedError: A value would shrink that can only grow, or Atlas has no room for the change.
    """
    actual = _values_of(cluster)
    left = {name: value for name, value in changes.items() if actual[name] != value}
    for name in UPWARDS:
        if shrinks(name, actual[name], left.get(name)):
            raise FailedError(
                f"{name} of the cluster {cluster.name} can only grow; it is {actual[name]}.", refused=True
            )
    if not left:
        return False
    try:
        job.atlas.update_cluster(cluster, **_as_changes(left))
    except NO_ROOM as error:
        raise no_room(job, error) from None
    return True


def take_back(job: AtlasJob[Instance], changes: dict[str, Any]) -> None:
    """Request the values from before the update, but for those that can only grow."""
    cluster = look(job)
    if cluster is None or not is_own_cluster(job, cluster):
        return
    before = cluster_values(job)
    made = {name for name, value in _values_of(cluster).items() if name in changes and changes[name] == value}
    request(job, cluster, {name: before[name] for name in made if name in before and name not in UPWARDS})


def _values_of(cluster: Cluster) -> dict[str, Any]:
    return {
        "tier": cluster.tier,
        "disk_size_gb": cluster.disk_size_gb,
        "mongodb_version": cluster.major_version,
        "backup": cluster.backup,
        "termination_protection": cluster.termination_protection,
    }


def _as_changes(values: dict[str, Any]) -> ClusterChanges:
    return {
        "tier": values.get("tier"),
        "disk_size_gb": values.get("disk_size_gb"),
        "major_version": values.get("mongodb_version"),
        "backup": values.get("backup"),
        "termination_protection": values.get("termination_protection"),
    }
