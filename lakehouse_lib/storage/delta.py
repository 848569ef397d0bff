"""Everything Delta: the only module that knows how tables are stored.

Metadata is read and tables are created by delta-rs, without a JVM; data goes through Spark.
With ``enable_delta: false`` tables are plain Parquet folders, written whole and swapped in.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError, NotMadeError, TableError
from lakehouse_lib.model import ops
from lakehouse_lib.model.tables import Table, with_columns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

log = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS = 5
_CONFLICTS = ("DELTA_CONCURRENT", "already exists")
"""How Spark and delta-rs say that another writer was faster."""
_TXN = ("spark.databricks.delta.write.txnAppId", "spark.databricks.delta.write.txnVersion")


@dataclass(frozen=True)
class Consumed:
    """How far a write has read one source: an id that a recreated source does not share."""

    app_id: str
    version: int


@dataclass
class Changes:
    """What changed in a table between two versions."""

    partitions: set[str | None] = field(default_factory=set)
    any: bool = False
    commits: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = True
    """False where old log entries are gone, so that only a full read is safe."""
    rewritten: bool = False
    """Rows that were there have been replaced."""
    replayed: set[date] = field(default_factory=set)
    """Days on which records landed that have been put through again."""


def table_path(settings: Settings, table: Table) -> str:
    """Folder of a table."""
    folder = table.name.removesuffix("_quarantine") if table.layer == "quarantine" else table.name
    return f"{settings.layer_path(table.layer)}/{folder}"


def open_table(path: str) -> DeltaTable | None:
    """The Delta table in a folder; None where there is none."""
    try:
        return DeltaTable(path)
    except TableNotFoundError:
        return None
    except DeltaError as error:
        raise TableError(f"{path} cannot be opened as a Delta table: {error}") from None


def opened(settings: Settings, table: Table) -> DeltaTable | None:
    """The table as it is now; None where it has not been made, or with ``ENABLE_DELTA=false``."""
    return open_table(table_path(settings, table)) if settings.enable_delta else None


def as_made(table: Table, opened: DeltaTable | None) -> Table:
    """The declaration with the columns that a table got beside them, as a replica does from its source."""
    more = {}
    for column in opened.schema().fields if opened else ():
        if column.name not in table.names:
            kind = str(column.type.type)
            more[column.name] = _SPARK_TYPES.get(kind, kind), (column.metadata or {}).get("comment", "")
    return with_columns(table, more)


_SPARK_TYPES = {"long": "bigint", "integer": "int"}
"""Types that Delta's log names otherwise than Spark."""


def made(settings: Settings, table: Table, lacks: str) -> DeltaTable:
    """The Delta table of a table that has to be there.

    Raises
    ------
    TableError
        It has not been made; ``lacks`` says what there is not, so.
    """
    opened = open_table(table_path(settings, table))
    if opened is None:
        raise NotMadeError(f"{table.name} has not been made yet: {lacks}.")
    return opened


def at(opened: DeltaTable, name: str, version: int) -> DeltaTable:
    """A table as it was.

    Raises
    ------
    ConfigError
        There is no such version, or it cannot be read any more.
    """
    newest = opened.version()
    with contextlib.suppress(DeltaError):
        if 0 <= version <= newest:  # for one to come delta-rs looks for minutes
            return opened if version == newest else DeltaTable(opened.table_uri, version=version)
    raise ConfigError(f"{name} has no version {version} that can be read; the newest is {newest}")


def dataset(opened: DeltaTable) -> ds.Dataset:
    """The files of a table for Arrow and DuckDB, read by Arrow's own filesystem.

    Through that of delta-rs, threads of Arrow would call back into Python, and abort a process that ends
    meanwhile.
    """
    files, root = filesystem(opened.table_uri)
    return opened.to_pyarrow_dataset(filesystem=pafs.SubTreeFileSystem(root, files))


def content(path: str, schema: pa.Schema) -> ds.Dataset:
    """The rows in a table's folder, Delta or plain Parquet; none where it has not been made."""
    opened = open_table(path)
    if opened is not None:
        return dataset(opened)
    plain = "://" not in path and any(Path(path).glob("*.parquet"))
    return ds.dataset(path, format="parquet") if plain else ds.dataset(schema.empty_table())


