"""One model's figures on the recipe's held-out texts and words.

Scores of a whole model in one process: bits per byte of validation, test and general text in both languages, and word
retrieval on held-out lexicon entries.
"""

from dataclasses import asdict
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.evaluate.generation.mixed_output import mixed_output
from prealign_cpt.evaluate.read import read_labelled
from prealign_cpt.evaluate.representation.retrieval import word_retrieval
from prealign_cpt.evaluate.transfer.clka import score_facts
from prealign_cpt.evaluate.transfer.questions import read_questions
from prealign_cpt.evaluate.transfer.zero_shot import zero_shot_transfer
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.bits import Score, held_out, score_windows, windows
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.tokens import start_token_id
from prealign_cpt.recipe.schema import HELD_OUT_SETS, Recipe
from prealign_cpt.text.reader import read_documents


def score_texts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, names: tuple[str, ...] = HELD_OUT_SETS
) -> dict[str, Any]:
    """{"valid": {"target_bpb", "english_bpb", "target_bytes", ...}, ...} for the sets that the recipe names.

    Each set also has `windows`, by language the nats and bytes of every window in the order of the text. Windows are
    cut in bytes, so two models can be compared window by window, whatever their tokenizers.
    """
    module = LanguageModelLoss(model)
    device = model.get_input_embeddings().weight.device
    result: dict[str, Any] = {}
    for name in names:
        for language, prepared in held_out(recipe, name, tokenizer).items():
            scored = score_windows(module, prepared, device)
            tokens = sum(batch.tokens for batch in prepared)
            total = Score(sum(nats for nats, _ in scored), sum(size for _, size in scored), tokens)
            figures = result.setdefault(name, {"windows": {}})
            figures[f"{language}_bpb"] = round(total.bits_per_byte, 4)
            figures[f"{language}_bytes"] = total.bytes
            figures[f"{language}_tokens"] = total.tokens
            figures["windows"][language] = [[round(nats, 3), size] for nats, size in scored]
    return result


def score_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    train: list[Pair],
    heldout: list[Pair],
) -> dict[str, Any]:
    """`score_texts` on the test and general sets, and `retrieval`; validation text is watched while training.

    Where the recipe asks for them also `clka` (`score_facts`), `transfer` (`Transfer`) and `mixed` (`mixed_output`).
    """
    start = start_token_id(tokenizer, recipe)
    result = score_texts(model, tokenizer, recipe, ("test", "general"))
    if heldout:
        found = word_retrieval(model, tokenizer, train, heldout, start, recipe.seed)
        if found is not None:
            result["retrieval"] = asdict(found)
    own = recipe.evaluate
    if own.clka:
        result["clka"] = score_facts(model, tokenizer, read_questions(recipe.path(own.clka)), start, own.batch_tokens)
    if own.transfer_train:
        english, target = (read_labelled(recipe.path(path)) for path in (own.transfer_train, own.transfer_test))
        transfer, _ = zero_shot_transfer(model, tokenizer, english, target, start, recipe.seed)
        result["transfer"] = asdict(transfer)
    if own.mixed_prompts:
        result["mixed"] = mixed_output(model, tokenizer, _prompts(recipe), start, own.mixed_prompts)
    return result


def _prompts(recipe: Recipe) -> dict[str, list[str]]:
    """Pieces of the test texts to continue, by language."""
    size = 512  # bytes: enough for the tokens of a prompt even where each is one byte
    paths = {"target": recipe.text.test_target, "english": recipe.text.test_english}
    return {
        language: windows(read_documents([recipe.path(path)]), size, recipe.evaluate.mixed_prompts * size)
        for language, path in paths.items()
    }
