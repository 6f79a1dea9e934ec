"""Statements that are written once: the same as the ORM's, in one round trip, and a connection that
is as good as new whatever fails.
"""

import gc
import signal
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import (
    DataError,
    IntegrityError,
    InternalError,
    OperationalError,
    connection,
    transaction,
)
from django.db.models import Value
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext
from psycopg import Connection, errors
from psycopg.pq import TransactionStatus

from accounts import limits
from booking_site import counts, database, prepared
from booking_site.prepared import function, insert, select, send, update
from booking_site.tests.factories import SlotFactory
from booking_site.tests.races import lapse
from bookings import access, lifecycle, notices, seat_locks, writes
from bookings.errors import BrokenInvariant, KeyReused, SeatsTaken, SlotGone, SoldOut, TooManyHolds
from bookings.lifecycle import Holder
from bookings.models import Booking, BookingEvent
from slots import api as slots_api
from slots import inventory, live, seat_map
from slots import views as slots_views
from slots.models import Doctor, Seat, Show, Slot

pytestmark = pytest.mark.django_db(transaction=True)

KEY = "a key of sixteen characters"
NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)
EVENING = datetime(2031, 7, 2, 18, 30, 0, 125, tzinfo=UTC)
ONE, OTHER = uuid.uuid4(), uuid.uuid4()


@pytest.fixture(autouse=True)
def _nothing_was_sold_out() -> None:
    lifecycle._lately_sold_out.clear()


@pytest.fixture
def slot() -> Slot:
    return SlotFactory(rows=1, seats_per_row=6)


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been written yet."""
    monkeypatch.setattr(prepared, "_plans", {})


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each round trip of prepared statements: how many there were in it, COMMIT among them."""
    counts: list[int] = []
    converse = prepared._converse

    def count(raw: Connection, statements: Any, **options: Any) -> Any:
        counts.append(len(statements) + bool(options.get("commits")))
        return converse(raw, statements, **options)

    monkeypatch.setattr(prepared, "_converse", count)
    return counts


@prepared.prepared
def seats_of(*, slot: int) -> Any:
    return select(Seat.objects.filter(slot=slot))


@prepared.prepared
def sleep(*, text: str) -> Any:
    return function("SELECT pg_sleep(60), %s", text)


@prepared.prepared
def told(*, text: str) -> Any:
    return function("SELECT %s::text", text)


