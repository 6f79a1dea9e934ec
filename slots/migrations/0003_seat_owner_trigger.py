"""The database's own refusal to sell a seat twice, whatever writes to it: this code, or psql.

`clock_timestamp()`, not `now()`: that is when the transaction began, and a hold that has lapsed
since then may rightfully be taken over.
"""

from django.db import migrations

CREATE = """
CREATE FUNCTION slots_seat_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.booking_id IS NOT NULL THEN
            RAISE integrity_constraint_violation USING
                CONSTRAINT = 'seat_owned_is_not_deleted',
                MESSAGE = format('seat %s belongs to a booking and cannot be deleted', OLD.id);
        END IF;
        RETURN OLD;
    END IF;

    IF TG_OP = 'UPDATE' AND OLD.booking_id IS NOT NULL THEN
        IF NEW.booking_id <> OLD.booking_id
           AND (OLD.held_until IS NULL OR OLD.held_until > clock_timestamp()) THEN
            RAISE integrity_constraint_violation USING
                CONSTRAINT = 'seat_owner_is_kept',
                MESSAGE = format('seat %s belongs to another booking', OLD.id);
        END IF;
        IF NEW.booking_id = OLD.booking_id
           AND OLD.held_until IS NULL AND NEW.held_until IS NOT NULL THEN
            RAISE integrity_constraint_violation USING
                CONSTRAINT = 'seat_booked_stays_booked',
                MESSAGE = format('seat %s is booked and cannot become held again', OLD.id);
        END IF;
    END IF;

    IF NEW.booking_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM bookings_booking WHERE id = NEW.booking_id AND slot_id = NEW.slot_id
    ) THEN
        RAISE integrity_constraint_violation USING
            CONSTRAINT = 'seat_and_booking_are_of_one_slot',
            MESSAGE = format('seat %s is not of the slot of its booking', NEW.id);
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER seat_guard BEFORE INSERT OR DELETE ON slots_seat
    FOR EACH ROW EXECUTE FUNCTION slots_seat_guard();

-- Of updates only those that touch the owner: relabelling a seat costs nothing.
CREATE TRIGGER seat_guard_update BEFORE UPDATE OF booking_id, held_until, slot_id ON slots_seat
    FOR EACH ROW EXECUTE FUNCTION slots_seat_guard();
"""

DROP = """
DROP TRIGGER seat_guard_update ON slots_seat;
DROP TRIGGER seat_guard ON slots_seat;
DROP FUNCTION slots_seat_guard();
"""


class Migration(migrations.Migration):
    dependencies = [("slots", "0002_seat")]
    operations = [migrations.RunSQL(CREATE, DROP)]
