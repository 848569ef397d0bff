"""Java regular expressions, as Spark uses them, on top of Python's."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

_END = r"(?=(?:\r\n|[\n\r\x85\u2028\u2029])?\Z)"


@functools.lru_cache(maxsize=256)
def _pattern(java: str) -> re.Pattern[str]:
    """Return a Java pattern as a compiled Python pattern.

    Raises
    ------
    ValueError
        The pattern contains something that means something else in Python.
    """
    pattern, at = "", 0
    while at < len(java):
        read, written = _next_part(java, at, pattern)
        pattern += written
        at += len(read)
    try:
        return re.compile(pattern, re.ASCII)
    except re.error as error:
        raise ValueError(f"the pattern {java}: {error}") from None


def _next_part(java: str, at: int, before: str) -> tuple[str, str]:
    """Return the next part of a Java pattern, and its Python equivalent; ``before`` is the pattern generated so far."""
    rest = java[at:]
    token = rest[0]
    if token == "\\":
        match = re.match(r"\\([dDwWsSbBtnrf0-9A-z]|[^A-Za-z0-9])", rest, re.S)
        letter = rest[1:2]
        if letter == "Q" or not match or letter in "ceghijklmopquvxyzCEFGHIJKLMNOPRTUVXY0":
            raise ValueError(f"the pattern {java} holds {rest[:2]}, which is not supported")
        return match[0], {"\\Z": _END, "\\z": r"\Z"}.get(match[0], match[0])
    if token == "[":
        end = re.match(r"\[\^?\]?(?:\\.|[^\\\[\]])*\]", rest, re.S)
        if not end or "&&" in end[0] or re.search(r"\\[^dDwWsStnrf\W]", end[0]) or end[0][1:2] == "]":
            raise ValueError(f"the pattern {java} holds a class that is not supported")
        return end[0], end[0]
    if token == "{":
        match = re.match(r"\{\d+(?:,\d*)?\}", rest)
        if not match or not before:
            raise ValueError(f"the pattern {java} holds a brace that is not a repetition")
        return match[0], match[0]
    if rest.startswith("(?"):
        match = re.match(r"\(\?(?::|=|!|<=|<!|>|<[A-Za-z][A-Za-z0-9]*>|i\))", rest)
        if not match or (match[0] == "(?i)" and before):
            raise ValueError(f"the pattern {java} holds {rest[:4]}, which is not supported")
        return match[0], "(?P" + match[0][2:] if re.match(r"\(\?<[A-Za-z]", match[0]) else match[0]
    return token, {".": r"[^\n\r\x85\u2028\u2029]", "$": _END}.get(token, token)


def _matches(compiled: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """Return all matches.

    Raises
    ------
    ValueError
        A match is empty and the text has characters outside the BMP, which are two characters in Java: it would
        also match between them.
    """
    matches = list(compiled.finditer(text))
    if any(match.start() == match.end() for match in matches) and re.search("[\U00010000-\U0010ffff]", text):
        raise ValueError(f"the pattern {compiled.pattern} has an empty match in {text}")
    return matches


def rlike(text: str, pattern: str) -> bool:
    return _pattern(pattern).search(text) is not None


@functools.lru_cache(maxsize=256)
def _replacement(java: str, groups: int) -> Callable[[re.Match[str]], str]:
    parts = re.findall(r"\\[\s\S]|\$\d+|[\s\S]", java)
    pieces: list[str | int] = []
    for part in parts:
        if part in ("$", "\\"):
            raise ValueError(f"the replacement {java} is not valid")
        if part[0] == "$":
            digits, rest = part[1:], ""
            while len(digits) > 1 and int(digits) > groups:
                digits, rest = digits[:-1], digits[-1] + rest
            if int(digits) > groups:
                raise ValueError(f"the replacement {java}: there is no group {digits}")
            pieces += [int(digits), rest]
        else:
            pieces.append(part[1:] if part[0] == "\\" else part)
    return lambda match: "".join(piece if isinstance(piece, str) else match[piece] or "" for piece in pieces)


def regexp_replace(text: str, pattern: str, replacement: str, start: int) -> str:
    compiled = _pattern(pattern)
    if start < 1:
        raise ValueError("regexp_replace begins at position 1 or later")
    _matches(compiled, text[start - 1 :])
    return text[: start - 1] + compiled.sub(_replacement(replacement, compiled.groups), text[start - 1 :])


def regexp_extract(text: str, pattern: str, group: int) -> str:
    compiled = _pattern(pattern)
    if not 0 <= group <= compiled.groups:
        raise ValueError(f"the pattern {pattern} has no group {group}")
    match = compiled.search(text)
    return (match[group] or "") if match else ""


def regexp_extract_all(text: str, pattern: str, group: int) -> list[str]:
    compiled = _pattern(pattern)
    if not 0 <= group <= compiled.groups:
        raise ValueError(f"the pattern {pattern} has no group {group}")
    return [match[group] or "" for match in _matches(compiled, text)]


def regexp_count(text: str, pattern: str) -> int:
    return sum(1 for _ in _matches(_pattern(pattern), text))


def regexp_substr(text: str, pattern: str) -> str | None:
    match = _pattern(pattern).search(text)
    return match[0] or None if match else None


def regexp_instr(text: str, pattern: str) -> int:
    match = _pattern(pattern).search(text)
    return match.start() + 1 if match else 0


def split(text: str, pattern: str, limit: int) -> list[str]:
    """Split as Java does with a limit of -1: trailing empty strings stay, an empty match at the start is ignored."""
    if not pattern:
        letters = list(text) or [""]
        return [*letters[: limit - 1], "".join(letters[limit - 1 :])] if 0 < limit <= len(text) else letters
    pieces: list[str] = []
    last = 0
    for match in _matches(_pattern(pattern), text):
        if 0 < limit <= len(pieces) + 1:
            break
        if match.end() == 0:
            continue
        pieces.append(text[last : match.start()])
        last = match.end()
    return [*pieces, text[last:]]
