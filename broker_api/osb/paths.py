"""Ids in paths are opaque: any path segment, percent-encoded slashes and all, is one id.

WSGI hands over a path that is decoded already, in which an id's ``%2F`` looks like a separator. So the path is taken
from the request line again and matched with its segments encoded; the converter decodes each id.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

from werkzeug.exceptions import BadRequest
from werkzeug.routing import BaseConverter

from broker_api.service.schemas import MAX_ID_LENGTH

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class EncodedPath:
    """WSGI middleware: ``PATH_INFO`` becomes the path with each segment percent-encoded in one canonical way."""

    def __init__(self, app: "WSGIApplication") -> None:
        self._app = app

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Serve one request."""
        return self._app({**environ, "PATH_INFO": encoded_path(environ)}, start_response)


def encoded_path(environ: "WSGIEnvironment") -> str:
    """Return the path from the request line; without one (a server that does not tell it) the decoded path must do."""
    request_line = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if request_line:
        path = _without_mount(_path_of(request_line), environ.get("SCRIPT_NAME", ""))
        segments = [unquote_to_bytes(segment.encode("latin-1")) for segment in path.split("/")]
    else:
        segments = environ.get("PATH_INFO", "").encode("latin-1").split(b"/")
    return "/".join(quote(segment, safe="") for segment in segments)


def _path_of(target: str) -> str:
    """Take the path from a request target, which may be in absolute form (RFC 9112, section 3.2.2)."""
    path = target.partition("?")[0].partition("#")[0]
    if path.startswith("/"):
        return path
    _, separator, rest = path.partition("://")
    return f"/{rest.partition('/')[2]}" if separator else path


def _without_mount(path: str, mount: str) -> str:
    if mount and (path == mount or path.startswith(f"{mount}/")):
        return path.removeprefix(mount)
    return path


class IdConverter(BaseConverter):
    """One segment, decoded. An id that nothing could be stored under is a 400, not an unknown path."""

    def to_python(self, value: str) -> str:
        """Decode the segment.

        Raises:
            BadRequest: it is not UTF-8, holds NUL, or is too long.
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
