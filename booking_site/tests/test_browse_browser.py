"""Finding a doctor or a show in Chromium: with JavaScript and without, by keyboard, on a phone."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from booking_site.tests.accessibility import alert_of, problems_of
from booking_site.tests.factories import (
    AppointmentFactory,
    DoctorFactory,
    ShowFactory,
    SlotFactory,
)
from booking_site.tests.live_site import LiveSite
from bookings import lifecycle

pytestmark = pytest.mark.django_db(transaction=True)

PHONE = {"width": 390, "height": 844}


@pytest.fixture
def new_page(browser: Browser, site: LiveSite) -> Iterator[Callable[..., Page]]:
    """Pages on phones whose console stays silent; as a browser's options say."""
    contexts: list[BrowserContext] = []
    said: list[str] = []

    def new(**options: object) -> Page:
        context = browser.new_context(**{"base_url": site.url, "viewport": PHONE} | options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda line: said.append(line.text) if line.type == "error" else None)
        return page

    yield new
    for context in contexts:
        context.close()
    # Chromium reports what was not to be loaded, and htmx each question that a newer one replaced.
    ignored = ("Failed to load resource", "htmx:")
    assert [line for line in said if not line.startswith(ignored)] == []


@pytest.fixture
def doctors() -> None:
    start = timezone.now() + timedelta(days=1)
    AppointmentFactory(
        doctor__name="Dr. Heart", doctor__specialization="Cardiology", starts_at=start
    )
    AppointmentFactory(
        doctor__name="Dr. Müller", doctor__specialization="Dermatology", starts_at=start
    )
    DoctorFactory(name="Dr. Skin", specialization="Dermatology")


def expect_doctors(page: Page, *names: str) -> None:
    expect(page.locator("#results h3")).to_have_text(list(names))


@pytest.mark.parametrize("javascript", [True, False])
def test_doctor_is_found_by_specialization_and_back_keeps_the_filters(
    new_page: Callable[..., Page], doctors: None, javascript: bool
) -> None:
    page = new_page(java_script_enabled=javascript)
    page.goto("/")
    page.get_by_role("link", name="Doctors", exact=True).click()
    expect_doctors(page, "Dr. Heart", "Dr. Müller", "Dr. Skin")
    page.wait_for_load_state()  # before its script is there, a choice waits for the button
    page.get_by_label("Specialization", exact=True).select_option("Dermatology")
    if not javascript:
        page.get_by_role("button", name="Search").click()
    expect_doctors(page, "Dr. Müller", "Dr. Skin")
    expect(page.locator("#found")).to_have_text("2 doctors found.")
    expect(page).to_have_url(re.compile(r"[?&]specialization=Dermatology"))

    page.get_by_role("link", name="Dr. Müller").click()
    expect(page.get_by_role("heading", name="Dr. Müller")).to_be_visible()
    page.go_back()
    expect_doctors(page, "Dr. Müller", "Dr. Skin")
    expect(page.get_by_label("Specialization", exact=True)).to_have_value("Dermatology")
    page.reload()
    expect_doctors(page, "Dr. Müller", "Dr. Skin")

    page.get_by_role("link", name="Remove the filters").click()
    expect_doctors(page, "Dr. Heart", "Dr. Müller", "Dr. Skin")
    page.get_by_role("link", name="Dr. Müller").click()
    page.locator("a.time").first.click()
    expect(page.get_by_role("button", name="Hold this time")).to_be_visible()


@pytest.mark.parametrize("first", ["news", "choice"])
def test_choice_goes_before_news_that_are_under_way(
    new_page: Callable[..., Page], doctors: None, first: str
) -> None:
    page = new_page()
    page.goto("/doctors/")
    page.wait_for_load_state()
    kept: list[Route] = []

    def keep(route: Route) -> None:
        kept.append(route)

    page.route(re.compile(r"/doctors/(\?|$)"), keep)

    def hear_news() -> None:
        page.evaluate("htmx.trigger('#results', 'news')")

    def choose() -> None:
        with page.expect_request(lambda request: "Dermatology" in request.url):
            page.get_by_label("Specialization", exact=True).select_option("Dermatology")

    for act in (hear_news, choose) if first == "news" else (choose, hear_news):
        act()
        page.wait_for_timeout(500)
    assert "Dermatology" in kept[-1].request.url  # news that come after it are not asked for
    for route in kept:
        route.continue_()
        page.wait_for_timeout(300)
    expect_doctors(page, "Dr. Müller", "Dr. Skin")
    expect(page).to_have_url(re.compile(r"[?&]specialization=Dermatology"))
    page.unroute_all()
    page.evaluate("htmx.trigger('#results', 'news')")  # which are heard again, of what is chosen
    expect_doctors(page, "Dr. Müller", "Dr. Skin")


