"""``Config``, as in atlasbroker 2.0.0: credentials, the catalog, and hooks that choose names, users and roles.

Subclass it to change a policy. Its constructor calls no hook and connects to nothing. Hooks run in workers, and may run
several times for one operation. Their results are stored, so the broker finds existing users also after a hook has
changed.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import quote

from broker_api.authentication import Authentication
from broker_api.errors import BadRequest, ErrClusterConfig
from broker_api.naming import MAX_COMMON_NAME, MAX_DATABASE_BYTES, cluster_name, database_name, username
from broker_api.user_passwords import new_password

_escaped = partial(quote, safe="")
"""Percent-encode a part of a connection string; a space becomes ``%20``, since many drivers read ``+`` as a plus."""


EXISTING, DEDICATED, FLEX = "existing", "dedicated", "flex"
"""The names of the built-in plans, for BROKER_PLANS."""


class RoleSpecs(StrEnum):
    """Atlas's built-in database roles, by the names that the hooks of atlasbroker 2.0.0 used."""

    atlasAdmin = "atlasAdmin"
    readWriteAnyDatabase = "readWriteAnyDatabase"
    readAnyDatabase = "readAnyDatabase"
    clusterMonitor = "clusterMonitor"
    backup = "backup"
    dbAdminAnyDatabase = "dbAdminAnyDatabase"
    enableSharding = "enableSharding"
    read = "read"
    readWrite = "readWrite"
    dbAdmin = "dbAdmin"


@dataclass(frozen=True)
class Role:
    """A role of a database user, on one collection or on the whole database."""

    name: str
    database: str
    collection: str | None = None


@dataclass
class Permissions:
    """The roles of a database user; the hook ``generate_binding_permissions`` adds them."""

    roles: list[Role] = field(default_factory=list)

    def add_role(self, databasename: str, role: str, collection: str | None = None) -> Self:
        """Add one role; a role that is there already is not added again.

        Args:
            databasename: the database.
            role: the role's name, or a member of ``RoleSpecs``.
            collection: the collection; None for the whole database.

        Returns:
            These permissions.
        """
        added = Role(str(getattr(role, "value", role)), databasename, collection)
        if added not in self.roles:
            self.roles.append(added)
        return self

    def add_roles(self, databasename: str, roles_list: Iterable[str]) -> Self:
        """Add several roles on one database, and return these permissions."""
        added = [Role(str(getattr(role, "value", role)), databasename) for role in roles_list]
        self.roles += [role for role in dict.fromkeys(added) if role not in self.roles]
        return self


@dataclass(frozen=True)
class InstanceView:
    """An instance as hooks see it.

    Attributes:
        parameters: the parameters of the provision, with the changes of later updates.
        connection: the cluster's connection strings (``standard``, ``srv``); empty before they are known.
        database_limit: how many bytes the name of a database may have on this cluster.
    """

    instance_id: str
    parameters: Mapping[str, Any]
    cluster: str
    database: str | None = None
    connection: Mapping[str, str] = field(default_factory=dict)
    database_limit: int = MAX_DATABASE_BYTES

    def get_dbname(self) -> str | None:
        """Return the database's name; None before the provision has chosen it."""
        return self.database

    def get_cluster(self) -> str:
        """Return the cluster's name."""
        return self.cluster


@dataclass(frozen=True)
class BindingView:
    """A binding as hooks see it; ``auth`` is how its user logs in."""

    binding_id: str
    instance: InstanceView
    parameters: Mapping[str, Any]
    auth: str = Authentication.PASSWORD


class _Section(dict[str, Any]):
    """A section of secret.json with a reference to the whole file: so ``Config`` finds the other sections."""

    whole: Mapping[str, Any]


