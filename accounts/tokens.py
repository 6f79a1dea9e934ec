"""Who calls the API: by a token, by the session of a browser, or nobody known.

The tokens are django-allauth's: signed with SECRET_KEY, each of one session in the database. So
they end with it: when the password is changed, or the account is closed.
"""

from allauth.headless.internal.sessionkit import new_session
from allauth.headless.tokens.strategies.jwt import JWTTokenStrategy
from allauth.headless.tokens.strategies.jwt.internal import validate_access_token
from django.conf import settings
from django.contrib.auth import login
from django.contrib.sessions.backends.base import UpdateError
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from ninja.errors import AuthenticationError
from ninja.security import APIKeyCookie, HttpBearer
from ninja.utils import check_csrf

from accounts.models import User

NO_TOKEN = "This token is not valid, or no longer. Get a new one from POST /api/v1/auth/token."


class Bearer(HttpBearer):
    """The token of POST auth/token. A header that is sent must be good, whoever may call."""

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
        found = validate_access_token(token)
        if found is None:
            return None
        request.user, _ = found
        return _require(request.user, self.permission)


class Session(APIKeyCookie):
    """A browser that is logged in on the site. What it sends must carry the CSRF token."""

    param_name = settings.SESSION_COOKIE_NAME

    def __init__(self, permission: str | None = None) -> None:
        super().__init__()
        self.permission = permission

    def __call__(self, request: HttpRequest) -> User | None:
        """Not as ninja's, which wants a CSRF token of those without a session too."""
        if not request.user.is_authenticated:
            return None
        if check_csrf(request):
            raise PermissionDenied(
                "The CSRF token is missing or wrong. Send that of a page in the header X-CSRFToken."
            )
        return self.authenticate(request, None)

    def authenticate(self, request: HttpRequest, key: str | None) -> User:
        return _require(request.user, self.permission)


def _require(user: User, permission: str | None) -> User:
    if permission and not (user.is_staff and user.has_perm(permission)):
        raise PermissionDenied("Only staff who have been given the right to do this may do it.")
    return user


def _anybody(request: HttpRequest) -> bool:
    return True


USER = [Bearer(), Session()]
ANYBODY = [Bearer(), Session(), _anybody]


def staff(permission: str) -> list:
    """Who is of the staff and has that permission; 401 for nobody known, 403 for all others."""
    return [Bearer(permission), Session(permission)]


def issue(user: User) -> dict[str, str]:
    """Tokens of a new session for that user; the browser's own, if there is one, stays as it is."""
    request = HttpRequest()
    request.session, request.user = new_session(), user
    login(request, user)
    issued = JWTTokenStrategy().create_access_token_payload(request)
    request.session.save()
    return {"access": issued["access_token"], "refresh": issued["refresh_token"]}


def refresh(token: str) -> dict[str, str] | None:
    """A new access token with that one for new ones, or None if it is not (or no longer) good."""
    try:
        found = JWTTokenStrategy().refresh_token(token)
    except UpdateError:
        return None  # its session ended this instant
    return found and dict(zip(("access", "refresh"), found, strict=True))
