"""Every transition of a booking in every state, and every refusal, which changes nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction
from django.utils import timezone
from psycopg_pool import PoolTimeout
from pytest_django import DjangoAssertNumQueries, Settings

from booking_site import database
from booking_site.tests.factories import SlotFactory, UserFactory
from booking_site.tests.races import lapse
from bookings import lifecycle, refusals, seat_locks
from bookings.errors import AccountGone
from bookings.lifecycle import (
    BrokenInvariant,
    Holder,
    HoldExpired,
    InvalidRequest,
    KeyReused,
    SeatsTaken,
    SlotBusy,
    SlotClosed,
    SoldOut,
    TooManyHolds,
    WrongState,
)
from bookings.models import Booking, BookingEvent
from slots import inventory
from slots.models import Seat, Slot

pytestmark = pytest.mark.django_db(transaction=True)

KEY = "a key of sixteen characters"


@pytest.fixture
def slot() -> Slot:
    """Six places in a row, A1 to A6."""
    return SlotFactory(rows=1, seats_per_row=6)


def seat_ids(slot: Slot, *labels: str) -> list[int]:
    return [slot.seats.get(label=label).pk for label in labels]


def hold(slot: Slot, *labels: str, **details: Any) -> Booking:
    return lifecycle.hold(slot, seat_ids=seat_ids(slot, *labels), **details)


def owned(booking: Booking) -> list[str]:
    return [seat.label for seat in booking.seats.all()]


def everything() -> list[list[tuple]]:
    """All rows of all tables that the lifecycle writes."""
    return [list(model.objects.order_by("pk").values_list()) for model in (Seat, Booking, Event)]


Event = BookingEvent


@contextmanager
def refused(error: type[Exception], message: str = "") -> Iterator[pytest.ExceptionInfo]:
    """Asserts that this error is raised, with this message, and that nothing is changed."""
    before = everything()
    with pytest.raises(error) as raised:
        yield raised
    assert everything() == before
    if message:
        assert str(raised.value) == message


def events(booking: Booking) -> list[tuple]:
    fields = ("action", "from_status", "to_status", "actor", "reason")
    return list(booking.events.values_list(*fields))


def clock() -> datetime:
    """The database's."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        return cursor.fetchone()[0]


# ── The state table of the API ────────────────────────────────────────────────────────────────────


def live(slot: Slot) -> Booking:
    return hold(slot, "A1", "A2")


def lapsed(slot: Slot) -> Booking:
    booking = live(slot)
    lapse(booking)
    return booking


def swept(slot: Slot) -> Booking:
    booking = lapsed(slot)
    lifecycle.expire_due()
    return booking


def confirmed(slot: Slot) -> Booking:
    return lifecycle.confirm(live(slot))


def cancelled(slot: Slot) -> Booking:
    return lifecycle.cancel(confirmed(slot))


def given_up(slot: Slot) -> Booking:
    return lifecycle.cancel(live(slot))


def turned_away(slot: Slot) -> Booking:
    """The record of an attempt that was refused: seats taken."""
    other = live(slot)
    with pytest.raises(SeatsTaken):
        live(slot)
    refusals.flush()
    lifecycle.cancel(other)
    return Booking.objects.get(status="FAILED")


STATES = [live, lapsed, swept, confirmed, cancelled, given_up, turned_away]
DONE = "done"
SAME = "unchanged"
TABLE = {
    "confirm": [DONE, HoldExpired, HoldExpired, SAME, WrongState, WrongState, WrongState],
    "extend": [DONE, HoldExpired, HoldExpired, WrongState, WrongState, WrongState, WrongState],
    "reschedule": [DONE, HoldExpired, HoldExpired, DONE, WrongState, WrongState, WrongState],
    "cancel": [DONE, HoldExpired, WrongState, DONE, SAME, SAME, WrongState],
}


def act(action: str, booking: Booking, slot: Slot) -> Booking:
    if action == "reschedule":
        return lifecycle.reschedule(booking, slot=slot, seat_ids=seat_ids(slot, "A3", "A4"))
    return getattr(lifecycle, action)(booking)


@pytest.mark.parametrize("action", TABLE)
@pytest.mark.parametrize("number", range(len(STATES)), ids=[state.__name__ for state in STATES])
def test_action_in_state(slot: Slot, action: str, number: int) -> None:
    booking = STATES[number](slot)
    expected = TABLE[action][number]
    if expected not in (DONE, SAME):
        with refused(expected):
            act(action, booking, slot)
        return

    before = everything()
    after = act(action, booking, slot)
    if expected == SAME:
        assert everything() == before
    assert after.pk == booking.pk
    if action == "reschedule":
        assert (after.state, after.labels) == (booking.status, ["A3", "A4"])
        assert owned(after) == ["A3", "A4"]
    elif action == "cancel":
        assert (after.state, owned(after)) == ("CANCELLED", [])
    else:
        assert after.state == {"confirm": "CONFIRMED", "extend": "PENDING"}[action]
        assert owned(after) == ["A1", "A2"]


def test_refusal_in_the_wrong_state_says_which(slot: Slot) -> None:
    booking = cancelled(slot)
    with refused(WrongState, "This booking is cancelled, so it cannot be confirmed."):
        lifecycle.confirm(booking)
    with refused(WrongState, "This booking is cancelled, so it cannot be extended."):
        lifecycle.extend(booking)
    with refused(WrongState, "This booking is cancelled, so it cannot be rescheduled."):
        lifecycle.reschedule(booking, slot=slot, quantity=1)


def test_state_is_read_from_the_database_not_from_the_object(slot: Slot) -> None:
    stale = live(slot)
    lifecycle.cancel(Booking.objects.get(pk=stale.pk))
    assert stale.status == "PENDING"
    with refused(WrongState):
        lifecycle.confirm(stale)


