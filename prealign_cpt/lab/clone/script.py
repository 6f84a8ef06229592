"""The clone's script: each ASCII letter becomes one letter of a cased script that the base model hardly knows.

    "God's Spirit"  --Cloner-->  "\u0537\u0545\u0534's \u0543..."  in Armenian letters

Nothing else changes, so a clone text has the words, the order and the statistics of its English original, and Python's
`isalpha`, `lower` and `upper` work on it as they do on English.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase

from prealign_cpt.run.errors import RecipeError
from prealign_cpt.vocab.families import BYTE_OF, LETTER_OF, ByteLevel, SentencePiece

_CONTRACTION = re.compile(r"'(?:s|t|re|ve|m|ll|d)", re.IGNORECASE)
"""What the pre-tokenizers of GPT-2 and Llama 3 cut off by name; in other letters they would cut elsewhere."""

_CONTINUATION = frozenset(bytes([byte]) for byte in range(0x80, 0xC0))
"""Bytes that never begin a character in UTF-8."""


@dataclass(frozen=True)
class Script:
    """26 letters in two cases: the code points of the first upper and the first lower one."""

    name: str
    upper: int
    lower: int

    @property
    def letters(self) -> dict[str, str]:
        """ASCII letter -> letter of the script."""
        cases = ((ascii_uppercase, self.upper), (ascii_lowercase, self.lower))
        return {letter: chr(first + at) for alphabet, first in cases for at, letter in enumerate(alphabet)}


SCRIPTS = (
    Script("Armenian", 0x0531, 0x0561),
    Script("Glagolitic", 0x2C00, 0x2C30),
    Script("Deseret", 0x10400, 0x10428),
    Script("Warang Citi", 0x118A0, 0x118C0),
    Script("Medefaidrin", 0x16E40, 0x16E60),
    Script("Adlam", 0x1E900, 0x1E922),
)
"""The candidates, those with the fewest bytes a letter first. Case maps one to one in each, and NFC changes none."""


class Cloner:
    """English to clone, for texts and for strings of the base vocabulary.

    Attributes:
        letters: ASCII letter -> clone letter. A letter that the base has no token for has no clone.
    """

    def __init__(self, script: Script, family: ByteLevel | SentencePiece) -> None:
        self.script = script
        self._family = family
        self.letters = {letter: clone for letter, clone in script.letters.items() if letter in family.vocab}
        self._characters = str.maketrans(self.letters)
        spelled = spellings(self.letters) if isinstance(family, ByteLevel) else self.letters
        self._strings = str.maketrans(spelled)

    def text(self, english: str) -> str:
        """The clone of a text. The part of a contraction that byte-level pre-tokenizers cut off stays English."""
        cloned = english.translate(self._characters)
        if isinstance(self._family, ByteLevel) and "'" in english:
            parts, done = [], 0
            for start, end in self._family.spans(english):
                if _CONTRACTION.fullmatch(english, start, end):
                    parts += [cloned[done:start], english[start:end]]
                    done = end
            cloned = "".join([*parts, cloned[done:]])
        return cloned

    def string(self, piece: str) -> str:
        """The clone of a vocabulary string; one without letters is its own."""
        return piece.translate(self._strings)

    def word(self, tokens: tuple[str, ...]) -> tuple[str, ...]:
        """The clone of a pretoken that is written in tokens."""
        if isinstance(self._family, ByteLevel) and _CONTRACTION.fullmatch("".join(tokens)):
            return tokens
        return tuple(map(self.string, tokens))


def choose_script(family: ByteLevel | SentencePiece, merges: Iterable[tuple[str, str]], texts: Iterable[str]) -> Script:
    """The first candidate that neither the texts nor the base tokenizer would mix up with anything.

    Its letters occur in no text and are no tokens, their bytes are, and no merge of the base reaches across the border
    of a letter: so a letter's tokens are the same wherever it stands.

    Args:
        merges: the base's rules as pairs of vocabulary strings.

    Raises:
        RecipeError: there is none.
    """
    used = set().union(*map(set, texts))
    pairs = list(merges)
    for script in SCRIPTS:
        letters = set(script.letters.values())
        if letters & used:
            continue
        if isinstance(family, SentencePiece):
            if not letters & family.vocab.keys():
                return script
            continue
        spelled = spellings(script.letters).values()
        alphabet = set().union(*spelled)
        if alphabet <= family.vocab.keys() and not any(letter in family.vocab for letter in spelled):
            encoded = [letter.encode() for letter in sorted(letters)]
            if not any(_glues(_raw(left + right), encoded) for left, right in pairs if alphabet & set(left + right)):
                return script
    raise RecipeError(
        "the texts or the base tokenizer know the letters of every candidate script "
        f"({', '.join(script.name for script in SCRIPTS)}); choose a base model or texts that are more English"
    )


def spellings(letters: dict[str, str]) -> dict[str, str]:
    """ASCII letter -> the clone letter in the visible letters of its bytes."""
    return {a: "".join(LETTER_OF[byte] for byte in b.encode()) for a, b in letters.items()}


def _raw(string: str) -> bytes:
    return bytes(BYTE_OF[letter] for letter in string)


def _glues(merged: bytes, letters: Collection[bytes]) -> bool:
    """Whether a merge may join a part of one of the letters with something outside it."""
    for letter in letters:
        for at in range(1 - len(letter), len(merged)):  # where the letter would begin in the merged bytes
            end = at + len(letter)
            if (at <= 0 and len(merged) <= end) or merged[end : end + 1] in _CONTINUATION:
                continue  # inside the letter, or the byte behind it could not stand there
            seen = merged[max(at, 0) : end]
            if seen == letter[max(-at, 0) : max(-at, 0) + len(seen)]:
                return True
    return False
