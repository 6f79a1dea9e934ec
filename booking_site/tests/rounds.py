"""The loop of a command of housekeeping, round by round, without waiting."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection


class Rounds:
    """Stands in for the signal that ends the loop: no waiting, and it is set after `len(acts)`.

    Before each round but the first one of `acts` is done.
    """

    def __init__(self, *acts: object) -> None:
        self.acts = list(acts)
        self.ended = False
        self.waits: list[float] = []
        self.connections_open: list[bool] = []

    def is_set(self) -> bool:
        return self.ended

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.connections_open.append(connection.connection is not None)
        if not self.acts:
            self.ended = True
        elif act := self.acts.pop(0):
            act()


def run_loop(
    command: str, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], list[str]]:
    """The lines that the loop printed, and those it complained with."""

    @contextmanager
    def stop_signal(*numbers: signal.Signals) -> Iterator[Rounds]:
        yield rounds

    monkeypatch.setattr("booking_site.rounds.stop_signal", stop_signal)
    out, err = StringIO(), StringIO()
    call_command(command, "--loop", "--interval", "7.5", stdout=out, stderr=err)
    return out.getvalue().splitlines(), err.getvalue().splitlines()
