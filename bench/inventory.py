"""What there is to book: loaded by a few large statements, and given back between runs."""

from dataclasses import dataclass

from django.db import connection

SPREAD = 5_000  # slots
PLACES = 25  # in each of them: more than any run can take
HOT = 100_000  # places in one slot
USUAL = 100  # places of other dates, which lists show
PAST = "1 day"  # how long ago at least the bookings that stay were made
FILLING = 5_000  # places of one slot that is sold to the last


@dataclass(frozen=True)
class Hall:
    """A slot with numbered seats, and which ids these have."""

    slot: int
    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class Inventory:
    spread: tuple[int, int]  # the first and last of their ids
    hot: int
    sold_out: int
    filling: int
    hall_5000: Hall
    hall_400: Hall


def load() -> Inventory:
    """Everything there is to book. Takes some seconds."""
    doctors = _add_doctors(40)
    _add_times(doctors, days=14, a_day=8)
    shows = _add_shows(60)
    _add_dates(shows[:30], days=20, apart="1 day", places=USUAL)
    slots = _add_dates(shows[30:50], days=SPREAD // 20, apart="3 hours", places=PLACES)
    hot = _add_dates(shows[50:51], days=1, apart="1 day", places=HOT)[0]
    sold_out = _add_dates(shows[51:52], days=1, apart="1 day", places=100)[0]
    filling = _add_dates(shows[54:55], days=1, apart="1 day", places=FILLING)[0]
    large = _add_hall(shows[52], rows=50, in_a_row=100)
    small = _add_hall(shows[53], rows=20, in_a_row=20)
    sell(sold_out, every=1)
    sell(small.slot, every=3)
    _tidy()
    return Inventory((slots[0], slots[-1]), hot, sold_out, filling, large, small)


def add_history(bookings: int = 1_000_000) -> None:
    """Old bookings of slots that are over: half of them sold seats, half are holds that lapsed."""
    show = _add_shows(1)
    slots = bookings // 2 // 1000
    _run(
        "INSERT INTO slots_slot (show_id, starts_at, ends_at, seating, first_seat_id, last_seat_id)"
        " SELECT %s, at, at + interval '2 hours', 'GENERAL', 0, 0 FROM"
        " generate_series(1, %s) n, LATERAL (SELECT now() - n * interval '6 hours'"
        " - interval '1 day' AS at) RETURNING id",
        [show[0], slots],
    )
    over = "SELECT id FROM slots_slot WHERE show_id = %s"
    _add_places(show, 1000)
    _run(
        "INSERT INTO bookings_booking (id, reference, slot_id, session_key, name, email, phone,"
        " quantity, labels, status, failure_reason, expires_at, request_digest, created_at)"
        " SELECT gen_random_uuid(), lpad(to_hex(n), 8, 'F'), slot.id, '', 'Old', 'old@example.org',"
        " '', 1, ARRAY['1'], 'FAILED', 'expired', starts_at - interval '1 hour', '',"
        " starts_at - interval '2 hours' FROM slots_slot slot, generate_series(1, 1000) place,"
        " LATERAL (SELECT slot.id * 1000 + place AS n) WHERE show_id = %s",
        show,
    )
    _run(
        "INSERT INTO bookings_bookingevent (booking_id, action, from_status, to_status, actor,"
        " reason) SELECT id, 'expire', 'PENDING', 'FAILED', 'system', '' FROM bookings_booking"
        f" WHERE slot_id IN ({over})",
        show,
    )
    sell(*[row[0] for row in _run(over, show)], every=1)
    _tidy()


def sell(*slots: int, every: int) -> None:
    """Every so many-th seat of the slots gets a confirmed booking, with its history."""
    _run(
        f"""
        WITH sold AS (
            SELECT s.id, label, slot_id, gen_random_uuid() AS booking,
                least(now(), starts_at) - interval '{PAST}' AS at
            FROM slots_seat s JOIN slots_slot slot ON slot.id = slot_id
            WHERE slot_id = ANY(%s) AND booking_id IS NULL AND s.id %% %s = 0
        ), booked AS (
            INSERT INTO bookings_booking (id, reference, slot_id, session_key, name, email, phone,
                quantity, labels, status, failure_reason, expires_at, request_digest, created_at,
                confirmed_at)
            SELECT booking, lpad(upper(to_hex(id)), 8, 'G'), slot_id, '', 'Grace Hopper',
                'grace@example.org', '', 1, ARRAY[label], 'CONFIRMED', '',
                at + interval '2 minutes', '', at, at
            FROM sold
        )
        INSERT INTO bookings_bookingevent
            (booking_id, action, from_status, to_status, actor, reason)
        SELECT booking, 'confirm', 'PENDING', 'CONFIRMED', 'guest', '' FROM sold
        """,
        [list(slots), every],
    )
    # In a statement of its own: the seat's trigger must see the booking.
    _run(
        "UPDATE slots_seat SET booking_id = b.id FROM bookings_booking b WHERE slots_seat.slot_id ="
        " ANY(%s) AND b.slot_id = slots_seat.slot_id AND b.labels[1] = slots_seat.label"
        " AND b.status = 'CONFIRMED' AND slots_seat.booking_id IS NULL",
        [list(slots)],
    )


def give_back() -> None:
    """Removes what a run has booked, so that the next one finds the seats free, and tidies up.

    As no site ever does: bookings themselves go. What stays is the inventory's own, of yesterday.
    """
    booked = "SELECT id FROM bookings_booking WHERE created_at > now() - interval '1 hour'"
    _run(
        f"UPDATE slots_seat SET booking_id = NULL, held_until = NULL WHERE booking_id IN ({booked})"
    )
    _run(f"DELETE FROM bookings_bookingevent WHERE booking_id IN ({booked})")
    _run("DELETE FROM bookings_booking WHERE created_at > now() - interval '1 hour'")
    _run("DELETE FROM mailer_message")
    _run("DELETE FROM cache")
    _tidy()


def seats_of(slot: int) -> tuple[int, int]:
    """The first and the last id of the slot's seats."""
    return _run("SELECT first_seat_id, last_seat_id FROM slots_slot WHERE id = %s", [slot])[0]


def are_owned(seats: list[int]) -> bool:
    """Whether each of these seats belongs to a booking."""
    free = "SELECT count(*) FROM slots_seat WHERE id = ANY(%s) AND booking_id IS NULL"
    return _run(free, [seats])[0][0] == 0


def count_bookings() -> int:
    """How many were made that `give_back` has not taken."""
    return _run(
        "SELECT count(*) FROM bookings_booking WHERE created_at > now() - interval '1 hour'"
    )[0][0]


def _tidy() -> None:
    for table in ("slots_slot", "slots_seat", "bookings_booking", "bookings_bookingevent", "cache"):
        _run(f"VACUUM (ANALYZE) {table}")
    _run("CHECKPOINT")


def _add_doctors(number: int) -> list[int]:
    return _ids(
        "INSERT INTO slots_doctor (name, specialization, bio, time_zone)"
        " SELECT 'Dr. Example ' || n, (ARRAY['Cardiology', 'Dermatology', 'General practice'])"
        "[1 + n %% 3], 'Sees patients of all ages.', 'Europe/Berlin'"
        " FROM generate_series(1, %s) n RETURNING id",
        [number],
    )


def _add_times(doctors: list[int], *, days: int, a_day: int) -> None:
    """Appointments of half an hour, one place each."""
    _run(
        "INSERT INTO slots_slot (doctor_id, starts_at, ends_at, seating, first_seat_id,"
        " last_seat_id) SELECT doctor, at, at + interval '30 minutes', 'GENERAL', 0, 0"
        " FROM unnest(%s::bigint[]) doctor, generate_series(1, %s) day,"
        " generate_series(1, %s) hour, LATERAL (SELECT date_trunc('hour', now())"
        " + day * interval '1 day' + hour * interval '1 hour' AS at)",
        [doctors, days, a_day],
    )
    _add_places(doctors, 1, of="doctor_id")


def _add_shows(number: int) -> list[int]:
    return _ids(
        "INSERT INTO slots_show (name, description, venue, time_zone)"
        " SELECT 'Show ' || n, 'An evening for all.', 'Grand hall', 'Europe/Berlin'"
        " FROM generate_series(1, %s) n RETURNING id",
        [number],
    )


def _add_dates(shows: list[int], *, days: int, apart: str, places: int) -> list[int]:
    """So many dates of each show, with unnumbered places; returns the ids of the slots."""
    slots = _ids(
        "INSERT INTO slots_slot (show_id, starts_at, ends_at, seating, first_seat_id, last_seat_id)"
        " SELECT show, at, at + interval '2 hours', 'GENERAL', 0, 0"
        " FROM unnest(%s::bigint[]) show, generate_series(1, %s) day, LATERAL (SELECT"
        " date_trunc('hour', now()) + interval '1 day' + day * %s::interval AS at) RETURNING id",
        [shows, days, apart],
    )
    _add_places(shows, places)
    return sorted(slots)


def _add_places(subjects: list[int], places: int, *, of: str = "show_id") -> None:
    _run(
        'INSERT INTO slots_seat (slot_id, label, section, "row", number, accessible, blocked,'
        " block_reason) SELECT slot.id, n::text, '', '', n, false, false, '' FROM slots_slot slot,"
        f" generate_series(1, %s) AS place (n) WHERE slot.{of} = ANY(%s) ORDER BY slot.id, place.n",
        [places, subjects],
    )
    _note_seats(subjects, of)


def _note_seats(subjects: list[int], of: str) -> None:
    _run(
        "UPDATE slots_slot SET first_seat_id = seats.first, last_seat_id = seats.last FROM"
        " (SELECT slot_id, min(id) AS first, max(id) AS last FROM slots_seat GROUP BY slot_id)"
        f" seats WHERE seats.slot_id = slots_slot.id AND slots_slot.{of} = ANY(%s)",
        [subjects],
    )


def _add_hall(show: int, *, rows: int, in_a_row: int) -> Hall:
    slot = _ids(
        "INSERT INTO slots_slot (show_id, starts_at, ends_at, seating, first_seat_id, last_seat_id)"
        " SELECT %s, at, at + interval '2 hours', 'NUMBERED', 0, 0"
        " FROM (SELECT now() + interval '30 days' AS at) times RETURNING id",
        [show],
    )[0]
    _run(
        'INSERT INTO slots_seat (slot_id, label, section, "row", number, "column", accessible,'
        " blocked, block_reason) SELECT %s, row || n, '', row, n, n, false, false, '' FROM"
        " generate_series(1, %s) position, generate_series(1, %s) AS seat (n), LATERAL (SELECT"
        " CASE WHEN position > 26 THEN 'A' ELSE '' END || chr(65 + (position - 1) %% 26) AS row"
        ") names ORDER BY position, seat.n",
        [slot, rows, in_a_row],
    )
    _note_seats([show], "show_id")
    return Hall(slot, *seats_of(slot))


def _ids(sql: str, values: list) -> list[int]:
    return [row[0] for row in _run(sql, values)]


def _run(sql: str, values: list | None = None) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchall() if cursor.description else []
