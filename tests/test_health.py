"""The health report: injected problems are named, and no suggested command loses a row."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import change, click, event
from deltalake import DeltaTable, PostCommitHookProperties, write_deltalake
from lake import assert_ledger_matches_tables, contents, versions

from lakehouse_lib import cli, config, notebooks
from lakehouse_lib.care import health, restore
from lakehouse_lib.config import Settings
from lakehouse_lib.engines import session
from lakehouse_lib.errors import LakehouseError, LandingError
from lakehouse_lib.flow import bookkeeping, pipeline
from lakehouse_lib.model import tables
from lakehouse_lib.serve import figures
from lakehouse_lib.storage import archive, delta

NOW = datetime.now(UTC)


def at(days: float = 0, hours: float = 1) -> str:
    return (NOW - timedelta(days=days, hours=hours)).isoformat()


def run(settings: Settings) -> None:
    pipeline.run(settings, progress=lambda line: None).check()


@pytest.fixture(scope="module")
def template(engine, tmp_path_factory) -> Path:
    """A small lakehouse that is up to date, and its landing folder; each test has a copy."""
    home = tmp_path_factory.mktemp("health")
    recent = int((NOW - timedelta(hours=1)).timestamp() * 1000)
    feeds = {
        "app_events": [event(n, at(hours=1 + n / 10), user_id=f"u{n}") for n in range(20)],
        "clickstream": [click(n, at(hours=1 + n / 10), user_id=f"u{n}") for n in range(20)],
        "cdc_changes": [change("c", n, None, {"user_id": f"u{n}"}, ts_ms=recent + n) for n in range(9)],
    }
    for feed, records in feeds.items():
        (home / "landing" / feed).mkdir(parents=True)
        (home / "landing" / feed / "1.json").write_text("\n".join(map(json.dumps, records)) + "\n")
    values = {"lakehouse_base_path": str(home / "lake"), "landing_path": str(home / "landing"), "spark_master": engine}
    run(config.load(values | {"sample": {"rows": 0}}))
    return home


@pytest.fixture
def lake(template, lakehouse, tmp_path, monkeypatch) -> Settings:
    """A lakehouse for one test; commands find it."""
    shutil.copytree(template / "lake", tmp_path / "lake")
    shutil.copytree(template / "landing", tmp_path / "landing")
    settings = lakehouse()
    for name, value in (("LAKEHOUSE_BASE_PATH", settings.path()), ("SPARK_MASTER", settings.spark_master),
                        ("LANDING_PATH", settings.layer_path("landing")), ("LAKEHOUSE_SAMPLE__ROWS", "0")):  # fmt: skip
        monkeypatch.setenv(name, value)
    return settings


def follow(settings: Settings, command: str) -> None:
    """Run the suggested commands; `lakehouse run` without its notebooks."""
    for part in filter(None, command.split(" && ")):
        if part == "lakehouse run":
            run(settings)
        elif part.startswith("lakehouse "):
            assert cli.main(shlex.split(part)[1:]) == 0
        else:
            subprocess.run(part, shell=True, check=True)


def only(settings: Settings, kind: str, table: str, words: str = "") -> health.Finding:
    """Return the only finding of this kind."""
    report = health.report(settings)
    findings = [
        finding
        for finding in report.findings
        if (finding.kind, finding.table) == (kind, table) and words in finding.text
    ]
    assert len(findings) == 1 and report.verdict != "Healthy", report.text()
    assert report.states[table] == findings[0].verdict
    return findings[0]


def append(settings: Settings, name: str, rows: list[dict]) -> None:
    table = tables.get(settings, name)
    full = [{c.name: None for c in table.columns} | row for row in rows]
    write_deltalake(delta.table_path(settings, table), pa.Table.from_pylist(full, table.arrow_schema()), mode="append")


def metric(n: int, days: int = 0) -> dict:
    return {"metric_date": (NOW - timedelta(days=days)).date(), "metric_hour": 1, "event_type": f"x{n}",
            "app_type": "web", "total_events": 0, "unique_users": 0, "_run_id": "r", "_processed_at": NOW}  # fmt: skip


# Troubles: each plants itself, and tells kind, table, words and verdict ---------------------


def stale_feed(settings, deliver, monkeypatch):
    late = NOW + timedelta(hours=80)
    monkeypatch.setattr(health, "datetime", _Clock(late))
    deliver("app_events/2.json", [event(50, (late - timedelta(hours=1)).isoformat())])
    report = health.report(settings)
    assert any(
        "1 files wait in landing" in finding.text
        and "newest event is 81.0 hours old and last load" in finding.text
        and finding.verdict == "Degraded"
        for finding in report.findings
        if finding.table == "app_events_bronze"
    )
    monkeypatch.setattr(health, "datetime", datetime)
    return None


class _Clock:
    """A clock that is set to another time."""

    def __init__(self, shown: datetime):
        self.shown = shown

    def now(self, zone):
        return self.shown

    def __getattr__(self, name):
        return getattr(datetime, name)


def small_files(settings, deliver, monkeypatch):
    for n in range(100):
        append(settings, "event_metrics_gold", [metric(n)])
    return "small files", "event_metrics_gold", "files below 16 MB", "Warning"


def failed_quality(settings, deliver, monkeypatch):
    deliver("app_events/bad.json", [event(99, at(), properties={"duration_ms": -5})])
    pipeline.run(settings, progress=lambda line: None)
    return "failed check", "app_events_silver", "1 of 21 rows have duration_ms below 0", "Degraded"


def long_log(settings, deliver, monkeypatch):
    opened = DeltaTable(delta.table_path(settings, tables.get(settings, "event_metrics_gold")))
    for _ in range(160):
        opened.create_write_transaction(
            [],
            mode="append",
            schema=opened.schema(),
            partition_by=["metric_date"],
            post_commithook_properties=PostCommitHookProperties(create_checkpoint=False),
        )
    return "long log", "event_metrics_gold", "at most 150", "Warning"


def late_archive(settings, deliver, monkeypatch):
    append(settings, "event_metrics_gold", [metric(n, days=10) for n in range(5)])
    settings.retention["event_metrics_gold"] = 5
    monkeypatch.setenv("LAKEHOUSE_RETENTION", json.dumps(settings.retention))
    return "late archive", "event_metrics_gold", "5 rows before", "Warning"


def broken_log(settings, deliver, monkeypatch):
    log = Path(delta.table_path(settings, tables.get(settings, "daily_summary_gold"))) / "_delta_log"
    (log / f"{1:020d}.json").write_text("{no json")
    return "broken table", "daily_summary_gold", "cannot be opened", "Degraded"


def lost_file(settings, deliver, monkeypatch):
    path = Path(delta.table_path(settings, tables.get(settings, "app_events_bronze")))
    (path / DeltaTable(str(path)).get_add_actions().column("path")[0].as_py()).unlink()
    return "broken table", "app_events_bronze", "files are gone; the first is", "Degraded"


def file_set_aside(settings, deliver, monkeypatch):
    deliver("app_events/zero.csv", [])
    with contextlib.suppress(LandingError):
        run(settings)
    return "file set aside", "app_events_bronze", "zero.csv cannot be read: it has no header", "Warning"


def cut_off_ledger(settings, deliver, monkeypatch):
    deliver("app_events/2.json", [event(50, at())])
    with monkeypatch.context() as patch:
        patch.setattr(bookkeeping, "write", lambda *_: None)
        run(settings.model_copy(update={"run_id": "killed"}))
    return "half-written run", "app_events_silver", "commits of run killed are not in the ledger", "Warning"


def clock_skew(settings, deliver, monkeypatch):
    ahead = NOW.timestamp() + 7200
    for path in Path(settings.feed_path("clickstream")).iterdir():
        os.utime(path, (ahead, ahead))
    return "clock skew", "clickstream_bronze", "ahead of this clock, at most 5 minutes", "Warning"


def failed_run(settings, deliver, monkeypatch):
    deliver("app_events/2.json", [event(50, at())])
    with monkeypatch.context() as patch:
        patch.setattr("lakehouse_lib.layers.gold.event_metrics", lambda _: 1 / 0)
        pipeline.run(settings, progress=lambda line: None)
    return "failed run", "event_metrics_gold", "ended failed: division by zero", "Degraded"


def waiting_files(settings, deliver, monkeypatch):
    deliver("app_events/2.json", [event(50, at())])
    return "behind", "app_events_bronze", "1 files wait in landing", "Warning"


def robots(settings, deliver, monkeypatch):
    """Ten of a hundred records are quarantined; the other ninety are valid."""
    checks = [
        {"name": "no_robots", "check": "expression", "condition": "user_id NOT LIKE 'bot%'", "severity": "quarantine"}
    ]
    settings.quality["app_events_bronze"] = checks
    monkeypatch.setenv("LAKEHOUSE_QUALITY", json.dumps(settings.quality))
    deliver(
        "app_events/100.json", [event(100 + n, at(), user_id=f"{'bot' if n % 10 == 0 else 'u'}{n}") for n in range(100)]
    )
    run(settings)
    return "failed check", "app_events_bronze", "10 of 120 rows break user_id", "Warning"


def too_few(settings, deliver, monkeypatch):
    settings.quality["app_events_silver"] = [{"check": "row_count", "min": 1000, "severity": "warn"}]
    monkeypatch.setenv("LAKEHOUSE_QUALITY", json.dumps(settings.quality))
    run(settings)
    return "failed check", "app_events_silver", "number of rows is 20, expected at least 1000", "Warning"


def repeated(settings, deliver, monkeypatch):
    settings.quality["app_events_bronze"] = [{"check": "unique", "column": "session_id", "severity": "warn"}]
    monkeypatch.setenv("LAKEHOUSE_QUALITY", json.dumps(settings.quality))
    deliver("app_events/2.json", [event(50 + n, at(), session_id="it's one") for n in range(2)])
    run(settings)
    return "failed check", "app_events_bronze", "repeat the session_id", "Warning"


def changed_file(settings, deliver, monkeypatch):
    deliver("app_events/1.json", [event(n, at()) for n in range(30)])
    with contextlib.suppress(LandingError):
        run(settings)
    return "file set aside", "app_events_bronze", "changed after it was loaded", "Warning"


def lost_for_good(settings, deliver, monkeypatch):
    (Path(settings.feed_path("app_events")) / "1.json").unlink()
    lost_file(settings, deliver, monkeypatch)
    return (
        "broken table",
        "app_events_bronze",
        "files that it was loaded from are no longer in landing",
        "Degraded",
    )


def lost_after_it_was_taken_back(settings, deliver, monkeypatch):
    """Rebuilt from landing, it would contain the load that a user has undone."""
    deliver("app_events/2.json", [event(50, at())])
    run(settings)
    restore.restore(settings, tables.get(settings, "app_events_bronze"), 1)
    run(settings)
    lost_file(settings, deliver, monkeypatch)
    return "broken table", "app_events_bronze", "loads of it were taken back", "Degraded"


def lost_after_its_file_changed(settings, deliver, monkeypatch):
    deliver("app_events/1.json", [event(n, at()) for n in range(5)])
    lost_file(settings, deliver, monkeypatch)
    return "broken table", "app_events_bronze", "are no longer in landing as they were", "Degraded"


@pytest.fixture(scope="module")
def with_second_file(engine, template, tmp_path_factory) -> dict[str, list[dict]]:
    """Contents after a clean load of the landing folder with a second file."""
    home = tmp_path_factory.mktemp("second")
    shutil.copytree(template / "landing", home / "landing")
    (home / "landing/app_events/2.json").write_text(json.dumps(event(50, at())) + "\n")
    values = {"lakehouse_base_path": str(home / "lake"), "landing_path": str(home / "landing"), "spark_master": engine}
    settings = config.load(values | {"sample": {"rows": 0}})
    run(settings)
    return by_content(settings)


def by_content(settings: Settings) -> dict[str, list[dict]]:
    """All tables without the landing times of files, which differ between two deliveries."""
    contents_by_table = contents(settings)
    return {name: sorted(({k: v for k, v in row.items() if k not in ("load_timestamp", "landed_date")} for row in rows),
                         key=repr) for name, rows in contents_by_table.items()}  # fmt: skip


@pytest.mark.parametrize("plant", [
    broken_log, lost_file, file_set_aside, cut_off_ledger, failed_run, waiting_files,
], ids=lambda plant: plant.__name__)  # fmt: skip
def test_suggested_command_fixes_the_problem_and_the_tables_are_right(lake, deliver, monkeypatch, request, plant):
    assert health.report(lake).verdict == "Healthy", health.report(lake).text()
    right = by_content(lake)
    kind, table, words, verdict = plant(lake, deliver, monkeypatch)
    finding = only(lake, kind, table)
    assert words in finding.text and finding.verdict == verdict, finding
    follow(lake, finding.command)
    after = health.report(lake)
    assert after.verdict == "Healthy", after.text()
    second = (Path(lake.feed_path("app_events")) / "2.json").exists()
    assert by_content(lake) == (request.getfixturevalue("with_second_file") if second else right)
    assert_ledger_matches_tables(lake)


@pytest.mark.parametrize("plant", [small_files, long_log, late_archive], ids=lambda plant: plant.__name__)
def test_maintenance_is_suggested_without_yes_and_loses_no_row(lake, deliver, monkeypatch, plant):
    kind, table, words, verdict = plant(lake, deliver, monkeypatch)
    actual = only(lake, kind, table)
    assert words in actual.text and actual.verdict == verdict and "--yes" not in actual.command, actual
    before = contents(lake)
    follow(lake, actual.command)
    assert contents(lake) == before
    if kind == "late archive":  # it says what would be done: a person decides
        follow(lake, f"{actual.command} --yes")
        (batch,) = archive.batches(lake, tables.get(lake, table))
        assert batch.rows == 5 and len(contents(lake)[table]) == len(before[table]) - 5
    assert health.report(lake).verdict == "Healthy", health.report(lake).text()


@pytest.mark.parametrize(("plant", "words"), [
    (failed_quality, "lakehouse trace app_events_silver event_id=e99"),
    (robots, "lakehouse quarantine show app_events_bronze"),
    (too_few, "lakehouse quality profile app_events_silver"),
    (repeated, "lakehouse trace app_events_bronze 'session_id="),
    (clock_skew, ""),
    (changed_file, ""),
    (lost_for_good, ""),
    (lost_after_it_was_taken_back, ""),
    (lost_after_its_file_changed, ""),
], ids=lambda plant: getattr(plant, "__name__", ""))  # fmt: skip
def test_only_an_inspection_is_suggested_if_no_command_fixes_the_problem(lake, deliver, monkeypatch, plant, words):
    """Following the suggestion changes no table: one that undid a whole load once lost valid rows."""
    kind, table, text, verdict = plant(lake, deliver, monkeypatch)
    finding = only(lake, kind, table, text)
    assert finding.verdict == verdict, finding
    assert finding.command.startswith(words) and bool(finding.command) == bool(words), finding
    before = versions(lake) if words else {}
    follow(lake, finding.command)
    assert not words or versions(lake) == before


def test_suggested_commands_include_the_parameters_file_of_the_run(lake, deliver, monkeypatch, tmp_path):
    waiting_files(lake, deliver, monkeypatch)
    (tmp_path / "my shop.yml").write_text("session_gap_minutes: 20\n")
    monkeypatch.setenv(config.FILE_VARIABLE, str(tmp_path / "my shop.yml"))
    actual = only(lake, "behind", "app_events_bronze")
    assert actual.command == f"lakehouse run --params '{tmp_path}/my shop.yml'"
    assert cli.parser().parse_args(shlex.split(actual.command)[1:]).params == str(tmp_path / "my shop.yml")


def test_stale_feed_is_reported_by_event_age_and_by_load_age(lake, deliver, monkeypatch):
    stale_feed(lake, deliver, monkeypatch)
    deliver("cdc_changes/old.json", [change("u", 50, None, {"user_id": "u1"})])
    run(lake)  # of March: fresh by load, not by event
    report = health.report(lake, NOW + timedelta(hours=23.5))
    assert report.verdict == "Warning"
    (finding,) = [finding for finding in report.findings if finding.table == "cdc_changes_bronze"]
    assert (
        finding.kind == "stale feed" and "a backfill" in finding.text and "last load" not in finding.text.split("(")[0]
    )


def test_stale_feed_is_fixed_by_loading_pending_files(lakehouse, deliver):
    deliver("app_events/1.json", [event(n, at(hours=80 + n), user_id=f"u{n}") for n in range(9)])
    settings = lakehouse()
    run(settings)
    actual = only(settings, "stale feed", "app_events_bronze")
    assert actual.verdict == "Degraded" and re.search(r"newest event is 8\d\.\d hours old, at most 24", actual.text), (
        actual
    )
    assert "nothing waits in landing: ask who delivers app_events" in actual.text
    deliver("app_events/2.json", [event(50, at())])
    actual = only(settings, "stale feed", "app_events_bronze")
    assert "1 files wait in landing" in actual.text
    follow(settings, actual.command)
    assert health.report(settings).verdict == "Healthy", health.report(settings).text()


def test_day_with_too_few_rows_is_reported_until_the_rest_arrives(lake, deliver):
    picks = random.Random(3)
    rest = []
    for day in range(57, 0, -1):
        noon = f"{(NOW - timedelta(days=day)).date()}T12:{picks.randrange(60):02}:00Z"
        records = [event(1000 * day + n, noon, user_id=f"u{n % 9}") for n in range(180 + picks.randrange(40))]
        if day == 3:
            records, rest = records[:20], records[20:]
        deliver(f"app_events/day{day}.json", records)
    run(lake)
    actual = only(lake, "volume", "app_events_bronze")
    assert "drop of rows by day" in actual.text and ": 20, expected about" in actual.text
    assert "ask who delivers app_events" in actual.text
    deliver("app_events/rest.json", rest)
    follow(lake, only(lake, "volume", "app_events_bronze").command)
    assert health.report(lake).verdict == "Healthy", health.report(lake).text()


def test_verdict_is_unknown_without_tables(lakehouse):
    report = health.report(lakehouse())
    assert report.verdict == "Unknown" and set(report.states.values()) == {health.NOT_IN_USE} and not report.findings


def test_worst_finding_comes_first_and_changes_are_reported(lake, deliver, monkeypatch, capsys):
    health.remember(lake, health.report(lake))
    small_files(lake, deliver, monkeypatch)
    failed_quality(lake, deliver, monkeypatch)
    report = health.report(lake)
    assert report.verdict == "Degraded" and report.findings[0].verdict == "Degraded"
    changes = figures.changes(report).set_index("what")[["before", "now"]]
    assert tuple(changes.loc["verdict"]) == ("Healthy", "Degraded")
    assert changes.loc["app_events_silver: failed check", "now"] == "new"
    assert tuple(changes.loc["rows of app_events_bronze"]) == ("20", "21")
    assert cli.main(["health"]) == 3
    assert "run: lakehouse trace app_events_silver event_id=e99" in capsys.readouterr().out
    assert health.outdated(lake) and not health.outdated(_remembered(lake, report))


def _remembered(settings: Settings, report: health.Report) -> Settings:
    health.remember(settings, report)
    return settings


def test_notification_reports_failures_and_changed_verdicts(lake, deliver, monkeypatch, tmp_path, capsys):
    summary_file = tmp_path / "told.json"
    settings = lake.model_copy(update={"notify": f"cat > {summary_file}"})
    health.tell(settings, "r1", "Healthy", None)
    assert not summary_file.exists()
    health.tell(settings, "r2", "Warning", None)
    assert json.loads(summary_file.read_text())["verdict"] == "Healthy"
    health.tell(settings, "r3", "Healthy", RuntimeError("the disk is full"))
    summary = json.loads(summary_file.read_text())
    assert (summary["run_id"], summary["failure"], summary["verdict"], summary["findings"]) == (
        "r3",
        "the disk is full",
        "Healthy",
        [],
    )
    health.tell(lake.model_copy(update={"notify": "echo no such channel >&2; exit 7"}), "r4", "Warning", None)
    assert "ended with 7: no such channel" in capsys.readouterr().err


@pytest.mark.parametrize("width", [1300, 390])
def test_report_page_works_offline_and_shows_no_code(lake, browser, deliver, monkeypatch, width):
    """No engine is started; verdict and findings come first, then every table, the runs and the figures."""
    failed_quality(lake, deliver, monkeypatch)
    monkeypatch.setenv("SPARK_MASTER", "sc://localhost:1")  # nobody answers there
    monkeypatch.setattr(session, "connect", lambda *_: pytest.fail("Spark was started"))
    executed = notebooks.execute(lake, notebooks.REPORT, f"report{width}", latest=False)
    asked: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.goto(executed.with_suffix(".html").as_uri())
    assert page.title() == "Health report"
    first = page.get_by_text("app_events_silver: failed check").first
    assert page.get_by_text("Degraded", exact=True).first.bounding_box()["y"] < first.bounding_box()["y"] < 900
    for heading in ("What has changed", "Tables", "Runs", "Records by outcome", "Maintenance", "New fields"):
        assert page.get_by_role("heading", name=heading, exact=True).count() == 1
    assert page.locator(".lh-row").count() == len(tables.declared(lake))
    assert page.locator("#lh-app_events_silver svg").first.bounding_box()["width"] > 100
    text = page.inner_text("body")
    assert "import " not in text and "Reads" not in text and "lakehouse trace app_events_silver event_id=e99" in text
    assert page.evaluate("document.documentElement.scrollWidth") <= width + 1
    assert all(url.startswith(("file:", "data:")) for url in asked), asked
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/report-{width}.png", full_page=True)
    context.close()


def test_run_ends_with_the_report(lake, deliver, tmp_path):
    """Run the command itself, including maintenance."""
    for n in range(9):
        append(lake, "event_metrics_gold", [metric(n, days=3)])
    deliver("app_events/2.json", [event(50, at())])
    summary_file = tmp_path / "told.json"
    result = subprocess.run(
        [sys.executable, "-m", "lakehouse_lib", "run", "--notify", f"cat > {summary_file}"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "70_maintenance" in result.stdout and "event_metrics_gold: " in result.stdout
    page = Path(result.stdout.split("Health report: ")[1].splitlines()[0])
    assert page.name == "60_health_report.html" and page.exists() and page.parent.name in os.listdir(lake.path("runs"))
    assert json.loads(summary_file.read_text())["verdict"] == "Healthy"
    shutil.rmtree(page.parent)
    again = subprocess.run([sys.executable, "-m", "lakehouse_lib", "run"], capture_output=True, text=True)
    assert "Nothing new" in again.stdout and "Health report" not in again.stdout


# Schedules -------------------------------------------------------------------


def scheduled() -> list[str]:
    """Commands in the examples for cron and systemd."""
    lines = Path("deploy/crontab").read_text().splitlines()
    commands = [
        line.split(".venv/bin/lakehouse ")[1].split(" >>")[0] for line in lines if ".venv/bin/lakehouse" in line
    ]
    for unit in Path("deploy/systemd").glob("*.service"):
        (start,) = [line for line in unit.read_text().splitlines() if line.startswith("ExecStart=")]
        commands.append(start.split("/.venv/bin/lakehouse ")[1])
        assert unit.with_suffix(".timer").exists()
    return commands


@pytest.mark.parametrize("command", scheduled())
def test_scheduled_commands_are_valid(command):
    options = cli.parser().parse_args(shlex.split(command))
    assert options.does and Path(options.params or "parameters/default.yml").exists()
    if notify := getattr(options, "notify", ""):
        assert os.access(notify, os.X_OK)


def test_notification_is_one_line_with_the_worst_finding(lake, deliver, monkeypatch, tmp_path):
    failed_quality(lake, deliver, monkeypatch)
    out = tmp_path / "said.txt"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "logger").write_text(f'#!/bin/sh\nshift 3\necho "$@" > {out}\n')
    (tmp_path / "logger").chmod(0o755)
    settings = lake.model_copy(update={"notify": "deploy/notify.sh"})
    health.tell(settings, "r9", "Healthy", LakehouseError("the disk is full\nand so on"))
    (line,) = out.read_text().splitlines()
    assert line.startswith("Lakehouse r9: Degraded (was Healthy) · run failed: the disk is full · app_events_silver: ")
    assert line.endswith("lakehouse trace app_events_silver event_id=e99")


def test_scheduler_notebook_runs_the_same_command(lake, tmp_path):
    import papermill

    parameters = {"lakehouse_home": os.getcwd(), "notify": f"cat > {tmp_path}/told.json"}
    result = papermill.execute_notebook(
        "deploy/scheduled_run.ipynb", str(tmp_path / "out.ipynb"), parameters, cwd=str(tmp_path), kernel_name="python3",
        progress_bar=False,
    )  # fmt: skip
    assert "Nothing new: all tables are up to date" in str(result.cells[-1].outputs)
    assert json.loads((tmp_path / "told.json").read_text())["verdict"] == "Healthy"
