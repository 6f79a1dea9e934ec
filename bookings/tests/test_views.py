"""Holding, confirming, cancelling in a browser: by plain forms, and with htmx."""

import re
import uuid
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.conf import LazySettings
from django.http import HttpResponse
from django.test import Client, override_settings
from django.utils import timezone

from accounts.models import User
from booking_site.tests.factories import (
    AppointmentFactory,
    SlotFactory,
    StaffFactory,
    UserFactory,
)
from booking_site.tests.mails import queued_mails
from bookings import browser, lifecycle
from bookings.lifecycle import Holder, SlotBusy
from bookings.models import Booking
from slots.models import Seat, Slot
from slots.tests.test_views import HUGE, assert_nothing_inline, states, text_of, title_of

pytestmark = pytest.mark.django_db(transaction=True)

HTMX = {"HX-Request": "true"}
DETAILS = {"name": "Ada Example", "email": "ada@example.org", "phone": "+49 (0)30 12-34"}


@pytest.fixture
def hall() -> Slot:
    return SlotFactory(rows=1, seats_per_row=4)


def seat_ids(slot: Slot, *labels: str) -> list[int]:
    return list(slot.seats.filter(label__in=labels).values_list("pk", flat=True))


def post_hold(client: Client, slot: Slot, data: dict[str, Any], **headers: str) -> HttpResponse:
    return client.post(f"/slots/{slot.pk}/hold", data, headers=headers)


def hold_in_browser(client: Client, slot: Slot, *labels: str) -> Booking:
    """A hold made as a visitor makes it."""
    data = {"seat": seat_ids(slot, *labels)} if labels else {"quantity": 1}
    response = post_hold(client, slot, data)
    assert response.status_code == 303
    return Booking.objects.get(pk=response["Location"].split("/")[2])


def let_lapse(booking: Booking) -> None:
    past = timezone.now() - timedelta(minutes=1)
    Seat.objects.filter(booking=booking).update(held_until=past)
    Booking.objects.filter(pk=booking.pk).update(expires_at=past)


def page_of(response: HttpResponse, status: int = 200) -> str:
    """The page of an answer, which must have that status, the CSP, nothing inline, no copy kept."""
    assert response.status_code == status
    assert "script-src 'self'" in response["Content-Security-Policy"]
    assert "no-store" in response["Cache-Control"]
    html = response.content.decode()
    assert_nothing_inline(html)
    return html


def alert_of(html: str) -> str:
    """What the page says in its one alert."""
    [said] = re.findall(r'<div id="refusal" class="alert" role="alert"><p>(.*?)</p></div>', html)
    return unescape(said)


def form_of(html: str, form_id: str) -> tuple[str, dict[str, Any]]:
    """The address of a form on a page, and what a browser would send with it untouched."""
    form = re.search(rf'<form id="{form_id}".*?</form>', html, re.S)[0]
    fields = re.findall(r"<input [^>]*>", form)
    data = {}
    for field in fields:
        attributes = dict(re.findall(r'([\w-]+)="([^"]*)"', field))
        if attributes.get("type") != "checkbox":
            data[attributes["name"]] = unescape(attributes.get("value", ""))
    return re.search(r'action="([^"]*)"', form)[1], data


def status_of(booking: Booking) -> str:
    return Booking.objects.with_state().get(pk=booking.pk).state


# ── the whole way, without JavaScript ─────────────────────────────────────────────────────────────


def test_seats_are_booked_and_cancelled_with_plain_forms_alone(hall: Slot) -> None:
    client = Client(enforce_csrf_checks=True)
    action, data = form_of(client.get(hall.get_absolute_url()).content.decode(), "hold-form")
    data["seat"] = seat_ids(hall, "A2", "A3")
    response = client.post(action, data)
    assert response.status_code == 303
    url = response["Location"]
    html = page_of(client.get(url))
    assert '<dd id="booked-seats">A2, A3</dd>' in html
    assert f'<noscript><meta http-equiv="refresh" content="121; url={url}"></noscript>' in html
    action, data = form_of(html, "details")
    response = client.post(action, data | DETAILS)
    assert (response.status_code, response["Location"]) == (303, url)
    html = page_of(client.get(url))
    booking = Booking.objects.get()
    assert title_of(html).startswith(f"Booking {booking.reference}: ")
    assert "You are booked" in html
    assert (booking.status, booking.name, booking.email, booking.phone) == (
        "CONFIRMED",
        *DETAILS.values(),
    )
    html = page_of(client.get(re.search(r'id="cancel" href="([^"]+)"', html)[1]))
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', html)[1]
    response = client.post(f"{url}cancel", {"csrfmiddlewaretoken": token})
    assert (response.status_code, response["Location"]) == (303, url)
    assert "<h1>Cancelled</h1>" in page_of(client.get(url))
    assert hall.seats.free().count() == 4


def test_appointment_is_booked_by_a_person_with_an_account(client: Client) -> None:
    user = UserFactory(name="Grace Example", email="grace@example.org")
    client.force_login(user)
    appointment = AppointmentFactory()
    booking = hold_in_browser(client, appointment)
    assert booking.user == user
    action, data = form_of(client.get(booking.get_absolute_url()).content.decode(), "details")
    assert (data["name"], data["email"]) == ("Grace Example", "grace@example.org")
    client.post(action, data)
    assert status_of(booking) == "CONFIRMED"
    assert str(booking.events.get().actor) == "grace@example.org"


