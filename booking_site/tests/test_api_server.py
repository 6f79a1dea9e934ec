"""The JSON API under a crowd, over HTTP: races, 500 connections at once, clients that are slow.

`API_CROWD=2000 RACE_ROUNDS=20 pytest booking_site/tests/test_api_server.py -s` runs them at length.
"""

import os
import socket
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpResponse
from django.test import RequestFactory
from django.utils import timezone

from booking_site import middleware
from booking_site.tests.crowd import ask, connect, crowd, require_api_answer, tally
from booking_site.tests.factories import SlotFactory
from booking_site.tests.live_site import LiveSite, live_site
from booking_site.tests.races import ROUNDS, assert_sound, lapse
from bookings.models import Booking
from slots.models import Seat, Slot

pytestmark = pytest.mark.django_db(transaction=True)

CROWD = int(os.environ.get("API_CROWD", "500"))
rounds = pytest.mark.parametrize("round", range(ROUNDS))


@pytest.fixture(scope="module")
def site(django_db_setup: None, django_db_blocker: object) -> Iterator[LiveSite]:
    """Two processes at least: what one remembers must not be what keeps them from overselling."""
    with django_db_blocker.unblock(), live_site(WEB_CONCURRENCY="2", LOG_LEVEL="WARNING") as site:
        assert len(site.workers()) == 2
        yield site


def hold(slot: Slot, **wish: object) -> bytes:
    return ask("POST", "/api/v1/bookings", {"slot": slot.pk} | wish)


def act(booking: str, action: str, body: object = None) -> bytes:
    return ask("POST", f"/api/v1/bookings/{booking}/{action}", body)


def confirm(booking: str) -> bytes:
    """For an address of its own: what one address is sent is counted, and one by one."""
    return act(booking, "confirm", {"name": "Ada", "email": f"{booking}@example.org"})


def booked(site: LiveSite, *requests: bytes) -> list[str]:
    """Sends those; returns the ids of the bookings that they made."""
    answers = crowd(site, *requests)
    assert tally(answers) == {(201, ""): len(requests)}
    return [answer.body["id"] for answer in answers]


def owned_seats() -> int:
    return Seat.objects.filter(booking__isnull=False).count()


# ── Races ─────────────────────────────────────────────────────────────────────────────────────────


@rounds
def test_one_named_seat_wanted_by_200_is_sold_to_one(site: LiveSite, round: int) -> None:
    slot = SlotFactory(rows=1, seats_per_row=5)
    wanted = slot.seats.first()
    answers = crowd(site, *[hold(slot, seat_ids=[wanted.pk])] * 200)
    assert tally(answers) == {(201, ""): 1, (409, "seats_taken"): 199}
    assert {tuple(a.body["seats"]) for a in answers if a.status == 409} == {(wanted.label,)}
    assert owned_seats() == 1
    assert_sound()


@rounds
def test_last_place_wanted_by_200_is_sold_to_one(site: LiveSite, round: int) -> None:
    slot = SlotFactory(places=1)
    answers = crowd(site, *[hold(slot, quantity=1)] * 200)
    assert tally(answers) == {(201, ""): 1, (409, "sold_out"): 199}
    assert_sound()


@rounds
def test_100_places_for_80_buyers_of_4_are_all_sold(site: LiveSite, round: int) -> None:
    slot = SlotFactory(places=100)
    answers = crowd(site, *[hold(slot, quantity=4)] * 80)
    assert tally(answers) == {(201, ""): 25, (409, "sold_out"): 55}
    sold = [seat["id"] for a in answers if a.status == 201 for seat in a.body["seats"]]
    assert len(sold) == len(set(sold)) == owned_seats() == 100
    assert_sound()


@rounds
def test_different_free_seats_are_refused_to_nobody(site: LiveSite, round: int) -> None:
    slot = SlotFactory(rows=10, seats_per_row=10)
    answers = crowd(site, *[hold(slot, seat_ids=[seat.pk]) for seat in slot.seats.all()])
    assert tally(answers) == {(201, ""): 100}
    assert owned_seats() == 100
    assert_sound()


