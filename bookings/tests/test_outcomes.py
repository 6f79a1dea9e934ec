"""What pages are told when they ask what became of a request, and who is told."""

import pytest
from django.test import Client
from django.urls import reverse

from booking_site.tests.factories import SlotFactory, UserFactory
from booking_site.tests.races import lapse, start
from bookings import browser, lifecycle
from bookings.lifecycle import Holder
from bookings.models import Booking
from slots.models import Slot

pytestmark = pytest.mark.django_db(transaction=True)

KEY = "a-key-of-sixteen-characters-or-more"
UNDER_WAY = {"outcome": "under_way"}


@pytest.fixture
def slot() -> Slot:
    return SlotFactory(places=4)


def done(booking: Booking) -> dict[str, str]:
    return {"outcome": "done", "url": booking.get_absolute_url()}


def of_hold(client: Client, key: str = KEY, **asked: object) -> dict[str, str]:
    return client.get("/bookings/outcome", {"key": key} | asked).json()


def of_change(client: Client, booking: Booking, to: str, **more: object) -> dict[str, str]:
    query = {"to": to} | more
    return client.get(reverse("outcome", args=[booking.pk]), query).json()


def test_hold_is_told_by_its_key(client: Client, slot: Slot) -> None:
    booking = lifecycle.hold(slot, quantity=1, idempotency_key=KEY)
    assert of_hold(client) == done(booking)
    lifecycle.confirm(booking, name="Ada", email="ada@example.org")
    assert of_hold(client) == done(booking)


def test_hold_that_is_over_is_told_to_be_none(client: Client, slot: Slot) -> None:
    booking = lifecycle.hold(slot, quantity=1, idempotency_key=KEY)
    lapse(booking)
    assert of_hold(client)["outcome"] == "none"
    lifecycle.expire_due()
    assert of_hold(client)["outcome"] == "none"


def post_hold(client: Client, slot: Slot, quantity: int) -> Booking:
    form = {"quantity": quantity, "key": KEY}
    response = client.post(reverse("hold", args=[slot.pk]), form)
    return Booking.objects.get(pk=response["Location"].split("/")[2])


def test_form_that_was_used_for_something_else_is_told_of_what_it_asked(
    client: Client, slot: Slot
) -> None:
    first = post_hold(client, slot, 1)
    assert of_hold(client, slot=slot.pk, quantity=1) == done(first)
    assert of_hold(client, slot=slot.pk, quantity=2)["outcome"] == "none"
    second = post_hold(client, slot, 2)
    assert of_hold(client, slot=slot.pk, quantity=2) == done(second)
    assert of_hold(client, slot=slot.pk, quantity=1) == done(first)


@pytest.mark.parametrize("times", [1, 3])
def test_form_whose_booking_is_over_is_told_of_the_new_one(
    client: Client, slot: Slot, times: int
) -> None:
    for _ in range(times):
        before = post_hold(client, slot, 1)
        lifecycle.cancel(before)
        assert of_hold(client, slot=slot.pk, quantity=1)["outcome"] == "none"
    booking = post_hold(client, slot, 1)
    assert booking != before
    assert of_hold(client, slot=slot.pk, quantity=1) == done(booking)
    assert of_hold(client) == done(booking)
    assert post_hold(client, slot, 1) == booking


def test_form_tells_of_named_seats_in_any_order(client: Client) -> None:
    hall = SlotFactory(rows=1, seats_per_row=4)
    first, *others = hall.seats.values_list("pk", flat=True)
    for seats in ([first], others):
        form = {"seat": seats, "key": KEY}
        client.post(reverse("hold", args=[hall.pk]), form)
        booking = Booking.objects.get(quantity=len(seats))
        assert of_hold(client, slot=hall.pk, seat=seats[::-1]) == done(booking)


@pytest.mark.parametrize("query", [{"slot": "x"}, {"quantity": "²"}, {"seat": ["1", "-"]}])
def test_question_that_makes_no_sense_is_answered_by_its_key(
    client: Client, slot: Slot, query: dict[str, object]
) -> None:
    booking = post_hold(client, slot, 1)
    assert of_hold(client, **({"slot": slot.pk, "quantity": 1} | query)) == done(booking)


@pytest.mark.parametrize("key", ["", "another key of sixteen", "x" * 201, "\0", "ü" * 20])
def test_key_of_no_hold_is_told_so(client: Client, slot: Slot, key: str) -> None:
    lifecycle.hold(slot, quantity=1, idempotency_key=KEY)
    lifecycle.hold(slot, quantity=1)
    answer = of_hold(client, key)
    assert answer["outcome"] == "none"
    assert answer["says"].startswith("Nothing is held for you.")