def test_forms_without_a_token_are_refused_in_the_sites_look(hall: Slot) -> None:
    client = Client(enforce_csrf_checks=True)
    response = post_hold(client, hall, {"seat": seat_ids(hall, "A1")})
    assert response.status_code == 403
    assert "This form is out of date" in response.content.decode()
    assert Booking.objects.count() == 0


# ── hold ──────────────────────────────────────────────────────────────────────────────────────────


def test_hold_with_htmx_leads_to_the_booking(client: Client, hall: Slot) -> None:
    response = post_hold(client, hall, {"seat": seat_ids(hall, "A1")}, **HTMX)
    assert response.status_code == 200
    assert response["HX-Redirect"] == Booking.objects.get().get_absolute_url()


def test_lost_race_names_the_seats_and_keeps_the_rest_chosen(client: Client, hall: Slot) -> None:
    lifecycle.hold(hall, seat_ids=seat_ids(hall, "A1", "A2"))
    response = post_hold(client, hall, {"seat": seat_ids(hall, "A1", "A2", "A3")})
    html = page_of(response, 409)
    assert alert_of(html) == "Seats A1 and A2 have just been taken. Please choose again."
    assert title_of(html).startswith(hall.show.name)
    assert states(html) == {
        "A1": "RESERVED",
        "A2": "RESERVED",
        "A3": "AVAILABLE",
        "A4": "AVAILABLE",
    }
    assert re.findall(r'aria-label="(\w+)" checked>', html) == ["A3"]
    assert browser.COOKIE not in response.cookies


def test_lost_race_with_htmx_is_the_fresh_grid(client: Client, hall: Slot) -> None:
    lifecycle.hold(hall, seat_ids=seat_ids(hall, "A1"))
    response = post_hold(client, hall, {"seat": seat_ids(hall, "A1", "A4")}, **HTMX)
    html = page_of(response, 409)
    assert html.strip().startswith('<section id="seat-grid"')
    assert alert_of(html) == "Seat A1 has just been taken. Please choose again."
    assert re.findall(r'aria-label="(\w+)" checked>', html) == ["A4"]


def test_too_many_places_are_refused_with_what_is_left(client: Client) -> None:
    slot = SlotFactory(places=3)
    html = page_of(post_hold(client, slot, {"quantity": 4}), 409)
    assert alert_of(html) == "Only 3 places are left."
    assert 'max="3" value="3"' in html


@pytest.mark.parametrize(
    ("phase", "sentence"),
    [
        ("cancelled", "This has been called off, so it cannot be booked."),
        ("not_yet", "Booking has not opened yet."),
        ("past", "Booking has closed."),
    ],
)
def test_slot_that_is_not_open_is_refused(client: Client, phase: str, sentence: str) -> None:
    now = timezone.now()
    opens = {"not_yet": {"opens_at": now + timedelta(hours=1)}}
    begins = {"past": {"starts_at": now - timedelta(days=1)}}
    slot = SlotFactory(**opens.get(phase, {}), **begins.get(phase, {}))
    if phase == "cancelled":
        lifecycle.cancel_slot(slot, actor="staff")
    html = page_of(post_hold(client, slot, {"quantity": 1}), 409)
    assert alert_of(html) == sentence
    assert Booking.objects.count() == 0


@override_settings(MAX_LIVE_HOLDS=1)
def test_more_holds_than_allowed_are_refused(client: Client, hall: Slot) -> None:
    hold_in_browser(client, hall, "A1")
    html = page_of(post_hold(client, hall, {"seat": seat_ids(hall, "A2")}), 409)
    assert alert_of(html).startswith("You are holding as many bookings as you may.")
    assert states(html)["A1"] == "YOURS"


ONE = "Choose at least one seat."
MOST = "At most 10 seats can be booked at once."
UNREADABLE = "The choice of seats could not be read. Please choose again."
STRANGE = "A seat that was named is not one of this slot."


@pytest.mark.parametrize(
    ("seats", "sentence"),
    [
        ([], ONE),
        ([""], UNREADABLE),
        (["abc"], UNREADABLE),
        (["1.5"], UNREADABLE),
        (["-1"], UNREADABLE),
        (["0"], UNREADABLE),
        (["1\x00"], UNREADABLE),
        (["١"], UNREADABLE),
        ([" 1"], UNREADABLE),
        (["9" * 300], UNREADABLE),
        ([str(2**63)], UNREADABLE),
        ([str(2**63 - 1)], STRANGE),
        (["7", "7"], "The same seat is named twice."),
        ([str(n) for n in range(1, 12)], MOST),
        (["1"] * 900, MOST),
    ],
)
@pytest.mark.parametrize("headers", [{}, HTMX])
def test_seats_that_make_no_sense(
    client: Client, hall: Slot, seats: list[str], sentence: str, headers: dict[str, str]
) -> None:
    html = page_of(post_hold(client, hall, {"seat": seats}, **headers), 400)
    assert alert_of(html) == sentence
    assert len(states(html)) == 4
    assert Booking.objects.count() == 0


