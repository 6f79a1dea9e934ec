"""A crowd at one slot, over real HTTP, and whether everybody got what was right."""

import argparse
import math
import resource
import secrets
import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from random import Random
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from booking_site.crowd import Answer, ask, crowd
from booking_site.rounds import count, without_pool
from bookings import invariants
from bookings.models import Booking
from slots.models import Seat

MOST_CLIENTS = 5000
AT_ONCE = 200  # requests of what comes before and after the stampede
BAR = 30  # characters
OPEN_FILES = 64  # besides the connections


def whole_number(most: int) -> Any:
    """For argparse: 1 to `most`."""

    def read(text: str) -> int:
        number = int(text) if text.isascii() and text.isdigit() else 0
        if not 1 <= number <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {most}")
        return number

    return read


def site_url(text: str) -> str:
    """For argparse: the address of a site, without what may follow its host."""
    try:
        parts = urlsplit(text)
        is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one or parts.path.strip("/") or parts.query:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address like {settings.SITE_URL}")
    return f"{parts.scheme}://{parts.netloc}"


def seat_labels(text: str) -> list[str]:
    """For argparse: A1,A2."""
    labels = [label.strip() for label in text.split(",")]
    if not all(labels) or len(set(labels)) != len(labels):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of different seats like A1,A2")
    return labels


class Client(NamedTuple):
    """One of the crowd: what it sent, and what it was told."""

    key: str
    wish: dict[str, Any]
    answer: Answer

    @property
    def has_won(self) -> bool:
        return self.answer.status in (200, 201)

    @property
    def is_refused(self) -> bool:
        return 400 <= self.answer.status < 500


