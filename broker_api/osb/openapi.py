"""The OpenAPI description at ``/openapi.json``, made from the models of requests and answers. It has every answer."""

import functools
import json
from collections.abc import Collection, Mapping
from http import HTTPStatus

from broker_api.json_types import JsonObject
from broker_api.osb import body_schemas as bodies
from broker_api.osb.headers import API_VERSION, ORIGINATING_IDENTITY, REQUEST_IDENTITY
from broker_api.service.operation_views import STATES
from broker_api.service.schemas import MAX_ID_LENGTH
from broker_api.service.serializers import CLUSTER_POLL_SECONDS
from broker_api.state.operator_queries import CURSOR
from broker_api.state.records import Kind

TAGS = {"catalog": "catalog", "instance": "instances", "binding": "bindings"}
INSTANCE = "/v2/service_instances/{instance_id}"
BINDING = f"{INSTANCE}/service_bindings/{{binding_id}}"

ERRORS = {
    400: ("BadRequest", "The request is malformed, or names a service, plan or parameter that is not in the catalog."),
    401: ("Unauthorized", "User name and password are missing or wrong."),
    403: ("Forbidden", "The user does not have the role that the path needs."),
    404: ("NotFound", "The instance or binding does not exist or is not ready yet."),
    409: ("Conflict", "The instance or binding exists, or is being made, with other attributes."),
    410: ("Gone", "The instance or binding does not exist."),
    412: (
        "VersionNotSupported",
        "The header X-Broker-API-Version is missing, or names a version that is not served.",
    ),
    413: ("BodyTooLarge", "The body is larger than the broker takes."),
    422: (
        "Refused",
        (
            "error has the reason: AsyncRequired, ConcurrencyError (Service Catalog gets it also when a request has "
            "waited too long, and repeats the request) or MaintenanceInfoConflict. If error is absent, repeating the "
            "update does not help."
        ),
    ),
    429: ("TooManyFailures", "The password is wrong, as many before it for this user name from this address."),
    500: (
        "BrokerError",
        "Internal error of the broker, or the job that the request waited for has failed.",
    ),
    503: ("NoDatabase", "The broker cannot reach its database, or (only /ready) the process is stopping."),
    504: ("OutOfTime", "The job did not end while the request could wait; it continues, and a delete stops it."),
}


def _ref(kind: str, name: str) -> JsonObject:
    return {"$ref": f"#/components/{kind}/{name}"}


def _answer(
    description: str,
    body: type[bodies.Answer] | JsonObject | None = None,
    headers: Mapping[str, JsonObject] | None = None,
    media_type: str = "application/json",
) -> JsonObject:
    """Return the description of a response; every response may have the request identity."""
    answer: JsonObject = {
        "description": description,
        "headers": {REQUEST_IDENTITY: _ref("headers", "RequestIdentity"), **(headers or {})},
    }
    if body is not None:
        schema = body if isinstance(body, dict) else _ref("schemas", body.__name__)
        answer["content"] = {media_type: {"schema": schema}}
    return answer


def _operation(
    operation_id: str,
    summary: str,
    responses: Mapping[int, JsonObject],
    errors: Collection[int] = (),
    *,
    description: str | None = None,
    parameters: Collection[str] = (),
    body: str | None = None,
) -> JsonObject:
    """Return the description of one method of one path.

    Args:
        operation_id: the id of the method. Ids of methods for platforms begin with a key of ``TAGS``; these methods
            share their headers and errors.
        summary: a few words.
        responses: the answers without errors, by status.
        errors: the statuses of ``ERRORS`` that it can answer. Without 401 it needs no authentication.
        description: a few sentences.
        parameters: names of ``PARAMETERS``, beside the common ones.
        body: the name of the schema of the request's body.
    """
    tag = TAGS.get(operation_id.partition(".")[0])
    errors = {*errors, 401, 403, 412, 429, 500, 503} if tag else errors
    common = ("Version", "OriginatingIdentity", "RequestIdentity") if tag else ("RequestIdentity",)
    described: JsonObject = {
        "tags": [tag or "operation"],
        "operationId": operation_id,
        "summary": summary,
        "parameters": [_ref("parameters", name) for name in (*common, *parameters)],
        "responses": {
            **{str(status): answer for status, answer in responses.items()},
            **{str(status): _ref("responses", ERRORS[status][0]) for status in sorted(errors)},
        },
    }
    if description:
        described["description"] = description
    if body:
        content = {"application/json": {"schema": _ref("schemas", body)}}
        sentence = "Read as JSON whatever its Content-Type says."
        described["requestBody"] = {"required": True, "description": sentence, "content": content}
    if HTTPStatus.UNAUTHORIZED not in errors:
        described["security"] = []
    return described


