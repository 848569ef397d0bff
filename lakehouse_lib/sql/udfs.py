"""Spark functions without a DuckDB equivalent: written in Python and registered with a DuckDB connection."""

from __future__ import annotations

import functools
import hashlib
import re
import zlib
from collections.abc import Callable, Collection
from datetime import date, timedelta
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal
from typing import Any
from urllib.parse import quote_plus, unquote_plus, urlsplit

import duckdb

from lakehouse_lib.sql import json_text, regex, times

_WIDE = Context(prec=120)
FUNCTIONS: dict[str, tuple[Callable[..., Any], list[str], str]] = {}
"""By name: the function, its parameter types and its return type."""


def _udf(name: str, takes: str, gives: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add a function to `FUNCTIONS`; it returns NULL if any argument is NULL."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def null_propagating(*args: Any) -> Any:
            return None if any(arg is None for arg in args) else function(*args)

        FUNCTIONS[name] = null_propagating, takes.split(", "), gives
        return function

    return decorate


def register(connection: duckdb.DuckDBPyConnection, names: Collection[str]) -> None:
    """Register the functions with these names with a connection."""
    for name in FUNCTIONS.keys() & names:
        function, takes, gives = FUNCTIONS[name]
        connection.create_function(name, function, takes, gives, null_handling="special")  # type: ignore[call-overload]


# Texts -----------------------------------------------------------------------

_udf("spark_upper", "VARCHAR", "VARCHAR")(str.upper)
_udf("spark_lower", "VARCHAR", "VARCHAR")(str.lower)


@_udf("spark_initcap", "VARCHAR", "VARCHAR")
def initcap(text: str) -> str:
    return " ".join(word[:1].title() + word[1:].lower() for word in text.split(" "))


@_udf("spark_levenshtein", "VARCHAR, VARCHAR", "INTEGER")
def levenshtein(left: str, right: str) -> int:
    previous = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        row = [i]
        for j, b in enumerate(right, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (a != b)))
        previous = row
    return previous[-1]


@_udf("spark_soundex", "VARCHAR", "VARCHAR")
def soundex(text: str) -> str:
    if not text.isascii():
        raise ValueError("soundex of letters outside ASCII is not supported")
    codes = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "01230127022455012623010202", strict=True))
    if not text or not ("A" <= text[0].upper() <= "Z") or not text[0].isascii():
        return text
    result, last = text[0].upper(), codes[text[0].upper()]
    for letter in text[1:].upper():
        code = codes.get(letter, "0") if letter.isascii() else "0"
        if letter in "HW":
            continue
        if code != "0" and code != last:
            result += code
            if len(result) == 4:
                break
        last = code
    return result.ljust(4, "0")


@_udf("spark_translate", "VARCHAR, VARCHAR, VARCHAR", "VARCHAR")
def translate(text: str, old: str, new: str) -> str:
    table: dict[str, str] = {}
    for place, letter in enumerate(old):
        table.setdefault(letter, new[place] if place < len(new) else "")
    return "".join(table.get(letter, letter) for letter in text)


@_udf("spark_substring_index", "VARCHAR, VARCHAR, INTEGER", "VARCHAR")
def substring_index(text: str, delimiter: str, count: int) -> str:
    if abs(count) > 10**9:
        raise ValueError(f"{count} parts are too many")
    if not delimiter or not count:
        return ""
    parts = text.split(delimiter) if count > 0 else text.rsplit(delimiter, -count)
    return delimiter.join(parts[:count] if count > 0 else parts[-min(-count, len(parts)) :])


@_udf("spark_conv", "VARCHAR, INTEGER, INTEGER", "VARCHAR")
def conv(text: str, old: int, new: int) -> str | None:
    if not (2 <= old <= 36 and 2 <= abs(new) <= 36) or not (text := text.strip()):
        return None
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    negative, body, value = text[0] == "-", text.lstrip("-").upper(), 0
    for letter in body:
        digit = digits.find(letter)
        if not 0 <= digit < old:
            break
        value = value * old + digit
    if value >= 2**64:
        raise ValueError(f"{text} is too large for conv")
    if negative:
        value = -value if new < 0 else (2**64 - value) % 2**64
    elif new < 0 and value >= 2**63:
        value -= 2**64
    sign, value, result = "-" * (value < 0), abs(value), ""
    while value or not result:
        value, remainder = divmod(value, abs(new))
        result = digits[remainder] + result
    return sign + result


