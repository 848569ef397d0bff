"""Expressions of Spark SQL as DuckDB works them out: each has a type, and the name that Spark gives its column.

What is written here is text made from the checked tree alone. A node, function or pair of types that
no rule is for is refused.
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
"""What each node becomes: each module adds those that it knows, and one that is not there is refused."""
ARGUMENTS: dict[type, tuple[str, ...]] = {}
"""What else than its parts a node may hold."""
CALLED: list[Callable[[str, list[Expr], Scope, str], Expr]] = []
"""What a function of values becomes: `calls` puts it here, since its rules are made of all others."""


@dataclass(frozen=True)
class Expr:
    """An expression in DuckDB's words."""

    sql: str
    type: Type
    name: str
    constant: Any = NO_CONSTANT
    """The value of a literal; of an interval: its unit."""
    aggregate: bool = False
    window: bool = False
    volatile: bool = False

    def to(self, kind: Type) -> str:
        """Its SQL in another type."""
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
    """Not in ``*``: of the other side of USING."""


@dataclass
class Source:
    """What FROM has under a name."""

    name: str
    columns: list[Column]


@dataclass
class Scope:
    """Where names are looked up."""

    sources: list[Source] = field(default_factory=list)
    parent: Scope | None = None
    names: dict[str, Expr] = field(default_factory=dict)
    """Parameters of lambdas."""
    aliases: dict[str, Expr] = field(default_factory=dict)
    """Columns of the SELECT list by their alias, for what may use them."""
    aliases_first: bool = False
    ordering: bool = False
    """In ORDER BY."""
    windows: dict[str, exp.Expression] = field(default_factory=dict)
    groups: list[str] | None = None
    """SQL of what is grouped by; None as long as it is not known."""
    query: Callable[[exp.Expr, Scope], tuple[str, list[tuple[str, Type]]]] | None = None

    def ask(self, node: exp.Expr) -> tuple[str, list[tuple[str, Type]]]:
        """A query inside an expression, and its columns."""
        query = cast("Callable[[exp.Expr, Scope], tuple[str, list[tuple[str, Type]]]]", self.query)
        return query(node, self)

    def inner(self, **names: Expr) -> Scope:
        """The same with the parameters of a lambda."""
        return replace(self, names=self.names | names)


def refuse(text: str) -> ConfigError:
    return ConfigError(text)


def expression(node: exp.Expr, scope: Scope) -> Expr:
    """A node of the tree.

    Raises
    ------
    ConfigError
        It does not carry over.
    """
    kind = type(node)
    if kind in NODES:
        said = {key for key, value in node.args.items() if value}
        if unknown := said - {"this", "expression", "expressions", "negate", *ARGUMENTS.get(kind, ())}:
            raise refuse(f"{node.sql('spark')[:60]!r} ({', '.join(sorted(unknown))}) is not answered here")
        made = NODES[kind](node, scope)
        return merged(f"(NOT {made.sql})", st.BOOLEAN, f"(NOT {made.name})", [made]) if "negate" in said else made
    raise refuse(f"{node.sql('spark')[:60]!r} ({type(node).__name__}) is not answered here")


def merged(sql: str, kind: Type, name: str, parts: list[Expr]) -> Expr:
    """An expression made of others."""
    return Expr(sql, kind, name, aggregate=any(p.aggregate for p in parts), window=any(p.window for p in parts),
                volatile=any(p.volatile for p in parts))  # fmt: skip


# Names and literals ----------------------------------------------------------


def column_node(node: exp.Column, scope: Scope) -> Expr:
    if not all(isinstance(part, exp.Identifier) for part in node.parts):
        raise refuse(f"{node.sql('spark')[:60]!r} stands where a column is wanted")
    return named([part.name for part in node.parts], scope)


def named(parts: list[str], scope: Scope) -> Expr:
    """A column, a field of one, an alias or a parameter."""
    words = [part.lower() for part in parts]
    if words[0] in scope.names:
        return _fields(scope.names[words[0]], parts[1:])
    looks = [_of_alias, _of_source] if scope.aliases_first else [_of_source, _of_alias]
    here: Scope | None = scope
    while here is not None:
        for look in looks:
            if found := look(parts, words, here):
                return found
        here, looks = here.parent, [_of_source]
    if words == ["current_date"] or words == ["current_timestamp"] or words == ["localtimestamp"]:
        return call(words[0], [], scope)
    raise refuse(f"there is no column {'.'.join(parts)}")


def _of_source(parts: list[str], words: list[str], scope: Scope) -> Expr | None:
    if len(words) > 1:
        owners = [source for source in scope.sources if source.name.lower() == words[0]]
        found = [c for source in owners for c in source.columns if c.name.lower() == words[1]]
        if len(found) > 1:
            raise refuse(f"{'.'.join(parts)} is ambiguous")
        if found:
            return _fields(Expr(found[0].sql, found[0].type, parts[1]), parts[2:])
    found = [c for source in scope.sources for c in source.columns if c.name.lower() == words[0] and not c.hidden]
    if len({c.sql for c in found}) > 1:
        raise refuse(f"{parts[0]} is ambiguous")
    return _fields(Expr(found[0].sql, found[0].type, parts[0]), parts[1:]) if found else None


