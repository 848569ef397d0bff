"""The kinds of checks: for each, a function that compiles it to a rule.

The parameters of a function are the arguments of the kind, their annotations are the types that a parameters file may
give, and its docstring is the documentation. SQL in arguments is Spark SQL, as in the notebooks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from typing import Any

from sqlglot import exp

from lakehouse_lib.errors import ConfigError
from lakehouse_lib.model.rules import Context, Rule, to_duckdb
from lakehouse_lib.sql import dialects
from lakehouse_lib.sql import types as st

# Kinds that check each row ---------------------------------------------------


def not_null(context: Context, column: str = "", columns: list[str] | None = None) -> Rule:
    """The column, or each of the columns, has a value."""
    names = _columns(column, columns or ())
    return context.rows(f"lack {' or '.join(names)}", " OR ".join(f"{_spark_name(name)} IS NULL" for name in names))


def null_share(context: Context, column: str, max: float) -> Rule:
    """At most this share (0–1) of the rows has no value."""
    return Context(context.types, context.where, max or 1e-12).rows(f"lack {column}", f"{_spark_name(column)} IS NULL")


def castable(context: Context, column: str, to: str) -> Rule:
    """Each value can be cast to the type."""
    name = _spark_name(column)
    return context.rows(f"have a {column} that is no {to}", f"{name} IS NOT NULL AND TRY_CAST({name} AS {to}) IS NULL")


def range_(context: Context, column: str, min: float | str | None = None, max: float | str | None = None) -> Rule:
    """Each value lies between ``min`` and ``max``, both included; NaN does not."""
    name = _spark_name(column)
    broken = [f"{name} < {_literal(min, context.types[column])}"] if min is not None else []
    broken += [f"{name} > {_literal(max, context.types[column])}"] if max is not None else []
    broken += [f"isnan({name})"] if context.types[column] in ("double", "float") else []
    if min is None and max is None:
        raise ConfigError("range needs min, max or both")
    return context.rows(f"have {column} {_outside(min, max)}", " OR ".join(broken))


def allowed_values(context: Context, column: str, values: list[Any]) -> Rule:
    """Each value is one of ``values``."""
    listed = ", ".join(_literal(value, context.types[column]) for value in values)
    return context.rows(f"have a {column} other than {_shortened(values)}", f"{_spark_name(column)} NOT IN ({listed})")


def regex(context: Context, column: str, pattern: str) -> Rule:
    """Each text contains a match of the pattern (``^…$`` matches the whole text)."""
    return context.rows(
        f"have a {column} unlike {pattern}", f"NOT ({_spark_name(column)} RLIKE {_literal(pattern, 'string')})"
    )


def length(context: Context, column: str, min: int = 0, max: int | None = None) -> Rule:
    """Each text has between ``min`` and ``max`` characters."""
    size = f"length({_spark_name(column)})"
    broken = f"{size} < {min}" + (f" OR {size} > {max}" if max is not None else "")
    return context.rows(f"have a {column} of {_outside(min, max)} characters", broken)


def foreign_key(context: Context, column: str, table: str, key: str = "") -> Rule:
    """Each value exists in the key column of another table."""
    key, exists = key or column, f"_in_{table}_{column}"
    lookup = f'"{column}" IN (SELECT "{key}" FROM "{table}" WHERE "{key}" IS NOT NULL)'
    return context.rows(
        f"have a {column} that {table} lacks",
        f"{_spark_name(column)} IS NOT NULL AND NOT {exists}",
        {exists: "boolean"},
        prepared={exists: lookup},
        needs=(table,),
    )


def monotonic(context: Context, column: str, order_by: str, by: str = "") -> Rule:
    """No value is smaller than the one before it in the order of ``order_by``, within each group of ``by``."""
    before, groups = f"_before_{column}", f'PARTITION BY "{by}" ' if by else ""
    window = f'lag("{column}") OVER ({groups}ORDER BY "{order_by}")'
    return context.rows(
        f"have a smaller {column} than the row before them in {order_by}",
        f"{_spark_name(column)} < {before}",
        {before: context.types[column]},
        prepared={before: window},
    )


def expression(context: Context, condition: str) -> Rule:
    """A Spark SQL condition is not false in any row; as with CHECK in SQL, null passes."""
    return context.rows(f"break {condition}", f"NOT ({condition})")


# Kinds that check all rows together -------------------------------------------


def unique(context: Context, column: str = "", columns: list[str] | None = None) -> Rule:
    """No value, or combination of values, occurs in two rows; nulls do not count."""
    names = _columns(column, columns or ())
    complete = " AND ".join(f"{_spark_name(name)} IS NOT NULL" for name in names)
    # Equal values have equal hashes, so no repetition is missed; `trust.checking` rules out hash collisions.
    hashes = f"count(DISTINCT hash({', '.join(map(st.quoted, names))}))"
    parts = {"rows": context.counted(complete), "distinct": hashes + context.filter(complete)}
    return Rule(f"repeat the {' + '.join(names)} of another row", parts,
                lambda p: p["rows"] - p["distinct"], high=0, repeated=tuple(names), unit="rows")  # fmt: skip


def row_count(context: Context, min: int = 0, max: int | None = None) -> Rule:
    """The number of rows lies between ``min`` and ``max``."""
    return Rule("number of rows", {"rows": context.counted()}, lambda p: p["rows"], min, max, additive=True)


def freshness(context: Context, column: str, max_hours: float) -> Rule:
    """The newest time in the column is at most ``max_hours`` hours ago."""
    parts = {"rows": context.counted(), "newest": f"epoch(max({st.quoted(column)}::TIMESTAMP){context.filter()})"}

    def hours(parts: Mapping[str, Any]) -> float | None:
        return None if parts["newest"] is None else (time.time() - parts["newest"]) / 3600

    return Rule(f"age of the newest {column}", parts, hours, high=max_hours, unit="hours")


def ratio(
    context: Context, numerator: str, denominator: str, min: float | None = None, max: float | None = None
) -> Rule:
    """The sum of one column divided by the sum of another lies between ``min`` and ``max``."""
    parts = {"rows": context.counted()}
    parts |= {
        name: f"(sum({st.quoted(column)}){context.filter()})::DOUBLE"
        for name, column in (("above", numerator), ("below", denominator))
    }
    return Rule(
        f"{numerator} / {denominator}", parts, lambda p: p["above"] / p["below"] if p["below"] else None, min, max
    )


def aggregate(context: Context, expression: str, min: float | None = None, max: float | None = None) -> Rule:
    """A Spark SQL aggregate, such as ``count(DISTINCT user_id)``, lies between ``min`` and ``max``."""
    parts = {"rows": context.counted(), "value": f"({to_duckdb(expression, context.types)})::DOUBLE"}
    if context.where:
        raise ConfigError("aggregate does not support `where`; use FILTER (WHERE …) or CASE WHEN in the expression")
    return Rule(expression, parts, lambda p: p["value"], min, max)


def drift(context: Context, column: str, baseline: dict[str, Any], max: float = 0.25) -> Rule:
    """The values are distributed as in the baseline (value: share, or bins such as ``<5``: share).

    Measured by the population stability index, Σ (p − q) · ln(p / q): below 0.1 the distribution has not shifted,
    above 0.25 it has (N. Siddiqi, Credit Risk Scorecards, 2006). A bin ``<number`` holds the values below the number
    that are in no smaller bin; values in no bin count as ``other``.
    """
    name = _spark_name(column)
    parts, previous_limit = {"rows": context.counted(f"{name} IS NOT NULL")}, ""
    for number, label in enumerate(baseline):
        if label == "other":
            continue
        limit = str(label)[1:] if str(label).startswith("<") else None
        condition = (
            f"{name} < {limit}" + (f" AND {name} >= {previous_limit}" if previous_limit else "")
            if limit
            else f"{name} = {_literal(label, context.types[column])}"
        )
        previous_limit = limit or previous_limit
        parts[f"bin{number}"] = context.counted(condition)

    def index(parts: Mapping[str, Any]) -> float | None:
        counts = {label: parts.get(f"bin{number}") for number, label in enumerate(baseline)}
        known = sum(count for count in counts.values() if count is not None)
        counts["other"] = parts["rows"] - known
        expected = dict(baseline)
        expected.setdefault("other", 1 - sum(baseline.values()))
        total, floor = parts["rows"], 1e-4  # an empty bin would make the index infinite
        if not total:
            return None
        pairs = [((counts[label] or 0) / total, share) for label, share in expected.items()]
        return sum(
            (_at_least(p, floor) - _at_least(q, floor)) * math.log(_at_least(p, floor) / _at_least(q, floor))
            for p, q in pairs
        )

    return Rule(f"drift of {column} (population stability index)", parts, index, high=max, additive=True)


def schema(context: Context, columns: dict[str, str] | list[str]) -> Rule:
    """These columns exist, with these types if types are given."""
    expected = columns if isinstance(columns, dict) else dict.fromkeys(columns)
    differences = [f"{name} is missing" for name in expected if name not in context.types]
    differences += [
        f"{name} is {context.types[name]}, not {kind}"
        for name, kind in expected.items()
        if kind and name in context.types and context.types[name] != kind
    ]
    return Rule(
        f"columns: {'; '.join(differences) or 'as declared'}", {}, lambda _: len(differences), high=0, unit="columns"
    )


def type_(context: Context, column: str, is_: str) -> Rule:
    """The column has this type."""
    return schema(context, {column: is_})


KINDS: dict[str, Callable[..., Rule]] = {
    kind.__name__.rstrip("_"): kind
    for kind in (not_null, null_share, castable, range_, allowed_values, regex, length, foreign_key, monotonic,
                 expression, unique, row_count, freshness, ratio, aggregate, drift, schema, type_)
}  # fmt: skip
METADATA = ("schema", "type")
"""Kinds that are about the columns of the table, and not about rows."""


# SQL and words ---------------------------------------------------------------


def _columns(column: str, columns: Iterable[str]) -> list[str]:
    names = [*filter(None, [column]), *columns]
    if not names:
        raise ConfigError("column or columns is required")
    return names


def _spark_name(name: str) -> str:
    return f"`{name}`"


def _literal(value: Any, kind: str) -> str:
    if isinstance(value, date):
        value = value.isoformat()
    if isinstance(value, str):
        if kind in ("int", "bigint", "double", "boolean"):
            raise ConfigError(f"{value!r} is not of type {kind}")
        if kind in ("date", "timestamp"):
            try:
                datetime.fromisoformat(value)
            except ValueError:
                raise ConfigError(f"{value!r} is not a {kind}; write it as 2026-03-01") from None
        text = exp.Literal.string(value).sql(dialect=dialects.Spark)
        return text if kind == "string" else f"CAST({text} AS {kind})"
    return str(value)


def _outside(low: Any, high: Any) -> str:
    if high is None:
        return f"below {low}"
    return f"above {high}" if low is None else f"outside {low} to {high}"


def _shortened(values: Iterable[Any]) -> str:
    texts = [str(value) for value in values]
    return ", ".join(texts[:6]) + (f" and {len(texts) - 6} more" if len(texts) > 6 else "")


def _at_least(value: float, floor: float) -> float:
    return value if value > floor else floor
