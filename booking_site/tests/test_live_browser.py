"""Pages that change by themselves, in Chromium: by a stream; where there is none, by asking."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request, expect

from booking_site.tests.accessibility import problems_of
from booking_site.tests.factories import AppointmentFactory, DoctorFactory, SlotFactory
from booking_site.tests.live_site import LiveSite
from bookings import lifecycle
from slots.models import Slot

pytestmark = pytest.mark.django_db(transaction=True)

SOON = 10_000  # milliseconds: a second, and what a busy machine adds; less than READ_ANYWAY
STREAMS = re.compile(r"/live(\?|$)")


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
    assert [
        text for text in said if not text.startswith(("Failed to load resource", "htmx:"))
    ] == []


def seat(page: Page, label: str) -> Locator:
    return page.locator(f"#seat-grid [data-seat='{label}']")


def expect_state(page: Page, label: str, state: str) -> None:
    expect(seat(page, label)).to_have_attribute("data-state", state, timeout=SOON)


def expect_live(page: Page) -> None:
    expect(page.locator("#live")).to_have_attribute("data-state", "live")


def hold(slot: Slot, *labels: str) -> object:
    return lifecycle.hold(slot, seat_ids=[slot.seats.get(label=label).pk for label in labels])


def questions_of(page: Page) -> list[str]:
    """The addresses that the page asks for from now on, streams left out.

    To be called once news have come: what happens before the server has looked at what it is to
    tell of, the page is only told to ask for.
    """
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
    asked = questions_of(page)
    hold(slot, "C5")
    expect_state(page, "C5", "RESERVED")
    assert asked == []
    assert page.locator("input[name=key]").input_value() == key


def test_news_draw_seats_as_the_page_does(new_page: Callable[..., Page]) -> None:
    """Whatever their labels; also those that are sent by themselves."""
    strange = """A'"<{pk}>&"""
    slot = SlotFactory(rows=1, seats_per_row=3)
    slot.seats.filter(label="A1").update(label=strange)
    slot.seats.filter(label="A2").update(accessible=True)
    page = new_page()

    def drawn() -> list[str]:
        script = "all => all.map(one => (one.classList.remove('changed'), one.outerHTML))"
        return page.locator("#hall-scroll span.seat").evaluate_all(script)

    page.goto(slot.get_absolute_url())
    expect_live(page)
    hold(slot, strange, "A2")
    expect(page.locator("#seat-count")).to_have_text("1 of 3 seats left", timeout=SOON)
    news = drawn()
    page.reload()
    assert news == drawn()


def test_own_seats_in_another_tab_are_ones_own(new_page: Callable[..., Page]) -> None:
    slot = SlotFactory(rows=2, seats_per_row=4)
    page = new_page()
    page.goto(slot.get_absolute_url())
    other = page.context.new_page()
    other.goto(slot.get_absolute_url())
    expect_live(other)
    seat(page, "A1").click()
    page.get_by_role("button", name="Hold these seats").click()
    expect(page.locator("#booking")).to_be_visible()
    expect_state(other, "A1", "YOURS")
    expect(other.get_by_text("You are holding")).to_be_visible()
    hold(slot, "A2")  # and stay so when news for everybody come
    expect_state(other, "A2", "RESERVED")
    expect_state(other, "A1", "YOURS")
    counts = other.locator("#legend [data-count]").all_text_contents()
    assert counts == ["6", "1", "0", "1"]


def test_last_seat_goes_and_comes_back_without_a_question(new_page: Callable[..., Page]) -> None:
    slot = SlotFactory(rows=1, seats_per_row=2)
    page = new_page()
    page.goto(slot.get_absolute_url())
    expect_live(page)
    seat(page, "A2").locator("input").focus()
    booking = hold(slot, "A1", "A2")
    expect(page.get_by_text("Sold out.")).to_be_visible(timeout=SOON)
    expect(page.locator("#hold-button")).to_be_hidden()
    expect(page.locator("#hall-scroll")).to_be_focused()
    asked = questions_of(page)
    lifecycle.cancel(booking)
    expect(page.locator("#hold-button")).to_be_visible(timeout=SOON)
    expect(page.get_by_text("Sold out.")).to_have_count(0)
    assert asked == []


def test_places_are_counted_and_what_is_typed_stays(new_page: Callable[..., Page]) -> None:
    slot = SlotFactory(places=8)
    page = new_page()
    page.goto(slot.get_absolute_url())
    expect_live(page)
    number = page.get_by_label("How many places?")
    number.fill("3")
    lifecycle.hold(slot, quantity=2)
    expect(page.locator("#seat-count")).to_have_text("6 of 8 places left", timeout=SOON)
    expect(number).to_have_value("3")
    expect(number).to_be_focused()
    expect(number).to_have_attribute("max", "6")
    expect(page.locator("#live-says")).to_have_text("2 places were taken. 6 left.")
    asked = questions_of(page)
    lifecycle.hold(slot, quantity=1)
    expect(page.locator("#seat-count")).to_have_text("5 of 8 places left", timeout=SOON)
    assert asked == []


