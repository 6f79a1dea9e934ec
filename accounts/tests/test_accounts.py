"""Signing up, logging in, codes, passwords, addresses: each page with good and bad input."""

import re
from html import unescape
from typing import Any
from urllib.parse import urlsplit

import pytest
from allauth.account.models import EmailAddress
from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import IntegrityError
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from accounts.models import User
from booking_site.tests.factories import PASSWORD, AppointmentFactory, SlotFactory, UserFactory
from booking_site.tests.mails import code_in, queued_for, queued_mails
from booking_site.tests.races import race
from bookings import lifecycle
from bookings.lifecycle import Holder
from slots.tests.test_views import assert_nothing_inline

pytestmark = pytest.mark.django_db

ADA = "ada@example.org"
NEW_PASSWORD = "lantern tide whistle"
LOGIN = "/accounts/login/"
SIGNUP = "/accounts/signup/"
CONFIRM = "/accounts/confirm-email/"
LOGIN_CODE = "/accounts/login/code/"
CONFIRM_LOGIN = "/accounts/login/code/confirm/"
RESET = "/accounts/password/reset/"
CONFIRM_RESET = "/accounts/password/reset/confirm/"
COMPLETE_RESET = "/accounts/password/reset/complete/"
EMAIL = "/accounts/email/"
REAUTHENTICATE = "/accounts/reauthenticate/"
PROFILE = "/accounts/profile/"
GUEST_PAGES = [LOGIN, SIGNUP, LOGIN_CODE, RESET, "/accounts/inactive/"]
USER_PAGES = [PROFILE, "/accounts/password/change/", EMAIL, "/accounts/logout/", REAUTHENTICATE]


def page_of(response: HttpResponse, status: int = 200) -> str:
    """The page of an answer: ours, with nothing inline, kept by no cache."""
    assert response.status_code == status
    assert "no-store" in response["Cache-Control"]
    html = response.content.decode()
    assert_nothing_inline(html)
    assert 'class="wordmark"' in html
    return html


def errors_of(html: str) -> dict[str, str]:
    """What is said below each field, and (“”) above all of them."""
    found = re.findall(r'id="id_(\w+)_error"><li>(.*?)</li>', html)
    said = {name: unescape(text) for name, text in found}
    for alert in re.findall(r'id="refusal"[^>]*>\s*<p>(.*?)</p>', html):
        said[""] = unescape(alert)
    return said


def messages_of(html: str) -> list[str]:
    found = re.findall(r'<p class="message" data-level="\w+">(.*?)</p>', html)
    return [unescape(text) for text in found]


def is_logged_in(client: Client) -> bool:
    return "Log out" in client.get("/").content.decode()


def sign_up(client: Client, email: str = ADA, **data: str) -> HttpResponse:
    return client.post(SIGNUP, {"name": "Ada", "email": email, "password1": PASSWORD} | data)


def log_in(client: Client, email: str = ADA, password: str = PASSWORD, **data: str) -> HttpResponse:
    return client.post(LOGIN, {"login": email, "password": password} | data)


def latest_code(address: str = ADA) -> str:
    return code_in(queued_for(address)[0].body)


def wrong(code: str) -> str:
    return code[:-1] + str((int(code[-1]) + 1) % 10)


# ── Signing up ────────────────────────────────────────────────────────────────────────────────────


def test_sign_up_confirm_and_be_logged_in(client: Client) -> None:
    answer = sign_up(client, "Ada@Example.ORG", name="Ada Lovelace", next="/shows/")
    assert (answer.status_code, answer["Location"]) == (302, CONFIRM)
    assert not is_logged_in(client)
    [message] = queued_mails()
    assert (message.to, message.subject) == ([ADA], "Confirm your e-mail address")
    html = page_of(client.get(CONFIRM))
    assert f"<b>{ADA}</b>" in html
    answer = client.post(CONFIRM, {"code": latest_code()})
    assert (answer.status_code, answer["Location"]) == (302, "/shows/")
    assert is_logged_in(client)
    user = User.objects.get()
    assert (user.email, user.name, user.check_password(PASSWORD)) == (ADA, "Ada Lovelace", True)
    address = user.emailaddress_set.get()
    assert (address.email, address.verified, address.primary) == (ADA, True, True)


