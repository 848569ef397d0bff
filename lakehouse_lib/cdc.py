"""Change data capture: recognise envelopes, order changes, keep current state and history."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from pyspark.sql import Column, Window
from pyspark.sql import functions as F

from lakehouse_lib import delta, tables
from lakehouse_lib.bronze import (
    Bounds,
    Fields,
    Value,
    common_flags,
    flag_array,
    in_range,
    raw_text,
    timestamp,
    unknown_fields,
)
from lakehouse_lib.config import FeedSettings, Settings
from lakehouse_lib.refresh import Difference, Inputs
from lakehouse_lib.session import keep

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

MAP = "map<string,string>"
WHOLE = "decimal(38,0)"
"""Type of whole numbers beyond bigint."""

_OPERATIONS = {
    "INSERT": ["c", "r", "insert", "create", "bootstrap-insert", "i"],
    "UPDATE": ["u", "update"],
    "DELETE": ["d", "delete"],
    "TRUNCATE": ["t", "truncate", "table-truncate"],
}
_NO_ROW = ["bootstrap-start", "bootstrap-complete", "m"]
_DIGITS = 20


def _get(json: str | Column, path: str) -> Column:
    return F.get_json_object(json, f"$.{path}")


def _padded(text: Column, width: int = _DIGITS) -> Column:
    """Numbers as text of one width, so that they sort as numbers; other text as it is."""
    return F.when(text.rlike(r"^\d+$"), F.lpad(text, width, "0")).otherwise(text)


def _binlog(file: Column, position: Column, row: Column) -> Column:
    """Order of a MySQL binlog event; the number in the file's name grows past its padding."""
    stem, number = F.regexp_extract(file, r"^(.*?)(\d+)$", 1), F.regexp_extract(file, r"(\d+)$", 1)
    return F.when(
        file.isNotNull() & position.isNotNull(),
        F.concat_ws(":", F.concat(stem, _padded(number)), _padded(position), _padded(row, 10)),
    )


def changes(records: DataFrame, settings: FeedSettings, latest: str, bounds: Bounds | None = None) -> DataFrame:
    """Columns of cdc_changes_bronze; a Canal message with several rows becomes several changes."""
    fields = Fields(records, "cdc_changes", settings, bounds)
    has = lambda name: F.map_contains_key("record", name)  # noqa: E731 - short and local
    get = lambda name: F.col("record")[name]  # noqa: E731
    flat = _flat(fields)
    body = fields.records
    # A wrapped message whose payload is null is Debezium's tombstone, as is the line `null`.
    tombstone = F.coalesce((F.trim("raw") == "null") | (has("payload") & get("payload").isNull()), F.lit(False))
    mapped = F.lit(bool(fields.mapped))
    shape = (
        F.when(tombstone, "tombstone")
        .when(has("op") & (has("before") | has("after") | has("source")), "debezium")
        .when(has("isDdl") | (has("data") & has("pkNames")), "canal")
        .when(has("type") & has("database") & has("table"), "maxwell")
        .when(has("operation_type") | mapped, "flat")
        .when(has("ddl") | has("databaseName") | has("tableChanges"), "ddl")
    )
    body = body.withColumn("_shape", shape).withColumn(
        "_rows",
        F.when(
            (F.col("_shape") == "canal") & get("data").startswith("["),
            F.from_json(get("data"), "array<string>"),
        ),
    )
    body = body.select("*", F.posexplode_outer("_rows").alias("_row_number", "_row"))
    debezium = _debezium()
    shapes = {"debezium": debezium, "maxwell": _maxwell(), "canal": _canal(), "flat": flat}

    def pick(name: str) -> Column:
        chain = F
        for shape_name, columns in shapes.items():
            chain = chain.when(F.col("_shape") == shape_name, columns[name])
        return chain

    operation = F.lower(pick("operation"))
    named = F
    for name, words in _OPERATIONS.items():
        named = named.when(operation.isin(words), F.lit(name))
    body = body.withColumns(
        {
            "operation_type": named,
            "_time_text": pick("time"),
            **{
                name: pick(name)
                for name in (
                    "id", "table_name", "primary_key", "before_values", "after_values",
                    "sequence", "source_system",
                )
            },
        }
    )  # fmt: skip
    at = timestamp(F.col("_time_text"), settings.timezone)
    body = body.withColumns({"change_timestamp": at.column, "_bad_time": at.bad})
    at = Value(F.col("change_timestamp"), F.col("_bad_time"))
    ddl = (F.col("_shape").isin("ddl", "tombstone")) | (
        (F.col("_shape") == "canal") & (F.lower(get("isDdl")) == "true")
    )
    ddl = F.coalesce(ddl | operation.isin(_NO_ROW), F.lit(False))
    is_row = ~ddl & F.col("_shape").isNotNull()
    bad_object = lambda name, *fields: (  # noqa: E731
        F.col(name).isNotNull() & (F.from_json(name, MAP).isNull() | _broken(*fields))
    )
    common = common_flags(at, "change_timestamp", latest)
    flags = {
        **{k: on & (is_row if "change_timestamp" in k else F.lit(True)) for k, on in common.items()},
        "not_a_row_change": ddl,
        "unknown_envelope": F.col("_shape").isNull(),
        "unknown_operation": is_row & F.col("operation_type").isNull(),
        "missing_table_name": is_row & F.col("table_name").isNull(),
        "missing_row": is_row
        & (
            (F.col("operation_type").isin("INSERT", "UPDATE") & F.col("after_values").isNull())
            | ((F.col("operation_type") == "DELETE") & F.coalesce("before_values", "primary_key").isNull())
        ),
        "invalid_primary_key": F.col("primary_key").isNotNull() & _broken("primary_key"),
        "invalid_before_values": bad_object("before_values", "before", "before_values", "old"),
        "invalid_after_values": bad_object("after_values", "after", "after_values", "data"),
    }
    content = F.concat_ws(
        "|", "table_name", "operation_type", "sequence", F.unix_micros("change_timestamp"),
        "before_values", "after_values", "primary_key",
    )  # fmt: skip
    rescued = F.when((F.col("_shape") == "flat") & ~mapped, unknown_fields(_FLAT))
    problem = F.when(~tombstone, F.col("problem"))
    return body.withColumn("_quality_flags", flag_array(flags, problem)).select(
        F.coalesce("id", F.substring(F.sha2(content, 256), 1, 32)).alias("cdc_id"),
        "table_name", "operation_type", "primary_key", "before_values", "after_values",
        "change_timestamp",
        F.when(in_range(at.column, latest), at.column.cast("date")).alias("change_date"),
        "sequence",
        "load_timestamp",
        "source_system",
        (F.col("_source_line") * 100_000 + F.coalesce("_row_number", F.lit(0))).alias("_source_line"),
        "_source_file",
        "_quality_flags",
        rescued.alias("_rescued_data"),
        raw_text().alias("_raw"),
    )  # fmt: skip


