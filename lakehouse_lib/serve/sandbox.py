"""Untrusted SQL in disposable processes; ``python -m lakehouse_lib.serve.sandbox`` is one of them.

A query is parsed into a tree, and only SQL generated from that tree is run, so that what was checked is
what runs. The tree must be a single query over published tables and known functions. The process runs
DuckDB without network, extensions or settings, and of the file system it reads only the files of the
tables in the query. `pool` starts the processes, and kills those that exceed their time or memory.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import struct
import sys
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, BinaryIO

import duckdb
import psutil
import pyarrow as pa
import sqlglot
from deltalake import DeltaTable
from sqlglot import exp

from lakehouse_lib.errors import ConfigError, first_line
from lakehouse_lib.sql import dialects
from lakehouse_lib.storage import delta, reader

if TYPE_CHECKING:
    from lakehouse_lib.sql.queries import Columns


LONGEST = 20_000
"""Maximum length of a query in characters."""
ENGINES = 4
"""Engines that a process keeps for the tables of recent queries: creating one takes longer than a small query."""
MEMORY = 1024
"""MB that a query may use; its process may take twice as much on top of what it starts with."""

FUNCTIONS = frozenset((
    "bit_count", "dayname", "entropy", "epoch", "epoch_ms", "epoch_us", "even", "isodow", "kurtosis", "len", "list_avg",
    "list_max", "list_min", "list_sum", "mad", "make_date", "make_timestamp", "median", "mode", "monthname", "product",
    "skewness", "strip_accents", "to_days", "to_hours",
))  # fmt: skip
"""DuckDB functions that are allowed in addition to those that sqlglot knows."""

DIALECTS: dict[str, str | type[sqlglot.Dialect]] = {"spark": dialects.Spark, "duckdb": "duckdb"}

_FORBIDDEN = (exp.Command, exp.DDL, exp.DML, exp.Into, exp.Pragma, exp.Set, exp.Attach, exp.Parameter,
              exp.SessionParameter, exp.Placeholder, exp.Version, exp.Hint, exp.Use)  # fmt: skip

_MOMENT = (exp.Literal, exp.CurrentTimestamp, exp.CurrentDate, exp.Interval, exp.Var, exp.Add, exp.Sub, exp.Mul,
           exp.Neg, exp.Paren, exp.Cast, exp.DataType, exp.TsOrDsAdd, exp.TimeStrToTime, exp.Anonymous)  # fmt: skip
"""Nodes allowed after TIMESTAMP AS OF."""


class Denied(Exception):
    """A query was not run; the code is for programs, the message for people."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Read:
    """A table that a query reads: its current version, a given version, or as of the moment that a SELECT returns."""

    name: str
    version: int | None = None
    moment: str = ""

    @property
    def as_of(self) -> bool:
        """Whether the query itself names the version."""
        return self.version is not None or bool(self.moment)


@dataclass(frozen=True)
class Answer:
    """Rows of a query, whether they were truncated, and the versions that were read: by table, or by
    ``table@version`` for a table read AS OF."""

    rows: pa.Table
    truncated: bool
    versions: dict[str, int]


def checked(sql: str, dialect: str, layers: dict[str, str]) -> tuple[exp.Query, dict[str, Read]]:
    """Return the tree of a query and the tables it reads, by a name that is unique in the tree; ``layers`` are the
    published tables with their layers.

    Raises
    ------
    Denied
        It is not a single query, or it contains a table, function or construct that is not allowed.
    """
    if len(sql) > LONGEST:
        raise Denied("too_long", f"The query has {len(sql):,} characters; the limit is {LONGEST:,}.")
    try:
        trees = sqlglot.parse(sql, dialect=DIALECTS[dialect])
    except (sqlglot.errors.SqlglotError, RecursionError) as error:
        raise Denied("syntax", f"The query cannot be parsed: {first_line(error)}") from None
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        raise Denied("no_query", "Only a single SELECT is accepted here.")
    tree = trees[0]
    cte_names = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    reads: dict[str, Read] = {}
    for select in tree.find_all(exp.Select):
        select.set("hint", None)  # it is meant for another engine's planner
    for node in tree.walk():
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            _note_table(node, dialect, layers, cte_names, reads)
            continue
        if isinstance(node, _FORBIDDEN):
            raise Denied("not_allowed", f"{node.sql(DIALECTS[dialect])[:60]!r} is not allowed in a query here.")
        if dialect == "spark":  # `written` rejects unknown functions and anything else it does not know
            continue
        if isinstance(node, exp.Anonymous) and node.name.lower() not in FUNCTIONS:
            raise Denied("no_such_function", f"The function {node.name[:60]} is not supported here.")
        if isinstance(node, exp.Table):
            raise Denied(
                "not_allowed", f"{node.sql(DIALECTS[dialect])[:60]!r} is not a table; name a table of the catalog."
            )
    return tree, reads


