"""The cache in the database, in which what is limited is counted: one count for all processes.

Django's own counts the whole table each time it writes, asks some ten times for one count, and
throws out what still counts when there are too many. Here a count is read by one prepared statement
and written by another, and what no longer counts goes, some of it after each hundredth write.
"""

import base64
import pickle
import random
from collections.abc import Iterable
from functools import partial
from math import ceil
from typing import Any

from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.db import DatabaseCache
from django.db import transaction

from booking_site.prepared import Written, function, prepared, send

PURGE_EVERY = 100  # writes, about
MOST_PURGED = 1000  # rows at a time


class CountsCache(DatabaseCache):
    """Of the table that `createcachetable` makes, in the format of Django's own. What is asked here
    expires by the database's clock.
    """

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        return self.get_many([key], version).get(key, default)

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        """One query. It deletes nothing: an old row that was found might be a new one by then."""
        asked = {self.make_and_validate_key(key, version=version): key for key in keys}
        if not asked:
            return {}
        [found] = send(_read(self._table, keys=list(asked)))
        return {asked[key]: pickle.loads(base64.b64decode(value)) for key, value in found}

    def set(
        self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> None:
        """One query. `timeout` in seconds; None is for ever."""
        seconds = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        key = self.make_and_validate_key(key, version=version)
        text = base64.b64encode(pickle.dumps(value, self.pickle_protocol)).decode()
        seconds = None if seconds is None else ceil(seconds)
        send(_write(self._table, key=key, value=text, seconds=seconds))
        if random.randrange(PURGE_EVERY) == 0:
            # When nothing is locked: a row that it deletes may be one that others are to write.
            transaction.on_commit(partial(send, _purge(self._table)), robust=True)

    def _cull(self, *_: Any) -> None:
        """Nothing, whatever MAX_ENTRIES says: what is thrown out begins to count anew."""


@prepared
def _read(table: str, *, keys: list[str]) -> Any:
    are_there = "cache_key = ANY(%s) AND expires > statement_timestamp()"
    return function(f"SELECT cache_key, value FROM {table} WHERE {are_there}", keys)


@prepared
def _write(table: str, *, key: str, value: str, seconds: int | None) -> Any:
    expires = "coalesce(statement_timestamp() + make_interval(secs => %s), '9999-12-30')"
    return Written(
        f"INSERT INTO {table} (cache_key, value, expires) VALUES (%s, %s, {expires})"
        " ON CONFLICT (cache_key) DO UPDATE SET value = EXCLUDED.value, expires = EXCLUDED.expires",
        [key, value, seconds],
        None,
    )


@prepared
def _purge(table: str) -> Any:
    """Waits for nobody: whoever writes a row anew has it locked."""
    over = f"SELECT cache_key FROM {table} WHERE expires <= statement_timestamp()"
    some = f"{over} LIMIT {MOST_PURGED} FOR UPDATE SKIP LOCKED"
    return Written(f"DELETE FROM {table} WHERE cache_key IN ({some})", [], None)
