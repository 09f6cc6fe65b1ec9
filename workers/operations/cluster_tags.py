"""The tags of the clusters that the broker creates, by which it finds them again."""

from broker_api.naming import tag_value
from broker_api.state.records import Instance
from workers.atlas.client import Cluster
from workers.context import Context
from workers.operations.database_users import LABEL_BROKER, LABEL_INSTANCE, LABEL_OPERATION, labels


def cluster_tags(context: Context, instance: Instance) -> dict[str, str]:
    """Return the tags of a cluster that is created for an instance: broker, instance and operation."""
    tags = labels(context, instance) | {LABEL_OPERATION: instance.cluster_operation or ""}
    return {name: tag_value(value) for name, value in tags.items()}


def is_own(context: Context, cluster: Cluster, instance: Instance) -> bool:
    """Return whether a cluster is the one that the instance has settled to create, by all three tags.

    A cluster that an earlier instance of the same id has retained is not.
    """
    operation = tag_value(instance.cluster_operation or "")
    is_of = is_of_instance(context, cluster, instance.instance_id)
    return is_of and cluster.tags.get(LABEL_OPERATION) == operation


def is_of_broker(context: Context, cluster: Cluster) -> bool:
    """Return whether this broker has created the cluster, for any instance."""
    return cluster.tags.get(LABEL_BROKER) == tag_value(context.housekeeping.broker_id)


def is_of_instance(context: Context, cluster: Cluster, instance_id: str) -> bool:
    """Return whether this broker has created the cluster for this instance, in any of its operations.

    The answers to a creation and a change have no tags; a look at the cluster has them.
    """
    return is_of_broker(context, cluster) and cluster.tags.get(LABEL_INSTANCE) == tag_value(instance_id)
