"""One reading for all who ask at the same time, where all may see the same.

When everybody looks at one show, most requests of a process ask what another one is just being
told. Nothing is kept for later: whoever asks gets what was read after they asked, so it is never
stale, least of all to who just wrote.
"""

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from time import monotonic, sleep
from typing import TypeVar

from django.db import connection

from bookings.errors import SlotBusy

Found = TypeVar("Found")

MOST_SECONDS = 15  # that anybody waits for the readings of others

# By key, the reading under way, and the one after it, which serves all who ask until it begins.
# The locks and futures become gevent's under gunicorn.
_begun: dict[Hashable, Future] = {}
_next: dict[Hashable, Future] = {}
_turn = Lock()


def read_together(key: Hashable, read: Callable[[], Found]) -> Found:
    """What `read` returns, called for this key by one at a time, for all who asked before.

    So the key says everything on which the answer depends, and what is returned is changed by
    nobody. An error goes to whoever was reading; the others read again, once, one for all of them.
    Who waits keeps no connection to the database. Raises SlotBusy if it takes too long.
    """
    if connection.in_atomic_block:
        return read()  # which sees what nobody else may see yet
    until = monotonic() + MOST_SECONDS
    error: BaseException | None = None
    for _ in range(2):
        with _turn:
            reading = _next.get(key)
            if is_mine := reading is None:
                reading = _next[key] = Future()
            before = _begun.get(key)
        if is_mine:
            return _read(key, read, reading, before, until)
        error = _wait_for(reading, until)
        if error is None:
            return reading.result()
    raise error.with_traceback(None)  # all raise the same one: it would gather where each was


def _read(
    key: Hashable,
    read: Callable[[], Found],
    reading: Future[Found],
    before: Future | None,
    until: float,
) -> Found:
    """Reads when the one before has ended, and tells all who wait for it how it went."""
    try:
        if before:
            _wait_for(before, until)
        sleep(0)  # whose request is here already, but not looked at yet, shall join
        with _turn:
            _begun[key] = _next.pop(key)
        found = read()
    except BaseException as error:
        reading.set_exception(error if isinstance(error, Exception) else SlotBusy())
        raise
    else:
        reading.set_result(found)
        return found
    finally:
        with _turn:
            for readings in (_next, _begun):
                if readings.get(key) is reading:
                    del readings[key]


def _wait_for(reading: Future, until: float) -> BaseException | None:
    """Its error, if any, when it has ended. Raises SlotBusy if it has not by then."""
    connection.close()
    try:
        return reading.exception(timeout=max(0.0, until - monotonic()))
    except TimeoutError:
        raise SlotBusy from None
