"""Calling an operator's hooks: what they raise fails the operation with a sentence that holds no secret."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import structlog

from broker_api.errors import BadRequest, ErrClusterConfig
from workers.engine.results import FailedError

log = structlog.get_logger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def called(name: str, hook: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a hook and return what it returns.

    Raises:
        FailedError: the hook raised. A missing parameter is named; of other errors only the type is logged, since the
            text may hold a secret.
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