def test_seats_of_another_slot_are_not_told_from_unknown_ones(client: Client, hall: Slot) -> None:
    other = SlotFactory(rows=1)
    html = page_of(post_hold(client, hall, {"seat": seat_ids(other, "A1")}), 400)
    assert alert_of(html) == STRANGE


def test_more_fields_than_any_form_has_are_refused_in_the_sites_look(
    client: Client, hall: Slot
) -> None:
    response = post_hold(client, hall, {"seat": [str(n) for n in range(10_000)]})
    assert response.status_code == 400
    assert "That could not be read" in response.content.decode()


@pytest.mark.parametrize(
    "quantity",
    [None, "", "0", "-1", "11", "1.5", "abc", "1\x00", "9" * 5000, "1e3", "∞", "1_0", "١"],
)
def test_quantities_that_make_no_sense(client: Client, quantity: str | None) -> None:
    slot = SlotFactory(places=30)
    data = {} if quantity is None else {"quantity": quantity}
    html = page_of(post_hold(client, slot, data), 400)
    assert alert_of(html) == "Choose how many places, from 1 to 10."
    assert Booking.objects.count() == 0


@pytest.mark.parametrize("number", [0, HUGE])
def test_hold_of_an_unknown_slot_is_404(client: Client, number: int) -> None:
    assert client.post(f"/slots/{number}/hold", {"quantity": 1}).status_code == 404


def test_crowd_is_asked_to_come_back(
    client: Client, hall: Slot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*args: Any, **fields: Any) -> None:
        raise SlotBusy

    monkeypatch.setattr(lifecycle, "hold", busy)
    response = post_hold(client, hall, {"seat": seat_ids(hall, "A1")})
    assert (response.status_code, response["Retry-After"]) == (503, "3")
    assert "One moment, please" in response.content.decode()
    assert_nothing_inline(response.content.decode())


# ── the same form twice ───────────────────────────────────────────────────────────────────────────


def test_double_click_is_one_booking(client: Client, hall: Slot) -> None:
    data = {"seat": seat_ids(hall, "A1"), "key": uuid.uuid4().hex}
    first, second = post_hold(client, hall, data), post_hold(client, hall, data)
    assert (first.status_code, first["Location"]) == (second.status_code, second["Location"])
    assert Booking.objects.count() == 1


def test_double_click_before_the_cookie_has_come_keeps_the_booking_in_the_list(hall: Slot) -> None:
    data = {"seat": seat_ids(hall, "A1"), "key": uuid.uuid4().hex}
    post_hold(Client(), hall, data)
    second = Client()
    response = post_hold(second, hall, data)
    assert response["Location"] in second.get("/bookings/").content.decode()


def test_key_with_other_seats_is_another_booking(client: Client, hall: Slot) -> None:
    key = uuid.uuid4().hex
    for label in ("A1", "A2", "A2", "A1"):  # each is sent twice
        data = {"seat": seat_ids(hall, label), "key": key}
        assert post_hold(client, hall, data).status_code == 303
    assert sorted(Booking.objects.values_list("labels", flat=True)) == [["A1"], ["A2"]]


@pytest.mark.parametrize("end", ["cancelled", "lapsed"])
def test_old_tab_holds_anew(client: Client, hall: Slot, end: str) -> None:
    data = {"seat": seat_ids(hall, "A1"), "key": uuid.uuid4().hex}
    post_hold(client, hall, data)
    first = Booking.objects.get()
    if end == "cancelled":
        lifecycle.cancel(first)
    else:
        let_lapse(first)
    response = post_hold(client, hall, data)
    assert response.status_code == 303
    assert response["Location"] != first.get_absolute_url()
    assert Booking.objects.live().count() == 1
    assert post_hold(client, hall, data)["Location"] == response["Location"]
    assert Booking.objects.count() == 2


@pytest.mark.parametrize(
    "key", ["", "short", "x" * 201, "with space and more", "nul\x00" * 8, "ü" * 20]
)
def test_key_that_is_none_is_replaced(client: Client, hall: Slot, key: str) -> None:
    assert post_hold(client, hall, {"seat": seat_ids(hall, "A1"), "key": key}).status_code == 303
    assert re.fullmatch(r"[0-9a-f]{32}", Booking.objects.get().idempotency_key)


# ── who may see what ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def secret(hall: Slot) -> Booking:
    """A booking of a user, with a name that could leak."""
    booking = lifecycle.hold(
        hall, seat_ids=seat_ids(hall, "A1"), holder=Holder(user=UserFactory()), name="Secret Person"
    )
    return lifecycle.confirm(booking)


def log_in(who: str, client: Client) -> None:
    if who == "another":
        client.force_login(UserFactory())
    elif who == "staff without rights":
        client.force_login(UserFactory(is_staff=True))
    elif who == "no staff any more":
        user = StaffFactory()
        user.is_staff = False
        user.save(update_fields=["is_staff"])
        client.force_login(user)
    elif who == "staff":
        client.force_login(StaffFactory(email="desk@example.org"))


