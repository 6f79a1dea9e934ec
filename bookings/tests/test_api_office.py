"""Bookings for staff through the API: everybody's, to find; and housekeeping."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from booking_site.tests.factories import SlotFactory, StaffFactory, UserFactory
from booking_site.tests.races import lapse
from bookings import api, lifecycle, refusals
from bookings.errors import SoldOut
from bookings.lifecycle import Holder
from bookings.models import Booking
from bookings.tests.programs import body_of, errors, get, post, refusal
from slots.models import Slot

pytestmark = pytest.mark.django_db


@pytest.fixture
def desk(client: Client) -> Client:
    """Somebody of the front desk."""
    client.force_login(StaffFactory())
    return client


@pytest.fixture
def hall() -> Slot:
    return SlotFactory(rows=1, seats_per_row=6)


def booked(slot: Slot, **details: Any) -> Booking:
    return lifecycle.confirm(lifecycle.hold(slot, quantity=1, **details))


def listed(desk: Client, **query: Any) -> list[str]:
    """The references on a page of the list, whose count must be of them all."""
    page = body_of(get(desk, "admin/bookings", **query))
    if not {"limit", "offset"} & query.keys():
        assert page["count"] == len(page["items"])
    return [booking["reference"] for booking in page["items"]]


# ── The list ──────────────────────────────────────────────────────────────────────────────────────


def test_list_has_everybodys_bookings_past_ones_too(desk: Client, hall: Slot) -> None:
    """As their holders see them, the newest first."""
    past = SlotFactory()
    bookings = [
        booked(past, name="Ada", email="ada@example.org"),
        lifecycle.hold(hall, quantity=2, holder=Holder(user=UserFactory())),
        lifecycle.cancel(lifecycle.hold(hall, quantity=1)),
    ]
    day = timedelta(days=9)
    Slot.objects.filter(pk=past.pk).update(
        starts_at=past.starts_at - day, ends_at=past.ends_at - day
    )
    page = body_of(get(desk, "admin/bookings"))
    assert page["count"] == 3
    assert page["items"] == [
        body_of(get(desk, f"bookings/{booking.pk}")) for booking in bookings[::-1]
    ]


def test_list_is_filtered_by_state_and_slot(desk: Client, hall: Slot) -> None:
    other = SlotFactory(places=3)
    confirmed, held = booked(hall), lifecycle.hold(hall, quantity=1)
    cancelled = lifecycle.cancel(booked(other))
    lapsed, swept = lifecycle.hold(other, quantity=1), lifecycle.hold(hall, quantity=1)
    lapse(swept)
    lifecycle.expire_due()
    lapse(lapsed)
    with pytest.raises(SoldOut):
        lifecycle.hold(other, quantity=4)
    refusals.flush()
    refused = Booking.objects.get(failure_reason="sold_out")
    found = {
        status: listed(desk, status=status)
        for status in ("PENDING", "CONFIRMED", "CANCELLED", "FAILED")
    }
    assert found == {
        "PENDING": [held.reference],
        "CONFIRMED": [confirmed.reference],
        "CANCELLED": [cancelled.reference],
        "FAILED": [refused.reference, swept.reference, lapsed.reference],
    }
    assert listed(desk, slot=hall.pk) == [swept.reference, held.reference, confirmed.reference]
    assert listed(desk, slot=hall.pk, status="FAILED") == [swept.reference]
    assert listed(desk, slot=hall.pk + 1000) == []
    assert refused.reference not in listed(desk)


def test_list_is_searched_as_at_the_desk(desk: Client, hall: Slot) -> None:
    """And the words are looked for among what the other filters leave."""
    ada = booked(hall, name="Ada Lovelace", email="ada@example.org", phone="+49 30 1234")
    user = UserFactory(name="Grace Hopper", email="grace@example.org")
    grace = lifecycle.hold(hall, quantity=1, holder=Holder(user=user))
    for text in (
        ada.reference,
        ada.reference.lower(),
        str(ada.pk),
        "ADA@example.org",
        "lovel",
        "301234",
    ):
        assert listed(desk, q=text) == [ada.reference], text
    assert listed(desk, q="grace@example.org") == listed(desk, q="hopper") == [grace.reference]
    assert listed(desk, q="hopper", status="CONFIRMED") == []
    assert listed(desk, q=" ") == [grace.reference, ada.reference]
    assert listed(desk, q="%") == listed(desk, q="nobody") == []


def test_list_comes_in_pages(desk: Client, hall: Slot) -> None:
    bookings = [lifecycle.hold(hall, quantity=1).reference for _ in range(3)][::-1]
    assert listed(desk, limit=2) == bookings[:2]
    assert listed(desk, limit=2, offset=2) == bookings[2:]
    assert listed(desk, offset=3) == []
    assert body_of(get(desk, "admin/bookings", limit=1, offset=9))["count"] == 3


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"status": "held"}, "status"),
        ({"status": ""}, "status"),
        ({"slot": "0"}, "slot"),
        ({"slot": "1_0"}, "slot"),
        ({"slot": str(2**63)}, "slot"),
        ({"q": "x" * 201}, "q"),
        ({"q": "a\0b"}, "q"),
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"offset": "-1"}, "offset"),
    ],
)
def test_list_refuses_nonsense(query: dict, field: str, desk: Client) -> None:
    assert list(errors(get(desk, "admin/bookings", **query))) == [field]


def test_office_is_for_staff_with_the_right(hall: Slot) -> None:
    lapse(lifecycle.hold(hall, quantity=1, email="ada@example.org"))
    visitors = {
        None: [(401, "unauthenticated")] * 2,
        UserFactory(): [(403, "forbidden")] * 2,
        UserFactory(is_staff=True): [(403, "forbidden")] * 2,
        UserFactory(is_superuser=True): [(403, "forbidden")] * 2,
        StaffFactory(group="Programme"): [200, (403, "forbidden")],
    }
    for user, wanted in visitors.items():
        client = Client()
        if user:
            client.force_login(user)
        answers = [get(client, "admin/bookings"), post(client, "admin/expire-holds")]
        found = [
            answer.status_code if answer.status_code == 200 else refusal(answer)
            for answer in answers
        ]
        assert found == wanted, user
    assert Booking.objects.get().status == "PENDING"


# ── What it costs ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [1, 3])
def test_queries_of_the_lists(number: int, desk: Client, hall: Slot) -> None:
    """Those to know who asks and may (four; of a user two), the count, which, and what of them."""
    user = UserFactory()
    for _ in range(number):
        lifecycle.hold(hall, quantity=2, holder=Holder(user=user))
    mine = Client()
    mine.force_login(user)

    def count(client: Client, path: str, **query: Any) -> int:
        with CaptureQueriesContext(connection) as queries:
            page = body_of(get(client, path, **query))
        assert [len(booking["seats"]) for booking in page["items"]] == [2] * number
        return len(queries)

    assert count(mine, "bookings") == 5
    assert count(desk, "admin/bookings") == 7
    assert count(desk, "admin/bookings", status="PENDING", slot=hall.pk) == 7
    assert count(desk, "admin/bookings", q=user.email) == 9  # one for accounts, one if any is found


@pytest.fixture
def crowd(hall: Slot) -> Slot:
    """Twenty thousand bookings of two seats each, every second one refused."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO bookings_booking (id, reference, slot_id, session_key, name, email, phone,"
            " quantity, labels, status, failure_reason, request_digest, created_at)"
            " SELECT gen_random_uuid(), lpad(n::text, 8, '0'), %s, '', '', 'n' || n, '', 2,"
            " ARRAY['R' || n, 'L' || n], 'FAILED',"
            " CASE WHEN n %% 2 = 0 THEN 'sold_out' ELSE 'expired' END, '',"
            " now() - n * interval '1 s' FROM generate_series(1, 20000) AS n",
            [hall.pk],
        )
        cursor.execute(
            "INSERT INTO slots_seat"
            ' (slot_id, label, section, "row", number, "column", accessible, blocked, block_reason)'
            " SELECT %s, side || n, '', n::text, 1, 1, false, false, ''"
            " FROM generate_series(1, 20000) AS n, unnest(ARRAY['R', 'L']) AS side",
            [hall.pk],
        )
        cursor.execute("ANALYZE bookings_booking")
        cursor.execute("ANALYZE slots_seat")
    return hall


