"""Compaction, vacuum, retention: no row changes, no row is lost, and dry runs are accurate."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import change, click, event
from deltalake import DeltaTable, write_deltalake
from lake import assert_same, contents, rows
from worker import Worker

from lakehouse_lib import cli, notebooks
from lakehouse_lib.care import health, maintenance, restore
from lakehouse_lib.catalog import catalog
from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError, LedgerError, TableError
from lakehouse_lib.flow import bookkeeping, pipeline, selection
from lakehouse_lib.intake import landing
from lakehouse_lib.model import tables
from lakehouse_lib.storage import archive, delta, reader
from lakehouse_lib.trust import quality

OLD = datetime(2026, 3, 5, tzinfo=UTC).timestamp()


def run(settings: Settings, **more) -> None:
    pipeline.run(settings.model_copy(update=more), progress=lambda line: None).check()


def three_days(deliver) -> None:
    """Events, clicks and changes of three days in March, landed in March; some lines are broken."""
    for day in (1, 2, 3):
        at = f"2026-03-0{day}T10:00:00Z"
        events = [event(10 * day + n, at, user_id=f"u{n}", properties={"value": n}) for n in range(6)] + ["broken"]
        clicks = [click(10 * day + n, f"2026-03-0{day}T10:{n:02}:00Z", user_id=f"u{n % 2}") for n in range(4)]
        for path in (
            deliver(f"app_events/{day}.json", events),
            deliver(f"clickstream/{day}.json", clicks),
            deliver(f"cdc_changes/{day}.json", [change("c", day, None, {"user_id": f"u{day}"})]),
        ):
            os.utime(path, (OLD, OLD))


def all_rows(settings: Settings, name: str) -> list[dict]:
    """Every column of every row, by Delta's log."""
    table = tables.get(settings, name)
    return rows(settings, name, [f.name for f in DeltaTable(delta.table_path(settings, table)).schema().fields])


def many_files(settings: Settings, name: str, count: int = 10) -> tables.Table:
    """A silver table of events, written in many commits."""
    table = tables.get(settings, name)
    delta.ensure(settings, table)
    at = datetime(2026, 3, 2, 10, tzinfo=UTC)
    for n in range(count):
        row = {c.name: None for c in table.columns} | {
            "event_id": f"e{n}", "event_type": "tap", "event_timestamp": at, "event_date": at.date(), "event_hour": 10,
            "is_error": False, "user_id": f"u{n % 3}", "_run_id": "r", "_processed_at": at,
        }  # fmt: skip
        write_deltalake(
            delta.table_path(settings, table), pa.Table.from_pylist([row], table.arrow_schema()), mode="append"
        )
    return table


def many_hours(settings: Settings, count: int) -> tables.Table:
    """A gold table with the given number of rows in March; no table is built from it."""
    days = [date(2026, 3, 1 + n % 4) for n in range(count)]
    return hours_of(settings, days, written=datetime(2026, 3, 9, tzinfo=UTC))


def hours_of(settings: Settings, days: list[date], written: datetime, run_id: str = "r") -> tables.Table:
    """The same with a row for each of some days, all written by one run at the same time."""
    table = tables.get(settings, "event_metrics_gold")
    delta.ensure(settings, table)
    records = [{c.name: None for c in table.columns} | {
        "metric_date": day, "metric_hour": n % 24, "event_type": f"e{n}", "app_type": "web", "total_events": n,
        "unique_users": 1, "_run_id": run_id, "_processed_at": written,
    } for n, day in enumerate(days)]  # fmt: skip
    write_deltalake(
        delta.table_path(settings, table), pa.Table.from_pylist(records, table.arrow_schema()), mode="append"
    )
    return table


def archives(settings: Settings, today: date | None = None) -> list[maintenance.Work]:
    """What a run or a user would archive."""
    return [work for work in maintenance.due(settings, today) if work.kind == "archive"]


