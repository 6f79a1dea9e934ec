"""`check_invariants` finds every breach: each is planted here, behind the back of the guards."""

import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from typing import NamedTuple

import pytest
from django.core.management import CommandError, call_command
from django.db import InternalError, connection, transaction
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from accounts.models import User
from booking_site.tests.factories import AppointmentFactory, DoctorFactory, SlotFactory, UserFactory
from booking_site.tests.live_site import BASE_DIR, site_environment
from booking_site.tests.races import lapse
from bookings import invariants, lifecycle, refusals
from bookings.models import Booking, BookingEvent
from slots.models import Slot


class Scene(NamedTuple):
    """One booking in each state that the ordinary paths lead to."""

    user: User
    slot: Slot
    elsewhere: Slot
    called_off: Slot
    appointment: Slot
    next_appointment: Slot
    confirmed: Booking
    moved: Booking
    live: Booking
    extended: Booking
    lapsed: Booking
    robbed: Booking
    expired: Booking
    cancelled: Booking
    given_up: Booking
    dropped: Booking
    refused: Booking


def live_a_full_life() -> Scene:
    """Every transition there is, each by the lifecycle."""
    refusals._waiting.clear()  # those of other tests
    user = UserFactory()
    holder = lifecycle.Holder(user=user)
    slot = SlotFactory(places=21)
    elsewhere = SlotFactory(rows=2, seats_per_row=3)
    called_off = SlotFactory(places=3)
    doctor = DoctorFactory()
    appointment = AppointmentFactory(doctor=doctor)
    following = AppointmentFactory(doctor=doctor, starts_at=appointment.ends_at)

    def lapsed(booking: Booking) -> Booking:
        lapse(booking)
        return booking

    def hold(quantity: int = 2, key: str | None = None) -> Booking:
        return lifecycle.hold(slot, quantity=quantity, idempotency_key=key)

    lifecycle.confirm(lifecycle.hold(appointment, quantity=1, holder=holder))
    dropped = lifecycle.confirm(lifecycle.hold(called_off, quantity=2))
    lifecycle.cancel_slot(called_off, actor=user.email)
    expired = lapsed(hold())
    lifecycle.expire_due()
    everything = lifecycle.hold(elsewhere, quantity=6, holder=holder)
    with pytest.raises(lifecycle.SoldOut):
        lifecycle.hold(elsewhere, quantity=1)
    refusals.flush()
    lifecycle.cancel(everything)
    robbed = lapsed(lifecycle.hold(elsewhere, quantity=6))
    moved = lifecycle.confirm(hold(key="first guest's key"))
    moved = lifecycle.reschedule(moved, slot=elsewhere, quantity=3)
    scene = Scene(
        user=user,
        slot=slot,
        elsewhere=elsewhere,
        called_off=called_off,
        appointment=appointment,
        next_appointment=following,
        confirmed=lifecycle.confirm(hold(key="second guest's key"), actor=holder),
        moved=moved,
        live=lifecycle.hold(slot, quantity=2, holder=holder, idempotency_key="a user's key"),
        extended=lifecycle.extend(hold()),
        lapsed=lapsed(hold()),
        robbed=robbed,
        expired=expired,
        cancelled=lifecycle.cancel(lifecycle.confirm(hold())),
        given_up=lifecycle.cancel(hold()),
        dropped=dropped,
        refused=Booking.objects.get(failure_reason="sold_out"),
    )
    assert robbed.seats.count() == 3
    return scene


@pytest.fixture(scope="class")
def committed_scene(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Scene]:
    with django_db_blocker.unblock():
        yield live_a_full_life()
        call_command("flush", verbosity=0, interactive=False)


@pytest.fixture
def scene(committed_scene: Scene) -> Iterator[Scene]:
    """The same for all tests, each in a transaction that comes to nothing."""
    with transaction.atomic():
        execute("SET CONSTRAINTS ALL IMMEDIATE")  # with checks pending no table can be altered
        execute("SET LOCAL TIME ZONE 'UTC'")
        yield committed_scene
        transaction.set_rollback(True)


def execute(*statements: str, **values: object) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement, values)


def found() -> dict[str, list[str]]:
    return {breach.invariant.name: breach.examples for breach in invariants.check()[0]}


class Plant(NamedTuple):
    """SQL that breaks `invariant`; `row` is what is reported, with {scene} filled in.

    `besides`: what is broken with it, because a guard had to go or one fact contains the other.
    """

    invariant: str
    sql: list[str]
    row: str
    besides: frozenset[str] = frozenset()


