"""gunicorn, as `make run` and production start it: `gunicorn -c booking_site/gunicorn.conf.py
booking_site.wsgi`.

Nothing here may import Django or psycopg: psycopg chooses its way to wait when it is imported, and
gevent has not patched the process yet. For the same reason `preload_app` stays off.
"""

import os
import resource
import tempfile

_host = os.environ.get("HOST") or "127.0.0.1"
_port = os.environ.get("PORT") or "8000"

bind = f"[{_host}]:{_port}" if ":" in _host else f"{_host}:{_port}"
proc_name = "holdfast"
worker_class = "gevent"
workers = int(os.environ.get("WEB_CONCURRENCY") or os.cpu_count() or 1)
worker_connections = 1000  # a worker's
timeout = 30  # seconds without a sign of life of a worker
graceful_timeout = 10  # seconds for requests under way when stopping
keepalive = 5
# X-Forwarded-Proto is believed of these only.
forwarded_allow_ips = os.environ.get("TRUSTED_PROXIES") or "127.0.0.1"
# One each: two sites of one user must not answer at one socket.
control_socket = os.path.join(tempfile.gettempdir(), f"holdfast-{os.getuid()}-{_port}.ctl")

# A connection is an open file, and the database, logs and modules need some too.
_needed = worker_connections + 256
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if _soft != resource.RLIM_INFINITY and _soft < _needed:
    _limit = _needed if _hard == resource.RLIM_INFINITY else min(_needed, _hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_limit, _hard))
    if _limit < _needed:
        worker_connections = max(_limit - 256, 16)
        print(f"holdfast: {_limit} open files allowed, so {worker_connections} connections.")