def days_there(settings: Settings, table: tables.Table) -> set[date]:
    return {row[table.partition_by] for row in rows(settings, table.name, [table.partition_by])}


def data_files(settings: Settings, table: tables.Table) -> dict[str, int]:
    return {
        str(path): path.stat().st_size
        for path in Path(delta.table_path(settings, table)).rglob("*.parquet")
        if "_delta_log" not in path.parts
    }


def test_small_files_are_compacted_without_changing_rows(lakehouse):
    lake = lakehouse()
    table = many_files(lake, "app_events_silver")
    before = all_rows(lake, table.name)
    (work,) = [task for task in maintenance.due(lake) if task.kind == "compact"]
    assert work.table == table.name and work.files == 10 and "10 files below 16 MB in 1 days" in work.why
    assert maintenance.do(lake, work) == "app_events_silver: 10 files rewritten, 10 before, 1 now"
    assert all_rows(lake, table.name) == before and len(DeltaTable(delta.table_path(lake, table)).file_uris()) == 1
    assert not [task for task in maintenance.due(lake) if task.kind == "compact"]
    assert not delta.changes(delta.table_path(lake, table), 10, 11).any


def test_day_that_each_run_adds_to_is_compacted(lakehouse):
    lake = lakehouse()
    for _ in range(maintenance.MANY_RUNS):
        catalog.edit(lake, "users_silver", add=["gdpr"])
    (work,) = maintenance.due(lake)
    assert (work.table, work.kind) == ("ops/catalog_edits", "compact")
    assert maintenance.do(lake, work) == "ops/catalog_edits: 50 files before, 1 now"
    assert "gdpr" in catalog.describe(lake, "users_silver").tags and not maintenance.due(lake)


def test_vacuum_frees_what_its_dry_run_reports_and_keeps_time_travel(lakehouse, capsys, monkeypatch):
    lake = lakehouse()
    table = many_files(lake, "app_events_silver")
    maintenance.optimize(lake, table)
    orphan = Path(delta.table_path(lake, table)) / "event_date=2026-03-02" / "of-a-killed-run.parquet"
    orphan.write_bytes(b"x" * 1234)
    assert maintenance.removable(lake, table) == ([], 0)  # 30 days of time travel, whatever vacuum says
    with pytest.raises(ConfigError, match=r"promises 720 hours; with 0 the versions 1, 2, 3.*--force"):
        maintenance.vacuum(lake, table, hours=0)
    assert maintenance.unreadable(lake, table, 0) == list(range(1, 11))
    monkeypatch.setenv("LAKEHOUSE_BASE_PATH", lake.path())
    assert cli.main(["vacuum", table.name, "--hours", "0"]) == 0
    assert "versions that could no longer be read: 1, 2, 3" in capsys.readouterr().out
    assert DeltaTable(delta.table_path(lake, table), version=5).to_pyarrow_table().num_rows == 5
    before = data_files(lake, table)
    files, foretold = maintenance.removable(lake, table, 0)
    assert len(files) == 11 and any("killed" in file for file in files)
    report = maintenance.vacuum(lake, table, 0, force=True)
    after = data_files(lake, table)
    assert sum(before.values()) - sum(after.values()) == foretold and f"{foretold:,} bytes freed" in report
    assert len(all_rows(lake, table.name)) == 10


def test_long_log_gets_a_checkpoint(lakehouse, monkeypatch):
    lake = lakehouse()
    monkeypatch.setattr(maintenance, "LONG_LOG", 5)
    many_files(lake, "app_events_silver", 6)
    (work,) = [task for task in maintenance.due(lake) if task.kind == "checkpoint"]
    assert "7 commits since the last checkpoint, at most 5" in work.why
    maintenance.do(lake, work)
    assert not [task for task in maintenance.due(lake) if task.kind == "checkpoint"]


