"""The crowd of `booking_site.crowd`, at a site of the tests.

answers = crowd(site, *[ask("POST", "/api/v1/bookings", {"slot": 1, "quantity": 1})] * 200)
assert tally(answers) == {(201, ""): 10, (409, "sold_out"): 190}
"""

import socket
from http import HTTPStatus

from booking_site import crowd as real
from booking_site.crowd import Answer, ask, tally
from booking_site.tests.live_site import LiveSite

__all__ = ["Answer", "ask", "connect", "crowd", "require_api_answer", "tally"]


def connect(site: LiveSite, *, narrow: bool = False) -> socket.socket:
    return real.connect(site.url, narrow=narrow)


def crowd(site: LiveSite, *requests: bytes) -> list[Answer]:
    answers = real.crowd(site.url, requests)
    hanging = sum(answer.seconds >= real.LIMIT for answer in answers)
    assert hanging == 0, f"{hanging} have no answer"
    return answers


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
