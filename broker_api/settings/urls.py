"""What addresses and names of MongoDB and Atlas must look like; nothing is resolved or connected here.

No message repeats any part of a value, nor what a parser says of it: a URI holds a password, and one with an
unescaped character ends up in any of its parts. For the same reason no exception here has a cause.
"""

import warnings
from typing import Any
from urllib.parse import SplitResult, unquote_plus, urlsplit

from pymongo import MongoClient
from pymongo.common import URI_OPTIONS_VALIDATOR_MAP

from broker_api.errors import SettingError
from broker_api.naming import MAX_DATABASE_BYTES, database_problem

MAX_NAMESPACE_BYTES = 255
"""MongoDB's limit for ``database.collection`` (manual, "Naming Restrictions")."""
MAX_PORT = 65_535
_MAX_LABEL = 63  # of a host name (RFC 1035)

_SRV = "mongodb+srv://"

_MONGO_OPTIONS = frozenset(
    {
        *("appname", "replicaset", "srvservicename", "srvmaxhosts", "srvallowedhostssuffix"),
        *("authmechanism", "authmechanismproperties", "authsource"),
        *("ssl", "tls", "tlsallowinvalidcertificates", "tlsallowinvalidhostnames", "tlscafile", "tlscrlfile"),
        *("tlscertificatekeyfile", "tlscertificatekeyfilepassword", "tlsdisableocspendpointcheck", "tlsinsecure"),
        *("compressors", "zlibcompressionlevel"),
        *("maxpoolsize", "minpoolsize", "maxconnecting", "maxidletimems"),
    }
)
"""Options of the URI that say where MongoDB is and how to log in; how to read, write and wait is the broker's part."""
_SAME_AS_OURS = {
    "w": "majority",
    "journal": "true",
    "readpreference": "primary",
    "readconcernlevel": "local",
    "retrywrites": "true",
    "retryreads": "true",
    "directconnection": "false",
    "loadbalanced": "false",
}
"""What Atlas and others put into URIs as a matter of course: dropped without a word, since it changes nothing."""
_REFUSED_MONGO_OPTIONS = {
    "directconnection": (
        "BROKER_MONGO_URI: must be without directConnection=true: a direct connection reads from a secondary as well. "
        "Take the option out; the members' names in the replica set's configuration must be reachable from here"
    ),
    "loadbalanced": (
        "BROKER_MONGO_URI: must be without loadBalanced=true: name the members of the replica set, or the mongos "
        "servers, instead of a load balancer"
    ),
}

_MONGO_FORM = (
    "BROKER_MONGO_URI: must be mongodb://[name:password@]host[:port][,host…][/database][?options] or "
    "mongodb+srv://[name:password@]host.domain[/database][?options], with options that fit together; "
    "user name and password must be percent-encoded"
)


def check_mongo_uri(uri: str) -> str:
    """Return the URI; raise SettingError unless the driver could connect to it.

    The driver itself says so: it reads all of a URI when a client is made, and with ``connect=False`` nothing else.
    """
    _, _, location = uri.partition("://")
    behind_hosts = location.replace("?", "/", 1).partition("/")[2]
    if not uri.startswith(("mongodb://", _SRV)) or not _is_plain(uri) or "@" in behind_hosts:
        raise SettingError(_MONGO_FORM)
    try:
        _make_client(uri)
    except OSError:
        raise SettingError("BROKER_MONGO_URI: must name files that can be read in its options tls…File") from None
    except Exception:  # noqa: BLE001 - the driver raises errors of its own and any of Python's, with parts of the URI
        raise SettingError(_MONGO_FORM) from None
    if uri.startswith(_SRV) and not _is_domain(urlsplit(uri).hostname or ""):
        raise SettingError(_MONGO_FORM)
    for name, value in _options(uri):
        if name in _REFUSED_MONGO_OPTIONS and value != "false":
            raise SettingError(_REFUSED_MONGO_OPTIONS[name])
    return uri


def _make_client(uri: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of options that the driver passes over; it warns again when it is used
        client: MongoClient[dict[str, Any]] = MongoClient(uri, connect=False)
    client.close()


def usable_mongo_uri(uri: str) -> tuple[str, tuple[str, ...]]:
    """Return a valid URI without the options that the broker decides itself, and the names of those it overrides.

    An option's value is never named, and no unknown option: that may be a part of a password.
    """
    location, _, options = uri.partition("?")
    kept, overridden = [], set()
    for part in options.replace(";", "&").split("&"):
        written = part.partition("=")[0]
        name, value = _option(part)
        if name in _MONGO_OPTIONS:
            kept.append(part)
        elif part and value != _SAME_AS_OURS.get(name):
            overridden.add(written if name in URI_OPTIONS_VALIDATOR_MAP else "an unknown option")
    return f"{location}?{'&'.join(kept)}" if kept else location, tuple(sorted(overridden))


def _options(uri: str) -> list[tuple[str, str]]:
    """Return the options as the driver reads them: "&" or ";" between them, some of them twice."""
    return [_option(part) for part in uri.partition("?")[2].replace(";", "&").split("&")]


def _option(part: str) -> tuple[str, str]:
    """Return name and value of ``name=value`` in lower case, since the driver takes names in any case."""
    name, _, value = part.partition("=")
    return name.lower(), unquote_plus(value).lower()


def check_mongo_names(database: str, collection: str) -> None:
    """Raise SettingError unless MongoDB takes these, also for the collection with the suffix ``_housekeeping``."""
    if database_problem(database):
        raise SettingError(
            f"BROKER_MONGO_DB: must have 1 to {MAX_DATABASE_BYTES} bytes, no space and none of "
            r'/ \ . " $ * < > : | ?, and be none of MongoDB' + "'s own (admin, local, config)"
        )
    most = MAX_NAMESPACE_BYTES - len(f"{database}._housekeeping".encode())
    wrong = collection.startswith((".", "system.")) or collection.endswith(".")
    if wrong or any(each in collection for each in ("$", "..", "\x00")) or not 0 < len(collection.encode()) <= most:
        raise SettingError(
            f"BROKER_MONGO_COLLECTION: must have 1 to {most} bytes with this BROKER_MONGO_DB, no $, no dot at an end "
            "or beside another, and must not begin with system."
        )


def check_base_url(url: str) -> str:
    """Return the URL without a slash at its end; raise SettingError unless paths of Atlas can be appended to it."""
    try:
        fits = _is_plain(url) and _is_base(urlsplit(url))
    except ValueError:  # a port that is none
        fits = False
    if not fits:
        raise SettingError("MONGODB_ATLAS_BASE_URL: must be https://host[:port][/path] or http://…")
    return url.rstrip("/")


def _is_base(parts: SplitResult) -> bool:
    return (
        parts.scheme in ("http", "https")
        and _are_labels(parts.hostname or "")
        and parts.port != 0
        and not (parts.query or parts.fragment or "@" in parts.netloc)
    )


def _is_plain(url: str) -> bool:
    return url.isprintable() and " " not in url


def _is_domain(host: str) -> bool:
    """Return whether an SRV record can have this name: an IP address cannot, a name without a dot has none."""
    return "." in host and _are_labels(host) and not host.rpartition(".")[2].isdigit()


def _are_labels(host: str) -> bool:
    return all(0 < len(label) <= _MAX_LABEL for label in host.split("."))
