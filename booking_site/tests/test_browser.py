"""Patients' journeys through the real site in Chromium: gunicorn, PostgreSQL, nothing faked."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.contrib.auth.hashers import make_password
from django.core.management import call_command
from django.db.models.functions import Now
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect

from accounts.models import User
from booking_site.tests.accessibility import alert_of, problems_of
from booking_site.tests.factories import AppointmentFactory, SlotFactory
from booking_site.tests.live_site import LiveSite
from bookings import lifecycle
from bookings.models import Booking
from slots.models import Seat, Slot

pytestmark = pytest.mark.django_db(transaction=True)

NAME, EMAIL = "Ada Lovelace", "ada@example.org"


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page whose console stays silent: no script fails, and nothing breaks the site's CSP."""
    page = context.new_page()
    said: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        # Chromium reports every 4xx, and htmx every question that leaving a page cuts short.
        ignored = message.text.startswith(("Failed to load resource", "htmx:"))
        if message.type == "error" and not ignored:
            said.append(message.text)

    page.on("console", listen)
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    assert said == []
    call_command("check_invariants")


@pytest.fixture
def new_context(browser: Browser, site: LiveSite) -> Iterator[Callable[..., BrowserContext]]:
    """Other people's browsers."""
    contexts = []

    def new(**options: object) -> BrowserContext:
        contexts.append(browser.new_context(base_url=site.url, **options))
        contexts[-1].set_default_timeout(10_000)
        return contexts[-1]

    yield new
    for context in contexts:
        context.close()


def seat(page: Page, label: str) -> Locator:
    """The seat of that label on the plan."""
    return page.locator(f"#seat-grid [data-seat='{label}']")


def expect_booking(page: Page, state: str) -> None:
    """Waits for the page of a booking in that state."""
    expect(page.locator(f"#booking[data-state='{state}']")).to_be_visible()


def state_of(slot: Slot, label: str) -> str:
    return slot.seats.with_state().get(label=label).state


def fill_in_details(page: Page) -> None:
    page.get_by_label("Name").fill(NAME)
    page.get_by_label("E-mail address").fill(EMAIL)
    page.locator("#details button[type=submit]").last.click()


def let_lapse(booking: Booking, *, seconds: int = 0) -> None:
    """Moves the end of the hold to that many seconds from now, by the database's clock."""
    ends = Now() + timedelta(seconds=seconds)
    Booking.objects.filter(pk=booking.pk).update(expires_at=ends)
    booking.refresh_from_db()
    Seat.objects.filter(booking=booking).update(held_until=booking.expires_at)


def test_appointment_is_found_held_confirmed_seen_and_cancelled(
    page: Page, new_context: Callable[..., BrowserContext]
) -> None:
    slot = AppointmentFactory(doctor__name="Dr. Example")
    page.goto("/")
    page.get_by_role("link", name="Dr. Example").first.click()
    page.locator(f"a[href='/slots/{slot.pk}/']").first.click()
    page.get_by_role("button", name="Hold this time").click()
    expect_booking(page, "PENDING")
    expect(page.locator("#clock")).to_have_text(re.compile(r"^(2:00|1:5\d)$"))
    assert state_of(slot, "1") == "RESERVED"

    fill_in_details(page)
    expect_booking(page, "CONFIRMED")
    booking = Booking.objects.get()
    assert (booking.status, booking.name, booking.email) == ("CONFIRMED", NAME, EMAIL)
    expect(page.locator("#reference")).to_have_text(booking.reference)
    assert state_of(slot, "1") == "BOOKED"

    # Its address is the key, in any browser; the list is this browser's.
    stranger = new_context().new_page()
    stranger.goto(f"/bookings/{booking.pk}/")
    expect(stranger.locator("#reference")).to_have_text(booking.reference)
    stranger.goto("/bookings/")
    expect(stranger.get_by_text("Dr. Example")).to_have_count(0)
    page.goto("/bookings/")
    page.get_by_role("link", name="Dr. Example").first.click()

    page.get_by_role("link", name="Cancel this booking").click()
    assert Booking.objects.get().status == "CONFIRMED"  # looking at the page changes nothing
    page.get_by_role("button", name="Yes, cancel it").click()
    expect_booking(page, "CANCELLED")
    assert state_of(slot, "1") == "AVAILABLE"
    assert Booking.objects.get().status == "CANCELLED"