def test_archived_rows_leave_the_table_still_count_and_can_be_restored(lakehouse, deliver):
    """Bronze and silver are archived: a rebuild gives the same tables, and the rows are restored unchanged."""
    three_days(deliver)
    lake = lakehouse()
    run(lake)
    before, names = (
        contents(lake),
        ("app_events_bronze", "app_events_silver", "clickstream_silver", "cdc_changes_bronze"),
    )
    whole = {name: all_rows(lake, name) for name in names}
    for name in names:
        report = maintenance.retention(lake, tables.get(lake, name))
        assert report.startswith(f"{name}: {len(whole[name])} rows of ")
        assert not all_rows(lake, name)
    assert not selection.pending(lake)
    assert sum(len(archive.batches(lake, tables.get(lake, name))) for name in names) == 4
    run(
        lake,
        full=True,
        tables="users_silver,daily_summary_gold,user_segments_gold,event_metrics_gold,hourly_metrics_gold",
    )
    now = contents(lake)
    for name in before:
        if name not in names:
            assert now[name] == before[name], name
    for name in names:
        assert archive.restore(lake, tables.get(lake, name))
        assert all_rows(lake, name) == whole[name]
    assert not selection.pending(lake)
    quality.check_all(lake)


def test_the_ledger_names_what_no_run_did(lakehouse, deliver):
    deliver("app_events/a.json", [event(n) for n in range(5)])
    lake = lakehouse(tables="app_events_bronze,app_events_silver")
    run(lake)
    table = tables.get(lake, "app_events_silver")
    DeltaTable(delta.table_path(lake, table)).delete("event_id = 'e1'")
    run(lake)
    archive.retire(lake, table, archive.due(lake, table, date(2028, 1, 1)))
    run(lake)
    assert archive.restore(lake, table)
    run(lake)
    all_reasons = [json.loads(r["reasons"]) for r in delta.read_ops(lake, "ledger") if r["target"] == table.name]
    reasons = [entry for entry in all_reasons if entry]
    assert sorted(reasons, key=repr) == [{"archived": -4}, {"changed_from_outside": -1}, {"restored_from_archive": 4}]


def test_late_data_for_archived_days_gives_the_same_tables(lakehouse, deliver, caplog):
    """A late event, a duplicate of an archived one, a click that joins two archived sessions."""
    three_days(deliver)
    lake = lakehouse()
    run(lake)
    assert archives(lake) and not any(work.kind == "archive" for work in maintenance.automatic(lake)), "a first load"
    names = {"app_events_bronze", "clickstream_bronze", "cdc_changes_bronze", "app_events_silver",
             "clickstream_silver", "event_metrics_gold", "hourly_metrics_gold"}  # fmt: skip
    aging = lake.model_copy(update={"retention": dict.fromkeys(names, 36_500) | {"daily_summary_gold": 0}})
    later = date(2200, 1, 1)  # by now the days have passed a retention that they had when they were loaded
    for work in maintenance.automatic(aging, later):
        maintenance.do(aging, work, later)
    assert {name for name in names if not rows(lake, name)} == names
    deliver(
        "app_events/late.json", [event(10, "2026-03-01T09:00:00Z", user_id="u0"), event(99, "2026-03-02T10:30:00Z")]
    )
    deliver(
        "clickstream/late.json", [click(99, "2026-03-02T10:10:00Z", user_id="u0"), click(98, "2026-03-02T10:01:30Z")]
    )
    deliver("cdc_changes/late.json", [change("u", 9, {"user_id": "u1"}, {"user_id": "u1", "email": "new@x.org"})])
    run(lake)
    for table in tables.declared(lake).values():
        archive.restore(lake, table)
        bookkeeping.account(lake, table)
    clean = lakehouse("clean")
    run(clean)
    assert_same(lake, clean)
    assert "OpenLineage event could not" not in caplog.text


