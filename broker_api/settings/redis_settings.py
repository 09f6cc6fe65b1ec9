"""BROKER_REDIS_URL, parsed once. The queue, workers, the rate limiter, ``check`` and ``/ready`` all connect with it.

In a list of URLs, the database, user, password, TLS options and master name of one URL apply to all. Several
``redis://`` servers are tried in the order of the list; several sentinels are asked at the same time.
"""

import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from kombu.utils.imports import symbol_by_name
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo
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
from broker_api.settings.url_checks import are_local

_PORTS = {"redis": 6379, "rediss": 6379, "sentinel": 26379}
_FORM = (
    "BROKER_REDIS_URL: must be redis://[name:password@]host[:port][/database], the same with rediss:// and "
    "?ssl_…=…, or sentinel://host[:port];sentinel://host[:port][/database]"
    "?master_name=…; the port is from 1 to 65535, the database a number from 0, and user name and password must be "
    "percent-encoded"
)
_UNCHECKED = (
    "BROKER_REDIS_URL: must be without ssl_cert_reqs=none and ssl_check_hostname=false: the certificate of Redis is "
    "always checked. Name its authority with ssl_ca_certs"
)
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _flag(text: str) -> bool:
    if text.lower() not in _FLAGS:
        raise SettingError("BROKER_REDIS_URL: must have true or false in ssl, sentinel_ssl and ssl_check_hostname")
    return _FLAGS[text.lower()]


def _requirement(text: str) -> str:
    wanted = text.removeprefix("CERT_").lower()
    if wanted == "none":
        raise SettingError(_UNCHECKED)
    return wanted


def _checked(checked: bool) -> bool:  # noqa: FBT001 - a validator
    if not checked:
        raise SettingError(_UNCHECKED)
    return checked


def _readable(path: str, info: ValidationInfo) -> str:
    if not os.access(path, os.R_OK):
        raise SettingError(f"BROKER_REDIS_URL: must name a file that can be read in its option {info.field_name}")
    return path


_File = Annotated[str, AfterValidator(_readable)]


class TlsOptions(BaseModel):
    """redis-py's TLS options that a URL may have. The certificate is always checked."""

    model_config = ConfigDict(extra="forbid")

    ssl_cert_reqs: Annotated[Literal["required", "optional"], BeforeValidator(_requirement)] = "required"
    ssl_check_hostname: Annotated[bool, AfterValidator(_checked), BeforeValidator(_flag)] = True
    ssl_ca_certs: _File | None = None
    ssl_certfile: _File | None = None
    ssl_keyfile: _File | None = None
    ssl_ca_path: str | None = None
    ssl_ca_data: str | None = None
    ssl_ciphers: str | None = None
    ssl_password: str | None = None


if TYPE_CHECKING:

    class RedisConnection(Connection):
        """redis-py's connection, with types for the methods that are overridden here."""

        def __init__(self, **options: object) -> None: ...
        def _connect(self) -> socket.socket: ...

else:
    RedisConnection = Connection


class ServerConnection(RedisConnection):
    """A connection to the first reachable one of several servers."""

    def __init__(self, *, servers: tuple[tuple[str, int], ...], **options: object) -> None:
        self._servers = servers
        host, port = servers[0]
        super().__init__(host=host, port=port, **options)

    def _connect(self) -> socket.socket:
        *others, last = self._servers
        for address in others:
            self.host, self.port = address
            try:
                return super()._connect()
            except OSError:
                continue
        self.host, self.port = last
        return super()._connect()


class TlsServerConnection(ServerConnection, SSLConnection):
    """A TLS connection to the first reachable one of several servers."""


