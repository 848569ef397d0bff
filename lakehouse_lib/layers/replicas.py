"""Replicas: the current rows of a source table, with the columns of the source.

A column's type can hold all values received for it so far: the type from the messages' schema, else bigint,
decimal(38,s), boolean or string, depending on the values; see `type_of`. Its name is the source's name in lower case,
with an underscore for everything but letters, digits and underscores; see `column_names`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from pyspark.sql import Column
from pyspark.sql import functions as F

from lakehouse_lib.intake.connect_types import DIGITS
from lakehouse_lib.layers import cdc, versions
from lakehouse_lib.layers.inputs import Inputs
from lakehouse_lib.layers.refresh import Difference
from lakehouse_lib.model import tables
from lakehouse_lib.storage import delta

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SOURCE_COLUMN = "source column "
"""Prefix of a column's comment; its name at the source follows, as a JSON string."""

AS_IT_CAME = "as it came: no schema says its type"

DOUBLE_DIGITS = 15
"""Digits that every double preserves."""

_OURS = ("is_deleted", "deleted_at")


class ReplicaColumn(NamedTuple):
    """A column of a replica."""

    name: str
    kind: str
    comment: str
    """The name at the source, in one of the received spellings, and whether its type comes from a schema."""


class Observed(NamedTuple):
    """The values received for a column of the source."""

    source: str
    """Its name, in the alphabetically first spelling."""
    kinds: frozenset[str]
    """Types from schemas, and for values without a schema: int, fraction, double, boolean or string."""
    whole: int = 0
    """Maximum digits before the point."""
    fraction: int = 0
    """Maximum digits after the point."""
    big: bool = False
    """Whether a whole number is beyond 2^63."""
    digits: int = 0
    """Maximum digits of a number."""
    declared: bool = False
    """Whether a schema declares the type of every value."""

    def column(self, name: str) -> ReplicaColumn:
        """Return a column with this name that can hold the values."""
        comment = SOURCE_COLUMN + json.dumps(self.source, ensure_ascii=False)
        return ReplicaColumn(name, type_of(self), comment if self.declared else f"{comment}, {AS_IT_CAME}")


def replica(inputs: Inputs) -> Difference:
    """Build a ``cdc.replicas`` table: the last version of each row."""
    rule = next(r for r in inputs.settings.cdc.replicas if r.target == inputs.table.name)
    result = versions.of(inputs, rule.source_table, rule.keys)
    present, observed = _present(inputs), _observed(result.changes, rule.keys)
    columns = _columns(observed) if inputs.full else _with(present, observed)
    if columns is None:  # a column changes its name or type, so all rows are rewritten
        result = versions.of(inputs, rule.source_table, rule.keys, whole=True)
        columns = _columns(_observed(result.changes, rule.keys))
    reschema = any(source not in columns or columns[source][:2] != column[:2] for source, column in present.items())
    table = tables.with_columns(
        inputs.table, {column.name: (column.kind, column.comment) for column in columns.values()}
    )
    rows = _commented(current_rows(result.rows, columns, rule.keys), table)
    if reschema or inputs.full:
        return Difference(rows, None, result.counts, table, reschema)

    def old() -> DataFrame:
        return inputs.current() if result.keys is None else inputs.current().join(result.keys, "_key", "left_semi")

    return Difference(rows, old, result.counts, table)


def current_rows(rows: DataFrame, columns: Mapping[str, ReplicaColumn], keys: list[str]) -> DataFrame:
    """Return the last version of each row; a deleted row keeps its key."""
    last = rows.groupBy("_key").agg(F.max_by(F.struct(*(c for c in rows.columns if c != "_key")), "_n").alias("_last"))
    last = last.select("_key", "_last.*").withColumn("_given", F.from_json("_key", cdc.MAP))
    last = last.withColumn("_names", F.transform(F.map_keys("_row"), F.lower))

    def value(source: str, kind: str) -> Column:
        place = F.array_position("_names", F.lit(source)).cast("int")
        text = cdc.plain(F.get(F.map_values("_row"), place - 1))
        key = next((key for key in keys if key.lower() == source), None)
        return (F.coalesce(text, F.col("_given")[key]) if key else text).try_cast(kind)

    is_deleted = F.col("_row").isNull()
    return last.select(
        *(value(source, column.kind).alias(column.name) for source, column in columns.items()),
        is_deleted.alias("is_deleted"),
        F.when(is_deleted, F.timestamp_micros("_moment")).alias("deleted_at"),
        "_key",
        as_json(F.col("_row")).alias("_values"),
        "_source_file",
        "_source_line",
    )


