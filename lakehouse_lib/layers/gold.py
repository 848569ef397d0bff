"""Gold: aggregates for reports and dashboards. Sums are exact, so they do not depend on the order of rows."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

from pyspark.sql import Column
from pyspark.sql import functions as F

from lakehouse_lib.config import SegmentSettings
from lakehouse_lib.layers.inputs import Inputs, live_rows
from lakehouse_lib.layers.refresh import Days, Difference

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def exact(name: str) -> Column:
    """Convert a number to a decimal, whose sum is the same in any order; values up to 10^21."""
    return F.col(name).cast("decimal(28,6)")


def event_metrics(inputs: Inputs) -> Days:
    """event_metrics_gold, for the days of new events."""
    days = inputs.days("app_events_silver")
    events = inputs.all("app_events_silver")
    return Days(hourly_events(_only(events, "event_date", days)), days)


def hourly_events(events: DataFrame) -> DataFrame:
    """Return the metrics of events per hour, type and app."""
    total = F.sum(exact("event_value")).cast("double")
    return events.groupBy(
        F.col("event_date").alias("metric_date"),
        F.col("event_hour").alias("metric_hour"),
        "event_type",
        F.coalesce("app_type", F.lit("unknown")).alias("app_type"),
    ).agg(
        F.count(F.lit(1)).alias("total_events"),
        F.countDistinct("user_id").alias("unique_users"),
        (total / F.nullif(F.count("event_value"), F.lit(0))).alias("avg_event_value"),
        F.min("event_value").alias("min_event_value"),
        F.max("event_value").alias("max_event_value"),
        total.alias("sum_event_value"),
    )


def hourly_metrics(inputs: Inputs) -> Days:
    """hourly_metrics_gold, for the days of new events, clicks or rejections."""
    rejected = inputs.table.sources[2:]
    sessions = inputs.all("clickstream_silver")
    days: set[date] | None = None
    if not inputs.full:
        days = inputs.changed_days("app_events_silver") | _click_days(inputs)
        for name in rejected:
            days |= inputs.changed_days(name)
    if days:
        ends = F.col("session_end_time").cast("date")
        first, last = F.lit(min(days)), F.lit(max(days))
        near = sessions.where((F.col("session_date") <= last) & (ends >= first))
    else:
        near = sessions
    metrics = hourly(
        _only(inputs.all("app_events_silver"), "event_date", days),
        near,
        [_only(inputs.all(name), "landed_date", days) for name in rejected],
    )
    return Days(_only(metrics, "metric_date", days), days)


def _click_days(inputs: Inputs) -> set[date]:
    """Return the days of the clicks of changed sessions, before and after the change."""
    touched = inputs.changed_days("clickstream_silver")
    days = set(touched)
    if touched:
        versions = (inputs.all("clickstream_silver"), inputs.before("clickstream_silver"))
        for sessions in (version for version in versions if version is not None):
            # Do not compare the two columns: Sail estimates the number of remaining rows, and fails if it is wrong.
            over_midnight = (
                _only(sessions, "session_date", touched)
                .where(F.datediff(F.col("session_end_time").cast("date"), "session_date") > 0)
                .select("session_date", F.col("session_end_time").cast("date").alias("end"))
                .distinct()
            )
            for row in over_midnight.collect():
                span = (row["end"] - row["session_date"]).days
                days |= {row["session_date"] + timedelta(n) for n in range(span + 1)}
    return days


def hourly(events: DataFrame, sessions: DataFrame, rejected: list[DataFrame]) -> DataFrame:
    """Return the operational metrics of each hour with any activity."""
    nothing = {"user_id": "string", "ms": "double", "event": "int", "click": "int",
               "session": "int", "error": "int", "reject": "int"}  # fmt: skip

    def part(df: DataFrame, at: Column, **columns: Column) -> DataFrame:
        return df.select(
            at.cast("date").alias("metric_date"),
            F.hour(at).alias("metric_hour"),
            *(
                columns.get(name, F.lit(None if kind in ("string", "double") else 0)).cast(kind).alias(name)
                for name, kind in nothing.items()
            ),
        )

    one = F.lit(1)
    clicks = sessions.select("user_id", F.inline("_clicks"))
    parts = part(events, F.col("event_timestamp"), user_id=F.col("user_id"), event=one, error=F.col("is_error"))
    parts = parts.unionByName(
        part(clicks, F.col("click_timestamp"), user_id=F.col("user_id"), click=one,
             ms=F.col("response_time_ms"),
             error=F.coalesce(F.col("status_code") >= 400, F.lit(False)))
    )  # fmt: skip
    parts = parts.unionByName(part(sessions, F.col("session_start_time"), session=one))
    for table in rejected:
        parts = parts.unionByName(part(table, F.col("load_timestamp"), reject=one))
    happened = F.sum(F.col("event") + F.col("click"))
    hours = parts.groupBy("metric_date", "metric_hour").agg(
        F.sum("event").alias("total_events"),
        F.sum("click").alias("total_clicks"),
        F.countDistinct("user_id").alias("unique_users"),
        F.sum("session").alias("total_sessions"),
        (F.sum(exact("ms")).cast("double") / F.nullif(F.count("ms"), F.lit(0))).alias("avg_response_time_ms"),
        F.sort_array(F.collect_list("ms")).alias("_ms"),
        F.count("ms").alias("_n"),
        F.sum("error").alias("error_count"),
        F.when(happened > 0, F.sum("error") / happened).otherwise(0.0).alias("error_rate"),
        F.sum("reject").alias("records_rejected"),
    )
    return hours.withColumn("p95_response_time_ms", _percentile("_ms", "_n", 0.95)).drop("_ms", "_n")


def _percentile(ordered: str, count: str, share: float) -> Column:
    """Return a percentile of a sorted array of ``count`` doubles, interpolated like Spark's ``percentile``, whose last
    digit other engines round differently; null for an empty array."""
    position = F.lit(share) * (F.col(count) - 1)
    below, above = F.floor(position).cast("int"), F.ceil(position).cast("int")
    value = F.get(ordered, below)
    return F.when(below == above, value).otherwise(
        (above - position) * value + (position - below) * F.get(ordered, above)
    )


def daily_summary(inputs: Inputs) -> Difference:
    """daily_summary_gold from the first changed day onwards: later days depend on it, through users of the previous 30
    days and through new users."""
    since = None
    if not inputs.full:
        touched = inputs.changed_days("app_events_silver") | inputs.changed_days("clickstream_silver")
        since = min(touched) if touched else None
    summary = daily(inputs.all("app_events_silver"), inputs.all("clickstream_silver"), since)
    old = live_rows(inputs)
    if old is not None and since is not None:
        old = old.where(F.col("summary_date") >= F.lit(since))
    return Difference(summary, old)


def daily(events: DataFrame, sessions: DataFrame, since: date | None = None) -> DataFrame:
    """Return the key figures of each day with an event or a session, from a day onwards."""
    firsts = _user_days(events, sessions).groupBy("user_id").agg(F.min("day").alias("day"))
    recent = events, sessions
    if since:
        event_day, session_day, first = F.col("event_date"), F.col("session_date"), F.lit(since)
        month = F.date_sub(first, 30)
        recent = events.where(event_day > month), sessions.where(session_day > month)
        events, sessions = events.where(event_day >= first), sessions.where(session_day >= first)
        firsts = firsts.where(F.col("day") >= first)
    base = _by_day(events, sessions)
    new = firsts.groupBy("day").agg(F.count(F.lit(1)).alias("new_users"))
    joined = base.join(_active_users(_user_days(*recent), base), "day", "left").join(new, "day", "left")
    counts = ("total_users", "wau", "mau", "new_users", "total_events", "total_sessions")
    joined = joined.withColumns({c: F.coalesce(c, F.lit(0).cast("bigint")) for c in counts})
    returning = F.col("total_users") - F.col("new_users")
    return joined.select(
        F.col("day").alias("summary_date"), "total_users", "wau", "mau",
        (F.col("total_users") / F.nullif("mau", F.lit(0))).alias("stickiness"),
        "new_users", returning.alias("returning_users"),
        (returning * 100.0 / F.nullif("total_users", F.lit(0))).alias("return_user_percentage"),
        "total_events", "total_sessions", "avg_session_duration", "bounce_rate",
        F.coalesce("total_value", F.lit(0.0)).alias("total_value"),
    )  # fmt: skip


def _user_days(events: DataFrame, sessions: DataFrame) -> DataFrame:
    """Return ``user_id`` and ``day`` for each day on which a user was active."""
    # Filtered before the union: Sail loses the columns of a filter above a union of unions.
    known = F.col("user_id").isNotNull()
    of_events = events.where(known).select("user_id", F.col("event_date").alias("day"))
    return of_events.unionByName(sessions.where(known).select("user_id", F.col("session_date").alias("day"))).distinct()


def _by_day(events: DataFrame, sessions: DataFrame) -> DataFrame:
    """Return the figures of each day's events and sessions."""
    of_events = events.groupBy(F.col("event_date").alias("day")).agg(
        F.count(F.lit(1)).alias("total_events"),
        F.coalesce(F.sum(exact("event_value")).cast("double"), F.lit(0.0)).alias("total_value"),
    )
    of_sessions = sessions.groupBy(F.col("session_date").alias("day")).agg(
        F.count(F.lit(1)).alias("total_sessions"),
        (F.sum(exact("session_duration_seconds")).cast("double") / F.count(F.lit(1))).alias("avg_session_duration"),
        (F.count_if("is_bounce") / F.count(F.lit(1))).alias("bounce_rate"),
    )
    return of_events.join(of_sessions, "day", "full_outer")


