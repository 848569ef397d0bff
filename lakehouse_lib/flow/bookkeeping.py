"""What is written under ``ops`` of a run: the ledger of its commits, its steps, its lineage, its checks."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa

from lakehouse_lib.catalog import catalog
from lakehouse_lib.config import Settings, new_run_id
from lakehouse_lib.flow import ledger
from lakehouse_lib.flow.steps import RunResult, Step
from lakehouse_lib.intake import landing
from lakehouse_lib.model import ops, tables
from lakehouse_lib.model.ops import COUNTS
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import commits, delta
from lakehouse_lib.trust import quality


def write(settings: Settings, result: RunResult) -> None:
    """Put the steps of a run under ``ops``: ledger, lineage, runs and results of checks."""
    now = datetime.now(UTC)
    rows, lineage, runs = [], [], []
    for step in result.steps:
        table = tables.get(settings, step.table)
        for row, said in step.ledger:
            rows.append(row)
            lineage += [
                {"run_id": row["run_id"], "source": source, "source_version": version,
                 "target": table.name, "target_version": row["version"],
                 "operation": said.get("operation")
                 or {"bronze": "load", "gold": "aggregate"}.get(table.layer, "transform"),
                 "job": table.transform, "notebook": catalog.NOTEBOOKS[table.layer],
                 "rows": row["accepted"] + row["updated"], "outcome": step.state,
                 "started_at": step.started_at, "recorded_at": now,
                 "columns": _columns_of(step, source) if row["run_id"] == result.run_id else None}
                for source, version in said.get("sources", {}).items()
            ]  # fmt: skip
        if step.state != "nothing new" or step.problems:
            runs.append(
                {"run_id": result.run_id, "target": step.table, "state": step.state,
                 "message": "\n".join(filter(None, [step.message, *step.problems])),
                 "rows": step.counts["accepted"] + step.counts["updated"], "version": step.version,
                 "seconds": step.seconds, "started_at": step.started_at}
            )  # fmt: skip
    ledger.write(settings, rows)
    commits.upsert_ops(settings, "lineage", pa.Table.from_pylist(lineage, ops.SCHEMAS["lineage"]),
                     key=("run_id", "source", "target", "target_version"))  # fmt: skip
    commits.write_ops(settings, "runs", runs)
    quality.write_results(settings, [found for step in result.steps for found in step.checks])


def _columns_of(step: Step, source: str) -> str | None:
    """What the table's columns are made from in one source: direct, indirect, and by which of its columns rows
    were chosen and grouped."""
    if step.columns is None:
        return None

    def own(refs: list[str]) -> list[str]:
        return [ref.removeprefix(f"{source}.") for ref in refs if ref.startswith(f"{source}.")]

    parts = {
        kind: {name: own(refs) for name, refs in getattr(step.columns, kind).items() if own(refs)}
        for kind in ("direct", "indirect")
    }
    return json.dumps(parts | {"by": own(step.columns.by)})


def account(settings: Settings, table: Table) -> None:
    """Write down what the ledger lacks of a table's commits, as the next run would."""
    result = RunResult(settings.run_id or new_run_id(), [Step(table.name)])
    settle(settings, table, result.run_id, result.steps[0], ledger.last_accounted(settings))
    write(settings, result)


def settle(settings: Settings, table: Table, run_id: str, step: Step, settled: ledger.Accounted) -> None:
    """Account for the table's commits that the ledger lacks."""
    opened = delta.opened(settings, table)
    if opened is None:
        return
    step.ledger = ledger.account(settings, table, opened, settled)
    step.version = opened.version()
    if table.layer == "bronze":
        landing.settle(settings, landing.feed_of(table), opened, run_id)
        for row, _ in step.ledger:
            if row["run_id"] == run_id:
                step.counts = {name: step.counts[name] + row[name] for name in COUNTS}
