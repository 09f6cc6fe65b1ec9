"""Reads the files of secrets again when they change, so that new secrets are in force without a restart."""

import threading
from collections.abc import Callable, Mapping

import structlog

from broker_api.config import Config
from broker_api.errors import ErrStorageMongoConnection, SettingError
from broker_api.settings.secret_files import fingerprint
from broker_api.settings.settings import SECRETS, Part, Settings, load

FILE_CHECK_SECONDS = 1.0
REPLACEABLE = ("users", "encryption_keys", "worker_keys")
"""The settings that parts of a process take while it runs, beside the credentials of the projects."""
FIXED = ("mongo_uri", "redis")
"""The settings in files that a process needs a restart for: connections are made with them."""

log = structlog.get_logger(__name__)


class SecretWatch:
    """Looks at the files once a second, in a thread of its own.

    A change counts when a second look finds the same contents, since a file may be read while it is being written.

    Args:
        environ: The environment variables.
        part: The kind of process.
        settings: The settings that the process has begun with.
        config: The ``Config`` that the settings were loaded with; None for that of the environment.
        use: Takes new settings. It may raise ``SettingError`` to refuse them, and
            ``ErrStorageMongoConnection`` to be called again.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        part: Part,
        settings: Settings,
        config: Config | None,
        use: Callable[[Settings], None],
    ) -> None:
        self._environ, self._part, self._current, self._use = environ, part, settings, use
        self._config = settings.config if environ.get("BROKER_CONFIG") else config
        self._read: dict[str, str] | None = None
        self._seen: dict[str, str] = {}

    def start(self) -> None:
        """Start the thread, if there are files."""
        if fingerprint(self._environ, SECRETS):
            threading.Thread(target=self._run, name="secrets", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(FILE_CHECK_SECONDS):
            try:
                self.look()
            except Exception:
                log.exception("secrets_watch_failed")

    def look(self) -> None:
        """Look at the files once, and use what has changed."""
        seen, self._seen = self._seen, fingerprint(self._environ, SECRETS)
        if self._seen == self._read or self._seen != seen:
            return
        try:
            new = load(self._environ, self._part, self._config)
            if fingerprint(self._environ, SECRETS) != self._seen:
                return
            before, after = ({each.project_id: each for each in made.projects} for made in (self._current, new))
            changed, fixed = self._changed(new, REPLACEABLE), self._changed(new, FIXED)
            if any(before[name] != after[name] for name in before.keys() & after.keys()):
                changed.append("projects")
            if before.keys() != after.keys():
                fixed.append("projects")
            if changed:
                self._use(new)
                log.info("secrets_replaced", settings=changed)
            if fixed:
                log.warning("restart_needed", settings=fixed)
            self._current, problem = new, ""
        except SettingError as error:
            problem = str(error)
        except ErrStorageMongoConnection:  # MongoDB cannot be asked; the next look tries again
            return
        if problem:
            log.error("secrets_not_replaced", reason=problem)
        self._read = self._seen

    def _changed(self, new: Settings, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if getattr(new, name) != getattr(self._current, name)]
