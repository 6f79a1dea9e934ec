"""For the tests of this application: mails go into the queue, as on the site, and no limit is left
over from another test.
"""

from collections.abc import Iterator

import pytest
from django.core.cache import cache

from booking_site.tests.mails import mails_are_queued  # noqa: F401


@pytest.fixture(autouse=True)
def _no_limits_of_other_tests(db: None) -> Iterator[None]:
    """Wrong passwords of other tests: their table is no model's, so nothing else empties it."""
    cache.clear()
    yield
    cache.clear()
