"""The limits of holds: pgbench sends PostgreSQL the statements of bench/sql, and nothing else."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from booking_site.embedded_postgres.server import DATABASE, ROLE, Server
from booking_site.embedded_postgres.system import find_binaries, server_account

SCRIPTS = Path(__file__).with_name("sql")
THREADS = 2


class Speed(NamedTuple):
    """How many transactions there were in a second, and in how many seconds they were measured."""

    per_s: float
    seconds: float


def script(name: str) -> Path:
    return SCRIPTS / f"{name}.sql"


def run(
    server: Server,
    name: str,
    *,
    seconds: float = 0,
    transactions: int = 0,
    clients: int = 32,
    pipelined: bool = False,
    **variables: int,
) -> Speed:
    """Runs a script so long, or so often by each client. Raises RuntimeError if a client gave up:
    then the seats ran out, or the statements are no longer PostgreSQL's.

    `pipelined`: in as few round trips as the site's, where the script says how.
    """
    text = script(name).read_text()
    how_long = [f"--transactions={transactions}"] if transactions else [f"--time={round(seconds)}"]
    command = [
        *(str(find_binaries(server_account()) / "pgbench"), "--no-vacuum", "--protocol=prepared"),
        *(f"--client={clients}", f"--jobs={THREADS}", *how_long, "--file=/dev/stdin"),
        *(f"--define={variable}={value}" for variable, value in variables.items()),
        *(f"--host={server.socket_dir}", f"--username={ROLE}", DATABASE),
    ]
    text = text.replace("-- \\", "\\") if pipelined else text
    done = subprocess.run(command, capture_output=True, text=True, input=text)
    if done.returncode:
        raise RuntimeError(f"pgbench failed at {name}: {done.stderr.strip()[-500:]}")
    return read_speed(done.stdout)


def read_speed(printed: str) -> Speed:
    """What pgbench prints at the end, without the time that connecting took."""
    number = int(re.search(r"actually processed: (\d+)", printed)[1])
    per_s = float(re.search(r"tps = ([\d.]+) \(without", printed)[1])
    return Speed(per_s, number / per_s)
