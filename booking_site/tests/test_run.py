"""`make run` as its user meets it: real processes, a data folder of its own, nothing left."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from booking_site.embedded_postgres.server import Server
from booking_site.tests.live_site import BASE_DIR, free_port


class Run:
    """One `make run` under way."""

    def __init__(self, folder: Path, log: Path, **variables: str) -> None:
        self.log = log
        self.port = variables.get("PORT")
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("DATABASE_URL", "SECRET_KEY", "DJANGO_SETTINGS_MODULE")
        }
        environment |= {"DATA_DIR": str(folder / "data"), "ENV_FILE": os.devnull}
        self.started = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "booking_site.run"],
                cwd=BASE_DIR,
                env=environment | {"WEB_CONCURRENCY": "1"} | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def printed(self) -> str:
        return self.log.read_text()

    def wait_until_it_prints(self, text: str, seconds: float = 60) -> float:
        """Seconds since it was started until it had printed the text."""
        while time.monotonic() < self.started + seconds:
            if text in self.printed():
                return time.monotonic() - self.started
            assert self.process.poll() is None, self.printed()
            time.sleep(0.05)
        raise TimeoutError(self.printed())

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)

    def get(self, path: str = "/") -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return answer.read().decode()


@pytest.fixture
def run(folder: Path) -> Iterator[Callable[..., Run]]:
    """Starts the site in `folder`; whatever still runs afterwards is ended."""
    runs = []

    def start(**variables: str) -> Run:
        runs.append(Run(folder, folder / f"printed-{len(runs)}", **variables))
        return runs[-1]

    yield start
    left = []
    for started in runs:
        with contextlib.suppress(psutil.NoSuchProcess):
            left += [psutil.Process(started.process.pid), *started.family()]
    lock = folder / "data" / "run.lock"
    known = json.loads((lock.read_text() if lock.exists() else "") or "{}")
    for pid, created in known.get("processes", []):
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).create_time() == created:
                left += [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)


@pytest.fixture
def migrated_data(folder: Path, migrated: Path) -> Path:
    """The data folder of `run`, with a database that has its tables: they take a while to make."""
    subprocess.run(["cp", "-a", migrated, folder / "data"], check=True)
    return folder / "data"


def postgres_runs(folder: Path) -> bool:
    return (folder / "data" / "postgres" / "postmaster.pid").exists()


def test_run_starts_keeps_its_data_and_stops_all_it_started(
    run: Callable[..., Run], folder: Path
) -> None:
    port = str(free_port())
    first = run(PORT=port)
    first.wait_until_it_prints("Ctrl-C stops it")
    assert "The Tide Clock" in first.get()
    pattern = r"^ +(?:Office|Front desk|Patient) +(\S+@\S+) +(\S+)$"
    logins = re.findall(pattern, first.printed(), re.MULTILINE)
    assert [email for email, _ in logins] == [
        "admin@example.org",
        "desk@example.org",
        "patient@example.org",
    ]
    family = first.family()
    assert len(family) == 4  # gunicorn, its worker, housekeeping, mail
    assert "Subject: " not in first.printed()  # nobody is told of the demo's bookings
    assert first.stop(signal.SIGTERM) == 0
    assert psutil.wait_procs(family, timeout=1)[1] == []
    assert not postgres_runs(folder)
    assert (folder / "data" / "secret_key").stat().st_mode & 0o777 == 0o600
    assert (folder / "data" / "demo_password").stat().st_mode & 0o777 == 0o600

    second = run(PORT=port)
    assert second.wait_until_it_prints("Ctrl-C stops it") < 40
    assert "Loaded demo data" not in second.printed()
    assert all(password in second.printed() for _, password in logins)
    assert "The Tide Clock" in second.get()
    assert second.stop(signal.SIGINT) == 0
    assert not postgres_runs(folder)


def test_run_after_kill_9_ends_what_was_left_over(
    run: Callable[..., Run], folder: Path, migrated_data: Path
) -> None:
    port = str(free_port())
    first = run(PORT=port)
    first.wait_until_it_prints("Ctrl-C stops it")
    left_over = first.family()
    first.stop(signal.SIGKILL)
    assert all(process.is_running() for process in left_over)

    second = run(PORT=port)
    second.wait_until_it_prints("Ctrl-C stops it")
    assert psutil.wait_procs(left_over, timeout=1)[1] == []
    assert "The Tide Clock" in second.get()

    # Killing gunicorn's master, the database or a loop is mended without a new start.
    for process in second.family():
        if process.ppid() == second.process.pid:
            process.kill()
    postmaster = int((folder / "data" / "postgres" / "postmaster.pid").read_text().split()[0])
    psutil.Process(postmaster).kill()
    second.wait_until_it_prints("gunicorn ended (-9); starting it again.")
    second.wait_until_it_prints("housekeeping ended (-9); starting it again.")
    second.wait_until_it_prints("mail ended (-9); starting it again.")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if "The Tide Clock" in second.get():
                break
        time.sleep(0.1)
    else:
        raise TimeoutError(second.printed())

    third = run(PORT=str(free_port()))
    assert third.process.wait(timeout=30) == 1
    assert third.printed().strip() == (
        f"holdfast: it is running already on {folder}/data, at http://127.0.0.1:{port}; "
        "stop that first."
    )
    assert second.stop(signal.SIGTERM) == 0


def test_run_with_a_taken_port_says_so(run: Callable[..., Run], folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        refused = run(PORT=str(port))
        assert refused.process.wait(timeout=30) == 1
    assert refused.printed() == (
        f"holdfast: cannot listen at 127.0.0.1 port {port} (Address already in use); "
        f"choose another port: PORT={port + 1} make run\n"
    )


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (
            {"DATABASE_URL": "mysql://me:hunter2@host/name", "SECRET_KEY": "x"},
            "DATABASE_URL cannot be used; it must look like "
            "postgres://user:password@host:5432/name.",
        ),
        (
            {"DATABASE_URL": "postgres://me@127.0.0.1/name"},
            "SECRET_KEY is not set; with DATABASE_URL it must be: a random text of 50 characters.",
        ),
        (
            {"HOLD_SECONDS": "two minutes"},
            "HOLD_SECONDS is 'two minutes'; it must be a whole number from 1 to 86400.",
        ),
        (
            {"HOLDS_PER_ADDRESS": "0"},
            "HOLDS_PER_ADDRESS is '0'; it must be a whole number from 1 to 1000000.",
        ),
        (
            {"WEB_CONCURRENCY": "many"},
            "WEB_CONCURRENCY is 'many'; it must be a whole number from 1 to 256.",
        ),
        (
            {"TRUSTED_PROXIES": "10.0.0.7,proxy"},
            "TRUSTED_PROXIES is '10.0.0.7,proxy'; it must be addresses like 10.0.0.7,10.1.0.0/16.",
        ),
        (
            {"CACHE_URL": "locmemcache://"},
            "CACHE_URL cannot be used; it must look like redis://cache.example.org:6379/0.",
        ),
        (
            {"CACHE_URL": "redis://:secret@cache.example.org:6379/0"},
            "CACHE_URL needs the Python package “redis”, which is not installed.",
        ),
        (
            {"CSRF_TRUSTED_ORIGINS": "book.example.org"},
            "CSRF_TRUSTED_ORIGINS is 'book.example.org'; "
            "it must be origins like https://book.example.org.",
        ),
        (
            {"HOST": "256.1.1.1"},
            "cannot listen at 256.1.1.1 port 8000 (Name or service not known); "
            "choose an address of this machine, like HOST=127.0.0.1",
        ),
        ({"PORT": "99999"}, "PORT is '99999'; it must be a whole number from 1 to 65535."),
        (
            {"SITE_URL": "book.example.org"},
            "SITE_URL is 'book.example.org'; it must be the site's address, "
            "like https://book.example.org.",
        ),
        (
            {"TIME_ZONE": "Berlin"},
            "TIME_ZONE is 'Berlin'; it must be a zone like Europe/Berlin.",
        ),
        (
            {"EMAIL_URL": "smtps://me:hunter2@mail.example.org"},
            "EMAIL_URL cannot be used; it must look like "
            "smtp+tls://user:password@mail.example.org:587 or filemail:///folder.",
        ),
        (
            {"DEFAULT_FROM_EMAIL": "Holdfast"},
            "DEFAULT_FROM_EMAIL is 'Holdfast'; "
            "it must be an address like Holdfast <no-reply@book.example.org>.",
        ),
    ],
)
def test_run_with_a_wrong_setting_says_one_sentence(
    run: Callable[..., Run], variables: dict[str, str], sentence: str
) -> None:
    refused = run(**variables)
    assert refused.process.wait(timeout=30) == 1
    printed = refused.printed().replace(
        "Temporary failure in name resolution", "Name or service not known"
    )
    assert printed == f"holdfast: {sentence}\n"


def test_run_as_a_database_user_without_rights_says_one_sentence(
    run: Callable[..., Run], server: Server
) -> None:
    server.ensure_running()
    with server.connect(user="postgres") as connection:
        connection.execute("CREATE ROLE weak LOGIN")
    url = f"postgres://weak@/holdfast?host={quote(str(server.socket_dir))}"
    refused = run(DATABASE_URL=url, SECRET_KEY="x", PORT=str(free_port()))
    assert refused.process.wait(timeout=30) == 1
    assert refused.printed().count("\n") == 1
    assert refused.printed().startswith("holdfast: the database cannot be used: ")
    assert "permission denied for schema public" in refused.printed()


def test_run_killed_while_it_loads_the_demo_goes_on_where_it_was(
    run: Callable[..., Run], migrated_data: Path
) -> None:
    """Killed between holding and confirming, and started again when that hold had lapsed."""
    environment = os.environ | {
        "DATA_DIR": str(migrated_data),
        "DATABASE_URL": "",
        "DJANGO_SETTINGS_MODULE": "booking_site.settings",
    }
    half = """
