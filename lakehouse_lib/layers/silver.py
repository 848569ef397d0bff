"""Silver: cleaned events, sessions, users and their history, quarantine.

The functions named in the declarations take `Inputs` and return an outcome; the others are plain DataFrame →
DataFrame.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from lakehouse_lib.engines.session import settle
from lakehouse_lib.layers import bronze, cdc, replicas, versions
from lakehouse_lib.layers.inputs import Inputs, live_rows
from lakehouse_lib.layers.refresh import Append, Days, Difference, Upsert, first_of, held
from lakehouse_lib.model import tables
from lakehouse_lib.model.tables import Table

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

ATTRIBUTES = ("email", "name", "country", "plan", "signup_date")


def quarantine(inputs: Inputs) -> Append | Days:
    """Return the flagged records of a bronze table."""
    (source,) = inputs.table.sources
    rows = rejected(inputs.new(source), inputs.states[source].table)
    changes = inputs.states[source].changes
    if inputs.full or changes is None or not changes.replayed:
        return Append(rows)
    # Records have been replayed: rebuild the days on which they landed.
    days = changes.replayed | {row["landed_date"] for row in rows.select("landed_date").distinct().collect()}
    every = rejected(inputs.all(source), inputs.states[source].table)
    return Days(every.where(F.col("landed_date").isin(sorted(days))), days)


def rejected(rows: DataFrame, table: Table) -> DataFrame:
    """Return the flagged rows of a bronze table as rows of its quarantine."""
    words = {name: sentence for name, (_, sentence) in tables.record_checks(table).items()}
    return rows.where(F.size("_quality_flags") > 0).select(
        F.col("_quality_flags").alias("reasons"),
        bronze.explain(F.col("_quality_flags"), words).alias("explanation"),
        F.coalesce("_raw", F.lit("")).alias("record"),
        "load_timestamp",
        F.col("load_timestamp").cast("date").alias("landed_date"),
        "_source_file",
    )


def app_events(inputs: Inputs) -> Upsert:
    """app_events_silver: of several records with the same id the earliest is kept."""
    good = inputs.new("app_events_bronze").where(F.size("_quality_flags") == 0)
    return Upsert(clean_events(good), ["event_timestamp"])


def clean_events(events: DataFrame) -> DataFrame:
    """Return typed events from good bronze rows."""
    fields = {
        "event_properties": "error country value duration_ms",
        "device_info": "device_type type os model app_version",
    }
    read = {
        f"_{name}": F.from_json(name, ", ".join(f"{field} string" for field in names.split()))
        for name, names in fields.items()
    }
    events = events.withColumns(read)
    prop, device = (F.col(name).getField for name in read)
    failed = ~F.lower(F.coalesce(prop("error"), F.lit("false"))).isin("false", "null", "", "0")
    return events.select(
        "event_id", "user_id", "session_id", "event_type", "app_type", "event_timestamp",
        "event_date",
        F.hour("event_timestamp").alias("event_hour"),
        F.coalesce(device("device_type"), device("type")).alias("device_type"),
        device("os").alias("device_os"),
        device("model").alias("device_model"),
        device("app_version").alias("app_version"),
        prop("country").alias("country"),
        bronze.number(prop("value")).column.alias("event_value"),
        bronze.number(prop("duration_ms"), whole=True).column.alias("duration_ms"),
        (failed | F.lower("event_type").contains("error")).alias("is_error"),
    )  # fmt: skip


# Sessions ------------------------------------------------------------------

_CLICK = ("click_id", "click_timestamp", "page_name", "client_session_id", "response_time_ms", "status_code")


def clickstream(inputs: Inputs) -> Difference:
    """clickstream_silver: new clicks merged into the sessions that they affect."""
    good = inputs.new("clickstream_bronze").where(F.size("_quality_flags") == 0)
    new = visitor_clicks(good).withColumn("_old", F.lit(False))
    old = None
    gap = inputs.settings.session_gap_minutes * 60
    clicks = new
    if not inputs.full:
        new = settle(new)
        old = settle(touched_sessions(inputs.current(), new, gap))
        clicks = session_clicks(old).withColumn("_old", F.lit(True)).unionByName(new)
    winners = first_of(clicks, ["click_id"], ["click_timestamp"], prefer="_old", many=inputs.full)
    winners = settle(winners)
    tally = winners.groupBy().agg(
        F.count_if(~F.col("_old")).alias("records_read"),
        F.count_if(~F.col("_old") & (F.col("_rank") > 1)).alias("duplicate"),
        F.count_if(~F.col("_old") & (F.col("_rank") == 1) & F.col("_replaces")).alias("updated"),
        F.count_if(~F.col("_old") & (F.col("_rank") == 1) & ~F.col("_replaces")).alias("accepted"),
    )
    rows = sessions(winners.where("_rank = 1"), gap)
    return Difference(rows, old, tally)


def visitor_clicks(clicks: DataFrame) -> DataFrame:
    """Return good bronze rows as clicks of visitors."""
    visitor = F.coalesce(F.concat(F.lit("u:"), "user_id"), F.concat(F.lit("a:"), F.col("anonymous_id")))
    return clicks.select(visitor.alias("_visitor"), *_CLICK)


def session_clicks(sessions: DataFrame) -> DataFrame:
    """Return the clicks that sessions consist of."""
    return sessions.select("_visitor", F.inline("_clicks"))


def touched_sessions(sessions: DataFrame, clicks: DataFrame, gap_seconds: int) -> DataFrame:
    """Return sessions that contain the id of one of the clicks, or are within the gap of one of them."""
    gap = F.expr(f"INTERVAL {gap_seconds} SECONDS")
    bounds = clicks.agg(F.unix_micros(F.min("click_timestamp") - gap), F.unix_micros(F.max("click_timestamp") + gap))
    first, last = (F.timestamp_micros(F.lit(micros).cast("bigint")) for micros in bounds.first() or ())
    near = (
        # As constants, the first and the last moment let the engine skip whole files.
        sessions.where((F.col("session_end_time") >= first) & (F.col("session_start_time") <= last))
        .join(clicks.select("_visitor", "click_timestamp").distinct(), "_visitor")
        .where(
            (F.col("click_timestamp") >= F.col("session_start_time") - gap)
            & (F.col("click_timestamp") <= F.col("session_end_time") + gap)
        )
        .select("session_id", "session_date")
    )
    same = (
        sessions.select("session_id", "session_date", F.explode("_clicks.click_id").alias("click_id"))
        .join(clicks.select("click_id").distinct(), "click_id", "left_semi")
        .select("session_id", "session_date")
    )
    return held(sessions, near.union(same).distinct(), ["session_id"], "session_date")


def sessions(clicks: DataFrame, gap_seconds: int) -> DataFrame:
    """Build sessions from clicks: a pause longer than the gap begins a new session.

    ``clicks`` has ``_visitor string``, ``click_id string``, ``click_timestamp timestamp``,
    ``page_name string``, ``client_session_id string``, ``response_time_ms double`` and
    ``status_code int``, each id once.
    """
    in_order = Window.partitionBy("_visitor").orderBy("click_timestamp", "click_id")
    pause = F.unix_micros("click_timestamp") - F.unix_micros(F.lag("click_timestamp").over(in_order))
    begins = F.coalesce(pause > gap_seconds * 1_000_000, F.lit(True)).cast("int")
    numbered = clicks.withColumn("_begins", begins).withColumn("_n", F.sum("_begins").over(in_order))
    click = F.struct("click_timestamp", "click_id", *(c for c in _CLICK if c not in _CLICK[:2]))
    response = F.col("response_time_ms").cast("decimal(28,6)")
    grouped = numbered.groupBy("_visitor", "_n").agg(
        F.sort_array(F.collect_list(click)).alias("c"),
        (F.sum(response).cast("double") / F.nullif(F.count("response_time_ms"), F.lit(0))).alias(
            "avg_response_time_ms"
        ),
        F.count_if(F.col("status_code") >= 400).alias("error_count"),
    )
    first, last = F.get("c", F.lit(0)), F.element_at("c", -1)
    client = F.get(F.filter("c", lambda x: x["client_session_id"].isNotNull()), F.lit(0))
    start, end = first["click_timestamp"], last["click_timestamp"]
    identity = F.concat_ws("|", "_visitor", F.unix_micros(start), first["click_id"])
    pages = F.transform("c", lambda x: x["page_name"])
    return grouped.select(
        F.substring(F.sha2(identity, 256), 1, 32).alias("session_id"),
        F.when(F.col("_visitor").startswith("u:"), F.expr("substring(_visitor, 3)")).alias("user_id"),
        client["client_session_id"].alias("client_session_id"),
        start.alias("session_start_time"),
        end.alias("session_end_time"),
        start.cast("date").alias("session_date"),
        ((F.unix_micros(end) - F.unix_micros(start)) / 1_000_000).alias("session_duration_seconds"),
        pages.alias("page_sequence"),
        F.size("c").cast("bigint").alias("total_clicks"),
        F.size(F.array_distinct(pages)).cast("bigint").alias("distinct_pages"),
        first["page_name"].alias("entry_page"),
        last["page_name"].alias("exit_page"),
        (F.size("c") == 1).alias("is_bounce"),
        "avg_response_time_ms",
        "error_count",
        "_visitor",
        F.transform("c", lambda x: F.struct(*(x[name].alias(name) for name in _CLICK))).alias("_clicks"),
    )


# Users ---------------------------------------------------------------------


def users_history(inputs: Inputs) -> Difference:
    """users_history_silver: every version of the users that new changes affect, in order."""
    key = inputs.settings.cdc.users_key
    result = versions.of(inputs, inputs.settings.cdc.users_table, [key])
    old = None
    if not inputs.full:
        old = inputs.current()
        if result.keys is not None:
            ids = result.keys.select(F.from_json("_key", cdc.MAP)[key].alias("user_id"))
            old = old.join(ids, "user_id", "left_semi")
    return Difference(scd2(user_versions(result.rows, key)), old, result.counts)


def user_versions(rows: DataFrame, key: str) -> DataFrame:
    """Return versions of users with known attributes in columns, and the others as JSON."""
    value: Callable[[str], Column] = lambda name: cdc.plain(F.col("_row")[name])  # noqa: E731
    taken = F.array(*(F.lit(name) for name in (key, *ATTRIBUTES)))
    rest = F.map_filter("_row", lambda name, _: ~F.array_contains(taken, name))
    rest = F.map_from_entries(F.array_sort(F.map_entries(rest)))
    # Debezium encodes a date as days since 1970; as text it would be read as a year.
    day = value("signup_date")
    date = F.when(day.rlike(r"^-?[0-9]{1,6}\z"), F.date_from_unix_date(day.try_cast("int"))).otherwise(
        day.try_cast("date")
    )
    date = F.when(F.year(date).between(1, 9999), date)
    return rows.select(
        F.from_json("_key", cdc.MAP)[key].alias("user_id"),
        *(date.alias(name) if name == "signup_date" else value(name).alias(name) for name in ATTRIBUTES),
        F.when(F.size(rest) > 0, replicas.as_json(rest)).alias("attributes"),
        "operation_type",
        "_n",
        "_moment",
        F.col("change_timestamp").alias("_changed_at"),
        "_source_file",
        "_source_line",
    )


def scd2(rows: DataFrame) -> DataFrame:
    """Slowly changing dimension, type 2: validity of each version of each user.

    ``rows`` has ``user_id``, the attributes, ``operation_type``, ``_n`` (number in the order) and ``_moment``
    (microseconds, never decreasing in that order). A version begins at its moment, and at least 1 µs after the
    previous one. A truncation is a version of the users that existed then.
    """
    by_order = Window.partitionBy("user_id").orderBy("_n")
    number = F.row_number().over(by_order)
    existed = ~F.coalesce(F.lag("operation_type").over(by_order), F.lit("DELETE")).isin(*versions.REMOVALS)
    rows = rows.withColumn("_there", existed).where((F.col("operation_type") != "TRUNCATE") | F.col("_there"))
    raised = F.max(F.col("_moment") - number).over(by_order) + number
    timed = rows.withColumn("valid_from", F.timestamp_micros(raised))
    following = F.lead("valid_from").over(by_order)
    return timed.select(
        "user_id", *ATTRIBUTES, "attributes", "operation_type", "valid_from",
        following.alias("valid_to"), following.isNull().alias("is_current"), "_changed_at", "_source_file",
        "_source_line",
    )  # fmt: skip


def users(inputs: Inputs) -> Difference:
    """users_silver: the attributes of each user from CDC, and the user's activity."""
    rows = user_dimension(
        inputs.all("users_history_silver"),
        inputs.all("app_events_silver"),
        inputs.all("clickstream_silver"),
        inputs.settings.active_days,
    )
    return Difference(rows, live_rows(inputs))


