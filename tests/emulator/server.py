"""Serves the application with a thread for each connection: HTTP/1.1 with keep-alive, and no waiting for more to send.

werkzeug's own server does, since the emulator needs the connection's socket to close it without an answer.
"""

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from tests.emulator.app import App


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """The call log is enough."""


def listen(app: App, host: str, port: int) -> BaseWSGIServer:
    return make_server(host, port, app, threaded=True, request_handler=Handler)
