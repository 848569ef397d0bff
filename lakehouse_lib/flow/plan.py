"""The plan: what has changed since each table was made, and what the next run rebuilds because of it.

Everything comes from fingerprints, Delta logs and ``ops/``; DuckDB reads rows only for checks that have never run. No
engine is started.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from lakehouse_lib.config import Settings, command
from lakehouse_lib.flow import selection
from lakehouse_lib.flow.lock import locked
from lakehouse_lib.intake import landing
from lakehouse_lib.layers import fingerprints
from lakehouse_lib.layers.fingerprints import Book, book_of
from lakehouse_lib.model import tables
from lakehouse_lib.model.made_by import Change
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta
from lakehouse_lib.trust import quality

DIFF_LINES = 12
"""Lines of a function's difference that are shown."""


@dataclass(frozen=True)
class Affected:
    """A table whose declaration, settings or code have changed since it was made."""

    table: str
    changes: list[str]
    """What has changed, in words."""
    diffs: dict[str, str]
    """For functions, the lines that changed, where the old text is known."""
    obstacle: str
    """Why it cannot be rebuilt, so that its rows stay; empty if it can."""
    downstream: list[str]
    """Tables made from it, directly or through others: they are updated if its rows change."""
    rows: int
    """Rows that it has."""
    seconds: float | None
    """Expected time, from earlier runs; None if there is none to go by."""


@dataclass(frozen=True)
class Tried:
    """A check that is new or has changed, and what it finds in the table as it stands."""

    table: str
    check: str
    severity: str
    passed: bool | None
    failing_rows: int
    """Rows that fail; with severity quarantine, accepted records that would be set aside."""
    rows: int
    """Rows that were looked at."""
    failing_keys: list[str]
    message: str


@dataclass(frozen=True)
class Earlier:
    """A table of which some rows were made by earlier rules."""

    table: str
    version: int
    """Rows written up to this version are."""
    at: str
    """When that was found."""
    changes: list[str]
    reason: str


@dataclass(frozen=True)
class Plan:
    """What has changed since each table was made."""

    affected: list[Affected]
    earlier: list[Earlier]
    not_noted: list[str]
    """Tables without a fingerprint; the next run records it."""
    checks: list[Tried] = field(default_factory=list)
    """Checks that have not run yet."""
    undeclared: dict[str, list[str]] = field(default_factory=dict)
    """Columns that tables have and that are no longer declared."""

    @property
    def rebuilt(self) -> list[str]:
        """Names of the tables that the next run rebuilds."""
        return [one.table for one in self.affected if not one.obstacle]

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return asdict(self) | {"rebuilt": self.rebuilt}

    def text(self) -> str:
        """The plan for the terminal."""
        lines = [line for one in self.affected for line in _lines(one)]
        for one in self.earlier:
            lines.append(f"{one.table}: rows up to version {one.version} follow earlier rules, because {one.reason}")
            lines += [f"    {change}" for change in one.changes]
            lines.append(f"    to rebuild them once that has changed: {command(f'run --full --tables {one.table}')}")
        lines += [line for one in self.checks for line in _of_check(one)]
        for name, columns in self.undeclared.items():
            lines.append(f"{name}: no longer declared, and kept: {', '.join(columns)}; to drop them: "
                         f"{command(f'run --drop-columns {name}')}")  # fmt: skip
        if self.not_noted:
            lines.append(f"{len(self.not_noted)} tables have no fingerprint, because an earlier version made them; the "
                         "next run records it and rebuilds none of them.")  # fmt: skip
        if not self.affected:
            rest = "Nothing to rebuild." if self.checks else "Nothing to do."
            return "\n".join(
                [*lines, f"No declaration, setting or code has changed since the tables were made. {rest}"]
            )
        many = f"{len(self.rebuilt)} of {len(self.affected)} affected tables can be rebuilt"
        return "\n".join([*lines, f"{many}. The next run does it: {command('run')}"])


