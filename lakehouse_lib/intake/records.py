"""Records as Arrow: the original text, its fields as text, or the problem that makes it invalid.

JSON is read completely and by the strict rules of RFC 8259; numbers keep their digits.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from json.encoder import encode_basestring
from typing import Any

import jiter
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SCHEMA = pa.schema([
    ("raw", pa.string()), ("record", pa.map_(pa.string(), pa.string())), ("problem", pa.string()),
    ("not_json", pa.list_(pa.string())),
])  # fmt: skip
"""``raw``: the original record (null for a Parquet row); ``record``: its fields as text, nested ones as JSON;
``problem``: why it is not a valid record; ``not_json``: fields whose text begins like JSON but is not valid JSON."""

PICKED = "fields"
"""Column that staged records have besides: a struct of the fields that their table is made from."""

PROBLEMS = {
    "malformed_record": "the line is not a complete record (JSON object or CSV row)",
    "ragged_row": "the row has more or fewer fields than the header",
    "invalid_utf8": "the line holds bytes that are not UTF-8",
    "invalid_unicode": "the text holds half of a surrogate pair, which is not a character",
    "ambiguous_fields": "the same field stands in the record twice, or in two spellings",
    "unreadable_value": "a nested value is beyond what can be written, or holds bytes that are not UTF-8",
    "nested_too_deeply": "the record is nested more than 200 levels deep",
}
"""Problems of a record, each with an explanation."""

ROWS, BYTES = 20_000, 16 << 20
"""Size limits of a batch: records and bytes, whichever is reached first."""

_MAY_BE_BEYOND = re.compile("[0-9][eE][+]?0*[1-9][0-9]{2}|[0-9]{309}")
"""Whether a JSON text may hold a number beyond a double."""

_STRICT: dict[str, Any] = {
    "catch_duplicate_keys": True,
    "allow_inf_nan": False,
    "float_mode": "lossless-float",
    "cache_mode": "keys",
}


Shape = Callable[[dict[str, Any] | None, str], dict[str, Any]]
"""A function that reshapes a record of a feed, from its fields (None for the record ``null``) and its file."""


class Rows:
    """Collects the records of a file into batches of `SCHEMA`."""

    def __init__(self, shape: Shape | None = None, path: str = "") -> None:
        self._shape, self.path = shape, path
        self._names: dict[str, int] = {}
        self._shapes: dict[tuple[str, ...], tuple[list[int], int, bool]] = {}
        self._start()

    def _start(self) -> None:
        self.raws: list[bytes] = []
        self.problems: dict[int, str] = {}
        self.broken: dict[int, list[str]] = {}
        self.keys: list[int] = []
        self.values: list[str] = []
        self.nulls: list[int] = []
        self.sizes: list[int] = []
        self.bytes = 0

    @property
    def full(self) -> bool:
        return len(self.raws) >= ROWS or self.bytes >= BYTES

    @property
    def names(self) -> Iterable[str]:
        """The names of all fields so far."""
        return self._names

    def add(self, line: bytes) -> None:
        """Add a JSON text."""
        self.bytes += len(line)
        try:
            fields = jiter.from_json(line, **_STRICT)
        except ValueError as error:
            self._set_aside(line, _problem_of(line, str(error)))
            return
        if fields.__class__ is dict:
            self._add(line, fields if self._shape else _unwrapped(fields))
        elif fields is None and self._shape:
            self._put(line, self._shape(None, self.path))
        else:
            self._set_aside(line, "malformed_record")

    def add_values(self, raw: str, names: list[str], values: list[str] | None) -> None:
        """Add a CSV row; ``values`` is None if the row is malformed."""
        self.bytes += len(raw)
        if values is None or len(values) != len(names):
            self._set_aside(raw.encode(), "malformed_record" if values is None else "ragged_row")
        else:
            self._add(raw.encode(), dict(zip(names, values, strict=True)))

    def _add(self, raw: bytes, fields: dict[str, Any]) -> None:
        if not self._shape:
            self._put(raw, fields)
        elif len({name.lower() for name in fields}) < len(fields):
            self._set_aside(raw, "ambiguous_fields")
        else:
            self._put(raw, self._shape(fields, self.path))

    def _put(self, raw: bytes, fields: dict[str, Any]) -> None:
        names = tuple(fields)
        shape = self._shapes.get(names)
        if shape is None:
            places = [self._names.setdefault(name, len(self._names)) for name in names]
            ambiguous = len({name.lower() for name in names}) < len(names)
            shape = self._shapes[names] = places, sum(map(len, names)), ambiguous
        places, width, ambiguous = shape
        if ambiguous:
            self._set_aside(raw, "ambiguous_fields")
            return
        values = self.values
        for value in fields.values():
            if value.__class__ is str:
                if value and value[0] in "{[ \t\r\n" and value.lstrip()[:1] in ("{", "["):
                    if not is_json(value):
                        self.broken.setdefault(len(self.raws), []).append(names[len(values) - len(self.keys)])
                    elif _MAY_BE_BEYOND.search(value):
                        value = json_text(jiter.from_json(value.encode(), **_STRICT))
                values.append(value)
            elif value is None:
                self.nulls.append(len(values))
                values.append("")
            else:
                values.append(json_text(value))
        self.keys += places
        self.bytes += width
        self.sizes.append(len(places))
        self.raws.append(raw)

    def _set_aside(self, raw: bytes, problem: str) -> None:
        self.problems[len(self.raws)] = problem
        self.sizes.append(0)
        self.raws.append(raw)

    def batch(self) -> pa.RecordBatch:
        """Return the records added since the last batch."""
        for position, problem in self.problems.items():
            if problem == "invalid_utf8":
                self.raws[position] = b"base64:" + base64.b64encode(self.raws[position])
        count = len(self.raws)
        offsets = np.zeros(count + 1, np.int32)
        np.cumsum(self.sizes, out=offsets[1:])
        missing = np.zeros(count + 1, bool)
        missing[list(self.problems)] = True
        record = maps(pa.array(offsets, mask=missing), self.keys, list(self._names), _strings(self.values, self.nulls))
        problem_columns = (sparse(self.problems, "problem", count), sparse(self.broken, "not_json", count))
        record_batch = pa.RecordBatch.from_arrays([_strings(self.raws, ()), record, *problem_columns], schema=SCHEMA)
        self._start()
        return record_batch


def reshaped(batches: Iterable[pa.RecordBatch], shape: Shape, path: str) -> Iterator[pa.RecordBatch]:
    """Yield the Parquet rows in a feed's shape; the original record is stored as JSON."""
    rows = Rows(shape, path)
    for batch in batches:
        for row in batch.to_pylist():
            fields = dict(row["record"] or ())
            text = json.dumps(fields, ensure_ascii=False).encode()
            if row["problem"]:
                rows._set_aside(text, row["problem"])
            else:
                rows._add(text, fields)
        yield rows.batch()


