"""Live seats over HTTP: streams of two processes of a real site, whatever makes the change."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta

import psutil
import pytest
from django.core.management import call_command
from django.db import connection
from django.db.models.functions import Now
from django.test import Client

from booking_site.tests.crowd import ask, connect, crowd
from booking_site.tests.factories import AppointmentFactory, SlotFactory
from booking_site.tests.live_site import LiveSite, live_site
from bookings import lifecycle
from bookings.models import Booking
from slots import inventory, live
from slots.models import Seat, Slot

pytestmark = pytest.mark.django_db(transaction=True)

SOON = 10  # seconds, on a busy machine; less than until anything is read anyway
NAME = "live server"  # as the site calls itself to the database, on which there may be others


@pytest.fixture(scope="module")
def site(django_db_setup: None, django_db_blocker: object) -> Iterator[LiveSite]:
    variables = {"WEB_CONCURRENCY": "2", "LOG_LEVEL": "ERROR", "PGAPPNAME": NAME}
    with django_db_blocker.unblock(), live_site(**variables) as site:
        yield site


class Stream:
    """An open stream, read as a browser does."""

    def __init__(self, site: LiveSite, path: str, **headers: str) -> None:
        self.connection = connect(site)
        self.connection.sendall(ask("GET", path, **headers))
        self.read = b""
        self.status = int(self._until(b"\r\n\r\n", time.monotonic() + SOON).split()[1])

    def _until(self, end: bytes, deadline: float) -> bytes:
        while end not in self.read:
            self.connection.settimeout(max(deadline - time.monotonic(), 0.01))
            piece = self.connection.recv(65536)
            if not piece:
                raise EOFError
            self.read += piece
        found, _, self.read = self.read.partition(end)
        return found

    def next(self, *, skip: tuple[str, ...] = ("beat",)) -> tuple[str, str]:
        """The name of the next event, and the rest of it. Raises TimeoutError, EOFError."""
        deadline = time.monotonic() + SOON
        while True:
            text = self._until(b"\n\n", deadline).decode().partition("event: ")[2]
            name, _, rest = text.partition("\n")
            if name not in skip:
                return name, rest

    def close(self) -> None:
        self.connection.close()


@contextmanager
def streams(site: LiveSite, path: str, number: int = 6) -> Iterator[list[Stream]]:
    """So many that both processes have some; all of them have begun."""
    opened = [Stream(site, path) for _ in range(number)]
    try:
        assert [stream.status for stream in opened] == [200] * number
        assert [stream.next(skip=())[0] for stream in opened] == ["beat"] * number
        yield opened
    finally:
        for stream in opened:
            stream.close()


def page(slot: Slot) -> str:
    """The address of the stream of somebody who sees what there is now."""
    return (
        f"/slots/{slot.pk}/live?seen=" + Client().get(f"/slots/{slot.pk}/").context["fingerprint"]
    )


def hold_on_the_page(site: LiveSite, slot: Slot) -> None:
    """In the test's own process; the page of the site calls the same."""
    Client().post(f"/slots/{slot.pk}/hold", {"seat": slot.seats.first().pk, "key": "k" * 32})


def hold_by_the_api(site: LiveSite, slot: Slot) -> None:
    body = {"slot": slot.pk, "seat_ids": [slot.seats.first().pk]}
    assert crowd(site, ask("POST", "/api/v1/bookings", body))[0].status == 201


def block_in_the_office(site: LiveSite, slot: Slot) -> None:
    inventory.block_seats(slot, seat_ids=[slot.seats.first().pk])


@pytest.mark.parametrize("change", [hold_on_the_page, hold_by_the_api, block_in_the_office])
def test_change_reaches_the_pages_of_all_processes(site: LiveSite, change: object) -> None:
    slot = SlotFactory(rows=1)
    with streams(site, page(slot)) as opened:
        lifecycle.hold(slot, seat_ids=[slot.seats.last().pk])
        for stream in opened:
            stream.next()  # from here on both processes know what there was
        change(site, slot)
        events = {stream.next() for stream in opened}
    [(name, rest)] = events
    assert name == "seats"
    assert f'data-seats=",{slot.seats.first().pk},"' in rest


