"""Load landing files into a bronze table: each load is one commit, which names its files.

A load is planned from the files that the table already holds, and carries the next number. If another run, on any
machine, has used that number in the meantime, nothing of the load is written, and it is planned again.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from deltalake import DeltaTable

from lakehouse_lib.config import Settings
from lakehouse_lib.engines import session
from lakehouse_lib.errors import LandingError
from lakehouse_lib.intake import envelopes, formats, landing
from lakehouse_lib.intake.landing import OF_THE_TABLE, LandingFile, feed_of
from lakehouse_lib.intake.records import PROBLEMS
from lakehouse_lib.intake.streams import PACKED, Unreadable
from lakehouse_lib.layers import bronze, cdc, columns, fingerprints, staging
from lakehouse_lib.layers.fingerprints import Book
from lakehouse_lib.model import reads, tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import archive, commits, delta

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)

AT_ONCE = 2_000
"""Maximum number of files in a load: its commit contains their names."""

OVERTAKEN = 20
"""How often other runs may commit first before a load gives up."""

_CLOCK_AHEAD = timedelta(days=1)


@dataclass
class Load:
    """Files to load into a table with one commit."""

    feed: str
    number: int
    """Number of the load; a table accepts each number once."""
    version: int
    """Version of the table when the load was planned."""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    staging: str = ""
    """Folder with the records of the files, for the engine."""
    fields: list[str] = field(default_factory=list)
    """Fields of the records that the table's columns are computed from."""
    files: list[LandingFile] = field(default_factory=list)
    duplicates: list[LandingFile] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Files of the table that are missing from a load of everything."""
    noted: dict[str, Any] = field(default_factory=dict)
    """Settings that the files were read by."""

    @property
    def records(self) -> int:
        """Number of records in the files to load."""
        return sum(file.records for file in self.files)

    def says(self, run_id: str) -> dict[str, Any]:
        """Return the metadata of the commit."""
        listed = [landing.entry(file, "loaded") for file in self.files]
        listed += [landing.entry(file, "duplicate") for file in self.duplicates]
        return {"run_id": run_id, "load": self.id, "files": listed, "sources": {f"landing/{self.feed}": self.number}}


@dataclass
class Outcome:
    """What was loaded."""

    changed: bool = False
    message: str = ""
    notes: list[str] = field(default_factory=list)
    columns: columns.Lineage | None = None
    """Lineage of the table's columns."""
    rebuilt: bool = False
    """Whether all files were loaded again because the table is made by something else now."""