def test_rows_that_silver_has_not_read_are_not_archived(lakehouse, deliver, capsys, monkeypatch):
    three_days(deliver)
    lake = lakehouse()
    run(lake, tables="app_events_bronze")
    table = tables.get(lake, "app_events_bronze")
    assert "kept, because" in maintenance.retention(lake, table)
    assert "app_events_silver" in maintenance.waiting(lake, table)
    (work,) = [task for task in maintenance.due(lake) if task.kind == "archive"]
    assert work.command == "lakehouse run" and len(all_rows(lake, table.name)) == 21
    run(lake, tables="app_events_silver,app_events_bronze_quarantine")
    monkeypatch.setenv("LAKEHOUSE_BASE_PATH", lake.path())
    assert cli.main(["retention", table.name]) == 0
    assert "rows before" in capsys.readouterr().out and len(all_rows(lake, table.name)) == 21
    assert cli.main(["retention", table.name, "--yes"]) == 0
    assert not all_rows(lake, table.name)
    assert cli.main(["archive"]) == 0 and "app_events_bronze" in capsys.readouterr().out
    assert cli.main(["archive", "restore", table.name]) == 0
    assert len(all_rows(lake, table.name)) == 21


def test_run_archives_rows_that_expired_in_the_table_but_not_a_first_load(lakehouse, capsys, monkeypatch):
    lake = lakehouse(retention={"event_metrics_gold": 5})
    now = datetime.now(UTC)
    history_days = [now.date() - timedelta(n) for n in (*range(6), *range(30, 1100, 90))]
    table = hours_of(lake, history_days, written=now)
    (work,) = archives(lake)
    assert work.command == "lakehouse retention event_metrics_gold" and not work.by_itself
    assert work.why.startswith("12 rows before") and "they were so when they were loaded" in work.why
    assert not maintenance.automatic(lake)
    (late,) = [finding for finding in health.report(lake).findings if finding.kind == "late archive"]
    assert (late.text, late.command) == (work.why, work.command)
    monkeypatch.setenv("LAKEHOUSE_BASE_PATH", lake.path())
    monkeypatch.setenv("LAKEHOUSE_RETENTION", json.dumps(lake.retention))
    assert cli.main(["retention", "--yes"]) == 0 and "12 rows of 12 days are in" in capsys.readouterr().out
    assert days_there(lake, table) == set(history_days[:6])
    later = now.date() + timedelta(3)  # several days at once, where no run came between
    (work,) = maintenance.automatic(lake, later)
    assert "3 rows" in work.why and "have passed its retention since they were loaded" in work.why
    assert "3 rows of 3 days are in" in maintenance.do(lake, work, later)
    assert days_there(lake, table) == set(history_days[:3]) and not archives(lake, later)
    assert sum(batch.rows for batch in archive.batches(lake, table)) == 15


def test_rows_loaded_after_they_expired_stay_until_a_user_decides(lakehouse):
    """So do rows restored from the archive, even if their files are rewritten."""
    lake = lakehouse(retention={"event_metrics_gold": 5})
    now = datetime.now(UTC)
    days = [now.date() - timedelta(n) for n in (10, 20, 30)]
    for day in days:
        table = hours_of(lake, [day], written=datetime.combine(day, datetime.min.time(), UTC))
    hours_of(lake, [days[1]], written=now - timedelta(1))
    by_run, by_hand = archives(lake)
    assert by_run.why.startswith("2 rows") and by_hand.why.startswith("2 rows") and by_run.by_itself
    assert maintenance.do(lake, by_run).startswith("event_metrics_gold: 2 rows of 2 days")
    assert archives(lake) == [by_hand] and days_there(lake, table) == {days[1]}
    archive.restore(lake, table, [days[0]])
    maintenance.optimize(lake, table, everything=True)
    (by_hand,) = archives(lake)
    assert by_hand.why.startswith("4 rows") and "came back from the archive" in by_hand.why
    assert not maintenance.automatic(lake)
    maintenance.do(lake, by_hand)
    assert not days_there(lake, table) and not archives(lake)


