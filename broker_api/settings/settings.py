"""Settings: read once from the environment and secret.json, checked, frozen, and passed in.

The environment wins over the file. A missing or wrong one raises ``SettingError`` with the variable's name and what it
should be; values are never repeated in an error, since most are secrets.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cryptography.fernet import Fernet

from broker_api.config import Config
from broker_api.errors import SettingError
from broker_api.settings import urls
from broker_api.settings.redis_settings import RedisSettings

Part = Literal["api", "worker", "flower", "client"]
"""Which process asks: each needs other settings; ``client`` is any other command of Celery, which needs Redis only."""

DEFAULT_BASE_URL = "https://cloud.mongodb.com"
DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


@dataclass(frozen=True)
class Project:
    """An Atlas project and what opens it: a key pair, or a service account; neither in the API process."""

    project_id: str
    public_key: str = field(default="", repr=False)
    private_key: str = field(default="", repr=False)
    client_id: str = field(default="", repr=False)
    client_secret: str = field(default="", repr=False)

    @property
    def has_credentials(self) -> bool:
        """Whether a worker can call Atlas with it."""
        return bool((self.public_key and self.private_key) or (self.client_id and self.client_secret))


@dataclass(frozen=True)
class Settings:
    """Everything that is set from outside; times in seconds unless the name says otherwise."""

    mongo_uri: str = field(repr=False)
    redis: RedisSettings
    mongo_db: str
    mongo_collection: str
    mongo_timeout_ms: int
    users: Mapping[str, str] = field(repr=False)
    encryption_keys: tuple[str, ...] = field(repr=False)
    base_url: str
    projects: tuple[Project, ...]
    sync_wait: float
    settle: float
    verify_login: bool
    config: Config = field(repr=False)


def load(environ: Mapping[str, str], part: Part, config: Config | None = None) -> Settings:
    """Read the settings for one kind of process.

    Raises:
        SettingError: a setting is missing or wrong; its message is fit for the operator.
    """
    config = config or _config(environ)
    if config.DATABASES not in ("own", "any"):
        raise SettingError("Config.DATABASES: must be own or any")
    source = _source(environ, config)
    database, collection = _mongo_names(source)
    settings = Settings(
        mongo_uri=_mongo_uri(source, part),
        redis=_redis(source),
        mongo_db=database,
        mongo_collection=collection,
        mongo_timeout_ms=int(source.number("BROKER_MONGO_TIMEOUT_MS", "timeoutms", 5000, (100, 600_000))),
        users=_users(source),
        encryption_keys=_encryption_keys(source),
        base_url=_base_url(source),
        projects=_projects(source),
        sync_wait=source.number("BROKER_SYNC_WAIT_SECONDS", None, 50, (0, 3600)),
        settle=source.number("BROKER_SETTLE_SECONDS", None, 5, (0, 3600)),
        verify_login=source.flag("BROKER_VERIFY_LOGIN"),
        config=config,
    )
    _require(settings, part)
    return settings


def _config(environ: Mapping[str, str]) -> Config:
    """Return the ``Config`` that BROKER_CONFIG names, else the default one on BROKER_SECRETS."""
    if reference := environ.get("BROKER_CONFIG"):
        return _named_config(reference)
    secrets = _secrets(environ)
    return Config(secrets.get("atlas"), secrets.get("mongo"))


def _named_config(reference: str) -> Config:
    wrong = f"BROKER_CONFIG: must be module:object, a Config or a function that returns one; {reference!r} is not"
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise SettingError(wrong)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise SettingError(f"{wrong} ({' '.join(str(error).split())})") from error
    except (Exception, SystemExit) as error:  # noqa: BLE001 - an operator's own code
        raise SettingError(f"{wrong}: importing it raises {type(error).__name__}") from None
    made = found if isinstance(found, Config) else _call(found, wrong)
    if not isinstance(made, Config):
        raise SettingError(wrong)
    return made


def _call(maker: Any, wrong: str) -> Any:  # noqa: ANN401 - whatever an operator's module holds
    if isinstance(maker, type) and issubclass(maker, Config):
        raise SettingError(f"{wrong}: it is a class; name an object or a function without arguments")
    if not callable(maker):
        raise SettingError(wrong)
    try:
        return maker()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - an operator's own, whose text may hold a secret
        raise SettingError(f"{wrong}: it raises {type(error).__name__}") from None


def _secrets(environ: Mapping[str, str]) -> dict[str, Any]:
    path = environ.get("BROKER_SECRETS")
    if not path:
        return {}
    try:
        secrets = Config.load_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise SettingError(f"BROKER_SECRETS: {path} must be a JSON object in a readable file") from error
    if not isinstance(secrets, dict):
        raise SettingError(f"BROKER_SECRETS: there is no file {path}")
    return secrets


_SECTIONS: dict[str, tuple[type, str]] = {
    "mongo": (Mapping, "an object"),
    "redis": (Mapping, "an object"),
    "users": (Mapping, "an object"),
    "encryption_keys": (list, "a list"),
}


def _source(environ: Mapping[str, str], config: Config) -> "_Source":
    """Put together what a ``Config`` was made with and what BROKER_SECRETS holds; the ``Config`` goes first.

    Raises:
        SettingError: a section has another form; that of ``atlas`` is looked at where it is read.
    """
    own = {"mongo": config.mongo, "atlas": config.atlas}
    held = {**_secrets(environ), **config.secrets, **{name: section for name, section in own.items() if section}}
    for name, (kind, words) in _SECTIONS.items():
        if held.get(name) is not None and not isinstance(held[name], kind):
            raise SettingError(f"BROKER_SECRETS: the section {name} must be {words}")
    return _Source(environ, held)


@dataclass(frozen=True)
class _Source:
    """The environment before the file: a variable, else the seed's section and key."""

    environ: Mapping[str, str]
    secrets: Mapping[str, Any]

    def text(self, variable: str, section: str | None = None, key: str = "") -> str:
        return _text(self.environ.get(variable) or self._from_file(section, key), variable)

    def _from_file(self, section: str | None, key: str) -> Any:  # noqa: ANN401 - any JSON value
        held = self.secrets.get(section or "")
        return held.get(key) if isinstance(held, Mapping) else None

    def number(self, variable: str, mongo_key: str | None, default: float, bounds: tuple[int, int]) -> float:
        text = self.text(variable, "mongo" if mongo_key else None, mongo_key or "")
        try:
            value = float(text) if text else default
        except ValueError:
            value = -1
        if not bounds[0] <= value <= bounds[1]:
            raise SettingError(f"{variable}: must be a number from {bounds[0]} to {bounds[1]}")
        return value

    def flag(self, variable: str) -> bool:
        text = self.text(variable).lower()
        if text not in ("", "true", "false", "1", "0", "yes", "no"):
            raise SettingError(f"{variable}: must be true or false")
        return text in ("true", "1", "yes")


