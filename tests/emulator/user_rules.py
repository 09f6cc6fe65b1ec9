"""What Atlas accepts as a database user: the body of POST and PATCH, checked in the order in which the rules stand."""

import json
import re
from datetime import UTC, datetime, timedelta

from tests.emulator.errors import ApiError, refuse_if
from tests.emulator.model import Json, Project, wire_time
from tests.emulator.request_bodies import entries, require, text

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
USER_ATTRIBUTES = {*AUTH_TYPES, *REQUIRED, "password", "scopes", "labels", "description", "deleteAfterDate", "links"}
ADMIN_ROLES = {
    *("atlasAdmin", "backup", "clusterMonitor", "dbAdminAnyDatabase", "enableSharding"),
    *("readAnyDatabase", "readWriteAnyDatabase"),
}
SCOPES = {"CLUSTER", "DATA_LAKE", "STREAM"}
DATABASE_ROLES = {"dbAdmin", "read", "readWrite"}
RESTRICTED_ROLES = {"root", "dbOwner", "userAdmin", "userAdminAnyDatabase", "clusterAdmin", "__system", "restore"}
COMMON_PASSWORDS = {"password", "12345678", "password1", "qwertyuiop", "iloveyou"}


def new_user(project: Project, body: Json) -> Json:
    """Return the attributes of the user that the body of a POST describes. Raise ApiError."""
    require(body, REQUIRED)
    refuse_if(body["groupId"] != project.id, "GROUP_MISMATCH", str(body["groupId"]))
    name, database = text(body, "username"), text(body, "databaseName")
    refuse_if(not name or len(name) > NAME_LIMIT, "ATLAS_INVALID_USERNAME", name)
    refuse_if(not name.isprintable(), "INVALID_MONGODB_USERNAME", name)
    external = any(body.get(kind, "NONE") != "NONE" for kind in AUTH_TYPES)
    refuse_if(external and database != "$external", "DATABASE_NAME_INVALID_EXTERNAL")
    refuse_if(not external and database != "admin", "DATABASE_NAME_INVALID_ADMIN", "SCRAM users")
    if not external:
        require(body, ("password",))
    managed = body.get("x509Type") == "MANAGED"
    refuse_if(managed and body.get("deleteAfterDate") is not None, "ATLAS_X509_USER_CANNOT_BE_TEMPORARY")
    iam = str(body.get("awsIAMType", "NONE")).lower()
    arn = re.fullmatch(rf"arn:aws[a-z-]*:iam::\d{{12}}:{iam}/\S+", name)
    refuse_if(iam != "none" and not arn, "ATLAS_INVALID_USERNAME", name)
    return _checked(project, body, body)


def changed_user(project: Project, old: Json, body: Json) -> Json:
    """Return the attributes of a user after a PATCH with the body. Raise ApiError."""
    codes = {"username": "DATABASE_USERNAME_CANNOT_BE_CHANGED", "databaseName": "DATABASE_NAME_CANNOT_BE_CHANGED"}
    for name, code in {**codes, **dict.fromkeys(AUTH_TYPES, "AUTH_TYPE_CANNOT_BE_CHANGED")}.items():
        refuse_if(body.get(name, old[name]) != old[name], code)
    group = body.get("groupId", project.id)
    refuse_if(group != project.id, "GROUP_MISMATCH", str(group))
    lasting = "deleteAfterDate" not in old
    refuse_if(lasting and body.get("deleteAfterDate") is not None, "PERMANENT_ENTITY_CANNOT_BE_MADE_TEMPORARY")
    return _checked(project, {**old, **body} if "roles" in body else body, {**old, **body})


