"""Functions of Spark that make arrays, maps and structs, and JSON of them."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import reduce

from sqlglot import exp

from lakehouse_lib.sql import signatures
from lakehouse_lib.sql import types as st
from lakehouse_lib.sql.expressions import Expr, Scope, by_signature, expression, merged, refuse
from lakehouse_lib.sql.operators import widest
from lakehouse_lib.sql.types import Type, once


def struct(name: str, nodes: list[exp.Expression], scope: Scope) -> Expr:
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


def sequence(name: str, args: list[Expr], scope: Scope) -> Expr:
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


def sorted_array(name: str, args: list[Expr], scope: Scope) -> Expr:
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


def made_map(name: str, args: list[Expr], scope: Scope) -> Expr:
    if not args:
        return Expr("map([], [])", Type("map", (st.VOID, st.VOID)), "")
    if len(args) % 2:
        raise refuse("map wants pairs of keys and values")
    keys, values = widest(args[::2], name), widest(args[1::2], name)
    if keys.kind not in (*st.SIMPLE, "binary"):
        raise refuse(f"a map by {keys} is not answered here")
    listed = [", ".join(arg.to(kind) for arg in part) for part, kind in ((args[::2], keys), (args[1::2], values))]
    return Expr(f"map([{listed[0]}], [{listed[1]}])", Type("map", (keys, values)), "")


def named_struct(name: str, args: list[Expr], scope: Scope) -> Expr:
    if len(args) % 2 or not all(isinstance(arg.constant, str) for arg in args[::2]):
        raise refuse("named_struct wants pairs of constant names and values")
    return replace(_packed([(a.constant, b) for a, b in zip(args[::2], args[1::2], strict=True)], ""), name="")


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
            made = f"map_from_entries(list_transform({args[0].sql}, lambda e: {packed}))"
            sql = f"CASE WHEN NOT spark_has({args[0].sql}, NULL) THEN {made} END"
            return Expr(sql, Type("map", (key, value)), "")
    raise refuse(f"{name}({', '.join(str(arg.type) for arg in args)}) is not answered here")


def map_concat(name: str, args: list[Expr], scope: Scope) -> Expr:
    wide = widest(args, name)
    if wide.kind != "map":
        raise refuse(f"{name} of {wide} is not answered here")
    parts = [arg.to(wide) for arg in args]
    there = " AND ".join(f"{part} IS NOT NULL" for part in parts)
    both = reduce(lambda a, b: f"list_concat({a}, {b})", [f"map_entries({part})" for part in parts])
    return Expr(f"CASE WHEN {there} THEN map_from_entries({both}) END", wide, "")


def arrays_zip(name: str, args: list[Expr], scope: Scope) -> Expr:
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


def to_json(name: str, args: list[Expr], scope: Scope) -> Expr:
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


def from_json(name: str, args: list[Expr], scope: Scope) -> Expr:
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
    fields = ", ".join(
        f"{st.quoted(n)} := CAST(spark_json_field({text}, {st.text(n)}, '{one.kind}') AS {one.duck})"
        for n, one in kind.inner
    )
    return Expr(f"CASE WHEN trim({text}) <> '' THEN struct_pack({fields}) END", kind, f"from_json({args[0].name})")


def _colons(schema: str) -> str:
    return ", ".join(re.sub(r"^\s*(`?\w+`?)\s*:?\s+", r"\1: ", one) for one in schema.split(","))


def hashed_all(name: str, args: list[Expr], scope: Scope) -> Expr:
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
