"""Generator functions of Spark SQL, which return several rows for a row: explode, inline, stack and the like."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from sqlglot import exp

from lakehouse_lib.sql import types as st
from lakehouse_lib.sql.calls import GENERATORS
from lakehouse_lib.sql.expressions import Column, Expr, Scope, Source, expression, refuse
from lakehouse_lib.sql.operators import widest
from lakehouse_lib.sql.types import Type

if TYPE_CHECKING:
    from lakehouse_lib.sql.queries import Queries


def generator(node: exp.Expression) -> exp.Expression | None:
    """Return the generator call of a SELECT item, if it is one."""
    inner = node.this if isinstance(node, (exp.Alias, exp.Aliases)) else node
    return inner if isinstance(inner, exp.Anonymous) and inner.name.lower() in GENERATORS else None


def generated(
    queries: Queries, nodes: list[exp.Expression], scope: Scope, source: str
) -> tuple[str, list[exp.Expression]]:
    """Return the FROM clause with the rows of the generator in a SELECT list, and the list with the generator's columns
    in place of the call."""
    (place, node), *more = [(n, item) for n, item in enumerate(nodes) if generator(item) is not None]
    if more:
        raise refuse("two generators in one SELECT list are an error in Spark")
    names = [node.alias] if isinstance(node, exp.Alias) else [item.name for item in node.expressions] if isinstance(
        node, exp.Aliases) else []  # fmt: skip
    generated_rows = rows(cast("exp.Expression", generator(node)), scope, False, names)
    sql, row_columns = unnested(queries, generated_rows, scope, source)
    source_name = queries.fresh("g")
    scope.sources.append(Source(source_name, [replace(column, hidden=True) for column in row_columns]))
    columns = [exp.Alias(this=exp.column(exp.to_identifier(c.name, quoted=True), exp.to_identifier(source_name)),
                         alias=exp.to_identifier(c.name, quoted=True)) for c in row_columns]  # fmt: skip
    if len({c.name.lower() for c in row_columns}) < len(row_columns):
        raise refuse("duplicate column names")
    return f" FROM {sql}", [*nodes[:place], *columns, *nodes[place + 1 :]]


def unnested(
    queries: Queries, generated_rows: list[tuple[str, Type, str]], scope: Scope, source: str
) -> tuple[str, list[Column]]:
    """Return a source joined with the generated rows of each of its rows; the scope is updated to match."""
    sql_alias, count = queries.fresh(), 0
    parts, sources = [], []
    for old_source in scope.sources:
        columns = []
        for column in old_source.columns:
            parts.append(f"{column.sql} AS x{count}")
            columns.append(replace(column, sql=f"{sql_alias}.x{count}"))
            count += 1
        sources.append(Source(old_source.name, columns))
    row_columns = []
    for name, kind, sql in generated_rows:
        parts.append(f"{sql} AS x{count}")
        row_columns.append(Column(name, kind, f"{sql_alias}.x{count}"))
        count += 1
    scope.sources = sources
    return f"(SELECT {', '.join(parts)}{source}) AS {sql_alias}", row_columns


def rows(call: exp.Expression, scope: Scope, outer: bool, names: list[str]) -> list[tuple[str, Type, str]]:
    """Return the columns that a generator returns: name, type and SQL."""
    name = call.name.lower() if isinstance(call, exp.Anonymous) else ""
    if name not in GENERATORS:
        raise refuse(f"{call.sql('spark')[:60]!r} is not a supported generator")
    args = [expression(arg, scope) for arg in call.expressions]
    if any(arg.aggregate or arg.window for arg in args):
        raise refuse(f"{name} of an aggregate; aggregate in a subquery first")
    outer = outer or name.endswith("_outer")
    columns = _RULES[name.removesuffix("_outer")](args, outer)
    if names and len(names) != len(columns):
        raise refuse(f"{name} returns {len(columns)} columns, not {len(names)}")
    return (
        [(column_name, kind, sql) for column_name, (_, kind, sql) in zip(names, columns, strict=True)]
        if names
        else columns
    )


def _filled(sql: str, outer: bool) -> str:
    return f"CASE WHEN coalesce(len({sql}), 0) = 0 THEN [NULL] ELSE {sql} END" if outer else sql


def _exploded(args: list[Expr], outer: bool) -> list[tuple[str, Type, str]]:
    if len(args) != 1 or args[0].type.kind not in ("array", "map"):
        raise refuse("explode requires an array or a map")
    (collection,) = args
    if collection.type.kind == "array":
        return [("col", collection.type.inner[0], f"unnest({_filled(collection.sql, outer)})")]
    return [
        (part, kind, f"unnest({_filled(f'map_{part}s({collection.sql})', outer)})")
        for part, kind in zip(("key", "value"), collection.type.inner, strict=True)
    ]


def _placed(args: list[Expr], outer: bool) -> list[tuple[str, Type, str]]:
    columns = _exploded(args, outer)
    elements = f"map_keys({args[0].sql})" if args[0].type.kind == "map" else args[0].sql
    places = f"CAST(range(len({elements})) AS INTEGER[])"
    return [("pos", st.INT, f"unnest({_filled(places, outer)})"), *columns]


def _inlined(args: list[Expr], outer: bool) -> list[tuple[str, Type, str]]:
    if len(args) != 1 or args[0].type.kind != "array" or args[0].type.inner[0].kind != "struct":
        raise refuse("inline requires an array of structs")
    filled = _filled(args[0].sql, outer)
    return [
        (name, kind, f"unnest(list_transform({filled}, lambda e: struct_extract(e, {st.text(name)})))")
        for name, kind in args[0].type.inner[0].inner
    ]


def _stacked(args: list[Expr], outer: bool) -> list[tuple[str, Type, str]]:
    row_count = args[0].constant if args else None
    if not isinstance(row_count, int) or row_count < 1 or len(args) < 2:
        raise refuse("stack requires a constant number of rows, and values")
    width = -(-(len(args) - 1) // row_count)
    columns = []
    for n in range(width):
        column = args[1:][n::width]
        kind = widest(column, "stack")
        parts = [value.to(kind) for value in column] + ["NULL"] * (row_count - len(column))
        columns.append((f"col{n}", kind, f"unnest([{', '.join(parts)}])"))
    return columns


def _tupled(args: list[Expr], outer: bool) -> list[tuple[str, Type, str]]:
    if (
        len(args) < 2
        or not all(isinstance(arg.constant, str) for arg in args[1:])
        or any(re.search(r"[.\[\]'*]", arg.constant) for arg in args[1:])
    ):
        raise refuse("json_tuple requires a string and constant names")
    return [
        (f"c{n}", st.STRING, f"spark_json({args[0].to(st.STRING)}, {st.text('$.' + arg.constant)})")
        for n, arg in enumerate(args[1:])
    ]


_RULES = {"explode": _exploded, "posexplode": _placed, "inline": _inlined, "stack": _stacked, "json_tuple": _tupled}
