"""Calls of Spark functions: by signature, or by a special rule where a signature is not enough."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import reduce

from sqlglot import exp

from lakehouse_lib.sql import aggregates, functions, labels, signatures
from lakehouse_lib.sql import types as st
from lakehouse_lib.sql.arithmetic import arithmetic
from lakehouse_lib.sql.collections import (
    arrays_zip,
    entries,
    from_json,
    hashed_all,
    made_map,
    map_concat,
    named_struct,
    sequence,
    sorted_array,
    struct,
    to_json,
)
from lakehouse_lib.sql.expressions import CALLED, NODES, Expr, Scope, by_signature, expression, merged, refuse
from lakehouse_lib.sql.lambdas import array_sort, higher, reduced, zipped
from lakehouse_lib.sql.operators import compared, widest
from lakehouse_lib.sql.types import Type, once

GENERATORS = (
    "explode",
    "explode_outer",
    "posexplode",
    "posexplode_outer",
    "inline",
    "inline_outer",
    "stack",
    "json_tuple",
)


def function(node: exp.Anonymous, scope: Scope) -> Expr:
    """Return a function call node of the tree."""
    name = node.name.lower()
    if name in GENERATORS:
        raise refuse(f"{name} must be an item of a SELECT list by itself, or be in LATERAL VIEW")
    if name in _NODE_RULES:
        return _NODE_RULES[name](name, node.expressions, scope)
    if name in functions.AGGREGATES or name in aggregates.OTHERS:
        return aggregates.node(node, scope)
    if name in functions.WINDOWS:
        raise refuse(f"{name} requires OVER (…)")
    args = [expression(arg, scope) for arg in node.expressions]
    return called(name, args, scope, node.name.lower())


def called(name: str, args: list[Expr], scope: Scope, shown_name: str = "") -> Expr:
    """Return a function applied to arguments that are already expressions."""
    label = labels.of(shown_name or name, [arg.name for arg in args])
    if name in _RULES:
        result = _RULES[name](name, args, scope)
        return result if result.name == "as is" else merged(result.sql, result.type, result.name or label, args)
    if name not in functions.SCALARS:
        raise refuse(f"the function {name[:60]} is not supported")
    match = by_signature(functions.SCALARS[name], name, args)
    if match is None:
        kinds = ", ".join(str(arg.type) for arg in args)
        raise refuse(f"{name}({kinds[:200]}) is not supported")
    signature, casts, letters = match
    kind = _decimal_whole(args[0].type) if signature.result == "special0" else signatures.result(signature, letters)
    sql = signatures.rendered(signature.template, casts, casts)
    result = merged(sql, kind, label, args)
    volatile = name in ("rand", "random")
    return replace(result, volatile=volatile or result.volatile)


def _decimal_whole(kind: Type) -> Type:
    p, s = st.as_decimal(kind).inner
    return st.decimal(p - s + 1 if s else p, 0)


# Rules for calls with arguments that are not values --------------------------

_UNITS = {"MICROSECOND": 1, "MILLISECOND": 1000, "SECOND": 10**6, "MINUTE": 60 * 10**6, "HOUR": 3600 * 10**6,
          "DAY": 86400 * 10**6, "DAYOFYEAR": 86400 * 10**6, "WEEK": 7 * 86400 * 10**6}  # fmt: skip
_MONTHS = {"MONTH": 1, "QUARTER": 3, "YEAR": 12}


def _unit(name: str, node: exp.Expression) -> str:
    unit = (
        node.name.upper() if isinstance(node, (exp.Column, exp.Var)) and len(getattr(node, "parts", [1])) == 1 else ""
    )
    if unit not in _UNITS and unit not in _MONTHS:
        raise refuse(f"{name} of {node.sql('spark')[:40]} is not supported")
    return unit


def _difference(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
    if len(nodes) == 2 and name in ("datediff", "date_diff"):
        return called(name, [expression(node, scope) for node in nodes], scope)
    if len(nodes) != 3:
        raise refuse(f"{name} requires a unit and two times")
    unit = _unit(name, nodes[0])
    start, end = (expression(node, scope) for node in nodes[1:])
    for moment in (start, end):
        if not st.implicit(moment.type, st.TIMESTAMP):
            raise refuse(f"{name} of {moment.type} is not supported")
    a, b = start.to(st.TIMESTAMP), end.to(st.TIMESTAMP)
    if unit in _MONTHS:
        sql = f"CAST(trunc(spark_months_apart({a}, {b}) / {_MONTHS[unit]}) AS BIGINT)"
    else:
        sql = f"((epoch_us({b}) - epoch_us({a})) // {_UNITS[unit]})"
    return merged(sql, st.BIGINT, f"timestampdiff({unit}, {start.name}, {end.name})", [start, end])


def _added(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
    if len(nodes) == 2 and name != "timestampadd":
        return called("date_add", [expression(node, scope) for node in nodes], scope, name)
    if len(nodes) != 3:
        raise refuse(f"{name} requires a unit, a number and a time")
    unit = _unit(name, nodes[0])
    number, moment = (expression(node, scope) for node in nodes[1:])
    if not (number.type.kind in ("int", "smallint", "tinyint", "bigint") and st.implicit(moment.type, st.TIMESTAMP)):
        raise refuse(f"{name} of {number.type} and {moment.type} is not supported")
    if unit in _MONTHS:
        step = f"to_months(CAST({number.sql} * {_MONTHS[unit]} AS INTEGER))"
    else:
        step = f"to_microseconds({number.to(st.BIGINT)} * {_UNITS[unit]})"
    return merged(f"({moment.to(st.TIMESTAMP)} + {step})", st.TIMESTAMP,
                  f"timestampadd({unit}, {number.name}, {moment.name})", [number, moment])  # fmt: skip


def _grouping(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
    args = [expression(node, scope) for node in nodes]
    if scope.groups is None:  # first pass over the SELECT list, for GROUP BY 1
        return Expr("0", st.BIGINT, name, aggregate=True)
    columns = [arg.sql for arg in args] if args or name == "grouping" else scope.groups
    if not columns or any(column not in scope.groups for column in columns):
        raise refuse(f"{name} requires columns of GROUP BY")
    kind = st.TINYINT if name == "grouping" else st.BIGINT
    sql = f"CAST(grouping({', '.join(columns)}) AS {kind.duck})"
    return Expr(sql, kind, f"{name}({', '.join(arg.name for arg in args)})", aggregate=True)


_NODE_RULES: dict[str, Callable[[str, list[exp.Expression], Scope], Expr]] = {
    **dict.fromkeys(("datediff", "date_diff", "timestampdiff"), _difference),
    **dict.fromkeys(("dateadd", "date_add", "timestampadd"), _added),
    **dict.fromkeys(("transform", "filter", "exists", "forall"), higher),
    **dict.fromkeys(("map_filter", "transform_keys", "transform_values"), higher),
    **dict.fromkeys(("aggregate", "reduce"), reduced), "zip_with": zipped, "array_sort": array_sort,
    "struct": struct, "grouping": _grouping, "grouping_id": _grouping,
}  # fmt: skip


# Rules for values ------------------------------------------------------------


def _rounded(name: str, args: list[Expr], scope: Scope) -> Expr:
    if not 1 <= len(args) <= 2 or (len(args) == 2 and not isinstance(args[1].constant, int)):
        raise refuse(f"{name} requires a number and a constant number of places")
    value, places, even = args[0], args[1].constant if len(args) == 2 else 0, str(name == "bround").lower()
    mode = "HALF_EVEN" if name == "bround" else "HALF_UP"
    label = f"{name}({value.name}, {places})"
    if value.type == st.STRING:
        value = replace(value, sql=value.to(st.DOUBLE), type=st.DOUBLE)
    if value.type == st.DOUBLE:
        sql = once(value.sql, lambda v: f"CASE WHEN isfinite({v}) THEN spark_round({v}, {places}, {even}) ELSE {v} END")
        return Expr(sql, st.DOUBLE, label)
    if value.type.kind in st.INTEGRAL:
        sql = (
            value.sql if places >= 0 else f"CAST(spark_round_whole({value.sql}, {places}, {even}) AS {value.type.duck})"
        )
        return Expr(sql, value.type, label)
    if value.type.kind == "decimal":
        p, s = value.type.inner
        whole = p - s + 1
        if places < 0:
            kind = st.decimal(max(whole, 1 - places), 0)
        else:
            kind = (
                st.decimal(whole + min(s, places), min(s, places)) if places < s else st.decimal(min(38, whole + s), s)
            )
        sql = f"CAST(spark_round_decimal(CAST({value.sql} AS VARCHAR), {places}, '{mode}') AS {kind.duck})"
        return Expr(sql, kind, label)
    if value.type == st.VOID:
        return Expr("CAST(NULL AS DOUBLE)", st.DOUBLE, label)
    raise refuse(f"{name} of {value.type} is not supported")


def _concat(name: str, args: list[Expr], scope: Scope) -> Expr:
    if any(arg.type.kind == "array" for arg in args):
        wide = widest(args, name)
        if wide.kind != "array":
            raise refuse("concat of arrays and values is an error in Spark")
        parts = [arg.to(wide) for arg in args]
        not_null = " AND ".join(f"{part} IS NOT NULL" for part in parts)
        return Expr(f"CASE WHEN {not_null} THEN {reduce(lambda a, b: f'list_concat({a}, {b})', parts)} END", wide, "")
    if not args or any(not st.implicit(arg.type, st.STRING) for arg in args):
        raise refuse(f"{name}({', '.join(str(arg.type) for arg in args)}) is not supported")
    return Expr(f"({' || '.join(arg.to(st.STRING) for arg in args)})", st.STRING, "")


def _concat_ws(name: str, args: list[Expr], scope: Scope) -> Expr:
    parts = []
    for arg in args:
        if arg.type.kind == "array" and st.implicit(arg.type.inner[0], st.STRING):
            parts.append(f"coalesce({arg.to(st.array(st.STRING))}, [])")
        elif st.implicit(arg.type, st.STRING):
            parts.append(f"[{arg.to(st.STRING)}]")
        else:
            raise refuse(f"{name} of {arg.type} is not supported")
    if not parts:
        raise refuse(f"{name} requires a separator")
    all_ = reduce(lambda a, b: f"list_concat({a}, {b})", parts[1:], "CAST([] AS VARCHAR[])")
    return Expr(f"spark_join(list_filter({all_}, lambda e: e IS NOT NULL), {args[0].to(st.STRING)})", st.STRING, "")


def _null_if(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 2:
        raise refuse(f"{name} requires two values")
    same = compared("=", *args)
    return Expr(f"CASE WHEN {same.sql} THEN NULL ELSE {args[0].sql} END", args[0].type, "")


def _least(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) < 2:
        raise refuse(f"{name} requires two values or more")
    wide = widest(args, name)
    texts = {arg.type == st.STRING for arg in args if arg.type != st.VOID}
    if wide.kind not in (*st.SIMPLE, "void") or len(texts) > 1:
        raise refuse(f"{name} of {wide} is not supported")
    parts = [arg.to(wide) for arg in args]
    if wide.kind in ("double", "float"):  # as a sorted list, since NaN is greater than all numbers
        pick = "list_last" if name == "greatest" else "list_first"
        sql = f"{pick}(list_sort(list_filter([{', '.join(parts)}], lambda e: e IS NOT NULL), 'ASC', 'NULLS LAST'))"
        return Expr(sql, wide, "")
    return Expr(f"{name}({', '.join(parts)})", wide, "")


def _decode(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) == 2:
        return _coded(name, args, scope)
    if len(args) < 3:
        raise refuse(f"{name} requires a value and pairs")
    values = args[2::2] + ([args[-1]] if len(args) % 2 == 0 else [])
    wide = widest(values, name)
    sql = " ".join(
        f"WHEN {compared('<=>', args[0], args[position]).sql} THEN {args[position + 1].to(wide)}"
        for position in range(1, len(args) - 1, 2)
    )
    otherwise = f" ELSE {args[-1].to(wide)}" if len(args) % 2 == 0 else ""
    return Expr(f"CASE {sql}{otherwise} END", wide, "")


def _coded(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 2 or str(args[1].constant).upper() != "UTF-8":
        raise refuse(f"{name} in a charset other than UTF-8 is not supported")
    if name == "encode" and st.implicit(args[0].type, st.STRING):
        return Expr(f"encode({args[0].to(st.STRING)})", st.BINARY, "")
    if name == "decode" and args[0].type in (st.BINARY, st.STRING):
        return Expr(f"decode({args[0].to(st.BINARY)})", st.STRING, "")
    raise refuse(f"{name} of {args[0].type} is not supported")


def _typeof(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 1:
        raise refuse(f"{name} requires one value")
    words = re.sub(r"(\w+): ", r"\1:", str(args[0].type)).lower().replace(", ", ",")
    return Expr(st.text(words), st.STRING, "")


def _truncated(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 2:
        raise refuse(f"{name} requires a time and a unit")
    moment, unit = args if name == "trunc" else reversed(args)
    kind, word = (st.DATE if name == "trunc" else st.TIMESTAMP), str(unit.constant).upper()
    if not isinstance(unit.constant, str) or not st.implicit(moment.type, kind):
        raise refuse(f"{name} of {moment.type} by {unit.type} is not supported; the unit must be a constant")
    units = {"YEAR": "year", "YYYY": "year", "YY": "year", "QUARTER": "quarter", "MONTH": "month", "MON": "month",
             "MM": "month", "WEEK": "week"}  # fmt: skip
    if name == "date_trunc":
        units |= {"DAY": "day", "DD": "day", "HOUR": "hour", "MINUTE": "minute", "SECOND": "second",
                  "MILLISECOND": "milliseconds", "MICROSECOND": "microseconds"}  # fmt: skip
    if word not in units:
        return Expr(f"CAST(NULL AS {kind.duck})", kind, "")
    return Expr(f"CAST(date_trunc('{units[word]}', {moment.to(kind)}) AS {kind.duck})", kind, "")


_PARTS = {word: part for part, words in {
    "year": "YEAR Y YEARS YR YRS",
    "quarter": "QUARTER QTR",
    "month": "MONTH MON MONS MONTHS",
    "weekofyear": "WEEK W WEEKS",
    "day": "DAY D DAYS",
    "dayofweek": "DAYOFWEEK DOW",
    "dayofyear": "DOY",
    "hour": "HOUR H HOURS HR HRS",
    "minute": "MINUTE M MIN MINS MINUTES",
}.items() for word in words.split()}  # fmt: skip


def _part(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 2 or not isinstance(args[0].constant, str):
        raise refuse(f"{name} requires the name of a part, and a time")
    word, value = args[0].constant.upper(), args[1]
    if word in _PARTS:
        return replace(called(_PARTS[word], [value], scope), name="")
    if not st.implicit(value.type, st.TIMESTAMP):
        raise refuse(f"{name} of {value.type} is not supported")
    moment = value.to(st.TIMESTAMP)
    if word in ("DAYOFWEEK_ISO", "DOW_ISO"):
        return Expr(f"CAST(isodow({moment}) AS INTEGER)", st.INT, "")
    if word == "YEAROFWEEK":
        return Expr(f"CAST(isoyear({moment}) AS INTEGER)", st.INT, "")
    if word in ("SECOND", "S", "SEC", "SECONDS", "SECS"):
        kind = st.decimal(8, 6)
        return Expr(f"CAST(CAST(microsecond({moment}) AS DECIMAL(18,6)) / 1000000 AS {kind.duck})", kind, "")
    raise refuse(f"the part {word} is not supported")


def _cast_function(name: str, args: list[Expr], scope: Scope) -> Expr:
    if (name == "to_date" and len(args) == 2) or (name == "to_timestamp" and len(args) == 2):
        match = by_signature(functions.SCALARS[name], name, args)
        if match is None:
            raise refuse(f"{name} of {args[0].type} is not supported")
        return Expr(signatures.rendered(match[0].template, match[1], match[1]), st.built(match[0].result), "")
    if len(args) != 1:
        raise refuse(f"{name} requires one value")
    kind = st.built({"to_date": "date", "to_timestamp": "timestamp"}.get(name, name))
    label = args[0].name if name in _CASTS else ""
    return Expr(st.cast(args[0].sql, args[0].type, kind), kind, label)


def _try(name: str, args: list[Expr], scope: Scope) -> Expr:
    sign = {"try_add": "+", "try_subtract": "-", "try_multiply": "*", "try_divide": "/", "try_mod": "%"}.get(name)
    if sign is None or len(args) != 2:
        raise refuse(f"{name} requires two numbers")
    if any(arg.type.kind not in (*st.NUMERIC, "void") for arg in args):
        raise refuse(f"{name} of {args[0].type} and {args[1].type} is not supported")
    return replace(arithmetic(sign, args[0], args[1], safe=True), name="")


def _modulo(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 2:
        raise refuse(f"{name} requires two numbers")
    remainder = arithmetic("%", args[0], args[1])
    if name == "mod":
        return replace(remainder, name="")
    if remainder.type.kind not in st.INTEGRAL and remainder.type.kind not in ("double", "decimal"):
        raise refuse(f"pmod of {remainder.type} is not supported")
    divisor = args[1].to(remainder.type)
    sql = once(
        remainder.sql,
        lambda v: f"CASE WHEN {v} < 0 THEN CAST(({v} + {divisor}) % {divisor} AS {remainder.type.duck}) ELSE {v} END",
    )
    return Expr(sql, remainder.type, "")


def _printf(name: str, args: list[Expr], scope: Scope) -> Expr:
    if not args or args[0].type != st.STRING or any(arg.type.kind not in st.SIMPLE for arg in args[1:]):
        raise refuse(f"{name}({', '.join(str(arg.type) for arg in args)}) is not supported")
    letters = dict.fromkeys(st.INTEGRAL, "d") | dict.fromkeys(("double", "float", "decimal"), "f")
    kinds = "".join(letters.get(arg.type.kind, "s") for arg in args[1:])
    values = ", ".join(arg.to(st.STRING) for arg in args[1:])
    return Expr(f"spark_printf({args[0].sql}, CAST([{values}] AS VARCHAR[]), '{kinds}')", st.STRING, "")


def _elt(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) < 2 or not st.implicit(args[0].type, st.INT):
        raise refuse(f"{name} requires a number and strings")
    values = ", ".join(arg.to(st.STRING) for arg in args[1:])
    return Expr(
        f"spark_element([{values}], CASE WHEN {args[0].to(st.INT)} < 0 THEN 0 ELSE {args[0].to(st.INT)} END)",
        st.STRING,
        "",
    )


def _shift(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 2 or args[0].type.kind not in ("int", "bigint") or not st.implicit(args[1].type, st.INT):
        raise refuse(f"{name} requires a number and a number of places")
    if args[0].type == st.INT:
        return Expr(signatures.rendered("spark_shiftleft({0}, {1})", [args[0].sql, args[1].to(st.INT)], []), st.INT, "")
    raise refuse(f"{name} of {args[0].type} is not supported")


_CASTS = ("tinyint", "smallint", "int", "bigint", "float", "double", "string", "boolean", "date", "timestamp", "binary")
_RULES: dict[str, Callable[[str, list[Expr], Scope], Expr]] = {
    **dict.fromkeys(("round", "bround"), _rounded), "concat": _concat, "concat_ws": _concat_ws, "nullif": _null_if,
    "least": _least, "greatest": _least, "decode": _decode, "encode": _coded, "typeof": _typeof, "trunc": _truncated,
    "date_trunc": _truncated, **dict.fromkeys(("date_part", "datepart", "extract"), _part),
    **dict.fromkeys((*_CASTS, "to_date", "to_timestamp"), _cast_function), "sort_array": sorted_array,
    "sequence": sequence, "map": made_map,
    "named_struct": named_struct, **dict.fromkeys(("map_entries", "map_from_entries"), entries),
    "map_concat": map_concat, "arrays_zip": arrays_zip, "mod": _modulo, "pmod": _modulo, "to_json": to_json,
    **dict.fromkeys(("try_add", "try_subtract", "try_multiply", "try_divide", "try_mod"), _try),
    "from_json": from_json, "hash": hashed_all, **dict.fromkeys(("format_string", "printf"), _printf), "elt": _elt,
    "shiftleft": _shift,
}  # fmt: skip
"""Functions that a template cannot express."""

CALLED.append(called)
NODES[exp.Anonymous] = function
