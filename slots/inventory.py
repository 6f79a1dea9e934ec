"""Which seats a slot has: created, added, taken away, held back. Touches free seats only.

Every function is one transaction and raises InventoryError, with nothing changed, if it cannot do
all of what was asked. Growing takes turns by locking the slot's row; what takes seats away locks
them as `bookings.lifecycle` does, so that no seat is deleted or blocked under a buyer's hands.
Locks are taken in this order: doctor, slot, seats by id.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import count, islice
from operator import attrgetter
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.db.models import Count, Max, Q

from booking_site.database import bound_waiting
from slots import live
from slots.models import Doctor, Seat, Show, Slot

MOST_SEATS = 200_000  # in one slot
MOST_IN_A_ROW = 1_000
MOST_NAMED = 12  # labels in one message
INSERT_TIMEOUT = "60s"  # for that many seats, on a slow machine
ONE_AT_A_TIME = (
    "slot_of_a_doctor_overlaps_no_other",
    "slot_of_a_show_starts_when_no_other_does",
)


class InventoryError(Exception):
    """What was asked cannot be done, and nothing was. The message says why."""


class Overlap(InventoryError):
    """The doctor has another slot at this time, or the show another one with this start."""


class SeatsInUse(InventoryError):
    """Fewer seats are free than were to be taken away or held back."""


def create_slot(
    subject: Doctor | Show,
    *,
    starts_at: datetime,
    ends_at: datetime,
    seating: Slot.Seating = Slot.Seating.GENERAL,
    **fields: Any,
) -> Slot:
    """A slot of a doctor or a show, without seats yet. Raises Overlap."""
    kind = "doctor" if isinstance(subject, Doctor) else "show"
    slot = Slot(**{kind: subject}, starts_at=starts_at, ends_at=ends_at, seating=seating, **fields)
    insert_slot(slot)
    return slot


@transaction.atomic
def insert_slot(slot: Slot) -> None:
    """Saves a new slot, as `create_slot` does. Locks the doctor. Raises Overlap."""
    bound_waiting()
    _lock_doctor(slot)
    with _overlap_refused(slot):
        slot.save(force_insert=True)
    live.tell(slot)


@transaction.atomic
def change_slot(
    slot: Slot,
    *,
    starts_at: datetime,
    ends_at: datetime,
    opens_at: datetime | None,
    closes_at: datetime | None,
) -> None:
    """Sets the times of a slot. When it takes place changes only while nobody has booked it.

    Locks the slot; to move it also the doctor and all seats. Raises Overlap and SeatsInUse.
    """
    bound_waiting()
    _lock_doctor(slot)
    current = _lock_open_slot(slot)
    if (current.starts_at, current.ends_at) != (starts_at, ends_at):
        list(slot.seats.values_list("pk").lock())
        if slot.seats.owned().exists():
            raise SeatsInUse(
                "People have booked this slot at its present time. Move or cancel their bookings "
                "first, or add another slot."
            )
    with _overlap_refused(slot):
        Slot.objects.filter(pk=slot.pk).update(
            starts_at=starts_at, ends_at=ends_at, opens_at=opens_at, closes_at=closes_at
        )
    live.tell(slot)


def delete_slot(slot: Slot) -> None:
    """Deletes a slot that nobody ever booked, with its seats. Locks both. Raises SeatsInUse."""
    delete_slots([slot])


@transaction.atomic
def delete_slots(slots: Collection[Slot]) -> None:
    """As `delete_slot`, all of them or none.

    The seats of all are locked in id order, as by those who move a booking from one to another.
    """
    bound_waiting()
    for slot in sorted(slots, key=attrgetter("pk")):
        _lock_slot(slot)
    list(Seat.objects.filter(slot__in=slots).values_list("pk").lock())
    for slot in slots:
        _delete_locked(slot)
    live.tell(*slots)


def _delete_locked(slot: Slot) -> None:
    """Deletes one of them. Raises SeatsInUse."""
    refusal = SeatsInUse(f"{slot} has bookings, so it cannot be deleted. It can be cancelled.")
    if slot.bookings.exists():
        raise refusal
    try:
        with transaction.atomic():
            slot.seats.all().delete()
            Slot.objects.filter(pk=slot.pk).delete()
            # Foreign keys are checked at the end of a transaction unless asked earlier.
            connection.check_constraints()
    except IntegrityError as error:
        raise refusal from error  # recorded this instant: somebody was refused a seat


def _lock_doctor(slot: Slot) -> None:
    """Slots of one doctor take turns: two that overlap would wait for each other for ever.

    Raises InventoryError if the doctor was deleted.
    """
    doctors = Doctor.objects.select_for_update(no_key=True)
    if slot.doctor_id and not doctors.filter(pk=slot.doctor_id).first():
        raise InventoryError("This doctor has been deleted.")


def _lock_slot(slot: Slot) -> Slot:
    """The slot as it is now, locked. Raises InventoryError if it was deleted."""
    locked = Slot.objects.select_for_update(of=("self",), no_key=True).filter(pk=slot.pk).first()
    if locked is None:
        raise InventoryError("This slot has been deleted.")
    return locked


def _lock_open_slot(slot: Slot) -> Slot:
    """As `_lock_slot`. Raises InventoryError also if the slot was called off meanwhile."""
    locked = _lock_slot(slot)
    if locked.cancelled_at:
        raise InventoryError("This slot has been cancelled, so nothing of it can be changed.")
    return locked


@contextmanager
def _overlap_refused(slot: Slot) -> Iterator[None]:
    """Runs one write of the slot; the database's refusal of two at once becomes Overlap."""
    try:
        with transaction.atomic():
            yield
    except IntegrityError as error:
        if error.__cause__.diag.constraint_name in ONE_AT_A_TIME:
            raise Overlap(f"{slot.subject} has another slot at this time.") from error
        raise


