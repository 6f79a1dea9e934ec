"""What must always be true of the database, each fact with the query that finds where it is not.

`manage.py check_invariants` recounts them. Nothing here writes or locks a row. What the code
promises is counted again, and so is whether the database's own guards stand.

A hold counts as live while it ends after clock_timestamp(), which is later than the snapshot that
is looked at: no takeover seen in that snapshot can have been of a hold that still looks live.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.db.models import ForeignKey, Model, UniqueConstraint

from bookings.models import Booking, BookingEvent
from slots.models import Seat, Slot

SHOWN = 10  # breaches of one invariant; of the others only the number
LOCK_TIMEOUT = "4s"  # a migration may be holding a table
STATEMENT_TIMEOUT = "5min"
WORK_MEMORY = "64MB"  # with less, a million bookings are sorted on disk


class Invariant(NamedTuple):
    """A fact, and the SQL whose rows are its breaches: one text column, a row for each."""

    name: str
    fact: str
    breaches: str


class Breach(NamedTuple):
    """An invariant that does not hold: in `count` places, of which `examples` tells some."""

    invariant: Invariant
    count: int
    examples: list[str]


class Counted(NamedTuple):
    slots: int
    seats: int
    bookings: int


# Seats that each booking owns.
OWNED = """
    (SELECT booking_id, count(*) AS n, array_agg(label::text ORDER BY label) AS labels
     FROM slots_seat WHERE booking_id IS NOT NULL GROUP BY booking_id)
