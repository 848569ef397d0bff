"""Reads without an engine: figures from the Delta logs, and SQL over the tables with DuckDB."""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError
from lakehouse_lib.model import ops, tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.sql import dialects
from lakehouse_lib.sql import types as st
from lakehouse_lib.storage import archive, delta

CATALOG = {f"{layer}_tables": layer for layer in tables.LAYERS}
"""Views that list a layer's tables from the catalog, by name."""

BINS = 30
"""Bins in the distribution of a numeric column."""

_LINE = pa.schema([
    *((name, pa.string()) for name in ("name", "layer", "tier", "description", "grain", "owner")),
    ("tags", pa.list_(pa.string())), ("rows", pa.int64()), ("bytes", pa.int64()), ("version", pa.int64()),
    ("updated_at", pa.timestamp("us")), ("state", pa.string()), ("verdict", pa.string()),
])  # fmt: skip


def plain() -> duckdb.DuckDBPyConnection:
    """Open a new in-memory DuckDB in UTC."""
    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def connect() -> duckdb.DuckDBPyConnection:
    """Open one for SQL translated from Spark's; the macros that this needs take some 40 ms to define."""
    connection = plain()
    dialects.prepare(connection)
    return connection


def cursor() -> duckdb.DuckDBPyConnection:
    """Open a connection to the DuckDB that this process shares, in UTC, also for SQL translated from Spark's.

    Each connection has separate views and temporary tables. Settings of the whole DuckDB, such as its memory, must not
    be changed.
    """
    connection = _shared(os.getpid()).cursor()
    connection.execute("SET TimeZone = 'UTC'")
    return connection


@functools.lru_cache(maxsize=1)
def _shared(process: int) -> duckdb.DuckDBPyConnection:
    return connect()


@functools.lru_cache(maxsize=1)
def _database(hour: int) -> duckdb.DuckDBPyConnection:
    """Return the connection for reading pages, new each hour. It caches file metadata, which Delta never changes."""
    connection = duckdb.connect(":memory:")
    connection.execute("SET parquet_metadata_cache = true; SET enable_external_file_cache = false")
    return connection


def query(settings: Settings, sql: str, lines: list[dict[str, Any]] | None = None) -> pd.DataFrame:
    """Run a DuckDB query over the tables by name; ``ops_<name>`` for those under ops.

    ``quarantine`` is the union of all quarantine tables, with ``table_name``. With ``lines``, from `catalog.lines`,
    ``gold_tables`` and the like list a layer's tables from the catalog. Timestamps are UTC, without a zone. A table
    that has not been made has no rows. Only tables that the text mentions are opened; the query can reach nothing
    else.
    """
    words = set(re.findall(r"\w+", sql))
    connection, files = plain(), []
    if [statement.type for statement in connection.extract_statements(sql)] != [duckdb.StatementType.SELECT]:
        raise ConfigError(f"Only a single SELECT is accepted here, not {sql.strip()[:80]!r}")
    if lines is not None:
        register_catalog(connection, lines)
    known = _known(settings)
    rejected = [name for name in known if name.endswith("_quarantine")]
    for name in words & {*known} | ({*rejected} if "quarantine" in words else set()):
        files += register(connection, name, delta.content(*known[name]))
    if "quarantine" in words:
        parts = [f"SELECT *, '{name.removesuffix('_quarantine')}' AS table_name FROM {name}" for name in rejected]
        connection.execute(f"CREATE VIEW quarantine AS {' UNION ALL BY NAME '.join(parts)}")
    connection.execute("SET allowed_paths = $1", [files])
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")
    return connection.execute(sql).df()


def page(
    settings: Settings, name: str, version: int | None = None, order_by: str = "", descending: bool = False,
    offset: int = 0, limit: int = 20,
) -> pd.DataFrame:  # fmt: skip
    """Return some rows of a table or of an earlier version, sorted by a column or unsorted.

    Raises
    ------
    TableError
        The table has not been made.
    ConfigError
        There is no such table, version or column.
    """
    connection, sql, _ = _page(settings, name, version, [], order_by, descending, offset, limit)
    return connection.execute(sql).df()


def preview(
    settings: Settings, name: str, version: int | None = None, columns: Sequence[str] = (), order_by: str = "",
    descending: bool = False, limit: int = 10,
) -> tuple[pa.Table, int]:  # fmt: skip
    """Return some columns of a `page` as Arrow, and the version that was read."""
    connection, sql, read = _page(settings, name, version, columns, order_by, descending, 0, limit)
    return connection.sql(sql).to_arrow_table(), read


