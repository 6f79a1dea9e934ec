"""What the API says no to: always a problem document with its code, and never a 500."""

import json
import socket
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from django.conf import LazySettings
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import InternalError, OperationalError
from django.http import HttpResponse
from django.middleware.csrf import CsrfViewMiddleware
from django.test import Client
from hypothesis import HealthCheck, example, given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from psycopg.errors import IdleInTransactionSessionTimeout

from accounts import tokens
from booking_site import middleware, problems
from booking_site.fields import BIGGEST_ID
from booking_site.tests.factories import SlotFactory, StaffFactory, UserFactory
from booking_site.tests.live_site import LiveSite
from bookings.models import Booking
from slots import api as slots_api
from slots.models import Seat, Show, Slot

API = "/api/v1"
NUL = "It contains the character NUL, which no text has."
SURROGATE = "It contains half a character (a lone surrogate)."
WHOLE = "Write a whole number, without quotation marks or a point."
DIGITS = "Write a whole number in plain digits."
TEXT = "Write a text in quotation marks."
LIKE = "Write it like 2027-03-28T19:30:00+02:00."
NO_SUCH_TIME = f"There is no such time. {LIKE}"
TOO_LARGE = f"Write a number up to {BIGGEST_ID}."
IN_BODY = "Send what is wanted as JSON in the body."
NOTHING_HERE = "There is nothing here. /api/v1/docs lists what there is."

STALLED = InternalError("secret")
STALLED.__cause__ = IdleInTransactionSessionTimeout()

Told = tuple[int, str, dict[str, list[str]]]


def told(answer: HttpResponse) -> Told:
    """Status, code and errors of what must be a problem document."""
    assert answer["Content-Type"] == "application/problem+json"
    document = answer.json()
    assert document.keys() - {"errors"} == {"type", "title", "status", "detail", "code"}
    assert (document["type"], document["status"]) == ("about:blank", answer.status_code)
    assert document["detail"].endswith(".")
    return answer.status_code, document["code"], document.get("errors", {})


def ask(path: str, method: str = "GET", **options: Any) -> HttpResponse:
    return Client(raise_request_exception=False).generic(method, API + path, **options)


def send(body: Any, path: str = "/bookings", **options: Any) -> HttpResponse:
    """A POST of that body: bytes and text as they are, anything else as JSON."""
    body = body if isinstance(body, bytes | str) else json.dumps(body)
    return ask(path, "POST", data=body, **{"content_type": "application/json"} | options)


@pytest.fixture
def slot(db: None) -> Slot:
    return SlotFactory(rows=2)


@pytest.fixture
def office(db: None) -> dict[str, str]:
    """The headers of somebody who may do everything."""
    access = tokens.issue(StaffFactory(is_superuser=True))["access"]
    return {"Authorization": f"Bearer {access}"}


# ── Whoever answers ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path",
    [
        *("/api", "/api/", "/api/v1", "/api/v1/", "/api/v2/slots", "/api/v1/no", "/api/v1//slots"),
        *("/api/v1/slots/", "/api/v1/bookings/", "/api/v1/docs/", "/api/v1/bookings/by-key/"),
        *("/api/v1/slots/abc", "/api/v1/slots/-1", "/api/v1/slots/1.5", "/api/v1/slots/%00"),
        *("/api/v1/slots/%ff", "/api/v1/slots/%D9%A1", f"/api/v1/slots/{10**400}/x"),
        *("/api/v1/bookings/1", f"/api/v1/bookings/{'0' * 32}"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "NONSENSE"])
def test_unknown_path_is_404_for_every_method(path: str, method: str) -> None:
    """Without a query (no database is asked), and without a question about a CSRF token."""
    answer = Client().generic(method, path, b"[" * 9, headers={"Accept": "text/html"})
    assert told(answer) == (404, "not_found", {})
    assert answer.json()["detail"] == NOTHING_HERE


