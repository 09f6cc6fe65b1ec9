"""Ownership of databases: whether an instance may have the database that it names, and whether it owns it.

The broker's own records decide first: the reservations of databases, and the instances of releases that did not write
reservations. Atlas is asked only about names that the records do not contain.
"""

from dataclasses import replace
from typing import NamedTuple

from broker_api.naming import (
    DATABASE_PREFIX,
    MAX_DATABASE_BYTES,
    MAX_SHARED_TIER_DATABASE_BYTES,
    database_problem,
    is_default_database,
)
from broker_api.state.database_reservations import ReservationRequest
from broker_api.state.records import Instance, Owner, Phase
from workers.atlas.client import AtlasClient, Cluster
from workers.clusters.database_listing import list_databases
from workers.engine.results import FailedError
from workers.operations.atlas_job import AtlasJob
from workers.operations.config_hooks import call_hook, instance_view


class _Record(NamedTuple):
    name: str
    owner: Owner
    owned: bool


class _Known:
    """The records about a database: its reservation, and the instances that have it or retained it when deleted."""

    def __init__(self, job: AtlasJob[Instance], instance: Instance) -> None:
        reserved = job.context.reservations.find(instance)
        self.just_dropped = reserved is not None and reserved.dropped
        others = [other for other in job.context.store.of_same_database(instance) if not _is_past(other)]
        self.used = bool(others)
        # An earlier release allowed several owners; the instance that owns the database counts.
        others.sort(key=lambda other: not other.owns_database)
        self.records = [_Record(other.database or "", other.owner, other.owns_database) for other in others]
        if reserved and not reserved.dropped:
            self.records.insert(0, _Record(reserved.name, reserved.owner, reserved.owned))


def _is_past(other: Instance) -> bool:
    """Return whether an instance is gone and its record does not matter any more.

    That is so when the database has a reservation (``owned`` is set), or was dropped. Releases without reservations
    dropped every database for which it was requested.
    """
    dropped = other.parameters.get("policy-on-delete") == "drop"
    return other.phase is Phase.GONE and (other.owned is not None or dropped)


def check_database(job: AtlasJob[Instance], client: AtlasClient, cluster: Cluster, instance: Instance) -> bool:
    """Check that an instance may have the database that it names.

    Returns:
        Whether the instance owns it.

    Raises:
        FailedError: It may not have it.
        AtlasError: Atlas cannot be asked for the databases of the cluster.
    """
    name, known, any_owner = instance.database or "", _Known(job, instance), _may_have_anothers(job, instance)
    if not any_owner and any(record.owner != instance.owner for record in known.records):
        sentence = f"The database name {name} is taken on the cluster {cluster.name}. Choose another name."
        raise FailedError(sentence, refused=True)
    if any(record.name != name for record in known.records):
        raise _other_spelling(name, cluster)
    if known.records:
        return known.records[0].owned
    own_name = is_default_database(name, instance.instance_id)
    # The prefix of the names that the broker generates: users may not name such a database, hooks may.
    brokers = name in instance.parameters.values() and name.lower().startswith(DATABASE_PREFIX) and not own_name
    if brokers and not any_owner:
        raise FailedError(
            f"Names of databases that begin with {DATABASE_PREFIX} are the broker's own. Choose another name, or leave "
            f"{job.config.PARAMETER_DATABASE} out.",
            refused=True,
        )
    if own_name:
        return True
    return _is_new(client, cluster, name, just_dropped=known.just_dropped, any_owner=any_owner)


def _is_new(client: AtlasClient, cluster: Cluster, name: str, *, just_dropped: bool, any_owner: bool) -> bool:
    """Return whether a database is new on the cluster; False when Atlas does not list the databases.

    Raises:
        FailedError: It exists, or a name exists that differs only in case.
    """
    listed = list_databases(client, cluster)
    if listed is None:
        return False
    in_any_case = name.lower() in (each.lower() for each in listed)
    if just_dropped and in_any_case:  # Atlas lists what its monitoring saw last
        return True
    if name in listed:
        if not any_owner:
            raise FailedError(
                f"The cluster {cluster.name} has a database {name} that was not made by this broker, so it cannot be "
                "used. Choose another name; the broker's operator can allow such names (DATABASES).",
                refused=True,
            )
        return False
    if in_any_case:
        raise _other_spelling(name, cluster)
    return True


def chosen_database(job: AtlasJob[Instance], cluster: str, kind: str) -> str:
    """Return the name of the database from the hook, which gets the parameters and the longest possible name.

    Args:
        job: The operation.
        cluster: The name of the cluster.
        kind: Its kind.

    Raises:
        FailedError: The hook failed, or its name cannot be used on this cluster.
    """
    limit = MAX_DATABASE_BYTES if kind == "dedicated" else MAX_SHARED_TIER_DATABASE_BYTES
    fixed = (job.record.new_cluster or {}).get("database")
    parameters = job.record.parameters | ({job.config.PARAMETER_DATABASE: fixed} if fixed else {})
    changed = {"cluster": cluster, "database": None, "parameters": parameters}
    instance = job.record.model_copy(update=changed)
    view = replace(instance_view(job.config, instance), database_limit=limit)
    name = call_hook("generate_instance_dbname", job.config.generate_instance_dbname, view)
    if problem := database_problem(name):
        raise FailedError(problem, refused=True)
    if len(name.encode()) > limit:
        raise FailedError(
            f"The database name {name} is too long for the {kind} cluster {cluster}: Atlas allows {limit} "
            "bytes there. Choose a shorter name.",
            refused=True,
        )
    return name


def reservation_request(job: AtlasJob[Instance]) -> ReservationRequest:
    """Return the reservation of the database that ``check_database`` has allowed for the instance."""
    instance, known = job.record, _Known(job, job.record)
    record = known.records[0] if known.records else _Record("", instance.owner, bool(instance.owned))
    any_owner = _may_have_anothers(job, instance)
    return ReservationRequest(instance, record.owner, record.owned, used=known.used, sharing=any_owner)


def ensure_reservation(job: AtlasJob[Instance]) -> None:
    """Reserve the database of an instance that was provisioned by a release without reservations."""
    instance = with_project(job)
    records = _Known(job, instance).records
    owner, owned = instance.owner, instance.owns_database
    if records and not owned:
        owner, owned = records[0].owner, records[0].owned
    job.context.reservations.reserve(ReservationRequest(instance, owner, owned, used=True, sharing=True))


def with_project(job: AtlasJob[Instance]) -> Instance:
    """Return the instance with its project, which records of atlasbroker 2.0.0 do not name."""
    return job.record.model_copy(update={"project": job.project})


def _may_have_anothers(job: AtlasJob[Instance], instance: Instance) -> bool:
    """Return whether an instance may have a database of another owner (``DATABASES = "any"``).

    This never holds for the database name that the broker generates for this instance.
    """
    return job.config.DATABASES == "any" and not is_default_database(instance.database or "", instance.instance_id)


def _other_spelling(name: str, cluster: Cluster) -> FailedError:
    return FailedError(
        f"The cluster {cluster.name} has a database whose name differs from {name} only in upper and lower case; "
        "MongoDB does not allow both. Write it as it is there, or choose another name.",
        refused=True,
    )
