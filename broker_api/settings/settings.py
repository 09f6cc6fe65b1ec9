"""Settings: read once from the environment and secret.json, checked, frozen, and passed to the parts that need them.

The environment takes precedence over the file. A missing or wrong setting raises ``SettingError`` with the variable's
name and what it must be. An error never repeats a value, since most values are secrets.
"""

import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal, Self

from cryptography.fernet import Fernet
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic import model_validator as validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from broker_api.config import DEDICATED, EXISTING, FLEX, Config
from broker_api.errors import SettingError
from broker_api.settings import url_checks
from broker_api.settings.config_loader import load_config
from broker_api.settings.redis_settings import RedisSettings
from broker_api.settings.secret_files import with_contents
from broker_api.settings.sources import (
    AsText,
    Environment,
    Text,
    Values,
    explain,
    read_file,
    read_sections,
    setting,
    variable_of,
)
from broker_api.settings.users import UserRole, parse_users, read_users

_Section = dict[str, object]
Part = Literal["api", "worker", "flower", "operator", "client"]
"""The kinds of processes. Each needs other settings; ``operator`` is a command that needs the state only, ``client``
is any other command of Celery."""


class Project(BaseModel):
    """An Atlas project and its credentials: an API key or a service account. The API process needs no credentials."""

    model_config = ConfigDict(frozen=True, loc_by_alias=False, hide_input_in_errors=True)

    project_id: Text = setting("MONGODB_ATLAS_PROJECT_ID", "group", default="")
    """The Atlas project. In secret.json, ``atlas`` may be a list with one entry for each project."""
    public_key: Text = setting("MONGODB_ATLAS_PUBLIC_API_KEY", "user", default="", repr=False)
    """The public part of an API key of the project. Workers only."""
    private_key: Text = setting("MONGODB_ATLAS_PRIVATE_API_KEY", "password", default="", repr=False)
    """The private part of the API key. Workers only."""
    client_id: Text = setting("MONGODB_ATLAS_CLIENT_ID", "client_id", default="", repr=False)
    """The id of a service account, which workers may use instead of an API key."""
    client_secret: Text = setting("MONGODB_ATLAS_CLIENT_SECRET", "client_secret", default="", repr=False)
    """The secret of the service account. Workers only."""

    @property
    def has_credentials(self) -> bool:
        """Whether there is an API key or a service account to call Atlas with."""
        return bool((self.public_key and self.private_key) or (self.client_id and self.client_secret))

    @validator(mode="after")
    def _has_id(self) -> Self:
        if not self.project_id:
            raise SettingError(
                "MONGODB_ATLAS_PROJECT_ID: must be the id of the Atlas project that the credentials open"
            )
        return self


def _keys(variable: str, given: object) -> tuple[str, ...]:
    listed = ",".join(map(str, given)) if isinstance(given, list) else str(given)
    keys = tuple(key.strip() for key in listed.split(",") if key.strip())
    try:
        for key in keys:
            Fernet(key)
    except ValueError:
        raise SettingError(
            f"{variable}: must be keys as atlas-broker keys generate makes them (32 bytes, URL-safe base64), several "
            "separated by commas"
        ) from None
    return keys


PLANS = (EXISTING, DEDICATED, FLEX)


def _plans(given: object) -> tuple[str, ...]:
    names = tuple(name.strip() for name in str(given).split(",") if name.strip())
    if not names or not {*names} <= {*PLANS}:
        raise ValueError("unknown plan")
    return names


def _keys_of(variable: str) -> BeforeValidator:
    return BeforeValidator(partial(_keys, variable))


