"""Change data capture: the changes in a feed, as rows of bronze.

`envelopes` has already flattened every message; this module adds types and flags. `versions` computes the rows of a
source table after the changes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING

from pyspark.sql import Column
from pyspark.sql import functions as F

from lakehouse_lib.config import FeedSettings, Settings
from lakehouse_lib.intake.envelopes import ABSENT, FIELDS, INTERNAL, NESTED, OPERATIONS, UNKNOWN
from lakehouse_lib.intake.records import PICKED
from lakehouse_lib.layers.bronze import (
    Bounds,
    Fields,
    Value,
    common_flags,
    flag_array,
    in_range,
    picked,
    raw_text,
    unknown_fields,
)
from lakehouse_lib.model.messages import CHANGES_OF_A_MESSAGE, CONTROLS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

MAP = "map<string,string>"


def changes(records: DataFrame, settings: FeedSettings, latest: str, bounds: Bounds | None = None) -> DataFrame:
    """Return the columns of cdc_changes_bronze; a message with several rows becomes several changes."""
    fields = Fields(_each_change(records), "cdc_changes", settings, bounds)
    texts = {name: fields.text(name) for name in FIELDS if name not in ("change_timestamp", "timestamp", *_OBJECTS)}
    before, after = (fields.object(name) for name in _OBJECTS)
    at = fields.time("change_timestamp")
    control, known = _control(fields, texts), fields.field("_envelope").isNotNull() | F.lit(bool(fields.mapped))
    body = fields.records.withColumns(
        {
            "_operation": _operation(texts["operation_type"]),
            "_is_row": F.coalesce(control.isNull() & known, F.lit(False)),
        }
    )
    operation, key = F.col("_operation"), texts["primary_key"]
    content = F.concat_ws("|", texts["table_name"], operation, texts["sequence"], F.unix_micros(at.column),
                          before.column, after.column, key)  # fmt: skip
    is_flat = F.coalesce(fields.field("_envelope") == "flat", F.lit(False)) & F.lit(not fields.mapped)
    flags = _flags(control, known, texts, before, after, common_flags(at, "change_timestamp", latest))
    return body.withColumn("_quality_flags", flag_array(flags, F.col("problem"))).select(
        F.coalesce(texts["cdc_id"], F.substring(F.sha2(content, 256), 1, 32)).alias("cdc_id"),
        texts["table_name"].alias("table_name"),
        texts["source_database"].alias("source_database"),
        operation.alias("operation_type"),
        key.alias("primary_key"),
        before.column.alias("before_values"),
        after.column.alias("after_values"),
        at.column.alias("change_timestamp"),
        F.when(in_range(at.column, latest), at.column.cast("date")).alias("change_date"),
        texts["sequence"].alias("sequence"),
        "load_timestamp",
        texts["source_system"].alias("source_system"),
        (F.col("_source_line") * CHANGES_OF_A_MESSAGE + F.coalesce("_number", F.lit(0))).alias("_source_line"),
        *_decoded(fields, texts["sequence"], before.column, after.column),
        "_source_file",
        "_quality_flags",
        F.when(is_flat, unknown_fields((*FIELDS, *INTERNAL))).alias("_rescued_data"),
        raw_text().alias("_raw"),
    )


def _operation(name: Column) -> Column:
    """Translate a source's name of an operation to INSERT, UPDATE, DELETE or TRUNCATE."""
    return F.create_map(*(F.lit(word) for pair in OPERATIONS.items() for word in pair))[F.lower(F.trim(name))]


def _control(fields: Fields, texts: dict[str, Column]) -> Column:
    """Return the kind of a message that changes no row. A message for which the feed's parameters map an operation
    is a change."""
    control = fields.field("_control")
    return F.when(texts["operation_type"].isNull(), control) if "operation_type" in fields.mapped else control