def seats_seen(slot: Slot) -> str:
    """What staff have made of the seats up to now, for `require_seen`. One query."""
    counts = slot.seats.aggregate(
        last=Max("id"), total=Count("*"), blocked=Count("pk", filter=Q(blocked=True))
    )
    return "{last}-{total}-{blocked}".format(**counts)


def require_seen(slot: Slot, seen: str) -> None:
    """Locks the slot; raises InventoryError if staff have changed its seats since `seats_seen`.

    For “so many more” and “any so many”: those sent twice, by a double click, would do it twice.
    """
    bound_waiting()
    _lock_open_slot(slot)
    if seats_seen(slot) != seen:
        raise InventoryError(
            "The seats have been changed since this page was shown, perhaps by your own click. "
            "Nothing was done now: look at them, and send it again if it is still needed."
        )


def row_names() -> Iterator[str]:
    """A, B, … Z, AA, AB, …: for ever."""
    for number in count(1):
        name = ""
        while number:
            number, letter = divmod(number - 1, 26)
            name = chr(ord("A") + letter) + name
        yield name


def next_row_names(slot: Slot, rows: int) -> list[str]:
    """What the next rows of the slot will be called; of one that is not saved: A, B, …"""
    taken: set[str] = set()
    if slot.pk:
        taken = set(slot.seats.order_by().values_list("row", flat=True).distinct())
    return list(islice((name for name in row_names() if name not in taken), rows))


@transaction.atomic
def add_rows(
    slot: Slot,
    *,
    rows: int,
    seats_per_row: int,
    section: str = "",
    aisles_after: Collection[int] = (),
    accessible: Collection[str] = (),
) -> int:
    """Adds rows of numbered seats behind those that are there; returns how many seats.

    Seats are called A1, A2, … after their row; `aisles_after` are numbers behind which the map
    leaves a gap, `accessible` the labels of places for wheelchairs. One INSERT, however many.
    """
    _require_room(slot, rows * seats_per_row, rows > 0 and seats_per_row > 0)
    if seats_per_row > MOST_IN_A_ROW:
        raise InventoryError(f"A row can have at most {MOST_IN_A_ROW:,} seats.")
    names = next_row_names(slot, rows)
    numbers = range(1, seats_per_row + 1)
    columns = [n + sum(aisle < n for aisle in set(aisles_after)) for n in numbers]
    return _insert_seats(
        slot,
        """
        SELECT %(slot)s, r.name || n.number, %(section)s, r.name, n.number, n.column,
               r.name || n.number = ANY(%(accessible)s::text[])
        FROM unnest(%(names)s::text[]) WITH ORDINALITY AS r (name, position),
             unnest(%(numbers)s::int[], %(columns)s::int[]) AS n (number, "column")
        ORDER BY r.position, n.number
        """,
        {
            "section": section,
            "names": names,
            "numbers": list(numbers),
            "columns": columns,
            "accessible": list(accessible),
        },
    )


@transaction.atomic
def add_places(slot: Slot, *, places: int) -> int:
    """Adds unnumbered places; returns how many. They are called 1, 2, …: one INSERT."""
    _require_room(slot, places, places > 0)
    last = slot.seats.order_by("-number").values_list("number", flat=True).first() or 0
    return _insert_seats(
        slot,
        """
        SELECT %(slot)s, place.n::text, '', '', place.n, NULL::smallint, false
        FROM generate_series(%(first)s, %(last)s) AS place (n)
        ORDER BY place.n
        """,
        {"first": last + 1, "last": last + places},
    )


@transaction.atomic
def remove_places(slot: Slot, *, places: int) -> int:
    """Takes away that many free seats, the last ones first; returns how many. Raises SeatsInUse.

    Seats that somebody is booking at this moment count as taken, and so do those whose hold has
    lapsed until housekeeping has released them.
    """
    ids = _lock_any_free(slot, places, "taken away")
    live.tell(slot)
    Seat.objects.filter(pk__in=ids).delete()
    return len(ids)


@transaction.atomic
def remove_seats(slot: Slot, *, seat_ids: Collection[int]) -> int:
    """Takes away these seats, on sale or held back; returns how many. Locks them.

    Raises SeatsInUse if one is booked or held, or is on hold that lapsed and was not yet released.
    """
    ids = _lock_named(slot, seat_ids, "taken away")
    live.tell(slot)
    Seat.objects.filter(pk__in=ids).delete()
    return len(ids)


