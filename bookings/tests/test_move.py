"""A patient moves a booking to another date: one swap, or nothing."""

import re
import uuid
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone

from booking_site.tests.factories import (
    AppointmentFactory,
    DoctorFactory,
    ShowFactory,
    SlotFactory,
    UserFactory,
)
from booking_site.tests.races import assert_sound, race
from bookings import lifecycle
from bookings.lifecycle import Holder
from bookings.models import Booking
from bookings.tests.test_views import (
    HTMX,
    alert_of,
    form_of,
    let_lapse,
    page_of,
    seat_ids,
    status_of,
)
from slots import inventory
from slots.models import Doctor, Show, Slot
from slots.tests.test_views import states, text_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def show() -> Show:
    return ShowFactory()


@pytest.fixture
def here(show: Show) -> Slot:
    return SlotFactory(show=show, rows=1, seats_per_row=4)


@pytest.fixture
def there(show: Show) -> Slot:
    starts_at = timezone.now() + timedelta(days=5)
    return SlotFactory(show=show, rows=1, seats_per_row=4, starts_at=starts_at)


@pytest.fixture
def booking(here: Slot) -> Booking:
    return lifecycle.confirm(lifecycle.hold(here, seat_ids=seat_ids(here, "A1", "A2")))


@pytest.fixture
def doctor() -> Doctor:
    return DoctorFactory()


@pytest.fixture
def appointment(doctor: Doctor) -> Booking:
    slot = AppointmentFactory(doctor=doctor)
    return lifecycle.confirm(lifecycle.hold(slot, quantity=1))


def later(doctor: Doctor, **fields: Any) -> Slot:
    starts_at = timezone.now() + timedelta(days=3)
    return AppointmentFactory(doctor=doctor, **{"starts_at": starts_at} | fields)


def url_of(booking: Booking, slot: Slot | None = None) -> str:
    return f"/bookings/{booking.pk}/move" + (f"/{slot.pk}" if slot else "")


def post_move(
    client: Client, booking: Booking, slot: Slot, *labels: str, **headers: str
) -> HttpResponse:
    data = {"seat": seat_ids(slot, *labels)} if labels else {}
    return client.post(url_of(booking, slot), data, headers=headers)


def place_of(booking: Booking) -> tuple[int, list[str]]:
    """Where the booking is, by itself and by its seats, which must agree."""
    booking.refresh_from_db()
    seats = booking.seats.filter(held_until=None).order_by("id")
    assert {seat.slot_id for seat in seats} <= {booking.slot_id}
    assert [seat.label for seat in seats] == booking.labels
    return booking.slot_id, booking.labels


def moves_of(booking: Booking) -> int:
    return booking.events.filter(action="reschedule").count()


# ── Where to ──────────────────────────────────────────────────────────────────────────────────────


def test_booking_leads_to_the_other_dates_with_room(
    client: Client, show: Show, there: Slot, booking: Booking
) -> None:
    now = timezone.now()
    full, tight, off, *_ = [
        SlotFactory(show=show, places=2, starts_at=now + timedelta(days=day), **fields)
        for day, fields in [
            (6, {}),
            (7, {}),
            (8, {}),
            (9, {"closes_at": now}),
            (-1, {}),
            (10, {"opens_at": now + timedelta(days=1)}),
        ]
    ]
    lifecycle.hold(full, quantity=2)
    lifecycle.hold(tight, quantity=1)
    lifecycle.cancel_slot(off, actor="staff")
    SlotFactory()
    html = page_of(client.get(booking.get_absolute_url()))
    assert f'id="move" href="{url_of(booking)}">Choose another date</a>' in html
    html = page_of(client.get(url_of(booking)))
    assert re.findall(r'id="slot-(\d+)"', html) == [str(there.pk)]
    assert f'href="{url_of(booking, there)}"' in html


def test_no_other_date_is_said(client: Client, appointment: Booking) -> None:
    html = page_of(client.get(url_of(appointment)))
    assert "There is no other time with room for your booking." in text_of(html)


