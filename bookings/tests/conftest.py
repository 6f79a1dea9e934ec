from collections.abc import Iterator

import pytest

from booking_site.tests.database import quick_database  # noqa: F401
from booking_site.tests.mails import mails_are_queued  # noqa: F401
from bookings import lifecycle, refusals


@pytest.fixture(autouse=True)
def _refusals_of_this_test_only() -> Iterator[None]:
    """What is to be recorded, and what was sold out, is of slots that are gone after the test."""
    refusals._waiting.clear()
    lifecycle._lately_sold_out.clear()
    lifecycle._seen.clear()
    yield
    refusals._waiting.clear()
