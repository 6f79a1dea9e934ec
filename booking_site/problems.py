"""Errors of the API: problem documents after RFC 9457, whoever answers.

What the views of the API raise is translated here, and what anything else answers under /api/ (the
URL map, a middleware, Django itself) is turned into such a document by `ApiMiddleware`.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from math import ceil
from typing import Any

from allauth.core.internal import ratelimit
from django.core.exceptions import DisallowedHost, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, QueryDict
from django_guid import get_guid
from ninja import Field, NinjaAPI, Schema
from ninja.errors import HttpError, ValidationError

from accounts.limits import seconds_until_room
from booking_site.fields import HALF_A_CHARACTER, NO_MOMENT
from booking_site.middleware import RETRY_AFTER, BrokeOff, GetResponse, is_for_api
from bookings.errors import BookingError, InvalidRequest, SeatsTaken, SlotBusy
from slots.inventory import InventoryError, Overlap

MEDIA_TYPE = "application/problem+json"
CODES = {
    400: "invalid",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media",
    429: "too_many",
    500: "internal",
    503: "busy",
}
DETAILS = {
    400: "The request could not be read.",
    401: "Log in: send “Authorization: Bearer …” with an access token of /api/v1/auth/token.",
    403: "You may not do this.",
    404: "There is nothing here. /api/v1/docs lists what there is.",
    405: "This cannot be done here; the header Allow says what can.",
    412: "What is here now is not what the header If-Match or If-Unmodified-Since asks for.",
    413: "The body is too large.",
    415: "Send the body as application/json.",
    429: "That was too often. Wait as long as the header Retry-After says.",
    500: "Something went wrong here, and it has been noted.",
    503: "The site is very busy or its database is away. Try again in a moment.",
}
REDIRECTS = {301, 302, 303, 307, 308}
UNKNOWN_HOST = "This site has another name than the one in the header Host. Use its own address."
INSECURE = "Use https: what is sent over http can be read, tokens too, by all who pass it on."

# What is wrong with a field, by the type that pydantic gives it. Its own words are for programmers.
SENTENCES = {
    "missing": "This is needed.",
    "int_type": "Write a whole number, without quotation marks or a point.",
    "string_type": "Write a text in quotation marks.",
    "string_unicode": f"{HALF_A_CHARACTER}.",
    "string_too_short": "Write something here.",
    "string_too_long": "Write at most {max_length} characters.",
    "list_type": "Write a list, like [1, 2].",
    "literal_error": "Choose one of {expected}.",
    "greater_than_equal": "Write a number from {ge} on.",
    "less_than_equal": "Write a number up to {le}.",
    "datetime_from_date_parsing": f"There is no such time. {NO_MOMENT}.",
    "datetime_parsing": f"There is no such time. {NO_MOMENT}.",
}


class Problem(Schema):
    """What went wrong (RFC 9457), and what to do about it. A refusal has changed nothing."""

    type: str = Field("about:blank", description="Always this: `code` tells problems apart.")
    title: str = Field(description="The status in words.", examples=["Conflict"])
    status: int = Field(description="The status again.", examples=[409])
    detail: str = Field(
        description="What went wrong, for people.",
        examples=["Seats A1 and A2 have just been taken. Please choose again."],
    )
    code: str = Field(description="What went wrong, for programs.", examples=["seats_taken"])
    errors: dict[str, list[str]] | None = Field(
        None, description="Of a request that makes no sense: what is wrong with each field."
    )
    seats: list[str] | None = Field(
        None, description="Of `seats_taken`: the labels.", examples=[["A1", "A2"]]
    )


class TooMany(Exception):
    """A limit was reached; `retry_after` seconds later there is room again."""

    def __init__(self, detail: str, *, retry_after: float) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


def consume(request: HttpRequest, action: str, detail: str, *, key: str | None = None) -> None:
    """Counts one towards that limit of ACCOUNT_RATE_LIMITS. Raises TooMany when it is reached."""
    if not ratelimit.consume(request, app="allauth.account", action=action, key=key):
        raise too_many(request, action, detail, key=key)


def too_many(request: HttpRequest, action: str, detail: str, *, key: str | None = None) -> TooMany:
    """That limit was reached; as soon as the oldest that counts no longer does, there is room."""
    seconds = seconds_until_room(request, action, key=key)
    return TooMany(detail, retry_after=max(1, ceil(seconds)))


def invalid_fields(messages: Mapping[str, Sequence[str]]) -> ValidationError:
    """400, with those messages for each field of the body: located as ninja does it."""
    return ValidationError(
        [
            {"loc": ("body", "", field), "msg": message}
            for field, of_field in messages.items()
            for message in of_field
        ]
    )


def problem(
    status: int,
    detail: str = "",
    *,
    code: str = "",
    errors: Mapping[str, Sequence[str]] | None = None,
    seats: Sequence[str] | None = None,
    retry_after: float | None = None,
    more: Mapping[str, str] | None = None,
) -> JsonResponse:
    """The answer with that status, and `more` members of its own.

    503 always has a Retry-After (seconds), others if given.
    """
    title = HTTPStatus(status).phrase
    detail = detail or DETAILS.get(status, f"{title}.")
    if status == 500:
        detail += f" Its number is {get_guid()}."
    document = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code or CODES.get(status, "invalid"),
        **(more or {}),
    }
    if errors:
        document["errors"] = errors
    if seats:
        document["seats"] = seats
    response = JsonResponse(document, status=status, content_type=MEDIA_TYPE)
    if status == 503:
        retry_after = retry_after or RETRY_AFTER
    if retry_after:
        response["Retry-After"] = str(round(retry_after))
    if status == 401:
        response["WWW-Authenticate"] = "Bearer"
    return response


# ── What the API's own views raise ────────────────────────────────────────────────────────────────


def handle_errors(api: NinjaAPI) -> None:
    """Makes the API answer its exceptions with problems; others surface, for the middleware."""
    handlers = {
        ValidationError: lambda request, error: _invalid(error),
        HttpError: lambda request, error: _unreadable(error),
        Http404: lambda request, error: problem(404, str(error)),
        PermissionDenied: lambda request, error: problem(403, str(error)),
        TooMany: lambda request, error: problem(429, str(error), retry_after=error.retry_after),
        BookingError: lambda request, error: _refused(error),
        InventoryError: lambda request, error: _not_possible(error),
    }
    for error, handler in handlers.items():
        api.add_exception_handler(error, handler)
    api.add_exception_handler(Exception, _surface)


def _surface(request: HttpRequest, error: Exception) -> HttpResponse:
    raise error


def _unreadable(error: HttpError) -> HttpResponse:
    """Of the body as a whole; or 401, where ninja's one word is said better above."""
    if error.status_code == 400:
        return problem(400, error.message, errors={"body": [error.message]})
    return problem(error.status_code, "" if error.message == "Unauthorized" else error.message)


