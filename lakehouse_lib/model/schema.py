"""What a table is: its columns, what is declared about it, and its column types in Spark and in Arrow.

A column is declared as in SQL: ``name type [required] -- comment``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import pyarrow as pa

from lakehouse_lib.errors import ConfigError
from lakehouse_lib.model.checks import Check, check

LAYERS = ("bronze", "quarantine", "silver", "gold")


@dataclass(frozen=True)
class Column:
    """A column: its Spark SQL type, whether a value is required, and what it means."""

    name: str
    type: str
    required: bool
    comment: str


@dataclass(frozen=True)
class Table:
    """The declaration of a table. The catalog shows its fields under the same names."""

    name: str
    layer: str
    description: str
    grain: str
    declared: str
    key: tuple[str, ...]
    sources: tuple[str, ...]
    transform: str
    version: str = ""
    """Version of the transformation, set by its author. If it is set, the table is rebuilt when the version changes,
    and not when the code changes."""
    partition_by: str = ""
    cluster_by: tuple[str, ...] = ()
    owner: str = "data-platform"
    tags: tuple[str, ...] = ()
    freshness_hours: int = 24
    retention_days: int = 0
    event_time: str = ""
    """The column with the time of the event; the freshness of the table is measured by it."""
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Minimum and maximum of numbers, by column or ``column.field``. Every later layer can compute with the values
    in between; a record with a value beyond them goes to quarantine."""
    traced_by: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """How to find the rows of a source that a row is made from; by default by key, see `trace_rule`."""
    checks: tuple[Check, ...] = ()
    """Checks in addition to those that follow from the rest of the declaration: see `all_checks`."""

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """All columns in order, technical columns last."""
        return _parse(self.declared + _TECHNICAL[self.layer])

    @property
    def names(self) -> list[str]:
        """Names of all columns."""
        return [column.name for column in self.columns]

    @property
    def business(self) -> list[str]:
        """Names of the columns that the confluence law covers: those without a leading underscore."""
        return [name for name in self.names if not name.startswith("_")]

    @cached_property
    def all_checks(self) -> tuple[Check, ...]:
        """The checks that follow from columns, key and freshness, then the table's own. A check replaces an
        earlier one of the same name."""
        required = [column.name for column in self.columns if column.required]
        derived = [
            check("columns_as_declared", "schema", columns=self.types),
            check("required_values", "not_null", columns=required),
        ]
        if self.key:
            derived.append(check("key_is_unique", "unique", columns=list(self.key)))
        if self.event_time:
            accepted = "size(_quality_flags) = 0" if self.layer == "bronze" else ""
            derived.append(check("fresh", "freshness", column=self.event_time, max_hours=self.freshness_hours,
                                 severity="warn", where=accepted))  # fmt: skip
        return tuple({check.name: check for check in (*derived, *self.checks)}.values())

    @property
    def types(self) -> dict[str, str]:
        """The type of each column by name, as Spark writes it."""
        return {column.name: _without_spaces(column.type) for column in self.columns}

    def trace_rule(self, source: Table) -> Mapping[str, str] | None:
        """Return how to find the rows of a source that a row is made from: Spark SQL over the source, mapped to the
        Spark SQL over the row that it must equal. Unless declared, the rows with the same key; None if the source lacks
        the key."""
        if source.name in self.traced_by:
            return self.traced_by[source.name]
        return {name: name for name in self.key} if self.key and {*self.key} <= {*source.names} else None

    def arrow_schema(self) -> pa.Schema:
        """Return the Arrow schema, with the comments."""
        return pa.schema(
            pa.field(c.name, arrow_type(c.type), not c.required, {"comment": c.comment}) for c in self.columns
        )


_BRONZE = """
    _run_id          string     required -- run that loaded the record
    _ingested_at     timestamp  required -- when it was loaded
    _source_file     string     required -- file below the feed's landing folder
    _quality_flags   array<string> required -- what does not fit; empty for a good record
    _rescued_data    string     -- fields that the contract does not know, as JSON
    _raw             string     -- the record as it came, where a flag is set
"""
_PROCESSED = """
    _run_id          string     required -- run that wrote the row
    _processed_at    timestamp  required -- when it was written
"""
_TECHNICAL = {
    "bronze": _BRONZE,
    "silver": _PROCESSED,
    "gold": _PROCESSED,
    "quarantine": _PROCESSED + "    _source_file  string required -- file below the feed's folder\n",
}

_ARROW = {
    "string": pa.string(), "boolean": pa.bool_(), "int": pa.int32(), "bigint": pa.int64(),
    "double": pa.float64(), "date": pa.date32(), "timestamp": pa.timestamp("us", "UTC"),
}  # fmt: skip


def arrow_type(text: str) -> pa.DataType:
    """Return the Arrow type of a Spark SQL type such as ``array<struct<a: string, b: int>>``."""
    text = text.strip()
    if text in _ARROW:
        return _ARROW[text]
    if digits := re.fullmatch(r"decimal\((\d+),\s*(\d+)\)", text):
        return pa.decimal128(int(digits[1]), int(digits[2]))
    if text == "map<string,string>":
        return pa.map_(pa.string(), pa.string())
    if inner := re.fullmatch(r"array<(.+)>", text):
        return pa.list_(arrow_type(inner[1]))
    if inner := re.fullmatch(r"struct<(.+)>", text):
        parts = (part.split(":", 1) for part in inner[1].split(","))
        return pa.struct([(name.strip(), arrow_type(kind)) for name, kind in parts])
    raise ConfigError(f"Unknown column type {text!r}; known: {', '.join(_ARROW)}, decimal(p,s), array<…>, struct<…>")


def spark_type(kind: pa.DataType) -> str:
    """Return the Spark SQL type of an Arrow type, for the types that `arrow_type` returns."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"array<{spark_type(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{','.join(f'{part.name}:{spark_type(part.type)}' for part in kind)}>"
    if pa.types.is_map(kind):
        return f"map<{spark_type(kind.key_type)},{spark_type(kind.item_type)}>"
    if pa.types.is_timestamp(kind):
        return "timestamp"
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    return next((name for name, known in _ARROW.items() if known == kind), str(kind))


def _without_spaces(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _parse(declared: str) -> tuple[Column, ...]:
    columns = []
    for line in filter(str.strip, declared.split("\n")):
        head, _, comment = line.partition("--")
        name, kind = head.strip().split(None, 1)
        required = kind.strip().endswith("required")
        kind = kind.strip().removesuffix("required").strip()
        columns.append(Column(name, kind, required, comment.strip()))
    return tuple(columns)


def with_columns(table: Table, columns: dict[str, tuple[str, str]]) -> Table:
    """Return a copy of a table with further columns (name: type and comment) in front of its own."""
    lines = "".join(f"{name} {kind} -- {comment}\n" for name, (kind, comment) in columns.items())
    return replace(table, declared=lines + table.declared)
