"""Checks: definitions are rejected or work as declared; each injected defect is found by its check."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from math import log

import pyarrow as pa
import pytest
import yaml
from deltalake import DeltaTable, write_deltalake
from pyarrow import dataset

from lakehouse_lib import config, sample
from lakehouse_lib.config import SampleSettings, Settings
from lakehouse_lib.errors import ConfigError
from lakehouse_lib.flow import pipeline
from lakehouse_lib.model import checks, kinds, rules, tables
from lakehouse_lib.storage import delta, reader
from lakehouse_lib.trust import checking, profiles, quality

CLEAN = SampleSettings(
    days=5, users=15, share_duplicates=0, share_late=0, share_malformed=0, share_wrong_type=0, share_missing=0,
    share_out_of_range=0, share_new_fields=0, share_redelivered=0,
)  # fmt: skip

OWN = {
    "app_events_bronze": [
        {"name": "fresh", "check": "freshness", "column": "event_timestamp", "max_hours": 48},
        {"name": "known_source", "check": "regex", "column": "source_system", "pattern": "^[a-z-]+$"},
        {"name": "value_is_number", "check": "castable", "column": "load_timestamp", "to": "timestamp"},
    ],
    "clickstream_bronze": [
        {"name": "fresh", "check": "freshness", "column": "click_timestamp", "max_hours": 48},
        {"name": "status", "check": "range", "column": "status_code", "min": 100, "max": 599},
        {"name": "element_known", "check": "allowed_values", "column": "element",
         "values": ["link", "button", "image"]},
        {"name": "user_or_not", "check": "null_share", "column": "user_id", "max": 0.6},
        {"name": "agent_length", "check": "length", "column": "user_agent", "min": 3, "max": 200},
    ],
    "cdc_changes_bronze": [
        {"name": "fresh", "check": "freshness", "column": "change_timestamp", "max_hours": 48},
        {"name": "id_is_hex", "check": "regex", "column": "cdc_id", "pattern": "^[0-9a-f]{32}$"},
        {"name": "one_id", "check": "unique", "column": "cdc_id"},
    ],
    "app_events_silver": [
        {"name": "fresh", "check": "freshness", "column": "event_timestamp", "max_hours": 48},
        {"name": "enough", "check": "row_count", "min": 200, "max": 5000},
        {"name": "app", "check": "allowed_values", "column": "app_type", "values": ["web", "ios", "android"]},
        {"name": "version_is_number", "check": "castable", "column": "app_version", "to": "double", "where": "false"},
        {"name": "hour_text", "check": "castable", "column": "device_os", "to": "int", "tolerance": 1.0},
        {"name": "country_code", "check": "length", "column": "country", "min": 2, "max": 2},
        {"name": "value_positive", "check": "range", "column": "event_value", "min": 0},
        {"name": "user_known", "check": "foreign_key", "column": "user_id", "table": "users_history_silver"},
        {"name": "each_day", "check": "row_count", "min": 20, "scope": "partition"},
        {"name": "apps", "check": "drift", "column": "app_type", "max": 0.25,
         "baseline": {"ios": 0.39, "android": 0.39, "web": 0.22}},
        {"name": "device_there", "check": "not_null", "columns": ["device_type", "device_os"]},
        {"name": "some_users", "check": "aggregate", "expression": "count(DISTINCT user_id)", "min": 3},
        {"name": "hour_is_int", "check": "type", "column": "event_hour", "is": "int"},
    ],
    "clickstream_silver": [
        {"name": "fresh", "check": "freshness", "column": "session_end_time", "max_hours": 48},
        {"name": "short", "check": "range", "column": "session_duration_seconds", "max": 86400, "tolerance": 0.01},
        {"name": "errors_per_click", "check": "ratio", "numerator": "error_count", "denominator": "total_clicks",
         "max": 0.2},
        {"name": "pages_listed", "check": "expression", "condition": "size(page_sequence) = total_clicks"},
    ],
    "users_history_silver": [
        {"name": "in_order", "check": "monotonic", "column": "valid_from", "by": "user_id", "order_by": "_changed_at"},
        {"name": "operation", "check": "allowed_values", "column": "operation_type",
         "values": ["INSERT", "UPDATE", "DELETE", "TRUNCATE"]},
    ],
    "users_silver": [
        {"name": "plan", "check": "allowed_values", "column": "plan", "values": ["free", "basic", "pro"]},
        {"name": "signed_up_once", "check": "range", "column": "signup_date", "min": "2015-01-01", "max": "2100-01-01"},
    ],
    "daily_summary_gold": [
        {"name": "stickiness", "check": "range", "column": "stickiness", "min": 0, "max": 1},
        {"name": "every_day", "check": "row_count", "min": 5, "max": 7},
        {"name": "has_columns", "check": "schema", "columns": ["summary_date", "wau", "mau"]},
    ],
    "hourly_metrics_gold": [
        {"name": "answer", "check": "range", "column": "p95_response_time_ms", "min": 0, "max": 5000},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def clean(engine, tmp_path_factory) -> Settings:
    """A lakehouse of clean sample input, with checks of every kind."""
    base = tmp_path_factory.mktemp("clean")
    sample.write(CLEAN, base / "landing", 900)
    settings = config.load(
        {"lakehouse_base_path": str(base), "spark_master": engine, "sample": {"rows": 0}, "quality": OWN}
    )
    pipeline.run(settings, progress=lambda line: None).check()
    return settings


def failing(settings: Settings, name: str, run_id: str = "") -> dict[str, checking.Result]:
    results = quality.run_checks(settings, tables.get(settings, name), run_id)
    return {result.check_name: result for result in results if result.failed}


def test_clean_data_passes_all_checks(clean):
    used = set()
    for table in tables.declared(clean).values():
        assert failing(clean, table.name) == {}
        used |= {check.kind for check in table.all_checks}
    assert used == set(kinds.KINDS)


def first(count: int, **values):
    """Set columns of the first rows."""
    return lambda rows: [row | values if n < count else row for n, row in enumerate(rows)]


def every(**values):
    """Set columns of all rows, each from its row."""
    return lambda rows: [row | {name: value(row) for name, value in values.items()} for row in rows]


def double(rows):
    return [*rows, rows[0]]


def only(count: int):
    return lambda rows: rows[:count]


def older(column: str):
    return every(**{column: lambda row: row[column] and row[column] - timedelta(days=10)})


def without(column: str):
    return lambda rows: [{name: value for name, value in row.items() if name != column} for row in rows]


def three_of_the_first_day(rows):
    day = min(row["event_date"] for row in rows)
    return [row for row in rows if row["event_date"] != day] + [row for row in rows if row["event_date"] == day][:3]


def reverse_order(rows):
    return [
        row | {"_changed_at": other}
        for row, other in zip(rows, sorted((r["_changed_at"] for r in rows), reverse=True), strict=True)
    ]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"check": "rang", "column": "event_hour"}, "unknown check 'rang'; did you mean range?"),
        ({"check": "range", "column": "event_huor", "min": 1}, "unknown column 'event_huor'; did you mean event_hour?"),
        ({"check": "range", "colum": "event_hour"}, "unknown argument of range 'colum'; did you mean column?"),
        ({"check": "range", "column": "event_hour", "min": [1]}, "min = [1]: expected float | str"),
        ({"check": "unique", "columns": "user_id"}, "columns = 'user_id': expected list"),
        ({"check": "range", "column": "event_hour"}, "range needs min, max or both"),
        ({"check": "range", "column": "event_hour", "min": 0, "severity": "eror"}, "did you mean error?"),
        ({"check": "range", "column": "event_hour", "min": 0, "scope": "runs"}, "did you mean run?"),
        ({"check": "range", "column": "event_hour", "min": 0, "tolerance": 5}, "a share from 0 to 1"),
        ({"check": "range", "column": "event_hour", "min": 0, "severity": "quarantine"}, "of a bronze table"),
        ({"check": "expression", "condition": "event_huor > 3"}, "did you mean event_hour?"),
        ({"check": "expression", "condition": "event_hour > ("}, "event_hour > ("),
        ({"check": "expression", "condition": "nosuch(event_hour) > 3"}, "nosuch"),
        ({"check": "range", "column": "event_hour", "max": "noon"}, "noon"),
        ({"check": "foreign_key", "column": "user_id", "table": "user_silver"}, "did you mean users_silver?"),
        ({"check": "foreign_key", "column": "user_id", "table": "users_silver"}, "is made from app_events_silver"),
        ({"check": "unique"}, "column or columns is required"),
        ({"check": "allowed_values", "column": "app_type"}, "allowed_values needs values"),
        ({"check": "row_count", "min": 1, "tolerance": 0.5}, "tolerance is for checks of each row"),
        ({"check": "row_count", "name": "is it, then?"}, "letters, digits and _"),
    ],
)
def test_invalid_definition_is_rejected_with_the_nearest_name(wrong, words):
    settings = config.load({"quality": {"app_events_silver": [wrong]}})
    with pytest.raises(ConfigError) as caught:
        tables.declared(settings)
    assert words in str(caught.value) and "quality.app_events_silver" in str(caught.value)


@pytest.mark.parametrize(
    ("condition", "holds"),
    [("'O''Brien' = \"O'Brien\"", True), (r"'bot_1' LIKE 'bot\_%'", True), (r"'bots' LIKE 'bot\_%'", False),
     ("round(1.005D, 2) = 1.01", True), ("CAST(2.7D AS INT) = 2", True), ("substring('abc', 0, 2) = 'ab'", True)],
)  # fmt: skip
def test_condition_means_the_same_as_in_spark(real_spark, condition, holds):
    (ours,) = reader.connect().execute(f"SELECT {rules.to_duckdb(condition, {})}").fetchone()
    assert ours == real_spark.sql(f"SELECT {condition} AS holds").first().holds == holds


TYPES = {"n": "int", "x": "double", "s": "string", "at": "timestamp", "day": "date"}
FEW = [
    {"n": 1, "x": 1.0, "s": "a", "at": datetime.now(UTC) - timedelta(hours=2), "day": date(2026, 3, 1)},
    {"n": 2, "x": 2.0, "s": "a", "at": datetime.now(UTC) - timedelta(hours=9), "day": date(2026, 3, 2)},
    {"n": 3, "x": float("nan"), "s": "bb", "at": None, "day": date(2026, 3, 2)},
    {"n": None, "x": 4.0, "s": None, "at": None, "day": None},
]


def measure(definition: dict, rows: list[dict]) -> tuple[rules.Rule, dict, float | None]:
    """A check's rule, and what it finds in some rows: the parts and the measured number."""
    kinds = {"int": pa.int32(), "double": pa.float64(), "string": pa.string(), "date": pa.date32(),
             "timestamp": pa.timestamp("us")}  # fmt: skip
    rule = checks.compile_check(checks.parse(definition), "t", "silver", TYPES, ["t"])
    connection = reader.connect()
    values = [row | {"at": row["at"] and row["at"].replace(tzinfo=None)} for row in rows]
    schema = pa.schema([(name, kinds[kind]) for name, kind in TYPES.items()])
    reader.register(connection, "t", dataset.dataset(pa.Table.from_pylist(values, schema)))
    prepared = "".join(f", {sql} AS {name}" for name, sql in rule.prepared.items())
    asked = ", ".join(f"{sql} AS {name}" for name, sql in rule.parts.items())
    cursor = connection.execute(f"SELECT {asked} FROM (SELECT *{prepared} FROM t)")
    parts = dict(zip([column[0] for column in cursor.description], cursor.fetchone(), strict=True))
    return rule, parts, rule.value(parts)


