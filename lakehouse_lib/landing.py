"""The landing zone: find new input files, read any of their formats as records.

Which files a bronze table has loaded is a matter of two facts that cannot disagree: the plan in
``ops/landing_files`` names the files of a numbered batch before it is loaded, and the bronze
commit that loads it carries that number. A batch that was planned but not committed is loaded
again, the very same files, under the same number.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from functools import reduce
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import zstandard
from deltalake import DeltaTable

from lakehouse_lib import delta
from lakehouse_lib.config import Settings
from lakehouse_lib.tables import Table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

APP_ID = "landing"
"""Transaction id under which a bronze table remembers its last batch."""

SEEN = 200
"""Records of a file that are looked at to learn its fields."""

_SUFFIXES = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv",
             ".parquet": "parquet"}  # fmt: skip

_PLAN = pa.schema([
    ("feed", pa.string()), ("path", pa.string()), ("size", pa.int64()),
    ("modified", pa.timestamp("us", "UTC")), ("digest", pa.string()), ("records", pa.int64()),
    ("kind", pa.string()), ("head", pa.string()), ("batch", pa.int64()),
    ("status", pa.string()), ("run_id", pa.string()),
    ("planned_at", pa.timestamp("us", "UTC")),
])  # fmt: skip


@dataclass(frozen=True)
class LandingFile:
    """One input file. ``head`` is what files that are read together share: header or schema."""

    path: str
    size: int
    modified: datetime
    kind: str = ""
    digest: str = ""
    records: int = 0
    head: str = ""
    status: str = ""
    """In the plan: loaded, duplicate, same or withdrawn."""
    fields: frozenset[str] = frozenset()
    """Fields of its first records; known only to the run that inspected it."""


@dataclass
class Plan:
    """What is to be loaded for one feed."""

    feed: str
    batches: dict[int, list[LandingFile]] = field(default_factory=dict)
    duplicates: list[LandingFile] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[LandingFile]:
        """All files to load."""
        return [file for batch in self.batches.values() for file in batch]


def list_files(settings: Settings, feed: str) -> list[LandingFile]:
    """The feed's input files, by path; those being written and foreign ones are left alone."""
    filesystem, root = delta.filesystem(settings.feed_path(feed))
    selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
    found = []
    for info in filesystem.get_file_info(selector):
        path = info.path[len(root) :].lstrip("/")
        hidden = any(part.startswith(("_", ".")) for part in path.split("/"))
        kind = _kind(path, settings.feed(feed).format)
        if info.is_file and kind and not hidden and not path.endswith(".tmp"):
            found.append(LandingFile(path, info.size, info.mtime.astimezone(UTC), kind))
    return sorted(found, key=lambda file: file.path)


def pending(settings: Settings, bronze: Table) -> bool:
    """Whether there is anything to load or to complain about; looks at names and sizes only."""
    feed = feed_of(bronze)
    target = delta.open_table(delta.table_path(settings, bronze))
    done, waiting = known_files(settings, feed, target)
    if waiting:
        return True
    return any(not _same(done.get(file.path), file) for file in list_files(settings, feed))


