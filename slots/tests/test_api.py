"""Doctors, shows, slots and seats over the API, for everybody and for staff."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from accounts import tokens
from accounts.models import User
from booking_site.problems import MEDIA_TYPE
from booking_site.tests.factories import (
    AppointmentFactory,
    DoctorFactory,
    ShowFactory,
    SlotFactory,
    UserFactory,
)
from booking_site.tests.races import lapse, race
from booking_site.tests.races import start as start_in_a_thread
from bookings import lifecycle
from bookings.lifecycle import Holder
from slots import api as slots_api
from slots import inventory
from slots.api import SeatOut
from slots.inventory import MOST_SEATS, SeatsInUse
from slots.models import Doctor, Seat, Show, Slot
from slots.tests.office import office, staff

pytestmark = pytest.mark.django_db

API = "/api/v1/"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2030, 6, 1, 8, tzinfo=UTC)
HUGE = 2**63
UNKNOWN_IDS = ["0", "-1", str(HUGE), "9" * 30, "abc", "1.0", "%D9%A1", "4711"]


def get(client: Client, path: str, **query: Any) -> Any:
    """What is answered, with 200."""
    if "from_" in query:
        query["from"] = query.pop("from_")
    response = client.get(f"{API}{path}?{urlencode(query)}")
    assert response.status_code == 200, response.content
    return response.json()


def ids(page: dict[str, Any]) -> list[int]:
    """Of a list that is shown whole."""
    assert page["count"] == len(page["items"])
    return [item["id"] for item in page["items"]]


def post(client: Client, path: str, body: Any) -> Any:
    return client.post(API + path, body, content_type="application/json")


def problem(response: Any, status: int) -> dict[str, Any]:
    assert (response.status_code, response["Content-Type"]) == (status, MEDIA_TYPE)
    return response.json()


def assert_told(response: Any, errors: dict[str, str | None]) -> None:
    """That these fields are wrong, and no others; None is any message."""
    told = problem(response, 400)["errors"]
    assert told == {name: [text] if text else told.get(name) for name, text in errors.items()}
    assert all(messages for messages in told.values())


def written(moment: datetime) -> str:
    """As the API writes it."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


# ── Doctors and shows ─────────────────────────────────────────────────────────────────────────────


def test_doctor_and_show_have_these_fields(client: Client) -> None:
    doctor = DoctorFactory(name="Dr. Ada", specialization="Cardiology", bio="Hearts.")
    show = ShowFactory(name="Hamlet", description="A ghost.")
    shown = {
        "id": doctor.pk,
        "name": "Dr. Ada",
        "specialization": "Cardiology",
        "bio": "Hearts.",
        "time_zone": "Europe/Berlin",
    }
    assert get(client, f"doctors/{doctor.pk}") == shown
    assert get(client, "doctors") == {"count": 1, "items": [shown]}
    shown = {
        "id": show.pk,
        "name": "Hamlet",
        "description": "A ghost.",
        "venue": "Old Theatre",
        "time_zone": "Europe/Berlin",
    }
    assert get(client, f"shows/{show.pk}") == shown
    assert get(client, "shows") == {"count": 1, "items": [shown]}


@pytest.mark.parametrize("path", ["doctors", "admin/doctors"])
def test_doctors_are_filtered_by_specialization_and_words_together(path: str) -> None:
    client = office("view_doctor")
    muller = DoctorFactory(name="Dr. Jörg Müller", specialization="Dermatology").pk
    other = DoctorFactory(name="Dr. Anna Müller", specialization="Cardiology").pk
    son = DoctorFactory(name="Dr. Émile Søn", specialization="Dermatology").pk
    for query, found in [
        ({}, [other, muller, son]),
        ({"q": "MULLER"}, [other, muller]),
        ({"q": "derma"}, [muller, son]),
        ({"q": "muller, derma"}, [muller]),
        ({"q": "emile son"}, [son]),
        ({"q": "%"}, []),
        ({"specialization": "Dermatology"}, [muller, son]),
        ({"specialization": "Dermatology", "q": "müller"}, [muller]),
        ({"specialization": "Cardiology", "q": "derma"}, []),
        ({"specialization": "Astrology"}, []),
        ({"specialization": "derma"}, []),
    ]:
        assert ids(get(client, path, **query)) == found, query


