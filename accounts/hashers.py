"""Hashing passwords, beside everything else that a web process does meanwhile."""

import sys
from functools import cache
from typing import Any

from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.db import connection


class PasswordHasher(PBKDF2PasswordHasher):
    """Django's own, which in a gevent worker runs in a thread: PBKDF2 lets others run meanwhile.
    In one: ten at once take no less time, and leave the processor to nobody else.

    It takes a good part of a second, in which such a worker would answer nobody. Nor is a
    connection kept for that time: a pool has few, and eight who log in would leave none to others.
    """

    def encode(self, password: str, salt: str, iterations: int | None = None) -> str:
        monkey = sys.modules.get("gevent.monkey")
        if monkey is None or not monkey.is_module_patched("threading"):
            return super().encode(password, salt, iterations)
        if not connection.in_atomic_block:
            connection.close()  # back into the pool
        return _thread().apply(super().encode, (password, salt, iterations))


@cache
def _thread() -> Any:
    """This process's one: made when first asked for, which is in the worker."""
    from gevent.threadpool import ThreadPool

    return ThreadPool(1)
