"""Bookings in the office: what it shows, finds and does, who may, and what it says."""

import re
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.models import Permission
from django.contrib.messages import get_messages
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from accounts.models import User
from booking_site.tests.factories import (
    AppointmentFactory,
    DoctorFactory,
    SlotFactory,
    StaffFactory,
    UserFactory,
)
from booking_site.tests.mails import queued_mails
from booking_site.tests.races import assert_sound, lapse, race, start
from bookings import admin, lifecycle, refusals
from bookings.errors import SlotBusy, SoldOut, WrongState
from bookings.lifecycle import Holder
from bookings.models import Booking
from bookings.search import as_reference
from slots.models import Slot
from slots.tests.test_views import assert_nothing_inline, text_of

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "/admin/bookings/booking/"
VERBS = ("confirm", "release", "cancel")
LAPSED = "its hold has lapsed, so its seats are free already"
PATIENT = {"name": "Ada Example", "email": "ada@example.org", "phone": "+49 (0)30 12-34"}


@pytest.fixture
def slot() -> Slot:
    return SlotFactory(rows=1, seats_per_row=10)


@pytest.fixture
def desk(client: Client) -> User:
    """Somebody at the front desk, logged in."""
    user = StaffFactory(email="desk@example.org")
    client.force_login(user)
    return user


def page_url(booking: Booking, verb: str = "change") -> str:
    return f"{LIST}{booking.pk}/{verb}/"


def booked(slot: Slot, **details: str) -> Booking:
    return lifecycle.confirm(lifecycle.hold(slot, quantity=1), **(PATIENT | details))


def in_state(slot: Slot, state: str) -> Booking:
    booking = lifecycle.hold(slot, quantity=1, name="Ada Example")
    if state == "confirmed":
        return lifecycle.confirm(booking, **PATIENT)
    if state == "cancelled":
        return lifecycle.cancel(booking)
    if state in ("lapsed", "swept"):
        lapse(booking)
    if state == "swept":
        lifecycle.expire_due()
    return booking


def state_of(booking: Booking) -> str:
    return Booking.objects.with_state().get(pk=booking.pk).state


def get(client: Client, url: str, data: Any = None) -> str:
    """The page, which must be there, under the CSP, with nothing inline."""
    response = client.get(url, data)
    assert response.status_code == 200
    assert "script-src 'self'" in response["Content-Security-Policy"]
    html = response.content.decode()
    assert_nothing_inline(html)
    return html


def choose(client: Client, action: str, *bookings: Booking, **more: Any) -> HttpResponse:
    """Ticks these in the list and runs the action."""
    data = {"action": f"{action}_selected", "index": "0", "select_across": "0"} | more
    url = data.pop("url", LIST)
    data[ACTION_CHECKBOX_NAME] = [str(booking.pk) for booking in bookings]
    return client.post(url, data)


def cancel_chosen(client: Client, *bookings: Booking, reason: str = "ill") -> HttpResponse:
    """What the page that asks for the reason sends."""
    data = {
        "action": "cancel_selected",
        "asked": "yes",
        "reason": reason,
        ACTION_CHECKBOX_NAME: [str(booking.pk) for booking in bookings],
    }
    return client.post(LIST, data)


def said(response: HttpResponse) -> list[str]:
    """The messages of an answer that leads on, to a page that shows them."""
    assert response.status_code == 302
    response.client.cookies.pop("messages", None)
    return [str(message) for message in get_messages(response.wsgi_request)]


def listed(client: Client, **query: str) -> set[str]:
    """The references in the list, asked so."""
    html = get(client, LIST, query)
    return set(re.findall(r'class="field-reference"><a href="[^"]+">(\w{8})</a>', html))


# ── who may ───────────────────────────────────────────────────────────────────────────────────────


def grant(user: User, *codenames: str) -> None:
    user.user_permissions.add(*Permission.objects.filter(codename__in=codenames))


@pytest.mark.parametrize("who", ["guest", "patient", "staff without rights"])
def test_office_is_closed_to_others(client: Client, slot: Slot, who: str) -> None:
    booking = booked(slot, name="Secret Person")
    if who != "guest":
        client.force_login(UserFactory(is_staff=who != "patient"))
    urls = [LIST, f"{LIST}export/", page_url(booking), *(page_url(booking, v) for v in VERBS)]
    for url in urls:
        for answer in (client.get(url), client.post(url, {"reason": "x", "name": "x"})):
            assert answer.status_code == (403 if who == "staff without rights" else 302)
            assert "Secret Person" not in answer.content.decode()
    assert state_of(booking) == "CONFIRMED"


