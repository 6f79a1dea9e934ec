"""What the tests of the bookings' API share: to call it as a program does, and to look behind it.

client = Client()
booking = held(client, slot, seat_ids=seat_ids(slot, "A1"))
assert refusal(post(client, f"bookings/{booking['id']}/extend")) == (409, "hold_expired")
"""

from typing import Any

from django.http import HttpResponse
from django.test import Client
from mailer.models import Message

from bookings.models import Booking, BookingEvent
from slots.models import Seat, Slot

DETAILS = {"name": "Ada Example", "email": "ada@example.org"}
KEY = "a key of sixteen characters or more"


def post(client: Client, path: str, body: dict | None = None, key: str = "") -> HttpResponse:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post(
        f"/api/v1/{path}", body or {}, content_type="application/json", headers=headers
    )


def get(client: Client, path: str, **query: Any) -> HttpResponse:
    return client.get(f"/api/v1/{path}", query)


def body_of(response: HttpResponse, status: int = 200) -> Any:
    """What a good answer says; it must have that status."""
    assert (response.status_code, response["Content-Type"].split(";")[0]) == (
        status,
        "application/json",
    ), response.content
    return response.json()


def held(client: Client, slot: Slot, **wish: Any) -> dict[str, Any]:
    """A booking that has just been made: of one seat, unless told otherwise."""
    if "seat_ids" not in wish:
        wish = {"quantity": 1} | wish
    return body_of(post(client, "bookings", {"slot": slot.pk} | wish), 201)


def confirmed(client: Client, slot: Slot, **wish: Any) -> dict[str, Any]:
    booking = held(client, slot, **wish)
    return body_of(post(client, f"bookings/{booking['id']}/confirm", DETAILS))


def refusal(response: HttpResponse) -> tuple[int, str]:
    """Status and code of a problem."""
    assert response["Content-Type"] == "application/problem+json", response.content
    assert response.json()["status"] == response.status_code
    return response.status_code, response.json()["code"]


def errors(response: HttpResponse) -> dict[str, list[str]]:
    """What a 400 says of each field."""
    assert refusal(response) == (400, "invalid")
    return response.json()["errors"]


def seat_ids(slot: Slot, *labels: str) -> list[int]:
    return list(slot.seats.filter(label__in=labels).order_by("pk").values_list("pk", flat=True))


def rows() -> list[list[dict[str, Any]]]:
    """All that a booking may change."""
    models = (Booking, BookingEvent, Seat, Slot, Message)
    return [list(model.objects.order_by("pk").values()) for model in models]
