"""The site's settings with one more page, which does nothing: what no page can be faster than."""

from booking_site.settings import *  # noqa: F403

ROOT_URLCONF = "bench.empty_urls"