@pytest.mark.parametrize("verb", VERBS)
def test_each_deed_needs_its_own_permission(client: Client, slot: Slot, verb: str) -> None:
    user = UserFactory(is_staff=True)
    grant(user, "view_booking", *(f"{other}_booking" for other in VERBS if other != verb))
    client.force_login(user)
    booking = in_state(slot, "confirmed" if verb == "cancel" else "held")
    others = [other for other in VERBS if other != verb]
    html = get(client, LIST)
    options = re.findall(r'<option value="(\w+)_selected"', html)
    assert options == others
    assert page_url(booking, verb) not in get(client, page_url(booking))
    assert client.get(page_url(booking, verb)).status_code == 403
    answers = [client.post(page_url(booking, verb), PATIENT | {"reason": "x"})]
    assert answers[0].status_code == 403
    assert said(choose(client, verb, booking)) == ["No action selected."]
    assert booking.events.count() == (1 if verb == "cancel" else 0)

    grant(user, f"{verb}_booking")
    answer = client.post(page_url(booking, verb), PATIENT | {"reason": "x"})
    assert answer["Location"] == page_url(booking)
    assert booking.events.last().actor == user.email


def test_permission_to_act_without_the_one_to_view_is_none(client: Client, slot: Slot) -> None:
    user = UserFactory(is_staff=True)
    grant(user, "cancel_booking", "export_booking")
    client.force_login(user)
    booking = booked(slot)
    assert client.get(page_url(booking, "cancel")).status_code == 403
    assert client.post(page_url(booking, "cancel"), {"reason": "x"}).status_code == 403
    assert client.get(f"{LIST}export/").status_code == 403
    assert state_of(booking) == "CONFIRMED"


def test_nothing_is_added_edited_or_deleted_even_by_a_superuser(client: Client, slot: Slot) -> None:
    client.force_login(UserFactory(is_staff=True, is_superuser=True))
    booking = booked(slot)
    assert client.get(f"{LIST}add/").status_code == 403
    assert client.post(page_url(booking), {"name": "Somebody else"}).status_code == 403
    assert client.post(page_url(booking, "delete"), {"post": "yes"}).status_code == 403
    assert said(choose(client, "delete", booking)) == ["No action selected."]
    booking.refresh_from_db()
    assert (booking.name, booking.status) == ("Ada Example", "CONFIRMED")
    html = get(client, page_url(booking))
    assert re.findall(r'name="(?:name|email|status|_save)"', html) == []


# ── the page ──────────────────────────────────────────────────────────────────────────────────────


def test_page_shows_the_history_in_the_venues_time(client: Client, desk: User) -> None:
    starts = datetime.fromisoformat("2031-07-01T18:00:00+00:00")
    slot = SlotFactory(
        show__name="Tide & Clock", show__time_zone="Asia/Tokyo", rows=1, starts_at=starts
    )
    user = UserFactory(email="ada@example.org")
    booking = lifecycle.hold(
        slot,
        seat_ids=[seat.pk for seat in slot.seats.all()[:2]],
        holder=Holder(user=user),
    )
    booking = lifecycle.confirm(booking, **PATIENT, actor=Holder(user=user))
    lifecycle.cancel(booking, actor=Holder(user=desk), reason="<b>ill</b>", by_staff=True)
    booking.refresh_from_db()
    text = unescape(text_of(get(client, page_url(booking))))
    assert "Doctor or show: Tide & Clock" in text
    assert "When: Wed 2 Jul 2031, 03:00 Asia/Tokyo" in text
    assert "Booked: Seats A1, A2" in text
    tokyo = booking.cancelled_at.astimezone(slot.zone)
    assert f"Cancelled: {tokyo.strftime('%a')} {tokyo.day} {tokyo:%b %Y, %H:%M} Asia/Tokyo" in text
    history = text[text.index("Who Why") :]
    assert re.findall(r"Asia/Tokyo (\w+ (?:–|\w+ → \w+) [\w@.]+ \S+)", history) == [
        "held – ada@example.org –",
        "confirmed held → confirmed ada@example.org –",
        "cancelled confirmed → cancelled desk@example.org <b>ill</b>",
    ]


def test_page_links_to_what_its_reader_may_see(client: Client, slot: Slot, desk: User) -> None:
    booking = lifecycle.hold(slot, quantity=1, holder=Holder(user=UserFactory()))
    at_slot = reverse("admin:slots_slot_change", args=[slot.pk])
    at_user = reverse("admin:accounts_user_change", args=[booking.user_id])
    html = get(client, page_url(booking))
    assert (at_slot in html, at_user in html) == (True, False)
    assert f'href="{booking.get_absolute_url()}"' in html
    desk.user_permissions.add(Permission.objects.get(codename="view_user"))
    assert at_user in get(client, page_url(booking))


