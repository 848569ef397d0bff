"""Maintain the tables without Spark: compact and cluster, vacuum, clean logs, archive.

The Delta logs alone decide what is worth doing; each piece of work says why, and what it frees.
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
"""Number of small files in one partition that makes compacting worthwhile."""
ROW_GROUP = 20_000
"""Rows in a row group, the unit that a reader can skip. Measured on 5,000,000 clustered events (`make bench`): the
events of one user are in 6 % of the bytes; with one row group per file, in all of them."""
MANY_RUNS = 50
"""Number of files of a table under ``ops/`` that makes compacting worthwhile."""
LONG_LOG = 150
"""Number of commits since the last checkpoint that makes a table slow to open."""
WORTH_VACUUM = 0.2
"""Bytes that vacuum must free, as a share of the live bytes, to be worth a pass of its own."""


@dataclass(frozen=True)
class Work:
    """A piece of maintenance that is worth doing on a table."""

    table: str
    kind: str
    """compact, checkpoint, vacuum or archive."""
    why: str
    files: int
    bytes: int
    """Bytes rewritten by compact, freed by the others."""
    command: str
    by_itself: bool = True
    """Whether a run may do it; otherwise it waits for a person."""
    value: str = ""
    """What was measured, with its unit."""
    bound: str = ""
    """What is in order."""


@delta.look()
def due(settings: Settings, today: date | None = None) -> list[Work]:
    """Everything worth doing, judged from the logs."""
    return delta.once(f"maintenance due {today}", lambda: _due(settings, today))


def _due(settings: Settings, today: date | None) -> list[Work]:
    work = _ops(settings) if settings.enable_delta else []
    for table in _existing(settings):
        try:
            delta_table = delta.made(settings, table, "there is nothing to do")
            work += filter(
                None,
                (_compact(table, delta_table), _checkpoint(table, delta_table), _vacuum(settings, table, delta_table)),
            )
            work += to_archive(settings, table, today)
        except (TableError, DeltaError, OSError):
            continue  # the health report covers broken tables
    return work


def to_archive(settings: Settings, table: Table, today: date | None = None) -> list[Work]:
    """The rows of a table past its retention: those that a run archives, and those that wait for a person."""
    past = archive.due(settings, table, today)
    if past is None:
        return []
    aged = archive.aged(settings, table, today) if settings.auto_archive else None
    rows, size, days = past.rows, past.bytes, len(past.days)
    blocker, work = waiting(settings, table), []
    if aged:
        why = f"{aged.rows:,} rows before {aged.before} have passed its retention since they were loaded"
        fix = command("run")
        work.append(_archive(table, [why, blocker], len(aged.days), aged.bytes, fix, not blocker, aged.rows))
        rows, size, days = rows - aged.rows, size - aged.bytes, days - len(aged.days)
    if rows or not aged:
        why = f"{rows:,} rows before {past.before} are past its retention"
        reason = (
            "they were so when they were loaded, or came back from the archive, and stay until a person decides"
            if settings.auto_archive
            else "auto_archive is off"
        )
        fix = command("run" if blocker else f"retention {table.name}")
        work.append(_archive(table, [why, reason, blocker], days, size, fix, False, rows))
    return work


def _archive(table: Table, why: list[str], days: int, size: int, fix: str, by_itself: bool, rows: int) -> Work:
    cause = "; ".join(filter(None, why))
    return Work(table.name, "archive", cause, days, size, fix, by_itself, f"{rows:,} rows", "none past retention")


def _ops(settings: Settings) -> list[Work]:
    """Compaction of the tables under ``ops/``, to which every run adds a file."""
    work = []
    for name in ops.SCHEMAS:
        delta_table = delta.open_table(f"{settings.layer_path('ops')}/{name}")
        files = len(delta_table.file_uris()) if delta_table else 0
        if files >= MANY_RUNS:
            why = f"{files} files, one from each run; {MANY_RUNS} or more are worth compacting"
            work.append(Work(f"ops/{name}", "compact", why, files, 0, command("optimize"),
                             value=f"{files} files", bound=f"fewer than {MANY_RUNS}"))  # fmt: skip
    return work


def automatic(settings: Settings, today: date | None = None) -> list[Work]:
    """What a run does by itself: files and logs if ``auto_optimize`` is set, and if ``auto_archive`` is set, the rows
    that have passed their retention since they were loaded."""
    if not settings.auto_optimize and not settings.auto_archive:
        return []
    return [
        work for work in due(settings, today) if (work.by_itself if work.kind == "archive" else settings.auto_optimize)
    ]


@delta.look()
def aged(settings: Settings, today: date | None = None) -> list[Work]:
    """What a run archives by itself, even one that finds nothing new: it needs no file listing."""
    due_work: list[Work] = []
    for table in _existing(settings) if settings.auto_archive else []:
        with contextlib.suppress(TableError, DeltaError, OSError):  # as in `due`
            due_work += [work for work in to_archive(settings, table, today) if work.by_itself]
    return due_work


def overview(work: list[Work]) -> pd.DataFrame:
    """Work as a table: ``table, what, command, why, files, MB``."""
    rows = [(w.table, w.kind, f"`{w.command}`", w.why, w.files, w.bytes / 1e6) for w in work]
    return pd.DataFrame(rows, columns=["table", "what", "command", "why", "files", "MB"])


def freeable(settings: Settings) -> pd.DataFrame:
    """What vacuum would free now: ``table, files, bytes``."""
    rows = [
        (table.name, len(files), size) for table in _existing(settings) for files, size in [removable(settings, table)]
    ]
    return pd.DataFrame(rows, columns=["table", "files", "bytes"])


def do(settings: Settings, work: Work, today: date | None = None) -> str:
    """Do a piece of work; returns a sentence about what was done."""
    if work.table.startswith("ops/"):
        delta_table = DeltaTable(f"{settings.layer_path('ops')}/{work.table.removeprefix('ops/')}")
        delta_table.optimize.compact()
        delta_table.create_checkpoint()
        return f"{work.table}: {work.files} files before, {len(delta_table.file_uris())} now"
    table = tables.get(settings, work.table)
    if work.kind == "compact":
        return optimize(settings, table)
    if work.kind == "vacuum":
        return vacuum(settings, table)
    if work.kind == "checkpoint":
        return clean_log(settings, table)
    return retention(settings, table, today, only_aged=work.by_itself)


def optimize(settings: Settings, table: Table, everything: bool = False) -> str:
    """Compact small files; no row changes.

    Rewrites only partitions with many small files, or all of them with ``everything``. A table with
    ``cluster_by`` is ordered by its first column.
    """
    delta_table = _opened(settings, table)
    sizes = _file_sizes(table, delta_table, below=2**63 if everything else SMALL)
    partitions = [partition for partition, file_sizes in sizes.items() if everything or len(file_sizes) >= MANY]
    before, rewritten = len(delta_table.file_uris()), 0
    properties = WriterProperties(compression="SNAPPY", max_row_group_size=ROW_GROUP)
    for partition in sorted(partitions, key=str):
        filters = (
            [(table.partition_by, "=", "" if partition is None else str(partition))] if table.partition_by else None
        )
        if table.cluster_by:
            metrics = delta_table.optimize.z_order(
                table.cluster_by[:1], partition_filters=filters, writer_properties=properties
            )
        else:
            metrics = delta_table.optimize.compact(partition_filters=filters, writer_properties=properties)
        rewritten += int(metrics["numFilesRemoved"])
    return f"{table.name}: {rewritten} files rewritten, {before} before, {len(delta_table.file_uris())} now"


def kept_hours(settings: Settings) -> int:
    """How long vacuum keeps unused files: at least as long as time travel needs them."""
    return 24 * max(settings.time_travel_retention_days, settings.vacuum_retention_days)


def removable(settings: Settings, table: Table, hours: int | None = None) -> tuple[list[str], int]:
    """The files that vacuum would remove, and their total size in bytes."""
    delta_table = _opened(settings, table)
    files = _vacuumed(settings, delta_table, hours, dry_run=True)
    return files, sum(_sizes(delta_table, files).values())


def unreadable(settings: Settings, table: Table, hours: int) -> list[int]:
    """The readable versions that a vacuum with this retention would make unreadable."""
    files, _ = removable(settings, table, hours)
    removed, delta_table = set(files), _opened(settings, table)
    lost = []
    for entry in delta_table.history():
        try:
            needed = pa.table(DeltaTable(delta_table.table_uri, version=entry["version"]).get_add_actions())["path"]
        except DeltaError:
            continue
        if removed.intersection(needed.to_pylist()):
            lost.append(entry["version"])
    return sorted(lost)


def vacuum(settings: Settings, table: Table, hours: int | None = None, force: bool = False) -> str:
    """Remove files that no version within the retention needs; returns what was freed.

    Raises
    ------
    ConfigError
        ``hours`` is less than time travel promises, and ``force`` is not set.
    """
    kept = kept_hours(settings)
    if hours is not None and hours < kept and not force:
        lost = unreadable(settings, table, hours)
        raise ConfigError(
            f"{table.name}: time travel promises {kept} hours; with {hours} the versions "
            f"{', '.join(map(str, lost)) or '(none)'} could no longer be read. Add --force to do it."
        )
    delta_table = _opened(settings, table)
    files = _vacuumed(settings, delta_table, hours, dry_run=True)
    sizes = _sizes(delta_table, files)
    _vacuumed(settings, delta_table, hours, dry_run=False)
    remaining = _sizes(delta_table, files)
    freed = sum(size for file, size in sizes.items() if file not in remaining)
    return f"{table.name}: {len(sizes) - len(remaining)} files removed, {freed:,} bytes freed"


def _vacuumed(settings: Settings, delta_table: DeltaTable, hours: int | None, dry_run: bool) -> list[str]:
    kept = kept_hours(settings) if hours is None else hours
    return delta_table.vacuum(retention_hours=kept, dry_run=dry_run, enforce_retention_duration=False, full=True)


def clean_log(settings: Settings, table: Table) -> str:
    """Write a checkpoint and remove log entries that time travel no longer needs."""
    delta_table = _opened(settings, table)
    delta_table.create_checkpoint()
    delta_table.cleanup_metadata()
    return f"{table.name}: checkpoint at version {delta_table.version()}"


def retention(settings: Settings, table: Table, today: date | None = None, only_aged: bool = False) -> str:
    """Archive the rows past the table's retention, or with ``only_aged`` just those that passed it since they were
    loaded, unless a table made from this one has yet to read it."""
    past = (archive.aged if only_aged else archive.due)(settings, table, today)
    if past is None:
        return f"{table.name}: nothing is past its retention"
    if blocker := waiting(settings, table):
        return f"{table.name}: kept, because {blocker}"
    batch = archive.retire(settings, table, past)
    bookkeeping.account(settings, table)
    return f"{table.name}: {batch.rows:,} rows of {len(batch.days)} days are in {batch.folder}"


def waiting(settings: Settings, table: Table) -> str:
    """Names the tables that have yet to read the whole table; empty if there are none."""
    behind = []
    for target in tables.declared(settings).values():
        if table.name in target.sources:
            state = inputs.source_states(settings, target).get(table.name)
            if not delta.exists(settings, target) or state is None or state.changed:
                behind.append(target.name)
    return f"{', '.join(behind)} has not read all of it yet" if behind else ""


def log_length(delta_table: DeltaTable) -> tuple[int, datetime | None]:
    """Number of commits since the last checkpoint, and the time of that checkpoint."""
    checkpoint = delta.last_checkpoint(delta_table.table_uri)
    return delta_table.version() - (checkpoint[0] if checkpoint else -1), checkpoint[1] if checkpoint else None


def _compact(table: Table, delta_table: DeltaTable) -> Work | None:
    partitions = {
        partition: file_sizes
        for partition, file_sizes in _file_sizes(table, delta_table, SMALL).items()
        if len(file_sizes) >= MANY
    }
    if not partitions:
        return None
    files, size = sum(map(len, partitions.values())), sum(map(sum, partitions.values()))
    where = f" in {len(partitions)} days" if table.partition_by else ""
    why = f"{files} files below {SMALL // 2**20} MB{where}, {MANY} or more together"
    return Work(table.name, "compact", why, files, size, command(f"optimize {table.name}"),
                value=f"{files} small files", bound=f"fewer than {MANY} together")  # fmt: skip


def _checkpoint(table: Table, delta_table: DeltaTable) -> Work | None:
    commits, _ = log_length(delta_table)
    if commits < LONG_LOG:
        return None
    why = f"{commits} commits since the last checkpoint, at most {LONG_LOG} open fast"
    return Work(table.name, "checkpoint", why, commits, 0, command(f"optimize {table.name}"),
                value=f"{commits} commits", bound=f"fewer than {LONG_LOG}")  # fmt: skip


def _vacuum(settings: Settings, table: Table, delta_table: DeltaTable) -> Work | None:
    files, size = removable(settings, table)
    live = sum(delta.files(delta_table)["size_bytes"].to_pylist())
    if not files or size < WORTH_VACUUM * live:
        return None
    why = f"{size:,} bytes belong to versions older than {kept_hours(settings) // 24} days, {live:,} are live"
    return Work(table.name, "vacuum", why, len(files), size, command(f"vacuum {table.name}"),
                value=f"{size / 1e6:,.1f} MB", bound=f"less than {WORTH_VACUUM * live / 1e6:,.1f} MB")  # fmt: skip


def _file_sizes(table: Table, delta_table: DeltaTable, below: int) -> dict[str | None, list[int]]:
    """Sizes of the files smaller than ``below`` bytes, by partition."""
    files, partition_column = delta.files(delta_table), f"partition.{table.partition_by}"
    names = [name for name in ("size_bytes", partition_column) if name in files.column_names]
    sizes: dict[str | None, list[int]] = defaultdict(list)
    for file in files.select(names).to_pylist():
        if file["size_bytes"] < below:
            partition = file.get(partition_column)
            sizes[None if partition is None else str(partition)].append(file["size_bytes"])
    return sizes


def _sizes(delta_table: DeltaTable, files: list[str]) -> dict[str, int]:
    """Sizes in bytes of those files that exist."""
    filesystem, root = delta.filesystem(delta_table.table_uri)
    infos = filesystem.get_file_info([f"{root}/{file}" for file in files]) if files else []
    return {file: info.size for file, info in zip(files, infos, strict=True) if info.is_file}


def _existing(settings: Settings) -> list[Table]:
    return [table for table in tables.declared(settings).values() if settings.enable_delta and _exists(settings, table)]


def _exists(settings: Settings, table: Table) -> bool:
    try:
        return delta.exists(settings, table)
    except TableError:
        return False


def _opened(settings: Settings, table: Table) -> DeltaTable:
    """Open a table separately from its readers, because maintenance changes it."""
    return DeltaTable(delta.made(settings, table, "there is nothing to keep in shape").table_uri)
