"""A busy or absent database: one answer for every page, and the site is well again by itself."""

import logging
from collections.abc import Callable

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string

from booking_site.database import forget_lost_connections
from bookings.errors import SlotBusy

logger = logging.getLogger("holdfast.database")

RETRY_AFTER = 3  # seconds


class DatabaseAwayMiddleware:
    """503 with Retry-After where a view could not reach the database, or waited too long."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        return answer_unavailable(error)


def answer_unavailable(error: BaseException | None) -> HttpResponse | None:
    """503 in the site's look if the error is one of a busy or absent database, else None."""
    if isinstance(error, OperationalError | InterfaceError):
        logger.warning("database: %s", str(error).strip().partition("\n")[0])
        forget_lost_connections()
    elif not isinstance(error, SlotBusy):
        return None
    response = HttpResponse(render_to_string("503.html"), status=503)
    response["Retry-After"] = str(RETRY_AFTER)
    response["Cache-Control"] = "no-store"
    return response