def test_hold_of_a_user_is_told_to_that_user_alone(client: Client, slot: Slot) -> None:
    user, other = UserFactory(), UserFactory()
    booking = lifecycle.hold(slot, quantity=1, idempotency_key=KEY, holder=Holder(user=user))
    assert of_hold(client)["outcome"] == "none"
    client.force_login(other)
    assert of_hold(client)["outcome"] == "none"
    client.force_login(user)
    assert of_hold(client) == done(booking)


@pytest.mark.parametrize("as_user", [True, False])
def test_hold_of_ones_own_that_is_under_way_is_not_told_to_be_none(
    client: Client, slot: Slot, as_user: bool
) -> None:
    if as_user:
        holder = Holder(user=UserFactory())
        client.force_login(holder.user)
    else:
        client.get(slot.get_absolute_url())
        request = client.get(slot.get_absolute_url()).wsgi_request
        holder = browser.holder_of(request)
        assert holder.session_key

    def hold() -> Booking:
        return lifecycle.hold(slot, quantity=1, idempotency_key=KEY, holder=holder)

    before, after = (
        start(hold, pause_before='INSERT INTO "bookings_booking"'),
        start(
            lambda: lifecycle.hold(slot, quantity=1, holder=Holder(session_key="another")),
            pause_before='INSERT INTO "bookings_booking"',
        ),
    )
    before.wait_until_paused()
    after.wait_until_paused()
    assert of_hold(client) == UNDER_WAY
    booking = before.resume().outcome()
    assert of_hold(client) == done(booking)
    assert of_hold(client, "another key of sixteen")["outcome"] == "none"
    after.resume().outcome()


def test_change_is_told_by_what_the_booking_is(client: Client, slot: Slot) -> None:
    booking = lifecycle.hold(slot, quantity=1)
    other = SlotFactory(show=slot.show, starts_at=slot.ends_at, places=2)
    assert of_change(client, booking, "confirm")["outcome"] == "none"
    assert of_change(client, booking, "extend")["outcome"] == "none"
    assert of_change(client, booking, "cancel")["outcome"] == "none"
    lifecycle.confirm(booking, name="Ada", email="ada@example.org")
    assert of_change(client, booking, "confirm") == done(booking)
    assert of_change(client, booking, "extend") == done(booking)
    assert of_change(client, booking, "cancel")["outcome"] == "none"
    assert of_change(client, booking, "move", slot=other.pk)["outcome"] == "none"
    lifecycle.reschedule(booking, slot=other, quantity=1)
    assert of_change(client, booking, "move", slot=other.pk) == done(booking)
    lifecycle.cancel(booking)
    for to in ("confirm", "extend", "cancel", "move", "nonsense"):
        assert of_change(client, booking, to) == done(booking)


@pytest.mark.parametrize("statement", ['FROM "slots_seat"', 'UPDATE "slots_seat"'])
def test_change_that_is_under_way_is_not_told_to_be_none(
    client: Client, slot: Slot, statement: str
) -> None:
    booking = lifecycle.hold(slot, quantity=1)
    running = start(
        lambda: lifecycle.confirm(booking, name="Ada", email="ada@example.org"),
        pause_before=statement,
    )
    running.wait_until_paused()
    assert of_change(client, booking, "confirm") == UNDER_WAY
    running.resume().outcome()
    assert of_change(client, booking, "confirm") == done(booking)


def test_booking_of_a_user_is_told_to_nobody_else(client: Client, slot: Slot) -> None:
    booking = lifecycle.hold(slot, quantity=1, holder=Holder(user=UserFactory()))
    assert client.get(reverse("outcome", args=[booking.pk])).status_code == 404
    client.force_login(UserFactory())
    assert client.get(reverse("outcome", args=[booking.pk])).status_code == 404


def test_asking_costs_two_queries_and_three_and_changes_nothing(
    client: Client, slot: Slot, django_assert_num_queries: object
) -> None:
    booking = lifecycle.hold(slot, quantity=1, idempotency_key=KEY)
    before = list(Booking.objects.values())
    with django_assert_num_queries(2):
        of_hold(client)
    with django_assert_num_queries(4):  # BEGIN and COMMIT
        of_change(client, booking, "confirm")
    assert list(Booking.objects.values()) == before