def test_shows_are_found_by_words(client: Client) -> None:
    hamlet = ShowFactory(name="Hamlet", description="A ghost.").pk
    cats = ShowFactory(name="Cats", venue="Ghost House").pk
    assert ids(get(client, "shows")) == [cats, hamlet]
    assert ids(get(client, "shows", q="GHÖST")) == [cats, hamlet]
    assert ids(get(client, "shows", q="ghost theatre")) == [hamlet]
    assert get(client, "shows", q="dogs") == {"count": 0, "items": []}


@pytest.mark.parametrize("path", ["doctors", "shows", "slots", "admin/doctors", "admin/slots"])
def test_pages_of_a_list_are_a_partition_of_it_also_where_all_are_alike(path: str) -> None:
    client = office("view_doctor", "view_slot")
    start = timezone.now() + DAY
    for _ in range(5):
        DoctorFactory(name="Dr. Same")
        SlotFactory(show__name="The same", starts_at=start)
    whole = ids(get(client, path))
    assert len(set(whole)) == 5
    parts = [get(client, path, limit=2, offset=offset) for offset in (0, 2, 4, 6)]
    assert [part["count"] for part in parts] == [5] * 4
    assert [item["id"] for part in parts for item in part["items"]] == whole


@pytest.mark.parametrize("subjects", [1, 6])
def test_lists_cost_two_queries_of_any_size(
    client: Client, subjects: int, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for _ in range(subjects):
        AppointmentFactory(places=3)
        SlotFactory(rows=2)
    for path in ("doctors", "shows", "slots", "slots?available=true&from=2020-01-01T00:00Z"):
        with django_assert_num_queries(2):
            assert client.get(API + path).json()["count"] in (subjects, 2 * subjects)
    staff = office("view_doctor", "view_slot")
    for path in ("admin/doctors", "admin/slots?available=true"):
        with django_assert_num_queries(6):  # session, user, two of permissions, and these two
            assert staff.get(API + path).json()["count"] in (subjects, 2 * subjects)
    slot = Slot.objects.latest("id")
    with django_assert_num_queries(1):
        get(client, f"slots/{slot.pk}")
    with django_assert_num_queries(1):
        get(client, f"slots/{slot.pk}/seats")


@pytest.mark.parametrize("path", ["doctors/{}", "shows/{}", "slots/{}", "slots/{}/seats"])
@pytest.mark.parametrize("unknown", UNKNOWN_IDS)
def test_id_that_nothing_has_is_not_found(client: Client, path: str, unknown: str) -> None:
    SlotFactory()
    AppointmentFactory()
    said = problem(client.get(API + path.format(unknown)), 404)
    assert said["code"] == "not_found"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        *((f"limit={limit}", "limit") for limit in ("0", "201", "-1", "1.0", "1_0", "%D9%A1")),
        *((f"offset={offset}", "offset") for offset in ("-1", "10000001", "", "1e3")),
        *((f"doctor={doctor}", "doctor") for doctor in ("abc", "0", "", HUGE, "9" * 30)),
        *((f"show={show}", "show") for show in ("1.5", "-1", "%00")),
        *((f"available={available}", "available") for available in ("yes", "", "True")),
        *((f"from={moment}", "from") for moment in ("tomorrow", "", "2030-06-01", "%00", "1e9")),
        *((f"to=2030-06-01T{time}", "to") for time in ("10:00:00", "25:00Z", "10:00%2B24:00")),
        *((f"to={year}-01-01T00:00Z", "to") for year in ("0000", "0001", "1999", "9999")),
    ],
)
def test_filter_of_slots_that_makes_no_sense_is_named(
    client: Client, query: str, field: str
) -> None:
    for path, who in (("slots", client), ("admin/slots", office("view_slot"))):
        said = problem(who.get(f"{API}{path}?{query}"), 400)
        assert (said["code"], list(said["errors"])) == ("invalid", [field])


def test_slots_from_then_to_before_then_make_no_sense(client: Client) -> None:
    then, hour_before = written(START), "2030-06-01T09:00:00+02:00"
    response = client.get(f"{API}slots", {"from": then, "to": hour_before})
    assert_told(response, {"to": "This is before “from”. Choose a later end, or an earlier start."})


