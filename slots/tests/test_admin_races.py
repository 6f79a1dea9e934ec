"""Staff at work beside patients, and beside other staff: nobody is betrayed, nothing is a 500."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from booking_site.tests.factories import AppointmentFactory, DoctorFactory, ShowFactory, SlotFactory
from booking_site.tests.races import assert_sound, race, start
from bookings import lifecycle
from bookings.errors import BookingError
from bookings.models import Booking
from slots import inventory
from slots.inventory import InventoryError, Overlap, SeatsInUse
from slots.models import Seat, Slot
from slots.tests.office import ALL_OF_SLOTS, errors, logged_in, slot_form, staff, told, url
from slots.tests.test_admin import times_of

pytestmark = pytest.mark.django_db(transaction=True)

GIVE = 'UPDATE "slots_seat"'
HOUR = timedelta(hours=1)
START, LATER = datetime(2030, 6, 1, 8, tzinfo=UTC), datetime(2031, 6, 1, 8, tzinfo=UTC)


@pytest.fixture
def client() -> Client:
    return logged_in(staff(*ALL_OF_SLOTS))


def seat_ids(slot: Slot) -> list[int]:
    return list(slot.seats.values_list("pk", flat=True))


# ── Two of the staff ──────────────────────────────────────────────────────────────────────────────


def test_second_of_two_overlapping_slots_is_a_form_error(client: Client) -> None:
    """Both forms were right when they were looked at; the database lets one of them in."""
    doctor = DoctorFactory(name="Dr. Busy")
    other = logged_in(staff(*ALL_OF_SLOTS))
    first = start(
        lambda: client.post(url("add"), slot_form(doctor)), pause_after='INSERT INTO "slots_slot"'
    ).wait_until_paused()
    late = slot_form(doctor, "2030-06-01 14:15", "2030-06-01 15:00")
    second = start(lambda: other.post(url("add"), late)).wait_until_blocked()
    first.resume()
    assert first.outcome().status_code == 302
    slot = Slot.objects.get()
    assert errors(second.outcome()) == [
        f'Dr. Busy has another slot at this time: <a href="{url("change", slot)}">'
        "Sat 01 Jun 2030, 14:00–14:30</a>."
    ]
    assert Seat.objects.count() == 1


def test_form_of_a_performance_that_is_sent_twice_makes_one(client: Client) -> None:
    form = slot_form(ShowFactory(name="Tide"))
    first = start(
        lambda: client.post(url("add"), form), pause_after='INSERT INTO "slots_slot"'
    ).wait_until_paused()
    second = start(lambda: client.post(url("add"), form)).wait_until_blocked()
    first.resume()
    assert first.outcome().status_code == 302
    (said,) = errors(second.outcome())
    assert said.startswith("Tide has another slot at this time: ")
    assert Slot.objects.count() == 1


def test_slot_moved_onto_one_that_is_being_added_is_a_form_error(client: Client) -> None:
    slot = AppointmentFactory(starts_at=START)
    first = start(
        lambda: inventory.create_slot(slot.doctor, starts_at=LATER, ends_at=LATER + HOUR),
        pause_after='INSERT INTO "slots_slot"',
    ).wait_until_paused()
    form = times_of(slot, starts_at="2031-06-01 10:30", ends_at="2031-06-01 11:00")
    second = start(lambda: client.post(url("change", slot), form)).wait_until_blocked()
    first.resume()
    assert isinstance(first.outcome(), Slot)
    (said,) = errors(second.outcome())
    assert "has another slot at this time" in said
    slot.refresh_from_db()
    assert slot.starts_at == START


def test_crowd_that_adds_the_same_slot_makes_one() -> None:
    """Without the lock of the doctor they would wait for each other: the database's deadlock."""
    doctor = DoctorFactory()
    results = race(
        *[lambda: inventory.create_slot(doctor, starts_at=START, ends_at=START + HOUR)] * 12,
        sound=False,
    )
    assert sorted(type(result).__name__ for result in results) == ["Overlap"] * 11 + ["Slot"]
    assert Slot.objects.count() == 1
    assert all(isinstance(result, Slot | Overlap) for result in results)


