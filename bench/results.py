"""What was measured, put together: medians, the table, the goals, the file."""

import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil
from rich import box
from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).with_name("results")
SUMMED = {"errors", "free_refused", "probes", "probes_missed", "streams_broken", "streams_refused"}
BEST_EARLIER = 2_020  # holds a second of the best earlier system
EARLIER_LISTS, EARLIER_SEATS = 1_400, 2_560


def combine(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One scenario from its runs: of figures the medians, of errors and outcomes the sums."""
    figures: dict[str, Any] = {}
    for name in runs[0]:
        values = [run[name] for run in runs if run[name] is not None]
        if name == "outcomes":
            figures[name] = dict(sum(map(Counter, values), Counter()))
        elif name in SUMMED:
            figures[name] = sum(values)
        else:
            figures[name] = round(median(values), 2) if values else None
    figures["limit_ratio"] = ratio(figures["ok_per_s"], figures["limit_per_s"])
    if "named_ok_per_s" in figures:
        figures["named_ratio"] = ratio(figures["named_ok_per_s"], figures["named_alone_per_s"])
    if "pipelined_limit_per_s" in figures:
        pipelined = figures["pipelined_limit_per_s"]
        figures["pipelined_limit_ratio"] = ratio(figures["ok_per_s"], pipelined)
    return figures


def ratio(part: float | None, whole: float | None) -> float | None:
    return round(part / whole, 3) if part is not None and whole else None


# ── The table ─────────────────────────────────────────────────────────────────────────────────────

COLUMNS = [
    ("requests/s", "requests_per_s", "{:,.0f}"),
    ("ok/s", "ok_per_s", "{:,.0f}"),
    ("p50 ms", "p50_ms", "{:,.1f}"),
    ("p99 ms", "p99_ms", "{:,.1f}"),
    ("errors", "errors", "{:,.0f}"),
    ("limit/s", "limit_per_s", "{:,.0f}"),
    ("ratio", "limit_ratio", "{:.2f}"),
    ("CPU ms", "cpu_ms", "{:,.2f}"),
    ("MB", "memory_mb", "{:,.0f}"),
]


def cells(figures: dict[str, Any]) -> list[str]:
    """A row of the table."""
    values = [(figures.get(name), form) for _, name, form in COLUMNS]
    return ["–" if value is None else form.format(value) for value, form in values]


def table(scenarios: dict[str, dict[str, Any]]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("scenario")
    for title, _, _ in COLUMNS:
        shown.add_column(title, justify="right", no_wrap=True)
    for name, figures in scenarios.items():
        shown.add_row(name, *cells(figures))
    return shown


# ── The goals ─────────────────────────────────────────────────────────────────────────────────────


class Goal(NamedTuple):
    """What is wanted, what came of it, and whether it is met; None where it was not measured."""

    wanted: str
    measured: str
    is_met: bool | None


def goals(scenarios: dict[str, dict[str, Any]], more: dict[str, Any]) -> list[Goal]:
    """The goals of the site, against one run. What was not measured (`more`: full runs) says so."""
    speed = {name: figures["ok_per_s"] for name, figures in scenarios.items()}
    ratios = {name: figures["limit_ratio"] for name, figures in scenarios.items()}
    found = [
        _least("hold spread ≥ 0.45 of pgbench", ratios.get("hold_spread"), 0.45),
        _least("named seats ≥ 0.45 of pgbench", ratios.get("hold_named"), 0.45),
        _ahead_of_earlier(scenarios.get("hold_spread")),
        _least(
            "hot slot ≥ 0.85 of spread",
            ratio(speed.get("hold_hot"), speed.get("hold_spread")),
            0.85,
        ),
        _no_free_seat_refused(scenarios),
        _least(
            "refusals ≥ 1.5 × hold spread",
            ratio(speed.get("refuse"), speed.get("hold_spread")),
            1.5,
        ),
        _reading("list of slots", scenarios.get("list_slots"), EARLIER_LISTS),
        _reading("400 seats", scenarios.get("seats_400"), EARLIER_SEATS),
        *_quick_enough(scenarios),
        _least("page of 400 seats ≥ 250/s", speed.get("slot_page_400"), 250),
        _least("page of 5,000 seats ≥ 25/s", speed.get("slot_page_5000"), 25),
        _least("home ≥ 400/s", speed.get("home"), 400),
    ]
    found += _live(scenarios.get("live_2000"))
    clients = more.get("clients")
    if clients:
        best = max(point["ok_per_s"] for point in clients)
        failed = sum(point["errors"] for point in clients)
        found += [
            _least(
                "256 clients keep ≥ 0.90 of the best", ratio(clients[-1]["ok_per_s"], best), 0.9
            ),
            _most("requests that failed with 1 to 256 clients", failed, 0),
        ]
    if tenths := more.get("fill", {}).get("tenths"):
        found.append(_least("last tenth of a show ≥ 0.9 of the first", tenths[-1] / tenths[0], 0.9))
    for name, figures in more.get("history", {}).items():
        change = ratio(figures["ok_per_s"], figures["before"]["ok_per_s"])
        found.append(_least(f"{name} ≥ 0.9 with 1,000,000 old bookings", change, 0.9))
    return found


def _least(wanted: str, value: float | None, least: float) -> Goal:
    if value is None:
        return Goal(wanted, "not measured", None)
    return Goal(wanted, f"{value:,.2f}", value >= least)


def _most(wanted: str, value: float | None, most: float) -> Goal:
    if value is None:
        return Goal(wanted, "not measured", None)
    return Goal(wanted, f"{value:,.1f}", value <= most)


def _ahead_of_earlier(spread: dict[str, Any] | None) -> Goal:
    """A machine that could not give that many at the wanted ratio is not as quick as that one."""
    wanted = f"hold spread > {BEST_EARLIER:,}/s, where the machine is as quick"
    if spread is None or not spread["limit_per_s"]:
        return Goal(wanted, "not measured", None)
    measured = f"{spread['ok_per_s']:,.0f}/s"
    if spread["ok_per_s"] <= BEST_EARLIER and 0.45 * spread["limit_per_s"] < BEST_EARLIER:
        return Goal(wanted, f"{measured}; pgbench {spread['limit_per_s']:,.0f}/s: slower", None)
    return Goal(wanted, measured, spread["ok_per_s"] > BEST_EARLIER)


def _no_free_seat_refused(scenarios: dict[str, dict[str, Any]]) -> Goal:
    """Where more seats are left than there are clients nothing is refused but what is taken."""
    wanted = "no free seat is refused"
    names = [name for name in ("hold_spread", "hold_hot", "hold_confirm") if name in scenarios]
    if not names:
        return Goal(wanted, "not measured", None)
    refused = sum(
        number
        for name in names
        for outcome, number in scenarios[name]["outcomes"].items()
        if outcome.startswith("409")
    )
    refused += scenarios.get("hold_named", {}).get("free_refused", 0)
    return Goal(wanted, f"{refused} refused", refused == 0)


def _live(figures: dict[str, Any] | None) -> list[Goal]:
    """What was measured beside fewer streams, or with changes that never arrived, meets nothing."""
    kept = "holds keep ≥ 0.85 beside 2,000 streams"
    heard = "a change reaches all streams within 1,000 ms (p99)"
    if figures is None:
        names = ("2,000 streams are open", kept, heard)
        return [Goal(name, "not measured", None) for name in names]
    opened, missed, p99 = (figures[n] for n in ("streams", "probes_missed", "arrival_p99_ms"))
    ratios = [r for r in (figures["limit_ratio"], figures["named_ratio"]) if r is not None]
    least = min(ratios) if ratios else 0
    beside = f"beside {opened:,.0f}"
    arrived = "nothing arrived" if p99 is None else f"{p99:,.0f} ms"
    return [
        _least("2,000 streams are open", opened, 2000),
        Goal(kept, f"{least:.2f} {beside}", least >= 0.85 and opened >= 2000),
        Goal(
            heard,
            f"{arrived}, {missed} never arrived, {beside}",
            p99 is not None and p99 <= 1000 and missed == 0 and opened >= 2000,
        ),
    ]


def _reading(what: str, figures: dict[str, Any] | None, least: int) -> Goal:
    wanted = f"{what} ≥ {least:,}/s, or ≥ 0.6 of the empty view"
    if figures is None or figures["limit_ratio"] is None:
        return Goal(wanted, "not measured", None)
    measured = f"{figures['ok_per_s']:,.0f}/s, {figures['limit_ratio']:.2f}"
    return Goal(wanted, measured, figures["ok_per_s"] >= least or figures["limit_ratio"] >= 0.6)


def _quick_enough(scenarios: dict[str, dict[str, Any]]) -> list[Goal]:
    """Of what has a budget of 60 ms: a page of 5,000 seats has none."""
    slowest = {
        name: figures["p99_ms"]
        for name, figures in scenarios.items()
        if name not in ("slot_page_5000", "slot_page_400", "live_2000")
        and figures["p99_ms"] is not None
    }
    if not slowest:
        return [Goal("p99 < 60 ms", "not measured", None)]
    name = max(slowest, key=slowest.__getitem__)
    return [Goal("p99 < 60 ms", f"{slowest[name]:,.1f} ms ({name})", slowest[name] < 60)]


def print_goals(console: Console, found: Sequence[Goal]) -> None:
    for goal in found:
        style, word = {
            True: ("green", "met"),
            False: ("red", "missed"),
            None: ("yellow", "open"),
        }[goal.is_met]
        console.print(f"  [{style}]{word:6}[/] {goal.wanted}: {goal.measured}", highlight=False)


# ── The file ──────────────────────────────────────────────────────────────────────────────────────


def machine(server_version: str, workers: int) -> dict[str, Any]:
    """Where it ran, and with what."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
            "system": platform.platform(),
            "load_before": os.getloadavg()[0],
            "workers": workers,
        },
        "versions": {
            "python": platform.python_version(),
            "postgresql": server_version,
            **{name: version(name) for name in ("django", "psycopg", "gunicorn", "gevent")},
        },
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=FOLDER.parent,
            capture_output=True,
            text=True,
        )
    except OSError:
        return ""
    return done.stdout.strip()


def write(results: dict[str, Any]) -> Path:
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / "latest.json"
    path.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    return path
