"""Types of Spark SQL: what two of them have in common, and how DuckDB casts as Spark (ANSI) does."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from lakehouse_lib.errors import ConfigError


@dataclass(frozen=True)
class Type:
    """A type; ``inner`` are precision and scale, element, key and value, or (name, type) of fields."""

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
        """The type in DuckDB that holds the values."""
        if self.kind == "array":
            return f"{self.inner[0].duck}[]"
        if self.kind == "map":
            return f"MAP({self.inner[0].duck}, {self.inner[1].duck})"
        if self.kind == "struct":
            return f"STRUCT({', '.join(f'{quoted(name)} {kind.duck}' for name, kind in self.inner)})"
        return str(self) if self.kind == "decimal" else _DUCK[self.kind]

    def holds(self, *kinds: str) -> bool:
        """Whether it is, or has within it, one of the kinds."""
        parts = [one[1] if self.kind == "struct" else one for one in self.inner if not isinstance(one, int)]
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
BITS = {"tinyint": 8, "smallint": 16, "int": 32, "bigint": 64}
SIMPLE = (*NUMERIC, "string", "boolean", "date", "timestamp")


def decimal(precision: int, scale: int) -> Type:
    """A decimal of at most 38 digits, which loses digits behind the point before those ahead of it."""
    if precision > 38:
        scale = max(38 - (precision - scale), min(scale, 6))
    return Type("decimal", (min(precision, 38), scale))


def array(element: Type) -> Type:
    """An array of an element's type."""
    return Type("array", (element,))


def quoted(name: str) -> str:
    """A name as DuckDB reads it."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text as DuckDB reads it."""
    if "\0" in value:
        raise ConfigError("a text with a zero byte")
    return "'" + value.replace("'", "''") + "'"


_NAMES = {"TINYINT": TINYINT, "SMALLINT": SMALLINT, "INT": INT, "INTEGER": INT, "BIGINT": BIGINT, "FLOAT": FLOAT,
          "DOUBLE": DOUBLE, "TEXT": STRING, "VARCHAR": STRING, "BOOLEAN": BOOLEAN, "DATE": DATE,
          "TIMESTAMP": TIMESTAMP, "TIMESTAMPTZ": TIMESTAMP, "TIMESTAMPLTZ": TIMESTAMP, "BINARY": BINARY,
          "VARBINARY": BINARY, "BLOB": BINARY}  # fmt: skip


def built(node: exp.Expression | str, dialect: str = "spark") -> Type:
    """The type that a type's name or node stands for.

    Raises
    ------
    ConfigError
        It has no counterpart.
    """
    if isinstance(node, str):
        node = exp.DataType.build(node, dialect=dialect)
    name, parts = node.this.name if isinstance(node.this, exp.DType) else "", node.expressions
    if name in ("ARRAY", "LIST") and len(parts) == 1:
        return array(built(parts[0]))
    if name == "MAP" and len(parts) == 2:
        return Type("map", (built(parts[0]), built(parts[1])))
    if name == "STRUCT" and parts and all(isinstance(one, exp.ColumnDef) for one in parts):
        return Type("struct", tuple((one.name, built(one.args["kind"])) for one in parts))
    if name in ("DECIMAL", "NUMERIC"):
        sizes = [int(one.name) for one in parts] or [10]
        if sizes[0] > 38 or (sizes[-1] > sizes[0] and len(sizes) > 1):
            raise ConfigError(f"the type {node.sql()}")
        return Type("decimal", (sizes[0], sizes[1] if len(sizes) > 1 else 0))
    if name in _NAMES and not parts:
        return _NAMES[name]
    raise ConfigError(f"the type {node.sql('spark')[:60]} is not answered here")


def as_decimal(kind: Type, literal: object = None) -> Type:
    """The decimal that an integer's type, or the literal, stands for."""
    if kind.kind == "decimal":
        return kind
    if isinstance(literal, int):
        return decimal(len(str(abs(literal))), 0)
    return decimal(DIGITS[kind.kind], 0)


def common(one: Type, other: Type) -> Type | None:
    """The type that values of both are compared, united or chosen in (ANSI); None if there is none."""
    if one == other or other == VOID:
        return one
    if one == VOID:
        return other
    kinds = {one.kind, other.kind}
    if kinds <= set(NUMERIC):
        return _number(one, other)
    if "string" in kinds:
        return _beside_text(other if one == STRING else one)
    if kinds == {"date", "timestamp"}:
        return TIMESTAMP
    if len(kinds) == 1 and one.kind in ("array", "map"):
        inner = [common(a, b) for a, b in zip(one.inner, other.inner, strict=True)]
        return None if None in inner else Type(one.kind, tuple(inner))
    if kinds == {"struct"} and len(one.inner) == len(other.inner):
        fields = [(a[0], common(a[1], b[1])) for a, b in zip(one.inner, other.inner, strict=True)]
        same = all(a[0].lower() == b[0].lower() for a, b in zip(one.inner, other.inner, strict=True))
        return None if not same or any(kind is None for _, kind in fields) else Type("struct", tuple(fields))
    return None


