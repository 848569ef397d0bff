"""MongoDB's extended JSON as plain JSON: ``{"$oid": "5f…"}`` is ``"5f…"``, ``{"$numberLong": "7"}`` is ``7``."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jiter

from lakehouse_lib.intake.connect_types import Digits

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


def plain(value: Any) -> Any:
    """Return a document, or JSON text of one, without the type wrappers."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = jiter.from_json(value.encode(), catch_duplicate_keys=True, float_mode="lossless-float")
        except ValueError:
            return value
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, inner),) = value.items()
        if name in _TYPES:
            return _TYPES[name](inner)
    return {name: _plain(item) for name, item in value.items()}


def _number(inner: Any) -> Any:
    text = str(inner)
    return Digits(text) if _NUMBER.fullmatch(text) else text


def _date(inner: Any) -> Any:
    if isinstance(inner, str):
        return inner
    millis: Any = inner.get("$numberLong") if isinstance(inner, dict) else inner
    try:
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(millis))
    except (TypeError, ValueError, OverflowError):
        return millis
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _bytes(inner: Any) -> Any:
    return inner.get("base64") if isinstance(inner, dict) else inner


_TYPES: dict[str, Callable[[Any], Any]] = {
    "$oid": str, "$symbol": str, "$uuid": str, "$code": str, "$date": _date, "$binary": _bytes,
    **dict.fromkeys(("$numberInt", "$numberLong", "$numberDouble", "$numberDecimal"), _number),
    **dict.fromkeys(("$undefined", "$minKey", "$maxKey"), lambda _: None),
}  # fmt: skip
