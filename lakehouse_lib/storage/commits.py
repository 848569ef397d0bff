"""Commits: everything that changes a table, each change with what it says of itself and how far sources were read.

Spark commits by delta-spark; what the native engine computes is committed by delta-rs.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, write_deltalake

from lakehouse_lib.config import Settings
from lakehouse_lib.model import ops
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta_rs, delta_spark
from lakehouse_lib.storage.delta import Consumed, open_table, table_path
from lakehouse_lib.storage.transactions import Match, dates, first_watermark, is_known, properties, retried

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_upserts = threading.Lock()
"""Tables of a run that are made side by side would only get in each other's way: a lost race waits for a second."""


def append(df: DataFrame, settings: Settings, table: Table, consumed: Iterable[Consumed], info: dict[str, Any]) -> None:
    """Add rows, and remember in the same commit how far the sources were read."""
    _write(df, settings, table, "append", consumed, info)


def overwrite(
    df: DataFrame,
    settings: Settings,
    table: Table,
    consumed: Iterable[Consumed],
    info: dict[str, Any],
    days: Iterable[date] | None = None,
    reschema: bool = False,
) -> None:
    """Replace the whole table, or only the partitions of some days; ``reschema`` also its columns and its partition."""
    if not settings.enable_delta:
        _swap_parquet(df, table, Path(table_path(settings, table)))
        return
    where = None if days is None else f"{table.partition_by} IN ({dates(days)})"
    _write(df, settings, table, "overwrite", consumed, info, where, reschema)


def _write(
    df: DataFrame,
    settings: Settings,
    table: Table,
    mode: Literal["append", "overwrite"],
    consumed: Iterable[Consumed],
    info: dict[str, Any],
    where: str | None = None,
    reschema: bool = False,
) -> None:
    rows, path = df.select(*table.names), table_path(settings, table)
    write = delta_rs.write if settings.native else delta_spark.write
    anew = table if reschema else None
    _commit(settings, table, consumed, lambda marks: write(rows, path, mode, marks, info, where, anew))


def merge(
    changes: DataFrame,
    settings: Settings,
    table: Table,
    consumed: Iterable[Consumed],
    info: dict[str, Any],
    partitions: Iterable[str] | None = None,
) -> None:
    """Apply rows marked by ``_action`` (insert, update, delete) by the table's key, in one commit.

    ``partitions`` limits the search for existing rows to those days.
    """
    days = None if partitions is None or not table.partition_by else (table.partition_by, dates(partitions))
    _merge(changes, settings, table, Match({key: key for key in table.key}, days=days), consumed, info)


def swap(
    gone: DataFrame,
    come: DataFrame,
    settings: Settings,
    table: Table,
    consumed: Iterable[Consumed],
    info: dict[str, Any],
) -> None:
    """Delete rows of a bronze table and add others, in one commit.

    ``gone`` holds columns of the table by which the flagged rows to delete are found; ``come`` the
    new rows.
    """
    keys = {name: f"_gone_{name}" for name in gone.columns}
    deletes = gone.distinct().withColumnsRenamed(keys)
    rows = come.select(*table.names).unionByName(deletes, allowMissingColumns=True)
    # A row to delete has a key to find it by; a row to add has none, and so meets nothing.
    first = next(iter(keys.values()))
    rows = rows.selectExpr("*", f"if({first} IS NULL, 'insert', 'delete') AS _action")
    _merge(rows, settings, table, Match(keys, flagged=True), consumed, info)


def _merge(
    changes: DataFrame,
    settings: Settings,
    table: Table,
    match: Match,
    consumed: Iterable[Consumed],
    info: dict[str, Any],
) -> None:
    path, write = table_path(settings, table), delta_rs.merge if settings.native else delta_spark.merge
    _commit(settings, table, consumed, lambda marks: write(changes, path, table.names, match, marks, info))


def _commit(
    settings: Settings, table: Table, consumed: Iterable[Consumed], write: Callable[[list[Consumed]], None]
) -> None:
    """Write with the watermarks of the sources; Spark's commit holds the first of them alone."""
    marks = list(consumed)
    retried(lambda: write(marks), table.name)
    if not settings.native:
        mark(settings, table, [item for item in marks if item not in first_watermark(marks)])


