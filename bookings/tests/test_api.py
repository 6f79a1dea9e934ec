"""Holding, confirming and finding bookings through the API, and whose they are."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import tokens
from accounts.models import User
from booking_site.tests.factories import SlotFactory, StaffFactory, UserFactory
from booking_site.tests.mails import queued_mails
from booking_site.tests.races import lapse, race
from bookings import browser, lifecycle, refusals
from bookings.lifecycle import Holder
from bookings.models import Booking
from bookings.tests.programs import (
    DETAILS,
    KEY,
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
from slots import inventory
from slots.models import Seat, Slot

pytestmark = pytest.mark.django_db


@pytest.fixture
def hall() -> Slot:
    return SlotFactory(rows=1, seats_per_row=4)


def client_of(user: User | None) -> Client:
    client = Client()
    if user:
        client.force_login(user)
    return client


# ── hold ──────────────────────────────────────────────────────────────────────────────────────────


def test_guest_holds_named_seats(client: Client, hall: Slot) -> None:
    details = DETAILS | {"phone": "+49 30 1234"}
    booking = held(client, hall, seat_ids=seat_ids(hall, "A3", "A2")[::-1], **details)
    row = Booking.objects.get()
    assert booking == body_of(get(client, f"bookings/{row.pk}"))
    assert (booking["status"], booking["quantity"]) == ("PENDING", 2)
    assert [seat["label"] for seat in booking["seats"]] == ["A2", "A3"]
    assert (row.name, row.email, row.phone) == tuple(details.values())
    assert (row.user, row.session_key, row.idempotency_key) == (None, "", None)
    assert row.expires_at - row.created_at == timedelta(seconds=settings.HOLD_SECONDS)
    states = [seat["state"] for seat in get(client, f"slots/{hall.pk}/seats").json()]
    assert states == ["AVAILABLE", "RESERVED", "RESERVED", "AVAILABLE"]


def test_any_seats_are_held_by_quantity(client: Client) -> None:
    slot = SlotFactory(places=3)
    booking = held(client, slot, quantity=3, name=None, email=None, phone=None)
    assert len({seat["id"] for seat in booking["seats"]}) == 3
    assert set(Seat.objects.values_list("booking", flat=True)) == {Booking.objects.get().pk}


def test_hold_ignores_what_is_not_for_the_client_to_say(client: Client, hall: Slot) -> None:
    user = UserFactory()
    strange = {"id": str(user.pk), "status": "CONFIRMED", "user": user.pk, "session_key": "x"}
    booking = held(client, hall, **strange, expires_at="2999-01-01T00:00:00Z", is_staff=True)
    row = Booking.objects.get(pk=booking["id"])
    assert (row.status, row.user, row.session_key) == ("PENDING", None, "")
    assert row.expires_at < timezone.now() + timedelta(seconds=settings.HOLD_SECONDS)


TOO_MANY = "At most 10 seats can be booked at once."
NONE = "Choose at least one seat."
ONE_OF_TWO = "Give seat_ids or quantity: one of the two."
NO_WHOLE_NUMBER = "Write a whole number, without quotation marks or a point."


@pytest.mark.parametrize(
    ("wish", "field", "message"),
    [
        ({}, "body", ONE_OF_TWO),
        ({"seat_ids": None, "quantity": None}, "body", ONE_OF_TWO),
        ({"seat_ids": [1], "quantity": 1}, "body", ONE_OF_TWO),
        ({"quantity": 0}, "quantity", NONE),
        ({"quantity": -1}, "quantity", NONE),
        ({"quantity": 11}, "quantity", TOO_MANY),
        ({"quantity": 10**30}, "quantity", TOO_MANY),
        ({"quantity": 1.0}, "quantity", NO_WHOLE_NUMBER),
        ({"quantity": "1"}, "quantity", NO_WHOLE_NUMBER),
        ({"quantity": True}, "quantity", NO_WHOLE_NUMBER),
        ({"seat_ids": []}, "seat_ids", NONE),
        ({"seat_ids": list(range(1, 12))}, "seat_ids", TOO_MANY),
        ({"seat_ids": [7, 8, 7]}, "seat_ids", "The same seat is named twice."),
        ({"seat_ids": [7, 8.0]}, "seat_ids", NO_WHOLE_NUMBER),
        ({"seat_ids": ["7"]}, "seat_ids", NO_WHOLE_NUMBER),
        ({"seat_ids": 7}, "seat_ids", "Write a list, like [1, 2]."),
        ({"seat_ids": [0]}, "seat_ids", "Write a number from 1 on."),
        ({"quantity": 1, "name": ""}, "name", "Please tell us your name."),
        ({"quantity": 1, "name": "A\nB"}, "name", "Write the name on one line."),
        ({"quantity": 1, "phone": "call me"}, "phone", None),
        ({"quantity": 1, "email": "ada@"}, "email", None),
        ({"quantity": 1, "email": 1}, "email", "Write a text in quotation marks."),
    ],
)
def test_hold_of_nonsense_names_the_field(
    wish: dict, field: str, message: str | None, client: Client, hall: Slot
) -> None:
    before = rows()
    told = errors(post(client, "bookings", {"slot": hall.pk} | wish))
    assert list(told) == [field]
    assert message is None or told[field] == [message]
    assert rows() == before


@pytest.mark.parametrize("whose", ["another slot's", "nobody's", "both"])
def test_hold_of_seats_that_are_not_the_slots(whose: str, client: Client, hall: Slot) -> None:
    other = SlotFactory(rows=1)
    strange = {
        "another slot's": seat_ids(other, "A1"),
        "nobody's": [2**62],
        "both": [*seat_ids(other, "A1"), 2**62, *seat_ids(hall, "A1")],
    }
    told = errors(post(client, "bookings", {"slot": hall.pk, "seat_ids": strange[whose]}))
    assert told == {"seat_ids": ["A seat that was named is not one of this slot."]}
    assert not Booking.objects.exists()


@pytest.mark.parametrize("slot", [2**40, 2**63 - 1])
def test_hold_of_an_unknown_slot_is_404(slot: int, client: Client) -> None:
    assert refusal(post(client, "bookings", {"slot": slot, "quantity": 1})) == (404, "not_found")


def test_refusal_is_409_and_never_201(client: Client, hall: Slot) -> None:
    """Held, booked and blocked seats are taken, and the answer says which were."""
    held(client, hall, seat_ids=seat_ids(hall, "A1"))
    confirmed(client, hall, seat_ids=seat_ids(hall, "A2"))
    inventory.block_seats(hall, seat_ids=seat_ids(hall, "A3"))
    before = rows()
    answer = post(client, "bookings", {"slot": hall.pk, "seat_ids": seat_ids(hall, *LABELS)})
    assert refusal(answer) == (409, "seats_taken")
    assert answer.json()["seats"] == ["A1", "A2", "A3"]
    assert answer.json()["detail"] == (
        "Seats A1, A2 and A3 have just been taken. Please choose again."
    )
    answer = post(client, "bookings", {"slot": hall.pk, "quantity": 2})
    assert refusal(answer) == (409, "sold_out")
    assert answer.json()["detail"] == "Only one place is left."
    assert rows() == before


LABELS = ("A1", "A2", "A3", "A4")


def test_user_holds_no_more_than_allowed(hall: Slot) -> None:
    """Guests without a browser's cookie are nobody in particular, so nothing counts for them."""
    slot, user, guest = SlotFactory(places=20), UserFactory(), Client()
    client = client_of(user)
    first, *_ = [held(client, slot) for _ in range(settings.MAX_LIVE_HOLDS)]
    assert refusal(post(client, "bookings", {"slot": slot.pk, "quantity": 1})) == (
        409,
        "too_many_holds",
    )
    for _ in range(settings.MAX_LIVE_HOLDS + 1):
        held(guest, slot)
    post(client, f"bookings/{first['id']}/cancel")
    held(client, slot)
    assert Booking.objects.filter(user=user).count() == settings.MAX_LIVE_HOLDS + 1


