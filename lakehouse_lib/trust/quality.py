"""Run the checks of a table in one scan, keep the results, and say what they mean for a run.

Reads go through DuckDB over the table's files: no engine is needed. What can be summed is computed
for the files that came and went since the last check, and added to the last result; so a check
costs what is new, and tells of the whole table.
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
"""Keys of failing rows that are kept with a result."""


@dataclass(frozen=True)
class Result:
    """What a check found; field names are the columns of ``ops/quality_results``."""

    run_id: str
    table_name: str
    layer: str
    check_name: str
    kind: str
    severity: str
    scope: str
    passed: bool | None
    """None where there were no rows to look at."""
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
        """Whether it found something wrong; no rows are neither right nor wrong."""
        return self.passed is False

    @property
    def stops(self) -> bool:
        """Whether nothing may be made from the table."""
        return self.failed and self.severity == "error"

    @property
    def verdict(self) -> str:
        """ok, no rows, or the severity of what is wrong."""
        return self.severity if self.failed else "ok" if self.passed else "no rows"


Latest = dict[str, dict[str, Result]]
"""The last result of each check of each table."""


def latest(settings: Settings) -> Latest:
    """The results of each table's last checks, by table and check."""
    opened = delta.open_table(_path(settings)) if settings.enable_delta else None
    found: Latest = {}
    if opened is None:
        return found
    results = delta.dataset(opened)  # noqa: F841 - named in the query
    names = ", ".join(Result.__dataclass_fields__)
    with reader.plain() as own:
        last = own.sql(
            f"SELECT {names} FROM results QUALIFY checked_at = max(checked_at) OVER (PARTITION BY table_name)"
        ).to_arrow_table()
    for row in last.to_pylist():
        found.setdefault(row["table_name"], {})[row["check_name"]] = Result(**row)
    return found


def due(settings: Settings, table: Table, last: Mapping[str, Result]) -> bool:
    """Whether the table or its checks have changed since they were last run."""
    opened = delta.opened(settings, table)
    if opened is None:
        return False
    known = next(iter(last.values()), None)
    if known is None or known.table_id != str(opened.metadata().id):
        return True
    if {check.digest for check in table.all_checks} != {result.definition for result in last.values()}:
        return True
    path, version = delta.table_path(settings, table), opened.version()
    return version != known.table_version and delta.changes(path, known.table_version, version).any


def run_checks(
    settings: Settings, table: Table, run_id: str = "", last: Mapping[str, Result] | None = None
) -> list[Result]:
    """Run every check of a table; ``last`` are the results to build on, none for a full scan.

    Raises
    ------
    TableError
        The table has not been made.
    """
    opened = delta.made(settings, table, "there is nothing to check")
    return _Checking(settings, table, run_id, opened, last or {}).results()


def write_results(settings: Settings, results: list[Result]) -> None:
    """Add results to ``ops/quality_results``."""
    commits.write_ops(settings, "quality_results", [vars(result) for result in results])


def check_all(settings: Settings, run_id: str = "") -> Latest:
    """Run the checks that are due in all tables in use; returns every table's last results."""
    known, unused = latest(settings), landing.not_in_use(settings)
    for table in tables.declared(settings).values():
        if table.name not in unused and due(settings, table, known.get(table.name, {})):
            results = run_checks(settings, table, run_id, known.get(table.name))
            write_results(settings, results)
            known[table.name] = {result.check_name: result for result in results}
    return known


def scorecard(known: Latest) -> pd.DataFrame:
    """A row for each table: ``layer``, ``table``, ``rows``, numbers of checks, and a ``verdict``."""
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
    """A row for each check that fails, errors first: what it found, keys of some rows, the tables that
    keep their last good state because of it, and what to do."""
    declared = tables.declared(settings).values()
    made_from = {name: [t.name for t in declared if name in t.sources and t.layer != "quarantine"] for name in known}
    bad = [result for results in known.values() for result in results.values() if result.failed]
    bad.sort(
        key=lambda result: (checks.SEVERITIES.index(result.severity) if not result.stops else -1, result.table_name)
    )
    rows = [{"severity": r.severity, "what": r.message, "for example": ", ".join(json.loads(r.failing_keys)[:3]),
             "held back": ", ".join(made_from[r.table_name]) if r.stops else "", "what to do": _advice(r)}
            for r in bad]  # fmt: skip
    return pd.DataFrame(rows, columns=["severity", "what", "for example", "held back", "what to do"])


def history(settings: Settings) -> pd.DataFrame:
    """For each day and layer the share of checks that passed, of those that had rows to look at, percent:
    ``day``, and a column a layer."""
    frame = reader.query(
        settings,
        """
        SELECT date_trunc('day', checked_at) AS day, layer, 100.0 * avg(passed::INT) AS share
        FROM ops_quality_results WHERE passed IS NOT NULL GROUP BY ALL ORDER BY day
    """,
    )
    return frame.pivot(index="day", columns="layer", values="share").reset_index()


