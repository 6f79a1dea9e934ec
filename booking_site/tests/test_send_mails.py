"""`send_mails` loses no mail and sends none twice, whatever mails, mail server and database do."""

import signal
import subprocess
import sys
import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import EmailMessage
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.template import TemplateDoesNotExist
from django.test import Client
from django.utils import timezone
from mailer.models import PRIORITY_DEFERRED, Message, MessageLog
from pytest_django import DjangoAssertNumQueries

from booking_site import mail_queue
from booking_site.settings import read_email_url
from booking_site.stop_signal import StopSignal
from booking_site.tests.factories import SlotFactory, UserFactory
from booking_site.tests.live_site import BASE_DIR, free_port, site_environment
from booking_site.tests.mails import MailServer, mail_server
from booking_site.tests.races import race
from booking_site.tests.rounds import Rounds, run_loop
from bookings import lifecycle, notices

pytestmark = pytest.mark.django_db(transaction=True)

LIMIT = 60  # seconds: who has not finished by then hangs


@pytest.fixture
def server(settings: Any) -> Iterator[MailServer]:
    """A mail server, and this process is to send to it."""
    with mail_server() as server:
        use_port(settings, server.port)
        yield server


def use_port(settings: Any, port: int) -> None:
    settings.MAILER_EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", port


def queue(*names: str, **fields: Any) -> None:
    """A mail to each."""
    for name in names:
        EmailMessage("What", "How", to=[f"{name}@example.org"], **fields).send()


def addresses(*names: str) -> list[str]:
    return [f"{name}@example.org" for name in names]


def send(*arguments: str) -> tuple[str, str]:
    """What it printed, and what it complained of."""
    out, err = StringIO(), StringIO()
    try:
        call_command("send_mails", *arguments, stdout=out, stderr=err)
    except CommandError as error:
        err.write(f"failed: {error}\n")
    return out.getvalue(), err.getvalue()


