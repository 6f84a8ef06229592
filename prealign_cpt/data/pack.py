"""Token ids of documents to packed sequences on disk.

    documents -> token ids, framed by start and end token -> (switched) -> end to end -> rows of `sequence_length`

A packed text is a pair of ordinary `.npy` files, int32 [sequences, sequence_length], opened as memory maps:
`NAME.inputs.npy`, and `NAME.labels.npy` only where labels differ from inputs. A row may begin inside a document; there
is no padding.

Shapes: R rows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from prealign_cpt.data.codeswitch import Switched
from prealign_cpt.data.words import Documents, Ids
from prealign_cpt.run.errors import DataError

DOCUMENTS_AT_ONCE = 256
"""Documents per call of the tokenizer, which works on them in parallel."""


@dataclass(frozen=True)
class Packed:
    """What `pack` has written.

    Args:
        documents, tokens: all that were given; the start tokens count.
        length: tokens per row.
        words, chosen, switched: sums of those of the pieces.
        words_R, switched_R: int64 [R], words that begin in each row, and those of them that were replaced.
    """

    documents: int
    tokens: int
    length: int
    words: int
    chosen: int
    switched: int
    words_R: NDArray[np.int64]  # noqa: N815
    switched_R: NDArray[np.int64]  # noqa: N815

    @property
    def sequences(self) -> int:
        """How many rows there are."""
        return len(self.words_R)

    @property
    def counts(self) -> dict[str, float]:
        """For a report. `dropped_tokens` is the rest that fills no row; `fill` is tokens used / places in the rows."""
        capacity = self.sequences * self.length
        dropped = self.tokens - capacity
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "sequences": self.sequences,
            "dropped_tokens": dropped,
            "fill": (self.tokens - dropped) / capacity,
        }


def pack(pieces: Iterable[Switched], length: int, out: Path, with_labels: bool = False) -> Packed:
    """Write `out.inputs.npy`, and `out.labels.npy` if asked.

    Args:
        pieces: documents in order, some at a time.
        length: tokens per row.
        out: path without suffix.

    Raises:
        DataError: the text does not fill one row.
    """
    writer = _Writer(out, length, with_labels)
    documents = tokens = words = chosen = switched = 0
    for piece in pieces:
        writer.add(piece)
        documents += len(piece.borders) - 1
        tokens += len(piece.inputs)
        words += piece.words
        chosen += piece.chosen
        switched += piece.switched
    words_R, switched_R = writer.close()
    if not len(words_R):
        raise DataError(
            f"{out.name}: {tokens} tokens do not fill one sequence of {length}; "
            "give more text or lower data.sequence_length"
        )
    return Packed(documents, tokens, length, words, chosen, switched, words_R, switched_R)


def encode(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[Ids]:
    """Token ids of each document, int32. Text that looks like a special token is ordinary text."""
    for batch in _batches(documents, tokenizer):
        yield from (np.array(ids, dtype=np.int32) for ids in batch)


def encode_many(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, start_id: int, end_id: int | None = None
) -> Iterator[Documents]:
    """Token ids of some documents at a time, `start_id` before each and `end_id`, if there is one, behind it."""
    end = [] if end_id is None else [end_id]
    for batch in _batches(documents, tokenizer):
        framed = [[start_id, *ids, *end] for ids in batch]
        borders = np.cumsum([0, *map(len, framed)])
        yield Documents(np.fromiter(chain.from_iterable(framed), np.int32, borders[-1]), borders)


def _batches(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[list[int]]]:
    waiting = iter(documents)
    while batch := list(islice(waiting, DOCUMENTS_AT_ONCE)):
        yield tokenizer(batch, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


class _Writer:
    """Collects tokens and appends full rows to raw files; the `.npy` files are made when the count is known."""

    def __init__(self, out: Path, length: int, with_labels: bool) -> None:
        self._names = ("inputs", "labels") if with_labels else ("inputs",)
        self._out, self._length, self._rows = out, length, 0
        self._files = {name: self._path(name, "raw").open("wb") for name in self._names}
        self._rest: list[Switched] = []
        self._waiting = 0
        self._marks = [np.empty((2, 0), dtype=np.int64)]

    def add(self, piece: Switched) -> None:
        self._rest.append(piece)
        self._waiting += len(piece.inputs)
        if self._waiting >= 1024 * self._length:
            self._write()

    def close(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Words and switched words of each row."""
        self._write()
        for name, file in self._files.items():
            file.close()
            raw = self._path(name, "raw")
            if self._rows:
                shape = (self._rows, self._length)
                target = np.lib.format.open_memmap(self._path(name, "npy"), "w+", np.int32, shape)
                target[:] = np.memmap(raw, np.int32, "r", shape=shape)
                target.flush()
            raw.unlink()
        words, switched = np.concatenate(self._marks, axis=1)
        return words, switched

    def _write(self) -> None:
        rows = self._waiting // self._length
        whole = rows * self._length
        if not rows:
            return
        inputs = np.concatenate([piece.inputs for piece in self._rest])
        labels = np.concatenate([piece.labels for piece in self._rest])
        marks = np.concatenate([piece.marks for piece in self._rest])
        for name, file in self._files.items():
            (inputs if name == "inputs" else labels)[:whole].tofile(file)
        of_rows = marks[:whole].reshape(rows, self._length)
        self._marks.append(np.stack([(of_rows > 0).sum(1), (of_rows == 2).sum(1)]))
        end = np.array([0, len(inputs) - whole])
        self._rest = [Switched(inputs[whole:], labels[whole:], end, marks[whole:])]
        self._waiting -= whole
        self._rows += rows

    def _path(self, name: str, suffix: str) -> Path:
        return self._out.with_name(f"{self._out.name}.{name}.{suffix}")