def test_run_does_not_archive_what_it_has_loaded_itself(lakehouse):
    """A run that began before midnight."""
    lake = lakehouse(retention={"event_metrics_gold": 5})
    now = datetime.now(UTC)
    hours_of(lake, [now.date()], written=now, run_id="r1")
    passed = now.date() + timedelta(6)
    assert maintenance.automatic(lake.model_copy(update={"run_id": "r2"}), passed)
    assert not maintenance.automatic(lake.model_copy(update={"run_id": "r1"}), passed)


def test_automatic_archiving_can_be_off_and_never_takes_unread_rows(lakehouse):
    lake = lakehouse(retention={"event_metrics_gold": 5, "app_events_silver": 5})
    days = [datetime.now(UTC).date() - timedelta(10)]
    written = datetime.combine(days[0], datetime.min.time(), UTC)
    table = hours_of(lake, days, written)
    off = lake.model_copy(update={"auto_archive": False})
    (work,) = archives(off)
    assert work.why.endswith("auto_archive is off") and not maintenance.automatic(off)
    assert [task.kind for task in maintenance.automatic(lake.model_copy(update={"auto_optimize": False}))] == [
        "archive"
    ]
    maintenance.retention(lake, table)
    silver = tables.get(lake, "app_events_silver")
    delta.ensure(lake, silver)
    event_row = {c.name: None for c in silver.columns} | {
        "event_id": "e", "event_type": "tap", "event_timestamp": written, "event_date": days[0], "event_hour": 0,
        "is_error": False, "_run_id": "r", "_processed_at": written,
    }  # fmt: skip
    write_deltalake(
        delta.table_path(lake, silver), pa.Table.from_pylist([event_row], silver.arrow_schema()), mode="append"
    )
    (work,) = archives(lake)
    assert "has not read all of it yet" in work.why and work.command == "lakehouse run"
    assert not maintenance.automatic(lake)


def test_run_with_nothing_new_archives_as_well(lakehouse, monkeypatch, capsys):
    lake = lakehouse()
    day = datetime.now(UTC).date() - timedelta(366)
    monkeypatch.setenv("LAKEHOUSE_BASE_PATH", lake.path())
    monkeypatch.setattr(selection, "pending", lambda settings: [])
    monkeypatch.setattr(health, "outdated", lambda settings: False)
    monkeypatch.setattr(landing, "check_there", lambda settings, feed: None)
    ran = []
    monkeypatch.setattr(notebooks, "execute", lambda *arguments: ran.append((arguments[1], arguments[4])))
    assert cli.main(["run"]) == 0 and not ran
    hours_of(lake, [day], datetime.combine(day, datetime.min.time(), UTC))
    assert cli.main(["run"]) == 0 and ran == [("70_maintenance", False)]
    assert "Nothing new" in capsys.readouterr().out


def test_maintenance_notebook_follows_the_parameters_file(lakehouse, tmp_path, monkeypatch):
    day = datetime.now(UTC).date() - timedelta(10)
    file = tmp_path / "own.yml"
    monkeypatch.setenv("LAKEHOUSE_BASE_PATH", lakehouse().path())
    monkeypatch.setenv("LAKEHOUSE_PARAMETERS", str(file))
    for switch, left in (("auto_archive: false", {day}), ("", set())):
        file.write_text(f"retention: {{event_metrics_gold: 5}}\n{switch}\n")
        lake = lakehouse()
        table = tables.get(lake, "event_metrics_gold")
        if not delta.exists(lake, table):
            hours_of(lake, [day], datetime.combine(day, datetime.min.time(), UTC))
        notebooks.execute(lake, notebooks.MAINTENANCE, "r1", latest=False)
        assert days_there(lake, table) == left


