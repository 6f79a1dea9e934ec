"""Answers that are lost, in Chromium: whatever dies, the page ends with the truth.

The moments are certain: a way to the site that cuts off what the test says, workers that are killed
while a lock keeps a request within its transaction, or when the database has committed.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from playwright.sync_api import Browser, BrowserContext, Page, expect

from booking_site.tests.accessibility import problems_of
from booking_site.tests.factories import SlotFactory
from booking_site.tests.live_site import LiveSite, live_site
from booking_site.tests.lossy import LossyWay, lossy
from booking_site.tests.races import wait_until
from bookings import lifecycle
from bookings.models import Booking
from slots.models import Slot

pytestmark = pytest.mark.django_db(transaction=True)

# Pauses are a twentieth of what they are for people.
IN_A_HURRY = (
    "const later = setTimeout; window.setTimeout = (act, ms) => later(act, (ms || 0) / 20);"
)
PATIENCE = 20_000  # milliseconds: a worker has to start again
FINDING_OUT = re.compile("^The answer was lost. We are finding out whether your seats are held …$")
NOT_HELD = re.compile("^Nothing is held for you.")


@pytest.fixture(scope="module")
def site(django_db_setup: None, django_db_blocker: object) -> Iterator[LiveSite]:
    """With one worker, so that it is the one at work who is killed."""
    with django_db_blocker.unblock(), live_site(LOG_LEVEL="WARNING") as site:
        yield site


@pytest.fixture
def way(site: LiveSite) -> Iterator[LossyWay]:
    site.wait_until_answers()
    with lossy(site) as way:
        yield way
    site.wait_until_answers()
    call_command("check_invariants")


@pytest.fixture
def visitor(browser: Browser, way: LossyWay) -> Iterator[Callable[..., Page]]:
    """Pages of a browser on that way."""
    contexts: list[BrowserContext] = []

    def visit(path: str, **options: object) -> Page:
        contexts.append(browser.new_context(base_url=way.url, **options))
        contexts[-1].set_default_timeout(10_000)
        contexts[-1].add_init_script(IN_A_HURRY)
        page = contexts[-1].new_page()
        page.goto(path)
        return page

    yield visit
    for context in contexts:
        context.close()


@pytest.fixture
def slot() -> Slot:
    return SlotFactory(rows=2, seats_per_row=4)


def choose(page: Page, *labels: str) -> None:
    for label in labels:
        page.locator(f"#seat-grid [data-seat='{label}']").click()


def press_hold(page: Page) -> None:
    page.get_by_role("button", name="Hold these seats").click()


def expect_booking(page: Page, state: str) -> None:
    expect(page.locator(f"#booking[data-state='{state}']")).to_be_visible(timeout=PATIENCE)


def expect_asking(page: Page, says: re.Pattern = FINDING_OUT) -> None:
    expect(page.locator("#lost-answer [role=status]")).to_have_text(says)
    expect(page.locator("#lost-answer [role=alert]")).to_be_empty()


def expect_told(page: Page, says: re.Pattern = NOT_HELD) -> None:
    expect(page.locator("#lost-answer [role=alert]")).to_have_text(says, timeout=PATIENCE)
    expect(page.locator("#lost-answer [role=status]")).to_be_empty()


def hear(page: Page, times: int = 4) -> None:
    """Waits until the page has asked, and been answered, so often: more than it takes to believe
    that nothing was done."""
    for _ in range(times):
        page.wait_for_event("response", lambda answer: "/outcome?" in answer.url)


def kill_worker(site: LiveSite) -> None:
    [worker] = site.workers()
    worker.kill()


def wait_until_somebody_is_blocked() -> None:
    """By this transaction's locks."""
    blocked = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid)))"

    def is_blocked() -> bool:
        with connection.cursor() as cursor:
            cursor.execute(blocked, [connection.connection.info.backend_pid])
            return cursor.fetchone()[0]

    wait_until(is_blocked)


def held() -> list[list[str]]:
    return [booking.labels for booking in Booking.objects.filter(status="PENDING")]


# ── hold ──────────────────────────────────────────────────────────────────────────────────────────


