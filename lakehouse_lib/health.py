"""The health of the lakehouse: one verdict, and what needs a person. The figures behind it: `figures`.

Everything comes from Delta logs, ``ops/`` and lists of files: no row is read, no engine is started.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lakehouse_lib import (
    anomalies,
    archive,
    delta,
    landing,
    ledger,
    lineage,
    maintenance,
    quality,
    refresh,
    sample,
    tables,
)
from lakehouse_lib.config import Settings
from lakehouse_lib.errors import TableError
from lakehouse_lib.tables import Table

VERDICTS = ("Healthy", "Unknown", "Warning", "Degraded")
"""From best to worst; the worst component counts."""
COLORS = dict(zip(VERDICTS, ("#2e7d4f", "#5f6b7a", "#b26a00", "#b3261e"), strict=True))

SKEW = timedelta(minutes=5)
"""A time further ahead than this is a clock that is wrong."""
RECENT = timedelta(days=7)
"""Anomalies of the volume that ended earlier are history."""
GRACE = 2
"""Days that rows may be past their retention before it is told."""

_REPORTS = pa.schema([("generated_at", pa.timestamp("us", "UTC")), ("run_id", pa.string()), ("verdict", pa.string()),
                      ("findings", pa.string()), ("rows", pa.string())])  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Something that needs a person."""

    kind: str
    """broken table, failed run, half-written run, failed check, stale feed, volume, behind, clock
    skew, small files, long log, old files or late archive."""
    verdict: str
    table: str
    text: str
    """Cause, with its number and its bound."""
    command: str
    """What mends it."""


@dataclass
class Report:
    """The state of the lakehouse at one moment."""

    generated_at: datetime
    verdict: str
    findings: list[Finding]
    """Worst first."""
    rows: dict[str, int]
    """Rows of each table that can be read."""
    before: dict | None = None
    """The report before: ``generated_at``, ``verdict``, ``findings``, ``rows``; None if there is none."""
    states: dict[str, str] = field(default_factory=dict)
    """Verdict of each table."""
    sample: bool = False
    """Whether the input is the sample that this project writes."""

    def summary(self) -> dict:
        """As JSON, for `--notify` and other programs."""
        return {"generated_at": self.generated_at.isoformat(timespec="seconds"), "verdict": self.verdict,
                "findings": [asdict(finding) for finding in self.findings]}  # fmt: skip

    def text(self) -> str:
        """For the terminal."""
        sample = " (sample input)" if self.sample else ""
        lines = [f"{self.verdict} at {self.generated_at:%Y-%m-%d %H:%M} UTC{sample}"]
        for one in self.findings:
            lines.append(f"{one.verdict:<9} {one.table}: {one.kind}: {one.text}\n          mend it: {one.command}")
        return "\n".join(lines if self.findings else [*lines, "Nothing to do."])


def report(settings: Settings, now: datetime | None = None) -> Report:
    """The state of the lakehouse, judged."""
    now = now or datetime.now(UTC)
    findings: list[Finding] = []
    opened: dict[str, DeltaTable] = {}
    declared = tables.declared(settings)
    for table in declared.values():
        try:
            if found := delta.open_table(delta.table_path(settings, table)):
                findings += _files_there(settings, table, found)
                opened[table.name] = found
        except (TableError, DeltaError, OSError, ValueError) as error:
            findings.append(_broken(settings, table, f"it cannot be opened: {str(error).splitlines()[0]}"))
    broken = {finding.table for finding in findings}
    whole = {name: found for name, found in opened.items() if name not in broken}
    last = last_steps(settings)
    findings += _last_run(last)
    known, accounted = quality.latest(settings), ledger.last_accounted(settings)
    for table in declared.values():
        if table.name in whole:
            findings += _half_written(settings, table, whole[table.name], accounted)
            findings += _files_set_aside(settings, table)
            findings += _checks(settings, known.get(table.name, {}))
            findings += _skew(settings, table, whole[table.name], now)
            findings += _freshness(settings, table, whole[table.name], now) or _volume(settings, table, now)
    # What is behind for a reason that stands here already is not told again.
    reasons = ("broken table", "failed run", "half-written run", "stale feed", "failed check")
    if not any(one.kind in reasons and (one.kind != "failed check" or one.verdict == "Degraded") for one in findings):
        findings += [one for table in declared.values() if table.name in whole for one in _behind(settings, table)]
    findings += _maintenance(settings, now)
    findings.sort(key=lambda one: -VERDICTS.index(one.verdict))
    states = {name: "Unknown" for name in declared} | dict.fromkeys(whole, "Healthy")
    states |= {name: "Warning" for name in whole if last.get(name, {}).get("state") == "held"}  # its cause is told
    for one in reversed(findings):
        states[one.table] = one.verdict
    fed = [name for name, found in whole.items() if declared[name].layer == "bronze" and found.count()]
    verdict = max([one.verdict for one in findings] or ["Healthy" if fed else "Unknown"], key=VERDICTS.index)
    counts = {name: found.count() for name, found in whole.items()}
    return Report(now, verdict, findings, counts, _last_report(settings), states, sample.is_sample(settings))


