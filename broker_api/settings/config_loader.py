"""BROKER_CONFIG: the operator's own ``Config``, named as ``module:object``."""

import importlib

from broker_api.config import Config
from broker_api.errors import SettingError


def load_config(reference: str) -> Config:
    """Return the ``Config`` that BROKER_CONFIG names; a function is called for it.

    Raises:
        SettingError: there is none, or the operator's own code fails. Text of its exception may hold a secret, and
            is repeated only where an import or a name is missing.
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
