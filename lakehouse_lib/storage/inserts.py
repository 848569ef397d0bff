"""The rows that were added to an append-only table between two versions."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pyarrow as pa
from deltalake import DeltaTable

from lakehouse_lib.config import Settings
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def read(spark: SparkSession, settings: Settings, table: Table, after: int, upto: int) -> DataFrame:
    """Read the rows that were added to an append-only table after one version, up to another."""
    if settings.native:
        return _from_log(spark, delta.table_path(settings, table), table, after, upto)
    feed = (
        spark.read.format("delta")
        .option("readChangeFeed", "true")
        .option("startingVersion", after + 1)
        .option("endingVersion", upto)
        .load(delta.table_path(settings, table))
    )
    return feed.where("_change_type = 'insert'").drop("_change_type", "_commit_version", "_commit_timestamp")


def _from_log(spark: SparkSession, path: str, table: Table, after: int, upto: int) -> DataFrame:
    """Read added rows from the files in the log, or from the change feed if rows were also removed."""
    from urllib.parse import unquote

    from pyspark.sql import functions as F

    added: dict[str | None, list[str]] = {}
    for version in range(after + 1, upto + 1):
        for action in delta.actions(path, version) or []:
            if "remove" in action and action["remove"]["dataChange"]:
                rows = DeltaTable(path).load_cdf(
                    starting_version=after + 1, ending_version=upto, predicate="_change_type = 'insert'"
                )
                schema = table.arrow_schema()
                return spark.createDataFrame(pa.table(rows).select(schema.names).cast(schema))
            if "add" in action and action["add"]["dataChange"]:
                add = action["add"]
                day = (add.get("partitionValues") or {}).get(table.partition_by)
                added.setdefault(day, []).append(f"{path}/{unquote(add['path'])}")
    reader = spark.read.schema(delta.plain_schema(DeltaTable(path, version=upto)))
    if not added:
        return reader.format("delta").load(path).limit(0)
    parts = []
    for day, files in added.items():
        frame = reader.parquet(*files)
        if table.partition_by:  # the files do not contain it, so it is null there
            frame = frame.withColumn(table.partition_by, F.coalesce(F.lit(day).cast("date"), table.partition_by))
        parts.append(frame.select(*table.names))
    while len(parts) > 1:  # in pairs: Spark Connect limits the depth of a plan
        parts = [functools.reduce(lambda a, b: a.unionByName(b), parts[n : n + 2]) for n in range(0, len(parts), 2)]
    return parts[0]