@pytest.mark.parametrize("action", TABLE)
def test_action_on_a_booking_that_is_gone(slot: Slot, action: str) -> None:
    with refused(Booking.DoesNotExist):
        act(action, Booking(slot=slot), slot)


# ── Slots that are closed ─────────────────────────────────────────────────────────────────────────

HOUR = timedelta(hours=1)
CALLED_OFF = "This has been called off, so it cannot be booked."
NOT_OPEN = "Booking has not opened yet."
CLOSED = "Booking has closed."
BEGUN_CANCEL = "It has begun, so it can no longer be cancelled here."
BEGUN_MOVE = "It has begun, so it can no longer be moved."


def called_off(now: datetime) -> dict:
    return {"cancelled_at": now}


def not_open(now: datetime) -> dict:
    return {"opens_at": now + HOUR}


def closed(now: datetime) -> dict:
    return {"closes_at": now - HOUR}


def begun(now: datetime) -> dict:
    return {"starts_at": now - HOUR}


def begun_and_on_sale(now: datetime) -> dict:
    return {"starts_at": now - HOUR, "closes_at": now + HOUR}


def over(now: datetime) -> dict:
    return {"starts_at": now - 2 * HOUR, "ends_at": now - HOUR}


SLOT_STATES = [called_off, not_open, closed, begun, begun_and_on_sale, over]
# What is done with a slot in that state, or with a booking in it: the message, if it is refused.
CLOSED_TABLE = {
    "hold any": [CALLED_OFF, NOT_OPEN, CLOSED, CLOSED, "", CLOSED],
    "hold named": [CALLED_OFF, NOT_OPEN, CLOSED, CLOSED, "", CLOSED],
    "confirm": [CALLED_OFF, NOT_OPEN, CLOSED, CLOSED, "", CLOSED],
    "extend": [CALLED_OFF, NOT_OPEN, CLOSED, CLOSED, "", CLOSED],
    "move hold into": [CALLED_OFF, NOT_OPEN, CLOSED, CLOSED, "", CLOSED],
    "move hold within": [CALLED_OFF, NOT_OPEN, CLOSED, BEGUN_MOVE, BEGUN_MOVE, BEGUN_MOVE],
    "move hold away": ["", "", "", BEGUN_MOVE, BEGUN_MOVE, BEGUN_MOVE],
    "move confirmed away": ["", "", "", BEGUN_MOVE, BEGUN_MOVE, BEGUN_MOVE],
    "cancel hold": ["", "", "", "", "", ""],
    "cancel confirmed": ["", "", "", BEGUN_CANCEL, BEGUN_CANCEL, BEGUN_CANCEL],
    "cancel confirmed, by staff": ["", "", "", "", "", ""],
}


@pytest.mark.parametrize("action", CLOSED_TABLE)
def test_action_on_a_closed_slot(action: str) -> None:
    elsewhere = SlotFactory()
    for state, message in zip(SLOT_STATES, CLOSED_TABLE[action], strict=True):
        slot = SlotFactory(rows=1, seats_per_row=6)
        held, guest, sold = hold(slot, "A1"), lifecycle.hold(elsewhere, quantity=1), None
        sold = lifecycle.confirm(hold(slot, "A2"))
        acts: dict[str, Callable[[], Booking]] = {
            "hold any": lambda slot=slot: lifecycle.hold(slot, quantity=1),
            "hold named": lambda slot=slot: hold(slot, "A3"),
            "confirm": lambda held=held: lifecycle.confirm(held),
            "extend": lambda held=held: lifecycle.extend(held),
            "move hold into": lambda guest=guest, slot=slot: lifecycle.reschedule(
                guest, slot=slot, quantity=1
            ),
            "move hold within": lambda held=held, slot=slot: lifecycle.reschedule(
                held, slot=slot, seat_ids=seat_ids(slot, "A3")
            ),
            "move hold away": lambda held=held: lifecycle.reschedule(
                held, slot=elsewhere, quantity=1
            ),
            "move confirmed away": lambda sold=sold: lifecycle.reschedule(
                sold, slot=elsewhere, quantity=1
            ),
            "cancel hold": lambda held=held: lifecycle.cancel(held),
            "cancel confirmed": lambda sold=sold: lifecycle.cancel(sold),
            "cancel confirmed, by staff": lambda sold=sold: lifecycle.cancel(sold, by_staff=True),
        }
        Slot.objects.filter(pk=slot.pk).update(**state(clock()))
        if message:
            with refused(SlotClosed, message):
                acts[action]()
        else:
            assert acts[action]().slot_id in (slot.pk, elsewhere.pk), state


# ── hold ──────────────────────────────────────────────────────────────────────────────────────────


def test_hold_named_seats(slot: Slot, settings: Settings) -> None:
    settings.HOLD_SECONDS = 90
    before = clock()
    booking = hold(slot, "A5", "A2", name="Ada", email="ada@example.org", phone="123")
    after = clock()
    assert booking.is_new
    booking.refresh_from_db()
    assert owned(booking) == booking.labels == ["A2", "A5"]
    assert (booking.status, booking.quantity, booking.failure_reason) == ("PENDING", 2, "")
    assert (booking.name, booking.email, booking.phone) == ("Ada", "ada@example.org", "123")
    assert (booking.user, booking.session_key, booking.idempotency_key) == (None, "", None)
    assert before < booking.created_at < after
    assert booking.expires_at == booking.created_at + timedelta(seconds=90)
    assert {seat.held_until for seat in booking.seats.all()} == {booking.expires_at}
    assert events(booking) == []


@pytest.mark.parametrize("quantity", [1, 3, 6])
def test_hold_any_seats(slot: Slot, quantity: int) -> None:
    booking = lifecycle.hold(slot, quantity=quantity)
    assert len(owned(booking)) == quantity
    assert booking.labels == owned(booking)
    assert slot.seats.free().count() == 6 - quantity


