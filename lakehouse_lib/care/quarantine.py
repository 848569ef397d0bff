"""Quarantine: what was set aside and why, and putting it through again once the cause is fixed.

A rejected record is a flagged row of its bronze table, and a row of ``quarantine/<table>`` that is
made from it. Replay reads the flagged records again, with the mapping, checks and code of now, and
swaps the rows that come out otherwise into bronze in one commit; everything else follows from
bronze. So a killed replay has either happened or not, and a second one finds nothing to do.
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

from lakehouse_lib.config import Settings, new_run_id
from lakehouse_lib.engines import session
from lakehouse_lib.engines.session import settle
from lakehouse_lib.errors import ConfigError, LockedError
from lakehouse_lib.flow import pipeline, selection
from lakehouse_lib.flow.lock import locked
from lakehouse_lib.intake import formats, landing
from lakehouse_lib.intake.records import ROWS
from lakehouse_lib.layers import loading, staging
from lakehouse_lib.model import tables
from lakehouse_lib.model.messages import CHANGES_OF_A_MESSAGE
from lakehouse_lib.model.ops import COUNTS
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import commits, delta, reader

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_PLACE = f"_source_line DIV {CHANGES_OF_A_MESSAGE}"
"""Line of the file; the rest of ``_source_line`` numbers the changes of one message."""


def summary(settings: Settings, name: str = "", reason: str = "") -> pd.DataFrame:
    """Rejected records by table and reason, with an example: of all tables or one, or with one flag only.

    Raises
    ------
    ConfigError
        The table is none that has a quarantine.
    """
    table = _bronze(settings, name).name if name else ""
    found = reader.query(
        settings,
        """
        SELECT table_name, explanation AS reason, array_to_string(any_value(reasons), ', ') AS flags,
               count(*) AS records, max(landed_date) AS last_landed, min(record) AS example
        FROM quarantine GROUP BY table_name, explanation ORDER BY records DESC, table_name, reason
    """,
    )
    asked = found.table_name.isin([table] if table else found.table_name.unique())
    return found[asked & found["flags"].map(lambda flags: not reason or reason in flags.split(", "))]


def replay(settings: Settings, name: str, reason: str = "", progress: Callable[[str], None] = print) -> dict[str, int]:
    """Put the rejected records of a bronze table through again, and refresh what is made from it.

    ``reason`` limits it to the records that carry this flag. Returns ``{"passed", "rejected"}``:
    how many records came out good, and how many with another reason than before.

    Raises
    ------
    ConfigError
        The table is none that has a quarantine, or no record carries the reason.
    TableError
        The table has not been made yet.
    """
    table = _bronze(settings, name)
    delta.made(settings, table, "no record of it waits in quarantine")
    with locked(settings):
        run_id = settings.run_id or new_run_id()
        moved = _swap(settings, table, reason, run_id)
        follow = settings.model_copy(update={"run_id": run_id, "tables": ",".join(_downstream(settings, table))})
        progress(
            f"{table.name}: {moved['passed']:,} records pass now, {moved['rejected']:,} fail otherwise than before"
        )
        pipeline.run(follow, progress=progress).check()
    return moved


def _bronze(settings: Settings, name: str) -> Table:
    bare = name.removesuffix("_quarantine").removesuffix("_bronze")
    known = {t.name: t for t in tables.declared(settings).values() if t.layer == "bronze"}
    if f"{bare}_bronze" not in known:
        raise ConfigError(f"{name} has no quarantine; these have one: {', '.join(known)}")
    return known[f"{bare}_bronze"]


def _downstream(settings: Settings, table: Table) -> list[str]:
    """The table and all that is made from it, of the tables of a run."""
    found = [table.name]
    for other in selection.selected(settings):
        if other.name not in found and set(other.sources) & set(found):
            found.append(other.name)
    return found


def _swap(settings: Settings, table: Table, reason: str, run_id: str) -> dict[str, int]:
    """Swap the records that come out otherwise now; planned again where another replay or load was faster, such
    as one whose process was killed while the engine went on."""
    for attempt in range(loading.OVERTAKEN):
        opened = delta.opened(settings, table)
        if opened is None:
            return {"passed": 0, "rejected": 0}
        try:
            with session.opened(settings) as spark:
                moved = _swapped(spark, settings, table, opened, reason, run_id)
        except ConfigError:
            if not attempt:
                raise
            return {"passed": 0, "rejected": 0}  # the other replay left none with this reason
        if moved is not None:
            return moved
    raise LockedError(f"{table.name}: others wrote at the same time too often. Run again when they end.")


def _swapped(
    spark: SparkSession, settings: Settings, table: Table, opened: DeltaTable, reason: str, run_id: str
) -> dict[str, int] | None:
    bronze = delta.read(spark, settings, table, opened.version())
    asked = F.size("_quality_flags") > 0
    if reason:
        asked &= F.array_contains("_quality_flags", reason)
    old = settle(bronze.where(asked))
    if old.isEmpty():
        if reason:
            flags = bronze.select(F.explode("_quality_flags").alias("flag")).groupBy("flag").count().collect()
            there = ", ".join(f"{row['flag']} ({row['count']:,})" for row in flags) or "none"
            raise ConfigError(f"No record in the quarantine of {table.name} carries {reason}; there are: {there}")
        return {"passed": 0, "rejected": 0}
    numbered = "_source_line" in table.names
    messages = old.select("_source_file", "load_timestamp", "_raw",
                          F.expr(_PLACE if numbered else "CAST(0 AS BIGINT)").alias("_source_line"))  # fmt: skip
    if numbered:
        # One message can hold several changes: it is read once, and those already taken stay.
        messages = messages.dropDuplicates(["_source_file", "_source_line"])
    folder = staging.folder(settings, f"replay-{run_id}")
    try:
        _stage(settings, table, opened, messages.toArrow(), folder)
        return _swap_read(spark, settings, table, opened, bronze, old, asked, staging.read(spark, folder), run_id)
    finally:
        staging.remove(folder)


def _stage(settings: Settings, table: Table, opened: DeltaTable, messages: pa.Table, folder: str) -> None:
    """Read records again as they came, each as its file was read, and keep them for the engine."""
    feed = landing.feed_of(table)
    heads = {path: file.head for path, file in landing.known_files(settings, feed, opened).items()}
    shape = landing.shape_of(settings, feed)
    with staging.Stage(folder) as stage:
        groups: dict[str, list[int]] = {}
        for place, path in enumerate(messages["_source_file"].to_pylist()):
            groups.setdefault(heads.get(path, ""), []).append(place)
        slices = ((head, places[n : n + ROWS]) for head, places in groups.items() for n in range(0, len(places), ROWS))
        for head, places in slices:
            own = messages.take(places).combine_chunks()
            read = formats.parse_kept(own["_raw"].to_pylist(), head, own["_source_file"].to_pylist(), shape)
            columns = [
                own[name].cast(staging.SCHEMA.field(name).type).combine_chunks()
                for name in ("_source_file", "_source_line", "load_timestamp")
            ]
            stage.put([pa.RecordBatch.from_arrays([*read.columns, *columns], schema=staging.SCHEMA)])


def _swap_read(
    spark: SparkSession, settings: Settings, table: Table, opened: DeltaTable, bronze: DataFrame, old: DataFrame,
    asked: Column, records: DataFrame, run_id: str,
) -> dict[str, int] | None:  # fmt: skip
    """Swap the records that come out otherwise now for those that are there."""
    numbered = "_source_line" in table.names
    new = loading.bronze_rows(settings, table, records, run_id)
    key = ["_source_file", "_source_line"] if numbered else ["_source_file", "_raw"]
    there = bronze if numbered else old
    before = there.select(
        *(F.col(name).alias(f"_was_{name}") for name in key),
        F.col("_quality_flags").alias("_was"),
        asked.alias("_asked"),
    ).distinct()
    place = key if numbered else ["_source_file", "_message"]
    same = [F.col(mine) == F.col(f"_was_{other}") for mine, other in zip(place, key, strict=True)]
    otherwise = F.col("_was").isNull() | (F.col("_asked") & (F.col("_was") != F.col("_quality_flags")))
    come = settle(new.join(before, same, "left").where(otherwise))
    replaced = come.where("_was IS NOT NULL").select(*(F.col(f"_was_{name}").alias(name) for name in key))
    gone = settle(old.join(replaced.distinct(), key, "left_semi"))
    tally = _tally(come, gone)
    if tally["come"] or tally["gone"]:
        info = _info(table, run_id, opened, tally)
        number = delta.Consumed(landing.APP_ID, (delta.watermark(opened, landing.APP_ID) or 0) + 1)
        commits.swap(gone.select(*key), come, settings, table, [number], info)
        now = delta.made(settings, table, "it was removed")
        if not delta.was_said(now, opened.version(), "replay", info["replay"]):
            return None
    return {"passed": tally["passed"], "rejected": tally["come"] - tally["passed"]}


def _tally(come: DataFrame, gone: DataFrame) -> dict[str, Any]:
    """What is swapped: rows, their flags, and the days on which they landed."""
    after, before = (
        frame.groupBy("_quality_flags", F.col("load_timestamp").cast("date").alias("day")).count().collect()
        for frame in (come, gone)
    )
    reasons: Counter[str] = Counter()
    for sign, rows in ((1, after), (-1, before)):
        for row in rows:
            for flag in row["_quality_flags"]:
                reasons[flag] += sign * row["count"]
    return {
        "come": sum(row["count"] for row in after),
        "gone": sum(row["count"] for row in before),
        "passed": sum(row["count"] for row in after if not row["_quality_flags"]),
        "reasons": {flag: count for flag, count in reasons.items() if count},
        "days": sorted({str(row["day"]) for row in (*after, *before)}),
    }


def _info(table: Table, run_id: str, opened: DeltaTable, tally: dict[str, Any]) -> dict[str, Any]:
    """What the commit says of itself: records move from quarantined to accepted in the ledger."""
    rejected = tally["come"] - tally["passed"] - tally["gone"]
    counts = dict.fromkeys(COUNTS, 0) | {"accepted": tally["passed"], "quarantined": rejected}
    counts["records_read"] = tally["passed"] + rejected
    return {
        "run_id": run_id, "operation": "replay", "replay": secrets.token_hex(8),
        "sources": {table.name: opened.version()}, "ledger": counts,
        "reasons": tally["reasons"], "landed": tally["days"],
        "expected": {"inserted": tally["come"], "updated": 0, "deleted": tally["gone"]},
    }  # fmt: skip
