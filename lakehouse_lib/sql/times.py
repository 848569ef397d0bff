"""Timestamps as Spark reads and writes them: Java's DateTimeFormatter patterns, time zones, months."""

from __future__ import annotations

import calendar
import functools
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import ROUND_HALF_UP, Decimal
from zoneinfo import ZoneInfo, available_timezones

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = tuple(calendar.month_name)[1:]
_STAMP = re.compile(
    r"(\d{4})(?:-(\d\d?)(?:-(\d\d?)(?:[ T](?:(\d\d?):(\d\d?)(?::(\d\d?)(?:\.(\d{0,9}))?)?)?)?)?)?", re.ASCII
)
_ZONE = re.compile(
    r" ?(Z|[+-]\d\d?(?::?\d\d)?|UTC|GMT|(?:UTC|GMT)[+-]\d\d?(?::\d\d)?|[A-Z][A-Za-z_]+(?:/[A-Za-z_/+-]+)+)"
)


@functools.lru_cache(maxsize=256)
def zone(name: str) -> tzinfo:
    """Return the time zone of a name or an offset.

    Raises
    ------
    ValueError
        There is no such zone, or it is not supported.
    """
    if name in ("Z", "UTC", "GMT"):
        return UTC
    match = re.fullmatch(r"(?:UTC|GMT)?([+-])(\d\d?)(?::?(\d\d))?", name, re.ASCII)
    if match:
        minutes = int(match[2]) * 60 + int(match[3] or 0)
        if minutes > 18 * 60 or int(match[3] or 0) > 59:
            raise ValueError(f"{name} is not a time zone")
        return timezone(timedelta(minutes=minutes if match[1] == "+" else -minutes))
    if "/" not in name or name not in available_timezones():
        raise ValueError(f"{name} is not a supported time zone; write it as Europe/Berlin or +02:00")
    return ZoneInfo(name)


def timestamp(text: str) -> datetime | None:
    """Return the moment in UTC of a timestamp or date in Spark's default format; None if the text is neither."""
    text = text.strip(" \t\n\r\x0b\x0c")
    match = _STAMP.match(text)
    if not match:
        return None
    rest = text[match.end() :]
    zone_match = _ZONE.fullmatch(rest) if rest else None
    if (rest and not zone_match) or (rest and match[4] is None):
        return None
    year, month, day, hour, minute, second = (int(match[n] or (1 if n < 4 else 0)) for n in range(1, 7))
    try:
        moment = datetime(year, month, day, hour, minute, second, int((match[7] or "").ljust(6, "0")[:6]))
        return (
            moment
            if zone_match is None
            else moment.replace(tzinfo=zone(zone_match[1])).astimezone(UTC).replace(tzinfo=None)
        )
    except (ValueError, OverflowError):
        return None


def from_utc(moment: datetime, name: str) -> datetime:
    """Return the local time in a zone at a UTC time."""
    return moment.replace(tzinfo=UTC).astimezone(zone(name)).replace(tzinfo=None)


def to_utc(moment: datetime, name: str) -> datetime:
    """Return the UTC time of a local time in a zone; inside a gap the offset before the gap applies."""
    return moment.replace(tzinfo=zone(name)).astimezone(UTC).replace(tzinfo=None)


def _is_last_of_month(moment: datetime) -> bool:
    return moment.day == calendar.monthrange(moment.year, moment.month)[1]


def months_between(end: datetime, start: datetime, rounded: bool) -> float:
    """Return the number of months between two times; each remaining day counts as 1/31 of a month."""
    months = (end.year - start.year) * 12 + end.month - start.month
    if end.day == start.day or (_is_last_of_month(end) and _is_last_of_month(start)):
        return float(months)
    seconds: Callable[[datetime], int] = lambda time: time.hour * 3600 + time.minute * 60 + time.second  # noqa: E731
    remainder = (end.day - start.day) * 86400 + seconds(end) - seconds(start)
    result = months + remainder / (31 * 86400)
    return float(Decimal(repr(result)).quantize(Decimal("1e-8"), ROUND_HALF_UP)) if rounded else result


def months_apart(start: datetime, end: datetime) -> int:
    """Return the whole months from one time to another."""
    if start > end:
        return -months_apart_up(end, start)
    return months_apart_up(start, end)


def months_apart_up(start: datetime, end: datetime) -> int:
    """Return the whole months between two times in ascending order."""
    months = (end.year - start.year) * 12 + end.month - start.month
    return months - ((end.day, end.time()) < (start.day, start.time()))