class Config:
    """The operator's policy: credentials, catalog, names and permissions.

    Args:
        atlas_credentials: ``{"user", "password", "group"}`` (key pair) or ``{"client_id", "client_secret", "group"}``
            (service account), or a list of these, one for each Atlas project.
        mongo_credentials: ``{"uri", "db", "timeoutms", "collection"}``.
        clusters: connection string templates by cluster name, with ``%s`` for user, password and database. For any
            other cluster the jobs read the connection strings from Atlas.
    """

    PARAMETER_DATABASE = "database"
    PARAMETER_CLUSTER = "cluster"
    UUID_SERVICES_CLUSTER = "2a04f349-4aab-4fcb-af6d-8e1749a77c13"
    UUID_PLANS_EXISTING_CLUSTER = "8db474d1-3cc0-4f4d-b864-24e3bd49b874"
    UUID_PLANS_DEDICATED_CLUSTER = "3f0cdb1c-6f0e-4c58-8d54-0f7f1f5f2a11"
    UUID_PLANS_FLEX_CLUSTER = "b9f0a1d4-5d6f-4b0e-9a43-27d1a5b1c0de"

    DATABASES = "own"
    """Which databases instances may have: ``own``; or ``any``, as in atlasbroker 2.0.0, also those of others."""

    ROLE_PRESETS: ClassVar[dict[str, list[str]]] = {"readWrite": ["dbAdmin", "readWrite"], "readOnly": ["read"]}
    """The values of the binding parameter ``role``, each with the Atlas roles that it stands for."""
    ALLOWED_ROLES: ClassVar[frozenset[str]] = frozenset({"read", "readWrite", "dbAdmin"})
    """The roles that the binding parameter ``roles`` may contain, on the instance's own database."""
    CUSTOM_ROLES: ClassVar[frozenset[str]] = frozenset()
    """Custom roles of the Atlas project that ``roles`` may contain. A binding with a custom role has no other role."""
    AUTHENTICATION: ClassVar[tuple[str, ...]] = ("password",)
    """How users of bindings may log in: ``password``, ``aws-iam``, ``x509``; the first one is the default. A plan may
    have an ``authentication`` of its own."""
    CLUSTER_TIERS: ClassVar[tuple[str, ...]] = ("M10", "M20", "M30")
    """The tiers that instances with a dedicated cluster of their own may have; the first one is the default."""
    SERVICE_BINDING_KEYS = False
    """Whether credentials also have ``type`` and ``provider``, the well-known keys of the Service Binding specification
    for Kubernetes, by which application frameworks configure themselves."""

    def __init__(
        self,
        atlas_credentials: Mapping[str, Any] | list[Mapping[str, Any]] | None,
        mongo_credentials: Mapping[str, Any] | None,
        clusters: Mapping[str, str] | None = None,
    ) -> None:
        self.atlas = atlas_credentials or {}
        self.mongo = mongo_credentials or {}
        self.secrets: Mapping[str, Any] = getattr(self.mongo, "whole", getattr(self.atlas, "whole", {}))
        self.clusters = dict(clusters or {})
        self.broker: dict[str, Any] = self._built_in((EXISTING,))

    def _built_in(self, plans: Sequence[str]) -> dict[str, Any]:
        described: dict[str, dict[str, Any]] = {
            EXISTING: {
                "id": self.UUID_PLANS_EXISTING_CLUSTER,
                "name": "atlas-mongodb-existing-cluster",
                "description": "Atlas/MongoDB: Configure an existing cluster",
            },
            DEDICATED: {
                "id": self.UUID_PLANS_DEDICATED_CLUSTER,
                "name": "atlas-mongodb-dedicated-cluster",
                "description": "Atlas/MongoDB: A dedicated cluster for each instance",
                "new_cluster": {"kind": "dedicated"},
            },
            FLEX: {
                "id": self.UUID_PLANS_FLEX_CLUSTER,
                "name": "atlas-mongodb-flex-cluster",
                "description": "Atlas/MongoDB: A Flex cluster for each instance",
                "new_cluster": {"kind": "flex"},
            },
        }
        return {
            "id": self.UUID_SERVICES_CLUSTER,
            "name": "atlas-mongodb-cluster",
            "description": "Atlas/MongoDB for applications",
            "bindable": True,
            "plans": [described[name] | {"free": False, "bindable": True} for name in described if name in plans],
            "tags": ["atlas", "mongodb"],
            "metadata": {"displayName": "Atlas - MongoDB Cloud Provider"},
            "plan_updateable": False,
        }

    def offered(self, plans: Sequence[str]) -> object:
        """Return the services: those of ``broker`` if it was changed, else the built-in one with these plans.

        Args:
            plans: the names of built-in plans, from BROKER_PLANS.
        """
        return self._built_in(plans) if self.broker == self._built_in((EXISTING,)) else self.broker

    @staticmethod
    def load_json(json_file: str) -> dict[str, Any] | None:
        """Return the sections of a secret.json; None when there is no such file, as in atlasbroker 2.0.0.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file does not hold a JSON object.
        """
        try:
            whole = json.loads(Path(json_file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        if not isinstance(whole, dict):
            raise ValueError(f"{json_file} must hold a JSON object")  # noqa: TRY004 - like any other wrong JSON
        sections = {
            name: _Section(content) if isinstance(content, dict) else content for name, content in whole.items()
        }
        for section in sections.values():
            if isinstance(section, _Section):
                section.whole = whole
        return sections

    # --- hooks ------------------------------------------------------------------------------------------------

    def generate_instance_dbname(self, instance: InstanceView) -> str:
        """Return the name of an instance's database.

        The default is the parameter ``database``, or else a name made from the instance's id.

        Args:
            instance: the instance; its ``database`` is still None.
        """
        given: str | None = instance.parameters.get(self.PARAMETER_DATABASE)
        return given or database_name(instance.instance_id, instance.database_limit)

    def generate_instance_clustername(self, instance: InstanceView) -> str:
        """Return the name of the cluster that is created for an instance.

        Atlas allows letters, digits and hyphens. The first 23 characters must be unique in the Atlas project.

        Args:
            instance: the instance; its ``cluster`` is still empty.
        """
        return cluster_name(instance.instance_id)

    def generate_binding_username(self, binding: BindingView) -> str:
        """Return the name of a binding's database user, which with X.509 is the common name of its certificate.

        Args:
            binding: the binding. For the same binding an override must return the same name at each call.
        """
        if binding.auth == Authentication.X509:
            return username(binding.binding_id, MAX_COMMON_NAME)
        return username(binding.binding_id)

    def generate_binding_credentials(self, binding: BindingView) -> dict[str, Any]:
        """Return the credentials that the application gets. It is not called for users without a password.

        Returns:
            At least ``username`` and ``password``; by default also ``database``, ``uri`` and, if the cluster has an
            SRV record, ``connectionString``.

        Raises:
            ErrClusterConfig: the cluster has no connection string.
        """
        name = self.generate_binding_username(binding)
        password = new_password()
        instance, database = binding.instance, binding.instance.database or ""
        credentials = {"username": name, "password": password, "database": database}
        if template := self.clusters.get(instance.cluster):
            return credentials | {"uri": template % (_escaped(name), _escaped(password), _escaped(database))}
        standard, srv = instance.connection.get("standard"), instance.connection.get("srv")
        if not standard and not srv:
            raise ErrClusterConfig(instance.cluster)
        credentials["uri"] = with_credentials(standard or srv or "", name, password, database)
        if srv:
            credentials["connectionString"] = with_credentials(srv, name, password, database)
        return credentials

    def isGenerateBindingCredentialsPredictible(self) -> bool:
        """Return whether each call makes the same credentials. Only for subclasses written for atlasbroker 2.0.0.

        The broker does not call it: it stores the credentials of each binding, and returns them to an identical bind.
        """
        return False

    def generate_binding_permissions(self, binding: BindingView, permissions: Permissions) -> Permissions:
        """Return the permissions of a binding's user: the parameter ``roles``, or else the preset ``role``.

        Args:
            binding: the binding.
            permissions: permissions without roles; add the roles to them.

        Raises:
            BadRequest: a role is asked for on another database than the instance's, or none, and there is no default.
        """
        database = binding.instance.database or ""
        explicit = binding.parameters.get("roles")
        if not explicit:
            return permissions.add_roles(database, preset_roles(self, binding.parameters))
        for wanted in explicit:
            role = {"roleName": wanted} if isinstance(wanted, str) else wanted
            name, asked = role["roleName"], role.get("databaseName")
            where = "admin" if name in self.CUSTOM_ROLES else database
            if asked not in (None, where):
                raise BadRequest(f"The role {name} is given on the database {where} only, not on {asked}.")
            permissions.add_role(where, name, role.get("collectionName"))
        return permissions


def preset_roles(config: Config, parameters: Mapping[str, Any]) -> Sequence[str]:
    """Return the roles of a binding that names no roles itself: those of its preset, by default of ``readWrite``.

    Raises:
        BadRequest: There is no such preset.
    """
    preset = parameters.get("role", "readWrite")
    if isinstance(preset, str) and preset in config.ROLE_PRESETS:  # an own schema may allow any type
        return config.ROLE_PRESETS[preset]
    if "role" in parameters:
        raise BadRequest(f"parameters.role is {preset}, which is none of the roles offered now.")
    offered = {"role": config.ROLE_PRESETS, "roles": {*config.ALLOWED_ROLES, *config.CUSTOM_ROLES}}
    choices = [f"parameters.{name} ({', '.join(sorted(names))})" for name, names in offered.items() if names]
    raise BadRequest(f"A binding must choose its role: {' or '.join(choices)}.")


def with_credentials(connection_string: str, name: str, password: str, database: str) -> str:
    """Return a connection string of Atlas with user, password and database added.

    ``authSource=admin`` is added if it is missing: Atlas keeps its users in ``admin``, and without the option drivers
    authenticate against the database in the path (MongoDB connection string specification).

    Args:
        connection_string: ``mongodb://…`` or ``mongodb+srv://…``; its hosts and options are kept.
        name: the user.
        password: the password.
        database: the database in the path.
    """
    scheme, _, rest = connection_string.partition("://")
    location, _, options = rest.partition("?")
    hosts = location.rstrip("/")
    if "authSource=" not in options:
        options = f"{options}&authSource=admin" if options else "authSource=admin"
    return f"{scheme}://{_escaped(name)}:{_escaped(password)}@{hosts}/{_escaped(database)}?{options}"
