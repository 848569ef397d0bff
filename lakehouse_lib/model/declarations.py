"""The declarations of the tables: every built-in table, and the replicas that parameters add.

Everything else about a table is derived from its declaration. ``transform`` names the function that computes the
table: it receives a `layers.inputs.Inputs` and returns what to write. To add a built-in table, declare it here, list
it in `BUILT_IN` and write that function; `tables.register` adds a table without a change here.
"""

from __future__ import annotations

from typing import Any

from lakehouse_lib.model.checks import check
from lakehouse_lib.model.messages import CONTROLS
from lakehouse_lib.model.schema import Table


def _same(*names: str) -> dict[str, str]:
    """For ``traced_by``: columns that are equal in the source and in the table."""
    return {name: name for name in names}


_PLACE = _same("_source_file", "_source_line")
"""Where a change was read: the file, and the place in it."""

_HOUR = "cast(metric_date AS timestamp) + metric_hour * INTERVAL '1' HOUR"
"""The start of the hour that a row is about."""

_ACCEPTED = f"size(array_except(_quality_flags, array({', '.join(map(repr, CONTROLS))}))) = 0"
"""Condition of a record that is not rejected; a message that changes no row does not count as rejected."""


def _bronze(name: str, feed: str, date: str, declared: str, **more: Any) -> Table:
    """A bronze table: the raw records of a feed, partitioned by the day in column ``date``."""
    return Table(
        name=name, layer="bronze", grain="a record as it was received",
        declared=declared, key=(), sources=(),
        transform="lakehouse_lib.layers.cdc.changes" if "cdc" in feed else f"lakehouse_lib.layers.bronze.{feed}",
        partition_by=date, event_time=date.replace("_date", "_timestamp"), retention_days=30, tags=("raw", feed),
        checks=(check("few_are_rejected", "expression", condition=_ACCEPTED, tolerance=0.05, severity="warn"),),
        **more,
    )  # fmt: skip


def _quarantine(bronze: Table) -> Table:
    """The table of the records that are rejected from a bronze table."""
    return Table(
        name=f"{bronze.name}_quarantine", layer="quarantine",
        description=f"Records of {bronze.name} that silver does not take, with the reason",
        grain="a rejected record", key=(), sources=(bronze.name,),
        transform="lakehouse_lib.layers.silver.quarantine", partition_by="landed_date",
        retention_days=90, tags=("quarantine", *bronze.tags[1:]),
        traced_by={bronze.name: {"_source_file": "_source_file", "_raw": "record"}},
        declared="""
    reasons          array<string> required -- the flags, as the ledger counts them
    explanation      string     required -- the same for people
    record           string     -- the record as it came
    load_timestamp   timestamp  required -- when its file landed
    landed_date      date       required -- day on which its file landed
    """,
    )  # fmt: skip


APP_EVENTS_BRONZE = _bronze(
    "app_events_bronze",
    "app_events",
    "event_date",
    description="Raw application events from the processing layer",
    cluster_by=("event_type",),
    freshness_hours=24,
    bounds={"event_properties.value": (-1e15, 1e15), "event_properties.duration_ms": (-9e15, 9e15)},
    declared="""
    event_id         string     -- id given by the producer
    user_id          string     -- user, where signed in
    session_id       string     -- the app's own session
    event_type       string     -- what happened
    app_type         string     -- web, ios, android, …
    event_timestamp  timestamp  -- when it happened (UTC)
    event_date       date       -- day of event_timestamp; null where that is unusable
    event_properties string     -- JSON object: value, duration_ms, page_name, country, error, …
    device_info      string     -- JSON object: device_type, os, model, app_version
    source_system    string     -- producer
    load_timestamp   timestamp  required -- when the file landed
    """,
)

