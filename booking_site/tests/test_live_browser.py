"""Pages that change by themselves, in Chromium: by the stream, and where there is none, by asking."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request, Route, expect

from booking_site.tests.accessibility import problems_of
from booking_site.tests.factories import AppointmentFactory, DoctorFactory, SlotFactory
from booking_site.tests.live_site import LiveSite
from bookings import lifecycle
from slots.models import Slot

pytestmark = pytest.mark.django_db(transaction=True)

SOON = 3000  # milliseconds: a second, and what a busy machine adds
STREAMS = re.compile(r"/live\b")


@pytest.fixture
def new_page(browser: Browser, site: LiveSite) -> Iterator[Callable[..., Page]]:
    """Pages of different people, whose console stays silent."""
    contexts: list[BrowserContext] = []
    said: list[str] = []

    def new(**options: object) -> Page:
        context = browser.new_context(base_url=site.url, **options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
        return page

    yield new
    for context in contexts:
        context.close()
    assert [text for text in said if not text.startswith(("Failed to load resource", "htmx:"))] == []


def seat(page: Page, label: str) -> Locator:
    return page.locator(f"#seat-grid [data-seat='{label}']")


def expect_state(page: Page, label: str, state: str) -> None:
    expect(seat(page, label)).to_have_attribute("data-state", state, timeout=SOON)


def expect_live(page: Page) -> None:
    expect(page.locator("#live")).to_have_attribute("data-state", "live")


def hold(slot: Slot, *labels: str) -> object:
    return lifecycle.hold(slot, seat_ids=[slot.seats.get(label=label).pk for label in labels])


def questions_of(page: Page) -> list[str]:
    """The paths that the page asks for from now on, streams left out."""
    asked: list[str] = []

    def listen(request: Request) -> None:
        if request.resource_type == "xhr":
            asked.append(request.url)

    page.on("request", listen)
    return asked


def test_seat_that_somebody_takes_changes_on_every_open_page(new_page: Callable[..., Page]) -> None:
    slot = SlotFactory(rows=3, seats_per_row=5)
    page, other = new_page(), new_page()
    for one in (page, other):
        one.goto(slot.get_absolute_url())
        expect_live(one)
    asked = questions_of(page)
    seat(page, "A1").click()
    seat(page, "B2").click()
    key = page.locator("input[name=key]").input_value()

    seat(other, "A1").click()
    other.get_by_role("button", name="Hold these seats").click()
    expect(other.locator("#booking")).to_be_visible()
    expect_state(page, "A1", "RESERVED")
    expect(seat(page, "A1")).to_have_class("seat changed")
    expect(page.locator("#seat-notice")).to_have_text("A1 has just been taken.")
    expect(page.locator("#picked")).to_have_text("1 seat: B2")
    expect(page.locator("#seat-count")).to_have_text("14 of 15 seats left")
    counts = page.locator("#legend [data-count]").all_text_contents()
    assert counts == ["14", "1", "0"]
    expect(page.locator("#live-says")).to_have_text("1 seat was taken. 14 left.")
    assert asked == []
    assert page.locator("input[name=key]").input_value() == key