@pytest.mark.parametrize("start", range(6))
def test_hold_any_looks_everywhere(slot: Slot, start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it starts: before and behind that, and beyond the slot's hint."""
    hint = slot.first_seat_id + start
    Slot.objects.filter(pk=slot.pk).update(first_seat_id=hint, last_seat_id=hint)
    for _ in range(6):
        lifecycle.hold(slot, quantity=1)
    assert slot.seats.free().count() == 0


def test_hold_accessible_seat(slot: Slot) -> None:
    slot.seats.filter(label="A6").update(accessible=True)
    assert owned(hold(slot, "A6")) == ["A6"]


def test_hold_of_a_user_and_of_a_browser(slot: Slot) -> None:
    user = UserFactory()
    of_user = lifecycle.hold(slot, quantity=1, holder=Holder(user=user))
    of_browser = lifecycle.hold(slot, quantity=1, holder=Holder(session_key="browser"))
    assert (of_user.user, of_user.session_key) == (user, "")
    assert (of_browser.user, of_browser.session_key) == (None, "browser")


def test_hold_takes_lapsed_seats(slot: Slot) -> None:
    earlier = lapsed(slot)
    later = hold(slot, "A2", "A3")
    assert (owned(earlier), owned(later)) == (["A1"], ["A2", "A3"])
    earlier.refresh_from_db()
    assert earlier.status == "PENDING"  # until the sweeper closes it
    assert lifecycle.expire_due() == (1, 1)
    assert owned(later) == ["A2", "A3"]


def test_hold_any_takes_free_and_lapsed_seats(slot: Slot) -> None:
    earlier = lapsed(slot)
    later = lifecycle.hold(slot, quantity=6)
    assert (owned(earlier), len(owned(later))) == ([], 6)
    assert lifecycle.expire_due() == (1, 0)


def test_hold_that_lapses_this_instant_is_free(slot: Slot) -> None:
    booking = live(slot)
    moment = clock()
    Booking.objects.filter(pk=booking.pk).update(expires_at=moment)
    booking.seats.update(held_until=moment)
    assert owned(hold(slot, "A1", "A2")) == ["A1", "A2"]


@pytest.mark.parametrize(
    ("taken", "message"),
    [
        (["A1"], "Seat A1 has just been taken. Please choose again."),
        (["A1", "A2"], "Seats A1 and A2 have just been taken. Please choose again."),
        (["A1", "A2", "A4"], "Seats A1, A2 and A4 have just been taken. Please choose again."),
    ],
)
def test_hold_of_taken_seats(slot: Slot, taken: list[str], message: str) -> None:
    hold(slot, *taken)
    with refused(SeatsTaken, message) as refusal:
        hold(slot, *taken, "A6")
    assert refusal.value.labels == taken


def test_hold_of_booked_seat(slot: Slot) -> None:
    confirmed(slot)
    with refused(SeatsTaken) as refusal:
        hold(slot, "A2", "A3")
    assert refusal.value.labels == ["A2"]


def test_hold_of_blocked_seats(slot: Slot) -> None:
    inventory.block_seats(slot, seat_ids=seat_ids(slot, "A1", "A2", "A3", "A4", "A5"))
    with refused(SeatsTaken) as refusal:
        hold(slot, "A5", "A6")
    assert refusal.value.labels == ["A5"]
    with refused(SoldOut) as sold_out:
        lifecycle.hold(slot, quantity=2)
    assert sold_out.value.left == 1
    assert owned(lifecycle.hold(slot, quantity=1)) == ["A6"]


@pytest.mark.parametrize(
    ("free", "message"),
    [
        (0, "No places are left."),
        (1, "Only one place is left."),
        (3, "Only 3 places are left."),
    ],
)
def test_sold_out_says_how_many_are_left(slot: Slot, free: int, message: str) -> None:
    lifecycle.hold(slot, quantity=6 - free)
    with refused(SoldOut, message) as refusal:
        lifecycle.hold(slot, quantity=4)
    assert refusal.value.left == free


def test_sold_out_counts_lapsed_seats_as_left(slot: Slot) -> None:
    lapsed(slot)
    hold(slot, "A3", "A4", "A5")
    with refused(SoldOut) as refusal:
        lifecycle.hold(slot, quantity=4)
    assert refusal.value.left == 3


def test_slot_without_seats_is_sold_out() -> None:
    with refused(SoldOut, "No places are left."):
        lifecycle.hold(SlotFactory(places=0), quantity=1)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "Name the seats, or say how many: one of the two."),
        ({"seat_ids": [1], "quantity": 1}, "Name the seats, or say how many: one of the two."),
        ({"seat_ids": [1, 2, 1]}, "The same seat is named twice."),
        ({"seat_ids": []}, "Choose at least one seat."),
        ({"quantity": 0}, "Choose at least one seat."),
        ({"quantity": -1}, "Choose at least one seat."),
        ({"quantity": 5}, "At most 4 seats can be booked at once."),
        ({"seat_ids": [1, 2, 3, 4, 5]}, "At most 4 seats can be booked at once."),
    ],
)
@pytest.mark.parametrize("action", ["hold", "reschedule"])
def test_request_that_makes_no_sense(
    slot: Slot, settings: Settings, action: str, request_: dict, message: str
) -> None:
    settings.MAX_SEATS_PER_BOOKING = 4
    if action == "hold":
        with refused(InvalidRequest, message):
            lifecycle.hold(slot, **request_)
    else:
        booking = live(slot)
        with refused(InvalidRequest, message):
            lifecycle.reschedule(booking, slot=slot, **request_)


