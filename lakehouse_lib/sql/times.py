"""Times as Spark reads and writes them: patterns of Java's DateTimeFormatter, zones, months."""

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
    """The zone of a name or an offset.

    Raises
    ------
    ValueError
        There is none.
    """
    if name in ("Z", "UTC", "GMT"):
        return UTC
    found = re.fullmatch(r"(?:UTC|GMT)?([+-])(\d\d?)(?::?(\d\d))?", name, re.ASCII)
    if found:
        minutes = int(found[2]) * 60 + int(found[3] or 0)
        if minutes > 18 * 60 or int(found[3] or 0) > 59:
            raise ValueError(f"{name} is no time zone")
        return timezone(timedelta(minutes=minutes if found[1] == "+" else -minutes))
    if "/" not in name or name not in available_timezones():
        raise ValueError(f"{name} is no time zone that is answered here; say it as Europe/Berlin or +02:00")
    return ZoneInfo(name)


def timestamp(text: str) -> datetime | None:
    """A time that is written as a timestamp or date, in UTC; None if it is none."""
    text = text.strip(" \t\n\r\x0b\x0c")
    found = _STAMP.match(text)
    if not found:
        return None
    rest = text[found.end() :]
    at = _ZONE.fullmatch(rest) if rest else None
    if (rest and not at) or (rest and found[4] is None):
        return None
    year, month, day, hour, minute, second = (int(found[n] or (1 if n < 4 else 0)) for n in range(1, 7))
    try:
        made = datetime(year, month, day, hour, minute, second, int((found[7] or "").ljust(6, "0")[:6]))
        return made if at is None else made.replace(tzinfo=zone(at[1])).astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None


def from_utc(at: datetime, name: str) -> datetime:
    """What the clocks of a zone show when it is so late in UTC."""
    return at.replace(tzinfo=UTC).astimezone(zone(name)).replace(tzinfo=None)


def to_utc(at: datetime, name: str) -> datetime:
    """How late it is in UTC when the clocks of a zone show that; in a gap they go on as before it."""
    return at.replace(tzinfo=zone(name)).astimezone(UTC).replace(tzinfo=None)


def _last(at: datetime) -> bool:
    return at.day == calendar.monthrange(at.year, at.month)[1]


def months_between(end: datetime, start: datetime, rounded: bool) -> float:
    """Months, the rest of one as 31sts of it."""
    months = (end.year - start.year) * 12 + end.month - start.month
    if end.day == start.day or (_last(end) and _last(start)):
        return float(months)
    seconds: Callable[[datetime], int] = lambda at: at.hour * 3600 + at.minute * 60 + at.second  # noqa: E731
    apart = (end.day - start.day) * 86400 + seconds(end) - seconds(start)
    made = months + apart / (31 * 86400)
    return float(Decimal(repr(made)).quantize(Decimal("1e-8"), ROUND_HALF_UP)) if rounded else made


def months_apart(start: datetime, end: datetime) -> int:
    """Whole months from one time to another."""
    if start > end:
        return -months_apart_up(end, start, True)
    return months_apart_up(start, end, False)


def months_apart_up(start: datetime, end: datetime, backward: bool) -> int:
    """Whole months between two times that are in order."""
    months = (end.year - start.year) * 12 + end.month - start.month
    return months - ((end.day, end.time()) < (start.day, start.time()))