TRIGGERS_OFF = "ALTER TABLE slots_seat DISABLE TRIGGER USER"
TRIGGERS_ON = "ALTER TABLE slots_seat ENABLE TRIGGER USER"
WITHOUT_CONSTRAINT = frozenset({"constraints_stand"})
WITHOUT_INDEX = frozenset({"indexes_stand"})


def drop(table: str, constraint: str) -> str:
    return f"ALTER TABLE {table} DROP CONSTRAINT {constraint}"


PLANTS = [
    Plant(
        "confirmed_owns_its_seats",
        ["UPDATE bookings_booking SET quantity = 3 WHERE id = '{confirmed.id}'"],
        "booking {confirmed.id} is confirmed for 3 and owns 2",
    ),
    Plant(
        "confirmed_owns_its_seats",
        [
            "UPDATE slots_seat SET booking_id = NULL WHERE booking_id = '{confirmed.id}'",
            "UPDATE bookings_booking SET labels = '{{}}' WHERE id = '{confirmed.id}'",
        ],
        "booking {confirmed.id} is confirmed for 2 and owns 0",
    ),
    Plant(
        "confirmed_seats_are_kept_for_good",
        [
            TRIGGERS_OFF,
            "UPDATE slots_seat SET held_until = '2001-01-01Z' WHERE booking_id = '{confirmed.id}'"
            " AND label = '{confirmed.labels[0]}'",
            TRIGGERS_ON,
        ],
        "seat {seat.id} of confirmed booking {confirmed.id} is only held until"
        " 2001-01-01 00:00:00+00",
    ),
    Plant(
        "live_hold_owns_its_seats",
        ["UPDATE bookings_booking SET quantity = 1 WHERE id = '{live.id}'"],
        "booking {live.id} holds 1 until {live_until} and owns 2",
    ),
    Plant(
        "lapsed_hold_owns_no_more_than_its_seats",
        ["UPDATE bookings_booking SET quantity = 1 WHERE id = '{lapsed.id}'"],
        "booking {lapsed.id} was a hold of 1 and owns 2",
    ),
    Plant(
        "held_seat_ends_with_its_hold",
        [
            "UPDATE slots_seat SET held_until = '2001-01-01Z' WHERE booking_id = '{live.id}'"
            " AND label = '{live.labels[0]}'"
        ],
        "seat {live_seat.id} is held until 2001-01-01 00:00:00+00 and its booking {live.id}"
        " until {live_until}",
    ),
    Plant(
        "held_seat_ends_with_its_hold",
        [
            "UPDATE slots_seat SET held_until = NULL WHERE booking_id = '{live.id}'"
            " AND label = '{live.labels[0]}'"
        ],
        "seat {live_seat.id} is held until for ever and its booking {live.id} until {live_until}",
    ),
    Plant(
        "ended_booking_owns_nothing",
        ["UPDATE slots_seat SET booking_id = '{cancelled.id}' WHERE id = {free.id}"],
        "seat {free.id} belongs to booking {cancelled.id}, which is CANCELLED",
    ),
    Plant(
        "ended_booking_owns_nothing",
        [
            "UPDATE slots_seat SET booking_id = '{expired.id}', held_until = '2001-01-01Z'"
            " WHERE id = {free.id}"
        ],
        "seat {free.id} belongs to booking {expired.id}, which is FAILED",
    ),
    Plant(
        "owner_exists",
        [
            TRIGGERS_OFF,
            "ALTER TABLE slots_seat DROP CONSTRAINT {seat_key}",
            "UPDATE slots_seat SET booking_id = '00000000-0000-0000-0000-000000000000'"
            " WHERE id = {free.id}",
            TRIGGERS_ON,
        ],
        "seat {free.id} belongs to 00000000-0000-0000-0000-000000000000, which is no booking",
        frozenset({"foreign_keys_stand"}),
    ),
    Plant(
        "seat_is_of_its_bookings_slot",
        [
            TRIGGERS_OFF,
            "UPDATE slots_seat SET slot_id = {elsewhere.id} WHERE id = {seat.id}",
            TRIGGERS_ON,
        ],
        "seat {seat.id} is of slot {elsewhere.id} and its booking {confirmed.id} of slot {slot.id}",
    ),
    Plant(
        "labels_are_those_of_the_seats",
        ["UPDATE bookings_booking SET labels = '{{X,Y}}' WHERE id = '{confirmed.id}'"],
        "booking {confirmed.id} says {{X,Y}} and owns {confirmed_labels}",
    ),
    Plant(
        "labels_are_those_of_the_seats",
        ["UPDATE bookings_booking SET labels = '{{}}' WHERE id = '{live.id}'"],
        "booking {live.id} says {{}} and owns {live_labels}",
    ),
    Plant(
        "held_seat_has_an_owner",
        [
            drop("slots_seat", "seat_held_has_a_booking"),
            "UPDATE slots_seat SET held_until = '2001-01-01Z' WHERE id = {free.id}",
        ],
        "seat {free.id} is held until 2001-01-01 00:00:00+00 by nobody",
        WITHOUT_CONSTRAINT,
    ),
    Plant(
        "blocked_seat_is_free",
        [
            drop("slots_seat", "seat_blocked_is_free"),
            "UPDATE slots_seat SET blocked = true WHERE id = {seat.id}",
        ],
        "seat {seat.id} is blocked and belongs to booking {confirmed.id}",
        WITHOUT_CONSTRAINT,
    ),
    Plant(
        "slot_is_not_oversold",
        ["UPDATE bookings_booking SET quantity = 18 WHERE id = '{confirmed.id}'"],
        "slot {slot.id} has 21 seats on sale and 22 sold and held",
        frozenset({"confirmed_owns_its_seats"}),
    ),
    Plant(
        "slot_is_not_oversold",
        [
            "UPDATE slots_seat SET blocked = true WHERE booking_id IS NULL AND slot_id = {slot.id}",
            "UPDATE bookings_booking SET quantity = 5 WHERE id = '{live.id}'",
        ],
        "slot {slot.id} has 8 seats on sale and 9 sold and held",
        frozenset({"live_hold_owns_its_seats"}),
    ),
    Plant(
        "cancelled_slot_has_no_confirmed_booking",
        ["UPDATE slots_slot SET cancelled_at = '2001-01-01Z' WHERE id = {elsewhere.id}"],
        "booking {moved.id} is confirmed and slot {elsewhere.id} was called off at"
        " 2001-01-01 00:00:00+00",
    ),
    Plant(
        "doctor_is_in_one_place",
        [
            drop("slots_slot", "slot_of_a_doctor_overlaps_no_other"),
            "UPDATE slots_slot SET starts_at = '2001-01-01 09:00Z', ends_at = '2001-01-01 10:00Z'"
            " WHERE id = {appointment.id}",
            "UPDATE slots_slot SET starts_at = '2001-01-01 09:59Z'"
            " WHERE id = {next_appointment.id}",
        ],
        "slot {next_appointment.id} of doctor {appointment.doctor_id} begins at"
        " 2001-01-01 09:59:00+00, before an earlier one ends at 2001-01-01 10:00:00+00",
        WITHOUT_CONSTRAINT,
    ),
    Plant(
        "label_names_one_seat",
        [
            drop("slots_seat", "seat_label_is_unique_in_slot"),
            "UPDATE slots_seat SET label = '{confirmed.labels[0]}' WHERE id = {free.id}",
        ],
        "slot {slot.id} has 2 seats called {confirmed.labels[0]}",
        WITHOUT_CONSTRAINT,
    ),
    Plant(
        "status_and_times_agree",
        ["UPDATE bookings_booking SET expires_at = NULL WHERE id = '{expired.id}'"],
        "booking {expired.id} is FAILED, reason “expired”, ends never, confirmed never,"
        " cancelled never",
    ),
    Plant(
        "status_and_times_agree",
        [
            drop("bookings_booking", "booking_cancelled_has_its_time"),
            "UPDATE bookings_booking SET cancelled_at = NULL, expires_at = NULL"
            " WHERE id = '{given_up.id}'",
        ],
        "booking {given_up.id} is CANCELLED, reason “”, ends never, confirmed never,"
        " cancelled never",
        WITHOUT_CONSTRAINT,
    ),
    Plant(
        "confirmed_before_it_lapsed",
        [
            "UPDATE bookings_booking SET confirmed_at = '2001-01-01Z', expires_at = '2001-01-01Z'"
            " WHERE id = '{confirmed.id}'"
        ],
        "booking {confirmed.id} lapsed at 2001-01-01 00:00:00+00 and was confirmed at"
        " 2001-01-01 00:00:00+00",
    ),
    Plant(
        "key_is_of_one_booking",
        [
            "DROP INDEX booking_key_is_unique_among_guests",
            "UPDATE bookings_booking SET idempotency_key = 'twice'"
            " WHERE id IN ('{confirmed.id}', '{moved.id}')",
        ],
        "key twice of a guest names 2 bookings",
        WITHOUT_INDEX,
    ),
    Plant(
        "key_is_of_one_booking",
        [
            "DROP INDEX booking_key_is_unique_for_user",
            "UPDATE bookings_booking SET idempotency_key = 'twice', user_id = {user.id}"
            " WHERE id IN ('{confirmed.id}', '{live.id}')",
        ],
        "key twice of user {user.id} names 2 bookings",
        WITHOUT_INDEX,
    ),
    Plant(
        "reference_is_of_one_booking",
        [
            drop("bookings_booking", "booking_reference_is_unique"),
            "UPDATE bookings_booking SET reference = 'TWICE'"
            " WHERE id IN ('{live.id}', '{moved.id}')",
        ],
        "reference TWICE names 2 bookings",
        WITHOUT_CONSTRAINT,
    ),
    Plant(
        "history_tells_each_change_once",
        ["DELETE FROM bookings_bookingevent WHERE booking_id = '{confirmed.id}'"],
        "booking {confirmed.id} is CONFIRMED, confirmed {confirmed_at}, and its history tells"
        " 0 confirm, 0 cancel, 0 expire",
    ),
    Plant(
        "history_tells_each_change_once",
        ["DELETE FROM bookings_bookingevent WHERE booking_id = '{given_up.id}'"],
        "booking {given_up.id} is CANCELLED, confirmed never, and its history tells"
        " 0 confirm, 0 cancel, 0 expire",
    ),
    Plant(
        "history_tells_each_change_once",
        ["DELETE FROM bookings_bookingevent WHERE booking_id = '{expired.id}'"],
        "booking {expired.id} is FAILED, confirmed never, and its history tells"
        " 0 confirm, 0 cancel, 0 expire",
    ),
    Plant(
        "history_tells_each_change_once",
        [
            "INSERT INTO bookings_bookingevent (booking_id, action, from_status, to_status, actor,"
            " reason, at) VALUES ('{refused.id}', 'expire', 'PENDING', 'FAILED', 'x', '', now())"
        ],
        "booking {refused.id} is FAILED, confirmed never, and its history tells"
        " 0 confirm, 0 cancel, 1 expire",
    ),
    Plant(
        "history_ends_in_the_status",
        [
            "UPDATE bookings_bookingevent SET to_status = 'CANCELLED'"
            " WHERE booking_id = '{moved.id}' AND action = 'reschedule'"
        ],
        "booking {moved.id} is CONFIRMED and its history ends in CANCELLED",
    ),
    Plant(
        "history_is_a_chain",
        [
            "UPDATE bookings_bookingevent SET from_status = 'CONFIRMED'"
            " WHERE booking_id = '{confirmed.id}'"
        ],
        "event {confirm_event.id} of booking {confirmed.id} (confirm) starts from CONFIRMED"
        " and the one before led to PENDING",
    ),
    Plant(
        "triggers_stand",
        ["DROP TRIGGER seat_guard ON slots_seat"],
        "trigger CREATE TRIGGER seat_guard BEFORE INSERT OR DELETE ON slots_seat"
        " FOR EACH ROW EXECUTE FUNCTION slots_seat_guard() is missing",
    ),
    Plant(
        "triggers_stand",
        [
            "DROP TRIGGER booking_guard ON bookings_booking",
            "CREATE TRIGGER booking_guard BEFORE UPDATE OF slot_id ON bookings_booking"
            " FOR EACH ROW EXECUTE FUNCTION bookings_booking_guard()",
        ],
        "trigger CREATE TRIGGER booking_guard BEFORE UPDATE OF status, slot_id ON bookings_booking"
        " FOR EACH ROW EXECUTE FUNCTION bookings_booking_guard() is missing",
    ),
    Plant(
        "triggers_stand",
        ["ALTER TABLE slots_seat DISABLE TRIGGER seat_guard_update"],
        "trigger seat_guard_update of slots_seat is switched off",
    ),
    Plant(
        "triggers_stand",
        ["ALTER TABLE bookings_booking ENABLE REPLICA TRIGGER booking_guard"],
        "trigger booking_guard of bookings_booking is switched off",
    ),
    Plant(
        "triggers_refuse",
        [
            "CREATE OR REPLACE FUNCTION bookings_booking_guard() RETURNS trigger LANGUAGE plpgsql"
            " AS $$ BEGIN RAISE integrity_constraint_violation USING"
            " CONSTRAINT = 'seat_and_booking_are_of_one_slot'; END $$"
        ],
        "bookings_booking_guard does not refuse booking_status_moves_forward",
    ),
    Plant(
        "constraints_stand",
        [drop("slots_slot", "slot_starts_before_it_ends")],
        "constraint slot_starts_before_it_ends of slots_slot is missing or not validated",
    ),
    Plant(
        "constraints_stand",
        [
            drop("slots_seat", "seat_blocked_is_free"),
            "ALTER TABLE slots_seat ADD CONSTRAINT seat_blocked_is_free"
            " CHECK (NOT blocked OR booking_id IS NULL) NOT VALID",
        ],
        "constraint seat_blocked_is_free of slots_seat is missing or not validated",
    ),
    Plant(
        "foreign_keys_stand",
        ["ALTER TABLE slots_seat DROP CONSTRAINT {seat_key}"],
        "foreign key slots_seat.booking_id is missing or not validated",
    ),
    Plant(
        "indexes_stand",
        ["DROP INDEX seat_next_free"],
        "index seat_next_free of slots_seat is missing or not valid",
    ),
    Plant(
        "indexes_stand",
        [
            "DROP INDEX booking_key_is_unique_for_user",
            "CREATE INDEX booking_key_is_unique_for_user ON bookings_booking (idempotency_key)",
        ],
        "index booking_key_is_unique_for_user of bookings_booking is missing or not valid",
    ),
]


