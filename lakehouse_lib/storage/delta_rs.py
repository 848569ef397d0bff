"""Commits by delta-rs: rows stream from the engine, and all watermarks are part of the data's commit.

As with Spark, a write does nothing if the table already has its first watermark.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage.delta import Consumed, filesystem
from lakehouse_lib.storage.transactions import Match, is_known, properties

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def write(
    rows: DataFrame,
    path: str,
    mode: str,
    consumed: list[Consumed],
    info: dict[str, Any],
    where: str | None,
    declaration: Table | None,
) -> None:
    """Append rows, or replace those of the partitions that ``where`` selects, or all; with a ``declaration``,
    also replace types and partition columns."""
    target, commit_properties = DeltaTable(path), properties(consumed, info)
    if is_known(target, consumed):
        return
    stream = _stream(rows, _columns(target) if declaration is None else _declared(declaration))
    if mode == "append":
        write_deltalake(target, stream, mode="append", commit_properties=commit_properties)
    elif declaration:
        write_deltalake(target, stream, mode="overwrite", schema_mode="overwrite", commit_properties=commit_properties,
                        partition_by=[name for name in [declaration.partition_by] if name])  # fmt: skip
    else:
        write_deltalake(target, stream, mode="overwrite", predicate=where, commit_properties=commit_properties)


def write_shadow(rows: DataFrame, path: str, table: Table) -> None:
    """Write rows as a separate table with the declared types, replacing what is in the folder."""
    files, root = filesystem(path)
    files.create_dir(root, recursive=True)
    files.delete_dir_contents(root)
    write_deltalake(path, _stream(rows.select(*table.names), _declared(table)))


def merge(
    changes: DataFrame, path: str, names: list[str], match: Match, consumed: list[Consumed], info: dict[str, Any]
) -> None:
    """Delete, update and insert rows according to ``_action``."""
    target = DeltaTable(path)
    if is_known(target, consumed):
        return
    values = {f'"{name}"': f's."{name}"' for name in names}
    merging = target.merge(
        _stream(changes, _columns(target)),
        match.condition('"', "cardinality"),
        "s",
        "t",
        commit_properties=properties(consumed, info),
    )
    if match.flagged:
        merging = merging.when_matched_delete()
    else:
        merging = merging.when_matched_delete("s._action = 'delete'").when_matched_update(values)
    merging.when_not_matched_insert(values, "s._action <> 'delete'").execute()


def _columns(target: DeltaTable) -> pa.Schema:
    """Return the columns of a table, all nullable."""
    return pa.schema([pa.field(field.name, field.type) for field in pa.schema(target.schema().to_arrow())])


def _declared(table: Table) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in table.arrow_schema()])


def _stream(frame: DataFrame, known: pa.Schema | None) -> pa.RecordBatchReader:
    """Stream the rows of a frame in batches, cast to the types of the known columns. Columns that the frame lacks are
    null; columns that are not known come last."""
    client: Any = frame.sparkSession.client
    plan: Any = cast("Any", frame)._plan
    parts: Iterator[Any] = client.to_table_as_iterator(plan.to_proto(client), plan.observations)
    tables = (part for part in parts if isinstance(part, pa.Table))
    first = next(tables, None)
    received = frame.limit(0).toArrow().schema if first is None else first.schema
    schema = received
    if known is not None:
        schema = pa.schema([*known, *(field for field in received if field.name not in known.names)])

    def batches() -> Iterator[pa.RecordBatch]:
        for table in () if first is None else (first, *tables):
            columns = [
                table[field.name].cast(field.type) if field.name in table.schema.names
                else pa.nulls(len(table), field.type)
                for field in schema
            ]  # fmt: skip
            yield from pa.table(columns, schema=schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())
