"""Around every page: health, a line in the log, whole requests, what is kept, an answer if the
database is away.
"""

import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from csp.constants import HEADER
from csp.utils import build_policy
from django.conf import settings
from django.contrib.messages.middleware import MessageMiddleware
from django.contrib.messages.storage import default_storage
from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest
from django.http.request import UnreadablePostError
from django.template.loader import render_to_string
from django.utils.cache import add_never_cache_headers
from django.utils.functional import SimpleLazyObject, empty
from django_guid import get_guid, set_guid
from django_guid.utils import validate_guid
from psycopg.errors import IdleInTransactionSessionTimeout

from booking_site.client_address import comes_from_proxy
from booking_site.database import forget_lost_connections
from bookings.errors import SlotBusy

logger = logging.getLogger("holdfast.database")
request_logger = logging.getLogger("holdfast.request")

RETRY_AFTER = 3  # seconds
SILENCE = 20  # seconds of a client that sends nothing of its request, or takes no answer
LARGEST_BODY = 64 * 1024  # bytes of what is sent to the API
LARGEST_DROPPED = 16 * 1024 * 1024  # bytes of a body that are read for nothing
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
REQUEST_ID = re.compile(r"[0-9A-Fa-f-]{32,36}")

GetResponse = Callable[[HttpRequest], HttpResponse]


def is_for_api(request: HttpRequest) -> bool:
    return f"{request.path_info}/".startswith("/api/")


class HealthMiddleware:
    """Answers /health, /health/live and /health/ready before anything else looks at the request.

    Also those of /api/v1/, whose errors are problems. They are asked from inside, in plain HTTP and
    under whatever name or address this machine has there: neither ALLOWED_HOSTS nor the redirect to
    https is for them, and nobody wants a line in the log every few seconds.
    """

    def __init__(self, get_response: GetResponse) -> None:
        from booking_site import problems, views  # which need what is below

        self.get_response = get_response
        self.views = {
            "/health": views.health_ready,
            "/health/live": views.health_live,
            "/health/ready": views.health_ready,
        }
        self.views |= {
            f"/api/v1{path}": problems.ApiMiddleware(view) for path, view in self.views.items()
        }

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.views.get(request.path_info, self.get_response)(request)


class RequestLogMiddleware:
    """One line for each request: method, route, status, milliseconds. Static files at DEBUG only.

    The route is the name of the URL pattern, never the path: a booking's path is its key. Nor is
    there an address, a query or a user in it. The id of the request, which all that is logged
    meanwhile tells, is kept by django-guid; one that a client sent counts only if it is a trusted
    proxy's and looks like an id. The line of an event stream is written when it ends.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        started = time.monotonic()
        request_id = set_guid(self._request_id(request))
        response = self.get_response(request)
        response["X-Request-ID"] = request_id
        write = partial(self._write, request, response, started)
        if response.get("Content-Type") == "text/event-stream":
            response.streaming_content = _AndThen(response.streaming_content, write)
        else:
            write()
        return response

    def _write(self, request: HttpRequest, response: HttpResponse, started: float) -> None:
        line = {
            "method": request.method if request.method in METHODS else "other",
            "route": self._route(request),
            "status": response.status_code,
            "ms": round((time.monotonic() - started) * 1000),
        }
        request_logger.log(
            logging.DEBUG if line["route"] == "static" else logging.INFO,
            "%s %s %d in %d ms",
            *line.values(),
            extra=line,
        )

    def _request_id(self, request: HttpRequest) -> str:
        given = request.META.get("HTTP_X_REQUEST_ID", "")
        if REQUEST_ID.fullmatch(given) and comes_from_proxy(request) and validate_guid(given):
            return given
        return secrets.token_hex(6)  # short enough to read out on the telephone

    def _route(self, request: HttpRequest) -> str:
        if match := request.resolver_match:
            return match.view_name or match.route
        return "static" if request.path_info.startswith(settings.STATIC_URL) else "none"


class _AndThen:
    """These events, and then `write`: when it is closed, also before the first of them."""

    def __init__(self, events: Iterable[bytes], write: Callable[[], None]) -> None:
        self.events = events
        self.close = write

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.events)


class BrokeOff(HttpResponseBadRequest):
    """To a body that ended before its Content-Length. Few can still read it."""

    detail = "The request broke off before its end, and nothing was done. Send it again."

    def __init__(self) -> None:
        super().__init__(self.detail, content_type="text/plain")


class WholeRequestMiddleware:
    """Reads a request to its end before anything of it asks the database.

    A few connections serve a whole process: clients who send half a request, by malice or in a
    tunnel, must not keep one each while the other half is waited for. (wsgi.py has the same for
    those who are slow to read.) And half a request may make sense, another one than was meant:
    the server and Django would take it for the whole. What is too large to be kept in memory is
    read by its view; the API's read none of it, nor is it kept, and who sends it would see a broken
    connection in place of the 413.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if client := request.META.get("gunicorn.socket"):
            client.settimeout(SILENCE)
        try:
            is_whole = self._read(request)
        except UnreadablePostError:
            is_whole = False
        return self.get_response(request) if is_whole else BrokeOff()

    def _read(self, request: HttpRequest) -> bool:
        """Whether all of it came, as far as it is read here. Raises UnreadablePostError."""
        try:
            length = int(request.META.get("CONTENT_LENGTH") or 0)
            if not is_for_api(request) or length <= LARGEST_BODY:
                return len(request.body) >= length
            while length <= LARGEST_DROPPED and request.read(65536):
                pass
        except (RequestDataTooBig, ValueError):  # of a Content-Length that is no number
            pass
        return True


