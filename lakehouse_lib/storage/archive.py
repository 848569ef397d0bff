"""Retention: expired rows are written to ``archive/`` and then deleted from the table, exactly once; they can be
restored.

Batch *n* of a table is a folder of Parquet files with a manifest. It is valid once a commit of the table carries the
number *n*; the same commit deletes the rows. A commit that carries ``archive-restored-n`` reverses it. Each attempt
writes its own folder, which the commit names (``archive-folder-n``): a run that is killed, or loses to another run,
leaves a folder that no commit refers to. A table that is restored to a version in which a batch was archived records
that too (``archive-restored-n`` is 0 then).

Archived rows still belong to the table for every table built from it: `with_archived` adds them, and they are restored
before a table is rewritten.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.transaction import AddAction

from lakehouse_lib.config import Settings
from lakehouse_lib.errors import LedgerError, TableError
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta

if TYPE_CHECKING:
    from deltalake.transaction import RemoveAction
    from pyspark.sql import DataFrame

APP_ID = "archive"
"""Transaction id under which a table stores the number of its last batch."""

NO_DAY = "none"


@dataclass(frozen=True)
class Due:
    """Rows of a table whose retention has expired."""

    table: str
    before: date
    """Rows of earlier days have expired."""
    days: list[str]
    """Their days; ``none`` for rows without one."""
    rows: int
    bytes: int


@dataclass(frozen=True)
class Batch:
    """Rows that were archived together."""

    table: str
    number: int
    rows: int
    bytes: int
    days: list[str]
    archived_at: str
    folder: str
    files: list[dict[str, Any]]


def due(settings: Settings, table: Table, today: date | None = None) -> Due | None:
    """Find the rows of a table whose retention has expired, from the log alone; None if there are none.

    A bronze row has expired only if both its event and its file's landing are that old, so that a backfill is kept as
    long as any other load.
    """
    past = _past(settings, table, today)
    return None if past is None else _due(table, past, {_day(table, file) for file in past.old})


def aged(settings: Settings, table: Table, today: date | None = None) -> Due | None:
    """Find the expired rows that a run may archive by itself: those that were in the table before they expired.

    A day needs a user's decision if some of its rows were written after they expired or by this run, as in a first
    load of old data, or were restored from the archive.
    """
    past = _past(settings, table, today)
    if past is None:
        return None
    kept = timedelta(days=_kept_days(settings, table) + 1)
    days = {_day(table, file) for file in past.old}
    days -= {
        _day(table, file) for file in past.files if not _held_in_time(table, file, past.before, kept, settings.run_id)
    }
    return _due(table, past, days - _came_back(settings, table, past.opened)) if days else None


@dataclass(frozen=True)
class _Past:
    opened: DeltaTable
    before: date
    files: list[dict[str, Any]]
    """All files of the table, as its log lists them."""
    old: list[dict[str, Any]]
    """Those whose rows have all expired."""


def _kept_days(settings: Settings, table: Table) -> int:
    return settings.retention.get(table.name, table.retention_days)


def _past(settings: Settings, table: Table, today: date | None) -> _Past | None:
    kept = _kept_days(settings, table)
    opened = delta.opened(settings, table)
    if opened is None or not kept or not table.partition_by:
        return None
    before = (today or datetime.now(UTC).date()) - timedelta(days=kept)
    files = delta.files(opened).to_pylist()
    day, landed = f"partition.{table.partition_by}", "max.load_timestamp"
    old = [f for f in files if (f[day] is None or f[day] < before)
           and (table.layer != "bronze" or (f.get(landed) is not None and f[landed].date() < before))]  # fmt: skip
    return _Past(opened, before, files, old) if old else None


def _day(table: Table, file: dict[str, Any]) -> str:
    day = file[f"partition.{table.partition_by}"]
    return NO_DAY if day is None else str(day)


def _due(table: Table, past: _Past, days: set[str]) -> Due | None:
    """Return the expired rows of some days."""
    old = [file for file in past.old if _day(table, file) in days]
    rows, size = sum(file["num_records"] or 0 for file in old), sum(file["size_bytes"] for file in old)
    return Due(table.name, past.before, sorted(days), rows, size) if old else None


def _held_in_time(table: Table, file: dict[str, Any], before: date, kept: timedelta, run_id: str) -> bool:
    """Return whether an earlier run wrote all of a file's expired rows, before they expired."""
    passed, written = file[f"partition.{table.partition_by}"], file.get("max._processed_at")
    if table.layer == "bronze":
        landed, written = file.get("min.load_timestamp"), file.get("max._ingested_at")
        if landed is None:
            return False
        if landed.date() >= before:
            return True  # none of its rows has expired
        passed = max(passed or date.min, landed.date())
    if passed is None or written is None or file.get("max._run_id") == (run_id or None):
        return False
    return bool(written.replace(tzinfo=UTC) < datetime.combine(passed + kept, datetime.min.time(), UTC))


