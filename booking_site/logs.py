"""What a log line holds: one line of text for people, or one JSON object for machines.

No personal data. A booking's address is its key, and what an exception says may quote what somebody
typed, or a whole row of the database. So of a request the name of its route is logged, and of an
exception its type, the way it took, and where it is PostgreSQL's the SQLSTATE and the constraint.

gunicorn loads this before gevent has patched the process: nothing here may import Django.
"""

import copy
import json
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

# A booking's key, and whatever looks like an address or a URL with a password. The last defence:
# what is known to say such things is reworded below.
KEY = re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE)
ADDRESS = re.compile(r"[^\s<>\"'(),;]+@[^\s<>\"'(),;]+")

OF_A_REQUEST = ("method", "route", "status", "ms")

# Of a record no line tells these, and to find them takes as long as to write it.
logging.logThreads = logging.logMultiprocessing = logging.logAsyncioTasks = False


def configure(*, style: str, level: str, values: bool = False) -> dict[str, Any]:
    """The logging of the whole site, for `dictConfig`. With `values` exceptions tell all."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {
            "request_id": {
                "()": "django_guid.log_filters.CorrelationId",
                "correlation_id_field": "request_id",
            },
            "broken": {"()": "booking_site.logs.Broken"},
        },
        "formatters": {
            "line": {"()": "booking_site.logs.Lines", "values": values},
            "json": {"()": "booking_site.logs.Json", "values": values},
        },
        "handlers": {
            "console": {
                "class": "logging.StreamHandler",
                "formatter": style,
                "filters": ["request_id"],
            }
        },
        "root": {"handlers": ["console"], "level": level},
        "loggers": {
            # Their own handlers would say it a second time, and in other words.
            "django": {"handlers": [], "propagate": True, "level": level},
            # At DEBUG it tells the path of each request.
            "gunicorn.error": {
                "handlers": [],
                "propagate": True,
                "level": "INFO" if level == "DEBUG" else level,
            },
            # Of requests what broke; what was refused is in the line of its request.
            "django.request": {"level": "ERROR", "filters": ["broken"]},
            # Whom a mail goes to and what it is about.
            "mailer": {"level": "WARNING"},
            # That a request takes the id of the one before it.
            "django_guid": {"level": "ERROR"},
            # That there is no .env.
            "environ": {"level": "WARNING"},
        },
    }


class Broken(logging.Filter):
    """Lets pass what has a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        return bool(record.exc_info)


class Lines(logging.Formatter):
    """`2026-11-20 10:39:02,118 INFO holdfast.request: GET booking 200 in 12 ms [3f9a21c077be]`"""

    def __init__(self, *, values: bool = False) -> None:
        super().__init__("{asctime} {levelname} {name}: {message}", style="{")
        self.values = values

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(discreet(record, values=self.values))
        request_id = getattr(record, "request_id", None)
        if request_id is None:
            return line
        first, *rest = line.split("\n", 1)
        return "\n".join([f"{first} [{request_id}]", *rest])


class Json(logging.Formatter):
    """One object a line, with these fields and no others: what a library adds stays out."""

    def __init__(self, *, values: bool = False) -> None:
        super().__init__()
        self.values = values

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": _masked(_worded(record)),
            "request_id": getattr(record, "request_id", None),
            **{name: getattr(record, name, None) for name in OF_A_REQUEST},
            "error": self._error(record),
            "pid": record.process,
        }
        told = {name: value for name, value in told.items() if value is not None}
        return json.dumps(told, default=str)

    def _error(self, record: logging.LogRecord) -> str | None:
        if not record.exc_info:
            return None
        if self.values:
            return self.formatException(record.exc_info)
        return describe(record.exc_info[1])


def discreet(record: logging.LogRecord, *, values: bool) -> logging.LogRecord:
    """A copy of the record that names nobody."""
    record = copy.copy(record)
    record.msg, record.args = _masked(_worded(record)), None
    if record.exc_info and not values:
        record.exc_text = describe(record.exc_info[1])
        record.exc_info = None
    record.stack_info = None
    return record


def _worded(record: logging.LogRecord) -> str:
    """The message; where Django or gunicorn would tell a path or an address, in our words."""
    if record.name == "django.security.csrf":  # "Forbidden (reason - with an address): path"
        return f"Forbidden: {str(record.args[0]).partition(' - ')[0]}"
    if hasattr(record, "request") and hasattr(record, "status_code"):
        return HTTPStatus(record.status_code).phrase
    if record.name == "gunicorn.error":
        said = str(record.msg)
        if said.startswith("Error handling request"):
            return "Error handling request"
        if said.startswith("Invalid request from"):
            return f"Invalid request: {type(sys.exception()).__name__}"
    return record.getMessage()


def _masked(text: str) -> str:
    if text.count("-") >= 4:
        text = KEY.sub("…", text)
    return ADDRESS.sub("…", text) if "@" in text else text


def describe(error: BaseException | None) -> str:
    """The traceback of an exception and of those before it, without what they say."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.insert(0, error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "".join("".join(traceback.format_tb(e.__traceback__)) + _name(e) for e in chain).rstrip()


def _name(error: BaseException) -> str:
    """Its type and, of PostgreSQL's, what failed: none of the values."""
    diagnosis = getattr(error, "diag", None)
    facts = [
        f"{fact}={value}"
        for fact in ("sqlstate", "table_name", "column_name", "constraint_name")
        if (value := getattr(diagnosis, fact, None))
    ]
    return " ".join([f"{type(error).__module__}.{type(error).__qualname__}", *facts]) + "\n"
