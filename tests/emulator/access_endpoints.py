"""The endpoints about the IP access list of a project, whose changes in the same moment overwrite each other.

The Java method of an entry's status and the codes for wrong entries were never recorded; they are made up.
"""

import ipaddress
import json
import time
from collections.abc import Callable

from tests.emulator import bodies
from tests.emulator.errors import ApiError, refuse_if
from tests.emulator.model import AccessEntry, Json, Wait
from tests.emulator.routing import GROUP, Asked, route

COMMENT_LIMIT = 80
ENTRIES_LIMIT = 200

_LIST = GROUP + "/accessList"
_ENTRY = _LIST + "/{entryValue}"
_JAVA = "ApiAtlasNetworkAccessListResource::"
_MANAGER = "GROUP_NETWORK_ACCESS_MANAGER"


def block_of(entry: str) -> str:
    """Return an address as a block of one; raise ValueError for what is neither an address nor a block."""
    return str(ipaddress.ip_network(entry))


@route(f"GET {_LIST}", "project", _JAVA + "getAtlasWhitelist")
def list_access(asked: Asked) -> Json:
    entries = asked.group.access_list.values()
    return asked.page([bodies.access_body(asked.group, entry, asked.root) for entry in entries])


@route(f"POST {_LIST}", "project", _JAVA + "addAtlasWhitelist", success=201, locked=False, role=_MANAGER)
def add_access(asked: Asked) -> Json:
    """Add entries; one that is there gets the new comment."""
    try:
        given = json.loads(asked.request.get_data())
    except ValueError:
        raise ApiError("MALFORMED_JSON") from None
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise ApiError("INVALID_JSON")
    entries = [_entry(asked, each) for each in given]

    def add(listed: dict[str, AccessEntry]) -> None:
        for entry in entries:
            if entry.cidr in listed:
                listed[entry.cidr] = AccessEntry(entry.cidr, entry.comment, listed[entry.cidr].active)
            else:
                listed[entry.cidr] = entry
        refuse_if(len(listed) > ENTRIES_LIMIT, "ATLAS_NETWORK_PERMISSIONS_LIMIT_EXCEEDED", ENTRIES_LIMIT)

    _write(asked, add)
    listed = asked.group.access_list.values()
    return asked.page([bodies.access_body(asked.group, entry, asked.root) for entry in listed])


def _entry(asked: Asked, given: Json) -> AccessEntry:
    for name in sorted(given.keys() - {"cidrBlock", "ipAddress", "comment", "groupId", "links"}):
        raise ApiError("INVALID_ATTRIBUTE", name)
    named = given.get("cidrBlock") or given.get("ipAddress")
    comment = given.get("comment") or ""
    refuse_if(named is None, "MISSING_ATTRIBUTES", "cidrBlock, ipAddress")
    refuse_if(len(comment) > COMMENT_LIMIT, "VALIDATION_ERROR", f"a comment has at most {COMMENT_LIMIT} characters")
    try:
        block = block_of(str(named))
    except ValueError:
        raise ApiError("INVALID_ATTRIBUTE", str(named)) from None
    return AccessEntry(block, comment, Wait(asked.atlas.access_delay, time.time()))


@route(f"GET {_ENTRY}", "project", _JAVA + "getAtlasNetworkPermissionEntry")
def get_access(asked: Asked) -> Json:
    return bodies.access_body(asked.group, _listed(asked, asked.group.access_list), asked.root)


@route(f"DELETE {_ENTRY}", "project", _JAVA + "deleteAtlasWhitelist", success=204, locked=False, role=_MANAGER)
def delete_access(asked: Asked) -> None:
    def delete(listed: dict[str, AccessEntry]) -> None:
        del listed[_listed(asked, listed).cidr]

    _write(asked, delete)


@route(f"GET {_ENTRY}/status", "project", _JAVA + "getAtlasWhitelistEntryStatus")
def get_access_status(asked: Asked) -> Json:
    """The name of the field is in capitals."""
    wait = _listed(asked, asked.group.access_list).active
    over = wait.over(time.time())
    wait.reads += 1
    return {"STATUS": "ACTIVE" if over else "PENDING"}


def _write(asked: Asked, change: Callable[[dict[str, AccessEntry]], None]) -> None:
    """Change a copy of the list, and put it in its place after the gap: what was written meanwhile is lost."""
    with asked.atlas.lock:
        changed = dict(asked.group.access_list)
        change(changed)
        if not asked.atlas.access_gap:
            asked.group.access_list = changed
            return
    time.sleep(asked.atlas.access_gap)
    with asked.atlas.lock:
        asked.group.access_list = changed


def _listed(asked: Asked, entries: dict[str, AccessEntry]) -> AccessEntry:
    named = asked.names["entryValue"]
    try:
        block = block_of(named)
    except ValueError:
        raise ApiError("INVALID_PATH_PARAMETER", named) from None
    refuse_if(block not in entries, "ATLAS_NETWORK_PERMISSION_ENTRY_NOT_FOUND", named, asked.group.id)
    return entries[block]
