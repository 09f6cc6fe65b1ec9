"""The endpoints of the Atlas Admin API that the broker uses, and a call of one of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from requests.auth import AuthBase

    from workers.atlas.models import Json


@dataclass(frozen=True, slots=True)
class ApiEndpoint:
    """One endpoint of the Admin API.

    Attributes:
        method: The HTTP method.
        path: The template of the path.
        version: The resource version, a date, for the header `Accept`; None for plain JSON.
        does: The end of the sentence "Atlas refused to …"; a template with the names of the path.
        plain: A success is answered with text instead of a JSON object; the parser gets it as the field `text`.
    """

    method: str
    path: str
    version: str | None
    does: str
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an endpoint.

    Attributes:
        endpoint: The endpoint.
        names: The values for the templates of the endpoint.
        query: The query parameters.
        body: The JSON body.
        form: The form body, instead of a JSON body.
        auth: The authentication, instead of that of the session.
    """

    endpoint: ApiEndpoint
    names: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Json | list[Json] | None = field(default=None, repr=False)
    form: dict[str, str] | None = None
    auth: AuthBase | None = field(default=None, repr=False)

    @property
    def does(self) -> str:
        """The purpose of the call in words. Names are in quotes, with control characters escaped."""
        return self.endpoint.does.format(**{key: repr(value) for key, value in self.names.items()})

    @property
    def path(self) -> str:
        """The path; each name is one segment, percent-encoded.

        Raises:
            ValueError: A name cannot be a segment: HTTP resolves `.` and `..`, and half of a surrogate pair cannot be
                encoded.
        """
        if not {"", ".", ".."}.isdisjoint(self.names.values()):
            raise ValueError("not a name in Atlas")
        return self.endpoint.path.format(**{key: quote(value, safe="") for key, value in self.names.items()})


MINT_TOKEN = ApiEndpoint("POST", "/api/oauth/token", None, "issue a token to the service account")

_ROOT = "/api/atlas/v2"
_PROJECT = f"{_ROOT}/groups/{{project}}"
_USER = f"{_PROJECT}/databaseUsers/{{database}}/{{username}}"
_CLUSTER = f"{_PROJECT}/clusters/{{cluster}}"
_FLEX = f"{_PROJECT}/flexClusters/{{cluster}}"
_ENTRY = f"{_PROJECT}/accessList/{{entry}}"
_IN = "in project {project}"

GET_KEY = ApiEndpoint("GET", _ROOT, "2023-01-01", "read the key itself")
GET_PROJECT = ApiEndpoint("GET", _PROJECT, "2023-01-01", "read project {project}")
GET_LIMIT = ApiEndpoint("GET", f"{_PROJECT}/limits/{{limit}}", "2023-01-01", f"read the limit {{limit}} {_IN}")
LIST_ACCESS = ApiEndpoint("GET", f"{_PROJECT}/accessList", "2023-01-01", f"list the IP access list {_IN}")
ADD_ACCESS = ApiEndpoint(
    "POST", f"{_PROJECT}/accessList", "2023-01-01", f"add to the IP access list {_IN} the entry {{entry}}"
)
GET_ACCESS_STATUS = ApiEndpoint(
    "GET", f"{_ENTRY}/status", "2023-01-01", f"read the status of entry {{entry}} of the IP access list {_IN}"
)
DELETE_ACCESS = ApiEndpoint("DELETE", _ENTRY, "2023-01-01", f"delete entry {{entry}} of the IP access list {_IN}")
LIST_CLUSTERS = ApiEndpoint("GET", f"{_PROJECT}/clusters", "2024-08-05", f"list the clusters {_IN}")
CREATE_CLUSTER = ApiEndpoint("POST", f"{_PROJECT}/clusters", "2024-10-23", f"create cluster {{cluster}} {_IN}")
GET_CLUSTER = ApiEndpoint("GET", _CLUSTER, "2024-08-05", f"read cluster {{cluster}} {_IN}")
UPDATE_CLUSTER = ApiEndpoint("PATCH", _CLUSTER, "2024-10-23", f"change cluster {{cluster}} {_IN}")
DELETE_CLUSTER = ApiEndpoint("DELETE", _CLUSTER, "2023-02-01", f"terminate cluster {{cluster}} {_IN}")
GET_STATUS = ApiEndpoint("GET", f"{_CLUSTER}/status", "2023-01-01", f"read the status of cluster {{cluster}} {_IN}")
LIST_FLEX = ApiEndpoint("GET", f"{_PROJECT}/flexClusters", "2024-11-13", f"list the flex clusters {_IN}")
CREATE_FLEX = ApiEndpoint("POST", f"{_PROJECT}/flexClusters", "2024-11-13", f"create flex cluster {{cluster}} {_IN}")
GET_FLEX = ApiEndpoint("GET", _FLEX, "2024-11-13", f"read flex cluster {{cluster}} {_IN}")
UPDATE_FLEX = ApiEndpoint("PATCH", _FLEX, "2024-11-13", f"change flex cluster {{cluster}} {_IN}")
DELETE_FLEX = ApiEndpoint("DELETE", _FLEX, "2024-11-13", f"terminate flex cluster {{cluster}} {_IN}")
LIST_PROCESSES = ApiEndpoint("GET", f"{_PROJECT}/processes", "2023-01-01", f"list the processes {_IN}")
LIST_DATABASES = ApiEndpoint(
    "GET",
    f"{_PROJECT}/processes/{{host}}:{{port}}/databases",
    "2023-01-01",
    f"list the databases of process {{host}} {{port}} {_IN}",
)
LIST_USERS = ApiEndpoint("GET", f"{_PROJECT}/databaseUsers", "2023-01-01", f"list the database users {_IN}")
CREATE_USER = ApiEndpoint("POST", f"{_PROJECT}/databaseUsers", "2023-01-01", f"create database user {{username}} {_IN}")
GET_USER = ApiEndpoint("GET", _USER, "2023-01-01", f"read database user {{username}} {_IN}")
UPDATE_USER = ApiEndpoint("PATCH", _USER, "2023-01-01", f"change database user {{username}} {_IN}")
DELETE_USER = ApiEndpoint("DELETE", _USER, "2023-01-01", f"delete database user {{username}} {_IN}")
CREATE_CERTIFICATE = ApiEndpoint(
    "POST",
    f"{_PROJECT}/databaseUsers/{{username}}/certs",
    "2023-01-01",
    f"create a certificate of database user {{username}} {_IN}",
    plain=True,
)
