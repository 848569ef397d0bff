"""The probes of the health report: each says what is wrong with a table, and which command to run.

Everything comes from Delta logs, ``ops/`` and file listings: no row is read, no engine is started. A command is
proposed only if it fixes the finding or shows more detail, and never if it could lose a row.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from deltalake import DeltaTable

from lakehouse_lib.care import maintenance
from lakehouse_lib.catalog import lineage
from lakehouse_lib.config import Settings, command
from lakehouse_lib.flow import ledger
from lakehouse_lib.intake import landing
from lakehouse_lib.layers import inputs
from lakehouse_lib.layers.fingerprints import Book
from lakehouse_lib.model import tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta, remembered
from lakehouse_lib.trust import anomalies
from lakehouse_lib.trust.checking import Result

SKEW = timedelta(minutes=5)
"""A time further ahead than this means that a clock is wrong."""
RECENT = timedelta(days=7)
"""Volume anomalies that ended earlier than this are not reported."""
GRACE = 2
"""Days that rows may be past their retention before this is reported."""


@dataclass(frozen=True)
class Finding:
    """A problem that needs attention."""

    kind: str
    """broken table, failed run, half-written run, failed check, stale feed, volume, behind, clock
    skew, changed rules, earlier rules, small files, long log, old files or late archive."""
    verdict: str
    table: str
    text: str
    """The cause, with the measured value and its bound."""
    command: str
    """The command to run; empty if no command here would help."""
    value: str = ""
    """The measured value with its unit; empty where the cause is not a number."""
    bound: str = ""
    """What is allowed, in the words after "allowed:"; empty where there is no value."""


def broken(settings: Settings, table: Table, text: str, unreadable: set[str]) -> Finding:
    """The finding for an unreadable table; a rebuild is proposed only if it would give the same rows."""
    path = delta.table_path(settings, table)
    obstacle = _rebuild_obstacle(settings, table, unreadable)
    if obstacle or "://" in path:
        text += f"; {obstacle or 'move its folder away, then make it again'}"
        return Finding("broken table", "Degraded", table.name, text, "")
    aside = next(name for n in range(1, 1000) if not os.path.exists(name := f"{path}.broken{n}"))
    fix = f"mv {shlex.quote(path)} {shlex.quote(aside)} && {command('run')}"
    return Finding("broken table", "Degraded", table.name, text, fix)


def _rebuild_obstacle(settings: Settings, table: Table, unreadable: set[str]) -> str:
    """Why a rebuilt table would hold different rows; empty if it would not."""
    if table.layer != "bronze":
        sources = {name for name in lineage.upstream(settings, table.name) if not name.startswith("landing/")}
        unusable = [
            name
            for name in sorted(sources - {table.name})
            if name in unreadable or not delta.exists(settings, tables.get(settings, name))
        ]
        return f"{', '.join(unusable)} must exist and be readable before it can be made again" if unusable else ""
    feed, backup = landing.feed_of(table), "bring its folder back from a backup"
    rows = delta.read_ops(settings, "landing_files", feed=feed)
    if any(row["state"] == "withdrawn" for row in rows):
        return f"loads of it were taken back and would come back if it were made again: {backup}"
    loaded = {(row["path"], row["size"], row["modified"]) for row in rows if row["state"] == "loaded"}
    lost = loaded - {(file.path, file.size, file.modified) for file in landing.list_files(settings, feed)}
    if not loaded:
        return f"which files it was loaded from is not known: {backup}"
    if not lost:
        return ""
    return (
        f"{len(lost)} of the {len(loaded)} files that it was loaded from are no longer in landing as they were, so it "
        f"cannot be made again: {backup}"
    )


def files_there(settings: Settings, table: Table, delta_table: DeltaTable) -> str:
    """Says which files of a table's newest version are missing; empty if none are."""
    present = {path for path, _ in delta.data_files(delta_table)}
    needed = delta.files(delta_table)["path"].to_pylist()
    missing = [path for path in needed if path not in present]
    if not missing:
        return ""
    return f"{len(missing)} of its {len(needed)} files are gone; the first is {missing[0]}"


def last_steps(settings: Settings) -> dict[str, dict[str, Any]]:
    """The row of ``ops/runs`` for the last run that touched each table."""
    runs = delta.once("runs by start", lambda: sorted(delta.read_ops(settings, "runs"), key=lambda r: r["started_at"]))
    return {row["target"]: row for row in runs}


def last_run(last: dict[str, dict[str, Any]]) -> list[Finding]:
    """Tables that failed in the last run that tried them."""
    return [Finding("failed run", "Degraded", row["target"],
                    f"run {row['run_id']} of {row['started_at']:%Y-%m-%d %H:%M} ended {row['state']}: "
                    f"{(row['message'] or 'no reason').splitlines()[0]}", command("run"))
            for row in last.values() if row["state"] == "failed"]  # fmt: skip


