"""The landing zone: which files exist, which are already in the table, and which to load next.

The commits of a bronze table say which files it holds: each load names its files (path, size, time, content
hash) in the commit that holds their rows. Listed files that no commit names are pending. ``ops/landing_files``
stores the same by file, plus the files that were set aside and why; it may lag behind, because commits after
those it covers are read from the log. If it was lost and the log has been cleaned since, the table's rows,
including archived ones, say which files they come from.

A number keeps two concurrent loads apart: a load carries the next number, and Delta accepts each number once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from lakehouse_lib.config import Settings
from lakehouse_lib.errors import LandingError, TableError
from lakehouse_lib.intake import envelopes, folders
from lakehouse_lib.intake.folders import EPOCH
from lakehouse_lib.intake.records import Shape
from lakehouse_lib.model import ops, tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import archive, commits, delta

APP_ID = "landing"
"""Transaction id under which a bronze table numbers its loads."""

OF_THE_TABLE = ("loaded", "duplicate", "withdrawn")
"""States of files that come from the table's own commits."""

LOG_ENTRIES = 20
"""Maximum number of commits that have to be read from the log to list a feed's known files."""

NOT_LOADED = ("set_aside", "failed")
"""States of files that need attention."""

_SUFFIXES = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class LandingFile:
    """A file of a feed."""

    path: str
    size: int
    modified: datetime
    kind: str = ""
    digest: str = ""
    records: int = 0
    head: str = ""
    """Header of a CSV file."""
    state: str = ""
    """``loaded``, ``duplicate`` (its content is already loaded), ``withdrawn`` (taken back by a restore), ``set_aside``
    (cannot be read whole), ``failed`` (could not be opened or computed, and is tried again), ``removed`` (was one of
    these two and is gone) or ``ignored`` (its name has no known file extension)."""
    reason: str = ""
    local: str = ""
    """Its path on this machine, if `path` cannot be opened because the name is not valid Unicode."""
    names: frozenset[str] = frozenset()
    """Field names of its records; known only to the run that read it."""


def feed_of(bronze: Table) -> str:
    """Return the feed that a bronze table loads."""
    return bronze.name.removesuffix("_bronze")


def shape_of(settings: Settings, feed: str) -> Shape | None:
    """Return the function that reshapes the records of a feed; None if they are taken unchanged."""
    if feed != "cdc_changes":
        return None
    return envelopes.beside if settings.feed(feed).select else envelopes.flat


# Listing ----------------------------------------------------------------------


def check_there(settings: Settings, feed: str) -> None:
    """Raise if the landing folder does not exist.

    Raises
    ------
    LandingError
        The landing folder, or the folder that the feed's settings name, does not exist.
    """
    has_own_path = bool(settings.feed(feed).path)
    folder = settings.feed_path(feed) if has_own_path else settings.layer_path("landing")
    if "://" not in folder and not os.path.isdir(folder):
        setting = f"feeds.{feed}.path" if has_own_path else "LANDING_PATH"
        raise LandingError(
            f"The landing folder {folder} does not exist. Create it or correct {setting}; "
            "nothing was loaded. For sample input: lakehouse run --sample."
        )


def not_in_use(settings: Settings) -> set[str]:
    """Return the tables that have never had data: those of feeds that never had a file, and those made only from such
    tables."""
    unused: set[str] = set()
    for table in tables.declared(settings).values():
        if _holds_rows(settings, table):  # checked first, because listing a large landing folder takes long
            continue
        if table.layer != "bronze":
            has_data = not unused.issuperset(table.sources)
        else:
            feed = feed_of(table)
            has_data = bool(delta.read_ops(settings, "landing_files", feed=feed) or _listed(settings, feed))
        if not has_data:
            unused.add(table.name)
    return unused


def _holds_rows(settings: Settings, table: Table) -> bool:
    path = delta.table_path(settings, table)
    if not settings.enable_delta:
        return any(part.name != "empty.parquet" for part in Path(path).glob("*.parquet"))
    try:
        delta_table = delta.open_table(path)
    except TableError:  # it exists, but cannot be read now
        return True
    return delta_table is not None and bool(delta_table.file_uris())


def list_files(settings: Settings, feed: str) -> list[LandingFile]:
    """Return the feed's input files, sorted by path; files still being written and files of unknown formats are left
    out."""
    return [file for file in _listed(settings, feed) if file.kind]


def format_of(settings: Settings, feed: str) -> str:
    """Return the format of a feed's files; empty if each file's name shows it."""
    return settings.feed(feed).format


