"""Rows of Parquet files as records: every value as text, in the form that it would have in JSON or CSV."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakehouse_lib.intake.records import BYTES, ROWS, SCHEMA, is_json, json_text, maps, sparse
from lakehouse_lib.intake.streams import Unreadable

_FAR = 9_000_000_000_000
"""Limit below which a number of seconds, or of a finer unit, fits into 64-bit microseconds."""


def read(handle: BinaryIO, names: set[str]) -> Iterator[pa.RecordBatch]:
    """Read the rows of a Parquet file as batches of `records.SCHEMA`; adds its columns to ``names``."""
    file = pq.ParquetFile(handle, coerce_int96_timestamp_unit="us")
    columns = file.schema_arrow.names
    if duplicates := sorted({name for name in columns if columns.count(name) > 1}):
        raise Unreadable(f"it has the column {', '.join(map(repr, duplicates))} more than once")
    names.update(columns)
    ambiguous = len({name.lower() for name in columns}) < len(columns)
    width = sum(len(name) + 8 for name in columns)
    for batch in file.iter_batches(max(1, min(ROWS, BYTES // max(1, width)))):
        pieces = batch.nbytes // (4 * BYTES) + 1
        rows = -(-batch.num_rows // pieces) or 1
        for start in range(0, batch.num_rows, rows):
            yield _records(batch.slice(start, rows), ambiguous)


def _records(batch: pa.RecordBatch, ambiguous: bool) -> pa.RecordBatch:
    count, width, names = batch.num_rows, batch.num_columns, batch.schema.names
    problems: dict[int, str] = dict.fromkeys(range(count), "ambiguous_fields") if ambiguous else {}
    columns = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in batch.columns]
    texts = [_column_text(_valid(column, problems), problems) for column in columns]
    checked = {
        name: text
        for name, text, column in zip(names, texts, columns, strict=True)
        if _is_text(column) or pa.types.is_map(column.type)
    }
    # Reorder from column by column to row by row.
    row_order = np.arange(count * width).reshape(width, count).T.ravel()
    values = pc.take(pa.concat_arrays(texts), pa.array(row_order)) if texts else pa.array([], pa.string())
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * width)
    record = maps(offsets, np.tile(np.arange(width), count), names, values)
    problem_columns = (sparse(problems, "problem", count), sparse(_not_json(checked), "not_json", count))
    return pa.RecordBatch.from_arrays([pa.nulls(count, pa.string()), record, *problem_columns], schema=SCHEMA)


def _not_json(texts: dict[str, pa.StringArray]) -> dict[int, list[str]]:
    """Return the fields of each row whose text begins like JSON but is not valid JSON."""
    fields: dict[int, list[str]] = {}
    for name, column in texts.items():
        is_candidate = pc.fill_null(pc.match_substring_regex(column, r"^\s*[\[{]"), False)
        for position in np.flatnonzero(is_candidate.to_numpy(zero_copy_only=False)):
            if not is_json(column[int(position)].as_py()):
                fields.setdefault(int(position), []).append(name)
    return fields


def _is_text(column: pa.Array) -> bool:
    kind = column.type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _valid(column: pa.Array, problems: dict[int, str]) -> pa.Array:
    """Return a column whose text is valid UTF-8: other bytes become base64, and their rows get a problem."""
    if not _is_text(column):
        return column
    try:
        column.validate(full=True)
        return column
    except pa.ArrowInvalid:
        texts: list[str | None] = []
        for position, value in enumerate(column.cast(pa.large_binary()).to_pylist()):
            try:
                texts.append(None if value is None else value.decode())
            except UnicodeDecodeError:
                texts.append("base64:" + base64.b64encode(value).decode())
                problems[position] = "invalid_utf8"
        return pa.array(texts, pa.string())


def _column_text(column: pa.Array, problems: dict[int, str]) -> pa.StringArray:
    """Return a column's values as text: ISO-8601 for times, all digits of numbers, JSON for nested values.

    Nanoseconds are truncated to microseconds; bytes are base64.
    """
    kind = column.type
    if _is_text(column):
        return column.cast(pa.string())
    if pa.types.is_timestamp(kind):
        # Floor division: a truncated time is never later than the original.
        truncated = column if kind.unit != "ns" else _cut(column, pa.timestamp("us", kind.tz))
        try:
            text = truncated.cast(pa.timestamp("us")).cast(pa.string())
        except pa.ArrowInvalid:  # out of range for microseconds: the number is kept, which is not read as a time
            numbers = column.cast(pa.int64())
            in_range = pc.and_(pc.less(numbers, _FAR), pc.greater(numbers, -_FAR))
            text = pc.if_else(
                in_range,
                pc.if_else(in_range, numbers, 0).cast(kind).cast(pa.timestamp("us")).cast(pa.string()),
                numbers.cast(pa.string()),
            )
        return pc.binary_join_element_wise(text, "Z", "") if kind.tz else text
    if pa.types.is_float16(kind):
        column, kind = column.cast(pa.float32()), pa.float32()
    if pa.types.is_time64(kind) and kind.unit == "ns":
        column = _cut(column, pa.time64("us"))
    scalars = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_date,
               pa.types.is_time, pa.types.is_null)  # fmt: skip
    if any(test(kind) for test in scalars):
        return column.cast(pa.string())
    return pa.array(_nested(column, problems), pa.string())


def _cut(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return nanoseconds as microseconds, rounded down."""
    numbers = column.cast(pa.int64())
    whole = pc.divide(numbers, 1000)
    below = pc.less(pc.subtract(numbers, pc.multiply(whole, 1000)), 0)
    return pc.subtract(whole, below.cast(pa.int64())).cast(kind)


def _nested(column: pa.Array, problems: dict[int, str]) -> list[str | None]:
    """Return nested values as JSON text; a value that JSON cannot represent gives its row a problem."""
    texts: list[str | None] = []
    for position in range(len(column)):
        try:
            value = column[position].as_py()
            if value is not None and pa.types.is_map(column.type):
                value = "{" + ",".join(f"{json_text(str(_value(k)))}:{json_text(_value(v))}" for k, v in value) + "}"
            elif value is not None:
                value = _value(value)
            texts.append(value if value is None or isinstance(value, str) else json_text(value))
        except (OverflowError, ValueError):
            texts.append(None)
            problems[position] = "unreadable_value"
    return texts


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _value(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_value(inner) for inner in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(value.total_seconds())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (bool, int, float, Decimal, str, type(None))):
        return value if not isinstance(value, Decimal) else _Digits(format(value, "f"))
    return str(value)


class _Digits(int):
    """A decimal number that JSON prints with its original digits."""

    text: str

    def __new__(cls, text: str) -> _Digits:
        number = super().__new__(cls, 0)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text