CLICKSTREAM_BRONZE = _bronze(
    "clickstream_bronze",
    "clickstream",
    "click_date",
    description="Raw user clicks from the processing layer",
    cluster_by=("user_id",),
    freshness_hours=24,
    bounds={"response_time_ms": (-1e15, 1e15), "status_code": (-999, 999)},
    declared="""
    click_id          string    -- id given by the producer
    user_id           string    -- user, where signed in
    anonymous_id      string    -- cookie or device id, where not
    client_session_id string    -- the client's own session
    page_name         string    -- page or its URL
    action            string    -- page_view where the producer says nothing
    element           string    -- what was clicked
    referrer          string    -- where the visitor came from
    user_agent        string    -- browser
    response_time_ms  double    -- time to answer, milliseconds
    status_code       int       -- HTTP status
    click_timestamp   timestamp -- when it happened (UTC)
    click_date        date      -- day of click_timestamp; null where that is unusable
    load_timestamp    timestamp required -- when the file landed
    """,
)

CDC_CHANGES_BRONZE = _bronze(
    "cdc_changes_bronze",
    "cdc_changes",
    "change_date",
    description="Raw changes of source databases: Debezium, Maxwell, Canal or flat",
    cluster_by=("table_name",),
    freshness_hours=24,
    declared="""
    cdc_id           string     -- id of the change: the source's, else derived from its content
    table_name       string     -- changed table
    source_database  string     -- its database; with a schema, database.schema
    operation_type   string     -- INSERT, UPDATE, DELETE or TRUNCATE
    primary_key      string     -- JSON object of the key columns, where the source names them
    before_values    string     -- JSON object: the row before
    after_values     string     -- JSON object: the row after
    change_timestamp timestamp  -- when the source changed it (UTC)
    change_date      date       -- day of change_timestamp; null where that is unusable
    sequence         string     -- place in the source's log (LSN, binlog file and position, …), as the source has it
    load_timestamp   timestamp  required -- when the file landed
    source_system    string     -- connector or database
    _source_line     bigint     required -- place of the change in its file
    _log             string     -- the log that sequence is a place in; null where the change has none
    _position        string     -- sequence, in a form that sorts as text
    _snapshot        boolean    -- whether the row was read for a snapshot
    _before          map<string,string> -- before_values, with a letter for the kind of each value
    _after           map<string,string> -- after_values, likewise
    _unchanged       array<string> -- columns left as they were; * all that the change does not name, ? as cdc.absent
    _types           map<string,string> -- types of the columns by the message's schema
    """,
)

APP_EVENTS_SILVER = Table(
    name="app_events_silver", layer="silver",
    description="Cleaned events: one row each, typed, device and value extracted",
    grain="an event", key=("event_id",), sources=("app_events_bronze",),
    transform="lakehouse_lib.layers.silver.app_events",
    partition_by="event_date", cluster_by=("user_id", "event_type"),
    tags=("events",), retention_days=90,
    traced_by={"app_events_bronze": _same("event_id", "event_timestamp", "event_type", "user_id", "session_id")},
    event_time="event_timestamp",
    checks=(
        check("hour_in_day", "range", column="event_hour", min=0, max=23),
        check("duration_not_negative", "range", column="duration_ms", min=0),
        check("date_of_timestamp", "expression", condition="event_date = to_date(event_timestamp)"),
        check("most_are_signed_in", "null_share", column="user_id", max=0.5, severity="warn"),
    ),
    declared="""
    event_id         string     required -- id given by the producer
    user_id          string     -- user, where signed in
    session_id       string     -- the app's own session
    event_type       string     required -- what happened
    app_type         string     -- web, ios, android, …
    event_timestamp  timestamp  required -- when it happened (UTC)
    event_date       date       required -- day of event_timestamp
    event_hour       int        required -- hour of event_timestamp, 0–23
    device_type      string     -- phone, tablet, desktop, …
    device_os        string     -- operating system
    device_model     string     -- model
    app_version      string     -- version of the app
    country          string     -- ISO code, as the producer says
    event_value      double     -- value of the event, in the producer's currency
    duration_ms      bigint     -- how long it took, milliseconds
    is_error         boolean    required -- an error event, or one with an error property
    """,
)  # fmt: skip

_CLICK = (
    "struct<click_id: string, click_timestamp: timestamp, page_name: string, "
    "client_session_id: string, response_time_ms: double, status_code: int>"
)

