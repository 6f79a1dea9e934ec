"""kill -9 of workers and of PostgreSQL at random moments, while a crowd books over HTTP.

Whatever dies: no answer is an error of ours, what was confirmed to somebody is booked, what is
booked has its one mail, and the invariants hold.
"""

import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urlsplit

import pytest

from booking_site.embedded_postgres.server import Server
from booking_site.tests.live_site import BASE_DIR, LiveSite, live_site

SECONDS = float(os.environ.get("KILL_SECONDS", "12"))
CLIENTS = 8
BOOKING = re.compile(r"^/bookings/([0-9a-f-]{36})/$")


class Client:
    """A patient who books again and again. Remembers what the site confirmed."""

    def __init__(self, site: LiveSite, slot_id: int, stop: threading.Event) -> None:
        self.host = urlsplit(site.url).netloc
        self.slot_id, self.stop = slot_id, stop
        self.statuses: list[int] = []
        self.confirmed: list[str] = []

    def book_until_stopped(self) -> None:
        while not self.stop.is_set():
            try:
                self.book_once()
            except (OSError, http.client.HTTPException):
                self.statuses.append(0)  # cut off: whoever answered was killed
                time.sleep(0.05)

    def book_once(self) -> None:
        self.cookies: dict[str, str] = {}
        status, _, page = self.ask("GET", f"/slots/{self.slot_id}/")
        if status != 200:
            return
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page).group(1)
        form = {"csrfmiddlewaretoken": token}
        status, location, _ = self.ask(
            "POST", f"/slots/{self.slot_id}/hold", form | {"quantity": "2"}
        )
        if status != 303:
            return
        booking = BOOKING.match(location).group(1)
        details = {"name": "A Patient", "email": f"patient-{booking}@example.org"}
        status, _, _ = self.ask("POST", f"/bookings/{booking}/confirm", form | details)
        if status == 303:
            self.confirmed.append(booking)

    def ask(
        self, method: str, path: str, form: dict[str, str] | None = None
    ) -> tuple[int, str, str]:
        """Status, Location and body."""
        connection = http.client.HTTPConnection(self.host, timeout=30)
        headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        if form:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            connection.request(method, path, urlencode(form) if form else None, headers)
            answer = connection.getresponse()
            body = answer.read().decode()
            for cookie in answer.headers.get_all("Set-Cookie") or []:
                self.cookies |= {name: m.value for name, m in SimpleCookie(cookie).items()}
            self.statuses.append(answer.status)
            return answer.status, answer.headers.get("Location", ""), body
        finally:
            connection.close()


def manage(environment: dict[str, str], *arguments: str) -> str:
    """What a management command prints. Raises if it fails."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=BASE_DIR,
        env=os.environ | environment | {"DJANGO_SETTINGS_MODULE": "booking_site.settings"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.mark.parametrize("seed", [int(os.environ.get("KILL_SEED", "1"))])
def test_kills_at_random_moments_lose_no_confirmed_booking(
    server: Server, django_db_blocker: object, seed: int
) -> None:
    chance = random.Random(seed)
    server.ensure_running()
    environment = {"DATABASE_URL": "", "DATA_DIR": str(server.data_dir)}
    manage(environment, "migrate", "--verbosity=0")
    make_slot = "from booking_site.tests.factories import SlotFactory as S;"
    make_slot += "print(S(places=30000).pk)"
    slot_id = int(manage(environment, "shell", "-v0", "-c", make_slot))
    stop = threading.Event()
    killed = {"worker": 0, "postgres": 0}
    with live_site(**environment) as site:
        clients = [Client(site, slot_id, stop) for _ in range(CLIENTS)]
        threads = [threading.Thread(target=client.book_until_stopped) for client in clients]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            stop.wait(chance.uniform(0.3, 1.5))
            if chance.random() < 0.5 and (workers := site.workers()):
                chance.choice(workers).kill()
                killed["worker"] += 1
            else:
                server.forget()
                server.ensure_running()
                os.kill(server.postmaster_pid, signal.SIGKILL)
                killed["postgres"] += 1
        recovery = site.wait_until_answers(f"/slots/{slot_id}/")
        before = sum(len(client.confirmed) for client in clients)
        time.sleep(1)  # and they book on
        stop.set()
        for thread in threads:
            thread.join(timeout=60)
        assert not any(thread.is_alive() for thread in threads)
    statuses = [status for client in clients for status in client.statuses]
    confirmed = [booking for client in clients for booking in client.confirmed]
    print(f"{killed}, {len(confirmed)} confirmed, well again after {recovery:.1f} s")
    assert set(statuses) <= {0, 200, 303, 503}
    assert min(killed.values()) > 0
    assert len(confirmed) > before > 0

    sold = "import json; from bookings.models import Booking as B;"
    sold += "print(json.dumps([str(b.pk) for b in B.objects.filter(status='CONFIRMED')]))"
    booked = json.loads(manage(environment, "shell", "-v0", "-c", sold))
    assert set(confirmed) <= set(booked)
    # Each has its one mail, and nothing else has.
    mails = "import json; from booking_site.tests.mails import queued_mails as q;"
    mails += "print(json.dumps([mail.body for mail in q()]))"
    queued = json.loads(manage(environment, "shell", "-v0", "-c", mails))
    told = [re.search(r"/bookings/([0-9a-f-]{36})/\n", body).group(1) for body in queued]
    assert sorted(told) == sorted(booked)
    assert "invariants hold" in manage(environment, "check_invariants")