def read_ops(settings: Settings, name: str, **equal: Any) -> list[dict[str, Any]]:
    """Rows of one of the tables under ``ops/`` in which columns have these values; none if it is not there."""
    opened = open_table(f"{settings.layer_path('ops')}/{name}")
    if opened is None:
        return []
    # Not filtered while it is scanned: what delta-rs merges holds text as string_view, which Arrow does not compare.
    rows: list[dict[str, Any]] = dataset(opened).to_table().filter(_equal(equal)).to_pylist()
    return rows


def ops_tuples(settings: Settings, name: str, columns: list[str], **equal: Any) -> Iterator[tuple[Any, ...]]:
    """Some columns of the rows of a table under ``ops/``, as `read_ops` selects them; none where it lacks one."""
    opened = open_table(f"{settings.layer_path('ops')}/{name}")
    if opened is None or not {*columns} <= {field.name for field in opened.schema().fields}:
        return iter(())
    found = dataset(opened).to_table([*dict.fromkeys([*columns, *equal])]).filter(_equal(equal)).select(columns)
    return zip(*(column.to_pylist() for column in found.columns), strict=True)


def _equal(equal: dict[str, Any]) -> ds.Expression:
    return functools.reduce(lambda a, b: a & b, (ds.field(k) == v for k, v in equal.items()), ds.scalar(True))


def exists(settings: Settings, table: Table) -> bool:
    """Whether the table has been made."""
    path = table_path(settings, table)
    if settings.enable_delta:
        return open_table(path) is not None
    return Path(path).is_dir()


def ensure(settings: Settings, table: Table) -> None:
    """Create the table from its declaration, or add the columns that it lacks."""
    path = table_path(settings, table)
    if not settings.enable_delta:
        if not Path(path).is_dir():
            Path(path).mkdir(parents=True)
            pq.write_table(table.arrow_schema().empty_table(), f"{path}/empty.parquet")
        return
    found = open_table(path)
    schema = Schema.from_arrow(table.arrow_schema())
    if found is None:
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
    present = {item.name for item in found.schema().fields}
    if missing := [item for item in schema.fields if item.name not in present]:
        found.alter.add_columns(missing)


def _checksum(path: str) -> None:
    """Write the checksum file of a new, empty table, from which Spark takes the table's state without a job."""
    created = {kind: body for action in actions(path, 0) or [] for kind, body in action.items()}
    checksum = {
        "tableSizeBytes": 0, "numFiles": 0, "numMetadata": 1, "numProtocol": 1, "setTransactions": [],
        "domainMetadata": [], "metadata": created["metaData"], "protocol": created["protocol"], "allFiles": [],
    }  # fmt: skip
    files, root = filesystem(path)
    with files.open_output_stream(f"{root}/_delta_log/{0:020d}.crc") as stream:
        stream.write(json.dumps(checksum).encode())


def source_id(source: DeltaTable) -> str:
    """The app id under which targets remember how far they read this table."""
    return f"source:{source.metadata().id}"


def watermark(target: DeltaTable | None, app_id: str) -> int | None:
    """The last version (or batch) that the target's own commits say it has consumed."""
    return None if target is None else target.transaction_version(app_id)


def changes(path: str, after: int, upto: int) -> Changes:
    """Data changes in the versions after ``after`` up to ``upto``, from the log alone.

    Compaction and rows that go to the archive change no data in this sense.
    """
    found = Changes()
    for version in range(after + 1, upto + 1):
        written = actions(path, version)
        if written is None:
            found.complete = False
            found.any = True
            continue
        info: dict[str, Any] = next((a["commitInfo"] for a in written if "commitInfo" in a), {})
        adds = [a["add"] for a in written if "add" in a and a["add"]["dataChange"]]
        removes = [a["remove"] for a in written if "remove" in a and a["remove"]["dataChange"]]
        found.commits.append(info | {"version": version, "adds": adds})
        if "archived" in says(info):
            continue
        if not adds and (not removes or info.get("operation") == "DELETE") and "set_aside" not in says(info):
            continue
        found.any = True
        if landed := says(info).get("landed"):
            found.replayed.update(map(date.fromisoformat, landed))
        elif "set_aside" in says(info):
            found.rewritten = True
        else:
            found.rewritten |= bool(removes) and info.get("operation") != "DELETE"
        for action in adds + removes:
            found.partitions.update((action.get("partitionValues") or {}).values())
    return found


