"""Templates of pages: they escape everything that comes from data, and each page carries its style."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from IPython.display import HTML
from markupsafe import Markup

from lakehouse_lib.serve import style

_FOLDER = Path(__file__).parent / "templates"


def _breakable(name: str) -> Markup:
    """Return a name that may be broken after an underscore."""
    return Markup("_<wbr>").join(name.split("_"))


_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)  # fmt: skip
_environment.filters |= {"moment": style.moment, "size": style.size, "seconds": style.seconds, "breakable": _breakable}
_environment.globals |= {"color": lambda word: style.BADGES.get(word, style.IDLE)}
CSS, SCRIPT = (Markup((_FOLDER / f"report.{suffix}").read_text()) for suffix in ("css", "js"))
for _name in ("front", "tables", "runs", "business"):
    _environment.get_template(f"{_name}.html")  # compiled once, before kernels are forked


def shown(name: str, script: str = "", **values: Any) -> HTML:
    """Show a part of a page, with its style, in a notebook."""
    script = f"<script>{script}</script>" if script else ""
    return HTML(f'<style>{CSS}</style><div class="lh">{fill(name, **values)}</div>{script}')


def fill(name: str, **values: Any) -> str:
    """Fill a template."""
    return _environment.get_template(f"{name}.html").render(values)
