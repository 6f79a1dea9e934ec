"""The front desk at work, in Chromium, under the site's own policy."""

import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect

from accounts.models import User
from accounts.staff_groups import SUPERVISORS
from booking_site.tests.accessibility import problems_of
from booking_site.tests.factories import SlotFactory, StaffFactory
from booking_site.tests.live_site import LiveSite
from bookings import lifecycle
from bookings.models import Booking

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "/admin/bookings/booking/"
# What axe looks at: not the frame of all of Django’s pages, nor its search box.
OURS = {"include": [["#content"]], "exclude": [["#toolbar"]]}
DETAILS = {"name": "Ada Lovelace", "email": "ada@example.org", "phone": "+49 (0)30 12-34"}


@pytest.fixture
def clerk() -> User:
    return StaffFactory(email="desk@example.org", group=SUPERVISORS)


@pytest.fixture
def open_page(browser: Browser, site: LiveSite, clerk: User) -> Iterator[Callable[..., Page]]:
    """New pages of the clerk, who is logged in; at the end none may have broken the policy."""
    client = Client()
    client.force_login(clerk)
    cookie = {
        "name": settings.SESSION_COOKIE_NAME,
        "value": client.cookies[settings.SESSION_COOKIE_NAME].value,
        "url": site.url,
    }
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        # Chromium reports every 4xx.
        if not message.text.startswith("Failed to load resource"):
            complaints.append(message.text)

    def open_page(*, is_listening: bool = True, **options: object) -> Page:
        context = browser.new_context(
            base_url=site.url, **({"viewport": {"width": 1280, "height": 900}} | options)
        )
        context.set_default_timeout(10_000)
        context.add_cookies([cookie])
        contexts.append(context)
        page = context.new_page()
        if is_listening:
            page.on("console", listen)
            page.on("pageerror", lambda error: complaints.append(str(error)))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize("javascript", [True, False])
def test_booking_is_found_by_a_misread_reference_cancelled_and_exported(
    open_page: Callable[..., Page], javascript: bool
) -> None:
    slot = SlotFactory(show__name="The Tide Clock", rows=2, seats_per_row=4)
    booking = lifecycle.confirm(lifecycle.hold(slot, quantity=2), **DETAILS)
    lifecycle.confirm(lifecycle.hold(slot, quantity=1), name="Grace Hopper")
    Booking.objects.filter(pk=booking.pk).update(reference="K0M9A1CD")

    page = open_page(java_script_enabled=javascript)
    page.goto("/admin/")
    page.get_by_role("link", name="Bookings").last.click()
    page.locator("#searchbar").fill("kOm9 alcd")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    page.get_by_role("link", name="K0M9A1CD").click()
    expect(page.get_by_role("heading", name="Booking K0M9A1CD")).to_be_visible()
    page.get_by_role("link", name="Cancel…").click()
    assert Booking.objects.get(pk=booking.pk).status == "CONFIRMED"
    page.get_by_role("button", name="Cancel booking K0M9A1CD").click()
    expect(
        page.get_by_text("Write why: the patient reads it, and the history keeps it.")
    ).to_be_visible()
    page.get_by_label("Reason").fill("They telephoned: ill")
    page.get_by_role("button", name="Cancel booking K0M9A1CD").click()
    expect(page.get_by_text("1 booking cancelled.")).to_be_visible()
    last = page.locator("#history tbody tr").last
    expect(last).to_contain_text("confirmed → cancelled")
    expect(last).to_contain_text("desk@example.org")
    expect(last).to_contain_text("They telephoned: ill")
    assert Booking.objects.get(pk=booking.pk).status == "CANCELLED"
    expect(page.get_by_role("link", name="Cancel…")).to_have_count(0)

    page.goto(LIST)
    page.get_by_role("link", name="Cancelled").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Export as CSV").click()
    text = Path(download.value.path()).read_text(encoding="utf-8-sig")
    [row] = csv.DictReader(io.StringIO(text))
    assert (row["reference"], row["reason"]) == ("K0M9A1CD", "They telephoned: ill")


def test_hold_is_confirmed_for_a_caller_with_the_keyboard_alone(
    open_page: Callable[..., Page],
) -> None:
    booking = lifecycle.hold(SlotFactory(), quantity=1)
    page = open_page()
    page.goto(f"{LIST}{booking.pk}/change/")
    link = page.get_by_role("link", name="Confirm…")
    for _ in range(60):
        page.keyboard.press("Tab")
        if link.evaluate("link => link === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=re.compile("^Confirm booking"))).to_be_visible()
    page.get_by_label("Name").focus()
    page.keyboard.type("Ada Lovelace")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 booking confirmed.")).to_be_visible()
    booking.refresh_from_db()
    assert (booking.status, booking.name) == ("CONFIRMED", "Ada Lovelace")


def test_several_are_chosen_in_the_list_and_cancelled_together(
    open_page: Callable[..., Page],
) -> None:
    slot = SlotFactory()
    for _ in range(3):
        lifecycle.confirm(lifecycle.hold(slot, quantity=1), **DETAILS)
    page = open_page()
    page.goto(f"{LIST}?state=confirmed")
    page.get_by_label("Select all objects on this page").check()
    page.get_by_label("Action:").select_option(label="Cancel the chosen bookings…")
    page.get_by_role("button", name="Go").click()
    expect(page.get_by_role("heading", name="Cancel 3 bookings")).to_be_visible()
    page.get_by_role("link", name="Back, change nothing").click()
    assert Booking.objects.filter(status="CONFIRMED").count() == 3
    expect(page).to_have_url(re.compile(r"\?state=confirmed$"))
    page.get_by_label("Select all objects on this page").check()
    page.get_by_label("Action:").select_option(label="Cancel the chosen bookings…")
    page.get_by_role("button", name="Go").click()
    page.get_by_label("Reason").fill("The hall is flooded")
    page.get_by_role("button", name="Cancel 3 bookings").dblclick()
    expect(page.get_by_text(re.compile("3 bookings cancelled|cancelled already"))).to_be_visible()
    assert Booking.objects.filter(status="CANCELLED").count() == 3
    assert slot.seats.free().count() == 10


def test_pages_of_the_desk_are_accessible_on_a_phone(
    open_page: Callable[..., Page], clerk: User
) -> None:
    slot = SlotFactory(rows=2, seats_per_row=4)
    held = lifecycle.hold(slot, quantity=2)
    cancelled = lifecycle.cancel(lifecycle.confirm(lifecycle.hold(slot, quantity=1), **DETAILS))
    phone = {"width": 390, "height": 844}
    page = open_page(is_listening=False, viewport=phone)  # axe styles inline
    paths = [
        f"{LIST}?state=held",
        *(f"{LIST}{b.pk}/change/" for b in (held, cancelled)),
        *(f"{LIST}{held.pk}/{verb}/" for verb in ("confirm", "release", "cancel")),
    ]
    found = {}
    for path in paths:
        page.goto(path)
        if problems := problems_of(page, context=OURS):
            found[path] = problems
    assert found == {}
