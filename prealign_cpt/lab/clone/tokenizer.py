"""The clone's tokenizer: base tokenizer and English originals in, a folder with mirrored merges out.

    base rules   ("t", "h")  ("th", "e")  ("Ġ", "the")     old ids, as they are
    letters      the bytes of each clone letter, merged into one token
    mirror       (T, H)  (TH, E)  (Ġ, THE)                 the base's order

Where a base merge fires in English its mirror fires in the clone, in the same order, so the tokens of a clone text are
the clones of the English tokens, one for one.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from prealign_cpt.lab.clone.script import Cloner, choose_script, spellings
from prealign_cpt.model.tokens import num_ids
from prealign_cpt.run.errors import DataError
from prealign_cpt.run.manifest import storage_error
from prealign_cpt.vocab.families import ByteLevel, grow_model, keep_added_ids
from prealign_cpt.vocab.grow import MODEL, copy_tokenizer, family_of, load_tokenizer
from prealign_cpt.vocab.learn import Piece


@dataclass(frozen=True)
class Mirrored:
    """A token of the clone."""

    id: int
    original: int | None
    """Id of the English token that it mirrors; None for a part of a letter."""
    text: str
    count: int
    """How often it occurs in the clone text."""


@dataclass(frozen=True)
class Mirror:
    """What `mirror_tokenizer` added."""

    pieces: list[Mirrored]
    tokens: int
    """Tokens of the clone text; a character that SentencePiece spells in bytes counts as one."""
    mismatch: float
    """Share of the clone's pretokens whose tokens are not the clones of the English ones. 0 unless the vocabulary is
    limited, or the text mixes letters with characters that the base merges with them."""


def make_cloner(base: Path, texts: Iterable[str]) -> Cloner:
    """The clone language for a base tokenizer and the texts that it must not collide with.

    Raises:
        MissingInputError, RecipeError: the base has no tokenizer of a known kind, or no script is left.
    """
    tokenizer = load_tokenizer(base)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    family = family_of(base, tokenizer, content)
    return Cloner(choose_script(family, map(tuple, content["model"]["merges"]), texts), family)


def mirror_tokenizer(base: Path, cloner: Cloner, originals: Sequence[str], size: int, out: Path) -> Mirror:
    """Write to `out` the tokenizer of `base` grown by clones of its tokens.

    Args:
        originals: the clone's texts in English.
        size: how many tokens are cloned, the most used ones; 0: all that occur. The letters and what merges need come
            in addition.
        out: folder to fill.

    Raises:
        DataError: the texts hold no letters.
    """
    tokenizer = load_tokenizer(base)
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    family = family_of(base, tokenizer, content)
    merges: list[tuple[str, str]] = [(left, right) for left, right in content["model"]["merges"]]
    words = family.words(originals)
    used: Counter[str] = Counter()
    for word, count in words.items():
        for token, clone in zip(word, cloner.word(word), strict=True):
            if token != clone:
                used[token] += count
    if not used:
        raise DataError("the texts hold no ASCII letters, so there is nothing to clone; give English text")
    ranked = sorted(used, key=lambda token: (-used[token], token))
    rank = {pair: at for at, pair in reversed(list(enumerate(merges)))}
    wanted = {string for token in ranked[: size or None] for string in _derivation(token, rank)}
    wanted |= cloner.letters.keys()
    cloned = [(s, cloner.string(s)) for s in sorted(wanted & family.vocab.keys(), key=family.vocab.__getitem__)]
    rules: list[tuple[str, str]] = []
    if isinstance(family, ByteLevel):
        rules = list(_letter_rules(spellings(cloner.letters).values(), rank))
    strings = dict.fromkeys(left + right for left, right in rules if left + right not in family.vocab)
    original_of = {clone: string for string, clone in cloned if string != clone}
    strings |= dict.fromkeys(original_of)

    known = tokenizer.get_vocab()
    first_id = num_ids(tokenizer)
    keep_added_ids(content)
    vocab = content["model"]["vocab"]
    vocab.update({string: first_id + at for at, string in enumerate(strings)})
    for left, right in merges:
        mirrored = cloner.string(left), cloner.string(right)
        if "".join(mirrored) in original_of and mirrored[0] in vocab and mirrored[1] in vocab:
            rules.append(mirrored)
    content["model"]["merges"].extend(map(list, rules))
    copy_tokenizer(tokenizer, base, out)
    try:
        (out / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        if (out / MODEL).is_file():
            grow_model(out / MODEL, known, {string: Piece(string, "", "", 0) for string in strings}, first_id)
    except OSError as error:
        raise storage_error(out, error) from error

    grown = load_tokenizer(out)
    assert grown.get_vocab() == known | {s: first_id + at for at, s in enumerate(strings)}, "ids are numbered otherwise"
    found = family_of(out, grown, json.loads(grown.backend_tokenizer.to_str())).words(map(cloner.text, originals))
    expected: Counter[tuple[str, ...]] = Counter()
    for word, count in words.items():
        expected[cloner.word(word)] += count
    pieces = [
        Mirrored(
            first_id + at,
            known[original_of[string]] if string in original_of else None,
            family.text(string),
            used[original_of[string]] if string in original_of else 0,
        )
        for at, string in enumerate(strings)
    ]
    return Mirror(
        pieces,
        tokens=sum(len(word) * count for word, count in found.items()),
        mismatch=1 - (expected & found).total() / expected.total(),
    )


def _derivation(token: str, rank: dict[tuple[str, str], int]) -> set[str]:
    """Every string that byte-pair encoding forms on the way to a token, from its single letters on.

    A whole word that the tokenizer takes without merges may be out of their reach; it is named all the same.
    """
    symbols = list(token)
    formed = {token, *symbols}
    while (at := _next_merge(symbols, rank)) is not None:
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        formed.add(symbols[at])
    return formed


def _letter_rules(letters: Iterable[str], rank: dict[tuple[str, str], int]) -> Iterator[tuple[str, str]]:
    """Rules that join the base's tokens for each letter from the left, each rule once."""
    seen = set()
    for letter in letters:
        symbols = list(letter)
        while (at := _next_merge(symbols, rank)) is not None:
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        left = symbols[0]
        for right in symbols[1:]:
            if (left, right) not in seen:
                seen.add((left, right))
                yield left, right
            left += right


def _next_merge(symbols: list[str], rank: dict[tuple[str, str], int]) -> int | None:
    """Where the earliest rule that applies does so first."""
    ranked = [(rank[pair], at) for at, pair in enumerate(pairwise(symbols)) if pair in rank]
    return min(ranked)[1] if ranked else None
