"""The quota of a plan: how many bindings an instance may have at once.

Each binding takes a slot, a number that MongoDB accepts only once for an instance. It is chosen among the first ones,
as many as the quota allows, so that concurrent requests cannot exceed it: two that choose the same slot decide again.
"""

import secrets
from collections.abc import Set as AbstractSet
from itertools import count, islice

from broker_api.catalog.catalog import Plan
from broker_api.errors import BadRequest
from broker_api.state.bind_reads import UNLIMITED

MOST_CHOICES = 1000
"""One of so many free slots is chosen: the fewer they are, the more often requests at the same time decide again."""


def free_slot(plan: Plan, user_limit: int | None, taken: AbstractSet[int], *, rotates: bool) -> int:
    """Return a slot that is free, at random among them.

    Args:
        plan: The plan of the instance.
        user_limit: How many users the Atlas project may have; None if Atlas has not told it, and then ``half`` means
            no limit.
        taken: The slots of the instance's bindings. Those of another plan may be greater than the quota.
        rotates: The binding replaces another one, which is unbound later; so one more is allowed.

    Raises:
        BadRequest: The instance has as many bindings as the plan allows.
    """
    quota = plan.max_bindings
    half = max(1, user_limit // 2) if user_limit else UNLIMITED
    most = quota if isinstance(quota, int) else half if quota == "half" else UNLIMITED
    limit = most + rotates
    if len(taken) >= limit:
        raise BadRequest(
            f"This instance has {len(taken)} bindings, and its plan {plan.name} allows {most}. Unbind one that is not "
            "needed, or make another instance."
        )
    if limit >= UNLIMITED:
        return secrets.randbelow(UNLIMITED)  # MongoDB refuses one that is taken, and the request decides again
    free = (slot for slot in count() if slot not in taken)
    return secrets.choice(list(islice(free, min(limit - len(taken), MOST_CHOICES))))
