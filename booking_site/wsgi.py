"""What gunicorn serves, one a worker process."""

import os
from collections.abc import Callable, Iterable
from typing import Any

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
_django = get_wsgi_application()
_django.request_class = Request

from django.db import close_old_connections  # noqa: E402

from bookings import refusals  # noqa: E402  (models need the applications loaded)
from slots import live  # noqa: E402


def application(environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
    """Django; and when the answer is there, its connection to the database goes back to the pool.

    Django itself would keep it until the last byte is sent: some phones that are slow to read a
    large seat map would leave no connection to anybody else.
    """
    response = _django(environ, start_response)
    close_old_connections()
    return response


refusals.start_writer()
live.hub.start()
