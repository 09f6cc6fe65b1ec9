"""The entries of a plan's ``access_list`` in Atlas: added for its instances, removed with the last one that needs them.

An entry that others have made is left as it is and never removed. The broker knows its own entries by the comment.
"""

from collections.abc import Collection
from contextlib import suppress
from enum import StrEnum
from typing import Any

from broker_api.state.records import Instance
from workers.atlas.client import AccessEntry, EntryNotFound
from workers.engine.results import ANSWERED, FailedError, Later
from workers.operations.atlas_job import AtlasJob

PENDING_SECONDS = 2.0


def allow_access(job: AtlasJob[Instance], wanted: Collection[str]) -> None:
    """Add the entries that the project lacks, after a note in MongoDB that this instance needs them.

    Raises:
        HeldBackError: Another operation changes the list now.
        AtlasError: Atlas cannot be asked, or refuses.
    """
    needs, project, operation_id = job.context.access, job.project, job.operation.id
    with needs.changing(project, operation_id):
        needs.add(project, wanted, job.record.instance_id)
        listed = _listed(job)
        for cidr in wanted:
            if cidr not in listed:
                needs.extend(project, operation_id)
                job.atlas.add_access_entry(AccessEntry(cidr, _comment(job)))


def wait_for_access(job: AtlasJob[Instance], wanted: Collection[str], add: StrEnum) -> Later[Any] | None:
    """Return a delay until all entries are active; None when they are.

    Args:
        job: The operation.
        wanted: The entries.
        add: The step that adds entries, for one that has vanished.

    Raises:
        FailedError: Atlas cannot apply an entry.
        AtlasError: Atlas cannot be asked.
    """
    for cidr in wanted:
        sentence = f"Waiting until {cidr} is active in the IP access list of the Atlas project {job.project}."
        try:
            status = job.atlas.access_status(cidr)
        except EntryNotFound:  # another change at the same time has overwritten it
            return Later(PENDING_SECONDS, sentence, step=add)
        if status == "FAILED":
            raise FailedError(f"Atlas cannot apply {cidr} in the IP access list of the project {job.project}.")
        if status != "ACTIVE":
            return Later(PENDING_SECONDS, sentence, operation=ANSWERED)
    return None


def withdraw_access(job: AtlasJob[Instance], keep: Collection[str] = ()) -> Later[Any] | None:
    """Remove the entries that this instance does not need any more, unless others need them or have made them.

    Args:
        job: The operation.
        keep: The entries that the instance still needs.

    Returns:
        A delay while a request that adds an entry may still take effect; None when they are removed.

    Raises:
        HeldBackError: Another operation changes the list now.
        AtlasError: Atlas cannot be asked, or refuses.
    """
    needs, project, me = job.context.access, job.project, job.record.instance_id
    if needs.of_instance(project, me).keys() <= {*keep}:
        return None
    if wait := job.wait_for_late_effect():
        return wait
    with needs.changing(project, job.operation.id):
        listed = _listed(job)
        for cidr, users in needs.of_instance(project, me).items():
            if cidr in keep:
                continue
            if users == [me] and listed.get(cidr) == _comment(job):
                needs.extend(project, job.operation.id)
                with suppress(EntryNotFound):
                    job.atlas.delete_access_entry(cidr)
            needs.remove(project, cidr, me)
    return None


def _comment(job: AtlasJob[Instance]) -> str:
    """Return the comment of the entries that this broker adds; Atlas allows 80 characters."""
    return f"Atlas Broker {job.context.housekeeping.broker_id}"


def _listed(job: AtlasJob[Instance]) -> dict[str, str]:
    """Return the comments of the entries in Atlas by their CIDR; a single address has the CIDR of it alone."""
    return {str(entry.network): entry.comment for entry in job.atlas.access_list() if entry.network}