@pytest.mark.parametrize("action", ["hold", "reschedule"])
def test_seat_of_another_slot_is_refused(slot: Slot, action: str) -> None:
    other = SlotFactory()
    booking = live(slot)
    for strange in (other.first_seat_id, 10**12, -1):
        wanted = [*seat_ids(slot, "A3"), strange]
        with refused(InvalidRequest, "A seat that was named is not one of this slot."):
            if action == "hold":
                lifecycle.hold(slot, seat_ids=wanted)
            else:
                lifecycle.reschedule(booking, slot=slot, seat_ids=wanted)


# ── Limits ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("whose", ["user", "browser"])
def test_live_holds_are_limited(slot: Slot, settings: Settings, whose: str) -> None:
    settings.MAX_LIVE_HOLDS = 2
    if whose == "user":
        mine, other = Holder(user=UserFactory()), Holder(user=UserFactory())
    else:
        mine, other = Holder(session_key="mine"), Holder(session_key="other")
    first, second = (lifecycle.hold(slot, quantity=1, holder=mine) for _ in range(2))
    with refused(TooManyHolds):
        lifecycle.hold(slot, quantity=1, holder=mine)
    lifecycle.hold(slot, quantity=1, holder=other)

    lifecycle.confirm(first)  # no longer a hold
    third = lifecycle.hold(slot, quantity=1, holder=mine)
    with refused(TooManyHolds):
        lifecycle.hold(slot, quantity=1, holder=mine)
    lapse(second)  # nor is this one
    lifecycle.hold(slot, quantity=1, holder=mine)
    with refused(TooManyHolds):
        lifecycle.hold(slot, quantity=1, holder=mine)
    lifecycle.cancel(third)
    lifecycle.hold(slot, quantity=1, holder=mine)


def test_extended_hold_counts_to_its_end(slot: Slot, settings: Settings) -> None:
    settings.MAX_LIVE_HOLDS = 1
    mine = Holder(session_key="mine")
    booking = lifecycle.hold(slot, quantity=1, holder=mine)
    # As old as a hold can be: it ends in a minute.
    created_at = clock() - timedelta(seconds=settings.HOLD_MAX_SECONDS - 60)
    Booking.objects.filter(pk=booking.pk).update(created_at=created_at)
    lifecycle.extend(booking)
    with refused(TooManyHolds):
        lifecycle.hold(slot, quantity=1, holder=mine)


def test_limit_of_a_browser_ends_where_its_user_signs_in(slot: Slot, settings: Settings) -> None:
    settings.MAX_LIVE_HOLDS = 1
    lifecycle.hold(slot, quantity=1, holder=Holder(session_key="browser"))
    signed_in = Holder(user=UserFactory(), session_key="browser")
    assert lifecycle.hold(slot, quantity=1, holder=signed_in).user == signed_in.user


def test_guests_without_a_browser_are_not_limited(slot: Slot, settings: Settings) -> None:
    settings.MAX_LIVE_HOLDS = 1
    for _ in range(3):
        lifecycle.hold(slot, quantity=1)
    assert slot.seats.free().count() == 3


# ── Idempotency ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("request_", [{"quantity": 2}, {"labels": ["A1", "A2"]}])
def test_same_key_and_request_is_the_same_booking(slot: Slot, request_: dict) -> None:
    def ask() -> Booking:
        if "labels" in request_:
            return hold(slot, *request_["labels"], idempotency_key=KEY, name="Ada")
        return lifecycle.hold(slot, **request_, idempotency_key=KEY, name="Ada")

    first = ask()
    before = everything()
    again = ask()
    assert (first.is_new, again.is_new) == (True, False)
    assert (again.pk, again.state) == (first.pk, "PENDING")
    assert everything() == before


def test_order_of_named_seats_is_the_same_request(slot: Slot) -> None:
    first = hold(slot, "A1", "A2", idempotency_key=KEY)
    assert hold(slot, "A2", "A1", idempotency_key=KEY).pk == first.pk


@pytest.mark.parametrize("finish", [lifecycle.confirm, lifecycle.cancel, lapse])
def test_key_finds_its_booking_in_its_present_state(
    slot: Slot, finish: Callable[[Booking], Any]
) -> None:
    first = lifecycle.hold(slot, quantity=2, idempotency_key=KEY)
    finish(first)
    expected = {lifecycle.confirm: "CONFIRMED", lifecycle.cancel: "CANCELLED", lapse: "FAILED"}
    again = lifecycle.hold(slot, quantity=2, idempotency_key=KEY)
    assert (again.pk, again.is_new, again.state) == (first.pk, False, expected[finish])


def test_key_finds_its_booking_whatever_would_be_refused_now(
    slot: Slot, settings: Settings
) -> None:
    settings.MAX_LIVE_HOLDS = 1
    mine = Holder(session_key="mine")

    def ask() -> Booking:
        return lifecycle.hold(slot, quantity=6, idempotency_key=KEY, holder=mine)

    first = ask()
    assert ask().pk == first.pk  # too many holds
    settings.MAX_LIVE_HOLDS = 9
    assert ask().pk == first.pk  # sold out
    Slot.objects.filter(pk=slot.pk).update(cancelled_at=timezone.now())
    assert ask().pk == first.pk  # closed


@pytest.mark.parametrize(
    "other",
    [{"quantity": 1}, {"quantity": 2, "name": "Bob"}, {"quantity": 2, "email": "b@example.org"}],
)
def test_same_key_and_other_request_is_refused(slot: Slot, other: dict) -> None:
    lifecycle.hold(slot, quantity=2, idempotency_key=KEY, name="Ada")
    with refused(KeyReused):
        lifecycle.hold(slot, idempotency_key=KEY, **other)


def test_same_key_for_another_slot_is_refused(slot: Slot) -> None:
    other = SlotFactory()
    lifecycle.hold(slot, quantity=1, idempotency_key=KEY)
    with refused(KeyReused):
        lifecycle.hold(other, quantity=1, idempotency_key=KEY)


