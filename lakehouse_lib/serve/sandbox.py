"""SQL of strangers, in processes that may be killed: ``python -m lakehouse_lib.serve.sandbox`` is one of them.

A query is read into a tree, and only the tree's own text is run, so that what was looked at is what
runs. The tree must be one query over published tables and known functions. The process has an
engine without file system, network, extensions or settings, beside the files of the tables named;
it is killed and replaced when it takes too long or too much.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import queue
import re
import resource
import selectors
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, BinaryIO

import duckdb
import psutil
import pyarrow as pa
import sqlglot
from deltalake import DeltaTable
from sqlglot import exp

from lakehouse_lib.errors import ConfigError
from lakehouse_lib.sql import dialects
from lakehouse_lib.storage import delta, reader

if TYPE_CHECKING:
    from lakehouse_lib.sql.queries import Columns

log = logging.getLogger(__name__)

LONGEST = 20_000
"""Characters of a query."""
MEMORY = 1024
"""MB that a query may use; its process may take twice as much beyond what it starts with."""

FUNCTIONS = frozenset((
    "bit_count", "dayname", "entropy", "epoch", "epoch_ms", "epoch_us", "even", "isodow", "kurtosis", "len", "list_avg",
    "list_max", "list_min", "list_sum", "mad", "make_date", "make_timestamp", "median", "mode", "monthname", "product",
    "skewness", "strip_accents", "to_days", "to_hours",
))  # fmt: skip
"""Functions of DuckDB that are answered beside those that sqlglot knows."""

DIALECTS: dict[str, str | type[sqlglot.Dialect]] = {"spark": dialects.Spark, "duckdb": "duckdb"}

_FORBIDDEN = (exp.Command, exp.DDL, exp.DML, exp.Into, exp.Pragma, exp.Set, exp.Attach, exp.Parameter,
              exp.SessionParameter, exp.Placeholder, exp.Version, exp.Hint, exp.Use)  # fmt: skip

_MOMENT = (exp.Literal, exp.CurrentTimestamp, exp.CurrentDate, exp.Interval, exp.Var, exp.Add, exp.Sub, exp.Mul,
           exp.Neg, exp.Paren, exp.Cast, exp.DataType, exp.TsOrDsAdd, exp.TimeStrToTime, exp.Anonymous)  # fmt: skip
"""What may stand after TIMESTAMP AS OF."""


class Denied(Exception):
    """A query that is not run; the code is for programs, the text for people."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Read:
    """A table that a query reads: as it is, as of a version, or as of the moment that a SELECT gives."""

    name: str
    version: int | None = None
    moment: str = ""

    @property
    def as_of(self) -> bool:
        """Whether the query itself says which version."""
        return self.version is not None or bool(self.moment)


@dataclass(frozen=True)
class Answer:
    """Rows of a query, whether there were more, and the versions that were read: by table, or
    ``table@version`` for one that was read AS OF another than the newest."""

    rows: pa.Table
    truncated: bool
    versions: dict[str, int]


def checked(sql: str, dialect: str, layers: dict[str, str]) -> tuple[exp.Query, dict[str, Read]]:
    """A query's tree, with a name of its own for each table that it reads, and these tables; ``layers``
    are the published ones.

    Raises
    ------
    Denied
        It is no single query, or holds a table, function or construct that is not allowed.
    """
    if len(sql) > LONGEST:
        raise Denied("too_long", f"The query has {len(sql):,} characters; at most {LONGEST:,} are read.")
    try:
        trees = sqlglot.parse(sql, dialect=DIALECTS[dialect])
    except (sqlglot.errors.SqlglotError, RecursionError) as error:
        raise Denied("syntax", f"The query cannot be read: {_first(error)}") from None
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        raise Denied("no_query", "One SELECT is answered here, and nothing else.")
    tree = trees[0]
    inner = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    used: dict[str, Read] = {}
    for select in tree.find_all(exp.Select):
        select.set("hint", None)  # for another engine's planner
    for node in tree.walk():
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            _table(node, dialect, layers, inner, used)
            continue
        if isinstance(node, _FORBIDDEN):
            raise Denied("not_allowed", f"{node.sql(DIALECTS[dialect])[:60]!r} is not allowed in a query here.")
        if dialect == "spark":  # `written` refuses the functions, and what else is not known
            continue
        if isinstance(node, exp.Anonymous) and node.name.lower() not in FUNCTIONS:
            raise Denied("no_such_function", f"The function {node.name[:60]} is not known here.")
        if isinstance(node, exp.Table):
            raise Denied(
                "not_allowed", f"{node.sql(DIALECTS[dialect])[:60]!r} is no table; name a table of the catalog."
            )
    return tree, used