@rounds
@pytest.mark.parametrize("by", ["seat_ids", "quantity"])
def test_one_key_from_30_connections_is_one_booking(site: LiveSite, by: str, round: int) -> None:
    slot = SlotFactory(places=40)
    body = {"slot": slot.pk, "quantity": 1}
    if by == "seat_ids":
        body = {"slot": slot.pk, "seat_ids": [slot.seats.first().pk]}
    key = str(uuid.uuid4())
    answers = crowd(site, *[ask("POST", "/api/v1/bookings", body, Idempotency_Key=key)] * 30)
    assert tally(answers) == {(201, ""): 1, (200, ""): 29}
    assert {answer.body["id"] for answer in answers} == {str(Booking.objects.get().pk)}
    assert owned_seats() == 1
    [arrived] = crowd(site, ask("GET", f"/api/v1/bookings/by-key/{key}"))
    assert (arrived.status, arrived.body["id"]) == (200, answers[0].body["id"])
    assert_sound()


@rounds
def test_confirming_beside_moving_ends_confirmed_on_the_new_slot(
    site: LiveSite, round: int
) -> None:
    slot, other = SlotFactory(places=10), SlotFactory(places=10)
    ids = booked(site, *[hold(slot, quantity=1)] * 10)
    move = {"slot": other.pk, "quantity": 1}
    requests = [
        request
        for pk in ids
        for request in (
            confirm(pk),
            act(pk, "reschedule", move),
            confirm(pk),
        )
    ]
    assert tally(crowd(site, *requests)) == {(200, ""): 30}
    ended = Booking.objects.filter(status=Booking.Status.CONFIRMED, slot=other)
    assert sorted(str(booking.pk) for booking in ended) == sorted(ids)
    assert (slot.seats.free().count(), other.seats.free().count()) == (10, 0)
    assert_sound()


@rounds
def test_cancelling_beside_confirming_and_moving_ends_cancelled(site: LiveSite, round: int) -> None:
    slot, other = SlotFactory(places=10), SlotFactory(places=10)
    ids = booked(site, *[hold(slot, quantity=1)] * 10)
    move = {"slot": other.pk, "quantity": 1}
    requests = [
        request
        for pk in ids
        for request in (
            confirm(pk),
            act(pk, "reschedule", move),
            act(pk, "cancel"),
            confirm(pk),
        )
    ]
    answers = crowd(site, *requests)
    assert tally(answers[2::4]) == {(200, ""): 10}
    assert {answer.body["status"] for answer in answers[2::4]} == {"CANCELLED"}
    assert set(tally(answers)) <= {(200, ""), (409, "wrong_state")}
    assert Booking.objects.filter(pk__in=ids, status=Booking.Status.CANCELLED).count() == 10
    assert owned_seats() == 0
    assert_sound()


@rounds
def test_hold_that_lapsed_is_sold_again_to_one_and_confirmed_to_nobody(
    site: LiveSite, round: int
) -> None:
    slot = SlotFactory(rows=1, seats_per_row=10)
    seats = list(slot.seats.all())
    late = booked(site, *[hold(slot, seat_ids=[seat.pk]) for seat in seats])
    lapse(*Booking.objects.filter(pk__in=late))
    requests = [
        request
        for pk, seat in zip(late, seats, strict=True)
        for request in (confirm(pk), *[hold(slot, seat_ids=[seat.pk])] * 4)
    ]
    answers = crowd(site, *requests)
    assert tally(answers) == {
        (409, "hold_expired"): 10,
        (201, ""): 10,
        (409, "seats_taken"): 30,
    }
    assert_sound()


@rounds
def test_hold_that_lapses_this_instant_is_confirmed_or_sold_again_never_both(
    site: LiveSite, round: int
) -> None:
    slot = SlotFactory(rows=4, seats_per_row=10)
    seats = list(slot.seats.all())
    ids = booked(site, *[hold(slot, seat_ids=[seat.pk]) for seat in seats])
    end = timezone.now() + timedelta(seconds=0.15)
    Booking.objects.filter(pk__in=ids).update(expires_at=end)
    Seat.objects.filter(booking__in=ids).update(held_until=end)
    requests = [
        request
        for pk, seat in zip(ids, seats, strict=True)
        for request in (confirm(pk), hold(slot, seat_ids=[seat.pk]))
    ]
    answers = crowd(site, *requests)
    pairs = zip(answers[::2], answers[1::2], strict=True)
    assert {(late.status, again.status) for late, again in pairs} <= {
        (200, 409),
        (409, 201),
        (409, 409),  # held again too early, and confirmed too late
    }
    assert_sound()


# ── Very many, and very slow ones ─────────────────────────────────────────────────────────────────