def test_guest_in_a_browser_is_known_by_its_cookie(hall: Slot) -> None:
    """A page's script finds the booking among those of the browser, and they share one limit."""
    slot, client = SlotFactory(places=20), Client()
    page = client.post(f"/slots/{slot.pk}/hold", {"quantity": 1})
    assert page.status_code == 303
    key = Booking.objects.get().session_key
    for _ in range(settings.MAX_LIVE_HOLDS - 1):
        held(client, slot)
    assert set(Booking.objects.values_list("session_key", flat=True)) == {key}
    assert refusal(post(client, "bookings", {"slot": slot.pk, "quantity": 1})) == (
        409,
        "too_many_holds",
    )
    client.cookies[browser.COOKIE] = "forged:signature"
    assert Booking.objects.get(pk=held(client, slot)["id"]).session_key == ""


# ── confirm ───────────────────────────────────────────────────────────────────────────────────────


def confirm(client: Client, booking: dict, **details: Any) -> Any:
    return post(client, f"bookings/{booking['id']}/confirm", details)


def test_confirm_wants_what_was_not_given_before(client: Client, hall: Slot) -> None:
    booking, half = held(client, hall), held(client, hall, name="Ada")
    before = rows()
    name, email = "Please tell us your name.", "Please tell us your e-mail address."
    assert errors(confirm(client, booking)) == {"name": [name], "email": [email]}
    assert errors(confirm(client, booking, name=None)) == {"name": [name], "email": [email]}
    assert errors(confirm(client, booking, name="Ada")) == {"email": [email]}
    assert errors(confirm(client, booking, name="  ", email="a@example.org")) == {"name": [name]}
    assert errors(confirm(client, half)) == {"email": [email]}
    assert errors(confirm(client, half, email="")) == {"email": [email]}
    assert rows() == before
    shown = body_of(confirm(client, half, email="ada@example.org", phone=None))
    assert (shown["status"], shown["name"], shown["email"]) == (
        "CONFIRMED",
        "Ada",
        "ada@example.org",
    )


