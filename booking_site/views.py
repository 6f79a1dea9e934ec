"""Pages of no application: is the site alive, and what it says when something breaks."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.db import Error, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.templatetags.static import static
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from booking_site.database import forget_lost_connections
from booking_site.middleware import RETRY_AFTER, answer_unavailable


@never_cache
@require_safe
def health_live(request: HttpRequest) -> JsonResponse:
    """200 while this process answers at all."""
    return JsonResponse({"status": "ok"})


@never_cache
@require_safe
def health_ready(request: HttpRequest) -> JsonResponse:
    """200 while the database answers too, else 503. One query."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Error:
        forget_lost_connections()
        answer = JsonResponse({"status": "unavailable", "database": "away"}, status=503)
        answer["Retry-After"] = str(RETRY_AFTER)
        return answer
    return JsonResponse({"status": "ok", "database": "ok"})


def server_error(request: HttpRequest) -> HttpResponse:
    """What no view caught: 503 if the database was away outside of a view, else 500."""
    unavailable = answer_unavailable(sys.exc_info()[1])
    return unavailable or HttpResponse(render_to_string("500.html"), status=500)


def favicon(request: HttpRequest) -> HttpResponse:
    """For what asks without reading the page, as Django admin's pages make browsers do."""
    return redirect(static("img/mark.svg"))


def require_post(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Django's `require_POST`, with a page: a refused form leaves its address in the browser."""

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.method == "POST":
            return view(request, *args, **kwargs)
        response = render(request, "405.html", status=405)
        response["Allow"] = "POST"
        return response

    return wrapper