@transaction.atomic
def block_seats(slot: Slot, *, seat_ids: Collection[int], reason: str = "") -> int:
    """Holds free seats back from sale; returns how many. Locks them. Raises SeatsInUse.

    A seat whose hold has lapsed counts as in use until housekeeping has released it.
    """
    ids = _lock_named(slot, seat_ids, "blocked")
    live.tell(slot)
    return Seat.objects.filter(pk__in=ids).update(blocked=True, block_reason=reason)


@transaction.atomic
def block_places(slot: Slot, *, places: int, reason: str = "") -> int:
    """Holds back any so many free seats, the last ones first; returns how many."""
    ids = _lock_any_free(slot, places, "blocked")
    live.tell(slot)
    return Seat.objects.filter(pk__in=ids).update(blocked=True, block_reason=reason)


@transaction.atomic
def unblock_seats(slot: Slot, *, seat_ids: Collection[int]) -> int:
    """Puts those of the seats that were held back on sale; returns how many. Locks them."""
    bound_waiting()
    locked = slot.seats.filter(pk__in=seat_ids, blocked=True).values_list("pk", flat=True).lock()
    live.tell(slot)
    return Seat.objects.filter(pk__in=list(locked)).update(blocked=False, block_reason="")


@transaction.atomic
def unblock_places(slot: Slot, *, places: int) -> int:
    """Puts so many seats that were held back on sale, the first ones first; returns how many."""
    _require_some(places)
    bound_waiting()
    blocked = slot.seats.filter(blocked=True).values_list("pk", flat=True).lock()
    ids = list(blocked[:places])
    if len(ids) < places:
        raise InventoryError(f"{_are(len(ids), 'blocked')}, so {places} cannot be put on sale.")
    live.tell(slot)
    return Seat.objects.filter(pk__in=ids).update(blocked=False, block_reason="")


def _lock_any_free(slot: Slot, places: int, verb: str) -> list[int]:
    """Locks so many free seats that nobody else has locked. Raises SeatsInUse."""
    _require_some(places)
    bound_waiting()
    free = slot.seats.free().order_by("-id").values_list("pk", flat=True)
    ids = list(free.lock_unlocked()[:places])
    if len(ids) < places:
        raise SeatsInUse(
            f"{_are(len(ids), 'free')}, so {places} cannot be {verb}. "
            "Cancel or move bookings first."
        )
    return ids


def _lock_named(slot: Slot, seat_ids: Collection[int], verb: str) -> list[int]:
    """Locks these seats of the slot, which nobody owns. Raises SeatsInUse."""
    wanted = set(seat_ids)
    _require_some(len(wanted))
    bound_waiting()
    free = slot.seats.filter(pk__in=wanted, booking=None).values_list("pk", flat=True)
    ids = list(free.lock())
    if len(ids) == len(wanted):
        return ids
    owned = slot.seats.filter(pk__in=wanted - set(ids)).values_list("label", flat=True)
    if len(owned) < len(wanted) - len(ids):
        raise InventoryError("Some of these seats are no longer there. Choose again.")
    named = ", ".join(owned[:MOST_NAMED]) + (" …" if len(owned) > MOST_NAMED else "")
    raise SeatsInUse(
        f"Booked or held, so they cannot be {verb}: {named}. "
        f"{_are(len(ids), 'free')} of the {len(wanted)} chosen. Cancel or move the bookings first."
    )


def _are(seats: int, what: str) -> str:
    return f"Only 1 seat is {what}" if seats == 1 else f"Only {seats:,} seats are {what}"


def _require_some(seats: int) -> None:
    if seats < 1:
        raise InventoryError("Give at least one seat.")


def _require_room(slot: Slot, more: int, is_sensible: bool) -> None:
    """Locks the slot, so that growing takes turns. Raises InventoryError for too few or many."""
    if not is_sensible:
        raise InventoryError("Give at least one seat.")
    bound_waiting(statement_timeout=INSERT_TIMEOUT)
    locked = _lock_open_slot(slot)
    slot.first_seat_id = locked.first_seat_id  # whoever had the turn before may have set it
    if slot.seats.count() + more > MOST_SEATS:
        raise InventoryError(f"A slot can have at most {MOST_SEATS:,} seats.")


def _insert_seats(slot: Slot, select: str, values: dict[str, Any]) -> int:
    """Inserts the selected seats and widens the slot's hint where to look for free ones."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            WITH added AS (
                INSERT INTO slots_seat
                    (slot_id, label, section, "row", number, "column", accessible,
                     blocked, block_reason)
                SELECT *, false, '' FROM ({select}) AS seats
                RETURNING id
            )
            SELECT count(*), min(id), max(id) FROM added
            """,
            {"slot": slot.pk} | values,
        )
        added, first, last = cursor.fetchone()
    slot.first_seat_id = slot.first_seat_id or first
    slot.last_seat_id = last
    slot.save(update_fields=["first_seat_id", "last_seat_id"])
    live.tell(slot)
    return added
