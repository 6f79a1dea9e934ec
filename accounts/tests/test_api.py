"""Registering, tokens and who calls: what the API answers to good and bad input, and to races."""

import base64
import json
import os
import subprocess
import sys
import time
from typing import Any

import jwt
import pytest
from allauth.account.models import EmailAddress
from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import connection
from django.http import HttpResponse
from django.test import Client, RequestFactory
from pytest_django import DjangoAssertNumQueries

from accounts import tokens
from accounts.models import User
from accounts.staff_groups import SUPERVISORS
from accounts.tests.test_accounts import (
    ADA,
    CONFIRM_LOGIN,
    LOGIN_CODE,
    NEW_PASSWORD,
    latest_code,
    log_in,
)
from booking_site.tests.factories import PASSWORD, SlotFactory, StaffFactory, UserFactory
from booking_site.tests.live_site import database_url
from booking_site.tests.mails import queued_for, queued_mails
from booking_site.tests.races import Running, race, start

pytestmark = pytest.mark.django_db

BASE = "/api/v1/"
REGISTER, TOKEN, REFRESH = "auth/register", "auth/token", "auth/token/refresh"
MISMATCH = (
    "This e-mail address and password do not belong together. Try again. On the site you can log "
    "in with a code, or set a new password."
)
NOT_AN_ADDRESS = "This is not an e-mail address; it should look like name@example.org."


def post(path: str, body: Any, client: Client | None = None, **headers: str) -> HttpResponse:
    return (client or Client()).post(
        BASE + path, body, content_type="application/json", headers=headers
    )


def get(path: str, token: str = "", client: Client | None = None, **headers: str) -> HttpResponse:
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    return (client or Client()).get(BASE + path, headers=headers)


def body_of(answer: HttpResponse, status: int = 200) -> Any:
    """What an answer says; none sets a cookie or is kept."""
    assert answer.status_code == status, answer.content
    assert not answer.cookies
    assert "no-store" in answer["Cache-Control"]
    kind = "application/json; charset=utf-8" if status < 400 else "application/problem+json"
    assert answer["Content-Type"] == kind
    return answer.json()


def problem_of(answer: HttpResponse, status: int, code: str) -> dict[str, Any]:
    problem = body_of(answer, status)
    assert (problem["status"], problem["code"]) == (status, code)
    assert (answer.get("WWW-Authenticate") == "Bearer") == (status == 401)
    return problem


def seen(answer: HttpResponse, address: str = ADA) -> tuple[dict[str, str], str]:
    """All of an answer that could tell something, without what is different every time."""
    headers = dict(answer.items())
    assert headers.pop("X-Request-ID")
    headers.pop("Content-Length", None)
    return headers, answer.content.decode().replace(address, "ADDRESS")


def register(email: str = ADA, password: str = PASSWORD, **more: Any) -> HttpResponse:
    return post(REGISTER, {"email": email, "password": password, "name": "Ada"} | more)


def ask_token(email: str = ADA, password: str = PASSWORD, **headers: str) -> HttpResponse:
    return post(TOKEN, {"email": email, "password": password}, **headers)


def is_good(access: str) -> bool:
    """Whether an access token is let in; if it is not, it is refused as it should be."""
    answer = get("bookings", access)
    if answer.status_code == 200:
        return True
    problem_of(answer, 401, "unauthenticated")
    return False


def can_refresh(refresh: str) -> bool:
    """As `is_good`, of a refresh token; the new access token must be good."""
    answer = post(REFRESH, {"refresh": refresh})
    if answer.status_code == 200:
        return is_good(body_of(answer)["access"])
    problem_of(answer, 401, "unauthenticated")
    return False


# ── Registering ───────────────────────────────────────────────────────────────────────────────────


def test_register_makes_an_account_whose_address_is_not_confirmed() -> None:
    answer = register("Ada@Example.ORG", name=" Ada Lovelace ")
    assert body_of(answer, 201) == {"email": ADA, "name": "Ada Lovelace"}
    user = User.objects.get()
    assert (user.email, user.name, user.last_login) == (ADA, "Ada Lovelace", None)
    assert user.check_password(PASSWORD)
    address = user.emailaddress_set.get()
    assert (address.email, address.verified, address.primary) == (ADA, False, True)
    assert queued_mails() == []
    assert not Session.objects.exists()


