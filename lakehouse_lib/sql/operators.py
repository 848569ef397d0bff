"""Operators of Spark SQL, and the rule for each node of the tree."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlglot import exp

from lakehouse_lib.sql import types as st
from lakehouse_lib.sql.arithmetic import arithmetic
from lakehouse_lib.sql.expressions import (
    ARGUMENTS,
    NODES,
    Expr,
    Scope,
    adjacent_node,
    boolean_node,
    call,
    call_of,
    cast_node,
    column_node,
    dot_node,
    expression,
    extract_node,
    hex_node,
    identifier_node,
    interval_node,
    literal_node,
    merged,
    neg_node,
    null_node,
    paren_node,
    raw_node,
    refuse,
    trim_node,
)
from lakehouse_lib.sql.types import Type, once

_SIGNS = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%", exp.IntDiv: "div"}
_COMPARED = {exp.EQ: "=", exp.NEQ: "=", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=",
             exp.NullSafeEQ: "<=>", exp.NullSafeNEQ: "<=>"}  # fmt: skip


def _operator(node: exp.Binary, scope: Scope) -> Expr:
    sign, chain = _SIGNS[type(node)], [node.expression]
    left = node.this
    while type(left) is type(node):  # iterate, so that long sums do not recurse deeply
        chain.append(left.expression)
        left = left.this
    result = expression(left, scope)
    for right in reversed(chain):
        result = arithmetic(sign, result, expression(right, scope))
    return result


def _comparison(node: exp.Binary, scope: Scope) -> Expr:
    a, b, sign = expression(node.this, scope), expression(node.expression, scope), _COMPARED[type(node)]
    result = compared(sign, a, b)
    if isinstance(node, (exp.NEQ, exp.NullSafeNEQ)):
        return replace(result, sql=f"(NOT {result.sql})", name=f"(NOT {result.name})")
    return result


def compared(sign: str, a: Expr, b: Expr) -> Expr:
    """Return the comparison of two values."""
    wide = st.common(a.type, b.type)
    if wide is None or wide.holds("map", "interval"):
        raise refuse(f"{a.type} {sign} {b.type} is an error in Spark, or not supported")
    if wide.kind in ("array", "struct") and a.type != b.type:
        raise refuse(f"{a.type} {sign} {b.type} is not supported")
    word = "IS NOT DISTINCT FROM" if sign == "<=>" else sign
    return merged(f"({a.to(wide)} {word} {b.to(wide)})", st.BOOLEAN, f"({a.name} {sign} {b.name})", [a, b])


def truth(node: exp.Expression, scope: Scope, null: bool = True) -> Expr:
    """Return a condition.

    Raises
    ------
    ConfigError
        It is not a boolean in Spark.
    """
    condition = expression(node, scope)
    if condition.type != st.BOOLEAN and not (null and condition.type == st.VOID):
        raise refuse(f"{condition.name} is of type {condition.type}, not a condition")
    return replace(condition, sql=condition.to(st.BOOLEAN), type=st.BOOLEAN)


def _connector(node: exp.Connector, scope: Scope) -> Expr:
    word, left, chain = ("AND" if isinstance(node, exp.And) else "OR"), node.this, [node.expression]
    while type(left) is type(node):
        chain.append(left.expression)
        left = left.this
    result = truth(left, scope)
    for right in reversed(chain):
        operand = truth(right, scope)
        result = merged(
            f"({result.sql} {word} {operand.sql})",
            st.BOOLEAN,
            f"({result.name} {word} {operand.name})",
            [result, operand],
        )
    return result


def _not(node: exp.Not, scope: Scope) -> Expr:
    inner = node.this
    if isinstance(inner, exp.Is) and isinstance(inner.expression, exp.Null):
        operand = expression(inner.this, scope)
        return merged(f"({operand.sql} IS NOT NULL)", st.BOOLEAN, f"({operand.name} IS NOT NULL)", [operand])
    operand = truth(inner, scope)
    return merged(f"(NOT {operand.sql})", st.BOOLEAN, f"(NOT {operand.name})", [operand])


def _is(node: exp.Is, scope: Scope) -> Expr:
    if isinstance(node.expression, exp.Null):
        operand = expression(node.this, scope)
        return merged(f"({operand.sql} IS NULL)", st.BOOLEAN, f"({operand.name} IS NULL)", [operand])
    if not isinstance(node.expression, exp.Boolean):
        raise refuse(f"{node.sql('spark')[:60]!r} is not supported")
    operand, word = truth(node.this, scope), "true" if node.expression.this else "false"
    return merged(f"({operand.sql} IS NOT DISTINCT FROM {word})", st.BOOLEAN, f"({operand.name} <=> {word})", [operand])


def _in(node: exp.In, scope: Scope) -> Expr:
    operand = expression(node.this, scope)
    if query := node.args.get("query"):
        sql, columns = scope.ask(query.this if isinstance(query, exp.Subquery) else query)
        if len(columns) != 1:
            raise refuse("IN requires a query of one column")
        wide = st.common(operand.type, columns[0][1])
        if wide is None or wide.holds("map") or (operand.type.inner and operand.type.kind != "decimal"):
            raise refuse(f"{operand.type} IN {columns[0][1]} is not supported")
        inner = f"SELECT {st.cast('q.c0', columns[0][1], wide)} FROM ({sql}) AS q"
        return merged(f"({operand.to(wide)} IN ({inner}))", st.BOOLEAN, f"({operand.name} IN (listquery()))", [operand])
    if node.args.get("unnest") or node.args.get("field"):
        raise refuse(f"{node.sql('spark')[:60]!r} is not supported")
    items = [expression(item, scope) for item in node.expressions]
    wide = widest([operand, *items], "IN")
    if wide.holds("map", "interval") or (
        wide.inner and wide.kind != "decimal" and any(i.type != wide for i in [operand, *items])
    ):
        raise refuse(f"IN of {wide} is not supported")
    names = ", ".join(item.name for item in items)
    return merged(f"({operand.to(wide)} IN ({', '.join(item.to(wide) for item in items)}))", st.BOOLEAN,
                  f"({operand.name} IN ({names}))", [operand, *items])  # fmt: skip


def widest(items: list[Expr], construct: str) -> Type:
    """Return the common type of all values.

    Raises
    ------
    ConfigError
        There is none in Spark.
    """
    texts = [item for item in items if item.type == st.STRING]
    wide = st.VOID
    for item in [item for item in items if item.type != st.STRING] + texts:
        wider = st.common(wide, item.type)
        if wider is None:
            raise refuse(f"{construct}: {wide} and {item.type} have no type in common")
        wide = wider
    return wide


def _between(node: exp.Between, scope: Scope) -> Expr:
    operand, low, high = (expression(part, scope) for part in (node.this, node.args["low"], node.args["high"]))
    if node.args.get("symmetric"):
        raise refuse("BETWEEN SYMMETRIC is not supported")
    above, below = compared(">=", operand, low), compared("<=", operand, high)
    return merged(
        f"({above.sql} AND {below.sql})",
        st.BOOLEAN,
        f"between({operand.name}, {low.name}, {high.name})",
        [operand, low, high],
    )


def _like(node: exp.Like | exp.ILike, scope: Scope, escape: str = "\\") -> Expr:
    word = "LIKE" if isinstance(node, exp.Like) else "ILIKE"
    if isinstance(node.expression, (exp.Any, exp.All)):
        patterns = node.expression.this
        bare = patterns.this if isinstance(patterns, exp.Paren) else patterns
        alternatives = patterns.expressions if isinstance(patterns, exp.Tuple) else [bare]
        conditions = [
            _like(type(node)(this=node.this.copy(), expression=item.copy()), scope, escape) for item in alternatives
        ]
        connector = " OR " if isinstance(node.expression, exp.Any) else " AND "
        return merged(
            f"({connector.join(condition.sql for condition in conditions)})", st.BOOLEAN, node.sql("spark"), conditions
        )
    text, pattern = expression(node.this, scope), expression(node.expression, scope)
    for part in (text, pattern):
        if not st.implicit(part.type, st.STRING):
            raise refuse(f"{part.type} {word} is not supported")
    if not isinstance(pattern.constant, str):
        if word != "LIKE" or escape != "\\":
            raise refuse(f"{word} with a pattern that is not a constant is not supported")
        value, failure = text.to(st.STRING), "error('A pattern with a backslash must be a constant')"
        like = lambda v: f"CASE WHEN contains({v}, '\\') THEN {failure} ELSE {value} LIKE {v} END"  # noqa: E731
        sql = once(pattern.to(st.STRING), like)
        return merged(sql, st.BOOLEAN, f"{text.name} LIKE {pattern.name}", [text, pattern])
    name = f"{text.name} LIKE {pattern.name}" if word == "LIKE" else f"ilike({text.name}, {pattern.name})"
    name += "" if escape == "\\" else f" ESCAPE '{escape}'"
    _checked_pattern(pattern.constant, escape)
    sql, shape = text.to(st.STRING), pattern.constant
    if word == "ILIKE":
        sql, shape = call("lower", [replace(text, sql=sql, type=st.STRING)], scope).sql, shape.lower()
    if escape in shape:
        parts = re.findall(rf"{re.escape(escape)}(.)|(.)", shape, re.DOTALL)
        regex = "".join(
            re.escape(escaped) if escaped else {"%": ".*", "_": "."}.get(char, re.escape(char))
            for escaped, char in parts
        )
        return merged(f"regexp_full_match({sql}, {st.text('(?s)' + regex)})", st.BOOLEAN, name, [text])
    return merged(f"({sql} LIKE {st.text(shape)})", st.BOOLEAN, name, [text])


def _checked_pattern(pattern: str, escape: str) -> None:
    position = 0
    while position < len(pattern):
        if pattern[position] == escape:
            if pattern[position + 1 : position + 2] not in ("_", "%", escape) or position + 1 >= len(pattern):
                raise refuse(f"the pattern {pattern} escapes a character that must not be escaped")
            position += 1
        position += 1


def _escape(node: exp.Escape, scope: Scope) -> Expr:
    letter = node.expression
    if not (isinstance(letter, exp.Literal) and letter.is_string and len(letter.name) == 1):
        raise refuse("ESCAPE requires one character")
    if not isinstance(node.this, (exp.Like, exp.ILike)):
        raise refuse(f"{node.sql('spark')[:60]!r} is not supported")
    result = _like(node.this, scope, letter.name)
    negate = node.this.args.get("negate")
    return merged(f"(NOT {result.sql})", st.BOOLEAN, f"(NOT {result.name})", [result]) if negate else result


def _rlike(node: exp.RegexpLike, scope: Scope) -> Expr:
    if node.args.get("flag"):
        raise refuse(f"{node.sql('spark')[:60]!r} is not supported")
    return call("rlike", [expression(node.this, scope), expression(node.expression, scope)], scope)


def _pipes(node: exp.DPipe, scope: Scope) -> Expr:
    parts, left = [node.expression], node.this
    while isinstance(left, exp.DPipe):
        parts.append(left.expression)
        left = left.this
    values = [expression(part, scope) for part in [left, *reversed(parts)]]
    name = values[0].name
    for part in values[1:]:
        name = f"concat({name}, {part.name})"
    return replace(call("concat", values, scope), name=name)


def _case(node: exp.Case, scope: Scope) -> Expr:
    subject = expression(node.this, scope) if node.this else None
    tests, values = [], []
    for branch in node.args["ifs"]:
        if subject is None:
            tests.append(truth(branch.this, scope, null=False))
        else:
            tests.append(compared("=", subject, expression(branch.this, scope)))
        values.append(expression(branch.args["true"], scope))
    default = expression(node.args["default"], scope) if node.args.get("default") else None
    wide = widest([*values, *([default] if default else [])], "CASE")
    pairs = list(zip(tests, values, strict=True))
    sql = " ".join(f"WHEN {test.sql} THEN {value.to(wide)}" for test, value in pairs)
    name = " ".join(f"WHEN {test.name} THEN {value.name}" for test, value in pairs)
    otherwise = f" ELSE {default.to(wide)}" if default else ""
    otherwise_label = f" ELSE {default.name}" if default else ""
    return merged(
        f"CASE {sql}{otherwise} END",
        wide,
        f"CASE {name}{otherwise_label} END",
        [*tests, *values, *([default] if default else [])],
    )


def _bits(node: exp.Binary, scope: Scope) -> Expr:
    sign = {exp.BitwiseAnd: "&", exp.BitwiseOr: "|", exp.BitwiseXor: "^"}[type(node)]
    a, b = expression(node.this, scope), expression(node.expression, scope)
    wide = st.common(a.type, b.type)
    if wide is None or wide.kind not in st.INTEGRAL:
        raise refuse(f"{a.type} {sign} {b.type} is not supported")
    left, right = a.to(wide), b.to(wide)
    sql = f"xor({left}, {right})" if sign == "^" else f"({left} {sign} {right})"
    return merged(sql, wide, f"({a.name} {sign} {b.name})", [a, b])


def _flipped(node: exp.BitwiseNot, scope: Scope) -> Expr:
    operand = expression(node.this, scope)
    if operand.type.kind not in st.INTEGRAL:
        raise refuse(f"~{operand.type} is not supported")
    return merged(f"(~{operand.sql})", operand.type, f"~{operand.name}", [operand])


def _item(node: exp.Bracket, scope: Scope) -> Expr:
    if len(node.expressions) != 1 or node.args.get("offset") or node.args.get("safe"):
        raise refuse(f"{node.sql('spark')[:60]!r} is not supported")
    container, index = expression(node.this, scope), expression(node.expressions[0], scope)
    name = f"{container.name}[{index.name}]"
    if container.type.kind == "array" and index.type.kind in st.INTEGRAL:
        sql = once(container.sql, lambda v: f"spark_item({v}, {index.to(st.BIGINT)})")
        return merged(sql, container.type.inner[0], name, [container, index])
    if container.type.kind == "map" and st.implicit(index.type, container.type.inner[0]):
        return replace(call("element_at", [container, index], scope), name=name)
    raise refuse(f"{container.type}[{index.type}] is not supported")


def _subquery(node: exp.Expression, scope: Scope) -> Expr:
    query = node.this if isinstance(node, exp.Subquery) else node
    sql, columns = scope.ask(query)
    if len(columns) != 1:
        raise refuse("a scalar subquery must have one column")
    return Expr(f"({sql})", columns[0][1], "scalarsubquery()")


def _exists(node: exp.Exists, scope: Scope) -> Expr:
    sql, _ = scope.ask(node.this)
    return Expr(f"EXISTS ({sql})", st.BOOLEAN, "exists()")


_RULES: dict[type, Callable[[Any, Scope], Expr]] = {
    exp.Column: column_node, exp.Identifier: identifier_node, exp.Dot: dot_node, exp.Literal: literal_node,
    exp.Neg: neg_node,
    exp.Boolean: boolean_node, exp.Null: null_node, exp.RawString: raw_node, exp.HexString: hex_node,
    exp.Concat: adjacent_node,
    exp.Paren: paren_node, exp.Cast: cast_node, exp.TryCast: cast_node, exp.Interval: interval_node,
    **dict.fromkeys(_SIGNS, _operator),
    **dict.fromkeys(_COMPARED, _comparison), exp.And: _connector, exp.Or: _connector, exp.Not: _not,
    exp.Is: _is,
    exp.In: _in, exp.Between: _between, exp.Like: _like, exp.ILike: _like, exp.Escape: _escape,
    exp.RegexpLike: _rlike, exp.DPipe: _pipes, exp.Case: _case, exp.BitwiseAnd: _bits, exp.BitwiseOr: _bits,
    exp.BitwiseXor: _bits, exp.BitwiseNot: _flipped, exp.Bracket: _item, exp.Subquery: _subquery,
    exp.Select: _subquery, exp.Exists: _exists, exp.Trim: trim_node,
    exp.Extract: extract_node,
    exp.Substring: call_of("substring", "this", "start", "length"),
    exp.StrPosition: call_of("locate", "substr", "this", "position"),
    exp.Overlay: call_of("overlay", "this", "expression", "from_", "for_"),
    exp.CurrentDate: lambda node, scope: call("current_date", [], scope),
    exp.CurrentTimestamp: lambda node, scope: call("current_timestamp", [], scope),
}  # fmt: skip
NODES |= _RULES

ARGUMENTS |= {
    exp.Column: ("table", "db", "catalog"), exp.Identifier: ("quoted",), exp.Literal: ("is_string",),
    exp.Concat: ("safe",),
    exp.Cast: ("to", "_type"), exp.TryCast: ("to", "safe", "_type"), exp.Interval: ("unit",),
    exp.Div: ("typed", "safe"),
    exp.In: ("query",), exp.Between: ("low", "high"), exp.DPipe: ("safe",), exp.Case: ("ifs", "default"),
    exp.Trim: ("position",), exp.Substring: ("start", "length"), exp.StrPosition: ("substr", "position"),
    exp.Overlay: ("from_", "for_"), exp.Window: ("partition_by", "order", "spec", "alias", "over"),
    exp.Select: ("from_", "joins", "laterals", "where", "group", "having", "qualify", "windows", "distinct", "order",
                 "limit", "offset", "with_", "sort"),
    exp.Subquery: ("order", "limit", "offset", "with_"),
}  # fmt: skip
