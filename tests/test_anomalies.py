"""Anomalies: no alarm on seasonal series, an alarm on injected incidents, and no scan."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import duckdb
import numpy as np
import pandas as pd
import pytest
from conftest import event

from lakehouse_lib import sample
from lakehouse_lib.config import SampleSettings
from lakehouse_lib.flow import pipeline
from lakehouse_lib.model import tables
from lakehouse_lib.trust import anomalies

SEEDS = range(10)


@pytest.fixture(scope="module")
def weeks(tmp_path_factory) -> dict[int, pd.DataFrame]:
    """Eight weeks of sample events for each seed: ``moment``, ``user_id`` and ``country``."""
    events = {}
    for seed in SEEDS:
        out = tmp_path_factory.mktemp("weeks")
        sample.write(SampleSettings(days=56, seed=seed, end=date(2026, 3, 10)), out, 30_000)
        columns = "{event_timestamp: 'VARCHAR', properties: 'JSON'}"
        events[seed] = duckdb.sql(f"""
            SELECT try_cast(event_timestamp AS TIMESTAMP) AS moment, properties->>'country' AS country
            FROM read_json('{out}/app_events/**/*', format = 'newline_delimited', ignore_errors = true,
                           columns = {columns})
            WHERE moment BETWEEN '2026-01-13' AND '2026-03-09 23:59:59'
        """).df()
    return events


def per(frame: pd.DataFrame, period: str) -> pd.Series:
    counts = frame.groupby(frame.moment.dt.floor(period)).size().astype(float)
    return counts.reindex(pd.date_range(counts.index.min(), counts.index.max(), freq=period), fill_value=0)


def nulls(frame: pd.DataFrame) -> pd.Series:
    return frame.country.isna().groupby(frame.moment.dt.floor("D")).sum()


@pytest.mark.parametrize("seed", SEEDS)
def test_seasonal_data_raises_no_alarm(weeks, seed):
    days, hours = per(weeks[seed], "D"), per(weeks[seed], "h")
    judged = anomalies.expected_counts(days)
    assert len(judged) == 56 and judged.expected.notna().sum() >= 28
    assert not judged.odd.any()
    assert not anomalies.expected_counts(hours, hourly=True).odd.any()
    assert not anomalies.odd_shares(nulls(weeks[seed]), days).odd.any()


@pytest.mark.parametrize("kind", ["drop", "spike", "stall"])
@pytest.mark.parametrize("seed", SEEDS)
def test_injected_incident_is_reported_on_its_day(weeks, seed, kind):
    days = per(weeks[seed], "D")
    at = days.index[35 + (seed * 7 + len(kind)) % 20]
    days[at] = round(days[at] * {"drop": 0.5, "spike": 2.0, "stall": 0.0}[kind])
    (actual,) = anomalies.incidents("app_events_silver", "rows per day", anomalies.expected_counts(days))
    assert (actual.kind, actual.start) == (kind, at.to_pydatetime())
    assert kind in actual.message and f"{at:%Y-%m-%d}" in actual.message and "expected about" in actual.message


@pytest.mark.parametrize("seed", SEEDS)
def test_burst_of_nulls_is_reported_on_its_day(weeks, seed):
    days, missing = per(weeks[seed], "D"), nulls(weeks[seed])
    at = days.index[20 + seed * 3]
    missing[at] += days[at] * 0.1
    (actual,) = anomalies.incidents("t", "nulls in country", anomalies.odd_shares(missing, days), "nulls")
    assert (actual.kind, actual.start) == ("nulls", at.to_pydatetime())


@pytest.mark.parametrize("seed", range(5))
def test_hours_are_compared_with_the_same_hour_and_weekday(seed):
    """Poisson counts with a night and a weekend; a stall of three hours at noon is one incident."""
    rng = np.random.default_rng(seed)
    hours = pd.date_range("2026-01-05", periods=24 * 56, freq="h")
    level = 400 * (1.1 + np.sin((hours.hour - 9) / 24 * 2 * np.pi)) * np.where(hours.weekday > 4, 0.5, 1)
    counts = pd.Series(rng.poisson(level), hours, float)
    assert not anomalies.expected_counts(counts, hourly=True).odd.any()
    noon = hours[24 * 45 + 11]
    counts[noon : noon + timedelta(hours=2)] = 0
    (actual,) = anomalies.incidents("t", "rows per hour", anomalies.expected_counts(counts, hourly=True))
    assert (actual.kind, actual.start, actual.end) == ("stall", noon, noon + timedelta(hours=2))


def test_lateness_follows_the_weekly_pattern_of_the_feed():
    """Files on working days only: a weekend without files is not late, a Tuesday without one is."""
    start = datetime(2026, 1, 5, 6, tzinfo=UTC)  # a Monday
    came = [start + timedelta(days=n) for n in range(40) if (start + timedelta(days=n)).weekday() < 5]
    friday = max(day for day in came if day.weekday() == 4)
    until = [day for day in came if day <= friday]
    assert timedelta(days=3) < anomalies.longest_wait(until) < timedelta(days=5)
    assert timedelta(days=1) < anomalies.longest_wait([*until, friday + timedelta(days=3)]) < timedelta(days=2)
    assert anomalies.longest_wait(until[:3]) is None


def test_anomalies_are_read_from_the_log(lakehouse, deliver):
    """Four weeks of steady days, then one with a tenth of the rows and nulls in every second."""
    lake = lakehouse(tables="app_events_bronze")
    days = [date(2026, 1, 5) + timedelta(days=n) for n in range(40)]
    records, n = [], 0
    for day in days:
        odd = day == days[-3]
        for i in range(60 if odd else 300):
            n += 1
            records.append(event(n, f"{day}T10:00:00Z", user_id=None if odd and i % 2 else "ann"))
    deliver("app_events/all.json", [json.dumps(record) for record in records])
    pipeline.run(lake, progress=lambda line: None).check()
    bronze = tables.get(lake, "app_events_bronze")
    actual = {(anomaly.kind, anomaly.metric): anomaly for anomaly in anomalies.find(lake, bronze)}
    assert set(actual) == {("drop", "rows per day"), ("nulls", "nulls in user_id")}
    drop = actual["drop", "rows per day"]
    assert (drop.start.date(), drop.value, round(drop.expected)) == (days[-3], 60, 300)
    assert "app_events_bronze: drop of rows per day" in anomalies.text(lake, bronze)
