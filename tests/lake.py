"""Helpers to inspect a lakehouse: its rows, its versions, and whether two are equal."""

from __future__ import annotations

from collections import Counter
from typing import Any

from deltalake import DeltaTable

from lakehouse_lib.config import Settings
from lakehouse_lib.flow import pipeline
from lakehouse_lib.flow.steps import RunResult
from lakehouse_lib.model import tables
from lakehouse_lib.model.ops import COUNTS
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta


def run_tables(settings: Settings) -> RunResult:
    """Run the layers; no table may fail."""
    result = pipeline.run(settings, progress=lambda line: None)
    assert [step.message for step in result.steps if step.state == "failed"] == []
    return result


QUALITY = ("_quality_flags", "_rescued_data", "_raw")


def rows(settings: Settings, name: str, columns: list[str] | None = None, flags: bool = False) -> list[dict[str, Any]]:
    """The rows of a table, by Delta's log, sorted; by default the columns that the laws cover; with ``flags`` those
    that say what is wrong with a record too."""
    return rows_at(delta.table_path(settings, tables.get(settings, name)), columns, flags)


def rows_at(path: str, columns: list[str] | None = None, flags: bool = False) -> list[dict[str, Any]]:
    """`rows` of the Delta table in a folder."""
    opened = DeltaTable(path)
    business = [
        field.name
        for field in opened.schema().fields
        if not field.name.startswith("_") or (flags and field.name in QUALITY)
    ]
    rows_read = opened.to_pyarrow_table(columns=columns or business).to_pylist()
    return sorted(rows_read, key=repr)


def contents(settings: Settings, flags: bool = False) -> dict[str, list[dict[str, Any]]]:
    """All tables, by name; those that have not been made are left out."""
    existing = (table for table in tables.declared(settings).values() if delta.exists(settings, table))
    return {table.name: rows(settings, table.name, flags=flags) for table in existing}


def versions(settings: Settings) -> dict[str, int]:
    """Version of each table that has been made."""
    existing = {}
    for table in tables.declared(settings).values():
        opened = delta.opened(settings, table)
        if opened is not None:
            existing[table.name] = opened.version()
    return existing


def assert_same(first: Settings, second: Settings, flags: bool = False) -> None:
    """Assert that two lakehouses have the same rows in all columns covered by the laws, and matching ledgers."""
    assert_ledger_matches_tables(first)
    assert_ledger_matches_tables(second)
    left, right = contents(first, flags), contents(second, flags)
    assert left.keys() == right.keys()
    for name in left:
        missing = [row for row in right[name] if row not in left[name]][:2] if left != right else []
        extra = [row for row in left[name] if row not in right[name]][:2] if left != right else []
        assert left[name] == right[name], f"{name}: missing {missing}, extra {extra}"


def commits(settings: Settings, table: Table) -> list[dict[str, Any]]:
    """The table's history, newest first."""
    return DeltaTable(delta.table_path(settings, table)).history()


def assert_ledger_matches_tables(settings: Settings) -> None:
    """The ledger's rows of each table sum up to what the table holds, and each row of the ledger adds up."""
    held: Counter[str] = Counter()
    for row in delta.read_ops(settings, "ledger"):
        held[row["table_id"]] += row["rows"]
        assert row["records_read"] == sum(row[name] for name in COUNTS[1:]), row
    for table in tables.declared(settings).values():
        opened = delta.opened(settings, table)
        if opened is not None:
            assert held[str(opened.metadata().id)] == opened.count(), table.name
