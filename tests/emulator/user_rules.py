"""What Atlas accepts as a database user: the body of POST and PATCH, checked in the order in which the rules stand."""

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from tests.emulator.errors import ApiError
from tests.emulator.model import Json, Project, wire_time

MAX_DAYS = 7
COLLECTION_ROLES_LIMIT = 100
NAME_LIMIT = 1024
DESCRIPTION_LIMIT = 100

AUTH_TYPES = {
    "awsIAMType": {"NONE", "USER", "ROLE"},
    "ldapAuthType": {"NONE", "GROUP", "USER"},
    "oidcAuthType": {"NONE", "IDP_GROUP", "USER"},
    "x509Type": {"NONE", "CUSTOMER", "MANAGED"},
}
REQUIRED = ("databaseName", "groupId", "roles", "username")
ATTRIBUTES = {*AUTH_TYPES, *REQUIRED, "password", "scopes", "labels", "description", "deleteAfterDate", "links"}
ADMIN_ROLES = {
    "atlasAdmin",
    "backup",
    "clusterMonitor",
    "dbAdminAnyDatabase",
    "enableSharding",
    "readAnyDatabase",
    "readWriteAnyDatabase",
}
DATABASE_ROLES = {"dbAdmin", "read", "readWrite"}
RESTRICTED_ROLES = {"root", "dbOwner", "userAdmin", "userAdminAnyDatabase", "clusterAdmin", "__system", "restore"}
COMMON_PASSWORDS = {"password", "12345678", "password1", "qwertyuiop", "iloveyou"}


def parse(raw: bytes) -> Json:
    try:
        body = json.loads(raw)
    except ValueError:
        raise ApiError("MALFORMED_JSON") from None
    if not isinstance(body, dict):
        raise ApiError("INVALID_JSON")
    for name in sorted(body.keys() - ATTRIBUTES):
        raise ApiError("INVALID_ATTRIBUTE", name)
    return body


def new_user(project: Project, body: Json) -> Json:
    """The attributes of the user that the body of a POST describes. Raises ApiError."""
    _require(body, REQUIRED)
    _check_identity(project, body)
    _check_password(body, required=not _external(body))
    _check_attributes(project, body)
    return _wire(project, body)


def changed_user(project: Project, old: Json, body: Json) -> Json:
    """The attributes of a user after a PATCH with the body. Raises ApiError."""
    _check_unchanged(old, body)
    if body.get("groupId", project.id) != project.id:
        raise ApiError("GROUP_MISMATCH", str(body["groupId"]))
    if body.get("deleteAfterDate") is not None and "deleteAfterDate" not in old:
        raise ApiError("PERMANENT_ENTITY_CANNOT_BE_MADE_TEMPORARY")
    _check_password(body, required=False)
    _check_attributes(project, {**old, **body} if "roles" in body else body)
    return _wire(project, {**old, **body})


def _wire(project: Project, body: Json) -> Json:
    optional: Json = {name: body[name] for name in ("deleteAfterDate", "description") if body.get(name)}
    if "deleteAfterDate" in optional:
        optional["deleteAfterDate"] = wire_time(_date(body["deleteAfterDate"]))
    return {
        **{name: body.get(name, "NONE") for name in AUTH_TYPES},
        **optional,
        "databaseName": body["databaseName"],
        "groupId": project.id,
        "labels": body.get("labels") or [],
        "roles": body["roles"],
        "scopes": body.get("scopes") or [],
        "username": body["username"],
    }


def _require(body: Json, names: Iterable[str]) -> None:
    missing = [name for name in names if body.get(name) is None]
    if missing:
        raise ApiError("MISSING_ATTRIBUTE" if len(missing) == 1 else "MISSING_ATTRIBUTES", ", ".join(missing))


def _text(body: Json, name: str) -> str:
    if not isinstance(body[name], str):
        raise ApiError("INVALID_JSON_ATTRIBUTE", name)
    return str(body[name])


def _entries(body: Json, name: str, required: tuple[str, ...]) -> list[Json]:
    """The list of objects under the name, each of which has the required attributes as text."""
    entries = body.get(name) or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ApiError("INVALID_JSON_ATTRIBUTE", name)
    for entry in entries:
        _require(entry, required)
        for attribute in required:
            _text(entry, attribute)
    return entries


def _external(body: Json) -> bool:
    return any(body.get(name, "NONE") != "NONE" for name in AUTH_TYPES)


def _check_identity(project: Project, body: Json) -> None:
    if body["groupId"] != project.id:
        raise ApiError("GROUP_MISMATCH", str(body["groupId"]))
    name, database = _text(body, "username"), _text(body, "databaseName")
    if not name or len(name) > NAME_LIMIT:
        raise ApiError("ATLAS_INVALID_USERNAME", name)
    if not name.isprintable():
        raise ApiError("INVALID_MONGODB_USERNAME", name)
    if _external(body) and database != "$external":
        raise ApiError("DATABASE_NAME_INVALID_EXTERNAL")
    if not _external(body) and database != "admin":
        raise ApiError("DATABASE_NAME_INVALID_ADMIN", "SCRAM users")