def remember(settings: Settings, made: Report) -> None:
    """Keep a report, for the next one to say what has changed."""
    row = {"generated_at": made.generated_at, "run_id": settings.run_id, "verdict": made.verdict,
           "findings": json.dumps([asdict(one) for one in made.findings]), "rows": json.dumps(made.rows)}  # fmt: skip
    delta.write_ops(_path(settings), pa.Table.from_pylist([row], _REPORTS))


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
        print(f"lakehouse: --notify {settings.notify!r} ended with {done.returncode}: {done.stderr.strip()[:500]}",
              file=sys.stderr)  # fmt: skip


# What is looked for -----------------------------------------------------------


def _files_there(settings: Settings, table: Table, opened: DeltaTable) -> list[Finding]:
    there = {path for path, _ in delta.data_files(opened)}
    needed = pa.table(opened.get_add_actions())["path"].to_pylist()
    if missing := [path for path in needed if path not in there]:
        text = f"{len(missing)} of its {len(needed)} files are gone, at most 0 may be; the first is {missing[0]}"
        return [_broken(settings, table, text)]
    return []


def _broken(settings: Settings, table: Table, text: str) -> Finding:
    path = delta.table_path(settings, table)
    return Finding("broken table", "Degraded", table.name, text, f"mv {path} {path}.broken && lakehouse run")


def last_steps(settings: Settings) -> dict[str, dict]:
    """What the last run that touched a table did to it: the row of ``ops/runs``."""
    return {row["target"]: row for row in sorted(delta.read_ops(settings, "runs"), key=lambda row: row["started_at"])}


def _last_run(last: dict[str, dict]) -> list[Finding]:
    """Tables that failed when they were last tried."""
    return [Finding("failed run", "Degraded", row["target"],
                    f"run {row['run_id']} of {row['started_at']:%Y-%m-%d %H:%M} ended {row['state']}: "
                    f"{(row['message'] or 'no reason').splitlines()[0]}", "lakehouse run")
            for row in last.values() if row["state"] == "failed"]  # fmt: skip


def _half_written(settings: Settings, table: Table, opened: DeltaTable, accounted: dict[str, int]) -> list[Finding]:
    last = accounted.get(str(opened.metadata().id), -1)
    commits = delta.changes(opened.table_uri, last, opened.version()).commits
    lacking = [commit for commit in commits if "run_id" in delta.says(commit)]
    found = []
    if lacking:
        run_id = delta.says(lacking[0])["run_id"]
        text = f"{len(lacking)} commits of run {run_id} are not in the ledger, at most 0 may be: it was cut off"
        found.append(Finding("half-written run", "Warning", table.name, text, "lakehouse run"))
    return found


def _checks(settings: Settings, known: dict[str, quality.Result]) -> list[Finding]:
    """Checks that fail; freshness is judged by `_freshness`, which also looks at landing."""
    return [
        Finding("failed check", "Degraded" if result.stops else "Warning", result.table_name,
                result.message.split(": ", 1)[1], _undo(settings, result))
        for result in known.values() if not result.passed and result.kind != "freshness"
    ]  # fmt: skip


def _undo(settings: Settings, result: quality.Result) -> str:
    """How to take back the load after which a check fails; else how to look closely."""
    origins = {
        name for name in lineage.upstream(settings, result.table_name)
        if not name.startswith("landing/") and tables.get(settings, name).layer == "bronze"
    }  # fmt: skip
    loads = [row for row in delta.read_ops(settings, "ledger")
             if row["run_id"] == result.run_id and row["target"] in origins and row["version"] > 1]  # fmt: skip
    if not loads:
        return f"lakehouse quality profile {result.table_name}"
    back = {row["target"]: row["version"] - 1 for row in sorted(loads, key=lambda row: -row["version"])}
    return " && ".join([*(f"lakehouse restore {name} {version} --yes" for name, version in sorted(back.items())),
                        "lakehouse run"])  # fmt: skip


def _skew(settings: Settings, table: Table, opened: DeltaTable, now: datetime) -> list[Finding]:
    found = []
    (last,) = opened.history(1)
    ahead = datetime.fromtimestamp(last["timestamp"] / 1000, UTC) - now
    bound = f"at most {SKEW.seconds // 60} minutes may be"
    if ahead > SKEW:
        text = f"its last commit is dated {_hours(ahead)} ahead of this machine's clock, {bound}"
        found.append(Finding("clock skew", "Warning", table.name, text, f"lakehouse optimize {table.name}"))
    if table.layer == "bronze":
        feed = landing.feed_of(table)
        early = [file for file in landing.list_files(settings, feed) if file.modified - now > SKEW]
        if early:
            most = max(file.modified for file in early) - now
            text = f"{len(early)} files of landing/{feed} are dated up to {_hours(most)} ahead of this clock, {bound}"
            command = f"find {settings.feed_path(feed)} -newermt now -exec touch {{}} + && lakehouse run"
            found.append(Finding("clock skew", "Warning", table.name, text, command))
    return found


