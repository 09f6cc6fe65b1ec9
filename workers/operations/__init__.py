"""The operations: provision, update, deprovision, bind, unbind. Each file declares the steps of one, in order.

Instances with a cluster of their own have a provision and a deprovision of their own.
"""

from functools import partial
from typing import Any

from broker_api.state.records import Kind
from workers.context import Context
from workers.engine.definition import Definition
from workers.engine.runner import Runner
from workers.operations.atlas_job import OWN_CLUSTER_DEFINITION, AtlasJob
from workers.operations.bind import BIND
from workers.operations.deprovision import DEPROVISION
from workers.operations.deprovision_cluster import DEPROVISION_CLUSTER
from workers.operations.provision import PROVISION
from workers.operations.provision_cluster import PROVISION_CLUSTER
from workers.operations.unbind import UNBIND
from workers.operations.update import UPDATE

DEFINITIONS: dict[str, Definition[Any]] = {
    Kind.PROVISION: PROVISION,
    OWN_CLUSTER_DEFINITION.format(Kind.PROVISION): PROVISION_CLUSTER,
    OWN_CLUSTER_DEFINITION.format(Kind.DEPROVISION): DEPROVISION_CLUSTER,
    Kind.UPDATE: UPDATE,
    Kind.DEPROVISION: DEPROVISION,
    Kind.BIND: BIND,
    Kind.UNBIND: UNBIND,
}


def compose_runner(context: Context) -> Runner:
    """Return the runner of all kinds of operations, with the parts of one worker."""
    return Runner(
        context.claims,
        context.leases,
        context.keys,
        definitions=DEFINITIONS,
        new_job=partial(AtlasJob, context),
        stopping=context.stopping,
    )
