"""Tables on disk: their paths, their logs, and their rows as frames.

delta-rs reads metadata and creates tables, without a JVM; the engine reads and writes data.
With ``enable_delta: false`` tables are plain Parquet folders that are replaced as a whole.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import DeltaTable, Field, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError

from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError, NotMadeError, TableError
from lakehouse_lib.model.tables import Table, spark_type, with_columns
from lakehouse_lib.storage import remembered

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

T = TypeVar("T")


@dataclass(frozen=True)
class Consumed:
    """How far a write has read a source; a source that is recreated gets another ``app_id``."""

    app_id: str
    version: int


@dataclass
class Changes:
    """What changed in a table between two versions."""

    partitions: set[str | None] = field(default_factory=set)
    any: bool = False
    commits: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = True
    """False if log entries are missing, so that only a full read is safe."""
    rewritten: bool = False
    """Whether existing rows were replaced."""
    replayed: set[date] = field(default_factory=set)
    """Days on which replayed records landed."""


def table_path(settings: Settings, table: Table) -> str:
    """Return the folder of a table."""
    folder = table.name.removesuffix("_quarantine") if table.layer == "quarantine" else table.name
    return f"{settings.layer_path(table.layer)}/{folder}"


_look: ContextVar[dict[str, Any] | None] = ContextVar("look", default=None)


@contextlib.contextmanager
def look() -> Iterator[None]:
    """Open each table, and read each table under ``ops/``, only once, so that code that only reads sees a single
    version. Also a decorator."""
    if _look.get() is not None:
        yield
        return
    token = _look.set({})
    try:
        yield
    finally:
        _look.reset(token)


def open_table(path: str) -> DeltaTable | None:
    """Open the Delta table in a folder, to read it; None if there is none."""
    return once(path, lambda: _open(path))


def once(key: str, make: Callable[[], T]) -> T:
    """Return what ``make`` returns; within `look` it is called once for each key."""
    seen = _look.get()
    if seen is None:
        return make()
    if key not in seen:
        seen[key] = make()
    value: T = seen[key]
    return value


def _open(path: str) -> DeltaTable | None:
    try:
        return remembered.table(path)
    except TableNotFoundError:
        return None
    except DeltaError as error:
        raise TableError(f"{path} cannot be opened as a Delta table: {error}") from None


def opened(settings: Settings, table: Table) -> DeltaTable | None:
    """Open the current version of a table; None if it has not been made, or with ``ENABLE_DELTA=false``."""
    return open_table(table_path(settings, table)) if settings.enable_delta else None


def as_made(table: Table, opened: DeltaTable | None) -> Table:
    """Return the declaration with the columns that the table has in addition, as a replica does from its source."""
    added = {}
    for column in opened.schema().fields if opened else ():
        if column.name not in table.names:
            kind = str(column.type.type)
            added[column.name] = _SPARK_TYPES.get(kind, kind), (column.metadata or {}).get("comment", "")
    return with_columns(table, added) if added else table


_SPARK_TYPES = {"long": "bigint", "integer": "int"}
"""Spark's names of types that Delta's log names differently."""


def made(settings: Settings, table: Table, lacks: str) -> DeltaTable:
    """Open a table that must exist.

    Raises
    ------
    NotMadeError
        It has not been made; ``lacks`` says what is missing because of that.
    """
    opened = open_table(table_path(settings, table))
    if opened is None:
        raise NotMadeError(f"{table.name} has not been made yet: {lacks}.")
    return opened


def at(opened: DeltaTable, name: str, version: int) -> DeltaTable:
    """Return a table at a version.

    Raises
    ------
    ConfigError
        There is no such version, or it can no longer be read.
    """
    newest = opened.version()
    with contextlib.suppress(DeltaError):
        if 0 <= version <= newest:  # delta-rs searches minutes for a future version
            return opened if version == newest else DeltaTable(opened.table_uri, version=version)
    raise ConfigError(f"{name} has no version {version} that can be read; the newest is {newest}")


def dataset(opened: DeltaTable) -> ds.Dataset:
    """Return the files of a table for Arrow and DuckDB, read through Arrow's own filesystem.

    Through the filesystem of delta-rs, Arrow's threads would call back into Python and abort a process that is
    exiting.
    """
    files, root = filesystem(opened.table_uri)
    within = pafs.SubTreeFileSystem(root, files)
    return remembered.made_of(opened, "dataset", lambda table: table.to_pyarrow_dataset(filesystem=within))


def content(path: str, schema: pa.Schema) -> ds.Dataset:
    """Return the rows in a table's folder, Delta or plain Parquet; none if it has not been made."""
    opened = open_table(path)
    if opened is not None:
        return dataset(opened)
    plain = "://" not in path and any(Path(path).glob("*.parquet"))
    return ds.dataset(path, format="parquet") if plain else ds.dataset(schema.empty_table())