def _number(one: Type, other: Type) -> Type:
    kinds = {one.kind, other.kind}
    if kinds & {"float", "double"}:
        return FLOAT if kinds == {"float"} else DOUBLE
    if "decimal" in kinds:
        (p, s), (q, t) = as_decimal(one).inner, as_decimal(other).inner
        return decimal(max(p - s, q - t) + max(s, t), max(s, t))
    return max(one, other, key=lambda kind: INTEGRAL.index(kind.kind))


def _beside_text(other: Type) -> Type | None:
    if other.kind in NUMERIC:
        return BIGINT if other.kind in INTEGRAL else DOUBLE
    return other if other.kind in ("boolean", "date", "timestamp", "binary") else None


def implicit(given: Type, wanted: Type) -> bool:
    """Whether Spark hands a value of one type to a function that wants the other."""
    if given in (wanted, VOID):
        return True
    a, b = given.kind, wanted.kind
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
    return a == b == "array" and implicit(given.inner[0], wanted.inner[0])


# Casts -----------------------------------------------------------------------


def once(sql: str, made: Callable[[str], str]) -> str:
    """SQL that uses a part more than once; a long part is worked out by itself, so that texts do not
    grow with each step."""
    if len(sql) < 120 or not re.search(r"\W", sql):
        return made(sql)
    return f"list_transform([{sql}], lambda v{len(sql)}: {made(f'v{len(sql)}')})[1]"


_PLAIN_NUMBER = r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*"


def cast(sql: str, given: Type, to: Type, safe: bool = False) -> str:
    """A value in another type, as Spark's CAST makes it; NULL instead of an error if ``safe``.

    Raises
    ------
    ConfigError
        Spark does not cast so, or DuckDB cannot.
    """
    if given == to:
        return sql
    if given == VOID:
        return f"CAST(NULL AS {to.duck})"
    made = _nested(sql, given, to, safe) if given.inner and given.kind != "decimal" else _simple(sql, given, to, safe)
    if made is None:
        raise ConfigError(f"a cast of {given} to {to} is not answered here")
    return made


def _simple(sql: str, given: Type, to: Type, safe: bool) -> str | None:
    a, b = given.kind, to.kind
    plain = f"{'TRY_CAST' if safe else 'CAST'}({sql} AS {to.duck})"

    def only(condition: str, value: str, safe: bool = safe) -> str:
        bad = "NULL" if safe else f"error('This is no {b}: ' || {{0}}::VARCHAR)"
        return once(sql, lambda v: f"CASE WHEN {v} IS NULL THEN NULL WHEN {condition.replace('{0}', v)} "
                                   f"THEN {value.replace('{0}', v)} ELSE {bad.replace('{0}', v)} END")  # fmt: skip

    inner = f"{'TRY_CAST' if safe else 'CAST'}({{}} AS {to.duck})"
    if a == "string":
        return _of_text(sql, to, only, inner)
    if b == "string":
        return to_text(sql, given)
    if a in NUMERIC and (made := _of_number(sql, a, b, plain, only, inner)):
        return made
    if a == "boolean" and b in NUMERIC:
        return plain
    if a == "timestamp" and b in ("bigint", "int"):
        return inner.format(f"CAST(floor(epoch_us({sql})::DECIMAL(20,0) / 1000000) AS BIGINT)")
    if a == "timestamp" and b in ("double", "float"):
        return f"CAST(epoch_us({sql}) / 1000000.0::DOUBLE AS {to.duck})"
    if {a, b} == {"date", "timestamp"}:
        return plain
    return f"encode({sql})" if (a, b) == ("string", "binary") else None


def _of_number(sql: str, a: str, b: str, plain: str, only: Callable[..., str], inner: str) -> str | None:
    floating = a in ("float", "double")
    if b in INTEGRAL and (floating or a == "decimal"):
        return inner.format(f"trunc({sql})")
    if b == "decimal" and floating:
        return inner.format(f"CAST({sql} AS VARCHAR)")
    if b == "boolean":
        return f"({sql} <> 0)"
    if b == "timestamp" and floating:
        made = "make_timestamp(CAST(trunc(CAST({0} AS DOUBLE) * 1000000) AS BIGINT))"
        return only("isfinite({0}) AND abs({0}) < 2e11", made, False)
    if b == "timestamp" and a in INTEGRAL:
        return only("abs({0}::DOUBLE) < 2e11", "make_timestamp(CAST({0} AS BIGINT) * 1000000)", False)
    return plain if b in NUMERIC else None


