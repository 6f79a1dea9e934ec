"""What is sent of a change makes of the page before it the page after it."""

import re
from collections.abc import Callable
from functools import partial

import pytest
from django.test import Client

from booking_site.tests.factories import AppointmentFactory, SlotFactory
from bookings import lifecycle
from slots import live_html, pictures
from slots.models import Slot
from slots.pictures import Picture

pytestmark = pytest.mark.django_db(transaction=True)

OOB = ' hx-swap-oob="true"'
# What is replaced by its id: seats, how many are left, and that nothing is.
PIECES = [
    r'<(?:label|span) class="seat" id="(seat-\d+)".*?</(?:label|span)>',
    r'<p id="(seat-count)".*?</p>',
    r'<div id="(sold-out)">.*?</div>',
    r'<span id="(left-\d+)".*?</span>',
]


def pieces(html: str) -> dict[str, str]:
    """By id, without the space around them."""
    html = html.replace(OOB, "")
    return {found[1]: found[0] for piece in PIECES for found in re.finditer(piece, html, re.S)}


def expand(html: str, page: str) -> str:
    """As live.js makes of one seat each that looks like it."""

    def draw(found: re.Match) -> str:
        labels = dict(re.findall(r'id="seat-(\d+)".*? data-seat="([^"]*)"', page))
        return "".join(
            found[2].replace("{pk}", pk).replace("{label}", labels[pk])
            for pk in found[1].split(",")
        )

    return re.sub(r'<template data-seats=",([\d,]+),">(.*?)</template>', draw, html)


def picture(slot: Slot, before: Picture | None = None) -> Picture:
    return pictures.of_slots({slot.pk: before})[slot.pk]


@pytest.mark.parametrize(
    ("make", "taken", "pieces_sent"),
    [
        (partial(SlotFactory, rows=2, seats_per_row=3), 2, 3),
        (partial(SlotFactory, rows=2, seats_per_row=3), 6, 8),
        (partial(SlotFactory, places=3), 1, 1),
        (partial(SlotFactory, places=3), 3, 2),
        (AppointmentFactory, 1, 2),
    ],
)
def test_page_before_and_its_changes_are_the_page_after(
    client: Client, make: Callable[[], Slot], taken: int, pieces_sent: int
) -> None:
    slot = make()
    page = client.get(slot.get_absolute_url()).content.decode()
    before, old = picture(slot), pieces(page)
    booking = lifecycle.hold(slot, quantity=taken)
    after, new = picture(slot, before), pieces(client.get(slot.get_absolute_url()).content.decode())
    sent = expand(live_html.changes(after.slot, before, after), page)
    assert sent.count(OOB) == len(pieces(sent)) == pieces_sent
    assert old != new
    assert old | pieces(sent) == new

    lifecycle.cancel(booking)
    again = picture(slot, after)
    assert new | pieces(live_html.changes(again.slot, after, again)) == old


def test_list_before_and_what_is_left_are_the_list_after(client: Client) -> None:
    slots = [SlotFactory(places=2) for _ in range(2)]
    old = pieces(client.get("/shows/").content.decode())
    lifecycle.hold(slots[0], quantity=2)
    sent = live_html.left(Slot.objects.for_list().filter(pk=slots[0].pk))
    assert old | pieces(sent) == pieces(client.get("/shows/").content.decode()) != old
