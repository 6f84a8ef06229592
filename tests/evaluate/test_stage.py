"""A run's eval stage: its summary, and one model that has one figure whichever way it is measured."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from prealign_cpt.evaluate.data import data_from
from prealign_cpt.evaluate.figures import Figure
from prealign_cpt.evaluate.measures import PRESETS
from prealign_cpt.evaluate.stage import build_eval
from prealign_cpt.evaluate.subject import Subject
from prealign_cpt.evaluate.table import evaluate
from prealign_cpt.lexicon.stage import WordList, build_lexicon
from prealign_cpt.recipe.file import anywhere, as_toml, load_recipe
from prealign_cpt.run.errors import DataError
from prealign_cpt.run.manifest import new_folder
from tests.conftest import ENGLISH, TARGET, make_model

CPU = torch.device("cpu")


@pytest.fixture
def run(recipe_file: Path, tokenizer) -> Path:
    """A run folder up to its export, which is not the base: a model that finds every token equally likely."""
    recipe = load_recipe(recipe_file)
    recipe.run.mkdir(parents=True)
    (recipe.run / "recipe.toml").write_text(as_toml(anywhere(recipe)))
    (recipe.run / "lexicon").mkdir()
    build_lexicon([WordList(recipe.path(recipe.lexicon.path))], "tsv", 0.2, 0, recipe.run / "lexicon", 5)
    model = make_model(len(tokenizer), tied=False)
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    with new_folder(recipe.run / "export", {}) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return recipe.run


def build(run: Path, base: Path, recipe_file: Path, *flags: str) -> dict[str, Any]:
    recipe, out = load_recipe(recipe_file, list(flags)), run / "eval"
    out.mkdir()
    build_eval(recipe, base, base, run / "export", run / "lexicon", out, CPU)
    models: dict[str, Any] = json.loads((out / "report.json").read_text())["models"]
    return models


def test_the_summary(run: Path, base_folder: Path, recipe_file: Path, tokenizer, capsys: pytest.CaptureFixture[str]):
    models = build(run, base_folder, recipe_file)
    assert list(models) == ["base", "aligned", "trained"] and models["base"] == models["aligned"]
    scores = models["trained"]
    assert sorted(scores) == ["retrieval", "test", "valid"], "the recipe names no general text, no facts, no labels"
    for language, text in (("target", TARGET[4]), ("english", ENGLISH[4])):
        figures = {key.split("_")[1]: value for key, value in scores["valid"].items() if key.startswith(language)}
        assert 0 <= len(text.encode()) - figures["bytes"] <= 2, "at most the line ends between windows are left out"
        expected = math.log2(len(tokenizer)) * figures["tokens"] / figures["bytes"]
        assert figures["bpb"] == pytest.approx(expected, abs=1e-4)
        windows = scores["valid"]["windows"][language]
        assert sum(size for _, size in windows) == figures["bytes"] and len(windows) > 1
        assert sum(nats for nats, _ in windows) / math.log(2) == pytest.approx(expected * figures["bytes"], rel=1e-4)
    held = (run / "lexicon" / "heldout.tsv").read_text().splitlines()
    assert (
        scores["retrieval"]["words"] == len({line.split("\t")[0] for line in held if line[0] != "#"})
        and 0 <= scores["retrieval"]["p1"] <= 1
    )
    printed = capsys.readouterr().out
    assert f"eval: trained: target {scores['test']['target_bpb']:.3f}, English" in printed and "P@1" in printed
    assert not list(run.glob("eval/*/eval.lock"))


def test_what_the_recipe_leaves_out(run: Path, base_folder: Path, recipe_file: Path):
    assert list(build(run, base_folder, recipe_file, "--evaluate.before_training", "false")) == ["trained"]


def test_a_model_has_one_figure(run: Path, base_folder: Path, recipe_file: Path, tmp_path: Path):
    """The stage's, and those of `prealign eval RUN` with all measures, are the same to the last bit."""
    scores = build(run, base_folder, recipe_file, "--vocab.size", "0")
    assert list(scores) == ["base", "trained"], "nothing was added, so there is no model in between"
    subject = Subject(run, device="cpu")
    measures = [name for name in PRESETS["full"] if name not in ("icl", "sentences", "bitext", "generation")]
    evaluate([subject], data_from(load_recipe(run / "recipe.toml"), run, {}), tmp_path / "full", measures)
    for name in PRESETS["quick"]:
        quick, full = (
            json.loads((folder / f"{name}.json").read_text())
            for folder in (run / "eval" / "trained", tmp_path / "full")
        )
        own = {key: figure for key, figure in full["figures"].items() if not key.startswith(("base/", "change/"))}
        assert quick["figures"] == own and quick["status"] == full["status"]
        assert {key: quick["made_from"][key] for key in ("dtype", "start_token", "data", "options")} == {
            key: full["made_from"][key] for key in ("dtype", "start_token", "data", "options")
        }


def test_facts_labels_and_letters(run: Path, base_folder: Path, recipe_file: Path):
    folder = recipe_file.parent
    line = {"prompt": "The dog is", "neutral": "It is", "candidates": ["old", "cold"], "answer": "old"}
    groups = [(group, side) for group in ("english_only", "none") for side in ("english", "clone")]
    lines = [json.dumps(line | {"group": group, "language": side}) for group, side in groups]
    (folder / "facts.jsonl").write_text("\n".join(lines))
    (folder / "labels.tsv").write_text("".join(f"{label}\tthe {word} {i}\n" for i in range(12) for label, word in
                                                (("a", "river"), ("b", "book"))))  # fmt: skip
    (folder / "test_target.txt").write_text("старая река течёт через город, и луна стоит над водой; " * 4)
    scores = build(run, base_folder, recipe_file, "--evaluate.clka", "facts.jsonl", "--evaluate.transfer_train",
                   "labels.tsv", "--evaluate.transfer_test", "labels.tsv", "--evaluate.mixed_prompts", "2",
                   "--evaluate.window_bytes", "64", "--evaluate.before_training", "false")["trained"]  # fmt: skip
    assert set(scores["clka"]) == {"groups", "chance", "transfer"} and scores["clka"]["chance"] == 0.5
    assert scores["clka"]["groups"]["none/clone"]["questions"] == 1
    assert set(scores["clka"]["transfer"]) == {"english_to_clone", "clone_to_english"}
    assert scores["transfer"]["chance"] == 0.5 and scores["transfer"]["target_texts"] == 24
    assert {"target", "english"} <= set(scores["mixed"])


def test_a_measure_that_fails_stops_the_stage(run: Path, base_folder: Path, recipe_file: Path):
    (recipe_file.parent / "facts.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"eval: clka of the base model: .*facts\.jsonl:1: not a question"):
        build(run, base_folder, recipe_file, "--evaluate.clka", "facts.jsonl")


def test_windows_are_the_items(run: Path, base_folder: Path):
    from prealign_cpt.evaluate.data import EvaluationData
    from prealign_cpt.evaluate.language_model import measure

    path = base_folder / "many.txt"
    path.write_text("\n\n".join(ENGLISH * 2))
    figure = measure(Subject(base_folder), EvaluationData(english=(("test", path),), window_bytes=64))
    bits = figure["english/test/bits_per_byte"]
    assert isinstance(bits, Figure) and bits.items is not None and bits.items.groups is not None
    assert len(set(bits.items.groups)) == 10 < len(bits.items.values) and bits.note == "interval over 10 documents"
