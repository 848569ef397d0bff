"""Bronze: records as they came, typed by contract; invalid records are flagged, never dropped.

Each feed's function takes the records of `staging.read` and returns the table's columns except ``_run_id`` and
``_ingested_at``, with ``_raw`` in every row; `flagged` completes them. Flags are short codes; `explain` translates
them into sentences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, cast

import sqlglot
from pyspark.sql import Column
from pyspark.sql import functions as F

from lakehouse_lib.config import FeedSettings
from lakehouse_lib.errors import ConfigError
from lakehouse_lib.intake.envelopes import INTERNAL, NESTED
from lakehouse_lib.intake.records import PICKED, PROBLEMS
from lakehouse_lib.model.messages import CONTROLS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType

    from lakehouse_lib.model.tables import Table

EARLIEST = "2000-01-01"
"""Event times before this day are treated as errors."""

ALIASES = {
    "app_events": {"event_properties": ["properties", "event_properties"]},
    "clickstream": {
        "click_timestamp": ["click_timestamp", "event_timestamp", "timestamp"],
        "page_name": ["page_name", "page_url"],
        "client_session_id": ["session_id", "client_session_id"],
    },
    "cdc_changes": {"change_timestamp": ["change_timestamp", "timestamp"]},
}
REQUIRED = {
    "app_events": ["event_id", "event_type", "event_timestamp"],
    "clickstream": ["click_id", "click_timestamp", "page_name"],
}


def field_names(table: Table) -> list[str]:
    """Return the fields of a record that the columns of a bronze table are computed from."""
    feed = table.name.removesuffix("_bronze")
    names = [alias for name in table.business for alias in ALIASES.get(feed, {}).get(name, [name])]
    return list(dict.fromkeys([*names, *(INTERNAL if feed == "cdc_changes" else ())]))


def picked(records: DataFrame) -> dict[str, Column]:
    """Return the fields of records that are columns, which engines read faster than a key of a map."""
    columns = records.columns
    if PICKED in columns:
        names = cast("StructType", records.schema[PICKED].dataType).names
        return {name: F.col(PICKED)[name] for name in names}
    prefix = f"{PICKED}_"
    return {name.removeprefix(prefix): F.col(f"`{name}`") for name in columns if name.startswith(prefix)}


Bounds = Mapping[str, tuple[float, float]]
"""Smallest and largest value of numbers, by column or ``column.field``; see `tables.Table.bounds`."""

LONGEST_OBJECT = 20_000_000
"""Maximum characters of a JSON object; Spark reads no longer text inside one."""

# `\d`, `\s` and `$` mean different things in different engines.
_WHITE = " \t\n\r\f\v"
_NUMBER = r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\z"
_OFFSET = r"(?i)(Z|UTC|[+-][0-9]{2}(:?[0-9]{2})?)\z"
_ISO = (
    r"(?i)^[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ][0-9]{1,2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)? *(Z|UTC|[+-][0-9]{2}(:?[0-9]{2})?)?)?\z"
)


@dataclass
class Value:
    """A typed column of a record, and whether its text did not fit the type."""

    column: Column
    bad: Column


class Fields:
    """Columns picked from records by contract name, alias or mapping expression.

    Every parsed field becomes a separate column, in steps that build on each other, so that a record's time is parsed
    once and not again for each flag that depends on it.
    """

    def __init__(self, records: DataFrame, feed: str, settings: FeedSettings, bounds: Bounds | None = None):
        self.bounds = bounds or {}
        self.aliases = ALIASES.get(feed, {})
        self.used: set[str] = set()
        self.mapped: dict[str, str] = {}
        self.steps: list[dict[str, Column]] = [{} for _ in range(4)]
        for target, expression in settings.select.items():
            records = self._map(records, feed, target, expression)
        self.given = records
        self.columns = picked(records)
        self.zone = settings.timezone

    @property
    def records(self) -> DataFrame:
        """The records with every column requested so far."""
        return reduce(lambda frame, step: frame.withColumns(step), filter(None, self.steps), self.given)

    def _map(self, records: DataFrame, feed: str, target: str, expression: str) -> DataFrame:
        """Evaluate one ``select`` expression; the record's fields are columns of text."""
        try:
            parsed = sqlglot.parse_one(expression, dialect="spark")
        except sqlglot.errors.ParseError as error:
            raise ConfigError(f"feeds.{feed}.select.{target}: {expression!r}: {error}") from None
        names = {column.name for column in parsed.find_all(sqlglot.exp.Column)} - {"record"}
        self.used |= names
        for name in names - set(records.columns):
            records = records.withColumn(name, F.col("record")[name])
        self.mapped[target] = f"_mapped_{target}"
        return records.withColumn(self.mapped[target], F.expr(expression).cast("string"))

    def field(self, name: str) -> Column:
        """Return a field of the record; null if it is absent."""
        return self.columns[name] if name in self.columns else F.col("record")[name]

    def text(self, name: str) -> Column:
        """Return a field as text; null if it is absent or blank."""
        if name in self.mapped:
            return self._keep(0, name, _blank_to_null(F.col(self.mapped[name])))
        names = self.aliases.get(name, [name])
        self.used.update(names)
        return self._keep(0, name, _blank_to_null(F.coalesce(*map(self.field, names))))

    def word(self, name: str) -> Value:
        """Return a field that holds a single value; an object or an array is invalid."""
        text = self.text(name)
        return self._value(1, name, text, F.when(~text.rlike(r"^[ \t\n\r]*[\[{]"), text))

    def number(self, name: str, whole: bool = False) -> Value:
        """Return a field as a finite number within the column's bounds."""
        text = self.text(name)
        return self._value(1, name, text, number(text, whole, self.bounds.get(name)).column)

    def number_in(self, owner: str, name: str, whole: bool = False) -> Value:
        """Return a finite number within its bounds from a JSON object that is a field of the record."""
        text = self._keep(2, name, F.col(f"_map_{owner}")[name])
        return self._value(3, name, text, number(text, whole, self.bounds.get(f"{owner}.{name}")).column)

    def time(self, name: str) -> Value:
        """Return a field as a timestamp: ISO-8601, or epoch seconds, milliseconds or microseconds."""
        text = self.text(name)
        return self._value(1, name, text, timestamp(text, self.zone).column)

    def object(self, name: str) -> Value:
        """Return a field as a JSON object, nested or as text; the text must hold nothing else."""
        text = self.text(name)
        if name in self.mapped:
            broken = ~is_whole_json(text)
        else:
            names = F.array(*(F.lit(alias) for alias in self.aliases.get(name, [name])))
            broken = F.coalesce(F.arrays_overlap("not_json", names), F.lit(False))
        broken = broken | (F.length(text) > LONGEST_OBJECT)
        parsed = self._keep(1, name, F.when(~broken, F.from_json(text, "map<string,string>")), "map")
        return self._value(2, name, text, F.when(parsed.isNotNull(), text))

    def rescued(self) -> Column:
        """Return the fields that no column uses, as JSON; null if there are none."""
        return unknown_fields(sorted(self.used))

    def _keep(self, step: int, name: str, column: Column, kind: str = "text") -> Column:
        self.steps[step][f"_{kind}_{name}"] = column
        return F.col(f"_{kind}_{name}")

    def _value(self, step: int, name: str, text: Column, column: Column) -> Value:
        value = self._keep(step, name, column, "value")
        return Value(value, text.isNotNull() & value.isNull())


