"""Checks as declared: a name, a kind, the kind's arguments, a severity, and optionally a filter and a scope.

A check is part of a table's declaration (`check`) or of a parameters file::

    quality:
      app_events_silver:
        - {name: known_app, check: allowed_values, column: app_type, values: [web, ios], severity: warn}

`kinds` has the kinds and their arguments; `trust.quality` runs the checks.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from types import NoneType
from typing import Any

from lakehouse_lib.errors import ConfigError
from lakehouse_lib.model.kinds import KINDS, METADATA
from lakehouse_lib.model.rules import Context, Rule, unknown

SEVERITIES = ("warn", "error", "quarantine")
"""warn: the failure is only reported; error: the run exits with 3 and nothing is made from the table; quarantine
(bronze tables only): the record is set aside unchanged, and the other records are processed."""

SCOPES = ("table", "partition", "run")
"""All rows together; each partition separately; only the rows that the run wrote."""

_COMMON = ("name", "check", "severity", "where", "scope", "tolerance")
"""Keys of a definition that every kind has; the others are arguments of the kind."""
_COLUMN_ARGUMENTS = ("column", "columns", "numerator", "denominator", "order_by", "by")
"""Arguments that name columns of the table."""
_ACCEPTED_TYPES: dict[str, Any] = {
    "str": (str, date), "float": (float, int), "int": int, "list": (list, tuple), "dict": dict, "None": NoneType,
}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """A check as declared."""

    name: str
    kind: str
    arguments: dict[str, Any]
    severity: str = "error"
    where: str = ""
    """Spark SQL condition that selects the rows to check."""
    scope: str = "table"
    tolerance: float = 0.0
    """Share of the rows that may fail, 0–1; only for kinds that check each row."""

    @property
    def digest(self) -> str:
        """The definition as text; a stored result is valid only for the definition that it was computed with."""
        return json.dumps(vars(self), sort_keys=True, default=str)


def check(name: str, kind: str, /, severity: str = "error", where: str = "", scope: str = "table",
          tolerance: float = 0.0, **arguments: Any) -> Check:  # fmt: skip
    """Return a check in a declaration, for example ``check("hour", "range", column="event_hour", min=0, max=23)``."""
    return Check(name, kind, arguments, severity, where, scope, tolerance)


def parse(definition: Mapping[str, Any]) -> Check:
    """Return a check from a parameters file; `compile_check` decides whether it fits its table."""
    rest = dict(definition)
    kind = str(rest.pop("check", ""))
    common = {key: rest.pop(key) for key in _COMMON if key in rest}
    arguments = {"is_" if key == "is" else key: value for key, value in rest.items()}
    name = str(
        common.pop("name", "")
        or "_".join([kind, *map(str, arguments.get("columns", ())), str(arguments.get("column", ""))]).rstrip("_")
    )
    return Check(name, kind, arguments, **common)


def compile_check(check: Check, table: str, layer: str, types: Mapping[str, str], known: Iterable[str] = ()) -> Rule:
    """Return the rule for a check of a table with these columns (name: type); ``known`` are the names of all tables.

    Raises
    ------
    ConfigError
        Kind, column, argument, severity, scope or SQL is invalid; the message suggests the closest name.
    """
    location = f"quality.{table}, check {check.name!r}"
    try:
        if check.kind not in KINDS:
            raise ConfigError(unknown("check", check.kind, KINDS))
        _require_one_of("severity", check.severity, SEVERITIES)
        _require_one_of("scope", check.scope, SCOPES)
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", check.name):
            raise ConfigError(f"name = {check.name!r}: must consist of letters, digits and _")
        _check_arguments(check, types)
        if check.kind == "foreign_key" and check.arguments["table"] not in known:
            raise ConfigError(unknown("table", check.arguments["table"], known))
        if not isinstance(check.tolerance, int | float) or not 0 <= check.tolerance <= 1:
            raise ConfigError(f"tolerance = {check.tolerance!r}: must be a share from 0 to 1")
        rule = KINDS[check.kind](Context(dict(types), check.where, check.tolerance), **check.arguments)
        if check.tolerance and not rule.fails:
            raise ConfigError(f"tolerance is for checks of each row; {check.kind} has bounds of its own")
        if check.severity == "quarantine" and (layer != "bronze" or not rule.fails or rule.prepared):
            raise ConfigError(
                f"severity quarantine is for checks of each record of a bronze table; {check.kind} on {table} "
                "can be warn or error"
            )
        if check.severity == "quarantine":
            # A record that was set aside carries the name of the check as a flag.
            broken = " AND ".join(f"({text})" for text in (check.where, rule.fails) if text)
            context = Context(dict(types), "", check.tolerance)
            rule = replace(
                context.rows(rule.says, f"array_contains(_quality_flags, '{check.name}')"), sets_aside=broken
            )
        return rule
    except ConfigError as error:
        raise ConfigError(f"{location}: {error}") from None


def _check_arguments(check: Check, types: Mapping[str, str]) -> None:
    """Check the arguments against the parameters of the kind."""
    expected = {name: p for name, p in inspect.signature(KINDS[check.kind]).parameters.items() if name != "context"}
    for name, value in check.arguments.items():
        if name not in expected:
            raise ConfigError(unknown(f"argument of {check.kind}", name, [*expected, *_COMMON]))
        annotation = re.sub(r"\[.*?\]", "", str(expected[name].annotation))
        accepted = [_ACCEPTED_TYPES[word] for word in re.findall(r"\w+", annotation) if word in _ACCEPTED_TYPES]
        if not any(isinstance(value, kind) for kind in accepted):
            raise ConfigError(f"{name} = {value!r}: expected {annotation.replace(' | None', '')}")
    missing = [name for name, p in expected.items() if p.default is p.empty and name not in check.arguments]
    if missing:
        raise ConfigError(f"{check.kind} needs {' and '.join(missing).replace('is_', 'is')}")
    if check.kind in METADATA:
        return
    for name in _COLUMN_ARGUMENTS:
        value = check.arguments.get(name, [])
        for column in filter(None, value if isinstance(value, list | tuple) else [value]):
            if column not in types:
                raise ConfigError(unknown("column", column, types))


def _require_one_of(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(unknown(what, value, choices))
