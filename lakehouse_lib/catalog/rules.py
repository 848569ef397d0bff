"""Rules: the declaration, settings and code by which each table is made, since when, and how they have changed.

A set of rules is named by its fingerprint, a number written in hexadecimal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from deltalake import DeltaTable

from lakehouse_lib.config import Settings
from lakehouse_lib.layers import fingerprints
from lakehouse_lib.layers.fingerprints import Book, book_of
from lakehouse_lib.model import made_by, tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta
from lakehouse_lib.storage.transactions import FINGERPRINT


@dataclass(frozen=True)
class Rules:
    """By what a table is made."""

    fingerprint: str
    """Empty if an early version made the table, or it has not been made."""
    since: datetime | None
    """When the table got this fingerprint (UTC)."""
    state: str
    """current, changed rules (what has changed), forward only (since which version); empty without a fingerprint."""
    settings: dict[str, Any]
    """The settings that its transformation reads, with the values by which it is made."""
    code: str
    """The version that its declaration gives, or a digest of its code."""


def of(settings: Settings, table: Table, book: Book) -> Rules:
    """Return by what a table is made."""
    opened = delta.opened(settings, table)
    number = delta.watermark(opened, FINGERPRINT) or 0
    made = book.made(table)
    if made is None:
        return Rules("", None, "", {}, "")
    state, since = "current", made.get("since")
    if since:
        state = f"forward only since {since['at'][:10]}: rows up to version {since['version']} follow earlier rules, "
        state += f"{', '.join(since['changes'])}"
    if changes := book.changes(table):
        state = f"changed rules: {', '.join(map(str, changes))}"
    code = made["version"] or made_by.digest_of_code(made)
    return Rules(made_by.shown(number), book.since(number), state, made["settings"], code)


@delta.look()
def of_all(settings: Settings, names: Iterable[str]) -> dict[str, Rules]:
    """Return by what tables are made; names that are no tables, such as landing folders, are left out."""
    book, declared = book_of(settings), tables.declared(settings)
    return {name: of(settings, declared[name], book) for name in names if name in declared}


@dataclass(frozen=True)
class Moved:
    """A table that got another fingerprint."""

    table: str
    at: datetime
    """When (UTC)."""
    run_id: str
    """The run that made it; empty if no run did, as with ``--forward-only``."""
    before: str
    after: str
    """Fingerprints."""
    changes: list[str]
    """Which setting, column, function, … has changed, with old and new values."""
    forward_only: bool
    """Whether earlier rows were kept as they were."""


@delta.look()
def moved(settings: Settings, since: datetime | None = None) -> list[Moved]:
    """Return which tables have got other rules since a moment, and what of them has changed; by default since the last
    run began, which is what has changed between the last two runs."""
    book, since = book_of(settings), since or _last_began(settings)
    if since is None:
        return []
    found = []
    for table in tables.declared(settings).values():
        opened = delta.opened(settings, table)
        at = book.since(delta.watermark(opened, FINGERPRINT) or 0)
        if opened is not None and at is not None and at >= since and (one := _moved(table, opened, since)):
            found.append(one)
    return found


def _moved(table: Table, opened: DeltaTable, since: datetime) -> Moved | None:
    """Compare the newest fingerprint in a table's log with the one that it had before a moment, or its first one."""
    number = delta.watermark(opened, FINGERPRINT)
    newest = old = None
    for step in fingerprints.told(opened):
        if newest is None and made_by.number_of(step[2]) != number:
            continue  # of versions that a restore has undone
        newest, old = newest or step, step
        if step[0] < since:
            break
    if newest is None or old is None or newest[2] == old[2]:
        return None
    (at, run_id, now), (_, _, before) = newest, old
    names = [made_by.shown(made_by.number_of(record)) for record in (before, now)]
    changes = [str(change) for change in made_by.differences(before, now)]
    forward_only = now.get("since") != before.get("since")
    return Moved(table.name, at, run_id, names[0], names[1], changes, forward_only) if changes else None


def _last_began(settings: Settings) -> datetime | None:
    runs = delta.read_ops(settings, "runs")
    if not runs:
        return None
    last = max(runs, key=lambda run: run["started_at"])["run_id"]
    began: datetime = min(run["started_at"] for run in runs if run["run_id"] == last)
    return began
