"""Lineage of tables and columns: what each is made from, what is made from it, and a drawing of the graph.

Table lineage comes from the declarations; column lineage from the query plans of the runs that last wrote
the tables, as recorded in ``ops/lineage``.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from deltalake import DeltaTable

from lakehouse_lib.config import Settings
from lakehouse_lib.errors import ConfigError, TableError
from lakehouse_lib.model import tables
from lakehouse_lib.storage import delta, remembered

COLORS = {"landing": "#6b7280", "bronze": "#a0622d", "quarantine": "#6a4c93", "silver": "#5f6b7a", "gold": "#a67c00"}

_WIDTH, _HEIGHT, _BOX, _ROW = 230, 30, 200, 44


@dataclass
class Made:
    """The columns that a column is made from, by name; ``table.*`` stands for the number of rows."""

    direct: list[str] = field(default_factory=list)
    """Columns that supply the value."""
    indirect: list[str] = field(default_factory=list)
    """Columns that decide which value is taken."""


def columns(settings: Settings) -> dict[str, Made]:
    """Every ``table.column`` with known lineage, and what it is made from.

    Paths into structs count as columns too: ``clickstream_silver._clicks.click_id``.
    """
    recorded = delta.open_table(f"{settings.layer_path('ops')}/lineage")
    return {} if recorded is None else remembered.made_of(recorded, "columns", _columns)


def _columns(recorded: DeltaTable) -> dict[str, Made]:
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(delta.dataset(recorded).to_table().to_pylist(), key=lambda row: row["recorded_at"]):
        if row.get("columns"):
            newest[row["target"], row["source"]] = row
    lineage: dict[str, Made] = {}
    for (target, source), row in sorted(newest.items()):
        parts = json.loads(row["columns"])
        for kind in ("direct", "indirect"):
            for name, refs in parts[kind].items():
                inputs = lineage.setdefault(f"{target}.{name}", Made())
                getattr(inputs, kind).extend(f"{source}.{ref}" for ref in refs)
    return lineage


def column_upstream(settings: Settings, column: str) -> dict[str, list[str]]:
    """A ``table.column`` and all columns that its value comes from, each with its direct inputs.

    Raises
    ------
    ConfigError
        There is no such table or column.
    TableError
        No run has recorded what the table's columns are made from.
    """
    known = _known_columns(settings, column)
    return _follow(column, lambda name: known[name].direct if name in known else [])


def column_downstream(settings: Settings, column: str) -> dict[str, list[str]]:
    """A ``table.column`` and all columns whose values come from it; raises as `column_upstream` does."""
    known = _known_columns(settings, column)

    owners = {name.rpartition(".")[0] for name in known}

    def made_from(parent: str) -> list[str]:
        if parent != column and parent in owners:
            return []  # columns made from one of its fields are listed under that field
        return [
            name
            for name, inputs in known.items()
            if any(ref == parent or (parent == column and ref.startswith(f"{parent}.")) for ref in inputs.direct)
        ]

    return _follow(column, made_from)


def _known_columns(settings: Settings, column: str) -> dict[str, Made]:
    name, _, path = column.partition(".")
    if not name.startswith("landing/"):
        table = tables.get(settings, name)
        delta_table = delta.opened(settings, table)
        names = [f.name for f in delta_table.schema().fields] if delta_table else table.names
        if path.split(".")[0] not in [*names, "*"]:
            raise ConfigError(f"{name} has no column {path!r}; it has {', '.join(names)}")
    known = columns(settings)
    if not any(
        f"{column_name}.".startswith(f"{name}.") or any(ref.startswith(f"{name}.") for ref in inputs.direct)
        for column_name, inputs in known.items()
    ):
        raise TableError(
            f"What the columns of {name} are made from is recorded by the run that makes it: "
            f"`lakehouse run`, or once `lakehouse run --full --tables {name}`."
        )
    return known


def upstream(settings: Settings, name: str) -> dict[str, list[str]]:
    """A table and everything that it is made from, each with its direct sources; landing folders last."""
    sources = _sources(settings)
    return _walk(settings, name, lambda table_name: sources[table_name])


def downstream(settings: Settings, name: str) -> dict[str, list[str]]:
    """A table and everything that is made from it, each with its direct targets."""
    sources = _sources(settings)
    return _walk(settings, name, lambda source: [target for target, inputs in sources.items() if source in inputs])


def tree(edges: dict[str, list[str]], name: str, depth: int = 0) -> str:
    """The graph below a table as indented text; a branch that was already shown ends in ``…``."""
    lines, seen = [], set()

    def add(node: str, depth: int) -> None:
        again = node in seen and edges.get(node)
        lines.append("    " * depth + node + (" …" if again else ""))
        if not again:
            seen.add(node)
            for child in edges.get(node, []):
                add(child, depth + 1)

    add(name, depth)
    return "\n".join(lines)


def picture(settings: Settings, name: str) -> str:
    """An SVG of the tables upstream and downstream of one, left to right, with a label for screen readers."""
    before, after = upstream(settings, name), downstream(settings, name)
    edges = {(source, node) for node, sources in before.items() for source in sources}
    edges |= {(node, target) for node, targets in after.items() for target in targets}
    names = list(dict.fromkeys([*before, *after]))
    column = dict.fromkeys(names, 0)
    for _ in names:  # the length of the longest path from landing
        for source, target in edges:
            column[target] = max(column[target], column[source] + 1)
    stacks: dict[int, list[str]] = {}
    for node in sorted(names, key=lambda node: (column[node], node)):
        stacks.setdefault(column[node], []).append(node)
    place = {node: (x * _WIDTH + 10, y * _ROW + 10) for x, stack in stacks.items() for y, node in enumerate(stack)}
    layers = {table.name: table.layer for table in tables.declared(settings).values()}
    lines = "".join(_line(place[source], place[target]) for source, target in sorted(edges))
    boxes = "".join(_drawn(node, layers.get(node, "landing"), *place[node], bold=node == name) for node in names)
    width, height = (max(stacks) + 1) * _WIDTH + 10, max(map(len, stacks.values())) * _ROW + 10
    sources, targets = (", ".join(graph[name]) or "nothing" for graph in (before, after))
    sentence = f"{name} is made from {sources}; made from it: {targets}"
    return (
        f'<svg role="img" aria-label="{html.escape(sentence)}" viewBox="0 0 {width} {height}" width="{width}" '
        f'style="max-width:100%" font-family="sans-serif" font-size="12">{lines}{boxes}</svg>'
    )


def _walk(settings: Settings, name: str, neighbours: Callable[[str], list[str]]) -> dict[str, list[str]]:
    tables.get(settings, name)
    return _follow(name, neighbours)


def _follow(start: str, neighbours: Callable[[str], list[str]]) -> dict[str, list[str]]:
    edges: dict[str, list[str]] = {}
    waiting = [start]
    while waiting:
        name = waiting.pop(0)
        if name not in edges:
            edges[name] = neighbours(name)
            waiting += edges[name]
    return edges


def _sources(settings: Settings) -> dict[str, list[str]]:
    declared = tables.declared(settings).values()
    sources_of = {
        table.name: list(table.sources) or [f"landing/{table.name.removesuffix('_bronze')}"] for table in declared
    }
    return sources_of | {
        source: [] for sources in sources_of.values() for source in sources if source.startswith("landing/")
    }


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
