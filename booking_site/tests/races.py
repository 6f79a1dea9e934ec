"""Races with real threads and real processes, and interleavings that are chosen, not hoped for.

    results = race(*[lambda: hold(slot, quantity=1)] * 10)
    assert tally(results) == {Booking: 3, SoldOut: 7}

    first = start(lambda: hold(slot, quantity=1), pause_before='UPDATE "slots_seat"')
    first.wait_until_paused()
    second = start(lambda: hold(slot, quantity=1))
    second.wait_until_blocked()
    first.abort()
    assert isinstance(second.outcome(), Booking)

Needs `django_db(transaction=True)`: every competitor has a connection of its own.
"""

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from typing import Any

from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction
from django.utils import timezone

from bookings.models import Booking
from slots.models import Seat

Competitor = Callable[[], Any]

LIMIT = 60  # seconds: who has not finished by then hangs
ROUNDS = int(os.environ.get("RACE_ROUNDS", "1"))  # how often the races that chance decides are run


class Aborted(Exception):
    """Raised inside a paused competitor, which so rolls back."""


def race(*competitors: Competitor, processes: int = 1, sound: bool = True) -> list[Any]:
    """Runs all at once and returns what each returned or raised, in order.

    Each is a thread with its own open connection when the starting gun fires; with `processes` they
    are spread over so many forked ones. Asserts that all finish, that the database met no deadlock,
    and (`sound`) that `check_invariants` finds nothing.
    """
    deadlocks = _count_deadlocks()
    numbered = list(enumerate(competitors))
    if processes == 1:
        barrier = threading.Barrier(len(competitors))
        finishes = _run_threads(numbered, barrier)
    else:
        finishes = _run_processes([numbered[n::processes] for n in range(processes)])
    finishes.sort(key=lambda finish: finish[0])
    _wait_until_gone([pid for _, pid, _ in finishes])
    assert _count_deadlocks() == deadlocks, "the database met a deadlock"
    if sound:
        assert_sound()
    return [result for _, _, result in finishes]


def tally(results: Iterable[Any]) -> dict[type, int]:
    """How many results there are of each type."""
    return dict(Counter(type(result) for result in results))


def assert_sound() -> None:
    """Asserts that `check_invariants` finds nothing, in the whole database."""
    told = StringIO()
    try:
        call_command("check_invariants", stdout=told)
    except CommandError as error:
        raise AssertionError(f"{told.getvalue()}{error}") from error


def lapse(*bookings: Booking) -> None:
    """Lets the time of holds run out: a minute ago, for them and their seats at once."""
    end = timezone.now() - timedelta(minutes=1)
    with transaction.atomic():
        Booking.objects.filter(pk__in=[booking.pk for booking in bookings]).update(expires_at=end)
        Seat.objects.filter(booking__in=bookings).update(held_until=end)


# ── One after the other, as the test says ─────────────────────────────────────────────────────────


class Running:
    """A competitor in a thread of its own, which `start` has started."""

    def __init__(self, competitor: Competitor, **pause: Any) -> None:
        self.competitor = competitor
        self.pause = pause
        self.pid = 0
        self.result: Any = None
        self._connected = threading.Event()
        self._paused = threading.Event()
        self._resumed = threading.Event()
        self._aborted = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._connected.wait(LIMIT)

    def wait_until_paused(self) -> "Running":
        """Returns when it has come to the statement at which it is to pause."""
        wait_until(lambda: self._paused.is_set() or self.is_done())
        assert self._paused.is_set(), f"it came to an end without pausing: {self.result!r}"
        return self

    def wait_until_blocked(self) -> "Running":
        """Returns when it waits for another transaction's lock."""
        wait_until(lambda: self.is_done() or _is_blocked(self.pid))
        assert not self.is_done(), f"it came to an end without waiting: {self.result!r}"
        return self

    def resume(self) -> "Running":
        self._resumed.set()
        return self

    def abort(self) -> "Running":
        """Resumes it with an error, so that it rolls back."""
        self._aborted = True
        return self.resume()

    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def outcome(self) -> Any:
        """What it returned or raised; waits for it."""
        self._thread.join(LIMIT)
        assert self.is_done(), "it hangs"
        return self.result

    def _run(self) -> None:
        try:
            connection.ensure_connection()
            self.pid = connection.connection.info.backend_pid
            self._connected.set()
            with _watch(self._pause, **self.pause):
                self.result = self.competitor()
        except Exception as error:
            self.result = error
        finally:
            connection.close()

    def _pause(self) -> None:
        self._paused.set()
        assert self._resumed.wait(LIMIT)
        if self._aborted:
            raise Aborted


