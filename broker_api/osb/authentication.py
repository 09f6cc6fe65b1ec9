"""HTTP basic authentication (RFC 7617), and what each role may ask for."""

from flask import Request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, TooManyRequests, Unauthorized

from broker_api.logins import Logins, TooManyFailuresError, WrongCredentialsError
from broker_api.settings.users import UserRole

_CHALLENGE = WWWAuthenticate("basic", {"realm": "Atlas Broker", "charset": "UTF-8"})


def authenticate(request: Request, logins: Logins) -> None:
    """Check the user and the password of a request, and that the user's role allows its path.

    Raises:
        Unauthorized: the header is missing or cannot be read, the user is unknown or the password is wrong.
        TooManyRequests: they are wrong, as many before them from this address.
        Forbidden: the user does not have the role.
    """
    given = request.authorization
    name = password = ""
    if given is not None and given.type == "basic":
        name, password = given.username or "", given.password or ""
    if not (name or password):  # no attempt, so it does not count as one
        raise Unauthorized("A user name and password are required (basic authentication).", None, _CHALLENGE)
    try:
        roles = logins.check(name, password, request.remote_addr or "")
    except TooManyFailuresError as error:
        sentence = "Too many wrong passwords for this user name from this address; try again later."
        raise TooManyRequests(sentence, retry_after=error.retry_after) from None
    except WrongCredentialsError:
        raise Unauthorized("The user name or the password is wrong.", None, _CHALLENGE) from None
    needed = UserRole.PLATFORM if request.path.startswith("/v2/") else UserRole.OPERATOR
    if needed not in roles and (needed is UserRole.PLATFORM or request.endpoint):
        raise Forbidden(f"This user does not have the role {needed}, which this path needs.")
