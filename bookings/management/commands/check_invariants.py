"""Recounts everything a bug could break. Reads only, locks nothing: safe beside live traffic."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from booking_site.rounds import count, describe, without_pool
from bookings import invariants


class Command(BaseCommand):
    help = (
        "Recounts what must always be true of seats and bookings, and whether the database's own "
        "guards stand. Prints each breach; exits 1 if there is one. Read-only."
    )
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        without_pool()
        try:
            with invariants.snapshot():
                breaches, counted = invariants.check()
        except Error as error:
            raise CommandError(f"Nothing could be checked. {describe(error)}") from error

        for breach in breaches:
            self.stdout.write(f"{breach.invariant.name}: {breach.invariant.fact} But:")
            for example in breach.examples:
                self.stdout.write(f"  {example}")
            if more := breach.count - len(breach.examples):
                self.stdout.write(f"  … and {more:,} more")
        number = len(invariants.INVARIANTS)
        counts = [(counted.slots, "slot"), (counted.seats, "seat"), (counted.bookings, "booking")]
        size = ", ".join(count(each, what) for each, what in counts)
        if breaches:
            raise CommandError(f"{len(breaches)} of {number} invariants are broken ({size}).")
        self.stdout.write(f"{number} invariants hold for {size}.")
