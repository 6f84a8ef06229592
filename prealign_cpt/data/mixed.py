"""Mixed tokenization: some words of target text are spelled in the base tokenizer's pieces instead of the new ones.

    grown      [Das] [ Wasser] [ ist]           new token: " Wasser"
    respelled  [Das] [ W] [asser] [ ist]        with a probability per word

The text is the same, so new tokens and the old pieces of the same words are seen in the same places. Labels are the
inputs. A pure function of (seed, epoch, document), as code-switching is.
"""

import re
from itertools import groupby

import numpy as np
from transformers import PreTrainedTokenizerBase

from prealign_cpt.data import chance
from prealign_cpt.data.codeswitch import Switched
from prealign_cpt.data.words import Documents, Ids, Splice, Words, token_texts
from prealign_cpt.model.tokens import num_ids

_BYTE = re.compile("<0x[0-9A-F]{2}>")


class Respeller:
    """Respells documents of token ids.

    Args:
        grown: the tokenizer of the ids; its ids from `num_ids(base)` on are the new tokens.
        base: the tokenizer that `grown` was grown from.
        probability: that a word is chosen; of the chosen words those that hold a new token are respelled.
    """

    def __init__(self, grown: PreTrainedTokenizerBase, base: PreTrainedTokenizerBase, probability: float) -> None:
        self._grown, self._base, self.probability = grown, base, probability
        self._words, self._first_new = Words(token_texts(grown)), num_ids(base)
        self._letter = grown.encode("a", add_special_tokens=False)
        self._known: dict[tuple[int, ...], Ids] = {}

    def respell(self, ids: Ids, seed: int, epoch: int, document: int) -> Ids:
        """One document, int32; it decodes to the same text as before."""
        return self.respell_many(Documents(ids, np.array([0, len(ids)])), seed, epoch, document).inputs

    def respell_many(self, documents: Documents, seed: int, epoch: int, first: int) -> Switched:
        """Documents number `first`, `first + 1`, ...; `switched` counts the respelled words."""
        ids, found = documents.ids, self._words.find(documents)
        draws = chance.draws(chance.keys(seed, epoch, first, len(documents)), found.counts)
        chosen = np.flatnonzero(chance.happens(draws, self.probability))
        starts = found.starts[chosen]
        ends = found.ends(starts)
        new_before = np.concatenate([[0], np.cumsum(ids >= self._first_new)])
        holds_new = new_before[ends] > new_before[starts]
        starts, ends = starts[holds_new], ends[holds_new]
        pieces = [self._pieces(tuple(ids[s:e].tolist())) for s, e in zip(starts, ends, strict=True)]
        splice = Splice(len(ids), starts, ends, np.array([len(p) for p in pieces], dtype=np.int64))
        inputs = splice.apply(ids, np.concatenate([*pieces, np.empty(0, dtype=np.int32)]))
        borders, marks = splice.moved(documents.borders), splice.marks(found.starts)
        return Switched(inputs, inputs, borders, marks, len(found.starts), len(chosen), len(starts))

    def _pieces(self, span: tuple[int, ...]) -> Ids:
        """The base tokenizer's spelling of a word, or the word itself where that would not decode alike."""
        if span not in self._known:
            # Straight to the merges: encoding the text would let the tokenizer put a space before it (SentencePiece).
            merges = self._base.backend_tokenizer.model
            pieces: list[int] = []
            for is_byte, run in groupby(span, key=self._is_byte):
                tokens = list(run)
                spelled = "".join(self._grown.convert_ids_to_tokens(tokens))
                pieces += tokens if is_byte else [token.id for token in merges.tokenize(spelled)]
            alike = self._text(pieces) == self._text(list(span))
            self._known[span] = np.array(pieces if alike else span, dtype=np.int32)
        return self._known[span]

    def _is_byte(self, i: int) -> bool:
        """A byte of a character that the base has no token for (SentencePiece); no merge reaches over it."""
        return i < self._first_new and _BYTE.fullmatch(self._grown.convert_ids_to_tokens(i)) is not None

    def _text(self, ids: list[int]) -> str:
        return str(self._grown.decode([*self._letter, *ids], clean_up_tokenization_spaces=False))
