"""What counts as a record in each format: the single source of both the rows and their count.

A file is read whole or not at all. No engine is involved, so every engine gets the same records.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, takewhile
from typing import BinaryIO

import pyarrow as pa
import zstandard

from lakehouse_lib.intake import parquet, streams
from lakehouse_lib.intake.records import Rows, Shape, is_json, reshaped
from lakehouse_lib.intake.streams import MAX_LINE, Unreadable

MAX_DOCUMENT = 256 << 20
"""Largest size in bytes of a JSON document that is one array or one object over several lines."""

NEAR = 100
"""Number of lines after a misplaced quote that are searched for one that could close it."""

csv.field_size_limit(sys.maxsize)


@dataclass
class Reading:
    """What is learnt about a file while it is read."""

    head: str = ""
    """Header of a CSV file, unchanged."""
    names: set[str] = field(default_factory=set)
    """Field names of its records."""
    records: int = 0


def read(
    handle: BinaryIO, kind: str, reading: Reading, name: str = "", shape: Shape | None = None
) -> Iterator[pa.RecordBatch]:
    """Read the records of a file, in order, as batches of `records.SCHEMA`; ``shape`` is that of its feed.

    ``kind`` is ``json``, ``csv`` or ``parquet``. Compression (gzip, Zstandard) and encoding (UTF-8, UTF-16,
    UTF-32) are detected from the content; if ``name`` implies compression, the content must be compressed.

    Raises
    ------
    Unreadable
        The file cannot be read whole. Batches yielded before must be discarded.
    """
    try:
        rows = Rows(shape, name)
        if kind == "parquet":
            batches = parquet.read(handle, reading.names)
            batches = reshaped(batches, shape, name) if shape else batches
        else:
            batches = _text(handle, kind, reading, rows)
        for batch in batches:
            reading.records += batch.num_rows
            yield batch
    except UnicodeError as error:
        raise Unreadable(f"its text is not what its first bytes promise: {error}") from None
    except EOFError:
        raise Unreadable("it ends before its end marker: it was cut short") from None
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise Unreadable(f"its compressed content is broken: {error}") from None
    except OSError as error:
        if error.errno is not None:  # the file could not be accessed
            raise
        raise Unreadable(f"it is broken: {str(error).splitlines()[0]}") from None
    except pa.ArrowException as error:
        raise Unreadable(f"it cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    except (Unreadable, MemoryError):
        raise
    except Exception as error:
        raise Unreadable(f"it cannot be read ({type(error).__name__}: {error})") from error


def parse_kept(
    raws: list[str], head: str, paths: list[str] | None = None, shape: Shape | None = None
) -> pa.RecordBatch:
    """Parse again records that were stored unchanged; ``head`` is the header of their CSV files, otherwise empty, and
    ``paths`` are their files."""
    rows = Rows(shape)
    names, delimiter = _header(head) if head else ([], "")
    for raw, rows.path in zip(raws, paths or [""] * len(raws), strict=True):
        if not head:
            rows.add(_bytes_of(raw))
            continue
        parsed = list(_csv_records(iter(raw.split("\n")), delimiter, "\n"))
        rows.add_values(raw, names, parsed[0][1] if len(parsed) == 1 else None)
    return rows.batch()


def _bytes_of(raw: str) -> bytes:
    """Return the original bytes of a stored line; a line that was not UTF-8 is stored as base64."""
    try:
        line = base64.b64decode(raw.removeprefix("base64:"), validate=True) if raw.startswith("base64:") else b""
        line.decode()
    except UnicodeDecodeError:
        return line
    except ValueError:
        pass
    return raw.encode()


def _text(handle: BinaryIO, kind: str, reading: Reading, rows: Rows) -> Iterator[pa.RecordBatch]:
    chunks = streams.text(handle, rows.path)
    first = b""
    while len(first) < 1 << 20 and (chunk := next(chunks, b"")):
        first += chunk
    if first.startswith(b"PAR1"):
        raise Unreadable("it holds Parquet, which its name does not say")
    chunks = chain([first], chunks)
    return _csv(chunks, first, reading, rows) if kind == "csv" else _json(chunks, reading, rows)


# JSON ------------------------------------------------------------------------


def _json(chunks: Iterator[bytes], reading: Reading, rows: Rows) -> Iterator[pa.RecordBatch]:
    """Yield the objects that line feeds separate or, if the whole text is one document, its elements."""
    for line in _elements(streams.filled(streams.lines(chunks))):
        rows.add(line)
        if rows.full:
            yield rows.batch()
    reading.names.update(rows.names)
    yield rows.batch()


def _elements(lines: Iterator[bytes]) -> Iterator[bytes]:
    first = next(lines, None)
    if first is None:
        return iter(())
    start = first.lstrip()[:1]
    second = None
    if is_json(first) and (start != b"[" or (second := next(lines, None)) is not None):
        return chain([first] if second is None else [first, second], lines)
    if start not in (b"[", b"{"):
        return chain([first], lines)
    lines_read, size = [first], len(first)
    while size <= MAX_DOCUMENT and (line := next(lines, None)) is not None:
        lines_read.append(line)
        size += len(line)
    result = _document(b"\n".join(lines_read)) if size <= MAX_DOCUMENT else "is larger than a document may be"
    if isinstance(result, list):
        return iter(result)
    second_line = lines_read[1].lstrip() if len(lines_read) > 1 else b""
    truncated = second_line[:1] in (b",", b"}", b"]") or (
        first.rstrip()[-1:] in (b"[", b"{", b",") and not is_json(second_line)
    )
    if start == b"[" or first.strip() == b"{" or truncated:
        # Some of its lines may look like records, but they are parts of an incomplete document.
        raise Unreadable(f"it begins like one JSON document, and is not a whole one: {result}")
    return chain(lines_read, lines)


def _document(data: bytes) -> list[bytes] | str:
    """Return the elements of a JSON array, or the single object; or a text that says why it is not such a document."""
    decoder = json.JSONDecoder()
    try:
        text = data.decode().strip()
        if text[0] == "{":
            _, end = decoder.raw_decode(text)
            return [data] if end == len(text) else "more text follows its object"
        items: list[bytes] = []
        index = 1
        while (index := _skip_space(text, index)) < len(text):
            if text[index] == "]" and not items:
                break
            _, end = decoder.raw_decode(text, index)
            items.append(text[index:end].encode())
            index = _skip_space(text, end)
            if text[index : index + 1] != ",":
                break
            index += 1
        return items if text[index:] == "]" else f"after {len(items)} elements stands {text[index : index + 20]!r}"
    except RecursionError:
        return "it is nested too deeply"
    except ValueError as error:
        return str(error)


def _skip_space(text: str, index: int) -> int:
    while index < len(text) and text[index] in " \t\r\n":
        index += 1
    return index


# CSV -------------------------------------------------------------------------


def _csv(chunks: Iterator[bytes], first: bytes, reading: Reading, rows: Rows) -> Iterator[pa.RecordBatch]:
    """Yield the rows by RFC 4180: a line break inside quotes is part of the cell, whatever follows it."""
    end = "\r" if b"\r" in first and b"\n" not in first else "\n"
    lines = _csv_lines(streams.lines(chunks, end.encode()))
    head = next(filter(_is_filled, lines), "")
    separator = ""
    if separator_line := re.fullmatch(r'"?sep=(.)"?', head.strip()):  # Excel's first line
        separator, head = f"sep={separator_line[1]}\n", next(filter(_is_filled, lines), "")
    if not head:
        raise Unreadable("it has no header: it is empty")
    _, delimiter = _split_head(separator + head)
    records = _csv_records(chain([head], lines), delimiter, end)
    head, _ = next(records)
    reading.head = separator + head
    names, delimiter = _header(reading.head)
    reading.names.update(names)
    header = _cells(head, delimiter)
    for raw, values in records:
        if values != header:  # concatenated files repeat the header
            rows.add_values(raw, names, values)
            if rows.full:
                yield rows.batch()
    yield rows.batch()


def _csv_lines(lines: Iterator[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        line = streams.unmarked(line)
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise Unreadable(
                f"byte 0x{line[error.start]:02x} in line {number} is not UTF-8; convert it, for example by "
                "iconv -f LATIN1 -t UTF-8"
            ) from None


def _is_filled(line: str) -> bool:
    return bool(line.strip(" \r"))


def _csv_records(lines: Iterator[str], delimiter: str, end: str) -> Iterator[tuple[str, list[str] | None]]:
    """Yield the text of each record and its cells; None instead of cells if it is malformed.

    A quote where RFC 4180 allows none makes it unclear whether a cell is open. If the next quote that could close it
    is near, everything up to there is one malformed record; otherwise only the line is.
    """
    waiting: deque[str] = deque()

    def following() -> str | None:
        return waiting.popleft() if waiting else next(lines, None)

    while (line := following()) is not None:
        if not _is_filled(line):
            continue
        if '"' not in line:
            raw = line.rstrip("\r")
            yield raw, None if "\r" in raw else raw.split(delimiter)
            continue
        taken, state, size = [line], _state(line, delimiter, False), len(line)
        while state == "open" and (more := following()) is not None:
            taken.append(more)
            state = _state(more, delimiter, True)
            size += len(more)
            if size > MAX_LINE:
                raise Unreadable(f"a quote is not closed within {MAX_LINE >> 20} MB; its record begins {line[:60]!r}")
        if state == "broken" and sum(part.count('"') for part in taken) % 2:
            parts = takewhile(lambda part: part is not None, (following() for _ in range(NEAR)))
            ahead = [part for part in parts if part is not None]
            close = next((n for n, part in enumerate(ahead, 1) if part.count('"') % 2), 0)
            taken += ahead[:close]
            waiting.extendleft(reversed(ahead[close:]))
        raw = end.join(taken).rstrip("\r\n" if state != "open" else "")
        yield raw, _cells(raw, delimiter) if state == "whole" else None


def _state(line: str, delimiter: str, inside: bool) -> str:
    """Return the state at the end of a line: ``whole`` if the record is complete, ``open`` if a quoted cell goes on,
    and ``broken`` if a quote is inside an unquoted cell or is not followed by a delimiter."""
    line, position = line.rstrip("\r"), 0
    while True:
        if inside or line.startswith('"', position):
            position += not inside
            inside = False
            while (position := line.find('"', position)) >= 0 and line.startswith('""', position):
                position += 2
            if position < 0:
                return "open"
            position += 1
            if position == len(line):
                return "whole"
            if not line.startswith(delimiter, position):
                return "broken"
        else:
            end = line.find(delimiter, position)
            if '"' in line[position : end if end >= 0 else len(line)]:
                return "broken"
            if end < 0:
                return "whole"
            position = end
        position += 1


def _cells(raw: str, delimiter: str) -> list[str] | None:
    try:
        # Only a line feed ends a line here; other line separators are part of a cell.
        (cells,) = csv.reader(io.StringIO(raw, newline="\n"), delimiter=delimiter, strict=True)
    except (csv.Error, ValueError):
        return None
    return cells


def _header(text: str) -> tuple[list[str], str]:
    """Return the names and the delimiter of a CSV header.

    Raises
    ------
    Unreadable
        The text is not a header, or a name appears in it twice.
    """
    text, delimiter = _split_head(text)
    cells = _cells(text, delimiter)
    if cells is None or text.lstrip()[:1] in ("{", "<") or not any(map(str.strip, cells)) or "\0" in text:
        raise Unreadable(f"its first line is not a CSV header: {text[:60]!r}")
    names = [cell.strip() or f"column_{number}" for number, cell in enumerate(cells, 1)]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise Unreadable(f"its header has {', '.join(map(repr, duplicates))} more than once")
    return names, delimiter


def _split_head(text: str) -> tuple[str, str]:
    """Return a header and its delimiter, which a preceding ``sep=`` line may name."""
    if separator_line := re.match(r"sep=(.)\n", text):
        return text[separator_line.end() :], separator_line[1]
    return text, _delimiter(text)


def _delimiter(header: str) -> str:
    """Return the delimiter that appears most often in a header, outside quotes."""
    unquoted = "".join(header.split('"')[::2])
    return max(",;\t|", key=unquoted.count)
