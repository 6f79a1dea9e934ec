"""Random operations, one after the other, beside a model so small that one sees it is right.

RACE_ROUNDS makes it run longer, and then at random.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any, get_args
from uuid import uuid4

import pytest
from django.conf import LazySettings
from django.db.models.functions import Now
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from booking_site.tests.factories import SlotFactory
from booking_site.tests.races import ROUNDS, assert_sound, lapse
from bookings import lifecycle, refusals
from bookings.lifecycle import (
    GUEST,
    Holder,
    HoldExpired,
    KeyReused,
    SeatsTaken,
    SlotClosed,
    SoldOut,
    TooManyHolds,
    WrongState,
)
from bookings.models import Booking
from slots import inventory
from slots.inventory import InventoryError, SeatsInUse
from slots.models import Seat, Slot

MOST_HOLDS = 1  # of one holder

# ── The model ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(eq=False)
class Party:
    """A booking. A lapsed one is PENDING still, until the sweeper comes."""

    row: Booking
    holder: Holder
    quantity: int
    status: str = "PENDING"
    lapsed: bool = False

    @property
    def is_live(self) -> bool:
        return self.status == "CONFIRMED" or (self.status == "PENDING" and not self.lapsed)

    @property
    def refusal(self) -> type[Exception] | None:
        """Of what only a live hold can do."""
        if self.status in ("CONFIRMED", "CANCELLED"):
            return WrongState
        return HoldExpired if self.lapsed else None


@dataclass(eq=False)
class House:
    """A slot: who owns each seat, by seat id."""

    row: Slot
    owner: dict[int, Party | None]
    blocked: set[int] = field(default_factory=set)
    is_closed: bool = False
    is_cancelled: bool = False

    def is_free(self, seat: int) -> bool:
        return self.owner[seat] is None and seat not in self.blocked

    def available(self, party: Party | None = None) -> set[int]:
        """Seats that are free or lapsed, or the party's own."""
        return {
            seat
            for seat, owner in self.owner.items()
            if self.is_free(seat) or (owner and owner.lapsed) or (owner and owner is party)
        }

    def refusal(
        self, seats: Collection[int] | None, quantity: int, party: Party | None = None
    ) -> type[Exception] | None:
        """Of taking these seats, or any."""
        available = self.available(party)
        if seats is not None and not set(seats) <= available:
            return SeatsTaken
        if len(available) < quantity:
            return SoldOut
        return SlotClosed if self.is_closed or self.is_cancelled else None

    def give(self, seats: Collection[int], party: Party | None) -> None:
        for seat in seats:
            self.owner[seat] = party


# ── The machine ───────────────────────────────────────────────────────────────────────────────────

HOUSES = st.integers(0, 1)
QUANTITIES = st.integers(1, 3)
PICKS = st.sets(st.integers(0, 5), min_size=1, max_size=3)
LATEST = st.integers(0, 3)
KEYS = st.sampled_from([None, None, None, "A", "B"])