def test_confirm_without_a_body_is_enough_for_who_has_said_all(client: Client, hall: Slot) -> None:
    booking = held(client, hall, **DETAILS, phone="030 1234")
    shown = body_of(client.generic("POST", f"/api/v1/bookings/{booking['id']}/confirm"))
    assert (shown["name"], shown["email"]) == tuple(DETAILS.values())
    assert Booking.objects.get().phone == "030 1234"
    [mail] = queued_mails()
    assert mail.to == ["ada@example.org"]


def test_confirm_replaces_what_was_given_before(client: Client, hall: Slot) -> None:
    booking = held(client, hall, **DETAILS, phone="030 1234")
    shown = body_of(confirm(client, booking, name="Grace", email="grace@example.org", phone=""))
    assert (shown["name"], shown["email"]) == ("Grace", "grace@example.org")
    assert Booking.objects.get().phone == ""


def test_confirm_again_is_the_same_whatever_is_sent(client: Client, hall: Slot) -> None:
    first = confirmed(client, hall)
    before = rows()
    for details in ({}, DETAILS, {"name": "Grace", "email": "grace@example.org", "phone": "1"}):
        assert body_of(confirm(client, first, **details)) == first
    assert rows() == before


def test_user_is_known_by_the_account(hall: Slot) -> None:
    """What they said when they registered need not be said again; staff confirm for them, too."""
    user = UserFactory(name="Ada", email="ada@example.org")
    for client in (client_of(user), client_of(StaffFactory())):
        booking = held(client_of(user), hall)
        shown = body_of(confirm(client, booking))
        assert (shown["name"], shown["email"]) == ("Ada", "ada@example.org")
    nameless = client_of(UserFactory(name=""))
    assert list(errors(confirm(nameless, held(nameless, hall)))) == ["name"]


