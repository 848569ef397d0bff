"""Reads without a JVM: figures from the Delta logs, SQL over the tables with DuckDB."""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

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
from lakehouse_lib.storage import archive, delta

if TYPE_CHECKING:
    pass

CATALOG = {f"{layer}_tables": layer for layer in tables.LAYERS}
"""Views of what the catalog knows of the tables of a layer, by name."""

_LINE = pa.schema([
    *((name, pa.string()) for name in ("name", "layer", "tier", "description", "grain", "owner")),
    ("tags", pa.list_(pa.string())), ("rows", pa.int64()), ("bytes", pa.int64()), ("version", pa.int64()),
    ("updated_at", pa.timestamp("us")), ("state", pa.string()), ("verdict", pa.string()),
])  # fmt: skip


def plain() -> duckdb.DuckDBPyConnection:
    """A DuckDB of one's own, in memory, in UTC."""
    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def connect() -> duckdb.DuckDBPyConnection:
    """The same for SQL that comes from Spark's; to know what that means takes it some 40 ms."""
    connection = plain()
    dialects.prepare(connection)
    return connection


def cursor() -> duckdb.DuckDBPyConnection:
    """A connection to the DuckDB that this process shares: in UTC, for SQL that comes from Spark's as well.

    Views and temporary tables are its own. What holds for all of a DuckDB, such as its memory, must not be set.
    """
    connection = _shared(os.getpid()).cursor()
    connection.execute("SET TimeZone = 'UTC'")
    return connection


@functools.lru_cache(maxsize=1)
def _shared(process: int) -> duckdb.DuckDBPyConnection:
    return connect()


@functools.lru_cache(maxsize=1)
def _database(hour: int) -> duckdb.DuckDBPyConnection:
    """What pages are read with, for an hour: it remembers the heads of files, which Delta never changes."""
    connection = duckdb.connect(":memory:")
    connection.execute("SET parquet_metadata_cache = true; SET enable_external_file_cache = false")
    return connection


