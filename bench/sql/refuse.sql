-- What the site sends for a refusal, sold out, in a process that has refused somebody before.
-- A test keeps it so. /*value*/…/**/ stands for a value that the site sends and pgbench must make.

\set slot random(:first, :last)
(SELECT "slots_seat"."id" AS "pk" FROM "slots_seat" WHERE ("slots_seat"."slot_id" = :slot AND NOT "slots_seat"."blocked" AND "slots_seat"."booking_id" IS NULL) ORDER BY ABS("slots_seat"."id") ASC LIMIT 1) UNION ALL (SELECT "slots_seat"."id" AS "pk" FROM "slots_seat" WHERE ("slots_seat"."slot_id" = :slot AND "slots_seat"."held_until" <= (STATEMENT_TIMESTAMP())) ORDER BY "slots_seat"."held_until" ASC LIMIT 1);
SELECT "slots_slot"."id", "slots_slot"."doctor_id", "slots_slot"."show_id", "slots_slot"."starts_at", "slots_slot"."ends_at", "slots_slot"."opens_at", "slots_slot"."closes_at", "slots_slot"."seating", "slots_slot"."cancelled_at", "slots_slot"."cancel_reason", "slots_slot"."first_seat_id", "slots_slot"."last_seat_id", STATEMENT_TIMESTAMP() AS "now" FROM "slots_slot" WHERE "slots_slot"."id" = :slot ORDER BY "slots_slot"."starts_at" ASC, "slots_slot"."id" ASC;
