"""One model's figures on the recipe's held-out texts and words.

Scores of a whole model in one process: bits per byte of validation, test and general text in both languages, and word
retrieval on held-out lexicon entries.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.data.text import read_documents
from prealign_cpt.errors import RecipeError
from prealign_cpt.evaluate.bits import Batch, batches, score, windows
from prealign_cpt.evaluate.retrieval import word_retrieval
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.recipe import Recipe
from prealign_cpt.train.loss import LanguageModelLoss

SETS = ("valid", "test", "general")


def start_token_id(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> int:
    """Id of the recipe's start token.

    Raises:
        RecipeError: the tokenizer does not have it.
    """
    token = recipe.base.start_token
    found = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int) or tokenizer.convert_ids_to_tokens(found) != token:
        raise RecipeError(
            f"base.start_token: {token!r} is not a token of this tokenizer; its special tokens are "
            + ", ".join(map(repr, tokenizer.all_special_tokens))
        )
    return found


def held_out(recipe: Recipe, name: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[Batch]]:
    """Batches of one held-out set by language ("target", "english"); empty if the recipe names no such text."""
    start = start_token_id(tokenizer, recipe)
    found = {}
    for language in ("target", "english"):
        path = getattr(recipe.text, f"{name}_{language}")
        if not path:
            continue
        documents = read_documents([recipe.path(path)])
        texts = windows(documents, recipe.evaluate.window_bytes, recipe.evaluate.max_bytes)
        found[language] = batches(texts, tokenizer, start, recipe.evaluate.batch_tokens)
    return found


def score_texts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, names: tuple[str, ...] = SETS
) -> dict[str, Any]:
    """{"valid": {"target_bpb", "english_bpb", "target_bytes", ...}, ...} for the sets that the recipe names."""
    module = LanguageModelLoss(model)
    device = model.get_input_embeddings().weight.device
    result: dict[str, Any] = {}
    for name in names:
        for language, prepared in held_out(recipe, name, tokenizer).items():
            total = score(module, prepared, device)
            figures = result.setdefault(name, {})
            figures[f"{language}_bpb"] = round(total.bits_per_byte, 4)
            figures[f"{language}_bytes"] = total.bytes
            figures[f"{language}_tokens"] = total.tokens
    return result


def score_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    train: list[Pair],
    heldout: list[Pair],
) -> dict[str, Any]:
    """`score_texts` on the test and general sets, and `retrieval`; validation text is watched while training."""
    start = start_token_id(tokenizer, recipe)
    result = score_texts(model, tokenizer, recipe, ("test", "general"))
    if heldout:
        found = word_retrieval(model, tokenizer, train, heldout, start, recipe.seed)
        if found is not None:
            result["retrieval"] = asdict(found)
    return result


def evaluation_files(recipe: Recipe) -> list[Path]:
    """The held-out texts of a recipe."""
    names = [getattr(recipe.text, f"{name}_{language}") for name in SETS for language in ("target", "english")]
    return [recipe.path(name) for name in names if name]