def actions(path: str, version: int) -> list[dict[str, Any]] | None:
    """The actions of one commit; None where its log entry is gone."""
    files, root = filesystem(path)
    try:
        with files.open_input_stream(f"{root}/_delta_log/{version:020d}.json") as stream:
            return [json.loads(line) for line in stream.read().splitlines() if line]
    except FileNotFoundError:
        return None


def data_files(opened: DeltaTable) -> list[tuple[str, int]]:
    """Every data file in a table's folder, of whatever version, and its bytes."""
    files, root = filesystem(opened.table_uri)
    infos = files.get_file_info(pafs.FileSelector(root, recursive=True))
    return [
        (info.path.removeprefix(root).lstrip("/"), info.size)
        for info in infos
        if info.is_file and "_delta_log" not in info.path
    ]


def last_checkpoint(path: str) -> tuple[int, datetime] | None:
    """Version and time of a table's last checkpoint; None where it has none."""
    files, root = filesystem(path)
    try:
        with files.open_input_stream(f"{root}/_delta_log/_last_checkpoint") as stream:
            version = json.loads(stream.read())["version"]
    except FileNotFoundError:
        return None
    return version, files.get_file_info(f"{root}/_delta_log/_last_checkpoint").mtime.astimezone(UTC)


def said(opened: DeltaTable, after: int) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """What each commit after a version says of itself; None where its log entry is gone."""
    for version in range(after + 1, opened.version() + 1):
        written = actions(opened.table_uri, version)
        if written is None:
            yield version, None
        else:
            yield version, says(next((action["commitInfo"] for action in written if "commitInfo" in action), {}))


def was_said(opened: DeltaTable, after: int, key: str, value: str) -> bool:
    """Whether a commit after a version says this of itself."""
    return any(says is not None and says.get(key) == value for _, says in said(opened, after))


def says(info: dict[str, Any]) -> dict[str, Any]:
    """What the pipeline wrote into a commit of its own."""
    try:
        told: dict[str, Any] = json.loads(info.get("userMetadata") or "{}")
    except json.JSONDecodeError:
        return {}
    return told


def read(spark: SparkSession, settings: Settings, table: Table, version: int | None = None) -> DataFrame:
    """The table as it is, or as it was at a version."""
    path = table_path(settings, table)
    if not settings.enable_delta:
        return spark.read.parquet(path)
    reader = spark.read.format("delta")
    return (reader if version is None else reader.option("versionAsOf", version)).load(path)


def read_inserts(spark: SparkSession, settings: Settings, table: Table, after: int, upto: int) -> DataFrame:
    """Rows that were added to an append-only table after one version, up to another."""
    feed = (
        spark.read.format("delta")
        .option("readChangeFeed", "true")
        .option("startingVersion", after + 1)
        .option("endingVersion", upto)
        .load(table_path(settings, table))
    )
    return feed.where("_change_type = 'insert'").drop("_change_type", "_commit_version", "_commit_timestamp")


def append(df: DataFrame, settings: Settings, table: Table, consumed: Iterable[Consumed], info: dict[str, Any]) -> None:
    """Add rows, and remember in the same commit how far the sources were read."""
    _write(df, settings, table, "append", {}, consumed, info)


def overwrite(
    df: DataFrame,
    settings: Settings,
    table: Table,
    consumed: Iterable[Consumed],
    info: dict[str, Any],
    days: Iterable[date] | None = None,
    reschema: bool = False,
) -> None:
    """Replace the whole table, or only the partitions of some days; ``reschema`` also its columns."""
    if not settings.enable_delta:
        _swap_parquet(df.select(*table.names), Path(table_path(settings, table)))
        return
    options = {"overwriteSchema": "true"} if reschema else {}
    if days is not None:
        options["replaceWhere"] = f"{table.partition_by} IN ({_dates(days)})"
    _write(df, settings, table, "overwrite", options, consumed, info)


def merge(
    spark: SparkSession,
    changes_view: DataFrame,
    settings: Settings,
    table: Table,
    consumed: Iterable[Consumed],
    info: dict[str, Any],
    partitions: Iterable[str] | None = None,
) -> None:
    """Apply rows marked by ``_action`` (insert, update, delete) by the table's key, in one commit.

    ``partitions`` limits the search for existing rows to those days.
    """
    names = [name for name in changes_view.columns if name != "_action"]
    on = " AND ".join(f"t.`{key}` = s.`{key}`" for key in table.key)
    if partitions is not None and table.partition_by:
        days = _dates(partitions)
        on += f" AND t.`{table.partition_by}` IN ({days})" if days else " AND false"
    settable = ", ".join(f"t.`{name}` = s.`{name}`" for name in names)
    clauses = f"WHEN MATCHED AND s._action = 'delete' THEN DELETE WHEN MATCHED THEN UPDATE SET {settable} "
    _merge(spark, changes_view, settings, table, on, clauses, names, consumed, info)