def test_named_and_any_seats_are_different_requests(slot: Slot) -> None:
    lifecycle.hold(slot, quantity=1, idempotency_key=KEY)
    with refused(KeyReused):
        hold(slot, "A6", idempotency_key=KEY)


def test_keys_are_each_users_own_and_guests_share_theirs(slot: Slot) -> None:
    ada, bob = Holder(user=UserFactory()), Holder(user=UserFactory())
    guests = [lifecycle.GUEST, Holder(session_key="one"), Holder(session_key="two")]

    def ask(holder: Holder) -> Booking:
        return lifecycle.hold(slot, quantity=1, idempotency_key=KEY, holder=holder)

    of_ada, of_bob, of_guest = ask(ada), ask(bob), ask(guests[0])
    assert len({of_ada.pk, of_bob.pk, of_guest.pk}) == 3
    assert [ask(holder).pk for holder in (ada, bob, *guests)] == [
        of_ada.pk,
        of_bob.pk,
        *[of_guest.pk] * 3,
    ]


def test_refusal_does_not_consume_the_key(slot: Slot) -> None:
    other = lifecycle.hold(slot, quantity=6)
    with refused(SoldOut):
        lifecycle.hold(slot, quantity=2, idempotency_key=KEY)
    refusals.flush()
    lifecycle.cancel(other)
    booking = lifecycle.hold(slot, quantity=2, idempotency_key=KEY)
    assert (booking.is_new, booking.status) == (True, "PENDING")


def test_double_click_beside_a_full_slot_takes_nothing(slot: Slot) -> None:
    """The second insert is refused by the key's index, when it has locked its seats already."""
    lifecycle.hold(slot, quantity=2, idempotency_key=KEY)
    lifecycle.hold(slot, quantity=2, idempotency_key=KEY)
    assert slot.seats.free().count() == 4


# ── confirm ───────────────────────────────────────────────────────────────────────────────────────


def test_confirm_keeps_the_seats_for_good(slot: Slot) -> None:
    booking = live(slot)
    before = clock()
    booking = lifecycle.confirm(booking, actor="ada@example.org")
    assert booking.status == "CONFIRMED"
    assert before < booking.confirmed_at < clock()
    assert {seat.held_until for seat in booking.seats.all()} == {None}
    assert events(booking) == [("confirm", "PENDING", "CONFIRMED", "ada@example.org", "")]
    assert before < booking.events.get().at < clock()


def test_confirm_replaces_details_that_are_given(slot: Slot) -> None:
    booking = hold(slot, "A1", name="Ada", email="ada@example.org", phone="1")
    booking = lifecycle.confirm(booking, name="Ada Lovelace", phone="")
    assert (booking.name, booking.email, booking.phone) == ("Ada Lovelace", "ada@example.org", "")


def test_confirm_again_changes_no_details(slot: Slot) -> None:
    booking = confirmed(slot)
    before = everything()
    assert lifecycle.confirm(booking, name="Bob").name == ""
    assert everything() == before


# ── extend ────────────────────────────────────────────────────────────────────────────────────────


def age(booking: Booking, *, seconds: int, left: int) -> Booking:
    """Lets it be so old, and end in so many seconds."""
    now = clock()
    booking.created_at = now - timedelta(seconds=seconds)
    booking.expires_at = now + timedelta(seconds=left)
    booking.save(update_fields=["created_at", "expires_at"])
    booking.seats.update(held_until=booking.expires_at)
    return booking


@pytest.fixture
def hold_settings(settings: Settings) -> None:
    settings.HOLD_SECONDS = 120
    settings.HOLD_MAX_SECONDS = 600


@pytest.mark.usefixtures("hold_settings")
def test_extend_holds_from_now(slot: Slot) -> None:
    booking = age(live(slot), seconds=100, left=20)
    before = clock()
    booking = lifecycle.extend(booking)
    moment = booking.expires_at - timedelta(seconds=120)
    assert before < moment < clock()
    assert {seat.held_until for seat in booking.seats.all()} == {booking.expires_at}
    assert events(booking) == []


@pytest.mark.usefixtures("hold_settings")
def test_extend_ends_at_the_cap(slot: Slot) -> None:
    booking = age(live(slot), seconds=500, left=20)
    extended = lifecycle.extend(booking)
    assert extended.expires_at == booking.created_at + timedelta(seconds=600)
    again = lifecycle.extend(booking)
    assert again.expires_at == extended.expires_at


@pytest.mark.usefixtures("hold_settings")
@pytest.mark.parametrize(("seconds", "left"), [(10, 500), (590, 100)])
def test_extend_never_shortens(slot: Slot, seconds: int, left: int) -> None:
    booking = age(live(slot), seconds=seconds, left=left)
    assert lifecycle.extend(booking).expires_at == booking.expires_at
    assert {seat.held_until for seat in booking.seats.all()} == {booking.expires_at}


# ── cancel ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("state", [live, confirmed])
def test_cancel_gives_the_seats_back(slot: Slot, state: Callable[[Slot], Booking]) -> None:
    booking = state(slot)
    was = booking.status
    before = clock()
    booking = lifecycle.cancel(booking, actor="ada@example.org", reason="ill")
    assert before < booking.cancelled_at < clock()
    assert slot.seats.free().count() == 6
    assert booking.labels == ["A1", "A2"]  # as booked
    assert events(booking)[-1] == ("cancel", was, "CANCELLED", "ada@example.org", "ill")


def test_cancel_again_gives_back_once(slot: Slot) -> None:
    booking = cancelled(slot)
    live(slot)
    before = everything()
    lifecycle.cancel(booking)
    assert everything() == before


