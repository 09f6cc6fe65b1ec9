"""What can go wrong between a worker and Atlas, and what may be concluded from it.

    AtlasError
    ├── NoAnswer               no answer came: refused, reset, timed out, broken off
    ├── UnreadableAnswer       an answer that Atlas itself would not give: HTML, nothing, another shape
    └── Refused                Atlas says no: a status and, nearly always, an error code
        ├── UserNotFound         there is no such database user
        ├── UserAlreadyExists    the name is taken, perhaps by our own call whose answer was lost
        ├── UserExpired          the end of a temporary user has passed, by Atlas's clock
        ├── UserLimitReached     the project holds as many database users as Atlas allows
        ├── ClusterNotFound      the project has no cluster of that name
        ├── WrongClusterApi      a flex cluster was asked for in the API of dedicated ones
        └── Unauthorized         the key was refused, which says nothing about what was asked for

``refusal`` picks the type by status and error code. Whether a call is worth repeating is a property of the error.
"""

from __future__ import annotations

from http import HTTPStatus

_TRANSIENT_STATUS = frozenset({429, 500, 502, 503, 504})
_TRANSIENT_CODE = frozenset(
    {
        (405, "WRITES_NOT_ALLOWED_DURING_APP_UPGRADES"),
        (409, "AUTOMATION_CONFIG_CONCURRENT_MODIFICATION"),
    }
)
_NOT_ABOUT_THE_KEY = frozenset({"UNSUPPORTED_FOR_CURRENT_CONFIG"})  # beside every ..._LIMIT_EXCEEDED


class AtlasError(Exception):
    """A call to Atlas that did not do what was asked. Its text is for operators and holds no secret.

    Everything but the text is an attribute with a default, so that the error survives pickling between processes.
    """

    retryable = True
    """Whether the same call may succeed later, perhaps after an operator has repaired something."""

    def __init__(self, sentence: str, *, retry_after: float | None = None, sent: bool = True) -> None:
        super().__init__(sentence)
        self.retry_after = None if retry_after is None else max(1.0, retry_after)
        """Seconds that Atlas asks to wait, at least one: "retry after 0 seconds" has been seen."""
        self.sent = sent
        """False only when it is certain that Atlas never got the request."""


class NoAnswer(AtlasError):
    """Timed out, refused, reset, or closed before the answer was complete. Whether Atlas acted: see ``sent``."""


class UnreadableAnswer(AtlasError):
    """An answer that Atlas itself would not give; usually a proxy, a wrong base URL, or Atlas half down."""

    def __init__(self, sentence: str, *, status: int = 0, retry_after: float | None = None, sent: bool = True) -> None:
        super().__init__(sentence, retry_after=retry_after, sent=sent)
        self.status = status


class Refused(AtlasError):
    """Atlas says no. ``code`` is its errorCode (or OAuth's ``error``), empty when the answer had none."""

    always_retryable = False

    def __init__(
        self,
        sentence: str,
        *,
        status: int = 0,
        code: str = "",
        detail: str = "",
        parameters: tuple[object, ...] = (),
        retry_after: float | None = None,
        sent: bool = True,
    ) -> None:
        super().__init__(sentence, retry_after=retry_after, sent=sent)
        self.status = status
        self.code = code
        self.detail = detail
        self.parameters = parameters
        # A 500 may still be a bad input in disguise, so the caller limits how often it repeats one.
        transient = status in _TRANSIENT_STATUS or (status, code) in _TRANSIENT_CODE
        self.retryable = transient or self.always_retryable


class UserNotFound(Refused):
    """404 USER_NOT_FOUND (DELETE) or USERNAME_NOT_FOUND (GET, PATCH). Never a missing project or cluster."""


class UserAlreadyExists(Refused):
    """409 USER_ALREADY_EXISTS."""


class UserExpired(Refused):
    """400 EXPIRATION_DATE_IN_PAST (POST) or ALREADY_EXPIRED (PATCH)."""


class UserLimitReached(Refused):
    """403 GROUP_USERS_LIMIT_EXCEEDED."""


class ClusterNotFound(Refused):
    """404 CLUSTER_NOT_FOUND or CLUSTER_NAME_NOT_FOUND."""


class WrongClusterApi(Refused):
    """400 CANNOT_USE_FLEX_CLUSTER_IN_CLUSTER_API."""


class Unauthorized(Refused):
    """Any 401, and every 403 but those about limits: the codes are many, and some are documented wrongly."""

    always_retryable = True


_TYPES: dict[tuple[int, str], type[Refused]] = {
    (404, "USER_NOT_FOUND"): UserNotFound,
    (404, "USERNAME_NOT_FOUND"): UserNotFound,
    (409, "USER_ALREADY_EXISTS"): UserAlreadyExists,
    (400, "EXPIRATION_DATE_IN_PAST"): UserExpired,
    (400, "ALREADY_EXPIRED"): UserExpired,
    (403, "GROUP_USERS_LIMIT_EXCEEDED"): UserLimitReached,
    (404, "CLUSTER_NOT_FOUND"): ClusterNotFound,
    (404, "CLUSTER_NAME_NOT_FOUND"): ClusterNotFound,
    (400, "CANNOT_USE_FLEX_CLUSTER_IN_CLUSTER_API"): WrongClusterApi,
}


def refusal(status: int, code: str) -> type[Refused]:
    """Return the type of error that stands for a status and error code."""
    about_limits = code.endswith("_LIMIT_EXCEEDED") or code in _NOT_ABOUT_THE_KEY
    forbidden = status == HTTPStatus.FORBIDDEN and not about_limits
    if status == HTTPStatus.UNAUTHORIZED or code == "invalid_client" or forbidden:
        return Unauthorized
    return _TYPES.get((status, code), Refused)
