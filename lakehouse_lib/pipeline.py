"""Run the tables in order: what is new, which go side by side, and what became of each record."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from lakehouse_lib import (
    catalog,
    columns,
    config,
    delta,
    landing,
    ledger,
    loading,
    openlineage,
    ops,
    quality,
    refresh,
    session,
    tables,
)
from lakehouse_lib.config import Settings, new_run_id
from lakehouse_lib.errors import ConfigError, LakehouseError, LandingError, LockedError, QualityError
from lakehouse_lib.ops import COUNTS
from lakehouse_lib.refresh import Inputs
from lakehouse_lib.tables import Table

if TYPE_CHECKING:
    from deltalake import DeltaTable

log = logging.getLogger(__name__)

SIDE_BY_SIDE = 3
_LOCK_VARIABLE = "LAKEHOUSE_LOCK"


@dataclass
class Step:
    """What a run did to one table."""

    table: str
    state: str = "nothing new"
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    seconds: float = 0.0
    message: str = ""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a person should know and need not act on."""
    version: int = -1
    ledger: list[ledger.Entry] = field(default_factory=list)
    """Rows of the ledger, and what their commits say of themselves."""
    begun: bool = False
    """Whether there was anything to do."""
    columns: columns.Lineage | None = None
    """What its columns were made from."""
    checks: list[quality.Result] = field(default_factory=list)
    """Results of the checks that were run in this step."""
    failing: list[str] = field(default_factory=list)
    """`error` checks that fail now, whenever they were run."""
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def line(self) -> str:
        """One line for people."""
        if self.state == "nothing new" and not self.problems:
            return f"{self.table:<32} nothing new"
        if self.state in ("failed", "held"):
            return f"{self.table:<32} {self.state.upper()}: {self.message}"
        parts = [f"{self.counts[name]:,} {_WORDS[name]}" for name in COUNTS if self.counts[name]]
        return f"{self.table:<32} {' · '.join(parts) or 'no rows changed'}  ({self.seconds:.1f} s)"


_WORDS = dict(zip(COUNTS, ("read", "new", "updated", "duplicate", "quarantined", "unchanged"), strict=True))


@dataclass
class RunResult:
    """What a run did."""

    run_id: str
    steps: list[Step] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """Everything that a person has to look at."""
        found = [problem for step in self.steps for problem in step.problems]
        return found + [f"{s.table}: {s.message}" for s in self.steps if s.state == "failed"]

    def check(self) -> None:
        """Raise what went wrong.

        Raises
        ------
        LandingError
            Files that could not be loaded.
        LakehouseError
            A table failed.
        QualityError
            All went through, but a check of severity `error` fails.
        """
        failing = [sentence for step in self.steps for sentence in step.failing]
        failing += [f"{step.table} {step.message}" for step in self.steps if step.state == "held"]
        if self.problems:
            kind = LakehouseError if any(s.state == "failed" for s in self.steps) else LandingError
            raise kind("\n".join(self.problems + failing))
        if failing:
            raise QualityError("\n".join(failing))


@contextlib.contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """Hold the lakehouse: one run at a time on this machine.

    Raises
    ------
    LockedError
        Another run holds it.
    """
    path = session.state_dir(settings) / "run.lock"
    if os.environ.get(_LOCK_VARIABLE) == str(path):
        yield
        return
    with session.exclusive(path, wait_seconds=0) as held:
        if not held:
            raise LockedError(
                f"Another run holds the lakehouse {settings.path()}. "
                "Wait for its end, then run again: nothing was changed."
            )
        os.environ[_LOCK_VARIABLE] = str(path)
        try:
            yield
        finally:
            del os.environ[_LOCK_VARIABLE]


