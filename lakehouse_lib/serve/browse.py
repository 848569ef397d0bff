"""Tables as plain HTML that looks the same in JupyterLab, in exports and offline."""

from __future__ import annotations

import html
from datetime import datetime, time
from typing import Any

import pandas as pd
from IPython.core.getipython import get_ipython
from IPython.display import HTML

from lakehouse_lib.serve.style import BADGES

VERDICTS = ("verdict", "severity", "freshness", "state", "checks", "last run")
"""Columns whose values are shown as badges."""

MOST = 200
"""Rows of a frame that are shown where a cell ends with it."""

_CELL = "padding:4px 12px 4px 0;border-bottom:1px solid #8884;vertical-align:top;max-width:none;"
_HEAD = f"{_CELL}font-weight:400;font-size:12px;opacity:.78;"
_FIRST = "position:sticky;left:0;background:var(--jp-layout-color0,Canvas);"
"""The first column stays in sight where a narrow screen scrolls the others."""


def table(frame: pd.DataFrame, empty: str = "Nothing.") -> HTML:
    """A frame as a table without an index: numbers right-aligned, verdicts as badges."""
    if frame.empty:
        return HTML(f"<p>{html.escape(empty)}</p>")
    style = {name: _alignment(frame[name]) + _FIRST * (n == 0) for n, name in enumerate(frame)}
    head = "".join(f'<th style="{_HEAD}{style[name]}">{html.escape(str(name))}</th>' for name in frame)
    rows = "".join(
        '<tr style="background:none">'
        + "".join(f'<td style="{_CELL}{style[n]}">{_text(n, v)}</td>' for n, v in zip(frame, row, strict=True))
        + "</tr>"
        for row in frame.itertuples(index=False)
    )
    return HTML(
        '<div style="overflow-x:auto"><table style="border-collapse:collapse;font-size:13px;line-height:1.4;margin:0">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _alignment(column: pd.Series) -> str:
    """Numbers to the right and in one line; long texts wrap."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return "text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums;"
    longest = max((len(str(value)) for value in column), default=0)
    wrapped = "white-space:normal;overflow-wrap:anywhere;min-width:14em;" if longest > 30 else "white-space:nowrap;"
    return f"text-align:left;{wrapped}"


def use_everywhere() -> None:
    """Show every frame of this kernel in this style, also where a cell ends with the frame itself."""
    kernel = get_ipython()
    if kernel is not None and kernel.display_formatter is not None:
        kernel.display_formatter.formatters["text/html"].for_type(pd.DataFrame, _shown)


def _shown(frame: pd.DataFrame) -> str:
    """A frame as HTML, with its index if that has a name."""
    named = frame.reset_index() if any(frame.index.names) else frame
    cut = f"<p>The first {MOST:,} of {len(named):,} rows.</p>" if len(named) > MOST else ""
    return f"{table(named.head(MOST), 'No rows.').data}{cut}"


def code(text: str) -> HTML:
    """Preformatted text to copy."""
    return HTML(f'<pre style="font-size:12px;line-height:1.4;white-space:pre-wrap">{html.escape(text)}</pre>')


def _text(name: Any, value: Any) -> str:
    if name in VERDICTS and value in BADGES:
        return f'<span style="color:#fff;background:{BADGES[value]};border-radius:3px;padding:1px 7px">{value}</span>'
    if value is None or value is pd.NaT or (isinstance(value, float) and pd.isna(value)):
        return ""
    if isinstance(value, datetime):
        text = f"{value:%Y-%m-%d}" if value.time() == time() else f"{value:%Y-%m-%d %H:%M:%S}"
        return f'<span style="white-space:nowrap">{text}</span>'
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.2f}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,.0f}"
    text = html.escape(str(value))
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(text.split("`")))
