"""Finding and locking the seats that a booking wants: rules 4 and 5 of the lock protocol.

For `bookings.lifecycle`, inside its transactions. Nothing here writes. Each round trip that locks
seats reads the slot in its last statement: as it is when they are locked.
"""

import random
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.db.models import BigIntegerField, BooleanField, F, Func, Q, Subquery, Value

from booking_site.prepared import Statement, prepared, select, send
from bookings.errors import InvalidRequest, SeatsTaken, SlotGone, TooFew
from bookings.models import Booking
from slots.models import SEAT_IS_AVAILABLE, Seat, Slot

# Of a locked seat: what there is to know.
Seats = Sequence[Any]
LOCKED = ("pk", "label", "slot_id", "booking_id")


@prepared
def read_slot(*, pk: int) -> Any:
    """The slot and the database's clock (`now`) at this moment."""
    return select(Slot.objects.with_now().filter(pk=pk))


@prepared
def _read_whole_slot(*, pk: int) -> Any:
    """As `read_slot`, with doctor and show."""
    return select(Slot.objects.for_page().filter(pk=pk))


@prepared
def _lock_named(*, pks: tuple[int, ...]) -> Any:
    """Those of the named seats that are free or lapsed in the statement that asks.

    Of any slot: with statistics from before this slot had seats, PostgreSQL takes it for a small
    one, and if it were asked for would look through all of its seats for those few.
    """
    seats = Seat.objects.filter(pk__in=pks).available().lock()
    return select(seats.values_list(*LOCKED, named=True))


# Where to look for any seats, in this order: one partial index each, never an OR. From a random id
# on, so that a crowd spreads and nobody wades through what others took.


PARTS = 2**20


def _place(slot: int, at: int) -> Subquery:
    """So many PARTS of the way from the first of the slot's seats to the last."""
    first, last = F("first_seat_id"), F("last_seat_id")
    slots = Slot.objects.filter(pk=slot).order_by()
    return Subquery(slots.values_list(first + (last - first) * Value(at) / Value(PARTS)))


def _free_from(slot: int, at: int) -> Any:
    return Seat.objects.filter(slot=slot).free().in_turn().filter(turn__gte=_place(slot, at))


def _free_before(slot: int, at: int) -> Any:
    return Seat.objects.filter(slot=slot).free().in_turn().filter(turn__lt=_place(slot, at))


def _lapsed(slot: int) -> Any:
    return Seat.objects.filter(slot=slot).lapsed().order_by("held_until")


def _is_none_of(pks: list[int]) -> Func:
    """One value, however many they are; of an IN each number would be another statement."""
    array = Value(pks, ArrayField(BigIntegerField()))
    is_none = BooleanField()
    return Func(
        F("pk"), array, template="%(expressions)s)", arg_joiner=" <> ALL (", output_field=is_none
    )


def _unlocked(seats: Any, most: int, mine: list[int] | None) -> Any:
    """So many of those seats that nobody has locked."""
    if mine:  # SKIP LOCKED does not skip one's own locks
        seats = seats.filter(_is_none_of(mine))
    return select(seats.lock_unlocked().values_list(*LOCKED, named=True)[:most])


@prepared
def _lock_free_from(most: int, *, slot: int, at: int, mine: list[int] | None) -> Any:
    return _unlocked(_free_from(slot, at), most, mine)


@prepared
def _lock_free_before(most: int, *, slot: int, at: int, mine: list[int] | None) -> Any:
    return _unlocked(_free_before(slot, at), most, mine)


@prepared
def _lock_lapsed(most: int, *, slot: int, mine: list[int] | None) -> Any:
    return _unlocked(_lapsed(slot), most, mine)


@prepared
def _see_left(enough: int, *, slot: int, own: uuid.UUID | None) -> Any:
    """Seats that look free or lapsed, locked or not, up to `enough` of each kind; and one's own.

    In one statement: while one seat is sold another may lapse, and at no moment were both gone.
    """
    seats = Seat.objects.filter(slot=slot).values_list("pk", flat=True)
    free = seats.free().in_turn()[:enough]
    lapsed = seats.lapsed().order_by("held_until")[:enough]
    mine = [seats.filter(booking=own).order_by()] if own else []
    return select(free.union(lapsed, *mine, all=True))


def lock_seats(
    slot: Slot,
    seat_ids: Sequence[int] | None,
    quantity: int,
    *,
    wait: bool,
    first: Sequence[Statement] = (),
) -> tuple[list[Any], Slot]:
    """Locks the seats for a hold; returns them, in id order, and the slot as read after that.

    `first` are statements that go before the first one, in its round trip.
    Raises SlotGone, SeatsTaken, InvalidRequest, or TooFew of any n.
    """
    if seat_ids is None:
        return lock_any(slot, quantity, wait=wait, first=first)
    locks = _lock_named(pks=tuple(seat_ids)), read_slot(pk=slot.pk)
    *_, locked, found = send(*first, *locks)
    fresh = require_slot(found)
    return _require_named(slot, seat_ids, locked), fresh


