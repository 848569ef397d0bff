"""The versions of a source table's rows, derived from its changes in the source's order.

The order of the changes of a row:

1. Changes with a position in the same log are sorted by position, snapshot rows before other changes at their
   position, then by time and by place in landing.
2. A change's *moment* is its time, or the latest time of an earlier change of the row in the same log: clocks can step
   back, logs cannot. A snapshot row carries the time at which it was read; its moment is at least 1 ms before the
   earliest time of any later change.
3. Changes of different logs, and those without a position, are sorted by their moments; at the same moment those
   without a position come first.
4. Of a change that is delivered again, with the same content, position and time, the first copy counts.

So the result depends on the set of changes and not on when they arrive; only if everything else is equal, path and line
of the file decide. Rows are rebuilt from all changes of the keys that new changes affect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import Column, Window
from pyspark.sql import functions as F

from lakehouse_lib.engines.session import settle
from lakehouse_lib.errors import TableError
from lakehouse_lib.intake.envelopes import ABSENT, OTHERS
from lakehouse_lib.layers import cdc
from lakehouse_lib.layers.inputs import Inputs

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SOURCE = "cdc_changes_bronze"
REMOVALS = ("DELETE", "TRUNCATE")
_PLACE = ("_source_file", "_source_line")
_TRUNCATES = "operation_type = 'TRUNCATE'"
_KEPT = ("operation_type", "change_timestamp", "_source_file", "_source_line")


@dataclass(frozen=True)
class Versions:
    """Versions of the rows that new changes affect, and the counts of those changes."""

    rows: DataFrame
    """``_key string`` (JSON), ``_n bigint`` (number in the order), ``operation_type``, ``change_timestamp``, ``_moment
    bigint`` (microseconds), ``_row map<string,string>`` (as `envelopes.coded`; null if the row is deleted), and the
    file and line of the change."""
    changes: DataFrame
    """The changes of these rows, each once: ``_after``, ``_before``, ``_types`` and the key."""
    keys: DataFrame | None
    """``_key`` of these rows; None for all rows of the table."""
    counts: DataFrame
    """One row: ``records_read``, ``accepted``, ``duplicate`` and ``quarantined`` of the new changes."""


def of(inputs: Inputs, source_table: str, keys: list[str], whole: bool = False) -> Versions:
    """Return the versions of the rows of a source table that new changes affect; of all rows if ``whole`` or in a
    full refresh.

    Raises
    ------
    TableError
        Several databases have a table of this name.
    """
    changes = _of_table(_tagged(inputs), source_table, keys, inputs.settings.cdc.absent)
    partial = F.size("_unchanged") > 0
    move = F.when(F.col("_prior").isNotNull() & partial, F.struct("_prior", "_key"))
    about = changes.agg(
        F.collect_set("source_database").alias("databases"),
        F.collect_set(move).alias("moves"),
        F.max(partial).alias("partial"),
        F.max(F.col("_is_new") & F.expr(_TRUNCATES)).alias("truncated"),
    ).first()
    assert about is not None
    _check_one_table(source_table, sorted(about["databases"]))
    grouped = _grouped(changes, _linked_keys(about["moves"]))
    touched = None
    if not (inputs.full or whole or about["truncated"]):
        touched = _keys(grouped.where("_is_new")).select("_group").distinct().withColumn("_touched", F.lit(True))
        without_row = F.expr(_TRUNCATES) | (F.col("_group").isNull() & F.col("_is_new"))
        grouped = grouped.join(touched, "_group", "left").where(F.col("_touched") | without_row).drop("_touched")
    unique = settle(_each_once(grouped))
    ordered = _in_order(unique.where("_group IS NOT NULL"), unique.where(_TRUNCATES))
    if about["partial"]:
        both = F.when(F.size("_unchanged") > 0, F.coalesce("_after", "_before")).otherwise(F.col("_after"))
        rows = settle(_versions(ordered), alike=_whole_rows(ordered.withColumn("_after", both)))
    else:
        rows = settle(_whole_rows(ordered))
    return Versions(rows, unique, None if touched is None else _keys(unique), _counted(unique))


def _tagged(inputs: Inputs) -> DataFrame:
    """Return all changes, and whether they are new to the table (``_is_new``)."""
    new = inputs.new(SOURCE)
    if inputs.full or inputs.states[SOURCE].after is None:
        return new.withColumn("_is_new", F.lit(True))
    marked = new.select(*_PLACE, F.lit(True).alias("_is_new"))
    every = inputs.all(SOURCE).join(marked, list(_PLACE), "left")
    return every.withColumn("_is_new", F.coalesce("_is_new", F.lit(False)))


def _keys(changes: DataFrame) -> DataFrame:
    """Return ``_key`` and ``_group`` of the changed rows, including keys that rows had before."""
    each = changes.select("_group", F.explode(F.array("_key", "_prior")).alias("_key"))
    return each.where("_key IS NOT NULL").distinct()


def _of_table(changes: DataFrame, source_table: str, keys: list[str], absent: str) -> DataFrame:
    """Return the valid changes of one table, with the key of the row. A change of the key becomes a delete of the old
    key and an insert of the new one; a partial one stays a single change that also carries the previous key."""
    valid = changes.where(cdc.of_table(source_table) & (F.size("_quality_flags") == 0))
    keyed = valid.withColumns({"_old": cdc.key_of(keys, "_before"), "_new": cdc.key_of(keys, "_after", "_before")})
    old, new = F.col("_old"), F.col("_new")
    operation = F.col("operation_type")
    moved = (operation == "UPDATE") & (old != new)
    unchanged = F.coalesce("_unchanged", F.array().cast("array<string>"))
    unchanged = (
        F.array_remove(unchanged, ABSENT)
        if absent == "null"
        else F.transform(unchanged, lambda name: F.when(name == ABSENT, OTHERS).otherwise(name))
    )
    partial = F.size(unchanged) > 0
    step: Callable[[int, Column, Column, Column], Column] = lambda number, key, prior, op: F.struct(  # noqa: E731
        F.lit(number).alias("_step"), key.alias("_key"), prior.alias("_prior"), op.alias("operation_type")
    )
    nothing = F.lit(None).cast("string")
    key = F.when(operation == "DELETE", F.coalesce(old, new)).when(operation != "TRUNCATE", new)
    steps = F.when(
        moved & ~partial, F.array(step(0, old, nothing, F.lit("DELETE")), step(1, new, nothing, F.lit("INSERT")))
    ).otherwise(F.array(step(1, key, F.when(moved, old), operation)))
    return keyed.select(
        "_is_new", "source_database", "change_timestamp", "_log", "_position", "_snapshot", "_before", "_after",
        "_types", *_PLACE, unchanged.alias("_unchanged"), F.explode(steps).alias("_change"),
        F.xxhash64("operation_type", "cdc_id", *(F.coalesce(name, F.lit("")) for name in (
            "before_values", "after_values", "primary_key", F.to_json("_unchanged")))).alias("_content"),
    ).select("*", "_change.*").drop("_change")  # fmt: skip


def _check_one_table(source_table: str, databases: list[str]) -> None:
    if len(databases) > 1 and not source_table.startswith("*."):
        name = source_table.rsplit(".", 1)[-1]
        raise TableError(
            f"{source_table} is a table of several databases: {', '.join(databases)}. Name one in the parameters, "
            f"for example source_table: {databases[0]}.{name}, or *.{name} for all of them together."
        )


def _linked_keys(moves: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return, for each key that a partial change moved a row from or to, the smallest key that it is linked with."""
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while parents.setdefault(key, key) != key:
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    for old, new in moves:
        smaller, larger = sorted((root(old), root(new)))
        parents[larger] = smaller
    return {key: root(key) for key in parents}


