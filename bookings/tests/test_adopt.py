"""What a browser booked as a guest becomes the bookings of who signs in there."""

import logging
import re
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError
from django.test import Client

from booking_site.tests.factories import PASSWORD, SlotFactory, UserFactory
from booking_site.tests.mails import code_in, queued_for
from booking_site.tests.races import assert_sound, kill_before, lapse, race, start, tally
from bookings import browser, lifecycle
from bookings.lifecycle import (
    Holder,
    HoldExpired,
    SlotBusy,
    SweeperRunning,
    adopt,
    cancel,
    confirm,
    expire_due,
    extend,
    hold,
)
from bookings.models import Booking, BookingEvent

pytestmark = pytest.mark.django_db(transaction=True)

KEY = "of this browser"
GUEST = Holder(session_key=KEY)
ADOPT = 'UPDATE "bookings_booking"'


def owners(*bookings: Booking) -> list[int | None]:
    found = Booking.objects.in_bulk([booking.pk for booking in bookings])
    return [found[booking.pk].user_id for booking in bookings]


# ── The transition ────────────────────────────────────────────────────────────────────────────────


def test_bookings_of_the_browser_become_the_users_and_nothing_else_changes() -> None:
    slot = SlotFactory(places=20)
    user, other = UserFactory(), UserFactory()
    held, confirmed, cancelled, lapsed = (hold(slot, quantity=1, holder=GUEST) for _ in range(4))
    confirm(confirmed, name="Ada", email="ada@example.org")
    cancel(cancelled)
    lapse(lapsed)
    theirs = hold(slot, quantity=1, holder=Holder(user=other, session_key=KEY))
    strangers = hold(slot, quantity=1, holder=Holder(session_key="another"))
    nobodys = hold(slot, quantity=1)
    rows = Booking.objects.order_by("pk")
    before = list(rows.values())
    seats = list(slot.seats.values())
    events = BookingEvent.objects.count()

    assert adopt(user, KEY) == 2  # the held and the confirmed one
    mine = (held, confirmed, cancelled, lapsed)
    assert owners(*mine, theirs, strangers, nobodys) == [user.pk] * 4 + [other.pk, None, None]
    for row in before:
        if row["id"] in {booking.pk for booking in mine}:
            row["user_id"] = user.pk
    assert list(rows.values()) == before
    assert list(slot.seats.values()) == seats
    assert BookingEvent.objects.count() == events
    assert adopt(user, KEY) == 0
    assert adopt(other, KEY) == 0
    assert owners(held) == [user.pk]
    assert_sound()


def test_browser_without_a_key_has_nothing(django_assert_num_queries: Any) -> None:
    booking = hold(SlotFactory(), quantity=1)
    user = UserFactory()
    with django_assert_num_queries(0):
        assert adopt(user, "") == 0
    assert owners(booking) == [None]


@pytest.mark.parametrize("size", [1, 4])
def test_adopt_costs_seven_queries(django_assert_num_queries: Any, size: int) -> None:
    slot = SlotFactory(places=5)
    user = UserFactory()
    for number in range(size):
        hold(slot, quantity=1, holder=GUEST, idempotency_key=f"key {number}")
    with django_assert_num_queries(7):
        adopt(user, KEY)
    with django_assert_num_queries(5):
        adopt(user, KEY)


def test_key_used_as_guest_and_as_user_stays_with_the_users_own() -> None:
    slot = SlotFactory(places=9)
    user = UserFactory()
    holder = Holder(user=user, session_key=KEY)
    as_guest = hold(slot, quantity=1, holder=GUEST, idempotency_key="twice")
    other = hold(slot, quantity=2, holder=GUEST, idempotency_key="once")
    as_user = hold(slot, quantity=1, holder=holder, idempotency_key="twice")
    assert adopt(user, KEY) == 2
    assert owners(as_guest, other, as_user) == [user.pk] * 3
    as_guest.refresh_from_db()
    assert (as_guest.idempotency_key, as_guest.request_digest) == (None, "")
    # The same requests again are the same bookings still.
    again = hold(slot, quantity=1, holder=holder, idempotency_key="twice")
    once = hold(slot, quantity=2, holder=holder, idempotency_key="once")
    assert (again.pk, again.is_new, once.pk, once.is_new) == (as_user.pk, False, other.pk, False)
    assert_sound()


def test_two_users_with_one_key_each_of_one_browser() -> None:
    """A shared computer: what the first took over stays the first's."""
    slot = SlotFactory(places=9)
    first, second = UserFactory(), UserFactory()
    one = hold(slot, quantity=1, holder=GUEST, idempotency_key="k")
    adopt(first, KEY)
    two = hold(slot, quantity=1, holder=GUEST, idempotency_key="k")
    adopt(second, KEY)
    assert owners(one, two) == [first.pk, second.pk]


