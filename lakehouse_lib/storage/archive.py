"""Retention: rows past it go to ``archive/`` and only then from the table, exactly once, and can come back.

Batch *n* of a table is a folder of Parquet files with a manifest. It counts once a commit of the
table carries the number *n*, the very commit that deletes the rows; it is taken back by a commit
that carries ``archive-restored-n``. Each attempt writes a folder of its own, which the commit names
(``archive-folder-n``): a run that is killed in between, or that another one overtakes, leaves a
folder that no commit knows. A table that is taken back to a version in which a batch was still away
remembers that too (``archive-restored-n`` is 0 then).

Archived rows are still rows of the table for all that is made from it: `with_archived` adds them,
and before a table is rewritten they come back.
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
"""Transaction id under which a table remembers its last batch."""

NO_DAY = "none"


@dataclass(frozen=True)
class Due:
    """Rows of a table past its retention."""

    table: str
    before: date
    """Rows of earlier days are past it."""
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
    """What of a table is past its retention, from the log alone; None if nothing is.

    A bronze row has to be past it by the day it happened and by the day its file landed, so that a
    backfill stays as long as any load.
    """
    found = _past(settings, table, today)
    return None if found is None else _due(table, found, {_day(table, file) for file in found.old})


def aged(settings: Settings, table: Table, today: date | None = None) -> Due | None:
    """What of it was in the table before it passed its retention, so that it can go without a person.

    A day waits for a person where rows of it were written later than that or by this very run, as by a
    first load of old data, or came back from the archive.
    """
    found = _past(settings, table, today)
    if found is None:
        return None
    kept = timedelta(days=_kept_days(settings, table) + 1)
    days = {_day(table, file) for file in found.old}
    days -= {
        _day(table, file) for file in found.files if not _held_in_time(table, file, found.before, kept, settings.run_id)
    }
    return _due(table, found, days - _came_back(settings, table, found.opened)) if days else None


@dataclass(frozen=True)
class _Past:
    opened: DeltaTable
    before: date
    files: list[dict[str, Any]]
    """All files of the table, as its log lists them."""
    old: list[dict[str, Any]]
    """Those of which every row is past the retention."""


def _kept_days(settings: Settings, table: Table) -> int:
    return settings.retention.get(table.name, table.retention_days)


def _past(settings: Settings, table: Table, today: date | None) -> _Past | None:
    kept = _kept_days(settings, table)
    opened = delta.opened(settings, table)
    if opened is None or not kept or not table.partition_by:
        return None
    before = (today or datetime.now(UTC).date()) - timedelta(days=kept)
    files = pa.table(opened.get_add_actions(flatten=True)).to_pylist()
    day, landed = f"partition.{table.partition_by}", "max.load_timestamp"
    old = [f for f in files if (f[day] is None or f[day] < before)
           and (table.layer != "bronze" or (f.get(landed) is not None and f[landed].date() < before))]  # fmt: skip
    return _Past(opened, before, files, old) if old else None


def _day(table: Table, file: dict[str, Any]) -> str:
    day = file[f"partition.{table.partition_by}"]
    return NO_DAY if day is None else str(day)


def _due(table: Table, found: _Past, days: set[str]) -> Due | None:
    """What is past the retention, of some days."""
    old = [file for file in found.old if _day(table, file) in days]
    rows, size = sum(file["num_records"] or 0 for file in old), sum(file["size_bytes"] for file in old)
    return Due(table.name, found.before, sorted(days), rows, size) if old else None


def _held_in_time(table: Table, file: dict[str, Any], before: date, kept: timedelta, run_id: str) -> bool:
    """Whether all rows of a file that can go were written by an earlier run, before they passed the retention."""
    passed, written = file[f"partition.{table.partition_by}"], file.get("max._processed_at")
    if table.layer == "bronze":
        landed, written = file.get("min.load_timestamp"), file.get("max._ingested_at")
        if landed is None:
            return False
        if landed.date() >= before:
            return True  # none of its rows goes
        passed = max(passed or date.min, landed.date())
    if passed is None or written is None or file.get("max._run_id") == (run_id or None):
        return False
    return bool(written.replace(tzinfo=UTC) < datetime.combine(passed + kept, datetime.min.time(), UTC))


def _came_back(settings: Settings, table: Table, opened: DeltaTable) -> set[str]:
    """Days whose rows were in the archive, and were brought back by a person or by a late record."""
    found: set[str] = set()
    for number in range(1, (opened.transaction_version(APP_ID) or 0) + 1):
        with contextlib.suppress(TableError):  # what came back needs its folder no more
            days = set(_manifest(table, _folder(settings, table, opened, number)).days)
            found = found - days if _is_away(opened, number) else found | days
    return found


def retire(settings: Settings, table: Table, found: Due) -> Batch:
    """Move what is past a table's retention to the archive.

    Raises
    ------
    LedgerError
        The archive does not hold what is to be deleted; nothing was.
    """
    opened = DeltaTable(delta.table_path(settings, table))
    number, token = (opened.transaction_version(APP_ID) or 0) + 1, secrets.randbits(62)
    limit = datetime.combine(found.before, datetime.min.time(), UTC)
    folder = f"{_home(settings, table)}/batch={number:06d}-{token:016x}"
    batch = _write(folder, table, opened, number, found.days, limit if table.layer == "bronze" else None)
    _verify(settings, batch)
    dated = [f"DATE '{day}'" for day in found.days if day != NO_DAY]
    where = [f"{table.partition_by} IN ({', '.join(dated)})"] if dated else []
    where += [f"{table.partition_by} IS NULL"] if NO_DAY in found.days else []
    predicate = f"({' OR '.join(where)})"
    if table.layer == "bronze":
        predicate += f" AND load_timestamp < '{limit.isoformat()}'"
    done = opened.delete(
        predicate,
        commit_properties=CommitProperties(
            app_transactions=[Transaction(APP_ID, number), Transaction(f"{APP_ID}-folder-{number}", token)],
            custom_metadata={"userMetadata": json.dumps({"archived": number})},
        ),
    )
    if done["num_deleted_rows"] not in (None, batch.rows):
        raise LedgerError(
            f"{table.name}: {done['num_deleted_rows']} rows were deleted, {batch.rows} are in {batch.folder}. "
            f"Take the table back: lakehouse restore {table.name} {opened.version() - 1}"
        )
    return batch


def batches(settings: Settings, table: Table) -> list[Batch]:
    """Batches of a table that are in the archive and not in the table, oldest first.

    Raises
    ------
    TableError
        The table has rows in the archive, and their folder is gone.
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
    """Days of which a table has rows, in its files or in the archive; from the log alone."""
    opened = delta.opened(settings, table)
    if opened is None or not table.partition_by:
        return set()
    files = pa.table(opened.get_add_actions(flatten=True))
    there = {day for day in files[f"partition.{table.partition_by}"].to_pylist() if isinstance(day, date)}
    away = {day for batch in batches(settings, table) for day in batch.days if day != NO_DAY}
    return there | {date.fromisoformat(day) for day in away}