def selected(settings: Settings, layer: str | None = None) -> list[Table]:
    """The tables of a run, sources before targets."""
    everything = tables.declared(settings)
    names = settings.table_names()
    for name in names:
        tables.get(settings, name)
    chosen = [t for t in everything.values() if not names or t.name in names]
    if layer:
        with_layer = {"bronze": ("bronze", "quarantine")}.get(layer, (layer,))
        chosen = [t for t in chosen if t.layer in with_layer]
    return chosen


def check_days(settings: Settings) -> None:
    """Refuse days to compute again where no table of the run has any.

    Raises
    ------
    ConfigError
        It names the tables, and what to do.
    """
    if settings.has_days and not selected(settings, "gold"):
        raise ConfigError(
            f"date_from and date_to (--from, --to) say which days of gold tables are computed again, and "
            f"{settings.tables} is none. Name a gold table, or rebuild with full (--full)."
        )


def pending(settings: Settings, layer: str | None = None) -> list[str]:
    """Tables for which there is something to do, without starting Spark.

    A table downstream of one that is pending is not named unless it has work of its own.
    """
    unused = landing.not_in_use(settings)
    used = [table for table in selected(settings, layer) if table.name not in unused]
    if settings.full or settings.has_days or not settings.enable_delta:
        return [table.name for table in used]
    known = quality.latest(settings)
    return [
        table.name for table in used
        if _is_pending(settings, table) or quality.due(settings, table, known.get(table.name, {}))
    ]  # fmt: skip


def _is_pending(settings: Settings, table: Table) -> bool:
    if table.layer == "bronze":
        return bool(landing.pending_files(settings, table)) or not delta.exists(settings, table)
    if not delta.exists(settings, table):
        return True
    if settings.has_days and table.layer == "gold":
        return True
    return any(state.changed for state in refresh.source_states(settings, table).values())


def stop_on_files(settings: Settings) -> None:
    """Raise where files wait in landing that no run can load.

    Raises
    ------
    LandingError
        It names each file, why it cannot be loaded, and what to do.
    """
    found = [sentence for table in selected(settings, "bronze") if table.layer == "bronze"
             for _, sentence in landing.problems(settings, table)]  # fmt: skip
    if found:
        raise LandingError("\n".join(found))


def run(
    settings: Settings,
    layer: str | None = None,
    progress: Callable[[str], None] = print,
) -> RunResult:
    """Bring the tables of a layer (None: of all) up to date, side by side where they may.

    Every table is tried; one that fails, or whose `error` checks do, stops only what is made from
    it. What became of each record is in ``ops/ledger``, the steps are in ``ops/runs``, the reads
    and writes in ``ops/lineage``, the checks in ``ops/quality_results``.

    Raises
    ------
    LockedError
        Another run holds the lakehouse.
    LandingError
        The landing folder is not there.
    """
    result = RunResult(settings.run_id or new_run_id())
    with locked(settings):
        unused = landing.not_in_use(settings)
        for table in selected(settings, layer):
            if table.layer == "bronze" and table.name in unused:
                landing.check_there(settings, landing.feed_of(table))
        wanted = {name for table in selected(settings, layer) for name in (table.name, *table.sources)}
        made = [name for name in unused & wanted if not delta.exists(settings, tables.get(settings, name))]
        for name in made:  # nothing is done for them, but what reads them finds a table
            delta.ensure(settings, tables.get(settings, name))
        chosen = {table.name: table for table in selected(settings, layer) if table.name not in unused}
        waiting = dict(chosen)
        finished: dict[str, Step] = {}
        settled, checked = ledger.last_accounted(settings), quality.latest(settings)
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            running: dict[Future[Step], str] = {}
            while waiting or running:
                for name, table in list(waiting.items()):
                    if all(other in finished for other in tables.waits_for(table) if other in chosen):
                        failed = [s for s in table.sources
                                  if s in finished and finished[s].state == "failed"]  # fmt: skip
                        step = pool.submit(_step, settings, table, result.run_id, failed, settled, checked)
                        running[step] = name
                        del waiting[name]
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    name = running.pop(future)
                    finished[name] = future.result()
                    if finished[name].state != "nothing new":
                        progress(finished[name].line())
                    for note in finished[name].notes:
                        progress(f"    {note}")
                    for found in finished[name].checks:
                        if found.failed:
                            progress(f"    {found.severity}: {found.message}")
        result.steps = [finished[name] for name in chosen]
        if not any(step.state != "nothing new" or step.problems for step in result.steps):
            progress(f"{layer or 'all layers'}: nothing new, {len(chosen)} tables are up to date")
        _write_down(settings, result)
        if made or any(step.state != "nothing new" or step.checks for step in result.steps):
            catalog.publish(settings)
    return result


