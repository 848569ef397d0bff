"""What a run costs, side by side with the least that plain PySpark + Delta costs: ``make bench``.

The yardstick Y is a new Python process that opens ``configure_spark_with_delta_pip`` with its
defaults, writes 1,000 rows to Delta and reads them back. Times are of the wall clock; each round
measures everything once, so that a noisy machine is noisy for all.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lakehouse_lib import config, delta, quality, reader, sample, tables, toolchain

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
        found = {"yardstick": seconds(sys.executable, "-c", YARDSTICK, f"{folder}/plain",
                                      JAVA_HOME=str(toolchain.find_java()))}  # fmt: skip
        found["run"] = seconds(*run, **lake)
        found["nothing new"] = seconds(*run, **lake)
        more_events(base, rows // 100)
        found["1 % more"] = seconds(*run, **lake)
        found["rebuilt"] = seconds(*run, "--full", **lake)
        return found


def scan(settings: config.Settings, table: tables.Table) -> None:
    """The plainest look at every value of a table: how many rows, and the greatest of each column."""
    connection = reader.connect()
    opened = delta.open_table(delta.table_path(settings, table))
    reader.register(connection, table.name, opened.to_pyarrow_dataset())
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
                for name, work in (("scan", lambda t: scan(settings, t)),
                                   ("checks", lambda t: quality.run_checks(settings, t))):  # fmt: skip
                    began = time.perf_counter()
                    work(table)
                    found[name] += time.perf_counter() - began
            if number:
                print(f"round {number}  {rows:,} rows  checks {found['checks']:.2f} s  scan {found['scan']:.2f} s  "
                      f"ratio {found['checks'] / found['scan']:.2f}", flush=True)  # fmt: skip


def main() -> None:
    """Print each round and each figure as a multiple of the yardstick."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=200_000)
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument("--checks", action="store_true", help="the checks against a plain scan instead")
    given = options.parse_args()
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