def test_register_without_a_name() -> None:
    answer = post(REGISTER, {"email": ADA, "password": PASSWORD})
    assert body_of(answer, 201) == {"email": ADA, "name": ""}


def test_role_in_the_body_makes_nobody_staff() -> None:
    wishes = {"role": "admin", "is_staff": True, "is_superuser": True, "groups": [1, 2, 3]}
    wishes |= {"is_active": False, "id": 1, "user_permissions": [1], "verified": True}
    body_of(register(**wishes), 201)
    user = User.objects.get()
    assert (user.is_staff, user.is_superuser, user.is_active) == (False, False, True)
    assert (user.groups.count(), user.user_permissions.count()) == (0, 0)
    assert not user.emailaddress_set.filter(verified=True).exists()
    access = body_of(ask_token())["access"]
    problem_of(get("admin/bookings", access), 403, "forbidden")


@pytest.mark.parametrize(
    ("wrong", "errors"),
    [
        (
            {"email": "", "password": ""},
            {
                "email": ["Please type your e-mail address."],
                "password": ["Please choose a password."],
            },
        ),
        (
            {"email": "ada@nowhere", "password": "short"},
            {
                "email": [NOT_AN_ADDRESS],
                "password": ["This password is too short. It must contain at least 8 characters."],
            },
        ),
        ({"email": "a" * 250 + "@example.org"}, {"email": [NOT_AN_ADDRESS]}),
        (
            {"email": "a\0@example.org"},
            {"email": ["It contains the character NUL, which no text has."]},
        ),
        ({"email": 7}, {"email": ["Write a text in quotation marks."]}),
        ({"email": None}, {"email": ["Write a text in quotation marks."]}),
        (
            {"password": "12345678"},
            {"password": ["This password is too common.", "This password is entirely numeric."]},
        ),
        ({"password": ADA}, {"password": ["The password is too similar to the e-mail address."]}),
        (
            {"password": "x" * 1001},
            {"password": ["A password has at most 1000 characters here."]},
        ),
        (
            {"password": "\ud800" * 9},
            {"password": ["It contains half a character (a lone surrogate)."]},
        ),
        ({"name": "two\nlines"}, {"name": ["Write the name on one line."]}),
        (
            {"name": "x" * 151},
            {"name": ["Write at most 150 characters."]},
        ),
        ({"name": ["Ada"]}, {"name": ["Write a text in quotation marks."]}),
    ],
)
def test_register_with_mistakes_names_the_fields(
    wrong: dict[str, Any], errors: dict[str, list[str]]
) -> None:
    body = {"email": ADA, "password": PASSWORD, "name": "Ada"} | wrong
    problem = problem_of(post(REGISTER, json.dumps(body)), 400, "invalid")
    assert problem["errors"] == errors
    assert not User.objects.exists()


@pytest.mark.parametrize("kind", ["confirmed", "unconfirmed", "inactive"])
def test_register_with_a_known_address_looks_the_same_and_its_owner_is_told(kind: str) -> None:
    fields = {"confirmed": kind != "unconfirmed", "is_active": kind != "inactive"}
    known = UserFactory(email=ADA, name="The true Ada", **fields)
    answers = [register(address, NEW_PASSWORD) for address in (ADA, "bob@example.org")]
    assert [body_of(answer, 201)["email"] for answer in answers] == [ADA, "bob@example.org"]
    assert seen(answers[0], ADA) == seen(answers[1], "bob@example.org")
    [message] = queued_mails()
    assert (message.to, message.subject) == ([ADA], "You have an account already")
    unchanged = User.objects.get(email=ADA)
    assert (unchanged.name, unchanged.password) == ("The true Ada", known.password)


def test_register_again_after_a_lost_answer_is_the_same_account() -> None:
    answers = [body_of(register(), 201) for _ in range(5)]
    assert answers == [{"email": ADA, "name": "Ada"}] * 5
    assert (User.objects.count(), EmailAddress.objects.count(), queued_mails()) == (1, 1, [])
    # Nor do so many keep anybody from logging in, as they do where a code is to be sent.
    body_of(ask_token())


