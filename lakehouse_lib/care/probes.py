"""What health looks for: each probe names what is wrong with a table, and what to run about it.

Everything comes from Delta logs, ``ops/`` and lists of files: no row is read, no engine is started. A command is
proposed only where it fixes what is said, or shows it more closely, and never where a row could be lost by it.
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
import pyarrow as pa
from deltalake import DeltaTable

from lakehouse_lib.care import maintenance
from lakehouse_lib.catalog import lineage
from lakehouse_lib.config import Settings, command
from lakehouse_lib.flow import ledger
from lakehouse_lib.intake import landing
from lakehouse_lib.layers import inputs
from lakehouse_lib.model import tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta
from lakehouse_lib.trust import anomalies
from lakehouse_lib.trust.quality import Result

SKEW = timedelta(minutes=5)
"""A time further ahead than this is a clock that is wrong."""
RECENT = timedelta(days=7)
"""Anomalies of the volume that ended earlier are history."""
GRACE = 2
"""Days that rows may be past their retention before it is told."""


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
    """What to run; empty where nothing that is run here would change it."""


def broken(settings: Settings, table: Table, text: str, others: set[str]) -> Finding:
    """A table that cannot be read; ``others`` cannot either. It is made again only where that gives the same rows."""
    path = delta.table_path(settings, table)
    lacking = _cannot_be_made_again(settings, table, others)
    if lacking or "://" in path:
        text += f"; {lacking or 'make it again once its folder is out of the way'}"
        return Finding("broken table", "Degraded", table.name, text, "")
    aside = next(name for n in range(1, 1000) if not os.path.exists(name := f"{path}.broken{n}"))
    fix = f"mv {shlex.quote(path)} {shlex.quote(aside)} && {command('run')}"
    return Finding("broken table", "Degraded", table.name, text, fix)


def _cannot_be_made_again(settings: Settings, table: Table, others: set[str]) -> str:
    """Why a table that is made anew would hold other rows; empty if it would not."""
    if table.layer != "bronze":
        above = {name for name in lineage.upstream(settings, table.name) if not name.startswith("landing/")}
        wrong = [
            name
            for name in sorted(above - {table.name})
            if name in others or not delta.exists(settings, tables.get(settings, name))
        ]
        return f"{', '.join(wrong)} has to be there, and right, before it can be made again" if wrong else ""
    feed, backup = landing.feed_of(table), "bring its folder back from a backup"
    rows = delta.read_ops(settings, "landing_files", feed=feed)
    if any(row["state"] == "withdrawn" for row in rows):
        return f"loads of it were taken back, which would come again if it were made again: {backup}"
    loaded = {(row["path"], row["size"], row["modified"]) for row in rows if row["state"] == "loaded"}
    gone = loaded - {(file.path, file.size, file.modified) for file in landing.list_files(settings, feed)}
    if not loaded:
        return f"which files it was loaded from is not known: {backup}"
    if not gone:
        return ""
    return (
        f"{len(gone)} of the {len(loaded)} files that it was loaded from are no longer in landing as they were, so it "
        f"cannot be made again: {backup}"
    )


def files_there(settings: Settings, table: Table, opened: DeltaTable) -> str:
    """What is missing of the files of a table's newest version; empty if nothing is."""
    there = {path for path, _ in delta.data_files(opened)}
    needed = pa.table(opened.get_add_actions())["path"].to_pylist()
    missing = [path for path in needed if path not in there]
    if not missing:
        return ""
    return f"{len(missing)} of its {len(needed)} files are gone; the first is {missing[0]}"


def last_steps(settings: Settings) -> dict[str, dict[str, Any]]:
    """What the last run that touched a table did to it: the row of ``ops/runs``."""
    return {row["target"]: row for row in sorted(delta.read_ops(settings, "runs"), key=lambda row: row["started_at"])}