@pytest.mark.parametrize(
    ("path", "query", "errors"),
    [
        ("doctors", "q=%00", {"q": None}),
        ("shows", "q=%00", {"q": None}),
        ("doctors", "specialization=a%00", {"specialization": None}),
        ("doctors", f"q={'a+' * 9}", {"q": "Search for at most 8 words."}),
        (
            *("shows", f"q={'a' * 101}"),
            {"q": "Search for something shorter: at most 100 characters."},
        ),
    ],
)
def test_search_that_makes_no_sense_is_named(
    client: Client, path: str, query: str, errors: dict
) -> None:
    assert_told(client.get(f"{API}{path}?{query}"), errors)


# ── Slots ─────────────────────────────────────────────────────────────────────────────────────────


def test_slot_has_these_fields(client: Client) -> None:
    opens = START - DAY
    slot = SlotFactory(rows=2, seats_per_row=3, starts_at=START, opens_at=opens, closes_at=START)
    appointment = AppointmentFactory(starts_at=START + DAY, places=4)
    shown = {
        "id": slot.pk,
        "doctor": None,
        "show": slot.show_id,
        "name": slot.show.name,
        "time_zone": "Europe/Berlin",
        "starts_at": "2030-06-01T08:00:00Z",
        "ends_at": "2030-06-01T10:00:00Z",
        "opens_at": "2030-05-31T08:00:00Z",
        "closes_at": "2030-06-01T08:00:00Z",
        "cancelled_at": None,
        "seating": "NUMBERED",
        "capacity": 6,
        "available": 6,
    }
    assert get(client, f"slots/{slot.pk}") == shown
    assert get(client, "slots", limit=1) == {"count": 2, "items": [shown]}
    other = get(client, f"slots/{appointment.pk}")
    assert (other["doctor"], other["show"]) == (appointment.doctor_id, None)
    assert (other["seating"], other["capacity"]) == ("GENERAL", 4)


def test_slots_are_the_future_ones_that_are_on_the_next_first(client: Client) -> None:
    now = timezone.now()
    later = SlotFactory(starts_at=now + 2 * DAY).pk
    soon = AppointmentFactory(starts_at=now + HOUR).pk
    off = SlotFactory(starts_at=now + DAY, cancelled_at=now).pk
    begun = SlotFactory(starts_at=now - HOUR).pk
    past = AppointmentFactory(starts_at=now - DAY).pk
    assert ids(get(client, "slots")) == [soon, later]
    assert ids(get(client, "slots", to=written(now + DAY))) == [soon]
    assert ids(get(client, "slots", to=written(now))) == []
    assert ids(get(client, "slots", from_=written(now - 2 * DAY))) == [past, begun, soon, later]
    assert ids(get(client, "slots", from_=written(now - 2 * DAY), to=written(now))) == [past, begun]
    everything = get(office("view_slot"), "admin/slots")
    assert ids(everything) == [past, begun, soon, off, later]
    called_off = everything["items"][3]
    assert called_off["cancelled_at"] == written(Slot.objects.get(pk=off).cancelled_at)
    for slot in (off, begun, past):
        assert get(client, f"slots/{slot}")["id"] == slot
        assert len(get(client, f"slots/{slot}/seats")) in (1, 10)


def test_slots_of_a_doctor_or_show_within_a_time(client: Client) -> None:
    first = AppointmentFactory(starts_at=START)
    second = AppointmentFactory(starts_at=START + HOUR, doctor=first.doctor)
    other = AppointmentFactory(starts_at=START)
    shown = SlotFactory(starts_at=START)
    doctor, show = first.doctor_id, shown.show_id
    assert ids(get(client, "slots", doctor=doctor)) == [first.pk, second.pk]
    assert ids(get(client, "slots", show=show)) == [shown.pk]
    assert ids(get(client, "slots", doctor=doctor, show=show)) == []
    assert ids(get(client, "slots", doctor=4711)) == []
    assert ids(get(client, "slots", show=HUGE - 1)) == []
    assert ids(get(client, "slots", doctor=other.doctor_id, available="true")) == [other.pk]
    start, end = written(START), written(START + HOUR)
    assert ids(get(client, "slots", doctor=doctor, from_=end)) == [second.pk]
    assert ids(get(client, "slots", doctor=doctor, to=end)) == [first.pk]  # it is not within
    assert ids(get(client, "slots", doctor=doctor, from_=start, to=start)) == []
    admin = office("view_slot")
    assert ids(get(admin, "admin/slots", doctor=doctor, from_=end)) == [second.pk]


