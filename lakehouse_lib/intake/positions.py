"""Positions in a source's log, as text that sorts in log order.

A position has parts: numbers compare as numbers, whatever their length, and other text as text. Positions in
different logs are not comparable.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_HEX_PARTS = re.compile(r"[0-9A-Fa-f]{8}:[0-9A-Fa-f]{8}:([0-9A-Fa-f]{4}|[0-9A-Fa-f]{16})|0[xX][0-9A-Fa-f]+")
"""The notations of SQL Server and Db2, and the single number that SQL Server's functions return."""
_FIXED_WIDTH = re.compile(r"(?=.*[A-Za-z])(?=.*\d)[0-9A-Za-z]{16,}")
"""Ids that sort as text, such as ULIDs."""
_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d*))?")
_COMPLEMENT = str.maketrans("0123456789", "9876543210")


class Position(NamedTuple):
    """A position in one of the source's logs."""

    log: str
    """Name of the log; only positions in the same log are comparable."""
    shown: str
    """The usual notation, for display."""
    order: str
    """Text that sorts in log order."""


def of(log: str, *parts: Any, shown: str = "") -> Position | None:
    """Return a position from its parts, the most significant first; None if a part is missing."""
    if any(part is None or part == "" for part in parts):
        return None
    # A blank sorts before any character that can continue a part.
    return Position(log, shown or ":".join(map(str, parts)), " ".join(map(_ordered, parts)))


def binlog(file: Any, position: Any, row: Any = 0) -> Position | None:
    """Return a position in MySQL's binary log; the number in a file name can outgrow its zero padding."""
    match = re.fullmatch(r"(.*?)(\d+)", str(file or ""))
    if not match or position is None:
        return None
    stem, number = match.groups()
    return of(f"binlog {stem}", number, position, row or 0, shown=f"{file}:{position}:{row or 0}")


def postgres(lsn: Any, committed: Any, snapshot: bool) -> Position | None:
    """Return a position in PostgreSQL's log: of the last commit before a change, then of the change itself.

    Transactions are reported when they commit, so the positions of changes alone do not increase. A snapshot row sorts
    before everything committed after it. A log sequence number is one number, or two hexadecimal ones as in 0/16B3748;
    0 means none.
    """
    number = _lsn(lsn)
    if number is None:
        return None
    commit = _lsn(committed)
    return of("lsn", number if commit is None else commit, 0 if snapshot else number, shown=str(lsn))


def _lsn(value: Any) -> Any:
    match = _LSN.fullmatch(str(value))
    number = (int(match[1], 16) << 32) + int(match[2], 16) if match else value
    return None if number is None or str(number) in ("0", "") else number


def oracle(scn: Any, committed: Any, rollback: Any, number: Any, snapshot: bool) -> Position | None:
    """Return a position in Oracle's log: the SCNs of the commit and of the change, and its position in the redo
    record."""
    if not scn:
        return None
    commit = committed if re.fullmatch(r"\d+", str(committed)) else scn
    block = re.fullmatch(r"\s*0x([0-9A-Fa-f]+)\.([0-9A-Fa-f]+)\.([0-9A-Fa-f]+)\s*", str(rollback))
    redo_position = [int(part, 16) for part in block.groups()] if block else [0, 0, 0]
    return of("scn", commit, 0 if snapshot else scn, *redo_position, number or 0, shown=str(scn))


def hexadecimal(commit: Any, change: Any, event: Any) -> Position | None:
    """Return a position in the log of SQL Server or Db2: of the commit, then of the change, then the event's number."""
    if not commit:
        return None
    parts = [*_hex_parts(commit), *(_hex_parts(change) if change else (0, 0, 0)), event or 0]
    return of("commit_lsn", *parts, shown=":".join(str(part) for part in (commit, change, event) if part is not None))


def sequence(value: Any) -> Position | None:
    """Return the sequence of a custom source: a number of any length, with or without a fraction, or text with numbers
    in it."""
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
    """Return a part as text that sorts in the part's order."""
    text = str(part).strip()
    if number := _NUMBER.fullmatch(text):
        sign, digits, fraction = number.groups()
        digits, fraction = digits.lstrip("0") or "0", (fraction or "").rstrip("0")
        if sign and (digits != "0" or fraction):  # a larger absolute value sorts earlier
            return f"-{999 - len(digits):03d}{digits.translate(_COMPLEMENT)}!{fraction.translate(_COMPLEMENT)}~"
        return f"{len(digits):03d}{digits}" + (f"!{fraction}" if fraction else "")
    if _FIXED_WIDTH.fullmatch(text):
        return text
    return re.sub(r"\d+", lambda run: f"{len(run[0].lstrip('0') or '0'):03d}{run[0].lstrip('0') or '0'}", text)
