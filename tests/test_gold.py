"""Gold tables, compared with hand-computed figures."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from conftest import click, event
from lake import rows, versions

from lakehouse_lib.config import SegmentSettings
from lakehouse_lib.flow import pipeline
from lakehouse_lib.layers import gold
from lakehouse_lib.model import tables
from lakehouse_lib.storage import delta


def run(settings):
    result = pipeline.run(settings, progress=lambda line: None)
    result.check()
    return {step.table: step for step in result.steps}


def test_figures_match_hand_computed_values(lakehouse, deliver):
    deliver(
        "app_events/a.json",
        [
            event(1, "2026-03-02T10:00:00Z", app_type="ios", properties={"value": 10}),
            event(2, "2026-03-02T10:59:59.999Z", app_type="ios", properties={"value": 20.5}, user_id="bob"),
            event(3, "2026-03-02T11:00:00Z", event_type="app_error", user_id=None),
            event(4, "2026-03-04T09:00:00Z"),
            "broken",
        ],
    )
    deliver(
        "clickstream/a.json",
        [
            click(1, "2026-03-02T10:50:00Z", response_time_ms=100, status_code=200),
            click(2, "2026-03-02T11:10:00Z", response_time_ms=200, status_code=404),
            click(3, "2026-03-02T11:11:00Z", user_id=None, anonymous_id="x", status_code=399),
        ],
    )
    lake = lakehouse()
    run(lake)
    metrics = {(r["metric_hour"], r["event_type"], r["app_type"]): r for r in rows(lake, "event_metrics_gold")}
    assert len(metrics) == 3
    taps = metrics[10, "tap", "ios"]
    assert (taps["total_events"], taps["unique_users"], taps["sum_event_value"]) == (2, 2, 30.5)
    assert (taps["avg_event_value"], taps["min_event_value"], taps["max_event_value"]) == (15.25, 10, 20.5)
    assert metrics[11, "app_error", "unknown"]["avg_event_value"] is None

    hours = {(str(r["metric_date"]), r["metric_hour"]): r for r in rows(lake, "hourly_metrics_gold")}
    ten, eleven = hours["2026-03-02", 10], hours["2026-03-02", 11]
    assert (ten["total_events"], ten["total_clicks"], ten["unique_users"], ten["total_sessions"]) == (
        2,
        1,
        2,
        1,
    )
    assert (eleven["total_clicks"], eleven["total_sessions"], eleven["error_count"]) == (2, 1, 2)
    assert (eleven["error_rate"], eleven["avg_response_time_ms"], ten["p95_response_time_ms"]) == (
        2 / 3,
        200,
        100,
    )
    assert sum(r["records_rejected"] for r in hours.values()) == 1

    first, last = rows(lake, "daily_summary_gold")
    assert (first["total_users"], first["new_users"], first["returning_users"]) == (2, 2, 0)
    assert (first["total_sessions"], first["avg_session_duration"], first["bounce_rate"]) == (2, 600.0, 0.5)
    assert (last["total_users"], last["wau"], last["mau"], last["stickiness"]) == (1, 2, 2, 0.5)
    assert (last["returning_users"], last["return_user_percentage"], last["total_value"]) == (1, 100.0, 0.0)
    assert first["total_value"] == 30.5


def test_only_changed_days_are_written(lakehouse, deliver):
    deliver("app_events/a.json", [event(n, f"2026-03-0{n}T10:00:00Z") for n in range(1, 8)])
    lake = lakehouse()
    run(lake)
    deliver("app_events/b.json", [event(9, "2026-03-05T10:00:00Z")])
    before = versions(lake)
    run(lake)
    for name in ("app_events_silver", "event_metrics_gold", "hourly_metrics_gold"):
        path = delta.table_path(lake, tables.get(lake, name))
        seen = delta.changes(path, before[name], versions(lake)[name])
        assert seen.partitions == {"2026-03-05"}, name
    assert versions(lake)["clickstream_silver"] == before["clickstream_silver"]
    assert [r["total_events"] for r in rows(lake, "daily_summary_gold")] == [1, 1, 1, 1, 2, 1, 1]


def test_a_session_over_midnight_counts_on_both_days_when_it_grows(lakehouse, deliver):
    deliver("clickstream/a.json", [click(1, "2026-03-01T23:50:00Z"), click(2, "2026-03-02T00:10:00Z", status_code=500)])
    lake = lakehouse(tables="clickstream_bronze,clickstream_bronze_quarantine,app_events_silver,app_events_bronze,"
                     "app_events_bronze_quarantine,clickstream_silver,hourly_metrics_gold")  # fmt: skip
    run(lake)
    for number, more in enumerate([click(3, "2026-03-01T23:40:00Z"), click(4, "2026-03-02T00:30:00Z")]):
        deliver(f"clickstream/{number}.json", [more])
        run(lake)
    names = ("total_clicks", "total_sessions", "error_count")
    hours = {(r["metric_date"].day, r["metric_hour"]): [r[n] for n in names] for r in rows(lake, "hourly_metrics_gold")}
    assert hours == {(1, 23): [2, 1, 0], (2, 0): [2, 0, 1]}


@pytest.mark.parametrize(
    ("recency", "events", "value", "segment"),
    [
        (0, 20, 0, "Active"), (6, 20, 0, "Active"), (7, 20, 0, "Regular"), (0, 19, 0, "Regular"),
        (0, 1, 500, "VIP"), (30, 1, 500, "VIP"), (31, 100, 9000, "Inactive"), (30, 1, 0, "Regular"),
    ],
)  # fmt: skip
def test_segment_thresholds(spark, recency, events, value, segment):
    newest = date(2026, 3, 31)
    seen = date.fromordinal(newest.toordinal() - recency)
    users = spark.createDataFrame(
        [("ann", False, seen), ("other", False, newest), ("gone", True, newest), ("never", False, None)],
        "user_id string, is_deleted boolean, last_seen_date date",
    )
    rows = [("ann", seen, value / events)] * events
    frame = spark.createDataFrame(rows, "user_id string, event_date date, event_value double")
    actual = {r["user_id"]: r for r in gold.segments(users, frame, SegmentSettings()).collect()}
    assert set(actual) == {"ann", "other", "never"}
    ann = actual["ann"]
    assert (ann["segment_name"], ann["recency_days"]) == (segment, recency)
    assert ann["frequency"] == events and ann["monetary_value"] == pytest.approx(value, abs=1e-3)
    assert 0 <= ann["engagement_score"] <= 100 and 0 <= ann["risk_of_churn"] <= 1
    assert (actual["never"]["segment_name"], actual["never"]["risk_of_churn"]) == ("Inactive", 1.0)


def test_scores_of_a_segment_are_as_documented(spark):
    """A user of a week ago with half of an active one's events, and a quarter of a VIP's value; 90 days count."""
    newest = date(2026, 3, 31)
    ago = [date.fromordinal(newest.toordinal() - n) for n in range(91)]
    users = spark.createDataFrame(
        [("ann", False, ago[7]), ("eve", False, newest), ("old", False, ago[60]), ("never", False, None)],
        "user_id string, is_deleted boolean, last_seen_date date",
    )
    made = [("ann", ago[7], 12.5)] * 9 + [("ann", ago[89], 12.5), ("ann", ago[90], 1000.0)]
    made += [("eve", newest, 50.0)] * 90 + [("old", ago[60], -5.0)]
    events = spark.createDataFrame(made, "user_id string, event_date date, event_value double")
    actual = {
        r["user_id"]: [r[name] for name in (
            "frequency", "monetary_value", "lifetime_value", "engagement_score", "risk_of_churn")]
        for r in gold.segments(users, events, SegmentSettings()).collect()
    }  # fmt: skip
    assert actual["ann"] == [10, 125.0, 1125.0, 40 / 2 + 40 / 4 + 20 / 4, 0.2333]
    assert actual["eve"] == [90, 4500.0, 4500.0, 100.0, 0.0]
    assert actual["old"] == [1, -5.0, -5.0, round(40 * 0.5 ** (60 / 7) + 40 / 40, 2), 1.0]
    assert actual["never"] == [0, 0.0, 0.0, 0.0, 1.0]


def test_a_day_of_sessions_without_events_has_no_value(spark):
    events = spark.createDataFrame([], "user_id string, event_date date, event_value double")
    sessions = spark.createDataFrame(
        [("ann", date(2026, 3, 2), 10.0, True), (None, date(2026, 3, 3), 20.0, False)],
        "user_id string, session_date date, session_duration_seconds double, is_bounce boolean",
    )
    known, nobody = sorted(gold.daily(events, sessions).collect(), key=lambda r: r["summary_date"])
    assert (known["total_users"], known["new_users"], known["total_events"], known["total_value"]) == (1, 1, 0, 0.0)
    assert (known["total_sessions"], known["bounce_rate"], known["stickiness"]) == (1, 1.0, 1.0)
    assert (nobody["total_users"], nobody["mau"], nobody["new_users"], nobody["total_sessions"]) == (0, 1, 0, 1)
    assert (nobody["stickiness"], nobody["return_user_percentage"]) == (0.0, None)


def test_wau_and_mau_cover_exactly_seven_and_thirty_days(spark):
    days = [date.fromordinal(date(2026, 3, 1).toordinal() + n) for n in (0, 6, 7, 29, 30)]
    rows = [(f"u{n}", day, None) for n, day in enumerate(days)]
    events = spark.createDataFrame(rows, "user_id string, event_date date, event_value double")
    none = spark.createDataFrame(
        [], "user_id string, session_date date, session_duration_seconds double, is_bounce boolean"
    )
    actual = {r["summary_date"]: (r["wau"], r["mau"]) for r in gold.daily(events, none).collect()}
    assert [actual[day] for day in days] == [(1, 1), (2, 2), (2, 3), (1, 4), (2, 4)]


def test_sums_are_independent_of_row_order(spark):
    values = [0.1, 0.2, 0.3, 1e9, -1e9, 0.7] * 20
    at = datetime(2026, 3, 2, 10, tzinfo=UTC)
    totals = set()
    for order in (values, values[::-1], sorted(values)):
        frame = spark.createDataFrame(
            [(f"u{n}", at, at.date(), 10, "tap", "web", v) for n, v in enumerate(order)],
            "user_id string, event_timestamp timestamp, event_date date, event_hour int, event_type string, "
            "app_type string, event_value double",
        )
        totals.add(gold.hourly_events(frame.repartition(3)).first()["sum_event_value"])
    assert [round(total, 6) for total in totals] == [26.0]
