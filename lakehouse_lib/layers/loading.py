"""Load landing files into a bronze table: each load is one commit, which names its files.

A load carries a number; see `loads`. If another run, on any machine, has used that number in the meantime, nothing of
the load is written, and it is planned again.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from deltalake import DeltaTable

from lakehouse_lib.config import Settings
from lakehouse_lib.engines import session
from lakehouse_lib.errors import LandingError, first_line
from lakehouse_lib.intake import envelopes, landing
from lakehouse_lib.intake.landing import LandingFile, feed_of
from lakehouse_lib.intake.records import PROBLEMS
from lakehouse_lib.layers import bronze, cdc, columns, fingerprints, loads, staging
from lakehouse_lib.layers.fingerprints import Book
from lakehouse_lib.model import reads, tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import archive, commits, delta

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)

OVERTAKEN = 20
"""How often other runs may commit first before a load gives up."""

_CLOCK_AHEAD = timedelta(days=1)


@dataclass
class Outcome:
    """What was loaded."""

    changed: bool = False
    message: str = ""
    notes: list[str] = field(default_factory=list)
    columns: columns.Lineage | None = None
    """Lineage of the table's columns."""
    rebuilt: bool = False
    """Whether all files were loaded again because the declaration, settings or code of the table have changed."""


def load(settings: Settings, table: Table, run_id: str, begin: Callable[[], None], book: Book) -> Outcome:
    """Load the pending files of a feed into its bronze table; ``begin`` is called if there is something to do.

    If the table's declaration, settings or code have changed according to ``book``, all its files are loaded again. If
    some of them no longer exist, the rows stay as they are, the outcome says so, and new files follow the new rules.

    Raises
    ------
    LandingError
        The landing folder does not exist, a required field is missing everywhere, or other runs committed first too
        often.
    """
    feed = feed_of(table)
    landing.check_there(settings, feed)
    outcome = Outcome()
    changed = book.changes(table)
    rebuild = settings.full or bool(changed)
    whole = not settings.enable_delta or (rebuild and _all_files_exist(settings, table, outcome))
    if changed and not whole:
        outcome.notes += book.keep(table, outcome.message.removeprefix("kept: "))
    if whole or landing.pending_files(settings, table) or not delta.exists(settings, table):
        begin()
        delta.ensure(settings, table)
        outcome.rebuilt = _load_pending(settings, table, run_id, outcome, whole, book) and bool(changed)
    if outcome.rebuilt:
        outcome.notes += [f"rebuilt: {change}" for change in changed]
    elif book.changes(table):  # no file had to be loaded again
        book.note(table)
    if ignored := landing.foreign(settings, table, run_id):
        outcome.notes.append(f"{feed}: ignored, because their names do not end in a known format: {', '.join(ignored)}")
    return outcome


def _load_pending(settings: Settings, table: Table, run_id: str, outcome: Outcome, whole: bool, book: Book) -> bool:
    """Load the pending files, some at a time; ``whole`` loads all files again with one commit. Return whether all
    files were loaded again."""
    overtaken = 0
    failed: dict[str, str] = {}
    while load := loads.next_load(settings, table, run_id, whole, failed):
        try:
            if whole and load.missing and settings.enable_delta:
                outcome.message = (
                    f"kept: {len(load.missing)} of its files cannot be loaded again, e.g. {load.missing[0]}"
                )
                if book.changes(table):
                    outcome.notes += book.keep(table, outcome.message.removeprefix("kept: "))
                whole = False
                continue
            if bad := _commit(settings, table, run_id, outcome, load, whole, book):
                failed |= bad
                _set_aside(settings, table, load, bad, run_id)
                continue
        finally:
            staging.remove(load.staging)
        if not settings.enable_delta or _is_committed(delta.made(settings, table, "it was removed"), load):
            outcome.changed = True
            if whole:
                return True
            continue
        overtaken += 1
        log.warning(
            "%s: another run has loaded files in the meantime; the remaining ones are planned again", table.name
        )
        if overtaken > OVERTAKEN:
            raise LandingError(
                f"{table.name}: other runs committed first {overtaken} times. Run again when they have finished."
            )
    return False


