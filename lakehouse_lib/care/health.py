"""The health of the lakehouse: one verdict, and what needs a person; what is looked for stands in `probes`, the
figures behind it in `figures`.

Everything comes from Delta logs, ``ops/`` and lists of files: no row is read, no engine is started.
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
from lakehouse_lib.model import tables
from lakehouse_lib.storage import commits, delta
from lakehouse_lib.trust import quality

VERDICTS = ("Healthy", "Unknown", "Warning", "Degraded")
"""From best to worst; the worst component counts."""
NOT_IN_USE = "Not in use"
"""State of a table for which no file has ever come."""
COLORS = dict(zip(VERDICTS, ("#2e7d4f", "#5f6b7a", "#b26a00", "#b3261e"), strict=True))


@dataclass
class Report:
    """The state of the lakehouse at one moment."""

    generated_at: datetime
    verdict: str
    findings: list[Finding]
    """Worst first."""
    rows: dict[str, int]
    """Rows of each table that can be read."""
    before: dict[str, Any] | None = None
    """The report before: ``generated_at``, ``verdict``, ``findings``, ``rows``; None if there is none."""
    states: dict[str, str] = field(default_factory=dict)
    """Verdict of each table."""
    sample: bool = False
    """Whether the input is the sample that this project writes."""

    def summary(self) -> dict[str, Any]:
        """As JSON, for `--notify` and other programs."""
        return {
            "generated_at": self.generated_at.isoformat(timespec="seconds"),
            "verdict": self.verdict,
            "findings": [asdict(finding) for finding in self.findings],
        }

    def text(self) -> str:
        """For the terminal."""
        sample = " (sample input)" if self.sample else ""
        lines = [f"{self.verdict} at {self.generated_at:%Y-%m-%d %H:%M} UTC{sample}"]
        for one in self.findings:
            lines.append(f"{one.verdict:<9} {one.table}: {one.kind}: {one.text}")
            lines += [f"{'':<9} run: {one.command}"] if one.command else []
        return "\n".join(lines if self.findings else [*lines, "Nothing to do."])


def report(settings: Settings, now: datetime | None = None) -> Report:
    """The state of the lakehouse, judged."""
    now = now or datetime.now(UTC)
    declared = tables.declared(settings)
    opened, unreadable = _opened(settings)
    whole = {name: found for name, found in opened.items() if name not in unreadable}
    findings = [
        probes.broken(settings, declared[name], text, {*unreadable} - {name}) for name, text in unreadable.items()
    ]
    unused, last = landing.not_in_use(settings), probes.last_steps(settings)
    used = [declared[name] for name in whole if name not in unused]
    findings += probes.last_run(last)
    known, accounted = quality.latest(settings), ledger.last_accounted(settings)
    for table in used:
        found = whole[table.name]
        findings += probes.half_written(table, found, accounted)
        findings += probes.files_set_aside(settings, table)
        findings += probes.failed_checks(table, known.get(table.name, {}))
        findings += probes.clock_skew(settings, table, found, now)
        findings += probes.freshness(settings, table, found, now) or probes.volume(settings, table, now)
    # What is behind for a reason that stands here already is not told again.
    reasons = ("broken table", "failed run", "half-written run", "stale feed", "failed check")
    if not any(one.kind in reasons and (one.kind != "failed check" or one.verdict == "Degraded") for one in findings):
        findings += [one for table in used for one in probes.behind(settings, table)]
    findings += probes.upkeep(settings, now)
    findings.sort(key=lambda one: -VERDICTS.index(one.verdict))
    states = dict.fromkeys(declared, "Unknown") | {table.name: "Healthy" for table in used}
    states |= dict.fromkeys(unused, NOT_IN_USE)
    states |= {name: "Warning" for name in whole if last.get(name, {}).get("state") == "held"}  # its cause is told
    for one in reversed(findings):
        states[one.table] = one.verdict
    fed = [name for name, found in whole.items() if declared[name].layer == "bronze" and found.count()]
    verdict = max([one.verdict for one in findings] or ["Healthy" if fed else "Unknown"], key=VERDICTS.index)
    counts = {name: found.count() for name, found in whole.items()}
    return Report(now, verdict, findings, counts, _last_report(settings), states, sample.is_sample(settings))


def _opened(settings: Settings) -> tuple[dict[str, DeltaTable], dict[str, str]]:
    """The tables that have been made, and what is wrong with those that cannot be read."""
    opened: dict[str, DeltaTable] = {}
    unreadable: dict[str, str] = {}
    for table in tables.declared(settings).values():
        try:
            if found := delta.opened(settings, table):
                opened[table.name] = found
                if text := probes.files_there(settings, table, found):
                    unreadable[table.name] = text
        except (TableError, DeltaError, OSError, ValueError) as error:
            unreadable[table.name] = f"it cannot be opened: {str(error).splitlines()[0]}"
    return opened, unreadable


def remember(settings: Settings, made: Report) -> None:
    """Keep a report, for the next one to say what has changed."""
    row = {"generated_at": made.generated_at, "run_id": settings.run_id, "verdict": made.verdict,
           "findings": json.dumps([asdict(one) for one in made.findings]), "rows": json.dumps(made.rows)}  # fmt: skip
    commits.write_ops(settings, "health_reports", [row])


def last_verdict(settings: Settings) -> str:
    """The verdict of the report before; empty if there is none."""
    before = _last_report(settings)
    return before["verdict"] if before else ""


def outdated(settings: Settings, now: datetime | None = None) -> bool:
    """Whether the last report no longer says how things are, or is half a day old."""
    now, before = now or datetime.now(UTC), _last_report(settings)
    if before is None or now - before["generated_at"] > timedelta(hours=12):
        return True
    known = {(one["table"], one["kind"]) for one in before["findings"]}
    return {(one.table, one.kind) for one in report(settings, now).findings} != known


def tell(settings: Settings, run_id: str, before: str, failure: Exception | None) -> None:
    """Give the summary as JSON to the command that ``notify`` names, where the run failed or the
    verdict is another than ``before``; a command that fails is said, and no more."""
    made = report(settings)
    if failure is None and made.verdict == before:
        return
    about = {"run_id": run_id, "failure": str(failure or ""), "verdict_before": before or None, **made.summary()}
    done = subprocess.run(settings.notify, shell=True, input=json.dumps(about), text=True, capture_output=True)
    if done.returncode:
        print(
            f"lakehouse: --notify {settings.notify!r} ended with {done.returncode}: {done.stderr.strip()[:500]}",
            file=sys.stderr,
        )


def _last_report(settings: Settings) -> dict[str, Any] | None:
    rows = sorted(delta.read_ops(settings, "health_reports"), key=lambda row: row["generated_at"])
    if not rows:
        return None
    return rows[-1] | {name: json.loads(rows[-1][name]) for name in ("findings", "rows")}
