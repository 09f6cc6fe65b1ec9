"""What a production broker needs: a replica set of three members, Redis with two replicas and three sentinels."""

import time
from contextlib import suppress
from functools import cached_property

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.dev.processes import HOST, Running, close_all, start_all
from tests.dev.services import Document, Mongod, Redis, Sentinel
from tests.tenant import eventually


class Member(Mongod):
    """A member of a replica set; its URI names all members."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.members: list[Member] = []

    @property
    def uri(self) -> str:
        return f"mongodb://{','.join(each.address for each in self.members)}/?replicaSet=rs0"

    @cached_property
    def direct(self) -> MongoClient[Document]:
        """A client of this member alone."""
        return MongoClient(self.address, directConnection=True, serverSelectionTimeoutMS=500, socketTimeoutMS=1000)

    def answers(self) -> bool:
        return bool(self.direct.admin.command("ping"))

    def is_primary(self) -> bool:
        with suppress(PyMongoError):
            return bool(self.direct.admin.command("hello")["isWritablePrimary"])
        return False

    def has_caught_up(self) -> bool:
        """Whether it serves as primary or as secondary."""
        with suppress(PyMongoError):
            hello = self.direct.admin.command("hello")
            return bool(hello["isWritablePrimary"] or hello["secondary"])
        return False

    def initiate(self) -> None:
        members = [{"_id": number, "host": each.address} for number, each in enumerate(self.members)]
        self.direct.admin.command("replSetInitiate", {"_id": "rs0", "members": members})


class Topology(Running):
    """All of it, with the time-outs for elections and failovers that MongoDB has by default."""

    def __init__(self) -> None:
        self.members = [Member(f"mongod-{number}") for number in range(3)]
        for each in self.members:
            each.members = self.members
        self.master = Redis("redis-master")
        of_master = ("--replicaof", f"{HOST} {self.master.port}")
        self.redis_servers = [self.master, Redis("redis-2", of_master), Redis("redis-3", of_master)]
        self.sentinels = [Sentinel(self.master, f"sentinel-{number}", quorum=2) for number in range(3)]

    @property
    def redis_url(self) -> str:
        return f"{';'.join(each.uri for each in self.sentinels)}?master_name=m"

    def start(self) -> None:
        start_all([*self.members, *self.redis_servers])
        start_all(self.sentinels)
        self.members[0].initiate()
        self.wait_until_whole()

    def close(self) -> None:
        for each in self.members:
            each.direct.close()
        close_all([*self.sentinels, *self.redis_servers, *self.members])

    def wait_until_whole(self) -> None:
        """Wait until a primary and two secondaries serve, and all sentinels know each other and both replicas."""
        eventually(lambda: all(each.has_caught_up() for each in self.members), "all members serve", 60)
        eventually(lambda: any(each.is_primary() for each in self.members), "there is a primary", 60)
        known = {"replicas": len(self.redis_servers) - 1, "sentinels": len(self.sentinels) - 1}
        eventually(lambda: all(each.knows(**known) for each in self.sentinels), "the sentinels know all", 60)

    def primary(self) -> Member:
        return eventually(lambda: next((each for each in self.members if each.is_primary()), None), "a primary", 60)

    def wait_for_another_primary(self, old: Member) -> float:
        """Return how long it took until a majority confirmed what another primary wrote.

        That is seconds after its election when the old primary is frozen: the third member goes on to ask that one for
        what is new, until its own time-out.
        """
        began = time.monotonic()
        others = [each for each in self.members if each is not old]
        new = eventually(lambda: next((each for each in others if each.is_primary()), None), "another primary", 60)
        with MongoClient[Document](new.address, directConnection=True) as client:
            note = {"appendOplogNote": 1, "data": {"by": "test"}}
            client.admin.command({**note, "writeConcern": {"w": "majority", "j": True, "wtimeout": 60_000}})
        return time.monotonic() - began

    def redis_master(self) -> Redis:
        """Which server the sentinels name."""
        port = self.sentinels[0].master_port()
        return next(each for each in self.redis_servers if each.port == port)

    def wait_for_another_master(self, old: Redis) -> float:
        """Return how long it took."""
        began = time.monotonic()
        eventually(lambda: all(each.master_port() != old.port for each in self.sentinels), "another master", 60)
        return time.monotonic() - began