def test_much_that_happens_is_summed_up_in_one_sentence(new_page: Callable[..., Page]) -> None:
    slot = SlotFactory(rows=4, seats_per_row=10)
    given_back = hold(slot, "D1", "D2")
    page = new_page()
    page.goto(slot.get_absolute_url())
    expect_live(page)
    page.evaluate(
        """() => {
            const says = document.getElementById('live-says')
            const note = () => window.said.push(says.textContent)
            window.said = []
            new MutationObserver(note).observe(says, {childList: true})
        }"""
    )
    hold(slot, *[f"A{number}" for number in range(1, 5)])
    hold(slot, *[f"A{number}" for number in range(5, 8)])
    lifecycle.cancel(given_back)
    expect_state(page, "A7", "RESERVED")
    expect_state(page, "D2", "AVAILABLE")
    expect(page.locator("#live-says")).to_have_text(
        "7 seats were taken, 2 are free again. 33 left."
    )
    assert len(page.evaluate("window.said")) == 1


def test_lists_follow(new_page: Callable[..., Page]) -> None:
    slot = SlotFactory(places=2)
    page = new_page()
    page.goto("/")
    expect_live(page)
    asked = questions_of(page)
    link = page.get_by_role("link", name=slot.show.name).first
    link.focus()
    booking = lifecycle.hold(slot, quantity=2)
    left = page.locator(f"#left-{slot.pk}")
    expect(left).to_have_text("Sold out", timeout=SOON)
    expect(left).to_have_class("left changed")
    lifecycle.cancel(booking)
    expect(left).to_have_text("2 left", timeout=SOON)
    expect(link).to_be_focused()
    assert asked == []


def test_calendar_follows_and_keeps_the_focus(new_page: Callable[..., Page]) -> None:
    doctor = DoctorFactory()
    start = timezone.now() + timedelta(days=1)
    first, second = [
        AppointmentFactory(doctor=doctor, starts_at=start + timedelta(hours=n)) for n in range(2)
    ]
    page = new_page()
    page.goto(doctor.get_absolute_url())
    expect_live(page)
    page.locator(f"#time-{first.pk}").focus()
    lifecycle.hold(first, quantity=1)
    expect(page.locator(f"#time-{first.pk}")).to_have_count(0, timeout=SOON)
    expect(page.locator(f"#time-{second.pk}")).to_be_focused()
    expect(page.locator("#live-says")).to_have_text("1 time was taken.")
    booking = lifecycle.hold(second, quantity=1)
    expect(page.get_by_text("No times are free at present.")).to_be_visible(timeout=SOON)
    lifecycle.cancel(booking)
    expect(page.locator(f"#time-{second.pk}")).to_have_class("time changed", timeout=SOON)


@pytest.mark.parametrize("blocked", ["refused", "cut", "kept back"])
def test_page_without_stream_asks_now_and_then(new_page: Callable[..., Page], blocked: str) -> None:
    slot = SlotFactory(rows=1, seats_per_row=4)
    page = new_page()
    page.clock.install()
    if blocked == "refused":
        page.route(STREAMS, lambda route: route.fulfill(status=204))
    elif blocked == "cut":
        page.route(STREAMS, lambda route: route.abort())
    else:
        page.route(STREAMS, lambda route: None)
    page.goto(slot.get_absolute_url())
    if blocked == "kept back":
        page.clock.fast_forward(11_000)
    expect(page.locator("#live")).to_have_text("Updated every few seconds")
    with page.expect_response("**/seats") as answer:
        page.clock.fast_forward(8_000)
    assert answer.value.status == 304
    seat(page, "A1").click()
    hold(slot, "A1")
    with page.expect_response("**/seats") as answer:
        page.clock.fast_forward(8_000)
    assert answer.value.status == 200
    expect_state(page, "A1", "RESERVED")
    expect(seat(page, "A1")).to_have_class("seat changed")
    expect(page.locator("#seat-notice")).to_have_text("A1 has just been taken.")


def test_button_is_busy_with_what_it_was_pressed_for_and_not_with_news(
    new_page: Callable[..., Page],
) -> None:
    slot = SlotFactory(rows=1, seats_per_row=4)
    page = new_page()
    page.goto(slot.get_absolute_url())
    expect_live(page)
    button = page.locator("#hold-button")
    page.route(re.compile(rf"/slots/{slot.pk}/"), lambda route: None)  # no answer comes
    with page.expect_request(lambda request: request.headers.get("hx-request") == "true"):
        page.evaluate("htmx.trigger('#seat-grid', 'news')")
    expect(page.locator("#seat-grid")).to_have_class("htmx-request")
    assert button.evaluate("button => getComputedStyle(button).opacity") == "1"
    seat(page, "A1").click()
    button.click()
    expect(button).to_have_css("opacity", "0.6")


