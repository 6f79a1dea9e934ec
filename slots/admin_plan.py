"""The plan of a slot for staff: who owns which seat, and why one is held back. Only reads."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from bookings.models import Booking
from slots import seat_map
from slots.models import Seat, Slot
from slots.seat_map import SeatMap

MOST_BOOKINGS = 200  # in the list below the plan
MOST_REASONS = 50


@dataclass
class StaffPlan:
    """`plan`: with owner, link and reason in its cells, if the seats are numbered.

    `blocked`: how many seats are held back for each reason, the most first.
    """

    plan: SeatMap
    fill: SafeString
    blocked: list[tuple[str, int]]
    bookings: list[Booking]
    may_see_names: bool
    to_choose: bool

    @property
    def has_more_bookings(self) -> bool:
        return len(self.bookings) > MOST_BOOKINGS

    @property
    def listed(self) -> list[Booking]:
        return self.bookings[:MOST_BOOKINGS]


def may_see_names(request: HttpRequest) -> bool:
    return request.user.has_perm("bookings.view_booking") or request.user.has_perm(
        "bookings.change_booking"
    )


def load(
    slot: Slot, may_see_names: bool, *, to_choose: bool = False, chosen: Collection[str] = ()
) -> StaffPlan:
    """The seats of a slot, however many: three queries, and one for the bookings if seen.

    `to_choose`: free and blocked seats can be ticked, and those `chosen` are.
    """
    plan = seat_map.load(slot)
    bookings = list(Booking.objects.for_slot(slot)) if may_see_names else []
    for booking in bookings:
        booking.url = reverse("admin:bookings_booking_change", args=[booking.pk])
    reasons = _reasons(slot)
    if slot.is_numbered:
        _describe(plan, {booking.pk: booking for booking in bookings}, reasons, chosen)
    counts = plan.counts
    return StaffPlan(
        plan=plan,
        fill=draw_fill(
            slot,
            {
                "total": sum(counts.values()),
                "available": counts[Seat.State.AVAILABLE],
                "booked": counts[Seat.State.BOOKED],
                "held": counts[Seat.State.RESERVED],
                "blocked": counts[Seat.State.BLOCKED],
            },
        ),
        blocked=Counter(reasons.values()).most_common(MOST_REASONS),
        bookings=bookings,
        may_see_names=may_see_names,
        to_choose=to_choose,
    )


def _reasons(slot: Slot) -> dict[int, str]:
    blocked = slot.seats.filter(blocked=True).order_by()
    return dict(blocked.values_list("pk", "block_reason"))


def _describe(
    plan: SeatMap,
    bookings: dict[Any, Booking],
    reasons: dict[int, str],
    chosen: Collection[str],
) -> None:
    """Adds to each cell who owns it (`owner`, `url`), and whether it `can_change`."""
    owners = {seat.pk: seat.booking_id for seat in plan.seats}
    for section in plan.sections:
        for row in section.rows:
            for cell in row.cells:
                if "pk" not in cell:
                    continue
                cell["is_selected"] = str(cell["pk"]) in chosen
                is_blocked = cell["state"] == Seat.State.BLOCKED
                cell["can_change"] = cell["is_free"] or is_blocked
                if is_blocked and reasons.get(cell["pk"]):
                    cell["name"] += f": {reasons[cell['pk']]}"
                elif not cell["is_free"] and (booking := bookings.get(owners[cell["pk"]])):
                    cell["name"] += f": {booking.reference} {booking.name}".rstrip()
                    cell["url"] = booking.url


def draw_fill(slot: Slot, counts: dict[str, int]) -> SafeString:
    """How full a slot is, as a bar and in words."""
    on_sale = counts["total"] - counts["blocked"]
    what = "seat" if slot.is_numbered else "place"
    words = f"{counts['booked']:,} of {on_sale:,} {what}{'' if on_sale == 1 else 's'}"
    for name in ("held", "blocked"):
        if counts[name]:
            words += f", {counts[name]:,} {name}"
    if not counts["total"]:
        return SafeString('<span class="fill">no seats</span>')
    return format_html(
        '<span class="fill"><meter min="0" max="{}" value="{}" aria-hidden="true"></meter> '
        "<span>{}</span></span>",
        *(on_sale or 1, counts["booked"] + counts["held"], words),
    )


def count_bookings(slots: Iterable[Slot]) -> None:
    """Gives each slot how many bookings are `confirmed`, `unreachable` (of these, without an
    address), and `held`: one query.
    """
    slots = list(slots)
    counted = (
        Booking.objects.with_state()
        .filter(slot__in=slots)
        .order_by()
        .values("slot")
        .annotate(
            confirmed=Count("pk", filter=Q(state=Booking.Status.CONFIRMED)),
            unreachable=Count("pk", filter=Q(state=Booking.Status.CONFIRMED, email="")),
            held=Count("pk", filter=Q(state=Booking.Status.PENDING)),
        )
    )
    by_slot = {row["slot"]: row for row in counted}
    for slot in slots:
        row = by_slot.get(slot.pk, {})
        slot.confirmed, slot.held = row.get("confirmed", 0), row.get("held", 0)
        slot.unreachable = row.get("unreachable", 0)
