"""One call to the Admin API on its way: authenticated, perhaps spoiled by a rule, checked, answered."""

import re
import time
from collections.abc import Callable

from werkzeug import Request, Response

from tests.emulator.answers import empty_response, json_response, refusal, unauthorized, vnd
from tests.emulator.digest import Credential
from tests.emulator.errors import ApiError
from tests.emulator.faults import Rule
from tests.emulator.model import Project
from tests.emulator.oauth import REVOKE_PATH, TOKEN_PATH
from tests.emulator.routes import Asked, Route, match
from tests.emulator.table import ROUTES
from tests.emulator.world import World


class Dropped(Exception):
    """The connection is to be closed without an answer."""


class Exchange:
    def __init__(self, world: World, request: Request, target: str) -> None:
        self._world = world
        self.request = request
        self._target = target
        self._path = target.partition("?")[0]
        self._found = match(ROUTES, request.method, self._path)
        self._headers: dict[str, str] = {}
        self.call = world.log.begin(request, self._path, self._found[0].template if self._found else self._path)

    def answer(self) -> Response:
        return self._ruled(self._authenticated, authenticated=False)

    def _authenticated(self) -> Response:
        if self._path in (TOKEN_PATH, REVOKE_PATH):
            return self._ruled(lambda: self._world.oauth.answer(self.request, self._path), authenticated=True)
        caller = self._caller()
        if caller is None:
            return unauthorized(self._challenge())
        self.call.caller = caller.name
        time.sleep(self._world.latency)
        return self._ruled(lambda: self._checked(caller), authenticated=True)

    def _ruled(self, act: Callable[[], Response], *, authenticated: bool) -> Response:
        """What the rule that fits, if any, makes of the call."""
        body = self.request.get_data(as_text=True)
        rule = self._world.faults.take(self.request.method, self._path, body, authenticated=authenticated)
        if rule is None:
            return act()
        self.call.fault = rule.id
        return _play(rule, act)

    def _caller(self) -> Credential | None:
        given = self.request.authorization
        if given is None:
            return None
        if given.type == "digest":
            return self._world.digest.caller(given, self.request.method, self._target)
        if given.type == "bearer":
            return self._world.oauth.caller(given.token or "")
        return None

    def _challenge(self) -> str:
        """What a bearer token that is not (or no longer) good is answered was never seen; this is the RFC's."""
        given = self.request.authorization
        if given is not None and given.type == "bearer":
            return 'Bearer realm="MMS Public API", error="invalid_token"'
        return self._world.digest.challenge()

    def _checked(self, caller: Credential) -> Response:
        try:
            return self._answer(caller)
        except ApiError as error:
            return refusal(error, self._headers)

    def _answer(self, caller: Credential) -> Response:
        """Headers gather as the call gets further: a refusal carries those that it has come to."""
        self._check_address()
        if self._found is None:
            raise ApiError("RESOURCE_NOT_FOUND", self._path)
        route, names = self._found
        version = self._version(route)
        project = self._project(names, caller)
        scope = project.id if project else caller.name
        self._headers |= self._world.buckets.take(route.bucket, scope, self._path)
        if caller.read_only and self.request.method != "GET":
            raise ApiError("USER_UNAUTHORIZED")
        asked = Asked(self._world.atlas, self._world.deployment, self.request, project, caller, names)
        body = route.answer(asked)
        if body is None:
            return empty_response(route.success, self._headers, vnd(version))
        return json_response(body, route.success, self._headers, vnd(version))

    def _check_address(self) -> None:
        allowed = self._world.allowed_addresses
        address = self.request.remote_addr or ""
        if allowed is not None and address not in allowed:
            raise ApiError("IP_ADDRESS_NOT_ON_ACCESS_LIST", address)

    def _version(self, route: Route) -> str:
        newest = list(route.versions)[-1]
        self._headers["X-Java-Method"] = route.versions[newest]
        version = route.version(self.request.headers.get("Accept", ""))
        self._headers |= {"X-Java-Method": route.versions[version], **route.deprecation(version)}
        return version

    def _project(self, names: dict[str, str], caller: Credential) -> Project | None:
        if "groupId" not in names:
            return None
        group = names["groupId"]
        if not re.fullmatch(r"[0-9a-f]{24}", group):
            raise ApiError("INVALID_GROUP_ID", group)
        project = self._world.atlas.projects.get(group)
        if project is None:
            raise ApiError("GROUP_NOT_FOUND", group)
        if group not in caller.projects:
            raise ApiError("NOT_IN_GROUP")
        return project


def _play(rule: Rule, act: Callable[[], Response]) -> Response:
    """Wait, drop, answer or act, as the rule says. Raises Dropped."""
    time.sleep(rule.hang_before)
    if rule.drop == "before":
        raise Dropped
    canned = rule.response()
    response = act() if canned is None or rule.act else canned
    time.sleep(rule.hang_after)
    if rule.drop == "after":
        raise Dropped
    return canned or response
