"""Restore a version of a table, together with all state that depends on it."""

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
from lakehouse_lib.storage.transactions import FINGERPRINT


def restore(settings: Settings, table: Table, version: int) -> int:
    """Restore a version of a table and all state that depends on it; returns the new version.

    The recorded versions of the table's sources are restored too, so that the next run reads again what came since.
    Files whose rows a bronze table loses count as withdrawn: their content is loaded again only if it is delivered
    under another name. The counts of the undone versions are subtracted from the ledger.

    Raises
    ------
    ConfigError
        The version cannot be read.
    """
    with locked(settings):
        restored = history.at(settings, table, version)
        bookkeeping.account(settings, table)
        current = history.opened(settings, table)
        run_id = settings.run_id or new_run_id()
        withdrawn, returned = _moved_files(settings, table, restored)
        counts, reasons = _undone(settings, table, current, version)
        info = {
            "run_id": run_id,
            "operation": "restore",
            "sources": {table.name: version},
            "ledger": {name: -count for name, count in counts.items()},
            "reasons": {name: -count for name, count in reasons.items()},
            "withdrawn": [file.path for file in withdrawn],
            "returned": [landing.entry(file, "loaded") for file in returned],
        }
        commits.restore(settings, table, version, _memories(settings, table, restored, current), info)
        bookkeeping.account(settings, table)
        catalog.publish(settings)
        return history.opened(settings, table).version()


def consequences(settings: Settings, table: Table, version: int) -> list[str]:
    """The other effects that a restore would have, in sentences."""
    files, _ = _moved_files(settings, table, history.at(settings, table, version))
    if table.layer == "bronze":
        first = files[: history.EXAMPLES]
        names = ", ".join(file.path for file in first) + (" …" if len(first) < len(files) else "")
        return [f"{len(files)} files would count as withdrawn, and not be loaded again: {names}"] if files else []
    return [
        f"The next run would make {table.name} again from {', '.join(table.sources)}: to undo a bad load for good, "
        "restore the bronze table that it came in by."
    ]


def _memories(settings: Settings, table: Table, restored: DeltaTable, current: DeltaTable) -> list[delta.Consumed]:
    """How far the restored version had read each source, if the table has read further since; and which rows of the
    restored version were in the archive."""
    consumed = []
    for name in table.sources:
        source = delta.opened(settings, tables.get(settings, name))
        if source is not None:
            app_id = delta.source_id(source)
            old, new = delta.watermark(restored, app_id), delta.watermark(current, app_id)
            if old != new:
                consumed.append(delta.Consumed(app_id, -1 if old is None else old))
    made_by, made_by_now = (delta.watermark(opened, FINGERPRINT) for opened in (restored, current))
    if made_by != made_by_now:
        consumed.append(delta.Consumed(FINGERPRINT, made_by or 0))  # 0: not known
    if table.layer == "bronze":
        # A load planned before the restore is refused, as it would be after another load.
        consumed.append(delta.Consumed(landing.APP_ID, (delta.watermark(current, landing.APP_ID) or 0) + 1))
    return consumed + archive.memories(restored, current)


def _moved_files(
    settings: Settings, table: Table, restored: DeltaTable
) -> tuple[list[landing.LandingFile], list[landing.LandingFile]]:
    """Files whose rows a restore removes from a bronze table, and those whose rows it brings back."""
    if table.layer != "bronze":
        return [], []
    current = history.opened(settings, table)
    known = landing.known_files(settings, landing.feed_of(table), current)
    loaded_since = {
        file["path"]
        for _, commit_info in delta.said(current, restored.version())
        for file in (*(commit_info or {}).get("files", ()), *(commit_info or {}).get("returned", ()))
    }
    restored_paths = landing.files_in(restored)
    withdrawn = [
        known[path]
        for path in sorted(loaded_since)
        if path in known and path not in restored_paths and known[path].state == "loaded" and known[path].records
    ]
    return withdrawn, [
        known[path] for path in sorted(restored_paths) if path in known and known[path].state == "withdrawn"
    ]


def _undone(
    settings: Settings, table: Table, delta_table: DeltaTable, version: int
) -> tuple[dict[str, int], dict[str, int]]:
    """Sums of the ledger's counts and reasons over the versions after the given one."""
    counts, reasons = dict.fromkeys(COUNTS, 0), Counter[str]()
    for row in delta.read_ops(settings, "ledger", target=table.name, table_id=str(delta_table.metadata().id)):
        if row["version"] > version:
            counts = {name: counts[name] + row[name] for name in COUNTS}
            reasons.update(json.loads(row["reasons"]))
    return counts, dict(reasons)