def mark(
    settings: Settings,
    table: Table,
    consumed: Iterable[Consumed],
    info: dict[str, Any] | None = None,
    once: bool = False,
) -> None:
    """Remember how far sources were read, and what became of their records, where no data has to be written.

    ``once`` does nothing where the table has read as far already, as Spark does with a number that it knows.
    """
    consumed = list(consumed)
    tells = consumed or any((info or {}).get("ledger", {}).values())
    if not tells or not settings.enable_delta:
        return

    def run() -> None:
        target = DeltaTable(table_path(settings, table))
        if once and is_known(target, consumed):
            return
        _commit_nothing(target, properties(consumed, info or None))

    retried(run, table.name)


def _commit_nothing(target: DeltaTable, commit_properties: CommitProperties) -> None:
    """A commit without rows, for what it says."""
    parts = target.metadata().partition_columns
    target.create_write_transaction([], "append", target.schema(), parts, commit_properties=commit_properties)


def take_back(settings: Settings, table: Table, files: Iterable[str], info: dict[str, Any]) -> None:
    """Delete the rows of some landing files from a bronze table."""
    listed = ", ".join("'" + path.replace("'", "''") + "'" for path in files)

    told = properties([], info)

    def run() -> None:
        target = DeltaTable(table_path(settings, table))
        before = target.version()
        target.delete(f"_source_file IN ({listed})", commit_properties=told)
        if target.version() == before:  # there was nothing to delete, which is to be told all the same
            _commit_nothing(target, told)

    retried(run, table.name)


def restore(settings: Settings, table: Table, version: int, consumed: Iterable[Consumed], info: dict[str, Any]) -> None:
    """Take a table back to a version; what it remembers of its sources goes back in the same commit."""

    def run() -> None:
        DeltaTable(table_path(settings, table)).restore(version, commit_properties=properties(consumed, info))

    retried(run, table.name)


def write_ops(settings: Settings, name: str, rows: list[dict[str, Any]]) -> None:
    """Append rows to one of the tables under ``ops/``; made when it is first needed."""
    if rows:
        path, found = f"{settings.layer_path('ops')}/{name}", pa.Table.from_pylist(rows, ops.SCHEMAS[name])
        retried(lambda: write_deltalake(path, found, mode="append", schema_mode="merge"), path)


def upsert_ops(
    settings: Settings,
    name: str,
    rows: pa.Table,
    key: tuple[str, ...],
    where: str = "false",
    keep: tuple[str, ...] = (),
) -> None:
    """Put rows into a table under ``ops/``, each key once, so that writing them twice changes nothing.

    ``where`` (SQL over ``s``, the new row, and ``t``, the one there) says when a row that is there is
    updated; columns in ``keep`` stay as they are.
    """
    if not rows.num_rows:
        return
    path = f"{settings.layer_path('ops')}/{name}"
    updates = {column: f"s.{column}" for column in rows.column_names if column not in (*key, *keep)}

    def run() -> None:
        found = open_table(path)
        early = found is not None and not {*rows.column_names} <= {field.name for field in found.schema().fields}
        if found is None or (early and where != "false"):
            # Not there yet, or of an early version of this library whose rows cannot be updated.
            if found is None:
                write_deltalake(path, rows, mode="error")
            else:
                write_deltalake(path, rows, mode="overwrite", schema_mode="overwrite")
            return
        same = " AND ".join(f"t.{column} = s.{column}" for column in key)
        merge = found.merge(rows, same, source_alias="s", target_alias="t", merge_schema=early)
        if where != "false":
            merge = merge.when_matched_update(updates, predicate=where)
        merge.when_not_matched_insert_all().execute()

    with _upserts:
        retried(run, path)


def _swap_parquet(df: DataFrame, table: Table, path: Path) -> None:
    fresh, old = path.with_name(path.name + ".new"), path.with_name(path.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    df.select(*table.names).write.mode("overwrite").parquet(str(fresh))
    if not fresh.exists():  # Sail writes no folder where there are no rows
        fresh.mkdir(parents=True)
        pq.write_table(table.arrow_schema().empty_table(), fresh / "part-0.parquet")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    fresh.rename(path)
    shutil.rmtree(old, ignore_errors=True)
