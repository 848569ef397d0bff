"""Versions: what each changed, the difference between two, and restores with correct counts."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from conftest import change, click, event
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from lake import assert_same, rows, versions

from lakehouse_lib.care import restore
from lakehouse_lib.catalog import history
from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError
from lakehouse_lib.flow import pipeline, selection
from lakehouse_lib.model import tables
from lakehouse_lib.storage import delta, reader


def run(settings: Settings) -> None:
    pipeline.run(settings, progress=lambda line: None).check()


def ledger(settings: Settings) -> dict[str, tuple[int, int, int]]:
    """Records read, accepted and quarantined, by target."""
    sums = reader.query(
        settings,
        """
        SELECT target, sum(records_read) r, sum(accepted) a, sum(quarantined) q, sum(duplicate) d, sum(updated) u,
               sum(unchanged) s FROM ops_ledger GROUP BY target""",
    )
    assert (sums.r == sums.a + sums.q + sums.d + sums.u + sums.s).all()
    return {row.target: (row.r, row.a, row.q) for row in sums.itertuples()}


def load(deliver, number: int) -> None:
    """A load of all three feeds, with a record that is rejected."""
    at = f"2026-03-0{number}T10:00:00Z"
    deliver(f"app_events/{number}.json", [event(number, at), event(10 + number, at, user_id="bob"), '{"event_id": '])
    deliver(f"clickstream/{number}.json", [click(number, at)])
    deliver(f"cdc_changes/{number}.json", [change("u", number, None, {"user_id": "ann", "plan": f"plan {number}"})])


def test_restore_undoes_a_bad_load_completely(lakehouse, deliver, tmp_path):
    lake, clean = lakehouse(), lakehouse("clean")
    load(deliver, 1)
    run(lake)
    run(clean)
    before = versions(lake)
    load(deliver, 2)
    run(lake)
    for name in ("app_events_bronze", "clickstream_bronze", "cdc_changes_bronze"):
        table = tables.get(lake, name)
        assert any("would count as withdrawn" in line for line in restore.consequences(lake, table, before[name]))
        restore.restore(lake, table, before[name])
    run(lake)
    assert_same(lake, clean)
    result, expected = ledger(lake), ledger(clean)
    for name in ("app_events_bronze", "clickstream_bronze", "cdc_changes_bronze"):
        assert result[name] == expected[name]
    assert selection.pending(lake) == []  # the files are still there, and are not loaded again
    run(lake.model_copy(update={"full": True}))
    assert_same(lake, clean)
    bad = tmp_path / "landing/app_events/2.json"
    bad.with_name("2-again.json").write_bytes(bad.read_bytes())
    run(lake)
    assert {row["event_id"] for row in rows(lake, "app_events_silver")} == {"e1", "e11", "e2", "e12"}
    steps = reader.query(lake, "SELECT operation, count(*) n FROM ops_lineage GROUP BY 1").set_index("operation").n
    assert steps["restore"] == 3


def test_next_run_rebuilds_a_restored_table(lakehouse, deliver):
    lake = lakehouse()
    load(deliver, 1)
    run(lake)
    first = versions(lake)
    load(deliver, 2)
    run(lake)
    good = {name: rows(lake, name) for name in first}
    derived = [table for table in tables.declared(lake).values() if table.layer != "bronze"]
    for table in derived:
        version = restore.restore(lake, table, first[table.name])
        assert version == DeltaTable(delta.table_path(lake, table)).version()
    assert len(rows(lake, "app_events_silver")) == 2
    run(lake)
    assert {name: rows(lake, name) for name in first} == good
    ledger(lake)


def test_versions_show_operation_run_and_change(lakehouse, deliver):
    lake = lakehouse(tables="app_events_bronze,app_events_silver")
    table = tables.get(lake, "app_events_silver")
    for number in (1, 2):
        load(deliver, number)
        run(lake.model_copy(update={"run_id": f"run-{number}"}))
    actual = history.versions(lake, table)
    assert list(actual.version) == [2, 1, 0]
    assert list(actual.operation) == ["WRITE", "WRITE", "CREATE TABLE"]
    assert list(actual.run_id) == ["run-2", "run-1", ""]
    assert list(actual.rows) == [4, 2, 0] and list(actual.change) == [2, 2, 0]
    with pytest.raises(ConfigError, match="app_events_silver has no version 7 that can be read; the newest is 2"):
        history.diff(lake, table, 0, 7)


ROW = st.fixed_dictionaries({"user": st.sampled_from(["ann", "bob", None]), "hour": st.integers(0, 2)})


@hypothesis_settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(one=st.dictionaries(st.integers(1, 6), ROW), other=st.dictionaries(st.integers(1, 6), ROW))
def test_difference_matches_a_comparison_in_python(tmp_path_factory, one, other):
    lake = Settings(lakehouse_base_path=str(tmp_path_factory.mktemp("diff")))
    table = tables.get(lake, "app_events_silver")
    delta.ensure(lake, table)
    path = delta.table_path(lake, table)
    schema = pa.schema(DeltaTable(path).schema().to_arrow())
    at = datetime(2026, 3, 2, tzinfo=UTC)
    for content in (one, other):
        records = [{"event_id": f"e{key}", "user_id": row["user"], "event_hour": row["hour"], "event_type": "t",
                 "event_timestamp": at, "event_date": date(2026, 3, 2), "is_error": False, "_run_id": "r",
                 "_processed_at": at} for key, row in content.items()]  # fmt: skip
        write_deltalake(path, pa.Table.from_pylist(records, schema), mode="overwrite")
    actual = history.diff(lake, table, 1, 2)
    both = one.keys() & other.keys()
    changed = {key for key in both if one[key] != other[key]}
    assert (actual.added, actual.removed, actual.changed) == (
        len(other.keys() - both),
        len(one.keys() - both),
        len(changed),
    )
    expected = {
        "user_id": sum(one[k]["user"] != other[k]["user"] for k in both),
        "event_hour": sum(one[k]["hour"] != other[k]["hour"] for k in both),
    }
    assert actual.columns == {name: count for name, count in expected.items() if count}
    for row in actual.examples.itertuples():
        assert row.event_id.removeprefix("e") in {str(key) for key in {*one, *other}}
    old, new = (delta.dataset(history.at(lake, table, version)) for version in (1, 2))
    moved = [abs(other[k]["hour"] - one[k]["hour"]) for k in both if other[k]["hour"] != one[k]["hour"]]
    largest = history.largest(table, old, new)
    assert [abs(row.after - row.before) for row in largest.itertuples()] == ([max(moved)] if moved else [])
    figures = history.figures(table, old, new).set_index("figure")
    assert figures.loc["rows"].tolist() == [len(one), len(other)]
    sums = [sum(row["hour"] for row in rows.values()) for rows in (one, other)]
    assert figures.loc["sum of event_hour"].fillna(0).tolist() == sums


def test_rows_without_a_key_are_compared_as_a_whole(lakehouse, deliver):
    lake = lakehouse(tables="app_events_bronze")
    deliver("app_events/1.json", [event(1), event(1)])
    run(lake)
    deliver("app_events/2.json", [event(1), event(2)])
    run(lake)
    actual = history.diff(lake, tables.get(lake, "app_events_bronze"), 1, 2)
    assert (actual.added, actual.removed, actual.changed, len(actual.examples)) == (2, 0, 0, 2)


def test_restore_command_needs_confirmation(lakehouse, deliver):
    lake = lakehouse(tables="app_events_bronze")
    deliver("app_events/1.json", [event(1)])
    run(lake)

    def command(*arguments: str) -> subprocess.CompletedProcess:
        settings = ["--set", f"lakehouse_base_path={lake.path()}", "--set", f"spark_master={lake.spark_master}"]
        return subprocess.run(
            [sys.executable, "-m", "lakehouse_lib", *arguments, *settings], capture_output=True, text=True
        )

    assert "1 rows added" in command("diff", "app_events_bronze", "0", "1").stdout
    asked = command("restore", "app_events_bronze", "0")
    assert asked.returncode == 0 and "1 removed" in asked.stdout and "Nothing was done" in asked.stdout
    assert len(rows(lake, "app_events_bronze")) == 1
    result = command("restore", "app_events_bronze", "0", "--yes")
    assert result.returncode == 0, result.stderr
    assert "app_events_bronze is now version 2" in result.stdout and rows(lake, "app_events_bronze") == []
    shown = command("history", "app_events_bronze")
    assert "RESTORE" in shown.stdout
