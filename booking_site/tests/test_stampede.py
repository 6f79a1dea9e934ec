"""`manage.py stampede`: against a real site, and against one that does wrong."""

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from booking_site.tests.factories import SlotFactory
from booking_site.tests.live_site import LiveSite
from booking_site.tests.races import assert_sound
from bookings import lifecycle
from bookings.models import Booking
from slots.models import Seat

pytestmark = pytest.mark.django_db(transaction=True)

CROWD = int(os.environ.get("STAMPEDE_CLIENTS", "200"))
NOTHING: dict[int, str] = {}
WELL = "No seat was sold twice, no free one was refused, and nothing broke."


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def stampede(
    url: str, slot: int, *arguments: object, out: StringIO | None = None
) -> tuple[list[str], str]:
    """What it said, line by line, and what it failed with."""
    out = out or StringIO()
    try:
        call_command("stampede", "--url", url, "--slot", slot, *map(str, arguments), stdout=out)
    except CommandError as error:
        return out.getvalue().splitlines(), str(error)
    return out.getvalue().splitlines(), ""


def assert_given_back() -> None:
    assert not Booking.objects.filter(status__in=["PENDING", "CONFIRMED"]).exists()
    assert not Seat.objects.filter(booking__isnull=False).exists()
    assert_sound()


# ── A real one ────────────────────────────────────────────────────────────────────────────────────


def test_crowd_at_few_places_is_told_and_gone_afterwards(site: LiveSite) -> None:
    slot = SlotFactory(places=20)
    said, failed = stampede(site.url, slot.pk, "--clients", CROWD, "--quantity", 3)
    assert failed == ""
    times = said.pop(5)
    assert re.fullmatch(
        r"Answered: half within [\d,]+ ms, 95 % within [\d,]+ ms, 99 % within [\d,]+ ms, all "
        r"within [\d,]+ ms \([\d,]+ ms on average\)",
        times,
    )
    assert said == [
        f"{CROWD:,} clients at {site.url}, all at once: each wants any 3 of slot {slot.pk}, where "
        "20 of 20 are free.",
        f"{CROWD:,} of {CROWD:,} answered.",
        "6 won, 18 seats",
        f"{CROWD - 6:,} refused: sold_out",
        "0 errors",
        f"Compared: {CROWD:,} answers with each other and with the site's 20 seats.",
        "Compared with the database: 6 bookings own 18 seats, and 27 invariants were counted.",
        "Given back: 6 bookings.",
        WELL,
    ]
    assert_given_back()


def test_crowd_that_wants_the_same_seats_has_one_winner(site: LiveSite) -> None:
    slot = SlotFactory(rows=2, seats_per_row=5)
    said, failed = stampede(site.url, slot.pk, "--clients", 50, "--seats", "A1, B5")
    assert failed == ""
    assert said[2:5] == ["1 won, 2 seats", "49 refused: seats_taken", "0 errors"]
    assert_given_back()


def test_crowd_that_chooses_by_chance_confirms_before_a_terminal(site: LiveSite) -> None:
    slot = SlotFactory(rows=5, seats_per_row=10)
    terminal = Terminal()
    said, failed = stampede(
        site.url, slot.pk, "--clients", 30, "--random", 2, "--confirm", out=terminal
    )
    assert failed == ""
    assert f"\r█{'░' * 29} 1 of 30 answered\r" in terminal.getvalue()
    assert f"\r{'█' * 30} 30 of 30 answered\n" in terminal.getvalue()
    assert said[-1] == WELL
    confirmed = Booking.objects.exclude(confirmed_at=None)
    assert confirmed.count() == Booking.objects.filter(status="CANCELLED").count() > 0
    assert_given_back()


def test_slot_with_bookings_is_left_alone_unless_one_insists(site: LiveSite) -> None:
    slot = SlotFactory(places=5)
    booking = lifecycle.hold(slot, quantity=2)
    said, failed = stampede(site.url, slot.pk)
    assert said == []
    assert failed == (
        f"In slot {slot.pk} 2 seats of 5 are held or booked. A stampede takes what is left from "
        "people who come meanwhile: choose another slot, or say --yes."
    )
    said, failed = stampede(site.url, slot.pk, "--clients", 10, "--yes")
    assert failed == ""
    assert said[2:4] == ["3 won, 3 seats", "7 refused: sold_out"]
    assert slot.seats.filter(booking=booking).count() == 2
    assert Booking.objects.get(pk=booking.pk).status == "PENDING"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--slot", "x"], "argument --slot: 'x' is not a whole number from 1 to"),
        (["--clients", "0"], "argument --clients: '0' is not a whole number from 1 to 5000"),
        (["--quantity", "11"], "argument --quantity: '11' is not a whole number from 1 to 10"),
        (["--seats", "A1,,A2"], "'A1,,A2' is not a list of different seats like A1,A2"),
        (["--seats", "A1,A1"], "'A1,A1' is not a list of different seats like A1,A2"),
        (["--seats", "A1", "--random", "2"], "not allowed with argument"),
        (["--url", "ftp://x"], "'ftp://x' is not an address like http://127.0.0.1:8000"),
        (["--url", "http://x:y"], "'http://x:y' is not an address like http://127.0.0.1:8000"),
        (["--url", "http://127.0.0.1:1"], "http://127.0.0.1:1 cannot be reached: "),
    ],
)
def test_wrong_argument_is_one_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(CommandError) as error:
        call_command("stampede", "--slot", "1", *arguments)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_slot_or_seat_that_there_is_not_is_one_sentence(site: LiveSite) -> None:
    slot = SlotFactory(rows=1, seats_per_row=2)
    unknown = slot.pk + 1
    assert stampede(site.url, unknown) == ([], f"There is no slot {unknown} at {site.url}.")
    assert stampede(site.url, slot.pk, "--seats", "Z9") == ([], f"Slot {slot.pk} has no seat Z9.")
    assert stampede(site.url, slot.pk, "--random", "3") == (
        [],
        f"Slot {slot.pk} has only 2 free seats.",
    )