@pytest.mark.django_db(transaction=True)
def test_ten_who_register_with_one_address_at_once_make_one_account() -> None:
    """With two passwords, so that at least five have an account already."""
    passwords = [PASSWORD, NEW_PASSWORD] * 5
    answers = race(*[lambda word=word: register(password=word) for word in passwords])
    assert [body_of(answer, 201) for answer in answers] == [{"email": ADA, "name": "Ada"}] * 10
    assert (User.objects.count(), EmailAddress.objects.count()) == (1, 1)
    assert len(queued_for(ADA)) <= 3
    assert sorted(ask_token(password=word).status_code for word in passwords[:2]) == [200, 401]


# ── No cookies ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cookies", [{}, {"sessionid": "x" * 32}, {"csrftoken": "malformed"}])
def test_no_answer_sets_a_cookie(cookies: dict[str, str]) -> None:
    """Nor begins a session; the site would answer the last two with new cookies."""
    UserFactory(email=ADA)
    slot = SlotFactory()

    def client() -> Client:
        client = Client()
        client.cookies.load(cookies)
        return client

    issued = body_of(post(TOKEN, {"email": ADA, "password": PASSWORD}, client()))
    sessions = Session.objects.count()
    new = {"email": "new@example.org", "password": PASSWORD}
    body_of(post(REGISTER, new, client()), 201)
    body_of(post(REGISTER, {"email": ADA, "password": PASSWORD}, client()), 201)
    body_of(post(TOKEN, new | {"password": "wrong"}, client()), 401)
    body_of(post(REFRESH, {"refresh": issued["refresh"]}, client()))
    body_of(post("bookings", {"slot": slot.pk, "quantity": 1}, client()), 201)
    body_of(get("slots", client=client()))
    body_of(get("bookings", issued["access"], client()))
    body_of(get("bookings", client=client()), 401)
    body_of(get("nowhere", client=client()), 404)
    assert Session.objects.count() == sessions == 1


# ── Logging in ────────────────────────────────────────────────────────────────────────────────────


def test_token_lets_in_and_counts_as_a_login() -> None:
    user = UserFactory(email=ADA)
    issued = body_of(ask_token(" Ada@Example.ORG "))
    assert sorted(issued) == ["access", "refresh"]
    assert body_of(get("bookings", issued["access"])) == {"count": 0, "items": []}
    user.refresh_from_db()
    assert user.last_login is not None
    assert body_of(ask_token())["access"] != issued["access"]
    assert is_good(issued["access"])


def test_wrong_password_unknown_address_and_closed_account_look_the_same() -> None:
    UserFactory(email=ADA)
    UserFactory(email="closed@example.org", is_active=False)
    unusable = UserFactory(email="unusable@example.org")
    unusable.set_unusable_password()
    unusable.save()
    answers = [
        ask_token(password="wrong"),
        ask_token("nobody@example.org"),
        ask_token("closed@example.org"),
        ask_token("unusable@example.org"),
    ]
    problems = [problem_of(answer, 401, "unauthenticated") for answer in answers]
    assert problems == [problems[0]] * 4
    assert problems[0]["detail"] == MISMATCH
    assert [seen(answer) for answer in answers] == [seen(answers[0])] * 4


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"email": "ada", "password": PASSWORD}, {"email"}),
        ({"email": "", "password": ""}, {"email", "password"}),
        ({"email": ADA, "password": "x" * 1001}, {"password"}),
        ({"email": ADA, "password": 1}, {"password"}),
        ({"email": "a" * 250 + "@example.org", "password": PASSWORD}, {"email"}),
        ({"email": "a\0@example.org", "password": "\0"}, {"email", "password"}),
        ({}, {"email", "password"}),
    ],
)
def test_token_for_nonsense_names_the_fields(body: dict[str, Any], fields: set[str]) -> None:
    problem = problem_of(post(TOKEN, body), 400, "invalid")
    assert set(problem["errors"]) == fields


def test_patient_may_get_tokens_before_confirming_and_staff_may_not() -> None:
    UserFactory(email=ADA, confirmed=False)
    assert is_good(body_of(ask_token())["access"])
    StaffFactory(email="desk@example.org", confirmed=False)
    problem = problem_of(ask_token("desk@example.org"), 403, "forbidden")
    assert problem["detail"] == tokens.NOT_CONFIRMED
    assert ask_token("desk@example.org", "wrong").status_code == 401


