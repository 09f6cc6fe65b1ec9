"""The pause before something that has failed is tried again."""

import random

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 15.0


def backoff(attempts: int, longest: float = LONGEST_BACKOFF_SECONDS) -> float:
    """Return the pause before the next attempt.

    Args:
        attempts: The number of failed attempts before this one; there may be any number.
        longest: The maximum, in seconds.

    Returns:
        Seconds: they double with each attempt up to the maximum, with random jitter.
    """
    pause = min(longest, FIRST_BACKOFF_SECONDS * 2.0 ** min(attempts, 10))  # a greater power overflows in the end
    return pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