def make_plan(settings: Settings, bronze: Table, run_id: str, again: bool = False) -> Plan:
    """Decide what to load, and write it down before it is loaded.

    ``again`` plans every file of the landing folder, for a full rebuild.
    """
    feed = feed_of(bronze)
    plan = Plan(feed)
    target = delta.open_table(delta.table_path(settings, bronze))
    done, waiting = known_files(settings, feed, target)
    listed = {file.path: file for file in list_files(settings, feed)}
    withdrawn = {path for path, file in done.items() if file.status == "withdrawn"}
    digests = {file.digest: path for path, file in done.items() if file.digest and path not in withdrawn}
    next_batch = max([_committed(target), *waiting], default=0) + 1
    if again:
        done, waiting, digests = {path: done[path] for path in withdrawn}, {}, {}
    for number, files in sorted(waiting.items()):
        for planned in files:
            now = listed.get(planned.path)
            if now is None or (now.size, now.modified) != (planned.size, planned.modified):
                plan.problems.append(
                    f"{feed}/{planned.path} was about to be loaded when a run was killed, and is "
                    f"{'gone' if now is None else 'changed'}. Put the file of {planned.size} bytes "
                    "back and run again."
                )
        if not plan.problems:
            plan.batches[number] = files
            digests |= {file.digest: file.path for file in files}
    planned_paths = {file.path for files in waiting.values() for file in files}
    fresh = [
        file for path, file in listed.items()
        if path not in planned_paths and not _same(done.get(path), file)
    ]  # fmt: skip
    # Of files with one content the first that was delivered counts, also where they are found at once.
    fresh.sort(key=lambda file: (file.modified, file.path))
    rows, batch = [], []
    with ThreadPoolExecutor(4) as pool:
        for file, checked in zip(fresh, pool.map(lambda f: _inspect(settings, feed, f), fresh), strict=True):
            if isinstance(checked, str):
                plan.problems.append(checked)
            elif file.path in done:
                if done[file.path].digest != checked.digest:
                    plan.problems.append(
                        f"{feed}/{file.path} changed after it was loaded ({done[file.path].size} "
                        f"bytes then, {file.size} now). Its new content is not loaded: files in "
                        "landing never change. Deliver the new content under a new name."
                    )
                else:
                    rows.append((checked, 0, "same"))
            elif checked.digest in digests:
                plan.duplicates.append(checked)
                rows.append((checked, 0, "duplicate"))
            else:
                digests[checked.digest] = checked.path
                batch.append(checked)
                rows.append((checked, next_batch, "loaded"))
    if batch:
        plan.batches[next_batch] = batch
    now = datetime.now(UTC)
    _write_plan(settings, feed, rows, run_id, now)
    return plan


def withdraw(settings: Settings, feed: str, files: list[LandingFile], run_id: str) -> None:
    """Write down that files are taken back: they count as known, and are not loaded again."""
    _write_plan(settings, feed, [(file, 0, "withdrawn") for file in files], run_id, datetime.now(UTC))


def _write_plan(
    settings: Settings, feed: str, rows: list[tuple[LandingFile, int, str]], run_id: str, now: datetime
) -> None:
    columns = list(zip(*(
        (feed, f.path, f.size, f.modified, f.digest, f.records, f.kind, f.head, number, status,
         run_id, now) for f, number, status in rows
    ), strict=True)) or [()] * len(_PLAN)  # fmt: skip
    delta.write_ops(f"{settings.layer_path('ops')}/landing_files", pa.table(columns, schema=_PLAN))


def feed_of(bronze: Table) -> str:
    """The feed that a bronze table loads."""
    return bronze.name.removesuffix("_bronze")


