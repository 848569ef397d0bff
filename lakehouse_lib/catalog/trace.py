"""Row provenance: from a row of any table down to the landing files and records that it is made from.

`tables.Table.traced_by` declares which rows of a source a row is made from. DuckDB reads the files; no engine
is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa

from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError, TableError, first_line
from lakehouse_lib.intake import formats, landing
from lakehouse_lib.intake.folders import EPOCH
from lakehouse_lib.intake.landing import LandingFile
from lakehouse_lib.intake.streams import Unreadable
from lakehouse_lib.model import rules, tables
from lakehouse_lib.model.messages import line_of
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta, reader

EXAMPLES = 3


@dataclass(frozen=True)
class Record:
    """A record of a landing file; ``number`` is its place in the file, counting from 1."""

    path: str
    number: int
    text: str


@dataclass
class Step:
    """The traced rows of one table: how many there are, some of them, and what those are made from."""

    table: Table
    total: int
    rows: pa.Table
    sources: list[Step] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    message: str = ""

    def text(self, depth: int = 0) -> str:
        """Return the whole trace as indented text."""
        pad = "    " * depth
        sample_note = f", {self.rows.num_rows} of them shown" if self.total > self.rows.num_rows else ""
        lines = [f"{pad}{self.table.name}: {self.total:,} {'row' if self.total == 1 else 'rows'}{sample_note}"]
        identifying = self.table.key or tuple(self.table.business[:3])
        for row in self.rows.select(list(identifying)).to_pylist():
            lines.append(f"{pad}  · " + ", ".join(f"{name}={value}" for name, value in row.items()))
        lines += [f"{pad}    {record.path} record {record.number}: {record.text}" for record in self.records]
        lines += [f"{pad}    {self.message}"] if self.message else []
        return "\n".join(lines + [source.text(depth + 1) for source in self.sources])


def trace(settings: Settings, name: str, key: list[str], limit: int = EXAMPLES) -> Step:
    """Trace one row down to its records, with at most ``limit`` rows of each table on the way.

    ``key`` holds the values of the table's key in order, or ``column=value`` for any columns.

    Raises
    ------
    ConfigError
        There is no such table or column, or a value does not fit the column's type.
    TableError
        There is no such row.
    """
    table = tables.get(settings, name)
    key_values = _values_by_column(table, key)
    connection = reader.cursor()
    _open(connection, settings, table)
    types = {row[0]: row[1] for row in connection.execute(f'DESCRIBE "{name}"').fetchall()}
    for column in key_values:
        if column not in types:
            raise ConfigError(f"{name} has no column {column!r}; it has {', '.join(types)}")
    predicate = " AND ".join(f'"{column}" = CAST(? AS {types[column]})' for column in key_values)
    try:
        rows = connection.sql(
            f'SELECT * FROM "{name}" WHERE {predicate} LIMIT {limit}', params=list(key_values.values())
        ).to_arrow_table()
    except duckdb.ConversionException as error:
        raise ConfigError(f"{name}: {first_line(error)}") from None
    if not rows.num_rows:
        condition = ", ".join(f"{column}={value}" for column, value in key_values.items())
        raise TableError(f"{name} has no row with {condition}.")
    return _down(settings, table, rows, rows.num_rows, limit)


def sources(settings: Settings, table: Table, rows: pa.Table, limit: int) -> dict[str, pa.Table | None]:
    """Return the rows of each source that rows of a table are made from; None where no rule is declared.

    Adds to the source's columns ``_of bigint`` (position of the row in ``rows``) and ``_total bigint`` (number of
    source rows that it is made from, of which at most ``limit`` are returned).
    """
    source_rows: dict[str, pa.Table | None] = {}
    numbered = rows.append_column("_of", pa.array(range(rows.num_rows), pa.int64()))
    for name in table.sources:
        source = tables.get(settings, name)
        rule = table.trace_rule(source)
        if rule is None:
            source_rows[name] = None
            continue
        connection = reader.cursor()
        connection.register("_row", numbered)
        _open(connection, settings, source)
        where = "WHERE len(_quality_flags) = 0" if source.layer == "bronze" and table.layer != "quarantine" else ""
        left = ", ".join(f"{_in_duckdb(text, source.types)} AS _k{n}" for n, text in enumerate(rule))
        right = ", ".join(f"{_in_duckdb(text, table.types)} AS _k{n}" for n, text in enumerate(rule.values()))
        join = " AND ".join(f"s._k{n} IS NOT DISTINCT FROM r._k{n}" for n in range(len(rule)))
        order = ", ".join(f's."{column}"' for column in source.key or ("_source_file",))
        source_rows[name] = connection.sql(f"""
            WITH r AS (SELECT DISTINCT _of, {right} FROM _row), s AS (SELECT *, {left} FROM "{name}" {where})
            SELECT s.* EXCLUDE ({", ".join(f"_k{n}" for n in range(len(rule)))}), r._of,
                   count(*) OVER (PARTITION BY r._of) AS _total
            FROM s JOIN r ON {join} QUALIFY row_number() OVER (PARTITION BY r._of ORDER BY {order}) <= {limit}
            ORDER BY r._of, {order}
        """).to_arrow_table()
    return source_rows


def _in_duckdb(expression: str, types: Mapping[str, str]) -> str:
    """Return an expression of a rule in DuckDB's SQL; ``explode(…)`` gives a row for each element."""
    exploded = re.fullmatch(r"explode\((.*)\)", expression, re.DOTALL)
    return f"unnest({rules.to_duckdb(exploded[1], types)})" if exploded else rules.to_duckdb(expression, types)


