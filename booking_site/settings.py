"""Every setting of the site. All come from the environment, or from a `.env` file beside manage.py.

`.env.example` lists them. A wrong value stops the start with one sentence.
"""

import ipaddress
import os
import re
import secrets
import socket
import warnings
from collections.abc import Callable
from email.utils import parseaddr
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import available_timezones

import environ
import psutil
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.validators import validate_email

from booking_site import logs
from booking_site.database import give_up
from booking_site.embedded_postgres.server import EmbeddedPostgresError, default_data_dir
from booking_site.embedded_postgres.system import make_data_folder

ANY_ADDRESS = ("0.0.0.0", "::")
BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
env.read_env(env.str("ENV_FILE", str(BASE_DIR / ".env")))


def read(name: str, cast: Callable[..., Any], default: Any, valid: Callable, wanted: str) -> Any:
    """The variable `name`, or `default` where it is unset or empty.

    Raises ImproperlyConfigured, saying what is `wanted`, if it cannot be read or is not `valid`.
    """
    if not env.str(name, ""):
        return default
    try:
        value = cast(name)
        if valid(value):
            return value
    except (ValueError, ImproperlyConfigured, ValidationError):
        pass
    raise ImproperlyConfigured(f"{name} is {env.str(name)!r}; it must be {wanted}.")


def read_number(name: str, default: int, least: int = 1, most: int = 1_000_000) -> int:
    """A whole number from the environment."""
    wanted = f"a whole number from {least} to {most}"
    return read(name, env.int, default, lambda n: least <= n <= most, wanted)


def read_switch(name: str, *, default: bool) -> bool:
    """“on” or “off” from the environment."""
    words = {"on": True, "true": True, "yes": True, "1": True}
    words |= {"off": False, "false": False, "no": False, "0": False}
    return read(
        name,
        lambda name: words.get(env.str(name).lower()),
        default,
        lambda value: value is not None,
        "on or off",
    )


def are_networks(addresses: list[str]) -> bool:
    for address in addresses:
        ipaddress.ip_network(address)  # raises ValueError
    return bool(addresses)


def url_host(host: str) -> str:
    """The host as it is written in a URL: the wildcard as this machine, IPv6 in brackets."""
    if host in ANY_ADDRESS:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


MAIL_PORTS = {"smtp": 25, "smtp+tls": 587, "smtp+ssl": 465}


def read_email_url() -> dict[str, Any]:
    """Where mails go, as Django's EMAIL_… settings. Raises ImproperlyConfigured."""
    url = env.str("EMAIL_URL", "") or "consolemail://"
    try:
        parts = urlsplit(url)
        config = env.email_url_config(url) | {"EMAIL_PORT": parts.port}
        if parts.scheme in MAIL_PORTS:
            is_usable = parts.hostname and parts.path in ("", "/")
            config["EMAIL_PORT"] = parts.port or MAIL_PORTS[parts.scheme]
        elif parts.scheme == "filemail":
            is_usable = not parts.netloc and parts.path.strip("/")
            config["EMAIL_FILE_PATH"] = "/" + config["EMAIL_FILE_PATH"].lstrip("/")
        else:
            is_usable = url == "consolemail://"
            config["EMAIL_BACKEND"] = "booking_site.console.EmailBackend"
        if is_usable and not parts.query and not parts.fragment:
            return config
    except (ValueError, ImproperlyConfigured):
        pass
    # Never repeat the value: it holds a password.
    raise ImproperlyConfigured(
        "EMAIL_URL cannot be used; it must look like "
        "smtp+tls://user:password@mail.example.org:587 or filemail:///folder."
    )


def is_mailbox(text: str) -> bool:
    """Raises ValidationError unless it is an address, with or without a name before it."""
    validate_email(parseaddr(text)[1])
    return text.isprintable()


def own_names() -> list[str]:
    """The names and addresses under which other machines know this one."""
    addresses = {a.address for of_card in psutil.net_if_addrs().values() for a in of_card}
    usable = [a for a in addresses if a.count(".") == 3]
    return [socket.gethostname(), *sorted(usable)]


def read_secret_key(data_dir: Path) -> str:
    """The key of the embedded installation: made once, kept in the data folder, mode 600."""
    path = data_dir / "secret_key"
    try:
        make_data_folder(data_dir)
        fresh = data_dir / f"secret_key.{secrets.token_hex(8)}"
        if not path.exists():
            # Written whole, then linked: of several processes at once the first one's key stays.
            fresh.touch(mode=0o600)
            fresh.write_text(secrets.token_urlsafe(50))
            try:
                path.hardlink_to(fresh)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        return path.read_text()
    except (OSError, EmbeddedPostgresError) as error:
        raise ImproperlyConfigured(str(error)) from error