def read_ops(settings: Settings, name: str, **equal: Any) -> list[dict[str, Any]]:
    """Return the rows of a table under ``ops/`` in which the columns have these values; none if it does not exist."""
    path = f"{settings.layer_path('ops')}/{name}"
    opened = open_table(path)
    if opened is None:
        return []
    table = once(f"{path}: rows", lambda: dataset(opened).to_table())
    # Filter after the scan: delta-rs merges write text as string_view, which Arrow cannot compare while scanning.
    rows: list[dict[str, Any]] = table.filter(_equal(equal)).to_pylist()
    return rows


def ops_tuples(settings: Settings, name: str, columns: list[str], **equal: Any) -> Iterator[tuple[Any, ...]]:
    """Return some columns of the rows that `read_ops` selects; no rows if the table lacks one of the columns."""
    opened = open_table(f"{settings.layer_path('ops')}/{name}")
    if opened is None or not {*columns} <= {field.name for field in opened.schema().fields}:
        return iter(())
    rows = dataset(opened).to_table([*dict.fromkeys([*columns, *equal])]).filter(_equal(equal)).select(columns)
    return zip(*(column.to_pylist() for column in rows.columns), strict=True)


def _equal(equal: dict[str, Any]) -> ds.Expression:
    return functools.reduce(lambda a, b: a & b, (ds.field(k) == v for k, v in equal.items()), ds.scalar(True))


def exists(settings: Settings, table: Table) -> bool:
    """Return whether the table has been made."""
    path = table_path(settings, table)
    if settings.enable_delta:
        return open_table(path) is not None
    return Path(path).is_dir()


def ensure(settings: Settings, table: Table) -> None:
    """Create the table from its declaration, or add missing columns."""
    path = table_path(settings, table)
    if not settings.enable_delta:
        if not Path(path).is_dir():
            Path(path).mkdir(parents=True)
            pq.write_table(table.arrow_schema().empty_table(), f"{path}/empty.parquet")
        return
    existing = open_table(path)
    schema = Schema.from_arrow(table.arrow_schema())
    if existing is None:
        days = max(settings.time_travel_retention_days, settings.vacuum_retention_days)
        configuration = {
            "delta.logRetentionDuration": f"interval {settings.time_travel_retention_days} days",
            "delta.deletedFileRetentionDuration": f"interval {days} days",
        }
        if table.layer == "bronze":
            configuration["delta.enableChangeDataFeed"] = "true"
        DeltaTable.create(
            path, schema=schema, mode="ignore", name=table.name, description=table.description,
            partition_by=[table.partition_by] if table.partition_by else None,
            configuration=configuration,
        )  # fmt: skip
        _checksum(path)
        return
    present = {item.name for item in existing.schema().fields}
    if missing := [item for item in schema.fields if item.name not in present]:
        # Existing rows have no value for it, even if new rows require one.
        DeltaTable(path).alter.add_columns([Field(item.name, item.type, nullable=True, metadata=item.metadata)
                                            for item in missing])  # fmt: skip


def undeclared(settings: Settings, table: Table) -> list[str]:
    """Return the columns that a table has and that are no longer declared; a replica takes its columns from its
    source."""
    existing = opened(settings, table)
    if existing is None or table.name in {replica.target for replica in settings.cdc.replicas}:
        return []
    return [column.name for column in existing.schema().fields if column.name not in table.names]


def fits(settings: Settings, table: Table) -> bool:
    """Return whether a table has the declared partition column and, for the columns that it has, the types, and none
    to drop."""
    existing = opened(settings, table)
    if existing is None:
        return True
    if table.name in settings.dropping() and undeclared(settings, table):
        return False
    declared = table.types
    same = all(
        spark_type(column.type) == declared.get(column.name, spark_type(column.type))
        for column in pa.schema(existing.schema().to_arrow())
    )
    return same and existing.metadata().partition_columns == [name for name in [table.partition_by] if name]


def _checksum(path: str) -> None:
    """Write the checksum file of a new, empty table, from which Spark reads the table's state without a job."""
    created = {kind: body for action in actions(path, 0) or [] for kind, body in action.items()}
    checksum = {
        "tableSizeBytes": 0, "numFiles": 0, "numMetadata": 1, "numProtocol": 1, "setTransactions": [],
        "domainMetadata": [], "metadata": created["metaData"], "protocol": created["protocol"], "allFiles": [],
    }  # fmt: skip
    files, root = filesystem(path)
    with files.open_output_stream(f"{root}/_delta_log/{0:020d}.crc") as stream:
        stream.write(json.dumps(checksum).encode())


def source_id(source: DeltaTable) -> str:
    """Return the app id under which targets store how far they have read this table."""
    return f"source:{source.metadata().id}"


def watermark(target: DeltaTable | None, app_id: str) -> int | None:
    """Return the last version (or batch) that the target has consumed, according to its own commits."""
    if target is None:
        return None
    return remembered.made_of(target, f"watermark of {app_id}", lambda table: table.transaction_version(app_id))


