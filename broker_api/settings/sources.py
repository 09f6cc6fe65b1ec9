"""Where settings come from: variables of the environment first, then the sections of secret.json."""

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
        variable: its name in the environment.
        path: the section and the key of secret.json that it has too.
        must_be: what it has to be, for the error when pydantic refuses a value.
        default: its value where nothing is set, a function without arguments that returns it, or None: there is none.
        repr: whether the text form of the settings shows it; never for a secret.
    """
    alias = AliasChoices(variable, AliasPath(*path)) if path else AliasChoices(variable)
    if callable(default):
        return Field(default_factory=default, validation_alias=alias, description=must_be, repr=repr)
    return Field(default, validation_alias=alias, description=must_be, repr=repr)


def is_unicode(text: str) -> bool:
    """Return False for halves of surrogates, which bytes that are no UTF-8 become in the environment."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _to_text(value: object) -> str:
    """Return the text of a value; a file may hold a number without quotes. What is empty counts as not set."""
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
    """Return the name of the variable that a field was declared with."""
    return str(field.validation_alias.choices[0]) if isinstance(field.validation_alias, AliasChoices) else None


class Values(PydanticBaseSettingsSource):
    """Values that are at hand, by the names that the fields are read from."""

    def __init__(self, model: type[BaseSettings], values: Mapping[str, object]) -> None:
        super().__init__(model)
        self._values = values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[object, str, bool]:
        """Return a field's value, and the name that it was found under."""
        name = variable_of(field) or field_name
        return self._values.get(name), name, False

    def __call__(self) -> dict[str, Any]:
        """Return everything."""
        return dict(self._values)


class Environment(Values):
    """The variables that are declared; an empty one counts as not set."""

    def __call__(self) -> dict[str, Any]:
        """Return the variables that are set."""
        found = (self.get_field_value(field, name) for name, field in self.settings_cls.model_fields.items())
        return {name: value for value, name, _ in found if str(value or "").strip()}


class Sections(BaseModel):
    """The sections of secret.json, of which atlasbroker 2.0.0 knew ``atlas`` and ``mongo``."""

    model_config = ConfigDict(hide_input_in_errors=True)

    atlas: dict[str, Any] | list[dict[str, Any]] | None = Field(None, description="an object or a list of objects")
    mongo: dict[str, Any] | None = Field(None, description="an object")
    redis: dict[str, Any] | None = Field(None, description="an object")
    users: dict[Any, Any] | None = Field(None, description="an object")
    encryption_keys: list[Any] | None = Field(None, description="a list")


def read_file(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of the file that BROKER_SECRETS names; nothing where it is not set.

    Raises:
        SettingError: the file cannot be read, or holds something else than a JSON object.
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
    """Return the sections of secret.json. What the ``Config`` was made with goes before the file.

    Raises:
        SettingError: a section has another form.
    """
    own = {name: section for name, section in (("mongo", config.mongo), ("atlas", config.atlas)) if section}
    try:
        checked = Sections.model_validate({**read_file(environ), **config.secrets, **own})
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        must_be = Sections.model_fields[name].description
        raise SettingError(f"BROKER_SECRETS: the section {name} must be {must_be}") from None
    return checked.model_dump(exclude_none=True)


def explain(error: ValidationError, fields: Mapping[str, FieldInfo]) -> SettingError:
    """Return the first error as one line that names the variable and repeats nothing of its value."""
    first = error.errors(include_input=False, include_url=False)[0]
    field = fields[next(str(name) for name in reversed(first["loc"]) if name in fields)]
    must_be = "text in UTF-8" if first["type"] == _NOT_TEXT else field.description
    return SettingError(f"{variable_of(field)}: must be {must_be}")
