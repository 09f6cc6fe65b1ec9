import sys

import pytest
from pymongo.common import URI_OPTIONS_VALIDATOR_MAP

from broker_api.errors import SettingError
from broker_api.settings.url_checks import (
    check_base_url,
    check_mongo_names,
    check_mongo_uri,
    is_mongo_in_clear,
    usable_mongo_uri,
)
from tests.dev.processes import run_to_end

SECRETS = ("S3cr", "Pw", "wr0ng")
"""Parts of what is refused here: none may be told."""


def is_told_well(error: SettingError, variable: str) -> None:
    told = str(error)
    assert told.startswith(f"{variable}: must "), told
    assert "\n" not in told
    assert not [part for part in SECRETS if part in told], told
    assert error.__suppress_context__ or error.__context__ is None, "a traceback would show what a parser said"


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://h",
        "mongodb://h:1,h2:65535/",
        "mongodb://[::1]:27017",
        "mongodb://user:p%40ss%2F%3Aword@h/db?authSource=admin&replicaSet=r",
        "mongodb://%2Ftmp%2Fmongodb-27017.sock",
        "mongodb://h/?useNewUrlParser=true",
        "mongodb+srv://cluster.example.net",
        "mongodb+srv://user:secret@cluster.example.net/db?retryWrites=true&w=majority&srvMaxHosts=2",
    ],
)
def test_a_uri_that_the_driver_takes_is_taken(uri: str) -> None:
    check_mongo_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "mongodb://",
        "mongodb:///db",
        "mongodb://h:99999",
        "mongodb://h:0",
        "mongodb://h:wr0ng",
        "mongodb://h,",
        "mongodb://u:S3cr@Pw@h",
        "mongodb://u:S3cr%Pw@h",
        "mongodb://u:S3cr:Pw@h",
        "mongodb://admin:S3crPw/x@host/db",
        "mongodb://admin:12/S3crPw@host",
        "mongodb://admin:12?S3crPw=x@host",
        "mongodb://u:p@x/S3crPw@host",
        "mongodb://u:S3cr Pw@h",
        "mongodb://h\x00",
        "mongodb://h\n",
        "mongodb://[::1",
        "mongodb://h/$wr0ng",
        "mongodb://h/?wr0ng",
        "mongodb://h/?authMechanism=SCRAM-SHA-256",
        "mongodb://h,h2/?directConnection=true",
        "mongodb://h/?srvMaxHosts=2",
        "mongodb+srv://",
        "mongodb+srv://wr0ng",
        "mongodb+srv://a..wr0ng",
        "mongodb+srv://a.wr0ng.",
        "mongodb+srv://10.0.0.1",
        "mongodb+srv://[::1]",
        "mongodb+srv://a.b.c:27017",
        "mongodb+srv://a.b.c,d.e.f",
        f"mongodb+srv://{'x' * 64}.wr0ng",
        "https://h",
    ],
)
def test_a_uri_that_the_driver_cannot_use_is_refused_with_the_form_and_no_part_of_it(uri: str) -> None:
    with pytest.raises(SettingError) as error:
        check_mongo_uri(uri)
    is_told_well(error.value, "BROKER_MONGO_URI")
    assert "percent-encoded" in str(error.value)


@pytest.mark.parametrize(
    ("given", "used", "overridden"),
    [
        ("mongodb://h", "mongodb://h", ()),
        ("mongodb://h/?replicaSet=r&TLS=true", "mongodb://h/?replicaSet=r&TLS=true", ()),
        ("mongodb+srv://u:p@a.b.c/?retryWrites=true&w=majority", "mongodb+srv://u:p@a.b.c/", ()),
        ("mongodb://h/db?w=1;authSource=a", "mongodb://h/db?authSource=a", ("w",)),
        ("mongodb://h/?W=majority&w=0&ReadPreference=nearest", "mongodb://h/", ("ReadPreference", "w")),
        ("mongodb://h/?S3crPw=1&readPreferenceTags=", "mongodb://h/", ("an unknown option", "readPreferenceTags")),
        ("mongodb://h/?directConnection=false", "mongodb://h/", ()),
    ],
)
def test_options_that_the_broker_decides_itself_are_taken_out_and_named(
    given: str, used: str, overridden: tuple[str, ...]
) -> None:
    assert usable_mongo_uri(given) == (used, overridden)


@pytest.mark.parametrize("option", ["tlsInsecure", "tlsAllowInvalidCertificates", "TLSALLOWINVALIDHOSTNAMES"])
def test_an_option_that_turns_the_check_of_certificates_off_is_refused(option: str) -> None:
    with pytest.raises(SettingError, match="BROKER_MONGO_URI: must be without tlsInsecure"):
        check_mongo_uri(f"mongodb://h/?tls=true&{option}=true")
    check_mongo_uri(f"mongodb://h/?tls=true&{option}=false")