def start(
    competitor: Competitor,
    *,
    pause_before: str | None = None,
    pause_after: str | None = None,
    nth: int = 1,
) -> Running:
    """Starts it in a thread of its own, to pause at the n-th statement with this text in it."""
    return Running(competitor, before=pause_before, after=pause_after, nth=nth)


def kill_before(competitor: Competitor, statement: str, *, nth: int = 1) -> bool:
    """Runs it in a process that dies by SIGKILL before the n-th statement with this text in it.

    Returns, when the database has noticed, whether there was such a statement.
    """

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def run(sender: Any) -> None:
        gc.disable()
        connection.ensure_connection()
        sender.send(connection.connection.info.backend_pid)
        with _watch(die, before=statement, nth=nth):
            competitor()
        connection.close()

    context = multiprocessing.get_context("fork")
    connections.close_all()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(sender,), daemon=True)
    process.start()
    sender.close()
    pid = receiver.recv()
    process.join(LIMIT)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    _wait_until_gone([pid])
    return process.exitcode != 0


@contextmanager
def _watch(
    act: Callable[[], None], *, before: str | None = None, after: str | None = None, nth: int = 1
) -> Iterator[None]:
    """Calls `act` before or after this connection runs the n-th statement with that text in it."""
    seen = 0

    def watch(execute: Callable, sql: str, params: Any, many: bool, context: dict) -> Any:
        nonlocal seen
        wanted = before or after
        is_it = False
        if wanted is not None and wanted in str(sql):
            seen += 1
            is_it = seen == nth
        if is_it and before:
            act()
        result = execute(sql, params, many, context)
        if is_it and after:
            act()
        return result

    with connection.execute_wrapper(watch):
        yield


# ── The machinery ─────────────────────────────────────────────────────────────────────────────────

Finish = tuple[int, int, Any]  # the competitor's number, its database process, its result


def _run_threads(numbered: list[tuple[int, Competitor]], barrier: Any) -> list[Finish]:
    finishes: list[Finish] = []

    def compete(number: int, competitor: Competitor) -> None:
        try:
            try:
                connection.ensure_connection()
                pid = connection.connection.info.backend_pid
                barrier.wait(LIMIT)
            except Exception:
                barrier.abort()
                raise
            try:
                result = competitor()
            except Exception as error:
                result = error
            finishes.append((number, pid, result))
        finally:
            connection.close()

    threads = [threading.Thread(target=compete, args=each, daemon=True) for each in numbered]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + LIMIT
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    hanging = sum(thread.is_alive() for thread in threads)
    assert hanging == 0, f"{hanging} of {len(threads)} hang"
    assert len(finishes) == len(threads), "not all could start"
    return finishes


def _run_processes(shares: list[list[tuple[int, Competitor]]]) -> list[Finish]:
    context = multiprocessing.get_context("fork")  # what it inherits needs no pickling
    barrier = context.Barrier(sum(len(share) for share in shares))

    def compete(share: list[tuple[int, Competitor]], sender: Any) -> None:
        gc.disable()
        finishes = _run_threads(share, barrier)
        sender.send([(number, pid, _portable(result)) for number, pid, result in finishes])

    connections.close_all()  # two processes on one connection would garble it
    running = []
    for share in shares:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=compete, args=(share, sender), daemon=True)
        process.start()
        sender.close()
        running.append((process, receiver))
    deadline = time.monotonic() + LIMIT
    finishes: list[Finish] = []
    for process, receiver in running:
        assert receiver.poll(max(0, deadline - time.monotonic())), "a process hangs"
        finishes += [(number, pid, _restored(sent)) for number, pid, sent in receiver.recv()]
        process.join(LIMIT)
        assert process.exitcode == 0
    return finishes


def _portable(result: Any) -> tuple[bool, Any]:
    """A result as it goes from process to process; of an exception its type and text."""
    if isinstance(result, Exception):
        return False, (type(result), str(result))
    return True, result


def _restored(sent: tuple[bool, Any]) -> Any:
    is_value, result = sent
    if is_value:
        return result
    kind, text = result
    return kind.__new__(kind, text)  # without its __init__, which may want something else


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)  # whoever is waited for needs the interpreter, too


def _ask(question: str, *values: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(question, values)
        return cursor.fetchone()[0]


def _is_blocked(pid: int) -> bool:
    return _ask("SELECT cardinality(pg_blocking_pids(%s)) > 0", pid)


def _wait_until_gone(pids: list[int]) -> None:
    """Waits for database processes to end: what they counted is visible to others only then."""
    alive = (
        "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s) AND datname = current_database()"
    )
    wait_until(lambda: _ask(alive, pids) == 0)


def _count_deadlocks() -> int:
    return _ask("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
