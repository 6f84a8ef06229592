"""A scatter plot as inline SVG: two clouds of points with tool tips and a legend. No dependency, no script.

The clouds differ in shape as well as in colour: grey circles lie below, diamonds in the run's colour above.
"""

from collections.abc import Sequence
from html import escape

from prealign_cpt.report.plot import colour, text_at

SIZE, MARGIN, LEGEND = 410, 14, 30


def scatter(clouds: Sequence[tuple[str, Sequence[tuple[str, float, float]]]], label: str) -> str:
    """Draw up to two clouds of named points, (text, x, y), with equal scales on both axes.

    Args:
        label: says what the plot shows to those who do not see it.
    """
    points = [(x, y) for _, cloud in clouds for _, x, y in cloud]
    if not points:
        return ""
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    scale = (SIZE - 2 * MARGIN) / (max(right - left, high - low) or 1.0)
    width, height = (right - left) * scale, (high - low) * scale
    x_shift = (SIZE - width) / 2
    view = f"0 0 {SIZE} {height + 2 * MARGIN + LEGEND:.0f}"
    parts = [f'<svg viewBox="{view}" role="img" aria-label="{escape(label)}">']
    parts.append(
        f'<rect class="frame" x="0.5" y="{LEGEND}" width="{SIZE - 1}" height="{height + 2 * MARGIN - 1:.1f}"/>'
    )
    for style, (name, cloud) in enumerate(clouds):
        at = 8 + style * SIZE / 2
        parts.append(_mark(at, 12, style, 5) + "/>")
        parts.append(text_at(at + 11, 16, f"{name} ({len(cloud):,})", "tick", "start"))
        for text, x, y in cloud:
            px, py = x_shift + (x - left) * scale, LEGEND + MARGIN + (high - y) * scale
            parts.append(f"{_mark(px, py, style, 3)}><title>{escape(text)}</title></path>")
    return "".join([*parts, "</svg>"])


def _mark(x: float, y: float, style: int, r: float) -> str:
    if style:
        shape = f"M{x:.1f} {y - r * 1.2:.1f}l{r} {r * 1.2:.1f}l{-r} {r * 1.2:.1f}l{-r} {-r * 1.2:.1f}z"
    else:
        shape = f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"
    return f'<path class="spot {colour(0 if style else None)}" d="{shape}"'