def names() -> list[str]:
    """What is prepared on the connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM pg_prepared_statements ORDER BY prepare_time, name")
        return [name for (name,) in cursor.fetchall()]


# ── The same as the ORM's ─────────────────────────────────────────────────────────────────────────

NOTHING = {"doctor": None, "show": None, "from_": None, "to": None}
ASKED: list[tuple[tuple, dict[str, Any]]] = [
    (("false",), NOTHING),
    (("true",), NOTHING),
    (("true",), NOTHING | {"doctor": 3}),
    (("false",), NOTHING | {"show": 4, "to": NOON}),
    (("false",), {"doctor": 5, "show": 6, "from_": NOON, "to": EVENING}),
]
BOOKING: dict[str, Any] = {
    "id": ONE,
    "reference": "7K3M9QXT",
    "slot_id": 7,
    "user_id": None,
    "session_key": "mine",
    "name": "Ada 100 % “sure”",
    "email": "ada@example.org",
    "phone": "",
    "quantity": 2,
    "labels": ["A1", "A, 2"],
    "status": Booking.Status.PENDING,
    "failure_reason": "",
    "expires_at": NOON,
    "idempotency_key": None,
    "request_digest": "",
    "created_at": NOON,
    "confirmed_at": None,
    "cancelled_at": None,
}
EVENT = {"booking_id": ONE, "action": "confirm", "from_status": "PENDING"}
EVENT |= {"to_status": "CONFIRMED", "actor": "guest", "reason": ""}

# Of each function that writes a statement: arguments by position and by name.
USES: list[tuple[Callable, list[tuple[tuple, dict[str, Any]]]]] = [
    (lifecycle._live_holds, [((5, 600), {"user": 3, "session_key": None})]),
    (lifecycle._live_holds, [((5, 600), {"user": None, "session_key": "mine"})]),
    (lifecycle._live_holds, [((4, 60), {"user": None, "session_key": "'; --"})]),
    (lifecycle._lock_number, [((), {"number": n}) for n in (1, -(2**63), 2**63 - 1)]),
    (database._set_bounds, [((), {"lock": "4s", "statement": "10s", "idle": "15s"})]),
    (lifecycle._lock_one_booking, [((), {"pk": ONE}), ((), {"pk": OTHER})]),
    (lifecycle._read_booking, [((), {"pk": ONE}), ((), {"pk": OTHER})]),
    (
        writes.insert_booking,
        [
            ((), BOOKING),
            ((), BOOKING | {"id": OTHER, "labels": [], "quantity": 1, "expires_at": EVENING}),
            ((), BOOKING | {"user_id": 5, "idempotency_key": KEY, "confirmed_at": NOON}),
        ],
    ),
    (writes._insert_event, [((), EVENT), ((), EVENT | {"booking_id": OTHER, "reason": "%s"})]),
    (
        writes._update_booking,
        [
            ((), {"pk": ONE, "was": "PENDING", "expires_at": NOON}),
            ((), {"pk": OTHER, "was": "CONFIRMED", "slot": 7, "quantity": 1, "labels": ["A1"]}),
            ((), {"pk": OTHER, "was": "PENDING", "slot": 8, "quantity": 2, "labels": ["A", "B"]}),
            ((), {"pk": ONE, "was": "PENDING", "status": "CONFIRMED", "confirmed_at": EVENING}),
        ],
    ),
    (
        writes._update_seats,
        [
            ((), {"pks": (1,), "booking": ONE, "held_until": NOON}),
            ((), {"pks": (3, 2), "booking": OTHER, "held_until": EVENING}),
            ((), {"pks": (2,), "booking": OTHER, "held_until": None}),
        ],
    ),
    (writes._free_seats, [((), {"pks": pks, "booking": ONE}) for pks in ((1,), (5, 6), (7, 8))]),
    (seat_locks.read_slot, [((), {"pk": 1}), ((), {"pk": 2**40})]),
    (seat_locks._read_whole_slot, [((), {"pk": 1}), ((), {"pk": 2**40})]),
    (seat_locks._lock_named, [((), {"pks": pks}) for pks in ((1,), (2,), (2, 3, 4), (-5, 0, 9))]),
    *(
        (
            search,
            [
                ((1,), {"slot": 1, "at": 5, "mine": None}),
                ((1,), {"slot": 5, "at": 1, "mine": [9]}),
                ((3,), {"slot": 2, "at": 2**20, "mine": [2]}),
                ((3,), {"slot": 2, "at": 0, "mine": [2, 3]}),
            ],
        )
        for search in (seat_locks._lock_free_from, seat_locks._lock_free_before)
    ),
    (
        seat_locks._lock_lapsed,
        [((n,), {"slot": n, "mine": mine}) for n in (1, 2) for mine in (None, [1], [1, 2])],
    ),
    (
        seat_locks._see_left,
        [((2,), {"slot": 1, "own": None}), ((2,), {"slot": 3, "own": ONE})],
    ),
    (
        seat_locks._lock_own_and_named,
        [((), {"booking": ONE, "pks": pks}) for pks in (None, (1,), (2,), (4, 3))],
    ),
    (seat_locks.lock_own, [((), {"booking": ONE}), ((), {"booking": OTHER})]),
    (access._read_booking, [((with_seats,), {"pk": ONE}) for with_seats in (True, False)]),
    (
        access._read_made_with,
        [((), {"user": user, "key": key}) for user in (None, 7) for key in ("a key", "%")],
    ),
    (notices._insert_mail, [((), {"message_data": m, "when_added": NOON}) for m in ("a", "%s")]),
    (limits._without_disk, [((), {})]),
    (limits._lock, [((), {"key": key}) for key in ("a", "%s")]),
    (counts._read, [(("cache",), {"keys": keys}) for keys in (["a"], ["%s", "b"])]),
    (
        counts._write,
        [
            (("cache",), {"key": "a", "value": value, "seconds": n})
            for n in (0, 7)
            for value in "b%"
        ],
    ),
    (counts._purge, [(("cache",), {})]),
    (slots_views._find_slot, [((), {"pk": 1}), ((), {"pk": 2**40})]),
    (
        slots_views._find_own,
        [
            ((), {"user": user, "session_key": key, "slot": 3})
            for user, key in ((None, "mine"), (7, None), (7, "mine"), (8, "yours"))
        ],
    ),
    (slots_views._soonest, [((model, most), {}) for model in (Doctor, Show) for most in (2, 7)]),
    (
        slots_views._next_slots,
        [((model, 4), {"pks": pks}) for model in (Doctor, Show) for pks in ((1,), (3, 2), (2,))],
    ),
    (seat_map._read_seats, [((), {"slot": 1}), ((), {"slot": 2**40})]),
    (slots_api._write_seats, [((), {"slot": 1}), ((), {"slot": 2**40})]),
    (slots_api._first, [((n, *shape), asked) for n in (10, 50) for shape, asked in ASKED]),
    (slots_api._count, ASKED),
]


MODULES = (access, counts, database, lifecycle, limits, notices, seat_locks)
MODULES += (slots_views, slots_api, seat_map, writes)


def test_every_prepared_function_is_among_those_compared() -> None:
    found = {
        name
        for module in MODULES
        for name, each in vars(module).items()
        if hasattr(each, "__wrapped__") and each.__code__ is told.__code__
    }
    assert found == {each.__name__ for each, _ in USES}


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("number", range(len(USES)), ids=[use[0].__name__ for use in USES])
def test_reused_statement_is_what_the_orm_would_write_now(number: int) -> None:
    """The first use writes it; whatever the values of the others are, they come out the same."""
    make, uses = USES[number]
    with transaction.atomic():
        for shape, values in uses * 2:
            statement = make(*shape, **values)
            now = make.__wrapped__(*shape, **values)
            assert statement.plan.sql == now.sql
            assert statement.params() == list(now.params)


def undone(act: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What it returns, and the SQL that it sent; and that as if it had not been."""
    with CaptureQueriesContext(connection) as queries, transaction.atomic():
        result = act()
        transaction.set_rollback(True)
    return result, [query["sql"] for query in queries if query["sql"] not in ("BEGIN", "ROLLBACK")]


