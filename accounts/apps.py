from typing import Any

from django.apps import AppConfig
from django.apps import apps as installed
from django.db.models.signals import post_migrate

# A process that is killed while it counts towards a limit leaves that count locked. Others wait
# until the lock lapses: allauth's own second of waiting for ten of the lock told people that they
# had reached a limit which they had not.
COUNT_LOCKED, COUNT_WAITED_FOR = 2, 4  # seconds


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        from allauth.core.internal import ratelimit

        ratelimit.CACHE_LOCK_TIMEOUT = COUNT_LOCKED
        ratelimit.CACHE_LOCK_WAIT_TIMEOUT = COUNT_WAITED_FOR
        post_migrate.connect(_after_migrate, sender=self, dispatch_uid="staff groups")


def _after_migrate(using: str, apps: Any = installed, **kwargs: Any) -> None:
    """`apps` are the models as migrated; a flush has none of its own."""
    from accounts.staff_groups import create_staff_groups

    create_staff_groups(apps, using=using)
