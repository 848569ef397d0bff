"""Measure the checks of a table in one scan.

DuckDB reads the table's files; no engine is needed. Results that can be summed are computed only for the files added
and removed since the last check, and combined with the last result: a check reads only what is new and still covers
the whole table.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lakehouse_lib.config import Settings
from lakehouse_lib.errors import first_line
from lakehouse_lib.model import checks, tables
from lakehouse_lib.model.checks import Check
from lakehouse_lib.model.kinds import METADATA
from lakehouse_lib.model.rules import Rule, to_duckdb
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta, reader

log = logging.getLogger(__name__)

SAMPLES = 5
"""Number of keys of failing rows that are stored with a result."""


@dataclass(frozen=True)
class Result:
    """The result of a check; the fields are the columns of ``ops/quality_results``."""

    run_id: str
    table_name: str
    layer: str
    check_name: str
    kind: str
    severity: str
    scope: str
    passed: bool | None
    """None if there were no rows to check."""
    measured: float | None
    expected: str
    unit: str
    rows: int
    failing_rows: int
    failing_keys: str
    message: str
    checked_at: datetime
    seconds: float
    table_id: str
    table_version: int
    definition: str
    parts: str

    @property
    def failed(self) -> bool:
        """Whether the check failed; a check without rows neither passes nor fails."""
        return self.passed is False

    @property
    def stops(self) -> bool:
        """Whether the result stops the tables that are made from this one."""
        return self.failed and self.severity == "error"

    @property
    def verdict(self) -> str:
        """ok, no rows, or the severity of the failed check."""
        return self.severity if self.failed else "ok" if self.passed else "no rows"


class Checking:
    """One run of a table's checks."""

    def __init__(
        self, settings: Settings, table: Table, run_id: str, opened: DeltaTable, last: Mapping[str, Result],
        selected: Iterable[Check] = (),
    ):  # fmt: skip
        self.settings, self.table, self.run_id, self.opened = settings, table, run_id, opened
        self.version, self.table_id = opened.version(), str(opened.metadata().id)
        self.last = {name: result for name, result in last.items() if result.table_id == self.table_id}
        self.now, self.began = datetime.now(UTC), time.monotonic()
        self.known = tables.declared(settings)
        self.connection, self.registered = reader.cursor(), False
        self.checks = [*selected] or [*table.all_checks]
        self.rules = {check.name: self._rule(check) for check in self.checks}

    def results(self) -> list[Result]:
        """Return the results, in the order of the declaration."""
        current = delta.dataset(self.opened)
        all_checks = self.checks
        measured: dict[str, dict[Any, Any]] = {}
        for name in {name for check in all_checks for name in self.rules[check.name].needs}:
            source = delta.opened(self.settings, self.known[name])
            if source is None:
                log.warning("%s: a check needs %s, which does not exist yet", self.table.name, name)
            else:
                reader.register(self.connection, name, delta.dataset(source))
        changed = self._changed_files(current)
        run_scoped = [check for check in all_checks if check.scope == "run"]
        summable = [check for check in all_checks if changed and self._can_be_summed(check)]
        full_scan = [check for check in all_checks if check not in run_scoped and check not in summable]
        measured |= self._measure(self.table.name, full_scan)
        if run_scoped:
            self._register_files("_added", changed[0] if changed else list(current.get_fragments()), current)
            measured |= self._measure("_added", run_scoped, where=f"_run_id = '{self.run_id}'")
        if summable and changed:
            measured |= self._summed(summable, changed, current)
        return [self._result(check, measured[check.name]) for check in all_checks]

    def _rule(self, check: Check) -> Rule:
        if check.kind in METADATA:
            actual = {field.name: tables.spark_type(field.type) for field in pa.schema(self.opened.schema().to_arrow())}
            return checks.compile_check(check, self.table.name, self.table.layer, actual)
        return tables.rule(self.table, check, self.known)

    def _can_be_summed(self, check: Check) -> bool:
        previous = self.last.get(check.name)
        if not previous or previous.definition != check.digest or check.scope != "table":
            return False
        return self.rules[check.name].additive and bool(json.loads(previous.parts))  # empty if it could not be run

    def _changed_files(self, current: ds.Dataset) -> tuple[list[Any], list[Any]] | None:
        """Return the files added and removed since the last check; None if a full scan is as cheap."""
        any_result = next(iter(self.last.values()), None)
        if any_result is None:
            return None
        try:
            previous = delta.dataset(DeltaTable(self.opened.table_uri, version=any_result.table_version))
        except (DeltaError, OSError):
            return None  # the log of that version is gone
        old = {fragment.path: fragment for fragment in previous.get_fragments()}
        new = {fragment.path: fragment for fragment in current.get_fragments()}
        added = [fragment for path, fragment in new.items() if path not in old]
        removed = [fragment for path, fragment in old.items() if path not in new]
        all_present = all(info.is_file for info in current.filesystem.get_file_info([f.path for f in removed]))
        return (added, removed) if all_present and len(added) + len(removed) < len(new) else None

    def _register_files(self, name: str, fragments: list[Any], dataset: ds.Dataset) -> None:
        reader.register(
            self.connection, name, ds.FileSystemDataset(fragments, dataset.schema, dataset.format, dataset.filesystem)
        )

    def _summed(
        self, summable: list[Check], changed: tuple[list[Any], list[Any]], current: ds.Dataset
    ) -> dict[str, dict[Any, Any]]:
        totals = {check.name: json.loads(self.last[check.name].parts) for check in summable}
        for name, fragments, sign in (("_added", changed[0], 1), ("_removed", changed[1], -1)):
            if not fragments:
                continue
            self._register_files(name, fragments, current)
            for check_name, groups in self._measure(name, summable).items():
                if "problem" in groups:
                    return self._measure(self.table.name, summable)
                previous = totals[check_name]
                totals[check_name] = {part: previous[part] + sign * value for part, value in groups[None].items()}
        return {name: {None: parts} for name, parts in totals.items()}

    def _measure(self, relation: str, selected: list[Check], where: str = "") -> dict[str, dict[Any, Any]]:
        """Return the parts of each check by partition (None: all rows together), from one query."""
        rules = {check.name: self.rules[check.name] for check in selected}
        measured: dict[str, dict[Any, Any]] = {name: {None: {}} for name in rules}
        if not any(rule.parts for rule in rules.values()):
            return measured
        if relation == self.table.name:
            self._register_table()
        try:
            cursor = self.connection.execute(query(self.table, relation, selected, rules, where))
        except duckdb.Error as error:
            if len(selected) == 1:
                return {selected[0].name: {"problem": first_line(error)}}
            separate = [self._measure(relation, [check], where) for check in selected]
            return {name: parts for single in separate for name, parts in single.items()}
        names = [column[0] for column in cursor.description]
        for row in (dict(zip(names, values, strict=True)) for values in cursor.fetchall()):
            group = row.get("partition_value") if row.get("is_part") else None
            for i, (name, rule) in enumerate(rules.items()):
                measured[name][group] = {part: row[f"p{i}_{j}"] for j, part in enumerate(rule.parts)}
        return measured

    def _result(self, check: Check, groups: dict[Any, Any]) -> Result:
        rule, table = self.rules[check.name], self.table
        if "problem" in groups:
            measured, failing, passed, parts, rows = None, 0, False, {}, 0
            message = f"{table.name}: check {check.name} cannot be run ({groups['problem']})"
        else:
            parts = groups[None]
            judged = dict(groups) if check.scope == "partition" and len(groups) > 1 else {None: parts}
            values = {
                group: rule.value(group_parts)
                for group, group_parts in judged.items()
                if group is not None or len(judged) == 1
            }
            failed_groups = {group: value for group, value in values.items() if not _between(value, rule)}
            worst = max(failed_groups or values, key=lambda group: _distance(values[group], rule), default=None)
            measured, passed = values.get(worst), not failed_groups
            rows = int(parts.get("rows") or 0)
            failing = int(parts.get("failing", measured if rule.repeated and measured else 0) or 0)
            message = _sentence(table, check, rule, judged.get(worst, parts), measured, worst, len(failed_groups))
            if not rows and not _applies_without_rows(check, measured):
                measured, passed, message = None, None, f"{table.name}: check {check.name}: no rows to look at"
        keys: list[str] = []
        if passed is False and (rule.fails or rule.repeated) and "problem" not in groups:
            keys = self._failing_keys(check, rule)
            if rule.repeated and not keys:  # two keys with the same hash, not a duplicate
                passed, measured, failing = True, 0.0, 0
        return Result(
            run_id=self.run_id, table_name=table.name, layer=table.layer, check_name=check.name, kind=check.kind,
            severity=check.severity, scope=check.scope, passed=passed,
            measured=None if measured is None or math.isnan(measured) else float(measured),
            expected=_bounds(rule), unit=rule.unit, rows=rows, failing_rows=failing,
            failing_keys=json.dumps(keys if self.settings.quality_samples else []), message=message,
            checked_at=self.now, seconds=time.monotonic() - self.began, table_id=self.table_id,
            table_version=self.version, definition=check.digest, parts=json.dumps(parts),
        )  # fmt: skip

    def _register_table(self) -> None:
        """Register the whole table, only when needed: even a view of it opens every file."""
        if not self.registered:
            reader.register(self.connection, self.table.name, delta.dataset(self.opened))
            self.registered = True

    def _failing_keys(self, check: Check, rule: Rule) -> list[str]:
        """Return the keys of some failing rows, as text."""
        self._register_table()
        where = [f"_run_id = '{self.run_id}'"] if check.scope == "run" else []
        types = self.table.types | rule.prepared_types
        where += [f"({to_duckdb(text, types)})" for text in (check.where, rule.fails) if text]
        key = rule.repeated or self.table.key or ("_source_file", *self.table.business[:1])
        columns = ", ".join(f'"{name}"' for name in key)
        if rule.repeated:
            where += [f'"{name}" IS NOT NULL' for name in rule.repeated]
        sql = f"SELECT {columns} FROM {_prepared(self.table.name, rule.prepared)} WHERE {' AND '.join(where) or 'true'}"
        sql += f" GROUP BY {columns} HAVING count(*) > 1" if rule.repeated else ""
        rows = self.connection.execute(f"{sql} ORDER BY {columns} LIMIT {SAMPLES}").fetchall()
        return [" · ".join("null" if value is None else str(value) for value in row) for row in rows]


