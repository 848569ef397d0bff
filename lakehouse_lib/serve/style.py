"""The one style of figures, tables and pages: colours that can be read on light and on dark, and how numbers are
written.

Text has the colour of the page around it; colours are for marks, and for badges with white text.
"""

from __future__ import annotations

from datetime import datetime, timedelta

GOOD, WARN, BAD, IDLE, ASIDE = "#2e7d4f", "#a15c00", "#b3261e", "#5f6b7a", "#6a4c93"
"""Colours of badges; white text on each has a contrast of at least 4.5."""

BADGES = {
    "ok": GOOD, "fresh": GOOD, "warn": WARN, "late": WARN, "error": BAD, "failed": BAD, "held": BAD,
    "quarantine": ASIDE, "no rows": IDLE,
    "Healthy": GOOD, "Unknown": IDLE, "Warning": WARN, "Degraded": BAD, "Not in use": IDLE,
}  # fmt: skip
"""Colour of each word that is shown as a badge; the word itself carries the meaning as well."""

ACCENT, ODD, FAINT = "#3a87ad", "#c9752b", "#8886"
SERIES = (ACCENT, ODD, "#8e6bb0", "#5c9a55")
"""Colours of lines and bars: mid-tones with a contrast of 3 on white and on black."""

FEW = 100
"""Number below which a change in percent says nothing."""


def size(count: float) -> str:
    """Write bytes for people."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count:,.0f} B"


def age(span: timedelta | None) -> str:
    """Write a length of time in its largest unit; empty for None."""
    if span is None:
        return ""
    minutes = max(0.0, span.total_seconds() / 60)
    if minutes < 90:
        return f"{minutes:.0f} min"
    text = f"{minutes / 60:.1f} h" if minutes <= 48 * 60 else f"{minutes / 1440:,.1f} days"
    return text.replace(".0 ", " ")


def seconds(count: float) -> str:
    """Write seconds for people."""
    return f"{count:.1f} s" if count < 10 else f"{count:.0f} s" if count < 120 else f"{count / 60:,.0f} min"


def moment(at: datetime) -> str:
    """Write a time to the minute."""
    return f"{at:%Y-%m-%d %H:%M}"


def change(before: float, now: float) -> str:
    """Write a difference, in percent as well, but only of a number that is large enough and at most doubled."""
    if now == before:
        return "no change"
    text = f"{now - before:+,.0f}"
    return f"{text} ({now / before - 1:+.1%})" if before >= FEW and abs(now - before) <= before else text