@delta.look()
def plan(settings: Settings) -> Plan:
    """Compare what each table of a run was made by with what would make it now.

    Raises
    ------
    ConfigError
        A setting names a table that does not exist.
    """
    book, unused, checked = book_of(settings), landing.not_in_use(settings), quality.latest(settings)
    affected, earlier, not_noted = [], [], []
    tried: list[Tried] = []
    undeclared: dict[str, list[str]] = {}
    for table in selection.selected(settings):
        opened = delta.opened(settings, table)
        if table.name in unused or opened is None:
            continue
        made = book.made(table)
        if made is None:
            not_noted += [table.name] if opened.file_uris() else []
        elif changes := book.changes(table):
            affected.append(_affected(settings, book, table, changes, opened.count()))
        elif since := made.get("since"):
            earlier.append(Earlier(table.name, **since))
        tried += [Tried(table.name, result.check_name, result.severity, result.passed, result.failing_rows, result.rows,
                        json.loads(result.failing_keys), result.message)
                  for result in quality.trial(settings, table, checked.get(table.name, {}))]  # fmt: skip
        if columns := delta.undeclared(settings, table):
            undeclared[table.name] = columns
    return Plan(affected, earlier, not_noted, tried, undeclared)


def settle(settings: Settings) -> list[str]:
    """Record the fingerprints of tables that have none, when a run has nothing else to do; returns what to say."""
    book, unused = book_of(settings), landing.not_in_use(settings)
    said = book.adopt(table for table in selection.selected(settings) if table.name not in unused)
    book.store()
    return said


def forward_only(settings: Settings, names: list[str]) -> list[str]:
    """Keep the rows of some tables although their declaration, settings or code have changed; returns sentences about
    what follows which rules from now on.

    Raises
    ------
    UnknownTableError
        There is no table of one of the names.
    LockedError
        A run holds the lakehouse.
    """
    wanted = [tables.get(settings, name) for name in names]
    with locked(settings):
        book = Book(settings)
        changed = (table for table in wanted if book.changes(table))
        return [sentence for table in changed for sentence in book.keep(table, "--forward-only asked for it")]


def _affected(settings: Settings, book: Book, table: Table, changes: list[Change], rows: int) -> Affected:
    diffs = {str(change): diff for change in changes if change.kind == "function" and (diff := _diff(book, change))}
    return Affected(table.name, [str(change) for change in changes], diffs, fingerprints.obstacle(settings, table),
                    _downstream(settings, table.name), rows, _seconds(settings, table, rows))  # fmt: skip


def _diff(book: Book, change: Change) -> str:
    """What became of a function, line by line and short; empty where one of its texts is not known."""
    old, new = (book.source_of(digest).splitlines() if digest else [] for digest in (change.old, change.new))
    if not old or not new:
        return ""
    lines = [line for line in difflib.unified_diff(old, new, n=0, lineterm="") if line[:3] not in ("---", "+++")]
    lines = [line for line in lines if not line.startswith("@@")]
    more = [f"… {len(lines) - DIFF_LINES} more lines"] if len(lines) > DIFF_LINES else []
    return "\n".join([*lines[:DIFF_LINES], *more])


def _downstream(settings: Settings, name: str) -> list[str]:
    reached = [name]
    for table in tables.declared(settings).values():  # sources come before targets
        if {*table.sources} & {*reached} and table.name not in reached:
            reached.append(table.name)
    return reached[1:]


def _seconds(settings: Settings, table: Table, rows: int) -> float | None:
    """Time by the run that wrote most rows of a table."""
    runs = [run for run in delta.read_ops(settings, "runs", target=table.name) if run["rows"]]
    if not runs:
        return None
    largest = max(runs, key=lambda run: run["rows"])
    return float(round(largest["seconds"] * max(1.0, rows / largest["rows"]), 1))


def _lines(one: Affected) -> list[str]:
    took = "" if one.seconds is None else f", about {one.seconds:,.0f} s"
    head = f"will be rebuilt: {one.rows:,} rows{took}"
    lines = [f"{one.table} {f'stays as it is, because {one.obstacle}' if one.obstacle else head}"]
    for change in one.changes:
        lines += [f"    {change}", *(f"        {line}" for line in one.diffs.get(change, "").splitlines())]
    if one.obstacle:
        lines.append(
            "    new rows follow the new rules from the next run on; the plan and the report keep saying since when"
        )
    elif one.downstream:
        lines.append(f"    if its rows change, these are updated: {', '.join(one.downstream)}")
    return lines


def _of_check(one: Tried) -> list[str]:
    if one.severity == "quarantine":
        found = f"would set aside {one.failing_rows:,} of {one.rows:,} accepted records"
    elif one.passed is False:
        found = f"fails: {one.message.split(': ', 1)[1]}"
        found += "; what is made from the table would keep its last good state" if one.severity == "error" else ""
    else:
        found = "passes" if one.passed else "has no rows to look at"
    examples = [f"    for example {', '.join(one.failing_keys[:3])}"] if one.failing_keys else []
    return [f"{one.table}: new check {one.check} ({one.severity}) {found}", *examples]
