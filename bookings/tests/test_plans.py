"""Every statement of the protocol uses its index, in a hall of 100,000 seats in whatever state.

Each is explained as it runs, right before it runs: what is tested is the lifecycle's own SQL.
Autovacuum is off meanwhile. In some states the statistics are out of date, as they are for a minute
after every rush, or for good if the rush was small beside the table.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from pytest_django import DjangoDbBlocker

from booking_site.tests.factories import SlotFactory, UserFactory
from booking_site.tests.plans import explain, run
from bookings import lifecycle, seat_locks
from bookings.errors import TooFew

# The hall is built and changed between the tests; what a test does in it is rolled back.
pytestmark = pytest.mark.django_db

SEATS = 100_000
PARTY = 10  # seats of each booking of the rush

NEXT_FREE = "seat_next_free"
LAPSED = "seat_lapsed"
OWN = "seat_by_booking"
BY_ID = "slots_seat_pkey"


def on_seats(act: Callable[[], Any], *, pages: int) -> list[str]:
    """The indexes on seats of each statement; asserts that none looked at more pages.

    Where to begin is read of the slot, of which there are a few: by whatever index, or none.
    """
    statements = explain("slots_seat", act)
    assert [each for each in statements if each.pages > pages] == []
    used = [each.indexes.split() for each in statements]
    return [" ".join(index for index in each if "slots_slot" not in index) for each in used]


# ── The hall, and what becomes of it ──────────────────────────────────────────────────────────────


class Hall:
    def __init__(self) -> None:
        run(*(f"ALTER TABLE {table} SET (autovacuum_enabled = off)" for table in TABLES))
        for _ in range(20):
            SlotFactory(places=20)
        self.analyze()  # by these statistics every slot is a small one
        self.slot = SlotFactory(places=SEATS)
        self.small = SlotFactory(places=500)
        self.snapshot = connection.copy()
        self.became: list[str] = []

    def become(self, state: str) -> None:
        """Goes through all states on the way that it has not been in."""
        for name, change in STATES.items():
            if name not in self.became:
                change(self)
                self.became.append(name)
            if name == state:
                return

    def stay(self) -> None:
        pass

    def analyze(self) -> None:
        run(*(f"ANALYZE {table}" for table in TABLES))

    def rush(self) -> None:
        """99 of 100 seats are sold, all over the hall, while somebody's old snapshot is open."""
        self.snapshot.set_autocommit(False)
        with self.snapshot.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT FROM slots_slot")
        run(
            f"""
            INSERT INTO bookings_booking
                (id, reference, session_key, name, email, phone, quantity, labels, status,
                 failure_reason, expires_at, request_digest, confirmed_at, slot_id)
            SELECT lpad(n::text, 32, '0')::uuid, lpad(n::text, 8, '0'), md5(n::text), '', '', '',
                   {PARTY}, '{{}}', 'CONFIRMED', '', now() + interval '1 h', '', now(),
                   {self.slot.pk}
            FROM generate_series(0, {SEATS // PARTY}) AS n
            """
        )
        self._sell(f"id % 100 <> {self.slot.first_seat_id} % 100")

    def sell_out(self) -> None:
        self._sell("true")

    def sell_out_and_vacuum(self) -> None:
        self.snapshot.close()
        self._sell("true")
        self.vacuum()

    def vacuum(self) -> None:
        run(*(f"VACUUM ANALYZE {table}" for table in TABLES))

    def give_some_back(self) -> None:
        self._bypass(
            f"UPDATE slots_seat SET booking_id = NULL WHERE slot_id = {self.slot.pk}"
            " AND id % 100 = 0"
        )
        self.vacuum()

    def lapse(self) -> None:
        """All that was sold was only held, and that is over. Of slots the statistics are new."""
        self._sell("true")
        run("ANALYZE slots_slot")
        self._bypass(
            "UPDATE bookings_booking SET status = 'PENDING', confirmed_at = NULL,"
            f" expires_at = now() - interval '1 h' WHERE slot_id = {self.slot.pk}",
            "UPDATE slots_seat SET held_until = now() - interval '1 h'"
            f" WHERE slot_id = {self.slot.pk}",
        )

    def _sell(self, which: str) -> None:
        first = self.slot.first_seat_id
        self._bypass(
            "UPDATE slots_seat"
            f" SET booking_id = lpad(((id - {first}) / {PARTY})::text, 32, '0')::uuid"
            f" WHERE slot_id = {self.slot.pk} AND booking_id IS NULL AND {which}"
        )

    def _bypass(self, *statements: str) -> None:
        """The triggers would take their time, a hundred thousand times."""
        run(
            "SET CONSTRAINTS ALL IMMEDIATE",
            *(f"ALTER TABLE {table} DISABLE TRIGGER USER" for table in TABLES),
            *statements,
            *(f"ALTER TABLE {table} ENABLE TRIGGER USER" for table in TABLES),
        )

    def close(self) -> None:
        self.snapshot.close()
        run(*(f"ALTER TABLE {table} RESET (autovacuum_enabled)" for table in TABLES))
        call_command("flush", verbosity=0, interactive=False)


