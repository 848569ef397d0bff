"""The vocabulary of checks: what a check may say, and the SQL that it stands for.

A check is data: a name, a kind, the kind's arguments, a severity, and optionally a filter and a
scope. It stands in a table's declaration (`check`) or in a parameters file::

    quality:
      app_events_silver:
        - {name: known_app, check: allowed_values, column: app_type, values: [web, ios], severity: warn}

Each kind is a function below: its parameters are the arguments, its docstring is the manual. SQL in
arguments and filters is Spark SQL, as in the notebooks. `quality` runs the checks.
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
"""warn: said; error: the run ends with 3 and nothing is made from the table; quarantine (bronze
tables only): the record is set aside as it came, and the rest goes on."""

SCOPES = ("table", "partition", "run")
"""All rows; each partition by itself; the rows that the run wrote."""

COMMON = ("name", "check", "severity", "where", "scope", "tolerance")


@dataclass(frozen=True)
class Check:
    """One check as it was declared."""

    name: str
    kind: str
    arguments: dict[str, Any]
    severity: str = "error"
    where: str = ""
    """Spark SQL condition of the rows that are looked at."""
    scope: str = "table"
    tolerance: float = 0.0
    """Share of the rows that may fail, 0–1; for kinds that look at each row."""

    @property
    def digest(self) -> str:
        """The definition as text; a result counts only for the definition that it was made with."""
        return json.dumps(vars(self), sort_keys=True, default=str)


@dataclass(frozen=True)
class Rule:
    """What a check stands for on one table.

    ``parts`` are aggregates (DuckDB SQL) from which ``value`` makes the measured number; it is
    right between ``low`` and ``high``. ``additive`` parts of two sets of rows can be summed.
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
    """Columns to compute beside the table's own first: a lookup or a window (DuckDB SQL)."""
    prepared_types: dict[str, str] = field(default_factory=dict)
    """Their types in Spark."""
    repeated: tuple[str, ...] = ()
    """Columns whose repeated values are the failures."""
    needs: tuple[str, ...] = ()
    """Other tables that it looks into."""
    additive: bool = False
    unit: str = ""


def check(name: str, kind: str, /, severity: str = "error", where: str = "", scope: str = "table",
          tolerance: float = 0.0, **arguments: Any) -> Check:  # fmt: skip
    """A check of a declaration, for example ``check("hour", "range", column="event_hour", min=0, max=23)``."""
    return Check(name, kind, arguments, severity, where, scope, tolerance)


def to_duckdb(sql: str, types: Mapping[str, str]) -> str:
    """A Spark SQL expression over columns of these types, as DuckDB has it; times are UTC without a zone there.

    Raises
    ------
    ConfigError
        It cannot be parsed, names a column that is not there, or holds something that does not carry over.
    """
    try:
        _sql_columns(sql, set(types))
        return dialects.expression(sql, types)
    except (sqlglot.errors.SqlglotError, ConfigError) as error:
        raise ConfigError(f"{sql!r}: {str(error).splitlines()[0]}") from None


# Kinds: each row ------------------------------------------------------------


@dataclass(frozen=True)
class _On:
    """What a kind may know of the check that it compiles: filter, tolerance, column types."""

    types: dict[str, str]
    where: str
    tolerance: float

    def counted(self, condition: str = "") -> str:
        """Rows under the filter, and under a condition (both Spark SQL)."""
        return f"count(*){self.filter(condition)}"

    def filter(self, *conditions: str) -> str:
        """The filter, and conditions beside it (Spark SQL), as a clause of an aggregate."""
        both = " AND ".join(f"({to_duckdb(text, self.types)})" for text in (self.where, *conditions) if text)
        return f" FILTER (WHERE {both})" if both else ""

    def rows(self, says: str, fails: str, types: Mapping[str, str] | None = None, **more: Any) -> Rule:
        """A rule about each row; ``types`` are those of columns that are prepared."""
        if types:
            return replace(self, types={**self.types, **types}).rows(says, fails, prepared_types=types, **more)
        tolerance = self.tolerance

        def value(parts: Mapping[str, Any]) -> float:
            failing: float = parts["failing"]
            return failing / max(1, parts["rows"]) if tolerance else failing

        parts = {"rows": self.counted(), "failing": self.counted(fails)}
        return Rule(says, parts, value, high=tolerance, fails=fails, additive=not more.get("prepared"),
                    unit="of the rows" if tolerance else "rows", **more)  # fmt: skip


# Their annotations say what a parameters file may give (`_arguments`).


def not_null(on: _On, column: str = "", columns: list[str] | None = None) -> Rule:
    """The column, or each of the columns, has a value."""
    names = _columns(column, columns or ())
    return on.rows(f"lack {' or '.join(names)}", " OR ".join(f"{_quoted(name)} IS NULL" for name in names))


