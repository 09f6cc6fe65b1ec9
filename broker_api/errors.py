"""The exceptions that modules of the broker raise for each other.

A message is written for the platform's user: it names no library, class or file. The table in ``broker_api.osb.errors``
has the status and the code of each.
"""

from typing import ClassVar


class SettingError(Exception):
    """A setting is missing or wrong, and the process cannot start. The message is ``NAME: what it should be``."""


class BrokerError(Exception):
    """An error with a sentence.

    Attributes:
        sentence: the message; each ``{}`` stands for one of the arguments that the exception is raised with.
    """

    sentence: ClassVar[str] = "{}"

    def __init__(self, *details: object) -> None:
        super().__init__(self.sentence.format(*details))


class UndecryptableError(BrokerError):
    """A stored secret does not decrypt at its place: it was changed, or copied from another document or field."""

    sentence = (
        "The stored secret {1} of {0} does not open: it was changed in MongoDB, or copied from another document or "
        "field."
    )


class MissingKeyError(UndecryptableError):
    """None of the encryption keys has written a stored secret or MAC: a key was removed too early."""

    sentence = (
        "None of BROKER_ENCRYPTION_KEYS opens a stored secret: put back the key that wrote it ({}; "
        "atlas-broker keys status lists the ids)."
    )


class TamperedError(BrokerError):
    """A stored document is not as the broker wrote it, so nothing is done with it."""

    sentence = (
        "The broker's record of {} is not as the broker wrote it ({}): it was changed in MongoDB by other means, so "
        "nothing is done with it. The broker's operator finds the reason in the log (record_tampered)."
    )


# --- names and sentences of atlasbroker 2.0.0 -----------------------------------------------------------------------


class ErrClusterNotFound(BrokerError):
    """Atlas has no cluster of this name that the broker may use."""

    sentence = "The cluster {} is not available on Atlas."


class ErrClusterConfig(BrokerError):
    """The cluster exists, but its connection string is not known."""

    sentence = "The cluster configuration for {} is not available."


class ErrStorageMongoConnection(Exception):
    """MongoDB cannot be used.

    Attributes:
        during: the task that failed.
        reason: why it failed, for operators.
    """

    def __init__(self, during: str, reason: str = "") -> None:
        super().__init__(f"The storage is not able to communicate with MongoDB [{during}]")
        self.during = during
        self.reason = reason


class ErrStorageUnreadable(Exception):
    """A stored document has a form that this release does not know. Another release may know it.

    Args:
        what: the document, such as ``instance 1``.
        readable: whether the document itself can be read, and only its phase or operation is unknown.
    """

    def __init__(self, what: str, *, readable: bool) -> None:
        why = (
            "is in a state that only another release of the broker knows; ask again when its update is done."
            if readable
            else "cannot be read; the broker's operator finds the reason in the log (document_unreadable)."
        )
        super().__init__(f"The broker's record of the {what} {why}")


class ErrStorageTypeUnsupported(BrokerError):
    """The store was given something that is neither an instance nor a binding."""

    sentence = "Type [{}] unsupported"


class ErrStorageRemoveInstance(BrokerError):
    """An instance could not be removed from the store."""

    sentence = "Failed to remove the instance {}"


class ErrStorageRemoveBinding(BrokerError):
    """A binding could not be removed from the store."""

    sentence = "Failed to remove the binding {}"


class ErrStorageStore(BrokerError):
    """An instance or binding could not be written."""

    sentence = "Failed to store the instance or binding."


class ErrStorageTooLarge(ErrStorageStore):
    """An instance or binding exceeds MongoDB's limit for one document. A repeated request fails as well."""

    sentence = "The instance or binding is too large to be stored; give it fewer or shorter parameters."


class ErrStorageFindInstance(BrokerError):
    """The instance that a bind or an update names does not exist."""

    sentence = "Failed to find the instance {}."


class ErrPlanUnsupported(BrokerError):
    """The catalog has no such plan."""

    sentence = "Plan [{}] not supported."


# --- errors of the Open Service Broker API (spec.md, "Service Broker Errors") ---------------------------------------


class OsbError(BrokerError):
    """A request is refused or has failed; the message is the ``description`` in the response."""


class BadRequest(OsbError):
    """The request is malformed, or names something that the catalog does not have."""


class NotFound(OsbError):
    """The instance or binding does not exist or is not ready yet."""


class Gone(OsbError):
    """The instance or binding does not exist any more."""

    sentence = "The instance or binding does not exist."


class Conflict(OsbError):
    """An instance or binding of this id exists with other attributes."""


class AsyncRequired(OsbError):
    """The platform must allow asynchronous operations. Clients compare the sentence word for word."""

    sentence = "This service plan requires client support for asynchronous service operations."


class ConcurrencyError(OsbError):
    """Another operation on the same instance or binding is running. Clients compare the sentence word for word."""

    sentence = "The Service Broker does not support concurrent requests that mutate the same resource."


class MaintenanceInfoConflict(OsbError):
    """The maintenance version in the request differs from the plan's version in the catalog."""

    sentence = "maintenance_info.version {!r} does not match: {}. Fetch the catalog again."


class UpdateNotSupported(OsbError):
    """This update can never succeed, for example a change to a plan for another cluster."""


class OutOfTime(OsbError):
    """The job did not end while the request could wait. Platforms then send a DELETE, which stops the job."""

    sentence = (
        "Atlas has not finished after {:.0f} seconds. Try again in a few minutes; if that takes too long again, ask "
        "the operator of your platform whether it can use asynchronous operations."
    )


class OperationFailed(OsbError):
    """The job that a request waited for has failed; the message is the job's sentence."""
