"""The errors that Atlas answers with: code, status and a sentence.

Codes, statuses and parameters are the documented ones. The sentences are Atlas's only where they were seen on the wire
or quoted by its users (`RECORDED`); the others are our own, so a client must not read them.
"""

import json
from http import HTTPStatus

from werkzeug import Response

_LIMITED = (
    "Rate limit exceeded for %s. Please retry after %s seconds. Request capacity: %s. Refill rate: %s per %s seconds."
)

_PROTECTED = (
    "Cannot terminate a cluster when termination protection is enabled. Disable termination protection and try again."
)

RECORDED: dict[str, tuple[int, str]] = {
    "CANNOT_TERMINATE_CLUSTER_WHEN_TERMINATION_PROTECTION_ENABLED": (400, _PROTECTED),
    "CANNOT_USE_FLEX_CLUSTER_IN_CLUSTER_API": (400, "Flex cluster %s cannot be used in the Cluster API."),
    "CLUSTER_NOT_FOUND": (404, "No cluster named %s exists in group %s."),
    "GROUP_NOT_FOUND": (404, "No group with ID %s exists."),
    "INVALID_VERSION_DATE": (406, "Invalid accept header or version date."),
    "RATE_LIMITED": (429, "Resource %s is limited to %s requests every %s minutes."),
    "RATE_LIMITED_TOKEN_BUCKET": (429, _LIMITED),
    "USERNAME_NOT_FOUND": (404, "No user with username %s exists."),
    "USER_ALREADY_EXISTS": (409, "A user with username %s already exists."),
    "USER_NOT_FOUND": (404, "No user with ID %s exists."),
}

