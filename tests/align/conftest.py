"""A tiny grown model for the alignment stage, the stage over the tiny recipe, and two invented languages."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

import prealign_cpt.lab.objectives  # noqa: F401  (makes their names known)
from prealign_cpt.align.stage import run_stage
from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.load import grow_rows
from prealign_cpt.model.world import World
from prealign_cpt.recipe.file import load_recipe
from prealign_cpt.recipe.schema import Recipe
from tests.conftest import ENGLISH, PAIRS, make_model, make_tokenizer, with_texts

START_ID = 0
ALONE = World(0, 1, torch.device("cpu"), dist.HashStore())
LEXICON = [Pair(*pair) for pair in PAIRS]
NUM_NEW = 18
"""So many target words become tokens; the other words keep their old pieces."""
SENTENCES = [
    ("The house is old.", "Das Haus ist alt."),
    ("The water is cold.", "Das Wasser ist kalt."),
    ("A dog sleeps near the river.", "Ein Hund schläft am Fluss."),
    ("The king had a book.", "Der König hatte ein Buch."),
    ("The city and the sea.", "Die Stadt und das Meer."),
    ("", "Nichts."),
]


def grown_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer(ENGLISH * 4)
    tokenizer.add_tokens([f" {target}" for _, target in PAIRS[:NUM_NEW]])
    return tokenizer


@pytest.fixture(scope="session")
def grown() -> PreTrainedTokenizerFast:
    return grown_tokenizer()


@pytest.fixture(scope="session")
def num_old(grown: PreTrainedTokenizerFast) -> int:
    return len(grown) - NUM_NEW


def model_for(
    grown: PreTrainedTokenizerFast, tied: bool = True, dtype: torch.dtype = torch.float32
) -> LlamaForCausalLM:
    """Grown, with scattered new rows as a static start."""
    num_old = len(grown) - NUM_NEW
    model = make_model(num_old, tied=tied)
    grow_rows(model, len(grown), num_old_tokens=num_old)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in {id(w): w for w in (model.get_input_embeddings().weight, model.lm_head.weight)}.values():
            weight[num_old:] = 0.2 * torch.randn(NUM_NEW, weight.shape[1], generator=generator)
    return model.to(dtype)


def weights(model: LlamaForCausalLM) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def encoded(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


NOTHING = ("--align.weight", "0", "--align.anchor_tokens", "0", "--align.target_tokens", "0")
"""No term at all; flags behind these switch some on."""


def recipe_with(path: Path, *flags: str) -> Recipe:
    """The tiny recipe without distillation, with parallel text beside it; a later flag wins."""
    for n, name in enumerate(("english", "target")):
        file = path.parent / f"parallel_{name}.txt"
        if not file.exists():  # another rank may be reading it
            file.write_text("".join(pair[n] + "\n" for pair in SENTENCES), encoding="utf-8")
    parallel = ("--text.parallel_english", "parallel_english.txt", "--text.parallel_target", "parallel_target.txt")
    return with_texts(load_recipe(path, [*parallel, "--align.distill", "0", *flags]))


@pytest.fixture
def stage(recipe_file: Path, grown: PreTrainedTokenizerFast, tokenizer: PreTrainedTokenizerFast) -> Callable[..., Any]:
    """Run the stage on a model with some flags; what it returns and each step's figures."""

    def run(
        model: LlamaForCausalLM, *flags: str, pairs: list[Pair] = LEXICON
    ) -> tuple[dict[str, Any], list[dict[str, float]]]:
        figures: list[dict[str, float]] = []
        recipe = recipe_with(recipe_file, *flags)
        return run_stage(model, grown, tokenizer, pairs, recipe, figures.append, ALONE), figures

    return run


NUM_WORDS = 48
WORDS = [a + b + c for a in "bdfg" for b in "aeio" for c in "klm"]
DOUBLES = [word[::-1].upper() for word in WORDS]


@dataclass
class Ring:
    """Two invented languages with the same sense: words on a ring, each mostly beside its neighbours.

    `WORDS[i]` translates to `DOUBLES[i]`; every English word is one old token, every target word one new token.
    """

    base: PreTrainedTokenizerFast
    grown: PreTrainedTokenizerFast
    pairs: list[Pair]
    """Of every word but each fourth."""
    old_ids: list[int]
    """The English words' ids; the target words are the new tokens 0, 1, …"""


def documents(words: list[str], seed: int, number: int = 80, length: int = 200) -> list[str]:
    """Walks along the ring."""
    generator = random.Random(seed)
    texts = []
    for _ in range(number):
        place, walk = generator.randrange(len(words)), []
        for _ in range(length):
            place = (place + generator.choice([-2, -1, 1, 2])) % len(words)
            walk.append(words[place])
        texts.append(" " + " ".join(walk))
    return texts


@pytest.fixture(scope="session")
def ring() -> Ring:
    texts = [" " + " ".join(WORDS)]
    base, grown = make_tokenizer(texts * 4, 600), make_tokenizer(texts * 4, 600)
    grown.add_tokens([f" {word}" for word in DOUBLES])
    encoded = [base.encode(f" {word}", add_special_tokens=False) for word in WORDS]
    assert all(len(ids) == 1 for ids in encoded) and len(grown) == len(base) + NUM_WORDS
    pairs = [Pair(WORDS[i], DOUBLES[i]) for i in range(NUM_WORDS) if i % 4]
    return Ring(base, grown, pairs, [ids[0] for ids in encoded])


def ring_distance(a: int, b: int) -> int:
    return min((a - b) % NUM_WORDS, (b - a) % NUM_WORDS)


def matmul_weights(model: LlamaForCausalLM) -> int:
    """Numbers in the body's matrices and the head: what a token is multiplied with."""
    body = sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2)
    return body + model.lm_head.weight.numel()