@pytest.mark.parametrize(
    "path",
    [
        *(f"/slots/{BIGGEST_ID + 1}", f"/doctors/{10**400}", "/shows/0", "/slots/77/seats"),
        *(f"/bookings/{uuid.UUID(int=0)}", "/bookings/by-key/%00/%ff", "/bookings/by-key/x"),
    ],
)
def test_unknown_id_is_404(db: None, path: str) -> None:
    answer = ask(path)
    assert told(answer) == (404, "not_found", {})
    assert answer.json()["detail"] != NOTHING_HERE


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/slots", "GET, HEAD"),
        ("/bookings", "GET, HEAD, POST"),
        ("/admin/doctors", "GET, HEAD, POST"),
        ("/auth/token", "POST"),
        (f"/bookings/{uuid.UUID(int=1)}/confirm", "POST"),
        ("/docs", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
        ("/health/ready", "GET, HEAD"),
    ],
)
@pytest.mark.parametrize("method", ["DELETE", "OPTIONS", "TRACE", "NONSENSE"])
def test_wrong_method_is_405_and_says_which_there_are(path: str, allowed: str, method: str) -> None:
    answer = ask(path, method)
    assert told(answer) == (405, "method_not_allowed", {})
    assert answer["Allow"] == allowed


@pytest.mark.parametrize("path", ["/slots", "/no", "/slots?limit=x", "/docs"])
def test_head_is_get_without_its_body(slot: Slot, path: str) -> None:
    full, head = ask(path), ask(path, "HEAD")
    assert head.content == b""
    assert head["Content-Length"] == str(len(full.content))
    for name in ("Content-Type", "Cache-Control"):
        assert head[name] == full[name]
    assert head.status_code == full.status_code


@pytest.mark.parametrize("path", ["/no", "/slots?limit=x", "/bookings"])
def test_problem_has_the_headers_of_every_answer(db: None, path: str) -> None:
    for answer in (ask(path), ask(path, "DELETE")):
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert answer["Cache-Control"] == "no-store"
        assert answer["Content-Length"] == str(len(answer.content))
        assert "X-Request-ID" in answer


@pytest.mark.parametrize("debug", [False, True])
def test_unknown_host_is_400(settings: LazySettings, debug: bool) -> None:
    settings.DEBUG = debug
    settings.ALLOWED_HOSTS = ["book.example.org"]
    answer = ask("/slots", headers={"Host": "evil.example.org"})
    assert told(answer) == (400, "invalid", {})
    assert answer.json()["detail"].startswith("This site has another name than")
    assert "evil" not in answer.text


def test_http_where_there_is_https_is_refused_but_to_who_only_asks(settings: LazySettings) -> None:
    """A token that was sent in the clear should not go on working as if nothing had happened."""
    settings.SECURE_SSL_REDIRECT = True
    for method in ("GET", "HEAD"):
        answer = ask("/docs", method)
        assert (answer.status_code, answer.content) == (301, b"")
        assert answer["Location"] == "https://testserver/api/v1/docs"
        assert "Content-Type" not in answer
    with_token = ask("/bookings", headers={"Authorization": "Bearer x"})
    for answer in (with_token, send({}), ask("/slots", "DELETE")):
        assert told(answer) == (403, "forbidden", {})
        assert "Location" not in answer


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("secret"), (500, "internal", {})),
        (SuspiciousOperation("secret"), (400, "invalid", {})),
        (PermissionDenied(), (403, "forbidden", {})),
        (OperationalError("secret"), (503, "busy", {})),
        (InternalError("secret"), (500, "internal", {})),
        (STALLED, (503, "busy", {})),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_view_raises_is_a_problem(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch, debug: bool, error: Any, expected: Told
) -> None:
    def fail(*args: Any) -> None:
        raise error

    settings.DEBUG = debug
    monkeypatch.setattr(slots_api, "_find", fail)
    monkeypatch.setattr(middleware, "forget_lost_connections", lambda: None)
    monkeypatch.setattr(middleware, "render_to_string", None)  # no page is made of it
    answer = ask("/slots/1")
    assert told(answer) == expected
    assert "secret" not in answer.text
    assert answer.headers.get("Retry-After") == ("3" if expected[0] == 503 else None)
    if expected[0] == 500:
        assert answer.json()["detail"].endswith(f" Its number is {answer['X-Request-ID']}.")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("secret"), (500, "internal", {})),
        (OperationalError("secret"), (503, "busy", {})),
    ],
)
def test_what_a_middleware_raises_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, error: Exception, expected: Told
) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(CsrfViewMiddleware, "process_request", fail)
    monkeypatch.setattr(middleware, "forget_lost_connections", lambda: None)
    monkeypatch.setattr(middleware, "render_to_string", None)  # no page is made of it
    answer = ask("/slots/1")
    assert told(answer) == expected
    assert "secret" not in answer.text