def test_hold_that_never_arrived_is_said_not_to_be_and_made_once_more_by_a_press(
    visitor: Callable[..., Page], way: LossyWay, slot: Slot
) -> None:
    page = visitor(slot.get_absolute_url(), viewport={"width": 390, "height": 844})
    key = page.locator("input[name=key]").input_value()
    choose(page, "A1", "A2")

    def go_down() -> None:
        way.is_down = True

    way.lose(f"POST /slots/{slot.pk}/hold", after="nothing", then=go_down)
    press_hold(page)
    expect_asking(page, re.compile("^The site cannot be reached at the moment. We go on asking"))
    press_hold(page)  # does nothing while it is not known
    assert problems_of(page, context="#lost-answer") == []
    way.is_down = False
    expect_told(page)
    assert problems_of(page, context="#lost-answer") == []
    assert Booking.objects.count() == 0
    expect(page.get_by_role("button", name="Hold these seats")).to_be_focused()
    expect(page.locator("#picked")).to_have_text("2 seats: A1, A2")
    page.keyboard.press("Enter")
    expect_booking(page, "PENDING")
    assert [(b.labels, b.idempotency_key) for b in Booking.objects.all()] == [(["A1", "A2"], key)]


@pytest.mark.parametrize("after", ["answer", "503"])
def test_hold_that_was_committed_is_found_when_the_workers_were_killed(
    visitor: Callable[..., Page], way: LossyWay, site: LiveSite, slot: Slot, after: str
) -> None:
    page = visitor(slot.get_absolute_url())
    choose(page, "B2")
    then = partial(kill_worker, site) if after == "answer" else lambda: None
    way.lose(f"POST /slots/{slot.pk}/hold", after=after, then=then)
    press_hold(page)
    expect_booking(page, "PENDING")
    assert held() == [["B2"]]
    page.goto("/bookings/")
    expect(page.get_by_text("Held for you, not yet confirmed")).to_be_visible()


def test_hold_that_is_still_under_way_is_not_said_not_to_be(
    visitor: Callable[..., Page], way: LossyWay, slot: Slot
) -> None:
    page = visitor(slot.get_absolute_url())
    choose(page, "A1")
    with transaction.atomic():
        list(slot.seats.filter(label="A1").lock())
        way.lose(f"POST /slots/{slot.pk}/hold", after="request")
        press_hold(page)
        wait_until_somebody_is_blocked()
        hear(page)
        expect_asking(page)
    expect_booking(page, "PENDING")
    assert held() == [["A1"]]


def test_hold_whose_worker_is_killed_within_its_transaction_is_said_not_to_be(
    visitor: Callable[..., Page], way: LossyWay, site: LiveSite, slot: Slot
) -> None:
    page = visitor(slot.get_absolute_url())
    choose(page, "A1")
    with transaction.atomic():
        list(slot.seats.filter(label="A1").lock())
        # The way waits for the answer that a killed worker never gives.
        way.lose(f"POST /slots/{slot.pk}/hold", after="answer")
        press_hold(page)
        wait_until_somebody_is_blocked()
        kill_worker(site)
        way.wait_until_lost()
    expect_told(page)
    assert Booking.objects.count() == 0
    press_hold(page)
    expect_booking(page, "PENDING")
    assert held() == [["A1"]]


def test_answer_that_does_not_come_is_asked_for(
    visitor: Callable[..., Page], way: LossyWay, slot: Slot
) -> None:
    """The laptop slept, or a tunnel swallowed it."""
    page = visitor(slot.get_absolute_url())
    choose(page, "A1")
    page.evaluate("htmx.config.timeout = 300")
    page.route("**/hold", lambda route: None)
    press_hold(page)
    expect_told(page)
    lifecycle.hold(
        slot,
        seat_ids=[slot.seats.get(label="A1").pk],
        idempotency_key=page.locator("input[name=key]").input_value(),
    )  # it arrives after all
    expect_booking(page, "PENDING")


