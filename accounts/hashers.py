"""Hashing passwords, beside everything else that a web process does meanwhile."""

import sys

from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.db import connection


class PasswordHasher(PBKDF2PasswordHasher):
    """Django's own, which in a gevent worker runs in a thread: PBKDF2 lets others run meanwhile.

    It takes a good part of a second, in which such a worker would answer nobody. Nor is a
    connection kept for that time: a pool has few, and eight who log in would leave none to others.
    """

    def encode(self, password: str, salt: str, iterations: int | None = None) -> str:
        monkey = sys.modules.get("gevent.monkey")
        if monkey is None or not monkey.is_module_patched("threading"):
            return super().encode(password, salt, iterations)
        from gevent import get_hub

        if not connection.in_atomic_block:
            connection.close()  # back into the pool
        return get_hub().threadpool.apply(super().encode, (password, salt, iterations))
