"""Quality in the pipeline: results, holding tables back, quarantine, and replay."""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import change, click, event
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from lake import assert_same, rows, versions
from worker import Worker

from lakehouse_lib import cli, config
from lakehouse_lib.care import quarantine
from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError, QualityError
from lakehouse_lib.flow import pipeline, selection
from lakehouse_lib.flow.steps import RunResult
from lakehouse_lib.model import ops, tables
from lakehouse_lib.storage import delta, reader
from lakehouse_lib.trust import quality


def run(settings: Settings) -> RunResult:
    result = pipeline.run(settings, progress=lambda line: None)
    result.check()
    return result


def ledger(settings: Settings, target: str) -> dict:
    """Sums of a table's ledger, and its reasons."""
    sums = reader.query(settings, f"SELECT * FROM ops_ledger WHERE target = '{target}'")
    counts = {name: int(sums[name].sum()) for name in ops.COUNTS}
    assert counts["records_read"] == sum(counts[name] for name in ops.COUNTS[1:])
    reasons: Counter = Counter()
    for text in sums.reasons:
        reasons.update(json.loads(text))
    return counts | {"reasons": {name: n for name, n in reasons.items() if n}}


NO_TEST_USERS = {"name": "no_test_users", "check": "expression", "condition": "user_id <> 'test'"}


def test_error_check_holds_back_dependent_tables(lakehouse, deliver):
    """Held tables keep their last good state; once the check passes, they catch up exactly."""
    names = "app_events_bronze,app_events_silver,event_metrics_gold"
    lake = lakehouse(tables=names, quality={"app_events_silver": [NO_TEST_USERS]})
    deliver("app_events/1.json", [event(1)])
    run(lake)
    good = rows(lake, "event_metrics_gold")
    deliver("app_events/2.json", [event(2, user_id="test"), event(3)])
    result = pipeline.run(lake, progress=lambda line: None)
    with pytest.raises(
        QualityError, match=r"app_events_silver: check no_test_users: 1 of 3 rows break user_id <> 'test'"
    ):
        result.check()
    assert {step.table: step.state for step in result.steps}["event_metrics_gold"] == "held"
    assert rows(lake, "event_metrics_gold") == good
    assert selection.pending(lake) == ["event_metrics_gold"]
    stored = quality.latest(lake)["app_events_silver"]["no_test_users"]
    assert (stored.passed, stored.failing_rows, json.loads(stored.failing_keys)) == (False, 1, ["e2"])
    (failure,) = quality.failures(lake, quality.latest(lake)).query("severity == 'error'").to_dict("records")
    assert "event_metrics_gold" in failure["held back"] and failure["for example"] == "e2"
    relaxed = lake.model_copy(update={"quality": {"app_events_silver": [NO_TEST_USERS | {"tolerance": 0.5}]}})
    run(relaxed)
    (hour,) = rows(lake, "event_metrics_gold")
    assert hour["total_events"] == 3
    assert selection.pending(relaxed) == []


def test_warning_stops_nothing_and_samples_can_be_switched_off(lakehouse, deliver):
    lake = lakehouse(
        tables="app_events_bronze,app_events_silver",
        quality_samples=False,
        quality={"app_events_silver": [NO_TEST_USERS | {"severity": "warn"}]},
    )
    deliver("app_events/1.json", [event(1, user_id="test")])
    output: list[str] = []
    pipeline.run(lake, progress=output.append).check()
    assert any("warn: app_events_silver: check no_test_users: 1 of 1 rows" in line for line in output)
    stored = quality.latest(lake)["app_events_silver"]["no_test_users"]
    assert (stored.severity, stored.passed, stored.failing_keys) == ("warn", False, "[]")
    before = versions(lake)
    assert selection.pending(lake) == [] and versions(lake) == before
    card = quality.scorecard(quality.latest(lake)).set_index("table")
    assert card.loc["app_events_silver", "verdict"] == "warn"
    assert "no_test_users" in " ".join(quality.failures(lake, quality.latest(lake)).what)