@pytest.mark.parametrize(("after", "is_held"), [("answer", True), ("nothing", False)])
def test_form_that_was_used_before_is_told_of_what_it_asks_now(
    visitor: Callable[..., Page], way: LossyWay, slot: Slot, after: str, is_held: bool
) -> None:
    page = visitor(slot.get_absolute_url())
    key = page.locator("input[name=key]").input_value()
    seat = slot.seats.get(label="A1").pk
    earlier = lifecycle.hold(slot, seat_ids=[seat], idempotency_key=key)
    choose(page, "A2", "A3")
    way.lose(f"POST /slots/{slot.pk}/hold", after=after)
    press_hold(page)
    if is_held:
        expect_booking(page, "PENDING")
        assert str(earlier.pk) not in page.url
    else:
        expect_told(page)
    assert sorted(held()) == ([["A1"], ["A2", "A3"]] if is_held else [["A1"]])


@pytest.mark.parametrize(("after", "is_held"), [("answer", True), ("nothing", False)])
def test_page_that_was_reloaded_meanwhile_asks_as_well(
    visitor: Callable[..., Page], way: LossyWay, slot: Slot, after: str, is_held: bool
) -> None:
    page = visitor(slot.get_absolute_url())
    choose(page, "A1", "A3")
    page.route("**/outcome**", lambda route: route.abort())
    way.lose(f"POST /slots/{slot.pk}/hold", after=after)
    press_hold(page)
    way.wait_until_lost()
    page.goto("/")
    page.unroute("**/outcome**")
    page.goto(slot.get_absolute_url())
    if is_held:
        expect_booking(page, "PENDING")
    else:
        expect_told(page)
        expect(page.locator("#picked")).to_have_text("2 seats: A1, A3")
        press_hold(page)
        expect_booking(page, "PENDING")
        page.goto(slot.get_absolute_url())
        expect(page.get_by_text("You are holding")).to_be_visible()
        expect(page.locator("#lost-answer [role=alert]")).to_be_empty()
    assert held() == [["A1", "A3"]]


# ── confirm, extend, cancel, move ─────────────────────────────────────────────────────────────────


def visit_held(visitor: Callable[..., Page], slot: Slot, **options: object) -> Page:
    """The page of a hold, with the details written."""
    booking = lifecycle.hold(slot, quantity=2)
    page = visitor(booking.get_absolute_url(), **options)
    page.get_by_label("Name").fill("Ada Lovelace")
    page.get_by_label("E-mail address").fill("ada@example.org")
    return page


def press_confirm(page: Page) -> None:
    page.locator("#details button[type=submit]").last.click()


def test_confirm_that_was_committed_is_found_when_the_workers_were_killed(
    visitor: Callable[..., Page], way: LossyWay, site: LiveSite, slot: Slot
) -> None:
    page = visit_held(visitor, slot)
    address = Booking.objects.get().get_absolute_url()
    way.lose(f"POST {address}confirm", after="answer", then=partial(kill_worker, site))
    press_confirm(page)
    expect_booking(page, "CONFIRMED")
    assert Booking.objects.get().events.count() == 1


def test_confirm_whose_worker_is_killed_within_its_transaction_is_said_not_to_be(
    visitor: Callable[..., Page], way: LossyWay, site: LiveSite, slot: Slot
) -> None:
    page = visit_held(visitor, slot)
    booking = Booking.objects.get()
    with transaction.atomic():
        list(slot.seats.filter(booking=booking).lock())
        way.lose(f"POST {booking.get_absolute_url()}confirm", after="answer")
        press_confirm(page)
        wait_until_somebody_is_blocked()
        kill_worker(site)
    expect_told(page, re.compile("^Your booking is not confirmed yet"))
    assert problems_of(page) == []
    assert Booking.objects.get().status == "PENDING"
    expect(page.get_by_label("Name")).to_have_value("Ada Lovelace")
    press_confirm(page)
    expect_booking(page, "CONFIRMED")