def test_one_address_is_mailed_so_often(hall: Slot, settings: Any) -> None:
    """By confirming as by moving; its owner, and staff, as often as they like."""
    settings.ACCOUNT_RATE_LIMITS = settings.ACCOUNT_RATE_LIMITS | {"mail_booking": "2/h/key"}
    owner = UserFactory(email="ada@example.org")
    stranger, slot = Client(), SlotFactory(places=20)
    booking = confirmed(stranger, slot)
    move = {"slot": hall.pk, "quantity": 1}
    body_of(post(stranger, f"bookings/{booking['id']}/reschedule", move))
    live = held(stranger, slot, email="ada@example.org")
    before = rows()
    for answer in (
        confirm(stranger, live, name="Ada", email="ADA@example.org"),
        post(stranger, f"bookings/{booking['id']}/reschedule", move | {"slot": slot.pk}),
    ):
        assert refusal(answer) == (429, "too_many")
        assert 3500 < int(answer["Retry-After"]) <= 3600
    assert rows() == before
    body_of(post(stranger, f"bookings/{live['id']}/reschedule", move))  # of which no mail tells
    body_of(confirm(stranger, live, name="Ada", email="grace@example.org"))
    confirmed(client_of(owner), slot)
    confirmed(client_of(StaffFactory()), slot)


# ── Idempotency-Key and by-key ────────────────────────────────────────────────────────────────────


def test_same_key_and_body_is_the_same_booking(client: Client, hall: Slot) -> None:
    """In its present state, whatever has become of it."""
    body = {"slot": hall.pk, "seat_ids": seat_ids(hall, "A1", "A2"), "name": "Ada"}

    def again() -> dict:
        same = body | {"seat_ids": body["seat_ids"][::-1]}
        response = post(client, "bookings", same, key=KEY)
        assert "Location" not in response
        answer = body_of(response, 200)
        assert answer == body_of(get(client, f"bookings/by-key/{KEY}"))
        return answer

    made = post(client, "bookings", body, key=KEY)
    booking = body_of(made, 201)
    assert made["Location"] == f"/api/v1/bookings/{booking['id']}"
    assert again() == booking
    shown = body_of(confirm(client, booking, email="ada@example.org"))
    assert again() == shown
    shown = body_of(post(client, f"bookings/{booking['id']}/cancel"))
    held(client, hall, quantity=4)
    assert again() == shown
    Slot.objects.update(cancelled_at=timezone.now())
    assert again() == shown
    assert Booking.objects.count() == 2


def test_same_key_after_the_hold_lapsed_shows_that(client: Client, hall: Slot) -> None:
    body = {"slot": hall.pk, "quantity": 1}
    booking = body_of(post(client, "bookings", body, key=KEY), 201)
    lapse(Booking.objects.get())
    again = body_of(post(client, "bookings", body, key=KEY), 200)
    assert (again["id"], again["status"], again["failure_reason"]) == (
        booking["id"],
        "FAILED",
        "expired",
    )
    assert Booking.objects.count() == 1


@pytest.mark.parametrize(
    "other",
    [{"quantity": 2}, {"name": "Grace"}, {"phone": "1"}, {"slot": "other"}, {"seat_ids": "A1"}],
)
def test_same_key_with_another_body_is_refused(other: dict, client: Client, hall: Slot) -> None:
    body = {"slot": hall.pk, "quantity": 1, "name": "Ada"}
    post(client, "bookings", body, key=KEY)
    if "slot" in other:
        other = {"slot": SlotFactory().pk}
    if "seat_ids" in other:
        other = {"seat_ids": seat_ids(hall, "A1"), "quantity": None}
    before = rows()
    assert refusal(post(client, "bookings", body | other, key=KEY)) == (409, "key_reused")
    assert rows()[0] == before[0]


