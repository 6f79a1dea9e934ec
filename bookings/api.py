"""Bookings for programs: the lifecycle over HTTP, and for staff the list of all."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Literal

from django.conf import settings
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from ninja import Field, Header, Query, Router, Schema
from ninja.pagination import paginate
from pydantic import AfterValidator, WithJsonSchema, model_validator

from accounts import tokens
from booking_site.fields import Id, IdInUrl, Pages, Text, as_in, storable
from booking_site.openapi import refuses
from booking_site.problems import invalid_fields
from bookings import browser, lifecycle
from bookings.access import (
    count_hold,
    count_mail,
    find_made_with,
    is_staff_of_others,
    load_booking,
)
from bookings.errors import InvalidRequest, SlotGone, SweeperRunning
from bookings.forms import DetailsForm
from bookings.models import BOOKING_WAS_REFUSED, Booking
from bookings.search import search_bookings
from slots.models import Slot

router = Router(tags=["Bookings"])
office = Router(tags=["Office"])

KEY = re.compile(r"[ -~]{16,200}")
NO_SUCH_SLOT = "There is no slot with this id."
HOLDS_A_BATCH = 500
BATCHES_A_REQUEST = 10
MOST_SEATS = settings.MAX_SEATS_PER_BOOKING
DETAILS = DetailsForm.base_fields

Name = Annotated[Text, AfterValidator(as_in(DETAILS["name"])), Field(examples=["Ada Lovelace"])]
Email = Annotated[
    Text, AfterValidator(as_in(DETAILS["email"])), Field(examples=["ada@example.org"])
]
Reason = Annotated[str, Field(max_length=500), AfterValidator(storable)]
Wanted = Annotated[str, Field(max_length=200), AfterValidator(storable)]
Phone = Annotated[Text, AfterValidator(as_in(DETAILS["phone"])), Field(examples=["+49 30 1234"])]


def _check_key(key: str) -> str:
    """The key as it comes in a header: around that HTTP allows blanks, and servers drop them."""
    key = key.strip(" \t")
    if not KEY.fullmatch(key):
        raise ValueError("An Idempotency-Key has 16 to 200 printable ASCII characters")
    return key


IdempotencyKey = Annotated[
    str,
    AfterValidator(_check_key),
    WithJsonSchema({"type": "string", "minLength": 16, "maxLength": 200, "pattern": "^[ -~]*$"}),
]
# Without an example: whoever tried it out would get a stranger's booking.
KEY_HEADER = Header(
    None,
    alias="Idempotency-Key",
    description="16 to 200 printable ASCII characters, random for guests: a UUID. Sent again with "
    "the same body, it answers 200 with the booking that it made.",
)


# How many seats there may be is the lifecycle's to say; what it says is given the field's name.
SeatIds = Annotated[
    list[Id],
    Field(
        examples=[[1, 2]],
        json_schema_extra={"minItems": 1, "maxItems": MOST_SEATS, "uniqueItems": True},
    ),
]
Quantity = Annotated[
    int, Field(strict=True, json_schema_extra={"minimum": 1, "maximum": MOST_SEATS})
]


class SeatsIn(Schema):
    """Which seats, or how many: one of the two."""

    slot: Id = Field(examples=[1])
    seat_ids: SeatIds | None = None
    quantity: Quantity | None = Field(None, description="Any so many seats, instead.")

    @model_validator(mode="after")
    def check_wish(self) -> "SeatsIn":
        if (self.seat_ids is None) == (self.quantity is None):
            raise ValueError("Give seat_ids or quantity: one of the two")
        return self

    @property
    def wish(self) -> dict[str, Any]:
        """What the lifecycle is asked for."""
        return {"seat_ids": self.seat_ids, "quantity": self.quantity}


class BookingIn(SeatsIn):
    name: Name | None = None
    email: Email | None = None
    phone: Phone | None = None


class DetailsIn(Schema):
    """Who comes. What was given with the hold, or is known of the account, need not be given."""

    name: Name | None = None
    email: Email | None = None
    phone: Phone | None = None


class CancelIn(Schema):
    reason: Reason | None = Field(None, examples=["I am ill"])


class BookedSeatOut(Schema):
    id: int
    label: str = Field(examples=["A1"])


class BookingOut(Schema):
    id: uuid.UUID = Field(description="Of a guest's booking, also its key: keep it.")
    reference: str = Field(description="For people, at the desk.", examples=["7K3M9QXT"])
    status: Literal["PENDING", "CONFIRMED", "FAILED", "CANCELLED"]
    failure_reason: Literal["expired", "sold_out", "seats_taken"] | None
    slot: int = Field(description="The slot's id.")
    quantity: int
    seats: list[BookedSeatOut] = Field(description="Those it has, or had until it ended.")
    name: str
    email: str
    created_at: datetime
    expires_at: datetime | None = Field(
        description="Until when the seats are, or were, held; null of what no longer ends so."
    )
    confirmed_at: datetime | None
    cancelled_at: datetime | None


class SweptOut(Schema):
    expired: int = Field(description="Holds that were closed.")
    released: int = Field(description="Seats that they gave back.")


class BookingPages(Pages):
    def paginate_queryset(self, queryset: QuerySet[Booking], *args: Any, **options: Any) -> Any:
        """Which are on the page an index tells; only of those is read what is shown of them."""
        page = super().paginate_queryset(queryset, *args, **options)
        ids = list(page["items"].values_list("pk", flat=True))
        found = Booking.objects.with_state().with_seats().filter(pk__in=ids)
        page["items"] = [_shown(booking) for booking in found]
        return page


@router.post(
    "bookings",
    auth=tokens.ANYBODY,
    response={201: BookingOut, 200: BookingOut},
    url_name="bookings",
    summary="Hold seats",
    openapi_extra=refuses(
        *("not_found", "seats_taken", "sold_out", "slot_closed", "key_reused", "too_many_holds"),
        *("wrong_state", "too_many"),
    ),
)
def hold(
    request: HttpRequest, wish: BookingIn, key: IdempotencyKey | None = KEY_HEADER
) -> HttpResponse:
    """Holds seats until `expires_at`, for whoever is logged in, or a guest."""
    count_hold(request, key)
    with _naming_field(wish):
        booking = lifecycle.hold(
            Slot(pk=wish.slot),
            **wish.wish,
            holder=browser.holder_of(request),
            idempotency_key=key,
            name=wish.name or "",
            email=wish.email or "",
            phone=wish.phone or "",
        )
    response = _answer(booking)
    if booking.is_new:
        response.status_code = 201
        response["Location"] = f"{request.path}/{booking.pk}"
    return response


@router.get("bookings", auth=tokens.USER, response=list[BookingOut], summary="My bookings")
@paginate(BookingPages)
def bookings(request: HttpRequest) -> QuerySet[Booking]:
    """Your own, the newest first. What was refused was no booking, and is not among them."""
    mine = Booking.objects.of_holder(user=request.user, session_key="")
    return mine.exclude(BOOKING_WAS_REFUSED)


@router.get(
    "bookings/{any_case_uuid:booking_id}",
    auth=tokens.ANYBODY,
    response=BookingOut,
    summary="One booking",
)
def booking(request: HttpRequest, booking_id: uuid.UUID) -> HttpResponse:
    """As it is this instant: a hold that has lapsed is `FAILED`, `expired`."""
    return _answer(load_booking(request, booking_id, with_seats=True))


@router.get(
    "bookings/by-key/{path:key}",
    auth=tokens.ANYBODY,
    response=BookingOut,
    summary="Did my request arrive?",
)
def booking_by_key(request: HttpRequest, key: str) -> HttpResponse:
    """The booking that a request with this Idempotency-Key made: “did it arrive?”

    Percent-encode the key. It is found by whoever sent it: that user, or any guest.
    """
    try:
        made = find_made_with(request, _check_key(key))
    except ValueError:
        made = None
    if made is None:
        raise Http404("No booking was made with this key.")
    return _answer(made)


@router.post(
    "bookings/{any_case_uuid:booking_id}/confirm",
    auth=tokens.ANYBODY,
    response=BookingOut,
    summary="Confirm",
    openapi_extra=refuses("hold_expired", "wrong_state", "slot_closed", "too_many"),
)
def confirm(
    request: HttpRequest, booking_id: uuid.UUID, details: DetailsIn | None = None
) -> HttpResponse:
    """Books what is held. Again: the same answer, and nothing more."""
    booking = load_booking(request, booking_id, to="confirm")
    given = details.dict(exclude_none=True) if details else {}
    if booking.state == Booking.Status.PENDING:
        given |= _who_comes(booking, given)
        count_mail(request, given["email"])
    return _answer(lifecycle.confirm(booking, **given, actor=browser.holder_of(request)))


def _who_comes(booking: Booking, given: dict[str, str]) -> dict[str, str]:
    """Name and e-mail address: as given now, with the hold, or to the account. ValidationError."""
    known = {
        name: given.get(name) or getattr(booking, name) or getattr(booking.user, name, "")
        for name in ("name", "email")
    }
    if missing := [name for name, value in known.items() if not value]:
        raise invalid_fields({name: [DETAILS[name].error_messages["required"]] for name in missing})
    return known


@router.post(
    "bookings/{any_case_uuid:booking_id}/extend",
    auth=tokens.ANYBODY,
    response=BookingOut,
    summary="More time",
    openapi_extra=refuses("hold_expired", "wrong_state", "slot_closed"),
)
def extend(request: HttpRequest, booking_id: uuid.UUID) -> HttpResponse:
    """Holds the seats as long again from now on, up to the most there is: see `expires_at`."""
    return _answer(lifecycle.extend(load_booking(request, booking_id, to="confirm")))


@router.post(
    "bookings/{any_case_uuid:booking_id}/cancel",
    auth=tokens.ANYBODY,
    response=BookingOut,
    summary="Cancel",
    openapi_extra=refuses("hold_expired", "wrong_state", "slot_closed"),
)
def cancel(
    request: HttpRequest, booking_id: uuid.UUID, why: CancelIn | None = None
) -> HttpResponse:
    """Gives the seats back. Again: the same answer, and nothing more."""
    booking = load_booking(request, booking_id, to="cancel")
    cancelled = lifecycle.cancel(
        booking,
        actor=browser.holder_of(request),
        reason=(why and why.reason) or "",
        by_staff=is_staff_of_others(request, booking),
    )
    return _answer(cancelled)


@router.post(
    "bookings/{any_case_uuid:booking_id}/reschedule",
    auth=tokens.ANYBODY,
    response=BookingOut,
    summary="Move to other seats",
    openapi_extra=refuses(
        *("seats_taken", "sold_out", "hold_expired", "wrong_state", "slot_closed", "too_many")
    ),
)
def reschedule(request: HttpRequest, booking_id: uuid.UUID, wish: SeatsIn) -> HttpResponse:
    """Other seats, of this or any other slot. The old ones are kept until the new ones are yours.

    Some may be the same, and there may be more or fewer. A hold ends when it would have ended.
    """
    booking = load_booking(request, booking_id, to="cancel")
    if booking.state == Booking.Status.CONFIRMED and booking.email:
        count_mail(request, booking.email)
    with _naming_field(wish):
        moved = lifecycle.reschedule(
            booking, slot=Slot(pk=wish.slot), **wish.wish, actor=browser.holder_of(request)
        )
    return _answer(moved)


@contextmanager
def _naming_field(wish: SeatsIn) -> Iterator[None]:
    """What the lifecycle finds wrong with a wish is wrong with the field that was given."""
    try:
        yield
    except SlotGone:
        raise Http404(NO_SUCH_SLOT) from None
    except InvalidRequest as error:
        field = "quantity" if wish.seat_ids is None else "seat_ids"
        raise invalid_fields({field: [str(error)]}) from error


def _answer(booking: Booking) -> HttpResponse:
    return JsonResponse(_shown(booking), content_type="application/json; charset=utf-8")


def _shown(booking: Booking) -> dict[str, Any]:
    """BookingOut, of a booking `with_state` and `with_seats`.

    Not by ninja, whose checks of what we know to be right take longer than all else here.
    """
    may_expire = booking.state in (Booking.Status.PENDING, Booking.Status.FAILED)
    return {
        "id": booking.pk,
        "reference": booking.reference,
        "status": booking.state,
        "failure_reason": booking.reason or None,
        "slot": booking.slot_id,
        "quantity": booking.quantity,
        "seats": booking.booked_seats,
        "name": booking.name,
        "email": booking.email,
        "created_at": booking.created_at,
        "expires_at": booking.expires_at if may_expire else None,
        "confirmed_at": booking.confirmed_at,
        "cancelled_at": booking.cancelled_at,
    }


# ── For staff ─────────────────────────────────────────────────────────────────────────────────────


class BookingFilters(Schema):
    status: Literal["PENDING", "CONFIRMED", "FAILED", "CANCELLED"] | None = None
    slot: IdInUrl | None = None
    q: Wanted = Field("", description="A reference, e-mail address, name, …")


@office.get(
    "bookings",
    auth=tokens.staff("bookings.view_booking"),
    response=list[BookingOut],
    summary="Find bookings",
)
@paginate(BookingPages)
def all_bookings(request: HttpRequest, filters: Query[BookingFilters]) -> QuerySet[Booking]:
    """Everybody's, the newest first. Refused attempts are listed with `status=FAILED` only."""
    if filters.status == Booking.Status.FAILED:
        found = Booking.objects.in_state(filters.status)
    else:
        found = Booking.objects.exclude(BOOKING_WAS_REFUSED)
        found = found.in_state(filters.status) if filters.status else found
    if filters.slot:
        found = found.filter(slot=filters.slot)
    return search_bookings(found, filters.q)


@office.post(
    "expire-holds",
    auth=tokens.staff("bookings.release_booking"),
    response=SweptOut,
    summary="Close lapsed holds",
)
def expire_holds(request: HttpRequest) -> dict[str, int]:
    """Closes lapsed holds, as housekeeping does. To everybody their seats were free already.

    At most 5,000 holds at once: ask again while it closes as many.
    """
    total = {"expired": 0, "released": 0}
    for _ in range(BATCHES_A_REQUEST):
        try:
            expired, released = lifecycle.expire_due(batch_size=HOLDS_A_BATCH)
        except SweeperRunning:
            break  # housekeeping is at it
        total["expired"] += expired
        total["released"] += released
        if expired < HOLDS_A_BATCH:
            break
    return total
