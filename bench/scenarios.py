"""What is measured, and beside it what it cannot be faster than."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import inventory, pgbench, wrk
from bench.inventory import Inventory
from bench.site import Gunicorn
from bench.streams import Probe, streams
from booking_site.embedded_postgres.server import Server
from bookings import invariants

CLIENTS = 32
STREAMS = 2_000
PROBES = 100  # seats of the hall's end that nobody else asks for


@dataclass(frozen=True)
class Pace:
    """How long and how often; in seconds."""

    seconds: float
    warm_up: float
    repeats: int
    limit_seconds: float


QUICK = Pace(seconds=1, warm_up=0.3, repeats=3, limit_seconds=0.7)
FULL = Pace(seconds=5, warm_up=1, repeats=3, limit_seconds=3)


@dataclass(frozen=True)
class Scenario:
    """`ask` is what load.lua is told; `success` and `right` are outcomes: what was wanted, and
    refusals that are no error. `limit` measures what it is compared with, per second.
    """

    name: str
    ask: tuple[str | int, ...]
    success: str
    limit: Callable[[], float]
    limited_by: str  # “pgbench” or “empty view”
    right: frozenset[str] = frozenset()
    books: bool = False  # so its seats have to be given back
    most: int = 0  # requests of each client, so that a show is not sold out


@dataclass
class Bench:
    """All that a scenario needs."""

    server: Server
    site: Gunicorn
    empty: Gunicorn
    stock: Inventory
    folder: Path
    pace: Pace
    statuses_5xx: int = 0
    broken: list[str] = field(default_factory=list)  # invariants, and after what
    _empty_per_s: float | None = None

    # ── The scenarios ─────────────────────────────────────────────────────────────────────────────

    def scenarios(self) -> list[Scenario]:
        """All but `live_2000`, which is of another kind."""
        stock, hall = self.stock, self.stock.hall_5000
        # Each asks for so many that two in three seats are left at the end.
        share = hall.size // 3 // CLIENTS
        named = {"slot": hall.slot, "first": hall.first, "last": hall.last - PROBES}
        return [
            self._booking("hold_spread", ("hold", *stock.spread), "hold_any", stock.spread),
            self._booking("hold_hot", ("hold", stock.hot, stock.hot), "hold_any", (stock.hot,)),
            Scenario(
                "hold_named",
                ("named", *named.values()),
                "201",
                lambda: self._pgbench_named(named, share),
                "pgbench",
                frozenset({"409 seats_taken"}),
                books=True,
                most=share,
            ),
            self._booking("hold_confirm", ("confirm", *stock.spread), "confirm", stock.spread),
            Scenario(
                "refuse",
                ("hold", stock.sold_out, stock.sold_out),
                "409 sold_out",
                lambda: self._pgbench("refuse", (stock.sold_out,)),
                "pgbench",
                books=True,  # what was refused is noted
            ),
            self._reading("list_slots", "/api/v1/slots?limit=100"),
            self._reading("seats_400", f"/api/v1/slots/{stock.hall_400.slot}/seats"),
            self._reading("slot_page_400", f"/slots/{stock.hall_400.slot}/"),
            self._reading("slot_page_5000", f"/slots/{hall.slot}/"),
            self._reading("home", "/"),
        ]

    def _booking(self, name: str, ask: tuple, script: str, slots: tuple[int, ...]) -> Scenario:
        success = "200" if name == "hold_confirm" else "201"
        limit = lambda: self._pgbench(script, slots)  # noqa: E731
        return Scenario(name, ask, success, limit, "pgbench", books=True)

    def _reading(self, name: str, path: str) -> Scenario:
        return Scenario(name, ("get", path), "200", self._empty_view, "empty view")

    # ── Their limits ──────────────────────────────────────────────────────────────────────────────

    def _pgbench(self, script: str, slots: tuple[int, ...]) -> float:
        return self.pgbench(script, slots, CLIENTS)

    def pgbench(
        self, script: str, slots: tuple[int, ...], clients: int, *, pipelined: bool = False
    ) -> float:
        """Transactions a second of PostgreSQL alone, on one slot or on all between two."""
        first, last = slots[0], slots[-1]
        first_seat, last_seat = inventory.seats_of(first)
        return pgbench.run(
            self.server,
            script,
            seconds=self.pace.limit_seconds,
            clients=clients,
            pipelined=pipelined,
            first=first,
            last=last,
            first_seat=first_seat,
            places=last_seat - first_seat + 1,
        ).per_s

    def _pgbench_named(self, seats: dict[str, int], share: int) -> float:
        """Successes a second; also here some of the seats that are named are taken."""
        speed = pgbench.run(self.server, "hold_named", transactions=share, clients=CLIENTS, **seats)
        return inventory.count_bookings() / speed.seconds

    def _empty_view(self) -> float:
        """The same for all that is read in one round."""
        if self._empty_per_s is None:
            load = self._wrk(self.empty, "get", "/empty/", seconds=self.pace.limit_seconds)
            self._empty_per_s = len(load.of({"200"})) / load.seconds
        return self._empty_per_s

    def forget_empty_view(self) -> None:
        """Has it measured again: a round begins."""
        self._empty_per_s = None

    # ── Measuring ─────────────────────────────────────────────────────────────────────────────────

    def measure(self, scenario: Scenario) -> dict[str, Any]:
        """One run of the scenario, and one of its limit, each with all seats given back."""
        if scenario.books:
            inventory.give_back()
        figures = self.load(scenario)
        if scenario.books:
            self.check(scenario.name)
            inventory.give_back()
        figures["limit_per_s"] = scenario.limit()
        if scenario.name == "hold_spread":
            inventory.give_back()
            pipelined = self.pgbench("hold_any", self.stock.spread, CLIENTS, pipelined=True)
            figures["pipelined_limit_per_s"] = pipelined
        return figures

    def load(
        self, scenario: Scenario, *, clients: int = CLIENTS, settle: bool = True
    ) -> dict[str, Any]:
        """One run of the scenario, and what came of it; when the site is idle again, or at once."""
        cpu = self.site.cpu()
        load = self._wrk(
            self.site,
            *scenario.ask,
            seconds=self.pace.seconds,
            most=scenario.most,
            connections=clients,
            settle=settle,
        )
        figures = figures_of(load, scenario.success, scenario.right)
        figures["cpu_ms"] = 1000 * (self.site.cpu() - cpu) / max(len(load.all), 1)
        figures["memory_mb"] = self.site.memory()
        if scenario.name == "hold_named":
            free = [s for s in load.refused_without_a_winner() if not inventory.are_owned([s])]
            figures["free_refused"] = len(free)
        return figures

    def check(self, after: str) -> None:
        """Recounts all invariants while what the site has just booked is still there."""
        with invariants.snapshot():
            breaches, _ = invariants.check()
        self.broken += [
            f"{each.invariant.name} after {after}: {each.examples}" for each in breaches
        ]

    def fill(self) -> dict[str, Any]:
        """Sells a slot to its last place; how fast at first and at last."""
        ask = ("fill", self.stock.filling)
        inventory.give_back()
        load = self._wrk(self.site, *ask, seconds=120)
        sold = sum(answer.outcome == "201" for answer in load.all)
        tenths = load.tenths({"201"})
        self.check("fill")
        inventory.give_back()
        return {"sold": sold, "of": inventory.FILLING, "tenths": tenths}

    def live(self) -> dict[str, Any]:
        """Holds with and without 2,000 open streams, and how soon a change reaches them all."""
        stock, hall = self.stock, self.stock.hall_5000
        scenarios = {scenario.name: scenario for scenario in self.scenarios()}
        spread, named = scenarios["hold_spread"], scenarios["hold_named"]
        seats = range(hall.last - PROBES + 1, hall.last + 1)

        inventory.give_back()
        spread_alone = self.load(spread)
        named_alone = self.load(named)
        inventory.give_back()
        with streams(self.site.url, stock.hall_5000.slot, STREAMS) as opened:
            count = len(opened.open)
            probe = Probe(opened, self.site.url, seats, pause=0.2)
            probe.start()
            figures = self.load(spread, settle=False)
            named_with = self.load(named, settle=False)
            memory = self.site.memory()
            probe.stop()
            broken = opened.broken
        self.site.wait_until_idle()
        self.check("live_2000")
        inventory.give_back()
        delays = [seconds * 1000 for seconds in probe.delays]
        errors = figures["errors"] + named_with["errors"] + probe.missed + broken
        return figures | {
            "errors": errors + STREAMS - count,
            "limit_per_s": spread_alone["ok_per_s"],
            "named_ok_per_s": named_with["ok_per_s"],
            "named_alone_per_s": named_alone["ok_per_s"],
            "streams": count,
            "streams_refused": opened.refused.total(),
            "outcomes": figures["outcomes"] | {f"stream {s}": n for s, n in opened.refused.items()},
            "streams_broken": broken,
            "probes": probe.probes,
            "probes_missed": probe.missed,
            "arrival_p50_ms": wrk.percentile(delays, 50),
            "arrival_p99_ms": wrk.percentile(delays, 99),
            "memory_mb": memory,
        }

    def _wrk(
        self,
        at: Gunicorn,
        *ask: str | int,
        seconds: float,
        settle: bool = True,
        **options: Any,
    ) -> wrk.Load:
        load = wrk.run(
            at.url,
            *ask,
            notes=self.folder / "notes",
            seconds=seconds,
            warm_up=self.pace.warm_up,
            **options,
        )
        if settle:
            at.wait_until_idle()
        self.statuses_5xx += sum(n for what, n in load.outcomes.items() if what.startswith("5"))
        return load


def figures_of(load: wrk.Load, success: str, right: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A run in figures. Latencies are those of successes; an error is whatever was not right."""
    seconds = load.seconds or 1.0
    ok = [answer.ms for answer in load.of({success})]
    outcomes = load.outcomes
    return {
        "requests_per_s": len(load.answers) / seconds,
        "ok_per_s": len(ok) / seconds,
        "p50_ms": wrk.percentile(ok, 50),
        "p99_ms": wrk.percentile(ok, 99),
        "errors": sum(n for what, n in outcomes.items() if what != success and what not in right),
        "outcomes": dict(outcomes),
    }


def workers() -> int:
    """How many gunicorn starts here."""
    return int(os.environ.get("WEB_CONCURRENCY") or os.cpu_count() or 1)
