"""The pages that only show: in every state, at fixed cost, and with nothing inline."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import empty

from booking_site.tests.factories import (
    AppointmentFactory,
    DoctorFactory,
    ShowFactory,
    SlotFactory,
    UserFactory,
)
from bookings import lifecycle
from slots import inventory, seat_map
from slots.models import Seat, Slot

pytestmark = pytest.mark.django_db(transaction=True)

HUGE = 10**25


def states(html: str) -> dict[str, str]:
    """The seats on a page: label → state."""
    return dict(re.findall(r'data-seat="([^"]+)" data-state="([^"]+)"', html))


def get(client: Client, url: str, status: int = 200, **headers: Any) -> str:
    """The page, checked for what all pages owe: the CSP, and nothing inline that it would stop."""
    response = client.get(url, headers=headers)
    assert response.status_code == status
    html = response.content.decode()
    assert "script-src 'self';" in response["Content-Security-Policy"] + ";"
    assert "unsafe" not in response["Content-Security-Policy"]
    assert_nothing_inline(html)
    return html


def assert_nothing_inline(html: str) -> None:
    assert re.findall(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", html) == []


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def title_of(html: str) -> str:
    return " ".join(re.search(r"<title>(.*?)</title>", html, re.S)[1].split())


# ── home and lists ────────────────────────────────────────────────────────────────────────────────


def test_home_without_anything_says_so(client: Client) -> None:
    html = get(client, "/")
    assert "No shows are announced at present." in html
    assert "No appointments are free at present." in html


def test_home_shows_what_is_next(client: Client) -> None:
    show = ShowFactory(name="The Tide <Clock>")
    start = timezone.now() + timedelta(days=1)
    later = SlotFactory(show=show, starts_at=start + timedelta(days=9))
    slot = SlotFactory(show=show, starts_at=start, places=3)
    appointment = AppointmentFactory(doctor__name="Dr. Free")
    taken = AppointmentFactory(doctor__name="Dr. Busy")
    lifecycle.hold(taken, quantity=1)
    AppointmentFactory(doctor__name="Dr. Past", starts_at=start - timedelta(days=2))
    html = get(client, "/")
    assert html.count("The Tide &lt;Clock&gt;") == 2
    assert f'href="/slots/{slot.pk}/"' in html
    assert f'href="/slots/{later.pk}/"' not in html
    assert f'href="/slots/{appointment.pk}/"' in html
    assert "3 left" in html
    assert re.findall(r"Dr\. \w+</a>", html) == ["Dr. Free</a>"]


@pytest.mark.parametrize("size", [1, 8])
def test_home_costs_four_queries(client: Client, django_assert_num_queries: Any, size: int) -> None:
    SlotFactory.create_batch(size)
    AppointmentFactory.create_batch(size)
    with django_assert_num_queries(4):
        get(client, "/")


def test_home_stays_short_and_leads_to_the_rest(client: Client) -> None:
    SlotFactory.create_batch(13, places=1)
    html = get(client, "/")
    assert html.count('class="ticket"') == 12
    assert "All shows" in html


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("url", ["/shows/", "/doctors/"])
def test_lists_cost_four_queries(
    client: Client, django_assert_num_queries: Any, url: str, size: int
) -> None:
    SlotFactory.create_batch(size)
    AppointmentFactory.create_batch(size)
    with django_assert_num_queries(4):
        get(client, url)


def test_lists_name_also_what_has_no_dates(client: Client) -> None:
    ShowFactory(name="Some Day")
    DoctorFactory(name="Dr. Away")
    assert "No dates at present." in get(client, "/shows/")
    assert "No free times at present." in get(client, "/doctors/")


@pytest.mark.parametrize("page", ["2", "0", "-1", "abc", "9" * 30, "9" * 5000, "%00"])
def test_lists_are_cut_into_pages(client: Client, page: str) -> None:
    ShowFactory.create_batch(25)
    html = get(client, f"/shows/?page={page}")
    shown, number = html.count('class="ticket"'), re.search(r"Page (\d) of 2", html)[1]
    assert (shown, number) in [(24, "1"), (1, "2")]
    assert ("There is no such page." in html) == (page != number)


@pytest.mark.parametrize("size", [1, 6])
def test_show_costs_three_queries(
    client: Client, django_assert_num_queries: Any, size: int
) -> None:
    show = ShowFactory(name="Encore", venue="Old <Theatre>")
    SlotFactory.create_batch(size, show=show)
    with django_assert_num_queries(3):
        html = get(client, show.get_absolute_url())
    assert html.count('id="slot-') == size
    assert title_of(html) == "Encore – Holdfast"
    assert "Old &lt;Theatre&gt;" in html


def test_show_says_how_each_date_stands(client: Client) -> None:
    show = ShowFactory()
    now = timezone.now()
    full, few, soon, off, closed, past = (
        SlotFactory(show=show, starts_at=now + timedelta(days=day), places=2, **fields)
        for day, fields in [
            (1, {}),
            (2, {}),
            (3, {"opens_at": now + timedelta(days=2)}),
            (4, {}),
            (5, {"closes_at": now - timedelta(minutes=1)}),
            (-1, {}),
        ]
    )
    SlotFactory(show=show, places=21)
    lifecycle.hold(full, quantity=2)
    lifecycle.cancel_slot(off, actor="staff")
    html = get(client, show.get_absolute_url())
    said = dict(re.findall(r'id="slot-(\d+)".*?data-left="\w+">([^<]*)<', html, re.S))
    assert said.pop(str(soon.pk)).startswith("Booking opens ")
    assert said.pop(str(full.pk)) == "Sold out"
    assert said.pop(str(few.pk)) == "2 left"
    assert said.pop(str(closed.pk)) == "Booking has closed"
    assert list(said.values()) == ["Places free"]
    assert str(past.pk) not in said


def test_doctor_without_free_times_says_so(client: Client) -> None:
    assert "No times are free at present." in get(client, DoctorFactory().get_absolute_url())


@pytest.mark.parametrize("path", ["shows", "doctors", "slots"])
@pytest.mark.parametrize("number", [0, 1, HUGE])
def test_unknown_is_404(client: Client, path: str, number: int) -> None:
    assert "There is nothing here" in get(client, f"/{path}/{number}/", status=404)


# ── the slot ──────────────────────────────────────────────────────────────────────────────────────


def test_slot_says_when_in_the_zone_of_the_venue(client: Client) -> None:
    slot = SlotFactory(
        show=ShowFactory(name="Encore", time_zone="America/New_York"),
        starts_at=timezone.now().replace(2030, 12, 5, 0, 30, 0, 0),
    )
    html = get(client, slot.get_absolute_url())
    assert '<time datetime="2030-12-04T19:30:00-05:00">Wed 4 December 2030, 19:30</time>' in html
    assert "(America/New_York)" in html
    assert title_of(html) == "Encore, Wed 4 December 2030, 19:30 – Holdfast"


@pytest.mark.parametrize(("rows", "seats_per_row"), [(1, 2), (12, 20)])
def test_slot_costs_two_queries_and_one_more_for_who_is_known(
    client: Client, django_assert_num_queries: Any, rows: int, seats_per_row: int
) -> None:
    slot = SlotFactory(rows=rows, seats_per_row=seats_per_row)
    with django_assert_num_queries(2):
        html = get(client, slot.get_absolute_url())
    assert len(states(html)) == rows * seats_per_row
    for seat in slot.seats.all()[: min(rows, 2)]:
        client.post(f"/slots/{slot.pk}/hold", {"seat": seat.pk})
    with django_assert_num_queries(3):
        html = get(client, slot.get_absolute_url())
    assert html.count("You are holding") == min(rows, 2)


@pytest.mark.parametrize("places", [1, 200])
def test_slot_without_numbers_costs_two_queries(
    client: Client, django_assert_num_queries: Any, places: int
) -> None:
    slot = SlotFactory(places=places)
    with django_assert_num_queries(2):
        get(client, slot.get_absolute_url())


def test_seats_are_seen_by_each_as_they_are_for_them(client: Client) -> None:
    slot = SlotFactory(rows=1, seats_per_row=6)
    ids = list(slot.seats.values_list("pk", flat=True))
    lifecycle.confirm(lifecycle.hold(slot, seat_ids=ids[:1]))
    lifecycle.hold(slot, seat_ids=ids[1:2])
    inventory.block_seats(slot, seat_ids=ids[2:3])
    lapsed = lifecycle.hold(slot, seat_ids=ids[3:4])
    past = timezone.now() - timedelta(seconds=1)
    Seat.objects.filter(booking=lapsed).update(held_until=past)
    client.post(f"/slots/{slot.pk}/hold", {"seat": ids[4]})
    others = {
        "A1": "BOOKED",
        "A2": "RESERVED",
        "A3": "BLOCKED",
        "A4": "AVAILABLE",
        "A5": "RESERVED",
        "A6": "AVAILABLE",
    }
    url = slot.get_absolute_url()
    mine = get(client, url)
    assert states(mine) == others | {"A5": "YOURS"}
    assert states(get(Client(), url)) == others
    assert 'aria-label="A1, booked"' in mine
    assert 'aria-label="A2, held by somebody"' in mine
    assert 'aria-label="A5, yours"' in mine
    assert re.findall(r'name="seat" value="(\d+)"', mine) == [str(ids[3]), str(ids[5])]
    counts = dict(re.findall(r'data-count="(\w+)">(\d+)<', mine))
    assert counts == {
        "AVAILABLE": "2",
        "RESERVED": "1",
        "BOOKED": "1",
        "BLOCKED": "1",
        "YOURS": "1",
    }
    assert "2 of 5 seats left" in text_of(mine)
    assert "You are holding A5 — continue with this booking" in text_of(mine)
    assert "You are holding" not in get(Client(), url)


def make_slot(phase: str) -> Slot:
    """A slot of two places that cannot be booked, for that reason."""
    now = timezone.now()
    fields: dict[str, dict[str, Any]] = {
        "not_yet": {"opens_at": now + timedelta(hours=1)},
        "closed": {"closes_at": now - timedelta(hours=1)},
        "begun": {"starts_at": now - timedelta(hours=1)},
        "past": {"starts_at": now - timedelta(hours=9)},
    }
    slot = SlotFactory(places=2, **fields.get(phase, {}))
    if phase == "cancelled":
        lifecycle.cancel_slot(slot, actor="staff")
    elif phase == "sold_out":
        lifecycle.hold(slot, quantity=2)
    return slot


@pytest.mark.parametrize(
    ("phase", "sentence"),
    [
        ("not_yet", "Booking has not opened yet. It opens on"),
        ("closed", "Booking has closed."),
        ("begun", "Booking has closed."),
        ("past", "This is over."),
        ("cancelled", "Called off."),
        ("sold_out", "Sold out."),
    ],
)
def test_slot_that_cannot_be_booked_says_why_and_has_no_button(
    client: Client, phase: str, sentence: str
) -> None:
    html = get(client, make_slot(phase).get_absolute_url())
    assert sentence in text_of(html)
    assert f'<p class="state" data-phase="{phase}">' in html
    # Where others may give something back, the button waits for that.
    hidden = '<div id="places" class="places" hidden>'
    assert [hidden in html, "hold-button" in html] == [phase == "sold_out"] * 2


def test_appointment_is_one_button(client: Client) -> None:
    appointment = AppointmentFactory()
    html = get(client, appointment.get_absolute_url())
    assert "Hold this time" in html
    assert '<input type="hidden" name="quantity" value="1">' in html
    lifecycle.hold(appointment, quantity=1)
    assert "This time is taken." in get(client, appointment.get_absolute_url())


def test_places_can_be_chosen_up_to_what_is_left(client: Client) -> None:
    html = get(client, SlotFactory(places=3).get_absolute_url())
    assert 'min="1" max="3"' in html
    assert "3 of 3 places left" in text_of(html)
    assert 'max="10"' in get(client, SlotFactory(places=30).get_absolute_url())


# ── the fragment ──────────────────────────────────────────────────────────────────────────────────


def test_grid_is_news_once(client: Client, django_assert_num_queries: Any) -> None:
    slot = SlotFactory(rows=1, seats_per_row=3)
    page = get(client, slot.get_absolute_url())
    url, seen = re.search(r'hx-get="([^"]+)"', page)[1], re.search(r'data-seen="(\w+)"', page)[1]
    headers = {"HX-Request": "true", "If-None-Match": f'"{seen}"'}
    with django_assert_num_queries(3):  # the own bookings of this browser, the slot, its seats
        response = client.get(url, headers=headers)
    assert (response.status_code, response.content) == (304, b"")
    lifecycle.hold(slot, seat_ids=[slot.seats.first().pk])
    fresh = get(client, url, **headers)
    assert fresh.strip().startswith('<section id="seat-grid"')
    assert states(fresh) == {"A1": "RESERVED", "A2": "AVAILABLE", "A3": "AVAILABLE"}


def test_grid_of_places_is_news_once(client: Client) -> None:
    slot = SlotFactory(places=3)
    first = client.get(f"/slots/{slot.pk}/seats", headers={"HX-Request": "true"})
    assert first.status_code == 200
    # As a proxy that compresses answers marks it, and as a browser then sends it.
    headers = {"HX-Request": "true", "If-None-Match": f"W/{first['ETag']}"}
    assert client.get(f"/slots/{slot.pk}/seats", headers=headers).status_code == 304
    lifecycle.hold(slot, quantity=1)
    assert 'data-available="2"' in get(client, f"/slots/{slot.pk}/seats", **headers)


@pytest.mark.parametrize("name", ["home", "shows", "doctors", "show", "doctor"])
def test_list_is_news_once(client: Client, name: str) -> None:
    slot, appointment = SlotFactory(places=2), AppointmentFactory()
    subject = {"show": [slot.show_id], "doctor": [appointment.doctor_id]}.get(name)
    path = reverse(name, args=subject)
    asking = {"HX-Request": "true", "HX-Trigger": "results"}
    first = client.get(path, headers=asking)
    part = first.content.decode().strip()
    assert re.match(r'<(div|section) id="results"', part)
    assert part in get(client, path)
    assert "no-store" in first["Cache-Control"]  # it has the address of the page
    headers = asking | {"If-None-Match": first["ETag"]}
    seen = client.get(path, headers=headers)
    assert (seen.status_code, seen.content) == (304, b"")
    lifecycle.hold(slot, quantity=2)
    lifecycle.hold(appointment, quantity=1)
    assert client.get(path, headers=headers).status_code == 200


def test_grid_without_htmx_is_the_page(client: Client) -> None:
    slot = SlotFactory()
    response = client.get(f"/slots/{slot.pk}/seats")
    assert (response.status_code, response["Location"]) == (302, slot.get_absolute_url())


def test_slot_and_grid_are_never_kept(client: Client) -> None:
    slot = SlotFactory()
    for url, headers in [
        (f"/slots/{slot.pk}/", {}),
        (f"/slots/{slot.pk}/seats", {"HX-Request": "1"}),
    ]:
        assert "no-store" in client.get(url, headers=headers)["Cache-Control"]


# ── the plan ──────────────────────────────────────────────────────────────────────────────────────


def drawn(slot: Slot) -> list[str]:
    """The plan as text: a word a seat, a dot a column of floor."""
    return [
        " ".join([row.name, *(cell.get("text") or "." * cell["gap"] for cell in row.cells)])
        for section in seat_map.load(slot).sections
        for row in section.rows
    ]


def add_seats(slot: Slot, *seats: tuple[str, str, int | None, int | None]) -> None:
    Seat.objects.bulk_create(
        Seat(slot=slot, label=label, row=row, number=number, column=column)
        for label, row, number, column in seats
    )


def test_plan_closes_empty_stretches_up_to_one_aisle() -> None:
    slot = SlotFactory(places=0, seating=Slot.Seating.NUMBERED)
    add_seats(
        slot,
        ("A1", "A", 1, 3),
        ("A2", "A", 2, 4),
        ("A3", "A", 3, 32000),
        ("B1", "B", 1, 4),
    )
    assert drawn(slot) == ["A 1 2 . 3", "B . 1 .."]
    assert seat_map.load(slot).sections[0].columns == [False, False, True, False]


def test_plan_of_seats_without_columns_or_on_top_of_each_other_stands_side_by_side() -> None:
    slot = SlotFactory(places=0, seating=Slot.Seating.NUMBERED)
    add_seats(
        slot, ("A1", "A", 1, 2), ("A2", "A", 2, 2), ("B1", "B", 1, None), ("B2", "B", 2, None)
    )
    assert drawn(slot) == ["A . 1 2", "B 1 2 ."]


def test_plan_of_seats_without_rows_breaks_lines() -> None:
    slot = SlotFactory(places=0, seating=Slot.Seating.NUMBERED)
    add_seats(slot, *((f"T{n}", "", n, None) for n in range(1, 13)))
    assert drawn(slot) == [" T1 T2 T3 T4 T5 T6 T7 T8 T9 T10", " T11 T12 ........"]


def test_plan_has_sections_and_marks_places_for_wheelchairs(client: Client) -> None:
    slot = SlotFactory(places=0, seating=Slot.Seating.NUMBERED)
    inventory.add_rows(slot, rows=1, seats_per_row=4, section="Stalls", aisles_after=(2,))
    inventory.add_rows(slot, rows=1, seats_per_row=2, section="Balcony", accessible=("B2",))
    assert [section.name for section in seat_map.load(slot).sections] == ["Stalls", "Balcony"]
    assert drawn(slot) == ["A 1 2 . 3 4", "B 1 2"]
    html = get(client, slot.get_absolute_url())
    assert "<caption>Stalls</caption>" in html
    assert re.findall(r'data-seat="(\w+)" data-state="AVAILABLE" data-accessible', html) == ["B2"]
    assert 'aria-label="B2, wheelchair place"' in html
    assert "wheelchair place" in text_of(html)


def test_labels_are_escaped(client: Client) -> None:
    slot = SlotFactory(places=0, seating=Slot.Seating.NUMBERED)
    add_seats(slot, ('"><script>', "<i>", None, None))
    html = get(client, slot.get_absolute_url())
    assert 'data-seat="&quot;&gt;&lt;script&gt;"' in html
    assert '<th scope="row">&lt;i&gt;</th>' in html


@pytest.mark.parametrize("can_choose", [True, False])
def test_seat_is_drawn_with_its_own_id_as_in_the_plan(client: Client, can_choose: bool) -> None:
    opens = None if can_choose else timezone.now() + timedelta(hours=1)
    slot = SlotFactory(rows=1, seats_per_row=3, opens_at=opens)
    first, second, third = slot.seats.order_by("pk")
    Seat.objects.filter(pk=second.pk).update(accessible=True)
    inventory.block_seats(slot, seat_ids=[third.pk])
    cells = [
        seat_map.make_cell(seat, is_selected=seat.pk == first.pk)
        for seat in seat_map.load(slot).seats
    ]
    drawn = [seat_map.seat_html(cell, can_choose=can_choose) for cell in cells]
    span = '<span class="seat" id="seat-{}" role="img" data-seat="{}" data-state="{}" aria-label='
    if can_choose:
        label = '<label class="seat" id="seat-{}" data-seat="A{}" data-state="AVAILABLE"{}>'
        box = '<input type="checkbox" name="seat" value="{}" aria-label="{}"{}>{}</label>'
        assert drawn[:2] == [
            label.format(first.pk, 1, "") + box.format(first.pk, "A1", " checked", 1),
            label.format(second.pk, 2, " data-accessible")
            + box.format(second.pk, "A2, wheelchair place", "", 2),
        ]
    else:
        assert drawn[:2] == [
            span.format(first.pk, "A1", "AVAILABLE") + '"A1">1</span>',
            span.format(second.pk, "A2", "AVAILABLE") + '"A2, wheelchair place">2</span>',
        ]
    assert drawn[2] == span.format(third.pk, "A3", "BLOCKED") + '"A3, not on sale">–</span>'
    html = get(client, slot.get_absolute_url())
    assert [seat in html for seat in drawn] == [not can_choose, True, True]


# ── what is shared by all who ask together ────────────────────────────────────────────────────────


@pytest.fixture
def all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all requests of a test came together: each key is read for the first one only."""
    shared: dict[Any, Any] = {}

    def read_together(key: Any, read: Callable[[], Any]) -> Any:
        if key not in shared:
            shared[key] = read()
        return shared[key]

    monkeypatch.setattr("slots.views.read_together", read_together)


