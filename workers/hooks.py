"""Calling an operator's hooks: whatever they raise fails the operation with a sentence, and tells no secret."""

from collections.abc import Callable
from typing import TypeVar

import structlog

from broker_api.errors import BadRequest, ErrClusterConfig
from workers.outcome import FailedError

log = structlog.get_logger(__name__)

T = TypeVar("T")


def called(name: str, hook: Callable[[], T]) -> T:
    """Call a hook.

    Raises:
        FailedError: the hook raised. A missing parameter is named; other reasons are the operator's, and only their
            kind is logged, since the text may hold a secret.
    """
    try:
        return hook()
    except BadRequest as error:
        raise FailedError(str(error), refused=True) from None
    except ErrClusterConfig as error:
        raise FailedError(str(error)) from None
    except KeyError as error:
        raise FailedError(f"The parameter {error} is missing: {name} of this broker needs it.", refused=True) from None
    except Exception as error:  # noqa: BLE001 - whatever an operator's code raises
        log.error("hook failed", hook=name, error=type(error).__name__)  # noqa: TRY400 - the text may hold a secret
        sentence = f"The broker's own configuration failed in {name}; its operator finds the reason in the log."
        raise FailedError(sentence) from None
