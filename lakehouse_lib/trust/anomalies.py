"""Anomalies: volume, nulls and arrival of a table against its own history.

Nothing is scanned: rows and nulls per day stand in the Delta logs, files' times in ``ops/``.

Counts are compared after Anscombe's transform 2·√(x + 3/8), which gives every count the same
variance (F. Anscombe, Biometrika 35, 1948), with the median of the same weekday (and hour) of the
weeks before, at the level of the last week. How far is too far is told by the median absolute
deviation of earlier differences (F. Hampel, JASA 69, 1974), so that earlier incidents do not widen
it. Shares are compared after the arcsine transform (M. Freeman, J. Tukey, 1950).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lakehouse_lib.config import Settings
from lakehouse_lib.intake import landing
from lakehouse_lib.model import tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta, reader

FAR = 5.0
"""Deviations (robust) from what is expected that make an anomaly; at 5 a quiet series of 1,000
normal periods has none."""

CHANGE = 0.25
"""Relative change that a person cares about; smaller ones are none, however certain."""

NULLS = 0.02
"""The same for shares of nulls, absolute."""

FEWEST = 50
"""Rows in the median hour below which hours are not judged: one busy visitor is most of them."""

WEEKS, ENOUGH = 8, 3
"""Weeks to look back, and how many of them are needed."""


@dataclass(frozen=True)
class Anomaly:
    """One incident: consecutive periods of one kind are one."""

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
        """One sentence with number and bound."""
        span = f"{self.start:%Y-%m-%d %H:%M}" + (f" to {self.end:%Y-%m-%d %H:%M}" if self.end > self.start else "")
        shown = "{:.1%}" if self.kind == "nulls" else "{:,.0f}"
        value, expected = shown.format(self.value), shown.format(self.expected)
        return f"{self.table}: {self.kind} of {self.metric}, {span}: {value}, expected about {expected}"


def expected_counts(counts: pd.Series, hourly: bool = False) -> pd.DataFrame:
    """What each period's count should be, and whether it is.

    ``counts`` is indexed by the beginning of each day (or hour), without holes. Returns
    ``value``, ``expected``, ``low``, ``high`` (NaN where history is too short) and ``odd boolean``.
    """
    season, step = (24 * 7, 24) if hourly else (7, 1)
    values = counts.to_numpy(float)
    size = len(values)
    usable = values.copy()  # incidents are taken out, so that they do not become what is expected
    base, expected, far = np.full(size, np.nan), np.full(size, np.nan), np.full(size, np.nan)
    score = np.full(size, np.nan)
    odd = np.zeros(size, bool)
    judged = range(size) if not hourly or (size and np.median(values) >= FEWEST) else ()
    for i in judged:
        before = usable[i % season : i : season][-WEEKS:]
        before = before[~np.isnan(before)]
        if len(before) < ENOUGH:
            continue
        base[i] = np.median(before)
        week = slice(max(0, i - season), i)
        ratios = usable[week][base[week] > 0] / base[week][base[week] > 0]
        ratios = ratios[~np.isnan(ratios)]
        expected[i] = base[i] * (np.median(ratios) if len(ratios) >= step * 3 else 1.0)
        score[i] = _stable(values[i]) - _stable(expected[i])
        known = score[max(0, i - season * WEEKS) : i][~odd[max(0, i - season * WEEKS) : i]]
        known = known[~np.isnan(known)]
        if len(known) < 7 * step:
            continue
        spread = max(1.0, 1.4826 * np.median(np.abs(known - np.median(known))))
        far[i] = FAR * spread
        odd[i] = abs(score[i]) > far[i] and abs(values[i] - expected[i]) > CHANGE * expected[i]
        if odd[i]:
            usable[i] = np.nan
    low = np.minimum(_counted(_stable(expected) - far), expected * (1 - CHANGE))
    high = np.maximum(_counted(_stable(expected) + far), expected * (1 + CHANGE))
    return pd.DataFrame({"value": values, "expected": expected, "low": low, "high": high, "odd": odd}, counts.index)


def odd_shares(parts: pd.Series, totals: pd.Series) -> pd.DataFrame:
    """Days whose share of nulls has jumped: ``value``, ``expected`` and ``odd boolean`` by day."""
    shares = (parts / totals.where(totals > 0)).to_numpy(float)
    expected, odd = np.full(len(shares), np.nan), np.zeros(len(shares), bool)
    score = np.full(len(shares), np.nan)
    for i in range(len(shares)):
        before = shares[max(0, i - 7 * WEEKS) : i][~odd[max(0, i - 7 * WEEKS) : i]]
        before = before[~np.isnan(before)]
        if len(before) < 7 or np.isnan(shares[i]):
            continue
        expected[i] = np.median(before)
        score[i] = 2 * np.sqrt(totals.iloc[i]) * (np.arcsin(np.sqrt(shares[i])) - np.arcsin(np.sqrt(expected[i])))
        known = score[:i][~np.isnan(score[:i]) & ~odd[:i]]
        if len(known) < 7:
            continue
        spread = max(1.0, 1.4826 * np.median(np.abs(known)))
        odd[i] = score[i] > FAR * spread and shares[i] - expected[i] > NULLS
    return pd.DataFrame({"value": shares, "expected": expected, "odd": odd}, totals.index)


def longest_wait(arrivals: list[datetime]) -> timedelta | None:
    """How long the next arrival may take after the last, by the waits that began on its weekday.

    None where history is too short: fewer than three such waits, and fewer than seven at all.
    """
    times = sorted(set(arrivals))
    waits = [(a.weekday(), (b - a).total_seconds()) for a, b in itertools.pairwise(times)]
    if not waits:
        return None
    same = [wait for day, wait in waits if day == times[-1].weekday()]
    judged = same if len(same) >= ENOUGH else [wait for _, wait in waits]
    if len(judged) < (ENOUGH if judged is same else 7):
        return None
    median = float(np.median(judged))
    spread = 1.4826 * float(np.median(np.abs(np.array(judged) - median)))
    return timedelta(seconds=median + FAR * max(spread, 0.1 * median, 60))


def daily(settings: Settings, table: Table) -> pd.DataFrame:
    """Rows and nulls of each day, from the log: index day; ``rows`` and ``null:<column>``.

    Days up to the last arrival, without holes; empty where the table has no date partition.
    """
    opened = delta.opened(settings, table)
    if opened is None or not table.partition_by:
        return pd.DataFrame({"rows": []}, dtype=float)
    files = pa.table(opened.get_add_actions(flatten=True)).to_pandas()
    day = f"partition.{table.partition_by}"
    columns = {"num_records": "rows"} | {
        f"null_count.{name}": f"null:{name}" for name in table.business if f"null_count.{name}" in files
    }
    found: pd.DataFrame = files.dropna(subset=[day]).groupby(day)[list(columns)].sum().rename(columns=columns)
    if found.empty:
        return found
    found.index = pd.DatetimeIndex(pd.to_datetime(found.index))
    arrived = arrivals(settings, table)
    # A day is judged when it is over and something has arrived since.
    last = (
        min(found.index.max(), max(arrived).replace(tzinfo=None) - timedelta(days=1)) if arrived else found.index.max()
    )
    return found.reindex(pd.date_range(found.index.min(), last), fill_value=0)


def hourly(settings: Settings, table: Table) -> pd.Series:
    """Rows of each hour for the feeds that ``hourly_metrics_gold`` counts; empty for others."""
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
    """When something new came: times of the files that landed, or of the runs that wrote."""
    if table.layer == "bronze":
        return [file.modified for file in landing.list_files(settings, landing.feed_of(table))]
    return [row["started_at"] for row in delta.read_ops(settings, "runs", target=table.name, state="updated")]


def find(settings: Settings, table: Table, now: datetime | None = None) -> list[Anomaly]:
    """All anomalies of a table, oldest first."""
    now = now or datetime.now(UTC)
    days = daily(settings, table)
    found: list[Anomaly] = []
    if len(days):
        found += incidents(table.name, "rows per day", expected_counts(days.rows))
        for column in (name for name in map(str, days) if name.startswith("null:")):
            judged = odd_shares(days[column], days.rows)
            found += incidents(table.name, f"nulls in {column.removeprefix('null:')}", judged, "nulls")
    hours = hourly(settings, table)
    if len(hours):
        found += incidents(table.name, "rows per hour", expected_counts(hours, hourly=True))
    came = arrivals(settings, table)
    wait = longest_wait(came)
    if wait and now - max(came) > wait:
        hours_late = (now - max(came)).total_seconds() / 3600
        found.append(Anomaly(table.name, "late", "hours without anything new", max(came), now, hours_late,
                             wait.total_seconds() / 3600))  # fmt: skip
    return sorted(found, key=lambda one: one.start.replace(tzinfo=None))


def incidents(table: str, metric: str, judged: pd.DataFrame, kind: str = "") -> list[Anomaly]:
    """The odd periods of `expected_counts` or `odd_shares`; neighbours of one kind are one."""
    found: list[Anomaly] = []
    step = judged.index[1] - judged.index[0] if len(judged) > 1 else pd.Timedelta(days=1)
    at: Any
    for at, row in judged[judged.odd].iterrows():
        what = kind or ("stall" if row.value == 0 else "drop" if row.value < row.expected else "spike")
        last = found[-1] if found else None
        start, value, expected = at.to_pydatetime(), row.value, row.expected
        if last and last.kind == what and last.end + step == at:
            found.pop()
            start = last.start
            value, expected = (value, expected) if kind else (last.value + value, last.expected + expected)
        found.append(Anomaly(table, what, metric, start, at.to_pydatetime(), float(value), float(expected)))
    return found


def overview(settings: Settings, now: datetime | None = None) -> pd.DataFrame:
    """All anomalies of all tables: ``table``, ``kind``, ``what`` in words."""
    found = [one for table in tables.declared(settings).values() for one in find(settings, table, now)]
    return pd.DataFrame([(one.table, one.kind, one.message) for one in found], columns=["table", "kind", "what"])


def text(settings: Settings, table: Table) -> str:
    """What the terminal shows."""
    found = find(settings, table)
    return "\n".join(one.message for one in found) or f"{table.name}: nothing unusual"


def _stable(counts: Any) -> Any:
    return 2 * np.sqrt(np.maximum(counts, 0) + 0.375)


def _counted(stable: Any) -> Any:
    return np.maximum(0, (np.maximum(stable, 0) / 2) ** 2 - 0.375)