def _grouped(changes: DataFrame, roots: dict[str, str]) -> DataFrame:
    """Add ``_group``: the key, or one key that stands for all keys that a row had over time."""
    if not roots:
        return changes.withColumn("_group", F.col("_key"))
    linked = changes.sparkSession.createDataFrame(list(roots.items()), "_linked string, _root string")
    joined = changes.join(F.broadcast(linked), F.col("_key") == F.col("_linked"), "left")
    return joined.withColumn("_group", F.coalesce("_root", "_key")).drop("_linked", "_root")


def _each_once(changes: DataFrame) -> DataFrame:
    """Keep one copy of redelivered changes: same content at the same position of the log, or at the same time if there
    is no position.

    Adds ``_copies`` (the number of new copies) and ``_known`` (whether any copy is not new).
    """
    same = Window.partitionBy(
        "_log", "_position", "_snapshot", "change_timestamp", "_content", "_key", "_prior", "_step"
    )
    first = same.orderBy(*_PLACE)
    counted = changes.withColumns(
        {
            "_rank": F.row_number().over(first),
            "_copies": F.count_if("_is_new").over(same),
            "_known": F.count_if(~F.col("_is_new")).over(same) > 0,
        }
    )
    return counted.where("_rank = 1").drop("_rank", "_is_new")