class BookingMachine(RuleBasedStateMachine):
    @initialize()
    def open_houses(self) -> None:
        """Each example has slots of its own, so that nothing need be flushed in between."""
        while lifecycle.expire_due()[0]:
            pass
        self.houses = [self.new_house(places) for places in (4, 3)]
        self.all: list[Party] = []
        self.keys: dict[str, tuple[Any, Party]] = {}
        self.name = uuid4().hex
        self.regular = Holder(session_key=self.name)

    def new_house(self, places: int) -> House:
        slot = SlotFactory(places=places)
        return House(slot, dict.fromkeys(slot.seats.values_list("pk", flat=True)))

    def teardown(self) -> None:
        refusals.flush()
        assert_sound()

    def attempt(self, refusal: Any, act: Callable[[], Any]) -> Any:
        """What `act` returns; None if it is refused, as it must be then: by one of those."""
        if refusal is None:
            return act()
        expected = get_args(refusal) or (refusal,)
        with pytest.raises(expected) as caught:
            act()
        assert caught.type in expected
        return None

    def seats_now(self, house: House, party: Party) -> set[int]:
        return set(house.row.seats.filter(booking=party.row).values_list("pk", flat=True))

    def move_in(
        self, house: House, party: Party, wish: Collection[int] | None, allowed: set[int]
    ) -> None:
        """Gives the party in the model what it got: what it named, or any that were allowed."""
        got = self.seats_now(house, party)
        assert len(got) == party.quantity
        assert got <= allowed if wish is None else got == set(wish)
        house.give(got, party)

    def latest(self, which: int) -> Party:
        """One of the last parties that came."""
        return self.all[-1 - which % len(self.all)]

    # ── Patients ──────────────────────────────────────────────────────────────────────────────────

    def hold(
        self, house: House, seats: list[int] | None, quantity: int, key: str | None, holder: Holder
    ) -> None:
        wish = {"quantity": quantity} if seats is None else {"seat_ids": seats}
        request = (house, quantity if seats is None else tuple(sorted(seats)))
        earlier, party = self.keys.get(key, (None, None))
        if party:
            refusal = None if earlier == request else KeyReused
        elif self.live_holds(holder) >= MOST_HOLDS:
            refusal = TooManyHolds
            if seats is None and house.refusal(seats, quantity) is SoldOut:
                refusal = TooManyHolds | SoldOut  # the second, where it has been told lately
        else:
            refusal = house.refusal(seats, quantity)

        row = self.attempt(
            refusal,
            lambda: lifecycle.hold(
                house.row, holder=holder, idempotency_key=key and self.name + key, **wish
            ),
        )
        if row is None:
            return
        assert row.is_new == (party is None)
        if party:
            assert row.pk == party.row.pk
            return
        party = Party(row, holder, quantity)
        self.all.append(party)
        self.move_in(house, party, seats, house.available())
        if key:
            self.keys[key] = (request, party)

    def live_holds(self, holder: Holder) -> int:
        if holder is GUEST:
            return 0
        return sum(
            party.holder is holder and party.is_live and party.status == "PENDING"
            for party in self.all
        )

    @rule(house=HOUSES, quantity=QUANTITIES, key=KEYS, guest=st.booleans())
    def hold_any(self, house: int, quantity: int, key: str | None, guest: bool) -> None:
        holder = GUEST if guest else self.regular
        self.hold(self.houses[house], None, quantity, key, holder)

    @rule(house=HOUSES, picks=PICKS, key=KEYS)
    def hold_named(self, house: int, picks: set[int], key: str | None) -> None:
        seats = self.pick(house, picks)
        self.hold(self.houses[house], seats, len(seats), key, GUEST)

    def pick(self, house: int, picks: set[int]) -> list[int]:
        """Seats by their place in the house, the last named first."""
        ids = sorted(self.houses[house].owner)
        return sorted({ids[pick % len(ids)] for pick in picks}, reverse=True)

    @precondition(lambda self: self.all)
    @rule(which=LATEST)
    def extend(self, which: int) -> None:
        party = self.latest(which)
        refusal = party.refusal or self.closed(party)
        row = self.attempt(refusal, lambda: lifecycle.extend(party.row))
        assert row is None or row.expires_at >= party.row.expires_at

    def closed(self, party: Party) -> type[Exception] | None:
        house = self.house_of(party)
        return SlotClosed if house.is_closed or house.is_cancelled else None

    def house_of(self, party: Party) -> House:
        return next(house for house in self.houses if party in house.owner.values())

    @precondition(lambda self: self.all)
    @rule(which=LATEST)
    def confirm(self, which: int) -> None:
        party = self.latest(which)
        is_done = party.status == "CONFIRMED"
        refusal = None if is_done else party.refusal or self.closed(party)
        if self.attempt(refusal, lambda: lifecycle.confirm(party.row)):
            party.status = "CONFIRMED"

    @precondition(lambda self: self.all)
    @rule(which=LATEST)
    def cancel(self, which: int) -> None:
        party = self.latest(which)
        refusal = HoldExpired if party.lapsed else None
        if party.status == "FAILED":
            refusal = WrongState
        if self.attempt(refusal, lambda: lifecycle.cancel(party.row)):
            self.let_go(party, "CANCELLED")

    def let_go(self, party: Party, status: str) -> None:
        party.status = status
        for house in self.houses:
            house.give([seat for seat, owner in house.owner.items() if owner is party], None)

    @precondition(lambda self: self.all)
    @rule(which=LATEST, house=HOUSES, quantity=QUANTITIES)
    def reschedule_any(self, which: int, house: int, quantity: int) -> None:
        self.reschedule(self.latest(which), self.houses[house], None, quantity)

    @precondition(lambda self: self.all)
    @rule(which=LATEST, house=HOUSES, picks=PICKS)
    def reschedule_named(self, which: int, house: int, picks: set[int]) -> None:
        seats = self.pick(house, picks)
        self.reschedule(self.latest(which), self.houses[house], seats, len(seats))

    def reschedule(
        self, party: Party, house: House, seats: list[int] | None, quantity: int
    ) -> None:
        refusal = None if party.status == "CONFIRMED" else party.refusal
        refusal = refusal or house.refusal(seats, quantity, party)
        wish = {"quantity": quantity} if seats is None else {"seat_ids": seats}
        allowed = house.available(party)
        if self.attempt(refusal, lambda: lifecycle.reschedule(party.row, slot=house.row, **wish)):
            self.let_go(party, party.status)
            party.quantity = quantity
            self.move_in(house, party, seats, allowed)

    # ── Time ──────────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.all)
    @rule(which=LATEST)
    def let_lapse(self, which: int) -> None:
        party = self.latest(which)
        if party.is_live and party.status == "PENDING":
            lapse(party.row)
            party.lapsed = True

    @rule()
    def expire_due(self) -> None:
        due = [party for party in self.all if party.lapsed and party.status == "PENDING"]
        seats = sum(owner in due for house in self.houses for owner in house.owner.values())
        assert lifecycle.expire_due() == (len(due), seats)
        for party in due:
            self.let_go(party, "FAILED")

    # ── Staff ─────────────────────────────────────────────────────────────────────────────────────

    @rule(house=HOUSES, picks=PICKS, blocked=st.booleans())
    def block(self, house: int, picks: set[int], blocked: bool) -> None:
        seats, house = self.pick(house, picks), self.houses[house]
        if not blocked:
            changed = inventory.unblock_seats(house.row, seat_ids=seats)
            assert changed == len(house.blocked & set(seats))
            house.blocked -= set(seats)
            return
        is_in_use = any(house.owner[seat] for seat in seats)
        change = partial(inventory.block_seats, house.row, seat_ids=seats)
        self.attempt(SeatsInUse if is_in_use else None, change)
        if not is_in_use:
            house.blocked |= set(seats)

    @precondition(lambda self: min(len(house.owner) for house in self.houses) < 5)
    @rule(house=HOUSES)
    def grow(self, house: int) -> None:
        house = self.houses[house]
        refusal = InventoryError if house.is_cancelled else None
        if not self.attempt(refusal, lambda: inventory.add_places(house.row, places=1)):
            return
        [new] = set(house.row.seats.values_list("pk", flat=True)) - set(house.owner)
        house.owner[new] = None

    @rule(house=HOUSES, places=st.integers(1, 2))
    def shrink(self, house: int, places: int) -> None:
        house = self.houses[house]
        free = sorted(filter(house.is_free, house.owner))
        if len(house.owner) - places < 1:
            return
        refusal = SeatsInUse if len(free) < places else None
        if self.attempt(refusal, lambda: inventory.remove_places(house.row, places=places)):
            for seat in free[-places:]:
                del house.owner[seat]

    @rule(house=HOUSES, closed=st.booleans())
    def close_or_open(self, house: int, closed: bool) -> None:
        house = self.houses[house]
        Slot.objects.filter(pk=house.row.pk).update(closes_at=Now() if closed else None)
        house.is_closed = closed

    @precondition(lambda self: len(self.all) > 3)
    @rule()
    def cancel_slot(self) -> None:
        house = self.houses[1]
        live = {party for party in house.owner.values() if party and party.is_live}
        cancelled = lifecycle.cancel_slot(house.row, actor="desk")
        assert {row.pk for row in cancelled} == {party.row.pk for party in live}
        house.is_cancelled = True
        for party in live:
            self.let_go(party, "CANCELLED")

    # ── After each step ───────────────────────────────────────────────────────────────────────────

    @invariant()
    def database_is_as_the_model(self) -> None:
        seats = Seat.objects.filter(slot__in=[house.row for house in self.houses])
        assert {
            pk: (booking, blocked)
            for pk, booking, blocked in seats.values_list("pk", "booking", "blocked")
        } == {
            seat: (owner and owner.row.pk, seat in house.blocked)
            for house in self.houses
            for seat, owner in house.owner.items()
        }
        rows = Booking.objects.with_state().in_bulk([party.row.pk for party in self.all])
        assert {
            pk: (row.status, row.state, row.reason, row.quantity) for pk, row in rows.items()
        } == {
            party.row.pk: (
                party.status,
                "FAILED" if party.lapsed else party.status,
                "expired" if party.lapsed else "",
                party.quantity,
            )
            for party in self.all
        }


@pytest.mark.timeout(600)  # to make a failure small takes longer than to find it
@pytest.mark.django_db(transaction=True)
def test_lifecycle_random_operations(settings: LazySettings) -> None:
    settings.MAX_LIVE_HOLDS = MOST_HOLDS
    settings.HOLD_SECONDS, settings.HOLD_MAX_SECONDS = 3600, 7200  # only `let_lapse` lets it pass
    run_state_machine_as_test(
        BookingMachine,
        settings=hypothesis_settings(
            max_examples=25 * ROUNDS,
            stateful_step_count=40,
            deadline=None,
            derandomize=ROUNDS == 1,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
