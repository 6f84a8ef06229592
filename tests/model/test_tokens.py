"""Which tokens begin and end a document."""

from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from prealign_cpt.data.build import read_mixture
from prealign_cpt.model.tokens import end_token_id, frame, start_token_id
from prealign_cpt.prepare import prepare
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.run.errors import RecipeError
from prealign_cpt.run.folder import Run
from tests.conftest import ENGLISH, START, make_model, make_tokenizer


def _with_end(eos: str | None = "</s>") -> PreTrainedTokenizerFast:
    """A tokenizer whose BOS and EOS are two tokens, as Llama's are."""
    tokenizer = make_tokenizer(ENGLISH * 4)
    tokenizer.add_special_tokens({"additional_special_tokens": ["</s>", "<other>"]})
    tokenizer.eos_token = eos
    return tokenizer


def test_the_end_is_the_tokenizer_s_eos_where_that_is_not_the_start(recipe_file: Path) -> None:
    recipe, tokenizer = load_recipe(recipe_file), _with_end()
    assert end_token_id(tokenizer, recipe) == tokenizer.convert_tokens_to_ids("</s>")
    assert end_token_id(_with_end(START), recipe) is None, "the next document's start is the end"
    assert end_token_id(_with_end(None), recipe) is None


def test_the_recipe_may_name_another_end(recipe_file: Path) -> None:
    tokenizer = _with_end()
    recipe = load_recipe(recipe_file, ["--base.end_token", "<other>"])
    assert frame(tokenizer, recipe) == (start_token_id(tokenizer, recipe), tokenizer.convert_tokens_to_ids("<other>"))
    assert end_token_id(tokenizer, load_recipe(recipe_file, ["--base.end_token", START])) is None
    with pytest.raises(RecipeError, match=r"base.end_token: '<none>' is not a token"):
        end_token_id(tokenizer, load_recipe(recipe_file, ["--base.end_token", "<none>"]))


@pytest.mark.parametrize("switched", ["0.0", "1.0"])
def test_every_document_ends_with_it_and_it_is_learned(recipe_file: Path, tmp_path: Path, switched: str) -> None:
    base, tokenizer = tmp_path / "base", _with_end()
    make_model(len(tokenizer)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    recipe = load_recipe(recipe_file, ["--base.model", str(base), "--codeswitch.ratio", switched])
    prepare(Run(recipe.run), recipe)
    end, start = tokenizer.convert_tokens_to_ids("</s>"), start_token_id(tokenizer, recipe)
    mixture = read_mixture(recipe, recipe.run / "data")
    for packed in (mixture.texts["target"][0], mixture.texts["english"][0]):
        rows = [packed.row(number) for number in range(len(packed))]
        inputs, labels = (np.concatenate([row[i] for row in rows]) for i in (0, 1))
        starts = np.flatnonzero(inputs == start)
        assert len(starts) > 8
        assert (inputs[starts[starts > 0] - 1] == end).all(), "one document ends before another begins"
        assert (labels[inputs == end] == end).all()
