"""Celery's variables in the environment, which the broker ignores; a warning names each of them."""

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
    """Return those of the names that are set."""
    return [name for name in names if environ.get(name)]


def warn(names: Iterable[str]) -> None:
    """Log one line for each variable, never its value."""
    for name in names:
        log.warning("variable_ignored", variable=name, instead="the broker's own settings, such as BROKER_REDIS_URL")
