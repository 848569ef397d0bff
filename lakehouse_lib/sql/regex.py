"""Regular expressions of Java, as Spark has them, by those of Python."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

_END = r"(?=(?:\r\n|[\n\r\x85\u2028\u2029])?\Z)"
_TOKENS = re.compile(r"\\.|\[|\(\?|[\s\S]")


@functools.lru_cache(maxsize=256)
def _pattern(java: str) -> re.Pattern[str]:
    """A pattern of Java as Python has it.

    Raises
    ------
    ValueError
        It holds something that means something else here.
    """
    made, at = "", 0
    while at < len(java):
        read, written = _part(java, at, made)
        made += written
        at += len(read)
    try:
        return re.compile(made, re.ASCII)
    except re.error as error:
        raise ValueError(f"the pattern {java}: {error}") from None


def _part(java: str, at: int, before: str) -> tuple[str, str]:
    """What stands next in a pattern, and the same in Python's words; ``before`` is what has been written."""
    rest = java[at:]
    token = rest[0]
    if token == "\\":
        found = re.match(r"\\([dDwWsSbBtnrf0-9A-z]|[^A-Za-z0-9])", rest, re.S)
        letter = rest[1:2]
        if letter == "Q" or not found or letter in "ceghijklmopquvxyzCEFGHIJKLMNOPRTUVXY0":
            raise ValueError(f"the pattern {java} holds {rest[:2]}, which is not answered here")
        return found[0], {"\\Z": _END, "\\z": r"\Z"}.get(found[0], found[0])
    if token == "[":
        end = re.match(r"\[\^?\]?(?:\\.|[^\\\[\]])*\]", rest, re.S)
        if not end or "&&" in end[0] or re.search(r"\\[^dDwWsStnrf\W]", end[0]) or end[0][1:2] == "]":
            raise ValueError(f"the pattern {java} holds a class that is not answered here")
        return end[0], end[0]
    if token == "{":
        found = re.match(r"\{\d+(?:,\d*)?\}", rest)
        if not found or not before:
            raise ValueError(f"the pattern {java} holds a brace that is no repetition")
        return found[0], found[0]
    if rest.startswith("(?"):
        found = re.match(r"\(\?(?::|=|!|<=|<!|>|<[A-Za-z][A-Za-z0-9]*>|i\))", rest)
        if not found or (found[0] == "(?i)" and before):
            raise ValueError(f"the pattern {java} holds {rest[:4]}, which is not answered here")
        return found[0], "(?P" + found[0][2:] if re.match(r"\(\?<[A-Za-z]", found[0]) else found[0]
    return token, {".": r"[^\n\r\x85\u2028\u2029]", "$": _END}.get(token, token)


def _matches(compiled: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """All matches.

    Raises
    ------
    ValueError
        One of nothing, in a text with characters that are two for Java, which would look between them.
    """
    found = list(compiled.finditer(text))
    if any(one.start() == one.end() for one in found) and re.search("[\U00010000-\U0010ffff]", text):
        raise ValueError(f"the pattern {compiled.pattern} matches nothing in {text}")
    return found


def rlike(text: str, pattern: str) -> bool:
    return _pattern(pattern).search(text) is not None


@functools.lru_cache(maxsize=256)
def _replacement(java: str, groups: int) -> Callable[[re.Match[str]], str]:
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


def regexp_replace(text: str, pattern: str, replacement: str, start: int) -> str:
    compiled = _pattern(pattern)
    if start < 1:
        raise ValueError("regexp_replace begins at 1 or later")
    _matches(compiled, text[start - 1 :])
    return text[: start - 1] + compiled.sub(_replacement(replacement, compiled.groups), text[start - 1 :])


def regexp_extract(text: str, pattern: str, group: int) -> str:
    compiled = _pattern(pattern)
    if not 0 <= group <= compiled.groups:
        raise ValueError(f"the pattern {pattern} has no such group as {group}")
    found = compiled.search(text)
    return (found[group] or "") if found else ""


def regexp_extract_all(text: str, pattern: str, group: int) -> list[str]:
    compiled = _pattern(pattern)
    if not 0 <= group <= compiled.groups:
        raise ValueError(f"the pattern {pattern} has no such group as {group}")
    return [found[group] or "" for found in _matches(compiled, text)]


def regexp_count(text: str, pattern: str) -> int:
    return sum(1 for _ in _matches(_pattern(pattern), text))


def regexp_substr(text: str, pattern: str) -> str | None:
    found = _pattern(pattern).search(text)
    return found[0] or None if found else None


def regexp_instr(text: str, pattern: str) -> int:
    found = _pattern(pattern).search(text)
    return found.start() + 1 if found else 0


def split(text: str, pattern: str, limit: int) -> list[str]:
    """As Java splits with a limit of -1: what is empty at the end stays; a match of nothing at the start is none."""
    if not pattern:
        letters = list(text) or [""]
        return [*letters[: limit - 1], "".join(letters[limit - 1 :])] if 0 < limit <= len(text) else letters
    made: list[str] = []
    last = 0
    for found in _matches(_pattern(pattern), text):
        if 0 < limit <= len(made) + 1:
            break
        if found.end() == 0:
            continue
        made.append(text[last : found.start()])
        last = found.end()
    return [*made, text[last:]]
