"""Logs: one JSON object a line, a fixed event with key-values; each request and each job binds its ids once."""

import json
import logging
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import structlog

from broker_api.errors import SettingError

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
"""The values of BROKER_LOG_LEVEL."""

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

    def msg(self, message: str) -> None:
        """Write a line. One that cannot be written, for example to a full disk, is lost; the caller goes on."""
        with suppress(OSError):
            super().msg(message)

    debug = info = warning = error = critical = msg


def level(environ: Mapping[str, str]) -> int:
    """Return the level that BROKER_LOG_LEVEL names.

    This is no field of ``Settings``, since a ``Config`` of the operator may log while the settings are read.

    Args:
        environ: The environment variables.

    Raises:
        SettingError: It names none.
    """
    name = environ.get("BROKER_LOG_LEVEL", "").strip().upper() or "INFO"
    if name not in LEVELS:
        raise SettingError(f"BROKER_LOG_LEVEL: must be {', '.join(LEVELS[:-1])} or {LEVELS[-1]}")
    return logging.getLevelNamesMapping()[name]


def configure(chosen: int | None = None) -> None:
    """Write the logs of the broker and of its libraries to standard error in one form; each command calls it once.

    Args:
        chosen: The level; None for that of BROKER_LOG_LEVEL. Libraries log nothing below INFO, since they would log
            messages and documents.

    Raises:
        SettingError: BROKER_LOG_LEVEL names no level.
    """
    lowest = level(os.environ) if chosen is None else chosen
    render = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*_SHARED, render],
        logger_factory=_Lines,
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        cache_logger_on_first_use=True,
    )
    of_libraries = logging.StreamHandler(sys.stderr)
    processors: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, render]
    of_libraries.setFormatter(structlog.stdlib.ProcessorFormatter(processors=processors, foreign_pre_chain=_SHARED))
    root = logging.getLogger()
    root.handlers = [of_libraries]
    root.setLevel(max(lowest, logging.INFO))
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda ended: _log_uncaught(ended.exc_type, ended.exc_value, ended.exc_traceback)


def _log_uncaught(
    kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None, _: object = None
) -> None:
    """Log an exception that ends the process or a thread."""
    if not issubclass(kind, KeyboardInterrupt | SystemExit):
        logging.getLogger(__name__).critical("uncaught", exc_info=(kind, error or kind(), traceback))


def write_from_signal_handler(event: str, reason: str) -> None:
    """Write a line from a handler of a signal, which may have interrupted another line.

    Args:
        event: The event.
        reason: What the signal does.
    """
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    line = {"event": event, "reason": reason, "level": "info", "logger": __name__, "timestamp": now}
    with suppress(OSError):
        os.write(sys.stderr.fileno(), (json.dumps(line) + "\n").encode())
