"""The kinds of checks, their arguments, and the SQL that a check is compiled to.

A check is data: a name, a kind, the kind's arguments, a severity, and optionally a filter and a
scope. It is part of a table's declaration (`check`) or of a parameters file::

    quality:
      app_events_silver:
        - {name: known_app, check: allowed_values, column: app_type, values: [web, ios], severity: warn}

Each kind is a function below: its parameters are the arguments, its docstring is the documentation. SQL in
arguments and filters is Spark SQL, as in the notebooks. `trust.quality` runs the checks.
"""

from __future__ import annotations

import difflib
import inspect
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from types import NoneType
from typing import Any

import sqlglot
from sqlglot import exp

from lakehouse_lib.errors import ConfigError
from lakehouse_lib.sql import dialects

SEVERITIES = ("warn", "error", "quarantine")
"""warn: the failure is only reported; error: the run exits with 3 and nothing is made from the table; quarantine
(bronze tables only): the record is set aside unchanged, and the other records are processed."""

SCOPES = ("table", "partition", "run")
"""All rows together; each partition separately; only the rows that the run wrote."""

COMMON = ("name", "check", "severity", "where", "scope", "tolerance")


@dataclass(frozen=True)
class Check:
    """A check as declared."""

    name: str
    kind: str
    arguments: dict[str, Any]
    severity: str = "error"
    where: str = ""
    """Spark SQL condition that selects the rows to check."""
    scope: str = "table"
    tolerance: float = 0.0
    """Share of the rows that may fail, 0–1; only for kinds that check each row."""

    @property
    def digest(self) -> str:
        """The definition as text; a stored result is valid only for the definition that it was computed with."""
        return json.dumps(vars(self), sort_keys=True, default=str)


@dataclass(frozen=True)
class Rule:
    """A check compiled for a table.

    ``parts`` are aggregates (DuckDB SQL) from which ``value`` computes the measured number; the check passes if
    that is between ``low`` and ``high``. If the rule is ``additive``, the parts of two sets of rows can be summed.
    """

    says: str
    parts: dict[str, str]
    value: Callable[[Mapping[str, Any]], float | None]
    low: float | None = None
    high: float | None = None
    fails: str = ""
    """Spark SQL condition of a failing row; empty where no single row fails."""
    sets_aside: str = ""
    """Spark SQL condition of a record that goes to quarantine."""
    prepared: dict[str, str] = field(default_factory=dict)
    """Columns to compute first, in addition to the table's own: a lookup or a window (DuckDB SQL)."""
    prepared_types: dict[str, str] = field(default_factory=dict)
    """The Spark types of the prepared columns."""
    repeated: tuple[str, ...] = ()
    """Columns in which repeated values are failures."""
    needs: tuple[str, ...] = ()
    """Other tables in which values are looked up."""
    additive: bool = False
    unit: str = ""


def check(name: str, kind: str, /, severity: str = "error", where: str = "", scope: str = "table",
          tolerance: float = 0.0, **arguments: Any) -> Check:  # fmt: skip
    """A check in a declaration, for example ``check("hour", "range", column="event_hour", min=0, max=23)``."""
    return Check(name, kind, arguments, severity, where, scope, tolerance)


def to_duckdb(sql: str, types: Mapping[str, str]) -> str:
    """Translate a Spark SQL expression over columns of these types to DuckDB SQL, where times are UTC without a zone.

    Raises
    ------
    ConfigError
        The expression cannot be parsed, names an unknown column, or contains something that cannot be translated.
    """
    try:
        _refuse_unknown_columns(sql, set(types))
        return dialects.expression(sql, types)
    except (sqlglot.errors.SqlglotError, ConfigError) as error:
        raise ConfigError(f"{sql!r}: {str(error).splitlines()[0]}") from None


# Kinds that check each row ---------------------------------------------------


