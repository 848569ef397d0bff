"""Spark SQL expressions as DuckDB SQL, each with its type and the name that Spark gives its column.

All SQL is generated from the checked tree alone. A node, function or combination of types without a rule is
rejected.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

from sqlglot import exp

from lakehouse_lib.errors import ConfigError
from lakehouse_lib.sql import signatures
from lakehouse_lib.sql import types as st
from lakehouse_lib.sql.types import Type

NO_CONSTANT = object()
NODES: dict[type, Callable[[Any, Scope], Expr]] = {}
"""The rule for each node type. Every module adds its own; a node type without a rule is rejected."""
ARGUMENTS: dict[type, tuple[str, ...]] = {}
"""Further arguments that a node type may have, besides its operands."""
CALLED: list[Callable[[str, list[Expr], Scope, str], Expr]] = []
"""Holds `calls.called`, which registers itself here because its rules depend on all other modules."""


@dataclass(frozen=True)
class Expr:
    """An expression as DuckDB SQL."""

    sql: str
    type: Type
    name: str
    constant: Any = NO_CONSTANT
    """The value of a literal, or the unit of an interval."""
    aggregate: bool = False
    window: bool = False
    volatile: bool = False

    def to(self, kind: Type) -> str:
        """Return the SQL cast to another type."""
        return st.cast(self.sql, self.type, kind)

    @property
    def known(self) -> bool:
        """Whether it is a literal."""
        return self.constant is not NO_CONSTANT


@dataclass
class Column:
    """A column of a source."""

    name: str
    type: Type
    sql: str
    hidden: bool = False
    """Left out of ``*``, such as the columns that USING has merged."""


@dataclass
class Source:
    """A named source in FROM."""

    name: str
    columns: list[Column]


@dataclass
class Scope:
    """The names that are visible to an expression."""

    sources: list[Source] = field(default_factory=list)
    parent: Scope | None = None
    names: dict[str, Expr] = field(default_factory=dict)
    """Parameters of lambdas."""
    aliases: dict[str, Expr] = field(default_factory=dict)
    """Values of the SELECT list by alias, for clauses that may refer to them."""
    aliases_first: bool = False
    ordering: bool = False
    """Whether this is ORDER BY."""
    windows: dict[str, exp.Expression] = field(default_factory=dict)
    groups: list[str] | None = None
    """SQL of the grouping expressions; None until they are known."""
    query: Callable[[exp.Expr, Scope], tuple[str, list[tuple[str, Type]]]] | None = None

    def ask(self, node: exp.Expr) -> tuple[str, list[tuple[str, Type]]]:
        """Return a subquery of an expression as SQL, and its columns."""
        query = cast("Callable[[exp.Expr, Scope], tuple[str, list[tuple[str, Type]]]]", self.query)
        return query(node, self)

    def inner(self, **names: Expr) -> Scope:
        """Return this scope extended with the parameters of a lambda."""
        return replace(self, names=self.names | names)


def refuse(text: str) -> ConfigError:
    return ConfigError(text)


def expression(node: exp.Expr, scope: Scope) -> Expr:
    """Return the expression of a tree node.

    Raises
    ------
    ConfigError
        The node cannot be translated.
    """
    kind = type(node)
    if kind in NODES:
        present = {key for key, value in node.args.items() if value}
        if unknown := present - {"this", "expression", "expressions", "negate", *ARGUMENTS.get(kind, ())}:
            raise refuse(f"{node.sql('spark')[:60]!r} ({', '.join(sorted(unknown))}) is not supported")
        result = NODES[kind](node, scope)
        return (
            merged(f"(NOT {result.sql})", st.BOOLEAN, f"(NOT {result.name})", [result])
            if "negate" in present
            else result
        )
    raise refuse(f"{node.sql('spark')[:60]!r} ({type(node).__name__}) is not supported")


def merged(sql: str, kind: Type, name: str, parts: list[Expr]) -> Expr:
    """Return an expression composed of others, with their aggregate, window and volatile flags."""
    return Expr(sql, kind, name, aggregate=any(p.aggregate for p in parts), window=any(p.window for p in parts),
                volatile=any(p.volatile for p in parts))  # fmt: skip


# Names and literals ----------------------------------------------------------


def column_node(node: exp.Column, scope: Scope) -> Expr:
    if not all(isinstance(part, exp.Identifier) for part in node.parts):
        raise refuse(f"{node.sql('spark')[:60]!r} is used where a column is required")
    return named([part.name for part in node.parts], scope)


def named(parts: list[str], scope: Scope) -> Expr:
    """Return a column, a field of a column, an alias or a lambda parameter."""
    words = [part.lower() for part in parts]
    if words[0] in scope.names:
        return _fields(scope.names[words[0]], parts[1:])
    lookups = [_lookup_alias, _lookup_source] if scope.aliases_first else [_lookup_source, _lookup_alias]
    current: Scope | None = scope
    while current is not None:
        for lookup in lookups:
            if match := lookup(parts, words, current):
                return match
        current, lookups = current.parent, [_lookup_source]
    if words == ["current_date"] or words == ["current_timestamp"] or words == ["localtimestamp"]:
        return call(words[0], [], scope)
    raise refuse(f"there is no column {'.'.join(parts)}")


def _lookup_source(parts: list[str], words: list[str], scope: Scope) -> Expr | None:
    if len(words) > 1:
        owners = [source for source in scope.sources if source.name.lower() == words[0]]
        matches = [c for source in owners for c in source.columns if c.name.lower() == words[1]]
        if len(matches) > 1:
            raise refuse(f"{'.'.join(parts)} is ambiguous")
        if matches:
            return _fields(Expr(matches[0].sql, matches[0].type, parts[1]), parts[2:])
    matches = [c for source in scope.sources for c in source.columns if c.name.lower() == words[0] and not c.hidden]
    if len({c.sql for c in matches}) > 1:
        raise refuse(f"{parts[0]} is ambiguous")
    return _fields(Expr(matches[0].sql, matches[0].type, parts[0]), parts[1:]) if matches else None


def _lookup_alias(parts: list[str], words: list[str], scope: Scope) -> Expr | None:
    value = scope.aliases.get(words[0])
    if value is None:
        return None
    if value.volatile:
        raise refuse(f"{parts[0]} is evaluated again at each use; refer to it from an outer query")
    return _fields(replace(value, name=parts[0]), parts[1:])


def _fields(value: Expr, names: list[str]) -> Expr:
    for name in names:
        value = _field(value, name)
    return value


def _field(value: Expr, name: str) -> Expr:
    if value.type.kind == "array" and value.type.inner[0].kind == "struct":
        item = _field(Expr("e", value.type.inner[0], value.name), name)
        return replace(
            value, sql=f"list_transform({value.sql}, lambda e: {item.sql})", type=st.array(item.type), name=item.name
        )
    fields = [pair for pair in value.type.inner if value.type.kind == "struct" and pair[0].lower() == name.lower()]
    if len(fields) != 1:
        raise refuse(f"{value.name} has no field {name}")
    sql = f"struct_extract({value.sql}, {st.text(fields[0][0])})"
    return replace(value, sql=sql, type=fields[0][1], name=f"{value.name}.{name}", constant=NO_CONSTANT)


def identifier_node(node: exp.Identifier, scope: Scope) -> Expr:
    return named([node.name], scope)


def dot_node(node: exp.Dot, scope: Scope) -> Expr:
    if not isinstance(node.expression, exp.Identifier):
        raise refuse(f"{node.sql('spark')[:60]!r} is not supported")
    return _field(expression(node.this, scope), node.expression.name)


def literal_node(node: exp.Literal, scope: Scope) -> Expr:
    return text_literal(node.name) if node.is_string else _number(node.name, "")


def text_literal(value: str) -> Expr:
    """Return a string literal."""
    return Expr(st.text(value), st.STRING, value, value)


def _number(literal: str, sign: str) -> Expr:
    if literal.isdigit():
        value = int(sign + literal)
        kind = st.INT if -(2**31) <= value < 2**31 else st.BIGINT if -(2**63) <= value < 2**63 else None
        if kind is None:
            kind = st.decimal(len(literal.lstrip("0")), 0)
        if len(literal) > 38:
            raise refuse(f"{literal} has more than 38 digits")
        return Expr(f"CAST({value} AS {kind.duck})", kind, str(value), value)
    if "e" in literal.lower():
        double = float(sign + literal)
        if double in (float("inf"), float("-inf")):
            raise refuse(f"{literal} is too large")
        return Expr(f"CAST('{double!r}' AS DOUBLE)", st.DOUBLE, _double_name(double), double)
    whole, _, fraction = literal.partition(".")
    digits = len(whole.lstrip("0")) + len(fraction)
    if not (whole + fraction).isdigit() or digits > 38:
        raise refuse(f"{literal} is not a supported number")
    kind = Type("decimal", (max(digits, 1), len(fraction)))
    label = f"{whole.lstrip('0') or '0'}" + (f".{fraction}" if fraction else "")
    return Expr(f"CAST('{sign}{whole}.{fraction or 0}' AS {kind.duck})", kind, sign + label, float(sign + literal))


def _double_name(value: float) -> str:
    from lakehouse_lib.sql.json_text import number

    return repr(value) if value == 0 or 0.001 <= abs(value) < 1e7 else number(repr(value))


def neg_node(node: exp.Neg, scope: Scope) -> Expr:
    if node.this.is_number and isinstance(node.this, exp.Literal):
        return _number(node.this.name, "-")
    operand = expression(node.this, scope)
    if operand.type == st.INTERVAL:
        return replace(operand, sql=f"(-{operand.sql})")
    if operand.known and isinstance(node.this, exp.Cast) and not node.this.meta.get("cast"):
        return merged(f"(-{operand.sql})", operand.type, f"-{operand.name}", [operand])
    result = call("negative", [operand], scope)
    return replace(result, name=f"(- {operand.name})")


def boolean_node(node: exp.Boolean, scope: Scope) -> Expr:
    word = "true" if node.this else "false"
    return Expr(word, st.BOOLEAN, word, bool(node.this))


def null_node(node: exp.Null, scope: Scope) -> Expr:
    return Expr("NULL", st.VOID, "NULL", None)


def raw_node(node: exp.RawString, scope: Scope) -> Expr:
    return text_literal(node.name)


def hex_node(node: exp.HexString, scope: Scope) -> Expr:
    data = bytes.fromhex(node.name.rjust(len(node.name) + len(node.name) % 2, "0"))
    return Expr(f"unhex('{data.hex()}')", st.BINARY, f"X'{data.hex().upper()}'", data)


def adjacent_node(node: exp.Concat, scope: Scope) -> Expr:
    if not all(isinstance(part, exp.Literal) and part.is_string for part in node.expressions):
        raise refuse(f"{node.sql('spark')[:60]!r} is not supported")
    return text_literal("".join(part.name for part in node.expressions))


def paren_node(node: exp.Paren, scope: Scope) -> Expr:
    return expression(node.this, scope)


def cast_node(node: exp.Cast, scope: Scope) -> Expr:
    if set(filter(node.args.get, node.args)) - {"this", "to", "safe", "_type"}:
        raise refuse(f"{node.sql('spark')[:60]!r} is not supported")
    operand, target, safe = expression(node.this, scope), st.built(node.to), isinstance(node, exp.TryCast)
    result = merged(
        st.cast(operand.sql, operand.type, target, safe),
        target,
        f"{'TRY_CAST' if safe else 'CAST'}({operand.name} AS {target})",
        [operand],
    )
    if node.meta.get("cast") or safe or not operand.known:
        return result
    if target.kind in ("date", "timestamp"):
        label = operand.name[:10] if target == st.DATE else operand.name
        return replace(result, name=f"{target} '{label}'", constant=operand.constant)
    label = _double_name(float(operand.constant)) if target.kind in ("double", "float") else operand.name
    return replace(result, name=label, constant=operand.constant)


def interval_node(node: exp.Interval, scope: Scope) -> Expr:
    unit = node.args.get("unit")
    word = unit.name.upper().rstrip("S") if isinstance(unit, exp.Var) else ""
    if word not in ("YEAR", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND") or node.this is None:
        raise refuse(f"{node.sql('spark')[:60]!r} is not supported; write it as INTERVAL 3 DAYS")
    length = node.this.this if isinstance(node.this, exp.Neg) else node.this
    if isinstance(length, exp.Literal):
        value = ("-" if isinstance(node.this, exp.Neg) else "") + length.name.strip()
        if not value.lstrip("+-").isdigit():
            raise refuse(f"{node.sql('spark')[:60]!r} is not supported")
        number = int(value) if value.count("-") < 2 else 0
        return Expr(f"INTERVAL ({number}) {word}", st.INTERVAL, f"INTERVAL '{number}' {word}", word)
    raise refuse(f"{node.sql('spark')[:60]!r} is not supported; its length must be a number")


# Calls -----------------------------------------------------------------------


def call(name: str, args: list[Expr], scope: Scope, label: str = "") -> Expr:
    """Return a function applied to arguments.

    Raises
    ------
    ConfigError
        The function is not supported for these arguments.
    """
    return CALLED[0](name.lower(), args, scope, label)


def lambda_(node: exp.Expression, scope: Scope, *kinds: Type) -> tuple[list[str], Expr]:
    """Return the SQL names of a lambda's parameters, which have the given types, and its body."""
    if not isinstance(node, exp.Lambda) or len(node.expressions) not in range(1, len(kinds) + 1):
        raise refuse(f"{node.sql('spark')[:60]!r}: a lambda of {len(kinds)} parameters is required")
    words = [part.name.lower() for part in node.expressions]
    names = [f"l{zlib.crc32((word + str(len(scope.names))).encode())}" for word in words]
    parameters = {
        word: Expr(name, kind, "namedlambdavariable()") for word, name, kind in zip(words, names, kinds, strict=False)
    }
    body = expression(node.this, scope.inner(**parameters))
    if body.aggregate or body.window:
        raise refuse("an aggregate in a lambda is an error in Spark")
    label = ", ".join([body.name, *["namedlambdavariable()"] * len(words)])
    return names, replace(body, name=f"lambdafunction({label})")


