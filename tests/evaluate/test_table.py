"""`prealign eval SUBJECT...` from the command line to the table."""

import fcntl
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prealign_cpt.cli import main
from prealign_cpt.command_line import command_line
from prealign_cpt.evaluate import command
from prealign_cpt.evaluate.figures import Absent, Figure, Outcome, Result, from_json
from prealign_cpt.evaluate.statistics import mean_of
from prealign_cpt.evaluate.table import differences, table, unique
from prealign_cpt.parser import parse
from prealign_cpt.recipe.file import anywhere, as_toml, load_recipe
from prealign_cpt.run.errors import MissingInputError, RecipeError
from tests.conftest import ENGLISH, START, TARGET, make_model, make_tokenizer

OWN = "tokenizer,language_model,icl,words,sentences"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command goes offline for good; no other test shall."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")


@pytest.fixture
def run(tmp_path: Path, recipe_file: Path) -> Path:
    """A run folder with an export that is not the base, and its half lexicons."""
    folder = tmp_path / "runs" / "grown"
    (folder / "lexicon").mkdir(parents=True)
    (folder / "lexicon" / "clean.tsv").write_text("house\tHaus\nwater\tWasser\nriver\tFluss\ndog\tHund\n")
    (folder / "lexicon" / "heldout.tsv").write_text("book\tBuch\nsea\tMeer\n")
    tokenizer = make_tokenizer((ENGLISH + TARGET) * 4, 600)
    make_model(len(tokenizer), spread=0.02).save_pretrained(folder / "export")
    tokenizer.save_pretrained(folder / "export")
    recipe = load_recipe(recipe_file)
    (folder / "recipe.toml").write_text(as_toml(anywhere(recipe)))
    return folder


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """Flags that name data for every measure."""
    for name, documents in (("target", TARGET), ("english", ENGLISH)):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(documents), encoding="utf-8")
    sides = [[part for text in texts for part in text.replace("\n", " ").split(". ")] for texts in (ENGLISH, TARGET)]
    lines = [f"{english}\t{target}" for english, target in zip(*sides, strict=False)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines), encoding="utf-8")
    return ["--target", f"{tmp_path}/target.txt", "--english", f"{tmp_path}/english.txt",
            "--parallel", f"{tmp_path}/pairs.tsv", "--device", "cpu", "--max-items", "12"]  # fmt: skip


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_one_run(run: Path, flags: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["eval", str(run), "--only", OWN, *flags]) == 0
    out = run / "evaluation"
    assert sorted(path.stem for path in out.glob("*.json")) == sorted(OWN.split(","))
    for path in out.glob("*.json"):
        content = read(path)
        assert content["status"] == "done"
        assert from_json(content["figures"], str(path))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "| measure | figure | grown | base | change |"
    row = next(line for line in printed if line.startswith("| language_model | target/text/bits_per_byte |"))
    figures = read(out / "language_model.json")["figures"]
    for name in ("target/text/bits_per_byte", "base/target/text/bits_per_byte", "change/target/text/bits_per_byte"):
        assert f"{figures[name]['value']:.3f}" in row
    assert not any("layer/1" in line for line in printed)
    assert main(["eval", str(run), "--only", OWN, *flags]) == 0
    assert capsys.readouterr().out.splitlines() == printed, "the second time all is there, and the same"


def test_a_run_brings_its_own_data_and_names_its_base(run: Path, capsys: pytest.CaptureFixture[str]):
    recipe = run / "recipe.toml"
    recipe.write_text(re.sub(r"(?m)^model = .*", 'model = "some/where"', recipe.read_text()))
    assert main(["eval", str(run), "--preset", "quick"]) == 0
    printed = capsys.readouterr().out
    assert "| language_model | target/valid/bits_per_byte |" in printed and "english_to_target/p1_csls" in printed
    assert "absent: language_model base: base 'some/where': the hub does not give it" in printed
    for path in run.parent.parent.glob("valid_target.txt"):
        path.unlink()
    with pytest.raises(MissingInputError, match=r"valid_target.txt: no such file; .* with --recipe"):
        command.run_eval(parse(command_line(), ["eval", str(run)]))


