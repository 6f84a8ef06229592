"""Fertility by the number of new tokens: what they would save, and how often the text shows them, before training."""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from prealign_cpt.model.tokens import encode_plain
from prealign_cpt.recipe.schema import Recipe
from prealign_cpt.text.stage import held_out_documents, text_report, training_sample
from prealign_cpt.vocab.build import SAMPLE_BYTES
from prealign_cpt.vocab.grow import grow_tokenizer, load_tokenizer

SIZES = (250, 1000, 4000, 16000)

COUNTED_BYTES = 2_000_000
"""Of training text in which new tokens are counted."""


@dataclass(frozen=True)
class Fertility:
    """A number of new tokens, on held-out text and on training text."""

    new_tokens: int
    tokens: int
    """Of the held-out text."""
    share: float
    """Of the base's tokens of the same text."""
    seen: float
    """Median of how often a new token stands in the training text, once over."""
    words: bool = False
    """Whether the new tokens are whole words."""
    characters: int = 0
    """Of the held-out text."""


def fertilities(recipe: Recipe, base: Path) -> list[Fertility]:
    """0 and every size of `SIZES`, as far as the text offers so many."""
    held_out = list(held_out_documents(recipe, "valid", "target"))
    before = sum(map(len, encode_plain(load_tokenizer(base), held_out)))
    sample = list(training_sample(recipe, "target", COUNTED_BYTES))
    scale = text_report(recipe, "target")["bytes"] / sum(len(document.encode()) for document in sample)
    characters = sum(map(len, held_out))
    found = [Fertility(0, before, 1.0, 0.0, characters=characters)]
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            texts = [training_sample(recipe, side, most) for side, most in SAMPLE_BYTES.items()]
            kinds = recipe.vocab.kind, recipe.vocab.pretokenizer
            growth = grow_tokenizer(base, texts[0], texts[1], size, Path(folder) / "grown", *kinds)
            grown = load_tokenizer(Path(folder) / "grown")
        if len(growth.tokens) <= found[-1].new_tokens:
            break
        after = sum(map(len, encode_plain(grown, held_out)))
        counts = Counter(i for ids in encode_plain(grown, sample) for i in ids)
        seen = median(scale * counts[token.id] for token in growth.tokens)
        found.append(Fertility(len(growth.tokens), after, after / before, seen, growth.words, characters))
        if len(growth.tokens) < size:
            break
    return found
