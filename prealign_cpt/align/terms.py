"""The terms of the alignment stage, made from a recipe: texts and lexicon in, losses out.

A term that finds nothing to work on is left out, and that is said once.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prealign_cpt.align.contrast import Contrast
from prealign_cpt.align.distill import Distillation, switch_lessons, tokenization_lessons
from prealign_cpt.align.listed import ListedWords
from prealign_cpt.align.ranks import rank_and_size
from prealign_cpt.align.text import WINDOW, FrozenText, Text, english_windows, target_windows
from prealign_cpt.align.trainable import NewRows, Trainable
from prealign_cpt.align.units import (
    Group,
    batches,
    connections,
    context_groups,
    read_parallel,
    sentence_groups,
    word_groups,
)
from prealign_cpt.data.codeswitch import Respeller
from prealign_cpt.data.pack import encode
from prealign_cpt.data.word_spans import Ids
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.tokens import num_ids
from prealign_cpt.model.world import World
from prealign_cpt.recipe.schema import Align, Recipe
from prealign_cpt.run.folder import say
from prealign_cpt.text.reader import read_documents

ANCHOR_POSITIONS = 8_192
"""Positions of English text in the frozen anchor: their hidden states take so many rows of the hidden size in fp32."""

DOCUMENTS = 20_000
"""Documents of a text that are read at most."""


class Term(Protocol):
    """One of the losses."""

    name: str
    weight: float

    def loss(self, step: int) -> Tensor:
        """This rank's part of the loss of a step (0, 1, ...)."""


def make_terms(
    moves: Trainable,
    tokenizer: PreTrainedTokenizerBase,
    base_tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    recipe: Recipe,
    world: World | None,
) -> tuple[list[Term], dict[str, Any]]:
    """The terms that the recipe asks for and that have something to work on, and facts about them."""
    align, seed, old = recipe.align, recipe.seed, num_ids(base_tokenizer)
    terms: list[Term] = []
    facts: dict[str, Any] = {"entries": 0, "target_tokens": 0, "target_bytes": 0}

    def movable(ids: list[int]) -> bool:
        return align.trains != "new_rows" or any(i >= old for i in ids)

    def english() -> Iterator[list[int]]:
        documents = islice(read_documents(recipe.paths(recipe.text.english)), DOCUMENTS)
        return (ids.tolist() for ids in encode(documents, tokenizer))

    if align.weight:
        items, linked = _units(tokenizer, pairs, recipe, movable, english)
        facts["entries"] = len(items)
        if items:
            if len(items) < align.words:
                _say(
                    world, f"align: {len(items)} units to contrast, so a batch has no more (align.words {align.words})"
                )
            chosen = batches(items, align.words, align.steps, seed)
            terms.append(Contrast(moves, chosen, connections(linked), align, world))
            if align.unit == "sentence":
                names = [unit.name for batch in chosen for group in batch for unit in group.targets]
                facts["target_bytes"] += sum(len(name.encode()) - 2 for name in names)
        else:
            facts["reason"] = _nothing(align)
            _say(world, f"align: no contrastive loss: {facts['reason']}")
    if align.anchor_tokens:
        terms.append(_anchor(moves, english(), align, seed, world))
    if align.target_tokens or align.distill_weight:
        documents = list(islice(read_documents(recipe.paths(recipe.text.target)), DOCUMENTS))
    if align.target_tokens:
        per_step = align.target_tokens // WINDOW
        encoded = (ids.tolist() for ids in _mixed(encode(documents, tokenizer), tokenizer, base_tokenizer, recipe))
        rows = target_windows(encoded, moves.start_id, align.steps * per_step, seed)
        if len(rows):
            terms.append(Text("target_text", moves, rows, per_step, world))
            facts["target_tokens"] = align.steps * per_step * (rows.shape[1] - 1)
            facts["target_bytes"] += _bytes_read(rows, align.steps * per_step, tokenizer, moves.start_id)
    if align.distill_weight:
        lessons = tokenization_lessons(documents, tokenizer, base_tokenizer, align.steps * align.distill_tokens, seed)
        if lessons:
            distill = Distillation(
                "distill", moves, lessons, align.distill_tokens, align.steps, align.distill_weight, world
            )
            terms.append(distill)
            facts["target_bytes"] += distill.bytes
        else:
            _say(world, "align: no distillation: no new token stands in the target text")
    if align.switch_weight:
        listed = ListedWords(tokenizer, pairs, movable)
        lessons = switch_lessons(english(), listed, old, align.steps * align.switch_tokens, seed)
        if lessons:
            terms.append(
                Distillation("switch", moves, lessons, align.switch_tokens, align.steps, align.switch_weight, world)
            )
        else:
            _say(world, "align: no switch-distillation: no word of the English text has a translation with a new token")
    return terms, facts


