"""What the database itself refuses of slots and seats, whoever asks, and what it must allow."""

import re
from typing import Any, NamedTuple

import pytest
from django.db import IntegrityError, connection, transaction

from booking_site.tests.factories import AppointmentFactory, DoctorFactory, SlotFactory
from bookings import lifecycle
from bookings.models import Booking
from slots.models import Seat, Slot

pytestmark = pytest.mark.django_db


class Scene(NamedTuple):
    """A slot with a free, a held, a lapsed and a booked seat; another slot; two appointments."""

    slot: Slot
    free: Seat
    held: Seat
    lapsed: Seat
    booked: Seat
    other: Booking  # of the same slot
    elsewhere: Booking  # of another slot
    early: Slot
    late: Slot


@pytest.fixture
def scene() -> Scene:
    slot = SlotFactory(places=6)  # called 1 to 6
    holds = [lifecycle.hold(slot, quantity=1) for _ in range(4)]
    held, lapsed, booked, _ = [booking.seats.get() for booking in holds]
    lifecycle.confirm(holds[2])
    doctor = DoctorFactory()
    early = AppointmentFactory(doctor=doctor)
    scene = Scene(
        slot=slot,
        free=slot.seats.free().first(),
        held=held,
        lapsed=lapsed,
        booked=booked,
        other=holds[3],
        elsewhere=lifecycle.hold(SlotFactory(places=7), quantity=1),
        early=early,
        late=AppointmentFactory(doctor=doctor, starts_at=early.ends_at),
    )
    run("SET CONSTRAINTS ALL IMMEDIATE")
    run(f"UPDATE slots_seat SET held_until = now() WHERE id = {lapsed.pk}")
    return scene


def run(sql: str) -> int:
    """Returns how many rows it changed."""
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.rowcount


def refusal_of(sql: str) -> str:
    """The name of the constraint that refuses it."""
    with pytest.raises(IntegrityError) as error, transaction.atomic():
        run(sql)
    return error.value.__cause__.diag.constraint_name


SLOT = "UPDATE slots_slot SET {} WHERE id = {{early.id}}"
NEW_SLOT = (
    "INSERT INTO slots_slot (doctor_id, starts_at, ends_at, seating, first_seat_id, last_seat_id)"
    " SELECT doctor_id, {}, {}, 'GENERAL', 0, 0 FROM slots_slot WHERE id = {{early.id}}"
)
NEW_PERFORMANCE = (
    "INSERT INTO slots_slot (show_id, starts_at, ends_at, seating, first_seat_id, last_seat_id)"
    " SELECT show_id, {}, ends_at, 'GENERAL', 0, 0 FROM slots_slot WHERE id = {{slot.id}}"
)
NEW_SEAT = (
    "INSERT INTO slots_seat (slot_id, label, section, row, accessible, blocked, block_reason,"
    " booking_id, held_until) VALUES ({{slot.id}}, {}, '', '', false, false, '', {}, {})"
)
SEAT = "UPDATE slots_seat SET {} WHERE id = {}"