@pytest.mark.parametrize(
    ("data", "errors"),
    [
        (
            {"email": "", "password1": ""},
            {"email": "Please type your e-mail address.", "password1": "Please choose a password."},
        ),
        (
            {"email": "ada@nowhere"},
            {"email": "This is not an e-mail address; it should look like name@example.org."},
        ),
        (
            {"password1": "short"},
            {"password1": "This password is too short. It must contain at least 8 characters."},
        ),
        ({"password1": ADA}, {"password1": "The password is too similar to the e-mail address."}),
        ({"password1": "x" * 1001}, {"password1": "A password has at most 1000 characters here."}),
        ({"name": "two\nlines"}, {"name": "Write the name on one line."}),
        (
            {"email": "a" * 250 + "@example.org"},
            {"email": "This is not an e-mail address; it should look like name@example.org."},
        ),
        (
            {"email": "a\0@example.org"},
            {"email": "This is not an e-mail address; it should look like name@example.org."},
        ),
        ({"password1": "\0" * 9}, {"password1": "Null characters are not allowed."}),
    ],
)
def test_sign_up_with_mistakes_says_which(
    client: Client, data: dict[str, str], errors: dict[str, str]
) -> None:
    html = page_of(sign_up(client, **data))
    assert errors_of(html) == errors
    [focused] = re.findall(r"<input[^>]* autofocus[^>]*>", html)
    assert f'name="{next(iter(errors))}"' in focused
    assert 'aria-invalid="true"' in focused
    assert not User.objects.exists()
    assert queued_mails() == []


def test_fields_tell_browsers_what_they_are_for(client: Client) -> None:
    def fields(path: str) -> dict[str, str]:
        inputs = re.findall(r"<input [^>]*autocomplete=[^>]*>", client.get(path).content.decode())
        attributes = [dict(re.findall(r'([\w-]+)="([^"]*)"', tag)) for tag in inputs]
        return {tag["name"]: tag["autocomplete"] for tag in attributes}

    assert fields(SIGNUP) == {"name": "name", "email": "email", "password1": "new-password"}
    assert fields(LOGIN) == {"login": "username", "password": "current-password"}
    sign_up(client)
    assert fields(CONFIRM) == {"code": "one-time-code"}
    assert 'inputmode="numeric"' in client.get(CONFIRM).content.decode()


@pytest.mark.django_db(transaction=True)
def test_many_sign_ups_with_one_address_at_once_make_one_account() -> None:
    def compete() -> tuple[int, str]:
        answer = sign_up(Client(REMOTE_ADDR="127.0.0.2"))
        return answer.status_code, answer.get("Location", "")

    results = race(*[compete] * 8)
    # The limit of mails to one address answers the others.
    assert set(results) <= {(302, CONFIRM), (429, "")}
    assert User.objects.count() == 1
    assert EmailAddress.objects.count() == 1


