"""Curves and bars as SVG."""

import itertools
import math
import re

import pytest

from prealign_cpt.report.bars import Bar, bars
from prealign_cpt.report.plot import HEIGHT, TOP, WIDTH, Level, Series, line_chart, shortened, ticks


def draw(*points: tuple[float, float], **options: object) -> str:
    return line_chart([Series("line", points)], "what it shows", "x", "y", **options)  # type: ignore[arg-type]


def coordinates(svg: str) -> list[tuple[float, float]]:
    paths = re.findall(r'class="line s\d" d="M([^"]*)"', svg)
    pairs = [tuple(map(float, pair.split())) for path in paths if "H" not in path for pair in path.split("L")]
    circles = re.findall(r'cx="([\d.-]+)" cy="([\d.-]+)"', svg)
    texts = re.findall(r'<text class="[^"]*" x="([\d.-]+)" y="([\d.-]+)"', svg)
    return [(x, y) for x, y in pairs] + [(float(x), float(y)) for x, y in circles + texts]


@pytest.mark.parametrize(
    "points",
    [
        [(0, 1.0), (1e9, 2.0)],
        [(5, 3.0)],
        [(0, 0.0), (1, 0.0)],
        [(0, -1e-9), (1e-9, 1e-9)],
        [(0, 1.0), (1, 1.0 + 1e-15)],
        [(1, 1e12), (2, -1e12)],
        [(3, 1.0), (1, 2.0), (2, math.nan), (4, math.inf)],
    ],
)
def test_everything_lies_inside_the_view_box(points: list[tuple[float, float]]) -> None:
    svg = draw(*points, levels=[Level("base", points[0][1] * 1.5)])
    placed = coordinates(svg)
    assert len(placed) > 5
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in placed)
    assert "nan" not in svg and "inf" not in svg


def test_points_are_joined_from_left_to_right() -> None:
    xs = [x for x, _ in coordinates(draw((3, 1.0), (1, 2.0), (2, 1.5), marks=False))[:3]]
    assert xs == sorted(xs)


def test_nothing_to_draw() -> None:
    assert draw() == "" == draw((0, math.nan))


def test_labels_at_the_ends_do_not_cover_each_other() -> None:
    lines = [Series(str(n), ((0, 2.0), (1, 1.0 + n / 1000)), n % 2) for n in range(4)]
    svg = line_chart(lines, "shows", "x", "y", [Level("base", 1.002), Level("", 1.003, 1)])
    heights = sorted(float(y) for y in re.findall(r'class="end [^"]*" x="[\d.]+" y="([\d.]+)"', svg))
    assert len(heights) == 5
    assert all(b - a >= 14.9 for a, b in itertools.pairwise(heights))


def test_names_are_escaped() -> None:
    svg = line_chart([Series("<b>&", ((0, 1), (1, 2)))], '"><script>', "<x>", "<y>", [Level("</svg>", 1)])
    assert "<script" not in svg and "<b>" not in svg and "<x>" not in svg and svg.count("</svg>") == 1


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (1.2058, 1.2186), (-3, 7), (0, 2457600), (5, 5), (0, 0), (1e-7, 2e-7)]
)
def test_ticks_enclose_the_values(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 8
    assert found[0] <= low + 1e-12 and found[-1] >= high - 1e-12
    assert found == sorted(set(found))


def test_a_long_legend_takes_more_rows_above_the_plot() -> None:
    lines = [Series(f"a run with a long name {n}", ((0, 2.0), (1, 1.0 + n)), n) for n in range(5)]
    svg = line_chart(lines, "shows", "x", "y")
    top = int(re.search(r'viewBox="0 (-?\d+)', svg)[1])  # type: ignore[index]
    heights = [int(y) for y in re.findall(r'd="M[\d.]+ (-?\d+)H', svg) if int(y) < 20]
    assert len(heights) == 5 and top < 0
    assert all(top < y < TOP for y in heights)


def test_long_names_keep_their_ends() -> None:
    assert shortened("bakeoff-de-subword-s0", 11) == "bakeo\u2026rd-s0"
    assert shortened("short", 5) == "short"


def test_bars_leave_out_what_cannot_be_drawn() -> None:
    svg = bars([("group", [Bar("a", 2.0, 1.0, 4.0), Bar("b", -1.0), Bar("c", math.nan)]), ("none", [])], "shows")
    assert svg.count("<rect") == 1 and svg.count("whisker") == 1 and "none" not in svg
    assert bars([("none", [])], "shows") == ""