REFUSED = {
    "slot_is_of_a_doctor_or_of_a_show": [
        SLOT.format("doctor_id = NULL"),
        SLOT.format("show_id = {slot.show_id}"),
    ],
    "slot_starts_before_it_ends": [
        SLOT.format("ends_at = starts_at"),
        SLOT.format("starts_at = '2001-01-01 09:00Z', ends_at = '2001-01-01 08:59Z'"),
    ],
    "slot_opens_before_it_closes": [
        SLOT.format("opens_at = starts_at"),
        SLOT.format(
            "opens_at = starts_at - interval '1 h', closes_at = starts_at - interval '1 h'"
        ),
        SLOT.format("closes_at = ends_at + interval '1 s'"),
    ],
    "slot_of_a_doctor_overlaps_no_other": [
        NEW_SLOT.format("starts_at", "ends_at"),
        NEW_SLOT.format("starts_at - interval '1 h'", "starts_at + interval '1 ms'"),
        NEW_SLOT.format("starts_at + interval '1 ms'", "starts_at + interval '2 ms'"),
        NEW_SLOT.format("starts_at - interval '9 h'", "ends_at + interval '9 h'"),
        SLOT.format("ends_at = ends_at + interval '1 ms'"),
        "UPDATE slots_slot SET doctor_id = {early.doctor_id}, show_id = NULL,"
        " starts_at = (SELECT starts_at FROM slots_slot WHERE id = {early.id})"
        " WHERE id = {slot.id}",
    ],
    "slot_of_a_show_starts_when_no_other_does": [
        NEW_PERFORMANCE.format("starts_at"),
        "UPDATE slots_slot SET show_id = {slot.show_id}, starts_at ="
        " (SELECT starts_at FROM slots_slot WHERE id = {slot.id})"
        " WHERE id = {elsewhere.slot_id}",
    ],
    "seat_label_is_unique_in_slot": [
        NEW_SEAT.format("'{free.label}'", "NULL", "NULL"),
        SEAT.format("label = '{booked.label}'", "{free.id}"),
    ],
    "seat_held_has_a_booking": [
        SEAT.format("held_until = now() + interval '1 h'", "{free.id}"),
        SEAT.format("booking_id = NULL", "{held.id}"),
    ],
    "seat_blocked_is_free": [
        SEAT.format("blocked = true", "{booked.id}"),
        SEAT.format("blocked = true", "{held.id}"),
        SEAT.format("blocked = true", "{lapsed.id}"),
        SEAT.format("blocked = true, booking_id = '{other.id}'", "{free.id}"),
    ],
    # From here on: the trigger.
    "seat_owned_is_not_deleted": [
        "DELETE FROM slots_seat WHERE id = {booked.id}",
        "DELETE FROM slots_seat WHERE id = {held.id}",
        "DELETE FROM slots_seat WHERE id = {lapsed.id}",
        "DELETE FROM slots_seat WHERE slot_id = {slot.id}",
    ],
    "seat_owner_is_kept": [
        SEAT.format("booking_id = '{other.id}'", "{booked.id}"),
        SEAT.format("booking_id = '{other.id}'", "{held.id}"),
        SEAT.format("booking_id = '{other.id}', held_until = NULL", "{booked.id}"),
        SEAT.format("booking_id = '{other.id}', held_until = now() - interval '1 h'", "{held.id}"),
    ],
    "seat_booked_stays_booked": [
        SEAT.format("held_until = now() + interval '1 h'", "{booked.id}"),
        SEAT.format("held_until = '2001-01-01Z'", "{booked.id}"),
    ],
    "seat_and_booking_are_of_one_slot": [
        SEAT.format("booking_id = '{elsewhere.id}'", "{free.id}"),
        SEAT.format("booking_id = '{elsewhere.id}'", "{lapsed.id}"),
        SEAT.format("booking_id = '00000000-0000-0000-0000-000000000000'", "{free.id}"),
        SEAT.format("slot_id = {elsewhere.slot_id}, label = 'new'", "{booked.id}"),
        NEW_SEAT.format("'new'", "'{elsewhere.id}'", "NULL"),
    ],
}


@pytest.mark.parametrize("constraint", REFUSED)
def test_refused(scene: Scene, constraint: str) -> None:
    for sql in REFUSED[constraint]:
        assert (sql, refusal_of(sql.format(**scene._asdict()))) == (sql, constraint)


def test_each_constraint_and_refusal_is_tested() -> None:
    in_models = {each.name for model in (Slot, Seat) for each in model._meta.constraints}
    with connection.cursor() as cursor:
        cursor.execute("SELECT prosrc FROM pg_proc WHERE proname = 'slots_seat_guard'")
        in_trigger = re.findall(r"CONSTRAINT = '(\w+)'", cursor.fetchone()[0])
    assert len(in_trigger) == 4
    assert in_models | set(in_trigger) == REFUSED.keys()


