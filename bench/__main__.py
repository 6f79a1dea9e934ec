"""`make bench`: measures the site beside its limits, and says which goals are met.

`make bench QUICK=1` takes less than three minutes; `make bench ONLY="home refuse"` measures those
scenarios alone. Exits 1 if something answered 5xx or an invariant is broken; a goal that is missed
is printed, no more.
"""

import argparse
import logging
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import chart, results, site, wrk

NAMES = [
    *("hold_spread", "hold_hot", "hold_named", "hold_confirm", "refuse", "list_slots", "seats_400"),
    *("slot_page_400", "slot_page_5000", "home", "live_2000"),
]
CLIENTS = [1, 2, 4, 8, 16, 32, 64, 128, 256]
WITH_HISTORY = ["hold_spread", "list_slots", "home"]
FIGURE = Path(__file__).with_name("clients.svg")
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PRECIOUS = ("fsync", "full_page_writes", "synchronous_commit")


def main() -> None:
    arguments = _parse(sys.argv[1:])
    if not wrk.find() and not wrk.install():
        sys.exit(f"holdfast: {wrk.MISSING}")
    for number in STOPPING:
        signal.signal(number, _stop)
    console = Console(width=None if sys.stdout.isatty() else 120)
    started = time.monotonic()
    try:
        is_well = _measure(console, arguments)
    except KeyboardInterrupt:
        sys.exit("\nholdfast: stopped; nothing was written, and nothing is left.")
    console.print(f"\n{time.monotonic() - started:.0f} seconds.", highlight=False)
    sys.exit(0 if is_well else 1)