_LETTERS = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|([^A-Za-z'\[\]{}#])|(.)", re.S)


@functools.lru_cache(maxsize=256)
def _parts(pattern: str) -> list[tuple[str, str]]:
    """A pattern's parts: (letters, "") or ("", text)."""
    found = []
    for part in _LETTERS.finditer(pattern):
        if part[4]:
            raise ValueError(f"the pattern {pattern} holds what is not answered here: {part[4]!r}")
        if part[2]:
            found.append((part[0], ""))
        else:
            found.append(("", part[3] or part[1].replace("''", "'") or "'"))
    return found


def formatted(at: datetime, pattern: str) -> str:
    """A time by a pattern.

    Raises
    ------
    ValueError
        The pattern holds what is not answered here.
    """
    return "".join(text or _written(at, letters, pattern) for letters, text in _parts(pattern))


def _written(at: datetime, letters: str, pattern: str) -> str:
    letter, size = letters[0], len(letters)
    if letter == "y" and size in (1, 2, 4):
        return f"{at.year % 100:02}" if size == 2 else f"{at.year:0{size}}"
    if letter in "ML" and size <= 4:
        return MONTHS[at.month - 1][: 3 if size == 3 else None] if size > 2 else f"{at.month:0{size}}"
    if letter == "E" and size <= 4:
        return DAYS[at.weekday()][: 3 if size < 4 else None]
    if letter == "a" and size == 1:
        return "AM" if at.hour < 12 else "PM"
    if letter == "S" and size <= 9:
        return f"{at.microsecond:06}000"[:size]
    if letter in "Qq" and size in (1, 2):
        return f"{(at.month + 2) // 3:0{size}}"
    if letter == "D" and size in (1, 3):
        return f"{at.timetuple().tm_yday:0{size}}"
    hours = {"H": at.hour, "h": (at.hour - 1) % 12 + 1, "K": at.hour % 12, "k": at.hour or 24}
    numbers = hours | {"d": at.day, "m": at.minute, "s": at.second}
    if letter in numbers and size <= 2:
        return f"{numbers[letter]:0{size}}"
    if (letter, size) in (("X", 1), ("X", 3), ("z", 1), ("Z", 1), ("x", 3)):
        return {"X": "Z", "z": "UTC", "Z": "+0000", "x": "+00:00"}[letter]
    raise ValueError(f"the pattern {pattern} holds {letters}, which is not answered here")


@functools.lru_cache(maxsize=256)
def _reader(pattern: str) -> tuple[re.Pattern[str], list[str]]:
    made, names = "", []
    texts = {"MMM": "|".join(name[:3] for name in MONTHS), "MMMM": "|".join(MONTHS), "a": "AM|PM",
             "E": "|".join(name[:3] for name in DAYS), "EEE": "|".join(name[:3] for name in DAYS),
             "EEEE": "|".join(DAYS), "XXX": r"Z|[+-]\d\d:\d\d", "X": r"Z|[+-]\d\d(?:\d\d)?"}  # fmt: skip
    for letters, text in _parts(pattern):
        if text:
            made += re.escape(text)
            continue
        size = len(letters)
        if letters in texts:
            made += f"({texts[letters]})"
        elif letters in ("yyyy", "yy") or (letters[0] == "S" and size <= 9):
            made += rf"(\d{{{size}}})"
        elif letters[0] in "MdHhms" and size <= 2:
            made += r"(\d\d)" if size == 2 else r"(\d\d?)"
        else:
            raise ValueError(f"the pattern {pattern} holds {letters}, which is not answered here")
        names.append(letters)
    if len({name[0] for name in names}) < len(names) or ("h" in {n[0] for n in names}) != ("a" in names):
        raise ValueError(f"the pattern {pattern} is not answered here")
    return re.compile(made, re.ASCII), names


def parsed(text: str, pattern: str) -> datetime | None:
    """A time from a text by a pattern, in UTC; None if the text does not fit.

    Raises
    ------
    ValueError
        The pattern holds what is not answered here.
    """
    expression, names = _reader(pattern)
    found = expression.fullmatch(text)
    if not found:
        return None
    values = dict(zip((name[0] for name in names), found.groups(), strict=True))
    year = int(values.get("y", 1970))
    month = values.get("M", "1")
    month = int(month) if month.isdigit() else 1 + [name[:3] for name in MONTHS].index(month[:3])
    hour = int(values.get("H", 0))
    if "h" in values:
        if not 1 <= int(values["h"]) <= 12:
            return None
        hour = int(values["h"]) % 12 + 12 * (values["a"] == "PM")
    try:
        made = datetime(year + 2000 if "yy" in names else year, month, int(values.get("d", 1)), hour,
                        int(values.get("m", 0)), int(values.get("s", 0)),
                        int(values.get("S", "").ljust(6, "0")[:6]))  # fmt: skip
        if "E" in values and DAYS[made.weekday()][:3] != values["E"][:3]:
            return None
        at = values.get("X")
        return made if at is None else made.replace(tzinfo=zone(at)).astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None
