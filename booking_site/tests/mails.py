"""What was queued to be mailed, and a mail server to send it to."""

import re
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from mailer.models import Message


@pytest.fixture(autouse=True, scope="session")
def mails_are_queued(django_test_environment: None) -> Iterator[None]:
    """Django's test runner has put its own outbox in the place of the queue; this takes it back.

    Each application's conftest imports it.
    """
    outbox = settings.EMAIL_BACKEND
    settings.EMAIL_BACKEND = "mailer.backend.DbBackend"
    yield
    settings.EMAIL_BACKEND = outbox


def queued_mails() -> list[EmailMultiAlternatives]:
    """All mails in the queue, the first one first."""
    return [message.email for message in Message.objects.order_by("pk")]


def queued_for(address: str) -> list[EmailMultiAlternatives]:
    """Those to that address, the latest first."""
    return [message for message in reversed(queued_mails()) if message.to == [address]]


def code_in(text: str) -> str:
    """The one code in the text of a mail."""
    [code] = re.findall(r"^ +(\d{4}-\d{4})$", text, re.MULTILINE)
    return code


class MailServer(socketserver.ThreadingTCPServer):
    """As much of an SMTP server as Django talks to."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Session)
        self.port: int = self.server_address[1]
        self.accepted: list[str] = []  # addresses, one for each mail that it said yes to
        self.refused: dict[str, str] = {}  # addresses, and the answer; empty: it hangs up
        self.before_yes: Callable[[str], object] = lambda address: None  # the mail is ours by then

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"


class _Session(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        address = ""
        self.say("220 ready")
        while line := self.rfile.readline():
            match line.split()[0].upper():
                case b"RCPT":
                    address = line.decode().partition("<")[2].partition(">")[0]
                    answer = self.server.refused.get(address, "250 known")
                    if not answer:
                        return
                    self.say(answer)
                case b"DATA":
                    self.say("354 go on")
                    while self.rfile.readline() not in (b".\r\n", b""):
                        pass
                    self.server.accepted.append(address)
                    self.server.before_yes(address)
                    self.say("250 accepted")
                case b"QUIT":
                    self.say("221 bye")
                    return
                case _:
                    self.say("250 fine")

    def say(self, answer: str) -> None:
        self.wfile.write(answer.encode() + b"\r\n")


@contextmanager
def mail_server(port: int = 0) -> Iterator[MailServer]:
    with MailServer(port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
