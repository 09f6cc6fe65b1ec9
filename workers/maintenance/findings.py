"""What ``atlas-broker check`` finds: a mark, and a sentence."""

from collections.abc import Callable, Iterator

from broker_api.errors import SettingError
from workers.atlas.client import AtlasError

GOOD, WARN, BAD = "good", "warn", "bad"
Finding = tuple[str, str]
"""A mark, and a sentence that says what was found and what to do."""


def guarded(what: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what ``look`` finds; what it raises is a finding too. The text of an unknown error may hold a secret."""
    try:
        yield from look()
    except (AtlasError, SettingError) as error:
        yield BAD, f"{what}: {error}"
    except Exception as error:  # noqa: BLE001 - the other checks must go on
        yield BAD, f"{what}: cannot be checked ({type(error).__name__})"