def _active_users(user_days: DataFrame, days: DataFrame) -> DataFrame:
    """Count the users seen on each day, and in the 7 and the 30 days up to it."""
    spread = user_days.select(
        "user_id",
        F.col("day").alias("seen"),
        F.explode(F.sequence("day", F.date_add("day", 29))).alias("day"),
    )
    ago = F.datediff("day", "seen")
    return (
        spread.join(F.broadcast(days.select("day")), "day")
        .groupBy("day", "user_id")
        .agg(F.min(ago).alias("ago"))
        .groupBy("day")
        .agg(
            F.count_if(F.col("ago") == 0).alias("total_users"),
            F.count_if(F.col("ago") < 7).alias("wau"),
            F.count(F.lit(1)).alias("mau"),
        )
    )


def user_segments(inputs: Inputs) -> Difference:
    """user_segments_gold, as of the newest day of the data."""
    rows = segments(inputs.all("users_silver"), inputs.all("app_events_silver"), inputs.settings.segments)
    return Difference(rows, live_rows(inputs))


RECOMMENDED = {
    "VIP": "Thank personally; offer early access",
    "Active": "Recommend an upgrade",
    "Regular": "Send a weekly digest",
    "Inactive": "Win back with an offer",
}


def segments(users: DataFrame, events: DataFrame, rules: SegmentSettings) -> DataFrame:
    """Return the recency, frequency and value of each user, and the resulting segment.

    Inactive: never seen, or not for more than ``inactive_days``. VIP: worth at least
    ``vip_value`` in the last 90 days. Active: seen in the last ``active_days`` days and at least
    ``active_events`` events in 90 days. Regular: the others. The engagement score gives 40
    points for recency (halved every ``active_days`` days), 40 for frequency and 20 for value
    (full at twice ``active_events``, at ``vip_value``). The risk of churn is the share of
    ``inactive_days`` that has passed since the user was last seen.
    """
    users = users.where("NOT is_deleted")
    as_of = users.agg(F.max("last_seen_date").alias("segment_date")).where("segment_date IS NOT NULL")
    days = F.datediff("segment_date", "last_seen_date")
    joined = (
        users.select("user_id", "last_seen_date")
        .crossJoin(F.broadcast(as_of))
        .join(_worth(events, as_of), "user_id", "left")
        .select(
            "user_id",
            "segment_date",
            days.alias("recency_days"),
            F.coalesce("frequency", F.lit(0).cast("bigint")).alias("frequency"),
            F.coalesce("monetary_value", F.lit(0.0)).alias("monetary_value"),
            F.coalesce("lifetime_value", F.lit(0.0)).alias("lifetime_value"),
        )
    )
    recency = F.col("recency_days")
    churn = F.round(F.least(F.lit(1.0), recency / rules.inactive_days), 4)  # 1 of a null: least skips it
    return joined.withColumn("segment_name", _segment(rules)).select(
        "user_id", "segment_date", "segment_name", "recency_days", "frequency", "monetary_value",
        "lifetime_value", _engagement(rules).alias("engagement_score"), churn.alias("risk_of_churn"),
        _action().alias("recommended_action"),
    )  # fmt: skip


