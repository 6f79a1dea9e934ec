"""`manage.py check --deploy`: settings that run but are not safe for the public.

Django's own checks see to DEBUG, the secret key, cookies and headers. Those here see to what is
particular to this site; one of them looks into the database, so it needs `--database default`.
"""

import ipaddress
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Info, Tags, Warning, register
from django.db import Error
from django.http.request import validate_host

# Backends that no mail leaves the machine by, and caches that each process has for itself.
MAIL_GOES_NOWHERE = ("console", "dummy", "filebased", "locmem")
CACHE_IS_A_PROCESSES_OWN = ("dummy", "locmem")
SENSIBLE_HOLD_SECONDS = range(30, 1801)


@register(Tags.security, deploy=True)
def check_settings(app_configs: Any, **options: Any) -> list[CheckMessage]:
    return [
        *_check_address(),
        *_check_trust(),
        *_check_services(),
        *_check_database(),
        *_check_holds(),
    ]


def _check_address() -> Iterator[CheckMessage]:
    site = urlsplit(settings.SITE_URL)
    if site.scheme != "https":
        yield Warning(
            f"SITE_URL is {settings.SITE_URL}: passwords and the keys of bookings travel in the "
            "open, and cookies are not marked secure.",
            hint="Give the site a certificate and set SITE_URL=https://…",
            id="holdfast.W001",
        )
    if not validate_host(site.hostname, settings.ALLOWED_HOSTS):
        yield Warning(
            f"SITE_URL's host, {site.hostname}, is not in ALLOWED_HOSTS: every link in a mail "
            "leads to an error.",
            hint=f"Add it: ALLOWED_HOSTS={site.hostname}, or leave ALLOWED_HOSTS unset.",
            id="holdfast.W002",
        )
    if "*" in settings.ALLOWED_HOSTS:
        yield Warning(
            "ALLOWED_HOSTS allows every name: forged ones end up in links.",
            hint=f"Name the site's own: ALLOWED_HOSTS={site.hostname}. The health pages answer "
            "under any name.",
            id="holdfast.W003",
        )


def _check_trust() -> Iterator[CheckMessage]:
    everybody = [p for p in settings.TRUSTED_PROXIES if not ipaddress.ip_network(p).prefixlen]
    if everybody:
        yield Warning(
            f"TRUSTED_PROXIES trusts everybody ({', '.join(everybody)}): anyone can claim to have "
            "come by https, and from another address.",
            hint="Name the addresses of your reverse proxies, like TRUSTED_PROXIES=10.0.0.7.",
            id="holdfast.W004",
        )
    plain = [o for o in settings.CSRF_TRUSTED_ORIGINS if urlsplit(o).scheme != "https"]
    if plain:
        yield Warning(
            f"CSRF_TRUSTED_ORIGINS has {', '.join(plain)}: whoever sits on the line can post "
            "forms in a patient's name.",
            hint="Use https origins only, or leave it unset: the site's own forms need none.",
            id="holdfast.W005",
        )


def _check_services() -> Iterator[CheckMessage]:
    # Mails are queued by EMAIL_BACKEND and delivered by the other.
    backend = getattr(settings, "MAILER_EMAIL_BACKEND", settings.EMAIL_BACKEND)
    if backend.split(".")[-2] in MAIL_GOES_NOWHERE:
        yield Warning(
            "Mails are not sent to anybody: EMAIL_URL is unset, or names no mail server.",
            hint="Set EMAIL_URL=smtp+tls://user:password@host:587.",
            id="holdfast.W006",
        )
    if settings.CACHES["default"]["BACKEND"].split(".")[-2] in CACHE_IS_A_PROCESSES_OWN:
        yield Warning(
            "Each process has a cache of its own: limits on guessing passwords count separately "
            "in each, and begin anew with it.",
            hint="Leave CACHE_URL unset (the database is the cache), or name a server that all "
            "processes share, like CACHE_URL=redis://host:6379/0.",
            id="holdfast.W007",
        )


def _check_database() -> Iterator[CheckMessage]:
    database = settings.DATABASES["default"]
    if database["ENGINE"] == "booking_site.embedded_postgres":
        if settings.SITE_URL.startswith("https://"):
            yield Info(
                "A public site on the bundled PostgreSQL: it is durable, but serves this machine "
                "only, and nobody backs it up.",
                hint="Set DATABASE_URL to a PostgreSQL server, or see to backups of DATA_DIR "
                "yourself.",
                id="holdfast.I008",
            )
    elif _is_remote(database.get("HOST", "")) and "sslmode" not in database["OPTIONS"]:
        yield Warning(
            f"The way to the database at {database['HOST']} is encrypted only if that server "
            "offers it, and nobody checks whose it is.",
            hint="Add ?sslmode=verify-full to DATABASE_URL; ?sslmode=disable if the network "
            "between the two is yours alone.",
            id="holdfast.W009",
        )


def _is_remote(host: str) -> bool:
    """Whether anything but this machine can be meant; a path is a socket."""
    if not host or host.startswith("/") or host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def _check_holds() -> Iterator[CheckMessage]:
    if settings.HOLD_SECONDS not in SENSIBLE_HOLD_SECONDS:
        yield Warning(
            f"A hold lasts {settings.HOLD_SECONDS} seconds: too short to fill in a form, or long "
            "enough to empty a hall without buying.",
            hint="Set HOLD_SECONDS to something from 30 to 1800; 120 is the default.",
            id="holdfast.W010",
        )


@register(Tags.security, Tags.database, deploy=True)
def check_demo_logins(
    app_configs: Any, databases: list[str] | None = None, **options: Any
) -> list[CheckMessage]:
    """With `--database default`, and if it can be reached. One query."""
    from accounts.models import User
    from slots.management.commands.load_demo import LOGINS

    if not databases or "default" not in databases:
        return []
    try:
        demo = list(
            User.objects.filter(email__in=[email for _, email in LOGINS], is_active=True)
            .order_by("email")
            .values_list("email", flat=True)
        )
    except Error:
        return []
    if not demo:
        return []
    return [
        Warning(
            f"The logins of the demo can be used: {', '.join(demo)}.",
            hint="Delete them in the office, or take away their right to sign in (“active”).",
            id="holdfast.W011",
        )
    ]