def unknown_fields(known: Iterable[str]) -> Column:
    """Return the record's other fields as JSON; null if there are none."""
    names = F.array(*(F.lit(name) for name in known)).cast("array<string>")
    rest = F.map_filter("record", lambda key, _: ~F.array_contains(names, key))
    # Functions with a lambda are interpreted: evaluate them only for the few records that need them.
    return F.when(F.size(F.array_except(F.map_keys("record"), names)) > 0, F.to_json(rest))


def is_whole_json(text: Column) -> Column:
    """Return whether a text is exactly one JSON value: Spark's parser ignores what follows the first value.

    The text is placed in an object, followed by a hash of the text, which is read only if the parser gets that far.
    """
    mark = F.xxhash64(text).cast("string")
    around = F.concat(F.lit('{"value":'), text, F.lit(',"mark":"'), mark, F.lit('"}'))
    return F.coalesce(F.from_json(around, "mark string")["mark"] == mark, F.lit(False))


def number(text: Column, whole: bool = False, bounds: tuple[float, float] | None = None) -> Value:
    """Convert text to a finite double, or to a bigint: a JSON number or plain decimal, within the bounds."""
    text = F.trim(text, F.lit(_WHITE))
    value = F.when(text.rlike(_NUMBER), text).try_cast("double")
    fits = F.abs(value) < float("inf")
    if whole:
        fits = fits & (value == F.floor(value)) & (F.abs(value) < 9e15)
    if bounds:
        fits = fits & value.between(*bounds)
    value = F.when(fits, value)
    bad = text.isNotNull() & value.isNull()
    return Value(value.cast("bigint") if whole else value, bad)