def written(tree: exp.Query, dialect: str, columns: dict[str, Columns]) -> tuple[str, list[str] | None]:
    """Return a checked query as DuckDB SQL, and its column names where they differ from DuckDB's; ``columns`` are the
    columns of the tables.

    Raises
    ------
    Denied
        It contains something that is not known to give the same result as in Spark.
    """
    try:
        return dialects.translated(tree, columns) if dialect == "spark" else (tree.sql("duckdb"), None)
    except (ConfigError, RecursionError, sqlglot.errors.SqlglotError) as error:
        raise Denied(
            "does_not_carry_over",
            f"The query cannot be translated from {dialect}: {first_line(error)}; rephrase it, or use the dialect "
            "duckdb.",
        ) from None


def _note_table(
    node: exp.Table, dialect: str, layers: dict[str, str], cte_names: set[str], reads: dict[str, Read]
) -> None:
    """Add the published table of a node to ``reads``, unless the node names a CTE or a catalog view; a table
    read AS OF gets a unique name."""
    name, layer, as_of = node.name.lower(), node.db.lower(), node.args.get("version")
    if not layer and not node.catalog and name in cte_names and not as_of:
        return
    if name in reader.CATALOG and not layer and not node.catalog and not as_of:
        return
    if name not in layers or node.catalog or layer not in ("", layers[name]):
        raise Denied("no_such_table", f"There is no table {node.sql()[:80]!r}; /tables lists the tables.")
    node.set("db", None)
    if not as_of:
        reads[name] = Read(name)
        return
    reads[alias := f"{name}@{len(reads)}"] = _as_of(name, as_of, dialect)
    node.set("version", None)
    node.set("alias", node.args.get("alias") or exp.TableAlias(this=exp.to_identifier(name)))
    node.set("this", exp.to_identifier(alias, quoted=True))


def _as_of(name: str, as_of: exp.Version, dialect: str) -> Read:
    value, clause = as_of.expression, as_of.sql(DIALECTS[dialect])[:60]
    if as_of.args["kind"] != "AS OF":
        raise Denied("not_allowed", f"{clause!r} is not supported; use VERSION AS OF or TIMESTAMP AS OF.")
    if as_of.name == "VERSION":
        if not (isinstance(value, exp.Literal) and value.name.isdigit() and len(value.name) < 16):
            raise Denied("not_allowed", f"{clause!r} is not a version: a number is required.")
        return Read(name, version=int(value.name))
    if not all(isinstance(node, _MOMENT) for node in value.walk()):
        raise Denied("not_allowed", f"{clause!r} is not a timestamp: a constant is required.")
    return Read(name, moment=written(exp.select(exp.cast(value, "timestamp")), dialect, {})[0])


# In the worker process -------------------------------------------------------


def answer(request: dict[str, Any]) -> Answer:
    """Run a query over the tables of the request (name: layer, path, version) and its rows of the catalog."""
    published = request["tables"]
    tree, reads = checked(
        request["sql"], request["dialect"], {name: table["layer"] for name, table in published.items()}
    )
    if request["version"] is not None and (len(reads) != 1 or any(read.as_of for read in reads.values())):
        raise Denied(
            "wrong_request",
            "version is for a query over a single table without AS OF; this one "
            f"reads {', '.join(read.name for read in reads.values()) or 'none'}.",
        )
    versions, opened = {}, {}
    for alias, read in reads.items():
        delta_table = opened[alias] = _open_version(read, published[read.name], request["version"])
        versions[f"{read.name}@{delta_table.version()}" if read.as_of else read.name] = delta_table.version()
    with _engine_over(opened, request["catalog"]) as engine:
        sql, column_names = written(tree, request["dialect"], engine.columns)
        dialects.prepare_for(engine.connection, sql, engine.known)
        rows, truncated = _fetched(engine.connection, sql, request["limit"], request["bytes"])
    return Answer(rows if column_names is None else rows.rename_columns(column_names), truncated, versions)


