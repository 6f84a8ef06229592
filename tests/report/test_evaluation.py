"""The page on what `prealign eval` measured, shown as a run's only if it was made from the run's export."""

import re
from pathlib import Path
from typing import Any

import pytest

from prealign_cpt.report import write_report
from prealign_cpt.report.evaluation import read_evaluation
from prealign_cpt.run.errors import DataError, MissingInputError

from .conftest import Make, add_base, add_controls, add_evaluation, add_model, page_of, put, read, recipe, write


@pytest.fixture
def run(make: Make, tmp_path: Path) -> Path:
    """A run with an export, and its base in the folder english."""
    run = add_model(make("mine", 1.8))
    add_base(run, tmp_path / "english")
    return run


def another(make: Make, name: str) -> Path:
    """A run with an export of its own."""
    other = add_model(make(name, 1.9))
    write(other / "export/config.json", {"model_type": "another"})
    return other


def shown(run: Path, evaluation: Path, others: tuple[Path, ...] = ()) -> str:
    return page_of(run, others=others, evaluation=evaluation, out=run / "report").source


def cells(page: str) -> list[str]:
    row = re.search(r'<tr><th scope="row">mexa</th>(.*?)</tr>', page)
    assert row is not None
    return re.findall("<td[^>]*>(.*?)</td>", row[1])


def compare(folder: Path, first: Path | None = None, second: Path | None = None) -> Path:
    """Results of two subjects and their comparison."""
    add_evaluation(folder / "first", {"mexa": 0.45}, first)
    add_evaluation(folder / "second", {"mexa": 0.6}, second)
    gap = {"mexa": {"second": {"value": 0.15, "low": 0.1, "high": 0.2, "n": 7}}}
    content = {"format": 1, "subjects": ["first", "second"], "figures": {}, "differences": {"sentences": gap}}
    write(folder / "comparison.json", content)
    return folder


def test_one_subject_has_intervals_base_and_change(run: Path) -> None:
    figures = {"mexa": 0.45, "base/mexa": 0.3, "change/mexa": 0.45}
    page = shown(run, add_evaluation(run / "evaluation", figures, run / "export"))
    assert cells(page) == ["0.300 [0.400, 0.500]", "0.450 [0.400, 0.500]", "+0.450* [0.400, 0.500]", "7", "of mexa"]
    assert "sentences: anc: too few sentences" in page
    assert "not measured: tokenizer" in page and 'class="caution"' not in page
    put(run / "evaluation/sentences.json", "figures", "mexa", "low", value=-1e-17)
    assert cells(shown(run, run / "evaluation"))[1] == "0.450 [0.000, 0.500]", "a bound just below zero has no sign"


def test_main_figures_are_bars_with_whiskers_and_layers_a_line_in_the_models_own_colour(run: Path) -> None:
    page = shown(run, add_evaluation(run / "evaluation", {"mexa": 0.45, "base/mexa": 0.3}, run / "export"))
    bars = page.split("Main figures</h3>")[1].split("</figure>")[0]
    widths = re.findall(r'class="bar (s\w)" style="width:([\d.]+)%', bars)
    assert [(style, float(width)) for style, width in widths] == [("sb", pytest.approx(60)), ("s0", pytest.approx(90))]
    whisker = re.search(r'class="whisker" style="left:([\d.]+)%;width:([\d.]+)%', bars)
    assert whisker is not None and list(map(float, whisker.groups())) == pytest.approx([80, 20]), "0.4 to 0.5 of 0.5"
    tips = re.findall(r'<circle class="s0".*?<title>(.*?)</title>', page)
    assert [tip for tip in tips if "0.250 at 1" in tip or "0.500 at 2" in tip] == [
        "ours: 0.250 at 1",
        "ours: 0.500 at 2",
    ]


def test_several_subjects_have_paired_differences_by_the_runs_names(run: Path, make: Make) -> None:
    other = another(make, "other")
    page = shown(run, compare(run / "e", run / "export", other / "export"), (other,))
    assert cells(page) == ["0.450 [0.400, 0.500]", "0.600 [0.400, 0.500]", "+0.150* [0.100, 0.200]", "7", "of mexa"]
    assert "other less mine" in page and "second (" not in page and ">second<" not in page
    (run / "e/comparison.json").unlink()
    page = shown(run, run / "e")
    assert "second (another model)" in page and " less ours" not in page, "no comparison, no differences"


def test_folders_without_results_and_damaged_ones(tmp_path: Path) -> None:
    for folder, words in ((tmp_path / "nowhere", "nowhere"), (tmp_path, "no result")):
        with pytest.raises(MissingInputError, match=words):
            read_evaluation(folder, {})
    folder = compare(tmp_path / "e")
    write(folder / "comparison.json", '{"format": 1, "subjects"')
    with pytest.raises(DataError, match=r"comparison\.json"):
        read_evaluation(folder, {})
    write(add_evaluation(tmp_path / "one", {}, None) / "sentences.json", "{")
    with pytest.raises(DataError, match=r"sentences\.json"):
        read_evaluation(tmp_path / "one", {})


