"""The landing zone: which files there are, which are in the table, and the next ones to load.

Which files are in a bronze table follows from its own commits: each load names its files (path,
size, time, content hash) in the commit that holds their rows. What is listed and not among them is
pending. ``ops/landing_files`` is the same by file, with the files that were set aside and why; the
commits after those it knows are read from the log, so that it may be late. Where it was lost and the
log was cleaned since, the table's rows, archived ones too, tell which files they come from.

Two runs that load at once are told apart by a number: a load carries the next one, and Delta takes
each number once.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import DeltaTable

from lakehouse_lib.config import Settings
from lakehouse_lib.errors import LandingError, TableError
from lakehouse_lib.intake import envelopes, formats
from lakehouse_lib.intake.records import Shape
from lakehouse_lib.intake.streams import Unreadable
from lakehouse_lib.model import ops, tables
from lakehouse_lib.model.tables import Table
from lakehouse_lib.storage import archive, commits, delta

APP_ID = "landing"
"""Transaction id under which a bronze table counts its loads."""

OF_THE_TABLE = ("loaded", "duplicate", "withdrawn")
"""States that a file has by the table's own commits."""

LOG_ENTRIES = 20
"""Commits of a table that are read anew at each look, at most."""

NOT_LOADED = ("set_aside", "failed")
"""States of files that a person has to look at."""

_SUFFIXES = {".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".parquet": "parquet"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
    """``loaded``, ``duplicate`` (its content is loaded), ``withdrawn`` (taken back by a restore), ``set_aside``
    (cannot be read whole), ``failed`` (could not be opened or computed, and is tried again), ``removed`` (one of these
    two that is gone) or ``ignored`` (ends in no format of the contract)."""
    reason: str = ""
    local: str = ""
    """Its path on this machine, where `path` cannot be opened: names that are no Unicode."""
    names: frozenset[str] = frozenset()
    """Fields of its records; known only to the run that read it."""


def feed_of(bronze: Table) -> str:
    """The feed that a bronze table loads."""
    return bronze.name.removesuffix("_bronze")


def shape_of(settings: Settings, feed: str) -> Shape | None:
    """What the records of a feed are brought into; None where they are taken as they are."""
    if feed != "cdc_changes":
        return None
    return envelopes.beside if settings.feed(feed).select else envelopes.flat


# What there is ---------------------------------------------------------------


def check_there(settings: Settings, feed: str) -> None:
    """Refuse to go on where the landing folder is not there.

    Raises
    ------
    LandingError
        The landing folder, or the folder that the feed's settings name, does not exist.
    """
    own = bool(settings.feed(feed).path)
    folder = settings.feed_path(feed) if own else settings.layer_path("landing")
    if "://" not in folder and not os.path.isdir(folder):
        setting = f"feeds.{feed}.path" if own else "LANDING_PATH"
        raise LandingError(
            f"The landing folder {folder} does not exist. Create it or correct {setting}; "
            "nothing was loaded. For sample input: lakehouse run --sample."
        )


def not_in_use(settings: Settings) -> set[str]:
    """Tables for which nothing has ever come: those of feeds that never had a file, and what is made from these
    alone."""
    found: set[str] = set()
    for table in tables.declared(settings).values():
        if _holds_rows(settings, table):  # first, as a large landing folder takes long to list
            continue
        if table.layer != "bronze":
            fed = not found.issuperset(table.sources)
        else:
            feed = feed_of(table)
            fed = bool(delta.read_ops(settings, "landing_files", feed=feed) or _listed(settings, feed))
        if not fed:
            found.add(table.name)
    return found


def _holds_rows(settings: Settings, table: Table) -> bool:
    path = delta.table_path(settings, table)
    if not settings.enable_delta:
        return any(part.name != "empty.parquet" for part in Path(path).glob("*.parquet"))
    try:
        opened = delta.open_table(path)
    except TableError:  # it cannot be read now, and was made
        return True
    return opened is not None and bool(opened.file_uris())


def list_files(settings: Settings, feed: str) -> list[LandingFile]:
    """The feed's input files, by path; those being written and foreign ones are left alone."""
    return [file for file in _listed(settings, feed) if file.kind]


def _listed(settings: Settings, feed: str) -> list[LandingFile]:
    folder, given = settings.feed_path(feed), settings.feed(feed).format
    found = []
    for file in (_walk_remote if "://" in folder else _walk_local)(folder):
        hidden = any(part.startswith(("_", ".")) for part in file.path.split("/"))
        if not hidden and not file.path.endswith(".tmp"):
            # What cannot even be looked at has to be heard of, whatever it is.
            found.append(file if file.state else replace(file, kind=_kind(file.path, given)))
    return sorted(found, key=lambda file: file.path)


def _walk_local(folder: str) -> Iterator[LandingFile]:
    seen: set[str] = set()
    closed: list[OSError] = []
    for root, folders, names in os.walk(folder, followlinks=True, onerror=closed.append):
        real = os.path.realpath(root)
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        for full in (os.path.join(root, name) for name in names):
            path = _shown_path(folder, full)
            try:
                found = os.stat(full)
            except FileNotFoundError:  # moved away meanwhile, or a link to nothing
                continue
            except OSError as error:
                yield _closed(path, error)
                continue
            if stat.S_ISREG(found.st_mode):
                modified = _EPOCH + timedelta(microseconds=found.st_mtime_ns // 1000)
                local = "" if os.path.exists(os.path.join(folder, path)) else full
                yield LandingFile(path, found.st_size, modified, local=local)
    yield from (
        _closed(_shown_path(folder, error.filename) + "/", error)
        for error in closed
        if not isinstance(error, FileNotFoundError)
    )


def _shown_path(folder: str, full: str) -> str:
    path = os.path.relpath(full, folder).replace(os.sep, "/")
    return path.encode("utf-8", "backslashreplace").decode()


def _closed(path: str, error: OSError) -> LandingFile:
    return LandingFile(path, 0, _EPOCH, "json", state="failed", reason=error.strerror or str(error))


def _walk_remote(folder: str) -> Iterator[LandingFile]:
    filesystem, root = delta.filesystem(folder)
    for info in filesystem.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True)):
        if info.is_file:
            yield LandingFile(info.path[len(root) :].lstrip("/"), info.size, info.mtime.astimezone(UTC))


