"""What Atlas accepts as a cluster: names, tags and the bodies of POST and PATCH.

The codes of refusals that are no rule of names were never recorded; documented ones that fit are used.
"""

import re

from tests.emulator.errors import ApiError, refuse_if
from tests.emulator.model import Cluster, Json, Project
from tests.emulator.request_bodies import entries, require, text

TIERS = ("M10", "M20", "M30", "M40", "M50", "M60", "M80", "M140", "M200", "M300", "M400", "M700")
DISK_SIZES = {"M10": 10.0, "M20": 20.0}
PROVIDERS = {"AWS", "GCP", "AZURE"}
NAME_LIMIT = 64
PREFIX = 23
TAGS_LIMIT = 50

_COMMON = {"name", "tags", "terminationProtectionEnabled", "groupId"}
FLEX_ATTRIBUTES = _COMMON | {"providerSettings"}
CLUSTER_ATTRIBUTES = _COMMON | {
    *("backupEnabled", "clusterType", "mongoDBMajorVersion", "paused", "replicationSpecs", "versionReleaseSystem"),
    *("labels", "pitEnabled", "biConnector", "encryptionAtRestProvider", "rootCertType"),
}
_SPEC_ATTRIBUTES = {"id", "zoneName", "regionConfigs"}
_REGION_ATTRIBUTES = {
    *("analyticsSpecs", "autoScaling", "electableSpecs", "priority", "providerName", "readOnlySpecs", "regionName"),
}
_NODE_ATTRIBUTES = {"instanceSize", "diskIOPS", "diskSizeGB", "ebsVolumeType", "nodeCount"}


def check_name(project: Project, name: str) -> None:
    """Raise ApiError for a name that no new cluster of the project can have."""
    refuse_if(len(name) > NAME_LIMIT, "CLUSTER_NAME_TOO_LONG", name, NAME_LIMIT)
    refuse_if(not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9-]*", name), "CLUSTER_NAME_INVALID", name)
    refuse_if(re.fullmatch(r"atlas-[a-z0-9]{6}", name), "ATLAS_RESERVED_CLUSTER_NAME", name)
    refuse_if(name[:PREFIX].endswith("-"), "CLUSTER_NAME_PREFIX_INVALID", PREFIX, name)
    refuse_if(name in project.clusters, "DUPLICATE_CLUSTER_NAME", name, project.id)
    same = any(name[:PREFIX] == other[:PREFIX] for other in project.clusters)
    refuse_if(same, "DUPLICATE_CLUSTER_NAME_PREFIX", name, PREFIX)


def change_common(cluster: Cluster, body: Json) -> None:
    """Set what clusters of every kind have: tags and termination protection."""
    if body.get("tags") is not None:
        cluster.tags = _tags(body)
    if body.get("terminationProtectionEnabled") is not None:
        cluster.protected = _flag(body, "terminationProtectionEnabled")


def settle_flex(cluster: Cluster, body: Json) -> None:
    """Set where a new flex cluster runs."""
    settings = _object(body, "providerSettings", {"backingProviderName", "regionName", "providerName", "diskSizeGB"})
    require(settings, ("backingProviderName", "regionName"))
    cluster.provider, cluster.region = _provider(settings, "backingProviderName"), text(settings, "regionName")


def change_dedicated(cluster: Cluster, body: Json, *, new: bool) -> None:
    """Set what the body of a POST (`new`) or PATCH says of a replica set in one region."""
    kind = body.get("clusterType", cluster.cluster_type)
    refuse_if(kind != "REPLICASET", "INVALID_ENUM_VALUE", str(kind))  # all that this emulator makes
    if new:
        require(body, ("replicationSpecs",))
    if body.get("replicationSpecs") is not None:
        _change_region(cluster, _only_region(body), new=new)
    if body.get("backupEnabled") is not None:
        cluster.backup = _flag(body, "backupEnabled")
    if body.get("mongoDBMajorVersion") is not None:
        version = text(body, "mongoDBMajorVersion")
        refuse_if(not re.fullmatch(r"\d\.0", version), "INVALID_ENUM_VALUE", version)
        refuse_if(not new and version < cluster.version, "INVALID_ATTRIBUTE", "mongoDBMajorVersion")
        cluster.version = version


def _only_region(body: Json) -> Json:
    specs = entries(body, "replicationSpecs", ())
    refuse_if(len(specs) != 1, "INVALID_ATTRIBUTE", "replicationSpecs")
    _known(specs[0], _SPEC_ATTRIBUTES)
    regions = entries(specs[0], "regionConfigs", ("providerName", "regionName"))
    refuse_if(len(regions) != 1, "INVALID_ATTRIBUTE", "regionConfigs")
    return _known(regions[0], _REGION_ATTRIBUTES)


def _change_region(cluster: Cluster, region: Json, *, new: bool) -> None:
    provider, place = _provider(region, "providerName"), text(region, "regionName")
    moved = not new and (provider, place) != (cluster.provider, cluster.region)
    refuse_if(moved, "INVALID_ATTRIBUTE", "regionName")  # Atlas can, this emulator cannot
    refuse_if(region.get("priority") != 7, "INVALID_ATTRIBUTE", "priority")
    nodes = _object(region, "electableSpecs", _NODE_ATTRIBUTES)
    require(nodes, ("instanceSize", "nodeCount"))
    refuse_if(nodes["nodeCount"] not in (3, 5, 7), "INVALID_ATTRIBUTE", "nodeCount")
    tier = text(nodes, "instanceSize")
    refuse_if(tier not in TIERS, "INVALID_ENUM_VALUE", tier)
    size = nodes.get("diskSizeGB") or (DISK_SIZES.get(tier, 40.0) if new else cluster.disk_size_gb)
    refuse_if(not isinstance(size, int | float) or not 10 <= size <= 4096, "INVALID_ATTRIBUTE", "diskSizeGB")
    cluster.provider, cluster.region, cluster.tier, cluster.disk_size_gb = provider, place, tier, float(size)


def _provider(body: Json, name: str) -> str:
    provider = text(body, name)
    refuse_if(provider not in PROVIDERS, "INVALID_ENUM_VALUE", provider)
    return provider


def _tags(body: Json) -> list[Json]:
    tags = entries(body, "tags", ("key", "value"))
    refuse_if(len(tags) > TAGS_LIMIT, "VALIDATION_ERROR", f"a resource has at most {TAGS_LIMIT} tags")
    for tag in tags:
        for part in (tag["key"], tag["value"]):
            fits = re.fullmatch(r"[A-Za-z0-9 ;@_.+-]{1,255}", part)
            refuse_if(not fits, "VALIDATION_ERROR", f"a tag cannot have {part}")
    twice = len({tag["key"] for tag in tags}) < len(tags)
    refuse_if(twice, "VALIDATION_ERROR", "a tag's key stands for one value")
    return [{"key": tag["key"], "value": tag["value"]} for tag in tags]


def _flag(body: Json, name: str) -> bool:
    refuse_if(not isinstance(body[name], bool), "INVALID_JSON_ATTRIBUTE", name)
    return bool(body[name])


def _object(body: Json, name: str, attributes: set[str]) -> Json:
    value = body.get(name)
    if not isinstance(value, dict):
        raise ApiError("MISSING_ATTRIBUTE" if value is None else "INVALID_JSON_ATTRIBUTE", name)
    return _known(value, attributes)


def _known(body: Json, attributes: set[str]) -> Json:
    for name in sorted(body.keys() - attributes):
        raise ApiError("INVALID_ATTRIBUTE", name)
    return body
