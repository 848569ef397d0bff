"""Lakehouses of every shape: all notebooks, commands, endpoints and figures work on each of them.

A shape defines which files arrive, how the run is limited, and what happens to the tables afterwards. The notebooks
load it; commands and endpoints then read the result.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import change, click, event
from deltalake import DeltaTable
from fastapi.testclient import TestClient
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from lake import assert_ledger_matches_tables

from lakehouse_lib import cli, config, notebooks
from lakehouse_lib.care import maintenance, restore
from lakehouse_lib.config import Settings
from lakehouse_lib.flow import selection
from lakehouse_lib.model import tables
from lakehouse_lib.serve import api
from lakehouse_lib.storage import delta

NOW = datetime.now(UTC)


def at(hours: float) -> str:
    return (NOW - timedelta(hours=hours)).isoformat()


EVENTS = [event(n, at(1 + n), user_id=f"u{n % 5}", properties={"value": n}) for n in range(20)]
CLICKS = [click(n, at(1 + n / 10), user_id=f"u{n % 5}", response_time_ms=5 + n) for n in range(20)]
CHANGES = [change("c", n, None, {"user_id": f"u{n}", "country": "NO"}) for n in range(5)]
YEARS = [event(n, at(24 * 30 * n), user_id=f"u{n % 5}") for n in range(36)]


@dataclass
class Shape:
    """Which files arrive, how the run is limited, what happens afterwards, and how it ends."""

    feeds: dict[str, list[dict]] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    then: Callable[[Settings], None] | None = None
    status: int = 0
    """Of `lakehouse run`."""


def take_back(lake: Settings) -> None:
    """Undo the last load of each bronze table, then run again."""
    for name in ("app_events_bronze", "clickstream_bronze"):
        restore.restore(lake, tables.get(lake, name), 0)


def empty_by_retention(lake: Settings) -> None:
    for name in ("app_events_bronze", "app_events_silver", "event_metrics_gold"):
        maintenance.retention(lake, tables.get(lake, name), (NOW + timedelta(days=4000)).date())
        assert tables.get(lake, name).retention_days and not DeltaTable(path(lake, name)).count(), name


def clean_logs(lake: Settings) -> None:
    """Remove the log entries, so that only a checkpoint is left."""
    for table in tables.declared(lake).values():
        opened = DeltaTable(path(lake, table.name))
        opened.create_checkpoint()
        for entry in Path(path(lake, table.name), "_delta_log").glob("*.json"):
            if int(entry.stem) < opened.version():
                entry.unlink()


SHAPES = {
    "nothing in landing": Shape(),
    "app_events alone": Shape({"app_events": EVENTS}),
    "clickstream alone": Shape({"clickstream": CLICKS}),
    "cdc_changes alone": Shape({"cdc_changes": CHANGES}),
    "two feeds": Shape({"app_events": EVENTS, "cdc_changes": CHANGES}),
    "one record": Shape({"clickstream": CLICKS[:1]}),
    "everything quarantined": Shape({"app_events": [e | {"event_timestamp": "never"} for e in EVENTS[:5]],
                                     "clickstream": [c | {"click_id": ""} for c in CLICKS[:5]]}),
    "bronze alone by --tables": Shape({"clickstream": CLICKS}, {"tables": "clickstream_bronze"}),
    "silver alone by --tables": Shape({"clickstream": CLICKS}, {"tables": "clickstream_silver"}, status=1),
    "no quarantine table": Shape({"app_events": EVENTS}, {"tables": "app_events_bronze,app_events_silver"}),
    "gold held by an error check": Shape({"app_events": EVENTS}, {"quality": {"app_events_silver": [
        {"name": "many", "check": "row_count", "min": 1000, "severity": "error"}]}}, status=3),
    "after restore": Shape({"app_events": EVENTS, "clickstream": CLICKS}, then=take_back),
    "emptied by retention": Shape({"app_events": EVENTS}, then=empty_by_retention),
    "three years": Shape({"app_events": YEARS, "clickstream": [click(1, at(24 * 1000)), click(2, at(1))]}),
    "logs cleaned up": Shape({"app_events": EVENTS, "clickstream": CLICKS}, then=clean_logs),
}  # fmt: skip


def path(lake: Settings, name: str) -> str:
    return delta.table_path(lake, tables.get(lake, name))


class Shaped:
    """A lakehouse of a shape: built once, then read by several tests."""

    def __init__(self, shape: Shape, home: Path, engine: str):
        self.shape = shape
        (home / "landing").mkdir()
        for feed, records in shape.feeds.items():
            (home / "landing" / feed).mkdir()
            (home / "landing" / feed / "1.json").write_text("".join(json.dumps(record) + "\n" for record in records))
        self.variables = {"LAKEHOUSE_BASE_PATH": str(home), "SPARK_MASTER": engine} | {
            f"LAKEHOUSE_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in shape.parameters.items()
        }
        with self.environment():
            self.lake = config.load()
            self.outputs = {name: show(name) for name in notebooks.ORDER}
            if shape.then:
                shape.then(self.lake)
                self.outputs |= {f"{name}, then": show(name) for name in notebooks.ORDER}
            further = (*notebooks.EXPLORE, notebooks.MAINTENANCE, notebooks.REPORT)
            self.outputs |= {name: show(name) for name in further}

    @contextlib.contextmanager
    def environment(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.variables.items():
                patch.setenv(name, value)
            yield


def show(name: str) -> tuple[str, BaseException | None]:
    """Run a notebook's cells in this process; return its output, and the error that it ends with."""
    notebooks._known = None
    shell, shown = InteractiveShell(), ""
    for cell in nbformat.read(f"notebooks/{name}.ipynb", 4).cells:
        if cell.cell_type != "code":
            continue
        with capture_output() as captured:
            result = shell.run_cell(cell.source)
        shown += captured.stdout
        if result.result is not None:
            html = getattr(result.result, "_repr_html_", lambda: None)()
            shown += f"{result.result!r}\n{html or ''}\n"
        if error := result.error_before_exec or result.error_in_exec:
            return shown, error
    return shown, None