CLICKSTREAM_SILVER = Table(
    name="clickstream_silver", layer="silver",
    description="Clicks grouped into sessions: a longer pause than session_gap_minutes ends one",
    grain="a session", key=("session_id",), sources=("clickstream_bronze",),
    transform="lakehouse_lib.layers.silver.clickstream",
    partition_by="session_date", cluster_by=("user_id",),
    tags=("sessions",), retention_days=90,
    traced_by={"clickstream_bronze": {
        "concat_ws('|', click_id, cast(click_timestamp AS timestamp))":
            "explode(transform(_clicks, x -> concat_ws('|', x.click_id, cast(x.click_timestamp AS timestamp))))",
    }},
    event_time="session_end_time",
    checks=(
        check("ends_after_start", "expression", condition="session_end_time >= session_start_time"),
        check("has_clicks", "expression", condition="total_clicks >= 1 AND distinct_pages BETWEEN 1 AND total_clicks"),
        check("bounce_is_one_click", "expression", condition="is_bounce = (total_clicks = 1)"),
        check("answers_in_time", "range", column="avg_response_time_ms", min=0, max=60_000, severity="warn"),
    ),
    declared="""
    session_id       string     required -- derived from the visitor and the first click
    user_id          string     -- user; null for an anonymous visitor
    client_session_id string    -- the client's own session, of the first click that has one
    session_start_time timestamp required -- first click (UTC)
    session_end_time timestamp  required -- last click (UTC)
    session_date     date       required -- day of session_start_time
    session_duration_seconds double required -- last click minus first, seconds
    page_sequence    array<string> required -- pages in the order of the clicks
    total_clicks     bigint     required -- clicks
    distinct_pages   bigint     required -- different pages
    entry_page       string     required -- first page
    exit_page        string     required -- last page
    is_bounce        boolean    required -- one click only
    avg_response_time_ms double -- mean time to answer, milliseconds
    error_count      bigint     required -- clicks answered with status 400 or more
    _visitor         string     required -- u:<user_id> or a:<anonymous_id>
    _clicks          array<CLICK> required -- the clicks; late ones are sorted in among them
    """.replace("CLICK", _CLICK),
)  # fmt: skip

_USER = """
    user_id          string     required -- user
    email            string     -- e-mail address
    name             string     -- full name
    country          string     -- ISO code
    plan             string     -- subscription
    signup_date      date       -- day of registration
    attributes       string     -- every other attribute that CDC gives, as JSON
"""

USERS_HISTORY_SILVER = Table(
    name="users_history_silver", layer="silver",
    description="Every version of every user, from CDC (slowly changing dimension, type 2)",
    grain="a version of a user", key=("user_id", "valid_from"), sources=("cdc_changes_bronze",),
    transform="lakehouse_lib.layers.silver.users_history", cluster_by=("user_id",),
    tags=("users", "scd2", "pii"), retention_days=0,
    traced_by={"cdc_changes_bronze": _PLACE},
    checks=(
        check("valid_in_order", "expression", condition="valid_to > valid_from"),
        check("open_is_current", "expression", condition="is_current = (valid_to IS NULL)"),
        check("one_current_version", "unique", column="user_id", where="is_current"),
    ),
    declared=_USER + """
    operation_type   string     required -- INSERT, UPDATE, DELETE or TRUNCATE
    valid_from       timestamp  required -- when this version began (UTC)
    valid_to         timestamp  -- when the next began; null for the last
    is_current       boolean    required -- the last version
    _changed_at      timestamp  required -- the change's own time
    _source_file     string     required -- where the change stands
    _source_line     bigint     required -- place of the change in its file
    """,
)  # fmt: skip