def _checked(project: Project, given: Json, whole: Json) -> Json:
    """Check the attributes that are given, and return the whole user's as they appear on the wire."""
    if given.get("password") is not None:
        password = text(given, "password")
        refuse_if(password.lower() in COMMON_PASSWORDS, "COMMON_PASSWORD")
        refuse_if(len(password) < 8, "WEAK_PASSWORD")
    for name, values in AUTH_TYPES.items():
        refuse_if(given.get(name, "NONE") not in values, "INVALID_ENUM_VALUE", str(given.get(name)))
    if "roles" in given:
        _check_roles(project, given)
    for scope in entries(given, "scopes", ("name", "type")):
        refuse_if(scope["type"] not in SCOPES, "INVALID_ENUM_VALUE", scope["type"])
    for label in entries(given, "labels", ("key", "value")):
        fits = all(1 <= len(label[part]) <= 255 for part in ("key", "value"))
        refuse_if(not fits, "VALIDATION_ERROR", "a label's key and value have 1 to 255 characters")
    if given.get("description") is not None:
        long = len(text(given, "description")) > DESCRIPTION_LIMIT
        refuse_if(long, "VALIDATION_ERROR", f"a description has at most {DESCRIPTION_LIMIT} characters")
    if given.get("deleteAfterDate") is not None:
        ahead = _date(given["deleteAfterDate"]) - datetime.now(UTC)
        refuse_if(ahead <= timedelta(), "EXPIRATION_DATE_IN_PAST")
        refuse_if(ahead > timedelta(days=MAX_DAYS), "EXPIRATION_DATE_EXCEEDS_MAX", MAX_DAYS)
    optional: Json = {name: whole[name] for name in ("deleteAfterDate", "description") if whole.get(name)}
    if "deleteAfterDate" in optional:
        optional["deleteAfterDate"] = wire_time(_date(whole["deleteAfterDate"]))
    return {
        **{name: whole.get(name, "NONE") for name in AUTH_TYPES},
        **optional,
        "databaseName": whole["databaseName"],
        "groupId": project.id,
        "labels": whole.get("labels") or [],
        "roles": whole["roles"],
        "scopes": whole.get("scopes") or [],
        "username": whole["username"],
    }


def _check_roles(project: Project, body: Json) -> None:
    roles = entries(body, "roles", ("roleName", "databaseName"))
    refuse_if(not roles, "MISSING_ATTRIBUTE", "roles")
    for role in roles:
        _check_role(project, role)
    custom = any(role["roleName"] in project.roles for role in roles)
    refuse_if(len(roles) > 1 and custom, "ATLAS_INVALID_CUSTOM_ROLE_ASSIGNMENT")
    twice = sorted({role["roleName"] for role in roles if roles.count(role) > 1})
    refuse_if(twice, "DUPLICATE_DATABASE_ROLES", str(body["username"]), ", ".join(twice))
    present = [role for user in project.users.values() for role in user.attributes["roles"]]
    distinct = {json.dumps(role, sort_keys=True) for role in [*present, *roles] if role.get("collectionName")}
    refuse_if(len(distinct) > COLLECTION_ROLES_LIMIT, "COLLECTION_ROLES_LIMIT_EXCEEDED", COLLECTION_ROLES_LIMIT)


def _check_role(project: Project, role: Json) -> None:
    name, database = role["roleName"], role["databaseName"]
    refuse_if(name in RESTRICTED_ROLES, "ATLAS_RESTRICTED_ROLE", name, database)
    refuse_if(name in ADMIN_ROLES and database != "admin", "ATLAS_INVALID_ROLE_DATABASE", name, "admin")
    if name not in ADMIN_ROLES | DATABASE_ROLES:
        refuse_if(database != "admin", "UNSUPPORTED_ROLE")
        refuse_if(name not in project.roles, "ATLAS_INVALID_ROLE", name, database)
    refuse_if(not re.fullmatch(r'[^/\\. "$*<>:|?\0]{1,63}', database), "INVALID_DATABASE_NAME", database)
    if role.get("collectionName"):
        refuse_if(name not in ("read", "readWrite"), "UNSUPPORTED_ROLE")
        collection = text(role, "collectionName")
        refuse_if(collection.startswith("system."), "ATLAS_RESTRICTED_COLLECTION", collection, name, database)


def _date(value: object) -> datetime:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise ApiError("INVALID_DATE_FORMAT", str(value)) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