def _check_unchanged(old: Json, body: Json) -> None:
    codes = {"username": "DATABASE_USERNAME_CANNOT_BE_CHANGED", "databaseName": "DATABASE_NAME_CANNOT_BE_CHANGED"}
    for name, code in {**codes, **dict.fromkeys(AUTH_TYPES, "AUTH_TYPE_CANNOT_BE_CHANGED")}.items():
        if body.get(name, old[name]) != old[name]:
            raise ApiError(code)


def _check_password(body: Json, *, required: bool) -> None:
    if body.get("password") is None:
        if required:
            raise ApiError("MISSING_ATTRIBUTE", "password")
        return
    password = _text(body, "password")
    if password.lower() in COMMON_PASSWORDS:
        raise ApiError("COMMON_PASSWORD")
    if len(password) < 8:
        raise ApiError("WEAK_PASSWORD")


def _check_attributes(project: Project, body: Json) -> None:
    for name, values in AUTH_TYPES.items():
        _check_value(body.get(name, "NONE"), values)
    if "roles" in body:
        _check_roles(project, body)
    for scope in _entries(body, "scopes", ("name", "type")):
        _check_value(scope["type"], {"CLUSTER", "DATA_LAKE", "STREAM"})
    for label in _entries(body, "labels", ("key", "value")):
        if not all(1 <= len(label[part]) <= 255 for part in ("key", "value")):
            raise ApiError("VALIDATION_ERROR", "a label's key and value have 1 to 255 characters")
    if body.get("description") is not None and len(_text(body, "description")) > DESCRIPTION_LIMIT:
        raise ApiError("VALIDATION_ERROR", f"a description has at most {DESCRIPTION_LIMIT} characters")
    if body.get("deleteAfterDate") is not None:
        _check_expiry(_date(body["deleteAfterDate"]))


def _check_value(value: object, values: set[str]) -> None:
    if value not in values:
        raise ApiError("INVALID_ENUM_VALUE", str(value))


def _check_roles(project: Project, body: Json) -> None:
    roles = _entries(body, "roles", ("roleName", "databaseName"))
    if not roles:
        raise ApiError("MISSING_ATTRIBUTE", "roles")
    for role in roles:
        _check_role(project, role)
    if len(roles) > 1 and any(role["roleName"] in project.roles for role in roles):
        raise ApiError("ATLAS_INVALID_CUSTOM_ROLE_ASSIGNMENT")
    names = [json.dumps(role, sort_keys=True) for role in roles]
    twice = sorted({role["roleName"] for role, name in zip(roles, names, strict=True) if names.count(name) > 1})
    if twice:
        raise ApiError("DUPLICATE_DATABASE_ROLES", body["username"], ", ".join(twice))
    _check_collection_roles(project, roles)


def _check_role(project: Project, role: Json) -> None:
    name, database = role["roleName"], role["databaseName"]
    if name in RESTRICTED_ROLES:
        raise ApiError("ATLAS_RESTRICTED_ROLE", name, database)
    if name in ADMIN_ROLES and database != "admin":
        raise ApiError("ATLAS_INVALID_ROLE_DATABASE", name, "admin")
    if name not in ADMIN_ROLES | DATABASE_ROLES:
        if database != "admin":
            raise ApiError("UNSUPPORTED_ROLE")
        if name not in project.roles:
            raise ApiError("ATLAS_INVALID_ROLE", name, database)
    if not re.fullmatch(r'[^/\\. "$*<>:|?\0]{1,63}', database):
        raise ApiError("INVALID_DATABASE_NAME", database)
    if role.get("collectionName"):
        _check_collection(role)


def _check_collection(role: Json) -> None:
    if role["roleName"] not in ("read", "readWrite"):
        raise ApiError("UNSUPPORTED_ROLE")
    if _text(role, "collectionName").startswith("system."):
        raise ApiError("ATLAS_RESTRICTED_COLLECTION", role["collectionName"], role["roleName"], role["databaseName"])


def _check_collection_roles(project: Project, roles: list[Json]) -> None:
    present = [role for user in project.users.values() for role in user.attributes["roles"]]
    names = {json.dumps(role, sort_keys=True) for role in [*present, *roles] if role.get("collectionName")}
    if len(names) > COLLECTION_ROLES_LIMIT:
        raise ApiError("COLLECTION_ROLES_LIMIT_EXCEEDED", COLLECTION_ROLES_LIMIT)


def _date(value: object) -> datetime:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise ApiError("INVALID_DATE_FORMAT", str(value)) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _check_expiry(moment: datetime) -> None:
    now = datetime.now(UTC)
    if moment <= now:
        raise ApiError("EXPIRATION_DATE_IN_PAST")
    if moment > now + timedelta(days=MAX_DAYS):
        raise ApiError("EXPIRATION_DATE_EXCEEDS_MAX", MAX_DAYS)
