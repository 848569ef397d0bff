"""The ledger: what became of every record, accounted for by the commits themselves.

Each commit is counted once, by table and version, also where the run that made it was killed, and where it
read records and changed no row. What was written is held against what was meant. ``rows`` is how many rows
more or less the table holds since then: the sum over a table's versions is what it holds now.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lakehouse_lib.config import Settings
from lakehouse_lib.errors import LedgerError
from lakehouse_lib.model import ops
from lakehouse_lib.model.messages import CHANGES_OF_A_MESSAGE
from lakehouse_lib.model.ops import COUNTS
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import commits, delta

Accounted = dict[str, tuple[int, int | None]]
"""By table id: the last version that the ledger knows, and the rows that the table held then; None where its
early rows do not say."""

Entry = tuple[dict[str, Any], dict[str, Any]]
"""A row of the ledger, and what its commit says of itself."""


def write(settings: Settings, rows: list[dict[str, Any]]) -> None:
    """Put rows into ``ops/ledger``; two runs may account for one commit, which counts once."""
    commits.upsert_ops(
        settings, "ledger", pa.Table.from_pylist(rows, ops.SCHEMAS["ledger"]), key=("table_id", "version")
    )


def last_accounted(settings: Settings) -> Accounted:
    """How far the ledger has come with each table."""
    last: Accounted = {}
    for row in delta.read_ops(settings, "ledger"):
        version, rows = last.get(row["table_id"], (-1, 0))
        known = None if rows is None or row.get("rows") is None else rows + row["rows"]
        last[row["table_id"]] = max(row["version"], version), known
    return last


def account(settings: Settings, table: Table, opened: DeltaTable, last: Accounted) -> list[Entry]:
    """The rows that the ledger lacks of a table's commits, also those of runs that were killed and those that
    take rows to the archive or come from outside; ``last`` is what `last_accounted` told.

    Raises
    ------
    LedgerError
        Records do not add up, or the table holds other rows than were meant.
    """
    found: list[Entry] = []
    table_id = str(opened.metadata().id)
    after, rows = last.get(table_id, (-1, 0))
    if rows is None:
        rows = _rows_at(opened, after, opened.count())
    while after < opened.version():  # taking rows back is a commit of its own
        commits = delta.changes(opened.table_uri, after, opened.version()).commits
        after = opened.version()
        taken_back = {path for commit in commits for path in delta.says(commit).get("set_aside", ())}
        for commit in commits:
            says = delta.says(commit)
            change = _rows_at(opened, commit["version"], rows) - rows
            if "run_id" in says:
                counts, reasons = _counted(settings, table, commit, says, taken_back)
            elif change:
                counts, reasons = dict.fromkeys(COUNTS, 0), {_moved_by(says): change}
            else:
                continue  # of upkeep
            rows += change
            found.append((_row(table, table_id, commit, says, counts, reasons, change), says))
        opened.update_incremental()
    return found


def _rows_at(opened: DeltaTable, version: int, before: int) -> int:
    """Rows of a table as of a version, from its log; those ``before`` where it can no longer be read: what moved
    is told by the next version then."""
    try:
        return (opened if version == opened.version() else DeltaTable(opened.table_uri, version=version)).count()
    except DeltaError:
        return before


def _moved_by(says: dict[str, Any]) -> str:
    """What moves rows that are no records of a run."""
    return next((word for word in ("archived", "restored_from_archive") if word in says), "changed_from_outside")


def _counted(
    settings: Settings, table: Table, commit: dict[str, Any], says: dict[str, Any], taken_back: set[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Counts and reasons of one commit, held against what was written."""
    if "reasons" in says:  # a replay, a restore, or files taken back: it knows what it moved
        counts, reasons = says["ledger"], says["reasons"]
        if "expected" in says:
            _compare(table, commit, says["expected"])
    elif "files" in says:
        counts, reasons = _count_load(settings, table, commit, says, taken_back)
    else:
        counts, reasons = says["ledger"], {}
        if counts.pop("reason", None) and counts["quarantined"]:
            reasons = {"missing_key": counts["quarantined"]}
        _compare(table, commit, says["expected"])
    if counts["records_read"] != sum(counts[name] for name in COUNTS[1:]):
        raise LedgerError(
            f"The ledger of {table.name} version {commit['version']} does not add up (read is "
            f"not the sum of the others): {', '.join(f'{n} {counts[n]}' for n in COUNTS)}"
        )
    return counts, reasons