def read(spark: SparkSession, settings: Settings, feed: str, files: list[LandingFile], lines: bool) -> DataFrame:
    """Records of some files.

    Returns ``raw string`` (the record as it came, null bytes and all), ``record
    map<string,string>`` (null where it cannot be parsed; nested values are JSON text),
    ``_source_file string``, ``load_timestamp timestamp``, and with ``lines`` the record's number
    in its file ``_source_line bigint``.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    root = settings.feed_path(feed)
    groups: dict[tuple[str, str], list[str]] = {}
    for file in files:
        groups.setdefault((file.kind, file.head), []).append(f"{root}/{_escape(file.path)}")
    parts = []
    for (kind, head), paths in sorted(groups.items()):
        where = [
            F.col("_metadata.file_path").alias("_path"),
            F.col("_metadata.file_modification_time").alias("load_timestamp"),
            F.col("_metadata.file_block_start").alias("_block"),
        ]
        if kind == "parquet":
            rows = spark.read.parquet(*paths)
            raw = F.to_json(F.struct(*(f"`{c}`" for c in rows.columns)), {"ignoreNullFields": "false"})
            rows = rows.select(raw.alias("raw"), *where)
        else:
            # A regular expression would mend bytes that are no UTF-8: those stay as they came.
            trimmed = F.ltrim(F.rtrim("value", F.lit("\r")), F.lit("\ufeff"))
            raw = F.when(F.is_valid_utf8("value"), trimmed).otherwise(F.col("value"))
            text = spark.read.text(paths, lineSep="\n").select(raw.alias("raw"), *where)
            rows = text.where(F.col("raw").rlike(r"\S"))
            if kind == "csv":
                rows = rows.where(F.col("raw") != F.lit(head))
        parsed = _record(kind, head)
        row = F.monotonically_increasing_id().alias("_row")
        parts.append(rows.select("raw", "_path", "load_timestamp", "_block", row, parsed.alias("record")))
    rows = reduce(lambda a, b: a.unionByName(b), parts)
    path = F.url_decode(F.replace("_path", F.lit("+"), F.lit("%2B")))
    start = F.locate(f"{root}/", path) + len(root) + 1
    rows = rows.withColumn("_source_file", F.substring(path, start, F.length(path)))
    if lines:
        # Rows of one block keep their order; blocks are ordered by their start.
        order = Window.partitionBy("_source_file").orderBy("_block", "_row")
        rows = rows.withColumn("_source_line", F.row_number().over(order).cast("bigint"))
    return rows.drop("_path", "_block", "_row")


def messages(settings: Settings, feed: str, file: LandingFile) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """The records of one file in order, without an engine: the text, and its fields where it can be parsed."""
    filesystem, root = delta.filesystem(settings.feed_path(feed))
    full = f"{root}/{file.path}"
    if file.kind == "parquet":
        with filesystem.open_input_file(full) as handle:
            for batch in pq.ParquetFile(handle).iter_batches():
                for row in batch.to_pylist():
                    yield json.dumps(row, default=str), row
        return
    with filesystem.open_input_stream(full, compression=None) as handle:
        head, lines = _records(handle, file)
        for line in lines:
            text = line.decode("utf-8-sig", "replace").rstrip("\r\n")
            yield text, _fields(text, head)


def _fields(text: str, head: str) -> dict[str, Any] | None:
    try:
        found = dict(zip(_csv_names(head), next(csv.reader([text])), strict=True)) if head else json.loads(text)
    except (ValueError, csv.Error):
        return None
    return found if isinstance(found, dict) else None


def instant(value: Any, zone: tzinfo) -> datetime | None:
    """A field as a time, by the rules of the landing contract: ISO-8601 (of the zone where it has no
    offset), or epoch seconds, milliseconds or microseconds; None where it is none."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=zone)
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        try:
            found = datetime.fromisoformat(str(value).strip().replace(",", "."))
        except ValueError:
            return None
        return (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)
    size = abs(number)
    scale = 10**6 if size < 10**11 else 10**3 if size < 10**14 else 1
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(number * scale)) if size < 10**17 else None


def read_again(messages: DataFrame, files: dict[str, LandingFile]) -> DataFrame:
    """Records of `read` for messages that were kept as they came.

    ``messages`` holds ``_source_file`` and ``raw`` (bytes that are no UTF-8 as base64) among its
    columns; ``files`` tells by path how each was read.
    """
    from pyspark.sql import functions as F

    encoded = F.unbase64(F.substring("raw", 8, 2**31 - 1)).cast("string")
    messages = messages.withColumn("raw", F.when(F.col("raw").startswith("base64:"), encoded).otherwise(F.col("raw")))
    paths: dict[tuple[str, str], list[str]] = {}
    for row in messages.select("_source_file").distinct().collect():
        file = files.get(row[0])
        if file and file.kind == "csv":
            paths.setdefault((file.kind, file.head), []).append(file.path)
    record = _record("json", "")
    for shape, among in paths.items():
        record = F.when(F.col("_source_file").isin(among), _record(*shape)).otherwise(record)
    return messages.withColumn("record", record)


def _record(kind: str, head: str):
    from pyspark.sql import functions as F

    return _csv_record(head) if kind == "csv" else F.from_json("raw", "map<string,string>")


def _csv_record(head: str):
    from pyspark.sql import functions as F

    names = _csv_names(head)
    fields = ", ".join(f"c{i} string" for i in range(len(names)))
    row = F.from_csv("raw", F.lit(f"{fields}, _bad string"), {"columnNameOfCorruptRecord": "_bad", "escape": '"'})
    keys = F.array(*(F.lit(name) for name in names))
    values = F.array(*(row[f"c{i}"] for i in range(len(names))))
    return F.when(row["_bad"].isNull(), F.map_from_arrays(keys, values))


def _escape(path: str) -> str:
    return "".join(f"\\{c}" if c in "[]{}*?\\" else c for c in path)


def _kind(path: str, given: str) -> str:
    name = path.lower().removesuffix(".gz").removesuffix(".zst")
    by_name = _SUFFIXES.get(name[name.rfind(".") :] if "." in name else "", "")
    return given or by_name