def changes(path: str, after: int, upto: int) -> Changes:
    """Return the data changes in the versions after ``after``, up to and including ``upto``, from the log alone.

    Compaction and archiving do not count as changes of data.
    """
    result = Changes()
    for version in range(after + 1, upto + 1):
        entries = actions(path, version)
        if entries is None:
            result.complete = False
            result.any = True
            continue
        info = info_of(entries)
        adds = [a["add"] for a in entries if "add" in a and a["add"]["dataChange"]]
        removes = [a["remove"] for a in entries if "remove" in a and a["remove"]["dataChange"]]
        result.commits.append(info | {"version": version, "adds": adds})
        if "archived" in says(info):
            continue
        if not adds and (not removes or info.get("operation") == "DELETE") and "set_aside" not in says(info):
            continue
        result.any = True
        if landed := says(info).get("landed"):
            result.replayed.update(map(date.fromisoformat, landed))
        elif "set_aside" in says(info):
            result.rewritten = True
        else:
            result.rewritten |= bool(removes) and info.get("operation") != "DELETE"
        for action in adds + removes:
            result.partitions.update((action.get("partitionValues") or {}).values())
    return result


def actions(path: str, version: int) -> list[dict[str, Any]] | None:
    """Read the actions of a commit; None if its log entry no longer exists."""
    files, root = filesystem(path)
    try:
        with files.open_input_stream(f"{root}/_delta_log/{version:020d}.json") as stream:
            return [json.loads(line) for line in stream.read().splitlines() if line]
    except FileNotFoundError:
        return None


def info_of(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the information about a commit; empty if it has none."""
    return next((action["commitInfo"] for action in entries if "commitInfo" in action), {})


def files(opened: DeltaTable) -> pa.Table:
    """Return the files of a table's version with their statistics, one column each; read once within `look`."""
    key = f"{opened.table_uri}, version {opened.version()}: files"
    return once(key, lambda: pa.table(opened.get_add_actions(flatten=True)))


def data_files(opened: DeltaTable) -> list[tuple[str, int]]:
    """List every data file in a table's folder, of any version, with its size in bytes; once within `look`."""
    return once(f"{opened.table_uri}: folder", lambda: _data_files(opened.table_uri))


def _data_files(path: str) -> list[tuple[str, int]]:
    files, root = filesystem(path)
    infos = files.get_file_info(pafs.FileSelector(root, recursive=True))
    return [
        (info.path.removeprefix(root).lstrip("/"), info.size)
        for info in infos
        if info.is_file and "_delta_log" not in info.path
    ]


def last_checkpoint(path: str) -> tuple[int, datetime] | None:
    """Return the version and time of a table's last checkpoint; None if it has none."""
    files, root = filesystem(path)
    try:
        with files.open_input_stream(f"{root}/_delta_log/_last_checkpoint") as stream:
            version = json.loads(stream.read())["version"]
    except FileNotFoundError:
        return None
    return version, files.get_file_info(f"{root}/_delta_log/_last_checkpoint").mtime.astimezone(UTC)


def committed_at(opened: DeltaTable) -> datetime:
    """Return the time of the last commit, or of the last checkpoint if the commit's log entry no longer exists."""
    if last := opened.history(1):
        return datetime.fromtimestamp(last[0]["timestamp"] / 1000, UTC)
    checkpoint = last_checkpoint(opened.table_uri)
    return checkpoint[1] if checkpoint else datetime.fromtimestamp(0, UTC)


def said(opened: DeltaTable, after: int) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield each commit after a version with its metadata; None for the metadata if the log entry no longer exists."""
    for version in range(after + 1, opened.version() + 1):
        entries = actions(opened.table_uri, version)
        if entries is None:
            yield version, None
        else:
            yield version, says(info_of(entries))


def was_said(opened: DeltaTable, after: int, key: str, value: str) -> bool:
    """Return whether the metadata of a commit after a version has this value."""
    return any(metadata is not None and metadata.get(key) == value for _, metadata in said(opened, after))


def says(info: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata that the pipeline wrote into a commit; empty for other commits."""
    try:
        metadata: dict[str, Any] = json.loads(info.get("userMetadata") or "{}")
    except json.JSONDecodeError:
        return {}
    return metadata


def read(spark: SparkSession, settings: Settings, table: Table, version: int | None = None) -> DataFrame:
    """Read the table, or an earlier version of it."""
    path = table_path(settings, table)
    if not settings.enable_delta:
        return spark.read.parquet(path)
    return read_path(spark, settings, path, version)


def read_path(spark: SparkSession, settings: Settings, path: str, version: int | None = None) -> DataFrame:
    """Read the Delta table in a folder."""
    reader = spark.read.format("delta")
    reader = reader if version is None else reader.option("versionAsOf", version)
    if settings.native:  # Sail's unions fail on column comments and on NOT NULL
        reader = reader.schema(plain_schema(DeltaTable(path, version=version)))
    return reader.load(path)


def plain_schema(opened: DeltaTable) -> StructType:
    """Return the columns of a table for Spark, nullable and without comments."""
    from pyspark.sql.types import StructType

    fields = json.loads(opened.schema().to_json())["fields"]
    return StructType.fromJson(
        {"type": "struct", "fields": [field | {"nullable": True, "metadata": {}} for field in fields]}
    )


def filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """Return Arrow's filesystem for a folder, and the folder's path in it."""
    if "://" in path:
        filesystem, root = pafs.FileSystem.from_uri(path)
        return filesystem, root.rstrip("/")
    return pafs.LocalFileSystem(), path.rstrip("/")