def _flags(
    control: Column, known: Column, texts: dict[str, Column], before: Value, after: Value, common: dict[str, Column]
) -> dict[str, Column]:
    """Return the flags of a change: what is wrong with it, or why it is quarantined, by name."""
    operation, is_row = F.col("_operation"), F.col("_is_row")
    key = texts["primary_key"]
    return {
        **{name: control == name for name in (*CONTROLS, NESTED)},
        UNKNOWN: control.isNull() & ~known,
        **{name: is_row & on for name, on in common.items()},
        "unknown_operation": is_row & operation.isNull(),
        "missing_table_name": is_row & texts["table_name"].isNull(),
        "missing_row": is_row
        & (
            (operation.isin("INSERT", "UPDATE") & after.column.isNull() & ~after.bad)
            | ((operation == "DELETE") & F.coalesce(before.column, key).isNull() & ~before.bad)
        ),
        "invalid_primary_key": key.isNotNull() & _broken("primary_key"),
        **{f"invalid_{name}": is_row & value.bad for name, value in zip(_OBJECTS, (before, after), strict=True)},
    }


def _decoded(fields: Fields, sequence: Column, before: Column, after: Column) -> list[Column]:
    """Return what `envelopes` decoded: the position in the source's log, and the rows with values as
    `envelopes.coded`."""
    log, position = fields.field("_log"), fields.field("_position")
    rows = {name: F.from_json(fields.field(name), MAP) for name in ("_before", "_after")}
    unchanged = F.from_json(fields.field("_unchanged"), "array<string>")
    if fields.mapped:
        mapped = {name: F.lit(name in fields.mapped) for name in FIELDS}
        other = fields.field("_envelope").isNull()
        placed = sequence.isNotNull() & (other | mapped["sequence"])
        log = F.when(placed, F.lit("sequence")).otherwise(log)
        position = F.when(placed, _position(sequence)).otherwise(position)
        for name, object_, text in zip(rows, _OBJECTS, (before, after), strict=True):
            rows[name] = F.when(other | mapped[object_], _coded(text)).otherwise(rows[name])
        partial = other & (F.col("_operation") == "UPDATE")
        unchanged = F.when(partial, F.array(F.lit(ABSENT))).otherwise(unchanged)
    return [
        log.alias("_log"),
        position.alias("_position"),
        F.coalesce(fields.field("_snapshot") == "true", F.lit(False)).alias("_snapshot"),
        *(row.alias(name) for name, row in rows.items()),
        unchanged.alias("_unchanged"),
        F.from_json(fields.field("_types"), MAP).alias("_types"),
    ]


_OBJECTS = ("before_values", "after_values")


def _each_change(records: DataFrame) -> DataFrame:
    """Return one row for each change of a message: ``record`` holds its fields, ``_number`` its index."""
    several = F.from_json(F.col("record")["_changes"], f"array<{MAP}>")
    each = records.select("*", F.posexplode_outer(several).alias("_number", "_change"))
    whole = F.col("_change").isNull()
    fields = {
        f"{PICKED}_{name}": F.when(whole, field).otherwise(F.col("_change")[name])
        for name, field in picked(each).items()
    }
    each = each.withColumns(fields).drop(PICKED) if fields else each
    return each.withColumn("record", F.coalesce("_change", "record"))


def _broken(*names: str) -> Column:
    """Return whether the text of one of the fields begins like JSON but is not valid JSON."""
    return F.coalesce(F.arrays_overlap("not_json", F.array(*map(F.lit, names))), F.lit(False))


def _position(sequence: Column) -> Column:
    """Return a sequence from an expression in a form that sorts: numbers and PostgreSQL LSNs by value, other values
    as text."""
    number = r"^0*([0-9]+)(?:\.([0-9]*?)0*)?\z"
    whole, fraction = F.regexp_extract(sequence, number, 1), F.regexp_extract(sequence, number, 2)
    text = F.concat(F.lpad(F.length(whole).cast("string"), 3, "0"), whole)
    text = F.when(fraction == "", text).otherwise(F.concat(text, F.lit("!"), fraction))
    lsn = r"^([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})\z"
    half: Callable[[int], Column] = lambda n: F.lpad(F.lower(F.regexp_extract(sequence, lsn, n)), 8, "0")  # noqa: E731
    return (
        F.when(sequence.rlike(number), text).when(sequence.rlike(lsn), F.concat(half(1), half(2))).otherwise(sequence)
    )


_TOKENS = r'"(?:[^"\\]|\\.)*"|[\[\]{}:]|[^ \t\n\r,:\[\]{}"]+'
"""A string, bracket, colon or bare word of JSON."""


