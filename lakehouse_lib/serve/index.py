"""The list of all runs as a page, ``runs/index.html``: verdict, result, and links to the pages that each run left."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lakehouse_lib.care import facts
from lakehouse_lib.config import Settings
from lakehouse_lib.serve import markup
from lakehouse_lib.storage import delta

LISTED = 200
"""Runs on the page."""


@delta.look()
def write(settings: Settings) -> Path:
    """Write the page; it replaces the last one at once, so that a reader never finds half of it."""
    folder = settings.local_dir("runs")
    found = sorted((path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()), key=_age)
    known = {run.run_id: run for run in facts.runs(settings, limit=10 * LISTED)}
    verdicts = {run_id: (at, verdict) for at, verdict, run_id in facts.reports(settings)}
    rows: list[dict[str, Any]] = []
    for path in found[:LISTED]:
        run = known.get(path.name)
        reported_at, verdict = verdicts.get(path.name, (None, ""))
        written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        rows.append({"run_id": path.name, "facts": run, "verdict": verdict,
                     "reports": _pages(path, True), "others": _pages(path, False),
                     "started_at": run.started_at if run else reported_at or written})  # fmt: skip
    rows.sort(key=lambda row: row["started_at"], reverse=True)
    page = folder / "index.html"
    text = markup.fill("index", css=markup.CSS, base=settings.path(), runs=rows, older=len(found) - len(rows))
    draft = page.with_name(f".index-{os.getpid()}.html")
    draft.write_text(text)
    return draft.replace(page)


def _age(folder: Path) -> float:
    """Return a key that sorts the newest first."""
    return -folder.stat().st_mtime


def _pages(folder: Path, reports: bool) -> list[tuple[str, str]]:
    """Return the titles and links of a run's reports, or of its other pages."""
    names = sorted(page.name for page in folder.glob("*.html") if page.stem.endswith("_report") is reports)
    return [(_title(name), f"{quote(folder.name)}/{quote(name)}") for name in names]


def _title(name: str) -> str:
    number, _, words = name.removesuffix(".html").partition("_")
    return words.replace("_", " ") if number.isdigit() and words else name
