"""Loads the operator's own ``Config``, which BROKER_CONFIG names as ``module:object``."""

import importlib

from broker_api.config import Config
from broker_api.errors import SettingError


def load_config(reference: str) -> Config:
    """Return the ``Config`` that BROKER_CONFIG names.

    Args:
        reference: ``module:object``; the object is a ``Config``, or a function without arguments that returns one.

    Raises:
        SettingError: there is no such ``Config``, or the operator's code fails. The message repeats the text of an
            exception only if an import or a name is missing, since any other text may hold a secret.
    """
    wrong = f"BROKER_CONFIG: must be module:object, a Config or a function that returns one; {reference!r} is not"
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise SettingError(wrong)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise SettingError(f"{wrong} ({' '.join(str(error).split())})") from error
    except (Exception, SystemExit) as error:  # noqa: BLE001 - an operator's own code
        raise SettingError(f"{wrong}: importing it raises {type(error).__name__}") from None
    if isinstance(found, type) and issubclass(found, Config):
        raise SettingError(f"{wrong}: it is a class; name an object or a function without arguments")
    if callable(found) and not isinstance(found, Config):
        try:
            found = found()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - an operator's own code
            raise SettingError(f"{wrong}: it raises {type(error).__name__}") from None
    if not isinstance(found, Config):
        raise SettingError(wrong)
    return found
