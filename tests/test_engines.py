"""Every engine gives the same tables: known differences of Spark and Sail, and whole lakehouses."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from lake import assert_same, contents, run_tables

from lakehouse_lib import sample
from lakehouse_lib.config import SampleSettings, Settings
from lakehouse_lib.model.ops import COUNTS
from lakehouse_lib.storage import delta


def click(**fields: object) -> str:
    known = {"click_id": "c", "user_id": "u", "page_name": "p", "click_timestamp": "2026-03-01T10:00:00Z"}
    return json.dumps(known | fields, ensure_ascii=False)


BAD_NUMBER, BAD_TIME = ["invalid_response_time_ms"], ["invalid_click_timestamp"]
NUMBERS = {
    "the suffix of a Java double": ("1d", BAD_NUMBER),
    "digits of other scripts": ("١٢", BAD_NUMBER),
    "hexadecimal digits": ("0x10", BAD_NUMBER),
    "an underscore between digits": ("1_000", BAD_NUMBER),
    "a number without an end": ("Infinity", BAD_NUMBER),
    "no number": ("NaN", BAD_NUMBER),
    "more than a double holds": ("1e400", BAD_NUMBER),
    "a line end behind it": ("12\n", 12.0),
    "blanks around it": (" \t12 ", 12.0),
    "a no-break space behind it": ("12\u00a0", BAD_NUMBER),
    "a fraction with a zero at its end": ("1.50", 1.5),
    "an exponent": ("1e3", 1000.0),
    "a point at its end": ("12.", 12.0),
}
TIMES = {
    "a line end behind it": ("2026-03-01T10:00:00Z\n", "2026-03-01T10:00:00+00:00"),
    "microseconds": ("2026-03-01T10:00:00.123456Z", "2026-03-01T10:00:00.123456+00:00"),
    "nanoseconds": ("2026-03-01T10:00:00.123456789Z", "2026-03-01T10:00:00.123456+00:00"),
    "an offset without a colon": ("2026-03-01T10:00:00+0530", "2026-03-01T04:30:00+00:00"),
    "no offset": ("2026-03-01 10:00:00", "2026-03-01T10:00:00+00:00"),
    "an hour of one digit": ("2026-03-01 9:05", "2026-03-01T09:05:00+00:00"),
    "a date": ("2026-03-01", "2026-03-01T00:00:00+00:00"),
    "a day that is not in the calendar": ("2026-02-30T00:00:00Z", BAD_TIME),
    "an hour that no day has": ("2026-03-01T25:00:00Z", BAD_TIME),
    "an offset that no place has": ("2026-03-01T10:00:00+19:00", BAD_TIME),
    "seconds since 1970": ("1772359200", "2026-03-01T10:00:00+00:00"),
    "milliseconds since 1970": ("1772359200123", "2026-03-01T10:00:00.123000+00:00"),
    "microseconds since 1970": ("1772359200123456", "2026-03-01T10:00:00.123456+00:00"),
    "digits of other scripts": ("٢٠٢٦-03-01T10:00:00Z", BAD_TIME),
}
JSON_LINES = {
    "a name twice": '{"click_id": "c", "click_id": "d"}',
    "single quotes": "{'click_id': 'c'}",
    "no number": '{"click_id": "c", "response_time_ms": NaN}',
    "trailing text": click() + " tail",
    "digits beyond a double": click(extra=12345678901234567890123),
    "a number in a text, and as such": click(extra="1.50", other=1.50, large=1e20),
    "a control character": click(page_name="a\u001fb\u007fc\u2028d"),
    "a slash and a quote": click(page_name='a/b"c\\d'),
    "an emoji and a letter of two parts": click(page_name="😀 e\u0301"),
    "an object and a list": click(extra={"b": [1, {"c": None}], "a": " "}, other=[]),
    "true and null": click(extra=True, other=None),
    "half of a letter": '{"click_id": "c", "page_name": "\\ud800"}',
    "an empty name": click(**{"": 1}),
}
CHANGES = {
    "keys of every kind": {"id": 1, "big": 9007199254740993, "text": "1", "yes": True, "none": None, "price": 1.50},
    "an object and a list": {"id": 2, "object": {"b": 1, "a": "x:y{"}, "list": [1, {"g": [2]}], "empty": {}},
    "letters": {"id": 3, "ÄÖ": "ß", 'q"k': 'v"v', "back\\slash": "\\", "line": "a\nb", "control": "\u001f"},
    "names that JSON has to quote": {"id": 4, "a:b": "c,d", "{": "}", " ": " "},
    "numbers as text": {"id": "005", "text": "-0", "exponent": "1e5", "huge": 1e300, "tiny": 1e-7},
}


@pytest.fixture
def both(native: str, jvm: str, lakehouse: Callable[..., Settings]) -> Callable[..., list[Settings]]:
    """Run the same input on both engines; the lakehouses, native first."""

    def run(**values: object) -> list[Settings]:
        lakes = [
            lakehouse(name, spark_master=address, **values) for name, address in (("native", native), ("jvm", jvm))
        ]
        for settings in lakes:
            run_tables(settings)
        return lakes

    return run


def test_numbers_and_times_agree_on_both_engines(both, deliver):
    lines = [click(click_id=f"number {name}", response_time_ms=text) for name, (text, _) in NUMBERS.items()]
    lines += [click(click_id=f"time {name}", click_timestamp=text) for name, (text, _) in TIMES.items()]
    deliver("clickstream/1.json", lines)
    for settings in both(tables="clickstream_bronze"):
        actual = {row["click_id"]: row for row in contents(settings, flags=True)["clickstream_bronze"]}
        for name, (_, wanted) in NUMBERS.items():
            row = actual[f"number {name}"]
            assert (row["_quality_flags"] or row["response_time_ms"]) == wanted, (settings.spark_master, name)
        for name, (_, wanted) in TIMES.items():
            row = actual[f"time {name}"]
            at = row["click_timestamp"].isoformat() if row["click_timestamp"] else None
            assert (row["_quality_flags"] or at) == wanted, (settings.spark_master, name)


def test_json_agrees_on_both_engines(both, deliver):
    for number, line in enumerate(JSON_LINES.values()):
        deliver(f"clickstream/{number:02d}.json", [line])
    native, spark = both(tables="clickstream_bronze,clickstream_bronze_quarantine,clickstream_silver")
    assert_same(native, spark, flags=True)


def test_change_values_agree_on_both_engines(both, deliver):
    changes = [
        {"table": "t", "op": "insert", "before": None, "after": json.dumps(row, ensure_ascii=False),
         "at": f"2026-03-01T10:00:0{n}Z"}
        for n, row in enumerate(CHANGES.values())
    ]  # fmt: skip
    deliver("cdc_changes/1.json", changes)
    select = {"table_name": "table", "operation_type": "op", "after_values": "after", "change_timestamp": "at"}
    values = {
        "feeds": {"cdc_changes": {"select": select}},
        "cdc": {"replicas": [{"target": "copy_silver", "source_table": "t", "keys": ["id"]}]},
    }
    native, spark = both(tables="cdc_changes_bronze,cdc_changes_bronze_quarantine,copy_silver", **values)
    assert_same(native, spark, flags=True)
    assert len(contents(native)["copy_silver"]) == len(CHANGES)


def test_sample_tables_agree_on_both_engines(both, tmp_path):
    sizes = SampleSettings(days=3, seed=11)
    sample.write(sizes, tmp_path / "landing", 6000)
    native, spark = both()
    assert_same(native, spark, flags=True)
    sample.write(sizes.model_copy(update={"seed": 12}), tmp_path / "more", 300)
    for feed in (tmp_path / "more").iterdir():
        if feed.is_dir():
            feed.rename(tmp_path / "landing" / feed.name / "more")
    for settings in (native, spark):
        run_tables(settings)
    assert_same(native, spark, flags=True)
    assert counted(native) == counted(spark)  # an engine's types must not make rows look changed


def counted(settings: Settings) -> dict[str, list[tuple[int, ...]]]:
    """What each commit of each table did with its records, in order."""
    counts: dict[str, list[tuple[int, ...]]] = {}
    for row in sorted(delta.read_ops(settings, "ledger"), key=lambda row: row["version"]):
        counts.setdefault(row["target"], []).append(tuple(row[name] for name in COUNTS))
    return counts
