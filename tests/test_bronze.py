"""Typed values and flags of single records."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from conftest import click, event
from pyspark.sql import functions as F

from lakehouse_lib.config import FeedSettings
from lakehouse_lib.errors import ConfigError
from lakehouse_lib.intake import formats
from lakehouse_lib.intake.records import PROBLEMS
from lakehouse_lib.layers import bronze

LATEST = "2026-12-01T00:00:00Z"
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def values(spark, texts, make):
    frame = spark.createDataFrame([(n, t) for n, t in enumerate(texts)], "n int, t string")
    value = make(F.col("t"))
    rows = frame.select("n", value.column.alias("v"), value.bad.alias("bad")).orderBy("n").collect()
    return [(row["v"], row["bad"]) for row in rows]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_every_accepted_time_format_is_parsed(spark, zone):
    texts = [
        "2026-03-02T12:00:00Z", "2026-03-02 13:00:00+01:00", "2026-03-02T13:00:00+0100",
        "2026-03-02T12:00:00.000000Z", "2026-03-02T12:00:00,000Z", "1772452800", "1772452800000",
        "1772452800000000", "1772452800.0", " 2026-03-02T12:00:00Z ",
    ]  # fmt: skip
    actual = values(spark, texts, lambda t: bronze.timestamp(t, zone))
    assert [(v and v.replace(tzinfo=v.tzinfo or UTC), bad) for v, bad in actual] == [(NOON, False)] * len(texts)


def test_times_without_offset_are_in_the_zone_of_the_feed(spark):
    actual = values(spark, ["2026-03-02T13:00:00", "2026-07-02 14:00"], lambda t: bronze.timestamp(t, "Europe/Berlin"))
    assert [v.replace(tzinfo=UTC) for v, _ in actual] == [NOON, datetime(2026, 7, 2, 12, tzinfo=UTC)]
    ((day, _),) = values(spark, ["2026-03-02"], lambda t: bronze.timestamp(t))
    assert day.replace(tzinfo=UTC) == datetime(2026, 3, 2, tzinfo=UTC)


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "2026-02-30", "12:00", "NaN", "1e99", "{}", "2026"])
def test_invalid_times_are_flagged_as_invalid_or_implausible(spark, text):
    """A bare 2026 is epoch second 2026: a time, but one that the range rule rejects."""
    ((value, bad),) = values(spark, [text], bronze.timestamp)
    assert bad or value.year == 1970


def test_numbers_must_be_finite(spark):
    texts = [
        "1.5",
        "-2",
        "1e3",
        " .5 ",
        "NaN",
        "Infinity",
        "fast",
        "1,5",
        "12f",
        "5d",
        "0x1p3",
        "1e400",
        "\u0663",
        "1\n",
        None,
    ]
    actual = values(spark, texts, bronze.number)
    good = [(1.5, False), (-2, False), (1000, False), (0.5, False)]
    assert actual == [*good, *[(None, True)] * 9, (1, False), (None, False)]
    bounded = values(spark, ["1e15", "-1e15", "1.1e15", "1e30"], lambda t: bronze.number(t, bounds=(-1e15, 1e15)))
    assert [bad for _, bad in bounded] == [False, False, True, True]
    whole = values(spark, ["200", "200.0", "1.5", "1e300"], lambda t: bronze.number(t, whole=True))
    assert whole == [(200, False), (200, False), (None, True), (None, True)]


def flags(spark, feed, lines, settings=None, bounds=None):
    table = pa.Table.from_batches([formats.parse_kept(lines, "")])
    for name, value in (("_source_file", [str(n) for n in range(len(lines))]), ("load_timestamp", [NOON] * len(lines))):
        table = table.append_column(name, pa.array(value))
    rows = bronze.flagged(
        getattr(bronze, feed)(spark.createDataFrame(table), settings or FeedSettings(), LATEST, bounds), {}
    )
    return [row.asDict() for row in rows.orderBy(F.col("_source_file").cast("int")).collect()]


def test_each_defect_sets_its_flag(spark):
    import json

    good = event(1, properties={"value": 3, "duration_ms": 10})
    cases = {
        json.dumps(good): [],
        json.dumps(good | {"properties": '{"value": 3}'}): [],
        json.dumps(good | {"new_field": 1}): [],
        '{"event_id": "e1", ': ["malformed_record"],
        "[1, 2]": ["malformed_record"],
        json.dumps(event(1, event_id=None)): ["missing_event_id"],
        json.dumps(event(1, event_id="  ")): ["missing_event_id"],
        json.dumps(event(1, event_type=["a"])): ["invalid_event_type"],
        json.dumps(event(1, "soon")): ["invalid_event_timestamp"],
        json.dumps(event(1, "0001-01-01T00:00:00Z")): ["timestamp_out_of_range"],
        json.dumps(event(1, "9999-12-31T23:59:59Z")): ["timestamp_out_of_range"],
        json.dumps(event(1, properties="{broken")): ["invalid_properties"],
        json.dumps(event(1, properties={"value": "much"})): ["invalid_properties.value"],
        json.dumps(event(1, properties={"value": "NaN"})): ["invalid_properties.value"],
        json.dumps(event(1, properties={"value": 0})).replace("0}", "1e400}"): ["invalid_properties.value"],
        json.dumps(event(1, properties='{"value": 1e400}')): ["invalid_properties.value"],
        json.dumps(event(1, properties={"elsewhere": int("9" * 400)})): [],
        json.dumps(event(1, properties='{"value": 3} and more')): ["invalid_properties"],
        '{"event_id":"e1","Event_ID":"e2","event_type":"t","event_timestamp":"2026-03-02"}': ["ambiguous_fields"],
    }
    actual = flags(spark, "app_events", list(cases))
    assert [row["_quality_flags"] for row in actual] == list(cases.values())
    for row, line in zip(actual, cases, strict=True):
        assert row["_raw"] == (line if row["_quality_flags"] else None)
        assert (row["event_date"] is None) == any("time" in f or f in PROBLEMS for f in row["_quality_flags"])
    assert json.loads(actual[2]["_rescued_data"]) == {"new_field": "1"}
    explained = spark.createDataFrame([(sorted({f for c in cases.values() for f in c}),)], "f array<string>")
    text = explained.select(bronze.explain(F.col("f"), {})).first()[0]
    assert "event_id is missing" in text and "properties.value holds a value of the wrong type" in text


def test_clicks_accept_aliases_and_get_defaults(spark):
    import json

    first = {
        "click_id": "k1",
        "timestamp": 1772452800,
        "anonymous_id": "x",
        "page_url": "/a",
        "session_id": "s",
    }
    row, lone = flags(spark, "clickstream", [json.dumps(first), json.dumps(click(2, user_id=None))])
    assert (row["page_name"], row["action"], row["client_session_id"]) == ("/a", "page_view", "s")
    assert row["_quality_flags"] == [] and row["_rescued_data"] is None
    assert lone["_quality_flags"] == ["missing_user_id"]


def test_mapping_reads_any_shape_and_an_invalid_mapping_is_rejected(spark):
    shape = FeedSettings(
        select={"event_id": "concat(user, '-', n)", "event_type": "what", "event_timestamp": "at", "user_id": "user"},
        timezone="Europe/Berlin",
    )
    (row,) = flags(spark, "app_events", ['{"user":"ann","n":7,"what":"tap","at":"2026-03-02 13:00","x":1}'], shape)
    assert (row["event_id"], row["_quality_flags"], row["_rescued_data"]) == ("ann-7", [], '{"x":"1"}')
    (row, second) = flags(spark, "app_events", ['{"p":"{\\"value\\":1}{}"}', '{"p":"{\\"value\\":1}"}'],
                         FeedSettings(select={"event_properties": "p"}))  # fmt: skip
    assert "invalid_properties" in row["_quality_flags"] and "invalid_properties" not in second["_quality_flags"]
    with pytest.raises(ConfigError, match=r"feeds.app_events.select.event_id"):
        flags(spark, "app_events", ["{}"], FeedSettings(select={"event_id": "concat(("}))
