"""Run the checks of a table in one scan, store the results, and say what they mean for a run.

DuckDB reads the table's files; no engine is needed. Results that can be summed are computed only for the
files added and removed since the last check, and combined with the last result: a check reads only what is
new and still covers the whole table.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lakehouse_lib.config import Settings, command
from lakehouse_lib.errors import QualityError
from lakehouse_lib.intake import landing
from lakehouse_lib.model import checks, tables
from lakehouse_lib.model.checks import Check, Rule
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import commits, delta, reader

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


Latest = dict[str, dict[str, Result]]
"""The last result of each check, by table and check name."""


def latest(settings: Settings) -> Latest:
    """The results of each table's last checks, by table and check name."""
    delta_table = delta.open_table(_path(settings)) if settings.enable_delta else None
    results_by_table: Latest = {}
    if delta_table is None:
        return results_by_table
    results = delta.dataset(delta_table)  # noqa: F841 - named in the query
    names = ", ".join(Result.__dataclass_fields__)
    with reader.cursor() as connection:
        rows = connection.sql(
            f"SELECT {names} FROM results QUALIFY checked_at = max(checked_at) OVER (PARTITION BY table_name)"
        ).to_arrow_table()
    for row in rows.to_pylist():
        results_by_table.setdefault(row["table_name"], {})[row["check_name"]] = Result(**row)
    return results_by_table


def due(settings: Settings, table: Table, last: Mapping[str, Result]) -> bool:
    """Whether the table or its checks have changed since the last check."""
    delta_table = delta.opened(settings, table)
    if delta_table is None:
        return False
    any_result = next(iter(last.values()), None)
    if any_result is None or any_result.table_id != str(delta_table.metadata().id):
        return True
    if {check.digest for check in table.all_checks} != {result.definition for result in last.values()}:
        return True
    path, version = delta.table_path(settings, table), delta_table.version()
    return version != any_result.table_version and delta.changes(path, any_result.table_version, version).any


def run_checks(
    settings: Settings, table: Table, run_id: str = "", last: Mapping[str, Result] | None = None
) -> list[Result]:
    """Run every check of a table; ``last`` holds the results to build on, nothing means a full scan.

    Raises
    ------
    TableError
        The table does not exist yet.
    """
    opened = delta.made(settings, table, "there is nothing to check")
    return _Checking(settings, table, run_id, opened, last or {}).results()


def trial(settings: Settings, table: Table, last: Mapping[str, Result]) -> list[Result]:
    """Run a table's own checks that have not run yet, over the table as it stands; nothing is recorded. Those of
    severity quarantine look at accepted records, and fail for those that they would set aside."""
    delta_table, known = delta.opened(settings, table), {result.definition for result in last.values()}
    new = [check for check in table.checks if check.digest not in known]
    if delta_table is None or not known or not new:
        return []
    tried = [replace(check, severity="warn", where=f"({_ACCEPTED}) AND ({check.where or 'true'})")
             if check.severity == "quarantine" else check for check in new]  # fmt: skip
    results = _Checking(settings, replace(table, checks=tuple(tried)), "", delta_table, {}, tried).results()
    return [replace(result, severity=check.severity) for result, check in zip(results, new, strict=True)]


_ACCEPTED = "size(_quality_flags) = 0"


def write_results(settings: Settings, results: list[Result]) -> None:
    """Add results to ``ops/quality_results``."""
    commits.write_ops(settings, "quality_results", [vars(result) for result in results])


def check_all(settings: Settings, run_id: str = "") -> Latest:
    """Run the checks that are due for all tables in use; returns every table's last results."""
    known, unused = latest(settings), landing.not_in_use(settings)
    for table in tables.declared(settings).values():
        if table.name not in unused and due(settings, table, known.get(table.name, {})):
            results = run_checks(settings, table, run_id, known.get(table.name))
            write_results(settings, results)
            known[table.name] = {result.check_name: result for result in results}
    return known


def scorecard(known: Latest) -> pd.DataFrame:
    """A row for each table: ``layer``, ``table``, ``rows``, ``checks``, ``passed`` and ``verdict``."""
    rows = []
    for name, results in known.items():
        verdicts = {result.verdict for result in results.values()}
        worst = next((word for word in ("error", "warn", "quarantine", "ok") if word in verdicts), "no rows")
        rows.append({
            "layer": next(iter(results.values())).layer, "table": name,
            "rows": max(result.rows for result in results.values()), "checks": len(results),
            "passed": sum(result.passed is True for result in results.values()), "verdict": worst,
        })  # fmt: skip
    frame = pd.DataFrame(rows, columns=["layer", "table", "rows", "checks", "passed", "verdict"])
    return frame.sort_values(["layer", "table"], key=lambda c: c.map(tables.LAYERS.index) if c.name == "layer" else c)


def failures(settings: Settings, known: Latest) -> pd.DataFrame:
    """A row for each failed check, errors first: what it found, keys of some rows, the tables that keep their
    last good state because of it, and what to do."""
    declared = tables.declared(settings).values()
    made_from = {name: [t.name for t in declared if name in t.sources and t.layer != "quarantine"] for name in known}
    failed = [result for results in known.values() for result in results.values() if result.failed]
    failed.sort(
        key=lambda result: (checks.SEVERITIES.index(result.severity) if not result.stops else -1, result.table_name)
    )
    rows = [{"severity": r.severity, "what": r.message, "for example": ", ".join(json.loads(r.failing_keys)[:3]),
             "held back": ", ".join(made_from[r.table_name]) if r.stops else "", "what to do": _advice(r)}
            for r in failed]  # fmt: skip
    return pd.DataFrame(rows, columns=["severity", "what", "for example", "held back", "what to do"])