def swap(
    spark: SparkSession,
    gone: DataFrame,
    come: DataFrame,
    settings: Settings,
    table: Table,
    consumed: Iterable[Consumed],
    info: dict[str, Any],
) -> None:
    """Delete rows of a bronze table and add others, in one commit.

    ``gone`` holds columns of the table by which the flagged rows to delete are found; ``come`` the
    new rows.
    """
    keys = {name: f"_gone_{name}" for name in gone.columns}
    deletes = gone.distinct().withColumnsRenamed(keys)
    rows = come.select(*table.names).unionByName(deletes, allowMissingColumns=True)
    on = " AND ".join(f"t.`{name}` = s.`{key}`" for name, key in keys.items()) + " AND size(t._quality_flags) > 0"
    # A row to delete has a key to find it by; a row to add has none, and so meets nothing.
    first = next(iter(keys.values()))
    rows = rows.selectExpr("*", f"if({first} IS NULL, 'insert', 'delete') AS _action")
    _merge(spark, rows, settings, table, on, "WHEN MATCHED THEN DELETE ", table.names, consumed, info)


def _merge(
    spark: SparkSession,
    source: DataFrame,
    settings: Settings,
    table: Table,
    on: str,
    matched: str,
    names: list[str],
    consumed: Iterable[Consumed],
    info: dict[str, Any],
) -> None:
    marks = list(consumed)
    first = marks[0] if marks else None
    view = f"changes_{threading.get_ident()}_{random.getrandbits(32):x}"
    columns, values = (", ".join(f"{p}`{name}`" for name in names) for p in ("", "s."))
    statement = (
        f"MERGE INTO delta.`{table_path(settings, table)}` t USING {view} s ON {on} {matched}"
        f"WHEN NOT MATCHED AND s._action <> 'delete' THEN INSERT ({columns}) VALUES ({values})"
    )

    def run() -> None:
        # These settings would silence every later write of the session with the same numbers:
        # they stand for one statement, in a session of the table's own.
        for key, value in zip(_TXN, (first.app_id, first.version) if first else (), strict=False):
            spark.conf.set(key, str(value))
        spark.conf.set("spark.databricks.delta.commitInfo.userMetadata", json.dumps(info))
        try:
            spark.sql(statement).collect()
        finally:
            for key in (*_TXN, "spark.databricks.delta.commitInfo.userMetadata"):
                spark.conf.unset(key)

    source.createOrReplaceTempView(view)
    try:
        _retried(run, table.name)
    finally:
        spark.catalog.dropTempView(view)
    mark(settings, table, marks[1:])


def mark(
    settings: Settings,
    table: Table,
    consumed: Iterable[Consumed],
    info: dict[str, Any] | None = None,
    once: bool = False,
) -> None:
    """Remember how far sources were read, and what became of their records, where no data has to be written.

    ``once`` does nothing where the table has read as far already, as Spark does with a number that it knows.
    """
    consumed = list(consumed)
    tells = consumed or any((info or {}).get("ledger", {}).values())
    if not tells or not settings.enable_delta:
        return

    def run() -> None:
        target = DeltaTable(table_path(settings, table))
        if once and all((watermark(target, item.app_id) or 0) >= item.version for item in consumed):
            return
        target.create_write_transaction(
            [],
            mode="append",
            schema=target.schema(),
            partition_by=target.metadata().partition_columns,
            commit_properties=CommitProperties(
                app_transactions=[Transaction(item.app_id, item.version) for item in consumed],
                custom_metadata={"userMetadata": json.dumps(info)} if info else None,
            ),
        )

    _retried(run, table.name)


def take_back(settings: Settings, table: Table, files: Iterable[str], info: dict[str, Any]) -> None:
    """Delete the rows of some landing files from a bronze table."""
    listed = ", ".join("'" + path.replace("'", "''") + "'" for path in files)

    properties = CommitProperties(custom_metadata={"userMetadata": json.dumps(info)})

    def run() -> None:
        target = DeltaTable(table_path(settings, table))
        before = target.version()
        target.delete(f"_source_file IN ({listed})", commit_properties=properties)
        if target.version() == before:  # there was nothing to delete, which is to be told all the same
            parts = target.metadata().partition_columns
            target.create_write_transaction([], "append", target.schema(), parts, commit_properties=properties)

    _retried(run, table.name)


