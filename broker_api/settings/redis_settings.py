"""BROKER_REDIS_URL, read once. Queue, worker, rate limiter, check and /ready connect by what is here.

A list of URLs has one meaning: what one of them says (database, user, password, TLS, master) holds for all of them.
Several ``redis://`` servers are tried in the order given; several sentinels are asked all at once.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from kombu.utils.imports import symbol_by_name
from redis import Connection, ConnectionPool, Redis, SSLConnection
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from broker_api.errors import SettingError
from broker_api.jobs.redis_errors import NO_SENTINEL

_PORTS = {"redis": 6379, "rediss": 6379, "sentinel": 26379}
_DEFAULT_MASTER = "mymaster"
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS = {*_FILES, "ssl_ca_path", "ssl_ca_data", "ssl_cert_reqs", "ssl_check_hostname", "ssl_ciphers", "ssl_password"}
_CERT_REQS = {
    "required": "required",
    "optional": "optional",
    "none": "none",
    "CERT_REQUIRED": "required",
    "CERT_OPTIONAL": "optional",
    "CERT_NONE": "none",
}
_Options = dict[str, Any]
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

_FORM = (
    "BROKER_REDIS_URL: must be redis://[name:password@]host[:port][/database], the same with rediss:// and "
    "?ssl_cert_reqs=required, optional or none, or sentinel://host[:port];sentinel://host[:port][/database]"
    "?master_name=…; the port is from 1 to 65535, the database a number from 0, and user name and password must be "
    "percent-encoded"
)


class _FirstThatAnswers:
    """What a connection is mixed with that takes the first of several servers which can be reached."""

    def __init__(self, *, servers: tuple[tuple[str, int], ...], **options: Any) -> None:  # noqa: ANN401 - redis-py's
        self._servers = servers
        host, port = servers[0]
        super().__init__(host=host, port=port, **options)  # type: ignore[call-arg]

    def _connect(self) -> Any:  # noqa: ANN401 - a socket, with or without TLS
        for host, port in self._servers[:-1]:
            self.host, self.port = host, port
            try:
                return super()._connect()  # type: ignore[misc]
            except OSError:
                continue
        self.host, self.port = self._servers[-1]
        return super()._connect()  # type: ignore[misc]


class _ServerConnection(_FirstThatAnswers, Connection):
    """For ``redis://``."""


class _TlsServerConnection(_FirstThatAnswers, SSLConnection):
    """For ``rediss://``."""


class _Sentinels(Sentinel):
    """Asks all sentinels at once, so that one which is dead or hangs costs no time."""

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return the master's address as the first sentinel that knows one tells it."""
        answers: SimpleQueue[tuple[str, int] | Exception | None] = SimpleQueue()

        def ask(sentinel: Redis) -> None:
            try:
                state = sentinel.sentinel_masters().get(service_name)  # type: ignore[union-attr]
                known = state and self.check_master_state(state, service_name)  # type: ignore[no-untyped-call]
                answers.put((state["ip"], state["port"]) if state and known else None)
            except Exception as error:  # noqa: BLE001 - another sentinel may know
                answers.put(error)

        for each in self.sentinels:
            threading.Thread(target=ask, args=(each,), name="sentinel", daemon=True).start()
        errors: list[Exception] = []
        for _ in self.sentinels:
            answer = answers.get()  # each thread ends by its socket's time-out
            if isinstance(answer, tuple):
                return answer
            if answer:
                errors.append(answer)
        if len(errors) == len(self.sentinels):
            raise RedisConnectionError(NO_SENTINEL) from errors[0]
        raise MasterNotFoundError("the sentinels that answer know no such master")