def test_500_connections_at_once_are_all_answered_and_then_all_is_well(site: LiveSite) -> None:
    slot = SlotFactory(places=CROWD // 10)
    [before] = crowd(site, ask("GET", f"/api/v1/slots/{slot.pk}"))
    workers = {worker.pid for worker in site.workers()}
    requests = [
        hold(slot, quantity=1),
        ask("GET", f"/api/v1/slots/{slot.pk}"),
        hold(slot, seat_ids=[slot.seats.first().pk]),
        ask("GET", "/api/v1/slots?available=true"),
        ask("GET", "/api/v1/health/ready"),
    ]
    answers = crowd(site, *[requests[n % len(requests)] for n in range(CROWD)])
    for answer in answers:
        require_api_answer(answer)
    started = time.monotonic()
    [after] = crowd(site, ask("GET", f"/api/v1/slots/{slot.pk}"))
    well = time.monotonic() - started
    print(
        f"{CROWD} connections: {tally(answers)}, the last after "
        f"{max(answer.seconds for answer in answers):.2f} s; well again after {well:.3f} s "
        f"({after.seconds * 1000:.0f} ms; before {before.seconds * 1000:.0f} ms)"
    )
    assert after.status == 200
    assert well < 6
    assert {worker.pid for worker in site.workers()} == workers
    assert_sound()


def test_500_clients_who_send_half_a_request_keep_nobody_waiting(site: LiveSite) -> None:
    slot = SlotFactory(places=100)
    whole = ask(
        "POST",
        "/api/v1/bookings",
        {"slot": slot.pk, "quantity": 1},
        Cookie="sessionid=0123456789abcdefghijklmnopqrstuv",
    )
    halves = [b"", whole[:50], whole[:-5]]
    slow = [connect(site) for _ in range(CROWD)]
    try:
        for n, connection in enumerate(slow):
            connection.sendall(halves[n % len(halves)])
        answers = crowd(site, *[hold(slot, quantity=1)] * 20)
        assert tally(answers) == {(201, ""): 20}
    finally:
        for connection in slow:
            connection.close()
    assert_sound()


def test_clients_who_read_nothing_keep_nobody_waiting(site: LiveSite) -> None:
    slot = SlotFactory(places=1_000)
    slow = [connect(site, narrow=True) for _ in range(24)]
    try:
        for connection in slow:
            connection.sendall(ask("GET", f"/api/v1/slots/{slot.pk}/seats"))
        answers = crowd(site, *[hold(slot, quantity=1)] * 20)
        assert tally(answers) == {(201, ""): 20}
    finally:
        for connection in slow:
            connection.close()
    assert_sound()


def test_client_who_falls_silent_is_given_up(
    rf: RequestFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "SILENCE", 0.05)
    whole = middleware.WholeRequestMiddleware(lambda request: pytest.fail("half a request"))
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb") as sent:
        theirs.sendall(b'{"slot": ')
        environ = rf.post("/api/v1/bookings").environ
        environ |= {"gunicorn.socket": ours, "wsgi.input": sent, "CONTENT_LENGTH": "40"}
        assert whole(WSGIRequest(environ)).status_code == 400


def test_body_far_too_large_is_read_to_its_end_and_told_so(site: LiveSite) -> None:
    [answer] = crowd(site, ask("POST", "/api/v1/bookings", {"name": "x" * 8_000_000}))
    assert tally([answer]) == {(413, "too_large"): 1}


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
def test_request_that_broke_off_is_not_acted_on(site: LiveSite, kind: str) -> None:
    """What came of it makes sense: JSON that blanks could follow, and a form of a page."""
    slot = SlotFactory(places=2)
    path, body = "/api/v1/bookings", f'{{"slot": {slot.pk}, "quantity": 1}}'
    if kind != "application/json":
        path, body = f"/slots/{slot.pk}/hold", "quantity=1"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    with connect(site) as connection:
        connection.sendall(f"{head}Content-Length: {len(body) + 1}\r\n\r\n{body}".encode())
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answer:
            assert answer.readline().startswith(b"HTTP/1.1 400 ")
            assert b"broke off" in answer.read()
    assert not Booking.objects.exists()


@pytest.mark.parametrize(("size", "is_kept"), [(64 * 1024, True), (64 * 1024 + 1, False)])
def test_body_too_large_for_the_api_is_read_but_not_kept(
    rf: RequestFactory, size: int, is_kept: bool
) -> None:
    request = rf.post("/api/v1/auth/token", "x" * size, content_type="application/json")
    answer = middleware.WholeRequestMiddleware(lambda request: HttpResponse())(request)
    assert answer.status_code == 200
    assert hasattr(request, "_body") is is_kept
    assert request.environ["wsgi.input"].read() == b""