@pytest.mark.parametrize("who", ["guest", "another", "staff without rights", "no staff any more"])
def test_booking_of_a_user_does_not_exist_for_others(
    client: Client, secret: Booking, who: str
) -> None:
    log_in(who, client)
    url = secret.get_absolute_url()
    answers = [client.get(url), client.get(f"{url}cancel")]
    answers += [client.post(url + action, DETAILS) for action in ("cancel", "confirm", "extend")]
    assert [answer.status_code for answer in answers] == [404] * 5
    for answer in answers:
        assert "Secret Person" not in answer.content.decode()
        assert secret.reference not in answer.content.decode()
    assert status_of(secret) == "CONFIRMED"


def test_booking_of_a_user_is_for_the_user_and_for_staff(client: Client, secret: Booking) -> None:
    client.force_login(secret.user)
    assert "Secret Person" in page_of(client.get(secret.get_absolute_url()))
    log_in("staff", client)
    assert "Secret Person" in page_of(client.get(secret.get_absolute_url()))


def test_booking_of_a_guest_is_for_whoever_has_its_address(hall: Slot) -> None:
    booking = hold_in_browser(Client(), hall, "A1")
    for who in ("guest", "another"):
        client = Client()
        log_in(who, client)
        assert "Held for you" in page_of(client.get(booking.get_absolute_url()))


def test_staff_who_may_only_look_change_nothing(client: Client, hall: Slot) -> None:
    user = UserFactory()
    held = lifecycle.hold(hall, quantity=1, holder=Holder(user=user))
    booked = lifecycle.confirm(lifecycle.hold(hall, quantity=1, holder=Holder(user=user)))
    client.force_login(StaffFactory(group="Programme"))
    for booking in (held, booked):
        url = booking.get_absolute_url()
        office = f"/admin/bookings/booking/{booking.pk}/change/"
        assert f'id="office" href="{office}"' in page_of(client.get(url))
        for action in ("cancel", "confirm", "extend"):
            assert client.post(url + action, DETAILS).status_code == 403
    assert (status_of(held), status_of(booked)) == ("PENDING", "CONFIRMED")


def test_way_to_the_office_is_for_staff(client: Client, hall: Slot) -> None:
    booking = hold_in_browser(client, hall, "A1")
    assert "office" not in page_of(client.get(booking.get_absolute_url()))


@pytest.mark.parametrize("address", [uuid.UUID(int=0), uuid.uuid4(), "abc", HUGE])
def test_unknown_booking_is_404(client: Client, address: object) -> None:
    assert client.get(f"/bookings/{address}/").status_code == 404


# ── the cookie ────────────────────────────────────────────────────────────────────────────────────


def test_cookie_comes_before_the_first_hold_and_is_out_of_reach_of_scripts(
    client: Client, hall: Slot
) -> None:
    """With the page that one books on: should the answer to the hold be lost, it is known."""
    client.get("/")
    client.get(hall.show.get_absolute_url())
    assert browser.COOKIE not in client.cookies
    client.get(hall.get_absolute_url())
    cookie = client.cookies[browser.COOKIE]
    assert (cookie["httponly"], cookie["samesite"], cookie["secure"]) == (True, "Lax", "")
    assert "sessionid" not in client.cookies
    hold_in_browser(client, hall, "A1")
    hold_in_browser(client, hall, "A2")
    assert client.cookies[browser.COOKIE].value == cookie.value
    assert Booking.objects.values("session_key").distinct().count() == 1


@override_settings(SESSION_COOKIE_SECURE=True)
def test_cookie_is_for_https_alone_where_the_site_is(client: Client, hall: Slot) -> None:
    hold_in_browser(client, hall, "A1")
    assert client.cookies[browser.COOKIE]["secure"] is True


@pytest.mark.parametrize("tamper", [lambda good: "x" + good, lambda good: "", lambda good: "a:b:c"])
def test_cookie_that_was_tampered_with_counts_for_nothing(
    client: Client, hall: Slot, tamper: Any
) -> None:
    booking = hold_in_browser(client, hall, "A1")
    assert booking.get_absolute_url() in client.get("/bookings/").content.decode()
    client.cookies[browser.COOKIE] = tamper(client.cookies[browser.COOKIE].value)
    assert "Nothing has been booked from this browser yet." in page_of(client.get("/bookings/"))
    assert states(client.get(hall.get_absolute_url()).content.decode())["A1"] == "RESERVED"


# ── a hold's page ─────────────────────────────────────────────────────────────────────────────────


def test_hold_counts_down_by_the_databases_clock(client: Client, hall: Slot) -> None:
    booking = hold_in_browser(client, hall, "A1")
    html = page_of(client.get(booking.get_absolute_url()))
    assert 115 < float(re.search(r'data-seconds-left="([\d.]+)"', html)[1]) <= 120
    assert re.search(r'<b id="clock" role="timer" aria-live="off">1:5\d</b>', html)


def test_enter_in_the_details_confirms(client: Client, hall: Slot) -> None:
    booking = hold_in_browser(client, hall, "A1")
    html = page_of(client.get(booking.get_absolute_url()))
    first = re.search(r'<button [^>]*form="details"[^>]*>', html)[0]
    assert "formaction" not in first
    assert html.index(first) < html.index('id="extend"') < html.index('<form id="details"')


