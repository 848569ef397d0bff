"""Spark SQL as DuckDB runs it: what means the same is carried over, and what would mean something
else is said in DuckDB's words or refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable

import sqlglot
from sqlglot import exp
from sqlglot.dialects.databricks import Databricks

from lakehouse_lib.errors import ConfigError


class Spark(Databricks):
    """Spark 4: sqlglot's Databricks has its ANSI casts; a doubled quote is a quote."""

    class Tokenizer(Databricks.Tokenizer):
        STRING_ESCAPES = ("\\", "'", '"')


INEXACT = frozenset({"ApproxDistinct", "ApproxQuantile", "Rand", "CurrentTimestamp", "CurrentDate"})
"""Functions whose answer is an estimate, or of the moment, in both dialects."""

CARRIED = INEXACT | frozenset(
    (
        "Abs AddMonths And AnyValue ArgMax ArgMin ArrayContains ArrayFilter ArraySize ArraySort Avg Case Cast Ceil "
        "Coalesce Concat ConcatWs Corr Count CountIf CovarPop DateDiff Day DayOfWeek DayOfYear DenseRank Exists "
        "Exp Explode Floor Greatest Hour If Initcap JSONExtractScalar Lag LastDay Lead Least Left Length Ln Log "
        "LogicalAnd LogicalOr Lower Max Min Month Ntile Nullif Or Pad Pow Quantile Quarter Rank RegexpExtract "
        "RegexpLike RegexpReplace RegexpSplit Repeat Replace Reverse Right Round RowNumber Sign Sqrt Stddev "
        "StddevPop StrPosition Substring Sum TimeStrToTime TimeToStr TimestampTrunc Transform Trim TsOrDsAdd "
        "TsOrDsToDate Upper Variance VariancePop WeekOfYear Year "
    ).split()
)
"""Functions, as sqlglot calls them, that give the same in Spark and here; each is held against Spark by a test."""

MACROS = r"""
CREATE MACRO whole_part(x) AS CASE
    WHEN typeof(x) = 'VARCHAR' AND NOT regexp_full_match(x::VARCHAR, '\s*[+-]?\d+\s*')
    THEN error(x::VARCHAR || ' is no whole number')
    WHEN regexp_full_match(typeof(x), 'DOUBLE|FLOAT|DECIMAL.*') THEN trunc(x::DOUBLE)::HUGEINT ELSE x::HUGEINT END;
CREATE MACRO as_text(x) AS CASE
    WHEN typeof(x) IN ('DOUBLE', 'FLOAT') AND x::VARCHAR <> '0.0'
         AND NOT coalesce(abs(try_cast(x::VARCHAR AS DOUBLE)) BETWEEN 0.001 AND 9999999, false)
    THEN error('Spark writes ' || x::VARCHAR || ' otherwise; make it a DECIMAL first')
    WHEN regexp_full_match(typeof(x), '.*\[\]|STRUCT.*|MAP.*|INTERVAL|BLOB')
    THEN error('Spark writes a ' || typeof(x) || ' otherwise') ELSE x::VARCHAR END;
CREATE MACRO as_time(x) AS
    CASE WHEN typeof(x) = 'VARCHAR' THEN x::VARCHAR::TIMESTAMPTZ::TIMESTAMP ELSE x::TIMESTAMP END;
CREATE MACRO divisor(x) AS CASE WHEN x = 0 THEN error('Division by zero; divide by nullif(…, 0)') ELSE x END;
CREATE MACRO minus(x, y) AS CASE WHEN typeof(x) = 'DATE' AND typeof(y) = 'DATE'
    THEN error('Spark makes an interval of the difference of two dates; say datediff') ELSE x - y END;
CREATE MACRO shifted(x DATE, y INTERVAL) AS (x + y)::DATE, (x TIMESTAMP, y INTERVAL) AS x + y;
CREATE MACRO rounded(x, n) AS CASE WHEN typeof(x) IN ('DOUBLE', 'FLOAT')
    THEN coalesce(round(try_cast(x::VARCHAR AS DECIMAL(38, 20)), n)::DOUBLE, round(x, n)) ELSE round(x, n) END;
CREATE MACRO from_one(x) AS CASE WHEN x = 0 THEN 1 ELSE x END;
CREATE MACRO item_at(x, i) AS CASE WHEN i NOT BETWEEN 0 AND len(x) - 1
    THEN error('The index ' || i || ' is outside of an array of ' || len(x)) ELSE x[i + 1] END;
CREATE MACRO element(x, i) AS CASE WHEN i = 0 OR abs(i) > len(x)
    THEN error('The index ' || i || ' is outside of an array of ' || len(x)) ELSE x[i] END;
CREATE MACRO over_zero(x) AS CASE WHEN x > 0 THEN x END;
CREATE MACRO valid_json(x) AS CASE WHEN json_valid(x) THEN x END;
"""
"""What Spark means, for DuckDB; by `typeof`, as it does not know the types of aggregates when it chooses a macro."""


