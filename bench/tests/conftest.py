from collections.abc import Iterator

import pytest

from booking_site.tests.database import quick_database  # noqa: F401
from booking_site.tests.mails import mails_are_queued  # noqa: F401
from bookings import refusals


@pytest.fixture(autouse=True)
def _no_refusals_are_left() -> Iterator[None]:
    """What waits to be recorded is of slots that are gone after the test."""
    yield
    refusals._waiting.clear()