from datetime import timedelta
from django.db.models.functions import Now
from bookings import lifecycle
from bookings.models import Booking
from slots.management.commands import load_demo
from slots.models import Seat, Slot
load_demo.create_inventory()
slot = Slot.objects.filter(show__name="The Tide Clock").order_by("starts_at").first()
lifecycle.hold(slot, quantity=10, idempotency_key="demo-booking-000000")
Booking.objects.update(expires_at=Now() - timedelta(seconds=1))
Seat.objects.filter(booking__isnull=False).update(held_until=Booking.objects.get().expires_at)
"""
    command = [sys.executable, "manage.py", "shell", "-v0", "-c", half]
    subprocess.run(command, cwd=BASE_DIR, env=environment, check=True)
    started = run(PORT=str(free_port()), HOST="0.0.0.0")
    started.wait_until_it_prints("Ctrl-C stops it")
    assert "Loaded demo data: 4 doctors, 3 shows" in started.printed()
    assert "The Tide Clock" in started.get()

    # On all addresses it answers to the machine's own names, and to no others.
    assert f"Holdfast is at http://127.0.0.1:{started.port}/" in started.printed()
    for name, status in [(socket.gethostname(), 200), ("evil.example", 400)]:
        connection = http.client.HTTPConnection("127.0.0.1", int(started.port), timeout=10)
        connection.request("GET", "/", headers={"Host": name})
        assert connection.getresponse().status == status
        connection.close()


STORM = """
import signal, sys
from booking_site.stop_signal import stop_signal
signals = [signal.SIGINT] * 50
def storm(frame, event, argument):
    if event == "call" and signals:
        signal.raise_signal(signals.pop())
