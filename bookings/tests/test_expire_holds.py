"""`expire_holds` does what cron needs: once or in a loop, one at a time, ended between batches."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.utils import timezone

from booking_site.tests.factories import SlotFactory
from booking_site.tests.live_site import BASE_DIR, site_environment
from booking_site.tests.races import lapse
from booking_site.tests.rounds import Rounds, run_loop
from bookings import lifecycle
from bookings.models import Booking, BookingEvent
from slots.models import Seat, Slot

pytestmark = pytest.mark.django_db(transaction=True)

LIMIT = 60  # seconds: who has not finished by then hangs


def make_due(number: int, *, seats: int = 1) -> list[Booking]:
    """So many holds, of so many seats each, that lapsed a minute ago."""
    slot = SlotFactory(places=number * seats)
    due = [lifecycle.hold(slot, quantity=seats) for _ in range(number)]
    lapse(*due)
    return due


def expire(*arguments: str) -> str:
    """What it printed."""
    out = StringIO()
    call_command("expire_holds", *arguments, stdout=out)
    return out.getvalue()


def start(*arguments: str, **variables: str) -> subprocess.Popen:
    """A process of its own, on the tests' database; without a pool, which waits."""
    return subprocess.Popen(
        [sys.executable, "manage.py", "expire_holds", *arguments],
        cwd=BASE_DIR,
        env=site_environment(DJANGO_SETTINGS_MODULE="booking_site.tests.settings", **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out, err


@contextmanager
def another_sweeper() -> Iterator[None]:
    """As long as it lasts, another connection holds the sweeper's lock."""
    other = connection.copy()
    other.set_autocommit(False)
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [lifecycle.SWEEPER_LOCK])
    try:
        yield
    finally:
        other.rollback()  # lets go at once; to close takes its time
        other.close()


def count_pending() -> int:
    return Booking.objects.filter(status=Booking.Status.PENDING).count()


# ── Once ──────────────────────────────────────────────────────────────────────────────────────────


def test_due_holds_are_closed() -> None:
    [first, second] = make_due(2, seats=3)
    live = lifecycle.hold(SlotFactory(), quantity=1)
    assert expire() == "expired 2 holds, released 6 seats\n"
    for booking in (first, second):
        booking.refresh_from_db()
        assert (booking.status, booking.failure_reason) == ("FAILED", "expired")
        event = BookingEvent.objects.get(booking=booking)
        assert (event.action, event.from_status, event.to_status, event.actor, event.reason) == (
            "expire",
            "PENDING",
            "FAILED",
            "system",
            "",
        )
    assert live.seats.count() == 1
    assert Seat.objects.filter(slot=first.slot).free().count() == 6


def test_nothing_due_is_said() -> None:
    lifecycle.hold(SlotFactory(), quantity=1)
    assert expire() == "expired 0 holds, released 0 seats\n"
    assert count_pending() == 1


def test_seats_that_others_took_over_are_not_released() -> None:
    [booking] = make_due(1, seats=3)
    lifecycle.hold(booking.slot, quantity=2)
    assert expire() == "expired 1 holds, released 1 seats\n"


@pytest.mark.parametrize(
    ("due", "batch_size", "transactions"), [(4, 5, 1), (5, 5, 2), (5, 2, 3), (3, 1, 4)]
)
def test_batches_go_on_until_one_is_not_full(
    due: int, batch_size: int, transactions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_due(due)
    batches = []
    original = lifecycle.expire_due

    def count(**arguments: int) -> tuple[int, int]:
        batches.append(arguments)
        return original(**arguments)

    monkeypatch.setattr(lifecycle, "expire_due", count)
    expected = f"expired {due} holds, released {due} seats\n"
    assert expire("--batch-size", str(batch_size)) == expected
    assert batches == [{"batch_size": batch_size}] * transactions
    assert count_pending() == 0


def test_second_run_says_so() -> None:
    make_due(1)
    with another_sweeper():
        assert expire() == "Another run is at work; it does the rest.\n"
        assert count_pending() == 1
    assert expire() == "expired 1 holds, released 1 seats\n"


def test_run_that_is_overtaken_says_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    make_due(3)
    original = lifecycle.expire_due

    def be_overtaken(*, batch_size: int) -> tuple[int, int]:
        if count_pending() == 3:
            return original(batch_size=batch_size)
        with another_sweeper():
            return original(batch_size=batch_size)

    monkeypatch.setattr(lifecycle, "expire_due", be_overtaken)
    assert expire("--batch-size", "2") == (
        "expired 2 holds, released 2 seats\nAnother run is at work; it does the rest.\n"
    )
    assert count_pending() == 1


def test_run_that_fails_says_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    make_due(3)
    original = lifecycle.expire_due

    def fail(*, batch_size: int) -> tuple[int, int]:
        if count_pending() == 3:
            return original(batch_size=batch_size)
        raise OperationalError("it is gone\nand more")

    monkeypatch.setattr(lifecycle, "expire_due", fail)
    out = StringIO()
    with pytest.raises(CommandError, match=r"\AThe database failed: it is gone\.\Z"):
        call_command("expire_holds", "--batch-size", "2", stdout=out)
    assert out.getvalue() == "expired 2 holds, released 2 seats\n"


def test_interrupted_cancellation_of_a_slot_is_finished() -> None:
    slot = SlotFactory(places=3)
    booking = lifecycle.confirm(lifecycle.hold(slot, quantity=2))
    Slot.objects.filter(pk=slot.pk).update(cancelled_at=timezone.now())
    assert expire() == (
        "expired 0 holds, released 0 seats\ncancelled 1 booking of slots that were called off\n"
    )
    booking.refresh_from_db()
    assert booking.status == "CANCELLED"
    assert expire() == "expired 0 holds, released 0 seats\n"


# ── As a process ──────────────────────────────────────────────────────────────────────────────────


def test_process_runs_once() -> None:
    make_due(3, seats=2)
    assert finish(start("--batch-size", "2")) == (0, "expired 3 holds, released 6 seats\n", "")
    with another_sweeper():
        assert finish(start()) == (0, "Another run is at work; it does the rest.\n", "")


def test_process_without_a_database_says_so() -> None:
    away = start(DATABASE_URL="postgres://nobody@127.0.0.1:1/nowhere")
    code, out, err = finish(away)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("CommandError: The database failed: ")


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_loop_ends_at_once_when_told_to(signal_number: signal.Signals) -> None:
    make_due(1)
    loop = start("--loop", "--interval", "3600")
    assert loop.stdout.readline() == "expired 1 holds, released 1 seats\n"
    loop.send_signal(signal_number)
    assert finish(loop) == (0, "", "")  # long before the hour is over


def test_loop_finishes_its_batch_when_told_to_stop() -> None:
    due = make_due(3)
    other = connection.copy()
    other.set_autocommit(False)
    with other.cursor() as cursor:  # the first batch waits for this seat
        cursor.execute("SELECT FROM slots_seat WHERE booking_id = %s FOR UPDATE", [due[0].pk])
    Booking.objects.filter(pk=due[0].pk).update(expires_at=timezone.now() - timedelta(hours=1))
    loop = start("--loop", "--batch-size", "1")
    wait_until_blocked()
    loop.send_signal(signal.SIGTERM)
    other.rollback()
    other.close()
    assert finish(loop) == (0, "expired 1 holds, released 1 seats\n", "")
    assert count_pending() == 2


def wait_until_blocked() -> None:
    """Returns when somebody waits for a lock in this database."""
    question = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
    )
    deadline = timezone.now() + timedelta(seconds=LIMIT)
    with connection.cursor() as cursor:
        while timezone.now() < deadline:
            cursor.execute(question)
            if cursor.fetchone() == (1,):
                return
    raise AssertionError("nobody waits")


# ── In a loop ─────────────────────────────────────────────────────────────────────────────────────


def loop(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    return run_loop("expire_holds", rounds, monkeypatch)


def test_loop_speaks_only_when_something_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = Rounds(None, lambda: make_due(2), None, lambda: make_due(1))
    lines, complaints = loop(rounds, monkeypatch)
    assert lines == ["expired 2 holds, released 2 seats", "expired 1 holds, released 1 seats"]
    assert complaints == []
    assert rounds.waits == [7.5] * 5
    assert rounds.connections_open == [False] * 5


def test_loop_beside_another_run_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    make_due(1)
    with another_sweeper():
        assert loop(Rounds(None), monkeypatch) == ([], [])
    assert count_pending() == 1


def test_loop_survives_an_absent_database(monkeypatch: pytest.MonkeyPatch) -> None:
    make_due(1)
    original = lifecycle.expire_due
    is_away = True

    def answer(**arguments: int) -> tuple[int, int]:
        if is_away:
            raise OperationalError("it is gone\nand more")
        return original(**arguments)

    def come_back() -> None:
        nonlocal is_away
        is_away = False

    monkeypatch.setattr(lifecycle, "expire_due", answer)
    lines, complaints = loop(Rounds(None, None, come_back, None), monkeypatch)
    assert complaints == ["The database failed: it is gone. Trying again every 7.5 s."]
    assert lines == ["expired 1 holds, released 1 seats", "Working again."]


def test_loop_tells_when_the_trouble_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    troubles: list[Exception] = [
        OperationalError("gone"),
        OperationalError("still gone"),
        lifecycle.BrokenInvariant("released 1 of 2 locked seats"),
        lifecycle.SlotBusy(),
    ]

    def fail(**arguments: int) -> tuple[int, int]:
        raise troubles.pop(0)

    monkeypatch.setattr(lifecycle, "expire_due", fail)
    lines, complaints = loop(Rounds(None, None, None), monkeypatch)
    assert lines == []
    assert complaints == [
        "The database failed: gone. Trying again every 7.5 s.",
        "released 1 of 2 locked seats. Trying again every 7.5 s.",
        "Very many people are booking right now. Please try again in a moment."
        " Trying again every 7.5 s.",
    ]


def test_bug_ends_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**arguments: int) -> tuple[int, int]:
        raise ZeroDivisionError

    monkeypatch.setattr(lifecycle, "expire_due", fail)
    with pytest.raises(ZeroDivisionError):
        loop(Rounds(None), monkeypatch)


# ── Arguments ─────────────────────────────────────────────────────────────────────────────────────


def refusal_of(option: str, value: str) -> str:
    with pytest.raises(CommandError) as error:
        call_command("expire_holds", "--loop", option, value)
    return str(error.value)


def test_bad_batch_size_is_refused() -> None:
    for value in ["0", "-1", "abc", "1.5", "nan", "", "10001", "²"]:
        assert refusal_of("--batch-size", value) == (
            f"Error: argument --batch-size: {value!r} is not a whole number from 1 to 10000"
        )


def test_bad_interval_is_refused() -> None:
    for value in ["0", "-1", "abc", "nan", "inf", "", "86401"]:
        assert refusal_of("--interval", value) == (
            f"Error: argument --interval: {value!r} is not a number of seconds up to 86400"
        )


def test_bad_argument_of_a_process_ends_it_with_2() -> None:
    code, out, err = finish(start("--batch-size", "0"))
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == (
        "manage.py expire_holds: error: argument --batch-size:"
        " '0' is not a whole number from 1 to 10000"
    )
