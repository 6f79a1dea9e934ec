"""Being asked to stop: SIGTERM and Ctrl-C as a flag, for processes that finish what they began."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

STEP = 0.1  # seconds in which a signal is noticed


def is_stopping() -> bool:
    """Whether this web process is to stop. gunicorn.conf.py puts in its place what sees that."""
    return False


class StopSignal:
    """Whether a signal has asked us to stop.

    A plain flag and short sleeps, not a threading.Event: the handler of a second signal could come
    upon that event's lock while its own thread holds it, and wait for ever.
    """

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, seconds: float) -> bool:
        """Returns after so many seconds, or soon after a signal; whether there was one."""
        deadline = time.monotonic() + seconds
        while not self._is_set and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, STEP))
        return self._is_set


@contextmanager
def stop_signal(*numbers: signal.Signals) -> Iterator[StopSignal]:
    """A flag that these signals set instead of what they do otherwise."""
    stop = StopSignal()
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other one hears signals
        for number in numbers:
            before[number] = signal.signal(number, lambda *_: stop.set())
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
