from collections.abc import Iterator

import pytest
from django.core.cache import cache


@pytest.fixture(autouse=True)
def _no_limits_of_other_tests(db: None) -> Iterator[None]:
    """Wrong passwords of other tests: their table is no model's, so nothing else empties it."""
    cache.clear()
    yield
    cache.clear()