def test_what_the_api_s_own_middleware_raises_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems.ApiMiddleware, "_why", lambda *args: 1 / 0)
    answer = ask("/slots", headers={"Host": "evil.example.org"})
    assert told(answer) == (500, "internal", {})
    assert answer.json()["detail"].endswith(f" Its number is {answer['X-Request-ID']}.")


def test_status_without_a_sentence_of_its_own_says_its_name() -> None:
    assert json.loads(problems.problem(410).content)["detail"] == "Gone."


def test_session_without_csrf_token_is_403(slot: Slot) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(UserFactory())
    wish = {"slot": slot.pk, "quantity": 1}
    answer = client.post(f"{API}/bookings", wish, content_type="application/json")
    assert told(answer) == (403, "forbidden", {})
    assert not Booking.objects.exists()


@pytest.mark.parametrize("type_", ["multipart/form-data; boundary=x", "multipart/form-data", "x"])
def test_session_that_sends_a_form_is_415(slot: Slot, type_: str) -> None:
    """The search for a CSRF token must not use up the body, nor trip over it."""
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)
    client.force_login(UserFactory())
    client.cookies["csrftoken"] = "c" * 32
    body = (
        b"--x\r\nContent-Disposition: form-data; name=a; filename*=hex''%41\r\n\r\n1\r\n--x--\r\n"
    )
    headers = {"X-CSRFToken": "c" * 32}
    answer = client.post(f"{API}/bookings", body, content_type=type_, headers=headers)
    assert told(answer) == (415, "unsupported_media", {})


# ── Bodies ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", IN_BODY),
        (b"[]", "The body must be a JSON object, like {…}."),
        (b'"x"', "The body must be a JSON object, like {…}."),
        (b"{'slot': 1}", None),
        (b'{"slot": 1}x', None),
        (b'{"slot": 1\x00}', None),
        (b'{"name": "\x07"}', None),
        (b"\xef\xbb\xbf{}", None),
        ('{"slot": 1}'.encode("utf-16"), "The body is not text in UTF-8, as JSON must be."),
        ('{"name": "é"}'.encode("latin-1"), "The body is not text in UTF-8, as JSON must be."),
        (b"\x1f\x8b\x08\x00", "The body is not text in UTF-8, as JSON must be."),
        (b'{"slot": 1, "slot": 2}', "The body is not JSON: a field is given twice."),
        (b'{"slot": {"a": 1, "a": 2}}', "The body is not JSON: a field is given twice."),
        (b'{"slot": NaN}', "The body is not JSON: NaN is no number in JSON."),
        (b'{"slot": -Infinity}', "The body is not JSON: -Infinity is no number in JSON."),
        (b"[" * 60_000, "The body is nested too deeply."),
        (b'{"slot":' * 8_000, "The body is nested too deeply."),
        (b'{"slot":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "The body is nested too deeply."),
    ],
    ids=lambda value: str(value)[:20],
)
def test_body_that_is_no_json_object_is_400(db: None, body: bytes, message: str | None) -> None:
    answer = send(body)
    status, code, errors = told(answer)
    assert (status, code, errors.keys()) == (400, "invalid", {"body"})
    assert answer.json()["detail"].startswith(("The body", "body: "))
    if message:
        assert errors == {"body": [message]}


def test_null_is_no_body(db: None) -> None:
    assert told(send(b"null"))[:2] == (400, "invalid")