def query(settings: Settings, sql: str, lines: list[dict[str, Any]] | None = None) -> pd.DataFrame:
    """The answer of a DuckDB query over the tables by name; ``ops_<name>`` for those under ops.

    ``quarantine`` is all quarantine tables together, with ``table_name``. With ``lines``, which `catalog.lines`
    gives, ``gold_tables`` and the like are what the catalog knows of a layer's tables. Timestamps are UTC, without
    a zone. A table that has not been made has no rows. Only tables that the text mentions are opened; nothing else
    can be reached.
    """
    words = set(re.findall(r"\w+", sql))
    connection, files = plain(), []
    if [one.type for one in connection.extract_statements(sql)] != [duckdb.StatementType.SELECT]:
        raise ConfigError(f"One SELECT is answered here, and nothing else: {sql.strip()[:80]!r}")
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
    """Some rows of a table as it is or was, in the order of a column or as they come.

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
    """`page` as Arrow, of some columns, and the version that was read."""
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
    order = f"ORDER BY {_quoted(order_by)} {'DESC' if descending else 'ASC'} NULLS LAST" if order_by else ""
    listed = ", ".join(map(_quoted, columns)) or "*"
    sql = f"SELECT {listed} FROM {_quoted(name)} {order} LIMIT {int(limit)} OFFSET {int(offset)}"
    return connection, sql, opened.version()


def distribution(settings: Settings, name: str, column: str, bins: int = 30) -> pd.DataFrame:
    """How often values of a column occur: ``value`` (or the lower bound of a bin) and ``rows``."""
    table = tables.get(settings, name)
    kind = table.types.get(column)
    if kind is None:
        raise ConfigError(f"{name} has no column {column!r}; it has {', '.join(table.names)}")
    connection = cursor()
    register(connection, name, delta.content(delta.table_path(settings, table), table.arrow_schema()))
    if kind in ("int", "bigint", "double"):
        return connection.execute(f"""
            WITH bounds AS (SELECT min("{column}")::DOUBLE AS low, max("{column}")::DOUBLE AS high FROM "{name}")
            SELECT low + least({bins - 1}, floor(("{column}" - low) / nullif(high - low, 0) * {bins}))
                   * (high - low) / {bins} AS value, count(*) AS rows
            FROM "{name}", bounds WHERE "{column}" IS NOT NULL GROUP BY 1 ORDER BY 1
        """).df().fillna(0)  # fmt: skip
    return connection.execute(f"""
        SELECT "{column}"::VARCHAR AS value, count(*) AS rows FROM "{name}" WHERE "{column}" IS NOT NULL
        GROUP BY 1 ORDER BY rows DESC, value LIMIT {bins // 2}
    """).df()


def count(settings: Settings, name: str) -> int:
    """Rows of a table, from its log alone; 0 where it has not been made."""
    table = tables.get(settings, name)
    if settings.enable_delta:
        opened = delta.opened(settings, table)
        return 0 if opened is None else opened.count()
    rows: int = delta.content(delta.table_path(settings, table), table.arrow_schema()).count_rows()
    return rows


def overview(settings: Settings) -> pd.DataFrame:
    """Every table with its rows, the age of its last commit in hours, and whether that is late."""
    found = []
    for table in tables.declared(settings).values():
        opened = delta.opened(settings, table)
        rows, age = 0, None
        if opened is not None:
            since = datetime.now(UTC) - delta.committed_at(opened)
            rows, age = opened.count(), since.total_seconds() / 3600
        state = "not made" if age is None else "late" if age > table.freshness_hours else "fresh"
        found.append((table.layer, table.name, table.grain, rows, age and round(age, 1), state))
    return pd.DataFrame(found, columns=["layer", "table", "grain", "rows", "age", "freshness"])


def ledger(settings: Settings, run_id: str, names: list[str]) -> pd.DataFrame:
    """What became of the records that a run read, a row for each of some tables."""
    rows = _ledger_rows(settings, names)
    own = rows[rows.run_id == run_id].drop(columns=["run_id", "table_id", "version", "recorded_at", "rows"])
    counts = own.groupby("target").sum(numeric_only=True)
    reasons = own.groupby("target").reasons.agg(lambda texts: " ".join(t for t in texts if t != "{}"))
    return counts.join(reasons).reset_index().rename(columns={"target": "table", "records_read": "read"})


def recent_runs(settings: Settings, names: list[str] | None = None, limit: int = 5) -> pd.DataFrame:
    """The last runs: end, tables that moved, records read, duplicate and quarantined."""
    runs = _ledger_rows(settings, names).groupby("run_id")
    found = runs.agg(
        finished=("recorded_at", "max"),
        tables=("target", "nunique"),
        read=("records_read", "sum"),
        duplicate=("duplicate", "sum"),
        quarantined=("quarantined", "sum"),
    )
    last = found.sort_values("finished", ascending=False).head(limit)
    return last.reset_index().rename(columns={"run_id": "run"})


def table_to_profile(settings: Settings) -> Table:
    """The table to look at closely: ``profile_table``, or where that has no rows the silver one with most."""
    wanted = tables.get(settings, settings.profile_table)
    silver = [table for table in tables.declared(settings).values() if table.layer == "silver"]
    return wanted if count(settings, wanted.name) else max([wanted, *silver], key=lambda t: count(settings, t.name))


def events_by_day(settings: Settings) -> pd.DataFrame:
    """Events of each day, as ``app_events_silver`` holds and as ``event_metrics_gold`` counts them: ``day``,
    ``silver``, ``gold``. Days that are not in both tables in full, because of retention, are left out."""
    names = ("app_events_silver", "event_metrics_gold")
    batches = [batch for name in names for batch in archive.batches(settings, tables.get(settings, name))]
    found = query(
        settings,
        """
        WITH silver AS (SELECT event_date AS day, count(*) AS events FROM app_events_silver GROUP BY day),
             gold AS (SELECT metric_date AS day, sum(total_events)::BIGINT AS events
                      FROM event_metrics_gold GROUP BY day)
        SELECT day, coalesce(silver.events, 0) AS silver, coalesce(gold.events, 0) AS gold
        FROM silver FULL JOIN gold USING (day) ORDER BY day
    """,
    )
    return found[~found.day.astype(str).str[:10].isin({day for batch in batches for day in batch.days})]


def _ledger_rows(settings: Settings, names: list[str] | None) -> pd.DataFrame:
    rows = pd.DataFrame(delta.read_ops(settings, "ledger"), columns=ops.SCHEMAS["ledger"].names)
    if rows.empty:
        return rows
    rows["recorded_at"] = rows.recorded_at.dt.tz_localize(None).dt.floor("s")
    rows = rows[rows.run_id != ""]  # rows that no run moved
    return rows if names is None else rows[rows.target.isin(names)]


def register(connection: duckdb.DuckDBPyConnection, name: str, dataset: ds.Dataset) -> list[str]:
    """A view of a dataset for this connection, timestamps without a zone: DuckDB's functions on those
    with one are an extension to download. Returns the files that the view reads by itself.

    Local Parquet is read by DuckDB, which sorts by one column before it fetches the others;
    everything else comes through Arrow.
    """
    schema, files = dataset.schema, _local_files(dataset)
    types = _types(connection, schema)
    parts = {key for key, _ in _folders(files[0])} if files else set()
    listed = ", ".join(
        f"{_quoted(column)}::{kind} AS {_quoted(column)}" if "TIMESTAMP" in kind else _quoted(column)
        for column, kind in types.items()
    )
    if files:
        folders = ", ".join(f"{_quoted(column)}: {kind}" for column, kind in types.items() if column in parts)
        hive = f"hive_partitioning = true, hive_types = {{{folders}}}" if parts else "hive_partitioning = false"
        paths = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
        source = f"read_parquet([{paths}], union_by_name = true, {hive})"
    else:
        connection.register(f"_{name}", dataset)
        source = _quoted(f"_{name}")
    connection.execute(f"CREATE OR REPLACE TEMP VIEW {_quoted(name)} AS SELECT {listed} FROM {source}")
    return files


def register_catalog(connection: duckdb.DuckDBPyConnection, lines: list[dict[str, Any]]) -> None:
    """The views of `CATALOG`, from the catalog's lines; a line has the columns of ``GET /tables``."""
    rows = [line | {"updated_at": _moment(line["updated_at"])} for line in lines]
    for name, layer in CATALOG.items():
        connection.register(name, pa.Table.from_pylist([row for row in rows if row["layer"] == layer], _LINE))


def _moment(at: datetime | str | None) -> datetime | None:
    at = datetime.fromisoformat(at) if isinstance(at, str) else at
    return at and at.astimezone(UTC).replace(tzinfo=None)


def _local_files(dataset: ds.Dataset) -> list[str]:
    """The files of a dataset where DuckDB can read them as they are; else none."""
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
    """Partition columns and values in the folders of a file."""
    return [(key, value) for key, equals, value in (part.partition("=") for part in file.split("/")[:-1]) if equals]


def _types(connection: duckdb.DuckDBPyConnection, schema: pa.Schema) -> dict[str, str]:
    """DuckDB's name of each column's type, times without a zone at any depth."""
    kinds = connection.from_arrow(schema.empty_table()).types
    return {name: str(kind).replace(" WITH TIME ZONE", "") for name, kind in zip(schema.names, kinds, strict=True)}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _known(settings: Settings) -> dict[str, tuple[str, pa.Schema]]:
    """Every table that a query may name: where it is, and its columns."""
    found = {t.name: (delta.table_path(settings, t), t.arrow_schema()) for t in tables.declared(settings).values()}
    return found | {
        f"ops_{name}": (f"{settings.layer_path('ops')}/{name}", schema) for name, schema in ops.SCHEMAS.items()
    }