def _of_alias(parts: list[str], words: list[str], scope: Scope) -> Expr | None:
    found = scope.aliases.get(words[0])
    if found is None:
        return None
    if found.volatile:
        raise refuse(f"{parts[0]} is worked out anew each time; use it in a query around this one")
    return _fields(replace(found, name=parts[0]), parts[1:])


def _fields(found: Expr, names: list[str]) -> Expr:
    for name in names:
        found = _field(found, name)
    return found


def _field(of: Expr, name: str) -> Expr:
    if of.type.kind == "array" and of.type.inner[0].kind == "struct":
        item = _field(Expr("e", of.type.inner[0], of.name), name)
        return replace(
            of, sql=f"list_transform({of.sql}, lambda e: {item.sql})", type=st.array(item.type), name=item.name
        )
    found = [one for one in of.type.inner if of.type.kind == "struct" and one[0].lower() == name.lower()]
    if len(found) != 1:
        raise refuse(f"{of.name} has no field {name}")
    sql = f"struct_extract({of.sql}, {st.text(found[0][0])})"
    return replace(of, sql=sql, type=found[0][1], name=f"{of.name}.{name}", constant=NO_CONSTANT)


def identifier_node(node: exp.Identifier, scope: Scope) -> Expr:
    return named([node.name], scope)


def dot_node(node: exp.Dot, scope: Scope) -> Expr:
    if not isinstance(node.expression, exp.Identifier):
        raise refuse(f"{node.sql('spark')[:60]!r} is not answered here")
    return _field(expression(node.this, scope), node.expression.name)


def literal_node(node: exp.Literal, scope: Scope) -> Expr:
    return text_literal(node.name) if node.is_string else _number(node.name, "")


def text_literal(value: str) -> Expr:
    """A text."""
    return Expr(st.text(value), st.STRING, value, value)


def _number(written: str, sign: str) -> Expr:
    if written.isdigit():
        value = int(sign + written)
        kind = st.INT if -(2**31) <= value < 2**31 else st.BIGINT if -(2**63) <= value < 2**63 else None
        if kind is None:
            kind = st.decimal(len(written.lstrip("0")), 0)
        if len(written) > 38:
            raise refuse(f"{written} has more than 38 digits")
        return Expr(f"CAST({value} AS {kind.duck})", kind, str(value), value)
    if "e" in written.lower():
        double = float(sign + written)
        if double in (float("inf"), float("-inf")):
            raise refuse(f"{written} is too large")
        return Expr(f"CAST('{double!r}' AS DOUBLE)", st.DOUBLE, _double_name(double), double)
    whole, _, behind = written.partition(".")
    digits = len(whole.lstrip("0")) + len(behind)
    if not (whole + behind).isdigit() or digits > 38:
        raise refuse(f"{written} is no number that is answered here")
    kind = Type("decimal", (max(digits, 1), len(behind)))
    shown = f"{whole.lstrip('0') or '0'}" + (f".{behind}" if behind else "")
    return Expr(f"CAST('{sign}{whole}.{behind or 0}' AS {kind.duck})", kind, sign + shown, float(sign + written))


def _double_name(value: float) -> str:
    from lakehouse_lib.sql.json_text import number

    return repr(value) if value == 0 or 0.001 <= abs(value) < 1e7 else number(repr(value))


def neg_node(node: exp.Neg, scope: Scope) -> Expr:
    if node.this.is_number and isinstance(node.this, exp.Literal):
        return _number(node.this.name, "-")
    one = expression(node.this, scope)
    if one.type == st.INTERVAL:
        return replace(one, sql=f"(-{one.sql})")
    if one.known and isinstance(node.this, exp.Cast) and not node.this.meta.get("cast"):
        return merged(f"(-{one.sql})", one.type, f"-{one.name}", [one])
    made = call("negative", [one], scope)
    return replace(made, name=f"(- {one.name})")


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
    if not all(isinstance(one, exp.Literal) and one.is_string for one in node.expressions):
        raise refuse(f"{node.sql('spark')[:60]!r} is not answered here")
    return text_literal("".join(one.name for one in node.expressions))


def paren_node(node: exp.Paren, scope: Scope) -> Expr:
    return expression(node.this, scope)