@pytest.mark.parametrize("action", ["confirm", "extend", "cancel"])
def test_body_that_may_be_missing_may_be_null_but_nothing_else(slot: Slot, action: str) -> None:
    who = {"name": "Ada", "email": "ada@example.org"}
    held = send({"slot": slot.pk, "quantity": 1} | who).json()["id"]
    for body, message in ((b"[]", "must be a JSON object"), (b"[" * 9_999, "too deeply")):
        answer = send(body, f"/bookings/{held}/{action}")
        assert told(answer)[:2] == (400, "invalid")
        assert message in answer.json()["detail"]
    assert Booking.objects.get().status == Booking.Status.PENDING
    assert send(b"null", f"/bookings/{held}/{action}").status_code == 200


def test_too_large_body_is_413(db: None) -> None:
    fits, too_large = b'{"x": "' + b"x" * 65_527 + b'"}', b'{"x": "' + b"x" * 65_528 + b'"}'
    assert told(send(fits)) == (400, "invalid", {"slot": ["This is needed."]})
    assert told(send(too_large)) == (413, "too_large", {})
    assert told(send(b"{}", CONTENT_LENGTH="99999999999999999999")) == (413, "too_large", {})


@pytest.mark.parametrize("length", ["abc", "1_0x", "٣٤٥x"])
def test_content_length_that_is_no_number_is_400(db: None, length: str) -> None:
    assert told(send(b"{}", CONTENT_LENGTH=length))[:2] == (400, "invalid")


@pytest.mark.parametrize(
    "type_",
    [
        *("", "text/json", "text/plain", "application/x-www-form-urlencoded", "x" * 300),
        *("multipart/form-data; boundary=x", "application/json, text/html", "application/*"),
    ],
)
def test_other_content_types_are_415(slot: Slot, type_: str) -> None:
    answer = send({"slot": slot.pk, "quantity": 1}, content_type=type_)
    assert told(answer) == (415, "unsupported_media", {})
    assert not Booking.objects.exists()


def test_compressed_body_is_415(slot: Slot) -> None:
    wish = {"slot": slot.pk, "quantity": 1}
    gzipped = send(wish, headers={"Content-Encoding": "gzip"})
    assert told(gzipped) == (415, "unsupported_media", {})
    assert send(wish, headers={"Content-Encoding": "identity"}).status_code == 201


@pytest.mark.parametrize(
    "type_", ["application/JSON", "application/json; charset=utf-8", "application/json;charset=x"]
)
def test_json_by_another_spelling_is_read(slot: Slot, type_: str) -> None:
    assert send({"slot": slot.pk, "quantity": 1}, content_type=type_).status_code == 201


def test_body_of_a_question_is_not_read(db: None) -> None:
    for body in (b"[" * 70_000, b"\xff\x00"):
        assert ask("/slots", data=body, content_type="text/plain").status_code == 200


def test_unknown_fields_are_ignored_whatever_their_names(slot: Slot) -> None:
    body = (
        f'{{"\\ud800": 1, "\\u0000": {"9" * 5000}, "x": 1e999, "slot": {slot.pk}, "quantity": 1}}'
    )
    assert send(body).status_code == 201


# ── Values ────────────────────────────────────────────────────────────────────────────────────────

NO_INTEGERS = [
    *(("1.0", WHOLE), ("1e2", WHOLE), ("1e999", WHOLE), ("true", WHOLE), ('"1"', WHOLE)),
    *(("{}", WHOLE), ("[[1]]", WHOLE), ('"\\ud800"', WHOLE)),
    *(("0", "Write a number from 1 on."), ("-1", "Write a number from 1 on.")),
]


@pytest.mark.parametrize(
    ("number", "message"),
    [*NO_INTEGERS, (str(2**63), TOO_LARGE), (str(10**400), TOO_LARGE), ("9" * 60_000, TOO_LARGE)],
    ids=lambda value: value[:20],
)
def test_ids_are_whole_numbers(slot: Slot, number: str, message: str) -> None:
    as_slot = send(f'{{"slot": {number}, "quantity": 1}}')
    assert told(as_slot) == (400, "invalid", {"slot": [message]})
    assert as_slot.json()["detail"] == f"slot: {message}"
    as_seat = send(f'{{"slot": {slot.pk}, "seat_ids": [{number}]}}')
    assert told(as_seat) == (400, "invalid", {"seat_ids": [message]})


