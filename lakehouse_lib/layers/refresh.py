"""Bring one table up to date: what its transformation may read, and how the outcome is written.

A transformation returns one of `Append`, `Upsert`, `Days` or `Difference`. Each is written in one
commit that also remembers how far the sources were read and what became of every record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from pyspark.sql import Window
from pyspark.sql import functions as F

from lakehouse_lib.config import Settings
from lakehouse_lib.engines.session import settle
from lakehouse_lib.model import tables
from lakehouse_lib.model.ops import COUNTS
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import archive, delta

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, Row, SparkSession


@dataclass(frozen=True)
class SourceState:
    """One source of a table: how far it was read, and what came since."""

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
        """Whether what is new cannot be told from what was read before."""
        if self.changes is None:
            return False
        return not self.changes.complete or (self.table.layer == "bronze" and self.changes.rewritten)


@dataclass(frozen=True)
class Append:
    """Rows to add as they are."""

    rows: DataFrame


@dataclass(frozen=True)
class Upsert:
    """Records of which one per key is kept: the first by ``order``, then by content."""

    rows: DataFrame
    order: list[str]


@dataclass(frozen=True)
class Days:
    """All rows of some days (None: of all), which replace what is there."""

    rows: DataFrame
    days: set[date] | None


@dataclass(frozen=True)
class Difference:
    """Rows that should stand where ``old`` stands (None: where the whole table stands).

    Only rows that differ are written. ``tally`` is a one-row frame of ledger counts where rows
    and records are not the same thing.
    """

    rows: DataFrame
    old: DataFrame | None = None
    tally: DataFrame | None = None


@dataclass
class Inputs:
    """What a transformation may read."""

    spark: SparkSession
    settings: Settings
    table: Table
    run_id: str
    states: dict[str, SourceState]
    full: bool
    table_now: Table = field(init=False)
    """The table with the columns that its data needs; differs for replicas only."""
    reschema: bool = False
    """Write the table whole, with new column types."""

    def __post_init__(self) -> None:
        self.table_now = self.table

    def all(self, source: str) -> DataFrame:
        """A source as it is, archived rows too; all reads of one refresh see the same version."""
        state = self.states[source]
        version = state.upto if self.settings.enable_delta else None
        rows = delta.read(self.spark, self.settings, state.table, version)
        return archive.with_archived(self.settings, state.table, rows)

    def before(self, source: str) -> DataFrame | None:
        """A source as it was when it was last read; None where that is not known."""
        state = self.states[source]
        if state.after is None:
            return None
        return delta.read(self.spark, self.settings, state.table, state.after)

    def new(self, source: str) -> DataFrame:
        """Rows that were added to an append-only source since it was last read."""
        state = self.states[source]
        if self.full or state.after is None:
            return self.all(source)
        if not state.changed:
            return self.all(source).limit(0)
        return delta.read_inserts(self.spark, self.settings, state.table, state.after, state.upto)

    def days(self, source: str) -> set[date] | None:
        """Days of a source that changed since it was last read, and those to compute again that it or the table
        has; None for all (full refresh)."""
        return None if self.full else self.changed_days(source)

    def changed_days(self, source: str) -> set[date]:
        """`days` of a refresh that is not full."""
        days: set[date] = set()
        state = self.states[source]
        if state.changes:
            days |= {date.fromisoformat(day) for day in state.changes.partitions if day}
        if self.settings.has_days:
            there = archive.days(self.settings, state.table) | archive.days(self.settings, self.table)
            days |= {day for day in there if self.settings.asks_for(day)}
        return days

    def current(self) -> DataFrame:
        """The table itself, archived rows too."""
        return archive.with_archived(self.settings, self.table, delta.read(self.spark, self.settings, self.table))

    @cached_property
    def consumed(self) -> list[delta.Consumed]:
        """How far this refresh reads each source that has something new."""
        return [
            delta.Consumed(state.app_id, state.upto)
            for state in self.states.values()
            if state.changed and state.upto > (-1 if state.after is None else state.after)
        ]


def live_rows(inputs: Inputs) -> DataFrame | None:
    """The table's rows to compare with; None where it is made anew."""
    return None if inputs.full else inputs.current()


def source_states(settings: Settings, table: Table) -> dict[str, SourceState]:
    """How far a table has read each source, from the Delta logs."""
    target = delta.open_table(delta.table_path(settings, table)) if settings.enable_delta else None
    states = {}
    for name in table.sources:
        source = tables.get(settings, name)
        if not settings.enable_delta:
            states[name] = SourceState(source, "", None, 0, None)
            continue
        path = delta.table_path(settings, source)
        opened = delta.open_table(path)
        if opened is None:
            continue
        app_id, upto = delta.source_id(opened), opened.version()
        after = delta.watermark(target, app_id)
        seen = None if after is None else delta.changes(path, after, upto)
        states[name] = SourceState(source, app_id, after, upto, seen)
    return states


