"""The exceptions that modules of the broker raise for each other.

A message is written for the platform's user: it names no library, class or file. The table in ``broker_api.osb.errors``
has the status and the code of each.
"""

from typing import ClassVar


class SettingError(Exception):
    """A setting is missing or wrong, and the process cannot start. The message is ``NAME: what it should be``."""


class UndecryptableError(Exception):
    """None of the encryption keys opens what was stored: a key was taken away too early."""

    def __init__(self) -> None:
        super().__init__("None of BROKER_ENCRYPTION_KEYS opens a stored secret: put back the key that wrote it.")


# --- names and sentences of atlasbroker 2.0.0 -----------------------------------------------------------------------


class NamedError(Exception):
    """An error whose sentence names one thing."""

    sentence: ClassVar[str]

    def __init__(self, name: object) -> None:
        super().__init__(self.sentence.format(name))


class ErrClusterNotFound(NamedError):
    """Atlas has no cluster of this name that the broker may use."""

    sentence = "The cluster {} is not available on Atlas."


class ErrClusterConfig(NamedError):
    """The cluster exists, but its connection string is not known."""

    sentence = "The cluster configuration for {} is not available."


class ErrStorageMongoConnection(Exception):
    """MongoDB cannot be used.

    Attributes:
        during: What was being done.
        reason: Why it failed, for operators.
    """

    def __init__(self, during: str, reason: str = "") -> None:
        super().__init__(f"The storage is not able to communicate with MongoDB [{during}]")
        self.during = during
        self.reason = reason


class ErrStorageUnreadable(Exception):
    """A stored document is in a form that this release does not know. Another release may know it."""

    def __init__(self, what: str, *, readable: bool) -> None:
        why = (
            "is in a state that only another release of the broker knows; ask again when its update is done."
            if readable
            else "cannot be read; the broker's operator finds the reason in the log (document_unreadable)."
        )
        super().__init__(f"The broker's record of the {what} {why}")


class ErrStorageTypeUnsupported(NamedError):
    """The store was given something that is neither an instance nor a binding."""

    sentence = "Type [{}] unsupported"


class ErrStorageRemoveInstance(NamedError):
    """An instance could not be removed from the store."""

    sentence = "Failed to remove the instance {}"


class ErrStorageRemoveBinding(NamedError):
    """A binding could not be removed from the store."""

    sentence = "Failed to remove the binding {}"


class ErrStorageStore(Exception):
    """An instance or binding could not be written."""

    def __init__(self, sentence: str = "Failed to store the instance or binding.") -> None:
        super().__init__(sentence)


class ErrStorageTooLarge(ErrStorageStore):
    """An instance or binding would be larger than a document of MongoDB can be. To ask again does not help."""

    def __init__(self) -> None:
        super().__init__("The instance or binding is too large to be stored; give it fewer or shorter parameters.")


class ErrStorageFindInstance(NamedError):
    """The instance that a binding or an update is asked for does not exist."""

    sentence = "Failed to find the instance {}."


class ErrPlanUnsupported(NamedError):
    """The catalog has no such plan."""

    sentence = "Plan [{}] not supported."


# --- answers of the Open Service Broker API (spec.md, "Service Broker Errors") --------------------------------------


class OsbError(Exception):
    """A request is refused or has failed; the message is the answer's ``description``."""


class BadRequest(OsbError):
    """The request is malformed, or names something that the catalog does not have."""


class NotFound(OsbError):
    """There is no such instance or binding, or not yet."""


class Gone(OsbError):
    """There is no such instance or binding any more."""

    def __init__(self, description: str = "It does not exist (any more).") -> None:
        super().__init__(description)


class Conflict(OsbError):
    """An instance or binding of this id exists with other attributes."""


class AsyncRequired(OsbError):
    """The platform must allow asynchronous operations. Clients compare the sentence word for word."""

    def __init__(self) -> None:
        super().__init__("This service plan requires client support for asynchronous service operations.")


class ConcurrencyError(OsbError):
    """Another operation on the same instance or binding is running. Clients compare the sentence word for word."""

    def __init__(self) -> None:
        super().__init__("The Service Broker does not support concurrent requests that mutate the same resource.")


class MaintenanceInfoConflict(OsbError):
    """The maintenance version of the plan in the request is not the one in the catalog."""

    def __init__(self, given: str, current: str | None) -> None:
        now = f"the catalog's is {current}" if current else "the plan has none"
        super().__init__(f"maintenance_info.version {given!r} does not match: {now}. Fetch the catalog again.")


class UpdateNotSupported(OsbError):
    """The update can never succeed as asked, for example a change of plan."""


class OutOfTime(OsbError):
    """The job was not done while the request could wait. Platforms then send a DELETE, which stops the job."""

    def __init__(self, waited: float) -> None:
        super().__init__(
            f"Atlas has not finished after {waited:.0f} seconds. Try again in a few minutes; if that takes too long "
            "again, ask the operator of your platform whether it can use asynchronous operations."
        )


class OperationFailed(OsbError):
    """The job that a request waited for has failed; the message is the job's sentence."""