def _page(name: str, summary: str, errors: Collection[int], parameters: Collection[str] = ()) -> JsonObject:
    """Return the description of a page for operators, whose errors are pages too."""
    described = _operation(name, summary, {}, {401}, parameters=parameters)
    described["responses"] = {
        str(status): _answer(description, {"type": "string"}, _ERROR_HEADERS.get(status), "text/html; charset=utf-8")
        for status, description in {
            200: "The page.",
            **{each: ERRORS[each][1] for each in (*errors, 401, 403, 429, 500, 503)},
        }.items()
    }
    return described


_ERROR_HEADERS: dict[int, JsonObject] = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    429: {"Retry-After": {"required": True, "schema": {"type": "string"}}},
}
_OPERATION_FILTERS = ("State", "Type", "OlderThan", "OfInstance", "WaitingOn")
_ACCEPTED = "Accepted, or an identical request is running already: poll last_operation."
_ACCEPTED_DELETE = "Accepted, or it is being deleted: poll last_operation."
_MADE, _DELETED = "Made while the request waited.", "Deleted while the request waited."
_PROGRESS = "How the operation is going."
_HINTS = "service_id and plan_id are hints and are not checked. "
_LATEST = "Without operation, or with an unknown one, the latest operation is reported."
_HINT_PARAMETERS = ("ServiceHint", "PlanHint")
_DELETE_PARAMETERS = ("ServiceId", "PlanId", "AcceptsIncomplete")
_ETAG = "Names this content of the catalog, in the version of the API that the request names."

