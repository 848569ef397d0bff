"""Functions of Spark that DuckDB has none like: in Python, and known to a connection of DuckDB."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import zlib
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal
from typing import Any
from urllib.parse import quote_plus, unquote_plus, urlsplit

import duckdb

from lakehouse_lib import spark_times

_WIDE = Context(prec=120)
FUNCTIONS: dict[str, tuple[Callable, list[str], str]] = {}
"""By name: the function, the types that it takes and the one that it gives."""


def _known(name: str, takes: str, gives: str) -> Callable[[Callable], Callable]:
    """Make a function known; nothing of nothing is nothing."""

    def note(function: Callable) -> Callable:
        @functools.wraps(function)
        def none_of_none(*given: Any) -> Any:
            return None if any(one is None for one in given) else function(*given)

        FUNCTIONS[name] = none_of_none, takes.split(", "), gives
        return function

    return note


def register(connection: duckdb.DuckDBPyConnection) -> None:
    """Make them known to a connection."""
    for name, (function, takes, gives) in FUNCTIONS.items():
        connection.create_function(name, function, takes, gives, null_handling="special")


# Texts -----------------------------------------------------------------------

_known("spark_upper", "VARCHAR", "VARCHAR")(str.upper)
_known("spark_lower", "VARCHAR", "VARCHAR")(str.lower)


@_known("spark_initcap", "VARCHAR", "VARCHAR")
def initcap(text: str) -> str:
    return " ".join(word[:1].title() + word[1:].lower() for word in text.split(" "))


@_known("spark_number", "VARCHAR", "VARCHAR")
def number(text: str) -> str:
    """A large or small number as Java writes it, from how others do: 1e+10 is 1.0E10."""
    if text in ("nan", "inf", "-inf"):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[text]
    sign, digits, power = Decimal(text).as_tuple()
    written = "".join(map(str, digits))
    power += len(written) - 1
    return f"{'-' * sign}{written[0]}.{written[1:].rstrip('0') or '0'}E{power}"


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

    def one(found: re.Match) -> str:
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
            made = made[: int(precision)] if precision and letter in "sS" else made
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
    if not re.fullmatch(r"[\w.~:/?#\[\]@!$&'()*+,;=%-]*", url, re.ASCII) or re.search(r"%(?![0-9a-fA-F]{2})", url):
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


# Regular expressions ---------------------------------------------------------

_END = r"(?=(?:\r\n|[\n\r\x85\u2028\u2029])?\Z)"
_TOKENS = re.compile(r"\\.|\[|\(\?|[\s\S]")


@functools.lru_cache(maxsize=256)
def _pattern(java: str) -> re.Pattern:
    """A pattern of Java as Python has it.

    Raises
    ------
    ValueError
        It holds something that means something else here.
    """
    made, at = "", 0
    while at < len(java):
        token, rest = java[at], java[at:]
        if token == "\\":
            found = re.match(r"\\([dDwWsSbBtnrf0-9A-z]|[^A-Za-z0-9])", rest, re.S)
            letter = rest[1:2]
            if letter == "Q" or not found or letter in "ceghijklmopquvxyzCEFGHIJKLMNOPRTUVXY0":
                raise ValueError(f"the pattern {java} holds {rest[:2]}, which is not answered here")
            made += {"\\Z": _END, "\\z": r"\Z"}.get(found[0], found[0])
            at += len(found[0])
        elif token == "[":
            end = re.match(r"\[\^?\]?(?:\\.|[^\\\[\]])*\]", rest, re.S)
            if not end or "&&" in end[0] or re.search(r"\\[^dDwWsStnrf\W]", end[0]) or end[0][1:2] == "]":
                raise ValueError(f"the pattern {java} holds a class that is not answered here")
            made += end[0]
            at += len(end[0])
        elif token == ".":
            made += r"[^\n\r\x85\u2028\u2029]"
            at += 1
        elif token == "$":
            made += _END
            at += 1
        elif token == "{":
            found = re.match(r"\{\d+(?:,\d*)?\}", rest)
            if not found or not made:
                raise ValueError(f"the pattern {java} holds a brace that is no repetition")
            made += found[0]
            at += len(found[0])
        elif rest.startswith("(?"):
            found = re.match(r"\(\?(?::|=|!|<=|<!|>|<[A-Za-z][A-Za-z0-9]*>|i\))", rest)
            if not found or (found[0] == "(?i)" and made):
                raise ValueError(f"the pattern {java} holds {rest[:4]}, which is not answered here")
            made += "(?P" + found[0][2:] if re.match(r"\(\?<[A-Za-z]", found[0]) else found[0]
            at += len(found[0])
        else:
            made += token
            at += 1
    try:
        return re.compile(made, re.ASCII)
    except re.error as error:
        raise ValueError(f"the pattern {java}: {error}") from None


@_known("spark_rlike", "VARCHAR, VARCHAR", "BOOLEAN")
def rlike(text: str, pattern: str) -> bool:
    return _pattern(pattern).search(text) is not None


@functools.lru_cache(maxsize=256)
def _replacement(java: str, groups: int) -> Callable[[re.Match], str]:
    parts = re.findall(r"\\[\s\S]|\$\d+|[\s\S]", java)
    made: list[str | int] = []
    for part in parts:
        if part in ("$", "\\"):
            raise ValueError(f"the replacement {java} is no replacement")
        if part[0] == "$":
            digits, rest = part[1:], ""
            while len(digits) > 1 and int(digits) > groups:
                digits, rest = digits[:-1], digits[-1] + rest
            if int(digits) > groups:
                raise ValueError(f"the replacement {java}: there is no group {digits}")
            made += [int(digits), rest]
        else:
            made.append(part[1:] if part[0] == "\\" else part)
    return lambda found: "".join(one if isinstance(one, str) else found[one] or "" for one in made)


@_known("spark_regexp_replace", "VARCHAR, VARCHAR, VARCHAR, INTEGER", "VARCHAR")
def regexp_replace(text: str, pattern: str, replacement: str, start: int) -> str:
    compiled = _pattern(pattern)
    if start < 1:
        raise ValueError("regexp_replace begins at 1 or later")
    return text[: start - 1] + compiled.sub(_replacement(replacement, compiled.groups), text[start - 1 :])


@_known("spark_regexp_extract", "VARCHAR, VARCHAR, INTEGER", "VARCHAR")
def regexp_extract(text: str, pattern: str, group: int) -> str:
    compiled = _pattern(pattern)
    if not 0 <= group <= compiled.groups:
        raise ValueError(f"the pattern {pattern} has no such group as {group}")
    found = compiled.search(text)
    return (found[group] or "") if found else ""


@_known("spark_regexp_extract_all", "VARCHAR, VARCHAR, INTEGER", "VARCHAR[]")
def regexp_extract_all(text: str, pattern: str, group: int) -> list[str]:
    compiled = _pattern(pattern)
    if not 0 <= group <= compiled.groups:
        raise ValueError(f"the pattern {pattern} has no such group as {group}")
    return [found[group] or "" for found in compiled.finditer(text)]


@_known("spark_regexp_count", "VARCHAR, VARCHAR", "INTEGER")
def regexp_count(text: str, pattern: str) -> int:
    return sum(1 for _ in _pattern(pattern).finditer(text))


@_known("spark_regexp_substr", "VARCHAR, VARCHAR", "VARCHAR")
def regexp_substr(text: str, pattern: str) -> str | None:
    found = _pattern(pattern).search(text)
    return found[0] or None if found else None


@_known("spark_regexp_instr", "VARCHAR, VARCHAR", "INTEGER")
def regexp_instr(text: str, pattern: str) -> int:
    found = _pattern(pattern).search(text)
    return found.start() + 1 if found else 0


@_known("spark_split", "VARCHAR, VARCHAR, INTEGER", "VARCHAR[]")
def split(text: str, pattern: str, limit: int) -> list[str]:
    """As Java splits with a limit of -1: what is empty at the end stays; a match of nothing at the start is none."""
    if not pattern:
        letters = list(text) or [""]
        return [*letters[: limit - 1], "".join(letters[limit - 1 :])] if 0 < limit <= len(text) else letters
    made, last = [], 0
    for found in _pattern(pattern).finditer(text):
        if 0 < limit <= len(made) + 1:
            break
        if found.end() == 0:
            continue
        made.append(text[last : found.start()])
        last = found.end()
    return [*made, text[last:]]


# JSON ------------------------------------------------------------------------


class _Raw(str):
    """A number as it stands in the text."""


def _no_word(word: str) -> None:
    raise ValueError(word)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise KeyError("a JSON object names a field twice")
    return made


def _double(text: str) -> _Raw:
    value = float(text)
    return _Raw(repr(value) if value == 0 or 0.001 <= abs(value) < 1e7 else number(repr(value)))


_decode = json.JSONDecoder(
    parse_float=_double, parse_int=_Raw, parse_constant=_no_word, object_pairs_hook=_object
).decode
_STEP = re.compile(r"\.([^.\[\]*'\"]+)|\[(\d+)\]|\['([^'*]+)'\]")


def _shown(value: Any) -> str:
    if isinstance(value, _Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{quote_json(key)}:{_shown(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_shown, value)) + "]"
    return quote_json(value) if isinstance(value, str) else {None: "null", True: "true", False: "false"}[value]


@_known("spark_quote_json", "VARCHAR", "VARCHAR")
def quote_json(text: str) -> str:
    return re.sub(r"\\u[0-9a-f]{4}", lambda found: found[0][:2] + found[0][2:].upper(),
                  json.dumps(text, ensure_ascii=False)).replace("\x7f", "\x7f")  # fmt: skip


@functools.lru_cache(maxsize=256)
def _steps(path: str) -> list[str | int] | None:
    if not path.startswith("$"):
        return None
    steps, at = [], 1
    while at < len(path):
        found = _STEP.match(path, at)
        if not found:
            raise ValueError(f"the path {path} is not answered here")
        steps.append(int(found[2]) if found[2] else found[1] or found[3])
        at = found.end()
    return steps


@_known("spark_json", "VARCHAR, VARCHAR", "VARCHAR")
def get_json_object(text: str, path: str) -> str | None:
    steps = _steps(path)
    if steps is None:
        return None
    try:
        value = _decode(text)
    except (ValueError, RecursionError):
        if re.match(r"\s*[\[{]", text) and not re.search(r"['\x00-\x1f]", text):
            return None
        return None
    for step in steps:
        if isinstance(step, int):
            if not isinstance(value, list) or step >= len(value):
                return None
        elif isinstance(value, list):
            raise ValueError(f"the path {path} goes into an array, which is not answered here")
        elif not isinstance(value, dict) or step not in value:
            return None
        value = value[step]
    return None if value is None else str(value) if isinstance(value, str) else _shown(value)


@_known("spark_json_length", "VARCHAR", "INTEGER")
def json_array_length(text: str) -> int | None:
    try:
        found = _decode(text)
    except (ValueError, RecursionError):
        return None
    return len(found) if isinstance(found, list) else None


@_known("spark_json_keys", "VARCHAR", "VARCHAR[]")
def json_object_keys(text: str) -> list[str] | None:
    try:
        found = _decode(text)
    except (ValueError, RecursionError):
        return None
    return list(found) if isinstance(found, dict) else None


@_known("spark_json_field", "VARCHAR, VARCHAR, VARCHAR", "VARCHAR")
def json_field(text: str, name: str, kind: str) -> str | None:
    """A field for from_json: text that casts to its kind, or nothing."""
    try:
        found = _decode(text)
    except (ValueError, RecursionError):
        return None
    value = found.get(name) if isinstance(found, dict) else None
    if value is None:
        return None
    if kind == "string":
        return str(value) if isinstance(value, str) else _shown(value)
    if kind == "boolean":
        return str(value).lower() if isinstance(value, bool) else None
    if not isinstance(value, _Raw) or (kind != "double" and not re.fullmatch(r"-?\d+", value)):
        return None
    low = {"int": 31, "bigint": 63}.get(kind)
    return str(value) if low is None or -(2**low) <= int(value) < 2**low else None


# Times -----------------------------------------------------------------------

_known("spark_timestamp", "VARCHAR", "TIMESTAMP")(spark_times.timestamp)
_known("spark_date_format", "TIMESTAMP, VARCHAR", "VARCHAR")(spark_times.formatted)
_known("spark_parsed", "VARCHAR, VARCHAR", "TIMESTAMP")(spark_times.parsed)
_known("spark_from_utc", "TIMESTAMP, VARCHAR", "TIMESTAMP")(spark_times.from_utc)
_known("spark_to_utc", "TIMESTAMP, VARCHAR", "TIMESTAMP")(spark_times.to_utc)
_known("spark_months_between", "TIMESTAMP, TIMESTAMP, BOOLEAN", "DOUBLE")(spark_times.months_between)
_known("spark_months_apart", "TIMESTAMP, TIMESTAMP", "BIGINT")(spark_times.months_apart)


@_known("spark_next_day", "DATE, VARCHAR", "DATE")
def next_day(day: date, name: str) -> date:
    names = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
    full = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")
    name = name.upper()
    found = [n for n, (a, b) in enumerate(zip(names, full, strict=True)) if name in (a, b[:3], b)]
    if not found:
        raise ValueError(f"{name} is no day of the week")
    return day + timedelta(days=(found[0] - day.weekday() - 1) % 7 + 1)


def moment(value: date | datetime) -> datetime:
    """A date as its midnight."""
    return value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