def test_list_follows_the_typing_and_the_focus_stays(
    new_page: Callable[..., Page], doctors: None
) -> None:
    page = new_page()
    page.goto("/doctors/")
    box = page.get_by_role("searchbox")
    box.press_sequentially("mulle")
    expect_doctors(page, "Dr. Müller")
    expect(box).to_be_focused()
    box.press_sequentially("r derm")
    expect(page).to_have_url(re.compile(r"q=muller%20derm&"))
    expect(box).to_have_value("muller derm")
    expect(box).to_be_focused()
    status = page.get_by_role("status")
    expect(status).to_have_text("1 doctor found.")
    expect(status).to_have_count(1)
    box.fill("nobody")
    expect(status).to_have_text("0 doctors found.")
    expect(page.get_by_role("link", name="Remove the filters")).to_have_count(1)
    # The typing made one page of the history, not one for each letter.
    page.get_by_role("link", name="Remove the filters").click()
    page.go_back()
    expect(status).to_have_text("0 doctors found.")
    page.go_back()
    expect(page).to_have_url("about:blank")


def test_mistake_is_said_beside_its_field_and_goes_when_mended(
    new_page: Callable[..., Page],
) -> None:
    SlotFactory(show__name="Encore")
    page = new_page()
    page.goto("/shows/?from=2090-01-02")
    expect(page.locator("#found")).to_have_text("0 shows found.")
    page.get_by_label("To", exact=True).fill("2090-01-01")
    said = page.locator("#to-says")
    expect(said).to_have_text("The last day is before the first one. Choose a later one.")
    page.get_by_label("From", exact=True).fill("2000-01-01")
    expect(said).to_have_text("")
    expect(page.locator("#results h3")).to_have_text(["Encore"])


def test_search_that_gets_no_answer_says_so(new_page: Callable[..., Page], doctors: None) -> None:
    page = new_page()
    page.goto("/doctors/")
    page.route("**/doctors/?*", lambda route: route.abort())
    page.get_by_role("searchbox").fill("skin")
    expect(page.locator("#found")).to_have_text("That did not work. Press “Search” to try again.")
    page.unroute_all()
    page.get_by_role("button", name="Search").click()
    expect_doctors(page, "Dr. Skin")
    expect(page.locator("#found")).to_have_text("1 doctor found.")


def test_keyboard_alone_finds_a_doctor_free_on_a_day(
    new_page: Callable[..., Page], doctors: None
) -> None:
    page = new_page()
    page.goto("/doctors/")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "q":
            break
    page.keyboard.type("dr")
    page.keyboard.press("Tab")
    page.keyboard.press("c")  # the select jumps to Cardiology
    expect_doctors(page, "Dr. Heart")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Search")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # unfolds
    expect(page.get_by_label("Free on")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.type("01022090")
    expect_doctors(page)
    expect(page.locator("#results")).to_contain_text("is free on Monday 2 January 2090")
    expect(page.get_by_label("Free on")).to_be_focused()


def test_weeks_of_a_doctor_lead_there_and_back(new_page: Callable[..., Page]) -> None:
    at = timezone.now() + timedelta(days=16)
    doctor = AppointmentFactory(starts_at=at).doctor
    page = new_page(java_script_enabled=False)
    page.goto(doctor.get_absolute_url())
    page.get_by_role("link", name="See the times from that day on").click()
    expect(page.locator("a.time")).to_have_count(1)
    page.get_by_role("link", name="Earlier").click()
    expect(page.locator("a.time")).to_have_count(0)
    page.get_by_role("link", name="Later").click()
    expect(page.locator("a.time")).to_have_count(1)
    page.get_by_label("From").fill("2090-01-01")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text("No times are free from 1 January 2090 on.")).to_be_visible()


def keep_news_from(route: Route) -> None:
    request = route.request
    is_question = request.method == "GET" and "hx-request" in request.headers
    if is_question or request.resource_type == "eventsource":
        route.abort()
    else:
        route.continue_()


