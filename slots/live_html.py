"""What pages that are open are sent when seats change: fragments that htmx puts in their places."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from django.template.loader import render_to_string
from django.utils.html import format_html

from slots import seat_map
from slots.models import FEW_LEFT, Slot

if TYPE_CHECKING:
    from slots.live import Picture


def changes(slot: Slot, before: "Picture", after: "Picture") -> str:
    """Each seat that changed from one to the other, and the counts. The same for all viewers."""
    can_choose = after.phase == "open"
    seats = (
        seat_map.seat_html(seat_map.make_cell(seat), can_choose=can_choose).replace(
            ' id="', ' hx-swap-oob="true" id="', 1
        )
        for seat in after.changed_since(before)
    )
    count = format_html(
        '<p class="count" id="seat-count" hx-swap-oob="true"><b>{}</b> of {} {} left</p>',
        after.available,
        after.capacity,
        "seats" if slot.is_numbered else "places",
    )
    return "".join(seats) + count


def left(slots: Iterable[Slot]) -> str:
    """How many are left of each of these, as lists say it: slots as of `for_list`."""
    return "".join(
        format_html(
            '<span id="left-{}" hx-swap-oob="true">{}</span>',
            slot.pk,
            render_to_string("slots/_left.html", {"slot": slot, "few": FEW_LEFT}),
        )
        for slot in slots
    )