def _step(
    settings: Settings, table: Table, run_id: str, failed: list[str], settled: ledger.Accounted, checked: quality.Latest
) -> Step:
    step = Step(table.name)
    began = time.monotonic()
    # What is set aside is set aside whatever else is wrong.
    sources = () if table.layer == "quarantine" else table.sources
    held = [s for source in sources for s in quality.stopping(checked.get(source, {}).values())]
    try:
        if failed:
            raise LakehouseError(f"not refreshed, because {', '.join(failed)} failed")
        if table.layer == "bronze":
            _load(settings, table, run_id, step)
        elif not held:
            _refresh(settings, table, run_id, step)
        elif _is_pending(settings, table):
            step.state, step.message = "held", f"keeps its last good state, because of {'; '.join(held)}"
        if settings.enable_delta:
            _settle(settings, table, run_id, step, settled)
            _check(settings, table, run_id, step, checked)
        if table.layer == "bronze":
            step.problems = [sentence for _, sentence in landing.problems(settings, table)]
    except Exception as error:
        step.state = "failed"
        step.message = str(error).strip().split("\n\nJVM stacktrace")[0][:2000] or repr(error)
        log.error("%s failed", table.name, exc_info=error)
        _begin(settings, table, run_id, step)
    if step.begun or step.checks:
        openlineage.ended(settings, table, run_id, step, checked)
    step.seconds = time.monotonic() - began
    return step


def _begin(settings: Settings, table: Table, run_id: str, step: Step) -> None:
    if not step.begun:
        step.begun = True
        openlineage.started(settings, table, run_id)


def _check(settings: Settings, table: Table, run_id: str, step: Step, checked: quality.Latest) -> None:
    """Run the table's checks where it or they have changed."""
    last = checked.get(table.name, {})
    if quality.due(settings, table, last):
        step.checks = quality.run_checks(settings, table, run_id, last)
        checked[table.name] = {result.check_name: result for result in step.checks}
    step.failing = quality.stopping(checked.get(table.name, {}).values())


def _load(settings: Settings, table: Table, run_id: str, step: Step) -> None:
    """Load the new files of a feed into its bronze table."""
    done = loading.load(settings, table, run_id, lambda: _begin(settings, table, run_id, step))
    step.message, step.notes, step.columns = done.message, done.notes, done.columns
    step.state = "updated" if done.changed else step.state


def _refresh(settings: Settings, table: Table, run_id: str, step: Step) -> None:
    """Bring a table that is made from tables up to date."""
    if not settings.full and settings.enable_delta and not _is_pending(settings, table):
        return
    _begin(settings, table, run_id, step)
    if missing := [name for name in table.sources if not delta.exists(settings, tables.get(settings, name))]:
        wanted = config.command(f"run --tables {','.join([*missing, table.name])}")
        raise LakehouseError(f"its source {', '.join(missing)} has not been made yet: {wanted}")
    delta.ensure(settings, table)
    states = refresh.source_states(settings, table)
    full = settings.full or not settings.enable_delta
    # A run that was killed after its commit has not told how far it read the sources but the first.
    full = full or any(state.lost_track or state.after is None for state in states.values())
    full = full or not cast("DeltaTable", delta.open_table(delta.table_path(settings, table))).file_uris()
    with session.opened(settings) as spark:
        inputs = Inputs(spark, settings, table, run_id, states, full)
        outcome = loading.transformation(table)(inputs)
        if not isinstance(outcome, (refresh.Append, refresh.Upsert, refresh.Days, refresh.Difference)):
            outcome = refresh.Difference(outcome, refresh.live_rows(inputs))
        chosen_by = [*table.key, *outcome.order] if isinstance(outcome, refresh.Upsert) else []
        step.columns = columns.of(settings, table.name, outcome.rows, by=chosen_by)
        counts = refresh.write(inputs, outcome)
    counts.pop("reason", None)
    step.counts, step.state = counts, "updated"


