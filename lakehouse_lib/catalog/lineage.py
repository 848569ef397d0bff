"""Lineage of tables and columns: what each is made from, what is made from it, and a drawing of it.

Between tables it follows from the declarations; between columns from the plans of the last runs that
made them, as ``ops/lineage`` keeps them.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError, TableError
from lakehouse_lib.model import tables
from lakehouse_lib.storage import delta

COLORS = {"landing": "#6b7280", "bronze": "#a0622d", "quarantine": "#6a4c93", "silver": "#5f6b7a", "gold": "#a67c00"}

_WIDTH, _HEIGHT, _BOX, _ROW = 230, 30, 200, 44


@dataclass
class Made:
    """What a column is made from: columns by name, ``table.*`` for the number of rows."""

    direct: list[str] = field(default_factory=list)
    """Its value comes from them."""
    indirect: list[str] = field(default_factory=list)
    """They decide which value it is."""


def columns(settings: Settings) -> dict[str, Made]:
    """Every ``table.column`` of which lineage is known, and what it is made from.

    Paths into structs are columns too: ``clickstream_silver._clicks.click_id``.
    """
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(delta.read_ops(settings, "lineage"), key=lambda row: row["recorded_at"]):
        if row.get("columns"):
            newest[row["target"], row["source"]] = row
    found: dict[str, Made] = {}
    for (target, source), row in sorted(newest.items()):
        parts = json.loads(row["columns"])
        for kind in ("direct", "indirect"):
            for name, refs in parts[kind].items():
                made = found.setdefault(f"{target}.{name}", Made())
                getattr(made, kind).extend(f"{source}.{ref}" for ref in refs)
    return found


def column_upstream(settings: Settings, column: str) -> dict[str, list[str]]:
    """A ``table.column`` and all columns that its value comes from, with the direct ones of each.

    Raises
    ------
    ConfigError
        There is no such table or column.
    TableError
        No run has recorded what the table's columns are made from.
    """
    known = _known_columns(settings, column)
    return _follow(column, lambda one: known[one].direct if one in known else [])


def column_downstream(settings: Settings, column: str) -> dict[str, list[str]]:
    """A ``table.column`` and all columns whose values come from it; see `column_upstream`."""
    known = _known_columns(settings, column)

    owners = {name.rpartition(".")[0] for name in known}

    def made_from(one: str) -> list[str]:
        if one != column and one in owners:
            return []  # what is made from a field of it stands below the field
        return [
            name
            for name, made in known.items()
            if any(ref == one or (one == column and ref.startswith(f"{one}.")) for ref in made.direct)
        ]

    return _follow(column, made_from)


def _known_columns(settings: Settings, column: str) -> dict[str, Made]:
    name, _, path = column.partition(".")
    if not name.startswith("landing/"):
        table = tables.get(settings, name)
        opened = delta.opened(settings, table)
        names = [f.name for f in opened.schema().fields] if opened else table.names
        if path.split(".")[0] not in [*names, "*"]:
            raise ConfigError(f"{name} has no column {path!r}; it has {', '.join(names)}")
    known = columns(settings)
    if not any(
        f"{one}.".startswith(f"{name}.") or any(ref.startswith(f"{name}.") for ref in made.direct)
        for one, made in known.items()
    ):
        raise TableError(
            f"What the columns of {name} are made from is recorded by the run that makes it: "
            f"`lakehouse run`, or once `lakehouse run --full --tables {name}`."
        )
    return known


def upstream(settings: Settings, name: str) -> dict[str, list[str]]:
    """A table and all that it is made from, with the direct sources of each; landing folders last."""
    sources = _sources(settings)
    return _walk(settings, name, lambda one: sources[one])


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
    column = dict.fromkeys(names, 0)
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
    return _follow(name, following)


def _follow(name: str, following: Callable[[str], list[str]]) -> dict[str, list[str]]:
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
