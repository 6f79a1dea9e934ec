"""Statements that the ORM writes once; PostgreSQL prepares them, and several make one round trip.

    @prepared
    def free_seats(most: int, *, slot: int) -> Any:
        return select(Seat.objects.filter(slot=slot).free().lock_unlocked()[:most])

    seats, [now] = send(free_seats(2, slot=7), clock())

To write the SQL of such a QuerySet takes the ORM ten times as long as to send it. So it writes it
when a function is first called, and from then on only the values change. What decides how the SQL
reads goes by position (a LIMIT, a setting), values go by name: a list is one value, an array; a
tuple is so many values of an IN, and None is written as NULL; for each number of values, and for
None, there is a plan of its own.

What the function builds itself, like a status, is part of the SQL, where PostgreSQL can see that a
partial index serves. Where statements are watched (tests, DEBUG), and with PREPARED_STATEMENTS off,
the same SQL goes through Django's cursor, one at a time.
"""

import hashlib
import itertools
import logging
import re
import uuid
from collections import namedtuple
from collections.abc import Callable, Generator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import update_wrapper
from typing import Any, NamedTuple

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connection, connections
from django.db.models import Model, QuerySet, sql
from django.db.models.query import (
    FlatValuesListIterable,
    ModelIterable,
    NamedValuesListIterable,
    get_related_populators,
)
from django.db.transaction import TransactionManagementError
from psycopg import Connection, OperationalError, errors
from psycopg.adapt import PyFormat, Transformer
from psycopg.generators import fetch_many
from psycopg.generators import send as flush
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

logger = logging.getLogger("holdfast.database")

MOST = 100  # statements prepared on one connection, about; what comes after is sent as it is
MOST_PLANS = 1000  # written statements kept; each number of seats has some of its own

Load = Callable[[list[tuple]], list]


class Written(NamedTuple):
    """What the ORM wrote: SQL with %s, its parameters, and how rows become results (None: there are
    none, the result is how many rows were changed)."""

    sql: str
    params: Sequence[Any]
    load: Load | None


class Plan:
    """A written statement of which the values are left open."""

    def __init__(self, name: str, written: Written, samples: Sequence[Any]) -> None:
        self.sql, self.params, self.load = written
        self.is_lock = "FOR NO KEY UPDATE" in self.sql
        found = {_hashable(sample): n for n, sample in enumerate(samples) if sample is not None}
        # For each parameter of the SQL: which of the values it is, or None if it is always as now.
        self.places = [found.get(_hashable(param)) for param in self.params]
        self.values = [n for n in self.places if n is not None]
        if set(self.values) != set(found.values()):
            raise TypeError(f"The SQL of {name} has no place for some of its values: {self.sql}")
        self.formats = [PyFormat.TEXT] * len(self.values)
        self.query = self._numbered()
        # Another process that is lent the same connection to PostgreSQL means the same by it.
        self.name = f"{name[:40]}_{hashlib.sha256(self.query).hexdigest()[:16]}".encode()

    def _numbered(self) -> bytes:
        """The SQL with $1, $2 … for the values, and the other parameters written out."""
        connection.ensure_connection()
        writer = Transformer(connection.connection)
        numbers = itertools.count(1)
        params = zip(self.places, self.params, strict=True)

        def write(found: re.Match) -> str:
            if found[0] == "%%":
                return "%"
            n, param = next(params)
            return writer.as_literal(param).decode() if n is None else f"${next(numbers)}"

        return re.sub("%[s%]", write, self.sql).encode()


class Statement(NamedTuple):
    plan: Plan
    values: Sequence[Any]

    def params(self) -> list[Any]:
        """Of `plan.sql`."""
        plan = self.plan
        always = zip(plan.places, plan.params, strict=True)
        return [param if n is None else self.values[n] for n, param in always]


_plans: dict[tuple, Plan] = {}  # by function, shape, and the kinds of its values


def prepared(write: Callable[..., Written]) -> Callable[..., Statement]:
    """A function that returns the Statement which `write` writes for such arguments."""

    def make(*shape: Any, **arguments: Any) -> Statement:
        values: list[Any] = []
        key: list[Any] = [write, shape, *arguments]
        for argument in arguments.values():
            if type(argument) is tuple:
                values += argument
                key.append(len(argument))
            else:
                values.append(argument)
                key.append(None if argument is None else "a value")
        plan = _plans.get(tuple(key))
        if plan is None:
            numbers = itertools.count()
            samples = {name: _sample(value, numbers) for name, value in arguments.items()}
            order = [one for each in samples.values() for one in _each(each)]
            if len(_plans) >= MOST_PLANS:
                _plans.clear()
            plan = _plans[tuple(key)] = Plan(write.__name__, write(*shape, **samples), order)
        return Statement(plan, values)

    return update_wrapper(make, write)


def _each(argument: Any) -> Sequence[Any]:
    return argument if type(argument) is tuple else [argument]


