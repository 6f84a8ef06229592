"""The folder that `prealign clone` writes, and the pipeline over it."""

import json
from pathlib import Path

import pytest

from prealign_cpt.cli import main
from prealign_cpt.evaluate.data import read_labelled
from prealign_cpt.lab.clone.build import Knobs, build_clone
from prealign_cpt.lab.clone.tokenizer import make_cloner
from prealign_cpt.lexicon.stage import read_pairs
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run.errors import DataError, RecipeError
from prealign_cpt.run.manifest import verify
from prealign_cpt.text.reader import read_documents
from tests.lab.clone.conftest import write_texts


def documents(folder: Path, name: str) -> list[str]:
    return list(read_documents([folder / f"{name}.txt"]))


def test_no_document_is_in_two_places(clone_folder: Path, base_folder: Path):
    verify(clone_folder)
    cloner = make_cloner(base_folder, ["x"])
    english = {name: documents(clone_folder, f"english.{name}") for name in ("train", "valid", "test")}
    target = {name: documents(clone_folder, f"target.{name}") for name in ("train", "valid", "test")}
    for name in ("valid", "test"):
        assert target[name] == [cloner.text(document) for document in english[name]], "held-out text is parallel"
        assert not set(english[name]) & set(english["train"]) and not set(target[name]) & set(target["train"])
    both = {cloner.text(document) for document in english["train"]} & set(target["train"])
    assert len(both) == 12, "statements of the 6 facts of the group 'both', two wordings each; no other document"
    assert len(english["train"]) == len(target["train"]) == 38 + 12 * 5
    assert not set(english["valid"]) & set(english["test"])


def test_lexicon_and_report(clone_folder: Path, base_folder: Path):
    cloner = make_cloner(base_folder, ["x"])
    pairs = read_pairs(clone_folder / "lexicon.tsv")
    assert all(pair.target == cloner.text(pair.source) for pair in pairs)
    assert pairs[0].source in ("the", "a") and {"daughters", "river"} < {pair.source for pair in pairs}
    report = json.loads((clone_folder / "report.json").read_text())
    assert report["mismatch"] == 0 and report["lexicon"]["listed"] == len(pairs)
    assert report["bytes"]["target.test"] > 1.5 * report["bytes"]["english.test"]


def test_transfer_sentences_are_labelled_and_disjoint(clone_folder: Path, base_folder: Path):
    cloner = make_cloner(base_folder, ["x"])
    english, clone = (read_labelled(clone_folder / f"transfer.{name}.tsv") for name in ("english", "clone"))
    assert {label for label, _ in english} == {label for label, _ in clone} == {"house", "king"}
    assert not {cloner.text(text) for _, text in english} & {text for _, text in clone}
    assert all(("daughters" not in text and "king" not in text.lower()) for label, text in english if label == "house")


def test_the_pipeline_runs_on_it(clone_folder: Path, tmp_path: Path, monkeypatch, capsys):
    """Up to the alignment stage, with oracle rows: English and clone are scored, and every question is asked."""
    monkeypatch.setattr(
        "prealign_cpt.pipeline.os.sched_getaffinity", lambda _: {0}
    )  # threads only hinder a model this small
    recipe = clone_folder / "recipe.toml"
    assert load_recipe(recipe).vocab.tokenizer == "tokenizer"
    flags = ["--out", str(tmp_path), "--device", "cpu", "--train.precision", "fp32", "--align.steps", "0"]
    flags += ["--align.init", "file", "--align.rows", "oracle.safetensors", "--evaluate.mixed_prompts", "2"]
    assert main(["eval", str(recipe), *flags]) == 0, capsys.readouterr().err
    vocab = json.loads((tmp_path / "lab" / "vocab" / "report.json").read_text())
    assert vocab["new_tokens"] == load_recipe(recipe).vocab.size and vocab["english_lines_changed"] == 0
    models = json.loads((tmp_path / "lab" / "eval" / "report.json").read_text())["models"]
    aligned = models["aligned"]
    assert aligned["clka"]["groups"]["none/clone"]["questions"] == 6
    assert aligned["retrieval"]["p1"] == aligned["retrieval"]["seen_p1"] == 1.0, "perfect rows are found"
    assert aligned["mixed"]["target_letters"] + aligned["mixed"]["english_letters"] > 0
    assert aligned["transfer"]["acc_target"] > 0.8 > models["base"]["transfer"]["acc_target"]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"lexicon_share": 0.0}, "--lexicon-share 0.0"),
        ({"swap": 1.5}, "--swap 1.5"),
        ({"noise": -0.1}, "--noise -0.1"),
        ({"vocab": -1}, "--vocab -1"),
        ({"facts": 2}, "--facts 2"),
        ({"exposures": 0}, "--exposures 0"),
    ],
)
def test_knobs_have_bounds(knobs: dict[str, float], message: str):
    with pytest.raises(RecipeError, match=message):
        Knobs(**knobs)


def test_too_little_text(tmp_path: Path, base_folder: Path):
    path = tmp_path / "short.txt"
    path.write_text("one document\n\nanother", encoding="utf-8")
    with pytest.raises(DataError, match=r"short\.txt: only 2 different documents.*give more text"):
        build_clone(str(base_folder), [path], tmp_path / "out", Knobs())
    assert not (tmp_path / "out").exists()


def test_the_command_with_knobs(tmp_path: Path, base_folder: Path, capsys: pytest.CaptureFixture[str]):
    texts = write_texts(tmp_path)
    arguments = ["clone", str(base_folder), str(texts[0]), "--out", str(tmp_path / "hard"), "--vocab", "20"]
    arguments += ["--lexicon-share", "0.5", "--ambiguity", "0.2", "--noise", "0.4", "--swap", "0.3", "--seed", "1"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["lexicon"] == {"words": 17, "listed": 8, "wrong": 3, "ambiguous": 2}
    assert report["facts"] == 0 and report["transfer_sentences"] == {} and report["mismatch"] > 0
    english, target = (documents(tmp_path / "hard", f"{language}.test")[0] for language in ("english", "target"))
    cloner = make_cloner(base_folder, ["x"])
    assert cloner.text(english) != target, "words have changed places"
    assert sorted(cloner.text(english).lower().split()) != [] and len(english.split()) == len(target.split())
    assert main(arguments) == 74, "the folder is there already"
    assert "exists already" in capsys.readouterr().err