with stop_signal(signal.SIGTERM, signal.SIGINT) as stop:
    sys.setprofile(storm)
    signal.raise_signal(signal.SIGTERM)
    sys.setprofile(None)
    print(stop.wait(60), len(signals) < 50)
"""


def test_signal_while_another_one_is_handled_stops() -> None:
    """`timeout`, Docker and make each pass a signal on, so that two arrive in the same moment.

    Here a second one arrives wherever the handling of the first calls a function: a handler that
    takes a lock would wait for itself.
    """
    stopped = subprocess.run(
        [sys.executable, "-c", STORM], cwd=BASE_DIR, capture_output=True, text=True, timeout=20
    )
    assert stopped.stdout == "True True\n"


def test_gunicorn_reads_the_settings_from_the_env_file(folder: Path) -> None:
    (folder / ".env").write_text(
        f"HOST=127.0.0.2\nPORT=8311\nWEB_CONCURRENCY=3\nTRUSTED_PROXIES=10.0.0.7\n"
        f"DATA_DIR={folder}/data\n"
    )
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HOST", "PORT", "WEB_CONCURRENCY", "DATABASE_URL", "DATA_DIR", "SECRET_KEY")
    } | {"ENV_FILE": str(folder / ".env"), "DJANGO_SETTINGS_MODULE": "booking_site.settings"}
    command = [sys.executable, "-m", "gunicorn", "-c", "booking_site/gunicorn.conf.py"]
    shown = subprocess.run(
        [*command, "--print-config", "booking_site.wsgi"],
        cwd=BASE_DIR,
        env=environment,
        capture_output=True,
        text=True,
    ).stdout
    config = dict(re.findall(r"^(\w+) += (.*)$", shown, re.MULTILINE))
    assert config["bind"] == "['127.0.0.2:8311']"
    assert config["workers"] == "3"
    assert config["forwarded_allow_ips"] == "['10.0.0.7']"
    wrong = subprocess.run(
        [*command, "--print-config", "booking_site.wsgi"],
        cwd=BASE_DIR,
        env=environment | {"PORT": "no"},
        capture_output=True,
        text=True,
    )
    assert wrong.returncode != 0
    assert wrong.stderr.strip().splitlines()[-1] == (
        "holdfast: PORT is 'no'; it must be a whole number from 1 to 65535."
    )


def test_run_with_a_data_folder_that_cannot_be_says_one_sentence(run: Callable[..., Run]) -> None:
    refused = run(DATA_DIR="/dev/null/data", PORT=str(free_port()))
    assert refused.process.wait(timeout=30) == 1
    assert refused.printed().count("\n") == 1
    assert refused.printed().startswith("holdfast: The data folder /dev/null/data ")
    assert "choose another with DATA_DIR" in refused.printed()


def test_run_with_an_absent_database_server_says_one_sentence(run: Callable[..., Run]) -> None:
    url = f"postgres://me:hunter2@127.0.0.1:{free_port()}/name"
    refused = run(DATABASE_URL=url, SECRET_KEY="x", PORT=str(free_port()))
    assert refused.process.wait(timeout=30) == 1
    assert refused.printed().count("\n") == 1
    assert refused.printed().startswith("holdfast: the database cannot be used: ")
    assert "Connection refused" in refused.printed()
    assert "hunter2" not in refused.printed()


def test_bootstrap_on_an_old_python_says_one_sentence() -> None:
    old = (
        "import runpy, sys; sys.version_info = (3, 9, 2); sys.argv = ['bootstrap.py', 'run'];"
        "runpy.run_path('booking_site/bootstrap.py', run_name='__main__')"
    )
    refused = subprocess.run(
        [sys.executable, "-c", old], cwd=BASE_DIR, capture_output=True, text=True
    )
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "holdfast: Python 3.11 or newer is needed, and this is 3.9; install it, then name it: "
        "make run PYTHON=python3.12\n"
    )


def test_bootstrap_with_requirements_that_are_not_to_be_had_fails_and_tries_again(
    folder: Path,
) -> None:
    (folder / "booking_site").mkdir()
    bootstrap = folder / "booking_site" / "bootstrap.py"
    bootstrap.write_text((BASE_DIR / "booking_site" / "bootstrap.py").read_text())
    (folder / "requirements.txt").write_text("./not-there\n")
    refused = subprocess.run([sys.executable, bootstrap, "install"], capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr == (
        "holdfast: installing the requirements failed (see above); is there a network?\n"
    )
    (folder / "requirements.txt").write_text("")
    assert subprocess.run([sys.executable, bootstrap, "install"]).returncode == 0
    again = subprocess.run([sys.executable, bootstrap, "install"], capture_output=True)
    assert (again.returncode, again.stdout) == (0, b"")
