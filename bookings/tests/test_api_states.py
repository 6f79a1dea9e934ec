"""The state table of the API: what each action does to a booking in each state, to the letter."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone

from booking_site.tests.factories import AppointmentFactory, SlotFactory, StaffFactory
from booking_site.tests.mails import queued_mails
from booking_site.tests.races import lapse
from bookings import lifecycle, refusals
from bookings.errors import BookingError
from bookings.lifecycle import Holder
from bookings.models import Booking
from bookings.tests.programs import (
    DETAILS,
    body_of,
    confirmed,
    errors,
    get,
    held,
    post,
    refusal,
    rows,
    seat_ids,
)
from slots.models import Slot

pytestmark = pytest.mark.django_db


@pytest.fixture
def hall() -> Slot:
    return SlotFactory(rows=1, seats_per_row=4)


@pytest.fixture
def other() -> Slot:
    """A slot to move to."""
    return SlotFactory(rows=1, seats_per_row=4)


# ── Every action in every state ───────────────────────────────────────────────────────────────────

EXPIRED, WRONG = (409, "hold_expired"), (409, "wrong_state")
TABLE = {  # 200 with the status that it has then
    "live": {
        "confirm": "CONFIRMED",
        "extend": "PENDING",
        "reschedule": "PENDING",
        "cancel": "CANCELLED",
    },
    "lapsed": dict.fromkeys(("confirm", "extend", "reschedule", "cancel"), EXPIRED),
    "confirmed": {
        "confirm": "CONFIRMED",
        "extend": WRONG,
        "reschedule": "CONFIRMED",
        "cancel": "CANCELLED",
    },
    "cancelled hold": {
        "confirm": WRONG,
        "extend": WRONG,
        "reschedule": WRONG,
        "cancel": "CANCELLED",
    },
    "cancelled": {"confirm": WRONG, "extend": WRONG, "reschedule": WRONG, "cancel": "CANCELLED"},
    "swept": {"confirm": EXPIRED, "extend": EXPIRED, "reschedule": EXPIRED, "cancel": WRONG},
    "sold out": dict.fromkeys(("confirm", "extend", "reschedule", "cancel"), WRONG),
    "seats taken": dict.fromkeys(("confirm", "extend", "reschedule", "cancel"), WRONG),
}
CHANGES_NOTHING = [("confirmed", "confirm"), ("cancelled", "cancel"), ("cancelled hold", "cancel")]


def booking_in(state: str, slot: Slot) -> Booking:
    """A guest's booking of the slot in that state; the slot has seats left."""
    ids = seat_ids(slot, "A1", "A2")
    if state in ("sold out", "seats taken"):
        taken = lifecycle.hold(slot, seat_ids=ids)
        with pytest.raises(BookingError):
            lifecycle.hold(slot, **{"seat_ids": ids} if state == "seats taken" else {"quantity": 4})
        refusals.flush()
        lifecycle.cancel(taken)
        return Booking.objects.get(failure_reason=state.replace(" ", "_"))
    booking = lifecycle.hold(slot, seat_ids=ids, email="ada@example.org")
    if state in ("confirmed", "cancelled"):
        lifecycle.confirm(booking)
    if state.startswith("cancelled"):
        lifecycle.cancel(booking)
    if state in ("lapsed", "swept"):
        lapse(booking)
    if state == "swept":
        lifecycle.expire_due()
    return booking


def act(client: Client, booking: Any, action: str, to: Slot) -> HttpResponse:
    wish = {"slot": to.pk, "quantity": 1}
    body = {"confirm": DETAILS, "reschedule": wish}.get(action)
    return post(client, f"bookings/{booking.pk}/{action}", body)


@pytest.mark.parametrize("action", ["confirm", "extend", "reschedule", "cancel"])
@pytest.mark.parametrize("state", TABLE)
def test_action_in_state(state: str, action: str, client: Client, hall: Slot, other: Slot) -> None:
    """A refusal, or an answer to the same again, leaves every row as it was."""
    booking = booking_in(state, hall)
    before, wanted = rows(), TABLE[state][action]
    response = act(client, booking, action, other)
    if isinstance(wanted, tuple):
        assert (refusal(response), rows()) == (wanted, before)
    else:
        shown = body_of(response)
        assert shown == body_of(get(client, f"bookings/{booking.pk}"))
        assert shown["status"] == wanted
        assert shown["slot"] == (other.pk if action == "reschedule" else hall.pk)
        assert (rows() == before) == ((state, action) in CHANGES_NOTHING)


