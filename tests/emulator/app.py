"""The WSGI application: the Admin API, with its call log, and the control API beside it."""

import re
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from werkzeug import Request, Response

from tests.emulator import access_endpoints, cluster_endpoints, endpoints  # noqa: F401 - they add their routes
from tests.emulator.control import CONTROL_PATH, Control
from tests.emulator.credentials import REVOKE_PATH, TOKEN_PATH
from tests.emulator.errors import ApiError, json_response, refuse_if
from tests.emulator.model import Change, Credential, Project
from tests.emulator.routing import Asked, find
from tests.emulator.world import Call, World

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class App:
    def __init__(self, world: World) -> None:
        self._world = world
        self._control = Control(world)

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        request = Request(environ)
        request.get_data()  # now, so that the connection can be used again whatever the answer is
        target = str(environ["RAW_URI"])
        if target.startswith(CONTROL_PATH):
            return self._control.answer(request)(environ, start_response)
        return Exchange(self._world, request, target).answer()(environ, start_response)


class Dropped(Exception):
    """The connection is to be closed without an answer."""


class Exchange:
    """One call to the Admin API on its way: authenticated, perhaps spoiled by a rule, checked, answered."""

    def __init__(self, world: World, request: Request, target: str) -> None:
        self._world = world
        self._request = request
        self._target = target
        self._path = target.partition("?")[0]
        self._route, self._names = find(request.method, self._path)
        given = request.authorization
        self._call = Call(
            method=request.method,
            path=self._path,
            query=request.query_string.decode(),
            template=self._route.template if self._route else self._path,
            accept=request.headers.get("Accept", ""),
            user_agent=request.headers.get("User-Agent", ""),
            authentication=given.type if given else "none",
        )
        world.calls.append(self._call)

    def answer(self) -> Response:
        try:
            response = self._ruled(self._authenticate, authenticated=False)
        except Dropped:
            self._request.environ["gunicorn.socket"].shutdown(socket.SHUT_RDWR)
            response = Response()
        else:
            self._call.status = response.status_code
            self._call.error_code = response.headers.get("X-Error-Code")
            self._call.challenge = response.headers.get("Www-Authenticate", "").startswith("Digest")
        self._call.end = time.time()
        return response

    def _ruled(self, act: Callable[[], Response], *, authenticated: bool) -> Response:
        """Wait, drop, answer or act, as the rule that fits says, if there is one. Raise Dropped."""
        body = self._request.get_data(as_text=True)
        faults = self._world.faults
        rule = faults.take(self._request.method, self._path, body, authenticated=authenticated)
        if rule is None:
            return act()
        self._call.fault = rule.id
        faults.hang(rule, rule.hang_before)
        if rule.drop == "before":
            raise Dropped
        canned = rule.response()
        response = act() if canned is None or rule.act else canned
        faults.hang(rule, rule.hang_after)
        if rule.drop == "after":
            raise Dropped
        return canned or response

    def _authenticate(self) -> Response:
        """Missing and wrong credentials look the same: pretty-printed, no parameters, no X-Error-Code, no rate headers.

        What a bearer token that is not (or no longer) good is answered was never seen; the challenge is the RFC's.
        """
        world, request, given = self._world, self._request, self._request.authorization
        if self._path in (TOKEN_PATH, REVOKE_PATH):
            return self._ruled(lambda: world.oauth.answer(request, self._path), authenticated=True)
        caller = None
        if given is not None and given.type == "digest":
            caller = world.digest.caller(given, request.method, self._target)
        elif given is not None and given.type == "bearer":
            caller = world.oauth.caller(given.token or "")
        if caller is not None:
            self._call.caller = caller.name
            time.sleep(world.latency)
            return self._ruled(lambda: self._act(caller), authenticated=True)
        challenge = 'Bearer realm="MMS Public API", error="invalid_token"'
        if given is None or given.type != "bearer":
            challenge = world.digest.challenge()
        detail = "You are not authorized for this resource."
        body = {"error": 401, "reason": "Unauthorized", "detail": detail, "errorCode": "UNEXPECTED_ERROR"}
        return json_response(body, 401, {"Www-Authenticate": challenge}, indent=2)

    def _act(self, caller: Credential) -> Response:
        """Headers gather as the call gets further: a refusal carries those that it has come to."""
        world, request, route, headers = self._world, self._request, self._route, dict[str, str]()
        changes: list[Change] = []
        try:
            address = request.remote_addr or ""
            listed = world.allowed_addresses is None or address in world.allowed_addresses
            refuse_if(not listed, "IP_ADDRESS_NOT_ON_ACCESS_LIST", address)
            if route is None:
                return ApiError("RESOURCE_NOT_FOUND", self._path).response()
            version = route.version(request.headers.get("Accept", ""), headers)
            project = self._project(caller)
            headers |= world.buckets.take(route.bucket, project.id or caller.name, self._path)
            refuse_if(not caller.may(route.role), "USER_UNAUTHORIZED")
            asked = Asked(world.atlas, request, project, caller, self._names, changes)
            with world.atlas.lock if route.locked else nullcontext():
                body = route.answer(asked)
        except ApiError as error:
            world.atlas.settle(changes)
            return error.response(headers)
        world.atlas.settle(changes)
        content_type = f"application/vnd.atlas.{version}+json;charset=utf-8"
        if body is None:  # a 204 is empty, and says the versioned media type all the same
            return Response(None, route.success, headers, content_type=content_type)
        if isinstance(body, str):  # a certificate, which is no JSON in spite of the type
            return Response(body, route.success, headers, content_type=content_type)
        return json_response(body, route.success, headers, content_type)

    def _project(self, caller: Credential) -> Project:
        """Return the project that the path names, or an empty one when it names none."""
        group = self._names.get("groupId")
        if group is None:
            return Project("", "")
        refuse_if(not re.fullmatch(r"[0-9a-f]{24}", group), "INVALID_GROUP_ID", group)
        project = self._world.atlas.projects.get(group)
        if project is None:
            raise ApiError("GROUP_NOT_FOUND", group)
        refuse_if(group not in caller.projects, "NOT_IN_GROUP")
        return project