# ── reschedule ────────────────────────────────────────────────────────────────────────────────────

# From two seats, A1 and A2, of which some may be kept.
SWAPS = {
    "other seats": ["A3", "A4"],
    "some kept": ["A2", "A3"],
    "the same": ["A1", "A2"],
    "fewer": ["A2"],
    "fewer, others": ["A5"],
    "more": ["A1", "A2", "A3"],
    "more, others": ["A3", "A4", "A5", "A6"],
}


@pytest.mark.parametrize("wanted", SWAPS.values(), ids=SWAPS)
@pytest.mark.parametrize("state", [live, confirmed])
def test_reschedule_to_named_seats(
    slot: Slot, state: Callable[[Slot], Booking], wanted: list[str]
) -> None:
    booking = state(slot)
    moved = lifecycle.reschedule(
        booking, slot=slot, seat_ids=seat_ids(slot, *wanted), actor="ada@example.org"
    )
    assert owned(moved) == moved.labels == wanted
    assert (moved.quantity, moved.status) == (len(wanted), booking.status)
    assert moved.expires_at == booking.expires_at  # a hold keeps its end
    assert {seat.held_until for seat in moved.seats.all()} == {
        booking.expires_at if state is live else None
    }
    assert slot.seats.free().count() == 6 - len(wanted)
    assert events(moved)[-1] == (
        "reschedule",
        booking.status,
        booking.status,
        "ada@example.org",
        f"from slot {slot.pk}: A1, A2",
    )


@pytest.mark.parametrize(("quantity", "kept"), [(1, ["A1"]), (2, ["A1", "A2"]), (5, ["A1", "A2"])])
def test_reschedule_to_any_seats_of_the_same_slot(
    slot: Slot, quantity: int, kept: list[str]
) -> None:
    moved = lifecycle.reschedule(live(slot), slot=slot, quantity=quantity)
    assert len(owned(moved)) == quantity
    assert owned(moved)[: len(kept)] == kept
    assert slot.seats.free().count() == 6 - quantity


@pytest.mark.parametrize("state", [live, confirmed])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("number", [1, 3])
def test_reschedule_to_another_slot(
    slot: Slot, state: Callable[[Slot], Booking], named: bool, number: int
) -> None:
    other = SlotFactory(rows=1, seats_per_row=4)
    booking = state(slot)
    if named:
        wanted = {"seat_ids": seat_ids(other, *["A4", "A3", "A2"][:number])}
    else:
        wanted = {"quantity": number}
    moved = lifecycle.reschedule(booking, slot=other, **wanted)
    assert (moved.slot, moved.quantity, len(owned(moved))) == (other, number, number)
    assert slot.seats.free().count() == 6
    assert other.seats.free().count() == 4 - number
    assert {seat.held_until for seat in moved.seats.all()} == {
        booking.expires_at if state is live else None
    }


@pytest.mark.parametrize("state", [live, confirmed])
def test_reschedule_takes_lapsed_seats(slot: Slot, state: Callable[[Slot], Booking]) -> None:
    other = hold(slot, "A3", "A4")
    lapse(other)
    moved = lifecycle.reschedule(state(slot), slot=slot, seat_ids=seat_ids(slot, "A2", "A3"))
    assert (owned(moved), owned(other)) == (["A2", "A3"], ["A4"])


@pytest.mark.parametrize("state", [live, confirmed])
def test_refused_reschedule_keeps_the_old_seats(
    slot: Slot, state: Callable[[Slot], Booking]
) -> None:
    booking = state(slot)
    hold(slot, "A3", "A4")
    full = SlotFactory(places=2)
    lifecycle.hold(full, quantity=1)
    with refused(SeatsTaken, "Seat A3 has just been taken. Please choose again."):
        lifecycle.reschedule(booking, slot=slot, seat_ids=seat_ids(slot, "A1", "A3"))
    with refused(SoldOut, "Only 4 places are left."):  # its own two among them
        lifecycle.reschedule(booking, slot=slot, quantity=5)
    with refused(SoldOut, "Only one place is left."):
        lifecycle.reschedule(booking, slot=full, quantity=2)
    assert owned(booking) == ["A1", "A2"]


def test_reschedule_keeps_its_own_seat_where_nothing_else_is_left(slot: Slot) -> None:
    booking = live(slot)
    lifecycle.hold(slot, quantity=4)
    assert owned(lifecycle.reschedule(booking, slot=slot, quantity=2)) == ["A1", "A2"]
    assert owned(lifecycle.reschedule(booking, slot=slot, quantity=1)) == ["A1"]


# ── expire_due, cancel_slot ───────────────────────────────────────────────────────────────────────


def test_expire_due_closes_what_has_lapsed(slot: Slot) -> None:
    due = lapsed(slot)
    others = [hold(slot, "A3"), lifecycle.confirm(hold(slot, "A4"))]
    assert lifecycle.expire_due() == (1, 2)
    due.refresh_from_db()
    assert (due.status, due.failure_reason, due.labels) == ("FAILED", "expired", ["A1", "A2"])
    assert events(due) == [("expire", "PENDING", "FAILED", "system", "")]
    assert [owned(other) for other in others] == [["A3"], ["A4"]]
    assert lifecycle.expire_due() == (0, 0)


def test_expire_due_takes_the_oldest_first(slot: Slot) -> None:
    late, early = hold(slot, "A1"), hold(slot, "A2")
    lapse(late)
    age(early, seconds=9999, left=-3600)
    assert lifecycle.expire_due(batch_size=1) == (1, 1)
    assert (owned(late), owned(early)) == (["A1"], [])


def test_expire_due_leaves_out_what_somebody_has_locked(slot: Slot) -> None:
    locked, due = hold(slot, "A1"), hold(slot, "A2")
    lapse(locked, due)
    with locked_by_another("bookings_booking", locked.pk):
        assert lifecycle.expire_due() == (1, 1)
    assert (owned(locked), owned(due)) == (["A1"], [])


