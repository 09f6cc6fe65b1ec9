"""`python -m tests.docs.settings_page > docs/settings.md`: the page of all settings, from the models that read them."""

import ast
import inspect
import re
import sys
from typing import NamedTuple

from pydantic import AliasChoices, AliasPath, BaseModel
from pydantic.fields import FieldInfo

from broker_api.settings.settings import Project, Settings
from broker_api.settings.sources import variable_of

HEAD = """\
# Settings

Settings are environment variables. Most can also be in a `secret.json`, whose path is in `BROKER_SECRETS`; the
environment takes precedence. An empty variable counts as not set. A missing or wrong setting stops the process with one
line that names the setting. [Configuration](configuration.md) explains Redis, users, files of secrets and `Config`.

What each kind of process cannot do without:

| process | required |
|---|---|
| API | `BROKER_MONGO_URI`, `BROKER_USERS`, `BROKER_ENCRYPTION_KEYS` |
| worker | `BROKER_MONGO_URI`, `BROKER_ENCRYPTION_KEYS`, `MONGODB_ATLAS_PROJECT_ID`, an API key or a service account |
| Flower | `BROKER_USERS` |
| operators' commands | `BROKER_MONGO_URI`; check and migrate need the same as a worker |

This page is made by `python -m tests.docs.settings_page > docs/settings.md`.
"""


class Entry(NamedTuple):
    """One variable: what it means, and what else is to be said of it."""

    variable: str
    meaning: str
    facts: dict[str, str]


NOT_IN_A_MODEL = (
    Entry("BROKER_SECRETS", "The path of the secret.json.", {}),
    Entry(
        "BROKER_CONFIG",
        "A [`Config`](config-api.md) of your own, or a function without arguments that returns one. Give API and "
        "workers the same.",
        {"must be": "`module:object`"},
    ),
    Entry(
        "BROKER_LOG_LEVEL",
        "The level of the logs of every process. Another level given to a worker by `--loglevel` takes precedence; "
        "`WARNING`, Celery's default, does not. Libraries log nothing below `INFO`, since they would log messages and "
        "documents.",
        {"must be": "`DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`", "default": "`INFO`"},
    ),
)
"""Variables that decide how the others are read."""

GROUPS = {
    "MongoDB": r"BROKER_MONGO_",
    "Redis": r"BROKER_REDIS_",
    "Users and keys": r"BROKER_(USERS|ENCRYPTION_KEYS|WORKER_KEYS|SECRETS)",
    "Atlas": r"MONGODB_ATLAS_",
    "Behaviour": r"",
}
"""The sections of the page, each with the names that belong to it; the last one takes what is left."""


def page() -> str:
    """Return the whole page."""
    left = [*_of_model(Settings), *_of_model(Project), *NOT_IN_A_MODEL]
    parts = [HEAD]
    for title, pattern in GROUPS.items():
        found = [entry for entry in left if re.match(pattern, entry.variable)]
        left = [entry for entry in left if entry not in found]
        parts += [f"## {title}\n", *map(_section, found)]
    return "\n".join(parts)


def _section(entry: Entry) -> str:
    facts = "".join(f"- {name}: {value}\n" for name, value in entry.facts.items())
    return f"### `{entry.variable}`\n\n{entry.meaning}\n" + (f"\n{facts}" if facts else "")


def _of_model(model: type[BaseModel]) -> list[Entry]:
    meanings = _docstrings(model)
    fields = {name: field for name, field in model.model_fields.items() if variable_of(field)}
    return [Entry(str(variable_of(field)), meanings[name], _facts(field)) for name, field in fields.items()]


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the strings below the fields of a model, by field."""
    (owner,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(owner, ast.ClassDef)
    found = {}
    for field, below in zip(owner.body, owner.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(below.value.value).replace("``", "`").split())
    return found


def _facts(field: FieldInfo) -> dict[str, str]:
    variable, facts = str(variable_of(field)), {}
    assert isinstance(field.validation_alias, AliasChoices)
    paths = [choice for choice in field.validation_alias.choices if isinstance(choice, AliasPath)]
    section = "" if variable.startswith("BROKER_") else "atlas."
    keys = [section + ".".join(map(str, path.path)) for path in paths]
    if keys:
        facts["in secret.json"] = f"`{keys[0]}`"
    if field.description:
        facts["must be"] = field.description
    if field.default not in ("", None, ()) and not field.default_factory:
        facts["default"] = f"`{_as_written(field.default)}`"
    elif variable == "BROKER_REDIS_URL":
        facts["default"] = f"`{Settings.model_fields['redis'].get_default(call_default_factory=True).celery_url}`"
    if not field.repr:
        facts["may be in a file"] = f"its path is in `{variable}_FILE`"
    return facts


def _as_written(value: object) -> str:
    """Return a value as a variable has it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    sys.stdout.write(page())
