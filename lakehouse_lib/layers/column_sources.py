"""What the value of an expression in a Spark Connect plan is computed from.

For each expression: the source columns that its value is computed from, and those that decide which value it is.
Sources are written ``table.column``; ``table.*`` means the number of rows of a table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import sqlglot
from sqlglot import exp

Refs = frozenset[str]
NONE: Refs = frozenset()


@dataclass(frozen=True)
class Value:
    """The sources of a value (``direct``), and the sources that decide which value it is (``indirect``).

    Arrays have the fields of their elements; ``length`` has the sources of the number of elements. The keys of a map
    with a ``source`` are columns of that source.
    """

    direct: Refs = NONE
    indirect: Refs = NONE
    fields: Mapping[str, Value] | None = None
    length: Refs | None = None
    source: str = ""

    @property
    def refs(self) -> Refs:
        """All sources that the value depends on."""
        return self.direct | self.indirect

    def get(self, name: str) -> Value:
        """Return a field of a struct, or the value of a key."""
        if self.source:
            return Value(frozenset({f"{self.source}.{name}"}))
        if self.fields and name in self.fields:
            inner = self.fields[name]
            return inner.because(self.indirect)
        return Value(self.direct, self.indirect)

    def because(self, refs: Refs) -> Value:
        """Return the same value, selected by further sources."""
        return replace(self, indirect=self.indirect | refs)


@dataclass
class Frame:
    """The columns of a relation; ``rows`` has the sources of its rows, ``by`` what selected and grouped them."""

    columns: dict[str, Value] = field(default_factory=dict)
    rows: Refs = NONE
    by: Refs = NONE


_GENERATORS = ("explode", "posexplode", "inline")
"""Functions that turn one row into several; each also exists with the suffix ``_outer``."""


def named(node: Any, frame: Frame) -> list[tuple[str, Value]]:
    """Return the columns that an expression of a projection produces."""
    kind = node.WhichOneof("expr_type")
    if kind == "unresolved_star":
        target = node.unresolved_star.unparsed_target.removesuffix(".*")
        if not target:
            return list(frame.columns.items())
        owner = _attribute(target, frame)
        return [(name, owner.get(name)) for name in owner.fields or {}]
    names = list(node.alias.name) if kind == "alias" else []
    inner = node.alias.expr if kind == "alias" else node
    call = inner.unresolved_function if inner.WhichOneof("expr_type") == "unresolved_function" else None
    function = call.function_name.removesuffix("_outer") if call else ""
    if call and function in _GENERATORS:
        value = sources_of(call.arguments[0], frame)
        if function == "inline":
            parts = [(name, value.get(name)) for name in value.fields or {}]
            return [(alias, part) for alias, (_, part) in zip(names or value.fields or {}, parts, strict=True)]
        element = replace(value, length=None)
        if function == "posexplode":
            return list(zip(names or ("pos", "col"), (Value(indirect=value.refs), element), strict=True))
        return [(name, element) for name in names or ("col",)]
    return [(names[0] if names else name_of(node), column_value(inner, frame))]


def exploded_rows(node: Any, frame: Frame) -> Refs | None:
    """Return the sources of the rows if an expression turns one row into several."""
    inner = node.alias.expr if node.WhichOneof("expr_type") == "alias" else node
    if inner.WhichOneof("expr_type") != "unresolved_function":
        return None
    call = inner.unresolved_function
    if call.function_name.removesuffix("_outer") not in _GENERATORS:
        return None
    value = sources_of(call.arguments[0], frame)
    return value.direct if value.length is None else value.length


def column_value(node: Any, frame: Frame) -> Value:
    """Return the value of a column. A constant 1 or true is meant to be counted, so its sources are the rows."""
    inner = node
    while inner.WhichOneof("expr_type") == "cast":
        inner = inner.cast.expr
    if inner.WhichOneof("expr_type") == "literal":
        kind = inner.literal.WhichOneof("literal_type")
        if kind in ("boolean", "integer", "long") and getattr(inner.literal, kind) == 1:
            return Value(frame.rows)
    return sources_of(node, frame)


def sources_of(node: Any, frame: Frame) -> Value:
    """Return the sources of an expression.

    Raises
    ------
    LookupError
        The frame has no such column.
    NotImplementedError
        The kind of expression is unknown.
    """
    kind = node.WhichOneof("expr_type")
    body = getattr(node, kind)
    match kind:
        case "literal":
            return Value()
        case "unresolved_attribute":
            return _attribute(body.unparsed_identifier, frame)
        case "unresolved_named_lambda_variable":
            return _attribute(".".join(body.name_parts), frame)
        case "alias" | "cast":
            return sources_of(body.expr, frame)
        case "sort_order":
            return sources_of(body.child, frame)
        case "expression_string":
            return _text(body.expression, frame)
        case "unresolved_star":
            return union(frame.columns.values())
        case "window":
            order = [part.child for part in body.order_spec]
            over = [sources_of(part, frame) for part in (*body.partition_spec, *order)]
            return sources_of(body.window_function, frame).because(union(over).refs)
        case "unresolved_extract_value":
            return _part(sources_of(body.child, frame), body.extraction, frame)
        case "unresolved_function" | "call_function":
            return _call(body.function_name.lower(), list(body.arguments), frame)
    raise NotImplementedError(f"expression {kind}")


def _part(owner: Value, which: Any, frame: Frame) -> Value:
    """Return a field of a struct, or an element of an array or a map."""
    if which.WhichOneof("expr_type") == "literal":
        return owner.get(str(getattr(which.literal, which.literal.WhichOneof("literal_type"))))
    return replace(owner, length=None).because(sources_of(which, frame).refs)


def _attribute(text: str, frame: Frame) -> Value:
    """Return a column by name, or a field of it; a leading qualifier is ignored."""
    parts = _parts(text)
    while parts and parts[0] not in frame.columns:
        parts.pop(0)
    if not parts:
        raise LookupError(f"column {text} of {', '.join(frame.columns)}")
    return reduce(Value.get, parts[1:], frame.columns[parts[0]])


def _text(text: str, frame: Frame) -> Value:
    parsed = sqlglot.parse_one(text, dialect="spark")
    columns = [".".join(part.name for part in column.parts) for column in parsed.find_all(exp.Column)]
    return _plain(union(_attribute(column, frame) for column in columns))


def _call(name: str, arguments: list[Any], frame: Frame) -> Value:
    """Return the sources of a function call. An unknown function is assumed to use all of its arguments."""
    if handle := _HIGHER.get(name):
        return handle(arguments, frame)
    values = [sources_of(argument, frame) for argument in arguments]
    if name in ("named_struct", "struct"):
        if name == "struct":
            fields = {name_of(argument): value for argument, value in zip(arguments, values, strict=True)}
        else:
            names = [argument.literal.string for argument in arguments[::2]]
            fields = dict(zip(names, values[1::2], strict=True))
        whole = union(fields.values())
        return Value(whole.direct, whole.indirect, fields)
    if name == "count_if" or (name == "count" and not values[0].refs):
        return Value(frame.rows | values[0].direct, values[0].indirect)
    if name in ("collect_list", "collect_set"):
        return replace(values[0], length=frame.rows)
    if handle := _SHAPED.get(name):
        return handle(*values)
    return _plain(union(values))


def name_of(node: Any) -> str:
    """Return the name that Spark gives to a column without an alias."""
    kind = node.WhichOneof("expr_type")
    if kind == "alias":
        return str(node.alias.name[0])
    if kind == "unresolved_attribute":
        return _parts(node.unresolved_attribute.unparsed_identifier)[-1]
    return name_of(node.cast.expr) if kind == "cast" else str(kind)


def _parts(text: str) -> list[str]:
    """Split a dotted name, removing backticks."""
    return [quoted or plain for quoted, plain in re.findall(r"`([^`]+)`|([^.`]+)", text)]


def union(values: Iterable[Value]) -> Value:
    """Return a value that depends on everything that the given values depend on."""
    values = list(values)
    return Value(NONE.union(*(v.direct for v in values)), NONE.union(*(v.indirect for v in values)))


def _plain(value: Value) -> Value:
    return Value(value.direct, value.indirect)


def merged(values: list[Value]) -> Value:
    """Return a value that may be any of several: it has the sources of all of them, field by field."""
    whole = union(values)
    shaped = [value for value in values if value.fields]
    fields = None
    if shaped:
        names = dict.fromkeys(name for value in shaped for name in value.fields or {})
        fields = {name: merged([value.get(name) for value in shaped]) for name in names}
    lengths = [value.length for value in values if value.length is not None]
    source = max((value.source for value in values), default="")
    return Value(whole.direct, whole.indirect, fields, NONE.union(*lengths) if lengths else None, source)


def _chosen(values: list[Value]) -> Value:
    """Return ``when(condition, value, …, otherwise)``: computed from the values, selected by the conditions."""
    conditions = values[:-1:2] if len(values) % 2 else values[::2]
    results = values[1::2] + ([values[-1]] if len(values) % 2 else [])
    return merged(results).because(union(conditions).refs)


def _sorted(value: Value, *_: Value) -> Value:
    return value.because(value.direct)


def _element(value: Value, *at: Value) -> Value:
    """Return an element of an array, or a value selected by the order of others."""
    return replace(value, length=None).because(union(at).refs)


def _size(value: Value) -> Value:
    return _plain(value) if value.length is None else Value(value.length)


def _transform(arguments: list[Any], frame: Frame) -> Value:
    over, result = _lambda(arguments, frame)
    return replace(result, length=over.direct if over.length is None else over.length).because(over.indirect)


def _filtered(arguments: list[Any], frame: Frame) -> Value:
    over, condition = _lambda(arguments, frame)
    return replace(over, length=None).because(condition.refs - over.direct)


def _lambda(arguments: list[Any], frame: Frame) -> tuple[Value, Value]:
    over = sources_of(arguments[0], frame)
    body = arguments[1].lambda_function
    names = [part for variable in body.arguments for part in variable.name_parts]
    inner = Frame(frame.columns | dict.fromkeys(names, replace(over, length=None, source="")), frame.rows)
    return over, sources_of(body.function, inner)


_HIGHER: dict[str, Callable[[list[Any], Frame], Value]] = {
    "transform": _transform,
    "filter": _filtered,
    "map_filter": _filtered,
}

_SHAPED: dict[str, Callable[..., Value]] = {
    "when": lambda *values: _chosen(list(values)),
    "if": lambda *values: _chosen(list(values)),
    "coalesce": lambda *values: merged(list(values)),
    "array": lambda *values: replace(merged(list(values)), length=union(values).refs),
    "array_sort": _sorted,
    "sort_array": _sorted,
    "array_distinct": lambda value: replace(value, length=None),
    "get": _element,
    "element_at": _element,
    "max_by": _element,
    "min_by": _element,
    "lag": lambda value, *_: value,
    "lead": lambda value, *_: value,
    "size": _size,
    "broadcast": lambda value: value,
    "map_from_entries": lambda value: value,
    "map_entries": lambda value: value,
}