@pytest.mark.parametrize(
    ("start", "found"),
    [
        # Clocks in Berlin show 02:30 twice on 27 October 2030: at 00:30 and at 01:30 UTC.
        ("2030-10-27T02:30:00+02:00", [0, 1]),
        ("2030-10-27T02:30:00.001+02:00", [1]),
        ("2030-10-27T02:30:00+01:00", [1]),
        ("2030-10-27T01:30:00Z", [1]),
        ("2030-10-26T19:30:00-06:00", [1]),
        ("2030-10-27T07:16+0545", []),
        # The plus sign of an address that was not quoted is a space.
        ("2030-10-27T02:30:00 02:00", [0, 1]),
        ("2030-10-27T02:30:00 01:00", [1]),
    ],
)
def test_from_is_a_moment_whatever_its_offset(client: Client, start: str, found: list[int]) -> None:
    first = datetime(2030, 10, 27, 0, 30, tzinfo=UTC)
    slots = [SlotFactory(starts_at=first).pk, SlotFactory(starts_at=first + HOUR).pk]
    SlotFactory(starts_at=first - DAY)
    assert ids(get(client, "slots", from_=start)) == [slots[n] for n in found]
    raw = client.get(f"{API}slots?from={quote(start, safe=':+')}").json()
    assert ids(raw) == [slots[n] for n in found]


def hold(slot: Slot, quantity: int, *, confirmed: bool = False, lapsed: bool = False) -> None:
    """By a guest of their own."""
    booking = lifecycle.hold(slot, quantity=quantity, holder=Holder(session_key=f"{Slot}"[:40]))
    if confirmed:
        lifecycle.confirm(booking, name="Ada", email="ada@example.org")
    if lapsed:
        lapse(booking)


def test_available_slots_are_those_that_can_be_booked_now(client: Client) -> None:
    now = timezone.now()
    free, held, booked, given_back, blocked, half = (
        AppointmentFactory(places=2, starts_at=now + n * HOUR) for n in range(1, 7)
    )
    hold(held, 2)
    hold(booked, 2, confirmed=True)
    hold(given_back, 2, lapsed=True)
    inventory.block_places(blocked, places=2)
    hold(half, 1)
    SlotFactory(places=0, starts_at=now + DAY)
    SlotFactory(starts_at=now + DAY, cancelled_at=now)
    SlotFactory(starts_at=now - HOUR)
    latecomers = SlotFactory(starts_at=now - HOUR, closes_at=now + HOUR)
    SlotFactory(starts_at=now + DAY, opens_at=now + HOUR)
    open_since = SlotFactory(starts_at=now + DAY, opens_at=now - HOUR)
    SlotFactory(starts_at=now + DAY, opens_at=now - DAY, closes_at=now - HOUR)
    can_be_booked = set()
    for slot in Slot.objects.all():
        body = {"slot": slot.pk, "quantity": 1}
        if post(Client(), "bookings", body).status_code == 201:
            can_be_booked.add(slot.pk)
    assert can_be_booked == {slot.pk for slot in (free, given_back, half, latecomers, open_since)}

    Seat.objects.filter(slot__in=[free, half], held_until__gt=now).update(held_until=now - HOUR)
    hold(half, 1)
    listed = [free.pk, given_back.pk, half.pk, open_since.pk]
    assert ids(get(client, "slots", available="true")) == listed
    past = written(now - DAY)
    assert ids(get(client, "slots", available="true", from_=past)) == [latecomers.pk, *listed]
    everything = get(office("view_slot"), "admin/slots", available="true")
    assert ids(everything) == [latecomers.pk, *listed]


def test_seats_are_counted_and_shown_as_they_are_at_this_moment(client: Client) -> None:
    slot = SlotFactory(rows=1, seats_per_row=6)
    seats = list(slot.seats.order_by("id"))
    bookings = [
        lifecycle.hold(slot, seat_ids=[seat.pk], holder=Holder(session_key="a guest"))
        for seat in seats[:3]
    ]
    lifecycle.confirm(bookings[1], name="Ada", email="ada@example.org")
    lapse(bookings[2])
    inventory.block_seats(slot, seat_ids=[seats[3].pk], reason="The director’s own")
    Seat.objects.filter(pk=seats[5].pk).update(accessible=True, section="Stalls")
    shown = get(client, f"slots/{slot.pk}")
    assert (shown["capacity"], shown["available"]) == (5, 3)
    found = get(client, f"slots/{slot.pk}/seats")
    assert [seat["state"] for seat in found] == [
        *("RESERVED", "BOOKED", "AVAILABLE", "BOOKED", "AVAILABLE", "AVAILABLE")
    ]
    assert found[5] == {
        "id": seats[5].pk,
        "label": "A6",
        "section": "Stalls",
        "row": "A",
        "number": 6,
        "accessible": True,
        "state": "AVAILABLE",
    }
    assert [SeatOut(**seat).dict() for seat in found] == found  # as the docs say