@pytest.mark.parametrize(
    ("state", "label", "verbs"),
    [
        ("held", "held", ["confirm", "release", "cancel"]),
        ("confirmed", "confirmed", ["cancel"]),
        ("cancelled", "cancelled", []),
        ("lapsed", "lapsed", []),
        ("swept", "lapsed", []),
    ],
)
def test_page_and_list_show_the_state_as_of_now_and_what_can_be_done(
    client: Client, slot: Slot, desk: User, state: str, label: str, verbs: list[str]
) -> None:
    booking = in_state(slot, state)
    html = get(client, page_url(booking))
    assert re.findall(r'class="booking-state" data-state="\w+">(.*?)<', html) == [label]
    assert re.findall(rf"{booking.pk}/(\w+)/", html) == verbs
    assert re.findall(r'class="booking-state" data-state="\w+">(.*?)<', get(client, LIST)) == [
        label
    ]


@pytest.mark.parametrize("address", ["abc", str(uuid.UUID(int=0)), "x" * 3000])
def test_booking_that_is_none_leads_nowhere(client: Client, desk: User, address: str) -> None:
    assert client.get(f"{LIST}{address}/change/").status_code in (302, 404)
    assert client.get(f"{LIST}{address}/cancel/").status_code in (302, 404)


def test_history_of_django_leads_to_the_one_that_counts(
    client: Client, slot: Slot, desk: User
) -> None:
    booking = booked(slot)
    assert client.get(page_url(booking, "history"))["Location"] == page_url(booking)


# ── confirm, release, cancel: one ─────────────────────────────────────────────────────────────────


def test_hold_is_confirmed_for_a_caller(client: Client, slot: Slot, desk: User) -> None:
    booking = lifecycle.hold(slot, quantity=1)
    url = page_url(booking, "confirm")
    assert booking.reference in get(client, url)
    answer = client.post(url, {"name": "", "email": "nonsense"})
    assert answer.status_code == 400
    assert "Write the name of the person who comes." in answer.content.decode()
    assert state_of(booking) == "PENDING"
    answer = client.post(url, {"name": "Ada Example", "email": "", "phone": "030 12"})
    assert said(answer) == ["1 booking confirmed."]
    booking.refresh_from_db()
    assert (booking.status, booking.name, booking.email, booking.phone) == (
        *("CONFIRMED", "Ada Example"),
        *("", "030 12"),
    )
    event = booking.events.get()
    assert (event.action, event.actor) == ("confirm", "desk@example.org")


def test_address_that_the_desk_clears_gets_no_mail(client: Client, slot: Slot, desk: User) -> None:
    user = UserFactory(email="grace@example.org")
    booking = lifecycle.hold(
        slot, quantity=1, holder=Holder(user=user), email="wrong@example.org", phone="030 12"
    )
    answer = client.post(page_url(booking, "confirm"), {"name": "Grace", "email": "", "phone": ""})
    assert said(answer) == ["1 booking confirmed."]
    booking.refresh_from_db()
    assert (booking.name, booking.email, booking.phone) == ("Grace", "", "")
    assert queued_mails() == []


def test_confirming_starts_from_what_is_known(client: Client, slot: Slot, desk: User) -> None:
    user = UserFactory(name="Grace Example", email="grace@example.org")
    booking = lifecycle.hold(slot, quantity=1, holder=Holder(user=user))
    html = get(client, page_url(booking, "confirm"))
    assert 'value="Grace Example"' in html
    assert 'value="grace@example.org"' in html


def test_hold_is_released_and_its_seat_free(client: Client, slot: Slot, desk: User) -> None:
    booking = lifecycle.hold(slot, quantity=2)
    assert booking.reference in get(client, page_url(booking, "release"))
    assert state_of(booking) == "PENDING"  # looking changes nothing
    answer = client.post(page_url(booking, "release"), {"reason": ""})
    assert said(answer) == ["1 booking released."]
    event = booking.events.get()
    assert (event.action, event.actor, event.reason) == ("cancel", "desk@example.org", "")
    assert (state_of(booking), slot.seats.free().count()) == ("CANCELLED", 10)


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("", "Write why: the patient reads it, and the history keeps it."),
        ("  ", "Write why: the patient reads it, and the history keeps it."),
        ("x" * 501, "Ensure this value has at most 500 characters (it has 501)."),
        ("a\x00b", "Null characters are not allowed."),
    ],
)
def test_cancelling_needs_a_reason(
    client: Client, slot: Slot, desk: User, reason: str, message: str
) -> None:
    booking = booked(slot)
    for answer in (
        client.post(page_url(booking, "cancel"), {"reason": reason}),
        cancel_chosen(client, booking, reason=reason),
    ):
        assert answer.status_code == 400
        assert message in answer.content.decode()
    assert state_of(booking) == "CONFIRMED"