TABLES = ["slots_seat", "bookings_booking"]
STATES: dict[str, Callable[[Hall], None]] = {
    "all free, statistics from before it was there": Hall.stay,
    "all free": Hall.analyze,
    "99 % taken in a rush, old statistics, old snapshot": Hall.rush,
    "sold out in a rush, old statistics, old snapshot": Hall.sell_out,
    "sold out": Hall.sell_out_and_vacuum,
    "99 % taken": Hall.give_some_back,
    "all lapsed, old statistics": Hall.lapse,
    "all lapsed": Hall.vacuum,
}
# Pages that a search for seats may look at. Vacuumed, it finds them at once. Until then, and while
# an old snapshot is open, it steps over what was taken: never over more than the hall.
PAGES = {
    "99 % taken in a rush, old statistics, old snapshot": 500,
    "sold out in a rush, old statistics, old snapshot": 4000,
    "all lapsed, old statistics": 100,
}
FEW_PAGES = 30


@pytest.fixture(scope="module")
def any_hall(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Hall]:
    with django_db_blocker.unblock():
        hall = Hall()
        yield hall
        hall.close()


@pytest.fixture(scope="module", params=STATES)
def state(request: pytest.FixtureRequest, any_hall: Hall) -> str:
    any_hall.become(request.param)
    return request.param