def call_of(name: str, *parts: str) -> Callable[[exp.Expression, Scope], Expr]:
    def rule(node: exp.Expression, scope: Scope) -> Expr:
        present = {key for key, value in node.args.items() if value}
        if present - set(parts):
            raise refuse(f"{node.sql('spark')[:60]!r} is not supported")
        return call(name, [expression(node.args[part], scope) for part in parts if node.args.get(part)], scope)

    return rule


def trim_node(node: exp.Trim, scope: Scope) -> Expr:
    side = (node.args.get("position") or "BOTH").upper()
    text = expression(node.this, scope)
    chars = node.expression and expression(node.expression, scope)
    name = {"BOTH": "btrim", "LEADING": "ltrim", "TRAILING": "rtrim"}[side]
    if chars is None:
        return call(name if side != "BOTH" else "trim", [text], scope, "trim" if side == "BOTH" else name)
    result = call(name, [text, chars] if side == "BOTH" else [chars, text], scope)
    return replace(result, name=f"TRIM({side} {chars.name} FROM {text.name})")


def extract_node(node: exp.Extract, scope: Scope) -> Expr:
    part = call("date_part", [text_literal(node.name), expression(node.expression, scope)], scope)
    return replace(part, name=f"extract({node.name} FROM {expression(node.expression, scope).name})")


def by_signature(
    candidates: list[signatures.Signature], name: str, args: list[Expr]
) -> tuple[signatures.Signature, list[str], dict[str, Type]] | None:
    """Return the matching signature, the arguments cast to its types, and the types of its letters."""
    match = signatures.chosen(candidates, [arg.type for arg in args], [constant(arg) for arg in args])
    if match is None:
        return None
    signature, types, letters = match
    return signature, [arg.to(kind) for arg, kind in zip(args, types, strict=True)], letters


def constant(arg: Expr) -> bool:
    """Return whether it is a literal or an array of literals; columns and functions always contain lower-case
    letters."""
    return arg.known or bool(re.fullmatch(r"\[[\dA-Z_'.,()\[\] -]+\]", arg.sql))
