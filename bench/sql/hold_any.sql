-- What the site sends for a hold of any one seat.
-- A test keeps it so. /*value*/…/**/ stands for a value that the site sends and pgbench must make; what
-- is commented out makes it a pipeline, as the site's is.

\set slot random(:first, :last)
\set at random(0, 1048576)
\set n random(1, 9000000000000000000)
\set seat_pk 0
-- \startpipeline
BEGIN;
SELECT set_config('lock_timeout', '4s', true), set_config('statement_timeout', '10s', true), set_config('idle_in_transaction_session_timeout', '15s', true);
-- \endpipeline
SELECT "slots_seat"."id" AS "pk", "slots_seat"."label" AS "label", "slots_seat"."slot_id" AS "slot_id", "slots_seat"."booking_id" AS "booking_id" FROM "slots_seat" WHERE ("slots_seat"."slot_id" = :slot AND NOT "slots_seat"."blocked" AND "slots_seat"."booking_id" IS NULL AND ABS("slots_seat"."id") >= (SELECT (U0."first_seat_id" + (((U0."last_seat_id" - U0."first_seat_id") * :at) / 1048576)) AS "combinedexpression1" FROM "slots_slot" U0 WHERE U0."id" = :slot)) ORDER BY ABS("slots_seat"."id") ASC LIMIT 1 FOR NO KEY UPDATE OF "slots_seat" SKIP LOCKED \aset seat_
\if :seat_pk > 0
\else
SELECT "slots_seat"."id" AS "pk", "slots_seat"."label" AS "label", "slots_seat"."slot_id" AS "slot_id", "slots_seat"."booking_id" AS "booking_id" FROM "slots_seat" WHERE ("slots_seat"."slot_id" = :slot AND NOT "slots_seat"."blocked" AND "slots_seat"."booking_id" IS NULL AND ABS("slots_seat"."id") < (SELECT (U0."first_seat_id" + (((U0."last_seat_id" - U0."first_seat_id") * :at) / 1048576)) AS "combinedexpression1" FROM "slots_slot" U0 WHERE U0."id" = :slot)) ORDER BY ABS("slots_seat"."id") ASC LIMIT 1 FOR NO KEY UPDATE OF "slots_seat" SKIP LOCKED \gset seat_
\endif
-- \startpipeline
SELECT "slots_slot"."id", "slots_slot"."doctor_id", "slots_slot"."show_id", "slots_slot"."starts_at", "slots_slot"."ends_at", "slots_slot"."opens_at", "slots_slot"."closes_at", "slots_slot"."seating", "slots_slot"."cancelled_at", "slots_slot"."cancel_reason", "slots_slot"."first_seat_id", "slots_slot"."last_seat_id", STATEMENT_TIMESTAMP() AS "now" FROM "slots_slot" WHERE "slots_slot"."id" = :slot ORDER BY "slots_slot"."starts_at" ASC, "slots_slot"."id" ASC;
INSERT INTO "bookings_booking" ("id", "reference", "slot_id", "user_id", "session_key", "name", "email", "phone", "quantity", "labels", "status", "failure_reason", "expires_at", "idempotency_key", "request_digest", "created_at", "confirmed_at", "cancelled_at") VALUES (/*value*/lpad(to_hex((:n)::bigint), 32, '0')::uuid/**/, /*value*/left(encode(sha256((:n)::text::bytea), 'base64'), 8)/**/, :slot, NULL, '', '', '', '', 1, ARRAY[:seat_label]::varchar(40)[], 'PENDING', '', /*value*/now() + interval '2 minutes'/**/, NULL, /*value*/md5((:n)::text)/**/, /*value*/now()/**/, NULL, NULL);
WITH changed AS (UPDATE "slots_seat" SET "booking_id" = /*value*/lpad(to_hex((:n)::bigint), 32, '0')::uuid/**/, "held_until" = /*value*/now() + interval '2 minutes'/**/ WHERE "slots_seat"."id" IN (:seat_pk) RETURNING 1) SELECT CASE COUNT(*) WHEN 1 THEN 1 ELSE CAST('changed ' || COUNT(*) || ' rows, not 1' AS integer) END FROM changed;
COMMIT;
-- \endpipeline