DATA_DIR = Path(env.str("DATA_DIR", "") or default_data_dir(BASE_DIR, "run")).absolute()
DATABASE_URL = env.str("DATABASE_URL", "")

DEBUG = read_switch("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY", "")
if not SECRET_KEY:
    if DATABASE_URL:
        raise ImproperlyConfigured(
            "SECRET_KEY is not set; with DATABASE_URL it must be: a random text of 50 characters."
        )
    SECRET_KEY = read_secret_key(DATA_DIR)

HOST = env.str("HOST", "") or "127.0.0.1"
PORT = read_number("PORT", 8000, most=65535)
# gunicorn.conf.py asks for these two.
WEB_CONCURRENCY = read_number("WEB_CONCURRENCY", os.cpu_count() or 1, most=256)
TRUSTED_PROXIES = read(
    "TRUSTED_PROXIES", env.list, ["127.0.0.1"], are_networks, "addresses like 10.0.0.7,10.1.0.0/16"
)
SITE_URL = read(
    "SITE_URL",
    env.str,
    f"http://{url_host(HOST)}:{PORT}",
    lambda url: urlsplit(url).scheme in ("http", "https") and urlsplit(url).hostname,
    "the site's address, like https://book.example.org",
).rstrip("/")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[]) or [
    *{"localhost", "127.0.0.1", "[::1]", url_host(urlsplit(SITE_URL).hostname)},
    *(own_names() if HOST in ANY_ADDRESS else ()),
]
CSRF_TRUSTED_ORIGINS = read(
    "CSRF_TRUSTED_ORIGINS",
    env.list,
    [],
    lambda origins: all(urlsplit(o).scheme in ("http", "https") for o in origins),
    "origins like https://book.example.org",
)

# Booking

HOLD_SECONDS = read_number("HOLD_SECONDS", 120, most=86_400)
HOLD_MAX_SECONDS = read_number("HOLD_MAX_SECONDS", max(600, HOLD_SECONDS), HOLD_SECONDS, 604_800)
MAX_SEATS_PER_BOOKING = read_number("MAX_SEATS_PER_BOOKING", 10, most=1000)
MAX_LIVE_HOLDS = read_number("MAX_LIVE_HOLDS", 5, most=1000)
# A minute; 0, for unset, is any number.
HOLDS_PER_ADDRESS = read_number("HOLDS_PER_ADDRESS", 0)

# Live pages: how many streams one network address may have open with one web process; 0 is any.
STREAMS_PER_ADDRESS = read_number("STREAMS_PER_ADDRESS", 100, least=0)

# Applications

INSTALLED_APPS = [
    "booking_site",
    "accounts",
    "slots",
    "bookings",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.postgres",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_htmx",
    "csp",
    "allauth",
    "allauth.account",
    "mailer",
    "import_export",
    "django_guid",
    "ninja",  # for the static files of its docs
]
MIDDLEWARE = [
    "booking_site.middleware.HealthMiddleware",
    "booking_site.middleware.RequestLogMiddleware",
    "booking_site.problems.ApiMiddleware",
    "booking_site.middleware.WholeRequestMiddleware",
    "booking_site.middleware.DatabaseAwayMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "booking_site.middleware.ContentPolicyMiddleware",
    "booking_site.middleware.PrivatePagesMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "booking_site.middleware.MessagesMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]
ROOT_URLCONF = "booking_site.urls"
WSGI_APPLICATION = "booking_site.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# Database. ATOMIC_REQUESTS stays off: the transactions are bookings.lifecycle's.

if DATABASE_URL:
    try:
        with warnings.catch_warnings(action="ignore"):  # they would show the parts of the URL
            DATABASES = {"default": env.db("DATABASE_URL")}
        is_postgres = DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql"
        if not (is_postgres and DATABASES["default"]["NAME"]):
            raise ValueError
    except (KeyError, ValueError, ImproperlyConfigured):
        # Never repeat the value: it holds a password.
        raise ImproperlyConfigured(
            "DATABASE_URL cannot be used; it must look like postgres://user:password@host:5432/name."
        ) from None
else:
    DATABASES = {
        "default": {
            "ENGINE": "booking_site.embedded_postgres",
            "NAME": "holdfast",
            "DATA_DIR": DATA_DIR,
        }
    }