def start(server: MailServer, *arguments: str) -> subprocess.Popen:
    """A process of its own, with the site's own settings, on the tests' database."""
    return subprocess.Popen(
        [sys.executable, "manage.py", "send_mails", *arguments],
        cwd=BASE_DIR,
        env=site_environment(EMAIL_URL=server.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out, err


def age(**time: int) -> None:
    """So much later."""
    earlier = timedelta(**time)
    for message in Message.objects.all():
        Message.objects.filter(pk=message.pk).update(when_added=message.when_added - earlier)


def states() -> list[tuple[str, bool, int]]:
    """To whom, whether deferred, and how often tried again, of all that is queued."""
    return [
        (message.email.to[0].partition("@")[0], message.priority == PRIORITY_DEFERRED, tries)
        for message in Message.objects.order_by("pk")
        for tries in [message.retry_count]
    ]


# ── What they say ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", [TypeError, AttributeError, TemplateDoesNotExist])
def test_mail_that_cannot_be_written_waits_and_stops_no_other(
    server: MailServer, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(*_: object) -> str:
        raise error("secret of ada@example.org")

    booking = lifecycle.hold(SlotFactory(), quantity=1)
    assert lifecycle.confirm(booking, email="ada@example.org").status == "CONFIRMED"
    queue("bob")
    with monkeypatch.context() as broken:
        broken.setattr(notices, "render_to_string", fail)
        out, err = send()
    assert server.accepted == addresses("bob")
    assert f"CannotWrite ({error.__name__})" in out + err
    assert "secret" not in out + err
    assert states() == [("ada", True, 0)]
    age(minutes=2)
    send()
    assert server.accepted == addresses("bob", "ada")


# ── Where they go ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("", ("console", None, None, None, None, None)),
        ("consolemail://", ("console", None, None, None, None, None)),
        ("filemail:///var/mails", ("filebased", None, None, None, None, None)),
        ("smtp://localhost", ("smtp", "localhost", 25, None, None, None)),
        ("smtp://localhost:2525/", ("smtp", "localhost", 2525, None, None, None)),
        ("smtp+tls://me:p%40ss%23@mail", ("smtp", "mail", 587, "me", "p@ss#", "EMAIL_USE_TLS")),
        ("smtp+ssl://me:pw@mail", ("smtp", "mail", 465, "me", "pw", "EMAIL_USE_SSL")),
        ("smtp+ssl://me%40x:pw@mail:99", ("smtp", "mail", 99, "me@x", "pw", "EMAIL_USE_SSL")),
    ],
)
def test_email_url_says_where_mails_go(
    url: str, where: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMAIL_URL", url)
    config = read_email_url()
    server = [config[f"EMAIL_{name}"] for name in ("HOST", "PORT", "HOST_USER", "HOST_PASSWORD")]
    tls = [name for name in ("EMAIL_USE_TLS", "EMAIL_USE_SSL") if config.get(name)]
    kind = config["EMAIL_BACKEND"].split(".")[-2]
    assert (kind, *server, *(tls or [None])) == where
    assert config["EMAIL_FILE_PATH"] == ("/var/mails" if kind == "filebased" else "")


@pytest.mark.parametrize(
    "url",
    [
        "mail.example.org",
        "smtp://",
        "smtp:///mail",
        "smtp://me:hunter2@mail:no",
        "smtp://me:hunter2@mail:99999",
        "smtp://me:hunt/er2@mail",
        "smtp://me:hunt#er2@mail",
        "smtp://me:hunt?er2@mail",
        "smtp://me:hunter2@[mail",
        "smtp://mail?email_use_tls=1",
        "smtps://me:hunter2@mail",
        "filemail://",
        "filemail:///",
        "filemail://folder",
        "consolemail://there",
        "memorymail://",
        "dummymail://",
        "http://mail",
    ],
)
def test_wrong_email_url_is_refused_without_its_password(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMAIL_URL", url)
    with pytest.raises(ImproperlyConfigured) as refused:
        read_email_url()
    assert str(refused.value) == (
        "EMAIL_URL cannot be used; it must look like "
        "smtp+tls://user:password@mail.example.org:587 or filemail:///folder."
    )


# ── What is sent, and what is kept of it ──────────────────────────────────────────────────────────


def test_mails_are_sent_in_turn_and_not_kept(server: MailServer) -> None:
    queue("ada", "bob", "cyd")
    assert send() == ("sent 3 mails\n", "")
    assert server.accepted == addresses("ada", "bob", "cyd")
    assert list(Message.objects.all()) == []
    kept = MessageLog.objects.values_list("message_data", "result", "log_message")
    assert list(kept) == [(None, "1", "")] * 3
    assert send() == ("sent 0 mails\n", "")


def test_process_tells_nobodys_address(server: MailServer) -> None:
    queue("ada", "bob", "cyd")
    server.refused = {"bob@example.org": "550 bob@example.org is unknown"}
    pk = Message.objects.order_by("pk")[1].pk
    assert finish(start(server)) == (
        1,
        "sent 2 mails\n",
        f"mail {pk}, try 1: address refused (550)\n"
        "CommandError: 1 mail could not be sent;"
        " 1 mail waits for another try, 0 are given up.\n",
    )
    assert finish(start(server)) == (
        0,
        "sent 0 mails\n1 mail waits for another try, 0 are given up\n",
        "",
    )


def test_old_entries_of_the_log_are_deleted(server: MailServer) -> None:
    queue("ada", "bob")
    send()
    old, young = MessageLog.objects.order_by("pk")
    now = timezone.now()
    MessageLog.objects.filter(pk=old.pk).update(when_added=now - timedelta(days=31))
    MessageLog.objects.filter(pk=young.pk).update(when_added=now - timedelta(days=29))
    send()
    assert list(MessageLog.objects.all()) == [young]


@pytest.mark.parametrize("number", [1, 3])
def test_round_costs_so_many_queries(
    number: int, server: MailServer, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(6):
        send()
    queue(*"abc"[:number])
    with django_assert_num_queries(6 + 5 * number):  # BEGIN, lock, log, delete, COMMIT
        send()


def test_office_cannot_touch_the_queue(client: Client) -> None:
    """Queued mails are pickled: who edits one runs code."""
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    assert client.get("/admin/").status_code == 200
    for model in ("message", "messagelog", "dontsendentry"):
        assert client.get(f"/admin/mailer/{model}/").status_code == 404


# ── Mails that cannot be sent ─────────────────────────────────────────────────────────────────────


def test_bad_mails_stop_nobody_elses(server: MailServer) -> None:
    queue("unknown")
    queue("injected", headers={"X-Name": "two\nlines"})
    EmailMessage("What", "How", to=["two\nlines@example.org"]).send()
    queue("gone", "late", "ada")
    broken = b64encode(b"cmodule_that_is_gone\nMail\n.").decode()  # pickled
    pks = list(Message.objects.order_by("pk").values_list("pk", flat=True))
    Message.objects.filter(pk=pks[3]).update(message_data=broken)
    server.refused = {
        "unknown@example.org": "550 unknown@example.org is unknown",
        "late@example.org": "451 later",
    }
    out, err = send()
    assert out == "sent 1 mail\n"
    assert err.splitlines() == [
        f"mail {pks[0]}, try 1: address refused (550)",
        f"mail {pks[1]}, try 1: BadHeaderError",
        f"mail {pks[2]}, try 1: ValueError",
        f"mail {pks[3]}, try 1: ModuleNotFoundError",
        f"mail {pks[4]}, try 1: address refused (451)",
        "failed: 5 mails could not be sent; 5 mails wait for another try, 0 are given up.",
    ]
    assert server.accepted == ["ada@example.org"]
    assert Message.objects.deferred().count() == 5


def test_mail_is_tried_again_after_twice_the_time(server: MailServer) -> None:
    queue("ada")
    server.refused = {"ada@example.org": "451 later"}
    send()
    for number in range(1, 13):
        age(minutes=2 ** (number - 1), seconds=-30)
        assert send()[1] == ""
        assert states() == [("ada", True, number - 1)]
        age(seconds=31)
        assert f"try {number + 1}: address refused (451)" in send()[1]
        assert states() == [("ada", True, number)]
    age(days=30)
    assert send() == ("sent 0 mails\n0 mails wait for another try, 1 is given up\n", "")
    last = MessageLog.objects.latest("pk").log_message
    assert last == f"mail {Message.objects.get().pk}, try 13: address refused (451); given up"

    server.refused = {}
    assert send("--retry") == ("sent 1 mail\n", "")
    assert server.accepted == ["ada@example.org"]


def test_mail_that_was_refused_arrives_later(server: MailServer) -> None:
    queue("ada", "bob")
    server.refused = {"ada@example.org": "451 later"}
    send()
    server.refused = {}
    assert send()[0] == "sent 0 mails\n1 mail waits for another try, 0 are given up\n"
    age(seconds=61)
    assert send() == ("sent 1 mail\n", "")
    assert server.accepted == addresses("bob", "ada")


def test_good_mail_is_sent_in_the_first_round_and_ahead_of_bad_ones(server: MailServer) -> None:
    bad = [f"bad{number}" for number in range(25)]
    queue(*bad)
    server.refused = dict.fromkeys(addresses(*bad), "550 unknown")
    queue("ada")
    assert send()[1].count("address refused") == 25
    assert server.accepted == ["ada@example.org"]
    age(seconds=61)
    queue("bob")
    server.refused = {}
    assert send() == ("sent 26 mails\n", "")
    assert server.accepted == addresses("ada", "bob", *bad)


def test_server_that_hangs_up_ends_the_round_and_costs_no_mail_a_try(server: MailServer) -> None:
    queue("ada", "bob")
    server.refused = {"ada@example.org": ""}  # no answer: it hangs up
    away = "failed: Mails cannot be sent: Connection unexpectedly closed.\n"
    assert send() == ("sent 0 mails\n", away)
    assert states() == [("ada", False, 0), ("bob", False, 0)]
    assert send() == ("sent 1 mail\n", away)  # the others go first
    server.refused = {}
    assert send() == ("sent 1 mail\n", "")
    assert server.accepted == addresses("bob", "ada")


def test_retry_is_for_a_single_run() -> None:
    with pytest.raises(CommandError, match="--retry is for a single run"):
        call_command("send_mails", "--loop", "--retry")


# ── A mail server that is away ────────────────────────────────────────────────────────────────────


def test_mail_server_that_is_away_costs_no_mail_a_try(settings: Any) -> None:
    port = free_port()
    use_port(settings, port)
    queue("ada", "bob")
    assert send() == ("sent 0 mails\n", "failed: Mails cannot be sent: Connection refused.\n")
    assert states() == [("ada", False, 0), ("bob", False, 0)]
    with mail_server(port) as server:
        assert send() == ("sent 2 mails\n", "")
        assert server.accepted == addresses("ada", "bob")


def test_login_that_fails_costs_no_mail_a_try(server: MailServer, settings: Any) -> None:
    settings.EMAIL_HOST_USER, settings.EMAIL_HOST_PASSWORD = "me", "hunter2"
    queue("ada")
    assert send()[1] == (
        "failed: Mails cannot be sent: SMTP AUTH extension not supported by server.\n"
    )
    assert states() == [("ada", False, 0)]


def test_folder_that_cannot_be_written_costs_no_mail_a_try(settings: Any) -> None:
    settings.MAILER_EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
    settings.EMAIL_FILE_PATH = "/dev/null/mails"
    queue("ada")
    assert send()[1].startswith("failed: Mails cannot be sent: Could not create directory")
    assert states() == [("ada", False, 0)]


def test_loop_tells_once_that_the_mail_server_is_away_and_knocks_seldom(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    use_port(settings, port)
    queue("ada", "bob")
    with mail_server(port) as server:
        pass  # and it is away again
    back = mail_server(port)
    rounds = Rounds(None, None, back.__enter__, lambda: queue("cyd"))
    lines, complaints = run_loop("send_mails", rounds, monkeypatch)
    back.__exit__(None, None, None)
    assert server.accepted == []
    assert complaints == [
        "Mails cannot be sent: Connection refused. Trying again every 60 s.",
    ]
    assert lines == ["sent 2 mails", "Working again.", "sent 1 mail"]
    assert rounds.waits == [60, 60, 60, 7.5, 7.5]
    assert rounds.connections_open == [False] * 5


# ── Killed, raced, told to stop, cut off from the database ────────────────────────────────────────


def have_two_meet(server: MailServer) -> None:
    """The first mails of two senders are under way at the same time."""
    both = threading.Barrier(2)

    def meet(address: str) -> None:
        if len(server.accepted) <= 2:
            both.wait(LIMIT)

    server.before_yes = meet


def test_two_senders_share_the_work_and_send_nothing_twice(server: MailServer) -> None:
    names = [f"person{number}" for number in range(40)]
    queue(*names)
    have_two_meet(server)
    results = [finish(sender) for sender in [start(server), start(server)]]
    assert [(code, err) for code, _, err in results] == [(0, "")] * 2
    assert sorted(server.accepted) == sorted(addresses(*names))
    assert Message.objects.count() == 0


def test_two_senders_without_the_row_lock_would_send_twice(
    server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def without_lock(message: Message) -> Iterator[Message | None]:
        with transaction.atomic():
            yield Message.objects.filter(pk=message.pk).first()

    monkeypatch.setattr("mailer.engine.sender_context", without_lock)
    queue("ada", "bob")
    have_two_meet(server)
    race(*[lambda: mail_queue.send_waiting(StopSignal(), [])] * 2, sound=False)
    assert server.accepted.count("ada@example.org") == 2


def test_sender_killed_half_way_leaves_one_mail_to_be_sent_again(server: MailServer) -> None:
    names = [f"person{number}" for number in range(5)]
    queue(*names)
    sender: subprocess.Popen | None = None
    started = threading.Event()

    def kill(address: str) -> None:
        if address.startswith("person2@") and server.accepted.count(address) == 1:
            assert started.wait(LIMIT)
            sender.kill()
            sender.wait()

    server.before_yes = kill
    sender = start(server)
    started.set()
    assert finish(sender)[0] == -signal.SIGKILL
    code, out, err = finish(start(server))
    assert (code, out, err) == (0, "sent 3 mails\n", "")
    assert Counter(server.accepted) == Counter(addresses(*names, "person2"))


def test_loop_told_to_stop_finishes_the_mail_under_way(server: MailServer) -> None:
    queue("ada", "bob")
    told = threading.Event()
    under_way = threading.Event()

    def pause(address: str) -> None:
        under_way.set()
        assert told.wait(LIMIT)

    server.before_yes = pause
    loop = start(server, "--loop", "--interval", "3600")
    assert under_way.wait(LIMIT)
    loop.send_signal(signal.SIGTERM)
    told.set()
    assert finish(loop) == (0, "sent 1 mail\n", "")
    assert states() == [("bob", False, 0)]


def test_loop_survives_losing_the_database_while_it_sends(
    server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue("ada", "bob", "cyd")
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [the_loops] = cursor.fetchone()

    def cut_off(address: str) -> None:
        if server.accepted == addresses("ada", "bob"):
            with connection.cursor() as cursor:  # this thread's own
                cursor.execute("SELECT pg_terminate_backend(%s)", [the_loops])
            connection.close()

    server.before_yes = cut_off
    lines, complaints = run_loop("send_mails", Rounds(None), monkeypatch)
    assert len(complaints) == 1
    assert complaints[0].startswith("The database failed: ")
    assert complaints[0].endswith(" Trying again every 7.5 s.")
    assert lines == ["sent 1 mail", "sent 2 mails", "Working again."]
    assert server.accepted == addresses("ada", "bob", "bob", "cyd")  # once too often, not lost
    assert Message.objects.count() == 0
