"""Guessing passwords, codes and addresses: what is counted, and that nothing is told."""

import itertools
import re
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import Any

import pytest
from allauth.core.internal import ratelimit
from django.conf import settings
from django.core.cache import cache
from django.core.management import call_command
from django.db import connection, transaction
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings
from pytest_django import DjangoAssertNumQueries

from accounts import api, limits
from accounts.models import User
from accounts.tests.test_accounts import (
    ADA,
    COMPLETE_RESET,
    CONFIRM,
    CONFIRM_LOGIN,
    CONFIRM_RESET,
    EMAIL,
    LOGIN,
    LOGIN_CODE,
    RESET,
    SIGNUP,
    errors_of,
    is_logged_in,
    latest_code,
    log_in,
    page_of,
    sign_up,
    wrong,
)
from accounts.tests.test_api import (
    REGISTER,
    TOKEN,
    ask_token,
    body_of,
    post,
    problem_of,
    register,
)
from booking_site import counts
from booking_site.tests.factories import PASSWORD, SlotFactory, UserFactory
from booking_site.tests.mails import queued_mails
from booking_site.tests.races import LIMIT, race, start
from bookings.access import HELD_TOO_OFTEN
from slots.models import Seat

pytestmark = pytest.mark.django_db

LOCKED = {"": "That was too many tries. Wait a few minutes, then try again."}
MISMATCH = {
    "": "This e-mail address and password do not belong together. Try again, log in with a code, "
    "or set a new password."
}
TRIES = 5
WRONG = {"email": ADA, "password": "wrong"}


def from_address(number: int) -> Client:
    return Client(REMOTE_ADDR=f"192.0.2.{number}")


def in_minutes(monkeypatch: pytest.MonkeyPatch, minutes: float) -> None:
    """Moves the clock of this process."""
    later = time.time() + minutes * 60
    monkeypatch.setattr(time, "time", lambda: later)