@pytest.mark.parametrize("seats", [1, 4])
def test_booking_costs_one_query(
    client: Client, hall: Slot, django_assert_num_queries: Any, seats: int
) -> None:
    booking = hold_in_browser(client, hall, *["A1", "A2", "A3", "A4"][:seats])
    with django_assert_num_queries(1):
        client.get(booking.get_absolute_url())
    lifecycle.confirm(booking, **DETAILS)
    with django_assert_num_queries(1):
        client.get(booking.get_absolute_url())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "", "Please tell us your name."),
        ("name", "   ", "Please tell us your name."),
        ("name", "x" * 151, "Ensure this value has at most 150 characters (it has 151)."),
        ("name", "Ada\nBcc: everybody", "Write the name on one line."),
        ("name", "A\x00", "Write the name on one line."),
        ("email", "", "Please tell us your e-mail address."),
        ("email", "ada", "This is not an e-mail address; it should look like name@example.org."),
        ("email", f"{'x' * 60}@{'y' * 190}.org", None),
        ("email", f"a@{'y.' * 130}org", None),
        ("phone", "call me", "Only digits, spaces and + ( ) / . - belong here."),
        ("phone", "1" * 41, "Ensure this value has at most 40 characters (it has 41)."),
    ],
)
def test_details_that_are_wrong_are_said_so_and_the_hold_stays(
    client: Client, hall: Slot, field: str, value: str, message: str | None
) -> None:
    booking = hold_in_browser(client, hall, "A1")
    response = client.post(f"{booking.get_absolute_url()}confirm", DETAILS | {field: value})
    html = unescape(page_of(response, 400))
    said = re.findall(r'<ul class="errorlist" id="id_(\w+)_error"><li>(.*?)</li>', html)
    assert [name for name, _ in said] == [field]
    if message:
        assert said[0][1] == message
    wrong = re.search(rf'<input [^>]*id="id_{field}"[^>]*>', html, re.S)[0]
    assert f"id_{field}_error" in wrong
    assert 'aria-invalid="true"' in wrong
    assert "autofocus" in wrong
    for other in DETAILS.keys() - {field}:
        assert f'value="{DETAILS[other]}"' in html
    assert "data-seconds-left" in html
    assert status_of(booking) == "PENDING"


def test_more_time_with_htmx_is_the_fresh_countdown(client: Client, hall: Slot) -> None:
    booking = hold_in_browser(client, hall, "A1")
    Booking.objects.filter(pk=booking.pk).update(expires_at=timezone.now() + timedelta(seconds=20))
    response = client.post(f"{booking.get_absolute_url()}extend", headers=HTMX)
    html = page_of(response)
    assert html.strip().startswith('<section id="countdown"')
    assert 115 < float(re.search(r'data-seconds-left="([\d.]+)"', html)[1]) <= 120


def test_more_time_without_htmx_keeps_what_was_typed(client: Client, hall: Slot) -> None:
    booking = hold_in_browser(client, hall, "A1")
    data = {"name": "Ada <Example>", "email": "half@"}
    html = page_of(client.post(f"{booking.get_absolute_url()}extend", data))
    assert 'value="Ada &lt;Example&gt;"' in html
    assert 'value="half@"' in html
    assert 'class="errorlist"' not in html


@override_settings(HOLD_MAX_SECONDS=120)
def test_hold_that_lasts_as_long_as_it_may_offers_no_more_time(client: Client, hall: Slot) -> None:
    booking = hold_in_browser(client, hall, "A1")
    html = page_of(client.get(booking.get_absolute_url()))
    assert 'id="extend"' not in html
    assert "This is as long as we can hold it." in html


def test_lapsed_hold_says_so(client: Client, hall: Slot) -> None:
    booking = hold_in_browser(client, hall, "A1")
    let_lapse(booking)
    html = page_of(client.get(booking.get_absolute_url()))
    assert 'data-state="FAILED"' in html
    assert "The time to confirm ran out, so the seats were given back." in text_of(html)
    assert f'href="{hall.get_absolute_url()}"' in html
    assert "countdown" not in html


# ── old tabs, second clicks ───────────────────────────────────────────────────────────────────────

OVER = "The time to confirm ran out, and the seats were given back. Please choose again."


@pytest.mark.parametrize(
    ("state", "action", "status", "sentence"),
    [
        ("lapsed", "confirm", 409, OVER),
        ("lapsed", "extend", 409, OVER),
        ("lapsed", "cancel", 409, OVER),
        ("confirmed", "confirm", 303, ""),
        (
            "confirmed",
            "extend",
            409,
            "This booking is confirmed, so it cannot be extended.",
        ),
        (
            "cancelled",
            "confirm",
            409,
            "This booking is cancelled, so it cannot be confirmed.",
        ),
        (
            "cancelled",
            "extend",
            409,
            "This booking is cancelled, so it cannot be extended.",
        ),
        ("cancelled", "cancel", 303, ""),
    ],
)
def test_click_that_comes_too_late_is_answered_with_the_truth(
    client: Client, hall: Slot, state: str, action: str, status: int, sentence: str
) -> None:
    booking = hold_in_browser(client, hall, "A1")
    if state == "lapsed":
        let_lapse(booking)
    elif state == "confirmed":
        lifecycle.confirm(booking, **DETAILS)
    else:
        lifecycle.cancel(booking)
    before = status_of(booking)
    response = client.post(f"{booking.get_absolute_url()}{action}", DETAILS)
    assert response.status_code == status
    if sentence:
        html = page_of(response, 409)
        assert alert_of(html) == sentence
        assert f'data-state="{before}"' in html
    assert status_of(booking) == before