def test_confirm_with_a_mistake_says_so_at_the_field(
    visitor: Callable[..., Page], slot: Slot
) -> None:
    page = visit_held(visitor, slot)
    page.get_by_label("E-mail address").fill("nonsense")
    press_confirm(page)
    expect(page.get_by_text("This is not an e-mail address")).to_be_visible()
    expect(page.get_by_label("E-mail address")).to_be_focused()
    expect(page.get_by_label("Name")).to_have_value("Ada Lovelace")
    expect(page.locator("#clock")).to_have_text(re.compile(r"^(2:00|1:5\d)$"))
    page.get_by_label("E-mail address").fill("ada@example.org")
    press_confirm(page)
    expect_booking(page, "CONFIRMED")


@pytest.mark.parametrize("after", ["answer", "nothing"])
def test_extending_and_giving_back_end_in_the_truth(
    visitor: Callable[..., Page], way: LossyWay, slot: Slot, after: str
) -> None:
    page = visit_held(visitor, slot)
    address = Booking.objects.get().get_absolute_url()
    way.lose(f"POST {address}extend", after=after)
    page.get_by_role("button", name="I need more time").click()
    expect_told(page, re.compile("^It is still held for you"))
    expect(page.locator("#countdown-says")).to_have_text(re.compile("^You have "))
    expect(page.get_by_label("Name")).to_have_value("Ada Lovelace")

    way.lose(f"POST {address}cancel", after=after)
    page.get_by_role("button", name="Give the seats back").click()
    if after == "nothing":
        expect_told(page, re.compile("^Nothing was cancelled."))
        page.get_by_role("button", name="Give the seats back").click()
    expect_booking(page, "CANCELLED")


@pytest.mark.parametrize("after", ["answer", "nothing"])
def test_moving_and_cancelling_end_in_the_truth(
    visitor: Callable[..., Page], way: LossyWay, slot: Slot, after: str
) -> None:
    booking = lifecycle.confirm(lifecycle.hold(slot, quantity=1), name="Ada", email="a@example.org")
    other = SlotFactory(show=slot.show, rows=1, seats_per_row=2, starts_at=slot.ends_at)
    address = booking.get_absolute_url()
    page = visitor(f"{address}move/{other.pk}")
    choose(page, "A2")
    way.lose(f"POST {address}move/{other.pk}", after=after)
    page.get_by_role("button", name="Move to these seats").click()
    if after == "nothing":
        expect_told(page, re.compile("^Your booking was not moved, and you still have"))
        page.get_by_role("button", name="Move to these seats").click()
    expect_booking(page, "CONFIRMED")
    expect(page.locator("#booked-seats")).to_have_text("A2")

    page.goto(f"{address}cancel")
    way.lose(f"POST {address}cancel", after=after)
    page.get_by_role("button", name="Yes, cancel it").click()
    if after == "nothing":
        expect_told(page, re.compile("^Nothing was cancelled."))
        page.get_by_role("button", name="Yes, cancel it").click()
    expect_booking(page, "CANCELLED")


def test_without_javascript_reload_and_back_lead_to_the_truth(
    visitor: Callable[..., Page], way: LossyWay, slot: Slot
) -> None:
    """Of a browser that has never booked, too."""
    plain = visitor(slot.get_absolute_url(), java_script_enabled=False)
    plain.get_by_role("checkbox", name="A3", exact=True).check()
    way.lose(f"POST /slots/{slot.pk}/hold", after="answer")
    press_hold(plain)
    expect(plain).to_have_url(re.compile("^chrome-error:"))
    way.mend()
    plain.go_back()
    expect(plain.get_by_text("You are holding A3")).to_be_visible()
    plain.get_by_role("link", name="continue with this booking").click()
    expect_booking(plain, "PENDING")

    plain.get_by_label("Name").fill("Ada Lovelace")
    plain.get_by_label("E-mail address").fill("ada@example.org")
    address = Booking.objects.get().get_absolute_url()
    way.lose(f"POST {address}confirm", after="answer")
    press_confirm(plain)
    expect(plain).to_have_url(re.compile("^chrome-error:"))
    way.mend()
    plain.reload()  # sends it again
    expect_booking(plain, "CONFIRMED")
    assert way.requests.count(f"POST {address}confirm") >= 2
    assert Booking.objects.get().events.count() == 1
