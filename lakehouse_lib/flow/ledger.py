"""The ledger: what became of every record, derived from the commits themselves.

Each commit is counted once, by table and version, even if the run that wrote it was killed, or if it read records
without changing a row. The rows written are compared with the rows expected. ``rows`` is the change in the
table's row count: the sum over a table's versions is its current row count.
"""

from __future__ import annotations

import functools
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
"""By table id: the last version in the ledger, and the table's row count at that version; None if early ledger
rows do not record it."""

Entry = tuple[dict[str, Any], dict[str, Any]]
"""A row of the ledger, and the metadata of its commit."""


def write(settings: Settings, rows: list[dict[str, Any]]) -> None:
    """Write rows to ``ops/ledger``; a commit that two runs account for counts once."""
    commits.upsert_ops(
        settings, "ledger", pa.Table.from_pylist(rows, ops.SCHEMAS["ledger"]), key=("table_id", "version")
    )


def last_accounted(settings: Settings) -> Accounted:
    """How far the ledger covers each table."""
    last: Accounted = {}
    for row in delta.read_ops(settings, "ledger"):
        version, rows = last.get(row["table_id"], (-1, 0))
        known = None if rows is None or row.get("rows") is None else rows + row["rows"]
        last[row["table_id"]] = max(row["version"], version), known
    return last


def account(settings: Settings, table: Table, last: Accounted) -> list[Entry]:
    """The ledger rows for a table's commits that are missing from the ledger, including those of killed runs, those
    that archive rows, and those from outside; ``last`` is the result of `last_accounted`.

    Raises
    ------
    LedgerError
        Records do not add up, or a commit wrote other rows than expected.
    """
    entries: list[Entry] = []
    newest = functools.partial(delta.made, settings, table, "it has no commits")
    delta_table = newest()
    table_id = str(delta_table.metadata().id)
    last_version, rows = last.get(table_id, (-1, 0))
    if rows is None:
        rows = _rows_at(delta_table, last_version, delta_table.count())
    while last_version < (delta_table := newest()).version():  # taking rows back adds another commit
        commits = delta.changes(delta_table.table_uri, last_version, delta_table.version()).commits
        last_version = delta_table.version()
        taken_back = {path for commit in commits for path in delta.says(commit).get("set_aside", ())}
        for commit in commits:
            commit_info = delta.says(commit)
            change = _rows_at(delta_table, commit["version"], rows) - rows
            if "run_id" in commit_info:
                counts, reasons = _counted(settings, table, commit, commit_info, taken_back)
                if commit_info.get("again"):
                    earlier = [*delta.read_ops(settings, "ledger", table_id=table_id), *(row for row, _ in entries)]
                    counts, reasons = _moved(counts, reasons, earlier)
            elif change:
                counts, reasons = dict.fromkeys(COUNTS, 0), {_reason_of_change(commit_info): change}
            else:
                continue  # maintenance only
            rows += change
            entries.append((_row(table, table_id, commit, commit_info, counts, reasons, change), commit_info))
    return entries


def _moved(
    counts: dict[str, int], reasons: dict[str, int], earlier: list[dict[str, Any]]
) -> tuple[dict[str, int], dict[str, int]]:
    """Return only what changed for records that are loaded again: the ledger has them already, and counts them once."""
    moved = Counter(reasons)
    for row in earlier:
        if row["run_id"]:
            counts = {name: counts[name] - row[name] for name in COUNTS}
            moved.subtract(json.loads(row["reasons"]))
    return counts, {name: count for name, count in moved.items() if count}


def _rows_at(opened: DeltaTable, version: int, before: int) -> int:
    """Row count of a table at a version, from its log; ``before`` if that version can no longer be read: the next
    version then includes the change."""
    try:
        return (opened if version == opened.version() else DeltaTable(opened.table_uri, version=version)).count()
    except DeltaError:
        return before


def _reason_of_change(commit_info: dict[str, Any]) -> str:
    """The reason for a change of rows that no run caused."""
    return next((key for key in ("archived", "restored_from_archive") if key in commit_info), "changed_from_outside")


