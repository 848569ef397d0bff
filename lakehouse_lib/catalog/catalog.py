"""The catalog: what each table is, who owns it, what it is made from, and its current state.

Derived from the declarations, the Delta logs and ``ops/``; stored as Delta in ``ops/catalog`` and updated
by every run. Owners and tags that people change are stored in ``ops/catalog_edits``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from lakehouse_lib import sample
from lakehouse_lib.catalog import rules
from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError
from lakehouse_lib.layers.fingerprints import Book, book_of
from lakehouse_lib.model import ops, tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.model.tables import register as register_table
from lakehouse_lib.storage import commits, delta, remembered
from lakehouse_lib.trust import quality

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = [
    "NOTEBOOKS",
    "Entry",
    "describe",
    "edit",
    "entries",
    "lines",
    "matching",
    "overview",
    "owners",
    "publish",
    "register_table",
    "search",
    "views",
]

NOTEBOOKS = {
    "bronze": "10_bronze_ingestion",
    "quarantine": "10_bronze_ingestion",
    "silver": "20_silver_transformations",
    "gold": "30_gold_aggregations",
}
_TIERS = {"gold": "1", "silver": "2", "bronze": "3", "quarantine": "3"}


@dataclass(frozen=True)
class Entry:
    """A table in the catalog; the fields are the columns of ``ops/catalog``."""

    name: str
    layer: str
    tier: str
    """1: read by people and dashboards; 2: read by other tables; 3: raw."""
    description: str
    grain: str
    key: list[str]
    columns: str
    """JSON list of ``name``, ``type``, ``required``, ``comment``."""
    owner: str
    tags: list[str]
    sources: list[str]
    consumers: list[str]
    made_by: str
    """Function that makes the table."""
    notebook: str
    partition_by: str
    cluster_by: list[str]
    freshness_hours: int
    retention_days: int
    path: str
    version: int
    """-1 if the table does not exist yet."""
    rows: int
    files: int
    bytes: int
    updated_at: datetime | None
    """Time of the last commit (UTC)."""
    state: str
    """not made, fresh or late, judged by the last commit."""
    verdict: str
    """ok, warn, error or quarantine, judged by its checks; empty if none has run."""
    sample_query: str
    fingerprint: str
    """Names the declaration, settings and code by which it is made; empty if an early version made it."""
    rules: str
    """current, changed rules, or forward only, with what has changed; see `rules.Rules`."""
    rules_since: datetime | None
    """When it got its fingerprint (UTC)."""
    made_with: str
    """JSON: ``settings`` that it was made with, by path, and the version or digest of its ``code``."""


@delta.look()
def entries(settings: Settings) -> dict[str, Entry]:
    """The current entries of all tables by name, sources before targets."""
    declared = tables.declared(settings)
    verdicts, edits, book = quality.verdicts(quality.latest(settings)), _edits(settings), book_of(settings)
    more_tags = ["sample"] if sample.is_sample(settings) else []
    return {
        name: _entry(settings, table, declared, verdicts.get(name, ""), edits.get(name, []), more_tags, book)
        for name, table in declared.items()
    }


def lines(settings: Settings) -> list[dict[str, Any]]:
    """A short summary of each table, as returned by ``GET /tables``."""
    names = ("name", "layer", "tier", "description", "grain", "owner", "tags", "rows", "bytes", "version", "updated_at",
             "state", "verdict")  # fmt: skip
    return [{name: getattr(entry, name) for name in names} for entry in entries(settings).values()]


def describe(settings: Settings, name: str) -> Entry:
    """The entry of one table.

    Raises
    ------
    ConfigError
        There is no table with this name; the message suggests the closest one.
    """
    tables.get(settings, name)
    return entries(settings)[name]


def search(settings: Settings, text: str) -> list[Entry]:
    """Tables with every word of the text in their name, columns, tags, owner or descriptions; matches in the
    name come first. ``tag:pii``, ``owner:…`` and ``layer:…`` search only that field."""
    return matching(entries(settings), text)


def matching(catalog_entries: dict[str, Entry], text: str) -> list[Entry]:
    """`search` within the given entries."""
    words = text.lower().split()
    ranked = []
    for entry in catalog_entries.values():
        fields = {"tag": " ".join(entry.tags), "owner": entry.owner, "layer": entry.layer, "name": entry.name,
                  "column": entry.columns}  # fmt: skip
        full_text = " ".join([*fields.values(), entry.description, entry.grain]).lower()
        terms = [word.split(":", 1) if word.split(":")[0] in fields else ("", word) for word in words]
        if all(word in (fields[field].lower() if field else full_text) for field, word in terms):
            ranked.append((sum(word not in entry.name for _, word in terms), entry))
    return [entry for _, entry in sorted(ranked, key=lambda pair: pair[0])]


def edit(settings: Settings, name: str, owner: str = "", add: Sequence[str] = (), remove: Sequence[str] = ()) -> Entry:
    """Change the owner or the tags of a table and return the updated entry; the change survives reruns.

    Raises
    ------
    ConfigError
        There is no such table, or a tag has a character that is not allowed.
    """
    tables.get(settings, name)
    for tag in (*add, *remove):
        if not tag or not all(c.isalnum() or c in "_-." for c in tag):
            raise ConfigError(f"tag {tag!r}: letters, digits, _ - . only")
    row = {"table_name": name, "owner": owner, "add_tags": list(add), "remove_tags": list(remove),
           "edited_at": datetime.now(UTC)}  # fmt: skip
    commits.write_ops(settings, "catalog_edits", [row])
    publish(settings)
    return describe(settings, name)


def publish(settings: Settings) -> None:
    """Write the current entries to ``ops/catalog``."""
    rows = pa.Table.from_pylist([asdict(entry) for entry in entries(settings).values()], ops.SCHEMAS["catalog"])
    write_deltalake(f"{settings.layer_path('ops')}/catalog", rows, mode="overwrite", schema_mode="overwrite")


def overview(catalog_entries: list[Entry]) -> pd.DataFrame:
    """Entries as a table for display."""
    names = ["layer", "name", "grain", "rows", "bytes", "owner", "tags", "state", "verdict"]
    frame = pd.DataFrame([asdict(entry) for entry in catalog_entries], columns=[*Entry.__dataclass_fields__])[names]
    return frame.assign(tags=frame.tags.map(", ".join), bytes=(frame.bytes / 1e6).round(2)).rename(
        columns={"name": "table", "bytes": "MB"}
    )


def owners(settings: Settings) -> dict[str, str]:
    """The owner of each table, as declared or as people have changed it."""
    edits = _edits(settings)
    return {name: _edited(table, edits.get(name, []))[0] for name, table in tables.declared(settings).items()}


def views(spark: SparkSession, settings: Settings) -> list[str]:
    """Create a temporary view of each existing table in a Spark session; returns their names."""
    existing = [table for table in tables.declared(settings).values() if delta.exists(settings, table)]
    for table in existing:
        delta.read(spark, settings, table).createOrReplaceTempView(table.name)
    return [table.name for table in existing]


def _entry(
    settings: Settings, table: Table, declared: dict[str, Table], verdict: str, edits: list[dict[str, Any]],
    more_tags: list[str], book: Book,
) -> Entry:  # fmt: skip
    path = delta.table_path(settings, table)
    delta_table = delta.opened(settings, table)
    owner, tags = _edited(table, edits)
    tags += more_tags
    facts: dict[str, Any] = {"version": -1, "rows": 0, "files": 0, "bytes": 0, "updated_at": None, "state": "not made"}
    if delta_table is not None:
        facts = remembered.made_of(delta_table, "catalog", _facts)
        late = (datetime.now(UTC) - facts["updated_at"]).total_seconds() > table.freshness_hours * 3600
        facts = facts | {"state": "late" if late else "fresh"}
    columns = [
        {"name": column.name, "type": column.type, "required": column.required, "comment": column.comment}
        for column in delta.as_made(table, delta_table).columns
    ]
    made = rules.of(settings, table, book)
    return Entry(
        name=table.name, layer=table.layer, tier=_TIERS[table.layer], description=table.description,
        grain=table.grain, key=list(table.key), columns=json.dumps(columns, ensure_ascii=False), owner=owner, tags=tags,
        sources=list(table.sources) or [f"landing/{table.name.removesuffix('_bronze')}"],
        consumers=[target.name for target in declared.values() if table.name in target.sources],
        made_by=table.transform, notebook=NOTEBOOKS[table.layer], partition_by=table.partition_by,
        cluster_by=list(table.cluster_by), freshness_hours=table.freshness_hours, retention_days=table.retention_days,
        path=path, verdict=verdict, sample_query=_sample_query(table),
        fingerprint=made.fingerprint, rules=made.state, rules_since=made.since,
        made_with=json.dumps({"settings": made.settings, "code": made.code}, ensure_ascii=False), **facts,
    )  # fmt: skip


def _edited(table: Table, edits: list[dict[str, Any]]) -> tuple[str, list[str]]:
    """The owner and the tags of a table after what people have changed."""
    owner, tags = table.owner, list(table.tags)
    for change in edits:
        owner = change["owner"] or owner
        tags = [tag for tag in dict.fromkeys([*tags, *change["add_tags"]]) if tag not in change["remove_tags"]]
    return owner, tags


def _facts(delta_table: DeltaTable) -> dict[str, Any]:
    """What the log says of a table."""
    files = delta.files(delta_table)
    return {
        "version": delta_table.version(),
        "files": files.num_rows,
        "updated_at": delta.committed_at(delta_table),
        "rows": sum(count or 0 for count in files["num_records"].to_pylist()),
        "bytes": sum(files["size_bytes"].to_pylist()),
    }


def _sample_query(table: Table) -> str:
    """An example query on the table, in SQL that both Spark and DuckDB understand."""
    if not table.partition_by:
        return f"SELECT * FROM {table.name} LIMIT 10"
    return f"SELECT {table.partition_by}, count(*) AS rows FROM {table.name} GROUP BY 1 ORDER BY 1 DESC LIMIT 10"


def _edits(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    edits: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(delta.read_ops(settings, "catalog_edits"), key=lambda row: row["edited_at"]):
        edits.setdefault(row["table_name"], []).append(row)
    return edits
