"""The Atlas API v1.0 as far as atlasbroker 2.0.0 calls it, on the emulated Atlas, which speaks v2."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests
from requests.auth import HTTPDigestAuth

from tests.emulator.client import Emulator


@contextmanager
def old_atlas_api(atlas: Emulator) -> Iterator[str]:
    """Serve it; yield its address. It asks for no key, and calls the emulator with that of the broker."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # each answer in one write

        def log_message(self, *_: object) -> None:
            pass

        def _forward(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
            answer = requests.request(
                self.command,
                atlas.base_url + self.path.replace("/v1.0/", "/v2/"),
                json=body and {**body, "groupId": atlas.project_id},
                headers={"Accept": "application/vnd.atlas.2023-02-01+json"},
                auth=HTTPDigestAuth(atlas.public_key, atlas.private_key),
                timeout=20,
            )
            answered = answer.json() if answer.content else {}  # it reads a body of every answer
            for each in (answered, *answered.get("results", ())):
                if "connectionStrings" in each:
                    each["mongoURIWithOptions"] = each["connectionStrings"]["standard"]
            content = json.dumps(answered).encode()
            self.send_response(200 if answer.status_code == 204 else answer.status_code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _forward  # noqa: N815 - http.server's names

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
