"""Logs: one JSON object a line, a fixed event with key-values; each request and each job binds its ids once."""

import logging
import sys
from typing import Any

import structlog

_SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]


class _Lines(structlog.WriteLogger):
    """Writes the broker's own lines, without a detour through ``logging``, which takes three times as long."""

    def __init__(self, name: str = "") -> None:
        super().__init__(sys.stderr)
        self.name = name


def configure(level: int = logging.INFO) -> None:
    """Write the logs of the broker and of its libraries to standard error in one form; each command calls it once."""
    render = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*_SHARED, render],
        logger_factory=_Lines,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    of_libraries = logging.StreamHandler(sys.stderr)
    processors: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, render]
    of_libraries.setFormatter(structlog.stdlib.ProcessorFormatter(processors=processors, foreign_pre_chain=_SHARED))
    root = logging.getLogger()
    root.handlers = [of_libraries]
    root.setLevel(level)
