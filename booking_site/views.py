"""Pages of no application: is the site alive, and what it says when something breaks."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.db import Error, ProgrammingError, connection
from django.db.migrations.loader import MigrationLoader
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.templatetags.static import static
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from booking_site.database import forget_lost_connections
from booking_site.middleware import RETRY_AFTER, answer_unavailable, is_for_api, render_error
from booking_site.problems import problem


@never_cache
@require_safe
def health_live(request: HttpRequest) -> JsonResponse:
    """200 while this process answers at all."""
    return JsonResponse({"status": "ok"})


@never_cache
@require_safe
def health_ready(request: HttpRequest) -> JsonResponse:
    """200 while pages can be served, else 503: the database is away, or not migrated yet.

    One query. Once all migrations were there, they are not looked for again.
    """
    global _has_migrations
    try:
        with connection.cursor() as cursor:
            if _has_migrations:
                cursor.execute("SELECT 1")
            else:
                cursor.execute("SELECT app, name FROM django_migrations")
                _has_migrations = _wanted_migrations() <= set(cursor.fetchall())
    except ProgrammingError:  # not even that table
        pass
    except Error:
        forget_lost_connections()
        return _not_ready(request, "The database is away.", database="away")
    if not _has_migrations:
        why = "Migrations are pending: “manage.py migrate” has not run yet."
        return _not_ready(request, why, database="ok", migrations="pending")
    return JsonResponse({"status": "ok", "database": "ok"})


_has_migrations = False  # of this process's code, as far as seen


def _wanted_migrations() -> set[tuple[str, str]]:
    """The last migration of each application. Reads files, no database."""
    return set(MigrationLoader(None).graph.leaf_nodes())


def _not_ready(request: HttpRequest, detail: str, **why: str) -> JsonResponse:
    if is_for_api(request):
        return problem(503, detail, more=why)
    answer = JsonResponse({"status": "unavailable"} | why, status=503)
    answer["Retry-After"] = str(RETRY_AFTER)
    return answer


def server_error(request: HttpRequest) -> HttpResponse:
    """What no view caught: 503 if the database was away outside of a view, else 500."""
    if unavailable := answer_unavailable(request, sys.exc_info()[1]):
        return unavailable
    return problem(500) if is_for_api(request) else render_error(request, "500.html", status=500)


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
