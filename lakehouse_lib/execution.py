"""Execute a notebook with Papermill, and export it as HTML. Importing this module takes half a second."""

from __future__ import annotations

import functools
import io
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# On import jsonschema would spend a second compiling the grammar of IRIs, which no notebook contains.
_GRAMMAR = "rfc3987_syntax"
_without = _GRAMMAR not in sys.modules
if _without:
    sys.modules[_GRAMMAR] = None  # type: ignore[assignment]  # as if it were not installed

import papermill
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from lakehouse_lib import kernels

if _without:
    del sys.modules[_GRAMMAR]

__all__ = ["PapermillExecutionError", "execute", "to_html"]


class _Engine(NBClientEngine):  # type: ignore[misc]
    """Papermill's own engine, but saving less often: it would write the whole notebook twice for each cell."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> None:
        nb_man.save = _seldom(nb_man.save)
        try:
            super().execute_managed_notebook(nb_man, kernel_name, **options)
        finally:
            del nb_man.save


papermill_engines.register("lakehouse", _Engine)


def _seldom(save: Callable[[], None]) -> Callable[[], None]:
    """Save at most once a second; the caller has to save once more at the end."""
    saved = 0.0

    def sometimes() -> None:
        nonlocal saved
        if time.monotonic() - saved >= 1:
            save()
            saved = time.monotonic()

    return sometimes


def execute(source: Path, target: Path, parameters: dict[str, Any]) -> None:
    """Execute a notebook into ``target``, and show its printed output in the terminal.

    Raises
    ------
    PapermillExecutionError
        A cell failed; the executed part has been written.
    """
    with tempfile.TemporaryDirectory(prefix="lakehouse-") as sockets:
        papermill.execute_notebook(
            str(source), str(target), parameters=parameters,
            cwd=str(source.parent), engine_name="lakehouse", kernel_name="python3", progress_bar=False,
            log_output=False, store_widget_state=False, start_timeout=120, stdout_file=_Indented(),
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


def to_html(notebook: Path, code: bool) -> None:
    """Export an executed notebook as HTML beside it, with or without its code; the page works offline, and is light or
    dark as its reader's system is."""
    body, _ = _exporter(code).from_filename(str(notebook))
    # The template loads MathJax and RequireJS from the network.
    body = re.sub(r'<script[^>]*\ssrc="https?://[^"]*"[^>]*>\s*</script>', "", body)
    body = body.replace("</head>", f"{_dark()}</head>", 1)
    notebook.with_suffix(".html").write_text(body)


@functools.cache
def _dark() -> str:
    """Return the template's dark theme for readers whose system is dark; the template has one theme at a time."""
    folders = map(Path, _exporter(True).template_paths)
    theme = next(path for folder in folders if (path := folder / "static/theme-dark.css").exists()).read_text()
    return f"<style>@media (prefers-color-scheme: dark) {{ :root {{ color-scheme: dark; }} {theme} }}</style>"


@functools.cache
def _exporter(code: bool) -> Any:
    """Return one exporter for all notebooks of a run, so that its templates are compiled once."""
    from nbconvert import HTMLExporter

    plain = Config(
        HTMLExporter={"exclude_input": True, "exclude_input_prompt": True, "exclude_output_prompt": True},
        TagRemovePreprocessor={"enabled": True, "remove_cell_tags": ["remove-cell"]},
    )
    return HTMLExporter(template_name="lab", config=Config() if code else plain)