def as_json(row: Column) -> Column:
    """Convert a row in the form of `envelopes.coded` to JSON."""
    quoted: Callable[[Column], Column] = lambda text: F.regexp_extract(F.to_json(F.array(text)), r"(?s)^\[(.*)\]\z", 1)  # noqa: E731
    value: Callable[[Column], Column] = lambda coded: F.when(coded.isNull(), "null").when(coded.startswith("s"), quoted(cdc.plain(coded))).otherwise(  # noqa: E731, E501
        cdc.plain(coded))  # fmt: skip
    pairs = F.transform(
        F.map_entries(row), lambda entry: F.concat(quoted(entry["key"]), F.lit(":"), value(entry["value"]))
    )
    return F.when(row.isNotNull(), F.concat(F.lit("{"), F.array_join(pairs, ","), F.lit("}")))


def _commented(rows: DataFrame, table: tables.Table) -> DataFrame:
    """Add the columns' comments to rows, from which a table takes them when it gets new columns."""
    comments = {column.name: column.comment for column in table.columns}
    return rows.select(*(F.col(f"`{name}`").alias(name, metadata={"comment": comments[name]}) for name in rows.columns))


# Names ----------------------------------------------------------------------


def column_names(sources: Iterable[str]) -> dict[str, str]:
    """Return the column name for each of the source's names, which are in lower case.

    Everything but letters, digits and underscores becomes an underscore. Names that clash with a column of the library,
    or begin with an underscore, get the prefix ``source_``; a field without a name is ``unnamed``. If several sources
    lead to the same name, an exact match comes first, then the alphabetically first; the others get ``_2``, ``_3``, ….
    """
    wanted = {source: _plain_name(source) for source in sources}
    names: dict[str, str] = {}
    for source, name in sorted(wanted.items(), key=lambda item: (item[0] != item[1], item[0])):
        free, number = name, 2
        while free in names.values() or (free != name and free in wanted.values()):
            free, number = f"{name}_{number}", number + 1
        names[source] = free
    return names


def _plain_name(source: str) -> str:
    plain = re.sub(r"[^\w]", "_", source.lower())
    if not plain:
        return "unnamed"
    return "source_" + plain.lstrip("_") if plain.startswith("_") or plain in _OURS else plain


# Types ----------------------------------------------------------------------


def _observed(changes: DataFrame, keys: list[str]) -> dict[str, Observed]:
    """Return the values observed for each of the source's columns, by lower-case name; deletes only have the key."""
    key_names = F.array(*(F.lit(key.lower()) for key in keys))
    key_before = F.map_filter("_before", lambda name, _: F.array_contains(key_names, F.lower(name)))
    # A key that is in neither row is in the message's primary key, as text.
    guessed: Callable[[Column], Column] = lambda text: F.when(text.rlike(r"^-?(0|[1-9][0-9]*)\z"), "n").otherwise("s")  # noqa: E731
    from_key = cdc.with_values(F.from_json("_key", cdc.MAP), lambda _, text: F.concat(guessed(text), text))
    deleted = F.when(F.size(key_before) > 0, key_before).otherwise(from_key)
    row = F.when(F.col("operation_type") == "DELETE", deleted).otherwise(F.col("_after"))
    each = changes.select("_types", F.explode(row).alias("_name", "_coded"))
    declared, letter, text = F.col("_types")[F.col("_name")], F.col("_coded").substr(1, 1), cdc.plain(F.col("_coded"))
    number = (
        F.when(text.rlike(r"^-?[0-9]+\z"), "int")
        .when(text.rlike(r"^-?[0-9]+\.[0-9]+\z"), "fraction")
        .otherwise("double")
    )
    kind = F.when(letter == "n", number).when(letter == "b", "boolean").when(letter.isNotNull(), "string")
    is_number = declared.isNull() & (letter == "n")
    digits: Callable[[str], Column] = lambda pattern: F.max(  # noqa: E731
        F.when(is_number, F.length(F.regexp_extract(text, pattern, 1)))
    )
    mantissa = F.regexp_extract(text, r"^-?0*([0-9.]*)", 1)
    summary = each.groupBy(F.lower("_name").alias("name")).agg(
        F.min("_name").alias("source"),
        F.collect_set(F.coalesce(declared, kind)).alias("kinds"),
        digits(r"^-?0*([0-9]*)").alias("whole"),
        digits(r"\.([0-9]*)\z").alias("fraction"),
        F.max(is_number & (number == "int") & text.try_cast("bigint").isNull()).alias("big"),
        F.max(F.when(is_number, F.length(F.regexp_replace(mantissa, r"\.", "")))).alias("digits"),
        F.bool_and(declared.isNotNull() | letter.isNull()).alias("declared"),
    )
    return {
        name: Observed(source, frozenset(kinds), whole or 0, fraction or 0, bool(big), digits or 0, declared)
        for name, source, kinds, whole, fraction, big, digits, declared in summary.collect()
        if kinds
    }


