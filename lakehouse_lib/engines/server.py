"""The engine's own process: one Spark Connect server for one lakehouse, watched over.

Started by `session` as ``python -m lakehouse_lib.engines.server STATE_DIR``; not meant to be called by
hand. The JVM is a child that ends when this process ends, however it ends (its standard input
closes). This process ends when no owner is alive, when nothing ran for the idle time, or when
it is asked to.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil


def process_mark(pid: int) -> str | None:
    """Identity of a running process that a recycled process id cannot fake; None if it is gone."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return f"{pid}-{int(process.create_time() * 100)}"
    except psutil.NoSuchProcess:
        return None


def live_owners(state: Path) -> list[Path]:
    """Owners of the engine that still run; the marks of the others are removed."""
    alive = []
    for mark in (state / "owners").iterdir():
        if process_mark(int(mark.name.split("-")[0])) == mark.name:
            alive.append(mark)
        else:
            mark.unlink(missing_ok=True)
    return alive


def _idle_seconds(jvm: Any) -> float:
    """Seconds since the last query ended; 0 while one runs."""
    service = jvm.org.apache.spark.sql.connect.service.SparkConnectService
    active = service.listActiveExecutions()
    if active.isRight():
        return 0.0
    nanos: int = jvm.java.lang.System.nanoTime() - active.left().toOption().get()
    return nanos / 1e9


def main(state: Path) -> None:
    """Start the server that ``STATE/engine.json`` describes and stay until it is not needed."""
    plan = json.loads((state / "engine.json").read_text())
    os.environ["SPARK_CONNECT_AUTHENTICATE_TOKEN"] = plan["token"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a notebook is not for the engine

    idle_seconds, stop = (_native if plan["native"] else _embedded)(plan)
    plan["pid"] = os.getpid()
    ready = state / "ready.json.tmp"
    ready.write_text(json.dumps(plan))
    ready.rename(state / "ready.json")
    started = time.time()
    try:
        while live_owners(state) and not (state / "stop").exists():
            idle = min(idle_seconds(), time.time() - started)
            if idle > plan["idle_seconds"]:
                break
            time.sleep(0.5)
    finally:
        (state / "ready.json").unlink(missing_ok=True)
        stop()


def _embedded(plan: dict[str, Any]) -> tuple[Callable[[], float], Callable[[], None]]:
    """Start Spark; how long it has been idle, and how it is stopped."""
    from pyspark import SparkConf, SparkContext

    conf = SparkConf(loadDefaults=True).setAll(list(plan["conf"].items()))
    context = SparkContext(conf=conf)
    return lambda: _idle_seconds(context._jvm), context.stop


def _native(plan: dict[str, Any]) -> tuple[Callable[[], float], Callable[[], None]]:
    """Start Sail, which says of no query when it ended: it is idle while it takes no processor time."""
    from pysail.spark import SparkConnectServer

    server = SparkConnectServer("127.0.0.1", plan["port"])
    server.start(background=True)
    used = {"seconds": 0.0, "at": time.time()}

    def idle() -> float:
        times = psutil.Process().cpu_times()
        if times.user + times.system - used["seconds"] > 0.5:
            used.update(seconds=times.user + times.system, at=time.time())
        return time.time() - used["at"]

    return idle, server.stop


if __name__ == "__main__":
    main(Path(sys.argv[1]))
