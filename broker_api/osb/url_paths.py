"""Ids in paths are opaque: each path segment is one id, which may hold any character, also an encoded slash.

The path of WSGI is already decoded: there the ``%2F`` of an id looks like a separator. So the path is taken from the
request line, and matched with its segments encoded. The converter decodes each id.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

from werkzeug.exceptions import BadRequest
from werkzeug.routing import BaseConverter

from broker_api.service.schemas import MAX_ID_LENGTH

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_CANONICAL = re.compile(r"[A-Za-z0-9_.~/-]*")
"""Paths without characters that could be encoded in several ways: nearly all."""


@dataclass(frozen=True)
class EncodedPath:
    """WSGI middleware that makes ``PATH_INFO`` the path with each segment percent-encoded in one canonical way."""

    app: "WSGIApplication"

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Serve one request by the path of the request line, or by ``PATH_INFO`` if the server passes no such line."""
        target: str | None = environ.get("RAW_URI") or environ.get("REQUEST_URI")
        path = target.partition("?")[0].partition("#")[0] if target else environ.get("PATH_INFO", "")
        if target and not path.startswith("/") and "://" in path:  # the absolute form (RFC 9112, section 3.2.2)
            path = "/" + path.partition("://")[2].partition("/")[2]
        mount = environ.get("SCRIPT_NAME", "")
        if target and mount and (path == mount or path.startswith(f"{mount}/")):
            path = path.removeprefix(mount)
        if not _CANONICAL.fullmatch(path):
            segments = path.encode("latin-1").split(b"/")
            path = "/".join(quote(unquote_to_bytes(each) if target else each, safe="") for each in segments)
        return self.app({**environ, "PATH_INFO": path}, start_response)


class IdConverter(BaseConverter):
    """Decodes a segment to an id. An id that cannot be stored is answered with 400, not 404."""

    def to_python(self, value: str) -> str:
        """Return the id in a segment.

        Raises:
            BadRequest: the id is not UTF-8, holds a NUL character, or is too long.
        """
        try:
            text = unquote_to_bytes(value).decode()
        except UnicodeDecodeError:
            raise BadRequest("The id in the path must be UTF-8, percent-encoded.") from None
        if "\x00" in text:
            raise BadRequest("The id in the path must not hold a NUL character.")
        if len(text) > MAX_ID_LENGTH:
            raise BadRequest(f"The id in the path must have at most {MAX_ID_LENGTH} characters.")
        return text
