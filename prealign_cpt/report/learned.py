"""What `prealign trajectory` and `prealign layers` found in a run, as charts, heat maps and tables for the page.

RUN/trajectory/trajectory.json, RUN/layers/layers.json --> parts of page.html.j2
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prealign_cpt.analysis import layers, trajectory
from prealign_cpt.evaluate.figures import Absent
from prealign_cpt.report.charts import line_chart
from prealign_cpt.report.document import reading


def learned(run: Path) -> dict[str, Any] | Absent:
    """Bits per byte by step, and a map of steps and layers of each figure that has layers; a file that is there but
    damaged raises `DataError`."""
    return _found(run, "trajectory", _trajectory)


def carried(run: Path) -> dict[str, Any] | Absent:
    """What groups of layers are worth, and how alike layers are, likewise."""
    return _found(run, "layers", _layers)


def _found(run: Path, name: str, shown: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any] | Absent:
    path = run / name / f"{name}.json"
    if not path.is_file():
        return Absent(f"`prealign {name}` was not asked")
    with reading(path, "remove it and measure again"):
        content = json.loads(path.read_text(encoding="utf-8"))
        lost = [f"{figure}: {reason}" for figure, reason in content["absent"].items()]
        return {**shown(content), "lost": lost}


def _trajectory(content: dict[str, Any]) -> dict[str, Any]:
    steps, series = content["steps"], content["series"].values()
    plain = [
        (one["title"], list(zip(steps, one["values"], strict=True)), style)
        for style, one in enumerate(one for one in series if "layers" not in one)
    ]
    return {
        "charts": [line_chart("Held-out text", ("step", "bits per byte"), plain)],
        "maps": [_heat_map(one, steps) for one in series if "layers" in one],
        "rows": trajectory.rows(content),
    }


def _heat_map(one: dict[str, Any], steps: list[int]) -> dict[str, Any]:
    """The last layer first; a cell is a value and its share of the best, in percent."""
    best = one["best"] or 1.0
    rows = [
        [(value, round(100 * max(0.0, value) / best)) for value in values]
        for values in zip(*one["values"], strict=True)
    ]
    return {"title": one["title"], "steps": steps, "rows": list(enumerate(rows))[::-1]}


def _layers(content: dict[str, Any]) -> dict[str, Any]:
    by_layer = content["alike"]["layers"] if content["alike"] else []
    drawn = [
        line_chart(
            f"{name.upper()} by layer",
            ("layer", name.upper()),
            [(title, [(layer, row[f"{key}_{name}"]) for layer, row in enumerate(by_layer)], style)
             for style, (title, key) in enumerate(layers.ALIKE.items())],
            marks=False,
        )
        for name in ("cka", "anc")
    ]  # fmt: skip
    return {
        "reading": content["reading"],
        "charts": drawn,
        "rows": layers.rows(content),
        "alike": layers.alike_rows(content),
    }
