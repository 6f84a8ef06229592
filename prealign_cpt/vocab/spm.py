"""The SentencePiece BPE family with byte fallback (Llama 2, Mistral, Gemma): words and grown files out.

Spaces are written as U+2581 and any two neighbours whose concatenation is a piece merge. The rules in tokenizer.json
and the scored pieces in tokenizer.model say the same; both are grown alike. A character that the base spells in bytes
becomes a piece of its own before anything can be built from it.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from prealign_cpt.run.errors import DataError
from prealign_cpt.vocab.bytelevel import keep_added_ids, splits, worth_a_piece
from prealign_cpt.vocab.learn import Piece, Word

SPACE = "\u2581"
_UNIT = re.compile(f"{SPACE}*[^{SPACE}]+|{SPACE}+")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class SentencePiece:
    """A SentencePiece BPE as the learner sees it: strings are text with U+2581 for the space."""

    whole_words = False

    def __init__(self, backend: Tokenizer, merges: Iterable[tuple[str, str]]) -> None:
        self._backend = backend
        self.vocab: dict[str, int] = backend.get_vocab(with_added_tokens=False)
        self.base_rank: dict[str, int] = {}
        for rank, (left, right) in enumerate(merges):
            self.base_rank.setdefault(left + right, rank)

    def words(self, documents: Iterable[str]) -> Counter[Word]:
        """Every run of spaces with the run of other characters after it, as base tokens, with its count.

        Characters without a base token stand as themselves.
        """
        units: Counter[str] = Counter()
        for document in documents:
            for text in self._normalized(document):
                units.update(_UNIT.findall(text))
        words: Counter[Word] = Counter()
        for unit, count in units.items():
            words[tuple(_characters(token.value for token in self._backend.model.tokenize(unit)))] += count
        return words

    def allowed(self, string: str) -> bool:
        """One new character, or letters and marks with at most one space, in front (SentencePiece's own habit)."""
        text = string.removeprefix(SPACE)
        if SPACE in text or not worth_a_piece(text):
            return False
        return len(string) == 1 or all(unicodedata.category(character)[0] in "LM" for character in text)

    def text(self, string: str) -> str:
        """The piece as text."""
        return string.replace(SPACE, " ")

    def probes(self, string: str) -> Iterator[str]:
        """Texts in whose tokenization the piece should occur: its own, at the start and after a line break, where no
        space is put in front."""
        text = self.text(string)
        yield text.removeprefix(" ")
        yield "\n" + text

    def grown(self, content: dict[str, Any], pieces: Mapping[str, Piece], first_id: int) -> dict[str, Any]:
        """The content of tokenizer.json with the pieces added, changed in place.

        Base pieces get rules for the splits that new pieces make possible, beside their old rules, as SentencePiece
        itself would merge those.
        """
        model = content["model"]
        keep_added_ids(content)
        vocab = model["vocab"]
        vocab.update({string: first_id + at for at, string in enumerate(pieces)})
        merges: list[list[str]] = []
        seen: set[str] = set()
        for left, right in model["merges"]:
            merges.append([left, right])
            if left + right not in seen:
                seen.add(left + right)
                merges.extend(
                    list(split) for split in splits(left + right, vocab) if split[0] in pieces or split[1] in pieces
                )
        merges.extend(list(split) for string in pieces for split in splits(string, vocab))
        model["merges"] = merges
        return content

    def _normalized(self, text: str) -> Iterator[str]:
        if self._backend.normalizer is not None:
            text = self._backend.normalizer.normalize_str(text)
        if self._backend.pre_tokenizer is None:
            return iter([text])
        return (part for part, _ in self._backend.pre_tokenizer.pre_tokenize_str(text))


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
    if any(token_of.get(at, piece.piece) != piece.piece for at, piece in enumerate(model.pieces)):
        raise DataError(f"{path}: its pieces and tokenizer.json disagree; restore both from one download of the base")
    score = min(piece.score for piece in model.pieces)
    control = proto.ModelProto.SentencePiece.CONTROL
    for number in range(len(model.pieces), first_id):
        model.pieces.add(piece=token_of.get(number, f"<gap_{number}>"), score=0.0, type=control)
    for at, string in enumerate(pieces):
        model.pieces.add(piece=string, score=score - 1 - at)
    model.trainer_spec.vocab_size = len(model.pieces)
    path.write_bytes(model.SerializeToString())


def _characters(tokens: Iterable[str]) -> Iterator[str]:
    """Tokens with each run of byte tokens read as the characters it spells."""
    raw = bytearray()
    for token in tokens:
        match = _BYTE.fullmatch(token)
        if match:
            raw.append(int(match[1], 16))
            continue
        yield from raw.decode()
        raw.clear()
        yield token
    yield from raw.decode()
