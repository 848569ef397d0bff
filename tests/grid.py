# ruff: noqa: E501 - cases stand in one line
"""Cases for Spark SQL here and in Spark: each signature over values, NULLs and extremes among them, and how two results are compared."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import sqlglot

from lakehouse_lib.errors import ConfigError
from lakehouse_lib.sql import dialects, functions

VALUES = {
    "tinyint": ["0", "1", "-1", "127", "-128"],
    "smallint": ["0", "3", "-1", "32767", "-32768"],
    "int": ["0", "1", "2", "-1", "3", "7", "-5", "2147483647", "-2147483648"],
    "bigint": ["0", "1", "-1", "255", "9223372036854775807", "-9223372036854775807", "1795168800"],
    "decimal": ["0.00", "1.50", "-2.50", "2.25", "99999999.99", "-0.01"],
    "float": ["0", "1.5", "-2.25", "'NaN'", "1e10", "0.1"],
    "double": ["0", "-0.0", "1.5", "-2.5", "2.5", "1e10", "1e-5", "'NaN'", "'Infinity'", "0.1", "1e300", "3"],
    "string": ["''", "'a'", "' Ab c '", "'straße'", "'İ'", "'12'", "'-1.5'", "'a,b,,c'", "'2026-01-31'", "'b'", "'é😀x'",
               "'2026-03-29 10:11:12.5'", "'true'", "'x|y'", "'hello WORLD-foo bar_baz'", "'Europe/Berlin'", "'+02:00'",
               "'2026-07-01T00:00:00Z'", "'{\"a\":{\"b\":[1,2.50]},\"c\":null,\"d\":\"x\"}'", "'$.a.b[1]'", "'$.d'", "'1e2'",
               "'yyyy-MM-dd'", "'MON'", "'a=1&b=2'", "'http://u:p@h.org:80/p/q?k=v&x=1#r'", "'4A4f'"],
    "boolean": ["true", "false"],
    "date": ["'2026-01-31'", "'2026-02-28'", "'2028-02-29'", "'1969-12-31'", "'2026-11-22'", "'2027-01-01'", "'0001-01-01'", "'9999-12-31'"],
    "timestamp": ["'2026-01-31 10:00:00'", "'2026-03-29 01:30:00'", "'1969-12-31 23:59:59.999999'", "'2026-11-01 05:30:00'",
                  "'2026-10-25 00:59:59.5'", "'2028-02-29 23:59:59'"],
    "binary": ["''", "'Spark'", "'é'"],
}  # fmt: skip
"""What a column of a type holds, beside NULL."""
TYPES = {"decimal": "DECIMAL(10,2)"}
CONSTANTS = {
    "string": ["'a'", "','", "'MONTH'", "'week'", "'[ABc]'", "'\\\\|'", "'UTF-8'", "'HOUR'", "''", "'YEAR'", "'DAY'"],
    "int": ["2", "0", "-1", "100"],
    "double": ["0.5D", "0.9D", "0D", "1D"],
    "boolean": ["true", "false"],
    "array<double>": ["array(0.5D, 0.9D)"],
    "bigint": ["3L"],
}
LETTERS = {"N": ["int", "double", "decimal", "bigint"], "M": ["int", "double"], "I": ["int", "bigint"], "S": ["string", "int", "double", "date", "decimal"],
           "R": ["string"], "T": ["string", "int", "timestamp"], "K": ["string", "int"], "V": ["int", "string"]}  # fmt: skip


def typed(kind: str, value: str) -> str:
    return f"CAST({value} AS {TYPES.get(kind, kind.upper())})"


def column(kind: str, picks: random.Random, count: int) -> list[str]:
    """Values of a type, as SQL."""
    word, _, inner = kind.partition("<")
    name = kind
    for base, plain in TYPES.items():
        name = name.replace(base, plain)
    nothing = f"CAST(NULL AS {name})"
    if word == "array":
        literals = []
        for _n in range(count - 2):
            items = column(inner[:-1], picks, picks.randrange(2, 6))[: picks.randrange(1, 5)]
            literals.append(f"array({', '.join(items)})")
        return [nothing, f"CAST(array() AS {name})", *literals]
    if word == "map":
        key, _, value = inner[:-1].partition(",")
        keys = ["'a'", "'b'", "'12'"] if key == "string" else ["1", "2", "0"]
        literals = []
        for _n in range(count - 2):
            some = picks.sample(keys, picks.randrange(1, 4))
            pairs = (f"{typed(key, k)}, {v}" for k, v in zip(some, column(value, picks, 4)[: len(some)], strict=True))
            literals.append(f"map({', '.join(pairs)})")
        return [nothing, *literals]
    values = VALUES[word][:]
    picks.shuffle(values)
    return [nothing, *(typed(word, value) for value in values)][:count]


def kinds(pattern: tuple, letters: dict[str, str]) -> str:
    word, *inner = pattern
    if word == "any":
        return letters.setdefault("any", "int")
    if len(word) == 1:
        return letters[word]
    return f"{word}<{','.join(kinds(part, letters) for part in inner)}>" if inner else word


def letters_of(pattern: tuple) -> set[str]:
    word, *inner = pattern
    return ({word} if len(word) == 1 else set()).union(*(letters_of(part) for part in inner))


UNSTABLE = ("rand", "random", "current_timestamp", "now", "localtimestamp", "current_date", "curdate", "approx_count_distinct",
            "collect_set", "mode", "max_by", "min_by", "avg", "mean", "sum")  # fmt: skip
"""Functions whose answer is of the moment or of the order of rows, among equals or at the ends of a range; `AGGREGATES` has some."""
LONG = (
    "repeat",
    "space",
    "lpad",
    "rpad",
    "array_repeat",
    "sequence",
    "make_date",
    "date_add",
    "date_sub",
    "add_months",
    "format_number",
)
"""Functions that would make gigabytes of the largest numbers."""


def calls(rounds: int, seed: int = 1) -> Iterator[tuple[str, str, list[list[str]]]]:
    """(name, expression over columns a0, a1, …, rows) for each line of the tables, for each type of its letters."""
    for table in (functions.SCALARS, functions.AGGREGATES):
        for name, listed in table.items():
            if name in UNSTABLE:
                continue
            if name == "unix_timestamp" or name == "to_unix_timestamp":
                listed = [entry for entry in listed if entry.params]
            for number, signature in enumerate(listed):
                params = [entry for entry in signature.params for _ in range(2 if entry.many else 1)]
                letters = sorted(set().union(*(letters_of(entry.pattern) for entry in params)) if params else ())
                for chosen in itertools.product(*(LETTERS[letter] for letter in letters)):
                    known = dict(zip(letters, chosen, strict=True))
                    for turn in range(rounds):
                        picks = random.Random(f"{name}{number}{chosen}{turn}{seed}")
                        yield call(name, params, known, picks, table is functions.AGGREGATES)


def call(
    name: str, params: list, letters: dict[str, str], picks: random.Random, aggregate: bool
) -> tuple[str, str, list[list[str]]]:
    args, columns, width = [], [], 9
    for param in params:
        kind = kinds(param.pattern, dict(letters))
        if param.constant:
            args.append(picks.choice(CONSTANTS[kind]))
            continue
        args.append(f"a{len(columns)}")
        columns.append(column(kind, picks, width))
    if name in LONG:
        columns = [[value for value in column if not re.search("2147483|922337|179516", value)] for column in columns]
    if not columns:
        return name, f"{name}({', '.join(args)})", [["1"]]
    longest = max(map(len, columns))
    rows = []
    for n in range(longest):
        rows.append(
            [values[n] if n < len(values) and m == 0 else picks.choice(values) for m, values in enumerate(columns)]
        )
    return name, f"{name}({', '.join(args)})", rows


NUMBERS = ("tinyint", "int", "bigint", "decimal", "float", "double")
OPERATORS = [
    *((f"a0 {sign} a1", (a, b)) for sign in ("+", "-", "*", "/", "%") for a in NUMBERS for b in NUMBERS),
    *(("a0 DIV a1", (a, b)) for a in ("int", "bigint", "decimal") for b in ("int", "bigint", "decimal")),
    *((f"a0 {sign} a1", (a, b)) for sign in ("=", "<", "<=>", "!=", ">=") for a, b in [
        ("int", "bigint"), ("int", "double"), ("decimal", "int"), ("string", "string"), ("int", "string"), ("string", "double"),
        ("date", "timestamp"), ("date", "string"), ("double", "double"), ("boolean", "boolean"), ("float", "double"),
        ("string", "boolean"), ("timestamp", "string"), ("decimal", "string"), ("array<int>", "array<int>")]),
    *((f"a0 {sign} a1", (a, b)) for sign in "&|^" for a in ("int", "bigint") for b in ("int", "bigint")),
    *((f"CAST(a0 AS {TYPES.get(b, b.upper())})", (a,)) for a in VALUES for b in VALUES),
    *((f"TRY_CAST(a0 AS {TYPES.get(b, b.upper())})", (a,)) for a in VALUES for b in VALUES),
    *((f"try_{word}(a0, a1)", (a, a)) for word in ("add", "subtract", "multiply", "divide") for a in ("int", "bigint", "double", "decimal")),
    *(("CAST(a0 AS STRING)", (f"array<{a}>",)) for a in ("int", "string", "double", "boolean")),
    ("CAST(a0 AS STRING)", ("map<string,int>",)), ("CAST(named_struct('x', a0, 'y', a1) AS STRING)", ("int", "string")),
    *(("-a0", (a,)) for a in NUMBERS), ("~a0", ("int",)), ("~a0", ("bigint",)),
    *((f"a0 {sign} INTERVAL {n} {unit}", (kind,)) for sign in "+-" for n in (1, 13) for unit in
      ("YEAR", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND") for kind in ("date", "timestamp")),
    *((f"a0 {sign} {product}", (kind, "int")) for sign in "+-" for kind in ("date", "timestamp") for product in
      ("a1 * INTERVAL '1' HOUR", "INTERVAL 2 DAY * a1", "a1 * INTERVAL 1 MONTH")),
    *((f"a0 {sign} a1", ("date", "int")) for sign in "+-"),
    ("a0 || a1", ("string", "int")), ("a0 || a1", ("double", "string")), ("concat(a0, '|', a1)", ("timestamp", "boolean")),
    *(("concat('x', a0)", (a,)) for a in VALUES if a != "binary"),
    *(("concat_ws('-', a0, a1, 'z')", (a, "string")) for a in ("string", "int", "double", "array<string>")),
    *(("CASE WHEN a0 THEN a1 ELSE a2 END", ("boolean", a, b)) for a, b in [
        ("int", "bigint"), ("int", "double"), ("decimal", "int"), ("string", "string"), ("date", "timestamp"), ("int", "string"),
        ("decimal", "double")]),
    ("CASE a0 WHEN 1 THEN 'one' WHEN a1 THEN 'same' END", ("int", "int")),
    ("a0 IN (1, 2, a1)", ("int", "bigint")), ("a0 IN ('a', a1)", ("string", "string")), ("a0 NOT IN (1, NULL)", ("int",)),
    ("a0 IN (1, '12')", ("int",)), ("a0 BETWEEN a1 AND a2", ("int", "bigint", "double")), ("a0 BETWEEN 'a' AND a1", ("string", "string")),
    ("a0 AND a1", ("boolean", "boolean")), ("a0 OR a1", ("boolean", "boolean")), ("NOT a0", ("boolean",)), ("a0 IS TRUE", ("boolean",)),
    ("a0 IS NOT FALSE", ("boolean",)), ("a0 IS DISTINCT FROM a1", ("int", "int")), ("a0 IS NULL", ("string",)),
    *((f"a0 {word} '{pattern}'", ("string",)) for word in ("LIKE", "NOT LIKE", "ILIKE") for pattern in ("%a%", "_", "", "%", "STRASSE", "a\\\\_b", "é_x", "%\\\\%%")),
    *((f"a0 RLIKE '{pattern}'", ("string",)) for pattern in ("a", "^a", "b$", "[a-c]+", "\\\\d+", "(a|b)c?", "\\\\bfoo\\\\b", "(?i)HELLO", "^$", ".", "(?=a)a", "(a)\\\\1", "[^a]", "\\\\w+\\\\s")),
    *((f"regexp_replace(a0, '{pattern}', '{by}')", ("string",)) for pattern, by in [
        ("a", "b"), ("[aeiou]", "#"), ("(\\\\w)(\\\\w)", "$2$1"), ("x*", "-"), ("\\\\s+", ""), ("(\\\\d)", "<$1>"), ("$", "!"), ("^", ">"), ("\\\\|", "\\\\$")]),
    *((f"regexp_extract(a0, '{pattern}', {group})", ("string",)) for pattern, group in [("(\\\\d+)", 1), ("([a-z])(\\\\W)?", 2), ("b", 0), ("(a)|(b)", 2)]),
    *((f"split(a0, '{pattern}'{limit})", ("string",)) for pattern in (",", "|", "\\\\|", "", "[ -]", "(,)", "a?") for limit in ("", ", 2", ", 0")),
    *(("a0[a1]", ("array<int>", "int")) for _ in range(2)), ("a0[a1]", ("map<string,int>", "string")), ("a0['a']", ("map<string,int>",)),
    *((f"{word}(a0, x -> x > 1)", ("array<int>",)) for word in ("filter", "exists", "forall", "transform")),
    ("transform(a0, (x, i) -> x + i)", ("array<int>",)), ("transform(a0, x -> upper(x))", ("array<string>",)), ("filter(a0, (x, i) -> i > 0)", ("array<string>",)),
    ("aggregate(a0, 0L, (s, x) -> s + x)", ("array<int>",)), ("aggregate(a0, '', (s, x) -> concat(s, x), s -> length(s))", ("array<string>",)),
    ("reduce(a0, 0D, (s, x) -> s + coalesce(x, 1))", ("array<double>",)),
    ("zip_with(a0, a1, (x, y) -> concat(x, y))", ("array<string>", "array<string>")), ("zip_with(a0, a1, (x, y) -> coalesce(x, y))", ("array<int>", "array<int>")),
    ("map_filter(a0, (k, v) -> v > 0)", ("map<string,int>",)), ("transform_values(a0, (k, v) -> concat(k, v))", ("map<string,int>",)),
    ("transform_keys(a0, (k, v) -> upper(k))", ("map<string,int>",)), ("map_entries(a0)", ("map<int,string>",)), ("arrays_zip(a0, a1)", ("array<int>", "array<string>")),
    ("map_from_entries(map_entries(a0))", ("map<string,int>",)), ("to_json(a0)", ("map<string,int>",)), ("to_json(a0)", ("array<string>",)),
    ("to_json(named_struct('s', a0, 'd', a1, 't', a2))", ("string", "double", "timestamp")), ("to_json(named_struct('d', a0, 'b', a1))", ("date", "decimal")),
    ("from_json(a0, 'a STRING, d STRING')", ("string",)), ("from_json(a0, 'd INT, c DOUBLE')", ("string",)), ("get_json_object(a0, '$.a')", ("string",)),
    *((f"{word}({unit}, a0, a1)", (a, b)) for word in ("timestampdiff", "datediff") for unit in ("YEAR", "QUARTER", "MONTH", "WEEK", "DAY", "HOUR", "SECOND")
      for a, b in [("timestamp", "timestamp"), ("date", "date"), ("timestamp", "date")]),
    *((f"{word}({unit}, a1, a0)", (a, "tinyint")) for word in ("timestampadd", "dateadd") for unit in ("YEAR", "QUARTER", "MONTH", "WEEK", "DAY", "HOUR", "SECOND") for a in ("timestamp", "date")),
    *((f"extract({part} FROM a0)", (a,)) for part in ("YEAR", "QUARTER", "MONTH", "WEEK", "DAY", "DOW", "DAYOFWEEK_ISO", "DOY", "HOUR", "MINUTE", "SECOND", "YEAROFWEEK") for a in ("date", "timestamp")),
    *((f"date_trunc('{unit}', a0)", (a,)) for unit in ("YEAR", "QUARTER", "MONTH", "WEEK", "DAY", "HOUR", "MINUTE", "SECOND") for a in ("timestamp", "date", "string")),
    *((f"trunc(a0, '{unit}')", (a,)) for unit in ("YEAR", "QUARTER", "MM", "WEEK") for a in ("date", "timestamp", "string")),
    *((f"date_format(a0, '{pattern}')", (a,)) for pattern in ("yyyy-MM-dd", "dd/MM/yy HH:mm:ss", "EEE, MMM d yyyy", "EEEE MMMM", "hh:mm a", "HH:mm:ss.SSS", "D", "yyyy''T''", "Q", "k K", "y-M-d H:m:s") for a in ("timestamp", "date")),
    *((f"{word}(a0, '{pattern}')", ("string",)) for word in ("to_date", "to_timestamp", "try_to_timestamp", "unix_timestamp") for pattern in ("yyyy-MM-dd", "yyyy-MM-dd HH:mm:ss.S", "d/M/yyyy")),
    *((f"{word}(a0, '{zone}')", (a,)) for word in ("from_utc_timestamp", "to_utc_timestamp") for zone in ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "+05:30", "UTC", "nowhere") for a in ("timestamp", "date")),
    *((f"round(a0, {n})", (a,)) for n in (0, 1, 2, -1, -2) for a in NUMBERS), *((f"bround(a0, {n})", (a,)) for n in (0, 1, -1) for a in ("int", "decimal", "double")),
    *((f"{word}(a0, a1)", (a, b)) for word in ("coalesce", "greatest", "least", "nullif", "nvl", "ifnull", "if(a0 IS NULL, a1, a0) = coalesce") for a, b in [
        ("int", "bigint"), ("int", "double"), ("decimal", "int"), ("decimal", "double"), ("date", "timestamp"), ("string", "string"), ("int", "string")]),
    ("format_string('%s|%d|%5.2f|%05d|%-6s|', a0, a1, a2, a1, a0)", ("string", "int", "double")), ("decode(a0, 1, 'one', 2, 'two', 'other')", ("int",)),
    ("hash(a0)", ("string",)), ("hash(a0, a1)", ("int", "bigint")), ("hash(a0)", ("date",)), ("elt(a0, 'x', 'y')", ("int",)), ("typeof(a0)", ("decimal",)), ("typeof(a0)", ("map<string,int>",)),
    *(("shiftleft(a0, a1)", ("int", "int")) for _ in range(2)), ("sort_array(a0, false)", ("array<double>",)), ("sort_array(a0, true)", ("array<string>",)),
    ("to_date(a0)", ("string",)), ("to_timestamp(a0)", ("string",)), ("date(a0)", ("timestamp",)), ("int(a0)", ("string",)), ("string(a0)", ("double",)),
    ("trim(BOTH 'a' FROM a0)", ("string",)), ("trim(LEADING FROM a0)", ("string",)), ("substring(a0 FROM 2 FOR 3)", ("string",)), ("overlay(a0 PLACING 'zz' FROM 2)", ("string",)),
    ("position('b' IN a0)", ("string",)), ("size(array(a0, a1))", ("int", "int")), ("array(a0, a1)", ("int", "double")), ("map('k', a0)['k']", ("string",)),
    ("struct(a0, a1).a1", ("int", "string")), ("named_struct('x', a0).x + 1", ("int",)), ("element_at(split(a0, ','), -1)", ("string",)), ("pmod(a0, a1)", ("int", "int")), ("pmod(a0, 3)", ("double",)), ("mod(a0, a1)", ("bigint", "int")),
    ("1 + a0 * 2", ("int",)), ("1.0 / a0", ("int",)), ("a0 / 3", ("decimal",)), ("1.5 * a0", ("int",)), ("2 * a0", ("decimal",)), ("a0 + 1", ("string",)), ("a0 / 2", ("string",)), ("a0 * 1.10", ("bigint",)),
]  # fmt: skip
"""Expressions over columns a0, a1, … of these types."""

_TABLE = ("int", "bigint", "decimal", "double", "string", "date", "timestamp", "boolean")
AGGREGATES = [
    *((f"{word}(a0)", (a,)) for word in ("sum", "avg", "min", "max", "count", "stddev", "var_pop", "median") for a in _TABLE if not (word in ("stddev", "var_pop", "median") and a in ("string",))),
    *((f"{word}(DISTINCT a0)", (a,)) for word in ("sum", "avg", "count") for a in ("int", "decimal", "string", "double")),
    *((f"{word}(a0) FILTER (WHERE a1)", (a, "boolean")) for word in ("sum", "count", "max", "collect_list", "avg") for a in ("int", "decimal")),
    *((f"{word}(a0, a1)", (a, b)) for word in ("max_by", "min_by") for a in ("string", "int") for b in ("int", "double", "date")),
    ("sum(CASE WHEN a1 THEN 1 ELSE 0 END) / count(*)", ("int", "boolean")), ("count(DISTINCT a0, a1)", ("int", "string")), ("sum(a1)", ("int", "boolean")),
    ("any_value(a0, true)", ("string",)), ("first(a0, true)", ("int",)), ("last(a0, true)", ("int",)), ("sort_array(collect_list(a0))", ("string",)), ("sort_array(collect_set(a0))", ("int",)),
    ("percentile(a0, array(0.25D, 0.5D, 0.75D))", ("int",)), ("percentile_approx(a0, 0.5)", ("int",)), ("approx_percentile(a0, array(0.1, 0.5, 0.9))", ("double",)),
    ("percentile_cont(0.25) WITHIN GROUP (ORDER BY a0)", ("double",)), ("percentile_disc(0.6) WITHIN GROUP (ORDER BY a0)", ("int",)),
    ("listagg(a0, ',') WITHIN GROUP (ORDER BY a0)", ("string",)), ("try_sum(a0)", ("int",)), ("round(avg(a0), 2)", ("decimal",)), ("max(a0) - min(a0)", ("int",)), ("sum(a0 * 2) + count(*)", ("int",)),
]  # fmt: skip


def operators(rounds: int, listed: list[tuple[str, tuple[str, ...]]]) -> Iterator[tuple[str, str, list[list[str]]]]:
    for number, (text, types) in enumerate(listed):
        for turn in range(rounds):
            picks = random.Random(f"{text}{types}{turn}{number}")
            columns = [column(kind, picks, 10) for kind in types]
            if re.match("(sum|avg)\\(", text):
                columns = [[value for value in column if "922337" not in value] for column in columns]
            rows = [
                [values[n] if n < len(values) and m == 0 else picks.choice(values) for m, values in enumerate(columns)]
                for n in range(max(map(len, columns)))
            ]
            if "_by(" in text:
                rows = [list(row) for row in zip(*columns, strict=False)]  # no two are the largest
            elif len(columns) == 2:
                rows += [[picks.choice(columns[0]), value] for value in columns[1]]
            yield text, text, rows


def statement(expression: str, rows: list[list[str]], aggregate: bool) -> str:
    listed = ", ".join(f"({n}, {', '.join(row)})" for n, row in enumerate(rows))
    names = ", ".join(["i", *(f"a{n}" for n in range(len(rows[0])))])
    shown = "" if aggregate else "i, "
    return f"SELECT {shown}{expression} AS r FROM VALUES {listed} AS t({names})"


def ours(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """An answer, with the columns named as Spark does.

    Raises
    ------
    ConfigError
        It is refused.
    duckdb.Error
        It fails.
    """
    try:
        (tree,) = sqlglot.parse(sql, dialect=dialects.Spark)
    except sqlglot.errors.SqlglotError as error:
        raise ConfigError(str(error)) from None
    text, names = dialects.translated(tree, {})
    return connection.execute(text).to_arrow_table().rename_columns(names)


def rows_of(table: pa.Table) -> list[tuple]:
    return list(zip(*map(_listed, table.columns), strict=True))


def _listed(values: pa.ChunkedArray) -> list[Any]:
    """Values of Python; days and moments as numbers, as those of Python end in the year 9999."""
    if pa.types.is_date(values.type):
        return [value if value is None else ("day", value) for value in values.cast(pa.int32()).to_pylist()]
    if pa.types.is_timestamp(values.type):
        return [value if value is None else ("moment", value) for value in values.cast(pa.int64()).to_pylist()]
    return values.to_pylist()


def same(left: Any, right: Any) -> bool:
    """Whether two values are one, but for the last digits of a double."""
    if isinstance(left, float) and isinstance(right, float):
        return (math.isnan(left) and math.isnan(right)) or math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    if isinstance(left, (int, float, Decimal)) and isinstance(right, (int, float, Decimal)):
        return left == right
    if isinstance(left, tuple) and left and left[0] in ("day", "moment"):
        return left == right
    if isinstance(left, datetime) and isinstance(right, datetime):
        return left.replace(tzinfo=None) == right.replace(tzinfo=None)
    if isinstance(left, date) or isinstance(right, date):
        return left == right and type(left) is type(right)
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        if left and right and isinstance(left[0], tuple) and isinstance(right[0], tuple) and len(left[0]) == 2:  # a map
            left, right = sorted(left, key=repr), sorted(right, key=repr)
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return type(left) is type(right) and left == right


ERROR = "an error"


def by_spark(spark: Any, expression: str, rows: list[list[str]], aggregate: bool) -> list[Any]:
    """What Spark answers for each row, `ERROR` where it raises; halves are tried where the whole does."""
    try:
        answers = rows_of(spark.sql(statement(expression, rows, aggregate)).toArrow())
        return [answers[0][0]] if aggregate else [row[1] for row in sorted(answers, key=lambda row: row[0])]
    except Exception as error:
        if (
            aggregate
            or len(rows) == 1
            or "DATATYPE_MISMATCH" in str(error)
            or "UNRESOLVED" in str(error)
            or "PARSE_SYNTAX" in str(error)
        ):
            return [ERROR] * (1 if aggregate else len(rows))
    half = len(rows) // 2
    return by_spark(spark, expression, rows[:half], False) + by_spark(spark, expression, rows[half:], False)


def by_us(connection: duckdb.DuckDBPyConnection, expression: str, rows: list[list[str]], aggregate: bool) -> list[Any]:
    """The same of ours; the text of the error where it raises."""
    try:
        answers = rows_of(ours(connection, statement(expression, rows, aggregate)))
        return [answers[0][0]] if aggregate else [row[1] for row in sorted(answers, key=lambda row: row[0])]
    except (ConfigError, duckdb.Error) as error:
        if aggregate or len(rows) == 1 or isinstance(error, ConfigError):
            return [error] * (1 if aggregate else len(rows))
    half = len(rows) // 2
    return by_us(connection, expression, rows[:half], False) + by_us(connection, expression, rows[half:], False)


def wrong(ours: Any, theirs: Any) -> bool:
    """Whether an answer is one that Spark does not give; an error is none."""
    if isinstance(ours, Exception):
        return False
    return (isinstance(theirs, str) and theirs is ERROR) or not same(ours, theirs)