@hypothesis_settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_incremental_results_equal_a_full_scan(lakehouse, tmp_path, data):
    """Appends, deletions and replaced days in any order; both ways of checking always agree."""
    lake = lakehouse(f"sums{time.monotonic_ns()}", quality={"app_events_silver": [
        NO_TEST_USERS, {"name": "app", "check": "null_share", "column": "app_type", "max": 0.3, "severity": "warn"},
        {"name": "apps", "check": "drift", "column": "app_type", "baseline": {"web": 0.5, "ios": 0.5}},
        {"name": "many", "check": "row_count", "min": 0},
    ]})  # fmt: skip
    table = tables.get(lake, "app_events_silver")
    delta.ensure(lake, table)
    path = delta.table_path(lake, table)
    last: dict = {}
    number = 0
    for _ in range(data.draw(st.integers(2, 5))):
        step = data.draw(st.sampled_from(["append", "append", "delete", "replace"]))
        day = data.draw(st.integers(1, 4))
        if step == "delete":
            DeltaTable(path).delete(f"event_date = '2026-03-0{day}'")
        else:
            records = []
            for _ in range(data.draw(st.integers(1, 5))):
                number += 1
                records.append(silver_row(number, day, data.draw(st.sampled_from(["ann", "test"])),
                                       data.draw(st.sampled_from(["web", "ios", "tv", None]))))  # fmt: skip
            put(path, records, f"event_date = '2026-03-0{day}'" if step == "replace" else None)
        added = quality.run_checks(lake, table, last=last)
        whole = quality.run_checks(lake, table)
        assert [
            (r.check_name, r.passed, r.measured, r.rows, r.failing_rows) for r in added if r.check_name != "fresh"
        ] == [(r.check_name, r.passed, r.measured, r.rows, r.failing_rows) for r in whole if r.check_name != "fresh"]
        last = {result.check_name: result for result in added}


def silver_row(number: int, day: int, user: str, app: str | None) -> dict:
    at = datetime(2026, 3, day, 10, tzinfo=UTC)
    return {"event_id": f"e{number}", "user_id": user, "event_type": "tap", "app_type": app, "event_timestamp": at,
            "event_date": date(2026, 3, day), "event_hour": 10, "is_error": False, "_run_id": "r",
            "_processed_at": at}  # fmt: skip


def put(path: str, records: list[dict], predicate: str | None = None) -> None:
    schema = pa.schema(DeltaTable(path).schema().to_arrow())
    more = {"mode": "overwrite", "predicate": predicate} if predicate else {"mode": "append"}
    write_deltalake(path, pa.Table.from_pylist(records, schema), **more)


def test_check_that_cannot_run_is_reported_and_recovers(lakehouse):
    """Its column is removed, then added again."""
    lake = lakehouse(quality={"app_events_silver": [NO_TEST_USERS]})
    table = tables.get(lake, "app_events_silver")
    delta.ensure(lake, table)
    path = delta.table_path(lake, table)
    whole = DeltaTable(path).schema()
    put(path, [silver_row(1, 1, "ann", "web")])
    without = [field for field in pa.schema(whole.to_arrow()) if field.name != "user_id"]
    write_deltalake(path, pa.Table.from_pylist([silver_row(1, 1, "ann", "web")], pa.schema(without)),
                    mode="overwrite", schema_mode="overwrite")  # fmt: skip
    broken = {result.check_name: result for result in quality.run_checks(lake, table)}
    assert not broken["no_test_users"].passed and "cannot be run" in broken["no_test_users"].message
    assert "user_id is missing" in broken["columns_as_declared"].message
    assert broken["hour_in_day"].passed  # the others have been run
    DeltaTable(path).restore(1)
    fixed = {result.check_name: result for result in quality.run_checks(lake, table, last=broken)}
    assert fixed["no_test_users"].passed and fixed["no_test_users"].rows == 1


