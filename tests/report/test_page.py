"""The page as a whole, without a browser."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from prealign_cpt.report import write_report
from prealign_cpt.report.charts import COLOURS
from prealign_cpt.report.page import MOST_POINTS

from .conftest import add_controls, check, read, write

Make = Callable[[str, float], Path]


def test_page_of_a_finished_run(make: Make, tmp_path: Path) -> None:
    run = make("run", 1.812)
    write_report(run, add_controls(tmp_path))
    page = check(run / "report/index.html")
    assert ("lang", "en") in page.attributes and "prefers-color-scheme" in page.text
    assert page.attributes.count(("role", "img")) == 4
    for text in (
        "plain subword means on the same text (1.830): -0.018 [",
        "war das Wort",
        "1,234,567",
        "1 h 01 min",
        "P@1 is over 40 words",
    ):
        assert text in page.text
    order = ["Held-out German: 1.812", "Test texts", "Learning curve", "Generated text", "Lexicon"]
    places = [page.text.index(text) for text in order]
    assert places == sorted(places)
    before_any_fold = (run / "report/index.html").read_text().split('<details class="part">')[0]
    assert "dropped" not in before_any_fold and "new tokens" not in before_any_fold.split("Learning curve")[1]


def test_every_model_has_one_colour_and_the_base_its_level_in_both_curves(make: Make, tmp_path: Path) -> None:
    run = make("run", 1.812)
    write_report(run, add_controls(tmp_path))
    charts = re.findall(r"<figure>.*?</figure>", (run / "report/index.html").read_text(), flags=re.S)[:2]
    for chart in charts:
        assert chart.count('class="level sb"') == 2, "the line and its entry in the legend"
        assert chart.count('class="level s1"') == chart.count('class="level s2"') == 1, "where each control ends"
        assert "base, trained <b>" in chart and "subword-mean rows, trained <b>" in chart
    assert "base <b>2.996</b>" in charts[0]
    for name, style in (("ours", "s0"), ("base, trained", "s1"), ("subword-mean rows, trained", "s2"), ("base", "sb")):
        assert f'<i class="key {style}"></i>{name}<' in (run / "report/index.html").read_text()


def test_answers_stand_beside_each_other_and_say_how_they_ended(make: Make) -> None:
    run = make("run", 1.8)
    write_report(run)
    page = (run / "report/index.html").read_text()
    cards = re.findall(r'<figure class="answer (\w+)"><figcaption>(.*?)</figcaption>\s*<div[^>]*>(.*?)</div>', page)
    plain = [(style, re.sub("<[^>]*>", "", caption).strip(), text) for style, caption, text in cards]
    assert plain == [
        ("s0", "ours, greedy ended by itself", "war das Wort"),
        ("s0", "ours, sampled cut at the length limit", "schuf Gott Himmel und Erde"),
        ("sb", "base", "of the world"),
    ]
    assert "3 of 16 sampled texts of\nours ended by themselves" in page


def test_pages_of_unfinished_runs(make: Make) -> None:
    run = make("run", 1.812)
    for part in sorted(path for path in run.iterdir() if path.name != "recipe.toml"):
        shutil.rmtree(part) if part.is_dir() else part.unlink()
        write_report(run)
        check(run / "report/index.html")
    page = check(run / "report/index.html")
    assert "svg" not in page.tags
    headings = re.findall("<h2>(.*?)</h2>", (run / "report/index.html").read_text())
    assert headings == ["Time, memory, parity", "Recipe", "Versions where this report was written"], "no empty chapter"
    assert "Generated text: stage serve has not been done" in page.text and "Evaluation" not in page.text
    assert "stage eval has not been done" in page.text and "stage serve has not been done" in page.text


HOSTILE = "</pre></dd><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;"


def test_hostile_text_stays_text(make: Make) -> None:
    run = make("run", 1.8)
    answer = {"language": HOSTILE, "prompt": HOSTILE, "greedy": {"text": HOSTILE, "finish_reason": HOSTILE}}
    write(run / "serve/result.json", {"parity": {HOSTILE: HOSTILE}, "answers": [answer, 7, {"language": "de"}]})
    write(run / "lexicon/report.json", {HOSTILE: HOSTILE})
    name = HOSTILE.replace('"', '\\"')
    write(run / "recipe.toml", f'name = "{name}"\nlanguage = "{name}"\n')
    write_report(run)
    page = check(run / "report/index.html")
    assert page.text.count(HOSTILE) >= 5
    assert ("lang", "de") in page.attributes


def test_parts_of_another_shape_do_not_break_the_page(make: Make) -> None:
    run = make("run", 1.8)
    write(run / "serve/result.json", {"parity": [1], "answers": "text"})
    write(run / "data/report.json", {"target": 3, "english": {"words": 0, "switched": 0}})
    write(run / "align/report.json", {"contrast": [1, {"step": 1}, {"step": "x", "anchor": 1}], "rows": 5, "arms": []})
    write_report(run)
    check(run / "report/index.html")


def test_long_logs_are_averaged(make: Make) -> None:
    run = make("run", 1.8)
    report = read(run / "align/report.json")
    report["contrast"] = [{"step": step, "contrastive": 1.0, "anchor": 2.0} for step in range(1, 2501)]
    write(run / "align/report.json", report)
    write_report(run)
    page = check(run / "report/index.html")
    assert "25 steps a point" in page.text
    curves = re.findall('class="line s0" d="M([^"]*)"', (run / "report/index.html").read_text())
    assert [one.count("L") + 1 for one in curves][-2:] == [MOST_POINTS, MOST_POINTS]


def test_the_report_is_written_anew(make: Make) -> None:
    run = make("run", 1.8)
    write_report(run)
    write(run / "recipe.toml", 'name = "again"\nlanguage = "French"\n')
    write_report(run)
    assert "again: English to French" in check(run / "report/index.html").text
    assert sorted(path.name for path in (run / "report").iterdir()) == ["index.html", "result.json"]


def contrast_ratio(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
        parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_colours_can_be_read(make: Make, scheme: int) -> None:
    run = make("run", 1.8)
    write_report(run)
    blocks = re.findall(r":root\{([^}]*)\}", (run / "report/index.html").read_text())
    colours = dict(re.findall(r"--(\w+):#(\w+)", blocks[scheme]))
    for ink in ("text", "muted", *(f"c{n}" for n in range(COLOURS))):
        assert contrast_ratio(colours[ink], colours["back"]) >= 4.5
    for back in ("panel", "mark"):
        assert contrast_ratio(colours["text"], colours[back]) >= 4.5
