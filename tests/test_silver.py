"""Events, sessions and users: silver tables from valid records."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from datetime import UTC, date, datetime

import pytest
from conftest import change, click, event
from lake import rows

from lakehouse_lib.flow import pipeline
from lakehouse_lib.layers import refresh, silver

START = datetime(2026, 3, 2, 10, tzinfo=UTC)
GAP = 30 * 60


def run(settings):
    result = pipeline.run(settings, progress=lambda line: None)
    result.check()
    return {step.table: step.counts for step in result.steps}


def sessions_of(spark, seconds, visitor="u:ann"):
    """Sizes of the sessions from clicks at the given seconds."""
    clicks = [
        (visitor, f"k{n}", datetime.fromtimestamp(START.timestamp() + s, UTC), "p", None, None, None)
        for n, s in enumerate(seconds)
    ]
    frame = spark.createDataFrame(
        clicks,
        "_visitor string, click_id string, click_timestamp timestamp, page_name string, "
        "client_session_id string, response_time_ms double, status_code int",
    )
    return [r["total_clicks"] for r in silver.sessions(frame, GAP).orderBy("session_start_time").collect()]


@pytest.mark.parametrize(
    ("seconds", "sizes"),
    [
        ([0], [1]),
        ([0, GAP], [2]),
        ([0, GAP + 0.000001], [1, 1]),
        ([0, GAP - 1, 2 * GAP - 2, 3 * GAP], [3, 1]),
        ([GAP * 5, 0, GAP], [2, 1]),
        ([0, 0, 0], [3]),
    ],
)
def test_only_a_pause_longer_than_the_gap_begins_a_session(spark, seconds, sizes):
    assert sessions_of(spark, seconds) == sizes


def test_session_summarises_its_clicks(lakehouse, deliver):
    deliver(
        "clickstream/a.json",
        [
            click(1, "2026-03-02T23:59:00Z", page_name="home", response_time_ms=100, status_code=399),
            click(2, "2026-03-03T00:01:00Z", page_name="cart", response_time_ms=50, status_code=400, session_id="c1"),
            click(3, "2026-03-03T00:02:00Z", page_name="home"),
            click(4, "2026-03-02T23:59:30Z", user_id=None, anonymous_id="ann"),
        ],
    )
    lake = lakehouse()
    run(lake)
    known, anonymous = sorted(rows(lake, "clickstream_silver"), key=lambda r: r["user_id"] is None)
    assert anonymous["is_bounce"] and anonymous["total_clicks"] == 1
    assert anonymous["session_id"] == session_id("a:ann", datetime(2026, 3, 2, 23, 59, 30, tzinfo=UTC), "k4")
    assert known.pop("session_id") == session_id("u:ann", datetime(2026, 3, 2, 23, 59, tzinfo=UTC), "k1")
    assert known == {
        "user_id": "ann", "client_session_id": "c1", "session_date": date(2026, 3, 2),
        "session_start_time": datetime(2026, 3, 2, 23, 59, tzinfo=UTC),
        "session_end_time": datetime(2026, 3, 3, 0, 2, tzinfo=UTC), "session_duration_seconds": 180.0,
        "page_sequence": ["home", "cart", "home"], "total_clicks": 3, "distinct_pages": 2,
        "entry_page": "home", "exit_page": "home", "is_bounce": False, "avg_response_time_ms": 75.0,
        "error_count": 1,
    }  # fmt: skip


def session_id(visitor, start, click_id):
    """It is the same in every release: of visitor, start and first click."""
    micros = int(start.timestamp()) * 1_000_000
    return hashlib.sha256(f"{visitor}|{micros}|{click_id}".encode()).hexdigest()[:32]


def test_late_click_joins_two_sessions_and_a_duplicate_changes_nothing(lakehouse, deliver):
    deliver(
        "clickstream/a.json",
        [click(1, "2026-03-02T10:00:00Z"), click(2, "2026-03-02T10:50:00Z"), click(3, "2026-03-02T18:00:00Z")],
    )
    lake = lakehouse()
    run(lake)
    before = {r["session_start_time"]: r["session_id"] for r in rows(lake, "clickstream_silver")}
    assert len(before) == 3
    deliver("clickstream/b.json", [click(4, "2026-03-02T10:25:00Z"), click(2, "2026-03-02T10:50:00Z")])
    counts = run(lake)["clickstream_silver"]
    assert (counts["accepted"], counts["duplicate"]) == (1, 1)
    after = {r["session_start_time"]: (r["session_id"], r["total_clicks"]) for r in rows(lake, "clickstream_silver")}
    morning, evening = sorted(after)
    assert after[morning] == (before[morning], 3)
    assert after[evening] == (before[evening], 1)


def test_earliest_of_events_with_the_same_id_wins(lakehouse, deliver):
    deliver("app_events/a.json", [event(1, "2026-03-02T10:00:05Z", app_type="late"), event(2)])
    lake = lakehouse()
    run(lake)
    deliver(
        "app_events/b.json",
        [event(1, "2026-03-01T09:00:00Z", app_type="early"), event(1, "2026-03-02T11:00:00Z", app_type="later")],
    )
    counts = run(lake)["app_events_silver"]
    assert (counts["records_read"], counts["updated"], counts["duplicate"]) == (2, 1, 1)
    row, _two = rows(lake, "app_events_silver")
    assert (row["app_type"], str(row["event_date"]), row["event_hour"]) == ("early", "2026-03-01", 9)
    assert [(r["summary_date"].day, r["total_events"]) for r in rows(lake, "daily_summary_gold")] == [
        (1, 1),
        (2, 1),
    ]


def test_of_records_with_one_id_and_time_the_content_decides_in_any_order(spark):
    records = [("a", 1, n, False) for n in range(8)]
    winners = set()
    for order in (records, records[::-1], records[3:] + records[:3]):
        frame = spark.createDataFrame(order, "id string, at int, n int, _old boolean")
        ranked = refresh.first_of(frame.repartition(3), ["id"], ["at"], prefer="_old").collect()
        assert sorted(row["_rank"] for row in ranked) == [*range(1, 9)]
        winners |= {row["n"] for row in ranked if row["_rank"] == 1}
    (winner,) = winners
    again = spark.createDataFrame([("a", 1, winner, False), ("a", 1, winner, True)], frame.schema)
    first, second = sorted(refresh.first_of(again, ["id"], ["at"], "_old").collect(), key=lambda row: row["_rank"])
    assert (first["_old"], second["_old"], second["_replaces"]) == (True, False, True)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, False),
        ({"event_type": "app_error"}, True),
        ({"properties": {"error": "E42"}}, True),
        ({"properties": {"error": False}}, False),
        ({"properties": {"error": None}}, False),
        ({"properties": {"error": "FALSE"}}, False),
        ({"properties": {"error": 0}}, False),
    ],
)
def test_error_events_are_recognised(spark, fields, error):
    assert cleaned(spark, **fields)["is_error"] is error


def cleaned(spark, **fields):
    """One event as silver has it."""
    record = event(1) | fields
    records = [(record["event_type"], *(json.dumps(record.get(name) or {}) for name in ("properties", "device")))]
    absent = ("event_id", "user_id", "session_id", "app_type")
    frame = spark.createDataFrame(records, "event_type string, event_properties string, device_info string").selectExpr(
        "*",
        *(f"CAST(NULL AS string) AS {name}" for name in absent),
        "timestamp'2026-03-02' AS event_timestamp",
        "date'2026-03-02' AS event_date",
    )
    return silver.clean_events(frame).first()


def test_what_an_event_says_of_its_device_and_its_value(spark):
    device = {"device_type": "phone", "type": "other", "os": "iOS", "model": "A1", "app_version": "2.0"}
    event = cleaned(spark, device=device, properties={"country": "DE", "value": 1.5, "duration_ms": "30"})
    assert (event["device_type"], event["device_os"], event["device_model"]) == ("phone", "iOS", "A1")
    assert (event["app_version"], event["country"]) == ("2.0", "DE")
    assert (event["event_value"], event["duration_ms"]) == (1.5, 30)
    assert cleaned(spark, device={"type": "tablet"})["device_type"] == "tablet"


def user(n, plan="free", **more):
    return {"user_id": n, "email": f"{n}@example.com", "name": n, "plan": plan, "signup_date": 20000} | more


def test_users_keep_every_version_in_the_order_of_the_source(lakehouse, deliver):
    """Updates, a delete, a re-insert; the older ones arrive last."""
    deliver("cdc_changes/b.json", [
        change("d", 40, user("ann", "pro"), None), change("c", 50, None, user("ann", "basic", city="Ulm")),
        change("u", 30, user("bob"), user("bob", "pro")),
    ])  # fmt: skip
    lake = lakehouse()
    run(lake)
    deliver("cdc_changes/a.json", [
        change("r", 5, None, user("ann"), snapshot="true"), change("u", 20, user("ann"), user("ann", "pro")),
        change("c", 10, None, user("bob")), change("c", 60, None, user("eve")), change("d", 70, user("eve"), None),
        change("u", 30, user("bob"), user("bob", "pro")),
    ])  # fmt: skip
    counts = run(lake)["users_history_silver"]
    assert (counts["records_read"], counts["accepted"], counts["duplicate"]) == (6, 5, 1)
    history = sorted(rows(lake, "users_history_silver"), key=lambda r: (r["user_id"], r["valid_from"]))
    assert [(r["user_id"], r["operation_type"], r["plan"], r["is_current"]) for r in history] == [
        ("ann", "INSERT", "free", False), ("ann", "UPDATE", "pro", False), ("ann", "DELETE", None, False),
        ("ann", "INSERT", "basic", True), ("bob", "INSERT", "free", False), ("bob", "UPDATE", "pro", True),
        ("eve", "INSERT", "free", False), ("eve", "DELETE", None, True),
    ]  # fmt: skip
    for version, following in itertools.pairwise(history):
        if version["user_id"] == following["user_id"]:
            assert version["valid_to"] == following["valid_from"]
    ann, bob, eve = rows(lake, "users_silver")
    assert (ann["plan"], ann["attributes"], ann["is_deleted"]) == ("basic", '{"city":"Ulm"}', False)
    assert ann["signup_date"] == date(2024, 10, 4)
    assert (bob["plan"], bob["is_known"], bob["first_seen_date"]) == ("pro", True, None)
    assert (bob["total_events"], bob["total_sessions"], bob["is_active"]) == (0, 0, False)
    assert (eve["email"], eve["is_deleted"], eve["deleted_at"] is not None) == (None, True, True)


def test_a_version_begins_at_its_moment_and_after_the_one_before(spark):
    """Two changes of one microsecond, and one whose clock stepped back."""
    changes = [("ann", "INSERT", n, moment) for n, moment in enumerate([5, 5, 3, 100], 1)]
    columns = "user_id string, operation_type string, _n bigint, _moment bigint"
    frame = spark.createDataFrame(changes, columns).selectExpr(
        "*", "timestamp_micros(_moment) AS _changed_at", "'f' AS _source_file", "1L AS _source_line",
        *(f"CAST(NULL AS string) AS {name}" for name in (*silver.ATTRIBUTES, "attributes")),
    )  # fmt: skip
    versions = sorted(silver.scd2(frame).collect(), key=lambda row: row["valid_from"])
    assert [row["valid_from"].microsecond for row in versions] == [5, 6, 7, 100]
    assert [row["valid_to"] and row["valid_to"].microsecond for row in versions] == [6, 7, 100, None]
    assert [row["is_current"] for row in versions] == [False, False, False, True]


def test_truncation_deletes_every_earlier_user(lakehouse, deliver):
    deliver("cdc_changes/a.json", [change("c", 1, None, user("ann")), change("c", 9, None, user("bob"))])
    lake = lakehouse()
    run(lake)
    deliver("cdc_changes/b.json", [change("t", 5, None, None)])
    run(lake)
    ann, bob = rows(lake, "users_silver")
    assert (ann["is_deleted"], ann["email"]) == (True, None)
    assert (bob["is_deleted"], bob["email"]) == (False, "bob@example.com")


def test_users_are_known_from_their_activity(lakehouse, deliver):
    deliver(
        "app_events/a.json",
        [event(1, "2026-01-01T10:00:00Z"), event(2, "2026-03-02T10:00:00Z", user_id="bob")],
    )
    deliver("clickstream/a.json", [click(1, "2026-01-05T10:00:00Z")])
    lake = lakehouse()
    run(lake)
    ann, bob = rows(lake, "users_silver")
    assert (ann["is_known"], ann["total_events"], ann["total_sessions"], ann["is_active"]) == (
        False,
        1,
        1,
        False,
    )
    assert (str(ann["first_seen_date"]), str(ann["last_seen_date"])) == ("2026-01-01", "2026-01-05")
    assert bob["is_active"]


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_many_rows_are_ranked_as_few_are(spark, copies):
    """Also if every key is repeated, or none."""
    picks = random.Random(copies)
    rows = [
        (f"k{key}", picks.choice([1, 2, None]), picks.choice([True, False]), picks.choice(["a", "b", None]))
        for key in range(200) for _ in range(picks.randint(1, copies))
    ]  # fmt: skip
    df = spark.createDataFrame(rows, "id string, at int, _old boolean, content string")
    few, many = (
        refresh.first_of(df, ["id"], ["at"], prefer="_old", many=many).toPandas().sort_values(["id", "_rank"])
        for many in (False, True)
    )
    assert few.astype(str).values.tolist() == many[few.columns].astype(str).values.tolist()
    assert len(few) == len(rows)
