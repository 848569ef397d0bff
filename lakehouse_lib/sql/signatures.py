"""Signatures of functions: which one fits the types of a call's arguments, and the SQL of the call.

A line of `functions` is ``names(types) result = template``. Types are those of Spark; ``N`` and ``M`` stand for a
number, ``I`` for a whole number, ``S`` and ``R`` for a simple value, ``T``, ``K`` and ``V`` for any type, and each
letter for the same type throughout; ``!`` requires a constant, ``*`` allows any number of arguments. In the template
of an aggregate ``@`` marks the place of FILTER and OVER, and ``#`` that of DISTINCT.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Any, cast

from lakehouse_lib.sql import macros
from lakehouse_lib.sql import types as st
from lakehouse_lib.sql.types import Type


@dataclass(frozen=True)
class Param:
    """The requirements for an argument."""

    pattern: Any
    constant: bool = False
    many: bool = False


@dataclass(frozen=True)
class Signature:
    """A parsed line of a table of `functions`."""

    params: tuple[Param, ...]
    result: str
    template: str


_LETTERS = {"N": st.NUMERIC, "M": st.NUMERIC, "I": st.INTEGRAL, "S": (*st.SIMPLE, "binary"), "R": st.SIMPLE}


def _pattern(text: str) -> Any:
    """Return a type as nested tuples of words: ("array", ("T",))."""
    match = cast("re.Match[str]", re.fullmatch(r"(\w+)(?:<(.*)>)?", text.strip()))
    inner = re.findall(r"(?:[^,<]|<[^>]*>+)+", match[2]) if match[2] else []
    return (match[1], *map(_pattern, inner))


def parsed(table: str) -> dict[str, list[Signature]]:
    """Return the signatures of a table of `functions`, by function name."""
    by_name: dict[str, list[Signature]] = {}
    for line in filter(None, table.splitlines()):
        match = cast("re.Match[str]", re.fullmatch(r"([\w|]+)\((.*?)\) (\S+) = (.*)", line))
        names, params, result, template = match.groups()
        param_texts = re.findall(r"(?:[^,<]|<[^>]*>+)+", params)
        parameters = tuple(Param(_pattern(text.strip().rstrip("!*")), "!" in text, "*" in text) for text in param_texts)
        for name in names.split("|"):
            by_name.setdefault(name, []).append(Signature(parameters, result, template))
    return by_name


def chosen(
    signatures: list[Signature], types: list[Type], constants: list[bool]
) -> tuple[Signature, list[Type], dict[str, Type]] | None:
    """Return the best matching signature, the types to cast the arguments to, and the types of the letters."""
    best, least = None, 1000
    for signature in signatures:
        fit = _fit(signature, types, constants)
        if fit and (cost := sum(_cost(a, b) for a, b in zip(types, fit[0], strict=True))) < least:
            best, least = (signature, *fit), cost
    return best


def _cost(source: Type, target: Type) -> int:
    if source == target or source == st.VOID:
        return 0
    if source.kind in st.NUMERIC and target.kind in st.NUMERIC:
        order = [*st.INTEGRAL, "decimal", "float", "double"]
        return 1 + order.index(target.kind) - order.index(source.kind) if source.kind != target.kind else 1
    return 20 if target == st.STRING else 10


def _fit(signature: Signature, types: list[Type], constants: list[bool]) -> tuple[list[Type], dict[str, Type]] | None:
    params = list(signature.params)
    if params and params[-1].many:
        params = params[:-1] + [params[-1]] * (len(types) - len(params) + 1)
    if len(params) != len(types) or any(p.constant and not c for p, c in zip(params, constants, strict=True)):
        return None
    letters: dict[str, Type] = {}
    for param, arg_type in zip(params, types, strict=True):
        if not _bind(param.pattern, arg_type, letters):
            return None
    for letter, kind in letters.items():
        if letter in _LETTERS and kind != st.VOID and kind.kind not in _LETTERS[letter]:
            if kind == st.STRING and letter in "NM":
                letters[letter] = st.DOUBLE
            else:
                return None
    targets = [_resolve(param.pattern, arg_type, letters) for param, arg_type in zip(params, types, strict=True)]
    if any(target is None or not _castable(arg_type, target) for arg_type, target in zip(types, targets, strict=True)):
        return None
    return cast("list[Type]", targets), letters


def _castable(source: Type, target: Type) -> bool:
    if st.implicit(source, target) or source == target:
        return True
    return st.common(source, target) == target


def _bind(pattern: tuple[Any, ...], arg_type: Type, letters: dict[str, Type]) -> bool:
    word, *inner = pattern
    if len(word) == 1 and word.isupper():
        known = letters.get(word)
        kind = arg_type if known is None else st.common(known, arg_type)
        if kind is None:
            return False
        letters[word] = kind
        return True
    if inner:
        if arg_type.kind != word or len(arg_type.inner) != len(inner):
            return False
        return all(
            _bind(inner_pattern, kind, letters) for inner_pattern, kind in zip(inner, arg_type.inner, strict=True)
        )
    return True


def _resolve(pattern: tuple[Any, ...], arg_type: Type, letters: dict[str, Type]) -> Type | None:
    word, *inner = pattern
    if word == "any":
        return arg_type
    if len(word) == 1:
        return letters.get(word, st.VOID)
    if word == "decimal":
        return (
            arg_type
            if arg_type.kind == "decimal"
            else st.as_decimal(arg_type)
            if arg_type.kind in st.INTEGRAL
            else None
        )
    if inner:
        parts = arg_type.inner if arg_type.inner else (st.VOID,) * len(inner)
        resolved = tuple(
            _resolve(inner_pattern, kind, letters) for inner_pattern, kind in zip(inner, parts, strict=True)
        )
        return None if None in resolved else Type(word, resolved)
    return Type(word)


def result(signature: Signature, letters: dict[str, Type]) -> Type:
    """Return the result type of a signature."""
    return cast("Type", _resolve(_pattern(signature.result), st.VOID, letters))


def rendered(template: str, args: list[str], spread: list[str]) -> str:
    """Return a template with its arguments filled in; a long argument that is used more than once is evaluated only
    once."""
    names: dict[str, str] = {}
    # Every macro uses its arguments more than once.
    uses_macro = any(f"{name}(" in template for name in macros.STATEMENTS)
    for place, arg in enumerate(args):
        if len(arg) > (60 if uses_macro else 120) and (uses_macro or template.count(f"{{{place}}}") > 1):
            names[name := f"w{zlib.crc32(arg.encode())}"] = arg
            args = [*args[:place], name, *args[place + 1 :]]
    sql = re.sub(r"\{(\d|\*)\}", lambda match: ", ".join(spread) if match[1] == "*" else args[int(match[1])], template)
    for name, arg in names.items():
        sql = f"list_transform([{arg}], lambda {name}: {sql})[1]"
    return sql
