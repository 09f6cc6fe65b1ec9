"""The IP access list of a project: which instances need which entry, and the right to change the list.

Atlas loses one of two changes that are made at the same time, so a worker changes the list only with a lease.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo_errors import storage_errors
from workers.engine.results import HeldBackError

ACCESS_LEASE_SECONDS = 30.0
BUSY_SECONDS = 1.0
_PREFIX = "access/"


@dataclass(frozen=True)
class AccessNeeds:
    """The documents ``access/<project>/<CIDR>``, with the ids of the instances that need the entry.

    Each method raises ErrStorageMongoConnection when MongoDB cannot be used.
    """

    housekeeping: Housekeeping

    @contextmanager
    def changing(self, project: str, owner: str) -> Iterator[None]:
        """Hold the lease of the list of a project.

        Args:
            project: The project.
            owner: The id of the operation that changes the list.

        Raises:
            HeldBackError: Another operation changes it.
        """
        self.extend(project, owner)
        try:
            yield
        finally:
            self.housekeeping.release(f"access-list/{project}", owner)

    def extend(self, project: str, owner: str) -> None:
        """Take or extend the lease, before each change; raise HeldBackError if another operation has it."""
        if not self.housekeeping.acquire(f"access-list/{project}", owner, ACCESS_LEASE_SECONDS):
            raise HeldBackError(BUSY_SECONDS, f"Waiting for another change of the IP access list of {project}.")

    @storage_errors("note the need of access")
    def add(self, project: str, cidrs: Iterable[str], instance_id: str) -> None:
        """Note that an instance needs entries."""
        for cidr in cidrs:
            users = {"$addToSet": {"users": instance_id}}
            self.housekeeping.collection.update_one({"_id": f"{_PREFIX}{project}/{cidr}"}, users, upsert=True)

    @storage_errors("find needs of access")
    def of_instance(self, project: str, instance_id: str) -> dict[str, list[str]]:
        """Return the entries that an instance needs, each with the ids of all instances that need it."""
        start = f"{_PREFIX}{project}/"
        query: dict[str, Any] = {"_id": {"$regex": f"^{re.escape(start)}"}, "users": instance_id}
        found = self.housekeeping.collection.find(query)
        return {str(each["_id"]).removeprefix(start): [*each["users"]] for each in found}

    @storage_errors("forget the need of access")
    def remove(self, project: str, cidr: str, instance_id: str) -> None:
        """Note that an instance does not need an entry any more."""
        name = f"{_PREFIX}{project}/{cidr}"
        self.housekeeping.collection.update_one({"_id": name}, {"$pull": {"users": instance_id}})
        self.housekeeping.collection.delete_one({"_id": name, "users": []})