class DatabaseAwayMiddleware:
    """503 with Retry-After where a view could not reach the database, or waited too long."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        return answer_unavailable(request, error)


class ContentPolicyMiddleware:
    """The header of settings.CONTENT_SECURITY_POLICY. It is the same for all answers, so it is made
    once: django-csp's own middleware makes it anew each time, in a quarter of what a request costs.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self.policy = build_policy()

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.setdefault(HEADER, self.policy)
        return response


class MessagesMiddleware(MessageMiddleware):
    """Looks for messages when somebody asks for them. No call of the API does."""

    def process_request(self, request: HttpRequest) -> None:
        request._messages = SimpleLazyObject(partial(default_storage, request))

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        if request._messages._wrapped is empty:
            return response
        return super().process_response(request, response)


class PrivatePagesMiddleware:
    """No browser keeps the pages of who is signed in: after logging out, Back shows no name.

    Whoever has a session counts as signed in, so that it costs no query to ask.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if request.COOKIES.get(settings.SESSION_COOKIE_NAME):
            add_never_cache_headers(response)
        return response


def answer_unavailable(request: HttpRequest, error: BaseException | None) -> HttpResponse | None:
    """503 in the site's look if the error is one of a busy or absent database, else None."""
    # To Django an InternalError; this process had stalled within a transaction.
    stalled = isinstance(getattr(error, "__cause__", None), IdleInTransactionSessionTimeout)
    if stalled or isinstance(error, OperationalError | InterfaceError):
        logger.warning("database: %s", str(error).strip().partition("\n")[0])
        forget_lost_connections()
    elif not isinstance(error, SlotBusy):
        return None
    response = render_error(request, "503.html", status=503)
    response["Retry-After"] = str(RETRY_AFTER)
    response["Cache-Control"] = "no-store"
    return response


def render_error(request: HttpRequest, template: str, *, status: int) -> HttpResponse:
    """A page that says what went wrong, with the number under which the log tells more; for the API
    nothing, of which `ApiMiddleware` makes a problem.

    The page is made without the request: whoever is signed in cannot be looked up now.
    """
    if is_for_api(request):
        return HttpResponse(status=status)
    return HttpResponse(render_to_string(template, {"request_id": get_guid()}), status=status)
