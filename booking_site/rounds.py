"""Commands of housekeeping: once, for cron, or in rounds until they are told to stop."""

import argparse
import math
import signal
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error, connection
from psycopg.errors import UndefinedTable

from booking_site.stop_signal import StopSignal, stop_signal


def seconds(text: str) -> float:
    """For argparse: more than none, a day at most."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to 86400")
    return number


class RoundsCommand(BaseCommand):
    """A command whose `do_round` is run once, or with --loop every --interval seconds."""

    requires_system_checks = []
    interval = 60.0  # seconds
    # What can be wrong with the world. Anything else is a bug, and surfaces.
    failures: tuple[type[Exception], ...] = (Error,)

    def do_round(self, stop: StopSignal, *, quiet: bool, **options: Any) -> None:
        """Does what there is to do, leaving the rest when `stop` is set, and says what it did;
        `quiet`: only if it did something. Raises one of `failures`.
        """
        raise NotImplementedError

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--loop", action="store_true", help="go on until SIGTERM or Ctrl-C")
        parser.add_argument(
            "--interval",
            type=seconds,
            default=self.interval,
            metavar="S",
            help=f"seconds between rounds of --loop (default {self.interval:g})",
        )

    def handle(self, *, loop: bool, interval: float, **options: Any) -> None:
        without_pool()
        with stop_signal(signal.SIGTERM, signal.SIGINT) as stop:
            if loop:
                self._run_for_ever(stop, interval, **options)
            else:
                self._run_once(stop, **options)

    def _run_once(self, stop: StopSignal, **options: Any) -> None:
        try:
            self.do_round(stop, quiet=False, **options)
        except self.failures as failure:
            raise CommandError(describe(failure)) from failure

    def _run_for_ever(self, stop: StopSignal, interval: float, **options: Any) -> None:
        """A round every `interval` seconds; trouble is told when it begins, changes and ends."""
        trouble = None
        while not stop.is_set():
            pause = interval
            try:
                self.do_round(stop, quiet=True, **options)
            except self.failures as failure:
                pause = max(interval, getattr(failure, "pause", 0))
                if type(failure) is not trouble:
                    self.stderr.write(f"{describe(failure)} Trying again every {pause:g} s.")
                trouble = type(failure)
            else:
                if trouble:
                    self.say("Working again.")
                trouble = None
            finally:
                connection.close()
            stop.wait(pause)

    def say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()  # a log file or a pipe shows it now


def without_pool() -> None:
    """Connects without a pool from now on: a command needs one connection, and a pool would hide
    why it cannot be had.
    """
    connection.settings_dict["OPTIONS"].pop("pool", None)


def describe(failure: Exception) -> str:
    """One sentence."""
    reason = str(failure).strip().partition("\n")[0].rstrip(".")
    if isinstance(failure.__cause__, UndefinedTable):
        return f"The database lacks a table ({reason}): run manage.py migrate."
    if isinstance(failure, Error):
        return f"The database failed: {reason}."
    return f"{reason}."


def count(number: int, what: str) -> str:
    """“1 mail”, “2 mails”."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