def test_booking_is_cancelled_with_a_reason_even_when_it_has_begun(
    client: Client, slot: Slot, desk: User
) -> None:
    booking = booked(slot)
    Slot.objects.filter(pk=slot.pk).update(starts_at=timezone.now() - timedelta(minutes=5))
    html = get(client, page_url(booking, "cancel"))
    assert f'<a href="{page_url(booking)}" class="closelink">' in html
    assert state_of(booking) == "CONFIRMED"
    answer = client.post(page_url(booking, "cancel"), {"reason": "Dr. ☂ is ill — “sorry”"})
    assert said(answer) == ["1 booking cancelled."]
    event = booking.events.last()
    assert (event.action, event.actor, event.reason) == (
        *("cancel", "desk@example.org"),
        "Dr. ☂ is ill — “sorry”",
    )
    assert slot.seats.free().count() == 10


OUTCOMES = {
    ("confirm", "held"): "1 booking confirmed.",
    ("confirm", "confirmed"): "it is confirmed already",
    ("confirm", "cancelled"): "This booking is cancelled, so it cannot be confirmed",
    ("release", "held"): "1 booking released.",
    ("release", "confirmed"): "This booking is confirmed, so it cannot be released",
    ("release", "cancelled"): "it is cancelled already",
    ("cancel", "held"): "1 booking cancelled.",
    ("cancel", "confirmed"): "1 booking cancelled.",
    ("cancel", "cancelled"): "it is cancelled already",
}


@pytest.mark.parametrize("how", ["page", "list"])
@pytest.mark.parametrize("state", ["held", "confirmed", "cancelled", "lapsed", "swept"])
@pytest.mark.parametrize("verb", VERBS)
def test_each_deed_in_each_state_says_what_came_of_it(
    client: Client, slot: Slot, desk: User, verb: str, state: str, how: str
) -> None:
    booking = in_state(slot, state)
    before = (state_of(booking), booking.events.count())
    if how == "page":
        answer = client.post(page_url(booking, verb), PATIENT | {"reason": "ill"})
    elif verb == "cancel":
        answer = cancel_chosen(client, booking)
    else:
        answer = choose(client, verb, booking)
    expected = OUTCOMES.get((verb, state), LAPSED)
    if expected.startswith("1 booking"):
        assert said(answer) == [expected]
        assert booking.events.last().actor == "desk@example.org"
        assert state_of(booking) == ("CONFIRMED" if verb == "confirm" else "CANCELLED")
    else:
        assert said(answer) == [f"1 skipped: {booking.reference} ({expected})."]
        assert (state_of(booking), booking.events.count()) == before


@pytest.mark.parametrize("verb", VERBS)
def test_refused_attempt_stays_what_it_is(client: Client, desk: User, verb: str) -> None:
    slot = SlotFactory(places=1)
    with pytest.raises(SoldOut):
        lifecycle.hold(slot, quantity=2)
    refusals.flush()
    refused = Booking.objects.get()
    text = text_of(get(client, page_url(refused)))
    assert "was refused – guest –" in text
    answer = client.post(page_url(refused, verb), PATIENT | {"reason": "ill"})
    [sentence] = said(answer)
    assert sentence.startswith(f"1 skipped: {refused.reference} (This booking ")
    assert (state_of(refused), refused.events.count()) == ("FAILED", 0)


@pytest.mark.parametrize("verb", VERBS)
def test_page_that_asks_is_not_shown_where_nothing_can_be_done(
    client: Client, slot: Slot, desk: User, verb: str
) -> None:
    booking = in_state(slot, "lapsed")
    answer = client.get(page_url(booking, verb))
    assert answer["Location"] == page_url(booking)
    assert said(answer) == [f"Nothing to do: {LAPSED}."]


# ── confirm, release, cancel: several ─────────────────────────────────────────────────────────────


def test_chosen_bookings_are_done_or_skipped_each_by_itself(
    client: Client, slot: Slot, desk: User
) -> None:
    states = ["held", "confirmed", "cancelled", "lapsed", "held"]
    bookings = [in_state(slot, state) for state in states]
    answer = choose(client, "release", *bookings, url=f"{LIST}?state=held&q=")
    assert answer["Location"] == f"{LIST}?state=held&q="
    done, *skipped = said(answer)
    assert done == "2 bookings released."
    assert sorted(skipped) == sorted(
        [
            f"1 skipped: {bookings[1].reference} "
            "(This booking is confirmed, so it cannot be released).",
            f"1 skipped: {bookings[2].reference} (it is cancelled already).",
            f"1 skipped: {bookings[3].reference} ({LAPSED}).",
        ]
    )
    assert [state_of(booking) for booking in bookings] == [
        *("CANCELLED", "CONFIRMED", "CANCELLED", "FAILED", "CANCELLED")
    ]


def test_many_skipped_for_one_reason_are_one_message(
    client: Client, slot: Slot, desk: User
) -> None:
    bookings = [in_state(slot, "lapsed") for _ in range(12)]
    [sentence] = said(choose(client, "confirm", *bookings))
    assert re.fullmatch(rf"12 skipped: \w{{8}}(, \w{{8}}){{9}} and 2 more \({LAPSED}\)\.", sentence)