def carried(tree: exp.Expression) -> str:
    """A Spark SQL query or expression in DuckDB's words; times are UTC without a zone there. Changes the tree.

    Raises
    ------
    ConfigError
        It holds something that does not carry over.
    """
    for node in reversed(list(tree.walk())):
        if refusal := _refused(node):
            raise ConfigError(refusal)
        for kind, meant in _MEANT.items():
            if isinstance(node, kind) and (said := meant(node)) is not None:
                tree = said if node is tree else tree
                node.replace(said)
                break
    try:
        return tree.sql("duckdb", unsupported_level=sqlglot.ErrorLevel.RAISE)
    except (sqlglot.errors.SqlglotError, RecursionError) as error:
        raise ConfigError(str(error).splitlines()[0][:200] or type(error).__name__) from None


def not_carried(tree: exp.Expression) -> str:
    """The name of a function that is not known to give here what it gives in Spark, or none."""
    found = (node for node in tree.find_all(exp.Func) if type(node).__name__ not in CARRIED)
    return next((node.name if isinstance(node, exp.Anonymous) else node.sql_name() for node in found), "")


def _refused(node: exp.Expression) -> str:
    """Why a part of a query does not carry over; empty if it does."""
    if isinstance(node, exp.Select) and node.args.get("group"):
        if any(one.find(exp.Explode, exp.Posexplode) for one in node.selects):
            return "explode beside GROUP BY gives other rows in Spark; explode in a query of its own, and group that"
    if isinstance(node, exp.Pivot) and (len(node.expressions) != 1 or node.find(exp.Count, exp.CountIf)):
        return "PIVOT of a count, or of more than one aggregate, gives other columns in Spark; say it with CASE"
    if isinstance(node, exp.Lateral) and node.args.get("outer"):
        return "LATERAL VIEW OUTER does not carry over; LATERAL VIEW does"
    if isinstance(node, (exp.TimeToStr, exp.TsOrDsToDate)) and (pattern := node.args.get("format")):
        left = re.sub(r"%-?[a-zA-Z](strict)?", "", pattern.name) if pattern.is_string else "?"
        if re.search(r"[\w'?]", left):
            return f"the pattern {pattern.sql(Spark)} holds what does not carry over: {left.strip()!r}"
    if isinstance(node, exp.RegexpExtract):
        group = node.args.get("group")
        try:
            groups = re.compile(node.expression.name).groups if node.expression.is_string else -1
        except re.error:
            groups = -1
        if not (group is None or group.is_int) or groups < (1 if group is None else int(group.name)):
            return f"{node.sql(Spark)}: the pattern has no such group, or is no constant"
    if isinstance(node, exp.RegexpReplace) and not _group_references(node.args["replacement"]):
        return f"{node.sql(Spark)}: the replacement has to be a constant without a backslash"
    return ""


def _group_references(replacement: exp.Expression) -> exp.Expression | None:
    """Spark's ``$1`` as DuckDB has it; None where it cannot be told."""
    if not replacement.is_string or "\\" in replacement.name:
        return None
    return exp.Literal.string(re.sub(r"\$(\d)", r"\\\1", replacement.name))


def _call(name: str, *given: exp.Expression) -> exp.Expression:
    return exp.Anonymous(this=name, expressions=list(given))


def _cast(node: exp.Cast) -> exp.Expression | None:
    if isinstance(node, exp.TryCast):
        return None
    kinds = {"whole_part": exp.DataType.INTEGER_TYPES, "as_text": exp.DataType.TEXT_TYPES, "as_time": {"timestamp"}}
    name = next((name for name, types in kinds.items() if node.to.is_type(*types)), "")
    return _with(node, this=_call(name, node.this.copy())) if name else None


def _with(node: exp.Expression, **changes: exp.Expression) -> exp.Expression:
    same = node.copy()
    for name, value in changes.items():
        same.set(name, value)
    return same


def _zoneless(node: exp.DataType) -> exp.Expression | None:
    zoned = node.this in (exp.DataType.Type.TIMESTAMPTZ, exp.DataType.Type.TIMESTAMPLTZ)
    return exp.DataType.build("timestamp") if zoned else None


