"""The figures of a comparison as a picture for README."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

COLORS = {"full": "#2a7f9e", "1 % more": "#d08c3a", "nothing new": "#5b8c5a"}
INK = "#6b7a90"
"""Legible on a light and on a dark page."""


def draw(title: str, seconds: dict[str, dict[str, float]], target: Path) -> None:
    """Seconds of each side and step as horizontal bars, written as SVG.

    ``seconds`` holds, by the name of a side, the seconds of each step that it has.
    """
    plt.rcParams |= {"svg.fonttype": "none", "font.family": "sans-serif", "text.color": INK, "axes.edgecolor": INK}
    figure, axes = plt.subplots(figsize=(9, 0.6 + 0.28 * sum(len(steps) + 1 for steps in seconds.values())))
    place, ticks = 0.0, []
    for side, steps in seconds.items():
        ticks.append((place + (len(steps) - 1) / 2, side))
        for step, value in steps.items():
            bar = axes.barh(place, value, height=0.8, color=COLORS[step], label=step)
            axes.bar_label(bar, fmt="{:,.1f} s", padding=4, color=INK)
            place += 1
        place += 0.8
    axes.set_yticks([at for at, _ in ticks], [side for _, side in ticks], color=INK)
    axes.tick_params(length=0, colors=INK)
    axes.set_xlabel("seconds (less is better)", color=INK)
    axes.set_title(title, loc="left", color=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(named.values(), named.keys(), frameon=False, labelcolor=INK, loc="lower right")
    figure.savefig(target, transparent=True, bbox_inches="tight")
    plt.close(figure)