@dataclass(frozen=True)
class _Context:
    """What a kind knows about the check that it compiles: column types, filter and tolerance."""

    types: dict[str, str]
    where: str
    tolerance: float

    def counted(self, condition: str = "") -> str:
        """The number of rows that match the filter and a condition (Spark SQL), as an aggregate."""
        return f"count(*){self.filter(condition)}"

    def filter(self, *conditions: str) -> str:
        """The FILTER clause of an aggregate: the filter of the check and further conditions (Spark SQL)."""
        condition = " AND ".join(f"({to_duckdb(text, self.types)})" for text in (self.where, *conditions) if text)
        return f" FILTER (WHERE {condition})" if condition else ""

    def rows(self, says: str, fails: str, types: Mapping[str, str] | None = None, **more: Any) -> Rule:
        """A rule that checks each row; ``types`` are those of the prepared columns."""
        if types:
            return replace(self, types={**self.types, **types}).rows(says, fails, prepared_types=types, **more)
        tolerance = self.tolerance

        def value(parts: Mapping[str, Any]) -> float:
            failing: float = parts["failing"]
            return failing / max(1, parts["rows"]) if tolerance else failing

        parts = {"rows": self.counted(), "failing": self.counted(fails)}
        return Rule(says, parts, value, high=tolerance, fails=fails, additive=not more.get("prepared"),
                    unit="of the rows" if tolerance else "rows", **more)  # fmt: skip


# The annotations are the types that a parameters file may give (see `_check_arguments`).


def not_null(context: _Context, column: str = "", columns: list[str] | None = None) -> Rule:
    """The column, or each of the columns, has a value."""
    names = _columns(column, columns or ())
    return context.rows(f"lack {' or '.join(names)}", " OR ".join(f"{_quoted(name)} IS NULL" for name in names))


def null_share(context: _Context, column: str, max: float) -> Rule:
    """At most this share (0–1) of the rows has no value."""
    return _Context(context.types, context.where, max or 1e-12).rows(f"lack {column}", f"{_quoted(column)} IS NULL")


def castable(context: _Context, column: str, to: str) -> Rule:
    """Each value can be cast to the type."""
    name = _quoted(column)
    return context.rows(f"have a {column} that is no {to}", f"{name} IS NOT NULL AND TRY_CAST({name} AS {to}) IS NULL")


def range_(context: _Context, column: str, min: float | str | None = None, max: float | str | None = None) -> Rule:
    """Each value lies between ``min`` and ``max``, both included; NaN does not."""
    name = _quoted(column)
    broken = [f"{name} < {_literal(min, context.types[column])}"] if min is not None else []
    broken += [f"{name} > {_literal(max, context.types[column])}"] if max is not None else []
    broken += [f"isnan({name})"] if context.types[column] in ("double", "float") else []
    if min is None and max is None:
        raise ConfigError("range needs min, max or both")
    return context.rows(f"have {column} {_outside(min, max)}", " OR ".join(broken))


def allowed_values(context: _Context, column: str, values: list[Any]) -> Rule:
    """Each value is one of ``values``."""
    listed = ", ".join(_literal(value, context.types[column]) for value in values)
    return context.rows(f"have a {column} other than {_shortened(values)}", f"{_quoted(column)} NOT IN ({listed})")


def regex(context: _Context, column: str, pattern: str) -> Rule:
    """Each text contains a match of the pattern (``^…$`` matches the whole text)."""
    return context.rows(
        f"have a {column} unlike {pattern}", f"NOT ({_quoted(column)} RLIKE {_literal(pattern, 'string')})"
    )


def length(context: _Context, column: str, min: int = 0, max: int | None = None) -> Rule:
    """Each text has between ``min`` and ``max`` characters."""
    size = f"length({_quoted(column)})"
    broken = f"{size} < {min}" + (f" OR {size} > {max}" if max is not None else "")
    return context.rows(f"have a {column} of {_outside(min, max)} characters", broken)


