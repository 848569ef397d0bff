"""The checks of the tables: when they are due, their results, and what the results mean for a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

import pandas as pd
from deltalake import DeltaTable

from lakehouse_lib.config import Settings, command
from lakehouse_lib.errors import QualityError
from lakehouse_lib.intake import landing
from lakehouse_lib.model import checks, tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import commits, delta, reader, remembered
from lakehouse_lib.trust.checking import Checking, Result

Latest = dict[str, dict[str, Result]]
"""The last result of each check, by table and check name."""


def latest(settings: Settings) -> Latest:
    """Return the results of each table's last checks, by table and check name."""
    delta_table = delta.open_table(_path(settings)) if settings.enable_delta else None
    if delta_table is None:
        return {}
    known = remembered.made_of(delta_table, "latest results", _latest)
    return {name: dict(results) for name, results in known.items()}


def _latest(delta_table: DeltaTable) -> Latest:
    results_by_table: Latest = {}
    results = delta.dataset(delta_table)  # noqa: F841 - named in the query
    names = ", ".join(Result.__dataclass_fields__)
    with reader.cursor() as connection:
        rows = connection.sql(
            f"SELECT {names} FROM results QUALIFY checked_at = max(checked_at) OVER (PARTITION BY table_name)"
        ).to_arrow_table()
    for row in rows.to_pylist():
        results_by_table.setdefault(row["table_name"], {})[row["check_name"]] = Result(**row)
    return results_by_table


def past(settings: Settings, times: int = 20) -> dict[str, dict[str, list[tuple[datetime, bool | None]]]]:
    """Return how each check went at its table's last checks, by table and check name, oldest first: when, and whether
    it passed."""
    opened = delta.open_table(_path(settings)) if settings.enable_delta else None
    found: dict[str, dict[str, list[tuple[datetime, bool | None]]]] = {}
    if opened is None:
        return found
    results = delta.dataset(opened)  # noqa: F841 - named in the query
    with reader.cursor() as connection:
        rows = connection.sql(f"""
            SELECT table_name, check_name, checked_at, passed FROM results
            QUALIFY dense_rank() OVER (PARTITION BY table_name ORDER BY checked_at DESC) <= {int(times)}
            ORDER BY checked_at
        """).to_arrow_table()
    for row in rows.to_pylist():
        of_check = found.setdefault(row["table_name"], {}).setdefault(row["check_name"], [])
        of_check.append((row["checked_at"], row["passed"]))
    return found


def due(settings: Settings, table: Table, last: Mapping[str, Result]) -> bool:
    """Return whether the table or its checks have changed since the last check."""
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
    return Checking(settings, table, run_id, opened, last or {}).results()


def check(
    settings: Settings, table: Table, run_id: str = "", last: Mapping[str, Result] | None = None
) -> dict[str, Result]:
    """Run every check of a table and store the results; return them by name. See `run_checks`."""
    results = run_checks(settings, table, run_id, last)
    write_results(settings, results)
    return {result.check_name: result for result in results}


def trial(settings: Settings, table: Table, last: Mapping[str, Result]) -> list[Result]:
    """Run a table's own checks that have not run yet, over the table as it stands; nothing is recorded. Those of
    severity quarantine look at accepted records, and fail for those that they would set aside."""
    delta_table, known = delta.opened(settings, table), {result.definition for result in last.values()}
    new = [check for check in table.checks if check.digest not in known]
    if delta_table is None or not known or not new:
        return []
    tried = [replace(check, severity="warn", where=f"({_ACCEPTED}) AND ({check.where or 'true'})")
             if check.severity == "quarantine" else check for check in new]  # fmt: skip
    results = Checking(settings, replace(table, checks=tuple(tried)), "", delta_table, {}, tried).results()
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
            known[table.name] = check(settings, table, run_id, known.get(table.name))
    return known


def verdicts(known: Latest) -> dict[str, str]:
    """Return the verdict of each table: that of its worst check."""
    worst = {}
    for name, results in known.items():
        present = {result.verdict for result in results.values()}
        worst[name] = next((word for word in ("error", "warn", "quarantine", "ok") if word in present), "no rows")
    return worst


def scorecard(known: Latest) -> pd.DataFrame:
    """Return a row for each table: ``layer``, ``table``, ``rows``, ``checks``, ``passed`` and ``verdict``."""
    rows, worst = [], verdicts(known)
    for name, results in known.items():
        rows.append({
            "layer": next(iter(results.values())).layer, "table": name,
            "rows": max(result.rows for result in results.values()), "checks": len(results),
            "passed": sum(result.passed is True for result in results.values()), "verdict": worst[name],
        })  # fmt: skip
    frame = pd.DataFrame(rows, columns=["layer", "table", "rows", "checks", "passed", "verdict"])
    return frame.sort_values(["layer", "table"], key=lambda c: c.map(tables.LAYERS.index) if c.name == "layer" else c)


def failures(settings: Settings, known: Latest) -> pd.DataFrame:
    """Return a row for each failed check, errors first: what it found, keys of some rows, the tables that keep their
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
    """Return the messages of the results that stop the tables made from this one."""
    return [result.message for result in results if result.stops]


def _path(settings: Settings) -> str:
    return f"{settings.layer_path('ops')}/quality_results"