def stop_on_errors(known: Latest) -> None:
    """Raise what `error` checks found.

    Raises
    ------
    QualityError
        One of them fails.
    """
    if failing := [sentence for results in known.values() for sentence in stopping(results.values())]:
        raise QualityError("\n".join(failing))


_ADVICE = {
    "freshness": "look whether the producer still delivers",
    "unique": "look at the rows of one key: a key that is none, or a source that is loaded twice",
    "foreign_key": "load the table that it points to, or look why the key is missing there",
    "schema": "the table was changed from outside: see its history, and correct it or the declaration",
    "type": "the table was changed from outside: see its history, and correct it or the declaration",
    "drift": "look at the profile; where the change is meant, take the new shares for the baseline",
    "row_count": "compare with the days before in the anomalies; look at the landing files",
}


def _advice(result: Result) -> str:
    if result.severity == "quarantine":
        replay = command(f"quarantine replay {result.table_name} --reason {result.check_name}")
        return f"correct the producer or the check; records that pass then are put through by `{replay}`"
    profile = command(f"quality profile {result.table_name}")
    profile = f"look at `{profile}`; correct the source, or the bound in the check"
    return _ADVICE.get(result.kind, profile)


def stopping(results: Iterable[Result]) -> list[str]:
    """Sentences of the results for which nothing may be made from the table."""
    return [result.message for result in results if result.stops]


class _Checking:
    """One pass over a table."""

    def __init__(self, settings: Settings, table: Table, run_id: str, opened: DeltaTable, last: Mapping[str, Result]):
        self.settings, self.table, self.run_id, self.opened = settings, table, run_id, opened
        self.version, self.table_id = opened.version(), str(opened.metadata().id)
        self.last = {name: result for name, result in last.items() if result.table_id == self.table_id}
        self.now, self.began = datetime.now(UTC), time.monotonic()
        self.known = tables.declared(settings)
        self.connection, self.registered = reader.connect(), False
        self.rules = {check.name: self._rule(check) for check in table.all_checks}

    def results(self) -> list[Result]:
        """The results, in the order of the declaration."""
        current = delta.dataset(self.opened)
        everything = list(self.table.all_checks)
        found: dict[str, dict[Any, Any]] = {}
        for name in {name for check in everything for name in self.rules[check.name].needs}:
            other = delta.opened(self.settings, self.known[name])
            if other is None:
                log.warning("%s: a check looks into %s, which has not been made", self.table.name, name)
            else:
                reader.register(self.connection, name, delta.dataset(other))
        files = self._changed_files(current)
        of_run = [check for check in everything if check.scope == "run"]
        sums = [check for check in everything if files and self._can_be_summed(check)]
        whole = [check for check in everything if check not in of_run and check not in sums]
        found |= self._measure(self.table.name, whole)
        if of_run:
            self._register_files("_added", files[0] if files else list(current.get_fragments()), current)
            found |= self._measure("_added", of_run, where=f"_run_id = '{self.run_id}'")
        if sums and files:
            found |= self._summed(sums, files, current)
        return [self._result(check, found[check.name]) for check in everything]

    def _rule(self, check: Check) -> Rule:
        if check.kind in checks.METADATA:
            actual = {field.name: tables.spark_type(field.type) for field in pa.schema(self.opened.schema().to_arrow())}
            return checks.compile_check(check, self.table.name, self.table.layer, actual)
        return tables.rule(self.table, check, self.known)

    def _can_be_summed(self, check: Check) -> bool:
        before = self.last.get(check.name)
        if not before or before.definition != check.digest or check.scope != "table":
            return False
        return self.rules[check.name].additive and bool(json.loads(before.parts))  # none where it could not be run

    def _changed_files(self, current: ds.Dataset) -> tuple[list[Any], list[Any]] | None:
        """Files that came and that went since the last check; None where a full scan is as cheap."""
        known = next(iter(self.last.values()), None)
        if known is None:
            return None
        try:
            before = delta.dataset(DeltaTable(self.opened.table_uri, version=known.table_version))
        except (DeltaError, OSError):
            return None  # its log is gone
        old = {fragment.path: fragment for fragment in before.get_fragments()}
        new = {fragment.path: fragment for fragment in current.get_fragments()}
        added = [fragment for path, fragment in new.items() if path not in old]
        removed = [fragment for path, fragment in old.items() if path not in new]
        there = all(info.is_file for info in current.filesystem.get_file_info([f.path for f in removed]))
        return (added, removed) if there and len(added) + len(removed) < len(new) else None

    def _register_files(self, name: str, fragments: list[Any], like: ds.Dataset) -> None:
        reader.register(
            self.connection, name, ds.FileSystemDataset(fragments, like.schema, like.format, like.filesystem)
        )

    def _summed(
        self, wanted: list[Check], files: tuple[list[Any], list[Any]], current: ds.Dataset
    ) -> dict[str, dict[Any, Any]]:
        totals = {check.name: json.loads(self.last[check.name].parts) for check in wanted}
        for name, fragments, sign in (("_added", files[0], 1), ("_removed", files[1], -1)):
            if not fragments:
                continue
            self._register_files(name, fragments, current)
            for check_name, groups in self._measure(name, wanted).items():
                if "problem" in groups:
                    return self._measure(self.table.name, wanted)
                before = totals[check_name]
                totals[check_name] = {part: before[part] + sign * value for part, value in groups[None].items()}
        return {name: {None: parts} for name, parts in totals.items()}

    def _measure(self, relation: str, wanted: list[Check], where: str = "") -> dict[str, dict[Any, Any]]:
        """Parts of each check by partition (None: of all rows), from one query."""
        asked = {check.name: self.rules[check.name] for check in wanted}
        found: dict[str, dict[Any, Any]] = {name: {None: {}} for name in asked}
        if not any(rule.parts for rule in asked.values()):
            return found
        if relation == self.table.name:
            self._register_table()
        try:
            answer = self.connection.execute(query(self.table, relation, wanted, asked, where))
        except duckdb.Error as error:
            if len(wanted) == 1:
                return {wanted[0].name: {"problem": str(error).splitlines()[0]}}
            alone = [self._measure(relation, [check], where) for check in wanted]
            return {name: parts for one in alone for name, parts in one.items()}
        names = [column[0] for column in answer.description]
        for row in (dict(zip(names, values, strict=True)) for values in answer.fetchall()):
            group = row.get("partition_value") if row.get("is_part") else None
            for i, (name, rule) in enumerate(asked.items()):
                found[name][group] = {part: row[f"p{i}_{j}"] for j, part in enumerate(rule.parts)}
        return found

    def _result(self, check: Check, groups: dict[Any, Any]) -> Result:
        rule, table = self.rules[check.name], self.table
        if "problem" in groups:
            measured, failing, passed, parts, rows = None, 0, False, {}, 0
            message = f"{table.name}: check {check.name} cannot be run ({groups['problem']})"
        else:
            parts = groups[None]
            looked_at = dict(groups) if check.scope == "partition" and len(groups) > 1 else {None: parts}
            values = {
                group: rule.value(found)
                for group, found in looked_at.items()
                if group is not None or len(looked_at) == 1
            }
            bad = {group: value for group, value in values.items() if not _between(value, rule)}
            worst = max(bad or values, key=lambda group: _distance(values[group], rule), default=None)
            measured, passed = values.get(worst), not bad
            rows = int(parts.get("rows") or 0)
            failing = int(parts.get("failing", measured if rule.repeated and measured else 0) or 0)
            message = _sentence(table, check, rule, looked_at.get(worst, parts), measured, worst, len(bad))
            if not rows and not _says_of_no_rows(check, measured):
                measured, passed, message = None, None, f"{table.name}: check {check.name}: no rows to look at"
        keys: list[str] = []
        if passed is False and (rule.fails or rule.repeated) and "problem" not in groups:
            keys = self._failing_keys(check, rule)
            if rule.repeated and not keys:  # two keys of one hash, no repetition
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
        """The whole table: only where it is needed, because even a view of it opens every file."""
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


