"""The next load of a feed: which of its files belong to it, read once and staged for the engine.

A load is planned from the files that the table already holds, and carries the next number.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from lakehouse_lib.config import Settings
from lakehouse_lib.intake import formats, landing
from lakehouse_lib.intake.landing import OF_THE_TABLE, LandingFile, feed_of
from lakehouse_lib.intake.streams import PACKED, Unreadable
from lakehouse_lib.layers import bronze, staging
from lakehouse_lib.model import reads
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import delta

AT_ONCE = 2_000
"""Maximum number of files in a load: its commit contains their names."""


@dataclass
class Load:
    """Files to load into a table with one commit."""

    feed: str
    number: int
    """Number of the load; a table accepts each number once."""
    version: int
    """Version of the table when the load was planned."""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    staging: str = ""
    """Folder with the records of the files, for the engine."""
    fields: list[str] = field(default_factory=list)
    """Fields of the records that the table's columns are computed from."""
    files: list[LandingFile] = field(default_factory=list)
    duplicates: list[LandingFile] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Files of the table that are missing from a load of everything."""
    noted: dict[str, Any] = field(default_factory=dict)
    """Settings that the files were read by."""

    @property
    def records(self) -> int:
        """Number of records in the files to load."""
        return sum(file.records for file in self.files)

    def metadata(self, run_id: str) -> dict[str, Any]:
        """Return the metadata of the commit."""
        listed = [landing.entry(file, "loaded") for file in self.files]
        listed += [landing.entry(file, "duplicate") for file in self.duplicates]
        return {"run_id": run_id, "load": self.id, "files": listed, "sources": {f"landing/{self.feed}": self.number}}


def next_load(
    settings: Settings, table: Table, run_id: str, whole: bool = False, without: Iterable[str] = ()
) -> Load | None:
    """Read the next pending files, and stage their records for the engine.

    ``whole`` reads every file of the landing folder, for a full rebuild; files in ``without`` are left out. Files that
    cannot be read are recorded, and the others are staged. Returns None if there is nothing to commit.
    """
    feed, target = feed_of(table), delta.opened(settings, table)
    if target is not None:
        landing.settle(settings, feed, target, run_id)
    load, others = planned(settings, table, target, whole, without)
    landing.write_down(settings, feed, [(file, load.version) for file in others], run_id, target)
    if load.files or load.duplicates:
        return load
    staging.remove(load.staging)
    return None


def planned(
    settings: Settings, table: Table, target: DeltaTable | None, whole: bool, without: Iterable[str]
) -> tuple[Load, list[LandingFile]]:
    """Read and stage the files of a load without recording anything; return it, and the files whose state changes
    although it does not load them. The caller removes the staged records."""
    feed = feed_of(table)
    known = landing.known_files(settings, feed, target)
    load = Load(feed, (delta.watermark(target, landing.APP_ID) or 0) + 1, -1 if target is None else target.version())
    watched = reads.watched(settings, load.noted)
    load.staging, load.fields = staging.folder(settings, load.id), bronze.field_names(table)
    listed = {file.path: file for file in landing.list_files(watched, feed) if file.path not in without}
    fresh = [file for file in listed.values() if whole or not landing.is_settled(feed, known.get(file.path), file)]
    # Of files with the same content the first delivered one is loaded, even if they are found together.
    fresh.sort(key=lambda file: (file.modified, file.path))
    try:
        others = _read(watched, feed, load, fresh, known, whole)
    except BaseException:
        staging.remove(load.staging)
        raise
    removed = [file for file in known.values() if file.state in landing.NOT_LOADED and file.path not in listed]
    others += [replace(file, state="removed") for file in removed if file.path not in without]
    if whole:
        contents = {file.digest for file in (*load.files, *load.duplicates)}  # also if they are read otherwise now
        load.missing = [
            file.path
            for file in known.values()
            if file.state == "loaded" and file.records and file.digest not in contents
        ]
    # The state of files that the table holds does not change, whatever became of the files.
    others = [file for file in others if _is_read(file) or known.get(file.path, file).state not in OF_THE_TABLE]
    return load, others


def _read(
    settings: Settings, feed: str, load: Load, fresh: list[LandingFile], known: dict[str, LandingFile], whole: bool
) -> list[LandingFile]:
    """Fill a load from new files; return the files whose state is to be recorded separately."""
    others: list[LandingFile] = []
    wanted: list[LandingFile] = []
    by_content = (
        {} if whole else {_content(file): file for file in known.values() if file.state == "loaded" and file.digest}
    )
    withdrawn = {_content(file) for file in known.values() if file.state == "withdrawn"}
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, len(fresh), AT_ONCE):
            for file in pool.map(lambda file: _with_digest(settings, feed, file), fresh[start : start + AT_ONCE]):
                before = known.get(file.path)
                if before is not None and before.state not in OF_THE_TABLE:
                    before = None
                if file.state:
                    others.append(file)
                elif before and file.digest != before.digest and before.size != -1:
                    others.append(replace(before, reason=landing.changed_sentence(feed, before, file)))
                elif before and (not whole or before.state == "withdrawn"):
                    others.append(replace(before, modified=file.modified, reason=""))  # only its time has changed
                elif before and before.state == "duplicate" and _content(file) in withdrawn:
                    others.append(before)
                elif _content(file) in by_content:
                    load.duplicates.append(file)
                elif whole or len(wanted) < AT_ONCE:
                    wanted.append(file)
                    by_content[_content(file)] = file
            if len(wanted) >= AT_ONCE and not whole:
                break
        if wanted:
            with staging.Stage(load.staging, load.fields) as stage:
                read = list(pool.map(lambda file: _stage(settings, feed, file, stage), wanted))
            by_content |= {_content(file): file for file in read}
            load.files = [file for file in read if not file.state]
            others += [file for file in read if file.state]
    copies = [(file, by_content[_content(file)]) for file in load.duplicates]
    load.duplicates = [replace(file, records=first.records) for file, first in copies if _is_read(first)]
    return others + [replace(f, state=first.state, reason=first.reason) for f, first in copies if not _is_read(first)]


def _content(file: LandingFile) -> tuple[str, str, bool]:
    """Return what identifies a file's content: its bytes, and how they are read."""
    return file.digest, file.kind, file.path.lower().endswith(PACKED)


