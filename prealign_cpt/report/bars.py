"""Horizontal bars from 0 with 95 % intervals, as inline SVG. No dependency, no script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from prealign_cpt.report.plot import colour, shortened, text_at

WIDTH, VALUE, ROW, HEAD, LETTER = 410, 56, 24, 26, 7.6
"""Of the view box, the numbers behind the bars, a bar with its gap, a group's heading, and a letter."""


@dataclass(frozen=True)
class Bar:
    """A value and perhaps its interval."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    style: int | None = None
    """Number of the colour; None: grey, for what the others are compared with."""


def bars(groups: Sequence[tuple[str, Sequence[Bar]]], label: str, digits: int = 3) -> str:
    """Draw groups of bars, each group on a scale of its own; an empty string if there is no bar.

    Values are not negative; others, and those that are not finite, are left out.

    Args:
        label: says what the plot shows to those who do not see it.
    """
    kept = [(name, [bar for bar in group if math.isfinite(bar.value) and bar.value >= 0]) for name, group in groups]
    kept = [(name, group) for name, group in kept if group]
    if not kept:
        return ""
    left = min(175.0, 12 + LETTER * max(len(bar.name) for _, group in kept for bar in group))
    letters = round((left - 12) / LETTER)
    parts: list[str] = []
    y = 0.0
    for name, group in kept:
        parts.append(text_at(0, y + 17, name, "strong", "start"))
        y += HEAD
        top = max(max(bar.value, bar.high or 0.0) for bar in group) or 1.0
        scale = (WIDTH - left - VALUE) / top
        for bar in group:
            short = shortened(bar.name, letters)
            tip = f"{name}, {bar.name}: {bar.value:.{digits}f}"
            kind = colour(bar.style)
            parts.append(text_at(0, y + 14, short, "tick", "start"))
            parts.append(
                f'<rect class="bar {kind}" x="{left:.1f}" y="{y + 2:.0f}" width="{bar.value * scale:.1f}" '
                f'height="{ROW - 8}">'
            )
            end = bar.value
            if bar.low is not None and bar.high is not None:
                tip += f", 95 % interval {bar.low:.{digits}f} to {bar.high:.{digits}f}"
                end = max(end, bar.high)
            parts.append(f"<title>{escape(tip)}</title></rect>")
            if bar.low is not None and bar.high is not None:
                a, b, middle = left + max(bar.low, 0) * scale, left + bar.high * scale, y + ROW / 2 - 2
                parts.append(
                    f'<path class="whisker" d="M{a:.1f} {middle:.1f}H{b:.1f}M{a:.1f} {middle - 4:.1f}v8'
                    f'M{b:.1f} {middle - 4:.1f}v8"/>'
                )
            parts.append(text_at(left + end * scale + 6, y + 14, f"{bar.value:.{digits}f}", "end", "start"))
            y += ROW
        y += 8
    return f'<svg viewBox="0 0 {WIDTH} {y:.0f}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