PATHS: JsonObject = {
    "/v2/catalog": {
        "get": _operation(
            "catalog.get",
            "Services and plans",
            {
                200: _answer(
                    "The catalog.",
                    bodies.Catalog,
                    {
                        "ETag": {"description": _ETAG, "required": True, "schema": {"type": "string"}},
                        "Vary": {"schema": {"type": "string"}},
                    },
                ),
                304: _answer(
                    "The catalog is the one that If-None-Match names.", None, {"ETag": {"schema": {"type": "string"}}}
                ),
            },
            parameters=["IfNoneMatch"],
        )
    },
    INSTANCE: {
        "parameters": [_ref("parameters", "InstanceId")],
        "get": _operation(
            "instance.get",
            "Fetch an instance",
            {200: _answer("The instance.", bodies.Instance)},
            {400, 404, 422},
            description="404 while it is being made; 422 ConcurrencyError while it is being changed.",
            parameters=_HINT_PARAMETERS,
        ),
        "put": _operation(
            "instance.provision",
            "Provision an instance",
            {
                200: _answer("An identical instance exists.", bodies.Provisioned),
                201: _answer(_MADE, bodies.Provisioned),
                202: _answer(_ACCEPTED, bodies.InstanceAccepted),
            },
            {400, 409, 413, 422, 504},
            parameters=["AcceptsIncomplete"],
            body="ProvisionRequest",
        ),
        "patch": _operation(
            "instance.update",
            "Update an instance",
            {
                200: _answer("Done, or there was nothing to change.", bodies.Updated),
                202: _answer(_ACCEPTED, bodies.InstanceAccepted),
            },
            {400, 404, 413, 422, 504},
            description="What is absent stays as it is. The cluster and the database cannot change.",
            parameters=["AcceptsIncomplete"],
            body="UpdateRequest",
        ),
        "delete": _operation(
            "instance.deprovision",
            "Deprovision an instance",
            {200: _answer(_DELETED, bodies.Empty), 202: _answer(_ACCEPTED_DELETE, bodies.Accepted)},
            {400, 410, 422, 504},
            description="Remaining bindings are removed first. A running create is stopped, and everything that it "
            "made is removed.",
            parameters=_DELETE_PARAMETERS,
        ),
    },
    f"{INSTANCE}/last_operation": {
        "parameters": [_ref("parameters", "InstanceId")],
        "get": _operation(
            "instance.lastOperation",
            "Poll an instance's operation",
            {
                200: _answer(
                    _PROGRESS,
                    bodies.LastOperation,
                    {
                        "Retry-After": {
                            "description": "Seconds until news can be expected.",
                            "required": False,
                            "schema": {"type": "integer", "minimum": CLUSTER_POLL_SECONDS},
                        }
                    },
                )
            },
            {400, 404, 410},
            description=f"{_HINTS}{_LATEST} 410 once a finished delete is no longer remembered in detail.",
            parameters=[*_HINT_PARAMETERS, "Operation"],
        ),
    },
    BINDING: {
        "parameters": [_ref("parameters", "InstanceId"), _ref("parameters", "BindingId")],
        "get": _operation(
            "binding.get",
            "Fetch a binding with its credentials",
            {200: _answer("The binding.", bodies.Binding)},
            {400, 404},
            description="404 while it is being made.",
            parameters=_HINT_PARAMETERS,
        ),
        "put": _operation(
            "binding.bind",
            "Bind, or rotate a binding",
            {
                200: _answer("An identical binding exists.", bodies.Binding),
                201: _answer(_MADE, bodies.Binding),
                202: _answer(_ACCEPTED, bodies.Accepted),
            },
            {400, 404, 409, 413, 422, 504},
            description="With predecessor_binding_id the new binding takes over the parameters of a binding of the "
            "same instance; both stay valid.",
            parameters=["AcceptsIncomplete"],
            body="BindOrRotateRequest",
        ),
        "delete": _operation(
            "binding.unbind",
            "Unbind",
            {200: _answer(_DELETED, bodies.Empty), 202: _answer(_ACCEPTED_DELETE, bodies.Accepted)},
            {400, 410, 422, 504},
            parameters=_DELETE_PARAMETERS,
        ),
    },
    f"{BINDING}/last_operation": {
        "parameters": [_ref("parameters", "InstanceId"), _ref("parameters", "BindingId")],
        "get": _operation(
            "binding.lastOperation",
            "Poll a binding's operation",
            {200: _answer(_PROGRESS, bodies.BindingLastOperation)},
            {400, 404, 410},
            description=f"{_HINTS}{_LATEST}",
            parameters=[*_HINT_PARAMETERS, "Operation"],
        ),
    },
    "/health": {
        "get": _operation("health", "Whether the process serves", {200: _answer("The process serves.", bodies.Status)})
    },
    "/live": {
        "get": _operation("live", "Whether the process serves", {200: _answer("The process serves.", bodies.Status)})
    },
    "/ready": {
        "get": _operation(
            "ready",
            "Whether MongoDB answers, and other trouble",
            {200: _answer("MongoDB answers; the body names other trouble.", {"type": "object"})},
            {500, 503},
        )
    },
    "/metrics": {
        "get": _operation(
            "metrics",
            "Numbers for Prometheus",
            {200: _answer("Prometheus' text format.", {"type": "string"}, media_type="text/plain")},
            {401, 403, 429, 500},
        )
    },
    "/operations": {
        "get": _page(
            "operations.list", "The operations of all instances and bindings", {400}, [*_OPERATION_FILTERS, "Behind"]
        )
    },
    "/operations/{operation_id}": {
        "parameters": [_ref("parameters", "OperationId")],
        "get": _page("operations.show", "The life of an operation", {400, 404}),
    },
    "/openapi.json": {
        "get": _operation(
            "openapi",
            "This description",
            {200: _answer("This description.", {"type": "object"})},
            {401, 403, 429},
        )
    },
}


def _parameter(
    name: str, place: str, description: str, schema: JsonObject, *, required: bool = False, example: str | None = None
) -> JsonObject:
    described = {"name": name, "in": place, "required": required, "description": description, "schema": schema}
    return described if example is None else described | {"example": example}


