"""Figures, one function each: labelled with units, legible at a glance, with alternative text for screen readers."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, ACCENT = "#33415c", "#2a7f9e"
COLORS = (ACCENT, "#d08c3a", "#7a5c99", "#5b8c5a")


def over_time(frame: pd.DataFrame, x: str, y: list[str], title: str, unit: str) -> HTML:
    """Lines over time; ``frame`` holds a time column and number columns."""
    if frame.empty or not y:
        return _nothing(title)
    figure, axes = _axes(title, "", unit)
    for name, color in zip(y, COLORS, strict=False):
        # A line of few points is hard to see without markers.
        marker = "o" if len(frame) < 40 else ""
        axes.plot(pd.to_datetime(frame[x]), frame[name], lw=1.4, marker=marker, ms=4, color=color,
                  label=name.replace("_", " "))  # fmt: skip
    axes.margins(y=0.15)
    axes.set_ylim(bottom=0)
    if len(frame) == 1:
        moment = pd.to_datetime(frame[x].iloc[0])
        axes.set_xlim(moment - pd.Timedelta(days=3), moment + pd.Timedelta(days=3))
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    if len(y) > 1:
        axes.legend(frameon=False, ncols=len(y))
    return _picture(figure, title)


def band(frame: pd.DataFrame, title: str, unit: str) -> HTML:
    """A series with its expected band: the frame of `anomalies.expected_counts`."""
    if frame.empty:
        return _nothing(title)
    figure, axes = _axes(title, "", unit)
    axes.fill_between(frame.index, frame.low, frame.high, color=ACCENT, alpha=0.15, lw=0, label="expected band")
    axes.plot(frame.index, frame.value, lw=1.4, marker="o" if len(frame) < 80 else "", ms=3, color=ACCENT, label="rows")
    odd = frame[frame.odd]
    axes.plot(odd.index, odd.value, "o", ms=8, color=COLORS[1], label="anomaly")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(frameon=False, ncols=3, loc="lower left")
    return _picture(figure, title)


def bars(frame: pd.DataFrame, label: str, value: str, title: str, unit: str) -> HTML:
    """Horizontal bars with their values."""
    if not frame[value].any():
        return _nothing(title)
    figure, axes = _axes(title, unit, "", height=0.9 + 0.34 * max(2, len(frame)))
    rectangles = axes.barh(frame[label].astype(str)[::-1], frame[value][::-1], color=ACCENT)
    axes.bar_label(rectangles, fmt="{:,.0f}", padding=4, color=INK)
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    return _picture(figure, title)


def histogram(values: pd.Series, title: str, x: str, y: str, upper: float | None = None) -> HTML:
    """Distribution of numbers; values above ``upper`` are collected in the last bar."""
    if values.empty:
        return _nothing(title)
    figure, axes = _axes(title, x, y)
    axes.hist(values.clip(upper=upper), bins=40, color=ACCENT)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    return _picture(figure, title)


def _nothing(title: str) -> HTML:
    """A placeholder for a figure without rows."""
    return HTML(f"<p>{html.escape(title)}: there are no rows to draw.</p>")


def _axes(title: str, x: str, y: str, height: float = 3.0) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(9, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", color=INK)
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _picture(figure: Figure, title: str) -> HTML:
    """The figure as HTML with its title as alternative text, which exported notebooks would otherwise drop."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    plt.close(figure)
    image = base64.b64encode(data.getvalue()).decode()
    return HTML(
        # On a phone the figure scrolls sideways instead of shrinking until it is unreadable.
        f'<figure style="overflow-x:auto;margin:8px 0"><img alt="{html.escape(title)}" '
        f'style="max-width:100%;min-width:560px" src="data:image/png;base64,{image}"></figure>'
    )
