import pytest

from accounts import limits
from booking_site.tests.database import quick_database  # noqa: F401
from booking_site.tests.mails import mails_are_queued  # noqa: F401


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crowds are counted exactly here, on a slow machine too: nobody is told that it is busy."""
    monkeypatch.setattr(limits, "LOCK_TIMEOUT", "9s")
