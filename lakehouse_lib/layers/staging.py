"""Staging: records from landing files, as Parquet that every engine reads.

A load's folder exists from reading the files until the commit. A folder left by a killed run is removed by a later run.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from lakehouse_lib.config import Settings
from lakehouse_lib.intake import records
from lakehouse_lib.storage import delta

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SCHEMA = pa.schema([
    *records.SCHEMA, ("_source_file", pa.string()), ("_source_line", pa.int64()),
    ("load_timestamp", pa.timestamp("us", "UTC")),
])  # fmt: skip
"""A record, its file relative to the feed's folder, its number in the file from 1, and when the file landed."""

SMALL = 32 << 20
"""Landing files with up to this many bytes of records share a staged file."""

LEFT_OVER = timedelta(days=2)
"""Age after which a folder no longer belongs to any run."""

_TIME = "%Y%m%dT%H%M%S"


class Stage:
    """The folder of a load while several threads write to it. ``names`` are the fields that become separate
    columns."""

    def __init__(self, folder: str, names: list[str]) -> None:
        self._names = names
        self._schema = SCHEMA.append(pa.field(records.PICKED, pa.struct([(name, pa.string()) for name in names])))
        self._filesystem, self._root = delta.filesystem(folder)
        self._lock = threading.RLock()
        self._shared: pq.ParquetWriter | None = None
        self._count = 0

    def __enter__(self) -> Stage:
        self._filesystem.create_dir(self._root, recursive=True)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._count:  # Spark cannot read a folder without files
            self._shared = self._new()[1]
        if self._shared:
            self._shared.close()

    def add(self, path: str, modified: datetime, batches: Iterable[pa.RecordBatch]) -> None:
        """Add all records of a file, or none if reading it fails."""
        placed = _placed(path, modified, batches)
        held: list[pa.RecordBatch] = []
        size = 0
        while size <= SMALL:
            batch = next(placed, None)
            if batch is None:
                self.put(held)
                return
            held.append(batch)
            size += batch.nbytes
        name, writer = self._new()
        try:
            with writer:
                for batch in chain(held, placed):
                    writer.write_batch(self._with_fields(batch))
        except BaseException:
            self._filesystem.delete_file(name)
            raise

    def put(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Add rows of `SCHEMA`."""
        with self._lock:
            for batch in batches:
                if self._shared is None:
                    _, self._shared = self._new()
                self._shared.write_batch(self._with_fields(batch))

    def _with_fields(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = records.columns_of(batch["record"], self._names)
        fields = pa.StructArray.from_arrays(columns, fields=list(self._schema.field(records.PICKED).type))
        return pa.RecordBatch.from_arrays([*batch.columns, fields], schema=self._schema)

    def _new(self) -> tuple[str, pq.ParquetWriter]:
        with self._lock:
            self._count += 1
            name = f"{self._root}/{self._count:06d}.parquet"
        return name, pq.ParquetWriter(name, self._schema, filesystem=self._filesystem, compression="snappy")


def _placed(path: str, modified: datetime, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    line = 1
    landed = pa.scalar(modified, SCHEMA.field("load_timestamp").type)
    for batch in batches:
        count = batch.num_rows
        if count:
            lines = pa.array(np.arange(line, line + count))
            columns = [*batch.columns, pa.repeat(path, count), lines, pa.repeat(landed, count)]
            yield pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
        line += count


def folder(settings: Settings, name: str) -> str:
    """Return the folder of a load."""
    return f"{settings.layer_path('ops')}/staging/{datetime.now(UTC):{_TIME}}-{name}"


def read(spark: SparkSession, folder: str, names: list[str]) -> DataFrame:
    """Return the staged records with the columns of `SCHEMA`, and `records.PICKED` with the fields of ``names``."""
    kinds = {"raw": "string", "record": "map<string,string>", "problem": "string", "not_json": "array<string>",
             "_source_file": "string", "_source_line": "bigint", "load_timestamp": "timestamp",
             records.PICKED: f"struct<{','.join(f'`{name}`:string' for name in names)}>"}  # fmt: skip
    return spark.read.schema(", ".join(f"{name} {kind}" for name, kind in kinds.items())).parquet(folder)


def remove(folder: str) -> None:
    """Remove a load's folder, and folders that killed runs have left beside it."""
    filesystem, root = delta.filesystem(folder)
    parent = root.rpartition("/")[0]
    before = f"{datetime.now(UTC) - LEFT_OVER:{_TIME}}"
    with contextlib.suppress(FileNotFoundError):
        filesystem.delete_dir(root)
    with contextlib.suppress(FileNotFoundError):  # another feed may have removed it
        for info in filesystem.get_file_info(pafs.FileSelector(parent, allow_not_found=True)):
            if info.base_name < before:
                filesystem.delete_dir(info.path)
