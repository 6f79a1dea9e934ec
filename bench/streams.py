"""Thousands of open event streams in one thread, and how long a change takes to reach them all."""

import json
import re
import resource
import selectors
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

A_CLIENT = 20  # streams that come from one address, as far as the site can tell
OPENING = 30  # seconds in which all must be open
PATIENCE = 10  # seconds for a change to reach everybody
SEEN = re.compile(rb'[?&;-]seen="?([0-9a-f]+)')  # the fingerprint, in a page's HTML
AT_ONCE = 100  # connections opened before the others are listened to again


class Streams:
    """Event streams of a slot's page, and what has arrived in each."""

    def __init__(self, url: str, slot: int) -> None:
        self.where, self.slot = urlsplit(url), slot
        self.open: set[socket.socket] = set()
        self.refused: Counter[str] = Counter()  # answered, but not with a stream: by status
        self.broken = 0  # ended by the site
        self.bytes = 0
        self._waiting = selectors.DefaultSelector()
        self._heads: dict[socket.socket, bytes] = {}  # what has come of those not yet open
        self._tails: dict[socket.socket, bytes] = {}
        self._marker = b""
        self._arrived: dict[socket.socket, float] = {}
        self._is_over = False
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def connect(self, number: int) -> None:
        """Opens so many; returns when each is open, refused, or has had its time.

        As a page does, each says what it has seen.
        """
        with urllib.request.urlopen(f"{self.where.geturl()}/slots/{self.slot}/") as page:
            shown = SEEN.search(page.read())
        query = f"?seen={shown[1].decode()}" if shown else ""
        for n in range(number):
            connection = socket.create_connection((self.where.hostname, self.where.port), OPENING)
            client = n // A_CLIENT
            # HTTP/1.0 has no chunks, so that what arrives is the events.
            connection.sendall(
                f"GET /slots/{self.slot}/live{query} HTTP/1.0\r\nHost: {self.where.netloc}\r\n"
                "Accept: text/event-stream\r\n"
                f"X-Forwarded-For: 10.9.{client // 250}.{client % 250 + 1}\r\n\r\n".encode()
            )
            connection.setblocking(False)
            self._heads[connection] = b""
            self._waiting.register(connection, selectors.EVENT_READ)
            if n % AT_ONCE == AT_ONCE - 1:
                self._read_for(0.01)
        deadline = time.monotonic() + OPENING
        while self._heads and time.monotonic() < deadline:
            self._read_for(0.1)
        self._thread.start()

    def watch_for(self, marker: str) -> None:
        """From now on the arrival of this text counts, or of “stale”, which says the same."""
        self._marker = b""
        self._tails = dict.fromkeys(self.open, b"")
        self._arrived = {}
        self._marker = marker.encode()

    def wait_for_all(self, seconds: float) -> int:
        """Waits until it has arrived everywhere, but no longer; in how many streams it has."""
        deadline = time.monotonic() + seconds
        while len(self._arrived) < len(self.open) and time.monotonic() < deadline:
            time.sleep(0.01)
        return len(self._arrived)

    def arrivals(self) -> list[float]:
        """When it arrived, by time.monotonic(), in those streams where it has."""
        return list(self._arrived.values())

    def close(self) -> None:
        self._is_over = True
        if self._thread.is_alive():
            self._thread.join()
        for connection in [*self.open, *self._heads]:
            connection.close()
        self._waiting.close()

    def _listen(self) -> None:
        while not self._is_over:
            self._read_for(0.2)

    def _read_for(self, seconds: float) -> None:
        for key, _ in self._waiting.select(seconds):
            connection = key.fileobj
            try:
                piece = connection.recv(1 << 18)
            except BlockingIOError:
                continue
            except OSError:
                piece = b""
            if not piece:
                self._drop(connection)
            elif connection in self._heads:
                self._read_head(connection, piece)
            else:
                self._read_events(connection, piece)

    def _read_head(self, connection: socket.socket, piece: bytes) -> None:
        head = self._heads[connection] + piece
        self._heads[connection] = head
        if b"\r\n\r\n" not in head:
            return
        if head.split(None, 2)[1] == b"200":
            del self._heads[connection]
            self.open.add(connection)
            self._tails[connection] = b""
        else:
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        self._waiting.unregister(connection)
        connection.close()
        if connection in self.open:
            self.open.discard(connection)
            self.broken += 1
        else:
            head = self._heads.pop(connection, b"").split(None, 2)
            self.refused[head[1].decode() if len(head) > 1 else "cut"] += 1

    def _read_events(self, connection: socket.socket, piece: bytes) -> None:
        self.bytes += len(piece)
        marker = self._marker
        if not marker or connection in self._arrived:
            return
        text = self._tails[connection] + piece
        if marker in text or b"event: stale" in text:
            self._arrived[connection] = time.monotonic()
            text = b""
        self._tails[connection] = text[-100:]


@contextmanager
def streams(url: str, slot: int, number: int) -> Iterator[Streams]:
    """So many open streams of that slot, listened to in a thread, and closed afterwards."""
    _allow_files(number + 512)
    opened = Streams(url, slot)
    try:
        opened.connect(number)
        yield opened
    finally:
        opened.close()


class Probe(threading.Thread):
    """Holds one seat after the other of the slot, and times the arrival of each change.

    `delays` has the seconds from a hold's answer to its arrival, of each stream and probe;
    `missed` counts those in which it never arrived.
    """

    def __init__(self, opened: Streams, url: str, seats: Sequence[int], pause: float) -> None:
        super().__init__(daemon=True)
        self.opened, self.url, self.seats, self.pause = opened, url, list(seats), pause
        self.delays: list[float] = []
        self.missed = self.probes = 0
        self._is_over = threading.Event()

    def run(self) -> None:
        while self.seats and not self._is_over.wait(self.pause):
            seat = self.seats.pop()
            self.opened.watch_for(f",{seat},")
            try:
                answered = self._hold(seat)
            except OSError:
                continue
            self.opened.wait_for_all(PATIENCE)
            arrivals = self.opened.arrivals()
            self.probes += 1
            self.delays += [max(at - answered, 0.0) for at in arrivals]
            self.missed += max(len(self.opened.open) - len(arrivals), 0)

    def stop(self) -> None:
        self._is_over.set()
        self.join()

    def _hold(self, seat: int) -> float:
        """Holds it; returns when the answer was there."""
        body = json.dumps({"slot": self.opened.slot, "seat_ids": [seat]}).encode()
        request = urllib.request.Request(
            f"{self.url}/api/v1/bookings", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            response.read()
        return time.monotonic()


def _allow_files(number: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        most = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