def require_slot(found: list[Slot]) -> Slot:
    """What `read_slot` has found. Raises SlotGone if that is nothing."""
    if not found:
        raise SlotGone
    return found[0]


def _require_named(slot: Slot, seat_ids: Sequence[int], locked: list[Any]) -> list[Any]:
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


def lock_any(
    slot: Slot, quantity: int, *, wait: bool, first: Sequence[Statement] = ()
) -> tuple[list[Any], Slot]:
    """Locks any free or lapsed seats of the slot, as `lock_seats`. Raises TooFew."""
    seats: list[Any] = []
    if wait:
        send(*first)
        first = ()
        if candidates := find_candidates(slot, quantity):
            [seats] = send(_lock_named(pks=tuple(candidates)))
    return _top_up(slot, seats, quantity, read_slot(pk=slot.pk), first)


def find_candidates(slot: Slot, quantity: int) -> list[int]:
    """Ids of seats that look free or lapsed, locked by somebody or not."""
    at = _anywhere()
    ids: list[int] = []
    for seats in (_free_from(slot.pk, at), _free_before(slot.pk, at), _lapsed(slot.pk)):
        if len(ids) < quantity:
            ids += seats.values_list("pk", flat=True)[: quantity - len(ids)]
    return ids


def _anywhere() -> int:
    return random.randint(0, PARTS)


def _top_up(
    slot: Slot,
    seats: list[Any],
    quantity: int,
    read: Statement,
    first: Sequence[Statement] = (),
) -> tuple[list[Any], Slot]:
    """Adds seats that nobody has locked, never waiting, until there are `quantity`; or TooFew.

    Returns them all in id order, and what `read` says of the slot after that.
    """
    at = _anywhere()
    searches: list[Callable[..., Statement]] = [
        lambda most, mine: _lock_free_from(most, slot=slot.pk, at=at, mine=mine),
        lambda most, mine: _lock_free_before(most, slot=slot.pk, at=at, mine=mine),
        lambda most, mine: _lock_lapsed(most, slot=slot.pk, mine=mine),
    ]
    found: list[Slot] | None = None
    for search in searches:
        if missing := quantity - len(seats):
            mine = [seat.pk for seat in seats] or None
            *_, more, found = send(*first, search(missing, mine), read)
            seats, first = seats + more, ()
    if found is None:
        [found] = send(*first, read)
    fresh = require_slot(found)
    if len(seats) < quantity:
        raise TooFew
    return sorted(seats, key=lambda seat: seat.pk), fresh


@prepared
def _lock_own_and_named(*, booking: uuid.UUID, pks: tuple[int, ...] | None) -> Any:
    """The booking's own seats, and those of the named that are free or lapsed."""
    own = Q(booking=booking)
    seats = Seat.objects.filter(own | Q(pk__in=pks) & SEAT_IS_AVAILABLE if pks else own)
    return select(seats.lock().values_list(*LOCKED, named=True))


@prepared
def lock_own(*, booking: uuid.UUID) -> Any:
    """Locks the seats of a booking that is locked, in id order. None of a hold that has lapsed:
    others may be taking them over, and nobody need wait for that to be told so.
    """
    seats = Seat.objects.filter(booking=booking).owned()
    return select(seats.lock().values_list(*LOCKED, named=True))


def lock_swap(
    booking: Booking, slot: Slot, seat_ids: list[int] | None, quantity: int, *, wait: bool
) -> tuple[list[Any], list[Any], Slot]:
    """Locks a booking's own seats and those it wants instead; returns both, and the new slot.

    Whatever is waited for is locked in one statement in id order: two bookings that want each
    other's seats cannot wait in a circle. Raises SlotGone, SeatsTaken, InvalidRequest, TooFew.
    """
    if seat_ids is not None:
        wanted = seat_ids
    else:
        wanted = find_candidates(slot, quantity) if wait else []
    swap = _lock_own_and_named(booking=booking.pk, pks=tuple(wanted) or None)
    read = _read_whole_slot(pk=slot.pk)
    if seat_ids is not None:
        locked, found = send(swap, read)
    else:
        [locked] = send(swap)
    old = [seat for seat in locked if seat.booking_id == booking.pk]
    if seat_ids is not None:
        fresh = require_slot(found)
        new = [seat for seat in locked if seat.pk in seat_ids]
        return old, _require_named(slot, seat_ids, new), fresh
    kept = [seat for seat in old if seat.slot_id == slot.pk][:quantity]
    more = [seat for seat in locked if seat.booking_id != booking.pk][: quantity - len(kept)]
    return old, *_top_up(slot, kept + more, quantity, read)


def count_left(slot: Slot, enough: int, own: Booking | None) -> int:
    """How many seats look free or lapsed, locked or not, or are one's own; enough is enough.

    Raises SlotGone.
    """
    seats, found = send(_see_left(enough, slot=slot.pk, own=own and own.pk), read_slot(pk=slot.pk))
    require_slot(found)
    return len(seats)
