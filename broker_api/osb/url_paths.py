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
        """Serve one request."""
        return self.app({**environ, "PATH_INFO": encoded_path(environ)}, start_response)


def encoded_path(environ: "WSGIEnvironment") -> str:
    """Return the encoded path of the request line, or of ``PATH_INFO`` if the server does not pass that line."""
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if not target:
        segments = environ.get("PATH_INFO", "").encode("latin-1").split(b"/")
        return "/".join(quote(segment, safe="") for segment in segments)
    path: str = target.partition("?")[0].partition("#")[0]
    if not path.startswith("/") and "://" in path:  # the absolute form (RFC 9112, section 3.2.2)
        path = "/" + path.partition("://")[2].partition("/")[2]
    mount = environ.get("SCRIPT_NAME", "")
    if mount and (path == mount or path.startswith(f"{mount}/")):
        path = path.removeprefix(mount)
    if _CANONICAL.fullmatch(path):
        return path
    return "/".join(quote(unquote_to_bytes(segment.encode("latin-1")), safe="") for segment in path.split("/"))


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