USERS_SILVER = Table(
    name="users_silver", layer="silver",
    description="User dimension: current attributes from CDC, activity from events and sessions",
    grain="a user", key=("user_id",),
    sources=("users_history_silver", "app_events_silver", "clickstream_silver"),
    transform="lakehouse_lib.layers.silver.users", cluster_by=("user_id",),
    tags=("users", "pii"), retention_days=0,
    checks=(
        check("known_or_seen", "expression", condition="is_known OR first_seen_date IS NOT NULL"),
        check("deleted_is_empty", "expression", condition="NOT is_deleted OR (email IS NULL AND name IS NULL)"),
        check("seen_in_order", "expression", condition="first_seen_date <= last_seen_date"),
        check("email_has_a_form", "regex", column="email", pattern="^[^@ ]+@[^@ ]+$", severity="warn"),
    ),
    declared=_USER + """
    is_known         boolean    required -- the source database knows the user
    is_deleted       boolean    required -- deleted at the source; attributes are emptied
    deleted_at       timestamp  -- when (UTC)
    first_seen_date  date       -- first day with an event or session
    last_seen_date   date       -- last such day
    total_events     bigint     required -- events
    total_sessions   bigint     required -- sessions
    is_active        boolean    required -- seen in the last active_days before the newest day
    """,
)  # fmt: skip

EVENT_METRICS_GOLD = Table(
    name="event_metrics_gold", layer="gold",
    description="Hourly event metrics by type and app",
    grain="hour × event_type × app_type",
    key=("metric_date", "metric_hour", "event_type", "app_type"),
    sources=("app_events_silver",), transform="lakehouse_lib.layers.gold.event_metrics",
    partition_by="metric_date", tags=("metrics",), retention_days=365,
    traced_by={"app_events_silver": {
        "event_date": "metric_date", "event_hour": "metric_hour", "event_type": "event_type",
        "coalesce(app_type, 'unknown')": "app_type",
    }},
    checks=(
        check("users_not_above_events", "expression", condition="unique_users <= total_events"),
        check("hour_in_day", "range", column="metric_hour", min=0, max=23),
        check("values_in_order", "expression", condition="min_event_value <= max_event_value"),
    ),
    declared="""
    metric_date      date       required -- day
    metric_hour      int        required -- hour, 0–23
    event_type       string     required -- what happened
    app_type         string     required -- app; unknown where the event says nothing
    total_events     bigint     required -- events
    unique_users     bigint     required -- different users
    avg_event_value  double     -- mean value of the events that have one
    min_event_value  double     -- smallest value
    max_event_value  double     -- largest value
    sum_event_value  double     -- sum of the values
    """,
)  # fmt: skip

HOURLY_METRICS_GOLD = Table(
    name="hourly_metrics_gold", layer="gold",
    description="Operational metrics by hour", grain="hour",
    key=("metric_date", "metric_hour"),
    sources=(
        "app_events_silver", "clickstream_silver", "app_events_bronze_quarantine",
        "clickstream_bronze_quarantine", "cdc_changes_bronze_quarantine",
    ),
    transform="lakehouse_lib.layers.gold.hourly_metrics",
    partition_by="metric_date", tags=("metrics", "operations"), retention_days=365,
    traced_by={
        "app_events_silver": {"event_date": "metric_date", "event_hour": "metric_hour"},
        "clickstream_silver": {
            "explode(array_distinct(transform(_clicks, "
            "x -> date_trunc('hour', cast(x.click_timestamp AS timestamp)))))": _HOUR,
        },
        **{f"{feed}_bronze_quarantine": {"date_trunc('hour', load_timestamp)": _HOUR}
           for feed in ("app_events", "clickstream", "cdc_changes")},
    },
    checks=(
        check("error_rate_is_a_share", "range", column="error_rate", min=0, max=1),
        check("hour_in_day", "range", column="metric_hour", min=0, max=23),
    ),
    declared="""
    metric_date      date       required -- day
    metric_hour      int        required -- hour, 0–23
    total_events     bigint     required -- events
    total_clicks     bigint     required -- clicks
    unique_users     bigint     required -- different signed-in users with an event or a click
    total_sessions   bigint     required -- sessions that started
    avg_response_time_ms double -- mean time to answer of the clicks, milliseconds
    p95_response_time_ms double -- 95th percentile of it, exact
    error_count      bigint     required -- error events, and clicks with status 400 or more
    error_rate       double     required -- error_count by events and clicks
    records_rejected bigint     required -- records quarantined, by the hour their file landed
    """,
)  # fmt: skip

