"""Commits by delta-rs: rows stream from the engine, and all watermarks go into the commit of the data.

Like Spark's, a write whose first watermark the table has already does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from lakehouse_lib.storage.delta import Consumed
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
    parts: list[str] | None,
) -> None:
    """Append rows, or replace those of the partitions ``where`` says, or all; with ``parts`` columns and partition
    columns too."""
    target, told = DeltaTable(path), properties(consumed, info)
    if is_known(target, consumed):
        return
    stream = _stream(rows, target if parts is None else None)
    if mode == "append":
        write_deltalake(target, stream, mode="append", commit_properties=told)
    elif parts is not None:
        write_deltalake(target, stream, mode="overwrite", schema_mode="overwrite", commit_properties=told,
                        partition_by=parts)  # fmt: skip
    else:
        write_deltalake(target, stream, mode="overwrite", predicate=where, commit_properties=told)


def merge(
    changes: DataFrame, path: str, names: list[str], match: Match, consumed: list[Consumed], info: dict[str, Any]
) -> None:
    """Delete, update and insert rows as ``_action`` says."""
    target = DeltaTable(path)
    if is_known(target, consumed):
        return
    values = {f'"{name}"': f's."{name}"' for name in names}
    merging = target.merge(
        _stream(changes, target),
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


def _stream(frame: DataFrame, target: DeltaTable | None) -> pa.RecordBatchReader:
    """The rows of a frame batch by batch, with the types of a table, which may have more columns; columns that it
    lacks stay behind them."""
    client: Any = frame.sparkSession.client
    plan: Any = cast("Any", frame)._plan
    parts: Iterator[Any] = client.to_table_as_iterator(plan.to_proto(client), plan.observations)
    tables = (part for part in parts if isinstance(part, pa.Table))
    first = next(tables, None)
    found = frame.limit(0).toArrow().schema if first is None else first.schema
    schema = _fitted(found, target)

    def batches() -> Iterator[pa.RecordBatch]:
        for table in () if first is None else (first, *tables):
            columns = [
                table[field.name].cast(field.type) if field.name in table.schema.names
                else pa.nulls(len(table), field.type)
                for field in schema
            ]  # fmt: skip
            yield from pa.table(columns, schema=schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())


def _fitted(found: pa.Schema, target: DeltaTable | None) -> pa.Schema:
    """The columns of a table, as they may be null, then those that only the rows have."""
    if target is None:
        return found
    known = [pa.field(field.name, field.type) for field in pa.schema(target.schema().to_arrow())]
    names = {field.name for field in known}
    return pa.schema([*known, *(field for field in found if field.name not in names)])