def _listed(settings: Settings, feed: str) -> list[LandingFile]:
    folder, feed_format = settings.feed_path(feed), format_of(settings, feed)
    files = []
    for listed in folders.files(folder):
        hidden = any(part.startswith(("_", ".")) for part in listed.path.split("/"))
        if hidden or listed.path.endswith(".tmp"):
            continue
        file = LandingFile(
            listed.path, listed.size, listed.modified, _kind(listed.path, feed_format), local=listed.local
        )
        # A file that cannot even be inspected is always reported.
        files.append(replace(file, kind="json", state="failed", reason=listed.problem) if listed.problem else file)
    return sorted(files, key=lambda file: file.path)


def _kind(path: str, feed_format: str) -> str:
    name = path.lower().removesuffix(".gz").removesuffix(".zst")
    return feed_format or _SUFFIXES.get(name[name.rfind(".") :] if "." in name else "", "")


def opened(settings: Settings, feed: str, file: LandingFile) -> BinaryIO:
    """Open a file of a feed for reading."""
    return folders.opened(settings.feed_path(feed), file.local or file.path)


# State ------------------------------------------------------------------------


def known_files(settings: Settings, feed: str, target: DeltaTable | None) -> dict[str, LandingFile]:
    """Return the files of a feed that are in its table or were left out for a recorded reason, by path."""
    files, _ = _known(settings, feed, target)
    return files


def _known(settings: Settings, feed: str, target: DeltaTable | None) -> tuple[dict[str, LandingFile], int]:
    """Return the known files, and the last version of the table that ``ops/landing_files`` covers."""
    table_id = _id(target)
    files: dict[str, LandingFile] = {}
    covered = -1
    names = [name for name in LandingFile.__dataclass_fields__ if name in ops.SCHEMAS["landing_files"].names]
    columns = [*names, "table_id", "version"]
    for *values, owner_id, version in delta.ops_tuples(settings, "landing_files", columns, feed=feed):
        if owner_id in ("", table_id):  # a recreated table has none of its predecessor's files
            file = LandingFile(**dict(zip(names, values, strict=True)))
            files[file.path] = file
            covered = max(covered, version if file.state in OF_THE_TABLE else -1)
    if target is not None:
        incomplete = False
        for _, commit_info in delta.said(target, covered):
            incomplete |= commit_info is None or "batch" in commit_info  # an early load names no files
            _apply(files, commit_info or {})
        if incomplete:
            _add_from_rows(settings, feed, files, target)
    return files, covered


def _id(target: DeltaTable | None) -> str:
    return str(target.metadata().id) if target else ""


def _apply(files: dict[str, LandingFile], commit_info: dict[str, Any]) -> None:
    """Update the known files with the changes of one commit."""
    for file_entry in (*commit_info.get("files", ()), *commit_info.get("returned", ())):
        files[file_entry["path"]] = _from_entry(file_entry)
    for path in commit_info.get("withdrawn", ()):
        if path in files:
            files[path] = replace(files[path], state="withdrawn")
    for path, reason in commit_info.get("set_aside", {}).items():
        if path in files:
            files[path] = replace(files[path], state="set_aside", reason=reason)


def _add_from_rows(settings: Settings, feed: str, known: dict[str, LandingFile], target: DeltaTable) -> None:
    """Add the files that the rows themselves name, if the log no longer covers them."""
    paths = files_in(target)
    for batch in archive.batches(settings, tables.get(settings, f"{feed}_bronze")):
        filesystem, root = delta.filesystem(batch.folder)
        for file in batch.files:
            rows = pq.read_table(f"{root}/{file['path']}", columns=["_source_file"], filesystem=filesystem)
            paths |= set(rows["_source_file"].unique().to_pylist())
    for path in paths:
        known.setdefault(path, LandingFile(path, -1, EPOCH, state="loaded"))


def files_in(target: DeltaTable) -> set[str]:
    """Return the files that the rows of a bronze table come from."""
    data = delta.dataset(target)  # noqa: F841 - named in the query
    with duckdb.connect(":memory:") as connection:
        return {path for (path,) in connection.sql("SELECT DISTINCT _source_file FROM data").fetchall()}


def settle(settings: Settings, feed: str, target: DeltaTable, run_id: str) -> None:
    """Bring ``ops/landing_files`` up to date with the table's commits since its last update."""
    files, covered = _known(settings, feed, target)
    versions: dict[str, int] = {}
    for version, commit_info in delta.said(target, covered):
        commit_info = commit_info or {}
        paths = [file_entry["path"] for file_entry in (*commit_info.get("files", ()), *commit_info.get("returned", ()))]
        versions |= dict.fromkeys(
            [*paths, *commit_info.get("withdrawn", ()), *commit_info.get("set_aside", ())], version
        )
    # Files that only the rows name are written too, as the next update starts after this version. It must also advance
    # after many commits that name no file, before their log entries are cleaned.
    if versions or target.version() - covered > LOG_ENTRIES:
        versions |= {path: target.version() for path, file in files.items() if file.size == -1}
        newest = next((path for path, file in files.items() if file.state in OF_THE_TABLE), None)
        versions |= {newest: target.version()} if newest else {}
    rows = [(files[path], version) for path, version in versions.items() if path in files]
    write_down(settings, feed, rows, run_id, target)