def test_seats_of_a_slot_without_any_are_an_empty_list(client: Client) -> None:
    assert get(client, f"slots/{SlotFactory(places=0).pk}/seats") == []


# ── What earlier systems got wrong ────────────────────────────────────────────────────────────────


def test_capacity_lowered_below_what_is_sold_is_refused_and_nothing_is_sold_twice(
    client: Client,
) -> None:
    slot = SlotFactory(places=4)
    hold(slot, 3, confirmed=True)
    with pytest.raises(SeatsInUse):
        inventory.remove_places(slot, places=2)
    shown = get(client, f"slots/{slot.pk}")
    assert (shown["capacity"], shown["available"]) == (4, 1)
    wishes = [post(client, "bookings", {"slot": slot.pk, "quantity": n}) for n in (2, 1, 1)]
    assert [each.status_code for each in wishes] == [409, 201, 409]
    assert wishes[0].json()["code"] == wishes[2].json()["code"] == "sold_out"
    assert slot.seats.owned().count() == 4


def test_capacity_lowered_by_free_seats_is_what_can_be_sold(client: Client) -> None:
    slot = SlotFactory(places=6)
    hold(slot, 2, confirmed=True)
    inventory.remove_places(slot, places=2)
    inventory.block_places(slot, places=1)
    shown = get(client, f"slots/{slot.pk}")
    assert (shown["capacity"], shown["available"]) == (3, 1)
    wishes = [post(client, "bookings", {"slot": slot.pk, "quantity": n}) for n in (2, 1, 1)]
    assert [each.status_code for each in wishes] == [409, 201, 409]
    shown = get(client, f"slots/{slot.pk}")
    assert (shown["capacity"], shown["available"]) == (3, 0)


SHOW = {"name": "Hamlet", "starts_at": "2030-06-01T19:30:00+02:00"}
OFFICE = [
    ("get", "admin/doctors", {}, ["view_doctor"], 200),
    ("post", "admin/doctors", {"name": "Dr. New"}, ["add_doctor"], 201),
    (
        *("post", "admin/doctors/{}/slots"),
        {"starts_at": written(START), "ends_at": written(START + HOUR), "capacity": 1},
        *(["add_slot"], 201),
    ),
    ("post", "admin/shows", SHOW | {"capacity": 3}, ["add_show", "add_slot"], 201),
    ("get", "admin/slots", {}, ["view_slot"], 200),
]


def bearer(user: User) -> Client:
    return Client(headers={"Authorization": f"Bearer {tokens.issue(user)['access']}"})


@pytest.mark.parametrize(("method", "path", "body", "rights", "status"), OFFICE)
def test_office_is_for_those_who_were_given_the_right(
    method: str, path: str, body: dict, rights: list[str], status: int
) -> None:
    """By token and in a browser. Who is not let in learns and changes nothing."""
    path = path.format(DoctorFactory().pk)
    patient = UserFactory()  # was staff once, and nobody took the rights away
    patient.user_permissions.set(Permission.objects.filter(codename__in=rights))
    others = {"view_doctor", "add_doctor", "view_slot", "add_slot", "add_show"} - set(rights)
    not_let_in = [
        patient,
        staff(),
        staff(*others),
        *(staff(*rights[:n]) for n in range(len(rights))),
    ]
    boss = UserFactory(is_staff=True, is_superuser=True)

    def call(client: Client) -> Any:
        return client.get(API + path) if method == "get" else post(client, path, body)

    assert problem(call(Client()), 401)["code"] == "unauthenticated"
    stranger = Client(headers={"Authorization": "Bearer nonsense"})
    assert problem(call(stranger), 401)["code"] == "unauthenticated"
    for user in not_let_in:
        refusal = problem(call(bearer(user)), 403)
        assert refusal["code"] == "forbidden"
        browser = Client()
        browser.force_login(user)
        assert problem(call(browser), 403) == refusal
    assert (Doctor.objects.count(), Show.objects.count(), Slot.objects.count()) == (1, 0, 0)
    assert call(bearer(staff(*rights))).status_code == status
    Slot.objects.update(cancelled_at=timezone.now())  # room for the next one
    assert call(bearer(boss)).status_code == status


