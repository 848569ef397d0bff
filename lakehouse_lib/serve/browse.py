"""Tables as plain HTML that looks the same in JupyterLab, in exports and offline."""

from __future__ import annotations

import html
from datetime import datetime, time
from typing import Any

import pandas as pd
from IPython.display import HTML

BADGES = {
    "ok": "#2e7d4f", "fresh": "#2e7d4f", "warn": "#b26a00", "late": "#b26a00", "error": "#b3261e",
    "failed": "#b3261e", "held": "#b3261e", "quarantine": "#6a4c93",
    "Healthy": "#2e7d4f", "Unknown": "#5f6b7a", "Warning": "#b26a00", "Degraded": "#b3261e",
}  # fmt: skip
"""Colour of each word that is shown as a badge; the word itself carries the meaning as well."""

VERDICTS = ("verdict", "severity", "freshness", "state", "checks", "last run")
"""Columns whose values are shown as badges."""

_CELL = "padding:3px 12px 3px 0;border-bottom:1px solid #8884;vertical-align:top;"


def table(frame: pd.DataFrame, empty: str = "Nothing.") -> HTML:
    """A frame as a table without an index: numbers right-aligned, verdicts as badges."""
    if frame.empty:
        return HTML(f"<p>{html.escape(empty)}</p>")
    right = {name: pd.api.types.is_numeric_dtype(frame[name]) for name in frame}
    align = {name: "text-align:right" if right[name] else "text-align:left" for name in frame}
    head = "".join(f'<th style="{_CELL}{align[name]}">{html.escape(str(name))}</th>' for name in frame)
    rows = "".join(
        "<tr>"
        + "".join(f'<td style="{_CELL}{align[n]}">{_text(n, v)}</td>' for n, v in zip(frame, row, strict=True))
        + "</tr>"
        for row in frame.itertuples(index=False)
    )
    return HTML(
        '<div style="overflow-x:auto"><table style="border-collapse:collapse;font-size:13px;line-height:1.35">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


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