def test_click_on_add_while_the_first_one_is_at_work_adds_once(client: Client) -> None:
    slot = SlotFactory(places=2)
    form = {"action": "add", "add-places": "3", "seen": inventory.seats_seen(slot)}
    first = start(
        lambda: client.post(url("seats", slot), form), pause_after="INSERT INTO slots_seat"
    ).wait_until_paused()
    second = start(lambda: client.post(url("seats", slot), form)).wait_until_blocked()
    first.resume()
    assert first.outcome().status_code == 302
    (said,) = errors(second.outcome(), "adding")
    assert said.startswith("The seats have been changed since this page was shown")
    assert slot.seats.count() == 5


NOT_OPEN = "This slot has been cancelled, so nothing of it can be changed."


@pytest.mark.parametrize(
    "change",
    [
        lambda slot: inventory.add_places(slot, places=1),
        lambda slot: inventory.change_slot(
            slot, starts_at=LATER, ends_at=LATER + HOUR, opens_at=None, closes_at=None
        ),
    ],
)
def test_slot_that_is_being_called_off_is_neither_moved_nor_grown(change: Any) -> None:
    slot = SlotFactory(places=2, starts_at=START)
    canceller = start(
        lambda: lifecycle.cancel_slot(slot, actor="desk"), pause_after='UPDATE "slots_slot"'
    ).wait_until_paused()
    changer = start(lambda: change(slot)).wait_until_blocked()
    canceller.resume()
    assert canceller.outcome() == []
    refusal = changer.outcome()
    assert (type(refusal), str(refusal)) == (InventoryError, NOT_OPEN)
    slot.refresh_from_db()
    assert (slot.starts_at, slot.seats.count()) == (START, 2)


@pytest.mark.parametrize("page", ["change", "seats"])
def test_forms_of_a_slot_that_is_being_called_off_say_so(client: Client, page: str) -> None:
    slot = SlotFactory(places=2)
    form = times_of(slot, ends_at="2035-01-01 10:00")
    form |= {"action": "add", "add-places": "1", "seen": inventory.seats_seen(slot)}
    canceller = start(
        lambda: lifecycle.cancel_slot(slot, actor="desk"), pause_after='UPDATE "slots_slot"'
    ).wait_until_paused()
    changer = start(lambda: client.post(url(page, slot), form, follow=True)).wait_until_blocked()
    canceller.resume()
    said = changer.outcome()
    assert (told(said) if page == "change" else errors(said, "adding")) == [NOT_OPEN]
    assert slot.seats.count() == 2


# ── Staff beside patients ─────────────────────────────────────────────────────────────────────────


def test_slot_is_not_moved_under_a_buyer(client: Client) -> None:
    """The form was right when it was looked at, and somebody holds a seat before it is saved."""
    slot = SlotFactory(places=2)
    buyer = start(lambda: lifecycle.hold(slot, quantity=1), pause_before=GIVE).wait_until_paused()
    form = times_of(slot, ends_at="2035-01-01 10:00")
    mover = start(lambda: client.post(url("change", slot), form)).wait_until_blocked()
    buyer.resume()
    assert isinstance(buyer.outcome(), Booking)
    (said,) = errors(mover.outcome())
    assert said.startswith("People have booked this slot at its present time.")
    ends_at = slot.ends_at
    slot.refresh_from_db()
    assert slot.ends_at == ends_at
    assert_sound()


def test_buyer_of_a_slot_that_is_being_moved_waits(client: Client) -> None:
    slot = SlotFactory(places=1)
    form = times_of(slot, ends_at="2035-01-01 10:00")
    mover = start(
        lambda: client.post(url("change", slot), form), pause_before='UPDATE "slots_slot"'
    ).wait_until_paused()
    buyer = start(lambda: lifecycle.hold(slot, quantity=1)).wait_until_blocked()
    mover.resume()
    assert mover.outcome().status_code == 302
    assert buyer.outcome().slot.ends_at.year == 2035