def test_cancelling_several_asks_once_for_all(client: Client, slot: Slot, desk: User) -> None:
    bookings = [booked(slot) for _ in range(3)]
    answer = choose(client, "cancel", *bookings[:2], url=f"{LIST}?state=confirmed")
    html = answer.content.decode()
    assert_nothing_inline(html)
    assert "Cancel 2 bookings" in html
    assert [state_of(booking) for booking in bookings] == ["CONFIRMED"] * 3
    data: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', html):
        data.setdefault(name, []).append(unescape(value))
    assert f'<a href="{LIST}?state=confirmed" class="closelink">' in html
    done = client.post(f"{LIST}?state=confirmed", data | {"reason": "The hall is flooded"})
    assert said(done) == ["2 bookings cancelled."]
    assert [state_of(booking) for booking in bookings] == ["CANCELLED", "CANCELLED", "CONFIRMED"]
    assert [b.events.last().reason for b in bookings[:2]] == ["The hall is flooded"] * 2


def test_confirming_several_takes_names_from_the_accounts_and_skips_the_nameless(
    client: Client, slot: Slot, desk: User
) -> None:
    user = UserFactory(name="Grace Example", email="grace@example.org")
    nobody = UserFactory(name="")
    mine = lifecycle.hold(slot, quantity=1, holder=Holder(user=user))
    guest = lifecycle.hold(slot, quantity=1, name="Ada Example")
    nameless = lifecycle.hold(slot, quantity=1)
    unnamed = lifecycle.hold(slot, quantity=1, holder=Holder(user=nobody))
    done, skipped = said(choose(client, "confirm", mine, guest, nameless, unnamed))
    assert done == "2 bookings confirmed."
    first, second = (booking.reference for booking in (unnamed, nameless))
    assert skipped == (
        f"2 skipped: {first}, {second} (nobody is named yet: open it and write who comes)."
    )
    mine.refresh_from_db()
    guest.refresh_from_db()
    assert (mine.name, mine.email) == ("Grace Example", "grace@example.org")
    assert (guest.name, guest.status) == ("Ada Example", "CONFIRMED")
    assert [state_of(booking) for booking in (nameless, unnamed)] == ["PENDING"] * 2


def test_all_of_a_filtered_list_are_chosen_at_once_up_to_a_limit(
    client: Client, slot: Slot, desk: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "MOST_AT_ONCE", 3)
    holds = [lifecycle.hold(slot, quantity=1) for _ in range(3)]
    other = booked(slot)
    answer = choose(client, "release", holds[0], other, url=LIST, select_across="1")
    assert said(answer) == [
        "Those are more than 3 bookings, and nothing was done. "
        "Choose fewer, with a filter or page by page."
    ]
    assert Booking.objects.filter(status="PENDING").count() == 3
    answer = choose(client, "release", holds[0], url=f"{LIST}?state=held", select_across="1")
    assert said(answer) == ["3 bookings released."]
    assert state_of(other) == "CONFIRMED"


def test_hold_that_left_the_filtered_list_meanwhile_is_reported(
    client: Client, slot: Slot, desk: User
) -> None:
    booking = lifecycle.hold(slot, quantity=1)
    lapse(booking)
    answer = choose(client, "confirm", booking, url=f"{LIST}?state=held")
    assert said(answer) == [f"1 skipped: {booking.reference} ({LAPSED})."]


@pytest.mark.parametrize("nonsense", ["abc", "", "1e99", "' OR 1=1", "\x00"])
def test_nonsense_is_no_booking(client: Client, slot: Slot, desk: User, nonsense: str) -> None:
    booking = booked(slot)
    for action in ("release", "confirm", "cancel"):
        data = {"action": f"{action}_selected", "index": "0", ACTION_CHECKBOX_NAME: nonsense}
        assert said(client.post(LIST, data)) == ["Choose bookings from the list."]
    assert state_of(booking) == "CONFIRMED"


