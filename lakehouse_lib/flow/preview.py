"""A preview: what a rebuild would change in a table, and in the gold tables made from it, before it is done.

The tables are made as shadows beside the existing ones. If sources are to be rebuilt too, they are part of it, as in
a run. Files that wait in landing are not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from lakehouse_lib.catalog import history, lineage
from lakehouse_lib.config import Settings, command
from lakehouse_lib.errors import ConfigError, LedgerError, TableError
from lakehouse_lib.flow import pipeline, shadows
from lakehouse_lib.flow.lock import locked
from lakehouse_lib.flow.shadows import Shadow
from lakehouse_lib.layers import fingerprints
from lakehouse_lib.layers.fingerprints import Book, book_of
from lakehouse_lib.model import tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import archive, delta

COLUMNS, WIDTH = 7, 40
"""Columns of an example that are shown, and characters of each."""


@dataclass(frozen=True)
class Compared:
    """How a table would differ if it were rebuilt."""

    table: str
    path: str
    """Folder of the Delta table with the rows that it would have."""
    rows: int
    """How many of them were compared."""
    key: tuple[str, ...]
    difference: history.Difference
    largest: pd.DataFrame
    """The largest change of each column of numbers: ``column``, ``row``, ``before``, ``after``."""
    figures: pd.DataFrame
    """What the table adds up to: ``figure``, ``before``, ``after``."""
    since: date | None = None
    """First day that was compared; None for all days."""
    missing: list[str] = field(default_factory=list)
    """Landing files that cannot be loaded again; their rows were not compared."""

    @property
    def differs(self) -> bool:
        """Whether any row would."""
        return bool(self.difference.added or self.difference.removed or self.difference.changed)

    def summary(self) -> str:
        """The difference in a sentence."""
        found, since = self.difference, f" from {self.since} on" if self.since else ""
        return (
            f"{self.table} rebuilt: {self.rows:,} rows{since}; {found.added:,} added, {found.removed:,} removed, "
            f"{found.changed:,} changed"
        )

    def examples(self) -> pd.DataFrame:
        """Some rows that differ: their key, and the columns that differ, or the first ones if no row has changed."""
        found = self.difference.examples
        others = [*self.difference.columns] or [name for name in found.columns if name not in ("what", *self.key)]
        return found[["what", *[*self.key, *others][:COLUMNS]]].map(_short) if self.differs else found

    def moved(self) -> pd.DataFrame:
        """The figures that change."""
        return self.figures[self.figures.before.fillna(0) != self.figures.after.fillna(0)].reset_index(drop=True)


@dataclass(frozen=True)
class Preview:
    """How tables would differ, and the gold tables made from them."""

    tables: list[Compared]
    gold: list[Compared]
    with_them: list[str]
    """Their sources that would be rebuilt with them."""

    def overview(self) -> pd.DataFrame:
        """How each table would differ: ``table, rows, added, removed, changed``."""
        found = [(one, one.difference) for one in (*self.tables, *self.gold)]
        rows = [(one.table, one.rows, by.added, by.removed, by.changed) for one, by in found]
        return pd.DataFrame(rows, columns=["table", "rows", "added", "removed", "changed"])

    def by_column(self) -> pd.DataFrame:
        """In how many of the changed rows each column differs: ``column`` with its table, ``rows``."""
        rows = [(f"{one.table}.{name}", count) for one in self.tables for name, count in one.difference.columns.items()]
        return pd.DataFrame(rows, columns=["column", "rows"])

    def largest(self) -> pd.DataFrame:
        """The largest change of each column of numbers: ``table, column, row, before, after``."""
        return self._listed([one.largest for one in self.tables], self.tables, ["column", "row", "before", "after"])

    def moved(self) -> pd.DataFrame:
        """The figures that change, of the tables and of gold: ``table, figure, before, after``."""
        every = [*self.tables, *self.gold]
        return self._listed([one.moved() for one in every], every, ["figure", "before", "after"])

    @staticmethod
    def _listed(frames: list[pd.DataFrame], of: list[Compared], columns: list[str]) -> pd.DataFrame:
        named = [frame.assign(table=one.table) for frame, one in zip(frames, of, strict=True) if len(frame)]
        empty = pd.DataFrame(columns=["table", *columns])
        return pd.concat(named, ignore_index=True)[empty.columns] if named else empty

    def check(self) -> None:
        """Raise an error if the rows of a table do not add up: those before, added and removed to those after.

        Raises
        ------
        LedgerError
            They do not.
        """
        for one in (*self.tables, *self.gold):
            before, found = int(one.figures.before[0]), one.difference
            if before + found.added - found.removed != one.rows:
                raise LedgerError(
                    f"{one.table}: {before:,} rows, {found.added:,} added and {found.removed:,} removed are not the "
                    f"{one.rows:,} rows of the preview in {one.path}"
                )

    @property
    def differs(self) -> bool:
        """Whether any row would."""
        return any(one.differs for one in (*self.tables, *self.gold))

    def as_json(self) -> dict[str, Any]:
        """The preview as JSON values."""
        return {
            name: [
                {"table": one.table, "path": one.path, "rows": one.rows, "since": one.since and str(one.since),
                 "added": one.difference.added, "removed": one.difference.removed, "changed": one.difference.changed,
                 "columns": one.difference.columns, "missing": one.missing,
                 "largest": _records(one.largest), "figures": _records(one.figures)}
                for one in compared
            ]
            for name, compared in (("tables", self.tables), ("gold", self.gold))
        } | {"with_them": self.with_them}  # fmt: skip

    def text(self) -> str:
        """The preview for the terminal."""
        lines = [f"Rebuilt with it: {', '.join(self.with_them)}"] if self.with_them else []
        for one in self.tables:
            lines += [one.summary(), *missing_sentence(one)]
            lines += [f"    {name} differs in {count:,}" for name, count in one.difference.columns.items()]
            lines += _shown(one.examples(), "Some of the rows, as they would be:")
            lines += _shown(one.largest, "Largest changes:") + _shown(one.moved(), "Figures:")
            lines.append(f"All of its rows: {one.path}")
        for one in self.gold:
            lines += [one.summary(), *_shown(one.moved(), "")]
        return "\n".join(lines)


def missing_sentence(one: Compared) -> list[str]:
    """What of a bronze table cannot be rebuilt, if anything."""
    if not one.missing:
        return []
    return [
        f"{len(one.missing)} of its files cannot be loaded again, e.g. {one.missing[0]}: their rows were not compared, "
        "and a run leaves the whole table as it is."
    ]


def _shown(frame: pd.DataFrame, head: str) -> list[str]:
    if frame.empty:
        return []
    text = frame.to_string(index=False, max_colwidth=WIDTH, float_format=_number)
    return [*filter(None, [head]), text]


@delta.look()
def preview(settings: Settings, names: list[str], days: int = 0) -> Preview:
    """Make tables under ``ops/preview`` and compare them with the existing ones, including archived rows.

    With ``days`` only the last days of those tables that have days are compared, and no gold table made from them.

    Raises
    ------
    ConfigError
        There is no such table, or none of them has days.
    TableError
        The table or one of its sources has not been made.
    LockedError
        A run holds the lakehouse.
    """
    wanted = [tables.get(settings, name) for name in names]
    if not wanted:
        return Preview([], [], [])
    if not settings.enable_delta:
        raise ConfigError("A preview is compared with a Delta table, and ENABLE_DELTA is false.")
    with locked(settings):
        for table in wanted:
            delta.made(settings, table, "there is nothing to compare a preview with")
            for source in table.sources:
                delta.made(settings, tables.get(settings, source), f"{table.name} is made from it")
        since = _first_days(settings, wanted, days) if days else {}
        gold = [] if days else _gold_below(settings, names)
        anew = _anew(settings, book_of(settings), names, gold)
        read = {source for table in anew for source in table.sources}  # by others, which need all of their days
        made = shadows.make(settings, anew, {name: day for name, day in since.items() if name not in read})
        compared = {name: _compare(settings, made[name], since.get(name)) for name in (*names, *gold)}
        above = {source for name in names for source in lineage.upstream(settings, name)}
        return Preview(
            [compared.pop(name) for name in names],
            [*compared.values()],
            [name for name in made if name in above and name not in names],
        )


def apply(settings: Settings, names: list[str], progress: Callable[[str], None] = print) -> None:
    """Rebuild tables, and those of their sources that are to be rebuilt first, as a run does; tables made from them
    follow with the next run.

    Raises
    ------
    TableError
        One of the tables cannot be rebuilt.
    LakehouseError
        The rebuild failed.
    """
    with locked(settings):
        book = Book(settings)
        anew = _anew(settings, book, names, [])
        for table in anew:
            if book.changes(table) and (reason := fingerprints.obstacle(settings, table)):
                raise TableError(f"{table.name} cannot be rebuilt, because {reason}. Nothing was changed.")
        chosen = settings.model_copy(update={"tables": ",".join(table.name for table in anew), "confirm": True})
        pipeline.run(chosen, progress=progress).check()
    if below := sorted({target for name in names for target in lineage.downstream(settings, name)} - {*names}):
        progress(f"The next run updates what is made from it: {', '.join(below)}. To do so now: {command('run')}")


def _gold_below(settings: Settings, names: list[str]) -> list[str]:
    below = {target for name in names for target in lineage.downstream(settings, name)} - {*names}
    gold = (table for table in tables.declared(settings).values() if table.layer == "gold" and table.name in below)
    return [table.name for table in gold if delta.exists(settings, table)]


def _anew(settings: Settings, book: Book, names: list[str], gold: list[str]) -> list[Table]:
    """Return what is to be made anew for some tables and the gold tables made from them, sources first: the tables,
    sources that are to be rebuilt themselves, and everything in between."""
    needed = {source for name in (*names, *gold) for source in lineage.upstream(settings, name)}
    anew: dict[str, Table] = {}
    for table in tables.declared(settings).values():
        if table.name in needed and (
            table.name in names
            or anew.keys() & {*table.sources}
            or (book.changes(table) and not fingerprints.obstacle(settings, table))
        ):
            anew[table.name] = table
    return [*anew.values()]


def _first_days(settings: Settings, wanted: list[Table], days: int) -> dict[str, date]:
    known = {table.name: archive.days(settings, table) for table in wanted}
    first = {name: max(found) - timedelta(days - 1) for name, found in known.items() if found}
    if not first:
        raise ConfigError(f"{', '.join(known)}: no days to select from (--days). Preview all of it.")
    return first


def _compare(settings: Settings, shadow: Shadow, since: date | None) -> Compared:
    table, old, new = shadow.table, shadow.before(settings), shadow.after()
    selected = [f"{table.partition_by} >= DATE '{since}'"] if since else []
    if shadow.missing:
        listed = ", ".join("'" + path.replace("'", "''") + "'" for path in shadow.missing)
        selected.append(f"_source_file NOT IN ({listed})")
    where, version = " AND ".join(selected), delta.made(settings, table, "it has no rows").version()
    figures = history.figures(table, old, new, where)
    return Compared(
        table.name, shadow.path, int(figures.after[0]), table.key,
        history.compare(table, old, new, version, version + 1, where),
        history.largest(table, old, new, where), figures, since, shadow.missing,
    )  # fmt: skip


def _records(frame: pd.DataFrame) -> Any:
    return json.loads(frame.to_json(orient="records"))  # a missing number is null, not NaN


def _short(value: Any) -> Any:
    """A value, lists and long texts cut to fit a cell."""
    text = (
        ", ".join(map(str, value)) if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) else value
    )
    return f"{text[: WIDTH - 1]}…" if isinstance(text, str) and len(text) > WIDTH else text


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4f}"