def _coded(text: Column) -> Column:
    """Return text from an expression in the form of `envelopes.coded`."""
    values, keys = F.from_json(text, MAP), F.json_object_keys(text)
    kinds = F.translate(_first_letters(text), '"tf{[-0123456789', "sbbjjnnnnnnnnnnn")
    kind: Callable[[Column], Column] = lambda key: F.substr(kinds, F.array_position(keys, key), F.lit(1))  # noqa: E731
    return with_values(values, lambda key, value: F.concat(kind(key), value))


def with_values(values: Column, of: Callable[[Column, Column], Column]) -> Column:
    """Return a map with each value computed from its key and value; like ``transform_values``, which Sail lacks."""
    each = F.transform(F.map_entries(values), lambda entry: F.struct(entry["key"], of(entry["key"], entry["value"])))
    return F.map_from_entries(each)


def _first_letters(text: Column) -> Column:
    """Return the first letter of each value of a JSON object, concatenated: they show the kinds of the values."""
    tokens = F.regexp_extract_all(text, F.lit(_TOKENS), F.lit(0))
    state: Callable[[Column, Column, Column], Column] = lambda depth, colon, letters: F.struct(  # noqa: E731
        depth.alias("depth"), colon.alias("colon"), letters.cast("string").alias("letters")
    )

    def after(before: Column, token: Column) -> Column:
        letter = F.substring(token, 1, 1)
        deeper = F.when(letter.isin("{", "["), 1).when(letter.isin("}", "]"), -1).otherwise(0)
        is_value = (before["depth"] == 1) & before["colon"]
        letters = F.when(is_value, F.concat(before["letters"], letter)).otherwise(before["letters"])
        return state(before["depth"] + deeper, token == ":", letters)

    zero = state(F.lit(0), F.lit(False), F.lit(""))
    return F.aggregate(tokens, zero, after, lambda end: end["letters"])


# Tables and keys -----------------------------------------------------------


def of_table(source_table: str) -> Column:
    """Return whether a change belongs to a source table, given by its name, or by database (and schema) and name.

    ``*.users`` matches the tables ``users`` of all databases.
    """
    name = source_table.removeprefix("*.")
    full = F.concat_ws(".", "source_database", "table_name")
    return (full == name) | full.endswith(f".{name}")


def key_of(keys: list[str], *rows: str) -> Column:
    """Return the key of a changed row as JSON of strings; null if any part of it is missing.

    Each part comes from the first of the rows (columns as `envelopes.coded`) that has it, or from the change's primary
    key. A partial update without the key has the key of the row before.
    """
    key_values = F.from_json("primary_key", MAP)
    # A single key column may also be a plain value: "primary_key": "17".
    bare = F.when(key_values.isNull(), F.col("primary_key")) if len(keys) == 1 else F.lit(None)
    values: Callable[[str, str], tuple[Column, Column]] = lambda row, k: (  # noqa: E731
        plain(F.col(row)[k]),
        plain(_in_any_case(F.col(row), k)),
    )
    first, *others = rows
    parts = [
        F.coalesce(
            *values(first, k), key_values[k], bare.cast("string"), *(v for row in others for v in values(row, k))
        )
        for k in keys
    ]
    complete = reduce(lambda a, b: a & b, (part.isNotNull() for part in parts))
    return F.when(complete, F.to_json(F.struct(*(p.alias(k) for p, k in zip(parts, keys, strict=True)))))


def plain(coded: Column) -> Column:
    """Return the text of a value in the form of `envelopes.coded`."""
    return coded.substr(F.lit(2), F.length(coded))


def _in_any_case(row: Column, name: str) -> Column:
    """Return a field by name, ignoring case."""
    return F.get(F.map_values(F.map_filter(row, lambda key, _: F.lower(key) == name.lower())), F.lit(0))


def lacks_key(settings: Settings) -> Column:
    """Return whether a change of the users table or of a replica has no key, so that it cannot be applied."""
    rules = [(settings.cdc.users_table, [settings.cdc.users_key])]
    rules += [(replica.source_table, replica.keys) for replica in settings.cdc.replicas]
    lacking = [of_table(table) & key_of(keys, "_after", "_before").isNull() for table, keys in rules]
    return reduce(lambda a, b: a | b, lacking) & (F.col("operation_type") != "TRUNCATE")