def test_list_of_a_large_office_reads_a_page_and_no_more(desk: Client, crowd: Slot) -> None:
    """And of each booking there its seats, by the index of their labels; no table as a whole."""
    _, which, what = explain(lambda: listed(desk, limit=50, offset=1000))
    assert set(nodes(which, "Index Name")) == {"booking_latest"}
    assert set(nodes(what, "Index Name")) == {
        "bookings_booking_pkey",
        "seat_label_is_unique_in_slot",
    }
    for plan, rows in ((which, 1050), (what, 50)):
        assert "Seq Scan" not in nodes(plan, "Node Type")
        assert max(nodes(plan, "Actual Rows")) == rows


def explain(act: Callable[[], Any]) -> list[dict]:
    """The plans of what the act reads of bookings, as they were run."""
    plans = []

    def watch(execute: Callable, sql: str, params: Any, many: bool, context: dict) -> Any:
        if 'FROM "bookings_booking"' in sql:
            asked = f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}"
            found = connection.connection.execute(asked, params).fetchone()[0]
            plans.append((json.loads(found) if isinstance(found, str) else found)[0]["Plan"])
        return execute(sql, params, many, context)

    with connection.execute_wrapper(watch):
        act()
    return plans


def nodes(plan: dict, what: str) -> Iterator[Any]:
    if what in plan:
        yield plan[what]
    for child in plan.get("Plans", []):
        yield from nodes(child, what)


# ── expire-holds ──────────────────────────────────────────────────────────────────────────────────


def test_expire_holds_says_what_it_closed(desk: Client, hall: Slot) -> None:
    lapsed = [lifecycle.hold(hall, quantity=quantity) for quantity in (1, 3)]
    live = lifecycle.hold(hall, quantity=1)
    lapse(*lapsed)
    assert body_of(post(desk, "admin/expire-holds")) == {"expired": 2, "released": 4}
    assert body_of(post(desk, "admin/expire-holds")) == {"expired": 0, "released": 0}
    assert set(Booking.objects.filter(status="FAILED")) == set(lapsed)
    assert list(Booking.objects.filter(status="PENDING")) == [live]


def test_expire_holds_does_so_much_in_one_request(
    desk: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "HOLDS_A_BATCH", 2)
    monkeypatch.setattr(api, "BATCHES_A_REQUEST", 2)
    slot = SlotFactory(places=5)
    lapse(*[lifecycle.hold(slot, quantity=1) for _ in range(5)])
    assert body_of(post(desk, "admin/expire-holds")) == {"expired": 4, "released": 4}
    assert body_of(post(desk, "admin/expire-holds")) == {"expired": 1, "released": 1}


def test_expire_holds_leaves_it_to_a_sweeper_at_work(desk: Client, hall: Slot) -> None:
    lapse(lifecycle.hold(hall, quantity=1))
    sweeper = connection.copy()
    with sweeper.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [lifecycle.SWEEPER_LOCK])
    assert body_of(post(desk, "admin/expire-holds")) == {"expired": 0, "released": 0}
    sweeper.close()
    assert body_of(post(desk, "admin/expire-holds")) == {"expired": 1, "released": 1}
