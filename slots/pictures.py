"""What open pages show, read once for all who watch: the seats of slots, how many are left of them,
the free times of doctors. And how long each lasts until time alone changes it.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db.models import F, Min, OuterRef, Q, Subquery, Sum
from django.db.models.functions import Now

from slots.models import LETTERS, Seat, Slot
from slots.seat_map import SeatRow

STATES = {letter: state for state, letter in LETTERS.items()}


@dataclass(frozen=True)
class Picture:
    """What everybody sees of a slot at one moment; whose seats they are it does not say."""

    slot: Slot
    phase: str
    available: int
    capacity: int
    fingerprint: str
    states: str = ""  # of numbered seats: a letter each, in id order
    seats: Sequence[SeatRow] = field(default=(), repr=False)  # what else there is of them

    @property
    def lasts(self) -> float:
        """Seconds from its reading until time alone changes it."""
        return _lasts(self.slot)

    def changed_since(self, before: "Picture") -> list[SeatRow]:
        """The seats whose state was another then, with the present one."""
        pairs = zip(before.states, self.states, strict=True)
        return [
            self.seats[at]._replace(state=STATES[now])
            for at, (was, now) in enumerate(pairs)
            if was != now
        ]

    def has_same_plan(self, before: "Picture") -> bool:
        """Whether the one becomes the other when single seats and counts are exchanged."""
        same = self.phase == before.phase and _times(self.slot) == _times(before.slot)
        has_grown = not self.slot.is_numbered and self.capacity != before.capacity
        return same and self.seats is before.seats and not has_grown


def of_slots(before: Mapping[int, Picture | None]) -> dict[int, Picture]:
    """The pictures of these slots by id, without those that are deleted; `before`: the last ones.

    Two queries, and one more for each numbered slot whose plan is new.
    """
    slots = Slot.objects.for_page().filter(pk__in=before).annotate(lapses_at=_next_lapse())
    seats = Seat.objects.filter(slot=OuterRef("pk")).order_by().values("slot")
    halls = slots.filter(seating=Slot.Seating.NUMBERED).annotate(
        letters=Subquery(Seat.objects.filter(slot=OuterRef("pk")).as_letters()),
        ids=Subquery(seats.annotate(n=Sum("pk")).values("n")),
    )
    places = slots.filter(seating=Slot.Seating.GENERAL).with_availability()
    return {slot.pk: _picture(slot, before[slot.pk]) for slot in [*halls, *places]}


def _picture(slot: Slot, before: Picture | None) -> Picture:
    phase = slot.phase(slot.now)
    if not slot.is_numbered:
        seats = (slot.available, slot.capacity)
        return Picture(slot, phase, *seats, fingerprint(slot, phase, seats))
    states, ids = slot.letters or "", slot.ids or 0
    if before and before.slot.ids == ids and len(before.states) == len(states):
        rows = before.seats
    else:
        names = [name for name in SeatRow._fields if name not in ("state", "booking_id")]
        rows = [SeatRow(*row, "", None) for row in slot.seats.order_by("id").values_list(*names)]
    return Picture(
        slot,
        phase,
        states.count(LETTERS[Seat.State.AVAILABLE]),
        len(states) - states.count(LETTERS[Seat.State.BLOCKED]),
        fingerprint(slot, phase, (int(ids), states)),
        states,
        rows,
    )


def fingerprint(slot: Slot, phase: str, seats: object) -> str:
    """The same as long as everybody sees the same of the slot. `seats`: all they see of those."""
    seen = repr((phase, *(at and at.timestamp() for at in _times(slot)), seats))
    return hashlib.blake2b(seen.encode(), digest_size=8).hexdigest()


def _times(slot: Slot) -> tuple:
    return (slot.starts_at, slot.ends_at, slot.opens_at, slot.closes_at)


def numbered(pks: Iterable[int], states: str) -> tuple[int, str]:
    """Of numbered seats what `fingerprint` wants; ids are summed up, since PostgreSQL can, too."""
    return sum(pks), states


def of_lists(pks: Collection[int]) -> dict[int, tuple[Slot, float]]:
    """These slots as of `for_list`, and how long each lasts so; without those that have begun, are
    called off or deleted. One query."""
    slots = Slot.objects.for_list().filter(pk__in=pks).annotate(lapses_at=_next_lapse())
    return {slot.pk: (slot, _lasts(slot)) for slot in slots}


def of_calendars(doctors: Collection[int]) -> dict[int, tuple[list, float]]:
    """The free times of these doctors, and how long they last. Two queries."""
    slots = Slot.objects.filter(doctor__in=doctors)
    free: defaultdict[int, list] = defaultdict(list)
    for doctor, *time_of in slots.bookable().values_list("doctor", "pk", "starts_at", "ends_at"):
        free[doctor].append(time_of)
    coming = {
        row.pop("doctor"): [left.total_seconds() for left in row.values() if left]
        for row in slots.upcoming().order_by().values("doctor").annotate(**_until_next())
    }
    return {pk: (free[pk], min(coming.get(pk, ()), default=math.inf)) for pk in doctors}


# ── Until it changes by time alone ────────────────────────────────────────────────────────────────


def _next_lapse() -> Subquery:
    held = Seat.objects.filter(slot=OuterRef("pk"), held_until__gt=Now()).order_by()
    return Subquery(held.values("slot").annotate(at=Min("held_until")).values("at"))


def _lasts(slot: Slot) -> float:
    """Seconds from when the slot was read (with `now` and `lapses_at`) until something changes."""
    coming = [at - slot.now for at in (slot.lapses_at, *_times(slot)) if at and at > slot.now]
    return min(coming).total_seconds() if coming else math.inf


def _until_next() -> dict[str, Any]:
    """As `_lasts`, of the slots of a group: how long until each kind of change."""
    times = ("opens_at", "closes_at", "starts_at", "seats__held_until")
    return {
        f"until_{name}": Min(F(name) - Now(), filter=Q((f"{name}__gt", Now()))) for name in times
    }