def written(tree: exp.Query, dialect: str, columns: dict[str, Columns]) -> tuple[str, list[str] | None]:
    """A checked query as DuckDB runs it, and the names of its columns where they are not DuckDB's own;
    ``columns`` are those of the tables.

    Raises
    ------
    Denied
        It holds something that is not known to give here what it gives in Spark.
    """
    try:
        return dialects.translated(tree, columns) if dialect == "spark" else (tree.sql("duckdb"), None)
    except (ConfigError, RecursionError, sqlglot.errors.SqlglotError) as error:
        raise Denied(
            "does_not_carry_over",
            f"This does not carry over from {dialect}: {_first(error)}; "
            "say it otherwise, or ask in the dialect duckdb.",
        ) from None


def _table(node: exp.Table, dialect: str, layers: dict[str, str], inner: set[str], used: dict[str, Read]) -> None:
    """Note the published table that is meant, if it is no part of the query itself, under the name
    that it gets; one that is read AS OF something gets a name of its own."""
    name, layer, as_of = node.name.lower(), node.db.lower(), node.args.get("version")
    if not layer and not node.catalog and name in inner and not as_of:
        return
    if name in reader.CATALOG and not layer and not node.catalog and not as_of:
        return
    if name not in layers or node.catalog or layer not in ("", layers[name]):
        raise Denied("no_such_table", f"There is no table {node.sql()[:80]!r}; /tables lists those that there are.")
    node.set("db", None)
    if not as_of:
        used[name] = Read(name)
        return
    used[own := f"{name}@{len(used)}"] = _as_of(name, as_of, dialect)
    node.set("version", None)
    node.set("alias", node.args.get("alias") or exp.TableAlias(this=exp.to_identifier(name)))
    node.set("this", exp.to_identifier(own, quoted=True))


def _as_of(name: str, as_of: exp.Version, dialect: str) -> Read:
    said, text = as_of.expression, as_of.sql(DIALECTS[dialect])[:60]
    if as_of.args["kind"] != "AS OF":
        raise Denied("not_allowed", f"{text!r} is not answered here; say VERSION AS OF or TIMESTAMP AS OF.")
    if as_of.name == "VERSION":
        if not (isinstance(said, exp.Literal) and said.name.isdigit() and len(said.name) < 16):
            raise Denied("not_allowed", f"{text!r} names no version: a number is wanted.")
        return Read(name, version=int(said.name))
    if not all(isinstance(node, _MOMENT) for node in said.walk()):
        raise Denied("not_allowed", f"{text!r} is no moment: a constant is wanted.")
    return Read(name, moment=written(exp.select(exp.cast(said, "timestamp")), dialect, {})[0])


def _first(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200]


# In the process --------------------------------------------------------------


