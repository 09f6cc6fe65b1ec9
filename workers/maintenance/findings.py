"""The findings of ``atlas-broker check``."""

from collections.abc import Callable, Iterator

from broker_api.errors import SettingError
from workers.atlas.client import AtlasError

GOOD, WARN, BAD = "good", "warn", "bad"
Finding = tuple[str, str]
"""A mark, and a sentence with the finding and what to do about it."""


def guarded(what: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a check; an exception becomes a finding too.

    Args:
        what: The subject of the check, for the finding about an exception. Of an unknown exception only the type is
            shown, since its text may contain a secret.
        look: The check.
    """
    try:
        yield from look()
    except (AtlasError, SettingError) as error:
        yield BAD, f"{what}: {error}"
    except Exception as error:  # noqa: BLE001 - the other checks must go on
        yield BAD, f"{what}: cannot be checked ({type(error).__name__})"
