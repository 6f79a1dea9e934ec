"""A crowd at the door of a site: hundreds of connections, and all requests at one moment.

    answers = crowd(url, [ask("POST", "/api/v1/bookings", {"slot": 1, "quantity": 1})] * 200)
    assert tally(answers) == {(201, ""): 10, (409, "sold_out"): 190}

One thread sends and reads them all, so that the crowd is never what is slow.
"""

import http.client
import io
import json
import selectors
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

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


def connect(url: str, *, narrow: bool = False) -> socket.socket:
    """A connection; a `narrow` one takes little at a time, as a distant telephone does."""
    where = urlsplit(url)
    is_secure = where.scheme == "https"
    address = (where.hostname, where.port or (443 if is_secure else 80))
    if not narrow:
        connection = socket.create_connection(address, timeout=LIMIT)
    else:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        connection.settimeout(LIMIT)
        connection.connect(address)
    if is_secure:
        context = ssl.create_default_context()
        connection = context.wrap_socket(connection, server_hostname=where.hostname)
    return connection


def crowd(
    url: str, requests: Sequence[bytes], heard: Callable[[Answer], object] = lambda answer: None
) -> list[Answer]:
    """Sends all requests at once, when all are connected; returns the answers in their order.

    Each is also `heard` when it is there. Who has none within LIMIT seconds was cut off. Raises
    OSError if not all could connect.
    """
    connections: list[socket.socket] = []
    answers: dict[socket.socket, Answer] = {}
    try:
        for _ in requests:
            connections.append(connect(url))
        read = dict.fromkeys(connections, b"")
        with selectors.DefaultSelector() as waiting:
            started = time.monotonic()
            for connection, request in zip(connections, requests, strict=True):
                try:
                    connection.sendall(request)
                except OSError:
                    pass  # cut already, as reading will find
                connection.setblocking(False)
                waiting.register(connection, selectors.EVENT_READ)
            while len(answers) < len(connections) and time.monotonic() < started + LIMIT:
                for ready, _ in waiting.select(1):
                    connection = ready.fileobj
                    piece = _read(connection)
                    if piece is None:
                        continue
                    read[connection] += piece
                    if not piece:
                        seconds = time.monotonic() - started
                        answers[connection] = _parse(read[connection], seconds)
                        waiting.unregister(connection)
                        heard(answers[connection])
        hung = Answer(0, {}, b"", LIMIT)
        return [answers.get(connection, hung) for connection in connections]
    finally:
        for connection in connections:
            connection.close()


def tally(answers: Iterable[Answer]) -> dict[tuple[int, str], int]:
    """How many answers there are of each status and code."""
    return dict(Counter((answer.status, answer.code) for answer in answers))


def _read(connection: socket.socket) -> bytes | None:
    """What has come, all of it; nothing at the end; None if that is only part of something."""
    pieces = b""
    try:
        while piece := connection.recv(65536):
            pieces += piece
    except (BlockingIOError, ssl.SSLWantReadError):
        return pieces or None
    except OSError:
        pass
    return pieces  # the end, if it is none, is found the next time


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
