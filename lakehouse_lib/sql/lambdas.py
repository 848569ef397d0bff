"""Functions of Spark that take a lambda."""

from __future__ import annotations

import re
from dataclasses import replace

from sqlglot import exp

from lakehouse_lib.sql import types as st
from lakehouse_lib.sql.expressions import Expr, Scope, call, expression, lambda_, merged, refuse
from lakehouse_lib.sql.types import Type, once


def _array_of(name: str, nodes: list[exp.Expression], scope: Scope, count: int = 1) -> tuple[Expr, exp.Expression]:
    if len(nodes) != 2:
        raise refuse(f"{name} wants an array and a lambda")
    of = expression(nodes[0], scope)
    if of.type.kind not in ("array", "map") or of.type.inner[0] == st.VOID:
        raise refuse(f"{name} of {of.type} is not answered here")
    return of, nodes[1]


def higher(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
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


def reduced(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
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


def zipped(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
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


def array_sort(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
    if len(nodes) != 1:
        raise refuse("array_sort with a lambda is not answered here; sort_array sorts in both directions")
    return call(name, [expression(nodes[0], scope)], scope)
