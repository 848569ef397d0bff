"""Opened tables of this process, remembered until their logs go on.

Opening a table reads its log, which takes longer the longer the log is. Whether the log has gone on is a matter of
three looks at the file system: the newest commit's file is the same, and there is none of the next.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from deltalake import DeltaTable

LIMIT = 200
"""Tables to remember; a lakehouse has some thirty, with those under ``ops/``."""


T = TypeVar("T")


@dataclass(frozen=True)
class _Known:
    table: DeltaTable
    version: int
    log: tuple[int, ...]
    commit: tuple[int, ...]
    made: dict[str, Any]


_known: OrderedDict[str, _Known] = OrderedDict()
_lock = threading.Lock()


def table(path: str) -> DeltaTable:
    """Return the current version of the table in a folder.

    All readers share the object, so code that changes a table has to open it separately.
    """
    if "://" in path:
        return DeltaTable(path)
    with _lock:
        known = _known.get(path)
    if known is None or not _is_current(path, known):
        log = _identity(f"{path}/_delta_log")  # before opening: if the table is made anew in between, this differs
        opened = DeltaTable(path)
        version = opened.version()
        known = _Known(opened, version, log, _identity(_commit(path, version)), {})
    with _lock:
        _known[path] = known
        _known.move_to_end(path)
        if len(_known) > LIMIT:
            _known.popitem(last=False)
    return known.table


def made_of(opened: DeltaTable, name: str, make: Callable[[DeltaTable], T]) -> T:
    """Return what ``make`` makes of a table; a remembered table remembers it by its name. It is shared as well."""
    with _lock:
        known = next((known for known in _known.values() if known.table is opened), None)
    if known is None:
        return make(opened)
    if name not in known.made:
        known.made[name] = make(opened)
    value: T = known.made[name]
    return value


def _is_current(path: str, known: _Known) -> bool:
    return (
        not os.path.exists(_commit(path, known.version + 1))
        and _identity(_commit(path, known.version)) == known.commit
        and _identity(f"{path}/_delta_log") == known.log
    )


def _commit(path: str, version: int) -> str:
    return f"{path}/_delta_log/{version:020d}.json"


def _identity(path: str) -> tuple[int, ...]:
    """Return what distinguishes a file or folder from others that were at its place; empty if there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return ()
    return (found.st_dev, found.st_ino) if path.endswith("_delta_log") else (found.st_ino, found.st_mtime_ns)
