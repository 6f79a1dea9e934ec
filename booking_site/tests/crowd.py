"""A crowd at the door of a real site: hundreds of connections, and all requests at one moment.

    answers = crowd(site, *[ask("POST", "/api/v1/bookings", {"slot": 1, "quantity": 1})] * 200)
    assert tally(answers) == {(201, ""): 10, (409, "sold_out"): 190}

One thread sends and reads them all, so that the crowd is never what is slow.
"""

import http.client
import io
import json
import selectors
import socket
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from booking_site.tests.live_site import LiveSite

LIMIT = 60  # seconds: who has no answer by then hangs


@dataclass(frozen=True)
class Answer:
    """What came back, and after how many seconds. Status 0: the connection was cut."""

    status: int
    headers: dict[str, str]
    content: bytes
    seconds: float

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    @property
    def code(self) -> str:
        """Of a problem its code, else nothing."""
        return self.body["code"] if self.status >= 400 else ""


def ask(method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """A request as it is sent. `Idempotency_Key="…"` is the header Idempotency-Key."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = {"Host": "127.0.0.1", "Connection": "close"}
    if body is not None:
        lines |= {"Content-Type": "application/json"}
    if method == "POST":
        lines |= {"Content-Length": str(len(content))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + content


def connect(site: LiveSite, *, narrow: bool = False) -> socket.socket:
    """A connection; a `narrow` one takes little at a time, as a distant telephone does."""
    where = urlsplit(site.url)
    connection = socket.socket()
    if narrow:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    connection.settimeout(LIMIT)
    connection.connect((where.hostname, where.port))
    return connection


def crowd(site: LiveSite, *requests: bytes) -> list[Answer]:
    """Sends all requests at once, when all are connected; returns the answers in their order."""
    connections = [connect(site) for _ in requests]
    read = dict.fromkeys(connections, b"")
    answers: dict[socket.socket, Answer] = {}
    with selectors.DefaultSelector() as waiting:
        started = time.monotonic()
        for connection, request in zip(connections, requests, strict=True):
            connection.sendall(request)
            connection.setblocking(False)
            waiting.register(connection, selectors.EVENT_READ)
        while len(answers) < len(connections):
            seconds = time.monotonic() - started
            assert seconds < LIMIT, f"{len(connections) - len(answers)} have no answer"
            for ready, _ in waiting.select(1):
                connection = ready.fileobj
                try:
                    piece = connection.recv(65536)
                except OSError:
                    piece = b""
                read[connection] += piece
                if not piece:
                    seconds = time.monotonic() - started
                    answers[connection] = _parse(read[connection], seconds)
                    waiting.unregister(connection)
                    connection.close()
    return [answers[connection] for connection in connections]


def tally(answers: Iterable[Answer]) -> dict[tuple[int, str], int]:
    """How many answers there are of each status and code."""
    return dict(Counter((answer.status, answer.code) for answer in answers))


def require_api_answer(answer: Answer) -> None:
    """Asserts that it is one as the API gives it: whole, JSON, and of an error a problem."""
    assert answer.status in (200, 201, 409, 503), (answer.status, answer.content[:200])
    if answer.status < 400:
        assert answer.headers["Content-Type"].startswith("application/json")
        return
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.body["status"] == answer.status
    assert answer.body["title"] == HTTPStatus(answer.status).phrase
    if answer.status == 503:
        assert answer.code == "busy"
        assert int(answer.headers["Retry-After"]) > 0
    else:
        assert "Retry-After" not in answer.headers


class _Received:
    """What was read from a socket, for http.client to make sense of."""

    def __init__(self, received: bytes) -> None:
        self.received = received

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.received)


def _parse(received: bytes, seconds: float) -> Answer:
    response = http.client.HTTPResponse(_Received(received))
    try:
        response.begin()
        content = response.read()
    except (http.client.HTTPException, ValueError):
        return Answer(0, {}, b"", seconds)
    return Answer(response.status, dict(response.headers), content, seconds)