CODES: dict[str, tuple[int, str]] = RECORDED | {
    "ACCOUNT_SUSPENDED": (402, "The organization has not paid for more than 30 days."),
    "ALREADY_EXPIRED": (400, "What has expired cannot be changed."),
    "ATLAS_NETWORK_PERMISSION_ENTRY_NOT_FOUND": (404, "%s is not on the access list of the group %s."),
    "ATLAS_NETWORK_PERMISSIONS_LIMIT_EXCEEDED": (403, "An access list has at most %s entries."),
    "ATLAS_RESERVED_CLUSTER_NAME": (400, "The cluster name %s is reserved for host names."),
    "ATLAS_X509_USER_CANNOT_BE_TEMPORARY": (400, "A user with X.509 certificates has no expiry."),
    "CANNOT_PAUSE_CLUSTER_WITH_PENDING_CHANGES": (409, "A cluster that is being changed cannot be paused."),
    "CANNOT_UPDATE_AND_PAUSE_CLUSTER": (409, "The cluster %s cannot be changed and paused in one call."),
    "CANNOT_UPDATE_PAUSED_CLUSTER": (409, "The cluster %s is paused and cannot be changed."),
    "CERT_EXPIRY_CANNOT_EXCEED_TWO_YEARS": (400, "A certificate is good for 24 months at most."),
    "CLUSTER_ALREADY_PAUSED": (409, "The cluster is paused already."),
    "CLUSTER_ALREADY_REQUESTED_DELETION": (400, "The deletion of the cluster %s was requested before."),
    "CLUSTER_LIMIT_EXCEEDED": (403, "The project has its %s clusters already."),  # the code was never seen
    "CLUSTER_NAME_INVALID": (400, "A cluster name has letters, digits and hyphens only, which %s has not."),
    "CLUSTER_NAME_PREFIX_INVALID": (400, "The first %s characters of the cluster name %s end in a hyphen."),
    "CLUSTER_NAME_TOO_LONG": (400, "The cluster name %s has more than %s characters."),
    "DUPLICATE_CLUSTER_NAME": (400, "There is a cluster %s in the group %s already."),
    "DUPLICATE_CLUSTER_NAME_PREFIX": (400, "The cluster name %s begins with the same %s characters as another."),
    "NO_CAPACITY": (409, "There is no capacity of %s for the group %s."),
    "NO_PAYMENT_INFORMATION_FOUND": (402, "The group %s has no way to pay."),
    "OUT_OF_CAPACITY": (409, "The region has no room for this size at the moment."),
    "TENANT_CLUSTER_UPDATE_UNSUPPORTED": (400, "A free cluster cannot be changed by the API."),
    "USER_NOT_MANAGED_X509": (400, "The certificates of this user are not Atlas's."),
    "ATLAS_INVALID_CUSTOM_ROLE_ASSIGNMENT": (400, "A user with a custom role can have no other role."),
    "ATLAS_INVALID_ROLE": (400, "There is no role %s@%s."),
    "ATLAS_INVALID_ROLE_DATABASE": (400, "The role %s exists on the database %s only."),
    "ATLAS_INVALID_USERNAME": (400, "The name %s cannot be an Atlas database user."),
    "ATLAS_RESTRICTED_COLLECTION": (400, "The collection %s cannot be given to the role %s@%s."),
    "ATLAS_RESTRICTED_ROLE": (400, "The role %s@%s cannot be given to users."),
    "AUTH_TYPE_CANNOT_BE_CHANGED": (409, "A user's kind of authentication stays as it is."),
    "AUTOMATION_CONFIG_CONCURRENT_MODIFICATION": (409, "Somebody else has published a change meanwhile."),
    "CANNOT_USE_NON_FLEX_CLUSTER_IN_FLEX_API": (400, "The cluster %s is no flex cluster."),
    "COLLECTION_ROLES_LIMIT_EXCEEDED": (403, "The project has its %s collection roles already."),
    "CLUSTER_HAS_NO_DATABASES_TO_TELL": (400, "The databases of a cluster of this tier are not monitored."),
    "COMMON_PASSWORD": (400, "The password is one of those that everybody tries."),
    "DATABASE_NAME_CANNOT_BE_CHANGED": (409, "A user's authentication database stays as it is."),
    "DATABASE_NAME_INVALID_ADMIN": (400, "%s belong on the admin database."),
    "DATABASE_NAME_INVALID_EXTERNAL": (400, "Users who authenticate elsewhere belong on the $external database."),
    "DATABASE_USERNAME_CANNOT_BE_CHANGED": (409, "A user's name stays as it is."),
    "DUPLICATE_DATABASE_ROLES": (400, "The user %s has roles twice: %s."),
    "EXPIRATION_DATE_EXCEEDS_MAX": (400, "The expiry can be at most %s days ahead."),
    "EXPIRATION_DATE_IN_PAST": (400, "The expiry must be in the future."),
    "GROUP_MISMATCH": (400, "The group %s is not the one in the path."),
    "GROUP_USERS_LIMIT_EXCEEDED": (403, "Groups can contain at most %s database users."),
    "INVALID_ATTRIBUTE": (400, "There is no attribute %s."),
    "INVALID_DATABASE_NAME": (400, "No database can have the name %s."),
    "INVALID_DATE_FORMAT": (400, "%s is no date."),
    "INVALID_ENUM_VALUE": (400, "%s is none of the possible values."),
    "INVALID_GROUP_ID": (404, "%s is no group id."),
    "INVALID_JSON": (400, "The JSON is not of the expected form."),
    "INVALID_JSON_ATTRIBUTE": (400, "The JSON of %s is not of the expected form."),
    "INVALID_MONGODB_USERNAME": (400, "MongoDB cannot have a user %s."),
    "INVALID_PATH_PARAMETER": (400, "The path parameter %s is wrong."),
    "INVALID_QUERY_PARAMETER": (400, "The query parameter %s is wrong."),
    "IP_ADDRESS_NOT_ON_ACCESS_LIST": (403, "IP address %s is not allowed to access this resource."),
    "MALFORMED_JSON": (400, "The body is no JSON."),
    "MISSING_ATTRIBUTE": (400, "The attribute %s is missing."),
    "MISSING_ATTRIBUTES": (400, "The attributes %s are missing."),
    "NOT_IN_GROUP": (401, "The caller is not in the group."),
    "ORG_REQUIRES_ACCESS_LIST": (403, "The organization lets in listed addresses only."),
    "PERMANENT_ENTITY_CANNOT_BE_MADE_TEMPORARY": (400, "What has no expiry can be given none."),
    "RESOURCE_NOT_FOUND": (404, "There is nothing at %s."),
    "SERVICE_UNAVAILABLE": (503, "The service cannot answer now."),
    "UNEXPECTED_ERROR": (500, "Unexpected error."),
    "UNSUPPORTED_MEDIA_TYPE": (415, "The body must be JSON."),
    "UNSUPPORTED_ROLE": (400, "The provided role is not supported."),
    "USER_CANNOT_ACCESS_GROUP": (401, "The caller cannot access this group."),
    "USER_UNAUTHORIZED": (401, "The caller may not do this."),
    "VALIDATION_ERROR": (400, "The body is wrong: %s."),
    "WEAK_PASSWORD": (400, "The password is too weak."),
    "WRITES_NOT_ALLOWED_DURING_APP_UPGRADES": (405, "Nothing can be changed while the system is being upgraded."),
}


class ApiError(Exception):
    """An answer that says no; `detail` replaces the code's sentence, `headers` come with the answer."""

    def __init__(
        self, code: str, *parameters: str | int, detail: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        self.code = code
        self.parameters = parameters
        self.status, sentence = CODES[code]
        self.detail = detail or (sentence % parameters if parameters else sentence)
        self.headers = headers or {}
        super().__init__(self.detail)

    def response(self, headers: dict[str, str] | None = None) -> Response:
        body = {
            "detail": self.detail,
            "error": self.status,
            "errorCode": self.code,
            "parameters": list(self.parameters),
            "reason": HTTPStatus(self.status).phrase,
        }
        return json_response(body, self.status, {**(headers or {}), **self.headers, "X-Error-Code": self.code})


def refuse_if(wrong: object, code: str, *parameters: str | int) -> None:
    if wrong:
        raise ApiError(code, *parameters)


def json_response(
    body: object,
    status: int = 200,
    headers: dict[str, str] | None = None,
    content_type: str = "application/json",
    indent: int | None = None,
) -> Response:
    return Response(json.dumps(body, indent=indent), status, headers or {}, content_type=content_type)
