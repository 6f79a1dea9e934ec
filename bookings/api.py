"""Bookings for programs: the lifecycle over HTTP, and for staff the list of all."""

import re
import uuid
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest
from ninja import Field, Header, Query, Router, Schema, Status
from ninja.errors import ValidationError
from ninja.pagination import paginate
from pydantic import AfterValidator, WithJsonSchema, model_validator

from accounts import tokens
from booking_site.fields import Count, Id, IdInUrl, Pages, Text, as_in
from booking_site.openapi import refuses
from booking_site.problems import TooMany, consume
from bookings import browser, lifecycle
from bookings.access import (
    MAILED_TOO_OFTEN,
    is_mailed_too_often,
    is_staff_of_others,
    load_booking,
)
from bookings.errors import SweeperRunning
from bookings.forms import DetailsForm
from bookings.models import Booking
from bookings.search import search_bookings
from slots.models import Seat, Slot

router = Router(tags=["Bookings"])
office = Router(tags=["Office"])

KEY = re.compile(r"[ -~]{16,200}")
BOOKINGS_A_SWEEP = 500
DETAILS = DetailsForm.base_fields

Name = Annotated[Text, AfterValidator(as_in(DETAILS["name"])), Field(examples=["Ada Lovelace"])]
Email = Annotated[
    Text, AfterValidator(as_in(DETAILS["email"])), Field(examples=["ada@example.org"])
]
Phone = Annotated[Text, AfterValidator(as_in(DETAILS["phone"])), Field(examples=["+49 30 1234"])]


def _check_key(key: str) -> str:
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


class SeatsIn(Schema):
    """Which seats, or how many: one of the two."""

    slot: Id = Field(examples=[1])
    seat_ids: list[Id] | None = Field(None, examples=[[1, 2]])
    quantity: Count | None = Field(None, description="Any so many seats, instead.")

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
    """Who comes. What was given with the hold need not be given again."""

    name: Name | None = None
    email: Email | None = None
    phone: Phone | None = None


class CancelIn(Schema):
    reason: Text = Field("", max_length=500)


class BookedSeatOut(Schema):
    id: int
    label: str = Field(examples=["A1"])


class BookingOut(Schema):
    id: uuid.UUID = Field(description="Of a guest's booking, also its key: keep it.")
    reference: str = Field(description="For people, at the desk.", examples=["7K3M9QXT"])
    status: Literal["PENDING", "CONFIRMED", "FAILED", "CANCELLED"] = Field(alias="state")
    failure_reason: Literal["expired", "sold_out", "seats_taken"] | None
    slot: int = Field(alias="slot_id", description="The slot's id.")
    quantity: int
    seats: list[BookedSeatOut] = Field(alias="booked_seats", description="As they were booked.")
    name: str
    email: str
    created_at: datetime
    expires_at: datetime | None = Field(description="Until when the seats are held.")
    confirmed_at: datetime | None
    cancelled_at: datetime | None

    @staticmethod
    def resolve_failure_reason(booking: Booking) -> str | None:
        return booking.reason or None


class SweptOut(Schema):
    expired: int = Field(description="Holds that were closed.")
    released: int = Field(description="Seats that they gave back.")


def shown(*bookings: Booking) -> list[Booking]:
    """The bookings with `booked_seats`, those they have or had: one query for all of them."""
    if not bookings:
        return []
    wanted = reduce(or_, (Q(slot=one.slot_id, label__in=one.labels) for one in bookings))
    seats = {(seat.slot_id, seat.label): seat for seat in Seat.objects.filter(wanted)}
    for one in bookings:
        found = [seats.get((one.slot_id, label)) for label in one.labels]
        one.booked_seats = [seat for seat in found if seat]
    return list(bookings)


class BookingPages(Pages):
    def paginate_queryset(self, queryset: QuerySet[Booking], *args: Any, **options: Any) -> Any:
        page = super().paginate_queryset(queryset, *args, **options)
        page["items"] = shown(*page["items"])
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
def hold(request: HttpRequest, wish: BookingIn, key: IdempotencyKey | None = KEY_HEADER) -> Status:
    """Holds seats for two minutes (`expires_at`), for whoever is logged in, or a guest."""
    slot = Slot.objects.filter(pk=wish.slot).first()
    if slot is None:
        raise Http404("There is no slot with this id.")
    consume(request, "hold", "Very many bookings come from your network address. Wait a minute.")
    booking = lifecycle.hold(
        slot,
        **wish.wish,
        holder=browser.holder_of(request),
        idempotency_key=key,
        name=wish.name or "",
        email=wish.email or "",
        phone=wish.phone or "",
    )
    is_new = booking.is_new
    booking = Booking.objects.for_page().get(pk=booking.pk)
    return Status(201 if is_new else 200, *shown(booking))


@router.get("bookings", auth=tokens.USER, response=list[BookingOut], summary="My bookings")
@paginate(BookingPages)
def bookings(request: HttpRequest) -> QuerySet[Booking]:
    """Your own, the newest first."""
    mine = Booking.objects.of_holder(user=request.user, session_key="")
    return mine.with_state().order_by("-created_at", "id")


@router.get(
    "bookings/{uuid:booking_id}",
    auth=tokens.ANYBODY,
    response=BookingOut,
    summary="One booking",
)
def booking(request: HttpRequest, booking_id: uuid.UUID) -> Booking:
    """As it is this instant: a hold that has lapsed is `FAILED`, `expired`."""
    return shown(load_booking(request, booking_id))[0]


