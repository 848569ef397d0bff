"""Run the tables in order: find what is new, work on tables side by side, and account for each record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial

from lakehouse_lib import config
from lakehouse_lib.catalog import catalog
from lakehouse_lib.config import Settings, new_run_id
from lakehouse_lib.engines import session
from lakehouse_lib.errors import LakehouseError
from lakehouse_lib.flow import bookkeeping, consent, ledger, openlineage
from lakehouse_lib.flow.lock import locked
from lakehouse_lib.flow.selection import is_pending, selected
from lakehouse_lib.flow.steps import RunResult, Step
from lakehouse_lib.intake import landing
from lakehouse_lib.layers import columns, fingerprints, loading, refresh
from lakehouse_lib.layers.fingerprints import Book
from lakehouse_lib.layers.inputs import Inputs, source_states
from lakehouse_lib.model import tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta
from lakehouse_lib.trust import quality

log = logging.getLogger(__name__)

SIDE_BY_SIDE = 3


def run(
    settings: Settings,
    layer: str | None = None,
    progress: Callable[[str], None] = print,
) -> RunResult:
    """Bring the tables of a layer (None: all layers) up to date, side by side where possible.

    Every table is tried; a table that fails, or whose `error` checks fail, stops only the tables made from
    it. What became of each record is in ``ops/ledger``, the steps are in ``ops/runs``, the reads and writes
    in ``ops/lineage``, the check results in ``ops/quality_results``.

    Raises
    ------
    LockedError
        Another run holds the lakehouse.
    LandingError
        The landing folder does not exist.
    ConfirmError
        More rows would be rebuilt than ``plan.confirm_rows``; nothing was done.
    """
    result = RunResult(settings.run_id or new_run_id())
    with locked(settings):
        with delta.look():
            wanted, unused = selected(settings, layer), landing.not_in_use(settings)
            settled, checked = ledger.last_accounted(settings), quality.latest(settings)
        book = Book(settings)
        consent.check(settings, (table for table in wanted if table.name not in unused), book)
        for note in book.adopt(table for table in wanted if table.name not in unused):
            progress(note)
        created = _create_unused(settings, wanted, unused)
        chosen = {table.name: table for table in wanted if table.name not in unused}
        finished = {}
        with openlineage.Reporter(settings, result.run_id) as reporter:
            work = partial(_step, settings, book, reporter, run_id=result.run_id, settled=settled, checked=checked)
            for step in _side_by_side(chosen, work):
                finished[step.table] = step
                _tell(step, progress)
        result.steps = [finished[name] for name in chosen]
        if not any(step.state != "nothing new" or step.problems for step in result.steps):
            progress(f"{layer or 'all layers'}: nothing new, {len(chosen)} tables are up to date")
        bookkeeping.write(settings, result, book)
        if created or any(step.state != "nothing new" or step.checks for step in result.steps):
            catalog.publish(settings)
    return result


def _create_unused(settings: Settings, wanted: list[Table], unused: set[str]) -> list[str]:
    """Create empty tables for feeds that never had a file, so that whatever reads them finds a table."""
    for table in wanted:
        if table.layer == "bronze" and table.name in unused:
            landing.check_there(settings, landing.feed_of(table))
    needed = {name for table in wanted for name in (table.name, *table.sources)}
    missing = [name for name in unused & needed if not delta.exists(settings, tables.get(settings, name))]
    for name in missing:
        delta.ensure(settings, tables.get(settings, name))
    return missing


def _side_by_side(chosen: dict[str, Table], work: Callable[[Table, list[str]], Step]) -> Iterator[Step]:
    """Work on each table once every table that it waits for has ended; ``work`` gets the names of failed sources."""
    waiting, finished = dict(chosen), dict[str, Step]()
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        running: set[Future[Step]] = set()
        while waiting or running:
            for name, table in list(waiting.items()):
                if all(dependency in finished for dependency in tables.waits_for(table) if dependency in chosen):
                    failed = [s for s in table.sources if s in finished and finished[s].state == "failed"]
                    running.add(pool.submit(work, table, failed))
                    del waiting[name]
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                step = future.result()
                finished[step.table] = step
                yield step


def _tell(step: Step, progress: Callable[[str], None]) -> None:
    if step.state != "nothing new":
        progress(step.line())
    for note in step.notes:
        progress(f"    {note}")
    for result in step.checks:
        if result.failed:
            progress(f"    {result.severity}: {result.message}")


def _step(
    settings: Settings, book: Book, reporter: openlineage.Reporter, table: Table, failed: list[str], run_id: str,
    settled: ledger.Accounted, checked: quality.Latest,
) -> Step:  # fmt: skip
    step = Step(table.name)
    begin = partial(_begin, reporter, table, step)
    began = time.monotonic()
    # Quarantine tables are filled even if the checks of their sources fail.
    sources = () if table.layer == "quarantine" else table.sources
    held = [s for source in sources for s in quality.stopping(checked.get(source, {}).values())]
    try:
        if failed:
            raise LakehouseError(f"not refreshed, because {', '.join(failed)} failed")
        if table.layer == "bronze":
            _load(settings, book, table, run_id, step, begin)
        elif not held:
            _refresh(settings, book, table, run_id, step, begin)
        elif is_pending(settings, table, book):
            step.state, step.message = "held", f"keeps its last good state, because of {'; '.join(held)}"
        if settings.enable_delta:
            bookkeeping.settle(settings, table, run_id, step, settled)
            _check(settings, table, run_id, step, checked)
        if table.layer == "bronze":
            step.problems = [sentence for _, sentence in landing.problems(settings, table)]
    except Exception as error:
        step.state = "failed"
        step.message = str(error).strip().split("\n\nJVM stacktrace")[0][:2000] or repr(error)
        log.error("%s failed", table.name, exc_info=error)
        begin()
    if step.begun or step.checks:
        reporter.ended(table, step, checked)
    step.seconds = time.monotonic() - began
    return step


def _begin(reporter: openlineage.Reporter, table: Table, step: Step) -> None:
    if not step.begun:
        step.begun = True
        reporter.started(table)


def _check(settings: Settings, table: Table, run_id: str, step: Step, checked: quality.Latest) -> None:
    """Run the table's checks where it or they have changed."""
    last = checked.get(table.name, {})
    if quality.due(settings, table, last):
        step.checks = quality.run_checks(settings, table, run_id, last)
        checked[table.name] = {result.check_name: result for result in step.checks}
    step.failing = quality.stopping(checked.get(table.name, {}).values())


