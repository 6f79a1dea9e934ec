from typing import Any

from allauth.core.internal import ratelimit
from django.apps import AppConfig
from django.apps import apps as installed
from django.db.models.signals import post_migrate


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        from allauth.account.internal.flows import email_verification

        from accounts.limits import consume_code, one_at_a_time

        ratelimit.cache_lock = one_at_a_time
        email_verification.consume_email_verification_rate_limit = consume_code
        post_migrate.connect(_after_migrate, sender=self, dispatch_uid="staff groups")


def _after_migrate(using: str, apps: Any = installed, **kwargs: Any) -> None:
    """`apps` are the models as migrated; a flush has none of its own."""
    from accounts.staff_groups import create_staff_groups

    create_staff_groups(apps, using=using)