def _counted(unique: DataFrame) -> DataFrame:
    lost = F.col("_key").isNull() & ~F.expr(_TRUNCATES)
    total: Callable[[Column | str], Column] = lambda column: F.coalesce(F.sum(column), F.lit(0))  # noqa: E731
    return unique.where("_step = 1").agg(
        total("_copies").alias("records_read"), total(F.when(lost, F.col("_copies"))).alias("quarantined"),
        F.count_if((F.col("_copies") > 0) & ~F.col("_known") & ~lost).alias("accepted"),
    ).select("records_read", "accepted", (F.col("records_read") - F.col("accepted") - F.col("quarantined"))
             .alias("duplicate"), "quarantined", F.lit("missing_key").alias("reason"))  # fmt: skip


def _in_order(changes: DataFrame, truncates: DataFrame) -> DataFrame:
    """Add ``_moment`` and ``_n``, the number in the order, to the changes and truncations of each group."""
    groups = changes.select("_group", F.col("source_database").alias("_of")).distinct()
    same = F.col("source_database").eqNullSafe(F.col("_of"))
    merged = changes.unionByName(truncates.drop("_group").join(groups, same).drop("_of"))
    place = [F.col("_snapshot").desc(), *map(F.col, ("change_timestamp", *_PLACE, "_step"))]
    log = Window.partitionBy("_group", "_log").orderBy("_position", *place)
    change_time = F.unix_micros("change_timestamp")
    following = F.min(F.when(~F.col("_snapshot"), change_time)).over(
        log.rowsBetween(Window.currentRow, Window.unboundedFollowing)
    )
    has_place = F.col("_log").isNotNull()
    time = F.when(has_place & F.col("_snapshot"), F.least(change_time, following - 1000)).otherwise(change_time)
    timed = merged.withColumn("_time", time)
    latest = F.max("_time").over(log.rowsBetween(Window.unboundedPreceding, Window.currentRow))
    timed = timed.withColumn("_moment", F.when(has_place, latest).otherwise(change_time))
    whole = Window.partitionBy("_group").orderBy("_moment", has_place, "_log", "_position", *place)
    return timed.withColumn("_n", F.row_number().over(whole).cast("bigint"))


def _versions(ordered: DataFrame) -> DataFrame:
    """Return the version that each change produces, including the values that it leaves unchanged."""
    is_partial = F.max(F.size("_unchanged") > 0).over(Window.partitionBy("_group"))
    ordered = ordered.withColumn("_partial", is_partial)
    change = F.struct("_n", "_moment", *_KEPT, "_key", "_prior", "_unchanged", "_after", _sent().alias("_sent"))
    in_order = F.array_sort(F.collect_list(change), lambda a, b: (a["_n"] - b["_n"]).cast("int"))
    folded = ordered.where("_partial").groupBy("_group").agg(in_order.alias("_changes"))
    versions = F.aggregate("_changes", _initial_state(), _after_change, lambda state: state["versions"])
    folded = folded.select(F.explode(versions).alias("_version")).select("_version.*")
    return _whole_rows(ordered.where(~F.col("_partial"))).unionByName(folded)


