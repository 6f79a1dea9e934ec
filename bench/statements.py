"""Which statements the site sends, as PostgreSQL gets them, and whether a pgbench script has them.

Captured on the wire (libpq's own trace), so that it does not matter whether the ORM, a prepared
statement or a pipeline sends them.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psycopg.pq import Trace

_MESSAGE = re.compile(r"^[FB]\t\d+\t(\w+)(?:\t|$)", re.MULTILINE)
_PARSE = re.compile(r'^ "([^"]*)" "(.*)" \d+(?: (?:\d+|NNNN))*\s*$', re.DOTALL)
_BIND = re.compile(r'^ "[^"]*" "([^"]*)"')

_VALUES = [
    (re.compile(r"--[^\n]*"), " "),
    (re.compile(r"/\*value\*/.*?/\*\*/", re.DOTALL), "?"),
    (re.compile(r"'(?:[^']|'')*'"), "?"),
    (re.compile(r"::\s*[a-z_]+(?: varying| with time zone)?(?:\(\d+\))?(?:\[\])?", re.I), ""),
    (re.compile(r"\$\d+|%s|(?<![\w:]):\w+|\b(?<!\w)\d+(?:\.\d+)?\b"), "?"),
    (re.compile(r"(?<!IS )(?<!IS NOT )\bNULL\b", re.I), "?"),
    (re.compile(r"\b(?:true|false)\b", re.I), "?"),
    (re.compile(r"ARRAY\[[?, ]*\]", re.I), "?"),
    (re.compile(r"\(\?\)"), "?"),
    (re.compile(r'"'), ""),
    (re.compile(r"\s+"), " "),
    (re.compile(r"\s*([(),])\s*"), r"\1"),
]


@contextmanager
def captured(connection: Any) -> Iterator[list[str]]:
    """Fills the list with every statement of a Django connection, in order, BEGIN and COMMIT too.

    The connection is closed first: a statement that it had prepared before would have no text.
    """
    connection.close()
    connection.ensure_connection()
    found: list[str] = []
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        wire = connection.connection.pgconn
        wire.trace(file.fileno())
        wire.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        try:
            yield found
        finally:
            wire.untrace()
            file.seek(0)
            found += read_trace(file.read())
            connection.close()


def read_trace(text: str) -> list[str]:
    """The statements of a trace: simple queries, and each use of a prepared one."""
    prepared: dict[str, str] = {}
    statements = []
    messages = list(_MESSAGE.finditer(text))
    ends = [message.start() for message in messages[1:]] + [len(text)]
    for message, end in zip(messages, ends, strict=True):
        if text[message.start()] != "F":
            continue
        content = text[message.end() : end].rstrip("\n")
        if message[1] == "Query":
            statements.append(content.strip()[1:-1])
        elif message[1] == "Parse" and (parsed := _PARSE.match(content)):
            prepared[parsed[1]] = parsed[2]
        elif message[1] == "Bind" and (bound := _BIND.match(content)):
            statements.append(prepared[bound[1]])
    return statements


def shape(statement: str) -> str:
    """The statement without its values: the same for the same work."""
    for pattern, text in _VALUES:
        statement = pattern.sub(text, statement)
    return statement.strip(" ;").lower()


def read_script(script: str, *, refused: bool = False) -> list[str]:
    """The statements of a pgbench script, on the way that succeeds, or on that of a refusal.

    The ways part at `\\if`, whose first branch is the one that succeeds.
    """
    kept, branch = [], None
    for line in script.splitlines():
        command = line.split()[0] if line.startswith("\\") else ""
        if command == "\\if":
            branch = False
        elif command == "\\else":
            branch = True
        elif command == "\\endif":
            branch = None
        elif not command and branch in (None, refused):
            kept.append(line.partition("--")[0])
    text = re.sub(r"\\[ga]set\b[^\n]*", ";", "\n".join(kept))
    return [statement.strip() for statement in text.split(";") if statement.strip()]


def differences(sent: list[str], script: Path, *, refused: bool = False) -> list[str]:
    """Lines that say where the script is not what the site sends; none if they agree."""
    theirs = list(map(shape, sent))
    ours = list(map(shape, read_script(script.read_text(), refused=refused)))
    lines = []
    for n in range(max(len(theirs), len(ours))):
        site = theirs[n] if n < len(theirs) else "nothing"
        limit = ours[n] if n < len(ours) else "nothing"
        if site != limit:
            lines += [f"statement {n + 1} of the site: {site}", f"     of {script.name}: {limit}"]
    return lines
