"""Compaction, vacuum, retention: no row changes, no row is lost, and what is foretold happens."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import change, click, event
from deltalake import DeltaTable, write_deltalake
from lake import assert_same, contents, rows

from lakehouse_lib import archive, catalog, cli, delta, history, maintenance, pipeline, quality, reader, tables
from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError, LedgerError, TableError

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
            deliver(f"app_events/{day}.json", events), deliver(f"clickstream/{day}.json", clicks),
            deliver(f"cdc_changes/{day}.json", [change("c", day, None, {"user_id": f"u{day}"})]),
        ):  # fmt: skip
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
    """A gold table with so many rows of March; nothing is made from it."""
    table = tables.get(settings, "event_metrics_gold")
    delta.ensure(settings, table)
    made = [{c.name: None for c in table.columns} | {
        "metric_date": datetime(2026, 3, 1 + n % 4).date(), "metric_hour": n % 24, "event_type": f"e{n}",
        "app_type": "web", "total_events": n, "unique_users": 1, "_run_id": "r",
        "_processed_at": datetime(2026, 3, 9, tzinfo=UTC),
    } for n in range(count)]  # fmt: skip
    write_deltalake(delta.table_path(settings, table), pa.Table.from_pylist(made, table.arrow_schema()), mode="append")
    return table


def data_files(settings: Settings, table: tables.Table) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in Path(delta.table_path(settings, table)).rglob("*.parquet")
            if "_delta_log" not in path.parts}  # fmt: skip


def test_many_small_files_become_one_and_no_row_changes(lakehouse):
    lake = lakehouse()
    table = many_files(lake, "app_events_silver")
    before = all_rows(lake, table.name)
    (work,) = [one for one in maintenance.due(lake) if one.kind == "compact"]
    assert work.table == table.name and work.files == 10 and "10 files below 16 MB in 1 days" in work.why
    assert maintenance.do(lake, work) == "app_events_silver: 10 files rewritten, 10 before, 1 now"
    assert all_rows(lake, table.name) == before and len(DeltaTable(delta.table_path(lake, table)).file_uris()) == 1
    assert not [one for one in maintenance.due(lake) if one.kind == "compact"]
    assert not delta.changes(delta.table_path(lake, table), 10, 11).any


def test_what_each_run_adds_to_is_compacted_as_well(lakehouse):
    lake = lakehouse()
    for _ in range(maintenance.MANY_RUNS):
        catalog.edit(lake, "users_silver", add=["gdpr"])
    (work,) = maintenance.due(lake)
    assert (work.table, work.kind) == ("ops/catalog_edits", "compact")
    assert maintenance.do(lake, work) == "ops/catalog_edits: 50 files before, 1 now"
    assert "gdpr" in catalog.describe(lake, "users_silver").tags and not maintenance.due(lake)


def test_vacuum_frees_what_it_foretold_and_keeps_time_travel(lakehouse, capsys, monkeypatch):
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
    said = maintenance.vacuum(lake, table, 0, force=True)
    after = data_files(lake, table)
    assert sum(before.values()) - sum(after.values()) == foretold and f"{foretold:,} bytes freed" in said
    assert len(all_rows(lake, table.name)) == 10


def test_a_long_log_gets_a_checkpoint(lakehouse, monkeypatch):
    lake = lakehouse()
    monkeypatch.setattr(maintenance, "LONG_LOG", 5)
    many_files(lake, "app_events_silver", 6)
    (work,) = [one for one in maintenance.due(lake) if one.kind == "checkpoint"]
    assert "7 commits since the last checkpoint, at most 5" in work.why
    maintenance.do(lake, work)
    assert not [one for one in maintenance.due(lake) if one.kind == "checkpoint"]


def test_archived_rows_are_gone_still_count_and_come_back(lakehouse, deliver):
    """Bronze and silver go to the archive: rebuilt from there, everything is as before; and the rows
    come back as they were."""
    three_days(deliver)
    lake = lakehouse()
    run(lake)
    before, names = (
        contents(lake),
        ("app_events_bronze", "app_events_silver", "clickstream_silver", "cdc_changes_bronze"),
    )
    whole = {name: all_rows(lake, name) for name in names}
    for name in names:
        said = maintenance.retention(lake, tables.get(lake, name))
        assert said.startswith(f"{name}: {len(whole[name])} rows of ")
        assert not all_rows(lake, name)
    assert not pipeline.pending(lake)
    assert sum(len(archive.batches(lake, tables.get(lake, name))) for name in names) == 4
    run(lake, full=True, tables="users_silver,daily_summary_gold,user_segments_gold,"
        "event_metrics_gold,hourly_metrics_gold")  # fmt: skip
    now = contents(lake)
    for name in before:
        if name not in names:
            assert now[name] == before[name], name
    for name in names:
        assert archive.restore(lake, tables.get(lake, name))
        assert all_rows(lake, name) == whole[name]
    assert not pipeline.pending(lake)
    quality.check_all(lake)


def test_what_comes_late_for_archived_days_gives_the_same_tables(lakehouse, deliver):
    """A late event, a duplicate of an archived one, a click that joins two archived sessions."""
    three_days(deliver)
    lake = lakehouse()
    run(lake)
    for name in ("app_events_bronze", "clickstream_bronze", "cdc_changes_bronze", "app_events_silver",
                 "clickstream_silver", "event_metrics_gold", "hourly_metrics_gold"):  # fmt: skip
        maintenance.retention(lake.model_copy(update={"retention": {name: 30}}), tables.get(lake, name))
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
    clean = lakehouse("clean")
    run(clean)
    assert_same(lake, clean)


def test_what_silver_has_not_read_stays(lakehouse, deliver, capsys, monkeypatch):
    three_days(deliver)
    lake = lakehouse()
    run(lake, tables="app_events_bronze")
    table = tables.get(lake, "app_events_bronze")
    assert "kept, because" in maintenance.retention(lake, table)
    assert "app_events_silver" in maintenance.waiting(lake, table)
    (work,) = [one for one in maintenance.due(lake) if one.kind == "archive"]
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


def test_a_backfill_of_old_days_stays_its_time(lakehouse, deliver):
    deliver("app_events/1.json", [event(1, "2020-01-01T10:00:00Z")])  # landed today
    lake = lakehouse(tables="app_events_bronze,app_events_silver,app_events_bronze_quarantine")
    run(lake)
    assert archive.due(lake, tables.get(lake, "app_events_bronze")) is None
    assert archive.due(lake, tables.get(lake, "app_events_silver")).days == ["2020-01-01"]
    kept = lake.model_copy(update={"retention": {"app_events_silver": 0}})
    assert archive.due(kept, tables.get(lake, "app_events_silver")) is None


def test_time_travel_over_an_archive_neither_doubles_nor_loses_rows(lakehouse):
    lake = lakehouse(retention={"event_metrics_gold": 30})
    table = many_hours(lake, 12)
    whole = rows(lake, table.name)

    def everything() -> int:
        return len(rows(lake, table.name)) + sum(batch.rows for batch in archive.batches(lake, table))

    maintenance.retention(lake, table)
    archived = DeltaTable(delta.table_path(lake, table)).version()
    history.restore(lake, table, 1)  # to before: its rows are there again
    assert rows(lake, table.name) == whole and everything() == 12
    maintenance.retention(lake, table)
    assert not rows(lake, table.name) and everything() == 12
    archive.restore(lake, table)
    assert rows(lake, table.name) == whole and everything() == 12
    history.restore(lake, table, archived)  # to while they were away
    assert not rows(lake, table.name) and everything() == 12
    archive.restore(lake, table)
    assert rows(lake, table.name) == whole and everything() == 12


def test_a_spoilt_or_lost_archive_is_told_and_changes_nothing(lakehouse):
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


def test_killed_at_any_moment_no_row_is_lost_or_doubled(lakehouse):
    """20 SIGKILLs while rows go to the archive and come back."""
    lake = lakehouse(retention={"event_metrics_gold": 30})
    table = many_hours(lake, 40)
    expected = Counter(f"e{n}" for n in range(40))
    given = json.dumps({"lakehouse_base_path": lake.path(), "retention": lake.retention})
    picks, seen = random.Random(11), set()
    for _ in range(20):
        command = [sys.executable, "tests/worker.py", given, "archive", table.name]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert worker.stdout.readline() == "ready\n"
        time.sleep(0.7 * picks.random())
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
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
