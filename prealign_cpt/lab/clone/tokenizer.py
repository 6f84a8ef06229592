"""The clone's letters and its tokenizer: base tokenizer and English texts in, a folder with mirrored merges out.

    "God's Spirit"  --Cloner-->  "\u0537\u0545\u0534's \u0543..."    each ASCII letter becomes one letter of a cased
                                                script that the base model hardly knows, here Armenian

    base rules   ("t", "h")  ("th", "e")  ("Ġ", "the")     old ids, as they are
    letters      the bytes of each clone letter, merged into one token
    mirror       (T, H)  (TH, E)  (Ġ, THE)                 the base's order

Nothing but the letters changes, so a clone text has the words, the order and the statistics of its English original,
and Python's `isalpha`, `lower` and `upper` work on it as they do on English. Where a base merge fires in English its
mirror fires in the clone, in the same order, so the tokens of a clone text are the clones of the English tokens, one
for one.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

from prealign_cpt.model.tokens import num_ids
from prealign_cpt.run.errors import DataError, RecipeError
from prealign_cpt.run.manifest import storage_error
from prealign_cpt.vocab.families import LETTER_OF, ByteLevel, SentencePiece, grow_model, keep_added_ids
from prealign_cpt.vocab.grow import MODEL, copy_tokenizer, family_of, load_tokenizer
from prealign_cpt.vocab.learn import Piece

_CONTRACTION = re.compile(r"'(?:s|t|re|ve|m|ll|d)", re.IGNORECASE)
"""What the pre-tokenizers of GPT-2 and Llama 3 cut off by name; in other letters they would cut elsewhere."""

SCRIPTS = {
    "Armenian": (0x0531, 0x0561),
    "Glagolitic": (0x2C00, 0x2C30),
    "Deseret": (0x10400, 0x10428),
    "Warang Citi": (0x118A0, 0x118C0),
    "Medefaidrin": (0x16E40, 0x16E60),
    "Adlam": (0x1E900, 0x1E922),
}
"""The candidates, those with the fewest bytes a letter first: code points of the first upper and the first lower letter
of 26. Case maps one to one in each, and NFC changes none."""


def script_letters(script: str) -> dict[str, str]:
    """ASCII letter -> letter of the script."""
    cases = zip((ascii_uppercase, ascii_lowercase), SCRIPTS[script], strict=True)
    return {letter: chr(first + i) for alphabet, first in cases for i, letter in enumerate(alphabet)}


class Cloner:
    """English to clone, for texts and for strings of the base vocabulary.

    Attributes:
        letters: ASCII letter -> clone letter. A letter that the base has no token for has no clone.
    """

    def __init__(self, script: str, family: ByteLevel | SentencePiece) -> None:
        self.script = script
        self.letters = {letter: clone for letter, clone in script_letters(script).items() if letter in family.vocab}
        self._bytelevel = family if isinstance(family, ByteLevel) else None
        self._characters = str.maketrans(self.letters)
        self._strings = str.maketrans(spellings(self.letters) if self._bytelevel else self.letters)

    def text(self, english: str) -> str:
        """The clone of a text. The part of a contraction that byte-level pre-tokenizers cut off stays English."""
        cloned = english.translate(self._characters)  # as long as the original
        if self._bytelevel and "'" in english:
            for start, end in self._bytelevel.spans(english):
                if _CONTRACTION.fullmatch(english, start, end):
                    cloned = cloned[:start] + english[start:end] + cloned[end:]
        return cloned

    def string(self, token: str) -> str:
        """The clone of a vocabulary string; one without letters is its own."""
        return token.translate(self._strings)

    def word(self, tokens: tuple[str, ...]) -> tuple[str, ...]:
        """The clone of a pretoken that is written in tokens."""
        if self._bytelevel and _CONTRACTION.fullmatch("".join(tokens)):
            return tokens
        return tuple(map(self.string, tokens))


def make_cloner(base: Path, texts: Sequence[str]) -> Cloner:
    """The clone language for a base tokenizer and texts: the first script that neither would mix up with anything.

    Its letters occur in no text and are no tokens, their bytes are, and a letter's tokens are the same wherever it
    stands: none joins a part of a letter with what is beside it.

    Raises:
        MissingInputError, RecipeError: the base has no tokenizer of a known kind, or no script is left.
    """
    tokenizer = load_tokenizer(base)
    family = family_of(base, tokenizer, json.loads(tokenizer.backend_tokenizer.to_str()))
    used = set().union(*texts)
    for script in SCRIPTS:
        letters = script_letters(script)
        if used.isdisjoint(letters.values()):
            cloner = Cloner(script, family)
            if isinstance(family, SentencePiece):
                if family.vocab.keys().isdisjoint(letters.values()):
                    return cloner
            elif _bytes_stand_apart(family, spellings(letters).values(), map(cloner.text, texts)):
                return cloner
    raise RecipeError(
        f"the texts or the base tokenizer know the letters of every candidate script ({', '.join(SCRIPTS)}); "
        "choose a base model or texts that are more English"
    )


def spellings(letters: dict[str, str]) -> dict[str, str]:
    """ASCII letter -> the clone letter in the visible letters of its bytes."""
    return {a: "".join(LETTER_OF[byte] for byte in b.encode()) for a, b in letters.items()}


def _bytes_stand_apart(family: ByteLevel, spelled: Collection[str], clones: Iterable[str]) -> bool:
    """Whether the base knows the letters as bytes alone, and none of its tokens reaches across a letter's border."""
    if not family.vocab.keys().isdisjoint(spelled) or not set().union(*spelled) <= family.vocab.keys():
        return False
    letter = re.compile("|".join(map(re.escape, spelled)))
    for word in family.words(clones):
        borders = {0, *accumulate(map(len, word))}
        if not all(borders.issuperset(match.span()) for match in letter.finditer("".join(word))):
            return False
    return True


