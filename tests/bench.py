"""What a run costs, side by side with the least that plain PySpark + Delta costs: ``make bench``.

The yardstick Y is a new Python process that opens ``configure_spark_with_delta_pip`` with its
defaults, writes 1,000 rows to Delta and reads them back. Times are of the wall clock; each round
measures everything once, so that a noisy machine is noisy for all.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake

from lakehouse_lib import config, sample
from lakehouse_lib.care import maintenance
from lakehouse_lib.engines import toolchain
from lakehouse_lib.model import tables
from lakehouse_lib.serve import explorer
from lakehouse_lib.storage import delta, reader
from lakehouse_lib.trust import quality

YARDSTICK = """
import sys
from delta import configure_spark_with_delta_pip
from pyspark.sql import SparkSession
builder = (
    SparkSession.builder.config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
    .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
)
spark = configure_spark_with_delta_pip(builder).getOrCreate()
spark.range(1000).write.format("delta").save(sys.argv[1])
assert spark.read.format("delta").load(sys.argv[1]).count() == 1000
"""


def seconds(*command: str, **environment: str) -> float:
    """Wall time of a command that has to end well."""
    began = time.perf_counter()
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - began


def more_events(base: Path, rows: int) -> None:
    """One more file in each feed, of the newest day."""
    rules = config.load().sample.model_copy(update={"seed": 7, "days": 1})
    sample.write(rules, base / "more", rows)
    for file in [path for path in (base / "more").rglob("*") if path.is_file() and "cdc" not in str(path)]:
        target = base / "landing" / file.relative_to(base / "more")
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target.with_name("more-" + file.name))


def one_round(rows: int) -> dict[str, float]:
    """Seconds of each measurement."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        lake = {"LAKEHOUSE_BASE_PATH": folder, "LAKEHOUSE_SAMPLE__ROWS": str(rows)}
        run = (sys.executable, "-m", "lakehouse_lib", "run")
        found = {
            "yardstick": seconds(
                sys.executable, "-c", YARDSTICK, f"{folder}/plain", JAVA_HOME=str(toolchain.find_java())
            )
        }
        found["run"] = seconds(*run, "--sample", **lake)
        found["nothing new"] = seconds(*run, **lake)
        more_events(base, rows // 100)
        found["1 % more"] = seconds(*run, **lake)
        found["rebuilt"] = seconds(*run, "--full", **lake)
        return found


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
        seconds(sys.executable, "tests/worker.py", f'{{"lakehouse_base_path": "{folder}"}}')
        made = list(tables.declared(settings).values())
        for number in range(rounds + 1):  # the first warms the file cache and does not count
            found = {"checks": 0.0, "scan": 0.0}
            for table in made:
                for name, work in (
                    ("scan", lambda t: scan(settings, t)),
                    ("checks", lambda t: quality.run_checks(settings, t)),
                ):
                    began = time.perf_counter()
                    work(table)
                    found[name] += time.perf_counter() - began
            if number:
                print(
                    f"round {number}  {rows:,} rows  checks {found['checks']:.2f} s  scan {found['scan']:.2f} s  "
                    f"ratio {found['checks'] / found['scan']:.2f}",
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
            found = []
            for number in range(9):
                began = time.perf_counter()
                actions[number % len(actions)]()
                found.append(time.perf_counter() - began)
            return statistics.median(found)

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


PATH = "/tables/app_events_silver"
PREVIEW = ("GET", PATH + "/preview?limit=10")
AGGREGATE = ("POST", "/query", "SELECT event_type, count(*), avg(event_value) FROM app_events_silver GROUP BY 1")
SORTED = ("GET", PATH + "/preview?limit=10&order_by=event_value&columns=event_id,event_value")
CATALOG = ("GET", "/tables?layer=silver")
ONE_USER = ("POST", "/query", "SELECT * FROM app_events_silver WHERE user_id = 'user_81' ORDER BY event_timestamp")


@contextmanager
def service(folder: str) -> Iterator[tuple[int, psutil.Process, float]]:
    """The API of a lakehouse: its port, its process, and seconds from the command to the first answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.perf_counter()
    running = subprocess.Popen(
        [sys.executable, "-m", "lakehouse_lib", "api", "--port", str(port)],
        env=os.environ | {"LAKEHOUSE_BASE_PATH": folder},
        stdout=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                ask(http.client.HTTPConnection("127.0.0.1", port), "GET", "/tables")
                break
            except OSError:
                time.sleep(0.01)
        yield port, psutil.Process(running.pid), time.perf_counter() - began
    finally:
        running.terminate()
        running.wait()


def ask(connection: http.client.HTTPConnection, method: str, path: str, sql: str = "") -> tuple[int, float]:
    """Status and seconds of one request."""
    began = time.perf_counter()
    body = json.dumps({"sql": sql}) if sql else None
    connection.request(method, path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return answer.status, time.perf_counter() - began


def load(port: int, clients: int, lasting: float, mix: list[tuple]) -> tuple[list[float], list[int]]:
    """Seconds of every request that so many clients at once had answered, and what was no success."""
    until, times, wrong = time.monotonic() + lasting, [], []

    def client(number: int) -> None:
        connection, picks = http.client.HTTPConnection("127.0.0.1", port), random.Random(number)
        while time.monotonic() < until:
            status, took = ask(connection, *picks.choice(mix))
            times.append(took)
            if status != 200:
                wrong.append(status)

    everyone = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for one in everyone:
        one.start()
    for one in everyone:
        one.join()
    return times, wrong


def serve(rows: int, lasting: float, requests: int) -> None:
    """What the API takes on one large table: to start, for one client, for eight, and its memory."""
    with tempfile.TemporaryDirectory() as folder:
        big_table(config.load({"lakehouse_base_path": folder}), rows)
        with service(folder) as (port, process, began):
            print(f"{rows:,} rows  start         {began:6.2f} s to the first answer")
            one = http.client.HTTPConnection("127.0.0.1", port)
            for name, request in (("preview", PREVIEW), ("sorted", SORTED), ("aggregate", AGGREGATE),
                                  ("one user", ONE_USER), ("catalog", CATALOG)):  # fmt: skip
                times = [ask(one, *request)[1] * 1000 for _ in range(50)]
                print(f"{rows:,} rows  {name:<13} p50 {statistics.median(times):6.1f} ms  max {max(times):6.1f} ms")
            for clients in (1, 8, 1, 8):
                times, wrong = load(port, clients, lasting, [PREVIEW, AGGREGATE])
                middle, last = statistics.median(times) * 1000, statistics.quantiles(times, n=100)[98] * 1000
                spread = f"p50 {middle:.1f} ms  p99 {last:.1f} ms = {last / middle:.1f} x"
                print(
                    f"{rows:,} rows  {clients} at once     {len(times) / lasting:6.1f} answers/s  {spread}  "
                    f"errors {wrong or 'none'}",
                    flush=True,
                )
            everything = [PREVIEW, AGGREGATE, ONE_USER, CATALOG, ("POST", "/query", "SELECT 1 FROM nothing")]
            everything += [("GET", path) for path in (PATH + "/history", "/metrics", "/health")]
            done, picks, one = 0, random.Random(1), http.client.HTTPConnection("127.0.0.1", port)
            while done <= requests:
                if done % (requests // 10) == 0:
                    sizes = [one.memory_info().rss / 2**20 for one in (process, *process.children())]
                    print(
                        f"after {done:>6,} requests  service {sizes[0]:4.0f} MB  queries "
                        + " ".join(f"{size:4.0f} MB" for size in sizes[1:]),
                        flush=True,
                    )
                ask(one, *picks.choice(everything))
                done += 1


def main() -> None:
    """Print each round and each figure as a multiple of the yardstick."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=200_000)
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--checks", action="store_true", help="the checks against a plain scan instead")
    options.add_argument("--browse", action="store_true", help="the explorer on one large table instead")
    options.add_argument("--layout", action="store_true", help="what optimize saves a reader, on one large table")
    options.add_argument("--api", action="store_true", help="the API on one large table instead")
    options.add_argument("--seconds", type=float, default=60, help="how long the API is asked by 1 and by 8 clients")
    options.add_argument("--requests", type=int, default=20_000, help="after how many the API's memory is told")
    given = options.parse_args()
    if given.api:
        return serve(given.rows, given.seconds, given.requests)
    if given.browse or given.layout:
        return browse(given.rows) if given.browse else layout(given.rows)
    if given.checks:
        return checks(given.rows, given.rounds)
    # The first yardstick fetches its jars: that is set-up and not measured.
    with tempfile.TemporaryDirectory() as folder:
        seconds(sys.executable, "-c", YARDSTICK, f"{folder}/plain", JAVA_HOME=str(toolchain.find_java()))
    for number in range(given.rounds):
        found = one_round(given.rows)
        for name, value in found.items():
            print(f"round {number + 1}  {name:<12} {value:7.1f} s  {value / found['yardstick']:5.2f} Y", flush=True)


if __name__ == "__main__":
    main()
