"""Does the base know the script, and would it gain by new tokens? (Match the Script, arXiv 2203.10753)

A base that has seen a script predicts running text better than the same words in another order. How it spells the text
shows how much new tokens can save.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel

from prealign_cpt.lexicon.pairs import Pair
from prealign_cpt.model.bits import batches, score, windows
from prealign_cpt.model.loss import LanguageModelLoss
from prealign_cpt.model.tokens import encode_plain, is_byte_token
from prealign_cpt.text.scripts import main_script, script_shares, unspaced_share

WINDOW_BYTES, TEXT_BYTES = 512, 8_000


@dataclass(frozen=True)
class Script:
    """How a base reads a text."""

    scripts: dict[str, float]
    spelling: str
    """Tokens a word, or characters a token where no spaces part words; in words."""
    bytes_a_token: float
    pieces_of_characters: float
    """Share of the tokens that are a part of a character."""
    bits: float | None = None
    """Bits per byte; None: not measured."""
    shuffled_bits: float | None = None
    """The same of each window's words in another order."""

    @property
    def order_gain(self) -> float | None:
        """Bits per byte that the order of the words is worth to the base."""
        return None if self.bits is None or self.shuffled_bits is None else self.shuffled_bits - self.bits


def look(model: PreTrainedModel | None, base: Path, start_token: str, documents: Iterable[str]) -> Script:
    """How a base reads some held-out text.

    Args:
        model: None: bits are not measured.
        base: its folder, for the tokenizer.
    """
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    texts = windows(documents, WINDOW_BYTES, TEXT_BYTES)
    ids = [i for one in encode_plain(tokenizer, texts) for i in one]
    size = sum(len(text.encode()) for text in texts)
    spelling = f"{len(ids) / max(1, sum(len(text.split()) for text in texts)):.2f} tokens a word"
    if unspaced_share("\n".join(texts)) > 0.5:
        spelling = f"{sum(map(len, texts)) / len(ids):.2f} characters a token"
    part = {i: "\ufffd" in tokenizer.decode([i]) or is_byte_token(tokenizer.convert_ids_to_tokens(i)) for i in set(ids)}
    parts = sum(part[i] for i in ids)
    found = Script(script_shares(texts), spelling, size / len(ids), parts / len(ids))
    if model is None:
        return found
    start, module = tokenizer.convert_tokens_to_ids(start_token), LanguageModelLoss(model)
    bits = [score(module, batches(lines, tokenizer, start, 2048)).bits_per_byte for lines in (texts, _shuffled(texts))]
    return replace(found, bits=bits[0], shuffled_bits=bits[1])


def advice(target: Script, english: Script, pairs: list[Pair]) -> list[str]:
    """What a reader should take from it, a line each."""
    told = []
    if target.order_gain is not None and english.order_gain is not None:
        knows = target.order_gain >= english.order_gain / 4
        told.append(
            f"the base {'reads' if knows else 'hardly reads'} this language: {target.bits:.3f} bits per byte, "
            f"{target.order_gain:+.3f} with its words shuffled (English: {english.bits:.3f}, {english.order_gain:+.3f})"
        )
    told.append(
        f"it spells it in {target.spelling} (English: {english.spelling}), "
        f"{target.bytes_a_token:.2f} bytes a token, {target.pieces_of_characters:.0%} of the tokens parts of characters"
    )
    if pairs:
        text, listed = main_script(target.scripts), main_script(script_shares(pair.target for pair in pairs))
        if text != listed:
            told.append(
                f"warning: the word list's translations are in {listed} letters, the text in {text}: they will never "
                "meet; convert that column"
            )
    return told


def _shuffled(texts: list[str]) -> list[str]:
    """Each text with its words in another order; its characters, where it has hardly any spaces."""
    chance = random.Random(0)
    found = []
    for text in texts:
        units = text.split()
        gap = " "
        if len(units) < len(text) / 20:
            units, gap = list(text), ""
        chance.shuffle(units)
        found.append(gap.join(units))
    return found