def test_nothing_given_is_no_failure(base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["eval", str(base_folder), "--only", "words,sentences", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "- absent: sentences sentences: no local data: no parallel text; give it with --parallel" in printed
    assert read(tmp_path / "out" / "words.json")["status"] == "absent"


def test_what_could_run_and_failed_is_told(base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "pairs.tsv").write_text("one\teins\ntwo\tzwei\n")
    arguments = ["eval", str(base_folder), "--parallel", f"{tmp_path}/pairs.tsv", "--out", f"{tmp_path}/out"]
    assert main([*arguments, "--only", "sentences,tokenizer"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED: sentences" in printed and "2 sentence pairs, 10 are needed" in printed
    assert "| tokenizer | parity |" in printed


def test_two_subjects_on_the_same_work(
    run: Path, base_folder: Path, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    shutil.copytree(base_folder, tmp_path / "start")
    only = ["--only", "language_model,sentences"]
    assert main(["eval", str(tmp_path / "start"), str(run), "--out", str(out), *only, *flags]) == 0
    content = read(out / "comparison.json")
    assert content["subjects"] == ["start", "grown"]
    name = "target/text/bits_per_byte"
    figures, gap = content["figures"]["language_model"][name], content["differences"]["language_model"][name]["grown"]
    written = read(out / "grown" / "language_model.json")["figures"][name]
    assert written.pop("items") and figures["grown"] == written
    assert gap["value"] == pytest.approx(figures["grown"]["value"] - figures["start"]["value"])
    change = read(out / "grown" / "language_model.json")["figures"][f"change/{name}"]
    assert gap == change, "the first subject is the run's base, so both ways to compare agree"
    printed = capsys.readouterr().out
    assert f"({gap['value']:+.3f}*)" in printed
    about = [read(out / name / "language_model.json")["made_from"] for name in ("start", "grown")]
    assert all(made_from["dtype"] == "float32" and made_from["start_token"] == START for made_from in about)


def test_two_evaluations_at_once(base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with (tmp_path / "eval.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["eval", str(base_folder), "--only", "icl", "--out", str(tmp_path)]) == 75
    assert "another evaluation works here" in capsys.readouterr().err


def test_a_recipe_runs_its_stages(recipe_file: Path, monkeypatch: pytest.MonkeyPatch):
    """`prealign eval RECIPE.toml` keeps its meaning, with recipe keys as flags."""
    seen: list[Any] = []
    monkeypatch.setattr("prealign_cpt.pipeline.run_parts", lambda recipe, *more, **named: seen.append((recipe, more)))
    assert main(["eval", str(recipe_file), "--train.steps", "9", "--language", "Danish"]) == 0
    ((recipe, more),) = seen
    assert (recipe.train.steps, recipe.language) == (9, "Danish") and "eval" in more


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "http://127.0.0.1:1/v1", "--url", "http://127.0.0.1:2/v1"], "--url: given 2 times for 1 subjects"),
        (["--languages", "deu_Latn"], "give two names"),
        (["--only", "everything"], "no such measure; there are tokenizer"),
    ],
)
def test_flags_that_do_not_fit(base_folder: Path, tmp_path: Path, arguments: list[str], message: str):
    with pytest.raises(RecipeError, match=message):
        command.run_eval(parse(command_line(), ["eval", str(base_folder), "--out", str(tmp_path), *arguments]))


def outcomes(**results: Result) -> dict[str, dict[str, Outcome]]:
    return {name: {"m": Outcome("done", result, 1.0, False)} for name, result in results.items()}


def test_differences_only_where_items_are_shared():
    scores = np.array([1.0, 2.0, 4.0])
    found = outcomes(
        a={"x": mean_of(scores), "y": Figure(1.0), "z": mean_of(scores)},
        b={"x": mean_of(scores + 1), "y": Figure(2.0), "z": mean_of(scores[:2]), "base/x": mean_of(scores)},
    )
    gaps = differences(found)["b"]["m"]
    assert gaps["x"].value == pytest.approx(1.0)
    assert isinstance(gaps["z"], Absent) and set(gaps) == {"x", "z"}
    lines = table(found, {"b": {"m": gaps}}, {})
    assert any("(+1.000*)" in line for line in lines)


def test_a_bound_or_difference_just_below_zero_has_no_sign():
    found = outcomes(a={"x": Figure(-1e-17, -1e-17, 0.5)})
    gap = Figure(-1e-17, -0.25, 0.25)
    lines = "\n".join(table(found, {"a": {"m": {"x": gap}}}, {}))
    assert "0.000 [0.000, 0.500] (+0.000)" in lines and "-0.000" not in lines


def test_names_are_unique():
    assert unique(["a", "b", "a", "a"]) == ["a", "b", "a-2", "a-3"]
