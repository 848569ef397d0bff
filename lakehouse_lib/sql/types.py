"""Spark SQL types: the common type of two types, and casts in DuckDB that behave like Spark's (ANSI)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from lakehouse_lib.errors import ConfigError


@dataclass(frozen=True)
class Type:
    """A type; ``inner`` is (precision, scale), (element,), (key, value) or the (name, type) pairs of a struct."""

    kind: str
    inner: tuple[Any, ...] = ()

    def __str__(self) -> str:
        if self.kind == "struct":
            return f"STRUCT<{', '.join(f'{name}: {kind}' for name, kind in self.inner)}>"
        if self.kind == "decimal":
            return f"DECIMAL({self.inner[0]},{self.inner[1]})"
        if self.inner:
            return f"{self.kind.upper()}<{', '.join(map(str, self.inner))}>"
        return self.kind.upper()

    @property
    def duck(self) -> str:
        """The DuckDB type that stores the values."""
        if self.kind == "array":
            return f"{self.inner[0].duck}[]"
        if self.kind == "map":
            return f"MAP({self.inner[0].duck}, {self.inner[1].duck})"
        if self.kind == "struct":
            return f"STRUCT({', '.join(f'{quoted(name)} {kind.duck}' for name, kind in self.inner)})"
        return str(self) if self.kind == "decimal" else _DUCK[self.kind]

    def holds(self, *kinds: str) -> bool:
        """Return whether the type is, or contains, one of the kinds."""
        parts = [item[1] if self.kind == "struct" else item for item in self.inner if not isinstance(item, int)]
        return self.kind in kinds or any(part.holds(*kinds) for part in parts)


_DUCK = {"tinyint": "TINYINT", "smallint": "SMALLINT", "int": "INTEGER", "bigint": "BIGINT", "float": "FLOAT",
         "double": "DOUBLE", "string": "VARCHAR", "boolean": "BOOLEAN", "date": "DATE", "timestamp": "TIMESTAMP",
         "binary": "BLOB", "void": "INTEGER", "interval": "INTERVAL"}  # fmt: skip
TINYINT, SMALLINT, INT, BIGINT = map(Type, ("tinyint", "smallint", "int", "bigint"))
FLOAT, DOUBLE, STRING, BOOLEAN, DATE, TIMESTAMP, BINARY, VOID, INTERVAL = map(
    Type, ("float", "double", "string", "boolean", "date", "timestamp", "binary", "void", "interval")
)
INTEGRAL = ("tinyint", "smallint", "int", "bigint")
NUMERIC = (*INTEGRAL, "decimal", "float", "double")
DIGITS = {"tinyint": 3, "smallint": 5, "int": 10, "bigint": 20}
SIMPLE = (*NUMERIC, "string", "boolean", "date", "timestamp")


def decimal(precision: int, scale: int) -> Type:
    """Return a decimal of at most 38 digits; beyond that, digits after the point are dropped before those in front of
    it."""
    if precision > 38:
        scale = max(38 - (precision - scale), min(scale, 6))
    return Type("decimal", (min(precision, 38), scale))


def array(element: Type) -> Type:
    """Return an array of the element type."""
    return Type("array", (element,))


def quoted(name: str) -> str:
    """Return a quoted identifier for DuckDB."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """Return a string literal for DuckDB."""
    if "\0" in value:
        raise ConfigError("a string with a zero byte")
    return "'" + value.replace("'", "''") + "'"


_NAMES = {"TINYINT": TINYINT, "SMALLINT": SMALLINT, "INT": INT, "INTEGER": INT, "BIGINT": BIGINT, "FLOAT": FLOAT,
          "DOUBLE": DOUBLE, "TEXT": STRING, "VARCHAR": STRING, "BOOLEAN": BOOLEAN, "DATE": DATE,
          "TIMESTAMP": TIMESTAMP, "TIMESTAMPTZ": TIMESTAMP, "TIMESTAMPLTZ": TIMESTAMP, "BINARY": BINARY,
          "VARBINARY": BINARY, "BLOB": BINARY}  # fmt: skip


def built(node: exp.Expression | str, dialect: str = "spark") -> Type:
    """Return the type for a type name or node.

    Raises
    ------
    ConfigError
        The type has no counterpart.
    """
    if isinstance(node, str):
        node = exp.DataType.build(node, dialect=dialect)
    name, parts = node.this.name if isinstance(node.this, exp.DType) else "", node.expressions
    if name in ("ARRAY", "LIST") and len(parts) == 1:
        return array(built(parts[0]))
    if name == "MAP" and len(parts) == 2:
        return Type("map", (built(parts[0]), built(parts[1])))
    if name == "STRUCT" and parts and all(isinstance(part, exp.ColumnDef) for part in parts):
        return Type("struct", tuple((part.name, built(part.args["kind"])) for part in parts))
    if name in ("DECIMAL", "NUMERIC"):
        sizes = [int(part.name) for part in parts] or [10]
        if sizes[0] > 38 or (sizes[-1] > sizes[0] and len(sizes) > 1):
            raise ConfigError(f"the type {node.sql()} is not supported")
        return Type("decimal", (sizes[0], sizes[1] if len(sizes) > 1 else 0))
    if name in _NAMES and not parts:
        return _NAMES[name]
    raise ConfigError(f"the type {node.sql('spark')[:60]} is not supported")


def as_decimal(kind: Type, literal: object = None) -> Type:
    """Return the decimal type that holds an integer type, or the literal if it is an integer."""
    if kind.kind == "decimal":
        return kind
    if isinstance(literal, int):
        return decimal(len(str(abs(literal))), 0)
    return decimal(DIGITS[kind.kind], 0)


def common(left: Type, right: Type) -> Type | None:
    """Return the type in which values of both types are compared or combined (ANSI); None if there is none."""
    if left == right or right == VOID:
        return left
    if left == VOID:
        return right
    kinds = {left.kind, right.kind}
    if kinds <= set(NUMERIC):
        return _common_number(left, right)
    if "string" in kinds:
        return _common_with_text(right if left == STRING else left)
    if kinds == {"date", "timestamp"}:
        return TIMESTAMP
    if len(kinds) == 1 and left.kind in ("array", "map"):
        inner = [common(a, b) for a, b in zip(left.inner, right.inner, strict=True)]
        return None if None in inner else Type(left.kind, tuple(inner))
    if kinds == {"struct"} and len(left.inner) == len(right.inner):
        fields = [(a[0], common(a[1], b[1])) for a, b in zip(left.inner, right.inner, strict=True)]
        same = all(a[0].lower() == b[0].lower() for a, b in zip(left.inner, right.inner, strict=True))
        return None if not same or any(kind is None for _, kind in fields) else Type("struct", tuple(fields))
    return None


def _common_number(left: Type, right: Type) -> Type:
    kinds = {left.kind, right.kind}
    if kinds & {"float", "double"}:
        return FLOAT if kinds == {"float"} else DOUBLE
    if "decimal" in kinds:
        (p, s), (q, t) = as_decimal(left).inner, as_decimal(right).inner
        return decimal(max(p - s, q - t) + max(s, t), max(s, t))
    return max(left, right, key=lambda kind: INTEGRAL.index(kind.kind))


def _common_with_text(kind: Type) -> Type | None:
    if kind.kind in NUMERIC:
        return BIGINT if kind.kind in INTEGRAL else DOUBLE
    return kind if kind.kind in ("boolean", "date", "timestamp", "binary") else None


def implicit(source: Type, target: Type) -> bool:
    """Return whether Spark implicitly casts a value of the source type for a parameter of the target type."""
    if source in (target, VOID):
        return True
    a, b = source.kind, target.kind
    if a in NUMERIC and b in NUMERIC:
        if b == "decimal":
            return a in INTEGRAL or a == "decimal"
        rank = [*INTEGRAL, "decimal", "float", "double"].index
        return rank(a) <= rank(b)
    if b == "string":
        return a in SIMPLE
    if a == "string":
        return b in (*NUMERIC, "boolean", "date", "timestamp", "binary")
    if {a, b} == {"date", "timestamp"}:
        return True
    return a == b == "array" and implicit(source.inner[0], target.inner[0])


# Casts -----------------------------------------------------------------------


def once(sql: str, render: Callable[[str], str]) -> str:
    """Return SQL that uses an operand more than once; a long operand is evaluated once, so that the SQL does not grow
    with every nesting."""
    if len(sql) < 120 or not re.search(r"\W", sql):
        return render(sql)
    return f"list_transform([{sql}], lambda v{len(sql)}: {render(f'v{len(sql)}')})[1]"


_PLAIN_NUMBER = r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*"


def cast(sql: str, source: Type, target: Type, safe: bool = False) -> str:
    """Return a value cast to another type as by Spark's CAST; NULL instead of an error if ``safe``.

    Raises
    ------
    ConfigError
        Spark has no such cast, or DuckDB cannot do it.
    """
    if source == target:
        return sql
    if source == VOID:
        return f"CAST(NULL AS {target.duck})"
    result = (
        _cast_nested(sql, source, target, safe)
        if source.inner and source.kind != "decimal"
        else _cast_simple(sql, source, target, safe)
    )
    if result is None:
        raise ConfigError(f"a cast of {source} to {target} is not supported")
    return result


def _cast_simple(sql: str, source: Type, target: Type, safe: bool) -> str | None:
    a, b = source.kind, target.kind
    plain = f"{'TRY_CAST' if safe else 'CAST'}({sql} AS {target.duck})"

    def guarded(condition: str, value: str, safe: bool = safe) -> str:
        failure = "NULL" if safe else f"error('This is not a {b}: ' || {{0}}::VARCHAR)"
        return once(sql, lambda v: f"CASE WHEN {v} IS NULL THEN NULL WHEN {condition.replace('{0}', v)} "
                                   f"THEN {value.replace('{0}', v)} ELSE {failure.replace('{0}', v)} END")  # fmt: skip

    template = f"{'TRY_CAST' if safe else 'CAST'}({{}} AS {target.duck})"
    if a == "string":
        return _cast_text(sql, target, guarded, template)
    if b == "string":
        return to_text(sql, source)
    if a in NUMERIC and (result := _cast_number(sql, a, b, plain, guarded, template)):
        return result
    if a == "boolean" and b in NUMERIC:
        return plain
    if a == "timestamp" and b in ("bigint", "int"):
        return template.format(f"CAST(floor(epoch_us({sql})::DECIMAL(20,0) / 1000000) AS BIGINT)")
    if a == "timestamp" and b in ("double", "float"):
        return f"CAST(epoch_us({sql}) / 1000000.0::DOUBLE AS {target.duck})"
    if {a, b} == {"date", "timestamp"}:
        return plain
    return f"encode({sql})" if (a, b) == ("string", "binary") else None


def _cast_number(sql: str, a: str, b: str, plain: str, guarded: Callable[..., str], template: str) -> str | None:
    floating = a in ("float", "double")
    if b in INTEGRAL and (floating or a == "decimal"):
        return template.format(f"trunc({sql})")
    if b == "decimal" and floating:
        return template.format(f"CAST({sql} AS VARCHAR)")
    if b == "boolean":
        return f"({sql} <> 0)"
    if b == "timestamp" and floating:
        value = "make_timestamp(CAST(trunc(CAST({0} AS DOUBLE) * 1000000) AS BIGINT))"
        return guarded("isfinite({0}) AND abs({0}) < 2e11", value, False)
    if b == "timestamp" and a in INTEGRAL:
        return guarded("abs({0}::DOUBLE) < 2e11", "make_timestamp(CAST({0} AS BIGINT) * 1000000)", False)
    return plain if b in NUMERIC else None


def _cast_text(sql: str, target: Type, guarded: Callable[[str, str], str], template: str) -> str | None:
    kind = target.kind
    trimmed = "trim({0}, ' \t\n\r\x0b\x0c')"
    if kind in INTEGRAL:
        return guarded(r"regexp_full_match({0}, '\s*[+-]?\d+\s*')", template.format(trimmed))
    if kind == "decimal":
        return guarded(f"regexp_full_match({{0}}, '{_PLAIN_NUMBER}')", template.format(trimmed))
    if kind in ("double", "float"):
        number = f"{_PLAIN_NUMBER}|(?i)\\s*[+-]?(nan|inf|infinity)\\s*"
        value = f"CASE WHEN regexp_full_match({{0}}, '{_PLAIN_NUMBER}') THEN {template} ELSE {template} END"
        return guarded(f"regexp_full_match({{0}}, '{number}')", value.replace("{}", trimmed))
    if kind == "boolean":
        yes, no = "('t','true','y','yes','1')", "('f','false','n','no','0')"
        word = f"lower({trimmed})"
        return guarded(f"{word} IN {yes} OR {word} IN {no}", f"({word} IN {yes})")
    if kind == "date":
        return guarded(
            r"regexp_full_match({0}, '\s*\d{4}-\d\d?-\d\d?([ T].*)?\s*')",
            template.format(r"regexp_extract({0}, '\d{4}-\d\d?-\d\d?')"),
        )
    if kind == "timestamp":
        return guarded(
            "spark_timestamp({0}) IS NOT NULL",
            r"CASE WHEN regexp_full_match({0}, '\d{4}-\d\d-\d\d([ T]\d\d:\d\d:\d\d(\.\d{1,6})?)?') "
            "THEN TRY_CAST({0} AS TIMESTAMP) ELSE spark_timestamp({0}) END",
        )
    return f"encode({sql})" if kind == "binary" else None


def to_text(sql: str, kind: Type) -> str:
    """Return a value cast to a string as Spark writes it."""
    if kind == STRING:
        return sql
    if kind.kind in ("double", "float"):
        exact = "CAST({0} AS VARCHAR)"
        return once(sql, lambda v: f"CASE WHEN abs({v}) >= 0.001 AND abs({v}) < 10000000 OR {v} = 0 "
                                   f"THEN {exact.format(v)} ELSE spark_number({exact.format(v)}) END")  # fmt: skip
    if kind.kind in (*INTEGRAL, "decimal", "boolean", "date", "timestamp"):
        return f"CAST({sql} AS VARCHAR)"
    if kind == BINARY:
        return f"decode({sql})"
    if kind == VOID:
        return "CAST(NULL AS VARCHAR)"
    if kind.kind == "array":
        return once(sql, lambda v: f"('[' || array_to_string({_elements_to_text(v, kind.inner[0])}, ', ') || ']')")
    if kind.kind == "map":
        key, value = (
            to_text(part, part_type) for part, part_type in zip(("e.key", "e.value"), kind.inner, strict=True)
        )
        return once(sql, lambda v: f"('{{' || array_to_string(list_transform(map_entries({v}), lambda e: {key} || "
                                   f"' -> ' || coalesce({value}, 'null')), ', ') || '}}')")  # fmt: skip
    if kind.kind == "struct":

        def render(v: str) -> str:
            parts = [f"coalesce({to_text(f'{v}.{quoted(name)}', part_type)}, 'null')" for name, part_type in kind.inner]
            return f"CASE WHEN {v} IS NOT NULL THEN '{{' || {' || {} || '.format(text(', ')).join(parts)} || '}}' END"

        return once(sql, render)
    raise ConfigError(f"{kind} as text is not supported")


def _elements_to_text(sql: str, element: Type) -> str:
    return f"list_transform({sql}, lambda e{len(sql)}: coalesce({to_text(f'e{len(sql)}', element)}, 'null'))"


def _cast_nested(sql: str, source: Type, target: Type, safe: bool) -> str | None:
    if target == STRING:
        return to_text(sql, source)
    if source.kind != target.kind:
        return None
    if source.kind == "array":
        name = f"e{len(sql)}"
        if source.inner[0] == VOID:
            return f"CAST({sql} AS {target.duck})"
        return f"list_transform({sql}, lambda {name}: {cast(name, source.inner[0], target.inner[0], safe)})"
    if source.kind == "map":
        if VOID in source.inner:
            return f"CAST({sql} AS {target.duck})"
        name = f"e{len(sql)}"
        key, value = (
            cast(f"{name}.{part}", a, b, safe)
            for part, a, b in zip(("key", "value"), source.inner, target.inner, strict=True)
        )
        return (
            f"map_from_entries(list_transform(map_entries({sql}), lambda {name}: "
            f"struct_pack(key := {key}, value := {value})))"
        )
    if len(source.inner) != len(target.inner):
        return None

    def render(v: str) -> str:
        fields = [
            f"{quoted(b[0])} := {cast(f'{v}.{quoted(a[0])}', a[1], b[1], safe)}"
            for a, b in zip(source.inner, target.inner, strict=True)
        ]
        return f"CASE WHEN {v} IS NOT NULL THEN struct_pack({', '.join(fields)}) END"

    return once(sql, render)