def null_share(on: _On, column: str, max: float) -> Rule:
    """At most this share (0–1) of the rows has no value."""
    return _On(on.types, on.where, max or 1e-12).rows(f"lack {column}", f"{_quoted(column)} IS NULL")


def castable(on: _On, column: str, to: str) -> Rule:
    """Each text can be read as the type."""
    name = _quoted(column)
    return on.rows(f"have a {column} that is no {to}", f"{name} IS NOT NULL AND TRY_CAST({name} AS {to}) IS NULL")


def range_(on: _On, column: str, min: float | str | None = None, max: float | str | None = None) -> Rule:
    """Each value lies between ``min`` and ``max``, both included; a number that is none does not."""
    name = _quoted(column)
    broken = [f"{name} < {_literal(min, on.types[column])}"] if min is not None else []
    broken += [f"{name} > {_literal(max, on.types[column])}"] if max is not None else []
    broken += [f"isnan({name})"] if on.types[column] in ("double", "float") else []
    if min is None and max is None:
        raise ConfigError("range needs min, max or both")
    return on.rows(f"have {column} {_outside(min, max)}", " OR ".join(broken))


def allowed_values(on: _On, column: str, values: list[Any]) -> Rule:
    """Each value is one of these."""
    listed = ", ".join(_literal(value, on.types[column]) for value in values)
    return on.rows(f"have a {column} other than {_shortened(values)}", f"{_quoted(column)} NOT IN ({listed})")


def regex(on: _On, column: str, pattern: str) -> Rule:
    """Each text holds a match of the pattern (``^…$`` for all of it)."""
    return on.rows(f"have a {column} unlike {pattern}", f"NOT ({_quoted(column)} RLIKE {_literal(pattern, 'string')})")


def length(on: _On, column: str, min: int = 0, max: int | None = None) -> Rule:
    """Each text is so many characters long."""
    size = f"length({_quoted(column)})"
    broken = f"{size} < {min}" + (f" OR {size} > {max}" if max is not None else "")
    return on.rows(f"have a {column} of {_outside(min, max)} characters", broken)


def foreign_key(on: _On, column: str, table: str, key: str = "") -> Rule:
    """Each value stands in the key column of another table."""
    key, found = key or column, f"_in_{table}_{column}"
    lookup = f'"{column}" IN (SELECT "{key}" FROM "{table}" WHERE "{key}" IS NOT NULL)'
    return on.rows(f"have a {column} that {table} lacks", f"{_quoted(column)} IS NOT NULL AND NOT {found}",
                   {found: "boolean"}, prepared={found: lookup}, needs=(table,))  # fmt: skip


def monotonic(on: _On, column: str, order_by: str, by: str = "") -> Rule:
    """In the order of ``order_by``, for each ``by``, no value is smaller than the one before."""
    before, groups = f"_before_{column}", f'PARTITION BY "{by}" ' if by else ""
    window = f'lag("{column}") OVER ({groups}ORDER BY "{order_by}")'
    return on.rows(f"have a smaller {column} than the row before them in {order_by}", f"{_quoted(column)} < {before}",
                   {before: on.types[column]}, prepared={before: window})  # fmt: skip


def expression(on: _On, condition: str) -> Rule:
    """A Spark SQL condition is not false in any row; as in SQL's CHECK, unknown passes."""
    return on.rows(f"break {condition}", f"NOT ({condition})")


# Kinds: all rows together ---------------------------------------------------


def unique(on: _On, column: str = "", columns: list[str] | None = None) -> Rule:
    """No value, or combination of values, stands in two rows; nulls do not count."""
    names = _columns(column, columns or ())
    there = " AND ".join(f"{_quoted(name)} IS NOT NULL" for name in names)
    # 64-bit hashes cannot hide a repetition; one that they make up is looked at again by `quality`.
    hashes = f"count(DISTINCT hash({', '.join(map(_double_quoted, names))}))"
    parts = {"rows": on.counted(there), "distinct": hashes + on.filter(there)}
    return Rule(f"repeat the {' + '.join(names)} of another row", parts,
                lambda p: p["rows"] - p["distinct"], high=0, repeated=tuple(names), unit="rows")  # fmt: skip


def row_count(on: _On, min: int = 0, max: int | None = None) -> Rule:
    """So many rows are there."""
    return Rule("number of rows", {"rows": on.counted()}, lambda p: p["rows"], min, max, additive=True)


def freshness(on: _On, column: str, max_hours: float) -> Rule:
    """The newest time in the column is at most so many hours ago."""
    parts = {"rows": on.counted(), "newest": f"epoch(max({_double_quoted(column)}::TIMESTAMP){on.filter()})"}

    def hours(found: Mapping[str, Any]) -> float | None:
        return None if found["newest"] is None else (time.time() - found["newest"]) / 3600

    return Rule(f"age of the newest {column}", parts, hours, high=max_hours, unit="hours")