@pytest.mark.parametrize("size", [1, 41])
def test_dates_cost_three_queries_and_come_in_pages(
    client: Client, django_assert_num_queries: Any, appointment: Booking, doctor: Doctor, size: int
) -> None:
    for n in range(size):
        later(doctor, starts_at=timezone.now() + timedelta(days=2, hours=n))
    with django_assert_num_queries(3):
        html = page_of(client.get(url_of(appointment)))
    assert html.count('id="slot-') == min(size, 40)
    assert ('href="?page=2">Later</a>' in html) == (size == 41)


# ── The swap ──────────────────────────────────────────────────────────────────────────────────────


def test_appointment_is_moved_with_plain_forms_alone(appointment: Booking, doctor: Doctor) -> None:
    old, new = appointment.slot, later(doctor)
    client = Client(enforce_csrf_checks=True)
    html = page_of(client.get(url_of(appointment, new)))
    assert "Move my booking here" in html
    assert 'name="quantity"' not in html
    assert place_of(appointment) == (old.pk, ["1"])  # looking changes nothing
    action, data = form_of(html, "hold-form")
    response = client.post(action, data)
    assert (response.status_code, response["Location"]) == (303, appointment.get_absolute_url())
    assert place_of(appointment) == (new.pk, ["1"])
    assert old.seats.free().count() == 1
    event = appointment.events.get(action="reschedule")
    assert (event.actor, event.reason) == ("guest", f"from slot {old.pk}: 1")


def test_numbered_seats_are_chosen_there(
    client: Client, here: Slot, there: Slot, booking: Booking
) -> None:
    html = page_of(client.get(url_of(booking, there)))
    assert states(html) == dict.fromkeys(["A1", "A2", "A3", "A4"], "AVAILABLE")
    assert f'hx-post="{url_of(booking, there)}"' in html
    assert f'hx-get="{url_of(booking, there)}"' in html
    assert f"/slots/{there.pk}/hold" not in html
    assert 'data-most="2"' in html
    assert post_move(client, booking, there, "A2", "A4").status_code == 303
    assert place_of(booking) == (there.pk, ["A2", "A4"])
    assert here.seats.free().count() == 4
    assert_sound()


def test_move_is_the_users_own(client: Client, doctor: Doctor) -> None:
    user = UserFactory()
    slot, new = AppointmentFactory(doctor=doctor), later(doctor)
    booking = lifecycle.confirm(lifecycle.hold(slot, quantity=1, holder=Holder(user=user)))
    for stranger in (Client(), client):
        if stranger is client:
            client.force_login(UserFactory())
        for url in (url_of(booking), url_of(booking, new)):
            assert stranger.get(url).status_code == 404
        assert stranger.post(url_of(booking, new)).status_code == 404
    assert place_of(booking) == (slot.pk, ["1"])
    client.force_login(user)
    assert client.post(url_of(booking, new)).status_code == 303
    assert booking.events.get(action="reschedule").actor == user.email


def test_move_goes_to_dates_of_the_same_doctor_only(client: Client, appointment: Booking) -> None:
    slots = [AppointmentFactory().pk, SlotFactory().pk, 0, 10**25]
    for pk in slots:
        url = f"/bookings/{appointment.pk}/move/{pk}"
        assert client.get(url).status_code == 404
        assert client.post(url, {"seat": "1"}).status_code == 404
    assert client.get(f"/bookings/{uuid.uuid4()}/move").status_code == 404
    assert moves_of(appointment) == 0


def test_move_with_htmx_leads_to_the_booking(client: Client, there: Slot, booking: Booking) -> None:
    response = post_move(client, booking, there, "A1", "A2", **HTMX)
    assert (response.status_code, response["HX-Redirect"]) == (200, booking.get_absolute_url())
    assert place_of(booking) == (there.pk, ["A1", "A2"])