# ── At once with others ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("turn", range(3))
def test_race_of_logins_confirms_cancels_extensions_and_sweeps(turn: int) -> None:
    slot = SlotFactory(places=40)
    user, other = UserFactory(), UserFactory()
    bookings = [
        hold(slot, quantity=1, holder=Holder(session_key=KEY), idempotency_key=f"k{n}")
        if n < 4
        else Booking.objects.get(pk=hold(slot, quantity=1).pk)
        for n in range(16)
    ]
    Booking.objects.filter(pk__in=[b.pk for b in bookings]).update(session_key=KEY)
    lapse(*bookings[12:])
    holder = Holder(user=user)
    results = race(
        *[lambda: adopt(user, KEY)] * 6,
        *[lambda: adopt(other, KEY)] * 2,
        *[lambda b=b: confirm(b, name="x") for b in bookings[:6]],
        *[lambda b=b: cancel(b) for b in bookings[4:9]],
        *[lambda b=b: extend(b) for b in bookings[6:14]],
        *[
            lambda n=n: hold(slot, quantity=1, holder=holder, idempotency_key=f"k{n}")
            for n in range(4)
        ],
        expire_due,
        expire_due,
    )
    failed = [r for r in results if isinstance(r, Exception)]
    allowed = (HoldExpired, lifecycle.WrongState, lifecycle.TooManyHolds, SweeperRunning)
    assert [error for error in failed if not isinstance(error, allowed)] == []
    adopted = set(owners(*bookings))
    assert adopted <= {user.pk, other.pk}
    assert len(adopted) == 1  # all by whoever came first
    assert sum(results[:8]) <= 12


def test_race_of_one_user_from_two_browsers_loses_nothing() -> None:
    slot = SlotFactory(places=40)
    user = UserFactory()
    for key in ("one", "two"):
        for _ in range(5):
            hold(slot, quantity=1, holder=Holder(session_key=key))
    results = race(*[lambda: adopt(user, "one")] * 4, *[lambda: adopt(user, "two")] * 4)
    assert (tally(results), sum(results)) == ({int: 8}, 10)
    assert Booking.objects.filter(user=user).count() == 10


def test_adopt_waits_for_a_confirm_under_way_and_both_hold() -> None:
    slot = SlotFactory()
    booking = hold(slot, quantity=1, holder=GUEST)
    user = UserFactory()
    confirming = start(lambda: confirm(booking, name="Ada"), pause_before='UPDATE "slots_seat"')
    confirming.wait_until_paused()
    adopting = start(lambda: adopt(user, KEY))
    adopting.wait_until_blocked()
    confirming.resume()
    assert isinstance(confirming.outcome(), Booking)
    assert adopting.outcome() == 1
    booking.refresh_from_db()
    assert (booking.status, booking.user, booking.name) == ("CONFIRMED", user, "Ada")
    assert_sound()


def test_confirm_waits_for_an_adopt_under_way_and_both_hold() -> None:
    booking = hold(SlotFactory(), quantity=1, holder=GUEST)
    user = UserFactory()
    adopting = start(lambda: adopt(user, KEY), pause_after=ADOPT, nth=2)
    adopting.wait_until_paused()
    confirming = start(lambda: confirm(booking, name="Ada"))
    confirming.wait_until_blocked()
    adopting.resume()
    assert adopting.outcome() == 1
    assert isinstance(confirming.outcome(), Booking)
    booking.refresh_from_db()
    assert (booking.status, booking.user) == ("CONFIRMED", user)


def test_hold_with_the_same_key_waits_for_an_adopt_under_way() -> None:
    """Without the holder's lock the two met in the unique constraint, and one failed."""
    slot = SlotFactory()
    user = UserFactory()
    holder = Holder(user=user)
    guest = hold(slot, quantity=1, holder=GUEST, idempotency_key="same key")
    adopting = start(lambda: adopt(user, KEY), pause_before=ADOPT)
    adopting.wait_until_paused()
    holding = start(lambda: hold(slot, quantity=1, holder=holder, idempotency_key="same key"))
    holding.wait_until_blocked()
    adopting.resume()
    assert adopting.outcome() == 1
    assert holding.outcome().pk == guest.pk  # the same request is the same booking
    assert_sound()