def half_written(table: Table, delta_table: DeltaTable, accounted: ledger.Accounted) -> list[Finding]:
    """A run with commits that are missing from the ledger."""
    last_version, _ = accounted.get(str(delta_table.metadata().id), (-1, 0))
    commits = delta.changes(delta_table.table_uri, last_version, delta_table.version()).commits
    missing = [commit for commit in commits if "run_id" in delta.says(commit)]
    if not missing:
        return []
    run_id = delta.says(missing[0])["run_id"]
    text = f"{len(missing)} commits of run {run_id} are not in the ledger: the run was cut off"
    return [Finding("half-written run", "Warning", table.name, text, command("run"), f"{len(missing)} commits", "none")]


def failed_checks(table: Table, known: dict[str, Result]) -> list[Finding]:
    """Failed checks, except freshness: that is left to `freshness`, which also looks at landing."""
    return [
        Finding("failed check", "Degraded" if result.stops else "Warning", table.name,
                result.message.split(": ", 1)[1], _closer_look(table, result), *_measured(result))
        for result in known.values() if result.failed and result.kind != "freshness"
    ]  # fmt: skip


def _measured(result: Result) -> tuple[str, str]:
    """The value that a check measured and its bounds, for people."""
    if result.measured is None:
        return "", ""
    return f"{result.measured:,.4g} {result.unit}".rstrip(), result.expected


def _closer_look(table: Table, result: Result) -> str:
    """A command that shows where a failing row comes from; whether to undo its load is a person's decision."""
    if result.severity == "quarantine":
        return command(f"quarantine show {table.name}")
    arguments = json.loads(result.definition)["arguments"]
    columns = arguments.get("columns") or [arguments.get("column", "")]
    names = columns if result.kind == "unique" else table.key or ("_source_file", *table.business[:1])
    for key in json.loads(result.failing_keys):
        values = key.split(" · ")
        if len(values) == len(names) and "null" not in values:
            pairs = " ".join(shlex.quote(f"{name}={value}") for name, value in zip(names, values, strict=True))
            return command(f"trace {table.name} {pairs}")
    return command(f"quality profile {table.name}")


def clock_skew(settings: Settings, table: Table, delta_table: DeltaTable, now: datetime) -> list[Finding]:
    """Commits and landing files dated ahead of this machine's clock."""
    findings = []
    ahead = delta.committed_at(delta_table) - now
    bound = f"{_minutes(SKEW)} are allowed: set the clock right"
    if ahead > SKEW:
        text = f"its last commit is dated {_hours(ahead)} ahead of this machine's clock, {bound}"
        findings.append(Finding("clock skew", "Warning", table.name, text, "", _hours(ahead), _minutes(SKEW)))
    if table.layer == "bronze":
        feed = landing.feed_of(table)
        early = [file for file in landing.list_files(settings, feed) if file.modified - now > SKEW]
        if early:
            lead = max(file.modified for file in early) - now
            text = f"{len(early)} files of landing/{feed} are dated up to {_hours(lead)} ahead of this clock, {bound}"
            findings.append(Finding("clock skew", "Warning", table.name, text, "", _hours(lead), _minutes(SKEW)))
    return findings


def newest(settings: Settings, table: Table, delta_table: DeltaTable) -> tuple[datetime | None, datetime | None]:
    """The time of a table's newest event, and the time of the last load that brought rows."""
    happened = None
    if table.event_time:
        happened = remembered.made_of(
            delta_table,
            f"newest {table.event_time} by {table.partition_by}",
            lambda opened: _newest_event(table, opened),
        )
    recorded = delta.open_table(f"{settings.layer_path('ops')}/ledger")
    loads = {} if recorded is None else remembered.made_of(recorded, "last loads", _last_loads)
    return happened, loads.get(table.name)


def _newest_event(table: Table, delta_table: DeltaTable) -> datetime | None:
    known = delta.files(delta_table)
    wanted = (f"max.{table.event_time}", day := f"partition.{table.partition_by}")
    files = known.select([name for name in wanted if name in known.column_names]).to_pylist()
    times = [file.get(f"max.{table.event_time}") for file in files if file.get(day) is not None]
    return max((at.replace(tzinfo=UTC) if at.tzinfo is None else at for at in times if at), default=None)


def _last_loads(recorded: DeltaTable) -> dict[str, datetime]:
    """The time of the last load of each table that brought rows."""
    loads: dict[str, datetime] = {}
    columns = ["target", "recorded_at", "records_read", "duplicate"]
    for row in delta.dataset(recorded).to_table(columns).to_pylist():
        if row["records_read"] > row["duplicate"]:
            loads[row["target"]] = max(row["recorded_at"], loads.get(row["target"], row["recorded_at"]))
    return loads


