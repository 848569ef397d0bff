"""Lineage between tables: what a table is made from, what is made from it, and a drawing of it."""

from __future__ import annotations

import html
from collections.abc import Callable

from lakehouse_lib import tables
from lakehouse_lib.config import Settings

COLORS = {"landing": "#6b7280", "bronze": "#a0622d", "quarantine": "#6a4c93", "silver": "#5f6b7a", "gold": "#a67c00"}

_WIDTH, _HEIGHT, _BOX, _ROW = 230, 30, 200, 44


def upstream(settings: Settings, name: str) -> dict[str, list[str]]:
    """A table and all that it is made from, with the direct sources of each; landing folders last."""
    return _walk(settings, name, lambda one: _sources(settings)[one])


def downstream(settings: Settings, name: str) -> dict[str, list[str]]:
    """A table and all that is made from it, with what is made directly from each."""
    sources = _sources(settings)
    return _walk(settings, name, lambda one: [other for other, needs in sources.items() if one in needs])


def tree(edges: dict[str, list[str]], name: str, depth: int = 0) -> str:
    """The walk from a table as indented text; what was shown before is not shown again below."""
    lines, seen = [], set()

    def add(one: str, depth: int) -> None:
        again = one in seen and edges.get(one)
        lines.append("    " * depth + one + (" …" if again else ""))
        if not again:
            seen.add(one)
            for other in edges.get(one, []):
                add(other, depth + 1)

    add(name, depth)
    return "\n".join(lines)


def picture(settings: Settings, name: str) -> str:
    """An SVG of the tables before and after one, left to right; text that can be read out."""
    before, after = upstream(settings, name), downstream(settings, name)
    edges = {(source, one) for one, sources in before.items() for source in sources}
    edges |= {(one, target) for one, targets in after.items() for target in targets}
    names = list(dict.fromkeys([*before, *after]))
    column = {one: 0 for one in names}
    for _ in names:  # the longest way from landing
        for source, target in edges:
            column[target] = max(column[target], column[source] + 1)
    stacks: dict[int, list[str]] = {}
    for one in sorted(names, key=lambda one: (column[one], one)):
        stacks.setdefault(column[one], []).append(one)
    place = {one: (x * _WIDTH + 10, y * _ROW + 10) for x, stack in stacks.items() for y, one in enumerate(stack)}
    layers = {table.name: table.layer for table in tables.declared(settings).values()}
    lines = "".join(_line(place[source], place[target]) for source, target in sorted(edges))
    boxes = "".join(_drawn(one, layers.get(one, "landing"), *place[one], bold=one == name) for one in names)
    width, height = (max(stacks) + 1) * _WIDTH + 10, max(map(len, stacks.values())) * _ROW + 10
    sources, targets = (", ".join(found[name]) or "nothing" for found in (before, after))
    sentence = f"{name} is made from {sources}; made from it: {targets}"
    return (
        f'<svg role="img" aria-label="{html.escape(sentence)}" viewBox="0 0 {width} {height}" width="{width}" '
        f'style="max-width:100%" font-family="sans-serif" font-size="12">{lines}{boxes}</svg>'
    )


def _walk(settings: Settings, name: str, following: Callable[[str], list[str]]) -> dict[str, list[str]]:
    tables.get(settings, name)
    found: dict[str, list[str]] = {}
    waiting = [name]
    while waiting:
        one = waiting.pop(0)
        if one not in found:
            found[one] = following(one)
            waiting += found[one]
    return found


def _sources(settings: Settings) -> dict[str, list[str]]:
    declared = tables.declared(settings).values()
    found = {table.name: list(table.sources) or [f"landing/{table.name.removesuffix('_bronze')}"] for table in declared}
    return found | {source: [] for sources in found.values() for source in sources if source.startswith("landing/")}


def _line(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1, x2, y2 = start[0] + _BOX, start[1] + _HEIGHT / 2, end[0], end[1] + _HEIGHT / 2
    middle = (x1 + x2) / 2
    return f'<path d="M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}" fill="none" stroke="#9aa4b2"/>'


def _drawn(name: str, layer: str, x: int, y: int, bold: bool) -> str:
    fill = COLORS[layer]
    stroke = f'stroke="{fill}" stroke-width="{3 if bold else 1}"'
    weight = "bold" if bold else "normal"
    return (
        f'<rect x="{x}" y="{y}" width="{_BOX}" height="{_HEIGHT}" rx="4" fill="{fill}" fill-opacity="0.12" {stroke}/>'
        f'<text x="{x + 8}" y="{y + 19}" fill="currentColor" font-weight="{weight}">{html.escape(name)}</text>'
    )