@pytest.mark.parametrize("number", [number for number, _ in NO_INTEGERS] + ["9" * 60_000])
def test_numbers_of_seats_are_whole_numbers(slot: Slot, number: str) -> None:
    answer = send(f'{{"slot": {slot.pk}, "quantity": {number}}}')
    assert told(answer)[:2] == (400, "invalid")
    assert not Booking.objects.exists()


def test_seats_that_make_no_sense_are_400(slot: Slot) -> None:
    seat, *_ = Seat.objects.filter(slot=slot).order_by("id")
    for seat_ids in ([], [seat.pk, seat.pk], list(range(1, 8000)), [BIGGEST_ID], 1, "1", {}):
        assert told(send({"slot": slot.pk, "seat_ids": seat_ids}))[:2] == (400, "invalid")
    both, neither = {"seat_ids": [seat.pk], "quantity": 1}, {"seat_ids": None, "quantity": None}
    for wish in (both, neither, {}):
        assert told(send({"slot": slot.pk} | wish))[:2] == (400, "invalid")
    assert not Booking.objects.exists()


@pytest.mark.parametrize(
    ("value", "messages"),
    [
        ("   ", ["Please tell us your name."]),
        ("x" * 10_000, ["Write at most 150 characters."]),
        ("a\nb", ["Write the name on one line."]),
        ("a\x00b", [NUL]),
        ("\ud800", [SURROGATE]),
        (5, [TEXT]),
        (True, [TEXT]),
        (["a"], [TEXT]),
        ({}, [TEXT]),
        ("\u202eabc", []),
        ("😀" * 50, []),
        ("\u200d\ufffe\U0010ffff", []),
    ],
    ids=ascii,
)
def test_names_are_stored_as_they_are_or_refused(
    slot: Slot, office: dict[str, str], value: Any, messages: list[str]
) -> None:
    who = {"name": value, "email": "ada@example.org", "password": "correct horse battery staple"}
    when = {"starts_at": "2127-01-01T00:00:00Z", "capacity": 1}
    for answer in (
        send({"slot": slot.pk, "quantity": 1, "name": value}),
        send(who, "/auth/register"),
        send({"name": value}, "/admin/doctors", headers=office),
        send({"name": value} | when, "/admin/shows", headers=office),
    ):
        if answer.status_code == 201:
            assert answer.json()["name"] in (value, value.strip())
        else:
            status, code, errors = told(answer)
            assert (status, code, errors.keys()) == (400, "invalid", {"name"})
    answer = send({"slot": slot.pk, "quantity": 1, "name": value})
    found = [] if answer.status_code == 201 else told(answer)[2]["name"]
    assert found == messages


@pytest.mark.parametrize(
    "value", [" ", "\x00", "\ud800", "x" * 10_000, 5, None, [], "é\u202e", "a@b"]
)
def test_other_texts_are_never_too_much(
    slot: Slot, office: dict[str, str], value: Any, settings: LazySettings
) -> None:
    settings.ACCOUNT_RATE_LIMITS = {}
    held = send({"slot": slot.pk, "quantity": 1}).json()["id"]
    who = {"name": "Ada", "email": "ada@example.org", "password": "correct horse battery staple"}
    answers = [
        *(send({"slot": slot.pk, "quantity": 1, field: value}) for field in ("email", "phone")),
        *(send(who | {field: value}, "/auth/register") for field in ("email", "password")),
        *(send(who | {field: value}, "/auth/token") for field in ("email", "password")),
        send({"refresh": value}, "/auth/token/refresh"),
        *(send({field: value}, f"/bookings/{held}/confirm") for field in ("email", "phone")),
        send({"name": "Grace", "specialization": value}, "/admin/doctors", headers=office),
        send({"reason": value}, f"/bookings/{held}/cancel"),
    ]
    for answer in answers:
        assert answer.status_code in {200, 201, 400, 401}
        if answer.status_code >= 400:
            told(answer)


