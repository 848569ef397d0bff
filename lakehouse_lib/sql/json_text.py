"""JSON as Spark reads and writes it, with numbers formatted as in Java."""

from __future__ import annotations

import functools
import json
import re
from decimal import Decimal
from typing import Any, cast


def number(text: str) -> str:
    """Return a large or small number as Java formats it, from the usual notation: 1e+10 becomes 1.0E10."""
    if text in ("nan", "inf", "-inf"):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[text]
    sign, digits, power = Decimal(text).as_tuple()
    written = "".join(map(str, digits))
    power = cast("int", power) + len(written) - 1
    return f"{'-' * sign}{written[0]}.{written[1:].rstrip('0') or '0'}E{power}"


class _Raw(str):
    """The text of a JSON number, as opposed to a JSON string."""


def _reject_constant(word: str) -> None:
    raise ValueError(word)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise KeyError("a JSON object names a field twice")
    return result


def _double(text: str) -> _Raw:
    value = float(text)
    return _Raw(repr(value) if value == 0 or 0.001 <= abs(value) < 1e7 else number(repr(value)))


_decode = json.JSONDecoder(
    parse_float=_double, parse_int=_Raw, parse_constant=_reject_constant, object_pairs_hook=_object
).decode
_STEP = re.compile(r"\.([^.\[\]*'\"]+)|\[(\d+)\]|\['([^'*]+)'\]")


def _dump(value: Any) -> str:
    if isinstance(value, _Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{quote_json(key)}:{_dump(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_dump, value)) + "]"
    return quote_json(value) if isinstance(value, str) else {None: "null", True: "true", False: "false"}[value]


def quote_json(text: str) -> str:
    return re.sub(
        r"\\u[0-9a-f]{4}", lambda match: match[0][:2] + match[0][2:].upper(), json.dumps(text, ensure_ascii=False)
    )


@functools.lru_cache(maxsize=256)
def _steps(path: str) -> list[str | int] | None:
    if not path.startswith("$"):
        return None
    steps, position = [], 1
    while position < len(path):
        match = _STEP.match(path, position)
        if not match:
            raise ValueError(f"the path {path} is not supported")
        steps.append(int(match[2]) if match[2] else match[1] or match[3])
        position = match.end()
    return steps


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
            raise ValueError(f"the path {path} goes into an array, which is not supported")
        elif not isinstance(value, dict) or step not in value:
            return None
        value = value[step]
    return None if value is None else str(value) if isinstance(value, str) else _dump(value)


def json_array_length(text: str) -> int | None:
    try:
        value = _decode(text)
    except (ValueError, RecursionError):
        return None
    return len(value) if isinstance(value, list) else None


def json_object_keys(text: str) -> list[str] | None:
    try:
        value = _decode(text)
    except (ValueError, RecursionError):
        return None
    return list(value) if isinstance(value, dict) else None


def json_field(text: str, name: str, kind: str) -> str | None:
    """Return a field for from_json, as text that can be cast to ``kind``; None if there is none."""
    try:
        document = _decode(text)
    except (ValueError, RecursionError):
        return None
    value = document.get(name) if isinstance(document, dict) else None
    if value is None:
        return None
    if kind == "string":
        return str(value) if isinstance(value, str) else _dump(value)
    if kind == "boolean":
        return str(value).lower() if isinstance(value, bool) else None
    if not isinstance(value, _Raw) or (kind != "double" and not re.fullmatch(r"-?\d+", value)):
        return None
    low = {"int": 31, "bigint": 63}.get(kind)
    return str(value) if low is None or -(2**low) <= int(value) < 2**low else None