def default_processes() -> int:
    """Return how many processes of the API there are by default: one for each core that it may use, at most 4."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(4, cores)


_Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False), AsText]
_SECONDS = "a number from 0 to 3600"


class Settings(BaseSettings):
    """All settings of a deployment. Times are in seconds unless the name has another unit."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        loc_by_alias=False,
        validate_default=False,
        hide_input_in_errors=True,
        arbitrary_types_allowed=True,
    )

    config: Config = Field(repr=False)
    projects: tuple[Project, ...] = ()
    base_url: Annotated[Text, AfterValidator(url_checks.check_base_url)] = setting(
        "MONGODB_ATLAS_BASE_URL", default="https://cloud.mongodb.com"
    )
    """The address of Atlas. ``http://`` is refused, except to this machine (``127.0.0.1``, ``localhost``)."""
    mongo_uri: Annotated[Text, AfterValidator(url_checks.check_mongo_uri)] = setting(
        "BROKER_MONGO_URI", "mongo", "uri", default="", repr=False
    )
    """The MongoDB for the broker's state, a replica set in production. Hosts, log-in, TLS, compression and pool sizes
    are taken from the URI. Options for reading, writing and waiting (``readPreference``, ``w``, …) are set by the
    broker: in the URI they are ignored, with a line in the log. ``directConnection=true``, ``loadBalanced=true`` and
    options that switch off the check of certificates are refused."""
    mongo_db: Text = setting("BROKER_MONGO_DB", "mongo", "db", default="atlas_broker")
    """The database of the broker's state."""
    mongo_collection: Text = setting("BROKER_MONGO_COLLECTION", "mongo", "collection", default="instances")
    """The collection of instances and bindings. Two others beside it begin with the same name."""
    mongo_timeout_ms: Annotated[int, Field(ge=100, le=600_000), AsText] = setting(
        "BROKER_MONGO_TIMEOUT_MS", "mongo", "timeoutms", default=5000, must_be="a number from 100 to 600000"
    )
    """How many milliseconds one query of MongoDB may take."""
    redis: Annotated[RedisSettings, BeforeValidator(RedisSettings.parse), AsText] = setting(
        "BROKER_REDIS_URL", "redis", "url", default=lambda: RedisSettings.parse("redis://127.0.0.1:6379/0"), repr=False
    )
    """The Redis that carries the jobs. Also ``rediss://…`` and ``sentinel://…``; see
    [Redis](configuration.md#redis)."""
    users: Annotated[dict[str, str], BeforeValidator(parse_users)] = setting(
        "BROKER_USERS", "users", default=dict, repr=False
    )
    """The users of the API and of Flower, ``name:password`` separated by commas, in secret.json ``{"name":
    "password"}``. Passwords are clear or hashes, and users may have a role; see
    [users](configuration.md#users-and-passwords)."""
    encryption_keys: Annotated[tuple[str, ...], _keys_of("BROKER_ENCRYPTION_KEYS")] = setting(
        "BROKER_ENCRYPTION_KEYS", "encryption_keys", default=(), repr=False
    )
    """Keys that encrypt what is stored, as ``atlas-broker keys generate`` makes them; several are separated by commas.
    The first key writes, all keys read. All processes need the same keys; a process whose keys do not decrypt the
    stored data does not start."""
    worker_keys: Annotated[tuple[str, ...], _keys_of("BROKER_WORKER_KEYS")] = setting(
        "BROKER_WORKER_KEYS", "worker_keys", default=(), repr=False
    )
    """Like the encryption keys, for what only workers may read: the Atlas token that they share. Give it to workers
    only. Without it, a key is derived from the Atlas credentials."""
    processes: Annotated[int, Field(ge=1, le=64), AsText] = setting(
        "BROKER_API_PROCESSES", default=default_processes, must_be="a whole number from 1 to 64"
    )
    """How many processes ``atlas-broker api`` serves with. By default one for each core, at most 4. Each needs about
    50 MB of memory of its own."""
    flower_url: Annotated[Text, AfterValidator(url_checks.check_flower_url)] = setting("BROKER_FLOWER_URL", default="")
    """The address of Flower, as operators' browsers reach it. The page of an operation then has a link to its job."""
    sync_wait: _Seconds = setting("BROKER_SYNC_WAIT_SECONDS", default=50, must_be=_SECONDS)
    """How long a request without ``accepts_incomplete=true`` waits for its job. With 0 the request gets 422 at once.
    After SIGTERM, give the API process 10 s more than this to end (``stop_grace_period``,
    ``terminationGracePeriodSeconds``)."""
    settle: _Seconds = setting("BROKER_SETTLE_SECONDS", default=5, must_be=_SECONDS)
    """Atlas may report ``APPLIED`` before it has noticed a change. Without a ``PENDING`` since the change, ``APPLIED``
    counts only this many seconds after it."""
    verify_login: Annotated[bool, AsText] = setting("BROKER_VERIFY_LOGIN", default=False, must_be="true or false")
    """Whether a worker logs in with new credentials before the bind becomes ``succeeded``. It cannot do so for users
    with ``aws-iam``, who log in with credentials of AWS."""
    plans: Annotated[tuple[str, ...], BeforeValidator(_plans)] = setting(
        "BROKER_PLANS", default=(EXISTING,), must_be=f"one or more of {', '.join(PLANS)}, separated by commas"
    )
    """Which built-in plans are offered. ``dedicated`` and ``flex`` create a cluster for each instance, which costs
    money. A ``Config`` with services of its own replaces them."""
    metrics_port: Annotated[int, Field(ge=0, le=65_535), AsText] = setting(
        "BROKER_METRICS_PORT", default=0, must_be="a port from 1 to 65535, or 0 for none"
    )
    """The port of a worker's own metrics and probes; 9464 in the image."""

    @validator(mode="after")
    def _names_fit(self) -> Self:
        url_checks.check_mongo_names(self.mongo_db, self.mongo_collection)
        return self

    def check_complete(self, part: Part) -> None:
        """Check that all settings are there that a kind of process needs.

        Raises:
            SettingError: a setting is missing.
        """
        if part in ("api", "worker", "operator") and not self.mongo_uri:
            raise SettingError(
                "BROKER_MONGO_URI: must be set, to mongodb://… or mongodb+srv://…, the MongoDB for the broker's state"
            )
        if part in ("api", "flower") and not self.users:
            raise SettingError(
                "BROKER_USERS: must be set, to name:password for HTTP basic authentication, several separated by commas"
            )
        if part == "flower" and not any(UserRole.OPERATOR in user.roles for user in read_users(self.users)):
            raise SettingError("BROKER_USERS: must have a user with the role operator, which Flower is for")
        if part in ("api", "worker") and not self.encryption_keys:
            raise SettingError(
                "BROKER_ENCRYPTION_KEYS: must be set, to a key that atlas-broker keys generate has made, the same for "
                "all processes"
            )
        if part != "worker":
            return
        if not self.projects:
            raise SettingError(
                "MONGODB_ATLAS_PROJECT_ID: must be set, to the id of the Atlas project that holds the clusters"
            )
        for project in self.projects:
            if not project.has_credentials:
                raise SettingError(
                    "MONGODB_ATLAS_PUBLIC_API_KEY and MONGODB_ATLAS_PRIVATE_API_KEY, or MONGODB_ATLAS_CLIENT_ID and "
                    f"MONGODB_ATLAS_CLIENT_SECRET: must be set for the project {project.project_id}"
                )


