"""Where the parts of a line chart stand; page.html.j2 draws them as inline SVG, without a script.

The view box scales with its column; it is narrow, so that its 13 px letters stay readable on a phone. Colours are
classes of the style sheet (`s0` and so on), for its light and dark schemes; dashes tell lines apart without colour.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

LEFT, RIGHT, TOP, BOTTOM = 66, 392, 8, 204
"""Edges of the plot in the template's view box, 410 x 250; around it stand the labels of the axes."""

COLOURS = 6
"""Styles that the page's style sheet knows."""

Line = tuple[str, Sequence[tuple[float, float]], int | None]
"""Name, points in the order of x, and number of the colour and dash; None: the base's grey."""

Level = tuple[str, float, int | None]
"""Of a horizontal line: name (empty: not in the legend), y, colour."""


def line_chart(
    title: str, axes: tuple[str, str], lines: Sequence[Line], levels: Sequence[Level] = (), marks: bool = True
) -> dict[str, Any] | None:
    """A chart of the lines that have points, for the template; None if none has.

    Args:
        axes: what x and y are.
        marks: whether every point has a dot with a tool tip.
    """
    lines = [line for line in lines if line[1]]
    if not lines:
        return None
    x_ticks = ticks([x for _, points, _ in lines for x, _ in points])
    y_ticks = ticks([y for _, points, _ in lines for _, y in points] + [y for _, y, _ in levels])

    x_at, y_at = _scale(x_ticks, LEFT, RIGHT), _scale(y_ticks, BOTTOM, TOP)
    drawn = [("level", name, [(x_ticks[0], y), (x_ticks[-1], y)], style) for name, y, style in levels]
    drawn += [("line", name, list(points), style) for name, points, style in lines]
    shown = {"line": int(marks), "level": 0}
    return {
        "title": title,
        "axes": axes,
        "x_ticks": [(x_at(x), _tick(x, x_ticks)) for x in x_ticks],
        "y_ticks": [(y_at(y), _tick(y, y_ticks)) for y in y_ticks],
        "lines": [
            {
                **{"kind": kind, "name": name, "style": colour(style), "last": points[-1][1]},
                "path": "L".join(f"{x_at(x)} {y_at(y)}" for x, y in points),
                "dots": [(x_at(x), y_at(y), f"{name}: {y:.3f} at {_short(x)}") for x, y in points * shown[kind]],
            }
            for kind, name, points, style in drawn
        ],
    }


def colour(style: int | None) -> str:
    """Class of a model's colour; None: the base's grey."""
    return "sb" if style is None else f"s{style % COLOURS}"


def ticks(values: Sequence[float]) -> list[float]:
    """At least two round numbers with equal distances that enclose the values, about six of them."""
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - abs(low) * 0.05 - 1e-3, high + abs(high) * 0.05 + 1e-3
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def _scale(all_ticks: list[float], start: int, end: int) -> Callable[[float], float]:
    """Where in the view box a value stands, if the ticks go from start to end."""
    low, high = all_ticks[0], all_ticks[-1]
    return lambda value: round(start + (value - low) / (high - low) * (end - start), 1)


def _tick(value: float, all_ticks: list[float]) -> str:
    """With as many decimals as the distance of the ticks needs."""
    if max(map(abs, all_ticks)) >= 1000:
        return _short(value)
    return f"{value:z.{max(0, math.ceil(-math.log10(all_ticks[1] - all_ticks[0]) - 1e-6))}f}"


def _short(value: float) -> str:
    """1500000 as 1.5M."""
    size, letter = next(pair for pair in ((1e9, "B"), (1e6, "M"), (1e3, "k"), (0, "")) if abs(value) >= pair[0])
    return f"{value / (size or 1):.4g}{letter}"