def test_two_seats_of_a_show_are_chosen_held_extended_and_confirmed(page: Page) -> None:
    slot = SlotFactory(rows=4, seats_per_row=6)
    page.goto(f"/slots/{slot.pk}/")
    seat(page, "B2").click()
    seat(page, "B3").click()
    expect(page.locator("#picked")).to_have_text("2 seats: B2, B3")
    page.get_by_role("button", name="Hold these seats").click()
    expect_booking(page, "PENDING")
    booking = Booking.objects.get()
    assert booking.labels == ["B2", "B3"]

    let_lapse(booking, seconds=60)
    page.reload()
    expect(page.locator("#clock")).to_have_text(re.compile(r"^(1:00|0:5\d)$"))
    page.get_by_label("Name").fill("typed before")
    page.get_by_role("button", name="I need more time").click()
    expect(page.locator("#clock")).to_have_text(re.compile(r"^(2:00|1:5\d)$"))
    expect(page.get_by_label("Name")).to_have_value("typed before")
    fill_in_details(page)
    expect(page.locator("#reference")).to_have_text(booking.reference)
    assert [state_of(slot, label) for label in ("B1", "B2", "B3", "B4")] == [
        "AVAILABLE",
        "BOOKED",
        "BOOKED",
        "AVAILABLE",
    ]
    page.goto(f"/slots/{slot.pk}/")
    expect(seat(page, "B2")).to_have_attribute("data-state", "YOURS")


@pytest.mark.parametrize("javascript", [True, False])
def test_race_for_one_seat_is_won_once_and_the_loser_told_which(
    page: Page, new_context: Callable[..., BrowserContext], javascript: bool
) -> None:
    slot = SlotFactory(rows=2, seats_per_row=4)
    other = new_context(java_script_enabled=javascript).new_page()
    # The slower one has heard nothing of the other when the button is pressed.
    other.route(re.compile(r"/(live|seats)(\?|$)"), lambda route: route.abort())
    for person in (page, other):
        person.goto(f"/slots/{slot.pk}/")
    seat(other, "A1").click()
    seat(other, "A2").click()
    seat(page, "A1").click()
    page.get_by_role("button", name="Hold these seats").click()
    expect_booking(page, "PENDING")

    with other.expect_response(re.compile("/hold$")) as answer:
        other.get_by_role("button", name="Hold these seats").click()
    assert answer.value.status == 409
    expect(alert_of(other)).to_contain_text("Seat A1 has just been taken.")
    expect(seat(other, "A1")).to_have_attribute("data-state", "RESERVED")
    expect(seat(other, "A2").locator("input")).to_be_checked()
    other.get_by_role("button", name="Hold these seats").click()
    expect_booking(other, "PENDING")
    held = Booking.objects.filter(status="PENDING").values_list("labels", flat=True)
    assert sorted(held) == [["A1"], ["A2"]]  # the refusal may have been recorded, too


def test_plan_shows_what_others_take_and_says_so_of_a_chosen_seat(page: Page) -> None:
    slot = SlotFactory(rows=2, seats_per_row=4)
    page.goto(f"/slots/{slot.pk}/")
    seat(page, "A1").click()
    seat(page, "A2").click()
    lifecycle.hold(slot, seat_ids=[slot.seats.get(label="A1").pk])
    expect(seat(page, "A1")).to_have_attribute("data-state", "RESERVED", timeout=10_000)
    expect(page.locator("#seat-notice")).to_have_text("A1 has just been taken.")
    expect(seat(page, "A2").locator("input")).to_be_checked()
    expect(page.locator("#picked")).to_have_text("1 seat: A2")


def test_hold_that_lapses_says_so_by_itself(page: Page) -> None:
    slot = SlotFactory(rows=1, seats_per_row=3)
    page.goto(f"/slots/{slot.pk}/")
    seat(page, "A1").click()
    page.get_by_role("button", name="Hold these seats").click()
    expect_booking(page, "PENDING")
    let_lapse(Booking.objects.get(), seconds=2)
    page.reload()
    expect_booking(page, "FAILED")
    assert state_of(slot, "A1") == "AVAILABLE"


def test_confirming_in_a_stale_tab_after_the_lapse_books_nothing(page: Page) -> None:
    slot = SlotFactory(rows=1, seats_per_row=3)
    page.goto(f"/slots/{slot.pk}/")
    seat(page, "A1").click()
    page.get_by_role("button", name="Hold these seats").click()
    expect_booking(page, "PENDING")
    let_lapse(Booking.objects.get())
    lifecycle.hold(slot, seat_ids=[slot.seats.get(label="A1").pk])
    fill_in_details(page)
    expect(alert_of(page)).to_contain_text("The time to confirm ran out")
    assert not Booking.objects.filter(status="CONFIRMED").exists()


def test_whole_life_of_a_booking_without_javascript(
    page: Page, new_context: Callable[..., BrowserContext]
) -> None:
    slot = SlotFactory(rows=2, seats_per_row=4)
    plain = new_context(java_script_enabled=False).new_page()
    plain.goto("/")
    plain.get_by_role("link", name=slot.show.name).first.click()
    plain.locator(f"a[href='/slots/{slot.pk}/']").first.click()
    plain.get_by_role("checkbox", name="A3", exact=True).check()
    plain.get_by_role("button", name="Hold these seats").click()
    expect_booking(plain, "PENDING")
    plain.get_by_label("Name").fill(NAME)
    plain.get_by_role("button", name="I need more time").click()
    expect(plain.get_by_label("Name")).to_have_value(NAME)
    fill_in_details(plain)
    expect_booking(plain, "CONFIRMED")
    plain.get_by_role("link", name="Cancel this booking").click()
    plain.get_by_role("button", name="Yes, cancel it").click()
    expect_booking(plain, "CANCELLED")

    # A lapse is shown by the page's own refresh.
    plain.goto(f"/slots/{slot.pk}/")
    plain.get_by_role("checkbox", name="A3", exact=True).check()
    plain.get_by_role("button", name="Hold these seats").click()
    expect_booking(plain, "PENDING")
    let_lapse(Booking.objects.get(status="PENDING"), seconds=1)
    plain.reload()
    expect_booking(plain, "FAILED")