@pytest.mark.parametrize(
    ("uri", "in_clear"),
    [
        ("mongodb://u:p@h,127.0.0.1/db", True),
        ("mongodb://h/?tls=false&tlsCAFile=x", True),
        ("mongodb+srv://a.b.c/?ssl=false", True),
        ("mongodb://h/?replicaSet=r;TLS=true", False),
        ("mongodb://h?tlsCAFile=x", False),
        ("mongodb+srv://u:p@a.b.c", False),
        ("mongodb://u:p@127.0.0.1:1,localhost,[::1]:2/db?replicaSet=r", False),
        ("mongodb://%2Ftmp%2Fmongodb-27017.sock", False),
        ("mongodb://h.sock/db", True),
    ],
)
def test_a_uri_without_tls_is_known_unless_it_stays_on_this_machine(uri: str, *, in_clear: bool) -> None:
    assert is_mongo_in_clear(uri) == in_clear


def test_every_option_of_the_driver_is_known_to_be_used_or_not() -> None:
    """A new release of the driver may bring options: they are not used until they are in the list of used ones."""
    for name in URI_OPTIONS_VALIDATOR_MAP:
        used, overridden = usable_mongo_uri(f"mongodb://h/?{name}=x")
        assert (used == "mongodb://h/") == (overridden == (name,)), name


def test_a_certificate_that_cannot_be_read_is_told_apart_from_a_wrong_uri() -> None:
    with pytest.raises(SettingError) as error:
        check_mongo_uri("mongodb://h/?tls=true&tlsCAFile=/wr0ng")
    is_told_well(error.value, "BROKER_MONGO_URI")
    assert "files that can be read" in str(error.value)


@pytest.mark.parametrize(
    ("database", "collection"), [("d", "c"), ("ü" * 31, "a.b"), ("a-b_c", "c" * 236), ("d", "a b")]
)
def test_names_that_mongodb_takes_are_taken(database: str, collection: str) -> None:
    check_mongo_names(database, collection)


@pytest.mark.parametrize(
    "database", ["", "a b", "a.b", "$wr0ng", "a/b", "a\\b", 'a"b', "x" * 64, "ü" * 32, "admin", "a\x00"]
)
def test_a_database_that_mongodb_refuses_is_refused(database: str) -> None:
    with pytest.raises(SettingError) as error:
        check_mongo_names(database, "instances")
    is_told_well(error.value, "BROKER_MONGO_DB")


@pytest.mark.parametrize(
    "collection", ["", "a$wr0ng", ".a", "a.", "a..b", "system.wr0ng", "x" * 300, "ü" * 120, "a\x00"]
)
def test_a_collection_that_mongodb_refuses_is_refused(collection: str) -> None:
    with pytest.raises(SettingError) as error:
        check_mongo_names("database", collection)
    is_told_well(error.value, "BROKER_MONGO_COLLECTION")


def test_the_second_collection_beside_it_fits_into_mongodbs_limit_too() -> None:
    longest = 255 - len("database._housekeeping")
    check_mongo_names("database", "c" * longest)
    with pytest.raises(SettingError, match=f"must have 1 to {longest} bytes"):
        check_mongo_names("database", "c" * (longest + 1))


@pytest.mark.parametrize(
    "url",
    ["https://cloud.mongodb.com", "http://127.0.0.1:8080/", "http://[::1]:80", "http://localhost/p", "https://h/p"],
)
def test_an_address_of_atlas_may_have_a_port_and_a_path(url: str) -> None:
    check_base_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "wr0ng",
        "ftp://h",
        "http://",
        "http:///api",
        "https://:443",
        "http://h",
        "http://127.0.0.1.wr0ng",
        "http://wr0ng.sock",
        "http://10.0.0.1",
        "http://h:wr0ng",
        "http://h:99999",
        "http://h:0",
        "http://a..wr0ng",
        "http://[::1",
        "https://u:S3crPw@h",
        "https://h?wr0ng",
        "https://h#wr0ng",
        "https://h /",
    ],
)
def test_an_address_of_atlas_without_a_host_or_with_more_than_a_path_is_refused(url: str) -> None:
    with pytest.raises(SettingError) as error:
        check_base_url(url)
    is_told_well(error.value, "MONGODB_ATLAS_BASE_URL")


OFFLINE = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname"):
        sys.exit(f"{event} {arguments}")

sys.addaudithook(refuse)
from broker_api.settings import url_checks
from broker_api.settings.redis_settings import RedisSettings
url_checks.check_mongo_uri("mongodb+srv://user:secret@cluster.example.net/?srvMaxHosts=2")
url_checks.check_mongo_uri("mongodb://mongo.example.net,localhost")
RedisSettings.parse("sentinel://a.example.net;sentinel://b.example.net")
url_checks.check_base_url("https://atlas.example.net")
"""


def test_nothing_is_resolved_or_connected_to_by_a_check() -> None:
    ended = run_to_end([sys.executable, "-W", "error", "-c", OFFLINE])
    assert (ended.returncode, ended.stderr) == (0, "")
