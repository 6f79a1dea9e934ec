"""Lists of slots use their indexes, however many slots there were and will be."""

from datetime import timedelta
from urllib.parse import urlencode

import pytest
from django.test import Client
from django.utils import timezone

from booking_site.tests.factories import DoctorFactory, ShowFactory, SlotFactory
from booking_site.tests.plans import explain, run

pytestmark = pytest.mark.django_db

PAST, COMING = 30_000, 10_000  # slots; those of the last year and the coming ones with one place
DOCTORS = 40  # who share the coming ones
HALL = 2_000  # seats of the next slot

START = {"slot_by_start"}
OF_DOCTOR = {"slot_by_doctor"}
OF_SHOW = {"slot_of_a_show_starts_when_no_other_does"}  # this show has one only: any will do
ROOM = {"seat_next_free", "seat_lapsed"}
PAGE = {"seat_label_is_unique_in_slot", *ROOM}
LATER = {"slots_slot_pkey"}  # the slots of another page than the first, by their ids
# PostgreSQL reads few doctors and shows as it likes.
SUBJECTS = {"slots_doctor_pkey", "slots_show_pkey", "slots_doctor!", "slots_show!"}


@pytest.fixture
def years() -> dict[str, int]:
    """Past slots, and coming ones of which a third has no seat left; some ids to ask for."""
    show, doctor = ShowFactory(), DoctorFactory.create_batch(DOCTORS)[0]
    columns = "starts_at, ends_at, seating, first_seat_id, last_seat_id"
    run(
        # What tests before rolled back is still in the file, and its gaps would be filled.
        "TRUNCATE slots_slot CASCADE",
        f"""
        INSERT INTO slots_slot (show_id, {columns})
        SELECT {show.pk}, now() - n * interval '1 h', now() - n * interval '1 h' + '20 min',
               'GENERAL', 0, 0
        FROM generate_series({PAST}, 1, -1) AS n
        """,
        f"""
        INSERT INTO slots_slot (doctor_id, {columns})
        SELECT {doctor.pk} + n % {DOCTORS}, now() + n * interval '20 min',
               now() + (n + 1) * interval '20 min', 'GENERAL', 0, 0
        FROM generate_series(1, {COMING}) AS n
        """,
        """
        INSERT INTO slots_seat
            (slot_id, label, section, "row", accessible, blocked, block_reason)
        SELECT id, '1', '', '', false, id % 3 = 0, '' FROM slots_slot
        WHERE starts_at > now() - interval '1 year'
        """,
    )
    hall = SlotFactory(places=HALL, starts_at=timezone.now() + timedelta(minutes=1))
    run("ANALYZE slots_slot", "ANALYZE slots_seat")
    return {"doctor": doctor.pk, "show": hall.show_id}


def test_list_of_slots_uses_indexes_and_counts_the_seats_of_one_page(
    client: Client, years: dict[str, int]
) -> None:
    start, end = (timezone.now() + timedelta(days=n) for n in (9, 10))
    day = {"from": start.isoformat(), "to": end.isoformat()}
    doctor, show = {"doctor": years["doctor"]}, {"show": years["show"]}
    free = {"available": "true"}
    for query, finding, most in [
        ({}, START, 3_000),
        ({"offset": 9_000}, START | LATER, 3_000),
        (day, START, 3_000),
        (free, START | ROOM, 3_000),
        (
            free | {"offset": 6_000},
            START | LATER | ROOM,
            50_000,
        ),  # it looks at all before for a seat
        (free | day, START | ROOM, 3_000),
        (doctor, OF_DOCTOR, 3_000),
        (doctor | free, OF_DOCTOR | ROOM, 3_000),
        (show, OF_SHOW, 3_000),
        (show | free, OF_SHOW | ROOM, 3_000),
    ]:
        url = f"/api/v1/slots?{urlencode(query)}"
        count, page = explain("slots_slot", lambda url=url: client.get(url))
        assert count.all_indexes == finding - LATER, query
        assert page.all_indexes - SUBJECTS == finding | PAGE, query
        assert page.pages < most, query