def subjects(folder: Path, run: Path) -> tuple[list[str], str]:
    evaluation = read_evaluation(folder, {"mine": run})
    return evaluation.subjects, " ".join(evaluation.cautions)


def test_the_runs_own_and_its_base(run: Path, tmp_path: Path) -> None:
    assert subjects(add_evaluation(tmp_path / "e", {"mexa": 0.5}, run / "export"), run) == (["mine"], "")
    names, line = subjects(add_evaluation(tmp_path / "x/mine", {"mexa": 0.5}, tmp_path / "english"), run)
    assert names == ["base"], "whatever its folder is called"
    assert line == "base: figures of the base of mine, not of mine itself."
    for name, model in (("english", tmp_path / "english"), ("mine", run / "export")):
        add_evaluation(tmp_path / "both" / name, {"mexa": 0.5}, model)
    assert subjects(tmp_path / "both", run) == (["base", "mine"], ""), "beside the run it needs no caution"


def test_another_model(run: Path, tmp_path: Path) -> None:
    text = write_report(run, evaluation=add_evaluation(tmp_path / "other", {"mexa": 0.5}, None))
    line = (
        "other (another model): figures of another model than the export of ours; `prealign eval RUN` measures a run."
    )
    page = (run / "report/index.html").read_text()
    assert f'<p class="caution">{line}</p>' in page and text.endswith(f"Caution: {line}")
    assert "<span>other (another model)</span>" in page, "in the plot too"


def test_a_run_that_was_exported_again_or_has_no_export(run: Path, tmp_path: Path) -> None:
    folder = add_evaluation(run / "evaluation", {"mexa": 0.5}, run / "export")
    write(run / "export/tokenizer.json", (run / "export/tokenizer.json").read_text() + " ")
    assert subjects(folder, run)[0] == ["evaluation (another model)"]
    (run / "export/config.json").unlink()
    names, line = subjects(folder, run)
    assert names == ["evaluation (not checked)"] and "mine has no export" in line
    of_base = add_evaluation(tmp_path / "e", {"mexa": 0.5}, tmp_path / "english")
    assert subjects(of_base, run)[0] == ["base"], "that can be said without an export"


def test_the_controls_export_is_the_control(run: Path, make: Make, tmp_path: Path) -> None:
    control = another(make, "control-run")
    folder = add_evaluation(tmp_path / "e", {"mexa": 0.5}, control / "export")
    assert "Caution: e " not in write_report(run, [recipe(control, init="subword")], evaluation=folder)
    page = (run / "report/index.html").read_text().split("Main figures</h3>")[1]
    assert 'class="bar s1"' in page and "<span>subword-mean rows, trained</span>" in page, (
        "name and colour of the table"
    )


def test_results_of_several_models_in_one_folder_are_refused(run: Path, tmp_path: Path) -> None:
    folder = add_evaluation(tmp_path / "e", {"mexa": 0.5}, run / "export")
    add_evaluation(folder, {"accuracy": 0.5}, tmp_path / "english", "icl")
    with pytest.raises(DataError, match=r"results of 2 different models \(icl / sentences\)"):
        read_evaluation(folder, {"mine": run})
    write(folder / "icl.json", {"format": 1, "status": "done", "seconds": 1, "figures": {}, "items_sha256": ""})
    with pytest.raises(DataError, match=r"icl\.json: .* it does not say what it was made from"):
        read_evaluation(folder, {"mine": run})


def test_several_runs_on_one_page(make: Make, tmp_path: Path) -> None:
    runs = [make("run", 1.812), make("other", 1.777)]
    write(runs[1] / "recipe.toml", 'name = "run"\nlanguage = "German"\n')
    out = tmp_path / "out"
    options: dict[str, Any] = {"others": runs[1:], "evaluation": compare(tmp_path / "e"), "out": out}
    text = write_report(runs[0], controls := add_controls(tmp_path), **options)
    assert "Worse than run-2 (1.777): +0.035 [" in text and text.count("Caution: first (not checked): run, run-2") == 1
    assert list(read(out / "result.json")["models"])[2:4] == ["run", "run-2"]
    page = page_of(runs[0], controls, **options).source
    for name, style in (("run", "s0"), ("run-2", "s1"), ("base, trained", "s2"), ("subword-mean rows, trained", "s3")):
        assert f'<i class="key {style}"></i>{name}<' in page
    first = re.findall('<svg role="img".*?</svg>', page, flags=re.S)[0]
    assert re.findall(r'class="level (\w+)"', first) == ["s1", "s2", "s3", "sb"], "where the others end, and the base"
    assert "+0.150*" in page and not (runs[0] / "report").exists()
