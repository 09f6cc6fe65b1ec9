"""The probes of a worker, `/live` and `/ready`, which are served beside its metrics on BROKER_METRICS_PORT.

`/live` fails only when a restart helps: a loop of this process stands still, or the process does not answer. It does
not look at Redis, MongoDB and Atlas, whose outage would restart all workers. `/ready` tells whether the worker can
work, so that a roll-out with a wrong key or address stops at its first worker. The answers name no project, since they
need no password.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import structlog

from broker_api.errors import ErrStorageMongoConnection
from broker_api.json_types import JsonObject
from workers.atlas.client import AtlasError, ProjectNotFound, Unauthorized
from workers.context import AtlasProject, Context
from workers.engine.results import HeldBackError
from workers.engine.sweeper import Sweeper
from workers.guard.guard import Guard
from workers.transport import Activity, Consumer

CONSUMER_SECONDS = 60.0
"""How long the loop of the consumer may stand still; it turns each second, also while it connects to Redis."""
SWEEPER_SECONDS = 300.0
"""The same for the sweeper, whose rounds may wait for MongoDB."""
QUERIES_OF_A_ROUND = 10
"""So many queries may run into their time limit in one round of the sweeper."""
LONGEST_RETRY_SECONDS = 30.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Parts:
    """What the probes of a started worker look at."""

    context: Context
    consumer: Consumer
    sweeper: Sweeper


class Probes:
    """Answers the probes of this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Create them.

        Args:
            clock: Returns the monotonic time in seconds.
        """
        self.parts: Parts | None = None
        """None until the worker has started, which needs Redis."""
        self._clock = clock
        self._created_at = clock()

    def live(self) -> tuple[bool, JsonObject]:
        """Return whether the loops of this process turn, and the body of the answer."""
        if self.parts and self.parts.context.stopping.is_set():
            return True, {"status": True}
        now = self._clock()
        stuck = [
            f"The {name} has not moved for {now - turned_at:.0f} s."
            for name, turned_at, longest in self._loops()
            if now - turned_at > longest
        ]
        return not stuck, {"status": False, "description": " ".join(stuck)} if stuck else {"status": True}

    def _loops(self) -> Iterator[tuple[str, float, float]]:
        """Yield each loop with the time of its last turn, and for how many seconds it may stand still."""
        yield "consumer", max(Activity.turned_at, self._created_at), CONSUMER_SECONDS
        if self.parts:
            query_seconds = self.parts.context.settings.mongo_timeout_ms / 1000
            yield "sweeper", self.parts.sweeper.turned_at, SWEEPER_SECONDS + QUERIES_OF_A_ROUND * query_seconds

    def ready(self) -> tuple[bool, JsonObject]:
        """Return whether this worker can work, and the body of the answer: "ok", or a sentence for each part."""
        if self.parts is None:
            return False, {"status": "not ready", "consumer": "it connects to Redis"}
        if self.parts.context.stopping.is_set():
            return False, {"status": "stopping"}
        found: dict[str, str] = {
            "consumer": "ok" if self.parts.consumer.consumed_queues() else "it receives no jobs from Redis",
            "atlas": trouble_with_credentials(self.parts.context.projects.values()) or "ok",
        }
        try:
            found["encryption_keys"] = self.parts.context.keys.report()
        except ErrStorageMongoConnection as error:
            found["mongodb"] = error.reason
        is_ready = set(found.values()) == {"ok"}
        return is_ready, {"status": "ready" if is_ready else "not ready", **found}


def trouble_with_credentials(projects: Collection[AtlasProject]) -> str | None:
    """Return a sentence when Atlas refuses the credentials of a project, or has not accepted them yet."""
    if refused := sum(project.breaker.key_refused for project in projects):
        return f"Atlas refuses the credentials of {refused} of {len(projects)} projects"
    if untried := sum(not project.breaker.has_succeeded for project in projects):
        return f"Atlas has not yet accepted the credentials of {untried} of {len(projects)} projects"
    return None


def try_credentials(context: Context) -> None:
    """Ask Atlas for each project, in a background thread, until it has accepted the credentials of this worker."""

    def run() -> None:
        pause, untried, refused = 0.0, list(context.projects.values()), set[str]()
        while untried and not context.stopping.wait(pause):
            for project in untried:
                if (reason := _refusal(project)) and project.client.project_id not in refused:
                    refused.add(project.client.project_id)
                    log.error("credentials_refused", project=project.client.project_id, reason=reason)
            untried = [project for project in untried if not project.breaker.has_succeeded]
            pause = min(LONGEST_RETRY_SECONDS, 1.0 + 2 * pause)

    threading.Thread(target=run, name="credentials", daemon=True).start()


def _refusal(project: AtlasProject) -> str | None:
    """Try the credentials of a project; return the reason when Atlas refuses them or does not have the project.

    This call passes an open circuit breaker, which wrong credentials of other workers may have opened.
    """
    guard = Guard(project.breaker, project.limiter, probes={project.breaker.project})
    try:
        project.client.guarded(guard).project()
    except (Unauthorized, ProjectNotFound) as error:
        return str(error)
    except (AtlasError, HeldBackError, ErrStorageMongoConnection):
        pass
    return None
