"""What a table's transformation may read: its sources as they are, and what was added since the last run."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lakehouse_lib.config import Settings
from lakehouse_lib.layers.fingerprints import Book
from lakehouse_lib.model import reads, tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import archive, delta, inserts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@dataclass(frozen=True)
class SourceState:
    """A source of a table: how far it was read, and what has changed since."""

    table: Table
    app_id: str
    after: int | None
    upto: int
    changes: delta.Changes | None

    @property
    def changed(self) -> bool:
        """Whether there is anything to read."""
        return self.changes is None or self.changes.any

    @property
    def lost_track(self) -> bool:
        """Whether new data can no longer be distinguished from data that was read before."""
        if self.changes is None:
            return False
        return not self.changes.complete or (self.table.layer == "bronze" and self.changes.rewritten)


@dataclass
class Inputs:
    """What a transformation may read."""

    spark: SparkSession
    lakehouse: Settings
    """The settings as they are, for reading and writing."""
    table: Table
    run_id: str
    states: dict[str, SourceState]
    full: bool
    book: Book | None = None
    """Fingerprints of the tables; None if none is to be recorded."""
    rebuilt: bool = False
    """Whether the table is rebuilt because its declaration, settings or code have changed."""
    noted: dict[str, Any] = field(default_factory=dict)
    """Settings that the transformation has read."""

    @cached_property
    def settings(self) -> Settings:
        """Settings for the transformation: those that it reads are recorded, and changing them rebuilds the table."""
        return reads.watched(self.lakehouse, self.noted)

    def all(self, source: str) -> DataFrame:
        """Return a source including archived rows; all reads of a refresh see the same version."""
        state = self.states[source]
        version = state.upto if self.lakehouse.enable_delta else None
        rows = delta.read(self.spark, self.lakehouse, state.table, version)
        return archive.with_archived(self.lakehouse, state.table, rows)

    def before(self, source: str) -> DataFrame | None:
        """Return a source as it was when last read; None if that is unknown."""
        state = self.states[source]
        if state.after is None:
            return None
        return delta.read(self.spark, self.lakehouse, state.table, state.after)

    def new(self, source: str) -> DataFrame:
        """Return the rows that were added to an append-only source since it was last read."""
        state = self.states[source]
        if self.full or state.after is None:
            return self.all(source)
        if not state.changed:
            return self.all(source).limit(0)
        return inserts.read(self.spark, self.lakehouse, state.table, state.after, state.upto)

    def days(self, source: str) -> set[date] | None:
        """Return the days of a source that changed since it was last read, and the days to compute again that it or
        the table has; None for all days (full refresh)."""
        return None if self.full else self.changed_days(source)

    def changed_days(self, source: str) -> set[date]:
        """Return the `days` of a refresh that is not full."""
        days: set[date] = set()
        state = self.states[source]
        if state.changes:
            days |= {date.fromisoformat(day) for day in state.changes.partitions if day}
        if self.lakehouse.has_days:
            existing = archive.days(self.lakehouse, state.table) | archive.days(self.lakehouse, self.table)
            days |= {day for day in existing if self.lakehouse.asks_for(day)}
        return days

    def current(self) -> DataFrame:
        """Return the table itself, including archived rows."""
        return archive.with_archived(self.lakehouse, self.table, delta.read(self.spark, self.lakehouse, self.table))

    @cached_property
    def seal(self) -> tuple[list[delta.Consumed], dict[str, Any]]:
        """The transactions and the metadata by which the commit records the table's fingerprint."""
        return self.book.seal(self.table, self.noted, self.full, self.rebuilt) if self.book else ([], {})

    @cached_property
    def consumed(self) -> list[delta.Consumed]:
        """How far this refresh reads each source that has new data."""
        return [
            delta.Consumed(state.app_id, state.upto)
            for state in self.states.values()
            if state.changed and state.upto > (-1 if state.after is None else state.after)
        ]


def live_rows(inputs: Inputs) -> DataFrame | None:
    """Return the table's rows to compare with; None if the table is rebuilt."""
    return None if inputs.full else inputs.current()


def source_states(settings: Settings, table: Table) -> dict[str, SourceState]:
    """Return how far a table has read each source, from the Delta logs."""
    target = delta.opened(settings, table)
    states = {}
    for name in table.sources:
        source = tables.get(settings, name)
        if not settings.enable_delta:
            states[name] = SourceState(source, "", None, 0, None)
            continue
        opened = delta.opened(settings, source)
        if opened is None:
            continue
        app_id, upto = delta.source_id(opened), opened.version()
        after = delta.watermark(target, app_id)
        seen = None if after is None else delta.changes(delta.table_path(settings, source), after, upto)
        states[name] = SourceState(source, app_id, after, upto, seen)
    return states