_FILTER: JsonObject = {"type": "string", "maxLength": MAX_ID_LENGTH}
_IDENTIFIER, _STRING = _ref("schemas", "Identifier"), {"type": "string"}

PARAMETERS: JsonObject = {
    "Version": _parameter(
        API_VERSION,
        "header",
        "2.13 or any newer 2.x.",
        {"type": "string", "pattern": r"^2\.(1[3-9]|[2-9][0-9]|[1-9][0-9]{2,5})$"},
        required=True,
        example="2.17",
    ),
    "OriginatingIdentity": _parameter(
        ORIGINATING_IDENTITY,
        "header",
        "The platform's name, a space, and a JSON object in base64. One that cannot be read is logged and counts as "
        "not sent.",
        _STRING,
        example="cloudfoundry eyJ1c2VyX2lkIjogIjY4M2VhNzQ4In0=",
    ),
    "RequestIdentity": _parameter(
        REQUEST_IDENTITY,
        "header",
        "The platform's id of the request; it is echoed.",
        _STRING,
        example="e26cee84-6b38-4456-b34e-d1a9f002c956",
    ),
    "IfNoneMatch": _parameter("If-None-Match", "header", "ETags of a catalog that is known already.", _STRING),
    "InstanceId": _parameter("instance_id", "path", "Opaque, percent-encoded.", _IDENTIFIER, required=True),
    "BindingId": _parameter("binding_id", "path", "Opaque, percent-encoded.", _IDENTIFIER, required=True),
    "AcceptsIncomplete": _parameter(
        "accepts_incomplete",
        "query",
        "Only the literal true counts: the platform polls. Otherwise the request waits for its job.",
        _STRING,
        example="true",
    ),
    "ServiceId": _parameter("service_id", "query", "Mandatory.", {"type": "string", "minLength": 1}, required=True),
    "PlanId": _parameter("plan_id", "query", "Mandatory.", {"type": "string", "minLength": 1}, required=True),
    "OperationId": _parameter("operation_id", "path", "The id, or its beginning.", _IDENTIFIER, required=True),
    "State": _parameter("state", "query", "Only those in this state.", {"enum": ["", *STATES]}),
    "Type": _parameter("type", "query", "Only those of this type.", {"enum": ["", *Kind]}),
    "OlderThan": _parameter(
        "older-than",
        "query",
        "Only those accepted so long ago.",
        {"type": "string", "pattern": "^([0-9]{1,6}[smhd])?$"},
    ),
    "OfInstance": _parameter("instance", "query", "Only those of the instance of this id.", _FILTER),
    "WaitingOn": _parameter("waiting-on", "query", "Only those that wait on this cluster.", _FILTER),
    "Behind": _parameter(
        "after",
        "query",
        "The place at which the page before has ended.",
        {"type": "string", "pattern": f"^({CURSOR})?$"},
    ),
    "ServiceHint": _parameter("service_id", "query", "A hint.", _STRING),
    "PlanHint": _parameter("plan_id", "query", "A hint.", _STRING),
    "Operation": _parameter("operation", "query", "The operation that was answered with 202.", _STRING),
}


@functools.cache
def document() -> bytes:
    """Return the description as JSON. It is made once in each process."""
    described = {
        "openapi": "3.1.0",
        "info": {
            "title": "Atlas Broker",
            "version": "2.17",
            "description": (
                "The Open Service Broker API 2.17 as Atlas Broker serves it, written from the specification. Every "
                "possible answer is listed."
            ),
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"basic": []}],
        "tags": [
            *({"name": name} for name in TAGS.values()),
            {"name": "operation", "description": "For those who run the broker."},
        ],
        "paths": PATHS,
        "components": {
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
            "headers": {
                "RequestIdentity": {
                    "description": "The request identity, when the request had one.",
                    "required": False,
                    "schema": {"type": "string"},
                }
            },
            "parameters": PARAMETERS,
            "responses": {
                name: _answer(description, bodies.Error, _ERROR_HEADERS.get(status))
                for status, (name, description) in ERRORS.items()
            },
            "schemas": bodies.component_schemas(),
        },
    }
    return json.dumps(described).encode()
