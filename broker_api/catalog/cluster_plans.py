"""The clusters that plans make: what users may choose, what a plan fixes, and what can be changed later."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from broker_api.errors import BadRequest
from broker_api.json_types import JsonObject

SECONDS = 10_800
"""The deadline of operations of such plans, and their ``maximum_polling_duration``."""
PROVIDERS = ("AWS", "GCP", "AZURE")
DEFAULT_REGION = {"AWS": "US_EAST_1"}
SMALLEST_DISK_GB = 10

PARAMETERS_BY_KIND = {
    "dedicated": (
        "provider",
        "region",
        "tier",
        "disk_size_gb",
        "mongodb_version",
        "backup",
        "termination_protection",
    ),
    "flex": ("provider", "region", "termination_protection"),
}
"""The parameters of each kind of cluster."""
NAMES = PARAMETERS_BY_KIND["dedicated"]
IMMUTABLE = ("provider", "region")
"""The parameters that cannot be changed."""
UPWARDS = ("disk_size_gb", "mongodb_version")
"""The parameters that can only grow."""

_Region = Annotated[str, StringConstraints(pattern="^[A-Z0-9_]{1,64}$")]
_Version = Annotated[str, StringConstraints(pattern="^[0-9]{1,3}[.][0-9]{1,3}$")]


class NewClusterDefinition(BaseModel):
    """The field ``new_cluster`` of a plan: the kind of cluster, and fixed values of parameters."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    kind: Literal["dedicated", "flex"]
    provider: Literal["AWS", "GCP", "AZURE"] | None = None
    region: _Region | None = None
    tier: Annotated[str, StringConstraints(min_length=1, max_length=32)] | None = None
    disk_size_gb: Annotated[int, Field(ge=SMALLEST_DISK_GB)] | None = None
    mongodb_version: _Version | None = None
    backup: bool | None = None
    termination_protection: bool | None = None
    database: Annotated[str, StringConstraints(min_length=1, max_length=63)] | None = None
    policy_on_delete: Literal["retain", "drop"] | None = Field(default=None, alias="policy-on-delete")
    project: Annotated[str, StringConstraints(pattern="^[0-9a-f]{24}$")] | None = None

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        wrong = [
            name for name in NAMES if getattr(self, name) is not None and name not in PARAMETERS_BY_KIND[self.kind]
        ]
        if wrong:
            raise ValueError(f"{wrong[0]} must be left out, a {self.kind} cluster has none")
        return self


def cluster_properties(new_cluster: Mapping[str, Any], tiers: Sequence[str], *, creating: bool) -> JsonObject:
    """Return the JSON schemas of the parameters that the plan leaves open.

    Args:
        new_cluster: The plan's field.
        tiers: The tiers that users may choose.
        creating: Whether the schemas are for a provision; only those have defaults.
    """
    properties: JsonObject = {
        "provider": {
            "type": "string",
            "description": "The cloud that the cluster runs in. It cannot be changed.",
            "enum": list(PROVIDERS),
        },
        "region": {
            "type": "string",
            "description": (
                "Atlas's name of the region, such as EU_WEST_1; required elsewhere than on AWS, where the default is "
                f"{DEFAULT_REGION['AWS']}. It cannot be changed."
            ),
            "minLength": 1,
            "maxLength": 64,
            "not": {"pattern": "[^A-Z0-9_]"},
        },
        "tier": {
            "type": "string",
            "description": "The size of the cluster's nodes.",
            "enum": list(tiers),
        },
        "disk_size_gb": {
            "type": "integer",
            "description": "The size of the disks; it can only grow. Without it Atlas's size for the tier.",
            "minimum": SMALLEST_DISK_GB,
        },
        "mongodb_version": {
            "type": "string",
            "description": "The major version of MongoDB, such as 8.0; it can only grow. Without it Atlas's default.",
            "maxLength": 7,
            "pattern": "^[0-9]{1,3}[.][0-9]{1,3}$",
            "not": {"pattern": "[^0-9.]"},
        },
        "backup": {"type": "boolean", "description": "Whether Atlas backs the cluster up."},
        "termination_protection": {
            "type": "boolean",
            "description": "Whether Atlas refuses to terminate the cluster; then the instance cannot be deleted.",
        },
    }
    kind = new_cluster["kind"]
    for name, value in _defaults(kind, tiers).items() if creating else ():
        properties[name]["default"] = value
    return {name: properties[name] for name in PARAMETERS_BY_KIND[kind] if name not in new_cluster}