def _came_back(settings: Settings, table: Table, opened: DeltaTable) -> set[str]:
    """Return the days whose rows were archived, and then restored by a user or because of a late record."""
    restored: set[str] = set()
    for number in range(1, (opened.transaction_version(APP_ID) or 0) + 1):
        with contextlib.suppress(TableError):  # a restored batch no longer needs its folder
            days = set(_manifest(table, _folder(settings, table, opened, number)).days)
            restored = restored - days if _is_away(opened, number) else restored | days
    return restored


def retire(settings: Settings, table: Table, due: Due) -> Batch:
    """Move the expired rows of a table to the archive.

    Raises
    ------
    LedgerError
        The archive and the deleted rows do not agree.
    """
    opened = DeltaTable(delta.table_path(settings, table))
    number, token = (opened.transaction_version(APP_ID) or 0) + 1, secrets.randbits(62)
    limit = datetime.combine(due.before, datetime.min.time(), UTC)
    folder = f"{_home(settings, table)}/batch={number:06d}-{token:016x}"
    batch = _write(folder, table, opened, number, due.days, limit if table.layer == "bronze" else None)
    _verify(batch)
    dated = [f"DATE '{day}'" for day in due.days if day != NO_DAY]
    where = [f"{table.partition_by} IN ({', '.join(dated)})"] if dated else []
    where += [f"{table.partition_by} IS NULL"] if NO_DAY in due.days else []
    predicate = f"({' OR '.join(where)})"
    if table.layer == "bronze":
        predicate += f" AND load_timestamp < '{limit.isoformat()}'"
    result = opened.delete(
        predicate,
        commit_properties=CommitProperties(
            app_transactions=[Transaction(APP_ID, number), Transaction(f"{APP_ID}-folder-{number}", token)],
            custom_metadata={"userMetadata": json.dumps({"archived": number})},
        ),
    )
    if result["num_deleted_rows"] not in (None, batch.rows):
        raise LedgerError(
            f"{table.name}: {result['num_deleted_rows']} rows were deleted, {batch.rows} are in {batch.folder}. "
            f"Restore the table: lakehouse restore {table.name} {opened.version() - 1}"
        )
    return batch


def batches(settings: Settings, table: Table) -> list[Batch]:
    """List the batches of a table that are in the archive and not in the table, oldest first.

    Raises
    ------
    TableError
        The folder of a batch is missing.
    """
    opened = delta.opened(settings, table)
    if opened is None:
        return []
    last = opened.transaction_version(APP_ID) or 0
    return [
        _manifest(table, _folder(settings, table, opened, number))
        for number in range(1, last + 1)
        if _is_away(opened, number)
    ]


def days(settings: Settings, table: Table) -> set[date]:
    """Return the days for which a table has rows, in its files or in the archive; from the log alone."""
    opened = delta.opened(settings, table)
    if opened is None or not table.partition_by:
        return set()
    files = delta.files(opened)
    present = {day for day in files[f"partition.{table.partition_by}"].to_pylist() if isinstance(day, date)}
    archived = {day for batch in batches(settings, table) for day in batch.days if day != NO_DAY}
    return present | {date.fromisoformat(day) for day in archived}


def memories(then: DeltaTable, now: DeltaTable) -> list[delta.Consumed]:
    """Return what a table has to record about its batches when it is restored to an earlier version: a batch is
    restored if that version held its rows, and archived if not."""
    last = now.transaction_version(APP_ID) or 0
    return [
        delta.Consumed(f"{APP_ID}-restored-{number}", int(not _is_away(then, number)))
        for number in range(1, last + 1)
        if _is_away(then, number) != _is_away(now, number)
    ]


def _is_away(opened: DeltaTable, number: int) -> bool:
    """Return whether the rows of a batch are in the archive and not in the table."""
    archived = (opened.transaction_version(APP_ID) or 0) >= number
    return archived and not opened.transaction_version(f"{APP_ID}-restored-{number}")


def restore(settings: Settings, table: Table, days: Iterable[str | date | None] | None = None) -> list[Batch]:
    """Put batches back into the table: all, or those that hold one of the days.

    Tables built from it do not see the rows as new.

    Raises
    ------
    LedgerError
        A file of the archive has changed since it was written; the table was not changed.
    """
    wanted = None if days is None else {NO_DAY if day is None else str(day) for day in days}
    chosen = [batch for batch in batches(settings, table) if wanted is None or wanted & {*batch.days}]
    for batch in chosen:
        _verify(batch)
        _put_back(settings, table, batch)
    return chosen


def with_archived(settings: Settings, table: Table, rows: DataFrame) -> DataFrame:
    """Return the table's rows together with its archived rows."""
    archived = batches(settings, table)
    if not archived:
        return rows
    # One scan for all batches: a table gets a new batch each day.
    files = [f"{batch.folder}/{file['path']}" for batch in archived for file in batch.files]
    return rows.unionByName(rows.sparkSession.read.schema(rows.schema).parquet(*files))


def _home(settings: Settings, table: Table) -> str:
    return f"{settings.layer_path('archive')}/{table.name}"