@pytest.mark.parametrize("change", [inventory.block_seats, inventory.remove_seats])
def test_seats_are_changed_or_held_never_both(change: Any) -> None:
    slot = SlotFactory(rows=2, seats_per_row=10)
    ids = seat_ids(slot)
    results = race(
        *[lambda n=n: lifecycle.hold(slot, seat_ids=ids[n : n + 2]) for n in range(0, 20, 2)],
        *[lambda n=n: change(slot, seat_ids=ids[n : n + 4]) for n in range(0, 20, 4)],
    )
    bookings, changes = results[:10], results[10:]
    assert all(isinstance(result, Booking | BookingError) for result in bookings), bookings
    assert all(result == 4 or isinstance(result, SeatsInUse) for result in changes), changes
    for number, changed in enumerate(changes):
        pair = bookings[2 * number : 2 * number + 2]
        held = sum(isinstance(result, Booking) for result in pair)
        assert held == 0 if changed == 4 else held > 0
    owned = slot.seats.owned()
    assert owned.count() == 2 * sum(isinstance(result, Booking) for result in bookings)
    assert not owned.filter(blocked=True).exists()


@pytest.mark.parametrize("change", [inventory.block_places, inventory.remove_places])
def test_shrinking_beside_a_crowd_takes_free_places_only(change: Any) -> None:
    """A crowd for 60 places, of which staff take away or block 5 at a time."""
    slot = SlotFactory(places=60)
    results = race(
        *[lambda: lifecycle.hold(slot, quantity=2)] * 30,
        *[lambda: change(slot, places=5)] * 8,
    )
    held = 2 * sum(isinstance(result, Booking) for result in results)
    taken = sum(result for result in results if isinstance(result, int))
    assert all(isinstance(result, int | SeatsInUse | Booking | BookingError) for result in results)
    assert slot.seats.owned().count() == held
    left = slot.seats.free().count()
    assert held + taken + left == 60
    assert left < 5  # whoever was refused was refused rightly


def test_removing_waits_for_a_buyer_and_is_refused(client: Client) -> None:
    slot = SlotFactory(rows=1, seats_per_row=2)
    buyer = start(
        lambda: lifecycle.hold(slot, seat_ids=seat_ids(slot)[:1]), pause_before=GIVE
    ).wait_until_paused()
    form = {"action": "remove", "labels": "A"}
    remover = start(lambda: client.post(url("seats", slot), form)).wait_until_blocked()
    buyer.resume()
    assert isinstance(buyer.outcome(), Booking)
    assert errors(remover.outcome(), "changing") == [
        "Booked or held, so they cannot be taken away: A1. Only 1 seat is free of the 2 chosen. "
        "Cancel or move the bookings first."
    ]
    assert slot.seats.count() == 2


def test_deleting_waits_for_a_buyer_and_is_refused(client: Client) -> None:
    slot = SlotFactory(places=1)
    buyer = start(lambda: lifecycle.hold(slot, quantity=1), pause_before=GIVE).wait_until_paused()
    deleter = start(
        lambda: client.post(url("delete", slot), {"post": "yes"}, follow=True)
    ).wait_until_blocked()
    buyer.resume()
    assert isinstance(buyer.outcome(), Booking)
    assert told(deleter.outcome()) == [
        f"{slot} has bookings, so it cannot be deleted. It can be cancelled."
    ]
    assert Seat.objects.count() == 1
    assert_sound()


