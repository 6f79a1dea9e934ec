"""The races again, between processes: no interpreter's lock takes turns for the competitors."""

from collections import Counter
from functools import partial

import pytest

from booking_site.tests.factories import SlotFactory
from booking_site.tests.races import ROUNDS, lapse, race, tally
from bookings.lifecycle import (
    HoldExpired,
    SeatsTaken,
    SlotClosed,
    SoldOut,
    WrongState,
    cancel,
    cancel_slot,
    confirm,
    expire_due,
    hold,
    reschedule,
)
from bookings.models import Booking
from slots.models import Slot

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.parametrize("turn", range(ROUNDS)),
]


def seat_ids(slot: Slot) -> list[int]:
    return list(slot.seats.values_list("pk", flat=True))


def owned(slot: Slot) -> Counter:
    """How many seats each booking owns."""
    return Counter(slot.seats.exclude(booking=None).values_list("booking", flat=True))


def winners(results: list) -> list[int]:
    """Who won, by number."""
    return [number for number, result in enumerate(results) if isinstance(result, Booking)]


def test_hold_one_seat_200_buyers(turn: int) -> None:
    slot = SlotFactory(places=1)
    results = race(*[lambda: hold(slot, quantity=1)] * 200, processes=8)
    assert tally(results) == {Booking: 1, SoldOut: 199}
    assert owned(slot) == {results[number].pk: 1 for number in winners(results)}


def test_hold_three_places_ten_buyers(turn: int) -> None:
    slot = SlotFactory(places=3)
    results = race(*[lambda: hold(slot, quantity=1)] * 10, processes=10)
    assert tally(results) == {Booking: 3, SoldOut: 7}
    assert owned(slot) == {results[number].pk: 1 for number in winners(results)}


def test_hold_parties_of_four_more_than_fit(turn: int) -> None:
    slot = SlotFactory(places=100)
    results = race(*[lambda: hold(slot, quantity=4)] * 80, processes=8)
    assert tally(results) == {Booking: 25, SoldOut: 55}
    assert owned(slot) == {results[number].pk: 4 for number in winners(results)}


def test_hold_named_overlapping_sets_in_opposite_orders(turn: int) -> None:
    slot = SlotFactory(rows=1, seats_per_row=8)
    ids = seat_ids(slot)
    wishes = [ids[:5], ids[:2:-1]] * 10
    results = race(*[partial(hold, slot, seat_ids=wish) for wish in wishes], processes=5)
    assert tally(results) == {Booking: 1, SeatsTaken: 19}
    [winner] = winners(results)
    assert owned(slot) == {results[winner].pk: 5}


def test_hold_any_crowd_takes_over_beside_confirm_and_sweepers(turn: int) -> None:
    slot = SlotFactory(places=60)
    late = [hold(slot, quantity=3) for _ in range(20)]
    lapse(*late)
    results = race(
        *[lambda: hold(slot, quantity=4)] * 40,
        *[partial(confirm, booking) for booking in late],
        *[expire_due] * 2,
        processes=8,
    )
    assert tally(results[:40]) == {Booking: 15, SoldOut: 25}
    assert tally(results[40:60]) == {HoldExpired: 20}


def test_hold_any_never_sold_out_while_others_cancel(turn: int) -> None:
    slot = SlotFactory(places=16)

    def come_and_go() -> int:
        return sum(cancel(hold(slot, quantity=2)).quantity for _ in range(8))

    assert race(*[come_and_go] * 8, processes=8) == [16] * 8


def test_hold_same_key_45_at_once(turn: int) -> None:
    slot = SlotFactory(places=50)
    results = race(*[lambda: hold(slot, quantity=2, idempotency_key="K")] * 45, processes=9)
    assert tally(results) == {Booking: 45}
    assert owned(slot) == {results[0].pk: 2}


def test_confirm_beside_reschedule_and_cancel(turn: int) -> None:
    here, there = SlotFactory(places=2), SlotFactory(places=2)
    booking = hold(here, quantity=2)
    results = race(
        lambda: confirm(booking),
        lambda: reschedule(booking, slot=there, quantity=2),
        lambda: cancel(booking),
        processes=3,
    )
    assert set(tally(results[:2])) <= {Booking, WrongState}
    assert results[2].state == "CANCELLED"
    assert owned(here) + owned(there) == {}


def test_cancel_slot_beside_hold_and_confirm(turn: int) -> None:
    slot = SlotFactory(places=20)
    held = [hold(slot, quantity=1) for _ in range(5)]
    results = race(
        *[lambda: hold(slot, quantity=1)] * 10,
        *[partial(confirm, booking) for booking in held],
        lambda: cancel_slot(slot, actor="desk"),
        processes=8,
    )
    assert set(tally(results[:10])) <= {Booking, SlotClosed}
    assert set(tally(results[10:15])) <= {Booking, SlotClosed, WrongState}
    assert owned(slot) == {}
    assert set(slot.bookings.values_list("status", flat=True)) == {"CANCELLED"}