def _fetched(connection: duckdb.DuckDBPyConnection, sql: str, limit: int, largest: int) -> tuple[pa.Table, bool]:
    """The rows of a query, at most ``limit`` and ``largest`` bytes of them, and whether there are more."""
    fetched, row_count, size = [], 0, 0
    batches = connection.sql(f"SELECT * FROM ({sql}) LIMIT {limit + 1}").to_arrow_reader(1024)
    for batch in batches:
        fetched.append(batch)
        row_count, size = row_count + batch.num_rows, size + batch.nbytes
        if row_count > limit or size > largest:
            break
    result = pa.Table.from_batches(fetched, batches.schema)
    while size > largest and result.num_rows:  # a single batch may be too large by itself
        result = result.slice(0, result.num_rows // 2)
        size, limit = result.nbytes, min(limit, result.num_rows)
    return result.slice(0, limit), row_count > limit


def _open_version(read: Read, published: dict[str, Any], requested_version: int | None) -> DeltaTable:
    """Return the table at the version that the query names, else the request, else the one the request has pinned."""
    if published["version"] is None:
        raise Denied("not_made", f"{read.name} has not been made yet: it has no rows.")
    delta_table = delta.open_table(published["path"])
    if delta_table is None or delta_table.version() != published["version"]:
        delta_table = DeltaTable(published["path"], version=published["version"])
    version = requested_version if read.version is None else read.version
    if version is not None:
        try:
            delta_table = delta.at(delta_table, read.name, version)
        except ConfigError as error:
            raise Denied("no_such_version", str(error)) from None
    if read.moment:
        engine = _engine()
        dialects.prepare_for(engine, read.moment, set())
        _lock(engine, [])
        ((moment,),) = engine.execute(read.moment).fetchall()
        first_commit = datetime.fromtimestamp(min(commit["timestamp"] for commit in delta_table.history()) / 1000, UTC)
        if moment is None or moment.replace(tzinfo=UTC) < first_commit:
            raise Denied(
                "no_such_version",
                f"{read.name} has no version as of {moment}; its first version is from {first_commit}.",
            )
        delta_table = DeltaTable(published["path"])
        delta_table.load_as_version(moment.replace(tzinfo=UTC))
    return delta_table


@dataclass
class _Engine:
    """A DuckDB with the tables of a query and nothing else in reach."""

    connection: duckdb.DuckDBPyConnection
    columns: dict[str, Columns]
    known: set[str]
    """Functions and macros that it has."""


_engines: OrderedDict[tuple[Any, ...], _Engine] = OrderedDict()


@contextlib.contextmanager
def _engine_over(opened: dict[str, DeltaTable], catalog: list[dict[str, Any]] | None) -> Iterator[_Engine]:
    """An engine for these tables: that of an earlier query over the same versions of the same tables, or a new one.

    A query is a single SELECT, which leaves nothing behind. After an error its engine is not used again.
    """
    key = tuple((alias, table.metadata().id, table.version()) for alias, table in opened.items())
    engine = _engines.pop(key, None) if catalog is None else None
    if engine is None:
        connection, files = _engine(), []
        for alias, table in opened.items():
            files += reader.register(connection, alias, delta.dataset(table))
        if catalog is not None:
            reader.register_catalog(connection, catalog)
        names = [*opened, *(reader.CATALOG if catalog is not None else [])]
        engine = _Engine(connection, {name: dialects.schema(connection, name) for name in names}, set())
        _lock(connection, files)
    yield engine
    if catalog is None:
        _engines[key] = engine
        if len(_engines) > ENGINES:
            _engines.popitem(last=False)


def _lock(connection: duckdb.DuckDBPyConnection, files: list[str]) -> None:
    connection.execute("SET allowed_paths = $1", [files])
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")


def _engine() -> duckdb.DuckDBPyConnection:
    connection = reader.plain()
    connection.execute(f"""
        SET memory_limit = '{MEMORY}MB'; SET threads = 2; SET temp_directory = '';
        SET autoinstall_known_extensions = false; SET autoload_known_extensions = false;
        SET python_enable_replacements = false; SET allow_community_extensions = false;
    """)
    return connection


_QUERY_ERRORS = (duckdb.BinderException, duckdb.CatalogException, duckdb.ConversionException,
                 duckdb.InvalidInputException, duckdb.OutOfRangeException, duckdb.ParserException,
                 duckdb.NotImplementedException)  # fmt: skip
"""Errors whose text is about the query; the text of all others may reveal the machine."""


def _answer_requests() -> None:
    """Answer requests until standard input is closed."""
    dialects.prepare(_engine())  # loaded first, so that its threads and code do not count against the query
    max_address_space = psutil.Process().memory_info().vms + (2 * MEMORY + 200 * ENGINES) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (max_address_space, max_address_space))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing a library prints gets among the responses
    while (message := _receive(source)) is not None:
        body = b""
        try:
            result = answer(json.loads(message))
            sink = io.BytesIO()
            with pa.ipc.new_stream(sink, result.rows.schema) as stream:
                stream.write_table(result.rows)
            head, body = {"truncated": result.truncated, "versions": result.versions}, sink.getvalue()
        except Denied as error:
            head = {"code": error.code, "message": str(error)}
        except _QUERY_ERRORS as error:
            head = {"code": "query_failed", "message": first_line(error)}
        except (pa.ArrowException, OSError) as error:  # from DuckDB, while rows are fetched
            match = re.match(r"(Invalid Input|Conversion|Out of Range) Error: .*", str(error))
            text = match[0][:200] if match else "The query cannot be run."
            head = {"code": "query_failed", "message": text}
        except (duckdb.OutOfMemoryException, MemoryError):
            head = {"code": "too_large", "message": f"The query needs more than {MEMORY} MB."}
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            head = {"code": "query_failed", "message": "The query cannot be run."}
        send(target, json.dumps(head).encode())
        send(target, body)


def send(stream: IO[bytes], data: bytes) -> None:
    """Write a message, preceded by its length."""
    stream.write(struct.pack(">I", len(data)) + data)
    stream.flush()


def _receive(stream: BinaryIO) -> bytes | None:
    head = stream.read(4)
    return stream.read(struct.unpack(">I", head)[0]) if len(head) == 4 else None


if __name__ == "__main__":
    try:
        _answer_requests()
    except (BrokenPipeError, KeyboardInterrupt, ConfigError):
        sys.exit(0)
