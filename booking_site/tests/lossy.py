"""A way to the site on which answers are lost when a test says so.

with lossy(site) as way:
    page.goto(f"{way.url}/slots/1/")
    way.lose("POST /slots/1/hold", after="answer", then=kill_workers)
"""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit

from booking_site.tests.live_site import LiveSite

LIMIT = 30  # seconds


class LossyWay:
    """Passes requests on, each on a connection of its own."""

    def __init__(self, site: LiveSite, door: socket.socket) -> None:
        self.site = site
        self.door = door
        self.url = f"http://127.0.0.1:{door.getsockname()[1]}"
        self.is_down = False
        self.requests: list[str] = []  # “GET /slots/1/”
        self._loss = ("", "", None)
        self._lost = threading.Event()

    def lose(
        self,
        request: str,
        *,
        after: Literal["nothing", "request", "answer", "503"],
        then: Callable[[], object] = lambda: None,
    ) -> None:
        """Cuts such requests off: before they reach the site, when they have been passed on, or
        when the site has answered; or answers 503 in place of the site. The first time does `then`.

        Until the page asks what became of it, or `mend`: Chromium sends a request that was cut off
        on a connection made in advance again by itself.
        """
        self._lost.clear()
        self._loss = (request, after, then)

    def mend(self) -> None:
        self._loss = ("", "", None)

    def wait_until_lost(self) -> None:
        assert self._lost.wait(LIMIT), "nobody sent it"

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.door.accept()
            except OSError:
                return
            threading.Thread(target=self._serve_one, args=(client,), daemon=True).start()

    def _serve_one(self, client: socket.socket) -> None:
        client.settimeout(LIMIT)
        with client, suppress(OSError):
            request = _read_request(client)
            line = request.partition(b" HTTP/")[0].decode()
            if not line or self.is_down:
                return
            self.requests.append(line)
            # The page may still be asking about an earlier loss: that mends no later one.
            if "/outcome?" in line and self._loss[2] is None:
                self.mend()
            lost, after, then = self._loss
            if lost != line:
                self._pass_on(request, client)
                return
            self._loss = (lost, after, None)
            with suppress(OSError):  # its worker was killed
                if after != "nothing":
                    self._pass_on(request, client, after)
            if then:
                then()
            if after == "503":
                client.sendall(b"HTTP/1.1 503 Gone\r\nConnection: close\r\n\r\nbusy")
            client.close()
            self._lost.set()

    def _pass_on(self, request: bytes, client: socket.socket, after: str = "") -> None:
        where = urlsplit(self.site.url)
        request = re.sub(rb"(?i)\r\nConnection: [^\r]*", b"\r\nConnection: close", request, count=1)
        with socket.create_connection((where.hostname, where.port), timeout=LIMIT) as there:
            there.sendall(request)
            while after != "request" and (piece := there.recv(65536)):
                if not after:
                    client.sendall(piece)


def _read_request(client: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        if not (piece := client.recv(65536)):
            return b""
        request += piece
    head, _, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\nContent-Length: (\d+)", head)
    missing = int(length[1]) - len(body) if length else 0
    while missing > 0:
        piece = client.recv(65536)
        request, missing = request + piece, missing - len(piece)
    return request


@contextmanager
def lossy(site: LiveSite) -> Iterator[LossyWay]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as door:
        way = LossyWay(site, door)
        threading.Thread(target=way.serve, daemon=True).start()
        yield way
        with suppress(OSError):
            door.shutdown(socket.SHUT_RDWR)
