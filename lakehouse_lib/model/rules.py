"""What a check is compiled to: the SQL that measures it, and the bounds of the result."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sqlglot
from sqlglot import exp

from lakehouse_lib.errors import ConfigError, first_line, suggestion
from lakehouse_lib.sql import dialects


@dataclass(frozen=True)
class Rule:
    """A check compiled for a table.

    ``parts`` are aggregates (DuckDB SQL) from which ``value`` computes the measured number; the check passes if
    that is between ``low`` and ``high``. If the rule is ``additive``, the parts of two sets of rows can be summed.
    """

    says: str
    parts: dict[str, str]
    value: Callable[[Mapping[str, Any]], float | None]
    low: float | None = None
    high: float | None = None
    fails: str = ""
    """Spark SQL condition of a failing row; empty where no single row fails."""
    sets_aside: str = ""
    """Spark SQL condition of a record that goes to quarantine."""
    prepared: dict[str, str] = field(default_factory=dict)
    """Columns to compute first, in addition to the table's own: a lookup or a window (DuckDB SQL)."""
    prepared_types: dict[str, str] = field(default_factory=dict)
    """The Spark types of the prepared columns."""
    repeated: tuple[str, ...] = ()
    """Columns in which repeated values are failures."""
    needs: tuple[str, ...] = ()
    """Other tables in which values are looked up."""
    additive: bool = False
    unit: str = ""


@dataclass(frozen=True)
class Context:
    """The check that a kind compiles: the types of the table's columns, the filter and the tolerance."""

    types: dict[str, str]
    where: str
    tolerance: float

    def counted(self, condition: str = "") -> str:
        """Return the number of rows that match the filter and a condition (Spark SQL), as an aggregate."""
        return f"count(*){self.filter(condition)}"

    def filter(self, *conditions: str) -> str:
        """Return the FILTER clause of an aggregate: the filter of the check and further conditions (Spark SQL)."""
        condition = " AND ".join(f"({to_duckdb(text, self.types)})" for text in (self.where, *conditions) if text)
        return f" FILTER (WHERE {condition})" if condition else ""

    def rows(self, says: str, fails: str, types: Mapping[str, str] | None = None, **more: Any) -> Rule:
        """Return a rule that checks each row; ``types`` are those of the prepared columns."""
        if types:
            return replace(self, types={**self.types, **types}).rows(says, fails, prepared_types=types, **more)
        tolerance = self.tolerance

        def value(parts: Mapping[str, Any]) -> float:
            failing: float = parts["failing"]
            return failing / max(1, parts["rows"]) if tolerance else failing

        parts = {"rows": self.counted(), "failing": self.counted(fails)}
        return Rule(says, parts, value, high=tolerance, fails=fails, additive=not more.get("prepared"),
                    unit="of the rows" if tolerance else "rows", **more)  # fmt: skip


def to_duckdb(sql: str, types: Mapping[str, str]) -> str:
    """Translate a Spark SQL expression over columns of these types to DuckDB SQL, where times are UTC without a zone.

    Raises
    ------
    ConfigError
        The expression cannot be parsed, names an unknown column, or contains something that cannot be translated.
    """
    try:
        _refuse_unknown_columns(sql, set(types))
        return dialects.expression(sql, types)
    except (sqlglot.errors.SqlglotError, ConfigError) as error:
        raise ConfigError(f"{sql!r}: {first_line(error)}") from None


def _refuse_unknown_columns(sql: str, known: set[str]) -> None:
    tree = sqlglot.parse_one(sql, dialect=dialects.Spark)
    not_columns = {parameter.name for function in tree.find_all(exp.Lambda) for parameter in function.expressions}
    not_columns |= {
        call.expressions[0].name
        for call in tree.find_all(exp.Anonymous)
        if len(call.expressions) == 3 and re.search("diff|add", call.name.lower())
    }  # a unit, as in datediff(MONTH, …)
    for column in tree.find_all(exp.Column):
        if column.parts[0].name.lower() not in {name.lower() for name in known | not_columns}:
            raise ConfigError(unknown("column", column.parts[0].name, known))


def unknown(what: str, name: Any, known: Iterable[str]) -> str:
    """Return the message about an unknown name; names that begin with an underscore are not suggested."""
    public = [candidate for candidate in known if not candidate.startswith("_")]
    return f"unknown {what} {name!r}; {suggestion(str(name), public)}"