# ── One that does wrong ───────────────────────────────────────────────────────────────────────────


class WrongSite:
    """Five seats, of which it says that they are in that state after the first look at them; and of
    some what they are at first.
    """

    def __init__(
        self, hold: Callable[[int], tuple[int, Any]], after: str, first: dict[int, str] = NOTHING
    ) -> None:
        self.hold, self.after, self.first = hold, after, first
        self.holds = self.looks = 0
        self.cancelled: list[str] = []

    def answer(self, method: str, path: str) -> tuple[int, Any]:
        if path.endswith("/seats"):
            self.looks += 1
            states = dict.fromkeys(range(1, 6), self.after if self.looks == 2 else "AVAILABLE")
            states |= self.first if self.looks == 1 else NOTHING
            return 200, [{"id": n, "label": f"A{n}", "state": states[n]} for n in states]
        if path.endswith("/cancel"):
            self.cancelled.append(path.split("/")[-2])
            return 200, {}
        if "by-key" in path:
            return 200, {"id": f"found-{self.holds}"}
        self.holds += 1
        return self.hold(self.holds)


@contextmanager
def wrong(site: WrongSite) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = site.answer(self.command, self.path)
            if not status:
                return
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = respond

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def won(n: int, *seats: int) -> tuple[int, Any]:
    body = {"id": f"booking-{n}", "quantity": len(seats), "seats": [{"id": pk} for pk in seats]}
    return 201, body


def refused(code: str, *labels: str) -> tuple[int, Any]:
    return 409, {"code": code, "seats": labels}


@pytest.mark.parametrize(
    ("hold", "after", "failed"),
    [
        (lambda n: won(n, 1), "RESERVED", "Sold twice: A1."),
        (lambda n: won(n, n), "AVAILABLE", "Held by somebody, and still offered: A1, A2."),
        (
            lambda n: won(n, 1) if n == 1 else refused("sold_out"),
            "AVAILABLE",
            "Held by somebody, and still offered: A1. 5 are free, and somebody was told “sold "
            "out”.",
        ),
        (
            lambda n: refused("seats_taken", "A2"),
            "AVAILABLE",
            "Somebody was refused a seat that is free.",
        ),
        (lambda n: (500, {"code": "internal"}), "RESERVED", "2 requests broke (500)."),
        (lambda n: (0, None), "RESERVED", "2 requests broke (cut off)."),
        (
            lambda n: refused("sold_out") if n == 1 else (503, "busy"),
            "RESERVED",
            "1 request broke (503).",
        ),
    ],
    ids=["twice", "still offered", "free, any", "free, named", "500", "cut off", "503"],
)
def test_site_that_does_wrong_is_found_out(
    hold: Callable[[int], tuple[int, Any]], after: str, failed: str
) -> None:
    site = WrongSite(hold, after)
    with wrong(site) as url:
        said, told = stampede(url, 1, "--clients", 2)
    assert told == failed
    assert "The database of this command is not the site's: not looked at." in said
    assert WELL not in said


@pytest.mark.parametrize(
    ("hold", "after"),
    [
        (lambda n: won(n, n), "RESERVED"),
        (lambda n: refused("sold_out"), "AVAILABLE"),
        (lambda n: refused("seats_taken", "A2"), "AVAILABLE"),
    ],
    ids=["sold to one", "free, any", "free, named"],
)
def test_hold_of_others_that_ends_meanwhile_is_no_fault(
    hold: Callable[[int], tuple[int, Any]], after: str
) -> None:
    site = WrongSite(hold, after, first=dict.fromkeys(range(1, 6), "RESERVED"))
    with wrong(site) as url:
        said, told = stampede(url, 1, "--clients", 2, "--yes")
    assert told == ""
    seats = "A1, A2" if after == "RESERVED" else "A1, A2, A3, A4, A5"
    assert f"Others held at first, but not to the end: {seats}." in said


def test_seat_of_a_confirmed_booking_that_is_sold_is_found_out() -> None:
    site = WrongSite(lambda n: won(n, n), "RESERVED", first={1: "BOOKED", 2: "RESERVED"})
    with wrong(site) as url:
        _, told = stampede(url, 1, "--clients", 2, "--yes")
    assert told == "Sold, though it was not free: A1."


def test_what_was_held_without_an_answer_is_given_back_as_well() -> None:
    site = WrongSite(lambda n: (0, None) if n == 1 else won(n, 1), "RESERVED")
    with wrong(site) as url:
        stampede(url, 1, "--clients", 2)
    assert sorted(site.cancelled) == ["booking-2", "found-2"]
