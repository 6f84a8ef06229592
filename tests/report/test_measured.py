"""The page on what `prealign eval` measured."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from prealign_cpt.report import write_report
from prealign_cpt.report.evaluation import Evaluation, read_evaluation
from prealign_cpt.report.measured import measured
from prealign_cpt.run.errors import DataError, MissingInputError

from .conftest import add_controls, add_evaluation, add_model, read, write
from .test_page import check

Make = Callable[[str, float], Path]


@pytest.fixture
def run(make: Make) -> Path:
    return add_model(make("mine", 1.8))


def shown(evaluation: Evaluation) -> str:
    return measured(evaluation, {"mine": 0, "other": 1}).open()


def show(run: Path, figures: dict[str, float]) -> str:
    folder = add_evaluation(run / "evaluation", figures, run / "export")
    return shown(read_evaluation(folder, {"mine": run}))


def compare(folder: Path, first: Path | None = None, second: Path | None = None) -> Path:
    """Results of two subjects and their comparison."""
    add_evaluation(folder / "first", {"mexa": 0.45}, first)
    add_evaluation(folder / "second", {"mexa": 0.6}, second)
    gap = {"mexa": {"second": {"value": 0.15, "low": 0.1, "high": 0.2, "n": 7}}}
    content = {"format": 1, "subjects": ["first", "second"], "figures": {}, "differences": {"sentences": gap}}
    write(folder / "comparison.json", content)
    return folder


def test_one_subject_has_intervals_base_and_change(run: Path) -> None:
    page = show(run, {"mexa": 0.45, "base/mexa": 0.3, "change/mexa": 0.45})
    row = re.search(r'<tr><th scope="row">mexa</th>(.*?)</tr>', page)
    assert row is not None
    assert re.findall("<td>(.*?)</td>", row[1]) == [
        "0.300 [0.400, 0.500]", "0.450 [0.400, 0.500]", "+0.450* [0.400, 0.500]", "7", "of mexa"
    ]  # fmt: skip
    assert "sentences: anc: too few sentences" in page
    assert "not measured: tokenizer" in page and "caution" not in page


def test_layers_are_drawn_in_the_models_own_colour(run: Path) -> None:
    (chart,) = [svg for svg in re.findall("<svg.*?</svg>", show(run, {"mexa": 0.45}), flags=re.S) if "by layer" in svg]
    assert re.findall(r'class="dot s0".*?<title>(.*?)</title>', chart) == [
        f"mine: {n / 4:.3f} at {n}" for n in range(3)
    ]


def test_several_subjects_have_paired_differences(run: Path, make: Make) -> None:
    other = add_model(make("other", 1.8))
    write(other / "export/config.json", {"model_type": "another"})
    folder = compare(run / "e", run / "export", other / "export")
    page = shown(read_evaluation(folder, {"mine": run, "other": other}))
    row = re.search(r'<tr><th scope="row">mexa</th>(.*?)</tr>', page)
    assert row is not None
    assert re.findall("<td>(.*?)</td>", row[1]) == [
        "0.450 [0.400, 0.500]", "0.600 [0.400, 0.500]", "+0.150* [0.100, 0.200]", "7", "of mexa"
    ]  # fmt: skip
    assert "other less mine" in page and "second" not in page, "by the runs' names on this page"


def test_subjects_without_a_comparison_have_no_column_of_differences(run: Path) -> None:
    folder = compare(run / "e", run / "export")
    (folder / "comparison.json").unlink()
    page = shown(read_evaluation(folder, {"mine": run}))
    assert "second (another model)" in page and " less " not in page


def test_a_bound_just_below_zero_has_no_sign(run: Path) -> None:
    folder = add_evaluation(run / "evaluation", {"mexa": 0.0}, run / "export")
    content = read(folder / "sentences.json")
    content["figures"]["mexa"]["low"] = -1e-17
    write(folder / "sentences.json", content)
    assert "[0.000, 0.500]" in shown(read_evaluation(folder, {"mine": run}))


def test_folders_without_results_and_damaged_ones(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="nowhere"):
        read_evaluation(tmp_path / "nowhere", {})
    with pytest.raises(MissingInputError, match="no result"):
        read_evaluation(tmp_path, {})
    folder = compare(tmp_path / "e")
    write(folder / "comparison.json", '{"format": 1, "subjects"')
    with pytest.raises(DataError, match=r"comparison\.json"):
        read_evaluation(folder, {})
    write(add_evaluation(tmp_path / "one", {}, None) / "sentences.json", "{")
    with pytest.raises(DataError, match=r"sentences\.json"):
        read_evaluation(tmp_path / "one", {})


def test_runs_on_one_page_share_their_controls(make: Make, tmp_path: Path) -> None:
    runs = [make("run", 1.812), make("other", 1.777)]
    write_report(runs[0], add_controls(tmp_path), others=runs[1:], out=tmp_path / "out")
    page = (tmp_path / "out/index.html").read_text()
    for name, style in (("run", "s0"), ("other", "s1"), ("base, trained", "s2"), ("subword-mean rows, trained", "s3")):
        assert f'<i class="key {style}"></i>{name}<' in page.split('<details class="run"')[0]
    first = re.findall("<svg.*?</svg>", page, flags=re.S)[0]
    assert re.findall(r'class="level (\w+)" d="M66 ', first)[-3:] == ["s2", "s3", "sb"], "controls and the base only"


def test_several_runs_on_one_page(make: Make, tmp_path: Path) -> None:
    runs = [make("run", 1.812), make("other", 1.777)]
    write(runs[1] / "recipe.toml", 'name = "run"\nlanguage = "German"\n')
    out = tmp_path / "out"
    text = write_report(runs[0], others=runs[1:], evaluation=compare(tmp_path / "e"), out=out)
    assert "1.812" in text and "1.777" in text
    assert sorted(read(out / "result.json")["runs"]) == ["run", "run-2"]
    assert text.count("first (not checked): run, run-2 has no export") == 1
    page = check(out.parent, out.name)
    assert page.attributes.count(("class", "run")) == 2 and "2 runs: English to German" in page.text
    assert re.search("run-2[a-z, ]*1.777", page.text), "a row of the table that has all runs"
    assert "+0.150*" in page.text
    assert not (runs[0] / "report").exists()
