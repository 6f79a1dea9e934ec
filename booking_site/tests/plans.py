"""What PostgreSQL does for a statement, found out as it runs.

[count, page] = explain("slots_slot", lambda: client.get("/api/v1/slots"))
assert page.indexes == "slot_by_start slots_slot_pkey"
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from django.db import connection

from booking_site import prepared
from bookings.errors import BookingError


class Statement(NamedTuple):
    """The indexes it used, in alphabetical order, and how many pages it looked at.

    Of one that is prepared: by the plan for its values, and, in brackets if those are others, by
    the plan for any values, of which PostgreSQL takes the one that seems cheaper to it.
    """

    sql: str
    indexes: str  # “slots_seat!” is a sequential scan of that table
    pages: int

    @property
    def all_indexes(self) -> set[str]:
        """By both plans."""
        return set(re.findall(r"[\w!]+", self.indexes))


def explain(table: str, act: Callable[[], Any]) -> list[Statement]:
    """What the act did on that table. A refusal is as good as a success."""
    statements = []

    def watch(execute: Callable, sql: str, params: Any, many: bool, context: dict) -> Any:
        text = str(sql)
        if f'FROM "{table}"' in text or f'UPDATE "{table}"' in text:
            indexes, pages = _explain(text, text, params)
            for plan in prepared._plans.values():
                if plan.sql == text:
                    generic, more = _explain_generic(text, plan, params)
                    indexes = indexes if generic == indexes else f"{indexes} ({generic})"
                    pages = max(pages, more)
                    break
            statements.append(Statement(text, indexes, pages))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(watch):
        try:
            act()
        except BookingError:
            pass
    return statements


def _explain(kind: str, text: str, params: Any) -> tuple[str, int]:
    # To execute a SELECT twice changes nothing: nobody waits for locks of their own.
    how = (
        "ANALYZE, BUFFERS, FORMAT JSON" if kind.startswith(("SELECT", "(SELECT")) else "FORMAT JSON"
    )
    found = connection.connection.execute(f"EXPLAIN ({how}) {text}", params).fetchone()[0]
    plan = (json.loads(found) if isinstance(found, str) else found)[0]["Plan"]
    pages = plan.get("Shared Hit Blocks", 0) + plan.get("Shared Read Blocks", 0)
    return " ".join(sorted(set(_indexes(plan)))), pages


def _explain_generic(kind: str, plan: prepared.Plan, params: Any) -> tuple[str, int]:
    values = [param for n, param in zip(plan.places, params, strict=True) if n is not None]
    raw = connection.connection
    raw.execute(f"PREPARE explained AS {plan.query.decode()}".replace("%", "%%"))
    raw.execute("SET plan_cache_mode = force_generic_plan")
    try:
        marks = f"({', '.join(['%s'] * len(values))})" if values else ""
        return _explain(kind, f"EXECUTE explained{marks}", values)
    finally:
        raw.execute("RESET plan_cache_mode")
        raw.execute("DEALLOCATE explained")


def _indexes(node: dict) -> Iterator[str]:
    if node["Node Type"] == "Seq Scan":
        yield f"{node['Relation Name']}!"
    elif "Index Name" in node:
        yield node["Index Name"]
    for child in node.get("Plans", []):
        yield from _indexes(child)


def run(*statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