def test_whoever_registered_with_anothers_address_does_not_become_staff_with_it() -> None:
    register()
    issued = body_of(ask_token())
    user = User.objects.get()
    user.is_staff = user.is_superuser = True
    user.save()
    for path in ("bookings", "admin/bookings"):
        assert problem_of(get(path, issued["access"]), 403, "forbidden")
    user.set_address(confirmed=True)
    body_of(get("admin/bookings", issued["access"]))


def test_tokens_end_when_the_owner_of_the_mailbox_confirms_it() -> None:
    """Whoever registered knows the password, and had tokens; the owner comes by a code."""
    register()
    issued = body_of(ask_token())
    assert can_refresh(issued["refresh"])
    owner = Client()
    owner.post(LOGIN_CODE, {"email": ADA})
    owner.post(CONFIRM_LOGIN, {"code": latest_code()})
    assert User.objects.get().emailaddress_set.get().verified
    assert not is_good(issued["access"])
    assert not can_refresh(issued["refresh"])
    problem_of(ask_token(), 401, "unauthenticated")
    assert body_of(get("bookings", client=owner))["count"] == 0


WHILE_ANOTHER_RUNS = """
from gevent import monkey
monkey.patch_all()
import os
import django
django.setup()
import gevent
from django.contrib.auth.hashers import check_password, make_password
from accounts.hashers import PasswordHasher

PasswordHasher.iterations //= 20

def count_while(act):
    running, turns = gevent.spawn(act), 0
    while not running.ready():
        gevent.sleep(0)
        turns += 1
    return running.get(), turns

hashed, turns = count_while(lambda: make_password("lantern"))
assert turns > 2, turns
assert count_while(lambda: check_password("lantern", hashed))[0]
assert not count_while(lambda: check_password("tide", hashed))[0]
gevent.joinall([gevent.spawn(check_password, "tide", hashed) for _ in range(5)], raise_error=True)
# One thread beside this one: more would leave the processor to nobody else.
assert len(os.listdir("/proc/self/task")) == 2
print(hashed)
"""


def test_password_is_hashed_while_the_web_process_answers_others() -> None:
    """As Django does it, where nothing waits: in commands and tests."""
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "booking_site.settings"}
    hashed = subprocess.run(
        [sys.executable, "-c", WHILE_ANOTHER_RUNS],
        env=environment | {"DATABASE_URL": database_url()},
        cwd=settings.BASE_DIR,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert hashed.startswith("pbkdf2_sha256$")
    user = UserFactory(email=ADA)
    User.objects.filter(pk=user.pk).update(password=hashed.strip())
    body_of(ask_token(password="lantern"))


# ── How long tokens are good ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "age", "good"),
    [
        ("access", 14 * 60, True),
        ("access", 16 * 60, False),
        ("refresh", 13.9 * 86_400, True),
        ("refresh", 14.1 * 86_400, False),
    ],
)
def test_tokens_are_good_for_as_long_as_is_said(
    monkeypatch: pytest.MonkeyPatch, kind: str, age: float, good: bool
) -> None:
    issued_at = time.time() - age
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: issued_at)
        issued = tokens.issue(UserFactory())
    assert {"access": is_good, "refresh": can_refresh}[kind](issued[kind]) is good


@pytest.mark.parametrize("end", ["password", "deactivated", "deleted", "session"])
def test_tokens_end_with_what_they_are_for(end: str) -> None:
    user = UserFactory()
    issued, other = tokens.issue(user), tokens.issue(UserFactory())
    assert is_good(issued["access"])
    if end == "password":
        user.set_password(NEW_PASSWORD)
        user.save()
    elif end == "deactivated":
        user.is_active = False
        user.save()
    elif end == "deleted":
        user.delete()
    else:
        Session.objects.earliest("expire_date").delete()
    assert not is_good(issued["access"])
    assert not can_refresh(issued["refresh"])
    assert is_good(other["access"])


def test_refresh_keeps_its_token_and_the_access_tokens_there_are() -> None:
    issued = tokens.issue(UserFactory())
    fresh = body_of(post(REFRESH, {"refresh": issued["refresh"]}))
    assert fresh["refresh"] == issued["refresh"]
    assert is_good(fresh["access"])
    assert is_good(issued["access"])


