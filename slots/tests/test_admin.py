"""The office: what staff see and change of doctors, shows, slots and seats, and who may."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from booking_site.tests.factories import (
    AppointmentFactory,
    DoctorFactory,
    ShowFactory,
    SlotFactory,
    UserFactory,
)
from booking_site.tests.mails import queued_mails
from booking_site.tests.races import lapse
from bookings import lifecycle
from bookings.models import Booking
from slots import inventory
from slots.models import Doctor, Seat, Show, Slot
from slots.tests.office import ALL_OF_SLOTS, clock, errors, logged_in, office, slot_form, told, url

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def client() -> Client:
    return office(*ALL_OF_SLOTS, "view_booking")


def book(slot: Slot, *labels: str, **details: str) -> Booking:
    ids = [slot.seats.get(label=label).pk for label in labels]
    details = {"name": "Ada Lovelace", "email": "ada@example.org"} | details
    return lifecycle.confirm(lifecycle.hold(slot, seat_ids=ids), **details)


def labels(slot: Slot) -> list[str]:
    return list(slot.seats.values_list("label", flat=True))


# ── Adding a slot ─────────────────────────────────────────────────────────────────────────────────


def test_slot_is_added_on_the_clock_of_its_doctor(client: Client) -> None:
    doctor = DoctorFactory(time_zone="Europe/Berlin")  # the site's zone is UTC
    response = client.post(url("add"), slot_form(doctor), follow=True)
    slot = Slot.objects.get()
    assert slot.starts_at == datetime(2030, 6, 1, 12, 0, tzinfo=UTC)
    assert slot.ends_at == datetime(2030, 6, 1, 12, 30, tzinfo=UTC)
    assert (slot.doctor, slot.show, labels(slot)) == (doctor, None, ["1"])
    assert f"{doctor}, Sat 01 Jun 2030 14:00 CEST" in told(response)[0]
    page = client.get(url("change", slot)).content.decode()
    assert "On the clock of Europe/Berlin." in page
    assert 'value="2030-06-01"' in page
    assert 'value="14:00"' in page


def test_numbered_seats_are_created_with_the_slot(client: Client) -> None:
    seats = {"rows": "3", "seats_per_row": "8", "section": "Stalls"}
    more = {"aisles_after": "2, 6", "accessible": "a1, C8"}
    form = slot_form(ShowFactory(), seating="NUMBERED", places="") | seats | more
    client.post(url("add"), form)
    slot = Slot.objects.get()
    assert labels(slot)[:9] == ["A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "B1"]
    assert slot.seats.count() == 24
    assert list(slot.seats.filter(row="A").values_list("column", flat=True)) == [
        *(1, 2, 4, 5, 6, 7, 9, 10)
    ]
    assert list(slot.seats.filter(accessible=True).values_list("label", flat=True)) == ["A1", "C8"]
    assert set(slot.seats.values_list("section", flat=True)) == {"Stalls"}


NUMBERED = {"seating": "NUMBERED", "rows": "2", "seats_per_row": "4"}
COUNT = "Enter a whole number from 1 to {}."
LONG_AGO = "Enter a year from 2000 to 2199."


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"places": ""}, "Say how many."),
        ({"places": "0"}, COUNT.format("200,000")),
        ({"places": "-3"}, COUNT.format("200,000")),
        ({"places": "1000000000"}, COUNT.format("200,000")),
        ({"places": "two"}, COUNT.format("200,000")),
        ({"places": "1\x00"}, COUNT.format("200,000")),
        (NUMBERED | {"rows": ""}, "Say how many."),
        (NUMBERED | {"rows": "1000000000"}, COUNT.format("200,000")),
        (NUMBERED | {"seats_per_row": "1001"}, COUNT.format("1,000")),
        (
            NUMBERED | {"rows": "1000", "seats_per_row": "1000"},
            "A slot can have at most 200,000 seats.",
        ),
        (NUMBERED | {"section": "x" * 41}, "Ensure this value has at most 40 characters"),
        (NUMBERED | {"section": "\x00"}, "Null characters are not allowed."),
        (NUMBERED | {"aisles_after": "4"}, "There is no seat on both sides of an aisle after 4"),
        (NUMBERED | {"aisles_after": "0"}, "There is no seat on both sides of an aisle after 0"),
        (NUMBERED | {"aisles_after": "2, 2"}, "The same aisle is named twice."),
        (NUMBERED | {"aisles_after": "2-3"}, "Enter seat numbers with commas between"),
        (NUMBERED | {"accessible": "C1"}, "There will be no seat C1: the new rows are A to B"),
        (NUMBERED | {"accessible": "A5"}, "There will be no seat A5"),
        (NUMBERED | {"accessible": "A"}, "There will be no seat A:"),
        (NUMBERED | {"accessible": "A01"}, "There will be no seat A01"),
        (NUMBERED | {"accessible": "7"}, "There will be no seat 7"),
        ({"seating": "STANDING"}, "Select a valid choice."),
        ({"doctor": ""}, "Choose either a doctor or a show."),
        ({"doctor": "99999999999999999999"}, "Select a valid choice."),
        ({"doctor": "abc"}, "Select a valid choice."),
        (clock("starts_at", "2030-06-01"), "Enter both, the date and the time."),
        (clock("starts_at", "2030-02-30 10:00"), "Enter the date as year-month-day."),
        (clock("starts_at", "2030-06-01 25:00"), "Enter the time as hours:minutes."),
        (clock("starts_at", "0001-01-01 00:00"), LONG_AGO),
        (clock("ends_at", "9999-12-31 23:59"), LONG_AGO),
        (clock("starts_at", "2010-06-01 10:00"), "This is in the past, so nobody could book it."),
        (clock("ends_at", "2030-06-01 14:00"), "The end must be after the start."),
        (clock("opens_at", "2030-06-01 15:00"), "Booking must close after it opens"),
        (clock("closes_at", "2030-06-01 14:31"), "Booking must close after it opens"),
        ({"until": "14:00"}, "This is before the end of the first slot."),
        ({"until": "nine"}, "Enter a valid time."),
        ({"days": "61"}, COUNT.format("60")),
        (clock("starts_at", "2030-06-01 00:00") | clock("ends_at", "2030-06-01 00:01")
         | {"until": "23:59"}, "At most 200 slots can be made at once."),
        (clock("ends_at", "2030-06-03 14:00") | {"days": "2"}, "cannot repeat every day"),
        (clock("opens_at", "2030-01-01 15:00") | {"days": "2"}, "Slots that repeat can be booked"),
    ],
)  # fmt: skip
def test_nonsense_in_a_new_slot_is_a_form_error(
    client: Client, wrong: dict[str, Any], said: str
) -> None:
    response = client.post(url("add"), slot_form(DoctorFactory()) | wrong)
    assert [text for text in errors(response) if said in text] != [], errors(response)
    assert not Slot.objects.exists()
    assert not Seat.objects.exists()


def test_slot_of_doctor_and_show_is_refused(client: Client) -> None:
    form = slot_form(DoctorFactory()) | {"show": ShowFactory().pk}
    assert errors(client.post(url("add"), form)) == ["Choose either a doctor or a show."]


def test_empty_form_is_refused(client: Client) -> None:
    assert errors(client.post(url("add"), {})) != []


def test_address_of_the_form_may_name_the_doctor(client: Client) -> None:
    doctor = DoctorFactory(name="Dr. Example")
    page = client.get(f"{url('add')}?doctor={doctor.pk}")
    option = (
        f'<option value="{doctor.pk}" selected>Dr. Example, Cardiology (Europe/Berlin)</option>'
    )
    assert option in page.content.decode()
    nonsense = "?doctor=x%00&show=99999999999999999999&starts_at=x&rows=x&seating=x"
    assert client.get(url("add") + nonsense).status_code == 200


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (
            "2030-03-31 02:30",
            "2030-03-31 04:00",
            "On 31 March 2030 02:30 does not exist: clocks go forward and leave it out "
            "(Europe/Berlin). Choose another time.",
        ),
        (
            "2030-10-27 01:30",
            "2030-10-27 02:30",
            "On 27 October 2030 02:30 comes twice: clocks go back and show it again "
            "(Europe/Berlin). Choose another time.",
        ),
    ],
)
def test_time_that_is_not_one_moment_is_refused(
    client: Client, start: str, end: str, said: str
) -> None:
    assert errors(client.post(url("add"), slot_form(DoctorFactory(), start, end))) == [said]
    assert not Slot.objects.exists()


def test_slot_across_the_change_of_the_clocks(client: Client) -> None:
    client.post(url("add"), slot_form(DoctorFactory(), "2030-03-31 01:30", "2030-03-31 03:00"))
    slot = Slot.objects.get()
    assert slot.ends_at - slot.starts_at == timedelta(minutes=30)


def test_overlap_is_refused_naming_the_other_slot(client: Client) -> None:
    doctor = DoctorFactory(name="Dr. Busy")
    client.post(url("add"), slot_form(doctor))
    other = Slot.objects.get()
    late = slot_form(doctor, "2030-06-01 14:29", "2030-06-01 15:00")
    assert errors(client.post(url("add"), late)) == [
        f'Dr. Busy has another slot at this time: <a href="{url("change", other)}">'
        "Sat 01 Jun 2030, 14:00–14:30</a>."
    ]
    lifecycle.cancel_slot(other, actor="desk")
    client.post(url("add"), late)
    assert Slot.objects.count() == 2


def test_show_is_not_given_twice_at_the_same_moment(client: Client) -> None:
    show = ShowFactory(name="Tide")
    client.post(url("add"), slot_form(show))
    other = Slot.objects.get()
    said = (
        f'Tide has another slot at this time: <a href="{url("change", other)}">'
        "Sat 01 Jun 2030, 14:00–14:30</a>."
    )
    longer = slot_form(show, ends="2030-06-01 16:00", days="2")
    assert errors(client.post(url("add"), longer)) == [said]
    client.post(url("add"), slot_form(show, "2030-06-01 14:15", "2030-06-01 16:00"))
    second = Slot.objects.latest("pk")
    assert second != other
    moved = times_of(second, starts_at="2030-06-01 14:00")
    assert errors(client.post(url("change", second), moved)) == [said]
    lifecycle.cancel_slot(other, actor="desk")
    assert client.post(url("add"), slot_form(show)).status_code == 302
    assert Slot.objects.count() == 3


def test_name_of_a_doctor_is_text_in_the_error(client: Client) -> None:
    doctor = DoctorFactory(name="<b>Dr.</b>")
    client.post(url("add"), slot_form(doctor))
    page = client.post(url("add"), slot_form(doctor)).content.decode()
    assert "&lt;b&gt;Dr.&lt;/b&gt; has another slot at this time" in page
    assert "<b>Dr." not in page


# ── A doctor's day ────────────────────────────────────────────────────────────────────────────────


def test_slots_repeat_until_a_time_and_on_days(client: Client) -> None:
    """Friday and Monday across the weekend on which clocks go back, by the clock."""
    form = slot_form(DoctorFactory(), "2030-10-25 09:00", "2030-10-25 09:20", places="2")
    repeat = {"until": "10:05", "days": "2", "skip_weekends": "on"}
    response = client.post(url("add"), form | repeat, follow=True)
    starts = [f"{slot.local_start:%a %H:%M %Z}" for slot in Slot.objects.all()]
    assert starts == [
        *("Fri 09:00 CEST", "Fri 09:20 CEST", "Fri 09:40 CEST"),
        *("Mon 09:00 CET", "Mon 09:20 CET", "Mon 09:40 CET"),
    ]
    assert {slot.seats.count() for slot in Slot.objects.all()} == {2}
    assert told(response)[0].startswith("6 slots were added, the last one: ")
    assert LogEntry.objects.count() == 6


def test_repeating_that_starts_on_a_weekend_starts_on_monday(client: Client) -> None:
    form = slot_form(DoctorFactory(), "2030-06-01 09:00", "2030-06-01 09:20")
    client.post(url("add"), form | {"skip_weekends": "on"})
    assert f"{Slot.objects.get().local_start:%a %d}" == "Mon 03"


@pytest.mark.parametrize(
    ("seats", "each"),
    [
        ({"places": "100001"}, "100,001"),
        ({"seating": "NUMBERED", "rows": "101", "seats_per_row": "1000"}, "101,000"),
    ],
)
def test_one_form_makes_no_more_seats_than_a_slot_can_have(
    client: Client, seats: dict[str, str], each: str
) -> None:
    form = slot_form(ShowFactory(), days="2") | seats
    assert errors(client.post(url("add"), form)) == [
        f"These would be 2 slots with {each} seats each. At most 200,000 seats can be made at "
        "once: repeat the slot less often."
    ]
    assert not Slot.objects.exists()


def test_repeating_into_another_slot_makes_none(client: Client) -> None:
    doctor = DoctorFactory()
    client.post(url("add"), slot_form(doctor, "2030-06-01 10:10", "2030-06-01 10:20"))
    form = slot_form(doctor, "2030-06-01 09:00", "2030-06-01 09:20", until="12:00")
    (said,) = errors(client.post(url("add"), form))
    assert "has another slot at this time" in said
    assert Slot.objects.count() == 1


def test_repeating_into_the_hour_left_out_makes_none(client: Client) -> None:
    form = slot_form(DoctorFactory(), "2030-03-30 02:30", "2030-03-30 02:45", days="2")
    (said,) = errors(client.post(url("add"), form))
    assert said.startswith("On 31 March 2030 02:30 does not exist")
    assert not Slot.objects.exists()


# ── Changing a slot ───────────────────────────────────────────────────────────────────────────────


def times_of(slot: Slot, **changed: str) -> dict[str, str]:
    """The form of a slot as it stands, with some of its times changed."""
    form: dict[str, str] = {}
    for name in ("starts_at", "ends_at", "opens_at", "closes_at"):
        moment = getattr(slot, name)
        text = f"{moment.astimezone(slot.zone):%Y-%m-%d %H:%M}" if moment else ""
        form |= clock(name, changed.get(name, text))
    return form


def test_slot_that_nobody_booked_is_moved(client: Client) -> None:
    slot = AppointmentFactory()
    moved = {"starts_at": "2031-01-10 09:00", "ends_at": "2031-01-10 09:30"}
    response = client.post(url("change", slot), times_of(slot, **moved))
    assert response.status_code == 302
    slot.refresh_from_db()
    assert slot.starts_at == datetime(2031, 1, 10, 8, 0, tzinfo=UTC)


def test_saving_unchanged_keeps_the_moment_to_the_second(client: Client) -> None:
    start = datetime(2030, 10, 27, 1, 30, 17, tzinfo=UTC)  # 02:30 for the second time
    slot = AppointmentFactory(starts_at=start)
    form = times_of(slot, opens_at="2030-01-01 00:00")
    assert client.post(url("change", slot), form).status_code == 302
    slot.refresh_from_db()
    assert (slot.starts_at, slot.ends_at) == (start, start + timedelta(minutes=30))
    assert slot.opens_at == datetime(2029, 12, 31, 23, 0, tzinfo=UTC)


def test_time_of_a_booked_slot_stays(client: Client) -> None:
    slot = SlotFactory(places=2)
    hold = lifecycle.hold(slot, quantity=1)
    page = client.get(url("change", slot)).content.decode()
    assert page.count("Fixed while there are bookings.") == 2
    form = times_of(slot, ends_at="2031-01-10 09:30")
    (said,) = errors(client.post(url("change", slot), form))
    assert said.startswith("People have booked this slot at its present time.")
    # When booking closes may change, and what has lapsed is no booking.
    start = slot.local_start - timedelta(hours=1)
    form = times_of(slot, closes_at=f"{start:%Y-%m-%d %H:%M}")
    assert client.post(url("change", slot), form).status_code == 302
    lapse(hold)
    slot.refresh_from_db()
    form = times_of(slot, ends_at="2031-01-10 09:30")
    assert client.post(url("change", slot), form).status_code == 302


def test_slot_is_not_moved_onto_another(client: Client) -> None:
    doctor = DoctorFactory()
    other, slot = (
        AppointmentFactory(doctor=doctor, starts_at=datetime(2030, 6, 1, hour, tzinfo=UTC))
        for hour in (8, 9)
    )
    form = times_of(slot, starts_at="2030-06-01 10:29", ends_at="2030-06-01 10:40")
    (said,) = errors(client.post(url("change", slot), form))
    assert f'<a href="{url("change", other)}">Sat 01 Jun 2030, 10:00–10:30</a>' in said
    # Onto itself it may be.
    form = times_of(slot, starts_at="2030-06-01 11:10", ends_at="2030-06-01 11:40")
    assert client.post(url("change", slot), form).status_code == 302


def test_doctor_and_seating_of_a_slot_stay(client: Client) -> None:
    slot = AppointmentFactory()
    doctor = slot.doctor
    form = times_of(slot) | {"doctor": DoctorFactory().pk, "seating": "NUMBERED", "rows": "3"}
    assert client.post(url("change", slot), form).status_code == 302
    slot.refresh_from_db()
    assert (slot.doctor, slot.seating, slot.seats.count()) == (doctor, "GENERAL", 1)


def test_cancelled_slot_cannot_be_changed(client: Client) -> None:
    slot = SlotFactory(rows=1, seats_per_row=3)
    lifecycle.cancel_slot(slot, actor="desk")
    page = client.get(url("change", slot)).content.decode()
    assert "Nothing of it can be changed any more." in page
    assert url("seats", slot) not in page
    assert url("cancel", slot) not in page
    assert client.post(url("change", slot), times_of(slot)).status_code == 403
    form = {"action": "add", "add-rows": "1", "add-seats_per_row": "1"}
    assert client.post(url("seats", slot), form).status_code == 403
    assert slot.seats.count() == 3


# ── Seats ─────────────────────────────────────────────────────────────────────────────────────────


def change_seats(client: Client, slot: Slot, action: str, **fields: Any) -> Any:
    """Sends the form of a page that was opened just now."""
    form = {"action": action, "seen": inventory.seats_seen(slot)} | fields
    return client.post(url("seats", slot), form, follow=True)


def test_rows_are_added(client: Client) -> None:
    slot = SlotFactory(rows=1, seats_per_row=2)
    form = {"add-rows": "2", "add-seats_per_row": "1", "add-accessible": "B1"}
    assert told(change_seats(client, slot, "add", **form)) == ["Added 2 seats."]
    assert labels(slot) == ["A1", "A2", "B1", "C1"]
    assert slot.seats.get(accessible=True).label == "B1"
    assert LogEntry.objects.get().change_message == "Added 2 seats."


def test_places_are_added_blocked_unblocked_and_removed(client: Client) -> None:
    slot = SlotFactory(places=2)
    assert told(change_seats(client, slot, "add", **{"add-places": "3"})) == ["Added 3 seats."]
    response = change_seats(client, slot, "block", places="2", reason="For the press")
    assert told(response) == ["Blocked 2 seats."]
    assert list(slot.seats.filter(blocked=True).values_list("label", "block_reason")) == [
        ("4", "For the press"),
        ("5", "For the press"),
    ]
    response = change_seats(client, slot, "unblock", places="3")
    assert errors(response, "changing") == ["Only 2 seats are blocked, so 3 cannot be put on sale."]
    assert told(change_seats(client, slot, "unblock", places="1")) == ["Put 1 seat back on sale."]
    assert told(change_seats(client, slot, "remove", places="3")) == ["Removed 3 seats."]
    assert labels(slot) == ["1", "5"]
    response = change_seats(client, slot, "remove", places="2")
    assert errors(response, "changing") == [
        "Only 1 seat is free, so 2 cannot be taken away. Cancel or move bookings first."
    ]


CHANGED_MEANWHILE = [
    "The seats have been changed since this page was shown, perhaps by your own click. "
    "Nothing was done now: look at them, and send it again if it is still needed."
]


@pytest.mark.parametrize("action", ["add", "block", "unblock", "remove"])
def test_form_about_so_many_places_that_is_sent_twice_is_done_once(
    client: Client, action: str
) -> None:
    slot = SlotFactory(places=8)
    inventory.block_places(slot, places=4)
    form = {"places": "2", "add-places": "2", "seen": inventory.seats_seen(slot)}
    assert len(told(change_seats(client, slot, action, **form))) == 1
    seats = list(slot.seats.values_list())
    again = change_seats(client, slot, action, **form)
    assert errors(again, "adding" if action == "add" else "changing") == CHANGED_MEANWHILE
    assert list(slot.seats.values_list()) == seats
    assert again.context["seen"] == inventory.seats_seen(slot)
    assert again.content.decode().count(f'name="seen" value="{again.context["seen"]}"') == 2


def test_rows_that_are_sent_twice_are_added_once(client: Client) -> None:
    slot = SlotFactory(rows=1, seats_per_row=2)
    seen = client.get(url("seats", slot)).context["seen"]
    form = {"add-rows": "2", "add-seats_per_row": "1", "seen": seen}
    assert told(change_seats(client, slot, "add", **form)) == ["Added 2 seats."]
    assert errors(change_seats(client, slot, "add", **form), "adding") == CHANGED_MEANWHILE
    assert labels(slot) == ["A1", "A2", "B1", "C1"]
    inventory.remove_seats(slot, seat_ids=[slot.seats.last().pk])
    assert errors(change_seats(client, slot, "add", **form | {"seen": ""}), "adding")
    assert labels(slot) == ["A1", "A2", "B1"]


def test_booking_does_not_get_in_the_way_of_adding(client: Client) -> None:
    slot = SlotFactory(places=2)
    seen = inventory.seats_seen(slot)
    lifecycle.hold(slot, quantity=1)
    form = {"add-places": "1", "seen": seen}
    assert told(change_seats(client, slot, "add", **form)) == ["Added 1 seat."]


def test_seats_are_chosen_on_the_plan_and_by_label(client: Client) -> None:
    slot = SlotFactory(rows=3, seats_per_row=12)
    ticked = slot.seats.get(label="C12").pk
    fields = {"labels": "a2 – A10; b3,A2-4", "seat": [ticked], "reason": "Broken"}
    assert told(change_seats(client, slot, "block", **fields)) == ["Blocked 11 seats."]
    blocked = slot.seats.filter(blocked=True, block_reason="Broken")
    assert [seat.label for seat in blocked] == [*(f"A{n}" for n in range(2, 11)), "B3", "C12"]
    response = change_seats(client, slot, "unblock", labels="A")
    assert told(response) == ["Put 9 seats back on sale."]
    assert told(change_seats(client, slot, "remove", labels="B,\nC2-C1")) == ["Removed 14 seats."]
    assert labels(slot) == [*(f"A{n}" for n in range(1, 13)), *(f"C{n}" for n in range(3, 13))]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "Choose at least one seat."),
        ({"labels": " , ;"}, "Choose at least one seat."),
        ({"labels": "A9"}, "There is no seat or row “A9”."),
        ({"labels": "A1-A9"}, "There is no seat “A9”."),
        ({"labels": "A1-B2"}, "“A1-B2” is not within one row. Write a range for each row."),
        ({"labels": "-"}, "There is no seat “”."),
        ({"labels": "A1-" + "9" * 4000}, "There is no seat “" + "9" * 40 + "”."),
        ({"labels": "A" * 5001}, "Ensure this value has at most 5000 characters (it has 5001)."),
        ({"labels": "A1\x00"}, "Null characters are not allowed."),
        ({"labels": "<script>"}, "There is no seat or row “<SCRIPT>”."),
        ({"seat": "x"}, "Some of these seats are no longer there. Choose again."),
        ({"seat": "9" * 30}, "Some of these seats are no longer there. Choose again."),
        ({"seat": "-1"}, "Some of these seats are no longer there. Choose again."),
        ({"labels": "A1", "reason": "x" * 201}, "at most 200 characters"),
        ({"labels": "A1", "reason": "\x00"}, "Null characters are not allowed."),
        ({"labels": "A1", "action": "burn"}, "Choose what to do with the seats."),
    ],
)
def test_nonsense_about_seats_is_a_form_error(
    client: Client, fields: dict[str, Any], said: str
) -> None:
    slot = SlotFactory(rows=2, seats_per_row=2)
    (error,) = errors(change_seats(client, slot, **{"action": "remove"} | fields), "changing")
    assert said in error
    assert labels(slot) == ["A1", "A2", "B1", "B2"]
    assert not slot.seats.filter(blocked=True).exists()


@pytest.mark.parametrize("places", ["", "0", "-1", "1.5", "1_0", "1000000000", "\x00", "x"])
@pytest.mark.parametrize("action", ["add", "block", "unblock", "remove"])
def test_nonsense_about_places_is_a_form_error(client: Client, action: str, places: str) -> None:
    slot = SlotFactory(places=2)
    response = change_seats(client, slot, action, **{"places": places, "add-places": places})
    assert len(errors(response, "adding" if action == "add" else "changing")) == 1
    assert list(slot.seats.values_list("label", "blocked")) == [("1", False), ("2", False)]


def test_seats_of_another_slot_are_not_touched(client: Client) -> None:
    slot, other = SlotFactory(rows=1, seats_per_row=2), SlotFactory(rows=2, seats_per_row=2)
    response = change_seats(client, slot, "remove", seat=[other.seats.first().pk])
    assert errors(response, "changing") == [
        "Some of these seats are no longer there. Choose again."
    ]
    response = change_seats(client, slot, "remove", labels="B1")
    assert errors(response, "changing") == ["There is no seat or row “B1”."]
    assert other.seats.count() == 4


@pytest.mark.parametrize(("action", "verb"), [("block", "blocked"), ("remove", "taken away")])
def test_seats_in_use_are_kept_and_the_choice_stays(client: Client, action: str, verb: str) -> None:
    slot = SlotFactory(rows=1, seats_per_row=4)
    book(slot, "A2")
    lifecycle.hold(slot, seat_ids=[slot.seats.get(label="A3").pk])
    ticked = slot.seats.get(label="A4").pk
    response = change_seats(client, slot, action, labels="A", seat=[ticked])
    assert errors(response, "changing") == [
        f"Booked or held, so they cannot be {verb}: A2, A3. Only 2 seats are free of the 4 chosen. "
        "Cancel or move the bookings first."
    ]
    assert list(slot.seats.values_list("label", "blocked")) == [
        *(("A1", False), ("A2", False), ("A3", False), ("A4", False))
    ]
    assert f'value="{ticked}" aria-label="A4" checked' in response.content.decode()


@pytest.mark.parametrize("action", ["block", "remove"])
def test_seat_whose_hold_has_lapsed_is_free_to_staff(client: Client, action: str) -> None:
    slot = SlotFactory(rows=1, seats_per_row=2)
    lapse(lifecycle.hold(slot, quantity=2))
    response = change_seats(client, slot, action, labels="A")
    assert told(response) == [f"{action.title().rstrip('e')}ed 2 seats."]


def test_unblocking_what_is_not_blocked_says_so(client: Client) -> None:
    slot = SlotFactory(rows=1, seats_per_row=2)
    response = change_seats(client, slot, "unblock", labels="A1")
    assert errors(response, "changing") == ["None of these seats is blocked."]


# ── The plan ──────────────────────────────────────────────────────────────────────────────────────


def test_plan_tells_who_owns_what(client: Client) -> None:
    slot = SlotFactory(rows=1, seats_per_row=5)
    booking = book(slot, "A1")
    lapse(lifecycle.hold(slot, seat_ids=[slot.seats.get(label="A4").pk], name="Too Late"))
    held = lifecycle.hold(slot, seat_ids=[slot.seats.get(label="A2").pk], name="Grace Hopper")
    inventory.block_seats(slot, seat_ids=[slot.seats.get(label="A3").pk], reason="Broken")
    response = client.get(url("change", slot))
    cells = response.context["seats"].plan.sections[0].rows[0].cells
    assert [cell["name"] for cell in cells] == [
        f"A1, booked: {booking.reference} Ada Lovelace",
        f"A2, held by somebody: {held.reference} Grace Hopper",
        "A3, not on sale: Broken",
        "A4",
        "A5",
    ]
    assert [cell.get("url") is None for cell in cells] == [False, False, True, True, True]
    page = response.content.decode()
    assert f'title="A1, booked: {booking.reference} Ada Lovelace"' in page
    assert page.count(f'href="{cells[0]["url"]}"') == 2  # on the plan and in the list


@pytest.mark.parametrize("size", [{"rows": 1, "seats_per_row": 9}, {"places": 9}])
def test_reasons_of_blocked_seats_are_told(client: Client, size: dict[str, int]) -> None:
    slot = SlotFactory(**size)
    assert "Blocked:" not in client.get(url("change", slot)).content.decode()
    for places, reason in ((1, "<b>Piano"), (3, "For the press"), (2, "")):
        inventory.block_places(slot, places=places, reason=reason)
    for page in ("change", "seats"):
        text = " ".join(client.get(url(page, slot)).content.decode().split())
        assert "Blocked: 3 for “For the press”; 2 without a reason; 1 for “&lt;b&gt;Piano”." in text


def test_list_below_the_plan_leads_to_all_bookings(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = SlotFactory(rows=1, seats_per_row=2)
    book(slot, "A1")
    book(slot, "A2")
    all_of_them = f"/admin/bookings/booking/?slot__id__exact={slot.pk}"
    assert all_of_them not in client.get(url("change", slot)).content.decode()
    monkeypatch.setattr("slots.admin_plan.MOST_BOOKINGS", 1)
    assert f'href="{all_of_them}"' in client.get(url("change", slot)).content.decode()
    assert client.get(all_of_them).context["cl"].result_count == 2


def test_who_may_not_see_bookings_sees_no_names() -> None:
    client = office("view_slot", "change_slot")
    slot = SlotFactory(rows=1, seats_per_row=2)
    booking = book(slot, "A1")
    for page in ("change", "seats"):
        text = client.get(url(page, slot)).content.decode()
        assert 'aria-label="A1, booked"' in text
        assert "Lovelace" not in text
        assert booking.reference not in text


def test_plan_and_list_take_the_same_queries_at_any_size(
    client: Client, django_assert_num_queries: Any
) -> None:
    small, large = SlotFactory(rows=1, seats_per_row=2), SlotFactory(rows=10, seats_per_row=20)
    book(small, "A1")
    for row in "ABCDEFGHJ":
        book(large, *(f"{row}{number}" for number in range(1, 8)))
    client.get(url("change", small))  # Django remembers the content type
    for slot in (small, large):
        with django_assert_num_queries(9):
            client.get(url("change", slot))
        with django_assert_num_queries(9):
            client.get(url("seats", slot))


def test_hall_of_five_thousand_is_drawn(client: Client) -> None:
    slot = SlotFactory(rows=50, seats_per_row=100)
    book(slot, "A1", "AX100")
    page = client.get(url("seats", slot)).content.decode()
    assert page.count('class="seat"') == 5_000 + 3  # and the legend
    assert page.count('type="checkbox"') == 4_998


# ── Lists ─────────────────────────────────────────────────────────────────────────────────────────


def rows_of(response: Any) -> list[str]:
    assert response.status_code == 200
    return [str(slot.subject) for slot in response.context["cl"].result_list]


def some_slots() -> None:
    now = timezone.now()

    def add(name: str, begins: timedelta, **fields: Any) -> Slot:
        return SlotFactory(show__name=name, starts_at=now + begins, **{"places": 3} | fields)

    add("open", timedelta(days=2))
    add("not yet", timedelta(days=3), opens_at=now + timedelta(days=1))
    lifecycle.hold(add("sold out", timedelta(days=9)), quantity=3)
    lapse(lifecycle.hold(add("lapsed", timedelta(days=10)), quantity=3))
    add("closed", timedelta(days=11), closes_at=now - timedelta(hours=1))
    add("begun", timedelta(hours=-1))
    add("past", timedelta(days=-3))
    lifecycle.cancel_slot(add("cancelled", timedelta(days=12)), actor="desk")


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["begun", "open", "not yet", "sold out", "lapsed", "closed", "cancelled"]),
        ("when=week", ["begun", "open", "not yet"]),
        ("when=past", ["past"]),
        ("state=open", ["open", "lapsed"]),
        ("state=not_yet", ["not yet"]),
        ("state=sold_out", ["sold out"]),
        ("state=begun", ["begun"]),
        ("state=past&when=all", ["past"]),
        ("state=cancelled", ["cancelled"]),
        ("q=not+yet", ["not yet"]),
        ("q=nothing", []),
        ("when=nonsense&state=nonsense&when=all", None),
    ],
)
def test_slots_are_filtered(client: Client, query: str, names: list[str] | None) -> None:
    some_slots()
    everything = ["past", "begun", "open", "not yet", "sold out", "lapsed", "closed", "cancelled"]
    found = rows_of(client.get(f"{url('changelist')}?{query}"))
    assert found == (everything if names is None else names)


def test_past_slots_are_found_by_date(client: Client) -> None:
    slot = SlotFactory(starts_at=datetime(2020, 5, 17, 12, tzinfo=UTC))
    SlotFactory()
    query = "?starts_at__year=2020&starts_at__month=5"
    assert rows_of(client.get(url("changelist") + query)) == [str(slot.subject)]


def test_today_is_the_day_of_the_place(client: Client) -> None:
    """At any moment it is two different days in Kiritimati and on Midway."""
    now = timezone.now()
    for zone in ("Pacific/Kiritimati", "Pacific/Midway"):
        doctor = DoctorFactory(name=zone, time_zone=zone)
        for hours in (-48, -24, 0, 24, 48):
            AppointmentFactory(doctor=doctor, starts_at=now + timedelta(hours=hours))
    found = client.get(f"{url('changelist')}?when=today").context["cl"].result_list
    assert sorted(str(slot.subject) for slot in found) == ["Pacific/Kiritimati", "Pacific/Midway"]
    for slot in found:
        assert slot.local_start.date() == now.astimezone(slot.zone).date()


def test_today_is_found_in_a_zone_that_only_this_machine_has(client: Client) -> None:
    slot = AppointmentFactory(doctor__time_zone="localtime", starts_at=timezone.now())
    SlotFactory(show__time_zone="localtime", starts_at=timezone.now() + timedelta(days=2))
    found = client.get(f"{url('changelist')}?when=today").context["cl"].result_list
    assert found == [slot]


@pytest.mark.parametrize("zone", ["localtime", "posixrules", "Factory", "Europe/Atlantis"])
def test_zone_of_no_place_is_refused(zone: str) -> None:
    client, doctor = office("change_doctor", "view_doctor"), DoctorFactory(time_zone=zone)
    form = {"name": "Who", "specialization": "", "bio": "", "time_zone": zone}
    response = client.post(f"/admin/slots/doctor/{doctor.pk}/change/", form)
    assert errors(response) == [f"“{zone}” is no time zone; write it like Europe/Berlin."]


def test_list_shows_fill_and_state(client: Client) -> None:
    slot = SlotFactory(rows=1, seats_per_row=6, show__name="Tide")
    book(slot, "A1", "A2")
    lifecycle.hold(slot, seat_ids=[slot.seats.get(label="A3").pk])
    lapse(lifecycle.hold(slot, seat_ids=[slot.seats.get(label="A4").pk]))
    inventory.block_seats(slot, seat_ids=[slot.seats.get(label="A5").pk])
    page = client.get(url("changelist")).content.decode()
    assert '<meter min="0" max="5" value="3" aria-hidden="true">' in page
    assert "2 of 5 seats, 1 held, 1 blocked" in page
    assert '<span class="slot-state" data-state="open">Open</span>' in page
    assert f"{slot.local_start:%a %d %b %Y, %H:%M}–" in page
    slot.seats.filter(booking=None).delete()
    SlotFactory(places=0)
    assert '<span class="fill">no seats</span>' in client.get(url("changelist")).content.decode()


def test_slots_are_listed_in_a_fixed_number_of_queries(
    client: Client, django_assert_num_queries: Any
) -> None:
    doctor, show = DoctorFactory(), ShowFactory()
    page = f"{url('changelist')}?q=e&state=open&doctor__id__exact={doctor.pk}"
    for more in (1, 9):
        for _ in range(more):
            last = Slot.objects.order_by("-ends_at").first()
            start = last.ends_at if last else timezone.now() + timedelta(days=1)
            AppointmentFactory(doctor=doctor, starts_at=start)
            SlotFactory(show=show, starts_at=start)
            AppointmentFactory(starts_at=start, doctor__specialization=f"{start}")
        for path in (page, url("changelist")):
            with django_assert_num_queries(11):
                assert client.get(path).status_code == 200


@pytest.mark.parametrize("model", ["doctor", "show"])
def test_subjects_are_listed_in_a_fixed_number_of_queries(
    model: str, django_assert_num_queries: Any
) -> None:
    client = office(f"view_{model}")
    make = AppointmentFactory if model == "doctor" else SlotFactory
    for more in (1, 9):
        for _ in range(more):
            make()
        with django_assert_num_queries(8):
            client.get(reverse(f"admin:slots_{model}_changelist"))


# ── Doctors and shows ─────────────────────────────────────────────────────────────────────────────


def test_doctors_are_listed_with_what_comes_next() -> None:
    client = office("view_doctor")
    busy, idle = DoctorFactory(name="Busy"), DoctorFactory(name="Idle")
    for year in (2019, 2031, 2030):
        AppointmentFactory(doctor=busy, starts_at=datetime(year, 6, 1, 12, tzinfo=UTC))
    AppointmentFactory(
        doctor=busy, starts_at=datetime(2029, 6, 1, 12, tzinfo=UTC), cancelled_at=timezone.now()
    )
    page = client.get(reverse("admin:slots_doctor_changelist") + "?o=2").content.decode()
    assert "Sat 01 Jun 2030, 14:00 CEST" in page
    assert f'<a href="{url("changelist")}?doctor__id__exact={busy.pk}">2</a>' in page
    assert page.index(">Busy</a>") < page.index(">Idle</a>")
    assert idle.slots.count() == 0


@pytest.mark.parametrize("model", [Doctor, Show])
def test_time_zone_is_chosen_from_a_list(model: type) -> None:
    name = model._meta.model_name
    client = office(f"add_{name}", f"view_{name}")
    form = {"name": "New", "time_zone": "Asia/Kathmandu"}
    client.post(reverse(f"admin:slots_{name}_add"), form)
    assert model.objects.get().time_zone == "Asia/Kathmandu"
    for wrong in ("Mars/Olympus", "localtime", "", "\x00", "../../etc/passwd"):
        response = client.post(reverse(f"admin:slots_{name}_add"), form | {"time_zone": wrong})
        assert len(errors(response)) == 1
    assert model.objects.count() == 1


def test_zone_that_is_not_in_the_list_stays() -> None:
    doctor = DoctorFactory(time_zone="EST5EDT")
    client = office("change_doctor")
    page = reverse("admin:slots_doctor_change", args=[doctor.pk])
    assert '<option value="EST5EDT" selected>' in client.get(page).content.decode()
    assert client.post(page, {"name": "Other", "time_zone": "EST5EDT"}).status_code == 302


def test_doctor_is_shown_to_who_may_only_look() -> None:
    doctor = DoctorFactory(time_zone="Asia/Kathmandu")
    client = office("view_doctor")
    page = reverse("admin:slots_doctor_change", args=[doctor.pk])
    assert '<div class="readonly">Asia/Kathmandu</div>' in client.get(page).content.decode()
    form = {"name": "Other", "time_zone": "UTC"}
    assert client.post(page, form).status_code == 403


# ── Deleting ──────────────────────────────────────────────────────────────────────────────────────


def test_subject_with_slots_is_not_deleted() -> None:
    client = office("delete_doctor", "view_doctor")
    doctor, free = DoctorFactory(name="Dr. Kept"), DoctorFactory()
    AppointmentFactory(doctor=doctor)
    said = "Dr. Kept has 1 slot. Delete those first; slots that were booked are kept"
    page = reverse("admin:slots_doctor_delete", args=[doctor.pk])
    assert said in client.get(page).content.decode()
    assert said in client.post(page, {"post": "yes"}).content.decode()
    form = {"action": "delete_selected", "_selected_action": [doctor.pk, free.pk], "post": "yes"}
    response = client.post(reverse("admin:slots_doctor_changelist"), form)
    assert said in response.content.decode()
    assert Doctor.objects.count() == 2
    client.post(reverse("admin:slots_doctor_changelist"), form | {"_selected_action": [free.pk]})
    assert list(Doctor.objects.all()) == [doctor]


def test_slot_that_was_ever_booked_is_not_deleted(client: Client) -> None:
    slot, free = SlotFactory(places=2), SlotFactory(rows=2, seats_per_row=2)
    lifecycle.cancel(lifecycle.hold(slot, quantity=1))
    said = f"{slot} has 1 booking on record, refused and cancelled ones included."
    assert said in client.get(url("delete", slot)).content.decode()
    assert said in client.post(url("delete", slot), {"post": "yes"}).content.decode()
    form = {"action": "delete_selected", "_selected_action": [slot.pk, free.pk], "post": "yes"}
    assert said in client.post(url("changelist"), form).content.decode()
    assert (Slot.objects.count(), Seat.objects.count()) == (2, 6)
    assert not LogEntry.objects.exists()


def test_slot_that_nobody_booked_is_deleted_with_its_seats(client: Client) -> None:
    slot, others = SlotFactory(rows=2, seats_per_row=2), [SlotFactory(), SlotFactory()]
    kept = SlotFactory(places=1)
    page = client.get(url("delete", slot)).content.decode()
    assert "will be deleted, with its seats" in page
    response = client.post(url("delete", slot), {"post": "yes"}, follow=True)
    assert "was deleted successfully" in told(response)[0]
    ids = [other.pk for other in others]
    form = {"action": "delete_selected", "_selected_action": ids}
    page = client.post(url("changelist"), form)
    assert str(others[0]) in page.content.decode()
    assert Slot.objects.count() == 3
    response = client.post(url("changelist"), form | {"post": "yes"}, follow=True)
    assert told(response) == ["Successfully deleted 2 slots."]
    assert list(Slot.objects.all()) == [kept]
    assert Seat.objects.count() == 1


# ── Cancelling ────────────────────────────────────────────────────────────────────────────────────


def test_cancelling_a_slot_asks_first_and_cancels_its_bookings(client: Client) -> None:
    slot = SlotFactory(rows=1, seats_per_row=5)
    bookings = [book(slot, "A1"), book(slot, "A2", "A3")]
    hold = lifecycle.hold(slot, seat_ids=[slot.seats.get(label="A4").pk])
    page = client.get(url("cancel", slot)).content.decode()
    assert "2 bookings, 1 held at this moment" in page
    assert "This cannot be undone." in page
    client.post(url("cancel", slot))  # nobody said yes
    slot.refresh_from_db()
    assert slot.cancelled_at is None
    form = {"confirm": "yes", "reason": "The singer is ill"}
    response = client.post(url("cancel", slot), form, follow=True)
    assert told(response) == [
        f"{slot} was cancelled, and with it 2 bookings and 1 hold. 1 person is informed by mail."
    ]
    assert "The reason: The singer is ill" in response.content.decode()
    slot.refresh_from_db()
    assert slot.cancelled_at is not None
    for booking in [*bookings, hold]:
        booking.refresh_from_db()
        event = booking.events.last()
        user = response.context["user"]
        assert (booking.status, event.action) == ("CANCELLED", "cancel")
        assert (event.actor, event.reason) == (user.email, "The singer is ill")
    response = client.post(url("cancel", slot), form, follow=True)  # a double click
    assert told(response) == ["Nothing to cancel: what was chosen is over or cancelled already."]


def test_past_slot_is_not_cancelled(client: Client) -> None:
    slot = SlotFactory(starts_at=timezone.now() - timedelta(days=2))
    assert url("cancel", slot) not in client.get(url("change", slot)).content.decode()
    client.post(url("cancel", slot), {"confirm": "yes"})
    slot.refresh_from_db()
    assert slot.cancelled_at is None


@pytest.mark.parametrize("may_see", [True, False])
def test_cancelling_a_slot_says_who_is_informed_and_who_is_to_be_called(may_see: bool) -> None:
    slot = SlotFactory(rows=1, seats_per_row=5)
    book(slot, "A1")
    book(slot, "A2", email="bob@example.org")
    phoned = book(slot, "A3", name="Cyd", email="", phone="030 12")
    silent = book(slot, "A4", name="Dan", email="")
    client = office("view_slot", "cancel_slot", *["view_booking"] * may_see)
    page = client.get(url("cancel", slot)).content.decode()
    assert "2 left none: you will have to call them." in page
    response = client.post(url("cancel", slot), {"confirm": "yes", "reason": ""}, follow=True)
    names = (" Cyd 030 12", " Dan") if may_see else ("", "")
    assert told(response) == [
        f"{slot} was cancelled, and with it 4 bookings. 2 people are informed by mail. "
        "2 bookings left no address: call them "
        f"({phoned.reference}{names[0]}; {silent.reference}{names[1]})."
    ]
    assert sorted(mail.to[0] for mail in queued_mails()[2:]) == [
        "ada@example.org",
        "bob@example.org",
    ]


def test_cancelling_a_slot_without_any_address_promises_no_mail(client: Client) -> None:
    slot = SlotFactory(rows=2, seats_per_row=10)
    for row in "AB":
        for number in range(1, 7):
            book(slot, f"{row}{number}", email="")
    response = client.post(url("cancel", slot), {"confirm": "yes", "reason": ""}, follow=True)
    assert told(response) == [
        f"{slot} was cancelled, and with it 12 bookings. 12 bookings left no address: call them."
    ]
    assert queued_mails() == []


@pytest.mark.parametrize("reason", ["x" * 501, "\x00"])
def test_reason_that_cannot_be_kept_is_a_form_error(client: Client, reason: str) -> None:
    slot = SlotFactory()
    response = client.post(url("cancel", slot), {"confirm": "yes", "reason": reason})
    assert len(errors(response, "form")) == 1
    slot.refresh_from_db()
    assert slot.cancelled_at is None


def test_several_slots_are_cancelled_from_the_list(client: Client) -> None:
    first, second, untouched = SlotFactory(places=1), SlotFactory(places=1), SlotFactory()
    gone = SlotFactory()
    lifecycle.cancel_slot(gone, actor="desk")
    book(first, "1")
    form = {"action": "cancel_selected", "_selected_action": [first.pk, second.pk, gone.pk]}
    page = client.post(url("changelist"), form).content.decode()
    assert "Cancel 2 slots?" in page
    assert "1 of those chosen is over or cancelled already" in page
    assert Slot.objects.filter(cancelled_at=None).count() == 3
    response = client.post(url("changelist"), form | {"confirm": "yes", "reason": ""}, follow=True)
    assert told(response) == [
        f"{first} was cancelled, and with it 1 booking. 1 person is informed by mail.",
        f"{second} was cancelled, and with it 0 bookings.",
    ]
    assert list(Slot.objects.filter(cancelled_at=None)) == [untouched]
    assert Booking.objects.get().status == "CANCELLED"


# ── Who may what ──────────────────────────────────────────────────────────────────────────────────


def test_who_may_only_look_changes_nothing() -> None:
    client = office("view_slot")
    slot = SlotFactory(rows=1, seats_per_row=2)
    page = client.get(url("change", slot)).content.decode()
    assert slot.local_start.strftime("%a %d %b %Y, %H:%M–") in page  # on the clock of the place
    for link in ("seats", "cancel", "delete"):
        assert url(link, slot) not in page
        assert client.get(url(link, slot)).status_code == 403
        form = {"post": "yes", "confirm": "yes", "action": "remove", "labels": "A1"}
        assert client.post(url(link, slot), form).status_code == 403
    assert 'name="_save"' not in page
    assert client.post(url("change", slot), times_of(slot)).status_code == 403
    assert client.post(url("add"), slot_form(slot.show)).status_code == 403
    for action in ("cancel_selected", "delete_selected"):
        form = {"action": action, "_selected_action": [slot.pk], "confirm": "yes", "post": "yes"}
        client.post(url("changelist"), form)
    slot.refresh_from_db()
    assert (slot.cancelled_at, slot.seats.count()) == (None, 2)


def test_each_permission_is_for_its_own_deed() -> None:
    slot = SlotFactory(rows=1, seats_per_row=2)
    changer, canceller = office("change_slot"), office("view_slot", "cancel_slot")
    assert changer.get(url("seats", slot)).status_code == 200
    assert changer.post(url("cancel", slot), {"confirm": "yes"}).status_code == 403
    assert url("cancel", slot) not in changer.get(url("change", slot)).content.decode()
    assert canceller.get(url("seats", slot)).status_code == 403
    assert url("cancel", slot) in canceller.get(url("change", slot)).content.decode()
    assert canceller.post(url("cancel", slot), {"confirm": "yes"}).status_code == 302
    slot.refresh_from_db()
    assert slot.cancelled_at is not None


def test_patients_and_strangers_do_not_come_in() -> None:
    slot = SlotFactory(rows=1, seats_per_row=2)
    for client in (Client(), logged_in(UserFactory())):
        for page in ("change", "seats", "cancel", "delete"):
            form = {"confirm": "yes", "post": "yes", "action": "remove", "labels": "A"}
            assert client.post(url(page, slot), form).status_code == 302
    slot.refresh_from_db()
    assert (slot.cancelled_at, slot.seats.count()) == (None, 2)


@pytest.mark.parametrize("number", ["0", "99999999999999999999", "x", "1%00"])
@pytest.mark.parametrize("page", ["seats", "cancel", "change", "delete"])
def test_slot_that_is_not_there(client: Client, page: str, number: str) -> None:
    response = client.get(f"/admin/slots/slot/{number}/{page}/", follow=True)
    assert "doesn’t exist" in response.content.decode()


def test_forms_want_the_token(client: Client) -> None:
    slot = SlotFactory(rows=1, seats_per_row=2)
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = client.cookies
    for page in ("seats", "cancel", "change", "delete"):
        assert strict.post(url(page, slot), {"confirm": "yes"}).status_code == 403
    assert strict.get(url("seats", slot)).status_code == 200