def test_helpers_write_what_the_orm_executes(slot: Slot) -> None:
    booking = lifecycle.hold(slot, quantity=2, name="100 %")
    seats, shown = Seat.objects.filter(slot=slot), Booking.objects.for_page().with_seats()
    union = seats.free().values_list("pk").union(seats.owned().values_list("pk")).order_by("pk")
    for rows in (
        *(seats.lock(), seats.with_state().order_by("-id")[1:4], shown, union),
        *(seats.values_list("pk", "label"), seats.values_list("pk", "label", named=True)),
        *(seats.values_list("label", flat=True), Slot.objects.for_page()),
    ):
        expected, by_orm = undone(lambda rows=rows: list(rows.all()))
        assert expected
        with transaction.atomic():
            statement = prepared.Statement(prepared.Plan("test", select(rows), []), [])
            [quick] = send(statement)
        assert undone(lambda statement=statement: send(statement)) == ([expected], by_orm)
        assert quick == expected

    changed = seats.filter(label="A6")
    event = {"booking": booking, "action": "confirm", "from_status": "PENDING", "actor": "me"}
    for written, execute in (
        (update(changed, row="%", number=None), lambda: changed.update(row="%", number=None)),
        (update(changed, label=Value("B1")), lambda: changed.update(label=Value("B1"))),
        (insert(BookingEvent(**event)), lambda: [BookingEvent.objects.create(**event)] and 1),
    ):
        statement = prepared.Statement(prepared.Plan("test", written, []), [])
        expected, [by_orm] = undone(execute)
        by_orm = by_orm.partition(" RETURNING ")[0]  # of what PostgreSQL makes nobody asks us
        assert undone(lambda statement=statement: send(statement)) == ([expected], [by_orm])
        assert send(statement) == [expected] == [1]


