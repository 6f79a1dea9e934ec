"""What gunicorn serves, one a worker process."""

import os
from collections.abc import Callable, Iterable
from typing import Any

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "booking_site.settings")
_django = get_wsgi_application()

from django.db import close_old_connections  # noqa: E402

from bookings import refusals  # noqa: E402  (models need the applications loaded)


def application(environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
    """Django; and when the answer is there, its connection to the database goes back to the pool.

    Django itself would keep it until the last byte is sent: some phones that are slow to read a
    large seat map would leave no connection to anybody else.
    """
    response = _django(environ, start_response)
    close_old_connections()
    return response


refusals.start_writer()
