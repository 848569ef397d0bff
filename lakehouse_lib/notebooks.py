"""Run notebooks headlessly, and provide the settings that every notebook needs in its first cells."""

from __future__ import annotations

import io
import os
import re
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lakehouse_lib import config, errors
from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError, LakehouseError
from lakehouse_lib.model import tables

ORDER = ("00_start_here", "10_bronze_ingestion", "20_silver_transformations", "30_gold_aggregations", "40_data_quality")

MAINTENANCE, REPORT = "70_maintenance", "60_health_report"
"""Executed at the end of a run: maintenance if it is worthwhile, and always the report."""

EXPLORE = ("50_catalog_explorer", "55_time_travel")
"""Notebooks for interactive use; a run does not execute them."""

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
    return found


class Exports:
    """HTML copies of executed notebooks, written one by one while the next notebook runs."""

    def __enter__(self) -> Exports:
        self._pool = ThreadPoolExecutor(1)
        self._copies: list[Future[None]] = []
        return self

    def add(self, notebook: Path) -> None:
        """Write the copy of a notebook after the previous copies."""
        self._copies.append(self._pool.submit(_export, notebook))

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
    from papermill.exceptions import PapermillExecutionError

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
        _papermill(source, target, {"run_id": run_id} | (parameters or {}))
    except PapermillExecutionError as error:
        kind = getattr(errors, error.ename, None)
        text = error.evalue if kind else f"{error.ename}: {error.evalue}"
        failure = (kind or LakehouseError)(f"{source.name}, cell {error.exec_count}: {text}")
    if exports:
        exports.add(target)
    else:
        _export(target)
    if latest:
        link = settings.local_dir("runs") / "latest"
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)
    if failure:
        raise failure
    return target


def _papermill(source: Path, target: Path, parameters: dict[str, Any]) -> None:
    import papermill
    from traitlets.config import Config

    from lakehouse_lib import kernels

    with tempfile.TemporaryDirectory(prefix="lakehouse-") as sockets:
        papermill.execute_notebook(
            str(source), str(target), parameters=parameters,
            cwd=str(source.parent), kernel_name="python3", progress_bar=False, log_output=False,
            store_widget_state=False, start_timeout=120, stdout_file=_Indented(),
            kernel_manager_class=kernels.Manager,
            # File sockets in a separate folder: no race for ports, and no open port.
            config=Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"}),
            # All results of a kernel have been written or returned by its cells: do not wait for its shutdown.
            shutdown_kernel="immediate", extra_arguments=["--log-level=CRITICAL"],
        )  # fmt: skip


class _Indented(io.TextIOBase):
    """Shows a notebook's printed output in the terminal while it runs."""

    def write(self, text: str) -> int:
        for line in filter(str.strip, text.splitlines()):
            print(f"    {line}", flush=True)
        return len(text)


def _export(notebook: Path) -> None:
    """Write an HTML copy; the report's copy hides the code."""
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    plain = Config(
        HTMLExporter={"exclude_input": True, "exclude_input_prompt": True, "exclude_output_prompt": True},
        TagRemovePreprocessor={"enabled": True, "remove_cell_tags": ["remove-cell"]},
    )
    reads = Config() if notebook.stem != REPORT else plain
    body, _ = HTMLExporter(template_name="lab", config=reads).from_filename(str(notebook))
    # The template loads MathJax and RequireJS from the network, but a copy must work offline.
    body = re.sub(r'<script[^>]*\ssrc="https?://[^"]*"[^>]*>\s*</script>', "", body)
    notebook.with_suffix(".html").write_text(body)