def restore(settings: Settings, table: Table, version: int, consumed: Iterable[Consumed], info: dict[str, Any]) -> None:
    """Take a table back to a version; what it remembers of its sources goes back in the same commit."""

    def run() -> None:
        DeltaTable(table_path(settings, table)).restore(
            version,
            commit_properties=CommitProperties(
                app_transactions=[Transaction(item.app_id, item.version) for item in consumed],
                custom_metadata={"userMetadata": json.dumps(info)},
            ),
        )

    _retried(run, table.name)


def write_ops(settings: Settings, name: str, rows: list[dict[str, Any]]) -> None:
    """Append rows to one of the tables under ``ops/``; made when it is first needed."""
    if rows:
        path, found = f"{settings.layer_path('ops')}/{name}", pa.Table.from_pylist(rows, ops.SCHEMAS[name])
        _retried(lambda: write_deltalake(path, found, mode="append", schema_mode="merge"), path)


def upsert_ops(
    settings: Settings,
    name: str,
    rows: pa.Table,
    key: tuple[str, ...],
    where: str = "false",
    keep: tuple[str, ...] = (),
) -> None:
    """Put rows into a table under ``ops/``, each key once, so that writing them twice changes nothing.

    ``where`` (SQL over ``s``, the new row, and ``t``, the one there) says when a row that is there is
    updated; columns in ``keep`` stay as they are.
    """
    if not rows.num_rows:
        return
    path = f"{settings.layer_path('ops')}/{name}"
    updates = {column: f"s.{column}" for column in rows.column_names if column not in (*key, *keep)}

    def run() -> None:
        found = open_table(path)
        early = found is not None and not {*rows.column_names} <= {field.name for field in found.schema().fields}
        if found is None or (early and where != "false"):
            # Not there yet, or of an early version of this library whose rows cannot be updated.
            if found is None:
                write_deltalake(path, rows, mode="error")
            else:
                write_deltalake(path, rows, mode="overwrite", schema_mode="overwrite")
            return
        same = " AND ".join(f"t.{column} = s.{column}" for column in key)
        merge = found.merge(rows, same, source_alias="s", target_alias="t", merge_schema=early)
        if where != "false":
            merge = merge.when_matched_update(updates, predicate=where)
        merge.when_not_matched_insert_all().execute()

    _retried(run, path)


def _write(
    df: DataFrame,
    settings: Settings,
    table: Table,
    mode: str,
    options: dict[str, str],
    consumed: Iterable[Consumed],
    info: dict[str, Any],
) -> None:
    marks = list(consumed)
    first = marks[0] if marks else None
    if first:
        options |= {"txnAppId": first.app_id, "txnVersion": str(first.version)}
    path = table_path(settings, table)

    def run() -> None:
        writer = df.select(*table.names).write.format("delta").mode(mode)
        writer.options(userMetadata=json.dumps(info), **options).save(path)

    _retried(run, table.name)
    mark(settings, table, marks[1:])


def _swap_parquet(df: DataFrame, path: Path) -> None:
    fresh, old = path.with_name(path.name + ".new"), path.with_name(path.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    df.write.mode("overwrite").parquet(str(fresh))
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    fresh.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _retried(action: Callable[[], T], what: str) -> T:
    """Run a write again where another writer was faster."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except Exception as error:
            conflict = isinstance(error, CommitFailedError) or any(word in str(error) for word in _CONFLICTS)
            if not conflict or attempt == ATTEMPTS:
                raise
            log.warning("%s: another writer was faster, attempt %d", what, attempt + 1)
            time.sleep(random.uniform(0.2, 0.5) * 2**attempt)
    raise AssertionError


def _dates(days: Iterable[date | str]) -> str:
    return ", ".join(f"DATE'{day}'" for day in sorted({str(day) for day in days}))


def filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """Arrow's filesystem for a folder, and the folder's path in it."""
    if "://" in path:
        filesystem, root = pafs.FileSystem.from_uri(path)
        return filesystem, root.rstrip("/")
    return pafs.LocalFileSystem(), path.rstrip("/")