"""

INVARIANTS = [
    # ── Who owns what ─────────────────────────────────────────────────────────────────────────────
    Invariant(
        "confirmed_owns_its_seats",
        "Every confirmed booking owns exactly as many seats as it says.",
        f"""
        SELECT 'booking ' || b.id || ' is confirmed for ' || b.quantity || ' and owns '
            || coalesce(owned.n, 0)
        FROM bookings_booking b LEFT JOIN {OWNED} owned ON owned.booking_id = b.id
        WHERE b.status = 'CONFIRMED' AND coalesce(owned.n, 0) <> b.quantity
        """,
    ),
    Invariant(
        "confirmed_seats_are_kept_for_good",
        "No seat of a confirmed booking has an end.",
        """
        SELECT 'seat ' || s.id || ' of confirmed booking ' || b.id || ' is only held until '
            || s.held_until
        FROM slots_seat s JOIN bookings_booking b ON b.id = s.booking_id
        WHERE b.status = 'CONFIRMED' AND s.held_until IS NOT NULL
        """,
    ),
    Invariant(
        "live_hold_owns_its_seats",
        "Every live hold owns exactly as many seats as it says.",
        f"""
        SELECT 'booking ' || b.id || ' holds ' || b.quantity || ' until ' || b.expires_at
            || ' and owns ' || coalesce(owned.n, 0)
        FROM bookings_booking b LEFT JOIN {OWNED} owned ON owned.booking_id = b.id
        WHERE b.status = 'PENDING' AND coalesce(owned.n, 0) <> b.quantity
          AND b.expires_at > clock_timestamp()
        """,
    ),
    Invariant(
        "lapsed_hold_owns_no_more_than_its_seats",
        "A lapsed hold owns at most as many seats as it says: others may have taken some over.",
        f"""
        SELECT 'booking ' || b.id || ' was a hold of ' || b.quantity || ' and owns ' || owned.n
        FROM bookings_booking b JOIN {OWNED} owned ON owned.booking_id = b.id
        WHERE b.status = 'PENDING' AND owned.n > b.quantity
          AND b.expires_at <= clock_timestamp()
        """,
    ),
    Invariant(
        "held_seat_ends_with_its_hold",
        "Every seat of a hold, live or lapsed, is held until exactly the end of the hold.",
        """
        SELECT 'seat ' || s.id || ' is held until ' || coalesce(s.held_until::text, 'for ever')
            || ' and its booking ' || b.id || ' until ' || coalesce(b.expires_at::text, 'for ever')
        FROM slots_seat s JOIN bookings_booking b ON b.id = s.booking_id
        WHERE b.status = 'PENDING' AND s.held_until IS DISTINCT FROM b.expires_at
        """,
    ),
    Invariant(
        "ended_booking_owns_nothing",
        "A cancelled or failed booking owns no seat.",
        """
        SELECT 'seat ' || s.id || ' belongs to booking ' || b.id || ', which is ' || b.status
        FROM slots_seat s JOIN bookings_booking b ON b.id = s.booking_id
        WHERE b.status NOT IN ('PENDING', 'CONFIRMED')
        """,
    ),
    Invariant(
        "owner_exists",
        "Whoever owns a seat is a booking.",
        """
        SELECT 'seat ' || s.id || ' belongs to ' || s.booking_id || ', which is no booking'
        FROM slots_seat s LEFT JOIN bookings_booking b ON b.id = s.booking_id
        WHERE s.booking_id IS NOT NULL AND b.id IS NULL
        """,
    ),
    Invariant(
        "seat_is_of_its_bookings_slot",
        "A booking owns seats of its own slot only.",
        """
        SELECT 'seat ' || s.id || ' is of slot ' || s.slot_id || ' and its booking ' || b.id
            || ' of slot ' || b.slot_id
        FROM slots_seat s JOIN bookings_booking b ON b.id = s.booking_id
        WHERE s.slot_id <> b.slot_id
        """,
    ),
    Invariant(
        "labels_are_those_of_the_seats",
        "What a confirmed booking or a live hold calls its seats is what they are called.",
        f"""
        SELECT 'booking ' || b.id || ' says ' || b.labels::text || ' and owns '
            || owned.labels::text
        FROM bookings_booking b JOIN {OWNED} owned ON owned.booking_id = b.id
        WHERE (SELECT array_agg(label::text ORDER BY label) FROM unnest(b.labels) label)
              IS DISTINCT FROM owned.labels
          AND (b.status = 'CONFIRMED'
               OR b.status = 'PENDING' AND b.expires_at > clock_timestamp())
        """,
    ),
    Invariant(
        "held_seat_has_an_owner",
        "No seat is held by nobody.",
        """
        SELECT 'seat ' || id || ' is held until ' || held_until || ' by nobody'
        FROM slots_seat WHERE held_until IS NOT NULL AND booking_id IS NULL
        """,
    ),
    Invariant(
        "blocked_seat_is_free",
        "A seat that is held back is nobody's.",
        """
        SELECT 'seat ' || id || ' is blocked and belongs to booking ' || booking_id
        FROM slots_seat WHERE blocked AND booking_id IS NOT NULL
        """,
    ),
    # ── Slots ─────────────────────────────────────────────────────────────────────────────────────
    Invariant(
        "slot_is_not_oversold",
        "What is sold and held of a slot, as the bookings say, is no more than it has on sale.",
        """
        SELECT 'slot ' || sold.slot_id || ' has ' || coalesce(seats.n, 0) || ' seats on sale and '
            || sold.n || ' sold and held'
        FROM (SELECT slot_id, sum(quantity) AS n FROM bookings_booking
              WHERE status = 'CONFIRMED'
                 OR status = 'PENDING' AND expires_at > clock_timestamp()
              GROUP BY slot_id) sold
        LEFT JOIN (SELECT slot_id, count(*) AS n FROM slots_seat
                   WHERE NOT blocked GROUP BY slot_id) seats
               ON seats.slot_id = sold.slot_id
        WHERE sold.n > coalesce(seats.n, 0)
        """,
    ),
    Invariant(
        "cancelled_slot_has_no_confirmed_booking",
        "A slot that was called off has no confirmed booking (expire_holds finishes it if it has).",
        """
        SELECT 'booking ' || b.id || ' is confirmed and slot ' || slot.id || ' was called off at '
            || slot.cancelled_at
        FROM slots_slot slot JOIN bookings_booking b ON b.slot_id = slot.id
        WHERE slot.cancelled_at IS NOT NULL AND b.status = 'CONFIRMED'
        """,
    ),
    Invariant(
        "doctor_is_in_one_place",
        "No two slots of a doctor overlap, except with one that was called off.",
        """
        SELECT 'slot ' || id || ' of doctor ' || doctor_id || ' begins at ' || starts_at
            || ', before an earlier one ends at ' || busy_until
        FROM (SELECT id, doctor_id, starts_at, max(ends_at) OVER earlier AS busy_until
              FROM slots_slot WHERE doctor_id IS NOT NULL AND cancelled_at IS NULL
              WINDOW earlier AS (PARTITION BY doctor_id ORDER BY starts_at, id
                                 ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) slot
        WHERE starts_at < busy_until
        """,
    ),
    Invariant(
        "label_names_one_seat",
        "No two seats of a slot have the same label.",
        """
        SELECT 'slot ' || slot_id || ' has ' || count(*) || ' seats called ' || label
        FROM slots_seat GROUP BY slot_id, label HAVING count(*) > 1
        """,
    ),
    # ── Status and time ───────────────────────────────────────────────────────────────────────────
    Invariant(
        "status_and_times_agree",
        "A booking has the times and the reason that belong to its status, and no others.",
        """
        SELECT 'booking ' || id || ' is ' || status || ', reason “' || failure_reason
            || '”, ends ' || coalesce(expires_at::text, 'never')
            || ', confirmed ' || coalesce(confirmed_at::text, 'never')
            || ', cancelled ' || coalesce(cancelled_at::text, 'never')
        FROM bookings_booking
        WHERE (CASE status
            WHEN 'PENDING' THEN
                failure_reason = '' AND expires_at IS NOT NULL
                AND confirmed_at IS NULL AND cancelled_at IS NULL
            WHEN 'CONFIRMED' THEN
                failure_reason = '' AND confirmed_at IS NOT NULL AND cancelled_at IS NULL
            WHEN 'CANCELLED' THEN failure_reason = '' AND cancelled_at IS NOT NULL
            WHEN 'FAILED' THEN
                failure_reason IN ('expired', 'sold_out', 'seats_taken')
                AND confirmed_at IS NULL AND cancelled_at IS NULL
                AND (failure_reason <> 'expired' OR expires_at IS NOT NULL)
            ELSE false
        END) IS NOT TRUE
        """,
    ),
    Invariant(
        "confirmed_before_it_lapsed",
        "No booking was confirmed after its hold had lapsed.",
        """
        SELECT 'booking ' || id || ' lapsed at ' || expires_at || ' and was confirmed at '
            || confirmed_at
        FROM bookings_booking WHERE confirmed_at >= expires_at
        """,
    ),
    Invariant(
        "key_is_of_one_booking",
        "An idempotency key names one booking of a user, and one among all guests.",
        """
        SELECT 'key ' || idempotency_key || ' of ' || coalesce('user ' || user_id, 'a guest')
            || ' names ' || count(*) || ' bookings'
        FROM bookings_booking WHERE idempotency_key IS NOT NULL
        GROUP BY user_id, idempotency_key HAVING count(*) > 1
        """,
    ),
    Invariant(
        "reference_is_of_one_booking",
        "No two bookings have the same reference.",
        """
        SELECT 'reference ' || reference || ' names ' || count(*) || ' bookings'
        FROM bookings_booking GROUP BY reference HAVING count(*) > 1
        """,
    ),
    # ── History ───────────────────────────────────────────────────────────────────────────────────
    Invariant(
        "history_tells_each_change_once",
        "Whoever was confirmed, cancelled or expired has one event that says so; nobody else has.",
        """
        SELECT 'booking ' || b.id || ' is ' || b.status || ', confirmed '
            || coalesce(b.confirmed_at::text, 'never') || ', and its history tells '
            || coalesce(e.confirms, 0) || ' confirm, ' || coalesce(e.cancels, 0) || ' cancel, '
            || coalesce(e.expires, 0) || ' expire'
        FROM bookings_booking b LEFT JOIN (
            SELECT booking_id,
                   count(*) FILTER (WHERE action = 'confirm') AS confirms,
                   count(*) FILTER (WHERE action = 'cancel') AS cancels,
                   count(*) FILTER (WHERE action = 'expire') AS expires
            FROM bookings_bookingevent GROUP BY booking_id
        ) e ON e.booking_id = b.id
        WHERE coalesce(e.confirms, 0) <> (b.confirmed_at IS NOT NULL)::int
           OR coalesce(e.cancels, 0) <> (b.status = 'CANCELLED')::int
           OR coalesce(e.expires, 0) <> (b.failure_reason = 'expired')::int
        """,
    ),
    Invariant(
        "history_ends_in_the_status",
        "The last event of a booking leads to its status.",
        """
        SELECT 'booking ' || b.id || ' is ' || b.status || ' and its history ends in '
            || last.to_status
        FROM (SELECT max(id) AS id FROM bookings_bookingevent GROUP BY booking_id) latest
        JOIN bookings_bookingevent last ON last.id = latest.id
        JOIN bookings_booking b ON b.id = last.booking_id
        WHERE last.to_status <> b.status
        """,
    ),
    Invariant(
        "history_is_a_chain",
        "Each event of a booking starts from where the one before led, the first from PENDING.",
        """
        SELECT 'event ' || id || ' of booking ' || booking_id || ' (' || action || ') starts from '
            || from_status || ' and the one before led to ' || before
        FROM (SELECT id, booking_id, action, from_status,
                     lag(to_status, 1, 'PENDING') OVER (PARTITION BY booking_id ORDER BY id) before
              FROM bookings_bookingevent) event
        WHERE from_status <> before
        """,
    ),
    # ── The database's own guards ─────────────────────────────────────────────────────────────────
    Invariant(
        "triggers_stand",
        "Every trigger of the protocol is there, as it was written, and none is switched off.",
        """
        SELECT 'trigger ' || wanted || ' is missing'
        FROM unnest(%(triggers)s::text[]) AS wanted
        WHERE NOT EXISTS (SELECT FROM pg_trigger
                          WHERE tgrelid = ANY (%(tables)s::regclass[])
                            AND pg_get_triggerdef(oid, true) = wanted)
        UNION ALL
        SELECT 'trigger ' || tgname || ' of ' || tgrelid::regclass || ' is switched off'
        FROM pg_trigger
        WHERE tgrelid = ANY (%(tables)s::regclass[]) AND tgenabled NOT IN ('O', 'A')
        """,
    ),
    Invariant(
        "triggers_refuse",
        "The functions of the triggers know all their refusals.",
        """
        SELECT function || ' does not refuse ' || refusal
        FROM unnest(%(functions)s::text[], %(refusals)s::text[]) AS wanted (function, refusal)
        WHERE NOT EXISTS (SELECT FROM pg_proc WHERE oid = to_regproc(function)
                            AND position('''' || refusal || '''' IN prosrc) > 0)
        """,
    ),
    Invariant(
        "constraints_stand",
        "Every constraint of the models is there and holds for all rows.",
        """
        SELECT 'constraint ' || name || ' of ' || "table" || ' is missing or not validated'
        FROM unnest(%(constraint_tables)s::text[], %(constraints)s::text[])
             AS wanted ("table", name)
        WHERE NOT EXISTS (SELECT FROM pg_constraint
                          WHERE conrelid = "table"::regclass AND conname = name AND convalidated)
        """,
    ),
    Invariant(
        "foreign_keys_stand",
        "Every foreign key of the models is there and holds for all rows.",
        """
        SELECT 'foreign key ' || "table" || '.' || "column" || ' is missing or not validated'
        FROM unnest(%(key_tables)s::text[], %(key_columns)s::text[]) AS wanted ("table", "column")
        WHERE NOT EXISTS (SELECT FROM pg_constraint JOIN pg_attribute
                            ON attrelid = conrelid AND ARRAY[attnum] = conkey
                          WHERE conrelid = "table"::regclass AND attname = "column"
                            AND contype = 'f' AND convalidated)
        """,
    ),
    Invariant(
        "indexes_stand",
        "Every index of the models is there and valid; those that forbid doubles are unique.",
        """
        SELECT 'index ' || name || ' of ' || "table" || ' is missing or not valid'
        FROM unnest(%(index_tables)s::text[], %(indexes)s::text[], %(index_unique)s::bool[])
             AS wanted ("table", name, is_unique)
        WHERE NOT EXISTS (SELECT FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
                          WHERE indrelid = "table"::regclass AND relname = name
                            AND indisvalid AND indisready AND indisunique >= is_unique)
        """,
    ),
]

MODELS: list[type[Model]] = [Slot, Seat, Booking, BookingEvent]

# As pg_get_triggerdef() tells them.
TRIGGERS = [
    "CREATE TRIGGER seat_guard BEFORE INSERT OR DELETE ON slots_seat"
    " FOR EACH ROW EXECUTE FUNCTION slots_seat_guard()",
    "CREATE TRIGGER seat_guard_update BEFORE UPDATE OF booking_id, held_until, slot_id"
    " ON slots_seat FOR EACH ROW EXECUTE FUNCTION slots_seat_guard()",
    "CREATE TRIGGER booking_guard BEFORE UPDATE OF status, slot_id ON bookings_booking"
    " FOR EACH ROW EXECUTE FUNCTION bookings_booking_guard()",
]
REFUSALS = [
    ("slots_seat_guard", "seat_owned_is_not_deleted"),
    ("slots_seat_guard", "seat_owner_is_kept"),
    ("slots_seat_guard", "seat_booked_stays_booked"),
    ("slots_seat_guard", "seat_and_booking_are_of_one_slot"),
    ("bookings_booking_guard", "booking_status_moves_forward"),
    ("bookings_booking_guard", "seat_and_booking_are_of_one_slot"),
]


def check() -> tuple[list[Breach], Counted]:
    """Recounts every invariant; returns the breaches, and how much was looked at.

    One query for each invariant and one more, in the transaction of the caller (`snapshot()`).
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT count(*) FROM slots_slot), (SELECT count(*) FROM slots_seat),"
            " (SELECT count(*) FROM bookings_booking)"
        )
        counted = Counted(*cursor.fetchone())
        guards = _expected_guards()
        breaches = []
        for invariant in INVARIANTS:
            cursor.execute(
                "SELECT breach, count(*) OVER () "
                f"FROM ({invariant.breaches}) AS found (breach) ORDER BY breach LIMIT {SHOWN}",
                guards,
            )
            if rows := cursor.fetchall():
                breaches.append(Breach(invariant, rows[0][1], [breach for breach, _ in rows]))
    return breaches, counted


@contextmanager
def snapshot() -> Iterator[None]:
    """A transaction in which all queries see the same moment, and none can write.

    It locks no rows: nobody waits for it. It waits at most LOCK_TIMEOUT for a migration.
    """
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute(
            "SELECT set_config('lock_timeout', %s, true),"
            " set_config('statement_timeout', %s, true), set_config('work_mem', %s, true)",
            [LOCK_TIMEOUT, STATEMENT_TIMEOUT, WORK_MEMORY],
        )
        yield


def _expected_guards() -> dict[str, list[Any]]:
    """What the models and migrations have put into the database, as parameters of the queries."""
    constraints, indexes, keys = [], [], []
    for model in MODELS:
        table = model._meta.db_table
        for index in model._meta.indexes:
            indexes.append((table, index.name, False))
        for constraint in model._meta.constraints:
            if isinstance(constraint, UniqueConstraint) and constraint.condition:
                indexes.append((table, constraint.name, True))  # that is all PostgreSQL has of it
            else:
                constraints.append((table, constraint.name))
        for field in model._meta.fields:
            if isinstance(field, ForeignKey):
                keys.append((table, field.column))
    return {
        "tables": [model._meta.db_table for model in MODELS],
        "triggers": TRIGGERS,
        "functions": [function for function, _ in REFUSALS],
        "refusals": [refusal for _, refusal in REFUSALS],
        "constraint_tables": [table for table, _ in constraints],
        "constraints": [name for _, name in constraints],
        "key_tables": [table for table, _ in keys],
        "key_columns": [column for _, column in keys],
        "index_tables": [table for table, _, _ in indexes],
        "indexes": [name for _, name, _ in indexes],
        "index_unique": [is_unique for _, _, is_unique in indexes],
    }