# ── Times ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        *(("", LIKE), ("soon", LIKE), ("2027-01-01", LIKE), ("1700000000", LIKE), ("P1D", LIKE)),
        *(("2027-W01-1T00:00:00Z", LIKE), ("10000-01-01T00:00:00Z", LIKE)),
        *(("٢٠٢٧-01-01T00:00:00Z", LIKE), ("2027-01-01T00:00:00+٠٢:00", LIKE)),
        ("2027-01-01T00:00:00", f"It lacks its offset from UTC. {LIKE}"),
        *(("2027-02-30T00:00:00Z", NO_SUCH_TIME), ("0000-01-01T00:00:00Z", NO_SUCH_TIME)),
        *(("2027-01-01T24:00:00Z", NO_SUCH_TIME), ("2026-12-31T23:59:60Z", NO_SUCH_TIME)),
        *(("2027-01-01T00:00:00+24:00", NO_SUCH_TIME), ("2027-01-01T00:00:00-99:99", NO_SUCH_TIME)),
        ("0001-01-01T00:00:00+14:00", "Choose a time from 2000 to 2999."),
        ("9999-12-31T23:59:59-14:00", "Choose a time from 2000 to 2999."),
        ("2027-01-01T00:00:00Z\x00", LIKE),
    ],
)
def test_time_that_is_none_is_400(office: dict[str, str], moment: str, message: str) -> None:
    answer = ask("/slots", QUERY_STRING=f"from={quote(moment)}")
    assert told(answer) == (400, "invalid", {"from": [message]})
    show = {"name": "Hamlet", "starts_at": moment, "capacity": 1}
    answer = send(show, "/admin/shows", headers=office)
    assert told(answer) == (400, "invalid", {"starts_at": [message]})
    assert not Show.objects.exists()


@pytest.mark.parametrize("moment", [1700000000, 1.5, True, None, [], {}])
def test_time_that_is_no_text_is_400(office: dict[str, str], moment: Any) -> None:
    show = {"name": "Hamlet", "starts_at": moment, "capacity": 1}
    answer = send(show, "/admin/shows", headers=office)
    assert told(answer) == (400, "invalid", {"starts_at": [LIKE]})


@pytest.mark.parametrize(
    ("moment", "stored"),
    [
        ("2127-01-01T00:00:00Z", "2127-01-01T00:00:00Z"),
        ("2127-01-01T00:00:00+05:00", "2126-12-31T19:00:00Z"),
        ("2127-01-01T00:00+0530", "2126-12-31T18:30:00Z"),
        ("2127-01-01T00:00:00-23:59", "2127-01-01T23:59:00Z"),
        ("2128-02-29T12:00:00.123456789Z", "2128-02-29T12:00:00.123Z"),
        ("2999-12-31T23:59:59-14:00", "3000-01-01T13:59:59Z"),
    ],
)
def test_offset_of_a_time_counts(office: dict[str, str], moment: str, stored: str) -> None:
    show = {"name": "Hamlet", "starts_at": moment, "capacity": 1}
    answer = send(show, "/admin/shows", headers=office)
    assert (answer.status_code, answer.json()["slot"]["starts_at"]) == (201, stored)


def test_plus_sign_of_an_offset_may_be_a_space(db: None) -> None:
    slot = SlotFactory(starts_at=datetime(2100, 1, 1, tzinfo=UTC))
    for sign in ("+", "%2B", "%20"):
        for moment, found in (("05:00:00", [slot.pk]), ("05:00:01", [])):
            answer = ask("/slots", QUERY_STRING=f"from=2100-01-01T{moment}{sign}05:00")
            assert [item["id"] for item in answer.json()["items"]] == found


