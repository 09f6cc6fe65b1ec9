"""The credentials of a binding, by the way its user logs in: a password, an AWS IAM role or a certificate."""

import json
from datetime import datetime
from typing import Any

from cryptography import x509

from broker_api.authentication import Authentication
from broker_api.config import BindingView, Config
from broker_api.naming import common_name_problem
from workers.atlas.client import Certificate
from workers.engine.results import FailedError
from workers.operations.config_hooks import call_hook, hook_username

SERVICE_BINDING_KEYS = {"type": "mongodb", "provider": "atlas"}
_OPTIONS = {
    Authentication.AWS_IAM: {"authMechanism": "MONGODB-AWS", "authSource": "%24external"},
    Authentication.X509: {"authMechanism": "MONGODB-X509", "authSource": "%24external", "tls": "true"},
}
"""The options of connection strings of users without a password, percent-encoded."""
_REPLACED = {"authmechanism": "authMechanism", "authsource": "authSource", "ssl": "tls", "tls": "tls"}


def new_credentials(config: Config, view: BindingView) -> dict[str, Any]:
    """Return the credentials of a new binding; those of an X.509 user still lack the certificate.

    Raises:
        FailedError: A hook failed, or its name or credentials cannot be used.
    """
    if view.auth == Authentication.PASSWORD:
        credentials = call_hook("generate_binding_credentials", config.generate_binding_credentials, view)
        if problem := _credentials_problem(credentials):
            raise FailedError(
                f"The broker's hook generate_binding_credentials returned {problem}. Ask the operator of this broker "
                "to correct its Config."
            )
    else:
        credentials = _without_password(config, view)
    return SERVICE_BINDING_KEYS | credentials if config.SERVICE_BINDING_KEYS else credentials


def _credentials_problem(credentials: object) -> str | None:
    """Return what is wrong with the result of the hook, without any of its values; None if it can be used."""
    if not isinstance(credentials, dict):
        return "no dict"
    if not all(isinstance(text := credentials.get(key), str) and text for key in ("username", "password")):
        return "no username or no password"
    try:
        json.dumps(credentials)
    except (TypeError, ValueError, RecursionError):
        return "a value that JSON cannot hold"
    return None


def _without_password(config: Config, view: BindingView) -> dict[str, Any]:
    if view.auth == Authentication.AWS_IAM:
        name = view.parameters["arn"]
    else:
        name = hook_username(config, view)
        if problem := common_name_problem(name):
            raise FailedError(problem)
    auth, database, strings = Authentication(view.auth), view.instance.get_dbname() or "", view.instance.connection
    uris = {"uri": with_mechanism(strings.get("standard") or strings["srv"], database, auth)}
    if srv := strings.get("srv"):
        uris["connectionString"] = with_mechanism(srv, database, auth)
    return {"username": name, "database": database, **uris}


def with_mechanism(connection_string: str, database: str, auth: Authentication) -> str:
    """Return a connection string of Atlas for a user without a password.

    Args:
        connection_string: ``mongodb://…`` or ``mongodb+srv://…``; its hosts and its other options are kept.
        database: The database in the path.
        auth: How the user logs in.
    """
    location, _, query = connection_string.partition("?")
    added = _OPTIONS[auth]
    kept = [each for each in query.split("&") if each and _REPLACED.get(each.partition("=")[0].lower()) not in added]
    options = "&".join([*kept, *(f"{name}={value}" for name, value in added.items())])
    return f"{location.rstrip('/')}/{database}?{options}"


def with_certificate(credentials: dict[str, Any], made: Certificate) -> tuple[dict[str, Any], datetime]:
    """Return the credentials of an X.509 user with its certificate, and the end of the certificate.

    Raises:
        FailedError: The certificate cannot be read.
    """
    try:
        parsed = x509.load_pem_x509_certificate(made.certificate.encode())
    except ValueError:
        raise FailedError("The certificate that Atlas has made cannot be read.") from None
    added = {
        "username": parsed.subject.rfc4514_string(),
        "certificate": made.certificate,
        "private-key": made.private_key,
    }
    return credentials | added, parsed.not_valid_after_utc
