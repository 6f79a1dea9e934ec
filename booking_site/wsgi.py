"""What gunicorn serves, one a worker process."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "booking_site.settings")
application = get_wsgi_application()

from bookings import refusals  # noqa: E402  (models need the applications loaded)

refusals.start_writer()