def test_models_are_as_the_orm_makes_them(slot: Slot) -> None:
    booking = lifecycle.hold(slot, quantity=2)
    [[quick]] = send(lifecycle._read_booking(pk=booking.pk))
    slow = Booking.objects.for_page().get(pk=booking.pk)
    ages = {"seconds_left", "now", "_state"}
    assert {k: v for k, v in vars(quick).items() if k not in ages} == {
        k: v for k, v in vars(slow).items() if k not in ages
    }
    assert quick._state.fields_cache.keys() == slow._state.fields_cache.keys() == {"slot"}
    assert (quick._state.adding, quick._state.db) == (False, "default")
    assert quick.slot.show == slow.slot.show
    with CaptureQueriesContext(connection) as queries:
        assert str(quick.slot)
    assert len(queries) == 0


def test_what_changes_a_booking_returns_all_that_pages_and_the_api_show(slot: Slot) -> None:
    def assert_whole(found: Booking, seconds_left: float) -> None:
        read = Booking.objects.for_page().with_seats().get(pk=found.pk)
        for name in vars(read).keys() - {"_state", "now", "seconds_left"}:
            assert getattr(found, name) == getattr(read, name), name
        assert "slot" in found._state.fields_cache
        assert (found._state.adding, found._state.db) == (False, "default")
        assert abs(found.seconds_left - seconds_left) < 30
        assert found.now >= found.created_at

    booking = lifecycle.hold(slot, quantity=2, name="Ada", idempotency_key=KEY)
    assert (booking.seconds_left, booking.now) == (120, booking.created_at)
    assert_whole(booking, 120)
    assert_whole(lifecycle.extend(booking), 120)
    others = [seat.pk for seat in slot.seats.order_by("-pk")[:3]]
    assert_whole(lifecycle.reschedule(booking, slot=slot, seat_ids=others), 120)
    for _ in range(2):
        assert_whole(lifecycle.confirm(booking, email="ada@example.org", phone=""), 120)
    assert_whole(lifecycle.reschedule(booking, slot=SlotFactory(), quantity=1), 120)
    for _ in range(2):
        assert_whole(lifecycle.cancel(booking, reason="ill"), 120)
    held = lifecycle.hold(slot, quantity=1)
    assert_whole(lifecycle.release(held, actor="desk"), 120)
    lifecycle.confirm(lifecycle.hold(slot, quantity=1))
    [ended] = lifecycle.cancel_slot(slot, actor="desk")
    assert_whole(ended, 120)
    booking.name = "Grace"
    booking.save(update_fields=["name"])  # it is in the database, and knows it


def test_slot_to_be_held_need_not_be_read(slot: Slot, trips: list[int]) -> None:
    assert lifecycle.hold(Slot(pk=slot.pk), quantity=1).slot == slot
    assert trips == [3, 3]


def test_slot_that_is_gone_is_said_to_be_gone(slot: Slot) -> None:
    known = Slot(pk=slot.pk)
    inventory.delete_slot(slot)
    for seats in ({"quantity": 1}, {"seat_ids": [slot.first_seat_id]}):
        with pytest.raises(SlotGone):
            lifecycle.hold(known, **seats)


def test_slot_that_is_sold_out_and_gone_is_said_to_be_gone(slot: Slot) -> None:
    known = Slot(pk=slot.pk)
    lifecycle._lately_sold_out.add(slot.pk)
    inventory.delete_slot(slot)
    with pytest.raises(SlotGone):
        lifecycle.hold(known, quantity=1)


# ── What decides about a plan ─────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("anew")
def test_none_one_and_two_values_have_plans_of_their_own() -> None:
    with transaction.atomic():
        wanted, others = (None, (1,), (1, 2)), (None, (7,), (5, 6))
        plans = [seat_locks._lock_own_and_named(booking=ONE, pks=pks).plan for pks in wanted]
        again = [seat_locks._lock_own_and_named(booking=OTHER, pks=pks).plan for pks in others]
    assert len({plan.query for plan in plans}) == 3
    assert again == plans


@pytest.mark.usefixtures("anew")
def test_array_has_one_plan_however_long_it_is(slot: Slot) -> None:
    """Else there would be one for each number of seats wanted and each that is locked already."""
    seats = list(slot.seats.values_list("pk", flat=True))
    for most in (1, 6):
        for number in range(1, 6):
            with transaction.atomic():
                search = seat_locks._lock_free_from(most, slot=slot.pk, at=0, mine=seats[:number])
                [found] = send(search)
            assert [seat.pk for seat in found] == seats[number:][:most]
    searched = seat_locks._lock_free_from.__wrapped__
    assert [key[0] for key in prepared._plans].count(searched) == 2