def query(table: Table, relation: str, selected: list[Check], rules: Mapping[str, Rule], where: str = "") -> str:
    """Return the DuckDB query that measures the given checks in one scan."""
    aggregates = [
        f"{sql} AS p{i}_{j}" for i, rule in enumerate(rules.values()) for j, sql in enumerate(rule.parts.values())
    ]
    prepared: dict[str, str] = {}
    for rule in rules.values():
        prepared |= rule.prepared
    source, grouping = _prepared(relation, prepared), ""
    if table.partition_by and any(check.scope == "partition" for check in selected):
        partition = f'"{table.partition_by}"'
        aggregates += [f"{partition}::VARCHAR AS partition_value", f"GROUPING({partition}) = 0 AS is_part"]
        grouping = f" GROUP BY GROUPING SETS ((), ({partition}))"
    condition = f" WHERE {where}" if where else ""
    return f"SELECT {', '.join(aggregates)} FROM {source}{condition}{grouping}"


def _prepared(relation: str, columns: Mapping[str, str]) -> str:
    if not columns:
        return f'"{relation}"'
    return f'(SELECT *, {", ".join(f"{sql} AS {name}" for name, sql in columns.items())} FROM "{relation}")'


def _applies_without_rows(check: Check, measured: float | None) -> bool:
    """Return whether a check has a result even if there are no rows."""
    counts = check.kind in ("row_count", "aggregate") and check.scope != "partition" and measured is not None
    return counts or check.kind in METADATA


