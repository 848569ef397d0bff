"""The sources of FROM: tables, queries, VALUES, joins, LATERAL VIEW, PIVOT and table functions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from sqlglot import exp

from lakehouse_lib.sql import generators
from lakehouse_lib.sql import types as st
from lakehouse_lib.sql.calls import GENERATORS
from lakehouse_lib.sql.expressions import Column, Expr, Scope, Source, expression, refuse
from lakehouse_lib.sql.operators import compared, truth, widest
from lakehouse_lib.sql.types import Type

if TYPE_CHECKING:
    from lakehouse_lib.sql.queries import Columns, Queries


def joined(queries: Queries, node: exp.Select, scope: Scope, ctes: dict[str, Any]) -> str:
    """Return the FROM clause of a query as SQL; its sources are added to the scope."""
    from_ = node.args.get("from_")
    if from_ is None:
        if node.args.get("joins"):
            raise refuse("a join without FROM")
        sql = ""
    else:
        sql, source = relation(queries, from_.this, scope, ctes)
        scope.sources = [source]
        for join in (from_.this.args.get("joins") or []) if isinstance(from_.this, exp.Table) else []:
            sql += _join(queries, join, scope, ctes)
    for join in node.args.get("joins") or []:
        sql += _join(queries, join, scope, ctes)
    for lateral in node.args.get("laterals") or []:
        if not lateral.args.get("view"):
            raise refuse(f"{lateral.sql('spark')[:60]!r} is not supported")
        alias = lateral.args.get("alias")
        names = [part.name for part in alias.columns] if alias else []
        rows = generators.rows(lateral.this, scope, bool(lateral.args.get("outer")), names)
        sql, columns = generators.unnested(queries, rows, scope, f" FROM {sql}" if sql else "")
        scope.sources.append(Source(alias.name if alias else "", columns))
    return f" FROM {sql}" if sql else ""


def relation(queries: Queries, node: exp.Expression, scope: Scope, ctes: dict[str, Any]) -> tuple[str, Source]:
    """Return a source as SQL, with its columns."""
    pivots, sample = node.args.get("pivots") or [], node.args.get("sample")
    sql, source = _base(queries, node, scope, ctes)
    if sample:
        sql, source = _sampled(queries, sample, sql, source, scope)
    for pivot in pivots:
        sql, source = (_unpivoted if pivot.args.get("unpivot") else _pivoted)(queries, pivot, sql, source, scope)
    return sql, source


def _base(queries: Queries, node: exp.Expression, scope: Scope, ctes: dict[str, Any]) -> tuple[str, Source]:
    alias, sql_alias = node.args.get("alias"), queries.fresh()
    names = [part.name for part in alias.columns] if alias else []
    if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
        inner, column_list = _named(queries, node, ctes, sql_alias)
        return f"{inner} AS {sql_alias}", _source(alias.name if alias and alias.name else node.name, column_list, names)
    if isinstance(node, exp.Table) and isinstance(node.this, exp.Anonymous):
        return _function(queries, node, scope, sql_alias, names)
    lateral = isinstance(node, exp.Lateral)
    if lateral and (node.args.get("view") or node.args.get("outer") or not isinstance(node.this, exp.Subquery)):
        raise refuse(f"{node.sql('spark')[:60]!r} is not supported")
    if isinstance(node, (exp.Subquery, exp.Lateral, exp.Values)):
        if isinstance(node, exp.Subquery) and isinstance(node.this, (exp.Table, exp.Subquery)) and not alias and not (
                isinstance(node.this, exp.Subquery) and not node.this.args.get("joins")):  # fmt: skip
            raise refuse("joins in parentheses are not supported; use a subquery")
        if isinstance(node, exp.Values):
            sql, columns = values(queries, node, scope)
        elif lateral:
            sql, columns = queries.query(node.this.this, scope, ctes)
        else:
            bare = node.copy()
            for part in ("alias", "pivots", "sample"):
                bare.set(part, None)
            sql, columns = queries.query(bare, scope.parent, ctes)
        column_list = [(column_name, kind, f"{sql_alias}.c{n}") for n, (column_name, kind) in enumerate(columns)]
        return f"{'LATERAL ' if lateral else ''}({sql}) AS {sql_alias}", _source(
            alias.name if alias else "", column_list, names
        )
    raise refuse(f"{node.sql('spark')[:60]!r} is not a supported table")


def _named(
    queries: Queries, node: exp.Table, ctes: dict[str, Any], sql_alias: str
) -> tuple[str, list[tuple[str, Type, str]]]:
    """Return a table or CTE, by its name."""
    present = {key for key, value in node.args.items() if value}
    if present - {"this", "alias", "pivots", "sample", "joins"}:
        raise refuse(f"{node.sql('spark')[:60]!r} is not supported")
    name = node.name.lower()
    if name in ctes:
        inner, columns = ctes[name]
        return inner, [(column_name, kind, f"{sql_alias}.c{n}") for n, (column_name, kind) in enumerate(columns)]
    if name in queries.tables:
        column_list = [
            (column_name, kind, f"{sql_alias}.{st.quoted(column_name)}") for column_name, kind in queries.tables[name]
        ]
        return st.quoted(name), column_list
    raise refuse(f"there is no table {name}")


def _source(name: str, column_list: list[tuple[str, Type, str]], names: list[str]) -> Source:
    if names and len(names) != len(column_list):
        raise refuse(f"{name} has {len(column_list)} columns and {len(names)} names")
    column_names = names or [column[0] for column in column_list]
    return Source(
        name,
        [Column(column_name, kind, sql) for column_name, (_, kind, sql) in zip(column_names, column_list, strict=True)],
    )


def values(queries: Queries, node: exp.Values, scope: Scope) -> tuple[str, Columns]:
    """Return VALUES as a query."""
    rows = [
        [expression(value, scope) for value in (row.expressions if isinstance(row, exp.Tuple) else [row])]
        for row in node.expressions
    ]
    if not rows or len({len(row) for row in rows}) > 1:
        raise refuse("the rows of VALUES differ in size")
    kinds = [widest([row[n] for row in rows], "VALUES") for n in range(len(rows[0]))]
    if any(kind == st.INTERVAL for kind in kinds):
        raise refuse("an interval in VALUES is not supported")
    rows_sql = [[value.to(kind) for value, kind in zip(row, kinds, strict=True)] for row in rows]
    tuples = ", ".join(f"({', '.join(row)})" for row in rows_sql)
    sql_alias = queries.fresh()
    names = ", ".join(f"c{n}" for n in range(len(kinds)))
    return f"SELECT * FROM (VALUES {tuples}) AS {sql_alias}({names})", [
        (f"col{n + 1}", kind) for n, kind in enumerate(kinds)
    ]


def _function(queries: Queries, node: exp.Table, scope: Scope, sql_alias: str, names: list[str]) -> tuple[str, Source]:
    """Return a table function."""
    call, alias = node.this, node.args.get("alias")
    name, source_name = call.name.lower(), alias.name if alias else ""
    if {key for key, value in node.args.items() if value} - {"this", "alias"}:
        raise refuse(f"{node.sql('spark')[:60]!r} is not supported")
    if name == "range":
        args = [expression(arg, scope) for arg in call.expressions]
        if not 1 <= len(args) <= 3 or any(not isinstance(arg.constant, int) for arg in args):
            raise refuse("range requires constant numbers")
        start, stop = (0, args[0].constant) if len(args) == 1 else (args[0].constant, args[1].constant)
        step = args[2].constant if len(args) == 3 else 1
        if not step:
            raise refuse("the step of range is 0")
        return f"range({start}, {stop}, {step}) AS {sql_alias}(c0)", _source(
            source_name or "range", [("id", st.BIGINT, f"{sql_alias}.c0")], names
        )
    if name in GENERATORS:
        rows = generators.rows(call, Scope(query=scope.query), False, names)
        select_list = ", ".join(f"{sql} AS c{n}" for n, (_, _, sql) in enumerate(rows))
        column_list = [(column_name, kind, f"{sql_alias}.c{n}") for n, (column_name, kind, _) in enumerate(rows)]
        return f"(SELECT {select_list}) AS {sql_alias}", _source(source_name, column_list, [])
    raise refuse(f"{name[:60]}(…) is not a supported table function")


def _sampled(queries: Queries, sample: exp.TableSample, sql: str, source: Source, scope: Scope) -> tuple[str, Source]:
    present = {key: value for key, value in sample.args.items() if value}
    size, percent = present.get("size"), present.get("percent")
    amount = size or percent
    if set(present) - {"size", "percent"} or not isinstance(amount, exp.Literal):
        raise refuse(f"{sample.sql('spark')[:60]!r} is not supported")
    number = float(amount.name)
    clause = f" LIMIT {int(number)}" if size else f" WHERE random() < {number / 100!r}"
    sql_alias = queries.fresh()
    select_list = ", ".join(f"{c.sql} AS c{n}" for n, c in enumerate(source.columns))
    columns = [Column(c.name, c.type, f"{sql_alias}.c{n}") for n, c in enumerate(source.columns)]
    return f"(SELECT {select_list} FROM {sql}{clause}) AS {sql_alias}", Source(source.name, columns)


# Joins -----------------------------------------------------------------------

_KINDS = {("", ""): "JOIN", ("", "INNER"): "JOIN", ("", "CROSS"): "CROSS JOIN", ("LEFT", ""): "LEFT JOIN",
          ("LEFT", "OUTER"): "LEFT JOIN", ("RIGHT", ""): "RIGHT JOIN", ("RIGHT", "OUTER"): "RIGHT JOIN",
          ("FULL", ""): "FULL JOIN", ("FULL", "OUTER"): "FULL JOIN", ("LEFT", "SEMI"): "SEMI JOIN",
          ("LEFT", "ANTI"): "ANTI JOIN", ("", "SEMI"): "SEMI JOIN", ("", "ANTI"): "ANTI JOIN"}  # fmt: skip


def _join(queries: Queries, join: exp.Join, scope: Scope, ctes: dict[str, Any]) -> str:
    present = {key for key, value in join.args.items() if value}
    side, kind = (join.args.get("side") or "").upper(), (join.args.get("kind") or "").upper()
    natural = (join.args.get("method") or "").upper()
    if (
        present - {"this", "side", "kind", "on", "using", "method"}
        or (side, kind) not in _KINDS
        or natural not in ("", "NATURAL")
    ):
        raise refuse(f"{join.sql('spark')[:60]!r} is not supported")
    word = _KINDS[side, kind]
    sql, source = relation(queries, join.this, scope, ctes)
    if isinstance(join.this, exp.Lateral) and word not in ("JOIN", "CROSS JOIN", "LEFT JOIN"):
        raise refuse(f"{word} LATERAL is not supported")
    left = scope.sources
    shared = [part.name for part in join.args.get("using") or []]
    if natural:
        left_names = [c.name for s in left for c in s.columns if not c.hidden]
        shared = [name for name in left_names if name.lower() in {c.name.lower() for c in source.columns}]
    if shared:
        return f" {word} {sql} ON {_shared(scope, source, shared, word)}"
    scope.sources = [*left, source]
    on = join.args.get("on")
    condition = truth(on, scope) if on is not None else None
    if condition and (condition.aggregate or condition.window):
        raise refuse("an aggregate in ON is an error in Spark")
    if word in ("SEMI JOIN", "ANTI JOIN"):
        scope.sources = left
    if word == "CROSS JOIN":
        if condition:
            raise refuse("CROSS JOIN takes no ON")
        return f" CROSS JOIN {sql}"
    return f" {word} {sql} ON {condition.sql if condition else 'true'}"


def _shared(scope: Scope, source: Source, names: list[str], word: str) -> str:
    """Return the ON condition for USING; each of the named columns appears once, and first, in the result."""
    conditions, shared, left = [], [], scope.sources
    for name in names:
        left_matches = [c for s in left for c in s.columns if c.name.lower() == name.lower() and not c.hidden]
        right_matches = [c for c in source.columns if c.name.lower() == name.lower()]
        if len(left_matches) != 1 or len(right_matches) != 1:
            raise refuse(f"USING ({name}): the column must exist exactly once on each side")
        a, b = (Expr(c.sql, c.type, c.name) for c in (left_matches[0], right_matches[0]))
        conditions.append(compared("=", a, b).sql)
        if word == "FULL JOIN":
            wide = cast("Type", st.common(a.type, b.type))  # not None: the two were compared
            shared.append(Column(left_matches[0].name, wide, f"coalesce({a.to(wide)}, {b.to(wide)})"))
        else:
            kept = b if word == "RIGHT JOIN" else a
            shared.append(Column(left_matches[0].name, kept.type, kept.sql))
    if word not in ("SEMI JOIN", "ANTI JOIN"):
        lowered = {name.lower() for name in names}
        for side in (*left, source):
            side.columns = [replace(c, hidden=c.hidden or c.name.lower() in lowered) for c in side.columns]
        scope.sources = [Source("", shared), *left, source]
    return " AND ".join(conditions)


# PIVOT -----------------------------------------------------------------------


def _pivoted(queries: Queries, pivot: exp.Pivot, sql: str, source: Source, scope: Scope) -> tuple[str, Source]:
    fields = pivot.args.get("fields") or []
    if len(fields) != 1 or not isinstance(fields[0], exp.In) or not isinstance(fields[0].this, exp.Column):
        raise refuse("PIVOT is supported for one column only")
    inner = Scope([source], query=scope.query)
    by = expression(fields[0].this, inner)
    aggregates = []
    for node in pivot.expressions:
        value = expression(node.this if isinstance(node, exp.Alias) else node, inner)
        if not value.aggregate:
            raise refuse(f"PIVOT of {value.name}, which is not an aggregate")
        aggregates.append((node, node.alias if isinstance(node, exp.Alias) else value.name))
    used = {c.name.lower() for node in (*pivot.expressions, fields[0].this) for c in node.find_all(exp.Column)}
    kept = [c for c in source.columns if c.name.lower() not in used]
    parts = [f"{c.sql} AS c{n}" for n, c in enumerate(kept)]
    columns = [(c.name, c.type) for c in kept]
    for item in fields[0].expressions:
        aliased = isinstance(item, (exp.PivotAlias, exp.Alias))
        value = expression(item.this if aliased else item, inner)
        name = item.args["alias"].name if aliased else value.name
        condition = compared("=", by, value).sql
        for node, label in aggregates:
            call = (node.this if isinstance(node, exp.Alias) else node).copy()
            filter_condition = Expr(condition, st.BOOLEAN, "")
            result = _filtered_aggregate(call, filter_condition, inner)
            parts.append(f"CASE WHEN count(*) FILTER (WHERE {condition}) > 0 THEN {result.sql} END AS c{len(columns)}")
            columns.append((f"{name}_{label}" if len(aggregates) > 1 else name, result.type))
    sql_alias = queries.fresh()
    group = f" GROUP BY {', '.join(c.sql for c in kept)}" if kept else ""
    column_list = [(name, kind, f"{sql_alias}.c{n}") for n, (name, kind) in enumerate(columns)]
    alias = pivot.args.get("alias")
    return f"(SELECT {', '.join(parts)} FROM {sql}{group}) AS {sql_alias}", _source(
        alias.name if alias else "", column_list, [part.name for part in alias.columns] if alias else []
    )


def _filtered_aggregate(call: exp.Expression, condition: Expr, scope: Scope) -> Expr:
    """Return an aggregate over only the rows that meet a condition."""
    name = "\0"
    scope = scope.inner(**{name: condition})
    if not isinstance(call, exp.Anonymous):
        raise refuse("PIVOT is supported for plain aggregates only, such as sum(x)")
    return expression(
        exp.Filter(this=call, expression=exp.Where(this=exp.Column(this=exp.to_identifier(name, quoted=True)))), scope
    )


def _unpivoted(queries: Queries, pivot: exp.Pivot, sql: str, source: Source, scope: Scope) -> tuple[str, Source]:
    fields, names = pivot.args.get("fields") or [], pivot.expressions
    if len(fields) != 1 or len(names) != 1 or not isinstance(fields[0], exp.In):
        raise refuse("UNPIVOT is supported for one value column only")
    inner, items = Scope([source], query=scope.query), []
    for item in fields[0].expressions:
        aliased = isinstance(item, (exp.PivotAlias, exp.Alias))
        value = expression(item.this if aliased else item, inner)
        items.append(
            (item.args["alias"].name if aliased else value.name, value, (item.this if aliased else item).name.lower())
        )
    kind = widest([value for _, value, _ in items], "UNPIVOT")
    kept = [c for c in source.columns if c.name.lower() not in {column for *_, column in items}]
    inner_alias, outer_alias = queries.fresh(), queries.fresh()
    parts = [f"{c.sql} AS c{n}" for n, c in enumerate(kept)]
    count = len(kept)
    parts.append(f"unnest([{', '.join(st.text(name) for name, *_ in items)}]) AS c{count}")
    parts.append(f"unnest([{', '.join(value.to(kind) for _, value, _ in items)}]) AS c{count + 1}")
    where = "" if pivot.args.get("include_nulls") else f" WHERE {inner_alias}.c{count + 1} IS NOT NULL"
    columns = [*((c.name, c.type) for c in kept), (fields[0].this.name, st.STRING), (names[0].name, kind)]
    column_list = [(name, column_type, f"{outer_alias}.c{n}") for n, (name, column_type) in enumerate(columns)]
    alias = pivot.args.get("alias")
    text = f"(SELECT * FROM (SELECT {', '.join(parts)} FROM {sql}) AS {inner_alias}{where}) AS {outer_alias}"
    return text, _source(alias.name if alias else "", column_list, [])