@pytest.mark.usefixtures("anew")
def test_so_many_plans_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "MOST_PLANS", 3)
    for n in range(1, 8):
        assert send(slots_views._next_slots(Doctor, 4, pks=tuple(range(n)))) == [[]]
        assert len(prepared._plans) <= 3


def test_name_is_that_of_the_statement_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two may be lent the same connection to PostgreSQL, one after the other."""
    ways = [{"email": "ada@example.org"}, {"name": "Ada"}, {"phone": "1"}]
    names = []
    for order in (ways, ways[::-1]):
        monkeypatch.setattr(prepared, "_plans", {})
        plans = [writes._update_booking(pk=ONE, was="PENDING", **way).plan for way in order]
        names.append({plan.query: plan.name for plan in plans})
    assert names[0] == names[1]
    assert len(set(names[0].values())) == 3


def test_value_without_a_place_is_refused() -> None:
    @prepared.prepared
    def forgetful(*, slot: int, label: str) -> Any:
        return select(Seat.objects.filter(slot=slot))

    with pytest.raises(TypeError, match="forgetful has no place"):
        forgetful(slot=1, label="A1")


@pytest.mark.parametrize("value", [True, 1.5, b"A1", {"label": "A1"}])
def test_value_of_another_kind_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=f"cannot be a {type(value).__name__}"):
        told(text=value)


def test_percent_signs_arrive() -> None:
    @prepared.prepared
    def percent(*, text: str) -> Any:
        return function("SELECT 'a%%b' || %s, %s", text, "100 %")

    for _ in range(2):
        assert send(percent(text="%s")) == [[("a%b%s", "100 %")]]
    assert undone(lambda: send(percent(text="%s")))[0] == [[("a%b%s", "100 %")]]


def inserted(booking: Booking) -> prepared.Statement:
    return writes.insert_booking(**{name: getattr(booking, name) for name in BOOKING})


# ── Round trips ───────────────────────────────────────────────────────────────────────────────────


def test_round_trips(slot: Slot, trips: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of so many statements; BEGIN comes along with the first, and COMMIT with the last."""
    monkeypatch.setattr(seat_locks.random, "randint", lambda first, last: first)
    elsewhere = {"slot": SlotFactory(), "quantity": 1}
    costs: list[tuple[list[int], Callable[[], Any]]] = [
        ([3, 3], lambda: lifecycle.hold(slot, quantity=1)),
        ([3, 3], lambda: lifecycle.hold(slot, seat_ids=[slot.first_seat_id + 5])),
        ([3, 2, 3], lambda: lifecycle.hold(slot, quantity=1, holder=Holder(session_key="mine"))),
        ([4, 3], lambda: lifecycle.extend(Booking.objects.first())),
        ([4, 5], lambda: lifecycle.confirm(Booking.objects.first(), email="ada@example.org")),
        ([3, 1, 2, 1, 6], lambda: lifecycle.reschedule(Booking.objects.first(), **elsewhere)),
        ([4, 5], lambda: lifecycle.cancel(Booking.objects.first())),
    ]
    for expected, act in costs:
        trips.clear()
        act()
        assert trips == expected


def test_sold_out_again_is_one_look(slot: Slot, trips: list[int]) -> None:
    lifecycle.hold(slot, quantity=6)
    for expected in ([3, 2, 2, 2], [2], [2]):
        trips.clear()
        with pytest.raises(SoldOut, match="No places are left"):
            lifecycle.hold(slot, quantity=1)
        assert trips == expected


def test_seat_of_a_slot_that_was_sold_out_is_held_at_once(slot: Slot) -> None:
    booking = lifecycle.hold(slot, quantity=6)
    for give_back in (lapse, lifecycle.cancel):
        with pytest.raises(SoldOut):
            lifecycle.hold(slot, quantity=1)
        assert lifecycle._lately_sold_out == {slot.pk}
        give_back(booking)
        booking = lifecycle.hold(slot, quantity=6)
        assert booking.quantity == 6
        assert lifecycle._lately_sold_out == set()


