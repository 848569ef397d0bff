"""A run from the terminal: the notebooks in order, maintenance if needed, and the report."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lakehouse_lib import notebooks, sample
from lakehouse_lib.care import health, maintenance
from lakehouse_lib.config import Settings
from lakehouse_lib.engines import session
from lakehouse_lib.errors import ConfigError, EngineError, LakehouseError, QualityError, SetupError
from lakehouse_lib.flow import consent, plan, selection
from lakehouse_lib.flow.lock import locked
from lakehouse_lib.intake import landing
from lakehouse_lib.layers.fingerprints import book_of
from lakehouse_lib.storage import delta
from lakehouse_lib.trust import quality


def everything(settings: Settings, run_id: str, with_sample: bool) -> None:
    """Run the notebooks, then the report; only print a sentence if there is nothing to do.

    ``with_sample`` writes sample input first, if there are neither landing files nor tables.

    Raises
    ------
    LakehouseError
        Something failed; raised after everything else has run.
    """
    began = time.monotonic()
    selection.check_days(settings)
    with locked(settings):
        empty = with_sample and sample.wanted(settings)
        if not empty:
            for table in selection.selected(settings, "bronze"):
                if table.layer == "bronze":
                    landing.check_there(settings, landing.feed_of(table))
        with delta.look():
            has_work = empty or bool(selection.pending(settings))
            consent.check(settings, selection.selected(settings) if has_work else (), book_of(settings))
            aged = not has_work and bool(maintenance.aged(settings))
            outdated = not has_work and health.outdated(settings)
            for sentence in () if has_work else plan.settle(settings):
                print(sentence)
        if has_work:
            session.check_reachable(settings)
            failures = _all_notebooks(settings, run_id, empty)
            latest = settings.local_dir("runs") / "latest"
            print(f"{time.monotonic() - began:.0f} s. Read the notebooks: {latest}/")
            _raise(failures)
        else:
            _nothing_new(settings, run_id, began, aged, outdated)


def _all_notebooks(settings: Settings, run_id: str, empty: bool) -> list[LakehouseError]:
    from lakehouse_lib import kernels  # not at the top: a run with nothing new needs no Jupyter

    os.environ[session.OWNER_VARIABLE] = str(os.getpid())
    given = {"tables": settings.tables, "full": settings.full,
             "date_from": str(settings.date_from or ""), "date_to": str(settings.date_to or "")}  # fmt: skip
    failures: list[LakehouseError] = []
    kernels.prepare()
    with ThreadPoolExecutor(1) as aside, notebooks.Exports() as exports:
        if settings.has_own_engine:
            # In parallel to the first notebook, which needs no engine. An error appears when a notebook needs it.
            aside.submit(session.ensure, settings)
        try:
            if empty:
                sample.write_landing(settings)
                print(f"Sample input written to {settings.layer_path('landing')}")
            print(f"Run {run_id}")
            *layers, quality_notebook = notebooks.ORDER
            for name in layers:
                failures += _one(settings, name, run_id, given, exports=exports)
            due = aside.submit(_due, settings, run_id)  # the tables no longer change
            failures += _one(settings, quality_notebook, run_id, given, exports=exports)
        finally:
            aside.submit(session.release, settings)
        failures += _maintain(settings, run_id) if due.result() else []
        report(settings, run_id)
    return failures


def _nothing_new(settings: Settings, run_id: str, began: float, aged: bool, outdated: bool) -> None:
    """Do what a run without new data still has to do: scheduled maintenance, and updating an outdated report."""
    failures = _maintain(settings, run_id, latest=False) if aged and _due(settings, run_id) else []
    print(_why_nothing(settings, time.monotonic() - began))
    if outdated or (aged and health.outdated(settings)):
        report(settings, run_id, latest=False)
    _raise(failures)
    selection.stop_on_files(settings)
    quality.stop_on_errors(quality.latest(settings))


def _due(settings: Settings, run_id: str) -> bool:
    """Return whether the maintenance notebook has something to do."""
    return bool(maintenance.automatic(settings.model_copy(update={"run_id": run_id})))


def _maintain(settings: Settings, run_id: str, latest: bool = True) -> list[LakehouseError]:
    """Run the maintenance notebook."""
    given = {"auto_optimize": settings.auto_optimize, "auto_archive": settings.auto_archive}
    return _one(settings, notebooks.MAINTENANCE, run_id, given, latest)


def _raise(failures: list[LakehouseError]) -> None:
    if failures:
        kind = QualityError if all(isinstance(error, QualityError) for error in failures) else LakehouseError
        said = dict.fromkeys(line for error in failures for line in str(error).splitlines())
        raise kind("The run needs your attention:\n" + "\n".join(said))


def _why_nothing(settings: Settings, seconds: float) -> str:
    """Explain why a run has nothing to do."""
    wanted = selection.selected(settings)
    if landing.not_in_use(settings).issuperset(table.name for table in wanted):
        feeds = ", ".join(table.name.removesuffix("_bronze") for table in wanted if table.layer == "bronze")
        return (
            f"Nothing to load: there are no files yet. Put files into {settings.layer_path('landing')}, in a folder "
            f"for each feed ({feeds or 'see the README'}); for sample input: lakehouse run --sample."
        )
    latest = settings.local_dir("runs") / "latest"
    return f"Nothing new: all tables are up to date ({seconds:.1f} s). The last notebooks: {latest}"


def _one(
    settings: Settings,
    name: str,
    run_id: str,
    given: dict[str, Any],
    latest: bool = True,
    exports: notebooks.Exports | None = None,
) -> list[LakehouseError]:
    """Execute one notebook of a run; after an error the run continues with what does not depend on it."""
    print(name, flush=True)
    began = time.monotonic()
    try:
        notebooks.execute(settings, name, run_id, given, latest, exports)
    except (ConfigError, SetupError, EngineError):
        raise
    except LakehouseError as error:
        return [error]
    finally:
        print(f"    {time.monotonic() - began:.1f} s")
    return []


def report(settings: Settings, run_id: str, latest: bool = True) -> None:
    """Render the reports, and list all runs."""
    from lakehouse_lib.serve import index  # not at the top: a run with nothing new writes no page

    pages = []
    for name in (notebooks.REPORT, notebooks.BUSINESS):
        print(name, flush=True)
        pages.append(notebooks.execute(settings, name, run_id, latest=latest).with_suffix(".html"))
    health_page, business_page = pages
    print(f"Health report: {health_page}\nBusiness report: {business_page}\nAll runs: {index.write(settings)}")
