"""A ``Config`` that offers more than the default one, for rules that need several plans."""

from broker_api.config import Config

UPDATEABLE, FIXED, MAINTAINED = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))
MAINTENANCE_VERSION = "1.2.0"


def config() -> Config:
    """Three plans beside the default one: one that may be left for another, one that may not, one with a version."""
    made = Config(None, None)
    version = {"maintenance_info": {"version": MAINTENANCE_VERSION}}
    made.broker["plans"] += [
        {"id": UPDATEABLE, "name": "updateable", "description": "May become another plan", "plan_updateable": True},
        {"id": FIXED, "name": "fixed", "description": "Stays what it is"},
        {"id": MAINTAINED, "name": "maintained", "description": "Has a version", "plan_updateable": True, **version},
    ]
    return made