def _of_text(sql: str, to: Type, only: Callable[[str, str], str], inner: str) -> str | None:
    b = to.kind
    trimmed = "trim({0}, ' \t\n\r\x0b\x0c')"
    if b in INTEGRAL:
        return only(r"regexp_full_match({0}, '\s*[+-]?\d+\s*')", inner.format(trimmed))
    if b == "decimal":
        return only(f"regexp_full_match({{0}}, '{_PLAIN_NUMBER}')", inner.format(trimmed))
    if b in ("double", "float"):
        number = f"{_PLAIN_NUMBER}|(?i)\\s*[+-]?(nan|inf|infinity)\\s*"
        value = f"CASE WHEN regexp_full_match({{0}}, '{_PLAIN_NUMBER}') THEN {inner} ELSE {inner} END"
        return only(f"regexp_full_match({{0}}, '{number}')", value.replace("{}", trimmed))
    if b == "boolean":
        yes, no = "('t','true','y','yes','1')", "('f','false','n','no','0')"
        word = f"lower({trimmed})"
        return only(f"{word} IN {yes} OR {word} IN {no}", f"({word} IN {yes})")
    if b == "date":
        return only(
            r"regexp_full_match({0}, '\s*\d{4}-\d\d?-\d\d?([ T].*)?\s*')",
            inner.format(r"regexp_extract({0}, '\d{4}-\d\d?-\d\d?')"),
        )
    if b == "timestamp":
        return only(
            "spark_timestamp({0}) IS NOT NULL",
            r"CASE WHEN regexp_full_match({0}, '\d{4}-\d\d-\d\d([ T]\d\d:\d\d:\d\d(\.\d{1,6})?)?') "
            "THEN TRY_CAST({0} AS TIMESTAMP) ELSE spark_timestamp({0}) END",
        )
    return f"encode({sql})" if b == "binary" else None


def to_text(sql: str, kind: Type) -> str:
    """A value as Spark writes it."""
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
        return once(sql, lambda v: f"('[' || array_to_string({_texts(v, kind.inner[0])}, ', ') || ']')")
    if kind.kind == "map":
        key, value = (to_text(part, one) for part, one in zip(("e.key", "e.value"), kind.inner, strict=True))
        return once(sql, lambda v: f"('{{' || array_to_string(list_transform(map_entries({v}), lambda e: {key} || "
                                   f"' -> ' || coalesce({value}, 'null')), ', ') || '}}')")  # fmt: skip
    if kind.kind == "struct":

        def listed(v: str) -> str:
            parts = [f"coalesce({to_text(f'{v}.{quoted(name)}', one)}, 'null')" for name, one in kind.inner]
            return f"CASE WHEN {v} IS NOT NULL THEN '{{' || {' || {} || '.format(text(', ')).join(parts)} || '}}' END"

        return once(sql, listed)
    raise ConfigError(f"{kind} as text is not answered here")


def _texts(sql: str, element: Type) -> str:
    return f"list_transform({sql}, lambda e{len(sql)}: coalesce({to_text(f'e{len(sql)}', element)}, 'null'))"


def _nested(sql: str, given: Type, to: Type, safe: bool) -> str | None:
    if to == STRING:
        return to_text(sql, given)
    if given.kind != to.kind:
        return None
    if given.kind == "array":
        name = f"e{len(sql)}"
        if given.inner[0] == VOID:
            return f"CAST({sql} AS {to.duck})"
        return f"list_transform({sql}, lambda {name}: {cast(name, given.inner[0], to.inner[0], safe)})"
    if given.kind == "map":
        if VOID in given.inner:
            return f"CAST({sql} AS {to.duck})"
        name = f"e{len(sql)}"
        key, value = (
            cast(f"{name}.{part}", a, b, safe)
            for part, a, b in zip(("key", "value"), given.inner, to.inner, strict=True)
        )
        return (
            f"map_from_entries(list_transform(map_entries({sql}), lambda {name}: "
            f"struct_pack(key := {key}, value := {value})))"
        )
    if len(given.inner) != len(to.inner):
        return None

    def packed(v: str) -> str:
        fields = [
            f"{quoted(b[0])} := {cast(f'{v}.{quoted(a[0])}', a[1], b[1], safe)}"
            for a, b in zip(given.inner, to.inner, strict=True)
        ]
        return f"CASE WHEN {v} IS NOT NULL THEN struct_pack({', '.join(fields)}) END"

    return once(sql, packed)
