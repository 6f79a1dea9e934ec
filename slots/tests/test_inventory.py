"""Seats are created, added, taken away and held back, all that was asked or nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from booking_site import database
from booking_site.tests.factories import DoctorFactory, ShowFactory, SlotFactory
from booking_site.tests.races import lapse, start
from bookings import lifecycle
from slots import inventory
from slots.inventory import InventoryError, Overlap, SeatsInUse
from slots.models import Seat, Slot

pytestmark = pytest.mark.django_db(transaction=True)


def labels(slot: Slot) -> list[str]:
    return [seat.label for seat in slot.seats.all()]


def seat_ids(slot: Slot, *labels: str) -> list[int]:
    return [slot.seats.get(label=label).pk for label in labels]


@contextmanager
def refused(error: type[InventoryError], message: str) -> Iterator[None]:
    """Asserts that this error is raised, with this message, and that nothing is changed."""

    def everything() -> list[list[tuple]]:
        return [list(model.objects.order_by("pk").values_list()) for model in (Slot, Seat)]

    before = everything()
    with pytest.raises(error) as raised:
        yield
    assert everything() == before
    assert str(raised.value) == message


@pytest.fixture
def empty() -> Slot:
    return SlotFactory(places=0)


# ── Rows of numbered seats ────────────────────────────────────────────────────────────────────────


def test_fifty_thousand_seats_are_one_insert(empty: Slot) -> None:
    with CaptureQueriesContext(connection) as queries:
        assert inventory.add_rows(empty, rows=250, seats_per_row=200) == 50_000
    verbs = [query["sql"].split()[0] for query in queries]
    assert verbs == ["BEGIN", *["SELECT"] * 4, "WITH", "UPDATE", "COMMIT", "SELECT"]  # to tell
    assert empty.seats.count() == 50_000
    empty.refresh_from_db()
    ids = empty.seats.order_by("pk").values_list("pk", flat=True)
    assert (empty.first_seat_id, empty.last_seat_id) == (ids.first(), ids.last())


def test_rows_are_named_after_the_alphabet() -> None:
    names = list(islice(inventory.row_names(), 26 + 26 * 26 + 2))
    assert names[:3] == ["A", "B", "C"]
    assert names[25:29] == ["Z", "AA", "AB", "AC"]
    assert names[51:54] == ["AZ", "BA", "BB"]
    assert names[-3:] == ["ZZ", "AAA", "AAB"]


def test_seats_are_called_after_row_and_number(empty: Slot) -> None:
    inventory.add_rows(empty, rows=28, seats_per_row=2, section="Stalls")
    assert labels(empty)[:4] == ["A1", "A2", "B1", "B2"]
    assert labels(empty)[-6:] == ["Z1", "Z2", "AA1", "AA2", "AB1", "AB2"]
    last = empty.seats.last()
    assert (last.section, last.row, last.number, last.column) == ("Stalls", "AB", 2, 2)
    assert (last.blocked, last.accessible, last.booking, last.held_until) == (
        False,
        False,
        None,
        None,
    )


def test_aisles_leave_out_columns(empty: Slot) -> None:
    inventory.add_rows(empty, rows=2, seats_per_row=6, aisles_after=[2, 4, 4, 6])
    columns = [1, 2, 4, 5, 7, 8]
    assert list(empty.seats.filter(row="A").values_list("column", flat=True)) == columns
    assert list(empty.seats.filter(row="B").values_list("column", flat=True)) == columns


def test_accessible_seats_are_named_by_label(empty: Slot) -> None:
    inventory.add_rows(empty, rows=2, seats_per_row=3, accessible=["A1", "B3"])
    assert labels(empty) == ["A1", "A2", "A3", "B1", "B2", "B3"]
    accessible = empty.seats.filter(accessible=True).values_list("label", flat=True)
    assert list(accessible) == ["A1", "B3"]


def test_growing_adds_rows_behind(empty: Slot) -> None:
    inventory.add_rows(empty, rows=2, seats_per_row=2)
    empty.refresh_from_db()
    first, last = empty.first_seat_id, empty.last_seat_id
    assert inventory.add_rows(empty, rows=1, seats_per_row=3, section="Balcony") == 3
    assert labels(empty) == ["A1", "A2", "B1", "B2", "C1", "C2", "C3"]
    empty.refresh_from_db()
    assert (empty.first_seat_id, empty.last_seat_id > last) == (first, True)


def test_growing_beside_bookings_leaves_them_alone(empty: Slot) -> None:
    inventory.add_rows(empty, rows=1, seats_per_row=2)
    booking = lifecycle.hold(empty, quantity=2)
    inventory.add_rows(empty, rows=1, seats_per_row=2)
    assert [seat.label for seat in booking.seats.all()] == ["A1", "A2"]
    assert lifecycle.hold(empty, quantity=2).labels == ["B1", "B2"]


# ── Unnumbered places ─────────────────────────────────────────────────────────────────────────────


def test_places_are_numbered_through(empty: Slot) -> None:
    assert inventory.add_places(empty, places=11) == 11
    assert labels(empty) == [str(n) for n in range(1, 12)]
    assert inventory.add_places(empty, places=2) == 2
    assert labels(empty)[-3:] == ["11", "12", "13"]
    assert set(empty.seats.values_list("row", "section", "column")) == {("", "", None)}


def test_places_are_one_insert(empty: Slot) -> None:
    with CaptureQueriesContext(connection) as queries:
        inventory.add_places(empty, places=1000)
    verbs = [query["sql"].split()[0] for query in queries]
    assert verbs == ["BEGIN", *["SELECT"] * 4, "WITH", "UPDATE", "COMMIT", "SELECT"]  # to tell


@pytest.mark.parametrize(
    "add",
    [
        lambda slot: inventory.add_places(slot, places=2),
        lambda slot: inventory.add_rows(slot, rows=1, seats_per_row=2),
    ],
)
def test_growing_takes_turns(empty: Slot, add: Callable[[Slot], int]) -> None:
    """Two that grow the same slot at once: no label is given twice, none of them fails."""
    first = start(lambda: add(Slot.objects.get(pk=empty.pk)), pause_before="INSERT INTO slots_seat")
    first.wait_until_paused()
    second = start(lambda: add(Slot.objects.get(pk=empty.pk)))
    second.wait_until_blocked()
    first.resume()
    assert (first.outcome(), second.outcome()) == (2, 2)
    assert labels(empty) in (["1", "2", "3", "4"], ["A1", "A2", "B1", "B2"])
    empty.refresh_from_db()
    ids = list(empty.seats.values_list("pk", flat=True))
    assert (empty.first_seat_id, empty.last_seat_id) == (ids[0], ids[-1])


# ── What cannot be added ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("rows", "seats_per_row"), [(0, 5), (5, 0), (-1, 5), (-1, -5)])
def test_no_rows_are_refused(empty: Slot, rows: int, seats_per_row: int) -> None:
    with refused(InventoryError, "Give at least one seat."):
        inventory.add_rows(empty, rows=rows, seats_per_row=seats_per_row)


@pytest.mark.parametrize("places", [0, -1])
def test_no_places_are_refused(empty: Slot, places: int) -> None:
    with refused(InventoryError, "Give at least one seat."):
        inventory.add_places(empty, places=places)


def test_too_many_seats_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    slot = SlotFactory(places=3)
    with refused(InventoryError, "A slot can have at most 200,000 seats."):
        inventory.add_places(slot, places=199_998)
    with refused(InventoryError, "A slot can have at most 200,000 seats."):
        inventory.add_rows(slot, rows=10**6, seats_per_row=10**6)
    monkeypatch.setattr(inventory, "MOST_SEATS", 5)
    assert inventory.add_places(slot, places=2) == 2


def test_endless_row_is_refused(empty: Slot) -> None:
    with refused(InventoryError, "A row can have at most 1,000 seats."):
        inventory.add_rows(empty, rows=1, seats_per_row=1_001)
    assert inventory.add_rows(empty, rows=1, seats_per_row=1_000, aisles_after=range(1, 1_000))
    assert empty.seats.last().column == 1_999


# ── Taking away ───────────────────────────────────────────────────────────────────────────────────


def test_last_free_places_are_taken_away_first() -> None:
    slot = SlotFactory(places=6)
    booking = lifecycle.hold(slot, seat_ids=seat_ids(slot, "5"))
    assert inventory.remove_places(slot, places=2) == 2
    assert labels(slot) == ["1", "2", "3", "5"]
    assert [seat.label for seat in booking.seats.all()] == ["5"]
    assert inventory.remove_places(slot, places=3) == 3
    assert labels(slot) == ["5"]


def test_places_that_are_owned_or_held_back_are_not_taken_away() -> None:
    slot = SlotFactory(places=5)
    lifecycle.hold(slot, seat_ids=seat_ids(slot, "1"))
    lifecycle.confirm(lifecycle.hold(slot, seat_ids=seat_ids(slot, "2")))
    lapsed = lifecycle.hold(slot, seat_ids=seat_ids(slot, "3"))
    lapse(lapsed)
    inventory.block_seats(slot, seat_ids=seat_ids(slot, "4"))
    message = "Only 1 seat is free, so 2 cannot be taken away. Cancel or move bookings first."
    with refused(SeatsInUse, message):
        inventory.remove_places(slot, places=2)
    lifecycle.expire_due()
    assert inventory.remove_places(slot, places=2) == 2
    assert labels(slot) == ["1", "2", "4"]


def test_place_that_is_being_booked_is_not_taken_away() -> None:
    slot = SlotFactory(places=2)
    buyer = start(
        lambda: lifecycle.hold(slot, seat_ids=seat_ids(slot, "2")),
        pause_before='UPDATE "slots_seat"',
    )
    buyer.wait_until_paused()
    with refused(
        SeatsInUse,
        "Only 1 seat is free, so 2 cannot be taken away. Cancel or move bookings first.",
    ):
        inventory.remove_places(slot, places=2)
    assert inventory.remove_places(slot, places=1) == 1
    buyer.resume()
    assert buyer.outcome().labels == labels(slot) == ["2"]


@pytest.mark.parametrize("places", [0, -1])
def test_nothing_to_take_away_is_refused(places: int) -> None:
    slot = SlotFactory(places=2)
    with refused(InventoryError, "Give at least one seat."):
        inventory.remove_places(slot, places=places)


def test_seats_that_are_named_are_taken_away_also_when_held_back() -> None:
    slot = SlotFactory(rows=1, seats_per_row=4)
    inventory.block_seats(slot, seat_ids=seat_ids(slot, "A1"))
    assert inventory.remove_seats(slot, seat_ids=seat_ids(slot, "A1", "A3")) == 2
    assert labels(slot) == ["A2", "A4"]


# ── Holding back ──────────────────────────────────────────────────────────────────────────────────


def test_blocked_seats_are_not_on_sale() -> None:
    slot = SlotFactory(rows=1, seats_per_row=3)
    inventory.block_seats(slot, seat_ids=seat_ids(slot, "A1", "A2"), reason="broken")
    assert list(slot.seats.values_list("label", "blocked", "block_reason")) == [
        ("A1", True, "broken"),
        ("A2", True, "broken"),
        ("A3", False, ""),
    ]
    assert list(slot.seats.free()) == [slot.seats.get(label="A3")]
    inventory.unblock_seats(slot, seat_ids=seat_ids(slot, "A1"))
    assert list(slot.seats.values_list("blocked", "block_reason")) == [
        (False, ""),
        (True, "broken"),
        (False, ""),
    ]


def test_owned_seats_are_not_blocked() -> None:
    slot = SlotFactory(rows=1, seats_per_row=4)
    lifecycle.hold(slot, seat_ids=seat_ids(slot, "A2"))
    lifecycle.confirm(lifecycle.hold(slot, seat_ids=seat_ids(slot, "A3")))
    message = (
        "Booked or held, so they cannot be blocked: A2, A3. Only 1 seat is free of the 3 chosen. "
        "Cancel or move the bookings first."
    )
    with refused(SeatsInUse, message):
        inventory.block_seats(slot, seat_ids=seat_ids(slot, "A1", "A2", "A3"))


def test_seats_of_another_slot_are_not_blocked() -> None:
    slot, other = SlotFactory(places=2), SlotFactory(places=2)
    with refused(InventoryError, "Some of these seats are no longer there. Choose again."):
        inventory.block_seats(slot, seat_ids=seat_ids(other, "1"))


# ── Slots of a doctor ─────────────────────────────────────────────────────────────────────────────


def at(text: str, *, again: bool = False) -> datetime:
    """A time on the clock in Berlin; `again`: when it shows it for the second time."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Berlin"), fold=again)


