"""What a BROKER_REDIS_URL means, for everything that connects to Redis."""

import ssl
from pathlib import Path

import pytest
import redis.exceptions as redis_errors

from broker_api.errors import SettingError
from broker_api.jobs.redis_errors import reason, sentence
from broker_api.settings.redis_settings import RedisSettings

SECRETS = ("S3cr", "Pw", "wr0ng")
"""Parts of what is refused here: none may be told."""


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379",
        "redis://127.0.0.1:6379/",
        "redis://h/15",
        "redis://[::1]:6379/0",
        "redis://:password@host/0",
        "redis://user:p%40ss@host/0",
        "redis://a/1;redis://b",
        "rediss://h",
        "rediss://h/0?ssl_cert_reqs=required&ssl_check_hostname=true",
        "sentinel://h",
        "sentinel://h:26379/0?master_name=x",
        "sentinel://h1:26379;sentinel://h2:26379/0?master_name=x",
        "sentinel://:password@h1:26379;sentinel://:password@h2:26379",
        "sentinel://h?ssl=true&sentinel_ssl=false&sentinel_username=u&sentinel_password=p",
    ],
)
def test_a_redis_url_of_a_known_form_is_taken(url: str) -> None:
    RedisSettings.parse(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis://",
        "redis://:S3crPw@",
        "redis:///0",
        "rediss://",
        "sentinel://",
        "sentinel://h1;",
        "sentinel://h1;h2",
        "sentinel://h1:26379,h2:26379",
        "sentinel://h1,h2",
        "amqp://h",
        "redis://h:wr0ng/0",
        "redis://h:99999/0",
        "redis://h:0/0",
        "redis://h/wr0ng",
        "redis://h/-1",
        "redis://h/1/2",
        "redis://[::1",
        "rediss://h/0?ssl_cert_reqs=wr0ng",
        "rediss://h/0?ssl_cert_reqs=CERT_NONE",
        "rediss://h/0?ssl_check_hostname=false",
        "sentinel://h/0?sentinel_ssl_cert_reqs=none",
        "rediss://h/0?ssl_wr0ng=1",
        "rediss://h/0?ssl_ca_certs=/no/wr0ng.pem",
        "rediss://h/0?ssl_check_hostname=wr0ng",
        "redis://h/0?ssl_cert_reqs=required",
        "redis://h/0?ssl=true",
        "redis://h/0?wr0ng=1",
        "redis://h/0?master_name=x",
        "redis://h/0?virtual_host=7",
        "redis://h/0?database=7",
        "redis://h/0?sentinel_password=S3cr",
        "sentinel://h?sentinel_wr0ng=1",
        "sentinel://h?sentinel_ssl=wr0ng",
        "redis://u:S3cr/Pw@h/0",
        "redis://u:12#S3crPw@h/0",
        "redis://u:12?S3crPw@h/0",
        "redis://u:12?S3crPw=x@h/0",
        "redis://u:S3cr Pw@h/0",
        "redis://h;rediss://h",
        "redis://a;sentinel://b",
    ],
)
def test_a_redis_url_that_cannot_be_used_is_refused_in_one_line_with_no_part_of_it(url: str) -> None:
    with pytest.raises(SettingError) as error:
        RedisSettings.parse(url)
    told = str(error.value)
    assert told.startswith("BROKER_REDIS_URL: must "), told
    assert "\n" not in told
    assert not [part for part in SECRETS if part in told], told
    assert error.value.__suppress_context__ or error.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "differ"),
    [
        ("redis://a/0;redis://b/1", "database"),
        ("sentinel://a/1;sentinel://b/2", "database"),
        ("sentinel://a?master_name=m;sentinel://b?master_name=n", "master_name"),
        ("redis://:S3cr@a;redis://:Pw@b", "password"),
        ("redis://S3cr:x@a;redis://Pw:x@b", "username"),
        ("rediss://a?ssl_cert_reqs=optional;rediss://b?ssl_cert_reqs=required", "ssl_cert_reqs"),
    ],
)
def test_urls_that_contradict_each_other_are_refused_with_what_differs(url: str, differ: str) -> None:
    with pytest.raises(SettingError) as error:
        RedisSettings.parse(url)
    assert str(error.value) == f"BROKER_REDIS_URL: must say the same in each of its URLs; two differ in {differ}"


FULL = (
    "u:p%40ss@{host}/1?master_name=m&sentinel_username=su&sentinel_password=sp&ssl_cert_reqs=optional&sentinel_ssl=true"
)


