"""Commits by delta-spark: Spark writes the rows where they are, and one watermark is part of the data's commit."""

from __future__ import annotations

import json
import random
import threading
from typing import TYPE_CHECKING, Any

from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage.delta import Consumed
from lakehouse_lib.storage.transactions import Match, first_watermark

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_TXN = ("spark.databricks.delta.write.txnAppId", "spark.databricks.delta.write.txnVersion")


def write(
    rows: DataFrame,
    path: str,
    mode: str,
    consumed: list[Consumed],
    info: dict[str, Any],
    where: str | None,
    declaration: Table | None,
) -> None:
    """Append rows, or replace those of the partitions that ``where`` selects, or all; with a ``declaration``,
    also replace types and partition columns."""
    options = {"userMetadata": json.dumps(info)}
    for item in first_watermark(consumed):
        options |= {"txnAppId": item.app_id, "txnVersion": str(item.version)}
    if where is not None:
        options["replaceWhere"] = where
    parts: list[str] = []
    if declaration:
        options["overwriteSchema"], parts = "true", [name for name in [declaration.partition_by] if name]
        rows = rows.select(*(
            rows[f"`{column.name}`"].cast(column.type).alias(column.name, metadata={"comment": column.comment})
            for column in declaration.columns
        ))  # fmt: skip
    rows.write.format("delta").mode(mode).options(**options).partitionBy(*parts).save(path)


def merge(
    changes: DataFrame, path: str, names: list[str], match: Match, consumed: list[Consumed], info: dict[str, Any]
) -> None:
    """Delete, update and insert rows according to ``_action``."""
    spark = changes.sparkSession
    if match.flagged:
        matched = "WHEN MATCHED THEN DELETE"
    else:
        settable = ", ".join(f"t.`{name}` = s.`{name}`" for name in names)
        matched = f"WHEN MATCHED AND s._action = 'delete' THEN DELETE WHEN MATCHED THEN UPDATE SET {settable}"
    columns, values = (", ".join(f"{p}`{name}`" for name in names) for p in ("", "s."))
    view = f"changes_{threading.get_ident()}_{random.getrandbits(32):x}"
    statement = (
        f"MERGE INTO delta.`{path}` t USING {view} s ON {match.condition('`', 'size')} {matched} "
        f"WHEN NOT MATCHED AND s._action <> 'delete' THEN INSERT ({columns}) VALUES ({values})"
    )
    # With these settings Spark would skip every later write of the session with the same numbers:
    # they are set for one statement only, in a session that serves only this table.
    session_settings = {"spark.databricks.delta.commitInfo.userMetadata": json.dumps(info)}
    for item in first_watermark(consumed):
        session_settings |= dict(zip(_TXN, (item.app_id, str(item.version)), strict=True))
    changes.createOrReplaceTempView(view)
    try:
        for key, value in session_settings.items():
            spark.conf.set(key, value)
        spark.sql(statement).collect()
    finally:
        for key in session_settings:
            spark.conf.unset(key)
        spark.catalog.dropTempView(view)