# ── The office's inventory ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def desk() -> Client:
    return office("add_doctor", "add_show", "add_slot")


def test_doctor_is_added(desk: Client) -> None:
    response = post(desk, "admin/doctors", {"name": " Dr. Grace Hopper ", "nonsense": 1})
    doctor = Doctor.objects.get()
    assert response.status_code == 201
    assert response["Location"] == f"{API}doctors/{doctor.pk}"
    assert response.json() == {
        "id": doctor.pk,
        "name": "Dr. Grace Hopper",
        "specialization": "",
        "bio": "",
        "time_zone": "UTC",
    }
    assert get(desk, f"doctors/{doctor.pk}") == response.json()
    more = {
        "name": "Dr. Who",
        "specialization": "Time",
        "bio": "Late.\nEarly.",
        "time_zone": "Europe/London",
    }
    shown = post(desk, "admin/doctors", more).json()
    assert {name: shown[name] for name in more} == more


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, {"name": None}),
        ({"name": " \t "}, {"name": "Give it a name."}),
        ({"name": ""}, {"name": None}),
        ({"name": None}, {"name": None}),
        ({"name": 7}, {"name": None}),
        ({"name": "\ud800"}, {"name": None}),
        ({"name": "Two\nlines"}, {"name": "Write it on one line."}),
        ({"name": "A\x00"}, {"name": None}),
        ({"name": "A" * 201}, {"name": None}),
        ({"name": "A", "specialization": "B" * 201}, {"specialization": None}),
        (
            {"name": "A", "specialization": "a\tb", "time_zone": "Mars/Olympus"},
            {
                "specialization": "Write it on one line.",
                "time_zone": "“Mars/Olympus” is no time zone; write it like Europe/Berlin.",
            },
        ),
        (
            {"name": "A", "time_zone": "localtime"},
            {"time_zone": "“localtime” is no time zone; write it like Europe/Berlin."},
        ),
    ],
)
def test_doctor_that_makes_no_sense_is_not_added(desk: Client, body: dict, errors: dict) -> None:
    assert_told(post(desk, "admin/doctors", body), errors)
    assert Doctor.objects.count() == 0


def times(start: datetime = START, length: timedelta = HOUR, **more: Any) -> dict[str, Any]:
    return {"starts_at": written(start), "ends_at": written(start + length), "capacity": 1} | more


def test_slot_is_added(desk: Client) -> None:
    doctor = DoctorFactory()
    body = {
        "starts_at": "2030-06-01T13:45:00+05:45",
        "ends_at": "2030-06-01T14:15:00+05:45",
        "capacity": 3,
    }
    response = post(desk, f"admin/doctors/{doctor.pk}/slots", body)
    slot = Slot.objects.get()
    assert (response.status_code, response["Location"]) == (201, f"{API}slots/{slot.pk}")
    shown = response.json()
    assert shown == get(desk, f"slots/{slot.pk}")
    assert (shown["doctor"], shown["seating"]) == (doctor.pk, "GENERAL")
    assert (shown["starts_at"], shown["ends_at"]) == (
        *("2030-06-01T08:00:00Z", "2030-06-01T08:30:00Z"),
    )
    assert (shown["capacity"], shown["available"]) == (3, 3)


@pytest.mark.parametrize(
    ("change", "errors"),
    [
        ({"starts_at": "2030-06-01T08:00:00"}, {"starts_at": None}),
        ({"starts_at": 1906531200}, {"starts_at": None}),
        ({"ends_at": written(START)}, {"ends_at": "The end must be after the start."}),
        ({"ends_at": written(START - HOUR)}, {"ends_at": "The end must be after the start."}),
        ({"ends_at": None}, {"ends_at": None}),
        ({"ends_at": "9999-12-31T23:59:59Z"}, {"ends_at": None}),
        ({"capacity": 0}, {"capacity": None}),
        ({"capacity": -1}, {"capacity": None}),
        ({"capacity": MOST_SEATS + 1}, {"capacity": None}),
        ({"capacity": 10**30}, {"capacity": None}),
        ({"capacity": 1.0}, {"capacity": None}),
        ({"capacity": "1"}, {"capacity": None}),
        ({"capacity": True}, {"capacity": None}),
        ({"capacity": None}, {"capacity": None}),
    ],
)
def test_slot_that_makes_no_sense_is_not_added(desk: Client, change: dict, errors: dict) -> None:
    response = post(desk, f"admin/doctors/{DoctorFactory().pk}/slots", times() | change)
    assert_told(response, errors)
    assert Slot.objects.count() == 0


