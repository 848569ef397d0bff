"""What a load costs, side by side: this project on both of its engines, and the job that a textbook, polars and DuckDB
make of the same clicks.

Each round measures everything once, so that a noisy machine is noisy for all; figures are medians of the rounds. CPU
and memory (the largest sum at one moment) are of all processes of the job, looked at ten times a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import clicks
import picture
import psutil

from lakehouse_lib import config, sample
from lakehouse_lib.engines import toolchain
from lakehouse_lib.storage import reader

HERE = Path(__file__).parent
JOBS = {"textbook": "textbook.py", "polars": "with_polars.py", "duckdb": "with_duckdb.py"}
SIDES = {
    "textbook": "PySpark + Delta, as in a textbook",
    "jvm": "this project on Spark",
    "native": "this project, native",
    "duckdb": "DuckDB + delta-rs, the textbook's job",
    "polars": "polars + delta-rs, the textbook's job",
}
MASTERS = {"jvm": "local[*]", "native": "native"}
STEPS = ("full", "1 % more", "nothing new")


@dataclass(frozen=True)
class Cost:
    """Seconds of the clock and of the processors, and bytes."""

    wall: float
    cpu: float
    memory: int


def measured(*command: str, **environment: str) -> tuple[Cost, str]:
    """What a command costs that has to end well, with all processes that it starts, and what it prints."""
    mark, done = uuid.uuid4().hex, threading.Event()
    cpu: dict[tuple[int, float], float] = {}
    peak = 0

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.1):
            own = [process for process in psutil.process_iter() if _is_marked(process, mark)]
            memory = 0
            for process in own:
                with contextlib.suppress(psutil.Error), process.oneshot():
                    spent = process.cpu_times()
                    cpu[process.pid, process.create_time()] = spent.user + spent.system
                    memory += process.memory_info().rss
            peak = max(peak, memory)

    watcher, began = threading.Thread(target=watch), time.perf_counter()
    watcher.start()
    given = os.environ | environment | {"BENCH_MARK": mark}
    ended = subprocess.run(command, env=given, capture_output=True, text=True)
    wall = time.perf_counter() - began
    done.set()
    watcher.join()
    if ended.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}")
    return Cost(wall, sum(cpu.values()), peak), ended.stdout


def _is_marked(process: psutil.Process, mark: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.environ().get("BENCH_MARK") == mark
    return False


def one(side: str, rows: int) -> Iterator[tuple[str, Cost]]:
    """Each step of one side, its answers checked."""
    with tempfile.TemporaryDirectory() as folder:
        landing = Path(folder) / "landing/clickstream"
        clicks.write(landing, rows)
        for step in STEPS if side in MASTERS else STEPS[:2]:
            if step == "1 % more":
                clicks.write(landing, rows, more=True)
            if side in JOBS:
                out = f"{folder}/{step[0]}"
                cost, said = measured(
                    sys.executable, str(HERE / JOBS[side]), str(landing), out, JAVA_HOME=str(toolchain.find_java())
                )
                answers = json.loads(said.splitlines()[-1])
            else:
                cost, _ = measured(
                    sys.executable, "-m", "lakehouse_lib", "run", LAKEHOUSE_BASE_PATH=folder,
                    SPARK_MASTER=MASTERS[side],
                )  # fmt: skip
                answers = _answers(folder)
            assert answers == clicks.right(landing), (side, step, answers, clicks.right(landing))
            yield step, cost


def _answers(folder: str) -> dict[str, int]:
    answer = reader.query(
        config.load({"lakehouse_base_path": folder}),
        "SELECT sum(total_clicks), (SELECT count(*) FROM clickstream_silver), sum(error_count), "
        "count_if(total_clicks > 0) FROM hourly_metrics_gold",
    )
    return dict(zip(("clicks", "sessions", "errors", "hours"), map(int, answer.iloc[0]), strict=True))


def compare(rows: int, rounds: int, sides: list[str], target: str = "") -> None:
    """Measure in turn, print each figure as it comes, then a table of the medians; ``target`` is for its picture."""
    costs: dict[tuple[str, str], list[Cost]] = {}
    for number in range(rounds):
        for side in sides:
            for step, cost in one(side, rows):
                costs.setdefault((side, step), []).append(cost)
                print(f"round {number + 1}  {rows:,} clicks  {side:<9} {step:<12} {_text(cost)}", flush=True)
    print(f"\n| {rows:,} clicks | " + " | ".join(STEPS) + " |\n|---|" + "---|" * len(STEPS))
    for side in sides:
        cells = [_text(_median(costs[side, step])) if (side, step) in costs else "–" for step in STEPS]
        print(f"| {SIDES[side]} | {' | '.join(cells)} |")
    if target:
        seconds = {
            SIDES[side]: {step: _median(costs[side, step]).wall for step in STEPS if (side, step) in costs}
            for side in sides
        }
        title = f"Loading {rows:,} clicks, median of {rounds} on {psutil.cpu_count()} cores"
        picture.draw(title, seconds, Path(target))


def sample_runs(rows: int, rounds: int, sides: list[str]) -> None:
    """A run of the sample with all feeds and notebooks, and one more file in each feed."""
    for number in range(rounds):
        for side in [side for side in sides if side in MASTERS]:
            with tempfile.TemporaryDirectory() as folder:
                given = {"LAKEHOUSE_BASE_PATH": folder, "SPARK_MASTER": MASTERS[side]}
                run = (sys.executable, "-m", "lakehouse_lib", "run")
                for step in STEPS:
                    if step == "1 % more":
                        _more_of_the_sample(Path(folder), rows // 100)
                    more = ("--sample", "--set", f"sample.rows={rows}") if step == "full" else ()
                    cost, _ = measured(*run, *more, **given)
                    print(f"round {number + 1}  sample of {rows:,}  {side:<9} {step:<12} {_text(cost)}", flush=True)


def _more_of_the_sample(base: Path, rows: int) -> None:
    """One more file in each feed, of the newest day."""
    rules = config.load().sample.model_copy(update={"seed": 7, "days": 1})
    sample.write(rules, base / "more", rows)
    for file in [path for path in (base / "more").rglob("*") if path.is_file() and "cdc" not in str(path)]:
        target = base / "landing" / file.relative_to(base / "more")
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target.with_name("more-" + file.name))


def _median(costs: list[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.wall for cost in costs), statistics.median(cost.cpu for cost in costs),
        int(statistics.median(cost.memory for cost in costs)),
    )  # fmt: skip


def _text(cost: Cost) -> str:
    return f"{cost.wall:.1f} s · {cost.cpu:.1f} CPU s · {cost.memory / 2**30:.1f} GiB"
