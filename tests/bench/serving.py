"""What the API takes: on one large table, and on the sample with all of its routes."""

from __future__ import annotations

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
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from reading import big_table

from lakehouse_lib import config

PATH = "/tables/app_events_silver"
PREVIEW = ("GET", PATH + "/preview?limit=10")
AGGREGATE = ("POST", "/query", "SELECT event_type, count(*), avg(event_value) FROM app_events_silver GROUP BY 1")
SORTED = ("GET", PATH + "/preview?limit=10&order_by=event_value&columns=event_id,event_value")
CATALOG = ("GET", "/tables?layer=silver")
ONE_USER = ("POST", "/query", "SELECT * FROM app_events_silver WHERE user_id = 'user_81' ORDER BY event_timestamp")


MIX = {
    "/tables": ("GET", "/tables"),
    "/catalog": ("GET", "/catalog"),
    "/tables/{name}": ("GET", PATH),
    "preview": PREVIEW,
    "history": ("GET", PATH + "/history"),
    "quality": ("GET", PATH + "/quality"),
    "lineage": ("GET", "/catalog/lineage/user_segments_gold"),
    "/query": ("POST", "/query", "SELECT event_type, count(*) FROM app_events_silver GROUP BY 1 ORDER BY 2 DESC"),
    "/health": ("GET", "/health"),
    "/metrics": ("GET", "/metrics"),
}
"""One request of each route."""


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

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, wrong


def mixed(rows: int, requests: int, clients: int = 8) -> None:
    """How many requests the API answers in a second on the sample, each route as often as the others."""
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, "-m", "lakehouse_lib", "run", "--sample", "--set", f"sample.rows={rows}"]
        subprocess.run(run, env=os.environ | {"LAKEHOUSE_BASE_PATH": folder}, check=True, stdout=subprocess.DEVNULL)
        with service(folder) as (port, process, _):
            for part in range(requests // 4000):
                _mixed(port, 4000, clients, f"requests {part * 4000:>6,} to {(part + 1) * 4000:,}")
                print(f"    service {process.memory_info().rss / 2**20:.0f} MB", flush=True)


def _mixed(port: int, requests: int, clients: int, name: str) -> None:
    times: dict[str, list[float]] = {route: [] for route in MIX}
    wrong: list[int] = []

    def client(number: int) -> None:
        connection, picks = http.client.HTTPConnection("127.0.0.1", port), random.Random(number)
        for _ in range(requests // clients):
            route = picks.choice([*MIX])
            status, took = ask(connection, *MIX[route])
            times[route].append(took * 1000)
            wrong.extend([status] if status != 200 else [])

    began = time.perf_counter()
    everyone = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for one in everyone:
        one.start()
    for one in everyone:
        one.join()
    wall = time.perf_counter() - began
    print(f"{name}: {clients} clients, {requests / wall:.0f} a second, errors {wrong or 'none'}")
    for route, took in times.items():
        last = statistics.quantiles(took, n=100)[98]
        print(f"    {route:<15} p50 {statistics.median(took):6.1f} ms  p99 {last:6.1f} ms")


def serve(rows: int, lasting: float, requests: int) -> None:
    """What the API takes on one large table: to start, for one client, for eight, and its memory."""
    with tempfile.TemporaryDirectory() as folder:
        big_table(config.load({"lakehouse_base_path": folder}), rows)
        with service(folder) as (port, process, began):
            print(f"{rows:,} rows  start         {began:6.2f} s to the first answer")
            connection = http.client.HTTPConnection("127.0.0.1", port)
            for name, request in (("preview", PREVIEW), ("sorted", SORTED), ("aggregate", AGGREGATE),
                                  ("one user", ONE_USER), ("catalog", CATALOG)):  # fmt: skip
                times = [ask(connection, *request)[1] * 1000 for _ in range(50)]
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
            done, picks, connection = 0, random.Random(1), http.client.HTTPConnection("127.0.0.1", port)
            while done <= requests:
                if done % (requests // 10) == 0:
                    sizes = [part.memory_info().rss / 2**20 for part in (process, *process.children())]
                    print(
                        f"after {done:>6,} requests  service {sizes[0]:4.0f} MB  queries "
                        + " ".join(f"{size:4.0f} MB" for size in sizes[1:]),
                        flush=True,
                    )
                ask(connection, *picks.choice(everything))
                done += 1