def _kind(path: str, given: str) -> str:
    name = path.lower().removesuffix(".gz").removesuffix(".zst")
    return given or _SUFFIXES.get(name[name.rfind(".") :] if "." in name else "", "")


def opened(settings: Settings, feed: str, file: LandingFile) -> BinaryIO:
    """A file of a feed, opened for reading."""
    folder = settings.feed_path(feed)
    if "://" not in folder:
        return open(file.local or os.path.join(folder, file.path), "rb")
    filesystem, root = delta.filesystem(folder)
    found: BinaryIO = filesystem.open_input_file(f"{root}/{file.path}")
    return found


# What is done ----------------------------------------------------------------


def known_files(settings: Settings, feed: str, target: DeltaTable | None) -> dict[str, LandingFile]:
    """The files of a feed that are in its table or were left out for a reason, by path."""
    found, _ = _known(settings, feed, target)
    return found


def _known(settings: Settings, feed: str, target: DeltaTable | None) -> tuple[dict[str, LandingFile], int]:
    """The known files, and the last version of the table that ``ops/landing_files`` has told of."""
    table_id = _id(target)
    found: dict[str, LandingFile] = {}
    covered = -1
    names = [name for name in LandingFile.__dataclass_fields__ if name in ops.SCHEMAS["landing_files"].names]
    columns = [*names, "table_id", "version"]
    for *values, owner, version in delta.ops_tuples(settings, "landing_files", columns, feed=feed):
        if owner in ("", table_id):  # a table that was made anew has none of the files of the one before
            file = LandingFile(**dict(zip(names, values, strict=True)))
            found[file.path] = file
            covered = max(covered, version if file.state in OF_THE_TABLE else -1)
    if target is not None:
        incomplete = False
        for _, says in delta.said(target, covered):
            incomplete |= says is None or "batch" in says  # an early load names no files
            _apply(found, says or {})
        if incomplete:
            _add_from_rows(settings, feed, found, target)
    return found, covered