def test_command_that_ends_what_was_called_off_reaches_lists(site: LiveSite) -> None:
    """`expire_holds`, which finishes what a kill has left half done."""
    appointment = AppointmentFactory()
    lifecycle.confirm(lifecycle.hold(appointment, quantity=1), email="a@example.org")
    with streams(site, f"/live?slot={appointment.pk}") as opened:
        Slot.objects.filter(pk=appointment.pk).update(cancelled_at=Now())
        call_command("expire_holds", verbosity=0)
        skip = ("beat", "left")  # what a list says when it begins
        assert {stream.next(skip=skip) for stream in opened} == {("stale", "data: ")}


def test_lapse_reaches_the_pages_without_anybody_doing_anything(site: LiveSite) -> None:
    slot = SlotFactory(rows=1)
    booking = lifecycle.hold(slot, quantity=1)
    with streams(site, page(slot)) as opened:
        soon = Now() + timedelta(seconds=1)
        Booking.objects.filter(pk=booking.pk).update(expires_at=soon)
        Seat.objects.filter(booking=booking).update(held_until=soon)
        live.tell(slot)  # of an end that nobody sees; of what it brings nobody tells
        assert {stream.next()[0] for stream in opened} == {"seats"}


def test_lost_listening_connection_is_replaced_and_what_was_missed_is_sent(site: LiveSite) -> None:
    slot = SlotFactory(rows=1)
    with streams(site, page(slot)) as opened, connection.cursor() as cursor:
        first, second, *_ = slot.seats.values_list("pk", flat=True)
        lifecycle.hold(slot, seat_ids=[first])
        for stream in opened:
            stream.next()  # from here on both processes know what there was
        Seat.objects.filter(pk=second).update(blocked=True)  # nobody is told
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE query LIKE 'LISTEN %%' AND datname = current_database()"
            " AND application_name = %s",
            [NAME],
        )
        assert cursor.fetchone() == (2,)
        assert {stream.next()[0] for stream in opened} == {"seats"}
        lifecycle.hold(slot, quantity=1)
        assert {stream.next()[0] for stream in opened} == {"seats"}


def test_stream_costs_no_database_connection(site: LiveSite) -> None:
    slot = SlotFactory(rows=1)
    with streams(site, page(slot), 40), connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND state <> 'idle'"
        )
        assert cursor.fetchone() == (0,)


def test_viewer_who_left_is_forgotten(site: LiveSite) -> None:
    slot = SlotFactory(rows=1)
    with streams(site, page(slot), 8):
        assert open_connections(site) >= 8
    deadline = time.monotonic() + 5  # before each of them would have had its beat
    while open_connections(site):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def open_connections(site: LiveSite) -> int:
    found = [c for worker in site.workers() for c in worker.net_connections("tcp")]
    return sum(c.status in (psutil.CONN_ESTABLISHED, psutil.CONN_CLOSE_WAIT) for c in found)


def test_stop_ends_streams_at_once() -> None:
    slot = SlotFactory(rows=1)
    with (
        live_site(WEB_CONCURRENCY="1", LOG_LEVEL="ERROR", STREAMS_PER_ADDRESS="3") as site,
        streams(site, page(slot), 3) as opened,
    ):
        with closing(Stream(site, page(slot))) as fourth:
            assert fourth.status == 204
        workers, started = site.workers(), time.monotonic()
        site.process.terminate()
        for stream in opened:
            with pytest.raises(EOFError):
                stream.next()
        assert time.monotonic() - started < 6  # it has ten for what is under way
        assert psutil.wait_procs(workers, timeout=6)[1] == []