@router.get(
    "bookings/by-key/{path:key}",
    auth=tokens.ANYBODY,
    response=BookingOut,
    summary="Did my request arrive?",
)
def booking_by_key(request: HttpRequest, key: str) -> Booking:
    """The booking that a request with this Idempotency-Key made: “did it arrive?”

    Percent-encode the key. It is found by whoever sent it: that user, or any guest.
    """
    user = request.user if request.user.is_authenticated else None
    found = Booking.objects.for_page().filter(user=user, idempotency_key=key)
    if not KEY.fullmatch(key) or not found:
        raise Http404("No booking was made with this key.")
    return shown(found[0])[0]


@router.post(
    "bookings/{uuid:booking_id}/confirm",
    auth=tokens.ANYBODY,
    response=BookingOut,
    summary="Confirm",
    openapi_extra=refuses("hold_expired", "wrong_state", "slot_closed", "too_many"),
)
def confirm(
    request: HttpRequest, booking_id: uuid.UUID, details: DetailsIn | None = None
) -> Booking:
    """Books what is held. Again: the same answer, and nothing more."""
    booking = load_booking(request, booking_id, to="confirm")
    given = details.dict(exclude_none=True) if details else {}
    if booking.state == Booking.Status.PENDING:
        known = {name: given.get(name) or getattr(booking, name) for name in ("name", "email")}
        if missing := [name for name, value in known.items() if not value]:
            wanted = [DETAILS[name].error_messages["required"] for name in missing]
            raise ValidationError(
                [
                    {"loc": ("body", "details", name), "msg": message}
                    for name, message in zip(missing, wanted, strict=True)
                ]
            )
        if is_mailed_too_often(request, known["email"]):
            raise TooMany(MAILED_TOO_OFTEN, retry_after=3600)
    return _changed(lifecycle.confirm(booking, **given, actor=browser.holder_of(request)))


@router.post(
    "bookings/{uuid:booking_id}/extend",
    auth=tokens.ANYBODY,
    response=BookingOut,
    summary="More time",
    openapi_extra=refuses("hold_expired", "wrong_state", "slot_closed"),
)
def extend(request: HttpRequest, booking_id: uuid.UUID) -> Booking:
    """Holds the seats for two minutes from now, up to the most there is: see `expires_at`."""
    return _changed(lifecycle.extend(load_booking(request, booking_id, to="confirm")))


@router.post(
    "bookings/{uuid:booking_id}/cancel",
    auth=tokens.ANYBODY,
    response=BookingOut,
    summary="Cancel",
    openapi_extra=refuses("hold_expired", "wrong_state", "slot_closed"),
)
def cancel(request: HttpRequest, booking_id: uuid.UUID, why: CancelIn | None = None) -> Booking:
    """Gives the seats back. Again: the same answer, and nothing more."""
    booking = load_booking(request, booking_id, to="cancel")
    return _changed(
        lifecycle.cancel(
            booking,
            actor=browser.holder_of(request),
            reason=why.reason if why else "",
            by_staff=is_staff_of_others(request, booking),
        )
    )


@router.post(
    "bookings/{uuid:booking_id}/reschedule",
    auth=tokens.ANYBODY,
    response=BookingOut,
    summary="Move to other seats",
    openapi_extra=refuses(
        *("seats_taken", "sold_out", "hold_expired", "wrong_state", "slot_closed")
    ),
)
def reschedule(request: HttpRequest, booking_id: uuid.UUID, wish: SeatsIn) -> Booking:
    """Other seats, of this or another slot. The old ones are kept until the new ones are yours."""
    booking = load_booking(request, booking_id, to="cancel")
    slot = Slot.objects.filter(pk=wish.slot).first()
    if slot is None:
        raise Http404("There is no slot with this id.")
    moved = lifecycle.reschedule(booking, slot=slot, **wish.wish, actor=browser.holder_of(request))
    return _changed(moved)


def _changed(booking: Booking) -> Booking:
    return shown(booking)[0]


# ── For staff ─────────────────────────────────────────────────────────────────────────────────────


class BookingFilters(Schema):
    status: Literal["PENDING", "CONFIRMED", "FAILED", "CANCELLED"] | None = None
    slot: IdInUrl | None = None
    q: Text = Field("", max_length=200, description="A reference, e-mail address, name, …")


@office.get(
    "bookings",
    auth=tokens.staff("bookings.view_booking"),
    response=list[BookingOut],
    summary="Find bookings",
)
@paginate(BookingPages)
def all_bookings(request: HttpRequest, filters: Query[BookingFilters]) -> QuerySet[Booking]:
    """Everybody's, the newest first."""
    found = Booking.objects.with_state().order_by("-created_at", "id")
    if filters.slot:
        found = found.filter(slot=filters.slot)
    if filters.status:
        found = found.filter(state=filters.status)
    return search_bookings(found, filters.q) if filters.q else found


@office.post(
    "expire-holds",
    auth=tokens.staff("bookings.release_booking"),
    response=SweptOut,
    summary="Close lapsed holds",
)
def expire_holds(request: HttpRequest) -> dict[str, int]:
    """Closes lapsed holds, as housekeeping does. To everybody their seats were free already."""
    total = {"expired": 0, "released": 0}
    while True:
        try:
            expired, released = lifecycle.expire_due(batch_size=BOOKINGS_A_SWEEP)
        except SweeperRunning:
            return total  # housekeeping is at it
        total["expired"] += expired
        total["released"] += released
        if expired < BOOKINGS_A_SWEEP:
            return total
