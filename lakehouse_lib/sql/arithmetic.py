"""Arithmetic of Spark SQL on numbers, times and intervals: the type of the result, and the errors of Spark."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from lakehouse_lib.sql import types as st
from lakehouse_lib.sql.expressions import Expr, merged, refuse
from lakehouse_lib.sql.types import Type


def arithmetic(sign: str, a: Expr, b: Expr, safe: bool = False, name: str = "") -> Expr:
    """Return an operation on two numbers, or on a time and an interval; NULL instead of an error if ``safe``."""
    name = name or f"({a.name} {sign} {b.name})"
    if not safe and (result := _date_arithmetic(sign, a, b, name)):
        return result
    kinds = [operand.type for operand in (a, b)]
    if any(kind.kind not in (*st.NUMERIC, "string", "void") for kind in kinds):
        raise refuse(f"{a.type} {sign} {b.type} is not supported")
    texts = kinds[0] == kinds[1] and kinds[0] in (st.STRING, st.VOID)
    wide = st.DOUBLE if texts else cast("Type", st.common(*kinds))
    if (sign == "div" and wide.kind in ("float", "double")) or wide.kind == "string":
        raise refuse(f"{a.type} {sign} {b.type} is an error in Spark")
    if wide.kind == "decimal":
        return _decimals(sign, a, b, safe, name)
    if sign == "/" and wide == st.BIGINT:  # a string next to an integer becomes one before division
        a, b = (
            replace(operand, sql=operand.to(wide), type=wide) if operand.type == st.STRING else operand
            for operand in (a, b)
        )
    if sign == "/":
        wide = st.DOUBLE
    if sign == "div":
        wide = st.BIGINT
    return merged(_calculated(sign, a, b, wide, safe), wide, name, [a, b])


def _calculated(sign: str, a: Expr, b: Expr, wide: Type, safe: bool) -> str:
    """Return the operation on two numbers of the same type."""
    left, right = a.to(wide), b.to(wide)
    if sign in ("/", "div", "%") and not (b.known and b.constant):
        right = f"nullif({right}, 0)" if safe else f"spark_nonzero({right})"
    if safe and wide.kind in st.INTEGRAL and sign in "+-*":
        return f"TRY_CAST(CAST({left} AS HUGEINT) {sign} {right} AS {wide.duck})"
    if sign == "%" and wide.kind in st.INTEGRAL and not (b.known and b.constant != -1):
        return f"CASE WHEN {right} = -1 THEN CAST({left} * 0 AS {wide.duck}) ELSE ({left} % {right}) END"
    if sign == "div":
        return f"CAST(CAST({left} AS HUGEINT) // {right} AS BIGINT)"
    return f"({left} {sign} {right})"


def _decimals(sign: str, a: Expr, b: Expr, safe: bool, name: str) -> Expr:
    left_type, right_type = (
        st.as_decimal(
            operand.type,
            operand.constant if operand.known and not isinstance(operand.constant, bool) else None,
        )
        if operand.type.kind in ("decimal", *st.INTEGRAL)
        else None
        for operand in (a, b)
    )
    left_type, right_type = left_type or right_type, right_type or left_type
    if left_type is None or right_type is None or a.type == st.VOID or b.type == st.VOID:
        return merged("NULL", st.VOID, name, [a, b])
    (p, s), (q, t) = left_type.inner, right_type.inner
    left, right = a.to(left_type), b.to(right_type)
    if sign == "/":
        scale = max(6, s + q + 1)
        kind = st.decimal(p - s + t + scale, scale)
    elif sign == "*":
        kind = st.decimal(p + q + 1, s + t)
    elif sign == "%":
        kind = st.decimal(min(p - s, q - t) + max(s, t), max(s, t))
    elif sign == "div":
        kind = st.decimal(max(p - s + t, 1), 0)
    else:
        kind = st.decimal(max(p - s, q - t) + max(s, t) + 1, max(s, t))
    if safe and sign in ("/", "%", "div"):
        right = f"nullif({right}, 0)"
    cast = "TRY_CAST" if safe else "CAST"
    if sign in "+-" and kind.inner[1] == max(s, t) and kind.inner[0] < 38:
        value = f"({left} {sign} {right})"
    elif sign == "*" and p + q + 1 <= 38:
        value = f"({left} * {right})"
    elif sign == "div":
        value = f"spark_decimal('div', CAST({left} AS VARCHAR), CAST({right} AS VARCHAR), 0)"
        return merged(f"{cast}({value} AS BIGINT)", st.BIGINT, name, [a, b])
    else:
        value = f"spark_decimal('{sign}', CAST({left} AS VARCHAR), CAST({right} AS VARCHAR), {kind.inner[1]})"
    return merged(f"{cast}({value} AS {kind.duck})", kind, name, [a, b])


def _date_arithmetic(sign: str, a: Expr, b: Expr, name: str) -> Expr | None:
    if a.type == st.INTERVAL and b.type == st.INTERVAL and sign in "+-":
        units = {a.constant, b.constant}
        months = {"YEAR", "MONTH"}
        if units & months and units - months:
            raise refuse("an interval of both months and days is not supported")
        order = ["YEAR", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND"]
        return _interval(f"({a.sql} {sign} {b.sql})", max(units, key=order.index), name)
    if a.type == st.INTERVAL and b.type.kind in st.INTEGRAL and sign == "*":
        unit = a.constant if a.constant in ("YEAR", "MONTH") else "SECOND"  # the product may no longer be whole days
        return _interval(f"({a.sql} * {b.sql})", unit, name)
    if sign == "*" and b.type == st.INTERVAL and a.type.kind in st.INTEGRAL:
        return _date_arithmetic(sign, b, a, name)
    if sign == "+" and a.type == st.INTERVAL:
        return _date_arithmetic(sign, b, a, name)
    if (
        sign not in "+-"
        or a.type.kind not in ("date", "timestamp", "string")
        or (a.type == st.STRING and b.type != st.INTERVAL)
    ):
        if sign == "+" and b.type == st.DATE and a.type.kind in ("tinyint", "smallint", "int"):
            return merged(f"({b.sql} + {a.to(st.INT)})", st.DATE, f"date_add({b.name}, {a.name})", [a, b])
        return None
    if b.type == st.INTERVAL:
        name = name[1:-1] if name.startswith("(") else name
        if a.type == st.STRING:
            raise refuse("a string and an interval; cast the string to TIMESTAMP first")
        kind = st.DATE if a.type == st.DATE and b.constant in ("YEAR", "MONTH", "WEEK", "DAY") else st.TIMESTAMP
        return merged(f"CAST({a.sql} {sign} {b.sql} AS {kind.duck})", kind, name, [a, b])
    if a.type == st.DATE and b.type.kind in ("tinyint", "smallint", "int"):
        word = "date_add" if sign == "+" else "date_sub"
        return merged(f"({a.sql} {sign} {b.to(st.INT)})", st.DATE, f"{word}({a.name}, {b.name})", [a, b])
    raise refuse(f"{a.type} {sign} {b.type} gives an interval in Spark; use datediff or timestampdiff")


def _interval(sql: str, unit: str, name: str) -> Expr:
    return Expr(sql, st.INTERVAL, name, unit)
