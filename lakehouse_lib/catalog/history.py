"""Versions of a table: what each changed, what differs between two, and going back to one.

Versions are read from the Delta log and compared by DuckDB over the files that they do not share;
no engine is needed.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable

from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError
from lakehouse_lib.model import tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta, reader

EXAMPLES = 5


@dataclass(frozen=True)
class Difference:
    """How a table at one version differs from itself at another; columns with underscore apart."""

    table: str
    one: int
    other: int
    added: int
    removed: int
    changed: int
    columns: dict[str, int] = field(default_factory=dict)
    """In how many of the changed rows each column differs."""
    examples: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Some of the rows, with what became of them in ``what``."""

    def __str__(self) -> str:
        parts = ", ".join(f"{name} in {count:,}" for name, count in self.columns.items())
        return (
            f"{self.table}, version {self.one} to {self.other}: {self.added:,} rows added, "
            f"{self.removed:,} removed, {self.changed:,} changed" + (f" ({parts})" if parts else "")
        )


def versions(settings: Settings, table: Table) -> pd.DataFrame:
    """A row for each version that can still be read, newest first: ``version``, ``at`` (UTC),
    ``operation``, ``run_id``, ``rows`` (in all), ``change`` (rows more or less) and ``files``; none where it
    has not been made."""
    opened = delta.opened(settings, table)
    if opened is None:
        return pd.DataFrame(columns=["version", "at", "operation", "run_id", "rows", "change", "files"])
    found: list[dict[str, Any]] = []
    rows: dict[str, int] = {}
    for entry in sorted(opened.history(), key=lambda entry: entry["version"]):
        version = entry["version"]
        actions = delta.actions(opened.table_uri, version) if found else None
        if actions is None:  # the oldest, or one whose entry is gone: what stands there is counted
            files = pa.table(DeltaTable(opened.table_uri, version=version).get_add_actions())
            rows = dict(zip(files["path"].to_pylist(), files["num_records"].to_pylist(), strict=True))
        for action in actions or ():
            if "remove" in action:
                rows.pop(action["remove"]["path"], None)
        for action in actions or ():
            if "add" in action:
                rows[action["add"]["path"]] = json.loads(action["add"].get("stats") or "{}").get("numRecords", 0)
        total = sum(count or 0 for count in rows.values())
        found.append({
            "version": version, "at": datetime.fromtimestamp(entry["timestamp"] / 1000, UTC).replace(tzinfo=None),
            "operation": entry["operation"], "run_id": delta.says(entry).get("run_id", ""), "rows": total,
            "change": total - (found[-1]["rows"] if found else 0), "files": len(rows),
        })  # fmt: skip
    return pd.DataFrame(found[::-1])


def last_load(settings: Settings) -> tuple[Table, int] | None:
    """The bronze table that was loaded last, and its version since then; None where no load can be compared with
    what was before it."""
    bronze: dict[str, Table] = {}
    for table in tables.declared(settings).values():
        opened = delta.opened(settings, table) if table.layer == "bronze" else None
        bronze |= {str(opened.metadata().id): table} if opened else {}
    loads = [
        row
        for row in delta.read_ops(settings, "ledger")
        if row["table_id"] in bronze and row["run_id"] and (row.get("rows") or 0) > 0
    ]
    for row in sorted(loads, key=lambda row: row["recorded_at"], reverse=True):
        with contextlib.suppress(ConfigError):  # the version before can no longer be read
            at(settings, bronze[row["table_id"]], row["version"] - 1)
            return bronze[row["table_id"]], row["version"]
    return None


def diff(settings: Settings, table: Table, one: int, other: int) -> Difference:
    """What differs between two versions: by key where the table has one, else whole rows.

    Raises
    ------
    ConfigError
        A version is none that can be read.
    """
    old, new = (delta.dataset(at(settings, table, version)) for version in (one, other))
    shared = {f.path for f in old.get_fragments()} & {f.path for f in new.get_fragments()}
    connection = reader.plain()
    for name, dataset in (("old", old), ("new", new)):
        # Files that both versions hold cannot differ.
        own = [fragment for fragment in dataset.get_fragments() if fragment.path not in shared]
        reader.register(connection, name, ds.FileSystemDataset(own, dataset.schema, dataset.format, dataset.filesystem))
    names = [n for n in new.schema.names if n in old.schema.names and (not n.startswith("_") or n in table.key)]
    others = [name for name in names if name not in table.key] if table.key else []
    connection.execute(f"CREATE TEMP TABLE found AS {_by_key(table.key, others) if table.key else _by_row(names)}")
    counts = dict(connection.execute("SELECT what, count(*) FROM found GROUP BY what").fetchall())
    columns: dict[str, int] = {}
    for number, name in enumerate(others):
        ((count,),) = connection.execute(f"SELECT count(*) FROM found WHERE what = 'changed' AND _d{number}").fetchall()
        columns |= {name: count} if count else {}
    listed = ", ".join(map(_quoted, names))
    order = ", ".join(map(_quoted, table.key or names))
    examples = connection.execute(f"""
        SELECT what, {listed} FROM found
        QUALIFY row_number() OVER (PARTITION BY what ORDER BY {order}) <= {EXAMPLES} ORDER BY what, {order}
    """).df()
    examples = examples.astype(object).where(examples.notna(), None)  # a missing number is no NaN
    added, removed, changed = (counts.get(what, 0) for what in ("added", "removed", "changed"))
    return Difference(table.name, one, other, added, removed, changed, columns, examples)


def _by_key(key: tuple[str, ...], others: list[str]) -> str:
    """Rows of ``old`` and ``new`` that differ, as they are now, or were where they are gone."""
    no_old, no_new = f"o.{_quoted(key[0])} IS NULL", f"n.{_quoted(key[0])} IS NULL"
    flags = [f"o.{_quoted(name)} IS DISTINCT FROM n.{_quoted(name)}" for name in others]
    shown = [
        f"CASE WHEN {no_new} THEN o.{_quoted(name)} ELSE n.{_quoted(name)} END AS {_quoted(name)}"
        for name in (*key, *others)
    ]
    marked = [f"{flag} AS _d{number}" for number, flag in enumerate(flags)]
    same_key = " AND ".join(f"o.{_quoted(name)} = n.{_quoted(name)}" for name in key)
    return f"""
        SELECT CASE WHEN {no_old} THEN 'added' WHEN {no_new} THEN 'removed' ELSE 'changed' END AS what,
               {", ".join(shown + marked)}
        FROM old o FULL JOIN new n ON {same_key}
        WHERE {" OR ".join([no_old, no_new, *flags])}
    """


def _by_row(names: list[str]) -> str:
    """Rows that only one of ``old`` and ``new`` holds, as often as it holds them more."""
    listed = ", ".join(map(_quoted, names))
    parts = (
        f"SELECT '{what}' AS what, * FROM (SELECT {listed} FROM {a} EXCEPT ALL SELECT {listed} FROM {b})"
        for what, a, b in (("added", "new", "old"), ("removed", "old", "new"))
    )
    return " UNION ALL ".join(parts)


def _quoted(name: str) -> str:
    return f'"{name}"'


def opened(settings: Settings, table: Table) -> DeltaTable:
    """The table, which has to have been made."""
    return delta.made(settings, table, "it has no versions")


def at(settings: Settings, table: Table, version: int) -> DeltaTable:
    """The table at one of its versions."""
    return delta.at(opened(settings, table), table.name, version)
