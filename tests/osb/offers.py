"""A ``Config`` that offers more than the default one, for rules that need several plans."""

from broker_api.config import Config

UPDATEABLE, FIXED, MAINTAINED, UNBINDABLE, SMALL = (f"00000000-0000-4000-8000-00000000000{n}" for n in range(1, 6))
ON_DEV, ON_TEST, ELSEWHERE, PRIVATE, STRICT = (f"00000000-0000-4000-8000-00000000002{n}" for n in range(5))
OTHER_SERVICE, OTHER_PLAN = (f"00000000-0000-4000-8000-0000000000{n}" for n in (10, 11))
MAINTENANCE_VERSION = "1.2.0"
_STRICT = {
    "$schema": "http://json-schema.org/draft-04/schema#",
    "type": "object",
    "properties": {"cluster": {"type": "string"}},
    "additionalProperties": False,
}


def config() -> Config:
    """Plans beside the default one (left, kept, with a version, without bindings, with pins), and a second service."""
    made = Config(None, None)
    version = {"maintenance_info": {"version": MAINTENANCE_VERSION}}
    made.broker["plans"][0] |= {"plan_updateable": True, "max_bindings": "none"}
    made.broker["plans"] += [
        {"id": UPDATEABLE, "name": "updateable", "description": "May become another plan", "plan_updateable": True},
        {"id": FIXED, "name": "fixed", "description": "Stays what it is"},
        {"id": MAINTAINED, "name": "maintained", "description": "Has a version", "plan_updateable": True, **version},
        {"id": SMALL, "name": "small", "description": "Takes two bindings", "max_bindings": 2},
        {"id": UNBINDABLE, "name": "unbindable", "description": "Takes no bindings", "bindable": False},
        *(
            {"id": plan_id, "name": name, "description": "Pins something", "plan_updateable": True, **pins}
            for plan_id, name, pins in (
                (ON_DEV, "on-dev", {"cluster": "cluster-dev"}),
                (ON_TEST, "on-test", {"cluster": "cluster-test"}),
                (ELSEWHERE, "elsewhere", {"project": "f" * 24}),
                (PRIVATE, "private", {"connection": "private"}),
                (STRICT, "strict", {"schemas": {"service_instance": {"update": {"parameters": _STRICT}}}}),
            )
        ),
    ]
    plans = [{"id": OTHER_PLAN, "name": "other", "description": "Of another service", "plan_updateable": True}]
    other = {"id": OTHER_SERVICE, "name": "other", "description": "Another service", "bindable": True, "plans": plans}
    made.broker = [made.broker, other]  # type: ignore[assignment]  # one or several
    return made
