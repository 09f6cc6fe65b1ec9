"""Ownership of databases: which one an instance may have, whether it owns it, and what may be dropped.

The broker's own records come first: the claims of databases, and the instances of releases that made none. Atlas is
asked only about names that they do not explain.
"""

import re
from collections import defaultdict
from typing import NamedTuple

import structlog
from pymongo.errors import ConfigurationError, InvalidURI
from pymongo.uri_parser import parse_uri

from broker_api.naming import DATABASE_PREFIX, is_default_database
from broker_api.state.databases import DatabaseRecord, Reservation
from broker_api.state.records import Instance, Owner, Phase
from workers.atlas.client import AtlasClient, AtlasError, Cluster, Process, Refused, UnreadableAnswer
from workers.engine.results import FailedError
from workers.operations.job import AtlasJob

TOO_MANY_REQUESTS = 429
MONGOS = "SHARD_MONGOS"
NO_DATA = "NO_DATA"

_NODE = re.compile(r"-(shard|config)-\d+-\d+(?=\.)")

log = structlog.get_logger(__name__)
_untold: set[tuple[str, str]] = set()


class _Record(NamedTuple):
    name: str
    owner: Owner
    owned: bool


class _Known:
    """What the broker's records tell of a database: the claim, and the instances that have it or left it behind."""

    def __init__(self, job: AtlasJob[Instance], instance: Instance) -> None:
        claim = job.context.databases.find(instance)
        self.just_dropped = claim is not None and claim.dropped
        others = [other for other in job.context.store.of_same_database(instance) if not _is_past(other)]
        self.used = bool(others)
        # Of several owners, as an earlier release allowed them, the one that owns it counts.
        others.sort(key=lambda other: not other.owns_database)
        self.records = [_Record(other.database or "", other.owner, other.owns_database) for other in others]
        if claim and not claim.dropped:
            self.records.insert(0, _Record(claim.name, claim.owner, claim.owned))


def _is_past(other: Instance) -> bool:
    """Return whether an instance that is gone tells nothing any more: its claim does, or the database was dropped.

    Releases without claims kept no note of ownership, and dropped whatever they were asked to.
    """
    dropped = other.parameters.get("policy-on-delete") == "drop"
    return other.phase is Phase.GONE and (other.owned is not None or dropped)


def examine(job: AtlasJob[Instance], client: AtlasClient, cluster: Cluster, instance: Instance) -> bool:
    """Check that an instance may have the database that it names; return whether it owns it.

    Raises:
        FailedError: it may not.
    """
    name, known, sharing = instance.database or "", _Known(job, instance), _may_share(job, instance)
    if not sharing and any(record.owner != instance.owner for record in known.records):
        raise FailedError(_taken(name, cluster), refused=True)
    if any(record.name != name for record in known.records):
        raise FailedError(_other_spelling(name, cluster), refused=True)
    if known.records:
        return known.records[0].owned
    if not sharing:
        _check_not_reserved(job, instance)
    return _is_new(client, cluster, instance, just_dropped=known.just_dropped, sharing=sharing)


def wanted(job: AtlasJob[Instance]) -> Reservation:
    """Return the claim that an instance makes once it has been examined."""
    instance, known = job.record, _Known(job, job.record)
    record = known.records[0] if known.records else _Record("", instance.owner, bool(instance.owned))
    return Reservation(instance, record.owner, record.owned, used=known.used, sharing=_may_share(job, instance))


def _may_share(job: AtlasJob[Instance], instance: Instance) -> bool:
    """Return whether an instance may have what another owner has. It never gets that under the name made for itself."""
    return job.config.DATABASES == "any" and not is_default_database(instance.database or "", instance.instance_id)


def _check_not_reserved(job: AtlasJob[Instance], instance: Instance) -> None:
    """Keep the names that the broker makes for future instances: users may not name them, hooks may make such ones."""
    name = instance.database or ""
    given = name in instance.parameters.values()
    if given and name.lower().startswith(DATABASE_PREFIX) and not is_default_database(name, instance.instance_id):
        raise FailedError(
            f"Names of databases that begin with {DATABASE_PREFIX} are the broker's own. Choose another name, or leave "
            f"{job.config.PARAMETER_DATABASE} out.",
            refused=True,
        )


def _is_new(client: AtlasClient, cluster: Cluster, instance: Instance, *, just_dropped: bool, sharing: bool) -> bool:
    """Return whether nothing but this instance's data will be in its database; False where Atlas does not tell."""
    name = instance.database or ""
    if is_default_database(name, instance.instance_id):
        return True
    there = databases(client, cluster)
    if there is None:
        return False
    if just_dropped and name.lower() in (each.lower() for each in there):
        return True
    if name in there:
        if not sharing:
            raise FailedError(
                f"The cluster {cluster.name} has a database {name} that was not made by this broker, so it cannot be "
                "used. Choose another name; the broker's operator can allow such names (DATABASES).",
                refused=True,
            )
        return False
    if name.lower() in (each.lower() for each in there):
        raise FailedError(_other_spelling(name, cluster), refused=True)
    return True


def _taken(name: str, cluster: Cluster) -> str:
    return f"The database name {name} is taken on the cluster {cluster.name}. Choose another name."


def _other_spelling(name: str, cluster: Cluster) -> str:
    return (
        f"The cluster {cluster.name} has a database whose name differs from {name} only in upper and lower case; "
        "MongoDB does not allow both. Write it as it is there, or choose another name."
    )


# --- dropping -----------------------------------------------------------------------------------------------------


def located(job: AtlasJob[Instance]) -> Instance:
    """Return the instance with its project; the old broker named none."""
    return job.record.model_copy(update={"project": job.project})