DAILY_SUMMARY_GOLD = Table(
    name="daily_summary_gold", layer="gold",
    description="Daily key figures: users, sessions, value", grain="day",
    key=("summary_date",), sources=("app_events_silver", "clickstream_silver"),
    transform="lakehouse_lib.layers.gold.daily_summary",
    partition_by="summary_date", tags=("kpi",), retention_days=365,
    traced_by={
        "app_events_silver": {"event_date": "summary_date"}, "clickstream_silver": {"session_date": "summary_date"},
    },
    checks=(
        check("dau_wau_mau", "expression", condition="total_users <= wau AND wau <= mau"),
        check("new_and_returning", "expression", condition="new_users + returning_users = total_users"),
        check("bounce_rate_is_a_share", "range", column="bounce_rate", min=0, max=1),
    ),
    declared="""
    summary_date     date       required -- day
    total_users      bigint     required -- signed-in users with an event or session (DAU)
    wau              bigint     required -- the same over 7 days
    mau              bigint     required -- the same over 30 days
    stickiness       double     -- DAU / MAU
    new_users        bigint     required -- users first seen on this day
    returning_users  bigint     required -- users seen before
    return_user_percentage double -- returning users, percent of all
    total_events     bigint     required -- events
    total_sessions   bigint     required -- sessions that started
    avg_session_duration double -- mean length, seconds
    bounce_rate      double     -- share of sessions with one click, 0–1
    total_value      double     required -- sum of the events' values
    """,
)  # fmt: skip

USER_SEGMENTS_GOLD = Table(
    name="user_segments_gold", layer="gold",
    description="Behavioural segment of every user that is not deleted", grain="a user",
    key=("user_id",), sources=("users_silver", "app_events_silver"),
    transform="lakehouse_lib.layers.gold.user_segments", cluster_by=("segment_name",),
    tags=("segments", "marketing"), retention_days=0,
    checks=(
        check("segment_known", "allowed_values", column="segment_name",
              values=["VIP", "Active", "Regular", "Inactive"]),
        check("score_in_range", "range", column="engagement_score", min=0, max=100),
        check("risk_is_a_share", "range", column="risk_of_churn", min=0, max=1),
        check("user_is_known", "foreign_key", column="user_id", table="users_silver"),
    ),
    declared="""
    user_id          string     required -- user
    segment_date     date       required -- newest day of the data; recency counts back from it
    segment_name     string     required -- VIP, Active, Regular or Inactive
    recency_days     int        -- days since last seen; null if never
    frequency        bigint     required -- events of the last 90 days
    monetary_value   double     required -- value of the last 90 days
    lifetime_value   double     required -- value of all days
    engagement_score double     required -- 0 to 100
    risk_of_churn    double     required -- 0 to 1
    recommended_action string   required -- what to do
    """,
)  # fmt: skip

_BRONZE_TABLES = (APP_EVENTS_BRONZE, CLICKSTREAM_BRONZE, CDC_CHANGES_BRONZE)
BUILT_IN = (
    *_BRONZE_TABLES,
    *(_quarantine(bronze) for bronze in _BRONZE_TABLES),
    APP_EVENTS_SILVER, CLICKSTREAM_SILVER, USERS_HISTORY_SILVER, USERS_SILVER,
    EVENT_METRICS_GOLD, HOURLY_METRICS_GOLD, DAILY_SUMMARY_GOLD, USER_SEGMENTS_GOLD,
)  # fmt: skip
"""Every built-in table, each after the tables that it is made from."""


def replica(name: str, source_table: str) -> Table:
    """The table that holds the current state of a source table, as declared in ``cdc.replicas``."""
    return Table(
        name=name, layer="silver", grain=f"a row of {source_table}", key=("_key",),
        description=f"Current state of the source table {source_table}, from CDC",
        sources=("cdc_changes_bronze",), transform="lakehouse_lib.layers.replicas.replica",
        tags=("replica", source_table), retention_days=0, traced_by={"cdc_changes_bronze": _PLACE},
        declared="""
    is_deleted       boolean    required -- deleted at the source; attributes are emptied
    deleted_at       timestamp  -- when (UTC)
    _key             string     required -- the source's key, as JSON
    _values          string     -- the row as the source gave it, JSON
    _source_file     string     required -- where the last change of the row stands
    _source_line     bigint     required -- place of that change in its file
    """,
    )  # fmt: skip