def test_checks_of_new_rows_read_only_new_files(lakehouse):
    """The old file is removed from the disk; nothing needs it."""
    lake = lakehouse()
    table = tables.get(lake, "app_events_bronze_quarantine")  # its checks can all be added up
    delta.ensure(lake, table)
    path = delta.table_path(lake, table)

    def rejected(count: int) -> list[dict]:
        row = silver_row(1, 2, "ann", None)
        return [{"reasons": ["x"], "explanation": "x", "record": "x", "load_timestamp": row["event_timestamp"],
                 "landed_date": row["event_date"], "_run_id": "r", "_processed_at": row["event_timestamp"],
                 "_source_file": "f"}] * count  # fmt: skip

    put(path, rejected(3))
    last = {result.check_name: result for result in quality.run_checks(lake, table)}
    (old,) = Path(path).rglob("*.parquet")
    put(path, rejected(2))
    put(path, rejected(2))
    old.unlink()
    by_name = {result.check_name: result for result in quality.run_checks(lake, table, last=last)}
    assert by_name["required_values"].passed and by_name["required_values"].rows == 7


def test_checks_of_a_run_read_only_its_rows(lakehouse, deliver):
    lake = lakehouse(
        tables="app_events_bronze,app_events_silver",
        quality={"app_events_silver": [NO_TEST_USERS | {"scope": "run", "severity": "warn"}]},
    )
    actual = []
    for number, user in ((1, "test"), (2, "ann")):
        deliver(f"app_events/{number}.json", [event(number, user_id=user)])
        run(lake)
        result = quality.latest(lake)["app_events_silver"]["no_test_users"]
        actual.append((result.passed, result.rows))
    assert actual == [(False, 1), (True, 1)]


# Quarantine -----------------------------------------------------------------

SET_ASIDE = {"app_events_bronze": [NO_TEST_USERS | {"severity": "quarantine"}]}


def deliver_rejects(deliver) -> None:
    """Good and bad records of every feed and format; some are fixed by a mapping or a check."""
    deliver("app_events/1.json", [event(1), event(2, user_id="test"), event(2, user_id="test"), '{"event_id": ',
                                  event(3, properties="{bad"), b'{"event_id": "\xff\xfe"}\n'])  # fmt: skip
    head = "click_id,at,user_id,page_name"
    deliver("clickstream/1.csv", [head, "k1,2026-03-02T10:00:00Z,ann,home", 'k2,2026-03-02T10:01:00Z,ann,"a, b"'])
    deliver("clickstream/2.csv", ["page_name,user_id,at,click_id", "home,bob,2026-03-02T10:00:00Z,k3"])
    deliver(
        "clickstream/3.json.gz",
        [click(4), {"click_id": "k5", "at": "2026-03-02T11:00:00Z", "user_id": "eve", "page_name": "cart"}],
    )
    canal = {"type": "INSERT", "database": "crm", "table": "users", "isDdl": False, "es": 1772445600000, "id": 1,
             "pkNames": ["id"], "data": [{"uid": "u1", "name": "A"}, {"user_id": "u2", "name": "B"}], "old": None,
             "ts": 1772445600100}  # fmt: skip
    deliver("cdc_changes/1.json", [change("c", 1, None, {"user_id": "u0", "name": "Z"}), canal])


FIXED = {"feeds": {"clickstream": {"select": {"click_timestamp": "coalesce(click_timestamp, at)"}}}}


def replay_all(settings: Settings) -> list[dict[str, int]]:
    return [
        quarantine.replay(settings, name, progress=lambda line: None)
        for name in ("app_events_bronze", "clickstream_bronze", "cdc_changes_bronze")
    ]