# A pool also bounds how many transactions of one process interleave. It needs CONN_MAX_AGE=0.
# A crowd waits for its turn; who waits for a database that is away is told so sooner.
DATABASES["default"]["CONN_MAX_AGE"] = 0
DATABASES["default"].setdefault("OPTIONS", {})
DATABASES["default"]["OPTIONS"] |= {
    "pool": {
        "min_size": 0,
        "max_size": 8,
        "timeout": 10,
        "reconnect_timeout": 3,
        "reconnect_failed": give_up,
    },
    "connect_timeout": 5,
}
# What is asked most is prepared by PostgreSQL: booking_site/prepared.py.
PREPARED_STATEMENTS = read_switch("PREPARED_STATEMENTS", default=True)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# People

AUTH_USER_MODEL = "accounts.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
PASSWORD_HASHERS = ["accounts.hashers.PasswordHasher"]
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "my_bookings"
LOGOUT_REDIRECT_URL = "home"

# Accounts. Codes rather than links: mail scanners follow links, and a code is good on a telephone.

ACCOUNT_ADAPTER = "accounts.adapter.AccountAdapter"
ACCOUNT_FORMS = {
    "login": "accounts.forms.LoginForm",
    "signup": "accounts.forms.SignupForm",
    "add_email": "accounts.forms.AddEmailForm",
    "change_password": "accounts.forms.ChangePasswordForm",
    "set_password": "accounts.forms.SetPasswordForm",
    "reset_password": "accounts.forms.ResetPasswordForm",
    "reset_password_from_key": "accounts.forms.NewPasswordForm",
    "reauthenticate": "accounts.forms.ReauthenticateForm",
    "request_login_code": "accounts.forms.RequestLoginCodeForm",
    "confirm_login_code": "accounts.forms.LoginCodeForm",
    "confirm_email_verification_code": "accounts.forms.EmailCodeForm",
    "confirm_password_reset_code": "accounts.forms.PasswordResetCodeForm",
}
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_PREVENT_ENUMERATION = True
ACCOUNT_CHANGE_EMAIL = True  # one address; a new one takes its place when it is confirmed
ACCOUNT_REAUTHENTICATION_REQUIRED = True
ACCOUNT_EMAIL_VERIFICATION = "mandatory"
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
ACCOUNT_EMAIL_VERIFICATION_SUPPORTS_RESEND = True
ACCOUNT_LOGIN_BY_CODE_ENABLED = True
ACCOUNT_LOGIN_BY_CODE_SUPPORTS_RESEND = True
ACCOUNT_PASSWORD_RESET_BY_CODE_ENABLED = True
ACCOUNT_LOGIN_ON_PASSWORD_RESET = True
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
CODE_SECONDS = 15 * 60  # a mail may take its time
CODE_TRIES = 5
ALLAUTH_USER_CODE_FORMAT = {"numeric": True, "length": 8, "dashed": True}
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_TIMEOUT = CODE_SECONDS
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_MAX_ATTEMPTS = CODE_TRIES
ACCOUNT_LOGIN_BY_CODE_TIMEOUT = CODE_SECONDS
ACCOUNT_LOGIN_BY_CODE_MAX_ATTEMPTS = CODE_TRIES
ACCOUNT_PASSWORD_RESET_BY_CODE_TIMEOUT = CODE_SECONDS
ACCOUNT_PASSWORD_RESET_BY_CODE_MAX_ATTEMPTS = CODE_TRIES
ACCOUNT_LOGIN_TIMEOUT = 4 * CODE_SECONDS  # of all steps of one login
# So many tries in such a time, of one network address (ip), account or address typed in (key).
# Every limit ends by itself, and who guesses passwords leaves the way in by a code open. The API
# counts with the pages: "login" and "signup" are what comes from one network address in all.
ACCOUNT_RATE_LIMITS = {
    "login": "30/m/ip",
    "login_failed": "20/5m/ip,5/5m/key",
    "signup": "20/m/ip",
    "request_login_code": "10/m/ip,3/m/key,20/h/key",
    "reset_password": "10/m/ip,3/m/key,20/h/key",
    "confirm_email": "3/m/key,10/h/key",  # codes sent
    "confirm_at_login": "3/m/key,10/h/key",  # codes sent to who knows the password
    # What the API sends if there is an account. It must not use up the codes of its owner.
    "account_exists": "3/m/key,10/h/key",
    "confirm_code": f"30/5m/ip,{CODE_TRIES}/{CODE_SECONDS}s/key",  # codes tried; key: one code
    "change_password": "5/5m/user",
    "reauthenticate": "5/5m/user",
    # Bookings that name one address (key), which may be a stranger's. None for each network
    # address: a whole clinic, or a queue for tickets, may have one.
    "mail_booking": "30/h/key",
}
if HOLDS_PER_ADDRESS:
    ACCOUNT_RATE_LIMITS["hold"] = f"{HOLDS_PER_ADDRESS}/m/ip"
