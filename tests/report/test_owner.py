"""An evaluation is shown as a run's only if it was made from the run's export."""

from collections.abc import Callable
from pathlib import Path

import pytest

from prealign_cpt.report import write_report
from prealign_cpt.report.evaluation import read_evaluation
from prealign_cpt.run.errors import DataError

from .conftest import add_base, add_evaluation, add_model, recipe, write

Make = Callable[[str, float], Path]


@pytest.fixture
def run(make: Make, tmp_path: Path) -> Path:
    run = add_model(make("mine", 1.8))
    add_base(run, tmp_path / "english")
    return run


def subjects(folder: Path, run: Path) -> tuple[list[str], str]:
    found = read_evaluation(folder, {"mine": run})
    return list(found.subjects), " ".join(found.cautions)


def test_the_runs_own(run: Path, tmp_path: Path) -> None:
    assert subjects(add_evaluation(tmp_path / "e", {"mexa": 0.5}, run / "export"), run) == (["mine"], "")


def test_the_runs_base(run: Path, tmp_path: Path) -> None:
    names, line = subjects(add_evaluation(tmp_path / "mine", {"mexa": 0.5}, tmp_path / "english"), run)
    assert names == ["base"], "whatever its folder is called"
    assert line == "base: figures of the base of mine, not of mine itself."


def test_the_base_beside_the_run_needs_no_caution(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    for name, model in (("english", tmp_path / "english"), ("mine", run / "export")):
        add_evaluation(folder / name, {"mexa": 0.5}, model)
    assert subjects(folder, run) == (["base", "mine"], "")


def test_another_model(run: Path, tmp_path: Path) -> None:
    text = write_report(run, evaluation=add_evaluation(tmp_path / "mine", {"mexa": 0.5}, None))
    line = "mine (another model): figures of another model than the export of ours; `prealign eval RUN` measures a run."
    page = (run / "report/index.html").read_text()
    assert f'<p class="caution">{line}</p>' in page and text.endswith(f"Caution: {line}")
    assert ">mine (another model)</text>" in page, "in the plot too"


def test_a_run_that_was_exported_again(run: Path) -> None:
    folder = add_evaluation(run / "evaluation", {"mexa": 0.5}, run / "export")
    write(run / "export/tokenizer.json", (run / "export/tokenizer.json").read_text() + " ")
    assert subjects(folder, run)[0] == ["evaluation (another model)"]


def test_a_run_without_an_export(run: Path, tmp_path: Path) -> None:
    folder = add_evaluation(run / "evaluation", {"mexa": 0.5}, run / "export")
    (run / "export/config.json").unlink()
    names, line = subjects(folder, run)
    assert names == ["evaluation (not checked)"] and "mine has no export" in line
    of_base = add_evaluation(tmp_path / "e", {"mexa": 0.5}, tmp_path / "english")
    assert subjects(of_base, run)[0] == ["base"], "that can be said without an export"


def test_the_controls_export_is_the_control(run: Path, make: Make, tmp_path: Path) -> None:
    control = add_model(make("control-run", 1.9))
    write(control / "export/config.json", {"model_type": "another"})
    folder = add_evaluation(tmp_path / "e", {"mexa": 0.5}, control / "export")
    assert "Caution: e " not in write_report(run, [recipe(control, init="subword")], evaluation=folder)
    page = (run / "report/index.html").read_text().split("Main figures</h3>")[1]
    assert 'class="bar s1"' in page and "subword-mean rows, trained: 0.5" in page, "its name and colour of the table"


def test_results_of_several_models_in_one_folder_are_refused(run: Path, tmp_path: Path) -> None:
    folder = add_evaluation(tmp_path / "e", {"mexa": 0.5}, run / "export")
    add_evaluation(folder, {"accuracy": 0.5}, tmp_path / "english", "icl")
    with pytest.raises(DataError, match=r"results of 2 different models \(icl / sentences\)"):
        read_evaluation(folder, {"mine": run})
    write(folder / "icl.json", {"format": 1, "status": "done", "seconds": 1, "figures": {}, "items_sha256": ""})
    with pytest.raises(DataError, match=r"icl\.json: does not say what it was made from"):
        read_evaluation(folder, {"mine": run})