def _divided(node: exp.Div) -> exp.Expression | None:
    by = node.expression
    known = by.is_number and float(by.name or 0) != 0
    return None if known else _with(node, expression=_call("divisor", by.copy()))


def _added(node: exp.Add | exp.Sub) -> exp.Expression | None:
    one, other = node.this.copy(), node.expression.copy()
    unit = other.args.get("unit") if isinstance(other, exp.Interval) else None
    known = not one.find(exp.AggFunc, exp.Window, exp.Subquery)  # DuckDB knows whether it is a date
    if known and unit is not None and unit.name.upper().rstrip("S") in ("DAY", "WEEK", "MONTH", "YEAR"):
        by = exp.Neg(this=exp.paren(other)) if isinstance(node, exp.Sub) else other
        return _call("shifted", one, by)
    plain = isinstance(node, exp.Add) or one.is_number or other.is_number or isinstance(other, exp.Interval)
    return None if plain else _call("minus", one, other)


def _like(node: exp.Like | exp.ILike) -> exp.Expression | None:
    simple = node.expression.is_string and "\\" not in node.expression.name
    if simple or isinstance(node.parent, exp.Escape):
        return None
    return exp.Escape(this=node.copy(), expression=exp.Literal.string("\\"))


def _texts(node: exp.Concat | exp.ConcatWs) -> exp.Expression:
    return _with(node, expressions=[one if one.is_string else _call("as_text", one.copy()) for one in node.expressions])


def _item(node: exp.Bracket) -> exp.Expression | None:
    if len(node.expressions) != 1 or node.expressions[0].is_string or isinstance(node.expressions[0], exp.Slice):
        return None
    return _call("element" if node.args.get("offset") == 1 else "item_at", node.this.copy(), node.expressions[0].copy())


def _grouped(node: exp.Group) -> exp.Expression | None:
    """GROUP BY a, b WITH ROLLUP."""
    for kind in ("rollup", "cube"):
        for one in node.args.get(kind) or []:
            if isinstance(one, exp.Expression) and not one.expressions:
                one.set("expressions", node.expressions)
                node.set("expressions", [])
    return None


def _start(node: exp.Substring) -> exp.Expression | None:
    start = node.args.get("start")
    known = start is None or (start.is_int and start.name not in ("", "0"))
    return None if known else _with(node, start=_call("from_one", start.copy()))


_MEANT: dict[type | tuple[type, ...], Callable[[exp.Expression], exp.Expression | None]] = {
    exp.Cast: _cast,
    exp.DataType: _zoneless,
    exp.Div: _divided,
    (exp.Add, exp.Sub): _added,
    (exp.Like, exp.ILike): _like,
    (exp.Concat, exp.ConcatWs): _texts,
    exp.DPipe: lambda node: _with(node, this=_call("as_text", node.this.copy()),
                                  expression=_call("as_text", node.expression.copy())),
    exp.Bracket: _item,
    exp.Group: _grouped,
    exp.Substring: _start,
    exp.TimeStrToTime: lambda node: exp.cast(_call("as_time", node.this.copy()), "timestamp"),
    (exp.Left, exp.Right): lambda node: None if isinstance(node.expression, exp.Literal) else
        _with(node, expression=exp.Greatest(this=node.expression.copy(), expressions=[exp.Literal.number(0)])),
    exp.CurrentTimestamp: lambda node: exp.cast(node.copy(), "timestamp"),  # as all times of tables are here
    exp.Quantile: lambda node: _call("quantile_cont", node.this.copy(), node.args["quantile"].copy()),
    (exp.TsOrDsAdd, exp.AddMonths): lambda node: exp.cast(node.copy(), "date"),  # DuckDB makes a timestamp of it
    exp.DayOfWeek: lambda node: exp.paren(exp.Add(this=node.copy(), expression=exp.Literal.number(1))),  # Sunday: 1
    exp.Round: lambda node: _call("rounded", node.this.copy(),
                                  (node.args.get("decimals") or exp.Literal.number(0)).copy()),
    exp.Ln: lambda node: _with(node, this=_call("over_zero", node.this.copy())),
    exp.Log: lambda node: _with(node, **{name: _call("over_zero", node.args[name].copy())
                                         for name in ("this", "expression") if node.args.get(name)}),
    exp.JSONExtractScalar: lambda node: _with(node, this=_call("valid_json", node.this.copy())),
    exp.RegexpReplace: lambda node: _with(node, replacement=_group_references(node.args["replacement"])),
}  # fmt: skip
"""What stands for a part that DuckDB would take otherwise; None where it would not."""
