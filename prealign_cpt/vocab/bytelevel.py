"""The byte-level BPE family (GPT-2, SmolLM, Llama 3, Qwen): a `tokenizers` object in, words and a grown JSON out.

Text is cut into pretokens by the base's own rule, each byte is written as one visible letter, and merges are rules on
pairs. Growing adds entries to `vocab` and rules to `merges`; nothing that is there changes.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any

from tokenizers import Tokenizer

from prealign_cpt.vocab.learn import Piece, Word


def _byte_letters() -> dict[str, int]:
    """GPT-2's table: the visible letter that stands for each byte."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + at): byte for at, byte in enumerate(hidden)}


BYTE_OF = _byte_letters()
LETTER_OF = {byte: letter for letter, byte in BYTE_OF.items()}


class ByteLevel:
    """A byte-level BPE tokenizer as the learner sees it. Strings are in the letters of `BYTE_OF`."""

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self.vocab: dict[str, int] = backend.get_vocab(with_added_tokens=False)
        self.base_rank: dict[str, int] = {}
        self.whole_words: bool = bool(json.loads(backend.to_str())["model"].get("ignore_merges"))

    def words(self, documents: Iterable[str]) -> Counter[Word]:
        """Every pretoken of the documents as base tokens, with its count."""
        pretokens: Counter[str] = Counter()
        for document in documents:
            pretokens.update(self._pretokens(document))
        words: Counter[Word] = Counter()
        for pretoken, count in pretokens.items():
            words[tuple(token.value for token in self._backend.model.tokenize(pretoken))] += count
        return words

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Start and end of every pretoken in a text that normalisation leaves as it is."""
        return (span for _, span in self._backend.pre_tokenizer.pre_tokenize_str(text))

    def allowed(self, string: str) -> bool:
        """Whole characters, or a strict part of one; no digits; a letter or something beyond ASCII.

        Digits and ASCII punctuation are common to all languages (and to code), so a piece of them would change English.
        """
        raw = self._bytes(string)
        try:
            return worth_a_piece(raw.decode())
        except UnicodeDecodeError:
            return any(True for _ in completions(raw))

    def text(self, string: str) -> str:
        """The piece as text; U+FFFD for a part of a character."""
        return self._bytes(string).decode(errors="replace")

    def probes(self, string: str) -> Iterator[str]:
        """Texts in whose tokenization the piece should occur: its own, or for a part of a character every character
        that has this part."""
        raw = self._bytes(string)
        try:
            yield raw.decode()
        except UnicodeDecodeError:
            yield from completions(raw)

    def grown(self, content: dict[str, Any], pieces: Mapping[str, Piece], first_id: int) -> dict[str, Any]:
        """The content of tokenizer.json with the pieces added, changed in place."""
        model = content["model"]
        keep_added_ids(content)
        vocab = model["vocab"]
        vocab.update({string: first_id + at for at, string in enumerate(pieces)})
        model["merges"].extend(list(split) for string in pieces for split in splits(string, vocab))
        return content

    def _pretokens(self, text: str) -> Iterator[str]:
        if self._backend.normalizer is not None:
            text = self._backend.normalizer.normalize_str(text)
        return (pretoken for pretoken, _ in self._backend.pre_tokenizer.pre_tokenize_str(text))

    @staticmethod
    def _bytes(string: str) -> bytes:
        return bytes(BYTE_OF[letter] for letter in string)


def worth_a_piece(text: str) -> bool:
    """No digit, and at least one letter, mark or character beyond ASCII."""
    kinds = [unicodedata.category(character)[0] for character in text]
    return "N" not in kinds and ("L" in kinds or not text.isascii())


def splits(string: str, vocab: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Each way to write a piece as two entries of the vocabulary."""
    for at in range(1, len(string)):
        if string[:at] in vocab and string[at:] in vocab:
            yield string[:at], string[at:]


def keep_added_ids(content: dict[str, Any]) -> None:
    """List the added tokens in the model's vocabulary too: otherwise `tokenizers` numbers them from the vocabulary's
    end when it loads the file, which the new pieces have moved."""
    content["model"]["vocab"].update({token["content"]: token["id"] for token in content["added_tokens"]})


def completions(part: bytes) -> Iterator[str]:
    """Every character that has `part` as a strict part of its UTF-8 bytes, at any place."""
    tail = range(0x80, 0xC0)
    for size, leads in ((2, range(0xC2, 0xE0)), (3, range(0xE0, 0xF0)), (4, range(0xF0, 0xF5))):
        pattern = [leads, *[tail] * (size - 1)]
        for start in range(size - len(part) + 1):
            if len(part) == size or any(byte not in pattern[start + at] for at, byte in enumerate(part)):
                continue
            choices = [[part[at - start]] if start <= at < start + len(part) else pattern[at] for at in range(size)]
            for raw in product(*choices):
                try:
                    yield bytes(raw).decode()
                except UnicodeDecodeError:  # overlong or surrogate
                    continue
