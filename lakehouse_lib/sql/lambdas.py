"""Spark functions that take a lambda."""

from __future__ import annotations

import re
from dataclasses import replace

from sqlglot import exp

from lakehouse_lib.sql import types as st
from lakehouse_lib.sql.expressions import Expr, Scope, call, expression, lambda_, merged, refuse
from lakehouse_lib.sql.types import Type, once


def _collection_and_lambda(name: str, nodes: list[exp.Expression], scope: Scope) -> tuple[Expr, exp.Expression]:
    if len(nodes) != 2:
        raise refuse(f"{name} requires an array and a lambda")
    collection = expression(nodes[0], scope)
    if collection.type.kind not in ("array", "map") or collection.type.inner[0] == st.VOID:
        raise refuse(f"{name} of {collection.type} is not supported")
    return collection, nodes[1]


def higher(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
    """transform, filter, exists and forall of arrays; map_filter, transform_keys and transform_values of maps."""
    if name == "exists" and len(nodes) == 1:
        raise refuse("exists requires an array and a lambda, or a query")
    collection, node = _collection_and_lambda(name, nodes, scope)
    if (collection.type.kind == "map") != (name in ("map_filter", "transform_keys", "transform_values")):
        raise refuse(f"{name} of {collection.type} is not supported")
    if collection.type.kind == "map":
        return _map_function(name, collection, node, scope)
    names, body = lambda_(node, scope, collection.type.inner[0], *([st.INT] if name in ("transform", "filter") else []))
    label = f"{name}({collection.name}, {body.name})"
    inner = body.sql
    if len(names) == 2:  # Spark counts from 0
        inner = re.sub(rf"\b{names[1]}\b", f"CAST({names[1]} - 1 AS INTEGER)", inner)
    head = f"lambda {', '.join(names)}: "
    if name == "transform":
        return merged(f"list_transform({collection.sql}, {head}{inner})", st.array(body.type), label, [collection])
    if body.type != st.BOOLEAN:
        raise refuse(f"{name}: {body.name} is not a condition")
    if name == "filter":
        return merged(f"list_filter({collection.sql}, {head}{inner})", collection.type, label, [collection])
    results = f"list_transform({collection.sql}, {head}{inner})"
    decisive, otherwise = ("true", "false") if name == "exists" else ("false", "true")
    sql = once(
        results,
        lambda v: (
            f"CASE WHEN {v} IS NULL THEN NULL WHEN list_contains({v}, {decisive}) THEN {decisive} "
            f"WHEN spark_has({v}, NULL) THEN NULL ELSE {otherwise} END"
        ),
    )
    return merged(sql, st.BOOLEAN, label, [collection])


def _map_function(name: str, collection: Expr, node: exp.Expression, scope: Scope) -> Expr:
    (key, value), body = lambda_(node, scope, *collection.type.inner)
    inner = re.sub(rf"\b{value}\b", "e.value", re.sub(rf"\b{key}\b", "e.key", body.sql))
    entries, kind = f"map_entries({collection.sql})", collection.type
    if name == "map_filter":
        if body.type != st.BOOLEAN:
            raise refuse(f"{name}: {body.name} is not a condition")
        result = f"list_filter({entries}, lambda e: {inner})"
    else:
        keys = name == "transform_keys"
        pair = f"key := {inner if keys else 'e.key'}, value := {'e.value' if keys else inner}"
        result = f"list_transform({entries}, lambda e: struct_pack({pair}))"
        kind = Type("map", (body.type, kind.inner[1]) if keys else (kind.inner[0], body.type))
    sql = f"CASE WHEN {collection.sql} IS NOT NULL THEN map_from_entries({result}) END"
    return merged(sql, kind, f"{name}({collection.name}, {body.name})", [collection])


def reduced(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
    if len(nodes) not in (3, 4):
        raise refuse(f"{name} requires an array, a start and a lambda")
    array, start = expression(nodes[0], scope), expression(nodes[1], scope)
    if array.type.kind != "array" or array.type.inner[0] == st.VOID or start.type == st.VOID:
        raise refuse(f"{name} of {array.type} from {start.type} is not supported")
    names, body = lambda_(nodes[2], scope, start.type, array.type.inner[0])
    if len(names) != 2 or body.type != start.type:
        raise refuse(f"{name} from {start.type} results in {body.type}; cast the start, as in CAST(0 AS BIGINT)")
    # Reducing over structs lets the start and the elements differ in type.
    kinds = Type("struct", (("a", start.type), ("e", array.type.inner[0])))
    items = f"list_transform({array.sql}, lambda m: CAST(struct_pack(a := NULL, e := m) AS {kinds.duck}))"
    inner = re.sub(rf"\b{names[1]}\b", "n.e", re.sub(rf"\b{names[0]}\b", "m.a", body.sql))
    first = f"CAST(struct_pack(a := {start.sql}, e := NULL) AS {kinds.duck})"
    step = f"lambda m, n: CAST(struct_pack(a := {inner}, e := NULL) AS {kinds.duck})"
    result = merged(f"list_reduce({items}, {step}, {first}).a", body.type, "", [array, start])
    labels = [array.name, start.name, body.name]
    if len(nodes) == 4:
        last, end = lambda_(nodes[3], scope, start.type)
        sql = f"list_transform([{result.sql}], lambda {last[0]}: {end.sql})[1]"
        result = merged(sql, end.type, "", [result])
        labels.append(end.name)
    else:
        labels.append("lambdafunction(namedlambdavariable(), namedlambdavariable())")
    sql = f"CASE WHEN {array.sql} IS NOT NULL THEN {result.sql} END"
    return replace(result, sql=sql, name=f"{name}({', '.join(labels)})")


def zipped(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
    if len(nodes) != 3:
        raise refuse(f"{name} requires two arrays and a lambda")
    a, b = expression(nodes[0], scope), expression(nodes[1], scope)
    if a.type.kind != "array" or b.type.kind != "array" or st.VOID in (a.type.inner[0], b.type.inner[0]):
        raise refuse(f"{name} of {a.type} and {b.type} is not supported")
    names, body = lambda_(nodes[2], scope, a.type.inner[0], b.type.inner[0])
    if len(names) != 2:
        raise refuse(f"{name} requires a lambda of two parameters")
    inner = re.sub(rf"\b{names[1]}\b", "m.b", re.sub(rf"\b{names[0]}\b", "m.a", body.sql))
    pair = f"struct_pack(a := {a.sql}[n + 1], b := {b.sql}[n + 1])"
    pairs = f"list_transform(range(greatest(len({a.sql}), len({b.sql}))), lambda n: {pair})"
    sql = f"CASE WHEN {a.sql} IS NOT NULL AND {b.sql} IS NOT NULL THEN list_transform({pairs}, lambda m: {inner}) END"
    return merged(sql, st.array(body.type), f"{name}({a.name}, {b.name}, {body.name})", [a, b])


def array_sort(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
    if len(nodes) != 1:
        raise refuse("array_sort with a lambda is not supported; sort_array sorts in both directions")
    return call(name, [expression(nodes[0], scope)], scope)
