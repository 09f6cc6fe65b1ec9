"""The sources of settings: first the environment variables, then the sections of secret.json."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AliasChoices, AliasPath, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, PydanticUseDefault
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from broker_api.config import Config
from broker_api.errors import SettingError

_NOT_TEXT = "not_text"


def setting(variable: str, *path: str, must_be: str = "", default: object = None, repr: bool = True) -> Any:  # noqa: A002, ANN401 - as pydantic's Field has it
    """Declare a setting.

    Args:
        variable: the name of its environment variable.
        path: its section and key in secret.json, if the file can have it.
        must_be: the allowed values, for the message when pydantic refuses a value.
        default: the value if nothing is set, or a function without arguments that returns it. None: no default.
        repr: whether ``repr`` of the settings shows it; False for a secret.
    """
    alias = AliasChoices(variable, AliasPath(*path)) if path else AliasChoices(variable)
    if callable(default):
        return Field(default_factory=default, validation_alias=alias, description=must_be, repr=repr)
    return Field(default, validation_alias=alias, description=must_be, repr=repr)


def is_unicode(text: str) -> bool:
    """Return False if the text holds a surrogate: Python decodes environment bytes that are not UTF-8 to surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _to_text(value: object) -> str:
    """Return a value as text, since a file may hold a number without quotes. An empty value counts as not set."""
    if value is None:
        raise PydanticUseDefault
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise PydanticCustomError(_NOT_TEXT, "no text")
    text = str(value).strip()
    if not is_unicode(text):
        raise PydanticCustomError(_NOT_TEXT, "no UTF-8")
    if not text:
        raise PydanticUseDefault
    return text


AsText = BeforeValidator(_to_text)
Text = Annotated[str, AsText]


def variable_of(field: FieldInfo) -> str | None:
    """Return the environment variable that a field was declared with; None if it has none."""
    return str(field.validation_alias.choices[0]) if isinstance(field.validation_alias, AliasChoices) else None


class Values(PydanticBaseSettingsSource):
    """Given values, by the names of variables, sections or fields."""

    def __init__(self, model: type[BaseSettings], values: Mapping[str, object]) -> None:
        super().__init__(model)
        self._values = values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[object, str, bool]:
        """Return the value of a field, the name that it is stored under, and False: the value is not JSON text."""
        name = variable_of(field) or field_name
        return self._values.get(name), name, False

    def __call__(self) -> dict[str, Any]:
        """Return all values."""
        return dict(self._values)


class Environment(Values):
    """The environment variables of the declared settings. An empty variable counts as not set."""

    def __call__(self) -> dict[str, Any]:
        """Return the variables that are set."""
        found = (self.get_field_value(field, name) for name, field in self.settings_cls.model_fields.items())
        return {name: value for value, name, _ in found if str(value or "").strip()}


class Sections(BaseModel):
    """The sections of secret.json. atlasbroker 2.0.0 knew only ``atlas`` and ``mongo``."""

    model_config = ConfigDict(hide_input_in_errors=True)

    atlas: dict[str, Any] | list[dict[str, Any]] | None = Field(None, description="an object or a list of objects")
    mongo: dict[str, Any] | None = Field(None, description="an object")
    redis: dict[str, Any] | None = Field(None, description="an object")
    users: dict[Any, Any] | None = Field(None, description="an object")
    encryption_keys: list[Any] | None = Field(None, description="a list")
    worker_keys: list[Any] | None = Field(None, description="a list")


def read_file(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of the file that BROKER_SECRETS names; ``{}`` if the variable is not set.

    Raises:
        SettingError: the file does not exist, cannot be read, or does not hold a JSON object.
    """
    path = environ.get("BROKER_SECRETS")
    if not path:
        return {}
    try:
        content = Config.load_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise SettingError(f"BROKER_SECRETS: {path} must be a JSON object in a readable file") from error
    if content is None:
        raise SettingError(f"BROKER_SECRETS: there is no file {path}")
    return content


def read_sections(environ: Mapping[str, str], config: Config) -> dict[str, Any]:
    """Return the sections of secret.json. The credentials of the ``Config`` take precedence over the file.

    The other sections of a file that the ``Config`` was made from are those of its import; the file has newer ones.

    Raises:
        SettingError: the file cannot be read, or a section has a wrong form.
    """
    own = {name: section for name, section in (("mongo", config.mongo), ("atlas", config.atlas)) if section}
    try:
        checked = Sections.model_validate({**config.secrets, **read_file(environ), **own})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        must_be = Sections.model_fields[name].description
        raise SettingError(f"BROKER_SECRETS: the section {name} must be {must_be}") from None
    return checked.model_dump(exclude_none=True)


def explain(error: ValidationError, fields: Mapping[str, FieldInfo]) -> SettingError:
    """Return the first of pydantic's errors as one line for the operator.

    Args:
        error: pydantic's errors.
        fields: the declared settings, by field name.

    Returns:
        An error with the variable and its allowed values. It repeats no part of the value, which may be a secret.
    """
    first = error.errors(include_input=False, include_url=False)[0]
    field = fields[next(str(name) for name in reversed(first["loc"]) if name in fields)]
    must_be = "text in UTF-8" if first["type"] == _NOT_TEXT else field.description
    return SettingError(f"{variable_of(field)}: must be {must_be}")