def _defaults(kind: str, tiers: Sequence[str]) -> JsonObject:
    """Return the values of the parameters that have a default of the broker; the others are left to Atlas."""
    values = {"provider": PROVIDERS[0], "tier": tiers[0], "backup": True, "termination_protection": False}
    return {name: value for name, value in values.items() if name in PARAMETERS_BY_KIND[kind]}


def with_defaults(new_cluster: Mapping[str, Any], parameters: Mapping[str, Any], tiers: Sequence[str]) -> JsonObject:
    """Return the values of a cluster's parameters, except for those that are left to Atlas.

    Args:
        new_cluster: The plan's field.
        parameters: The parameters of the instance.
        tiers: The tiers that users may choose; the first one is the default.
    """
    provider, region = place(new_cluster, parameters)
    values = _defaults(new_cluster["kind"], tiers) | chosen(new_cluster, parameters)
    return {**values, "provider": provider, "region": region}


def chosen(new_cluster: Mapping[str, Any], parameters: Mapping[str, Any]) -> JsonObject:
    """Return the values that the plan fixes or the user has chosen; the others are left to the defaults."""
    named = {name: parameters[name] for name in PARAMETERS_BY_KIND[new_cluster["kind"]] if name in parameters}
    return named | {name: new_cluster[name] for name in NAMES if name in new_cluster}


def place(new_cluster: Mapping[str, Any], parameters: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the provider and the region; the region is None when it has to be chosen."""
    values = chosen(new_cluster, parameters)
    provider = values.get("provider", PROVIDERS[0])
    return provider, values.get("region", DEFAULT_REGION.get(provider))


def policy_on_delete(new_cluster: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """Return what becomes of the cluster when the instance is deleted: ``drop`` or ``retain``."""
    return str(new_cluster.get("policy-on-delete") or parameters.get("policy-on-delete", "drop"))


def check_names(new_cluster: Mapping[str, Any] | None, parameters: Mapping[str, Any], cluster: str) -> None:
    """Check that a request names only parameters that the plan leaves open.

    Args:
        new_cluster: The plan's field; None when it makes no cluster.
        parameters: The parameters of the request.
        cluster: The name of the parameter for clusters that exist.

    Raises:
        BadRequest: It names another one.
    """
    if new_cluster is None:
        if wrong := next((name for name in NAMES if name in parameters), None):
            raise BadRequest(f"parameters.{wrong} is not allowed: instances of this plan are on clusters that exist.")
        return
    if cluster in parameters:
        raise BadRequest(f"parameters.{cluster} is not allowed: this plan makes a cluster for each instance.")
    kind = new_cluster["kind"]
    for name in parameters:
        if name != "kind" and name in new_cluster:
            raise BadRequest(f"parameters.{name} cannot be chosen: the plan decides it.")
        if name in NAMES and name not in PARAMETERS_BY_KIND[kind]:
            raise BadRequest(f"parameters.{name} is not allowed: a {kind} cluster has none.")


def check_changes(before: JsonObject, after: JsonObject) -> None:
    """Check that no value changes that cannot, and that no value shrinks that can only grow.

    Args:
        before: What ``chosen`` returns before the update, with the place.
        after: The same after it.

    Raises:
        BadRequest: One does.
    """
    for name in IMMUTABLE:
        if after.get(name) != before.get(name):
            raise BadRequest(f"parameters.{name} cannot be changed; it is {before.get(name)}.")
    for name in UPWARDS:
        if shrinks(name, before.get(name), after.get(name)):
            raise BadRequest(f"parameters.{name} can only grow; it is {before[name]}.")


def shrinks(name: str, before: object, after: object) -> bool:
    """Return whether a value that can only grow would become smaller; an unknown one does not."""
    if before is None or after is None:
        return False
    return _comparable(name, after) < _comparable(name, before)


def _comparable(name: str, value: object) -> tuple[float, ...]:
    parts = str(value).split(".") if name == "mongodb_version" else [str(value)]
    return tuple(map(float, parts))
