"""Spark functions that build arrays, maps and structs, and convert them to and from JSON."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import reduce

from sqlglot import exp

from lakehouse_lib.sql import functions, signatures
from lakehouse_lib.sql import types as st
from lakehouse_lib.sql.expressions import Expr, Scope, by_signature, expression, merged, refuse
from lakehouse_lib.sql.operators import widest
from lakehouse_lib.sql.types import Type, once


def struct(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
    fields = []
    for place, node in enumerate(nodes, 1):
        value = expression(node.this if isinstance(node, exp.Alias) else node, scope)
        field_name = (
            node.alias if isinstance(node, exp.Alias) else node.name if isinstance(node, exp.Column) else f"col{place}"
        )
        if isinstance(node, exp.Dot):
            field_name = node.expression.name
        fields.append(
            (field_name, value, f"{value.name} AS {field_name}" if isinstance(node, exp.Alias) else value.name)
        )
    label = f"struct({', '.join(label for *_, label in fields)})"
    return _struct_of([(field_name, value) for field_name, value, _ in fields], label)


def _struct_of(fields: list[tuple[str, Expr]], label: str) -> Expr:
    if not fields or len({name.lower() for name, _ in fields}) < len(fields):
        raise refuse("a struct with duplicate field names is not supported")
    sql = f"struct_pack({', '.join(f'{st.quoted(name)} := {value.sql}' for name, value in fields)})"
    return merged(
        sql, Type("struct", tuple((name, value.type) for name, value in fields)), label, [value for _, value in fields]
    )


def sequence(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 3 or args[2].type != st.INTERVAL:
        match = by_signature(functions.SCALARS[name], name, args)
        if match is None:
            raise refuse(f"{name}({', '.join(str(arg.type) for arg in args)}) is not supported")
        return Expr(signatures.rendered(match[0].template, match[1], []), signatures.result(match[0], match[2]), "")
    (start, stop, step), number = args, re.match(r"INTERVAL \((\d+)\)", args[2].sql)
    dates = start.type == stop.type == st.DATE
    if not (dates or start.type == stop.type == st.TIMESTAMP) or not number or not int(number[1]):
        raise refuse(f"{name} of {start.type} and {stop.type} by {step.name} is not supported")
    if dates and step.constant not in ("DAY", "WEEK", "MONTH", "YEAR"):
        raise refuse(f"{name} of dates by {step.name} is not supported")
    a, b = start.to(st.TIMESTAMP), stop.to(st.TIMESTAMP)
    if step.constant in ("MONTH", "YEAR"):  # each counts from the start, so that the 31st returns after a shorter month
        months = int(number[1]) * (12 if step.constant == "YEAR" else 1)
        places = f"range(0, spark_months_apart({a}, {b}) + 2, {months})"
        values = f"list_transform({places}, lambda n: {a} + to_months(CAST(n AS INTEGER)))"
        values = f"list_filter({values}, lambda n: n <= {b})"
    else:
        values = f"generate_series({a}, {b}, {step.sql})"
    kind = st.array(start.type)
    sql = f"CASE WHEN {a} > {b} THEN error('A sequence does not reach its end') ELSE CAST({values} AS {kind.duck}) END"
    return Expr(sql, kind, "")


def sorted_array(name: str, args: list[Expr], scope: Scope) -> Expr:
    if (
        len(args) not in (1, 2)
        or args[0].type.kind != "array"
        or (len(args) == 2 and not isinstance(args[1].constant, bool))
    ):
        raise refuse(f"{name} requires an array and optionally true or false")
    if args[0].type.inner[0].kind not in (*st.SIMPLE, "binary", "void"):
        raise refuse(f"{name} of {args[0].type} is not supported")
    ascending = len(args) == 1 or args[1].constant
    order = "'ASC', 'NULLS FIRST'" if ascending else "'DESC', 'NULLS LAST'"
    label = f"sort_array({args[0].name}, {str(bool(ascending)).lower()})"
    return Expr(f"list_sort({args[0].sql}, {order})", args[0].type, label)


def made_map(name: str, args: list[Expr], scope: Scope) -> Expr:
    if not args:
        return Expr("map([], [])", Type("map", (st.VOID, st.VOID)), "")
    if len(args) % 2:
        raise refuse("map requires pairs of keys and values")
    keys, values = widest(args[::2], name), widest(args[1::2], name)
    if keys.kind not in (*st.SIMPLE, "binary"):
        raise refuse(f"a map with {keys} keys is not supported")
    lists = [", ".join(arg.to(kind) for arg in part) for part, kind in ((args[::2], keys), (args[1::2], values))]
    return Expr(f"map([{lists[0]}], [{lists[1]}])", Type("map", (keys, values)), "")


def named_struct(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) % 2 or not all(isinstance(arg.constant, str) for arg in args[::2]):
        raise refuse("named_struct requires pairs of constant names and values")
    return replace(_struct_of([(a.constant, b) for a, b in zip(args[::2], args[1::2], strict=True)], ""), name="")


def entries(name: str, args: list[Expr], scope: Scope) -> Expr:
    if name == "map_entries" and len(args) == 1 and args[0].type.kind == "map":
        key, value = args[0].type.inner
        kind = st.array(Type("struct", (("key", key), ("value", value))))
        return Expr(f"CASE WHEN {args[0].sql} IS NOT NULL THEN map_entries({args[0].sql}) END", kind, "")
    if name == "map_from_entries" and len(args) == 1 and args[0].type.kind == "array":
        element = args[0].type.inner[0]
        if element.kind == "struct" and len(element.inner) == 2:
            (a, key), (b, value) = element.inner
            packed = f"struct_pack(key := struct_extract(e, {st.text(a)}), value := struct_extract(e, {st.text(b)}))"
            result = f"map_from_entries(list_transform({args[0].sql}, lambda e: {packed}))"
            sql = f"CASE WHEN NOT spark_has({args[0].sql}, NULL) THEN {result} END"
            return Expr(sql, Type("map", (key, value)), "")
    raise refuse(f"{name}({', '.join(str(arg.type) for arg in args)}) is not supported")


def map_concat(name: str, args: list[Expr], scope: Scope) -> Expr:
    wide = widest(args, name)
    if wide.kind != "map":
        raise refuse(f"{name} of {wide} is not supported")
    parts = [arg.to(wide) for arg in args]
    not_null = " AND ".join(f"{part} IS NOT NULL" for part in parts)
    concatenated = reduce(lambda a, b: f"list_concat({a}, {b})", [f"map_entries({part})" for part in parts])
    return Expr(f"CASE WHEN {not_null} THEN map_from_entries({concatenated}) END", wide, "")


def arrays_zip(name: str, args: list[Expr], scope: Scope) -> Expr:
    if not args or any(arg.type.kind != "array" for arg in args):
        raise refuse("arrays_zip requires arrays")
    names = [arg.name if re.fullmatch(r"\w+", arg.name) and not arg.known else str(n) for n, arg in enumerate(args)]
    if len(set(map(str.lower, names))) < len(names):
        raise refuse("arrays_zip of arrays with the same name is not supported")
    fields = ", ".join(f"{st.quoted(n)} := {arg.sql}[n + 1]" for n, arg in zip(names, args, strict=True))
    not_null = " AND ".join(f"{arg.sql} IS NOT NULL" for arg in args)
    longest = ", ".join(f"len({arg.sql})" for arg in args)
    kind = st.array(Type("struct", tuple((n, arg.type.inner[0]) for n, arg in zip(names, args, strict=True))))
    sql = (
        f"CASE WHEN {not_null} THEN list_transform(range(greatest({longest}, 0)), lambda n: struct_pack({fields})) END"
    )
    return Expr(sql, kind, "")


def to_json(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 1 or args[0].type.kind not in ("struct", "map", "array"):
        raise refuse("to_json requires a struct, map or array, and no options")
    return Expr(_as_json(args[0].sql, args[0].type), st.STRING, "")


def _as_json(sql: str, kind: Type) -> str:
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
        items = f"list_transform({sql}, lambda {name}: coalesce({_as_json(name, kind.inner[0])}, 'null'))"
        return once(
            items,
            lambda v: f"CASE WHEN {v} IS NOT NULL THEN '[' || spark_join({v}, ',') || ']' END",
        )
    if kind.kind == "struct":

        def render(v: str) -> str:
            fields = []
            for name, field_type in kind.inner:
                value = f"struct_extract({v}, {st.text(name)})"
                key = st.text('"' + name.replace("\\", "\\\\").replace('"', '\\"') + '":')
                fields.append(f"CASE WHEN {value} IS NOT NULL THEN {key} || {_as_json(value, field_type)} END")
            return (
                f"CASE WHEN {v} IS NOT NULL THEN '{{' || coalesce(concat_ws(',', {', '.join(fields)}), '') || '}}' END"
            )

        return once(sql, render)
    if kind.kind == "map" and kind.inner[0] == st.STRING:
        value = f"CASE WHEN e.value IS NULL THEN 'null' ELSE {_as_json('e.value', kind.inner[1])} END"
        items = f"list_transform(map_entries({sql}), lambda e: spark_quote_json(e.key) || ':' || {value})"
        return once(
            items,
            lambda v: f"CASE WHEN {sql} IS NOT NULL THEN '{{' || spark_join({v}, ',') || '}}' END",
        )
    raise refuse(f"to_json of {kind} is not supported")


def from_json(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) != 2 or not isinstance(args[1].constant, str) or not st.implicit(args[0].type, st.STRING):
        raise refuse("from_json requires a string and a constant schema, and no options")
    schema = args[1].constant
    try:
        kind = st.built(
            schema if re.match(r"(?i)\s*(struct|array|map)\s*<", schema) else f"struct<{_with_colons(schema)}>"
        )
    except Exception:
        raise refuse(f"the schema {schema[:60]} is not supported") from None
    if kind.kind != "struct" or any(
        field_type.kind not in ("string", "int", "bigint", "double", "boolean") for _, field_type in kind.inner
    ):
        raise refuse(f"from_json to {kind} is not supported; fields are STRING, INT, BIGINT, DOUBLE or BOOLEAN")
    text = args[0].to(st.STRING)
    fields = ", ".join(
        f"{st.quoted(n)} := CAST(spark_json_field({text}, {st.text(n)}, '{field_type.kind}') AS {field_type.duck})"
        for n, field_type in kind.inner
    )
    return Expr(f"CASE WHEN trim({text}) <> '' THEN struct_pack({fields}) END", kind, f"from_json({args[0].name})")


def _with_colons(schema: str) -> str:
    return ", ".join(re.sub(r"^\s*(`?\w+`?)\s*:?\s+", r"\1: ", field) for field in schema.split(","))


def hashed_all(name: str, args: list[Expr], scope: Scope) -> Expr:
    seed = "42"
    for arg in args:
        seed = _hash(arg.sql, arg.type, seed)
    return Expr(seed, st.INT, "")


def _hash(sql: str, kind: Type, seed: str) -> str:
    functions = {"boolean": "int", "tinyint": "int", "smallint": "int", "int": "int", "bigint": "long"}
    if kind.kind in functions:
        wide = "INTEGER" if functions[kind.kind] == "int" else "BIGINT"
        hashed = f"spark_hash_{functions[kind.kind]}(CAST({sql} AS {wide}), {seed})"
    elif kind.kind == "string":
        hashed = f"spark_hash_bytes(encode({sql}), {seed})"
    elif kind.kind == "date":
        hashed = f"spark_hash_int(CAST({sql} - DATE '1970-01-01' AS INTEGER), {seed})"
    elif kind.kind == "timestamp":
        hashed = f"spark_hash_long(epoch_us({sql}), {seed})"
    elif kind.kind == "array" and kind.inner[0].kind in ("int", "bigint"):
        step = _hash("b", st.BIGINT, "CAST(a AS INTEGER)") if kind.inner[0] == st.BIGINT else _hash("b", st.INT, "a")
        start = f"[CAST({seed} AS {kind.inner[0].duck})]"
        hashed = f"CAST(list_reduce(list_concat({start}, {sql}), lambda a, b: {step}) AS INTEGER)"
    else:
        raise refuse(f"hash of {kind} is not supported")
    return f"coalesce({hashed}, {seed})"