def ratio(on: _On, numerator: str, denominator: str, min: float | None = None, max: float | None = None) -> Rule:
    """The sum of one column divided by the sum of another lies between bounds."""
    parts = {"rows": on.counted()}
    parts |= {
        name: f"sum({_double_quoted(column)})::DOUBLE" + on.filter()
        for name, column in (("above", numerator), ("below", denominator))
    }
    return Rule(
        f"{numerator} / {denominator}", parts, lambda p: p["above"] / p["below"] if p["below"] else None, min, max
    )


def aggregate(on: _On, expression: str, min: float | None = None, max: float | None = None) -> Rule:
    """An aggregate in Spark SQL, such as ``count(DISTINCT user_id)``, lies between bounds."""
    parts = {"rows": on.counted(), "value": f"({to_duckdb(expression, on.types)})::DOUBLE"}
    if on.where:
        raise ConfigError("aggregate takes no `where`; say FILTER (WHERE …) or CASE WHEN in the expression")
    return Rule(expression, parts, lambda p: p["value"], min, max)


def drift(on: _On, column: str, baseline: dict[str, Any], max: float = 0.25) -> Rule:
    """The shares of the values are those of the baseline (value: share, or ``<5``-like bins).

    Measured by the population stability index, Σ (p − q) · ln(p / q); below 0.1 nothing moved,
    above 0.25 it did (N. Siddiqi, Credit Risk Scorecards, 2006). A bin is ``<number``: values
    below it and not in a smaller bin; what is in none counts as ``other``.
    """
    parts, before = {"rows": on.counted(f"{_quoted(column)} IS NOT NULL")}, ""
    for number, label in enumerate(baseline):
        if label == "other":
            continue
        limit = str(label)[1:] if str(label).startswith("<") else None
        condition = (
            f"{_quoted(column)} < {limit}" + (f" AND {_quoted(column)} >= {before}" if before else "")
            if limit
            else f"{_quoted(column)} = {_literal(label, on.types[column])}"
        )
        before = limit or before
        parts[f"bin{number}"] = on.counted(condition)

    def index(found: Mapping[str, Any]) -> float | None:
        counts = {label: found.get(f"bin{number}") for number, label in enumerate(baseline)}
        known = sum(count for count in counts.values() if count is not None)
        counts["other"] = found["rows"] - known
        expected = dict(baseline)
        expected.setdefault("other", 1 - sum(baseline.values()))
        total, floor = found["rows"], 1e-4  # an empty bin would make the index infinite
        if not total:
            return None
        pairs = [((counts[label] or 0) / total, share) for label, share in expected.items()]
        return sum(
            (_at_least(p, floor) - _at_least(q, floor)) * math.log(_at_least(p, floor) / _at_least(q, floor))
            for p, q in pairs
        )

    return Rule(f"drift of {column} (population stability index)", parts, index, high=max, additive=True)


def schema(on: _On, columns: dict[str, str] | list[str]) -> Rule:
    """These columns are there, and of these types where types are given."""
    wanted = columns if isinstance(columns, dict) else dict.fromkeys(columns)
    wrong = [f"{name} is missing" for name in wanted if name not in on.types]
    wrong += [
        f"{name} is {on.types[name]} and not {kind}"
        for name, kind in wanted.items()
        if kind and name in on.types and on.types[name] != kind
    ]
    return Rule(f"columns: {'; '.join(wrong) or 'as declared'}", {}, lambda _: len(wrong), high=0, unit="columns")


def type_(on: _On, column: str, is_: str) -> Rule:
    """The column is of this type."""
    return schema(on, {column: is_})


KINDS: dict[str, Callable[..., Rule]] = {
    kind.__name__.rstrip("_"): kind
    for kind in (not_null, null_share, castable, range_, allowed_values, regex, length, foreign_key, monotonic,
                 expression, unique, row_count, freshness, ratio, aggregate, drift, schema, type_)
}  # fmt: skip
_ABOUT_COLUMNS = ("column", "columns", "numerator", "denominator", "order_by", "by")
METADATA = ("schema", "type")
_FITS: dict[str, Any] = {
    "str": (str, date), "float": (float, int), "int": int, "list": (list, tuple), "dict": dict, "None": NoneType,
}  # fmt: skip


# Definitions ----------------------------------------------------------------


