"""Profiles: statistics of every column of a table, and the checks that it already passes.

Computed by DuckDB over the table's files; no engine is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any, cast

import duckdb
import pandas as pd
import pyarrow as pa
import yaml
from duckdb.func import PythonUDFType
from duckdb.sqltypes import VARCHAR

from lakehouse_lib.config import Settings
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta, reader

NUMBERS = ("int", "bigint", "double")
FEW = 12
"""A text column with at most this many distinct values is treated as a list of allowed values."""

_SHAPES = bytes.maketrans((ascii_uppercase + ascii_lowercase + digits).encode(), b"A" * 26 + b"a" * 26 + b"9" * 10)


@dataclass(frozen=True)
class ColumnProfile:
    """Statistics of a column; values are as DuckDB prints them, times are UTC."""

    column: str
    type: str
    rows: int
    nulls: int
    distinct: int
    minimum: str | None
    maximum: str | None
    quantiles: tuple[float, ...]
    """The 5, 25, 50, 75 and 95 % quantiles of a numeric column."""
    top: tuple[tuple[str, int], ...]
    """The most frequent values and their counts."""
    patterns: tuple[tuple[str, int], ...]
    """The most frequent shapes of a text column: A for capitals, a for small letters, 9 for digits."""

    @property
    def null_share(self) -> float:
        """Share of rows without a value, 0–1."""
        return self.nulls / self.rows if self.rows else 0.0


def profile(settings: Settings, table: Table, only: list[str] | None = None) -> list[ColumnProfile]:
    """Return a profile of each column without a leading underscore, or only of the named ones; a table that does not
    exist yet has no rows."""
    connection = _opened(settings, table)
    profiles: list[ColumnProfile] = []
    types = {c.name: c.type for c in table.columns if c.name in (only or table.business)}
    if not types:
        return profiles
    parts = []
    for i, (name, type_name) in enumerate(types.items()):
        column = f'"{name}"'
        parts += [f"count({column}) AS n{i}", f"count(DISTINCT {column}) AS d{i}"]
        nested = type_name.startswith(("array", "struct"))
        parts += [f"{'NULL' if nested else f'{f}({column})::VARCHAR'} AS {f}{i}" for f in ("min", "max")]
        if type_name in NUMBERS:
            parts.append(f"quantile_cont({column}, [0.05, 0.25, 0.5, 0.75, 0.95])::DOUBLE[] AS q{i}")
    cursor = connection.execute(f'SELECT count(*) AS rows, {", ".join(parts)} FROM "{table.name}"')
    row = dict(zip([c[0] for c in cursor.description], cursor.fetchall()[0], strict=True))
    for i, (name, type_name) in enumerate(types.items()):
        text = type_name == "string"
        profiles.append(ColumnProfile(
            name, type_name, row["rows"], row["rows"] - row[f"n{i}"], row[f"d{i}"], row[f"min{i}"], row[f"max{i}"],
            tuple(row.get(f"q{i}") or ()), _frequent(connection, table.name, f'"{name}"', FEW),
            _frequent(connection, table.name, f'shape("{name}")', 4, f'"{name}"') if text else (),
        ))  # fmt: skip
    return profiles


def _opened(settings: Settings, table: Table) -> duckdb.DuckDBPyConnection:
    connection = reader.plain()
    reader.register(connection, table.name, delta.content(delta.table_path(settings, table), table.arrow_schema()))
    connection.create_function("shape", _shapes, [VARCHAR], VARCHAR, type=PythonUDFType.ARROW)
    return connection


def _shapes(texts: pa.ChunkedArray) -> pa.Array:
    """Return the texts with A for capitals, a for small letters and 9 for digits.

    In UTF-8 no byte of another character is one of ASCII: the bytes of all texts are translated at once, in a tenth
    of the time that DuckDB's functions take.
    """
    array = cast("pa.Array", texts.combine_chunks())
    validity, ends, content = array.buffers()
    shapes = pa.py_buffer(content.to_pybytes().translate(_SHAPES)) if content else None
    return pa.Array.from_buffers(array.type, len(array), [validity, ends, shapes], offset=array.offset)


def _frequent(
    connection: duckdb.DuckDBPyConnection, table: str, expression: str, limit: int, column: str = ""
) -> tuple[tuple[str, int], ...]:
    rows = connection.execute(
        f'SELECT ({expression})::VARCHAR AS v, count(*) AS n FROM "{table}" WHERE {column or expression} IS NOT NULL '
        f"GROUP BY v ORDER BY n DESC, v LIMIT {limit}"
    ).fetchall()
    return tuple((str(text), int(count)) for text, count in rows)


def frame(profiles: list[ColumnProfile]) -> pd.DataFrame:
    """Return the profile as a table for display."""
    shorten: Callable[[Any], Any] = lambda text: text if text is None or len(text) < 28 else text[:26] + "…"  # noqa: E731
    rows = [
        {
            "column": p.column, "type": p.type, "null %": round(100 * p.null_share, 2), "distinct": p.distinct,
            "min": shorten(p.minimum), "max": shorten(p.maximum),
            "median": f"{p.quantiles[2]:,.6g}" if p.quantiles else "",
            "most frequent": ", ".join(f"{shorten(v)} ({n:,})" for v, n in p.top[:3]),
            "patterns": ", ".join(shorten(v) for v, _ in p.patterns[:2]),
        }
        for p in profiles
    ]  # fmt: skip
    return pd.DataFrame(rows)


def suggest(table: Table, profiles: list[ColumnProfile]) -> list[dict[str, Any]]:
    """Return the checks that the table passes now, with some slack, in the form that YAML takes.

    Checks that are already declared are left out.
    """
    declared = {(check.kind, check.arguments.get("column")) for check in table.all_checks}
    required = {column.name for column in table.columns if column.required}
    suggestions: list[dict[str, Any]] = []
    for p in profiles:
        if not p.rows or p.type.startswith(("array", "struct")):
            continue
        if not p.nulls and p.column not in required:
            suggestions.append({"check": "not_null", "column": p.column, "severity": "warn"})
        elif p.nulls and (room := round(p.null_share * 1.5 + 0.01, 3)) < 1:
            suggestions.append({"check": "null_share", "column": p.column, "max": room, "severity": "warn"})
        non_null = p.rows - p.nulls
        if p.distinct == non_null > 100 and table.key != (p.column,) and p.type == "string":
            suggestions.append({"check": "unique", "column": p.column, "severity": "warn"})
        if p.type in NUMBERS and p.minimum is not None:
            suggestions.append(_range(p))
        if p.type == "string" and 0 < p.distinct <= FEW and non_null >= 100 * p.distinct:
            values = sorted(value for value, _ in p.top)
            suggestions.append({"check": "allowed_values", "column": p.column, "values": values, "severity": "warn"})
        elif p.type == "string" and non_null >= 100 and (pattern := _pattern(p)):
            suggestions.append({"check": "regex", "column": p.column, "pattern": pattern, "severity": "warn"})
    return [suggestion for suggestion in suggestions if (suggestion["check"], suggestion["column"]) not in declared]


def _range(p: ColumnProfile) -> dict[str, Any]:
    """Return bounds around the values, half the spread wider; the lower one is zero if no value is negative."""
    whole = p.type != "double"
    low, high = float(cast("str", p.minimum)), float(cast("str", p.maximum))
    room = (high - low) / 2 or abs(high) / 2 or 1
    bounds = {"min": 0 if low >= 0 else low - room, "max": high + room}
    bounds = {word: int(value) if whole else float(f"{value:.6g}") for word, value in bounds.items()}
    return {"check": "range", "column": p.column, **bounds, "severity": "warn"}


def _pattern(p: ColumnProfile) -> str | None:
    """Return a regular expression, if all values have the same shape."""
    if len(p.patterns) != 1:
        return None
    ranges = {"9": "[0-9]", "a": "[a-z]", "A": "[A-Z]"}
    shape, out, i = p.patterns[0][0], "", 0
    while i < len(shape):
        run = len(shape[i:]) - len(shape[i:].lstrip(shape[i]))
        part = ranges.get(shape[i]) or (shape[i] if shape[i].isalnum() or shape[i] in "_-@: /" else f"[{shape[i]}]")
        out += part + (f"{{{run}}}" if run > 1 else "")
        i += run
    return f"^{out}$" if len(out) < 200 and "[^]" not in out else None


def as_yaml(table: Table, suggested: list[dict[str, Any]]) -> str:
    """Return the suggestions as YAML to paste into a parameters file."""
    if not suggested:
        return f"quality:\n  {table.name}: []\n"
    lines = [yaml.safe_dump(check, default_flow_style=True, sort_keys=False, width=1000).strip() for check in suggested]
    return f"quality:\n  {table.name}:\n" + "".join(f"    - {line}\n" for line in lines)


def text(settings: Settings, table: Table) -> str:
    """Return the text for the terminal: the profile, then the suggested checks as YAML."""
    profiles = profile(settings, table)
    suggested = suggest(table, profiles)
    head = f"{table.name}: {profiles[0].rows if profiles else 0:,} rows\n{frame(profiles).to_string(index=False)}"
    return head + (
        f"\n\nThe table passes these checks; paste the ones to keep:\n\n{as_yaml(table, suggested)}"
        if suggested
        else ""
    )