def _broken(*fields: str) -> Column:
    """Whether the text of one of some fields begins like JSON and is none."""
    return F.coalesce(F.arrays_overlap("not_json", F.array(*map(F.lit, fields))), F.lit(False))


def _debezium() -> dict[str, Column]:
    record, source = F.col("record"), F.col("record")["source"]
    snapshot = F.coalesce(_get(source, "snapshot"), F.lit("false"))
    is_snapshot = (record["op"] == "r") | ~snapshot.isin("false", "incremental")
    own_time = _get(source, "ts_ms")
    position = F.coalesce(
        _binlog(_get(source, "file"), _get(source, "pos"), F.coalesce(_get(source, "row"), F.lit("0"))),
        _padded(_get(source, "lsn")),
        _padded(_get(source, "scn")),
        _get(source, "commit_lsn"),
    )
    # A snapshot row loses to any later change, also to one at the snapshot's own position.
    rank = F.when(is_snapshot, F.lit("0")).otherwise(F.lit("1"))
    return {
        "operation": record["op"],
        "time": F.when(own_time.cast("double") > 0, own_time).otherwise(record["ts_ms"]),
        "id": F.lit(None).cast("string"),
        "table_name": _get(source, "table"),
        "primary_key": F.lit(None).cast("string"),
        "before_values": record["before"],
        "after_values": record["after"],
        "sequence": F.concat_ws("/", position, rank),
        "source_system": F.coalesce(_get(source, "name"), _get(source, "connector")),
    }


