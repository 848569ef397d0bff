"""The code that makes a table: a function and what it calls, compared by what it does.

The source files are parsed, not imported. Comments, docstrings, formatting, annotations,
names of locals and parameters, and the module that a function stands in make no difference.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lakehouse_lib.model import sources

FOLLOWED = ("lakehouse_lib.layers.", "lakehouse_lib.intake.", "lakehouse_lib.model.messages.")
"""Parts of the library whose code decides on rows."""
LEFT_OUT = ("lakehouse_lib.layers.inputs.",)
"""Of these, the part that only passes rows on."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_WITHOUT_MEANING = ("ctx", "kind", "type_comment", "type_params", "returns", "annotation")


@dataclass(frozen=True)
class Piece:
    """A function, class or constant."""

    name: str
    """With its module, for display."""
    digest: str
    text: str
    """The source, without docstrings and comments."""


@dataclass
class Code:
    """All code that makes a table."""

    pieces: list[Piece] = field(default_factory=list)
    settings: set[str] = field(default_factory=set)
    """Settings that it reads, as far as the source shows."""
    attributes: set[str] = field(default_factory=set)
    """Names of all attributes that it uses."""


def read(roots: Iterable[str]) -> Code:
    """Return the code of functions, given by their dotted names, with everything that they call."""
    code, waiting, seen = Code(), [], set[tuple[str, str]]()
    packages = {root.split(".")[0] for root in roots} - {"lakehouse_lib"}
    for root in roots:
        home, _, name = root.rpartition(".")
        waiting.append((home, name))
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        module_name, name = place
        own, prefix = module_name.split(".")[0] in packages, f"{module_name}."
        decides = own or (prefix.startswith(FOLLOWED) and not prefix.startswith(LEFT_OUT))
        module = sources.module_of(module_name) if decides else None
        if module is None or (node := module.definition(name)) is None:
            continue
        reader = _Reader(module, name.split(".")[0] if "." in name else "")
        normal_form = reader.normal_form(node)
        digest = hashlib.blake2b(normal_form.encode(), digest_size=8).hexdigest()
        code.pieces.append(
            Piece(f"{module_name}.{name}", digest, ast.unparse(_Undocumented().visit(copy.deepcopy(node))))
        )
        code.settings |= reader.settings
        code.attributes |= reader.attributes
        waiting += sorted(reader.called)
    code.pieces.sort(key=lambda piece: piece.name)
    return code


# Normal form -------------------------------------------------------------------


class _Reader:
    """Writes a piece of code in a normal form, and records what it calls."""

    def __init__(self, module: sources.Module, owner: str):
        self.module, self.owner = module, owner
        self.called: set[tuple[str, str]] = set()
        self.settings: set[str] = set()
        self.attributes: set[str] = set()
        self.imported = dict(module.imported)
        self.scopes: list[dict[str, str]] = []
        self.kinds: dict[str, str] = {}
        """Classes of parameters, by the parameter."""
        self.locals = 0

    def normal_form(self, node: ast.AST) -> str:
        """Return the normal form of a node."""
        if isinstance(node, ast.AnnAssign) and self.scopes:
            return f"Assign([{self.normal_form(node.target)}]{self.normal_form(node.value)})" if node.value else ""
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return ""
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.imported |= sources.imports_of(node, self.module.name)
            return ""
        if isinstance(node, ast.Name):
            return self._name(node.id)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, _SCOPES):
            return self._scope(node)
        return self._fields(node)

    def _fields(self, node: ast.AST) -> str:
        parts = []
        for name, value in ast.iter_fields(node):
            if name in _WITHOUT_MEANING or value is None or value == []:
                continue
            if isinstance(node, ast.ExceptHandler | ast.arg | ast.FunctionDef) and name in ("name", "arg"):
                value = self._local(value) or value.rpartition(".")[2]
            parts.append(f"{name}={self._value(value)}")
        return f"{type(node).__name__}({','.join(parts)})"

    def _value(self, value: object) -> str:
        if isinstance(value, list):
            return f"[{','.join(filter(None, map(self._value, value)))}]"
        return self.normal_form(value) if isinstance(value, ast.AST) else repr(value)

    def _scope(self, node: ast.AST) -> str:
        """Return the normal form of a function or comprehension; parameters and locals are numbered."""
        names = dict.fromkeys(_bound(node))
        self.scopes.append({name: f"_{self.locals + n}" for n, name in enumerate(names)})
        self.locals += len(names)
        if isinstance(node, _Function):
            self._note_kinds(node)
        normal_form = self._fields(node)
        self.scopes.pop()
        return normal_form

    def _note_kinds(self, node: _Function) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for argument in arguments:
            if isinstance(argument.annotation, ast.Name | ast.Attribute):
                self.kinds[argument.arg] = self._dotted(argument.annotation) or ""
        if self.owner and len(self.scopes) == 1 and arguments:
            self.kinds[arguments[0].arg] = f"{self.module.name}.{self.owner}"

    def _local(self, name: str) -> str | None:
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), None)

    def _name(self, name: str) -> str:
        return self._local(name) or self._refer(self._dotted(ast.Name(name)) or name)

    def _attribute(self, node: ast.Attribute) -> str:
        self.attributes.add(node.attr)
        base = node.value
        if (isinstance(base, ast.Name) and base.id == "settings") or (
            isinstance(base, ast.Attribute) and base.attr == "settings"
        ):
            self.settings.add(node.attr)
        if dotted := self._dotted(node):
            return self._refer(dotted)
        if isinstance(base, ast.Name) and self._local(base.id) and (kind := self.kinds.get(base.id)):
            module, _, name = kind.rpartition(".")
            self.called.add((module, f"{name}.{node.attr}"))
        return f"{self.normal_form(base)}.{node.attr}"

    def _dotted(self, node: ast.expr) -> str | None:
        """Return what a dotted name refers to, if it begins with a name of the module."""
        if isinstance(node, ast.Attribute):
            base = self._dotted(node.value)
            return f"{base}.{node.attr}" if base else None
        if not isinstance(node, ast.Name) or self._local(node.id):
            return None
        if node.id in self.module.defined:
            return f"{self.module.name}.{node.id}"
        return self.imported.get(node.id)

    def _refer(self, dotted: str) -> str:
        """Record a reference; for the library and the table's own package return it without its module."""
        package = self.module.name.split(".")[0]
        if dotted.split(".")[0] not in ("lakehouse_lib", package):
            return dotted
        module, name = sources.home_of(dotted)
        self.called.add((module, name.split(".")[0]))
        return f"@{name}"


def _bound(node: ast.AST) -> Iterator[str]:
    """Yield the names that a function or comprehension binds: parameters, then locals in order."""
    if isinstance(node, _Function):
        arguments = node.args
        for argument in [*arguments.posonlyargs, *arguments.args, arguments.vararg, *arguments.kwonlyargs,
                         arguments.kwarg]:  # fmt: skip
            if argument:
                yield argument.arg
    waiting = [*reversed([*ast.iter_child_nodes(node)])]
    while waiting:
        part = waiting.pop()
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler):
            yield from filter(None, [part.name])
        elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id
        if not isinstance(part, (*_SCOPES, ast.ClassDef)):
            waiting += reversed([*ast.iter_child_nodes(part)])


class _Undocumented(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | ast.Pass:
        """Leave out docstrings."""
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.Pass() if is_text else node