def _id(target: DeltaTable | None) -> str:
    return str(target.metadata().id) if target else ""


def _apply(found: dict[str, LandingFile], says: dict[str, Any]) -> None:
    """Bring the known files to where a commit put them."""
    for named in (*says.get("files", ()), *says.get("returned", ())):
        found[named["path"]] = _from_entry(named)
    for path in says.get("withdrawn", ()):
        if path in found:
            found[path] = replace(found[path], state="withdrawn")
    for path, reason in says.get("set_aside", {}).items():
        if path in found:
            found[path] = replace(found[path], state="set_aside", reason=reason)


def _add_from_rows(settings: Settings, feed: str, found: dict[str, LandingFile], target: DeltaTable) -> None:
    """Where the log no longer tells, the rows themselves say which files they come from."""
    paths = files_in(target)
    for batch in archive.batches(settings, tables.get(settings, f"{feed}_bronze")):
        files, root = delta.filesystem(batch.folder)
        for file in batch.files:
            rows = pq.read_table(f"{root}/{file['path']}", columns=["_source_file"], filesystem=files)
            paths |= set(rows["_source_file"].unique().to_pylist())
    for path in paths:
        found.setdefault(path, LandingFile(path, -1, _EPOCH, state="loaded"))


def files_in(target: DeltaTable) -> set[str]:
    """The files that the rows of a bronze table come from."""
    data = delta.dataset(target)  # noqa: F841 - named in the query
    with duckdb.connect(":memory:") as own:
        return {path for (path,) in own.sql("SELECT DISTINCT _source_file FROM data").fetchall()}


def settle(settings: Settings, feed: str, target: DeltaTable, run_id: str) -> None:
    """Write down in ``ops/landing_files`` what the table's commits say of files since it was last told."""
    found, covered = _known(settings, feed, target)
    told: dict[str, int] = {}
    for version, says in delta.said(target, covered):
        says = says or {}
        paths = [named["path"] for named in (*says.get("files", ()), *says.get("returned", ()))]
        told |= dict.fromkeys([*paths, *says.get("withdrawn", ()), *says.get("set_aside", ())], version)
    # Files that only the rows tell of are written down too: the next look starts behind this version. So does it
    # after many commits that name no file, before their log entries are cleaned.
    if told or target.version() - covered > LOG_ENTRIES:
        told |= {path: target.version() for path, file in found.items() if file.size == -1}
        newest = next((path for path, file in found.items() if file.state in OF_THE_TABLE), None)
        told |= {newest: target.version()} if newest else {}
    rows = [(found[path], version) for path, version in told.items() if path in found]
    write_down(settings, feed, rows, run_id, target)


def write_down(
    settings: Settings, feed: str, rows: list[tuple[LandingFile, int]], run_id: str, target: DeltaTable | None
) -> None:
    """Put files, each with the version of the table that says so, into ``ops/landing_files``."""
    if not rows:
        return
    now, table_id = datetime.now(UTC), _id(target)
    columns = zip(*(
        (feed, f.path, f.state, f.reason, f.size, f.modified, f.digest, f.records, f.kind, f.head, run_id,
         table_id, version, now) for f, version in rows
    ), strict=True)  # fmt: skip
    # A run that was overtaken does not set a file back to where it was before.
    files = pa.table(list(columns), schema=ops.SCHEMAS["landing_files"])
    commits.upsert_ops(settings, "landing_files", files, key=("feed", "path"), keep=("first_seen",),
                     where="s.version >= t.version OR s.table_id <> t.table_id")  # fmt: skip


def entry(file: LandingFile, state: str) -> dict[str, Any]:
    """A file as a commit names it."""
    micros = (file.modified - _EPOCH) // timedelta(microseconds=1)
    return {"path": file.path, "state": state, "size": file.size, "modified": micros, "digest": file.digest,
            "records": file.records, "kind": file.kind, "head": file.head}  # fmt: skip


def _from_entry(named: dict[str, Any]) -> LandingFile:
    return LandingFile(**named | {"modified": _EPOCH + timedelta(microseconds=named["modified"])})