@pytest.mark.parametrize(
    ("definition", "rows", "measured", "passes"),
    [
        ({"check": "not_null", "columns": ["n", "s", "day"]}, 4, 1, False),
        ({"check": "null_share", "column": "at", "max": 0.5}, 4, 0.5, True),
        ({"check": "null_share", "column": "n", "max": 0}, 4, 0.25, False),
        ({"check": "null_share", "column": "n", "max": 0, "where": "s = 'a'"}, 2, 0, True),
        ({"check": "castable", "column": "s", "to": "int"}, 4, 3, False),
        ({"check": "range", "column": "n", "min": 2}, 4, 1, False),
        ({"check": "range", "column": "n", "max": 2}, 4, 1, False),
        ({"check": "range", "column": "x", "min": 1, "max": 4}, 4, 1, False),
        ({"check": "range", "column": "day", "min": date(2026, 3, 1), "max": "2026-03-02"}, 4, 0, True),
        ({"check": "allowed_values", "column": "s", "values": ["bb"]}, 4, 2, False),
        ({"check": "length", "column": "s", "min": 2}, 4, 2, False),
        ({"check": "length", "column": "s", "max": 1}, 4, 1, False),
        ({"check": "length", "column": "s", "min": 1, "max": 2}, 4, 0, True),
        ({"check": "foreign_key", "column": "x", "table": "t", "key": "n"}, 4, 2, False),
        ({"check": "monotonic", "column": "n", "order_by": "at"}, 4, 1, False),
        ({"check": "monotonic", "column": "n", "order_by": "at", "by": "day"}, 4, 0, True),
        ({"check": "expression", "condition": "n < 3"}, 4, 1, False),
        ({"check": "expression", "condition": "n < 3", "tolerance": 0.25}, 4, 0.25, True),
        ({"check": "expression", "condition": "datediff(MONTH, day, day) = 0"}, 4, 0, True),
        ({"check": "unique", "column": "s"}, 3, 1, False),
        ({"check": "unique", "columns": ["s", "n"]}, 3, 0, True),
        ({"check": "row_count", "min": 4, "max": 4}, 4, 4, True),
        ({"check": "row_count", "min": 2, "where": "s = 'bb'"}, 1, 1, False),
        ({"check": "freshness", "column": "at", "max_hours": 3}, 4, pytest.approx(2, abs=0.9), True),
        ({"check": "ratio", "numerator": "n", "denominator": "n", "max": 1}, 4, 1, True),
        ({"check": "ratio", "numerator": "n", "denominator": "n", "max": 1, "where": "n > 1"}, 2, 1, True),
        ({"check": "aggregate", "expression": "count(DISTINCT s)", "min": 3}, 4, 2, False),
        ({"check": "drift", "column": "s", "baseline": {"a": 0.5, "bb": 0.5}}, 3, pytest.approx(log(2) / 6), True),
        ({"check": "drift", "column": "s", "baseline": {"other": 0.5, "a": 0.5}}, 3, pytest.approx(log(2) / 6), True),
        ({"check": "drift", "column": "n", "baseline": {"<2": 0.5, "<4": 0.5}}, 3, pytest.approx(log(2) / 6), True),
        ({"check": "drift", "column": "s", "baseline": {"a": 0.6, "c": 0.4}}, 3, pytest.approx(6.027, 1e-3), False),
    ],
)  # fmt: skip
def test_each_kind_measures_what_it_says(definition, rows, measured, passes):
    rule, parts, found = measure(definition, FEW)
    assert (parts["rows"], found) == (rows, measured)
    assert ((rule.low is None or found >= rule.low) and (rule.high is None or found <= rule.high)) is passes