def test_keys_of_users_are_their_own(hall: Slot) -> None:
    """Guests share one space; nobody finds by a key what another one made with it."""
    body = {"slot": hall.pk, "quantity": 1}
    clients = [client_of(user) for user in (None, UserFactory(), UserFactory())]
    ids = [body_of(post(client, "bookings", body, key=KEY), 201)["id"] for client in clients]
    assert len(set(ids)) == 3
    found = [body_of(get(client, f"bookings/by-key/{KEY}"))["id"] for client in clients]
    assert found == ids
    assert body_of(post(Client(), "bookings", body, key=KEY), 200)["id"] == ids[0]
    for stranger in (UserFactory(), StaffFactory()):
        answer = get(client_of(stranger), f"bookings/by-key/{KEY}")
        assert refusal(answer) == (404, "not_found")


def test_refusal_does_not_consume_the_key(client: Client, hall: Slot) -> None:
    taken = held(client, hall, quantity=4)
    body = {"slot": hall.pk, "quantity": 1}
    assert refusal(post(client, "bookings", body, key=KEY)) == (409, "sold_out")
    assert list(errors(post(client, "bookings", body | {"quantity": 0}, key=KEY))) == ["quantity"]
    refusals.flush()
    assert refusal(get(client, f"bookings/by-key/{KEY}")) == (404, "not_found")
    post(client, f"bookings/{taken['id']}/cancel")
    body_of(post(client, "bookings", body | {"quantity": 2}, key=KEY), 201)


@pytest.mark.parametrize("who", ["guest", "user"])
def test_same_key_is_answered_where_no_more_may_be_held(
    who: str, hall: Slot, settings: Any
) -> None:
    """To ask again holds nothing. Anybody else's key, and another body, gain nothing by it."""
    settings.ACCOUNT_RATE_LIMITS = settings.ACCOUNT_RATE_LIMITS | {"hold": "1/m/ip"}
    client, other = client_of(UserFactory() if who == "user" else None), client_of(UserFactory())
    body = {"slot": hall.pk, "quantity": 1}
    booking = body_of(post(client, "bookings", body, key=KEY), 201)
    before = rows()
    for _ in range(2):
        assert body_of(post(client, "bookings", body, key=KEY), 200) == booking
    more = body | {"quantity": 2}
    assert refusal(post(client, "bookings", more, key=KEY)) == (409, "key_reused")
    for answer in (
        post(client, "bookings", body, key="another " + KEY),
        post(client, "bookings", body),
        post(other, "bookings", body, key=KEY),
    ):
        assert refusal(answer) == (429, "too_many")
    assert rows() == before


@pytest.mark.parametrize(
    "key",
    [
        "k" * 16,
        "k" * 200,
        "a key with spaces",
        "../../../../etc/passwd",
        "a//b/c?d=e&f#g%2F+~",
        "\t blanks around it ",
    ],
)
def test_keys_are_any_printable_ascii(key: str, client: Client, hall: Slot) -> None:
    """Found again by their percent-encoded form, the way that programs build addresses."""
    booking = body_of(post(client, "bookings", {"slot": hall.pk, "quantity": 1}, key=key), 201)
    assert body_of(get(client, f"bookings/by-key/{quote(key, safe='')}")) == booking


@pytest.mark.parametrize(
    "key", ["k" * 15, "k" * 201, "k" * 15 + "é", "k" * 16 + "\tk", "k" * 16 + "\x7f"]
)
def test_other_keys_are_refused(key: str, client: Client, hall: Slot) -> None:
    answer = post(client, "bookings", {"slot": hall.pk, "quantity": 1}, key=key)
    assert list(errors(answer)) == ["Idempotency-Key"]
    assert refusal(get(client, f"bookings/by-key/{quote(key, safe='')}")) == (404, "not_found")
    assert not Booking.objects.exists()