def last_run(last: dict[str, dict[str, Any]]) -> list[Finding]:
    """Tables that failed when they were last tried."""
    return [Finding("failed run", "Degraded", row["target"],
                    f"run {row['run_id']} of {row['started_at']:%Y-%m-%d %H:%M} ended {row['state']}: "
                    f"{(row['message'] or 'no reason').splitlines()[0]}", command("run"))
            for row in last.values() if row["state"] == "failed"]  # fmt: skip


def half_written(table: Table, opened: DeltaTable, accounted: ledger.Accounted) -> list[Finding]:
    """A run whose commits the ledger lacks."""
    last, _ = accounted.get(str(opened.metadata().id), (-1, 0))
    commits = delta.changes(opened.table_uri, last, opened.version()).commits
    lacking = [commit for commit in commits if "run_id" in delta.says(commit)]
    if not lacking:
        return []
    run_id = delta.says(lacking[0])["run_id"]
    text = f"{len(lacking)} commits of run {run_id} are not in the ledger: it was cut off"
    return [Finding("half-written run", "Warning", table.name, text, command("run"))]


def failed_checks(table: Table, known: dict[str, Result]) -> list[Finding]:
    """Checks that fail; freshness is judged by `freshness`, which also looks at landing."""
    return [
        Finding("failed check", "Degraded" if result.stops else "Warning", table.name,
                result.message.split(": ", 1)[1], _closer_look(table, result))
        for result in known.values() if result.failed and result.kind != "freshness"
    ]  # fmt: skip


def _closer_look(table: Table, result: Result) -> str:
    """What shows where a failing row comes from; a person decides whether its load is to be taken back."""
    if result.severity == "quarantine":
        return command(f"quarantine show {table.name}")
    arguments = json.loads(result.definition)["arguments"]
    repeated = arguments.get("columns") or [arguments.get("column", "")]
    names = repeated if result.kind == "unique" else table.key or ("_source_file", *table.business[:1])
    for key in json.loads(result.failing_keys):
        values = key.split(" · ")
        if len(values) == len(names) and "null" not in values:
            pairs = " ".join(shlex.quote(f"{name}={value}") for name, value in zip(names, values, strict=True))
            return command(f"trace {table.name} {pairs}")
    return command(f"quality profile {table.name}")


def clock_skew(settings: Settings, table: Table, opened: DeltaTable, now: datetime) -> list[Finding]:
    """Commits and landing files that are dated ahead of this machine's clock."""
    found = []
    ahead = delta.committed_at(opened) - now
    bound = f"at most {SKEW.seconds // 60} minutes may be: set the clock right"
    if ahead > SKEW:
        text = f"its last commit is dated {_hours(ahead)} ahead of this machine's clock, {bound}"
        found.append(Finding("clock skew", "Warning", table.name, text, ""))
    if table.layer == "bronze":
        feed = landing.feed_of(table)
        early = [file for file in landing.list_files(settings, feed) if file.modified - now > SKEW]
        if early:
            most = max(file.modified for file in early) - now
            text = f"{len(early)} files of landing/{feed} are dated up to {_hours(most)} ahead of this clock, {bound}"
            found.append(Finding("clock skew", "Warning", table.name, text, ""))
    return found


def newest(settings: Settings, table: Table, opened: DeltaTable) -> tuple[datetime | None, datetime | None]:
    """When the newest event of a table happened, and when rows were last loaded."""
    happened = None
    if table.event_time:
        files = pa.table(opened.get_add_actions(flatten=True)).to_pylist()
        day = f"partition.{table.partition_by}"
        times = [f.get(f"max.{table.event_time}") for f in files if f.get(day) is not None]
        happened = max((at.replace(tzinfo=UTC) if at.tzinfo is None else at for at in times if at), default=None)
    loads = [
        row["recorded_at"]
        for row in delta.read_ops(settings, "ledger", target=table.name)
        if row["records_read"] > row["duplicate"]
    ]
    return happened, max(loads, default=None)


