"""Whose a booking is: the one place that decides who may see and change it."""

import uuid

from allauth.core import ratelimit
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest
from django.urls import register_converter
from django.urls.converters import UUIDConverter

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


def load_booking(request: HttpRequest, booking_id: uuid.UUID, *, to: str | None = None) -> Booking:
    """The booking, if this visitor may see it: a user's is for that user, a guest's for whoever
    has its address, and staff who may view bookings see all. To everybody else there is no such
    booking. One query, and for staff those of their permissions.

    What is not their own staff change only if they may do so: `to` confirm or cancel (and who may
    take its seats away may give it others). That goes for a guest's as well, since the office's
    lists are full of addresses. Raises Http404, PermissionDenied.
    """
    booking = Booking.objects.for_page().with_seats().filter(pk=booking_id).first()
    if booking is None:
        raise Http404("There is no such booking.")
    if _is_own(request, booking):
        return booking
    if booking.user_id and not is_staff_who_may(request, "view"):
        raise Http404("There is no such booking.")
    if to and request.user.is_staff and not is_staff_who_may(request, to):
        raise PermissionDenied
    return booking


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


def is_mailed_too_often(request: HttpRequest, email: str) -> bool:
    """Whether that address gets no more mails on the word of others. Counts this one."""
    if not is_mail_limited(request, email):
        return False
    return not ratelimit.consume(request, action="mail_booking", key=email.lower())


def is_mail_limited(request: HttpRequest, email: str) -> bool:
    """Whether mails to that address are counted: they may not be its owner who book.

    They are not for staff, and for the user's own, confirmed address.
    """
    user = request.user
    if user.is_staff:
        return False
    if not user.is_authenticated:
        return True
    return not user.emailaddress_set.filter(email=email.lower(), verified=True).exists()


def is_held_too_often(request: HttpRequest) -> bool:
    """Whether too many holds come from this network address. Counts this one; off by default."""
    return not ratelimit.consume(request, action="hold")
