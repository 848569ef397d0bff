"""Law 7: a table is what its present declaration, code and settings make of its input, or says since when it is not."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import change, click, event
from lake import assert_ledger_matches_tables, assert_same, contents, rows, rows_at, run_tables, versions

from lakehouse_lib import cli, config
from lakehouse_lib.care import health, quarantine, restore
from lakehouse_lib.catalog import catalog, history, rules
from lakehouse_lib.config import FeedSettings, Settings
from lakehouse_lib.engines import session
from lakehouse_lib.errors import ConfigError, ConfirmError, LakehouseError, TableError
from lakehouse_lib.flow import pipeline, plan, preview, selection
from lakehouse_lib.intake import landing as landing_files
from lakehouse_lib.layers.fingerprints import Book
from lakehouse_lib.model import sources, tables
from lakehouse_lib.model.ops import COUNTS
from lakehouse_lib.storage import archive, commits, delta

STORED = Path("tests/lakehouse_0.1.tar.xz")
LIBRARY = Path("lakehouse_lib")
REPLICA = {"source_table": "people", "target": "people_silver", "keys": ["id"]}


def person(op: str, at: int, **row: Any) -> dict[str, Any]:
    return change(op, at, None, row, table="people")


def flat(at: int, operation: str, table: str, **after: Any) -> dict[str, Any]:
    """A flat change, which may leave columns out."""
    return {"table_name": table, "operation_type": operation, "after_values": after, "sequence": str(at),
            "timestamp": f"2026-03-02T11:00:{at:02}Z"}  # fmt: skip


def in_lines(records: list[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(record)}\n" for record in records)


FILES = {
    "app_events/a.json": [
        *(event(n, f"2026-03-0{1 + n % 5}T22:00:00", user_id="annbobcid"[n % 3 * 3 :][:3], properties={"value": 20 * n})
          for n in range(6)),
        event(7, "2026-02-20T10:00:00", user_id="dan"), event(9, user_id="ann", event_type="app_failure"),
        {"event_id": "rejected"}, {"event_type": "rejected"}, event(10, properties={"value": "much"}),
    ],
    "clickstream/a.json": [
        click(1, "2026-03-02T22:00:00"), click(2, "2026-03-02T22:20:00", response_time_ms=10, status_code=350),
        click(3, "2026-03-02T22:45:00", response_time_ms=20), click(4, "2026-03-03T10:00:00", response_time_ms=90),
    ],
    "cdc_changes/a.json": [
        change("c", 1, None, {"user_id": "ann", "id": "1", "email": "a@x.de", "signup_date": "2020-01-01"}),
        person("c", 2, id="1", user_id="u1", name="Ann"), person("c", 3, id="2", user_id="u1", name="Bob"),
    ],
    "cdc_changes/b.json": [
        flat(1, "INSERT", "users", user_id="bob", id="2", email="b@x.de", name="Bob"),
        flat(2, "UPDATE", "users", user_id="bob", id="2", email="c@x.de"),
        flat(3, "INSERT", "users", user_id="cid", id="3", timestamp="x"), flat(4, "INSERT", "pets", kind="cat"),
        {**flat(5, "UPDATE", "users", user_id="cid", id="3"), "timestamp": "2026-03-02T23:30:00"},
    ],
}  # fmt: skip
MISNAMED = {
    "app_events/odd.csv": [event(8, user_id="eve")], "clickstream/odd.csv": [click(8, user_id="eve")],
    "cdc_changes/odd.csv": [flat(8, "INSERT", "users", user_id="eve", id="8")],
}  # fmt: skip
"""Files whose names do not tell their format."""


def delivered(folder: Path, files: dict[str, list[dict[str, Any]]]) -> Path:
    for path, records in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(in_lines(records))
    return folder


@pytest.fixture(scope="module")
def landing(tmp_path_factory) -> Path:
    return delivered(tmp_path_factory.mktemp("landing"), FILES)


@pytest.fixture(scope="module")
def before(landing, engine, tmp_path_factory) -> Settings:
    """A lakehouse that is made by the default settings."""
    settings = config.load({"lakehouse_base_path": str(tmp_path_factory.mktemp("before") / "lake"),
                            "landing_path": str(landing), "spark_master": engine, "sample": {"rows": 0},
                            "cdc": {"replicas": [REPLICA]}})  # fmt: skip
    run_tables(settings)
    return settings


@pytest.fixture
def lake(before, tmp_path):
    """The same lakehouse in a folder of the test's own, by other settings."""

    def copy(**values: Any) -> Settings:
        home = tmp_path / "lake"
        if not home.exists():
            shutil.copytree(before.lakehouse_base_path, home)
        return named("lake", **values)

    def named(name: str, **values: Any) -> Settings:
        given = {name: getattr(before, name) for name in ("landing_path", "spark_master")}
        given |= {"lakehouse_base_path": str(tmp_path / name), "sample": {"rows": 0}, "cdc": {"replicas": [REPLICA]}}
        return config.load(config._merge(given, values))

    copy.named = named
    return copy


def nested(path: str, value: Any) -> dict[str, Any]:
    head, _, rest = path.partition(".")
    return {head: nested(rest, value) if rest else value}


def affected(settings: Settings) -> dict[str, list[str]]:
    return {one.table: one.changes for one in plan.plan(settings).affected}


