"""The database's own refusal of what can never become of a booking.

PENDING → CONFIRMED, FAILED or CANCELLED; CONFIRMED → CANCELLED; nothing else. And a booking moves
to another slot with empty hands: its seats are of the slot that it is of.
"""

from django.db import migrations

CREATE = """
CREATE FUNCTION bookings_booking_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.status <> OLD.status
       AND NOT (OLD.status = 'PENDING' OR (OLD.status, NEW.status) = ('CONFIRMED', 'CANCELLED')) THEN
        RAISE integrity_constraint_violation USING
            CONSTRAINT = 'booking_status_moves_forward',
            MESSAGE = format('booking %s is %s and cannot become %s', OLD.id, OLD.status, NEW.status);
    END IF;
    IF NEW.slot_id <> OLD.slot_id
       AND EXISTS (SELECT FROM slots_seat WHERE booking_id = OLD.id) THEN
        RAISE integrity_constraint_violation USING
            CONSTRAINT = 'seat_and_booking_are_of_one_slot',
            MESSAGE = format('booking %s owns seats and cannot move to another slot', OLD.id);
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER booking_guard BEFORE UPDATE OF status, slot_id ON bookings_booking
    FOR EACH ROW EXECUTE FUNCTION bookings_booking_guard();
"""

DROP = """
DROP TRIGGER booking_guard ON bookings_booking;
DROP FUNCTION bookings_booking_guard();
"""


class Migration(migrations.Migration):
    dependencies = [("bookings", "0001_initial"), ("slots", "0002_seat")]
    operations = [migrations.RunSQL(CREATE, DROP)]