def is_settled(feed: str, known: LandingFile | None, file: LandingFile) -> bool:
    """Whether a listed file is one that is known, without opening it."""
    if known is None or known.state in ("failed", "removed", "ignored"):
        return False
    if known.state == "set_aside" and known.kind != file.kind:  # the settings say otherwise now
        return False
    same = known.size == -1 or (known.size, known.modified) == (file.size, file.modified)
    return same or known.reason == changed_sentence(feed, known, file)


def pending_files(settings: Settings, bronze: Table) -> list[LandingFile]:
    """Listed files that are new or differ from what is known of them; looks at names, sizes and times only."""
    feed = feed_of(bronze)
    known = known_files(settings, feed, delta.opened(settings, bronze))
    return [file for file in list_files(settings, feed) if not is_settled(feed, known.get(file.path), file)]


def problems(settings: Settings, bronze: Table) -> list[tuple[LandingFile, str]]:
    """Files in landing that a person has to look at, as they are known, and why and what to do in a sentence."""
    feed = feed_of(bronze)
    known = known_files(settings, feed, delta.opened(settings, bronze))
    found = []
    for file in list_files(settings, feed):
        before = known.get(file.path)
        if before is None:
            continue
        if before.state in NOT_LOADED and before.size == file.size:
            found.append((before, _set_aside_sentence(feed, before)))
        elif before.state in ("loaded", "duplicate") and (
            before.size not in (-1, file.size) or before.reason == changed_sentence(feed, before, file)
        ):
            found.append((before, changed_sentence(feed, before, file)))
    return found


def _set_aside_sentence(feed: str, file: LandingFile) -> str:
    where = f"{feed}/{_shown(file.path)}"
    if file.state == "failed":
        return f"{where} could not be loaded: {file.reason}. Nothing of it is loaded; the next run tries again."
    return (
        f"{where} cannot be read: {file.reason}. Nothing of it is loaded. Deliver it again, whole, under a new "
        f"name, and remove this one or rename it to begin with _."
    )


def changed_sentence(feed: str, before: LandingFile, now: LandingFile) -> str:
    """What is told of a file that is another than the one that was loaded."""
    return (
        f"{feed}/{_shown(now.path)} changed after it was loaded ({before.size} bytes then, {now.size} written at "
        f"{now.modified:%Y-%m-%d %H:%M:%S.%f} now). Its new content is not loaded: files in landing never change. "
        "Deliver the new content under a new name."
    )


def _shown(path: str) -> str:
    return path.encode("unicode_escape").decode() if not path.isprintable() else path


def foreign(settings: Settings, bronze: Table, run_id: str) -> list[str]:
    """Files of no known format that were not mentioned before; each is mentioned once."""
    feed = feed_of(bronze)
    target = delta.opened(settings, bronze)
    known = known_files(settings, feed, target)
    new = [
        replace(file, state="ignored") for file in _listed(settings, feed) if not file.kind and file.path not in known
    ]
    write_down(settings, feed, [(file, -1) for file in new], run_id, target)
    return [_shown(file.path) for file in new]


# Single records ----------------------------------------------------------------


def messages(settings: Settings, feed: str, file: LandingFile) -> Iterator[tuple[str, dict[str, str] | None]]:
    """The records of one file in order: the text, and the fields where it has any."""
    try:
        with opened(settings, feed, file) as handle:
            for batch in formats.read(handle, file.kind, formats.Reading(), file.path, shape_of(settings, feed)):
                for row in batch.to_pylist():
                    fields = None if row["record"] is None else dict(row["record"])
                    yield row["raw"] if row["raw"] is not None else json.dumps(fields, ensure_ascii=False), fields
    except Unreadable:
        return


def instant(value: Any, zone: tzinfo) -> datetime | None:
    """A field as a time, by the rules of the landing contract: ISO-8601 (of the zone where it has no
    offset), or epoch seconds, milliseconds or microseconds; None where it is none."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=zone)
    try:
        number = Decimal(str(value))
        size = abs(number)
        scale = 10**6 if size < 10**11 else 10**3 if size < 10**14 else 1
        return _EPOCH + timedelta(microseconds=int(number * scale))
    except (InvalidOperation, ValueError, OverflowError):
        pass
    try:
        found = datetime.fromisoformat(str(value).strip().replace(",", "."))
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)