def _commit(
    settings: Settings, table: Table, run_id: str, outcome: Outcome, load: loads.Load, whole: bool, book: Book
) -> dict[str, str]:
    """Commit a load to its table; if the engine fails, return the files with a record that it cannot compute."""
    metadata, consumed = load.metadata(run_id), [delta.Consumed(landing.APP_ID, load.number)]
    if not load.records and settings.enable_delta:
        commits.mark(settings, table, consumed, metadata, once=True)
        return {}
    with session.opened(settings) as spark:
        records = staging.read(spark, load.staging, load.fields)
        all_rows = bronze_rows(reads.watched(settings, load.noted), table, records, run_id)
        _check_mapping(settings, load.feed, all_rows, records, load.files)
        if load.feed == "cdc_changes":
            _check_recognised(settings, table, all_rows, load.files)
        rows = all_rows.select(*table.names)
        if whole:
            archive.restore(settings, table)
        marks, more = book.seal(table, load.noted, anew=whole, rebuilt=whole and bool(book.changes(table)))
        consumed = consumed + marks
        metadata = metadata | more | ({"again": True} if "operation" in more else {})
        try:
            if whole:
                commits.overwrite(rows, settings, table, consumed, metadata, reschema=not delta.fits(settings, table))
            else:
                commits.append(rows, settings, table, consumed, metadata)
        except Exception as error:
            if bad := files_that_fail(settings, table, run_id, records, load.files):
                return bad
            raise error
        outcome.columns = columns.of(settings, table.name, rows, (load.feed, records))
    return {}


def _is_committed(target: DeltaTable, load: loads.Load) -> bool:
    """Return whether a table holds a load; another run may have used its number."""
    return delta.was_said(target, load.version, "load", load.id)


def bronze_rows(settings: Settings, table: Table, records: DataFrame, run_id: str) -> DataFrame:
    """Return the rows of a bronze table for the records of its feed, with flags from the contract and the table's
    checks, and ``_message string`` (the record as it came, in every row)."""
    from pyspark.sql import functions as F

    feed = feed_of(table)
    latest = (datetime.now(UTC) + _CLOCK_AHEAD).isoformat()
    rows = transformation(table)(records, settings.feed(feed), latest, table.bounds).withColumn(
        "_message", F.col("_raw")
    )
    flags = {name: F.expr(broken) for name, (broken, _) in tables.record_checks(table).items()}
    if feed == "cdc_changes":
        flags = {"missing_key": cdc.lacks_key(settings)} | flags
    return bronze.flagged(rows, flags).withColumns({"_run_id": F.lit(run_id), "_ingested_at": F.current_timestamp()})


def transformation(table: Table) -> Callable[..., Any]:
    """Return the transformation function of a table."""
    module, _, name = table.transform.rpartition(".")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _check_mapping(
    settings: Settings, feed: str, rows: DataFrame, records: DataFrame, files: list[LandingFile]
) -> None:
    """Reject a load in which a required field is missing everywhere: the mapping is wrong."""
    required = bronze.REQUIRED.get(feed, [])
    if sum(file.records for file in files) < 10 or not required:
        return
    seen = frozenset().union(*(file.names for file in files))
    present = all(seen.intersection(bronze.ALIASES.get(feed, {}).get(name, [name])) for name in required)
    if present and not settings.feed(feed).select:
        return
    from pyspark.sql import functions as F

    head = rows.limit(200).agg(*(F.count(name).alias(name) for name in required)).first()
    assert head is not None
    suspects = [name for name in required if not head[name]]
    if not suspects:
        return
    totals = rows.agg(*(F.count(name).alias(name) for name in suspects)).first()
    assert totals is not None
    missing = [name for name in suspects if not totals[name]]
    if missing:
        known = records.limit(200).select(F.explode(F.map_keys("record"))).distinct().collect()
        fields = sorted(row[0] for row in known)
        raise LandingError(
            f"no record of feed {feed} has a usable {', '.join(missing)}; the records hold "
            f"{', '.join(fields) or 'nothing readable'}. Map it in the parameters: "
            f"feeds.{feed}.select.{missing[0]}. Nothing of the feed was loaded."
        )