def test_key_of_a_page_made_no_other_booking(client: Client, hall: Slot) -> None:
    """The form's key is in the same space: whoever has it and asks for the same gets the same."""
    ids, key = seat_ids(hall, "A1"), "0123456789abcdef"
    client.post(f"/slots/{hall.pk}/hold", {"seat": ids, "key": key})
    body = {"slot": hall.pk, "seat_ids": ids}
    booking = body_of(post(client, "bookings", body, key=key), 200)
    assert booking["id"] == str(Booking.objects.get().pk)
    assert refusal(post(client, "bookings", body | {"name": "Ada"}, key=key)) == (409, "key_reused")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("by", ["quantity", "seat_ids"])
@pytest.mark.parametrize("who", ["guest", "user"])
def test_same_request_at_the_same_moment_makes_one_booking(by: str, who: str, hall: Slot) -> None:
    wish = {"quantity": 3} if by == "quantity" else {"seat_ids": seat_ids(hall, "A1", "A2", "A3")}
    user = UserFactory() if who == "user" else None
    clients = [client_of(user) for _ in range(4)]
    requests: list[Callable] = [
        lambda client=client: post(client, "bookings", {"slot": hall.pk} | wish, key=KEY)
        for client in clients
    ]
    answers = race(*requests)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    assert {answer.json()["id"] for answer in answers} == {str(Booking.objects.get().pk)}


# ── Whose a booking is ────────────────────────────────────────────────────────────────────────────

OK, HIDDEN, DENIED = 200, (404, "not_found"), (403, "forbidden")
ACTIONS = ("read", "confirm", "extend", "reschedule", "cancel")
# Of a user's booking, of a guest's. Who has a guest's booking's id may do everything with it, only
# staff need their rights: the office's lists are full of ids.
RIGHTS = {
    "guest": ([HIDDEN] * 5, [OK] * 5),
    "owner": ([OK] * 5, [OK] * 5),
    "other user": ([HIDDEN] * 5, [OK] * 5),
    "staff without rights": ([HIDDEN] * 5, [OK, *[DENIED] * 4]),
    "staff who confirm": ([OK, OK, OK, DENIED, DENIED],) * 2,
    "staff who cancel": ([OK, DENIED, DENIED, OK, OK],) * 2,
    "Programme": ([OK, *[DENIED] * 4], [OK, *[DENIED] * 4]),
    "Front desk": ([OK] * 5, [OK] * 5),
}


STAFF = {
    "staff without rights": [],
    "staff who confirm": ["view_booking", "confirm_booking"],
    "staff who cancel": ["view_booking", "cancel_booking"],
}


@pytest.mark.parametrize("of_guest", [False, True], ids=["user's", "guest's"])
@pytest.mark.parametrize("who", RIGHTS)
def test_who_may_do_what(who: str, of_guest: bool) -> None:
    slot, owner = SlotFactory(), UserFactory()
    users = {"owner": owner, "other user": UserFactory(), "guest": None}
    if who in STAFF:
        users[who] = UserFactory(is_staff=True)
        users[who].user_permissions.set(Permission.objects.filter(codename__in=STAFF[who]))
    elif who not in users:
        users[who] = StaffFactory(group=who)
    client, found, changed = client_of(users[who]), [], []
    for action in ACTIONS:
        holder = lifecycle.GUEST if of_guest else Holder(user=owner)
        path = f"bookings/{lifecycle.hold(slot, quantity=1, holder=holder, **DETAILS).pk}"
        body = {"slot": slot.pk, "quantity": 1} if action == "reschedule" else {}
        before = rows()
        answer = get(client, path) if action == "read" else post(client, f"{path}/{action}", body)
        found.append(OK if answer.status_code == 200 else refusal(answer))
        if found[-1] != OK and rows() != before:
            changed.append(action)
    assert (found, changed) == (RIGHTS[who][of_guest], [])