def test_confirm_two_hours_after_the_hold_lapsed_is_refused(client: Client, hall: Slot) -> None:
    booking = lifecycle.hold(hall, quantity=1, **DETAILS)
    ago = timezone.now() - timedelta(hours=2)
    with transaction.atomic():
        Booking.objects.filter(pk=booking.pk).update(
            expires_at=ago, created_at=ago - timedelta(minutes=2)
        )
        hall.seats.filter(booking=booking).update(held_until=ago)
    before = rows()
    response = post(client, f"bookings/{booking.pk}/confirm")
    assert (refusal(response), rows()) == (EXPIRED, before)
    assert hall.seats.available().count() == 4


# ── What cannot be booked ─────────────────────────────────────────────────────────────────────────


def close(slot: Slot, how: str) -> None:
    now, day = timezone.now(), timedelta(days=1)
    changes = {
        "past": {"starts_at": now - day, "ends_at": now - day / 2},
        "begun": {"starts_at": now - timedelta(seconds=1)},
        "closed": {"closes_at": now - timedelta(seconds=1)},
        "not yet open": {"opens_at": now + day / 2},
        "called off": {"cancelled_at": now},
    }
    Slot.objects.filter(pk=slot.pk).update(**changes[how])


CLOSED = ["past", "begun", "closed", "not yet open", "called off"]


@pytest.mark.parametrize("how", CLOSED)
def test_past_and_closed_slots_cannot_be_booked(
    how: str, client: Client, hall: Slot, other: Slot
) -> None:
    """Not by holding, nor by confirming, extending or moving what was held while one could."""
    booking = lifecycle.hold(hall, seat_ids=seat_ids(hall, "A1"))
    elsewhere = lifecycle.hold(other, quantity=1)
    close(hall, how)
    before = rows()
    answers = [
        post(client, "bookings", {"slot": hall.pk, "quantity": 1}),
        post(client, "bookings", {"slot": hall.pk, "seat_ids": seat_ids(hall, "A4")}),
        act(client, booking, "confirm", hall),
        act(client, booking, "extend", hall),
        act(client, booking, "reschedule", hall),
        act(client, elsewhere, "reschedule", hall),
    ]
    assert [refusal(answer) for answer in answers] == [(409, "slot_closed")] * 6
    assert rows() == before


def test_confirmed_booking_ends_with_the_start(client: Client, hall: Slot, other: Slot) -> None:
    """From then on it is for the office to cancel."""
    booking = booking_in("confirmed", hall)
    close(hall, "begun")
    before = rows()
    for action in ("cancel", "reschedule"):
        response = act(client, booking, action, other)
        assert (refusal(response), rows()) == ((409, "slot_closed"), before)
    client.force_login(StaffFactory())
    assert body_of(act(client, booking, "cancel", other))["status"] == "CANCELLED"


def test_staff_are_patients_with_what_they_have_booked_themselves(
    client: Client, hall: Slot
) -> None:
    staff = StaffFactory()
    booking = lifecycle.confirm(lifecycle.hold(hall, quantity=1, holder=Holder(user=staff)))
    close(hall, "begun")
    before = rows()
    client.force_login(staff)
    assert refusal(act(client, booking, "cancel", hall)) == (409, "slot_closed")
    assert rows() == before


def test_hold_can_be_given_up_after_the_start(client: Client, hall: Slot) -> None:
    booking = lifecycle.hold(hall, quantity=1)
    close(hall, "past")
    assert body_of(act(client, booking, "cancel", hall))["status"] == "CANCELLED"


# ── Reading ───────────────────────────────────────────────────────────────────────────────────────


def test_lapsed_hold_reads_as_failed_at_once(client: Client, hall: Slot) -> None:
    """In the booking, in its holder's list, and in the office's, filtered or not."""
    staff = StaffFactory()
    client.force_login(staff)
    booking = Booking.objects.get(pk=held(client, hall)["id"])
    assert body_of(get(client, "admin/bookings", status="PENDING"))["count"] == 1
    assert body_of(get(client, "admin/bookings", status="FAILED"))["count"] == 0
    lapse(booking)
    shown = body_of(get(client, f"bookings/{booking.pk}"))
    assert (shown["status"], shown["failure_reason"]) == ("FAILED", "expired")
    assert body_of(get(client, "bookings")) == {"count": 1, "items": [shown]}
    assert body_of(get(client, "admin/bookings")) == {"count": 1, "items": [shown]}
    assert body_of(get(client, "admin/bookings", status="FAILED"))["items"] == [shown]
    assert body_of(get(client, "admin/bookings", status="PENDING"))["items"] == []
    lifecycle.expire_due()
    assert body_of(get(client, f"bookings/{booking.pk}")) == shown


