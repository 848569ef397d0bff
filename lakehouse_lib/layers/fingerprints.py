"""Fingerprints: what each table was made by, and what of it has changed since.

A table is made by its declaration as far as rows depend on it, by the settings that its transformation reads, and by
the code of the transformation. The three together are its fingerprint. The commit that writes the rows carries it,
with its number as a watermark, which outlives the log; ``ops/fingerprints`` keeps what stands behind the numbers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import get_args

import pyarrow as pa
from deltalake import DeltaTable

from lakehouse_lib.config import Feed, Settings, command
from lakehouse_lib.errors import TableError
from lakehouse_lib.intake import landing
from lakehouse_lib.model import code, ops, reads, sources, tables
from lakehouse_lib.model.made_by import Change, Record, differences, hashed, number_of
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import archive, commits, delta, remembered
from lakehouse_lib.storage.transactions import FINGERPRINT

REBUILD = "rebuild"
"""Transaction id under which a table counts its rebuilds, so that each is written once."""

_OF_A_LOAD = ("lakehouse_lib.layers.loading.bronze_rows", "lakehouse_lib.intake.formats.read",
              "lakehouse_lib.intake.landing.format_of")  # fmt: skip
_OF_CHANGES = "lakehouse_lib.intake.landing.shape_of"
"""Functions that decide on the rows of bronze tables besides their transformations."""


@dataclass
class Book:
    """The fingerprints of a lakehouse, read once for a run."""

    settings: Settings
    records: dict[int, Record] = field(default_factory=dict)
    codes: dict[int, Record] = field(default_factory=dict)
    """Last results of `code.read`: ``pieces`` (digests by name), ``possible`` settings, ``digest`` of the files."""
    new: dict[tuple[str, int], str] = field(default_factory=dict)
    """Rows that are not in ``ops/fingerprints`` yet, by kind and id."""
    _recorded: dict[tuple[str, int], datetime] = field(default_factory=dict)
    _known: dict[tuple[str, int], list[Change]] = field(default_factory=dict)
    """What has changed, by table and fingerprint; computed once for the run."""
    _digests: dict[tuple[str, ...], str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        columns = ["kind", "id", "text", "recorded_at"]
        for kind, number, text, at in delta.ops_tuples(self.settings, "fingerprints", columns):
            if kind != "function":
                (self.records if kind == "table" else self.codes)[number] = json.loads(text)
                self._recorded[kind, number] = at

    # What would make a table now -----------------------------------------------

    def code_of(self, table: Table) -> Record:
        """Return the code of a table; the source files are parsed only if they have changed since the last time."""
        roots = (table.transform, *_beside(table))
        packages = tuple(sorted({root.split(".")[0] for root in roots}))
        with self._lock:
            if packages not in self._digests:
                self._digests[packages] = sources.digest_of(packages)
            number, digest = hashed(*roots), self._digests[packages]
            if self.codes.get(number, {}).get("digest") != digest:
                self.codes[number] = self._read(roots, digest)
                self.new["code", number] = json.dumps(self.codes[number])
            return self.codes[number]

    def _read(self, roots: tuple[str, ...], digest: str) -> Record:
        found = code.read(roots)
        for piece in found.pieces:
            self.new["function", hashed(piece.digest)] = piece.text
        return {"pieces": {piece.name: piece.digest for piece in found.pieces}, "digest": digest,
                "possible": sorted(reads.possible(found, get_args(Feed)))}  # fmt: skip

    def present(self, table: Table, paths: Iterable[str] | None = None) -> Record:
        """Return the fingerprint that a table would get now; ``paths`` are the settings that it reads, if known."""
        known = self.code_of(table)
        seen = paths is not None
        wanted = [path for path in known["possible"] if _concerns(path, table)] if paths is None else paths
        return {
            "declaration": _declaration(self.settings, table), "version": table.version, "code": known["pieces"],
            "settings": {path: reads.value(self.settings, path) for path in sorted(wanted)}, "seen": seen,
        }  # fmt: skip

    # What made it ---------------------------------------------------------------

    def made(self, table: Table) -> Record | None:
        """Return the fingerprint of a table; None if it has none, as in a lakehouse of an early version."""
        opened = delta.opened(self.settings, table)
        return self._record(opened, delta.watermark(opened, FINGERPRINT) or 0)

    def _record(self, opened: DeltaTable | None, number: int) -> Record | None:
        if opened is not None and number and number not in self.records:
            # Of a run that was killed before it wrote its books.
            self.records |= {number_of(record): record for _, _, record in told(opened)}
        return self.records.get(number)

    def since(self, number: int) -> datetime | None:
        """Return when a table last got this fingerprint."""
        return self._recorded.get(("table", number))

    def changes(self, table: Table) -> list[Change]:
        """Return what has changed since a table was made; also empty if that is not known."""
        opened = delta.opened(self.settings, table)
        key = table.name, delta.watermark(opened, FINGERPRINT) or 0
        if key not in self._known:
            before = self._record(opened, key[1])
            now = before and self.present(table, before["settings"])
            self._known[key] = differences(before, now) if before and now else []
            if table.name in self.settings.dropping():
                self._known[key] += [Change("column", f"column {name} (dropped)", "in the table")
                                     for name in delta.undeclared(self.settings, table)]  # fmt: skip
        return self._known[key]

    # Notes -----------------------------------------------------------------------

    def seal(
        self, table: Table, noted: Iterable[str], anew: bool, rebuilt: bool
    ) -> tuple[list[delta.Consumed], Record]:
        """Return the transactions and the metadata by which a commit records a new fingerprint; ``anew`` if it writes
        the whole table, ``rebuilt`` if it does so because of what has changed."""
        if not self.settings.enable_delta:
            return [], {}
        opened = delta.opened(self.settings, table)
        before = None if anew else self._record(opened, delta.watermark(opened, FINGERPRINT) or 0)
        paths = {*noted, *(before["settings"] if before and before["seen"] else ())}
        record = self.present(table, paths)
        if before and "since" in before:
            record["since"] = before["since"]
        number = number_of(record)
        if not rebuilt and delta.watermark(opened, FINGERPRINT) == number:
            return [], {}
        guard = [delta.Consumed(REBUILD, (delta.watermark(opened, REBUILD) or 0) + 1)] if rebuilt else []
        says: Record = {"fingerprint": record} | ({"operation": "rebuilt"} if rebuilt else {})
        self.records[number] = record
        return [*guard, delta.Consumed(FINGERPRINT, number)], says

    def adopt(self, declared: Iterable[Table]) -> list[str]:
        """Record the present fingerprint of tables that have none; returns a sentence about it."""
        early = []
        for table in declared if self.settings.enable_delta else ():
            opened = delta.opened(self.settings, table)
            if opened is not None and opened.file_uris() and self.made(table) is None:
                early.append(table)
        for table in early:
            self.note(table)
        if not early:
            return []
        return [
            f"{len(early)} tables had no fingerprint, because an earlier version made them: it is recorded now, and "
            f"nothing was rebuilt. If code or settings have changed since then: {command('run --full')}"
        ]

    def keep(self, table: Table, reason: str) -> list[str]:
        """Keep the rows of a table although its code or settings have changed; returns a sentence about it."""
        changes = ", ".join(map(str, self.changes(table)))
        self.note(table, reason)
        said = f"existing rows of {table.name} keep following earlier rules, because {reason}; changed: {changes}"
        return [said] if reason else []

    def note(self, table: Table, reason: str = "") -> None:
        """Give a table the present fingerprint without writing a row; if ``reason`` says why its rows cannot be
        rebuilt, they are listed from then on as following earlier rules."""
        before, record = self.made(table), self.present(table)
        record["settings"] |= {path: reads.value(self.settings, path) for path in (before or {}).get("settings", ())}
        if reason:
            earlier = (before or {}).get("since")
            kept = [*(earlier["changes"] if earlier else ()), *map(str, self.changes(table))]
            version = delta.made(self.settings, table, "it has no rows").version()
            record["since"] = {"version": earlier["version"] if earlier else version, "changes": kept, "reason": reason,
                               "at": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
        number = number_of(record)
        self.records[number] = record
        self.new["table", number] = json.dumps(record)
        self.store()
        says = {"operation": "noted", "fingerprint": record}
        commits.mark(self.settings, table, [delta.Consumed(FINGERPRINT, number)], says)

    def store(self, records: Iterable[Record] = ()) -> None:
        """Write what is new to ``ops/fingerprints``."""
        with self._lock:
            rows, self.new = self.new, {}
        rows |= {("table", number_of(record)): json.dumps(record) for record in records}
        now = datetime.now(UTC)
        listed = [
            {"id": number, "kind": kind, "text": text, "recorded_at": now} for (kind, number), text in rows.items()
        ]
        found = pa.Table.from_pylist(listed, ops.SCHEMAS["fingerprints"])
        commits.upsert_ops(self.settings, "fingerprints", found, ("kind", "id"), where="s.kind <> 'function'")

    def source_of(self, digest: str) -> str:
        """Return the text of a function as it was when a table was made by it; empty if it is not known."""
        number = hashed(digest)
        if ("function", number) in self.new:
            return self.new["function", number]
        found = delta.read_ops(self.settings, "fingerprints", kind="function", id=number)
        return str(found[0]["text"]) if found else ""


def book_of(settings: Settings) -> Book:
    """Return the fingerprints of a lakehouse, to read them; they are read again only if they, the settings or the code
    have changed."""
    return delta.once(f"fingerprints, by settings {id(settings)}", lambda: _known_book(settings))


def _known_book(settings: Settings) -> Book:
    recorded = delta.open_table(f"{settings.layer_path('ops')}/fingerprints")
    if recorded is None:
        return Book(settings)
    declared = tables.declared(settings)
    packages = sorted({table.transform.split(".")[0] for table in declared.values()})
    key = f"book {settings.model_dump_json()} {sources.digest_of(packages)}"
    known, book = remembered.made_of(recorded, key, lambda _: (declared, Book(settings)))
    return book if known == declared else Book(settings)  # a table has been declared anew since


def obstacle(settings: Settings, table: Table) -> str:
    """Return why a table cannot be rebuilt from its sources; empty if it can."""
    if table.layer == "bronze":
        feed = landing.feed_of(table)
        known = landing.known_files(settings, feed, delta.opened(settings, table))
        listed = {file.path for file in landing.list_files(settings, feed)}
        gone = [path for path, file in known.items() if file.state == "loaded" and path not in listed]
        return f"{len(gone)} of its files are no longer in landing, e.g. {gone[0]}" if gone else ""
    for name in (table.name, *table.sources):
        try:
            archive.batches(settings, tables.get(settings, name))
        except TableError as error:
            return str(error)
    return ""


def _beside(table: Table) -> tuple[str, ...]:
    if table.layer != "bronze":
        return ()
    return (*_OF_A_LOAD, _OF_CHANGES) if landing.feed_of(table) == "cdc_changes" else _OF_A_LOAD


def _concerns(path: str, table: Table) -> bool:
    """Whether a setting that the code may read is one of this table."""
    return not path.startswith("feeds.") or path.split(".")[1] == landing.feed_of(table)


def _declaration(settings: Settings, table: Table) -> Record:
    """Return the parts of a declaration that rows depend on."""
    told: Record = {f"column {c.name}": c.type + " required" * c.required for c in table.columns}
    told |= {f"bounds of {name}": list(bounds) for name, bounds in table.bounds.items()}
    told |= {"key": list(table.key), "sources": list(table.sources), "partition_by": table.partition_by}
    if table.layer == "bronze":
        told |= {f"check {name}": condition for name, (condition, _) in tables.record_checks(table).items()}
    if table.layer == "quarantine":
        told |= {f"reason {name}": words for source in table.sources
                 for name, (_, words) in tables.record_checks(tables.get(settings, source)).items()}  # fmt: skip
    return told


def told(opened: DeltaTable) -> Iterator[tuple[datetime, str, Record]]:
    """Yield the fingerprints in a table's commits, newest first, as far as its log goes back, each with the commit's
    time and run (empty if no run wrote it)."""
    for version in range(opened.version(), -1, -1):
        written = delta.actions(opened.table_uri, version)
        if written is None:
            return
        info = delta.info_of(written)
        says = delta.says(info)
        if record := says.get("fingerprint"):
            yield datetime.fromtimestamp(info["timestamp"] / 1000, UTC), says.get("run_id", ""), record