@_udf("spark_format_number", "VARCHAR, INTEGER", "VARCHAR")
def format_number(value: str, places: int) -> str | None:
    if places < 0:
        return None
    if places > 100:
        raise ValueError(f"{places} places are too many")
    if value in ("nan", "inf", "-inf"):
        return {"nan": "NaN", "inf": "∞", "-inf": "-∞"}[value]
    exact = Decimal(value).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN, _WIDE)
    return f"{exact:,.{places}f}"


_DIRECTIVE = re.compile(r"%(?:(\d+)\$)?([-+ 0,#(]*)(\d+)?(?:\.(\d+))?([a-zA-Z%])")


@_udf("spark_printf", "VARCHAR, VARCHAR[], VARCHAR", "VARCHAR")
def printf(pattern: str, values: list[str | None], kinds: str) -> str:
    """Format like Java's String.format; ``kinds`` has a letter for each value: d, f or s."""
    place = 0

    def directive(match: re.Match[str]) -> str:
        nonlocal place
        index, flags, width, precision, letter = match.groups()
        if letter in "%n" and not flags and not width:
            return "%" if letter == "%" else "\n"
        if index is None:
            place += 1
        position = int(index or place) - 1
        value, kind = values[position], kinds[position]
        if letter not in "sSdfxX" or set(flags) & set("#( ") or (letter in "dxX" and (kind != "d" or precision)):
            raise ValueError(f"{match[0]} is not supported")
        if letter == "f" and kind != "f":
            raise ValueError(f"{match[0]} requires a number with a fraction")
        left, flags = "-" in flags, flags.replace("-", "")
        if value is None or letter in "sS":
            text = "null" if value is None else value
            text = text[: int(precision)] if precision else text
            text, flags = text.upper() if letter == "S" else text, ""
        elif letter == "d":
            text = f"{int(value):{flags.replace('0', '')}}"
        elif letter == "f":
            exact = Decimal(value).quantize(Decimal(1).scaleb(-int(precision or 6)), ROUND_HALF_UP, _WIDE)
            text = f"{exact:{flags.replace('0', '')}.{int(precision or 6)}f}"
        else:
            text = f"{int(value) if int(value) >= 0 else int(value) + 2**64:{letter}}"
        size = int(width or 0)
        size -= len(text.encode("utf-16-le")) // 2 - len(text)  # Java counts UTF-16 units
        return text.ljust(size) if left else text.zfill(size) if "0" in flags else text.rjust(size)

    text = _DIRECTIVE.sub(directive, pattern)
    if "%" in _DIRECTIVE.sub("", pattern):
        raise ValueError(f"{pattern} is not a format")
    return text


@_udf("spark_url_encode", "VARCHAR", "VARCHAR")
def url_encode(text: str) -> str:
    return quote_plus(text, safe="*").replace("~", "%7E")


@_udf("spark_url_decode", "VARCHAR", "VARCHAR")
def url_decode(text: str) -> str:
    if re.search(r"%(?![0-9a-fA-F]{2})", text):
        raise ValueError(f"{text} is not an encoded URL")
    return unquote_plus(text)


@_udf("spark_parse_url", "VARCHAR, VARCHAR, VARCHAR", "VARCHAR")
def parse_url(url: str, part: str, key: str) -> str | None:
    if (
        not re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", url)
        or not re.fullmatch(r"[\w.~:/?#\[\]@!$&'()*+,;=%-]*", url, re.ASCII)
        or re.search(r"%(?![0-9a-fA-F]{2})", url)
    ):
        raise ValueError(f"{url} is not a URL")
    parsed = urlsplit(url)
    query = parsed.query if "?" in url else None
    if part == "QUERY" and key:
        values = re.findall(f"(?:^|&){re.escape(key)}=([^&]*)", query or "")
        return values[0] if values else None
    name, _, server = parsed.netloc.rpartition("@")
    parts = {"PROTOCOL": parsed.scheme or None, "HOST": re.sub(r":\d*$", "", server) or None, "PATH": parsed.path,
             "QUERY": query, "REF": parsed.fragment if "#" in url else None, "AUTHORITY": parsed.netloc or None,
             "USERINFO": name or None, "FILE": parsed.path + (f"?{query}" if query is not None else "")}  # fmt: skip
    return parts.get(part)


