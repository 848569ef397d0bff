"""Notebooks: their structure, and a complete ``lakehouse run`` through Papermill, checked by nbval."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
from lake import contents, rows, versions

from lakehouse_lib import kernels, notebooks
from lakehouse_lib.errors import ConfigError
from lakehouse_lib.flow import pipeline
from lakehouse_lib.model import tables

SOURCES = sorted(Path("notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_notebooks_have_the_agreed_structure(path):
    cells = nbformat.read(path, 4).cells
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert all("#" in line for line in tagged[0].source.splitlines())
    assert cells[0].source.startswith("# ") and "| Reads | Writes | Parameters |" in cells[1].source
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert max(len(cell.source.splitlines()) for cell in code) <= 10
    assert len(cells) - len(code) >= len(code)
    links = [word for cell in cells for word in cell.source.split("](")[1:] if ".ipynb" in word.split(")")[0]]
    assert links and all((path.parent / link.split(")")[0]).exists() for link in links)


def test_every_notebook_is_part_of_the_run_or_interactive():
    at_the_end = (notebooks.MAINTENANCE, notebooks.REPORT, notebooks.BUSINESS)
    known = (*notebooks.ORDER, notebooks.PREVIEW, *at_the_end, *notebooks.EXPLORE)
    assert sorted(known) == [path.stem for path in SOURCES]


def test_misspelt_parameter_is_rejected(monkeypatch):
    monkeypatch.setattr(notebooks, "_known", None)
    with pytest.raises(ConfigError, match="tabels: unknown setting; did you mean tables"):
        notebooks.settings({"tabels": "app_events_bronze", "In": [], "_": 1, "pipeline": pipeline})


@pytest.fixture(scope="module")
def environment(engine, tmp_path_factory) -> dict[str, str]:
    base = tmp_path_factory.mktemp("run")
    return os.environ | {
        "SPARK_MASTER": engine,
        "LAKEHOUSE_BASE_PATH": str(base),
        "LAKEHOUSE_SAMPLE__ROWS": "1500",
        "LAKEHOUSE_SAMPLE__DAYS": "4",
        "LAKEHOUSE_SAMPLE__END": "2026-03-10",
    }


def lakehouse_command(environment, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "lakehouse_lib", *arguments], env=environment, capture_output=True, text=True
    )


def test_reader_of_the_output_may_have_enough_of_it():
    code = "import time; from lakehouse_lib import cli; time.sleep(0.2); cli.command()"
    process = subprocess.Popen([sys.executable, "-u", "-c", code, "setup"], stdout=-1, stderr=-1, text=True)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 1


@pytest.fixture(scope="module")
def finished(environment) -> subprocess.CompletedProcess:
    return lakehouse_command(environment, "run", "--sample")


@pytest.fixture
def lake(lakehouse, environment, finished):
    return lakehouse(lakehouse_base_path=environment["LAKEHOUSE_BASE_PATH"], landing_path="")


def test_one_command_builds_every_table_and_names_the_notebooks(finished, environment, lake):
    assert finished.returncode == 0, finished.stdout + finished.stderr
    base = Path(environment["LAKEHOUSE_BASE_PATH"])
    assert f"Read the notebooks: {base}/runs/latest/" in finished.stdout
    assert finished.stdout.count("It adds up.") == 3
    for name in notebooks.ORDER:
        page = (base / f"runs/latest/{name}.html").read_text()
        executed = nbformat.read(base / f"runs/latest/{name}.ipynb", 4)
        assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code"), name
        assert "stderr" not in {out.get("name") for c in executed.cells for out in c.get("outputs", [])}, name
        assert page.count("<figure ") == {"10": 2, "20": 2, "30": 3, "40": 1}.get(name[:2], 0)
    assert set(contents(lake)) == set(tables.declared(lake))
    assert all(rows(lake, name) for name in contents(lake) if not name.endswith("_quarantine"))


def test_second_run_adds_no_commit_and_starts_no_engine(finished, environment, lake):
    before = versions(lake)
    again = lakehouse_command(environment | {"SPARK_MASTER": "sc://localhost:1"}, "run")
    assert again.returncode == 0 and "Nothing new" in again.stdout
    assert versions(lake) == before


def test_outputs_are_reproducible(finished, environment, lake):
    """nbval executes the executed notebooks again and compares the tagged cells."""
    latest = Path(environment["LAKEHOUSE_BASE_PATH"]) / "runs/latest"
    executed = [str(latest / f"{name}.ipynb") for name in notebooks.ORDER[1:]]
    compared = [c for path in executed for c in nbformat.read(path, 4).cells
                if "nbval-check-output" in c.metadata.get("tags", [])]  # fmt: skip
    assert len(compared) >= 8
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval-lax", "-q", "-p", "no:cacheprovider", *executed],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert " failed" not in result.stdout and "passed" in result.stdout


@pytest.mark.parametrize("name", notebooks.EXPLORE)
def test_interactive_notebook_runs_alone_and_works_offline(finished, environment, name):
    base = Path(environment["LAKEHOUSE_BASE_PATH"])
    before = (base / "runs/latest").resolve()
    result = lakehouse_command(environment | {"SPARK_MASTER": "sc://localhost:1"}, "notebook", name)
    assert result.returncode == 0, result.stderr
    page = Path(result.stdout.split()[-1]).read_text()
    assert "<svg" in page or "<figure " in page
    assert "application/vnd.jupyter.widget-view" not in page
    assert (base / "runs/latest").resolve() == before


def test_preview_notebook_runs_alone_and_changes_no_table(finished, environment, lake):
    before = versions(lake)
    nothing = lakehouse_command(environment | {"SPARK_MASTER": "sc://localhost:1"}, "notebook", notebooks.PREVIEW)
    assert nothing.returncode == 0, nothing.stderr
    page = Path(nothing.stdout.split()[-1]).read_text()
    assert "Nothing to preview: no table is to be rebuilt." in page and "It adds up." in page
    result = lakehouse_command(environment, "notebook", notebooks.PREVIEW, "--set", "session_gap_minutes=5")
    assert result.returncode == 0, result.stderr
    page = Path(result.stdout.split()[-1]).read_text()
    assert "session_gap_minutes: 30 → 5" in page and page.count("<figure ") == 1
    assert "mean of avg_session_duration" in page and "application/vnd.jupyter.widget-view" not in page
    assert versions(lake) == before


def test_broken_file_fails_its_notebook_and_nothing_else(finished, environment, lake):
    landing = Path(environment["LAKEHOUSE_BASE_PATH"]) / "landing/app_events"
    (landing / "cut.json.gz").write_bytes(b"\x1f\x8b\x08\x00cut")
    (landing / "new.json").write_text(
        '{"event_id": "x1", "event_type": "t", "event_timestamp": "2026-03-09T10:00:00Z"}\n'
    )
    result = lakehouse_command(environment, "run")
    (landing / "cut.json.gz").unlink()
    assert result.returncode == 1
    assert "app_events/cut.json.gz cannot be read" in result.stderr and "Traceback" not in result.stderr
    assert any(row["event_id"] == "x1" for row in rows(lake, "app_events_silver"))
    assert lakehouse_command(environment, "run").returncode == 0


def test_failed_error_check_ends_the_run_with_exit_status_three(finished, environment, lake):
    checks = {"daily_summary_gold": [{"name": "enough_users", "check": "range", "column": "total_users", "min": 1000}]}
    strict = environment | {"LAKEHOUSE_QUALITY": json.dumps(checks)}
    before = versions(lake)
    for _ in range(2):  # a failing check keeps failing when nothing is new
        result = lakehouse_command(strict, "run")
        assert result.returncode == 3, result.stdout + result.stderr
        assert "daily_summary_gold: check enough_users: 4 of 4 rows have total_users below 1000" in result.stderr
        assert "Traceback" not in result.stderr
    assert versions(lake) == before
    shown = lakehouse_command(strict, "quality", "show", "daily_summary_gold")
    assert shown.returncode == 3 and "ERROR       daily_summary_gold: check enough_users" in shown.stdout
    assert lakehouse_command(environment, "run").returncode == 0  # the check is gone, and so is its failure


def test_quality_and_quarantine_commands(finished, environment):
    shown = lakehouse_command(environment, "quality")
    assert shown.returncode == 0 and "check key_is_unique: 0 of" in shown.stdout
    assert re.fullmatch(r"\d+ of \d+ checks pass(; \d+ had no rows to look at)?\.", shown.stdout.splitlines()[-1])
    closely = lakehouse_command(environment, "quality", "profile", "app_events_silver")
    assert "event_type" in closely.stdout and "- {check: allowed_values, column: app_type" in closely.stdout
    assert "nothing unusual" in lakehouse_command(environment, "quality", "anomalies", "app_events_bronze").stdout
    assert "is missing" in lakehouse_command(environment, "quarantine").stdout
    wrong = lakehouse_command(environment, "quarantine", "replay")
    assert (wrong.returncode, "Say which table" in wrong.stderr) == (2, True)
    wrong = lakehouse_command(environment | {"LAKEHOUSE_QUALITY": '{"users_silver": [{"check": "uniqe"}]}'}, "run")
    assert (wrong.returncode, "did you mean unique?" in wrong.stderr) == (2, True)


def test_kernel_is_started_if_forking_is_not_safe(finished, lake, monkeypatch):
    monkeypatch.setattr(kernels, "_FORKS", False)
    monkeypatch.setenv("LAKEHOUSE_BASE_PATH", lake.path())
    assert notebooks.execute(lake, notebooks.ORDER[0], "started", latest=False).with_suffix(".html").exists()


def test_concurrent_runs_share_no_socket(finished, lake, monkeypatch):
    """Their kernels once listened on files with the same names in the notebooks' folder."""
    monkeypatch.setenv("LAKEHOUSE_BASE_PATH", lake.path())
    started, folders = kernels._Process.__init__, []

    def noted(self, arguments, *rest):
        folders.append(Path(json.loads(Path(arguments[1]).read_text())["ip"]).parent)
        started(self, arguments, *rest)

    monkeypatch.setattr(kernels._Process, "__init__", noted)
    for name in ("first", "second"):
        notebooks.execute(lake, notebooks.REPORT, name, latest=False)
    first, second = folders
    assert first.is_absolute() and first != second and not first.exists()


def test_killed_run_leaves_no_process_behind(environment, tmp_path):
    variables = environment | {"LAKEHOUSE_BASE_PATH": str(tmp_path)}
    run = psutil.Popen(
        [sys.executable, "-m", "lakehouse_lib", "run", "--sample"], env=variables, stdout=subprocess.PIPE, text=True
    )
    assert any(notebooks.ORDER[1] in line for line in run.stdout), "the run reached its second notebook"
    others = run.children(recursive=True)
    run.kill()
    run.wait()
    assert others and not psutil.wait_procs(others, timeout=30)[1]


def test_invalid_commands_exit_with_two_and_suggest_the_right_name(environment):
    wrong = lakehouse_command(environment, "run", "--set", "landing_pth=/in")
    assert (wrong.returncode, "Did you mean landing_path?" in wrong.stderr) == (2, True)
    wrong = lakehouse_command(environment, "run", "--tables", "user_silver")
    assert (wrong.returncode, "did you mean users_silver?" in wrong.stderr) == (2, True)
    wrong = lakehouse_command(environment, "notebook", "11_none")
    assert (wrong.returncode, "there are 00_start_here" in wrong.stderr) == (2, True)
