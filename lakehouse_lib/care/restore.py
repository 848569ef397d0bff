"""Going back to a version of a table, with everything that remembers it."""

from __future__ import annotations

import json
from collections import Counter

from deltalake import DeltaTable

from lakehouse_lib.catalog import catalog, history
from lakehouse_lib.config import Settings, new_run_id
from lakehouse_lib.flow import bookkeeping
from lakehouse_lib.flow.lock import locked
from lakehouse_lib.intake import landing
from lakehouse_lib.model import tables
from lakehouse_lib.model.ops import COUNTS
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import archive, commits, delta


def restore(settings: Settings, table: Table, version: int) -> int:
    """Take a table back to a version, and everything that remembers it with it; returns the new version.

    The table's memory of its sources goes back too, so that the next run reads again what came
    since; files that a bronze table takes back count as withdrawn: their content is loaded again
    only if it is delivered under another name. The ledger is corrected by what was taken back.

    Raises
    ------
    ConfigError
        The version is none that can be read.
    """
    with locked(settings):
        then = history.at(settings, table, version)
        bookkeeping.account(settings, table)
        opened = history.opened(settings, table)
        run_id = settings.run_id or new_run_id()
        withdrawn, returned = _moved_files(settings, table, then)
        counts, reasons = _undone(settings, table, opened, version)
        info = {
            "run_id": run_id,
            "operation": "restore",
            "sources": {table.name: version},
            "ledger": {name: -count for name, count in counts.items()},
            "reasons": {name: -count for name, count in reasons.items()},
            "withdrawn": [file.path for file in withdrawn],
            "returned": [landing.entry(file, "loaded") for file in returned],
        }
        commits.restore(settings, table, version, _memories(settings, table, then, opened), info)
        bookkeeping.account(settings, table)
        catalog.publish(settings)
        return history.opened(settings, table).version()


def consequences(settings: Settings, table: Table, version: int) -> list[str]:
    """What else a restore would do, in sentences."""
    files, _ = _moved_files(settings, table, history.at(settings, table, version))
    if table.layer == "bronze":
        shown = files[: history.EXAMPLES]
        names = ", ".join(file.path for file in shown) + (" …" if len(shown) < len(files) else "")
        return [f"{len(files)} files would count as withdrawn, and not be loaded again: {names}"] if files else []
    return [
        f"The next run would make {table.name} again from {', '.join(table.sources)}: to undo a bad load for good, "
        "restore the bronze table that it came in by."
    ]


def _memories(settings: Settings, table: Table, then: DeltaTable, now: DeltaTable) -> list[delta.Consumed]:
    """How far the table had read its sources then, where it has read further since; and which of its rows
    were in the archive."""
    found = []
    for name in table.sources:
        source = delta.opened(settings, tables.get(settings, name))
        if source is not None:
            app_id = delta.source_id(source)
            before, since = delta.watermark(then, app_id), delta.watermark(now, app_id)
            if before != since:
                found.append(delta.Consumed(app_id, -1 if before is None else before))
    if table.layer == "bronze":
        # A load that was planned before the restore is refused, as by another load.
        found.append(delta.Consumed(landing.APP_ID, (delta.watermark(now, landing.APP_ID) or 0) + 1))
    return found + archive.memories(then, now)


def _moved_files(
    settings: Settings, table: Table, then: DeltaTable
) -> tuple[list[landing.LandingFile], list[landing.LandingFile]]:
    """Files that going back takes out of a bronze table, and those that it brings back."""
    if table.layer != "bronze":
        return [], []
    opened = history.opened(settings, table)
    known = landing.known_files(settings, landing.feed_of(table), opened)
    since = {
        file["path"]
        for _, says in delta.said(opened, then.version())
        for file in (*(says or {}).get("files", ()), *(says or {}).get("returned", ()))
    }
    there = landing.files_in(then)
    withdrawn = [
        known[path]
        for path in sorted(since)
        if path in known and path not in there and known[path].state == "loaded" and known[path].records
    ]
    return withdrawn, [known[path] for path in sorted(there) if path in known and known[path].state == "withdrawn"]


def _undone(
    settings: Settings, table: Table, opened: DeltaTable, version: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Sums of the ledger's counts and reasons for the versions after one."""
    counts, reasons = dict.fromkeys(COUNTS, 0), Counter[str]()
    for row in delta.read_ops(settings, "ledger", target=table.name, table_id=str(opened.metadata().id)):
        if row["version"] > version:
            counts = {name: counts[name] + row[name] for name in COUNTS}
            reasons.update(json.loads(row["reasons"]))
    return counts, dict(reasons)
