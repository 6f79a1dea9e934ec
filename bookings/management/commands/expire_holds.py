"""Closes holds that have lapsed. Housekeeping, for cron or as a service; nobody waits for it."""

import argparse
from typing import Any

from django.core.management.base import CommandParser
from django.db import Error

from booking_site.rounds import RoundsCommand, count
from booking_site.stop_signal import StopSignal
from bookings import lifecycle


def whole_number(text: str) -> int:
    """For argparse: 1 to 10,000."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= number <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 10000")
    return number


class Command(RoundsCommand):
    help = (
        "Closes holds that have lapsed, and finishes slots whose cancellation was interrupted. "
        "To everybody else those seats are free already, so it may run seldom, or late."
    )
    failures = (Error, lifecycle.BookingError, lifecycle.BrokenInvariant)

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--batch-size",
            type=whole_number,
            default=500,
            metavar="N",
            help="holds in one transaction (default 500)",
        )

    def do_round(self, stop: StopSignal, *, quiet: bool, batch_size: int, **options: Any) -> None:
        """Closes what is due, batch by batch, until nothing is left, another run takes over or
        `stop` is set. Says what it did, also if it fails.
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
                self.say(f"expired {holds} holds, released {seats} seats")
        if elsewhere:
            if not quiet:
                self.say("Another run is at work; it does the rest.")
        elif not stop.is_set() and (cancelled := lifecycle.finish_cancelled_slots()):
            self.say(f"cancelled {count(len(cancelled), 'booking')} of slots that were called off")