def test_sweeper_leaves_out_what_is_being_adopted_and_takes_it_next_time() -> None:
    booking = hold(SlotFactory(), quantity=1, holder=GUEST)
    lapse(booking)
    user = UserFactory()
    adopting = start(lambda: adopt(user, KEY), pause_before=ADOPT)
    adopting.wait_until_paused()
    assert expire_due() == (0, 0)
    adopting.resume()
    assert adopting.outcome() == 0
    assert expire_due() == (1, 1)


def test_adopt_killed_half_way_changes_nothing() -> None:
    booking = hold(SlotFactory(), quantity=1, holder=GUEST)
    user = UserFactory()
    assert kill_before(lambda: adopt(user, KEY), ADOPT, nth=2)
    assert owners(booking) == [None]
    assert adopt(user, KEY) == 1


# ── In the browser ────────────────────────────────────────────────────────────────────────────────


def book(client: Client) -> Booking:
    """A hold as a visitor makes it."""
    slot = SlotFactory()
    answer = client.post(f"/slots/{slot.pk}/hold", {"quantity": 1})
    return Booking.objects.get(pk=answer["Location"].split("/")[2])


def references(client: Client, path: str = "/bookings/") -> list[str]:
    html = client.get(path).content.decode()
    return re.findall(r'reference-small">(\w+)<', html)


def log_in(client: Client, way: str, address: str) -> None:
    """To the account of that address, which signing up makes; the others need one."""
    if way == "password":
        client.post("/accounts/login/", {"login": address, "password": PASSWORD})
    elif way == "code":
        client.post("/accounts/login/code/", {"email": address})
        code = code_in(queued_for(address)[0].body)
        client.post("/accounts/login/code/confirm/", {"code": code})
    elif way == "sign-up":
        client.post("/accounts/signup/", {"email": address, "password1": PASSWORD})
        code = code_in(queued_for(address)[0].body)
        client.post("/accounts/confirm-email/", {"code": code})
    else:
        client.post("/accounts/password/reset/", {"email": address})
        code = code_in(queued_for(address)[0].body)
        client.post("/accounts/password/reset/confirm/", {"code": code})
        client.post("/accounts/password/reset/complete/", {"password1": "lantern tide whistle"})


@pytest.mark.parametrize("way", ["password", "code", "sign-up", "reset"])
def test_whoever_signs_in_keeps_what_the_browser_booked(client: Client, way: str) -> None:
    address = f"{way}@example.org"
    booking = book(client)
    assert references(client) == [booking.reference]
    if way != "sign-up":
        UserFactory(email=address)
    log_in(client, way, address)
    html = client.get("/bookings/").content.decode()
    assert "1 booking made in this browser is in your account now." in html
    assert booking.reference in html
    booking.refresh_from_db()
    assert booking.user.email == address
    # In any other browser, too.
    other = Client()
    other.force_login(booking.user)
    assert references(other) == [booking.reference]


def test_next_person_at_the_browser_sees_nothing_of_the_last(client: Client) -> None:
    user, other = UserFactory(), UserFactory()
    before = book(client)
    log_in(client, "password", user.email)
    during = book(client)
    assert sorted(references(client)) == sorted([before.reference, during.reference])
    client.post("/accounts/logout/")
    assert browser.COOKIE not in {k for k, v in client.cookies.items() if v.value}
    assert references(client) == []
    for booking in (before, during):
        assert client.get(booking.get_absolute_url()).status_code == 404
        slot_page = client.get(booking.slot.get_absolute_url()).content.decode()
        assert "You are holding" not in slot_page
    # What the next one books is not the last one's, either.
    theirs = book(client)
    log_in(Client(), "password", user.email)
    returned = Client()
    returned.force_login(user)
    assert theirs.reference not in references(returned)
    log_in(client, "password", other.email)
    assert references(client) == [theirs.reference]


def test_starting_a_sign_up_over_forgets_no_booking(client: Client) -> None:
    booking = book(client)
    client.post("/accounts/signup/", {"email": "ada@example.org", "password1": PASSWORD})
    client.post("/accounts/logout/")
    assert references(client) == [booking.reference]


@pytest.mark.parametrize("error", [SlotBusy, OperationalError])
def test_busy_database_does_not_keep_anybody_from_logging_in(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
) -> None:
    booking = book(client)
    user = UserFactory()

    def fail(*args: object) -> int:
        raise error("busy")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(lifecycle, "adopt", fail)
        log_in(client, "password", user.email)
    assert "could not be taken over" in caplog.text
    assert user.email not in caplog.text
    assert references(client) == [booking.reference]  # in this browser still
    assert owners(booking) == [None]
    # The next login with this browser takes it over.
    client.cookies.pop(settings.SESSION_COOKIE_NAME)
    log_in(client, "password", user.email)
    assert owners(booking) == [user.pk]