def load(settings: Settings, table: Table, run_id: str, begin: Callable[[], None], book: Book) -> Outcome:
    """Load the pending files of a feed into its bronze table; ``begin`` is called if there is something to do.

    All its files are loaded again where the table is made by something else now, by ``book``. Where some of them are
    not there any more, the rows stay as they are, the outcome says so, and what comes is loaded by the new rules.

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
    anew = settings.full or bool(changed)
    whole = not settings.enable_delta or (anew and _all_files_there(settings, table, outcome))
    if changed and not whole:
        outcome.notes += book.keep(table, outcome.message.removeprefix("kept: "))
    if whole or landing.pending_files(settings, table) or not delta.exists(settings, table):
        begin()
        delta.ensure(settings, table)
        outcome.rebuilt = _load_pending(settings, table, run_id, outcome, whole, book) and bool(changed)
    if outcome.rebuilt:
        outcome.notes += [f"rebuilt: {change}" for change in changed]
    elif book.changes(table):  # there was nothing to load again
        book.note(table)
    if ignored := landing.foreign(settings, table, run_id):
        outcome.notes.append(f"{feed}: ignored, because their names do not end in a known format: {', '.join(ignored)}")
    return outcome


def _load_pending(settings: Settings, table: Table, run_id: str, outcome: Outcome, whole: bool, book: Book) -> bool:
    """Load the pending files, some at a time; ``whole`` loads all files again with one commit. Return whether all
    files were loaded again."""
    overtaken = 0
    failed: dict[str, str] = {}
    while load := next_load(settings, table, run_id, whole, failed):
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


def next_load(
    settings: Settings, table: Table, run_id: str, whole: bool = False, without: Iterable[str] = ()
) -> Load | None:
    """Read the next pending files, and stage their records for the engine.

    ``whole`` reads every file of the landing folder, for a full rebuild; files in ``without`` are left out. Files that
    cannot be read are recorded, and the others are staged. Returns None if there is nothing to commit.
    """
    feed, target = feed_of(table), delta.opened(settings, table)
    if target is not None:
        landing.settle(settings, feed, target, run_id)
    load, others = planned(settings, table, target, whole, without)
    landing.write_down(settings, feed, [(file, load.version) for file in others], run_id, target)
    if load.files or load.duplicates:
        return load
    staging.remove(load.staging)
    return None


def planned(
    settings: Settings, table: Table, target: DeltaTable | None, whole: bool, without: Iterable[str]
) -> tuple[Load, list[LandingFile]]:
    """Read and stage the files of a load without recording anything; returns it, and the files whose state changes
    although it does not load them. The caller removes the staged records."""
    feed = feed_of(table)
    known = landing.known_files(settings, feed, target)
    load = Load(feed, (delta.watermark(target, landing.APP_ID) or 0) + 1, -1 if target is None else target.version())
    watched = reads.watched(settings, load.noted)
    load.staging, load.fields = staging.folder(settings, load.id), bronze.field_names(table)
    listed = {file.path: file for file in landing.list_files(watched, feed) if file.path not in without}
    fresh = [file for file in listed.values() if whole or not landing.is_settled(feed, known.get(file.path), file)]
    # Of files with the same content the first delivered one is loaded, even if they are found together.
    fresh.sort(key=lambda file: (file.modified, file.path))
    try:
        others = _read(watched, feed, load, fresh, known, whole)
    except BaseException:
        staging.remove(load.staging)
        raise
    removed = [file for file in known.values() if file.state in landing.NOT_LOADED and file.path not in listed]
    others += [replace(file, state="removed") for file in removed if file.path not in without]
    if whole:
        contents = {file.digest for file in (*load.files, *load.duplicates)}  # also if they are read otherwise now
        load.missing = [
            file.path
            for file in known.values()
            if file.state == "loaded" and file.records and file.digest not in contents
        ]
    # The state of files that the table holds does not change, whatever became of the files.
    others = [file for file in others if _is_read(file) or known.get(file.path, file).state not in OF_THE_TABLE]
    return load, others


def _read(
    settings: Settings, feed: str, load: Load, fresh: list[LandingFile], known: dict[str, LandingFile], whole: bool
) -> list[LandingFile]:
    """Fill a load from new files; return the files whose state is to be recorded separately."""
    others: list[LandingFile] = []
    wanted: list[LandingFile] = []
    by_content = (
        {} if whole else {_content(file): file for file in known.values() if file.state == "loaded" and file.digest}
    )
    withdrawn = {_content(file) for file in known.values() if file.state == "withdrawn"}
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, len(fresh), AT_ONCE):
            for file in pool.map(lambda file: _with_digest(settings, feed, file), fresh[start : start + AT_ONCE]):
                before = known.get(file.path)
                if before is not None and before.state not in OF_THE_TABLE:
                    before = None
                if file.state:
                    others.append(file)
                elif before and file.digest != before.digest and before.size != -1:
                    others.append(replace(before, reason=landing.changed_sentence(feed, before, file)))
                elif before and (not whole or before.state == "withdrawn"):
                    others.append(replace(before, modified=file.modified, reason=""))  # only its time has changed
                elif before and before.state == "duplicate" and _content(file) in withdrawn:
                    others.append(before)
                elif _content(file) in by_content:
                    load.duplicates.append(file)
                elif whole or len(wanted) < AT_ONCE:
                    wanted.append(file)
                    by_content[_content(file)] = file
            if len(wanted) >= AT_ONCE and not whole:
                break
        if wanted:
            with staging.Stage(load.staging, load.fields) as stage:
                read = list(pool.map(lambda file: _stage(settings, feed, file, stage), wanted))
            by_content |= {_content(file): file for file in read}
            load.files = [file for file in read if not file.state]
            others += [file for file in read if file.state]
    copies = [(file, by_content[_content(file)]) for file in load.duplicates]
    load.duplicates = [replace(file, records=first.records) for file, first in copies if _is_read(first)]
    return others + [replace(f, state=first.state, reason=first.reason) for f, first in copies if not _is_read(first)]


def _content(file: LandingFile) -> tuple[str, str, bool]:
    """Return what identifies a file's content: its bytes, and how they are read."""
    return file.digest, file.kind, file.path.lower().endswith(PACKED)


