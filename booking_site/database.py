"""Waiting for PostgreSQL no longer than people would, and forgetting it when it has gone away."""

import threading
from typing import Any

from django.db import connection
from psycopg_pool import ConnectionPool

from booking_site.prepared import Statement, function, prepared, send

LOCK_TIMEOUT = "4s"  # for one lock
STATEMENT_TIMEOUT = "10s"  # for one statement, all its locks together
IDLE_TIMEOUT = "15s"  # for a process that stalls inside a transaction

_replacing = threading.Lock()


def bounds(*, lock_timeout: str | None = None, statement_timeout: str | None = None) -> Statement:
    """Limits on waiting, until the transaction ends, whatever pooler is in between."""
    return _set_bounds(
        lock=lock_timeout or LOCK_TIMEOUT,
        statement=statement_timeout or STATEMENT_TIMEOUT,
        idle=IDLE_TIMEOUT,
    )


@prepared
def _set_bounds(*, lock: str, statement: str, idle: str) -> Any:
    return function(
        "SELECT set_config('lock_timeout', %s, true),"
        " set_config('statement_timeout', %s, true),"
        " set_config('idle_in_transaction_session_timeout', %s, true)",
        *(lock, statement, idle),
    )


def bound_waiting(**limits: str) -> None:
    """As `bounds`, at once. One query."""
    send(bounds(**limits))


def forget_lost_connections(connection: Any = connection) -> None:
    """If the connection is gone, throws away the pool that it came from: its others are gone too.

    A pool would notice one by one, and wait ever longer between its tries; a new one connects at
    once when the database is back. Whoever else finds the same later leaves the new pool alone.
    """
    pools = getattr(connection, "_connection_pools", {})
    if connection.connection is None:
        pool = pools.get(connection.alias)
        is_lost = pool is not None and _cannot_connect(pool)
    else:
        pool = getattr(connection.connection, "_pool", None)
        is_lost = connection.connection.closed
    connection.close()
    if not (pool and is_lost):
        return
    with _replacing:
        if pools.get(connection.alias) is not pool:
            return
        del pools[connection.alias]
    pool.close(timeout=0)


def give_up(pool: ConnectionPool) -> None:
    """Ends a pool that could not connect for a while: whoever waits for it is told so now.

    Else they would wait as long as for a connection that is in use. The next request has a new one.
    """
    pools = getattr(connection, "_connection_pools", {})
    with _replacing:
        if pools.get(connection.alias) is pool:
            del pools[connection.alias]
    # The pool calls this in a thread of its own, for which closing it would wait.
    threading.Thread(target=pool.close, kwargs={"timeout": 0}, daemon=True).start()


def _cannot_connect(pool: ConnectionPool) -> bool:
    """Whether nothing came of it because connecting fails, and not because all are in use."""
    stats = pool.get_stats()
    is_full = stats.get("pool_size", 0) >= stats["pool_max"]
    return stats.get("connections_errors", 0) > 0 and not is_full
