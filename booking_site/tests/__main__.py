"""`make test`: every test, on a PostgreSQL of their own and in a real Chromium.

Arguments go to pytest: `make test ARGS="-k race -x"`.
"""

import sys

import pytest

from booking_site.tests import chromium

if not chromium.find() and not chromium.install():
    sys.exit(f"holdfast: {chromium.MISSING}")
sys.exit(pytest.main(sys.argv[1:]))
