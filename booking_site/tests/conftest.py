"""Fixtures of the tests that use the site as its users do: over HTTP, in a browser."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from booking_site.embedded_postgres.server import Server
from booking_site.tests import chromium
from booking_site.tests.database import quick_database  # noqa: F401
from booking_site.tests.live_site import BASE_DIR, LiveSite, live_site
from booking_site.tests.mails import mails_are_queued  # noqa: F401

IS_ROOT = os.geteuid() == 0

expect.set_options(timeout=15_000)  # it waits no longer than it must, on a busy machine too


@pytest.fixture(scope="session")
def site(django_db_setup: None, django_db_blocker: object) -> Iterator[LiveSite]:
    """One gunicorn for all tests; each test makes its own data (`django_db(transaction=True)`)."""
    with django_db_blocker.unblock(), live_site(WEB_CONCURRENCY="2") as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium.find()
    assert path, chromium.MISSING
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=chromium.ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser, site: LiveSite) -> Iterator[BrowserContext]:
    """One person's browser, on a phone."""
    context = browser.new_context(base_url=site.url, viewport={"width": 390, "height": 844})
    context.set_default_timeout(10_000)
    yield context
    context.close()


def quickest_folder() -> str:
    """For servers that come and go: memory, if there is a gigabyte and programs may run there."""
    memory = "/dev/shm"
    with contextlib.suppress(OSError):
        found = os.statvfs(memory)
        is_large = found.f_bavail * found.f_frsize > 2**30
        if is_large and not found.f_flag & os.ST_NOEXEC and os.access(memory, os.W_OK):
            return memory
    return "/tmp"


@contextlib.contextmanager
def reachable_folder() -> Iterator[Path]:
    """A new folder that the server's user can reach, unlike root's tmp_path; all in it ends."""
    path = Path(tempfile.mkdtemp(prefix="holdfast-test-", dir=quickest_folder())).resolve()
    if IS_ROOT:
        path.chmod(0o755)
    yield path
    deadline = time.monotonic() + 20
    while left := processes_in(path):
        assert time.monotonic() < deadline, f"still running: {left}"
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1)
    shutil.rmtree(path)


@pytest.fixture
def folder() -> Iterator[Path]:
    with reachable_folder() as path:
        yield path


@pytest.fixture
def empty(folder: Path) -> Iterator[Server]:
    """A server whose data folder does not exist yet."""
    server = Server(folder / "data")
    yield server
    server.stop_if_unused()


@pytest.fixture(scope="module")
def initialised() -> Iterator[Path]:
    """The data folder of a server that ran once, to be copied: initdb is most of a test's time."""
    with reachable_folder() as path:
        server = Server(path / "data")
        server.ensure_running()
        server.stop_if_unused()
        yield server.data_dir


@pytest.fixture
def server(empty: Server, initialised: Path) -> Server:
    """A server that ran before and is stopped."""
    subprocess.run(["cp", "-a", initialised, empty.data_dir], check=True)
    return empty


@pytest.fixture(scope="session")
def migrated() -> Iterator[Path]:
    """The data folder of a server that has the site's tables, to be copied."""
    with reachable_folder() as path:
        server = Server(path / "data")
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity=0"],
            cwd=BASE_DIR,
            env=os.environ
            | {"DATABASE_URL": "", "DATA_DIR": str(server.data_dir)}
            | {"DJANGO_SETTINGS_MODULE": "booking_site.settings"},
            check=True,
        )
        server.stop_if_unused()
        yield server.data_dir


@pytest.fixture
def migrated_server(empty: Server, migrated: Path) -> Server:
    """A server that has the site's tables and is stopped."""
    subprocess.run(["cp", "-a", migrated, empty.data_dir], check=True)
    return empty


def processes_in(path: Path) -> list[psutil.Process]:
    """The living processes of PostgreSQL at work anywhere below the folder."""
    found = []
    for process in psutil.process_iter(["name", "status"]):
        with contextlib.suppress(psutil.Error):
            if (
                process.info["name"] in ("postgres", "initdb", "pg_ctl")
                and process.info["status"] != psutil.STATUS_ZOMBIE
                and Path(process.cwd()).is_relative_to(path)
            ):
                found.append(process)
    return found
