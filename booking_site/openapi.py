"""What the OpenAPI document says beyond what ninja reads off the code: words, examples, refusals.

An operation has its summary, its description and `refuses(…)` beside its path; the examples of all
are here, in the order in which the document lists the operations.
"""

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, NamedTuple

from django.conf import settings
from ninja import NinjaAPI
from ninja.openapi.schema import OpenAPISchema
from ninja.operation import Operation

from booking_site.fields import BIGGEST_ID
from booking_site.problems import MEDIA_TYPE, Problem

# ── Refusals ──────────────────────────────────────────────────────────────────────────────────────


class Refusal(NamedTuple):
    """An answer that says no: when it is given, and an example of it."""

    status: int
    when: str
    detail: str
    more: dict[str, Any] = {}


REFUSALS = {
    "invalid": Refusal(
        400,
        "The request makes no sense, whatever the state of the world. `errors` names the fields.",
        "seat_ids: Choose at least one seat.",
        {"errors": {"seat_ids": ["Choose at least one seat."]}},
    ),
    "unauthenticated": Refusal(
        401,
        "Nobody is logged in, or the token that was sent is not, or no longer, good.",
        "This token is not valid, or no longer. Get a new one from POST /api/v1/auth/token.",
    ),
    "forbidden": Refusal(
        403,
        "You are known, and may not do this: the right to it, the confirmation of a staff address "
        "or a session's CSRF token is missing; or this is http on a site that has https.",
        "Only staff who have been given the right to do this may do it.",
    ),
    "not_found": Refusal(
        404,
        "There is nothing with this id, or it is somebody else's.",
        "There is no such booking.",
    ),
    "method_not_allowed": Refusal(
        405,
        "This cannot be done here; the header `Allow` says what can.",
        "This cannot be done here; the header Allow says what can.",
    ),
    "too_large": Refusal(
        413,
        "The body is larger than 64 KiB.",
        "The body is larger than 64 KiB, and no request needs that.",
    ),
    "unsupported_media": Refusal(
        415,
        "The body is not `application/json`.",
        "Send the body as JSON, with “Content-Type: application/json”.",
    ),
    "seats_taken": Refusal(
        409,
        "Some of the named seats are somebody else's; `seats` has their labels.",
        "Seats A1 and A2 have just been taken. Please choose again.",
        {"seats": ["A1", "A2"]},
    ),
    "sold_out": Refusal(409, "Fewer seats are left than were asked for.", "No places are left."),
    "hold_expired": Refusal(
        409,
        "The hold ran out, and its seats were given back.",
        "The time to confirm ran out, and the seats were given back. Please choose again.",
    ),
    "wrong_state": Refusal(
        409,
        "The booking's status does not allow it.",
        "This booking has ended already, so it cannot be cancelled.",
    ),
    "slot_closed": Refusal(
        409,
        "The slot has begun, was called off, or is not (or no longer) open for booking.",
        "Booking has closed.",
    ),
    "overlap": Refusal(
        409,
        "The doctor has another slot at that time.",
        "The doctor already has a slot that overlaps this time.",
    ),
    "key_reused": Refusal(
        409,
        "This `Idempotency-Key` was sent before, with another body.",
        "This idempotency key was used for another request. Use a new one.",
    ),
    "too_many_holds": Refusal(
        409,
        "You hold as many unconfirmed bookings as you may.",
        "You are holding as many bookings as you may. Confirm or cancel one of them first.",
    ),
    "too_many": Refusal(
        429,
        "That was too often. Wait as many seconds as `Retry-After` says.",
        "That was too often. Wait as long as the header Retry-After says.",
    ),
    "busy": Refusal(
        503,
        "The site is very busy, or its database is away. Whether a change was made is unknown: "
        "repeat the request, with the same `Idempotency-Key`.",
        "The site is very busy or its database is away. Try again in a moment.",
    ),
}
_WAIT = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
HEADERS = {
    401: {"WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}}},
    405: {"Allow": {"description": "The methods that there are.", "schema": {"type": "string"}}},
    429: _WAIT,
    503: _WAIT,
}


def refuses(*codes: str) -> dict[str, Any]:
    """`openapi_extra` of an operation that may refuse with these codes.

    Those that follow from its path, body and `auth` need not be named.
    """
    responses: dict[int, dict[str, Any]] = {}
    for code in codes:
        status = REFUSALS[code].status
        if status != 409:
            responses[status] = {"$ref": f"#/components/responses/{code}"}
    if conflicts := [code for code in codes if REFUSALS[code].status == 409]:
        responses[409] = _response(*conflicts)
    return {"responses": responses}


def _response(*codes: str) -> dict[str, Any]:
    """The answer with any of these codes, all of one status."""
    status = REFUSALS[codes[0]].status
    lines = [f"`{code}`: {REFUSALS[code].when}" for code in codes]
    response = {
        "description": "\n\n".join(lines),
        "content": {
            MEDIA_TYPE: {
                "schema": {
                    "allOf": [
                        {"$ref": "#/components/schemas/Problem"},
                        {
                            "properties": {
                                "status": {"const": status},
                                "code": {"enum": list(codes)},
                            }
                        },
                    ]
                },
                "examples": {code: {"value": _problem(code)} for code in codes},
            }
        },
    }
    if status in HEADERS:
        response["headers"] = HEADERS[status]
    return response


def _problem(code: str) -> dict[str, Any]:
    refusal = REFUSALS[code]
    return {
        "type": "about:blank",
        "title": HTTPStatus(refusal.status).phrase,
        "status": refusal.status,
        "detail": refusal.detail,
        "code": code,
    } | refusal.more


# ── Words ─────────────────────────────────────────────────────────────────────────────────────────


def describe() -> str:
    """The introduction, in Markdown."""
    codes = "\n".join(
        f"| {refusal.status} | `{code}` | {refusal.when} |" for code, refusal in REFUSALS.items()
    )
    return f"""
Doctors' appointments and seats of shows: find a slot, hold seats, confirm the booking, move it or
cancel it. **A seat is never sold twice**, and what you hold is yours until `expires_at`.

## The life of a booking

`POST bookings` holds seats: the booking is `PENDING` for {_time(settings.HOLD_SECONDS)}, and nobody
else gets them. `confirm` makes it `CONFIRMED`; `extend` gives more time, up to
{_time(settings.HOLD_MAX_SECONDS)} in all. A hold that ran out is `FAILED`, with `failure_reason`
`expired`, at that instant. `cancel` gives the seats back (`CANCELLED`), and `reschedule` swaps them
for others in one step: if that is refused, the old ones are still yours.

## Who you are

* **Guests** need nothing. The `id` of a guest's booking is its key: whoever has it may see and
  change the booking, so keep it, and keep it to yourself.
* **Users and staff** get tokens from `POST auth/token` and send `Authorization: Bearer …` with the
  `access` token. It is good for {_time(settings.HEADLESS_JWT_ACCESS_TOKEN_EXPIRES_IN)};
  `POST auth/token/refresh` gives a new one. A token that is no longer good is refused, also where
  guests need none; what is the same for everybody (doctors, shows, slots, seats) does not look at
  it.
* **Browsers** that are logged in on the site may use their session. What changes something then
  needs the CSRF token of a page, in the header `X-CSRFToken`.

What is somebody else's is 404, as if it were not there.

## Asking twice is safe

Send `POST bookings` with an **`Idempotency-Key`**: 16 to 200 printable ASCII characters, a random
UUID for example. The same key with the same body is the same booking, 201 the first time and 200
after; with another body it is 409 `key_reused`. A refusal does not use the key up. If an answer was
lost, or was a 503, send the request again with the same key, or ask `GET bookings/by-key/…`. The
keys of users are their own; those of guests are shared by all guests, so make them random.
Confirming and cancelling again answer 200 and change nothing.

## When it does not work

Every error is a problem document (RFC 9457, `{MEDIA_TYPE}`) with `type`, `title`, `status`,
`detail` (for people), `code` (for programs) and, where it helps, `errors` by field or `seats`. A
refusal has changed nothing.

| status | `code` | when |
|---|---|---|
{codes}

## Times, lists, limits

* Times are ISO 8601. Those of answers are in UTC (`2027-03-28T17:30:00Z`); those of requests need
  their offset, like `2027-03-28T19:30:00+02:00`. `time_zone` is that of the place.
* Lists are `{{count, items}}`: so many (`limit`, 50 by default, 200 at most) from that one on
  (`offset`); `count` is of all. Only the seats of a slot are a plain list.
* Unknown fields of a body are ignored. A body has 64 KiB at most.
* One booking has {settings.MAX_SEATS_PER_BOOKING} seats at most, and one person holds at most
  {settings.MAX_LIVE_HOLDS} unconfirmed bookings. Registering and logging in are limited by network
  address and account: 429, with `Retry-After` in seconds.
* Whoever only looks may see availability as it was a second ago; a hold decides on the truth.
""".strip()


def _time(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    if rest:
        return f"{seconds} seconds"
    return "a minute" if minutes == 1 else f"{minutes} minutes"


TAGS = [
    {"name": "Accounts", "description": "Register and get tokens. Guests need neither."},
    {"name": "What can be booked", "description": "Doctors, shows, their slots and seats."},
    {"name": "Bookings", "description": "Hold, confirm, move and cancel."},
    {"name": "Office", "description": "For staff, each operation with a permission of its own."},
    {"name": "Health", "description": "For load balancers and monitoring; also at the root."},
]
SECURITY = {
    "Bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The `access` token of `POST auth/token`.",
    },
    "Session": {
        "type": "apiKey",
        "in": "cookie",
        "name": settings.SESSION_COOKIE_NAME,
        "description": "A browser that is logged in on the site.",
    },
    "CSRF": {
        "type": "apiKey",
        "in": "header",
        "name": "X-CSRFToken",
        "description": "With a session, for what changes something: the CSRF token of a page.",
    },
}

# ── Examples ──────────────────────────────────────────────────────────────────────────────────────

DOCTOR = {
    "id": 1,
    "name": "Dr. Grace Hopper",
    "specialization": "Cardiology",
    "bio": "Heart and circulation.",
    "time_zone": "Europe/Berlin",
}
SHOW = {
    "id": 1,
    "name": "Hamlet",
    "description": "",
    "venue": "Great Hall",
    "time_zone": "Europe/Berlin",
}
SLOT = {
    "id": 1,
    "doctor": None,
    "show": 1,
    "name": "Hamlet",
    "time_zone": "Europe/Berlin",
    "starts_at": "2027-03-28T17:30:00Z",
    "ends_at": "2027-03-28T19:30:00Z",
    "opens_at": None,
    "closes_at": None,
    "cancelled_at": None,
    "seating": "NUMBERED",
    "capacity": 2,
    "available": 1,
}
APPOINTMENT = SLOT | {
    "id": 2,
    "doctor": 1,
    "show": None,
    "name": DOCTOR["name"],
    "ends_at": "2027-03-28T18:00:00Z",
    "seating": "GENERAL",
    "capacity": 1,
}
SEATS = [
    {
        "id": number,
        "label": f"A{number}",
        "section": "",
        "row": "A",
        "number": number,
        "accessible": number == 1,
        "state": state,
    }
    for number, state in ((1, "AVAILABLE"), (2, "RESERVED"))
]
PENDING = {
    "id": "8e03978e-40d5-43e8-bc93-6894a57f9324",
    "reference": "7K3M9QXT",
    "status": "PENDING",
    "failure_reason": None,
    "slot": 1,
    "quantity": 1,
    "seats": [{"id": 1, "label": "A1"}],
    "name": "",
    "email": "",
    "created_at": "2027-03-01T09:00:00Z",
    "expires_at": "2027-03-01T09:02:00Z",
    "confirmed_at": None,
    "cancelled_at": None,
}
WHO = {"name": "Ada Lovelace", "email": "ada@example.org"}
CONFIRMED = PENDING | WHO | {"status": "CONFIRMED", "confirmed_at": "2027-03-01T09:01:00Z"}
CANCELLED = CONFIRMED | {"status": "CANCELLED", "cancelled_at": "2027-03-02T12:00:00Z"}
TOKENS = {"access": "eyJhbGciOiJIUzI1NiIs…", "refresh": "eyJhbGciOiJIUzI1NiIs…"}
PASSWORD = "correct horse battery staple"


def _page(*items: dict[str, Any]) -> dict[str, Any]:
    return {"count": len(items), "items": list(items)}


# Of each operation: the bodies by what they ask for, and what a success answers.
EXAMPLES: dict[str, tuple[dict[str, Any], Any]] = {
    "register": ({"Ada": WHO | {"password": PASSWORD}}, WHO),
    "token": ({"Ada": {"email": WHO["email"], "password": PASSWORD}}, TOKENS),
    "refresh": ({"Her token": {"refresh": TOKENS["refresh"]}}, TOKENS),
    "doctors": ({}, _page(DOCTOR)),
    "doctor": ({}, DOCTOR),
    "shows": ({}, _page(SHOW)),
    "show": ({}, SHOW),
    "slots": ({}, _page(SLOT, APPOINTMENT)),
    "slot": ({}, SLOT),
    "seats": ({}, SEATS),
    "hold": (
        {
            "Any seats": {"slot": 1, "quantity": 1},
            "These seats": {"slot": 1, "seat_ids": [1]},
            "With who comes": {"slot": 1, "quantity": 1} | WHO | {"phone": "+49 30 1234"},
        },
        PENDING,
    ),
    "bookings": ({}, _page(CONFIRMED)),
    "booking": ({}, PENDING),
    "booking_by_key": ({}, PENDING),
    "extend": ({}, PENDING | {"expires_at": "2027-03-01T09:03:30Z"}),
    "confirm": ({"Who comes": WHO, "It was said with the hold": {}}, CONFIRMED),
    "reschedule": (
        {"Any seats": {"slot": 1, "quantity": 1}, "These seats": {"slot": 1, "seat_ids": [1]}},
        CONFIRMED,
    ),
    "cancel": ({"With a reason": {"reason": "I am ill."}, "Without": {}}, CANCELLED),
    "all_doctors": ({}, _page(DOCTOR)),
    "add_doctor": (
        {"A doctor": {"name": DOCTOR["name"], "specialization": DOCTOR["specialization"]}},
        DOCTOR | {"bio": ""},
    ),
    "add_slot": (
        {
            "An appointment": {
                "starts_at": "2027-03-28T19:30:00+02:00",
                "ends_at": "2027-03-28T20:00:00+02:00",
                "capacity": 1,
            }
        },
        APPOINTMENT,
    ),
    "add_show": (
        {
            "Rows of seats": {
                "name": "Hamlet",
                "starts_at": "2027-03-28T19:30:00+02:00",
                "rows": 1,
                "seats_per_row": 2,
            },
            "Places without numbers": {
                "name": "Hamlet",
                "starts_at": "2027-03-28T19:30:00+02:00",
                "ends_at": "2027-03-28T22:00:00+02:00",
                "capacity": 300,
            },
        },
        SHOW
        | {
            "venue": "",
            "slot": SLOT | {"available": 2},
            "seats": [seat | {"accessible": False, "state": "AVAILABLE"} for seat in SEATS],
        },
    ),
    "all_slots": ({}, _page(SLOT, APPOINTMENT)),
    "all_bookings": ({}, _page(CANCELLED)),
    "expire_holds": ({}, {"expired": 2, "released": 5}),
    "health": ({}, {"status": "ok", "database": "ok"}),
    "health_ready": ({}, {"status": "ok", "database": "ok"}),
    "health_live": ({}, {"status": "ok"}),
}

# ── The document ──────────────────────────────────────────────────────────────────────────────────


def _with_width(schema: dict[str, Any]) -> dict[str, Any]:
    """Integers are as wide as the database's: clients would be generated with 32 bits."""
    return schema | {"format": "int64"} if schema.get("type") == "integer" else schema


class Document(OpenAPISchema):
    """ninja's document with all of the above."""

    def __init__(self, api: NinjaAPI, path_prefix: str) -> None:
        super().__init__(api, path_prefix)
        self["info"]["description"] = describe()
        self["servers"] = [{"url": settings.SITE_URL, "description": "This site"}]
        self["tags"] = TAGS
        self["components"]["schemas"]["Problem"] = Problem.json_schema()
        self["components"]["securitySchemes"] = SECURITY
        self["components"]["responses"] = {
            code: _response(code) for code, refusal in REFUSALS.items() if refusal.status != 409
        }
        # As it is sent: the statuses are text.
        self.update(json.loads(json.dumps(self), object_hook=_with_width))

    def get_paths(self) -> dict[str, Any]:
        order = list(EXAMPLES)

        def first(path: tuple[str, dict[str, Any]]) -> int:
            return min(order.index(operation["operationId"]) for operation in path[1].values())

        return dict(sorted(super().get_paths().items(), key=first))

    def operation_details(self, operation: Operation) -> dict[str, Any]:
        details = super().operation_details(operation)
        bodies, answer = EXAMPLES[details["operationId"]]
        if bodies:
            details["requestBody"]["content"]["application/json"]["examples"] = {
                name: {"value": body} for name, body in bodies.items()
            }
        for status, response in details["responses"].items():
            if status < 300:
                response["content"]["application/json"]["example"] = answer
        for code in self._general_refusals(operation, details):
            status = REFUSALS[code].status
            shared = {"$ref": f"#/components/responses/{code}"}
            details["responses"].setdefault(status, shared)
        details["responses"] = dict(sorted(details["responses"].items()))
        return details

    def _general_refusals(self, operation: Operation, details: dict[str, Any]) -> Iterator[str]:
        """Those that follow from what the operation is."""
        yield from ("invalid", "method_not_allowed", "busy")
        changes = operation.methods != ["GET"]
        if "security" in details:
            yield "unauthenticated"
        if "security" in details or changes:
            yield "forbidden"
        if any(parameter["in"] == "path" for parameter in details["parameters"]):
            yield "not_found"
        if changes:
            yield from ("too_large", "unsupported_media")

    def operation_security(self, operation: Operation) -> list[dict[str, Any]] | None:
        """Also that a session needs its CSRF token, and that guests need nothing."""
        security = super().operation_security(operation)
        if security is None:
            return None
        if operation.methods != ["GET"]:
            security = [one | {"CSRF": []} if "Session" in one else one for one in security]
        if not all(hasattr(auth, "openapi_security_schema") for auth in operation.auth_callbacks):
            security.append({})
        return security

    def operation_parameters(self, operation: Operation) -> list[dict[str, Any]]:
        """What an address cannot say (null) is left out, and ids have their bounds."""
        parameters = super().operation_parameters(operation)
        for parameter in parameters:
            schema = parameter["schema"]
            parameter.pop("examples", None)  # what is tried out would begin with it
            kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
            if len(kinds) == 1:
                del schema["anyOf"]
                schema |= kinds[0]
            if parameter["in"] == "path" and schema.get("type") == "integer":
                schema |= {"minimum": 1, "maximum": BIGGEST_ID}
        return parameters
