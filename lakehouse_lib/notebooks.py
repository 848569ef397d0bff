"""Run notebooks headlessly, and provide the settings that every notebook needs in its first cells."""

from __future__ import annotations

import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lakehouse_lib import config, errors
from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError, LakehouseError
from lakehouse_lib.model import tables

ORDER = ("00_start_here", "10_bronze_ingestion", "20_silver_transformations", "30_gold_aggregations", "40_data_quality")

MAINTENANCE, REPORT, BUSINESS = "70_maintenance", "60_health_report", "65_business_report"
"""Executed at the end of a run: maintenance if it is worthwhile, and always both reports."""

EXPLORE = ("50_catalog_explorer", "55_time_travel")
"""Notebooks for interactive use; a run does not execute them."""

PREVIEW = "15_plan_preview"
"""Shows what a rebuild would change, before a run does it; a run does not execute it."""

_JUPYTER = {"In", "Out", "exit", "quit", "open", "get_ipython"}
_known: set[str] | None = None


def settings(namespace: dict[str, Any]) -> Settings:
    """Return the settings from a notebook's parameters; call it as ``settings(globals())``.

    The first call in a kernel rejects names that are not settings, so that a misspelt parameter is not ignored; later
    calls ignore names that were defined since.

    Raises
    ------
    ConfigError
        A parameter is unknown or of the wrong type.
    """
    global _known
    plain = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and name not in _JUPYTER and isinstance(value, (str, int, float, bool, list, dict))
    }
    if _known is None:
        _known = set(plain)
    found = config.load({name: value for name, value in plain.items() if name in _known})
    config.log_to_file(found)
    tables.declared(found)  # rejects invalid checks and replicas
    if "IPython" in sys.modules:
        from lakehouse_lib.serve import browse  # not at the top: a run with nothing new shows nothing

        browse.use_everywhere()
    return found


class Exports:
    """HTML copies of executed notebooks, written one by one while the next notebook runs."""

    def __enter__(self) -> Exports:
        self._pool = ThreadPoolExecutor(1)
        self._copies: list[Future[None]] = []
        return self

    def add(self, notebook: Path) -> None:
        """Write the copy of a notebook after the previous copies."""
        self._copies.append(self._pool.submit(_copy, notebook))

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        for copy in self._copies:
            copy.result()


def execute(
    settings: Settings,
    name: str,
    run_id: str,
    parameters: dict[str, Any] | None = None,
    latest: bool = True,
    exports: Exports | None = None,
) -> Path:
    """Execute one notebook into ``runs/<run_id>/`` and export it; returns the executed notebook.

    ``latest`` points ``runs/latest`` to the folder; with ``exports`` the HTML copy is written in the background.

    Raises
    ------
    ConfigError
        There is no such notebook.
    LakehouseError
        A cell failed; the message is the cell's own error.
    """
    from lakehouse_lib import execution  # not at the top: notebooks need no Papermill

    root = config.project_root() / "notebooks"
    source = root / f"{name.removesuffix('.ipynb')}.ipynb"
    if not source.exists():
        there = ", ".join(sorted(path.stem for path in root.glob("*.ipynb")))
        raise ConfigError(f"There is no notebook {name}; there are {there}.")
    folder = settings.local_dir("runs", run_id)
    target = folder / source.name
    failure = None
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    try:
        execution.execute(source, target, {"run_id": run_id} | (parameters or {}))
    except execution.PapermillExecutionError as error:
        kind = getattr(errors, error.ename, None)
        text = error.evalue if kind else f"{error.ename}: {error.evalue}"
        failure = (kind or LakehouseError)(f"{source.name}, cell {error.exec_count}: {text}")
    if exports:
        exports.add(target)
    else:
        _copy(target)
    if latest:
        link = settings.local_dir("runs") / "latest"
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)
    if failure:
        raise failure
    return target


def _copy(notebook: Path) -> None:
    """Write an HTML copy; those of the reports hide the code."""
    from lakehouse_lib import execution

    execution.to_html(notebook, code=notebook.stem not in (REPORT, BUSINESS))
