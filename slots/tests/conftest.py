from booking_site.tests.database import quick_database  # noqa: F401
from booking_site.tests.mails import mails_are_queued  # noqa: F401