def parse(given: Mapping[str, Any]) -> Check:
    """A check from a parameters file; `compile_check` tells whether it fits its table."""
    words = dict(given)
    kind = str(words.pop("check", ""))
    known = {word: words.pop(word) for word in COMMON if word in words}
    arguments = {"is_" if word == "is" else word: value for word, value in words.items()}
    name = str(
        known.pop("name", "")
        or "_".join([kind, *map(str, arguments.get("columns", ())), str(arguments.get("column", ""))]).rstrip("_")
    )
    return Check(name, kind, arguments, **known)


def compile_check(check: Check, table: str, layer: str, types: Mapping[str, str], known: Iterable[str] = ()) -> Rule:
    """The rule that a check stands for on a table with these columns (name: type).

    Raises
    ------
    ConfigError
        Kind, column, argument, severity, scope or SQL is wrong; the message names the nearest word.
    """
    where = f"quality.{table}, check {check.name!r}"
    try:
        if check.kind not in KINDS:
            raise ConfigError(_unknown("check", check.kind, KINDS))
        _choose("severity", check.severity, SEVERITIES)
        _choose("scope", check.scope, SCOPES)
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", check.name):
            raise ConfigError(f"name = {check.name!r}: letters, digits and _ only")
        _arguments(check, types)
        if check.kind == "foreign_key" and check.arguments["table"] not in known:
            raise ConfigError(_unknown("table", check.arguments["table"], known))
        if not isinstance(check.tolerance, int | float) or not 0 <= check.tolerance <= 1:
            raise ConfigError(f"tolerance = {check.tolerance!r}: a share from 0 to 1")
        rule = KINDS[check.kind](_On(dict(types), check.where, check.tolerance), **check.arguments)
        if check.tolerance and not rule.fails:
            raise ConfigError(f"tolerance is for checks of each row; {check.kind} has bounds of its own")
        if check.severity == "quarantine" and (layer != "bronze" or not rule.fails or rule.prepared):
            raise ConfigError(
                f"severity quarantine is for checks of each record of a bronze table; {check.kind} on {table} "
                "can be warn or error"
            )
        if check.severity == "quarantine":
            # Once set aside, a record is known by its flag.
            broken = " AND ".join(f"({text})" for text in (check.where, rule.fails) if text)
            on = _On(dict(types), "", check.tolerance)
            rule = replace(on.rows(rule.says, f"array_contains(_quality_flags, '{check.name}')"), sets_aside=broken)
        return rule
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _arguments(check: Check, types: Mapping[str, str]) -> None:
    """Hold the arguments against the kind's parameters."""
    expected = {name: p for name, p in inspect.signature(KINDS[check.kind]).parameters.items() if name != "on"}
    for name, value in check.arguments.items():
        if name not in expected:
            raise ConfigError(_unknown(f"argument of {check.kind}", name, [*expected, *COMMON]))
        wanted = re.sub(r"\[.*?\]", "", str(expected[name].annotation))
        if not any(isinstance(value, _FITS[word]) for word in re.findall(r"\w+", wanted) if word in _FITS):
            raise ConfigError(f"{name} = {value!r}: expected {wanted.replace(' | None', '')}")
    missing = [name for name, p in expected.items() if p.default is p.empty and name not in check.arguments]
    if missing:
        raise ConfigError(f"{check.kind} needs {' and '.join(missing).replace('is_', 'is')}")
    if check.kind in METADATA:
        return
    for name in _ABOUT_COLUMNS:
        given = check.arguments.get(name, [])
        for column in filter(None, given if isinstance(given, list | tuple) else [given]):
            if column not in types:
                raise ConfigError(_unknown("column", column, types))


def _sql_columns(text: str, known: set[str]) -> None:
    tree = sqlglot.parse_one(text, dialect=dialects.Spark)
    words = {word.name for part in tree.find_all(exp.Lambda) for word in part.expressions}
    words |= {
        call.expressions[0].name
        for call in tree.find_all(exp.Anonymous)
        if len(call.expressions) == 3 and re.search("diff|add", call.name.lower())
    }  # a unit, as in datediff(MONTH, …)
    for column in tree.find_all(exp.Column):
        if column.parts[0].name.lower() not in {word.lower() for word in known | words}:
            raise ConfigError(_unknown("column", column.parts[0].name, known))


def _choose(what: str, given: str, among: tuple[str, ...]) -> None:
    if given not in among:
        raise ConfigError(_unknown(what, given, among))


def _unknown(what: str, given: Any, known: Iterable[str]) -> str:
    known = [word for word in known if not word.startswith("_")]
    near = difflib.get_close_matches(str(given), known, 1, 0.5)
    return f"unknown {what} {given!r}; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")


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
            raise ConfigError(f"{value!r} is no {kind}")
        if kind in ("date", "timestamp"):
            try:
                datetime.fromisoformat(value)
            except ValueError:
                raise ConfigError(f"{value!r} is no {kind}; write it as 2026-03-01") from None
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
