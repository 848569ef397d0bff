"""The registry of tables: the built-in ones, those that `register` adds, and those that parameters declare."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import duckdb
import pyarrow as pa

from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError, UnknownTableError, first_line, suggestion
from lakehouse_lib.model import checks, declarations
from lakehouse_lib.model.checks import Check
from lakehouse_lib.model.rules import Rule
from lakehouse_lib.model.schema import LAYERS, Column, Table, arrow_type, spark_type, with_columns
from lakehouse_lib.sql import dialects

__all__ = [
    "LAYERS",
    "Column",
    "Table",
    "arrow_type",
    "declared",
    "get",
    "record_checks",
    "register",
    "rule",
    "spark_type",
    "unregister",
    "waits_for",
    "with_columns",
]

_registered: dict[str, Table] = {table.name: table for table in declarations.BUILT_IN}
_compiled: dict[tuple[str, str, str], Rule] = {}
"""Compiled checks, by the table's name and columns and the definition of the check."""


def register(table: Table) -> Table:
    """Add a table of your own; the next run creates it.

    Raises
    ------
    ConfigError
        The layer, a column type, the key, the partition, a source or a check is invalid, or another table has
        the same name.
    """
    if table.layer not in LAYERS:
        raise ConfigError(f"{table.name}: layer {table.layer!r} is not one of {', '.join(LAYERS)}")
    if _registered.get(table.name, table) != table:
        raise ConfigError(f"There is already a table {table.name} with a different declaration.")
    table.arrow_schema()
    for column in (*table.key, *table.cluster_by, *filter(None, [table.partition_by])):
        if column not in table.names:
            raise ConfigError(f"{table.name}: {column} is not one of its columns {', '.join(table.names)}")
    for source in table.sources:
        if source not in _registered:
            raise ConfigError(f"{table.name}: {_unknown(source, list(_registered))}")
    for check in table.all_checks:
        rule(table, check, [*_registered, table.name])
    _registered[table.name] = table
    return table


def unregister(name: str) -> None:
    """Remove a table that `register` added; its data stays."""
    _registered.pop(name, None)


def declared(settings: Settings) -> dict[str, Table]:
    """Return all tables by name, including those of ``cdc.replicas``; a table comes after its sources."""
    tables = dict(_registered)
    for replica in settings.cdc.replicas:
        if replica.target in tables:
            raise ConfigError(f"cdc.replicas: {replica.target} is already the name of a table.")
        tables[replica.target] = declarations.replica(replica.target, replica.source_table)
    for name in settings.retention:
        if name not in tables:
            raise ConfigError(f"retention.{name}: {_unknown(name, list(tables))}")
    for name, definitions in settings.quality.items():
        if name not in tables:
            raise ConfigError(f"quality.{name}: {_unknown(name, list(tables))}")
        added = tuple(checks.parse(definition) for definition in definitions)
        tables[name] = replace(tables[name], checks=tables[name].checks + added)
        for check in added:
            _try_out(tables[name], check, tables)
            if check.kind == "foreign_key" and name in _upstream(tables, check.arguments["table"]):
                target = check.arguments["table"]
                raise ConfigError(
                    f"quality.{name}, check {check.name!r}: {target} is made from {name}, so {name} cannot be checked "
                    f"against it. Put the check on {target}, or on a table that is made after it."
                )
    return tables


def _try_out(table: Table, check: Check, known: dict[str, Table]) -> None:
    """Run a check on empty tables, so that SQL that cannot run is refused before a run starts."""
    key = (table.name, table.declared, check.digest)
    if key in _compiled:
        return
    compiled = rule(table, check, known)
    try:
        with duckdb.connect(":memory:") as connection:
            dialects.prepare(connection)
            for name in {table.name, *compiled.needs}:
                fields = [
                    f.with_type(pa.timestamp("us")) if pa.types.is_timestamp(f.type) else f
                    for f in known[name].arrow_schema()
                ]
                connection.register(name, pa.schema(fields).empty_table())
            columns = ", ".join(["*", *(f"{sql} AS {column}" for column, sql in compiled.prepared.items())])
            for part in compiled.parts.values():
                connection.execute(f'SELECT {part} FROM (SELECT {columns} FROM "{table.name}")')
    except duckdb.Error as error:
        del _compiled[key]
        raise ConfigError(f"quality.{table.name}, check {check.name!r}: {first_line(error)}") from None


def waits_for(table: Table) -> set[str]:
    """Return the tables that must be up to date before a table is made and checked."""
    referenced = {check.arguments["table"] for check in table.all_checks if check.kind == "foreign_key"}
    return {*table.sources, *referenced} - {table.name}


def _upstream(tables: dict[str, Table], name: str) -> set[str]:
    """Return every table that must be up to date before a table, directly or through others."""
    upstream: set[str] = set()
    waiting = [name]
    while waiting:
        new = waits_for(tables[waiting.pop()]) - upstream
        upstream |= new
        waiting += new
    return upstream


def rule(table: Table, check: Check, known: Iterable[str]) -> Rule:
    """Return the rule that a check is compiled to for a table, cached; see `checks.compile_check`."""
    key = (table.name, table.declared, check.digest)
    if key not in _compiled:
        _compiled[key] = checks.compile_check(check, table.name, table.layer, table.types, known)
    return _compiled[key]


def get(settings: Settings, name: str) -> Table:
    """Return the table with this name.

    Raises
    ------
    UnknownTableError
        There is no such table; the message suggests the closest name.
    """
    tables = declared(settings)
    if name not in tables:
        raise UnknownTableError(_unknown(name, list(tables)))
    return tables[name]


def record_checks(table: Table) -> dict[str, tuple[str, str]]:
    """Return the checks that send records of a bronze table to quarantine, by name: the Spark SQL condition of such a
    record, and the reason in words."""
    rules = {check.name: rule(table, check, ()) for check in table.all_checks if check.severity == "quarantine"}
    return {name: (rule.sets_aside, f"records here {rule.says} (check {name})") for name, rule in rules.items()}


def _unknown(name: str, known: list[str]) -> str:
    return f"there is no table {name!r}; {suggestion(name, known)}"
