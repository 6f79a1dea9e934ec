"""Closes holds that have lapsed. Housekeeping, for cron or as a service; nobody waits for it."""

import argparse
import logging
import math
import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error, connection

from booking_site.stop_signal import StopSignal, stop_signal
from bookings import lifecycle

# What can be wrong with the database or in it. Anything else is a bug, and surfaces.
FAILURES = (Error, lifecycle.BookingError, lifecycle.BrokenInvariant)


def whole_number(text: str) -> int:
    """For argparse: 1 to 10,000."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= number <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 10000")
    return number


def seconds(text: str) -> float:
    """For argparse: more than none, a day at most."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to 86400")
    return number


class Command(BaseCommand):
    help = (
        "Closes holds that have lapsed, and finishes slots whose cancellation was interrupted. "
        "To everybody else those seats are free already, so it may run seldom, or late."
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--loop", action="store_true", help="go on until SIGTERM or Ctrl-C")
        parser.add_argument(
            "--interval",
            type=seconds,
            default=60.0,
            metavar="S",
            help="seconds between rounds of --loop (default 60)",
        )
        parser.add_argument(
            "--batch-size",
            type=whole_number,
            default=500,
            metavar="N",
            help="holds in one transaction (default 500)",
        )

    def handle(self, *, loop: bool, interval: float, batch_size: int, **options: Any) -> None:
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # what it warns of, we say
        with stop_signal(signal.SIGTERM, signal.SIGINT) as stop:
            if loop:
                self._run_for_ever(stop, interval, batch_size)
            else:
                self._run_once(stop, batch_size)

    def _run_once(self, stop: StopSignal, batch_size: int) -> None:
        try:
            self._sweep(stop, batch_size)
        except FAILURES as failure:
            raise CommandError(_describe(failure)) from failure

    def _run_for_ever(self, stop: StopSignal, interval: float, batch_size: int) -> None:
        """Sweeps every `interval` seconds; trouble is told when it begins, changes and ends."""
        trouble = None
        while not stop.is_set():
            try:
                self._sweep(stop, batch_size, quiet=True)
            except FAILURES as failure:
                if type(failure) is not trouble:
                    self.stderr.write(f"{_describe(failure)} Trying again every {interval:g} s.")
                trouble = type(failure)
            else:
                if trouble:
                    self._say("Working again.")
                trouble = None
            finally:
                connection.close()
            stop.wait(interval)

    def _sweep(self, stop: StopSignal, batch_size: int, *, quiet: bool = False) -> None:
        """Closes what is due, batch by batch, until nothing is left, another run takes over or
        `stop` is set. Says what it did, also if it fails; `quiet`: only if it did something.
        """
        holds = seats = 0
        finished = elsewhere = False
        try:
            closed = batch_size
            while closed == batch_size and not stop.is_set():
                closed, released = lifecycle.expire_due(batch_size=batch_size)
                holds, seats = holds + closed, seats + released
            finished = True
        except lifecycle.SweeperRunning:
            elsewhere = True
        finally:
            if holds or (finished and not quiet):
                self._say(f"expired {holds} holds, released {seats} seats")
        if elsewhere:
            if not quiet:
                self._say("Another run is at work; it does the rest.")
        elif not stop.is_set() and (cancelled := lifecycle.finish_cancelled_slots()):
            self._say(f"cancelled {len(cancelled)} bookings of slots that were called off")

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()  # a log file or a pipe shows it now


def _describe(failure: Exception) -> str:
    """One sentence."""
    reason = str(failure).strip().partition("\n")[0].rstrip(".")
    if isinstance(failure, Error):
        return f"The database failed: {reason}."
    return f"{reason}."
