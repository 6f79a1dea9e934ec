"""For all tests: mails go where the site puts them, into the queue."""

from collections.abc import Iterator

import pytest
from django.conf import settings


@pytest.fixture(autouse=True, scope="session")
def _mails_are_queued(django_test_environment: None) -> Iterator[None]:
    """Django's test runner has put its own outbox in the place of the queue; this takes it back.

    What was queued: `booking_site.tests.mails.queued_mails()`.
    """
    outbox = settings.EMAIL_BACKEND
    settings.EMAIL_BACKEND = "mailer.backend.DbBackend"
    yield
    settings.EMAIL_BACKEND = outbox