def cast_node(node: exp.Cast, scope: Scope) -> Expr:
    if set(filter(node.args.get, node.args)) - {"this", "to", "safe", "_type"}:
        raise refuse(f"{node.sql('spark')[:60]!r} is not answered here")
    one, to, safe = expression(node.this, scope), st.built(node.to), isinstance(node, exp.TryCast)
    made = merged(
        st.cast(one.sql, one.type, to, safe), to, f"{'TRY_CAST' if safe else 'CAST'}({one.name} AS {to})", [one]
    )
    if node.meta.get("cast") or safe or not one.known:
        return made
    if to.kind in ("date", "timestamp"):
        shown = one.name[:10] if to == st.DATE else one.name
        return replace(made, name=f"{to} '{shown}'", constant=one.constant)
    shown = _double_name(float(one.constant)) if to.kind in ("double", "float") else one.name
    return replace(made, name=shown, constant=one.constant)


def interval_node(node: exp.Interval, scope: Scope) -> Expr:
    unit = node.args.get("unit")
    word = unit.name.upper().rstrip("S") if isinstance(unit, exp.Var) else ""
    if word not in ("YEAR", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND") or node.this is None:
        raise refuse(f"{node.sql('spark')[:60]!r} is not answered here; say INTERVAL 3 DAYS")
    said = node.this.this if isinstance(node.this, exp.Neg) else node.this
    if isinstance(said, exp.Literal) and (sign := "-" if isinstance(node.this, exp.Neg) else "") is not None:
        value = sign + said.name.strip()
        if not value.lstrip("+-").isdigit():
            raise refuse(f"{node.sql('spark')[:60]!r} is not answered here")
        number = int(value) if value.count("-") < 2 else 0
        return Expr(f"INTERVAL ({number}) {word}", st.INTERVAL, f"INTERVAL '{number}' {word}", word)
    raise refuse(f"{node.sql('spark')[:60]!r} is not answered here; its length is to be a number")


# Calls -----------------------------------------------------------------------


def call(name: str, args: list[Expr], scope: Scope, shown: str = "") -> Expr:
    """A function of values.

    Raises
    ------
    ConfigError
        It is not answered for these.
    """
    return CALLED[0](name.lower(), args, scope, shown)


def lambda_(node: exp.Expression, scope: Scope, *kinds: Type) -> tuple[list[str], Expr]:
    """The parameters and the body of a lambda whose parameters are of these types."""
    if not isinstance(node, exp.Lambda) or len(node.expressions) not in range(1, len(kinds) + 1):
        raise refuse(f"{node.sql('spark')[:60]!r}: a lambda of {len(kinds)} parameters is wanted")
    words = [part.name.lower() for part in node.expressions]
    names = [f"l{zlib.crc32((word + str(len(scope.names))).encode())}" for word in words]
    given = {
        word: Expr(name, kind, "namedlambdavariable()") for word, name, kind in zip(words, names, kinds, strict=False)
    }
    body = expression(node.this, scope.inner(**given))
    if body.aggregate or body.window:
        raise refuse("an aggregate in a lambda is an error in Spark")
    shown = ", ".join([body.name, *["namedlambdavariable()"] * len(words)])
    return names, replace(body, name=f"lambdafunction({shown})")


def call_of(name: str, *parts: str) -> Callable[[exp.Expression, Scope], Expr]:
    def made(node: exp.Expression, scope: Scope) -> Expr:
        known = {key for key, value in node.args.items() if value}
        if known - set(parts):
            raise refuse(f"{node.sql('spark')[:60]!r} is not answered here")
        return call(name, [expression(node.args[part], scope) for part in parts if node.args.get(part)], scope)

    return made


def trim_node(node: exp.Trim, scope: Scope) -> Expr:
    side = (node.args.get("position") or "BOTH").upper()
    one = expression(node.this, scope)
    chars = node.expression and expression(node.expression, scope)
    name = {"BOTH": "btrim", "LEADING": "ltrim", "TRAILING": "rtrim"}[side]
    if chars is None:
        return call(name if side != "BOTH" else "trim", [one], scope, "trim" if side == "BOTH" else name)
    made = call(name, [one, chars] if side == "BOTH" else [chars, one], scope)
    return replace(made, name=f"TRIM({side} {chars.name} FROM {one.name})")


def extract_node(node: exp.Extract, scope: Scope) -> Expr:
    one = call("date_part", [text_literal(node.name), expression(node.expression, scope)], scope)
    return replace(one, name=f"extract({node.name} FROM {expression(node.expression, scope).name})")


def by_signature(
    listed: list[signatures.Signature], name: str, args: list[Expr]
) -> tuple[signatures.Signature, list[str], dict[str, Type]] | None:
    """The signature, the arguments cast to it, and its letters."""
    found = signatures.chosen(listed, [arg.type for arg in args], [constant(arg) for arg in args])
    if found is None:
        return None
    signature, wanted, letters = found
    return signature, [arg.to(kind) for arg, kind in zip(args, wanted, strict=True)], letters


def constant(arg: Expr) -> bool:
    """Whether it is a literal, or an array of such: no column and no function has capitals alone."""
    return arg.known or bool(re.fullmatch(r"\[[\dA-Z_'.,()\[\] -]+\]", arg.sql))