_LETTERS = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|([^A-Za-z'\[\]{}#])|(.)", re.S)


@functools.lru_cache(maxsize=256)
def _parts(pattern: str) -> list[tuple[str, str]]:
    """Return the parts of a pattern: (letters, "") or ("", text)."""
    parts = []
    for part in _LETTERS.finditer(pattern):
        if part[4]:
            raise ValueError(f"the pattern {pattern} holds an unsupported character: {part[4]!r}")
        if part[2]:
            parts.append((part[0], ""))
        else:
            parts.append(("", part[3] or part[1].replace("''", "'") or "'"))
    return parts


def formatted(moment: datetime, pattern: str) -> str:
    """Return a time formatted by a pattern.

    Raises
    ------
    ValueError
        The pattern contains something unsupported.
    """
    return "".join(text or _format_part(moment, letters, pattern) for letters, text in _parts(pattern))


def _format_part(moment: datetime, letters: str, pattern: str) -> str:
    letter, size = letters[0], len(letters)
    if letter == "y" and size in (1, 2, 4):
        return f"{moment.year % 100:02}" if size == 2 else f"{moment.year:0{size}}"
    if letter in "ML" and size <= 4:
        return MONTHS[moment.month - 1][: 3 if size == 3 else None] if size > 2 else f"{moment.month:0{size}}"
    if letter == "E" and size <= 4:
        return DAYS[moment.weekday()][: 3 if size < 4 else None]
    if letter == "a" and size == 1:
        return "AM" if moment.hour < 12 else "PM"
    if letter == "S" and size <= 9:
        return f"{moment.microsecond:06}000"[:size]
    if letter in "Qq" and size in (1, 2):
        return f"{(moment.month + 2) // 3:0{size}}"
    if letter == "D" and size in (1, 3):
        return f"{moment.timetuple().tm_yday:0{size}}"
    hours = {"H": moment.hour, "h": (moment.hour - 1) % 12 + 1, "K": moment.hour % 12, "k": moment.hour or 24}
    numbers = hours | {"d": moment.day, "m": moment.minute, "s": moment.second}
    if letter in numbers and size <= 2:
        return f"{numbers[letter]:0{size}}"
    if (letter, size) in (("X", 1), ("X", 3), ("z", 1), ("Z", 1), ("x", 3)):
        return {"X": "Z", "z": "UTC", "Z": "+0000", "x": "+00:00"}[letter]
    raise ValueError(f"the pattern {pattern} holds {letters}, which is not supported")


@functools.lru_cache(maxsize=256)
def _reader(pattern: str) -> tuple[re.Pattern[str], list[str]]:
    regex, names = "", []
    texts = {"MMM": "|".join(name[:3] for name in MONTHS), "MMMM": "|".join(MONTHS), "a": "AM|PM",
             "E": "|".join(name[:3] for name in DAYS), "EEE": "|".join(name[:3] for name in DAYS),
             "EEEE": "|".join(DAYS), "XXX": r"Z|[+-]\d\d:\d\d", "X": r"Z|[+-]\d\d(?:\d\d)?"}  # fmt: skip
    for letters, text in _parts(pattern):
        if text:
            regex += re.escape(text)
            continue
        size = len(letters)
        if letters in texts:
            regex += f"({texts[letters]})"
        elif letters in ("yyyy", "yy") or (letters[0] == "S" and size <= 9):
            regex += rf"(\d{{{size}}})"
        elif letters[0] in "MdHhms" and size <= 2:
            regex += r"(\d\d)" if size == 2 else r"(\d\d?)"
        else:
            raise ValueError(f"the pattern {pattern} holds {letters}, which is not supported")
        names.append(letters)
    if len({name[0] for name in names}) < len(names) or ("h" in {n[0] for n in names}) != ("a" in names):
        raise ValueError(f"the pattern {pattern} is not supported")
    return re.compile(regex, re.ASCII), names


def parsed(text: str, pattern: str) -> datetime | None:
    """Return a time in UTC parsed from a text by a pattern; None if the text does not match.

    Raises
    ------
    ValueError
        The pattern contains something unsupported.
    """
    expression, names = _reader(pattern)
    match = expression.fullmatch(text)
    if not match:
        return None
    values = dict(zip((name[0] for name in names), match.groups(), strict=True))
    year = int(values.get("y", 1970))
    month = values.get("M", "1")
    month = int(month) if month.isdigit() else 1 + [name[:3] for name in MONTHS].index(month[:3])
    hour = int(values.get("H", 0))
    if "h" in values:
        if not 1 <= int(values["h"]) <= 12:
            return None
        hour = int(values["h"]) % 12 + 12 * (values["a"] == "PM")
    try:
        moment = datetime(year + 2000 if "yy" in names else year, month, int(values.get("d", 1)), hour,
                          int(values.get("m", 0)), int(values.get("s", 0)),
                          int(values.get("S", "").ljust(6, "0")[:6]))  # fmt: skip
        if "E" in values and DAYS[moment.weekday()][:3] != values["E"][:3]:
            return None
        offset = values.get("X")
        return moment if offset is None else moment.replace(tzinfo=zone(offset)).astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None