def _page(
    settings: Settings, name: str, version: int | None, columns: Sequence[str], order_by: str, descending: bool,
    offset: int, limit: int,
) -> tuple[duckdb.DuckDBPyConnection, str, int]:  # fmt: skip
    table = tables.get(settings, name)
    opened = delta.made(settings, table, "it has no rows")
    if version is not None:
        opened = delta.at(opened, name, version)
    dataset = delta.dataset(opened)
    if unknown := [column for column in (*columns, *filter(None, [order_by])) if column not in dataset.schema.names]:
        raise ConfigError(f"{name} has no column {unknown[0]!r}; it has {', '.join(dataset.schema.names)}")
    connection = _database(int(time.time() // 3600)).cursor()
    connection.execute("SET TimeZone = 'UTC'")
    register(connection, name, dataset)
    order = f"ORDER BY {st.quoted(order_by)} {'DESC' if descending else 'ASC'} NULLS LAST" if order_by else ""
    listed = ", ".join(map(st.quoted, columns)) or "*"
    sql = f"SELECT {listed} FROM {st.quoted(name)} {order} LIMIT {int(limit)} OFFSET {int(offset)}"
    return connection, sql, opened.version()


def distribution(settings: Settings, name: str, column: str) -> pd.DataFrame:
    """Count how often the values of a column occur: ``value`` (or the lower bound of a bin) and ``rows``."""
    table = tables.get(settings, name)
    kind = table.types.get(column)
    if kind is None:
        raise ConfigError(f"{name} has no column {column!r}; it has {', '.join(table.names)}")
    connection = cursor()
    register(connection, name, delta.content(delta.table_path(settings, table), table.arrow_schema()))
    if kind in ("int", "bigint", "double"):
        return connection.execute(f"""
            WITH bounds AS (SELECT min("{column}")::DOUBLE AS low, max("{column}")::DOUBLE AS high FROM "{name}")
            SELECT low + least({BINS - 1}, floor(("{column}" - low) / nullif(high - low, 0) * {BINS}))
                   * (high - low) / {BINS} AS value, count(*) AS rows
            FROM "{name}", bounds WHERE "{column}" IS NOT NULL GROUP BY 1 ORDER BY 1
        """).df().fillna(0)  # fmt: skip
    return connection.execute(f"""
        SELECT "{column}"::VARCHAR AS value, count(*) AS rows FROM "{name}" WHERE "{column}" IS NOT NULL
        GROUP BY 1 ORDER BY rows DESC, value LIMIT {BINS // 2}
    """).df()


def count(settings: Settings, name: str) -> int:
    """Count the rows of a table, from its log alone; 0 if it has not been made."""
    table = tables.get(settings, name)
    if settings.enable_delta:
        opened = delta.opened(settings, table)
        return 0 if opened is None else opened.count()
    rows: int = delta.content(delta.table_path(settings, table), table.arrow_schema()).count_rows()
    return rows


def overview(settings: Settings) -> pd.DataFrame:
    """List every table with its rows, the age of its last commit in hours, and whether it is late."""
    lines = []
    for table in tables.declared(settings).values():
        opened = delta.opened(settings, table)
        rows, age = 0, None
        if opened is not None:
            since = datetime.now(UTC) - delta.committed_at(opened)
            rows, age = opened.count(), since.total_seconds() / 3600
        state = "not made" if age is None else "late" if age > table.freshness_hours else "fresh"
        lines.append((table.layer, table.name, table.grain, rows, age and round(age, 1), state))
    return pd.DataFrame(lines, columns=["layer", "table", "grain", "rows", "age", "freshness"])


def ledger(settings: Settings, run_id: str, names: list[str]) -> pd.DataFrame:
    """Return the ledger counts of a run, one row for each of the tables."""
    rows = _ledger_rows(settings, names)
    of_run = rows[rows.run_id == run_id].drop(columns=["run_id", "table_id", "version", "recorded_at", "rows"])
    counts = of_run.groupby("target").sum(numeric_only=True)
    reasons = of_run.groupby("target").reasons.agg(lambda texts: " ".join(t for t in texts if t != "{}"))
    return counts.join(reasons).reset_index().rename(columns={"target": "table", "records_read": "read"})


def recent_runs(settings: Settings, names: list[str] | None = None, limit: int = 5) -> pd.DataFrame:
    """List the last runs: end, tables that changed, records read, duplicate and quarantined."""
    runs = _ledger_rows(settings, names).groupby("run_id")
    totals = runs.agg(
        finished=("recorded_at", "max"),
        tables=("target", "nunique"),
        read=("records_read", "sum"),
        duplicate=("duplicate", "sum"),
        quarantined=("quarantined", "sum"),
    )
    last = totals.sort_values("finished", ascending=False).head(limit)
    return last.reset_index().rename(columns={"run_id": "run"})


def table_to_profile(settings: Settings) -> Table:
    """Return the table to profile: ``profile_table``, or the silver table with most rows if that one is empty."""
    wanted = tables.get(settings, settings.profile_table)
    silver = [table for table in tables.declared(settings).values() if table.layer == "silver"]
    return wanted if count(settings, wanted.name) else max([wanted, *silver], key=lambda t: count(settings, t.name))


def events_by_day(settings: Settings) -> pd.DataFrame:
    """Count the events of each day in ``app_events_silver`` and in ``event_metrics_gold``: ``day``, ``silver``,
    ``gold``. Days that either table does not hold in full, because of retention, are left out."""
    names = ("app_events_silver", "event_metrics_gold")
    batches = [batch for name in names for batch in archive.batches(settings, tables.get(settings, name))]
    counts = query(
        settings,
        """
        WITH silver AS (SELECT event_date AS day, count(*) AS events FROM app_events_silver GROUP BY day),
             gold AS (SELECT metric_date AS day, sum(total_events)::BIGINT AS events
                      FROM event_metrics_gold GROUP BY day)
        SELECT day, coalesce(silver.events, 0) AS silver, coalesce(gold.events, 0) AS gold
        FROM silver FULL JOIN gold USING (day) ORDER BY day
    """,
    )
    return counts[~counts.day.astype(str).str[:10].isin({day for batch in batches for day in batch.days})]


def _ledger_rows(settings: Settings, names: list[str] | None) -> pd.DataFrame:
    rows = pd.DataFrame(delta.read_ops(settings, "ledger"), columns=ops.SCHEMAS["ledger"].names)
    if rows.empty:
        return rows
    rows["recorded_at"] = rows.recorded_at.dt.tz_localize(None).dt.floor("s")
    rows = rows[rows.run_id != ""]  # rows that no run changed
    return rows if names is None else rows[rows.target.isin(names)]


def register(connection: duckdb.DuckDBPyConnection, name: str, dataset: ds.Dataset) -> list[str]:
    """Create a view of a dataset, and return the files that the view reads by itself. Its timestamps have no zone,
    because DuckDB's functions for those with a zone need an extension to be downloaded.

    DuckDB reads local Parquet itself, and sorts by one column before it fetches the others; everything else is read
    through Arrow.
    """
    schema, files = dataset.schema, _local_files(dataset)
    types = _types(connection, schema)
    parts = {key for key, _ in _folders(files[0])} if files else set()
    listed = ", ".join(
        f"{st.quoted(column)}::{kind} AS {st.quoted(column)}" if "TIMESTAMP" in kind else st.quoted(column)
        for column, kind in types.items()
    )
    if files:
        folders = ", ".join(f"{st.quoted(column)}: {kind}" for column, kind in types.items() if column in parts)
        hive = f"hive_partitioning = true, hive_types = {{{folders}}}" if parts else "hive_partitioning = false"
        paths = ", ".join(map(st.text, files))
        source = f"read_parquet([{paths}], union_by_name = true, {hive})"
    else:
        connection.register(f"_{name}", dataset)
        source = st.quoted(f"_{name}")
    connection.execute(f"CREATE OR REPLACE TEMP VIEW {st.quoted(name)} AS SELECT {listed} FROM {source}")
    return files


def register_catalog(connection: duckdb.DuckDBPyConnection, lines: list[dict[str, Any]]) -> None:
    """Create the views of `CATALOG` from the catalog's lines; a line has the columns of ``GET /tables``."""
    rows = [line | {"updated_at": _moment(line["updated_at"])} for line in lines]
    for name, layer in CATALOG.items():
        connection.register(name, pa.Table.from_pylist([row for row in rows if row["layer"] == layer], _LINE))


def _moment(at: datetime | str | None) -> datetime | None:
    at = datetime.fromisoformat(at) if isinstance(at, str) else at
    return at and at.astimezone(UTC).replace(tzinfo=None)


def _local_files(dataset: ds.Dataset) -> list[str]:
    """Return the files of a dataset if DuckDB can read them directly; else none."""
    if not isinstance(dataset, ds.FileSystemDataset) or not isinstance(dataset.format, ds.ParquetFileFormat):
        return []
    filesystem, root = dataset.filesystem, ""
    if isinstance(filesystem, pafs.SubTreeFileSystem):
        filesystem, root = filesystem.base_fs, filesystem.base_path
    if not isinstance(filesystem, pafs.LocalFileSystem):
        return []
    keys = [_folders(file) for file in dataset.files]
    plain = all(re.fullmatch(r"[\w:-]+", value) for folders in keys for _, value in folders)
    return [root + file for file in dataset.files] if plain and not re.search(r"[*?\[{]", root) else []


def _folders(file: str) -> list[tuple[str, str]]:
    """Return the partition columns and values in the path of a file."""
    return [(key, value) for key, equals, value in (part.partition("=") for part in file.split("/")[:-1]) if equals]


def _types(connection: duckdb.DuckDBPyConnection, schema: pa.Schema) -> dict[str, str]:
    """Return DuckDB's name of each column's type, with timestamps without a zone at any depth."""
    kinds = connection.from_arrow(schema.empty_table()).types
    return {name: str(kind).replace(" WITH TIME ZONE", "") for name, kind in zip(schema.names, kinds, strict=True)}


def _known(settings: Settings) -> dict[str, tuple[str, pa.Schema]]:
    """Return the path and the schema of every table that a query may name."""
    places = {t.name: (delta.table_path(settings, t), t.arrow_schema()) for t in tables.declared(settings).values()}
    return places | {
        f"ops_{name}": (f"{settings.layer_path('ops')}/{name}", schema) for name, schema in ops.SCHEMAS.items()
    }
