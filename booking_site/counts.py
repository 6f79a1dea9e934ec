"""The cache in the database, in which what is limited is counted: one count for all processes.

Django's own counts the whole table each time it writes, asks some ten times for one count, and
throws out what still counts when there are too many. Here a count is read by one prepared statement
and written by another, and what no longer counts goes, a part of it with each hundredth write.
"""

import base64
import pickle
import random
from math import ceil
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.db import DatabaseCache

from booking_site.prepared import Written, function, prepared, send

PURGE_EVERY = 100  # writes, about
MOST_PURGED = 1000  # rows at a time


class CountsCache(DatabaseCache):
    """Of the table that `createcachetable` makes, in the format of Django's own. It expires by the
    database's clock.
    """

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        key = self.make_and_validate_key(key, version=version)
        [found] = send(_read(self._table, key=key))
        return pickle.loads(base64.b64decode(found[0][0])) if found else default

    def set(
        self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> None:
        seconds = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        if seconds is None:
            super().set(key, value, None, version)
            return
        key = self.make_and_validate_key(key, version=version)
        text = base64.b64encode(pickle.dumps(value, self.pickle_protocol)).decode()
        send(_write(self._table, key=key, value=text, seconds=ceil(seconds)))
        if random.randrange(PURGE_EVERY) == 0:
            send(_purge(self._table))


@prepared
def _read(table: str, *, key: str) -> Any:
    is_there = "cache_key = %s AND expires > statement_timestamp()"
    return function(f"SELECT value FROM {table} WHERE {is_there}", key)


@prepared
def _write(table: str, *, key: str, value: str, seconds: int) -> Any:
    return Written(
        f"INSERT INTO {table} (cache_key, value, expires)"
        " VALUES (%s, %s, statement_timestamp() + make_interval(secs => %s)) ON CONFLICT"
        " (cache_key) DO UPDATE SET value = EXCLUDED.value, expires = EXCLUDED.expires",
        [key, value, seconds],
        None,
    )


@prepared
def _purge(table: str) -> Any:
    """Waits for nobody: whoever writes a row anew has it locked."""
    over = f"SELECT cache_key FROM {table} WHERE expires <= statement_timestamp()"
    some = f"{over} LIMIT {MOST_PURGED} FOR UPDATE SKIP LOCKED"
    return Written(f"DELETE FROM {table} WHERE cache_key IN ({some})", [], None)