def _whole_rows(ordered: DataFrame) -> DataFrame:
    """Return the versions that changes with complete rows produce. The key is the group's, as a truncation has none."""
    row = F.when(~F.col("operation_type").isin(*REMOVALS), F.col("_after"))
    return ordered.select(F.col("_group").alias("_key"), "_n", "_moment", *_KEPT, row.alias("_row"))


_ROWS = "map<string,map<string,string>>"
_VERSIONS = (
    "array<struct<_key:string,operation_type:string,_row:map<string,string>,_n:bigint,_moment:bigint,"
    "change_timestamp:timestamp,_source_file:string,_source_line:bigint>>"
)


def _initial_state() -> Column:
    """Return the state before any change: no rows by key, and no versions."""
    return F.struct(F.create_map().cast(_ROWS).alias("rows"), F.array().cast(_VERSIONS).alias("versions"))


def _sent() -> Column:
    """Return the unchanged values that a change carries in its row before: they fill gaps in the previous row."""
    after = F.coalesce("_after", F.create_map().cast(cdc.MAP))
    return F.map_filter("_before", lambda name, _: _stays(F.col("_unchanged"), name) & ~F.map_contains_key(after, name))


def _stays(unchanged: Column, name: Column) -> Column:
    """Return whether a change leaves a column unchanged."""
    return F.array_contains(unchanged, F.lit(OTHERS)) | F.array_contains(unchanged, name)


def _after_change(state: Column, change: Column) -> Column:
    """Return the state after a change: the rows by key, and one more version."""
    result = F.when(
        ~change["operation_type"].isin(*REMOVALS),
        F.when(F.size(change["_unchanged"]) > 0, _partial(state["rows"], change)).otherwise(change["_after"]),
    )
    # An expression that is used twice is computed twice and doubles the plan, so the row is bound to a name.
    return F.get(F.transform(F.array(result), lambda row: _with_row(state, change, row)), F.lit(0))


def _partial(rows: Column, change: Column) -> Column:
    """Return the row after a change that leaves columns unchanged."""
    empty = F.create_map().cast(cdc.MAP)
    before = F.coalesce(rows[F.coalesce(change["_prior"], change["_key"])], empty)
    after, sent = (F.coalesce(change[name], empty) for name in ("_after", "_sent"))
    stays = F.map_filter(before, lambda name, _: _stays(change["_unchanged"], name) & ~F.map_contains_key(after, name))
    return F.map_concat(F.map_filter(sent, lambda name, _: ~F.map_contains_key(before, name)), stays, after)


def _with_row(state: Column, change: Column, row: Column) -> Column:
    """Return the state after a change that results in ``row``; null if the row is deleted."""
    rows, operation = state["rows"], change["operation_type"]
    key, prior = change["_key"], change["_prior"]
    others = F.map_filter(rows, lambda name, _: (name != key) & ~name.eqNullSafe(prior))
    now = F.when(row.isNull(), others).otherwise(F.map_concat(others, F.create_map(key, row)))
    version: Callable[[Column, Column, Column], Column] = lambda k, op, row: F.struct(  # noqa: E731
        k.alias("_key"), op.alias("operation_type"), row.alias("_row"),
        *(change[name].alias(name) for name in ("_n", "_moment", *_KEPT[1:])),
    )  # fmt: skip
    nothing = F.lit(None).cast(cdc.MAP)
    changed = F.array(version(key, operation, row))
    moved = F.array(version(prior, F.lit("DELETE"), nothing), version(key, F.lit("INSERT"), row))
    cleared = F.transform(F.map_keys(rows), lambda name: version(name, operation, nothing))
    added = F.when(operation == "TRUNCATE", cleared).when(prior.isNotNull(), moved).otherwise(changed)
    return F.struct(
        F.when(operation == "TRUNCATE", F.create_map().cast(_ROWS)).otherwise(now).alias("rows"),
        F.concat(state["versions"], added).alias("versions"),
    )
