from collections.abc import Iterator

import pytest

from booking_site.tests.database import quick_database  # noqa: F401
from booking_site.tests.mails import mails_are_queued  # noqa: F401
from bookings import lifecycle, refusals
from slots import live


@pytest.fixture(autouse=True)
def _refusals_of_this_test_only() -> Iterator[None]:
    """What is to be recorded, and what was sold out, is of slots that are gone after the test."""
    refusals._waiting.clear()
    lifecycle._lately_sold_out.clear()
    yield
    refusals._waiting.clear()


@pytest.fixture(autouse=True)
def _news_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told of seats waits to be sent, as in a web process: it costs no query."""
    monkeypatch.setattr(live._outbox, "has_writer", True)
    monkeypatch.setattr(live._outbox, "_topics", set())