ALLOWED = {
    "a doctor's next appointment": NEW_SLOT.format(
        "(SELECT ends_at FROM slots_slot WHERE id = {late.id})",
        "(SELECT ends_at + interval '1 h' FROM slots_slot WHERE id = {late.id})",
    ),
    "two performances that overlap": NEW_PERFORMANCE.format("starts_at + interval '1 ms'"),
    "booking that closes at the end": SLOT.format("closes_at = ends_at"),
    "booking that closes before the start": SLOT.format(
        "opens_at = starts_at - interval '2 h', closes_at = starts_at - interval '1 h'"
    ),
    "calling off a slot": SLOT.format("cancelled_at = now()"),
    "a label of another slot": NEW_SEAT.format("'7'", "NULL", "NULL"),
    "holding a free seat": SEAT.format(
        "booking_id = '{other.id}', held_until = now() + interval '1 h'", "{free.id}"
    ),
    "booking a free seat": SEAT.format("booking_id = '{other.id}'", "{free.id}"),
    "confirming": SEAT.format("held_until = NULL", "{held.id}"),
    "extending": SEAT.format("held_until = held_until + interval '1 h'", "{held.id}"),
    "releasing a held seat": SEAT.format("booking_id = NULL, held_until = NULL", "{held.id}"),
    "releasing a booked seat": SEAT.format("booking_id = NULL", "{booked.id}"),
    "taking over a lapsed seat": SEAT.format(
        "booking_id = '{other.id}', held_until = now() + interval '1 h'", "{lapsed.id}"
    ),
    "tidying up a lapsed seat": SEAT.format("booking_id = NULL, held_until = NULL", "{lapsed.id}"),
    "blocking a free seat": SEAT.format("blocked = true", "{free.id}"),
    "relabelling a booked seat": SEAT.format("label = 'new'", "{booked.id}"),
    "deleting a free seat": "DELETE FROM slots_seat WHERE id = {free.id}",
    "a new seat": NEW_SEAT.format("'new'", "NULL", "NULL"),
}


@pytest.mark.parametrize("what", ALLOWED)
def test_allowed(scene: Scene, what: str) -> None:
    assert run(ALLOWED[what].format(**scene._asdict())) == 1


def test_slot_may_overlap_one_that_was_called_off(scene: Scene) -> None:
    run(SLOT.format("cancelled_at = now()").format(early=scene.early))
    assert run(NEW_SLOT.format("starts_at", "ends_at").format(early=scene.early)) == 1
    # But two live ones there cannot be: it cannot be called on again.
    revival = SLOT.format("cancelled_at = NULL").format(early=scene.early)
    assert refusal_of(revival) == "slot_of_a_doctor_overlaps_no_other"


def test_show_may_start_when_one_that_was_called_off_does(scene: Scene) -> None:
    run(f"UPDATE slots_slot SET cancelled_at = now() WHERE id = {scene.slot.id}")
    assert run(NEW_PERFORMANCE.format("starts_at").format(slot=scene.slot)) == 1


def test_other_doctors_may_be_busy_at_the_same_time(scene: Scene) -> None:
    other = AppointmentFactory(starts_at=scene.early.starts_at)
    assert other.doctor != scene.early.doctor


def test_hold_that_lapsed_since_the_transaction_began_can_be_taken_over(scene: Scene) -> None:
    # The transaction's now() is before this end of the hold, the clock is after it.
    run(f"UPDATE slots_seat SET held_until = clock_timestamp() WHERE id = {scene.held.pk}")
    assert Seat.objects.extra(where=["held_until > now()"]).filter(pk=scene.held.pk).exists()
    assert run(SEAT.format(f"booking_id = '{scene.other.pk}'", scene.held.pk)) == 1


def test_hold_is_kept_to_its_last_moment(scene: Scene) -> None:
    run(f"UPDATE slots_seat SET held_until = now() + interval '9 s' WHERE id = {scene.held.pk}")
    takeover = SEAT.format(f"booking_id = '{scene.other.pk}'", scene.held.pk)
    assert refusal_of(takeover) == "seat_owner_is_kept"


@pytest.mark.parametrize("column", ["number", "column"])
def test_numbers_are_not_negative(scene: Scene, column: str) -> None:
    sql = SEAT.format(f'"{column}" = -1', scene.free.pk)
    assert refusal_of(sql) == f"slots_seat_{column}_check"


@pytest.mark.parametrize(
    ("table", "where"),
    [
        ("slots_show", "id = {slot.show_id}"),
        ("slots_doctor", "id = {early.doctor_id}"),
        ("slots_slot", "id = {slot.id}"),
        ("bookings_booking", "id = '{other.id}'"),
    ],
)
def test_what_others_refer_to_is_not_deleted(scene: Scene, table: str, where: str) -> None:
    names: dict[str, Any] = scene._asdict()
    refusal = refusal_of(f"DELETE FROM {table} WHERE {where.format(**names)}")
    assert re.fullmatch(r"(slots|bookings)_\w+_fk_\w+", refusal)