@dataclass(frozen=True)
class ClonedToken:
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

    new_tokens: list[ClonedToken]
    text_tokens: int
    """Tokens of the clone text; a character that SentencePiece spells in bytes counts as one."""
    mismatch: float
    """Share of the clone's pretokens whose tokens are not the clones of the English ones. 0 unless the vocabulary is
    limited, or the text mixes letters with characters that the base merges with them."""


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

    rank = {pair: i for i, pair in reversed(list(enumerate(merges)))}
    most_used = sorted(used, key=lambda token: (-used[token], token))[: size or None]
    wanted = {string for token in most_used for string in _derivation(token, rank)} | cloner.letters.keys()
    mirrored = sorted(wanted & family.vocab.keys(), key=family.vocab.__getitem__)
    original_of = {cloner.string(string): string for string in mirrored if cloner.string(string) != string}
    rules: list[tuple[str, str]] = []
    if isinstance(family, ByteLevel):
        rules = _letter_rules(spellings(cloner.letters).values(), rank)
    parts = [left + right for left, right in rules if left + right not in family.vocab]
    strings = list(dict.fromkeys([*parts, *original_of]))

    known = tokenizer.get_vocab()
    first_id = num_ids(tokenizer)
    new_ids = {string: first_id + i for i, string in enumerate(strings)}
    keep_added_ids(content)
    vocab = content["model"]["vocab"]
    vocab.update(new_ids)
    for left, right in merges:
        rule = cloner.string(left), cloner.string(right)
        if "".join(rule) in original_of and rule[0] in vocab and rule[1] in vocab:
            rules.append(rule)
    content["model"]["merges"].extend(map(list, rules))
    copy_tokenizer(tokenizer, base, out)
    try:
        (out / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        if (out / MODEL).is_file():
            grow_model(out / MODEL, known, {string: Piece(string, "", "", 0) for string in strings}, first_id)
    except OSError as error:
        raise storage_error(out, error) from error

    grown = load_tokenizer(out)
    assert grown.get_vocab() == known | new_ids, "ids are numbered otherwise"
    written = family_of(out, grown, json.loads(grown.backend_tokenizer.to_str())).words(map(cloner.text, originals))
    expected: Counter[tuple[str, ...]] = Counter()
    for word, count in words.items():
        expected[cloner.word(word)] += count
    new_tokens = []
    for string, number in new_ids.items():
        original = original_of.get(string, "")
        new_tokens.append(ClonedToken(number, known.get(original), family.text(string), used[original]))
    return Mirror(
        new_tokens,
        text_tokens=sum(len(word) * count for word, count in written.items()),
        mismatch=1 - (expected & written).total() / expected.total(),
    )


def _derivation(token: str, rank: dict[tuple[str, str], int]) -> set[str]:
    """Every string that byte-pair encoding forms on the way to a token, from its single letters on.

    A whole word that the tokenizer takes without merges may be out of their reach; it is named all the same.
    """
    symbols = list(token)
    return {token, *symbols, *_merge(symbols, rank)}


def _letter_rules(letters: Iterable[str], rank: dict[tuple[str, str], int]) -> list[tuple[str, str]]:
    """Rules that join the base's tokens for each letter from the left, each rule once."""
    rules: dict[tuple[str, str], None] = {}
    for letter in letters:
        symbols = list(letter)
        _merge(symbols, rank)
        left, *others = symbols
        for right in others:
            rules[left, right] = None
            left += right
    return list(rules)


def _merge(symbols: list[str], rank: dict[tuple[str, str], int]) -> list[str]:
    """Merge symbols in place until no rule applies, the earliest rule first; the strings that were formed."""
    formed = []
    while ranked := [(rank[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in rank]:
        _, i = min(ranked)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
        formed.append(symbols[i])
    return formed