def memories(then: DeltaTable, now: DeltaTable) -> list[delta.Consumed]:
    """What a table has to remember of its batches when it is taken back to what it was: those whose
    rows it held then are back, those whose rows it did not hold are away."""
    last = now.transaction_version(APP_ID) or 0
    return [
        delta.Consumed(f"{APP_ID}-restored-{number}", int(not _is_away(then, number)))
        for number in range(1, last + 1)
        if _is_away(then, number) != _is_away(now, number)
    ]


def _is_away(opened: DeltaTable, number: int) -> bool:
    """Whether the rows of a batch are in the archive and not in the table."""
    archived = (opened.transaction_version(APP_ID) or 0) >= number
    return archived and not opened.transaction_version(f"{APP_ID}-restored-{number}")


def restore(settings: Settings, table: Table, days: Iterable[str | date | None] | None = None) -> list[Batch]:
    """Bring batches back into the table: all, or those that hold one of the days.

    What is made from the table does not see them as new.

    Raises
    ------
    LedgerError
        A file of the archive is not what was written; nothing was changed.
    """
    wanted = None if days is None else {NO_DAY if day is None else str(day) for day in days}
    found = [batch for batch in batches(settings, table) if wanted is None or wanted & {*batch.days}]
    for batch in found:
        _verify(settings, batch)
        _put_back(settings, table, batch)
    return found


def with_archived(settings: Settings, table: Table, rows: DataFrame) -> DataFrame:
    """The table's rows and those that are in its archive."""
    found = batches(settings, table)
    if not found:
        return rows
    # One scan, however many batches: a table gets one a day.
    files = [f"{batch.folder}/{file['path']}" for batch in found for file in batch.files]
    return rows.unionByName(rows.sparkSession.read.schema(rows.schema).parquet(*files))


def _home(settings: Settings, table: Table) -> str:
    return f"{settings.layer_path('archive')}/{table.name}"


def _folder(settings: Settings, table: Table, opened: DeltaTable, number: int) -> str:
    """Where a batch is: the commit that made it count says which of the folders of its number it is."""
    token = opened.transaction_version(f"{APP_ID}-folder-{number}")  # none in batches of early versions
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
            found = json.loads(stream.read())
    except FileNotFoundError:
        raise TableError(
            f"A batch of the archive of {table.name} is gone ({folder}); what is made from the table needs "
            "its rows. Put the folder back."
        ) from None
    return Batch(folder=folder, **{name: found[name] for name in Batch.__dataclass_fields__ if name != "folder"})


def _verify(settings: Settings, batch: Batch) -> None:
    filesystem, root = delta.filesystem(batch.folder)
    for file in batch.files:
        size, digest = _digest(filesystem, f"{root}/{file['path']}")
        if digest != file["sha256"]:
            raise LedgerError(
                f"{batch.folder}/{file['path']} is not what was archived ({size} bytes, {file['bytes']} expected, or "
                "other content). Bring it back from a backup; nothing was changed."
            )


def _digest(filesystem: Any, path: str) -> tuple[int, str]:
    with filesystem.open_input_file(path) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return stream.size(), digest


def _put_back(settings: Settings, table: Table, batch: Batch) -> None:
    """Add the batch's rows as files that say that they change no data: nobody reads them as new."""
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