def test_plan_to_move_to_is_news_once(
    client: Client, django_assert_num_queries: Any, there: Slot, booking: Booking
) -> None:
    with django_assert_num_queries(4):
        html = page_of(client.get(url_of(booking, there)))
    news = unescape(re.search(r'hx-get="([^"]+)"', html)[1])
    seen = re.search(r'data-seen="([^"]+)"', html)[1]
    headers = HTMX | {"If-None-Match": f'"{seen}"'}
    assert client.get(news, headers=headers).status_code == 304
    lifecycle.hold(there, seat_ids=seat_ids(there, "A1"))
    fresh = page_of(client.get(news, headers=headers))
    assert fresh.strip().startswith('<section id="seat-grid"')
    assert states(fresh)["A1"] == "RESERVED"
    assert f'action="{url_of(booking, there)}"' in fresh


# ── Refused: the booking stays as it is ───────────────────────────────────────────────────────────


def test_lost_race_names_the_seats_and_keeps_the_booking(
    client: Client, here: Slot, there: Slot, booking: Booking
) -> None:
    lifecycle.hold(there, seat_ids=seat_ids(there, "A1"))
    html = page_of(post_move(client, booking, there, "A1", "A2"), 409)
    assert alert_of(html) == "Seat A1 has just been taken. Please choose again."
    [kept] = re.findall(r'value="(\d+)" aria-label="A2" checked', html)
    assert [int(kept)] == seat_ids(there, "A2")
    assert place_of(booking) == (here.pk, ["A1", "A2"])
    fragment = page_of(post_move(client, booking, there, "A1", "A2", **HTMX), 409)
    assert fragment.strip().startswith('<section id="seat-grid"')
    assert f'action="{url_of(booking, there)}"' in fragment


def test_time_that_was_taken_meanwhile_is_refused(
    client: Client, appointment: Booking, doctor: Doctor
) -> None:
    old, new = appointment.slot, later(doctor)
    lifecycle.hold(new, quantity=1)
    html = page_of(post_move(client, appointment, new), 409)
    assert alert_of(html) == "No places are left."
    assert "This time is taken." in html
    assert place_of(appointment) == (old.pk, ["1"])


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([], "Choose at least one seat."),
        (["A1"], "Choose 2 seats: as many as you have booked."),
        (["A1", "A2", "A3"], "Choose 2 seats: as many as you have booked."),
    ],
)
def test_other_number_of_seats_is_refused(
    client: Client, here: Slot, there: Slot, booking: Booking, labels: list[str], sentence: str
) -> None:
    html = page_of(post_move(client, booking, there, *labels), 400)
    assert alert_of(html) == sentence
    assert place_of(booking) == (here.pk, ["A1", "A2"])


@pytest.mark.parametrize("seat", ["abc", "\x00", "9" * 40, "-1", "1.5", "１"])
def test_seats_that_make_no_sense_are_refused(
    client: Client, here: Slot, there: Slot, booking: Booking, seat: str
) -> None:
    html = page_of(client.post(url_of(booking, there), {"seat": [seat, seat + "1"]}), 400)
    assert alert_of(html) == "The choice of seats could not be read. Please choose again."
    assert place_of(booking) == (here.pk, ["A1", "A2"])


def test_blocked_seats_and_seats_of_another_date_are_refused(
    client: Client, here: Slot, there: Slot, booking: Booking
) -> None:
    inventory.block_seats(there, seat_ids=seat_ids(there, "A1"))
    assert post_move(client, booking, there, "A1", "A2").status_code == 409
    data = {"seat": seat_ids(here, "A3", "A4")}
    assert client.post(url_of(booking, there), data).status_code in (400, 409)
    assert place_of(booking) == (here.pk, ["A1", "A2"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"closes_at": timedelta(minutes=-1)}, "Booking has closed."),
        ({"opens_at": timedelta(minutes=1)}, "Booking has not opened yet."),
        (
            {"starts_at": timedelta(minutes=-1), "ends_at": timedelta(minutes=30)},
            "Booking has closed.",
        ),
        (
            {"cancelled_at": timedelta(minutes=-1)},
            "This has been called off, so it cannot be booked.",
        ),
    ],
)
def test_date_that_closed_meanwhile_is_refused(
    client: Client,
    appointment: Booking,
    doctor: Doctor,
    change: dict[str, timedelta],
    sentence: str,
) -> None:
    old, new = appointment.slot, later(doctor)
    values = {field: timezone.now() + shift for field, shift in change.items()}
    Slot.objects.filter(pk=new.pk).update(**values)
    html = page_of(post_move(client, appointment, new), 409)
    assert alert_of(html) == sentence
    assert "hold-button" not in html
    assert place_of(appointment) == (old.pk, ["1"])


