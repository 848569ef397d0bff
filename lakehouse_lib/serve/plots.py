"""Figures, one function each: labelled with units, legible at a glance and at any width, with alternative text for
screen readers."""

from __future__ import annotations

import html
import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from IPython.display import HTML

from lakehouse_lib.serve.charts import Layer, chart, number, stamp, time_ticks
from lakehouse_lib.serve.style import ACCENT, ODD, SERIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def over_time(frame: pd.DataFrame, x: str, y: list[str], title: str, unit: str) -> HTML:
    """Lines over time; ``frame`` holds a time column and number columns. One moment is told in words."""
    if frame.empty or not y:
        return _nothing(title)
    times = pd.to_datetime(frame[x])
    if times.nunique() < 2:
        values = ", ".join(f"{name.replace('_', ' ')} {frame[name].iloc[-1]:,.0f}" for name in y)
        only = f"{times.iloc[-1]:%Y-%m-%d %H:%M}".removesuffix(" 00:00")
        return HTML(f"<p>{html.escape(f'{title}: {values} {unit} (so far only {only}).')}</p>")
    stamps = [stamp(at) for at in times]
    layers = [
        Layer("line", list(zip(stamps, frame[name].astype(float), strict=True)), color,
              name.replace("_", " ") if len(y) > 1 else "")
        for name, color in zip(y, SERIES, strict=False)
    ]  # fmt: skip
    if not any(layer.drawn for layer in layers):
        return _nothing(title)
    return HTML(chart(title, unit, layers, time_ticks(times.min(), times.max())))


def by_hour(frame: pd.DataFrame, title: str, unit: str) -> HTML:
    """Lines over the hours of a day: ``hour`` and number columns."""
    names = [name for name in frame if name != "hour"]
    if frame.empty or not names:
        return _nothing(title)
    hours = frame.hour.astype(float)
    layers = [Layer("line", list(zip(hours, frame[name], strict=True)), color, str(name))
              for name, color in zip(names, SERIES, strict=False)]  # fmt: skip
    return HTML(chart(title, unit, layers, [(float(hour), f"{hour}:00") for hour in (0, 6, 12, 18, 23)]))


def band(frame: pd.DataFrame, title: str, unit: str) -> HTML:
    """A series with its expected band: the frame of `anomalies.expected_counts`."""
    if frame.empty:
        return _nothing(title)
    stamps = [stamp(at) for at in frame.index]
    expected = frame[["low", "high"]].notna().all(axis=1)
    low, high = (frame[name].where(expected) for name in ("low", "high"))
    layers = [
        Layer("band", list(zip(stamps, low, strict=True)), ACCENT, "expected range", list(high)),
        Layer("line", list(zip(stamps, frame.value, strict=True)), ACCENT),
        Layer("dots", list(zip(stamps, frame.value.where(frame.odd), strict=True)), ODD, "unusual"),
    ]
    if not expected.any():
        unit += ", too little history to expect a range"
    return HTML(chart(title, unit, layers, time_ticks(frame.index.min(), frame.index.max())))


def bars(frame: pd.DataFrame, label: str, value: str, title: str, unit: str) -> HTML:
    """Horizontal bars with their values."""
    if not frame[value].any():
        return _nothing(title)
    largest = frame[value].max()
    rows = "".join(
        f'<div style="overflow-wrap:anywhere">{html.escape(_category(name))}</div>'
        f'<div style="display:flex;align-items:center"><div style="background:{ACCENT};height:14px;border-radius:2px;'
        f'flex:0 1 {100 * count / largest:.2f}%"></div><span style="padding-left:6px">{count:,.0f}</span></div>'
        for name, count in zip(frame[label], frame[value], strict=True)
    )
    name = html.escape(f"{title}, {unit}")
    return HTML(
        f'<figure style="margin:8px 0 16px;max-width:860px" role="img" aria-label="{name}">'
        f'<figcaption style="margin-bottom:6px;font-size:13px"><b>{html.escape(title)}</b> '
        f'<span style="opacity:.75">{html.escape(unit)}</span></figcaption>'
        f'<div style="display:grid;grid-template-columns:fit-content(45%) minmax(0,1fr);gap:5px 12px;font-size:12px;'
        f'line-height:1.3;align-items:center">{rows}</div></figure>'
    )


def histogram(values: pd.Series, title: str, x: str, y: str, upper: float | None = None) -> HTML:
    """Distribution of numbers; values above ``upper`` are collected in the last bar."""
    values = values.dropna()
    if values.empty:
        return _nothing(title)
    counts, edges = np.histogram(values.clip(upper=upper).to_numpy(float), bins=40)
    centres, width = (edges[:-1] + edges[1:]) / 2, float(edges[1] - edges[0])
    layer = Layer("bars", list(zip(centres.tolist(), counts.astype(float).tolist(), strict=True)), width=0.9 * width)
    low, high = float(edges[0]), float(edges[-1])
    ticks = [(at, number(round(at, 1)) + ("+" if upper and at == high and values.max() > upper else ""))
             for at in np.linspace(low, high, 5).tolist()]  # fmt: skip
    return HTML(chart(title, f"{y}, by {x}", [layer], ticks))


def own(figure: Figure, title: str) -> HTML:
    """Show a figure that you have drawn with matplotlib: as SVG, in the colours of the page around it."""
    import matplotlib.pyplot as plt
    from matplotlib.text import Text

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_INK)
        axes.tick_params(colors=_INK)
    for text in figure.findobj(Text):
        text.set_color(_INK)
    picture = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none"}):
        figure.savefig(picture, format="svg", transparent=True, bbox_inches="tight")
    plt.close(figure)
    svg = picture.getvalue().partition("<svg ")[2].replace(_INK, "currentColor")
    name = html.escape(title)
    return HTML(
        f'<figure style="margin:8px 0 16px;max-width:860px" role="img" aria-label="{name}">'
        f'<figcaption style="margin-bottom:6px;font-size:13px"><b>{name}</b></figcaption>'
        f'<svg style="max-width:100%;height:auto" {svg}</figure>'
    )


_INK = "#123457"
"""Stands for the page's own colour of text, until the figure is written."""


def _category(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:,.0f}" if value.is_integer() else f"{value:,.2f}"
    return str(value)


def _nothing(title: str) -> HTML:
    """A placeholder for a figure without rows."""
    return HTML(f"<p>{html.escape(title)}: there are no rows to draw.</p>")
