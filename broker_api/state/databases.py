"""Reservations of databases: one document for each database says which instances have it, and which owner.

The document decides between provisions that name the same database at once, keeps provisions off a database that is
being dropped, and remembers what instances left behind after their own documents are gone.
"""

from dataclasses import dataclass
from functools import partial

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import NOW, Document, assignments
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.records import Instance, Owner, Record

DROPPED_SECONDS = 600
"""How long Atlas may still list a database that was dropped: it reports what its monitoring saw last."""


class DatabaseRecord(Record):
    """What is known of a database.

    Attributes:
        owned: An instance of this owner made the database, so it holds no data of others.
        first: The instance that had it first.
        users: The instances that have it now.
        used: Other instances than the first one have had it, or the first one left it behind.
        dropping: The instance that is dropping it.
        dropped: It is gone, though Atlas may still list it.
    """

    name: str
    organization_guid: str | None = None
    space_guid: str | None = None
    owned: bool = False
    first: str = ""
    users: tuple[str, ...] = ()
    used: bool = False
    dropping: str | None = None
    dropped: bool = False

    @property
    def owner(self) -> Owner:
        """The organization and space that it belongs to."""
        return self.organization_guid, self.space_guid


@dataclass(frozen=True)
class Reservation:
    """What an instance asks for.

    Attributes:
        instance: The instance, with the project, cluster and database that it is to have.
        owner: The owner of the database when it has no document yet.
        owned: Whether it is owned when it has no document yet.
        used: Others have had the database before it had a document.
        sharing: The database may belong to another owner.
    """

    instance: Instance
    owner: Owner
    owned: bool
    used: bool = False
    sharing: bool = False


@dataclass(frozen=True)
class Databases:
    """The documents ``database/<project>/<cluster>/<name in lower case>``. Every method can be repeated safely."""

    housekeeping: Housekeeping

    @storage_errors("find a database")
    def find(self, instance: Instance) -> DatabaseRecord | None:
        """Return what is known of an instance's database."""
        document = self.housekeeping.collection.find_one({"_id": _key(instance)})
        return DatabaseRecord.model_validate(document) if document else None

    @storage_errors("reserve a database")
    def reserve(self, wanted: Reservation) -> DatabaseRecord:
        """Add an instance to the users of its database, unless the name is taken or the database is being dropped.

        Returns:
            The document after that. The instance is one of its ``users`` if it has the database now.
        """
        instance, (organization, space) = wanted.instance, wanted.owner
        made = assignments(
            {
                "_id": _key(instance),
                "name": instance.database,
                "organization_guid": organization,
                "space_guid": space,
                "owned": wanted.owned,
                "first": instance.instance_id,
                "used": wanted.used,
                "dropping": None,
                "dropped": False,
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
            {"_id": _key(instance)},
            [{"$replaceWith": {"$cond": [exists, kept, made]}}],
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        try:
            document = write()
        except DuplicateKeyError:  # another process has inserted the document at this moment
            document = write()
        return DatabaseRecord.model_validate(document)

    @storage_errors("withdraw from a database")
    def withdraw(self, instance: Instance) -> None:
        """Take back the reservation of an instance that was never ready; nothing of it is remembered."""
        me = instance.instance_id
        alone = {"_id": _key(instance), "first": me, "users": [me], "used": False}
        if self.housekeeping.collection.delete_one(alone).deleted_count == 0:
            self.housekeeping.collection.update_one({"_id": _key(instance), "users": me}, {"$pull": {"users": me}})

    @storage_errors("leave a database")
    def leave(self, instance: Instance) -> None:
        """End an instance's use of its database, which stays and is remembered."""
        mine = {"_id": _key(instance), "users": instance.instance_id}
        self.housekeeping.collection.update_one(
            mine, {"$pull": {"users": instance.instance_id}, "$set": {"used": True}}
        )

    @storage_errors("forget users of a database")
    def forget(self, instance: Instance, user: str) -> None:
        """Remove a user that does not have the database of ``instance`` any more."""
        self.housekeeping.collection.update_one({"_id": _key(instance)}, {"$pull": {"users": user}})

    @storage_errors("begin to drop a database")
    def begin_drop(self, instance: Instance, leaving: list[str]) -> bool:
        """Keep provisions off a database that an instance is about to drop.

        Returns:
            False when it has users besides the instance and those that are ``leaving``, or another instance is
            dropping it.
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
        """Let provisions have the database of ``instance`` again, since the instance ``dropping`` does not drop it."""
        self.housekeeping.collection.update_one(
            {"_id": _key(instance), "dropping": dropping}, {"$set": {"dropping": None}}
        )

    @storage_errors("note that a database is dropped")
    def dropped(self, instance: Instance) -> None:
        """Free the name of a database that is dropped, unless other instances have it and are leaving.

        Their applications may have written to it since, so they drop it again.
        """
        me = {"$literal": instance.instance_id}
        left = {"$setDifference": ["$users", [me]]}
        gone: Document = {
            "_id": "$_id",
            "name": "$name",
            "users": [],
            "dropping": None,
            "dropped": True,
            "expire_at": {"$add": [NOW, DROPPED_SECONDS * 1000]},
        }
        others = {"$mergeObjects": ["$$ROOT", {"users": left, "dropping": None}]}
        self.housekeeping.collection.update_one(
            {"_id": _key(instance), "dropping": instance.instance_id},
            [{"$replaceWith": {"$cond": [{"$eq": [left, []]}, gone, others]}}],
        )


def _key(instance: Instance) -> str:
    return f"database/{instance.project}/{instance.cluster}/{(instance.database or '').lower()}"