def test_more_time_for_what_is_over_leads_htmx_to_the_truth(client: Client, hall: Slot) -> None:
    booking = hold_in_browser(client, hall, "A1")
    let_lapse(booking)
    response = client.post(f"{booking.get_absolute_url()}extend", headers=HTMX)
    assert response["HX-Redirect"] == booking.get_absolute_url()


def test_confirm_after_the_slot_was_called_off_is_refused(client: Client, hall: Slot) -> None:
    booking = hold_in_browser(client, hall, "A1")
    Slot.objects.filter(pk=hall.pk).update(cancelled_at=timezone.now())
    html = page_of(client.post(f"{booking.get_absolute_url()}confirm", DETAILS), 409)
    assert alert_of(html) == "This has been called off, so it cannot be booked."


# ── cancel ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["get", "head"])
def test_cancel_link_only_shows(client: Client, hall: Slot, method: str) -> None:
    booking = lifecycle.confirm(hold_in_browser(client, hall, "A1"), **DETAILS)
    response = getattr(client, method)(f"{booking.get_absolute_url()}cancel")
    assert response.status_code == 200
    assert status_of(booking) == "CONFIRMED"
    assert Seat.objects.filter(booking=booking, held_until=None).count() == 1


def test_hold_is_given_back_with_one_button(client: Client, hall: Slot) -> None:
    booking = hold_in_browser(client, hall, "A1")
    html = page_of(client.get(booking.get_absolute_url()))
    assert f'action="{booking.get_absolute_url()}cancel"' in html
    assert client.post(f"{booking.get_absolute_url()}cancel").status_code == 303
    assert hall.seats.free().count() == 4


def test_begun_booking_cannot_be_cancelled_except_by_staff(client: Client, hall: Slot) -> None:
    booking = lifecycle.confirm(hold_in_browser(client, hall, "A1"), **DETAILS)
    Slot.objects.filter(pk=hall.pk).update(starts_at=timezone.now() - timedelta(minutes=5))
    url = f"{booking.get_absolute_url()}cancel"
    assert "Nothing to cancel" in page_of(client.get(url))
    html = page_of(client.post(url), 409)
    assert alert_of(html) == "It has begun, so it can no longer be cancelled here."
    assert 'id="cancel"' not in html
    desk = Client()
    log_in("staff", desk)
    assert 'id="cancel"' in page_of(desk.get(url))
    assert desk.post(url).status_code == 303
    assert status_of(booking) == "CANCELLED"


@pytest.mark.parametrize("whose", ["own", "a guest's", "a user's"])
def test_mail_says_that_staff_cancelled_only_what_is_not_their_own(
    client: Client, hall: Slot, whose: str
) -> None:
    log_in("staff", client)
    clerk = User.objects.get(email="desk@example.org")
    holder = {
        "own": Holder(user=clerk),
        "a guest's": Holder(session_key="another browser"),
        "a user's": Holder(user=UserFactory()),
    }[whose]
    booking = lifecycle.confirm(lifecycle.hold(hall, quantity=1, holder=holder), **DETAILS)
    assert client.post(f"{booking.get_absolute_url()}cancel").status_code == 303
    said = queued_mails()[-1].body
    assert ("as you asked" in said, "had to be cancelled" in said) == (
        whose == "own",
        whose != "own",
    )


def test_own_booking_that_has_begun_is_not_cancelled_by_staff_either(
    client: Client, hall: Slot
) -> None:
    log_in("staff", client)
    booking = lifecycle.confirm(hold_in_browser(client, hall, "A1"), **DETAILS)
    Slot.objects.filter(pk=hall.pk).update(starts_at=timezone.now() - timedelta(minutes=5))
    url = f"{booking.get_absolute_url()}cancel"
    assert "Nothing to cancel" in page_of(client.get(url))
    assert client.post(url).status_code == 409
    assert status_of(booking) == "CONFIRMED"


def test_booking_of_a_slot_called_off_says_so(client: Client, hall: Slot) -> None:
    booking = lifecycle.confirm(hold_in_browser(client, hall, "A1"), **DETAILS)
    lifecycle.cancel_slot(hall, actor="staff")
    html = page_of(client.get(booking.get_absolute_url()))
    assert "This was called off, so the booking was cancelled." in text_of(html)


# ── mail to strangers ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def stalls() -> Slot:
    return SlotFactory(places=20)


def book_for(client: Client, slot: Slot, email: str) -> tuple[Booking, HttpResponse]:
    """Holds and confirms; returns the booking and the answer to the confirmation."""
    client.post(f"/slots/{slot.pk}/hold", {"quantity": "1"})
    booking = Booking.objects.latest("created_at")
    return booking, client.post(f"{booking.get_absolute_url()}confirm", DETAILS | {"email": email})