def _signed(key: str = settings.SECRET_KEY, algorithm: str = "HS256", **claims: Any) -> str:
    """A token like a good one, but for what is said."""
    claims = {"sub": "1", "jti": "x", "sid": "x", "exp": time.time() + 60} | claims
    return jwt.encode(claims, key, algorithm=algorithm)


def _with_header(header: bytes) -> str:
    return base64.urlsafe_b64encode(header).decode().rstrip("=") + ".e30.c2ln"


NONSENSE = [
    _signed(key="another key, which is long enough for this algorithm"),
    _signed(exp=time.time() - 1),
    _signed(algorithm="none", key=""),
    _signed(algorithm="HS384"),
    _signed(token_use="access"),
    _signed(token_use="refresh", sid="AAAA" * 20),
    _signed(token_use="access", sid=7),
    _signed(token_use="access", sid="é"),
    _signed(token_use="refresh", sid="é"),
    _with_header(b"[" * 5000),
    _with_header(b'{"alg":"HS256","kid":' + b"9" * 5000 + b"}"),
    _with_header(b'{"alg":["HS256"]}'),
    _with_header(b"\xff"),
    "x",
    "..",
    "ü.ü.ü",
    "a b",
    "x" * 50_000,
]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=range(len(NONSENSE)))
def test_what_is_no_token_is_refused(nonsense: str) -> None:
    assert not is_good(nonsense)
    assert not can_refresh(nonsense)


def test_one_kind_of_token_is_not_taken_for_the_other_nor_half_of_one() -> None:
    issued = tokens.issue(UserFactory())
    access, refresh = issued["access"], issued["refresh"]
    assert not is_good(refresh)
    assert not can_refresh(access)
    head, claims, signature = access.split(".")
    for changed in (access[:-2], f"{head}.{claims}", f"{head}..{signature}", access + "\0"):
        assert not is_good(changed)
    unsigned = jwt.encode(jwt.decode(access, options={"verify_signature": False}), "", "none")
    assert not is_good(unsigned)
    assert is_good(access)


def test_refresh_token_with_what_no_text_has_is_named() -> None:
    for text in ("a\0b", "\ud800"):
        problem = problem_of(post(REFRESH, json.dumps({"refresh": text})), 400, "invalid")
        assert list(problem["errors"]) == ["refresh"]
    problem_of(post(REFRESH, {"refresh": "x" * 100_000}), 413, "too_large")


@pytest.mark.django_db(transaction=True)
def test_simultaneous_refreshes_all_get_a_good_token() -> None:
    issued = tokens.issue(UserFactory())
    assert race(*[lambda: can_refresh(issued["refresh"])] * 8) == [True] * 8


def _refresh_that_stops_before_it_writes(refresh: str) -> Running:
    competitor = start(
        lambda: post(REFRESH, {"refresh": refresh}), pause_before='UPDATE "django_session"'
    )
    return competitor.wait_until_paused()


@pytest.mark.django_db(transaction=True)
def test_refresh_whose_session_ends_meanwhile_is_refused() -> None:
    running = _refresh_that_stops_before_it_writes(tokens.issue(UserFactory())["refresh"])
    Session.objects.all().delete()
    problem_of(running.resume().outcome(), 401, "unauthenticated")


@pytest.mark.django_db(transaction=True)
def test_refresh_without_its_database_is_not_called_a_bad_token() -> None:
    running = _refresh_that_stops_before_it_writes(tokens.issue(UserFactory())["refresh"])
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [running.pid])
    problem_of(running.resume().outcome(), 503, "busy")


# ── Who calls: by token ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "header", ["", " ", "Bearer", "Bearer x", "Bearer a b", "Basic YWRhOng=", "Token x", "x" * 9999]
)
def test_header_that_is_not_good_is_refused_whoever_may_call(client: Client, header: str) -> None:
    """Even with a session that would do: who sends a token means it."""
    client.force_login(UserFactory())
    slot = SlotFactory()
    headers = {"Authorization": header}
    answers = [
        get("bookings", client=client, **headers),
        get(f"bookings/by-key/{'k' * 16}", client=client, **headers),
        get("admin/bookings", client=client, **headers),
        post("bookings", {"slot": slot.pk, "quantity": 1}, client, **headers),
        post("bookings", "not JSON", client, **headers),
        post("admin/expire-holds", {}, client, **headers),
    ]
    for answer in answers:
        problem_of(answer, 401, "unauthenticated")
    assert slot.bookings.count() == 0
    body_of(get("slots", client=client, **headers))  # nobody asks who that is


