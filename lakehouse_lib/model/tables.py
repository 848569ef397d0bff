"""The declarations: every table once. Everything else about a table is derived from here.

A column is declared as in SQL: ``name type [required] -- comment``. ``transform`` names the
function that makes the table; it receives a `pipeline.Inputs` and returns what should be
written (see `pipeline`). Adding a table is one `Table` given to `register` and one function.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import duckdb
import pyarrow as pa

from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError, UnknownTableError
from lakehouse_lib.model import checks
from lakehouse_lib.model.checks import Check, check
from lakehouse_lib.model.messages import CONTROLS
from lakehouse_lib.sql import dialects

LAYERS = ("bronze", "quarantine", "silver", "gold")


@dataclass(frozen=True)
class Column:
    """One column: Spark SQL type, whether a value is required, and what it means."""

    name: str
    type: str
    required: bool
    comment: str


@dataclass(frozen=True)
class Table:
    """What a table is. Field names are the words the catalog shows."""

    name: str
    layer: str
    description: str
    grain: str
    declared: str
    key: tuple[str, ...]
    sources: tuple[str, ...]
    transform: str
    partition_by: str = ""
    cluster_by: tuple[str, ...] = ()
    owner: str = "data-platform"
    tags: tuple[str, ...] = ()
    freshness_hours: int = 24
    retention_days: int = 0
    event_time: str = ""
    """Column that says when it happened; what came late is told by it."""
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Smallest and largest value of numbers, by column or ``column.field``: what lies within them can be
    computed by every later layer, and a record beyond them goes to quarantine."""
    traced_by: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """How a row is found again in its sources, where not by the key: see `trace_rule`."""
    checks: tuple[Check, ...] = ()
    """What must hold, beyond what the rest of the declaration says: see `all_checks`."""

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """All columns in order, the technical ones last."""
        return _parse(self.declared + _TECHNICAL[self.layer])

    @property
    def names(self) -> list[str]:
        """Names of all columns."""
        return [column.name for column in self.columns]

    @property
    def business(self) -> list[str]:
        """Names of the columns that the confluence law covers: those without underscore."""
        return [name for name in self.names if not name.startswith("_")]

    @cached_property
    def all_checks(self) -> tuple[Check, ...]:
        """Checks that follow from columns, key and freshness, then the table's own; a later one
        takes the place of an earlier one of its name."""
        required = [column.name for column in self.columns if column.required]
        found = [
            check("columns_as_declared", "schema", columns=self.types),
            check("required_values", "not_null", columns=required),
        ]
        if self.key:
            found.append(check("key_is_unique", "unique", columns=list(self.key)))
        if self.event_time:
            good = "size(_quality_flags) = 0" if self.layer == "bronze" else ""
            found.append(check("fresh", "freshness", column=self.event_time, max_hours=self.freshness_hours,
                               severity="warn", where=good))  # fmt: skip
        return tuple({one.name: one for one in (*found, *self.checks)}.values())

    @property
    def types(self) -> dict[str, str]:
        """Name and type of each column, types as Spark writes them."""
        return {column.name: _plain_type(column.type) for column in self.columns}

    def trace_rule(self, source: Table) -> Mapping[str, str] | None:
        """Which rows of a source a row is made from: Spark SQL over the source: what it equals over the
        row. Without a declaration, those with the row's key; None where the source lacks it."""
        if source.name in self.traced_by:
            return self.traced_by[source.name]
        return {name: name for name in self.key} if self.key and {*self.key} <= {*source.names} else None

    def arrow_schema(self) -> pa.Schema:
        """The schema as Arrow, comments included."""
        return pa.schema(
            pa.field(c.name, arrow_type(c.type), not c.required, {"comment": c.comment}) for c in self.columns
        )


_BRONZE = """
    _run_id          string     required -- run that loaded the record
    _ingested_at     timestamp  required -- when it was loaded
    _source_file     string     required -- file below the feed's landing folder
    _quality_flags   array<string> required -- what does not fit; empty for a good record
    _rescued_data    string     -- fields that the contract does not know, as JSON
    _raw             string     -- the record as it came, where a flag is set
"""
_MADE = """
    _run_id          string     required -- run that wrote the row
    _processed_at    timestamp  required -- when it was written
"""
_TECHNICAL = {
    "bronze": _BRONZE,
    "silver": _MADE,
    "gold": _MADE,
    "quarantine": _MADE + "    _source_file  string required -- file below the feed's folder\n",
}