def foreign_key(context: _Context, column: str, table: str, key: str = "") -> Rule:
    """Each value exists in the key column of another table."""
    key, exists = key or column, f"_in_{table}_{column}"
    lookup = f'"{column}" IN (SELECT "{key}" FROM "{table}" WHERE "{key}" IS NOT NULL)'
    return context.rows(
        f"have a {column} that {table} lacks",
        f"{_quoted(column)} IS NOT NULL AND NOT {exists}",
        {exists: "boolean"},
        prepared={exists: lookup},
        needs=(table,),
    )


def monotonic(context: _Context, column: str, order_by: str, by: str = "") -> Rule:
    """No value is smaller than the one before it in the order of ``order_by``, within each group of ``by``."""
    before, groups = f"_before_{column}", f'PARTITION BY "{by}" ' if by else ""
    window = f'lag("{column}") OVER ({groups}ORDER BY "{order_by}")'
    return context.rows(
        f"have a smaller {column} than the row before them in {order_by}",
        f"{_quoted(column)} < {before}",
        {before: context.types[column]},
        prepared={before: window},
    )


def expression(context: _Context, condition: str) -> Rule:
    """A Spark SQL condition is not false in any row; as with CHECK in SQL, null passes."""
    return context.rows(f"break {condition}", f"NOT ({condition})")


# Kinds that check all rows together -------------------------------------------


def unique(context: _Context, column: str = "", columns: list[str] | None = None) -> Rule:
    """No value, or combination of values, occurs in two rows; nulls do not count."""
    names = _columns(column, columns or ())
    complete = " AND ".join(f"{_quoted(name)} IS NOT NULL" for name in names)
    # Equal values have equal hashes, so no repetition is missed; `trust.quality` rules out hash collisions.
    hashes = f"count(DISTINCT hash({', '.join(map(_double_quoted, names))}))"
    parts = {"rows": context.counted(complete), "distinct": hashes + context.filter(complete)}
    return Rule(f"repeat the {' + '.join(names)} of another row", parts,
                lambda p: p["rows"] - p["distinct"], high=0, repeated=tuple(names), unit="rows")  # fmt: skip


def row_count(context: _Context, min: int = 0, max: int | None = None) -> Rule:
    """The number of rows lies between ``min`` and ``max``."""
    return Rule("number of rows", {"rows": context.counted()}, lambda p: p["rows"], min, max, additive=True)


def freshness(context: _Context, column: str, max_hours: float) -> Rule:
    """The newest time in the column is at most ``max_hours`` hours ago."""
    parts = {"rows": context.counted(), "newest": f"epoch(max({_double_quoted(column)}::TIMESTAMP){context.filter()})"}

    def hours(parts: Mapping[str, Any]) -> float | None:
        return None if parts["newest"] is None else (time.time() - parts["newest"]) / 3600

    return Rule(f"age of the newest {column}", parts, hours, high=max_hours, unit="hours")


def ratio(
    context: _Context, numerator: str, denominator: str, min: float | None = None, max: float | None = None
) -> Rule:
    """The sum of one column divided by the sum of another lies between ``min`` and ``max``."""
    parts = {"rows": context.counted()}
    parts |= {
        name: f"(sum({_double_quoted(column)}){context.filter()})::DOUBLE"
        for name, column in (("above", numerator), ("below", denominator))
    }
    return Rule(
        f"{numerator} / {denominator}", parts, lambda p: p["above"] / p["below"] if p["below"] else None, min, max
    )


def aggregate(context: _Context, expression: str, min: float | None = None, max: float | None = None) -> Rule:
    """A Spark SQL aggregate, such as ``count(DISTINCT user_id)``, lies between ``min`` and ``max``."""
    parts = {"rows": context.counted(), "value": f"({to_duckdb(expression, context.types)})::DOUBLE"}
    if context.where:
        raise ConfigError("aggregate does not support `where`; use FILTER (WHERE …) or CASE WHEN in the expression")
    return Rule(expression, parts, lambda p: p["value"], min, max)


