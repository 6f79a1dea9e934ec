"""wrk, the load generator: found or installed, run with load.lua, and its notes read."""

import contextlib
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SCRIPT = Path(__file__).with_name("load.lua")
OF_ENVIRONMENT = Path(sys.prefix) / "wrk"  # where it is unpacked for who is not root
TIMEOUT = 20  # seconds until an answer counts as none
MISSING = (
    "the benchmark needs the load generator wrk, and it could not be installed; an administrator "
    "can: `apt-get install wrk` (Debian), `dnf install wrk` (Fedora), or set WRK to the path of "
    "one."
)


# ── Which one ─────────────────────────────────────────────────────────────────────────────────────


def find() -> str | None:
    """The path of a wrk that starts here, or None. WRK, where set, names it."""
    candidates = [os.environ.get("WRK"), shutil.which("wrk"), _unpacked()]
    return next((path for path in candidates if path and _starts(path)), None)


def install() -> str | None:
    """Installs Debian's: root as a package, others into .venv. Returns its path, or None."""
    if not shutil.which("apt-get"):
        return None
    print("holdfast: installing wrk (once) …", flush=True)
    if os.getuid() == 0:
        _try("apt-get", "update", "-qq")
        _try("apt-get", "install", "-y", "-qq", "--no-install-recommends", "wrk")
    if not find():
        OF_ENVIRONMENT.mkdir(exist_ok=True)
        # LuaJIT is the only library of it that not every machine has.
        for package in ("wrk", "libluajit-5.1-2", "libluajit-5.1-common"):
            _try("apt-get", "download", package, folder=OF_ENVIRONMENT)
        for package in OF_ENVIRONMENT.glob("*.deb"):
            _try("dpkg", "-x", str(package), str(OF_ENVIRONMENT))
    return find()


def _unpacked() -> str:
    return str(OF_ENVIRONMENT / "usr/bin/wrk")


def _environment(path: str) -> dict[str, str]:
    if path != _unpacked():
        return dict(os.environ)
    libraries = {str(library.parent) for library in OF_ENVIRONMENT.glob("usr/lib/**/*.so*")}
    return os.environ | {"LD_LIBRARY_PATH": ":".join(sorted(libraries))}


def _starts(path: str) -> bool:
    try:
        answer = subprocess.run([path, "-v"], capture_output=True, env=_environment(path))
    except OSError:
        return False
    return answer.stdout.startswith(b"wrk ")


def _try(*command: str, folder: Path | None = None) -> None:
    """Runs it; what it prints is of interest only if it fails."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        answer = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"holdfast: {error}")
        return
    if answer.returncode:
        print(f"holdfast: {' '.join(command)} failed: {answer.stderr.strip()[-500:]}")


# ── What came of a run ────────────────────────────────────────────────────────────────────────────


class Answer(NamedTuple):
    """Asked and answered at, in seconds of one clock; the outcome is “201” or “409 sold_out”."""

    asked: float
    answered: float
    seat: int  # the one that was named, or 0
    outcome: str

    @property
    def ms(self) -> float:
        return (self.answered - self.asked) * 1000


@dataclass
class Load:
    """What came of one run: all answers, and those of what was asked after the warm-up."""

    all: list[Answer]
    answers: list[Answer]
    seconds: float  # from the end of the warm-up to the last answer
    lost: Counter[str] = field(default_factory=Counter)  # connect, read, write, timeout

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(answer.outcome for answer in self.all) + self.lost

    def of(self, outcomes: Collection[str]) -> list[Answer]:
        return [answer for answer in self.answers if answer.outcome in outcomes]

    def refused_without_a_winner(self, outcome: str = "409 seats_taken") -> list[int]:
        """Seats that were refused before anybody who got them, as far as noted, had asked.

        Whoever asked at the end of a run may have one of them and no answer.
        """
        won: dict[int, float] = {}
        for answer in self.all:
            if answer.outcome == "201":
                won[answer.seat] = min(answer.asked, won.get(answer.seat, answer.asked))
        return [
            answer.seat
            for answer in self.all
            if answer.outcome == outcome and won.get(answer.seat, math.inf) > answer.answered
        ]

    def tenths(self, outcomes: Collection[str]) -> list[float]:
        """How many of these outcomes there were in a second, for each tenth of them in turn."""
        times = sorted(answer.answered for answer in self.all if answer.outcome in outcomes)
        size = len(times) // 10
        if not size:
            return []
        parts = [times[n * size : (n + 1) * size + 1] for n in range(10)]
        return [(len(part) - 1) / (part[-1] - part[0]) for part in parts]


def percentile(values: Collection[float], share: float) -> float | None:
    """The least value that so many of 100 do not exceed: one that was measured. None of none."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[max(math.ceil(len(ordered) * share / 100), 1) - 1]


def read_notes(lines: Collection[str], warm_up: float) -> Load:
    """The notes of load.lua. What was asked in the first `warm_up` seconds is left out."""
    answers, lost = [], Counter()
    for line in lines:
        asked, answered, seat, outcome = line.rstrip("\n").split(" ", 3)
        if float(asked) == 0:
            lost[outcome] += 1
        else:
            answers.append(Answer(float(asked), float(answered), int(seat), outcome))
    if not answers:
        return Load([], [], 0.0, lost)
    begin = min(answer.asked for answer in answers) + warm_up
    measured = [answer for answer in answers if answer.asked >= begin]
    last = max((answer.answered for answer in measured), default=begin)
    return Load(answers, measured, last - begin, lost)


def run(
    url: str,
    *kind: str | int,
    notes: Path,
    seconds: float,
    warm_up: float = 0.5,
    connections: int = 32,
    most: int = 0,
) -> Load:
    """One run of wrk at that URL, ended after so many seconds, or by the first connection that has
    made as many requests as it may. Raises RuntimeError if wrk fails.
    """
    path = find()
    notes.unlink(missing_ok=True)
    command = [
        *(path, f"-t{connections}", f"-c{connections}", f"-d{math.ceil(seconds + warm_up)}s"),
        *("--timeout", f"{TIMEOUT}s", "-s", str(SCRIPT), url, "--"),
        *(str(notes), str(most), *map(str, kind)),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=_environment(path), stdin=subprocess.DEVNULL
    )
    if done.returncode or not notes.exists():
        raise RuntimeError(f"wrk failed: {(done.stderr or done.stdout).strip()[-500:]}")
    with contextlib.closing(notes.open()) as file:
        return read_notes(list(file), warm_up)
