"""The database of the tests: quick to commit to, and emptied after each test that does."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management.commands import flush
from django.db import connection
from django.db.backends.base.creation import TEST_DATABASE_PREFIX
from pytest_django import DjangoDbBlocker

# What migrations make and no test changes for good. (That these stay also spares the live site of
# the browser tests, which remembers the ids of content types.)
KEPT = {
    *("django_migrations", "django_content_type"),
    *("auth_permission", "auth_group", "auth_group_permissions"),
}


@pytest.fixture(autouse=True, scope="session")
def quick_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Commits do not wait for the disk: what must survive a kill of PostgreSQL is tested on servers
    of those tests' own. And only tables that have rows are emptied, the cache's included.

    Each application's conftest imports it. Where no test that was chosen needs a database there is
    none, and the site's own is left alone.
    """
    if not connection.settings_dict["NAME"].startswith(TEST_DATABASE_PREFIX):
        yield
        return
    with django_db_blocker.unblock():
        with connection.cursor() as cursor:
            name = connection.ops.quote_name(connection.settings_dict["NAME"])
            cursor.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
        connection.close()  # it is for sessions from now on
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flush, "sql_flush", _sql_flush)
        patch.setattr(flush, "emit_post_migrate_signal", lambda *args: None)
        yield


def _sql_flush(style: Any, database: Any, **options: Any) -> list[str]:
    with database.cursor() as cursor:
        tables = set(database.introspection.table_names(cursor)) - KEPT
        cursor.execute(
            " UNION ALL ".join(
                f"SELECT '{table}' WHERE EXISTS (SELECT FROM {table})" for table in sorted(tables)
            )
        )
        full = [table for (table,) in cursor.fetchall()]
    return [f"TRUNCATE {', '.join(full)} CASCADE"] if full else []
