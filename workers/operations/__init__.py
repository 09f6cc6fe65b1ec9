"""The operations: provision, update, deprovision, bind, unbind. Each file declares its steps first, in order."""

from typing import Any

from broker_api.state.records import Kind
from workers.engine.definition import Definition
from workers.operations.bind import BIND
from workers.operations.deprovision import DEPROVISION
from workers.operations.provision import PROVISION
from workers.operations.unbind import UNBIND
from workers.operations.update import UPDATE

DEFINITIONS: dict[str, Definition[Any]] = {
    Kind.PROVISION: PROVISION,
    Kind.UPDATE: UPDATE,
    Kind.DEPROVISION: DEPROVISION,
    Kind.BIND: BIND,
    Kind.UNBIND: UNBIND,
}
