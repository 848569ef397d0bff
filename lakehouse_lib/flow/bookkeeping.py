"""What a run writes to ``ops``: the ledger of its commits, its steps, its lineage and its check results."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa

from lakehouse_lib.catalog import catalog
from lakehouse_lib.config import Settings, new_run_id
from lakehouse_lib.flow import ledger
from lakehouse_lib.flow.steps import RunResult, Step
from lakehouse_lib.intake import landing
from lakehouse_lib.layers.fingerprints import Book
from lakehouse_lib.model import ops, tables
from lakehouse_lib.model.made_by import number_of, shown
from lakehouse_lib.model.ops import COUNTS
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import commits, delta
from lakehouse_lib.storage.transactions import FINGERPRINT
from lakehouse_lib.trust import quality


def write(settings: Settings, result: RunResult, book: Book | None = None) -> None:
    """Write the steps of a run to ``ops``: ledger, lineage, fingerprints, runs and check results."""
    now = datetime.now(UTC)
    rows, lineage, runs = [], [], []
    for step in result.steps:
        table = tables.get(settings, step.table)
        for (row, commit_info), fingerprint in zip(step.ledger, _fingerprints(settings, table, step), strict=True):
            rows.append(row)
            lineage += [
                {"run_id": row["run_id"], "source": source, "source_version": version,
                 "target": table.name, "target_version": row["version"],
                 "operation": commit_info.get("operation")
                 or {"bronze": "load", "gold": "aggregate"}.get(table.layer, "transform"),
                 "job": table.transform, "notebook": catalog.NOTEBOOKS[table.layer],
                 "rows": row["accepted"] + row["updated"], "outcome": step.state,
                 "started_at": step.started_at, "recorded_at": now,
                 "columns": _columns_of(step, source) if row["run_id"] == result.run_id else None,
                 "fingerprint": fingerprint}
                for source, version in commit_info.get("sources", {}).items()
            ]  # fmt: skip
        if step.state != "nothing new" or step.problems:
            runs.append(
                {"run_id": result.run_id, "target": step.table, "state": step.state,
                 "message": "\n".join(filter(None, [step.message, *step.problems])),
                 "rows": step.counts["accepted"] + step.counts["updated"], "version": step.version,
                 "seconds": step.seconds, "started_at": step.started_at}
            )  # fmt: skip
    ledger.write(settings, rows)
    (book or Book(settings)).store(says["fingerprint"] for step in result.steps for _, says in step.ledger
                                   if "fingerprint" in says)  # fmt: skip
    commits.upsert_ops(settings, "lineage", pa.Table.from_pylist(lineage, ops.SCHEMAS["lineage"]),
                     key=("run_id", "source", "target", "target_version"))  # fmt: skip
    commits.write_ops(settings, "runs", runs)
    quality.write_results(settings, [check_result for step in result.steps for check_result in step.checks])


def _fingerprints(settings: Settings, table: Table, step: Step) -> list[str]:
    """The fingerprint of the table after each commit of a step; empty where it is not known."""
    own = [number_of(says["fingerprint"]) if "fingerprint" in says else 0 for _, says in step.ledger]
    last = 0 if any(own) or not own else delta.watermark(delta.opened(settings, table), FINGERPRINT) or 0
    return [shown(last := number or last) for number in own]


def _columns_of(step: Step, source: str) -> str | None:
    """The columns of one source that the table's columns are made from, as JSON: direct, indirect, and those by
    which rows were chosen and grouped."""
    if step.columns is None:
        return None

    def of_source(refs: list[str]) -> list[str]:
        return [ref.removeprefix(f"{source}.") for ref in refs if ref.startswith(f"{source}.")]

    parts = {
        kind: {name: of_source(refs) for name, refs in getattr(step.columns, kind).items() if of_source(refs)}
        for kind in ("direct", "indirect")
    }
    return json.dumps(parts | {"by": of_source(step.columns.by)})


def account(settings: Settings, table: Table) -> None:
    """Add a table's missing commits to the ledger, as the next run would."""
    result = RunResult(settings.run_id or new_run_id(), [Step(table.name)])
    settle(settings, table, result.run_id, result.steps[0], ledger.last_accounted(settings))
    write(settings, result)


def settle(settings: Settings, table: Table, run_id: str, step: Step, settled: ledger.Accounted) -> None:
    """Account for the table's commits that are missing from the ledger."""
    delta_table = delta.opened(settings, table)
    if delta_table is None:
        return
    step.ledger = ledger.account(settings, table, delta_table, settled)
    step.version = delta_table.version()
    if table.layer == "bronze":
        landing.settle(settings, landing.feed_of(table), delta_table, run_id)
    own = [row for row, _ in step.ledger if row["run_id"] == run_id]
    if own:
        step.counts = {name: sum(row[name] for row in own) for name in COUNTS}
