"""The state of the emulated Atlas, and how a change of a user travels from the Admin API to the mongods."""

import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

from tests.emulator.authority import UserAuthority
from tests.emulator.model import Change, Cluster, Delay, Json, Login, Policy, Project, User, Wait

TICK_SECONDS = 0.05
AWAY_SECONDS = 0.5
USER_NOT_FOUND = 11
ROLE_EXISTS = 51002
USER_EXISTS = 51003

_READ = ["find", "collStats", "dbHash", "killCursors", "listIndexes"]
_WRITE = ["insert", "update", "remove", "createCollection", "createIndex", "dropCollection", "dropIndex"]
_COLLECTION_ACTIONS = {"read": _READ, "readWrite": _READ + _WRITE}


class Atlas:
    """All state in memory. Whoever reads or changes it holds `lock`, and never talks to a mongod meanwhile.

    Changes are queued for each cluster that they concern, shown by its status, and applied in its mongod: in the
    request that makes them due, or in a thread when time does. `hidden_databases` exist, but monitoring has not seen
    them yet. `cluster_times` say how long clusters are in CREATING, UPDATING and DELETING, by kind and state; those
    that calls make run on the mongod `new_clusters_mongod`. `lost_deletions` is how many more flex clusters return to
    IDLE although their DELETE was accepted. An entry of an access list is PENDING for `access_delay`; of two writes to
    one list within `access_gap` seconds, one is lost.
    """

    def __init__(self, authority: UserAuthority | None = None) -> None:
        self.policy = Policy()
        self.cluster_times: dict[tuple[str, str], Delay] = {}
        self.lost_deletions = 0
        self.access_delay = Delay()
        self.access_gap: float = 0
        self.projects: dict[str, Project] = {}
        self.authority = authority or UserAuthority()
        self.hidden_databases: frozenset[str] = frozenset()
        self.new_clusters_mongod = ""
        self.lock = threading.RLock()
        self.versions = count(1)
        self._mongods: dict[str, Mongod] = {}
        self._pool = ThreadPoolExecutor(4, "apply")

    def start(self) -> None:
        threading.Thread(target=self._run, name="deployment", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(TICK_SECONDS)
            now = datetime.now(UTC)
            with self.lock:
                for project in self.projects.values():
                    for key, user in list(project.users.items()):
                        date = user.attributes.get("deleteAfterDate")
                        if date and datetime.fromisoformat(date) <= now:
                            del project.users[key]
                            self.queue(project, user, None)
            self._apply_due()

    def queue(self, project: Project, old: User | None, new: User | None) -> list[Change]:
        """Return the changes for `settle`. To be called with the lock held.

        A mongod that several clusters share keeps a user whom any of them needs.
        """
        version = new.version if new else next(self.versions)
        login = (new or old).login  # type: ignore[union-attr]  # one of them there is
        changes = []
        for cluster in project.clusters.values():
            if any(user and user.reaches(cluster.name) for user in (old, new)):
                sharing = [c.name for c in project.clusters.values() if c.mongo == cluster.mongo]
                stays = new and any(new.reaches(other) for other in sharing)
                changes.append(self._enqueue(project, cluster, login, version, new if stays else None))
        return changes

    def add_cluster(self, project: Project, cluster: Cluster) -> list[Change]:
        """Add a cluster, which gets the users who were there before it. To be called with the lock held."""
        project.clusters[cluster.name] = cluster
        users = [user for user in project.users.values() if user.reaches(cluster.name)]
        return [self._enqueue(project, cluster, user.login, user.version, user) for user in users]

    def advance(self, project: Project) -> list[Change]:
        """Count one read of the project's clusters. To be called with the lock held.

        Return the changes for `settle`: the users who reached no other cluster of a mongod leave it with the cluster.
        """
        changes: list[Change] = []
        for gone in project.advance(time.time()):
            sharing = [cluster.name for cluster in project.clusters.values() if cluster.mongo == gone.mongo]
            kept = {user.login for user in project.users.values() if any(user.reaches(name) for name in sharing)}
            here = {user.login for user in project.users.values() if user.reaches(gone.name)}
            leaving = (here | {change.login for change in gone.changes}) - kept
            changes += [self._enqueue(project, gone, login, next(self.versions), None) for login in leaving]
        for change in changes:
            change.forced = True
        return changes

    def begin(self, cluster: Cluster, state: str, then: str | None) -> None:
        """Let a cluster be in a state for as long as `cluster_times` say. To be called with the lock held."""
        cluster.begin(state, self.cluster_times.get((cluster.kind, state), Delay()), then)

    def _enqueue(self, project: Project, cluster: Cluster, login: Login, version: int, user: User | None) -> Change:
        stale = Wait(self.policy.stale, time.time())
        change = Change(project, cluster, login, version, user, stale, self.policy.applied)
        cluster.changes.append(change)
        return change

    def status(self, cluster: Cluster) -> str:
        """Return what a read of the status shows. It counts for changes that wait for reads, and applies those due."""
        now = time.time()
        with self.lock:
            due = [change for change in cluster.changes if change.due(now)]
            waiting = [change for change in cluster.changes if change not in due]
            shown = [change for change in waiting if change.visible(now)]
            for change in waiting:
                (change.applying or change.stale).reads += 1
        applied = self._apply(due)
        return "PENDING" if shown or not applied else "APPLIED"

    def settle(self, changes: list[Change]) -> None:
        """Apply, and wait for, those of these changes that are due at once."""
        now = time.time()
        with self.lock:
            due = [change for change in changes if change.due(now)]
        self._apply(due)

    def force(self) -> None:
        """Apply all that is queued, whatever the policy says."""
        with self.lock:
            for change in self._changes():
                change.forced = True
        self._apply_due()

    def clear(self) -> None:
        """Drop every user that was made; changes still on their way come too late. A mongod may be gone by now."""
        version = next(self.versions)
        for mongod in self._mongods.values():
            with suppress(PyMongoError):
                mongod.clear(version)

    def _changes(self) -> list[Change]:
        clusters = [cluster for project in self.projects.values() for cluster in project.clusters.values()]
        return [change for cluster in clusters for change in cluster.changes]

    def _apply_due(self) -> None:
        now = time.time()
        with self.lock:
            due = [change for change in self._changes() if change.due(now, in_read=False)]
        self._apply(due)

    def _apply(self, changes: Iterable[Change]) -> bool:
        """Return whether all are applied; what the mongod did not take stays queued."""
        return all(list(self._pool.map(self._apply_one, changes)))

    def _apply_one(self, change: Change) -> bool:
        with self.lock:
            mongod = self.mongod(change.cluster.mongo)
            roles = dict(change.project.roles)
        try:
            mongod.apply(change.login, change.version, change.user, roles)
        except PyMongoError:
            return False
        with self.lock:
            if change in change.cluster.changes:
                change.cluster.changes.remove(change)
        return True

    def mongod(self, uri: str) -> "Mongod":
        if uri not in self._mongods:
            self._mongods[uri] = Mongod(uri)
        return self._mongods[uri]


class Mongod:
    """A real server with access control on. A version of a user is applied at most once, never after a later one."""

    def __init__(self, uri: str) -> None:
        self._client: MongoClient[Json] = MongoClient(
            uri, connect=False, serverSelectionTimeoutMS=500, connectTimeoutMS=500, socketTimeoutMS=5000
        )
        self._versions: dict[Login, int] = {}
        self._locks = [threading.Lock() for _ in range(64)]
        self._floor = 0
        self._ready = False
        self._away_until = 0.0

    def apply(self, login: Login, version: int, user: User | None, custom: dict[str, Json]) -> None:
        """Raise PyMongoError when the mongod cannot be reached or refuses; then nothing counts as applied.

        One that could not be reached is left alone for a moment, so that it does not hold up the others.
        """
        if time.monotonic() < self._away_until:
            raise ConnectionFailure("away a moment ago")
        with self._locks[hash(login) % len(self._locks)]:
            if self._versions.get(login, self._floor) >= version:
                return
            self._versions.setdefault(login, self._floor)  # so that `clear` knows of a user who is just being made
            try:
                if user is None:
                    self._drop(login)
                elif user.password is not None or user.has_certificates:  # no mongod here can ask AWS, LDAP and so on
                    self._put(user, custom)
            except ConnectionFailure:
                self._away_until = time.monotonic() + AWAY_SECONDS
                raise
            self._versions[login] = version

    def databases(self) -> list[str]:
        return list(self._client.list_database_names())

    def clear(self, version: int) -> None:
        """Drop every user that was made here; no change up to this version is applied any more."""
        self._floor = version
        logins, self._versions = list(self._versions), {}
        for login in logins:
            with self._locks[hash(login) % len(self._locks)]:
                self._drop(login)

    def _drop(self, login: Login) -> None:
        try:
            self._client[login[0]].command("dropUser", login[1])
        except OperationFailure as error:
            if error.code != USER_NOT_FOUND:
                raise

    def _put(self, user: User, custom: dict[str, Json]) -> None:
        if not self._ready:
            # The fewest hash rounds that mongod allows: a hundred users are to be made, not to be kept safe.
            self._client.admin.command("setParameter", 1, scramSHA256IterationCount=5000)
            self._ready = True
        roles = [self._role(role, custom) for role in user.attributes["roles"]]
        scram = {"pwd": user.password, "mechanisms": ["SCRAM-SHA-256"]} if user.password is not None else {}
        self._create_or_update("User", user.login, {"roles": roles, **scram})

    def _create_or_update(self, kind: str, named: tuple[str, str], settings: Json) -> None:
        database, name = self._client[named[0]], named[1]
        try:
            database.command(f"create{kind}", name, **settings)
        except OperationFailure as error:
            if error.code not in (USER_EXISTS, ROLE_EXISTS):
                raise
            database.command(f"update{kind}", name, **settings)

    def _role(self, role: Json, custom: dict[str, Json]) -> Json:
        """Return the role in MongoDB's form; one that MongoDB does not have is made first."""
        name, database, collection = role["roleName"], role["databaseName"], role.get("collectionName")
        if name in custom:
            privileges = [
                {"resource": _resource(resource), "actions": [_action(action["action"])]}
                for action in custom[name]["actions"]
                for resource in action["resources"]
            ]
            inherited = [{"role": one["role"], "db": one["db"]} for one in custom[name]["inheritedRoles"]]
        elif collection:
            resource = {"db": database, "collection": collection}
            privileges, inherited = [{"resource": resource, "actions": _COLLECTION_ACTIONS[name]}], []
            name = f"{name} {database}.{collection}"
        else:
            return {"role": "root", "db": "admin"} if name == "atlasAdmin" else {"role": name, "db": database}
        self._create_or_update("Role", ("admin", name), {"privileges": privileges, "roles": inherited})
        return {"role": name, "db": "admin"}


def _resource(resource: Json) -> Json:
    if resource.get("cluster"):
        return {"cluster": True}
    return {"db": resource.get("db", ""), "collection": resource.get("collection", "")}


def _action(name: str) -> str:
    """Atlas writes COLL_MOD where MongoDB writes collMod."""
    first, *rest = name.lower().split("_")
    return first + "".join(part.capitalize() for part in rest)