def history(settings: Settings) -> pd.DataFrame:
    """For each day and layer, the percentage of passed checks among those that had rows to check: ``day``, and a
    column for each layer."""
    frame = reader.query(
        settings,
        """
        SELECT date_trunc('day', checked_at) AS day, layer, 100.0 * avg(passed::INT) AS share
        FROM ops_quality_results WHERE passed IS NOT NULL GROUP BY ALL ORDER BY day
    """,
    )
    return frame.pivot(index="day", columns="layer", values="share").reset_index()


def stop_on_errors(known: Latest) -> None:
    """Raise the failures of `error` checks.

    Raises
    ------
    QualityError
        A check of severity `error` fails.
    """
    if failing := [sentence for results in known.values() for sentence in stopping(results.values())]:
        raise QualityError("\n".join(failing))


_ADVICE = {
    "freshness": "check whether the producer still delivers",
    "unique": "look at the rows of one key: either it is not a key, or a source was loaded twice",
    "foreign_key": "load the table that it points to, or find out why the key is missing there",
    "schema": "the table was changed from outside: see its history, and correct it or the declaration",
    "type": "the table was changed from outside: see its history, and correct it or the declaration",
    "drift": "look at the profile; if the change is intended, take the new shares as the baseline",
    "row_count": "compare with the previous days in the anomalies; look at the landing files",
}


def _advice(result: Result) -> str:
    if result.severity == "quarantine":
        replay = command(f"quarantine replay {result.table_name} --reason {result.check_name}")
        return f"correct the producer or the check, then process the records again with `{replay}`"
    profile = command(f"quality profile {result.table_name}")
    profile = f"look at `{profile}`; correct the source, or the bound in the check"
    return _ADVICE.get(result.kind, profile)


def stopping(results: Iterable[Result]) -> list[str]:
    """Messages of the results that stop the tables made from this one."""
    return [result.message for result in results if result.stops]


class _Checking:
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
        """The results, in the order of the declaration."""
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
        if check.kind in checks.METADATA:
            actual = {field.name: tables.spark_type(field.type) for field in pa.schema(self.opened.schema().to_arrow())}
            return checks.compile_check(check, self.table.name, self.table.layer, actual)
        return tables.rule(self.table, check, self.known)

    def _can_be_summed(self, check: Check) -> bool:
        previous = self.last.get(check.name)
        if not previous or previous.definition != check.digest or check.scope != "table":
            return False
        return self.rules[check.name].additive and bool(json.loads(previous.parts))  # empty if it could not be run

    def _changed_files(self, current: ds.Dataset) -> tuple[list[Any], list[Any]] | None:
        """Files added and removed since the last check; None if a full scan is as cheap."""
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
        """Parts of each check by partition (None: all rows together), from one query."""
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
                return {selected[0].name: {"problem": str(error).splitlines()[0]}}
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
        """Keys of some failing rows, as text."""
        self._register_table()
        where = [f"_run_id = '{self.run_id}'"] if check.scope == "run" else []
        types = self.table.types | rule.prepared_types
        where += [f"({checks.to_duckdb(text, types)})" for text in (check.where, rule.fails) if text]
        key = rule.repeated or self.table.key or ("_source_file", *self.table.business[:1])
        columns = ", ".join(f'"{name}"' for name in key)
        if rule.repeated:
            where += [f'"{name}" IS NOT NULL' for name in rule.repeated]
        sql = f"SELECT {columns} FROM {_prepared(self.table.name, rule.prepared)} WHERE {' AND '.join(where) or 'true'}"
        sql += f" GROUP BY {columns} HAVING count(*) > 1" if rule.repeated else ""
        rows = self.connection.execute(f"{sql} ORDER BY {columns} LIMIT {SAMPLES}").fetchall()
        return [" · ".join("null" if value is None else str(value) for value in row) for row in rows]


def query(table: Table, relation: str, selected: list[Check], rules: Mapping[str, Rule], where: str = "") -> str:
    """The DuckDB query that measures the given checks in one scan."""
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
    """Whether a check has a result even if there are no rows."""
    counts = check.kind in ("row_count", "aggregate") and check.scope != "partition" and measured is not None
    return counts or check.kind in checks.METADATA


def _between(value: float | None, rule: Rule) -> bool:
    if value is None or math.isnan(value):
        return False
    return (rule.low is None or value >= rule.low) and (rule.high is None or value <= rule.high)


def _distance(value: float | None, rule: Rule) -> float:
    """How far a value is outside its bounds."""
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
    if check.kind in checks.METADATA:
        return f"{start}{rule.says}"
    value = "unknown" if measured is None else f"{measured:,.4g} {rule.unit}".rstrip()
    return f"{start}{rule.says}{filtered}{where} is {value}, expected {_bounds(rule)}{more}"


def _path(settings: Settings) -> str:
    return f"{settings.layer_path('ops')}/quality_results"