@pytest.mark.parametrize(
    ("state", "status", "reason", "ends", "seats"),
    [
        ("live", "PENDING", None, True, ["A1", "A2"]),
        ("lapsed", "FAILED", "expired", True, ["A1", "A2"]),
        ("swept", "FAILED", "expired", True, ["A1", "A2"]),
        ("confirmed", "CONFIRMED", None, False, ["A1", "A2"]),
        ("cancelled", "CANCELLED", None, False, ["A1", "A2"]),
        ("cancelled hold", "CANCELLED", None, False, ["A1", "A2"]),
        ("sold out", "FAILED", "sold_out", False, []),
        ("seats taken", "FAILED", "seats_taken", False, ["A1", "A2"]),
    ],
)
def test_fields_in_state(
    state: str,
    status: str,
    reason: str | None,
    ends: bool,
    seats: list[str],
    client: Client,
    hall: Slot,
) -> None:
    booking = booking_in(state, hall)
    row = Booking.objects.get(pk=booking.pk)
    ids = dict(hall.seats.values_list("label", "pk"))
    refused = state in ("sold out", "seats taken")
    assert body_of(get(client, f"bookings/{booking.pk}")) == {
        "id": str(row.pk),
        "reference": row.reference,
        "status": status,
        "failure_reason": reason,
        "slot": hall.pk,
        "quantity": 4 if state == "sold out" else 2,
        "seats": [{"id": ids[label], "label": label} for label in seats],
        "name": "",
        "email": "" if refused else "ada@example.org",
        "created_at": in_json(row.created_at),
        "expires_at": in_json(row.expires_at) if ends else None,
        "confirmed_at": in_json(row.confirmed_at),
        "cancelled_at": in_json(row.cancelled_at),
    }
    assert (row.confirmed_at is not None) == (state in ("confirmed", "cancelled"))
    assert (row.cancelled_at is not None) == state.startswith("cancelled")


def in_json(moment: Any) -> str | None:
    """In UTC, to the millisecond."""
    return moment and moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


# ── extend, cancel ────────────────────────────────────────────────────────────────────────────────


def test_extend_ends_at_the_cap(client: Client, hall: Slot, settings: Any) -> None:
    settings.HOLD_SECONDS, settings.HOLD_MAX_SECONDS = 100, 250
    booking = lifecycle.hold(hall, quantity=1)

    def extend_after(seconds: int) -> float:
        """How long after its making the hold ends, if extended so long after it."""
        made = timezone.now() - timedelta(seconds=seconds)
        end = timezone.now() + timedelta(seconds=10)
        Booking.objects.filter(pk=booking.pk).update(created_at=made, expires_at=end)
        hall.seats.filter(booking=booking).update(held_until=end)
        shown = body_of(act(client, booking, "extend", hall))
        row = Booking.objects.get(pk=booking.pk)
        assert shown["expires_at"] == in_json(row.expires_at)
        assert hall.seats.get(booking=booking).held_until == row.expires_at
        return (row.expires_at - made).total_seconds()

    first, second, *capped = [extend_after(seconds) for seconds in (50, 140, 160, 230)]
    assert capped == [250, 250]
    # Those are by the database's clock, which is asked later.
    assert all(-0.5 < found < 3 for found in (first - 150, second - 240))
    before = rows()
    assert body_of(act(client, booking, "extend", hall))["status"] == "PENDING"
    assert rows() == before


def test_cancel_gives_the_seats_back_once(client: Client, hall: Slot) -> None:
    booking = confirmed(client, hall, seat_ids=seat_ids(hall, "A1"))
    path = f"bookings/{booking['id']}/cancel"
    first = body_of(post(client, path, {"reason": "I am ill"}))
    taken = held(client, hall, seat_ids=seat_ids(hall, "A1"))
    assert body_of(post(client, path, {"reason": "Nor do I want to"})) == first
    assert body_of(get(client, f"bookings/{taken['id']}")) == taken
    assert hall.seats.available().count() == 3
    [event] = Booking.objects.get(pk=booking["id"]).events.filter(action="cancel")
    assert (event.reason, event.actor) == ("I am ill", "guest")
    assert len(queued_mails()) == 2  # booked, cancelled


