"""Errors of calls to Atlas.

    AtlasError
    ├── NoAnswer               no answer: connection refused, reset, closed early, or timed out
    ├── UnreadableAnswer       an answer that Atlas itself would not send: HTML, no body, another shape of JSON
    └── Refused                an error answer of Atlas: a status and, nearly always, an error code
        ├── ProjectNotFound      the project does not exist, or the credentials are those of another one
        ├── UserNotFound         the project has no such database user
        ├── UserAlreadyExists    the user name is taken, perhaps by an earlier call whose answer was lost
        ├── UserExpired          the end of a user's lifetime has passed, by Atlas's clock
        ├── UserLimitReached     the project has as many database users as Atlas allows
        ├── ClusterNotFound      the project has no cluster of that name
        ├── ClusterNameTaken     a cluster of the project has that name, or the same first 23 characters
        ├── ClusterProtected     termination protection keeps the cluster
        ├── ClusterDeleting      the deletion of the cluster has been requested before
        ├── ClusterLimitReached  the project or organization has as many clusters or nodes as Atlas allows
        ├── PaymentRequired      the organization has no payment method, or an unpaid invoice
        ├── OutOfCapacity        the region has no capacity for the tier
        ├── EntryNotFound        the IP access list has no such entry
        ├── WrongClusterApi      a flex cluster was requested from the API of dedicated clusters, or the reverse
        └── Unauthorized         the credentials were refused, so the request itself was not examined

``refusal`` chooses the type by status and error code. ``retryable`` of each error says whether a retry can help.
"""

from __future__ import annotations

from http import HTTPStatus

_TRANSIENT_STATUS = frozenset({429, 500, 502, 503, 504})
_TRANSIENT_CODE = frozenset(
    {
        (400, "DEFAULT_CONFIG_LIMIT_EXCEPTION"),
        (405, "WRITES_NOT_ALLOWED_DURING_APP_UPGRADES"),
        (409, "AUTOMATION_CONFIG_CONCURRENT_MODIFICATION"),
    }
)
_CLUSTER_WORDS = frozenset({"CLUSTER", "CLUSTERS", "NODE", "NODES", "INSTANCES"})
_NOT_ABOUT_THE_KEY = frozenset({"UNSUPPORTED_FOR_CURRENT_CONFIG"})  # and every code with the word LIMIT


class AtlasError(Exception):
    """A call to Atlas has failed. The message is for operators and contains no secret.

    All arguments but the message have defaults, so that the error can be pickled between processes.
    """

    retryable = True
    """Whether the same call may succeed later, perhaps after a repair by an operator."""

    def __init__(self, sentence: str, *, retry_after: float | None = None, sent: bool = True) -> None:
        super().__init__(sentence)
        self.retry_after = None if retry_after is None else max(1.0, retry_after)
        """Seconds that Atlas asks to wait, at least 1, since Atlas was seen to send 0; None when it does not ask."""
        self.sent = sent
        """False only when it is certain that Atlas did not receive the request."""

    def sentence(self, where: str) -> str:
        """Return the error as a sentence for platform users.

        Args:
            where: What the call was about, such as "the cluster x".
        """
        text = str(self).rstrip(".")
        named = f"'{where.rpartition(' ')[2]}'" in text
        return f"{text}." if named else f"{text} (for {where})."

    def public_sentence(self) -> str:
        """Return the error as a sentence for users of other operations: it names no user, and quotes no answer."""
        return "Atlas does not answer at the moment."


class NoAnswer(AtlasError):
    """No complete answer came. Atlas may have carried out the request, unless ``sent`` is False."""


class UnreadableAnswer(AtlasError):
    """An answer that Atlas itself would not send; usually from a proxy, a wrong base URL, or during an outage."""

    def __init__(self, sentence: str, *, status: int = 0, retry_after: float | None = None, sent: bool = True) -> None:
        super().__init__(sentence, retry_after=retry_after, sent=sent)
        self.status = status

    def public_sentence(self) -> str:
        """Return a sentence for users of other operations."""
        return f"Atlas's answers ({self.status}) cannot be understood at the moment."


class Refused(AtlasError):
    """An error answer of Atlas. ``code`` is its errorCode (or OAuth's ``error``), empty when the answer has none."""

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
        # Atlas answers some bad input with a 500, so the caller limits how often it repeats such a call.
        transient = status in _TRANSIENT_STATUS or (status, code) in _TRANSIENT_CODE
        self.retryable = transient or self.always_retryable

    def public_sentence(self) -> str:
        """Return a sentence for users of other operations."""
        return f"Atlas answers with an error ({self.status}) at the moment."


class UserNotFound(Refused):
    """404 USER_NOT_FOUND (DELETE) or USERNAME_NOT_FOUND (GET, PATCH); never for a missing project or cluster."""


class UserAlreadyExists(Refused):
    """409 USER_ALREADY_EXISTS."""