# Numbers ---------------------------------------------------------------------


@_udf("spark_decimal", "VARCHAR, VARCHAR, VARCHAR, INTEGER", "VARCHAR")
def exact(sign: str, left: str, right: str, scale: int) -> str:
    """Return an operation on decimals; the result is rounded half up."""
    a, b = Decimal(left), Decimal(right)
    if sign in ("/", "%", "div") and not b:
        raise ZeroDivisionError("Division by zero")
    if sign in ("%", "div"):
        whole = _WIDE.divide_int(a, b)
        result = whole if sign == "div" else _WIDE.subtract(a, _WIDE.multiply(b, whole))
    else:
        result = {"/": _WIDE.divide, "*": _WIDE.multiply, "+": _WIDE.add, "-": _WIDE.subtract}[sign](a, b)
    return format(result.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP, _WIDE), "f")


@_udf("spark_round", "DOUBLE, INTEGER, BOOLEAN", "DOUBLE")
def rounded(value: float, places: int, even: bool) -> float:
    """Round by the decimal digits of the number's shortest representation."""
    if value != value or value in (float("inf"), float("-inf")):
        return value
    rounding = ROUND_HALF_EVEN if even else ROUND_HALF_UP
    return float(Decimal(repr(value)).quantize(Decimal(1).scaleb(-places), rounding, Context(prec=800)))


@_udf("spark_round_float", "FLOAT, INTEGER, BOOLEAN", "FLOAT")
def rounded_float(value: float, places: int, even: bool) -> float:
    raise ValueError("round of a FLOAT is not supported; cast it to DOUBLE")


@_udf("spark_round_whole", "HUGEINT, INTEGER, BOOLEAN", "HUGEINT")
def rounded_whole(value: int, places: int, even: bool) -> int:
    rounding = ROUND_HALF_EVEN if even else ROUND_HALF_UP
    return int(Decimal(value).quantize(Decimal(1).scaleb(-min(places, 0)), rounding, _WIDE))


@_udf("spark_round_decimal", "VARCHAR, INTEGER, VARCHAR", "VARCHAR")
def rounded_decimal(value: str, places: int, rounding: str) -> str:
    return format(Decimal(value).quantize(Decimal(1).scaleb(-places), f"ROUND_{rounding}", _WIDE), "f")


# Digests ---------------------------------------------------------------------


@_udf("spark_sha2", "BLOB, INTEGER", "VARCHAR")
def sha2(data: bytes, bits: int) -> str | None:
    if bits not in (0, 224, 256, 384, 512):
        return None
    return hashlib.new(f"sha{bits or 256}", data).hexdigest()


_udf("spark_crc32", "BLOB", "BIGINT")(lambda data: zlib.crc32(data))


def _mix(seed: int, word: int) -> int:
    word = word * 0xCC9E2D51 & 0xFFFFFFFF
    word = (word << 15 | word >> 17) & 0xFFFFFFFF
    seed ^= word * 0x1B873593 & 0xFFFFFFFF
    seed = (seed << 13 | seed >> 19) & 0xFFFFFFFF
    return seed * 5 + 0xE6546B64 & 0xFFFFFFFF