def _stop(*_: Any) -> None:
    """Stops the run, once: a second Ctrl-C must not stop the cleaning up."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parse(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less than three minutes")
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, metavar="SCENARIO", help="of " + ", ".join(NAMES)
    )
    return parser.parse_args(given)


def _measure(console: Console, arguments: argparse.Namespace) -> bool:
    """The whole run, from an empty folder to the file of results; whether all went well."""
    with ExitStack() as stack:
        console.print("holdfast: starting PostgreSQL, loading what there is to book …")
        folder = stack.enter_context(site.new_folder())
        server = stack.enter_context(site.postgres(folder))
        site.set_environment(folder, server)
        stock = _prepare(stack, folder)

        from bench.scenarios import FULL, QUICK, Bench, workers

        bench = Bench(
            server=server,
            site=stack.enter_context(site.gunicorn(folder, "site")),
            empty=stack.enter_context(
                site.gunicorn(folder, "empty", DJANGO_SETTINGS_MODULE="bench.empty_settings")
            ),
            stock=stock,
            folder=folder,
            pace=QUICK if arguments.quick else FULL,
        )
        found = results.machine(_server_version(), workers())
        found["durability"] = _durability()
        is_full = not (arguments.quick or arguments.only)
        run = _Run(console, bench, arguments.only or NAMES, is_full=is_full)
        scenarios, more = run.all()
        found |= {"quick": arguments.quick, "scenarios": scenarios, "more": more}
        found["invariants"] = bench.broken or "all hold"
        goals = results.goals(scenarios, more)
        found["goals"] = [goal._asdict() for goal in goals]

        console.print(results.table(scenarios))
        results.print_goals(console, goals)
        if points := more.get("clients"):
            FIGURE.write_text(chart.draw(points))
        path = results.write(found)
        console.print(f"\nWritten to {path.relative_to(site.BASE_DIR)}.", highlight=False)
        return _say_what_is_wrong(console, bench.statuses_5xx, bench.broken)


class _Run:
    """One run of the benchmark, step by step, with a bar that shows how far it is."""

    def __init__(self, console: Console, bench: Any, names: list[str], *, is_full: bool) -> None:
        self.console, self.bench, self.names, self.is_full = console, bench, names, is_full

    def all(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The scenarios by name, and what only full runs measure."""
        steps = self.bench.pace.repeats * len(self.names) + 1
        if self.is_full:
            steps += 2 * len(CLIENTS) + 2 + self.bench.pace.repeats * 2 * len(WITH_HISTORY)
        columns = (
            TextColumn("{task.description:28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as self.progress:
            self.task = self.progress.add_task("", total=steps)
            scenarios = self._rounds(self.names)
            more = self._more() if self.is_full else {}
            self._step("invariants", self.bench.check, "everything")
        return scenarios, more

    def _rounds(self, names: list[str], when: str = "") -> dict[str, Any]:
        """The scenarios in turn, and again: a machine that becomes slower does so for all alike."""
        scenarios = {scenario.name: scenario for scenario in self.bench.scenarios()}
        runs: dict[str, list] = {name: [] for name in names}
        for n in range(self.bench.pace.repeats):
            self.bench.forget_empty_view()
            for name in names:
                title = f"{name} {n + 1}{when}"
                if name in scenarios:
                    run = self._step(title, self.bench.measure, scenarios[name])
                else:
                    run = self._step(title, self.bench.live)
                runs[name].append(run)
        return {name: results.combine(found) for name, found in runs.items()}

    def _more(self) -> dict[str, Any]:
        """Throughput by clients, of a show that fills, and with a long history."""
        from bench import inventory

        [spread] = [one for one in self.bench.scenarios() if one.name == "hold_spread"]
        # There and back: a machine that becomes slower steadily does so for all numbers alike.
        found: dict[int, list] = {n: [] for n in CLIENTS}
        for n in [*CLIENTS, *reversed(CLIENTS)]:
            found[n].append(self._step(f"{n} clients", self._with_clients, spread, n))
        points = [results.combine(runs) | {"clients": n} for n, runs in found.items()]
        fill = self._step("a show that fills", self.bench.fill)
        before = self._rounds(WITH_HISTORY, " again")
        self._step("1,000,000 old bookings", inventory.add_history)
        history = self._rounds(WITH_HISTORY, " with history")
        for name, figures in history.items():
            figures["before"] = before[name]
        return {"clients": points, "fill": fill, "history": history}

    def _with_clients(self, scenario: Any, clients: int) -> dict[str, Any]:
        from bench import inventory

        inventory.give_back()
        figures = self.bench.load(scenario, clients=clients)
        self.bench.check(f"{clients} clients")
        inventory.give_back()
        limit = self.bench.pgbench("hold_any", self.bench.stock.spread, clients)
        return figures | {"limit_per_s": limit}

    def _step(self, title: str, work: Callable, *arguments: Any) -> Any:
        self.progress.update(self.task, description=title)
        result = work(*arguments)
        self.progress.advance(self.task)
        return result


def _prepare(stack: ExitStack, folder: Path) -> Any:
    """Tables, static files and what there is to book."""
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection

    from bench import inventory
    from booking_site.rounds import without_pool

    logging.getLogger("holdfast").setLevel(logging.WARNING)  # of this process, not of the site's
    without_pool()
    stack.callback(connection.close)
    call_command("migrate", verbosity=0, interactive=False)
    call_command("collectstatic", verbosity=0, interactive=False)
    return inventory.load()


def _server_version() -> str:
    from django.db import connection

    return connection.connection.info.parameter_status("server_version")


def _durability() -> dict[str, str]:
    """PostgreSQL's settings that cost speed and keep what was booked; all must be on."""
    from django.db import connection

    found = {}
    with connection.cursor() as cursor:
        for setting in PRECIOUS:
            cursor.execute(f"SHOW {setting}")
            found[setting] = cursor.fetchone()[0]
    if set(found.values()) != {"on"}:
        raise RuntimeError(f"this PostgreSQL does not keep what it says: {found}")
    return found


def _say_what_is_wrong(console: Console, statuses_5xx: int, broken: list[str]) -> bool:
    """Whether nothing is."""
    if statuses_5xx:
        console.print(f"[red]{statuses_5xx} answers were 5xx.[/]")
    for breach in broken:
        console.print(f"[red]An invariant is broken: {breach}[/]")
    if not broken:
        console.print("All invariants hold.")
    return not statuses_5xx and not broken


if __name__ == "__main__":
    main()