def write_down(
    settings: Settings, feed: str, rows: list[tuple[LandingFile, int]], run_id: str, target: DeltaTable | None
) -> None:
    """Write files to ``ops/landing_files``, each with the table version that recorded its state."""
    if not rows:
        return
    now, table_id = datetime.now(UTC), _id(target)
    columns = zip(*(
        (feed, f.path, f.state, f.reason, f.size, f.modified, f.digest, f.records, f.kind, f.head, run_id,
         table_id, version, now) for f, version in rows
    ), strict=True)  # fmt: skip
    # A run that was overtaken must not set a file back to an earlier state.
    files = pa.table(list(columns), schema=ops.SCHEMAS["landing_files"])
    commits.upsert_ops(settings, "landing_files", files, key=("feed", "path"), keep=("first_seen",),
                     where="s.version >= t.version OR s.table_id <> t.table_id")  # fmt: skip


def entry(file: LandingFile, state: str) -> dict[str, Any]:
    """Return a file's entry in the metadata of a commit."""
    micros = (file.modified - EPOCH) // timedelta(microseconds=1)
    return {"path": file.path, "state": state, "size": file.size, "modified": micros, "digest": file.digest,
            "records": file.records, "kind": file.kind, "head": file.head}  # fmt: skip


def _from_entry(file_entry: dict[str, Any]) -> LandingFile:
    return LandingFile(**file_entry | {"modified": EPOCH + timedelta(microseconds=file_entry["modified"])})


def is_settled(feed: str, known: LandingFile | None, file: LandingFile) -> bool:
    """Return whether a listed file is already dealt with, judged without opening it."""
    if known is None or known.state in ("failed", "removed", "ignored"):
        return False
    if known.state == "set_aside" and known.kind != file.kind:  # the settings now say that it has another format
        return False
    same = known.size == -1 or (known.size, known.modified) == (file.size, file.modified)
    return same or known.reason == changed_sentence(feed, known, file)


def pending_files(settings: Settings, bronze: Table) -> list[LandingFile]:
    """Return the listed files that are new or have changed, judged by name, size and time alone."""
    feed = feed_of(bronze)
    known = known_files(settings, feed, delta.opened(settings, bronze))
    return [file for file in list_files(settings, feed) if not is_settled(feed, known.get(file.path), file)]


def problems(settings: Settings, bronze: Table) -> list[tuple[LandingFile, str]]:
    """Return the landing files that need attention, as recorded, each with a sentence that says why and what to do."""
    feed = feed_of(bronze)
    known = known_files(settings, feed, delta.opened(settings, bronze))
    file_problems = []
    for file in list_files(settings, feed):
        previous = known.get(file.path)
        if previous is None:
            continue
        if previous.state in NOT_LOADED and previous.size == file.size:
            file_problems.append((previous, _set_aside_sentence(feed, previous)))
        elif previous.state in ("loaded", "duplicate") and (
            previous.size not in (-1, file.size) or previous.reason == changed_sentence(feed, previous, file)
        ):
            file_problems.append((previous, changed_sentence(feed, previous, file)))
    return file_problems


def _set_aside_sentence(feed: str, file: LandingFile) -> str:
    where = f"{feed}/{_shown(file.path)}"
    if file.state == "failed":
        return f"{where} could not be loaded: {file.reason}. Nothing of it is loaded; the next run tries again."
    return (
        f"{where} cannot be read: {file.reason}. Nothing of it is loaded. Deliver it again, whole, under a new "
        f"name, and remove this one or rename it to begin with _."
    )


def changed_sentence(feed: str, before: LandingFile, now: LandingFile) -> str:
    """Return the message about a file that has changed since it was loaded."""
    return (
        f"{feed}/{_shown(now.path)} changed after it was loaded ({before.size} bytes then, {now.size} written at "
        f"{now.modified:%Y-%m-%d %H:%M:%S.%f} now). Its new content is not loaded: files in landing never change. "
        "Deliver the new content under a new name."
    )


def _shown(path: str) -> str:
    return path.encode("unicode_escape").decode() if not path.isprintable() else path


def foreign(settings: Settings, bronze: Table, run_id: str) -> list[str]:
    """Return the files of unknown formats that have not been reported yet; each is reported once."""
    feed = feed_of(bronze)
    target = delta.opened(settings, bronze)
    known = known_files(settings, feed, target)
    new = [
        replace(file, state="ignored") for file in _listed(settings, feed) if not file.kind and file.path not in known
    ]
    write_down(settings, feed, [(file, -1) for file in new], run_id, target)
    return [_shown(file.path) for file in new]