# The API's tokens are signed with SECRET_KEY and end with their session: by a new password, or when
# the account is closed.
HEADLESS_JWT_ALGORITHM = "HS256"
HEADLESS_JWT_STATEFUL_VALIDATION_ENABLED = True
HEADLESS_JWT_ROTATE_REFRESH_TOKEN = False  # a lost answer would log out whoever asked
HEADLESS_JWT_ACCESS_TOKEN_EXPIRES_IN = 15 * 60
HEADLESS_JWT_REFRESH_TOKEN_EXPIRES_IN = 14 * 24 * 3600
# The limits count here: one count for all web processes. Its table comes with a migration.
CACHES = {
    "default": {
        "BACKEND": "booking_site.counts.CountsCache",
        "LOCATION": "cache",
    }
}
if cache_url := env.str("CACHE_URL", ""):
    # Only what all processes share; and never repeat the value: it may hold a password.
    if not re.match("rediss?://[^/]", cache_url):
        raise ImproperlyConfigured(
            "CACHE_URL cannot be used; it must look like redis://cache.example.org:6379/0."
        )
    if not find_spec("redis"):
        raise ImproperlyConfigured(
            "CACHE_URL needs the Python package “redis”, which is not installed."
        )
    CACHES = {"default": env.cache("CACHE_URL")}

# Mail: queued in the database in one transaction with what it tells, sent by `send_mails`.

EMAIL_BACKEND = "mailer.backend.DbBackend"
_mail = read_email_url()
MAILER_EMAIL_BACKEND = _mail["EMAIL_BACKEND"]
EMAIL_HOST, EMAIL_PORT = _mail["EMAIL_HOST"], _mail["EMAIL_PORT"]
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _mail["EMAIL_HOST_USER"], _mail["EMAIL_HOST_PASSWORD"]
EMAIL_USE_TLS = _mail.get("EMAIL_USE_TLS", False)
EMAIL_USE_SSL = _mail.get("EMAIL_USE_SSL", False)
EMAIL_FILE_PATH = _mail["EMAIL_FILE_PATH"]
EMAIL_TIMEOUT = 10  # seconds for each answer of the mail server
_mail_domain = urlsplit(SITE_URL).hostname
if ":" in _mail_domain or _mail_domain.rpartition(".")[2].isdigit():
    _mail_domain = "localhost"  # not an IP address
DEFAULT_FROM_EMAIL = SERVER_EMAIL = read(
    "DEFAULT_FROM_EMAIL",
    env.str,
    f"Holdfast <no-reply@{_mail_domain}>",
    is_mailbox,
    "an address like Holdfast <no-reply@book.example.org>",
)
MAILER_USE_FILE_LOCK = False  # it would outlive a killed sender; the rows' own locks do not
MAILER_EMAIL_LOG_MESSAGE_DATA = False  # what was sent is not kept
MAILER_ERROR_HANDLER = "booking_site.mail_queue.handle_failure"
MAILER_EMAIL_MAX_RETRIES = 12  # each after twice the time: three days in all

# Language and time

LANGUAGE_CODE = "en"
TIME_ZONE = read(
    "TIME_ZONE", env.str, "UTC", available_timezones().__contains__, "a zone like Europe/Berlin"
)
USE_TZ = True

# Static files: from the packages and static/, collected under hashed names.

STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}

# Security

# HSTS covers this host; whether it covers the whole domain is for the domain's owner to say.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "manifest-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}
X_FRAME_OPTIONS = "DENY"
CSRF_COOKIE_HTTPONLY = True
SECURE_REFERRER_POLICY = "same-origin"  # a booking's URL is its key: it goes to no other site
if SITE_URL.startswith("https://"):
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SECURE_SSL_REDIRECT = True
    SECURE_HSTS_SECONDS = 31_536_000

# Logs: one line an event, to standard error; booking_site/logs.py says what is in it.

LOG_FORMAT = read(
    "LOG_FORMAT",
    env.str,
    "json" if DATABASE_URL else "line",
    ("json", "line").__contains__,
    "json or line",
)
LOG_LEVEL = read(
    "LOG_LEVEL",
    env.str,
    "INFO",
    ("DEBUG", "INFO", "WARNING", "ERROR").__contains__,
    "DEBUG, INFO, WARNING or ERROR",
)
LOGGING = logs.configure(style=LOG_FORMAT, level=LOG_LEVEL, values=DEBUG)
