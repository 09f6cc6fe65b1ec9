"""Every exception of the broker that crosses a module: the seed's nine, and the answers that OSB names.

A message is written for the platform's user: it names no library, class or file. What status and code each one
becomes is the business of the one table in ``broker_api.osb.errors``.
"""


class SettingError(Exception):
    """A setting is missing or wrong; the message is ``NAME: what it should be``, fit to stop a process with."""


class UndecryptableError(Exception):
    """None of the keys opens what was stored: one was taken away too early."""

    def __init__(self) -> None:
        super().__init__("None of BROKER_ENCRYPTION_KEYS opens a stored secret: put back the key that wrote it.")


# --- the seed's nine ------------------------------------------------------------------------------------------


class ErrClusterNotFound(Exception):
    """Atlas has no cluster of this name that the broker may use."""

    def __init__(self, cluster: str) -> None:
        super().__init__(f"The cluster {cluster} is not available on Atlas.")


class ErrClusterConfig(Exception):
    """The cluster exists, but its connection string is not known."""

    def __init__(self, cluster: str) -> None:
        super().__init__(f"The cluster configuration for {cluster} is not available.")


class ErrStorageMongoConnection(Exception):
    """MongoDB cannot be reached; ``during`` says what was being done, ``reason`` (for operators) why it failed."""

    def __init__(self, during: str, reason: str = "") -> None:
        super().__init__(f"The storage is not able to communicate with MongoDB [{during}]")
        self.during = during
        self.reason = reason


class ErrStorageUnreadable(Exception):
    """A stored document is in a form that this release does not know. 503: another release may know it."""

    def __init__(self, what: str, *, readable: bool) -> None:
        why = (
            "is in a state that only another release of the broker knows; ask again when its update is done."
            if readable
            else "cannot be read; the broker's operator finds the reason in the log (document_unreadable)."
        )
        super().__init__(f"The broker's record of the {what} {why}")


class ErrStorageTypeUnsupported(Exception):
    """The store was given something that is neither an instance nor a binding."""

    def __init__(self, type_obj: type) -> None:
        super().__init__(f"Type [{type_obj}] unsupported")


class ErrStorageRemoveInstance(Exception):
    """An instance could not be removed from the store."""

    def __init__(self, instance_id: str) -> None:
        super().__init__(f"Failed to remove the instance {instance_id}")


class ErrStorageRemoveBinding(Exception):
    """A binding could not be removed from the store."""

    def __init__(self, binding_id: str) -> None:
        super().__init__(f"Failed to remove the binding {binding_id}")


class ErrStorageStore(Exception):
    """An instance or binding could not be written."""

    def __init__(self, sentence: str = "Failed to store the instance or binding.") -> None:
        super().__init__(sentence)


class ErrStorageTooLarge(ErrStorageStore):
    """An instance or binding would be larger than a document of MongoDB can be. 400: asked again it is so again."""

    def __init__(self) -> None:
        super().__init__("The instance or binding is too large to be stored; give it fewer or shorter parameters.")


class ErrStorageFindInstance(Exception):
    """The instance that a binding is asked for does not exist."""

    def __init__(self, instance_id: str) -> None:
        super().__init__(f"Failed to find the instance {instance_id}.")


class ErrPlanUnsupported(Exception):
    """The catalog has no such plan."""

    def __init__(self, plan_id: str) -> None:
        super().__init__(f"Plan [{plan_id}] not supported.")


# --- what OSB names (spec.md, "Service Broker Errors") --------------------------------------------------------


class OsbError(Exception):
    """An answer that says no; the message is its ``description``."""


class BadRequest(OsbError):
    """The request is malformed, or names something that the catalog does not have. 400."""


class NotFound(OsbError):
    """There is no such instance or binding, or not yet. 404."""


class Gone(OsbError):
    """There is no such instance or binding any more. 410."""

    def __init__(self, description: str = "It does not exist (any more).") -> None:
        super().__init__(description)


class Conflict(OsbError):
    """An instance or binding of this id exists with other attributes. 409."""


class AsyncRequired(OsbError):
    """The platform must allow asynchronous operations. 422; clients compare the sentence verbatim."""

    def __init__(self) -> None:
        super().__init__("This service plan requires client support for asynchronous service operations.")


class ConcurrencyError(OsbError):
    """Another operation on the same instance or binding is running. 422; clients compare the sentence verbatim."""

    def __init__(self) -> None:
        super().__init__("The Service Broker does not support concurrent requests that mutate the same resource.")


class MaintenanceInfoConflict(OsbError):
    """The platform's idea of the plan's maintenance version is not the catalog's. 422."""

    def __init__(self, given: str, current: str | None) -> None:
        now = f"the catalog's is {current}" if current else "the plan has none"
        super().__init__(f"maintenance_info.version {given!r} does not match: {now}. Fetch the catalog again.")


class UpdateNotSupported(OsbError):
    """The update can never succeed as asked, for example a change of plan. 422 without a code."""


class OutOfTime(OsbError):
    """The job was not done while the request could wait. 504: platforms answer with a DELETE, which stops it."""

    def __init__(self, waited: float) -> None:
        super().__init__(
            f"Atlas has not finished after {waited:.0f} seconds. Try again in a few minutes; if that takes too long "
            "again, ask the operator of your platform whether it can use asynchronous operations."
        )


class OperationFailed(OsbError):
    """The job that a request waited for has failed; the message is the job's sentence. 500."""
