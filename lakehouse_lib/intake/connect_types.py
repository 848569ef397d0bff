"""Values of Kafka Connect messages, decoded by the schema that a message carries.

Connect and Debezium write decimals as base64 and times as numbers; the field's schema says which.
Decoded values have the form that plain JSON would have: exact digits, ISO-8601 text. See `decoded`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

PLACEHOLDER = "__debezium_unavailable_value"
"""Debezium's placeholder for a value that it does not know, because the change did not touch it."""

_IN_A_MAP = {PLACEHOLDER: PLACEHOLDER}
_UUID = "b68a35a7-17ad-35b3-af2a-ae46edb4545a"
"""The placeholder as the name-based UUID (version 3) that Debezium writes."""
_UNKNOWN = (PLACEHOLDER, base64.b64encode(PLACEHOLDER.encode()).decode(), json.dumps(_IN_A_MAP, separators=(",", ":")))
_UNKNOWN_NUMBERS = list(PLACEHOLDER.encode())
"""The placeholder's bytes, as they appear in arrays of numbers."""

DIGITS = 38
"""Number of digits of the widest decimal type."""


MOST_PLACES = 20_000
"""Upper limit for the decimal places of a database number (PostgreSQL allows 16,383)."""


class Digits(str):
    """A number, kept as the digits that it was written with."""


def is_unavailable(value: Any) -> bool:
    """Return whether a value is Debezium's placeholder: as text, as bytes, in an array, or in a map."""
    if isinstance(value, str):
        return value in _UNKNOWN
    if isinstance(value, list):
        if len(value) == 1:
            return isinstance(value[0], str) and value[0] in (*_UNKNOWN, _UUID)
        return len(value) == len(_UNKNOWN_NUMBERS) and (
            all(element is True for element in value) or list(map(_as_number, value)) == _UNKNOWN_NUMBERS
        )
    return bool(value == _IN_A_MAP)


def _as_number(value: Any) -> float | None:
    """Return a number from an array, possibly in Connect's decimal encoding; None if it is not a number."""
    try:
        if isinstance(value, dict):
            return float(_variable_decimal(value, {}))
        return float(value)
    except (TypeError, ValueError, KeyError):
        return None


def decoded(value: Any, schema: dict[str, Any]) -> Any:
    """Return a value decoded by its Connect schema; a value that does not fit the schema is returned unchanged."""
    if value is None or is_unavailable(value):
        return value
    decode = _DECODERS.get(schema.get("name") or "")
    try:
        if decode:
            return decode(value, schema.get("parameters") or {})
        if schema.get("type") == "array" and isinstance(value, list):
            return [decoded(item, schema.get("items") or {}) for item in value]
        if schema.get("type") == "struct" and isinstance(value, dict):
            return struct(value, schema)
        return value
    except (ValueError, TypeError, OverflowError, LookupError):
        return value