@pytest.mark.parametrize("unknown", UNKNOWN_IDS)
def test_slot_of_a_doctor_that_nobody_is_is_not_found(desk: Client, unknown: str) -> None:
    said = problem(post(desk, f"admin/doctors/{unknown}/slots", times()), 404)
    assert said["code"] == "not_found"
    assert Slot.objects.count() == 0


def test_slot_of_the_past_can_be_added_but_not_booked(desk: Client) -> None:
    """Unlike in the office, where it is a slip: programs bring along what was."""
    path = f"admin/doctors/{DoctorFactory().pk}/slots"
    added = post(desk, path, times(timezone.now() - 2 * HOUR)).json()
    refusal = problem(post(Client(), "bookings", {"slot": added["id"], "quantity": 1}), 409)
    assert refusal["code"] == "slot_closed"


def test_doctor_has_one_slot_at_a_time_and_one_right_after_the_other(desk: Client) -> None:
    doctor = DoctorFactory(name="Dr. Busy")
    path = f"admin/doctors/{doctor.pk}/slots"
    assert post(desk, path, times()).status_code == 201
    for start, length in [
        *((START, HOUR), (START - HOUR, 3 * HOUR), (START + HOUR / 2, HOUR / 4)),
        *((START - HOUR / 2, HOUR), (START + HOUR / 2, HOUR)),
    ]:
        refusal = problem(post(desk, path, times(start, length)), 409)
        assert refusal["code"] == "overlap"
        assert refusal["detail"] == "Dr. Busy has another slot at this time."
    assert post(desk, path, times(START + HOUR)).status_code == 201
    assert post(desk, path, times(START - HOUR)).status_code == 201
    other = DoctorFactory()
    assert post(desk, f"admin/doctors/{other.pk}/slots", times()).status_code == 201
    assert (Slot.objects.count(), Seat.objects.count()) == (4, 4)


def test_slot_begins_when_the_one_before_is_said_to_end(desk: Client) -> None:
    """To the millisecond, as times are answered: finer ones would overlap by what is not told."""
    path = f"admin/doctors/{DoctorFactory().pk}/slots"
    fine = (START + HOUR).replace(microsecond=123_999).isoformat()
    first = post(desk, path, times() | {"ends_at": fine}).json()
    assert first["ends_at"].endswith(".123Z")
    next_ = times(START + HOUR) | {"starts_at": first["ends_at"]}
    assert post(desk, path, next_).json()["starts_at"] == first["ends_at"]


@pytest.mark.django_db(transaction=True)
def test_crowd_that_adds_slots_at_overlapping_times_adds_one() -> None:
    doctor = DoctorFactory()
    token = tokens.issue(staff("add_slot"))["access"]
    path = f"admin/doctors/{doctor.pk}/slots"

    def add(minutes: int) -> int:
        client = Client(headers={"Authorization": f"Bearer {token}"})
        return post(client, path, times(START + timedelta(minutes=minutes))).status_code

    results = race(*[lambda n=n: add(n) for n in range(12)])
    assert sorted(results) == [201] + [409] * 11
    assert (Slot.objects.count(), Seat.objects.count()) == (1, 1)


@pytest.mark.django_db(transaction=True)
def test_slot_of_a_doctor_who_is_deleted_meanwhile_is_refused(desk: Client) -> None:
    doctor = DoctorFactory()
    adding = start_in_a_thread(
        lambda: post(desk, f"admin/doctors/{doctor.pk}/slots", times()),
        pause_before="FOR NO KEY UPDATE",
    ).wait_until_paused()
    doctor.delete()
    said = problem(adding.resume().outcome(), 400)
    assert said["detail"] == "This doctor has been deleted."


