"""The two tokenizer families that can be grown: a `tokenizers` object in, words and grown files out.

*Byte-level BPE* (GPT-2, SmolLM, Llama 3, Qwen): text is cut into pretokens by the base's own rule, each byte is written
as one visible letter, and merges are rules on pairs. Growing adds entries to `vocab` and rules to `merges`; nothing
that is there changes.

*SentencePiece BPE with byte fallback* (Llama 2, Mistral, Gemma): spaces are written as U+2581 and any two neighbours
whose concatenation is a piece merge. The rules in tokenizer.json and the scored pieces in tokenizer.model say the same;
both are grown alike. A character that the base spells in bytes becomes a piece of its own before anything can be built
from it.
"""

import json
import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import regex
from tokenizers import Tokenizer

from prealign_cpt.model.tokens import BYTE_TOKEN
from prealign_cpt.run.errors import DataError
from prealign_cpt.text.scripts import JOINERS, is_letters
from prealign_cpt.vocab.learn import Piece, Word

SPACE = "\u2581"
LONGEST = 32
"""Characters of a new token at most: longer ones are of few texts."""

MANY_DOCUMENTS = 20
"""Below so many documents, nothing is said by how many of them a word stands in."""

LONG = 32
"""Characters of a word that is learned from as it is; longer ones are taken apart."""

LEARNED = 10_000_000
"""Letters of the vocabulary (bytes, or characters of SentencePiece) in words that are no more frequent than `RARE`.
Text with spaces seldom has so many; without them most parts of sentences occur once."""

RARE = 2

_PART = regex.compile(rf"\P{{L}}{{0,16}}+(?:\p{{L}}[\p{{M}}{JOINERS}]*+){{1,16}}|\P{{L}}{{1,16}}+")
_UNIT = re.compile(f"{SPACE}*[^{SPACE}]+|{SPACE}+")

# GPT-2's table: the visible letter that stands for each byte; the bytes that are none have letters from U+0100 on.
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(0x100) if byte not in _VISIBLE]
BYTE_OF = {chr(byte): byte for byte in _VISIBLE} | {chr(0x100 + n): byte for n, byte in enumerate(_HIDDEN)}
LETTER_OF = {byte: letter for letter, byte in BYTE_OF.items()}


