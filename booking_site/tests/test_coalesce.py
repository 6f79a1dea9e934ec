"""One reading for all who asked before it began, and never an older one."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from threading import Event, Semaphore, get_ident
from traceback import walk_tb

import pytest
from django.db import OperationalError, close_old_connections, connection, transaction

from booking_site import coalesce
from booking_site.coalesce import read_together
from bookings.errors import SlotBusy
from slots.models import Slot

pytestmark = pytest.mark.django_db(transaction=True)

LIMIT = 10  # seconds


class Crowd:
    """One who reads until it `may_end`, and others who ask meanwhile. Readings are numbered."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.pool = pool
        self.begun, self.may_end, self.waiting = Event(), Event(), Semaphore(0)
        self.numbers = count(1)
        self.fails: set[int] = set()
        self.waits: dict[int, list[float]] = defaultdict(list)  # of each thread, seconds at most
        self.gathers = 0  # which reading lasts until three more wait

    def read(self) -> int:
        number = next(self.numbers)
        if number == 1:
            self.begun.set()
            assert self.may_end.wait(LIMIT)
        if number == self.gathers:
            self.wait_for(3)
        if number in self.fails:
            raise OperationalError
        return number

    def ask(self, key: str = "key", read: Callable | None = None) -> int | str:
        try:
            return read_together(key, read or self.read)
        except (OperationalError, SlotBusy) as error:
            return type(error).__name__
        finally:
            close_old_connections()

    def start(self, others: int) -> list[Future]:
        """The first one and the others, who wait."""
        first = self.pool.submit(self.ask)
        assert self.begun.wait(LIMIT)
        asking = [first, *(self.pool.submit(self.ask) for _ in range(others))]
        self.wait_for(others)
        return asking

    def wait_for(self, others: int) -> None:
        assert all(self.waiting.acquire(timeout=LIMIT) for _ in range(others))

    def end(self, asking: list[Future]) -> list[int | str]:
        self.may_end.set()
        first, *others = (each.result(LIMIT) for each in asking)
        return [first, *sorted(others, key=str)]


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    with ThreadPoolExecutor(6) as pool:
        crowd = Crowd(pool)

        class Watched(Future):
            def exception(self, timeout: float | None = None) -> BaseException | None:
                crowd.waits[get_ident()].append(timeout)
                crowd.waiting.release()
                return super().exception(timeout)

        monkeypatch.setattr(coalesce, "Future", Watched)
        yield crowd
        crowd.may_end.set()
    assert (coalesce._begun, coalesce._next) == ({}, {})  # nothing is kept


def test_those_who_ask_while_it_is_read_share_the_next_reading(crowd: Crowd) -> None:
    asking = crowd.start(others=5)
    assert crowd.end(asking) == [1, 2, 2, 2, 2, 2]
    assert [crowd.ask(), crowd.ask()] == [3, 4]


def test_who_has_come_already_joins_before_it_is_read(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[Future] = []

    def give_way(seconds: float) -> None:
        joined.append(crowd.pool.submit(crowd.ask))
        crowd.wait_for(1)

    monkeypatch.setattr(coalesce, "sleep", give_way)
    crowd.may_end.set()
    assert crowd.ask() == 1
    assert [each.result(LIMIT) for each in joined] == [1]


def test_another_key_is_another_reading(crowd: Crowd) -> None:
    asking = crowd.start(others=1)
    assert crowd.ask("other", lambda: "other") == "other"
    assert crowd.end(asking) == [1, 2]


def test_error_is_that_of_who_was_reading_and_the_others_read_again(crowd: Crowd) -> None:
    crowd.fails, crowd.gathers = {1, 2}, 3
    first, *others, last = crowd.end(crowd.start(others=5))
    assert (first, last) == ("OperationalError", "OperationalError")
    assert others[0] == 3
    assert set(others) <= {3, 4}  # those who were too late for the third share the fourth


def test_error_that_comes_again_is_that_of_all_who_wait(crowd: Crowd) -> None:
    crowd.fails, crowd.gathers = set(range(1, 9)), 3
    assert crowd.end(crowd.start(others=5)) == ["OperationalError"] * 6
    assert next(crowd.numbers) <= 5  # not one try each: the database may be away for long


def test_who_waits_too_long_is_told_so(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = crowd.start(others=0)
    monkeypatch.setattr(coalesce, "MOST_SECONDS", 0)
    assert crowd.ask() == "SlotBusy"
    assert crowd.end([first]) == [1]
    assert crowd.ask() == 2


def test_who_waits_twice_waits_no_longer_than_who_waits_once(crowd: Crowd) -> None:
    crowd.fails, crowd.gathers = {2}, 3
    crowd.end(crowd.start(others=5))
    twice = [waits for waits in crowd.waits.values() if len(waits) > 1]
    assert twice
    assert all(waits == sorted(set(waits), reverse=True) for waits in twice)


def test_shared_error_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: Future = Future()
    failed.set_exception(OperationalError())
    monkeypatch.setattr(coalesce, "_next", {"key": failed})
    frames = []
    for _ in range(3):
        with pytest.raises(OperationalError) as raised:
            read_together("key", lambda: None)
        frames.append(len(list(walk_tb(raised.value.__traceback__))))
    assert frames == [frames[0]] * 3


def test_who_waits_keeps_no_connection(crowd: Crowd) -> None:
    def ask() -> bool:
        Slot.objects.exists()
        assert connection.connection is not None
        crowd.ask()
        return connection.connection is None

    first, *_ = crowd.start(others=0)
    other = crowd.pool.submit(ask)
    crowd.wait_for(1)
    assert crowd.end([first]) == [1]
    assert other.result(LIMIT)


def test_in_a_transaction_everybody_reads_for_themselves(crowd: Crowd) -> None:
    asking = crowd.start(others=1)
    with transaction.atomic():
        assert crowd.ask(read=lambda: "mine") == "mine"
    assert crowd.end(asking) == [1, 2]