@pytest.fixture(scope="module")
def shaped(engine, tmp_path_factory) -> Callable[[str], Shaped]:
    shapes: dict[str, Shaped] = {}

    def get(name: str) -> Shaped:
        if name not in shapes:
            shapes[name] = Shaped(SHAPES[name], tmp_path_factory.mktemp("shape"), engine)
        return shapes[name]

    return get


@pytest.fixture(params=SHAPES)
def this(request, shaped) -> Shaped:
    shape = shaped(request.param)
    with shape.environment():
        yield shape


def no_nonsense(text: str) -> None:
    """Assert that output has nothing confusing: no NaN, no stack trace, no empty figure."""
    words = re.sub(r'src="data:[^"]*"', "", text)
    for word in ("NaN", "nan%", "nan ", "NaT", "inf%", "Traceback", "JVM stacktrace"):
        assert word not in words, words[max(0, words.index(word) - 300) :][:600]


def test_every_notebook_runs_and_shows_no_invalid_values(this):
    for name, (shown, error) in this.outputs.items():
        kind = {1: "LakehouseError", 3: "QualityError"}.get(this.shape.status)
        steps = name.startswith(("10", "20", "30", "40"))
        assert error is None or (steps and type(error).__name__ == kind), (name, error)
        no_nonsense(shown)
    assert_ledger_matches_tables(this.lake)


COMMANDS = [
    "run", "tables", "search daily", "health", "quality", "quality check", "quality profile", "quality anomalies",
    "quarantine", "optimize", "vacuum", "retention", "archive", *(
        f"{words} {name}" for name in ("app_events_bronze", "clickstream_silver", "app_events_bronze_quarantine")
        for words in ("describe", "lineage", "history", "quality show", "quality profile", "optimize", "vacuum",
                      "retention", "archive show", "quarantine show")
    ),
    "lineage daily_summary_gold.bounce_rate", "trace users_silver u1", "diff app_events_silver 0 1",
    "restore app_events_bronze 0", "quarantine replay app_events_bronze", "archive restore app_events_silver",
]  # fmt: skip