def sparse(values: dict[int, Any], name: str, count: int) -> pa.Array:
    """Return a column of `SCHEMA` in which few rows have a value."""
    kind = SCHEMA.field(name).type
    return pa.array([values.get(position) for position in range(count)], kind) if values else pa.nulls(count, kind)


def columns_of(record: pa.MapArray, names: list[str]) -> list[pa.Array]:
    """Return the fields of some names as columns; null in rows that lack them."""
    rows = np.repeat(np.arange(len(record)), np.diff(record.offsets.to_numpy(zero_copy_only=False)))
    which = pc.fill_null(pc.index_in(record.keys, pa.array(names, pa.string())), -1).to_numpy()
    columns = []
    for number in range(len(names)):
        positions = np.flatnonzero(which == number)
        indices = np.full(len(record), -1)
        indices[rows[positions]] = positions
        columns.append(pc.take(record.items, pa.array(indices, mask=indices < 0)))
    return columns


def maps(offsets: pa.Array, keys: Iterable[int], names: list[str], values: pa.Array) -> pa.MapArray:
    """Return the fields of rows as a map column; ``keys`` are indices into ``names``."""
    indices = pa.array(np.fromiter(keys, np.int32, len(values)))
    return pa.MapArray.from_arrays(offsets, pc.take(pa.array(names, pa.string()), indices), values)


