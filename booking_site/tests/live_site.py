"""A real site for tests to talk to: gunicorn as in production, on the tests' database."""

import fcntl
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlencode

import psutil
from django.db import connection

BASE_DIR = Path(__file__).parents[2]


class LiveSite:
    """Where it is, and how to hurt it."""

    def __init__(self, process: subprocess.Popen, port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def wait_until_answers(self, path: str = "/health/ready", seconds: float = 30) -> float:
        """Seconds until that path answers 200. Raises TimeoutError if it never does."""
        started = time.monotonic()
        while time.monotonic() < started + seconds:
            if self.process.poll() is not None:
                raise RuntimeError(f"gunicorn ended with {self.process.returncode}")
            try:
                urllib.request.urlopen(self.url + path, timeout=seconds)
                return time.monotonic() - started
            except (urllib.error.HTTPError, OSError):
                time.sleep(0.05)
        raise TimeoutError(f"{path} did not answer 200 within {seconds} seconds")


def database_url() -> str:
    """The test database, for another process."""
    at = connection.get_connection_params()
    query = urlencode({key: at[key] for key in ("host", "port") if at.get(key)})
    login = quote(at.get("user", "")) + (f":{quote(at['password'])}" if "password" in at else "")
    return f"postgres://{login}@/{quote(at['dbname'])}?{query}"


def site_environment(**variables: str) -> dict[str, str]:
    """The environment of a process of the site on the test database."""
    return (
        os.environ
        | {"DATABASE_URL": database_url(), "DJANGO_SETTINGS_MODULE": "booking_site.settings"}
        | variables
    )


def free_port() -> int:
    """Below those that the system hands out, so that nobody is given it before it is used."""
    while True:
        port = secrets.choice(range(20_000, 32_000))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@cache
def collect_static(data_dir: str) -> None:
    """Once for each folder and run of the tests, whose processes share it: each file is missing for
    a moment while it is collected again."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or secrets.token_hex()
    folder = BASE_DIR / data_dir
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "collected").open("a+") as collected:
        fcntl.flock(collected, fcntl.LOCK_EX)
        collected.seek(0)
        if collected.read() == run:
            return
        subprocess.run(
            [sys.executable, "manage.py", "collectstatic", "--verbosity=0", "--no-input"],
            cwd=BASE_DIR,
            env=site_environment(DATA_DIR=data_dir),
            check=True,
        )
        collected.truncate(0)
        collected.write(run)


@contextmanager
def live_site(*, log: IO[str] | None = None, **variables: str) -> Iterator[LiveSite]:
    """gunicorn with the site's own configuration, ended with all its workers afterwards.

    What it logs goes to the file `log`, or where ours goes. One worker, unless told otherwise: each
    takes a second or two to start.
    """
    port = free_port()
    variables = {"PORT": str(port), "HOST": "127.0.0.1", "WEB_CONCURRENCY": "1"} | variables
    environment = site_environment(**variables)
    collect_static(environment["DATA_DIR"])
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn"),
            *("-c", "booking_site/gunicorn.conf.py", "booking_site.wsgi"),
        ],
        cwd=BASE_DIR,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=log,
        start_new_session=True,
    )
    try:
        site = LiveSite(process, port)
        site.wait_until_answers()
        yield site
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
        process.terminate()
        for left in psutil.wait_procs(family, timeout=15)[1]:
            left.kill()
        process.wait()