def _committed(target: DeltaTable | None) -> int:
    return delta.watermark(target, APP_ID) or 0


def known_files(
    settings: Settings, feed: str, target: DeltaTable | None
) -> tuple[dict[str, LandingFile], dict[int, list[LandingFile]]]:
    """Files that are loaded, by path, and planned batches that were never committed."""
    committed = _committed(target)
    done: dict[str, LandingFile] = {}
    waiting: dict[int, list[LandingFile]] = {}
    for row in sorted(delta.read_ops(settings, "landing_files", feed=feed), key=lambda r: r["planned_at"]):
        file = LandingFile(**{name: row[name] for name in LandingFile.__dataclass_fields__ if name in row})
        if row["status"] != "loaded" or row["batch"] <= committed:
            done[file.path] = file
        else:
            waiting.setdefault(row["batch"], []).append(file)
    if not done and committed and target is not None:
        # The plan was lost: the table itself still says which files it holds.
        data = delta.dataset(target)  # noqa: F841 - named in the query
        with duckdb.connect(":memory:") as own:
            for (path,) in own.sql("SELECT DISTINCT _source_file FROM data").fetchall():
                done[path] = LandingFile(path, -1, datetime.now(UTC))
    return done, waiting


def _same(known: LandingFile | None, file: LandingFile) -> bool:
    """Whether a listed file is one that is known, without opening it."""
    if known is None:
        return False
    return known.size == -1 or (known.size, known.modified) == (file.size, file.modified)


def _inspect(settings: Settings, feed: str, file: LandingFile) -> LandingFile | str:
    """Read a file once: digest, number of records, header; or the sentence why it is unreadable."""
    filesystem, root = delta.filesystem(settings.feed_path(feed))
    full = f"{root}/{file.path}"
    try:
        with filesystem.open_input_file(full) as handle:
            digest = hashlib.file_digest(handle, "blake2b").hexdigest()[:32]
        records, head = 0, ""
        fields: set[str] = set()
        if file.kind == "parquet":
            with filesystem.open_input_file(full) as handle:
                parquet = pq.ParquetFile(handle)
                records, head = parquet.metadata.num_rows, parquet.schema_arrow.to_string()
                fields.update(parquet.schema_arrow.names)
        else:
            with filesystem.open_input_stream(full, compression=None) as handle:
                head, lines = _records(handle, file)
                fields.update(_csv_names(head) if head else ())
                for line in lines:
                    records += 1
                    if file.kind == "json" and records <= SEEN:
                        fields |= _json_names(line)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException) as error:
        return (
            f"{feed}/{file.path} cannot be read ({error}); nothing of it is loaded. "
            "Deliver it again, whole, under a new name, and remove this one."
        )
    return replace(file, digest=digest, records=records, head=head, fields=frozenset(fields))


def _records(handle, file: LandingFile) -> tuple[str, Iterator[bytes]]:
    """The header of a file of lines ('' where it has none), and the lines that are records: no blank
    ones, and no header that stands there again."""
    lines = (line for line in _lines(handle, file.path) if line and not line.isspace())
    if file.kind != "csv":
        return "", lines
    head = next(filter(None, (line.decode("utf-8-sig", "replace").rstrip("\r\n") for line in lines)), "")
    return head, (line for line in lines if line.rstrip(b"\r\n") != head.encode())


def _csv_names(head: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([head]))]


def _json_names(line: bytes) -> set[str]:
    try:
        return set(json.loads(line))
    except (ValueError, TypeError):
        return set()


def _lines(handle, path: str) -> Iterator[bytes]:
    if path.lower().endswith(".gz"):
        return gzip.GzipFile(fileobj=handle)
    if path.lower().endswith(".zst"):
        return _zstd_lines(handle)
    return io.BufferedReader(handle)


def _zstd_lines(handle) -> Iterator[bytes]:
    """Lines of Zstandard frames; the library's own reader takes a frame cut short for its end."""
    frame, rest = None, b""
    while chunk := handle.read(1 << 20):
        while chunk:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            *lines, rest = (rest + frame.decompress(chunk)).split(b"\n")
            yield from lines
            chunk, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame:
        raise EOFError("the compressed file ends before its end marker")
    yield rest