def test_slot_is_of_a_doctor_or_a_show() -> None:
    starts_at, ends_at = at("2030-06-01 10:00"), at("2030-06-01 11:00")
    doctor, show = DoctorFactory(), ShowFactory()
    of_doctor = inventory.create_slot(doctor, starts_at=starts_at, ends_at=ends_at)
    of_show = inventory.create_slot(
        show, starts_at=starts_at, ends_at=ends_at, seating=Slot.Seating.NUMBERED
    )
    assert (of_doctor.doctor, of_doctor.show, of_doctor.seating) == (doctor, None, "GENERAL")
    assert (of_show.doctor, of_show.show, of_show.seating) == (None, show, "NUMBERED")
    assert of_doctor.seats.count() == of_show.seats.count() == 0


def test_overlapping_slot_of_a_doctor_is_refused() -> None:
    doctor = DoctorFactory(name="Dr. Busy")
    inventory.create_slot(doctor, starts_at=at("2030-06-01 10:00"), ends_at=at("2030-06-01 11:00"))
    for begin, end in [("10:59", "12:00"), ("09:00", "10:01"), ("10:20", "10:40"), ("09", "12")]:
        with refused(Overlap, "Dr. Busy has another slot at this time."):
            inventory.create_slot(
                doctor, starts_at=at(f"2030-06-01 {begin}"), ends_at=at(f"2030-06-01 {end}")
            )
    inventory.create_slot(doctor, starts_at=at("2030-06-01 11"), ends_at=at("2030-06-01 12"))
    inventory.create_slot(doctor, starts_at=at("2030-06-01 09"), ends_at=at("2030-06-01 10"))