def test_deleting_slots_beside_a_move_between_them_is_refused_and_moves() -> None:
    """Seats of both are locked by both: in one order, whichever slot they are of."""
    doctor = DoctorFactory()
    free = AppointmentFactory(doctor=doctor, starts_at=LATER, places=0)
    booked = AppointmentFactory(doctor=doctor, starts_at=LATER + HOUR)
    inventory.add_places(free, places=1)  # a seat with a higher id in the slot with the lower
    booking = lifecycle.confirm(lifecycle.hold(booked, quantity=1))
    deleter = start(
        lambda: inventory.delete_slots([free, booked]), pause_after='FROM "slots_seat"'
    ).wait_until_paused()
    mover = start(
        lambda: lifecycle.reschedule(booking, slot=free, seat_ids=seat_ids(free))
    ).wait_until_blocked()
    deleter.resume()
    assert isinstance(deleter.outcome(), SeatsInUse)
    assert isinstance(mover.outcome(), Booking)
    assert Slot.objects.count() == 2
    assert_sound()


def test_buyer_of_a_slot_that_is_being_deleted_is_refused(client: Client) -> None:
    slot = SlotFactory(rows=1, seats_per_row=1)
    ids = seat_ids(slot)
    deleter = start(
        lambda: client.post(url("delete", slot), {"post": "yes"}),
        pause_before='DELETE FROM "slots_seat"',
    ).wait_until_paused()
    buyer = start(lambda: lifecycle.hold(slot, seat_ids=ids)).wait_until_blocked()
    deleter.resume()
    assert deleter.outcome().status_code == 302
    assert isinstance(buyer.outcome(), BookingError)
    assert not Slot.objects.exists()
    assert not Booking.objects.exists()


def test_slot_is_deleted_or_booked_or_grown() -> None:
    for _ in range(5):
        slot = SlotFactory(places=3)
        results = race(
            *[lambda slot=slot: lifecycle.hold(slot, quantity=1)] * 4,
            *[lambda slot=slot: inventory.delete_slot(slot)] * 2,
            lambda slot=slot: inventory.add_places(slot, places=2),
        )
        expected = Booking | BookingError | InventoryError | int | None
        assert all(isinstance(result, expected) for result in results), results
        is_deleted = None in results[4:6]
        assert Slot.objects.filter(pk=slot.pk).exists() is not is_deleted
        if is_deleted:
            assert not any(isinstance(result, Booking) for result in results)


def test_refusal_recorded_while_deleting_keeps_the_slot() -> None:
    """Refused attempts are bookings too, and they are recorded without any lock on seats."""
    slot = SlotFactory(places=1)
    deleter = start(
        lambda: inventory.delete_slot(slot), pause_before='DELETE FROM "slots_seat"'
    ).wait_until_paused()
    Booking.objects.create(slot=slot, quantity=1, status="FAILED", failure_reason="sold_out")
    deleter.resume()
    assert isinstance(deleter.outcome(), SeatsInUse)
    assert Seat.objects.count() == 1


def test_doctor_who_gets_a_slot_while_being_deleted_stays() -> None:
    client = logged_in(staff("delete_doctor", "view_doctor"))
    doctor = DoctorFactory()
    page = f"/admin/slots/doctor/{doctor.pk}/delete/"
    deleter = start(
        lambda: client.post(page, {"post": "yes"}, follow=True),
        pause_before='DELETE FROM "slots_doctor"',
    ).wait_until_paused()
    AppointmentFactory(doctor=doctor)
    deleter.resume()
    assert told(deleter.outcome()) == [
        "Somebody has just added something to it, so it was not deleted."
    ]
    assert doctor.slots.count() == 1


def test_cancelling_beside_a_crowd_leaves_no_booking() -> None:
    slot, user = SlotFactory(places=20), staff("cancel_slot", "view_slot")
    form = {"confirm": "yes", "reason": ""}
    results = race(
        *[lambda: lifecycle.confirm(lifecycle.hold(slot, quantity=1))] * 12,
        *[lambda: logged_in(user).post(url("cancel", slot), form)] * 2,
    )
    assert [result.status_code for result in results[12:]] == [302, 302]
    assert all(isinstance(result, Booking | BookingError) for result in results[:12])
    assert not slot.seats.owned().exists()
    assert not Booking.objects.for_slot(slot).exists()