def remember(job: AtlasJob[Instance]) -> None:
    """Make the claim of an instance that a release without claims has provisioned."""
    instance = located(job)
    records = _Known(job, instance).records
    owner, owned = instance.owner, instance.owns_database
    if records and not owned:
        owner, owned = records[0].owner, records[0].owned
    job.context.databases.reserve(Reservation(instance, owner, owned, used=True, sharing=True))


def begin_drop(job: AtlasJob[Instance]) -> bool:
    """Take the database for dropping it; False while another instance that has it too is dropping it.

    Raises:
        FailedError: another instance uses it.
    """
    instance = located(job)
    others = _others(job, instance)
    if user := next((other for other in others if other.phase is not Phase.DELETING), None):
        raise FailedError(
            f"The database {instance.database} on {job.cluster} is not dropped: the instance "
            f"{user.instance_id} uses it too. Delete that first, or set policy-on-delete to retain.",
            refused=True,
        )
    if job.context.databases.begin_drop(instance, [other.instance_id for other in others]):
        return True
    if claim := job.context.databases.find(instance):
        is_dropping(job, claim)
    return False


def _others(job: AtlasJob[Instance], instance: Instance) -> list[Instance]:
    """Return the other instances that have the database, and forget those that are gone."""
    others = {other.instance_id: other for other in job.context.store.sharing(instance)}
    claim = job.context.databases.find(instance)
    for user in claim.users if claim else ():
        if user == instance.instance_id or user in others:
            continue
        found = job.context.store.instance(user)
        if found is None or found.phase in (Phase.GONE, Phase.FAILED) or not _same(found, instance):
            job.context.databases.forget(instance, user)
        else:
            others[user] = found
    return list(others.values())


def _same(one: Instance, other: Instance) -> bool:
    return (one.cluster, (one.database or "").lower()) == (other.cluster, (other.database or "").lower())


def is_dropping(job: AtlasJob[Instance], claim: DatabaseRecord) -> bool:
    """Return whether another instance drops the database now; one that has stopped is noted."""
    if claim.dropping in (None, job.record.instance_id):
        return False
    dropper = job.context.store.instance(claim.dropping or "")
    if dropper and dropper.phase is Phase.DELETING:
        return True
    job.context.databases.end_drop(located(job), claim.dropping or "")
    return False


# --- what Atlas lists ---------------------------------------------------------------------------------------------


def databases(client: AtlasClient, cluster: Cluster) -> frozenset[str] | None:
    """Return the databases that Atlas lists on a cluster; None where it does not tell, as on free and Flex clusters."""
    hosts = _hosts(cluster)
    if cluster.kind != "dedicated":
        return None
    if not hosts:
        _note_untold(client, cluster, "it has no standard connection string")
        return None
    try:
        listed = None if cluster.sharded else _of_process(client, *hosts[0])
        return _of_cluster(client, cluster, hosts) if listed is None else listed
    except AtlasError as error:
        if not _is_no(error):
            raise
        _note_untold(client, cluster, str(error))
        return None


def _of_process(client: AtlasClient, host: str, port: int) -> frozenset[str] | None:
    """None when Atlas says no: it may know the process by another name than the connection string has."""
    try:
        return frozenset(client.databases(host, port))
    except AtlasError as error:
        if not _is_no(error):
            raise
        return None


def _of_cluster(client: AtlasClient, cluster: Cluster, hosts: list[tuple[str, int]]) -> frozenset[str] | None:
    """Ask one mongod of each shard: an unsharded database is on one of them only. Config servers may hold some, too."""
    shards: dict[str | None, list[Process]] = defaultdict(list)
    for process in client.processes():
        if process.kind not in (MONGOS, NO_DATA) and _is_of(process, cluster, hosts):
            shards[process.replica_set].append(process)
    if not shards:
        _note_untold(client, cluster, "no process of the cluster is listed")
        return None
    found: set[str] = set()
    for processes in shards.values():
        primary = next((each for each in processes if (each.kind or "").endswith("PRIMARY")), processes[0])
        listed = _of_process(client, primary.host, primary.port)
        if listed is None and "CONFIG" not in (primary.kind or ""):
            _note_untold(client, cluster, f"the databases of {primary.host} are not listed")
            return None
        found.update(listed or ())
    return frozenset(found)


def _is_of(process: Process, cluster: Cluster, hosts: list[tuple[str, int]]) -> bool:
    """Return whether a process is the cluster's. The connection string of a sharded one has the ports of its mongos."""
    names = {name for name in (process.host, process.alias) if name}
    if not cluster.sharded:
        return any((name, process.port) in hosts for name in names)
    return not {_NODE.sub("", name) for name in names}.isdisjoint(_NODE.sub("", host) for host, _ in hosts)


def _hosts(cluster: Cluster) -> list[tuple[str, int]]:
    try:
        nodes = parse_uri(cluster.connection_strings.standard or "", validate=False, warn=False)["nodelist"]
    except (InvalidURI, ConfigurationError, ValueError):
        return []
    return [(host, port or 27017) for host, port in nodes]


def _is_no(error: AtlasError) -> bool:
    """Return whether Atlas will never tell what it was asked for, other than in trouble or for a refused key."""
    if isinstance(error, Refused) and error.retryable:
        return False
    status = error.status if isinstance(error, Refused | UnreadableAnswer) else 0
    return 400 <= status < 500 and status != TOO_MANY_REQUESTS  # noqa: PLR2004 - HTTP's own numbers


def _note_untold(client: AtlasClient, cluster: Cluster, reason: str) -> None:
    if (client.project_id, cluster.name) not in _untold:
        _untold.add((client.project_id, cluster.name))
        log.warning("databases_not_listed", project=client.project_id, cluster=cluster.name, reason=reason)
