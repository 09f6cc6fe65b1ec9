"""What each resource looks like on the wire."""

import hashlib
import json
from urllib.parse import quote, urlsplit

from tests.emulator.model import AccessEntry, Cluster, Json, Project, User, wire_time

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


def access_body(project: Project, entry: AccessEntry, root: str) -> Json:
    address, _, bits = entry.cidr.partition("/")
    single = {"ipAddress": address} if bits in ("32", "128") else {}
    href = f"{root}/groups/{project.id}/accessList/{entry.cidr.replace('/', '%2F')}"
    return {"cidrBlock": entry.cidr, "comment": entry.comment, "groupId": project.id, **single, "links": [link(href)]}


def process_body(project: Project, process: Json, root: str) -> Json:
    created = wire_time(project.created)
    return {
        "created": created,
        "groupId": project.id,
        "id": process_id(process),
        "lastPing": created,
        "links": [link(f"{root}/groups/{project.id}/processes/{process_id(process)}")],
        "userAlias": process["hostname"],
        "version": VERSION,
        **{name: value for name, value in process.items() if name != "databases"},
    }


def process_id(process: Json) -> str:
    return f"{process['hostname']}:{process['port']}"


def processes(cluster: Cluster) -> list[Json]:
    """Return those set, or one for each host of the standard connection string, the first of which is the primary."""
    if cluster.processes is not None:
        return cluster.processes
    hosts = connection_strings(cluster).get("standard", "").partition("://")[2].partition("/")[0]
    return [
        {
            "hostname": host.rpartition(":")[0] or host,
            "port": int(host.rpartition(":")[2]) if ":" in host else 27017,
            "typeName": "REPLICA_SECONDARY" if number else "REPLICA_PRIMARY",
            "replicaSetName": f"atlas-{cluster.name}-shard-0",
        }
        for number, host in enumerate(hosts.split(",") if hosts else ())
    ]


def limit_bodies(project: Project) -> list[Json]:
    usage = {
        "atlas.project.security.databaseAccess.users": (len(project.users), 100, 100, project.user_limit),
        "atlas.project.deployment.clusters": (len(project.clusters), 25, 90, project.cluster_limit),
        "atlas.project.security.databaseAccess.customRoles": (len(project.roles), 100, 1400, 100),
    }
    return [
        {"currentUsage": used, "defaultLimit": default, "maximumLimit": maximum, "name": name, "value": value}
        for name, (used, default, maximum, value) in usage.items()
    ]


def connection_strings(cluster: Cluster) -> Json:
    """Return none while a dedicated cluster is being created, of a flex cluster one of two then.

    Otherwise return those set, or those that lead to its mongod.

    Unlike Atlas's, the mongod's address has no `ssl=true`, since there is no TLS here; its root user is left out.
    """
    if cluster.state == "CREATING" and cluster.kind == "dedicated":
        return {}
    if cluster.connection_strings is not None:
        return cluster.connection_strings
    parts = urlsplit(cluster.mongo)
    options = [option for option in parts.query.split("&") if option and not option.startswith("authSource=")]
    standard = f"mongodb://{parts.netloc.rpartition('@')[2]}/?{'&'.join(['authSource=admin', *options])}"
    srv = {"standardSrv": f"mongodb+srv://{cluster.name}.abcde.mongodb.net"}
    return srv if cluster.state == "CREATING" else {"standard": standard, **srv}


def _any_cluster(project: Project, cluster: Cluster) -> Json:
    return {
        "clusterType": cluster.cluster_type,
        "connectionStrings": connection_strings(cluster),
        "createDate": wire_time(cluster.created),
        "groupId": project.id,
        "id": identifier(project.id, cluster.name, str(cluster.created)),
        "mongoDBVersion": VERSION,
        "name": cluster.name,
        "stateName": cluster.state,
        "tags": cluster.tags,
        "terminationProtectionEnabled": cluster.protected,
        "versionReleaseSystem": "LTS",
    }


def flex_body(project: Project, cluster: Cluster) -> Json:
    region = {"backingProviderName": cluster.provider, "providerName": "FLEX", "regionName": cluster.region}
    return {
        **_any_cluster(project, cluster),
        "backupSettings": {"enabled": True},
        "clusterType": "REPLICASET",
        "providerSettings": {**region, "diskSizeGB": 5.0},
    }


def cluster_body(project: Project, cluster: Cluster, root: str) -> Json:
    home = f"{root}/groups/{project.id}/clusters/{cluster.name}"
    region = _FREE_REGION if cluster.kind == "free" else _region(cluster)
    replication = {
        "id": identifier(project.id, cluster.name, "replication"),
        "regionConfigs": [region],
        "zoneId": identifier(project.id, cluster.name, "zone"),
        "zoneName": "Zone 1",
    }
    groups = {name: value for name, value in region.items() if name.endswith("Specs") and cluster.kind != "free"}
    effective = {f"effective{name[0].upper()}{name[1:]}": value for name, value in groups.items()}
    others = [link(f"{home}/backup/{name}", f"{_REST}/{name}") for name in ("restoreJobs", "snapshots")]
    return {
        **_any_cluster(project, cluster),
        **_CLUSTER,
        "backupEnabled": cluster.backup,
        "effectiveReplicationSpecs": [replication],
        "featureCompatibilityVersion": cluster.version,
        "links": [link(home), *others],
        "paused": cluster.paused,
        "mongoDBMajorVersion": cluster.version,
        "mongoDBVersion": VERSION if VERSION.startswith(cluster.version) else f"{cluster.version}.1",
        "replicationSpecs": [{**replication, "regionConfigs": [{**region, **effective}]}],
    }


def _region(cluster: Cluster) -> Json:
    nodes = {"instanceSize": cluster.tier, "diskIOPS": 3000, "diskSizeGB": cluster.disk_size_gb}
    nodes |= {"ebsVolumeType": "STANDARD"} if cluster.provider == "AWS" else {}
    return {
        "analyticsSpecs": {**nodes, "nodeCount": 0},
        "autoScaling": {"compute": {"enabled": False, "scaleDownEnabled": False}, "diskGB": {"enabled": False}},
        "electableSpecs": {**nodes, "nodeCount": 3},
        "priority": 7,
        "providerName": cluster.provider,
        "readOnlySpecs": {**nodes, "nodeCount": 0},
        "regionName": cluster.region,
    }


_ANY_REGION: Json = {"priority": 7, "regionName": "US_EAST_1"}
_FREE = {"backingProviderName": "AWS", "providerName": "TENANT", "electableSpecs": {"instanceSize": "M0"}}
_FREE_REGION: Json = {**_ANY_REGION, **_FREE}
_CLUSTER: Json = json.loads("""{
    "adaptiveCapacity": null, "biConnector": {"enabled": false, "readPreference": "secondary"},
    "advancedConfiguration": {
        "customOpensslCipherConfigTls12": [], "customOpensslCipherConfigTls13": [],
        "minimumEnabledTlsProtocol": "TLS1_2", "tlsCipherConfigMode": "DEFAULT"
    },
    "diskWarmingMode": "FULLY_WARMED", "effectiveDatabaseEdition": "CORE", "encryptionAtRestProvider": "NONE",
    "globalClusterSelfManagedSharding": false, "internalClusterRole": "NONE",
    "labels": [], "pitEnabled": false, "redactClientLogData": false,
    "retainBackups": false, "rootCertType": "ISRGROOTX1", "useAwsTimeBasedSnapshotCopyForFastInitialSync": false
}""")
