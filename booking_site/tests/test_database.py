"""The connection pool when its connections are lost, and when they are all in use."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError, connection

from booking_site.database import forget_lost_connections, give_up

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def pooled() -> Iterator[Callable[..., Any]]:
    """Makes connections of one process, as its greenlets have them: through one pool of two."""
    made = []

    def new(timeout: float = 10) -> Any:
        copy = connection.copy()
        pool = {"min_size": 0, "max_size": 2, "timeout": timeout}
        copy.settings_dict["OPTIONS"] = copy.settings_dict["OPTIONS"] | {"pool": pool}
        made.append(copy)
        return copy

    yield new
    for one in made:
        one.close()
    made[0].close_pool()


def lose(one: Any) -> None:
    """Ends the server's side of it, as its death would, and notices."""
    one.ensure_connection()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [one.connection.info.backend_pid])
    with pytest.raises(OperationalError), one.cursor() as cursor:
        cursor.execute("SELECT 1")


def answers(one: Any) -> bool:
    with one.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone() == (1,)


def test_two_that_lose_their_connections_at_once_replace_the_pool_once(
    pooled: Callable[..., Any],
) -> None:
    first, second = pooled(), pooled()
    first.ensure_connection()
    lost_pool = first.pool
    lose(second)
    lose(first)
    forget_lost_connections(first)
    assert answers(first)
    assert first.pool is not lost_pool
    new_pool = first.pool
    forget_lost_connections(second)  # nobody else's new connection suffers from it
    assert first.pool is new_pool
    assert answers(first)
    assert answers(second)
    assert lost_pool.closed


def test_pool_whose_connections_are_all_in_use_is_kept(pooled: Callable[..., Any]) -> None:
    first, second, third = pooled(), pooled(), pooled()
    first.ensure_connection()
    second.ensure_connection()
    pool = first.pool
    pool.timeout = 0.2
    with pytest.raises(OperationalError):
        third.ensure_connection()
    forget_lost_connections(third)
    assert third.pool is pool
    first.close()
    assert answers(third)


def test_pool_that_cannot_connect_is_replaced(pooled: Callable[..., Any]) -> None:
    away = pooled(timeout=0.2)
    away.settings_dict["PORT"] = "1"
    with pytest.raises(OperationalError):
        away.ensure_connection()
    pool = away.pool
    forget_lost_connections(away)
    assert pool.closed
    assert away.pool is not pool


def test_statement_that_fails_loses_nothing(pooled: Callable[..., Any]) -> None:
    one = pooled()
    with one.cursor() as cursor:
        cursor.execute("SET statement_timeout = '10ms'")
        with pytest.raises(OperationalError):
            cursor.execute("SELECT pg_sleep(5)")
    pool = one.pool
    forget_lost_connections(one)
    assert one.pool is pool


def test_pool_that_cannot_connect_for_a_while_keeps_nobody_waiting(
    pooled: Callable[..., Any],
) -> None:
    away = pooled()
    away.settings_dict["PORT"] = "1"
    away.settings_dict["OPTIONS"]["pool"] |= {
        "timeout": 60,
        "reconnect_timeout": 0.1,
        "reconnect_failed": give_up,
    }
    pool = away.pool
    with pytest.raises(OperationalError, match="closed"):
        away.ensure_connection()
    assert pool.closed
    away.close()
    assert away.pool is not pool
