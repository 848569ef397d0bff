"""Commits: every change of a table, with its metadata and how far the sources were read.

Spark commits through delta-spark; results of the native engine are committed by delta-rs.
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
from lakehouse_lib.sql import types as st
from lakehouse_lib.storage import delta_rs, delta_spark
from lakehouse_lib.storage.delta import Consumed, open_table, table_path
from lakehouse_lib.storage.transactions import Match, dates, first_watermark, is_known, properties, retried

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_upserts = threading.Lock()
"""Tables of one run would only conflict if written in parallel, and each lost race costs a second."""


def append(df: DataFrame, settings: Settings, table: Table, consumed: Iterable[Consumed], info: dict[str, Any]) -> None:
    """Add rows, and record in the same commit how far the sources were read."""
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
    """Replace the whole table, or only the partitions of some days; ``reschema`` also replaces its columns and its
    partition column."""
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
    declaration = table if reschema else None
    _commit(settings, table, consumed, lambda marks: write(rows, path, mode, marks, info, where, declaration))


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
    removed: DataFrame,
    added: DataFrame,
    settings: Settings,
    table: Table,
    consumed: Iterable[Consumed],
    info: dict[str, Any],
) -> None:
    """Delete rows of a bronze table and add others, in one commit.

    ``removed`` has the columns of the table that identify the flagged rows to delete; ``added`` has the new rows.
    """
    keys = {name: f"_gone_{name}" for name in removed.columns}
    deletes = removed.distinct().withColumnsRenamed(keys)
    rows = added.select(*table.names).unionByName(deletes, allowMissingColumns=True)
    # A row to delete has a key; a row to add has none, and so matches nothing.
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
    """Write with the watermarks of the sources; Spark's commit holds only the first of them."""
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
    """Record how far sources were read, and the counts of their records, when there is no data to write.

    With ``once`` nothing is done if the table has already read this far, as Spark does with a number that it knows.
    """
    consumed = list(consumed)
    has_content = consumed or any((info or {}).get("ledger", {}).values())
    if not has_content or not settings.enable_delta:
        return

    def run() -> None:
        target = DeltaTable(table_path(settings, table))
        if once and is_known(target, consumed):
            return
        _commit_nothing(target, properties(consumed, info or None))

    retried(run, table.name)


def _commit_nothing(target: DeltaTable, commit_properties: CommitProperties) -> None:
    """Commit metadata without rows."""
    parts = target.metadata().partition_columns
    target.create_write_transaction([], "append", target.schema(), parts, commit_properties=commit_properties)


def take_back(settings: Settings, table: Table, files: Iterable[str], info: dict[str, Any]) -> None:
    """Delete the rows of some landing files from a bronze table."""
    listed = ", ".join(map(st.text, files))

    commit_properties = properties([], info)

    def run() -> None:
        target = DeltaTable(table_path(settings, table))
        before = target.version()
        target.delete(f"_source_file IN ({listed})", commit_properties=commit_properties)
        if target.version() == before:  # nothing to delete; record it anyway
            _commit_nothing(target, commit_properties)

    retried(run, table.name)


def restore(settings: Settings, table: Table, version: int, consumed: Iterable[Consumed], info: dict[str, Any]) -> None:
    """Restore a version of a table; the same commit also restores how far it had read its sources."""

    def run() -> None:
        DeltaTable(table_path(settings, table)).restore(version, commit_properties=properties(consumed, info))

    retried(run, table.name)


def write_ops(settings: Settings, name: str, rows: list[dict[str, Any]]) -> None:
    """Append rows to a table under ``ops/``, which is created when first needed."""
    if rows:
        path, table = f"{settings.layer_path('ops')}/{name}", pa.Table.from_pylist(rows, ops.SCHEMAS[name])
        retried(lambda: write_deltalake(path, table, mode="append", schema_mode="merge"), path)


def upsert_ops(
    settings: Settings,
    name: str,
    rows: pa.Table,
    key: tuple[str, ...],
    where: str = "false",
    keep: tuple[str, ...] = (),
) -> None:
    """Write rows to a table under ``ops/``, each key once, so that writing them twice changes nothing.

    ``where`` (SQL over ``s``, the new row, and ``t``, the existing one) says when an existing row is updated; columns
    in ``keep`` keep their values.
    """
    if not rows.num_rows:
        return
    path = f"{settings.layer_path('ops')}/{name}"
    updates = {column: f"s.{column}" for column in rows.column_names if column not in (*key, *keep)}

    def run() -> None:
        target = open_table(path)
        early = target is not None and not {*rows.column_names} <= {field.name for field in target.schema().fields}
        if target is None or (early and where != "false"):
            # It does not exist yet, or an early version of this library wrote it and its rows cannot be updated.
            if target is None:
                write_deltalake(path, rows, mode="error")
            else:
                write_deltalake(path, rows, mode="overwrite", schema_mode="overwrite")
            return
        same = " AND ".join(f"t.{column} = s.{column}" for column in key)
        merge = DeltaTable(path).merge(rows, same, source_alias="s", target_alias="t", merge_schema=early)
        if where != "false":
            merge = merge.when_matched_update(updates, predicate=where)
        merge.when_not_matched_insert_all().execute()

    with _upserts:
        retried(run, path)


def _swap_parquet(df: DataFrame, table: Table, path: Path) -> None:
    fresh, old = path.with_name(path.name + ".new"), path.with_name(path.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    df.select(*table.names).write.mode("overwrite").parquet(str(fresh))
    if not fresh.exists():  # Sail writes no folder if there are no rows
        fresh.mkdir(parents=True)
        pq.write_table(table.arrow_schema().empty_table(), fresh / "part-0.parquet")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    fresh.rename(path)
    shutil.rmtree(old, ignore_errors=True)
