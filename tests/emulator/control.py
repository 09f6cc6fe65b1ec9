"""The control API under `/_emulator`: no authentication, JSON in and out. `tests.emulator.client` speaks it."""

from collections.abc import Callable

from werkzeug import Request, Response
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule

from tests.emulator.answers import json_response
from tests.emulator.buckets import LIMITS, Limit
from tests.emulator.faults import Rule as FaultRule
from tests.emulator.model import Json, Policy
from tests.emulator.projects import Projects
from tests.emulator.waiting import Delay
from tests.emulator.world import World

CONTROL_PATH = "/_emulator"

Action = Callable[..., object]


class Control:
    def __init__(self, world: World) -> None:
        self._world = world
        projects = Projects(world)
        self._actions: dict[str, Action] = {
            "GET /": self._overview,
            "POST /reset": lambda _: world.reset(),
            "GET /faults": lambda _: world.faults.all(),
            "POST /faults": lambda body: {"id": world.faults.add(FaultRule(**body))},
            "DELETE /faults": lambda _: world.faults.clear(),
            "DELETE /faults/<int:number>": lambda _, number: world.faults.clear(number),
            "PUT /policy": self._set_policy,
            "PUT /databases/hidden": self._hide_databases,
            "POST /apply": lambda _: world.deployment.force(),
            "PUT /settings": self._set_settings,
            "PUT /buckets/<name>": self._set_bucket,
            "DELETE /buckets/<name>": lambda _, name: world.buckets.set(name, LIMITS[name]),
            "POST /tokens/revoke": lambda _: world.oauth.revoke_all(),
            "POST /nonces/expire": lambda _: world.digest.expire(),
            "GET /calls": lambda _: world.log.all(),
            "DELETE /calls": lambda _: world.log.clear(),
            "GET /counts": lambda _: world.log.counts(),
            "PUT /keys/<name>": projects.put_key,
            "PUT /accounts/<name>": projects.put_account,
            "PUT /projects/<project>": projects.put,
            "DELETE /projects/<project>": projects.delete,
            "GET /projects/<project>/users": projects.users,
            "PUT /projects/<project>/clusters/<name>": projects.put_cluster,
            "DELETE /projects/<project>/clusters/<name>": projects.delete_cluster,
            "PUT /projects/<project>/roles/<name>": projects.put_role,
        }
        self._map = Map([_rule(key) for key in self._actions])

    def answer(self, request: Request) -> Response:
        """204 for an action without a result, 400 with a sentence for a body that it cannot use."""
        try:
            endpoint, names = self._map.bind_to_environ(request.environ).match()
            body = request.get_json() if request.get_data() else {}
            result = self._actions[endpoint](body, **names)
        except HTTPException as error:
            return json_response({"error": str(error)}, error.code or 400)
        except (KeyError, TypeError, ValueError) as error:
            return json_response({"error": f"{type(error).__name__}: {error}"}, 400)
        return Response(status=204) if result is None else json_response(result)

    def _overview(self, _: Json) -> Json:
        with self._world.atlas.lock:
            projects = {
                project.id: {"clusters": list(project.clusters), "users": len(project.users)}
                for project in self._world.atlas.projects.values()
            }
        return {"projects": projects, "live_tokens": self._world.oauth.live()}

    def _set_bucket(self, body: Json, name: str) -> None:
        left = body.pop("left", None)
        self._world.buckets.set(name, Limit(**body), left)

    def _set_policy(self, body: Json) -> None:
        """For changes from now on: `applied` and `stale`, each with any of `seconds`, `reads`, `never`."""
        policy = Policy(**{name: Delay(**delay) for name, delay in body.items()})
        with self._world.atlas.lock:
            self._world.atlas.policy = policy

    def _hide_databases(self, body: Json) -> None:
        """Those `names`, and no others."""
        with self._world.atlas.lock:
            self._world.atlas.hidden_databases = frozenset(body["names"])

    def _set_settings(self, body: Json) -> None:
        """Those given: of the world, of digest (`digest`) and of OAuth (`oauth`)."""
        for part, owner in (("digest", self._world.digest), ("oauth", self._world.oauth)):
            _set(owner, body.pop(part, {}))
        _set(self._world, body)


def _set(owner: object, values: Json) -> None:
    for name, value in values.items():
        if name.startswith("_") or not hasattr(owner, name):
            raise ValueError(f"there is no setting {name}")
        setattr(owner, name, value)


def _rule(key: str) -> Rule:
    method, path = key.split()
    return Rule(CONTROL_PATH + path, methods=[method], endpoint=key)