def _worth(events: DataFrame, as_of: DataFrame) -> DataFrame:
    """Return each user's number of events in 90 days, and their value."""
    recent = F.col("event_date") > F.date_sub("segment_date", 90)
    return (
        events.where("user_id IS NOT NULL")
        .crossJoin(F.broadcast(as_of))
        .groupBy("user_id")
        .agg(
            F.count_if(recent).alias("frequency"),
            F.sum(F.when(recent, exact("event_value"))).cast("double").alias("monetary_value"),
            F.sum(exact("event_value")).cast("double").alias("lifetime_value"),
        )
    )


def _segment(rules: SegmentSettings) -> Column:
    recency = F.col("recency_days")
    return (
        F.when(recency.isNull() | (recency > rules.inactive_days), "Inactive")
        .when(F.col("monetary_value") >= rules.vip_value, "VIP")
        .when((recency < rules.active_days) & (F.col("frequency") >= rules.active_events), "Active")
        .otherwise("Regular")
    )


def _action() -> Column:
    (first, text), *others = RECOMMENDED.items()
    action = F.when(F.col("segment_name") == first, text)
    for segment, text in others:
        action = action.when(F.col("segment_name") == segment, text)
    return action


def _engagement(rules: SegmentSettings) -> Column:
    return F.round(
        F.coalesce(40 * F.pow(F.lit(0.5), F.col("recency_days") / rules.active_days), F.lit(0.0))
        + 40 * F.least(F.lit(1.0), F.col("frequency") / (2.0 * rules.active_events))
        + 20 * F.greatest(F.lit(0.0), F.least(F.lit(1.0), F.col("monetary_value") / rules.vip_value)),
        2,
    )


def _only(df: DataFrame, column: str, days: set[date] | None) -> DataFrame:
    return df if days is None else df.where(F.col(column).isin(sorted(days)))