SECRETS = tuple(
    name
    for field in (*Project.model_fields.values(), *Settings.model_fields.values())
    if not field.repr and (name := variable_of(field))
)
"""The variables of secrets, which may be in files."""


def load(environ: Mapping[str, str], part: Part, config: Config | None = None) -> Settings:
    """Read the settings for one kind of process.

    Args:
        environ: the environment variables.
        part: the kind of process, which decides which settings are required.
        config: the operator's ``Config``; None for the one that BROKER_CONFIG or BROKER_SECRETS names.

    Raises:
        SettingError: a setting is missing or wrong; the message is for the operator.
    """
    environ = with_contents(environ, SECRETS)
    if config is None and (reference := environ.get("BROKER_CONFIG")):
        config = load_config(reference)
    elif config is None:
        file = read_file(environ)
        config = Config(file.get("atlas"), file.get("mongo"))
    if config.DATABASES not in ("own", "any"):
        raise SettingError("Config.DATABASES: must be own or any")
    sections = read_sections(environ, config)
    made = {"config": config, "projects": _projects(environ, sections.get("atlas"))}
    try:
        settings = Settings(
            _build_sources=((Values(Settings, made), Environment(Settings, environ), Values(Settings, sections)), {})
        )
    except ValidationError as error:
        raise explain(error, {**Project.model_fields, **Settings.model_fields}) from None
    if len({each.project_id for each in settings.projects}) < len(settings.projects):
        raise SettingError("BROKER_SECRETS: the section atlas must have each group once")
    settings.check_complete(part)
    return settings


def _projects(environ: Mapping[str, str], section: _Section | list[_Section] | None) -> list[_Section]:
    """Return the projects of the file, together with the project that the environment describes.

    The variables complete the file's only project, or the one with the same id. Otherwise they are one more project,
    which becomes the first.
    """
    listed = section if isinstance(section, list) else [section] if section else []
    variables = [variable_of(field) for field in Project.model_fields.values()]
    given = {name: environ[name] for name in variables if name and environ.get(name)}
    if given and len(listed) <= 1:
        listed = [{**(listed[0] if listed else {}), **given}]
    elif given:
        same = [each for each in listed if each.get("group") == given.get("MONGODB_ATLAS_PROJECT_ID")]
        listed = [{**(same[0] if same else {}), **given}, *(each for each in listed if each not in same)]
    return [each for each in listed if any(each.values())]
