"""Versions of a table: what each one changed, and how two of them differ.

Versions are read from the Delta log; DuckDB compares only the files that two versions do not share.
No engine is needed.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable

from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError
from lakehouse_lib.model import tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.sql import types as st
from lakehouse_lib.storage import delta, reader

EXAMPLES = 5


@dataclass(frozen=True)
class Difference:
    """How two versions of a table differ, not counting columns that begin with an underscore."""

    table: str
    one: int
    other: int
    added: int
    removed: int
    changed: int
    columns: dict[str, int] = field(default_factory=dict)
    """The number of changed rows in which each column differs."""
    examples: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Some of the rows; ``what`` says whether each was added, removed or changed."""

    def __str__(self) -> str:
        parts = ", ".join(f"{name} in {count:,}" for name, count in self.columns.items())
        return (
            f"{self.table}, version {self.one} to {self.other}: {self.added:,} rows added, "
            f"{self.removed:,} removed, {self.changed:,} changed" + (f" ({parts})" if parts else "")
        )


def versions(settings: Settings, table: Table) -> pd.DataFrame:
    """A row for each version that can still be read, newest first: ``version``, ``at`` (UTC),
    ``operation``, ``run_id``, ``rows`` (total), ``change`` (rows gained or lost) and ``files``; no rows if the
    table does not exist yet."""
    delta_table = delta.opened(settings, table)
    if delta_table is None:
        return pd.DataFrame(columns=["version", "at", "operation", "run_id", "rows", "change", "files"])
    summaries: list[dict[str, Any]] = []
    rows_by_file: dict[str, int] = {}
    for entry in sorted(delta_table.history(), key=lambda entry: entry["version"]):
        version = entry["version"]
        actions = delta.actions(delta_table.table_uri, version) if summaries else None
        if actions is None:  # the oldest, or its log entry is gone: count its files
            files = pa.table(DeltaTable(delta_table.table_uri, version=version).get_add_actions())
            rows_by_file = dict(zip(files["path"].to_pylist(), files["num_records"].to_pylist(), strict=True))
        for action in actions or ():
            if "remove" in action:
                rows_by_file.pop(action["remove"]["path"], None)
        for action in actions or ():
            if "add" in action:
                rows_by_file[action["add"]["path"]] = json.loads(action["add"].get("stats") or "{}").get(
                    "numRecords", 0
                )
        total = sum(count or 0 for count in rows_by_file.values())
        summaries.append({
            "version": version, "at": datetime.fromtimestamp(entry["timestamp"] / 1000, UTC).replace(tzinfo=None),
            "operation": entry["operation"], "run_id": delta.says(entry).get("run_id", ""), "rows": total,
            "change": total - (summaries[-1]["rows"] if summaries else 0), "files": len(rows_by_file),
        })  # fmt: skip
    return pd.DataFrame(summaries[::-1])


def last_load(settings: Settings) -> tuple[Table, int] | None:
    """The bronze table that was loaded last, and the version that the load wrote; None if no load can be compared
    with the version before it."""
    bronze: dict[str, Table] = {}
    for table in tables.declared(settings).values():
        delta_table = delta.opened(settings, table) if table.layer == "bronze" else None
        bronze |= {str(delta_table.metadata().id): table} if delta_table else {}
    loads = [
        row
        for row in delta.read_ops(settings, "ledger")
        if row["table_id"] in bronze and row["run_id"] and (row.get("rows") or 0) > 0
    ]
    for row in sorted(loads, key=lambda row: row["recorded_at"], reverse=True):
        with contextlib.suppress(ConfigError):  # the previous version can no longer be read
            at(settings, bronze[row["table_id"]], row["version"] - 1)
            return bronze[row["table_id"]], row["version"]
    return None


def diff(settings: Settings, table: Table, from_version: int, to_version: int) -> Difference:
    """The difference between two versions: by key if the table has one, otherwise by whole rows.

    Raises
    ------
    ConfigError
        One of the versions cannot be read.
    """
    old, new = (delta.dataset(at(settings, table, version)) for version in (from_version, to_version))
    return compare(table, old, new, from_version, to_version)


def compare(
    table: Table, old: ds.Dataset, new: ds.Dataset, from_version: int, to_version: int, where: str = ""
) -> Difference:
    """`diff` of two sets of files; the versions are only named. ``where`` selects rows of both in SQL."""
    shared = {f.path for f in old.get_fragments()} & {f.path for f in new.get_fragments()}
    old, new = (
        # Files in both versions cannot differ.
        ds.FileSystemDataset(
            [fragment for fragment in dataset.get_fragments() if fragment.path not in shared],
            dataset.schema, dataset.format, dataset.filesystem,
        )
        for dataset in (old, new)
    )  # fmt: skip
    connection, names = _both(old, new, where), _compared(table, old, new)
    non_key = [name for name in names if name not in table.key] if table.key else []
    connection.execute(f"CREATE TEMP TABLE found AS {_by_key(table.key, non_key) if table.key else _by_row(names)}")
    counts = dict(connection.execute("SELECT what, count(*) FROM found GROUP BY what").fetchall())
    columns: dict[str, int] = {}
    for number, name in enumerate(non_key):
        ((count,),) = connection.execute(f"SELECT count(*) FROM found WHERE what = 'changed' AND _d{number}").fetchall()
        columns |= {name: count} if count else {}
    column_list = ", ".join(map(st.quoted, names))
    order_list = ", ".join(map(st.quoted, table.key or names))
    examples = connection.execute(f"""
        SELECT what, {column_list} FROM found
        QUALIFY row_number() OVER (PARTITION BY what ORDER BY {order_list}) <= {EXAMPLES} ORDER BY what, {order_list}
    """).df()
    examples = examples.astype(object).where(examples.notna(), None)  # a missing number is None, not NaN
    added, removed, changed = (counts.get(what, 0) for what in ("added", "removed", "changed"))
    return Difference(table.name, from_version, to_version, added, removed, changed, columns, examples)