def records(settings: Settings, bronze: Table, rows: pa.Table) -> list[list[Record]]:
    """Return the landing records of each row of a bronze table: several where copies of a record cannot be told apart,
    none if the file is gone."""
    feed = landing.feed_of(bronze)
    zone = ZoneInfo(settings.feed(feed).timezone)
    files = {file.path: file for file in landing.list_files(settings, feed)}
    row_values = rows.to_pylist()
    by_file: dict[str, list[int]] = {}
    for position, row in enumerate(row_values):
        by_file.setdefault(row["_source_file"], []).append(position)
    matches: list[list[Record]] = [[] for _ in row_values]
    for path, positions in by_file.items():
        best = dict.fromkeys(positions, 0.0)
        messages = _messages(settings, feed, files[path]) if path in files else ()
        for number, (text, values) in enumerate(messages, 1):
            for position in positions:
                score = _match_score(bronze, row_values[position], number, text, values, zone)
                if score and score >= best[position]:
                    matches[position] = matches[position] if score == best[position] else []
                    matches[position].append(Record(f"landing/{feed}/{path}", number, text))
                    best[position] = score
    return matches


def _down(settings: Settings, table: Table, rows: pa.Table, total: int, limit: int) -> Step:
    step = Step(table, total, rows)
    if table.layer == "bronze":
        for row, row_records in zip(rows.to_pylist(), records(settings, table, rows), strict=True):
            step.records += row_records
            if not row_records:
                step.message = f"landing/{landing.feed_of(table)}/{row['_source_file']} no longer holds its record"
        step.records = list(dict.fromkeys(step.records))
        return step
    for name, traced in sources(settings, table, rows, limit).items():
        source = tables.get(settings, name)
        if traced is None:
            step.message = f"which rows of {name} it is made from is not declared (traced_by of {table.name})"
        elif traced.num_rows:
            count = sum({row["_of"]: row["_total"] for row in traced.select(["_of", "_total"]).to_pylist()}.values())
            step.sources.append(_down(settings, source, traced.drop(["_of", "_total"]).slice(0, limit), count, limit))
    return step


def _values_by_column(table: Table, key: list[str]) -> dict[str, str]:
    if all("=" in word for word in key):
        return dict(word.split("=", 1) for word in key)
    if not table.key or len(key) != len(table.key):
        names = " ".join(table.key) or "not declared (use column=value)"
        raise ConfigError(f"{table.name}: its key is {names}; {len(key)} values were given.")
    return dict(zip(table.key, key, strict=True))


def _open(connection: duckdb.DuckDBPyConnection, settings: Settings, table: Table) -> None:
    reader.register(connection, table.name, delta.dataset(delta.made(settings, table, "it has no rows")))


def _match_score(
    bronze: Table, row: dict[str, Any], number: int, text: str, values: dict[str, Any] | None, zone: ZoneInfo
) -> float:
    """Return how well a record of the row's file matches the row; 0 if it is a different record."""
    if row.get("_source_line") is not None:
        return float(number == line_of(row["_source_line"]))
    if row["_raw"] is not None:
        return float(text == row["_raw"] or (values is not None and values == _as_fields(row["_raw"])))
    identity = row[bronze.names[0]]
    if values is None or identity not in text:
        return 0.0
    texts = {str(value) for value in values.values()}
    strings = [row[c.name] for c in bronze.columns if c.type == "string" and not c.name.startswith("_") and row[c.name]]
    instants = {_instant(value, zone) for value in values.values()}
    event_time = row[bronze.event_time].replace(tzinfo=UTC)
    return 1.0 + sum(value in texts for value in strings) + 10 * (event_time in instants)


def _as_fields(text: str) -> dict[str, Any] | None:
    """Return the fields of a record that is stored as JSON, as Parquet rows are."""
    try:
        fields: dict[str, Any] = json.loads(text)
        return fields
    except ValueError:
        return None


def _messages(settings: Settings, feed: str, file: LandingFile) -> Iterator[tuple[str, dict[str, str] | None]]:
    """Yield the records of one file in order: the text, and the fields if it has any."""
    try:
        with landing.opened(settings, feed, file) as handle:
            for batch in formats.read(
                handle, file.kind, formats.Reading(), file.path, landing.shape_of(settings, feed)
            ):
                for row in batch.to_pylist():
                    fields = None if row["record"] is None else dict(row["record"])
                    yield row["raw"] if row["raw"] is not None else json.dumps(fields, ensure_ascii=False), fields
    except Unreadable:
        return


def _instant(value: Any, zone: tzinfo) -> datetime | None:
    """Return a field as a time, by the rules of the landing contract: ISO-8601 (in ``zone`` if it has no offset), or
    epoch seconds, milliseconds or microseconds; None if it is not a time."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=zone)
    try:
        number = Decimal(str(value))
        size = abs(number)
        scale = 10**6 if size < 10**11 else 10**3 if size < 10**14 else 1
        return EPOCH + timedelta(microseconds=int(number * scale))
    except (InvalidOperation, ValueError, OverflowError):
        pass
    try:
        time = datetime.fromisoformat(str(value).strip().replace(",", "."))
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=zone)).astimezone(UTC)