class ParallelSentinel(Sentinel):
    """Asks all sentinels at the same time, so that a sentinel that does not answer delays nothing."""

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return the host and port of the master, from the first sentinel that knows it.

        Raises:
            RedisConnectionError: no sentinel answers.
            MasterNotFoundError: the sentinels that answer know no such master.
        """
        answers: SimpleQueue[tuple[str, int] | Exception | None] = SimpleQueue()

        def ask(sentinel: Redis) -> None:
            try:
                state = sentinel.sentinel_masters().get(service_name)  # type: ignore[union-attr]  # it is never a coroutine here
                known = state and self.check_master_state(state, service_name)  # type: ignore[no-untyped-call]  # redis-py's
                answers.put((state["ip"], state["port"]) if state and known else None)
            except Exception as error:  # noqa: BLE001 - another sentinel may know the master
                answers.put(error)

        for each in self.sentinels:
            threading.Thread(target=ask, args=(each,), name="sentinel", daemon=True).start()
        errors: list[Exception] = []
        for _ in self.sentinels:
            answer = answers.get()  # each thread ends after its socket's timeout
            if isinstance(answer, tuple):
                return answer
            if answer:
                errors.append(answer)
        if len(errors) == len(self.sentinels):
            raise RedisConnectionError(NO_SENTINEL) from errors[0]
        raise MasterNotFoundError("the sentinels that answer know no such master")


@dataclass(frozen=True)
class RedisSettings:
    """Where Redis is and how to connect to it. ``repr`` shows no secret."""

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
        """Parse BROKER_REDIS_URL.

        Args:
            url: one URL, or several separated by semicolons.

        Raises:
            SettingError: a URL cannot be used, or two of them contradict each other. The message repeats no part of
                a URL, since it may hold a password.
        """
        if not url.isprintable() or " " in url:
            raise SettingError(_FORM)
        try:
            return _merge([_split(each) for each in url.split(";")])
        except ValueError:  # also pydantic's
            raise SettingError(_FORM) from None

    @property
    def is_in_clear(self) -> bool:
        """Whether a connection to Redis or its sentinels has no TLS, and does not stay on this machine."""
        encrypted = self.tls is not None and (self.scheme != "sentinel" or "ssl" in self.sentinel)
        return not encrypted and not are_local(host for host, _ in self.servers)

    @property
    def celery_url(self) -> str:
        """The URL of the first server, for Celery and Flower, which show it without its password."""
        host, port = self.servers[0]
        user = f"{quote(self.username or '', safe='')}:{quote(self.password or '', safe='')}@"
        bracketed = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{user if user != ':@' else ''}{bracketed}:{port}/{self.database}"

    @property
    def connection_class(self) -> type[Connection]:
        """The class of redis-py for one connection, with or without TLS."""
        if self.scheme == "sentinel":
            return SentinelManagedConnection if self.tls is None else SentinelManagedSSLConnection
        return ServerConnection if self.tls is None else TlsServerConnection

    def pool(
        self,
        seconds: float,
        connect_seconds: float | None = None,
        connection_class: type[Connection] | None = None,
        **options: Any,  # noqa: ANN401 - redis-py's
    ) -> ConnectionPool:
        """Return a pool of connections.

        Args:
            seconds: the timeout of each read and write, also of calls to sentinels.
            connect_seconds: the timeout of a new connection; None for ``seconds``.
            connection_class: the class of one connection; None for ``self.connection_class``.
            options: more options of redis-py's pool and connections.

        Raises:
            SettingError: ``credential_provider`` names no class of credential providers.
        """
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
        sentinels = ParallelSentinel(self.servers, sentinel_kwargs={**times, **self.sentinel}, **common)  # type: ignore[no-untyped-call]  # redis-py's
        pool: ConnectionPool = sentinels.master_for(self.master_name, Redis).connection_pool  # type: ignore[no-untyped-call]  # redis-py's
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
        """Return a client whose calls end in bounded time, also when Redis never answers.

        Args:
            seconds: the timeout of each connection attempt, read and write.
        """
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


def _merge(parts: list[SplitResult]) -> RedisSettings:
    """Return the settings of all URLs together.

    Raises:
        ValueError: the URLs cannot be used.
    """
    (scheme,) = {each.scheme for each in parts}
    options = _options(parts)
    tls_options = _take(options, "ssl_")
    tls: dict[str, Any] | None = None
    sentinel: dict[str, Any] = {}
    if scheme == "redis" and tls_options:
        raise ValueError
    if scheme == "rediss" or tls_options or (scheme == "sentinel" and _flag(options.get("ssl", "false"))):
        tls = TlsOptions.model_validate(tls_options).model_dump(exclude_none=True)
    if scheme == "sentinel":
        options.pop("ssl", None)
        sentinel_options = _take(options, "sentinel_ssl_")
        sentinel = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
        if _flag(options.pop("sentinel_ssl", "false")) or sentinel_options:
            checked = TlsOptions.model_validate({**tls_options, **sentinel_options})
            sentinel |= {"ssl": True, **checked.model_dump(exclude_none=True)}
    settings = RedisSettings(
        scheme=scheme,
        servers=tuple((unquote(each.hostname or ""), each.port or _PORTS[scheme]) for each in parts),
        database=int(options.pop("database", 0)),
        username=options.pop("username", None),
        password=options.pop("password", None),
        tls=tls,
        master_name=options.pop("master_name", "mymaster") if scheme == "sentinel" else "",
        sentinel=sentinel,
        credential_provider=options.pop("credential_provider", None),
    )
    if options:
        raise ValueError
    return settings


def _take(options: dict[str, str], prefix: str) -> dict[str, str]:
    """Remove the options with this prefix and return them as redis-py's TLS options ``ssl_…``."""
    return {f"ssl_{name.removeprefix(prefix)}": options.pop(name) for name in list(options) if name.startswith(prefix)}


def _options(parts: list[SplitResult]) -> dict[str, str]:
    """Return database, user, password and query options of all URLs, by name.

    Raises:
        ValueError: an option is unknown.
        SettingError: two URLs contradict each other.
    """
    options: dict[str, str] = {}
    for url in parts:
        path = url.path.strip("/")
        named = {
            "database": str(int(path)) if path else "",
            "username": unquote(url.username or ""),
            "password": unquote(url.password or ""),
        }
        query = parse_qsl(url.query, keep_blank_values=True)
        for name, _ in query:
            if name not in ("master_name", "credential_provider", "ssl") and not name.startswith(("ssl_", "sentinel_")):
                raise ValueError
        for name, value in (*named.items(), *query):
            if value and options.setdefault(name, value) != value:
                raise SettingError(f"BROKER_REDIS_URL: must say the same in each of its URLs; two differ in {name}")
    return options