def _finish(seed: int, length: int) -> int:
    seed ^= length
    seed = (seed ^ seed >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    seed = (seed ^ seed >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    seed ^= seed >> 16
    return seed - 2**32 if seed >= 2**31 else seed


@_udf("spark_hash_int", "INTEGER, INTEGER", "INTEGER")
def hash_int(value: int, seed: int) -> int:
    return _finish(_mix(seed & 0xFFFFFFFF, value & 0xFFFFFFFF), 4)


@_udf("spark_hash_long", "BIGINT, INTEGER", "INTEGER")
def hash_long(value: int, seed: int) -> int:
    low = _mix(seed & 0xFFFFFFFF, value & 0xFFFFFFFF)
    return _finish(_mix(low, value >> 32 & 0xFFFFFFFF), 8)


@_udf("spark_hash_bytes", "BLOB, INTEGER", "INTEGER")
def hash_bytes(value: bytes, seed: int) -> int:
    """Murmur 3 as in Spark: the bytes after the last whole word are mixed in one by one."""
    seed, whole = seed & 0xFFFFFFFF, len(value) // 4 * 4
    for offset in range(0, whole, 4):
        seed = _mix(seed, int.from_bytes(value[offset : offset + 4], "little"))
    for byte in value[whole:]:
        seed = _mix(seed, (byte - 256 if byte > 127 else byte) & 0xFFFFFFFF)
    return _finish(seed, len(value))


# Regular expressions, JSON ---------------------------------------------------

_udf("spark_rlike", "VARCHAR, VARCHAR", "BOOLEAN")(regex.rlike)
_udf("spark_regexp_replace", "VARCHAR, VARCHAR, VARCHAR, INTEGER", "VARCHAR")(regex.regexp_replace)
_udf("spark_regexp_extract", "VARCHAR, VARCHAR, INTEGER", "VARCHAR")(regex.regexp_extract)
_udf("spark_regexp_extract_all", "VARCHAR, VARCHAR, INTEGER", "VARCHAR[]")(regex.regexp_extract_all)
_udf("spark_regexp_count", "VARCHAR, VARCHAR", "INTEGER")(regex.regexp_count)
_udf("spark_regexp_substr", "VARCHAR, VARCHAR", "VARCHAR")(regex.regexp_substr)
_udf("spark_regexp_instr", "VARCHAR, VARCHAR", "INTEGER")(regex.regexp_instr)
_udf("spark_split", "VARCHAR, VARCHAR, INTEGER", "VARCHAR[]")(regex.split)
_udf("spark_number", "VARCHAR", "VARCHAR")(json_text.number)
_udf("spark_quote_json", "VARCHAR", "VARCHAR")(json_text.quote_json)
_udf("spark_json", "VARCHAR, VARCHAR", "VARCHAR")(json_text.get_json_object)
_udf("spark_json_length", "VARCHAR", "INTEGER")(json_text.json_array_length)
_udf("spark_json_keys", "VARCHAR", "VARCHAR[]")(json_text.json_object_keys)
_udf("spark_json_field", "VARCHAR, VARCHAR, VARCHAR", "VARCHAR")(json_text.json_field)


# Times -----------------------------------------------------------------------

_udf("spark_timestamp", "VARCHAR", "TIMESTAMP")(times.timestamp)
_udf("spark_date_format", "TIMESTAMP, VARCHAR", "VARCHAR")(times.formatted)
_udf("spark_parsed", "VARCHAR, VARCHAR", "TIMESTAMP")(times.parsed)
_udf("spark_from_utc", "TIMESTAMP, VARCHAR", "TIMESTAMP")(times.from_utc)
_udf("spark_to_utc", "TIMESTAMP, VARCHAR", "TIMESTAMP")(times.to_utc)
_udf("spark_months_between", "TIMESTAMP, TIMESTAMP, BOOLEAN", "DOUBLE")(times.months_between)
_udf("spark_months_apart", "TIMESTAMP, TIMESTAMP", "BIGINT")(times.months_apart)


@_udf("spark_next_day", "DATE, VARCHAR", "DATE")
def next_day(day: date, name: str) -> date:
    names = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
    full = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")
    name = name.upper()
    matches = [n for n, (a, b) in enumerate(zip(names, full, strict=True)) if name in (a, b[:3], b)]
    if not matches:
        raise ValueError(f"{name} is not a day of the week")
    return day + timedelta(days=(matches[0] - day.weekday() - 1) % 7 + 1)
