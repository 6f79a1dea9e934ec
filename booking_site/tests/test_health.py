"""The health pages: asked from inside, under any name, in plain HTTP, in any state of the site."""

from collections.abc import Iterator

import pytest
from django.db import OperationalError, connection
from django.test import Client

from booking_site import problems, views


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has not looked for migrations yet."""
    monkeypatch.setattr(views, "_has_migrations", False)


@pytest.fixture
def unmigrated(transactional_db: None, fresh_process: None) -> Iterator[None]:
    """The newest migration of bookings has not run."""
    newest = max(name for app, name in views._wanted_migrations() if app == "bookings")
    where = ["bookings", newest]
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = %s AND name = %s", where)
    yield
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO django_migrations VALUES (DEFAULT, %s, %s, now())", where)


@pytest.fixture
def empty_database(transactional_db: None, fresh_process: None) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_migrations RENAME TO away")
    yield
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE away RENAME TO django_migrations")


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
@pytest.mark.parametrize("base", ["", "/api/v1"])
def test_health_answers_under_any_host_without_https(
    client: Client, settings: object, base: str, path: str, db: None
) -> None:
    path = base + path
    settings.ALLOWED_HOSTS = ["book.example.org"]
    settings.SECURE_SSL_REDIRECT = True
    answer = client.get(path, headers={"Host": "10.42.0.17:8000"})
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    assert "no-store" in answer["Cache-Control"]
    assert client.head(path).status_code == 200
    wrong = client.post(path)
    assert (wrong.status_code, wrong["Allow"]) == (405, "GET, HEAD")
    assert (wrong["Content-Type"] == problems.MEDIA_TYPE) == bool(base)
    # Others still care for both.
    assert client.get("/", headers={"Host": "10.42.0.17:8000"}).status_code == 400
    assert client.get("/healthy", headers={"Host": "book.example.org"}).status_code == 301


def test_live_needs_no_database(client: Client) -> None:
    """Without the `db` fixture a query raises."""
    assert client.get("/health/live").json() == {"status": "ok"}


def test_ready_costs_one_query(
    client: Client, django_assert_num_queries: object, fresh_process: None, db: None
) -> None:
    for _ in range(2):  # the first one looks for migrations
        with django_assert_num_queries(1):
            answer = client.get("/health/ready")
        assert answer.json() == {"status": "ok", "database": "ok"}


def test_ready_before_the_last_migration_is_503(client: Client, unmigrated: None) -> None:
    answer = client.get("/health/ready")
    assert (answer.status_code, answer["Retry-After"]) == (503, "3")
    why = {"database": "ok", "migrations": "pending"}
    assert answer.json() == {"status": "unavailable"} | why
    answer = client.get("/api/v1/health/ready")
    assert (answer.status_code, answer["Retry-After"]) == (503, "3")
    assert answer["Content-Type"] == problems.MEDIA_TYPE
    told = answer.json()
    assert told.pop("detail").startswith("Migrations are pending")
    assert (
        told
        == {
            "type": "about:blank",
            "title": "Service Unavailable",
            "status": 503,
            "code": "busy",
        }
        | why
    )


def test_ready_without_a_database_says_so(
    client: Client, monkeypatch: pytest.MonkeyPatch, db: None
) -> None:
    def fail(*_: object) -> None:
        raise OperationalError

    with monkeypatch.context() as away:
        away.setattr(views, "forget_lost_connections", lambda: None)
        away.setattr(views.connection, "cursor", fail)
        assert client.get("/health").json() == {"status": "unavailable", "database": "away"}
        told = client.get("/api/v1/health").json()
    assert (told["detail"], told["database"]) == ("The database is away.", "away")


def test_ready_on_an_empty_database_is_503_until_it_is_migrated(
    client: Client, empty_database: None
) -> None:
    assert client.get("/health").json()["migrations"] == "pending"
    with connection.cursor() as cursor:
        cursor.execute("CREATE VIEW django_migrations AS SELECT * FROM away")
    assert client.get("/health").status_code == 200
    with connection.cursor() as cursor:
        cursor.execute("DROP VIEW django_migrations")