def freshness(settings: Settings, table: Table, opened: DeltaTable, now: datetime) -> list[Finding]:
    """A feed whose newest event, or whose last load, is older than the table's target; none that was never fed."""
    if table.layer != "bronze":
        return []
    target = timedelta(hours=table.freshness_hours)
    happened, loaded = newest(settings, table, opened)
    ages = {"newest event": happened, "last load": loaded}
    late = {name: now - at for name, at in ages.items() if at and now - at > target}
    if not late:
        return []
    said = " and ".join(f"{name} is {_hours(age)} old" for name, age in late.items())
    backfill = " (what came last was old: a backfill)" if "last load" not in late else ""
    cause, fix = _cause(settings, table)
    text = f"its {said}, at most {table.freshness_hours} hours may be{backfill}; {cause}"
    verdict = "Degraded" if max(late.values()) > 3 * target else "Warning"
    return [Finding("stale feed", verdict, table.name, text, fix)]


def volume(settings: Settings, table: Table, now: datetime) -> list[Finding]:
    """Days of the last week with far fewer or far more rows than usual, from the log."""
    if table.layer != "bronze":
        return []
    judged = anomalies.expected_counts(anomalies.daily(settings, table)["rows"])
    since = (now - RECENT).replace(tzinfo=None)
    found = [one for one in anomalies.incidents(table.name, "rows by day", judged) if pd.Timestamp(one.end) >= since]
    if not found:
        return []
    cause, fix = _cause(settings, table)
    return [Finding("volume", "Warning", table.name, f"{one.message.split(': ', 1)[1]}; {cause}", fix) for one in found]


def _cause(settings: Settings, table: Table) -> tuple[str, str]:
    """Why a feed stands still, in words, and what to run: only where something waits here does a run help."""
    if waits := len(landing.pending_files(settings, table)):
        return f"{waits} files wait in landing", command("run")
    return f"nothing waits in landing: ask who delivers {landing.feed_of(table)}", ""


def files_set_aside(settings: Settings, table: Table) -> list[Finding]:
    """Files that no run has loaded; renaming one that is broken takes it out of the feed and keeps it."""
    if table.layer != "bronze":
        return []
    folder = settings.feed_path(landing.feed_of(table))
    found = []
    for file, sentence in landing.problems(settings, table):
        above, _, name = file.path.rpartition("/")
        old, new = f"{folder}/{file.path}", "/".join(filter(None, [folder, above, f"_{name}"]))
        fix = command("run") if file.state == "failed" else ""
        if file.state == "set_aside" and Path(old).is_file() and not Path(new).exists():
            fix = f"mv {shlex.quote(old)} {shlex.quote(new)} && {command('run')}"
        found.append(Finding("file set aside", "Warning", table.name, sentence, fix))
    return found


def behind(settings: Settings, table: Table) -> list[Finding]:
    """A table that has not read all of its sources."""
    if table.layer == "bronze":
        waits = len(landing.pending_files(settings, table))
        text = f"{waits} files wait in landing"
    else:
        states = inputs.source_states(settings, table)
        waits = sum(state.changed for state in states.values())
        text = f"{waits} of its {len(states)} sources have changed since it read them"
    return [Finding("behind", "Warning", table.name, text, command("run"))] if waits else []


def upkeep(settings: Settings, now: datetime) -> list[Finding]:
    """What is worth doing to files and logs, and rows past their retention."""
    kinds = {"compact": "small files", "checkpoint": "long log", "vacuum": "old files", "archive": "late archive"}
    late = now.date() - timedelta(days=GRACE)

    def is_late(work: maintenance.Work) -> bool:
        past = maintenance.to_archive(settings, tables.get(settings, work.table), late)
        return any(one.by_itself == work.by_itself for one in past)

    return [
        Finding(kinds[work.kind], "Warning", work.table, work.why, work.command)
        for work in maintenance.due(settings, now.date())
        if work.kind != "archive" or is_late(work)
    ]


def _hours(age: timedelta) -> str:
    return f"{age.total_seconds() / 3600:,.1f} hours"
