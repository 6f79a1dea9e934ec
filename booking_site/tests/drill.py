"""`make drill`: faults and size at length, beyond what every test run does. About ten minutes.

make drill ARGS="races --rounds 50": that part alone, and longer. Fails if anything did.
"""

import argparse
import os
import subprocess
import sys
import time
from typing import NamedTuple

from booking_site.tests.live_site import BASE_DIR


class Part(NamedTuple):
    """Tests, and the environment that makes them longer."""

    what: str
    environment: dict[str, str]
    tests: list[str]


def parts(rounds: int, bookings: int) -> dict[str, Part]:
    kills = {"KILL_SECONDS": str(6 * rounds)}
    races = {"RACE_ROUNDS": str(rounds), "API_CROWD": "2000", "STAMPEDE_CLIENTS": "1000"}
    site = "booking_site/tests"
    found = {
        f"kills {seed}": Part(
            f"kill -9 of workers and PostgreSQL for {6 * rounds} s, seed {seed}",
            kills | {"KILL_SEED": str(seed)},
            [f"{site}/test_kills.py"],
        )
        for seed in (1, 2)
    }
    found |= {
        "races": Part(
            f"each race {rounds} times, in threads and in processes",
            races,
            ["bookings/tests/test_races_processes.py", "bookings/tests/test_races.py"],
        ),
        "crowds": Part(
            f"each race over HTTP {rounds} times, 2,000 connections, 1,000 clients",
            races,
            [f"{site}/test_api_server.py", f"{site}/test_stampede.py"],
        ),
        "away": Part(
            "the database killed, and its connections, under load",
            {},
            [f"{site}/test_database_away.py"],
        ),
        "size": Part(
            f"{bookings:,} old bookings",
            {"DRILL_BOOKINGS": str(bookings)},
            [f"{site}/drill_size.py"],
        ),
    }
    return found


def run(part: Part) -> bool:
    """Whether all went well. What the tests print is shown; of failures, all."""
    options = ["-q", "-s", "--no-header", "-p", "no:cacheprovider", "-o", "timeout=900"]
    command = [sys.executable, "-m", "pytest", *options, *part.tests]
    environment = os.environ | part.environment
    return subprocess.run(command, cwd=BASE_DIR, env=environment).returncode == 0


def main() -> None:
    names = list(dict.fromkeys(name.partition(" ")[0] for name in parts(1, 1)))
    parser = argparse.ArgumentParser(prog="make drill", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--rounds", type=int, default=10, help="how often, or how long (10)")
    parser.add_argument("--bookings", type=int, default=1_000_000, help="old ones (1000000)")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(names):
        parser.error(f"there is no part {unknown.pop()!r}; choose of {', '.join(names)}")
    if not (1 <= options.rounds <= 1000 and 1000 <= options.bookings <= 10_000_000):
        parser.error("--rounds is from 1 to 1000, --bookings from 1000 to 10000000")
    wanted = set(options.parts or names)
    lines, failed = [], 0
    for name, part in parts(options.rounds, options.bookings).items():
        if name.partition(" ")[0] not in wanted:
            continue
        print(f"\nholdfast: {part.what} …", flush=True)
        started = time.monotonic()
        is_well = run(part)
        failed += not is_well
        verdict = "ok    " if is_well else "FAILED"
        lines.append(f"  {verdict} {time.monotonic() - started:5.0f} s  {part.what}")
    print("\nholdfast: the drill\n" + "\n".join(lines))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
