"""``ENABLE_DELTA=false``: the same tables as plain Parquet, rebuilt whole."""

from __future__ import annotations

from datetime import date

import duckdb
from lake import contents

from lakehouse_lib import sample
from lakehouse_lib.config import SampleSettings
from lakehouse_lib.flow import pipeline
from lakehouse_lib.model import tables
from lakehouse_lib.storage import delta


def run(settings):
    pipeline.run(settings, progress=lambda line: None).check()


def test_parquet_tables_equal_delta_tables_and_include_new_files(lakehouse, tmp_path):
    sample.write(SampleSettings(days=2, end=date(2026, 3, 10)), tmp_path / "landing", 300)
    for day in sorted((tmp_path / "landing/app_events").iterdir())[:1]:
        day.rename(tmp_path / "later")
    plain = lakehouse("plain", enable_delta=False)
    run(plain)
    (tmp_path / "later").rename(tmp_path / "landing/app_events/later")
    run(plain)
    lake = lakehouse()
    run(lake)
    for name, rows in contents(lake).items():
        table = tables.get(lake, name)
        folder = delta.table_path(plain, table)
        assert not list((tmp_path / "plain").rglob(f"{name}/_delta_log"))
        actual = (
            duckdb.sql(f"SELECT * FROM '{folder}/*.parquet'").to_arrow_table().select(list(rows[0]) if rows else [])
        )
        assert actual.num_rows == len(rows), name
        keys = list(table.key) or table.business[:2]
        order = lambda row, keys=keys: [str(row[key]) for key in keys]  # noqa: E731
        if table.key:
            mine, theirs = sorted(actual.to_pylist(), key=order), sorted(rows, key=order)
            assert [[str(r[k]) for k in keys] for r in mine] == [[str(r[k]) for k in keys] for r in theirs], name