def _folder(settings: Settings, table: Table, opened: DeltaTable, number: int) -> str:
    """Return the folder of a batch: its commit says which of the folders with this number is valid."""
    token = opened.transaction_version(f"{APP_ID}-folder-{number}")  # None for batches of early versions
    return f"{_home(settings, table)}/batch={number:06d}" + ("" if token is None else f"-{token:016x}")


def _write(
    folder: str, table: Table, opened: DeltaTable, number: int, days: list[str], landed_before: datetime | None
) -> Batch:
    filesystem, root = delta.filesystem(folder)
    filesystem.create_dir(root, recursive=True)
    dataset = delta.dataset(opened)
    files: list[dict[str, Any]] = []
    for day in days:
        part_of = pc.field(table.partition_by)
        of_day = part_of.is_null() if day == NO_DAY else part_of == pa.scalar(date.fromisoformat(day))
        if landed_before:
            of_day &= pc.field("load_timestamp") < pa.scalar(landed_before, pa.timestamp("us", "UTC"))
        path, rows = f"{day}.parquet", 0
        with (
            filesystem.open_output_stream(f"{root}/{path}") as stream,
            pq.ParquetWriter(stream, dataset.schema, compression="zstd") as writer,
        ):
            for part in dataset.scanner(filter=of_day).to_batches():
                if part.num_rows:
                    writer.write_batch(part)
                    rows += part.num_rows
        size, digest = _digest(filesystem, f"{root}/{path}")
        files.append({"path": path, "day": day, "rows": rows, "bytes": size, "sha256": digest})
    manifest = {
        "table": table.name, "table_id": str(opened.metadata().id), "version": opened.version(), "number": number,
        "rows": sum(f["rows"] for f in files), "bytes": sum(f["bytes"] for f in files), "days": days,
        "archived_at": datetime.now(UTC).isoformat(timespec="seconds"), "files": files,
    }  # fmt: skip
    with filesystem.open_output_stream(f"{root}/manifest.json") as stream:
        stream.write(json.dumps(manifest, indent=1).encode())
    return _manifest(table, folder)


def _manifest(table: Table, folder: str) -> Batch:
    filesystem, root = delta.filesystem(folder)
    try:
        with filesystem.open_input_stream(f"{root}/manifest.json") as stream:
            manifest = json.loads(stream.read())
    except FileNotFoundError:
        raise TableError(
            f"A batch of the archive of {table.name} is missing ({folder}); tables built from it need "
            "its rows. Put the folder back."
        ) from None
    return Batch(folder=folder, **{name: manifest[name] for name in Batch.__dataclass_fields__ if name != "folder"})


def _verify(batch: Batch) -> None:
    filesystem, root = delta.filesystem(batch.folder)
    for file in batch.files:
        size, digest = _digest(filesystem, f"{root}/{file['path']}")
        if digest != file["sha256"]:
            raise LedgerError(
                f"{batch.folder}/{file['path']} is not what was archived ({size} bytes, {file['bytes']} expected, or "
                "other content). Restore it from a backup; nothing was changed."
            )


def _digest(filesystem: Any, path: str) -> tuple[int, str]:
    with filesystem.open_input_file(path) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return stream.size(), digest


def _put_back(settings: Settings, table: Table, batch: Batch) -> None:
    """Add the batch's rows as files marked as changing no data, so that no table reads them as new."""
    source, root = delta.filesystem(batch.folder)
    target, home = delta.filesystem(delta.table_path(settings, table))
    actions: list[AddAction | RemoveAction] = []
    for file in batch.files:
        rows = ds.dataset(f"{root}/{file['path']}", filesystem=source).to_table()
        value = None if file["day"] == NO_DAY else file["day"]
        place = f"{table.partition_by}={value or '__HIVE_DEFAULT_PARTITION__'}"
        path = f"{place}/restored-{batch.number:06d}-{file['sha256'][:16]}.snappy.parquet"
        target.create_dir(f"{home}/{place}", recursive=True)
        with target.open_output_stream(f"{home}/{path}") as stream:
            pq.write_table(rows.drop([table.partition_by]), stream, compression="snappy")
        size = target.get_file_info(f"{home}/{path}").size
        stats: dict[str, Any] = {"numRecords": rows.num_rows}
        if "load_timestamp" in rows.column_names:
            bounds = pc.min_max(rows["load_timestamp"]).as_py()
            stats |= {f"{name}Values": {"load_timestamp": at.isoformat()} for name, at in bounds.items()}
            stats |= {"nullCount": {"load_timestamp": 0}}
        actions.append(AddAction(path, size, {table.partition_by: value}, int(datetime.now().timestamp() * 1000),
                                 False, json.dumps(stats)))  # fmt: skip
    opened = DeltaTable(delta.table_path(settings, table))
    opened.create_write_transaction(
        actions,
        mode="append",
        schema=opened.schema(),
        partition_by=opened.metadata().partition_columns,
        commit_properties=CommitProperties(
            app_transactions=[Transaction(f"{APP_ID}-restored-{batch.number}", 1)],
            custom_metadata={"userMetadata": json.dumps({"restored_from_archive": batch.number})},
        ),
    )