def test_lost_connection_is_said_only_when_nothing_gets_through(
    new_page: Callable[..., Page],
) -> None:
    slot = SlotFactory(rows=1, seats_per_row=4)
    page = new_page()
    page.clock.install()
    page.goto(slot.get_absolute_url())
    expect_live(page)
    notice = page.locator("#seat-notice")
    page.context.set_offline(True)
    page.evaluate("window.dispatchEvent(new Event('online'))")  # the stream is opened anew
    for _ in range(4):
        page.clock.fast_forward(8_000)
        page.wait_for_timeout(300)  # for the question to fail, on a busy machine, too
    expect(notice).to_have_text("The connection is lost. What you see may be out of date.")
    expect(page.locator("#live")).to_have_attribute("data-state", "lost")
    hold(slot, "A1")
    page.context.set_offline(False)
    expect(notice).to_have_text("")
    expect_live(page)
    expect_state(page, "A1", "RESERVED")


def test_hidden_page_has_no_stream_and_is_right_when_it_is_seen(
    new_page: Callable[..., Page],
) -> None:
    slot = SlotFactory(rows=1, seats_per_row=4)
    page = new_page()
    page.goto(slot.get_absolute_url())
    expect_live(page)
    asked = questions_of(page)
    be_hidden(page, True)
    expect(page.locator("#live")).to_have_attribute("data-state", "polling")
    hold(slot, "A1")
    be_hidden(page, False)
    expect_state(page, "A1", "RESERVED")
    expect_live(page)
    assert len(asked) <= 1


def be_hidden(page: Page, hidden: bool) -> None:
    """As if the tab were behind another one, or came to the front again."""
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, 'hidden', {value: hidden, configurable: true})
            document.dispatchEvent(new Event('visibilitychange'))
        }""",
        hidden,
    )


def test_still_page_for_those_who_prefer_it(new_page: Callable[..., Page]) -> None:
    slot = SlotFactory(rows=1, seats_per_row=4)
    page = new_page(reduced_motion="reduce")
    page.goto(slot.get_absolute_url())
    expect_live(page)
    hold(slot, "A1")
    expect(seat(page, "A1")).to_have_class("seat changed", timeout=SOON)
    assert page.evaluate("document.getAnimations().length") == 0
    page.emulate_media(reduced_motion="no-preference")
    hold(slot, "A2")
    expect(seat(page, "A2")).to_have_class("seat changed", timeout=SOON)
    assert "seat-changed" in page.evaluate("document.getAnimations().map(one => one.animationName)")


def test_live_pages_are_accessible(new_page: Callable[..., Page]) -> None:
    slot = SlotFactory(rows=2, seats_per_row=4)
    doctor = AppointmentFactory().doctor
    page = new_page(viewport={"width": 390, "height": 844}, reduced_motion="reduce")
    found = {}
    for path in ("/", slot.get_absolute_url(), doctor.get_absolute_url()):
        page.goto(path)
        expect_live(page)
        if path == slot.get_absolute_url():
            hold(slot, "A1")
            expect_state(page, "A1", "RESERVED")
        if problems := problems_of(page):
            found[path] = problems
    assert found == {}


def test_page_that_waits_opens_by_itself(new_page: Callable[..., Page]) -> None:
    page = new_page()
    slot = SlotFactory(rows=1, seats_per_row=4, opens_at=timezone.now() + timedelta(seconds=5))
    page.goto(slot.get_absolute_url())
    expect(page.get_by_text("Booking has not opened yet.")).to_be_visible()
    expect(page.get_by_role("button", name="Hold these seats")).to_be_visible(timeout=15_000)
    assert timezone.now() < slot.opens_at + timedelta(seconds=10)
    expect(page.locator("#live-says")).to_have_text("Booking is open now.")
    seat(page, "A2").click()
    page.get_by_role("button", name="Hold these seats").click()
    expect(page.locator("#booking")).to_be_visible()


def test_page_is_right_again_after_the_listening_connection_was_killed(
    new_page: Callable[..., Page],
) -> None:
    slot = SlotFactory(rows=1, seats_per_row=4)
    page = new_page()
    page.goto(slot.get_absolute_url())
    expect_live(page)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'LISTEN %%'"
        )
        assert cursor.fetchone()[0] > 0
    hold(slot, "A1")
    expect_state(page, "A1", "RESERVED")
    hold(slot, "A2")
    expect_state(page, "A2", "RESERVED")
