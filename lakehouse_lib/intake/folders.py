"""The files below a feed's landing folder, on this machine or in an object store."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, NamedTuple

import pyarrow.fs as pafs

from lakehouse_lib.storage import delta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Entry(NamedTuple):
    """A file of a folder."""

    path: str
    """Below the folder, with ``/``; bytes that are not Unicode are escaped."""
    size: int
    modified: datetime
    local: str = ""
    """Its path on this machine, if it cannot be opened by `path`."""
    problem: str = ""
    """Why it, or the folder, cannot be accessed."""


def files(folder: str) -> Iterator[Entry]:
    """Yield every file below a folder, including those that cannot be accessed."""
    return _remote_files(folder) if "://" in folder else _local_files(folder)


def opened(folder: str, path: str) -> BinaryIO:
    """Open a file of a folder for reading."""
    if "://" not in folder:
        return open(os.path.join(folder, path), "rb")
    filesystem, root = delta.filesystem(folder)
    handle: BinaryIO = filesystem.open_input_file(f"{root}/{path}")
    return handle


def _local_files(folder: str) -> Iterator[Entry]:
    seen: set[str] = set()
    errors: list[OSError] = []
    for root, folders, names in os.walk(folder, followlinks=True, onerror=errors.append):
        real = os.path.realpath(root)
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        for full_path in (os.path.join(root, name) for name in names):
            path = _shown_path(folder, full_path)
            try:
                status = os.stat(full_path)
            except FileNotFoundError:  # moved in the meantime, or a broken link
                continue
            except OSError as error:
                yield _inaccessible(path, error)
                continue
            if stat.S_ISREG(status.st_mode):
                modified = EPOCH + timedelta(microseconds=status.st_mtime_ns // 1000)
                local = "" if os.path.exists(os.path.join(folder, path)) else full_path
                yield Entry(path, status.st_size, modified, local=local)
    yield from (
        _inaccessible(_shown_path(folder, error.filename) + "/", error)
        for error in errors
        if not isinstance(error, FileNotFoundError)
    )


def _shown_path(folder: str, full_path: str) -> str:
    path = os.path.relpath(full_path, folder).replace(os.sep, "/")
    return path.encode("utf-8", "backslashreplace").decode()


def _inaccessible(path: str, error: OSError) -> Entry:
    return Entry(path, 0, EPOCH, problem=error.strerror or str(error))


def _remote_files(folder: str) -> Iterator[Entry]:
    filesystem, root = delta.filesystem(folder)
    for info in filesystem.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True)):
        if info.is_file:
            yield Entry(info.path[len(root) :].lstrip("/"), info.size, info.mtime.astimezone(UTC))
