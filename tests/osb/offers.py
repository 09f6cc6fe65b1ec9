"""A ``Config`` that offers more than the default one, for rules that need several plans."""

from broker_api.config import Config

UPDATEABLE, FIXED, MAINTAINED, UNBINDABLE = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2, 3, 4))
OTHER_SERVICE, OTHER_PLAN = (f"00000000-0000-4000-8000-0000000000{n}" for n in (10, 11))
MAINTENANCE_VERSION = "1.2.0"


def config() -> Config:
    """Four plans beside the default one (to be left, to be kept, with a version, without bindings), and a service."""
    made = Config(None, None)
    version = {"maintenance_info": {"version": MAINTENANCE_VERSION}}
    made.broker["plans"] += [
        {"id": UPDATEABLE, "name": "updateable", "description": "May become another plan", "plan_updateable": True},
        {"id": FIXED, "name": "fixed", "description": "Stays what it is"},
        {"id": MAINTAINED, "name": "maintained", "description": "Has a version", "plan_updateable": True, **version},
        {"id": UNBINDABLE, "name": "unbindable", "description": "Takes no bindings", "bindable": False},
    ]
    plans = [{"id": OTHER_PLAN, "name": "other", "description": "Of another service", "plan_updateable": True}]
    other = {"id": OTHER_SERVICE, "name": "other", "description": "Another service", "bindable": True, "plans": plans}
    made.broker = [made.broker, other]  # type: ignore[assignment]  # one or several, as CatalogSource says
    return made