@pytest.mark.parametrize("reason", ["é" * 500, "", None])
def test_cancel_takes_any_reason_that_the_history_keeps(
    reason: str | None, client: Client, hall: Slot
) -> None:
    booking = held(client, hall)
    body_of(post(client, f"bookings/{booking['id']}/cancel", {"reason": reason}))
    assert Booking.objects.get().events.get().reason == (reason or "")


@pytest.mark.parametrize("reason", ["é" * 501, 1, ["ill"], "a\0b", "\ud800"])
def test_cancel_refuses_other_reasons(reason: Any, client: Client, hall: Slot) -> None:
    booking = held(client, hall)
    response = post(client, f"bookings/{booking['id']}/cancel", {"reason": reason})
    assert list(errors(response)) == ["reason"]
    assert Booking.objects.get().status == "PENDING"


# ── reschedule ────────────────────────────────────────────────────────────────────────────────────


def move(client: Client, booking: dict, slot: Slot, **wish: Any) -> HttpResponse:
    return post(client, f"bookings/{booking['id']}/reschedule", {"slot": slot.pk} | wish)


def labels(booking: dict) -> list[str]:
    return [seat["label"] for seat in booking["seats"]]


def test_reschedule_keeps_some_seats_and_changes_how_many(client: Client, hall: Slot) -> None:
    booking = confirmed(client, hall, seat_ids=seat_ids(hall, "A1", "A2"))
    moved = body_of(move(client, booking, hall, seat_ids=seat_ids(hall, "A2", "A3", "A4")))
    assert (labels(moved), moved["quantity"]) == (["A2", "A3", "A4"], 3)
    fewer = body_of(move(client, booking, hall, seat_ids=seat_ids(hall, "A3")))
    assert (labels(fewer), fewer["quantity"]) == (["A3"], 1)
    assert [mail.subject.split(":")[0] for mail in queued_mails()] == [
        "Booked",
        "Changed",
        "Changed",
    ]
    assert hall.seats.available().count() == 3


@pytest.mark.parametrize("by", ["seat_ids", "quantity"])
def test_reschedule_again_after_a_lost_answer_is_the_same(
    by: str, client: Client, hall: Slot, other: Slot
) -> None:
    """Its own seats are not taken, and no second mail is sent; even when all others are sold."""
    booking = confirmed(client, hall, quantity=2)
    wish = {"seat_ids": seat_ids(other, "A1", "A2")} if by == "seat_ids" else {"quantity": 2}
    moved = body_of(move(client, booking, other, **wish))
    lifecycle.hold(other, quantity=2)
    assert body_of(move(client, booking, other, **wish)) == moved
    assert len(queued_mails()) == 2  # booked, moved


@pytest.mark.parametrize("state", ["live", "confirmed"])
def test_reschedule_refused_keeps_the_old_seats(
    state: str, client: Client, hall: Slot, other: Slot
) -> None:
    booking = {"id": booking_in(state, hall).pk}
    lifecycle.hold(other, seat_ids=seat_ids(other, "A1", "A2"))
    before = rows()
    taken = move(client, booking, other, seat_ids=seat_ids(other, "A2", "A3"))
    assert (refusal(taken), taken.json()["seats"]) == ((409, "seats_taken"), ["A2"])
    assert refusal(move(client, booking, other, quantity=3)) == (409, "sold_out")
    assert list(errors(move(client, booking, other, seat_ids=seat_ids(hall, "A1")))) == ["seat_ids"]
    assert list(errors(move(client, booking, other, quantity=11))) == ["quantity"]
    nowhere = move(client, booking, Slot(pk=other.pk + 1000), quantity=1)
    assert refusal(nowhere) == (404, "not_found")
    assert rows() == before


def test_moved_hold_keeps_its_end(client: Client, hall: Slot, other: Slot) -> None:
    booking = held(client, hall)
    moved = body_of(move(client, booking, other, quantity=2))
    assert moved["expires_at"] == booking["expires_at"]
    [end] = set(other.seats.filter(booking=booking["id"]).values_list("held_until", flat=True))
    assert in_json(end) == booking["expires_at"]
    assert queued_mails() == []


def test_booking_moves_to_another_doctor(client: Client) -> None:
    """On the pages one moves to other dates of the same; a program may swap for anything."""
    first, second = AppointmentFactory(), AppointmentFactory()
    booking = confirmed(client, first)
    assert body_of(move(client, booking, second, quantity=1))["slot"] == second.pk
    assert second.doctor.name in queued_mails()[-1].subject
