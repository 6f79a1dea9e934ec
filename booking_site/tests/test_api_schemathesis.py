"""The API attacked as its OpenAPI document describes it, with sense and with nonsense.

It is quick, and the same in each run. `SCHEMATHESIS_EXAMPLES=300 pytest …` is longer and never the
same; what it prints of a failure repeats it.
"""

import os
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
import schemathesis
from django.conf import LazySettings
from django.core import signals
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from django.utils import timezone
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    ignored_auth,
    positive_data_acceptance,
)

from accounts import tokens
from booking_site.tests.factories import (
    PASSWORD,
    AppointmentFactory,
    DoctorFactory,
    SlotFactory,
    StaffFactory,
)
from bookings import lifecycle
from bookings.models import Booking
from slots.models import Seat

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "")

document = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", get_wsgi_application())


class World:
    """One of everything, for the requests of one test, and what these were answered."""

    def __init__(self) -> None:
        self.slot = SlotFactory(rows=200 if EXAMPLES else 20)
        self.appointment = AppointmentFactory(places=50)
        self.staff = StaffFactory(is_superuser=True)
        self.tokens = tokens.issue(self.staff)
        self.numbers, self.turns = count(), count()
        self.statuses: list[int] = []
        booked, given_back, lapsed = (self.hold() for _ in range(3))
        lifecycle.confirm(booked, name="Ada", email="ada@example.org")
        lifecycle.cancel(given_back)
        past = timezone.now() - timedelta(minutes=5)
        Seat.objects.filter(booking=lapsed).update(held_until=past)
        Booking.objects.filter(pk=lapsed.pk).update(expires_at=past)
        self.bookings = [booked, given_back, lapsed]

    def hold(self) -> Booking:
        key = f"key of booking {next(self.numbers):06}"
        return lifecycle.hold(self.slot, quantity=1, idempotency_key=key)

    def free_seat(self) -> int:
        return Seat.objects.filter(slot=self.slot, booking=None).first().pk

    def give_meaning(self, case: Case) -> None:
        """Of three well-formed requests one is as good as can be, one about what there is."""
        if case.meta.generation.mode != GenerationMode.POSITIVE:
            return
        turn = next(self.turns) % 3
        if turn == 2:
            return
        case.headers.pop("Authorization", None)
        case.cookies.clear()
        for name in case.path_parameters:
            case.path_parameters[name] = self.known(name, is_fresh=turn == 0)
        if not isinstance(case.body, dict):
            return
        good = self.good_body(case.operation.label)
        if turn == 0:
            case.body = good
        else:
            case.body |= {name: good[name] for name in ("slot", "capacity") if name in good}

    def known(self, name: str, *, is_fresh: bool) -> Any:
        """What there is for that parameter of a path."""
        number = next(self.numbers)
        booking = self.hold() if is_fresh else self.bookings[number % len(self.bookings)]
        return {
            "doctor_id": self.appointment.doctor_id if number % 2 else DoctorFactory().pk,
            "show_id": self.slot.show_id,
            "slot_id": (self.slot, self.appointment)[number % 2].pk,
            "booking_id": str(booking.pk),
            "key": booking.idempotency_key,
        }[name]

    def good_body(self, operation: str) -> dict[str, Any]:
        number = next(self.numbers)
        starts_at = timezone.now() + timedelta(days=2, hours=number)
        times = {
            "starts_at": starts_at.isoformat(),
            "ends_at": (starts_at + timedelta(minutes=30)).isoformat(),
        }
        seats = {"seat_ids": [self.free_seat()]} if number % 2 else {"quantity": 1}
        who = {"name": "Ada", "email": f"ada{number}@example.org"}
        path = operation.rpartition("/api/v1/")[2]
        return {
            "auth/register": who | {"password": PASSWORD},
            "auth/token": {"email": self.staff.email, "password": PASSWORD},
            "auth/token/refresh": {"refresh": self.tokens["refresh"]},
            "bookings": {"slot": self.slot.pk} | seats | who,
            "bookings/{booking_id}/confirm": who,
            "bookings/{booking_id}/cancel": {"reason": "ill"},
            "bookings/{booking_id}/reschedule": {"slot": self.slot.pk} | seats,
            "admin/doctors": {"name": "Dr. Grace Hopper"},
            "admin/doctors/{doctor_id}/slots": times | {"capacity": 2},
            "admin/shows": times | {"name": "Hamlet", "rows": 2, "seats_per_row": 3},
        }[path]

    def headers(self, operation: str) -> dict[str, str]:
        """Of staff where guests may not ask, and of guest and staff in turn for bookings."""
        is_staffs_turn = "/bookings" in operation and len(self.statuses) % 2
        if is_for_users(operation) or (is_staffs_turn and "by-key" not in operation):
            return {"Authorization": f"Bearer {self.tokens['access']}"}
        return {}


def is_for_users(operation: str) -> bool:
    return "/admin/" in operation or operation == "GET /api/v1/bookings"


def not_checked(operation: str) -> list[Any]:
    """Checks for which this answer is too clever."""
    # No schema can say all that makes a request nonsense: a seat, but of another slot.
    found = [positive_data_acceptance]
    if not is_for_users(operation):
        found.append(ignored_auth)  # it takes the way in of users for the only one
    return found


@pytest.fixture
def world(db: None, settings: LazySettings) -> Iterator[World]:
    """Without limits of how often. In the end somebody must have been let in."""
    settings.MAX_LIVE_HOLDS = 1000
    settings.ACCOUNT_RATE_LIMITS = {}
    ends = (signals.request_started, signals.request_finished)
    for signal in ends:  # as Django's test client does it: no request ends the transaction
        signal.disconnect(close_old_connections)
    world = World()
    yield world
    for signal in ends:
        signal.connect(close_old_connections)
    assert [status for status in world.statuses if status < 300] != [], world.statuses


@document.parametrize()
@settings(
    max_examples=int(EXAMPLES or 4),
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_api_keeps_to_its_document(case: Case, world: World) -> None:
    operation = case.operation.label
    world.give_meaning(case)
    headers = world.headers(operation)
    response = case.call(headers=headers)
    world.statuses.append(response.status_code)
    excluded = not_checked(operation)
    case.validate_response(response, headers=headers, excluded_checks=excluded)
    if response.status_code >= 400:
        assert response.headers["content-type"] == ["application/problem+json"]
        assert response.json()["status"] == response.status_code