@pytest.mark.usefixtures("all_at_once")
def test_lists_that_are_shared_have_nothing_of_who_is_logged_in(client: Client) -> None:
    show, doctor = ShowFactory(), DoctorFactory()
    user, nobody = UserFactory(name="Grace Hopper"), Client()
    client.force_login(user)
    for url in ("/", "/shows/", "/doctors/", f"/shows/{show.pk}/", f"/doctors/{doctor.pk}/"):
        assert "Log out" in get(client, url)
        html = get(nobody, url)
        assert f'href="/accounts/login/?next={url}"' in html
        assert "csrfmiddlewaretoken" not in html
        assert get(Client(), url) == html
        assert "Log out" in get(client, url)


@pytest.mark.usefixtures("all_at_once")
def test_messages_are_looked_for_when_a_page_shows_them(client: Client) -> None:
    for path, is_looked_for in (("/api/v1/slots", False), ("/shows/", True)):
        found = client.get(path).wsgi_request._messages
        assert (found._wrapped is not empty) is is_looked_for


def test_lists_that_are_shared_have_no_messages_of_others(client: Client) -> None:
    client.force_login(UserFactory())
    client.post("/accounts/logout/")  # which says so on the next page
    assert "You are logged out." in text_of(get(client, "/"))
    assert "You are logged out." not in text_of(get(Client(), "/"))


@pytest.mark.usefixtures("all_at_once")
def test_slot_that_is_shared_has_nothing_of_who_booked_there(client: Client) -> None:
    slot = SlotFactory(rows=2, seats_per_row=2)
    first, second = slot.seats.order_by("pk")[:2]
    client.post(f"/slots/{slot.pk}/hold", {"seat": first.pk})
    url = slot.get_absolute_url()
    assert states(get(client, url))["A1"] == "YOURS"
    pages = [get(Client(), url) for _ in range(2)]
    for html in pages:
        assert states(html) == {
            "A1": "RESERVED",
            "A2": "AVAILABLE",
            "B1": "AVAILABLE",
            "B2": "AVAILABLE",
        }
        assert "You are holding" not in html
    for name in ("csrfmiddlewaretoken", "key"):
        values = {re.search(rf'name="{name}" value="([^"]+)"', html)[1] for html in pages}
        assert len(values) == 2, name
    refused = Client().post(f"/slots/{slot.pk}/hold", {"seat": [first.pk, second.pk]})
    assert refused.status_code == 409
    assert f'value="{second.pk}" aria-label="A2" checked>' in refused.content.decode()
    assert " checked>" not in get(Client(), url)
    assert states(get(client, url))["A1"] == "YOURS"
