"""Files from public bug reports with their expected results: in one load, in two runs, and rebuilt."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from lake import assert_same, rows, run_tables

from lakehouse_lib import config
from lakehouse_lib.catalog import trace
from lakehouse_lib.config import Settings
from lakehouse_lib.flow import selection
from lakehouse_lib.storage import reader

CASES = (
    "13-column-names",
    "15-numbers",
    "16-csv-excel",
    "17-json-shapes",
    "18-unicode-encodings",
    "21-parquet-types",
    "22-file-names",
    "23-compressed",
    "26-empty-and-null",
)
BAD = {
    "clickstream/16-csv-excel/dup_header.csv",
    "clickstream/18-unicode-encodings/latin1.csv",
    "clickstream/21-parquet-types-bad/cut.parquet",
    "clickstream/21-parquet-types-bad/json_inside.parquet",
    "clickstream/21-parquet-types-bad/zero_bytes.parquet",
    "app_events/23-compressed/double.json.gz",
    "app_events/23-compressed/not_gzip.json.gz",
    *(f"app_events/23-compressed-bad/{name}.json.gz" for name in ("crc", "cut", "garbage_after", "ten_bytes", "zero")),
    "app_events/23-compressed-bad/cut.json.zst",
}
TABLES = (
    "app_events_bronze",
    "app_events_bronze_quarantine",
    "app_events_silver",
    "clickstream_bronze",
    "clickstream_bronze_quarantine",
    "cdc_changes_bronze",
    "cdc_changes_bronze_quarantine",
    "odd_silver",
    "cases_silver",
    "ids_silver",
)


@pytest.fixture(scope="module")
def landing(tmp_path_factory) -> Path:
    """The files of all cases, each case in a separate folder of its feed."""
    from conftest import SHARED

    if not SHARED.is_dir():
        pytest.skip(f"the published cases are not here ({SHARED})")
    out = tmp_path_factory.mktemp("hunt")
    for case in CASES:
        source = SHARED / "hunt" / case
        for archive in source.glob("*.tar"):
            subprocess.run(["tar", "xf", archive, "-C", out], check=True)
            source = out
        for part, suffix in (
            ("landing", ""),
            ("landing_bad", "-bad"),
            ("landing_run2", "-2"),
            ("landing_nonutf8", "-3"),
        ):
            for feed in (source / part).glob("*"):
                shutil.copytree(feed, out / "all" / feed.name / f"{case}{suffix}")
    return out / "all"


def settings_of(engine: str, base: Path, folder: Path) -> Settings:
    replicas = [
        replica
        for case in ("13-column-names", "15-numbers")
        for replica in yaml.safe_load((Path(__file__).parents[2] / f"shared/cases/hunt/{case}/params.yml").read_text())[
            "cdc"
        ]["replicas"]
    ]
    return config.load(
        {
            "lakehouse_base_path": str(base),
            "landing_path": str(folder),
            "spark_master": engine,
            "sample": {"rows": 0},
            "tables": ",".join(TABLES),
            "cdc": {"replicas": replicas},
        }
    )


def run(settings: Settings) -> set[str]:
    """Run, and return the files that were set aside; nothing else may fail."""
    result = run_tables(settings)
    return {problem.split(" cannot be read")[0] for problem in result.problems}


@pytest.fixture(scope="module")
def lake(engine, landing, tmp_path_factory) -> Settings:
    settings = settings_of(engine, tmp_path_factory.mktemp("one"), landing)
    assert run(settings) == BAD
    return settings


def bronze(lake: Settings, feed: str, case: str) -> dict[str, dict]:
    """Accepted records of a case by id."""
    identity = {"app_events": "event_id", "clickstream": "click_id"}[feed]
    all_rows = reader.query(lake, f"SELECT * FROM {feed}_bronze WHERE len(_quality_flags) = 0").to_dict("records")
    of_case = [
        row for row in all_rows if row["_source_file"].split("/")[0] in (case, f"{case}-bad", f"{case}-2", f"{case}-3")
    ]
    assert len({row[identity] for row in of_case}) == len(of_case)
    return {row[identity]: row for row in of_case}


def rejected(lake: Settings, feed: str, case: str) -> dict[str, list[str]]:
    """Rejected records of a case and their reasons."""
    all_rows = reader.query(lake, f"SELECT record, reasons, _source_file f FROM {feed}_bronze_quarantine")
    return {row.record: list(row.reasons) for row in all_rows.itertuples() if row.f.startswith(case)}


def ids(text: str, numbers: range | list[int]) -> set[str]:
    return {f"{text}{n:02d}" for n in numbers}


def test_two_runs_and_a_rebuild_give_equal_tables(lake, engine, landing, tmp_path):
    files = sorted(path for path in landing.rglob("*") if path.is_file())
    twice = settings_of(engine, tmp_path / "lake", tmp_path / "landing")
    for half in (files[1::2], files[::2]):
        for file in half:
            target = tmp_path / "landing" / file.relative_to(landing)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
        run(twice)
    assert_same(twice, lake)
    assert run(twice.model_copy(update={"full": True})) == BAD
    assert_same(twice, lake)
    assert run(twice) == BAD and selection.pending(twice) == []


def test_the_other_engine_makes_the_same_tables(lake, native, jvm, landing, tmp_path):
    other = settings_of(jvm if lake.spark_master == native else native, tmp_path / "lake", landing)
    assert run(other) == BAD
    assert_same(other, lake, flags=True)


def test_the_ledger_adds_up(lake):
    sums = reader.query(
        lake,
        """SELECT target, sum(records_read)::INT r, sum(accepted)::INT a, sum(duplicate)::INT d,
                                        sum(quarantined)::INT q FROM ops_ledger GROUP BY target""",
    )
    for row in sums[sums.target.str.endswith("_bronze")].itertuples():
        assert row.r == row.a + row.d + row.q and row.a + row.q == reader.count(lake, row.target)


def test_odd_names_of_source_columns_become_columns(lake):
    odd = {row["id"]: row for row in rows(lake, "odd_silver")}
    assert {n: row["is_deleted"] for n, row in odd.items()} == {1: False, 2: False}
    assert {
        "order_id": "o1",
        "total_eur_": 1.5,
        "a_b": "dot",
        "x_y": "semi",
        "k_v": "eq",
        "tab_name": "t",
        "select": "sel",
        "code_région": "75",
        "unnamed": "noname",
        "source_is_deleted": True,
        "source_run_id": "theirs",
        "source_processed_at": "theirs2",
        "valid_from": "2020-01-01",
    }.items() <= odd[1].items()
    cases = {row["id"]: row for row in rows(lake, "cases_silver", ["id", "userid", "_values"])}
    assert {n: cases[n]["userid"] for n in (1, 2, 3)} == {1: "a", 2: "b", 3: "c"}
    assert '"x"' in cases[4]["_values"] and '"y"' in cases[4]["_values"]
    assert reader.query(lake, "SELECT order_id FROM odd_silver ORDER BY id").order_id.tolist() == ["o1", "o2"]
    assert set(bronze(lake, "app_events", "13-column-names")) == {"e1", "e5"}
    assert sorted(rejected(lake, "app_events", "13").values()) == [
        ["ambiguous_fields"],
        ["ambiguous_fields"],
        ["missing_event_id", "missing_event_type"],
    ]


def test_numbers_keep_their_digits(lake):
    good = bronze(lake, "app_events", "15-numbers")
    assert set(good) == ids("n", [1, 8, 11, 14, 20, 21, 22, 25]) | {
        "9007199254740992",
        "9007199254740993",
        "123456789012345678901234567890123456789012",
    }
    assert {row["user_id"] for row in good.values()} >= {"9007199254740993", "18446744073709551615", "1.0"}
    assert '"ref":9007199254740993' in good["123456789012345678901234567890123456789012"]["event_properties"]
    silver = {row["event_id"]: row["event_value"] for row in rows(lake, "app_events_silver")}
    values = [silver[name] for name in ids("n", [1, 8, 14, 20, 21, 22, 25])]
    assert abs(sum(values) - (112.8 + 12.5 + 7)) < 1e-9 and silver["n11"] is None
    replica = {str(row["id"]): row for row in rows(lake, "ids_silver", ["id", "v", "is_deleted", "_key"])}
    live = {number: row["v"] for number, row in replica.items() if not row["is_deleted"]}
    numbers = ["9007199254740992", "9223372036854775807", "9223372036854775808", "18446744073709551615"]
    assert live == dict(zip(numbers, numbers, strict=True)) and len(replica) == 5
    assert [row["_key"] for row in replica.values() if row["is_deleted"]] == ['{"id":"9007199254740993"}']


def test_csv_of_spreadsheets_is_read_cell_by_cell(lake):
    good = bronze(lake, "clickstream", "16-csv-excel")
    assert set(good) == ids("c", [1, 2, 3, 4, 5, 6, 7, 10, 11, 14, 17])
    assert [good[n]["page_name"] for n in ("c02", "c03", "c05", "c06", "c17")] == [
        'He said "hi"',
        "line one\r\nline two",
        "C:\\temp\\",
        'a\\"b',
        "NULL",
    ]
    assert good["c01"]["referrer"] == "https://x.test/?a=1,b=2" and good["c02"]["status_code"] == 404
    assert (good["c05"]["referrer"], good["c05"]["status_code"], good["c06"]["status_code"]) == ("ref", 200, 500)
    assert good["c07"]["_rescued_data"] == '{"extra one":"kept"}' and good["c07"]["user_id"] == "u3"
    bad = rejected(lake, "clickstream", "16-csv-excel")
    assert sorted(reasons[0] for reasons in bad.values()) == [
        "invalid_status_code",
        "malformed_record",
        "missing_click_timestamp",
        "missing_page_name",
        "ragged_row",
        "ragged_row",
    ]
    assert any("c15" in record and "c16" in record for record in bad)


def test_json_of_any_shape_is_loaded_or_rejected(lake):
    good = bronze(lake, "app_events", "17-json-shapes")
    assert set(good) == ids("j", [1, 2, 3, 4, 5, 6, 13, 14, 15, 18, 27, 28, 31, 33, 34])
    bad = rejected(lake, "app_events", "17-json-shapes")
    assert len(bad) == 22
    assert any("j07" in record and "j08" in record for record in bad)
    assert any("j20" in record and "j21" in record for record in bad)
    assert bad[next(record for record in bad if '"j26"' in record)] == ["nested_too_deeply"]
    silver = {row["event_id"]: row for row in rows(lake, "app_events_silver")}
    assert silver["j28"]["event_value"] == 3 and silver["j31"]["event_value"] is None
    assert (silver["j34"]["device_os"], silver["j34"]["device_type"]) == ("iOS", "phone")
    assert json.loads(good["j18"]["event_properties"])["page_name"] == "a\u2028b\x85c"


def test_text_in_any_encoding_is_read(lake):
    good = bronze(lake, "clickstream", "18-unicode-encodings")
    assert [good[n]["page_name"] for n in ("k01", "k02", "k04", "k40", "k41")] == [
        "😀 café",
        "😀 esc",
        "nul \0 in",
        "Köln",
        "日本",
    ]
    assert len(good["k14"]["page_name"].encode()) == 80_000
    assert len({good[n]["user_id"] for n in ids("k", range(30, 39))}) == 9
    assert {"k42", "k43"} <= set(good) and not {"k03", "k10", "k11", "k12", "k13", "k50"} & set(good)
    reasons = sorted(flag for flags in rejected(lake, "clickstream", "18-unicode-encodings").values() for flag in flags)
    assert reasons == ["invalid_unicode", "invalid_utf8", "invalid_utf8", "invalid_utf8", "malformed_record"]


def test_parquet_types_become_the_same_values(lake):
    good = bronze(lake, "clickstream", "21-parquet-types")
    assert set(good) == {"p01", "p02", "p03", "p04", "5", "p06", "p09", "p11", "p13", "p16", "p17", "p18", "p20"}
    assert {str(good[n]["click_timestamp"]) for n in ("p01", "p02", "p03")} == {"2026-11-20 10:00:00.123456"}
    assert str(good["p04"]["click_timestamp"]) == str(good["5"]["click_timestamp"]) == "2026-11-20 10:00:00"
    assert (good["5"]["user_id"], good["5"]["response_time_ms"], good["5"]["status_code"]) == (
        "9007199254740993",
        12.5,
        404,
    )
    assert (good["p01"]["response_time_ms"], good["p06"]["response_time_ms"], good["p09"]["user_id"]) == (120, 15, "1")
    bad = rejected(lake, "clickstream", "21-parquet-types")
    assert sorted(json.loads(record).get("click_id", "p10") for record in bad) == [
        "p07",
        "p08",
        "p10",
        "p12",
        "p14",
        "p15",
    ]
    p08 = next(json.loads(record) for record in bad if '"p08"' in record)
    assert p08["user_id"] == "18446744073709551615"
    p10 = next(json.loads(record) for record in bad if '"p10"' in record)
    assert {"CLICK_ID", "items", "attrs", "raw", "day", "f16"} <= p10.keys()
    silver = {row["event_id"]: row for row in rows(lake, "app_events_silver")}
    assert [(silver[n]["event_value"], silver[n]["country"]) for n in ("pe1", "pe2", "pe3")] == [
        (2.5, "DE"),
        (3.5, "FR"),
        (4.5, "IT"),
    ]


def test_files_of_any_name_are_loaded(lake):
    good = bronze(lake, "clickstream", "22-file-names")
    assert set(good) == ids("f", [*range(32), 50, 51])
    valid = [row for name, row in good.items() if name < "f32"]
    assert {(row["user_id"], row["page_name"], str(row["click_date"])[:10]) for row in valid} == {
        ("u1", "p", "2026-11-20")
    }
    files = {row["_source_file"].removeprefix("22-file-names/") for row in valid}
    assert {
        "percent%20.json",
        "colon:10:00.json",
        "newline\nname.json",
        "star*/deep er/%41.json",
        "UPPER.JSON",
        "back\\slash.json",
        "br{a,b}ace.json",
    } <= files
    ignored = reader.query(lake, "SELECT path FROM ops_landing_files WHERE state = 'ignored'").path
    assert sorted(path.rpartition("/")[2] for path in ignored) == ["data.xml", "noext", "old.json.bak", "readme.txt"]
    for name in ("f00", "f07", "f21", "f50"):
        (record,) = trace.trace(lake, "clickstream_bronze", [f"click_id={name}"]).records
        assert f'"click_id": "{name}"' in record.text


def test_compressed_files_are_read(lake):
    good = bronze(lake, "app_events", "23-compressed")
    assert set(good) == ids("g", [1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14, 59])
    (line,) = rejected(lake, "app_events", "23-compressed")
    assert "g15" in line and "g16" in line


@pytest.mark.parametrize("case", ["16-csv-excel", "26-empty-and-null"])
def test_sessions_and_metrics_of_a_single_case(lakehouse, landing, tmp_path, case):
    for feed in ("clickstream", "app_events"):
        if (landing / feed / case).is_dir():
            shutil.copytree(landing / feed / case, tmp_path / "landing" / feed)
    lake = lakehouse()
    run(lake)
    silver = {row["user_id"]: row for row in rows(lake, "clickstream_silver")}
    if case == "16-csv-excel":
        assert {user: silver[user]["total_clicks"] for user in ("u1", "u2")} == {"u1": 4, "u2": 2}
        return
    assert (
        silver["u1"]["total_clicks"],
        silver["u1"]["session_duration_seconds"],
        silver["u1"]["avg_response_time_ms"],
        silver["u1"]["error_count"],
    ) == (3, 120, None, 0)
    (hour,) = rows(lake, "hourly_metrics_gold")
    assert [
        hour[name]
        for name in (
            "total_events",
            "total_clicks",
            "unique_users",
            "total_sessions",
            "avg_response_time_ms",
            "p95_response_time_ms",
            "error_rate",
        )
    ] == [0, 3, 1, 1, None, None, 0]
    (day,) = rows(lake, "daily_summary_gold")
    assert [
        day[name]
        for name in ("total_users", "wau", "mau", "stickiness", "total_sessions", "bounce_rate", "total_value")
    ] == [1, 1, 1, 1.0, 1, 0.0, 0]
    assert rows(lake, "event_metrics_gold") == []