@pytest.mark.django_db
class TestEachInvariant:
    def test_full_life_is_clean(self, scene: Scene) -> None:
        assert found() == {}
        assert invariants.check()[1] == (5, 32, Booking.objects.count())

    @pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.invariant)
    def test_breach_is_reported(self, scene: Scene, plant: Plant) -> None:
        def text(moment: str, pk: object) -> str:
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT {moment}::text FROM bookings_booking WHERE id = %s", [pk])
                return cursor.fetchone()[0]

        def foreign_key() -> str:
            with connection.cursor() as cursor:
                found = connection.introspection.get_constraints(cursor, "slots_seat")
            return next(
                name
                for name, about in found.items()
                if about["foreign_key"] and about["columns"] == ["booking_id"]
            )

        names = {
            **scene._asdict(),
            "seat": scene.confirmed.seats.get(label=scene.confirmed.labels[0]),
            "live_seat": scene.live.seats.get(label=scene.live.labels[0]),
            "confirmed_labels": f"{{{','.join(sorted(scene.confirmed.labels))}}}",
            "live_labels": f"{{{','.join(sorted(scene.live.labels))}}}",
            "free": scene.slot.seats.free().first(),
            "live_until": text("expires_at", scene.live.pk),
            "confirmed_at": text("confirmed_at", scene.confirmed.pk),
            "confirm_event": BookingEvent.objects.get(booking=scene.confirmed),
            "seat_key": foreign_key(),
        }
        execute(*(sql.format(**names) for sql in plant.sql))
        broken = found()
        assert broken.keys() == {plant.invariant} | plant.besides
        assert broken[plant.invariant] == [plant.row.format(**names)]

    def test_hold_that_lapsed_since_the_snapshot_is_no_breach(self, scene: Scene) -> None:
        # This transaction is the snapshot: for now() the hold would still be live.
        execute(
            "UPDATE bookings_booking SET expires_at = clock_timestamp(), quantity = 9"
            " WHERE id = %(id)s",
            "UPDATE slots_seat SET held_until = expires_at FROM bookings_booking AS b"
            " WHERE booking_id = b.id AND b.id = %(id)s",
            id=scene.live.pk,
        )
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT expires_at > now() FROM bookings_booking WHERE id = %s", [scene.live.pk]
            )
            assert cursor.fetchone() == (True,)
        assert found() == {}