def _count_load(
    settings: Settings, table: Table, commit: dict[str, Any], says: dict[str, Any], taken_back: set[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Count what a load wrote, in its data files, and hold it against the records that its landing files hold.

    A landing file of which other records arrived is set aside: its rows are taken out again.
    """
    path = delta.table_path(settings, table)
    arrived: Counter[str] = Counter()
    counts, reasons = dict.fromkeys(COUNTS, 0), Counter[str]()
    per_file: dict[str, tuple[Counter[str], Counter[str]]] = {}
    for data in _written(path, table, commit):
        for name, own, flags in _by_file(table, data):
            arrived[name] += own.pop("records")
            seen = per_file.setdefault(name, (Counter[str](), Counter[str]()))
            seen[0].update(own)
            seen[1].update(flags)
    for own, flags in per_file.values():
        counts = {name: count + own[name] for name, count in counts.items()}
        reasons.update(flags)
    expected = {f["path"]: f["records"] for f in says["files"] if f["state"] == "loaded"}
    wrong = {p: n for p in {*expected, *arrived} - taken_back if (n := arrived[p]) != expected.get(p, 0)}
    if wrong:
        counted = {p: per_file.get(p, (Counter[str](), Counter[str]())) for p in wrong}
        _take_back(settings, table, says["run_id"], counted, {
            p: f"it holds {expected.get(p, 0)} records, and {n} arrived in the table" for p, n in wrong.items()
        })  # fmt: skip
    repeated = sum(f["records"] for f in says["files"] if f["state"] == "duplicate")
    if repeated:
        counts = counts | {"records_read": counts["records_read"] + repeated, "duplicate": repeated}
        reasons["file_delivered_again"] = repeated
    return counts, dict(reasons)


def _written(path: str, table: Table, commit: dict[str, Any]) -> Iterator[pa.Table]:
    """The columns that tell where rows come from and what is wrong with them, of each file of a commit."""
    filesystem, root = delta.filesystem(path)
    names = ["_quality_flags", "_source_file", *(["_source_line"] if "_source_line" in table.names else [])]
    for add in commit["adds"]:
        yield pq.read_table(f"{root}/{unquote(add['path'])}", columns=names, filesystem=filesystem, partitioning=None)


def _by_file(table: Table, data: pa.Table) -> Iterator[tuple[str, Counter[str], Counter[str]]]:
    """For each landing file: what became of its records, how many they were, and the flags that were set."""
    flags = data["_quality_flags"].combine_chunks()
    kinds: dict[str, Counter[str]] = {}
    parents = data["_source_file"].take(pc.list_parent_indices(flags))
    flagged = pa.table([parents, pc.list_flatten(flags)], ["file", "flag"]).group_by(["file", "flag"])
    for row in flagged.aggregate([([], "count_all")]).to_pylist():
        kinds.setdefault(row["file"], Counter())[row["flag"]] = row["count_all"]
    numbered = "_source_line" in table.names  # one message can hold several changes
    columns = {"file": data["_source_file"], "rejected": pc.greater(pc.list_value_length(flags), 0)}
    columns |= {"line": pc.divide(data["_source_line"], CHANGES_OF_A_MESSAGE)} if numbered else {}
    sums = [([], "count_all"), ("rejected", "sum"), *([("line", "count_distinct")] if numbered else [])]
    for row in pa.table(columns).group_by("file").aggregate(sums).to_pylist():
        read, rejected = row["count_all"], row["rejected_sum"]
        counts = Counter(records=row.get("line_count_distinct", read), records_read=read, accepted=read - rejected,
                         quarantined=rejected)  # fmt: skip
        yield row["file"], counts, kinds.get(row["file"], Counter())


def _take_back(
    settings: Settings,
    table: Table,
    run_id: str,
    counted: dict[str, tuple[Counter[str], Counter[str]]],
    why: dict[str, str],
) -> None:
    """Take the rows of landing files out of a bronze table; the files are set aside."""
    own, flags = Counter[str](), Counter[str]()
    for counts, reasons in counted.values():
        own.update(counts)
        flags.update(reasons)
    info = {"run_id": run_id, "operation": "set aside", "sources": {}, "set_aside": why,
            "ledger": {name: -own[name] for name in COUNTS},
            "reasons": {name: -count for name, count in flags.items()}}  # fmt: skip
    commits.take_back(settings, table, why, info)


_ADDED = {"inserted": ("numOutputRows", "num_added_rows")}
_MERGED = {
    "inserted": ("numTargetRowsInserted", "num_target_rows_inserted"),
    "updated": ("numTargetRowsUpdated", "num_target_rows_updated"),
    "deleted": ("numTargetRowsDeleted", "num_target_rows_deleted"),
}
"""What Spark and delta-rs call the rows that a commit wrote."""


def _compare(table: Table, commit: dict[str, Any], expected: dict[str, int]) -> None:
    """Hold what Delta says it wrote against what was meant to be written."""
    metrics = commit.get("operationMetrics") or {}
    names = _MERGED if commit.get("operation") == "MERGE" else _ADDED
    wrote = {name: next((int(metrics[m]) for m in written if m in metrics), 0) for name, written in names.items()}
    meant = {name: expected.get(name, 0) for name in wrote}
    if wrote != meant:
        raise LedgerError(f"{table.name} version {commit['version']}: wrote {wrote}, expected {meant}.")


def _row(
    table: Table,
    table_id: str,
    commit: dict[str, Any],
    says: dict[str, Any],
    counts: dict[str, int],
    reasons: dict[str, int],
    change: int,
) -> dict[str, Any]:
    return {"run_id": says.get("run_id", ""), "target": table.name, "table_id": table_id,
            "version": commit["version"], **counts, "reasons": json.dumps(reasons, sort_keys=True),
            "recorded_at": datetime.now(UTC), "rows": change}  # fmt: skip
