"""How the user of a binding logs in to its cluster: the values of the parameter ``auth``."""

from enum import StrEnum

EXTERNAL = "$external"
"""The database of users that have no password."""
MAX_MONTHS = 24
"""The longest life of a certificate, in months."""
DEFAULT_MONTHS = 12


class Authentication(StrEnum):
    """A way to log in; plans and ``Config.AUTHENTICATION`` list those that they offer."""

    PASSWORD = "password"  # noqa: S105 - the name of a parameter's value
    AWS_IAM = "aws-iam"
    X509 = "x509"