MAY_REFUSE = (
    "quarantine show clickstream_silver",
    "lineage daily_summary_gold.",
    "trace",
    "diff",
    "restore",
    "history",
    "quarantine replay",
    "optimize ",
    "vacuum ",
    "retention ",
    "quality ",
    "archive restore",
)
"""Commands that need a table, row or version which some shapes do not have."""


def test_every_command_succeeds_or_explains_why_not(this, capsys):
    wrong = []
    for words in COMMANDS:
        if words == "run" and this.shape.status:
            continue  # runs the notebooks again; `test_run_ends_with_the_documented_exit_status` covers it
        status = cli.main(words.split())
        captured = capsys.readouterr()
        no_nonsense(captured.out + captured.err)
        judges, refuses = words in ("health", "quality", "quality check"), words.startswith(MAY_REFUSE)
        allowed = (0, 3) if judges else (0, 1, 2, 3) if refuses else (0,)
        explained = captured.err.startswith("lakehouse: ") if status and not judges else captured.out.strip()
        wrong += [] if status in allowed and explained else [(words, status, captured)]
    assert not wrong


@pytest.mark.parametrize("name", ["gold held by an error check", "silver alone by --tables"])
def test_run_ends_with_the_documented_exit_status(shaped, name, capfd):
    """3 if an `error` check fails, 1 if a table cannot be built; both say why, and no notebook fails an assertion."""
    this = shaped(name)
    with this.environment():
        status = cli.main(["run"])
    captured = capfd.readouterr()
    assert status == this.shape.status, captured.err
    assert "AssertionError" not in captured.err + captured.out
    assert {1: "its source clickstream_bronze has not been made yet", 3: "number of rows is 20"}[status] in captured.err
    no_nonsense(captured.err + captured.out)


def test_every_endpoint_responds(this):
    app = api.build(this.lake.model_copy(update={"spark_master": "sc://localhost:1"}))
    client = TestClient(app, "http://127.0.0.1", raise_server_exceptions=False)
    names = [name for name in tables.declared(this.lake) if name.startswith(("app_events", "users_silver", "daily"))]
    paths = ["/health", "/catalog", "/tables", "/tables?layer=gold", "/metrics", "/docs", "/openapi.json"]
    paths += [f"/tables/{name}{rest}" for name in names for rest in ("", "/preview", "/history", "/quality")]
    paths += [f"/catalog/lineage/{name}{rest}" for name in names for rest in ("", "?format=openlineage")]
    answers = {path: client.get(path) for path in paths}
    answers |= {f"/query {name}": client.post("/query", json={"sql": f"SELECT count(*) FROM {name}"}) for name in names}
    app.state.close()
    for asked, answer in answers.items():
        expected = 503 if asked == "/health" and this.shape.status == 1 else 200
        assert answer.status_code == expected or answer.json().get("code") == "not_made", (asked, answer.text)
        if asked != "/metrics":  # Prometheus has NaN of its own
            no_nonsense(answer.text)


def test_feed_without_files_is_not_in_use_and_a_stopped_feed_is_stale(shaped):
    lake = shaped("clickstream alone").lake
    from lakehouse_lib.care import health

    report = health.report(lake)
    assert report.verdict == "Healthy" and not report.findings, report.text()
    unused = {name for name, state in report.states.items() if state == health.NOT_IN_USE}
    assert unused == {"app_events_bronze", "app_events_bronze_quarantine", "app_events_silver", "event_metrics_gold",
                      "cdc_changes_bronze", "cdc_changes_bronze_quarantine", "users_history_silver"}  # fmt: skip
    assert not {row["target"] for row in delta.read_ops(lake, "runs")} & unused, "no job was done for them"
    assert selection.pending(lake) == []
    emptied = shaped("emptied by retention").lake
    (stale,) = [
        finding for finding in health.report(emptied, NOW + timedelta(days=3)).findings if finding.kind == "stale feed"
    ]
    assert stale.table == "app_events_bronze" and "nothing waits in landing" in stale.text and not stale.command


def test_check_without_rows_reports_no_rows(shaped):
    lake = shaped("everything quarantined").lake
    actual = {row["check_name"]: row for row in delta.read_ops(lake, "quality_results", table_name="app_events_silver")}
    assert actual["key_is_unique"]["passed"] is None and "no rows to look at" in actual["key_is_unique"]["message"]
