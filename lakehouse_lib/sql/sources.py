"""What stands in FROM: tables, queries, values, joins, LATERAL VIEW, PIVOT, functions that give rows."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from sqlglot import exp

from lakehouse_lib.sql import types as st
from lakehouse_lib.sql.calls import GENERATORS
from lakehouse_lib.sql.expressions import Column, Expr, Scope, Source, expression, refuse
from lakehouse_lib.sql.operators import compared, truth, widest
from lakehouse_lib.sql.types import Type

if TYPE_CHECKING:
    from lakehouse_lib.sql.queries import Columns, Queries


def joined(queries: Queries, node: exp.Select, scope: Scope, ctes: dict[str, Any]) -> str:
    """FROM of a query as text; its sources come into the scope."""
    from_ = node.args.get("from_")
    if from_ is None:
        if node.args.get("joins"):
            raise refuse("a join of nothing")
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
            raise refuse(f"{lateral.sql('spark')[:60]!r} is not answered here")
        alias = lateral.args.get("alias")
        names = [part.name for part in alias.columns] if alias else []
        rows = _rows(lateral.this, scope, bool(lateral.args.get("outer")), names)
        sql, made = _unnested(queries, rows, scope, f" FROM {sql}" if sql else "")
        scope.sources.append(Source(alias.name if alias else "", made))
    return f" FROM {sql}" if sql else ""


def relation(queries: Queries, node: exp.Expression, scope: Scope, ctes: dict[str, Any]) -> tuple[str, Source]:
    """One source and its columns."""
    pivots, sample = node.args.get("pivots") or [], node.args.get("sample")
    sql, source = _base(queries, node, scope, ctes)
    if sample:
        sql, source = _sampled(queries, sample, sql, source, scope)
    for pivot in pivots:
        sql, source = (_unpivoted if pivot.args.get("unpivot") else _pivoted)(queries, pivot, sql, source, scope)
    return sql, source


def _base(queries: Queries, node: exp.Expression, scope: Scope, ctes: dict[str, Any]) -> tuple[str, Source]:
    alias, own = node.args.get("alias"), queries.fresh()
    names = [part.name for part in alias.columns] if alias else []
    if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
        inner, listed = _named(queries, node, ctes, own)
        return f"{inner} AS {own}", _source(alias.name if alias and alias.name else node.name, listed, names)
    if isinstance(node, exp.Table) and isinstance(node.this, exp.Anonymous):
        return _function(queries, node, scope, own, names)
    lateral = isinstance(node, exp.Lateral)
    if lateral and (node.args.get("view") or node.args.get("outer") or not isinstance(node.this, exp.Subquery)):
        raise refuse(f"{node.sql('spark')[:60]!r} is not answered here")
    if isinstance(node, (exp.Subquery, exp.Lateral, exp.Values)):
        if isinstance(node, exp.Subquery) and isinstance(node.this, (exp.Table, exp.Subquery)) and not alias and not (
                isinstance(node.this, exp.Subquery) and not node.this.args.get("joins")):  # fmt: skip
            raise refuse("joins in parentheses are not answered here; name them in a query")
        if isinstance(node, exp.Values):
            sql, columns = values(queries, node, scope)
        elif lateral:
            sql, columns = queries.query(node.this.this, scope, ctes)
        else:
            bare = node.copy()
            for part in ("alias", "pivots", "sample"):
                bare.set(part, None)
            sql, columns = queries.query(bare, scope.parent, ctes)
        listed = [(shown, kind, f"{own}.c{n}") for n, (shown, kind) in enumerate(columns)]
        return f"{'LATERAL ' if lateral else ''}({sql}) AS {own}", _source(alias.name if alias else "", listed, names)
    raise refuse(f"{node.sql('spark')[:60]!r} is no table that is answered here")


def _named(
    queries: Queries, node: exp.Table, ctes: dict[str, Any], own: str
) -> tuple[str, list[tuple[str, Type, str]]]:
    """A table, or a query of WITH, by its name."""
    known = {key for key, value in node.args.items() if value}
    if known - {"this", "alias", "pivots", "sample", "joins"}:
        raise refuse(f"{node.sql('spark')[:60]!r} is not answered here")
    name = node.name.lower()
    if name in ctes:
        inner, columns = ctes[name]
        return inner, [(shown, kind, f"{own}.c{n}") for n, (shown, kind) in enumerate(columns)]
    if name in queries.tables:
        listed = [(shown, kind, f"{own}.{st.quoted(shown)}") for shown, kind in queries.tables[name]]
        return st.quoted(name), listed
    raise refuse(f"there is no table {name}")


def _source(name: str, listed: list[tuple[str, Type, str]], names: list[str]) -> Source:
    if names and len(names) != len(listed):
        raise refuse(f"{name} has {len(listed)} columns and {len(names)} names")
    shown = names or [one[0] for one in listed]
    return Source(name, [Column(own, kind, sql) for own, (_, kind, sql) in zip(shown, listed, strict=True)])


def values(queries: Queries, node: exp.Values, scope: Scope) -> tuple[str, Columns]:
    """VALUES as a query."""
    rows = [
        [expression(one, scope) for one in (row.expressions if isinstance(row, exp.Tuple) else [row])]
        for row in node.expressions
    ]
    if not rows or len({len(row) for row in rows}) > 1:
        raise refuse("the rows of VALUES differ in size")
    kinds = [widest([row[n] for row in rows], "VALUES") for n in range(len(rows[0]))]
    if any(kind == st.INTERVAL for kind in kinds):
        raise refuse("an interval in VALUES is not answered here")
    texts = [[one.to(kind) for one, kind in zip(row, kinds, strict=True)] for row in rows]
    listed = ", ".join(f"({', '.join(row)})" for row in texts)
    own = queries.fresh()
    names = ", ".join(f"c{n}" for n in range(len(kinds)))
    return f"SELECT * FROM (VALUES {listed}) AS {own}({names})", [(f"col{n + 1}", kind) for n, kind in enumerate(kinds)]


def _function(queries: Queries, node: exp.Table, scope: Scope, own: str, names: list[str]) -> tuple[str, Source]:
    """Functions that stand for a table."""
    call, alias = node.this, node.args.get("alias")
    name, shown = call.name.lower(), alias.name if alias else ""
    if {key for key, value in node.args.items() if value} - {"this", "alias"}:
        raise refuse(f"{node.sql('spark')[:60]!r} is not answered here")
    if name == "range":
        args = [expression(one, scope) for one in call.expressions]
        if not 1 <= len(args) <= 3 or any(not isinstance(one.constant, int) for one in args):
            raise refuse("range wants constant numbers")
        start, stop = (0, args[0].constant) if len(args) == 1 else (args[0].constant, args[1].constant)
        step = args[2].constant if len(args) == 3 else 1
        if not step:
            raise refuse("the step of range is 0")
        return f"range({start}, {stop}, {step}) AS {own}(c0)", _source(
            shown or "range", [("id", st.BIGINT, f"{own}.c0")], names
        )
    if name in GENERATORS:
        rows = _rows(call, Scope(query=scope.query), False, names)
        listed = ", ".join(f"{sql} AS c{n}" for n, (_, _, sql) in enumerate(rows))
        made = [(title, kind, f"{own}.c{n}") for n, (title, kind, _) in enumerate(rows)]
        return f"(SELECT {listed}) AS {own}", _source(shown, made, [])
    raise refuse(f"{name[:60]}(…) is no table that is answered here")


def _sampled(queries: Queries, sample: exp.TableSample, sql: str, source: Source, scope: Scope) -> tuple[str, Source]:
    known = {key: value for key, value in sample.args.items() if value}
    size, percent = known.get("size"), known.get("percent")
    amount = size or percent
    if set(known) - {"size", "percent"} or not isinstance(amount, exp.Literal):
        raise refuse(f"{sample.sql('spark')[:60]!r} is not answered here")
    number = float(amount.name)
    end = f" LIMIT {int(number)}" if size else f" WHERE random() < {number / 100!r}"
    own = queries.fresh()
    listed = ", ".join(f"{c.sql} AS c{n}" for n, c in enumerate(source.columns))
    made = [Column(c.name, c.type, f"{own}.c{n}") for n, c in enumerate(source.columns)]
    return f"(SELECT {listed} FROM {sql}{end}) AS {own}", Source(source.name, made)


# Joins -----------------------------------------------------------------------

_KINDS = {("", ""): "JOIN", ("", "INNER"): "JOIN", ("", "CROSS"): "CROSS JOIN", ("LEFT", ""): "LEFT JOIN",
          ("LEFT", "OUTER"): "LEFT JOIN", ("RIGHT", ""): "RIGHT JOIN", ("RIGHT", "OUTER"): "RIGHT JOIN",
          ("FULL", ""): "FULL JOIN", ("FULL", "OUTER"): "FULL JOIN", ("LEFT", "SEMI"): "SEMI JOIN",
          ("LEFT", "ANTI"): "ANTI JOIN", ("", "SEMI"): "SEMI JOIN", ("", "ANTI"): "ANTI JOIN"}  # fmt: skip


def _join(queries: Queries, join: exp.Join, scope: Scope, ctes: dict[str, Any]) -> str:
    known = {key for key, value in join.args.items() if value}
    side, kind = (join.args.get("side") or "").upper(), (join.args.get("kind") or "").upper()
    natural = (join.args.get("method") or "").upper()
    if (
        known - {"this", "side", "kind", "on", "using", "method"}
        or (side, kind) not in _KINDS
        or natural not in ("", "NATURAL")
    ):
        raise refuse(f"{join.sql('spark')[:60]!r} is not answered here")
    word = _KINDS[side, kind]
    sql, source = relation(queries, join.this, scope, ctes)
    if isinstance(join.this, exp.Lateral) and word not in ("JOIN", "CROSS JOIN", "LEFT JOIN"):
        raise refuse(f"{word} LATERAL is not answered here")
    left = scope.sources
    shared = [part.name for part in join.args.get("using") or []]
    if natural:
        here = [c.name for s in left for c in s.columns if not c.hidden]
        shared = [name for name in here if name.lower() in {c.name.lower() for c in source.columns}]
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
    """ON for USING; the columns named stand once, and first, in what comes out."""
    conditions, made, left = [], [], scope.sources
    for name in names:
        mine = [c for s in left for c in s.columns if c.name.lower() == name.lower() and not c.hidden]
        other = [c for c in source.columns if c.name.lower() == name.lower()]
        if len(mine) != 1 or len(other) != 1:
            raise refuse(f"USING ({name}): it is not there once on both sides")
        a, b = (Expr(c.sql, c.type, c.name) for c in (mine[0], other[0]))
        conditions.append(compared("=", a, b).sql)
        if word == "FULL JOIN":
            wide = cast("Type", st.common(a.type, b.type))  # they have been compared
            made.append(Column(mine[0].name, wide, f"coalesce({a.to(wide)}, {b.to(wide)})"))
        else:
            one = b if word == "RIGHT JOIN" else a
            made.append(Column(mine[0].name, one.type, one.sql))
    if word not in ("SEMI JOIN", "ANTI JOIN"):
        words = {name.lower() for name in names}
        for side in (*left, source):
            side.columns = [replace(c, hidden=c.hidden or c.name.lower() in words) for c in side.columns]
        scope.sources = [Source("", made), *left, source]
    return " AND ".join(conditions)


# Functions that give rows ----------------------------------------------------


def generator(node: exp.Expression) -> exp.Expression | None:
    """The function that gives rows in an item of a SELECT list, if it is one."""
    inner = node.this if isinstance(node, (exp.Alias, exp.Aliases)) else node
    return inner if isinstance(inner, exp.Anonymous) and inner.name.lower() in GENERATORS else None


def generated(
    queries: Queries, nodes: list[exp.Expression], scope: Scope, source: str
) -> tuple[str, list[exp.Expression]]:
    """A SELECT list with such a function, over a source in which it has given its rows."""
    (at, node), *more = [(n, one) for n, one in enumerate(nodes) if generator(one) is not None]
    if more:
        raise refuse("two functions that give rows in one SELECT list are an error in Spark")
    names = [node.alias] if isinstance(node, exp.Alias) else [one.name for one in node.expressions] if isinstance(
        node, exp.Aliases) else []  # fmt: skip
    rows = _rows(cast("exp.Expression", generator(node)), scope, False, names)
    sql, made = _unnested(queries, rows, scope, source)
    own = queries.fresh("g")
    scope.sources.append(Source(own, [replace(one, hidden=True) for one in made]))
    columns = [exp.Alias(this=exp.column(exp.to_identifier(c.name, quoted=True), exp.to_identifier(own)),
                         alias=exp.to_identifier(c.name, quoted=True)) for c in made]  # fmt: skip
    if len({c.name.lower() for c in made}) < len(made):
        raise refuse("columns of one name")
    return f" FROM {sql}", [*nodes[:at], *columns, *nodes[at + 1 :]]


def _unnested(
    queries: Queries, rows: list[tuple[str, Type, str]], scope: Scope, source: str
) -> tuple[str, list[Column]]:
    """A source with the rows that a function gives for each of its own; the scope follows."""
    own, count = queries.fresh(), 0
    parts, sources = [], []
    for one in scope.sources:
        columns = []
        for column in one.columns:
            parts.append(f"{column.sql} AS x{count}")
            columns.append(replace(column, sql=f"{own}.x{count}"))
            count += 1
        sources.append(Source(one.name, columns))
    made = []
    for name, kind, sql in rows:
        parts.append(f"{sql} AS x{count}")
        made.append(Column(name, kind, f"{own}.x{count}"))
        count += 1
    scope.sources = sources
    return f"(SELECT {', '.join(parts)}{source}) AS {own}", made


def _rows(call: exp.Expression, scope: Scope, outer: bool, names: list[str]) -> list[tuple[str, Type, str]]:
    """Columns that a function gives in rows: name, type and SQL."""
    name = call.name.lower() if isinstance(call, exp.Anonymous) else ""
    if name not in GENERATORS:
        raise refuse(f"{call.sql('spark')[:60]!r} gives no rows that are answered here")
    args = [expression(one, scope) for one in call.expressions]
    if any(one.aggregate or one.window for one in args):
        raise refuse(f"{name} of an aggregate; aggregate in a query of its own")
    outer = outer or name.endswith("_outer")
    made = _RULES[name.removesuffix("_outer")](args, outer)
    if names and len(names) != len(made):
        raise refuse(f"{name} gives {len(made)} columns, not {len(names)}")
    return [(own, kind, sql) for own, (_, kind, sql) in zip(names, made, strict=True)] if names else made


def _filled(sql: str, outer: bool) -> str:
    return f"CASE WHEN coalesce(len({sql}), 0) = 0 THEN [NULL] ELSE {sql} END" if outer else sql


def _exploded(args: list[Expr], outer: bool) -> list[tuple[str, Type, str]]:
    if len(args) != 1 or args[0].type.kind not in ("array", "map"):
        raise refuse("explode wants an array or a map")
    (one,) = args
    if one.type.kind == "array":
        return [("col", one.type.inner[0], f"unnest({_filled(one.sql, outer)})")]
    return [
        (part, kind, f"unnest({_filled(f'map_{part}s({one.sql})', outer)})")
        for part, kind in zip(("key", "value"), one.type.inner, strict=True)
    ]


def _placed(args: list[Expr], outer: bool) -> list[tuple[str, Type, str]]:
    made = _exploded(args, outer)
    of = f"map_keys({args[0].sql})" if args[0].type.kind == "map" else args[0].sql
    places = f"CAST(range(len({of})) AS INTEGER[])"
    return [("pos", st.INT, f"unnest({_filled(places, outer)})"), *made]


def _inlined(args: list[Expr], outer: bool) -> list[tuple[str, Type, str]]:
    if len(args) != 1 or args[0].type.kind != "array" or args[0].type.inner[0].kind != "struct":
        raise refuse("inline wants an array of structs")
    filled = _filled(args[0].sql, outer)
    return [
        (name, kind, f"unnest(list_transform({filled}, lambda e: struct_extract(e, {st.text(name)})))")
        for name, kind in args[0].type.inner[0].inner
    ]


def _stacked(args: list[Expr], outer: bool) -> list[tuple[str, Type, str]]:
    rows = args[0].constant if args else None
    if not isinstance(rows, int) or rows < 1 or len(args) < 2:
        raise refuse("stack wants a constant number of rows, and values")
    width = -(-(len(args) - 1) // rows)
    made = []
    for n in range(width):
        column = args[1:][n::width]
        kind = widest(column, "stack")
        parts = [one.to(kind) for one in column] + ["NULL"] * (rows - len(column))
        made.append((f"col{n}", kind, f"unnest([{', '.join(parts)}])"))
    return made


def _tupled(args: list[Expr], outer: bool) -> list[tuple[str, Type, str]]:
    if (
        len(args) < 2
        or not all(isinstance(one.constant, str) for one in args[1:])
        or any(re.search(r"[.\[\]'*]", one.constant) for one in args[1:])
    ):
        raise refuse("json_tuple wants a text and constant names")
    return [
        (f"c{n}", st.STRING, f"spark_json({args[0].to(st.STRING)}, {st.text('$.' + one.constant)})")
        for n, one in enumerate(args[1:])
    ]


_RULES = {"explode": _exploded, "posexplode": _placed, "inline": _inlined, "stack": _stacked, "json_tuple": _tupled}


# PIVOT -----------------------------------------------------------------------


def _pivoted(queries: Queries, pivot: exp.Pivot, sql: str, source: Source, scope: Scope) -> tuple[str, Source]:
    fields = pivot.args.get("fields") or []
    if len(fields) != 1 or not isinstance(fields[0], exp.In) or not isinstance(fields[0].this, exp.Column):
        raise refuse("PIVOT is for one column here")
    inner = Scope([source], query=scope.query)
    by = expression(fields[0].this, inner)
    aggregates = []
    for node in pivot.expressions:
        value = expression(node.this if isinstance(node, exp.Alias) else node, inner)
        if not value.aggregate:
            raise refuse(f"PIVOT of {value.name}, which is no aggregate")
        aggregates.append((node, node.alias if isinstance(node, exp.Alias) else value.name))
    used = {c.name.lower() for node in (*pivot.expressions, fields[0].this) for c in node.find_all(exp.Column)}
    kept = [c for c in source.columns if c.name.lower() not in used]
    parts = [f"{c.sql} AS c{n}" for n, c in enumerate(kept)]
    listed = [(c.name, c.type) for c in kept]
    for item in fields[0].expressions:
        aliased = isinstance(item, (exp.PivotAlias, exp.Alias))
        value = expression(item.this if aliased else item, inner)
        name = item.args["alias"].name if aliased else value.name
        held = compared("=", by, value).sql
        for node, shown in aggregates:
            call = (node.this if isinstance(node, exp.Alias) else node).copy()
            marked = Expr(held, st.BOOLEAN, "")
            found = _under(call, marked, inner)
            parts.append(f"CASE WHEN count(*) FILTER (WHERE {held}) > 0 THEN {found.sql} END AS c{len(listed)}")
            listed.append((f"{name}_{shown}" if len(aggregates) > 1 else name, found.type))
    own = queries.fresh()
    group = f" GROUP BY {', '.join(c.sql for c in kept)}" if kept else ""
    made = [(name, kind, f"{own}.c{n}") for n, (name, kind) in enumerate(listed)]
    alias = pivot.args.get("alias")
    return f"(SELECT {', '.join(parts)} FROM {sql}{group}) AS {own}", _source(
        alias.name if alias else "", made, [part.name for part in alias.columns] if alias else []
    )


def _under(call: exp.Expression, condition: Expr, scope: Scope) -> Expr:
    """An aggregate of the rows of one value only."""
    name = "\0"
    scope = scope.inner(**{name: condition})
    if not isinstance(call, exp.Anonymous):
        raise refuse("PIVOT is for plain aggregates here, as sum(x)")
    return expression(
        exp.Filter(this=call, expression=exp.Where(this=exp.Column(this=exp.to_identifier(name, quoted=True)))), scope
    )


def _unpivoted(queries: Queries, pivot: exp.Pivot, sql: str, source: Source, scope: Scope) -> tuple[str, Source]:
    fields, names = pivot.args.get("fields") or [], pivot.expressions
    if len(fields) != 1 or len(names) != 1 or not isinstance(fields[0], exp.In):
        raise refuse("UNPIVOT is for one column of values here")
    inner, items = Scope([source], query=scope.query), []
    for item in fields[0].expressions:
        aliased = isinstance(item, (exp.PivotAlias, exp.Alias))
        value = expression(item.this if aliased else item, inner)
        items.append(
            (item.args["alias"].name if aliased else value.name, value, (item.this if aliased else item).name.lower())
        )
    kind = widest([value for _, value, _ in items], "UNPIVOT")
    kept = [c for c in source.columns if c.name.lower() not in {column for *_, column in items}]
    own, outer = queries.fresh(), queries.fresh()
    parts = [f"{c.sql} AS c{n}" for n, c in enumerate(kept)]
    count = len(kept)
    parts.append(f"unnest([{', '.join(st.text(name) for name, *_ in items)}]) AS c{count}")
    parts.append(f"unnest([{', '.join(value.to(kind) for _, value, _ in items)}]) AS c{count + 1}")
    where = "" if pivot.args.get("include_nulls") else f" WHERE {own}.c{count + 1} IS NOT NULL"
    listed = [*((c.name, c.type) for c in kept), (fields[0].this.name, st.STRING), (names[0].name, kind)]
    made = [(name, one, f"{outer}.c{n}") for n, (name, one) in enumerate(listed)]
    alias = pivot.args.get("alias")
    text = f"(SELECT * FROM (SELECT {', '.join(parts)} FROM {sql}) AS {own}{where}) AS {outer}"
    return text, _source(alias.name if alias else "", made, [])
