"""A million old bookings, and what all else then costs. Run by `make drill`."""

import os
import statistics
import time
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client

from booking_site.tests.factories import SlotFactory, UserFactory
from booking_site.tests.plans import run
from bookings import lifecycle
from bookings.models import Booking
from slots.models import Slot

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(900)]

BOOKINGS = int(os.environ.get("DRILL_BOOKINGS", "1000000"))
HALL = 500  # seats of each show of the past
LAPSED = BOOKINGS // 20  # holds that housekeeping has missed
TIMES = 60  # bookings that are timed
TABLES = ("slots_slot", "slots_seat", "bookings_booking", "bookings_bookingevent")


def tell(what: str, figure: str) -> None:
    print(f"    {what:<58} {figure:>14}", flush=True)


def timed(act: Callable[[], Any]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) * 1000


def make_history(slot: Slot) -> None:
    """Confirmed bookings of one seat each in shows of the past; and an account that has 5,000."""
    user = UserFactory(email="regular@example.org")
    run(
        *(f"ALTER TABLE {table} DISABLE TRIGGER USER" for table in TABLES),
        f"""
        WITH past AS (
            INSERT INTO slots_slot
                (show_id, starts_at, ends_at, seating, first_seat_id, last_seat_id)
            SELECT {slot.show_id}, now() - n * interval '1 h', now() - n * interval '1 h' + '1 h',
                   'GENERAL', 0, 0
            FROM generate_series(1, {BOOKINGS // HALL}) AS n
            RETURNING id, starts_at
        )
        INSERT INTO bookings_booking
            (id, reference, session_key, name, email, phone, quantity, labels, status,
             failure_reason, expires_at, request_digest, created_at, confirmed_at, slot_id, user_id)
        SELECT gen_random_uuid(),
               lpad(upper(to_hex(row_number() OVER ())), 8, '0'), '',
               'Patient ' || n, 'patient' || n || '@example.org', '', 1, ARRAY[n::text],
               'CONFIRMED', '', starts_at - interval '1 d', '', starts_at - interval '1 d 2 min',
               starts_at - interval '1 d 1 min', past.id,
               CASE WHEN n <= 5000 * {HALL} / {BOOKINGS}.0 THEN {user.pk} END
        FROM past, generate_series(1, {HALL}) AS n
        """,
        f"""
        INSERT INTO slots_seat
            (slot_id, booking_id, label, section, "row", accessible, blocked, block_reason)
        SELECT slot_id, id, labels[1], '', '', false, false, '' FROM bookings_booking
        WHERE slot_id <> {slot.pk}
        """,
        f"""
        INSERT INTO bookings_bookingevent
            (booking_id, action, from_status, to_status, actor, reason, at)
        SELECT id, 'confirm', 'PENDING', 'CONFIRMED', 'guest', '', confirmed_at
        FROM bookings_booking WHERE slot_id <> {slot.pk}
        """,
        *(f"ALTER TABLE {table} ENABLE TRIGGER USER" for table in TABLES),
        *(f"VACUUM ANALYZE {table}" for table in TABLES),
    )


def make_lapsed(slot: Slot) -> None:
    """Holds of one place each that lapsed a minute ago."""
    run(
        f"""
        INSERT INTO bookings_booking
            (id, reference, session_key, name, email, phone, quantity, labels, status,
             failure_reason, expires_at, request_digest, created_at, slot_id)
        SELECT lpad(id::text, 32, '0')::uuid, 'Z' || lpad(upper(to_hex(id)), 7, '0'), '', '', '',
               '', 1, ARRAY[label], 'PENDING', '', now() - interval '1 min', '',
               now() - interval '3 min', slot_id
        FROM slots_seat WHERE slot_id = {slot.pk} AND booking_id IS NULL LIMIT {LAPSED}
        """,
        f"""
        UPDATE slots_seat SET booking_id = lpad(id::text, 32, '0')::uuid,
                              held_until = now() - interval '1 min'
        WHERE lpad(id::text, 32, '0')::uuid IN (
            SELECT id FROM bookings_booking WHERE slot_id = {slot.pk}
        )
        """,
    )


def book(slot: Slot) -> dict[str, float]:
    """Medians in milliseconds, also of a transaction that no history can slow down: what else the
    machine does slows it, too.
    """
    run("CREATE TABLE IF NOT EXISTS drill (n int)")
    times: dict[str, list[float]] = {"hold": [], "confirm": [], "plain": []}
    for n in range(TIMES):
        held: list[Booking] = []
        who = {"name": "Ada", "email": f"drill{n}@example.org"}
        for what, act in {
            "plain": commit_something,
            "hold": lambda held=held: held.append(lifecycle.hold(slot, quantity=1)),
            "confirm": lambda held=held, who=who: lifecycle.confirm(held[0], **who),
        }.items():
            times[what].append(timed(act))
    run("DROP TABLE drill")
    return {what: statistics.median(each) for what, each in times.items()}


def commit_something() -> None:
    with transaction.atomic():
        run(*["SELECT 1"] * 4, "INSERT INTO drill VALUES (1)")


def test_million_old_bookings_slow_nothing_down(client: Client) -> None:
    slot = SlotFactory(places=LAPSED + 1000)
    book(slot)  # to warm up
    before = book(slot)
    seconds = timed(lambda: make_history(slot)) / 1000
    tell(f"{Booking.objects.count():,} bookings made", f"{seconds:,.0f} s")
    after = book(slot)
    slower = {}
    for what in ("plain", "hold", "confirm"):
        tell(f"{what}, before and with them", f"{before[what]:.1f}  {after[what]:.1f} ms")
        slower[what] = after[what] / after["plain"] / (before[what] / before["plain"])
    assert max(slower.values()) < 2, slower

    desk = UserFactory(is_staff=True, is_superuser=True)
    regular = UserFactory._meta.model.objects.get(email="regular@example.org")
    lists = {
        "/": None,
        f"/shows/{slot.show_id}/": None,
        "/api/v1/slots?limit=100": None,
        "/bookings/past/": regular,
        "/api/v1/bookings?limit=100": regular,
        "/admin/bookings/booking/": desk,
        "/admin/bookings/booking/?q=patient77@example.org": desk,
        "/api/v1/admin/bookings?limit=100": desk,
    }
    slow = []
    for path, user in lists.items():
        client.logout()
        if user:
            client.force_login(user)
        assert client.get(path).status_code == 200
        took = statistics.median(timed(lambda path=path: client.get(path)) for _ in range(5))
        tell(f"GET {path}", f"{took:,.0f} ms")
        slow += [path] if took > 2000 else []
    assert slow == []

    make_lapsed(slot)
    told = StringIO()
    took = timed(lambda: call_command("expire_holds", stdout=told))
    tell(f"expire_holds, {told.getvalue().strip()}", f"{took / 1000:,.1f} s")
    assert told.getvalue() == f"expired {LAPSED} holds, released {LAPSED} seats\n"
    assert took < 120_000

    told = StringIO()
    took = timed(lambda: call_command("check_invariants", stdout=told))
    tell("check_invariants", f"{took / 1000:,.1f} s")
    assert " invariants hold for " in told.getvalue()
    assert took < 120_000
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_size_pretty(pg_database_size(current_database()))")
        tell("database", cursor.fetchone()[0])
