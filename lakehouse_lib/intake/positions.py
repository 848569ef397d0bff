"""Positions in a source's log, as text that sorts as they do.

A position has parts: numbers compare as numbers, whatever their length, and other text as text. Positions of
different logs do not compare with each other.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_HEX_PARTS = re.compile(r"[0-9A-Fa-f]{8}:[0-9A-Fa-f]{8}:([0-9A-Fa-f]{4}|[0-9A-Fa-f]{16})|0[xX][0-9A-Fa-f]+")
"""SQL Server and Db2 write a place so, and SQL Server's functions as one number."""
_FIXED_WIDTH = re.compile(r"(?=.*[A-Za-z])(?=.*\d)[0-9A-Za-z]{16,}")
"""Ids such as ULIDs, which sort as text."""
_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d*))?")
_COMPLEMENT = str.maketrans("0123456789", "9876543210")


class Position(NamedTuple):
    """A place in one of the source's logs."""

    log: str
    """Which log; only places in the same one compare."""
    shown: str
    """As people know it."""
    order: str
    """Sorts as text."""


def of(log: str, *parts: Any, shown: str = "") -> Position | None:
    """A place by its parts, the most significant first; None where one is missing."""
    if any(part is None or part == "" for part in parts):
        return None
    # A blank sorts before all that a part may go on with.
    return Position(log, shown or ":".join(map(str, parts)), " ".join(map(_ordered, parts)))


def binlog(file: Any, position: Any, row: Any = 0) -> Position | None:
    """A place in MySQL's binary log; the number in a file's name grows past its padding."""
    found = re.fullmatch(r"(.*?)(\d+)", str(file or ""))
    if not found or position is None:
        return None
    stem, number = found.groups()
    return of(f"binlog {stem}", number, position, row or 0, shown=f"{file}:{position}:{row or 0}")


def postgres(lsn: Any, committed: Any, snapshot: bool) -> Position | None:
    """A place in PostgreSQL's log: of the last commit before a change, then of the change itself.

    Transactions are told of when they commit, so places of changes alone do not rise. A row of a snapshot comes before
    all that is committed after it. A log sequence number is a number, or two hexadecimal ones as in 0/16B3748; 0 is
    none.
    """
    number = _lsn(lsn)
    if number is None:
        return None
    last = _lsn(committed)
    return of("lsn", number if last is None else last, 0 if snapshot else number, shown=str(lsn))


def _lsn(value: Any) -> Any:
    found = _LSN.fullmatch(str(value))
    number = (int(found[1], 16) << 32) + int(found[2], 16) if found else value
    return None if number is None or str(number) in ("0", "") else number


def oracle(scn: Any, committed: Any, rollback: Any, number: Any, snapshot: bool) -> Position | None:
    """A place in Oracle's log: the SCN of the commit, of the change, and the change's place in its redo record."""
    if not scn:
        return None
    last = committed if re.fullmatch(r"\d+", str(committed)) else scn
    block = re.fullmatch(r"\s*0x([0-9A-Fa-f]+)\.([0-9A-Fa-f]+)\.([0-9A-Fa-f]+)\s*", str(rollback))
    within = [int(part, 16) for part in block.groups()] if block else [0, 0, 0]
    return of("scn", last, 0 if snapshot else scn, *within, number or 0, shown=str(scn))


def hexadecimal(commit: Any, change: Any, event: Any) -> Position | None:
    """A place in the log of SQL Server or Db2: of the commit, then of the change, then the number of the event."""
    if not commit:
        return None
    parts = [*_hex_parts(commit), *(_hex_parts(change) if change else (0, 0, 0)), event or 0]
    return of("commit_lsn", *parts, shown=":".join(str(one) for one in (commit, change, event) if one is not None))


def sequence(value: Any) -> Position | None:
    """A sequence that a source of one's own gives: a number of any length, with or without a fraction, or
    numbers between other text."""
    text = "" if value is None else str(value).strip()
    if _LSN.fullmatch(text):
        return of("sequence", int(text.split("/")[0], 16), int(text.split("/")[1], 16), shown=text)
    if _HEX_PARTS.fullmatch(text):
        return of("sequence", *_hex_parts(text), shown=text)
    return of("sequence", text)


def _hex_parts(text: Any) -> list[Any]:
    parts = str(text).split(":")
    return [int(part, 16) for part in parts] if _HEX_PARTS.fullmatch(str(text)) else parts


def _ordered(part: Any) -> str:
    """A part as text that sorts as it does."""
    text = str(part).strip()
    if whole := _NUMBER.fullmatch(text):
        sign, digits, fraction = whole.groups()
        digits, fraction = digits.lstrip("0") or "0", (fraction or "").rstrip("0")
        if sign and (digits != "0" or fraction):  # the larger, the earlier
            return f"-{999 - len(digits):03d}{digits.translate(_COMPLEMENT)}!{fraction.translate(_COMPLEMENT)}~"
        return f"{len(digits):03d}{digits}" + (f"!{fraction}" if fraction else "")
    if _FIXED_WIDTH.fullmatch(text):
        return text
    return re.sub(r"\d+", lambda run: f"{len(run[0].lstrip('0') or '0'):03d}{run[0].lstrip('0') or '0'}", text)
