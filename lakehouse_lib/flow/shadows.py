"""Shadows: tables as their present declaration, code and settings make them, in ``ops/preview`` beside the real ones.

A shadow is made from the shadows of its sources where there are any, and otherwise from the sources as they are, by
the same transformation as a rebuild. Nothing but ``ops/preview`` is written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

import pyarrow.dataset as ds
from deltalake import DeltaTable

from lakehouse_lib.config import Settings, new_run_id
from lakehouse_lib.engines import session
from lakehouse_lib.errors import TableError
from lakehouse_lib.intake import landing
from lakehouse_lib.layers import loading, loads, refresh, staging
from lakehouse_lib.layers.inputs import Inputs, source_states
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import archive, delta, delta_rs

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@dataclass
class _Inputs(Inputs):
    """What the transformation of a shadow may read."""

    shadows: dict[str, Shadow] = field(default_factory=dict)

    def all(self, source: str) -> DataFrame:
        """Return the shadow of a source if there is one, else the source."""
        if source in self.shadows:
            return delta.read_path(self.spark, self.lakehouse, self.shadows[source].path)
        return super().all(source)


@dataclass
class Shadow:
    """The shadow of a table."""

    table: Table
    path: str
    missing: list[str] = field(default_factory=list)
    """Files of a bronze table that cannot be loaded again; their rows are not in the shadow."""

    def after(self) -> ds.Dataset:
        """The rows that the table would have."""
        return delta.dataset(DeltaTable(self.path))

    def before(self, settings: Settings) -> ds.Dataset:
        """The rows that the table has, including archived ones."""
        copied = delta.open_table(f"{self.path}.before") if archive.batches(settings, self.table) else None
        return delta.dataset(copied or delta.made(settings, self.table, "there is nothing to compare with"))


def make(settings: Settings, wanted: list[Table], since: dict[str, date]) -> dict[str, Shadow]:
    """Make the shadows of some tables, sources first; ``since`` limits a table to its rows from a day on.

    Raises
    ------
    TableError
        The records of a landing file can no longer be computed.
    """
    made: dict[str, Shadow] = {}
    with session.opened(settings) as spark:
        for table in wanted:
            shadow = Shadow(table, f"{settings.layer_path('ops')}/preview/{table.name}")
            if table.layer == "bronze":
                _load(spark, settings, shadow, since.get(table.name))
            else:
                _transform(spark, settings, shadow, made, since.get(table.name))
            if archive.batches(settings, table):
                rows = archive.with_archived(settings, table, delta.read(spark, settings, table))
                delta_rs.write_shadow(rows, f"{shadow.path}.before", table)
            made[table.name] = shadow
    return made


def _load(spark: SparkSession, settings: Settings, shadow: Shadow, since: date | None) -> None:
    """Load the files that a bronze table holds once more, as far as they are still there."""
    table, run_id = shadow.table, new_run_id()
    waiting = [file.path for file in landing.pending_files(settings, table)]
    load, _ = loads.planned(settings, table, delta.opened(settings, table), True, waiting)
    shadow.missing = load.missing
    try:
        records = staging.read(spark, load.staging, load.fields)
        rows = loading.bronze_rows(settings, table, records, run_id)
        try:
            delta_rs.write_shadow(_from_day(rows, table, since), shadow.path, table)
        except Exception as error:
            bad = loading.files_that_fail(settings, table, run_id, records, load.files)
            if not bad:
                raise
            told = "; ".join(f"{path}: {reason}" for path, reason in bad.items())
            raise TableError(f"{table.name} cannot be loaded again, because of {told}") from error
    finally:
        staging.remove(load.staging)


def _transform(
    spark: SparkSession, settings: Settings, shadow: Shadow, made: dict[str, Shadow], since: date | None
) -> None:
    states = source_states(settings, shadow.table)
    inputs = _Inputs(spark, settings, shadow.table, new_run_id(), states, full=True, shadows=made)
    outcome = refresh.transformed(inputs)
    if isinstance(outcome, refresh.Difference) and outcome.table:
        shadow.table = outcome.table
    rows = refresh.stamped(inputs, refresh.rows_of(outcome, list(shadow.table.key)))
    delta_rs.write_shadow(_from_day(rows, shadow.table, since), shadow.path, shadow.table)


def _from_day(rows: DataFrame, table: Table, since: date | None) -> DataFrame:
    return rows if since is None else rows.where(rows[table.partition_by] >= since)
