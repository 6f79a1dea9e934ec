"""`make run`: the whole site on this machine, from an empty folder to an address to open.

Migrates, loads the demo data once, collects static files; then keeps gunicorn and the loops of
housekeeping and mail running until Ctrl-C or SIGTERM, and stops what it started. After a `kill -9`
the next start ends what was left over.
"""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any

import django
import psutil
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import Error, connection

from booking_site.embedded_postgres.system import EmbeddedPostgresError, make_data_folder
from booking_site.stop_signal import StopSignal, stop_signal

START_LIMIT = 60  # seconds until the site must answer
STOP_LIMIT = 15  # seconds until what does not stop is killed
RESTARTS = 5  # of one process within a minute; then something is wrong


def fail(sentence: str) -> None:
    sys.exit(f"holdfast: {sentence}")


class Child:
    """A process that is kept running."""

    def __init__(self, name: str, *command: str) -> None:
        self.name, self.command = name, command
        self.process: subprocess.Popen | None = None
        self.starts: list[float] = []

    def start(self) -> None:
        """Starts it in a session of its own: a Ctrl-C is for us, who stop it in good order."""
        self.starts = [at for at in self.starts if at > time.monotonic() - 60]
        self.starts.append(time.monotonic())
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def keep_running(self) -> bool:
        """Starts it again if it has ended; returns whether it had. Ends us if it keeps ending."""
        if self.process.poll() is None:
            return False
        if len(self.starts) > RESTARTS:
            fail(f"{self.name} ended {RESTARTS} times within a minute; what it printed says why.")
        print(f"holdfast: {self.name} ended ({self.process.returncode}); starting it again.")
        self.start()
        return True


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "booking_site.settings")
    sys.stdout.reconfigure(line_buffering=True)
    try:
        django.setup()
        from django.conf import settings
    except ImproperlyConfigured as error:
        fail(str(error))
    with stop_signal(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as stop:
        serve(settings, stop)


def serve(settings: Any, stop: StopSignal) -> None:
    """Everything, until a signal says stop."""
    lock = take_over(settings.DATA_DIR)
    require_port(settings.HOST, settings.PORT)
    prepare()
    children = [
        Child(
            "gunicorn",
            *(sys.executable, "-m", "gunicorn"),
            *("-c", "booking_site/gunicorn.conf.py", "booking_site.wsgi"),
        ),
        Child(
            "housekeeping",
            *(sys.executable, "manage.py", "expire_holds", "--loop", "--interval", "5"),
        ),
        Child("mail", *(sys.executable, "manage.py", "send_mails", "--loop", "--interval", "2")),
    ]
    try:
        for child in children:
            child.start()
        note(lock, settings.SITE_URL, children)
        if wait_until_ready(settings.HOST, settings.PORT, children, stop):
            greet(settings)
        while not stop.wait(0.5):
            ended = [child for child in children if child.keep_running()]
            if ended:
                note(lock, settings.SITE_URL, children)
    finally:
        print("holdfast: stopping …")
        end([psutil.Process(child.process.pid) for child in children if is_running(child)])
        lock.truncate(0)


def take_over(data_dir: Path) -> IO[str]:
    """The lock of this data folder, with what an earlier run left over ended."""
    try:
        make_data_folder(data_dir)
        lock = (data_dir / "run.lock").open("a+")
        lock.seek(0)
    except EmbeddedPostgresError as error:
        fail(str(error))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        url = json.loads(lock.read() or "{}").get("url", "an address that is not open yet")
        fail(f"it is running already on {data_dir}, at {url}; stop that first.")
    left_over = []
    for pid, started in json.loads(lock.read() or "{}").get("processes", []):
        # A pid may be another's by now; a pid and its start are one process.
        if psutil.pid_exists(pid) and psutil.Process(pid).create_time() == started:
            left_over.append(psutil.Process(pid))
    end(left_over)
    return lock


def note(lock: IO[str], url: str, children: list[Child]) -> None:
    """Writes down what runs, for a second start and for the one after a `kill -9`."""
    running = [psutil.Process(child.process.pid) for child in children if is_running(child)]
    lock.truncate(0)
    known = [[process.pid, process.create_time()] for process in running]
    lock.write(json.dumps({"url": url, "processes": known}))
    lock.flush()


def is_running(child: Child) -> bool:
    return child.process is not None and child.process.poll() is None


def end(processes: list[psutil.Process]) -> None:
    """Asks them to stop, and kills what does not, with all that it started."""
    families = [*processes, *(p for process in processes for p in process.children(True))]
    for process in processes:
        process.terminate()
    for process in psutil.wait_procs(families, timeout=STOP_LIMIT)[1]:
        process.kill()


def require_port(host: str, port: int) -> None:
    """Ends with a sentence if somebody else listens there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                advice = f"choose another port: PORT={port % 65535 + 1} make run"
            else:
                advice = "choose an address of this machine, like HOST=127.0.0.1"
            fail(f"cannot listen at {host} port {port} ({error.strerror}); {advice}")


def prepare() -> None:
    """Database, demo data and static files."""
    connection.settings_dict["OPTIONS"].pop("pool")  # which would hide why a server is away
    try:
        call_command("migrate", verbosity=0, interactive=False)
        if connection.settings_dict.get("DATA_DIR"):
            call_command("load_demo", verbosity=0)
    except Error as error:
        fail(f"the database cannot be used: {' '.join(str(error).split())}")
    finally:
        connection.close()
    call_command("collectstatic", verbosity=0, interactive=False)


def wait_until_ready(host: str, port: int, children: list[Child], stop: StopSignal) -> bool:
    """True when the site answers; False if it is stopped before that."""
    from booking_site.settings import url_host

    local = url_host(host)
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        for child in children:
            child.keep_running()
        try:
            urllib.request.urlopen(f"http://{local}:{port}/health/live", timeout=2)
            return True
        except urllib.error.HTTPError:
            return True  # it answers; what it thinks of this address is another matter
        except OSError:
            if stop.wait(0.1):
                return False
    fail(f"the site did not answer within {START_LIMIT} seconds; what it printed says why.")


def greet(settings: Any) -> None:
    from slots.management.commands.load_demo import demo_logins

    is_bundled = "DATA_DIR" in connection.settings_dict
    print(f"\n  Holdfast is at {settings.SITE_URL}/\n")
    for what, email, password in demo_logins(settings.DATA_DIR) if is_bundled else ():
        print(f"  {what:10} {email:22} {password}")
    print("\n  Ctrl-C stops it; the data stays.\n")


if __name__ == "__main__":
    main()
