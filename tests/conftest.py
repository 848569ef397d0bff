"""Warm engines for the whole test suite; each test gets its own lakehouses on them."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lakehouse_lib import config
from lakehouse_lib.config import Settings
from lakehouse_lib.engines import session
from lakehouse_lib.model import tables

SHARED = Path(__file__).parents[2] / "shared" / "cases"
"""Published cases; they are not part of the project."""
CHROMIUM = Path("/usr/bin/chromium")

os.chdir(Path(__file__).parents[1])


FOR_A_FEW_ROWS = {} if "LAKEHOUSE_TEST_AS_SHIPPED" in os.environ else {
    "spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
}  # fmt: skip
"""Without code generation and adaptive execution a run of a few rows takes three fifths of the time. Tests of commands
start engines with the shipped settings; LAKEHOUSE_TEST_AS_SHIPPED=1 does so for all tests."""

ENGINE = os.environ.get("LAKEHOUSE_TEST_ENGINE", "native")
"""Or ``jvm``; tests that need both engines always use both."""
OWN_ENGINES = ("test_session", "test_notebooks", "test_readme")
"""Files whose tests start commands, which start engines."""
LONGEST = (
    "test_laws", "test_plan", "test_oracle", "test_quality", "test_shapes", "test_health", "test_history",
    "test_maintenance",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that no process is left alone with one of them at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    for item in items:
        starts = {"native", "jvm", "engine", "each_engine", "browser"} & {*getattr(item, "fixturenames", ())}
        if starts or item.path.stem in OWN_ENGINES:
            item.add_marker("engine")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the developer's own settings from the tests."""
    aliases = ("SPARK_MASTER", "LANDING_PATH", "BRONZE_PATH", "SILVER_PATH", "GOLD_PATH", "LOG_LEVEL",
               "AUTO_OPTIMIZE", "AUTO_ARCHIVE")  # fmt: skip
    for name in list(os.environ):
        if name.startswith("LAKEHOUSE_") or name in (*aliases, "ENABLE_DELTA"):
            monkeypatch.delenv(name)


def _started(tmp_path_factory: pytest.TempPathFactory, name: str, **values: Any) -> Iterator[dict[str, Any]]:
    """Start a warm engine, only one even if several processes share the tests."""
    base = tmp_path_factory.getbasetemp()
    home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    settings = Settings(lakehouse_base_path=str(home), engine_idle_minutes=60, driver_memory="6g", **values)
    yield session.ensure(settings)
    session.release(settings)


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the suite's native engine."""
    for plan in _started(tmp_path_factory, "native", spark_master="native"):
        yield f"native://localhost:{plan['port']}"


@pytest.fixture(scope="session")
def jvm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the suite's Spark."""
    for plan in _started(tmp_path_factory, "jvm", spark_master="local[*]", spark_conf=FOR_A_FEW_ROWS):
        yield f"sc://localhost:{plan['port']}/;token={plan['token']}"


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> str:
    """Address of the engine for tests that need only one engine."""
    return str(request.getfixturevalue(ENGINE))


@pytest.fixture(scope="session", params=["native", "jvm"])
def each_engine(request: pytest.FixtureRequest) -> str:
    """Address of each engine in turn."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture(scope="session")
def spark(each_engine: str):
    """A session on each engine in turn, for tests of transformations."""
    with session.opened(Settings(spark_master=each_engine)) as opened:
        yield opened


@pytest.fixture(scope="session")
def engine_session(engine: str):
    """A session on the engine for tests that need only one engine."""
    with session.opened(Settings(spark_master=engine)) as opened:
        yield opened


@pytest.fixture(scope="session")
def real_spark(jvm: str):
    """A session on Spark, for tests that compare with Spark."""
    with session.opened(Settings(spark_master=jvm)) as opened:
        yield opened


@pytest.fixture(scope="module")
def browser():
    """A Chromium."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no browser here ({CHROMIUM})")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        opened = player.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def lakehouse(tmp_path: Path, engine: str) -> Callable[..., Settings]:
    """Create the settings of a lakehouse in the test's folder, attached to the engine."""

    def make(name: str = "lake", **values: Any) -> Settings:
        arguments = {"lakehouse_base_path": str(tmp_path / name), "spark_master": engine,
                 "landing_path": str(tmp_path / "landing"), "sample": {"rows": 0}}  # fmt: skip
        return config.load(arguments | values)

    return make


@pytest.fixture
def deliver(tmp_path: Path) -> Callable[..., Path]:
    """Write records (dicts, or raw lines) to the landing folder as one file."""

    def put(path: str, records: list[dict | str | bytes], landing: Path = tmp_path / "landing") -> Path:
        lines = [json.dumps(r) if isinstance(r, dict) else r for r in records]
        data = b"".join(line if isinstance(line, bytes) else f"{line}\n".encode() for line in lines)
        target = landing / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gzip.compress(data, mtime=0) if path.endswith(".gz") else data)
        return target

    return put


@pytest.fixture
def shared() -> Path:
    """Folder of the published cases."""
    if not SHARED.is_dir():
        pytest.skip(f"the published cases are not here ({SHARED})")
    return SHARED


@pytest.fixture
def extra_table() -> Iterator[Callable[[tables.Table], tables.Table]]:
    """Register a table for one test."""
    names = []

    def add(table: tables.Table) -> tables.Table:
        names.append(table.name)
        return tables.register(table)

    yield add
    for name in names:
        tables.unregister(name)


def event(n: int, at: str = "2026-03-02T10:00:00Z", **fields: Any) -> dict[str, Any]:
    """A valid app event."""
    return {"event_id": f"e{n}", "event_type": "tap", "event_timestamp": at, "user_id": "ann"} | fields


def click(n: int, at: str = "2026-03-02T10:00:00Z", **fields: Any) -> dict[str, Any]:
    """A valid click."""
    return {"click_id": f"k{n}", "click_timestamp": at, "user_id": "ann", "page_name": "home"} | fields


def change(op: str, at: int, before: dict | None, after: dict | None, **source: Any) -> dict[str, Any]:
    """A Debezium change of the users table; ``at`` is its position in the binlog and its second."""
    where = {"connector": "mysql", "table": "users", "file": "bin.000001", "pos": at,
             "ts_ms": 1_772_445_600_000 + at * 1000} | source  # fmt: skip
    return {"op": op, "before": before, "after": after, "source": where}
