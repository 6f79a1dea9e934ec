"""What the database itself refuses of bookings, whoever asks, and what it must allow."""

import re
from itertools import product

import pytest
from django.db import IntegrityError, connection, transaction

from booking_site.tests.factories import SlotFactory, UserFactory
from bookings import lifecycle
from bookings.models import Booking, BookingEvent
from slots.models import Slot

pytestmark = pytest.mark.django_db

STATUS = "status = '{}', failure_reason = {}, confirmed_at = {}, cancelled_at = {}"
# All that belongs to each status.
STATUSES = {
    "PENDING": STATUS.format("PENDING", "''", "NULL", "NULL"),
    "CONFIRMED": STATUS.format("CONFIRMED", "''", "now()", "NULL"),
    "FAILED": STATUS.format("FAILED", "'expired'", "NULL", "NULL"),
    "CANCELLED": STATUS.format("CANCELLED", "''", "NULL", "now()"),
}


@pytest.fixture
def slot() -> Slot:
    return SlotFactory()


@pytest.fixture
def booking(slot: Slot) -> Booking:
    return lifecycle.hold(slot, quantity=1)


def run(sql: str, *values: object) -> int:
    """Returns how many rows it changed."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.rowcount


def change(booking: Booking, columns: str, *values: object) -> int:
    return run(f"UPDATE bookings_booking SET {columns} WHERE id = %s", *values, booking.pk)


def refusal_of_change(booking: Booking, columns: str, *values: object) -> str:
    """The name of the constraint that refuses it."""
    with pytest.raises(IntegrityError) as error, transaction.atomic():
        change(booking, columns, *values)
    return error.value.__cause__.diag.constraint_name


# What one booking, a live hold, cannot be. {earlier} is another one, of the same slot.
REFUSED = {
    "booking_reference_is_unique": ["reference = '{earlier.reference}'"],
    "booking_key_is_unique_for_user": ["user_id = {user.id}, idempotency_key = 'of the user'"],
    "booking_key_is_unique_among_guests": ["idempotency_key = 'of a guest'"],
    "booking_is_of_at_least_one_seat": ["quantity = 0", "quantity = -1"],
    "booking_status_is_known": ["status = 'LOST'", "status = ''", "status = 'pending'"],
    "booking_pending_has_an_end": ["expires_at = NULL"],
    "booking_failed_has_a_reason": [
        "status = 'FAILED'",
        "status = 'FAILED', failure_reason = 'because'",
        "failure_reason = 'expired'",
        "status = 'CONFIRMED', confirmed_at = now(), failure_reason = 'sold_out'",
    ],
    "booking_confirmed_has_its_time": ["status = 'CONFIRMED'"],
    "booking_cancelled_has_its_time": [
        "status = 'CANCELLED'",
        "cancelled_at = now()",
        "status = 'CONFIRMED', confirmed_at = now(), cancelled_at = now()",
        "status = 'FAILED', failure_reason = 'expired', cancelled_at = now()",
    ],
}


@pytest.mark.parametrize("constraint", REFUSED)
def test_refused(slot: Slot, booking: Booking, constraint: str) -> None:
    user = UserFactory()
    earlier = lifecycle.hold(slot, quantity=1, idempotency_key="of a guest")
    lifecycle.hold(
        slot, quantity=1, idempotency_key="of the user", holder=lifecycle.Holder(user=user)
    )
    for columns in REFUSED[constraint]:
        sql = columns.format(earlier=earlier, user=user)
        assert (columns, refusal_of_change(booking, sql)) == (columns, constraint)


def test_each_constraint_and_refusal_is_tested() -> None:
    in_models = {each.name for model in (Booking, BookingEvent) for each in model._meta.constraints}
    with connection.cursor() as cursor:
        cursor.execute("SELECT prosrc FROM pg_proc WHERE proname = 'bookings_booking_guard'")
        in_trigger = re.findall(r"CONSTRAINT = '(\w+)'", cursor.fetchone()[0])
    assert in_models == REFUSED.keys()
    assert in_trigger == ["booking_status_moves_forward", "seat_and_booking_are_of_one_slot"]


# ── The trigger ───────────────────────────────────────────────────────────────────────────────────

FORWARD = {
    ("PENDING", "CONFIRMED"),
    ("PENDING", "FAILED"),
    ("PENDING", "CANCELLED"),
    ("CONFIRMED", "CANCELLED"),
}


@pytest.mark.parametrize(("old", "new"), list(product(STATUSES, repeat=2)))
def test_status_moves_forward_only(booking: Booking, old: str, new: str) -> None:
    change(booking, STATUSES[old])
    if old == new or (old, new) in FORWARD:
        assert change(booking, STATUSES[new]) == 1
    else:
        assert refusal_of_change(booking, STATUSES[new]) == "booking_status_moves_forward"


def test_booking_that_owns_seats_stays_in_its_slot(booking: Booking) -> None:
    elsewhere = SlotFactory()
    refusal = refusal_of_change(booking, "slot_id = %s", elsewhere.pk)
    assert refusal == "seat_and_booking_are_of_one_slot"
    booking.seats.update(booking=None, held_until=None)
    assert change(booking, "slot_id = %s", elsewhere.pk) == 1


# ── What must be allowed ──────────────────────────────────────────────────────────────────────────


def test_keys_of_different_holders_are_different_keys(slot: Slot) -> None:
    holders = [lifecycle.Holder(user=UserFactory()), lifecycle.Holder(user=UserFactory()), None]
    bookings = {
        lifecycle.hold(
            slot, quantity=1, idempotency_key="the same", holder=holder or lifecycle.GUEST
        ).pk
        for holder in holders
    }
    assert len(bookings) == 3
    assert Booking.objects.filter(idempotency_key="the same").count() == 3


def test_no_key_is_no_key(slot: Slot) -> None:
    user = lifecycle.Holder(user=UserFactory())
    for holder in (user, user, lifecycle.GUEST, lifecycle.GUEST):
        lifecycle.hold(slot, quantity=1, holder=holder)
    assert Booking.objects.filter(idempotency_key=None).count() == 4


def test_refused_attempt_needs_no_end(booking: Booking) -> None:
    columns = "status = 'FAILED', failure_reason = 'sold_out', expires_at = NULL"
    assert change(booking, columns) == 1


def test_cancelled_hold_was_never_confirmed(booking: Booking) -> None:
    assert change(booking, STATUSES["CANCELLED"]) == 1
    booking.refresh_from_db()
    assert booking.confirmed_at is None


def test_details_of_an_ended_booking_can_be_corrected(booking: Booking) -> None:
    change(booking, STATUSES["CANCELLED"])
    assert change(booking, "name = 'Ada', email = 'ada@example.org'") == 1


@pytest.mark.parametrize("what", ["seats", "events"])
def test_booking_with_seats_or_history_is_not_deleted(booking: Booking, what: str) -> None:
    run("SET CONSTRAINTS ALL IMMEDIATE")
    if what == "events":
        lifecycle.cancel(booking)
    with pytest.raises(IntegrityError) as error, transaction.atomic():
        run("DELETE FROM bookings_booking WHERE id = %s", booking.pk)
    table = {"seats": "slots_seat", "events": "bookings_bookingevent"}[what]
    assert error.value.__cause__.diag.table_name == table


def test_user_can_be_deleted_and_the_booking_stays(slot: Slot) -> None:
    user = UserFactory()
    booking = lifecycle.hold(slot, quantity=1, holder=lifecycle.Holder(user=user))
    user.delete()
    booking.refresh_from_db()
    assert booking.user is None
