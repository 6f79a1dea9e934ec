"""Staff's day in the office, in Chromium, with the site's own CSP and a silent console."""

from collections.abc import Iterator

import pytest
from django.core.management import call_command
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect

from booking_site.tests.accessibility import violations
from booking_site.tests.factories import AppointmentFactory, SlotFactory, UserFactory
from booking_site.tests.live_site import LiveSite, live_site
from bookings import lifecycle
from slots import inventory
from slots.models import Slot

pytestmark = pytest.mark.django_db(transaction=True)

SIZES = {"phone": (390, 844), "desktop": (1280, 900)}


@pytest.fixture
def own_site(transactional_db: None) -> Iterator[LiveSite]:
    """Not that of all tests: Django remembers the ids of content types, which admin's log refers
    to, and the end of each test gives them new ones.
    """
    with live_site() as running:
        yield running


@pytest.fixture
def office(browser: Browser, own_site: LiveSite) -> Iterator[BrowserContext]:
    """The browser of somebody who may do everything, logged in."""
    client = Client()
    client.force_login(
        UserFactory(is_staff=True, is_superuser=True),
    )
    cookie = {"name": "sessionid", "value": client.cookies["sessionid"].value, "url": own_site.url}
    context = browser.new_context(base_url=own_site.url, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(10_000)
    context.add_cookies([cookie])
    yield context
    context.close()


@pytest.fixture
def page(office: BrowserContext) -> Iterator[Page]:
    """A page whose console stays silent: no script fails, and nothing breaks the site's CSP."""
    page = office.new_page()
    said: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        if message.type == "error":
            said.append(f"{message.text} {message.location.get('url', '')}")

    page.on("console", listen)
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    assert said == []
    call_command("check_invariants")


def seat(page: Page, label: str) -> Locator:
    return page.locator(f"#seats-now [data-seat='{label}']")


def set_clock(page: Page, name: str, date: str, time: str) -> None:
    page.locator(f"#id_{name}_0").fill(date)
    page.locator(f"#id_{name}_1").fill(time)


def expect_message(page: Page, text: str) -> None:
    expect(page.locator(".messagelist")).to_contain_text(text)


def test_show_is_planned_filled_changed_and_cancelled(page: Page) -> None:
    page.goto("/admin/")
    page.locator("#content").get_by_role("link", name="Shows", exact=True).click()
    page.get_by_role("link", name="Add show").click()
    page.get_by_label("Name").fill("The Tempest")
    page.get_by_label("Venue").fill("Old Theatre")
    page.get_by_label("Time zone").select_option("Europe/Berlin")
    page.get_by_role("button", name="Save and continue editing").click()
    expect_message(page, "was added successfully")

    page.get_by_role("link", name="Add a slot").click()
    chosen = page.get_by_label("Show:").locator("option:checked")
    expect(chosen).to_have_text("The Tempest, Old Theatre (Europe/Berlin)")
    expect(page.locator("#id_places")).to_be_hidden()
    set_clock(page, "starts_at", "2031-05-01", "20:00")
    set_clock(page, "ends_at", "2031-05-01", "22:30")
    page.get_by_label("Rows").fill("3")
    page.get_by_label("Seats in each row").fill("8")
    page.get_by_label("Aisles after seat").fill("4")
    page.get_by_role("button", name="Save and continue editing").click()
    expect_message(page, "The Tempest, Thu 01 May 2031 20:00 CEST")
    slot = Slot.objects.get()
    assert slot.seats.count() == 24
    expect(seat(page, "C8")).to_have_attribute("aria-label", "C8")

    page.get_by_role("link", name="Change seats").click()
    seat(page, "A1").locator("input").check()
    seat(page, "A2").locator("input").check()
    page.get_by_label("Reason").fill("Camera")
    page.get_by_role("button", name="Block", exact=True).click()
    expect_message(page, "Blocked 2 seats.")
    expect(seat(page, "A2").locator("input")).to_have_attribute(
        "aria-label", "A2, not on sale: Camera"
    )

    page.get_by_label("Rows").fill("1")
    page.get_by_label("Seats in each row").fill("8")
    page.get_by_role("button", name="Add", exact=True).click()
    expect_message(page, "Added 8 seats.")
    expect(seat(page, "D8")).to_be_visible()

    ids = list(slot.seats.filter(label__in=["D1", "D2"]).values_list("pk", flat=True))
    booking = lifecycle.confirm(lifecycle.hold(slot, seat_ids=ids), name="Ada Lovelace")
    page.locator("#id_labels").fill("D")
    page.get_by_role("button", name="Remove").click()
    expect(page.locator(".errorlist")).to_contain_text(
        "Booked or held, so they cannot be taken away: D1, D2."
    )
    assert slot.seats.count() == 32
    expect(seat(page, "D1")).to_have_attribute(
        "title", f"D1, booked: {booking.reference} Ada Lovelace"
    )
    page.locator("#id_labels").fill("D3-D8")
    page.get_by_role("button", name="Remove").click()
    expect_message(page, "Removed 6 seats.")

    page.get_by_role("link", name="Back to the slot").click()
    page.get_by_role("link", name="Cancel this slot").click()
    expect(page.locator("#what-happens")).to_contain_text("1 booking will be cancelled")
    slot.refresh_from_db()
    assert slot.cancelled_at is None
    page.get_by_label("Reason").fill("The singer is ill")
    page.get_by_role("button", name="Yes, cancel it").click()
    expect_message(page, "was cancelled, and with it 1 booking.")
    expect(page.get_by_text("Nothing of it can be changed any more.")).to_be_visible()
    booking.refresh_from_db()
    assert (booking.status, booking.events.last().reason) == ("CANCELLED", "The singer is ill")


def test_doctors_day_is_added_at_once(page: Page) -> None:
    doctor = AppointmentFactory(doctor__name="Dr. Example").doctor
    AppointmentFactory(doctor__name="Dr. Other")
    page.goto("/admin/slots/slot/add/")
    page.get_by_label("Doctor").select_option("Dr. Example, Cardiology (Europe/Berlin)")
    page.get_by_label("Number of places").fill("1")
    set_clock(page, "starts_at", "2031-05-02", "09:00")
    set_clock(page, "ends_at", "2031-05-02", "09:30")
    page.locator("summary", has_text="Repeat").click()
    page.get_by_label("Repeat until").fill("12:00")
    page.get_by_role("button", name="Save", exact=True).click()
    expect_message(page, "6 slots were added")
    assert Slot.objects.filter(starts_at__year=2031).count() == 6
    # The list: by doctor, by date.
    page.locator("#changelist-filter").get_by_role("link", name="Dr. Example").click()
    expect(page.locator(".paginator")).to_contain_text("7 slots")
    page.locator(".toplinks").get_by_role("link", name="2031").click()
    expect(page.locator(".paginator")).to_contain_text("6 slots")

    # Once more the same: refused, naming the slot that is there; what was typed stays.
    page.goto(f"/admin/slots/slot/add/?doctor={doctor.pk}")
    set_clock(page, "starts_at", "2031-05-02", "09:15")
    set_clock(page, "ends_at", "2031-05-02", "09:30")
    page.get_by_role("button", name="Save", exact=True).click()
    error = page.locator(".field-starts_at .errorlist")
    expect(error).to_contain_text("Dr. Example has another slot at this time")
    expect(page.locator("#id_starts_at_1")).to_have_value("09:15")
    error.get_by_role("link", name="Fri 02 May 2031, 09:00–09:30").click()
    expect(page.locator("#content h2").first).to_contain_text("Dr. Example, Fri 02 May 2031 09:00")


def test_pages_of_the_office_are_accessible_and_fit(office: BrowserContext) -> None:
    slot = SlotFactory(rows=3, seats_per_row=30)
    lifecycle.confirm(lifecycle.hold(slot, quantity=2), name="Ada Lovelace")
    inventory.block_seats(slot, seat_ids=[slot.seats.free().first().pk], reason="Broken")
    page = office.new_page()
    paths = [
        "/admin/slots/slot/",
        f"/admin/slots/slot/add/?show={slot.show.pk}",
        *(f"/admin/slots/slot/{slot.pk}/{name}/" for name in ("change", "seats", "cancel")),
        f"/admin/slots/slot/{slot.pk}/delete/",
        f"/admin/slots/show/{slot.show.pk}/change/",
    ]
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21aa"]}
    found = {}
    for path in paths:
        for scheme, size in (("light", SIZES["desktop"]), ("dark", SIZES["phone"])):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
            page.goto(path)
            problems = [f"{rule}: {html}" for rule, html in violations(page, options=rules)]
            if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                problems.append("wider than the screen")
            if problems:
                found[path, scheme] = problems
    assert found == {}
