"""Reservations of databases: one document for each database, with its owner and the instances that use it.

The document decides between concurrent provisions of the same database, prevents provisions while the database is being
dropped, and remembers a retained database after the documents of its instances are gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from pydantic import Field, ValidationError
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from broker_api.errors import TamperedError
from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import NOW, Document, assignments
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.record_macs import RecordMacs
from broker_api.state.records import Instance, Owner, Place, Record

log = structlog.get_logger(__name__)

RESERVATIONS = "database/"
DROPPED_SECONDS = 600
"""How long Atlas may still list a dropped database, since it lists what its monitoring saw last."""


class Reservation(Record):
    """The reservation of a database for an owner.

    Attributes:
        owned: An instance of this owner created the database, so it contains no data of others.
        first: The id of the first instance that used it.
        instance_ids: The instances that use it now.
        used: It may contain data of an instance other than ``first``, or of a deleted one.
        dropping: The id of the instance that is dropping it.
        dropped: It does not exist any more, although Atlas may still list it.
        mac: The MAC of the fields that do not change (see ``record_macs``): name, owner, ``owned`` and ``first``; of a
            dropped one only of the name.
    """

    name: str
    organization_guid: str | None = None
    space_guid: str | None = None
    owned: bool = False
    first: str = ""
    instance_ids: tuple[str, ...] = Field(default=(), alias="users")
    used: bool = False
    dropping: str | None = None
    dropped: bool = False
    mac: str | None = None

    @property
    def kept_values(self) -> list[object]:
        """The values that the MAC covers."""
        if self.dropped:
            return [self.name]
        return [self.name, self.organization_guid, self.space_guid, self.owned, self.first]

    @property
    def owner(self) -> Owner:
        """The organization and space to which the database belongs."""
        return self.organization_guid, self.space_guid


@dataclass(frozen=True)
class ReservationRequest:
    """A request for a reservation.

    Attributes:
        instance: The instance, with the project, cluster and database to reserve.
        owner: The owner of the database if it has no document yet.
        owned: Whether that owner created the database, if it has no document yet.
        used: Other instances have used the database before it had a document.
        sharing: Reserve the database even if it belongs to another owner.
    """

    instance: Instance
    owner: Owner
    owned: bool
    used: bool = False
    sharing: bool = False


@dataclass(frozen=True)
class Reservations:
    """The documents ``database/<project>/<cluster>/<name in lower case>``. Each method is safe to repeat.

    Each method raises ErrStorageMongoConnection when MongoDB cannot be used.
    """

    housekeeping: Housekeeping

    @storage_errors("find a database")
    def find(self, instance: Instance) -> Reservation | None:
        """Return the reservation of the database of an instance; None when there is none."""
        document = self.housekeeping.collection.find_one({"_id": _key(instance)})
        return checked(document, self.housekeeping.store.macs) if document else None

    @storage_errors("reserve a database")
    def reserve(self, wanted: ReservationRequest) -> Reservation:
        """Add an instance to those that use its database, unless the name is taken or the database is being dropped.

        Returns:
            The reservation after the change. If the instance has the database now, ``instance_ids`` contains its id.

        Raises:
            TamperedError, MissingKeyError: As in ``find``.
        """
        instance, (organization, space) = wanted.instance, wanted.owner
        key, first = _key(instance), instance.instance_id
        kept_values = [instance.database, organization, space, wanted.owned, first]
        made = assignments(
            {
                "_id": key,
                "name": instance.database,
                "organization_guid": organization,
                "space_guid": space,
                "owned": wanted.owned,
                "first": first,
                "used": wanted.used,
                "dropping": None,
                "dropped": False,
                "mac": self.housekeeping.store.macs.of_value(kept_values, Place(key, "mac")),
            }
        )
        me = made["first"]
        made["users"] = [me]
        same_owner = [
            {"$eq": [f"${field}", {"$literal": own}]}
            for field, own in zip(("organization_guid", "space_guid"), instance.owner, strict=True)
        ]
        same_name, not_dropping = {"$eq": ["$name", made["name"]]}, {"$eq": ["$dropping", None]}
        may_join = {"$and": [same_name, not_dropping, *([] if wanted.sharing else same_owner)]}
        joined = {"users": {"$setUnion": ["$users", [me]]}, "used": {"$or": ["$used", {"$ne": ["$first", me]}]}}
        exists = {"$and": [{"$ne": [{"$type": "$name"}, "missing"]}, {"$ne": ["$dropped", True]}]}
        kept = {"$cond": [may_join, {"$mergeObjects": ["$$ROOT", joined]}, "$$ROOT"]}
        write = partial(
            self.housekeeping.collection.find_one_and_update,
            {"_id": key},
            [{"$replaceWith": {"$cond": [exists, kept, made]}}],
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        try:
            document = write()
        except DuplicateKeyError:  # another process has inserted the document at this moment
            document = write()
        return checked(document or {}, self.housekeeping.store.macs)

    @storage_errors("withdraw from a database")
    def withdraw(self, instance: Instance) -> None:
        """Remove the reservation of an instance that was never ready; no trace of it is kept."""
        me = instance.instance_id
        alone = {"_id": _key(instance), "first": me, "users": [me], "used": False}
        if self.housekeeping.collection.delete_one(alone).deleted_count == 0:
            self.housekeeping.collection.update_one({"_id": _key(instance), "users": me}, {"$pull": {"users": me}})

    @storage_errors("leave a database")
    def leave(self, instance: Instance) -> None:
        """Remove an instance from those that use its database; the database and its reservation stay."""
        mine = {"_id": _key(instance), "users": instance.instance_id}
        self.housekeeping.collection.update_one(
            mine, {"$pull": {"users": instance.instance_id}, "$set": {"used": True}}
        )

    @storage_errors("forget an instance of a database")
    def forget(self, instance: Instance, another: str) -> None:
        """Remove another instance, which does not exist any more, from those that use a database.

        Args:
            instance: An instance that has the database.
            another: The id of the instance to remove.
        """
        self.housekeeping.collection.update_one({"_id": _key(instance)}, {"$pull": {"users": another}})

    @storage_errors("begin to drop a database")
    def begin_drop(self, instance: Instance, leaving: list[str]) -> bool:
        """Mark a database as being dropped, so that no provision gets it.

        Args:
            instance: The instance that drops it.
            leaving: The ids of other instances that are being deleted.

        Returns:
            False when other instances than these use it, or another instance is dropping it.
        """
        free = {
            "_id": _key(instance),
            "users": {"$not": {"$elemMatch": {"$nin": [instance.instance_id, *leaving]}}},
            "dropping": {"$in": [None, instance.instance_id]},
            "dropped": False,
        }
        return (
            self.housekeeping.collection.update_one(free, {"$set": {"dropping": instance.instance_id}}).matched_count
            == 1
        )

    @storage_errors("end dropping a database")
    def end_drop(self, instance: Instance, dropping: str) -> None:
        """Remove the mark of ``begin_drop``, so that provisions can have the database again.

        Args:
            instance: An instance that has the database.
            dropping: The id of the instance that set the mark.
        """
        self.housekeeping.collection.update_one(
            {"_id": _key(instance), "dropping": dropping}, {"$set": {"dropping": None}}
        )

    @storage_errors("note that a database is dropped")
    def dropped(self, instance: Instance) -> None:
        """Record that an instance has dropped its database, which makes the name free.

        If other instances that are being deleted still have the database, it stays reserved for them: their
        applications may have written to it again, so they drop it again.
        """
        me = {"$literal": instance.instance_id}
        left = {"$setDifference": ["$users", [me]]}
        mac = self.housekeeping.store.macs.of_value([instance.database], Place(_key(instance), "mac"))
        gone: Document = {
            "_id": "$_id",
            "name": {"$literal": instance.database},
            "users": [],
            "dropping": None,
            "dropped": True,
            "mac": {"$literal": mac},
            "expire_at": {"$add": [NOW, DROPPED_SECONDS * 1000]},
        }
        others = {"$mergeObjects": ["$$ROOT", {"users": left, "dropping": None}]}
        self.housekeeping.collection.update_one(
            {"_id": _key(instance), "dropping": instance.instance_id},
            [{"$replaceWith": {"$cond": [{"$eq": [left, []]}, gone, others]}}],
        )


def checked(document: Mapping[str, Any], macs: RecordMacs) -> Reservation:
    """Return the reservation in a document.

    Raises:
        TamperedError: It is not as the broker wrote it.
        MissingKeyError: The key of its MAC is not known.
    """
    key, why = str(document.get("_id")), "its MAC does not fit or is missing"
    try:
        found = Reservation.model_validate(document)
        if macs.fits(found.kept_values, found.mac, Place(key, "mac")):
            return found
    except ValidationError:
        why = "it cannot be read"
    log.error("record_tampered", document=key, mac="mac", reason=why)
    raise TamperedError(f"the database {key.removeprefix(RESERVATIONS)}", why)


def _key(instance: Instance) -> str:
    return f"{RESERVATIONS}{instance.project}/{instance.cluster}/{(instance.database or '').lower()}"