def test_token_is_as_good_as_a_session(client: Client, hall: Slot) -> None:
    user = UserFactory()
    headers = {"Authorization": f"Bearer {tokens.issue(user)['access']}"}
    asked = {"content_type": "application/json", "headers": headers}
    booking = body_of(
        client.post("/api/v1/bookings", {"slot": hall.pk, "quantity": 1}, **asked), 201
    )
    assert Booking.objects.get().user == user
    path = f"/api/v1/bookings/{booking['id']}"
    assert refusal(client.get(path)) == HIDDEN
    assert body_of(client.get(path, headers=headers)) == booking
    assert body_of(client.get("/api/v1/bookings", headers=headers))["items"] == [booking]
    headers["Authorization"] += "x"
    assert refusal(client.get(path, headers=headers)) == (401, "unauthenticated")


@pytest.mark.parametrize("path", ["bookings/{}", "bookings/by-key/{}"])
def test_unknown_bookings_are_404(path: str, client: Client) -> None:
    for unknown in ("00000000-0000-0000-0000-000000000000", "1", "a" * 300, "%00" * 20):
        assert refusal(get(client, path.format(unknown))) == HIDDEN


def test_id_in_capitals_is_the_same_id(client: Client, hall: Slot) -> None:
    booking = held(client, hall, quantity=1)
    assert body_of(get(client, f"bookings/{booking['id'].upper()}")) == booking
    for action in ("extend", "cancel"):
        assert post(client, f"bookings/{booking['id'].upper()}/{action}").status_code == 200
    assert client.get(f"/bookings/{booking['id'].upper()}/").status_code == 200


def test_emails_of_others_are_not_listed(hall: Slot) -> None:
    """A user's list has their own, the newest first; a guest has none to ask for."""
    user, slot = UserFactory(), SlotFactory(places=20)
    mine = client_of(user)
    bookings = [confirmed(mine, slot), held(mine, slot), held(mine, slot)]
    confirmed(client_of(UserFactory()), slot, email="grace@example.org", name="Grace")
    confirmed(Client(), slot, email="guest@example.org", name="Guest")
    assert body_of(get(mine, "bookings")) == {"count": 3, "items": bookings[::-1]}
    page = body_of(get(mine, "bookings", limit=1, offset=1))
    assert page == {"count": 3, "items": [bookings[1]]}
    assert body_of(get(client_of(UserFactory()), "bookings")) == {"count": 0, "items": []}
    assert refusal(get(Client(), "bookings")) == (401, "unauthenticated")
    assert refusal(get(mine, "admin/bookings")) == DENIED


def test_refused_attempts_are_no_bookings_of_mine(hall: Slot) -> None:
    client = client_of(UserFactory())
    held(Client(), hall, quantity=4)
    assert refusal(post(client, "bookings", {"slot": hall.pk, "quantity": 1})) == (409, "sold_out")
    assert refusals.flush() == 1
    assert body_of(get(client, "bookings"))["count"] == 0


# ── What it costs ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("quantity", [1, 4])
def test_queries(quantity: int, client: Client, hall: Slot) -> None:
    """Two to know the user, one to find a booking; the rest is the lifecycle's. To
    confirm one looks whose address it is."""
    booking: dict[str, Any] = {}

    def count(act: Callable) -> int:
        with CaptureQueriesContext(connection) as queries:
            booking.update(body_of(act(), 201 if not booking else 200))
        return len(queries)

    def path(action: str = "") -> str:
        return f"bookings/{booking['id']}{action}"

    ids = seat_ids(hall, *LABELS[:quantity])
    client.force_login(UserFactory(email=DETAILS["email"]))  # whose mails are not counted
    assert {
        "hold": count(lambda: post(client, "bookings", {"slot": hall.pk, "seat_ids": ids})),
        "read": count(lambda: get(client, path())),
        "extend": count(lambda: post(client, path("/extend"))),
        "confirm": count(lambda: post(client, path("/confirm"), DETAILS)),
        "cancel": count(lambda: post(client, path("/cancel"))),
    } == {"hold": 11, "read": 3, "extend": 11, "confirm": 14, "cancel": 13}
