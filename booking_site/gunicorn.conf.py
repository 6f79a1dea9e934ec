"""gunicorn, as `make run` and production start it: `gunicorn -c booking_site/gunicorn.conf.py
booking_site.wsgi`.

Nothing here may import Django or psycopg: psycopg chooses its way to wait when it is imported, and
gevent has not patched the process yet. For the same reason `preload_app` stays off. So another
process reads the settings, and refuses wrong ones.
"""

import gc
import json
import os
import resource
import socket
import subprocess
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Any

import gevent
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.workers import ggevent

_SHOW = """
import json
from booking_site import settings as s
print(json.dumps([
    s.HOST, s.PORT, s.WEB_CONCURRENCY, s.TRUSTED_PROXIES, str(s.DATA_DIR), s.LOGGING
]))
"""
_settings = subprocess.run(
    [sys.executable, "-c", _SHOW],
    cwd=Path(__file__).parents[1],
    capture_output=True,
    text=True,
)
if _settings.returncode:
    # Of the traceback the last line: the settings' one sentence.
    sys.exit("holdfast: " + _settings.stderr.strip().splitlines()[-1].partition(": ")[2])
_host, _port, workers, _proxies, _data_dir, logconfig_dict = json.loads(_settings.stdout)

bind = f"[{_host}]:{_port}" if ":" in _host else f"{_host}:{_port}"
proc_name = "holdfast"
worker_class = "gevent"
worker_connections = 4000  # a worker's, event streams among them
backlog = 2048  # connections that wait to be accepted, as far as the kernel lets them
timeout = 30  # seconds without a sign of life of a worker
graceful_timeout = 10  # seconds for requests under way when stopping
keepalive = 5
# X-Forwarded-Proto is believed of these only.
forwarded_allow_ips = ",".join(_proxies)
forwarder_headers = ""  # a proxy passes these on from clients, who could tell another path
# One each: two sites of one user must not answer at one socket. None where its path is too long
# or cannot be written.
control_socket = f"{_data_dir}/gunicorn-{_port}.ctl"
control_socket_disable = len(control_socket.encode()) > 100 or not os.access(_data_dir, os.W_OK)

# What gunicorn says looks like what the site says, who logs each request. A request's id comes with
# Django, in the workers.
accesslog = None
logconfig_dict["handlers"]["console"]["filters"] = []
del logconfig_dict["filters"]["request_id"]


class logger_class(Logger):
    def access(self, *args: Any) -> None:
        """Nothing. With a `logconfig_dict` gunicorn would word a line that nobody writes down."""


def post_worker_init(worker: Any) -> None:
    """Lets the site see that this worker is to stop: event streams then end at once. And has done
    with the garbage of starting.
    """
    from django.urls import get_resolver  # no earlier: see above

    from booking_site import stop_signal
    from slots import live

    stop_signal.is_stopping = lambda: not worker.alive
    live.hub.most = worker_connections * 3 // 4  # the rest is for requests

    # What is there now stays. To look through it for garbage again and again was a fifth of what a
    # request cost, and a pause of some ten milliseconds for all that were under way.
    get_resolver().url_patterns  # noqa: B018  (all of the site, which the first request would load)
    gc.collect()
    gc.freeze()
    gc.set_threshold(25_000, 20, 20)


def post_request(worker: Any, request: Any, environ: Any, response: Any) -> None:
    """Gives way to others. A client whose next request is there already would keep the process for
    itself: reading what has come does not wait, and without that no greenlet yields.
    """
    gevent.sleep(0)


def _write_problem(client: socket.socket, status: int, reason: str, message: str) -> None:
    """What gunicorn refuses before the site sees it: half a request line, far too many headers.

    Its own answer is a page that repeats what was sent. No path under /api/ answers a page, and
    which path was meant is not always known: so it is the API's problem document, for all.
    """
    status = 400 if status == 501 else status  # a strange Transfer-Encoding
    code, detail = {
        414: ("too_large", "The address is too long."),
        417: ("invalid", "Of the header Expect only “100-continue” is understood."),
        431: ("too_large", "The headers are too long, or too many."),
        500: ("internal", "Something went wrong here, and it has been noted."),
    }.get(status, ("invalid", "This is not a request as HTTP has it."))
    title = HTTPStatus(status).phrase
    document = {"type": "about:blank", "title": title, "status": status}
    body = json.dumps(document | {"detail": detail, "code": code})
    head = [
        f"HTTP/1.1 {status} {title}",
        "Connection: close",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
    ]
    util.write_nonblock(client, "\r\n".join([*head, "", body]).encode())


util.write_error = _write_problem


class _Server(StreamServer):
    """Lets in half as many clients again as it has, each time that it has gone round them.

    gunicorn has it let in one, so that the workers get equally many; of a crowd that comes at once
    the last then wait until the first have been served a hundred times. Many at once from the
    start, and one worker takes all of a small crowd.
    """

    max_accept = property(lambda self: 1 + len(self.pool or ()) // 2, lambda self, number: None)


ggevent.StreamServer = _Server

# A connection is an open file, and the database, logs and modules need some too.
_needed = worker_connections + 256
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if _soft != resource.RLIM_INFINITY and _soft < _needed:
    _limit = _needed if _hard == resource.RLIM_INFINITY else min(_needed, _hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_limit, _hard))
    if _limit < _needed:
        worker_connections = max(_limit - 256, 16)
        print(f"holdfast: {_limit} open files allowed, so {worker_connections} connections.")
