"""Environment variables of Celery that the broker ignores; a warning in the log names each of them."""

from collections.abc import Iterable, Mapping

import structlog

CELERY_VARIABLES = (
    "BROKER_URL",
    "CELERY_BROKER",
    "CELERY_BROKER_URL",
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_WRITE_URL",
    "RESULT_BACKEND",
    "CELERY_RESULT_BACKEND",
    "LOADER",
    "CELERY_LOADER",
    "CONFIG_MODULE",
    "CELERY_CONFIG",
    "CELERY_CONFIG_MODULE",
)
"""Variables that Celery or its command line reads as the broker, the result backend or the configuration."""

log = structlog.get_logger(__name__)


def ignored(environ: Mapping[str, str], names: Iterable[str] = CELERY_VARIABLES) -> list[str]:
    """Return the names of the variables that are set.

    Args:
        environ: the environment variables.
        names: the variables to look for.
    """
    return [name for name in names if environ.get(name)]


def warn(names: Iterable[str]) -> None:
    """Log a warning for each variable, without its value, which may be a secret."""
    for name in names:
        log.warning("variable_ignored", variable=name, instead="the broker's own settings, such as BROKER_REDIS_URL")