def test_stranger_is_not_flooded_with_mail_and_the_hold_stays(stalls: Slot) -> None:
    for spelling in ["Victim@example.org", "victim@example.org"] * 15:
        client = Client()
        booking, answer = book_for(client, stalls, spelling)
        assert answer.status_code == 303
        client.post(f"{booking.get_absolute_url()}cancel")
    assert len(queued_mails()) == 60
    client = Client()
    booking, answer = book_for(client, stalls, "VICTIM@example.org")
    html = page_of(answer, 400)
    assert text_of(html).count("This e-mail address has been sent very many bookings") == 1
    assert re.findall(r'<input[^>]* name="(\w+)"[^>]* autofocus', html) == ["email"]
    assert (status_of(booking), len(queued_mails())) == ("PENDING", 60)
    other = client.post(f"{booking.get_absolute_url()}confirm", DETAILS)
    assert (other.status_code, status_of(booking)) == (303, "CONFIRMED")


@pytest.fixture
def three_mails_an_hour(settings: LazySettings) -> None:
    """Not thirty, which takes long to reach."""
    settings.ACCOUNT_RATE_LIMITS = settings.ACCOUNT_RATE_LIMITS | {"mail_booking": "3/h/key"}


@pytest.mark.usefixtures("three_mails_an_hour")
def test_stranger_is_not_flooded_by_moving_a_booking(client: Client, stalls: Slot) -> None:
    other = SlotFactory(show=stalls.show, starts_at=stalls.starts_at + timedelta(days=1))
    booking, _ = book_for(client, stalls, "victim@example.org")
    url = f"{booking.get_absolute_url()}move/"
    codes = [client.post(f"{url}{to.pk}").status_code for to in (other, stalls, other)]
    assert codes == [303, 303, 409]
    assert len(queued_mails()) == 3
    assert Booking.objects.get().slot == stalls


@pytest.mark.usefixtures("three_mails_an_hour")
@pytest.mark.parametrize("who", ["staff", "the owner"])
def test_staff_and_the_owner_of_an_address_book_without_a_limit(
    client: Client, stalls: Slot, who: str
) -> None:
    if who == "staff":
        log_in("staff", client)
    else:
        client.force_login(UserFactory(email="ada@example.org"))
    for _ in range(4):
        booking, answer = book_for(client, stalls, "Ada@example.org")
        assert answer.status_code == 303
        client.post(f"{booking.get_absolute_url()}cancel")


@pytest.mark.usefixtures("three_mails_an_hour")
def test_owner_of_an_address_that_is_not_confirmed_is_a_stranger(
    client: Client, stalls: Slot
) -> None:
    client.force_login(UserFactory(email="ada@example.org", confirmed=False))
    codes = []
    for _ in range(4):
        booking, answer = book_for(client, stalls, "ada@example.org")
        codes.append(answer.status_code)
        client.post(f"{booking.get_absolute_url()}cancel")
    assert codes == [303] * 3 + [400]


# ── the list ──────────────────────────────────────────────────────────────────────────────────────


def groups_of(html: str) -> dict[str, list[str]]:
    """The sections of the list, and the references in each."""
    sections = re.findall(r'<section id="(\w+)".*?</section>', html, re.S)
    return {
        name: re.findall(
            r'reference-small">(\w+)<',
            re.search(rf'<section id="{name}".*?</section>', html, re.S)[0],
        )
        for name in sections
    }


def confirmed(client: Client, slot: Slot, *, starts_in: timedelta = timedelta(days=1)) -> Booking:
    """A confirmed booking of this browser's, for a slot moved to that time afterwards."""
    booking = lifecycle.confirm(hold_in_browser(client, slot), **DETAILS)
    begins = timezone.now() + starts_in
    Slot.objects.filter(pk=slot.pk).update(starts_at=begins, ends_at=begins + timedelta(hours=1))
    return booking


def lists_of(client: Client) -> dict[str, dict[str, list[str]]]:
    """The sections of each of the list's three pages."""
    pages = {"": "/bookings/", "past": "/bookings/past/", "cancelled": "/bookings/cancelled/"}
    return {name: groups_of(page_of(client.get(path))) for name, path in pages.items()}


def test_list_is_of_this_browser_and_in_groups(client: Client, hall: Slot) -> None:
    slots = SlotFactory.create_batch(6)
    held = hold_in_browser(client, slots[0])
    later = confirmed(client, slots[1], starts_in=timedelta(days=3))
    sooner = confirmed(client, slots[2], starts_in=timedelta(days=2))
    over = confirmed(client, slots[3], starts_in=timedelta(days=-1))
    cancelled = lifecycle.cancel(hold_in_browser(client, slots[4]))
    let_lapse(hold_in_browser(client, slots[5]))
    hold_in_browser(Client(), hall, "A1")
    assert lists_of(client) == {
        "": {"held": [held.reference], "upcoming": [sooner.reference, later.reference]},
        "past": {"past": [over.reference]},
        "cancelled": {"cancelled": [cancelled.reference]},
    }
    tabs = re.findall(r"(\w+) <span class=\"tab-count\">(\d+)<", page_of(client.get("/bookings/")))
    assert tabs == [("up", "3"), ("Past", "1"), ("Cancelled", "1")]