def struct(values: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a struct, each decoded by its own schema."""
    fields = {field["field"]: field for field in schema.get("fields") or () if "field" in field}
    return {name: decoded(value, fields.get(name, {})) for name, value in values.items()}


def column_types(schema: dict[str, Any]) -> dict[str, str]:
    """Return Spark's type of each field of a struct; fields whose type follows from their values are left out."""
    types = {field["field"]: _column_type(field) for field in schema.get("fields") or () if "field" in field}
    return {name: spark_type for name, spark_type in types.items() if spark_type}


def _column_type(schema: dict[str, Any]) -> str:
    name = schema.get("name") or ""
    if name == _DECIMAL:
        parameters = schema.get("parameters") or {}
        return decimal_type(parameters.get("connect.decimal.precision"), parameters.get("scale", 0))
    if name in _TYPES:
        return _TYPES[name]
    if name in _DECODERS:
        return "string"
    primitives = {"int8": "bigint", "int16": "bigint", "int32": "bigint", "int64": "bigint", "float32": "double",
                  "float": "double", "float64": "double", "double": "double", "boolean": "boolean"}  # fmt: skip
    return primitives.get(schema.get("type") or "", "string")


def decimal_type(precision: Any, scale: Any) -> str:
    """Return Spark's type of a decimal; empty if no Spark type fits or the number of digits is unknown."""
    try:
        fits = 0 <= int(scale) <= int(precision) <= DIGITS
    except (TypeError, ValueError):
        return ""
    return f"decimal({int(precision)},{int(scale)})" if fits else ""


def decimal(unscaled: str, scale: int) -> Digits:
    """Return a decimal from the base64 of its unscaled value, a big-endian two's complement number.

    Raises
    ------
    ValueError
        The text is not base64, or the scale exceeds `MOST_PLACES`.
    """
    if abs(scale) > MOST_PLACES:
        raise ValueError(f"a decimal with {scale} places")
    number = int.from_bytes(base64.b64decode(unscaled, validate=True), "big", signed=True)
    digits = str(abs(number)) + "0" * max(-scale, 0)
    if scale > 0:
        digits = digits.zfill(scale + 1)
        digits = f"{digits[:-scale]}.{digits[-scale:]}"
    return Digits(f"-{digits}" if number < 0 else digits)


def _decimal(value: Any, parameters: dict[str, str]) -> Any:
    return decimal(value, int(parameters["scale"])) if isinstance(value, str) else value


def _variable_decimal(value: Any, _: dict[str, str]) -> Any:
    return decimal(value["value"], int(value["scale"]))


def _date(value: Any, _: dict[str, str]) -> Any:
    return (date(1970, 1, 1) + timedelta(days=_whole(value))).isoformat()


def _whole(value: Any) -> int:
    if isinstance(value, (bool, str)) or int(value) != float(value):
        raise ValueError(value)
    return int(value)


def _clock(nanos: int, places: int) -> str:
    seconds, rest = divmod(abs(nanos), 10**9)
    text = f"{'-' * (nanos < 0)}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    fraction = f"{rest:09d}"[:places].rstrip("0")
    return f"{text}.{fraction}" if fraction else text


def _moment(places: int) -> Callable[[Any, dict[str, str]], str]:
    """Return a decoder from milli-, micro- or nanoseconds since 1970 to a date and time without a zone."""

    def decode(value: Any, _: dict[str, str]) -> str:
        day, rest = divmod(_whole(value) * 10 ** (9 - places), 86_400 * 10**9)
        return f"{_date(day, {})}T{_clock(rest, places)}"

    return decode


def _time(places: int) -> Callable[[Any, dict[str, str]], str]:
    return lambda value, _: _clock(_whole(value) * 10 ** (9 - places), places)


def _duration(places: int) -> Callable[[Any, dict[str, str]], str]:
    """Return a decoder from micro- or nanoseconds to an ISO-8601 duration."""

    def decode(value: Any, _: dict[str, str]) -> str:
        size = abs(_whole(value))
        whole, rest = divmod(size, 10**places)
        fraction = f"{rest:0{places}d}".rstrip("0")
        return f"{'-' if value < 0 else ''}PT{whole}{'.' + fraction if fraction else ''}S"

    return decode


def _bits(value: Any, parameters: dict[str, str]) -> str:
    """Return a bit string from its bytes, the lowest byte first."""
    number = int.from_bytes(base64.b64decode(value, validate=True), "little")
    return f"{number:0{int(parameters.get('length', 1))}b}"


_DECIMAL = "org.apache.kafka.connect.data.Decimal"
_DECODERS: dict[str, Callable[[Any, dict[str, str]], Any]] = {
    _DECIMAL: _decimal, "io.debezium.data.VariableScaleDecimal": _variable_decimal,
    "io.debezium.time.Date": _date, "org.apache.kafka.connect.data.Date": _date,
    "io.debezium.time.Timestamp": _moment(3), "org.apache.kafka.connect.data.Timestamp": _moment(3),
    "io.debezium.time.MicroTimestamp": _moment(6), "io.debezium.time.NanoTimestamp": _moment(9),
    "io.debezium.time.Time": _time(3), "org.apache.kafka.connect.data.Time": _time(3),
    "io.debezium.time.MicroTime": _time(6), "io.debezium.time.NanoTime": _time(9),
    "io.debezium.time.MicroDuration": _duration(6), "io.debezium.time.NanoDuration": _duration(9),
    "io.debezium.data.Bits": _bits,
}  # fmt: skip
_TYPES = {
    **dict.fromkeys(("io.debezium.time.Date", "org.apache.kafka.connect.data.Date"), "date"),
    **dict.fromkeys(("io.debezium.time.Timestamp", "io.debezium.time.MicroTimestamp", "io.debezium.time.NanoTimestamp",
                     "org.apache.kafka.connect.data.Timestamp", "io.debezium.time.ZonedTimestamp"), "timestamp"),
    "io.debezium.data.VariableScaleDecimal": "",
}  # fmt: skip