def test_busy_booking_is_skipped_and_the_rest_goes_on(
    client: Client, slot: Slot, desk: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    from booking_site import database

    monkeypatch.setattr(database, "LOCK_TIMEOUT", "200ms")
    first, busy, last = (lifecycle.hold(slot, quantity=1) for _ in range(3))
    other = start(lambda: lifecycle.extend(busy), pause_before='UPDATE "slots_seat"')
    other.wait_until_paused()
    answer = choose(client, "release", first, busy, last)
    other.resume().outcome()
    assert said(answer) == [
        "2 bookings released.",
        f"1 skipped: {busy.reference} ({SlotBusy.message.rstrip('.')}).",
    ]
    assert [state_of(b) for b in (first, busy, last)] == ["CANCELLED", "PENDING", "CANCELLED"]


def test_what_there_was_no_time_for_is_said(
    client: Client, slot: Slot, desk: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "PATIENCE", 0)
    booking = lifecycle.hold(slot, quantity=1)
    assert said(choose(client, "release", booking)) == [
        f"1 skipped: {booking.reference} (there was no time left; choose them again)."
    ]
    assert state_of(booking) == "PENDING"


# ── others at the same time ───────────────────────────────────────────────────────────────────────


def test_cancelled_by_two_at_once_is_done_once_and_each_is_told(client: Client, slot: Slot) -> None:
    people = [StaffFactory() for _ in range(4)]
    clients = [Client() for _ in people]
    for person, browser in zip(people, clients, strict=True):
        browser.force_login(person)
    bookings = [booked(slot) for _ in range(3)]
    answers = race(*(lambda b=b: cancel_chosen(b, *bookings) for b in clients))
    done = 0
    for answer in answers:
        for sentence in said(answer):
            if found := re.fullmatch(r"(\d) bookings? cancelled\.", sentence):
                done += int(found[1])
            else:
                assert re.fullmatch(r"\d skipped: [\w, ]+ \(it is cancelled already\)\.", sentence)
    assert done == 3
    assert [b.events.filter(action="cancel").count() for b in bookings] == [1, 1, 1]


def test_release_leaves_what_its_holder_confirms_meanwhile(
    client: Client, slot: Slot, desk: User
) -> None:
    booking = lifecycle.hold(slot, quantity=1)
    patient = start(
        lambda: lifecycle.confirm(booking, **PATIENT), pause_before='UPDATE "slots_seat"'
    )
    patient.wait_until_paused()
    clerk = start(lambda: choose(client, "release", booking))
    clerk.wait_until_blocked()
    patient.resume().outcome()
    assert said(clerk.outcome()) == [
        f"1 skipped: {booking.reference} (This booking is confirmed, so it cannot be released)."
    ]
    assert state_of(booking) == "CONFIRMED"
    assert_sound()


def test_confirm_loses_to_the_patient_who_gives_the_hold_back(
    client: Client, slot: Slot, desk: User
) -> None:
    booking = lifecycle.hold(slot, quantity=1)
    patient = start(lambda: lifecycle.cancel(booking), pause_before='UPDATE "slots_seat"')
    patient.wait_until_paused()
    clerk = start(lambda: client.post(page_url(booking, "confirm"), PATIENT))
    clerk.wait_until_blocked()
    patient.resume().outcome()
    assert said(clerk.outcome()) == [
        f"1 skipped: {booking.reference} (This booking is cancelled, so it cannot be confirmed)."
    ]
    assert (state_of(booking), slot.seats.free().count()) == ("CANCELLED", 10)
    assert_sound()


def test_double_click_on_cancel_cancels_once(client: Client, slot: Slot, desk: User) -> None:
    booking = booked(slot)
    first, second = (client.post(page_url(booking, "cancel"), {"reason": "ill"}) for _ in range(2))
    assert said(first) == ["1 booking cancelled."]
    assert f"1 skipped: {booking.reference} (it is cancelled already)." in said(second)
    assert booking.events.filter(action="cancel").count() == 1


# ── release, in the lifecycle ─────────────────────────────────────────────────────────────────────


def test_release_is_for_holds_alone(slot: Slot) -> None:
    booking = booked(slot)
    with pytest.raises(WrongState, match=r"This booking is confirmed, so it cannot be released\."):
        lifecycle.release(booking, actor="desk")
    held = lifecycle.hold(slot, quantity=1)
    assert lifecycle.release(held, actor="desk").has_changed
    assert not lifecycle.release(held, actor="desk").has_changed
    lapsed = in_state(slot, "lapsed")
    with pytest.raises(lifecycle.HoldExpired):
        lifecycle.release(lapsed, actor="desk")


def test_answer_tells_whether_this_call_changed_it(slot: Slot) -> None:
    booking = lifecycle.hold(slot, quantity=1)
    assert [lifecycle.confirm(booking).has_changed for _ in range(2)] == [True, False]
    assert [lifecycle.cancel(booking).has_changed for _ in range(2)] == [True, False]


# ── search ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("K3M9ABCD", "K3M9ABCD"),
        ("  k3m9-abcd ", "K3M9ABCD"),
        ("#K3M9 ABCD", "K3M9ABCD"),
        ("OoIiLl00", "00111100"),
        ("K3M9ABCU", ""),  # there is no U
        ("K3M9ABC", ""),
        ("K3M9ABCDE", ""),
        ("ẞẞẞẞ", ""),
        ("", ""),
    ],
)
def test_reference_is_read_as_people_misread_it(typed: str, read: str) -> None:
    assert as_reference(typed) == read


