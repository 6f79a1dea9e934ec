"""The lock under which allauth counts tries, logins and what else it limits."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction

from booking_site.database import bound_waiting


@contextmanager
def one_at_a_time(cache_key: str) -> Iterator[bool]:
    """In place of allauth's lock, which asks for its turn in a loop, and after a second refuses as
    if the limit were reached: seven of ten who logged in at once from one address. A whole clinic
    may have one.

    Here the database keeps a queue, for up to 4 seconds; then it is busy, and the answer 503. The
    lock is the transaction's, so it ends with whoever dies holding it.
    """
    with transaction.atomic():
        bound_waiting()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [cache_key])
        yield True
