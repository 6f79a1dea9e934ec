"""Each check of the settings: the unsafe one is told, the safe ones are not."""

from types import SimpleNamespace
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import OperationalError

from accounts.models import User
from booking_site import checks
from booking_site.tests.factories import UserFactory

SAFE = {
    "SITE_URL": "https://book.example.org",
    "ALLOWED_HOSTS": ["book.example.org"],
    "TRUSTED_PROXIES": ["127.0.0.1", "10.0.0.0/8"],
    "CSRF_TRUSTED_ORIGINS": ["https://book.example.org"],
    "EMAIL_BACKEND": "mailer.backend.DbBackend",
    "MAILER_EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
    "CACHES": {"default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache"}},
    "HOLD_SECONDS": 120,
}
POSTGRESQL = "django.db.backends.postgresql"
EMBEDDED = "booking_site.embedded_postgres"


def database(engine: str = POSTGRESQL, host: str = "", **options: str) -> dict[str, Any]:
    return {"default": {"ENGINE": engine, "HOST": host, "OPTIONS": options}}


@pytest.fixture
def safe_settings(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Settings of a site, for the checks alone: this one is to keep its database."""
    settings = SimpleNamespace(**SAFE, DATABASES=database())
    monkeypatch.setattr(checks, "settings", settings)
    return settings


def ids() -> list[str]:
    return [message.id for message in checks.check_settings(None)]


def test_safe_settings_are_silent(safe_settings: SimpleNamespace) -> None:
    assert ids() == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SITE_URL", "http://book.example.org", "holdfast.W001"),
        ("ALLOWED_HOSTS", ["other.example.org"], "holdfast.W002"),
        ("ALLOWED_HOSTS", ["*"], "holdfast.W003"),
        ("TRUSTED_PROXIES", ["10.0.0.7", "0.0.0.0/0"], "holdfast.W004"),
        ("TRUSTED_PROXIES", ["::/0"], "holdfast.W004"),
        ("CSRF_TRUSTED_ORIGINS", ["http://book.example.org"], "holdfast.W005"),
        (
            "MAILER_EMAIL_BACKEND",
            "django.core.mail.backends.console.EmailBackend",
            "holdfast.W006",
        ),
        (
            "MAILER_EMAIL_BACKEND",
            "django.core.mail.backends.filebased.EmailBackend",
            "holdfast.W006",
        ),
        (
            "CACHES",
            {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
            "holdfast.W007",
        ),
        (
            "CACHES",
            {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}},
            "holdfast.W007",
        ),
        ("DATABASES", database(EMBEDDED), "holdfast.I008"),
        ("DATABASES", database(host="10.0.0.9"), "holdfast.W009"),
        ("DATABASES", database(host="db.example.org"), "holdfast.W009"),
        ("HOLD_SECONDS", 29, "holdfast.W010"),
        ("HOLD_SECONDS", 1801, "holdfast.W010"),
    ],
)
def test_unsafe_setting_is_told_with_a_next_step(
    safe_settings: SimpleNamespace, name: str, value: Any, told: str
) -> None:
    setattr(safe_settings, name, value)
    assert ids() == [told]
    (message,) = checks.check_settings(None)
    assert message.hint
    assert message in run_checks(tags=["security"], include_deployment_checks=True)
    assert message not in run_checks(tags=["security"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALLOWED_HOSTS", [".example.org"]),
        ("TRUSTED_PROXIES", ["::1", "0.0.0.0/1"]),
        ("CSRF_TRUSTED_ORIGINS", []),
        ("DATABASES", database(host="/var/run/postgresql")),
        ("DATABASES", database(host="127.0.0.1")),
        ("DATABASES", database(host="localhost")),
        ("DATABASES", database(host="10.0.0.9", sslmode="verify-full")),
        ("DATABASES", database(host="db", sslmode="disable")),
        ("HOLD_SECONDS", 30),
        ("HOLD_SECONDS", 1800),
    ],
)
def test_safe_setting_is_silent(safe_settings: SimpleNamespace, name: str, value: Any) -> None:
    setattr(safe_settings, name, value)
    assert ids() == []


def test_bundled_database_without_https_is_silent(safe_settings: SimpleNamespace) -> None:
    """That is `make run`."""
    safe_settings.DATABASES = database(EMBEDDED)
    safe_settings.SITE_URL = "http://book.example.org"
    assert ids() == ["holdfast.W001"]


@pytest.mark.django_db
def test_demo_logins_are_told_while_they_can_be_used() -> None:
    def told() -> list[str]:
        return [message.id for message in checks.check_demo_logins(None, databases=["default"])]

    UserFactory(email="someone@example.org")
    assert told() == []
    demo = UserFactory(email="admin@example.org")
    assert told() == ["holdfast.W011"]
    # Django's command asks for databases only when it is told to.
    assert checks.check_demo_logins(None, databases=None) == []
    demo.is_active = False
    demo.save(update_fields=["is_active"])
    assert told() == []


@pytest.mark.django_db
def test_demo_logins_are_shown_by_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    UserFactory(email="admin@example.org")
    call_command("check", deploy=True, databases=["default"], fail_level="CRITICAL")
    assert "holdfast.W011) The logins of the demo can be used: admin@example.org." in (
        capsys.readouterr().err
    )


def test_demo_logins_are_not_looked_for_in_a_database_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*args: Any, **kwargs: Any) -> None:
        raise OperationalError

    monkeypatch.setattr(User.objects, "filter", away)
    assert checks.check_demo_logins(None, databases=["default"]) == []