def test_each_invariant_has_its_plant() -> None:
    assert {plant.invariant for plant in PLANTS} == {each.name for each in invariants.INVARIANTS}
    assert len({each.name for each in invariants.INVARIANTS}) == len(invariants.INVARIANTS)


def test_trigger_names_are_those_of_the_database(db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_get_triggerdef(oid, true) FROM pg_trigger WHERE NOT tgisinternal"
            " AND tgrelid = ANY (%s::regclass[])",
            [[model._meta.db_table for model in invariants.MODELS]],
        )
        assert {row[0] for row in cursor} == set(invariants.TRIGGERS)


@pytest.mark.django_db(transaction=True)
class TestSnapshot:
    def test_snapshot_cannot_write(self) -> None:
        slot = SlotFactory()
        with pytest.raises(InternalError, match="read-only transaction"), invariants.snapshot():
            Slot.objects.filter(pk=slot.pk).update(cancelled_at=timezone.now())
        Slot.objects.filter(pk=slot.pk).update(cancelled_at=None)  # the connection can again

    def test_snapshot_sees_one_moment(self) -> None:
        other = connection.copy()
        with invariants.snapshot():
            assert invariants.check()[1] == (0, 0, 0)
            with other.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO slots_show (name, description, venue, time_zone)"
                    " VALUES ('', '', '', '') RETURNING id"
                )
                cursor.execute(
                    "INSERT INTO slots_slot (show_id, starts_at, ends_at, seating, first_seat_id,"
                    " last_seat_id) VALUES (%s, now(), now() + interval '1 h', 'GENERAL', 0, 0)",
                    cursor.fetchone(),
                )
            assert invariants.check()[1] == (0, 0, 0)
        other.close()
        assert invariants.check()[1] == (1, 0, 0)

    def test_check_waits_for_no_row_and_locks_none(self) -> None:
        scene = live_a_full_life()
        other = connection.copy()
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("SELECT FROM slots_seat FOR UPDATE")
            cursor.execute("SELECT FROM bookings_booking FOR UPDATE")
        with invariants.snapshot():
            assert invariants.check()[0] == []
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT DISTINCT mode FROM pg_locks"
                    " WHERE pid = pg_backend_pid() AND locktype <> 'virtualxid'"
                )
                assert cursor.fetchall() == [("AccessShareLock",)]
        other.rollback()
        other.close()
        assert scene.live.seats.count() == 2


