"""Whose a booking is: the one place that decides who may see and change it."""

import uuid
from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest
from django.urls import register_converter
from django.urls.converters import UUIDConverter

from booking_site.prepared import prepared, select, send
from booking_site.problems import TooMany, consume
from bookings import browser
from bookings.models import Booking

MAILED_TOO_OFTEN = (
    "This e-mail address has been sent very many bookings within an hour. Log in with it, use "
    "another one, or try again in an hour."
)

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


def count_mail(request: HttpRequest, email: str) -> None:
    """Counts a mail to that address. Raises TooMany if it gets no more on the word of others.

    Those of staff are not counted, nor those to the user's own, confirmed address.
    """
    user, email = request.user, email.lower()
    if user.is_staff:
        return
    if user.is_authenticated and user.emailaddress_set.filter(email=email, verified=True).exists():
        return
    consume(request, "mail_booking", MAILED_TOO_OFTEN, key=email)


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