def test_key_of_a_slot_that_is_sold_out_since_gives_its_booking(slot: Slot) -> None:
    first = lifecycle.hold(slot, quantity=6, idempotency_key=KEY)
    with pytest.raises(SoldOut):
        lifecycle.hold(slot, quantity=1)
    again = lifecycle.hold(slot, quantity=6, idempotency_key=KEY)
    assert (again.pk, again.is_new) == (first.pk, False)
    with pytest.raises(KeyReused):
        lifecycle.hold(slot, quantity=1, idempotency_key=KEY)


@pytest.mark.parametrize("prepares", [True, False])
def test_all_of_it_with_and_without_prepared_statements(
    slot: Slot, settings: LazySettings, prepares: bool
) -> None:
    settings.PREPARED_STATEMENTS = prepares
    connection.close()
    mine = Holder(session_key="mine")
    held = lifecycle.hold(slot, quantity=2, holder=mine, idempotency_key=KEY)
    assert lifecycle.hold(slot, quantity=2, holder=mine, idempotency_key=KEY).pk == held.pk
    named = lifecycle.hold(slot, seat_ids=[seat["id"] for seat in _others(slot, held)[:3]])
    with pytest.raises(SeatsTaken):
        lifecycle.hold(slot, seat_ids=[held.booked_seats[0]["id"]])
    with pytest.raises(SoldOut, match="Only one place"):
        lifecycle.hold(slot, quantity=2)
    lapse(named)
    settings.MAX_LIVE_HOLDS = 1
    with pytest.raises(TooManyHolds):
        lifecycle.hold(slot, quantity=1, holder=mine)
    assert lifecycle.hold(slot, quantity=4).quantity == 4
    lifecycle.extend(held)
    confirmed = lifecycle.confirm(held, name="Ada")
    assert (confirmed.state, confirmed.name) == ("CONFIRMED", "Ada")
    other = SlotFactory(places=3)
    moved = lifecycle.reschedule(confirmed, slot=other, quantity=3)
    assert (moved.slot_id, moved.quantity, len(moved.booked_seats)) == (other.pk, 3, 3)
    assert lifecycle.cancel(moved).state == "CANCELLED"
    assert lifecycle.expire_due() == (1, 0)
    assert (names() != []) is prepares


def _others(slot: Slot, booking: Booking) -> list[dict[str, Any]]:
    mine = {seat["id"] for seat in booking.booked_seats}
    return [{"id": pk} for pk in slot.seats.values_list("pk", flat=True) if pk not in mine]


# ── What fails, and what is left of the connection ────────────────────────────────────────────────


@pytest.fixture
def server() -> Iterator[Connection]:
    """The connection, which must be in order in the end: the same, or another one."""
    connection.ensure_connection()
    yield connection.connection
    assert send(told(text="well")) == [[("well",)]]
    assert connection.connection.pgconn.transaction_status == TransactionStatus.IDLE


def test_first_error_is_djangos_and_ends_the_trip(server: Connection, slot: Slot) -> None:
    booking = lifecycle.hold(slot, quantity=1)
    again = inserted(booking)
    rename = writes._update_booking(pk=booking.pk, was="PENDING", name="not done")
    with pytest.raises(IntegrityError) as raised, transaction.atomic():
        send(told(text="before"), again, rename, again)
    assert isinstance(raised.value.__cause__, errors.UniqueViolation)
    assert raised.value.__cause__.diag.constraint_name == "bookings_booking_pkey"
    assert Booking.objects.get().name == ""
    assert connection.connection is server


def test_commit_goes_along(server: Connection, slot: Slot) -> None:
    with transaction.atomic():
        send(
            inserted(Booking(slot=slot, quantity=1, created_at=NOON, expires_at=NOON)),
            commits=True,
        )
        assert server.pgconn.transaction_status == TransactionStatus.IDLE
    assert Booking.objects.count() == 1


def test_commit_does_not_go_along_within_other_blocks(server: Connection, slot: Slot) -> None:
    with transaction.atomic():
        with transaction.atomic():
            send(
                inserted(Booking(slot=slot, quantity=1, created_at=NOON, expires_at=NOON)),
                commits=True,
            )
        assert server.pgconn.transaction_status == TransactionStatus.INTRANS
        transaction.set_rollback(True)
    assert Booking.objects.count() == 0