def test_other_refusals_of_the_database_surface() -> None:
    with pytest.raises(Exception, match="slot_starts_before_it_ends"):
        inventory.create_slot(
            DoctorFactory(), starts_at=at("2030-06-01 11:00"), ends_at=at("2030-06-01 10:00")
        )


def test_the_hour_that_comes_twice_is_two_hours() -> None:
    """In autumn 02:30 comes twice; the two are an hour apart, and do not overlap."""
    doctor = DoctorFactory()
    first = inventory.create_slot(
        doctor, starts_at=at("2030-10-27 02:30"), ends_at=at("2030-10-27 02:30", again=True)
    )
    second = inventory.create_slot(
        doctor, starts_at=at("2030-10-27 02:30", again=True), ends_at=at("2030-10-27 03:30")
    )
    assert first.starts_at.astimezone(UTC) == datetime(2030, 10, 27, 0, 30, tzinfo=UTC)
    assert second.starts_at.astimezone(UTC) == datetime(2030, 10, 27, 1, 30, tzinfo=UTC)
    with refused(Overlap, f"{doctor} has another slot at this time."):
        # On the clock from 02:45 to 02:15, in truth half an hour, and beside both.
        inventory.create_slot(
            doctor, starts_at=at("2030-10-27 02:45"), ends_at=at("2030-10-27 02:15", again=True)
        )