# ── Addresses ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("query", "errors"),
    [
        ("limit=", {"limit": [DIGITS]}),
        ("limit=0", {"limit": ["Write a number from 1 on."]}),
        ("limit=201", {"limit": ["Write a number up to 200."]}),
        ("limit=1.0", {"limit": [DIGITS]}),
        ("limit=1_0", {"limit": [DIGITS]}),
        ("limit=+1", {"limit": [DIGITS]}),
        ("limit=%D9%A1", {"limit": [DIGITS]}),
        ("limit=%00", {"limit": [DIGITS]}),
        ("limit=%ff&limit=%zz", {"limit": ["Give this once."]}),
        ("limit=1&limit=2", {"limit": ["Give this once."]}),
        (f"limit=1{'0' * 6000}", {"limit": [DIGITS]}),
        ("limit=-1", {"limit": ["Write a number from 1 on."]}),
        ("offset=-1", {"offset": ["Write a number from 0 on."]}),
        ("offset=--1", {"offset": [DIGITS]}),
        ("offset=10000001", {"offset": ["Write a number up to 10000000."]}),
        ("doctor=abc&show=", {"doctor": [DIGITS], "show": [DIGITS]}),
        (f"doctor={BIGGEST_ID + 1}", {"doctor": [TOO_LARGE]}),
        ("available=yes", {"available": ["Choose one of 'true' or 'false'."]}),
        ("available=true&available=true", {"available": ["Choose one of 'true' or 'false'."]}),
        ("from=2027-01-01T00:00:00Z&from=2028-01-01T00:00:00Z", {"from": [LIKE]}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_parameter_is_400_and_named(db: None, query: str, errors: dict) -> None:
    assert told(ask("/slots", QUERY_STRING=query)) == (400, "invalid", errors)


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        ("/doctors", "q=%00", {"q": [NUL]}),
        ("/doctors", "specialization=%00", {"specialization": [NUL]}),
        ("/doctors", "q=a&q=b", {"q": ["Give this once."]}),
        ("/shows", "q=" + "x" * 5000, None),
        ("/shows", "q=" + "+".join("x" * 500), None),
        ("/admin/bookings", "q=%00", {"q": [NUL]}),
        ("/admin/bookings", "q=" + "x" * 201, {"q": ["Write at most 200 characters."]}),
        ("/admin/bookings", "status=pending", None),
        ("/admin/bookings", "slot=0", {"slot": ["Write a number from 1 on."]}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_search_is_400(
    office: dict[str, str], path: str, query: str, expected: dict | None
) -> None:
    status, code, errors = told(ask(path, QUERY_STRING=query, headers=office))
    assert (status, code) == (400, "invalid")
    assert errors == expected or (expected is None and errors)


@pytest.mark.parametrize(
    "query",
    [
        *("unknown=1", "limit[]=1&limit[]=2", "&&==&%zz", "%F0%9F%98%80=1", "LIMIT=x", "x" * 7000),
        f"doctor={BIGGEST_ID}",
    ],
)
def test_other_parameters_are_ignored(db: None, query: str) -> None:
    assert ask("/slots", QUERY_STRING=query).status_code == 200


def test_very_many_parameters_are_400(db: None) -> None:
    answer = ask("/slots", QUERY_STRING="&".join(["a=1"] * 1500))
    assert told(answer) == (400, "invalid", {})


# ── Anything at all ───────────────────────────────────────────────────────────────────────────────

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800"),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
FIELDS = ["slot", "seat_ids", "quantity", "name", "email", "phone", "reason", "starts_at"]
FIELDS += ["ends_at", "capacity", "rows", "seats_per_row", "password", "refresh", "specialization"]


@given_settings(
    max_examples=10,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    body=st.binary(max_size=50)
    | st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=6).map(json.dumps)
)
@example(b'{"slot": 1' + b"0" * 63_000 + b"}")
def test_no_body_is_a_500(slot: Slot, office: dict[str, str], body: bytes | str) -> None:
    held = uuid.UUID(int=0)
    for path in (
        *("/bookings", f"/bookings/{held}/confirm", f"/bookings/{held}/reschedule"),
        *("/auth/register", "/auth/token", "/auth/token/refresh"),
        *("/admin/doctors", "/admin/shows", "/admin/doctors/1/slots", "/admin/expire-holds"),
    ):
        answer = send(body, path, headers=office if "/admin/" in path else {})
        assert answer.status_code < 500
        if answer.status_code >= 400:
            told(answer)


# ── What gunicorn makes of it ─────────────────────────────────────────────────────────────────────

HOST = "Host: localhost\r\nConnection: close\r\n"
POST = f"POST /api/v1/bookings HTTP/1.1\r\n{HOST}Content-Type: application/json\r\n"


def exchange(site: LiveSite, sent: str) -> tuple[str, dict[str, str], str]:
    """Status line, headers and body of what is answered to these bytes."""
    address = ("127.0.0.1", int(site.url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=20) as client:
        with suppress(OSError):  # the answer may be there, and the door closed, before all is sent
            client.sendall(sent.encode("latin-1"))
            client.shutdown(socket.SHUT_WR)
        received = b"".join(_pieces(client))
    head, _, body = received.decode().partition("\r\n\r\n")
    status, *headers = head.split("\r\n")
    return status, dict(header.split(": ", 1) for header in headers), body


def _pieces(client: socket.socket) -> Iterator[bytes]:
    try:
        while piece := client.recv(65536):
            yield piece
    except ConnectionResetError:
        pass  # it did not read on


@pytest.mark.django_db(transaction=True)
def test_no_bytes_are_answered_by_a_page_or_a_500(site: LiveSite) -> None:
    get = f"GET /api/v1/slots HTTP/1.1\r\n{HOST}"
    many = "".join(f"X-{number}: 1\r\n" for number in range(200))
    for sent, code in [
        ("NONSENSE\r\n\r\n", 400),
        ("GET /api/v1/slots HTTP/9.9\r\n\r\n", 400),
        (f"GET /api/v1/slots\x00 HTTP/1.1\r\n{HOST}\r\n", 400),
        (f"get /api/v1/slots HTTP/1.1\r\n{HOST}\r\n", 400),
        (f"GET /api/v1/{'x' * 9000} HTTP/1.1\r\n{HOST}\r\n", 414),
        (f"{get}X: {'x' * 9000}\r\n\r\n", 431),
        (f"{get}{many}\r\n", 431),
        (f"{get}No Header: 1\r\n\r\n", 400),
        (f"{get}Host: two\r\n\r\n", 400),
        (f"{get}X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n\r\n", 400),
        (f"{POST}Content-Length: abc\r\n\r\n{{}}", 400),
        (f"{POST}Content-Length: -1\r\n\r\n{{}}", 400),
        (f"{POST}Content-Length: 50\r\n\r\n{{}}", 400),  # and no more comes
        (f"{POST}Content-Length: 1\r\n\r\n{{}}", 400),
        (f"{POST}Content-Length: 99999999\r\n\r\n{{}}", 413),
        (f"{POST}Content-Length: 2\r\nExpect: nonsense\r\n\r\n{{}}", 417),
        (f"{POST}Transfer-Encoding: gzip\r\n\r\n{{}}", 400),
        (f"{POST}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n", 400),
        (f"{POST}Transfer-Encoding: chunked\r\n\r\n11170\r\n{'x' * 70_000}\r\n0\r\n\r\n", 400),
        (f"{POST}Transfer-Encoding: chunked\r\n\r\nZZ\r\n{{}}\r\n0\r\n\r\n", 400),
        (
            f"{POST}Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n",
            400,
        ),
        (f"FOO /api/v1/slots HTTP/1.1\r\n{HOST}\r\n", 405),
        (f"GET /api%2Fv1/no HTTP/1.1\r\n{HOST}\r\n", 404),
        (f"GET http://localhost/api/v1/no HTTP/1.1\r\n{HOST}\r\n", 404),
    ]:
        status, headers, body = exchange(site, sent)
        assert (sent[:90], status.split()[1]) == (sent[:90], str(code))
        assert headers["Content-Type"] == "application/problem+json"
        assert json.loads(body)["status"] == code
        assert "nonsense" not in body.lower()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "header",
    [
        *(f"Content-Type: text/html; charset={name}" for name in ("hex", "undefined", "idna")),
        *('Cookie: sessionid="\\000abcdefghij"', 'Cookie: csrftoken="\\000"; sessionid="\\377"'),
        *("SCRIPT_NAME: /elsewhere", "PATH_INFO: /elsewhere", "Script-Name: /elsewhere"),
    ],
)
def test_no_header_breaks_what_is_asked(site: LiveSite, header: str) -> None:
    """Of the API and of the pages."""
    for path, answer in (
        ("/api/v1/bookings", "401"),
        ("/api/v1/slots", "200"),
        ("/bookings/", "200"),
    ):
        sent = f"GET {path}?q=%41%ff HTTP/1.1\r\n{HOST}{header}\r\n\r\n"
        assert exchange(site, sent)[0].split()[1] == answer