@pytest.mark.parametrize("is_watched", [False, True])
def test_wrong_number_of_rows_is_refused_and_nothing_is_committed(
    server: Connection, slot: Slot, is_watched: bool
) -> None:
    """Neither what went before it, in the same round trip, nor what it did itself."""
    lost = [SimpleNamespace(pk=slot.first_seat_id), SimpleNamespace(pk=slot.last_seat_id + 1)]
    booking = Booking(slot=slot, quantity=2, created_at=NOON, expires_at=NOON)
    give = writes.give_seats(lost, booking, held_until=NOON)
    for changes in (
        [inserted(booking), *give],
        [inserted(booking), *writes.release_seats(lost[:1], booking)],
        [inserted(booking), writes._update_booking(pk=ONE, was="PENDING", name="x")],
    ):
        watching = CaptureQueriesContext(connection) if is_watched else nullcontext()
        refusing = pytest.raises(BrokenInvariant, match=r"changed [01] rows, not [12]\b")
        with watching, refusing, transaction.atomic():
            writes.write(*changes)
        assert Booking.objects.count() == Seat.objects.owned().count() == 0
    assert connection.connection is server


def test_refusals_prepare_nothing_anew(server: Connection, slot: Slot) -> None:
    lifecycle.hold(slot, quantity=6)
    seen = []
    for _ in range(3):
        lifecycle._lately_sold_out.clear()
        with pytest.raises(SoldOut):
            lifecycle.hold(slot, quantity=1)
        seen.append(names())
    assert seen == [seen[0]] * 3
    assert seen[0] != []
    assert connection.connection is server


def test_what_could_not_be_prepared_is_prepared_the_next_time(server: Connection) -> None:
    @prepared.prepared
    def absent(*, text: str) -> Any:
        return function("SELECT %s FROM table_that_is_not_there", text)

    for _ in range(2):
        with pytest.raises(Exception, match="table_that_is_not_there"):
            send(absent(text="a"), seats_of(slot=1))
    assert send(seats_of(slot=1)) == [[]]
    assert connection.connection is server


def test_text_that_postgresql_cannot_keep_is_not_sent(server: Connection) -> None:
    with pytest.raises(DataError), transaction.atomic():
        send(told(text="fine"), told(text="NUL: \0"))
    assert connection.connection is server


def test_locks_outside_of_a_transaction_are_refused(server: Connection) -> None:
    with transaction.atomic():
        lock = lifecycle._lock_one_booking(pk=ONE)
    with pytest.raises(TransactionManagementError):
        send(lock)


def test_broken_transaction_is_refused(server: Connection) -> None:
    with transaction.atomic():
        transaction.set_rollback(True)
        with pytest.raises(TransactionManagementError):
            send(told(text="late"))


@pytest.mark.parametrize("spoil", ["DEALLOCATE ALL", "rename"])
def test_connection_that_others_use_too_is_given_up_and_nothing_prepared_any_more(
    server: Connection, spoil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "_are_lent", False)  # and so again afterwards
    send(told(text="prepared"))
    if spoil == "rename":  # ours is there, though we have not made it
        del vars(server)["holdfast_session"]
    else:
        server.execute(spoil)
    with pytest.raises(OperationalError), transaction.atomic():
        send(told(text="gone"))
    assert server.closed
    with transaction.atomic():
        assert send(told(text="one"), told(text="two")) == [[("one",)], [("two",)]]
    assert names() == []


def test_column_of_another_type_is_one_error_and_then_prepared_anew(server: Connection) -> None:
    @prepared.prepared
    def changing(*, text: str) -> Any:
        return function("SELECT changing.*, %s FROM changing", text)

    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE changing (a int)")
        assert send(changing(text="a")) == [[]]
        cursor.execute("ALTER TABLE changing ALTER a TYPE text")
    with pytest.raises(OperationalError), transaction.atomic():
        send(changing(text="a"))
    assert server.closed
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE changing (a text)")
    assert send(changing(text="a")) == [[]]
    assert any(name.startswith("changing_") for name in names())