def _text(value: Any, name: str) -> str:  # noqa: ANN401 - any JSON value
    """Return what was set as text; a file may hold a number without quotes."""
    if value is None:
        return ""
    text = str(value).strip()
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not _is_unicode(text):
        raise SettingError(f"{name}: must be text in UTF-8")
    return text


def _is_unicode(text: str) -> bool:
    """Return False for halves of surrogates, which bytes that are no UTF-8 become in the environment."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _mongo_uri(source: _Source, part: Part) -> str:
    uri = source.text("BROKER_MONGO_URI", "mongo", "uri")
    if uri or part not in ("flower", "client"):
        urls.check_mongo_uri(uri)
    return uri


def _mongo_names(source: _Source) -> tuple[str, str]:
    database = source.text("BROKER_MONGO_DB", "mongo", "db") or "atlas_broker"
    collection = source.text("BROKER_MONGO_COLLECTION", "mongo", "collection") or "instances"
    urls.check_mongo_names(database, collection)
    return database, collection


def _redis(source: _Source) -> RedisSettings:
    return RedisSettings.parse(source.text("BROKER_REDIS_URL", "redis", "url") or DEFAULT_REDIS_URL)


def _base_url(source: _Source) -> str:
    url = source.text("MONGODB_ATLAS_BASE_URL") or DEFAULT_BASE_URL
    urls.check_base_url(url)
    return url.rstrip("/")


def _users(source: _Source) -> Mapping[str, str]:
    """Return the password of each name; HTTP basic authentication can carry no colon in a name (RFC 7617)."""
    text = source.text("BROKER_USERS")
    pairs = [_user(pair) for pair in text.split(",")] if text else list((source.secrets.get("users") or {}).items())
    for name, password in pairs:
        if not _is_filled(name) or not _is_filled(password) or ":" in name:
            raise SettingError(
                "BROKER_USERS: must be name:password, several separated by commas, in secret.json an object of names "
                "and passwords; all of them text, none empty, no colon in a name"
            )
    if len(dict(pairs)) < len(pairs):
        raise SettingError("BROKER_USERS: must be pairs with another name each")
    return dict(pairs)


def _user(pair: str) -> tuple[str, str]:
    name, _, password = pair.strip().partition(":")
    return name, password


def _is_filled(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and _is_unicode(value)


def _encryption_keys(source: _Source) -> tuple[str, ...]:
    held = source.secrets.get("encryption_keys") or []
    text = source.environ.get("BROKER_ENCRYPTION_KEYS") or ",".join(map(str, held))
    keys = tuple(key.strip() for key in text.split(",") if key.strip())
    try:
        for key in keys:
            Fernet(key)
    except ValueError as error:
        raise SettingError(
            "BROKER_ENCRYPTION_KEYS: must be Fernet keys (32 bytes, URL-safe base64), several separated by commas"
        ) from error
    return keys


_CREDENTIALS = {
    "public_key": ("MONGODB_ATLAS_PUBLIC_API_KEY", "user"),
    "private_key": ("MONGODB_ATLAS_PRIVATE_API_KEY", "password"),
    "client_id": ("MONGODB_ATLAS_CLIENT_ID", "client_id"),
    "client_secret": ("MONGODB_ATLAS_CLIENT_SECRET", "client_secret"),
    "project_id": ("MONGODB_ATLAS_PROJECT_ID", "group"),
}


def _projects(source: _Source) -> tuple[Project, ...]:
    """Return the file's projects; the environment fills in the only one, or adds one in front of several."""
    atlas = source.secrets.get("atlas")
    listed = [_filed(entry) for entry in (atlas if isinstance(atlas, list) else [atlas] if atlas else [])]
    given = {name: source.text(variable) for name, (variable, _) in _CREDENTIALS.items()}
    given = {name: value for name, value in given.items() if value}
    if given and len(listed) <= 1:
        listed = [{**(listed[0] if listed else {}), **given}]
    elif given:
        same = [each for each in listed if each.get("project_id") == given.get("project_id")]
        listed = [{**(same[0] if same else {}), **given}, *(each for each in listed if each not in same)]
    return tuple(_project(each) for each in listed if any(each.values()))