def test_scheme_is_written_in_any_case() -> None:
    access = tokens.issue(UserFactory())["access"]
    body_of(get("bookings", Authorization=f"bearer {access}"))


def test_token_wins_over_a_session_and_needs_no_csrf_token() -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(UserFactory())
    by_token = UserFactory()
    access = tokens.issue(by_token)["access"]
    wish = {"slot": SlotFactory().pk, "quantity": 1}
    held = post("bookings", wish, client, Authorization=f"Bearer {access}")
    booking_id = body_of(held, 201)["id"]
    assert by_token.bookings.get().pk.hex == booking_id.replace("-", "")
    assert body_of(get("bookings", access))["count"] == 1
    assert body_of(get("bookings", client=client))["count"] == 0


def test_token_costs_two_queries_and_three_for_staff(
    rf: RequestFactory, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for user, queries in ((UserFactory(), 2), (StaffFactory(), 3)):
        headers = {"Authorization": f"Bearer {tokens.issue(user)['access']}"}
        with django_assert_num_queries(queries):
            assert tokens.Bearer()(rf.get("/", headers=headers)) == user


# ── Who calls: by session ─────────────────────────────────────────────────────────────────────────


@pytest.fixture
def browser() -> Client:
    """Logged in on the site, and its CSRF token is asked for."""
    UserFactory(email=ADA)
    client = Client()
    assert log_in(client).status_code == 302
    client.get("/accounts/profile/")
    client.handler.enforce_csrf_checks = True
    return client


def test_session_writes_with_the_csrf_token_only(browser: Client) -> None:
    slot = SlotFactory()
    wish = {"slot": slot.pk, "quantity": 1}
    for headers in ({}, {"X-CSRFToken": ""}, {"X-CSRFToken": "x" * 64}, {"X-CSRFToken": "ü"}):
        answer = post("bookings", wish, browser, **headers)
        assert problem_of(answer, 403, "forbidden")["detail"] == tokens.NO_CSRF_TOKEN
    assert slot.bookings.count() == 0
    given = {"X-CSRFToken": browser.cookies["csrftoken"].value}
    booking = body_of(post("bookings", wish, browser, **given), 201)
    problem_of(post(f"bookings/{booking['id']}/cancel", {}, browser), 403, "forbidden")
    assert body_of(get("bookings", client=browser))["items"][0]["status"] == "PENDING"
    cancelled = body_of(post(f"bookings/{booking['id']}/cancel", {}, browser, **given))
    assert cancelled["status"] == "CANCELLED"


def test_guest_needs_no_csrf_token() -> None:
    client = Client(enforce_csrf_checks=True)
    wish = {"slot": SlotFactory().pk, "quantity": 1}
    body_of(post("bookings", wish, client), 201)
    body_of(post(REGISTER, {"email": ADA, "password": PASSWORD}, client), 201)
    body_of(post(TOKEN, {"email": ADA, "password": PASSWORD}, client))


def test_csrf_token_in_a_form_is_not_looked_for(browser: Client) -> None:
    form = {"csrfmiddlewaretoken": browser.cookies["csrftoken"].value, "slot": "1"}
    problem_of(browser.post(f"{BASE}bookings", form), 403, "forbidden")


# ── Staff ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("by", ["token", "session"])
def test_office_is_for_staff_with_the_permission(by: str) -> None:
    def asked(user: User) -> int:
        if by == "token":
            return get("admin/bookings", tokens.issue(user)["access"]).status_code
        client = Client()
        client.force_login(user)
        return get("admin/bookings", client=client).status_code

    patient = UserFactory()
    patient.groups.add(*StaffFactory(group=SUPERVISORS).groups.all())
    assert asked(patient) == 403  # with the permission, but not of the staff
    assert asked(UserFactory()) == 403
    assert asked(UserFactory(is_staff=True)) == 403
    assert asked(StaffFactory()) == 200
    assert asked(UserFactory(is_staff=True, is_superuser=True)) == 200
    problem_of(get("admin/bookings"), 401, "unauthenticated")