@pytest.mark.django_db(transaction=True)
class TestCommand:
    def test_clean(self) -> None:
        live_a_full_life()
        out = StringIO()
        call_command("check_invariants", stdout=out)
        number = len(invariants.INVARIANTS)
        assert out.getvalue() == f"{number} invariants hold for 5 slots, 32 seats, 13 bookings.\n"

    def test_many_breaches_are_bounded(self) -> None:
        slot = SlotFactory(places=12)
        for _ in range(12):
            lifecycle.confirm(lifecycle.hold(slot, quantity=1))
        BookingEvent.objects.all().delete()
        out = StringIO()
        with pytest.raises(CommandError) as failure:
            call_command("check_invariants", stdout=out)
        lines = out.getvalue().splitlines()
        assert lines[0] == (
            "history_tells_each_change_once: Whoever was confirmed, cancelled or expired has one"
            " event that says so; nobody else has. But:"
        )
        assert len(lines) == 12
        assert lines[11] == "  … and 2 more"
        assert str(failure.value) == (
            f"1 of {len(invariants.INVARIANTS)} invariants are broken"
            " (1 slot, 12 seats, 12 bookings)."
        )

    def test_exit_codes(self) -> None:
        def check(**variables: str) -> tuple[int, list[str], list[str]]:
            done = subprocess.run(
                [sys.executable, "manage.py", "check_invariants"],
                cwd=BASE_DIR,
                env=site_environment(**variables),
                capture_output=True,
                text=True,
                timeout=60,
            )
            return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()

        number = len(invariants.INVARIANTS)
        slot = SlotFactory(places=1)
        booking = lifecycle.hold(slot, quantity=1)
        clean = f"{number} invariants hold for 1 slot, 1 seat, 1 booking."
        assert check() == (0, [clean], [])

        Booking.objects.filter(pk=booking.pk).update(labels=["Z"])
        assert check() == (
            1,
            [
                "labels_are_those_of_the_seats: What a confirmed booking or a live hold calls its"
                " seats is what they are called. But:",
                f"  booking {booking.pk} says {{Z}} and owns {{1}}",
            ],
            [f"CommandError: 1 of {number} invariants are broken (1 slot, 1 seat, 1 booking)."],
        )

        code, out, err = check(
            DATABASE_URL="postgres://nobody@127.0.0.1:1/nowhere",
            DJANGO_SETTINGS_MODULE="booking_site.tests.settings",  # without a pool, which waits
        )
        assert (code, out, len(err)) == (1, [], 1)
        assert err[0].startswith("CommandError: Nothing could be checked. The database failed: ")
