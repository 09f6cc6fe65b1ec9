"""The part of ``maintenance.reconcile`` about clusters. It only reports: a cluster costs money, but may hold data.

The broker terminates a cluster only in the operations of the instance for which it has created the cluster.
"""

from dataclasses import dataclass

import structlog

from broker_api.state.records import HOLDS_NOTHING, Instance, Phase
from workers.atlas.client import AtlasClient, Cluster
from workers.context import Context
from workers.operations.cluster_tags import is_of_broker

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ClusterDrift:
    """Clusters with this broker's tags that no instance has, and instances whose cluster Atlas does not have."""

    clusters: list[Cluster]
    instances: list[Instance]

    @property
    def numbers(self) -> dict[str, int]:
        """How many there are, for the result."""
        return {"clusters": len(self.clusters), "instances": len(self.instances)}

    @property
    def differences(self) -> list[dict[str, str]]:
        """Each of them, for operators."""
        clusters = [{"cluster_without_instance": cluster.name} for cluster in self.clusters]
        return clusters + [{"instance_without_cluster": instance.instance_id} for instance in self.instances]


def compare_clusters(context: Context, client: AtlasClient) -> ClusterDrift:
    """Return the differences between the clusters of a project and its instances; log each of them.

    A cluster that is being deleted is no difference. A cluster that ``policy-on-delete: retain`` has left is one.

    Raises:
        AtlasError, HeldBackError: Atlas cannot be asked.
    """
    project = client.project_id
    before = context.store.instances_of_project(project)
    clusters = client.clusters()
    after = context.store.instances_of_project(project)  # with those whose cluster has just been created
    used = {each.cluster for each in after if each.operation.open or each.phase not in HOLDS_NOTHING}
    present = {cluster.name for cluster in clusters}
    staying = [cluster for cluster in clusters if cluster.state != "DELETING"]
    ready = [each for each in before if each.phase is Phase.READY and not each.operation.open]
    drift = ClusterDrift(
        [each for each in staying if is_of_broker(context, each) and each.name not in used],
        [each for each in ready if each.cluster not in present and each in after],
    )
    for cluster in drift.clusters:
        log.warning("cluster_without_instance", project=project, cluster=cluster.name, tags=cluster.tags)
    for instance in drift.instances:
        ids = {"instance_id": instance.instance_id, "cluster": instance.cluster}
        log.warning("instance_without_cluster", project=project, **ids)
    return drift