def begin(booking: Booking) -> None:
    past = timezone.now() - timedelta(minutes=1)
    Slot.objects.filter(pk=booking.slot_id).update(starts_at=past)


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        (begin, "It has begun, so it can no longer be moved."),
        (lifecycle.cancel, "Only a confirmed booking can be moved to another date."),
    ],
)
def test_stale_tab_of_what_has_begun_or_was_cancelled_moves_nothing(
    client: Client, here: Slot, there: Slot, booking: Booking, end: Any, sentence: str
) -> None:
    end(booking)
    before = place_of(booking) if end is begin else None
    html = page_of(post_move(client, booking, there, "A1", "A2"), 409)
    assert alert_of(html) == sentence
    assert there.seats.free().count() == 4
    assert before in (None, (here.pk, ["A1", "A2"]))
    response = post_move(client, booking, there, "A1", "A2", **HTMX)
    assert response["HX-Redirect"] == booking.get_absolute_url()
    for url in (url_of(booking), url_of(booking, there)):
        assert "<h1>Nothing to move</h1>" in page_of(client.get(url))
    assert 'id="move"' not in page_of(client.get(booking.get_absolute_url()))
    assert moves_of(booking) == 0


@pytest.mark.parametrize("is_over", [False, True])
def test_hold_is_not_moved_here(client: Client, there: Slot, here: Slot, is_over: bool) -> None:
    held = lifecycle.hold(here, quantity=2)
    if is_over:
        let_lapse(held)
    html = page_of(post_move(client, held, there, "A1", "A2"), 409)
    assert alert_of(html) == "Only a confirmed booking can be moved to another date."
    assert status_of(held) == ("FAILED" if is_over else "PENDING")
    assert there.seats.free().count() == 4


def test_second_click_changes_nothing_more(client: Client, there: Slot, booking: Booking) -> None:
    for labels in (["A1", "A2"], ["A1", "A2"], ["A3", "A4"]):
        response = post_move(client, booking, there, *labels)
        assert (response.status_code, response["Location"]) == (303, booking.get_absolute_url())
    assert place_of(booking) == (there.pk, ["A1", "A2"])
    assert moves_of(booking) == 1


def test_two_clicks_at_once_move_once_or_to_the_same(there: Slot, booking: Booking) -> None:
    clients = [Client() for _ in range(4)]
    clicks = [lambda c=c: post_move(c, booking, there, "A1", "A2").status_code for c in clients]
    assert race(*clicks) == [303] * 4
    assert place_of(booking) == (there.pk, ["A1", "A2"])


def test_crowd_that_wants_the_same_time_gets_it_once(doctor: Doctor) -> None:
    new = later(doctor)
    start = timezone.now() + timedelta(days=9)
    bookings = []
    for n in range(8):
        slot = AppointmentFactory(doctor=doctor, starts_at=start + timedelta(hours=n))
        bookings.append(lifecycle.confirm(lifecycle.hold(slot, quantity=1)))
    before = {booking.pk: place_of(booking) for booking in bookings}
    results = race(
        *[lambda b=b: post_move(Client(), b, new).status_code for b in bookings],
    )
    assert sorted(results) == [303] + [409] * 7
    moved = [booking for booking in bookings if place_of(booking) != before[booking.pk]]
    assert [place_of(booking) for booking in moved] == [(new.pk, ["1"])]
    assert_sound()