def freshness(settings: Settings, table: Table, delta_table: DeltaTable, now: datetime) -> list[Finding]:
    """A feed whose newest event or last load is older than the table's target; not one that was never loaded."""
    if table.layer != "bronze":
        return []
    target = timedelta(hours=table.freshness_hours)
    happened, loaded = newest(settings, table, delta_table)
    ages = {"newest event": happened, "last load": loaded}
    late = {name: now - at for name, at in ages.items() if at and now - at > target}
    if not late:
        return []
    age_text = " and ".join(f"{name} is {_hours(age)} old" for name, age in late.items())
    backfill = " (the latest data was old: a backfill)" if "last load" not in late else ""
    cause, fix = _cause(settings, table)
    text = f"its {age_text}, at most {table.freshness_hours} hours are allowed{backfill}; {cause}"
    verdict = "Degraded" if max(late.values()) > 3 * target else "Warning"
    allowed = f"at most {table.freshness_hours} hours"
    return [Finding("stale feed", verdict, table.name, text, fix, _hours(max(late.values())), allowed)]


def volume(settings: Settings, table: Table, now: datetime) -> list[Finding]:
    """Days of the last week with far fewer or far more rows than usual, judged from the log."""
    if table.layer != "bronze":
        return []
    judged = anomalies.volume(settings, table)
    since = (now - RECENT).replace(tzinfo=None)
    recent = [
        anomaly
        for anomaly in anomalies.incidents(table.name, "rows by day", judged)
        if pd.Timestamp(anomaly.end) >= since
    ]
    if not recent:
        return []
    cause, fix = _cause(settings, table)
    return [
        Finding("volume", "Warning", table.name, f"{anomaly.message.split(': ', 1)[1]}; {cause}", fix,
                f"{anomaly.value:,.0f} rows", f"about {anomaly.expected:,.0f}")
        for anomaly in recent
    ]  # fmt: skip


def _cause(settings: Settings, table: Table) -> tuple[str, str]:
    """Why a feed has stalled, in words, and the command to run: a run helps only if files wait in landing."""
    if waiting := len(landing.pending_files(settings, table)):
        return f"{waiting} files wait in landing", command("run")
    return f"nothing waits in landing: ask who delivers {landing.feed_of(table)}", ""


def files_set_aside(settings: Settings, table: Table) -> list[Finding]:
    """Files that no run has loaded; renaming a broken one takes it out of the feed without deleting it."""
    if table.layer != "bronze":
        return []
    folder = settings.feed_path(landing.feed_of(table))
    findings = []
    for file, sentence in landing.problems(settings, table):
        parent, _, name = file.path.rpartition("/")
        old, new = f"{folder}/{file.path}", "/".join(filter(None, [folder, parent, f"_{name}"]))
        fix = command("run") if file.state == "failed" else ""
        if file.state == "set_aside" and Path(old).is_file() and not Path(new).exists():
            fix = f"mv {shlex.quote(old)} {shlex.quote(new)} && {command('run')}"
        findings.append(Finding("file set aside", "Warning", table.name, sentence, fix))
    return findings


def behind(settings: Settings, table: Table) -> list[Finding]:
    """A table that has not read everything from its sources."""
    if table.layer == "bronze":
        waiting = len(landing.pending_files(settings, table))
        text = f"{waiting} files wait in landing"
    else:
        states = inputs.source_states(settings, table)
        waiting = sum(state.changed for state in states.values())
        text = f"{waiting} of its {len(states)} sources have changed since it read them"
    unit = "files" if table.layer == "bronze" else "sources"
    return [Finding("behind", "Warning", table.name, text, command("run"), f"{waiting} {unit}", "none")] * bool(waiting)


def rules(table: Table, book: Book) -> list[Finding]:
    """A table whose code or settings have changed, and one of which some rows follow earlier ones."""
    if changes := book.changes(table):
        said = ", ".join(map(str, changes))
        text = f"its declaration, settings or code have changed since it was made; the next run rebuilds it: {said}"
        return [Finding("changed rules", "Warning", table.name, text, command("run"))]
    if since := (book.made(table) or {}).get("since"):
        text = f"its rows up to version {since['version']} follow earlier rules, because {since['reason']}; changed: "
        return [Finding("earlier rules", "Warning", table.name, text + ", ".join(since["changes"]), "")]
    return []


def upkeep(settings: Settings, now: datetime) -> list[Finding]:
    """Files and logs that need maintenance, and rows past their retention."""
    kinds = {"compact": "small files", "checkpoint": "long log", "vacuum": "old files", "archive": "late archive"}
    as_of = now.date() - timedelta(days=GRACE)

    def is_late(work: maintenance.Work) -> bool:
        overdue = maintenance.to_archive(settings, tables.get(settings, work.table), as_of)
        return any(item.by_itself == work.by_itself for item in overdue)

    return [
        Finding(kinds[work.kind], "Warning", work.table, work.why, work.command, work.value, work.bound)
        for work in maintenance.due(settings, now.date())
        if work.kind != "archive" or is_late(work)
    ]


def _minutes(span: timedelta) -> str:
    return f"at most {span.seconds // 60} minutes"


def _hours(age: timedelta) -> str:
    return f"{age.total_seconds() / 3600:,.1f} hours"
