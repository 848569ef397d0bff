"""Reads without a JVM: previews and SQL over the lakehouse's tables with DuckDB."""

from __future__ import annotations

import duckdb
import pandas as pd
import pyarrow as pa

from lakehouse_lib import delta, tables
from lakehouse_lib.config import Settings

OPS = ("runs", "ledger", "lineage", "landing_files")


def query(settings: Settings, sql: str) -> pd.DataFrame:
    """The answer of a DuckDB query over the tables by name; ``ops_<name>`` for those under ops.

    Timestamps are UTC, without a zone. Only tables that the text mentions are opened; nothing
    else can be reached.
    """
    connection = duckdb.connect(":memory:")
    for name, path in _paths(settings).items():
        opened = delta.open_table(path) if name in sql else None
        if opened is not None:
            _register(connection, name, opened.to_pyarrow_dataset())
    connection.execute("SET enable_external_access = false; SET lock_configuration = true")
    return connection.execute(sql).df()


def count(settings: Settings, name: str) -> int:
    """Rows of a table, from its log alone; 0 where it has not been made."""
    opened = delta.open_table(_paths(settings)[name])
    return 0 if opened is None else opened.count()


def _register(connection: duckdb.DuckDBPyConnection, name: str, dataset) -> None:
    """A view without time zones: DuckDB's functions on those are an extension to download."""
    zoned = [f.name for f in dataset.schema if pa.types.is_timestamp(f.type) and f.type.tz]
    naive = ", ".join(f'"{column}"::TIMESTAMP AS "{column}"' for column in zoned)
    connection.register(f"_{name}", dataset)
    connection.execute(
        f'CREATE VIEW "{name}" AS SELECT * {f"REPLACE ({naive})" if naive else ""} FROM "_{name}"'
    )


def _paths(settings: Settings) -> dict[str, str]:
    paths = {t.name: delta.table_path(settings, t) for t in tables.declared(settings).values()}
    return paths | {f"ops_{name}": f"{settings.layer_path('ops')}/{name}" for name in OPS}