def test_backfill_is_kept_for_its_retention(lakehouse, deliver):
    deliver("app_events/1.json", [event(1, "2020-01-01T10:00:00Z")])  # landed today
    lake = lakehouse(tables="app_events_bronze,app_events_silver,app_events_bronze_quarantine")
    run(lake)
    assert archive.due(lake, tables.get(lake, "app_events_bronze")) is None
    assert archive.due(lake, tables.get(lake, "app_events_silver")).days == ["2020-01-01"]
    assert archive.aged(lake, tables.get(lake, "app_events_silver")) is None
    assert archive.aged(lake, tables.get(lake, "app_events_bronze"), date.today() + timedelta(40)).rows == 1
    kept = lake.model_copy(update={"retention": {"app_events_silver": 0}})
    assert archive.due(kept, tables.get(lake, "app_events_silver")) is None


def test_time_travel_across_an_archive_neither_duplicates_nor_loses_rows(lakehouse):
    lake = lakehouse(retention={"event_metrics_gold": 30})
    table = many_hours(lake, 12)
    whole = rows(lake, table.name)

    def everything() -> int:
        return len(rows(lake, table.name)) + sum(batch.rows for batch in archive.batches(lake, table))

    maintenance.retention(lake, table)
    archived = DeltaTable(delta.table_path(lake, table)).version()
    restore.restore(lake, table, 1)  # to before: its rows are there again
    assert rows(lake, table.name) == whole and everything() == 12
    maintenance.retention(lake, table)
    assert not rows(lake, table.name) and everything() == 12
    archive.restore(lake, table)
    assert rows(lake, table.name) == whole and everything() == 12
    restore.restore(lake, table, archived)  # to while they were away
    assert not rows(lake, table.name) and everything() == 12
    archive.restore(lake, table)
    assert rows(lake, table.name) == whole and everything() == 12


def test_damaged_or_missing_archive_is_reported_and_changes_nothing(lakehouse):
    lake = lakehouse(retention={"event_metrics_gold": 30})
    table = many_hours(lake, 3)
    maintenance.retention(lake, table)
    (batch,) = archive.batches(lake, table)
    file = Path(batch.folder) / batch.files[0]["path"]
    good = file.read_bytes()
    file.write_bytes(good[:-1])
    with pytest.raises(LedgerError, match="is not what was archived"):
        archive.restore(lake, table)
    file.write_bytes(good)
    Path(batch.folder).rename(batch.folder + ".away")
    with pytest.raises(TableError, match="Put the folder back"):
        archive.restore(lake, table)
    Path(batch.folder + ".away").rename(batch.folder)
    archive.restore(lake, table)
    assert len(all_rows(lake, table.name)) == 3


def test_archiving_killed_at_any_moment_loses_and_duplicates_nothing(lakehouse):
    """20 SIGKILLs while rows are archived and restored."""
    lake = lakehouse(retention={"event_metrics_gold": 30})
    table = many_hours(lake, 40)
    expected = Counter(f"e{n}" for n in range(40))
    values = {"lakehouse_base_path": lake.path(), "retention": lake.retention}
    picks, seen = random.Random(11), set()
    for number in range(20):
        worker = Worker(values, "archive", table.name)
        worker.wait_for(("restored", "archived")[number % 2])
        worker.kill_after(0.7 * picks.random() if number > 1 else 0)
        live = Counter(row["event_type"] for row in rows(lake, table.name, ["event_type"]))
        away = Counter()
        for batch in archive.batches(lake, table):
            for file in batch.files:
                away.update(pa.parquet.read_table(f"{batch.folder}/{file['path']}")["event_type"].to_pylist())
        assert live + away == expected
        seen.add((sum(live.values()), sum(away.values())))
    assert seen == {(40, 0), (0, 40)}, "the kills met one state only"
    archive.restore(lake, table)
    assert Counter(row["event_type"] for row in rows(lake, table.name, ["event_type"])) == expected
    assert reader.count(lake, table.name) == 40
