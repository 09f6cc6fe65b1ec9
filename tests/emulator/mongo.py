"""The real users: what an applied change does in a real `mongod` with access control on."""

import threading
import time
from typing import Any

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, OperationFailure

from tests.emulator.model import Json, User

AWAY_SECONDS = 0.5
USER_NOT_FOUND = 11
ROLE_EXISTS = 51002
USER_EXISTS = 51003

_READ = ["find", "collStats", "dbHash", "killCursors", "listIndexes"]
_WRITE = ["insert", "update", "remove", "createCollection", "createIndex", "dropCollection", "dropIndex"]
_COLLECTION_ACTIONS = {"read": _READ, "readWrite": _READ + _WRITE}


class Mongod:
    """One mongod. A version of a user is applied at most once, and never after a later one."""

    def __init__(self, uri: str) -> None:
        self._client: MongoClient[Json] = MongoClient(
            uri, connect=False, serverSelectionTimeoutMS=500, connectTimeoutMS=500, socketTimeoutMS=5000
        )
        self._versions: dict[str, int] = {}
        self._locks = [threading.Lock() for _ in range(64)]
        self._floor = 0
        self._ready = False
        self._away_until = 0.0

    def apply(self, name: str, version: int, user: User | None, custom: dict[str, Json]) -> None:
        """Raises PyMongoError when the mongod cannot be reached or refuses; then nothing counts as applied.

        One that could not be reached is left alone for a moment, so that it does not hold up the others.
        """
        if time.monotonic() < self._away_until:
            raise ConnectionFailure("away a moment ago")
        try:
            self._apply(name, version, user, custom)
        except ConnectionFailure:
            self._away_until = time.monotonic() + AWAY_SECONDS
            raise

    def _apply(self, name: str, version: int, user: User | None, custom: dict[str, Json]) -> None:
        with self._lock(name):
            if self._versions.get(name, self._floor) >= version:
                return
            self._versions.setdefault(name, self._floor)  # so that `clear` knows of a user who is just being made
            if user is None:
                self._drop(name)
            elif user.password is not None:  # users without one authenticate elsewhere, which no mongod here can
                self._put(user, custom)
            self._versions[name] = version

    def databases(self) -> list[str]:
        return list(self._client.list_database_names())

    def clear(self, version: int) -> None:
        """Drops every user that was made here; no change up to this version is applied any more."""
        self._floor = version
        names, self._versions = list(self._versions), {}
        for name in names:
            with self._lock(name):
                self._drop(name)

    def _lock(self, name: str) -> threading.Lock:
        return self._locks[hash(name) % len(self._locks)]

    def _put(self, user: User, custom: dict[str, Json]) -> None:
        self._prepare()
        settings = {
            "pwd": user.password,
            "roles": [self._role(role, custom) for role in user.attributes["roles"]],
            "mechanisms": ["SCRAM-SHA-256"],
        }
        try:
            self._command("createUser", user.name, settings)
        except OperationFailure as error:
            if error.code != USER_EXISTS:
                raise
            self._command("updateUser", user.name, settings)

    def _drop(self, name: str) -> None:
        try:
            self._command("dropUser", name, {})
        except OperationFailure as error:
            if error.code != USER_NOT_FOUND:
                raise

    def _prepare(self) -> None:
        """The fewest hash rounds that mongod allows: a hundred users are to be made, not to be kept safe."""
        if not self._ready:
            self._command("setParameter", 1, {"scramSHA256IterationCount": 5000})
            self._ready = True

    def _role(self, role: Json, custom: dict[str, Json]) -> Json:
        if role["roleName"] in custom:
            return self._custom(custom[role["roleName"]])
        if role.get("collectionName"):
            return self._collection(role)
        if role["roleName"] == "atlasAdmin":
            return {"role": "root", "db": "admin"}
        return {"role": role["roleName"], "db": role["databaseName"]}

    def _collection(self, role: Json) -> Json:
        name = f"{role['roleName']} {role['databaseName']}.{role['collectionName']}"
        resource = {"db": role["databaseName"], "collection": role["collectionName"]}
        privileges = [{"resource": resource, "actions": _COLLECTION_ACTIONS[role["roleName"]]}]
        return self._define(name, {"privileges": privileges, "roles": []})

    def _custom(self, role: Json) -> Json:
        privileges = [
            {"resource": _resource(resource), "actions": [_action(action["action"])]}
            for action in role["actions"]
            for resource in action["resources"]
        ]
        inherited = [{"role": one["role"], "db": one["db"]} for one in role["inheritedRoles"]]
        return self._define(role["roleName"], {"privileges": privileges, "roles": inherited})

    def _define(self, name: str, definition: Json) -> Json:
        try:
            self._command("createRole", name, definition)
        except OperationFailure as error:
            if error.code != ROLE_EXISTS:
                raise
            self._command("updateRole", name, definition)
        return {"role": name, "db": "admin"}

    def _command(self, command: str, value: str | int, settings: dict[str, Any]) -> None:
        self._client.admin.command(command, value, **settings)


def _resource(resource: Json) -> Json:
    if resource.get("cluster"):
        return {"cluster": True}
    return {"db": resource.get("db", ""), "collection": resource.get("collection", "")}


def _action(name: str) -> str:
    """Atlas writes COLL_MOD where MongoDB writes collMod."""
    first, *rest = name.lower().split("_")
    return first + "".join(part.capitalize() for part in rest)