class Family(ABC):
    """A BPE tokenizer as the learner sees it, in the strings of its vocabulary.

    Attributes:
        vocab: strings of the base's own tokens, with their ids.
        base_rank: see `Learner`.
        whole_words: see `Learner`.
    """

    base_rank: dict[str, int]
    whole_words: bool

    def __init__(self, backend: Tokenizer) -> None:
        self.backend = backend
        self.vocab: dict[str, int] = backend.get_vocab(with_added_tokens=False)

    def words(self, documents: Iterable[str], whole: bool = False, least_documents: int = 1) -> Counter[Word]:
        """Every word of the documents as base tokens, with its count: every pretoken; in SentencePiece every run of
        spaces with the run of other characters after it, where characters without a base token stand as themselves.

        Args:
            whole: however long they are. Otherwise those of more than `LONG` characters, as whole sentences without
                spaces are, come in parts that begin at letters: learning takes time by their length, and pieces that
                would reach over the border of two parts are merely counted less often. Of more than `LEARNED` letters
                in rare words every second, third ... word stands for as many.
            least_documents: words of fewer are left out, where there are `MANY_DOCUMENTS`.
        """
        units: Counter[str] = Counter()
        found_in: Counter[str] = Counter()
        read = 0
        for document in documents:
            read += 1
            own = Counter(self._units(document))
            units.update(own)
            if least_documents > 1:
                found_in.update(own.keys())
        if least_documents > 1 and read >= MANY_DOCUMENTS:
            units = Counter({unit: units[unit] for unit, number in found_in.items() if number >= least_documents})
        if not whole:
            for unit in [unit for unit in units if len(unit) > LONG]:
                count = units.pop(unit)
                for part in self._parts(unit):
                    units[part] += count
            rare = [unit for unit, count in units.items() if count <= RARE]
            step = 1 + sum(map(len, rare)) // LEARNED
            for number, unit in enumerate(rare if step > 1 else ()):
                units[unit] *= step * (number % step == 0)
            units = +units
        words: Counter[Word] = Counter()
        for unit, count in units.items():
            words[tuple(self._characters(token.value for token in self.backend.model.tokenize(unit)))] += count
        return words

    def _parts(self, unit: str) -> list[str]:
        return _PART.findall(unit) if len(unit) > LONG else [unit]

    @abstractmethod
    def allowed(self, string: str) -> bool:
        """Whether a string may become a piece."""

    @abstractmethod
    def text(self, string: str) -> str:
        """A piece as text."""

    @abstractmethod
    def probes(self, string: str) -> Iterator[str]:
        """Texts in whose tokenization a piece should occur."""

    def grown(
        self, content: dict[str, Any], pieces: Mapping[str, Piece], first_id: int, looked_up: bool = False
    ) -> dict[str, Any]:
        """The content of tokenizer.json with the pieces added, changed in place.

        Args:
            looked_up: words are looked up before the merges, and the pieces need none.
        """
        model = content["model"]
        keep_added_ids(content)
        model["vocab"].update({string: first_id + n for n, string in enumerate(pieces)})
        if looked_up:
            model["ignore_merges"] = True
            return content
        model["merges"] = [
            *self._base_merges(model, pieces),
            *(list(split) for string in pieces for split in splits(string, model["vocab"])),
        ]
        return content

    def _base_merges(self, model: dict[str, Any], pieces: Mapping[str, Piece]) -> list[list[str]]:
        return list(model["merges"])

    def _units(self, text: str) -> Iterator[str]:
        if self.backend.normalizer is not None:
            text = self.backend.normalizer.normalize_str(text)
        if self.backend.pre_tokenizer is None:
            return iter([text])
        return (pretoken for pretoken, _ in self.backend.pre_tokenizer.pre_tokenize_str(text))

    def _characters(self, tokens: Iterable[str]) -> Iterable[str]:
        return tokens


class ByteLevel(Family):
    """A byte-level BPE tokenizer. Strings are in the letters of `BYTE_OF`."""

    def __init__(self, backend: Tokenizer) -> None:
        super().__init__(backend)
        self.base_rank = {}
        self.whole_words = bool(json.loads(backend.to_str())["model"].get("ignore_merges"))

    def _parts(self, unit: str) -> list[str]:
        raw = _bytes(unit)
        return ["".join(map(LETTER_OF.__getitem__, part.encode())) for part in super()._parts(raw.decode())]

    def may_look_up(self) -> bool:
        """Whether words may be looked up before the merges without another tokenization of any text: the merges make
        every token that can be a whole word, or words are looked up already."""
        if self.whole_words:
            return True
        lost = [token for token in self.vocab if [t.value for t in self.backend.model.tokenize(token)] != [token]]
        return not any(list(self._units(self.text(token))) == [token] for token in lost)

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Start and end of every pretoken in a text that normalisation leaves as it is."""
        return (span for _, span in self.backend.pre_tokenizer.pre_tokenize_str(text))

    def allowed(self, string: str) -> bool:
        """Whole characters, or a strict part of one; no digits; a letter or something beyond ASCII.

        Digits and ASCII punctuation are common to all languages (and to code), so a piece of them would change English.
        """
        raw = _bytes(string)
        try:
            return worth_a_piece(raw.decode())
        except UnicodeDecodeError:
            return any(True for _ in completions(raw))

    def text(self, string: str) -> str:
        """A piece as text; U+FFFD for a part of a character."""
        return _bytes(string).decode(errors="replace")

    def probes(self, string: str) -> Iterator[str]:
        """A piece's own text, or for a part of a character every character that has this part."""
        raw = _bytes(string)
        try:
            yield raw.decode()
        except UnicodeDecodeError:
            yield from completions(raw)


