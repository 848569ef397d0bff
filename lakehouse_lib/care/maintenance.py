"""Keep the tables in shape: compact and cluster, vacuum, clean logs, archive. Without Spark.

What is worth doing follows from the Delta logs alone; each piece of work says why, and what it frees.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime

import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable, WriterProperties
from deltalake.exceptions import DeltaError

from lakehouse_lib.config import Settings, command
from lakehouse_lib.errors import ConfigError, TableError
from lakehouse_lib.flow import bookkeeping
from lakehouse_lib.layers import inputs
from lakehouse_lib.model import ops, tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import archive, delta

SMALL = 16 * 2**20
"""Bytes below which a file counts as small."""
MANY = 8
"""Small files in one partition that are worth compacting."""
ROW_GROUP = 20_000
"""Rows of a row group of a clustered file: what a reader can skip. Measured on 5,000,000 events
(`make bench`): the events of one user are in 6 % of the bytes, with one row group a file in all."""
MANY_RUNS = 50
"""Files of a table under ``ops/`` that are worth compacting."""
LONG_LOG = 150
"""Commits since the last checkpoint from which a table opens slowly."""
WORTH_VACUUM = 0.2
"""Share of the live bytes that vacuum has to free to be worth a pass of its own."""


@dataclass(frozen=True)
class Work:
    """Something worth doing to a table."""

    table: str
    kind: str
    """compact, checkpoint, vacuum or archive."""
    why: str
    files: int
    bytes: int
    """Rewritten by compact, freed by the others."""
    command: str
    by_itself: bool = True
    """Whether a run may do it; else it waits for a person."""


def due(settings: Settings, today: date | None = None) -> list[Work]:
    """All that is worth doing, from the logs."""
    found = _ops(settings) if settings.enable_delta else []
    for table in _made(settings):
        try:
            opened = delta.made(settings, table, "there is nothing to do")
            found += filter(
                None, (_compact(table, opened), _checkpoint(table, opened), _vacuum(settings, table, opened))
            )
            found += to_archive(settings, table, today)
        except (TableError, DeltaError, OSError):
            continue  # a broken table is the health report's to tell
    return found


def to_archive(settings: Settings, table: Table, today: date | None = None) -> list[Work]:
    """What of a table is past its retention: what a run archives, and what waits for a person."""
    past = archive.due(settings, table, today)
    if past is None:
        return []
    aged = archive.aged(settings, table, today) if settings.auto_archive else None
    rows, size, days = past.rows, past.bytes, len(past.days)
    waits, found = waiting(settings, table), []
    if aged:
        why = f"{aged.rows:,} rows before {aged.before} have passed its retention since they were loaded"
        found.append(_archive(table, [why, waits], len(aged.days), aged.bytes, command("run"), by_itself=not waits))
        rows, size, days = rows - aged.rows, size - aged.bytes, days - len(aged.days)
    if rows or not aged:
        why = f"{rows:,} rows before {past.before} are past its retention"
        reason = (
            "they were so when they were loaded, or came back from the archive, and stay until a person decides"
            if settings.auto_archive
            else "auto_archive is off"
        )
        fix = command("run" if waits else f"retention {table.name}")
        found.append(_archive(table, [why, reason, waits], days, size, fix, by_itself=False))
    return found


def _archive(table: Table, why: list[str], days: int, size: int, fix: str, by_itself: bool) -> Work:
    return Work(table.name, "archive", "; ".join(filter(None, why)), days, size, fix, by_itself)


def _ops(settings: Settings) -> list[Work]:
    """The tables under ``ops/``, to which every run adds a file."""
    found = []
    for name in ops.SCHEMAS:
        opened = delta.open_table(f"{settings.layer_path('ops')}/{name}")
        files = len(opened.file_uris()) if opened else 0
        if files >= MANY_RUNS:
            why = f"{files} files, one of each run, {MANY_RUNS} or more"
            found.append(Work(f"ops/{name}", "compact", why, files, 0, command("optimize")))
    return found


def automatic(settings: Settings, today: date | None = None) -> list[Work]:
    """What a run does by itself: where ``auto_optimize`` says so files and logs, where ``auto_archive``
    does the rows that have passed their retention since they were loaded."""
    if not settings.auto_optimize and not settings.auto_archive:
        return []
    return [
        work for work in due(settings, today) if (work.by_itself if work.kind == "archive" else settings.auto_optimize)
    ]


def aged(settings: Settings, today: date | None = None) -> list[Work]:
    """What a run archives by itself, also one that finds nothing new: no file is listed for it."""
    found: list[Work] = []
    for table in _made(settings) if settings.auto_archive else []:
        with contextlib.suppress(TableError, DeltaError, OSError):  # as in `due`
            found += [work for work in to_archive(settings, table, today) if work.by_itself]
    return found


def overview(settings: Settings) -> pd.DataFrame:
    """What is worth doing: ``table, what, why, files, MB, command``."""
    rows = [(w.table, w.kind, w.why, w.files, w.bytes / 1e6, f"`{w.command}`") for w in due(settings)]
    return pd.DataFrame(rows, columns=["table", "what", "why", "files", "MB", "command"])


def freeable(settings: Settings) -> pd.DataFrame:
    """What vacuum would free now: ``table, files, bytes``."""
    rows = [(table.name, len(files), size) for table in _made(settings) for files, size in [removable(settings, table)]]
    return pd.DataFrame(rows, columns=["table", "files", "bytes"])


def do(settings: Settings, work: Work, today: date | None = None) -> str:
    """Do a piece of work; returns what was done, for people."""
    if work.table.startswith("ops/"):
        opened = DeltaTable(f"{settings.layer_path('ops')}/{work.table.removeprefix('ops/')}")
        opened.optimize.compact()
        opened.create_checkpoint()
        return f"{work.table}: {work.files} files before, {len(opened.file_uris())} now"
    table = tables.get(settings, work.table)
    if work.kind == "compact":
        return optimize(settings, table)
    if work.kind == "vacuum":
        return vacuum(settings, table)
    if work.kind == "checkpoint":
        return clean_log(settings, table)
    return retention(settings, table, today, only_aged=work.by_itself)


def optimize(settings: Settings, table: Table, everything: bool = False) -> str:
    """Put small files together, ordered by what people look for; no row changes.

    Only partitions with many small files are rewritten, or with ``everything`` all. A table with
    ``cluster_by`` is ordered along its first column.
    """
    opened = _opened(settings, table)
    sizes = _file_sizes(table, opened, below=2**63 if everything else SMALL)
    parts = [part for part, found in sizes.items() if everything or len(found) >= MANY]
    before, rewritten = len(opened.file_uris()), 0
    properties = WriterProperties(compression="SNAPPY", max_row_group_size=ROW_GROUP)
    for part in sorted(parts, key=str):
        where = [(table.partition_by, "=", "" if part is None else str(part))] if table.partition_by else None
        if table.cluster_by:
            done = opened.optimize.z_order(table.cluster_by[:1], partition_filters=where, writer_properties=properties)
        else:
            done = opened.optimize.compact(partition_filters=where, writer_properties=properties)
        rewritten += int(done["numFilesRemoved"])
    return f"{table.name}: {rewritten} files rewritten, {before} before, {len(opened.file_uris())} now"


def kept_hours(settings: Settings) -> int:
    """How long files that no version needs any more are kept: time travel needs them as long."""
    return 24 * max(settings.time_travel_retention_days, settings.vacuum_retention_days)


def removable(settings: Settings, table: Table, hours: int | None = None) -> tuple[list[str], int]:
    """Files that vacuum would remove, and their bytes."""
    opened = _opened(settings, table)
    files = _vacuumed(settings, opened, hours, dry_run=True)
    return files, sum(_sizes(opened, files).values())


def unreadable(settings: Settings, table: Table, hours: int) -> list[int]:
    """Versions that can be read now, and not after a vacuum that keeps fewer hours."""
    files, _ = removable(settings, table, hours)
    gone, opened = set(files), _opened(settings, table)
    lost = []
    for entry in opened.history():
        try:
            needed = pa.table(DeltaTable(opened.table_uri, version=entry["version"]).get_add_actions())["path"]
        except DeltaError:
            continue
        if gone.intersection(needed.to_pylist()):
            lost.append(entry["version"])
    return sorted(lost)


def vacuum(settings: Settings, table: Table, hours: int | None = None, force: bool = False) -> str:
    """Remove files that no version within the retention needs; returns what was freed.

    Raises
    ------
    ConfigError
        ``hours`` is less than time travel promises, and ``force`` was not given.
    """
    kept = kept_hours(settings)
    if hours is not None and hours < kept and not force:
        lost = unreadable(settings, table, hours)
        raise ConfigError(
            f"{table.name}: time travel promises {kept} hours; with {hours} the versions "
            f"{', '.join(map(str, lost)) or '(none)'} could no longer be read. Add --force to do it."
        )
    opened = _opened(settings, table)
    files = _vacuumed(settings, opened, hours, dry_run=True)
    before = _sizes(opened, files)
    _vacuumed(settings, opened, hours, dry_run=False)
    left = _sizes(opened, files)
    freed = sum(size for file, size in before.items() if file not in left)
    return f"{table.name}: {len(before) - len(left)} files removed, {freed:,} bytes freed"


def _vacuumed(settings: Settings, opened: DeltaTable, hours: int | None, dry_run: bool) -> list[str]:
    kept = kept_hours(settings) if hours is None else hours
    return opened.vacuum(retention_hours=kept, dry_run=dry_run, enforce_retention_duration=False, full=True)


def clean_log(settings: Settings, table: Table) -> str:
    """Write a checkpoint and remove log entries that are past time travel."""
    opened = _opened(settings, table)
    opened.create_checkpoint()
    opened.cleanup_metadata()
    return f"{table.name}: checkpoint at version {opened.version()}"


def retention(settings: Settings, table: Table, today: date | None = None, only_aged: bool = False) -> str:
    """Archive what is past the table's retention, or only what has aged in it, unless a table made from it has
    yet to read it."""
    past = (archive.aged if only_aged else archive.due)(settings, table, today)
    if past is None:
        return f"{table.name}: nothing is past its retention"
    if waits := waiting(settings, table):
        return f"{table.name}: kept, because {waits}"
    batch = archive.retire(settings, table, past)
    bookkeeping.account(settings, table)
    return f"{table.name}: {batch.rows:,} rows of {len(batch.days)} days are in {batch.folder}"


def waiting(settings: Settings, table: Table) -> str:
    """Which tables have yet to read the whole table; empty if none."""
    behind = []
    for other in tables.declared(settings).values():
        if table.name in other.sources:
            state = inputs.source_states(settings, other).get(table.name)
            if not delta.exists(settings, other) or state is None or state.changed:
                behind.append(other.name)
    return f"{', '.join(behind)} has not read all of it yet" if behind else ""


def log_length(opened: DeltaTable) -> tuple[int, datetime | None]:
    """Commits since the last checkpoint, and when that was written."""
    last = delta.last_checkpoint(opened.table_uri)
    return opened.version() - (last[0] if last else -1), last[1] if last else None


def _compact(table: Table, opened: DeltaTable) -> Work | None:
    parts = {part: found for part, found in _file_sizes(table, opened, SMALL).items() if len(found) >= MANY}
    if not parts:
        return None
    files, size = sum(map(len, parts.values())), sum(map(sum, parts.values()))
    where = f" in {len(parts)} days" if table.partition_by else ""
    why = f"{files} files below {SMALL // 2**20} MB{where}, {MANY} or more together"
    return Work(table.name, "compact", why, files, size, command(f"optimize {table.name}"))


def _checkpoint(table: Table, opened: DeltaTable) -> Work | None:
    commits, _ = log_length(opened)
    if commits < LONG_LOG:
        return None
    why = f"{commits} commits since the last checkpoint, at most {LONG_LOG} open fast"
    return Work(table.name, "checkpoint", why, commits, 0, command(f"optimize {table.name}"))


def _vacuum(settings: Settings, table: Table, opened: DeltaTable) -> Work | None:
    files, size = removable(settings, table)
    live = sum(pa.table(opened.get_add_actions())["size_bytes"].to_pylist())
    if not files or size < WORTH_VACUUM * live:
        return None
    why = f"{size:,} bytes are of versions older than {kept_hours(settings) // 24} days, {live:,} are live"
    return Work(table.name, "vacuum", why, len(files), size, command(f"vacuum {table.name}"))


def _file_sizes(table: Table, opened: DeltaTable, below: int) -> dict[str | None, list[int]]:
    """Sizes of the files of each partition that are smaller than that."""
    files = pa.table(opened.get_add_actions(flatten=True)).to_pylist()
    found: dict[str | None, list[int]] = defaultdict(list)
    for file in files:
        if file["size_bytes"] < below:
            part = file.get(f"partition.{table.partition_by}")
            found[None if part is None else str(part)].append(file["size_bytes"])
    return found


def _sizes(opened: DeltaTable, files: list[str]) -> dict[str, int]:
    """Bytes of those files that are there."""
    filesystem, root = delta.filesystem(opened.table_uri)
    infos = filesystem.get_file_info([f"{root}/{file}" for file in files]) if files else []
    return {file: info.size for file, info in zip(files, infos, strict=True) if info.is_file}


def _made(settings: Settings) -> list[Table]:
    return [table for table in tables.declared(settings).values() if settings.enable_delta and _exists(settings, table)]


def _exists(settings: Settings, table: Table) -> bool:
    try:
        return delta.exists(settings, table)
    except TableError:
        return False


def _opened(settings: Settings, table: Table) -> DeltaTable:
    return delta.made(settings, table, "there is nothing to keep in shape")
