"""A line chart as inline SVG: axes, legend, labels at the lines' ends. No dependency, no script.

The chart has a fixed view box and scales with its column; it is narrow, so that its 13 px letters stay readable on a
phone. Colours come from the page's style sheet (classes `s0`, `s1`
and so on), so that they follow its light or dark scheme; dashes tell the lines apart without colour.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 410, 280
LEFT, RIGHT, TOP, BOTTOM = 66, 60, 34, 46
"""Margins: axis labels, labels at the lines' ends, legend, axis labels."""

LEGEND_ROW = 18

COLOURS = 6
"""Styles that the page's style sheet knows."""

LABEL_GAP = 15.0
"""Least distance of two labels at the right edge."""


@dataclass(frozen=True)
class Level:
    """A horizontal line."""

    name: str
    """Empty: neither in the legend nor labelled; the end of a line that is."""
    y: float
    style: int | None = None
    """Number of the colour; None: the base's grey."""


@dataclass(frozen=True)
class Series:
    """A line. Points that are not finite are left out; the rest are joined in the order of x."""

    name: str
    points: tuple[tuple[float, float], ...]
    style: int | None = 0
    """Number of the colour and dash; None: the base's grey."""


def line_chart(
    series: list[Series],
    label: str,
    x_label: str,
    y_label: str,
    levels: Sequence[Level] = (),
    marks: bool = True,
) -> str:
    """Draw the series that have points; an empty string if none has.

    Args:
        label: says what the chart shows to those who do not see it.
        levels: horizontal lines, such as the base model's score.
        marks: a dot with a tool tip at every point; leave out for many points.
    """
    lines = [Series(one.name, tuple(sorted(filter(_is_finite, one.points))), one.style) for one in series]
    lines = [one for one in lines if one.points]
    levels = [level for level in levels if math.isfinite(level.y)]
    if not lines:
        return ""
    xs = [x for one in lines for x, _ in one.points]
    ys = [y for one in lines for _, y in one.points] + [level.y for level in levels]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    x_low, x_high = x_ticks[0], x_ticks[-1]
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def x_at(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y_at(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    named = [level for level in levels if level.name]
    entries = [(shortened(one.name, 40), f"line {colour(one.style)}") for one in lines]
    entries += [(level.name, f"level {colour(level.style)}") for level in named]
    legend, rise = _legend(entries) if len(entries) > 1 else ([], 0)
    parts = [f'<svg viewBox="0 {-rise} {WIDTH} {HEIGHT + rise}" role="img" aria-label="{escape(label)}">', *legend]
    for y in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_at(y):.1f}" y2="{y_at(y):.1f}"/>')
        parts.append(text_at(LEFT - 7, y_at(y) + 4, _tick(y, y_ticks), "tick", "end"))
    for x in x_ticks:
        parts.append(text_at(x_at(x), HEIGHT - BOTTOM + 17, _tick(x, x_ticks), "tick", "middle"))
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    parts.append(text_at((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, "tick", "middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="translate(15 {middle:.1f}) rotate(-90)" text-anchor="middle"'
    parts.append(f'<text class="tick" {turned}>{escape(y_label)}</text>')
    for level in levels:
        place = f"M{LEFT} {y_at(level.y):.1f}H{WIDTH - RIGHT}"
        parts.append(f'<path class="level {colour(level.style)}" d="{place}"/>')
    for one in lines:
        path = "L".join(f"{x_at(x):.1f} {y_at(y):.1f}" for x, y in one.points)
        parts.append(f'<path class="line {colour(one.style)}" d="M{path}"/>')
        for x, y in one.points if marks or len(one.points) == 1 else ():
            tip = f"<title>{escape(f'{one.name}: {y:.3f} at {_short(x)}')}</title>"
            place = f'cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="2.5"'
            parts.append(f'<circle class="dot {colour(one.style)}" {place}>{tip}</circle>')
    ends = [(y_at(one.points[-1][1]), f"{one.points[-1][1]:.3f}", f"end {colour(one.style)}") for one in lines]
    ends += [(y_at(level.y), f"{level.y:.3f}", f"end {colour(level.style)}") for level in named]
    for height, text, kind in _spread(ends):
        parts.append(text_at(WIDTH - RIGHT + 7, height + 4, text, kind, "start"))
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At least two round numbers with equal distances that enclose `low` and `high`, about `most` of them."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - abs(low) * 0.05 - 1e-3, high + abs(high) * 0.05 + 1e-3
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10, 20) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def colour(style: int | None) -> str:
    """Class of a model's colour; None: the base's grey."""
    return "sb" if style is None else f"s{style % COLOURS}"


def _is_finite(point: tuple[float, float]) -> bool:
    return all(map(math.isfinite, point))


def _tick(value: float, all_ticks: list[float]) -> str:
    """With as many decimals as the distance of the ticks needs."""
    step = all_ticks[1] - all_ticks[0]
    if max(map(abs, all_ticks)) >= 1000:
        return _short(value)
    decimals = next(d for d in range(12) if d == 11 or abs(round(step, d) - step) < step * 1e-6)
    return f"{value + 0.0:.{decimals}f}"


def _short(value: float) -> str:
    """1500000 as 1.5M."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def _spread(ends: list[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """Move labels apart downwards, then back up from the bottom edge, so that none covers another."""
    placed = sorted(ends)
    heights = [height for height, _, _ in placed]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + LABEL_GAP)
    limit = HEIGHT - BOTTOM - 3.0
    for index in reversed(range(len(heights))):
        heights[index] = min(heights[index], limit)
        limit = heights[index] - LABEL_GAP
    return [(height, text, kind) for height, (_, text, kind) in zip(heights, placed, strict=True)]


def _legend(entries: list[tuple[str, str]]) -> tuple[list[str], int]:
    """The legend's parts, and how far its rows rise above the plot's upper edge."""
    rows: list[list[tuple[str, str, float]]] = [[]]
    x = float(LEFT)
    for name, kind in entries:
        width = 25 + 7.4 * len(name) + 20
        if rows[-1] and x + width > WIDTH:
            rows.append([])
            x = float(LEFT)
        rows[-1].append((name, kind, x))
        x += width
    rise = LEGEND_ROW * (len(rows) - 1)
    parts = []
    for number, row in enumerate(rows):
        y = LEGEND_ROW * number - rise
        for name, kind, x in row:
            parts.append(f'<path class="{kind}" d="M{x:.1f} {y + 10}H{x + 20:.1f}"/>')
            parts.append(text_at(x + 25, y + 14, name, "tick", "start"))
    return parts, rise


def shortened(name: str, letters: int) -> str:
    """A name without its middle if it is too long: runs often differ in their last letters."""
    if len(name) <= letters:
        return name
    tail = (letters - 1) // 2
    return f"{name[: letters - 1 - tail]}\u2026{name[len(name) - tail :]}"


def text_at(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    """A line of text in a plot. Args: kind: its classes; anchor: "start", "middle" or "end"."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
