"""Landing files: every format, each file exactly once, and errors that name the file."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import click, event
from deltalake import DeltaTable
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from lake import assert_same, commits, rows, versions

from lakehouse_lib import cli, config, sample
from lakehouse_lib.care import health, restore
from lakehouse_lib.catalog import catalog
from lakehouse_lib.errors import LakehouseError, LandingError
from lakehouse_lib.flow import ledger, pipeline, selection
from lakehouse_lib.intake import landing
from lakehouse_lib.layers import loading, loads
from lakehouse_lib.model import tables
from lakehouse_lib.storage import archive, delta, reader

BRONZE = {"tables": "app_events_bronze,app_events_bronze_quarantine"}


def load(settings):
    return pipeline.run(settings, "bronze", progress=lambda line: None)


def as_csv(records, names):
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


def test_every_format_is_loaded_with_columns_by_name(lakehouse, deliver, tmp_path):
    names = ["event_id", "event_type", "event_timestamp", "user_id", "properties"]
    events = [event(n, properties=json.dumps({"value": n})) for n in range(14)]
    deliver("app_events/a.json", events[0:2])
    deliver("app_events/deep/er/b.jsonl.gz", events[2:4])
    deliver(
        "app_events/c.ndjson.zst",
        [zstandard.compress(b"".join(json.dumps(r).encode() + b"\n" for r in events[4:6]))],
    )
    deliver("app_events/d.csv", [as_csv(events[6:8], names)])
    deliver("app_events/e e+%41[1].csv.gz", [as_csv(events[8:10], names[::-1])])
    pq.write_table(pa.Table.from_pylist(events[10:12]), tmp_path / "landing/app_events/f.parquet")
    typed = [
        r | {"event_timestamp": pa.scalar(1772445600000000, pa.timestamp("us", "UTC")).as_py()} for r in events[12:]
    ]
    pq.write_table(pa.Table.from_pylist(typed), tmp_path / "landing/app_events/g.parquet")
    for ignored in ("_tmp/x.json", ".hidden.json", "y.json.tmp", "notes.txt"):
        deliver(f"app_events/{ignored}", ["not for us"])
    lake = lakehouse(**BRONZE)
    load(lake).check()
    actual = rows(
        lake,
        "app_events_bronze",
        ["event_id", "user_id", "event_timestamp", "event_properties", "_quality_flags"],
    )
    assert [r["event_id"] for r in actual] == sorted(r["event_id"] for r in events)
    assert {r["user_id"] for r in actual} == {"ann"}
    assert [r for r in actual if r["_quality_flags"]] == []
    assert {str(r["event_timestamp"]) for r in actual} == {"2026-03-02 10:00:00+00:00"}
    assert {json.loads(r["event_properties"])["value"] for r in actual} == set(range(14))
    assert set(reader.query(lake, "SELECT DISTINCT _source_file f FROM app_events_bronze").f) == {
        "a.json", "deep/er/b.jsonl.gz", "c.ndjson.zst", "d.csv", "e e+%41[1].csv.gz", "f.parquet", "g.parquet",
    }  # fmt: skip


def test_file_is_loaded_once_under_any_name(lakehouse, deliver):
    first = deliver("app_events/a.json", [event(1), event(2)])
    lake = lakehouse(**BRONZE)
    load(lake).check()
    os.utime(first)  # delivered again: same name, same content
    deliver("app_events/b.json", [event(1), event(2)])
    result = load(lake)
    result.check()
    assert len(rows(lake, "app_events_bronze")) == 2
    assert result.steps[0].counts["duplicate"] == 2
    before = versions(lake)
    assert selection.pending(lake) == []
    load(lake).check()
    assert versions(lake) == before


def test_new_content_under_an_old_name_is_an_error(lakehouse, deliver):
    deliver("app_events/a.json", [event(1)])
    lake = lakehouse(**BRONZE)
    load(lake).check()
    deliver("app_events/a.json", [event(1), event(2)])
    deliver("app_events/b.json", [event(3)])
    for _ in range(2):  # it is said until somebody acts
        with pytest.raises(LandingError, match=r"app_events/a\.json changed after it was loaded"):
            load(lake).check()
    assert [r["event_id"] for r in rows(lake, "app_events_bronze")] == ["e1", "e3"]
    deliver("app_events/c.json", [event(2)])
    (lake_file := deliver("app_events/a.json", [event(1)]))
    assert lake_file.exists()
    load(lake).check()
    assert [r["event_id"] for r in rows(lake, "app_events_bronze")] == ["e1", "e2", "e3"]


@pytest.mark.parametrize("kind", ["gz", "zst", "parquet"])
def test_broken_file_is_left_out_and_the_others_are_loaded(lakehouse, deliver, tmp_path, kind):
    lines = "".join(json.dumps(event(n)) + "\n" for n in range(3000)).encode()
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([event(n) for n in range(3000)]), tmp_path / "whole")
        whole = (tmp_path / "whole").read_bytes()
    else:
        whole = gzip.compress(lines) if kind == "gz" else zstandard.compress(lines)
    name = "cut.parquet" if kind == "parquet" else f"cut.json.{kind}"
    target = tmp_path / "landing/app_events" / name
    target.parent.mkdir(parents=True)
    target.write_bytes(whole[: len(whole) // 2])
    deliver("app_events/good.json", [event(1)])
    lake = lakehouse(**BRONZE)
    with pytest.raises(LandingError, match=name.replace(".", r"\.")):
        load(lake).check()
    assert [r["event_id"] for r in rows(lake, "app_events_bronze")] == ["e1"]
    target.unlink()
    deliver("app_events/again.json", [lines])
    load(lake).check()
    assert len(rows(lake, "app_events_bronze")) == 3001


def test_required_field_missing_everywhere_fails_the_feed(lakehouse, deliver):
    deliver("app_events/a.json", [{"id": n, "what": "tap", "event_timestamp": "2026-03-02"} for n in range(20)])
    lake = lakehouse(**BRONZE)
    with pytest.raises(
        Exception,
        match=r"no record .* has a usable event_id, event_type; the records hold event_timestamp, id, what",
    ):
        load(lake).check()
    assert rows(lake, "app_events_bronze") == []
    mapped = lakehouse(**BRONZE, feeds={"app_events": {"select": {"event_id": "id", "event_type": "what"}}})
    load(mapped).check()
    assert len(rows(mapped, "app_events_bronze")) == 20


def test_fields_of_new_files_are_known_without_spark(lakehouse, deliver):
    deliver("app_events/a.json.gz", [event(1), {"odd": 1}])
    deliver("app_events/b.csv", [as_csv([event(2)], list(event(2)))])
    lake = lakehouse(**BRONZE)
    actual = loads.next_load(lake, tables.get(lake, "app_events_bronze"), "run")
    assert {file.path: (file.records, set(file.names)) for file in actual.files} == {
        "a.json.gz": (2, {*event(1), "odd"}),
        "b.csv": (1, set(event(2))),
    }


def test_invalid_records_are_kept_and_explained(lakehouse, deliver):
    huge = json.dumps(event(1, properties={"text": "x" * 25_000_000}))
    lines = {
        b'{"event_id": "a"': "malformed_record",
        b"\xff\xfe\x00 no utf-8": "invalid_utf8",
        b'{"event_id": "a", "event_id": "b", "event_type": "t", "event_timestamp": 1772445600}': "ambiguous_fields",
        b'{"ID": 1, "Id": 2}': "ambiguous_fields",
        b'{"event_id": "c\x01", "event_type": "t", "event_timestamp": 1772445600}': "malformed_record",
        b'{"event_id": "d", "event_type": "t", "event_timestamp": ""}': "missing_event_timestamp",
        b'{"event_id": null, "event_type": "t", "event_timestamp": 1772445600}': "missing_event_id",
        b'{"event_id": "f", "event_type": "t", "event_timestamp": 1772445600, "properties": {"value": NaN}}': (
            "malformed_record"
        ),
        b"null": "malformed_record",
        b"{}": "missing_event_id",
        huge.encode(): "invalid_properties",
    }
    long = event(2, event_type="t" * 300)
    deliver("app_events/garbage.json", [*(line + b"\n" for line in lines), long, b"\n", b"   \n"])
    lake = lakehouse(**BRONZE)
    load(lake).check()
    kept = reader.query(lake, "SELECT record, reasons, explanation FROM app_events_bronze_quarantine")
    assert len(kept) == len(lines)
    by_record = {row.record: row for row in kept.itertuples()}
    for line, reason in lines.items():
        text = f"base64:{base64.b64encode(line).decode()}" if b"\xff" in line else line.decode()
        assert reason in by_record[text].reasons, (line, by_record[text].reasons)
        assert len(by_record[text].explanation) > 10
    good = rows(lake, "app_events_bronze", ["event_id", "event_type", "_quality_flags"])
    assert {"e2"} == {r["event_id"] for r in good if not r["_quality_flags"]}


# A file is the unit of failure --------------------------------------------------

LINE = json.dumps(event(7)).encode() + b"\n"
HEADER = b"event_id,event_type,event_timestamp,user_id\n"
BAD_FILES = {
    "zero.csv": b"",
    "twice.csv": HEADER.replace(b"user_id", b"event_id") + b"a,b,c,d\n",
    "latin_header.csv": HEADER.replace(b"user_id", b"gr\xf6\xdfe") + b"a,b,c,d\n",
    "latin_row.csv": HEADER + b"a,K\xf6ln,2026-03-02,d\n",
    "cut.json.gz": gzip.compress(LINE * 500)[:-20],
    "crc.json.gz": gzip.compress(LINE)[:-8] + b"\0" * 8,
    "garbage.json.gz": gzip.compress(LINE) + b"garbage",
    "twice.json.gz": gzip.compress(gzip.compress(LINE)),
    "plain.json.gz": LINE,
    "cut.json.zst": zstandard.compress(LINE * 500)[:-9],
    "zero.parquet": b"",
    "cut.parquet": b"PAR1" + b"\0" * 40,
    "cut_array.json": b"[\n" + LINE.strip() + b",\n" + LINE,
    "utf16.json": LINE.decode().encode("utf-16")[:-1],
    "utf16_copy.json": LINE.decode().encode("utf-16")[:-1],
}


@pytest.fixture(scope="module")
def with_bad_files(engine, tmp_path_factory):
    """A lakehouse that has loaded valid files beside invalid ones of every kind."""
    base = tmp_path_factory.mktemp("bad")
    settings = config.load({"lakehouse_base_path": str(base / "lake"), "landing_path": str(base / "landing"),
                            "spark_master": engine, "sample": {"rows": 0}, **BRONZE})  # fmt: skip
    folder = base / "landing/app_events"
    folder.mkdir(parents=True)
    for name, content in BAD_FILES.items():
        (folder / name).write_bytes(content)
    for n in range(3):
        (folder / f"good{n}.json").write_text(json.dumps(event(n)) + "\n")
    (folder / "folder.json").mkdir()
    (folder / "folder.json/good3.csv").write_bytes(as_csv([event(3)], list(event(3))))
    (folder / "notes.txt").write_text("not for us")
    return settings, load(settings)


def test_bad_files_are_set_aside_and_the_others_are_loaded_in_the_same_run(with_bad_files):
    lake, result = with_bad_files
    assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e0", "e1", "e2", "e3"]
    listed = reader.query(lake, "SELECT path, state, reason FROM ops_landing_files")
    assert {row.path for row in listed.itertuples() if row.state == "set_aside"} == set(BAD_FILES)
    assert all(row.reason for row in listed.itertuples() if row.state == "set_aside")
    assert {row.path for row in listed.itertuples() if row.state == "loaded"} == {
        "good0.json", "good1.json", "good2.json", "folder.json/good3.csv"}  # fmt: skip
    assert result.steps[0].notes == ["app_events: ignored, because their names do not end in a known format: notes.txt"]
    problems = "\n".join(result.problems)
    for name in BAD_FILES:
        assert f"app_events/{name} cannot be read: " in problems
    assert "Traceback" not in problems and "0xf6 in line 2" in problems


def test_file_set_aside_is_reported_until_fixed_and_blocks_nothing(with_bad_files):
    lake, _ = with_bad_files
    before = versions(lake)
    assert selection.pending(lake) == [] and not list(Path(lake.path("ops/staging")).iterdir())
    with pytest.raises(LandingError, match=r"app_events/zero\.csv cannot be read"):
        selection.stop_on_files(lake)
    with pytest.raises(LandingError, match=r"app_events/zero\.csv cannot be read"):
        load(lake).check()
    assert versions(lake) == before
    actual = {
        finding.text.split(" ")[0]: finding.command
        for finding in health.report(lake).findings
        if finding.kind == "file set aside"
    }
    assert set(actual) == {f"app_events/{name}" for name in BAD_FILES}
    folder = lake.feed_path("app_events")
    assert actual["app_events/zero.csv"] == f"mv {folder}/zero.csv {folder}/_zero.csv && lakehouse run"
    for command in actual.values():  # what is proposed keeps the file
        subprocess.run(command.removesuffix(" && lakehouse run"), shell=True, check=True)
    selection.stop_on_files(lake)
    (Path(folder) / "good4.json").write_text(json.dumps(event(4)) + "\n")
    load(lake).check()
    assert len(rows(lake, "app_events_bronze")) == 5
    states = reader.query(lake, "SELECT DISTINCT state FROM ops_landing_files ORDER BY state").state.tolist()
    assert states == ["ignored", "loaded", "removed"]
    assert [finding for finding in health.report(lake).findings if finding.kind == "file set aside"] == []


def test_file_that_cannot_be_opened_is_tried_again(lakehouse, deliver, monkeypatch):
    deliver("app_events/a.json", [event(1)])
    locked = deliver("app_events/b.json", [event(2)])
    honest = landing.opened

    def refused(settings, feed, file):
        if file.path == "b.json":
            raise PermissionError(13, "Permission denied")
        return honest(settings, feed, file)

    lake = lakehouse(**BRONZE)
    monkeypatch.setattr(landing, "opened", refused)
    with pytest.raises(LandingError, match=r"app_events/b\.json could not be loaded: Permission denied"):
        load(lake).check()
    assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e1"]
    monkeypatch.setattr(landing, "opened", honest)
    assert locked.exists() and "app_events_bronze" in selection.pending(lake)
    load(lake).check()
    assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e1", "e2"]


def test_unlistable_folder_is_reported_and_link_cycles_end(lakehouse, deliver, tmp_path, monkeypatch):
    deliver("app_events/a.json", [event(1)])
    deliver("app_events/closed/b.json", [event(2)])
    (tmp_path / "landing/app_events/again").symlink_to(tmp_path / "landing/app_events")
    honest = os.scandir

    def refused(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return honest(path)

    lake = lakehouse(**BRONZE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refused)
        assert [file.path for file in landing.list_files(lake, "app_events")] == ["a.json", "closed/"]
        with pytest.raises(LandingError, match=r"app_events/closed/ could not be loaded: Permission denied"):
            load(lake).check()
    load(lake).check()
    assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e1", "e2"]


def test_record_that_the_engine_cannot_compute_fails_only_its_file(lakehouse, deliver):
    deliver("app_events/a.json", [event(1, x="1"), event(2, x="2")])
    deliver("app_events/b.json", [event(n, x="seven" if n == 5 else "7") for n in range(3, 9)])
    lake = lakehouse(**BRONZE, feeds={"app_events": {"select": {"session_id": "cast(x AS int)"}}})
    with pytest.raises(
        LandingError, match=r"app_events/b\.json could not be loaded: its record 3 cannot be computed: .*seven"
    ):
        load(lake).check()
    assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e1", "e2"]


def test_mismatch_between_read_and_written_records_sets_the_file_aside(lakehouse, deliver, monkeypatch):
    deliver("app_events/a.json", [event(1), event(2), {"event_id": "e3"}])
    deliver("app_events/b.json", [event(4), event(5), {"event_id": "e6"}])
    honest = loading.bronze_rows

    def lossy(settings, table, records, run_id):
        return honest(settings, table, records, run_id).where("event_id <> 'e5'")

    lake = lakehouse(tables="app_events_bronze,app_events_bronze_quarantine,app_events_silver")
    monkeypatch.setattr(loading, "bronze_rows", lossy)
    with pytest.raises(LandingError, match=r"b\.json cannot be read: it holds 3 records, and 2 arrived in the table"):
        pipeline.run(lake, progress=lambda line: None).check()
    for _ in range(2):
        assert [row["event_id"] for row in rows(lake, "app_events_silver")] == ["e1", "e2"]
        assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e1", "e2", "e3"]
        assert len(rows(lake, "app_events_bronze_quarantine")) == 1
        sums = reader.query(
            lake,
            "SELECT sum(records_read)::INT r, sum(accepted)::INT a, sum(quarantined)::INT q "
            "FROM ops_ledger WHERE target = 'app_events_bronze'",
        )
        assert sums.iloc[0].tolist() == [3, 2, 1]
        pipeline.run(lake, progress=lambda line: None)


def test_a_row_of_a_file_that_was_not_loaded_is_taken_back(lakehouse, deliver, monkeypatch):
    deliver("app_events/a.json", [event(1), event(2)])
    from pyspark.sql import functions as F

    honest = loading.bronze_rows

    def mistaken(settings, table, records, run_id):
        rows = honest(settings, table, records, run_id)
        source = F.when(F.col("event_id") == "e2", "app_events/other.json").otherwise(F.col("_source_file"))
        return rows.withColumn("_source_file", source)

    lake = lakehouse(**BRONZE)
    monkeypatch.setattr(loading, "bronze_rows", mistaken)
    with pytest.raises(LandingError, match=r"a\.json cannot be read: it holds 2 records, and 1 arrived"):
        load(lake).check()
    assert rows(lake, "app_events_bronze") == []


def test_the_ledger_covers_each_version_and_row_of_a_table(lakehouse, deliver):
    lake = lakehouse(**BRONZE)
    for number in (1, 2):
        deliver(f"app_events/{number}.json", [event(n) for n in range(number)])
        load(lake).check()
    opened = delta.opened(lake, tables.get(lake, "app_events_bronze"))
    assert ledger.last_accounted(lake)[str(opened.metadata().id)] == (opened.version(), 3)


# Loaded files --------------------------------------------------------------------


def test_good_file_of_a_failed_load_is_loaded_by_the_next_run(lakehouse, deliver):
    deliver("app_events/good.json", [event(1)])
    bad = deliver("app_events/zero.csv", [])
    lake = lakehouse(**BRONZE)
    with pytest.raises(LandingError, match=r"zero\.csv cannot be read: it has no header"):
        load(lake).check()
    bad.unlink()
    deliver("app_events/new.json", [event(2)])
    load(lake).check()
    full = lake.model_copy(update={"full": True})
    for settings in (lake, full):
        load(settings).check()
        assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e1", "e2"]


def test_load_is_planned_again_if_another_run_committed_first(lakehouse, deliver, monkeypatch):
    """Two machines: one lists f1; f2 lands; the other loads both; the first commits."""
    deliver("app_events/f1.json", [event(1)])
    lake = lakehouse(**BRONZE)
    honest, overtaken = loads.next_load, []

    def late(settings, *arguments):
        planned = honest(settings, *arguments)
        if not overtaken:
            overtaken.append(planned.id)
            deliver("app_events/f2.json", [event(2), event(3)])
            load(lake).check()
            deliver("app_events/f3.json", [event(4)])
        return planned

    monkeypatch.setattr(loads, "next_load", late)
    load(lake).check()
    assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e1", "e2", "e3", "e4"]
    committed = [delta.says(commit).get("load") for commit in commits(lake, tables.get(lake, "app_events_bronze"))]
    assert len(committed) == 3 and overtaken[0] not in committed
    ledger = reader.query(lake, "SELECT sum(records_read)::INT r FROM ops_ledger WHERE target = 'app_events_bronze'")
    assert ledger.r[0] == 4


@pytest.mark.parametrize("lost", ["nothing", "landing_files", "landing_files and log"])
def test_loaded_files_are_known_from_the_table_alone(lakehouse, deliver, monkeypatch, lost):
    for n in range(2):
        deliver(f"app_events/{n}.json", [event(n)])
    lake = lakehouse(**BRONZE)
    bronze = tables.get(lake, "app_events_bronze")
    with monkeypatch.context() as patch:  # killed after the commit, before anything is written down
        patch.setattr(landing, "settle", lambda *_: None)
        load(lake)
    if lost != "nothing":
        shutil.rmtree(Path(lake.path("ops/landing_files")), ignore_errors=True)
    if lost.endswith("log"):
        opened = DeltaTable(delta.table_path(lake, bronze))
        opened.alter.set_table_properties({"delta.checkpointInterval": "10"})  # the last commit's entry stays
        opened.create_checkpoint()
        (Path(opened.table_uri.removeprefix("file://")) / f"_delta_log/{1:020d}.json").unlink()
    assert landing.pending_files(lake, bronze) == []
    deliver("app_events/2.json", [event(2)])
    load(lake)
    assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e0", "e1", "e2"]
    load(lake)
    assert len(rows(lake, "app_events_bronze")) == 3
    again = reader.query(lake, "SELECT path, state FROM ops_landing_files ORDER BY path")
    assert set(again.path[again.state == "loaded"]) >= {"2.json"}


def test_files_with_archived_rows_are_not_loaded_again(lakehouse, deliver):
    os.utime(deliver("app_events/a.json", [event(1)]), (1772445600, 1772445600))
    lake = lakehouse(**BRONZE)
    load(lake).check()
    bronze = tables.get(lake, "app_events_bronze")
    archive.retire(lake, bronze, archive.due(lake, bronze))
    assert rows(lake, "app_events_bronze") == []
    shutil.rmtree(lake.path("ops/landing_files"))
    opened = DeltaTable(delta.table_path(lake, bronze))
    opened.create_checkpoint()
    (Path(opened.table_uri.removeprefix("file://")) / f"_delta_log/{1:020d}.json").unlink()
    assert landing.pending_files(lake, bronze) == []


def test_removed_table_is_loaded_again(lakehouse, deliver):
    deliver("app_events/a.json", [event(1)])
    lake = lakehouse(**BRONZE)
    load(lake).check()
    shutil.rmtree(lake.path("bronze/app_events_bronze"))
    load(lake).check()
    assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e1"]


def test_many_files_are_loaded_in_parts_and_copies_count_once(lakehouse, deliver, monkeypatch):
    monkeypatch.setattr(loads, "AT_ONCE", 2)
    for n in range(5):
        deliver(f"app_events/{n}.json", [event(n), event(n + 10)])
    deliver("app_events/copy.json", [event(4), event(14)])
    deliver("app_events/empty.json", [])
    lake = lakehouse(**BRONZE)
    result = load(lake)
    result.check()
    assert len(rows(lake, "app_events_bronze")) == 10
    assert {name: result.steps[0].counts[name] for name in ("records_read", "accepted", "duplicate")} == {
        "records_read": 12,
        "accepted": 10,
        "duplicate": 2,
    }
    states = reader.query(lake, "SELECT state, count(*)::INT n FROM ops_landing_files GROUP BY state")
    assert dict(zip(states.state, states.n, strict=True)) == {"loaded": 6, "duplicate": 1}


def test_withdrawn_files_stay_out_until_a_restore_brings_them_back(lakehouse, deliver):
    deliver("app_events/a.json", [event(1)])
    lake = lakehouse(**BRONZE)
    load(lake).check()
    deliver("app_events/b.json", [event(2)])
    load(lake).check()
    bronze = tables.get(lake, "app_events_bronze")
    first, second = (DeltaTable(delta.table_path(lake, bronze)).version() - n for n in (1, 0))
    restore.restore(lake, bronze, first)
    assert landing.pending_files(lake, bronze) == []
    load(lake.model_copy(update={"full": True}))
    assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e1"]
    restore.restore(lake, bronze, second)
    load(lake).check()
    assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e1", "e2"]
    states = reader.query(lake, "SELECT path, state FROM ops_landing_files ORDER BY path")
    assert states.state.tolist() == ["loaded", "loaded"]


# What is a person's own ------------------------------------------------------------


def test_missing_landing_folder_is_reported_and_not_created(lakehouse, tmp_path):
    lake = lakehouse(landing_path=str(tmp_path / "mistyped"), sample={"rows": 50})
    with pytest.raises(LakehouseError, match=rf"The landing folder {tmp_path}/mistyped does not exist"):
        load(lake).check()
    assert not (tmp_path / "mistyped").exists()
    custom = lakehouse("own", feeds={"clickstream": {"path": str(tmp_path / "nowhere")}})
    (tmp_path / "landing").mkdir()
    with pytest.raises(LakehouseError, match=r"/nowhere does not exist. Create it or correct feeds.clickstream.path"):
        load(custom).check()


def test_sample_is_written_only_to_an_empty_lakehouse_with_the_default_landing_folder(tmp_path, lakehouse, deliver):
    base = {"lakehouse_base_path": str(tmp_path / "new"), "sample": {"rows": 50, "days": 1}}
    fresh = config.load(base)
    assert sample.wanted(fresh) and not sample.is_sample(fresh)
    assert not sample.wanted(config.load(base | {"landing_path": str(tmp_path / "mine")}))
    assert not sample.wanted(config.load(base | {"sample": {"rows": 0}}))
    sample.write_landing(fresh)
    assert sample.is_sample(fresh) and not sample.wanted(fresh)
    assert "sample" in catalog.describe(fresh, "app_events_bronze").tags
    assert "(sample input)" in health.report(fresh).text()
    other = config.load(base | {"lakehouse_base_path": str(tmp_path / "other")})
    delta.ensure(other, tables.get(other, "app_events_silver"))  # tables, and landing was emptied
    assert not sample.wanted(other)
    mine = config.load(base | {"lakehouse_base_path": str(tmp_path / "third")})
    deliver("clickstream/a.json", [event(1)], tmp_path / "third/landing")
    assert not sample.wanted(mine) and not sample.is_sample(mine)


def test_command_finds_its_workbook_from_any_folder(tmp_path, monkeypatch):
    checkout = Path(config.__file__).parents[1]
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "parameters").mkdir()  # another project's
    monkeypatch.chdir(tmp_path)
    assert config.project_root() == checkout
    assert config.load().path() == str(checkout / "data")
    assert config.load().sample.rows == 200_000  # of the workbook's own parameters


# Several machines, any files ---------------------------------------------------------

ROUNDS = int(os.environ.get("LAKEHOUSE_TEST_ROUNDS", "8"))


def test_concurrent_loads_lose_and_duplicate_nothing(lakehouse, deliver, tmp_path):
    """Two processes that do not share a lock, with pauses at random; files land while they run."""
    lake = lakehouse(**BRONZE)
    (tmp_path / "landing/app_events").mkdir(parents=True)
    values = {name: getattr(lake, name) for name in ("lakehouse_base_path", "landing_path", "spark_master", "tables")}
    machines = []
    for seed in ("one", "other"):
        (tmp_path / seed).mkdir()
        machines.append(subprocess.Popen(
            [sys.executable, "tests/loader.py", json.dumps(values | {"sample": {"rows": 0}}), seed],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path / seed)},
        ))  # fmt: skip
    try:
        for machine in machines:
            assert machine.stdout.readline() == "ready\n"
        chance, number = random.Random(7), 0
        for _ in range(ROUNDS):
            for machine in machines:
                for _ in range(chance.randrange(3)):
                    records = [event(n) for n in range(number, number + chance.randrange(1, 4))]
                    deliver(f"app_events/{number}.json", records)
                    number += len(records)
                time.sleep(chance.choice([0, 0.1, 0.4]))
                machine.stdin.write("run\n")
                machine.stdin.flush()
            assert [json.loads(machine.stdout.readline()) for machine in machines] == [[], []]
    finally:
        for machine in machines:
            machine.stdin.close()
            machine.wait(timeout=60)
    load(lake).check()
    clean = lakehouse("clean", **BRONZE)
    load(clean).check()
    assert_same(lake, clean)
    assert len(rows(lake, "app_events_bronze")) == number
    query = "SELECT sum(records_read)::INT r, sum(accepted)::INT a FROM ops_ledger WHERE target = 'app_events_bronze'"
    sums = [reader.query(settings, query).iloc[0].tolist() for settings in (lake, clean)]
    assert sums[0] == sums[1] == [number, number]
    files = reader.query(lake, "SELECT count(*)::INT n, count(DISTINCT path)::INT d FROM ops_landing_files")
    assert files.n[0] == files.d[0]


EXTREMES = st.sampled_from(
    [1e30, 1e250, -1e300, 1e-300, 10**40, "1e400", "12f", "NaN", "", None, True, [1], {"a": 1}, 2**63]
)
RECORD = st.one_of(
    st.builds(lambda n, value: json.dumps(event(n, properties={"value": value, "duration_ms": value})).encode(),
              st.integers(0, 9), st.one_of(EXTREMES, st.integers(0, 9))),
    st.builds(lambda n, at: json.dumps(event(n, at)).encode(), st.integers(0, 9),
              st.sampled_from(["2026-03-02T10:00:00.123456Z", 1772445600.5, "0001-01-01", "9999-12-31", "soon"])),
    st.integers(0, 9).map(lambda n: json.dumps(event(n)).encode() * 2),
    st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"")),
)  # fmt: skip


@st.composite
def files(draw) -> tuple[str, bytes]:
    """A file of any format: valid, with invalid records, truncated, compressed, or not of that format at all."""
    lines = b"\n".join(draw(st.lists(RECORD, max_size=5)))
    kind = draw(st.sampled_from(["json", "json", "json.gz", "json.zst", "csv", "parquet", "array"]))
    if kind == "csv":
        lines = as_csv([event(n) for n in draw(st.lists(st.integers(0, 9), max_size=3))], list(event(1)))
    elif kind == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([event(n) for n in draw(st.lists(st.integers(0, 9), min_size=1))]), sink)
        lines = sink.getvalue()
    elif kind == "array":
        kind, lines = (
            "json",
            b"[" + b",\n".join(json.dumps(event(n)).encode() for n in range(draw(st.integers(1, 3)))) + b"]",
        )
    data = {"json.gz": gzip.compress, "json.zst": zstandard.compress}.get(kind, bytes)(lines)
    if draw(st.integers(0, 4)) == 0:
        data = data[: draw(st.integers(0, max(0, len(data) - 1)))]
    return kind, data


@hypothesis_settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(made=st.lists(files(), min_size=12, max_size=40), data=st.data())
def test_files_in_several_runs_give_the_tables_of_one_run(engine, tmp_path_factory, made, data):
    base = tmp_path_factory.mktemp("any")
    names = "app_events_bronze,app_events_bronze_quarantine,app_events_silver"
    parts, once = (config.load({
        "lakehouse_base_path": str(base / name), "landing_path": str(base / "landing" / name), "spark_master": engine,
        "sample": {"rows": 0}, "tables": names,
    }) for name in ("parts", "once"))  # fmt: skip

    def put(settings, number, kind, content, suffix=""):
        target = Path(settings.feed_path("app_events")) / f"{number:02d}{suffix}.{kind}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    for batch in (
        data.draw(st.permutations(range(len(made)))),
        data.draw(st.lists(st.integers(0, len(made) - 1), max_size=4)),
    ):
        for place, number in enumerate(batch):
            put(parts, number, *made[number], suffix="-again" if len(batch) < 5 else "")
            if place in (len(batch) // 2, len(batch) - 1):
                pipeline.run(parts, progress=lambda line: None)
    for number, (kind, content) in enumerate(made):
        put(once, number, kind, content)
    wrong = pipeline.run(once, progress=lambda line: None)
    assert [step.message for step in wrong.steps if step.state == "failed"] == []
    # Copies that came later are duplicates by file; rows of records are the same.
    assert rows(parts, "app_events_silver") == rows(once, "app_events_silver")
    for settings in (parts, once):
        listed = {file.path for file in landing.list_files(settings, "app_events")}
        files_table = reader.query(settings, "SELECT path, state, records FROM ops_landing_files")
        assert listed == set(files_table.path) and set(files_table.state) <= {"loaded", "duplicate", "set_aside"}
        sums = reader.query(
            settings,
            "SELECT sum(records_read)::INT r, sum(accepted)::INT a, sum(duplicate)::INT d, "
            "sum(quarantined)::INT q FROM ops_ledger WHERE target = 'app_events_bronze'",
        ).iloc[0]
        held = files_table[files_table.state.isin(["loaded", "duplicate"])].records.sum()
        assert sums.r == sums.a + sums.d + sums.q == held
        assert sums.a + sums.q == reader.count(settings, "app_events_bronze")
        for path in files_table.path[files_table.state == "set_aside"]:
            (Path(settings.feed_path("app_events")) / path).unlink()
        selection.stop_on_files(settings)
        pipeline.run(settings, progress=lambda line: None).check()


def test_numbers_beyond_the_bounds_do_not_fail_a_table(lakehouse, deliver):
    deliver("app_events/a.json", [event(1, properties={"value": 1e30}), event(2, properties={"value": 1e15}),
                                  event(3, properties={"value": -1e-300, "duration_ms": 9e15})])  # fmt: skip
    deliver("clickstream/a.json", [click(1, response_time_ms=1e250), click(2, response_time_ms=1e15)])
    lake = lakehouse()
    pipeline.run(lake, progress=lambda line: None).check()
    reasons = reader.query(lake, "SELECT table_name, reasons[1] r FROM quarantine ORDER BY 1, 2").to_numpy().tolist()
    assert reasons == [
        ["app_events_bronze", "invalid_properties.duration_ms"],
        ["app_events_bronze", "invalid_properties.value"],
        ["clickstream_bronze", "invalid_response_time_ms"],
    ]
    (hour,) = rows(lake, "event_metrics_gold")
    assert hour["sum_event_value"] == 1e15
    bounds = {(table.name, name) for table in tables.declared(lake).values() for name in table.bounds}
    assert ("app_events_bronze", "event_properties.value") in bounds


# What reviews found ------------------------------------------------------------------


def test_rebuild_keeps_rows_of_a_file_that_can_no_longer_be_read(lakehouse, deliver):
    for n in range(2):
        deliver(f"app_events/{n}.json.gz", [event(n)])
    lake = lakehouse(**BRONZE)
    load(lake).check()
    broken = deliver("app_events/0.json.gz", [event(0)])
    os.truncate(broken, broken.stat().st_size - 4)
    for full in (True, False):
        result = load(lake.model_copy(update={"full": full}))
        assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e0", "e1"]
        assert "app_events/0.json.gz changed after it was loaded" in result.problems[0]
    broken.unlink()
    load(lake.model_copy(update={"full": True})).check()
    assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e0", "e1"]


def test_withdrawn_content_is_loaded_again_only_under_a_new_name(lakehouse, deliver):
    deliver("app_events/a.json", [event(1)])
    lake = lakehouse(**BRONZE)
    load(lake).check()
    for name in ("first", "copy"):
        deliver(f"app_events/{name}.json", [event(2)])
        load(lake).check()
    bronze = tables.get(lake, "app_events_bronze")
    restore.restore(lake, bronze, 1)
    full = lake.model_copy(update={"full": True})
    for settings in (lake, full):
        load(settings).check()
        assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e1"]
    deliver("app_events/again.json", [event(2)])
    load(lake).check()
    assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e1", "e2"]


def test_ignored_file_is_read_once_the_settings_give_it_a_format(lakehouse, deliver):
    deliver("app_events/a.txt", [event(1)])
    assert load(lakehouse(**BRONZE)).steps[0].notes and load(lakehouse(**BRONZE)).steps[0].notes == []
    with_format = lakehouse(**BRONZE, feeds={"app_events": {"format": "json"}})
    load(with_format).check()
    assert [row["event_id"] for row in rows(with_format, "app_events_bronze")] == ["e1"]


def test_file_whose_records_do_not_reach_the_table_is_set_aside(lakehouse, deliver, monkeypatch):
    deliver("app_events/a.json", [event(1)])
    deliver("app_events/b.json", [event(2)])
    honest = loading.bronze_rows
    monkeypatch.setattr(loading, "bronze_rows", lambda *arguments: honest(*arguments).where("event_id <> 'e2'"))
    lake = lakehouse(**BRONZE)
    with pytest.raises(LandingError, match=r"b\.json cannot be read: it holds 1 records, and 0 arrived"):
        load(lake).check()
    assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e1"]


def test_rebuild_stops_at_a_record_that_cannot_be_computed(lakehouse, deliver):
    deliver("app_events/a.json", [event(1, x="1")])
    deliver("app_events/b.json", [event(2, x="two")])
    lake = lakehouse(**BRONZE, full=True, feeds={"app_events": {"select": {"session_id": "cast(x AS int)"}}})
    for _ in range(2):
        with pytest.raises(LandingError, match=r"b\.json could not be loaded: its record 1 cannot be computed"):
            load(lake).check()
        assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e1"]
    fixed = lakehouse(**BRONZE, feeds={"app_events": {"select": {"session_id": "try_cast(x AS int)"}}})
    load(fixed).check()
    assert [row["event_id"] for row in rows(lake, "app_events_bronze")] == ["e1", "e2"]


def test_invalid_changes_keep_the_reason(lakehouse, deliver, tmp_path):
    deliver("cdc_changes/a.json", [b'{"op":\n', b"\xff\n", b'{"op":"c","op":"u"}\n', b"null\n", b'{"payload":null}\n'])
    table = pa.table({"operation_type": ["INSERT"], "Operation_Type": ["DELETE"], "table_name": ["users"]})
    pq.write_table(table, tmp_path / "landing/cdc_changes/b.parquet")
    lake = lakehouse(tables="cdc_changes_bronze,cdc_changes_bronze_quarantine")
    load(lake).check()
    actual = reader.query(lake, "SELECT reasons[1] r, count(*)::INT n FROM cdc_changes_bronze_quarantine GROUP BY 1")
    assert dict(zip(actual.r, actual.n, strict=True)) == {
        "malformed_record": 1,
        "invalid_utf8": 1,
        "ambiguous_fields": 2,
        "tombstone": 2,
    }


def test_sample_is_not_written_beside_other_files(tmp_path, deliver, capsys):
    deliver("clickstream/a.json", [click(1)], tmp_path / "mine")
    assert cli.main(["sample", "--rows", "10", "--out", str(tmp_path / "mine")]) == 2
    assert "holds files that are no sample" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").rglob("*") if path.is_file()] == ["a.json"]
    assert cli.main(["sample", "--rows", "10", "--out", str(tmp_path / "new")]) == 0
