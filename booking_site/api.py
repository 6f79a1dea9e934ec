"""The JSON API: one place where the routers come together. The contract is in its docs."""

import json
from collections.abc import Callable
from typing import Any, Literal

from django.http import HttpRequest, HttpResponse
from django.http.request import UnreadablePostError
from django.utils.datastructures import MultiValueDict
from django.views.decorators.cache import cache_control
from django.views.decorators.http import conditional_page, require_safe
from ninja import NinjaAPI, Router, Schema, Swagger
from ninja.errors import HttpError
from ninja.operation import Operation
from ninja.parser import Parser

from accounts import tokens
from accounts.api import router as accounts
from booking_site import problems, views
from booking_site.middleware import LARGEST_BODY
from booking_site.openapi import Document
from bookings.api import office as bookings_office
from bookings.api import router as bookings
from slots.api import office as slots_office
from slots.api import router as slots

JSON_TYPE = "application/json"
NO_JSON = "Send the body as JSON, with “Content-Type: application/json”."
DOCS = {  # of Swagger UI
    "validatorUrl": "none",  # it would ask another host
    "defaultModelsExpandDepth": 0,
    "syntaxHighlight": {"theme": "obsidian"},  # its others are too faint
}


class Api(NinjaAPI):
    document: Document | None = None

    def create_temporal_response(self, request: HttpRequest) -> HttpResponse:
        """Called when it is known who asks, and before ninja looks at what is asked.

        The body is read here and not in the parser, all of whose errors ninja calls the same.
        """
        if request.method != "GET":
            request.json = _read_json(request)
        return super().create_temporal_response(request)

    def get_openapi_schema(self, **options: Any) -> Document:
        """Made once in each process: it does not change."""
        if self.document is None:
            self.document = Document(self, self.get_root_path({}))
        return self.document

    def get_openapi_operation_id(self, operation: Operation) -> str:
        """The view's name. Clients are generated from these: to rename one breaks them."""
        return operation.view_func.__name__


class JsonParser(Parser):
    def parse_body(self, request: HttpRequest) -> Any:
        return request.json  # create_temporal_response has put it there

    def parse_querydict(
        self, data: MultiValueDict, list_fields: list[str], request: HttpRequest
    ) -> dict[str, Any]:
        """What is given twice stays a list, which no field takes: it is not for us to choose."""
        return {name: found if len(found) > 1 else found[0] for name, found in data.lists()}


def _read_json(request: HttpRequest) -> Any:
    """What the body says, or None of an empty one. Raises HttpError."""
    if "HTTP_TRANSFER_ENCODING" in request.META and "CONTENT_LENGTH" not in request.META:
        raise HttpError(400, "Send the body with a Content-Length, not in chunks.")
    try:
        length = int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        raise HttpError(400, "The header Content-Length is no number.") from None
    if length <= 0:
        return None
    if length > LARGEST_BODY:
        raise HttpError(
            413, f"The body is larger than {LARGEST_BODY // 1024} KiB, and no request needs that."
        )
    if request.content_type != JSON_TYPE:
        raise HttpError(415, NO_JSON)
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise HttpError(415, "Send the body as it is, without a Content-Encoding.")
    try:
        found = json.loads(
            request.body.decode(),
            parse_int=_read_number,
            parse_constant=_refuse_constant,
            object_pairs_hook=_read_object,
        )
    except UnreadablePostError:
        raise HttpError(400, "The body broke off.") from None
    except RecursionError:
        raise HttpError(400, "The body is nested too deeply.") from None
    except UnicodeDecodeError:
        raise HttpError(400, "The body is not text in UTF-8, as JSON must be.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise HttpError(400, f"The body is not JSON: {error.msg} ({where}).") from None
    except ValueError as error:
        raise HttpError(400, f"The body is not JSON: {error}.") from None
    if found is not None and not isinstance(found, dict):
        raise HttpError(400, "The body must be a JSON object, like {…}.")
    return found


def _read_number(digits: str) -> int:
    """The first of very many digits are enough for its field to say that it is too large."""
    return int(digits[:100])


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("a field is given twice")
    return dict(pairs)


class HealthOut(Schema):
    status: Literal["ok"]
    database: Literal["ok"] | None = None


# HealthMiddleware answers these, before anything else; here they are for the document.
checks = Router(tags=["Health"], auth=None)


@checks.get("health", response=HealthOut, summary="Is all well?")
def health(request: HttpRequest) -> HttpResponse:
    """The same as `health/ready`."""
    return views.health_ready(request)


@checks.get("health/ready", response=HealthOut, summary="Can it serve?")
def health_ready(request: HttpRequest) -> HttpResponse:
    """200 while pages can be served, else 503, with the members `database` (`away` or `ok`) and
    `migrations` (`pending`): the database is away, or not migrated yet.
    """
    return views.health_ready(request)


@checks.get("health/live", response=HealthOut, summary="Does the process live?")
def health_live(request: HttpRequest) -> HttpResponse:
    """200 while the process answers at all."""
    return views.health_live(request)


def _with_etag(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Whoever has the document, or the page, is asked to look whether it is still the same."""
    return conditional_page(cache_control(no_cache=True)(require_safe(view)))


api = Api(
    title="Holdfast",
    version="1.0.0",
    urls_namespace="api",
    auth=tokens.USER,
    parser=JsonParser(),
    docs=Swagger(DOCS),
    docs_decorator=_with_etag,
)
problems.handle_errors(api)
api.add_router("", checks)
api.add_router("", accounts)
api.add_router("", slots)
api.add_router("", bookings)
api.add_router("admin/", slots_office)
api.add_router("admin/", bookings_office)
