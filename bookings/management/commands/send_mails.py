"""Sends the mails that were queued. For cron or as a service; several at once share the work."""

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import Error
from mailer.models import RESULT_FAILURE, MessageLog

from booking_site import mail_queue
from booking_site.rounds import RoundsCommand, count
from booking_site.stop_signal import StopSignal


class Command(RoundsCommand):
    help = (
        "Sends the mails that wait in the database, and tries those again that could not be sent: "
        "after 1, 2, 4, … minutes, for three days. Fails if one could not be sent."
    )
    interval = 10.0
    failures = (Error, mail_queue.MailServerAway)

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--retry",
            action="store_true",
            help="first put all mails that could not be sent back in line, also those given up",
        )

    def handle(self, *, loop: bool, retry: bool, **options: Any) -> None:
        if loop and retry:
            raise CommandError("--retry is for a single run, beside the loop or without it.")
        super().handle(loop=loop, retry=retry, **options)

    def do_round(self, stop: StopSignal, *, quiet: bool, retry: bool, **options: Any) -> None:
        """Sends what is in line, one by one. Says what it did, also if it fails."""
        attempts: list[MessageLog] = []
        if retry:
            mail_queue.retry_all()
        mail_queue.retry_due()
        try:
            mail_queue.send_waiting(stop, attempts)
        finally:
            failures = [each for each in attempts if each.result == RESULT_FAILURE]
            sent = len(attempts) - len(failures)
            if sent or not quiet:
                self.say(f"sent {count(sent, 'mail')}")
            for failure in failures:
                self.stderr.write(failure.log_message)
        mail_queue.purge_log()
        waiting, given_up = (0, 0) if quiet and not failures else mail_queue.count_deferred()
        if not (waiting or given_up):
            return
        state = (
            f"{count(waiting, 'mail')} {'waits' if waiting == 1 else 'wait'} for another try, "
            f"{given_up} {'is' if given_up == 1 else 'are'} given up"
        )
        if failures and not quiet:
            raise CommandError(f"{count(len(failures), 'mail')} could not be sent; {state}.")
        self.say(state)
