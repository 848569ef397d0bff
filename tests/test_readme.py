"""README and the pages it links to: commands, links, the worked example and error messages work as written."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from deltalake import DeltaTable

from lakehouse_lib import cli, config
from lakehouse_lib.model import tables
from lakehouse_lib.storage import delta

PAGES = [Path("README.md"), *sorted(Path().glob("[!.]*/**/README.md"))]


def blocks(language: str, pages: list[Path] = PAGES) -> list[str]:
    return [block for page in pages for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)]


@pytest.mark.parametrize("block", blocks("yaml"))
def test_parameters_are_accepted(block):
    assert tables.declared(config.load(yaml.safe_load(block)))


@pytest.mark.parametrize("command", [line for block in blocks("bash") for line in block.splitlines()])
def test_command_is_valid(command):
    program, *arguments = shlex.split(command)
    if program == "make":
        subprocess.run(["make", "--dry-run", *arguments], check=True, capture_output=True)
    else:
        assert program == ".venv/bin/lakehouse"
        assert cli.parser().parse_args(arguments).does


def test_links_exist():
    for page in [*PAGES, Path("CHANGELOG.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def errors() -> list[str]:
    """Messages in the troubleshooting tables of all pages."""
    tables = [page.read_text().partition("## Troubleshooting")[2].split("##")[0] for page in PAGES]
    return [error for table in tables for error in re.findall(r"^\| `([^`]+)` \|.*\|$", table, re.M)]


@pytest.mark.parametrize("error", errors())
def test_error_in_troubleshooting_is_raised_by_the_code(error):
    code = " ".join(path.read_text() for path in Path("lakehouse_lib").rglob("*.py"))
    messages = re.sub(r'"\s*\n\s*f?"', "", code)
    for part in error.replace("17, 21, 25", "…").split("…"):
        assert part.strip(" ,") in messages


def test_troubleshooting_tables_are_found():
    assert len(errors()) >= 15


def test_worked_example_reproduces_the_sessions_in_the_file(engine, shared, tmp_path):
    """The shop's CSV and nothing else: 3,605 sessions, the same clicks together as in the file's own session ids."""
    block = next(block for block in blocks("yaml") if "feeds" in block)
    (tmp_path / "shop.yml").write_text(block)
    case, base = shared / "ecom_retentioneering", tmp_path / "data-shop"
    (base / "landing/clickstream").mkdir(parents=True)
    shutil.copy(case / "ecom.csv.gz", base / "landing/clickstream")
    result = subprocess.run(
        [sys.executable, "-m", "lakehouse_lib", "run", "--params", str(tmp_path / "shop.yml")],
        text=True,
        env=os.environ | {"SPARK_MASTER": engine, "LAKEHOUSE_BASE_PATH": str(base)},
        capture_output=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("It adds up.") == 3 and "nan" not in result.stdout
    lake = config.load({"lakehouse_base_path": str(base)}, tmp_path / "shop.yml")
    counts = {row["target"]: row for row in delta.read_ops(lake, "ledger") if row["records_read"]}
    expected = json.loads((case / "expected.json").read_text())
    assert counts["clickstream_bronze"]["accepted"] == expected["events"]
    assert counts["clickstream_silver"]["duplicate"] == expected["exact_duplicates_user_session_event_ts"]
    sessions = DeltaTable(delta.table_path(lake, tables.get(lake, "clickstream_silver"))).to_pyarrow_table().to_pylist()
    assert len(sessions) == expected["sessions_in_file"] == 3605
    assert all(len({click["client_session_id"] for click in row["_clicks"]}) == 1 for row in sessions)
    assert sum(row["total_clicks"] == 1 for row in sessions) >= expected["single_event_sessions"]
    assert sum(row["session_duration_seconds"] for row in sessions) == expected["sum_duration_s"]
    assert max(row["session_duration_seconds"] for row in sessions) == expected["max_duration_s"]