def test_booking_is_found_by_whatever_is_known_of_it(
    client: Client, slot: Slot, desk: User
) -> None:
    user = UserFactory(name="Grace Hopper", email="grace@account.org")
    ada = booked(slot, name="Ada Lovelace", email="Ada@Example.org", phone="+49 (0)30 12-34/5")
    grace = lifecycle.hold(slot, quantity=1, holder=Holder(user=user))
    bob = booked(slot, name="Bob 100%_sure", email="joada@example.org", phone="")
    Booking.objects.filter(pk=ada.pk).update(reference="A0B1C2D3")
    Booking.objects.filter(pk=grace.pk).update(reference="MARGARET")
    Booking.objects.filter(pk=bob.pk).update(reference="30123400")
    found = {
        "aob1c2d3": {"A0B1C2D3"},
        "AOBi-C2D3": {"A0B1C2D3"},
        "a0b": {"A0B1C2D3"},
        str(ada.pk): {"A0B1C2D3"},
        f"https://x.example{ada.get_absolute_url()}": {"A0B1C2D3"},
        "lovelace": {"A0B1C2D3"},
        "lovelace ada": {"A0B1C2D3"},
        "lovelace grace": set(),
        "ADA@example.ORG": {"A0B1C2D3"},  # not joada’s
        "ada@exam": {"A0B1C2D3", "30123400"},
        "Grace@Account.org": {"MARGARET"},
        "hopper": {"MARGARET"},
        "030 12345": {"A0B1C2D3"},
        "+49 30 12345": {"A0B1C2D3"},
        "30123400": {"30123400"},
        "%_": {"30123400"},
        "margaret": {"MARGARET"},
        "x" * 2000: set(),
        " ".join("abcdefghijkl"): set(),
        "'; DROP TABLE": set(),
        "ẞ": set(),
        str(uuid.uuid4()): set(),
        "": {"A0B1C2D3", "MARGARET", "30123400"},
    }
    assert {text: listed(client, q=text) for text in found} == found


def test_search_and_filter_go_together(client: Client, slot: Slot, desk: User) -> None:
    ada = booked(slot, name="Ada")
    assert listed(client, q=ada.reference, state="confirmed") == {ada.reference}
    assert listed(client, q=ada.reference, state="cancelled") == set()
    assert "Null characters are not allowed." in get(client, LIST, {"q": "a\x00b"})


# ── filters ───────────────────────────────────────────────────────────────────────────────────────


def test_states_are_filtered_as_of_now_and_refused_attempts_kept_apart(
    client: Client, desk: User
) -> None:
    slot = SlotFactory(places=3)
    booked_, held = booked(slot), lifecycle.hold(slot, quantity=1)
    cancelled, lapsed, swept = (in_state(slot, s) for s in ("cancelled", "swept", "lapsed"))
    with pytest.raises(SoldOut):
        lifecycle.hold(slot, quantity=3)
    refusals.flush()
    refused = Booking.objects.get(failure_reason="sold_out")
    expected = {
        "": {booked_, held, cancelled, lapsed, swept},
        "held": {held},
        "confirmed": {booked_},
        "cancelled": {cancelled},
        "lapsed": {lapsed, swept},
        "refused": {refused},
    }
    for state, bookings in expected.items():
        query = {"state": state} if state else {}
        assert listed(client, **query) == {booking.reference for booking in bookings}
    assert "sold out" in text_of(get(client, LIST, {"state": "refused"}))


def test_days_are_those_of_the_slot(client: Client, desk: User) -> None:
    noon = timezone.localtime().replace(hour=12, minute=0)
    slots = {
        days: SlotFactory(
            starts_at=noon + timedelta(days=days), ends_at=noon + timedelta(days=days + 1)
        )
        for days in (0, 1, 6, 7, 400)
    }
    bookings = {}
    for days, slot in slots.items():
        # While it is booked it is still to come, whatever the time of day is now.
        Slot.objects.filter(pk=slot.pk).update(closes_at=slot.ends_at)
        bookings[days] = booked(slot).reference
    expected: dict[str, set[int]] = {
        "today": {0},
        "tomorrow": {1},
        "week": {0, 1, 6},
        f"{noon + timedelta(days=7):%Y-%m-%d}": {7},
        "nonsense": set(slots),
        "0000-00-00": set(slots),
        "99999-12-31": set(slots),
        "9999-12-31": set(slots),
    }
    for day, those in expected.items():
        assert listed(client, day=day) == {bookings[days] for days in those}, day
    assert listed(client, day="coming") | listed(client, day="past") == set(bookings.values())
    assert listed(client, day="coming") >= {bookings[days] for days in (1, 6, 7, 400)}


