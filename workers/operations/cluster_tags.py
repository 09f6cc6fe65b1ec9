"""The tags of the clusters that the broker creates, by which it finds them again."""

from broker_api.naming import tag_value
from broker_api.state.records import Instance
from workers.atlas.client import Cluster
from workers.context import Context
from workers.operations.database_users import LABEL_BROKER, LABEL_INSTANCE, labels


def cluster_tags(context: Context, instance: Instance) -> dict[str, str]:
    """Return the tags of a cluster that is created for an instance: broker, instance and operation."""
    return {name: tag_value(value) for name, value in labels(context, instance).items()}


def is_of_broker(context: Context, cluster: Cluster) -> bool:
    """Return whether this broker has created the cluster, for any instance."""
    return cluster.tags.get(LABEL_BROKER) == tag_value(context.housekeeping.broker_id)


def is_of_instance(context: Context, cluster: Cluster, instance_id: str) -> bool:
    """Return whether this broker has created the cluster for this instance, in any of its operations.

    The answers to a creation and a change have no tags; a look at the cluster has them.
    """
    return is_of_broker(context, cluster) and cluster.tags.get(LABEL_INSTANCE) == tag_value(instance_id)
