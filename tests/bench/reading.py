"""What the checks, the explorer and the layout of files cost on large tables."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake

from lakehouse_lib import config, sample
from lakehouse_lib.care import maintenance
from lakehouse_lib.model import tables
from lakehouse_lib.serve import explorer
from lakehouse_lib.storage import delta, reader
from lakehouse_lib.trust import quality


def scan(settings: config.Settings, table: tables.Table) -> None:
    """The plainest look at every value of a table: how many rows, and the greatest of each column."""
    connection = reader.connect()
    opened = delta.opened(settings, table)
    reader.register(connection, table.name, delta.dataset(opened))
    greatest = ", ".join(f'max("{name}")' for name in table.names)
    connection.execute(f'SELECT count(*), {greatest} FROM "{table.name}"').fetchall()


def checks(rows: int, rounds: int) -> None:
    """Seconds for all checks of all tables, in turn with a plain scan of the same tables."""
    with tempfile.TemporaryDirectory() as folder:
        settings = config.load({"lakehouse_base_path": folder})
        sample.write(settings.sample, Path(folder) / "landing", rows)
        worker = [sys.executable, "tests/worker.py", f'{{"lakehouse_base_path": "{folder}"}}']
        subprocess.run(worker, check=True, capture_output=True)
        tables_in_use = list(tables.declared(settings).values())
        for number in range(rounds + 1):  # the first warms the file cache and does not count
            seconds = {"checks": 0.0, "scan": 0.0}
            for table in tables_in_use:
                for name, work in (
                    ("scan", lambda t: scan(settings, t)),
                    ("checks", lambda t: quality.run_checks(settings, t)),
                ):
                    began = time.perf_counter()
                    work(table)
                    seconds[name] += time.perf_counter() - began
            if number:
                print(
                    f"round {number}  {rows:,} rows  checks {seconds['checks']:.2f} s  scan {seconds['scan']:.2f} s  "
                    f"ratio {seconds['checks'] / seconds['scan']:.2f}",
                    flush=True,
                )


def big_table(settings: config.Settings, rows: int) -> None:
    """app_events_silver with so many rows, in five commits."""
    table = tables.get(settings, "app_events_silver")
    delta.ensure(settings, table)
    given = {
        "event_id": "'e' || md5(i::VARCHAR)", "user_id": "'user_' || (i * 31 % 50000)",
        "session_id": "'s' || (i // 20)",
        "event_type": "['screen_view', 'search', 'add_to_cart', 'purchase', 'app_error'][1 + i % 5]",
        "app_type": "['web', 'ios', 'android'][1 + i % 3]", "event_timestamp": "t", "event_date": "t::DATE",
        "event_hour": "hour(t)::INTEGER", "device_type": "'phone'", "device_os": "'iOS'",
        "device_model": "'m' || i % 50", "app_version": "'1.' || i % 9",
        "country": "['DE', 'US', 'FR'][1 + i % 3]", "event_value": "i * 7919 % 10007 / 100",
        "duration_ms": "i * 31 % 100000", "is_error": "i % 5 = 4", "_run_id": "'bench'", "_processed_at": "t",
    }  # fmt: skip
    columns = ", ".join(f"{given[name]} AS {name}" for name in table.names)
    for part in range(5):
        made = reader.connect().sql(f"""
            SELECT {columns} FROM (SELECT i, make_timestamp(1770000000000000 + i * 14 * 86400000000 // {rows}) AS t
                                   FROM range({part * rows // 5}, {(part + 1) * rows // 5}) r(i))
        """).to_arrow_table()  # fmt: skip
        typed = [made[f.name].cast(f.type) for f in table.arrow_schema()]
        write_deltalake(delta.table_path(settings, table), pa.table(typed, schema=table.arrow_schema()), mode="append")


def browse(rows: int) -> None:
    """Seconds that the explorer takes for what people do with it, on one large table; medians of 9."""
    with tempfile.TemporaryDirectory() as folder:
        settings = config.load({"lakehouse_base_path": folder})
        big_table(settings, rows)

        def median(*actions: Callable[[], object]) -> float:
            durations = []
            for number in range(9):
                began = time.perf_counter()
                actions[number % len(actions)]()
                durations.append(time.perf_counter() - began)
            return statistics.median(durations)

        began = time.perf_counter()
        seen = explorer.Explorer(settings)
        seen.search.value = seen.names.value = "app_events_silver"
        seen.tabs.selected_index = 1
        print(f"{rows:,} rows  first page    {time.perf_counter() - began:6.3f} s")
        print(f"{rows:,} rows  next page     {median(seen.forward.click):6.3f} s")
        versions = [version for _, version in seen.version.options]
        travel = [lambda v=v: setattr(seen.version, "value", v) for v in versions[:-1]]
        print(f"{rows:,} rows  version       {median(*travel):6.3f} s")
        seen.version.value = versions[-1]
        sorts = [
            lambda c=c: setattr(seen.order, "value", c)
            for c in ("event_value", "user_id", "event_id", "event_timestamp")
        ]
        print(f"{rows:,} rows  sort          {median(*sorts):6.3f} s")


def layout(rows: int) -> None:
    """Bytes that a reader cannot skip when it looks up 20 values, before and after `optimize`."""
    with tempfile.TemporaryDirectory() as folder:
        settings = config.load({"lakehouse_base_path": folder})
        big_table(settings, rows)
        table = tables.get(settings, "app_events_silver")
        (column,) = table.cluster_by[:1]
        wanted = [f"user_{n * 2477 % 50000}" for n in range(20)]
        for state in ("as written", "optimized"):
            if state == "optimized":
                began = time.perf_counter()
                maintenance.optimize(settings, table, everything=True)
                print(f"{rows:,} rows  optimize      {time.perf_counter() - began:6.1f} s")
            read = whole = 0
            for file in delta.opened(settings, table).file_uris():
                known = pq.ParquetFile(file).metadata
                place = known.schema.names.index(column)
                for group in map(known.row_group, range(known.num_row_groups)):
                    bounds = group.column(place).statistics
                    size = sum(group.column(n).total_compressed_size for n in range(group.num_columns))
                    whole += size * len(wanted)
                    read += size * sum(bounds.min <= value <= bounds.max for value in wanted)
            print(f"{rows:,} rows  {state:<13} {column} = …: {read / whole:6.1%} of the bytes are read")
