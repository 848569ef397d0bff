"""Spark SQL queries as DuckDB SQL.

Every source gets a unique name and the columns of every query are called c0, c1, …, so that DuckDB never looks
up a name from untrusted input; the names that Spark gives the columns are returned along with the SQL.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from sqlglot import exp

from lakehouse_lib.sql import generators, sources
from lakehouse_lib.sql import types as st
from lakehouse_lib.sql.aggregates import ordering
from lakehouse_lib.sql.expressions import Column, Expr, Scope, Source, expression, merged, refuse
from lakehouse_lib.sql.operators import truth
from lakehouse_lib.sql.types import Type

Columns = list[tuple[str, Type]]

_SELECT = {"expressions", "from_", "joins", "laterals", "where", "group", "having", "qualify", "windows", "distinct",
           "order", "limit", "offset", "with_", "hint", "sort"}  # fmt: skip
_SETS = {"this", "expression", "distinct", "by_name", "order", "limit", "offset", "with_"}


@dataclass
class Item:
    """An item of a SELECT list."""

    name: str
    value: Expr
    alias: bool = False


class Queries:
    """Generates the queries of one request; ``tables`` maps the name of each table to its columns."""

    def __init__(self, tables: dict[str, Columns]):
        self.tables = tables
        self._numbers = itertools.count()

    def fresh(self, letter: str = "t") -> str:
        """Return a unique name."""
        return f"{letter}{next(self._numbers)}"

    def query(self, node: exp.Expr, parent: Scope | None, ctes: dict[str, Any]) -> tuple[str, Columns]:
        """Return the SQL of a query, and its columns.

        Raises
        ------
        ConfigError
            The query cannot be translated.
        """
        if isinstance(node, exp.Subquery):
            return self._parenthesized(node, parent, ctes)
        if isinstance(node, exp.Select):
            return self._select(node, parent, ctes)
        if isinstance(node, exp.SetOperation):
            return self._set(node, parent, ctes)
        if isinstance(node, exp.Values):
            return sources.values(self, node, Scope(parent=parent, query=partial(self._inner, ctes=ctes)))
        raise refuse(f"{node.sql('spark')[:60]!r} is not a supported query")

    def _inner(self, node: exp.Expr, scope: Scope, ctes: dict[str, Any]) -> tuple[str, Columns]:
        return self.query(node, scope, ctes)

    def _parenthesized(self, node: exp.Subquery, parent: Scope | None, ctes: dict[str, Any]) -> tuple[str, Columns]:
        """Return a query in parentheses, with its own order or limit."""
        present = {key for key, value in node.args.items() if value}
        if present - {"this", "order", "limit", "offset", "with_"}:
            raise refuse(f"{node.sql('spark')[:60]!r} is not supported")
        ctes, start = self._with(node, parent, ctes)
        sql, columns = self.query(node.this, parent, ctes)
        return start + self._with_order(node, sql, columns, parent), columns

    def _with(self, node: exp.Expression, parent: Scope | None, ctes: dict[str, Any]) -> tuple[dict[str, Any], str]:
        with_clause = node.args.get("with_")
        if not with_clause:
            return ctes, ""
        if with_clause.args.get("recursive"):
            raise refuse("WITH RECURSIVE is not supported")
        ctes, parts = dict(ctes), []
        for cte in with_clause.expressions:
            sql, columns = self.query(cte.this, parent, ctes)
            names = [part.name for part in cte.args["alias"].columns]
            if names and len(names) != len(columns):
                raise refuse(f"{cte.alias} has {len(columns)} columns and {len(names)} names")
            alias = self.fresh("w")
            columns = [(name, kind) for name, (_, kind) in zip(names, columns, strict=True)] if names else columns
            ctes[cte.alias.lower()] = alias, columns
            parts.append(f"{alias} AS ({sql})")
        return ctes, f"WITH {', '.join(parts)} "

    # SELECT ------------------------------------------------------------------

    def _select(self, node: exp.Select, parent: Scope | None, ctes: dict[str, Any]) -> tuple[str, Columns]:
        present = {key for key, value in node.args.items() if value}
        if present - _SELECT or (node.args.get("sort") and node.args.get("order")):
            raise refuse(f"{', '.join(sorted(present - _SELECT)) or 'SORT BY'} of a query is not supported")
        ctes, start = self._with(node, parent, ctes)
        scope = Scope(parent=parent, query=partial(self._inner, ctes=ctes))
        scope.windows = {window.this.name.lower(): window for window in node.args.get("windows") or []}
        source = sources.joined(self, node, scope, ctes)
        where = ""
        if node.args.get("where"):
            condition = truth(node.args["where"].this, scope)
            if condition.aggregate or condition.window:
                raise refuse("an aggregate in WHERE is an error in Spark")
            where = f" WHERE {condition.sql}"
        nodes = node.expressions
        if any(isinstance(generators.generator(item), exp.Anonymous) for item in nodes):
            if node.args.get("group"):
                raise refuse("explode with GROUP BY; explode in a subquery and group its rows")
            source, nodes = generators.generated(self, nodes, scope, source + where)
            where = ""
        items = self._items(nodes, scope)
        scope.aliases = {item.name.lower(): item.value for item in items if item.alias}
        scope.groups = []
        group = self._group(node.args.get("group"), items, scope)
        items = self._items(nodes, scope) if group else items
        having, qualify = node.args.get("having"), node.args.get("qualify")
        alias_scope = replace(scope, aliases_first=True)
        end = where + group
        if having:
            end += f" HAVING {truth(having.this, alias_scope).sql}"
        if qualify:
            end += f" QUALIFY {truth(qualify.this, replace(scope, aliases_first=False)).sql}"
        for item in items:
            if item.value.type == st.INTERVAL:
                raise refuse(f"{item.name} is an interval; select a number instead, such as datediff or timestampdiff")
        select_list = ", ".join(f"{item.value.sql} AS c{n}" for n, item in enumerate(items))
        distinct = node.args.get("distinct")
        if distinct and distinct.args.get("on"):
            raise refuse("DISTINCT ON is not supported")
        if distinct and any(item.value.type.holds("map") for item in items):
            raise refuse("DISTINCT of maps is an error in Spark")
        sql = f"{start}SELECT {'DISTINCT ' if distinct else ''}{select_list}{source}{end}"
        sql += self._order(node, items, alias_scope, bool(distinct)) + _limit(node, scope)
        return sql, [(item.name, item.value.type) for item in items]

    def _items(self, nodes: list[exp.Expression], scope: Scope) -> list[Item]:
        items: list[Item] = []
        scope = replace(scope, aliases={})
        for node in nodes:
            if isinstance(node, exp.Star) or (isinstance(node, exp.Column) and isinstance(node.this, exp.Star)):
                items += self._star(node, scope)
                continue
            alias = isinstance(node, exp.Alias)
            value = expression(node.this if alias else node, scope)
            uncast = node
            while isinstance(uncast, exp.Cast):  # a cast of a column keeps the name of the column
                uncast = uncast.this
            name = node.alias if alias else uncast.name if isinstance(uncast, exp.Column) else value.name
            items.append(Item(name, value, alias))
            if alias:
                scope.aliases.setdefault(name.lower(), value)
        return items

    def _star(self, node: exp.Expression, scope: Scope) -> list[Item]:
        star = node if isinstance(node, exp.Star) else node.this
        present = {key for key, value in star.args.items() if value}
        if present - {"except_"}:
            raise refuse(f"{node.sql('spark')[:60]!r} is not supported")
        if isinstance(node, exp.Column):
            words = [part.name for part in node.parts[:-1]]
            owners = [source for source in scope.sources if len(words) == 1 and source.name.lower() == words[0].lower()]
            if owners:
                columns = [(c.name, Expr(c.sql, c.type, c.name)) for source in owners for c in source.columns]
            else:
                columns = self._fields_of(words, scope)
        else:
            columns = [(c.name, Expr(c.sql, c.type, c.name)) for s in scope.sources for c in s.columns if not c.hidden]
        excluded = [part.name.lower() for part in star.args.get("except_") or []]
        if set(excluded) - {name.lower() for name, _ in columns}:
            raise refuse(f"{node.sql('spark')[:60]!r} excludes a column that does not exist")
        if not columns:
            raise refuse("* without columns")
        return [Item(name, value) for name, value in columns if name.lower() not in excluded]

    def _fields_of(self, words: list[str], scope: Scope) -> list[tuple[str, Expr]]:
        from lakehouse_lib.sql.expressions import named

        value = named(words, scope)
        if value.type.kind != "struct":
            raise refuse(f"{'.'.join(words)}.* is neither a table nor a struct")
        return [
            (name, merged(f"struct_extract({value.sql}, {st.text(name)})", kind, name, [value]))
            for name, kind in value.type.inner
        ]

    def _group(self, node: exp.Group | None, items: list[Item], scope: Scope) -> str:
        if node is None:
            return ""
        present = {key for key, value in node.args.items() if value}
        if present - {"expressions", "rollup", "cube", "all", "grouping_sets"}:
            raise refuse(f"{node.sql('spark')[:60]!r} is not supported")
        if node.args.get("all"):
            scope.groups = [item.value.sql for item in items if not item.value.aggregate]
            return f" GROUP BY {', '.join(scope.groups)}" if scope.groups else ""
        terms = [self._grouped(term, items, scope) for term in node.expressions]
        for kind in ("rollup", "cube", "grouping_sets"):
            for term in node.args.get(kind) or []:
                if term.expressions:
                    terms.append(self._grouped(term, items, scope))
                elif kind == "grouping_sets":
                    raise refuse("GROUPING SETS without columns")
                else:  # GROUP BY a, b WITH ROLLUP
                    terms = [f"{kind.upper()} ({', '.join(terms)})"]
        return f" GROUP BY {', '.join(terms)}"

    def _grouped(self, node: exp.Expression, items: list[Item], scope: Scope) -> str:
        if isinstance(node, (exp.Rollup, exp.Cube, exp.GroupingSets)):
            word = {exp.Rollup: "ROLLUP", exp.Cube: "CUBE", exp.GroupingSets: "GROUPING SETS"}[type(node)]
            return f"{word} ({', '.join(self._grouped(part, items, scope) for part in node.expressions)})"
        if isinstance(node, exp.Tuple):
            return f"({', '.join(self._grouped(part, items, scope) for part in node.expressions)})"
        if isinstance(node, exp.Paren):
            return self._grouped(node.this, items, scope)
        if isinstance(node, exp.Literal) and node.is_int:
            if not 1 <= int(node.name) <= len(items):
                raise refuse(f"GROUP BY {node.name}: there is no such column")
            value = items[int(node.name) - 1].value
        else:
            value = expression(node, scope)
        if value.aggregate or value.window or value.type.holds("map", "interval"):
            raise refuse(f"GROUP BY {value.name} is an error in Spark")
        groups = cast("list[str]", scope.groups)
        if value.sql not in groups:
            groups.append(value.sql)
        return value.sql

    def _order(self, node: exp.Expression, items: list[Item], scope: Scope, strict: bool) -> str:
        order = node.args.get("order") or node.args.get("sort")
        if not order:
            return ""
        scope = replace(scope, aliases={item.name.lower(): item.value for item in reversed(items)}, ordering=True)
        terms = []
        for term in order.expressions:
            place = self._place(term.this, items)
            if place is None:
                value = expression(term.this, scope)
                places = [n for n, item in enumerate(items) if item.value.sql == value.sql]
                place = places[0] if places else None
                if place is None and strict:
                    raise refuse("ORDER BY with DISTINCT must use columns of the SELECT list")
            kind = items[place].value.type if place is not None else value.type
            if kind.holds("map", "interval"):
                raise refuse(f"ORDER BY {kind} is an error in Spark")
            terms.append(ordering(term, str(place + 1) if place is not None else value.sql))
        return f" ORDER BY {', '.join(terms)}"

    def _place(self, node: exp.Expression, items: list[Item]) -> int | None:
        """Return the index of the SELECT item that a number or an alias refers to, if any."""
        if isinstance(node, exp.Literal) and node.is_int:
            if not 1 <= int(node.name) <= len(items):
                raise refuse(f"ORDER BY {node.name}: there is no such column")
            return int(node.name) - 1
        if isinstance(node, exp.Column) and len(node.parts) == 1:
            places = [n for n, item in enumerate(items) if item.alias and item.name.lower() == node.name.lower()]
            if len({items[n].value.sql for n in places}) > 1:
                raise refuse(f"{node.name} is ambiguous")
            return places[0] if places else None
        return None

    # Sets --------------------------------------------------------------------

    def _set(self, node: exp.SetOperation, parent: Scope | None, ctes: dict[str, Any]) -> tuple[str, Columns]:
        present = {key for key, value in node.args.items() if value}
        if present - _SETS:
            raise refuse(f"{', '.join(sorted(present - _SETS))} of a query is not supported")
        ctes, start = self._with(node, parent, ctes)
        (a, left), (b, right) = self.query(node.this, parent, ctes), self.query(node.expression, parent, ctes)
        places = list(range(len(right)))
        if node.args.get("by_name"):
            names = [name.lower() for name, _ in right]
            if sorted(names) != sorted(name.lower() for name, _ in left) or len(set(names)) < len(names):
                raise refuse("BY NAME requires the same names on both sides")
            places = [names.index(name.lower()) for name, _ in left]
        if len(left) != len(right):
            raise refuse(f"one side has {len(left)} columns, and the other {len(right)}")
        common_types = [st.common(kind, right[place][1]) for (_, kind), place in zip(left, places, strict=True)]
        kinds = [kind for kind in common_types if kind is not None]
        if len(kinds) < len(common_types) or any(kind.holds("map") for kind in kinds):
            raise refuse("the columns of both sides have no type in common")
        left_list = ", ".join(
            f"{st.cast(f'a.c{n}', k, kind)} AS c{n}" for n, ((_, k), kind) in enumerate(zip(left, kinds, strict=True))
        )
        right_list = ", ".join(
            f"{st.cast(f'b.c{place}', right[place][1], kind)} AS c{n}"
            for n, (place, kind) in enumerate(zip(places, kinds, strict=True))
        )
        word = {exp.Union: "UNION", exp.Intersect: "INTERSECT", exp.Except: "EXCEPT"}[type(node)]
        word += "" if node.args.get("distinct") else " ALL"
        sql = f"SELECT {left_list} FROM ({a}) AS a {word} SELECT {right_list} FROM ({b}) AS b"
        columns = [(name, kind) for (name, _), kind in zip(left, kinds, strict=True)]
        return start + self._with_order(node, sql, columns, parent), columns

    def _with_order(self, node: exp.Expression, sql: str, columns: Columns, parent: Scope | None) -> str:
        """Return a query with the ORDER BY, LIMIT and OFFSET that follow it."""
        if not any(node.args.get(part) for part in ("order", "limit", "offset")):
            return sql
        alias = self.fresh()
        items = [Item(name, Expr(f"{alias}.c{n}", kind, name), True) for n, (name, kind) in enumerate(columns)]
        scope = Scope([Source("", [Column(i.name, i.value.type, i.value.sql) for i in items])], parent)
        select_list = ", ".join(f"{item.value.sql} AS c{n}" for n, item in enumerate(items))
        return (
            f"SELECT {select_list} FROM ({sql}) AS {alias}{self._order(node, items, scope, False)}{_limit(node, scope)}"
        )


def _limit(node: exp.Expression, scope: Scope) -> str:
    clauses = ""
    for word, key in (("LIMIT", "limit"), ("OFFSET", "offset")):
        clause = node.args.get(key)
        if clause is None:
            continue
        if not isinstance(clause, (exp.Limit, exp.Offset)):
            raise refuse(f"{clause.sql('spark')[:60]!r} is not supported")
        if word == "LIMIT" and isinstance(clause.expression, exp.Column) and clause.expression.name.upper() == "ALL":
            continue
        value = expression(clause.expression, scope)
        if not isinstance(value.constant, int) or isinstance(value.constant, bool) or value.constant < 0:
            raise refuse(f"{word} requires a number")
        clauses += f" {word} {value.constant}"
    return clauses
