"""Rules of the code base: the package diagram, the length of functions, and a single version number."""

from __future__ import annotations

import ast
import re
from importlib import metadata
from pathlib import Path

import grimp
import pytest

SOURCES = sorted(Path("lakehouse_lib").rglob("*.py"))
FREE = {"config", "errors"}
LONGEST_FUNCTION = 50


def imports() -> set[tuple[str, str]]:
    """Return which package or top-level module imports which other."""
    graph = grimp.build_graph("lakehouse_lib", exclude_type_checking_imports=True, cache_dir=None)
    edges = set()
    for module in graph.modules - {"lakehouse_lib"}:
        for imported in graph.find_modules_directly_imported_by(module) - {"lakehouse_lib"}:
            edges.add((module.split(".")[1], imported.split(".")[1]))
    return {
        (importer, imported)
        for importer, imported in edges
        if importer != imported and imported not in FREE and importer != "__main__"
    }


def reached(edges: set[tuple[str, str]], start: str) -> set[str]:
    names: set[str] = set()
    waiting = [start]
    while waiting:
        at = waiting.pop()
        new = {imported for importer, imported in edges if importer == at} - names
        names |= new
        waiting += new
    return names


def test_package_diagram_matches_the_imports():
    """The diagram has an arrow for each import that does not follow from other arrows, and no others."""
    drawn = set(re.findall(r"^    (\w+).*--> (\w+)", Path("lakehouse_lib/README.md").read_text(), re.M))
    edges = imports()
    needed = {
        (importer, imported)
        for importer, imported in edges
        if imported not in reached(edges - {(importer, imported)}, importer)
    }
    assert drawn == needed


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_functions_are_short(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, node.name


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name == "__init__.py"], ids=str)
def test_each_package_has_a_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_version_is_defined_in_one_place():
    declared = re.search(r'^version = "(.+)"', Path("pyproject.toml").read_text(), re.M)
    assert declared and metadata.version("lakehouse-workbook") == declared[1]
    assert not [path for path in SOURCES if re.search(r'__version__ =|VERSION = "', path.read_text())]