def _invalid(error: ValidationError) -> HttpResponse:
    """400, with the messages by field."""
    errors: dict[str, list[str]] = {}
    for one in error.errors:
        messages = errors.setdefault(_field(one["loc"]), [])
        if (message := _message(one)) not in messages:
            messages.append(message)
    named = " ".join(f"{field}: {' '.join(messages)}" for field, messages in errors.items())
    return problem(400, named, errors=errors)


def _message(one: dict[str, Any]) -> str:
    """A sentence for people, without what they sent."""
    kind, location = one.get("type", ""), one["loc"]
    if kind in ("missing", "model_attributes_type") and _field(location) == "body":
        return "Send what is wanted as JSON in the body."
    if kind.endswith("_type") and location[0] == "query":  # text all of it, unless it is a list
        return "Give this once."
    if sentence := SENTENCES.get(kind):
        return sentence.format(**one.get("ctx", {}))
    return one["msg"].removeprefix("Value error, ").rstrip(".") + "."


def _field(location: Sequence[str | int]) -> str:
    """The field in a location like ("body", "wish", "seat_ids", 0) or ("query", "limit")."""
    names = [part for part in location if isinstance(part, str)]
    if names[0] == "body":
        return names[2] if len(names) > 2 else "body"
    return names[-1]


def _refused(error: BookingError) -> HttpResponse:
    if isinstance(error, InvalidRequest):
        return problem(400, str(error))
    if isinstance(error, SlotBusy):
        return problem(503, str(error))
    seats = error.labels if isinstance(error, SeatsTaken) else None
    return problem(409, str(error), code=error.code, seats=seats)


def _not_possible(error: InventoryError) -> HttpResponse:
    if isinstance(error, Overlap):
        return problem(409, str(error), code="overlap")
    return problem(400, str(error))


# ── What everything else answers ──────────────────────────────────────────────────────────────────


class ApiMiddleware:
    """Under /api/ every error is a problem, no answer is kept, and HEAD is answered like GET.

    Nor does one set a cookie, but for the page of the docs: where those that a browser sent are out
    of date, its next page sees to them.

    Who sends a token, or more than a question, over http gets a problem too, and not the redirect
    to https of the pages: programs follow it and never learn that all can read along.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not is_for_api(request):
            return self.get_response(request)
        request.csrf_processing_done = True  # accounts.tokens does it, for whoever has a session
        request.POST = QueryDict()  # which it would look for in the body
        is_head = request.method == "HEAD"
        if is_head:
            request.method = "GET"
        response = self.get_response(request)
        if response.status_code in REDIRECTS:
            if request.method == "GET" and "Authorization" not in request.headers:
                del response["Content-Type"]  # "text/html", of nothing
            else:
                del response["Location"]
                self._say(response, problem(403, INSECURE))
        elif response.status_code >= 400 and response.get("Content-Type") != MEDIA_TYPE:
            self._say(response, problem(response.status_code, self._why(request, response)))
        if not response.get("Content-Type", "").startswith("text/html"):
            response.cookies.clear()
        if is_head:
            request.method = "HEAD"
            response["Content-Length"] = str(len(response.content))
            response.content = b""
        response.setdefault("Cache-Control", "no-store")
        return response

    def _say(self, response: HttpResponse, instead: HttpResponse) -> None:
        """Makes the problem of it. Its other headers stay: Allow, and those of the middlewares."""
        response.status_code, response.content = instead.status_code, instead.content
        for name, value in instead.items():
            response.setdefault(name, value)
        response["Content-Type"] = MEDIA_TYPE
        response["Content-Length"] = str(len(response.content))
        allowed = set(response.get("Allow", "").split(", "))
        if "GET" in allowed:
            response["Allow"] = ", ".join(sorted(allowed | {"HEAD"}))

    def _why(self, request: HttpRequest, response: HttpResponse) -> str:
        if isinstance(response, BrokeOff):
            return BrokeOff.detail
        if response.status_code == 400 and not _has_known_host(request):
            return UNKNOWN_HOST
        return ""


def _has_known_host(request: HttpRequest) -> bool:
    try:
        return bool(request.get_host())
    except DisallowedHost:
        return False


def nothing_here(request: HttpRequest) -> HttpResponse:
    """404 for every other path under /api/: no page is made of it, and no slash put after it."""
    return problem(404)