def test_connection_that_the_server_ended_is_an_operational_error(server: Connection) -> None:
    def act() -> None:
        send(told(text="begun"))
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [server.info.backend_pid])
        send(told(text="gone"), told(text="gone, too"))

    other = connection.copy()
    with pytest.raises(OperationalError), transaction.atomic():
        act()
    other.close()
    assert server.closed


def test_what_ended_the_connection_is_told(server: Connection) -> None:
    """This process had stalled within a transaction: others had its locks, so it is "busy"."""

    def act() -> None:
        send(database._set_bounds(lock="4s", statement="10s", idle="1ms"))
        backend = "SELECT FROM pg_stat_activity WHERE pid = %s"
        while other.execute(backend, [server.info.backend_pid]).fetchall():
            pass
        send(told(text="too late"), told(text="never"))

    with connection.copy().cursor() as other:
        with pytest.raises(InternalError) as raised, transaction.atomic():
            act()
        other.db.close()
    assert isinstance(raised.value.__cause__, errors.IdleInTransactionSessionTimeout)
    assert server.closed


def test_closed_connection_is_not_kept(server: Connection) -> None:
    connection.close()
    with transaction.atomic():
        send(told(text="prepared"))
        mine = weakref.ref(connection.connection)
    mine().close()
    connection.close()
    gc.collect()
    assert mine() is None


def test_same_statement_twice_in_one_trip(server: Connection) -> None:
    connection.close()
    for _ in range(2):
        assert send(told(text="one"), told(text="two")) == [[("one",)], [("two",)]]
    assert len(names()) == 1


def test_time_out_in_a_trip_is_busy(server: Connection) -> None:
    bounds = database._set_bounds(lock="4s", statement="20ms", idle="15s")
    with pytest.raises(OperationalError) as raised, transaction.atomic():
        send(bounds, sleep(text="too long"), told(text="never"))
    assert isinstance(raised.value.__cause__, lifecycle.BUSY_ERRORS)
    assert connection.connection is server


def test_interrupt_ends_the_statement_and_the_connection_is_kept(server: Connection) -> None:
    """Ctrl-C, while it waits."""
    pid = server.info.backend_pid

    def interrupt() -> None:
        other = connection.copy()
        with other.cursor() as cursor:
            sleeping = "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
            while not cursor.execute(sleeping, [pid]).fetchall():
                pass
        other.close()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt), transaction.atomic():
        send(told(text="first"), sleep(text="for a minute"), told(text="never"))
    thread.join()
    signal.signal(signal.SIGINT, before)
    assert connection.connection is server


def test_abandoned_trip_closes_its_connection(server: Connection) -> None:
    """A greenlet that is killed while it waits never comes back to read the rest."""
    pid = server.info.backend_pid
    talk = prepared._converse(server, [sleep(text="for a minute")])
    next(talk)
    talk.close()
    assert server.closed
    connection.close()
    with connection.cursor() as cursor:  # PostgreSQL would sleep on
        cursor.execute("SELECT pg_terminate_backend(%s)", [pid])


def test_beyond_so_many_they_are_sent_as_they_are(
    server: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.close()
    monkeypatch.setattr(prepared, "MOST", 2)
    for _ in range(2):
        for n in range(5):
            pks = tuple(range(n + 1))
            with transaction.atomic():
                assert send(seat_locks._lock_named(pks=pks)) == [[]]
    assert len(names()) == 2


def test_watchers_see_every_statement(
    slot: Slot, trips: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live._outbox, "has_writer", True)  # as in a web process
    with CaptureQueriesContext(connection) as queries:
        lifecycle.hold(slot, seat_ids=[slot.first_seat_id])
    starts = [query["sql"].partition(" ")[0] for query in queries]
    assert starts == ["BEGIN", "SELECT", "SELECT", "SELECT", "INSERT", "WITH", "COMMIT"]
    seen = []

    def watch(execute: Callable, sql: str, *rest: Any) -> Any:
        seen.append(sql.partition(" ")[0])
        return execute(sql, *rest)

    with connection.execute_wrapper(watch):
        lifecycle.hold(slot, seat_ids=[slot.first_seat_id + 1])
    assert seen == starts[1:-1]
    assert trips == []
