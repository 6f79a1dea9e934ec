"""Refused attempts are recorded afterwards, at no cost to the refusal, up to a number."""

import logging
import threading

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from booking_site.tests.factories import SlotFactory, UserFactory
from bookings import lifecycle, refusals
from bookings.lifecycle import Holder, SeatsTaken, SoldOut
from bookings.models import Booking
from slots.models import Slot

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def full() -> Slot:
    """Of two seats, A1 and A2, both are taken."""
    slot = SlotFactory(rows=1, seats_per_row=2)
    lifecycle.hold(slot, quantity=2)
    return slot


def refuse(slot: Slot, **details: object) -> None:
    with pytest.raises(SoldOut):
        lifecycle.hold(slot, quantity=1, **details)


def recorded() -> list[Booking]:
    return list(Booking.objects.filter(status="FAILED").order_by("created_at"))


def test_sold_out_is_recorded(full: Slot) -> None:
    user = UserFactory()
    refuse(full, holder=Holder(user=user), name="Ada", email="ada@example.org", phone="123")
    assert recorded() == []
    assert refusals.flush() == 1
    [booking] = recorded()
    assert (booking.failure_reason, booking.quantity, booking.labels) == ("sold_out", 1, [])
    assert (booking.slot, booking.user, booking.name) == (full, user, "Ada")
    assert (booking.email, booking.phone) == ("ada@example.org", "123")
    assert (booking.expires_at, booking.confirmed_at, booking.cancelled_at) == (None, None, None)
    assert booking.events.count() == booking.seats.count() == 0


def test_seats_taken_are_recorded_with_their_labels(full: Slot) -> None:
    seat_ids = list(full.seats.values_list("pk", flat=True))
    with pytest.raises(SeatsTaken):
        lifecycle.hold(full, seat_ids=seat_ids, holder=Holder(session_key="browser"))
    refusals.flush()
    [booking] = recorded()
    assert (booking.failure_reason, booking.labels) == ("seats_taken", ["A1", "A2"])
    assert (booking.user, booking.session_key, booking.quantity) == (None, "browser", 2)


def test_key_is_not_recorded(full: Slot) -> None:
    refuse(full, idempotency_key="a key of sixteen characters")
    refusals.flush()
    assert [booking.idempotency_key for booking in recorded()] == [None]


def test_other_refusals_are_not_recorded(full: Slot) -> None:
    with pytest.raises(lifecycle.InvalidRequest):
        lifecycle.hold(full, quantity=0)
    with pytest.raises(lifecycle.InvalidRequest):
        lifecycle.hold(full, seat_ids=[-1])
    booking = Booking.objects.get()
    with pytest.raises(SoldOut):
        lifecycle.reschedule(booking, slot=full, quantity=3)
    assert refusals.flush() == 0


def test_record_costs_no_query(full: Slot) -> None:
    with CaptureQueriesContext(connection) as queries:
        refusals.record(full, Holder(), 1, SoldOut(), name="Ada")
    assert len(queries) == 0


@pytest.mark.parametrize("number", [1, 3])
def test_flush_writes_all_in_one_transaction(full: Slot, number: int) -> None:
    for _ in range(number):
        refuse(full)
    with CaptureQueriesContext(connection) as queries:
        assert refusals.flush() == number
    statements = [query["sql"].partition(" ")[0] for query in queries]
    assert statements == ["BEGIN", "INSERT", "COMMIT"]
    assert len(recorded()) == number
    with CaptureQueriesContext(connection) as queries:
        assert refusals.flush() == 0
    assert len(queries) == 0


def test_oldest_are_dropped_beyond_the_cap(full: Slot) -> None:
    for number in range(refusals.BUFFER + 5):
        refusals.record(full, Holder(), 1, SoldOut(), name=str(number))
    assert refusals.flush() == refusals.BUFFER == 1000
    assert {int(booking.name) for booking in recorded()} == set(range(5, 1005))


def test_writer_survives_a_database_error(
    full: Slot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its first round fails, the second one writes; then the test ends it."""
    rounds = iter([None, None])
    original = refusals.flush
    written = []

    class TheEnd(BaseException):
        pass

    def sleep(seconds: float) -> None:
        assert seconds == refusals.INTERVAL
        if next(rounds, "over") == "over":
            raise TheEnd

    def flush() -> int:
        if not written:
            written.append(0)
            raise OperationalError("it is gone")
        written.append(original())
        return written[-1]

    def write() -> None:
        try:
            refusals._write_for_ever()
        except TheEnd:
            ended.append(connection.connection)

    monkeypatch.setattr(refusals.time, "sleep", sleep)
    monkeypatch.setattr(refusals, "flush", flush)
    refuse(full)
    ended: list = []
    with caplog.at_level(logging.WARNING, logger="holdfast.refusals"):
        writer = threading.Thread(target=write)
        writer.start()
        writer.join(30)
    assert not writer.is_alive()
    assert written == [0, 1]
    assert len(recorded()) == 1
    assert ended == [None]  # its connection is closed after each round
    assert [record.getMessage() for record in caplog.records] == ["refusals lost"]


def test_writer_is_a_thread_that_keeps_no_process_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread))
    refusals.start_writer()
    [writer] = started
    assert (writer.name, writer.daemon) == ("refusals", True)
