"""A database that goes away and comes back, under a real gunicorn: 503 meanwhile, then well."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from booking_site.embedded_postgres.server import Server
from booking_site.tests.live_site import BASE_DIR, LiveSite, live_site


@pytest.fixture
def variables(server: Server) -> dict[str, str]:
    """The environment of a site on a server of its own, which the tests may kill."""
    server.ensure_running()
    return {
        "DATABASE_URL": f"postgres://holdfast@/holdfast?host={quote(str(server.socket_dir))}",
        "DATA_DIR": str(server.data_dir),
    }


@pytest.fixture
def own_site(variables: dict[str, str], django_db_blocker: object) -> Iterator[LiveSite]:
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity=0"],
        cwd=BASE_DIR,
        env=os.environ | variables | {"DJANGO_SETTINGS_MODULE": "booking_site.settings"},
        check=True,
    )
    with live_site(**variables) as site:
        yield site


def get(url: str) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers, whatever the status."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


def kill_postmaster(server: Server) -> None:
    os.kill(server.postmaster_pid, signal.SIGKILL)


def test_database_killed_answers_503_until_it_is_back(own_site: LiveSite, server: Server) -> None:
    assert get(f"{own_site.url}/")[0] == 200
    kill_postmaster(server)
    for _ in range(3):
        started = time.monotonic()
        status, body, headers = get(f"{own_site.url}/")
        assert (status, headers["Retry-After"]) == (503, "3")
        assert "<title>" in body
        assert "Holdfast" in body
        assert time.monotonic() - started < 5
    status, body, headers = get(f"{own_site.url}/health/ready")
    assert (status, headers["Retry-After"]) == (503, "3")
    assert get(f"{own_site.url}/health/live")[0] == 200

    server.forget()
    server.ensure_running()
    assert own_site.wait_until_answers("/") < 5


def test_all_connections_lost_under_load_are_503s_and_then_well(
    own_site: LiveSite, server: Server
) -> None:
    with ThreadPoolExecutor(16) as crowd, server.connect() as connection:
        answers = [crowd.submit(get, f"{own_site.url}/") for _ in range(400)]
        for _ in range(5):
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        statuses = [answer.result()[0] for answer in answers]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) > 200
    assert own_site.wait_until_answers("/") < 3


def test_bundled_database_killed_is_started_again_by_the_site_itself(
    own_site: LiveSite, server: Server, variables: dict[str, str]
) -> None:
    with live_site(**variables | {"DATABASE_URL": ""}) as site:
        assert get(f"{site.url}/")[0] == 200
        kill_postmaster(server)
        assert site.wait_until_answers("/") < 15
