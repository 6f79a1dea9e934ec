"""Sending what django-mailer has queued: each mail in a transaction of its own, its row locked.

Several senders share the work and never send one mail twice. Only a sender that is killed, or loses
the database, between the mail server's “accepted” and its own COMMIT leaves that one mail in line,
and it is sent again.

A mail that cannot be sent is deferred and tried again after 1, 2, 4, … minutes, for three days;
then it is given up: it stays in the queue until `send_mails --retry`. It never stops the others,
and new mails go first. With the mail server away the round ends, and no mail has lost a try.
"""

import smtplib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import Error
from django.db.models import Count, DateTimeField, ExpressionWrapper, F, Q, Value
from django.db.models.functions import Now, Power
from django.db.models.signals import post_save
from mailer import engine
from mailer.models import (
    PRIORITY_DEFERRED,
    PRIORITY_LOW,
    RESULT_FAILURE,
    Message,
    MessageLog,
)

from booking_site.stop_signal import StopSignal

LOG_KEPT = timedelta(days=30)
FIRST_WAIT = timedelta(minutes=1)
HAS_TRIES_LEFT = Q(retry_count__lt=settings.MAILER_EMAIL_MAX_RETRIES)

# Of what smtplib raises, what is not about the one mail. It says SMTPException itself when the
# server offers no way to log in.
SERVER_ERRORS = (
    smtplib.SMTPServerDisconnected,
    smtplib.SMTPConnectError,
    smtplib.SMTPHeloError,
    smtplib.SMTPAuthenticationError,
    smtplib.SMTPNotSupportedError,
)


class MailServerAway(Exception):
    """No mail can be sent, whichever it is."""

    pause = 60  # seconds: who knocks all the time with a wrong password is locked out

    def __init__(self, reason: str, mail: int) -> None:
        super().__init__(reason)
        self.mail = mail


class _DatabaseFailed(Exception):
    """Its cause is a database error. The engine takes an OperationalError for a locked row."""


def send_waiting(stop: StopSignal, attempts: list[MessageLog]) -> None:
    """Sends the mails in line until told to stop, and tells in `attempts` what became of each.

    Raises MailServerAway and database errors.
    """

    def note(instance: MessageLog, **_: Any) -> None:
        attempts.append(instance)

    post_save.connect(note, sender=MessageLog)
    try:
        engine.send_all(_Line(stop))
    except _DatabaseFailed as failed:
        raise failed.__cause__ from None
    except MailServerAway as away:
        if isinstance(away.__cause__, smtplib.SMTPServerDisconnected):
            # Should it hang up because of this mail, the others go first next time.
            Message.objects.filter(pk=away.mail).update(priority=PRIORITY_LOW, when_added=Now())
        raise
    finally:
        post_save.disconnect(note, sender=MessageLog)


class _Line:
    """The queue as the engine asks for it: the ids, of mails that it locks and reads one by one.

    Its own reads them all, with what they say, before it sends the first, and does not stop.
    """

    def __init__(self, stop: StopSignal) -> None:
        self.stop = stop

    def order_by(self, *fields: str) -> Iterator[Message]:
        waiting = Message.objects.non_deferred().order_by(*fields)
        for pk in list(waiting.values_list("pk", flat=True)):
            if self.stop.is_set():
                return
            yield Message(pk=pk)


def handle_failure(connection: Any, message: Message, error: Exception) -> tuple[None, str]:
    """Defers a mail that could not be sent, whatever is wrong with it. The engine's error handler.

    Raises MailServerAway if the mail is not at fault, and _DatabaseFailed.
    """
    if isinstance(error, Error):
        raise _DatabaseFailed from error
    if is_of_server(error):
        raise MailServerAway(f"Mails cannot be sent: {describe(error)}", message.pk) from error
    tries_left = message.retry_count < settings.MAILER_EMAIL_MAX_RETRIES
    # From now on the time of the last try counts.
    Message.objects.filter(pk=message.pk).update(priority=PRIORITY_DEFERRED, when_added=Now())
    MessageLog.objects.create(
        when_added=message.when_added,
        priority=message.priority,
        result=RESULT_FAILURE,
        log_message=f"mail {message.pk}, try {message.retry_count + 1}: {describe(error)}"
        + ("" if tries_left else "; given up"),
    )
    return None, "deferred"


def is_of_server(error: Exception) -> bool:
    """Whether no other mail could be sent either."""
    if isinstance(error, smtplib.SMTPException):
        return isinstance(error, SERVER_ERRORS) or type(error) is smtplib.SMTPException
    return isinstance(error, OSError | ImproperlyConfigured)


def describe(error: Exception) -> str:
    """Why, without what the mail server said of it: that may name people."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = sorted({code for code, _ in error.recipients.values()})
        return f"address refused ({', '.join(map(str, codes))})"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{type(error).__name__} {error.smtp_code}"
    if isinstance(error, OSError | ImproperlyConfigured):
        return getattr(error, "strerror", None) or str(error)
    cause = f" ({type(error.__cause__).__name__})" if error.__cause__ else ""
    return type(error).__name__ + cause


def retry_due() -> int:
    """Puts deferred mails back in line, behind new ones, whose time for another try has come.

    Returns how many.
    """
    wait = Value(FIRST_WAIT) * Power(2, F("retry_count"))
    due = ExpressionWrapper(Now() - wait, output_field=DateTimeField())
    return (
        Message.objects.deferred()
        .filter(HAS_TRIES_LEFT, when_added__lte=due)
        .update(priority=PRIORITY_LOW, retry_count=F("retry_count") + 1)
    )


def retry_all() -> int:
    """Puts all deferred mails back in line, also those given up, as if never tried."""
    return Message.objects.deferred().update(priority=PRIORITY_LOW, retry_count=0)


def count_deferred() -> tuple[int, int]:
    """How many mails wait for another try, and how many are given up."""
    deferred = Message.objects.deferred()
    waiting = Count("pk", filter=HAS_TRIES_LEFT)
    return tuple(deferred.aggregate(waiting=waiting, given_up=Count("pk") - waiting).values())


def purge_log() -> None:
    """Deletes old entries, which hold times and message ids."""
    MessageLog.objects.filter(when_added__lt=Now() - LOG_KEPT).delete()