class SentencePiece(Family):
    """A SentencePiece BPE tokenizer: strings are text with U+2581 for the space."""

    whole_words = False

    def __init__(self, backend: Tokenizer, merges: Iterable[tuple[str, str]]) -> None:
        super().__init__(backend)
        self.base_rank = {}
        for rank, (left, right) in enumerate(merges):
            self.base_rank.setdefault(left + right, rank)

    def allowed(self, string: str) -> bool:
        """One new character, or letters and marks with at most one space, in front (SentencePiece's own habit)."""
        text = string.removeprefix(SPACE)
        if SPACE in text or not worth_a_piece(text):
            return False
        return len(string) == 1 or is_letters(text)

    def text(self, string: str) -> str:
        """A piece as text."""
        return string.replace(SPACE, " ")

    def probes(self, string: str) -> Iterator[str]:
        """A piece's own text, at the start and after a line break, where no space is put in front."""
        text = self.text(string)
        yield text.removeprefix(" ")
        yield "\n" + text

    def _base_merges(self, model: dict[str, Any], pieces: Mapping[str, Piece]) -> list[list[str]]:
        """Base pieces get rules for the splits that new pieces make possible, beside their old rules, as SentencePiece
        itself would merge those."""
        merges: list[list[str]] = []
        seen: set[str] = set()
        for left, right in model["merges"]:
            merges.append([left, right])
            if left + right not in seen:
                seen.add(left + right)
                ways = splits(left + right, model["vocab"])
                merges.extend(list(way) for way in ways if way[0] in pieces or way[1] in pieces)
        return merges

    def _units(self, text: str) -> Iterator[str]:
        return (unit for part in super()._units(text) for unit in _UNIT.findall(part))

    def _characters(self, tokens: Iterable[str]) -> Iterator[str]:
        """Tokens with each run of byte tokens read as the characters it spells."""
        raw = bytearray()
        for token in tokens:
            if byte := BYTE_TOKEN.fullmatch(token):
                raw.append(int(byte[1], 16))
                continue
            yield from raw.decode()
            raw.clear()
            yield token
        yield from raw.decode()


def grow_model(path: Path, vocab: Mapping[str, int], pieces: Mapping[str, Piece], first_id: int) -> None:
    """Grow a tokenizer.model in place: the pieces behind all base pieces, with scores below all of theirs.

    Args:
        path: a copy of the base's tokenizer.model.
        vocab: every token of the base with its id; those that tokenizer.model lacks are listed as control pieces, so
            that ids agree.
        first_id: id of the first new piece.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2  # generated code without types

    model = proto.ModelProto()
    model.ParseFromString(path.read_bytes())
    token_of = {number: token for token, number in vocab.items()}
    if any(token_of.get(n, piece.piece) != piece.piece for n, piece in enumerate(model.pieces)):
        raise DataError(f"{path}: its pieces and tokenizer.json disagree; restore both from one download of the base")
    score = min(piece.score for piece in model.pieces)
    control = proto.ModelProto.SentencePiece.CONTROL
    for number in range(len(model.pieces), first_id):
        model.pieces.add(piece=token_of.get(number, f"<gap_{number}>"), score=0.0, type=control)
    for n, string in enumerate(pieces):
        model.pieces.add(piece=string, score=score - 1 - n)
    model.trainer_spec.vocab_size = len(model.pieces)
    path.write_bytes(model.SerializeToString())


def worth_a_piece(text: str) -> bool:
    """No digit, and at least one letter, mark or character beyond ASCII; not too long."""
    if len(text) > LONGEST:
        return False
    kinds = [unicodedata.category(character)[0] for character in text]
    return "N" not in kinds and ("L" in kinds or not text.isascii())


def splits(string: str, vocab: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Each way to write a piece as two entries of the vocabulary."""
    for i in range(1, len(string)):
        if string[:i] in vocab and string[i:] in vocab:
            yield string[:i], string[i:]


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
            if len(part) == size or any(byte not in pattern[start + i] for i, byte in enumerate(part)):
                continue
            choices = [[part[i - start]] if start <= i < start + len(part) else pattern[i] for i in range(size)]
            for raw in product(*choices):
                try:
                    yield bytes(raw).decode()
                except UnicodeDecodeError:  # overlong or surrogate
                    continue


def _bytes(string: str) -> bytes:
    return bytes(BYTE_OF[letter] for letter in string)
