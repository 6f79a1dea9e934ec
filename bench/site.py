"""The site under load: a PostgreSQL of its own, and gunicorn as in production.

Everything lives in one new folder for each run, and ends with it: runs do not meet, and what a
`kill -9` leaves the next run removes.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psutil

from booking_site.embedded_postgres.server import DATABASE, ROLE, Server, default_data_dir
from booking_site.embedded_postgres.system import make_data_folder, server_account

BASE_DIR = Path(__file__).parents[1]
START_LIMIT = 60  # seconds until gunicorn must answer
IDLE_FOR = 0.2  # seconds
STOP_LIMIT = 15  # seconds until what does not stop is killed


@contextmanager
def new_folder() -> Iterator[Path]:
    """The data folder of this run; removed afterwards, as are those of runs that were killed."""
    home = default_data_dir(BASE_DIR, "bench")
    make_data_folder(home)
    with _locked(home / "lock"):
        for left in home.glob("run-*"):
            _remove_if_over(left)
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=home))
        if server_account() is not None:
            folder.chmod(0o711)
        lock = (folder / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_if_over(folder: Path) -> None:
    """Removes the folder of a run that nobody is at any more, and ends what it left running."""
    with contextlib.suppress(FileNotFoundError), (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return  # it goes on
    end(_noted(folder))
    server = Server(folder)
    with contextlib.suppress(Exception):
        server.cluster.stop()
    shutil.rmtree(folder, ignore_errors=True)


def _note(folder: Path, process: psutil.Process) -> None:
    """Writes down what was started, for the run after a `kill -9`."""
    with (folder / "started").open("a") as file:
        file.write(json.dumps([process.pid, process.create_time()]) + "\n")


def _noted(folder: Path) -> list[psutil.Process]:
    started = folder / "started"
    lines = started.read_text().splitlines() if started.exists() else []
    found = []
    for pid, begun in map(json.loads, lines):
        # A pid may be another's by now; a pid and its start are one process.
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).create_time() == begun:
                found.append(psutil.Process(pid))
    return found


def end(processes: list[psutil.Process]) -> None:
    """Asks them to stop, and kills what does not, with all that they started."""
    families = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            families += process.children(recursive=True)
            process.terminate()
    for process in psutil.wait_procs(families, timeout=STOP_LIMIT)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def postgres(folder: Path) -> Iterator[Server]:
    """The embedded PostgreSQL on that folder, with the settings of production."""
    server = Server(folder)
    try:
        server.ensure_running()
        with server.connect("postgres", user="postgres") as connection:
            connection.execute(f"GRANT pg_checkpoint TO {ROLE}")
        yield server
    finally:
        server.stop_if_unused()


def set_environment(folder: Path, server: Server) -> None:
    """Sets this process's environment, which its children inherit, to that of a production site.

    Of what the caller's environment says only WEB_CONCURRENCY counts.
    """
    for line in (BASE_DIR / ".env.example").read_text().splitlines():
        variable = line.removeprefix("#").strip().partition("=")[0]
        if variable.isupper() and variable != "WEB_CONCURRENCY":
            os.environ.pop(variable, None)
    host = quote(str(server.socket_dir), safe="")
    os.environ |= {
        "ENV_FILE": os.devnull,
        "DJANGO_SETTINGS_MODULE": "booking_site.settings",
        "DATABASE_URL": f"postgres://{ROLE}@/{DATABASE}?host={host}",
        "DATA_DIR": str(folder),
        "SECRET_KEY": secrets.token_urlsafe(50),
        "HOST": "127.0.0.1",
    }


class Gunicorn:
    """A gunicorn that runs, what it uses, and what it said."""

    def __init__(self, process: subprocess.Popen, port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log
        self.url = f"http://127.0.0.1:{port}"

    @property
    def family(self) -> list[psutil.Process]:
        master = psutil.Process(self.process.pid)
        return [master, *master.children(recursive=True)]

    def memory(self) -> float:
        """Megabytes of all its processes; what they share is counted once."""
        return sum(process.memory_full_info().pss for process in self.family) / 2**20

    def cpu(self) -> float:
        """Seconds of CPU time that its processes have used since they started."""
        times = [process.cpu_times() for process in self.family]
        return sum(each.user + each.system for each in times)

    def wait_until_idle(self) -> None:
        """Returns when it has finished what it was still asked when the load ended."""
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline:
            before = self.cpu()
            time.sleep(IDLE_FOR)
            if self.cpu() - before < 0.1 * IDLE_FOR:
                return
        raise RuntimeError("the site is still busy a minute after the load has ended.")


@contextmanager
def gunicorn(folder: Path, name: str, **variables: str) -> Iterator[Gunicorn]:
    """gunicorn with the site's own configuration at a free port; its log goes to a file."""
    port = free_port()
    log = folder / f"{name}.log"
    with log.open("w") as file:
        process = _start(file, os.environ | {"PORT": str(port)} | variables)
    running = Gunicorn(process, port, log)
    try:
        _note(folder, psutil.Process(process.pid))
        _wait_until_answers(running)
        yield running
    finally:
        if process.poll() is None:
            end([psutil.Process(process.pid)])
        process.wait()


def _start(log: IO[str], environment: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn"),
            *("-c", "booking_site/gunicorn.conf.py", "booking_site.wsgi"),
        ],
        cwd=BASE_DIR,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,  # a Ctrl-C is for us, who stop it in good order
    )


def _wait_until_answers(site: Gunicorn) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        if site.process.poll() is not None:
            break
        try:
            urllib.request.urlopen(site.url + "/health/ready", timeout=START_LIMIT)
            return
        except (urllib.error.HTTPError, OSError):
            time.sleep(0.05)
    said = site.log.read_text()[-2000:]
    raise RuntimeError(f"gunicorn did not answer at {site.url}. It said:\n{said}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