@dataclass(frozen=True)
class RedisSettings:
    """Where Redis is and how it is opened. No secret is in its text form."""

    scheme: str
    servers: tuple[tuple[str, int], ...]
    """Redis servers, the preferred one first, or sentinels."""
    database: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: Mapping[str, Any] | None = field(default=None, repr=False)
    """redis-py's options ``ssl_…``; None without TLS."""
    master_name: str = ""
    sentinel: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """redis-py's options for connections to the sentinels themselves: user, password, TLS."""
    credential_provider: str | None = None

    @classmethod
    def parse(cls, url: str) -> "RedisSettings":
        """Read one URL, or several separated by semicolons.

        Raises:
            SettingError: the URL cannot be used, or its parts contradict each other. No part of it is repeated.
        """
        try:
            parts = [_split(each) for each in url.split(";")]
        except (ValueError, KeyError):
            raise SettingError(_FORM) from None
        if not url.isprintable() or " " in url or len({each.scheme for each in parts}) > 1:
            raise SettingError(_FORM)
        return _merged(parts)

    @property
    def celery_url(self) -> str:
        """The URL for Celery and Flower, which show it without its password: one server's."""
        host, port = self.servers[0]
        user = f"{quote(self.username or '', safe='')}:{quote(self.password or '', safe='')}@"
        bracketed = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{user if user != ':@' else ''}{bracketed}:{port}/{self.database}"

    @property
    def connection_class(self) -> type[Connection]:
        """redis-py's class for one connection."""
        if self.scheme == "sentinel":
            return SentinelManagedConnection if self.tls is None else SentinelManagedSSLConnection
        return _ServerConnection if self.tls is None else _TlsServerConnection

    def pool(
        self,
        seconds: float,
        connect_seconds: float | None = None,
        connection_class: type[Connection] | None = None,
        **options: Any,  # noqa: ANN401 - redis-py's
    ) -> ConnectionPool:
        """Return a pool of connections. Each wait of theirs, for a sentinel too, ends after so many seconds."""
        times = {
            "socket_timeout": seconds,
            "socket_connect_timeout": connect_seconds or seconds,
            "socket_keepalive": True,
            "retry": Retry(NoBackoff(), 0),
        }
        common = {
            "db": self.database,
            "username": self.username,
            "password": self.password,
            "credential_provider": self._make_credential_provider(),
            "connection_class": connection_class or self.connection_class,
            **(self.tls or {}),
            **times,
            **options,
        }
        if self.scheme != "sentinel":
            return ConnectionPool(servers=self.servers, **common)
        sentinels = _Sentinels(self.servers, sentinel_kwargs={**times, **self.sentinel}, **common)  # type: ignore[no-untyped-call]
        pool: ConnectionPool = sentinels.master_for(self.master_name, Redis).connection_pool  # type: ignore[no-untyped-call]
        return pool

    def _make_credential_provider(self) -> CredentialProvider | None:
        if not self.credential_provider:
            return None
        try:
            made = symbol_by_name(self.credential_provider)()
        except (ImportError, AttributeError, ValueError):
            made = None
        if not isinstance(made, CredentialProvider):
            raise SettingError("BROKER_REDIS_URL: must name a class of credential providers in credential_provider")
        return made

    def client(self, seconds: float) -> Redis:
        """Return a client whose calls end after so many seconds or so, whatever Redis does."""
        return Redis(connection_pool=self.pool(seconds, health_check_interval=10))


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    path = parts.path.strip("/")
    wrong = (
        parts.scheme not in _PORTS
        or not parts.hostname
        or "," in parts.hostname
        or parts.port == 0  # a port above 65535 raises ValueError
        or "#" in url
        or "@" in parts.query
        or (path and not (path.isascii() and path.isdigit()))
    )
    if wrong:
        raise ValueError
    return parts


def _merged(parts: list[SplitResult]) -> RedisSettings:
    scheme = parts[0].scheme
    said = _said(parts)
    tls, sentinel = None, {}
    if scheme != "redis":
        asked = _flag(said.pop("ssl", "false")) if scheme == "sentinel" else True
        tls = _tls(said, "ssl_", asked=asked, inherited=None)
    if scheme == "sentinel":
        asked = _flag(said.pop("sentinel_ssl", "false"))
        sentinel_tls = _tls(said, "sentinel_ssl_", asked=asked, inherited=tls)
        given = {"username": said.pop("sentinel_username", None), "password": said.pop("sentinel_password", None)}
        sentinel = {**given, **({"ssl": True, **sentinel_tls} if sentinel_tls else {})}
    settings = RedisSettings(
        scheme=scheme,
        servers=tuple((unquote(each.hostname or ""), each.port or _PORTS[scheme]) for each in parts),
        database=int(said.pop("database", 0)),
        username=said.pop("username", None),
        password=said.pop("password", None),
        tls=tls,
        master_name=said.pop("master_name", _DEFAULT_MASTER) if scheme == "sentinel" else "",
        sentinel=sentinel,
        credential_provider=said.pop("credential_provider", None),
    )
    if said:
        raise SettingError(_FORM)
    return settings


def _said(parts: list[SplitResult]) -> dict[str, str]:
    """Return what the URLs say together.

    Raises:
        SettingError: two of them say different things.
    """
    said: dict[str, str] = {}
    for key, value in (pair for each in parts for pair in _pairs(each)):
        if said.setdefault(key, value) != value:
            raise SettingError(f"BROKER_REDIS_URL: must say the same in each of its URLs; two differ in {key}")
    return said


def _pairs(url: SplitResult) -> Iterator[tuple[str, str]]:
    path = url.path.strip("/")
    if path:
        yield "database", str(int(path))
    if url.username:
        yield "username", unquote(url.username)
    if url.password:
        yield "password", unquote(url.password)
    for key, value in parse_qsl(url.query, keep_blank_values=True):
        if key not in ("master_name", "credential_provider", "ssl") and not key.startswith(("ssl_", "sentinel_")):
            raise SettingError(_FORM)
        if value:
            yield key, value


def _tls(said: dict[str, str], prefix: str, *, asked: bool, inherited: Mapping[str, Any] | None) -> _Options | None:
    """Take the options of TLS that have this prefix; None where TLS is not asked for."""
    given = {f"ssl_{key.removeprefix(prefix)}": said.pop(key) for key in list(said) if key.startswith(prefix)}
    if not given and not asked:
        return None
    options = {"ssl_cert_reqs": "required", **(inherited or {}), **given}
    if options["ssl_cert_reqs"] not in _CERT_REQS or not set(options) <= _TLS:
        raise SettingError(_FORM)
    options["ssl_cert_reqs"] = _CERT_REQS[options["ssl_cert_reqs"]]
    if "ssl_check_hostname" in given:
        options["ssl_check_hostname"] = _flag(given["ssl_check_hostname"])
    for name in _FILES:
        if name in options and not os.access(options[name], os.R_OK):
            raise SettingError(f"BROKER_REDIS_URL: must name a file that can be read in its option {name}")
    return options


def _flag(text: str) -> bool:
    if text.lower() not in _FLAGS:
        raise SettingError("BROKER_REDIS_URL: must have true or false in ssl, sentinel_ssl and ssl_check_hostname")
    return _FLAGS[text.lower()]
