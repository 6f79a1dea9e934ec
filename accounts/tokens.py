"""Who calls the API: by a token, by the session of a browser, or nobody known.

The tokens are django-allauth's: signed with SECRET_KEY, each of one session in the database. So
they end with it: when the password is changed, or the account is closed.
"""

from importlib import import_module

from allauth.account.utils import has_verified_email
from allauth.headless.tokens.strategies.jwt import JWTTokenStrategy
from allauth.headless.tokens.strategies.jwt.internal import validate_access_token
from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.base import UpdateError
from django.core.exceptions import PermissionDenied
from django.db import OperationalError
from django.http import HttpRequest
from ninja.errors import AuthenticationError
from ninja.security import APIKeyCookie, HttpBearer
from ninja.utils import check_csrf

from accounts.models import User

NO_TOKEN = "This token is not valid, or no longer. Get a new one from POST /api/v1/auth/token."
NO_CSRF_TOKEN = (
    "The CSRF token is missing or wrong. Send that of a page in the header X-CSRFToken; if that "
    "page was left open, load it again first."
)
NOT_CONFIRMED = (
    "Your e-mail address is not confirmed yet, and staff need that. Log in on the site once: it "
    "sends you a code."
)
NOT_ALLOWED = "Only staff who have been given the right to do this may do it."


class Bearer(HttpBearer):
    """The token of POST auth/token. A header that is sent must be good, also where guests may call.
    (What is the same for everybody, `auth=None`, does not ask.)

    Two queries, and for staff one more.
    """

    def __init__(self, permission: str | None = None) -> None:
        super().__init__()
        self.permission = permission

    def __call__(self, request: HttpRequest) -> User | None:
        if "Authorization" not in request.headers:
            return None
        user = super().__call__(request)
        if user is None:
            raise AuthenticationError(message=NO_TOKEN)
        return user

    def authenticate(self, request: HttpRequest, token: str) -> User | None:
        try:
            found = validate_access_token(token)
        except ValueError:  # of a `sid` that is not ASCII, in a token signed elsewhere
            found = None
        if found is None:
            return None
        request.user, _ = found
        _check_staff(request.user)
        return _require(request.user, self.permission)


class Session(APIKeyCookie):
    """A browser that is logged in on the site. What it sends must carry the CSRF token."""

    param_name = settings.SESSION_COOKIE_NAME

    def __init__(self, permission: str | None = None) -> None:
        super().__init__()
        self.permission = permission

    def __call__(self, request: HttpRequest) -> User | None:
        """Not as ninja's, which wants a CSRF token of those without a session too."""
        if self.param_name not in request.COOKIES:
            request.user = AnonymousUser()  # as who looks for a session finds, in ten times as long
            return None
        if not request.user.is_authenticated:
            return None
        if check_csrf(request):
            raise PermissionDenied(NO_CSRF_TOKEN)
        return self.authenticate(request, None)

    def authenticate(self, request: HttpRequest, key: str | None) -> User:
        return _require(request.user, self.permission)


def _check_staff(user: User) -> None:
    """Whoever registered with an address that is not theirs does not become staff with it.

    Raises PermissionDenied. A session needs no such check: the site's login asks for the code.
    """
    if user.is_staff and not has_verified_email(user):
        raise PermissionDenied(NOT_CONFIRMED)


def _require(user: User, permission: str | None) -> User:
    if permission and not (user.is_staff and user.has_perm(permission)):
        raise PermissionDenied(NOT_ALLOWED)
    return user


def _anybody(request: HttpRequest) -> bool:
    return True


USER = [Bearer(), Session()]
ANYBODY = [Bearer(), Session(), _anybody]


def staff(permission: str) -> list:
    """Who is of the staff and has that permission; 401 for nobody known, 403 for all others."""
    return [Bearer(permission), Session(permission)]


def issue(user: User) -> dict[str, str]:
    """Tokens of a new session for that user; the browser's own, if there is one, stays as it is.

    Raises PermissionDenied for staff who have not confirmed their address.
    """
    _check_staff(user)
    request = HttpRequest()
    request.session, request.user = import_module(settings.SESSION_ENGINE).SessionStore(), user
    login(request, user)
    issued = JWTTokenStrategy().create_access_token_payload(request)
    request.session.save()
    return {"access": issued["access_token"], "refresh": issued["refresh_token"]}


def refresh(token: str) -> dict[str, str] | None:
    """A new access token with that one for new ones, or None if it is not (or no longer) good."""
    try:
        found = JWTTokenStrategy().refresh_token(token)
    except UpdateError as error:
        if isinstance(error.__context__, OperationalError):
            raise error.__context__ from None  # the database is away, and the token may be good
        return None  # its session ended this instant
    except ValueError:  # as in Bearer
        return None
    return found and dict(zip(("access", "refresh"), found, strict=True))
