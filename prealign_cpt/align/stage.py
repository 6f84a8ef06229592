"""The training stage behind the static rows: what moves (trainable.py) by a weighted sum of terms.

    distill       new tokens mean what their old pieces meant                                  distill.py, pieces.py
    contrastive   words and their translations agree at every layer; or another objective     contrast.py
    anchor        language-model loss on English text                                          language_model.py
    target_text   the same on text in the new language, without which aligned rows drift       language_model.py

Each term has its own graph, so each runs backward by itself. With several ranks every one has the whole model and a
part of each batch; gradients are summed, so any number of ranks makes the same steps. A term that finds nothing to
work on is left out, and that is said once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prealign_cpt.align.contrast import Contrast
from prealign_cpt.align.distill import Distillation, two_readings
from prealign_cpt.align.language_model import WINDOW, FrozenTextLoss, TextLoss, english_windows, target_windows
from prealign_cpt.align.mixture import old_pieces
from prealign_cpt.align.pieces import piece_features
from prealign_cpt.align.ranks import sum_gradients, total
from prealign_cpt.align.trainable import NewRows, Trainable, make_trainable
from prealign_cpt.align.units import Group, batches, connections, word_groups
from prealign_cpt.data.codeswitch import Respeller
from prealign_cpt.data.pack import encode
from prealign_cpt.data.word_spans import Ids
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.tokens import num_ids, start_token_id, token_texts
from prealign_cpt.model.world import World
from prealign_cpt.recipe.schema import Align, Recipe
from prealign_cpt.run.errors import NumericError, RecipeError
from prealign_cpt.run.folder import say
from prealign_cpt.text.stage import training_sample

EPS, EPS_SOFTMAX = 1e-8, 1e-4
"""Adam's epsilon, and where a term has a softmax over all rows. Through that every new row gets some gradient in every
step; with the usual epsilon Adam would blow the smallest of them up to full steps, and rows that no batch speaks of
would drift."""

ANCHOR_POSITIONS = 8_192
"""Positions of English text in the frozen anchor: their hidden states take so many rows of the hidden size in fp32."""

SAMPLE_BYTES = 16_000_000
"""Of each text, so much is read at most."""


class Term(Protocol):
    """One of the losses."""

    name: str
    weight: float

    def loss(self, step: int) -> Tensor:
        """This rank's part of the loss of a step (0, 1, ...)."""


@dataclass(frozen=True)
class Material:
    """What an objective is made from."""

    model: Trainable
    tokenizer: PreTrainedTokenizerBase
    base_tokenizer: PreTrainedTokenizerBase
    pairs: list[Pair]
    recipe: Recipe
    world: World

    def movable(self, ids: list[int]) -> bool:
        """Whether anything in a text can be trained."""
        return self.model.english_moves or any(i >= self.model.num_old for i in ids)

    def english(self) -> Iterator[list[int]]:
        """Token ids of English documents."""
        documents = training_sample(self.recipe, "english", SAMPLE_BYTES)
        return (ids.tolist() for ids in encode(documents, self.tokenizer))

    def target(self) -> list[str]:
        """Documents in the new language."""
        return list(training_sample(self.recipe, "target", SAMPLE_BYTES))

    def say(self, text: str) -> None:
        """Print, once for all ranks."""
        if self.world.rank == 0:
            say(text)

    def contrast(
        self, groups: list[list[Group]], pairs: list[Pair], nothing: str, kind: type[Contrast] = Contrast
    ) -> tuple[Term | None, dict[str, Any]]:
        """A contrastive term, and facts about it.

        Args:
            groups: what batches are drawn from, one group of an item at a time.
            pairs: tell which units are no negatives of each other.
            nothing: what is said if there is no group.
        """
        align = self.recipe.align
        facts = {"entries": len(groups)}
        if not groups:
            self.say(f"align: no contrastive loss: {nothing}")
            return None, {**facts, "reason": nothing}
        if len(groups) < align.words:
            self.say(f"align: {len(groups)} units to contrast, so a batch has no more (align.words {align.words})")
        drawn = batches(groups, align.words, align.steps, self.recipe.seed)
        return kind(self.model, drawn, connections(pairs), align.weight, self.world), facts


