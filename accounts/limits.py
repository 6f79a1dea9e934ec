"""What allauth counts: tries, logins and what else it limits. Under which lock, how logins wait for
their turn, and for how long a limit stays full.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from allauth.core.internal import ratelimit
from django.conf import settings
from django.core.cache import cache
from django.db import connection, transaction
from django.http import HttpRequest

from booking_site.database import bounds
from booking_site.prepared import function, prepared, send

APP = "allauth.account"
LOCK_TIMEOUT = "2s"  # a count takes milliseconds, and who waits keeps a connection from others
LONGEST_WAIT = 10  # seconds, for what is under way
LONGEST_TRY = 15  # seconds, after which nothing is under way any more: its process died
PAUSE = 0.2  # seconds


@contextmanager
def one_at_a_time(cache_key: str) -> Iterator[bool]:
    """In place of allauth's lock, which asks for its turn in a loop, and after a second refuses as
    if the limit were reached: seven of ten who logged in at once from one address. A whole clinic
    may have one.

    Here the database keeps a queue, for up to two seconds; then it is busy, and the answer 503. The
    lock is the transaction's, so it ends with whoever dies holding it. Nobody waits here until a
    count is on disk: a crash of the database's machine may forget those of its last second.
    """
    first = [bounds(lock_timeout=LOCK_TIMEOUT)]
    if not connection.in_atomic_block:  # else what is around it would not wait for the disk either
        first.append(_without_disk())
    with transaction.atomic():
        send(*first, _lock(key=cache_key))
        yield True


@prepared
def _without_disk() -> Any:
    """COMMIT does not wait until it is on disk."""
    return function("SELECT set_config('synchronous_commit', 'off', true)")


@prepared
def _lock(*, key: str) -> Any:
    return function("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", key)


def consume_code(request: HttpRequest, email: str, **options: Any) -> bool:
    """In place of allauth's: whether one more code to confirm that address may be sent.

    Anybody can sign up with an address that has an account, and so use up what may be sent for it.
    The codes of who has logged in with its password are counted apart.
    """
    at_login = request.resolver_match.url_name == "account_login"
    action = "confirm_at_login" if at_login else "confirm_email"
    usage = ratelimit.consume(
        request, app=APP, action=action, key=email.lower(), limit_get=True, **options
    )
    return usage is not None


def count_when_free(
    request: HttpRequest, action: str, *, key: str
) -> ratelimit.RateLimitUsage | None:
    """Counts one towards that limit, to be rolled back if it comes to nothing. None if it is full.

    What is under way counts too, or guesses at once would be without limit. So a place may come
    free any moment: this waits for it, without a connection, until all that counts is `settled`.
    """
    deadline = time.monotonic() + LONGEST_WAIT
    usage = _count(request, action, key)
    while usage is None and time.monotonic() < deadline:
        now = time.time()
        full = _full(request, action, key, now)
        if not full:
            usage = _count(request, action, key)
            continue
        if not all(_is_any_under_way(cache_key, counted, now) for cache_key, _, counted in full):
            break
        if not connection.in_atomic_block:
            connection.close()  # back into the pool
        time.sleep(PAUSE)
    return usage


def settled(usage: ratelimit.RateLimitUsage) -> None:
    """What was counted has come to an end and will not be rolled back: nobody need wait for it."""
    ends = {_end(one.cache_key, one.timestamp): True for one in usage.usage}
    cache.set_many(ends, LONGEST_TRY)


def seconds_until_room(request: HttpRequest, action: str, *, key: str | None = None) -> float:
    """Until the oldest of what fills that limit counts no more; 0 if there is room."""
    now = time.time()
    full = _full(request, action, key, now)
    return max((min(counted) + rate.duration - now for _, rate, counted in full), default=0)


def _count(request: HttpRequest, action: str, key: str) -> ratelimit.RateLimitUsage | None:
    """Towards all rates of the limit or none: allauth's leaves those counted before a full one."""
    usage = ratelimit.RateLimitUsage(usage=[])
    for rate in filter(None, settings.ACCOUNT_RATE_LIMITS.get(action, "").split(",")):
        one = ratelimit.consume(request, app=APP, action=action, config={action: rate}, key=key)
        if one is None:
            usage.rollback()
            return None
        usage.usage += one.usage
    return usage


def _full(
    request: HttpRequest, action: str, key: str | None, now: float
) -> list[tuple[str, ratelimit.Rate, list[float]]]:
    """The rates of the limit that are full, with their keys and the times that count. One query."""
    rates = {
        ratelimit.get_cache_key(request, app=APP, action=action, rate=rate, key=key): rate
        for rate in ratelimit.get_rates(app=APP, action=action)
    }
    full = []
    for cache_key, history in cache.get_many(rates).items():
        rate = rates[cache_key]
        counted = [at for at in history if at > now - rate.duration]
        if len(counted) >= rate.amount:
            full.append((cache_key, rate, counted))
    return full


def _is_any_under_way(cache_key: str, counted: list[float], now: float) -> bool:
    young = {_end(cache_key, at) for at in counted if at > now - LONGEST_TRY}
    return len(cache.get_many(young)) < len(young)


def _end(cache_key: str, at: float) -> str:
    return f"{cache_key}:{at}:settled"
