"""Aggregates and window functions of Spark SQL."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from sqlglot import exp

from lakehouse_lib.sql import functions, labels, signatures
from lakehouse_lib.sql import types as st
from lakehouse_lib.sql.expressions import NODES, Expr, Scope, by_signature, expression, merged, refuse
from lakehouse_lib.sql.operators import truth
from lakehouse_lib.sql.types import Type

OTHERS = ("listagg", "string_agg", "percentile_cont", "percentile_disc", "try_sum", "try_avg", "count_distinct")
_TEXTS = ("listagg", "string_agg")
_ENDS = ("first", "first_value", "last", "last_value", "any_value")
_DISTINCT = ("count", "sum", "avg", "mean", "min", "max", "collect_list", "array_agg", "count_if", "stddev",
             "stddev_samp", "stddev_pop", "variance", "var_samp", "var_pop", "collect_set", *_TEXTS)  # fmt: skip


def node(wrapped: exp.Expression, scope: Scope) -> Expr:
    """Return an aggregate or window call with its clauses: FILTER, WITHIN GROUP, IGNORE NULLS, OVER."""
    call, over, condition, within, nulls = _unwrap(wrapped, scope)
    name, nodes = call.name.lower(), call.expressions
    if scope.ordering and any(len(column.parts) == 1 and column.name.lower() in scope.aliases and not _plain_column(
            scope.aliases[column.name.lower()], column) for column in call.find_all(exp.Column)):  # fmt: skip
        raise refuse(f"ORDER BY {name}: the SELECT list gives this name to another value, which is an error in Spark")
    scope = replace(scope, aliases_first=False)  # arguments mean source columns, also in HAVING and ORDER BY
    distinct = len(nodes) == 1 and isinstance(nodes[0], exp.Distinct)
    if distinct:
        if nodes[0].args.get("on"):
            raise refuse("DISTINCT ON is not supported")
        nodes = nodes[0].expressions
    if name == "count" and len(nodes) == 1 and isinstance(nodes[0], exp.Star) and not distinct:
        args = [Expr("1", st.INT, "1", 1)]
    else:
        args = [expression(argument, scope) for argument in nodes]
    if over is None and any(arg.aggregate or arg.window for arg in args):
        raise refuse(f"{name}: an aggregate of an aggregate is an error in Spark")
    if any(arg.window for arg in args):
        raise refuse(f"{name}: a window in a window is an error in Spark")
    if over is not None and distinct:
        raise refuse("DISTINCT with OVER is an error in Spark")
    if distinct and name not in _DISTINCT:
        raise refuse(f"{name}(DISTINCT …) is not supported")
    return _build(name, args, distinct, condition, within, nulls, over, scope)


def _unwrap(
    node: exp.Expression, scope: Scope
) -> tuple[exp.Anonymous, exp.Window | None, Expr | None, exp.Expression | None, str]:
    """Return the call inside its clauses, and the clauses: OVER, FILTER, WITHIN GROUP, and IGNORE or RESPECT NULLS."""
    over = condition = within = None
    nulls = ""
    while not isinstance(node, exp.Anonymous):
        if isinstance(node, exp.Window) and over is None:
            over = node
        elif isinstance(node, exp.Filter) and condition is None and isinstance(node.expression, exp.Where):
            condition = truth(node.expression.this, scope)
        elif isinstance(node, exp.WithinGroup) and within is None:
            within = node.expression
        elif isinstance(node, (exp.IgnoreNulls, exp.RespectNulls)) and not nulls:
            nulls = "IGNORE" if isinstance(node, exp.IgnoreNulls) else "RESPECT"
        else:
            raise refuse(f"{node.sql('spark')[:60]!r} is not supported")
        node = node.this
    return node, over, condition, within, nulls


def _plain_column(value: Expr, column: exp.Column) -> bool:
    return not value.aggregate and value.name.lower() == column.name.lower()


def _build(name: str, args: list[Expr], distinct: bool, condition: Expr | None, within: exp.Expression | None,
           nulls: str, over: exp.Window | None, scope: Scope) -> Expr:  # fmt: skip
    ranking = over is not None and name in functions.WINDOWS and name not in functions.AGGREGATES
    of_frame = (
        over is not None and name in ("first", "first_value", "last", "last_value", "any_value")
    ) or name == "nth_value"
    window, window_label = _over(over, scope, ranking, name) if over is not None else ("", "")
    conditions = [condition.sql] if condition else []
    has_flag = len(args) == 2
    if ranking or of_frame:
        if condition or within or over is None:
            raise refuse(f"{name} with FILTER is not supported")
        if len(args) == 2 and isinstance(args[1].constant, bool) and of_frame and name != "nth_value":
            nulls, args = ("IGNORE" if args[1].constant else ""), args[:1]
        sql, kind = _from_signature(functions.WINDOWS[name], name, args, [], window, distinct)
        if nulls == "IGNORE":
            if "(" in sql[sql.index("(") + 1 : sql.index(" OVER")]:
                raise refuse(f"{name} IGNORE NULLS of an expression; compute it as a column in a subquery first")
            sql = re.sub(r"(\w+\(.*?\)) OVER", lambda match: match[1][:-1] + " IGNORE NULLS) OVER", sql, count=1)
    elif within is not None or name in OTHERS:
        sql, kind = _ordered_aggregate(name, args, distinct, conditions, within, window, scope)
    elif name in functions.AGGREGATES:
        sql, kind = _plain_aggregate(name, args, distinct, conditions, nulls, window)
    else:
        raise refuse(f"the function {name[:60]} is not supported")
    names = [arg.name for arg in args]
    if name in _ENDS and len(args) == 2:
        names = names[:1]
    word = (
        {"last_value": "last", "first_value": "first"}.get(name, name)
        if nulls == "IGNORE" and len(args) == 1 and not has_flag
        else name
    )
    label = labels.of(word, [("DISTINCT " if distinct and not n else "") + arg for n, arg in enumerate(names)])
    if within is not None:
        orders = ", ".join(
            expression(item.this, scope).name + (_order_suffix(item) if name in _TEXTS else "")
            for item in within.expressions
        )
        label += f" WITHIN GROUP (ORDER BY {orders})"
    if condition:
        label += f" FILTER (WHERE {condition.name})"
    if over is not None:
        label += f" OVER ({window_label})"
    parts = [*args, *([condition] if condition else [])]
    return replace(
        merged(sql, kind, label, parts),
        aggregate=over is None or any(p.aggregate for p in parts),
        window=over is not None,
    )


def _suffix(conditions: list[str], window: str) -> str:
    clauses = f" FILTER (WHERE {' AND '.join(conditions)})" if conditions else ""
    return clauses + (f" OVER ({window})" if window is not None and window != "" else "")


def _from_signature(
    candidates: list[signatures.Signature],
    name: str,
    args: list[Expr],
    conditions: list[str],
    window: str,
    distinct: bool,
) -> tuple[str, Type]:
    match = by_signature(candidates, name, args)
    if match is None:
        raise refuse(f"{name}({', '.join(str(arg.type) for arg in args)}) is not supported")
    signature, casts, letters = match
    kind = st.VOID if signature.result == "special" else signatures.result(signature, letters)
    if kind.holds("void"):
        raise refuse(f"{name} of NULL alone is not supported")
    return _render(signature.template, casts, conditions, window, distinct), kind


def _render(template: str, casts: list[str], conditions: list[str], window: str, distinct: bool) -> str:
    """Return a template with its arguments and clauses filled in; ``@?(c)`` adds its own filter condition ``c``."""
    sql = signatures.rendered(template.replace("@?(", "\x01("), casts, casts)
    sql = sql.replace("#", "DISTINCT " if distinct else "") if "#" in template else sql
    out, position = "", 0
    while position < len(sql):
        if sql[position] == "\x01":
            depth, end = 0, position + 1
            while True:
                depth += {"(": 1, ")": -1}.get(sql[end], 0)
                end += 1
                if not depth:
                    break
            out += _suffix([*conditions, sql[position + 2 : end - 1]], window)
            position = end
            continue
        out += sql[position]
        position += 1
    return out.replace("@", _suffix(conditions, window)) if "@" in template.replace("@?", "") else out


def _plain_aggregate(
    name: str, args: list[Expr], distinct: bool, conditions: list[str], nulls: str, window: str
) -> tuple[str, Type]:
    if name == "count":
        not_null = [f"{arg.sql} IS NOT NULL" for arg in args if not arg.known or arg.constant is None]
        if not distinct:
            return f"count(*){_suffix([*conditions, *not_null], window)}", st.BIGINT
        if any(arg.type.holds("map") for arg in args):
            raise refuse("count(DISTINCT …) of maps is not supported")
        packed = args[0].sql if len(args) == 1 else f"row({', '.join(arg.sql for arg in args)})"
        return f"count(DISTINCT {packed}){_suffix([*conditions, *not_null], window)}", st.BIGINT
    if name in ("sum", "avg", "mean") and args and args[0].type.kind == "decimal" and len(args) == 1:
        return _decimal_aggregate(name, args[0], distinct, conditions, window)
    if (
        len(args) == 2
        and isinstance(args[1].constant, bool)
        and name in ("first", "first_value", "last", "last_value", "any_value")
    ):
        nulls, args = "IGNORE" if args[1].constant else "", args[:1]
    if nulls == "IGNORE":
        if name not in ("first", "first_value", "last", "last_value", "any_value"):
            raise refuse(f"{name} IGNORE NULLS is not supported")
        conditions = [*conditions, f"{args[0].sql} IS NOT NULL"]
    if name in ("sum", "avg", "mean", "median", "percentile", "stddev") and any(arg.type == st.BOOLEAN for arg in args):
        raise refuse(f"{name} of a condition is an error in Spark; use count_if")
    sql, kind = _from_signature(functions.AGGREGATES[name], name, args, conditions, window, distinct)
    return sql, kind


def _decimal_aggregate(name: str, arg: Expr, distinct: bool, conditions: list[str], window: str) -> tuple[str, Type]:
    (p, s), distinct_prefix, suffix = arg.type.inner, "DISTINCT " if distinct else "", _suffix(conditions, window)
    total = f"sum({distinct_prefix}{arg.sql}){suffix}"
    if name == "sum":
        kind = st.decimal(p + 10, s)
        return f"CAST({total} AS {kind.duck})", kind
    kind = st.decimal(p + 4, s + 4)
    count = f"nullif(count({distinct_prefix}{arg.sql}){suffix}, 0)"
    quotient = f"spark_decimal('/', CAST({total} AS VARCHAR), CAST({count} AS VARCHAR), {kind.inner[1]})"
    return f"CAST({quotient} AS {kind.duck})", kind


def _ordered_aggregate(name: str, args: list[Expr], distinct: bool, conditions: list[str],
                       within: exp.Expression | None, window: str, scope: Scope) -> tuple[str, Type]:  # fmt: skip
    orders = within.expressions if within is not None else []
    if name in ("percentile_cont", "percentile_disc", "mode") and len(orders) == 1:
        by = expression(orders[0].this, scope)
        if name == "mode":
            return _from_signature(functions.AGGREGATES["mode"], name, [by], conditions, window, False)
        share = args[0].constant if len(args) == 1 else None
        if not isinstance(share, (int, float)) or not st.implicit(by.type, st.DOUBLE) or by.type == st.STRING:
            raise refuse(f"{name} requires a constant fraction and numbers")
        if orders[0].args.get("desc"):
            raise refuse(f"{name} with DESC is not supported")
        function = "quantile_cont" if name == "percentile_cont" else "quantile_disc"
        return f"{function}({by.to(st.DOUBLE)}, {float(share)!r}){_suffix(conditions, window)}", st.DOUBLE
    if name in ("listagg", "string_agg") and args and not window:
        if (
            not all(st.implicit(arg.type, st.STRING) for arg in args)
            or (len(args) == 2 and not args[1].known)
            or len(args) > 2
        ):
            raise refuse(f"{name} requires strings and a constant delimiter")
        separator = args[1].sql if len(args) == 2 else "''"
        order = (
            f" ORDER BY {', '.join(ordering(item, expression(item.this, scope).sql) for item in orders)}"
            if orders
            else ""
        )
        arguments = f"{'DISTINCT ' if distinct else ''}{args[0].to(st.STRING)}, {separator}{order}"
        return f"string_agg({arguments}){_suffix(conditions, window)}", st.STRING
    if name == "try_sum" and args and args[0].type.kind in st.INTEGRAL:
        return f"TRY_CAST(sum({args[0].sql}){_suffix(conditions, window)} AS BIGINT)", st.BIGINT
    if name == "try_avg" and args and args[0].type.kind in (*st.INTEGRAL, "double"):
        return _plain_aggregate("avg", args, distinct, conditions, "", window)
    raise refuse(f"{name}({', '.join(str(arg.type) for arg in args)}) is not supported")


def ordering(item: exp.Ordered, sql: str) -> str:
    """Return an item of ORDER BY; by default NULL sorts as the smallest value."""
    descending, nulls_first = bool(item.args.get("desc")), item.args.get("nulls_first")
    return f"{sql} {'DESC' if descending else 'ASC'} NULLS {'FIRST' if nulls_first else 'LAST'}"


def _order_suffix(item: exp.Ordered) -> str:
    return ordering(item, "")


def _over(window: exp.Window, scope: Scope, ranking: bool, name: str) -> tuple[str, str]:
    """Return the contents of OVER, as DuckDB SQL and as Spark names it."""
    if window.args.get("first") or window.args.get("over") not in (None, "OVER"):
        raise refuse(f"{window.sql('spark')[:60]!r} is not supported")
    spec: exp.Expression = window
    if window.args.get("alias"):
        alias = window.args["alias"].name.lower()
        if alias not in scope.windows or window.args.get("partition_by") or window.args.get("order"):
            raise refuse(f"there is no window {alias}, or it is changed where it is used")
        spec = scope.windows[alias]
    parts = [expression(item, scope) for item in spec.args.get("partition_by") or []]
    order = spec.args.get("order")
    order_items = [(item, expression(item.this, scope)) for item in (order.expressions if order else [])]
    if any(part.window for part in parts) or any(item.window for _, item in order_items):
        raise refuse("a window in a window is an error in Spark")
    if ranking and not order_items:
        raise refuse(f"{name} requires ORDER BY in its window")
    clauses = [f"PARTITION BY {', '.join(part.sql for part in parts)}"] if parts else []
    labels = [f"PARTITION BY {', '.join(part.name for part in parts)}"] if parts else []
    if order_items:
        clauses.append("ORDER BY " + ", ".join(ordering(item, by.sql) for item, by in order_items))
        labels.append("ORDER BY " + ", ".join(by.name + _order_suffix(item) for item, by in order_items))
    frame = spec.args.get("spec")
    if frame is not None and ranking:
        raise refuse(f"{name} takes no frame")
    if frame is not None:
        bounds, bounds_label = _frame(frame, order_items, scope)
        clauses.append(bounds)
        labels.append(bounds_label)
    elif order_items:
        kind = "ROWS" if ranking and name not in ("cume_dist", "nth_value") else "RANGE"
        step = {"lag": "-1", "lead": "1"}.get(name)
        labels.append(
            f"ROWS BETWEEN {step} FOLLOWING AND {step} FOLLOWING"
            if step
            else f"{kind} BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
        )
        clauses.append("" if ranking else "RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW")
    else:
        labels.append("ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING")
        clauses.append("ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING")
    return " ".join(filter(None, clauses)), " ".join(labels)


def _frame(frame: exp.WindowSpec, order_items: list[Any], scope: Scope) -> tuple[str, str]:
    kind = frame.args.get("kind")
    if kind not in ("ROWS", "RANGE") or frame.args.get("exclude"):
        raise refuse(f"the frame {frame.sql('spark')[:60]} is not supported")
    bounds, labels = [], []
    for side in ("start", "end"):
        value: Any = frame.args.get(side)
        direction = frame.args.get(f"{side}_side")
        if value is None and side == "end":
            value = "CURRENT ROW"
        if value == "CURRENT ROW":
            bounds.append("CURRENT ROW")
            labels.append("CURRENT ROW")
        elif value == "UNBOUNDED":
            bounds.append(f"UNBOUNDED {direction}")
            labels.append(f"UNBOUNDED {direction}")
        else:
            bound = expression(value, scope)
            valid = isinstance(bound.constant, int) and not isinstance(bound.constant, bool) and bound.constant >= 0
            if kind == "RANGE":
                order_kind = order_items[0][1].type.kind if len(order_items) == 1 else ""
                valid = (valid and order_kind in st.INTEGRAL) or (
                    bound.type == st.INTERVAL and order_kind in ("date", "timestamp")
                )
                if valid and order_kind == "date" and bound.constant not in ("DAY", "WEEK", "MONTH", "YEAR"):
                    valid = False
            if not valid:
                raise refuse(f"the frame {frame.sql('spark')[:60]} is not supported")
            bounds.append(f"{bound.sql} {direction}")
            labels.append(f"{bound.name} {direction}")
    if kind == "RANGE" and not order_items:
        raise refuse("RANGE requires ORDER BY")
    return f"{kind} BETWEEN {bounds[0]} AND {bounds[1]}", f"{kind} BETWEEN {labels[0]} AND {labels[1]}"


NODES |= dict.fromkeys((exp.Window, exp.Filter, exp.WithinGroup, exp.IgnoreNulls, exp.RespectNulls), node)
