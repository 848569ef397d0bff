"""Source files of the library and of registered tables: where they are, and what they define."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

LIBRARY = Path(__file__).parents[1]


def files(packages: Iterable[str]) -> list[Path]:
    """Return the files that may define the functions of some packages."""
    paths = {LIBRARY / "model/messages.py", *(LIBRARY / "layers").glob("*.py"), *(LIBRARY / "intake").glob("*.py")}
    for package in packages:
        if package != "lakehouse_lib" and (path := path_of(package)):
            paths |= {*path.parent.rglob("*.py")} if path.name == "__init__.py" else {path}
    return sorted(paths)


def digest_of(packages: Iterable[str]) -> str:
    """Return a digest of `files`, much faster than parsing them."""
    digest = hashlib.blake2b(_bytes(Path(__file__).with_name("code.py")), digest_size=16)  # it defines what is read
    for path in files(packages):
        digest.update(_bytes(path))
    return digest.hexdigest()


class Module:
    """What a module defines at its top level, by name."""

    def __init__(self, name: str, source: bytes):
        self.name = name
        self.defined: dict[str, ast.stmt] = {}
        self.imported: dict[str, str] = {}
        for node in _statements(ast.parse(source).body):
            self.imported |= imports_of(node, name)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.defined[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))
                self.defined |= dict.fromkeys(names, node)

    def definition(self, name: str) -> ast.stmt | None:
        """Return the definition of a name such as ``Inputs`` or ``Inputs.new``."""
        outer, _, inner = name.partition(".")
        node = self.defined.get(outer)
        if not inner or not isinstance(node, ast.ClassDef):
            return None if inner else node
        return next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == inner), None)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from _statements([*node.body, *node.orelse])
        else:
            yield node


def imports_of(node: ast.AST, module: str) -> dict[str, str]:
    """Return the names that a statement imports, and what they refer to."""
    if isinstance(node, ast.Import):
        return {a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names}
    if isinstance(node, ast.ImportFrom):
        above = module.rsplit(".", node.level)[0] + "." if node.level else ""
        return {alias.asname or alias.name: f"{above}{node.module or ''}.{alias.name}" for alias in node.names}
    return {}


def path_of(module: str) -> Path | None:
    """Return the source file of a module; None if it has none, such as a notebook."""
    if module.split(".")[0] == "lakehouse_lib":
        path = LIBRARY.joinpath(*module.split(".")[1:])
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    known = getattr(sys.modules.get(module), "__file__", None)
    if known is None and module not in sys.modules:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            return None
        known = spec.origin if spec else None
    return Path(known) if known and known.endswith(".py") else None


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def module_of(name: str) -> Module | None:
    path = path_of(name)
    return _parsed(name, _bytes(path)) if path and path.exists() else None


@functools.lru_cache(128)
def _parsed(name: str, source: bytes) -> Module:
    return Module(name, source)


def home_of(dotted: str) -> tuple[str, str]:
    """Return the module that defines something, and its name there; re-exported names are followed."""
    parts = dotted.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = module_of(".".join(parts[:cut]))
        if module is None:
            continue
        target = module.imported.get(parts[cut])
        if target and parts[cut] not in module.defined:
            return home_of(".".join([target, *parts[cut + 1 :]])) if target != dotted else (module.name, parts[cut])
        return module.name, ".".join(parts[cut:])
    return "", parts[-1]