def _between(value: float | None, rule: Rule) -> bool:
    if value is None or math.isnan(value):
        return False
    return (rule.low is None or value >= rule.low) and (rule.high is None or value <= rule.high)


def _distance(value: float | None, rule: Rule) -> float:
    """Return how far a value is outside its bounds."""
    if value is None or math.isnan(value):
        return math.inf
    over = value - rule.high if rule.high is not None else -math.inf
    under = rule.low - value if rule.low is not None else -math.inf
    return max(over, under)


def _bounds(rule: Rule) -> str:
    low, high = (None if bound is None else f"{bound:g}" for bound in (rule.low, rule.high))
    if low is None:
        return f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"


def _sentence(table: Table, check: Check, rule: Rule, parts: Mapping[str, Any], measured: float | None,
              group: str | None, bad: int) -> str:  # fmt: skip
    where = f" in {table.partition_by} {group}" if group is not None else ""
    more = f" (and {bad - 1} more partitions)" if bad > 1 else ""
    filtered = f" (where {check.where})" if check.where else ""
    start = f"{table.name}: check {check.name}: "
    if rule.fails or rule.repeated:
        failing = parts.get("failing", measured or 0)
        share = f"; at most {rule.high:.2%} may" if check.tolerance or check.kind == "null_share" else ""
        return f"{start}{failing:,.0f} of {parts['rows']:,} rows{filtered}{where} {rule.says}{share}{more}"
    if check.kind in METADATA:
        return f"{start}{rule.says}"
    value = "unknown" if measured is None else f"{measured:,.4g} {rule.unit}".rstrip()
    return f"{start}{rule.says}{filtered}{where} is {value}, expected {_bounds(rule)}{more}"
