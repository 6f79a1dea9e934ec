"""The plan of a hall: seats become sections, rows and cells, as this viewer sees them.

Halls have thousands of seats. What there is of each is made here, the HTML too: a template would
take twenty times as long.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, TypedDict

from django.utils.html import escape
from django.utils.safestring import SafeString

from booking_site.prepared import prepared, select, send
from slots.models import LETTERS, Seat, Slot

YOURS = "YOURS"
STATE_NAMES = {
    Seat.State.AVAILABLE: "free",
    Seat.State.RESERVED: "held by somebody",
    Seat.State.BOOKED: "booked",
    Seat.State.BLOCKED: "not on sale",
    YOURS: "yours",
}
# What is written on a seat that cannot be chosen, so that colour is not the only sign.
SIGNS = {Seat.State.RESERVED: "…", Seat.State.BOOKED: "×", Seat.State.BLOCKED: "–", YOURS: "★"}
UNNAMED_ROW = 10  # seats side by side where the seats name no row
DENSE = 30  # columns from which on the seats are drawn smaller


class SeatRow(NamedTuple):
    """What the plan needs of a seat; halls have thousands, so it is no model instance."""

    pk: int
    label: str
    section: str
    row: str
    number: int | None
    column: int | None
    accessible: bool
    state: str
    booking_id: str | None


class Cell(TypedDict, total=False):
    """A seat, or (only `gap`) that many columns of floor. A dict: templates read those fastest.

    `name` is what a screen reader says: “A4”, “A1, wheelchair place”, “A5, booked”.
    """

    gap: int
    pk: int
    label: str
    text: str
    name: str
    state: str
    is_free: bool
    is_accessible: bool
    is_selected: bool
    # On the plan of staff only: may be ticked; the page of its booking.
    can_change: bool
    url: str


@dataclass
class Row:
    """`can_choose`: as `load` has it."""

    name: str
    cells: list[Cell]
    can_choose: bool

    @cached_property
    def html(self) -> SafeString:
        """The row of a table: its name, the seats, its name again for who looks from there."""
        name = escape(self.name)
        cells = "".join(
            f'<td colspan="{cell["gap"]}"></td>'
            if "gap" in cell
            else f"<td>{seat_html(cell, can_choose=self.can_choose)}</td>"
            for cell in self.cells
        )
        return SafeString(
            f'<tr><th scope="row">{name}</th>{cells}'
            f'<td class="row-end" aria-hidden="true">{name}</td></tr>'
        )

    def with_cells(self, cells: dict[int, Cell]) -> "Row":
        """With these in the place of theirs, by pk; itself if none of them is here."""
        if not any(cell.get("pk") in cells for cell in self.cells):
            return self
        return replace(self, cells=[cells.get(cell.get("pk", 0), cell) for cell in self.cells])


@dataclass
class Section:
    """`columns`: for each column of the plan whether it is an aisle."""

    name: str
    columns: list[bool]
    rows: list[Row]

    @cached_property
    def html(self) -> SafeString:
        """Its rows."""
        return SafeString("\n".join(row.html for row in self.rows))

    @property
    def is_dense(self) -> bool:
        return len(self.columns) > DENSE


@dataclass
class SeatMap:
    """All seats, laid out and drawn only when somebody looks at the `sections`.

    As everybody sees them; or, with `public`, as somebody to whom some `cells` look otherwise.
    """

    seats: list[SeatRow]
    counts: dict[str, int]
    can_choose: bool
    states: str  # a letter for each, as everybody sees them, in id order
    public: "SeatMap | None" = None
    cells: dict[int, Cell] = field(default_factory=dict)

    @cached_property
    def sections(self) -> list[Section]:
        if self.public is None:
            return list(_sections(self.seats, self.can_choose))
        return [
            replace(section, rows=[row.with_cells(self.cells) for row in section.rows])
            for section in self.public.sections
        ]

    def seen_by(self, own: Collection, selected: Collection[int] = ()) -> "SeatMap":
        """As somebody sees it: seats of their `own` bookings (ids) are YOURS, and those of
        `selected` that are still free come out so. Only the rows of these are drawn anew.
        """
        mine = {
            seat.pk: seat._replace(state=YOURS)
            for seat in self.seats
            if seat.booking_id in own and seat.state in (Seat.State.RESERVED, Seat.State.BOOKED)
        }
        chosen = {seat.pk for seat in self.seats if seat.pk in selected}
        if not (mine or chosen):
            return self
        seats = [mine.get(seat.pk, seat) for seat in self.seats]
        changed = (seat for seat in seats if seat.pk in mine or seat.pk in chosen)
        return replace(
            self,
            seats=seats,
            counts=_count(seats),
            public=self,
            cells={seat.pk: make_cell(seat, is_selected=seat.pk in chosen) for seat in changed},
        )

    @property
    def has_accessible(self) -> bool:
        return any(seat.accessible for seat in self.seats)

    @property
    def available(self) -> int:
        return self.counts[Seat.State.AVAILABLE]

    @property
    def capacity(self) -> int:
        """Seats on sale, sold ones included."""
        return sum(self.counts.values()) - self.counts[Seat.State.BLOCKED]

    @property
    def is_dense(self) -> bool:
        return any(section.is_dense for section in self.sections)

    @property
    def legend(self) -> list[dict[str, Any]]:
        """Each state with its sign, name and count; what not every hall has only where it is."""
        return [
            {"state": state, "sign": SIGNS.get(state, ""), "name": name, "count": count}
            for state, name in STATE_NAMES.items()
            if (count := self.counts[state]) or state not in (Seat.State.BLOCKED, YOURS)
        ]


def load(slot: Slot, *, can_choose: bool = False) -> SeatMap:
    """The plan as everybody sees it: one query. `can_choose`: free seats can be ticked."""
    [rows] = send(_read_seats(slot=slot.pk))
    seats = [SeatRow._make(row) for row in rows]
    return SeatMap(
        seats=seats,
        counts=_count(seats),
        can_choose=can_choose,
        states="".join([LETTERS[seat.state] for seat in seats]),
    )


@prepared
def _read_seats(*, slot: int) -> Any:
    fields = [field for field in SeatRow._fields if field not in ("state", "booking_id")]
    seats = Seat.objects.filter(slot=slot).with_state().order_by("id")
    return select(seats.values_list(*fields, "state", "booking_id"))


def _count(seats: Iterable[SeatRow]) -> dict[str, int]:
    counts = Counter([seat.state for seat in seats])
    return {state: counts[state] for state in STATE_NAMES}


def make_cell(seat: SeatRow, *, is_selected: bool = False) -> Cell:
    is_free = seat.state == Seat.State.AVAILABLE
    number = str(seat.number) if seat.row and seat.number else seat.label
    name = f"{seat.label}, wheelchair place" if seat.accessible else seat.label
    return Cell(
        pk=seat.pk,
        label=seat.label,
        text=number if is_free else SIGNS[seat.state],
        name=name if is_free else f"{name}, {STATE_NAMES[seat.state]}",
        state=seat.state,
        is_free=is_free,
        is_accessible=seat.accessible,
        is_selected=is_free and is_selected,
    )


def seat_html(cell: Cell, *, can_choose: bool) -> SafeString:
    """One seat, as the plan of the hall and the news of it draw it: `<… id="seat-1" …>`.

    A box to tick where it is free and `can_choose`, else a picture with a name.
    """
    pk, label, name = cell["pk"], escape(cell["label"]), escape(cell["name"])
    text = escape(cell["text"])
    if can_choose and cell["is_free"]:
        accessible = " data-accessible" if cell["is_accessible"] else ""
        checked = " checked" if cell["is_selected"] else ""
        return SafeString(
            f'<label class="seat" id="seat-{pk}" data-seat="{label}" data-state="AVAILABLE"'
            f'{accessible}><input type="checkbox" name="seat" value="{pk}" aria-label="{name}"'
            f"{checked}>{text}</label>"
        )
    return SafeString(
        f'<span class="seat" id="seat-{pk}" role="img" data-seat="{label}"'
        f' data-state="{cell["state"]}" aria-label="{name}">{text}</span>'
    )


def _sections(seats: Iterable[SeatRow], can_choose: bool) -> Iterator[Section]:
    """In the order in which the seats were made, as are the rows."""
    by_section: dict[str, dict[tuple[str, int], list[SeatRow]]] = {}
    sizes: Counter[str] = Counter()
    for seat in seats:
        rows = by_section.setdefault(seat.section, {})
        part = 0 if seat.row or seat.column else sizes[seat.section] // UNNAMED_ROW
        rows.setdefault((seat.row, part), []).append(seat)
        sizes[seat.section] += 1
    for name, rows in by_section.items():
        placed = {key: _place(row) for key, row in rows.items()}
        used = sorted({column for row in placed.values() for column, _ in row})
        positions, columns = _close_up(used)
        yield Section(
            name=name,
            columns=columns,
            rows=[
                Row(key[0], list(_cells(row, positions, len(columns))), can_choose)
                for key, row in placed.items()
            ],
        )


def _place(row: list[SeatRow]) -> list[tuple[int, SeatRow]]:
    """The seats of a row with a column each: their own, or the next one where they have none."""
    placed: list[tuple[int, SeatRow]] = []
    for seat in sorted(row, key=lambda seat: (seat.column or 0, seat.pk)):
        least = placed[-1][0] + 1 if placed else 1
        placed.append((max(seat.column or least, least), seat))
    return placed


def _close_up(used: list[int]) -> tuple[dict[int, int], list[bool]]:
    """Where each used column comes to stand, and the columns: any empty stretch is one aisle."""
    positions: dict[int, int] = {}
    columns: list[bool] = []
    for before, column in zip([None, *used], used, strict=False):
        if before is not None and column > before + 1:
            columns.append(True)
        positions[column] = len(columns)
        columns.append(False)
    return positions, columns


def _cells(row: list[tuple[int, SeatRow]], positions: dict[int, int], width: int) -> Iterator[Cell]:
    at = 0
    for column, seat in row:
        if gap := positions[column] - at:
            yield Cell(gap=gap)
        at = positions[column] + 1
        yield make_cell(seat)
    if width > at:
        yield Cell(gap=width - at)
