"""The health of the lakehouse: one verdict, and the findings that need a person. The probes are in `probes`, the
figures behind them in `figures`.

Everything comes from Delta logs, ``ops/`` and file listings: no row is read, no engine is started.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lakehouse_lib import sample
from lakehouse_lib.care import probes
from lakehouse_lib.care.probes import Finding
from lakehouse_lib.config import Settings
from lakehouse_lib.errors import TableError
from lakehouse_lib.flow import ledger
from lakehouse_lib.intake import landing
from lakehouse_lib.layers.fingerprints import book_of
from lakehouse_lib.model import tables
from lakehouse_lib.storage import commits, delta
from lakehouse_lib.trust import quality

VERDICTS = ("Healthy", "Unknown", "Warning", "Degraded")
"""From best to worst; the worst finding decides."""
NOT_IN_USE = "Not in use"
"""State of a table whose feed has never had a file."""


@dataclass
class Report:
    """The state of the lakehouse at one moment."""

    generated_at: datetime
    verdict: str
    findings: list[Finding]
    """Worst first."""
    rows: dict[str, int]
    """Number of rows of each readable table."""
    before: dict[str, Any] | None = None
    """The previous report: ``generated_at``, ``verdict``, ``findings``, ``rows``; None if there is none."""
    states: dict[str, str] = field(default_factory=dict)
    """Verdict of each table."""
    sample: bool = False
    """Whether the input is the sample data that this project generates."""

    def summary(self) -> dict[str, Any]:
        """The report as JSON values, for `--notify` and other programs."""
        return {
            "generated_at": self.generated_at.isoformat(timespec="seconds"),
            "verdict": self.verdict,
            "findings": [asdict(finding) for finding in self.findings],
        }

    def text(self) -> str:
        """The report as text for the terminal."""
        sample = " (sample input)" if self.sample else ""
        lines = [f"{self.verdict} at {self.generated_at:%Y-%m-%d %H:%M} UTC{sample}"]
        for finding in self.findings:
            lines.append(f"{finding.verdict:<9} {finding.table}: {finding.kind}: {finding.text}")
            lines += [f"{'':<9} run: {finding.command}"] if finding.command else []
        return "\n".join(lines if self.findings else [*lines, "Nothing to do."])


@delta.look()
def report(settings: Settings, now: datetime | None = None) -> Report:
    """Probe the lakehouse and judge its state."""
    now = now or datetime.now(UTC)
    declared = tables.declared(settings)
    opened, unreadable = _opened(settings)
    readable = {name: delta_table for name, delta_table in opened.items() if name not in unreadable}
    findings = [
        probes.broken(settings, declared[name], text, {*unreadable} - {name}) for name, text in unreadable.items()
    ]
    unused, last_steps = landing.not_in_use(settings), probes.last_steps(settings)
    used = [declared[name] for name in readable if name not in unused]
    findings += probes.last_run(last_steps)
    checked, accounted, book = quality.latest(settings), ledger.last_accounted(settings), book_of(settings)
    for table in used:
        delta_table = readable[table.name]
        findings += probes.half_written(table, delta_table, accounted)
        findings += probes.files_set_aside(settings, table)
        findings += probes.failed_checks(table, checked.get(table.name, {}))
        findings += probes.rules(table, book)
        findings += probes.clock_skew(settings, table, delta_table, now)
        findings += probes.freshness(settings, table, delta_table, now) or probes.volume(settings, table, now)
    # A table that is behind for a reason reported above is not reported again.
    reasons = ("broken table", "failed run", "half-written run", "stale feed", "failed check")
    if not any(
        finding.kind in reasons and (finding.kind != "failed check" or finding.verdict == "Degraded")
        for finding in findings
    ):
        findings += [finding for table in used for finding in probes.behind(settings, table)]
    findings += probes.upkeep(settings, now)
    findings.sort(key=lambda finding: -VERDICTS.index(finding.verdict))
    states = dict.fromkeys(declared, "Unknown") | {table.name: "Healthy" for table in used}
    states |= dict.fromkeys(unused, NOT_IN_USE)
    # The cause of a held table has its own finding.
    states |= {name: "Warning" for name in readable if last_steps.get(name, {}).get("state") == "held"}
    for finding in reversed(findings):
        states[finding.table] = finding.verdict
    loaded = [
        name for name, delta_table in readable.items() if declared[name].layer == "bronze" and delta_table.count()
    ]
    verdict = max([finding.verdict for finding in findings] or ["Healthy" if loaded else "Unknown"], key=VERDICTS.index)
    counts = {name: delta_table.count() for name, delta_table in readable.items()}
    return Report(now, verdict, findings, counts, _last_report(settings), states, sample.is_sample(settings))


def _opened(settings: Settings) -> tuple[dict[str, DeltaTable], dict[str, str]]:
    """The existing tables, and what is wrong with those that cannot be read."""
    opened: dict[str, DeltaTable] = {}
    unreadable: dict[str, str] = {}
    for table in tables.declared(settings).values():
        try:
            if delta_table := delta.opened(settings, table):
                opened[table.name] = delta_table
                if problem := probes.files_there(settings, table, delta_table):
                    unreadable[table.name] = problem
        except (TableError, DeltaError, OSError, ValueError) as error:
            unreadable[table.name] = f"it cannot be opened: {str(error).splitlines()[0]}"
    return opened, unreadable


def remember(settings: Settings, current: Report) -> None:
    """Store a report, so that the next one can say what has changed."""
    row = {"generated_at": current.generated_at, "run_id": settings.run_id, "verdict": current.verdict,
           "findings": json.dumps([asdict(finding) for finding in current.findings]),
           "rows": json.dumps(current.rows)}  # fmt: skip
    commits.write_ops(settings, "health_reports", [row])


def last_verdict(settings: Settings) -> str:
    """The verdict of the last stored report; empty if there is none."""
    last = _last_report(settings)
    return last["verdict"] if last else ""


@delta.look()
def outdated(settings: Settings, now: datetime | None = None) -> bool:
    """Whether the last report no longer matches the current state, or is over half a day old."""
    now, last = now or datetime.now(UTC), _last_report(settings)
    if last is None or now - last["generated_at"] > timedelta(hours=12):
        return True
    known = {(finding["table"], finding["kind"]) for finding in last["findings"]}
    return {(finding.table, finding.kind) for finding in report(settings, now).findings} != known


def tell(settings: Settings, run_id: str, before: str, failure: Exception | None) -> None:
    """Pass the summary as JSON to the ``notify`` command if the run failed or the verdict differs from
    ``before``; a failing command is only reported."""
    current = report(settings)
    if failure is None and current.verdict == before:
        return
    message = {"run_id": run_id, "failure": str(failure or ""), "verdict_before": before or None, **current.summary()}
    process = subprocess.run(settings.notify, shell=True, input=json.dumps(message), text=True, capture_output=True)
    if process.returncode:
        print(
            f"lakehouse: --notify {settings.notify!r} ended with {process.returncode}: {process.stderr.strip()[:500]}",
            file=sys.stderr,
        )


def _last_report(settings: Settings) -> dict[str, Any] | None:
    rows = sorted(delta.read_ops(settings, "health_reports"), key=lambda row: row["generated_at"])
    if not rows:
        return None
    return rows[-1] | {name: json.loads(rows[-1][name]) for name in ("findings", "rows")}