def test_replay_gives_the_same_tables_as_a_load_with_the_cause_fixed(lakehouse, deliver):
    deliver_rejects(deliver)
    lake = lakehouse(quality=SET_ASIDE)
    run(lake)
    assert ledger(lake, "app_events_bronze")["reasons"] == {
        "no_test_users": 2,
        "malformed_record": 1,
        "invalid_properties": 1,
        "invalid_utf8": 1,
    }
    waiting = quarantine.summary(lake)
    assert "records here break user_id <> 'test' (check no_test_users)" in list(waiting.reason)
    stored = quality.latest(lake)["app_events_bronze"]["no_test_users"]
    assert (stored.severity, stored.failing_rows) == ("quarantine", 2)
    assert replay_all(lake) == [{"passed": 0, "rejected": 0}] * 3  # nothing is fixed yet
    fixed = lakehouse(**FIXED)
    assert replay_all(fixed) == [
        {"passed": 2, "rejected": 0},
        {"passed": 4, "rejected": 0},
        {"passed": 0, "rejected": 0},
    ]
    clean = lakehouse("clean", **FIXED)
    run(clean)
    assert_same(fixed, clean)
    for name in ("app_events_bronze", "clickstream_bronze", "cdc_changes_bronze"):
        assert ledger(fixed, name) == ledger(clean, name)
    before = versions(fixed)
    assert replay_all(fixed) == [{"passed": 0, "rejected": 0}] * 3
    assert versions(fixed) == before
    run(fixed.model_copy(update={"full": True}))
    assert_same(fixed, clean)


def test_replay_of_one_reason_and_part_of_a_message(lakehouse, deliver):
    """A Canal message of two rows, one of them without its key: the other is not loaded twice."""
    deliver_rejects(deliver)
    lake = lakehouse()
    run(lake)
    assert ledger(lake, "cdc_changes_bronze")["reasons"] == {"missing_key": 1}
    with pytest.raises(ConfigError, match=r"carries nonsense; there are: missing_key \(1\)"):
        quarantine.replay(lake, "cdc_changes", "nonsense")
    other_key = lake.model_copy(update={"cdc": config.CdcSettings(users_key="name")})
    assert quarantine.replay(other_key, "cdc_changes", "missing_key", lambda line: None) == {"passed": 1, "rejected": 0}
    changes = rows(lake, "cdc_changes_bronze")
    assert len(changes) == 3 and ledger(lake, "cdc_changes_bronze")["accepted"] == 3
    assert quarantine.summary(lake).query("table_name == 'cdc_changes_bronze'").empty
    with pytest.raises(ConfigError, match=r"app_events_silver has no quarantine; these have one: app_events_bronze"):
        quarantine.replay(lake, "app_events_silver")


def test_replayed_record_that_fails_again_keeps_its_new_reason(lakehouse, deliver):
    deliver("app_events/1.json", [event(1, "soon"), event(2)])
    parameters = {"tables": "app_events_bronze,app_events_bronze_quarantine,app_events_silver"}
    lake = lakehouse(**parameters)
    run(lake)
    mapped = lakehouse(
        feeds={"app_events": {"select": {"event_timestamp": "nullif(event_timestamp, 'soon')"}}}, **parameters
    )
    assert quarantine.replay(mapped, "app_events", progress=lambda line: None) == {"passed": 0, "rejected": 1}
    (row,) = rows(lake, "app_events_bronze_quarantine")
    assert row["reasons"] == ["missing_event_timestamp"] and "soon" in row["record"]
    assert ledger(lake, "app_events_bronze")["reasons"] == {"missing_event_timestamp": 1}


def rejected_record(settings: Settings) -> None:
    """A record in a quarantine table, written without an engine."""
    at, table = datetime(2026, 3, 2, 10, tzinfo=UTC), tables.get(settings, "app_events_bronze_quarantine")
    delta.ensure(settings, table)
    row = {"reasons": ["malformed"], "explanation": "it is no JSON", "record": "broken", "load_timestamp": at,
           "landed_date": at.date(), "_run_id": "r", "_processed_at": at, "_source_file": "1.json"}  # fmt: skip
    write_deltalake(delta.table_path(settings, table), pa.Table.from_pylist([row], table.arrow_schema()), mode="append")


