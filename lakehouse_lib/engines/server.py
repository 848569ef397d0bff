"""The engine's process: it runs and supervises one Spark Connect server for one lakehouse.

`session` starts it as ``python -m lakehouse_lib.engines.server STATE_DIR``; it is not meant to be called by hand. The
JVM is a child that exits when this process ends for any reason (its standard input closes). This process ends when no
owner is alive, when it was idle for the idle time, or when it is asked to stop.
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
    """Identify a running process in a way that a reused process id does not match; None if it has ended."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return f"{pid}-{int(process.create_time() * 100)}"
    except psutil.NoSuchProcess:
        return None


def live_owners(state: Path) -> list[Path]:
    """List the owners of the engine that are still running, and remove the marks of the others."""
    alive = []
    for mark in (state / "owners").iterdir():
        if process_mark(int(mark.name.split("-")[0])) == mark.name:
            alive.append(mark)
        else:
            mark.unlink(missing_ok=True)
    return alive


def _idle_seconds(jvm: Any) -> float:
    """Return the seconds since the last query ended; 0 while one is running."""
    service = jvm.org.apache.spark.sql.connect.service.SparkConnectService
    active = service.listActiveExecutions()
    if active.isRight():
        return 0.0
    nanos: int = jvm.java.lang.System.nanoTime() - active.left().toOption().get()
    return nanos / 1e9


def main(state: Path) -> None:
    """Start the server described in ``STATE/engine.json``, and keep it running until it is no longer needed."""
    plan = json.loads((state / "engine.json").read_text())
    os.environ["SPARK_CONNECT_AUTHENTICATE_TOKEN"] = plan["token"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a notebook must not stop the engine

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
    """Start Spark; return functions that report its idle seconds and stop it."""
    from pyspark import SparkConf, SparkContext

    conf = SparkConf(loadDefaults=True).setAll(list(plan["conf"].items()))
    context = SparkContext(conf=conf)
    return lambda: _idle_seconds(context._jvm), context.stop


def _native(plan: dict[str, Any]) -> tuple[Callable[[], float], Callable[[], None]]:
    """Start Sail, which does not report when queries end: it counts as idle while it uses no processor time."""
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
