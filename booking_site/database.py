"""Waiting for PostgreSQL no longer than people would, and forgetting it when it has gone away."""

from django.db import connection

LOCK_TIMEOUT = "4s"  # for one lock
STATEMENT_TIMEOUT = "10s"  # for one statement, all its locks together
IDLE_TIMEOUT = "15s"  # for a process that stalls inside a transaction


def bound_waiting(*, statement_timeout: str | None = None) -> None:
    """Limits on waiting until this transaction ends, whatever pooler is in between. One query."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('lock_timeout', %s, true),"
            " set_config('statement_timeout', %s, true),"
            " set_config('idle_in_transaction_session_timeout', %s, true)",
            [LOCK_TIMEOUT, statement_timeout or STATEMENT_TIMEOUT, IDLE_TIMEOUT],
        )


def forget_lost_connections() -> None:
    """If this request's connection is gone, throws away the whole pool: the others are gone too.

    A pool would notice one by one, and wait ever longer between its tries; a new one connects at
    once when the database is back.
    """
    lost = connection.connection is None or connection.connection.closed
    connection.close()
    if lost and connection.pool:
        connection.close_pool()