def _load(settings: Settings, book: Book, table: Table, run_id: str, step: Step, begin: Callable[[], None]) -> None:
    """Load the new files of a feed into its bronze table."""
    outcome = loading.load(settings, table, run_id, begin, book)
    step.message, step.notes, step.columns = outcome.message, outcome.notes, outcome.columns
    step.state = "rebuilt" if outcome.rebuilt else "updated" if outcome.changed else step.state


def _refresh(settings: Settings, book: Book, table: Table, run_id: str, step: Step, begin: Callable[[], None]) -> None:
    """Bring a table that is made from other tables up to date."""
    changed = book.changes(table)
    if changed and (obstacle := fingerprints.obstacle(settings, table)):
        step.notes += book.keep(table, obstacle)
        changed = []
    if not (settings.full or changed or not settings.enable_delta or is_pending(settings, table)):
        return
    begin()
    if missing := [name for name in table.sources if not delta.exists(settings, tables.get(settings, name))]:
        wanted = config.command(f"run --tables {','.join([*missing, table.name])}")
        raise LakehouseError(f"its source {', '.join(missing)} has not been made yet: {wanted}")
    delta.ensure(settings, table)
    states = source_states(settings, table)
    full = settings.full or not settings.enable_delta
    # A run killed after its commit has recorded its progress for the first source only.
    full = full or any(state.lost_track or state.after is None for state in states.values())
    full = full or bool(changed) or refresh.is_empty(settings, table)
    with session.opened(settings) as spark:
        inputs = Inputs(spark, settings, table, run_id, states, full, book, bool(changed))
        outcome = refresh.transformed(inputs)
        chosen_by = [*table.key, *outcome.order] if isinstance(outcome, refresh.Upsert) else []
        step.columns = columns.of(settings, table.name, outcome.rows, by=chosen_by)
        counts = refresh.write(inputs, outcome)
    counts.pop("reason", None)
    step.counts, step.state = counts, "rebuilt" if changed else "updated"
    step.notes += [f"rebuilt: {change}" for change in changed]
