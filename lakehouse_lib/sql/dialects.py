"""Spark SQL on DuckDB: read into a tree, held against what is known to mean the same, and written anew.

The parser keeps every function's own name; `signatures` says which are answered for which types,
`expressions` and `queries` write what DuckDB runs. What has no rule is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.dialects.databricks import Databricks

from lakehouse_lib.errors import ConfigError
from lakehouse_lib.sql import expressions, macros, udfs
from lakehouse_lib.sql import types as st
from lakehouse_lib.sql.expressions import Column, Scope, Source
from lakehouse_lib.sql.queries import Columns, Queries

_Parser = Databricks.Parser
_CALLS = {"TRIM", "EXTRACT", "POSITION", "OVERLAY", "SUBSTRING"}


def _said_cast(self: sqlglot.Parser, safe: bool) -> exp.Expr:
    made = self._parse_cast(not safe, safe=safe or None)
    made.meta["cast"] = True
    return made


class Spark(Databricks):
    """Spark 4: ANSI casts, a doubled quote is a quote, and functions are kept as they are called."""

    class Tokenizer(Databricks.Tokenizer):
        STRING_ESCAPES: ClassVar[list[str]] = ["\\", "'", '"']

    class Parser(_Parser):  # type: ignore[misc, valid-type]
        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            **{name: parser for name, parser in _Parser.FUNCTION_PARSERS.items() if name in _CALLS},
            "CAST": lambda self: _said_cast(self, False),
            "TRY_CAST": lambda self: _said_cast(self, True),
        }
        NO_PAREN_FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {"CASE": _Parser.NO_PAREN_FUNCTION_PARSERS["CASE"]}
        ARRAY_CONSTRUCTORS: ClassVar[dict[str, Any]] = {}


def prepare(connection: duckdb.DuckDBPyConnection) -> None:
    """Make known to a connection what the queries use."""
    udfs.register(connection)
    connection.execute(f"SET TimeZone = 'UTC'; {macros.MACROS}")


def schema(connection: duckdb.DuckDBPyConnection, table: str) -> Columns:
    """The columns of a table or view of DuckDB's, as Spark would have them; those of a type that has no
    counterpart are left out."""
    relation, made = connection.sql(f"SELECT * FROM {st.quoted(table)}"), []
    for name, kind in zip(relation.columns, relation.types, strict=True):
        try:
            zoned = re.sub(r"\bTIMESTAMP\b", "TIMESTAMPTZ", str(kind))  # as all times of tables are, in UTC
            made.append((name, st.built(zoned, "duckdb")))
        except (ConfigError, sqlglot.errors.SqlglotError):
            continue
    return made


def translated(tree: exp.Query, tables: Mapping[str, Columns]) -> tuple[str, list[str]]:
    """A query of Spark as DuckDB runs it, and the names that Spark gives its columns.

    Raises
    ------
    ConfigError
        It holds something that does not carry over.
    """
    try:
        sql, columns = Queries({name.lower(): list(listed) for name, listed in tables.items()}).query(tree, None, {})
    except RecursionError:
        raise ConfigError("it is too deep") from None
    return sql, [name for name, _ in columns]


def expression(sql: str, types: Mapping[str, str]) -> str:
    """A Spark SQL expression over columns of these types, as DuckDB has it.

    Raises
    ------
    ConfigError
        It cannot be parsed, or holds something that does not carry over.
    """
    queries = Queries({})
    columns = [Column(name, st.built(kind), st.quoted(name)) for name, kind in types.items()]
    scope = Scope([Source("", columns)], query=lambda node, scope: queries.query(node, scope, {}))
    try:
        return expressions.expression(sqlglot.parse_one(sql, dialect=Spark), scope).sql
    except sqlglot.errors.SqlglotError as error:
        raise ConfigError(str(error).splitlines()[0][:200]) from None
    except RecursionError:
        raise ConfigError("it is too deep") from None