def _is_read(file: LandingFile) -> bool:
    return file.state in ("", *OF_THE_TABLE)


def _with_digest(settings: Settings, feed: str, file: LandingFile) -> LandingFile:
    """Return the file with the hash of its content; ``failed`` if it cannot be read or is still growing."""
    if file.state:
        return file
    digest, size = hashlib.blake2b(), 0
    try:
        with landing.opened(settings, feed, file) as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        return replace(file, state="failed", reason=error.strerror or str(error))
    if size != file.size:
        return replace(file, state="failed", reason="it is still being written")
    return replace(file, digest=digest.hexdigest()[:32])


def _stage(settings: Settings, feed: str, file: LandingFile, stage: staging.Stage) -> LandingFile:
    """Read a file once and stage its records for the engine; record the reason if it cannot be read."""
    reading = formats.Reading()

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            with landing.opened(settings, feed, file) as handle:
                yield from formats.read(handle, file.kind, reading, file.path, landing.shape_of(settings, feed))
        except OSError as error:  # from reading, not from staging
            raise _NotOpened(error.strerror or str(error)) from error
        if _with_digest(settings, feed, file).digest != file.digest:
            raise _NotOpened("it changed while it was read")

    try:
        stage.add(file.path, file.modified, batches())
    except Unreadable as error:
        return replace(file, state="set_aside", reason=str(error))
    except _NotOpened as error:
        return replace(file, state="failed", reason=str(error))
    return replace(file, records=reading.records, head=reading.head, names=frozenset(reading.names))


class _NotOpened(Exception):
    """A file could not be read to its end, for a reason other than its content."""
