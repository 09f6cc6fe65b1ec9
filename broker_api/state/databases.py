"""Which instances have which database: one document for each database, beside the instances.

It decides between provisions that name the same database at once, keeps a deprovision that drops one apart from
provisions that begin to use it, and remembers what was left behind after its instances are forgotten.
"""

from dataclasses import dataclass

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from broker_api.state.housekeeping import Housekeeping
from broker_api.state.mongo import NOW, Document, assignments
from broker_api.state.mongo_errors import storage_errors
from broker_api.state.records import Instance, Owner, Record

DROPPED_SECONDS = 600
"""For so long Atlas may still list a database that was dropped: it tells what its monitoring saw last."""


class DatabaseRecord(Record):
    """What is known of a database. ``users`` are the instances that have it now, ``dropping`` the one that drops it.

    ``owned``: an instance of this owner made it, so it holds nothing else. ``used``: more than the instance that came
    first has had it, or that one left it behind. ``dropped``: it is gone, which Atlas may not tell yet.
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
        """The organization and space that have it."""
        return self.organization_guid, self.space_guid


@dataclass(frozen=True)
class Reservation:
    """A claim that an instance makes: ``owned`` and ``owner`` hold when there is no document yet.

    ``used``: others have had the database before there were such documents. ``sharing``: other owners may have it too.
    """

    instance: Instance
    owner: Owner
    owned: bool
    used: bool = False
    sharing: bool = False


class Databases:
    """The documents ``database/<project>/<cluster>/<name in lower case>``. Every method may be repeated safely."""

    def __init__(self, housekeeping: Housekeeping) -> None:
        self._documents = housekeeping.collection

    @storage_errors("find a database")
    def find(self, instance: Instance) -> DatabaseRecord | None:
        """Return what is known of an instance's database."""
        document = self._documents.find_one({"_id": _key(instance)})
        return DatabaseRecord.model_validate(document) if document else None

    @storage_errors("claim a database")
    def reserve(self, wanted: Reservation) -> DatabaseRecord:
        """Add an instance to the users of its database, unless the name is taken or the database is being dropped.

        Gives the document after that; the instance is one of its ``users`` if it may have the database.
        """
        try:
            return self._claim(wanted)
        except DuplicateKeyError:  # another one has inserted it at this moment
            return self._claim(wanted)

    def _claim(self, wanted: Reservation) -> DatabaseRecord:
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
        pairs = zip(("$organization_guid", "$space_guid"), instance.owner, strict=True)
        same_owner = [{"$eq": [held, {"$literal": own}]} for held, own in pairs]
        may_join: Document = {
            "$and": [
                {"$eq": ["$name", made["name"]]},
                {"$eq": ["$dropping", None]},
                *([] if wanted.sharing else same_owner),
            ]
        }
        joined = {"users": {"$setUnion": ["$users", [me]]}, "used": {"$or": ["$used", {"$ne": ["$first", me]}]}}
        exists = {"$and": [{"$ne": [{"$type": "$name"}, "missing"]}, {"$ne": ["$dropped", True]}]}
        kept = {"$cond": [may_join, {"$mergeObjects": ["$$ROOT", joined]}, "$$ROOT"]}
        document = self._documents.find_one_and_update(
            {"_id": _key(instance)},
            [{"$replaceWith": {"$cond": [exists, kept, made]}}],
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        return DatabaseRecord.model_validate(document)

    @storage_errors("withdraw from a database")
    def withdraw(self, instance: Instance) -> None:
        """Take back the claim of an instance that was never ready; nothing of it is remembered."""
        me = instance.instance_id
        alone = {"_id": _key(instance), "first": me, "users": [me], "used": False}
        if self._documents.delete_one(alone).deleted_count == 0:
            self._documents.update_one({"_id": _key(instance), "users": me}, {"$pull": {"users": me}})

    @storage_errors("leave a database")
    def leave(self, instance: Instance) -> None:
        """End an instance's use of its database, which stays and is remembered."""
        mine = {"_id": _key(instance), "users": instance.instance_id}
        self._documents.update_one(mine, {"$pull": {"users": instance.instance_id}, "$set": {"used": True}})

    @storage_errors("forget users of a database")
    def forget(self, instance: Instance, user: str) -> None:
        """Remove a user that does not have the database of ``instance`` any more."""
        self._documents.update_one({"_id": _key(instance)}, {"$pull": {"users": user}})

    @storage_errors("begin to drop a database")
    def begin_drop(self, instance: Instance, leaving: list[str]) -> bool:
        """Keep provisions off a database that an instance is about to drop.

        False when it has users besides the instance and those that are ``leaving``, or another one is dropping it.
        """
        free = {
            "_id": _key(instance),
            "users": {"$not": {"$elemMatch": {"$nin": [instance.instance_id, *leaving]}}},
            "dropping": {"$in": [None, instance.instance_id]},
            "dropped": False,
        }
        return self._documents.update_one(free, {"$set": {"dropping": instance.instance_id}}).matched_count == 1

    @storage_errors("end dropping a database")
    def end_drop(self, instance: Instance, dropping: str) -> None:
        """Let provisions have the database of ``instance`` again, which the instance ``dropping`` does not drop."""
        self._documents.update_one({"_id": _key(instance), "dropping": dropping}, {"$set": {"dropping": None}})

    @storage_errors("note that a database is dropped")
    def dropped(self, instance: Instance) -> None:
        """Free the name of a database that is dropped, unless others that are leaving have yet to drop it too.

        Their applications may have written to it once more.
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
        self._documents.update_one(
            {"_id": _key(instance), "dropping": instance.instance_id},
            [{"$replaceWith": {"$cond": [{"$eq": [left, []]}, gone, others]}}],
        )


def _key(instance: Instance) -> str:
    return f"database/{instance.project}/{instance.cluster}/{(instance.database or '').lower()}"