@pytest.mark.parametrize("javascript", [True, False])
def test_booking_is_moved_to_other_seats_of_another_date(
    new_page: Callable[..., Page], javascript: bool
) -> None:
    show = ShowFactory()
    here = SlotFactory(show=show, rows=1, seats_per_row=4)
    there = SlotFactory(
        show=show, rows=1, seats_per_row=4, starts_at=timezone.now() + timedelta(days=5)
    )
    seats = list(here.seats.values_list("pk", flat=True)[:2])
    booking = lifecycle.confirm(lifecycle.hold(here, seat_ids=seats), name="Ada Lovelace")
    page = new_page(java_script_enabled=javascript)
    # Who moves has heard nothing of the other when the button is pressed.
    page.route(re.compile(rf"/(live|move/{there.pk})(\?|$)"), keep_news_from)
    page.goto(booking.get_absolute_url())
    page.get_by_role("link", name="Choose another date").click()
    page.locator(f"#slot-{there.pk} a").click()
    for label in ("A1", "A2"):
        page.get_by_role("checkbox", name=label, exact=True).check()
    lifecycle.hold(there, seat_ids=[there.seats.get(label="A1").pk])
    page.get_by_role("button", name="Move to these seats").click()
    expect(alert_of(page)).to_contain_text("Seat A1 has just been taken.")
    expect(page.get_by_role("checkbox", name="A2", exact=True)).to_be_checked()
    if javascript:
        assert problems_of(page) == []
    page.get_by_role("checkbox", name="A3", exact=True).check()
    page.get_by_role("button", name="Move to these seats").dblclick()
    expect(page.locator("#booked-seats")).to_have_text("A2, A3")
    booking.refresh_from_db()
    assert (booking.status, booking.slot, booking.labels) == ("CONFIRMED", there, ["A2", "A3"])
    assert here.seats.free().count() == 4


@pytest.mark.parametrize("path", ["/doctors/", "/shows/"])
def test_first_result_is_on_the_first_screen_of_a_phone(
    new_page: Callable[..., Page], path: str
) -> None:
    AppointmentFactory(doctor__name="First")
    SlotFactory(show__name="First")
    page = new_page(viewport={"width": 360, "height": 640})
    page.goto(path)
    first = page.get_by_role("heading", name="First", exact=True)
    # At one go: news may exchange the list at any moment.
    assert first.evaluate("heading => heading.getBoundingClientRect().bottom") < 640


def test_pages_with_filters_are_accessible_and_fit_a_small_phone(
    new_page: Callable[..., Page], doctors: None
) -> None:
    show = SlotFactory(show__venue="A very long name of a venue " * 4).show
    ShowFactory.create_batch(25)
    DoctorFactory.create_batch(25)
    doctor = AppointmentFactory(starts_at=timezone.now() + timedelta(days=10)).doctor
    slot = SlotFactory(show=show, rows=10, seats_per_row=20)
    date = SlotFactory(show=show, rows=10, seats_per_row=20)
    booking = lifecycle.confirm(lifecycle.hold(slot, quantity=2), name="Ada Lovelace")
    day = (timezone.now() + timedelta(days=10)).date()
    page = new_page(viewport={"width": 320, "height": 640})
    paths = [
        "/",
        "/doctors/",
        "/doctors/?q=dr&specialization=Dermatology",
        f"/doctors/?q=dr&on={day}&sort=name",
        "/doctors/?q=nobody",
        "/doctors/?q=%00&specialization=Alchemy&on=nonsense&sort=price&page=99",
        "/shows/?page=2",
        "/shows/?q=nothing",
        "/shows/?from=2090-01-02&to=2090-01-01&venue=x",
        show.get_absolute_url(),
        f"{show.get_absolute_url()}?available=on&from=nonsense",
        f"{show.get_absolute_url()}?from=2090-01-01",
        doctor.get_absolute_url(),
        f"{doctor.get_absolute_url()}?from={day}",
        f"{doctor.get_absolute_url()}?from=nonsense",
        f"{doctor.get_absolute_url()}?from=2090-01-01",
        f"{doctor.get_absolute_url()}?from=2020-01-01",
        f"/bookings/{booking.pk}/move",
        f"/bookings/{booking.pk}/move/{date.pk}",
    ]
    found = {}
    for path in paths:
        page.goto(path)
        if problems := problems_of(page):
            found[path] = problems
    assert found == {}