def counted(settings: Settings) -> dict[str, dict[str, int]]:
    """What became of the records by the whole ledger, of the tables that read each of them once."""
    found: dict[str, dict[str, int]] = {}
    for row in delta.read_ops(settings, "ledger"):
        table = tables.get(settings, row["target"])
        if table.layer != "gold" and table.name != "users_silver":
            sums = found.setdefault(table.name, dict.fromkeys(COUNTS, 0))
            found[table.name] = {name: sums[name] + row[name] for name in COUNTS}
    return found


def rebuilt(settings: Settings) -> set[str]:
    """Run the tables; returns those that were rebuilt because of what has changed."""
    return {step.table for step in run_tables(settings).steps if step.state == "rebuilt"}


# Settings ---------------------------------------------------------------------

OTHERS = {
    "session_gap_minutes": 21, "active_days": 1, "segments.vip_value": 30.0, "segments.active_days": 2,
    "segments.active_events": 2, "segments.inactive_days": 3,
    "cdc.users_table": "people", "cdc.users_key": "id", "cdc.absent": "null",
    "cdc.replicas": [REPLICA | {"keys": ["user_id"]}, {"source_table": "pets", "target": "pets_silver", "keys": ["n"]}],
    "feeds.app_events.timezone": "Asia/Tokyo", "feeds.app_events.format": "json",
    "feeds.app_events.select": {"user_id": "upper(user_id)"},
    "feeds.clickstream.timezone": "Asia/Tokyo", "feeds.clickstream.format": "json",
    "feeds.clickstream.select": {"user_id": "upper(user_id)"},
    "feeds.cdc_changes.timezone": "Asia/Tokyo", "feeds.cdc_changes.format": "json",
    "feeds.cdc_changes.select": {"source_system": "'elsewhere'"},
}  # fmt: skip
"""For every setting that a transformation reads: a value that makes other rows."""


BATCHES = [
    ["feeds.app_events.timezone", "feeds.clickstream.timezone", "feeds.cdc_changes.timezone"],
    ["feeds.app_events.format", "feeds.clickstream.format", "feeds.cdc_changes.format"],
    ["feeds.app_events.select", "feeds.clickstream.select", "feeds.cdc_changes.select"],
    ["session_gap_minutes", "cdc.users_table"], ["cdc.users_key"], ["cdc.absent"], ["cdc.replicas"],
]  # fmt: skip
"""Settings that are changed at once: each makes other tables anew, none of which is a source of those of another."""
ONE_BY_ONE = ["active_days", *(path for path in OTHERS if path.startswith("segments."))]
"""Settings of the last tables, which follow from everything: they are changed one after another."""


