"""Calls of Spark's functions: by their signature, or by a rule of their own where a line does not say it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import reduce

from sqlglot import exp

from lakehouse_lib import signatures, spark_aggregates
from lakehouse_lib import spark_types as st
from lakehouse_lib.spark_expressions import (
    Expr,
    Scope,
    arithmetic,
    compared,
    expression,
    lambda_,
    merged,
    refuse,
    widest,
)
from lakehouse_lib.spark_types import Type, once

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
    if name in signatures.AGGREGATES or name in spark_aggregates.OTHERS:
        return spark_aggregates.node(node, scope)
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


def by_signature(listed: list[signatures.Signature], name: str, args: list[Expr]) -> tuple | None:
    """The signature, the arguments cast to it, and its letters."""
    found = signatures.chosen(listed, [arg.type for arg in args], [_constant(arg) for arg in args])
    if found is None:
        return None
    signature, wanted, letters = found
    return signature, [arg.to(kind) for arg, kind in zip(args, wanted, strict=True)], letters


def _constant(arg: Expr) -> bool:
    return arg.known or bool(
        re.fullmatch(r"\[CAST\('?[\d.]+'? AS [\w(), ]+\)(, CAST\('?[\d.]+'? AS [\w(), ]+\))*\]", arg.sql)
    )


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


def _struct(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
    fields = []
    for place, node in enumerate(nodes, 1):
        one = expression(node.this if isinstance(node, exp.Alias) else node, scope)
        named = (
            node.alias if isinstance(node, exp.Alias) else node.name if isinstance(node, exp.Column) else f"col{place}"
        )
        if isinstance(node, exp.Dot):
            named = node.expression.name
        fields.append((named, one, f"{one.name} AS {named}" if isinstance(node, exp.Alias) else one.name))
    shown = f"struct({', '.join(shown for *_, shown in fields)})"
    return _packed([(named, one) for named, one, _ in fields], shown)


def _packed(fields: list[tuple[str, Expr]], shown: str) -> Expr:
    if not fields or len({named.lower() for named, _ in fields}) < len(fields):
        raise refuse("a struct whose fields have one name is not answered here")
    sql = f"struct_pack({', '.join(f'{st.quoted(named)} := {one.sql}' for named, one in fields)})"
    return merged(
        sql, Type("struct", tuple((named, one.type) for named, one in fields)), shown, [one for _, one in fields]
    )


def _array_of(name: str, nodes: list[exp.Expression], scope: Scope, count: int = 1) -> tuple[Expr, exp.Expression]:
    if len(nodes) != 2:
        raise refuse(f"{name} wants an array and a lambda")
    of = expression(nodes[0], scope)
    if of.type.kind not in ("array", "map") or of.type.inner[0] == st.VOID:
        raise refuse(f"{name} of {of.type} is not answered here")
    return of, nodes[1]


def _higher(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
    """transform, filter, exists, forall; the map_… and transform_… of maps."""
    if name == "exists" and len(nodes) == 1:
        raise refuse("exists wants an array and a lambda, or a query")
    of, node = _array_of(name, nodes, scope)
    if (of.type.kind == "map") != (name in ("map_filter", "transform_keys", "transform_values")):
        raise refuse(f"{name} of {of.type} is not answered here")
    if of.type.kind == "map":
        return _of_map(name, of, node, scope)
    names, body = lambda_(node, scope, of.type.inner[0], *([st.INT] if name in ("transform", "filter") else []))
    shown = f"{name}({of.name}, {body.name})"
    inner = body.sql
    if len(names) == 2:  # an index begins at 0
        inner = re.sub(rf"\b{names[1]}\b", f"CAST({names[1]} - 1 AS INTEGER)", inner)
    listed = f"lambda {', '.join(names)}: "
    if name == "transform":
        return merged(f"list_transform({of.sql}, {listed}{inner})", st.array(body.type), shown, [of])
    if body.type != st.BOOLEAN:
        raise refuse(f"{name}: {body.name} is no condition")
    if name == "filter":
        return merged(f"list_filter({of.sql}, {listed}{inner})", of.type, shown, [of])
    held = f"list_transform({of.sql}, {listed}{inner})"
    one, other = ("true", "false") if name == "exists" else ("false", "true")
    sql = once(held, lambda v: f"CASE WHEN {v} IS NULL THEN NULL WHEN list_contains({v}, {one}) THEN {one} "
                               f"WHEN spark_has({v}, NULL) THEN NULL ELSE {other} END")  # fmt: skip
    return merged(sql, st.BOOLEAN, shown, [of])


def _of_map(name: str, of: Expr, node: exp.Expression, scope: Scope) -> Expr:
    (key, value), body = lambda_(node, scope, *of.type.inner)
    inner = re.sub(rf"\b{value}\b", "e.value", re.sub(rf"\b{key}\b", "e.key", body.sql))
    entries, kind = f"map_entries({of.sql})", of.type
    if name == "map_filter":
        if body.type != st.BOOLEAN:
            raise refuse(f"{name}: {body.name} is no condition")
        made = f"list_filter({entries}, lambda e: {inner})"
    else:
        keys = name == "transform_keys"
        pair = f"key := {inner if keys else 'e.key'}, value := {'e.value' if keys else inner}"
        made = f"list_transform({entries}, lambda e: struct_pack({pair}))"
        kind = Type("map", (body.type, kind.inner[1]) if keys else (kind.inner[0], body.type))
    sql = f"CASE WHEN {of.sql} IS NOT NULL THEN map_from_entries({made}) END"
    return merged(sql, kind, f"{name}({of.name}, {body.name})", [of])


def _reduced(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
    if len(nodes) not in (3, 4):
        raise refuse(f"{name} wants an array, a start and a lambda")
    of, start = expression(nodes[0], scope), expression(nodes[1], scope)
    if of.type.kind != "array" or of.type.inner[0] == st.VOID or start.type == st.VOID:
        raise refuse(f"{name} of {of.type} from {start.type} is not answered here")
    names, body = lambda_(nodes[2], scope, start.type, of.type.inner[0])
    if len(names) != 2 or body.type != start.type:
        raise refuse(f"{name} from {start.type} comes to {body.type}; cast the start, as in CAST(0 AS BIGINT)")
    # The reduction goes over structs, so that start and elements may differ in type.
    kinds = Type("struct", (("a", start.type), ("e", of.type.inner[0])))
    items = f"list_transform({of.sql}, lambda m: CAST(struct_pack(a := NULL, e := m) AS {kinds.duck}))"
    inner = re.sub(rf"\b{names[1]}\b", "n.e", re.sub(rf"\b{names[0]}\b", "m.a", body.sql))
    first = f"CAST(struct_pack(a := {start.sql}, e := NULL) AS {kinds.duck})"
    step = f"lambda m, n: CAST(struct_pack(a := {inner}, e := NULL) AS {kinds.duck})"
    made = merged(f"list_reduce({items}, {step}, {first}).a", body.type, "", [of, start])
    shown = [of.name, start.name, body.name]
    if len(nodes) == 4:
        last, end = lambda_(nodes[3], scope, start.type)
        sql = f"list_transform([{made.sql}], lambda {last[0]}: {end.sql})[1]"
        made = merged(sql, end.type, "", [made])
        shown.append(end.name)
    else:
        shown.append("lambdafunction(namedlambdavariable(), namedlambdavariable())")
    sql = f"CASE WHEN {of.sql} IS NOT NULL THEN {made.sql} END"
    return replace(made, sql=sql, name=f"{name}({', '.join(shown)})")


def _zipped(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
    if len(nodes) != 3:
        raise refuse(f"{name} wants two arrays and a lambda")
    a, b = expression(nodes[0], scope), expression(nodes[1], scope)
    if a.type.kind != "array" or b.type.kind != "array" or st.VOID in (a.type.inner[0], b.type.inner[0]):
        raise refuse(f"{name} of {a.type} and {b.type} is not answered here")
    names, body = lambda_(nodes[2], scope, a.type.inner[0], b.type.inner[0])
    if len(names) != 2:
        raise refuse(f"{name} wants a lambda of two parameters")
    inner = re.sub(rf"\b{names[1]}\b", "m.b", re.sub(rf"\b{names[0]}\b", "m.a", body.sql))
    pair = f"struct_pack(a := {a.sql}[n + 1], b := {b.sql}[n + 1])"
    pairs = f"list_transform(range(greatest(len({a.sql}), len({b.sql}))), lambda n: {pair})"
    sql = f"CASE WHEN {a.sql} IS NOT NULL AND {b.sql} IS NOT NULL THEN list_transform({pairs}, lambda m: {inner}) END"
    return merged(sql, st.array(body.type), f"{name}({a.name}, {b.name}, {body.name})", [a, b])


def _array_sort(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
    if len(nodes) != 1:
        raise refuse("array_sort with a lambda is not answered here; sort_array sorts in both directions")
    return called(name, [expression(nodes[0], scope)], scope)


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
    **dict.fromkeys(("transform", "filter", "exists", "forall"), _higher),
    **dict.fromkeys(("map_filter", "transform_keys", "transform_values"), _higher),
    **dict.fromkeys(("aggregate", "reduce"), _reduced), "zip_with": _zipped, "array_sort": _array_sort,
    "struct": _struct, "grouping": _grouping, "grouping_id": _grouping,
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
            kind = st.decimal(whole + min(s, places), min(s, places)) if places < s else st.decimal(
                min(38, whole + s), s)  # fmt: skip
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
    sql = " ".join(f"WHEN {compared('<=>', args[0], args[at]).sql} THEN {args[at + 1].to(wide)}"
                   for at in range(1, len(args) - 1, 2))  # fmt: skip
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


def _sequence(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 3 or args[2].type != st.INTERVAL:
        found = by_signature(signatures.SCALARS[name], name, args)
        if found is None:
            raise refuse(f"{name}({', '.join(str(arg.type) for arg in args)}) is not answered here")
        return Expr(signatures.rendered(found[0].template, found[1], []), signatures.result(found[0], found[2]), "")
    (start, stop, step), number = args, re.match(r"INTERVAL \((\d+)\)", args[2].sql)
    dates = start.type == stop.type == st.DATE
    if not (dates or start.type == stop.type == st.TIMESTAMP) or not number or not int(number[1]):
        raise refuse(f"{name} of {start.type} and {stop.type} by {step.name} is not answered here")
    if dates and step.constant not in ("DAY", "WEEK", "MONTH", "YEAR"):
        raise refuse(f"{name} of dates by {step.name} is not answered here")
    a, b = start.to(st.TIMESTAMP), stop.to(st.TIMESTAMP)
    if step.constant in ("MONTH", "YEAR"):  # each from the start, so that the 31st comes back
        months = int(number[1]) * (12 if step.constant == "YEAR" else 1)
        places = f"range(0, spark_months_apart({a}, {b}) + 2, {months})"
        made = f"list_transform({places}, lambda n: {a} + to_months(CAST(n AS INTEGER)))"
        made = f"list_filter({made}, lambda n: n <= {b})"
    else:
        made = f"generate_series({a}, {b}, {step.sql})"
    kind = st.array(start.type)
    sql = f"CASE WHEN {a} > {b} THEN error('A sequence does not come to its end') ELSE CAST({made} AS {kind.duck}) END"
    return Expr(sql, kind, "")


def _sorted(name: str, args: list[Expr], scope: Scope) -> Expr:
    if (
        len(args) not in (1, 2)
        or args[0].type.kind != "array"
        or (len(args) == 2 and not isinstance(args[1].constant, bool))
    ):
        raise refuse(f"{name} wants an array, and true or false")
    if args[0].type.inner[0].kind not in (*st.SIMPLE, "binary", "void"):
        raise refuse(f"{name} of {args[0].type} is not answered here")
    up = len(args) == 1 or args[1].constant
    order = "'ASC', 'NULLS FIRST'" if up else "'DESC', 'NULLS LAST'"
    shown = f"sort_array({args[0].name}, {str(bool(up)).lower()})"
    return Expr(f"list_sort({args[0].sql}, {order})", args[0].type, shown)


def _map(name: str, args: list[Expr], scope: Scope) -> Expr:
    if not args:
        return Expr("map([], [])", Type("map", (st.VOID, st.VOID)), "")
    if len(args) % 2:
        raise refuse("map wants pairs of keys and values")
    keys, values = widest(args[::2], name), widest(args[1::2], name)
    if keys.kind not in (*st.SIMPLE, "binary"):
        raise refuse(f"a map by {keys} is not answered here")
    listed = [", ".join(arg.to(kind) for arg in part) for part, kind in ((args[::2], keys), (args[1::2], values))]
    return Expr(f"map([{listed[0]}], [{listed[1]}])", Type("map", (keys, values)), "")


def _named_struct(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) % 2 or not all(isinstance(arg.constant, str) for arg in args[::2]):
        raise refuse("named_struct wants pairs of constant names and values")
    return replace(_packed([(a.constant, b) for a, b in zip(args[::2], args[1::2], strict=True)], ""), name="")


def _entries(name: str, args: list[Expr], scope: Scope) -> Expr:
    if name == "map_entries" and len(args) == 1 and args[0].type.kind == "map":
        key, value = args[0].type.inner
        kind = st.array(Type("struct", (("key", key), ("value", value))))
        return Expr(f"CASE WHEN {args[0].sql} IS NOT NULL THEN map_entries({args[0].sql}) END", kind, "")
    if name == "map_from_entries" and len(args) == 1 and args[0].type.kind == "array":
        element = args[0].type.inner[0]
        if element.kind == "struct" and len(element.inner) == 2:
            (a, key), (b, value) = element.inner
            packed = f"struct_pack(key := struct_extract(e, {st.text(a)}), value := struct_extract(e, {st.text(b)}))"
            made = f"map_from_entries(list_transform({args[0].sql}, lambda e: {packed}))"
            sql = f"CASE WHEN NOT spark_has({args[0].sql}, NULL) THEN {made} END"
            return Expr(sql, Type("map", (key, value)), "")
    raise refuse(f"{name}({', '.join(str(arg.type) for arg in args)}) is not answered here")


def _map_concat(name: str, args: list[Expr], scope: Scope) -> Expr:
    wide = widest(args, name)
    if wide.kind != "map":
        raise refuse(f"{name} of {wide} is not answered here")
    parts = [arg.to(wide) for arg in args]
    there = " AND ".join(f"{part} IS NOT NULL" for part in parts)
    both = reduce(lambda a, b: f"list_concat({a}, {b})", [f"map_entries({part})" for part in parts])
    return Expr(f"CASE WHEN {there} THEN map_from_entries({both}) END", wide, "")


def _arrays_zip(name: str, args: list[Expr], scope: Scope) -> Expr:
    if not args or any(arg.type.kind != "array" for arg in args):
        raise refuse("arrays_zip wants arrays")
    names = [arg.name if re.fullmatch(r"\w+", arg.name) and not arg.known else str(n) for n, arg in enumerate(args)]
    if len(set(map(str.lower, names))) < len(names):
        names = [str(n) for n in range(len(args))]
        raise refuse("arrays_zip of arrays with one name is not answered here")
    fields = ", ".join(f"{st.quoted(n)} := {arg.sql}[n + 1]" for n, arg in zip(names, args, strict=True))
    there = " AND ".join(f"{arg.sql} IS NOT NULL" for arg in args)
    longest = ", ".join(f"len({arg.sql})" for arg in args)
    kind = st.array(Type("struct", tuple((n, arg.type.inner[0]) for n, arg in zip(names, args, strict=True))))
    sql = f"CASE WHEN {there} THEN list_transform(range(greatest({longest}, 0)), lambda n: struct_pack({fields})) END"
    return Expr(sql, kind, "")


def _try(name: str, args: list[Expr], scope: Scope) -> Expr:
    sign = {"try_add": "+", "try_subtract": "-", "try_multiply": "*", "try_divide": "/", "try_mod": "%"}.get(name)
    if sign is None or len(args) != 2:
        raise refuse(f"{name} wants two numbers")
    if any(arg.type.kind not in (*st.NUMERIC, "void") for arg in args):
        raise refuse(f"{name} of {args[0].type} and {args[1].type} is not answered here")
    return replace(arithmetic(sign, *args, safe=True), name="")


def _modulo(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 2:
        raise refuse(f"{name} wants two numbers")
    rest = arithmetic("%", *args)
    if name == "mod":
        return replace(rest, name="")
    if rest.type.kind not in st.INTEGRAL and rest.type.kind not in ("double", "decimal"):
        raise refuse(f"pmod of {rest.type} is not answered here")
    by = args[1].to(rest.type)
    sql = once(rest.sql, lambda v: f"CASE WHEN {v} < 0 THEN CAST(({v} + {by}) % {by} AS {rest.type.duck}) ELSE {v} END")
    return Expr(sql, rest.type, "")


def _to_json(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 1 or args[0].type.kind not in ("struct", "map", "array"):
        raise refuse("to_json wants a struct, map or array, and no options")
    return Expr(_json(args[0].sql, args[0].type), st.STRING, "")


def _json(sql: str, kind: Type) -> str:
    if kind.kind in (*st.INTEGRAL, "boolean"):
        return f"CAST({sql} AS VARCHAR)"
    if kind.kind == "double":
        return once(
            st.to_text(sql, kind),
            lambda v: f"CASE WHEN {v} IN ('NaN', 'Infinity', '-Infinity') THEN '\"' || {v} || '\"' ELSE {v} END",
        )
    if kind.kind == "decimal":
        return f"CAST({sql} AS VARCHAR)"
    if kind.kind == "string":
        return f"spark_quote_json({sql})"
    if kind.kind == "date":
        return f"('\"' || CAST({sql} AS VARCHAR) || '\"')"
    if kind.kind == "timestamp":
        return f"('\"' || spark_date_format({sql}, 'yyyy-MM-dd''T''HH:mm:ss.SSSXXX') || '\"')"
    if kind.kind == "array":
        name = f"j{len(sql)}"
        items = f"list_transform({sql}, lambda {name}: coalesce({_json(name, kind.inner[0])}, 'null'))"
        return once(
            items,
            lambda v: f"CASE WHEN {v} IS NOT NULL THEN '[' || spark_join({v}, ',') || ']' END",
        )
    if kind.kind == "struct":

        def packed(v: str) -> str:
            fields = []
            for name, one in kind.inner:
                value = f"struct_extract({v}, {st.text(name)})"
                key = st.text('"' + name.replace("\\", "\\\\").replace('"', '\\"') + '":')
                fields.append(f"CASE WHEN {value} IS NOT NULL THEN {key} || {_json(value, one)} END")
            return (
                f"CASE WHEN {v} IS NOT NULL THEN '{{' || coalesce(concat_ws(',', {', '.join(fields)}), '') || '}}' END"
            )

        return once(sql, packed)
    if kind.kind == "map" and kind.inner[0] == st.STRING:
        value = f"CASE WHEN e.value IS NULL THEN 'null' ELSE {_json('e.value', kind.inner[1])} END"
        items = f"list_transform(map_entries({sql}), lambda e: spark_quote_json(e.key) || ':' || {value})"
        return once(
            items,
            lambda v: f"CASE WHEN {sql} IS NOT NULL THEN '{{' || spark_join({v}, ',') || '}}' END",
        )
    raise refuse(f"to_json of {kind} is not answered here")


def _from_json(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 2 or not isinstance(args[1].constant, str) or not st.implicit(args[0].type, st.STRING):
        raise refuse("from_json wants a text and a constant schema, and no options")
    said = args[1].constant
    try:
        kind = st.built(said if re.match(r"(?i)\s*(struct|array|map)\s*<", said) else f"struct<{_colons(said)}>")
    except Exception:
        raise refuse(f"the schema {said[:60]} is not answered here") from None
    if kind.kind != "struct" or any(
        one.kind not in ("string", "int", "bigint", "double", "boolean") for _, one in kind.inner
    ):
        raise refuse(f"from_json to {kind} is not answered here; fields are STRING, INT, BIGINT, DOUBLE or BOOLEAN")
    text = args[0].to(st.STRING)
    fields = ", ".join(f"{st.quoted(n)} := CAST(spark_json_field({text}, {st.text(n)}, '{one.kind}') AS {one.duck})"
                       for n, one in kind.inner)  # fmt: skip
    return Expr(f"CASE WHEN trim({text}) <> '' THEN struct_pack({fields}) END", kind, f"from_json({args[0].name})")


def _colons(schema: str) -> str:
    return ", ".join(re.sub(r"^\s*(`?\w+`?)\s*:?\s+", r"\1: ", one) for one in schema.split(","))


def _hash(name: str, args: list[Expr], scope: Scope) -> Expr:
    seed = "42"
    for arg in args:
        seed = _hashed(arg.sql, arg.type, seed)
    return Expr(seed, st.INT, "")


def _hashed(sql: str, kind: Type, seed: str) -> str:
    whole = {"boolean": "int", "tinyint": "int", "smallint": "int", "int": "int", "bigint": "long"}
    if kind.kind in whole:
        wide = "INTEGER" if whole[kind.kind] == "int" else "BIGINT"
        made = f"spark_hash_{whole[kind.kind]}(CAST({sql} AS {wide}), {seed})"
    elif kind.kind == "string":
        made = f"spark_hash_bytes(encode({sql}), {seed})"
    elif kind.kind == "date":
        made = f"spark_hash_int(CAST({sql} - DATE '1970-01-01' AS INTEGER), {seed})"
    elif kind.kind == "timestamp":
        made = f"spark_hash_long(epoch_us({sql}), {seed})"
    elif kind.kind == "array" and kind.inner[0].kind in ("int", "bigint"):
        step = (
            _hashed("b", st.BIGINT, "CAST(a AS INTEGER)") if kind.inner[0] == st.BIGINT else _hashed("b", st.INT, "a")
        )
        start = f"[CAST({seed} AS {kind.inner[0].duck})]"
        made = f"CAST(list_reduce(list_concat({start}, {sql}), lambda a, b: {step}) AS INTEGER)"
    else:
        raise refuse(f"hash of {kind} is not answered here")
    return f"coalesce({made}, {seed})"


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
    **dict.fromkeys((*_CASTS, "to_date", "to_timestamp"), _made_cast), "sort_array": _sorted,
    "sequence": _sequence, "map": _map,
    "named_struct": _named_struct, **dict.fromkeys(("map_entries", "map_from_entries"), _entries),
    "map_concat": _map_concat, "arrays_zip": _arrays_zip, "mod": _modulo, "pmod": _modulo, "to_json": _to_json,
    **dict.fromkeys(("try_add", "try_subtract", "try_multiply", "try_divide", "try_mod"), _try),
    "from_json": _from_json, "hash": _hash, **dict.fromkeys(("format_string", "printf"), _printf), "elt": _elt,
    "shiftleft": _shift,
}  # fmt: skip
"""Functions whose meaning is no template."""
