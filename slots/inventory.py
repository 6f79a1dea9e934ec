"""Which seats a slot has: created, added, taken away, held back. Touches free seats only.

Every function is one transaction and raises InventoryError, with nothing changed, if it cannot do
all of what was asked. Growing takes turns by locking the slot's row; what takes seats away locks
them as `bookings.lifecycle` does, so that no seat is deleted or blocked under a buyer's hands.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from itertools import count, islice
from typing import Any

from django.db import IntegrityError, connection, transaction

from booking_site.database import bound_waiting
from slots.models import Doctor, Seat, Show, Slot

MOST_SEATS = 200_000  # in one slot
INSERT_TIMEOUT = "60s"  # for that many seats, on a slow machine


class InventoryError(Exception):
    """What was asked cannot be done, and nothing was. The message says why."""


class Overlap(InventoryError):
    """The doctor has another slot at this time."""


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
    try:
        with transaction.atomic():
            slot.save(force_insert=True)
    except IntegrityError as error:
        if error.__cause__.diag.constraint_name == "slot_of_a_doctor_overlaps_no_other":
            raise Overlap(f"{subject} has another slot at this time.") from error
        raise
    return slot


def row_names() -> Iterator[str]:
    """A, B, … Z, AA, AB, …: for ever."""
    for number in count(1):
        name = ""
        while number:
            number, letter = divmod(number - 1, 26)
            name = chr(ord("A") + letter) + name
        yield name


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
    taken = set(slot.seats.order_by().values_list("row", flat=True).distinct())
    names = list(islice((name for name in row_names() if name not in taken), rows))
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
    if places < 1:
        raise InventoryError("Give at least one seat.")
    bound_waiting()
    locked = slot.seats.free().order_by("-id").lock_unlocked()[:places]
    ids = [seat.pk for seat in locked]
    if len(ids) < places:
        raise SeatsInUse(
            f"Only {len(ids)} seats are free, so {places} cannot be taken away. "
            "Cancel or move bookings first."
        )
    Seat.objects.filter(pk__in=ids).delete()
    return len(ids)


def block_seats(slot: Slot, *, seat_ids: Sequence[int], reason: str = "") -> None:
    """Holds free seats back from sale. Locks them. Raises SeatsInUse.

    A seat whose hold has lapsed counts as in use until housekeeping has released it.
    """
    _set_blocked(slot, seat_ids, blocked=True, reason=reason)


def unblock_seats(slot: Slot, *, seat_ids: Sequence[int]) -> None:
    """Puts seats that were held back on sale. Locks them."""
    _set_blocked(slot, seat_ids, blocked=False, reason="")


@transaction.atomic
def _set_blocked(slot: Slot, seat_ids: Sequence[int], *, blocked: bool, reason: str) -> None:
    bound_waiting()
    locked = list(slot.seats.filter(pk__in=seat_ids, booking=None).lock())
    if len(locked) < len(set(seat_ids)):
        free = {seat.pk for seat in locked}
        owned = slot.seats.filter(pk__in=set(seat_ids) - free).values_list("label", flat=True)
        raise SeatsInUse(f"Not free, so they cannot be blocked: {', '.join(owned) or 'unknown'}.")
    Seat.objects.filter(pk__in=[seat.pk for seat in locked]).update(
        blocked=blocked, block_reason=reason
    )


def _require_room(slot: Slot, more: int, is_sensible: bool) -> None:
    """Locks the slot, so that growing takes turns. Raises InventoryError for too few or many."""
    if not is_sensible:
        raise InventoryError("Give at least one seat.")
    bound_waiting(statement_timeout=INSERT_TIMEOUT)
    locked = Slot.objects.select_for_update(of=("self",), no_key=True).get(pk=slot.pk)
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
    return added
