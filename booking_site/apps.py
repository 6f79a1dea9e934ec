"""The site as an application: it brings the checks of its settings."""

from django.apps import AppConfig


class SiteConfig(AppConfig):
    name = "booking_site"

    def ready(self) -> None:
        from booking_site import checks  # noqa: F401  (it registers them)
