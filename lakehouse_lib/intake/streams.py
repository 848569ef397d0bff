"""The bytes of an input file as lines of UTF-8, whatever its compression and encoding."""

from __future__ import annotations

import codecs
import gzip
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import BinaryIO

import zstandard

MAX_LINE = 128 << 20
"""Largest size in bytes of a line; a longer one suggests an unclosed quote or a file without lines."""

PACKED = (".gz", ".zst")
"""File extensions that imply compression."""

BOM = codecs.BOM_UTF8


class Unreadable(Exception):
    """The file cannot be read whole; the text says why and is shown to people."""


def text(handle: BinaryIO, name: str) -> Iterator[bytes]:
    """Return the content of a file in chunks of UTF-8.

    Compression (gzip, Zstandard) and encoding (UTF-16 and UTF-32) are detected from the content; if ``name``
    implies compression, the content must be compressed.

    Raises
    ------
    Unreadable
        The content is not compressed although its name implies it, or it is compressed twice.
    """
    return _as_utf8(_decompressed(handle, name.lower().endswith(PACKED)))


def _chunks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    return iter(lambda: read(1 << 20), b"")


def _decompressed(handle: BinaryIO, must_be_compressed: bool) -> Iterator[bytes]:
    """Yield the content of a file in chunks; compression is detected from the first bytes."""
    magic = handle.read(4)
    handle.seek(0)
    if not _is_compressed(magic):
        if must_be_compressed:
            raise Unreadable("its name says that it is compressed, and its content is not")
        yield from _chunks(handle.read)
        return
    packed = _chunks(gzip.GzipFile(fileobj=handle).read) if magic[:2] == b"\x1f\x8b" else _zstd(handle)
    unpacked = filter(None, packed)
    first = next(unpacked, b"")
    if _is_compressed(first[:4]):
        raise Unreadable("it is compressed twice")
    yield first
    yield from unpacked


def _is_compressed(magic: bytes) -> bool:
    return magic[:2] == b"\x1f\x8b" or magic == b"\x28\xb5\x2f\xfd" or _is_skippable(magic)


def _is_skippable(magic: bytes) -> bool:
    return len(magic) == 4 and 0x50 <= magic[0] <= 0x5F and magic[1:] == b"\x2a\x4d\x18"


def _zstd(handle: BinaryIO) -> Iterator[bytes]:
    """Yield the content of Zstandard frames; the library's own reader mistakes a truncated frame for a complete one."""
    frame, data = None, b""
    while chunk := handle.read(1 << 12):  # a frame can hold ten thousand times its size
        data += chunk
        while data:
            if frame is None and (len(data) < 8 or _is_skippable(data[:4])):
                end = 8 + int.from_bytes(data[4:8], "little")
                if len(data) < max(8, end):
                    break  # needs more data
                data = data[end:]
                continue
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(data)
            data, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame or data:
        raise EOFError


def _as_utf8(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Return text in UTF-16 or UTF-32 as UTF-8; anything else unchanged."""
    first = next(chunks, b"")
    encoding = _encoding(first[:4])
    chunks = chain([first], chunks)
    if encoding:
        return (part.encode() for part in codecs.iterdecode(chunks, encoding))
    return chunks


def _encoding(start: bytes) -> str:
    """Return the encoding of a text that is not UTF-8: from its byte order mark, or from the positions of the zero
    bytes in its first two characters, which are ASCII in JSON and CSV (RFC 4627, section 3)."""
    for mark, name in ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
                       (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):  # fmt: skip
        if start.startswith(mark):
            return name
    zeros = tuple(byte == 0 for byte in start)
    names: dict[tuple[bool, ...], str] = {
        (False, True, False, True): "utf-16-le",
        (True, False, True, False): "utf-16-be",
        (False, True, True, True): "utf-32-le",
        (True, True, True, False): "utf-32-be",
    }
    return names.get(zeros, "")


def lines(chunks: Iterable[bytes], end: bytes = b"\n") -> Iterator[bytes]:
    """Yield the lines of a text, without line ends."""
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        first, *rest = chunk.split(end)
        parts.append(first)
        size += len(first)
        if size > MAX_LINE:
            raise Unreadable(f"a line of it is longer than {MAX_LINE >> 20} MB")
        if rest:
            yield b"".join(parts)
            yield from rest[:-1]
            parts, size = [rest[-1]], len(rest[-1])
    if last := b"".join(parts):
        yield last


def unmarked(line: bytes) -> bytes:
    """Return a line without leading byte order marks, of which concatenated files have several."""
    while line.startswith(BOM):
        line = line[len(BOM) :]
    return line


def filled(source: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines that are not blank, without byte order mark and carriage return."""
    for line in source:
        line = unmarked(line)
        if line and not line.isspace():
            yield line.rstrip(b"\r")