def drift(context: _Context, column: str, baseline: dict[str, Any], max: float = 0.25) -> Rule:
    """The values are distributed as in the baseline (value: share, or bins such as ``<5``: share).

    Measured by the population stability index, Σ (p − q) · ln(p / q): below 0.1 the distribution has not shifted,
    above 0.25 it has (N. Siddiqi, Credit Risk Scorecards, 2006). A bin ``<number`` holds the values below the number
    that are in no smaller bin; values in no bin count as ``other``.
    """
    parts, previous_limit = {"rows": context.counted(f"{_quoted(column)} IS NOT NULL")}, ""
    for number, label in enumerate(baseline):
        if label == "other":
            continue
        limit = str(label)[1:] if str(label).startswith("<") else None
        condition = (
            f"{_quoted(column)} < {limit}" + (f" AND {_quoted(column)} >= {previous_limit}" if previous_limit else "")
            if limit
            else f"{_quoted(column)} = {_literal(label, context.types[column])}"
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


def schema(context: _Context, columns: dict[str, str] | list[str]) -> Rule:
    """These columns exist, with these types if types are given."""
    expected = columns if isinstance(columns, dict) else dict.fromkeys(columns)
    differences = [f"{name} is missing" for name in expected if name not in context.types]
    differences += [
        f"{name} is {context.types[name]} and not {kind}"
        for name, kind in expected.items()
        if kind and name in context.types and context.types[name] != kind
    ]
    return Rule(
        f"columns: {'; '.join(differences) or 'as declared'}", {}, lambda _: len(differences), high=0, unit="columns"
    )


def type_(context: _Context, column: str, is_: str) -> Rule:
    """The column has this type."""
    return schema(context, {column: is_})


KINDS: dict[str, Callable[..., Rule]] = {
    kind.__name__.rstrip("_"): kind
    for kind in (not_null, null_share, castable, range_, allowed_values, regex, length, foreign_key, monotonic,
                 expression, unique, row_count, freshness, ratio, aggregate, drift, schema, type_)
}  # fmt: skip
_COLUMN_ARGUMENTS = ("column", "columns", "numerator", "denominator", "order_by", "by")
METADATA = ("schema", "type")
_ACCEPTED_TYPES: dict[str, Any] = {
    "str": (str, date), "float": (float, int), "int": int, "list": (list, tuple), "dict": dict, "None": NoneType,
}  # fmt: skip


# Definitions ----------------------------------------------------------------


def parse(definition: Mapping[str, Any]) -> Check:
    """A check from a parameters file; `compile_check` decides whether it fits its table."""
    rest = dict(definition)
    kind = str(rest.pop("check", ""))
    common = {key: rest.pop(key) for key in COMMON if key in rest}
    arguments = {"is_" if key == "is" else key: value for key, value in rest.items()}
    name = str(
        common.pop("name", "")
        or "_".join([kind, *map(str, arguments.get("columns", ())), str(arguments.get("column", ""))]).rstrip("_")
    )
    return Check(name, kind, arguments, **common)


def compile_check(check: Check, table: str, layer: str, types: Mapping[str, str], known: Iterable[str] = ()) -> Rule:
    """The rule for a check of a table with these columns (name: type); ``known`` are the names of all tables.

    Raises
    ------
    ConfigError
        Kind, column, argument, severity, scope or SQL is invalid; the message suggests the closest name.
    """
    location = f"quality.{table}, check {check.name!r}"
    try:
        if check.kind not in KINDS:
            raise ConfigError(_unknown("check", check.kind, KINDS))
        _require_one_of("severity", check.severity, SEVERITIES)
        _require_one_of("scope", check.scope, SCOPES)
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", check.name):
            raise ConfigError(f"name = {check.name!r}: letters, digits and _ only")
        _check_arguments(check, types)
        if check.kind == "foreign_key" and check.arguments["table"] not in known:
            raise ConfigError(_unknown("table", check.arguments["table"], known))
        if not isinstance(check.tolerance, int | float) or not 0 <= check.tolerance <= 1:
            raise ConfigError(f"tolerance = {check.tolerance!r}: a share from 0 to 1")
        rule = KINDS[check.kind](_Context(dict(types), check.where, check.tolerance), **check.arguments)
        if check.tolerance and not rule.fails:
            raise ConfigError(f"tolerance is for checks of each row; {check.kind} has bounds of its own")
        if check.severity == "quarantine" and (layer != "bronze" or not rule.fails or rule.prepared):
            raise ConfigError(
                f"severity quarantine is for checks of each record of a bronze table; {check.kind} on {table} "
                "can be warn or error"
            )
        if check.severity == "quarantine":
            # A record that was set aside carries the name of the check as a flag.
            broken = " AND ".join(f"({text})" for text in (check.where, rule.fails) if text)
            context = _Context(dict(types), "", check.tolerance)
            rule = replace(
                context.rows(rule.says, f"array_contains(_quality_flags, '{check.name}')"), sets_aside=broken
            )
        return rule
    except ConfigError as error:
        raise ConfigError(f"{location}: {error}") from None


def _check_arguments(check: Check, types: Mapping[str, str]) -> None:
    """Check the arguments against the parameters of the kind."""
    expected = {name: p for name, p in inspect.signature(KINDS[check.kind]).parameters.items() if name != "context"}
    for name, value in check.arguments.items():
        if name not in expected:
            raise ConfigError(_unknown(f"argument of {check.kind}", name, [*expected, *COMMON]))
        annotation = re.sub(r"\[.*?\]", "", str(expected[name].annotation))
        accepted = [_ACCEPTED_TYPES[word] for word in re.findall(r"\w+", annotation) if word in _ACCEPTED_TYPES]
        if not any(isinstance(value, kind) for kind in accepted):
            raise ConfigError(f"{name} = {value!r}: expected {annotation.replace(' | None', '')}")
    missing = [name for name, p in expected.items() if p.default is p.empty and name not in check.arguments]
    if missing:
        raise ConfigError(f"{check.kind} needs {' and '.join(missing).replace('is_', 'is')}")
    if check.kind in METADATA:
        return
    for name in _COLUMN_ARGUMENTS:
        value = check.arguments.get(name, [])
        for column in filter(None, value if isinstance(value, list | tuple) else [value]):
            if column not in types:
                raise ConfigError(_unknown("column", column, types))


def _refuse_unknown_columns(sql: str, known: set[str]) -> None:
    tree = sqlglot.parse_one(sql, dialect=dialects.Spark)
    not_columns = {parameter.name for function in tree.find_all(exp.Lambda) for parameter in function.expressions}
    not_columns |= {
        call.expressions[0].name
        for call in tree.find_all(exp.Anonymous)
        if len(call.expressions) == 3 and re.search("diff|add", call.name.lower())
    }  # a unit, as in datediff(MONTH, …)
    for column in tree.find_all(exp.Column):
        if column.parts[0].name.lower() not in {name.lower() for name in known | not_columns}:
            raise ConfigError(_unknown("column", column.parts[0].name, known))


def _require_one_of(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(_unknown(what, value, choices))


def _unknown(what: str, name: Any, known: Iterable[str]) -> str:
    known = [candidate for candidate in known if not candidate.startswith("_")]
    closest = difflib.get_close_matches(str(name), known, 1, 0.5)
    return f"unknown {what} {name!r}; " + (
        f"did you mean {closest[0]}?" if closest else f"there are {', '.join(known)}"
    )


def _columns(column: str, columns: Iterable[str]) -> list[str]:
    names = [*filter(None, [column]), *columns]
    if not names:
        raise ConfigError("it needs column, or columns")
    return names


def _quoted(name: str) -> str:
    return f"`{name}`"


def _double_quoted(name: str) -> str:
    return f'"{name}"'


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
