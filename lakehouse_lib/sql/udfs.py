"""Functions of Spark that DuckDB has none like: in Python, and known to a connection of DuckDB."""

from __future__ import annotations

import functools
import hashlib
import re
import zlib
from collections.abc import Callable
from datetime import date, timedelta
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal
from typing import Any
from urllib.parse import quote_plus, unquote_plus, urlsplit

import duckdb

from lakehouse_lib.sql import json_text, regex, times

_WIDE = Context(prec=120)
FUNCTIONS: dict[str, tuple[Callable[..., Any], list[str], str]] = {}
"""By name: the function, the types that it takes and the one that it gives."""


def _known(name: str, takes: str, gives: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function known; nothing of nothing is nothing."""

    def note(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def none_of_none(*given: Any) -> Any:
            return None if any(one is None for one in given) else function(*given)

        FUNCTIONS[name] = none_of_none, takes.split(", "), gives
        return function

    return note


def register(connection: duckdb.DuckDBPyConnection) -> None:
    """Make them known to a connection."""
    for name, (function, takes, gives) in FUNCTIONS.items():
        connection.create_function(name, function, takes, gives, null_handling="special")  # type: ignore[call-overload]


# Texts -----------------------------------------------------------------------

_known("spark_upper", "VARCHAR", "VARCHAR")(str.upper)
_known("spark_lower", "VARCHAR", "VARCHAR")(str.lower)


@_known("spark_initcap", "VARCHAR", "VARCHAR")
def initcap(text: str) -> str:
    return " ".join(word[:1].title() + word[1:].lower() for word in text.split(" "))


@_known("spark_levenshtein", "VARCHAR, VARCHAR", "INTEGER")
def levenshtein(one: str, other: str) -> int:
    before = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
        before = row
    return before[-1]


@_known("spark_soundex", "VARCHAR", "VARCHAR")
def soundex(text: str) -> str:
    if not text.isascii():
        raise ValueError("soundex of other letters than those of ASCII is not answered here")
    codes = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "01230127022455012623010202", strict=True))
    if not text or not ("A" <= text[0].upper() <= "Z") or not text[0].isascii():
        return text
    made, last = text[0].upper(), codes[text[0].upper()]
    for letter in text[1:].upper():
        code = codes.get(letter, "0") if letter.isascii() else "0"
        if letter in "HW":
            continue
        if code != "0" and code != last:
            made += code
            if len(made) == 4:
                break
        last = code
    return made.ljust(4, "0")


@_known("spark_translate", "VARCHAR, VARCHAR, VARCHAR", "VARCHAR")
def translate(text: str, old: str, new: str) -> str:
    table: dict[str, str] = {}
    for place, letter in enumerate(old):
        table.setdefault(letter, new[place] if place < len(new) else "")
    return "".join(table.get(letter, letter) for letter in text)


@_known("spark_substring_index", "VARCHAR, VARCHAR, INTEGER", "VARCHAR")
def substring_index(text: str, delimiter: str, count: int) -> str:
    if abs(count) > 10**9:
        raise ValueError(f"{count} parts")
    if not delimiter or not count:
        return ""
    parts = text.split(delimiter) if count > 0 else text.rsplit(delimiter, -count)
    return delimiter.join(parts[:count] if count > 0 else parts[-min(-count, len(parts)) :])


@_known("spark_conv", "VARCHAR, INTEGER, INTEGER", "VARCHAR")
def conv(text: str, old: int, new: int) -> str | None:
    if not (2 <= old <= 36 and 2 <= abs(new) <= 36) or not (text := text.strip()):
        return None
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    negative, body, value = text[0] == "-", text.lstrip("-").upper(), 0
    for letter in body:
        place = digits.find(letter)
        if not 0 <= place < old:
            break
        value = value * old + place
    if value >= 2**64:
        raise ValueError(f"{text} is too large for conv")
    if negative:
        value = -value if new < 0 else (2**64 - value) % 2**64
    elif new < 0 and value >= 2**63:
        value -= 2**64
    sign, value, made = "-" * (value < 0), abs(value), ""
    while value or not made:
        value, rest = divmod(value, abs(new))
        made = digits[rest] + made
    return sign + made


@_known("spark_format_number", "VARCHAR, INTEGER", "VARCHAR")
def format_number(value: str, places: int) -> str | None:
    if places < 0:
        return None
    if places > 100:
        raise ValueError(f"{places} places")
    if value in ("nan", "inf", "-inf"):
        return {"nan": "NaN", "inf": "∞", "-inf": "-∞"}[value]
    exact = Decimal(value).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN, _WIDE)
    return f"{exact:,.{places}f}"


_DIRECTIVE = re.compile(r"%(?:(\d+)\$)?([-+ 0,#(]*)(\d+)?(?:\.(\d+))?([a-zA-Z%])")


@_known("spark_printf", "VARCHAR, VARCHAR[], VARCHAR", "VARCHAR")
def printf(pattern: str, values: list[str | None], kinds: str) -> str:
    """As Java's String.format; ``kinds`` has a letter for each value: d, f or s."""
    place = 0

    def one(found: re.Match[str]) -> str:
        nonlocal place
        index, flags, width, precision, letter = found.groups()
        if letter in "%n" and not flags and not width:
            return "%" if letter == "%" else "\n"
        if index is None:
            place += 1
        at = int(index or place) - 1
        value, kind = values[at], kinds[at]
        if letter not in "sSdfxX" or set(flags) & set("#( ") or (letter in "dxX" and (kind != "d" or precision)):
            raise ValueError(f"{found[0]} is not answered here")
        if letter == "f" and kind != "f":
            raise ValueError(f"{found[0]} wants a number with a fraction")
        left, flags = "-" in flags, flags.replace("-", "")
        if value is None or letter in "sS":
            made = "null" if value is None else value
            made = made[: int(precision)] if precision else made
            made, flags = made.upper() if letter == "S" else made, ""
        elif letter == "d":
            made = f"{int(value):{flags.replace('0', '')}}"
        elif letter == "f":
            exact = Decimal(value).quantize(Decimal(1).scaleb(-int(precision or 6)), ROUND_HALF_UP, _WIDE)
            made = f"{exact:{flags.replace('0', '')}.{int(precision or 6)}f}"
        else:
            made = f"{int(value) if int(value) >= 0 else int(value) + 2**64:{letter}}"
        size = int(width or 0)
        size -= len(made.encode("utf-16-le")) // 2 - len(made)  # Java counts so
        return made.ljust(size) if left else made.zfill(size) if "0" in flags else made.rjust(size)

    made = _DIRECTIVE.sub(one, pattern)
    if "%" in _DIRECTIVE.sub("", pattern):
        raise ValueError(f"{pattern} is no format")
    return made


@_known("spark_url_encode", "VARCHAR", "VARCHAR")
def url_encode(text: str) -> str:
    return quote_plus(text, safe="*").replace("~", "%7E")


@_known("spark_url_decode", "VARCHAR", "VARCHAR")
def url_decode(text: str) -> str:
    if re.search(r"%(?![0-9a-fA-F]{2})", text):
        raise ValueError(f"{text} is no encoded URL")
    return unquote_plus(text)


@_known("spark_parse_url", "VARCHAR, VARCHAR, VARCHAR", "VARCHAR")
def parse_url(url: str, part: str, key: str) -> str | None:
    if (
        not re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", url)
        or not re.fullmatch(r"[\w.~:/?#\[\]@!$&'()*+,;=%-]*", url, re.ASCII)
        or re.search(r"%(?![0-9a-fA-F]{2})", url)
    ):
        raise ValueError(f"{url} is no URL")
    found = urlsplit(url)
    query = found.query if "?" in url else None
    if part == "QUERY" and key:
        values = re.findall(f"(?:^|&){re.escape(key)}=([^&]*)", query or "")
        return values[0] if values else None
    name, _, server = found.netloc.rpartition("@")
    parts = {"PROTOCOL": found.scheme or None, "HOST": re.sub(r":\d*$", "", server) or None, "PATH": found.path,
             "QUERY": query, "REF": found.fragment if "#" in url else None, "AUTHORITY": found.netloc or None,
             "USERINFO": name or None, "FILE": found.path + (f"?{query}" if query is not None else "")}  # fmt: skip
    return parts.get(part)


# Numbers ---------------------------------------------------------------------


@_known("spark_decimal", "VARCHAR, VARCHAR, VARCHAR, INTEGER", "VARCHAR")
def exact(sign: str, one: str, other: str, scale: int) -> str:
    """An operation of decimals, rounded half up at the end."""
    a, b = Decimal(one), Decimal(other)
    if sign in ("/", "%", "div") and not b:
        raise ZeroDivisionError("Division by zero")
    if sign in ("%", "div"):
        whole = _WIDE.divide_int(a, b)
        made = whole if sign == "div" else _WIDE.subtract(a, _WIDE.multiply(b, whole))
    else:
        made = {"/": _WIDE.divide, "*": _WIDE.multiply, "+": _WIDE.add, "-": _WIDE.subtract}[sign](a, b)
    return format(made.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP, _WIDE), "f")