def _maxwell() -> dict[str, Column]:
    record = F.col("record")
    deleted = F.lower(record["type"]) == "delete"
    data, old = F.from_json(record["data"], MAP), F.from_json(record["old"], MAP)
    merged = F.map_concat(F.map_filter(data, lambda key, _: ~F.map_contains_key(old, key)), old)
    spot = F.split(record["position"], ":")
    names = F.from_json(record["primary_key_columns"], "array<string>")
    key = F.map_filter(data, lambda name, _: F.array_contains(names, name))
    return {
        "operation": record["type"],
        "time": record["ts"],
        "id": F.lit(None).cast("string"),
        "table_name": record["table"],
        "primary_key": F.to_json(key),
        "before_values": F.when(deleted, record["data"]).when(
            record["old"].isNotNull(), F.to_json(merged)
        ),
        "after_values": F.when(~deleted, record["data"]),
        "sequence": F.coalesce(
            _binlog(F.get(spot, F.lit(0)), F.get(spot, F.lit(1)),
                    F.coalesce(record["xoffset"], F.lit("0"))),
            F.when(
                record["xid"].isNotNull(),
                # Transaction ids can restart; the time of the transaction leads.
                F.concat_ws(":", _padded(record["ts"]), _padded(record["xid"]),
                            _padded(F.coalesce(record["xoffset"], F.lit("0")), 10)),
            ),
        ),
        "source_system": record["database"],
    }  # fmt: skip


def _canal() -> dict[str, Column]:
    record, row = F.col("record"), F.col("_row")
    deleted = F.lower(record["type"]) == "delete"
    old_rows = F.from_json(record["old"], "array<string>")
    old = F.from_json(F.get(old_rows, F.col("_row_number")), MAP)
    typed = F.from_json(row, MAP)
    merged = F.map_concat(F.map_filter(typed, lambda key, _: ~F.map_contains_key(old, key)), old)
    names = F.from_json(record["pkNames"], "array<string>")
    key = F.map_filter(typed, lambda name, _: F.array_contains(names, name))
    number = F.coalesce(F.col("_row_number").cast("string"), F.lit("0"))
    return {
        "operation": record["type"],
        "time": F.coalesce(record["es"], record["ts"]),
        "id": F.lit(None).cast("string"),
        "table_name": record["table"],
        "primary_key": F.to_json(key),
        "before_values": F.when(deleted, row).when(old.isNotNull(), F.to_json(merged)),
        "after_values": F.when(~deleted, row),
        "sequence": F.concat_ws(":", _padded(record["es"]), _padded(record["id"]), _padded(number, 10)),
        "source_system": record["database"],
    }


_FLAT = ("cdc_id", "table_name", "operation_type", "primary_key", "before_values", "after_values",
         "change_timestamp", "timestamp", "sequence", "source_system")  # fmt: skip


def _flat(fields: Fields) -> dict[str, Column]:
    return {
        "operation": fields.text("operation_type"),
        "time": F.coalesce(fields.text("change_timestamp"), fields.text("timestamp")),
        "id": fields.text("cdc_id"),
        "table_name": fields.text("table_name"),
        "primary_key": fields.text("primary_key"),
        "before_values": fields.text("before_values"),
        "after_values": fields.text("after_values"),
        "sequence": _padded(fields.text("sequence")),
        "source_system": fields.text("source_system"),
    }


# From changes to rows ------------------------------------------------------


def key_of(values: str, keys: list[str]) -> Column:
    """The key of a changed row as JSON, from its values or the change's primary key; else null."""
    row, given = F.from_json(values, MAP), F.from_json("primary_key", MAP)
    # One key column may also come bare: "primary_key": "17".
    bare = F.when(given.isNull(), F.col("primary_key")) if len(keys) == 1 else F.lit(None)
    parts = [F.coalesce(row[k], given[k], bare.cast("string"), _in_any_case(row, k)) for k in keys]
    complete = reduce(lambda a, b: a & b, (part.isNotNull() for part in parts))
    return F.when(complete, F.to_json(F.struct(*(p.alias(k) for p, k in zip(parts, keys, strict=True)))))


def _in_any_case(row: Column, name: str) -> Column:
    """A field whose name differs from the one wanted in case only."""
    return F.get(F.map_values(F.map_filter(row, lambda key, _: F.lower(key) == name.lower())), F.lit(0))


def lacks_key(settings: Settings) -> Column:
    """Whether a change of the users table or of a replica has no key, so that it goes nowhere."""
    rules = [(settings.cdc.users_table, [settings.cdc.users_key])]
    rules += [(replica.source_table, replica.keys) for replica in settings.cdc.replicas]
    lacking = [
        (F.col("table_name") == table) & key_of("after_values", keys).isNull() & key_of("before_values", keys).isNull()
        for table, keys in rules
    ]
    return reduce(lambda a, b: a | b, lacking) & (F.col("operation_type") != "TRUNCATE")