# ── Passwords ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("known", [True, False])
def test_account_is_locked_for_a_while_wherever_the_guesses_come_from(
    monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    if known:
        UserFactory(email=ADA)
    for number in range(TRIES):
        html = page_of(log_in(from_address(number), password="wrong"))
        assert errors_of(html) == MISMATCH
    for address in (ADA, ADA.upper()):
        html = page_of(log_in(from_address(99), address))  # with the right one, even
        assert errors_of(html) == LOCKED
    in_minutes(monkeypatch, 5.1)
    answer = log_in(from_address(99))
    assert answer.status_code == (302 if known else 200)


def test_other_accounts_and_a_code_stay_open_while_one_is_locked() -> None:
    UserFactory(email=ADA)
    UserFactory(email="grace@example.org")
    for number in range(TRIES + 1):
        log_in(from_address(number), password="wrong")
    assert log_in(from_address(7), "grace@example.org").status_code == 302
    client = from_address(8)
    client.post(LOGIN_CODE, {"email": ADA})
    client.post(CONFIRM_LOGIN, {"code": latest_code()})
    assert is_logged_in(client)


def test_new_password_ends_the_lock() -> None:
    UserFactory(email=ADA)
    for number in range(TRIES + 1):
        log_in(from_address(number), password="wrong")
    client = from_address(8)
    client.post(RESET, {"email": ADA})
    client.post(CONFIRM_RESET, {"code": latest_code()})
    client.post(COMPLETE_RESET, {"password1": "lantern tide whistle"})
    assert log_in(from_address(9), password="lantern tide whistle").status_code == 302


def test_one_network_address_cannot_try_many_accounts() -> None:
    said = [
        errors_of(page_of(log_in(Client(), f"person{number}@example.org", "wrong")))[""]
        for number in range(22)
    ]
    assert Counter(said) == {MISMATCH[""]: 20, LOCKED[""]: 2}
    UserFactory(email=ADA)
    assert log_in(from_address(1)).status_code == 302


def test_right_passwords_do_not_count() -> None:
    UserFactory(email=ADA)
    for _ in range(TRIES + 2):
        assert log_in(Client()).status_code == 302


@override_settings(TRUSTED_PROXIES=["127.0.0.1"])
def test_invented_forwarded_addresses_are_one_address() -> None:
    """Through a trusted proxy, which appends the true one."""
    for number in range(20):
        forwarded = {"x-forwarded-for": f"198.51.100.{number}, 203.0.113.7"}
        log_in(Client(headers=forwarded), f"person{number}@example.org", "wrong")
    html = page_of(
        log_in(Client(headers={"x-forwarded-for": "9.9.9.9, 203.0.113.7"}), ADA, "wrong")
    )
    assert errors_of(html) == LOCKED


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("locks", [True, False])
def test_parallel_guesses_get_no_more_tries_than_others(
    monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    """Without the lock they do, which shows that this race is one."""
    UserFactory(email=ADA)
    if not locks:

        @contextmanager
        def no_lock(key: str) -> Any:
            yield True

        monkeypatch.setattr(ratelimit, "cache_lock", no_lock)

    def guess(number: int) -> str:
        return errors_of(log_in(from_address(number), password="wrong").content.decode())[""]

    said = Counter(race(*[lambda n=n: guess(n) for n in range(30)]))
    if locks:
        assert said == {MISMATCH[""]: TRIES, LOCKED[""]: 30 - TRIES}
    else:
        assert said[MISMATCH[""]] > TRIES


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("accounts", "addresses", "logins", "places"), [(1, 10, 10, 5), (28, 1, 28, 20)]
)
def test_right_passwords_at_once_do_not_refuse_each_other(
    monkeypatch: pytest.MonkeyPatch, accounts: int, addresses: int, logins: int, places: int
) -> None:
    """All that may be under way are, when the others come."""
    monkeypatch.setattr(limits, "PAUSE", 0.02)
    for number in range(accounts):
        UserFactory(email=f"ada{number}@example.org")
    full = threading.Barrier(places)
    arrivals = itertools.count()
    true = User.check_password

    def check(user: User, password: str) -> bool:
        if next(arrivals) < places:
            full.wait(LIMIT)
        return true(user, password)

    monkeypatch.setattr(User, "check_password", check)

    def on_the_site(email: str, client: Client) -> bool:
        return log_in(client, email).status_code == 302

    def at_the_api(email: str, client: Client) -> bool:
        return post(TOKEN, {"email": email, "password": PASSWORD}, client).status_code == 200

    ways = itertools.cycle([on_the_site, at_the_api])
    wishes = [
        (f"ada{n % accounts}@example.org", from_address(n % addresses)) for n in range(logins)
    ]
    results = race(
        *[lambda way=way, wish=wish: way(*wish) for way, wish in zip(ways, wishes, strict=False)]
    )
    assert Counter(results) == {True: logins}
    email, client = wishes[0]
    assert limits.seconds_until_room(client.get(LOGIN).wsgi_request, "login_failed", key=email) == 0


def test_try_that_never_came_to_an_end_is_waited_for_no_longer_than_one_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its process was killed, say. It counts all the same."""
    monkeypatch.setattr(limits, "LONGEST_WAIT", 0.5)
    monkeypatch.setattr(limits, "PAUSE", 0.02)
    pauses = []
    true = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: (pauses.append(seconds), true(seconds)))
    with monkeypatch.context() as patch:
        patch.setattr("accounts.adapter.settled", lambda usage: None)
        for _ in range(TRIES):
            problem_of(ask_token(password="wrong"), 401, "unauthenticated")
    problem_of(ask_token(), 429, "too_many")
    assert pauses
    in_minutes(monkeypatch, (limits.LONGEST_TRY + 1) / 60)
    pauses.clear()
    problem_of(ask_token(), 429, "too_many")
    assert not pauses


def test_refused_tries_at_one_account_leave_the_network_address_its_own() -> None:
    UserFactory(email="grace@example.org")
    for _ in range(TRIES):
        problem_of(ask_token(password="wrong"), 401, "unauthenticated")
    for _ in range(16):
        problem_of(ask_token(), 429, "too_many")
    body_of(ask_token("grace@example.org"))


def test_site_and_api_lock_an_account_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever way the guesses come, and whatever port they say that the site has."""
    UserFactory(email=ADA)
    for number in range(2):
        log_in(from_address(number), password="wrong")
    for port in (80, 8000, 8001):
        problem_of(ask_token(password="wrong", Host=f"localhost:{port}"), 401, "unauthenticated")
    for address in (ADA, ADA.upper()):
        locked = ask_token(address, Host="localhost:1")  # with the right password, even
        assert problem_of(locked, 429, "too_many")["detail"] == LOCKED[""]
    assert errors_of(page_of(log_in(from_address(99)))) == LOCKED
    problem_of(ask_token("grace@example.org"), 401, "unauthenticated")
    wait = int(locked["Retry-After"])
    in_minutes(monkeypatch, (wait - 10) / 60)
    problem_of(ask_token(), 429, "too_many")
    in_minutes(monkeypatch, 11 / 60)
    body_of(ask_token())


@pytest.mark.django_db(transaction=True)
def test_parallel_guesses_in_two_processes_get_no_more_tries_either() -> None:
    UserFactory(email=ADA)

    def on_the_site(number: int) -> str:
        html = log_in(from_address(number), password="wrong").content.decode()
        return errors_of(html)[""]

    def at_the_api(number: int) -> str:
        return post(TOKEN, WRONG, from_address(number)).json()["detail"]

    ways = [on_the_site, at_the_api] * 8
    guesses = [lambda way=way, n=n: way(n) for n, way in enumerate(ways)]
    said = Counter(race(*guesses, processes=2))
    assert said.pop(LOCKED[""]) == 16 - TRIES
    assert set(said) <= {MISMATCH[""], api.MISMATCH}
    assert said.total() == TRIES


@pytest.mark.django_db(transaction=True)
def test_as_many_as_may_log_in_from_one_network_address_may_do_so_at_once() -> None:
    """Nobody is refused because the count was busy."""
    guesses = [lambda n=n: ask_token(f"person{n}@example.org") for n in range(22)]
    statuses = Counter(answer.status_code for answer in race(*guesses))
    assert statuses == {401: 20, 429: 2}


@pytest.mark.django_db(transaction=True)
def test_count_that_stays_busy_is_503_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    first = start(ask_token, pause_before="FROM cache").wait_until_paused()
    monkeypatch.setattr(limits, "LOCK_TIMEOUT", "10ms")
    problem_of(ask_token("grace@example.org"), 503, "busy")
    problem_of(first.resume().outcome(), 401, "unauthenticated")
    problem_of(ask_token("grace@example.org"), 401, "unauthenticated")


def test_network_address_that_guesses_at_many_accounts_is_told_how_long_to_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(20):
        problem_of(ask_token(f"person{number}@example.org"), 401, "unauthenticated")
    locked = ask_token("person20@example.org")
    assert problem_of(locked, 429, "too_many")["detail"] == LOCKED[""]
    assert 240 < int(locked["Retry-After"]) <= 300
    in_minutes(monkeypatch, 4)
    assert 1 <= int(ask_token("person20@example.org")["Retry-After"]) <= 60
    UserFactory(email=ADA)
    body_of(post(TOKEN, WRONG | {"password": PASSWORD}, from_address(1)))


def test_logins_and_registrations_of_one_network_address_are_counted_with_the_sites(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of them, since each costs a hash. The addresses of one IPv6 network are one."""
    UserFactory(email=ADA)
    home = [Client(REMOTE_ADDR=f"2001:db8::{number}") for number in range(1, 3)]
    right = WRONG | {"password": PASSWORD}
    new = {"email": "x", "password": "x"}
    for path, body, page, data, limit in (
        (TOKEN, right, LOGIN, {"login": ADA, "password": PASSWORD}, 30),
        (REGISTER, new, SIGNUP, {"email": "x", "password1": "x"}, 20),
    ):
        for number in range(limit // 2):
            assert Client(REMOTE_ADDR=f"2001:db8::a:{number}").post(page, data).status_code < 400
            assert post(path, body, home[number % 2]).status_code < 429
        refused = post(path, body, home[0])
        assert "network address" in problem_of(refused, 429, "too_many")["detail"]
        assert 1 <= int(refused["Retry-After"]) <= 60
        assert Client(REMOTE_ADDR="2001:db8::3").post(page, data).status_code == 429
        assert post(path, body, Client(REMOTE_ADDR="2001:db8:0:1::1")).status_code < 429
    in_minutes(monkeypatch, 1.01)
    body_of(post(TOKEN, right, home[0]))
    problem_of(post(REGISTER, new, home[0]), 400, "invalid")


def test_limit_of_logins_answers_429_in_the_looks_of_the_site() -> None:
    for _ in range(30):
        Client().post(LOGIN, {})
    answer = Client().post(LOGIN, {})
    assert "That was too often" in page_of(answer, 429)
    assert answer["Retry-After"] == "60"
    page_of(Client().get(LOGIN))


def test_password_is_not_guessed_from_an_open_session(client: Client) -> None:
    client.force_login(UserFactory(email=ADA))
    asked = client.post(EMAIL, {"email": "thief@example.org", "action_add": "1"})
    answers = [client.post(asked["Location"], {"password": "guess"}) for _ in range(7)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
    change = {"oldpassword": "guess", "password1": "lantern tide whistle"}
    answers = [client.post("/accounts/password/change/", change) for _ in range(7)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2


# ── Codes ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.django_db(transaction=True)
def test_parallel_guesses_at_a_code_get_no_more_tries_than_others(client: Client) -> None:
    """With one session, whose own count of them they overwrite."""
    UserFactory(email=ADA)
    client.post(LOGIN_CODE, {"email": ADA})
    code = latest_code()
    session = client.cookies["sessionid"].value

    def guess(number: int) -> str:
        guesser = from_address(number)
        guesser.cookies["sessionid"] = session
        answer = guesser.post(CONFIRM_LOGIN, {"code": wrong(code)})
        return errors_of(answer.content.decode()).get("code", "over")

    said = Counter(race(*[lambda n=n: guess(n) for n in range(20)]))
    tried = said["This is not the code we sent last. Look at the latest e-mail and try again."]
    assert tried <= settings.CODE_TRIES


@pytest.mark.parametrize(("path", "limit"), [(LOGIN_CODE, 3), (RESET, 3)])
@pytest.mark.parametrize("known", [True, False])
def test_nobody_is_flooded_with_mails(path: str, limit: int, known: bool) -> None:
    if known:
        UserFactory(email=ADA)
    statuses = [from_address(n).post(path, {"email": ADA}).status_code for n in range(limit + 2)]
    assert statuses == [302] * limit + [200 if path == LOGIN_CODE else 429] * 2
    assert len(queued_mails()) == limit


def test_sign_ups_send_three_mails_in_a_minute_and_ten_in_an_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    statuses = [sign_up(from_address(number)).status_code for number in range(4)]
    assert statuses == [302, 302, 302, 429]
    for number in range(5, 15):
        in_minutes(monkeypatch, 1.1)
        sign_up(from_address(number))
    assert len(queued_mails()) == 10


def test_sign_ups_of_strangers_leave_the_owner_codes_to_log_in() -> None:
    UserFactory(email=ADA, confirmed=False)
    strangers = [sign_up(from_address(n), password1="not Ada's own").status_code for n in range(4)]
    assert strangers == [302, 302, 302, 429]
    owner = from_address(9)
    answer = log_in(owner)
    assert (answer.status_code, answer["Location"]) == (302, CONFIRM)
    owner.post(CONFIRM, {"code": latest_code()})
    assert is_logged_in(owner)
    User.objects.get().emailaddress_set.update(verified=False)
    statuses = [log_in(from_address(n)).status_code for n in range(3)]
    assert statuses == [302, 302, 200]  # they have their limit, too


@pytest.mark.parametrize("known", [True, False])
def test_registrations_are_answered_the_same_with_a_mail_and_without(
    monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Three in a minute and ten in an hour; none to who has just registered."""
    if known:
        UserFactory(email=ADA)
    for number in range(5):
        body_of(register(password=f"{PASSWORD} {number}"), 201)
    assert len(queued_mails()) == 3
    for number in range(5, 15):
        in_minutes(monkeypatch, 1.1)
        body_of(register(password=f"{PASSWORD} {number}"), 201)
    assert len(queued_mails()) == 10


@pytest.mark.parametrize("known", [True, False])
def test_registrations_use_up_no_codes(known: bool) -> None:
    """Of the owner, whom strangers could lock out so; nor does what is left tell of an account."""
    if known:
        UserFactory(email=ADA, confirmed=False)
    for number in range(5):
        body_of(register(password=f"{PASSWORD} {number}" if known or number else PASSWORD), 201)
    assert sign_up(from_address(1)).status_code == 302
    answer = log_in(from_address(2))
    assert (answer.status_code, answer["Location"]) == (302, CONFIRM)
    assert re.fullmatch(r"[\d-]+", latest_code())


# ── Enumeration ───────────────────────────────────────────────────────────────────────────────────


def seen(answer: HttpResponse, address: str) -> tuple[int, str, str]:
    """All of an answer that could tell, without what is different every time."""
    text = answer.content.decode().replace(address, "ADDRESS")
    text = re.sub(r'(name="csrfmiddlewaretoken" value=)"\w+"', r"\1", text)
    return answer.status_code, answer.get("Location", ""), text


def walk(begin: str, confirm: str, address: str) -> list[tuple[int, str, str]]:
    """What somebody who has no access to the mailbox sees on all the ways there are."""
    client = from_address(1)
    data = {"email": address, "password1": PASSWORD, "name": "x"}
    answers = [
        client.post(begin, data),
        client.get(confirm),
        client.post(confirm, {"code": "0000-0000"}),
        client.get(LOGIN),
        client.get(confirm),
        client.get(COMPLETE_RESET),
        client.post("/accounts/logout/"),
        client.get(confirm),
        client.get(LOGIN),
    ]
    client = from_address(2)
    cache.clear()
    answers.append(client.post(begin, data))
    answers += [client.post(confirm, {"code": "0000-0000"}) for _ in range(settings.CODE_TRIES)]
    answers.append(client.get(confirm))
    client = from_address(3)
    cache.clear()
    answers += [client.post(begin, data), client.post(confirm, {"action": "resend"})]
    cache.clear()
    answers += [client.post(confirm, {"action": "resend"}), client.get(confirm)]
    return [seen(answer, address) for answer in answers]


@pytest.mark.parametrize(
    ("begin", "confirm"), [(SIGNUP, CONFIRM), (LOGIN_CODE, CONFIRM_LOGIN), (RESET, CONFIRM_RESET)]
)
@pytest.mark.parametrize("kind", ["confirmed", "unconfirmed", "inactive"])
def test_known_address_looks_like_an_unknown_one(begin: str, confirm: str, kind: str) -> None:
    UserFactory(email=ADA, confirmed=kind != "unconfirmed", is_active=kind != "inactive")
    known = walk(begin, confirm, ADA)
    cache.clear()
    unknown = walk(begin, confirm, "nobody@example.org")
    assert known == unknown


def test_login_tells_nothing_of_whether_there_is_an_account() -> None:
    UserFactory(email=ADA)
    answers = [
        seen(log_in(Client(), address, "wrong"), address) for address in (ADA, "nobody@example.org")
    ]
    assert answers[0] == answers[1]


@override_settings(
    PASSWORD_HASHERS=["django.contrib.auth.hashers.PBKDF2PasswordHasher"],
)
@pytest.mark.parametrize("begin", [SIGNUP, LOGIN, f"/api/v1/{REGISTER}", f"/api/v1/{TOKEN}"])
def test_known_address_takes_as_many_hashes_as_an_unknown_one(
    monkeypatch: pytest.MonkeyPatch, begin: str
) -> None:
    """Hashing is nearly all of the time; counted, since clocks of busy machines mislead."""
    from django.contrib.auth.hashers import PBKDF2PasswordHasher

    monkeypatch.setattr(PBKDF2PasswordHasher, "iterations", 1)
    UserFactory(email=ADA)
    hashed: list[str] = []
    true = PBKDF2PasswordHasher.encode

    def count(self: Any, password: str, salt: str, iterations: int | None = None) -> str:
        hashed.append(password)
        return true(self, password, salt, iterations)

    monkeypatch.setattr(PBKDF2PasswordHasher, "encode", count)
    counts = []
    for address in (ADA, "nobody@example.org"):
        hashed.clear()
        data = {"email": address, "password1": PASSWORD, "login": address, "password": "not Ada's"}
        if begin.startswith("/api/"):
            assert Client().post(begin, data, "application/json").status_code in (201, 401)
        else:
            Client().post(begin, data)
        counts.append(len(hashed))
    assert counts == [1, 1]


# ── Holds ─────────────────────────────────────────────────────────────────────────────────────────


def hold_on_the_page(client: Client, seat: Seat) -> HttpResponse:
    return client.post(f"/slots/{seat.slot_id}/hold", {"seat": seat.pk})


def test_holds_of_one_network_address_are_not_counted_unless_a_setting_says_so() -> None:
    assert settings.HOLDS_PER_ADDRESS == 0
    assert "hold" not in settings.ACCOUNT_RATE_LIMITS


@override_settings(ACCOUNT_RATE_LIMITS=settings.ACCOUNT_RATE_LIMITS | {"hold": "3/m/ip"})
def test_holds_of_one_network_address_are_limited_on_the_site_and_by_the_api(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = SlotFactory(rows=1, seats_per_row=2).seats.all()
    wish = {"slot": SlotFactory().pk, "quantity": 1}
    clinic = Client(REMOTE_ADDR="2001:db8::1")
    assert hold_on_the_page(clinic, first).status_code == 303
    body_of(post("bookings", wish, Client(REMOTE_ADDR="2001:db8::2")), 201)
    body_of(post("bookings", {"slot": 0}, clinic), 400)  # what makes no sense does not count
    body_of(post("bookings", wish, clinic), 201)

    refused = post("bookings", wish, clinic)
    assert problem_of(refused, 429, "too_many")["detail"] == HELD_TOO_OFTEN
    assert 1 <= int(refused["Retry-After"]) <= 60
    html = page_of(hold_on_the_page(clinic, second), 409)
    assert errors_of(html) == {"": HELD_TOO_OFTEN}
    [chosen] = re.findall(r'<input[^>]* value="(\d+)"[^>]* checked', html)
    assert int(chosen) == second.pk

    elsewhere = Client(REMOTE_ADDR="2001:db8:0:1::1")
    assert hold_on_the_page(elsewhere, second).status_code == 303
    body_of(post("bookings", wish, Client(REMOTE_ADDR="192.0.2.1")), 201)
    in_minutes(monkeypatch, 1.01)
    body_of(post("bookings", wish, clinic), 201)


# ── Where it is counted ───────────────────────────────────────────────────────────────────────────


def test_table_of_the_counts_came_with_the_migrations_and_is_made_once() -> None:
    cache.set("a", 1)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM cache")
        assert cursor.fetchone() == (1,)
    call_command("createcachetable", verbosity=0)
    assert cache.get("a") == 1


def test_count_is_kept_as_long_as_it_was_told_and_replaced_by_the_next() -> None:
    cache.set("a", [1.5], 100)
    cache.set("a", [2.5, 1.5], 99.5)
    cache.set("b", {"x": None}, None)
    cache.set_many({"c": 0, "gone": 1}, 60)
    cache.set("gone", 2, 0)
    assert [cache.get(key) for key in "abc"] == [[2.5, 1.5], {"x": None}, 0]
    assert (cache.get("gone"), cache.get("gone", 7)) == (None, 7)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT round(extract(epoch FROM expires - statement_timestamp()) / 10) FROM cache"
            " ORDER BY 1"
        )
        assert [seconds for (seconds,) in cursor.fetchall()][:3] == [0, 6, 10]


@pytest.mark.django_db(transaction=True)
def test_what_counts_no_more_is_deleted_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts.random, "randrange", lambda n: n - 1)
    for n in range(3):
        cache.set(f"over{n}", n, 0)
    cache.set("counts", 1, 60)
    monkeypatch.setattr(counts.random, "randrange", lambda n: 0)
    with transaction.atomic():
        cache.set("counting", 1, 60)
        assert len(kept()) == 5  # and no row of theirs is locked
    assert kept() == [":1:counting", ":1:counts"]


def test_nothing_that_counts_makes_room_however_many_there_are() -> None:
    cache.set_many({f"count{n}": n for n in range(400)}, 60)
    cache.set("forever", 1, None)
    cache.add("added", 1, 60)
    cache.touch("count7", 90)
    assert len(kept()) == 402
    assert cache.get_many(["count0", "count399", "forever", "none"]) == {
        "count0": 0,
        "count399": 399,
        "forever": 1,
    }


@pytest.mark.django_db(transaction=True)
def test_what_is_looked_at_is_not_deleted_under_whoever_counts_it_anew() -> None:
    """By the database's clock, whatever that of the process says."""
    cache.set("a", 1, 0)
    looking = start(lambda: cache.get_many(["a"]), pause_after="FROM cache").wait_until_paused()
    cache.set("a", 2, 60)
    assert looking.resume().outcome() == {}
    assert cache.get_many(["a"]) == {"a": 2}


def kept() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT cache_key FROM cache ORDER BY 1")
        return [key for (key,) in cursor.fetchall()]


def consume_one(key: str) -> Any:
    request = RequestFactory().post("/")
    return ratelimit.consume(request, app=limits.APP, action="mail_booking", key=key)


@pytest.mark.django_db(transaction=True)
def test_one_count_is_few_statements(
    django_assert_num_queries: DjangoAssertNumQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BEGIN, limits on waiting, no waiting for the disk, the lock, reading, writing, COMMIT."""
    monkeypatch.setattr(counts.random, "randrange", lambda n: n - 1)
    with django_assert_num_queries(7):
        assert consume_one("somebody")
    with django_assert_num_queries(7):
        assert consume_one("somebody")


@pytest.mark.django_db(transaction=True)
def test_count_within_a_transaction_leaves_it_as_durable_as_it_was() -> None:
    def commits_soon() -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SHOW synchronous_commit")
            return cursor.fetchone() == ("off",)

    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL synchronous_commit = on")
        assert consume_one("somebody")
        assert not commits_soon()
        with limits.one_at_a_time("a"):
            assert not commits_soon()
    with limits.one_at_a_time("a"):
        assert commits_soon()