def test_sign_up_that_loses_the_race_looks_like_any_other(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check finds nobody, and the insert does."""
    UserFactory(email=ADA)
    from allauth.account.internal.flows import manage_email

    monkeypatch.setattr(manage_email, "assess_unique_email", lambda email, user=None: True)
    answer = sign_up(client)
    assert (answer.status_code, answer["Location"]) == (302, CONFIRM)
    assert [message.subject for message in queued_mails()] == ["You have an account already"]
    assert User.objects.count() == 1


def test_mail_to_who_has_an_account_leads_out_of_the_sign_up(client: Client) -> None:
    """Which waits, for whoever signed up with such an address, for a code that is never sent."""
    UserFactory(email=ADA)
    sign_up(client)
    assert client.get(LOGIN).status_code == 302
    assert client.get(LOGIN_CODE).status_code == 200
    client.post(LOGIN_CODE, {"email": ADA})
    client.post(CONFIRM_LOGIN, {"code": latest_code()})
    assert is_logged_in(client)


def test_second_click_on_sign_up_leads_to_a_code_that_works(client: Client) -> None:
    """The browser drops the first answer, and with it the session that the first code is for."""
    sign_up(Client())
    assert sign_up(client)["Location"] == CONFIRM
    assert [m.subject for m in queued_mails()] == ["Confirm your e-mail address"] * 2
    client.post(CONFIRM, {"code": latest_code()})
    assert is_logged_in(client)
    assert User.objects.count() == 1


@pytest.mark.parametrize(
    ("there", "password"),
    [({"confirmed": False}, NEW_PASSWORD), ({}, PASSWORD), ({"is_active": False}, PASSWORD)],
)
def test_sign_up_with_the_address_of_another_account_tells_its_owner_alone(
    client: Client, there: dict[str, bool], password: str
) -> None:
    user = UserFactory(email=ADA, **there)
    assert sign_up(client, password1=password)["Location"] == CONFIRM
    assert [m.subject for m in queued_for(ADA)] == ["You have an account already"]
    page_of(client.post(CONFIRM, {"code": "1234-5678"}))
    user.refresh_from_db()
    assert user.check_password(PASSWORD)


def test_wrong_code_is_told_and_too_many_end_it(client: Client) -> None:
    sign_up(client)
    code = latest_code()
    for _ in range(settings.CODE_TRIES - 1):
        html = page_of(client.post(CONFIRM, {"code": wrong(code)}))
        assert errors_of(html) == {
            "code": "This is not the code we sent last. Look at the latest e-mail and try again."
        }
    answer = client.post(CONFIRM, {"code": wrong(code)})
    assert (answer.status_code, answer["Location"]) == (302, LOGIN)
    assert messages_of(page_of(client.get(LOGIN))) == [
        "That code was wrong too often, so it no longer counts. Ask for a new one."
    ]
    client.post(CONFIRM, {"code": code})
    assert not is_logged_in(client)


@pytest.mark.parametrize("code", ["", "\0", "x" * 5000, "١٢٣٤-٥٦٧٨", "1234", " "])
def test_nonsense_for_a_code_is_refused(client: Client, code: str) -> None:
    sign_up(client)
    html = page_of(client.post(CONFIRM, {"code": code}))
    assert list(errors_of(html)) == ["code"]


def test_code_may_be_typed_in_one_go(client: Client) -> None:
    sign_up(client)
    client.post(CONFIRM, {"code": f" {latest_code().replace('-', '')} "})
    assert is_logged_in(client)


def test_new_code_replaces_the_old_one(client: Client) -> None:
    UserFactory(email=ADA)
    client.post(LOGIN_CODE, {"email": ADA})
    old = latest_code()
    answer = client.post(CONFIRM_LOGIN, {"action": "resend"})
    assert answer["Location"] == CONFIRM_LOGIN
    assert messages_of(page_of(client.get(CONFIRM_LOGIN))) == [
        f"We sent a new code to {ADA}. The one before no longer counts."
    ]
    client.post(CONFIRM_LOGIN, {"code": old})
    assert not is_logged_in(client)
    client.post(CONFIRM_LOGIN, {"code": latest_code()})
    assert is_logged_in(client)


def test_new_code_cannot_be_asked_for_without_end(client: Client) -> None:
    UserFactory(email=ADA)
    client.post(LOGIN_CODE, {"email": ADA})
    for _ in range(4):
        client.post(CONFIRM_LOGIN, {"action": "resend"})
    assert len(queued_mails()) == 3
    assert "Send a new code" not in page_of(client.get(CONFIRM_LOGIN))


@pytest.mark.parametrize(
    ("begin", "data", "confirm", "back"),
    [
        (SIGNUP, {"email": ADA, "password1": PASSWORD}, CONFIRM, LOGIN),
        (LOGIN_CODE, {"email": "grace@example.org"}, CONFIRM_LOGIN, LOGIN_CODE),
        (RESET, {"email": "grace@example.org"}, CONFIRM_RESET, LOGIN),
    ],
)
def test_code_that_is_too_old_is_refused_with_the_reason(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    begin: str,
    data: dict[str, str],
    confirm: str,
    back: str,
) -> None:
    UserFactory(email="grace@example.org")
    assert client.post(begin, data)["Location"] == confirm
    code = code_in(queued_mails()[0].body)
    import time

    later = time.time() + settings.CODE_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    answer = client.post(confirm, {"code": code})
    assert (answer.status_code, answer["Location"]) == (302, back)
    assert messages_of(page_of(client.get(back))) == [
        "There is no code to type in: it was used, or is too old. Begin again."
    ]
    assert not is_logged_in(client)


@pytest.mark.parametrize("page", [CONFIRM, CONFIRM_LOGIN, CONFIRM_RESET])
def test_page_for_a_code_without_any_leads_back(client: Client, page: str) -> None:
    answer = client.get(page)
    assert answer.status_code == 302
    assert messages_of(client.get(answer["Location"]).content.decode()) == [
        "There is no code to type in: it was used, or is too old. Begin again."
    ]


def test_start_over_leads_out_of_a_sign_up_with_a_mistyped_address(client: Client) -> None:
    sign_up(client, "ada@exmaple.org")
    assert client.get(SIGNUP)["Location"] == CONFIRM  # where one is stuck otherwise
    assert client.post("/accounts/logout/", {"next": SIGNUP})["Location"] == SIGNUP
    page_of(client.get(SIGNUP))
    sign_up(client)
    client.post(CONFIRM, {"code": latest_code()})
    assert is_logged_in(client)


# ── Logging in and out ────────────────────────────────────────────────────────────────────────────


def test_login_leads_to_ones_bookings_and_logout_home(client: Client) -> None:
    user = UserFactory(email=ADA)
    booking = lifecycle.hold(SlotFactory(), quantity=1, holder=Holder(user=user))
    refused = page_of(log_in(client, password="wrong"))
    assert errors_of(refused) == {
        "": "This e-mail address and password do not belong together. Try again, log in with a "
        "code, or set a new password."
    }
    assert "sessionid" not in client.cookies
    answer = log_in(client, "Ada@example.org")
    assert (answer.status_code, answer["Location"]) == (302, reverse("my_bookings"))
    assert booking.get_absolute_url() in client.get(answer["Location"]).content.decode()
    page_of(client.get("/accounts/logout/"))
    assert is_logged_in(client)  # a link logs nobody out
    assert client.post("/accounts/logout/")["Location"] == reverse("home")
    html = client.get("/").content.decode()
    assert messages_of(html) == ["You are logged out."]
    assert booking.get_absolute_url() not in client.get(reverse("my_bookings")).content.decode()


def test_login_by_code(client: Client) -> None:
    user = UserFactory(email=ADA)
    answer = client.post(LOGIN_CODE, {"email": "ADA@example.org", "next": "/doctors/"})
    assert answer["Location"] == f"{CONFIRM_LOGIN}?next=%2Fdoctors%2F"
    html = page_of(client.get(answer["Location"]))
    assert 'name="next" value="/doctors/"' in html
    answer = client.post(CONFIRM_LOGIN, {"code": latest_code(), "next": "/doctors/"})
    assert answer["Location"] == "/doctors/"
    assert is_logged_in(client)
    user.refresh_from_db()
    assert user.check_password(PASSWORD)


def test_code_counts_once_and_in_its_browser_only(client: Client) -> None:
    UserFactory(email=ADA)
    thief = Client()
    for browser in (thief, client):
        browser.post(LOGIN_CODE, {"email": ADA})
    client.post(CONFIRM_LOGIN, {"code": latest_code()})
    assert is_logged_in(client)
    thief.post(CONFIRM_LOGIN, {"code": latest_code()})
    assert not is_logged_in(thief)
    client.post("/accounts/logout/")
    client.post(CONFIRM_LOGIN, {"code": latest_code()})
    assert not is_logged_in(client)


def test_session_gets_a_new_key_at_login(client: Client) -> None:
    """A session that somebody planted in this browser is not the one that is logged in."""
    UserFactory(email=ADA)
    client.post(LOGIN_CODE, {"email": ADA})
    planted = client.cookies["sessionid"].value
    client.post(CONFIRM_LOGIN, {"code": latest_code()})
    assert is_logged_in(client)
    assert client.cookies["sessionid"].value != planted
    assert not Session.objects.filter(pk=planted).exists()


def test_user_whom_staff_made_confirms_the_address_at_the_first_login(client: Client) -> None:
    UserFactory(email=ADA, confirmed=False)
    assert log_in(client, next="/shows/")["Location"] == CONFIRM
    assert not is_logged_in(client)
    assert client.post(CONFIRM, {"code": latest_code()})["Location"] == "/shows/"
    assert is_logged_in(client)
    assert User.objects.get().check_password(PASSWORD)


def test_user_without_any_address_row_confirms_it_too(client: Client) -> None:
    User.objects.create_user(ADA, PASSWORD)
    assert log_in(client)["Location"] == CONFIRM
    client.post(CONFIRM, {"code": latest_code()})
    assert is_logged_in(client)


@pytest.mark.parametrize("way", ["code", "reset"])
def test_password_of_who_could_not_confirm_the_address_opens_nothing(
    client: Client, way: str
) -> None:
    """Somebody signs up with another's address; its owner comes later, by code or reset."""
    intruder = Client()
    sign_up(intruder)
    if way == "code":
        client.post(LOGIN_CODE, {"email": ADA})
        client.post(CONFIRM_LOGIN, {"code": latest_code()})
        html = page_of(client.get(PROFILE))
        assert "The password from before the address was confirmed no longer counts." in html
        assert "Set a password" in html
    else:
        client.post(RESET, {"email": ADA})
        client.post(CONFIRM_RESET, {"code": latest_code()})
    assert log_in(Client()).status_code == 200
    intruder.post(CONFIRM, {"code": latest_code()})
    assert not is_logged_in(intruder)


def test_inactive_user_learns_no_more_than_anybody_else(client: Client) -> None:
    UserFactory(email=ADA, is_active=False)
    refused = errors_of(page_of(log_in(client)))
    assert refused == errors_of(page_of(log_in(client, password="wrong")))
    client.post(LOGIN_CODE, {"email": ADA})
    assert queued_mails()[-1].subject == "There is no account with this address"
    client.post(RESET, {"email": ADA})
    assert queued_mails()[-1].subject == "There is no account with this address"


@pytest.mark.parametrize(
    "target",
    [
        "https://elsewhere.example/",
        "//elsewhere.example/",
        "http://testserver/shows/",
        "javascript:alert(1)",
        "\\\\elsewhere.example",
        "",
    ],
)
@pytest.mark.parametrize("way", ["password", "code"])
def test_login_leads_nowhere_else(client: Client, target: str, way: str) -> None:
    UserFactory(email=ADA)
    if way == "password":
        answer = log_in(client, next=target)
    else:
        client.post(LOGIN_CODE, {"email": ADA, "next": target})
        answer = client.post(CONFIRM_LOGIN, {"code": latest_code(), "next": target})
    assert answer["Location"] == "/bookings/"


def test_login_works_where_the_address_of_the_client_is_not_known() -> None:
    UserFactory(email=ADA)
    assert log_in(Client(REMOTE_ADDR="")).status_code == 302


def test_links_between_the_pages_keep_where_one_was_going(client: Client) -> None:
    slot = SlotFactory()
    page = client.get(f"{slot.get_absolute_url()}?a=1&b=2").content.decode()
    [link] = re.findall(r'href="(/accounts/login/[^"]*)"', page)
    target = f"{slot.get_absolute_url()}?a=1&b=2"
    for path in (link, link.replace("login", "signup"), link.replace("login", "login/code")):
        html = page_of(client.get(unescape(path)))
        field = re.search(r'name="next" value="([^"]*)"', html)[1]
        assert unescape(field) == target
        ways = re.findall(r'href="(/accounts/(?:login|signup|password)[^"]*\?next=[^"]*)"', html)
        assert len(ways) >= 2
        for way in ways:
            on = page_of(client.get(unescape(way)))
            assert unescape(re.search(r'name="next" value="([^"]*)"', on)[1]) == target


def test_visitor_costs_no_write(client: Client, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        for path in GUEST_PAGES:
            page_of(client.get(path))
    assert "sessionid" not in client.cookies


@pytest.mark.parametrize("path", [*GUEST_PAGES[:4]])
def test_page_for_guests_sends_users_on(client: Client, path: str) -> None:
    client.force_login(UserFactory())
    answer = client.get(path)
    if path == RESET:  # who has forgotten the password may be logged in
        page_of(answer)
    else:
        assert (answer.status_code, answer["Location"]) == (302, "/bookings/")


@pytest.mark.parametrize("path", USER_PAGES)
def test_page_of_the_account_is_for_users(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 302
    assert urlsplit(answer["Location"]).path == ("/" if "logout" in path else LOGIN)
    client.force_login(UserFactory())
    page_of(client.get(path))


@pytest.mark.parametrize("path", ["social/", "3rdparty/", "2fa/", "confirm-email/abc/", "phone/"])
def test_pages_that_make_no_sense_here_are_not_there(client: Client, path: str) -> None:
    assert client.get(f"/accounts/{path}").status_code == 404


# ── Passwords ─────────────────────────────────────────────────────────────────────────────────────


def test_password_is_reset_with_a_code(client: Client) -> None:
    user = UserFactory(email=ADA)
    elsewhere = Client()
    elsewhere.force_login(user)
    answer = client.post(RESET, {"email": "Ada@example.org", "next": "/shows/"})
    assert answer["Location"] == f"{CONFIRM_RESET}?next=%2Fshows%2F"
    answer = client.post(CONFIRM_RESET, {"code": latest_code(), "next": "/shows/"})
    assert answer["Location"] == f"{COMPLETE_RESET}?next=%2Fshows%2F"
    html = page_of(client.get(answer["Location"]))
    assert 'name="next" value="/shows/"' in html
    weak = page_of(client.post(COMPLETE_RESET, {"password1": "12345678"}))
    assert "password1" in errors_of(weak)
    answer = client.post(COMPLETE_RESET, {"password1": NEW_PASSWORD, "next": "/shows/"})
    assert answer["Location"] == "/shows/"
    assert is_logged_in(client)
    assert not is_logged_in(elsewhere)
    user.refresh_from_db()
    assert user.check_password(NEW_PASSWORD)
    assert queued_for(ADA)[0].subject == "Your password was changed"


def test_new_password_needs_the_code_first(client: Client) -> None:
    user = UserFactory(email=ADA)
    client.post(RESET, {"email": ADA})
    answer = client.post(COMPLETE_RESET, {"password1": NEW_PASSWORD})
    assert answer["Location"] == CONFIRM_RESET
    user.refresh_from_db()
    assert user.check_password(PASSWORD)


def test_password_is_changed_and_other_sessions_end(client: Client) -> None:
    user = UserFactory(email=ADA)
    elsewhere = Client()
    for browser in (client, elsewhere):
        log_in(browser)
    path = "/accounts/password/change/"
    html = page_of(client.post(path, {"oldpassword": "wrong", "password1": NEW_PASSWORD}))
    assert errors_of(html) == {"oldpassword": "This is not your current password. Try again."}
    answer = client.post(path, {"oldpassword": PASSWORD, "password1": NEW_PASSWORD})
    assert answer["Location"] == PROFILE
    assert messages_of(page_of(client.get(PROFILE))) == ["Your password is changed."]
    assert not is_logged_in(elsewhere)
    user.refresh_from_db()
    assert user.check_password(NEW_PASSWORD)
    assert "set a new password" in queued_mails()[-1].body


def test_password_is_set_where_there_is_none(client: Client) -> None:
    user = UserFactory(email=ADA, password=None)
    user.set_unusable_password()
    user.save()
    client.force_login(user)
    assert client.get("/accounts/password/change/")["Location"] == "/accounts/password/set/"
    page_of(client.get("/accounts/password/set/"))
    answer = client.post("/accounts/password/set/", {"password1": NEW_PASSWORD})
    assert answer["Location"] == PROFILE
    user.refresh_from_db()
    assert user.check_password(NEW_PASSWORD)


# ── The profile, and another address ──────────────────────────────────────────────────────────────


def test_profile_shows_and_saves_the_name(client: Client) -> None:
    user = UserFactory(email=ADA, name="Ada")
    client.force_login(user)
    assert ADA in page_of(client.get(PROFILE))
    answer = client.post(PROFILE, {"name": "  Ada Lovelace ", "email": "x@example.org"})
    assert answer["Location"] == PROFILE
    assert messages_of(page_of(client.get(PROFILE))) == ["Your name is saved."]
    user.refresh_from_db()
    assert (user.name, user.email) == ("Ada Lovelace", ADA)
    for bad in ("two\nlines", "x" * 151, "\0"):
        html = page_of(client.post(PROFILE, {"name": bad}), 400)
        assert list(errors_of(html)) == ["name"]
        assert 'title="Logged in as Ada Lovelace"' in html
    assert client.put(PROFILE).status_code == 405


def change_address(client: Client, address: str) -> HttpResponse:
    """Asks for a code to the new address, with the password in between."""
    answer = client.post(EMAIL, {"email": address, "action_add": "1"})
    assert urlsplit(answer["Location"]).path == REAUTHENTICATE
    page_of(client.get(answer["Location"]))
    return client.post(answer["Location"], {"password": PASSWORD, "next": EMAIL})


def test_address_is_changed_when_the_new_one_is_confirmed(client: Client) -> None:
    user = UserFactory(email=ADA)
    client.force_login(user)
    html = page_of(client.get(EMAIL))
    assert 'name="action_add"' in html
    assert change_address(client, "Countess@Example.org")["Location"] == CONFIRM
    user.refresh_from_db()
    assert user.email == ADA
    html = page_of(client.get(CONFIRM))
    assert f'href="{EMAIL}">Cancel' in html
    answer = client.post(CONFIRM, {"code": latest_code("countess@example.org")})
    assert answer["Location"] == PROFILE
    assert messages_of(page_of(client.get(PROFILE))) == ["countess@example.org is confirmed."]
    user.refresh_from_db()
    assert user.email == "countess@example.org"
    [address] = user.emailaddress_set.all()
    assert (address.email, address.verified, address.primary) == (user.email, True, True)
    [notice] = queued_for(ADA)
    assert notice.subject == "Your e-mail address was changed"
    assert log_in(Client()).status_code == 200  # the old address opens nothing any more


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("", "Please type the new address."),
        ("nonsense", "This is not an e-mail address; it should look like name@example.org."),
        (ADA.upper(), "This is your address already."),
    ],
)
def test_new_address_with_a_mistake_says_which(client: Client, address: str, error: str) -> None:
    client.force_login(UserFactory(email=ADA))
    html = page_of(client.post(EMAIL, {"email": address, "action_add": "1"}))
    assert errors_of(html) == {"email": error}


def test_new_address_of_somebody_else_is_told_to_its_owner_alone(client: Client) -> None:
    user = UserFactory(email=ADA)
    UserFactory(email="grace@example.org")
    client.force_login(user)
    assert change_address(client, "grace@example.org")["Location"] == CONFIRM
    html = page_of(client.post(CONFIRM, {"code": latest_code("grace@example.org")}))
    assert errors_of(html) == {
        "code": "There is an account with this e-mail address already. Choose another one."
    }
    user.refresh_from_db()
    assert user.email == ADA


def test_address_taken_in_the_last_moment_leaves_all_as_it_was(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = UserFactory(email=ADA)
    client.force_login(user)
    change_address(client, "new@example.org")

    def lose(*args: Any, **kwargs: Any) -> None:
        raise IntegrityError

    monkeypatch.setattr(EmailAddress, "save", lose)
    answer = client.post(CONFIRM, {"code": latest_code("new@example.org")})
    assert answer.status_code == 302
    assert messages_of(client.get(answer["Location"]).content.decode()) == [
        "There is an account with this e-mail address already. Choose another one."
    ]
    user.refresh_from_db()
    assert user.email == ADA
    assert user.emailaddress_set.get().email == ADA


def test_address_is_not_changed_by_whoever_finds_the_browser_open(client: Client) -> None:
    client.force_login(UserFactory(email=ADA))
    asked = client.post(EMAIL, {"email": "thief@example.org", "action_add": "1"})
    html = page_of(client.post(asked["Location"], {"password": "guess"}))
    assert errors_of(html) == {"password": "This is not your password. Try again."}
    assert queued_mails() == []


@pytest.mark.parametrize("action", ["action_send", "action_remove", "action_primary", "nonsense"])
@pytest.mark.parametrize("address", [ADA, "grace@example.org", "nonsense", "\0", ""])
def test_forged_forms_change_nothing_of_the_address(
    client: Client, action: str, address: str
) -> None:
    user, other = UserFactory(email=ADA), UserFactory(email="grace@example.org")
    client.force_login(user)
    answer = client.post(EMAIL, {"email": address, action: "1"})
    assert answer.status_code == 302
    for person in (user, other):
        [row] = person.emailaddress_set.all()
        assert (row.email, row.verified, row.primary) == (person.email, True, True)
    assert {address for message in queued_mails() for address in message.to} <= {ADA}


# ── Mails ─────────────────────────────────────────────────────────────────────────────────────────


def test_mails_are_in_text_and_html_and_link_to_the_site(client: Client) -> None:
    UserFactory(email="grace@example.org")
    sign_up(client)
    Client().post(LOGIN_CODE, {"email": "grace@example.org"})
    Client().post(RESET, {"email": "grace@example.org"})
    sign_up(Client(), "grace@example.org")
    Client(headers={"host": "127.0.0.1"}).post(LOGIN_CODE, {"email": "nobody@example.org"})
    log_in(browser := Client(), "grace@example.org")
    browser.post("/accounts/password/change/", {"oldpassword": PASSWORD, "password1": NEW_PASSWORD})
    assert len(queued_mails()) == 6
    for message in queued_mails():
        [(html, kind)] = message.alternatives
        assert kind == "text/html"
        assert '<html lang="en">' in html
        for text in (message.body, html):
            assert settings.SITE_URL in text
            links = re.findall(r"https?://[^\s\"<]+", text)
            assert all(link.startswith(settings.SITE_URL) for link in links)
            assert "{" not in re.sub(r"<style>.*?</style>", "", text, flags=re.S)
        assert "&" not in message.body
        assert "\n" not in message.subject


def test_name_with_markup_stays_text(client: Client) -> None:
    client.force_login(UserFactory(name="<script>alert(1)</script>"))
    html = page_of(client.get(PROFILE))
    assert "<script>alert" not in html


# ── after logging out ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", ["home", "shows", "show", "doctors", "doctor", "nothing there"])
def test_page_that_names_its_user_is_not_kept_by_the_browser(client: Client, page: str) -> None:
    """Else whoever presses Back after the logout reads who was there."""
    slot, appointment = SlotFactory(), AppointmentFactory()
    path = {
        "show": f"/shows/{slot.show_id}/",
        "doctor": f"/doctors/{appointment.doctor_id}/",
        "nothing there": "/nothing/",
    }.get(page) or reverse(page)
    assert "Cache-Control" not in client.get(path).headers
    client.force_login(UserFactory(name="Ada Lovelace"))
    answer = client.get(path)
    assert "Ada Lovelace" in answer.content.decode()
    assert {"no-store", "private"} <= set(answer["Cache-Control"].split(", "))
    client.post(reverse("account_logout"))
    assert "Cache-Control" not in client.get(path).headers