def test_second_sweeper_is_told(slot: Slot) -> None:
    lapsed(slot)
    other = connection.copy()
    other.set_autocommit(False)
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [lifecycle.SWEEPER_LOCK])
    with refused(lifecycle.SweeperRunning):
        lifecycle.expire_due()
    other.rollback()
    other.close()
    assert lifecycle.expire_due() == (1, 2)


def test_cancel_slot_cancels_all_that_is_alive(slot: Slot) -> None:
    held, sold, due = hold(slot, "A1"), lifecycle.confirm(hold(slot, "A2")), hold(slot, "A3")
    lapse(due)
    ended = lifecycle.cancel(hold(slot, "A4"))
    elsewhere = lifecycle.hold(SlotFactory(), quantity=1)
    before = clock()
    gone = lifecycle.cancel_slot(slot, actor="staff@example.org", reason="storm")
    slot.refresh_from_db()
    assert before < slot.cancelled_at < clock()
    assert [booking.pk for booking in gone] == [held.pk, sold.pk]
    assert [booking.state for booking in gone] == ["CANCELLED", "CANCELLED"]
    assert events(held) == [("cancel", "PENDING", "CANCELLED", "staff@example.org", "storm")]
    assert events(sold)[-1] == ("cancel", "CONFIRMED", "CANCELLED", "staff@example.org", "storm")
    assert (len(events(due)), len(events(ended)), owned(elsewhere)) == (0, 1, elsewhere.labels)
    assert owned(due) == ["A3"]  # until the sweeper closes it
    assert lifecycle.cancel_slot(slot, actor="staff@example.org") == []
    slot.refresh_from_db()
    assert slot.cancelled_at < clock()


def test_cancel_slot_that_has_begun(slot: Slot) -> None:
    sold = confirmed(slot)
    Slot.objects.filter(pk=slot.pk).update(starts_at=clock() - HOUR)
    assert [each.pk for each in lifecycle.cancel_slot(slot, actor="staff")] == [sold.pk]


def test_cancelled_slots_are_finished(slot: Slot) -> None:
    sold = confirmed(slot)
    whole = lifecycle.confirm(lifecycle.hold(SlotFactory(), quantity=1))
    Slot.objects.filter(pk=slot.pk).update(cancelled_at=clock())
    assert [booking.pk for booking in lifecycle.finish_cancelled_slots()] == [sold.pk]
    assert events(sold)[-1] == ("cancel", "CONFIRMED", "CANCELLED", "system", "")
    assert lifecycle.finish_cancelled_slots() == []
    assert len(owned(whole)) == 1


# ── Who did it ────────────────────────────────────────────────────────────────────────────────────


def test_history_tells_who(slot: Slot) -> None:
    user = UserFactory(email="ada@example.org")
    mine = Holder(user=user, session_key="browser")
    booking = lifecycle.hold(slot, quantity=1, holder=mine)
    lifecycle.confirm(booking, actor=mine)
    lifecycle.reschedule(booking, slot=slot, quantity=2)
    lifecycle.cancel(booking, actor="staff@example.org")
    assert [event[3] for event in events(booking)] == [
        "ada@example.org",
        "guest",
        "staff@example.org",
    ]


# ── Waiting ───────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def locked_by_another(table: str, *ids: Any) -> Iterator[None]:
    other = connection.copy()
    other.set_autocommit(False)
    with other.cursor() as cursor:
        cursor.execute(f"SELECT FROM {table} WHERE id = ANY (%s) FOR UPDATE", [list(ids)])
    try:
        yield
    finally:
        other.rollback()  # lets go at once; to close takes its time
        other.close()


BOUNDS = [("LOCK_TIMEOUT", "20ms"), ("STATEMENT_TIMEOUT", "60ms")]


@pytest.mark.parametrize(("bound", "limit"), BOUNDS)
@pytest.mark.parametrize("action", TABLE)
def test_waiting_for_a_booking_is_bounded(
    slot: Slot, action: str, bound: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    booking = live(slot)
    monkeypatch.setattr(database, bound, limit)
    with locked_by_another("bookings_booking", booking.pk), refused(SlotBusy):
        act(action, booking, slot)


@pytest.mark.parametrize(("bound", "limit"), BOUNDS)
@pytest.mark.parametrize("action", TABLE)
def test_waiting_for_ones_own_seats_is_bounded(
    slot: Slot, action: str, bound: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    booking = live(slot)
    monkeypatch.setattr(database, bound, limit)
    with locked_by_another("slots_seat", *seat_ids(slot, "A2")), refused(SlotBusy):
        act(action, booking, slot)


def test_waiting_for_named_seats_is_bounded(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT", "20ms")
    with locked_by_another("slots_seat", *seat_ids(slot, "A2")):
        with refused(SlotBusy):
            hold(slot, "A1", "A2")
        assert owned(hold(slot, "A1", "A3")) == ["A1", "A3"]


def test_waiting_for_any_seats_is_bounded(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT", "20ms")
    with locked_by_another("slots_seat", *seat_ids(slot, "A1", "A2", "A3", "A4")):
        assert owned(lifecycle.hold(slot, quantity=2)) == ["A5", "A6"]  # waits for nobody
        with refused(SlotBusy):  # not “sold out”: the four are free, only locked
            lifecycle.hold(slot, quantity=1)


def test_live_holds_are_counted_in_turn(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT", "20ms")
    mine = Holder(session_key="mine")
    other = connection.copy()
    other.set_autocommit(False)
    with transaction.atomic():
        lifecycle._limit_live_holds(mine)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks"
                " WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
            )
            [number] = cursor.fetchone()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])
    with refused(SlotBusy):
        lifecycle.hold(slot, quantity=1, holder=mine)
    lifecycle.hold(slot, quantity=1, holder=Holder(session_key="other"))
    other.rollback()
    other.close()
    lifecycle.hold(slot, quantity=1, holder=mine)


def test_bounds_end_with_the_transaction(slot: Slot) -> None:
    def bounds() -> tuple:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT current_setting('lock_timeout'), current_setting('statement_timeout'),"
                " current_setting('idle_in_transaction_session_timeout')"
            )
            return cursor.fetchone()

    before = bounds()
    assert lifecycle._transact(bounds) == ("4s", "10s", "15s")
    assert bounds() == before


# ── What the database says, in the lifecycle's words ──────────────────────────────────────────────


def fail_with(sqlstate: str, constraint: str = "") -> Callable[[], None]:
    """An attempt in which the database raises this."""

    def attempt() -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                f"DO $$ BEGIN RAISE SQLSTATE '{sqlstate}' USING CONSTRAINT = '{constraint}'; END $$"
            )

    return attempt


