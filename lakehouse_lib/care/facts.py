"""What the health report shows of each table, each run and each earlier report.

Everything comes from Delta logs, ``ops/`` and file listings: no row is read, no engine is started.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd

from lakehouse_lib.care import health, maintenance, probes
from lakehouse_lib.care.health import Report
from lakehouse_lib.care.maintenance import Work
from lakehouse_lib.care.probes import Finding
from lakehouse_lib.catalog import catalog, rules
from lakehouse_lib.catalog.rules import Moved
from lakehouse_lib.config import Settings
from lakehouse_lib.intake import landing
from lakehouse_lib.model import tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta
from lakehouse_lib.trust import anomalies, quality
from lakehouse_lib.trust.checking import Result

DAYS = 30
"""Days that trends cover."""
RECENT = 8
"""Commits of a table that are listed."""
RUNS = 40
"""Runs on the timeline."""
JUDGED = ("bronze", "silver")
"""Layers whose tables have so many rows a day that the volume of a day can be judged."""


@dataclass(frozen=True)
class Day:
    """The rows of a table that belong to one day."""

    date: date
    rows: int
    over: bool
    """Whether the day is over, so that its rows can be compared with other days."""
    low: float | None = None
    high: float | None = None
    """The expected range; None where there is too little history."""
    odd: bool = False


@dataclass(frozen=True)
class Freshness:
    """How old the data of a table is, and how old it may be."""

    event: timedelta | None
    """Age of its newest event; None if its rows have no time."""
    load: timedelta | None
    """Time since something new was last loaded into it."""
    target: timedelta

    @property
    def age(self) -> timedelta | None:
        """The age to compare with the target: of the newest event, or else of the last load."""
        return self.event if self.event is not None else self.load

    @property
    def late(self) -> bool:
        """Whether the target is missed."""
        return self.age is not None and self.age > self.target


@dataclass(frozen=True)
class CheckFacts:
    """A check of a table, its last result and how it went before."""

    result: Result
    past: list[tuple[datetime, bool | None]]
    """Oldest first; None where there were no rows to look at."""


@dataclass(frozen=True)
class TableFacts:
    """What the report shows of one table."""

    table: Table
    state: str
    """Its verdict, or `health.NOT_IN_USE`."""
    owner: str
    findings: list[Finding]
    rows: int | None
    """None if it cannot be read."""
    added: int | None
    """Rows gained since the previous report; None without one."""
    days: list[Day]
    """Rows by day, the last `DAYS` days; empty if the table has no days."""
    newest_day: date | None
    totals: list[tuple[datetime, int]]
    """Number of rows after each commit of the last `DAYS` days, and before the first of them."""
    freshness: Freshness
    checks: list[CheckFacts]
    last_step: dict[str, Any] | None
    """The row of ``ops/runs`` of the last run that touched it."""
    commits: list[dict[str, Any]]
    """The last rows of its ledger, newest first."""
    bytes: int
    files: int
    old_bytes: int
    """Bytes that only older versions need."""
    log_length: int
    """Commits since the last checkpoint."""
    due: list[Work]
    sources: list[str]
    consumers: list[str]

    @property
    def failed(self) -> int:
        """Number of failed checks."""
        return sum(check.result.failed for check in self.checks)

    @property
    def passed(self) -> int:
        """Number of checks that passed."""
        return sum(check.result.passed is True for check in self.checks)


@dataclass(frozen=True)
class RunFacts:
    """A run, as recorded in ``ops/runs`` and the ledger."""

    run_id: str
    started_at: datetime
    seconds: float
    """From the start of its first table to the end of its last."""
    states: Counter[str]
    """Number of tables by what the run did to them."""
    read: int
    """Records read from landing."""
    quarantined: int
    verdict: str
    """Of its report; empty if it has none."""
    message: str
    """Of the first table that failed or was held."""

    @property
    def state(self) -> str:
        """failed, held or ok."""
        return next((word for word in ("failed", "held") if self.states[word]), "ok")


@dataclass(frozen=True)
class Facts:
    """Everything that the report shows."""

    report: Report
    since: datetime | None
    """The earliest report from which on the verdict has been what it is; None if it is new."""
    finding_since: dict[tuple[str, str], datetime]
    """The same for findings, by table and kind."""
    tables: list[TableFacts]
    runs: list[RunFacts]
    """Oldest first."""
    verdicts: list[tuple[datetime, str]]
    """Verdicts of the reports of the last `DAYS` days, oldest first, and of this one."""
    due: list[Work]
    """Maintenance that is worth doing."""
    moved: list[Moved]
    """Tables whose declaration, settings or code have changed since the previous report."""

    def owner(self, name: str) -> str:
        """Return the owner of a table; empty for tables of ``ops/``."""
        return next((facts.owner for facts in self.tables if facts.table.name == name), "")


@delta.look()
def gather(settings: Settings, now: datetime | None = None) -> Facts:
    """Probe the lakehouse, and collect what the report shows."""
    now = now or datetime.now(UTC)
    report = health.report(settings, now)
    earlier = sorted(
        delta.ops_tuples(settings, "health_reports", ["generated_at", "verdict", "findings"]), reverse=True
    )
    since, finding_since = _since(report, earlier)
    verdicts = [(at, verdict) for at, verdict, _ in earlier if now - at <= timedelta(days=DAYS)]
    moved = rules.moved(settings, report.before["generated_at"], report.rows) if report.before else []
    due = maintenance.due(settings, now.date())
    return Facts(report, since, finding_since, _tables(settings, report, due, now), runs(settings),
                 [*reversed(verdicts), (now, report.verdict)], due, moved)  # fmt: skip


def reports(settings: Settings) -> list[tuple[datetime, str, str]]:
    """Return when each report was made, its verdict and its run, oldest first."""
    return sorted(delta.ops_tuples(settings, "health_reports", ["generated_at", "verdict", "run_id"]))


@delta.look()
def runs(settings: Settings, limit: int = RUNS) -> list[RunFacts]:
    """Return the last runs that changed a table or tried to, oldest first."""
    verdicts = {run_id: verdict for _, verdict, run_id in reports(settings)}
    by_run: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(delta.read_ops(settings, "runs"), key=lambda row: row["started_at"]):
        by_run.setdefault(row["run_id"], []).append(row)
    bronze = {table.name for table in tables.declared(settings).values() if table.layer == "bronze"}
    read, quarantined = Counter[str](), Counter[str]()
    for row in delta.read_ops(settings, "ledger"):
        if row["target"] in bronze:
            read[row["run_id"]] += row["records_read"]
            quarantined[row["run_id"]] += row["quarantined"]
    found = []
    for run_id, steps in list(by_run.items())[-limit:]:
        began, ended = steps[0]["started_at"], max(s["started_at"] + timedelta(seconds=s["seconds"]) for s in steps)
        failed = [step for step in steps if step["state"] in ("failed", "held")]
        message = f"{failed[0]['target']}: {failed[0]['message']}" if failed else ""
        found.append(RunFacts(run_id, began, (ended - began).total_seconds(), Counter(s["state"] for s in steps),
                              read[run_id], quarantined[run_id], verdicts.get(run_id, ""), message))  # fmt: skip
    return found


def _since(
    report: Report, earlier: list[tuple[datetime, str, str]]
) -> tuple[datetime | None, dict[tuple[str, str], datetime]]:
    """Return since when the verdict has been what it is, and since when each finding has been reported."""
    since, same = None, True
    open_findings = {(finding.table, finding.kind) for finding in report.findings}
    finding_since: dict[tuple[str, str], datetime] = {}
    for at, verdict, findings in earlier:
        same = same and verdict == report.verdict
        since = at if same else since
        if open_findings:
            open_findings &= {(finding["table"], finding["kind"]) for finding in json.loads(findings)}
            finding_since |= dict.fromkeys(open_findings, at)
        elif not same:
            break
    return since, finding_since


def _tables(settings: Settings, report: Report, due: list[Work], now: datetime) -> list[TableFacts]:
    checked = quality.latest(settings)
    past, steps, owners = quality.past(settings), probes.last_steps(settings), catalog.owners(settings)
    declared = tables.declared(settings)
    found = []
    for name, table in declared.items():
        results = checked.get(name, {}).values()
        ledger = sorted(delta.read_ops(settings, "ledger", target=name), key=lambda row: row["recorded_at"])
        delta_table = delta.opened(settings, table) if name in report.rows else None
        size: dict[str, Any] = {"bytes": 0, "files": 0, "old_bytes": 0, "log_length": 0}
        event = load = None
        if delta_table is not None:
            live = delta.files(delta_table)
            size["bytes"], size["files"] = sum(live["size_bytes"].to_pylist()), live.num_rows
            size["old_bytes"] = sum(length for _, length in delta.data_files(delta_table)) - size["bytes"]
            ledger = [row for row in ledger if row["table_id"] == str(delta_table.metadata().id)]
            size["log_length"] = maintenance.log_length(delta_table)[0]
            event, load = probes.newest(settings, table, delta_table)
        days, newest_day = _days(settings, table, now) if delta_table is not None else ([], None)
        found.append(TableFacts(
            table, report.states[name], owners[name], [f for f in report.findings if f.table == name],
            report.rows.get(name), _added(report, name), days, newest_day, _totals(ledger, now),
            Freshness(now - event if event else None, now - load if load else None,
                      timedelta(hours=table.freshness_hours)),
            [CheckFacts(result, past.get(name, {}).get(result.check_name, [])) for result in results], steps.get(name),
            ledger[: -RECENT - 1 : -1], **size, due=[work for work in due if work.table == name],
            sources=list(table.sources) or [f"landing/{landing.feed_of(table)}"],
            consumers=[target.name for target in declared.values() if name in target.sources],
        ))  # fmt: skip
    return found


def _added(report: Report, name: str) -> int | None:
    if report.before is None or name not in report.rows:
        return None
    return report.rows[name] - int(report.before["rows"].get(name, 0))


def _days(settings: Settings, table: Table, now: datetime) -> tuple[list[Day], date | None]:
    """Return the last days of a table, also those without rows, and its newest day with rows."""
    counts: pd.Series = anomalies.so_far(settings, table)["rows"]
    if counts.empty:
        return [], None
    rows = {at.date(): int(count) for at, count in zip(pd.DatetimeIndex(counts.index), counts, strict=True)}
    judged = anomalies.volume(settings, table) if table.layer in JUDGED else pd.DataFrame()
    ranges = {at.date(): row for at, row in zip(pd.DatetimeIndex(judged.index), judged.itertuples(), strict=True)}
    over: Callable[[date], bool] = (lambda day: day in ranges) if len(judged) else (lambda day: day < now.date())
    days = []
    for day in (now.date() - timedelta(days=ago) for ago in range(DAYS - 1, -1, -1)):
        row: Any = ranges.get(day)
        band = (None, None, False) if row is None or pd.isna(row.low) else (row.low, row.high, bool(row.odd))
        days.append(Day(day, rows.get(day, 0), over(day), *band))
    return days, max(day for day, count in rows.items() if count) if any(rows.values()) else None


def _totals(ledger: Iterable[dict[str, Any]], now: datetime) -> list[tuple[datetime, int]]:
    total, start = 0, now - timedelta(days=DAYS)
    totals: list[tuple[datetime, int]] = []
    for row in ledger:
        if row["recorded_at"] >= start and not totals and total:
            totals.append((start, total))
        total += row["rows"] or 0
        if row["recorded_at"] >= start:
            totals.append((row["recorded_at"], total))
    return totals or [(start, total)]
