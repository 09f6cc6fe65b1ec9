"""What each resource looks like on the wire."""

import hashlib
from urllib.parse import quote, urlsplit

from tests.emulator.model import Cluster, Json, Project, User, wire_time

VERSION = "8.0.29"
_REST = "https://cloud.mongodb.com"


def identifier(*parts: str) -> str:
    """24 hexadecimal digits, always the same for the same thing."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:24]


def link(href: str, rel: str = "self") -> Json:
    return {"href": href, "rel": rel}


def project_body(project: Project, root: str) -> Json:
    home = f"{root}/groups/{project.id}"
    others = ("containers", "clusters", "databaseUsers", "peers", "processes", "whitelist")
    return {
        "clusterCount": len(project.clusters),
        "created": wire_time(project.created),
        "id": project.id,
        "links": [link(home), *(link(f"{home}/{other}", f"{_REST}/{other}") for other in others)],
        "name": project.name,
        "orgId": identifier("org"),
        "tags": [],
        "withDefaultAlertsSettings": True,
    }


def user_body(project: Project, user: User, root: str) -> Json:
    database, name = user.attributes["databaseName"], quote(user.name, safe=":$")
    return {**user.attributes, "links": [link(f"{root}/groups/{project.id}/databaseUsers/{database}/{name}")]}


def connection_strings(cluster: Cluster) -> Json:
    """None while a dedicated cluster is being created; otherwise those set, or those that lead to its mongod."""
    if cluster.state == "CREATING" and cluster.kind == "dedicated":
        return {}
    if cluster.connection_strings is not None:
        return cluster.connection_strings
    return {"standard": _standard(cluster.mongo), "standardSrv": f"mongodb+srv://{cluster.name}.abcde.mongodb.net"}


def _standard(mongo: str) -> str:
    """The mongod's address without its root user; unlike Atlas's it has no `ssl=true`, since there is no TLS here."""
    parts = urlsplit(mongo)
    options = [option for option in parts.query.split("&") if option and not option.startswith("authSource=")]
    return f"mongodb://{parts.netloc.rpartition('@')[2]}/?{'&'.join(['authSource=admin', *options])}"


def flex_body(project: Project, cluster: Cluster) -> Json:
    return {
        "backupSettings": {"enabled": True},
        "clusterType": "REPLICASET",
        "connectionStrings": connection_strings(cluster),
        "createDate": wire_time(project.created),
        "groupId": project.id,
        "id": identifier(project.id, cluster.name),
        "mongoDBVersion": VERSION,
        "name": cluster.name,
        "providerSettings": {
            "backingProviderName": "AWS",
            "diskSizeGB": 5.0,
            "providerName": "FLEX",
            "regionName": "US_EAST_1",
        },
        "stateName": cluster.state,
        "tags": [],
        "terminationProtectionEnabled": False,
        "versionReleaseSystem": "LTS",
    }


def cluster_body(project: Project, cluster: Cluster, root: str) -> Json:
    home = f"{root}/groups/{project.id}/clusters/{cluster.name}"
    return {
        **_CLUSTER,
        "clusterType": cluster.cluster_type,
        "connectionStrings": connection_strings(cluster),
        "createDate": wire_time(project.created),
        "effectiveReplicationSpecs": [_replication(project, cluster)],
        "groupId": project.id,
        "id": identifier(project.id, cluster.name),
        "links": [
            link(home),
            link(f"{home}/backup/restoreJobs", f"{_REST}/restoreJobs"),
            link(f"{home}/backup/snapshots", f"{_REST}/snapshots"),
        ],
        "name": cluster.name,
        "paused": cluster.paused,
        "replicationSpecs": [_replication(project, cluster)],
        "stateName": cluster.state,
    }


def _replication(project: Project, cluster: Cluster) -> Json:
    return {
        "id": identifier(project.id, cluster.name, "replication"),
        "regionConfigs": [_FREE_REGION if cluster.kind == "free" else _REGION],
        "zoneId": identifier(project.id, cluster.name, "zone"),
        "zoneName": "Zone 1",
    }


def _nodes(count: int) -> Json:
    return {
        "instanceSize": "M10",
        "diskIOPS": 3000,
        "diskSizeGB": 30.0,
        "ebsVolumeType": "STANDARD",
        "nodeCount": count,
    }


_REGION: Json = {
    "analyticsSpecs": _nodes(0),
    "autoScaling": {"compute": {"enabled": False, "scaleDownEnabled": False}, "diskGB": {"enabled": False}},
    "electableSpecs": _nodes(3),
    "priority": 7,
    "providerName": "AWS",
    "readOnlySpecs": _nodes(0),
    "regionName": "US_EAST_1",
}

_FREE_REGION: Json = {
    "backingProviderName": "AWS",
    "electableSpecs": {"instanceSize": "M0"},
    "priority": 7,
    "providerName": "TENANT",
    "regionName": "US_EAST_1",
}

_CLUSTER: Json = {
    "adaptiveCapacity": None,
    "advancedConfiguration": {
        "customOpensslCipherConfigTls12": [],
        "customOpensslCipherConfigTls13": [],
        "minimumEnabledTlsProtocol": "TLS1_2",
        "tlsCipherConfigMode": "DEFAULT",
    },
    "backupEnabled": False,
    "biConnector": {"enabled": False, "readPreference": "secondary"},
    "diskWarmingMode": "FULLY_WARMED",
    "effectiveDatabaseEdition": "CORE",
    "encryptionAtRestProvider": "NONE",
    "featureCompatibilityVersion": "8.0",
    "globalClusterSelfManagedSharding": False,
    "internalClusterRole": "NONE",
    "labels": [],
    "mongoDBMajorVersion": "8.0",
    "mongoDBVersion": VERSION,
    "pitEnabled": False,
    "redactClientLogData": False,
    "retainBackups": False,
    "rootCertType": "ISRGROOTX1",
    "tags": [],
    "terminationProtectionEnabled": False,
    "useAwsTimeBasedSnapshotCopyForFastInitialSync": False,
    "versionReleaseSystem": "LTS",
}