Objective = Callable[[Material], tuple[Term | None, dict[str, Any]]]
"""A term, or None where it has nothing to work on; and facts for the report: `entries`, `target_bytes`, `reason`."""


def words(material: Material) -> tuple[Term | None, dict[str, Any]]:
    """PreAlign (arXiv 2407.16222, section 3.1): a listed word and its translations, by themselves."""
    groups = word_groups(material.tokenizer, material.pairs, material.movable)
    moves_all = material.model.english_moves
    nothing = "no translation" if moves_all else "no translation contains a new token"
    return material.contrast([[group] for group in groups], material.pairs, nothing)


OBJECTIVES: dict[str, Objective] = {"prealign": words}
"""By `align.objective`. `prealign_cpt.lab.objectives` adds those of other papers when it is imported."""


def run_stage(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    base_tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    recipe: Recipe,
    log: Callable[[dict[str, float]], None],
    world: World,
) -> dict[str, Any]:
    """Train in place by the recipe's `align` section; return what was done. All ranks call it together.

    Args:
        model: with static rows; the same on every rank.
        tokenizer, base_tokenizer: the grown one and the one it grew from.
        pairs: the training half of the lexicon.
        log: called with each step's figures.

    Returns:
        `entries` (units there are to choose from), `steps`, `target_tokens` (of language-model windows),
        `target_bytes` (target text read by all terms), `flops` (of all ranks, padding not counted; trainable.py);
        `reason` where there was nothing to do.

    Raises:
        NumericError: a loss or a weight is not finite, on all ranks together; the model is left as it was.
        RecipeError, DataError: an objective cannot do what the recipe asks.
    """
    trained = make_trainable(model, recipe.align.trains, start_token_id(tokenizer, recipe), num_ids(base_tokenizer))
    keep = False
    try:
        terms, facts = _terms(Material(trained, tokenizer, base_tokenizer, pairs, recipe, world))
        if all(term.name == "anchor" for term in terms):
            return {**facts, "steps": 0}
        train(trained, terms, recipe.align, log, world)
        keep = True
    finally:
        trained.close(keep)
    flops = total(torch.tensor(trained.flops, dtype=torch.float64, device=trained.device), world)
    return {**facts, "steps": recipe.align.steps, "flops": float(flops)}


def train(
    trained: Trainable,
    terms: Sequence[Term],
    align: Align,
    log: Callable[[dict[str, float]], None],
    world: World,
) -> None:
    """The loop.

    Raises:
        NumericError: a loss, or what moves, is not finite; on all ranks together.
    """
    parameters = trained.parameters()
    eps = EPS_SOFTMAX if any(isinstance(term, TextLoss | FrozenTextLoss) for term in terms) else EPS
    optimizer = torch.optim.AdamW(parameters, lr=align.lr, weight_decay=0.0, betas=(0.9, 0.95), eps=eps)
    bar = tqdm(range(align.steps), desc="align", unit="step", disable=None if world.rank == 0 else True)
    for step in bar:
        optimizer.zero_grad()
        losses = []
        for term in terms:
            loss = term.loss(step)
            if loss.requires_grad:
                (term.weight * loss).backward()
            losses.append(loss.detach().to(trained.device))
        values = total(torch.stack(losses), world)
        if not torch.isfinite(values).all():
            bad = ", ".join(t.name for t, fine in zip(terms, torch.isfinite(values).tolist(), strict=True) if not fine)
            raise NumericError(
                f"align.lr: the loss is not finite at step {step + 1} ({bad}); lower align.lr ({align.lr})"
            )
        trained.collect()
        sum_gradients(parameters, world)
        for group in optimizer.param_groups:
            group["lr"] = align.lr * rate_factor(step, align.steps)
        optimizer.step()
        trained.place()
        figures = dict(zip((term.name for term in terms), values.tolist(), strict=True))
        bar.set_postfix({name: f"{value:.3f}" for name, value in figures.items()})
        log({"step": step + 1, **figures})
    if not all(torch.isfinite(parameter).all() for parameter in parameters):
        raise NumericError(f"align.lr: a weight is not finite after the last step; lower align.lr ({align.lr})")


