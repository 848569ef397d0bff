"""The business report: key figures by day, segments and event types, from the gold tables alone.

A figure that has never been anything but zero is left out: its feed delivers nothing for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pandas as pd
from IPython.display import HTML
from markupsafe import Markup

from lakehouse_lib.care import probes
from lakehouse_lib.config import Settings
from lakehouse_lib.model import tables
from lakehouse_lib.serve import charts, markup, style
from lakehouse_lib.storage import reader
from lakehouse_lib.trust import anomalies

SPAN = 28
"""Days that sums by event type and hour cover: whole weeks."""

TABLES = ("daily_summary_gold", "user_segments_gold", "event_metrics_gold")
"""The tables that the report is made from."""

_FIGURES = (
    ("total_users", "daily users", "{:,.0f}"), ("new_users", "new users", "{:,.0f}"),
    ("total_sessions", "sessions", "{:,.0f}"), ("total_value", "value of events", "{:,.2f}"),
    ("total_events", "events", "{:,.0f}"), ("bounce_rate", "bounce rate", "{:.1%}"),
)  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """A key figure of the last full day."""

    label: str
    value: str
    before: str
    """The value a week earlier; empty if there is none."""
    change: str
    spark: Markup


def days(settings: Settings) -> pd.DataFrame:
    """Return the rows of ``daily_summary_gold``, oldest first, without technical columns, of the days that were
    over when the table was last updated."""
    frame = reader.query(
        settings, "SELECT * EXCLUDE (_run_id, _processed_at) FROM daily_summary_gold ORDER BY summary_date"
    )
    updates = anomalies.arrivals(settings, tables.get(settings, "daily_summary_gold"))
    today = max(updates, default=datetime.now(UTC)).astimezone(UTC).date()
    return frame[pd.to_datetime(frame.summary_date).dt.date < today]


def known(frame: pd.DataFrame, names: list[str]) -> list[str]:
    """Return the columns that hold something other than zero."""
    return [name for name in names if name in frame and frame[name].fillna(0).any()]


def segments(settings: Settings) -> pd.DataFrame:
    """Return a row for each segment of ``user_segments_gold``: users, their share, value and risk of churn."""
    return reader.query(
        settings,
        """
        SELECT segment_name AS segment, count(*) AS users, 100.0 * count(*) / sum(count(*)) OVER () AS "% of users",
               sum(monetary_value) AS "value, 90 days", 100.0 * avg(risk_of_churn) AS "risk of churn, %",
               any_value(recommended_action) AS "recommended action"
        FROM user_segments_gold GROUP BY 1 ORDER BY users DESC, segment
    """,
    )


def event_types(settings: Settings, limit: int = 8) -> pd.DataFrame:
    """Return the most frequent event types of the last `SPAN` days of data: ``event_type`` and ``events``."""
    return reader.query(
        settings,
        f"""
        SELECT event_type, sum(total_events)::BIGINT AS events FROM event_metrics_gold
        WHERE metric_date > (SELECT max(metric_date) FROM event_metrics_gold) - {SPAN}
        GROUP BY 1 ORDER BY events DESC, event_type LIMIT {limit}
    """,
    )


def by_hour(settings: Settings, names: list[str]) -> pd.DataFrame:
    """Return the events of each hour of the day (UTC), the mean of the last `SPAN` days of data or of as many as there
    are: ``hour`` and a column for each event type."""
    frame = reader.query(
        settings,
        f"""
        WITH days AS (SELECT max(metric_date) AS newest, least({SPAN}, max(metric_date) - min(metric_date) + 1) AS many
                      FROM event_metrics_gold)
        SELECT metric_hour AS hour, event_type, sum(total_events) / any_value(many) AS events
        FROM event_metrics_gold, days WHERE metric_date > newest - {SPAN} GROUP BY ALL
    """,
    )
    wide = frame.pivot(index="hour", columns="event_type", values="events").reindex(range(24)).fillna(0)
    return wide[[name for name in names if name in wide]].reset_index()


def front(settings: Settings, frame: pd.DataFrame) -> HTML:
    """Show the key figures of the last full day, each with its trend and the same weekday of the week before; and
    which of the tables behind them are not up to date."""
    if frame.empty:
        return HTML("<p>No full day yet: daily_summary_gold has no rows. Run the layers first.</p>")
    steps = probes.last_steps(settings)
    stale: dict[tuple[str, str], list[str]] = {}
    for step in (steps[name] for name in TABLES if name in steps):
        if step["state"] in ("failed", "held"):
            stale.setdefault((step["state"], step["message"]), []).append(step["target"])
    by_day = frame.set_index(pd.to_datetime(frame.summary_date).dt.date)
    last: date = by_day.index.max()
    tiles = [_tile(by_day, name, label, form, last) for name, label, form in _FIGURES if known(frame, [name])]
    return markup.shown("business", last=last, tiles=tiles, stale=stale)


def _tile(by_day: pd.DataFrame, name: str, label: str, form: str, last: date) -> Tile:
    value, week_ago = by_day[name].get(last), by_day[name].get(last - timedelta(days=7))
    calendar = [last - timedelta(days=ago) for ago in range(29, -1, -1)]
    trend = [0.0 if pd.isna(v := by_day[name].get(day)) else float(v) for day in calendar]
    spark = Markup(charts.spark(trend, label=f"{label}, 30 days to {last}"))
    if week_ago is None or pd.isna(week_ago):
        return Tile(label, "none" if pd.isna(value) else form.format(value), "", "", spark)
    if pd.isna(value):
        return Tile(label, "none", form.format(week_ago), "no figure", spark)
    change = f"{100 * (value - week_ago):+.1f} points" if "%" in form else style.change(week_ago, value)
    return Tile(label, form.format(value), form.format(week_ago), change, spark)