def type_of(observed: Observed) -> str:
    """Return the narrowest type that can hold the observed values.

    Whole numbers are bigint up to 2^63, else decimal; numbers with a fraction are decimal. The type is double if a
    schema says so, or if there are numbers with an exponent and none has more than 15 digits. Everything else is
    string.
    """
    kinds = set(observed.kinds)
    if len(kinds) == 1 and (only := next(iter(kinds))) not in ("int", "fraction", "double"):
        return only
    if kinds == {"date", "timestamp"}:
        return "timestamp"
    exact = {kind: _digits(kind) for kind in kinds if kind.startswith("decimal") or kind == "bigint"}
    if len(exact) + len(kinds & {"int", "fraction", "double"}) < len(kinds):
        return "string"
    if "double" in kinds:
        digits = max([observed.digits, *(p for kind, (p, _) in exact.items() if kind != "bigint")])
        return "double" if digits <= DOUBLE_DIGITS else "string"
    if kinds <= {"int", "bigint"} and not observed.big:
        return "bigint"
    whole, fraction = _places(observed)
    if whole + fraction > DIGITS:
        return "string"
    return f"decimal({DIGITS if kinds & {'int', 'fraction'} else whole + fraction},{fraction})"


def _places(observed: Observed) -> tuple[int, int]:
    """Return the maximum digits before and after the point, of values and of types from a schema."""
    exact = [_digits(kind) for kind in observed.kinds if kind.startswith("decimal") or kind == "bigint"]
    return max([observed.whole, *(p - s for p, s in exact)]), max([observed.fraction, *(s for _, s in exact)])


def _digits(kind: str) -> tuple[int, int]:
    if kind == "bigint":
        return 19, 0
    precision, scale = re.findall(r"\d+", kind)
    return int(precision), int(scale)


def holds(kind: str, observed: Observed) -> bool:
    """Return whether a column's type can also hold newly observed values."""
    return kind == "string" or type_of(observed._replace(kinds=observed.kinds | {kind})) == kind


def _columns(observed: Mapping[str, Observed]) -> dict[str, ReplicaColumn]:
    names = column_names(observed)
    return {source: values.column(names[source]) for source, values in sorted(observed.items())}


def _with(present: dict[str, ReplicaColumn], observed: Mapping[str, Observed]) -> dict[str, ReplicaColumn] | None:
    """Return the present columns and new ones; None if a present column has to change."""
    names = column_names({*present, *observed})
    if any(
        names[source] != column.name or (source in observed and not holds(column.kind, observed[source]))
        for source, column in present.items()
    ):
        return None
    return present | {
        source: values.column(names[source]) for source, values in sorted(observed.items()) if source not in present
    }


def _present(inputs: Inputs) -> dict[str, ReplicaColumn]:
    """Return the source's columns that the table has, by the source's names."""
    opened = delta.opened(inputs.lakehouse, inputs.table)
    columns = {}
    for column in delta.as_made(inputs.table, opened).columns:
        if column.comment.startswith(SOURCE_COLUMN):
            source, _ = json.JSONDecoder().raw_decode(column.comment.removeprefix(SOURCE_COLUMN))
            columns[source.lower()] = ReplicaColumn(column.name, column.type, column.comment)
    return columns
