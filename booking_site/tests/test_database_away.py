"""A database that goes away and comes back, under a real gunicorn: 503 meanwhile, then well; pages
and the API alike.
"""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from booking_site.embedded_postgres.server import Server
from booking_site.tests.conftest import reachable_folder
from booking_site.tests.crowd import Answer, ask, crowd, require_api_answer
from booking_site.tests.live_site import BASE_DIR, LiveSite, live_site

WHO = {"email": "ada@example.org", "password": "correct horse battery staple"}
DETAILS = {"name": "Ada Lovelace", "email": "ada@example.org"}
KEY = "0123456789abcdef"
MAKE_SLOT = """
from booking_site.tests.factories import SlotFactory
print(SlotFactory(places=1000).pk)
"""


@pytest.fixture(scope="module")
def server(migrated: Path) -> Iterator[Server]:
    """With the site's tables; each test leaves it running."""
    with reachable_folder() as folder:
        subprocess.run(["cp", "-a", migrated, folder / "data"], check=True)
        server = Server(folder / "data")
        server.ensure_running()
        yield server
        server.stop_if_unused()


@pytest.fixture(scope="module")
def variables(server: Server) -> dict[str, str]:
    """The environment of a site on a server of its own, which the tests may kill."""
    return {
        "DATABASE_URL": f"postgres://holdfast@/holdfast?host={quote(str(server.socket_dir))}",
        "DATA_DIR": str(server.data_dir),
    }


@pytest.fixture(scope="module")
def slot(variables: dict[str, str]) -> int:
    """The id of one with 1,000 places, in that site's migrated database."""
    made = subprocess.run(
        [sys.executable, "manage.py", "shell", "--verbosity=0", "-c", MAKE_SLOT],
        cwd=BASE_DIR,
        env=os.environ | variables | {"DJANGO_SETTINGS_MODULE": "booking_site.settings"},
        check=True,
        capture_output=True,
    )
    return int(made.stdout)


@pytest.fixture(scope="module")
def own_site(variables: dict[str, str], slot: int) -> Iterator[LiveSite]:
    with live_site(**variables, WEB_CONCURRENCY="2") as site:
        yield site


def get(url: str) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers, whatever the status."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


def kill_postmaster(server: Server) -> None:
    """And waits for its children, who see that it is gone, but first end what they are at."""
    postmaster = psutil.Process(server.postmaster_pid)
    children = postmaster.children()
    postmaster.kill()
    assert psutil.wait_procs(children, timeout=20)[1] == []


def only(site: LiveSite, request: bytes) -> Answer:
    [answer] = crowd(site, request)
    return answer


def test_database_killed_answers_503_until_it_is_back(
    own_site: LiveSite, server: Server, slot: int
) -> None:
    assert get(f"{own_site.url}/")[0] == 200
    wish = {"slot": slot, "quantity": 1}
    hold = ask("POST", "/api/v1/bookings", wish, Idempotency_Key=KEY)
    held = only(own_site, hold)
    assert held.status == 201
    assert only(own_site, ask("POST", "/api/v1/auth/register", WHO)).status == 201
    token = only(own_site, ask("POST", "/api/v1/auth/token", WHO)).body["access"]
    kill_postmaster(server)
    by_token = {"Authorization": f"Bearer {token}"}
    answers = crowd(
        own_site,
        ask("GET", "/"),
        ask("GET", "/api/v1/slots"),
        ask("GET", "/api/v1/bookings", **by_token),
        ask("GET", f"/api/v1/bookings/by-key/{KEY}"),
        ask("GET", "/api/v1/health/ready"),
        ask("POST", "/api/v1/bookings", wish, **by_token),
        ask("POST", f"/api/v1/bookings/{held.body['id']}/confirm", DETAILS),
        ask("POST", "/api/v1/bookings", wish, Cookie=f"sessionid={'s' * 32}"),
        ask("POST", "/api/v1/auth/register", WHO),
        ask("POST", "/api/v1/auth/token", WHO),
        hold,
    )
    assert {answer.status for answer in answers} == {503}
    assert {answer.headers["Retry-After"] for answer in answers} == {"3"}
    assert max(answer.seconds for answer in answers) < 9  # three to connect; the pool waits ten
    page, *problems = answers
    assert b"<title>" in page.content
    assert b"Holdfast" in page.content
    for answer in problems:
        require_api_answer(answer)
    status, _, headers = get(f"{own_site.url}/health/ready")
    assert (status, headers["Retry-After"]) == (503, "3")
    assert get(f"{own_site.url}/health/live")[0] == 200

    server.forget()
    server.ensure_running()
    well = own_site.wait_until_answers("/api/v1/slots")
    print(f"killed and back: well again after {well:.2f} s")
    assert well < 9
    assert own_site.wait_until_answers("/") < 9
    again = only(own_site, hold)
    assert (again.status, again.body["id"]) == (200, held.body["id"])


def test_connections_lost_under_load_are_503s_and_then_well(
    own_site: LiveSite, server: Server, slot: int
) -> None:
    """One, and then all of them, again and again."""
    workers = {worker.pid for worker in own_site.workers()}
    hold = ask("POST", "/api/v1/bookings", {"slot": slot, "quantity": 1})
    page = ask("GET", "/")
    end = (
        "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' LIMIT %s) AS backend"
    )
    with ThreadPoolExecutor(16) as many, server.connect() as connection:
        asked = [
            many.submit(only, own_site, request) for _ in range(120) for request in (hold, page)
        ]
        for place, most in ((20, 1), (60, 1), (100, 1), (140, 1000), (180, 1000), (220, 1000)):
            asked[place].result()
            connection.execute(end, [most])
        answers = [future.result() for future in asked]
    holds, pages = answers[::2], answers[1::2]
    for answer in holds:
        require_api_answer(answer)
    lost = sum(answer.status == 503 for answer in answers)
    assert {answer.status for answer in holds} <= {201, 503}
    assert {answer.status for answer in pages} <= {200, 503}
    assert 0 < lost < 120
    well = own_site.wait_until_answers("/api/v1/slots")
    print(f"{lost} of 240 answers were 503; well again after {well:.2f} s")
    assert well < 6
    assert {worker.pid for worker in own_site.workers()} == workers


def test_bundled_database_killed_is_started_again_by_the_site_itself(
    own_site: LiveSite, server: Server, variables: dict[str, str]
) -> None:
    with live_site(**variables | {"DATABASE_URL": ""}) as site:
        assert get(f"{site.url}/")[0] == 200
        kill_postmaster(server)
        assert site.wait_until_answers("/") < 15
    server.forget()
    server.ensure_running()