@pytest.mark.parametrize("place", range(3))
def test_what_one_sentinel_url_says_holds_for_all_wherever_it_stands(place: int) -> None:
    hosts = ["a", "b:1", "c"]
    urls = [f"sentinel://{FULL.format(host=host) if n == place else host}" for n, host in enumerate(hosts)]
    made = RedisSettings.parse(";".join(urls))
    assert made.servers == (("a", 26379), ("b", 1), ("c", 26379))
    assert (made.database, made.master_name, made.username, made.password) == (1, "m", "u", "p@ss")
    tls = {"ssl_cert_reqs": "optional", "ssl_check_hostname": True}
    assert made.tls == tls
    assert made.sentinel == {"username": "su", "password": "sp", "ssl": True, **tls}


@pytest.mark.parametrize(
    ("url", "checks"),
    [
        ("rediss://h", "required"),
        ("rediss://h?ssl_cert_reqs=required", "required"),
        ("rediss://h?ssl_cert_reqs=CERT_REQUIRED", "required"),
        ("rediss://h?ssl_cert_reqs=CERT_OPTIONAL", "optional"),
        ("rediss://a/0;rediss://b/0", "required"),
        ("rediss://a/0;rediss://b/0?ssl_cert_reqs=optional", "optional"),
        ("sentinel://h?ssl=true", "required"),
    ],
)
def test_the_certificate_of_redis_is_checked(url: str, checks: str) -> None:
    tls = RedisSettings.parse(url).tls
    assert tls is not None
    assert tls["ssl_cert_reqs"] == checks


@pytest.mark.parametrize(
    ("url", "in_clear"),
    [
        ("redis://127.0.0.1;redis://h", True),
        ("sentinel://h", True),
        ("sentinel://h?ssl=true", True),
        ("sentinel://h?sentinel_ssl=true", True),
        ("rediss://h", False),
        ("sentinel://h?ssl=true&sentinel_ssl=true", False),
        ("redis://127.0.0.1;redis://[::1];redis://localhost", False),
    ],
)
def test_a_url_without_tls_is_known_unless_it_stays_on_this_machine(url: str, *, in_clear: bool) -> None:
    assert RedisSettings.parse(url).is_in_clear == in_clear


def test_the_files_of_tls_are_named_in_the_url(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.touch()
    query = f"ssl_ca_certs={file}&ssl_certfile={file}&ssl_keyfile={file}"
    assert RedisSettings.parse(f"rediss://a;rediss://b?{query}").tls == {
        "ssl_cert_reqs": "required",
        "ssl_ca_certs": str(file),
        "ssl_certfile": str(file),
        "ssl_keyfile": str(file),
        "ssl_check_hostname": True,
    }


@pytest.mark.parametrize(
    "url",
    ["redis://u:S3crPw@h", "sentinel://:S3crPw@h?sentinel_password=S3cr", "rediss://h?ssl_password=S3crPw"],
)
def test_no_secret_is_in_the_text_form(url: str) -> None:
    made = RedisSettings.parse(url)
    assert "S3cr" not in f"{made!r} {made}"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (redis_errors.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "memory is full"),
        (redis_errors.ReadOnlyError("You can't write against a read only replica."), "read-only replica"),
        (redis_errors.NoPermissionError("User S3cr has no permissions to run 'lpush'"), "lacks a permission"),
        (redis_errors.AuthenticationError("invalid username-password pair or user is disabled."), "refuses the user"),
        (redis_errors.AuthenticationError("Authentication required."), "asks for a password"),
        (redis_errors.ResponseError("UNBLOCKED force unblock from blocking operation"), "become a replica"),
        (redis_errors.ResponseError("MISCONF Valkey is configured to save RDB snapshots"), "cannot save"),
        (redis_errors.ResponseError("WRONGTYPE Operation against a key"), "another type"),
        (redis_errors.ResponseError("BUSY Redis is busy running a script."), "script"),
        (redis_errors.ConnectionError("Error 111 connecting to h:1. Connection refused."), "connection refused"),
        (redis_errors.TimeoutError("Timeout reading from socket"), "in time"),
        (ssl.SSLCertVerificationError("S3cr"), "not trusted"),
        (redis_errors.ResponseError("S3cr Pw"), "error ResponseError"),
    ],
)
def test_trouble_is_told_in_words_without_secrets(error: Exception, words: str) -> None:
    assert words in reason(error)
    assert sentence(error).startswith(("Redis does not answer: ", "Redis answers with an error: "))
    assert not [part for part in SECRETS if part in sentence(error)]
