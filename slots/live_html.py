"""What pages that are open are sent when seats change: fragments that htmx puts in their places."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from django.template.loader import render_to_string

from slots import seat_map
from slots.models import FEW_LEFT, Slot

if TYPE_CHECKING:
    from slots.live import Picture


def changes(slot: Slot, before: "Picture", after: "Picture") -> str:
    """Each seat that changed from one to the other, and how many are left. The same for all."""
    can_choose = after.phase == "open"
    seats = (
        seat_map.seat_html(seat_map.make_cell(seat), can_choose=can_choose).replace(
            " ", ' hx-swap-oob="true" ', 1
        )
        for seat in after.changed_since(before)
    )
    context = {
        "is_news": True,
        "slot": slot,
        "available": after.available,
        "capacity": after.capacity,
    }
    html = "".join(seats) + render_to_string("slots/_count.html", context)
    if can_choose and bool(before.available) != bool(after.available):
        html += render_to_string("slots/_sold_out.html", context)
    return html


def left(slots: Iterable[Slot]) -> str:
    """How many are left of each of these, as lists say it: slots as of `for_list`."""
    context = {"is_news": True, "few": FEW_LEFT}
    return "".join(render_to_string("slots/_left.html", context | {"slot": slot}) for slot in slots)