@_known("spark_round", "DOUBLE, INTEGER, BOOLEAN", "DOUBLE")
def rounded(value: float, places: int, even: bool) -> float:
    """By the digits that the number is written with."""
    if value != value or value in (float("inf"), float("-inf")):
        return value
    how = ROUND_HALF_EVEN if even else ROUND_HALF_UP
    return float(Decimal(repr(value)).quantize(Decimal(1).scaleb(-places), how, Context(prec=800)))


@_known("spark_round_float", "FLOAT, INTEGER, BOOLEAN", "FLOAT")
def rounded_float(value: float, places: int, even: bool) -> float:
    raise ValueError("round of a FLOAT is not answered here; make it a DOUBLE")


@_known("spark_round_whole", "HUGEINT, INTEGER, BOOLEAN", "HUGEINT")
def rounded_whole(value: int, places: int, even: bool) -> int:
    how = ROUND_HALF_EVEN if even else ROUND_HALF_UP
    return int(Decimal(value).quantize(Decimal(1).scaleb(-min(places, 0)), how, _WIDE))


@_known("spark_round_decimal", "VARCHAR, INTEGER, VARCHAR", "VARCHAR")
def rounded_decimal(value: str, places: int, how: str) -> str:
    return format(Decimal(value).quantize(Decimal(1).scaleb(-places), f"ROUND_{how}", _WIDE), "f")