def newest(settings: Settings, table: Table, opened: DeltaTable) -> tuple[datetime | None, datetime | None]:
    """When the newest event of a table happened, and when rows were last loaded."""
    happened = None
    if table.event_time:
        files = pa.table(opened.get_add_actions(flatten=True)).to_pylist()
        day = f"partition.{table.partition_by}"
        times = [f.get(f"max.{table.event_time}") for f in files if f.get(day) is not None]
        happened = max((at.replace(tzinfo=UTC) if at.tzinfo is None else at for at in times if at), default=None)
    loads = [row["recorded_at"] for row in delta.read_ops(settings, "ledger", target=table.name)
             if row["records_read"] > row["duplicate"]]  # fmt: skip
    return happened, max(loads, default=None)


def _freshness(settings: Settings, table: Table, opened: DeltaTable, now: datetime) -> list[Finding]:
    """A feed whose newest event, or whose last load, is older than the table's target."""
    if table.layer != "bronze" or not opened.count():
        return []
    target = timedelta(hours=table.freshness_hours)
    happened, loaded = newest(settings, table, opened)
    ages = {"newest event": happened, "last load": loaded}
    late = {name: now - at for name, at in ages.items() if at and now - at > target}
    if not late:
        return []
    said = " and ".join(f"{name} is {_hours(age)} old" for name, age in late.items())
    backfill = " (what came last was old: a backfill)" if "last load" not in late else ""
    text = f"its {said}, at most {table.freshness_hours} hours may be{backfill}; {_cause(settings, table)}"
    verdict = "Degraded" if max(late.values()) > 3 * target else "Warning"
    return [Finding("stale feed", verdict, table.name, text, "lakehouse run")]


def _volume(settings: Settings, table: Table, now: datetime) -> list[Finding]:
    """Days of the last week with far fewer or far more rows than usual, from the log."""
    if table.layer != "bronze":
        return []
    judged = anomalies.expected_counts(anomalies.daily(settings, table)["rows"])
    since = (now - RECENT).replace(tzinfo=None)
    found = [one for one in anomalies.incidents(table.name, "rows by day", judged) if pd.Timestamp(one.end) >= since]
    if not found:
        return []
    cause = _cause(settings, table)
    return [Finding("volume", "Warning", table.name, f"{one.message.split(': ', 1)[1]}; {cause}", "lakehouse run")
            for one in found]  # fmt: skip


def _waiting_files(settings: Settings, table: Table) -> int:
    """How many files of a bronze table's feed have not been loaded."""
    return len(landing.pending_files(settings, table))


def _files_set_aside(settings: Settings, table: Table) -> list[Finding]:
    """Files that no run has loaded; renaming one that is broken takes it out of the feed and keeps it."""
    if table.layer != "bronze":
        return []
    folder = settings.feed_path(landing.feed_of(table))
    found = []
    for file, sentence in landing.problems(settings, table):
        above, _, name = file.path.rpartition("/")
        old, new = f"{folder}/{file.path}", "/".join(filter(None, [folder, above, f"_{name}"]))
        command = "lakehouse run"
        if file.state == "set_aside" and Path(old).is_file():
            command = f"mv {shlex.quote(old)} {shlex.quote(new)} && lakehouse run"
        found.append(Finding("file set aside", "Warning", table.name, sentence, command))
    return found


def _cause(settings: Settings, table: Table) -> str:
    """Why a feed stands still, in words: here or with those who deliver it."""
    waits = _waiting_files(settings, table)
    return f"{waits} files wait in landing" if waits else (
        f"nothing waits in landing: ask who delivers {landing.feed_of(table)}"
    )  # fmt: skip


def _behind(settings: Settings, table: Table) -> list[Finding]:
    """A table that has not read all of its sources."""
    if table.layer == "bronze":
        waits = _waiting_files(settings, table)
        text = f"{waits} files wait in landing, at most 0 after a run"
    else:
        states = refresh.source_states(settings, table)
        waits = sum(state.changed for state in states.values())
        text = f"{waits} of its {len(states)} sources have changed since it read them, at most 0 after a run"
    return [Finding("behind", "Warning", table.name, text, "lakehouse run")] if waits else []


def _maintenance(settings: Settings, now: datetime) -> list[Finding]:
    kinds = {"compact": "small files", "checkpoint": "long log", "vacuum": "old files", "archive": "late archive"}
    late = now.date() - timedelta(days=GRACE)
    return [
        Finding(kinds[work.kind], "Warning", work.table, work.why, work.command)
        for work in maintenance.due(settings, now.date())
        if work.kind != "archive" or archive.due(settings, tables.get(settings, work.table), late)
    ]


def _last_report(settings: Settings) -> dict | None:
    rows = sorted(delta.read_ops(settings, "health_reports"), key=lambda row: row["generated_at"])
    if not rows:
        return None
    return rows[-1] | {name: json.loads(rows[-1][name]) for name in ("findings", "rows")}


def _hours(age: timedelta) -> str:
    return f"{age.total_seconds() / 3600:,.1f} hours"


def _path(settings: Settings) -> str:
    return f"{settings.layer_path('ops')}/health_reports"