def first_of(df: DataFrame, keys: list[str], order: list[str], prefer: str | None) -> DataFrame:
    """Rank rows of one key: by ``order``, then by content hash; ``prefer`` wins a tie of both.

    Adds ``_rank int`` (1 is the winner) and, with ``prefer``, ``_replaces boolean`` (one of the
    key's rows is a preferred one).
    """
    content = [name for name in df.columns if name not in ("_old", "_part", "_copies")]
    ties = [content_hash(df, content)] + ([F.col(prefer).desc()] if prefer else [])
    same = Window.partitionBy(*keys)
    ranked = df.withColumn("_rank", F.row_number().over(same.orderBy(*order, *ties)))
    replaces = F.max(F.col(prefer)).over(same) if prefer else F.lit(False)
    return ranked.withColumn("_replaces", replaces)


def content_hash(df: DataFrame, names: Iterable[str]) -> Column:
    """64-bit hash of some columns in which a null differs from no value."""
    names = sorted(names)
    nulls = F.concat(*(F.col(f"`{name}`").isNull().cast("int").cast("string") for name in names))
    return F.xxhash64(nulls, *(F.col(f"`{name}`") for name in names))


def write(inputs: Inputs, outcome: Append | Upsert | Days | Difference) -> dict[str, int]:
    """Write an outcome in one commit; returns the ledger counts."""
    writers: dict[type, Callable[[Inputs, Any], dict[str, int]]] = {
        Append: _append,
        Upsert: _upsert,
        Days: _days,
        Difference: _difference,
    }
    return writers[type(outcome)](inputs, outcome)


def info(inputs: Inputs, counts: dict[str, Any], **expected: int) -> dict[str, Any]:
    """What a commit says of itself: run, sources and the ledger of its records."""
    reads = {name: state.upto for name, state in inputs.states.items()}
    return {"run_id": inputs.run_id, "sources": reads, "ledger": counts, "expected": expected}


def stamped(inputs: Inputs, df: DataFrame) -> DataFrame:
    """Rows with the run and the time."""
    return df.withColumns({"_run_id": F.lit(inputs.run_id), "_processed_at": F.current_timestamp()})


def _append(inputs: Inputs, outcome: Append) -> dict[str, int]:
    rows = settle(outcome.rows)
    count = rows.count()
    counts = _counts(records_read=count, accepted=count)
    if inputs.full:
        _replace(inputs, rows, counts, count)
    elif count:
        delta.append(stamped(inputs, rows), inputs.settings, inputs.table_now, inputs.consumed,
                     info(inputs, counts, inserted=count))  # fmt: skip
    else:
        delta.mark(inputs.settings, inputs.table_now, inputs.consumed, info(inputs, counts))
    return counts


def _upsert(inputs: Inputs, outcome: Upsert) -> dict[str, int]:
    table, key = inputs.table_now, list(inputs.table.key)
    part = table.partition_by or key[0]
    names = [name for name in outcome.rows.columns]
    new = outcome.rows.withColumns({"_old": F.lit(False), "_part": F.lit(None).cast("string")})
    if not inputs.full:
        new = settle(new)
        old = inputs.current().join(new.select(*key).distinct(), key, "left_semi").select(*names)
        new = old.withColumns({"_old": F.lit(True), "_part": F.col(part).cast("string")}).unionByName(new)
    ranked = first_of(new, key, outcome.order, prefer="_old")
    ranked = ranked.withColumn("_part", F.max("_part").over(Window.partitionBy(*key)))
    ranked = settle(ranked.where("NOT _old"))
    won, replaces = F.col("_rank") == 1, F.col("_replaces")
    tally = ranked.agg(
        F.count(F.lit(1)).alias("records_read"),
        F.count_if(won & ~replaces).alias("accepted"),
        F.count_if(won & replaces).alias("updated"),
        F.count_if(~won).alias("duplicate"),
        F.collect_set(F.when(won & replaces, F.col("_part"))).alias("parts"),
    ).first()
    assert tally is not None
    counts = _counts(**{name: tally[name] for name in COUNTS[:4]})
    winners = ranked.where(won).select(*names, replaces.alias("_replaces"))
    rows = winners.drop("_replaces")
    if inputs.full:
        _replace(inputs, rows, counts, counts["accepted"])
    elif counts["updated"]:
        archive.restore(inputs.settings, table, tally["parts"])
        action = F.when(F.col("_replaces"), "update").otherwise("insert").alias("_action")
        marked = stamped(inputs, winners).select(*table.names, action)
        delta.merge(
            inputs.spark, marked, inputs.settings, table, inputs.consumed,
            info(inputs, counts, inserted=counts["accepted"], updated=counts["updated"]),
            tally["parts"] if table.partition_by else None,
        )  # fmt: skip
    elif counts["accepted"]:
        delta.append(stamped(inputs, rows), inputs.settings, table, inputs.consumed,
                     info(inputs, counts, inserted=counts["accepted"]))  # fmt: skip
    else:
        delta.mark(inputs.settings, table, inputs.consumed, info(inputs, counts))
    return counts


