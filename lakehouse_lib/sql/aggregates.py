"""Aggregates and window functions of Spark SQL."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from sqlglot import exp

from lakehouse_lib.sql import signatures
from lakehouse_lib.sql import types as st
from lakehouse_lib.sql.expressions import NODES, Expr, Scope, by_signature, expression, merged, refuse
from lakehouse_lib.sql.operators import truth
from lakehouse_lib.sql.types import Type

OTHERS = ("listagg", "string_agg", "percentile_cont", "percentile_disc", "try_sum", "try_avg", "count_distinct")
_TEXTS = ("listagg", "string_agg")
_ENDS = ("first", "first_value", "last", "last_value", "any_value")
_DISTINCT = ("count", "sum", "avg", "mean", "min", "max", "collect_list", "array_agg", "count_if", "stddev",
             "stddev_samp", "stddev_pop", "variance", "var_samp", "var_pop", "collect_set", *_TEXTS)  # fmt: skip


def node(given: exp.Expression, scope: Scope) -> Expr:
    """A call of an aggregate with what stands around it: FILTER, WITHIN GROUP, IGNORE NULLS, OVER."""
    call, over, condition, within, nulls = _around(given, scope)
    name, nodes = call.name.lower(), call.expressions
    if scope.ordering and any(len(one.parts) == 1 and one.name.lower() in scope.aliases and not _plain_column(
            scope.aliases[one.name.lower()], one) for one in call.find_all(exp.Column)):  # fmt: skip
        raise refuse(f"ORDER BY {name} of a name that the SELECT list gives to another value is an error in Spark")
    scope = replace(scope, aliases_first=False)  # within, a name is the source's, also in HAVING and ORDER BY
    distinct = len(nodes) == 1 and isinstance(nodes[0], exp.Distinct)
    if distinct:
        if nodes[0].args.get("on"):
            raise refuse("DISTINCT ON is not answered here")
        nodes = nodes[0].expressions
    if name == "count" and len(nodes) == 1 and isinstance(nodes[0], exp.Star) and not distinct:
        args = [Expr("1", st.INT, "1", 1)]
    else:
        args = [expression(one, scope) for one in nodes]
    if over is None and any(arg.aggregate or arg.window for arg in args):
        raise refuse(f"{name}: an aggregate of an aggregate is an error in Spark")
    if any(arg.window for arg in args):
        raise refuse(f"{name}: a window in a window is an error in Spark")
    if over is not None and distinct:
        raise refuse("DISTINCT beside OVER is an error in Spark")
    if distinct and name not in _DISTINCT:
        raise refuse(f"{name}(DISTINCT …) is not answered here")
    return _made(name, args, distinct, condition, within, nulls, over, scope)


def _around(
    given: exp.Expression, scope: Scope
) -> tuple[exp.Anonymous, exp.Window | None, Expr | None, exp.Expression | None, str]:
    """The call, and what stands around it: OVER, FILTER, WITHIN GROUP, and what becomes of nulls."""
    over = condition = within = None
    nulls = ""
    while not isinstance(given, exp.Anonymous):
        if isinstance(given, exp.Window) and over is None:
            over = given
        elif isinstance(given, exp.Filter) and condition is None and isinstance(given.expression, exp.Where):
            condition = truth(given.expression.this, scope)
        elif isinstance(given, exp.WithinGroup) and within is None:
            within = given.expression
        elif isinstance(given, (exp.IgnoreNulls, exp.RespectNulls)) and not nulls:
            nulls = "IGNORE" if isinstance(given, exp.IgnoreNulls) else "RESPECT"
        else:
            raise refuse(f"{given.sql('spark')[:60]!r} is not answered here")
        given = given.this
    return given, over, condition, within, nulls


def _plain_column(value: Expr, column: exp.Column) -> bool:
    return not value.aggregate and value.name.lower() == column.name.lower()


def _made(name: str, args: list[Expr], distinct: bool, condition: Expr | None, within: exp.Expression | None,
          nulls: str, over: exp.Window | None, scope: Scope) -> Expr:  # fmt: skip
    ranking = over is not None and name in signatures.WINDOWS and name not in signatures.AGGREGATES
    frame_own = (
        over is not None and name in ("first", "first_value", "last", "last_value", "any_value")
    ) or name == "nth_value"
    window, shown_window = _over(over, scope, ranking, name) if over is not None else ("", "")
    conditions = [condition.sql] if condition else []
    flagged = len(args) == 2
    if ranking or frame_own:
        if condition or within or over is None:
            raise refuse(f"{name} with FILTER is not answered here")
        if len(args) == 2 and isinstance(args[1].constant, bool) and frame_own and name != "nth_value":
            nulls, args = ("IGNORE" if args[1].constant else ""), args[:1]
        sql, kind = _filled(signatures.WINDOWS[name], name, args, [], window, distinct)
        if nulls == "IGNORE":
            if "(" in sql[sql.index("(") + 1 : sql.index(" OVER")]:
                raise refuse(f"{name} IGNORE NULLS of an expression; name it in a query around, and use that")
            sql = re.sub(r"(\w+\(.*?\)) OVER", lambda found: found[1][:-1] + " IGNORE NULLS) OVER", sql, count=1)
    elif within is not None or name in OTHERS:
        sql, kind = _ordered(name, args, distinct, conditions, within, window, scope)
    elif name in signatures.AGGREGATES:
        sql, kind = _plain(name, args, distinct, conditions, nulls, window)
    else:
        raise refuse(f"the function {name[:60]} is not answered here")
    names = [arg.name for arg in args]
    if name in _ENDS and len(args) == 2:
        names = names[:1]
    word = (
        {"last_value": "last", "first_value": "first"}.get(name, name)
        if nulls == "IGNORE" and len(args) == 1 and not flagged
        else name
    )
    shown = signatures.shown(word, [("DISTINCT " if distinct and not n else "") + one for n, one in enumerate(names)])
    if within is not None:
        orders = ", ".join(
            expression(one.this, scope).name + (_ending(one) if name in _TEXTS else "") for one in within.expressions
        )
        shown += f" WITHIN GROUP (ORDER BY {orders})"
    if condition:
        shown += f" FILTER (WHERE {condition.name})"
    if over is not None:
        shown += f" OVER ({shown_window})"
    parts = [*args, *([condition] if condition else [])]
    return replace(
        merged(sql, kind, shown, parts),
        aggregate=over is None or any(p.aggregate for p in parts),
        window=over is not None,
    )


def _suffix(conditions: list[str], window: str) -> str:
    made = f" FILTER (WHERE {' AND '.join(conditions)})" if conditions else ""
    return made + (f" OVER ({window})" if window is not None and window != "" else "")


def _filled(
    listed: list[signatures.Signature], name: str, args: list[Expr], conditions: list[str], window: str, distinct: bool
) -> tuple[str, Type]:
    found = by_signature(listed, name, args)
    if found is None:
        raise refuse(f"{name}({', '.join(str(arg.type) for arg in args)}) is not answered here")
    signature, casts, letters = found
    kind = st.VOID if signature.result == "special" else signatures.result(signature, letters)
    if kind.holds("void"):
        raise refuse(f"{name} of NULL alone is not answered here")
    return _clauses(signature.template, casts, conditions, window, distinct), kind


def _clauses(template: str, casts: list[str], conditions: list[str], window: str, distinct: bool) -> str:
    """A template with arguments and clauses; ``@?(c)`` takes a condition of its own."""

    def clause(found: re.Match[str]) -> str:
        own = [found[1]] if found[1] else []
        return _suffix([*conditions, *own], window)

    sql = signatures.rendered(template.replace("@?(", "\x01("), casts, casts)
    sql = sql.replace("#", "DISTINCT " if distinct else "") if "#" in template else sql
    out, at = "", 0
    while at < len(sql):
        if sql[at] == "\x01":
            depth, end = 0, at + 1
            while True:
                depth += {"(": 1, ")": -1}.get(sql[end], 0)
                end += 1
                if not depth:
                    break
            out += _suffix([*conditions, sql[at + 2 : end - 1]], window)
            at = end
            continue
        out += sql[at]
        at += 1
    return out.replace("@", _suffix(conditions, window)) if "@" in template.replace("@?", "") else out


def _plain(
    name: str, args: list[Expr], distinct: bool, conditions: list[str], nulls: str, window: str
) -> tuple[str, Type]:
    if name == "count":
        there = [f"{arg.sql} IS NOT NULL" for arg in args if not arg.known or arg.constant is None]
        if not distinct:
            return f"count(*){_suffix([*conditions, *there], window)}", st.BIGINT
        if any(arg.type.holds("map") for arg in args):
            raise refuse("count(DISTINCT …) of maps is not answered here")
        packed = args[0].sql if len(args) == 1 else f"row({', '.join(arg.sql for arg in args)})"
        return f"count(DISTINCT {packed}){_suffix([*conditions, *there], window)}", st.BIGINT
    if name in ("sum", "avg", "mean") and args and args[0].type.kind == "decimal" and len(args) == 1:
        return _of_decimals(name, args[0], distinct, conditions, window)
    if (
        len(args) == 2
        and isinstance(args[1].constant, bool)
        and name in ("first", "first_value", "last", "last_value", "any_value")
    ):
        nulls, args = "IGNORE" if args[1].constant else "", args[:1]
    if nulls == "IGNORE":
        if name not in ("first", "first_value", "last", "last_value", "any_value"):
            raise refuse(f"{name} IGNORE NULLS is not answered here")
        conditions = [*conditions, f"{args[0].sql} IS NOT NULL"]
    if name in ("sum", "avg", "mean", "median", "percentile", "stddev") and any(arg.type == st.BOOLEAN for arg in args):
        raise refuse(f"{name} of a condition is an error in Spark; say count_if")
    sql, kind = _filled(signatures.AGGREGATES[name], name, args, conditions, window, distinct)
    return sql, kind


def _of_decimals(name: str, arg: Expr, distinct: bool, conditions: list[str], window: str) -> tuple[str, Type]:
    (p, s), word, end = arg.type.inner, "DISTINCT " if distinct else "", _suffix(conditions, window)
    total = f"sum({word}{arg.sql}){end}"
    if name == "sum":
        kind = st.decimal(p + 10, s)
        return f"CAST({total} AS {kind.duck})", kind
    kind = st.decimal(p + 4, s + 4)
    count = f"nullif(count({word}{arg.sql}){end}, 0)"
    made = f"spark_decimal('/', CAST({total} AS VARCHAR), CAST({count} AS VARCHAR), {kind.inner[1]})"
    return f"CAST({made} AS {kind.duck})", kind


def _ordered(name: str, args: list[Expr], distinct: bool, conditions: list[str], within: exp.Expression | None,
             window: str, scope: Scope) -> tuple[str, Type]:  # fmt: skip
    orders = within.expressions if within is not None else []
    if name in ("percentile_cont", "percentile_disc", "mode") and len(orders) == 1:
        by = expression(orders[0].this, scope)
        if name == "mode":
            return _filled(signatures.AGGREGATES["mode"], name, [by], conditions, window, False)
        share = args[0].constant if len(args) == 1 else None
        if not isinstance(share, (int, float)) or not st.implicit(by.type, st.DOUBLE) or by.type == st.STRING:
            raise refuse(f"{name} wants a constant share and numbers")
        value = float(share) if not orders[0].args.get("desc") else 1 - float(share)
        if orders[0].args.get("desc"):
            raise refuse(f"{name} with DESC is not answered here")
        function = "quantile_cont" if name == "percentile_cont" else "quantile_disc"
        return f"{function}({by.to(st.DOUBLE)}, {value!r}){_suffix(conditions, window)}", st.DOUBLE
    if name in ("listagg", "string_agg") and args and not window:
        if (
            not all(st.implicit(arg.type, st.STRING) for arg in args)
            or (len(args) == 2 and not args[1].known)
            or len(args) > 2
        ):
            raise refuse(f"{name} wants texts and a constant delimiter")
        separator = args[1].sql if len(args) == 2 else "''"
        order = (
            f" ORDER BY {', '.join(ordering(one, expression(one.this, scope).sql) for one in orders)}" if orders else ""
        )
        made = f"{'DISTINCT ' if distinct else ''}{args[0].to(st.STRING)}, {separator}{order}"
        return f"string_agg({made}){_suffix(conditions, window)}", st.STRING
    if name == "try_sum" and args and args[0].type.kind in st.INTEGRAL:
        return f"TRY_CAST(sum({args[0].sql}){_suffix(conditions, window)} AS BIGINT)", st.BIGINT
    if name == "try_avg" and args and args[0].type.kind in (*st.INTEGRAL, "double"):
        return _plain("avg", args, distinct, conditions, "", window)
    raise refuse(f"{name}({', '.join(str(arg.type) for arg in args)}) is not answered here")


def ordering(one: exp.Ordered, sql: str) -> str:
    """An item of ORDER BY: NULL is smaller than all else, if it is not said otherwise."""
    down, first = bool(one.args.get("desc")), one.args.get("nulls_first")
    return f"{sql} {'DESC' if down else 'ASC'} NULLS {'FIRST' if first else 'LAST'}"


def _ending(one: exp.Ordered) -> str:
    return ordering(one, "")


_UNBOUNDED = {"UNBOUNDED", "CURRENT ROW"}


def _over(window: exp.Window, scope: Scope, ranking: bool, name: str) -> tuple[str, str]:
    """What stands in OVER, for DuckDB and as Spark names it."""
    if window.args.get("first") or window.args.get("over") not in (None, "OVER"):
        raise refuse(f"{window.sql('spark')[:60]!r} is not answered here")
    spec: exp.Expression = window
    if window.args.get("alias"):
        alias = window.args["alias"].name.lower()
        if alias not in scope.windows or window.args.get("partition_by") or window.args.get("order"):
            raise refuse(f"there is no window {alias}, or more is said of it")
        spec = scope.windows[alias]
    parts = [expression(one, scope) for one in spec.args.get("partition_by") or []]
    order = spec.args.get("order")
    listed = [(one, expression(one.this, scope)) for one in (order.expressions if order else [])]
    if any(part.window for part in parts) or any(one.window for _, one in listed):
        raise refuse("a window in a window is an error in Spark")
    if ranking and not listed:
        raise refuse(f"{name} wants ORDER BY in its window")
    made = [f"PARTITION BY {', '.join(part.sql for part in parts)}"] if parts else []
    shown = [f"PARTITION BY {', '.join(part.name for part in parts)}"] if parts else []
    if listed:
        made.append("ORDER BY " + ", ".join(ordering(one, by.sql) for one, by in listed))
        shown.append("ORDER BY " + ", ".join(by.name + _ending(one) for one, by in listed))
    frame = spec.args.get("spec")
    if frame is not None and ranking:
        raise refuse(f"{name} takes no frame")
    if frame is not None:
        bounds, told = _frame(frame, listed, scope)
        made.append(bounds)
        shown.append(told)
    elif listed:
        kind = "ROWS" if ranking and name not in ("cume_dist", "nth_value") else "RANGE"
        step = {"lag": "-1", "lead": "1"}.get(name)
        shown.append(
            f"ROWS BETWEEN {step} FOLLOWING AND {step} FOLLOWING"
            if step
            else f"{kind} BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
        )
        made.append("" if ranking else "RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW")
    else:
        shown.append("ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING")
        made.append("ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING")
    return " ".join(filter(None, made)), " ".join(shown)


def _frame(frame: exp.WindowSpec, listed: list[Any], scope: Scope) -> tuple[str, str]:
    kind = frame.args.get("kind")
    if kind not in ("ROWS", "RANGE") or frame.args.get("exclude"):
        raise refuse(f"the frame {frame.sql('spark')[:60]} is not answered here")
    ends, names = [], []
    for side in ("start", "end"):
        value: Any = frame.args.get(side)
        direction = frame.args.get(f"{side}_side")
        if value is None and side == "end":
            value = "CURRENT ROW"
        if value == "CURRENT ROW":
            ends.append("CURRENT ROW")
            names.append("CURRENT ROW")
        elif value == "UNBOUNDED":
            ends.append(f"UNBOUNDED {direction}")
            names.append(f"UNBOUNDED {direction}")
        else:
            one = expression(value, scope)
            fits = isinstance(one.constant, int) and not isinstance(one.constant, bool) and one.constant >= 0
            if kind == "RANGE":
                by = listed[0][1].type.kind if len(listed) == 1 else ""
                fits = (fits and by in st.INTEGRAL) or (one.type == st.INTERVAL and by in ("date", "timestamp"))
                if fits and by == "date" and one.constant not in ("DAY", "WEEK", "MONTH", "YEAR"):
                    fits = False
            if not fits:
                raise refuse(f"the frame {frame.sql('spark')[:60]} is not answered here")
            ends.append(f"{one.sql} {direction}")
            names.append(f"{one.name} {direction}")
    if kind == "RANGE" and not listed:
        raise refuse("RANGE wants ORDER BY")
    return f"{kind} BETWEEN {ends[0]} AND {ends[1]}", f"{kind} BETWEEN {names[0]} AND {names[1]}"


NODES |= dict.fromkeys((exp.Window, exp.Filter, exp.WithinGroup, exp.IgnoreNulls, exp.RespectNulls), node)