def test_slots_meet_across_the_hour_that_is_left_out() -> None:
    """In spring 03:00 follows on 01:59."""
    doctor = DoctorFactory()
    early = inventory.create_slot(
        doctor, starts_at=at("2030-03-31 01:30"), ends_at=at("2030-03-31 03:00")
    )
    inventory.create_slot(doctor, starts_at=at("2030-03-31 03:00"), ends_at=at("2030-03-31 03:30"))
    assert early.ends_at.astimezone(UTC) - early.starts_at.astimezone(UTC) == timedelta(minutes=30)
    with refused(Overlap, f"{doctor} has another slot at this time."):
        inventory.create_slot(
            doctor, starts_at=at("2030-03-31 01:59"), ends_at=at("2030-03-31 03:01")
        )


@pytest.mark.parametrize(
    ("moment", "clock", "text"),
    [
        ((2030, 3, 31, 0, 59), "01:59 CET", "Sun 31 Mar 2030 01:59 CET"),
        ((2030, 3, 31, 1, 0), "03:00 CEST", "Sun 31 Mar 2030 03:00 CEST"),
        ((2030, 10, 27, 0, 30), "02:30 CEST", "Sun 27 Oct 2030 02:30 CEST"),
        ((2030, 10, 27, 1, 30), "02:30 CET", "Sun 27 Oct 2030 02:30 CET"),
        ((2030, 10, 26, 22, 30), "00:30 CEST", "Sun 27 Oct 2030 00:30 CEST"),  # another day in UTC
    ],
)
def test_time_is_told_by_the_clock_of_the_place(moment: tuple, clock: str, text: str) -> None:
    starts_at = datetime(*moment, tzinfo=UTC)
    slot = Slot.objects.get(pk=SlotFactory(starts_at=starts_at, places=0).pk)
    assert slot.starts_at == starts_at
    assert f"{slot.local_start:%H:%M %Z}" == clock
    assert str(slot) == f"{slot.show.name}, {text}"
    assert slot.local_end.astimezone(UTC) == starts_at + timedelta(hours=2)


@pytest.mark.parametrize("change", ["block", "grow"])
def test_staff_wait_for_a_lock_no_longer_than_patients(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = SlotFactory(places=2)
    table, pk = ("slots_slot", slot.pk) if change == "grow" else ("slots_seat", slot.first_seat_id)
    monkeypatch.setattr(database, "LOCK_TIMEOUT", "20ms")
    other = connection.copy()
    other.set_autocommit(False)
    with other.cursor() as cursor:
        cursor.execute(f"SELECT FROM {table} WHERE id = %s FOR UPDATE", [pk])
    changes = {
        "grow": lambda: inventory.add_places(slot, places=1),
        "block": lambda: inventory.block_seats(slot, seat_ids=[slot.first_seat_id]),
    }
    with pytest.raises(OperationalError, match="lock timeout"):
        changes[change]()
    other.rollback()
    other.close()
    assert slot.seats.filter(blocked=False).count() == 2
