"""Calls of Spark's functions: by their signature, or by a rule of their own where a line does not say it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import reduce

from sqlglot import exp

from lakehouse_lib.sql import aggregates, signatures
from lakehouse_lib.sql import types as st
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
from lakehouse_lib.sql.operators import arithmetic, compared, widest
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
    """A call as it stands in the tree."""
    name = node.name.lower()
    if name in GENERATORS:
        raise refuse(f"{name} stands alone in a SELECT list, or in LATERAL VIEW")
    if name in _NODE_RULES:
        return _NODE_RULES[name](name, node.expressions, scope)
    if name in signatures.AGGREGATES or name in aggregates.OTHERS:
        return aggregates.node(node, scope)
    if name in signatures.WINDOWS:
        raise refuse(f"{name} wants OVER (…)")
    args = [expression(arg, scope) for arg in node.expressions]
    return called(name, args, scope, node.name.lower())


def called(name: str, args: list[Expr], scope: Scope, shown: str = "") -> Expr:
    """A function of values."""
    listed = signatures.shown(shown or name, [arg.name for arg in args])
    if name in _RULES:
        made = _RULES[name](name, args, scope)
        return made if made.name == "as is" else merged(made.sql, made.type, made.name or listed, args)
    if name not in signatures.SCALARS:
        raise refuse(f"the function {name[:60]} is not answered here")
    found = by_signature(signatures.SCALARS[name], name, args)
    if found is None:
        kinds = ", ".join(str(arg.type) for arg in args)
        raise refuse(f"{name}({kinds[:200]}) is not answered here")
    signature, casts, letters = found
    kind = _decimal_whole(args[0].type) if signature.result == "special0" else signatures.result(signature, letters)
    sql = signatures.rendered(signature.template, casts, casts)
    made = merged(sql, kind, listed, args)
    volatile = name in ("rand", "random")
    return replace(made, volatile=volatile or made.volatile)


def _decimal_whole(kind: Type) -> Type:
    p, s = st.as_decimal(kind).inner
    return st.decimal(p - s + 1 if s else p, 0)


# Rules of calls with arguments that are no values ---------------------------

_UNITS = {"MICROSECOND": 1, "MILLISECOND": 1000, "SECOND": 10**6, "MINUTE": 60 * 10**6, "HOUR": 3600 * 10**6,
          "DAY": 86400 * 10**6, "DAYOFYEAR": 86400 * 10**6, "WEEK": 7 * 86400 * 10**6}  # fmt: skip
_MONTHS = {"MONTH": 1, "QUARTER": 3, "YEAR": 12}


def _unit(name: str, node: exp.Expression) -> str:
    unit = (
        node.name.upper() if isinstance(node, (exp.Column, exp.Var)) and len(getattr(node, "parts", [1])) == 1 else ""
    )
    if unit not in _UNITS and unit not in _MONTHS:
        raise refuse(f"{name} of {node.sql('spark')[:40]} is not answered here")
    return unit


def _difference(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
    if len(nodes) == 2 and name in ("datediff", "date_diff"):
        return called(name, [expression(node, scope) for node in nodes], scope)
    if len(nodes) != 3:
        raise refuse(f"{name} wants a unit and two times")
    unit = _unit(name, nodes[0])
    start, end = (expression(node, scope) for node in nodes[1:])
    for one in (start, end):
        if not st.implicit(one.type, st.TIMESTAMP):
            raise refuse(f"{name} of {one.type} is not answered here")
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
        raise refuse(f"{name} wants a unit, a number and a time")
    unit = _unit(name, nodes[0])
    number, at = (expression(node, scope) for node in nodes[1:])
    if not (number.type.kind in ("int", "smallint", "tinyint", "bigint") and st.implicit(at.type, st.TIMESTAMP)):
        raise refuse(f"{name} of {number.type} and {at.type} is not answered here")
    if unit in _MONTHS:
        step = f"to_months(CAST({number.sql} * {_MONTHS[unit]} AS INTEGER))"
    else:
        step = f"to_microseconds({number.to(st.BIGINT)} * {_UNITS[unit]})"
    return merged(f"({at.to(st.TIMESTAMP)} + {step})", st.TIMESTAMP,
                  f"timestampadd({unit}, {number.name}, {at.name})", [number, at])  # fmt: skip


def _grouping(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
    args = [expression(node, scope) for node in nodes]
    if scope.groups is None:  # the SELECT list is read once before, for the sake of GROUP BY 1
        return Expr("0", st.BIGINT, name, aggregate=True)
    listed = [arg.sql for arg in args] if args or name == "grouping" else scope.groups
    if not listed or any(one not in scope.groups for one in listed):
        raise refuse(f"{name} is of what is grouped by")
    kind = st.TINYINT if name == "grouping" else st.BIGINT
    sql = f"CAST(grouping({', '.join(listed)}) AS {kind.duck})"
    return Expr(sql, kind, f"{name}({', '.join(arg.name for arg in args)})", aggregate=True)


_NODE_RULES: dict[str, Callable[[str, list[exp.Expression], Scope], Expr]] = {
    **dict.fromkeys(("datediff", "date_diff", "timestampdiff"), _difference),
    **dict.fromkeys(("dateadd", "date_add", "timestampadd"), _added),
    **dict.fromkeys(("transform", "filter", "exists", "forall"), higher),
    **dict.fromkeys(("map_filter", "transform_keys", "transform_values"), higher),
    **dict.fromkeys(("aggregate", "reduce"), reduced), "zip_with": zipped, "array_sort": array_sort,
    "struct": struct, "grouping": _grouping, "grouping_id": _grouping,
}  # fmt: skip


# Rules of values -------------------------------------------------------------


def _rounded(name: str, args: list[Expr], scope: Scope) -> Expr:
    if not 1 <= len(args) <= 2 or (len(args) == 2 and not isinstance(args[1].constant, int)):
        raise refuse(f"{name} wants a number and a constant number of places")
    one, places, even = args[0], args[1].constant if len(args) == 2 else 0, str(name == "bround").lower()
    how = "HALF_EVEN" if name == "bround" else "HALF_UP"
    shown = f"{name}({one.name}, {places})"
    if one.type == st.STRING:
        one = replace(one, sql=one.to(st.DOUBLE), type=st.DOUBLE)
    if one.type == st.DOUBLE:
        sql = once(one.sql, lambda v: f"CASE WHEN isfinite({v}) THEN spark_round({v}, {places}, {even}) ELSE {v} END")
        return Expr(sql, st.DOUBLE, shown)
    if one.type.kind in st.INTEGRAL:
        sql = one.sql if places >= 0 else f"CAST(spark_round_whole({one.sql}, {places}, {even}) AS {one.type.duck})"
        return Expr(sql, one.type, shown)
    if one.type.kind == "decimal":
        p, s = one.type.inner
        whole = p - s + 1
        if places < 0:
            kind = st.decimal(max(whole, 1 - places), 0)
        else:
            kind = (
                st.decimal(whole + min(s, places), min(s, places)) if places < s else st.decimal(min(38, whole + s), s)
            )
        sql = f"CAST(spark_round_decimal(CAST({one.sql} AS VARCHAR), {places}, '{how}') AS {kind.duck})"
        return Expr(sql, kind, shown)
    if one.type == st.VOID:
        return Expr("CAST(NULL AS DOUBLE)", st.DOUBLE, shown)
    raise refuse(f"{name} of {one.type} is not answered here")


def _concat(name: str, args: list[Expr], scope: Scope) -> Expr:
    if any(arg.type.kind == "array" for arg in args):
        wide = widest(args, name)
        if wide.kind != "array":
            raise refuse("concat of arrays and values is an error in Spark")
        parts = [arg.to(wide) for arg in args]
        there = " AND ".join(f"{part} IS NOT NULL" for part in parts)
        return Expr(f"CASE WHEN {there} THEN {reduce(lambda a, b: f'list_concat({a}, {b})', parts)} END", wide, "")
    if not args or any(not st.implicit(arg.type, st.STRING) for arg in args):
        raise refuse(f"{name}({', '.join(str(arg.type) for arg in args)}) is not answered here")
    return Expr(f"({' || '.join(arg.to(st.STRING) for arg in args)})", st.STRING, "")


def _concat_ws(name: str, args: list[Expr], scope: Scope) -> Expr:
    parts = []
    for arg in args:
        if arg.type.kind == "array" and st.implicit(arg.type.inner[0], st.STRING):
            parts.append(f"coalesce({arg.to(st.array(st.STRING))}, [])")
        elif st.implicit(arg.type, st.STRING):
            parts.append(f"[{arg.to(st.STRING)}]")
        else:
            raise refuse(f"{name} of {arg.type} is not answered here")
    if not parts:
        raise refuse(f"{name} wants a separator")
    all_ = reduce(lambda a, b: f"list_concat({a}, {b})", parts[1:], "CAST([] AS VARCHAR[])")
    return Expr(f"spark_join(list_filter({all_}, lambda e: e IS NOT NULL), {args[0].to(st.STRING)})", st.STRING, "")


def _null_if(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 2:
        raise refuse(f"{name} wants two values")
    same = compared("=", *args)
    return Expr(f"CASE WHEN {same.sql} THEN NULL ELSE {args[0].sql} END", args[0].type, "")


def _least(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) < 2:
        raise refuse(f"{name} wants two values or more")
    wide = widest(args, name)
    texts = {arg.type == st.STRING for arg in args if arg.type != st.VOID}
    if wide.kind not in (*st.SIMPLE, "void") or len(texts) > 1:
        raise refuse(f"{name} of {wide} is not answered here")
    parts = [arg.to(wide) for arg in args]
    if wide.kind in ("double", "float"):  # by hand, as NaN is above all numbers
        pick = "list_last" if name == "greatest" else "list_first"
        sql = f"{pick}(list_sort(list_filter([{', '.join(parts)}], lambda e: e IS NOT NULL), 'ASC', 'NULLS LAST'))"
        return Expr(sql, wide, "")
    return Expr(f"{name}({', '.join(parts)})", wide, "")


def _decode(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) == 2:
        return _coded(name, args, scope)
    if len(args) < 3:
        raise refuse(f"{name} wants a value and pairs")
    values = args[2::2] + ([args[-1]] if len(args) % 2 == 0 else [])
    wide = widest(values, name)
    sql = " ".join(
        f"WHEN {compared('<=>', args[0], args[at]).sql} THEN {args[at + 1].to(wide)}"
        for at in range(1, len(args) - 1, 2)
    )
    end = f" ELSE {args[-1].to(wide)}" if len(args) % 2 == 0 else ""
    return Expr(f"CASE {sql}{end} END", wide, "")


def _coded(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 2 or str(args[1].constant).upper() != "UTF-8":
        raise refuse(f"{name} in another charset than UTF-8 is not answered here")
    if name == "encode" and st.implicit(args[0].type, st.STRING):
        return Expr(f"encode({args[0].to(st.STRING)})", st.BINARY, "")
    if name == "decode" and args[0].type in (st.BINARY, st.STRING):
        return Expr(f"decode({args[0].to(st.BINARY)})", st.STRING, "")
    raise refuse(f"{name} of {args[0].type} is not answered here")


def _typeof(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 1:
        raise refuse(f"{name} wants one value")
    words = re.sub(r"(\w+): ", r"\1:", str(args[0].type)).lower().replace(", ", ",")
    return Expr(st.text(words), st.STRING, "")


def _truncated(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 2:
        raise refuse(f"{name} wants a time and a unit")
    at, unit = args if name == "trunc" else reversed(args)
    kind, word = (st.DATE if name == "trunc" else st.TIMESTAMP), str(unit.constant).upper()
    if not isinstance(unit.constant, str) or not st.implicit(at.type, kind):
        raise refuse(f"{name} of {at.type} by {unit.type} is not answered here; the unit is to be a constant")
    known = {"YEAR": "year", "YYYY": "year", "YY": "year", "QUARTER": "quarter", "MONTH": "month", "MON": "month",
             "MM": "month", "WEEK": "week"}  # fmt: skip
    if name == "date_trunc":
        known |= {"DAY": "day", "DD": "day", "HOUR": "hour", "MINUTE": "minute", "SECOND": "second",
                  "MILLISECOND": "milliseconds", "MICROSECOND": "microseconds"}  # fmt: skip
    if word not in known:
        return Expr(f"CAST(NULL AS {kind.duck})", kind, "")
    return Expr(f"CAST(date_trunc('{known[word]}', {at.to(kind)}) AS {kind.duck})", kind, "")


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
        raise refuse(f"{name} wants the name of a part, and a time")
    word, at = args[0].constant.upper(), args[1]
    if word in _PARTS:
        return replace(called(_PARTS[word], [at], scope), name="")
    if not st.implicit(at.type, st.TIMESTAMP):
        raise refuse(f"{name} of {at.type} is not answered here")
    moment = at.to(st.TIMESTAMP)
    if word in ("DAYOFWEEK_ISO", "DOW_ISO"):
        return Expr(f"CAST(isodow({moment}) AS INTEGER)", st.INT, "")
    if word == "YEAROFWEEK":
        return Expr(f"CAST(isoyear({moment}) AS INTEGER)", st.INT, "")
    if word in ("SECOND", "S", "SEC", "SECONDS", "SECS"):
        kind = st.decimal(8, 6)
        return Expr(f"CAST(CAST(microsecond({moment}) AS DECIMAL(18,6)) / 1000000 AS {kind.duck})", kind, "")
    raise refuse(f"the part {word} is not answered here")


def _made_cast(name: str, args: list[Expr], scope: Scope) -> Expr:
    if (name == "to_date" and len(args) == 2) or (name == "to_timestamp" and len(args) == 2):
        made = by_signature(signatures.SCALARS[name], name, args)
        if made is None:
            raise refuse(f"{name} of {args[0].type} is not answered here")
        return Expr(signatures.rendered(made[0].template, made[1], made[1]), st.built(made[0].result), "")
    if len(args) != 1:
        raise refuse(f"{name} wants one value")
    kind = st.built({"to_date": "date", "to_timestamp": "timestamp"}.get(name, name))
    shown = args[0].name if name in _CASTS else ""
    return Expr(st.cast(args[0].sql, args[0].type, kind), kind, shown)


def _try(name: str, args: list[Expr], scope: Scope) -> Expr:
    sign = {"try_add": "+", "try_subtract": "-", "try_multiply": "*", "try_divide": "/", "try_mod": "%"}.get(name)
    if sign is None or len(args) != 2:
        raise refuse(f"{name} wants two numbers")
    if any(arg.type.kind not in (*st.NUMERIC, "void") for arg in args):
        raise refuse(f"{name} of {args[0].type} and {args[1].type} is not answered here")
    return replace(arithmetic(sign, args[0], args[1], safe=True), name="")


def _modulo(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 2:
        raise refuse(f"{name} wants two numbers")
    rest = arithmetic("%", args[0], args[1])
    if name == "mod":
        return replace(rest, name="")
    if rest.type.kind not in st.INTEGRAL and rest.type.kind not in ("double", "decimal"):
        raise refuse(f"pmod of {rest.type} is not answered here")
    by = args[1].to(rest.type)
    sql = once(rest.sql, lambda v: f"CASE WHEN {v} < 0 THEN CAST(({v} + {by}) % {by} AS {rest.type.duck}) ELSE {v} END")
    return Expr(sql, rest.type, "")


def _printf(name: str, args: list[Expr], scope: Scope) -> Expr:
    if not args or args[0].type != st.STRING or any(arg.type.kind not in st.SIMPLE for arg in args[1:]):
        raise refuse(f"{name}({', '.join(str(arg.type) for arg in args)}) is not answered here")
    letters = dict.fromkeys(st.INTEGRAL, "d") | dict.fromkeys(("double", "float", "decimal"), "f")
    kinds = "".join(letters.get(arg.type.kind, "s") for arg in args[1:])
    values = ", ".join(arg.to(st.STRING) for arg in args[1:])
    return Expr(f"spark_printf({args[0].sql}, CAST([{values}] AS VARCHAR[]), '{kinds}')", st.STRING, "")


def _elt(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) < 2 or not st.implicit(args[0].type, st.INT):
        raise refuse(f"{name} wants a number and texts")
    values = ", ".join(arg.to(st.STRING) for arg in args[1:])
    return Expr(
        f"spark_element([{values}], CASE WHEN {args[0].to(st.INT)} < 0 THEN 0 ELSE {args[0].to(st.INT)} END)",
        st.STRING,
        "",
    )


def _shift(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 2 or args[0].type.kind not in ("int", "bigint") or not st.implicit(args[1].type, st.INT):
        raise refuse(f"{name} wants a number and places")
    if args[0].type == st.INT:
        return Expr(signatures.rendered("spark_shiftleft({0}, {1})", [args[0].sql, args[1].to(st.INT)], []), st.INT, "")
    raise refuse(f"{name} of {args[0].type} is not answered here")


_CASTS = ("tinyint", "smallint", "int", "bigint", "float", "double", "string", "boolean", "date", "timestamp", "binary")
_RULES: dict[str, Callable[[str, list[Expr], Scope], Expr]] = {
    **dict.fromkeys(("round", "bround"), _rounded), "concat": _concat, "concat_ws": _concat_ws, "nullif": _null_if,
    "least": _least, "greatest": _least, "decode": _decode, "encode": _coded, "typeof": _typeof, "trunc": _truncated,
    "date_trunc": _truncated, **dict.fromkeys(("date_part", "datepart", "extract"), _part),
    **dict.fromkeys((*_CASTS, "to_date", "to_timestamp"), _made_cast), "sort_array": sorted_array,
    "sequence": sequence, "map": made_map,
    "named_struct": named_struct, **dict.fromkeys(("map_entries", "map_from_entries"), entries),
    "map_concat": map_concat, "arrays_zip": arrays_zip, "mod": _modulo, "pmod": _modulo, "to_json": to_json,
    **dict.fromkeys(("try_add", "try_subtract", "try_multiply", "try_divide", "try_mod"), _try),
    "from_json": from_json, "hash": hashed_all, **dict.fromkeys(("format_string", "printf"), _printf), "elt": _elt,
    "shiftleft": _shift,
}  # fmt: skip
"""Functions whose meaning is no template."""

CALLED.append(called)
NODES[exp.Anonymous] = function