def _strings(texts: list[Any], nulls: Iterable[int]) -> pa.StringArray:
    """Return the texts as Arrow; joined first, because Arrow converts single Python strings slowly."""
    if not texts:
        return pa.array([], pa.string())
    joined = "\0".join(texts).encode() if texts[0].__class__ is str else b"\0".join(texts)
    ends = np.flatnonzero(np.frombuffer(joined, np.uint8) == 0)
    offsets = np.empty(len(texts) + 1, np.int32)
    if len(ends) == len(texts) - 1:
        offsets[0], offsets[1:-1], offsets[-1] = 0, ends - np.arange(len(ends)), len(joined) - len(ends)
        data = joined.replace(b"\0", b"")
    else:  # a text holds the separator
        texts = [text.encode() if text.__class__ is str else text for text in texts]
        offsets[0], offsets[1:] = 0, np.cumsum([len(text) for text in texts])
        data = b"".join(texts)
    valid = np.ones(len(texts), bool)
    valid[list(nulls)] = False
    bits = pa.py_buffer(np.packbits(valid, bitorder="little").tobytes())
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(data), bits)


def is_json(text: str | bytes) -> bool:
    """Return whether a text is exactly one JSON value, without duplicate keys in an object."""
    try:
        jiter.from_json(text if isinstance(text, bytes) else text.encode(), **_STRICT)
    except ValueError:
        return False
    return True


def _unwrapped(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the payload of a message that Kafka Connect wrapped with its schema."""
    if "payload" not in fields or "op" in fields or not fields.keys() <= {"payload", "schema"}:
        return fields
    payload = fields["payload"]
    if payload.__class__ is str:
        try:
            payload = jiter.from_json(payload.encode(), **_STRICT)
        except ValueError:
            return fields
    return payload if payload.__class__ is dict else {"payload": fields["payload"]}


def _problem_of(line: bytes, error: str) -> str:
    """Return why a line is not a record; the exact reason, which the strict parser does not give."""
    has_duplicates = False

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal has_duplicates
        fields = dict(items)
        has_duplicates |= len(fields) < len(items)
        return fields

    try:
        value = json.loads(line.decode(), object_pairs_hook=pairs, parse_constant=_no_constant)
        if has_duplicates:
            return "ambiguous_fields"
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError:
        return "invalid_utf8"
    except UnicodeEncodeError:
        return "invalid_unicode"
    except RecursionError:
        return "nested_too_deeply"
    except ValueError:
        return "malformed_record"
    return "nested_too_deeply" if "recursion" in error else "malformed_record"


def _no_constant(name: str) -> None:
    raise ValueError(name)


def json_text(value: Any) -> str:
    """Return a parsed value as JSON text in which every number keeps its original digits.

    Within an object or an array, a number beyond a double is given as text: engines do not agree whether the whole is
    JSON then.
    """
    kind = value.__class__
    if kind is str:
        return encode_basestring(value)
    if kind is dict:
        return "{" + ",".join([f"{encode_basestring(k)}:{_inner_text(v)}" for k, v in value.items()]) + "}"
    if kind is list:
        return "[" + ",".join([_inner_text(v) for v in value]) + "]"
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    return str(value)


def _inner_text(value: Any) -> str:
    text = json_text(value)
    is_number = text[0] in "-0123456789"
    return f'"{text}"' if is_number and math.isinf(float(text)) else text
