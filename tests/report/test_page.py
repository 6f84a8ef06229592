"""The page as a whole, without a browser, and its plots."""

import itertools
import re
import shutil
from pathlib import Path

import pytest

from prealign_cpt.report.charts import BOTTOM, COLOURS, LEFT, RIGHT, TOP, line_chart, ticks
from prealign_cpt.report.page import MOST_POINTS

from .conftest import Make, add_controls, page_of, put, write


def test_page_of_a_finished_run(make: Make, tmp_path: Path) -> None:
    page = page_of(make("run", 1.812), add_controls(tmp_path))
    assert ("lang", "en") in page.attributes and "prefers-color-scheme" in page.text
    assert page.attributes.count(("role", "img")) == 4
    texts = ("plain subword means on the same text (1.830): -0.018 [", "war das Wort", "1,234,567", "1:01:40")
    assert all(text in page.text for text in (*texts, "P@1 is over 40 words"))
    order = ["Held-out German: 1.812", "Test texts", "Learning curve", "Generated text", "Lexicon"]
    places = [page.text.index(text) for text in order]
    assert places == sorted(places)
    before_any_fold = page.source.split('<details class="part">')[0]
    assert "dropped" not in before_any_fold and "new tokens" not in before_any_fold.split("Learning curve")[1]


def test_every_model_has_one_colour_and_the_base_its_level_in_both_curves(make: Make, tmp_path: Path) -> None:
    page = page_of(make("run", 1.812), add_controls(tmp_path)).source
    charts = re.findall(r"<figure>.*?</figure>", page, flags=re.S)[:2]
    for chart in charts:
        assert chart.count('class="level sb"') == 2, "the line and its entry in the legend"
        assert chart.count('class="level s1"') == chart.count('class="level s2"') == 1, "where each control ends"
        assert "base, trained <b>" in chart and "subword-mean rows, trained <b>" in chart
    assert "base <b>2.996</b>" in charts[0]
    for name, style in (("ours", "s0"), ("base, trained", "s1"), ("subword-mean rows, trained", "s2"), ("base", "sb")):
        assert f'<i class="key {style}"></i>{name}<' in page


def test_answers_stand_beside_each_other_and_say_how_they_ended(make: Make) -> None:
    page = page_of(make("run", 1.8)).source
    cards = re.findall(r'<figure class="answer (\w+)">\s*<figcaption>(.*?)\s*</figcaption><div[^>]*>(.*?)</div>', page)
    plain = [(style, re.sub("<[^>]*>", "", caption).strip(), text) for style, caption, text in cards]
    assert plain == [
        ("s0", "ours, greedy ended by itself", "war das Wort"),
        ("s0", "ours, sampled cut at the length limit", "schuf Gott Himmel und Erde"),
        ("sb", "base", "of the world"),
    ]
    assert "3 of 16 sampled texts of ours ended by themselves" in " ".join(page.split())


def test_pages_of_unfinished_runs(make: Make) -> None:
    run = make("run", 1.812)
    for part in sorted(path for path in run.iterdir() if path.name != "recipe.toml"):
        shutil.rmtree(part) if part.is_dir() else part.unlink()
        page = page_of(run)
    assert "svg" not in page.tags
    headings = re.findall("<h2>(.*?)</h2>", page.source)
    assert headings == ["Time, memory, parity", "Recipe", "Versions where this report was written"], "no empty chapter"
    assert "Generated text: stage serve has not been done" in page.text and "Evaluation" not in page.text
    assert "stage eval has not been done" in page.text


HOSTILE = "</pre></dd><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;{{ 7 * 7 }}"


def test_hostile_text_stays_text(run: Path) -> None:
    answer = {"language": HOSTILE, "prompt": HOSTILE, "greedy": {"text": HOSTILE, "finish_reason": HOSTILE}}
    write(run / "serve/result.json", {"parity": {HOSTILE: HOSTILE}, "answers": [answer, 7, {"language": "de"}]})
    write(run / "lexicon/report.json", {HOSTILE: HOSTILE})
    name = HOSTILE.replace('"', '\\"')
    write(run / "recipe.toml", f'name = "{name}"\nlanguage = "{name}"\n')
    page_of(run)
    page = page_of(run)  # written anew
    assert sorted(path.name for path in (run / "report").iterdir()) == ["index.html", "result.json"]
    assert page.text.count(HOSTILE) >= 5
    assert ("lang", "de") in page.attributes


def test_parts_of_another_shape_do_not_break_the_page(run: Path) -> None:
    write(run / "serve/result.json", {"parity": [1], "answers": "text", "ends": 3})
    write(run / "data/report.json", {"target": 3, "english": {"words": 0, "switched": 0}})
    write(run / "align/report.json", {"contrast": [1, {"step": 1}, {"step": "x", "anchor": 1}], "rows": 5})
    write(run / "eval/report.json", {"models": [1]})
    page_of(run)


def test_long_logs_are_averaged(run: Path) -> None:
    steps = [{"step": step, "contrastive": 1.0, "anchor": 2.0} for step in range(1, 2501)]
    put(run / "align/report.json", "contrast", value=steps)
    page = page_of(run)
    assert "25 steps a point" in page.text
    curves = re.findall('class="line s0" d="M([^"]*)"', page.source)
    assert [one.count("L") + 1 for one in curves][-2:] == [MOST_POINTS, MOST_POINTS]


@pytest.mark.parametrize(
    "points",
    [
        *([(0, 1.0), (1e9, 2.0)], [(5, 3.0)], [(0, 0.0), (1, 0.0)], [(0, -1e-9), (1e-9, 1e-9)]),
        *([(0, 1.0), (1, 1.0 + 1e-15)], [(1, 1e12), (2, -1e12)]),
    ],
)
def test_everything_lies_inside_the_plot(points: list[tuple[float, float]]) -> None:
    chart = line_chart("shows", ("x", "y"), [("line", points, 0)], [("base", points[0][1] * 1.5, None)])
    assert chart is not None
    pairs = [pair.split() for line in chart["lines"] for pair in line["path"].split("L")]
    places = [(float(x), float(y)) for x, y in pairs]
    assert len(places) == len(points) + 2
    assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in places)
    assert line_chart("shows", ("x", "y"), [("line", [], 0)]) is None


@pytest.mark.parametrize("ends", [(0, 1), (1.2058, 1.2186), (-3, 7), (0, 2457600), (5, 5), (0, 0), (1e-7, 2e-7)])
def test_ticks_enclose_the_values(ends: tuple[float, float]) -> None:
    places = ticks(ends)
    assert 2 <= len(places) <= 8
    assert places[0] <= ends[0] + 1e-12 and places[-1] >= ends[1] - 1e-12
    assert all(a < b for a, b in itertools.pairwise(places))


def luminance(colour: str) -> float:
    """Relative luminance of a colour of three or six hexadecimal digits (WCAG 2)."""
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    parts = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_can_be_read(run: Path) -> None:
    light_and_dark = re.findall(r":root\{([^}]*)\}", page_of(run).source)
    assert len(light_and_dark) == 2
    for block in light_and_dark:
        colours = dict(re.findall(r"--(\w+):#(\w+)", block))
        pairs = [(ink, "back") for ink in ("text", "muted", *(f"c{n}" for n in range(COLOURS)))]
        for ink, back in [*pairs, ("text", "panel"), ("text", "mark")]:
            low, high = sorted(luminance(colours[name]) for name in (ink, back))
            assert (high + 0.05) / (low + 0.05) >= 4.5
