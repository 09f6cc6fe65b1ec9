"""The part of the control API that makes projects, clusters, custom roles and keys, and shows users."""

import time

from tests.emulator.digest import Credential
from tests.emulator.model import KINDS, STATES, Cluster, Json, Project, User
from tests.emulator.waiting import Delay, Wait
from tests.emulator.world import World

_CHANGEABLE = {"kind", "state", "paused", "connection_strings", "mongo", "cluster_type", "processes"}


class Projects:
    def __init__(self, world: World) -> None:
        self._world = world
        self._atlas = world.atlas

    def put(self, body: Json, project: str) -> None:
        """`name`, `user_limit`, `access_list`; those not given stay."""
        with self._atlas.lock:
            found = self._atlas.projects.setdefault(project, Project(project, project))
            for name in body.keys() & {"name", "user_limit", "access_list"}:
                setattr(found, name, body[name])

    def delete(self, _: Json, project: str) -> None:
        with self._atlas.lock:
            del self._atlas.projects[project]

    def put_key(self, body: Json, name: str) -> None:
        self._world.digest.keys[name] = _credential(name, body)

    def put_account(self, body: Json, name: str) -> None:
        self._world.oauth.accounts[name] = _credential(name, body)

    def put_role(self, body: Json, project: str, name: str) -> None:
        """A custom role in Atlas's form; `actions` and `inheritedRoles` may be left out."""
        role = {"actions": [], "inheritedRoles": [], **body, "roleName": name}
        with self._atlas.lock:
            self._atlas.projects[project].roles[name] = role

    def put_cluster(self, body: Json, project: str, name: str) -> None:
        """Changes what is given of a cluster's fields; see `tests.emulator.model`.

        `then` says what follows: `{"state": "IDLE" or null for gone, "seconds": …, "reads": …}`.
        """
        with self._atlas.lock:
            owner = self._atlas.projects[project]
            cluster = owner.clusters.get(name)
            if cluster is None:
                cluster = owner.clusters[name] = Cluster(name, body.get("mongo") or self._world.setup.mongo)
                self._world.deployment.queue_all(owner, cluster)
            _change(cluster, dict(body))

    def delete_cluster(self, _: Json, project: str, name: str) -> None:
        with self._atlas.lock:
            del self._atlas.projects[project].clusters[name]

    def users(self, _: Json, project: str) -> list[Json]:
        """Each user as on the wire, with `applied`; those whose removal is on its way are there with `deleted`."""
        with self._atlas.lock:
            owner = self._atlas.projects[project]
            pending = {change.name: change for cluster in owner.clusters.values() for change in cluster.changes}
            present = [_shown(user, applied=user.name not in pending) for user in owner.users.values()]
            names = {user.name for user in owner.users.values()}
            gone = [name for name in pending if name not in names]
        return present + [{"username": name, "deleted": True, "applied": False} for name in gone]


def _shown(user: User, *, applied: bool) -> Json:
    return {**user.attributes, "applied": applied, "deleted": False}


def _change(cluster: Cluster, body: Json) -> None:
    then = body.pop("then", None)
    for name, value in body.items():
        if name not in _CHANGEABLE:
            raise ValueError(f"a cluster has no {name}")
        setattr(cluster, name, value)
    if cluster.state not in STATES or cluster.kind not in KINDS:
        raise ValueError(f"no state {cluster.state} or no kind {cluster.kind}")
    if then is not None:
        following = then.pop("state")
        cluster.following = (Wait(Delay(**then), time.time()), following)


def _credential(name: str, body: Json) -> Credential:
    return Credential(name, body["secret"], frozenset(body["projects"]), body.get("read_only", False))