# The ledger ----------------------------------------------------------------


def _write_down(settings: Settings, result: RunResult) -> None:
    now = datetime.now(UTC)
    rows, lineage, runs = [], [], []
    for step in result.steps:
        table = tables.get(settings, step.table)
        for row, said in step.ledger:
            rows.append(row)
            lineage += [
                {"run_id": row["run_id"], "source": source, "source_version": version,
                 "target": table.name, "target_version": row["version"],
                 "operation": said.get("operation")
                 or {"bronze": "load", "gold": "aggregate"}.get(table.layer, "transform"),
                 "job": table.transform, "notebook": catalog.NOTEBOOKS[table.layer],
                 "rows": row["accepted"] + row["updated"], "outcome": step.state,
                 "started_at": step.started_at, "recorded_at": now,
                 "columns": _columns_of(step, source) if row["run_id"] == result.run_id else None}
                for source, version in said.get("sources", {}).items()
            ]  # fmt: skip
        if step.state != "nothing new" or step.problems:
            runs.append(
                {"run_id": result.run_id, "target": step.table, "state": step.state,
                 "message": "\n".join(filter(None, [step.message, *step.problems])),
                 "rows": step.counts["accepted"] + step.counts["updated"], "version": step.version,
                 "seconds": step.seconds, "started_at": step.started_at}
            )  # fmt: skip
    ledger.write(settings, rows)
    delta.upsert_ops(settings, "lineage", pa.Table.from_pylist(lineage, ops.SCHEMAS["lineage"]),
                     key=("run_id", "source", "target", "target_version"))  # fmt: skip
    delta.write_ops(settings, "runs", runs)
    quality.write_results(settings, [found for step in result.steps for found in step.checks])


def _columns_of(step: Step, source: str) -> str | None:
    """What the table's columns are made from in one source: direct, indirect, and by which of its columns rows
    were chosen and grouped."""
    if step.columns is None:
        return None

    def own(refs: list[str]) -> list[str]:
        return [ref.removeprefix(f"{source}.") for ref in refs if ref.startswith(f"{source}.")]

    parts = {kind: {name: own(refs) for name, refs in getattr(step.columns, kind).items() if own(refs)}
             for kind in ("direct", "indirect")}  # fmt: skip
    return json.dumps(parts | {"by": own(step.columns.by)})


def account(settings: Settings, table: Table) -> None:
    """Write down what the ledger lacks of a table's commits, as the next run would."""
    result = RunResult(settings.run_id or new_run_id(), [Step(table.name)])
    _settle(settings, table, result.run_id, result.steps[0], ledger.last_accounted(settings))
    _write_down(settings, result)


def _settle(settings: Settings, table: Table, run_id: str, step: Step, settled: ledger.Accounted) -> None:
    """Account for the table's commits that the ledger lacks."""
    opened = delta.open_table(delta.table_path(settings, table))
    if opened is None:
        return
    step.ledger = ledger.account(settings, table, opened, settled)
    step.version = opened.version()
    if table.layer == "bronze":
        landing.settle(settings, landing.feed_of(table), opened, run_id)
        for row, _ in step.ledger:
            if row["run_id"] == run_id:
                step.counts = {name: step.counts[name] + row[name] for name in COUNTS}
