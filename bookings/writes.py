"""What `bookings.lifecycle` writes, as statements: rule 7 of the lock protocol.

For `bookings.lifecycle` alone, on what it has locked. Each change must hit just the rows that it is
about, and PostgreSQL counts them. Only `write` sends anything.
"""

import uuid
from datetime import datetime
from typing import Any

from django.db import DataError

from booking_site.prepared import Statement, WrongCount, exactly, insert, prepared, send, update
from bookings.errors import BrokenInvariant
from bookings.models import Booking, BookingEvent
from bookings.seat_locks import Seats
from slots.models import Seat


def write(*changes: Statement) -> None:
    """Makes them in this order and commits, in one round trip. What comes after it in the attempt
    can no longer undo it, and must not fail.

    Raises BrokenInvariant, and nothing is done, if one does not change the rows that it must.
    """
    try:
        send(*changes, commits=True)
    except DataError as error:
        if not (isinstance(error.__cause__, WrongCount) and "changed " in str(error)):
            raise
        raise BrokenInvariant(str(error)) from error


def change_status(
    booking: Booking,
    action: BookingEvent.Action,
    status: Booking.Status,
    *,
    actor: object,
    reason: str = "",
    **values: Any,
) -> list[Statement]:
    """Moves a locked booking to `status` and writes its history, both or neither."""
    event = record(booking, action, status, actor, reason)
    return [update_one(booking, status=status, **values), event]


# What a booking is before anything is known of it; what is not the same for all is filled in.
BLANK = {field.attname: field.get_default() for field in Booking._meta.concrete_fields}


@prepared
def insert_booking(**values: Any) -> Any:
    """A new booking, of the values of all its columns."""
    return insert(Booking(**values))


def record(
    booking: Booking,
    action: BookingEvent.Action,
    to_status: str,
    actor: object,
    reason: str,
) -> Statement:
    """One line of the booking's history: from its present status to that one."""
    return _insert_event(
        booking_id=booking.pk,
        action=action,
        from_status=booking.status,
        to_status=to_status,
        actor=str(actor),
        reason=reason,
    )


@prepared
def _insert_event(**values: Any) -> Any:
    return insert(BookingEvent(**values))


def update_one(booking: Booking, **values: Any) -> Statement:
    """Updates the booking if its status is still the one that was read; it must be. The object has
    the new values from now on.
    """
    change = _update_booking(pk=booking.pk, was=booking.status, **values)
    for name, value in values.items():
        setattr(booking, "slot_id" if name == "slot" else name, value)
    return change


@prepared
def _update_booking(*, pk: uuid.UUID, was: str, **values: Any) -> Any:
    return exactly(1, update(Booking.objects.filter(pk=pk, status=was), **values))


def give_seats(seats: Seats, booking: Booking, *, held_until: datetime | None) -> list[Statement]:
    """Makes the booking the owner of locked seats: until then, or (None) for good."""
    if not seats:
        return []
    pks = tuple(seat.pk for seat in seats)
    return [_update_seats(pks=pks, booking=booking.pk, held_until=held_until)]


@prepared
def _update_seats(*, pks: tuple[int, ...], booking: uuid.UUID, held_until: datetime | None) -> Any:
    seats = Seat.objects.filter(pk__in=pks)
    return exactly(len(pks), update(seats, booking=booking, held_until=held_until))


def release_seats(seats: Seats, booking: Booking) -> list[Statement]:
    """Makes locked seats of the booking free."""
    if not seats:
        return []
    return [_free_seats(pks=tuple(seat.pk for seat in seats), booking=booking.pk)]


@prepared
def _free_seats(*, pks: tuple[int, ...], booking: uuid.UUID) -> Any:
    owned = Seat.objects.filter(pk__in=pks, booking=booking)
    return exactly(len(pks), update(owned, booking=None, held_until=None))