@pytest.fixture
def run_command(tmp_path, monkeypatch, capsys):
    """Run a command on a separate lakehouse, where no engine can be reached."""
    monkeypatch.setenv("LAKEHOUSE_BASE_PATH", str(tmp_path))
    monkeypatch.setenv("SPARK_MASTER", "sc://localhost:1")

    def run(*words: str) -> tuple[int, str]:
        status = cli.main([*words])
        out = capsys.readouterr()
        return status, out.out + out.err

    return run


def test_empty_quarantine_is_reported(run_command):
    for exists in (False, True):
        if exists:
            for table in tables.declared(config.load()).values():
                delta.ensure(config.load(), table)
        assert run_command("quarantine") == (0, "The quarantine has no records.\n")
        assert run_command("quarantine", "show", "app_events") == (
            0,
            "The quarantine has no records of app_events.\n",
        )
    rejected_record(config.load())
    assert "app_events_bronze              1  malformed: it is no JSON" in run_command("quarantine")[1]
    assert "The quarantine has no records" in run_command("quarantine", "show", "clickstream_bronze")[1]
    assert (
        "with the reason missing_key"
        in run_command("quarantine", "show", "app_events_bronze", "--reason", "missing_key")[1]
    )
    assert run_command("quarantine", "show", "users_silver")[0] == 2


COMMANDS = {
    "quarantine show Q": (0, 0), "quarantine replay Q": (1, None), "describe Q": (0, 0), "history Q": (1, 0),
    "lineage Q": (0, 0), "lineage Q.record": (1, 1), "trace Q record=broken": (1, 0), "trace Q broken": (2, 2),
    "diff Q 0 1": (1, 0), "restore Q 0": (1, 0), "optimize Q": (1, 0), "vacuum Q": (1, 0), "retention Q": (0, 0),
    "retention Q --yes": (0, 0), "archive show Q": (0, 0), "archive restore Q": (0, 0), "quality profile Q": (1, 0),
    "quality anomalies Q": (1, 0), "quality check Q": (1, 0), "describe Q --tag x": (0, 0),
}  # fmt: skip
"""Exit status where the quarantine table is not made yet, and where it is; None where that needs an engine."""


def test_every_command_accepts_a_quarantine_table_or_rejects_it_clearly(run_command):
    for exists in (0, 1):
        if exists:
            rejected_record(config.load())
            delta.ensure(config.load(), tables.get(config.load(), "app_events_bronze"))
        for command, status in COMMANDS.items():
            if status[exists] is None:
                continue
            words = [word.replace("Q", "app_events_bronze_quarantine") for word in command.split()]
            exit_status, text = run_command(*words)
            assert (exit_status, bool(text.strip())) == (status[exists], True), f"{command}: {text}"
            assert text.startswith("lakehouse: ") == bool(exit_status) or command.startswith("vacuum"), text


def test_killed_replay_loses_and_duplicates_nothing(lakehouse, deliver, engine):
    deliver_rejects(deliver)
    lake = lakehouse(quality=SET_ASIDE)
    run(lake)
    fixed = lakehouse(**FIXED)
    clean = lakehouse("clean", **FIXED)
    run(clean)
    values = {name: getattr(fixed, name) for name in ("lakehouse_base_path", "landing_path", "spark_master")}
    for name, after in (("app_events_bronze", 0.3), ("app_events_bronze", 2), ("clickstream_bronze", 0.5),
                        ("clickstream_bronze", 3)):  # fmt: skip
        Worker(values | FIXED | {"sample": {"rows": 0}}, "replay", name).kill_after(after)
        for table in tables.declared(fixed).values():
            rows(fixed, table.name)
    replay_all(fixed)
    run(fixed)
    assert_same(fixed, clean)
    assert ledger(fixed, "clickstream_bronze") == ledger(clean, "clickstream_bronze")
    assert selection.pending(fixed) == []
