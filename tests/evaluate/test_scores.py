"""One model's figures on the texts of a recipe."""

import math
from pathlib import Path

import pytest
import torch

from prealign_cpt.evaluate.scores import score_all, score_texts
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.bits import held_out
from prealign_cpt.model.tokens import start_token_id
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run.errors import MissingInputError, RecipeError
from tests.conftest import ENGLISH, PAIRS, START, TARGET, make_model


def test_start_token(recipe_file: Path, tokenizer):
    assert start_token_id(tokenizer, load_recipe(recipe_file)) == tokenizer.convert_tokens_to_ids(START)
    for absent in ("<s>", "two words", ""):
        recipe = load_recipe(recipe_file, ["--base.start_token", absent])
        with pytest.raises(RecipeError, match=r"base\.start_token.*endoftext"):
            start_token_id(tokenizer, recipe)


def test_scores_of_the_named_texts(recipe_file: Path, tokenizer):
    recipe = load_recipe(recipe_file)
    model = make_model(len(tokenizer), tied=False)
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    found = score_texts(model, tokenizer, recipe)
    assert sorted(found) == ["test", "valid"], "the recipe names no general text"
    for language, text in (("target", TARGET[4]), ("english", ENGLISH[4])):
        figures = {key.split("_")[1]: value for key, value in found["valid"].items() if key.startswith(language)}
        assert 0 <= len(text.encode()) - figures["bytes"] <= 2, "at most the line ends between windows are left out"
        expected = math.log2(len(tokenizer)) * figures["tokens"] / figures["bytes"]
        assert figures["bpb"] == pytest.approx(expected, abs=1e-4)
        scored = found["valid"]["windows"][language]
        assert sum(size for _, size in scored) == figures["bytes"] and len(scored) > 1
        assert sum(nats for nats, _ in scored) / math.log(2) == pytest.approx(expected * figures["bytes"], rel=1e-4)


def test_max_bytes(recipe_file: Path, tokenizer):
    recipe = load_recipe(recipe_file, ["--evaluate.max_bytes", "64"])
    for prepared in held_out(recipe, "valid", tokenizer).values():
        assert sum(len(batch.inputs) for batch in prepared) <= 2


def test_retrieval_needs_held_out_words(recipe_file: Path, tokenizer):
    recipe = load_recipe(recipe_file)
    pairs = [Pair(*pair) for pair in PAIRS]
    model = make_model(len(tokenizer))
    assert sorted(score_all(model, tokenizer, recipe, pairs, [])) == ["test"]
    found = score_all(model, tokenizer, recipe, pairs[:20], pairs[20:])
    assert found["retrieval"]["words"] == 5 and "valid" not in found


def test_evaluation_files(recipe_file: Path, tokenizer):
    recipe = load_recipe(recipe_file)
    names = [path.name for path in recipe.evaluation_files()]
    assert names == ["valid_target.txt", "valid_english.txt", "test_target.txt", "test_english.txt"]
    recipe.evaluation_files()[0].unlink()
    with pytest.raises(MissingInputError, match="valid_target"):
        held_out(recipe, "valid", tokenizer)