class Command(BaseCommand):
    help = (
        "Sends a crowd to one slot, all at the same moment, over HTTP and without accounts. Tells "
        "who won, who was refused and how long it took, and checks that no seat was sold twice and "
        "no free one refused. Fails if one was, or if anything broke. What it held it cancels."
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--slot", type=whole_number(2**63 - 1), required=True, metavar="ID", help="its number"
        )
        parser.add_argument(
            "--url",
            type=site_url,
            default=settings.SITE_URL,
            help="the site's address (default %(default)s)",
        )
        parser.add_argument(
            "--clients",
            type=whole_number(MOST_CLIENTS),
            default=200,
            metavar="N",
            help="how many come (default 200)",
        )
        most = settings.MAX_SEATS_PER_BOOKING
        wish = parser.add_mutually_exclusive_group()
        wish.add_argument(
            "--quantity",
            type=whole_number(most),
            default=1,
            metavar="N",
            help="each wants any N seats (default: any one)",
        )
        wish.add_argument(
            "--seats",
            type=seat_labels,
            metavar="A1,A2",
            help="all want these",
        )
        wish.add_argument(
            "--random",
            type=whole_number(most),
            metavar="N",
            help="each names N of the free seats, by chance",
        )
        parser.add_argument(
            "--confirm",
            action="store_true",
            help="who holds seats confirms them, too; mails to addresses at stampede.invalid are "
            "queued",
        )
        parser.add_argument(
            "--yes", action="store_true", help="even if somebody has booked there already"
        )

    def handle(self, *, url: str, slot: int, clients: int, **options: Any) -> None:
        without_pool()
        self.url, self.slot = url, slot
        _allow_files(clients + OPEN_FILES)
        before = self._read_seats()
        if (taken := sum(state != "AVAILABLE" for _, state in before.values())) and not options[
            "yes"
        ]:
            raise CommandError(
                f"In slot {slot} {count(taken, 'seat')} of {len(before):,} {_is(taken)} held or "
                "booked. A stampede takes what is left from people who come meanwhile: choose "
                "another slot, or say --yes."
            )
        run = f"stampede-{secrets.token_urlsafe(12)}"
        wishes, wanted = self._wishes(before, clients, options)
        requests = [
            self._post("bookings", {"slot": slot} | wish, Idempotency_Key=f"{run}-{n}")
            for n, wish in enumerate(wishes)
        ]
        free = len(before) - taken
        self.stdout.write(
            f"{count(clients, 'client')} at {url}, all at once: each wants {wanted} of slot "
            f"{slot}, where {free:,} of {len(before):,} {_is(free)} free."
        )
        crowd_of: list[Client] = []
        faults: list[str] = []
        try:
            answers = self._send(requests, "answered", at_once=clients)
            crowd_of = [
                Client(f"{run}-{n}", *each)
                for n, each in enumerate(zip(wishes, answers, strict=True))
            ]
            self._tell(crowd_of)
            faults = self._check(crowd_of, before)
            if options["confirm"]:
                faults += self._confirm(crowd_of)
            faults += self._check_database(crowd_of, run)
        finally:
            faults += self._release(run, crowd_of, clients, before)
        if faults:
            raise CommandError(" ".join(faults))
        self.stdout.write("No seat was sold twice, no free one was refused, and nothing broke.")

    # ── What is asked of the site ─────────────────────────────────────────────────────────────────

    def _post(self, path: str, body: Any = None, **headers: str) -> bytes:
        return ask("POST", f"/api/v1/{path}", body, Host=urlsplit(self.url).netloc, **headers)

    def _get(self, path: str) -> bytes:
        return ask("GET", f"/api/v1/{path}", Host=urlsplit(self.url).netloc)

    def _send(
        self, requests: Sequence[bytes], done: str = "", *, at_once: int = AT_ONCE
    ) -> list[Answer]:
        """The answers. If it says what is `done`, with a bar on a terminal, else with a line."""
        answers: list[Answer] = []
        heard = 0

        def tell(answer: Answer) -> None:
            nonlocal heard
            heard += 1
            if done and self.stdout.isatty():
                bar = "█" * (BAR * heard // len(requests))
                end = "\n" if heard == len(requests) else ""
                told = f"{heard:,} of {len(requests):,} {done}"
                self.stdout.write(f"\r{bar:░<{BAR}} {told}", ending=end)
                self.stdout.flush()

        for start in range(0, len(requests), at_once):
            try:
                answers += crowd(self.url, requests[start : start + at_once], tell)
            except OSError as error:
                raise CommandError(f"{self.url} cannot be reached: {error}.") from error
        if done and requests and not self.stdout.isatty():
            self.stdout.write(f"{heard:,} of {len(requests):,} {done}.")
        return answers

    def _read_seats(self) -> dict[int, tuple[str, str]]:
        """Label and state of each seat of the slot, by id, as everybody sees them."""
        [answer] = self._send([self._get(f"slots/{self.slot}/seats")])
        if answer.status == 404:
            raise CommandError(f"There is no slot {self.slot} at {self.url}.")
        try:
            if answer.status != 200:
                raise ValueError
            return {seat["id"]: (seat["label"], seat["state"]) for seat in answer.body}
        except (ValueError, KeyError, TypeError):
            raise CommandError(
                f"{self.url} does not answer as Holdfast does (status {answer.status})."
            ) from None

    def _wishes(
        self, seats: dict[int, tuple[str, str]], clients: int, options: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], str]:
        """What each client wants, and that in words."""
        if labels := options["seats"]:
            ids = {label: pk for pk, (label, _) in seats.items()}
            if missing := [label for label in labels if label not in ids]:
                raise CommandError(f"Slot {self.slot} has no seat {missing[0]}.")
            return [{"seat_ids": [ids[label] for label in labels]}] * clients, ", ".join(labels)
        if number := options["random"]:
            free = [pk for pk, (_, state) in seats.items() if state == "AVAILABLE"]
            if len(free) < number:
                raise CommandError(f"Slot {self.slot} has only {count(len(free), 'free seat')}.")
            chance = Random()
            wishes = [{"seat_ids": chance.sample(free, number)} for _ in range(clients)]
            return wishes, f"{number} by chance"
        return [{"quantity": options["quantity"]}] * clients, f"any {options['quantity']}"

    # ── What came of it ───────────────────────────────────────────────────────────────────────────

    def _tell(self, crowd_of: list[Client]) -> None:
        won = [client for client in crowd_of if client.has_won]
        seats = sum(client.answer.body["quantity"] for client in won)
        self.stdout.write(f"{len(won):,} won, {count(seats, 'seat')}")
        refusals = Counter(_code(client.answer) for client in crowd_of if client.is_refused)
        for code, number in refusals.most_common():
            self.stdout.write(f"{number:,} refused: {code}")
        self.stdout.write(f"{len(_broken(crowd_of)):,} errors")
        times = sorted(client.answer.seconds * 1000 for client in crowd_of)
        shares = {"half": 0.5, "95 %": 0.95, "99 %": 0.99}
        within = ", ".join(
            f"{name} within {times[math.ceil(len(times) * share) - 1]:,.0f} ms"
            for name, share in shares.items()
        )
        self.stdout.write(
            f"Answered: {within}, all within {times[-1]:,.0f} ms "
            f"({statistics.fmean(times):,.0f} ms on average)"
        )

    def _check(self, crowd_of: list[Client], before: dict[int, tuple[str, str]]) -> list[str]:
        """What the answers and the site's own seats say against it."""
        faults = []
        if broken := _broken(crowd_of):
            what = ", ".join(sorted({str(client.answer.status or "cut off") for client in broken}))
            faults.append(f"{count(len(broken), 'request')} broke ({what}).")
        after = self._read_seats()
        sold = Counter(sorted(chain.from_iterable(map(_seats, crowd_of))))
        if twice := [after[pk][0] for pk, times in sold.items() if times > 1]:
            faults.append(f"Sold twice: {', '.join(twice)}.")
        # What others held may have lapsed, or been given back, before the crowd asked or after.
        held = {pk for pk, (_, state) in before.items() if state == "RESERVED"}
        ended = held.intersection(sold) | {pk for pk in held if after[pk][1] == "AVAILABLE"}
        if back := [label for pk, (label, _) in after.items() if pk in ended]:
            self.stdout.write(f"Others held at first, but not to the end: {', '.join(back)}.")
        not_free = [pk for pk in sold if before[pk][1] != "AVAILABLE" and pk not in held]
        if not_free:
            labels = ", ".join(before[pk][0] for pk in not_free)
            faults.append(f"Sold, though it was not free: {labels}.")
        if lost := [after[pk][0] for pk in sold if after[pk][1] == "AVAILABLE"]:
            faults.append(f"Held by somebody, and still offered: {', '.join(lost)}.")
        # The crowd has given nothing back yet: what is free now and was then was so all the time.
        free = {
            label
            for pk, (label, state) in after.items()
            if state == "AVAILABLE" and before.get(pk) == (label, state)
        }
        for client in crowd_of:
            code = _code(client.answer)
            if code == "sold_out" and len(free) >= client.wish.get("quantity", math.inf):
                faults.append(f"{len(free):,} are free, and somebody was told “sold out”.")
                break
            if code == "seats_taken" and free.intersection(client.answer.body["seats"]):
                faults.append("Somebody was refused a seat that is free.")
                break
        if limited := sum(_code(client.answer) == "too_many" for client in crowd_of):
            self.stdout.write(
                f"{limited:,} met the limit HOLDS_PER_ADDRESS: all of this crowd have one address."
            )
        answers, seats = count(len(crowd_of), "answer"), count(len(after), "seat")
        self.stdout.write(f"Compared: {answers} with each other and with the site's {seats}.")
        return faults

    def _confirm(self, crowd_of: list[Client]) -> list[str]:
        won = [client for client in crowd_of if client.has_won]
        answers = self._send(
            [
                self._post(
                    f"bookings/{client.answer.body['id']}/confirm",
                    {"name": "Stampede", "email": f"{client.key.lower()}@stampede.invalid"},
                )
                for client in won
            ],
            "confirmed",
            at_once=max(1, len(won)),
        )
        is_confirmed = [a.status == 200 and a.body["status"] == "CONFIRMED" for a in answers]
        if all(is_confirmed):
            return []
        told = Counter(_code(answer) or answer.status for answer in answers)
        return [f"{is_confirmed.count(False)} could not confirm what they held ({told})."]

    def _check_database(self, crowd_of: list[Client], run: str) -> list[str]:
        """What the database says against it, if it is the site's."""
        won = {client.answer.body["id"]: client for client in crowd_of if client.has_won}
        try:
            made = Booking.objects.filter(idempotency_key__startswith=run)
            own = {str(booking.pk): booking.quantity for booking in made}
            if not own.keys() & won.keys():
                self.stdout.write("The database of this command is not the site's: not looked at.")
                return []
            owners = Counter(
                str(pk)
                for pk in Seat.objects.filter(booking__in=own).values_list("booking", flat=True)
            )
            with invariants.snapshot():
                breaches, _ = invariants.check()
        except Error:
            self.stdout.write("The database of this command is away: not looked at.")
            return []
        faults = [f"Broken: {breach.invariant.fact}" for breach in breaches]
        if missing := won.keys() - own.keys():
            lost = count(len(missing), "booking")
            faults.append(f"{lost} that somebody was given {_is(len(missing))} not there.")
        if owners != own:
            faults.append("Some own other numbers of seats than they booked.")
        self.stdout.write(
            f"Compared with the database: {count(len(own), 'booking')} own "
            f"{count(owners.total(), 'seat')}, and {len(invariants.INVARIANTS)} invariants were "
            "counted."
        )
        return faults

    # ── And back ──────────────────────────────────────────────────────────────────────────────────

    def _release(
        self, run: str, crowd_of: list[Client], clients: int, before: dict[int, tuple[str, str]]
    ) -> list[str]:
        """Cancels what this crowd holds, that of which no answer came as well."""
        ids = [client.answer.body["id"] for client in crowd_of if client.has_won]
        unknown = [client.key for client in _broken(crowd_of)]
        if not crowd_of:  # stopped in the middle
            unknown = [f"{run}-{n}" for n in range(clients)]
        found = self._send([self._get(f"bookings/by-key/{key}") for key in unknown])
        ids += [answer.body["id"] for answer in found if answer.status == 200]
        left = ids
        for _ in range(3):
            answers = self._send([self._post(f"bookings/{pk}/cancel") for pk in left])
            told = zip(left, answers, strict=True)
            left = [pk for pk, a in told if a.status != 200 and _code(a) != "hold_expired"]
        if left:
            return [f"{count(len(left), 'booking')} could not be cancelled: {', '.join(left)}."]
        self.stdout.write(f"Given back: {count(len(ids), 'booking')}.")
        after = self._read_seats()
        if kept := [after[pk][0] for pk in after if after[pk][1] != before[pk][1]]:
            self.stdout.write(f"Others hold or gave back meanwhile: {', '.join(kept)}.")
        return []


def _seats(client: Client) -> list[int]:
    return [seat["id"] for seat in client.answer.body["seats"]] if client.has_won else []


def _broken(crowd_of: list[Client]) -> list[Client]:
    """Those who were neither served nor refused."""
    return [client for client in crowd_of if not client.has_won and not client.is_refused]


def _code(answer: Answer) -> str:
    """Of a refusal; of what is no answer of the API its status."""
    try:
        return answer.code
    except (ValueError, KeyError, TypeError):
        return str(answer.status)


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _allow_files(needed: int) -> None:
    """A connection is an open file. Raises CommandError if so many are not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise CommandError(
            f"Only {hard:,} open files are allowed here: come with at most "
            f"{max(1, hard - OPEN_FILES):,} --clients, or raise the limit (ulimit -n)."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
