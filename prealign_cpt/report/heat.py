"""A heat map as inline SVG: layers across, figures and models down. No dependency, no script.

Every figure has its own scale, from its least to its greatest value over all models, which is written beside it; so
colours compare layers and models, never figures. The colour is one hue whose opacity grows with the value.
"""

from collections.abc import Mapping
from html import escape

from prealign_cpt.report.plot import shortened, text_at

WIDTH, LABEL, ROW, HEAD, BOTTOM = 410, 120, 22, 26, 36
"""Of the view box, the row names, a row, a figure's heading, and the layers' numbers."""

MOST_LETTERS = 15

Map = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Values by figure, model and layer."""


def heat_map(values: Map, label: str) -> str:
    """Draw the map; an empty string if it holds no value.

    Args:
        label: says what the plot shows to those who do not see it.
    """
    layers = [layer for models in values.values() for line in models.values() for layer in line]
    if not layers:
        return ""
    several = any(len(models) > 1 for models in values.values())
    left = LABEL if several else 0
    cell = (WIDTH - left) / (max(layers) + 1)
    parts: list[str] = []
    y = 0.0
    for figure, models in values.items():
        found = [value for line in models.values() for value in line.values()]
        if not found:
            continue
        low, high = min(found), max(found)
        parts.append(text_at(0, y + 17, figure, "strong", "start"))
        parts.append(text_at(WIDTH, y + 17, f"{low:.3f} (faint) to {high:.3f} (strong)", "tick", "end"))
        y += HEAD
        for model, line in models.items():
            name = shortened(model, MOST_LETTERS)
            if several:
                parts.append(text_at(0, y + ROW - 7, name, "tick", "start"))
            for layer, value in line.items():
                shade = 0.06 + 0.94 * ((value - low) / (high - low) if high > low else 0.5)
                place = f'x="{left + layer * cell:.2f}" y="{y:.0f}" width="{cell * 0.94:.2f}" height="{ROW - 2}"'
                tip = escape(f"{figure}, {model}, layer {layer}: {value:.3f}")
                parts.append(f'<rect class="heat" {place} fill-opacity="{shade:.3f}"><title>{tip}</title></rect>')
            y += ROW
        y += 6
    step = max(1, round(max(layers) / 8))
    parts += [
        text_at(left + (layer + 0.47) * cell, y + 12, str(layer), "tick", "middle")
        for layer in range(0, max(layers) + 1, step)
    ]
    parts.append(text_at((left + WIDTH) / 2, y + 30, "layer (0: embeddings)", "tick", "middle"))
    return f'<svg viewBox="0 0 {WIDTH} {y + BOTTOM:.0f}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