def test_a_measured_number_has_its_unit():
    units = {
        "rows": {"check": "unique", "column": "s"}, "of the rows": {"check": "null_share", "column": "s", "max": 1},
        "hours": {"check": "freshness", "column": "at", "max_hours": 1}, "": {"check": "row_count", "min": 1},
        "columns": {"check": "schema", "columns": ["s"]},
    }  # fmt: skip
    for unit, definition in units.items():
        assert checks.compile_check(checks.parse(definition), "t", "silver", TYPES).unit == unit


@pytest.mark.parametrize("definition", [
    {"check": "freshness", "column": "at", "max_hours": 3}, {"check": "drift", "column": "s", "baseline": {"a": 1}},
    {"check": "ratio", "numerator": "n", "denominator": "x", "max": 1},
])  # fmt: skip
def test_of_no_rows_there_is_nothing_to_measure(definition):
    assert measure(definition, [])[2] is None


def test_checks_of_an_unknown_table_are_rejected():
    with pytest.raises(ConfigError, match=r"quality.app_event_silver: .* did you mean app_events_silver"):
        tables.declared(config.load({"quality": {"app_event_silver": []}}))


def test_all_checks_of_a_table_run_in_one_scan(clean):
    """The query plan reads the table only once for all checks."""
    for table in tables.declared(clean).values():
        rules = {check.name: tables.rule(table, check, tables.declared(clean)) for check in table.all_checks}
        connection = reader.connect()
        for name in {table.name, *(need for rule in rules.values() for need in rule.needs)}:
            delta_table = DeltaTable(delta.table_path(clean, tables.get(clean, name)))
            reader.register(connection, name, delta_table.to_pyarrow_dataset())
        text = checking.query(table, table.name, list(table.all_checks), rules)
        plan = connection.execute(f"EXPLAIN {text}").fetchall()[0][1]
        assert plan.count("ARROW_SCAN") == 1 + sum(len(rule.needs) for rule in rules.values()), table.name


