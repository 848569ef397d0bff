"""Quarantine: the rejected records and their reasons, and their replay once the cause is fixed.

A rejected record is a flagged row of its bronze table, and a row of ``quarantine/<table>`` that is made from it.
Replay reads the flagged records again, with the current mapping, checks and code, and swaps the rows whose result
differs into bronze in one commit; everything else follows from bronze. A replay that is killed has therefore happened
completely or not at all, and a second one finds nothing to do.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable
from pyspark.sql import functions as F

from lakehouse_lib.config import Settings, command, new_run_id
from lakehouse_lib.engines import session
from lakehouse_lib.engines.session import settle
from lakehouse_lib.errors import ConfigError, LockedError, TableError
from lakehouse_lib.flow import pipeline, selection
from lakehouse_lib.flow.lock import locked
from lakehouse_lib.intake import formats, landing
from lakehouse_lib.intake.records import ROWS
from lakehouse_lib.layers import fingerprints, loading, staging
from lakehouse_lib.layers.bronze import field_names
from lakehouse_lib.layers.fingerprints import Book
from lakehouse_lib.model import tables
from lakehouse_lib.model.messages import CHANGES_OF_A_MESSAGE
from lakehouse_lib.model.ops import COUNTS
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import commits, delta, reader

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_PLACE = f"_source_line DIV {CHANGES_OF_A_MESSAGE}"
"""Line in the file; the remainder of ``_source_line`` numbers the changes of one message."""


def summary(settings: Settings, name: str = "", reason: str = "") -> pd.DataFrame:
    """Rejected records by table and reason, with an example; optionally of one table or with one flag only.

    Raises
    ------
    ConfigError
        The table has no quarantine.
    """
    table = _bronze(settings, name).name if name else ""
    rejected = reader.query(
        settings,
        """
        SELECT table_name, explanation AS reason, array_to_string(any_value(reasons), ', ') AS flags,
               count(*) AS records, max(landed_date) AS last_landed, min(record) AS example
        FROM quarantine GROUP BY table_name, explanation ORDER BY records DESC, table_name, reason
    """,
    )
    of_table = rejected.table_name.isin([table] if table else rejected.table_name.unique())
    return rejected[of_table & rejected["flags"].map(lambda flags: not reason or reason in flags.split(", "))]


def replay(settings: Settings, name: str, reason: str = "", progress: Callable[[str], None] = print) -> dict[str, int]:
    """Process the rejected records of a bronze table again, and refresh the tables made from it.

    ``reason`` limits the replay to records with this flag. Returns ``{"passed", "rejected"}``: how many records
    pass now, and how many are rejected for a different reason than before.

    Raises
    ------
    ConfigError
        The table has no quarantine, or no record has the flag.
    TableError
        The table does not exist yet.
    """
    table = _bronze(settings, name)
    delta.made(settings, table, "no record of it waits in quarantine")
    with locked(settings):
        run_id = settings.run_id or new_run_id()
        counts = _swap(settings, table, reason, run_id)
        downstream_settings = settings.model_copy(
            update={"run_id": run_id, "tables": ",".join(_downstream(settings, table))}
        )
        progress(
            f"{table.name}: {counts['passed']:,} records pass now, {counts['rejected']:,} fail for a different reason"
        )
        pipeline.run(downstream_settings, progress=progress).check()
    return counts


def apply(settings: Settings, name: str = "", check: str = "", progress: Callable[[str], None] = print) -> None:
    """Set aside the accepted records that fail a check of severity quarantine which is new or has changed, and refresh
    the tables made from them. This is the rebuild that the next run would do, of bronze tables of which nothing but
    checks has changed; records that a check no longer rejects are accepted.

    ``name`` limits it to a table; ``check`` to tables in which only this check has changed.

    Raises
    ------
    ConfigError
        The table has no quarantine or no such check, or more has changed than that.
    TableError
        The landing files of a table are no longer there, so that it cannot be rebuilt.
    """
    tables_of_run = [_bronze(settings, name)] if name else [
        table for table in tables.declared(settings).values() if table.layer == "bronze"
    ]  # fmt: skip
    known = [name for table in tables_of_run for name in tables.record_checks(table)]
    if check and check not in known:
        raise ConfigError(f"there is no check {check!r} of severity quarantine; there are {', '.join(known) or 'none'}")
    with locked(settings):
        book, chosen = Book(settings), list[str]()
        for table in tables_of_run:
            changes = book.changes(table)
            wanted = [change for change in changes if change.check and check in ("", change.check)]
            if not wanted:
                continue
            if others := [str(change) for change in changes if change not in wanted]:
                raise ConfigError(
                    f"{table.name}: more has changed than that, {', '.join(others)}. To rebuild it by all of it: "
                    f"{command(f'run --tables {table.name}')}"
                )
            if obstacle := fingerprints.obstacle(settings, table):
                raise TableError(
                    f"{table.name} cannot be rebuilt, because {obstacle}. Nothing was changed; new records are checked."
                )
            chosen += _downstream(settings, table)
        if not chosen:
            progress("Nothing to do: no check of severity quarantine has changed since the tables were made.")
            return
        again = settings.model_copy(update={"tables": ",".join(dict.fromkeys(chosen)), "confirm": True})
        pipeline.run(again, progress=progress).check()


def _bronze(settings: Settings, name: str) -> Table:
    bare = name.removesuffix("_quarantine").removesuffix("_bronze")
    known = {t.name: t for t in tables.declared(settings).values() if t.layer == "bronze"}
    if f"{bare}_bronze" not in known:
        raise ConfigError(f"{name} has no quarantine; these have one: {', '.join(known)}")
    return known[f"{bare}_bronze"]


def _downstream(settings: Settings, table: Table) -> list[str]:
    """The table and everything made from it, among the tables of a run."""
    names = [table.name]
    for target in selection.selected(settings):
        if target.name not in names and set(target.sources) & set(names):
            names.append(target.name)
    return names


def _swap(settings: Settings, table: Table, reason: str, run_id: str) -> dict[str, int]:
    """Swap the records whose result differs now; planned again if another replay or load committed first, such as
    one whose process was killed while the engine went on."""
    for attempt in range(loading.OVERTAKEN):
        delta_table = delta.opened(settings, table)
        if delta_table is None:
            return {"passed": 0, "rejected": 0}
        try:
            with session.opened(settings) as spark:
                counts = _swapped(spark, settings, table, delta_table, reason, run_id)
        except ConfigError:
            if not attempt:
                raise
            return {"passed": 0, "rejected": 0}  # the other replay left no record with this reason
        if counts is not None:
            return counts
    raise LockedError(f"{table.name}: others wrote at the same time too often. Run again when they end.")


def _swapped(
    spark: SparkSession, settings: Settings, table: Table, delta_table: DeltaTable, reason: str, run_id: str
) -> dict[str, int] | None:
    bronze = delta.read(spark, settings, table, delta_table.version())
    is_selected = F.size("_quality_flags") > 0
    if reason:
        is_selected &= F.array_contains("_quality_flags", reason)
    rejected = settle(bronze.where(is_selected))
    if rejected.isEmpty():
        if reason:
            flags = bronze.select(F.explode("_quality_flags").alias("flag")).groupBy("flag").count().collect()
            available = ", ".join(f"{row['flag']} ({row['count']:,})" for row in flags) or "none"
            raise ConfigError(f"No record in the quarantine of {table.name} carries {reason}; there are: {available}")
        return {"passed": 0, "rejected": 0}
    numbered = "_source_line" in table.names
    messages = rejected.select("_source_file", "load_timestamp", "_raw",
                               F.expr(_PLACE if numbered else "CAST(0 AS BIGINT)").alias("_source_line"))  # fmt: skip
    if numbered:
        # One message can hold several changes: it is read once, and the accepted ones stay.
        messages = messages.dropDuplicates(["_source_file", "_source_line"])
    folder = staging.folder(settings, f"replay-{run_id}")
    try:
        _stage(settings, table, delta_table, messages.toArrow(), folder)
        return _swap_read(
            spark,
            settings,
            table,
            delta_table,
            bronze,
            rejected,
            is_selected,
            staging.read(spark, folder, field_names(table)),
            run_id,
        )
    finally:
        staging.remove(folder)


def _stage(settings: Settings, table: Table, delta_table: DeltaTable, messages: pa.Table, folder: str) -> None:
    """Parse the original records again, each as its file was read, and stage them for the engine."""
    feed = landing.feed_of(table)
    heads = {path: file.head for path, file in landing.known_files(settings, feed, delta_table).items()}
    shape = landing.shape_of(settings, feed)
    with staging.Stage(folder, field_names(table)) as stage:
        groups: dict[str, list[int]] = {}
        for position, path in enumerate(messages["_source_file"].to_pylist()):
            groups.setdefault(heads.get(path, ""), []).append(position)
        slices = (
            (head, positions[start : start + ROWS])
            for head, positions in groups.items()
            for start in range(0, len(positions), ROWS)
        )
        for head, positions in slices:
            chunk = messages.take(positions).combine_chunks()
            parsed = formats.parse_kept(chunk["_raw"].to_pylist(), head, chunk["_source_file"].to_pylist(), shape)
            columns = [
                chunk[name].cast(staging.SCHEMA.field(name).type).combine_chunks()
                for name in ("_source_file", "_source_line", "load_timestamp")
            ]
            stage.put([pa.RecordBatch.from_arrays([*parsed.columns, *columns], schema=staging.SCHEMA)])


def _swap_read(
    spark: SparkSession, settings: Settings, table: Table, delta_table: DeltaTable, bronze: DataFrame,
    rejected: DataFrame, is_selected: Column, records: DataFrame, run_id: str,
) -> dict[str, int] | None:  # fmt: skip
    """Replace the records whose result differs now; None if another write came first."""
    numbered = "_source_line" in table.names
    rows = loading.bronze_rows(settings, table, records, run_id)
    key = ["_source_file", "_source_line"] if numbered else ["_source_file", "_raw"]
    existing = bronze if numbered else rejected
    before = existing.select(
        *(F.col(name).alias(f"_was_{name}") for name in key),
        F.col("_quality_flags").alias("_was"),
        is_selected.alias("_asked"),
    ).distinct()
    new_key = key if numbered else ["_source_file", "_message"]
    same = [F.col(new_name) == F.col(f"_was_{old_name}") for new_name, old_name in zip(new_key, key, strict=True)]
    differs = F.col("_was").isNull() | (F.col("_asked") & (F.col("_was") != F.col("_quality_flags")))
    added = settle(rows.join(before, same, "left").where(differs))
    replaced = added.where("_was IS NOT NULL").select(*(F.col(f"_was_{name}").alias(name) for name in key))
    removed = settle(rejected.join(replaced.distinct(), key, "left_semi"))
    tally = _tally(added, removed)
    if tally["added"] or tally["removed"]:
        info = _info(table, run_id, delta_table, tally)
        sequence = delta.Consumed(landing.APP_ID, (delta.watermark(delta_table, landing.APP_ID) or 0) + 1)
        commits.swap(removed.select(*key), added, settings, table, [sequence], info)
        current = delta.made(settings, table, "it was removed")
        if not delta.was_said(current, delta_table.version(), "replay", info["replay"]):
            return None
    return {"passed": tally["passed"], "rejected": tally["added"] - tally["passed"]}


def _tally(added: DataFrame, removed: DataFrame) -> dict[str, Any]:
    """Counts of the swapped rows and of their flags, and the days on which they landed."""
    new_counts, old_counts = (
        frame.groupBy("_quality_flags", F.col("load_timestamp").cast("date").alias("day")).count().collect()
        for frame in (added, removed)
    )
    reasons: Counter[str] = Counter()
    for sign, rows in ((1, new_counts), (-1, old_counts)):
        for row in rows:
            for flag in row["_quality_flags"]:
                reasons[flag] += sign * row["count"]
    return {
        "added": sum(row["count"] for row in new_counts),
        "removed": sum(row["count"] for row in old_counts),
        "passed": sum(row["count"] for row in new_counts if not row["_quality_flags"]),
        "reasons": {flag: count for flag, count in reasons.items() if count},
        "days": sorted({str(row["day"]) for row in (*new_counts, *old_counts)}),
    }


def _info(table: Table, run_id: str, delta_table: DeltaTable, tally: dict[str, Any]) -> dict[str, Any]:
    """The metadata of the commit: in the ledger, records move from quarantined to accepted."""
    rejected = tally["added"] - tally["passed"] - tally["removed"]
    counts = dict.fromkeys(COUNTS, 0) | {"accepted": tally["passed"], "quarantined": rejected}
    counts["records_read"] = tally["passed"] + rejected
    return {
        "run_id": run_id, "operation": "replay", "replay": secrets.token_hex(8),
        "sources": {table.name: delta_table.version()}, "ledger": counts,
        "reasons": tally["reasons"], "landed": tally["days"],
        "expected": {"inserted": tally["added"], "updated": 0, "deleted": tally["removed"]},
    }  # fmt: skip
