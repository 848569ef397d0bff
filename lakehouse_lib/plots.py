"""Figures: one function each, labelled with units, legible at a glance."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

INK, ACCENT = "#33415c", "#2a7f9e"


def _axes(title: str, x: str, y: str) -> tuple[Figure, plt.Axes]:
    figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
    axes.set_title(title, loc="left", color=INK)
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def over_time(frame: pd.DataFrame, x: str, y: list[str], title: str, unit: str) -> Figure:
    """Lines over time; ``frame`` holds a time column and number columns."""
    figure, axes = _axes(title, "", unit)
    for name in y:
        axes.plot(frame[x], frame[name], lw=1.3, label=name.replace("_", " "))
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter("{x}") if frame[x].dtype == object else figure.autofmt_xdate()
    if len(y) > 1:
        axes.legend(frameon=False)
    plt.close(figure)
    return figure


def bars(frame: pd.DataFrame, label: str, value: str, title: str, unit: str) -> Figure:
    """Horizontal bars with their numbers."""
    figure, axes = _axes(title, unit, "")
    drawn = axes.barh(frame[label].astype(str)[::-1], frame[value][::-1], color=ACCENT)
    axes.bar_label(drawn, fmt="{:,.0f}", padding=4, color=INK)
    axes.margins(x=0.12)
    plt.close(figure)
    return figure


def histogram(values: pd.Series, title: str, x: str, y: str, upper: float | None = None) -> Figure:
    """Distribution of numbers; those above ``upper`` are gathered in the last bar."""
    figure, axes = _axes(title, x, y)
    axes.hist(values.clip(upper=upper), bins=40, color=ACCENT)
    plt.close(figure)
    return figure
