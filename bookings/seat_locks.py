"""Finding and locking the seats that a booking wants: rules 4 and 5 of the lock protocol.

For `bookings.lifecycle`, inside its transactions. Nothing here writes.
"""

import random
from collections.abc import Sequence
from typing import Any

from django.db.models import Q

from bookings.errors import InvalidRequest, SeatsTaken, TooFew
from bookings.models import Booking
from slots.models import SEAT_IS_AVAILABLE, Seat, Slot


def lock_seats(slot: Slot, seat_ids: list[int] | None, quantity: int, *, wait: bool) -> list[Seat]:
    """Locks the seats for a hold. Raises SeatsTaken, InvalidRequest, or TooFew of any n."""
    if seat_ids is None:
        return lock_any(slot, quantity, wait=wait)
    return _require_named(slot, seat_ids, list(_named(seat_ids).lock()))


def _named(seat_ids: Sequence[int]) -> Any:
    """Those of the named seats that are free or lapsed in the statement that asks.

    Of any slot: with statistics from before this slot had seats, PostgreSQL takes it for a small
    one, and if it were asked for would look through all of its seats for those few.
    """
    return Seat.objects.filter(pk__in=seat_ids).available()


def _require_named(slot: Slot, seat_ids: Sequence[int], locked: list[Seat]) -> list[Seat]:
    """The locked seats, if they are all that were named. Raises SeatsTaken, InvalidRequest."""
    locked = [seat for seat in locked if seat.slot_id == slot.pk]
    if len(locked) == len(seat_ids):
        return locked
    named = Seat.objects.filter(pk__in=seat_ids).values_list("pk", "label", "slot_id")
    labels = {pk: label for pk, label, slot_id in named if slot_id == slot.pk}
    if len(labels) < len(seat_ids):
        raise InvalidRequest("A seat that was named is not one of this slot.")
    mine = {seat.pk for seat in locked}
    raise SeatsTaken([label for pk, label in sorted(labels.items()) if pk not in mine])


def _any_seats(slot: Slot) -> list[Any]:
    """Where to look for any seats, in this order: one partial index each, never an OR.

    From a random id on, so that a crowd spreads and nobody wades through what others took.
    """
    start = random.randint(slot.first_seat_id, slot.last_seat_id)
    free = Seat.objects.filter(slot=slot).free().in_turn()
    lapsed = Seat.objects.filter(slot=slot).lapsed().order_by("held_until")
    return [free.filter(turn__gte=start), free.filter(turn__lt=start), lapsed]


def lock_any(slot: Slot, quantity: int, *, wait: bool) -> list[Seat]:
    """Locks any free or lapsed seats of the slot. Raises TooFew."""
    seats = []
    if wait:
        candidates = find_candidates(slot, quantity)
        seats = list(_named(candidates).lock())
    return _top_up(slot, seats, quantity)


def find_candidates(slot: Slot, quantity: int) -> list[int]:
    """Ids of seats that look free or lapsed, locked by somebody or not."""
    ids: list[int] = []
    for seats in _any_seats(slot):
        if len(ids) < quantity:
            ids += seats.values_list("pk", flat=True)[: quantity - len(ids)]
    return ids


def _top_up(slot: Slot, seats: list[Seat], quantity: int) -> list[Seat]:
    """Adds seats that nobody has locked, never waiting, until there are `quantity`; or TooFew."""
    for more in _any_seats(slot):
        if missing := quantity - len(seats):
            mine = [seat.pk for seat in seats]  # SKIP LOCKED does not skip one's own locks
            more = more.exclude(pk__in=mine) if mine else more
            seats += more.lock_unlocked()[:missing]
    if len(seats) < quantity:
        raise TooFew
    return sorted(seats, key=lambda seat: seat.pk)


def lock_swap(
    booking: Booking, slot: Slot, seat_ids: list[int] | None, quantity: int, *, wait: bool
) -> tuple[list[Seat], list[Seat]]:
    """Locks a booking's own seats and those it wants instead; returns both.

    Whatever is waited for is locked in one statement in id order: two bookings that want each
    other's seats cannot wait in a circle. Raises SeatsTaken, InvalidRequest, TooFew.
    """
    if seat_ids is not None:
        wanted = seat_ids
    else:
        wanted = find_candidates(slot, quantity) if wait else []
    named = Q(pk__in=wanted) & SEAT_IS_AVAILABLE
    locked = list(Seat.objects.filter(Q(booking=booking) | named).lock())
    old = [seat for seat in locked if seat.booking_id == booking.pk]
    if seat_ids is not None:
        new = [seat for seat in locked if seat.pk in seat_ids]
        return old, _require_named(slot, seat_ids, new)
    kept = [seat for seat in old if seat.slot_id == slot.pk][:quantity]
    more = [seat for seat in locked if seat.booking_id != booking.pk][: quantity - len(kept)]
    return old, _top_up(slot, kept + more, quantity)


def count_left(slot: Slot, enough: int, own: Booking | None) -> int:
    """Seats that look free or lapsed, locked or not, counted up to `enough` of each kind.

    In one statement: while one seat is sold another may lapse, and at no moment were both gone.
    """
    seats = Seat.objects.filter(slot=slot).values("pk")
    free = seats.free().in_turn()[:enough]
    lapsed = seats.lapsed().order_by("held_until")[:enough]
    mine = seats.filter(booking=own).order_by() if own else seats.none()
    return free.union(lapsed, mine, all=True).count()