def test_show_is_added_with_its_slot_and_rows_of_seats(desk: Client) -> None:
    more = {"venue": "Old Theatre", "description": "A\nghost.", "time_zone": "Europe/Berlin"}
    response = post(desk, "admin/shows", SHOW | more | {"rows": 2, "seats_per_row": 3})
    show, slot = Show.objects.get(), Slot.objects.get()
    assert (response.status_code, response["Location"]) == (201, f"{API}shows/{show.pk}")
    shown = response.json()
    seats, of_slot = shown.pop("seats"), shown.pop("slot")
    assert shown == get(desk, f"shows/{show.pk}") == {"id": show.pk, "name": "Hamlet"} | more
    assert of_slot == get(desk, f"slots/{slot.pk}")
    assert (of_slot["show"], of_slot["seating"], of_slot["available"]) == (show.pk, "NUMBERED", 6)
    assert of_slot["starts_at"] == "2030-06-01T17:30:00Z"
    assert of_slot["ends_at"] == "2030-06-01T19:30:00Z"  # two hours, as nothing was said
    assert seats == get(desk, f"slots/{slot.pk}/seats")
    assert [seat["label"] for seat in seats] == ["A1", "A2", "A3", "B1", "B2", "B3"]


def test_show_is_added_with_unnumbered_places_until_then(desk: Client) -> None:
    body = SHOW | {"ends_at": "2030-06-01T21:00:00+02:00", "capacity": 3, "rows": None}
    shown = post(desk, "admin/shows", body).json()
    assert (shown["slot"]["seating"], shown["slot"]["capacity"]) == ("GENERAL", 3)
    assert shown["slot"]["ends_at"] == "2030-06-01T19:00:00Z"
    assert [seat["number"] for seat in shown["seats"]] == [1, 2, 3]


EITHER = {"capacity": "Give either capacity, or rows and seats_per_row."}
BOTH = {"seats_per_row": "Give both, rows and seats_per_row, or neither."}


@pytest.mark.parametrize(
    ("more", "errors"),
    [
        ({}, EITHER),
        ({"capacity": 3, "rows": 2, "seats_per_row": 3}, EITHER),
        ({"rows": 2}, BOTH),
        ({"seats_per_row": 3}, BOTH),
        ({"capacity": 3, "rows": 2}, BOTH),
        ({"rows": 0, "seats_per_row": 3}, {"rows": None}),
        ({"rows": 2, "seats_per_row": 1001}, {"seats_per_row": None}),
        (
            {"rows": 401, "seats_per_row": 500},
            {"seats_per_row": "A slot can have at most 200,000 seats in all its rows."},
        ),
        ({"rows": "2", "seats_per_row": 3}, {"rows": None}),
        ({"capacity": MOST_SEATS + 1}, {"capacity": None}),
        (
            {"capacity": 3, "ends_at": "2030-06-01T19:30:00+02:00"},
            {"ends_at": "The end must be after the start."},
        ),
        ({"capacity": 3, "name": " "}, {"name": "Give it a name."}),
        ({"capacity": 3, "venue": "a\nb"}, {"venue": "Write it on one line."}),
    ],
)
def test_show_that_makes_no_sense_is_not_added(desk: Client, more: dict, errors: dict) -> None:
    assert_told(post(desk, "admin/shows", SHOW | more), errors)
    assert Show.objects.count() == 0


def test_json_that_is_written_by_the_database_says_its_charset_as_all_other_does() -> None:
    slot = SlotFactory(places=1)
    desk = bearer(staff("add_show", "add_slot", "view_slot"))
    answers = [desk.get(f"{API}slots/{slot.pk}")]  # ninja's own
    answers += [desk.get(API + path) for path in ("slots", f"slots/{slot.pk}/seats", "admin/slots")]
    answers.append(post(desk, "admin/shows", SHOW | {"capacity": 3}))
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 201]
    assert {answer["Content-Type"] for answer in answers} == {"application/json; charset=utf-8"}


def test_seats_of_a_show_are_written_down_after_its_transaction(
    desk: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_api, "_seats_of", lambda slot: f"{connection.savepoint_ids}")
    assert post(desk, "admin/shows", SHOW | {"capacity": 3}).json()["seats"] == []


def test_show_whose_seats_cannot_be_made_is_not_made_either(
    desk: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "MOST_SEATS", 5)
    said = problem(post(desk, "admin/shows", SHOW | {"capacity": 6}), 400)
    assert said["detail"] == "A slot can have at most 5 seats."
    assert (Show.objects.count(), Slot.objects.count()) == (0, 0)
