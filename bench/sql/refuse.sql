-- What the site sends for a refusal, sold out. A test keeps it so; /*value*/…/**/ stands for a
-- value that the site sends, and pgbench must make.
\set slot random(:first, :last)
\set turn :first_seat + (:slot - :first) * :places + random(0, :places - 1)
\set n random(1, 9000000000000000000)
\set seat_id 0
BEGIN;
SELECT set_config('lock_timeout', '4s', true), set_config('statement_timeout', '10s', true), set_config('idle_in_transaction_session_timeout', '15s', true);
SELECT "slots_seat"."id", "slots_seat"."slot_id", "slots_seat"."label", "slots_seat"."section", "slots_seat"."row", "slots_seat"."number", "slots_seat"."column", "slots_seat"."accessible", "slots_seat"."blocked", "slots_seat"."block_reason", "slots_seat"."booking_id", "slots_seat"."held_until" FROM "slots_seat" WHERE ("slots_seat"."slot_id" = :slot AND NOT "slots_seat"."blocked" AND "slots_seat"."booking_id" IS NULL AND ABS("slots_seat"."id") >= :turn) ORDER BY ABS("slots_seat"."id") ASC LIMIT 1 FOR NO KEY UPDATE OF "slots_seat" SKIP LOCKED;
SELECT "slots_seat"."id", "slots_seat"."slot_id", "slots_seat"."label", "slots_seat"."section", "slots_seat"."row", "slots_seat"."number", "slots_seat"."column", "slots_seat"."accessible", "slots_seat"."blocked", "slots_seat"."block_reason", "slots_seat"."booking_id", "slots_seat"."held_until" FROM "slots_seat" WHERE ("slots_seat"."slot_id" = :slot AND NOT "slots_seat"."blocked" AND "slots_seat"."booking_id" IS NULL AND ABS("slots_seat"."id") < :turn) ORDER BY ABS("slots_seat"."id") ASC LIMIT 1 FOR NO KEY UPDATE OF "slots_seat" SKIP LOCKED;
SELECT "slots_seat"."id", "slots_seat"."slot_id", "slots_seat"."label", "slots_seat"."section", "slots_seat"."row", "slots_seat"."number", "slots_seat"."column", "slots_seat"."accessible", "slots_seat"."blocked", "slots_seat"."block_reason", "slots_seat"."booking_id", "slots_seat"."held_until" FROM "slots_seat" WHERE ("slots_seat"."slot_id" = :slot AND "slots_seat"."held_until" <= (STATEMENT_TIMESTAMP())) ORDER BY "slots_seat"."held_until" ASC LIMIT 1 FOR NO KEY UPDATE OF "slots_seat" SKIP LOCKED;
ROLLBACK;
SELECT COUNT(*) FROM ((SELECT "slots_seat"."id" AS "pk" FROM "slots_seat" WHERE ("slots_seat"."slot_id" = :slot AND NOT "slots_seat"."blocked" AND "slots_seat"."booking_id" IS NULL) ORDER BY ABS("slots_seat"."id") ASC LIMIT 1) UNION ALL (SELECT "slots_seat"."id" AS "pk" FROM "slots_seat" WHERE ("slots_seat"."slot_id" = :slot AND "slots_seat"."held_until" <= (STATEMENT_TIMESTAMP())) ORDER BY "slots_seat"."held_until" ASC LIMIT 1)) subquery;