def test_hold_that_works_never_says_that_it_did_not(page: Page) -> None:
    slot = SlotFactory(rows=1, seats_per_row=3)
    page.goto(f"/slots/{slot.pk}/")
    page.route("**/bookings/**", lambda route: route.fulfill(status=204))  # the old page stays
    seat(page, "A1").click()
    with page.expect_response("**/bookings/**"):
        page.get_by_role("button", name="Hold these seats").click()
    expect(page.locator("#seat-notice")).to_have_text("")
    page.evaluate("htmx.trigger('#seat-grid', 'news')")  # which may come before the next page
    expect(seat(page, "A1")).to_have_attribute("data-state", "YOURS")
    expect(page.locator("#seat-notice")).to_have_text("")
    assert Booking.objects.get().status == "PENDING"


def test_double_click_and_back_button_hold_once(page: Page) -> None:
    slot = SlotFactory(places=5)
    page.goto(f"/slots/{slot.pk}/")
    page.get_by_label("How many places?").fill("2")
    page.get_by_role("button", name="Hold these places").dblclick()
    expect_booking(page, "PENDING")
    assert [booking.quantity for booking in Booking.objects.all()] == [2]

    page.go_back()
    expect(page.get_by_text("You are holding")).to_be_visible()
    page.get_by_role("link", name="Continue with this booking").click()
    page.get_by_role("button", name="Give it back").click()
    expect_booking(page, "CANCELLED")
    page.go_back()
    expect(page.get_by_text("5 of 5 places left")).to_be_visible()
    expect(page.get_by_text("You are holding")).to_have_count(0)
    page.go_forward()
    expect_booking(page, "CANCELLED")
    assert slot.seats.free().count() == 5


def test_keyboard_alone_books_a_seat(page: Page) -> None:
    slot = SlotFactory(rows=3, seats_per_row=4)
    lifecycle.hold(slot, seat_ids=[slot.seats.get(label="B2").pk])
    page.goto(f"/slots/{slot.pk}/")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "seat":
            break
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")  # over B2, which is taken
    page.keyboard.press("Space")
    expect(page.locator("#picked")).to_have_text("1 seat: B3")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Hold these seats")).to_be_focused()
    page.keyboard.press("Enter")
    expect_booking(page, "PENDING")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "name":
            break
    page.keyboard.type(NAME)
    page.keyboard.press("Tab")
    page.keyboard.type(EMAIL)
    page.keyboard.press("Enter")
    expect_booking(page, "CONFIRMED")
    assert Booking.objects.get(status="CONFIRMED").labels == ["B3"]


def test_pages_are_accessible_and_fit_a_small_phone(
    page: Page, new_context: Callable[..., BrowserContext]
) -> None:
    slot = SlotFactory(rows=12, seats_per_row=24)
    appointment = AppointmentFactory()
    held = lifecycle.hold(slot, quantity=2)
    booked = lifecycle.confirm(lifecycle.hold(slot, quantity=2), name=NAME, email=EMAIL)
    cancelled = lifecycle.cancel(lifecycle.hold(slot, quantity=2))
    lapsed = lifecycle.hold(slot, quantity=2)
    let_lapse(lapsed)
    phone = new_context(viewport={"width": 360, "height": 740}).new_page()
    paths = [
        "/",
        "/shows/",
        "/doctors/",
        slot.show.get_absolute_url(),
        appointment.doctor.get_absolute_url(),
        slot.get_absolute_url(),
        appointment.get_absolute_url(),
        *(b.get_absolute_url() for b in (held, booked, cancelled, lapsed)),
        f"/bookings/{booked.pk}/cancel",
        "/bookings/",
        "/accounts/login/",
        "/accounts/signup/",
        "/there-is-no-such-page",
    ]
    found = {}
    for path in paths:
        phone.goto(path)
        if problems := problems_of(phone):
            found[path] = problems
    assert found == {}


def test_staff_log_in_to_the_admin_without_breaking_its_own_policy(page: Page) -> None:
    password = make_password("correct horse battery staple", hasher="pbkdf2_sha256")
    staff = User.objects.create(
        email="desk@example.org", password=password, is_staff=True, is_superuser=True
    )
    staff.set_address(confirmed=True)
    slot = SlotFactory(rows=2, seats_per_row=4)
    page.goto("/admin/")
    page.get_by_label("E-mail address").fill("Desk@Example.org")
    page.get_by_label("Password").fill("correct horse battery staple")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("link", name="Shows", exact=True).first.click()
    expect(page.get_by_role("link", name=slot.show.name)).to_be_visible()
