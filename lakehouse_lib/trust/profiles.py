"""Profiles: a close look at every column of a table, and the checks that it passes already.

Computed by DuckDB over the table's files; no engine is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import duckdb
import pandas as pd
import yaml

from lakehouse_lib.config import Settings
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta, reader

NUMBERS = ("int", "bigint", "double")
FEW = 12
"""A text column with so many different values or fewer is taken for a list of allowed values."""

_SHAPE = "regexp_replace(regexp_replace(regexp_replace({0}, '[A-Z]', 'A', 'g'), '[a-z]', 'a', 'g'), '[0-9]', '9', 'g')"


@dataclass(frozen=True)
class ColumnProfile:
    """What is in a column; texts of values are as DuckDB writes them, times are UTC."""

    column: str
    type: str
    rows: int
    nulls: int
    distinct: int
    minimum: str | None
    maximum: str | None
    quantiles: tuple[float, ...]
    """5, 25, 50, 75 and 95 % of a number column."""
    top: tuple[tuple[str, int], ...]
    """The most frequent values, with how often they stand there."""
    patterns: tuple[tuple[str, int], ...]
    """Of a text column: the same with A for capitals, a for letters, 9 for digits."""

    @property
    def null_share(self) -> float:
        """Share of rows without a value, 0–1."""
        return self.nulls / self.rows if self.rows else 0.0


def profile(settings: Settings, table: Table, only: list[str] | None = None) -> list[ColumnProfile]:
    """A profile of each column without underscore, or of the ones named; a table that has not been made has
    no rows."""
    connection = _opened(settings, table)
    found: list[ColumnProfile] = []
    kinds = {c.name: c.type for c in table.columns if c.name in (only or table.business)}
    if not kinds:
        return found
    parts = []
    for i, (name, kind) in enumerate(kinds.items()):
        column = f'"{name}"'
        parts += [f"count({column}) AS n{i}", f"count(DISTINCT {column}) AS d{i}"]
        nested = kind.startswith(("array", "struct"))
        parts += [f"{'NULL' if nested else f'{f}({column})::VARCHAR'} AS {f}{i}" for f in ("min", "max")]
        if kind in NUMBERS:
            parts.append(f"quantile_cont({column}, [0.05, 0.25, 0.5, 0.75, 0.95])::DOUBLE[] AS q{i}")
    answer = connection.execute(f'SELECT count(*) AS rows, {", ".join(parts)} FROM "{table.name}"')
    row = dict(zip([c[0] for c in answer.description], answer.fetchall()[0], strict=True))
    for i, (name, kind) in enumerate(kinds.items()):
        text = kind == "string"
        found.append(ColumnProfile(
            name, kind, row["rows"], row["rows"] - row[f"n{i}"], row[f"d{i}"], row[f"min{i}"], row[f"max{i}"],
            tuple(row.get(f"q{i}") or ()), _frequent(connection, table.name, f'"{name}"', FEW),
            _frequent(connection, table.name, _SHAPE.format(f'"{name}"'), 4, f'"{name}"') if text else (),
        ))  # fmt: skip
    return found


def _opened(settings: Settings, table: Table) -> duckdb.DuckDBPyConnection:
    connection = reader.plain()
    reader.register(connection, table.name, delta.content(delta.table_path(settings, table), table.arrow_schema()))
    return connection


def _frequent(
    connection: duckdb.DuckDBPyConnection, table: str, value: str, limit: int, column: str = ""
) -> tuple[tuple[str, int], ...]:
    rows = connection.execute(
        f'SELECT ({value})::VARCHAR AS v, count(*) AS n FROM "{table}" WHERE {column or value} IS NOT NULL '
        f"GROUP BY v ORDER BY n DESC, v LIMIT {limit}"
    ).fetchall()
    return tuple((str(text), int(count)) for text, count in rows)


def frame(profiles: list[ColumnProfile]) -> pd.DataFrame:
    """The profile as a table for people."""
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
    """Checks that the table passes as it is, with room to move, as they stand in YAML.

    What the declaration says already is left out.
    """
    said = {(check.kind, check.arguments.get("column")) for check in table.all_checks}
    required = {column.name for column in table.columns if column.required}
    found: list[dict[str, Any]] = []
    for p in profiles:
        if not p.rows or p.type.startswith(("array", "struct")):
            continue
        if not p.nulls and p.column not in required:
            found.append({"check": "not_null", "column": p.column, "severity": "warn"})
        elif p.nulls and (room := round(p.null_share * 1.5 + 0.01, 3)) < 1:
            found.append({"check": "null_share", "column": p.column, "max": room, "severity": "warn"})
        there = p.rows - p.nulls
        if p.distinct == there > 100 and table.key != (p.column,) and p.type == "string":
            found.append({"check": "unique", "column": p.column, "severity": "warn"})
        if p.type in NUMBERS and p.minimum is not None:
            found.append(_range(p))
        if p.type == "string" and 0 < p.distinct <= FEW and there >= 100 * p.distinct:
            values = sorted(value for value, _ in p.top)
            found.append({"check": "allowed_values", "column": p.column, "values": values, "severity": "warn"})
        elif p.type == "string" and there >= 100 and (pattern := _pattern(p)):
            found.append({"check": "regex", "column": p.column, "pattern": pattern, "severity": "warn"})
    return [one for one in found if (one["check"], one["column"]) not in said]


def _range(p: ColumnProfile) -> dict[str, Any]:
    """Bounds around what is there: zero where nothing is below it, else half the spread more."""
    whole = p.type != "double"
    low, high = float(cast("str", p.minimum)), float(cast("str", p.maximum))
    room = (high - low) / 2 or abs(high) / 2 or 1
    bounds = {"min": 0 if low >= 0 else low - room, "max": high + room}
    bounds = {word: int(value) if whole else float(f"{value:.6g}") for word, value in bounds.items()}
    return {"check": "range", "column": p.column, **bounds, "severity": "warn"}


def _pattern(p: ColumnProfile) -> str | None:
    """A regular expression where all values are of one shape."""
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
    """Suggestions as they are pasted into a parameters file."""
    if not suggested:
        return f"quality:\n  {table.name}: []\n"
    lines = [yaml.safe_dump(one, default_flow_style=True, sort_keys=False, width=1000).strip() for one in suggested]
    return f"quality:\n  {table.name}:\n" + "".join(f"    - {line}\n" for line in lines)


def text(settings: Settings, table: Table) -> str:
    """What the terminal shows: the profile, then the suggested checks as YAML."""
    found = profile(settings, table)
    suggested = suggest(table, found)
    head = f"{table.name}: {found[0].rows if found else 0:,} rows\n{frame(found).to_string(index=False)}"
    return head + (
        f"\n\nIt passes these; paste what should stay so:\n\n{as_yaml(table, suggested)}" if suggested else ""
    )