def ordered(changes: DataFrame, table: str, keys: list[str]) -> DataFrame:
    """Changes of one source table, by key and in order, redeliveries counted once.

    Returns ``_key`` (JSON of the key's values; null where the change has none), ``_order``
    (sorts as text: sequence, time, place), ``operation_type``, ``change_timestamp``, ``values``
    (JSON object; null for a delete), ``_copies`` (how often the change was delivered). A change
    of the key becomes a delete of the old one and an insert of the new one.
    """
    own = changes.where((F.col("table_name") == table) & (F.size("_quality_flags") == 0))
    old_key, new_key = key_of("before_values", keys), key_of("after_values", keys)
    moved = (F.col("operation_type") == "UPDATE") & F.col("before_values").isNotNull() & (old_key != new_key)
    place = F.concat_ws(
        "|",
        F.coalesce("sequence", F.lit("")),
        F.lpad(F.unix_micros("change_timestamp").cast("string"), 20, "0"),
    )
    content = F.xxhash64("operation_type", F.coalesce("before_values", F.lit("")),
                         F.coalesce("after_values", F.lit("")),
                         F.coalesce("primary_key", F.lit("")))  # fmt: skip
    step = lambda k, op, values: F.struct(  # noqa: E731
        k.alias("_key"),
        F.lit(op).alias("op") if isinstance(op, str) else op.alias("op"),
        values.alias("values"),
    )
    nothing = F.lit(None).cast("string")
    current = F.when(F.col("operation_type") == "DELETE", old_key).otherwise(new_key)
    steps = F.when(
        moved,
        F.array(step(old_key, "DELETE", nothing), step(new_key, "INSERT", F.col("after_values"))),
    ).otherwise(
        F.array(
            step(
                F.when(F.col("operation_type") != "TRUNCATE", current),
                F.col("operation_type"),
                F.when(F.col("operation_type") != "DELETE", F.col("after_values")),
            )
        )
    )
    # Redelivery: the same change at the same place in the source's own order. Without such an
    # order, the same content at the same time.
    copies = Window.partitionBy(place, content, old_key, new_key)
    first = copies.orderBy("_source_file", "_source_line")
    unique = own.withColumns({"_nth": F.row_number().over(first), "_copies": F.count(F.lit(1)).over(copies)}).where(
        "_nth = 1"
    )
    full_order = F.concat_ws("|", place, "_source_file", F.lpad(F.col("_source_line").cast("string"), 20, "0"))
    return unique.select(
        full_order.alias("_order"), "change_timestamp", "_copies", F.posexplode(steps).alias("_n", "s")
    ).select(
        F.col("s._key").alias("_key"),
        F.concat_ws("|", "_order", F.col("_n").cast("string")).alias("_order"),
        F.col("s.op").alias("operation_type"),
        "change_timestamp",
        F.col("s.values").alias("values"),
        F.when(F.col("_n") == 0, F.col("_copies")).otherwise(0).alias("_copies"),
    )


def replica(inputs: Inputs) -> Difference:
    """A ``cdc.replicas`` table: the last change of each key, columns as the source's JSON has them.

    The row's JSON stays in ``_values``, so that a column whose values turn out to need another
    type (bigint, then double, then string) is made again from what came.
    """
    rule = next(r for r in inputs.settings.cdc.replicas if r.target == inputs.table.name)
    changes = keep(ordered(inputs.new("cdc_changes_bronze"), rule.source_table, rule.keys))
    truncates = ordered(
        inputs.all("cdc_changes_bronze").where("operation_type = 'TRUNCATE'"),
        rule.source_table, rule.keys,
    ).agg(F.max_by(F.struct("_order", "change_timestamp"), "_order").alias("t"))  # fmt: skip
    state = changes.where("_key IS NOT NULL").select(
        "_key", "_order", "change_timestamp", F.col("values").alias("_values")
    )
    present, old = {}, None
    if not inputs.full:
        old = inputs.current()
        present = {
            f.name: f.dataType.simpleString()
            for f in old.schema.fields
            if not f.name.startswith("_") and f.name not in ("is_deleted", "deleted_at")
        }
    types = merged_types(present, inferred_types(state))
    inputs.table_now = tables.with_columns(inputs.table, types)
    if old is not None:
        inputs.reschema = any(types[name] != kind for name, kind in present.items())
        if not inputs.reschema and changes.where("operation_type = 'TRUNCATE'").isEmpty():
            old = old.join(state.select("_key").distinct(), "_key", "left_semi")
        state = state.unionByName(
            old.select("_key", "_order", F.col("deleted_at").alias("change_timestamp"), "_values")
        )
    if not inputs.reschema:
        delta.ensure(inputs.settings, inputs.table_now)
        old = inputs.current().join(old.select("_key"), "_key", "left_semi") if old is not None else None
    rows = current_rows(state, truncates, types)
    counts = changes.agg(
        F.coalesce(F.sum("_copies"), F.lit(0)).alias("records_read"),
        F.count_if(F.col("_copies") > 0).alias("distinct"),
        F.coalesce(
            F.sum(F.when(F.col("_key").isNull() & (F.col("operation_type") != "TRUNCATE"), F.col("_copies"))),
            F.lit(0),
        ).alias("quarantined"),
    )  # fmt: skip
    tally = counts.select(
        "records_read",
        (F.col("records_read") - F.col("quarantined")).alias("accepted"),
        "quarantined",
        F.lit("missing_key").alias("reason"),
    )
    return Difference(rows, None if inputs.reschema else old, tally)


