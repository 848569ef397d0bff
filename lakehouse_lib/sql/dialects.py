"""Spark SQL on DuckDB: parsed into a tree, checked against what is known to mean the same, and generated again.

The parser keeps every function's original name; `functions` lists the supported functions and argument types,
`expressions` and `queries` generate the SQL that DuckDB runs. Anything without a rule is rejected by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.dialects.databricks import Databricks

from lakehouse_lib.errors import ConfigError, first_line
from lakehouse_lib.sql import expressions, macros, udfs
from lakehouse_lib.sql import types as st
from lakehouse_lib.sql.expressions import Column, Scope, Source
from lakehouse_lib.sql.queries import Columns, Queries

_Parser = Databricks.Parser
_CALLS = {"TRIM", "EXTRACT", "POSITION", "OVERLAY", "SUBSTRING"}


def _parse_cast_call(self: sqlglot.Parser, safe: bool) -> exp.Expr:
    node = self._parse_cast(not safe, safe=safe or None)
    node.meta["cast"] = True
    return node


class Spark(Databricks):
    """Spark 4: ANSI casts, doubled quotes as escapes, and function calls kept under their original names."""

    class Tokenizer(Databricks.Tokenizer):
        STRING_ESCAPES: ClassVar[list[str]] = ["\\", "'", '"']

    class Parser(_Parser):  # type: ignore[misc, valid-type]
        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            **{name: parser for name, parser in _Parser.FUNCTION_PARSERS.items() if name in _CALLS},
            "CAST": lambda self: _parse_cast_call(self, False),
            "TRY_CAST": lambda self: _parse_cast_call(self, True),
        }
        NO_PAREN_FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {"CASE": _Parser.NO_PAREN_FUNCTION_PARSERS["CASE"]}
        ARRAY_CONSTRUCTORS: ClassVar[dict[str, Any]] = {}


def prepare(connection: duckdb.DuckDBPyConnection) -> None:
    """Register all functions and macros of translated queries with a connection; this takes some 20 ms."""
    connection.execute("SET TimeZone = 'UTC'")
    _register(connection, {*udfs.FUNCTIONS, *macros.STATEMENTS})


def prepare_for(connection: duckdb.DuckDBPyConnection, sql: str, known: set[str]) -> None:
    """Register the functions and macros that one query needs, except the known ones, to which they are added."""
    names = _needed(sql) - known
    _register(connection, names)
    known |= names


def _register(connection: duckdb.DuckDBPyConnection, names: set[str]) -> None:
    udfs.register(connection, names)
    for name, statement in macros.STATEMENTS.items():
        if name in names:
            connection.execute(statement)


def _needed(sql: str) -> set[str]:
    """The functions and macros that a query calls, and those that these call."""
    names, waiting = set[str](), [sql]
    while waiting:
        called = {*re.findall(r"\bspark_\w+", waiting.pop())} - names
        names |= called
        waiting += [macros.STATEMENTS[name] for name in called if name in macros.STATEMENTS]
    return names


def schema(connection: duckdb.DuckDBPyConnection, table: str) -> Columns:
    """Return the columns of a DuckDB table or view with their Spark types; columns whose type has no counterpart are
    left out."""
    relation, columns = connection.sql(f"SELECT * FROM {st.quoted(table)}"), []
    for name, kind in zip(relation.columns, relation.types, strict=True):
        try:
            zoned = re.sub(r"\bTIMESTAMP\b", "TIMESTAMPTZ", str(kind))  # all timestamps of the tables are in UTC
            columns.append((name, st.built(zoned, "duckdb")))
        except (ConfigError, sqlglot.errors.SqlglotError):
            continue
    return columns


def translated(tree: exp.Query, tables: Mapping[str, Columns]) -> tuple[str, list[str]]:
    """Return a Spark query as DuckDB SQL, and the names that Spark gives its columns.

    Raises
    ------
    ConfigError
        The query contains something that cannot be translated.
    """
    try:
        sql, columns = Queries({name.lower(): list(table_columns) for name, table_columns in tables.items()}).query(
            tree, None, {}
        )
    except RecursionError:
        raise ConfigError("it is nested too deeply") from None
    return sql, [name for name, _ in columns]


def expression(sql: str, types: Mapping[str, str]) -> str:
    """Return a Spark SQL expression over columns of the given types, as DuckDB SQL.

    Raises
    ------
    ConfigError
        The expression cannot be parsed, or contains something that cannot be translated.
    """
    queries = Queries({})
    columns = [Column(name, st.built(kind), st.quoted(name)) for name, kind in types.items()]
    scope = Scope([Source("", columns)], query=lambda node, scope: queries.query(node, scope, {}))
    try:
        return expressions.expression(sqlglot.parse_one(sql, dialect=Spark), scope).sql
    except sqlglot.errors.SqlglotError as error:
        raise ConfigError(first_line(error)) from None
    except RecursionError:
        raise ConfigError("it is nested too deeply") from None