def _sample(argument: Any, numbers: Iterator[int]) -> Any:
    """Of that kind, to be found again among the parameters that the ORM makes of it."""
    if type(argument) is tuple:
        return tuple(_sample(one, numbers) for one in argument)
    if isinstance(argument, list):
        return [_sample(argument[0] if argument else "", numbers)]
    n = next(numbers)
    if argument is None:
        return None
    if isinstance(argument, str):
        return f"sample {n}"
    if isinstance(argument, int) and not isinstance(argument, bool):
        return 1_000_000_007 + n
    if isinstance(argument, uuid.UUID):
        return uuid.UUID(int=n + 1)
    if isinstance(argument, datetime):
        return datetime(1900, 1, 1, tzinfo=UTC) + timedelta(seconds=n)
    raise TypeError(f"A value of a prepared statement cannot be a {type(argument).__name__}.")


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


# ── What a function may write ─────────────────────────────────────────────────────────────────────


def select(rows: QuerySet) -> Written:
    """What iterating over the QuerySet would execute; the result is a list of what it would give.

    Models, with what was annotated and selected with them, or what `values_list` gives.
    """
    compiler = rows.query.get_compiler(connection=connection)
    text, params = compiler.as_sql()
    columns = [column for column, *_ in compiler.select[: compiler.col_count]]
    converters = compiler.get_converters(columns)
    make = _maker(rows, compiler)

    def load(found: list[tuple]) -> list:
        if converters:
            found = compiler.apply_converters(found, converters)
        return list(map(make, found)) if make else list(found)

    return Written(text, params, load)


def _maker(rows: QuerySet, compiler: Any) -> Callable[[tuple], Any] | None:
    """Makes of one row what iterating over the QuerySet gives; None if that is the row itself."""
    if rows._iterable_class is FlatValuesListIterable:
        return lambda row: row[0]
    if rows._iterable_class is NamedValuesListIterable:
        query = rows.query
        names = [*query.extra_select, *query.values_select, *query.annotation_select]
        return namedtuple("Row", rows._fields or names)._make
    if rows._iterable_class is not ModelIterable:
        return None
    info, annotations = compiler.klass_info, compiler.annotation_col_map
    model, own = info["model"], info["select_fields"]
    first, end = own[0], own[-1] + 1
    names = [column.target.attname for column, *_ in compiler.select[first:end]]
    related = get_related_populators(info, compiler.select, DEFAULT_DB_ALIAS)

    def make(row: tuple) -> Model:
        made = model.from_db(DEFAULT_DB_ALIAS, names, row[first:end])
        for populator in related:
            populator.populate(row, made)
        for name, column in annotations.items():
            setattr(made, name, row[column])
        return made

    return make


def update(rows: QuerySet, **values: Any) -> Written:
    """What `rows.update(**values)` would execute."""
    query = rows.order_by().query.chain(sql.UpdateQuery)
    query.add_update_values(values)
    return Written(*query.get_compiler(connection=connection).as_sql(), None)


def exactly(rows: int, change: Written) -> Written:
    """The same; PostgreSQL refuses it (raising WrongCount) if it changes another number of rows.

    So nothing needs to be looked at before COMMIT, which can go along.
    """
    wrong = f"'changed ' || COUNT(*) || ' rows, not {rows}'"
    count = f"SELECT CASE COUNT(*) WHEN {rows} THEN {rows} ELSE CAST({wrong} AS integer) END"
    text = f"WITH changed AS ({change.sql} RETURNING 1) {count} FROM changed"
    return Written(text, change.params, lambda found: found[0][0])


WrongCount = errors.InvalidTextRepresentation  # it tells how many: “changed 1 rows, not 2”


def insert(row: Model) -> Written:
    """What `row.save(force_insert=True)` would execute; a key that PostgreSQL makes is not told."""
    fields = [field for field in row._meta.concrete_fields if not field.primary_key or row.pk]
    query = sql.InsertQuery(row)
    query.insert_values(fields, [row])
    [(text, params)] = query.get_compiler(connection=connection).as_sql()
    return Written(text, params, None)


def stored(model: type[Model], values: dict[str, Any]) -> Any:
    """The row that these values of all its columns make, as if it had been read: for what `insert`
    is about to put there. The model's own way to make one takes three times as long.
    """
    names = [field.attname for field in model._meta.concrete_fields]
    return model.from_db(DEFAULT_DB_ALIAS, names, [values[name] for name in names])


def function(text: str, *params: Any) -> Written:
    """A call for which the ORM has no words."""
    return Written(text, params, list)


# ── Sending ───────────────────────────────────────────────────────────────────────────────────────


class _Session:
    """Of one connection: what is prepared on it, and its way to write and read values."""

    def __init__(self, raw: Connection) -> None:
        self.names: set[bytes] = set()
        self.transformer = Transformer(raw)

    def bind(self, statement: Statement) -> Sequence[Any]:
        """The values as they are sent. Raises DataError for what PostgreSQL cannot keep."""
        plan, values = statement
        params = [values[n] for n in plan.values]
        return self.transformer.dump_sequence(params, plan.formats) if params else params


