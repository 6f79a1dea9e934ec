"""The site's settings as tests see them: all defaults, and a PostgreSQL of the tests' own.

DATABASE_URL, where set, is kept: the suite then runs on that server, in a database `test_…` that it
creates.
"""

import os
from pathlib import Path

from booking_site.embedded_postgres.server import default_data_dir

BASE_DIR = Path(__file__).parents[2]

for line in (BASE_DIR / ".env.example").read_text().splitlines():
    variable = line.removeprefix("#").partition("=")[0]
    if variable not in ("DATABASE_URL", "DATA_DIR"):
        os.environ.pop(variable, None)
os.environ["ENV_FILE"] = os.devnull
os.environ["SECRET_KEY"] = "only for tests, which need no secret of fifty characters"
# Playwright runs an event loop in the thread of the test, which Django would take for async code.
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
os.environ.setdefault("DATA_DIR", str(default_data_dir(BASE_DIR, "test")))

from booking_site.embedded_postgres.system import make_data_folder  # noqa: E402
from booking_site.settings import *  # noqa: E402, F403
from booking_site.settings import DATA_DIR, DATABASES, LOGGING, STATIC_ROOT, STORAGES  # noqa: E402

make_data_folder(DATA_DIR)
STATIC_ROOT.mkdir(exist_ok=True)

STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
WHITENOISE_AUTOREFRESH = True  # files are looked for when asked for, not all for each test client
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.MD5PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",  # what a site in another process reads
]
# Two hundred threads race with a connection each: no pool between them and the locks.
DATABASES["default"]["OPTIONS"].pop("pool")
LOGGING["root"]["level"] = "WARNING"
