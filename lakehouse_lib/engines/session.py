"""Spark sessions for every setting: native, embedded, ``spark://…``, ``sc://…``.

The native and the embedded engine are a Spark Connect server for one lakehouse: started when first needed, reused by
the next notebook, and stopped when its last owner ends. See `server`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from lakehouse_lib.config import Settings
from lakehouse_lib.engines import toolchain
from lakehouse_lib.engines.server import live_owners, process_mark
from lakehouse_lib.errors import EngineError, first_line

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


OWNER_VARIABLE = "LAKEHOUSE_ENGINE_OWNER"
"""Process id of the engine's owner; a run sets it for its notebooks, otherwise it is the process itself."""

START_SECONDS, STOP_SECONDS, REACH_SECONDS = 180, 30, 5
PORTS = {"spark": 7077, "sc": 15002}
"""Default ports of the servers that ``SPARK_MASTER`` can name."""
"""How long to wait for an engine to start and to stop."""

_SESSION_CONF = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    # The default, INT96, overflows in other readers after the year 2262.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
}

_CALL_SITES = {"spark.python.sql.dataFrameDebugging.enabled": "false"}
"""For error messages, pyspark would record the call site of each new column. Spark accepts this setting only at its
start."""

_OPTIMISE_LATER = (
    "-XX:Tier4InvocationThreshold=100000",
    "-XX:Tier4MinInvocationThreshold=10000",
    "-XX:Tier4CompileThreshold=200000",
    "-XX:Tier4BackEdgeThreshold=1000000",
)
"""About twenty times HotSpot's default thresholds: compiling code that a run executes a few thousand times took a third
of its processor time and did not pay off. Code that processes many rows is still optimised within seconds."""

_ROOM_FOR_CODE = "-XX:ReservedCodeCacheSize=768m"
"""HotSpot's default of 240 MB is full after some fifty runs; from then on it compiles the same code again and again.
Memory is only used as needed."""

_open: weakref.WeakKeyDictionary[SparkSession, Path] = weakref.WeakKeyDictionary()
"""Sessions of this process, and the state folder of each session's engine."""

_settled: weakref.WeakKeyDictionary[SparkSession, dict[str, DataFrame]] = weakref.WeakKeyDictionary()
"""The original frames of settled frames, by session and by the engine's name of the settled frame."""

# These would make the engine's process a Spark Connect client.
_CLIENT_VARIABLES = ("SPARK_REMOTE", "SPARK_CONNECT_MODE_ENABLED", "SPARK_API_MODE")


@contextlib.contextmanager
def exclusive(path: Path, wait_seconds: float | None = None) -> Iterator[bool]:
    """Hold a file lock on this machine; yields False if another process holds it."""
    import fcntl

    deadline = None if wait_seconds is None else time.monotonic() + wait_seconds
    with path.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if deadline is not None and time.monotonic() >= deadline:
                    yield False
                    return
                time.sleep(0.05)
        yield True


