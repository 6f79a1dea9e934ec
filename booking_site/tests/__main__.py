"""`make test`: every test, on a PostgreSQL of their own and in a real Chromium.

Two files at a time, each with a database of its own: many tests wait for processes to start.
Arguments go to pytest: `make test ARGS="-k race -x"`.
"""

import sys

import pytest

from booking_site.tests import chromium

if not chromium.find() and not chromium.install():
    sys.exit(f"holdfast: {chromium.MISSING}")
options = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
sys.exit(pytest.main([*options, "-p", "booking_site.tests.order", *sys.argv[1:]]))