def _is_read(file: LandingFile) -> bool:
    return file.state in ("", *OF_THE_TABLE)


def _with_digest(settings: Settings, feed: str, file: LandingFile) -> LandingFile:
    """Return the file with the hash of its content; ``failed`` if it cannot be read or is still growing."""
    if file.state:
        return file
    digest, size = hashlib.blake2b(), 0
    try:
        with landing.opened(settings, feed, file) as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        return replace(file, state="failed", reason=error.strerror or str(error))
    if size != file.size:
        return replace(file, state="failed", reason="it is still being written")
    return replace(file, digest=digest.hexdigest()[:32])


def _stage(settings: Settings, feed: str, file: LandingFile, stage: staging.Stage) -> LandingFile:
    """Read a file once and stage its records for the engine; record the reason if it cannot be read."""
    reading = formats.Reading()

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            with landing.opened(settings, feed, file) as handle:
                yield from formats.read(handle, file.kind, reading, file.path, landing.shape_of(settings, feed))
        except OSError as error:  # from reading, not from staging
            raise _NotOpened(error.strerror or str(error)) from error
        if _with_digest(settings, feed, file).digest != file.digest:
            raise _NotOpened("it changed while it was read")

    try:
        stage.add(file.path, file.modified, batches())
    except Unreadable as error:
        return replace(file, state="set_aside", reason=str(error))
    except _NotOpened as error:
        return replace(file, state="failed", reason=str(error))
    return replace(file, records=reading.records, head=reading.head, names=frozenset(reading.names))


class _NotOpened(Exception):
    """A file could not be read to its end, for a reason other than its content."""


def _commit(
    settings: Settings, table: Table, run_id: str, outcome: Outcome, load: Load, whole: bool, book: Book
) -> dict[str, str]:
    """Commit a load to its table; if the engine fails, return the files with a record that it cannot compute."""
    metadata, consumed = load.says(run_id), [delta.Consumed(landing.APP_ID, load.number)]
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


def _is_committed(target: DeltaTable, load: Load) -> bool:
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
            f"{', '.join(fields) or 'nothing readable'}. Say where it comes from in the parameters: "
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
        f"no record of feed {feed} is a change in a format that is known ({envelopes.KNOWN}); it holds records "
        f"such as{examples}\nWhere these are changes, say where their fields come from in the parameters: "
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
            return str(error).strip().splitlines()[0][:300] or repr(error)
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


def _set_aside(settings: Settings, bronze: Table, load: Load, reasons: dict[str, str], run_id: str) -> None:
    """Record that files of a load failed, with the reason. They are tried again, as they may load with other
    settings."""
    rows = [(replace(f, state="failed", reason=reasons[f.path]), load.version) for f in load.files if f.path in reasons]
    landing.write_down(settings, load.feed, rows, run_id, delta.opened(settings, bronze))


def _all_files_there(settings: Settings, table: Table, outcome: Outcome) -> bool:
    """Return whether every file that a bronze table has loaded is still in landing."""
    if missing := fingerprints.obstacle(settings, table):
        outcome.message = f"kept: {missing}"
    return not missing