_ARROW = {
    "string": pa.string(), "boolean": pa.bool_(), "int": pa.int32(), "bigint": pa.int64(),
    "double": pa.float64(), "date": pa.date32(), "timestamp": pa.timestamp("us", "UTC"),
}  # fmt: skip


def arrow_type(text: str) -> pa.DataType:
    """The Arrow type of a Spark SQL type such as ``array<struct<a: string, b: int>>``."""
    text = text.strip()
    if text in _ARROW:
        return _ARROW[text]
    if digits := re.fullmatch(r"decimal\((\d+),\s*(\d+)\)", text):
        return pa.decimal128(int(digits[1]), int(digits[2]))
    if text == "map<string,string>":
        return pa.map_(pa.string(), pa.string())
    if inner := re.fullmatch(r"array<(.+)>", text):
        return pa.list_(arrow_type(inner[1]))
    if inner := re.fullmatch(r"struct<(.+)>", text):
        parts = (part.split(":", 1) for part in inner[1].split(","))
        return pa.struct([(name.strip(), arrow_type(kind)) for name, kind in parts])
    raise ConfigError(f"Unknown column type {text!r}; known: {', '.join(_ARROW)}, decimal(p,s), array<…>, struct<…>")


def spark_type(kind: pa.DataType) -> str:
    """The Spark SQL type of an Arrow type, for those that `arrow_type` makes."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"array<{spark_type(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{','.join(f'{part.name}:{spark_type(part.type)}' for part in kind)}>"
    if pa.types.is_map(kind):
        return f"map<{spark_type(kind.key_type)},{spark_type(kind.item_type)}>"
    if pa.types.is_timestamp(kind):
        return "timestamp"
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    return next((name for name, known in _ARROW.items() if known == kind), str(kind))


def _plain_type(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _parse(text: str) -> tuple[Column, ...]:
    columns = []
    for line in filter(str.strip, text.split("\n")):
        head, _, comment = line.partition("--")
        name, kind = head.strip().split(None, 1)
        required = kind.strip().endswith("required")
        kind = kind.strip().removesuffix("required").strip()
        columns.append(Column(name, kind, required, comment.strip()))
    return tuple(columns)


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_PLACE = _same("_source_file", "_source_line")
"""Where a change stands."""

_HOUR = "cast(metric_date AS timestamp) + metric_hour * INTERVAL '1' HOUR"


_GOOD = f"size(array_except(_quality_flags, array({', '.join(map(repr, CONTROLS))}))) = 0"
"""Whether a record is no reject: a message that changes no row is none."""


def _bronze(name: str, feed: str, date: str, declared: str, **more: Any) -> Table:
    return Table(
        name=name, layer="bronze", grain="a record as it was received",
        declared=declared, key=(), sources=(),
        transform="lakehouse_lib.layers.cdc.changes" if "cdc" in feed else f"lakehouse_lib.layers.bronze.{feed}",
        partition_by=date, event_time=date.replace("_date", "_timestamp"), retention_days=30, tags=("raw", feed),
        checks=(check("few_are_rejected", "expression", condition=_GOOD, tolerance=0.05, severity="warn"),),
        **more,
    )  # fmt: skip


def _quarantine(bronze: Table) -> Table:
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
_DECLARED: dict[str, Table] = {
    table.name: table
    for table in (
        *_BRONZE_TABLES,
        *(_quarantine(bronze) for bronze in _BRONZE_TABLES),
        APP_EVENTS_SILVER, CLICKSTREAM_SILVER, USERS_HISTORY_SILVER, USERS_SILVER,
        EVENT_METRICS_GOLD, HOURLY_METRICS_GOLD, DAILY_SUMMARY_GOLD, USER_SEGMENTS_GOLD,
    )
}  # fmt: skip


def register(table: Table) -> Table:
    """Add a table of your own; the next run makes it.

    Raises
    ------
    ConfigError
        Its layer, column types, key, partition or sources do not fit, or another table has the
        name.
    """
    if table.layer not in LAYERS:
        raise ConfigError(f"{table.name}: layer {table.layer!r} is not one of {', '.join(LAYERS)}")
    if _DECLARED.get(table.name, table) != table:
        raise ConfigError(f"There is a table {table.name} already, and it is declared otherwise.")
    table.arrow_schema()
    for word in (*table.key, *table.cluster_by, *filter(None, [table.partition_by])):
        if word not in table.names:
            raise ConfigError(f"{table.name}: {word} is none of its columns {', '.join(table.names)}")
    for source in table.sources:
        if source not in _DECLARED:
            raise ConfigError(f"{table.name}: {_unknown(source, list(_DECLARED))}")
    for one in table.all_checks:
        rule(table, one, [*_DECLARED, table.name])
    _DECLARED[table.name] = table
    return table


def unregister(name: str) -> None:
    """Forget a table that was added by `register`; its data stays."""
    _DECLARED.pop(name, None)


def declared(settings: Settings) -> dict[str, Table]:
    """All tables by name, those of ``cdc.replicas`` included, sources before targets."""
    tables = dict(_DECLARED)
    for wanted in settings.cdc.replicas:
        if wanted.target in tables:
            raise ConfigError(f"cdc.replicas: {wanted.target} is the name of a table already.")
        tables[wanted.target] = _replica(wanted.target, wanted.source_table, tuple(wanted.keys))
    for name in settings.retention:
        if name not in tables:
            raise ConfigError(f"retention.{name}: {_unknown(name, list(tables))}")
    for name, given in settings.quality.items():
        if name not in tables:
            raise ConfigError(f"quality.{name}: {_unknown(name, list(tables))}")
        own = tuple(checks.parse(one) for one in given)
        tables[name] = replace(tables[name], checks=tables[name].checks + own)
        for one in own:
            _try_out(tables[name], one, tables)
            if one.kind == "foreign_key" and name in _made_before(tables, one.arguments["table"]):
                raise ConfigError(
                    f"quality.{name}, check {one.name!r}: {one.arguments['table']} is made from {name}, so it cannot "
                    f"be looked into before. Put the check on {one.arguments['table']}, or on a table after it."
                )
    return tables


def _try_out(table: Table, one: Check, known: dict[str, Table]) -> None:
    """Run a check on empty tables, so that SQL that cannot run is refused before anything does."""
    key = (table.name, table.declared, one.digest)
    if key in _compiled:
        return
    made = rule(table, one, known)
    try:
        with duckdb.connect(":memory:") as connection:
            dialects.prepare(connection)
            for name in {table.name, *made.needs}:
                fields = [
                    f.with_type(pa.timestamp("us")) if pa.types.is_timestamp(f.type) else f
                    for f in known[name].arrow_schema()
                ]
                connection.register(name, pa.schema(fields).empty_table())
            inner = ", ".join(["*", *(f"{sql} AS {column}" for column, sql in made.prepared.items())])
            for part in made.parts.values():
                connection.execute(f'SELECT {part} FROM (SELECT {inner} FROM "{table.name}")')
    except duckdb.Error as error:
        del _compiled[key]
        raise ConfigError(f"quality.{table.name}, check {one.name!r}: {str(error).splitlines()[0]}") from None


def waits_for(table: Table) -> set[str]:
    """Tables that have to be up to date before a table is made and checked."""
    looked_into = {one.arguments["table"] for one in table.all_checks if one.kind == "foreign_key"}
    return {*table.sources, *looked_into} - {table.name}


def _made_before(tables: dict[str, Table], name: str) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        more = waits_for(tables[waiting.pop()]) - found
        found |= more
        waiting += more
    return found


_compiled: dict[tuple[str, str, str], checks.Rule] = {}


def rule(table: Table, one: Check, known: Iterable[str]) -> checks.Rule:
    """What a check stands for on a table; see `checks.compile_check`."""
    key = (table.name, table.declared, one.digest)
    if key not in _compiled:
        _compiled[key] = checks.compile_check(one, table.name, table.layer, table.types, known)
    return _compiled[key]


def get(settings: Settings, name: str) -> Table:
    """One table by name.

    Raises
    ------
    ConfigError
        There is none; the message names the nearest.
    """
    tables = declared(settings)
    if name not in tables:
        raise UnknownTableError(_unknown(name, list(tables)))
    return tables[name]


def record_checks(table: Table) -> dict[str, tuple[str, str]]:
    """Checks by which records of a bronze table go to quarantine: name: (Spark SQL condition of
    such a record, the reason in words)."""
    found = {one.name: rule(table, one, ()) for one in table.all_checks if one.severity == "quarantine"}
    return {name: (made.sets_aside, f"records here {made.says} (check {name})") for name, made in found.items()}


def _replica(name: str, source_table: str, keys: tuple[str, ...]) -> Table:
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


def with_columns(table: Table, columns: dict[str, tuple[str, str]]) -> Table:
    """A table with further columns (name: type and comment) in front of its own."""
    lines = "".join(f"{name} {kind} -- {comment}\n" for name, (kind, comment) in columns.items())
    return replace(table, declared=lines + table.declared)


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f"there is no table {name!r}" + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}")