def largest(table: Table, old: ds.Dataset, new: ds.Dataset, where: str = "") -> pd.DataFrame:
    """For each column of numbers, the row in which it changes most: ``column``, ``row`` (its key), ``before``,
    ``after``; empty for a table without a key."""
    connection, frames = _both(old, new, where), []
    same_key = " AND ".join(f"o.{st.quoted(name)} = n.{st.quoted(name)}" for name in table.key)
    key = ", ".join(f"n.{st.quoted(name)}" for name in table.key)
    for name in _numbers(table, old, new) if table.key else ():
        before, after = f"o.{st.quoted(name)}::DOUBLE", f"n.{st.quoted(name)}::DOUBLE"
        frames.append(
            connection.execute(f"""
            SELECT '{name}' AS "column", concat_ws(' · ', {key}) AS "row", {before} AS "before", {after} AS "after"
            FROM old o JOIN new n ON {same_key} WHERE {before} <> {after}
            ORDER BY abs({after} - {before}) DESC, {key} LIMIT 1
        """).df()
        )
    return (
        pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["column", "row", "before", "after"])
    )


def figures(table: Table, old: ds.Dataset, new: ds.Dataset, where: str = "") -> pd.DataFrame:
    """What a table adds up to: ``figure``, ``before``, ``after``, for the number of rows, the sum of each column of
    whole numbers and the mean of each other column of numbers."""
    connection, kinds = _both(old, new, where), {"rows": "count(*)"}
    for name, whole in _numbers(table, old, new).items():
        text, function = ("sum", "sum") if whole else ("mean", "avg")
        kinds[f"{text} of {name}"] = f"{function}({st.quoted(name)})"
    columns = [
        connection.execute(f"SELECT {', '.join(f'({sql})::DOUBLE' for sql in kinds.values())} FROM {side}").fetchone()
        for side in ("old", "new")
    ]
    # The last digits of a mean depend on the order of the rows.
    before, after = ([value if value is None else float(f"{value:.12g}") for value in side or ()] for side in columns)
    return pd.DataFrame({"figure": [*kinds], "before": before, "after": after})


def _both(old: ds.Dataset, new: ds.Dataset, where: str) -> duckdb.DuckDBPyConnection:
    """A connection with the views ``old`` and ``new``."""
    connection = reader.cursor()
    for name, dataset in (("old", old), ("new", new)):
        reader.register(connection, f"all_{name}", dataset)
        connection.execute(f"CREATE TEMP VIEW {name} AS SELECT * FROM all_{name} WHERE {where or 'true'}")
    return connection


def _compared(table: Table, old: ds.Dataset, new: ds.Dataset) -> list[str]:
    """The columns to compare: those of both; of the ones that begin with an underscore only the key, and in bronze what
    says how a record was read."""
    told = {*table.key, *(_OF_A_RECORD if table.layer == "bronze" else ())}
    return [n for n in new.schema.names if n in old.schema.names and (not n.startswith("_") or n in told)]


_OF_A_RECORD = ("_quality_flags", "_rescued_data", "_raw")


def _numbers(table: Table, old: ds.Dataset, new: ds.Dataset) -> dict[str, bool]:
    """The columns of numbers outside of the key, and whether they hold whole ones."""
    kinds = {name: new.schema.field(name).type for name in _compared(table, old, new) if name not in table.key}
    whole = {name: pa.types.is_integer(kind) for name, kind in kinds.items()}
    return {n: whole[n] for n, kind in kinds.items()
            if whole[n] or pa.types.is_floating(kind) or pa.types.is_decimal(kind)}  # fmt: skip


def _by_key(key: tuple[str, ...], non_key: list[str]) -> str:
    """Rows that differ between ``old`` and ``new``: the new row, or the old one if it was removed."""
    no_old, no_new = f"o.{st.quoted(key[0])} IS NULL", f"n.{st.quoted(key[0])} IS NULL"
    flags = [f"o.{st.quoted(name)} IS DISTINCT FROM n.{st.quoted(name)}" for name in non_key]
    values = [
        f"CASE WHEN {no_new} THEN o.{st.quoted(name)} ELSE n.{st.quoted(name)} END AS {st.quoted(name)}"
        for name in (*key, *non_key)
    ]
    marked = [f"{flag} AS _d{number}" for number, flag in enumerate(flags)]
    same_key = " AND ".join(f"o.{st.quoted(name)} = n.{st.quoted(name)}" for name in key)
    return f"""
        SELECT CASE WHEN {no_old} THEN 'added' WHEN {no_new} THEN 'removed' ELSE 'changed' END AS what,
               {", ".join(values + marked)}
        FROM old o FULL JOIN new n ON {same_key}
        WHERE {" OR ".join([no_old, no_new, *flags])}
    """


def _by_row(names: list[str]) -> str:
    """Rows that one of ``old`` and ``new`` has more often than the other, repeated by the surplus."""
    columns = ", ".join(map(st.quoted, names))
    parts = (
        f"SELECT '{what}' AS what, * FROM (SELECT {columns} FROM {left} EXCEPT ALL SELECT {columns} FROM {right})"
        for what, left, right in (("added", "new", "old"), ("removed", "old", "new"))
    )
    return " UNION ALL ".join(parts)


def opened(settings: Settings, table: Table) -> DeltaTable:
    """The table; an error if it does not exist yet."""
    return delta.made(settings, table, "it has no versions")


def at(settings: Settings, table: Table, version: int) -> DeltaTable:
    """The table at a version."""
    return delta.at(opened(settings, table), table.name, version)