def query(table: Table, relation: str, wanted: list[Check], rules: Mapping[str, Rule], where: str = "") -> str:
    """The one DuckDB query that measures some checks."""
    aggregates = [
        f"{sql} AS p{i}_{j}" for i, rule in enumerate(rules.values()) for j, sql in enumerate(rule.parts.values())
    ]
    prepared: dict[str, str] = {}
    for rule in rules.values():
        prepared |= rule.prepared
    source, grouping = _prepared(relation, prepared), ""
    if table.partition_by and any(check.scope == "partition" for check in wanted):
        part = f'"{table.partition_by}"'
        aggregates += [f"{part}::VARCHAR AS partition_value", f"GROUPING({part}) = 0 AS is_part"]
        grouping = f" GROUP BY GROUPING SETS ((), ({part}))"
    condition = f" WHERE {where}" if where else ""
    return f"SELECT {', '.join(aggregates)} FROM {source}{condition}{grouping}"


def _prepared(relation: str, columns: Mapping[str, str]) -> str:
    if not columns:
        return f'"{relation}"'
    return f'(SELECT *, {", ".join(f"{sql} AS {name}" for name, sql in columns.items())} FROM "{relation}")'


def _says_of_no_rows(check: Check, measured: float | None) -> bool:
    """Whether a check is about more than rows that are there."""
    counts = check.kind in ("row_count", "aggregate") and check.scope != "partition" and measured is not None
    return counts or check.kind in checks.METADATA


def _between(value: float | None, rule: Rule) -> bool:
    if value is None or math.isnan(value):
        return False
    return (rule.low is None or value >= rule.low) and (rule.high is None or value <= rule.high)


def _distance(value: float | None, rule: Rule) -> float:
    """How far a value is out of its bounds."""
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
