"""The control API under `/_emulator`: no authentication, JSON in and out. `tests.emulator.client` speaks it."""

import time
from collections import Counter
from contextlib import nullcontext
from typing import TYPE_CHECKING

from werkzeug import Request, Response
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map
from werkzeug.routing import Rule as Path

from tests.emulator.access_endpoints import block_of
from tests.emulator.buckets import LIMITS, Limit
from tests.emulator.errors import json_response
from tests.emulator.faults import Rule
from tests.emulator.model import (
    KINDS,
    STATES,
    AccessEntry,
    Cluster,
    Credential,
    Delay,
    Json,
    Policy,
    Project,
    Wait,
)
from tests.emulator.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

CONTROL_PATH = "/_emulator"

_CLUSTER_FIELDS = {
    *("kind", "state", "paused", "connection_strings", "mongo", "cluster_type", "processes"),
    *("provider", "region", "tier", "disk_size_gb", "version", "backup", "protected", "tags"),
}
_TALKING_TO_MONGODS = {"POST /reset", "POST /apply", "POST /calm"}  # so the lock is not held


class Control:
    def __init__(self, world: World) -> None:
        self._world = world
        self._atlas = world.atlas
        self._actions: dict[str, Callable[..., object]] = {
            "POST /reset": lambda _: world.reset(),
            "POST /calm": self._calm,
            "GET /faults": lambda _: [{**vars(rule)} for rule in world.faults],
            "POST /faults": self._add_fault,
            "DELETE /faults": lambda _: world.faults.clear(),
            "DELETE /faults/<int:number>": self._delete_fault,
            "POST /faults/<int:number>/let-go": lambda _, number: world.faults.let_go(number),
            "PUT /policy": self._set_policy,
            "PUT /clusters/times": self._set_cluster_times,
            "PUT /clusters/lost-deletions": self._lose_deletions,
            "PUT /access": self._set_access,
            "PUT /databases/hidden": self._hide_databases,
            "POST /apply": lambda _: world.atlas.force(),
            "PUT /settings": self._set_settings,
            "PUT /buckets/<name>": self._set_bucket,
            "GET /tokens": lambda _: world.oauth.count(),
            "POST /tokens/revoke": lambda _: world.oauth.revoke_all(),
            "POST /nonces/expire": lambda _: world.digest.expire(),
            "GET /calls": lambda _: [{**vars(call)} for call in world.calls],
            "DELETE /calls": lambda _: world.calls.clear(),
            "GET /counts": lambda _: Counter(f"{c.method} {c.template}" for c in world.calls if not c.challenge),
            "PUT /keys/<name>": lambda body, name: _put(world.digest.keys, name, body),
            "PUT /accounts/<name>": lambda body, name: _put(world.oauth.accounts, name, body),
            "PUT /projects/<project>": self._put_project,
            "GET /projects/<project>/users": self._users,
            "GET /projects/<project>/clusters": self._clusters,
            "PUT /projects/<project>/clusters/<name>": self._put_cluster,
            "DELETE /projects/<project>/clusters/<name>": self._delete_cluster,
            "PUT /projects/<project>/roles/<name>": self._put_role,
        }
        calls = [(call, *call.partition(" ")) for call in self._actions]
        self._map = Map([Path(CONTROL_PATH + path, methods=[m], endpoint=call) for call, m, _, path in calls])

    def answer(self, request: Request) -> Response:
        """Answer 204 for an action without a result, 400 with a sentence for a body that it cannot use."""
        try:
            call, names = self._map.bind_to_environ(request.environ).match()
            body = request.get_json() if request.get_data() else {}
            with nullcontext() if call in _TALKING_TO_MONGODS else self._atlas.lock:
                result = self._actions[call](body, **names)
        except HTTPException as error:
            return json_response({"error": str(error)}, error.code or 400)
        except (KeyError, TypeError, ValueError) as error:
            return json_response({"error": f"{type(error).__name__}: {error}"}, 400)
        return Response(status=204) if result is None else json_response(result)

    def _calm(self, _: Json) -> None:
        with self._atlas.lock:
            self._world.faults.clear()
            self._atlas.policy = Policy()
            self._world.latency = 0
            for name, limit in LIMITS.items():
                self._world.buckets.set(name, limit)
        self._atlas.force()

    def _add_fault(self, body: Json) -> Json:
        rule = Rule(**body)
        self._world.faults.append(rule)
        return {"id": rule.id}

    def _delete_fault(self, _: Json, number: int) -> None:
        self._world.faults[:] = [rule for rule in self._world.faults if rule.id != number]

    def _set_bucket(self, body: Json, name: str) -> None:
        left = body.pop("left", None)
        self._world.buckets.set(name, Limit(**body), left)

    def _set_policy(self, body: Json) -> None:
        """For changes from now on: `applied` and `stale`, each with any of `seconds`, `reads`, `never`."""
        self._atlas.policy = Policy(**{name: Delay(**delay) for name, delay in body.items()})

    def _set_cluster_times(self, body: Json) -> None:
        """By kind and state: `{"flex": {"CREATING": {"seconds": …, "reads": …, "never": …}, …}, …}`."""
        for kind, states in body.items():
            for state, delay in states.items():
                if kind not in KINDS or state not in STATES:
                    raise ValueError(f"no kind {kind} or no state {state}")
                self._atlas.cluster_times[kind, state] = Delay(**delay)

    def _lose_deletions(self, body: Json) -> None:
        self._atlas.lost_deletions = int(body["times"])

    def _set_access(self, body: Json) -> None:
        """`delay` as `{"seconds": …, …}` until an entry is ACTIVE, and the `gap` in which a write is lost."""
        self._atlas.access_delay = Delay(**body.get("delay", {}))
        self._atlas.access_gap = body.get("gap", 0)

    def _hide_databases(self, body: Json) -> None:
        """Those `names`, and no others."""
        self._atlas.hidden_databases = frozenset(body["names"])

    def _set_settings(self, body: Json) -> None:
        """Those given: of the world, of digest (`digest`) and of OAuth (`oauth`)."""
        digest, oauth = body.pop("digest", {}), body.pop("oauth", {})
        for owner, values in ((self._world.digest, digest), (self._world.oauth, oauth), (self._world, body)):
            for name, value in values.items():
                if name.startswith("_") or not hasattr(owner, name):
                    raise ValueError(f"there is no setting {name}")
                setattr(owner, name, value)

    def _put_project(self, body: Json, project: str) -> None:
        """`name`, `user_limit`, `cluster_limit`, `access_list` (addresses and blocks); those not given stay."""
        found = self._atlas.projects.setdefault(project, Project(project, project))
        for name in body.keys() & {"name", "user_limit", "cluster_limit"}:
            setattr(found, name, body[name])
        if "access_list" in body:
            blocks = [block_of(entry) for entry in body["access_list"]]
            found.access_list = {block: AccessEntry(block) for block in blocks}

    def _put_role(self, body: Json, project: str, name: str) -> None:
        """A custom role in Atlas's form; `actions` and `inheritedRoles` may be left out."""
        role = {"actions": [], "inheritedRoles": [], **body, "roleName": name}
        self._atlas.projects[project].roles[name] = role

    def _put_cluster(self, body: Json, project: str, name: str) -> None:
        """Change what is given of a cluster's fields; see `tests.emulator.model`.

        `then` says what follows: `{"state": "IDLE" or null for gone, "seconds": …, "reads": …}`.
        """
        then = body.pop("then", None)
        owner = self._atlas.projects[project]
        if name not in owner.clusters:
            self._atlas.add_cluster(owner, Cluster(name, body.get("mongo") or self._world.mongo))
        cluster = owner.clusters[name]
        for key, value in body.items():
            if key not in _CLUSTER_FIELDS:
                raise ValueError(f"a cluster has no {key}")
            setattr(cluster, key, value)
        if cluster.state not in STATES or cluster.kind not in KINDS:
            raise ValueError(f"no state {cluster.state} or no kind {cluster.kind}")
        if then is not None:
            state = then.pop("state")
            cluster.following = (Wait(Delay(**then), time.time()), state)

    def _clusters(self, _: Json, project: str) -> list[Json]:
        """Count no read: those whose time is over have moved on, those that wait for reads have not."""
        owner = self._atlas.projects[project]
        names = ("name", "kind", "state", "paused", "tier", "protected")
        now = time.time()
        waits = [(cluster, *(cluster.following or (None, None))) for cluster in owner.clusters.values()]
        ended = {cluster.name: state for cluster, wait, state in waits if wait and wait.over(now)}
        return [
            {name: getattr(cluster, name) for name in names}
            | {"state": ended.get(cluster.name, cluster.state)}
            | {"tags": {tag["key"]: tag["value"] for tag in cluster.tags}}
            for cluster in owner.clusters.values()
            if ended.get(cluster.name, cluster.state) is not None
        ]

    def _delete_cluster(self, _: Json, project: str, name: str) -> None:
        del self._atlas.projects[project].clusters[name]

    def _users(self, _: Json, project: str) -> list[Json]:
        """Each user as on the wire, with `applied`; those whose removal is on its way are there with `deleted`."""
        owner = self._atlas.projects[project]
        pending = {change.login for cluster in owner.clusters.values() for change in cluster.changes}
        users = {user.login: user.attributes for user in owner.users.values()}
        present = [{**user, "applied": login not in pending, "deleted": False} for login, user in users.items()]
        gone = [
            {"username": name, "deleted": True, "applied": False} for db, name in pending if (db, name) not in users
        ]
        return present + gone


def _put(credentials: dict[str, Credential], name: str, body: Json) -> None:
    projects = frozenset(body["projects"])
    credentials[name] = Credential(name, body["secret"], projects, frozenset(body.get("roles", ["GROUP_OWNER"])))