def user_dimension(history: DataFrame, events: DataFrame, sessions: DataFrame, active_days: int) -> DataFrame:
    """Return one row per user of the history, the events or the sessions."""
    is_removed = F.col("operation_type").isin(*versions.REMOVALS)
    known = history.where("is_current").select(
        "user_id",
        *ATTRIBUTES,
        "attributes",
        F.lit(True).alias("is_known"),
        is_removed.alias("is_deleted"),
        F.when(is_removed, F.col("valid_from")).alias("deleted_at"),
    )
    activity_days = reduce(
        lambda a, b: a.unionByName(b),
        [
            events.where("user_id IS NOT NULL").select(
                "user_id", F.col("event_date").alias("day"),
                F.lit(1).alias("e"), F.lit(0).alias("s"),
            ),
            sessions.where("user_id IS NOT NULL").select(
                "user_id", F.col("session_date").alias("day"),
                F.lit(0).alias("e"), F.lit(1).alias("s"),
            ),
        ],
    )  # fmt: skip
    activity = activity_days.groupBy("user_id").agg(
        F.min("day").alias("first_seen_date"),
        F.max("day").alias("last_seen_date"),
        F.sum("e").alias("total_events"),
        F.sum("s").alias("total_sessions"),
    )
    newest = activity.agg(F.max("last_seen_date").alias("_newest"))
    joined = known.join(activity, "user_id", "full_outer").crossJoin(F.broadcast(newest))
    active = F.col("last_seen_date") > F.date_sub("_newest", active_days)
    zero: Callable[[str], Column] = lambda name: F.coalesce(name, F.lit(0).cast("bigint")).alias(name)  # noqa: E731
    no: Callable[[Column], Column] = lambda column: F.coalesce(column, F.lit(False))  # noqa: E731
    return joined.select(
        "user_id", *ATTRIBUTES, "attributes",
        no(F.col("is_known")).alias("is_known"), no(F.col("is_deleted")).alias("is_deleted"),
        "deleted_at", "first_seen_date", "last_seen_date",
        zero("total_events"), zero("total_sessions"),
        (no(active) & ~no(F.col("is_deleted"))).alias("is_active"),
    )  # fmt: skip