def test_list_says_what_can_be_done_with_each(client: Client) -> None:
    slots = SlotFactory.create_batch(5)
    held = hold_in_browser(client, slots[0])
    coming = confirmed(client, slots[1])
    begun = confirmed(client, slots[2], starts_in=timedelta(minutes=-5))
    over = confirmed(client, slots[3], starts_in=timedelta(days=-1))
    cancelled = lifecycle.cancel(hold_in_browser(client, slots[4]))
    offered = {}
    for path in ("/bookings/", "/bookings/past/", "/bookings/cancelled/"):
        html = page_of(client.get(path))
        for ticket in re.findall(r'<li class="ticket".*?</li>', html, re.S):
            actions = re.search(r'<p class="ticket-actions">.*?</p>', ticket, re.S)[0]
            reference = re.search(r'reference-small">(\w+)<', ticket)[1]
            offered[reference] = re.findall(r'href="([^"]*)">([^<]*)<', actions)
        if path == "/bookings/":
            assert "Less than 2 minutes left." in html
    assert offered == {
        held.reference: [
            (held.get_absolute_url(), "Continue"),
            (f"{held.get_absolute_url()}cancel", "Give it back"),
        ],
        coming.reference: [
            (coming.get_absolute_url(), "Details"),
            (f"{coming.get_absolute_url()}move", "Choose another date"),
            (f"{coming.get_absolute_url()}cancel", "Cancel"),
        ],
        begun.reference: [(begun.get_absolute_url(), "Details")],
        over.reference: [
            (over.get_absolute_url(), "Details"),
            (over.slot.show.get_absolute_url(), "Book again"),
        ],
        cancelled.reference: [
            (cancelled.get_absolute_url(), "Details"),
            (cancelled.slot.show.get_absolute_url(), "Book again"),
        ],
    }


def test_list_reaches_everything_page_by_page(client: Client, hall: Slot) -> None:
    hold_in_browser(client, hall, "A1")
    key = Booking.objects.get().session_key
    made = [
        Booking.objects.create(
            slot=hall, session_key=key, quantity=1, status="CANCELLED", cancelled_at=timezone.now()
        ).reference
        for _ in range(45)
    ]
    seen = []
    for number in (1, 2, 3):
        html = page_of(client.get("/bookings/cancelled/", {"page": number}))
        seen += groups_of(html)["cancelled"]
        assert ('rel="next"' in html, 'rel="prev"' in html) == (number < 3, number > 1)
    assert sorted(seen) == sorted(made)
    for nonsense in ("0", "99", "abc", HUGE, "\0"):
        page_of(client.get("/bookings/cancelled/", {"page": nonsense}))


def test_empty_group_says_so_and_guests_are_told_of_accounts(client: Client, hall: Slot) -> None:
    hold_in_browser(client, hall, "A1")
    assert "Nothing is past yet." in page_of(client.get("/bookings/past/"))
    assert "Nothing was cancelled." in page_of(client.get("/bookings/cancelled/"))
    assert "your account keeps it" in page_of(client.get("/bookings/"))
    lifecycle.cancel(Booking.objects.get())
    assert "Nothing is coming up." in page_of(client.get("/bookings/"))


def test_list_of_a_user_leaves_out_others(client: Client, hall: Slot, secret: Booking) -> None:
    client.force_login(UserFactory())
    assert "You have not booked anything yet." in page_of(client.get("/bookings/"))
    client.force_login(secret.user)
    assert groups_of(page_of(client.get("/bookings/"))) == {"upcoming": [secret.reference]}


@pytest.mark.parametrize("size", [1, 4])
def test_list_costs_three_queries(
    client: Client, django_assert_num_queries: Any, size: int
) -> None:
    for slot in SlotFactory.create_batch(size):
        confirmed(client, slot)
    for slot in SlotFactory.create_batch(size):
        hold_in_browser(client, slot)
    with django_assert_num_queries(3):
        html = page_of(client.get("/bookings/"))
    assert {name: len(found) for name, found in groups_of(html).items()} == {
        "held": size,
        "upcoming": size,
    }


def test_list_without_anything_leads_on(client: Client, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        html = page_of(client.get("/bookings/"))
    assert "Nothing has been booked from this browser yet." in html


# ── the rest ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("action", ["confirm", "extend"])
def test_address_of_a_form_explains_itself(client: Client, hall: Slot, action: str) -> None:
    booking = hold_in_browser(client, hall, "A1")
    for url in (f"{booking.get_absolute_url()}{action}", f"/slots/{hall.pk}/hold"):
        response = client.get(url)
        assert (response.status_code, response["Allow"]) == (405, "POST")
        assert "This address only takes a form" in response.content.decode()


def test_icon_is_found_also_by_who_does_not_read_the_page(client: Client) -> None:
    assert client.get("/favicon.ico")["Location"] == "/static/img/mark.svg"


@pytest.mark.parametrize("template", ["400", "403", "403_csrf", "404", "405", "429", "500", "503"])
def test_error_pages_need_neither_request_nor_database(
    template: str, django_assert_num_queries: Any
) -> None:
    from django.template.loader import render_to_string

    with django_assert_num_queries(0):
        html = render_to_string(f"{template}.html")
    assert_nothing_inline(html)
    assert 'class="wordmark"' in html
    assert title_of(html).endswith("– Holdfast")
