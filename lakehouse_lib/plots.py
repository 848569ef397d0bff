"""Figures: one function each, labelled with units, legible at a glance, described for those who listen."""

from __future__ import annotations

import base64
import html
import io

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

INK, ACCENT = "#33415c", "#2a7f9e"
COLORS = (ACCENT, "#d08c3a", "#7a5c99", "#5b8c5a")


def over_time(frame: pd.DataFrame, x: str, y: list[str], title: str, unit: str) -> HTML:
    """Lines over time; ``frame`` holds a time column and number columns."""
    figure, axes = _axes(title, "", unit)
    for name, color in zip(y, COLORS, strict=False):
        axes.plot(pd.to_datetime(frame[x]), frame[name], lw=1.4, color=color, label=name.replace("_", " "))
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(axes.xaxis.get_major_locator()))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    if len(y) > 1:
        axes.legend(frameon=False, ncols=len(y))
    return _picture(figure, title)


def bars(frame: pd.DataFrame, label: str, value: str, title: str, unit: str) -> HTML:
    """Horizontal bars with their numbers."""
    figure, axes = _axes(title, unit, "", height=0.9 + 0.34 * max(2, len(frame)))
    drawn = axes.barh(frame[label].astype(str)[::-1], frame[value][::-1], color=ACCENT)
    axes.bar_label(drawn, fmt="{:,.0f}", padding=4, color=INK)
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    return _picture(figure, title)


def histogram(values: pd.Series, title: str, x: str, y: str, upper: float | None = None) -> HTML:
    """Distribution of numbers; those above ``upper`` are gathered in the last bar."""
    figure, axes = _axes(title, x, y)
    axes.hist(values.clip(upper=upper), bins=40, color=ACCENT)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    return _picture(figure, title)


def _axes(title: str, x: str, y: str, height: float = 3.0) -> tuple[Figure, plt.Axes]:
    figure, axes = plt.subplots(figsize=(9, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", color=INK)
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _picture(figure: Figure, title: str) -> HTML:
    """The figure with its title as alternative text, which exported notebooks would drop."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    plt.close(figure)
    image = base64.b64encode(data.getvalue()).decode()
    return HTML(f'<figure><img alt="{html.escape(title)}" src="data:image/png;base64,{image}"></figure>')
