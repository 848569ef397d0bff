"""Charts as small SVG with labels in HTML: they fill any width, their text keeps its size, and they follow the colours
of the page. A chart takes a millisecond and needs no library."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from lakehouse_lib.serve.style import ACCENT, FAINT, ODD

Point = tuple[float, float]

_THIN = 'fill="none" stroke-width="1.2" vector-effect="non-scaling-stroke"'
_LABEL = "position:absolute;white-space:nowrap;line-height:1"


@dataclass
class Layer:
    """Something that is drawn: a line, dots, bars, or a band between two lines."""

    kind: str
    """line, dots, bars or band."""
    points: Sequence[Point]
    """x and y; a y that is not a number is a gap."""
    color: str = ACCENT
    label: str = ""
    """In the legend; without one, none."""
    top: Sequence[float] = field(default_factory=list)
    """The upper ends of a band; the points are the lower ones."""
    width: float = 0.8
    """Of a bar, in units of x."""

    @property
    def drawn(self) -> bool:
        """Whether it has a point that is not missing."""
        return any(not math.isnan(y) for _, y in self.points)


def chart(title: str, unit: str, layers: Sequence[Layer], ticks: Sequence[tuple[float, str]], height: int = 170) -> str:
    """Draw a chart with labelled axes; y begins at 0. ``ticks`` are positions on the x axis and their labels. At least
    one layer must have a point."""
    layers = [layer for layer in layers if layer.drawn]
    xs = [x for layer in layers for x, _ in layer.points]
    pad = max([layer.width / 2 for layer in layers if layer.kind == "bars"], default=0)
    left, right = min(xs) - pad, max(xs) + pad
    steps = nice([y for layer in layers for y in (*(y for _, y in layer.points), *layer.top)])
    box = _Box(left, (right - left) or 1, steps[-1])
    grid = "".join(f'<path d="M0 {box.y(step):g}H100" stroke="{FAINT}" {_THIN}/>' for step in steps)
    marks = "".join(_drawn(layer, box) for layer in layers)
    beside = "".join(
        f'<span style="{_LABEL};right:8px;top:{box.y(step):.1f}%;transform:translateY(-50%)">{number(step)}</span>'
        for step in steps
    )
    widest = max(len(number(step)) for step in steps)
    return (
        f'<figure style="margin:8px 0 16px;max-width:860px;font-size:12px" role="img" '
        f'aria-label="{html.escape(title)}, {html.escape(unit)}">'
        f'<figcaption style="margin-bottom:10px;font-size:13px"><b>{html.escape(title)}</b> '
        f'<span style="opacity:.75">{html.escape(unit)}</span> {_legend(layers)}</figcaption>'
        f'<div style="display:flex;height:{height}px"><div style="position:relative;flex:none;width:{widest + 1}ch">'
        f'{beside}</div><svg viewBox="0 0 100 100" preserveAspectRatio="none" '
        f'style="display:block;flex:1;min-width:0;height:100%;overflow:visible">{grid}{marks}</svg></div>'
        f'<div style="position:relative;height:16px;margin:7px 0 0 {widest + 1}ch">{_below(ticks, box)}</div></figure>'
    )


def spark(values: Sequence[float], odd: Sequence[bool] = (), open_last: bool = False, label: str = "") -> str:
    """Draw bars without axes: the trend of a table in its line. An open last bar is that of a day that is not over."""
    top, last = max(values, default=0) or 1, len(values) - 1
    bars: dict[tuple[str, float], str] = {}
    for i, value in enumerate(values):
        tall = max(1.0, 24 * value / top) if value else 0.6
        look = ODD if i < len(odd) and odd[i] else ACCENT, 0.45 if open_last and i == last else 1.0
        bars[look] = bars.get(look, "") + f"M{4 * i + 0.5:g} 27v-{tall:.1f}h3v{tall:.1f}z"
    drawn = "".join(
        f'<path d="{path}" fill="{color}" fill-opacity="{alpha}"/>' for (color, alpha), path in bars.items()
    )
    return _small(label, 4 * len(values), drawn)


def spark_line(points: Sequence[Point], start: float, end: float, label: str = "") -> str:
    """Draw a stepped line without axes, from a start to an end on the x axis."""
    top, span = max((y for _, y in points), default=0) or 1, (end - start) or 1
    places = [(120 * max(0.0, x - start) / span, 26 - 23 * y / top) for x, y in points]
    (first, at), *rest = places
    path = f"M{first:.1f} {at:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in rest) + "H120"
    area = f'<path d="{path}V27H{first:.1f}z" fill="{ACCENT}" fill-opacity=".2"/>'
    return _small(label, 120, f'{area}<path d="{path}" stroke="{ACCENT}" {_THIN}/>')


def strip(colors: Sequence[str], titles: Sequence[str], label: str) -> str:
    """Draw squares in a row, each with a tooltip: how something went before."""
    squares = "".join(
        f'<span title="{html.escape(title)}" style="display:inline-block;width:7px;height:12px;margin-right:2px;'
        f'border-radius:2px;background:{color}"></span>'
        for color, title in zip(colors, titles, strict=True)
    )
    return f'<span role="img" aria-label="{html.escape(label)}" style="white-space:nowrap">{squares}</span>'


def nice(values: Sequence[float]) -> list[float]:
    """Return round steps from 0 to the largest value or above; whole numbers unless the values are smaller."""
    top = max((value for value in values if not math.isnan(value)), default=0) or 1
    raw = top / 3
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw)
    step = max(step, 1) if top >= 3 else step
    return [step * n for n in range(math.ceil(top / step - 1e-9) + 1)]


def number(value: float) -> str:
    """Return a label of an axis."""
    for unit, factor in (("G", 1e9), ("M", 1e6)):
        if abs(value) >= factor:
            return f"{value / factor:,.4g} {unit}"
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"


def time_ticks(start: datetime, end: datetime, count: int = 4) -> list[tuple[float, str]]:
    """Return the ticks of a time axis, counted back from the newest day or hour, which always has one."""
    span = end - start
    if span <= timedelta(days=2):
        step, form = timedelta(hours=max(1, math.ceil(span.total_seconds() / 3600 / count))), "%d %b %H:%M"
        last = end.replace(minute=0, second=0, microsecond=0)
    else:
        days = span.total_seconds() / 86400
        step, form = timedelta(days=max(1, math.ceil(days / count))), "%d %b" if days < 300 else "%b %Y"
        last = end.replace(hour=0, minute=0, second=0, microsecond=0)
    moments = [last - n * step for n in range(count + 1)]
    return [(stamp(at), f"{at:{form}}".lstrip("0")) for at in reversed(moments) if at >= start]


def stamp(at: datetime) -> float:
    """Return a time as a position on the x axis."""
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


@dataclass
class _Box:
    """The mapping to 100 × 100 units."""

    left: float
    wide: float
    top: float

    def x(self, value: float) -> float:
        return 100 * (value - self.left) / self.wide

    def y(self, value: float) -> float:
        return 100 - 100 * value / self.top


def _drawn(layer: Layer, box: _Box) -> str:
    points = [(box.x(x), box.y(y)) for x, y in layer.points]
    stroke = f'fill="none" stroke="{layer.color}" vector-effect="non-scaling-stroke"'
    if layer.kind == "band":
        known = [(x, y, box.y(top)) for (x, y), top in zip(points, layer.top, strict=True) if not math.isnan(y)]
        edge = [f"{x:.2f} {y:.2f}" for x, y, _ in known] + [f"{x:.2f} {y:.2f}" for x, _, y in reversed(known)]
        return f'<path d="M{"L".join(edge)}z" fill="{layer.color}" fill-opacity=".2"/>'
    if layer.kind == "bars":
        half = 50 * layer.width / box.wide
        bars = "".join(f"M{x - half:.2f} 100V{y:.2f}H{x + half:.2f}V100z" for x, y in points if not math.isnan(y))
        return f'<path d="{bars}" fill="{layer.color}"/>'
    if layer.kind == "dots":
        dots = "".join(f"M{x:.2f} {y:.2f}h0" for x, y in points if not math.isnan(y))
        return f'<path d="{dots}" {stroke} stroke-width="8" stroke-linecap="round"/>'
    path, pen = "", "M"
    for x, y in points:
        path += "" if math.isnan(y) else f"{pen}{x:.2f} {y:.2f}"
        pen = "M" if math.isnan(y) else "L"
    # A line of few points is hard to see without dots.
    dots = "".join(f"M{x:.2f} {y:.2f}h0" for x, y in points if not math.isnan(y)) if len(points) < 40 else ""
    return (
        f'<path d="{path}" {stroke} stroke-width="1.8" stroke-linejoin="round"/>'
        f'<path d="{dots}" {stroke} stroke-width="5" stroke-linecap="round"/>'
    )


def _legend(layers: Sequence[Layer]) -> str:
    return "".join(
        f'<span style="white-space:nowrap;margin-left:12px"><span style="display:inline-block;width:10px;height:10px;'
        f'border-radius:2px;background:{layer.color};{"opacity:.4;" if layer.kind == "band" else ""}"></span> '
        f"{html.escape(layer.label)}</span>"
        for layer in layers
        if layer.label
    )


def _below(ticks: Sequence[tuple[float, str]], box: _Box) -> str:
    spans = []
    for at, label in ticks:
        x = box.x(at)
        shift = -50 if 6 < x < 94 else -100 if x >= 94 else 0  # labels at the ends stay inside
        spans.append(f'<span style="{_LABEL};left:{x:.1f}%;transform:translateX({shift}%)">{html.escape(label)}</span>')
    return "".join(spans)


def _small(label: str, width: float, drawn: str) -> str:
    name = html.escape(label)
    return (
        f'<span title="{name}"><svg role="img" aria-label="{name}" viewBox="0 0 {width:g} 28" '
        f'preserveAspectRatio="none" width="120" height="28">{drawn}</svg></span>'
    )
