"""The training stage behind the static rows: what moves (trainable.py) by a weighted sum of terms.

    contrastive   words, words in sentences, or sentences and their translations agree at every layer   contrast.py
    anchor        language-model loss on English text                                                    text.py
    target_text   the same on text in the new language, without which aligned rows drift from use        text.py
    distill       new tokens mean what their old pieces meant                                            distill.py
    switch        a translated word leaves an English text as the word itself would                      distill.py

Each term has its own graph, so each runs backward by itself. With several ranks every one has the whole model and a
part of each batch; gradients are summed, so any number of ranks makes the same steps.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.align.contrast import chosen_layers
from prealign_cpt.align.ranks import rank_and_size, sum_gradients, total
from prealign_cpt.align.terms import Term, make_terms, parallel_pairs
from prealign_cpt.align.trainable import Trainable, check_blocks, trainable
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.tokens import num_ids, start_token_id
from prealign_cpt.model.world import World
from prealign_cpt.recipe.schema import Align, Recipe
from prealign_cpt.run.errors import NumericError

EPS = 1e-4
"""Adam's epsilon. Every new row gets some gradient in every step, through the softmax; with the usual 1e-8 Adam would
blow the smallest of them up to full steps, and rows that no batch speaks of would drift."""


def check_stage(recipe: Recipe, model: PreTrainedModel) -> None:
    """Look at what the stage will need before anything is scored or trained.

    Raises:
        RecipeError: `align.layers` or `align.blocks` goes beyond the model.
        DataError, MissingInputError: the parallel text cannot be used.
    """
    align = recipe.align
    if not align.steps:
        return
    chosen_layers(align, model.config.num_hidden_layers)
    if align.trains == "first_blocks":
        check_blocks(model, align)
    if align.weight and align.unit == "sentence":
        parallel_pairs(recipe)


def run_stage(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    base_tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    recipe: Recipe,
    log: Callable[[dict[str, float]], None] = lambda row: None,
    world: World | None = None,
) -> dict[str, Any]:
    """Train in place by the recipe's `align` section; return what was done. All ranks call it together.

    Args:
        model: with static rows; the same on every rank.
        tokenizer, base_tokenizer: the grown one and the one it grew from.
        pairs: the training half of the lexicon.
        log: called with each step's figures.

    Returns:
        `entries` (units there are to choose from), `steps`, `target_tokens` (of language-model windows),
        `target_bytes` (target text read by all terms), `tokens_forward` and `tokens_backward` (run forward only, and
        forward and backward, by all ranks, padding not counted); `reason` where there was nothing to do.

    Raises:
        NumericError: a loss or a weight is not finite, on all ranks together; the model is left as it was.
        RecipeError, DataError: see `check_stage`.
    """
    start = start_token_id(tokenizer, recipe)
    moves = trainable(model, recipe.align, start, num_ids(base_tokenizer))
    keep = False
    try:
        terms, facts = make_terms(moves, tokenizer, base_tokenizer, pairs, recipe, world)
        if all(term.name == "anchor" for term in terms):
            return {**facts, "steps": 0}
        train(moves, terms, recipe.align, log, world)
        keep = True
    finally:
        moves.close(keep)
    counts = total(torch.tensor([moves.tokens_forward, moves.tokens_backward], device=moves.device), world).tolist()
    return {**facts, "steps": recipe.align.steps, "tokens_forward": counts[0], "tokens_backward": counts[1]}


def train(
    moves: Trainable,
    terms: Sequence[Term],
    recipe: Align,
    log: Callable[[dict[str, float]], None] = lambda row: None,
    world: World | None = None,
) -> None:
    """The loop.

    Raises:
        NumericError: a loss, or what moves, is not finite; on all ranks together.
    """
    parameters = moves.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=0.0, betas=(0.9, 0.95), eps=EPS)
    rank, _ = rank_and_size(world)
    bar = tqdm(range(recipe.steps), desc="align", unit="step", disable=None if rank == 0 else True)
    for step in bar:
        optimizer.zero_grad()
        losses = []
        for term in terms:
            loss = term.loss(step)
            if loss.requires_grad:
                (term.weight * loss).backward()
            losses.append(loss.detach().to(moves.device))
        values = total(torch.stack(losses), world)
        if not torch.isfinite(values).all():
            bad = ", ".join(t.name for t, fine in zip(terms, torch.isfinite(values).tolist(), strict=True) if not fine)
            raise NumericError(
                f"align.lr: the loss is not finite at step {step + 1} ({bad}); lower align.lr ({recipe.lr})"
            )
        moves.collect()
        sum_gradients(parameters, world)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * schedule(step, recipe.steps)
        optimizer.step()
        moves.place()
        figures = dict(zip((term.name for term in terms), values.tolist(), strict=True))
        bar.set_postfix({name: f"{value:.3f}" for name, value in figures.items()})
        log({"step": step + 1, **figures})
    if not all(torch.isfinite(parameter).all() for parameter in parameters):
        raise NumericError(f"align.lr: a weight is not finite after the last step; lower align.lr ({recipe.lr})")


def schedule(step: int, steps: int) -> float:
    """Warm-up over a twentieth of the steps, then a cosine down to a tenth."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
