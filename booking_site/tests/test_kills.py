"""kill -9 of workers and of PostgreSQL at random moments, while a crowd books over HTTP: some by
the pages, some by programs, which repeat what had no answer under its Idempotency-Key.

Whatever dies: no answer is an error of ours, what was confirmed to somebody is booked, what is
booked has its one mail, a key is one booking, and the invariants hold.
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
import uuid
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from booking_site.embedded_postgres.server import Server
from booking_site.tests.live_site import BASE_DIR, LiveSite, live_site

SECONDS = float(os.environ.get("KILL_SECONDS", "6"))
CLIENTS = 8
LEFT_BEHIND = """
import json
from booking_site.tests.mails import queued_mails
from bookings.models import Booking
print(json.dumps([
    [str(b.pk) for b in Booking.objects.filter(status="CONFIRMED")],
    [[b.idempotency_key, str(b.pk)] for b in
     Booking.objects.filter(idempotency_key__startswith="program-")],
    [mail.body for mail in queued_mails()],
]))
"""
BOOKING = re.compile(r"^/bookings/([0-9a-f-]{36})/$")


class Client:
    """A patient who books again and again. Remembers what the site confirmed."""

    def __init__(self, site: LiveSite, slot_id: int, stop: threading.Event) -> None:
        self.host = urlsplit(site.url).netloc
        self.slot_id, self.stop = slot_id, stop
        self.cookies: dict[str, str] = {}
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
        self.cookies = {}
        status, _, page = self.ask("GET", f"/slots/{self.slot_id}/")
        if status != 200:
            return
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page).group(1)
        form = {"csrfmiddlewaretoken": token}
        wish = form | {"quantity": "2"}
        status, location, _ = self.send("POST", f"/slots/{self.slot_id}/hold", wish)
        if status != 303:
            return
        booking = BOOKING.match(location).group(1)
        details = {"name": "A Patient", "email": f"patient-{booking}@example.org"}
        status, _, _ = self.send("POST", f"/bookings/{booking}/confirm", form | details)
        if status == 303:
            self.confirmed.append(booking)

    def send(self, method: str, path: str, form: dict[str, str]) -> tuple[int, str, str]:
        """As `ask`, a form."""
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.ask(method, path, urlencode(form), kind)

    def ask(
        self, method: str, path: str, body: str = "", headers: dict[str, str] | None = None
    ) -> tuple[int, str, str]:
        """Status, Location and body."""
        connection = http.client.HTTPConnection(self.host, timeout=30)
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        try:
            connection.request(method, path, body, {"Cookie": cookies} | (headers or {}))
            answer = connection.getresponse()
            body = answer.read().decode()
            for cookie in answer.headers.get_all("Set-Cookie") or []:
                self.cookies |= {name: m.value for name, m in SimpleCookie(cookie).items()}
            self.statuses.append(answer.status)
            return answer.status, answer.headers.get("Location", ""), body
        finally:
            connection.close()


class Program(Client):
    """Books by the API. Does not give up what it began before it has an answer.

    Every other one asks first whether a request that had none has arrived.
    """

    def __init__(self, *args: Any, asks_first: bool) -> None:
        super().__init__(*args)
        self.asks_first = asks_first
        self.booked: dict[str, str] = {}  # ids by key
        self.arrived = 0  # requests without an answer that turned out to have been done

    def book_once(self) -> None:
        key = f"program-{uuid.uuid4()}"
        wish = {"slot": self.slot_id, "quantity": 2}
        booking = self.insist("/api/v1/bookings", wish, key)["id"]
        self.booked[key] = booking
        details = {"name": "A Program", "email": f"program-{booking}@example.org"}
        assert self.insist(f"/api/v1/bookings/{booking}/confirm", details)["id"] == booking
        self.confirmed.append(booking)

    def insist(self, path: str, body: dict[str, Any], key: str = "") -> dict[str, Any]:
        """What is answered in the end."""
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        is_repeated = False
        while True:
            try:
                if key and is_repeated and self.asks_first:
                    status, _, answer = self.ask("GET", f"/api/v1/bookings/by-key/{key}")
                    if status == 200:
                        self.arrived += 1
                        return json.loads(answer)
                status, _, answer = self.ask("POST", path, json.dumps(body), headers)
                if status in (200, 201):
                    self.arrived += key != "" and status == 200
                    return json.loads(answer)
            except (OSError, http.client.HTTPException):
                self.statuses.append(0)
            is_repeated = True
            time.sleep(0.05)


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
    migrated_server: Server, django_db_blocker: object, seed: int
) -> None:
    chance = random.Random(seed)
    server = migrated_server
    server.ensure_running()
    environment = {"DATABASE_URL": "", "DATA_DIR": str(server.data_dir)}
    make_slot = "from booking_site.tests.factories import SlotFactory as S;"
    make_slot += "print(S(places=30000).pk)"
    slot_id = int(manage(environment, "shell", "-v0", "-c", make_slot))
    stop = threading.Event()
    killed = {"worker": 0, "postgres": 0}
    with live_site(**environment, WEB_CONCURRENCY="2") as site:
        patients = [Client(site, slot_id, stop) for _ in range(CLIENTS // 2)]
        programs = [
            Program(site, slot_id, stop, asks_first=n % 2 == 0) for n in range(CLIENTS // 2)
        ]
        clients = patients + programs
        threads = [threading.Thread(target=client.book_until_stopped) for client in clients]
        for thread in threads:
            thread.start()

        def count_confirmed() -> int:
            return sum(len(client.confirmed) for client in clients)

        # On a busy machine longer, and less often: until somebody has come through between two.
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < SECONDS or not count_confirmed():
            assert elapsed < SECONDS + 60, "nobody can book between the kills"
            stop.wait(chance.uniform(0.3, 1.5) * min(4, 1 + elapsed // SECONDS))
            if chance.random() < 0.5 and (workers := site.workers()):
                chance.choice(workers).kill()
                killed["worker"] += 1
            else:
                server.forget()
                server.ensure_running()
                os.kill(server.postmaster_pid, signal.SIGKILL)
                killed["postgres"] += 1
        recovery = site.wait_until_answers(f"/slots/{slot_id}/")
        before = count_confirmed()
        deadline = time.monotonic() + 30
        while count_confirmed() == before:  # they book on
            assert time.monotonic() < deadline, "nobody books any more"
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join(timeout=60)
        assert not any(thread.is_alive() for thread in threads)
    statuses = [status for client in clients for status in client.statuses]
    confirmed = [booking for client in clients for booking in client.confirmed]
    arrived = sum(program.arrived for program in programs)
    print(
        f"{killed}, {len(confirmed)} confirmed, well again after {recovery:.1f} s; "
        f"{statuses.count(0)} cut off, {statuses.count(503)} times 503, {arrived} had arrived"
    )
    assert set(statuses) <= {0, 200, 201, 303, 404, 503}
    assert min(killed.values()) > 0
    assert len(confirmed) > before > 0

    booked, by_key, mails = json.loads(manage(environment, "shell", "-v0", "-c", LEFT_BEHIND))
    assert set(confirmed) <= set(booked)
    # Who repeats with a key until there is an answer has one booking for it, and no other.
    programs_know = {key: pk for program in programs for key, pk in program.booked.items()}
    assert sorted(by_key) == sorted([key, pk] for key, pk in programs_know.items())
    # Each has its one mail, and nothing else has.
    told = [re.search(r"/bookings/([0-9a-f-]{36})/\n", body).group(1) for body in mails]
    assert sorted(told) == sorted(booked)
    assert "invariants hold" in manage(environment, "check_invariants")
