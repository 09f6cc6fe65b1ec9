"""The WSGI application: the Admin API, and the control API beside it."""

import socket
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from werkzeug import Request, Response

from tests.emulator.control import CONTROL_PATH, Control
from tests.emulator.exchange import Dropped, Exchange
from tests.emulator.world import World

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
        return self._exchange(Exchange(self._world, request, target))(environ, start_response)

    def _exchange(self, exchange: Exchange) -> Response:
        call = exchange.call
        try:
            response = exchange.answer()
        except Dropped:
            exchange.request.environ["gunicorn.socket"].shutdown(socket.SHUT_RDWR)
            response = Response()
        else:
            call.status = response.status_code
            call.error_code = response.headers.get("X-Error-Code")
            call.challenge = response.headers.get("Www-Authenticate", "").startswith("Digest")
        call.end = time.time()
        return response