def timestamp(text: Column, zone: str = "UTC") -> Value:
    """Convert text to a UTC timestamp; times without an offset are in the zone."""
    text = F.trim(text, F.lit(_WHITE))
    # Guarded: a failing cast throws a Java exception, and costs as much as ten that succeed.
    epoch = F.when(text.rlike(r"^[+-]?[0-9]+(\.[0-9]+)?\z"), text).try_cast("decimal(38,6)")
    size = F.abs(epoch)
    micros = F.when(size < 10**11, epoch * 10**6).when(size < 10**14, epoch * 10**3).when(size < 10**17, epoch)
    clean = F.regexp_replace(F.regexp_replace(text, ",", "."), r"([+-][0-9]{2})([0-9]{2})\z", "$1:$2")
    # A date without a time ends in digits, like an offset.
    has_offset = text.rlike(_OFFSET) & text.rlike(r"[0-9]{1,2}:[0-9]{2}")
    naive = F.when(~has_offset, clean).try_cast("timestamp")
    if zone.upper() != "UTC":
        naive = F.to_utc_timestamp(naive, zone)
    iso = F.when(has_offset, clean.try_cast("timestamp")).otherwise(naive)
    value = F.when(epoch.isNotNull(), F.timestamp_micros(micros.cast("bigint"))).when(text.rlike(_ISO), iso)
    return Value(value, text.isNotNull() & value.isNull())


def app_events(records: DataFrame, settings: FeedSettings, latest: str, bounds: Bounds | None = None) -> DataFrame:
    """Return the columns of app_events_bronze. ``latest`` is the last plausible event time (ISO)."""
    fields = Fields(records, "app_events", settings, bounds)
    at = fields.time("event_timestamp")
    properties, device = fields.object("event_properties"), fields.object("device_info")
    value = fields.number_in("event_properties", "value")
    duration = fields.number_in("event_properties", "duration_ms", whole=True)
    words = {
        name: fields.word(name)
        for name in ("event_id", "user_id", "session_id", "event_type", "app_type", "source_system")
    }
    flags = {
        "missing_event_id": words["event_id"].column.isNull() & ~words["event_id"].bad,
        "missing_event_type": words["event_type"].column.isNull() & ~words["event_type"].bad,
        "invalid_properties": properties.bad,
        "invalid_device_info": device.bad,
        "invalid_properties.value": value.bad,
        "invalid_properties.duration_ms": duration.bad,
    }
    columns = {name: word.column for name, word in words.items()}
    columns |= {"event_properties": properties.column, "device_info": device.column}
    return _finish(fields, columns, words, flags, ("event_timestamp", "event_date"), at, latest)


def clickstream(records: DataFrame, settings: FeedSettings, latest: str, bounds: Bounds | None = None) -> DataFrame:
    """Return the columns of clickstream_bronze."""
    fields = Fields(records, "clickstream", settings, bounds)
    at = fields.time("click_timestamp")
    words = {
        name: fields.word(name)
        for name in (
            "click_id", "user_id", "anonymous_id", "client_session_id", "page_name", "action",
            "element", "referrer", "user_agent",
        )
    }  # fmt: skip
    response, status = fields.number("response_time_ms"), fields.number("status_code", whole=True)
    flags = {
        "missing_click_id": words["click_id"].column.isNull() & ~words["click_id"].bad,
        "missing_page_name": words["page_name"].column.isNull() & ~words["page_name"].bad,
        "missing_user_id": words["user_id"].column.isNull()
        & words["anonymous_id"].column.isNull()
        & ~words["user_id"].bad,
        "invalid_response_time_ms": response.bad,
        "invalid_status_code": status.bad,
    }
    columns = {name: word.column for name, word in words.items()}
    columns["action"] = F.coalesce(columns["action"], F.lit("page_view"))
    columns["response_time_ms"] = response.column
    columns["status_code"] = status.column.cast("int")
    return _finish(fields, columns, words, flags, ("click_timestamp", "click_date"), at, latest)