def state_dir(settings: Settings) -> Path:
    """Return the folder of this lakehouse's engines and locks, one per base path, user and machine."""
    name = hashlib.sha256(settings.path().encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"lakehouse-{os.getuid()}" / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.parent.stat().st_uid != os.getuid():
        raise EngineError(f"{folder.parent} belongs to another user; set TMPDIR to a folder of your own.")
    folder.parent.chmod(0o700)
    return folder


def engine_dir(settings: Settings) -> Path:
    """Return the state folder of the engine that the settings select; each ``SPARK_MASTER`` has a separate one."""
    engine = "native" if settings.native else hashlib.sha256(settings.spark_master.encode()).hexdigest()[:16]
    folder = state_dir(settings) / engine
    folder.mkdir(exist_ok=True)
    return folder


def check_reachable(settings: Settings) -> None:
    """Check that something listens where ``SPARK_MASTER`` says that a server runs; one of several masters suffices.
    Spark itself would try for two minutes.

    Raises
    ------
    EngineError
        Nothing listens there.
    """
    scheme, _, rest = settings.spark_master.partition("://")
    if scheme not in PORTS:
        return
    reasons = []
    for address in rest.split(";")[0].rstrip("/").split(","):
        try:
            server = urlsplit(f"//{address}")
            socket.create_connection((server.hostname, server.port or PORTS[scheme]), REACH_SECONDS).close()
            return
        except (OSError, ValueError) as error:
            reasons.append(f"{scheme}://{address} is not reachable ({getattr(error, 'strerror', None) or error})")
    raise EngineError(f"{'; '.join(reasons)}. Check SPARK_MASTER and that the server runs.")


def connect(settings: Settings) -> SparkSession:
    """Create a new Spark session on the lakehouse's engine, which is started if necessary.

    Raises
    ------
    SetupError
        Java or Delta's jars are missing.
    EngineError
        The engine did not start, or the server that ``SPARK_MASTER`` names does not answer.
    """
    # pyspark.sql.functions builds Spark Connect columns if this is set.
    os.environ["SPARK_CONNECT_MODE_ENABLED"] = "1"
    from pyspark.sql.connect.client.retries import DefaultPolicy
    from pyspark.sql.connect.session import SparkSession as Connect

    check_reachable(settings)
    remote = settings.spark_master.replace("native://", "sc://")
    if settings.has_own_engine:
        plan = ensure(settings)
        remote = f"sc://localhost:{plan['port']}/" + ("" if settings.native else f";token={plan['token']}")
    # Sail drops a session's results when it ends; ignore pyspark's warnings when it then asks to drop them.
    logging.getLogger("pyspark.sql.connect.logging").setLevel(logging.ERROR)
    # The EngineError below is clearer.
    warnings.filterwarnings("ignore", message=".*RETRIES_EXCEEDED")
    spark = None
    try:
        spark = Connect.builder.remote(remote).create()
        # By default, pyspark waits ten minutes for a server that no longer exists.
        spark.client.set_retry_policies([DefaultPolicy(max_retries=5, max_backoff=2000)])
        for key, value in (_SESSION_CONF | (_CALL_SITES if settings.native else {})).items():
            spark.conf.set(key, value)
    except Exception as error:
        if spark is not None:
            # Otherwise pyspark would keep asking this session for its settings.
            with contextlib.suppress(Exception):
                spark.stop()
        raise EngineError(
            f"The Spark server {remote.split(';')[0]} does not answer ({first_line(error)}). "
            f"Check SPARK_MASTER and that the server runs; engine log: {engine_log(settings)}"
        ) from error
    session = cast("SparkSession", spark)
    _open[session] = engine_dir(settings)
    return session


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[SparkSession]:
    """Open a session for one task. Afterwards the engine drops it, with everything that was `settle`d."""
    spark = connect(settings)
    try:
        yield spark
    finally:
        _settled.pop(spark, None)
        spark.stop()


def settle(frame: DataFrame, alike: DataFrame | None = None) -> DataFrame:
    """Compute a frame now and return it without its plan, which Spark Connect would otherwise analyse again for every
    query on it. The frame exists until its session ends.

    ``alike`` replaces it in column lineage: it has the same columns, computed from the same sources in a simpler way.
    """
    plan: Any = frame.localCheckpoint()._plan
    # When Python garbage-collects a copy of this plan, pyspark drops the frame in the engine; without a session it
    # cannot.
    plan._spark_session = None
    _settled.setdefault(frame.sparkSession, {})[plan._relation_id] = frame if alike is None else alike
    # pyspark gives the frame that it returns to the session that is active, which may be another one.
    return type(frame)(plan, frame.sparkSession)


def origin(spark: SparkSession, relation: str) -> DataFrame:
    """Return the original frame of a settled one, by the engine's name of the settled frame."""
    return _settled[spark][relation]


def ensure(settings: Settings) -> dict[str, Any]:
    """Start the engine unless it is running; return its plan (port, token, pid)."""
    state = engine_dir(settings)
    (state / "owners").mkdir(exist_ok=True)
    owner = int(os.environ.get(OWNER_VARIABLE) or os.getpid())
    mark = process_mark(owner)
    if mark is None:
        raise EngineError(f"The run that this notebook belongs to (process {owner}) has ended.")
    (state / "owners" / mark).touch()
    with exclusive(state / "start.lock"):
        if plan := running(state):
            return plan
        return _start(settings, state)


def running(state: Path) -> dict[str, Any] | None:
    """Return the plan of the running engine of a state folder; None if there is none."""
    try:
        plan: dict[str, Any] = json.loads((state / "ready.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if process_mark(plan["pid"]) is None or (state / "stop").exists():
        return None
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", plan["port"]), 5):
        return plan
    return None


def stop(settings: Settings) -> None:
    """Ask this lakehouse's engine to stop, and wait until it has stopped."""
    state = engine_dir(settings)
    plan = running(state)
    if plan is None:
        return
    (state / "stop").touch()
    deadline = time.monotonic() + STOP_SECONDS
    while process_mark(plan["pid"]) and time.monotonic() < deadline:
        time.sleep(0.05)
    (state / "stop").unlink(missing_ok=True)


def release(settings: Settings) -> None:
    """Give up this process's use of the engine; the last owner's release stops it."""
    state = engine_dir(settings)
    for spark in [spark for spark, lakehouse in _open.items() if lakehouse == state]:
        spark.stop()
    mark = process_mark(os.getpid())
    (state / "owners" / str(mark)).unlink(missing_ok=True)
    if (state / "owners").is_dir() and not live_owners(state):
        stop(settings)


def engine_log(settings: Settings) -> Path:
    """Return the engine's log file."""
    return settings.local_dir("logs") / "engine.log"


def _start(settings: Settings, state: Path) -> dict[str, Any]:
    (state / "stop").unlink(missing_ok=True)
    (state / "ready.json").unlink(missing_ok=True)
    java, jars = (Path(), []) if settings.native else (toolchain.find_java(), toolchain.delta_jars())
    log_file = engine_log(settings)
    for _attempt in range(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        plan = {
            "port": port,
            "token": secrets.token_urlsafe(24),
            "idle_seconds": settings.engine_idle_minutes * 60,
            "native": settings.native,
            "conf": {} if settings.native else _engine_conf(settings, jars, port, state),
        }
        plan_file = state / "engine.json"
        plan_file.touch(0o600)
        plan_file.write_text(json.dumps(plan))
        if log_file.exists() and log_file.stat().st_size > 10_000_000:
            log_file.replace(log_file.with_suffix(".log.1"))
        with log_file.open("a") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "lakehouse_lib.engines.server", state],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=state,
                env={k: v for k, v in os.environ.items() if k not in _CLIENT_VARIABLES}
                | {"PYTHONPATH": str(Path(__file__).parents[2])}
                | (_native_environment(settings, state) if settings.native else {"JAVA_HOME": str(java)}),
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            if ready := running(state):
                return ready
            time.sleep(0.1)
        process.kill()
        # Another process can take the port between the probe and the start; any other failure is final.
        if "BindException" not in log_file.read_text(errors="replace")[-20_000:]:
            break
    raise EngineError(f"The Spark engine did not start. Its log says why: {log_file}")


def _native_environment(settings: Settings, state: Path) -> dict[str, str]:
    """Return Sail's settings, which it reads from its environment."""
    checkpoints = state / "checkpoints"
    for folder in (checkpoints, state / "tmp"):
        folder.mkdir(exist_ok=True)
    number, unit = int(settings.driver_memory[:-1]), settings.driver_memory[-1]
    return {
        "SAIL_EXECUTION__CHECKPOINT__PATH": str(checkpoints),
        "SAIL_RUNTIME__MEMORY_POOL__TYPE": "greedy",
        "SAIL_RUNTIME__MEMORY_POOL__GREEDY__MAX_SIZE": str(number << {"m": 20, "g": 30}[unit]),
        "SAIL_RUNTIME__TEMPORARY_FILES__PATHS": json.dumps([str(state / "tmp")]),
        "RUST_LOG": "error",
    }


def _engine_conf(settings: Settings, jars: list[Path], port: int, state: Path) -> dict[str, str]:
    """Return Spark's settings; those for small data were chosen with `make bench`."""
    cores = str(settings.shuffle_partitions or os.cpu_count() or 2)
    master = settings.spark_master
    conf = {
        "spark.master": master,
        "spark.app.name": f"lakehouse {settings.path()}",
        "spark.driver.memory": settings.driver_memory,
        "spark.driver.extraJavaOptions": _java_options(settings, state),
        "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin",
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(port),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.warehouse.dir": str(state / "warehouse"),
        "spark.local.dir": str(state / "tmp"),
        "spark.ui.enabled": "false",
        **_CALL_SITES,
        "spark.ui.showConsoleProgress": "false",
        # Data that Spark keeps for its UI, which nobody opens.
        "spark.sql.ui.retainedExecutions": "10",
        "spark.ui.retainedJobs": "20",
        "spark.ui.retainedStages": "20",
        "spark.ui.retainedTasks": "200",
        "spark.sql.parquet.compression.codec": "snappy",
        "spark.sql.shuffle.partitions": cores,
        "spark.default.parallelism": cores,
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": cores,
    }
    paths = ":".join(map(str, jars))
    if master.startswith("local"):
        conf["spark.driver.extraClassPath"] = paths  # seconds faster than spark.jars
        conf["spark.driver.host"] = conf["spark.driver.bindAddress"] = "127.0.0.1"
    else:
        conf["spark.jars"] = ",".join(map(str, jars))  # executors need them too
    return conf | settings.spark_conf


def _java_options(settings: Settings, state: Path) -> str:
    level = {"WARNING": "warn", "INFO": "warn"}.get(settings.log_level, settings.log_level.lower())
    properties = state / "log4j2.properties"
    properties.write_text(
        f"rootLogger.level = {level}\n"
        "rootLogger.appenderRef.file.ref = console\n"
        "appender.console.type = Console\nappender.console.name = console\n"
        "appender.console.target = SYSTEM_ERR\nappender.console.layout.type = PatternLayout\n"
        "appender.console.layout.pattern = %d{yyyy-MM-dd HH:mm:ss} %p %c{1}: %m%n%ex\n"
    )
    return " ".join(
        ["-XX:+UseParallelGC", *_OPTIMISE_LATER, _ROOM_FOR_CODE, f"-Dlog4j2.configurationFile={properties}"]
    )
