"""What can go wrong between a worker and Atlas, and what may be concluded from it.

    AtlasError
    ├── NoAnswer    nothing came back: refused, reset, timed out, broke off
    ├── Refused     Atlas says no: a status and, nearly always, an error code
    └── Nonsense    something came back that Atlas would not say: HTML, nothing, another shape

Whether a call is worth repeating, and whether what it was about is gone, is decided here and nowhere else.
"""

from __future__ import annotations

_USER_GONE = frozenset({"USER_NOT_FOUND", "USERNAME_NOT_FOUND"})  # DELETE says the first, GET and PATCH the second
_CLUSTER_MISSING = frozenset({"CLUSTER_NOT_FOUND", "CLUSTER_NAME_NOT_FOUND"})
_EXPIRED = frozenset({"EXPIRATION_DATE_IN_PAST", "ALREADY_EXPIRED"})  # at POST; at PATCH of what has expired
_TRANSIENT_STATUS = frozenset({429, 500, 502, 503, 504})
_TRANSIENT_CODE = frozenset(
    {
        (405, "WRITES_NOT_ALLOWED_DURING_APP_UPGRADES"),
        (409, "AUTOMATION_CONFIG_CONCURRENT_MODIFICATION"),
    }
)
_NOT_ABOUT_THE_KEY = frozenset({"UNSUPPORTED_FOR_CURRENT_CONFIG"})  # besides every ..._LIMIT_EXCEEDED


class AtlasError(Exception):
    """A call to Atlas that did not do what was asked. Its text is for operators and holds no secret.

    Everything but the text is an attribute with a default, so that the error survives pickling between processes.
    """

    def __init__(self, sentence: str, *, retry_after: float | None = None, sent: bool = True) -> None:
        super().__init__(sentence)
        self.retry_after = None if retry_after is None else max(1.0, retry_after)
        """Seconds that Atlas asks us to wait, at least one: "retry after 0 seconds" has been seen."""
        self.sent = sent
        """False only when it is certain that Atlas never got the request; True includes "nobody knows"."""

    @property
    def retryable(self) -> bool:
        """The same call may succeed later, perhaps after an operator repaired something."""
        return True

    @property
    def gone(self) -> bool:
        """The database user is not there. Never true for a refused key, a missing project or a missing cluster."""
        return False

    @property
    def unauthorized(self) -> bool:
        """The key or service account was refused, which says nothing about what was asked for."""
        return False

    @property
    def cluster_missing(self) -> bool:
        """The project has no cluster of that name."""
        return False

    @property
    def exists(self) -> bool:
        """A database user of that name is there already, perhaps from our own call whose answer was lost."""
        return False

    @property
    def expired(self) -> bool:
        """The temporary user's end has passed, by Atlas's clock."""
        return False

    @property
    def users_full(self) -> bool:
        """The project holds as many database users as Atlas allows."""
        return False


class NoAnswer(AtlasError):
    """Timed out, refused, reset, or closed before the answer was complete. Whether Atlas acted: see `sent`."""


class Refused(AtlasError):
    """Atlas says no. `code` is its errorCode (or OAuth's error), empty when the answer had none."""

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

    @property
    def retryable(self) -> bool:
        """Server trouble and refused keys; a 500 may still be a bad input in disguise, so the caller caps it."""
        return self.unauthorized or self.status in _TRANSIENT_STATUS or (self.status, self.code) in _TRANSIENT_CODE

    @property
    def gone(self) -> bool:  # noqa: D102  the rule stands at AtlasError
        return self.status == 404 and self.code in _USER_GONE  # noqa: PLR2004  HTTP's own number

    @property
    def unauthorized(self) -> bool:
        """Any 401, and every 403 but limits: codes for "this key may not" are many, and some are documented wrongly."""
        if self.status == 403:  # noqa: PLR2004  HTTP's own number
            return not self.code.endswith("_LIMIT_EXCEEDED") and self.code not in _NOT_ABOUT_THE_KEY
        return self.status == 401 or self.code == "invalid_client"  # noqa: PLR2004  HTTP's own number

    @property
    def cluster_missing(self) -> bool:  # noqa: D102  the rule stands at AtlasError
        return self.status == 404 and self.code in _CLUSTER_MISSING  # noqa: PLR2004  HTTP's own number

    @property
    def exists(self) -> bool:  # noqa: D102  the rule stands at AtlasError
        return self.code == "USER_ALREADY_EXISTS"

    @property
    def expired(self) -> bool:  # noqa: D102  the rule stands at AtlasError
        return self.code in _EXPIRED

    @property
    def users_full(self) -> bool:  # noqa: D102  the rule stands at AtlasError
        return self.code == "GROUP_USERS_LIMIT_EXCEEDED"


class Nonsense(AtlasError):
    """An answer that Atlas itself would not give; usually a proxy, a wrong base URL, or Atlas half down."""

    def __init__(self, sentence: str, *, status: int = 0, retry_after: float | None = None, sent: bool = True) -> None:
        super().__init__(sentence, retry_after=retry_after, sent=sent)
        self.status = status