def rate_factor(step: int, steps: int) -> float:
    """Share of `align.lr`: falls in a line to 0, where the step after the last would be."""
    return 1 - step / steps


def _terms(material: Material) -> tuple[list[Term], dict[str, Any]]:
    """The terms that the recipe asks for and that have something to work on, and facts about them."""
    model, recipe, align = material.model, material.recipe, material.recipe.align
    terms: list[Term] = []
    facts: dict[str, Any] = {"entries": 0, "target_tokens": 0, "target_bytes": 0}
    if align.distill:
        distilled = _distillation(material)
        if distilled is None:
            facts["reason"] = "no new token stands in the target text"
        else:
            terms.append(distilled)
            facts["target_bytes"] += distilled.bytes
    if align.weight:
        if align.objective not in OBJECTIVES:
            raise RecipeError(
                f"align.objective: {align.objective!r} belongs to the laboratory; import prealign_cpt.lab.objectives "
                "before the run, as the command line does"
            )
        term, known = OBJECTIVES[align.objective](material)
        facts |= known
        terms += [] if term is None else [term]
    if align.anchor_tokens:
        terms.append(_anchor(material))
    if align.target_tokens:
        per_step = align.target_tokens // WINDOW
        encoded = (ids.tolist() for ids in _respelled(encode(material.target(), material.tokenizer), material))
        rows = target_windows(encoded, model.start_id, align.steps * per_step, recipe.seed)
        if len(rows):
            terms.append(TextLoss("target_text", model, rows, per_step, material.world))
            facts["target_tokens"] = align.steps * per_step * (rows.shape[1] - 1)
            facts["target_bytes"] += _bytes_read(rows, align.steps * per_step, material.tokenizer, model.start_id)
    return terms, facts


def _distillation(material: Material) -> Distillation | None:
    """The term, if the target text has a new token; new rows then share what they learn."""
    model, recipe, align = material.model, material.recipe, material.recipe.align
    new, old = material.tokenizer, material.base_tokenizer
    texts = two_readings(material.target(), new, old, align.steps * align.distill_tokens, recipe.seed)
    if not texts:
        material.say("align: no distillation: no new token stands in the target text")
        return None
    if isinstance(model, NewRows):
        spellings = old_pieces(token_texts(new)[model.num_old :], old, new)
        model.share(piece_features(model, spellings))
    term = Distillation(
        model, texts, align.distill_tokens, align.steps, align.distill, align.distill_to, material.world
    )
    if term.tokens < align.distill_tokens:
        material.say(
            f"align: one reading of the target text is {term.tokens:.0f} tokens of distillation a step "
            f"(align.distill_tokens {align.distill_tokens})"
        )
    return term


def _anchor(material: Material) -> Term:
    model, align, world = material.model, material.recipe.align, material.world
    if isinstance(model, NewRows):
        rows = english_windows(material.english(), model.num_old, model.start_id, ANCHOR_POSITIONS // WINDOW)
        return FrozenTextLoss("anchor", model, rows, align.anchor_tokens, material.recipe.seed, world)
    per_step = max(1, align.anchor_tokens // WINDOW)
    rows = english_windows(material.english(), model.num_old, model.start_id, align.steps * per_step)
    return TextLoss("anchor", model, rows, per_step, world)


def _respelled(documents: Iterable[Ids], material: Material) -> Iterable[Ids]:
    """Target text with words respelled in old pieces, if `data.mixed_tokenization` says so."""
    share, seed = material.recipe.data.mixed_tokenization, material.recipe.seed
    if not share:
        return documents
    respeller = Respeller(material.tokenizer, material.base_tokenizer, share)
    return (respeller.respell(ids, seed, 0, n) for n, ids in enumerate(documents))


def _bytes_read(rows: Tensor, count: int, tokenizer: PreTrainedTokenizerBase, start_id: int) -> int:
    """UTF-8 bytes of the text in `count` windows, read from the front and again."""
    texts = tokenizer.batch_decode([[i for i in row if i != start_id] for row in rows[:, 1:].tolist()])
    sizes = [len(text.encode()) for text in texts]
    return sum(sizes) * (count // len(sizes)) + sum(sizes[: count % len(sizes)])