class UserExpired(Refused):
    """400 EXPIRATION_DATE_IN_PAST (POST) or ALREADY_EXPIRED (PATCH)."""


class UserLimitReached(Refused):
    """403 GROUP_USERS_LIMIT_EXCEEDED."""


class ClusterNotFound(Refused):
    """404 CLUSTER_NOT_FOUND or CLUSTER_NAME_NOT_FOUND."""


class ClusterNameTaken(Refused):
    """400 DUPLICATE_CLUSTER_NAME or DUPLICATE_CLUSTER_NAME_PREFIX."""


class ClusterProtected(Refused):
    """400 CANNOT_TERMINATE_CLUSTER_WHEN_TERMINATION_PROTECTION_ENABLED."""


class ClusterDeleting(Refused):
    """400 CLUSTER_ALREADY_REQUESTED_DELETION."""


class ClusterLimitReached(Refused):
    """Any 4xx whose code is about a limit of clusters or nodes; Atlas documents these codes incompletely."""


class PaymentRequired(Refused):
    """Any 402, such as NO_PAYMENT_INFORMATION_FOUND or ACCOUNT_SUSPENDED."""


class OutOfCapacity(Refused):
    """409 OUT_OF_CAPACITY or NO_CAPACITY."""


class EntryNotFound(Refused):
    """404 ATLAS_NETWORK_PERMISSION_ENTRY_NOT_FOUND."""


class ProjectNotFound(Refused):
    """404 GROUP_NOT_FOUND or INVALID_GROUP_ID."""


class WrongClusterApi(Refused):
    """400 CANNOT_USE_FLEX_CLUSTER_IN_CLUSTER_API or CANNOT_USE_NON_FLEX_CLUSTER_IN_FLEX_API."""


class Unauthorized(Refused):
    """Any 401, and each 403 that is not about a limit, since Atlas documents the codes of the others incompletely."""

    always_retryable = True

    def sentence(self, where: str) -> str:
        """Return the error as a sentence for platform users, which sends them to the operator."""
        return f"Atlas refuses the broker's key for {where}; the broker's operator must look at it. {self}"

    def public_sentence(self) -> str:
        """Return a sentence for users of other operations, which sends them to the operator."""
        return f"Atlas refuses the broker's key ({self.status}); the broker's operator must look at it."


_TYPES: dict[tuple[int, str], type[Refused]] = {
    (404, "USER_NOT_FOUND"): UserNotFound,
    (404, "USERNAME_NOT_FOUND"): UserNotFound,
    (409, "USER_ALREADY_EXISTS"): UserAlreadyExists,
    (400, "EXPIRATION_DATE_IN_PAST"): UserExpired,
    (400, "ALREADY_EXPIRED"): UserExpired,
    (403, "GROUP_USERS_LIMIT_EXCEEDED"): UserLimitReached,
    (404, "CLUSTER_NOT_FOUND"): ClusterNotFound,
    (404, "CLUSTER_NAME_NOT_FOUND"): ClusterNotFound,
    (400, "DUPLICATE_CLUSTER_NAME"): ClusterNameTaken,
    (400, "DUPLICATE_CLUSTER_NAME_PREFIX"): ClusterNameTaken,
    (400, "CANNOT_TERMINATE_CLUSTER_WHEN_TERMINATION_PROTECTION_ENABLED"): ClusterProtected,
    (400, "CLUSTER_ALREADY_REQUESTED_DELETION"): ClusterDeleting,
    (409, "OUT_OF_CAPACITY"): OutOfCapacity,
    (409, "NO_CAPACITY"): OutOfCapacity,
    (404, "ATLAS_NETWORK_PERMISSION_ENTRY_NOT_FOUND"): EntryNotFound,
    (404, "GROUP_NOT_FOUND"): ProjectNotFound,
    (404, "INVALID_GROUP_ID"): ProjectNotFound,
    (400, "CANNOT_USE_FLEX_CLUSTER_IN_CLUSTER_API"): WrongClusterApi,
    (400, "CANNOT_USE_NON_FLEX_CLUSTER_IN_FLEX_API"): WrongClusterApi,
}


def refusal(status: int, code: str) -> type[Refused]:
    """Return the type of the error for an answer.

    Args:
        status: The HTTP status.
        code: Atlas's errorCode, or OAuth's ``error``; may be empty.
    """
    words = code.split("_")
    about_limits = not {"LIMIT", "LIMITS"}.isdisjoint(words)
    forbidden = status == HTTPStatus.FORBIDDEN and not about_limits and code not in _NOT_ABOUT_THE_KEY
    if status == HTTPStatus.UNAUTHORIZED or code == "invalid_client" or forbidden:
        return Unauthorized
    if status == HTTPStatus.PAYMENT_REQUIRED:
        return PaymentRequired
    if about_limits and not _CLUSTER_WORDS.isdisjoint(words):
        return ClusterLimitReached
    return _TYPES.get((status, code), Refused)