def answer(request: dict[str, Any]) -> Answer:
    """Run one query over the tables of the request (name: layer, path, version) and its lines of the catalog."""
    given = request["tables"]
    tree, used = checked(request["sql"], request["dialect"], {name: one["layer"] for name, one in given.items()})
    if request["version"] is not None and (len(used) != 1 or any(read.as_of for read in used.values())):
        raise Denied(
            "wrong_request",
            "version is for a query over one table, that does not say AS OF itself; this one "
            f"reads {', '.join(read.name for read in used.values()) or 'none'}.",
        )
    connection, files, versions = _engine(), [], {}
    for own, read in used.items():
        opened = _opened(read, given[read.name], request["version"])
        files += reader.register(connection, own, delta.dataset(opened))
        versions[f"{read.name}@{opened.version()}" if read.as_of else read.name] = opened.version()
    if request["catalog"] is not None:
        reader.register_catalog(connection, request["catalog"])
    there = [*used, *(reader.CATALOG if request["catalog"] is not None else [])]
    sql, names = written(tree, request["dialect"], {name: dialects.schema(connection, name) for name in there})
    _lock(connection, files)
    limit, parts, rows, size = request["limit"], [], 0, 0
    batches = connection.sql(f"SELECT * FROM ({sql}) LIMIT {limit + 1}").to_arrow_reader(1024)
    for batch in batches:
        parts.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows > limit or size > request["bytes"]:
            break
    whole = pa.Table.from_batches(parts, batches.schema)
    while size > request["bytes"] and whole.num_rows:  # a single batch may be too large by itself
        whole = whole.slice(0, whole.num_rows // 2)
        size, limit = whole.nbytes, min(limit, whole.num_rows)
    whole = whole.slice(0, limit)
    return Answer(whole if names is None else whole.rename_columns(names), rows > limit, versions)


def _opened(read: Read, given: dict[str, Any], asked: int | None) -> DeltaTable:
    """The table at the version that the query says, else the request, else the one it had at its start."""
    if given["version"] is None:
        raise Denied("not_made", f"{read.name} has not been made yet: it has no rows.")
    opened = DeltaTable(given["path"], version=given["version"])
    version = asked if read.version is None else read.version
    if version is not None:
        try:
            opened = delta.at(opened, read.name, version)
        except ConfigError as error:
            raise Denied("no_such_version", str(error)) from None
    if read.moment:
        engine = _engine()
        _lock(engine, [])
        ((moment,),) = engine.execute(read.moment).fetchall()
        first = datetime.fromtimestamp(min(one["timestamp"] for one in opened.history()) / 1000, UTC)
        if moment is None or moment.replace(tzinfo=UTC) < first:
            raise Denied("no_such_version", f"{read.name} has no version as of {moment}; its first is of {first}.")
        opened.load_as_version(moment.replace(tzinfo=UTC))
    return opened


def _lock(connection: duckdb.DuckDBPyConnection, files: list[str]) -> None:
    connection.execute("SET allowed_paths = $1", [files])
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")


def _engine() -> duckdb.DuckDBPyConnection:
    connection = reader.connect()
    connection.execute(f"""
        SET memory_limit = '{MEMORY}MB'; SET threads = 2; SET temp_directory = '';
        SET autoinstall_known_extensions = false; SET autoload_known_extensions = false;
        SET python_enable_replacements = false; SET allow_community_extensions = false;
    """)
    return connection


_SAID = (duckdb.BinderException, duckdb.CatalogException, duckdb.ConversionException, duckdb.InvalidInputException,
         duckdb.OutOfRangeException, duckdb.ParserException, duckdb.NotImplementedException)  # fmt: skip
"""Errors that speak of the query; all others may speak of the machine."""


def _work() -> None:
    """Answer requests until the other side is gone."""
    _engine()  # its threads and code are no part of what a query uses
    most = psutil.Process().memory_info().vms + 2 * MEMORY * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints may stand among the answers
    while (given := _receive(source)) is not None:
        body = b""
        try:
            found = answer(json.loads(given))
            sink = io.BytesIO()
            with pa.ipc.new_stream(sink, found.rows.schema) as stream:
                stream.write_table(found.rows)
            head, body = {"truncated": found.truncated, "versions": found.versions}, sink.getvalue()
        except Denied as error:
            head = {"code": error.code, "message": str(error)}
        except _SAID as error:
            head = {"code": "query_failed", "message": _first(error)}
        except (pa.ArrowException, OSError) as error:  # what DuckDB says while it hands rows over
            told = re.match(r"(Invalid Input|Conversion|Out of Range) Error: .*", str(error))
            message = told[0][:200] if told else "The query cannot be run."
            head = {"code": "query_failed", "message": message}
        except (duckdb.OutOfMemoryException, MemoryError):
            head = {"code": "too_large", "message": f"The query needs more than {MEMORY} MB."}
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            head = {"code": "query_failed", "message": "The query cannot be run."}
        _send(target, json.dumps(head).encode())
        _send(target, body)


def _send(stream: IO[bytes], data: bytes) -> None:
    stream.write(struct.pack(">I", len(data)) + data)
    stream.flush()


def _receive(stream: BinaryIO) -> bytes | None:
    head = stream.read(4)
    return stream.read(struct.unpack(">I", head)[0]) if len(head) == 4 else None


# Before the processes --------------------------------------------------------


class Pool:
    """Processes that answer one query at a time each, and are replaced when they have to be killed."""

    def __init__(self, size: int):
        self.idle: queue.Queue[_Process] = queue.Queue()
        self.all: set[_Process] = set()
        self._closed = False
        for _ in range(size):
            self._start()

    def _start(self) -> None:
        process = _Process()
        self.all.add(process)
        self.idle.put(process)

    def _replace(self, process: _Process) -> None:
        process.kill()
        self.all.discard(process)
        if not self._closed:
            self._start()

    def ask(self, request: dict[str, Any], seconds: float) -> Answer:
        """Have a query run.

        Raises
        ------
        Denied
            It was not run, failed, or was stopped.
        """
        until = time.monotonic() + seconds
        try:
            while (process := self.idle.get(timeout=max(0.0, until - time.monotonic()))).popen.poll() is not None:
                self._replace(process)  # it died while nobody asked
        except queue.Empty:
            raise Denied("busy", "All places for queries are taken; ask again.") from None
        try:
            head, body = process.ask(json.dumps(request).encode(), until)
        except (TimeoutError, EOFError, OSError) as error:
            self._replace(process)
            if isinstance(error, TimeoutError):
                raise Denied("timeout", f"The query was stopped after {seconds:.1f} seconds.") from None
            raise Denied("too_large", "The query needed more than a query may have, and was stopped.") from None
        self.idle.put(process)
        if "code" in head:
            raise Denied(head["code"], head["message"])
        return Answer(pa.ipc.open_stream(body).read_all(), head["truncated"], head["versions"])

    def close(self) -> None:
        """End all processes."""
        self._closed = True
        for process in list(self.all):
            process.kill()


class _Process:
    def __init__(self) -> None:
        command = [sys.executable, "-m", "lakehouse_lib.serve.sandbox"]
        # No secret of the service is in the process.
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH", "VIRTUAL_ENV") if name in os.environ}
        self.popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=kept, stderr=subprocess.DEVNULL
        )
        assert self.popen.stdin is not None and self.popen.stdout is not None
        self.stdin, self.stdout = self.popen.stdin, self.popen.stdout
        self.lock = threading.Lock()

    def ask(self, request: bytes, until: float) -> tuple[dict[str, Any], bytes]:
        with self.lock:
            _send(self.stdin, request)
            return json.loads(self._read(until)), self._read(until)

    def _read(self, until: float) -> bytes:
        return self._exactly(struct.unpack(">I", self._exactly(4, until))[0], until)

    def _exactly(self, size: int, until: float) -> bytes:
        parts, pipe = [], self.stdout.fileno()
        with selectors.DefaultSelector() as waiting:
            waiting.register(pipe, selectors.EVENT_READ)
            while size:
                if not waiting.select(max(0.0, until - time.monotonic())):
                    raise TimeoutError
                part = os.read(pipe, min(size, 1 << 20))
                if not part:
                    raise EOFError
                parts.append(part)
                size -= len(part)
        return b"".join(parts)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()
        for pipe in (self.stdin, self.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


def tables_for(sql: str, known: dict[str, tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """What a request says of the published tables (name: layer, path): those that the text mentions
    with the version that they have now, so that a query reads each as it is at one moment."""
    text, found = sql.lower(), {}
    for name, (layer, path) in known.items():
        opened = delta.open_table(path) if name in text else None
        found[name] = {"layer": layer, "path": path, "version": opened.version() if opened else None}
    return found


if __name__ == "__main__":
    try:
        _work()
    except (BrokenPipeError, KeyboardInterrupt, ConfigError):
        sys.exit(0)
