"""The quota of a plan: how many bindings an instance may have at once.

Each binding takes a slot, a number that MongoDB accepts only once for an instance. It is chosen among the first ones,
as many as the quota allows, so that concurrent requests cannot exceed it: two that choose the same slot decide again.
"""

import secrets
from collections.abc import Set as AbstractSet

from broker_api.catalog.catalog import Plan
from broker_api.errors import BadRequest
from broker_api.state.store import UNLIMITED


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
    first = limit  # only slots below it are chosen; each taken one above it lowers it by one
    while first + sum(slot >= first for slot in taken) > limit:
        first -= 1
    below = sorted(slot for slot in taken if slot < first)
    chosen = secrets.randbelow(first - len(below))
    for slot in below:
        chosen += slot <= chosen
    return chosen
