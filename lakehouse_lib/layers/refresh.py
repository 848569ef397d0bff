"""Write what a transformation returns: one of `Append`, `Upsert`, `Days` or `Difference`.

Each is described as a `Write` and committed in one place, together with how far the sources were read and the counts
of the records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any, cast

from pyspark.sql import Window
from pyspark.sql import functions as F

from lakehouse_lib.config import Settings
from lakehouse_lib.engines.session import settle
from lakehouse_lib.layers import loading
from lakehouse_lib.layers.inputs import Inputs, live_rows
from lakehouse_lib.model.ops import COUNTS
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import archive, commits, delta

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, Row


@dataclass(frozen=True)
class Append:
    """Rows to add as they are."""

    rows: DataFrame


@dataclass(frozen=True)
class Upsert:
    """Records of which one per key is kept: the first by ``order``, then by content hash."""

    rows: DataFrame
    order: list[str]

    def ranked(self, rows: DataFrame, key: list[str], many: bool) -> DataFrame:
        """Return records with their rank among those of their key; if all else is equal, a row of the table wins."""
        return first_of(rows, key, self.order, prefer="_old", many=many)


@dataclass(frozen=True)
class Days:
    """All rows of some days (None: of all days), which replace the existing rows."""

    rows: DataFrame
    days: set[date] | None


@dataclass(frozen=True)
class Difference:
    """Rows that replace ``old`` (None: the whole table).

    Only rows that differ are written. ``tally`` is a one-row frame of ledger counts for cases in which rows are not
    records. ``table`` is the declaration with the columns that the data needs if they are not known beforehand: the
    table gets them before ``old`` is evaluated; with ``reschema`` it is rewritten with their types.
    """

    rows: DataFrame
    old: DataFrame | Callable[[], DataFrame] | None = None
    tally: DataFrame | None = None
    table: Table | None = None
    reschema: bool = False


Outcome = Append | Upsert | Days | Difference


def first_of(df: DataFrame, keys: list[str], order: list[str], prefer: str | None, many: bool = False) -> DataFrame:
    """Rank rows of one key: by ``order``, then by content hash; ``prefer`` wins a tie of both.

    Adds ``_rank int`` (1 is the winner) and, with ``prefer``, ``_replaces boolean`` (one of the
    key's rows is a preferred one). For ``many`` rows, those whose key occurs once are found first and not sorted.
    """
    if many:
        marked = df.withColumn("_mark", F.xxhash64(*keys))
        repeated = marked.groupBy("_mark").agg(F.count(F.lit(1)).alias("_n")).where("_n > 1").select("_mark")
        single = marked.join(repeated, "_mark", "left_anti").drop("_mark")
        single = single.withColumns({"_rank": F.lit(1), "_replaces": F.col(prefer) if prefer else F.lit(False)})
        several = marked.join(repeated, "_mark", "left_semi").drop("_mark")
        return single.unionByName(first_of(several, keys, order, prefer))
    content = [name for name in df.columns if name not in ("_old", "_part", "_copies")]
    ties = [content_hash(df, content)] + ([F.col(prefer).desc()] if prefer else [])
    same = Window.partitionBy(*keys)
    ranked = df.withColumn("_rank", F.row_number().over(same.orderBy(*order, *ties)))
    replaces = F.max(F.col(prefer)).over(same) if prefer else F.lit(False)
    return ranked.withColumn("_replaces", replaces)


def held(rows: DataFrame, wanted: DataFrame, key: list[str], part: str) -> DataFrame:
    """Return the rows of a table with the keys of ``wanted``, which also has the partition column, so that only those
    partitions are read. Without a partition column (``""``) the whole table is read."""
    if not part:
        return rows.join(wanted, key, "left_semi")
    wanted = settle(wanted)
    parts = [row[part] for row in wanted.select(part).distinct().collect() if row[part] is not None]
    near = rows.where(F.col(part).isin(parts) | F.col(part).isNull())
    return near.join(wanted.select(*key), key, "left_semi")


def content_hash(df: DataFrame, names: Iterable[str]) -> Column:
    """Return a 64-bit hash of some columns, which also depends on which of them are null."""
    names = sorted(names)
    nulls = F.concat(*(F.col(f"`{name}`").isNull().cast("int").cast("string") for name in names))
    return F.xxhash64(nulls, *(F.col(f"`{name}`") for name in names))


@dataclass(frozen=True)
class Write:
    """The changes of one commit to a table."""

    counts: dict[str, int]
    """Counts of the records, by `ops.COUNTS`."""
    rows: DataFrame | None = None
    """Rows to add; with ``_action`` (insert, update, delete) if some replace or delete others."""
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    parts: frozenset[str] = frozenset()
    """Partitions of the updated and deleted rows."""
    days: set[date] | None = None
    """Partitions that the rows replace."""
    whole: bool = False
    """Whether the rows replace the table."""
    again: bool = False
    """Whether the counts include records that the ledger has counted before."""


def transformed(inputs: Inputs) -> Outcome:
    """Run the transformation of a table; a plain DataFrame means the whole table."""
    outcome = loading.transformation(inputs.table)(inputs)
    if isinstance(outcome, (Append, Upsert, Days, Difference)):
        return outcome
    return Difference(outcome, live_rows(inputs))


def described(inputs: Inputs, outcome: Outcome) -> Write:
    """Describe the commit that an outcome asks for."""
    describe: dict[type, Callable[[Inputs, Any], Write]] = {
        Append: _append,
        Upsert: _upsert,
        Days: _days,
        Difference: _difference,
    }
    return describe[type(outcome)](inputs, outcome)


def rows_of(outcome: Outcome, key: list[str]) -> DataFrame:
    """Return the rows of a full refresh, without counting or writing any."""
    if not isinstance(outcome, Upsert):
        return outcome.rows
    ranked = outcome.ranked(outcome.rows.withColumn("_old", F.lit(False)), key, many=True)
    return ranked.where("_rank = 1").select(*outcome.rows.columns)


def write(inputs: Inputs, outcome: Outcome) -> dict[str, int]:
    """Write an outcome in one commit; returns the ledger counts."""
    table, reschema = inputs.table, False
    if isinstance(outcome, Difference) and outcome.table:
        table, reschema = outcome.table, outcome.reschema
        if not reschema:
            delta.ensure(inputs.lakehouse, table)
    planned = described(inputs, outcome)
    of_records = isinstance(outcome, (Append, Upsert)) or (
        isinstance(outcome, Difference) and outcome.tally is not None
    )
    planned = replace(planned, again=of_records and planned.whole and not inputs.lakehouse.full)
    reschema = reschema or (planned.whole and not delta.fits(inputs.lakehouse, table))
    if planned.whole and not reschema and _is_comparable(inputs, table):
        planned = _only_others(inputs, planned)
    _commit(inputs, table, planned, reschema)
    return planned.counts


def _is_comparable(inputs: Inputs, table: Table) -> bool:
    """Return whether a rebuild can write only the rows that differ: the key identifies them, and ``full`` is not
    set."""
    required = {column.name for column in table.columns if column.required}
    has_key = bool(table.key) and required.issuperset(table.key)
    settings = inputs.lakehouse
    return has_key and settings.enable_delta and not settings.full and not is_empty(settings, table)


def _only_others(inputs: Inputs, rebuild: Write) -> Write:
    """Reduce a rebuild to the rows that differ from those of the table."""
    assert rebuild.rows is not None, "what is written has rows"
    rows, counts = rebuild.rows.drop("_action"), rebuild.counts if rebuild.again else None
    return replace(_difference_of(inputs, rows, inputs.current(), counts), again=rebuild.again)


def _commit(inputs: Inputs, table: Table, planned: Write, reschema: bool) -> None:
    """Write rows and the commit's metadata; archived rows that are replaced are restored first."""
    settings, (marks, sealed) = inputs.lakehouse, inputs.seal
    consumed = [*inputs.consumed, *marks]
    reads = {name: state.upto for name, state in inputs.states.items()}
    expected = {"inserted": planned.inserted, "updated": planned.updated, "deleted": planned.deleted}
    metadata = {"run_id": inputs.run_id, "sources": reads, "ledger": planned.counts, "expected": expected} | sealed
    metadata |= {"again": True} if planned.again else {}
    if planned.whole:
        archive.restore(settings, table)
        if not is_empty(settings, table) or (reschema and planned.inserted):
            commits.overwrite(stamped(inputs, planned.rows), settings, table, consumed, metadata, None, reschema)
            return
    elif planned.updated or planned.deleted:
        archive.restore(settings, table, planned.parts)
        rows = stamped(inputs, planned.rows).select(*table.names, "_action")
        commits.merge(rows, settings, table, consumed, metadata, planned.parts)
        return
    elif planned.days:
        archive.restore(settings, table, planned.days)
        commits.overwrite(stamped(inputs, planned.rows), settings, table, consumed, metadata, planned.days)
        return
    if planned.inserted:
        commits.append(stamped(inputs, planned.rows), settings, table, consumed, metadata)
    else:
        commits.mark(settings, table, consumed, metadata)


def is_empty(settings: Settings, table: Table) -> bool:
    """Return whether a Delta table has no rows, so that there is nothing to replace."""
    opened = delta.opened(settings, table)
    return opened is not None and not opened.file_uris()


def stamped(inputs: Inputs, rows: DataFrame | None) -> DataFrame:
    """Add the run id and the time to the rows of a write."""
    assert rows is not None, "what is written has rows"
    return rows.withColumns({"_run_id": F.lit(inputs.run_id), "_processed_at": F.current_timestamp()})


def _added(rows: DataFrame, counts: dict[str, int] | None, days: set[date] | None, whole: bool) -> Write:
    """Describe added rows; each row is one record unless ``counts`` is given."""
    rows = settle(rows)
    count = rows.count()
    return Write(counts or _counts(records_read=count, accepted=count), rows, inserted=count, days=days, whole=whole)


def _append(inputs: Inputs, outcome: Append) -> Write:
    return _added(outcome.rows, None, None, inputs.full)


def _days(inputs: Inputs, outcome: Days) -> Write:
    if outcome.days is not None and not outcome.days:
        return Write(_counts())
    return _added(outcome.rows, None, outcome.days, inputs.full or outcome.days is None)


def _upsert(inputs: Inputs, outcome: Upsert) -> Write:
    ranked = _ranked(inputs, outcome)
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
    action = F.when(replaces, "update").otherwise("insert").alias("_action")
    rows = ranked.where(won).select(*outcome.rows.columns, action)
    parts = frozenset(tally["parts"])
    return Write(counts, rows, counts["accepted"], counts["updated"], parts=parts, whole=inputs.full)


def _ranked(inputs: Inputs, outcome: Upsert) -> DataFrame:
    """Rank new records among those with the same key, and mark winners that replace a row of the table."""
    key, names = list(inputs.table.key), outcome.rows.columns
    new = outcome.rows.withColumns({"_old": F.lit(False), "_part": F.lit(None).cast("string")})
    if inputs.full:
        return settle(outcome.ranked(new, key, many=True))
    new = settle(new)
    current, part = inputs.current(), inputs.table.partition_by or key[0]
    same = current.select(*dict.fromkeys([*key, part])).join(new.select(*key).distinct(), key, "left_semi")
    old = held(current, same, key, inputs.table.partition_by).select(*names)
    old = old.withColumns({"_old": F.lit(True), "_part": F.col(part).cast("string")})
    ranked = outcome.ranked(old.unionByName(new), key, many=False)
    ranked = ranked.withColumn("_part", F.max("_part").over(Window.partitionBy(*key)))
    return settle(ranked.where("NOT _old"))


def _difference(inputs: Inputs, outcome: Difference) -> Write:
    counts = None if outcome.tally is None else _counts(**cast("Row", outcome.tally.first()).asDict())
    if outcome.old is None:
        return _added(outcome.rows, counts, None, whole=True)
    old = outcome.old() if callable(outcome.old) else outcome.old
    return _difference_of(inputs, outcome.rows, old, counts)


def _difference_of(inputs: Inputs, rows: DataFrame, old: DataFrame, counts: dict[str, int] | None) -> Write:
    """Describe the changes that turn ``old`` into ``rows``."""
    compared = settle(_compared(rows, old, inputs.table))
    summed = compared.groupBy("_action").agg(F.count(F.lit(1)).alias("n"), F.collect_set("_old_part").alias("parts"))
    by_action = {row["_action"]: row for row in summed.collect()}
    inserted, updated, deleted, same = (
        by_action[name]["n"] if name in by_action else 0 for name in ("insert", "update", "delete", "same")
    )
    counts = counts or _counts(
        records_read=inserted + updated + same, accepted=inserted, updated=updated, unchanged=same
    )
    parts = frozenset(part for name in ("update", "delete") if name in by_action for part in by_action[name]["parts"])
    changed = compared.where("_action <> 'same'").select(*rows.columns, "_action")
    return Write(counts, changed, inserted, updated, deleted, parts)


def _compared(rows: DataFrame, old: DataFrame, table: Table) -> DataFrame:
    """Join new and old rows by key, with the action (``_action``) and the old row's partition (``_old_part``)."""
    key, part = list(table.key), table.partition_by
    # Engines differ in the types of results, and a hash depends on the type.
    plain = {name: kind for name, kind in table.types.items() if name in rows.columns and "<" not in kind}
    rows = rows.withColumns({name: F.col(f"`{name}`").cast(kind) for name, kind in plain.items()})
    content = [name for name in rows.columns if name not in ("_run_id", "_processed_at")]
    before = old.select(
        *(F.col(k).alias(f"_k_{k}") for k in key),
        content_hash(old, content).alias("_old_hash"),
        (F.col(part) if part else F.lit(None)).cast("string").alias("_old_part"),
    )
    after = rows.withColumn("_new_hash", content_hash(rows, content))
    action = (
        F.when(F.col("_old_hash").isNull(), "insert")
        .when(F.col("_new_hash").isNull(), "delete")
        .when(F.col("_old_hash") != F.col("_new_hash"), "update")
        .otherwise("same")
    )
    joined = after.join(before, [F.col(k) == F.col(f"_k_{k}") for k in key], "full_outer")
    return joined.withColumn("_action", action).withColumns({k: F.coalesce(k, f"_k_{k}") for k in key})


def _counts(**counts: int) -> dict[str, int]:
    return dict.fromkeys(COUNTS, 0) | counts
