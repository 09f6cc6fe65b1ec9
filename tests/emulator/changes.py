"""How a change of a user travels: queued for each cluster it concerns, shown by the status, applied in the mongod."""

import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

from pymongo.errors import PyMongoError

from tests.emulator.model import Atlas, Change, Cluster, Json, Project, User
from tests.emulator.mongo import Mongod
from tests.emulator.waiting import Wait

TICK_SECONDS = 0.02

Work = tuple[Project, Cluster, Change]


class Deployment:
    """Carries changes to the mongods: in the request that makes them due, or in a thread when time does."""

    def __init__(self, atlas: Atlas) -> None:
        self._atlas = atlas
        self._mongods: dict[str, Mongod] = {}
        self._pool = ThreadPoolExecutor(4, "apply")

    def start(self) -> None:
        threading.Thread(target=self._run, name="deployment", daemon=True).start()

    def queue(self, project: Project, name: str, old: User | None, new: User | None) -> list[Work]:
        """Called with the lock held; what it gives is for `settle`.

        A mongod that several clusters share keeps a user whom any of them needs.
        """
        version = new.version if new else next(self._atlas.versions)
        work = []
        for cluster in project.clusters.values():
            if any(user and user.reaches(cluster.name) for user in (old, new)):
                sharing = [c.name for c in project.clusters.values() if c.mongo == cluster.mongo]
                stays = new and any(new.reaches(other) for other in sharing)
                change = self._enqueue(cluster, name, version, new if stays else None)
                work.append((project, cluster, change))
        return work

    def queue_all(self, project: Project, cluster: Cluster) -> None:
        """A cluster that has just come gets the users who were there before it. Called with the lock held."""
        for user in project.users.values():
            if user.reaches(cluster.name):
                self._enqueue(cluster, user.name, user.version, user)

    def _enqueue(self, cluster: Cluster, name: str, version: int, user: User | None) -> Change:
        policy = self._atlas.policy
        change = Change(name, version, user, Wait(policy.stale, time.time()), policy.applied)
        cluster.changes.append(change)
        return change

    def status(self, project: Project, cluster: Cluster) -> str:
        """One read of the cluster's status: it counts for changes that wait for reads, and applies what is due."""
        now = time.time()
        with self._atlas.lock:
            due = [change for change in cluster.changes if change.due(now)]
            waiting = [change for change in cluster.changes if change not in due]
            shown = [change for change in waiting if change.visible(now)]
            for change in waiting:
                change.count_read()
        applied = self._apply((project, cluster, change) for change in due)
        return "PENDING" if shown or not applied else "APPLIED"

    def settle(self, work: list[Work]) -> None:
        """Applies, and waits for, what of these changes is due at once."""
        now = time.time()
        with self._atlas.lock:
            due = [(project, cluster, change) for project, cluster, change in work if change.due(now)]
        self._apply(due)

    def force(self) -> None:
        """Applies all that is queued, whatever the policy says."""
        with self._atlas.lock:
            for cluster in self._atlas.clusters():
                for change in cluster.changes:
                    change.forced = True
        self._apply(self._due())

    def clear(self) -> None:
        """Drops every user that was made; changes still on their way come too late. A mongod may be gone by now."""
        version = next(self._atlas.versions)
        for mongod in self._mongods.values():
            with suppress(PyMongoError):
                mongod.clear(version)

    def _run(self) -> None:
        while True:
            time.sleep(TICK_SECONDS)
            self._expire()
            self._apply(self._due())

    def _due(self) -> list[Work]:
        now = time.time()
        with self._atlas.lock:
            return [
                (project, cluster, change)
                for project in self._atlas.projects.values()
                for cluster in project.clusters.values()
                for change in cluster.changes
                if change.forced or (not change.by_reads and change.due(now))
            ]

    def _expire(self) -> None:
        now = datetime.now(UTC)
        with self._atlas.lock:
            for project in self._atlas.projects.values():
                for key, user in list(project.users.items()):
                    if user.expires and user.expires <= now:
                        del project.users[key]
                        self.queue(project, user.name, user, None)

    def _apply(self, work: Iterable[Work]) -> bool:
        """Whether all of it is applied; what the mongod did not take stays queued."""
        return all(list(self._pool.map(self._apply_one, work)))

    def _apply_one(self, work: Work) -> bool:
        project, cluster, change = work
        with self._atlas.lock:
            mongod = self._mongod(cluster.mongo)
            roles: dict[str, Json] = dict(project.roles)
        try:
            mongod.apply(change.name, change.version, change.user, roles)
        except PyMongoError:
            return False
        with self._atlas.lock:
            if change in cluster.changes:
                cluster.changes.remove(change)
        return True

    def databases(self, cluster: Cluster) -> list[str]:
        """Those that are in the cluster's mongod now."""
        return self._mongod(cluster.mongo).databases()

    def _mongod(self, uri: str) -> Mongod:
        if uri not in self._mongods:
            self._mongods[uri] = Mongod(uri)
        return self._mongods[uri]