@pytest.fixture
def hall(any_hall: Hall, state: str, monkeypatch: pytest.MonkeyPatch) -> Hall:
    """In that state. Searches start in the middle instead of anywhere."""
    monkeypatch.setattr(seat_locks.random, "randint", lambda first, last: (first + last) // 2)
    return any_hall


@pytest.fixture
def pages(state: str) -> int:
    return PAGES.get(state, FEW_PAGES)


# ── The protocol ──────────────────────────────────────────────────────────────────────────────────

COUNT = f"{LAPSED} {NEXT_FREE}"


def test_hold_any(hall: Hall, state: str, pages: int) -> None:
    used = on_seats(lambda: lifecycle.hold(hall.slot, quantity=2), pages=pages)
    if "sold out" in state:
        assert used == [NEXT_FREE, NEXT_FREE, LAPSED, COUNT]
    elif "lapsed" in state:
        assert used == [NEXT_FREE, NEXT_FREE, LAPSED, BY_ID]
    else:
        assert used == [NEXT_FREE, BY_ID]


def test_hold_any_again_of_what_was_sold_out(hall: Hall, state: str, pages: int) -> None:
    lifecycle._lately_sold_out.add(hall.slot.pk)
    used = on_seats(lambda: lifecycle.hold(hall.slot, quantity=2), pages=pages)
    if "sold out" in state:
        assert used == [COUNT]
    else:
        assert used[0] == COUNT
        assert used[-1] == BY_ID


def test_hold_any_from_the_last_seat_on(
    hall: Hall, state: str, pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seat_locks.random, "randint", lambda first, last: last)
    used = on_seats(lambda: lifecycle.hold(hall.slot, quantity=2), pages=pages)
    if "sold out" in state:
        assert used == [NEXT_FREE, NEXT_FREE, LAPSED, COUNT]
    elif "lapsed" in state:
        assert used == [NEXT_FREE, NEXT_FREE, LAPSED, BY_ID]
    else:
        assert used == [NEXT_FREE, NEXT_FREE, BY_ID]


def test_wait_for_any(hall: Hall, state: str, pages: int) -> None:
    def wait() -> None:
        with transaction.atomic():
            seat_locks.lock_any(hall.slot, 2, wait=True)

    if "sold out" in state:
        with pytest.raises(TooFew):
            wait()
    elif "lapsed" in state:
        assert on_seats(wait, pages=pages) == [NEXT_FREE, NEXT_FREE, LAPSED, BY_ID]
    else:
        assert on_seats(wait, pages=pages) == [NEXT_FREE, BY_ID]


def test_candidates_when_there_are_none(hall: Hall, pages: int, state: str) -> None:
    used = on_seats(lambda: seat_locks.find_candidates(hall.slot, 2), pages=pages)
    if "sold out" in state or "lapsed" in state:
        assert used == [NEXT_FREE, NEXT_FREE, LAPSED]
    else:
        assert used == [NEXT_FREE]


def test_hold_named(hall: Hall) -> None:
    seat_ids = [hall.slot.first_seat_id + n for n in (7, 5003, 90011)]
    used = on_seats(lambda: lifecycle.hold(hall.slot, seat_ids=seat_ids), pages=FEW_PAGES)
    assert used == [BY_ID, BY_ID]  # lock and take, or lock and say which were taken


def test_count_left(hall: Hall, pages: int) -> None:
    used = on_seats(lambda: seat_locks.count_left(hall.slot, 10, None), pages=pages)
    assert used == [COUNT]


def test_small_slot_beside_the_hall(hall: Hall) -> None:
    hold = Held(hall)
    assert on_seats(hold.take, pages=FEW_PAGES) == [NEXT_FREE, BY_ID]
    for act in (hold.extend, hold.confirm, hold.cancel):
        own, change = on_seats(act, pages=FEW_PAGES)
        assert own == OWN
        assert change in (BY_ID, OWN, f"{OWN} {BY_ID}")


class Held:
    """A booking in the small slot, and what can be done with it."""

    def __init__(self, hall: Hall) -> None:
        self.hall = hall

    def take(self) -> None:
        self.booking = lifecycle.hold(self.hall.small, quantity=2)

    def extend(self) -> None:
        lifecycle.extend(self.booking)

    def confirm(self) -> None:
        lifecycle.confirm(self.booking)

    def cancel(self) -> None:
        lifecycle.cancel(self.booking)

    def move(self, **where: Any) -> None:
        lifecycle.reschedule(self.booking, slot=self.hall.slot, **where)


def test_move_into_the_hall(hall: Hall, state: str, pages: int) -> None:
    hold = Held(hall)
    hold.take()
    used = on_seats(lambda: hold.move(quantity=3), pages=pages)
    release = {BY_ID, OWN, f"{OWN} {BY_ID}"}
    if "sold out" in state:
        *search, count = used
        assert search == [OWN, NEXT_FREE, NEXT_FREE, LAPSED]
        assert {LAPSED, NEXT_FREE, OWN} <= set(count.split())
    else:
        *search, released, taken = used
        searched = [NEXT_FREE, NEXT_FREE, LAPSED] if "lapsed" in state else [NEXT_FREE]
        assert search == [OWN, *searched]
        assert released in release
        assert taken == BY_ID


def test_move_to_named_seats(hall: Hall) -> None:
    hold = Held(hall)
    hold.take()
    seat_ids = [hall.slot.first_seat_id + n for n in (11, 5017, 90023)]
    swap, *others = on_seats(lambda: hold.move(seat_ids=seat_ids), pages=FEW_PAGES)
    assert swap == f"{OWN} {BY_ID}"
    assert {BY_ID, OWN, f"{OWN} {BY_ID}"} >= set(others)


def test_expire_due(hall: Hall, state: str) -> None:
    def expire() -> None:
        lifecycle.expire_due(batch_size=5)

    if "lapsed" not in state:
        assert lifecycle.expire_due() == (0, 0)
        return
    find, change = explain("bookings_booking", expire)
    assert (find.indexes, find.pages < FEW_PAGES) == ("booking_due", True)
    assert change.indexes in ("bookings_booking_pkey", "booking_due")
    own, release = on_seats(expire, pages=200)  # of 50 seats
    assert own == OWN
    assert release in (BY_ID, OWN, f"{OWN} {BY_ID}")


# ── Bookings ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("whose", ["user", "browser"])
def test_live_holds_of_a_holder_among_those_of_a_rush(any_hall: Hall, whose: str) -> None:
    """The statistics know of no live hold; many other people have one."""
    run(
        f"""
        INSERT INTO bookings_booking
            (id, reference, session_key, name, email, phone, quantity, labels, status,
             failure_reason, expires_at, request_digest, slot_id)
        SELECT gen_random_uuid(), '{whose[0]}' || lpad(n::text, 7, '0'), md5('rush' || n), '', '',
               '', 1, '{{}}', 'PENDING', '', now() + interval '1 h', '', {any_hall.small.pk}
        FROM generate_series(1, 5000) AS n
        """
    )
    if whose == "user":
        holder, index = lifecycle.Holder(user=UserFactory()), "booking_by_user"
    else:
        holder, index = lifecycle.Holder(session_key="a guest's browser"), "booking_by_browser"
    for _ in range(2):
        lifecycle.hold(any_hall.small, quantity=1, holder=holder)

    [count] = explain("bookings_booking", lambda: limit(holder))
    assert (count.indexes, count.pages < FEW_PAGES) == (index, True)


def limit(holder: lifecycle.Holder) -> None:
    with transaction.atomic():
        lifecycle._limit_live_holds(holder)
