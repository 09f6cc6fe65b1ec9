"""Validators of the URLs and names of MongoDB and Atlas. They resolve no host name and open no connection.

pydantic's URL types do not fit: ``MongoDsn`` accepts URIs that the driver refuses, and ``HttpUrl`` accepts and changes
URLs without a host. No message repeats a part of a value or the text of a parser's error: a URI holds a password, and
if a character is not escaped, the parser may see the password in any part. Therefore no exception here has a cause.
"""

import ipaddress
import warnings
from collections.abc import Iterable
from urllib.parse import unquote_plus, urlsplit

from pymongo import MongoClient
from pymongo.common import URI_OPTIONS_VALIDATOR_MAP
from pymongo.uri_parser_shared import split_hosts

from broker_api.errors import SettingError
from broker_api.json_types import JsonObject
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
"""Options that say where MongoDB is and how to log in. How to read, write and wait is set by the broker itself."""
_SAME_AS_BROKERS = {
    "w": "majority",
    "journal": "true",
    "readpreference": "primary",
    "readconcernlevel": "local",
    "retrywrites": "true",
    "retryreads": "true",
    "directconnection": "false",
    "loadbalanced": "false",
}
"""Options in URIs that Atlas and others hand out, with the broker's own values: removed without a warning."""
_UNCHECKED = (
    "BROKER_MONGO_URI: must be without tlsInsecure, tlsAllowInvalidCertificates and tlsAllowInvalidHostnames: the "
    "certificate of MongoDB is always checked. Name its authority with tlsCAFile"
)
_REFUSED_MONGO_OPTIONS = {
    **dict.fromkeys(("tlsinsecure", "tlsallowinvalidcertificates", "tlsallowinvalidhostnames"), _UNCHECKED),
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
    """Return the URI unchanged.

    The driver checks the whole URI when a client is made; with ``connect=False`` it does nothing else.

    Raises:
        SettingError: the driver could not connect to the URI, or it has an option that the broker refuses.
    """
    _, _, location = uri.partition("://")
    behind_hosts = location.replace("?", "/", 1).partition("/")[2]
    if not uri.startswith(("mongodb://", _SRV)) or not _is_plain(uri) or "@" in behind_hosts:
        raise SettingError(_MONGO_FORM)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the driver warns of ignored options again when the client is used
            MongoClient[JsonObject](uri, connect=False).close()
    except OSError:
        raise SettingError("BROKER_MONGO_URI: must name files that can be read in its options tls…File") from None
    except Exception:  # noqa: BLE001 - the driver raises errors of its own and any of Python's, with parts of the URI
        raise SettingError(_MONGO_FORM) from None
    if uri.startswith(_SRV):
        host = urlsplit(uri).hostname or ""
        # An SRV record cannot have an IP address or a name without a dot.
        if "." not in host or not _are_labels(host) or host.rpartition(".")[2].isdigit():
            raise SettingError(_MONGO_FORM)
    for part in _options(uri):
        name, value = _option(part)
        if name in _REFUSED_MONGO_OPTIONS and value != "false":
            raise SettingError(_REFUSED_MONGO_OPTIONS[name])
    return uri


def usable_mongo_uri(uri: str) -> tuple[str, tuple[str, ...]]:
    """Remove the options that the broker sets itself from a valid URI.

    Returns:
        The URI for the driver, and the sorted names of options whose value the broker overrides. Neither values nor
        the names of unknown options are returned: they may be a part of a password.
    """
    location = uri.partition("?")[0]
    kept, overridden = [], set()
    for part in _options(uri):
        written = part.partition("=")[0]
        name, value = _option(part)
        if name in _MONGO_OPTIONS:
            kept.append(part)
        elif part and value != _SAME_AS_BROKERS.get(name):
            overridden.add(written if name in URI_OPTIONS_VALIDATOR_MAP else "an unknown option")
    return f"{location}?{'&'.join(kept)}" if kept else location, tuple(sorted(overridden))


def is_mongo_in_clear(uri: str) -> bool:
    """Return whether a valid URI connects to MongoDB without TLS, and not only on this machine."""
    options = dict(map(_option, _options(uri)))
    given = options.get("tls", options.get("ssl"))
    implied = uri.startswith(_SRV) or any(name.startswith("tls") for name in options)
    hosts = uri.partition("://")[2].partition("?")[0].partition("/")[0].rpartition("@")[2]
    return not (given == "true" or (given is None and implied)) and not are_local(
        host for host, _ in split_hosts(hosts)
    )


def are_local(hosts: Iterable[str]) -> bool:
    """Return whether connections to these hosts stay on this machine: loopback addresses, and paths of sockets."""
    return all(host == "localhost" or "/" in host or _is_loopback(host) for host in hosts)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _options(uri: str) -> list[str]:
    """Return the options of a URI, as the driver splits them: at "&" or ";". A name may occur twice."""
    return uri.partition("?")[2].replace(";", "&").split("&")


def _option(part: str) -> tuple[str, str]:
    """Return the name and the value of ``name=value``, in lower case: the driver accepts names in any case."""
    name, _, value = part.partition("=")
    return name.lower(), unquote_plus(value).lower()


def check_mongo_names(database: str, collection: str) -> None:
    """Check that MongoDB accepts the names, also the collection's name with ``_housekeeping`` appended.

    Raises:
        SettingError: MongoDB would refuse a name.
    """
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
    """Return the URL without a slash at its end.

    Raises:
        SettingError: no path of Atlas can be appended to the URL, or its requests could be read on the network.
    """
    if not _is_web_url(url) or not (urlsplit(url).scheme == "https" or are_local([urlsplit(url).hostname or ""])):
        raise SettingError(
            "MONGODB_ATLAS_BASE_URL: must be https://host[:port][/path]; http://… only on this machine, as in "
            "http://127.0.0.1:8080"
        )
    return url.rstrip("/")


def check_flower_url(url: str) -> str:
    """Return the URL without a slash at its end.

    Raises:
        SettingError: no path of Flower can be appended to the URL.
    """
    if not _is_web_url(url):
        raise SettingError("BROKER_FLOWER_URL: must be https://host[:port][/path] or http://…")
    return url.rstrip("/")


def _is_web_url(url: str) -> bool:
    """Return whether a path can be appended to a URL of HTTP."""
    try:
        parts = urlsplit(url)
        return (
            _is_plain(url)
            and parts.scheme in ("http", "https")
            and _are_labels(parts.hostname or "")
            and parts.port != 0
            and not (parts.query or parts.fragment or "@" in parts.netloc)
        )
    except ValueError:  # the port is not valid
        return False


def _is_plain(url: str) -> bool:
    return url.isprintable() and " " not in url


def _are_labels(host: str) -> bool:
    return all(0 < len(label) <= _MAX_LABEL for label in host.split("."))