@pytest.mark.parametrize("name", [t.name for t in tables.declared(Settings()).values()])
def test_suggested_checks_pass_on_their_table(clean, name):
    table = tables.get(clean, name)
    actual = profiles.profile(clean, table)
    text = profiles.as_yaml(table, profiles.suggest(table, actual))
    suggested = yaml.safe_load(text)["quality"][name] or []
    again = clean.model_copy(update={"quality": {name: OWN.get(name, []) + suggested}})
    assert failing(again, name) == {}
    rows = DeltaTable(delta.table_path(clean, table)).to_pyarrow_table().to_pylist()
    for column in actual:
        values = [row[column.column] for row in rows]
        assert (column.rows, column.nulls) == (len(rows), values.count(None))
        if not column.type.startswith("array"):
            assert column.distinct == len({value for value in values if value is not None})
    assert bool(suggested) or not rows


FUTURE, LONG_AGO = datetime.now(UTC) + timedelta(days=900), datetime(2001, 1, 1, tzinfo=UTC)
DEFECTS = [
    ("app_events_bronze", first(60, _quality_flags=["x"]), "few_are_rejected"),
    ("app_events_bronze", first(2, _source_file=None), "required_values"),
    ("app_events_bronze", older("event_timestamp"), "fresh"),
    ("app_events_bronze", first(1, source_system="MOBILE!"), "known_source"),
    ("app_events_bronze", without("app_type"), "columns_as_declared"),
    ("clickstream_bronze", first(3, status_code=700), "status"),
    ("clickstream_bronze", first(1, status_code=-1), "status"),
    ("clickstream_bronze", first(1, element="frame"), "element_known"),
    ("clickstream_bronze", first(300, user_id=None), "user_or_not"),
    ("clickstream_bronze", first(1, user_agent="x"), "agent_length"),
    ("clickstream_bronze", first(1, user_agent="y" * 300), "agent_length"),
    ("clickstream_bronze", older("click_timestamp"), "fresh"),
    ("cdc_changes_bronze", first(1, cdc_id="no hex"), "id_is_hex"),
    ("cdc_changes_bronze", double, "one_id"),
    ("cdc_changes_bronze", older("change_timestamp"), "fresh"),
    ("app_events_silver", double, "key_is_unique"),
    ("app_events_silver", first(1, event_type=None), "required_values"),
    ("app_events_silver", first(1, event_hour=24), "hour_in_day"),
    ("app_events_silver", first(1, event_hour=-1), "hour_in_day"),
    ("app_events_silver", first(1, duration_ms=-5), "duration_not_negative"),
    ("app_events_silver", first(1, event_timestamp=LONG_AGO), "date_of_timestamp"),
    ("app_events_silver", first(250, user_id=None), "most_are_signed_in"),
    ("app_events_silver", first(1, user_id="nobody"), "user_known"),
    ("app_events_silver", only(150), "enough"),
    ("app_events_silver", first(1, app_type="tv"), "app"),
    ("app_events_silver", first(300, app_type="web"), "apps"),
    ("app_events_silver", first(1, country="DEU"), "country_code"),
    ("app_events_silver", first(1, event_value=-0.01), "value_positive"),
    ("app_events_silver", first(1, event_value=float("nan")), "value_positive"),
    ("app_events_silver", three_of_the_first_day, "each_day"),
    ("app_events_silver", first(1, device_os=None), "device_there"),
    ("app_events_silver", every(user_id=lambda row: "user_000001"), "some_users"),
    ("app_events_silver", older("event_timestamp"), "fresh"),
    ("app_events_silver", every(event_hour=lambda row: str(row["event_hour"])), "hour_is_int"),
    ("clickstream_silver", double, "key_is_unique"),
    (
        "clickstream_silver",
        every(session_end_time=lambda row: row["session_start_time"] - timedelta(seconds=1)),
        "ends_after_start",
    ),
    ("clickstream_silver", first(1, total_clicks=0), "has_clicks"),
    ("clickstream_silver", every(is_bounce=lambda row: not row["is_bounce"]), "bounce_is_one_click"),
    ("clickstream_silver", first(1, avg_response_time_ms=90_000.0), "answers_in_time"),
    ("clickstream_silver", first(30, session_duration_seconds=1e6), "short"),
    ("clickstream_silver", every(error_count=lambda row: row["total_clicks"]), "errors_per_click"),
    ("clickstream_silver", first(1, page_sequence=[]), "pages_listed"),
    ("users_history_silver", first(1, operation_type="MERGE"), "operation"),
    ("users_history_silver", every(valid_to=lambda row: row["valid_from"]), "valid_in_order"),
    ("users_history_silver", every(is_current=lambda row: not row["is_current"]), "open_is_current"),
    ("users_history_silver", every(is_current=lambda row: True), "one_current_version"),
    ("users_history_silver", reverse_order, "in_order"),
    ("users_silver", first(1, plan="gold"), "plan"),
    ("users_silver", first(1, signup_date=LONG_AGO.date()), "signed_up_once"),
    ("users_silver", first(1, is_known=False, first_seen_date=None), "known_or_seen"),
    ("users_silver", first(1, is_deleted=True, email="x@y"), "deleted_is_empty"),
    ("users_silver", first(1, first_seen_date=FUTURE.date()), "seen_in_order"),
    ("users_silver", first(1, email="not an address"), "email_has_a_form"),
    ("event_metrics_gold", first(1, unique_users=10**6), "users_not_above_events"),
    ("event_metrics_gold", first(1, min_event_value=9.0, max_event_value=1.0), "values_in_order"),
    ("hourly_metrics_gold", first(1, error_rate=1.5), "error_rate_is_a_share"),
    ("hourly_metrics_gold", first(1, p95_response_time_ms=6000.0), "answer"),
    ("daily_summary_gold", first(1, wau=0), "dau_wau_mau"),
    ("daily_summary_gold", first(1, new_users=99), "new_and_returning"),
    ("daily_summary_gold", first(1, bounce_rate=-0.1), "bounce_rate_is_a_share"),
    ("daily_summary_gold", first(1, stickiness=1.2), "stickiness"),
    ("daily_summary_gold", only(3), "every_day"),
    ("daily_summary_gold", without("mau"), "has_columns"),
    ("user_segments_gold", first(1, segment_name="Best"), "segment_known"),
    ("user_segments_gold", first(1, engagement_score=101.0), "score_in_range"),
    ("user_segments_gold", first(1, risk_of_churn=-0.1), "risk_is_a_share"),
    ("user_segments_gold", first(1, user_id="nobody"), "user_is_known"),
]


@pytest.mark.parametrize(("name", "plant", "check"), DEFECTS, ids=lambda v: v if isinstance(v, str) else "")
def test_injected_defect_is_found_by_its_check(clean, name, plant, check):
    path = delta.table_path(clean, tables.get(clean, name))
    opened = DeltaTable(path)
    good, version = opened.to_pyarrow_table(), opened.version()
    rows = plant(good.to_pylist())
    fields = [field.with_nullable(True) for field in good.schema if field.name in rows[0]]
    if check == "hour_is_int":
        fields = [pa.field(f.name, pa.string()) if f.name == "event_hour" else f for f in fields]
    bad = pa.Table.from_pylist(rows, pa.schema(fields))
    write_deltalake(path, bad, mode="overwrite", schema_mode="overwrite")
    try:
        actual = failing(clean, name)
    finally:
        DeltaTable(path).restore(version)
    assert check in actual
    result = actual[check]
    assert name in result.message and check in result.message and result.expected
    assert failing(clean, name) == {}
