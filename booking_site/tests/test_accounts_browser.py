"""An account's life in Chromium: from a guest's booking to logging in with a code, by mail."""

import re
from collections.abc import Iterator

import pytest
from django.contrib.auth.hashers import make_password
from django.core.cache import cache
from playwright.sync_api import Browser, Locator, Page, expect

from accounts.models import User
from booking_site.tests.accessibility import problems_of
from booking_site.tests.factories import PASSWORD, SlotFactory, UserFactory
from booking_site.tests.live_site import LiveSite
from booking_site.tests.mails import code_in, queued_for
from bookings import lifecycle
from bookings.lifecycle import Holder
from bookings.models import Booking

pytestmark = pytest.mark.django_db(transaction=True)

ADA = "ada@example.org"


@pytest.fixture(params=[True, False], ids=["", "without JavaScript"])
def page(browser: Browser, site: LiveSite, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A small phone, in whose console nothing may fail."""
    cache.clear()
    context = browser.new_context(
        base_url=site.url, viewport={"width": 360, "height": 740}, java_script_enabled=request.param
    )
    context.set_default_timeout(10_000)
    page = context.new_page()
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    assert said == []
    context.close()


def user_of(email: str = ADA) -> User:
    """Somebody whose password the site in the other process can read."""
    user = UserFactory(email=email, name="Ada Lovelace")
    password = make_password(PASSWORD, hasher="pbkdf2_sha256")
    User.objects.filter(pk=user.pk).update(password=password)
    return user


def type_in_the_code(page: Page, button: str, *, address: str = ADA) -> None:
    page.get_by_label("Code").fill(code_in(queued_for(address)[0].body))
    page.get_by_role("button", name=button, exact=True).click()


def test_guest_books_signs_up_finds_the_booking_and_logs_in_by_code(page: Page) -> None:
    slot = SlotFactory(rows=2, seats_per_row=4)
    page.goto(f"/slots/{slot.pk}/")
    page.locator("#seat-grid [data-seat='A2']").click()
    page.get_by_role("button", name="Hold these seats").click()
    page.get_by_label("Name").fill("Ada Lovelace")
    page.get_by_label("E-mail address").fill(ADA)
    page.locator("#details button[type=submit]").last.click()
    expect(page.locator("#booking[data-state='CONFIRMED']")).to_be_visible()
    reference = page.locator("#reference").inner_text()

    page.get_by_role("link", name="Log in").click()
    page.get_by_role("link", name="Sign up").click()
    page.get_by_label("Name").fill("Ada Lovelace")
    page.get_by_label("E-mail address").fill("Ada@Example.org")
    page.get_by_label("Password").fill("short")
    page.get_by_role("button", name="Sign up").click()
    expect(page.get_by_label("Password")).to_be_focused()
    expect(page.get_by_label("Password")).to_have_accessible_description(re.compile("too short"))
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign up").click()
    expect(page.get_by_role("heading", name="Confirm your address")).to_be_visible()
    type_in_the_code(page, "Confirm")

    # Back where it began, and it is hers now.
    expect(page.locator("#reference")).to_have_text(reference)
    expect(page.get_by_role("status")).to_contain_text(
        "1 booking made in this browser is in your account now."
    )
    assert Booking.objects.get().user == User.objects.get(email=ADA)
    page.get_by_role("link", name="My bookings").first.click()
    expect(page.locator("#upcoming")).to_contain_text(reference)

    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("status")).to_contain_text("You are logged out.")
    page.get_by_role("link", name="My bookings").click()
    expect(page.get_by_text("Nothing has been booked from this browser yet.")).to_be_visible()

    page.get_by_role("link", name="Log in").last.click()
    page.get_by_role("link", name="Log in with a code by e-mail").click()
    page.get_by_label("E-mail address").fill(ADA)
    page.get_by_role("button", name="Send me a code").click()
    page.get_by_label("Code").fill("0000-0000")
    page.get_by_role("button", name="Log in", exact=True).click()
    expect(page.get_by_text("This is not the code we sent last.")).to_be_visible()
    type_in_the_code(page, "Log in")
    expect(page.locator("#upcoming")).to_contain_text(reference)


def test_password_is_forgotten_reset_and_changed_and_the_address_too(page: Page) -> None:
    user = user_of()
    page.goto("/accounts/login/")
    page.get_by_label("E-mail address").fill(ADA)
    page.get_by_label("Password").fill("forgotten it")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("do not belong together")
    page.get_by_role("link", name="I have forgotten my password").click()
    page.get_by_label("E-mail address").fill(ADA)
    page.get_by_role("button", name="Send me a code").click()
    type_in_the_code(page, "Continue")
    page.get_by_label("New password").fill("lantern tide whistle")
    page.get_by_role("button", name="Save and log in").click()

    page.get_by_role("link", name="Account").click()
    page.get_by_role("link", name="Change my password").click()
    page.get_by_label("Current password").fill("lantern tide whistle")
    page.get_by_label("New password").fill(PASSWORD)
    page.get_by_role("button", name="Change the password").click()
    expect(page.get_by_role("status")).to_contain_text("Your password is changed.")
    page.get_by_role("link", name="Change my e-mail address").click()
    page.get_by_label("New e-mail address").fill("countess@example.org")
    page.get_by_role("button", name="Send me a code").click()
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Continue").click()
    type_in_the_code(page, "Confirm", address="countess@example.org")
    expect(page.get_by_role("status")).to_contain_text("countess@example.org is confirmed.")
    user.refresh_from_db()
    assert user.email == "countess@example.org"


def test_pages_are_accessible_and_fit_a_small_phone(browser: Browser, site: LiveSite) -> None:
    cache.clear()
    user = user_of()
    for _ in range(2):
        held = lifecycle.hold(SlotFactory(), quantity=2, holder=Holder(user=user))
    lifecycle.confirm(held, name="Ada")
    lifecycle.cancel(
        lifecycle.hold(SlotFactory(), quantity=1, holder=Holder(user=user)), reason="ill"
    )
    context = browser.new_context(base_url=site.url, viewport={"width": 360, "height": 740})
    context.set_default_timeout(10_000)
    page = context.new_page()
    found: dict[str, list[str]] = {}

    def look(name: str) -> None:
        if problems := problems_of(page):
            found[name] = problems

    def visit(path: str) -> None:
        page.goto(path)
        look(path)

    def press(name: str, button: Locator) -> None:
        with page.expect_navigation():
            button.click()
        look(name)

    def send(name: str) -> None:
        press(name, page.locator("form.details button[type=submit]"))

    for path in ("login/", "signup/", "login/code/", "password/reset/", "inactive/"):
        visit(f"/accounts/{path}")
        if path != "inactive/":
            send(f"{path} with mistakes")
    visit("/accounts/password/reset/done/")
    page.goto("/accounts/signup/")
    page.get_by_label("E-mail address").fill("new@example.org")
    page.get_by_label("Password").fill(PASSWORD)
    send("confirm the address")
    send("confirm the address without a code")
    press("after starting over", page.get_by_role("button", name="Start over"))
    page.goto("/accounts/password/reset/")
    page.get_by_label("E-mail address").fill(ADA)
    send("code for a new password")
    page.get_by_label("Code").fill(code_in(queued_for(ADA)[0].body))
    send("new password")
    page.goto("/accounts/login/code/")
    page.get_by_label("E-mail address").fill(ADA)
    send("code to log in")
    press("a new code", page.get_by_role("button", name="Send a new code"))
    page.get_by_label("Code").fill(code_in(queued_for(ADA)[0].body))
    send("logged in")
    for path in ("", "past/", "cancelled/"):
        visit(f"/bookings/{path}")
    for path in ("profile/", "password/change/", "email/", "logout/", "reauthenticate/"):
        visit(f"/accounts/{path}")
    context.close()
    assert found == {}