def _session_of(raw: Connection) -> _Session:
    """Kept with the connection: whatever else kept it would keep the connection, too."""
    kept = vars(raw)
    if "holdfast_session" not in kept:
        kept["holdfast_session"] = _Session(raw)
    return kept["holdfast_session"]


# The server and we do not agree on what is prepared: somebody else has our connection at times, as
# behind an old pooler, or a migration has changed a column's type. The next connection starts anew;
# where connections are lent to others, nothing is prepared on it.
LENT = (errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement)
CONFUSED = (*LENT, errors.FeatureNotSupported)
_are_lent = False


def _prepare_no_more() -> None:
    """From now on this process sends statements as they are; still several in one round trip."""
    global _are_lent
    if not _are_lent:
        logger.warning("connections are used by others, too: no more statements are prepared")
    _are_lent = True


def send(*statements: Statement, commits: bool = False) -> list[Any]:
    """Executes them in this order, in one round trip; the transaction begins with them if need be,
    and with `commits` its COMMIT goes along: they must be the last of an `atomic` block.

    Returns of each its list of results, or how many rows it changed. Each sees what was committed
    before it began, as if it were sent alone. The first that fails raises, as Django's cursors do;
    none after it is executed.
    """
    if not statements:
        return []
    database = connections[DEFAULT_DB_ALIAS]
    database.validate_no_broken_transaction()
    if any(each.plan.is_lock for each in statements) and database.get_autocommit():
        raise TransactionManagementError("Locks need a transaction.")
    is_watched = database.queries_logged or database.execute_wrappers
    if is_watched or not settings.PREPARED_STATEMENTS:
        return [_execute(database, each) for each in statements]
    database.ensure_connection()
    raw = database.connection
    with database.wrap_database_errors, raw.lock:
        try:
            # A block within others is theirs to commit; after this Django's COMMIT sends nothing.
            commits = commits and len(database.atomic_blocks) == 1 and database.commit_on_exit
            answers = raw.wait(_converse(raw, statements, commits=commits))
        except CONFUSED as error:
            raw.close()
            if not isinstance(error, LENT):
                raise errors.OperationalError("What was prepared fits no longer.") from error
            _prepare_no_more()
            raise errors.OperationalError("The connection was used by others, too.") from error
        return _results(raw, statements, answers)


def _execute(database: Any, statement: Statement) -> Any:
    """By Django's cursor: bound by the client, seen by whoever watches."""
    load = statement.plan.load
    with database.cursor() as cursor:
        cursor.execute(statement.plan.sql, statement.params())
        return load(cursor.fetchall()) if load else cursor.rowcount


def _converse(
    raw: Connection, statements: Sequence[Statement], *, commits: bool = False
) -> Generator[Any, Any, list[PGresult]]:
    """The statements and their answers in libpq's pipeline mode, for `Connection.wait`.

    Not psycopg's own pipeline: it prepares anew all that it had prepared whenever a transaction is
    rolled back, as each refusal is, and waits for the socket before each command.
    """
    session = _session_of(raw)
    server, names = raw.pgconn, session.names
    bound = [session.bind(each) for each in statements]
    sent: list[bytes | None] = []  # of each command the name that it prepares; None: it answers
    answers: list[PGresult] = []
    failed: PGresult | None = None
    is_over = False
    server.enter_pipeline_mode()
    try:
        if not raw.autocommit and server.transaction_status == TransactionStatus.IDLE:
            server.send_query_params(b"BEGIN", None)
            sent.append(b"")
        for (plan, _), params in zip(statements, bound, strict=True):
            if _are_lent or (len(names) >= MOST and plan.name not in names):
                server.send_query_params(plan.query, params)
            else:
                if plan.name not in names and plan.name not in sent:
                    server.send_prepare(plan.name, plan.query)
                    sent.append(plan.name)
                server.send_query_prepared(plan.name, params)
            sent.append(None)
        if commits:
            server.send_query_params(b"COMMIT", None)
            sent.append(b"")
        server.pipeline_sync()
        yield from flush(server)
        for name in sent:
            results = yield from fetch_many(server)
            if failed is not None:
                continue  # the server has skipped it
            [answer] = results
            if answer.status == ExecStatus.FATAL_ERROR:
                failed = answer
                if server.status != ConnStatus.OK:
                    break  # there will be no more
            elif name is None:
                answers.append(answer)
            elif name:
                names.add(name)
        else:
            yield from fetch_many(server)  # the end
            is_over = True
    except OperationalError:
        if failed is None:
            raise  # else the server has said before why it ended the connection
    finally:
        if is_over:
            server.exit_pipeline_mode()
        else:
            raw.close()
    if failed is not None:
        raise errors.error_from_result(failed)
    return answers


def _results(
    raw: Connection, statements: Sequence[Statement], answers: Sequence[PGresult]
) -> list[Any]:
    transformer = _session_of(raw).transformer
    results: list[Any] = []
    for (plan, _), answer in zip(statements, answers, strict=True):
        if plan.load is None:
            results.append(answer.command_tuples)
        else:
            transformer.set_pgresult(answer)
            results.append(plan.load(transformer.load_rows(0, answer.ntuples, tuple)))
    return results