def _days(inputs: Inputs, outcome: Days) -> dict[str, int]:
    if outcome.days is not None and not outcome.days:
        delta.mark(inputs.settings, inputs.table_now, inputs.consumed, info(inputs, _counts()))
        return _counts()
    rows = settle(outcome.rows)
    count = rows.count()
    counts = _counts(records_read=count, accepted=count)
    if inputs.full:
        _replace(inputs, rows, counts, count)
    else:
        archive.restore(inputs.settings, inputs.table_now, outcome.days)
        delta.overwrite(stamped(inputs, rows), inputs.settings, inputs.table_now, inputs.consumed,
                        info(inputs, counts, inserted=count), outcome.days)  # fmt: skip
    return counts


def _difference(inputs: Inputs, outcome: Difference) -> dict[str, int]:
    table, key = inputs.table_now, list(inputs.table.key)
    rows = outcome.rows
    names = rows.columns
    compared = [name for name in names if name not in ("_run_id", "_processed_at")]
    if outcome.old is None:
        rows = settle(rows)
        count = rows.count()
        counts = _tally(outcome) or _counts(records_read=count, accepted=count)
        _replace(inputs, rows, counts, count)
        return counts
    part = table.partition_by
    old_part = F.col(part) if part else F.lit(None)
    old = outcome.old.select(
        *(F.col(k).alias(f"_k_{k}") for k in key),
        content_hash(outcome.old, compared).alias("_old_hash"),
        old_part.cast("string").alias("_old_part"),
    )
    new = rows.withColumn("_new_hash", content_hash(rows, compared))
    same_key = [F.col(k) == F.col(f"_k_{k}") for k in key]
    action = (
        F.when(F.col("_old_hash").isNull(), "insert")
        .when(F.col("_new_hash").isNull(), "delete")
        .when(F.col("_old_hash") != F.col("_new_hash"), "update")
        .otherwise("same")
    )
    joined = new.join(old, same_key, "full_outer").withColumn("_action", action)
    joined = settle(joined.withColumns({k: F.coalesce(k, f"_k_{k}") for k in key}))
    by_action = {
        row["_action"]: row
        for row in joined.groupBy("_action")
        .agg(F.count(F.lit(1)).alias("n"), F.collect_set("_old_part").alias("parts"))
        .collect()
    }
    number = {name: by_action[name]["n"] if name in by_action else 0
              for name in ("insert", "update", "delete", "same")}  # fmt: skip
    counts = _tally(outcome) or _counts(
        records_read=number["insert"] + number["update"] + number["same"],
        accepted=number["insert"], updated=number["update"], unchanged=number["same"],
    )  # fmt: skip
    says = info(inputs, counts, inserted=number["insert"], updated=number["update"],
                deleted=number["delete"])  # fmt: skip
    changed = stamped(inputs, joined.where("_action <> 'same'"))
    if number["update"] or number["delete"]:
        parts = {p for a in ("update", "delete") if a in by_action for p in by_action[a]["parts"]}
        archive.restore(inputs.settings, table, parts)
        delta.merge(inputs.spark, changed.select(*table.names, "_action"), inputs.settings, table,
                    inputs.consumed, says, parts if part else None)  # fmt: skip
    elif number["insert"]:
        delta.append(changed, inputs.settings, table, inputs.consumed, says)
    else:
        delta.mark(inputs.settings, table, inputs.consumed, says)
    return counts


def _replace(inputs: Inputs, rows: DataFrame, counts: dict[str, Any], count: int) -> None:
    """Write a table whole; a table that is empty and stays so is only marked."""
    archive.restore(inputs.settings, inputs.table)
    opened = delta.open_table(delta.table_path(inputs.settings, inputs.table)) \
        if inputs.settings.enable_delta else None  # fmt: skip
    empty = opened is not None and not opened.file_uris()
    says = info(inputs, counts, inserted=count)
    if empty and not count:
        delta.mark(inputs.settings, inputs.table_now, inputs.consumed, says)
    elif empty and not inputs.reschema:
        delta.append(stamped(inputs, rows), inputs.settings, inputs.table_now, inputs.consumed, says)
    else:
        delta.overwrite(stamped(inputs, rows), inputs.settings, inputs.table_now, inputs.consumed,
                        says, reschema=inputs.reschema)  # fmt: skip


def _counts(**given: int) -> dict[str, int]:
    return dict.fromkeys(COUNTS, 0) | given


def _tally(outcome: Difference) -> dict[str, Any] | None:
    return None if outcome.tally is None else _counts(**cast("Row", outcome.tally.first()).asDict())
