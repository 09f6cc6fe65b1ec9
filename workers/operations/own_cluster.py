"""The cluster that an operation creates, changes or terminates for its instance: looks at it, requests, sentences."""

from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal

import structlog

from broker_api.catalog.cluster_plans import with_defaults
from broker_api.state.fields import InstanceFields
from broker_api.state.records import Instance, State
from workers.atlas.client import (
    Cluster,
    ClusterLimitReached,
    ClusterNotFound,
    ClusterProtected,
    NewCluster,
    OutOfCapacity,
    PaymentRequired,
    Refused,
)
from workers.engine.results import ANSWERED, FailedError, Later
from workers.operations.atlas_job import LATE_EFFECT_LOOK_SECONDS, AtlasJob
from workers.operations.cluster_tags import cluster_tags, is_own

NO_ROOM = (ClusterLimitReached, PaymentRequired, OutOfCapacity)
"""The errors of Atlas that another tier, region or an administrator can help against."""
SEEN = InstanceFields(unseen_until=None)
"""The change once Atlas shows the cluster."""
_DOING = {"CREATING": "creating", "UPDATING": "changing", "DELETING": "deleting", "REPAIRING": "repairing"}

log = structlog.get_logger(__name__)


def kind_of(instance: Instance) -> Literal["dedicated", "flex"]:
    """Return the kind of an instance's own cluster."""
    return "flex" if (instance.new_cluster or {}).get("kind") == "flex" else "dedicated"


def look(job: AtlasJob[Instance]) -> Cluster | None:
    """Return the cluster of that name as Atlas has it now, also one of others; None when there is none."""
    try:
        return job.atlas.cluster(job.cluster, kind_of(job.record))
    except ClusterNotFound:
        return None


def is_own_cluster(job: AtlasJob[Instance], cluster: Cluster) -> bool:
    """Return whether the broker has created a cluster for this instance."""
    return is_own(job.context, cluster, job.record)


def wait_for_turn(job: AtlasJob[Instance]) -> Later[Any] | None:
    """Take the turn to look at the cluster; return a delay when it has been looked at within the interval."""
    seconds = job.context.cluster_polls.take(job.project, job.cluster, kind_of(job.record))
    return Later(seconds, job.operation.description or f"Waiting for the cluster {job.cluster}.") if seconds else None


def look_again(job: AtlasJob[Instance], state: str) -> Later[Any]:
    """Return the delay until the next look, with a sentence: what Atlas does, and how long the operation takes so far.

    Args:
        job: The operation.
        state: Atlas's name of the cluster's state.
    """
    kind, values = kind_of(job.record), cluster_values(job)
    size = "Flex" if kind == "flex" else f"tier {values['tier']}"
    doing = _DOING.get(state, "preparing")
    since = _duration(job.context.store.now() - job.operation.accepted)
    sentence = (
        f"Atlas is {doing} the cluster {job.cluster} ({size}, {values['provider']} {values['region']}), for {since}."
    )
    return Later(job.context.cluster_polls.seconds[kind], sentence, operation=ANSWERED)


def new_cluster(job: AtlasJob[Instance]) -> NewCluster:
    """Return the cluster to create, with its name and operation as they are stored."""
    values = cluster_values(job)
    return NewCluster(
        name=job.cluster,
        kind=kind_of(job.record),
        provider=values["provider"],
        region=values["region"] or "",
        tags=cluster_tags(job.context, job.record),
        termination_protection=values["termination_protection"],
        tier=values.get("tier"),
        disk_size_gb=values.get("disk_size_gb"),
        major_version=values.get("mongodb_version"),
        backup=values.get("backup"),
    )


def no_room(job: AtlasJob[Instance], error: Refused) -> FailedError:
    """Return the error for a cluster that Atlas does not allow now, as a sentence for users."""
    where = f"the cluster {job.cluster} in the Atlas project {job.project}"
    if isinstance(error, OutOfCapacity):
        advice = "Atlas has no capacity for it there now: choose another region or tier, or try again later"
    elif isinstance(error, PaymentRequired):
        advice = "the Atlas organization has no valid means of payment: its owner must add one"
    else:
        advice = "Atlas allows no more clusters: remove one that is not needed, or ask MongoDB's support for more"
    return FailedError(f"Atlas refuses {where} ({error.code}): {advice}.")


def terminate(job: AtlasJob[Instance], *, was_ready: bool) -> Later[Any] | None:
    """Terminate the instance's cluster and wait until Atlas does not have it any more.

    Atlas may lose an accepted deletion of a Flex cluster, so it is requested until the cluster is gone. A cluster that
    the broker has not created for this instance is left as it is.

    Returns:
        A delay; None when there is no such cluster.

    Raises:
        FailedError: It has been ready, and it is not tagged as this instance's any more, or it is protected, or the
            deadline of the operation passed before the request.
        AtlasError: Atlas cannot be asked, or refuses.
    """
    if job.record.cluster_operation is None:  # no creation has been requested
        return None
    if wait := wait_for_turn(job):
        return wait
    cluster = look(job)
    if cluster is None:
        return may_appear(job)
    if not is_own_cluster(job, cluster):
        if was_ready:
            raise not_own(job)
        log.warning("cluster_not_terminated", cluster=job.cluster, reason="it was not created for this instance")
        return may_appear(job)
    try:
        if cluster.state != "DELETING":
            _request_termination(job, cluster, was_ready=was_ready)
    except ClusterNotFound:
        return may_appear(job)
    return replace(look_again(job, "DELETING"), changes=SEEN)


def may_appear(job: AtlasJob[Instance]) -> Later[Any] | None:
    """Return a delay while a cluster whose creation was requested may still appear in Atlas, else None."""
    until = job.record.unseen_until
    if until is not None and until > job.context.store.now():
        return Later(LATE_EFFECT_LOOK_SECONDS, f"Waiting in case Atlas shows the cluster {job.cluster} late.")
    return job.wait_for_late_effect()


def _request_termination(job: AtlasJob[Instance], cluster: Cluster, *, was_ready: bool) -> None:
    if was_ready and job.operation.state is not State.IN_PROGRESS:  # the platform has read that it failed
        raise FailedError("The deadline has passed: the cluster is not terminated any more.")
    try:
        job.atlas.delete_cluster(job.cluster, cluster.kind)
        log.info("cluster_terminated", cluster=job.cluster, project=job.project)
    except ClusterProtected:
        if was_ready:
            raise protected(job) from None
        job.atlas.update_cluster(cluster, termination_protection=False)


def protected(job: AtlasJob[Instance]) -> FailedError:
    """Return the error for a cluster with termination protection."""
    return FailedError(
        f"The termination protection of the cluster {job.cluster} is on. Turn it off first: update the instance with "
        "termination_protection false, or turn it off in Atlas. Then delete the instance again."
    )


def not_own(job: AtlasJob[Instance]) -> FailedError:
    """Return the error for a cluster of this name that the broker has not created for this instance."""
    return FailedError(
        f"The Atlas project {job.project} has a cluster {job.cluster} that is not tagged as this instance's, so it was "
        "left as it is. Look at it in Atlas."
    )


def cluster_values(job: AtlasJob[Instance]) -> dict[str, Any]:
    """Return the values of the parameters of the instance's own cluster, chosen or by default."""
    new_cluster = job.record.new_cluster or {"kind": kind_of(job.record)}
    return with_defaults(new_cluster, job.record.parameters, job.config.CLUSTER_TIERS)


def _duration(time: timedelta) -> str:
    seconds = round(time.total_seconds())
    hours, minutes = divmod(seconds // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{seconds} s"
