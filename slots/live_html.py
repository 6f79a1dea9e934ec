"""What pages that are open are sent when seats change: fragments that htmx puts in their places."""

from collections import defaultdict
from collections.abc import Iterable

from django.template.loader import render_to_string

from slots import seat_map
from slots.models import FEW_LEFT, Seat, Slot
from slots.pictures import Picture
from slots.seat_map import SeatRow


def changes(slot: Slot, before: Picture, after: Picture) -> str:
    """Each seat that changed from one to the other, and how many are left. The same for all.

    Seats that look alike come as one of them, with `{pk}` and `{label}`, of which live.js makes
    each: in a rush hundreds change at once, before thousands who watch.
    """
    can_choose = after.phase == "open"
    seats = []
    alike: defaultdict[str, list[SeatRow]] = defaultdict(list)
    for seat in after.changed_since(before):
        if seat.state == Seat.State.AVAILABLE or seat.accessible:
            seats.append(_seat(seat, can_choose=can_choose))
        else:
            alike[seat.state].append(seat)
    for some in alike.values():
        one = _seat(some[0]._replace(pk="{pk}", label="{label}"), can_choose=can_choose)
        pks = ",".join(str(seat.pk) for seat in some)
        seats.append(f'<template data-seats=",{pks},">{one}</template>')
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


def _seat(seat: SeatRow, *, can_choose: bool) -> str:
    html = seat_map.seat_html(seat_map.make_cell(seat), can_choose=can_choose)
    return html.replace(" ", ' hx-swap-oob="true" ', 1)


def left(slots: Iterable[Slot]) -> str:
    """How many are left of each of these, as lists say it: slots as of `for_list`."""
    context = {"is_news": True, "few": FEW_LEFT}
    return "".join(render_to_string("slots/_left.html", context | {"slot": slot}) for slot in slots)