def _filed(entry: Mapping[str, Any]) -> dict[str, str]:
    if not isinstance(entry, Mapping):
        raise SettingError("BROKER_SECRETS: the section atlas must be an object or a list of objects")
    return {name: _text(entry.get(key), variable) for name, (variable, key) in _CREDENTIALS.items()}


def _project(values: Mapping[str, str]) -> Project:
    if not values.get("project_id"):
        raise SettingError("MONGODB_ATLAS_PROJECT_ID: must be the id of the Atlas project that the credentials open")
    return Project(**values)


def _require(settings: Settings, part: Part) -> None:
    """Refuse what this kind of process cannot do without."""
    if part in ("api", "flower") and not settings.users:
        raise SettingError("BROKER_USERS: must be name:password for HTTP basic authentication, several with commas")
    if part in ("api", "worker") and not settings.encryption_keys:
        raise SettingError("BROKER_ENCRYPTION_KEYS: must be one or more Fernet keys, separated by commas")
    if part == "worker":
        _require_atlas(settings.projects)


def _require_atlas(projects: tuple[Project, ...]) -> None:
    if not projects:
        raise SettingError("MONGODB_ATLAS_PROJECT_ID: must be the id of the Atlas project that holds the clusters")
    for project in projects:
        if not project.has_credentials:
            raise SettingError(
                "MONGODB_ATLAS_PUBLIC_API_KEY and MONGODB_ATLAS_PRIVATE_API_KEY, or MONGODB_ATLAS_CLIENT_ID and "
                f"MONGODB_ATLAS_CLIENT_SECRET: must be set for the project {project.project_id}"
            )
