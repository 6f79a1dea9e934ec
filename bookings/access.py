"""Whose a booking is: the one place that decides who may see and change it."""

import uuid
from datetime import timedelta
from math import ceil
from typing import Any

from allauth.core.internal.ratelimit import get_rates
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db.models import F, Q
from django.db.models.functions import Extract, Now
from django.http import Http404, HttpRequest
from django.urls import register_converter
from django.urls.converters import UUIDConverter

from booking_site.prepared import prepared, select, send
from booking_site.problems import TooMany, consume
from bookings import browser
from bookings.models import Booking, BookingEvent

MAILED_TOO_OFTEN = (
    "This e-mail address has been sent very many bookings within an hour. Log in with it, use "
    "another one, or try again in an hour."
)

LATEST = 500  # bookings of an address

HELD_TOO_OFTEN = "Very many bookings come from your network address. Wait a minute, then try again."


class AnyCase(UUIDConverter):
    """A booking's id in capitals, as some programs write it, is the same id (RFC 9562)."""

    regex = UUIDConverter.regex.replace("a-f", "a-fA-F")


register_converter(AnyCase, "any_case_uuid")


def load_booking(
    request: HttpRequest, booking_id: uuid.UUID, *, to: str | None = None, with_seats: bool = False
) -> Booking:
    """The booking, if this visitor may see it: a user's is for that user, a guest's for whoever
    has its address, and staff who may view bookings see all. To everybody else there is no such
    booking. One query, and for staff those of their permissions; `with_seats` is of the queryset.

    What is not their own staff change only if they may do so: `to` confirm or cancel (and who may
    take its seats away may give it others). That goes for a guest's as well, since the office's
    lists are full of addresses. Raises Http404, PermissionDenied.
    """
    [found] = send(_read_booking(with_seats, pk=booking_id))
    if not found:
        raise Http404("There is no such booking.")
    booking = found[0]
    if _is_own(request, booking):
        return booking
    if booking.user_id and not is_staff_who_may(request, "view"):
        raise Http404("There is no such booking.")
    if to and request.user.is_staff and not is_staff_who_may(request, to):
        raise PermissionDenied
    return booking


@prepared
def _read_booking(with_seats: bool, *, pk: uuid.UUID) -> Any:
    bookings = Booking.objects.for_page().filter(pk=pk)
    return select(bookings.with_seats() if with_seats else bookings)


def _is_own(request: HttpRequest, booking: Booking) -> bool:
    """Whether it is this user's, or a guest's who booked in this browser."""
    if booking.user_id:
        return booking.user_id == request.user.pk
    key = browser.holder_of(request).session_key
    return key != "" and key == booking.session_key


def is_staff_who_may(request: HttpRequest, verb: str) -> bool:
    user = request.user
    return user.is_staff and user.has_perm(f"bookings.{verb}_booking")


def is_staff_of_others(request: HttpRequest, booking: Booking) -> bool:
    """Whether they may cancel it for the office. With what is their own, staff are patients."""
    return is_staff_who_may(request, "cancel") and not _is_own(request, booking)


def limit_mails(request: HttpRequest, email: str) -> None:
    """Raises TooMany if that address has been sent so many bookings, on the word of others, that it
    gets no more: ACCOUNT_RATE_LIMITS says how many.

    Not of what staff do, nor of mails to the user's own, confirmed address. Counted is what was
    booked, not who asks: those who ask at one moment may all be let in. One query for a limit.
    """
    user = request.user
    if user.is_staff:
        return
    if user.is_authenticated and user.emailaddress_set.filter(email=email.lower(), verified=True):
        return
    for rate in get_rates(app="allauth.account", action="mail_booking"):
        [ages] = send(_mailed(rate.amount, rate.duration, email=email))
        if len(ages) == rate.amount:
            raise TooMany(MAILED_TOO_OFTEN, retry_after=ceil(rate.duration - max(ages)))


@prepared
def _mailed(most: int, within: int, *, email: str) -> Any:
    """How many seconds ago the latest mails to the address were queued that follow a booking.

    Of its latest bookings: of any number, PostgreSQL would rather read the history of all.
    """
    given = Booking.objects.filter(~Q(email=""), email__iexact=email, confirmed_at__isnull=False)
    mailed = BookingEvent.objects.filter(
        booking__in=given.order_by("-confirmed_at").values("pk")[:LATEST],
        to_status=Booking.Status.CONFIRMED,
        at__gt=Now() - timedelta(seconds=within),
    )
    age = Extract(Now() - F("at"), "epoch")
    return select(mailed.order_by("-at").values_list(age, flat=True)[:most])


def count_hold(request: HttpRequest, key: str | None = None) -> None:
    """Counts a hold of this network address, if a setting says so. Raises TooMany, but not to who
    has the key of a booking: asking again is answered with it, and holds nothing.
    """
    if "hold" not in settings.ACCOUNT_RATE_LIMITS:
        return
    try:
        consume(request, "hold", HELD_TOO_OFTEN)
    except TooMany:
        if key is None or find_made_with(request, key) is None:
            raise


def find_made_with(request: HttpRequest, key: str) -> Booking | None:
    """The booking that a request with this Idempotency-Key made, if any: of that user, or any
    guest. With its state and its seats: one query.
    """
    user = request.user.pk if request.user.is_authenticated else None
    [found] = send(_read_made_with(user=user, key=key))
    return found[0] if found else None


@prepared
def _read_made_with(*, user: int | None, key: str) -> Any:
    made = Booking.objects.filter(user=user, idempotency_key=key)
    return select(made.with_state().with_seats())
