"""Declarations: they match the design, and one declaration is enough for a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import event
from deltalake import DeltaTable
from lake import rows

from lakehouse_lib import config
from lakehouse_lib.errors import ConfigError
from lakehouse_lib.flow import pipeline, selection
from lakehouse_lib.model import tables
from lakehouse_lib.storage import delta

PROMISED = {
    "app_events_bronze": "event_id user_id session_id event_type app_type event_timestamp event_date "
    "event_properties device_info source_system load_timestamp",
    "clickstream_bronze": "click_id user_id anonymous_id client_session_id page_name action element referrer "
    "user_agent response_time_ms status_code click_timestamp click_date load_timestamp",
    "cdc_changes_bronze": "cdc_id table_name operation_type primary_key before_values after_values "
    "change_timestamp change_date sequence load_timestamp source_system",
    "app_events_silver": "event_id user_id session_id event_type app_type event_timestamp event_date event_hour "
    "device_type device_os device_model app_version country event_value duration_ms is_error",
    "clickstream_silver": "session_id user_id client_session_id session_start_time session_end_time session_date "
    "session_duration_seconds page_sequence total_clicks distinct_pages entry_page exit_page is_bounce "
    "avg_response_time_ms error_count",
    "users_silver": "user_id email name country plan signup_date is_known is_deleted deleted_at first_seen_date "
    "last_seen_date total_events total_sessions is_active",
    "users_history_silver": "user_id operation_type valid_from valid_to is_current",
    "event_metrics_gold": "metric_date metric_hour event_type app_type total_events unique_users avg_event_value "
    "min_event_value max_event_value sum_event_value",
    "hourly_metrics_gold": "metric_date metric_hour total_events total_clicks unique_users total_sessions "
    "avg_response_time_ms p95_response_time_ms error_count error_rate records_rejected",
    "daily_summary_gold": "summary_date total_users wau mau stickiness new_users returning_users "
    "return_user_percentage total_events total_sessions avg_session_duration bounce_rate total_value",
    "user_segments_gold": "user_id segment_date segment_name recency_days frequency monetary_value lifetime_value "
    "engagement_score risk_of_churn recommended_action",
}


@pytest.mark.parametrize("name", PROMISED)
def test_tables_match_the_design(name):
    table = tables.get(config.Settings(), name)
    assert set(PROMISED[name].split()) <= set(table.business)
    run_columns = {"_run_id", "_ingested_at", "_source_file", "_quality_flags", "_rescued_data", "_raw"}
    assert (run_columns if table.layer == "bronze" else {"_run_id", "_processed_at"}) <= set(table.names)
    assert all(column.comment for column in table.columns)
    assert table.description and table.grain and table.owner and table.freshness_hours
    assert table.layer == "bronze" or (table.key and table.sources)


def test_declaration_is_written_to_delta_metadata(lakehouse):
    lake = lakehouse()
    for table in tables.declared(lake).values():
        delta.ensure(lake, table)
        delta_table = DeltaTable(delta.table_path(lake, table))
        assert (delta_table.metadata().name, delta_table.metadata().description) == (table.name, table.description)
        fields = {field.name: field for field in delta_table.schema().fields}
        assert list(fields) == table.names
        for column in table.columns:
            assert fields[column.name].metadata["comment"] == column.comment
            assert fields[column.name].nullable is not column.required
        assert delta_table.metadata().partition_columns == list(filter(None, [table.partition_by]))
        checksum = json.loads(Path(delta.table_path(lake, table), "_delta_log", f"{0:020d}.crc").read_text())
        assert (checksum["metadata"]["id"], checksum["numFiles"]) == (delta_table.metadata().id, 0)


def countries(inputs):
    """Events by country."""
    from pyspark.sql import functions as F

    return inputs.all("app_events_silver").groupBy("country").agg(F.count(F.lit(1)).alias("events"))


def test_table_is_added_by_one_declaration_and_one_function(lakehouse, deliver, extra_table):
    table = extra_table(tables.Table(
        name="countries_gold", layer="gold", description="Events by country", grain="a country",
        key=("country",), sources=("app_events_silver",), transform=f"{__name__}.countries",
        declared="""
        country string required -- ISO code
        events  bigint required -- events
        """,
    ))  # fmt: skip
    names = ("app_events_bronze", "app_events_silver", table.name)
    lake = lakehouse(tables=",".join(names))
    for number, count in ((1, 1), (2, 2)):
        deliver(f"app_events/{number}.json", [event(number, properties={"country": "DE"})])
        pipeline.run(lake, progress=lambda line: None).check()
        assert rows(lake, "countries_gold") == [{"country": "DE", "events": count}]
    assert selection.pending(lake) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer": "platinum"}, "layer 'platinum' is not one of"),
        ({"key": ("town",)}, "town is not one of its columns"),
        ({"sources": ("app_event_silver",)}, "did you mean app_events_silver?"),
        ({"name": "users_silver"}, "already a table users_silver"),
        ({"declared": "country text -- no such type"}, "Unknown column type 'text'"),
    ],
)
def test_invalid_declaration_is_rejected(changes, words):
    values = {"name": "x_gold", "layer": "gold", "description": "x", "grain": "x", "key": ("country",),
             "sources": ("app_events_silver",), "transform": "x.y", "declared": "country string -- c"}  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        tables.register(tables.Table(**values | changes))
    assert words in str(caught.value)
    with pytest.raises(ConfigError, match="there is no table 'user_silver'; did you mean users_silver"):
        tables.get(config.Settings(), "user_silver")