def _check_recognised(settings: Settings, table: Table, rows: DataFrame, files: list[LandingFile]) -> None:
    """Reject a load in which no record is in a known format, unless the feed has loaded changes before. A single
    record is quarantined instead."""
    from pyspark.sql import functions as F

    names = frozenset().union(*(file.names for file in files))
    if sum(file.records for file in files) < 2 or not names.isdisjoint(envelopes.INTERNAL):
        return
    unread = F.arrays_overlap("_quality_flags", F.array(*map(F.lit, (envelopes.UNKNOWN, *PROBLEMS))))
    unknown = F.array_contains("_quality_flags", envelopes.UNKNOWN)
    record = F.when(unknown, F.struct("_source_file", "_source_line", "_raw"))
    # Without a filter, which would compute again everything that the flags depend on.
    seen = rows.agg(
        F.count_if(~unread).alias("read"), F.min(record).alias("first"), F.max(record).alias("last")
    ).first()
    assert seen is not None
    if seen["read"] or seen["first"] is None:
        return
    if settings.enable_delta and not delta.read(rows.sparkSession, settings, table).where(~unread).isEmpty():
        return
    examples = "".join(f"\n    {text[:300]}" for text in dict.fromkeys(seen[end]["_raw"] for end in ("first", "last")))
    feed = feed_of(table)
    raise LandingError(
        f"no record of feed {feed} is a change in a format that is known ({envelopes.KNOWN}); it has records "
        f"such as{examples}\nIf these are changes, map their fields in the parameters: "
        f"feeds.{feed}.select. Nothing of the feed was loaded."
    )


def files_that_fail(
    settings: Settings, table: Table, run_id: str, records: DataFrame, files: list[LandingFile]
) -> dict[str, str]:
    """Find the files with a record that the engine cannot compute, and that record; none if the records are not the
    cause."""
    from pyspark.sql import functions as F

    def error_of(paths: list[str], first: int = 1, last: int = 2**62) -> str:
        selected = records.where(F.col("_source_file").isin(paths) & F.col("_source_line").between(first, last))
        try:
            rows = bronze_rows(settings, table, selected, run_id).select(*table.names)
            rows.write.format("noop").mode("overwrite").save()
        except Exception as error:
            return first_line(error)
        return ""

    def failing(paths: list[str]) -> list[str]:
        if not error_of(paths):
            return []
        half = len(paths) // 2
        return paths if half == 0 else failing(paths[:half]) + failing(paths[half:])

    failures: dict[str, str] = {}
    paths = [file.path for file in files if file.records]
    if error_of([]):  # the records are not the cause
        return {}
    for path in failing(paths):
        first, last = 1, next(file.records for file in files if file.path == path)
        while first < last:
            middle = (first + last) // 2
            first, last = (first, middle) if error_of([path], first, middle) else (middle + 1, last)
        failures[path] = f"its record {first} cannot be computed: {error_of([path], first, first)}"
    return failures


def _set_aside(settings: Settings, bronze: Table, load: loads.Load, reasons: dict[str, str], run_id: str) -> None:
    """Record that files of a load failed, with the reason. They are tried again, as they may load with other
    settings."""
    rows = [(replace(f, state="failed", reason=reasons[f.path]), load.version) for f in load.files if f.path in reasons]
    landing.write_down(settings, load.feed, rows, run_id, delta.opened(settings, bronze))


def _all_files_exist(settings: Settings, table: Table, outcome: Outcome) -> bool:
    """Return whether every file that a bronze table has loaded is still in landing."""
    if missing := fingerprints.obstacle(settings, table):
        outcome.message = f"kept: {missing}"
    return not missing