def current_rows(state: DataFrame, truncates: DataFrame, types: dict[str, str]) -> DataFrame:
    """The last state of each key; deleted rows stay, without their attributes."""
    last = state.groupBy("_key").agg(F.max_by(F.struct("_order", "change_timestamp", "_values"), "_order").alias("s"))
    joined = last.crossJoin(F.broadcast(truncates)).select("_key", "s.*", "t")
    cleared = F.coalesce(F.col("t._order") > F.col("_order"), F.lit(False)) & F.col("_values").isNotNull()
    values = F.when(~cleared, F.col("_values"))
    at = F.when(cleared, F.col("t.change_timestamp")).otherwise(F.col("change_timestamp"))
    joined = joined.withColumn("_row", F.from_json(values, MAP))
    joined = joined.withColumn("_names", F.transform(F.map_keys("_row"), column_name))

    def value(name: str) -> Column:
        return F.get(F.map_values("_row"), F.array_position("_names", F.lit(name)).cast("int") - 1)

    return joined.select(
        *(value(name).try_cast(kind).alias(name) for name, kind in types.items()),
        values.isNull().alias("is_deleted"),
        F.when(values.isNull(), at).alias("deleted_at"),
        "_key",
        "_order",
        values.alias("_values"),
    )


def column_name(field: Column) -> Column:
    """The column of a replica for a field of the source, whatever its name holds.

    Names are in lower case, and everything but letters, digits and underscores becomes an underscore.
    Those that would meet a column of ours, or begin with an underscore, get ``source_`` in front; a
    field without a name is ``unnamed``. Where two fields meet in one column it shows the first, and
    ``_values`` has both.
    """
    plain = F.regexp_replace(F.lower(field), r"[^\p{L}\p{N}_]", "_")
    ours = plain.rlike("^_") | plain.isin("is_deleted", "deleted_at")
    own = F.concat(F.lit("source_"), F.regexp_replace(plain, "^_+", ""))
    return F.when(plain == "", "unnamed").when(ours, own).otherwise(plain)


def inferred_types(state: DataFrame) -> dict[str, str]:
    """Type of each column of the rows in ``_values``: bigint, decimal(38,0), double, boolean or string.

    A number given as text stays text: 01234 may be a postcode.
    """
    pairs = state.where("_values IS NOT NULL").select(
        F.explode(F.from_json("_values", MAP)).alias("name", "_text"),
        F.try_parse_json("_values").cast("map<string,variant>").alias("v"),
    )
    kind = F.schema_of_variant(F.col("v")[F.col("name")])
    # A whole number of more digits than a decimal has would be rounded.
    kind = F.when((kind == "DOUBLE") & F.col("_text").rlike("^-?[0-9]+$"), "STRING").otherwise(kind)
    found: dict[str, str] = {}
    for row in pairs.select(column_name(F.col("name")).alias("name"), kind.alias("kind")).distinct().collect():
        if column_type := _column_type(row["kind"]):
            found = merged_types(found, {row["name"]: column_type})
    return found


def _column_type(variant: str | None) -> str | None:
    if variant in (None, "VOID"):
        return None
    if variant.startswith("DECIMAL") and variant.endswith(",0)"):
        return WHOLE
    if variant.startswith(("DECIMAL", "DOUBLE", "FLOAT")):
        return "double"
    return {"BIGINT": "bigint", "BOOLEAN": "boolean"}.get(variant, "string")


def merged_types(a: dict[str, str], b: dict[str, str]) -> dict[str, str]:
    """Types that hold the values of both."""
    merged = dict(a)
    for name, kind in b.items():
        other = merged.setdefault(name, kind)
        if other != kind:
            wider = {frozenset({"bigint", "double"}): "double", frozenset({"bigint", WHOLE}): WHOLE}
            merged[name] = wider.get(frozenset({kind, other}), "string")
    return dict(sorted(merged.items()))