def common_flags(at: Value, name: str, latest: str) -> dict[str, Column]:
    """Return the flags of any feed: times that are missing, invalid or implausible."""
    return {
        f"missing_{name}": at.column.isNull() & ~at.bad,
        f"invalid_{name}": at.bad,
        "timestamp_out_of_range": ~in_range(at.column, latest),
    }


def in_range(at: Column, latest: str) -> Column:
    """Return whether a time is plausible."""
    return at.between(F.lit(EARLIEST).cast("timestamp"), F.lit(latest).cast("timestamp"))


def flag_array(flags: dict[str, Column], problem: Column | None = None) -> Column:
    """Return the names of the flags that are set, or only the problem if the record itself cannot be read."""
    # Text functions: array functions that drop nulls are interpreted, together with the flags.
    text = F.concat_ws(",", *(F.when(on, F.lit(name)) for name, on in flags.items()))
    if problem is not None:
        text = F.when(problem.isNotNull(), problem).otherwise(text)
    return F.when(text != "", F.split(text, ",")).otherwise(F.array().cast("array<string>"))


def flagged(rows: DataFrame, further: dict[str, Column]) -> DataFrame:
    """Add flags of further conditions to rows that have no flags yet, and keep the record as it came only if a flag
    is set."""
    good = F.size("_quality_flags") == 0
    if further:
        flags = F.when(good, flag_array(further)).otherwise(F.col("_quality_flags"))
        rows = rows.withColumn("_quality_flags", flags)
    return rows.withColumn("_raw", F.when(F.size("_quality_flags") > 0, F.col("_raw")))


def raw_text() -> Column:
    """Return the record as it came; a Parquet row as JSON."""
    return F.coalesce("raw", F.to_json("record"))


def _finish(
    fields: Fields,
    columns: dict[str, Column],
    words: dict[str, Value],
    flags: dict[str, Column],
    time_names: tuple[str, str],
    at: Value,
    latest: str,
) -> DataFrame:
    time_name, date_name = time_names
    flags = common_flags(at, time_name, latest) | flags
    flags |= {f"invalid_{name}": word.bad for name, word in words.items()}
    flagged = fields.records.withColumn("_quality_flags", flag_array(flags, F.col("problem")))
    selected = {name: column.alias(name) for name, column in columns.items()}
    selected[time_name] = at.column.alias(time_name)
    selected[date_name] = F.when(in_range(at.column, latest), at.column.cast("date")).alias(date_name)
    return flagged.select(
        *selected.values(),
        "load_timestamp",
        "_source_file",
        "_quality_flags",
        fields.rescued().alias("_rescued_data"),
        raw_text().alias("_raw"),
    )


def explain(flags: Column, checks: dict[str, str]) -> Column:
    """Return flags as sentences for readers of the quarantine; ``checks`` has the sentences of checks."""
    sentences = (
        checks
        | PROBLEMS
        | {
            "timestamp_out_of_range": "the time is before 2000 or more than a day in the future",
            **CONTROLS,
            NESTED: "the update names a part of a field, and the message does not hold the whole document",
            "unknown_envelope": "the message is in none of the known change formats",
            "unknown_operation": "the kind of change is not insert, update, delete or truncate",
            "missing_row": "the change carries no row",
            "missing_key": "the key of the changed row is missing",
        }
    )

    def sentence(flag: Column) -> Column:
        name = F.regexp_replace(flag, "^(missing|invalid)_", "")
        other = F.when(flag.startswith("missing_"), F.concat(name, F.lit(" is missing"))).otherwise(
            F.concat(name, F.lit(" holds a value of the wrong type or out of bounds"))
        )
        known = reduce(lambda chain, item: chain.when(flag == item[0], F.lit(item[1])), sentences.items(), F)
        text: Column = known.otherwise(other)
        return text

    return F.array_join(F.transform(flags, sentence), "; ")


def _blank_to_null(column: Column) -> Column:
    return F.when(F.trim(column) != "", column)
