"""The page on what `prealign eval` measured."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from prealign_cpt.errors import DataError, MissingInputError
from prealign_cpt.report import write_report
from prealign_cpt.report.evaluation import read_evaluation
from prealign_cpt.report.measured import measured

from .conftest import add_evaluation, read, write
from .test_page import check

Make = Callable[[str, float], Path]


def compare(folder: Path) -> Path:
    """Results of two subjects and their comparison."""
    add_evaluation(folder / "first", {"mexa": 0.45})
    add_evaluation(folder / "second", {"mexa": 0.6})
    gap = {"mexa": {"second": {"value": 0.15, "low": 0.1, "high": 0.2, "n": 7}}}
    content = {"format": 1, "subjects": ["first", "second"], "figures": {}, "differences": {"sentences": gap}}
    write(folder / "comparison.json", content)
    return folder


def test_one_subject_has_intervals_base_and_change(tmp_path: Path) -> None:
    figures = {"mexa": 0.45, "base/mexa": 0.3, "change/mexa": 0.45}
    page = measured(read_evaluation(add_evaluation(tmp_path / "e", figures), "mine"))
    row = re.search(r'<tr><th scope="row">mexa</th>(.*?)</tr>', page)
    assert row is not None
    assert re.findall("<td>(.*?)</td>", row[1]) == [
        "0.450", "[0.400, 0.500]", "7", "0.300", "+0.450* [0.400, 0.500]", "of mexa"
    ]  # fmt: skip
    assert "sentences: anc: too few sentences" in page
    assert "not measured: tokenizer" in page


def test_layers_are_drawn_and_listed(tmp_path: Path) -> None:
    page = measured(read_evaluation(add_evaluation(tmp_path / "e", {"mexa": 0.45}), "mine"))
    assert [float(x) for x in re.findall(r'class="heat"[^>]*fill-opacity="([\d.]+)"', page)] == [0.06, 0.53, 1.0]
    assert '<th scope="row">2</th><td>0.500</td>' in page


def test_several_subjects_have_paired_differences(tmp_path: Path) -> None:
    page = measured(read_evaluation(compare(tmp_path / "e"), "unused"))
    row = re.search(r'<tr><th scope="row">mexa</th>(.*?)</tr>', page)
    assert row is not None
    assert re.findall("<td>(.*?)</td>", row[1]) == [
        "0.450 [0.400, 0.500]", "0.600 [0.400, 0.500]", "+0.150* [0.100, 0.200]"
    ]  # fmt: skip
    assert "second less first" in page


def test_folders_without_results_and_damaged_ones(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="nowhere"):
        read_evaluation(tmp_path / "nowhere", "x")
    with pytest.raises(MissingInputError, match="no result"):
        read_evaluation(tmp_path, "x")
    folder = compare(tmp_path / "e")
    write(folder / "comparison.json", '{"format": 1, "subjects"')
    with pytest.raises(DataError, match=r"comparison\.json"):
        read_evaluation(folder, "x")
    write(add_evaluation(tmp_path / "one", {}) / "sentences.json", "{")
    with pytest.raises(DataError, match=r"sentences\.json"):
        read_evaluation(tmp_path / "one", "x")


def test_several_runs_on_one_page(make: Make, tmp_path: Path) -> None:
    runs = [make("run", 1.812), make("other", 1.777)]
    write(runs[1] / "recipe.toml", 'name = "run"\nlanguage = "German"\n')
    out = tmp_path / "out"
    text = write_report(runs[0], others=runs[1:], evaluation=compare(tmp_path / "e"), out=out)
    assert "1.812" in text and "1.777" in text
    assert sorted(read(out / "result.json")["runs"]) == ["run", "run-2"]
    page = check(out.parent, out.name)
    assert page.attributes.count(("class", "run")) == 2 and "2 runs: English to German" in page.text
    assert "run-21.777" in page.text, "a row of the table that has all runs"
    assert "+0.150*" in page.text
    assert not (runs[0] / "report").exists()
