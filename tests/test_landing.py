"""Files: every format, each exactly once, and errors that name the file."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import event
from lake import rows, versions

from lakehouse_lib import landing, pipeline, reader, tables
from lakehouse_lib.errors import LandingError

BRONZE = {"tables": "app_events_bronze,app_events_bronze_quarantine"}


def load(settings):
    return pipeline.run(settings, "bronze", progress=lambda line: None)


def as_csv(records, names):
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


def test_every_format_arrives_with_its_columns_by_name(lakehouse, deliver, tmp_path):
    names = ["event_id", "event_type", "event_timestamp", "user_id", "properties"]
    made = [event(n, properties=json.dumps({"value": n})) for n in range(14)]
    deliver("app_events/a.json", made[0:2])
    deliver("app_events/deep/er/b.jsonl.gz", made[2:4])
    deliver(
        "app_events/c.ndjson.zst",
        [zstandard.compress(b"".join(json.dumps(r).encode() + b"\n" for r in made[4:6]))],
    )
    deliver("app_events/d.csv", [as_csv(made[6:8], names)])
    deliver("app_events/e e+%41[1].csv.gz", [as_csv(made[8:10], names[::-1])])
    pq.write_table(pa.Table.from_pylist(made[10:12]), tmp_path / "landing/app_events/f.parquet")
    typed = [r | {"event_timestamp": pa.scalar(1772445600000000, pa.timestamp("us", "UTC")).as_py()} for r in made[12:]]
    pq.write_table(pa.Table.from_pylist(typed), tmp_path / "landing/app_events/g.parquet")
    for ignored in ("_tmp/x.json", ".hidden.json", "y.json.tmp", "notes.txt"):
        deliver(f"app_events/{ignored}", ["not for us"])
    lake = lakehouse(**BRONZE)
    load(lake).check()
    found = rows(
        lake,
        "app_events_bronze",
        ["event_id", "user_id", "event_timestamp", "event_properties", "_quality_flags"],
    )
    assert [r["event_id"] for r in found] == sorted(r["event_id"] for r in made)
    assert {r["user_id"] for r in found} == {"ann"}
    assert [r for r in found if r["_quality_flags"]] == []
    assert {str(r["event_timestamp"]) for r in found} == {"2026-03-02 10:00:00+00:00"}
    assert {json.loads(r["event_properties"])["value"] for r in found} == set(range(14))
    assert set(reader.query(lake, "SELECT DISTINCT _source_file f FROM app_events_bronze").f) == {
        "a.json", "deep/er/b.jsonl.gz", "c.ndjson.zst", "d.csv", "e e+%41[1].csv.gz", "f.parquet", "g.parquet",
    }  # fmt: skip


def test_a_file_is_loaded_once_whatever_its_name(lakehouse, deliver):
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
    assert pipeline.pending(lake) == []
    load(lake).check()
    assert versions(lake) == before


def test_new_content_under_an_old_name_is_an_error_that_names_it(lakehouse, deliver):
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
def test_nothing_of_a_broken_file_is_loaded_and_the_others_are(lakehouse, deliver, tmp_path, kind):
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


def test_a_required_field_that_is_missing_everywhere_stops_the_feed(lakehouse, deliver):
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


def test_the_fields_of_new_files_are_known_before_spark_is_asked(lakehouse, deliver):
    deliver("app_events/a.json.gz", [event(1), {"odd": 1}])
    deliver("app_events/b.csv", [as_csv([event(2)], list(event(2)))])
    lake = lakehouse(**BRONZE)
    (files,) = landing.make_plan(lake, tables.get(lake, "app_events_bronze"), "run", again=False).batches.values()
    assert {file.path: (file.status, set(file.fields)) for file in files} == {
        "a.json.gz": ("", {*event(1), "odd"}), "b.csv": ("", set(event(2))),
    }  # fmt: skip


def test_garbage_is_kept_and_explained(lakehouse, deliver):
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
            "invalid_properties.value"
        ),
        b"null": "malformed_record",
        b"{}": "missing_event_id",
        huge.encode(): "malformed_record",
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
