"""Anomalies: volume, nulls and arrival times of a table, compared with its own history.

No table is scanned: rows and nulls per day come from the Delta logs, file times from ``ops/``.

Counts go through Anscombe's transform 2·√(x + 3/8), which gives every count the same variance
(F. Anscombe, Biometrika 35, 1948), and are compared with the median of the same weekday (and hour) of
the previous weeks, scaled to the level of the last week. The threshold is a multiple of the median
absolute deviation of earlier differences (F. Hampel, JASA 69, 1974), so earlier incidents do not widen
it. Shares go through the arcsine transform (M. Freeman, J. Tukey, 1950).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from lakehouse_lib.config import Settings
from lakehouse_lib.intake import landing
from lakehouse_lib.model import tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta, reader

FAR = 5.0
"""Robust deviations from the expected value that make an anomaly; at 5, a quiet series of 1,000 normal
periods has none."""

CHANGE = 0.25
"""Smallest relative change that counts as an anomaly, however certain the change is."""

NULLS = 0.02
"""Smallest absolute increase of a share of nulls that counts as an anomaly."""

FEWEST = 50
"""Rows in the median hour below which hours are not judged: a single busy visitor would dominate them."""

WEEKS, ENOUGH = 8, 3
"""Weeks to look back, and the number of them that must have data."""


@dataclass(frozen=True)
class Anomaly:
    """One incident; consecutive periods of the same kind are merged into one."""

    table: str
    kind: str
    """drop, spike, stall, nulls or late."""
    metric: str
    start: datetime
    end: datetime
    value: float
    expected: float

    @property
    def message(self) -> str:
        """One sentence with the value and the expected value."""
        span = f"{self.start:%Y-%m-%d %H:%M}" + (f" to {self.end:%Y-%m-%d %H:%M}" if self.end > self.start else "")
        number_format = "{:.1%}" if self.kind == "nulls" else "{:,.0f}"
        value, expected = number_format.format(self.value), number_format.format(self.expected)
        return f"{self.table}: {self.kind} of {self.metric}, {span}: {value}, expected about {expected}"


def expected_counts(counts: pd.Series, hourly: bool = False) -> pd.DataFrame:
    """Return the expected count of each period, and whether the actual count is anomalous.

    ``counts`` is indexed by the start of each day (or hour), without gaps. Returns ``value``,
    ``expected``, ``low``, ``high`` (NaN where the history is too short) and ``odd boolean``.
    """
    season, step = (24 * 7, 24) if hourly else (7, 1)
    values = counts.to_numpy(float)
    size = len(values)
    usable = values.copy()  # without incidents, so that they do not become the expectation
    base, expected, threshold = np.full(size, np.nan), np.full(size, np.nan), np.full(size, np.nan)
    score = np.full(size, np.nan)
    odd = np.zeros(size, bool)
    periods = range(size) if not hourly or (size and np.median(values) >= FEWEST) else ()
    for i in periods:
        previous = usable[i % season : i : season][-WEEKS:]
        previous = previous[~np.isnan(previous)]
        if len(previous) < ENOUGH:
            continue
        base[i] = np.median(previous)
        week = slice(max(0, i - season), i)
        ratios = usable[week][base[week] > 0] / base[week][base[week] > 0]
        ratios = ratios[~np.isnan(ratios)]
        expected[i] = base[i] * (np.median(ratios) if len(ratios) >= step * 3 else 1.0)
        score[i] = _stable(values[i]) - _stable(expected[i])
        recent = score[max(0, i - season * WEEKS) : i][~odd[max(0, i - season * WEEKS) : i]]
        recent = recent[~np.isnan(recent)]
        if len(recent) < 7 * step:
            continue
        spread = max(1.0, 1.4826 * np.median(np.abs(recent - np.median(recent))))
        threshold[i] = FAR * spread
        odd[i] = abs(score[i]) > threshold[i] and abs(values[i] - expected[i]) > CHANGE * expected[i]
        if odd[i]:
            usable[i] = np.nan
    low = np.minimum(_counted(_stable(expected) - threshold), expected * (1 - CHANGE))
    high = np.maximum(_counted(_stable(expected) + threshold), expected * (1 + CHANGE))
    return pd.DataFrame({"value": values, "expected": expected, "low": low, "high": high, "odd": odd}, counts.index)


def odd_shares(parts: pd.Series, totals: pd.Series) -> pd.DataFrame:
    """Return the shares of nulls by day, and whether they have jumped: ``value``, ``expected`` and ``odd boolean``."""
    shares = (parts / totals.where(totals > 0)).to_numpy(float)
    expected, odd = np.full(len(shares), np.nan), np.zeros(len(shares), bool)
    score = np.full(len(shares), np.nan)
    for i in range(len(shares)):
        previous = shares[max(0, i - 7 * WEEKS) : i][~odd[max(0, i - 7 * WEEKS) : i]]
        previous = previous[~np.isnan(previous)]
        if len(previous) < 7 or np.isnan(shares[i]):
            continue
        expected[i] = np.median(previous)
        score[i] = 2 * np.sqrt(totals.iloc[i]) * (np.arcsin(np.sqrt(shares[i])) - np.arcsin(np.sqrt(expected[i])))
        earlier = score[:i][~np.isnan(score[:i]) & ~odd[:i]]
        if len(earlier) < 7:
            continue
        spread = max(1.0, 1.4826 * np.median(np.abs(earlier)))
        odd[i] = score[i] > FAR * spread and shares[i] - expected[i] > NULLS
    return pd.DataFrame({"value": shares, "expected": expected, "odd": odd}, totals.index)


def longest_wait(arrivals: list[datetime]) -> timedelta | None:
    """Return the longest normal wait after the last arrival, judged by the waits that began on the same weekday.

    None if the history is too short: fewer than three such waits, and fewer than seven in total.
    """
    times = sorted(set(arrivals))
    waits = [(start.weekday(), (end - start).total_seconds()) for start, end in itertools.pairwise(times)]
    if not waits:
        return None
    same_weekday = [wait for day, wait in waits if day == times[-1].weekday()]
    sample = same_weekday if len(same_weekday) >= ENOUGH else [wait for _, wait in waits]
    if len(sample) < (ENOUGH if sample is same_weekday else 7):
        return None
    median = float(np.median(sample))
    spread = 1.4826 * float(np.median(np.abs(np.array(sample) - median)))
    return timedelta(seconds=median + FAR * max(spread, 0.1 * median, 60))


def daily(settings: Settings, table: Table) -> pd.DataFrame:
    """Return the rows and nulls of each day, from the log: indexed by day, with ``rows`` and ``null:<column>``.

    Covers the days up to the last arrival, without gaps; empty if the table has no date partition.
    """
    days = so_far(settings, table)
    if days.empty:
        return days
    arrival_times = arrivals(settings, table)
    # A day is complete once it is over and something has arrived since.
    last_day = (
        min(days.index.max(), max(arrival_times).replace(tzinfo=None) - timedelta(days=1))
        if arrival_times
        else days.index.max()
    )
    return days.reindex(pd.date_range(days.index.min(), last_day), fill_value=0)


def so_far(settings: Settings, table: Table) -> pd.DataFrame:
    """Return the same as `daily`, but of each day that has rows, also of days that are not over."""
    return delta.once(f"rows by day of {table.name}", lambda: _so_far(settings, table))


def _so_far(settings: Settings, table: Table) -> pd.DataFrame:
    delta_table = delta.opened(settings, table)
    if delta_table is None or not table.partition_by:
        return pd.DataFrame({"rows": []}, dtype=float)
    known, day = delta.files(delta_table), f"partition.{table.partition_by}"
    if day not in known.column_names:
        return pd.DataFrame({"rows": []}, dtype=float)
    columns = {"num_records": "rows"} | {
        f"null_count.{name}": f"null:{name}" for name in table.business if f"null_count.{name}" in known.column_names
    }
    files = known.select([day, *columns]).to_pandas()
    days: pd.DataFrame = files.dropna(subset=[day]).groupby(day)[list(columns)].sum().rename(columns=columns)
    days.index = pd.DatetimeIndex(pd.to_datetime(days.index))
    return days


def volume(settings: Settings, table: Table) -> pd.DataFrame:
    """Return the rows of the last days, each with its expected range: `expected_counts` of `daily`.

    A day is judged by the 17 weeks before it, so earlier ones are left out.
    """
    return delta.once(f"volume of {table.name}", lambda: expected_counts(daily(settings, table)["rows"].tail(180)))


def hourly(settings: Settings, table: Table) -> pd.Series:
    """Return the rows of each hour for the tables that ``hourly_metrics_gold`` counts; empty for others."""
    column = {"app_events_silver": "total_events", "clickstream_silver": "total_clicks"}.get(table.name)
    if column is None:
        return pd.Series(dtype=float)
    frame = reader.query(
        settings,
        f"""
        SELECT metric_date + to_hours(metric_hour) AS hour, {column} AS rows FROM hourly_metrics_gold ORDER BY hour
    """,
    )
    frame = frame[frame.rows.cumsum() > 0]
    if frame.empty:
        return pd.Series(dtype=float)
    hours = pd.date_range(frame.hour.min(), frame.hour.max(), freq="h")
    return frame.set_index("hour").rows.astype(float).reindex(hours, fill_value=0)


def arrivals(settings: Settings, table: Table) -> list[datetime]:
    """Return when new data arrived: the times of landed files, or of the runs that updated the table."""
    if table.layer == "bronze":
        return [file.modified for file in landing.list_files(settings, landing.feed_of(table))]
    return [
        row["started_at"]
        for row in delta.read_ops(settings, "runs", target=table.name)
        if row["state"] in ("updated", "rebuilt")
    ]


def find(settings: Settings, table: Table, now: datetime | None = None) -> list[Anomaly]:
    """Return all anomalies of a table, oldest first."""
    now = now or datetime.now(UTC)
    days = daily(settings, table)
    anomalies: list[Anomaly] = []
    if len(days):
        anomalies += incidents(table.name, "rows per day", expected_counts(days.rows))
        for column in (name for name in map(str, days) if name.startswith("null:")):
            judged = odd_shares(days[column], days.rows)
            anomalies += incidents(table.name, f"nulls in {column.removeprefix('null:')}", judged, "nulls")
    hours = hourly(settings, table)
    if len(hours):
        anomalies += incidents(table.name, "rows per hour", expected_counts(hours, hourly=True))
    arrival_times = arrivals(settings, table)
    wait = longest_wait(arrival_times)
    if wait and now - max(arrival_times) > wait:
        hours_late = (now - max(arrival_times)).total_seconds() / 3600
        anomalies.append(Anomaly(table.name, "late", "hours without anything new", max(arrival_times), now, hours_late,
                                 wait.total_seconds() / 3600))  # fmt: skip
    return sorted(anomalies, key=lambda anomaly: anomaly.start.replace(tzinfo=None))


def incidents(table: str, metric: str, judged: pd.DataFrame, kind: str = "") -> list[Anomaly]:
    """Return the odd periods of `expected_counts` or `odd_shares`; adjacent periods of the same kind are merged."""
    anomalies: list[Anomaly] = []
    step = judged.index[1] - judged.index[0] if len(judged) > 1 else pd.Timedelta(days=1)
    at: Any
    for at, row in judged[judged.odd].iterrows():
        anomaly_kind = kind or ("stall" if row.value == 0 else "drop" if row.value < row.expected else "spike")
        last = anomalies[-1] if anomalies else None
        start, value, expected = at.to_pydatetime(), row.value, row.expected
        if last and last.kind == anomaly_kind and last.end + step == at:
            anomalies.pop()
            start = last.start
            value, expected = (value, expected) if kind else (last.value + value, last.expected + expected)
        anomalies.append(Anomaly(table, anomaly_kind, metric, start, at.to_pydatetime(), float(value), float(expected)))
    return anomalies


@delta.look()
def overview(settings: Settings) -> pd.DataFrame:
    """Return all anomalies of all tables: ``table``, ``kind`` and a sentence (``what``)."""
    anomalies = [anomaly for table in tables.declared(settings).values() for anomaly in find(settings, table)]
    return pd.DataFrame(
        [(anomaly.table, anomaly.kind, anomaly.message) for anomaly in anomalies], columns=["table", "kind", "what"]
    )


def text(settings: Settings, table: Table) -> str:
    """Return the anomalies of a table as text for the terminal."""
    anomalies = find(settings, table)
    return "\n".join(anomaly.message for anomaly in anomalies) or f"{table.name}: nothing unusual"


def _stable(counts: Any) -> Any:
    return 2 * np.sqrt(np.maximum(counts, 0) + 0.375)


def _counted(stable: Any) -> Any:
    return np.maximum(0, (np.maximum(stable, 0) / 2) ** 2 - 0.375)
