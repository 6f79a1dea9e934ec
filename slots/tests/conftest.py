"""For the tests of this application: mails go into the queue, as on the site."""

from booking_site.tests.mails import mails_are_queued  # noqa: F401