def _counted(
    settings: Settings, table: Table, commit: dict[str, Any], commit_info: dict[str, Any], taken_back: set[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Counts and reasons of one commit, verified against the rows written."""
    if "reasons" in commit_info:  # a replay, a restore, or files taken back: the commit lists what it moved
        counts, reasons = commit_info["ledger"], commit_info["reasons"]
        if "expected" in commit_info:
            _compare(table, commit, commit_info["expected"])
    elif "files" in commit_info:
        counts, reasons = _count_load(settings, table, commit, commit_info, taken_back)
    else:
        counts, reasons = commit_info["ledger"], {}
        if counts.pop("reason", None) and counts["quarantined"]:
            reasons = {"missing_key": counts["quarantined"]}
        _compare(table, commit, commit_info["expected"])
    if counts["records_read"] != sum(counts[name] for name in COUNTS[1:]):
        raise LedgerError(
            f"The ledger of {table.name} version {commit['version']} does not add up (read is "
            f"not the sum of the others): {', '.join(f'{n} {counts[n]}' for n in COUNTS)}"
        )
    return counts, reasons


def _count_load(
    settings: Settings, table: Table, commit: dict[str, Any], commit_info: dict[str, Any], taken_back: set[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Count the rows in a load's data files, and compare them with the records in its landing files.

    A landing file whose records did not all arrive exactly once is set aside: its rows are removed again.
    """
    path = delta.table_path(settings, table)
    arrived: Counter[str] = Counter()
    counts, reasons = dict.fromkeys(COUNTS, 0), Counter[str]()
    per_file: dict[str, tuple[Counter[str], Counter[str]]] = {}
    for data in _written(path, table, commit):
        for name, file_counts, flags in _by_file(table, data):
            arrived[name] += file_counts.pop("records")
            sums = per_file.setdefault(name, (Counter[str](), Counter[str]()))
            sums[0].update(file_counts)
            sums[1].update(flags)
    for file_counts, flags in per_file.values():
        counts = {name: count + file_counts[name] for name, count in counts.items()}
        reasons.update(flags)
    expected = {f["path"]: f["records"] for f in commit_info["files"] if f["state"] == "loaded"}
    wrong = {p: n for p in {*expected, *arrived} - taken_back if (n := arrived[p]) != expected.get(p, 0)}
    if wrong:
        counted = {p: per_file.get(p, (Counter[str](), Counter[str]())) for p in wrong}
        _take_back(settings, table, commit_info["run_id"], counted, {
            p: f"it holds {expected.get(p, 0)} records, and {n} arrived in the table" for p, n in wrong.items()
        })  # fmt: skip
    repeated = sum(f["records"] for f in commit_info["files"] if f["state"] == "duplicate")
    if repeated:
        counts = counts | {"records_read": counts["records_read"] + repeated, "duplicate": repeated}
        reasons["file_delivered_again"] = repeated
    return counts, dict(reasons)


def _written(path: str, table: Table, commit: dict[str, Any]) -> Iterator[pa.Table]:
    """The origin and quality columns of each file added by a commit."""
    filesystem, root = delta.filesystem(path)
    names = ["_quality_flags", "_source_file", *(["_source_line"] if "_source_line" in table.names else [])]
    for add in commit["adds"]:
        yield pq.read_table(f"{root}/{unquote(add['path'])}", columns=names, filesystem=filesystem, partitioning=None)


def _by_file(table: Table, data: pa.Table) -> Iterator[tuple[str, Counter[str], Counter[str]]]:
    """For each landing file: the counts of its records by outcome, and the counts of their flags."""
    flags = data["_quality_flags"].combine_chunks()
    flag_counts: dict[str, Counter[str]] = {}
    parents = data["_source_file"].take(pc.list_parent_indices(flags))
    flagged = pa.table([parents, pc.list_flatten(flags)], ["file", "flag"]).group_by(["file", "flag"])
    for row in flagged.aggregate([([], "count_all")]).to_pylist():
        flag_counts.setdefault(row["file"], Counter())[row["flag"]] = row["count_all"]
    numbered = "_source_line" in table.names  # one message can hold several changes
    columns = {"file": data["_source_file"], "rejected": pc.greater(pc.list_value_length(flags), 0)}
    columns |= {"line": pc.divide(data["_source_line"], CHANGES_OF_A_MESSAGE)} if numbered else {}
    aggregates = [([], "count_all"), ("rejected", "sum"), *([("line", "count_distinct")] if numbered else [])]
    for row in pa.table(columns).group_by("file").aggregate(aggregates).to_pylist():
        read, rejected = row["count_all"], row["rejected_sum"]
        counts = Counter(records=row.get("line_count_distinct", read), records_read=read, accepted=read - rejected,
                         quarantined=rejected)  # fmt: skip
        yield row["file"], counts, flag_counts.get(row["file"], Counter())


def _take_back(
    settings: Settings,
    table: Table,
    run_id: str,
    counts_by_file: dict[str, tuple[Counter[str], Counter[str]]],
    problems: dict[str, str],
) -> None:
    """Remove the rows of landing files from a bronze table, and set the files aside."""
    totals, flag_totals = Counter[str](), Counter[str]()
    for counts, reasons in counts_by_file.values():
        totals.update(counts)
        flag_totals.update(reasons)
    info = {"run_id": run_id, "operation": "set aside", "sources": {}, "set_aside": problems,
            "ledger": {name: -totals[name] for name in COUNTS},
            "reasons": {name: -count for name, count in flag_totals.items()}}  # fmt: skip
    commits.take_back(settings, table, problems, info)


_ADDED = {"inserted": ("numOutputRows", "num_added_rows")}
_MERGED = {
    "inserted": ("numTargetRowsInserted", "num_target_rows_inserted"),
    "updated": ("numTargetRowsUpdated", "num_target_rows_updated"),
    "deleted": ("numTargetRowsDeleted", "num_target_rows_deleted"),
}
"""The metrics in which Spark and delta-rs report the rows that a commit wrote."""


def _compare(table: Table, commit: dict[str, Any], expected: dict[str, int]) -> None:
    """Compare the rows that Delta reports as written with the rows expected."""
    metrics = commit.get("operationMetrics") or {}
    metrics_by_count = _MERGED if commit.get("operation") == "MERGE" else _ADDED
    written = {
        name: next((int(metrics[metric]) for metric in metric_names if metric in metrics), 0)
        for name, metric_names in metrics_by_count.items()
    }
    expected_rows = {name: expected.get(name, 0) for name in written}
    if written != expected_rows:
        raise LedgerError(f"{table.name} version {commit['version']}: wrote {written}, expected {expected_rows}.")


def _row(
    table: Table,
    table_id: str,
    commit: dict[str, Any],
    commit_info: dict[str, Any],
    counts: dict[str, int],
    reasons: dict[str, int],
    change: int,
) -> dict[str, Any]:
    return {"run_id": commit_info.get("run_id", ""), "target": table.name, "table_id": table_id,
            "version": commit["version"], **counts, "reasons": json.dumps(reasons, sort_keys=True),
            "recorded_at": datetime.now(UTC), "rows": change,
            "operation": commit_info.get("operation", "")}  # fmt: skip
