"""What happens when many want the same at once: threads, and interleavings chosen by hand.

After every race no deadlock was counted and `check_invariants` finds nothing: `race` sees to it.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from itertools import combinations, count
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import IntegrityError, connection
from django.db.models import QuerySet
from django.db.models.functions import Now

from booking_site import database, prepared
from booking_site.tests.factories import SlotFactory, UserFactory
from booking_site.tests.mails import queued_mails
from booking_site.tests.races import (
    LIMIT,
    ROUNDS,
    Aborted,
    assert_sound,
    kill_before,
    lapse,
    race,
    start,
    tally,
)
from bookings import refusals
from bookings.lifecycle import (
    Holder,
    HoldExpired,
    InvalidRequest,
    KeyReused,
    SeatsTaken,
    SlotBusy,
    SlotClosed,
    SoldOut,
    SweeperRunning,
    TooManyHolds,
    WrongState,
    cancel,
    cancel_slot,
    confirm,
    expire_due,
    extend,
    finish_cancelled_slots,
    hold,
    release,
    reschedule,
)
from bookings.models import Booking
from slots import inventory
from slots.inventory import SeatsInUse
from slots.models import Slot

pytestmark = pytest.mark.django_db(transaction=True)


def repeat(times: int) -> pytest.MarkDecorator:
    """Runs a race that chance decides so often, RACE_ROUNDS times."""
    return pytest.mark.parametrize("turn", range(times * ROUNDS))


GIVE = 'UPDATE "slots_seat"'  # the statement in which seats change hands


def seat_ids(slot: Slot) -> list[int]:
    return list(slot.seats.values_list("pk", flat=True))


def owners(slot: Slot) -> list[Any]:
    """Whose the slot's seats are, in the seats' order."""
    return list(slot.seats.values_list("booking", flat=True))


def seats_of(booking: Booking) -> list[int]:
    return list(booking.seats.values_list("pk", flat=True))


def status(booking: Booking) -> str:
    return Booking.objects.get(pk=booking.pk).status


def actions(booking: Booking) -> list[str]:
    return list(booking.events.values_list("action", flat=True))


# ── More buyers than places ───────────────────────────────────────────────────────────────────────


def test_hold_any_one_seat_200_buyers() -> None:
    slot = SlotFactory(places=1)
    results = race(*[lambda: hold(slot, quantity=1)] * 200)
    assert tally(results) == {Booking: 1, SoldOut: 199}


def test_hold_named_one_seat_200_buyers() -> None:
    slot = SlotFactory(rows=1, seats_per_row=1)
    [seat] = seat_ids(slot)
    results = race(*[lambda: hold(slot, seat_ids=[seat])] * 200)
    assert tally(results) == {Booking: 1, SeatsTaken: 199}
    assert {error.labels[0] for error in results if isinstance(error, SeatsTaken)} == {"A1"}


@repeat(5)
def test_hold_three_places_ten_buyers(turn: int) -> None:
    slot = SlotFactory(places=3)
    results = race(*[lambda: hold(slot, quantity=1)] * 10)
    assert tally(results) == {Booking: 3, SoldOut: 7}
    assert {error.left for error in results if isinstance(error, SoldOut)} == {0}


@repeat(3)
def test_hold_parties_of_four_more_than_fit(turn: int) -> None:
    slot = SlotFactory(places=100)
    results = race(*[lambda: hold(slot, quantity=4)] * 80)
    assert tally(results) == {Booking: 25, SoldOut: 55}
    assert Counter(owners(slot)) == {
        result.pk: 4 for result in results if isinstance(result, Booking)
    }
    refusals.flush()
    assert Counter(slot.bookings.values_list("status", "failure_reason", "quantity")) == {
        ("PENDING", "", 4): 25,
        ("FAILED", "sold_out", 4): 55,
    }


@repeat(3)
def test_hold_parties_of_all_sizes_more_than_fit(turn: int) -> None:
    slot = SlotFactory(places=60)
    sizes = [1 + n % 7 for n in range(70)]
    results = race(*[partial(hold, slot, quantity=size) for size in sizes])
    assert set(tally(results)) == {Booking, SoldOut}
    left = slot.seats.free().count()
    refused = [size for size, it in zip(sizes, results, strict=True) if isinstance(it, SoldOut)]
    assert left < min(refused)  # whoever would have fitted got in


def test_hold_any_exactly_as_many_as_buyers() -> None:
    slot = SlotFactory(places=200)
    results = race(*[lambda: hold(slot, quantity=1)] * 200)
    assert tally(results) == {Booking: 200}
    assert len(set(owners(slot)) - {None}) == 200


def test_hold_named_each_buyer_another_seat() -> None:
    slot = SlotFactory(rows=10, seats_per_row=20)
    results = race(*[partial(hold, slot, seat_ids=[seat]) for seat in seat_ids(slot)])
    assert tally(results) == {Booking: 200}
    assert owners(slot) == [booking.pk for booking in results]


@repeat(1)
def test_hold_named_same_set_in_opposite_orders(turn: int) -> None:
    slot = SlotFactory(rows=1, seats_per_row=8)
    forward = seat_ids(slot)
    results = race(
        *[lambda: hold(slot, seat_ids=forward)] * 20,
        *[lambda: hold(slot, seat_ids=forward[::-1])] * 20,
    )
    assert tally(results) == {Booking: 1, SeatsTaken: 39}
    assert len(set(owners(slot))) == 1


@repeat(3)
def test_hold_named_overlapping_sets(turn: int) -> None:
    slot = SlotFactory(rows=1, seats_per_row=12)
    ids = seat_ids(slot)
    wishes = [[ids[(at + n) % 12] for n in (2, 0, 1, 3)] for at in range(12)] * 4
    results = race(*[partial(hold, slot, seat_ids=wish) for wish in wishes])
    assert set(tally(results)) == {Booking, SeatsTaken}
    won = [set(wish) for wish, it in zip(wishes, results, strict=True) if isinstance(it, Booking)]
    lost = [
        (set(wish), it)
        for wish, it in zip(wishes, results, strict=True)
        if isinstance(it, SeatsTaken)
    ]
    assert not any(one & other for one, other in combinations(won, 2))
    assert all(any(wish & other for other in won) for wish, _ in lost)  # refused for a reason
    label = dict(slot.seats.values_list("label", "pk"))
    sold = set().union(*won)
    assert all({label[name] for name in refusal.labels} <= wish & sold for wish, refusal in lost)


@repeat(3)
def test_hold_any_beside_named(turn: int) -> None:
    slot = SlotFactory(rows=1, seats_per_row=20)
    ids = seat_ids(slot)
    results = race(
        *[partial(hold, slot, seat_ids=[seat]) for seat in ids],
        *[lambda: hold(slot, quantity=1)] * 20,
    )
    assert tally(results)[Booking] == 20
    assert tally(results[:20]).get(SeatsTaken, 0) == tally(results[20:])[Booking]
    assert tally(results[20:]).get(SoldOut, 0) == tally(results[:20])[Booking]


# ── Nobody is told sold out while seats are left ──────────────────────────────────────────────────


@pytest.mark.parametrize("buyers", [1, 30])
def test_hold_any_first_buyer_rolls_back(buyers: int) -> None:
    slot = SlotFactory(places=4)
    first = start(lambda: hold(slot, quantity=4), pause_before=GIVE)
    first.wait_until_paused()
    others = [start(lambda: hold(slot, quantity=4)) for _ in range(buyers)]
    for other in others:
        other.wait_until_blocked()
    first.abort()
    assert isinstance(first.outcome(), Aborted)
    assert tally(other.outcome() for other in others) == (
        {Booking: 1, SoldOut: buyers - 1} if buyers > 1 else {Booking: 1}
    )
    assert_sound()


def test_hold_named_first_buyer_rolls_back() -> None:
    slot = SlotFactory(rows=1, seats_per_row=3)
    a, b, c = seat_ids(slot)
    first = start(lambda: hold(slot, seat_ids=[a, b]), pause_before=GIVE).wait_until_paused()
    others = [start(lambda: hold(slot, seat_ids=[b, c])) for _ in range(10)]
    for other in others:
        other.wait_until_blocked()
    first.abort()
    assert isinstance(first.outcome(), Aborted)
    assert tally(other.outcome() for other in others) == {Booking: 1, SeatsTaken: 9}
    assert_sound()


def test_hold_any_waits_holding_nothing() -> None:
    """Whoever waits for a party of four lets others have the places that are left meanwhile."""
    slot = SlotFactory(places=4)
    first = start(lambda: hold(slot, quantity=2), pause_before=GIVE).wait_until_paused()
    party = start(lambda: hold(slot, quantity=4)).wait_until_blocked()
    first.abort()
    assert isinstance(party.outcome(), Booking)
    assert isinstance(first.outcome(), Aborted)
    assert_sound()


@repeat(1)
@pytest.mark.parametrize("quantity", [1, 3])
def test_hold_any_never_sold_out_while_others_cancel(quantity: int, turn: int) -> None:
    """Ten people who hold at most a tenth each: there is always a tenth left for one of them."""
    slot = SlotFactory(places=10 * quantity)

    def come_and_go() -> None:
        for _ in range(8):
            cancel(hold(slot, quantity=quantity))

    assert tally(race(*[come_and_go] * 10)) == {type(None): 10}
    assert slot.bookings.filter(status="CANCELLED").count() == 80


@repeat(2)
def test_hold_any_never_sold_out_while_others_lapse(turn: int) -> None:
    """The same, and nobody gives anything back but by letting it lapse, with a sweeper at work."""
    slot = SlotFactory(places=10)

    def come_and_forget() -> None:
        for _ in range(8):
            lapse(hold(slot, quantity=1))

    def sweep() -> None:
        for _ in range(20):
            expire_due()

    assert tally(race(*[come_and_forget] * 10, sweep)) == {type(None): 11}


@repeat(2)
def test_hold_any_never_sold_out_while_others_reschedule(turn: int) -> None:
    """A swap needs both for a moment: ten people between two slots of twenty places."""
    slots = [SlotFactory(places=20), SlotFactory(places=20)]
    bookings = [hold(slots[n % 2], quantity=2) for n in range(10)]

    def move(booking: Booking) -> None:
        for _ in range(6):
            there = next(slot for slot in slots if slot.pk != booking.slot_id)
            booking = reschedule(booking, slot=there, quantity=2)

    assert tally(race(*[partial(move, booking) for booking in bookings])) == {type(None): 10}


def test_hold_any_seat_lapses_while_counting() -> None:
    """One place is being sold, the other lapses just then: at every moment there is one left."""
    slot = SlotFactory(places=2)
    other = hold(slot, quantity=1)
    seller = start(lambda: hold(slot, quantity=1), pause_before=GIVE).wait_until_paused()
    counting = start(lambda: hold(slot, quantity=1), pause_after="UNION ALL")
    counting.wait_until_paused()
    lapse(other)
    seller.resume()
    assert isinstance(seller.outcome(), Booking)
    counting.resume()
    assert isinstance(counting.outcome(), Booking)
    assert_sound()


# ── Confirm, lapse and take-over ──────────────────────────────────────────────────────────────────


@repeat(1)
def test_confirm_lapsed_beside_take_over_and_sweeper(turn: int) -> None:
    slot = SlotFactory(places=1)
    late = hold(slot, quantity=1)
    lapse(late)
    results = race(
        *[lambda: confirm(late)] * 5, *[lambda: hold(slot, quantity=1)] * 5, expire_due, expire_due
    )
    assert tally(results[:5]) == {HoldExpired: 5}
    assert tally(results[5:10]) == {Booking: 1, SoldOut: 4}
    [winner] = [result for result in results[5:10] if isinstance(result, Booking)]
    assert owners(slot) == [winner.pk]


def end_soon(booking: Booking) -> None:
    """Lets a hold lapse in a second."""
    end = Now() + timedelta(seconds=1)
    Booking.objects.filter(pk=booking.pk).update(expires_at=end)
    booking.refresh_from_db()
    booking.seats.update(held_until=booking.expires_at)


def wait_until_lapsed(booking: Booking) -> None:
    while not Booking.objects.due().filter(pk=booking.pk).exists():
        pass  # the database's clock is asked again


def test_confirm_in_time_commits_after_lapse() -> None:
    """The hold was live when the seats were locked: whoever comes then waits, and loses."""
    slot = SlotFactory(places=1)
    booking = hold(slot, quantity=1)
    end_soon(booking)
    confirming = start(lambda: confirm(booking), pause_before=GIVE).wait_until_paused()
    wait_until_lapsed(booking)
    taker = start(lambda: hold(slot, quantity=1)).wait_until_blocked()
    assert expire_due() == (0, 0)
    confirming.resume()
    assert confirming.outcome().state == "CONFIRMED"
    assert isinstance(taker.outcome(), SoldOut)
    assert owners(slot) == [booking.pk]
    assert_sound()


def test_confirm_hold_lapses_and_is_taken_over_before_its_seats_are_locked() -> None:
    slot = SlotFactory(rows=1, seats_per_row=2)
    booking = hold(slot, seat_ids=seat_ids(slot))
    end_soon(booking)
    confirming = start(lambda: confirm(booking), pause_before='FROM "slots_seat"')
    confirming.wait_until_paused()
    wait_until_lapsed(booking)
    taker = hold(slot, seat_ids=seat_ids(slot)[:1])
    confirming.resume()
    assert isinstance(confirming.outcome(), HoldExpired)
    assert owners(slot) == [taker.pk, booking.pk]
    assert status(booking) == "PENDING"
    assert_sound()


def test_confirm_that_comes_too_late_does_not_wait_for_a_take_over_of_its_seats() -> None:
    slot = SlotFactory(rows=1, seats_per_row=1)
    booking = hold(slot, quantity=1)
    end_soon(booking)
    confirming = start(lambda: confirm(booking), pause_before='FROM "slots_seat"')
    confirming.wait_until_paused()
    wait_until_lapsed(booking)
    taking = start(lambda: hold(slot, seat_ids=seat_ids(slot)), pause_before=GIVE)
    taking.wait_until_paused()
    assert isinstance(confirming.resume().outcome(), HoldExpired)
    taken = taking.resume().outcome()
    assert owners(slot) == [taken.pk]
    assert_sound()


@pytest.mark.parametrize("act", [confirm, extend, cancel, release])
def test_hold_that_lapsed_is_told_so_while_another_takes_its_seats(act: Callable) -> None:
    """It locks none of them, so it neither waits nor keeps others from them."""
    slot = SlotFactory(places=1)
    late = hold(slot, quantity=1)
    lapse(late)
    taking = start(lambda: hold(slot, quantity=1), pause_before="INSERT INTO").wait_until_paused()
    who = {"actor": "desk"} if act is release else {}
    with pytest.raises(HoldExpired):
        act(late, **who)
    assert isinstance(taking.resume().outcome(), Booking)
    assert_sound()


def test_extend_in_time_keeps_the_seats_from_who_waits() -> None:
    slot = SlotFactory(rows=1, seats_per_row=1)
    booking = hold(slot, quantity=1)
    end_soon(booking)
    extending = start(lambda: extend(booking), pause_before=GIVE).wait_until_paused()
    wait_until_lapsed(booking)
    named = start(lambda: hold(slot, seat_ids=seat_ids(slot))).wait_until_blocked()
    whatever = start(lambda: hold(slot, quantity=1)).wait_until_blocked()
    extending.resume()
    assert extending.outcome().state == "PENDING"
    assert isinstance(named.outcome(), SeatsTaken)
    assert isinstance(whatever.outcome(), SoldOut)
    assert expire_due() == (0, 0)
    assert_sound()


@repeat(1)
def test_extend_lapsed_beside_take_over_and_sweeper(turn: int) -> None:
    slot = SlotFactory(places=2)
    late = hold(slot, quantity=2)
    lapse(late)
    results = race(*[lambda: extend(late)] * 5, *[lambda: hold(slot, quantity=2)] * 5, expire_due)
    assert tally(results[:5]) == {HoldExpired: 5}
    assert tally(results[5:10]) == {Booking: 1, SoldOut: 4}


@repeat(1)
@pytest.mark.parametrize("sweepers", [0, 2])
def test_hold_any_crowd_takes_over_lapsed_seats(sweepers: int, turn: int) -> None:
    slot = SlotFactory(places=60)
    late = [hold(slot, quantity=3) for _ in range(20)]
    lapse(*late)
    results = race(
        *[lambda: hold(slot, quantity=4)] * 40,
        *[partial(confirm, booking) for booking in late],
        *[expire_due] * sweepers,
    )
    assert tally(results[:40]) == {Booking: 15, SoldOut: 25}
    assert tally(results[40:60]) == {HoldExpired: 20}
    while expire_due()[0]:
        pass
    assert {status(booking) for booking in late} == {"FAILED"}
    assert Counter(owners(slot)) == {it.pk: 4 for it in results if isinstance(it, Booking)}
    assert_sound()


@repeat(1)
def test_hold_named_crowd_takes_over_lapsed_seats(turn: int) -> None:
    slot = SlotFactory(rows=1, seats_per_row=6)
    lapse(hold(slot, quantity=6))
    ids = seat_ids(slot)
    results = race(
        *[lambda: hold(slot, seat_ids=ids[:4])] * 10,
        *[lambda: hold(slot, seat_ids=ids[2:])] * 10,
        expire_due,
    )
    assert tally(results[:20]) == {Booking: 1, SeatsTaken: 19}


# ── Two sweepers ──────────────────────────────────────────────────────────────────────────────────


def test_expire_due_while_another_runs() -> None:
    slot = SlotFactory(places=3)
    lapse(hold(slot, quantity=3))
    first = start(expire_due, pause_before=GIVE).wait_until_paused()
    with pytest.raises(SweeperRunning):
        expire_due()
    first.resume()
    assert first.outcome() == (1, 3)
    assert expire_due() == (0, 0)
    assert_sound()


@repeat(1)
def test_expire_due_many_at_once_count_each_hold_once(turn: int) -> None:
    slot = SlotFactory(places=40)
    late = [hold(slot, quantity=2) for _ in range(20)]
    lapse(*late)

    def sweep() -> tuple[int, int]:
        holds = seats = 0
        while Booking.objects.due().exists():
            try:
                expired, released = expire_due(batch_size=3)
            except SweeperRunning:
                continue
            holds, seats = holds + expired, seats + released
        return holds, seats

    results = race(*[sweep] * 6)
    assert tally(results) == {tuple: 6}
    assert [sum(each) for each in zip(*results, strict=True)] == [20, 40]
    assert [actions(booking) for booking in late] == [["expire"]] * 20


def test_expire_due_leaves_what_is_locked_to_the_next() -> None:
    slot = SlotFactory(places=2)
    locked, free = hold(slot, quantity=1), hold(slot, quantity=1)
    end_soon(locked)
    confirming = start(lambda: confirm(locked), pause_before=GIVE).wait_until_paused()
    wait_until_lapsed(locked)
    lapse(free)
    assert expire_due() == (1, 1)
    confirming.abort()
    assert isinstance(confirming.outcome(), Aborted)
    assert expire_due() == (1, 1)
    assert_sound()


# ── Cancel, reschedule and confirm against each other ─────────────────────────────────────────────


@repeat(3)
def test_confirm_beside_reschedule_and_cancel(turn: int) -> None:
    here, there = SlotFactory(places=2), SlotFactory(places=2)
    booking = hold(here, quantity=2)
    results = race(
        *[lambda: confirm(booking)] * 3,
        *[lambda: reschedule(booking, slot=there, quantity=2)] * 3,
        lambda: cancel(booking),
    )
    assert set(tally(results[:6])) <= {Booking, WrongState}  # after the cancel, or before it
    assert tally(results[6:]) == {Booking: 1}
    assert status(booking) == "CANCELLED"
    assert owners(here) + owners(there) == [None] * 4
    confirms = any(isinstance(result, Booking) for result in results[:3])
    moves = sum(isinstance(result, Booking) for result in results[3:6])
    assert Counter(actions(booking)) == Counter(confirm=int(confirms), reschedule=moves, cancel=1)


@repeat(3)
def test_confirm_beside_reschedule(turn: int) -> None:
    """Neither costs the other anything: no false HoldExpired, no stall."""
    here, there = SlotFactory(places=2), SlotFactory(places=2)
    booking = hold(here, quantity=2)
    results = race(
        *[lambda: confirm(booking)] * 5,
        *[lambda: reschedule(booking, slot=there, quantity=2)] * 5,
        lambda: extend(booking),
    )
    assert tally(results[:10]) == {Booking: 10}
    assert set(tally(results[10:])) <= {Booking, WrongState}
    assert status(booking) == "CONFIRMED"
    assert owners(there) == [booking.pk] * 2
    assert owners(here) == [None] * 2
    assert set(there.seats.values_list("held_until", flat=True)) == {None}


@pytest.mark.parametrize("change", [confirm, cancel])
def test_double_click_changes_once(change: Callable[[Booking], Booking]) -> None:
    booking = hold(SlotFactory(places=2), quantity=2)
    results = race(*[lambda: change(booking)] * 20)
    assert tally(results) == {Booking: 20}
    assert {result.state for result in results} == {status(booking)}
    assert actions(booking) == [change.__name__]


@repeat(1)
def test_cancel_gives_each_seat_to_one_of_many(turn: int) -> None:
    slot = SlotFactory(places=4)
    bookings = [confirm(hold(slot, quantity=2)) for _ in range(2)]
    results = race(
        *[partial(cancel, booking) for booking in bookings * 2],
        *[lambda: hold(slot, quantity=1)] * 10,
    )
    assert tally(results[:4]) == {Booking: 4}
    winners = tally(results[4:]).get(Booking, 0)
    assert tally(results[4:]).get(SoldOut, 0) == 10 - winners
    assert slot.seats.free().count() == 4 - winners


@repeat(1)
def test_reschedule_in_opposite_directions(turn: int) -> None:
    """Ten here want there and ten there want here, and there is room for each."""
    here, there = SlotFactory(rows=2, seats_per_row=10), SlotFactory(rows=2, seats_per_row=10)
    ids_here, ids_there = seat_ids(here), seat_ids(there)
    leaving = [hold(here, seat_ids=[pk]) for pk in ids_here[:10]]
    coming = [confirm(hold(there, seat_ids=[pk])) for pk in ids_there[:10]]
    results = race(
        *[
            partial(reschedule, booking, slot=there, seat_ids=[pk])
            for booking, pk in zip(leaving, ids_there[:9:-1], strict=True)
        ],
        *[
            partial(reschedule, booking, slot=here, seat_ids=[pk])
            for booking, pk in zip(coming, ids_here[10:], strict=True)
        ],
    )
    assert tally(results) == {Booking: 20}
    assert owners(here) == [None] * 10 + [booking.pk for booking in coming]
    assert owners(there) == [None] * 10 + [booking.pk for booking in reversed(leaving)]


@repeat(1)
def test_reschedule_all_want_the_same_seats(turn: int) -> None:
    slot = SlotFactory(rows=1, seats_per_row=12)
    ids = seat_ids(slot)
    bookings = [hold(slot, seat_ids=[pk]) for pk in ids[:10]]
    results = race(
        *[partial(reschedule, each, slot=slot, seat_ids=ids[10:]) for each in bookings],
        *[lambda: hold(slot, seat_ids=ids[10:])] * 10,
    )
    assert tally(results) == {Booking: 1, SeatsTaken: 19}
    assert len(set(owners(slot)[10:])) == 1


def test_reschedule_to_own_seats_of_another_slot() -> None:
    """They are not of the slot that is asked for, whoever owns them."""
    here, there = SlotFactory(rows=1, seats_per_row=2), SlotFactory(rows=1, seats_per_row=2)
    booking = hold(here, seat_ids=seat_ids(here))
    for wish in (seat_ids(here), [seat_ids(here)[0], seat_ids(there)[0]]):
        with pytest.raises(InvalidRequest):
            reschedule(booking, slot=there, seat_ids=wish)
    assert owners(here) == [booking.pk] * 2
    assert_sound()


def test_reschedule_two_want_each_others_seats() -> None:
    """Both are refused: a swap never gives up the old seat first."""
    slot = SlotFactory(rows=1, seats_per_row=2)
    a, b = seat_ids(slot)
    first, second = hold(slot, seat_ids=[a]), hold(slot, seat_ids=[b])
    results = race(
        *[lambda: reschedule(first, slot=slot, seat_ids=[b])] * 5,
        *[lambda: reschedule(second, slot=slot, seat_ids=[a])] * 5,
    )
    assert tally(results) == {SeatsTaken: 10}
    assert owners(slot) == [first.pk, second.pk]


def test_reschedule_any_first_buyer_rolls_back() -> None:
    here, there = SlotFactory(places=3), SlotFactory(places=3)
    booking = confirm(hold(here, quantity=3))
    buyer = start(lambda: hold(there, quantity=2), pause_before=GIVE).wait_until_paused()
    moving = start(lambda: reschedule(booking, slot=there, quantity=3)).wait_until_blocked()
    assert owners(here) == [booking.pk] * 3
    buyer.abort()
    assert moving.outcome().slot_id == there.pk
    assert isinstance(buyer.outcome(), Aborted)
    assert_sound()


# ── Staff against buyers ──────────────────────────────────────────────────────────────────────────


@repeat(3)
def test_remove_places_beside_hold(turn: int) -> None:
    slot = SlotFactory(places=12)
    results = race(
        *[lambda: hold(slot, quantity=1)] * 12, lambda: inventory.remove_places(slot, places=6)
    )
    if isinstance(results[12], SeatsInUse):
        assert tally(results[:12]) == {Booking: 12}
    else:
        assert results[12] == 6
        assert tally(results[:12]) == {Booking: 6, SoldOut: 6}
    assert None not in owners(slot)


@repeat(3)
def test_block_seats_beside_hold(turn: int) -> None:
    slot = SlotFactory(rows=1, seats_per_row=3)
    a, b, c = seat_ids(slot)
    results = race(
        lambda: hold(slot, seat_ids=[a, b]),
        lambda: hold(slot, seat_ids=[b, a]),
        lambda: inventory.block_seats(slot, seat_ids=[c, b]),
    )
    if results[2] == 2:
        assert tally(results[:2]) == {SeatsTaken: 2}
        assert list(slot.seats.values_list("blocked", flat=True)) == [False, True, True]
    else:
        assert tally(results) == {Booking: 1, SeatsTaken: 1, SeatsInUse: 1}
        assert not slot.seats.filter(blocked=True).exists()


def test_block_seats_waits_for_a_buyer() -> None:
    slot = SlotFactory(rows=1, seats_per_row=2)
    buyer = start(lambda: hold(slot, quantity=1), pause_before=GIVE).wait_until_paused()
    blocking = start(lambda: inventory.block_seats(slot, seat_ids=seat_ids(slot)))
    blocking.wait_until_blocked()
    buyer.resume()
    assert isinstance(blocking.outcome(), SeatsInUse)
    assert owners(slot).count(buyer.outcome().pk) == 1
    assert_sound()


def test_block_seats_buyer_waits() -> None:
    slot = SlotFactory(rows=1, seats_per_row=1)
    blocking = start(
        lambda: inventory.block_seats(slot, seat_ids=seat_ids(slot)), pause_before=GIVE
    ).wait_until_paused()
    named = start(lambda: hold(slot, seat_ids=seat_ids(slot))).wait_until_blocked()
    whatever = start(lambda: hold(slot, quantity=1)).wait_until_blocked()
    blocking.resume()
    assert blocking.outcome() == 1
    assert isinstance(named.outcome(), SeatsTaken)
    assert isinstance(whatever.outcome(), SoldOut)
    assert_sound()


@repeat(1)
def test_add_places_beside_hold(turn: int) -> None:
    slot = SlotFactory(places=10)
    results = race(
        *[lambda: hold(slot, quantity=2)] * 10,
        *[lambda: inventory.add_places(Slot.objects.get(pk=slot.pk), places=5)] * 2,
    )
    assert results[10:] == [5, 5]
    assert set(tally(results[:10])) <= {Booking, SoldOut}
    winners = tally(results[:10])[Booking]
    assert winners >= 5
    assert slot.seats.free().count() == 20 - 2 * winners
    assert [hold(slot, quantity=2).is_new for _ in range(10 - winners)] == [True] * (10 - winners)
    assert sorted(int(seat.label) for seat in slot.seats.all()) == list(range(1, 21))


def test_add_places_at_once_all_are_searched_from() -> None:
    """Growing takes turns, and each sees what the one before added."""
    slot = SlotFactory(places=0)
    copies = [Slot.objects.get(pk=slot.pk) for _ in range(4)]
    assert race(*[partial(inventory.add_places, copy, places=3) for copy in copies]) == [3] * 4
    slot.refresh_from_db()
    ids = seat_ids(slot)
    assert (slot.first_seat_id, slot.last_seat_id) == (ids[0], ids[-1])


@repeat(3)
def test_cancel_slot_beside_everything(turn: int) -> None:
    slot, other = SlotFactory(places=20), SlotFactory(places=20)
    held = [hold(slot, quantity=1) for _ in range(4)]
    moving = [hold(other, quantity=1) for _ in range(4)]
    results = race(
        *[lambda: hold(slot, quantity=1)] * 10,
        *[partial(confirm, booking) for booking in held],
        *[partial(reschedule, booking, slot=slot, quantity=1) for booking in moving],
        lambda: cancel_slot(slot, actor="desk"),
    )
    assert set(tally(results[:10])) <= {Booking, SlotClosed}
    assert set(tally(results[10:14])) <= {Booking, SlotClosed, WrongState}
    assert set(tally(results[14:18])) <= {Booking, SlotClosed}
    assert owners(slot) == [None] * 20
    ended = [
        *held,
        *[result for result in results[:10] if isinstance(result, Booking)],
        *[result for result in results[14:18] if isinstance(result, Booking)],
    ]
    assert {status(booking) for booking in ended} == {"CANCELLED"}
    assert {booking.pk for booking in results[18]} == {booking.pk for booking in ended}


@repeat(1)
def test_cancel_slot_twice_at_once_reports_each_booking_once(turn: int) -> None:
    slot = SlotFactory(places=10)
    bookings = [confirm(hold(slot, quantity=1)) for _ in range(10)]
    first, second = race(*[lambda: cancel_slot(slot, actor="desk")] * 2)
    assert sorted(each.pk for each in first + second) == sorted(each.pk for each in bookings)
    assert [actions(booking) for booking in bookings] == [["confirm", "cancel"]] * 10


def test_cancel_slot_waits_for_a_hold_that_read_it_as_open() -> None:
    slot = SlotFactory(places=3)
    buyer = start(lambda: hold(slot, quantity=1), pause_before=GIVE).wait_until_paused()
    cancelling = start(lambda: cancel_slot(slot, actor="desk")).wait_until_blocked()
    assert Slot.objects.get(pk=slot.pk).cancelled_at
    buyer.resume()
    assert [booking.pk for booking in cancelling.outcome()] == [buyer.outcome().pk]
    assert status(buyer.outcome()) == "CANCELLED"
    assert_sound()


def test_cancel_slot_goes_on_past_a_busy_booking_and_the_rest_is_told_the_reason_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database, "LOCK_TIMEOUT", "100ms")
    slots = [SlotFactory(places=3), SlotFactory(places=3)]
    first, busy, last = (
        confirm(hold(slots[0], quantity=1), name="Ada", email=f"{name}@example.org")
        for name in ("first", "busy", "last")
    )
    patient = start(lambda: cancel(busy), pause_before=GIVE).wait_until_paused()
    with pytest.raises(SlotBusy):
        cancel_slot(slots[0], actor="desk", reason="Gale.")
    assert [status(booking) for booking in (first, busy, last)] == [
        *("CANCELLED", "CONFIRMED", "CANCELLED")
    ]
    # Nor does it hold up another slot that waits to be finished.
    other = confirm(hold(slots[1], quantity=1), name="Ada", email="other@example.org")
    Slot.objects.filter(pk=slots[1].pk).update(cancelled_at=Now(), cancel_reason="Flood.")
    with pytest.raises(SlotBusy):
        finish_cancelled_slots()
    assert [status(booking) for booking in (busy, other)] == ["CONFIRMED", "CANCELLED"]
    patient.abort().outcome()
    assert [booking.pk for booking in finish_cancelled_slots()] == [busy.pk]
    told = {
        mail.to[0]: mail.body.partition("The reason: ")[2].partition("\n")[0]
        for mail in queued_mails()
        if mail.subject.startswith("Called off")
    }
    gale = dict.fromkeys(["first@example.org", "last@example.org", "busy@example.org"], "Gale.")
    assert told == gale | {"other@example.org": "Flood."}
    assert_sound()


def test_cancel_slot_leaves_a_booking_that_has_moved_away() -> None:
    """Its patient has seen the news and taken another slot, while the others are cancelled."""
    slot, other = SlotFactory(places=2), SlotFactory(places=1)
    stays, moves = (confirm(hold(slot, quantity=1)) for _ in range(2))
    desk = start(lambda: cancel_slot(slot, actor="desk"), pause_before=GIVE).wait_until_paused()
    reschedule(moves, slot=other, quantity=1)
    desk.resume()
    assert [booking.pk for booking in desk.outcome()] == [stays.pk]
    assert status(moves) == "CONFIRMED"
    assert owners(other) == [moves.pk]
    assert_sound()


@repeat(3)
def test_cancel_slot_beside_reschedule_away(turn: int) -> None:
    slot, other = SlotFactory(places=10), SlotFactory(places=10)
    bookings = [confirm(hold(slot, quantity=1)) for _ in range(10)]
    results = race(
        *[partial(reschedule, booking, slot=other, quantity=1) for booking in bookings[::-1]],
        lambda: cancel_slot(slot, actor="desk"),
    )
    assert set(tally(results[:10])) <= {Booking, WrongState}
    moved = {result.pk for result in results[:10] if isinstance(result, Booking)}
    assert {booking.pk for booking in bookings if status(booking) == "CONFIRMED"} == moved
    assert set(owners(other)) - {None} == moved
    assert owners(slot) == [None] * 10


def test_cancel_slot_killed_is_finished_by_the_next() -> None:
    """SIGKILL between any two changes: what is left is cancelled once, by whoever comes next."""
    killed = True
    nth = 0
    while killed:
        nth += 1
        slot = SlotFactory(places=3)
        bookings = [confirm(hold(slot, quantity=1)) for _ in range(3)]
        killed = kill_before(partial(cancel_slot, slot, actor="desk"), "UPDATE ", nth=nth)
        is_cancelled = Slot.objects.get(pk=slot.pk).cancelled_at is not None
        assert is_cancelled == (nth > 1)
        finish_cancelled_slots()
        expected = ["CANCELLED"] * 3 if is_cancelled else ["CONFIRMED"] * 3
        assert [status(booking) for booking in bookings] == expected
        assert [len(actions(booking)) for booking in bookings] == [1 + is_cancelled] * 3
        assert_sound()
    assert nth > 7  # the slot, three bookings, their seats


@pytest.mark.parametrize("wish", ["any", "named"])
def test_hold_slot_closes_while_it_waits(wish: str) -> None:
    slot = SlotFactory(places=1)
    seats = {"quantity": 1} if wish == "any" else {"seat_ids": seat_ids(slot)}
    first = start(lambda: hold(slot, quantity=1), pause_before=GIVE).wait_until_paused()
    second = start(lambda: hold(slot, **seats)).wait_until_blocked()
    Slot.objects.filter(pk=slot.pk).update(closes_at=Now())
    first.abort()
    assert isinstance(first.outcome(), Aborted)
    assert isinstance(second.outcome(), SlotClosed)
    assert owners(slot) == [None]
    assert_sound()


def test_confirm_slot_closes_while_it_waits() -> None:
    slot = SlotFactory(places=1)
    booking = hold(slot, quantity=1)
    first = start(lambda: extend(booking), pause_before=GIVE).wait_until_paused()
    second = start(lambda: confirm(booking)).wait_until_blocked()
    Slot.objects.filter(pk=slot.pk).update(closes_at=Now())
    first.resume()
    assert isinstance(first.outcome(), Booking)
    assert isinstance(second.outcome(), SlotClosed)
    assert status(booking) == "PENDING"
    assert_sound()


# ── The same request twice, and one holder's limit ────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("who", "wish", "places"),
    [("guest", "any", 100), ("guest", "named", 1), ("user", "any", 1), ("user", "named", 100)],
)
def test_hold_same_key_45_at_once(who: str, wish: str, places: int) -> None:
    slot = SlotFactory(places=places)
    holder = Holder(user=UserFactory()) if who == "user" else Holder()
    seats = {"quantity": 1} if wish == "any" else {"seat_ids": seat_ids(slot)[:1]}
    results = race(*[lambda: hold(slot, holder=holder, idempotency_key="K", **seats)] * 45)
    assert tally(results) == {Booking: 45}
    assert len({booking.pk for booking in results}) == 1
    assert Counter(booking.is_new for booking in results) == {True: 1, False: 44}
    assert len([owner for owner in owners(slot) if owner]) == 1
    refusals.flush()
    assert slot.bookings.count() == 1


def test_hold_same_key_for_two_requests() -> None:
    slot = SlotFactory(places=50)
    results = race(
        *[lambda: hold(slot, idempotency_key="K", quantity=1)] * 10,
        *[lambda: hold(slot, idempotency_key="K", quantity=2)] * 10,
    )
    assert tally(results) == {Booking: 10, KeyReused: 10}
    assert slot.bookings.count() == 1
    assert len({type(result) for result in results[:10]}) == 1


def test_hold_same_key_first_rolls_back() -> None:
    slot = SlotFactory(places=5)
    ask = partial(hold, slot, quantity=1, idempotency_key="K")
    first = start(ask, pause_before=GIVE).wait_until_paused()
    others = [start(ask) for _ in range(5)]
    for other in others:
        other.wait_until_blocked()
    first.abort()
    assert isinstance(first.outcome(), Aborted)
    results = [other.outcome() for other in others]
    assert tally(results) == {Booking: 5}
    assert Counter(booking.is_new for booking in results) == {True: 1, False: 4}
    assert_sound()


@pytest.mark.parametrize("who", ["browser", "user"])
def test_hold_same_holder_more_than_allowed(who: str, settings: LazySettings) -> None:
    settings.MAX_LIVE_HOLDS = 3
    slot = SlotFactory(places=20)
    holder = Holder(user=UserFactory()) if who == "user" else Holder(session_key="browser")
    results = race(*[lambda: hold(slot, quantity=1, holder=holder)] * 15)
    assert tally(results) == {Booking: 3, TooManyHolds: 12}


def test_hold_same_holder_at_the_limit_same_key(settings: LazySettings) -> None:
    settings.MAX_LIVE_HOLDS = 1
    slot = SlotFactory(places=20)
    holder = Holder(session_key="browser")
    results = race(*[lambda: hold(slot, quantity=1, holder=holder, idempotency_key="K")] * 10)
    assert tally(results) == {Booking: 10}
    assert slot.bookings.count() == 1


# ── Waiting is bounded ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wish", ["any", "named"])
def test_hold_buyer_stalls(wish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slot = SlotFactory(places=1)
    seats = {"quantity": 1} if wish == "any" else {"seat_ids": seat_ids(slot)}
    stalled = start(lambda: hold(slot, quantity=1), pause_before=GIVE).wait_until_paused()
    monkeypatch.setattr(database, "LOCK_TIMEOUT", "100ms")
    with pytest.raises(SlotBusy):
        hold(slot, **seats)
    stalled.resume()
    assert isinstance(stalled.outcome(), Booking)
    assert_sound()


def test_hold_stalled_buyer_loses_its_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    slot = SlotFactory(places=1)
    with monkeypatch.context() as patch:
        patch.setattr(database, "IDLE_TIMEOUT", "1s")
        stalled = start(lambda: hold(slot, quantity=1), pause_before=GIVE).wait_until_paused()
    assert isinstance(hold(slot, quantity=1), Booking)
    stalled.resume()
    assert isinstance(stalled.outcome(), SlotBusy)
    assert_sound()


# ── Test the test: without the locks ──────────────────────────────────────────────────────────────


@pytest.fixture
def no_row_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "_plans", {})  # else it is in those that are written already
    monkeypatch.setattr(QuerySet, "select_for_update", lambda self, **options: self.all())


def together(competitor: Callable[[], Any]) -> Callable[[], Any]:
    """Of those who do this at once nobody gives seats before two have found some.

    They are so quick that otherwise the first may have finished before the next has looked.
    """
    arrivals, are_two = count(1), threading.Event()

    def watch(execute: Callable, sql: str, *rest: Any) -> Any:
        if GIVE in sql:
            if next(arrivals) == 2:
                are_two.set()
            assert are_two.wait(LIMIT)
        return execute(sql, *rest)

    def compete() -> Any:
        with connection.execute_wrapper(watch):
            return competitor()

    return compete


@contextmanager
def trigger_off() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE slots_seat DISABLE TRIGGER USER")
        try:
            yield
        finally:
            cursor.execute("ALTER TABLE slots_seat ENABLE TRIGGER USER")


@pytest.mark.usefixtures("no_row_locks")
def test_hold_without_locks_is_refused_by_the_database() -> None:
    slot = SlotFactory(places=1)
    first = start(lambda: hold(slot, quantity=1), pause_before=GIVE).wait_until_paused()
    second = start(lambda: hold(slot, quantity=1), pause_before=GIVE).wait_until_paused()
    first.resume()
    assert isinstance(first.outcome(), Booking)
    second.resume()
    refused = second.outcome()
    assert isinstance(refused, IntegrityError)
    assert refused.__cause__.diag.constraint_name == "seat_owner_is_kept"
    assert owners(slot) == [first.outcome().pk]
    assert_sound()


@pytest.mark.usefixtures("no_row_locks")
def test_hold_crowd_without_locks_is_refused_by_the_database() -> None:
    slot = SlotFactory(places=1)
    results = race(*[together(lambda: hold(slot, quantity=1))] * 50)
    told = tally(results)
    assert told[Booking] == 1
    assert told.get(IntegrityError, 0) > 0
    assert told.get(IntegrityError, 0) + told.get(SoldOut, 0) == 49


@pytest.mark.usefixtures("no_row_locks")
def test_hold_without_locks_and_trigger_oversells() -> None:
    slot = SlotFactory(places=1)
    with trigger_off():
        first = start(lambda: hold(slot, quantity=1), pause_before=GIVE).wait_until_paused()
        second = start(lambda: hold(slot, quantity=1), pause_before=GIVE).wait_until_paused()
        first.resume()
        assert isinstance(first.outcome(), Booking)
        second.resume()
        assert isinstance(second.outcome(), Booking)
    with pytest.raises(AssertionError, match="slot_is_not_oversold"):
        assert_sound()


@pytest.mark.usefixtures("no_row_locks")
def test_hold_crowd_without_locks_and_trigger_oversells() -> None:
    slot = SlotFactory(places=1)
    with trigger_off():
        results = race(*[together(lambda: hold(slot, quantity=1))] * 50, sound=False)
    assert tally(results)[Booking] > 1
    with pytest.raises(AssertionError, match="slot_is_not_oversold"):
        assert_sound()
