"""What became of a request whose answer was lost: pages ask here, in JSON for their script.

`done`: see the page at `url`. `none`: nothing was done, and what it `says` is for people.
`under_way`: it is being done this instant, so ask again. A request that has not yet reached the
database cannot be seen by anybody: who is told `none` asks a few times more, and to send the
request again with its key, or to that booking, is safe whenever it arrives.
"""

import re
import uuid

from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from bookings import browser, lifecycle
from bookings.access import find_made_with, load_booking
from bookings.models import Booking

PENDING, CONFIRMED = Booking.Status.PENDING, Booking.Status.CONFIRMED

NOT_HELD = (
    "Nothing is held for you. Your choice is kept as far as it is free: press the button again to "
    "try once more."
)
# What asks, the states in which it has not been done, and what is said then.
CHANGES = {
    "confirm": (
        {PENDING},
        "Your booking is not confirmed yet, and what you wrote is kept. Press “Confirm the "
        "booking” to try once more.",
    ),
    "extend": ({PENDING}, "It is still held for you, for as long as the clock says."),
    "cancel": (
        {PENDING, CONFIRMED},
        "Nothing was cancelled. Press the button again to try once more.",
    ),
    "move": (
        {CONFIRMED},
        "Your booking was not moved, and you still have what you had. Press the button again to "
        "try once more.",
    ),
}


@require_safe
@never_cache
def of_hold(request: HttpRequest) -> JsonResponse:
    """Of a hold, by its key: that of this user, or of any guest, whose proof it is.

    The page says what it asked for as well (`slot`, `seat` or `quantity`), since its form may have
    been used before: that booking is not meant. Two queries, and one for each such booking. Of a
    hold that is over nothing is held.
    """
    is_under_way = lifecycle.is_holding(browser.holder_of(request))
    booking = _find_held(request, request.GET.get("key", ""), _digest_of(request))
    if booking:
        return _done(booking)
    if is_under_way:
        return JsonResponse({"outcome": "under_way"})
    return JsonResponse({"outcome": "none", "says": NOT_HELD})


def _digest_of(request: HttpRequest) -> str | None:
    """Of the hold that the page asks about; None if it does not say."""
    seats, quantity = request.GET.getlist("seat"), request.GET.get("quantity", "").strip()
    numbers = [request.GET.get("slot", ""), *(seats or [quantity])]
    if not all(re.fullmatch(r"[0-9]{1,19}", number) for number in numbers):
        return None
    slot, *wanted = map(int, numbers)
    if seats:
        return lifecycle.digest_of_hold(slot, seat_ids=wanted)
    return lifecycle.digest_of_hold(slot, quantity=wanted[0])


def _find_held(request: HttpRequest, key: str, digest: str | None) -> Booking | None:
    """What the page of that key holds or has booked with such a request, as `views.hold` does."""
    if "\0" in key:
        return None
    for _ in range(lifecycle.MOST_KEYS):
        booking = find_made_with(request, key)
        if booking is None:
            return None
        is_same = digest is None or booking.request_digest == digest
        if is_same and booking.state in (PENDING, CONFIRMED):
            return booking
        digest = digest or booking.request_digest
        key = lifecycle.next_key(key, digest, booking if is_same else None)
    return None


@require_safe
@never_cache
def of_change(request: HttpRequest, booking_id: uuid.UUID) -> JsonResponse:
    """Of what was to happen `to` a booking, for who may see it; of a move also to which `slot`."""
    is_under_way = lifecycle.is_changing(booking_id)
    booking = load_booking(request, booking_id)
    states, says = CHANGES.get(request.GET.get("to", ""), (set(), ""))
    has_moved = str(booking.slot_id) == request.GET.get("slot")
    if booking.state not in states or has_moved:
        return _done(booking)
    if is_under_way:
        return JsonResponse({"outcome": "under_way"})
    return JsonResponse({"outcome": "none", "says": says})


def _done(booking: Booking) -> JsonResponse:
    return JsonResponse({"outcome": "done", "url": booking.get_absolute_url()})