def _units(
    tokenizer: PreTrainedTokenizerBase,
    pairs: list[Pair],
    recipe: Recipe,
    movable: Callable[[list[int]], bool],
    english: Callable[[], Iterator[list[int]]],
) -> tuple[list[list[Group]], list[Pair]]:
    """What batches are drawn from (one group of an item at a time), and the pairs that tell which units are no
    negatives of each other."""
    align = recipe.align
    wanted = align.steps * align.words
    if align.unit == "sentence":
        parallel = parallel_pairs(recipe)
        return [[group] for group in sentence_groups(tokenizer, parallel, movable, wanted, recipe.seed)], parallel
    if align.unit == "word":
        return [[group] for group in word_groups(tokenizer, pairs, movable)], pairs
    return context_groups(english(), ListedWords(tokenizer, pairs, movable), wanted, recipe.seed), pairs


def _anchor(
    moves: Trainable, english: Iterator[list[int]], align: Align, seed: int, world: World | None
) -> FrozenText | Text:
    if isinstance(moves, NewRows):
        rows = english_windows(english, moves.num_old, moves.start_id, ANCHOR_POSITIONS // WINDOW)
        return FrozenText("anchor", moves, rows, align.anchor_tokens, seed, world)
    per_step = max(1, align.anchor_tokens // WINDOW)
    rows = english_windows(english, moves.num_old, moves.start_id, align.steps * per_step)
    return Text("anchor", moves, rows, per_step, world)


def parallel_pairs(recipe: Recipe) -> list[Pair]:
    """The parallel text; see `read_parallel`."""
    return read_parallel(recipe.path(recipe.text.parallel_english), recipe.path(recipe.text.parallel_target))


def _nothing(align: Align) -> str:
    if align.unit == "sentence":
        return "no parallel sentence contains a new token"
    what = "no translation" if align.trains != "new_rows" else "no translation contains a new token"
    return what if align.unit == "word" else f"{what}, or none of their words stands in the English text"


def _mixed(
    documents: Iterable[Ids],
    tokenizer: PreTrainedTokenizerBase,
    base_tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
) -> Iterable[Ids]:
    """Target text with words respelled in old pieces, if `data.mixed_tokenization` says so."""
    if not recipe.data.mixed_tokenization:
        return documents
    respeller = Respeller(tokenizer, base_tokenizer, recipe.data.mixed_tokenization)
    return (respeller.respell(ids, recipe.seed, 0, n) for n, ids in enumerate(documents))


def _bytes_read(rows: Tensor, count: int, tokenizer: PreTrainedTokenizerBase, start_id: int) -> int:
    """UTF-8 bytes of the text in `count` windows, read from the front and again."""
    texts = tokenizer.batch_decode([[i for i in row if i != start_id] for row in rows[:, 1:].tolist()])
    sizes = [len(text.encode()) for text in texts]
    return sum(sizes) * (count // len(sizes)) + sum(sizes[: count % len(sizes)])


def _say(world: World | None, text: str) -> None:
    if rank_and_size(world)[0] == 0:
        say(text)