@pytest.mark.parametrize(
    ("sqlstate", "error"),
    [
        ("55P03", SlotBusy),  # lock time-out
        ("57014", SlotBusy),  # statement time-out
        ("40P01", SlotBusy),  # deadlock
        ("57P01", OperationalError),  # the server is going away
        ("53300", OperationalError),  # too many connections
        ("40001", OperationalError),  # serialization failure: not in READ COMMITTED
    ],
)
def test_database_failure_is_busy_or_surfaces(sqlstate: str, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        lifecycle._transact(fail_with(sqlstate))
    cause = raised.value.__cause__
    assert (cause.__cause__ if error is SlotBusy else cause).sqlstate == sqlstate


def test_exhausted_pool_is_busy() -> None:
    def attempt() -> None:
        raise OperationalError from PoolTimeout("couldn't get a connection")

    with pytest.raises(SlotBusy):
        lifecycle._transact(attempt)


USER_OF_BOOKING = "bookings_booking_user_id_834dfc23_fk_accounts_user_id"  # as migrated


@pytest.mark.parametrize(
    ("constraint", "error"),
    [
        ("booking_key_is_unique_for_user", KeyReused),
        ("booking_key_is_unique_among_guests", KeyReused),
        ("booking_reference_is_unique", SlotBusy),
        (USER_OF_BOOKING, AccountGone),
        ("seat_owner_is_kept", IntegrityError),
        ("booking_failed_has_a_reason", IntegrityError),
        ("", IntegrityError),
    ],
)
def test_constraint_is_one_error_or_surfaces(constraint: str, error: type[Exception]) -> None:
    assert set(lifecycle.CONSTRAINT_ERRORS) == {
        "booking_key_is_unique_for_user",
        "booking_key_is_unique_among_guests",
        "booking_reference_is_unique",
        USER_OF_BOOKING,
    }
    with pytest.raises(error) as raised:
        lifecycle._transact(fail_with("23505", constraint))
    assert type(raised.value) is error


def test_transactions_are_the_lifecycles_own(slot: Slot) -> None:
    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        lifecycle.hold(slot, quantity=1)


# ── What must not be is never repaired ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("action", TABLE)
def test_missing_seat_is_a_broken_invariant(slot: Slot, action: str) -> None:
    booking = live(slot)
    slot.seats.filter(label="A2").update(booking=None, held_until=None)
    with refused(BrokenInvariant, f"booking {booking.pk} owns 1 of its 2 seats"):
        act(action, booking, slot)


@pytest.mark.parametrize("action", TABLE)
def test_surplus_seat_is_a_broken_invariant(slot: Slot, action: str) -> None:
    booking = live(slot)
    slot.seats.filter(label="A6").update(booking=booking, held_until=booking.expires_at)
    with refused(BrokenInvariant, f"booking {booking.pk} owns 3 of its 2 seats"):
        act(action, booking, slot)


# ── What it costs ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [1, 3])
def test_queries(
    number: int,
    django_assert_num_queries: DjangoAssertNumQueries,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """BEGIN and COMMIT among them."""
    monkeypatch.setattr(seat_locks.random, "randint", lambda first, last: first)  # no wrapping
    slot, other = SlotFactory(places=30), SlotFactory(places=30)
    browser = Holder(session_key="browser")
    with django_assert_num_queries(7):
        booking = lifecycle.hold(slot, quantity=number)
    with django_assert_num_queries(9):
        lifecycle.hold(slot, quantity=number, holder=browser)
    named = list(slot.seats.free().values_list("pk", flat=True)[:number])
    with django_assert_num_queries(7):
        lifecycle.hold(slot, seat_ids=named)
    with django_assert_num_queries(8):
        lifecycle.extend(booking)
    with django_assert_num_queries(9):
        lifecycle.confirm(booking)
    with django_assert_num_queries(7):
        lifecycle.confirm(booking)
    with django_assert_num_queries(13):
        lifecycle.reschedule(booking, slot=other, quantity=number)
    with django_assert_num_queries(9):
        lifecycle.cancel(booking)
    due = [lifecycle.hold(other, quantity=2) for _ in range(number)]
    lapse(*due)
    # A mail is one more: the same INSERT, whatever it says.
    booking = lifecycle.hold(slot, quantity=number, email="ada@example.org")
    with django_assert_num_queries(10):
        lifecycle.confirm(booking)
    with django_assert_num_queries(14):
        lifecycle.reschedule(booking, slot=other, quantity=number)
    with django_assert_num_queries(10):
        lifecycle.cancel(booking)
    with django_assert_num_queries(10):
        assert lifecycle.expire_due() == (number, 2 * number)
    with django_assert_num_queries(5):
        assert lifecycle.expire_due() == (0, 0)