# Digests ---------------------------------------------------------------------


@_known("spark_sha2", "BLOB, INTEGER", "VARCHAR")
def sha2(data: bytes, bits: int) -> str | None:
    if bits not in (0, 224, 256, 384, 512):
        return None
    return hashlib.new(f"sha{bits or 256}", data).hexdigest()


_known("spark_crc32", "BLOB", "BIGINT")(lambda data: zlib.crc32(data))


def _mixed(seed: int, word: int) -> int:
    word = word * 0xCC9E2D51 & 0xFFFFFFFF
    word = (word << 15 | word >> 17) & 0xFFFFFFFF
    seed ^= word * 0x1B873593 & 0xFFFFFFFF
    seed = (seed << 13 | seed >> 19) & 0xFFFFFFFF
    return seed * 5 + 0xE6546B64 & 0xFFFFFFFF


def _ended(seed: int, length: int) -> int:
    seed ^= length
    seed = (seed ^ seed >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    seed = (seed ^ seed >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    seed ^= seed >> 16
    return seed - 2**32 if seed >= 2**31 else seed


@_known("spark_hash_int", "INTEGER, INTEGER", "INTEGER")
def hash_int(value: int, seed: int) -> int:
    return _ended(_mixed(seed & 0xFFFFFFFF, value & 0xFFFFFFFF), 4)


@_known("spark_hash_long", "BIGINT, INTEGER", "INTEGER")
def hash_long(value: int, seed: int) -> int:
    low = _mixed(seed & 0xFFFFFFFF, value & 0xFFFFFFFF)
    return _ended(_mixed(low, value >> 32 & 0xFFFFFFFF), 8)


@_known("spark_hash_bytes", "BLOB, INTEGER", "INTEGER")
def hash_bytes(value: bytes, seed: int) -> int:
    """Murmur 3, as Spark has it: bytes behind the last whole word one by one."""
    seed, whole = seed & 0xFFFFFFFF, len(value) // 4 * 4
    for at in range(0, whole, 4):
        seed = _mixed(seed, int.from_bytes(value[at : at + 4], "little"))
    for one in value[whole:]:
        seed = _mixed(seed, (one - 256 if one > 127 else one) & 0xFFFFFFFF)
    return _ended(seed, len(value))


# Regular expressions, JSON ---------------------------------------------------

_known("spark_rlike", "VARCHAR, VARCHAR", "BOOLEAN")(regex.rlike)
_known("spark_regexp_replace", "VARCHAR, VARCHAR, VARCHAR, INTEGER", "VARCHAR")(regex.regexp_replace)
_known("spark_regexp_extract", "VARCHAR, VARCHAR, INTEGER", "VARCHAR")(regex.regexp_extract)
_known("spark_regexp_extract_all", "VARCHAR, VARCHAR, INTEGER", "VARCHAR[]")(regex.regexp_extract_all)
_known("spark_regexp_count", "VARCHAR, VARCHAR", "INTEGER")(regex.regexp_count)
_known("spark_regexp_substr", "VARCHAR, VARCHAR", "VARCHAR")(regex.regexp_substr)
_known("spark_regexp_instr", "VARCHAR, VARCHAR", "INTEGER")(regex.regexp_instr)
_known("spark_split", "VARCHAR, VARCHAR, INTEGER", "VARCHAR[]")(regex.split)
_known("spark_number", "VARCHAR", "VARCHAR")(json_text.number)
_known("spark_quote_json", "VARCHAR", "VARCHAR")(json_text.quote_json)
_known("spark_json", "VARCHAR, VARCHAR", "VARCHAR")(json_text.get_json_object)
_known("spark_json_length", "VARCHAR", "INTEGER")(json_text.json_array_length)
_known("spark_json_keys", "VARCHAR", "VARCHAR[]")(json_text.json_object_keys)
_known("spark_json_field", "VARCHAR, VARCHAR, VARCHAR", "VARCHAR")(json_text.json_field)


# Times -----------------------------------------------------------------------

_known("spark_timestamp", "VARCHAR", "TIMESTAMP")(times.timestamp)
_known("spark_date_format", "TIMESTAMP, VARCHAR", "VARCHAR")(times.formatted)
_known("spark_parsed", "VARCHAR, VARCHAR", "TIMESTAMP")(times.parsed)
_known("spark_from_utc", "TIMESTAMP, VARCHAR", "TIMESTAMP")(times.from_utc)
_known("spark_to_utc", "TIMESTAMP, VARCHAR", "TIMESTAMP")(times.to_utc)
_known("spark_months_between", "TIMESTAMP, TIMESTAMP, BOOLEAN", "DOUBLE")(times.months_between)
_known("spark_months_apart", "TIMESTAMP, TIMESTAMP", "BIGINT")(times.months_apart)


@_known("spark_next_day", "DATE, VARCHAR", "DATE")
def next_day(day: date, name: str) -> date:
    names = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
    full = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")
    name = name.upper()
    found = [n for n, (a, b) in enumerate(zip(names, full, strict=True)) if name in (a, b[:3], b)]
    if not found:
        raise ValueError(f"{name} is no day of the week")
    return day + timedelta(days=(found[0] - day.weekday() - 1) % 7 + 1)