def with_values(paths: list[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for path in paths:
        given = config._merge(given, nested(path, OTHERS[path]))
    return given


def test_every_setting_that_a_transformation_reads_is_covered(before):
    read = {path for record in Book(before).records.values() for path in record["settings"]}
    assert read == {*OTHERS} == {path for batch in [*BATCHES, ONE_BY_ONE] for path in batch}


def planned_for(settings: Settings, path: str) -> set[str]:
    """The tables that are planned, all of them because of one setting."""
    planned = affected(settings)
    assert planned and all(path in change for changes in planned.values() for change in changes), (path, planned)
    assert {*planned} <= {*selection.pending(settings)}, path
    return {*planned}


@pytest.mark.parametrize("batch", BATCHES, ids="+".join)
def test_changed_settings_give_the_tables_of_a_clean_load(lake, before, landing, tmp_path, batch):
    given = with_values(batch)
    if batch[0].endswith("format"):
        shutil.copytree(landing, tmp_path / "landing")
        given["landing_path"] = str(delivered(tmp_path / "landing", MISNAMED))
    planned = {path: planned_for(lake(**nested(path, OTHERS[path])), path) for path in batch}
    changed, clean = lake(**given), lake.named("clean", **given)
    made = rebuilt(changed)
    assert len(made) == sum(map(len, planned.values())) and made == set().union(*planned.values())
    run_tables(clean)
    assert_same(changed, clean, flags=True)
    assert counted(changed) == counted(clean)
    was, now = contents(before, flags=True), contents(changed, flags=True)
    assert [path for path in batch if all(was.get(name) == now[name] for name in planned[path])] == []
    assert affected(changed) == {} and selection.pending(changed) == []


def test_settings_changed_one_after_another_give_the_tables_of_a_clean_load(lake, before):
    clean, was = lake.named("clean", **with_values(ONE_BY_ONE)), contents(before)
    for number, path in enumerate(ONE_BY_ONE):
        changed = lake(**with_values(ONE_BY_ONE[: number + 1]))
        (name,) = planned = planned_for(changed, path)
        assert rebuilt(changed) == planned, path
        now = contents(changed)
        assert now[name] != was[name], path
        was = now
    run_tables(clean)
    assert_same(changed, clean, flags=True)
    assert counted(changed) == counted(clean)
    assert affected(changed) == {} and selection.pending(changed) == []


CHEAP = {"name": "cheap", "check": "expression", "condition": "event_type <> 'app_failure' AND user_id <> 'ann'",
         "severity": "quarantine"}  # fmt: skip


def test_new_quarantine_check_is_applied_to_existing_records(lake, before):
    given = {"quality": {"app_events_bronze": [CHEAP]}}
    changed, clean = lake(**given), lake.named("clean", **given)
    run_tables(clean)
    (planned,) = plan.plan(changed).checks
    aside = len(rows(clean, "app_events_bronze_quarantine")) - len(rows(before, "app_events_bronze_quarantine"))
    assert (planned.check, planned.severity, planned.failing_rows, planned.rows) == ("cheap", "quarantine", aside, 8)
    assert f"new check cheap (quarantine) would set aside {aside} of 8 accepted records" in plan.plan(changed).text()
    quarantine.apply(changed, check="cheap", progress=lambda line: None)
    assert_same(changed, clean, flags=True)
    assert counted(changed) == counted(clean)
    assert "cheap" in str(rows(changed, "app_events_bronze_quarantine"))
    assert affected(changed) == {} and plan.plan(changed).checks == []
    said: list[str] = []
    quarantine.apply(changed, progress=said.append)
    assert said == ["Nothing to do: no check of severity quarantine has changed since the tables were made."]


def test_quarantine_apply_refuses_what_is_more_than_a_check(lake, tmp_path, landing):
    own, quality = tmp_path / "landing", {"app_events_bronze": [CHEAP]}
    more = lake(quality=quality, feeds={"app_events": {"timezone": "Asia/Tokyo"}})
    with pytest.raises(ConfigError, match=r"more has changed than that, feeds\.app_events\.timezone"):
        quarantine.apply(more)
    with pytest.raises(ConfigError, match="there is no check 'dear' of severity quarantine; there are cheap"):
        quarantine.apply(lake(quality=quality), "app_events_bronze", "dear")
    shutil.copytree(landing, own)
    (own / "app_events/a.json").unlink()
    with pytest.raises(TableError, match="cannot be rebuilt, because 1 of its files are no longer in landing"):
        quarantine.apply(lake(quality=quality, landing_path=str(own)))


def test_new_check_is_tried_before_it_stops_anything(lake):
    apps = {"check": "allowed_values", "column": "app_type", "values": ["web"]}
    (tried,) = plan.plan(lake(quality={"app_events_silver": [apps]})).checks
    assert (tried.check, tried.severity, tried.passed) == ("allowed_values_app_type", "error", True)
    ids = {"check": "regex", "column": "event_id", "pattern": "x.*", "name": "ids"}
    found = plan.plan(lake(quality={"app_events_silver": [ids]}))
    assert found.affected == [] and found.checks[0].passed is False
    assert "app_events_silver: new check ids (error) fails: check ids" in found.text()
    assert "Nothing to rebuild." in found.text()


def test_large_rebuild_waits_for_a_word(lake):
    given = {"session_gap_minutes": 21, "plan": {"confirm_rows": 1}}
    changed, was = lake(**given), versions(lake())
    with pytest.raises(
        ConfirmError, match=r"rebuild 2 rows, more than plan.confirm_rows = 1: clickstream_silver \(2\)"
    ):
        pipeline.run(changed, progress=lambda line: None)
    assert versions(changed) == was
    for allowed in (lake(plan={"confirm_rows": 1}), lake(**given, confirm=True)):
        run_tables(allowed)
        assert affected(allowed) == {}


def test_only_tables_whose_rows_change_are_written(lake):
    changed = lake(segments={"vip_value": 60})
    was = versions(changed)
    said: list[str] = []
    result = pipeline.run(changed, progress=said.append)
    moved = {name for name, version in versions(changed).items() if version != was[name]}
    assert moved == {"user_segments_gold"}
    assert "    rebuilt: segments.vip_value: 500.0 → 60.0" in said
    assert {row["operation"] for row in delta.read_ops(changed, "ledger", run_id=result.run_id)} == {"rebuilt"}
    assert {row["operation"] for row in delta.read_ops(changed, "lineage", run_id=result.run_id)} == {"rebuilt"}
    assert [row["state"] for row in delta.read_ops(changed, "runs", run_id=result.run_id)] == ["rebuilt"]


# Code -------------------------------------------------------------------------

EDITS = {
    "app_events_bronze": ("layers/bronze.py", '"invalid_properties.value": value.bad', '"bad_value": value.bad'),
    "clickstream_bronze": ("layers/bronze.py", 'F.lit("page_view")', 'F.lit("view")'),
    "cdc_changes_bronze": ("layers/cdc.py", "F.sha2(content, 256)", "F.sha2(content, 512)"),
    "app_events_bronze_quarantine": ("layers/silver.py", 'F.coalesce("_raw", F.lit(""))', 'F.upper("_raw")'),
    "app_events_silver": ("layers/silver.py", 'contains("error")', 'contains("failure")'),
    "clickstream_silver": ("layers/silver.py", 'F.col("status_code") >= 400', 'F.col("status_code") >= 300'),
    "users_history_silver": ("layers/silver.py", "between(1, 9999)", "between(1, 1999)"),
    "users_silver": ("layers/silver.py", 'F.lit(1).alias("e")', 'F.lit(2).alias("e")'),
    "people_silver": ("layers/replicas.py", '_OURS = ("is_deleted", "deleted_at")', '_OURS = ("is_deleted", "name")'),
    "event_metrics_gold": ("layers/gold.py", 'F.lit("unknown")', 'F.lit("none")'),
    "hourly_metrics_gold": ("layers/gold.py", '"_ms", "_n", 0.95', '"_ms", "_n", 0.5'),
    "daily_summary_gold": ("layers/gold.py", 'ago") < 7', 'ago") < 2'),
    "user_segments_gold": ("layers/gold.py", "Send a weekly digest", "Send a daily digest"),
}
"""For every transformation: a constant of its code, and another one that makes other rows."""


def edit(library: Path, name: str) -> None:
    file, old, new = EDITS[name]
    text = (library / file).read_text()
    assert text.count(old) == 1, name
    (library / file).write_text(text.replace(old, new))


@pytest.fixture
def library(tmp_path, monkeypatch) -> Path:
    """A copy of the library, whose code is taken for the present one."""
    copy = tmp_path / "other/lakehouse_lib"
    shutil.copytree(LIBRARY, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "LIBRARY", copy)
    return copy


def run_by(library: Path, settings: Settings, **values: Any) -> subprocess.Popen:
    """A run by a copy of the library, in a process of its own."""
    given = {name: getattr(settings, name) for name in ("lakehouse_base_path", "landing_path", "spark_master")}
    given |= {"sample": {"rows": 0}, "cdc": {"replicas": [REPLICA]}} | values
    return subprocess.Popen([sys.executable, "tests/worker.py", json.dumps(given)], text=True,
                            env=os.environ | {"PYTHONPATH": str(library.parent)}, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)  # fmt: skip


def test_every_transformation_is_covered(before):
    assert {table.transform for table in tables.declared(before).values()} == {
        tables.get(before, name).transform for name in EDITS
    }


@pytest.mark.parametrize("name", EDITS)
def test_changed_constant_is_planned_for_the_tables_that_use_it(before, library, name):
    edit(library, name)
    planned = affected(before)
    same = {t.name for t in tables.declared(before).values() if t.transform == tables.get(before, name).transform}
    assert same <= {*planned}
    # What several transformations use is theirs as well.
    assert len(planned) == len(same) or name in ("app_events_bronze", "clickstream_bronze"), planned


def test_changed_code_gives_the_tables_of_a_clean_load(lake, before, library):
    changed, clean = lake(), lake.named("clean")
    for name in EDITS:
        edit(library, name)
    assert {*EDITS} <= {*affected(changed)}
    for done in [run_by(library, settings) for settings in (changed, clean)]:  # both at once
        said, _ = done.communicate()
        assert done.returncode == 0, said
    assert_same(changed, clean, flags=True)
    was, now = contents(before, flags=True), contents(changed, flags=True)
    assert [name for name in EDITS if was[name] == now[name]] == []
    assert affected(changed) == {}


def test_comments_names_and_moved_code_change_nothing(before, library):
    for file in [*library.glob("layers/*.py"), *library.glob("intake/*.py")]:
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
                node.body[0].value.value = "Other words."
        file.write_text(f"# A comment.\n{ast.unparse(tree)}\n")
    assert affected(before) == {}
    silver = library / "layers/silver.py"
    text = silver.read_text()
    for local in ("good", "events", "winners", "near", "numbered", "activity", "joined"):
        text = re.sub(rf"(?<![\w.\"'])\b{local}\b(?![\"'(]|=[^=])", f"{local}_of_it", text)
    silver.write_text(text)
    ast.parse(text)
    assert affected(before) == {}
    (library / "layers/versions.py").rename(library / "layers/lives.py")
    for file in (silver, library / "layers/replicas.py"):
        moved = re.sub(r"import (.*)\bversions\b", r"import \1lives as versions", file.read_text(), count=1)
        assert "lives as versions" in moved
        file.write_text(moved)
    assert affected(before) == {}


def test_plan_shows_the_changed_lines_of_a_function(before, library):
    edit(library, "clickstream_silver")
    said = plan.plan(before).text()
    assert "layers.silver.sessions changed" in said
    assert re.search(r"-.*status_code'\) >= 400.*\n +\+.*status_code'\) >= 300", said)


MINE = '''
def by_type(inputs):
    """What a person adds."""
    found = inputs.all("app_events_silver")
    return _counted(found)


def _counted(found):
    return found.groupBy("event_type").count().selectExpr("event_type", "`count` + 0 AS n")
'''


def of_types(name: str, transform: str) -> tables.Table:
    return tables.Table(
        name=name, layer="gold", description="Events by type", grain="a type", key=("event_type",),
        sources=("app_events_silver",), transform=transform,
        declared="    event_type string required -- type\n    n bigint required -- events\n",
    )  # fmt: skip


def test_registered_table_is_compared_by_its_module_or_its_version(lake, tmp_path, monkeypatch, extra_table):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_tables.py").write_text(MINE)
    (tmp_path / "moved_tables.py").write_text(MINE.replace("found", "rows"))
    mine = of_types("types_gold", "my_tables.by_type")
    extra_table(mine)
    settings = lake(tables="types_gold")
    run_tables(settings)

    def with_code(text: str, **more: Any) -> dict[str, list[str]]:
        tables.unregister("types_gold")
        tables.register(replace(mine, **more))
        (tmp_path / "my_tables.py").write_text(text)
        return affected(settings)

    assert with_code(MINE, transform="moved_tables.by_type") == {}
    changed = MINE.replace("+ 0", "+ 1")
    assert with_code(changed) == {"types_gold": ["my_tables._counted changed"]}
    assert with_code(MINE, version="1") == {}
    run_tables(settings)
    assert with_code(changed, version="2") == {"types_gold": ["my_tables._counted changed"]}


# Declarations -----------------------------------------------------------------


def test_additional_column_is_filled(lake, tmp_path, monkeypatch, extra_table):
    monkeypatch.syspath_prepend(tmp_path)
    text = MINE.replace("by_type", "by_kind").replace(' + 0 AS n"', ' AS n", "concat(event_type, \'!\') AS loud"')
    (tmp_path / "kinds.py").write_text(text)
    mine = of_types("kinds_gold", "kinds.by_kind")
    extra_table(mine)
    settings = lake(tables="kinds_gold")
    run_tables(settings)
    tables.unregister("kinds_gold")
    tables.register(replace(mine, declared=mine.declared + "    loud string required -- type\n"))
    assert affected(settings) == {"kinds_gold": ["column loud: none → string required"]}
    run_tables(settings)
    assert {row["loud"] for row in rows(settings, "kinds_gold")} == {"tap!", "app_failure!"}
    tables.unregister("kinds_gold")
    other = {"declared": mine.declared.replace("n bigint", "loud string -- type\n    n double")}
    tables.register(replace(mine, **other, partition_by="loud"))
    assert affected(settings) == {"kinds_gold": [
        "column loud: string required → string", "column n: bigint required → double required",
        'partition_by: "" → loud',
    ]}  # fmt: skip
    run_tables(settings)
    made = delta.opened(settings, tables.get(settings, "kinds_gold"))
    assert made.metadata().partition_columns == ["loud"]
    assert {type(row["n"]) for row in rows(settings, "kinds_gold")} == {float}


def test_column_that_is_gone_is_dropped_only_when_asked(lake, tmp_path, monkeypatch, extra_table):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "gone.py").write_text(MINE.replace("by_type", "by_sort").replace(' + 0 AS n"', ' AS n", "1 AS extra"'))
    mine = of_types("sorts_gold", "gone.by_sort")
    extra_table(replace(mine, declared=mine.declared + "    extra int -- a number\n"))
    settings = lake(tables="sorts_gold")
    run_tables(settings)
    tables.unregister("sorts_gold")
    tables.register(mine)
    assert affected(settings) == {"sorts_gold": ["column extra: int → none"]}
    run_tables(settings)
    assert "extra" in rows(settings, "sorts_gold")[0]
    found = plan.plan(settings)
    assert found.affected == [] and found.undeclared == {"sorts_gold": ["extra"]}
    assert "sorts_gold: no longer declared, and kept: extra; to drop them: lakehouse run --drop-columns" in found.text()
    dropping = settings.model_copy(update={"drop_columns": "sorts_gold"})
    assert affected(dropping) == {"sorts_gold": ["column extra (dropped): in the table → none"]}
    was = rows(settings, "sorts_gold", ["event_type", "n"])
    run_tables(dropping)
    assert rows(settings, "sorts_gold") == was and versions(settings)["sorts_gold"] >= 2
    assert plan.plan(settings).undeclared == {} and affected(dropping) == {} and selection.pending(dropping) == []
    assert_ledger_matches_tables(settings)


def test_columns_of_what_cannot_be_rebuilt_are_not_dropped(lake):
    with pytest.raises(ConfigError, match="people_silver takes its columns from its source"):
        run_tables(lake(drop_columns="people_silver"))
    with pytest.raises(ConfigError, match="did you mean users_silver"):
        run_tables(lake(drop_columns="user_silver"))


# Kills, early versions, sources that are gone ------------------------------------


@pytest.fixture(scope="module")
def clean_gap(before, tmp_path_factory) -> Settings:
    """A lakehouse that is made with shorter sessions."""
    home = str(tmp_path_factory.mktemp("clean") / "lake")
    settings = before.model_copy(update={"lakehouse_base_path": home, "session_gap_minutes": 21})
    run_tables(settings)
    return settings


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("rebuild", [run_tables, lambda settings: preview.apply(settings, ["clickstream_silver"])])
def test_interrupted_rebuild_leaves_the_old_table_or_the_new_one(
    lake, before, clean_gap, monkeypatch, committed, rebuild
):
    changed = lake(session_gap_minutes=21)
    honest = commits.merge

    def cut_off(*arguments: Any) -> None:
        if committed:
            honest(*arguments)
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(commits, "merge", cut_off)
        patch.setattr("lakehouse_lib.flow.bookkeeping.write", lambda *_: None)
        with contextlib.suppress(LakehouseError, AssertionError):
            rebuild(changed)
    of = clean_gap if committed else before
    assert rows(changed, "clickstream_silver") == rows(of, "clickstream_silver")
    assert ("clickstream_silver" in affected(changed)) is not committed
    run_tables(changed)
    assert_same(changed, clean_gap)


def test_next_run_completes_a_killed_rebuild(lake, before, clean_gap):
    changed = lake(session_gap_minutes=21)
    whole = [rows(settings, "clickstream_silver") for settings in (before, clean_gap)]
    folder = Path(delta.table_path(changed, tables.get(changed, "clickstream_silver")))
    # Once work on the table has begun, once there are files with its rows, and once they are committed.
    for watched, pattern in ((Path(changed.path(), "runs"), "*.jsonl"), (folder, "*.parquet"), (folder, "*.json")):
        before_it = {*watched.rglob(pattern)}
        process = run_by(LIBRARY.absolute(), changed, session_gap_minutes=21)
        while process.poll() is None and {*watched.rglob(pattern)} == before_it:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert rows(changed, "clickstream_silver") in whole
    run_tables(changed)
    assert_same(changed, clean_gap)


def test_early_lakehouse_gets_fingerprints_without_a_rebuild(lakehouse, tmp_path):
    with tarfile.open(STORED) as stored:
        stored.extractall(tmp_path, filter="data")
    replicas = {"replicas": [{"source_table": "users", "target": "people_silver", "keys": ["user_id"]}]}
    old = lakehouse("old", landing_path=str(tmp_path / "old/landing"), cdc=replicas)
    held, said = contents(old), []
    assert plan.plan(old).affected == [] and "no fingerprint" in plan.plan(old).text()
    result = pipeline.run(old, progress=said.append)
    assert {step.state for step in result.steps} == {"nothing new"}
    assert re.match(r"\d+ tables had no fingerprint, .*nothing was rebuilt", said[0])
    assert contents(old) == held and plan.plan(old).not_noted == []
    other = old.model_copy(update={"segments": config.SegmentSettings(vip_value=1)})
    assert affected(other) == {"user_segments_gold": ["segments.vip_value: 500.0 → 1.0"]}
    run_tables(other)
    assert affected(other) == {}


def test_bronze_without_its_files_keeps_its_rows_and_says_so(lake, tmp_path, landing):
    own = tmp_path / "landing"
    shutil.copytree(landing, own)
    settings = lake(landing_path=str(own), feeds={"clickstream": {"timezone": "Asia/Tokyo"}})
    (own / "clickstream/a.json").unlink()
    delivered(own, {"clickstream/new.json": [click(20, "2026-03-04T12:00:00")]})
    held = rows(settings, "clickstream_bronze")
    (planned,) = plan.plan(settings).affected
    assert "1 of its files are no longer in landing, e.g. a.json" in planned.obstacle
    said: list[str] = []
    pipeline.run(settings, progress=said.append).check()
    warned = "keep following earlier rules, because 1 of its files are no longer in landing, e.g. a.json"
    assert any(warned in line and "timezone: UTC → Asia/Tokyo" in line for line in said)
    assert [row for row in rows(settings, "clickstream_bronze") if row["click_id"] != "k20"] == held
    for _ in range(2):
        found = plan.plan(settings)
        assert found.affected == [] and [one.table for one in found.earlier] == ["clickstream_bronze"]
        assert "follow earlier rules" in found.text()
        assert [f.table for f in health.report(settings).findings if f.kind == "earlier rules"] == [
            "clickstream_bronze"
        ]
        run_tables(settings)
    new = [row for row in rows(settings, "clickstream_bronze") if row["click_id"] == "k20"]
    assert len(new) == 1 and new[0]["click_timestamp"].hour == 3
    shutil.copy(landing / "clickstream/a.json", own / "clickstream/a.json")
    run_tables(settings.model_copy(update={"full": True}))
    assert plan.plan(settings).earlier == []
    clean = settings.model_copy(update={"lakehouse_base_path": str(tmp_path / "clean")})
    run_tables(clean)
    assert contents(settings, flags=True) == contents(clean, flags=True)


def test_restored_table_has_the_fingerprint_of_its_version(lake):
    changed = lake(segments={"vip_value": 60})
    table = tables.get(changed, "user_segments_gold")
    version = versions(changed)[table.name]
    run_tables(changed)
    assert affected(changed) == {}
    restore.restore(changed, table, version)
    assert affected(changed) == {"user_segments_gold": ["segments.vip_value: 500.0 → 60.0"]}


# Catalog, lineage, what has changed ----------------------------------------------


def test_catalog_and_lineage_name_the_rules_of_each_table(lake):
    assert {entry.rules for entry in catalog.entries(lake()).values()} == {"current"}
    changed = lake(session_gap_minutes=21)
    old = catalog.describe(changed, "clickstream_silver")
    assert old.rules == "changed rules: session_gap_minutes: 30 → 21"
    assert json.loads(old.made_with)["settings"] == {"session_gap_minutes": 30}
    run_tables(changed)
    new = catalog.describe(changed, "clickstream_silver")
    sources = rules.of_all(changed, ["clickstream_silver", "clickstream_bronze", "landing/clickstream"])
    assert {name: made.state for name, made in sources.items()} == dict.fromkeys([*sources][:2], "current")
    assert new.rules == "current" and new.fingerprint != old.fingerprint and new.rules_since > old.rules_since
    assert json.loads(new.made_with) == json.loads(old.made_with) | {"settings": {"session_gap_minutes": 21}}
    recorded = delta.read_ops(changed, "lineage", target="clickstream_silver")
    by_version = {row["target_version"]: row["fingerprint"] for row in recorded}
    assert [by_version[version] for version in sorted(by_version)][-2:] == [old.fingerprint, new.fingerprint]
    run_id = max(recorded, key=lambda row: row["target_version"])["run_id"]
    events = Path(changed.path(), "runs", run_id, "openlineage.jsonl").read_text().splitlines()
    tags = [output["facets"]["tags"]["tags"] for event in map(json.loads, events) if event["eventType"] == "COMPLETE"
            for output in event["outputs"] if output["name"].endswith("clickstream_silver")]  # fmt: skip
    assert [(tag["key"], tag["value"]) for (tag,) in tags] == [("fingerprint", new.fingerprint)]


def test_what_has_changed_names_settings_and_functions(lake, library):
    settings, began = lake(), datetime.now(UTC)
    assert rules.moved(settings) == []  # the first run made everything
    edit(library, "user_segments_gold")
    changed = lake(session_gap_minutes=21)
    result = run_tables(changed)
    found = {one.table: one for one in rules.moved(changed)}
    assert {name: one.changes for name, one in found.items()} == {
        "clickstream_silver": ["session_gap_minutes: 30 → 21"],
        "user_segments_gold": ["layers.gold.RECOMMENDED changed"],
    }
    assert {one.run_id for one in found.values()} == {result.run_id}
    run_tables(lake(session_gap_minutes=21, active_days=1))
    assert [one.changes for one in rules.moved(changed)] == [["active_days: 30 → 1"]]
    assert {one.table for one in rules.moved(changed, began)} == {*found, "users_silver"}


# Preview ------------------------------------------------------------------------


def expected(name: str, before: Settings, clean: Settings, where: str = "") -> history.Difference:
    """The difference of a table between two clean loads."""
    old, new = (delta.dataset(delta.opened(settings, tables.get(settings, name))) for settings in (before, clean))
    return history.compare(tables.get(before, name), old, new, 0, 1, where)


def assert_same_difference(found: history.Difference, wanted: history.Difference) -> None:
    numbers = [(one.added, one.removed, one.changed, one.columns) for one in (found, wanted)]
    assert numbers[0] == numbers[1]
    assert wanted.examples.equals(found.examples[wanted.examples.columns])


def test_preview_differs_from_the_table_as_two_clean_loads_do(lake, before):
    given = {"session_gap_minutes": 21, "feeds": {"app_events": {"timezone": "Asia/Tokyo"}},
             "segments": {"active_events": 1}, "cdc": {"replicas": [REPLICA | {"keys": ["name"]}]}}  # fmt: skip
    changed, clean = lake(**given), lake.named("clean", **given)
    run_tables(clean)
    was, shown = versions(changed), set[str]()
    for names in (["people_silver"], ["app_events_bronze", "users_silver", "clickstream_silver"]):
        found = preview.preview(changed, names)
        assert [one.table for one in found.tables] == names and found.differs
        for one in (*found.tables, *found.gold):
            shown |= {one.table} if one.differs else set()
            assert rows_at(one.path, flags=True) == rows(clean, one.table, flags=True)
            assert one.rows == len(rows(clean, one.table))
            assert_same_difference(one.difference, expected(one.table, before, clean))
    assert versions(changed) == was
    assert shown > {"people_silver", "app_events_bronze", "users_silver", "clickstream_silver", "user_segments_gold"}
    for name in ("users_silver", "people_silver"):
        preview.apply(changed, [name], lambda line: None)
        assert name not in affected(changed) and name not in selection.pending(changed)
        assert rows(changed, name, flags=True) == rows(clean, name, flags=True)
    assert {*affected(changed)} == {"user_segments_gold"}  # the others are sources of these two
    run_tables(changed)
    assert_same(changed, clean, flags=True)
    assert counted(changed) == counted(clean)


def test_preview_of_days_differs_as_these_days_of_two_clean_loads_do(lake, before):
    given = {"session_gap_minutes": 21, "feeds": {"app_events": {"timezone": "Asia/Tokyo"}}}
    changed, clean = lake(**given), lake.named("clean", **given)
    run_tables(clean)
    names = ["app_events_bronze", "app_events_silver", "clickstream_silver", "daily_summary_gold"]
    found = preview.preview(changed, names, days=2)
    assert found.gold == []
    for one in found.tables:
        table = tables.get(changed, one.table)
        newest = max(row[table.partition_by] for row in rows(before, one.table) if row[table.partition_by])
        assert one.since == newest - timedelta(1)
        days = [row[table.partition_by] for row in rows(clean, one.table)]
        assert one.rows == sum(day is not None and day >= one.since for day in days)
        where = f"{table.partition_by} >= DATE '{one.since}'"
        assert_same_difference(one.difference, expected(one.table, before, clean, where))
    with pytest.raises(ConfigError, match="users_silver: no days to select from"):
        preview.preview(changed, ["users_silver"], days=2)


def test_preview_without_a_change_shows_no_difference(lake):
    names = ["app_events_bronze", "app_events_silver", "app_events_bronze_quarantine", "event_metrics_gold",
             "users_history_silver", "people_silver"]  # fmt: skip
    found = preview.preview(lake(), names)
    assert not found.differs and all(one.rows for one in found.tables), found.text()


def test_preview_compares_archived_rows_too(lake):
    settings = lake()
    for name in ("app_events_bronze", "app_events_silver"):
        table = tables.get(settings, name)
        archive.retire(settings, table, archive.due(settings, table, date(2200, 1, 1)))
        assert rows(settings, name) == []
    found = preview.preview(settings, ["app_events_bronze", "app_events_silver", "event_metrics_gold"])
    assert not found.differs, found.text()
    other = settings.model_copy(update={"feeds": {"app_events": FeedSettings(select={"app_type": "'web'"})}})
    (one,) = preview.preview(other, ["app_events_silver"]).tables
    assert one.difference.changed == one.rows == 8 and one.difference.columns == {"app_type": 8}


def test_preview_shows_the_largest_changes_and_the_figures(lake, before):
    found = preview.preview(lake(session_gap_minutes=21), ["clickstream_silver"])
    (sessions,), gold = found.tables, {one.table: one for one in found.gold}
    old, new = (
        sum(row["total_clicks"] for row in rows(before, "clickstream_silver")),
        len(rows(before, "clickstream_silver")),
    )
    said = dict(
        zip(sessions.figures.figure, zip(sessions.figures.before, sessions.figures.after, strict=True), strict=True)
    )
    assert said["sum of total_clicks"] == (old, old) and said["rows"] == (new, new + 1)
    longest = sessions.largest.set_index("column").loc["session_duration_seconds"]
    assert (longest.before, longest.after) == (2700.0, 1200.0)
    moved = gold["daily_summary_gold"].moved().set_index("figure")
    assert moved.loc["sum of total_sessions", "after"] == moved.loc["sum of total_sessions", "before"] + 1
    text = found.text()
    assert "session_duration_seconds" in text and "sum of total_sessions" in text
    assert json.loads(json.dumps(found.as_json(), default=str))["gold"]


def test_preview_of_bronze_says_which_files_cannot_be_loaded_again(lake, before, tmp_path, landing):
    own = tmp_path / "landing"
    shutil.copytree(landing, own)
    (own / "cdc_changes/b.json").unlink()
    delivered(own, {"cdc_changes/waits.json": [change("c", 9, None, {"user_id": "new"})]})
    settings = lake(landing_path=str(own), feeds={"cdc_changes": {"select": {"source_system": "'elsewhere'"}}})
    was = versions(settings)
    (found,) = preview.preview(settings, ["cdc_changes_bronze"]).tables
    kept = [row for row in rows(before, "cdc_changes_bronze", ["_source_file"]) if row["_source_file"] == "a.json"]
    assert (found.missing, found.rows) == (["b.json"], len(kept))
    assert found.difference.added == found.difference.removed == len(kept)
    assert (
        "1 of its files cannot be loaded again, e.g. b.json" in preview.preview(settings, ["cdc_changes_bronze"]).text()
    )
    with pytest.raises(TableError, match="cdc_changes_bronze cannot be rebuilt, because 1 of its files"):
        preview.apply(settings, ["cdc_changes_bronze"])
    assert versions(settings) == was
    assert [
        file.path for file in landing_files.pending_files(settings, tables.get(settings, "cdc_changes_bronze"))
    ] == ["waits.json"]


# The command -------------------------------------------------------------------


@pytest.fixture
def command(own_command, monkeypatch):
    """Run a command on the lakehouse; no engine may be started."""
    monkeypatch.setattr(session, "connect", lambda *_: pytest.fail("an engine was started"))
    return own_command


@pytest.fixture
def own_command(lake, monkeypatch, capsys):
    """Run a command on the lakehouse."""
    settings = lake()
    monkeypatch.setenv("LAKEHOUSE_CDC", json.dumps({"replicas": [REPLICA]}))
    for name in ("lakehouse_base_path", "landing_path", "spark_master"):
        monkeypatch.setenv(config.variable(name), getattr(settings, name))

    def run(*arguments: str) -> tuple[int, str]:
        status = cli.main([*arguments])
        return status, capsys.readouterr().out

    return run


def test_plan_exits_with_4_if_there_is_something_to_do(command):
    status, said = command("plan")
    assert status == 0 and "Nothing to do" in said
    status, said = command("plan", "--set", "session_gap_minutes=21")
    assert status == 4 and "session_gap_minutes: 30 → 21" in said
    assert re.search(r"clickstream_silver will be rebuilt: \d+ rows, about \d+ s", said)
    assert "these are updated: users_silver, hourly_metrics_gold, daily_summary_gold, user_segments_gold" in said
    status, said = command("plan", "--json", "--set", "session_gap_minutes=21")
    told = json.loads(said)
    assert (status, told["rebuilt"], told["affected"][0]["table"]) == (4, ["clickstream_silver"], "clickstream_silver")


def test_forward_only_applies_new_rules_to_new_rows(command, lake):
    held = versions(lake())
    changed = ("--set", "segments.vip_value=60")
    status, said = command("run", "--forward-only", "user_segments_gold", *changed)
    assert (
        status == 0
        and "keep following earlier rules, because --forward-only asked for it" in said
        and "Nothing new" in said
    )
    assert command("plan", *changed)[0] == 0
    assert "segments.vip_value: 500.0 → 60.0" in command("plan", *changed)[1]
    assert versions(lake()) == held | {"user_segments_gold": held["user_segments_gold"] + 1}
    entry = catalog.describe(lake(segments={"vip_value": 60}), "user_segments_gold")
    assert entry.rules.startswith("forward only since ") and entry.rules.endswith("segments.vip_value: 500.0 → 60.0")
    (moved,) = rules.moved(lake())
    assert (moved.table, moved.forward_only, moved.run_id) == ("user_segments_gold", True, "")


def test_preview_is_applied_by_the_command(own_command, lake, clean_gap):
    preview_of = ("plan", "--preview", "clickstream_silver", "--set", "session_gap_minutes=21")
    status, said = own_command(*preview_of, "--json")
    assert (status, json.loads(said)["tables"][0]["added"]) == (4, 1)
    status, said = own_command(*preview_of, "--apply")
    assert status == 0 and "clickstream_silver rebuilt: 3 rows; 1 added, 0 removed, 1 changed" in said
    assert (
        "rebuilt · +1 rows" in said
        and "    rebuilt: session_gap_minutes: 30 → 21" in said
        and "The next run updates what is made from it" in said
    )
    assert rows(lake(), "clickstream_silver") == rows(clean_gap, "clickstream_silver")
    assert own_command(*preview_of)[0] == 4  # gold, which follows with the next run


def test_preview_options_that_do_not_fit_are_refused(command, capsys):
    for arguments in (("--days", "2"), ("--apply",), ("--preview", "users_silver", "--days", "2", "--apply")):
        assert cli.main(["plan", *arguments]) == 2
    assert "leave one out" in capsys.readouterr().err


def test_large_rebuild_ends_with_status_4_before_anything_starts(command, lake):
    was = versions(lake())
    changed = ("--set", "session_gap_minutes=21", "--set", "plan.confirm_rows=1")
    assert command("run", *changed)[0] == 4
    assert versions(lake()) == was