def test_subject_is_typed_and_pages_link_to_their_bookings(client: Client, desk: User) -> None:
    user = UserFactory()
    flute = SlotFactory(show__name="The Magic Flute")
    again = SlotFactory(show=flute.show, starts_at=timezone.now() + timedelta(days=3))
    doctor = AppointmentFactory(doctor=DoctorFactory(name="Dr. Flutemaker"))
    a, b = booked(flute).reference, booked(again).reference
    c = lifecycle.hold(doctor, quantity=1, holder=Holder(user=user)).reference
    assert listed(client, subject="FLUTE") == {a, b, c}
    assert listed(client, subject="magic fl", state="confirmed") == {a, b}
    assert listed(client, subject="x\x00") == {a, b, c}
    assert listed(client, slot__id__exact=str(flute.pk)) == {a}
    assert listed(client, slot__show__id__exact=str(flute.show_id)) == {a, b}
    assert listed(client, slot__doctor__id__exact=str(doctor.doctor_id)) == {c}
    assert listed(client, user__id__exact=str(user.pk)) == {c}
    for nonsense in ("0", "abc", "9" * 30, "-1", "²"):
        assert listed(client, slot__id__exact=nonsense) == set()
    html = unescape(get(client, LIST, {"slot__id__exact": flute.pk}))
    assert str(flute) in html
    assert "By slot" not in get(client, LIST)


def test_typed_filter_keeps_the_rest_of_the_question(client: Client, desk: User) -> None:
    html = get(client, LIST, {"state": "held", "q": 'a"b', "subject": "<i>", "day": "2031-01-02"})
    day, subject = re.findall(r'<form method="get" class="typed-filter".*?</form>', html, re.S)
    hidden = r'type="hidden" name="(\w+)" value="([^"]*)"'
    assert dict(re.findall(hidden, day)) == {
        "state": "held",
        "q": "a&quot;b",
        "subject": "&lt;i&gt;",
    }
    assert dict(re.findall(hidden, subject)) == {
        "state": "held",
        "q": "a&quot;b",
        "day": "2031-01-02",
    }
    assert 'type="date" name="day" value="2031-01-02"' in day
    assert 'type="text" name="subject" value="&lt;i&gt;"' in subject


def test_unknown_filter_leads_back_to_the_list(client: Client, desk: User) -> None:
    for name in ("password", "user__password__startswith"):
        assert client.get(LIST, {name: "md5"})["Location"] == f"{LIST}?e=1"


# ── cost ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [1, 4])
def test_list_and_page_cost_the_same_at_any_size(
    client: Client, desk: User, django_assert_num_queries: DjangoAssertNumQueries, size: int
) -> None:
    booking = None
    for _ in range(size):
        slot = SlotFactory()
        user = UserFactory()
        booking = lifecycle.hold(slot, quantity=1, holder=Holder(user=user))
        doctor = AppointmentFactory()
        booked(doctor)
    # The session, the user, two of permissions; how many there are, and the page of them.
    with django_assert_num_queries(6):
        client.get(LIST)
    with django_assert_num_queries(7):  # is there this reference?
        client.get(LIST, {"q": booking.reference})
    with django_assert_num_queries(6):
        client.get(LIST, {"q": "nobody at all"})
    client.get(page_url(booking))  # Django remembers the type of the model from now on
    with django_assert_num_queries(6):  # the booking, and its history
        client.get(page_url(booking))


def test_list_in_its_order_and_a_reference_use_their_indexes(client: Client, desk: User) -> None:
    slot = SlotFactory()
    booking = booked(slot)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO bookings_booking (id, reference, slot_id, session_key, name, email, phone,"
            " quantity, labels, status, failure_reason, request_digest, created_at)"
            " SELECT gen_random_uuid(), lpad(n::text, 8, '0'), %s, '', '', 'n' || n, '', 1, '{}',"
            " 'FAILED', CASE WHEN n %% 2 = 0 THEN 'sold_out' ELSE 'expired' END, '', now()"
            " FROM generate_series(1, 20000) AS n",
            [slot.pk],
        )
        cursor.execute("ANALYZE bookings_booking")
    indexes = {
        "booking_latest": {},
        "booking_refused_latest": {"state": "refused"},
        "booking_reference_is_unique": {"q": booking.reference},
        "booking_by_email": {"q": "ADA@example.org"},
    }
    for index, query in indexes.items():
        plans = explain_pages(lambda query=query: client.get(LIST, query))
        assert [plan for plan in plans if index not in plan] == [], index


def explain_pages(act: Callable[[], Any]) -> list[str]:
    """The plans of the queries that read whole bookings, in a page."""
    plans = []

    def watch(execute: Callable, sql: str, params: Any, many: bool, context: dict) -> Any:
        if 'FROM "bookings_booking"' in sql and "ORDER BY" in sql:
            plan = connection.connection.execute(f"EXPLAIN {sql}", params).fetchall()
            plans.append("\n".join(line for (line,) in plan))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(watch):
        act()
    assert plans
    return plans
