"""Calls of the hooks of ``Config``: their arguments, and the effect of their errors on the operation."""

from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

import structlog

from broker_api.config import BindingView, Config, InstanceView, Permissions
from broker_api.errors import BadRequest, ErrClusterConfig
from broker_api.state.records import Binding, Instance
from workers.engine.results import FailedError

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def call_hook(name: str, hook: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a hook of the operator's ``Config``.

    Args:
        name: The name of the hook, for messages.
        hook: The hook.
        *args: Its arguments.
        **kwargs: Its keyword arguments.

    Returns:
        The result of the hook.

    Raises:
        FailedError: The hook raised an exception. The message names a missing parameter (KeyError). Of unknown errors
            only the type is logged, since the text may contain a secret.
    """
    try:
        return hook(*args, **kwargs)
    except BadRequest as error:
        raise FailedError(str(error), refused=True) from None
    except ErrClusterConfig as error:
        raise FailedError(str(error)) from None
    except KeyError as error:
        raise FailedError(f"The parameter {error} is missing: {name} of this broker needs it.", refused=True) from None
    except Exception as error:  # noqa: BLE001 - whatever an operator's code raises
        log.error("hook_failed", hook=name, error=type(error).__name__)  # noqa: TRY400 - the text may hold a secret
        sentence = f"The configuration of the broker failed in {name}; its operator finds the reason in the log."
        raise FailedError(sentence) from None


def instance_view(
    config: Config, instance: Instance | Binding, strings: Mapping[str, str] | None = None
) -> InstanceView:
    """Return the view of an instance that hooks get.

    Args:
        config: The operator's ``Config``.
        instance: The instance, or its binding when the instance of atlasbroker 2.0.0 does not exist any more.
        strings: The connection strings of the cluster; None for those that the instance has stored.
    """
    if strings is None:
        strings = instance.connection if isinstance(instance, Instance) else {}
    cluster = instance.cluster or instance.parameters.get(config.PARAMETER_CLUSTER) or ""
    return InstanceView(instance.instance_id, instance.parameters, cluster, instance.database, strings)


def binding_view(config: Config, binding: Binding, instance: Instance | Binding) -> BindingView:
    """Return the view of a stored binding that hooks get; the arguments are those of ``instance_view``."""
    return BindingView(binding.binding_id, instance_view(config, instance), binding.parameters, binding.auth)


def hook_username(config: Config, view: BindingView) -> str:
    """Return the name of a binding's user by the hook.

    Raises:
        FailedError: The hook failed, or its result is no text.
    """
    name: object = call_hook("generate_binding_username", config.generate_binding_username, view)
    if isinstance(name, str) and name:
        return name
    raise FailedError(
        "The broker's hook generate_binding_username returned no text. Ask the operator of this broker to correct its "
        "Config."
    )


def binding_roles(config: Config, view: BindingView) -> list[dict[str, str]]:
    """Return the roles of a binding's user by the hook, as the field ``roles`` of a binding holds them.

    Raises:
        FailedError: As in ``call_hook``.
    """

    def granted() -> list[dict[str, str]]:
        roles = config.generate_binding_permissions(view, Permissions()).roles
        return [
            {
                "name": each.name,
                "database": each.database,
                **({"collection": each.collection} if each.collection else {}),
            }
            for each in roles
        ]

    return call_hook("generate_binding_permissions", granted)
