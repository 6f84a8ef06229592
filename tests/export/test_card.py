"""The card: metadata that the Hub understands, and nothing that this run did not do."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from prealign_cpt.export.card import licence, model_card
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.recipe.schema import Recipe

PARITY: dict[str, Any] = {"tokens": 100, "mean": 1e-6, "rounding": 2e-6}
CONTROL = ["--align.init", "subword", "--align.steps", "0", "--codeswitch.ratio", "0.0"]


def _card(recipe: Recipe, run: Path, base: Path) -> tuple[ModelCard, str]:
    card = ModelCard(model_card(recipe, PARITY, run, base, recipe.train.steps))
    return card, card.text.split("## Recipe")[0]


def test_metadata(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text(
        "\n                                 Apache License\n   Version 2.0, January 2004\n"
    )
    card, text = _card(load_recipe(recipe_file, ["--base.model", "smollm2-135m"]), tmp_path, tmp_path)
    assert card.data.to_dict() == {
        "language": ["en", "de"],
        "license": "apache-2.0",
        "library_name": "transformers",
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "pipeline_tag": "text-generation",
        "tags": ["continual-pretraining", "vocabulary-extension", "prealign"],
    }
    assert (
        "30 new tokens" in text
        and "pieces" in text
        and "3 steps of alignment: distillation of the original tokenization, contrast" in text
    )
    assert "50% of the words" in text and "6 steps of 4 sequences of 32 tokens, 25% of them English" in text


@pytest.mark.parametrize(
    ("told", "codes"),
    [("Swahili", ["en", "sw"]), ("greek", ["en", "el"]), ("de", ["en", "de"]), ("Qwghlmian", ["en"])],
)
def test_languages(recipe_file: Path, tmp_path: Path, told: str, codes: list[str]) -> None:
    assert _card(load_recipe(recipe_file, ["--language", told]), tmp_path, tmp_path)[0].data.language == codes


@pytest.mark.parametrize(
    ("model", "wanted"), [("org/name", "org/name"), ("org/name@main", "org/name"), ("/models/llama", None)]
)
def test_base_model(recipe_file: Path, tmp_path: Path, model: str, wanted: str | None) -> None:
    assert _card(load_recipe(recipe_file, ["--base.model", model]), tmp_path, tmp_path)[0].data.base_model == wanted


def test_a_control_claims_neither_lexicon_nor_switching(recipe_file: Path, tmp_path: Path) -> None:
    _, text = _card(load_recipe(recipe_file, CONTROL), tmp_path, tmp_path)
    for word in ("exicon", "witch", "translation", "alignment", "contrast"):
        assert word not in text
    assert "30 new tokens" in text and "`subword`" in text


def test_no_new_tokens_are_claimed_where_there_are_none(recipe_file: Path, tmp_path: Path) -> None:
    card, text = _card(load_recipe(recipe_file, ["--vocab.size", "0"]), tmp_path, tmp_path)
    assert (
        "new tokens" not in text and "alignment" not in text and card.data.tags == ["continual-pretraining", "prealign"]
    )


def test_figures_are_those_of_the_run(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab").mkdir()
    (tmp_path / "vocab" / "report.json").write_text(json.dumps({"new_tokens": 17}))
    rows = [
        {"step": 0, "valid": {"target_bpb": 2.5, "english_bpb": 1.25}},
        {"step": 3},
        {"step": 6, "valid": {"target_bpb": 2.0, "english_bpb": 1.3}},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"torn')
    _, text = _card(load_recipe(recipe_file), tmp_path, tmp_path)
    assert "17 new tokens" in text
    assert "| German | English |" in text
    assert "| after step 0 | 2.500 | 1.250 |" in text and "| after step 6 | 2.000 | 1.300 |" in text


def test_licences(tmp_path: Path) -> None:
    assert licence(tmp_path) == {}
    (tmp_path / "LICENSE.txt").write_text("LLAMA 3.2 COMMUNITY LICENSE AGREEMENT")
    assert licence(tmp_path) == {"license": "other", "license_link": "LICENSE.txt"}
    (tmp_path / "README.md").write_text("---\nlicense: llama3.2\ntags: [x]\n---\n# Llama\n")
    assert licence(tmp_path) == {"license": "llama3.2"}
    (tmp_path / "README.md").write_text("no metadata\n")
    assert licence(tmp_path) == {"license": "other", "license_link": "LICENSE.txt"}


def test_what_a_changed_tokenizer_asks_of_its_users(recipe_file: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab").mkdir()
    report = tmp_path / "vocab" / "report.json"
    report.write_text(json.dumps({"new_tokens": 17, "pretokenizer_changed": [], "decomposed_texts_changed": 0}))
    text = _card(load_recipe(recipe_file), tmp_path, tmp_path)[1]
    assert "llama.cpp" not in text and "NFC" not in text
    report.write_text(json.dumps({"new_tokens": 17, "pretokenizer_changed": ["Thai"], "decomposed_texts_changed": 3}))
    text = _card(load_recipe(recipe_file), tmp_path, tmp_path)[1]
    assert "keeps words in Thai whole" in text and "llama.cpp" in text and "composed form (NFC)" in text
