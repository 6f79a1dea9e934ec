"""What gunicorn serves, one a worker process."""

import os

from django.core.handlers.wsgi import WSGIRequest
from django.core.wsgi import get_wsgi_application
from django.utils.functional import cached_property


class Request(WSGIRequest):
    """Without what Django itself would choke on, before or where nothing can answer for it."""

    @property
    def encoding(self) -> None:
        """UTF-8. Of the charsets that a Content-Type may name Python knows some that no text can
        have, like "hex"."""

    @encoding.setter
    def encoding(self, charset: str) -> None:
        pass

    @cached_property
    def COOKIES(self) -> dict[str, str]:
        """Those that can be looked up, as a session's is: quoted, a cookie may say "\\000"."""
        return {name: text for name, text in super().COOKIES.items() if "\0" not in text}


os.environ.setdefault("DJANGO_SETTINGS_MODULE", "booking_site.settings")
application = get_wsgi_application()
application.request_class = Request

from bookings import refusals  # noqa: E402  (models need the applications loaded)

refusals.start_writer()
