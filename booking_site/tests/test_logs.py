"""What is logged, by a real gunicorn: a line for each request, and nothing about anybody."""

import http.client
import json
import logging
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.http import StreamingHttpResponse
from django.shortcuts import resolve_url
from django.test import Client, RequestFactory

from booking_site import logs, middleware
from booking_site.tests.crowd import connect
from booking_site.tests.factories import SlotFactory, UserFactory
from booking_site.tests.live_site import BASE_DIR, LiveSite, live_site
from bookings import lifecycle
from bookings.models import Booking

Answer = tuple[int, dict[str, str], str]


class LoggedSite:
    """A site, and what it has logged so far."""

    def __init__(self, site: LiveSite, log: Path) -> None:
        self.site, self.log = site, log
        self.port = int(site.url.rpartition(":")[2])

    def ask(self, path: str, *, method: str = "GET", body: str = "", **headers: str) -> Answer:
        """One request. The connection is closed by the server when it has logged it."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if body:
            given["Content-Type"] = "application/x-www-form-urlencoded"
        client.request(method, path, body, {"Connection": "close"} | given)
        answer = client.getresponse()
        text = answer.read().decode()
        client.close()
        return answer.status, dict(answer.headers), text

    def text(self) -> str:
        return self.log.read_text()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]

    def requests(self, **wanted: Any) -> list[dict[str, Any]]:
        return [
            line
            for line in self.lines()
            if line["logger"] == "holdfast.request" and wanted.items() <= line.items()
        ]


@contextmanager
def logging_site(folder: Path, level: str) -> Iterator[LoggedSite]:
    log = folder / "log"
    variables = {"LOG_FORMAT": "json", "LOG_LEVEL": level, "WEB_CONCURRENCY": "1"}
    with log.open("a") as file, live_site(log=file, **variables) as site:
        yield LoggedSite(site, log)


@pytest.fixture(scope="module")
def logged_site(
    django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoggedSite]:
    folder = tmp_path_factory.mktemp("logs")
    with django_db_blocker.unblock(), logging_site(folder, "INFO") as site:
        yield site


@pytest.fixture
def broken_confirmations(transactional_db: None) -> Iterator[None]:
    """The database refuses every confirmation, with an error that quotes the whole row."""
    with connection.cursor() as cursor:
        cursor.execute(
            "ALTER TABLE bookings_booking ADD CONSTRAINT none_is_confirmed"
            " CHECK (status <> 'CONFIRMED')"
        )
    yield
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE bookings_booking DROP CONSTRAINT none_is_confirmed")


# ── Nothing about anybody ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_logs_name_nobody(
    tmp_path: Path, level: str, broken_confirmations: None, transactional_db: None
) -> None:
    with logging_site(tmp_path, level) as logged_site:
        _drive_a_marked_person_through(logged_site)


def _drive_a_marked_person_through(logged_site: LoggedSite) -> None:
    slot = SlotFactory()
    user = UserFactory(email="zebedee@marked.example", name="Zebedee Marked")
    client = Client()
    client.force_login(user)
    session = client.cookies["sessionid"].value
    booking = lifecycle.hold(slot, quantity=1)
    token = "c" * 32
    csrf = {"Cookie": f"csrftoken={token}; sessionid={session}"}
    person = {"name": "Zebedee Marked", "email": "zebedee@marked.example", "phone": "0555-777-333"}
    form = "&".join(f"{name}={value}" for name, value in person.items()).replace(" ", "+")
    form += f"&csrfmiddlewaretoken={token}"

    def post(path: str, **headers: str) -> int:
        return logged_site.ask(path, method="POST", body=form, **csrf | headers)[0]

    key = str(booking.pk)
    statuses = [
        # A page, somebody's that is not there, a search, a path that names somebody.
        logged_site.ask(f"/bookings/{key}/", Referer=f"https://x/{key}")[0],
        logged_site.ask(f"/bookings/{uuid.uuid4()}/")[0],
        logged_site.ask("/doctors/?search=Zebedee+Marked&email=zebedee@marked.example")[0],
        logged_site.ask("/zebedee@marked.example/Zebedee%20Marked/0555-777-333")[0],
        # No token; another site's; another host; a method of their own.
        logged_site.ask(f"/bookings/{key}/confirm", method="POST", body=form)[0],
        post(f"/bookings/{key}/confirm", Origin="https://zebedee.marked.example"),
        logged_site.ask("/", Host="zebedee.marked.example")[0],
        logged_site.ask(f"/bookings/{key}/", method="ZEBEDEE")[0],
        # The database's own refusal, whose text is the whole row.
        post(f"/bookings/{key}/confirm"),
        # What gunicorn refuses before the site sees it.
        logged_site.ask("/", **{"Zebedee@Marked": "0555-777-333"})[0],
        logged_site.ask("/" + "Zebedee" * 2000)[0],
        # A wrong password.
        logged_site.ask(
            resolve_url(settings.LOGIN_URL), method="POST", body=f"{form}&login=zebedee", **csrf
        )[0],
    ]
    assert statuses[:9] == [200, 404, 200, 404, 403, 403, 400, 403, 500]
    assert [status // 100 for status in statuses[9:11]] == [4, 4]
    assert statuses[11] < 500

    text = logged_site.text()
    text = text.replace(f"http://127.0.0.1:{logged_site.port}", "")  # where gunicorn listens
    for marked in (key, "zebedee", "marked", "555-777", session, token, "127.0.0.1", "sessionid"):
        assert marked not in text.lower()
    # And yet it tells what happened.
    assert "none_is_confirmed" in text
    assert "sqlstate=23514" in text
    assert logged_site.requests(route="booking", status=403, method="other")
    assert logged_site.requests(route="confirm", status=500, method="POST")
    assert "Invalid request: InvalidHeaderName" in text
    assert "Forbidden: Origin checking failed" in text


def test_exceptions_lose_their_words_and_keep_their_way() -> None:
    try:
        try:
            int("Zebedee")
        except ValueError as error:
            raise KeyError("zebedee@marked.example") from error
    except KeyError as error:
        told = logs.describe(error)
    assert told.splitlines()[0].startswith('  File "')
    assert [line for line in told.splitlines() if not line.startswith(" ")] == [
        "builtins.ValueError",
        "builtins.KeyError",
    ]
    assert 'int("Zebedee")' in told  # a line of the code: that is ours


def test_lines_mask_keys_addresses_and_passwords() -> None:
    record = logging.makeLogRecord(
        {
            "name": "somebody.elses",
            "msg": "%s wrote from %s to postgres://me:hunter2@host/name",
            "args": ("ada@example.org", "/bookings/0A0b0c0d-1111-4222-8333-444455556666/"),
            "request_id": "3f9a21c077be",
            "user": "Ada",
        }
    )
    line = logs.Lines().format(record)
    assert line.partition("elses: ")[2] == "… wrote from /bookings/…/ to … [3f9a21c077be]"
    told = json.loads(logs.Json().format(record))
    assert told.keys() == {"time", "level", "logger", "message", "request_id", "pid"}
    assert told["message"] == "… wrote from /bookings/…/ to …"


def test_debug_keeps_what_exceptions_say() -> None:
    try:
        int("what was typed")
    except ValueError:
        record = logging.makeLogRecord({"msg": "broken", "exc_info": sys.exc_info()})
    assert "what was typed" not in logs.Lines().format(record).splitlines()[-1]
    assert "what was typed" in logs.Lines(values=True).format(record).splitlines()[-1]


# ── A line for each request, with its id ──────────────────────────────────────────────────────────


@pytest.mark.django_db(transaction=True)
def test_request_is_logged_once_with_its_route(logged_site: LoggedSite) -> None:
    show = SlotFactory().show
    status, headers, _ = logged_site.ask(f"/shows/{show.pk}/?from=mail")
    (line,) = logged_site.requests(request_id=headers["X-Request-ID"])
    assert status == 200
    assert line | {"time": "", "pid": 0, "ms": 0} == {
        "time": "",
        "level": "INFO",
        "logger": "holdfast.request",
        "message": f"GET show 200 in {line['ms']} ms",
        "request_id": headers["X-Request-ID"],
        "method": "GET",
        "route": "show",
        "status": 200,
        "ms": 0,
        "pid": 0,
    }
    assert 0 <= line["ms"] < 20_000


@pytest.mark.django_db(transaction=True)
def test_health_and_static_files_are_not_logged(logged_site: LoggedSite) -> None:
    before = len(logged_site.lines())
    assert logged_site.ask("/health")[0] == 200
    assert logged_site.ask("/health/live")[0] == 200
    assert logged_site.ask("/api/v1/health")[0] == 200
    assert logged_site.ask("/static/nothing.css")[0] == 404
    assert logged_site.ask("/")[0] == 200
    assert [line["route"] for line in logged_site.lines()[before:]] == ["home"]


@pytest.mark.django_db(transaction=True)
def test_ids_of_concurrent_requests_never_mix(logged_site: LoggedSite) -> None:
    """With queries in between, where one request's greenlet gives way to another's."""
    SlotFactory.create_batch(5)
    ids = [uuid.uuid4().hex for _ in range(200)]
    before = len(logged_site.lines())
    with ThreadPoolExecutor(32) as crowd:
        answers = list(crowd.map(lambda id: logged_site.ask("/shows/", X_Request_ID=id), ids))
    assert [headers["X-Request-ID"] for _, headers, _ in answers] == ids
    logged = [line["request_id"] for line in logged_site.lines()[before:]]
    assert sorted(logged) == sorted(ids)


@pytest.mark.parametrize(
    "given",
    ["x", "zebedee@marked.example", "-" * 36, "urn:uuid:" + "a" * 32, "a" * 31, "a" * 37, "٣" * 32],
)
def test_request_id_that_looks_like_none_is_replaced(client: Client, given: str, db: None) -> None:
    answer = client.get("/", headers={"X-Request-ID": given}, REMOTE_ADDR="127.0.0.1")
    assert len(answer["X-Request-ID"]) == 12
    assert answer["X-Request-ID"].isalnum()


def test_request_id_counts_only_from_a_trusted_proxy(client: Client, db: None) -> None:
    given = {"X-Request-ID": "a" * 32}
    trusted = client.get("/", headers=given, REMOTE_ADDR="127.0.0.1")
    assert trusted["X-Request-ID"] == "a" * 32
    other = client.get("/", headers=given, REMOTE_ADDR="192.0.2.7")
    assert len(other["X-Request-ID"]) == 12
    over_a_socket = client.get("/", headers=given, REMOTE_ADDR="")
    assert len(over_a_socket["X-Request-ID"]) == 12


# ── Between the lines ─────────────────────────────────────────────────────────────────────────────


def test_client_who_asks_without_a_pause_keeps_nobody_waiting(logged_site: LoggedSite) -> None:
    """In one process: what comes from others is read between two requests of that client."""
    question, times = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n", 1_000
    with connect(logged_site.site) as hasty, connect(logged_site.site) as other:
        hasty.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, times * 1_000)  # never full
        hasty.sendall(question * times)
        other.sendall(question)
        assert other.recv(4096).startswith(b"HTTP/1.1 200")
        answered = hasty.recv(times * 1_000).count(b"HTTP/1.1 200")
    assert 0 < answered < times


# ── What the patient can quote ────────────────────────────────────────────────────────────────────


def test_error_pages_show_the_number_under_which_the_log_tells_more(
    logged_site: LoggedSite, broken_confirmations: None
) -> None:
    booking = lifecycle.hold(SlotFactory(), quantity=1)
    token = "c" * 32
    status, headers, page = logged_site.ask(
        f"/bookings/{booking.pk}/confirm",
        method="POST",
        body=f"name=Ada&email=ada@example.org&csrfmiddlewaretoken={token}",
        Cookie=f"csrftoken={token}",
    )
    assert status == 500
    assert f"<code>{headers['X-Request-ID']}</code>" in page
    number = headers["X-Request-ID"]
    told = [line["logger"] for line in logged_site.lines() if line.get("request_id") == number]
    assert told == ["django.request", "holdfast.request"]
    assert Booking.objects.get().status == Booking.Status.PENDING


def test_page_of_a_busy_database_shows_the_number(
    client: Client, monkeypatch: pytest.MonkeyPatch, db: None
) -> None:
    def busy(*args: Any, **kwargs: Any) -> None:
        raise lifecycle.SlotBusy

    monkeypatch.setattr("slots.views.load_slot", busy)
    answer = client.get("/slots/1/")
    assert answer.status_code == 503
    assert f"<code>{answer['X-Request-ID']}</code>" in answer.content.decode()


def test_error_page_outside_of_a_request_has_no_number(rf: RequestFactory) -> None:
    page = middleware.render_error(rf.get("/"), "503.html", status=503)
    assert "<title>" in page.text
    assert "error number" not in page.text


def test_static_route_is_logged_at_debug_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "holdfast.request")
    respond = middleware.RequestLogMiddleware(lambda request: middleware.HttpResponse())
    for path in ("/static/css/site.css", "/nothing"):
        request = RequestFactory().get(path)
        request.resolver_match = None
        respond(request)
    assert [(r.levelname, r.route) for r in caplog.records] == [
        ("DEBUG", "static"),
        ("INFO", "none"),
    ]


@pytest.mark.parametrize("events_read", [0, 1, 2])
def test_stream_is_logged_when_it_ends(caplog: pytest.LogCaptureFixture, events_read: int) -> None:
    caplog.set_level(logging.INFO, "holdfast.request")
    events = StreamingHttpResponse(iter([b"1", b"2"]), content_type="text/event-stream")
    respond = middleware.RequestLogMiddleware(lambda request: events)
    answer = respond(RequestFactory().get("/"))
    assert [next(iter(answer)) for _ in range(events_read)] == [b"1", b"2"][:events_read]
    assert caplog.records == []
    answer.close()  # the browser has gone
    assert [(r.levelname, r.route, r.status) for r in caplog.records] == [("INFO", "none", 200)]


@pytest.mark.parametrize(
    ("variables", "style"),
    [
        ({"DATABASE_URL": ""}, "line"),
        ({}, "json"),
        ({"LOG_FORMAT": "line"}, "line"),
        ({"LOG_FORMAT": "xml"}, "LOG_FORMAT is 'xml'; it must be json or line."),
        ({"LOG_LEVEL": "all"}, "LOG_LEVEL is 'all'; it must be DEBUG, INFO, WARNING or ERROR."),
    ],
)
def test_log_format_follows_the_environment(variables: dict[str, str], style: str) -> None:
    shown = subprocess.run(
        [
            *(sys.executable, "manage.py", "shell", "-v0", "-c"),
            "from django.conf import settings; print(settings.LOG_FORMAT)",
        ],
        cwd=BASE_DIR,
        env=os.environ
        | {"DJANGO_SETTINGS_MODULE": "booking_site.settings", "ENV_FILE": os.devnull}
        | {"DATABASE_URL": "postgres://localhost/none"}
        | variables,
        capture_output=True,
        text=True,
    )
    assert (shown.stdout + shown.stderr).strip().removeprefix("manage.py: ") == style
